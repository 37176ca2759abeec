// The potential in a rectangular conducting pipe: its modes one by one, walls, threads.
#include <doctest/doctest.h>

#include <array>
#include <cmath>

#include "fields/pipe.h"
#include "numerics/constants.h"

using namespace betatron::fields;

namespace {

constexpr double pi = betatron::numerics::constants::pi;
constexpr std::size_t nx = 20, ny = 12, nz = 17, wall = pipe_margin;

double mode(std::size_t m, std::size_t n, std::size_t i, std::size_t j) {
  return std::sin(pi * static_cast<double>(m * i) / nx) *
         std::sin(pi * static_cast<double>(n * j) / ny);
}

}  // namespace

TEST_CASE_TEMPLATE("a mode of charge has the potential of its exponential", F, float, double) {
  const cell edges{2e-3, 1.5, 0.7};
  const double hx = 2e-3, hy = 3e-3, hz = 1.4e-3, width = hx * nx, height = hy * ny;
  pipe_solver<F> solver({nx + 2 * wall + 1, ny + 2 * wall + 1, nz});
  CHECK(solver.set_cells(edges));
  CHECK(!solver.set_cells(edges));
  CHECK(solver.unit() == hx);
  for (const auto& [m, n] : {std::array<std::size_t, 2>{1, 1}, {3, 2}, {19, 11}, {7, 1}}) {
    grid<F> mesh({nx + 2 * wall + 1, ny + 2 * wall + 1, nz});
    mesh.clear(1);
    const std::size_t centre = 5;
    for (std::size_t j = 1; j < ny; ++j) {
      for (std::size_t i = 1; i < nx; ++i) {
        mesh.at(i + wall, j + wall, centre) = static_cast<F>(mode(m, n, i, j));
      }
    }
    grid<F> again = mesh.copy();
    solver.solve(mesh, 1);
    solver.solve(again, 3);
    const double k =
        pi * std::hypot(static_cast<double>(m) / width, static_cast<double>(n) / height);
    const double amplitude = nx * ny / 4.0 * 16 * pi / (width * height) * hx;
    const double top = amplitude * (1 - std::exp(-k * hz / 2)) / (k * k * hz);
    const double tolerance = (sizeof(F) == 4 ? 3e-6 : 1e-14) * top;
    for (std::size_t z = 0; z < nz; ++z) {
      const double d = std::fabs(static_cast<double>(z) - centre) * hz;
      const double along = z == centre ? top
                                       : amplitude * std::exp(-k * (d - hz / 2)) *
                                             (1 - std::exp(-k * hz)) / (2 * k * k * hz);
      for (std::size_t j = 0; j <= ny; ++j) {
        for (std::size_t i = 0; i <= nx; ++i) {
          const F found = mesh.at(i + wall, j + wall, z);
          REQUIRE(std::fabs(static_cast<double>(found) - along * mode(m, n, i, j)) <= tolerance);
          REQUIRE(found == again.at(i + wall, j + wall, z));
        }
      }
      // odd beyond the walls
      REQUIRE(mesh.at(wall - 2, wall + 5, z) == -mesh.at(wall + 2, wall + 5, z));
      REQUIRE(mesh.at(wall + 4, wall + ny + 3, z) == -mesh.at(wall + 4, wall + ny - 3, z));
    }
  }
}

TEST_CASE("charge beyond a wall is that of an image inside, and none on a wall counts") {
  pipe_solver<double> solver({nx + 2 * wall + 1, ny + 2 * wall + 1, nz});
  solver.set_cells({1, 1, 1});
  grid<double> outside({nx + 2 * wall + 1, ny + 2 * wall + 1, nz});
  outside.clear(1);
  grid<double> inside = outside.copy();
  outside.at(wall - 1, wall + ny + 2, 4) = 1;  // two walls away: the sign comes back
  outside.at(wall + nx, wall + 3, 4) = 5;
  outside.at(wall + nx + 3, wall + 3, 9) = 2;
  inside.at(wall + 1, wall + ny - 2, 4) = 1;
  inside.at(wall + nx - 3, wall + 3, 9) = -2;
  solver.solve(outside, 1);
  solver.solve(inside, 1);
  for (std::size_t z = 0; z < nz; ++z) {
    for (std::size_t y = 0; y < ny + 2 * wall + 1; ++y) {
      for (std::size_t x = 0; x < nx + 2 * wall + 1; ++x) {
        REQUIRE(outside.at(x, y, z) == doctest::Approx(inside.at(x, y, z)).epsilon(1e-12));
      }
    }
  }
}

TEST_CASE("a line of charge in a pipe obeys Poisson's equation between the walls") {
  pipe_solver_2d solver({nx + 2 * wall + 1, ny + 2 * wall + 1});
  const double h = 1e-3;
  solver.set_cells({h, h});
  grid<double> mesh({nx + 2 * wall + 1, ny + 2 * wall + 1, 2});
  mesh.clear(1);
  // the lowest mode: -grad^2 u = 2 pi rho
  for (std::size_t j = 1; j < ny; ++j) {
    for (std::size_t i = 1; i < nx; ++i) mesh.at(i + wall, j + wall, 0) = h * h * mode(1, 1, i, j);
  }
  solver.solve(mesh);
  const double k = pi * std::hypot(1 / (h * nx), 1 / (h * ny));
  for (std::size_t j = 0; j <= ny; ++j) {
    for (std::size_t i = 0; i <= nx; ++i) {
      CHECK(mesh.at(i + wall, j + wall, 0) ==
            doctest::Approx(2 * pi / (k * k) * mode(1, 1, i, j)).epsilon(1e-12));
    }
  }
}
