// Space charge of long beams on a grid: uniform and Gaussian beams against closed forms, convergence, conservation,
// threads, precisions, undoing, beams without extent.
#include "collective/space_charge_2d.h"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <stdexcept>

#include "beams.h"
#include "collective/space_charge_gaussian.h"
#include "collective/strength.h"
#include "fields/gaussian.h"

namespace {

using namespace betatron;
using namespace beams;
using collective::plane_model;
using collective::space_charge_2d;
using collective::space_charge_2d_options;

/// A round uniform beam of radius r.
beam::bunch disc(const beam::reference& ref, std::size_t n, double r) {
  beam::bunch b(ref, n);
  b.visit([&]<class F>(const beam::columns<F>& c) {
    for (std::size_t i = 0; i < n; ++i) {
      // as even as can be: a sunflower
      const double a = 2.399963229728653 * static_cast<double>(i);
      const double q = r * std::sqrt((static_cast<double>(i) + 0.5) / static_cast<double>(n));
      c.z[0][i] = static_cast<F>(q * std::cos(a));
      c.z[2][i] = static_cast<F>(q * std::sin(a));
    }
  });
  return b;
}

double perveance(const beam::reference& ref, double current) {
  const double bg = ref.beta_gamma();
  return 2 * collective::density_of_current(current, ref.particle) *
         collective::classical_radius(ref.particle) / (bg * bg * bg);
}

}  // namespace

TEST_CASE("2D: a uniform beam gets a linear kick K L x/R^2") {
  const beam::reference ref = proton(250e6);
  const double r = 1e-3, length = 2, current = 0.15, k = perveance(ref, current);
  for (const int shape : {1, 2, 3}) {
    space_charge_2d solver({.cells = {96, 96}, .shape = shape, .current = current});
    beam::bunch b = disc(ref, 400000, r);
    solver.kick(b, length, 2);
    double square = 0;
    std::size_t inside = 0;
    for (std::size_t i = 0; i < b.size(); ++i) {
      const double x = coordinate(b, 0, i), y = coordinate(b, 2, i);
      const double d = coordinate(b, 1, i) / (k * length) * r - x / r;
      if (x * x + y * y < 0.9 * r * r) {
        square += d * d;
        ++inside;
      }
    }
    CHECK(std::sqrt(square / static_cast<double>(inside)) < 0.006);
  }
}

TEST_CASE("2D: forces add up to zero; the sign of charge and current does not matter") {
  const beam::reference ref = proton(1e6);
  for (const int shape : {1, 2, 3}) {
    space_charge_2d solver({.cells = {40, 70}, .shape = shape, .margin = 1.5, .current = 0.1});
    beam::bunch b = gaussian(ref, 3000, 1e-9, {1e-3, 0, 4e-3, 0, 0, 0});
    b.visit([](const auto& c) {
      for (std::size_t i = 0; i < c.size; ++i) {
        c.weight[i] *= static_cast<std::decay_t<decltype(c.weight[i])>>(1 + i % 7);
        c.z[0][i] += static_cast<std::decay_t<decltype(c.weight[i])>>(2e-3);
      }
    });
    beam::bunch other = b;
    solver.kick(b, 1, 1);
    for (const std::size_t k : {1u, 3u}) {
      CHECK(largest(b, k) > 0);
      CHECK(std::fabs(total(b, k)) < 1e-12 * largest(b, k) * b.moments().weight);
    }
    space_charge_2d negative({.cells = {40, 70}, .shape = shape, .margin = 1.5, .current = -0.1});
    negative.kick(other, 1, 1);
    CHECK(coordinate(other, 1, 17) == coordinate(b, 1, 17));
  }
}

TEST_CASE("2D: convergence to the field of a Gaussian beam") {
  const beam::reference ref = proton(1e6);
  const double current = 0.1, k = perveance(ref, current), a = 1e-3, b = 2.5e-3;
  // a smooth sample: inverse of the distribution on a lattice of ranks
  constexpr std::size_t side = 700;
  beam::bunch start(ref, side * side);
  std::vector<double> q(side);
  for (std::size_t i = 0; i < side; ++i) {
    // bisection of erf
    double low = -9, high = 9;
    const double rank = (static_cast<double>(i) + 0.5) / side * 2 - 1;
    for (int n = 0; n < 60; ++n) {
      const double middle = (low + high) / 2;
      (std::erf(middle / std::sqrt(2.0)) < rank ? low : high) = middle;
    }
    q[i] = low;
  }
  start.visit([&]<class F>(const beam::columns<F>& c) {
    for (std::size_t i = 0; i < c.size; ++i) {
      c.z[0][i] = static_cast<F>(a * q[i % side]);
      c.z[2][i] = static_cast<F>(b * q[i / side]);
    }
  });
  std::vector<double> x(start.size()), y(start.size()), ex(start.size()), ey(start.size());
  for (std::size_t i = 0; i < x.size(); ++i) {
    x[i] = coordinate(start, 0, i);
    y[i] = coordinate(start, 2, i);
  }
  fields::field_of(fields::gaussian_2d{a, b}, x.data(), y.data(), ex.data(), ey.data(), x.size());
  double error[2];
  for (const std::size_t n : {32u, 64u}) {
    beam::bunch kicked = start;
    space_charge_2d({.cells = {n, n}, .current = current}).kick(kicked, 1, 2);
    double square = 0, size = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double d = coordinate(kicked, 1, i) / k - ex[i];
      square += d * d;
      size += ex[i] * ex[i];
    }
    error[n / 64] = std::sqrt(square / size);
  }
  CHECK(error[1] < 0.01);
  CHECK(error[0] / error[1] > 3);  // of second order
}

TEST_CASE("2.5D: a long Gaussian bunch, against the model without a grid") {
  const beam::reference ref = proton(1e9);
  beam::bunch start = gaussian(ref, 400000, 1e-9, {1e-3, 0, 2e-3, 0, 1.0, 0});
  beam::bunch grid = start, exact = start;
  space_charge_2d({.model = plane_model::slices, .cells = {64, 64}, .density = {.bins = 30}})
      .kick(grid, 1, 2);
  collective::kick({.model = collective::gaussian_model::gauss_2p5d, .density = {.bins = 30}},
                   exact, 1, 2);
  for (const std::size_t k : {1u, 3u, 5u}) {
    double square = 0, size = 0;
    for (std::size_t i = 0; i < grid.size(); ++i) {
      const double d = coordinate(grid, k, i) - coordinate(exact, k, i);
      square += d * d;
      size += coordinate(exact, k, i) * coordinate(exact, k, i);
    }
    CHECK(std::sqrt(square / size) < (k == 5 ? 0.005 : 0.02));
  }
  // without the longitudinal kick, and with another scale
  beam::bunch flat = start;
  space_charge_2d({.model = plane_model::slices, .density = {.bins = 30}, .longitudinal = false})
      .kick(flat, 1, 1);
  CHECK(largest(flat, 5) == 0);
  CHECK(coordinate(flat, 1, 3) == coordinate(grid, 1, 3));
}

TEST_CASE("grid models: any number of threads, both precisions, undone") {
  const beam::reference ref = proton(50e6);
  const std::array<double, 6> sigma = {1e-3, 1e-3, 2e-3, 1e-3, 0.5, 1e-3};
  for (const auto which : {plane_model::beam, plane_model::slices}) {
    space_charge_2d solver({.model = which, .current = 0.3});
    beam::bunch one = gaussian(ref, 200001, 1e-9, sigma), many = one, start = one;
    solver.kick(one, 0.5, 1);
    solver.kick(many, 0.5, 5);
    bool same = true;
    for (const std::size_t k : {1u, 3u, 5u}) {
      for (std::size_t i = 0; i < one.size(); ++i) {
        same = same && coordinate(one, k, i) == coordinate(many, k, i);
      }
    }
    CHECK(same);
    beam::bunch single = gaussian(ref, 200001, 1e-9, sigma, beam::precision::single);
    solver.kick(single, 0.5, 1);
    for (const std::size_t k : {1u, 3u, 5u}) {
      CHECK(std::fabs(coordinate(single, k, 77) - coordinate(one, k, 77)) < 3e-6 * largest(one, k));
    }
    solver.kick(one, -0.5, 3);
    for (const std::size_t k : {1u, 3u, 5u}) {
      for (const std::size_t i : {0u, 1u, 200000u}) {
        CHECK(std::fabs(coordinate(one, k, i) - coordinate(start, k, i)) < 1e-15);
      }
    }
  }
}

TEST_CASE("grid models: beams without extent, test particles, what is refused") {
  const beam::reference ref = proton(1e9);
  space_charge_2d beam({.current = 1.0}), slices({.model = plane_model::slices});
  for (const std::size_t n : {0u, 1u}) {
    beam::bunch few = gaussian(ref, n, 1e-9, {1, 0, 1, 0, 1, 0});
    beam.kick(few, 1, 1);
    slices.kick(few, 1, 1);
    CHECK(largest(few, 1) == 0);
  }
  beam::bunch point(ref, 10);
  beam.kick(point, 1, 1);
  CHECK(largest(point, 1) == 0);
  CHECK_THROWS_WITH_AS(slices.kick(point, 1, 1), doctest::Contains("length"),
                       std::invalid_argument);
  // a sheet: the field across it is finite, along it that of a line
  beam::bunch sheet = gaussian(ref, 1000, 1e-9, {1e-3, 0, 0, 0, 1, 0});
  beam.kick(sheet, 1, 1);
  slices.kick(sheet, 1, 1);
  CHECK(std::isfinite(largest(sheet, 1)));
  CHECK(largest(sheet, 1) > 0);
  CHECK(largest(sheet, 3) < 1e-4 * largest(sheet, 1));
  // weight 0: kicked, without acting
  beam::bunch test = disc(ref, 100000, 1e-3), without = test;
  test.visit([](const auto& c) {
    c.z[0][5] = 0;
    c.z[2][5] = 0;
    c.weight[5] = 0;
  });
  beam.kick(test, 1, 1);
  beam.kick(without, 1, 1);
  CHECK(std::fabs(coordinate(test, 1, 5)) < 1e-3 * largest(test, 1));
  CHECK(std::fabs(coordinate(test, 1, 999) - coordinate(without, 1, 999)) <
        1e-4 * largest(test, 1));

  beam::bunch wrong = gaussian(ref, 10, 1e-9, {1, 0, 1, 0, 1, 0});
  wrong.visit([](const auto& c) {
    c.z[0][3] = std::numeric_limits<std::decay_t<decltype(c.z[0][3])>>::quiet_NaN();
  });
  CHECK_THROWS_AS(beam.kick(wrong, 1, 1), std::invalid_argument);
  using options = space_charge_2d_options;
  for (const options& o :
       {options{}, options{.cells = {4, 64}, .current = 1.0}, options{.shape = 4, .current = 1.0},
        options{.margin = 0.5, .current = 1.0}, options{.current = std::nan("")},
        options{.model = plane_model::slices, .density = {.bins = 1}},
        options{.model = plane_model::slices, .scale = 0.0}}) {
    CHECK_THROWS_AS(space_charge_2d{o}, std::invalid_argument);
  }
}
