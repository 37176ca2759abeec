// The potential in a round conducting pipe: the wall's functions against closed series, symmetry, walls, threads.
#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <vector>

#include "fields/cylinder.h"
#include "fields/round_pipe.h"
#include "numerics/constants.h"
#include "numerics/random.h"

using namespace betatron::fields;

namespace {

constexpr double pi = betatron::numerics::constants::pi;

/// J_0(x) and J_1(x): (1/pi) int cos(m a - x sin a) da.
double bessel_j(int m, double x) {
  constexpr int n = 64;
  double sum = 0;
  for (int i = 0; i < n; ++i)
    sum += std::cos(m * pi * (i + 0.5) / n - x * std::sin(pi * (i + 0.5) / n));
  return sum / n;
}

/// W_m at two radii, as the solver takes it from the tables.
double wall_value(const cylinder_wall& w, std::size_t m, double r, double s, std::size_t j) {
  const std::size_t n = w.rank[m];
  const auto functions = [&](double radius) {
    std::vector<double> u(n);
    const double place = w.place(radius);
    const auto first = static_cast<std::size_t>(place);
    const polar_weights weights(place - static_cast<double>(first));
    for (std::size_t i = 0; i < polar_points; ++i) {
      for (std::size_t p = 0; p < n; ++p) {
        u[p] += weights.value[i] * w.u[m][(first - 2 + i) * n + p];
      }
    }
    return u;
  };
  const std::vector<double> a = functions(r), b = functions(s);
  double sum = 0;
  for (std::size_t p = 0; p < n; ++p) {
    for (std::size_t q = 0; q < n; ++q) {
      const std::size_t pair = p > q ? p * (p + 1) / 2 + q : q * (q + 1) / 2 + p;
      sum += a[p] * w.w[m][pair * w.planes + j] * b[q];
    }
  }
  return sum;
}

}  // namespace

TEST_CASE("weights of a polynomial through six points, and their slopes") {
  for (double u : {0.0, 0.3, 1.0}) {
    const polar_weights w(u);
    for (int power = 0; power < 6; ++power) {
      double value = 0, slope = 0;
      for (int i = 0; i < 6; ++i) {
        value += w.value[i] * std::pow(i - 2, power);
        slope += w.slope[i] * std::pow(i - 2, power);
      }
      CHECK(value == doctest::Approx(std::pow(u, power)));
      CHECK(slope == doctest::Approx(power == 0 ? 0 : power * std::pow(u, power - 1)));
    }
  }
}

TEST_CASE("the wall takes from 1/r what the Fourier-Bessel series of a cylinder has not") {
  // m = 0: int 1/|r - r'| over the angle, less 2 sum J_0(x r) J_0(x r') exp(-x z)/(x J_1(x)^2), J_0(x) = 0
  constexpr std::array<double, 6> zeros = {2.404825557695773, 5.520078110286311, 8.653727912911013,
                                           11.79153443901428, 14.93091770848778, 18.07106396791092};
  for (double reach : {0.01, 0.4, 0.8, 1.0}) {
    for (double step : {0.004, 0.05, 3.0}) {
      const cylinder_wall w(reach, std::min(reach, 0.5) / 16, step, 300, 1);
      for (std::size_t j : {1u, 20u, 299u}) {
        const double z1 = (static_cast<double>(j) - 0.5) * step, z2 = z1 + step;
        if (z1 < 0.9) continue;  // modes enough for that
        for (const auto& [r, s] : {std::array<double, 2>{0, 0}, {0.9, 0.3}, {1, 0.7}}) {
          constexpr int n = 64;
          double free = 0, modes = 0;
          for (int i = 0; i < n; ++i) {
            const double d =
                reach * std::sqrt(r * r + s * s - 2 * r * s * std::cos(2 * pi * i / n));
            free += d > 0 ? (std::asinh(z2 / d) - std::asinh(z1 / d)) / n : std::log(z2 / z1) / n;
          }
          for (double x : zeros) {
            const double j1 = bessel_j(1, x);
            modes += 2 * bessel_j(0, x * reach * r) * bessel_j(0, x * reach * s) /
                     (x * x * j1 * j1) * (std::exp(-x * z1) - std::exp(-x * z2));
          }
          CAPTURE(reach);
          CAPTURE(z1);
          CHECK(wall_value(w, 0, reach * r, reach * s, j) ==
                doctest::Approx((free - modes) / step).epsilon(3e-5));
        }
      }
    }
  }
}

TEST_CASE("round wall: charges act alike on each other, on any number of threads") {
  const std::array<std::size_t, 3> n = {20, 26, 30};
  const auto check = [&]<class F>(F, double radius) {
    const cell edges{1e-3, 0.8, 1.3};
    round_pipe_solver<F> solver(n);
    CHECK(solver.set_cells(edges, {-9e-3, -11e-3}, radius, 2));
    CHECK(!solver.set_cells(edges, {-9e-3, -11e-3}, radius, 1));
    grid<F> a(n), b(n);
    a.clear(1);
    b.clear(1);
    for (std::size_t i = 0; i < 60; ++i) {
      grid<F>& here = i < 30 ? a : b;
      const auto random = [&](std::size_t k) { return betatron::numerics::uniform(7, k, i); };
      const auto at = [&](std::size_t axis) {
        return static_cast<std::size_t>(random(axis) * static_cast<double>(n[axis]));
      };
      here.at(at(0), at(1), at(2)) = static_cast<F>(random(3));
    }
    grid<F> of_a = a.copy(), of_b = b.copy(), again = a.copy();
    solver.solve(of_a, 1);
    solver.solve(of_b, 2);
    solver.solve(again, 3);
    double ab = 0, ba = 0, size = 0;
    for (std::size_t z = 0; z < n[2]; ++z) {
      for (std::size_t y = 0; y < n[1]; ++y) {
        for (std::size_t x = 0; x < n[0]; ++x) {
          REQUIRE(of_a.at(x, y, z) == again.at(x, y, z));
          ab += static_cast<double>(a.at(x, y, z)) * static_cast<double>(of_b.at(x, y, z));
          ba += static_cast<double>(b.at(x, y, z)) * static_cast<double>(of_a.at(x, y, z));
          size += std::fabs(static_cast<double>(b.at(x, y, z) * of_a.at(x, y, z)));
        }
      }
    }
    CHECK(std::fabs(ab - ba) <= (sizeof(F) == 4 ? 1e-5 : 1e-13) * size);
  };
  for (double radius : {8e-3, 15e-3, 1.0}) {
    check(0.0, radius);
    check(0.0f, radius);
  }
}

TEST_CASE("a wall far away takes the potential of the whole charge in its middle") {
  const std::array<std::size_t, 3> n = {12, 12, 12};
  grid<double> mesh(n);
  mesh.clear(1);
  mesh.at(5, 6, 4) = 2;
  grid<double> open = mesh.copy();
  open_solver<double> free(n);
  free.set_cells({1e-3, 1, 1}, 1);
  free.solve(open, 1);
  round_pipe_solver<double> solver(n);
  solver.set_cells({1e-3, 1, 1}, {-5.5e-3, -5.5e-3}, 10, 1);
  solver.solve(mesh, 1);
  // 2/pi int K_0/I_0 dk = 0.870690...
  for (std::size_t i : {0u, 5u, 11u}) {
    const double wall = (open.at(i, 3, i) - mesh.at(i, 3, i)) / solver.unit();
    CHECK(wall == doctest::Approx(2 * 0.0870690).epsilon(1e-4));
  }
}

TEST_CASE("memory of a round pipe is that of free space and more") {
  const std::array<std::size_t, 3> n = {64, 64, 64};
  CHECK(round_pipe_solver<double>::memory(n) > open_solver<double>::memory(n));
  CHECK(round_pipe_solver<float>::memory(n) < round_pipe_solver<double>::memory(n));
}
