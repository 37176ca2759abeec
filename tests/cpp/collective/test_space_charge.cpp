// Space charge in three dimensions: known fields, conservation, scaling, species, precision, threads, corners.
#include "collective/space_charge.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "elements/kinds.h"
#include "lattice/line.h"
#include "numerics/constants.h"
#include "tracking/track.h"

namespace {

using namespace betatron;
using beam::precision;
using collective::space_charge_3d;
using collective::space_charge_3d_options;

constexpr double volt_metre =
    numerics::constants::elementary_charge /
    (4 * numerics::constants::pi * numerics::constants::vacuum_permittivity);

beam::reference reference(const char* species, double beta_gamma) {
  return beam::reference::from_beta_gamma(beam::make_species(species), beta_gamma);
}

/// Sizes in x, y and z of the rest frame; cold.
beam::bunch cold(const beam::reference& ref, beam::shape kind, std::array<double, 3> sigma,
                 std::size_t n, precision p = precision::double_) {
  sigma[2] /= ref.beta_gamma();
  std::array<beam::ellipse_parameters, 3> planes;
  for (std::size_t i = 0; i < 3; ++i) planes[i].lambda_q = sigma[i];
  return beam::bunch::sample(ref, beam::distribution::from_ellipse(kind, planes), n, 3, p);
}

/// Momenta px, py, pt per metre that a kick gives.
template <class F = double>
std::array<std::vector<double>, 3> kicks(const beam::bunch& b, const space_charge_3d_options& o,
                                         unsigned threads = 1) {
  beam::bunch copy = b;
  copy.visit([](const auto& c) {
    for (std::size_t axis : {1u, 3u, 5u}) std::fill_n(c.z[axis], c.size, 0);
  });
  space_charge_3d solver(o);
  tracking::kick_place place;
  place.ref = b.ref;
  place.length = 1;
  place.threads = threads;
  solver.kick(copy, place);
  std::array<std::vector<double>, 3> result;
  copy.visit([&](const auto& c) {
    for (std::size_t axis = 0; axis < 3; ++axis) {
      result[axis].assign(c.z[2 * axis + 1], c.z[2 * axis + 1] + c.size);
    }
  });
  return result;
}

double coordinate(const beam::bunch& b, std::size_t axis, std::size_t i) {
  return b.visit([&](const auto& c) { return static_cast<double>(c.z[axis][i]); });
}

/// The slope of a linear force, and the rms of what is not linear over that of the force.
std::array<double, 2> linear_fit(const beam::bunch& b, std::size_t axis,
                                 const std::vector<double>& kick) {
  double xx = 0, xy = 0, yy = 0;
  for (std::size_t i = 0; i < kick.size(); ++i) {
    const double x = coordinate(b, 2 * axis, i);
    xx += x * x;
    xy += x * kick[i];
    yy += kick[i] * kick[i];
  }
  return {xy / xx, std::sqrt(std::max(0.0, 1 - xy * xy / (xx * yy)))};
}

/// R_D-like depolarisation integrals of a uniform ellipsoid with semi-axes a: E_i = 3 Q/(4 pi eps0) I_i x_i,
/// I_i = 1/2 int_0^inf ds/((a_i^2 + s) sqrt(prod (a_j^2 + s))). O. D. Kellogg, Foundations of Potential Theory, VII.6.
double ellipsoid_integral(const std::array<double, 3>& a, std::size_t i) {
  // s = exp(u): smooth, with exponential tails: the trapezoidal rule converges exponentially
  double sum = 0;
  const double h = 0.01;
  for (double u = -80; u < 80; u += h) {
    const double s = std::exp(u);
    double product = 1;
    for (double axis : a) product *= axis * axis + s;
    sum += s / ((a[i] * a[i] + s) * std::sqrt(product));
  }
  return sum * h / 2;
}

}  // namespace

TEST_CASE("a uniform ellipsoid has a linear force, at any energy, for any species") {
  struct setting {
    const char* species;
    double beta_gamma;
    std::array<double, 3> sigma;
  };
  for (const setting& s : {setting{"proton", 0.01, {1e-3, 1e-3, 1e-3}},
                           {"electron", 1e4, {1e-4, 2e-4, 3e-4}},
                           {"H-", 0.5, {1e-3, 2e-3, 5e-3}},
                           {"positron", 20, {1e-4, 1e-4, 1e-2}}}) {
    const beam::reference ref = reference(s.species, s.beta_gamma);
    beam::bunch b = cold(ref, beam::shape::kurth6d, s.sigma, 100000);
    b.set_charge(1e-10);
    space_charge_3d_options o;
    o.cells = {48, 48, 48};
    const auto kick = kicks(b, o);
    const std::array<double, 3> a = {s.sigma[0] * std::sqrt(5.0), s.sigma[1] * std::sqrt(5.0),
                                     s.sigma[2] * std::sqrt(5.0)};
    const double number = 1e-10 / numerics::constants::elementary_charge;
    const double bg = s.beta_gamma, mass = ref.particle.mass_eV;
    for (std::size_t axis = 0; axis < 3; ++axis) {
      const double field = 3 * volt_metre * number * ellipsoid_integral(a, axis);  // V/m per m
      // pt falls where z' = -beta gamma t grows
      const double k = axis < 2 ? field / (bg * bg * mass) : field * bg / (bg * mass);
      CAPTURE(ref.particle.name);
      CAPTURE(axis);
      const auto [slope, rest] = linear_fit(b, axis, kick[axis]);
      CHECK(slope == doctest::Approx(k).epsilon(0.015));
      CHECK(rest < 0.1);  // from single particles: 1 in a cell
    }
  }
}

TEST_CASE("the sum of forces is zero, to rounding") {
  for (const precision p : {precision::double_, precision::single}) {
    for (int shape : {1, 2, 3}) {
      const beam::reference ref = reference("proton", 0.3);
      beam::bunch b = cold(ref, beam::shape::gaussian, {1e-3, 2e-3, 3e-3}, 20000, p);
      b.visit([](const auto& c) {  // of unequal weights
        for (std::size_t i = 0; i < c.size; ++i) {
          c.weight[i] =
              static_cast<std::decay_t<decltype(*c.weight)>>(1e5 * static_cast<double>(1 + i % 7));
        }
      });
      space_charge_3d_options o;
      o.cells = {32, 24, 20};
      o.shape = shape;
      const auto kick = kicks(b, o);
      for (std::size_t axis = 0; axis < 3; ++axis) {
        double sum = 0, size = 0;
        for (std::size_t i = 0; i < kick[axis].size(); ++i) {
          const double w = 1e5 * (1 + static_cast<double>(i % 7));
          sum += w * kick[axis][i];
          size += w * std::fabs(kick[axis][i]);
        }
        CHECK(size > 0);
        CHECK(std::fabs(sum) < (p == precision::single ? 1e-6 : 1e-14) * size);
      }
    }
  }
}

TEST_CASE("no particle acts on itself; two repel each other with Coulomb's force") {
  const beam::reference ref = reference("proton", 0.5);
  beam::bunch b(ref, 2);
  b.visit([]<class F>(const beam::columns<F>& c) {
    c.z[0][1] = F(1e-3);
    c.z[2][1] = F(2e-3);
    c.weight[0] = F(1e6);
    c.weight[1] = F(3e6);
  });
  space_charge_3d_options o;
  o.cells = {64, 64, 64};
  const auto kick = kicks(b, o);
  const double r2 = 5e-6, field = volt_metre * 1e6 / r2;  // of the first on the second
  const double expected = field / (0.25 * ref.particle.mass_eV);
  CHECK(kick[0][1] == doctest::Approx(expected * 1 / std::sqrt(5.0)).epsilon(5e-3));
  CHECK(kick[1][1] == doctest::Approx(expected * 2 / std::sqrt(5.0)).epsilon(5e-3));
  CHECK(kick[2][1] == 0);
  CHECK(kick[0][0] == doctest::Approx(-3 * kick[0][1]).epsilon(1e-12));
}

TEST_CASE_TEMPLATE("the same bits on any number of threads", F, float, double) {
  const precision p = std::is_same_v<F, float> ? precision::single : precision::double_;
  const beam::bunch b =
      cold(reference("electron", 100), beam::shape::gaussian, {1e-4, 1e-4, 1e-2}, 100000, p);
  for (int shape : {1, 2, 3}) {
    space_charge_3d_options o;
    o.cells = {24, 32, 40};
    o.shape = shape;
    const auto one = kicks(b, o, 1);
    for (unsigned threads : {2u, 3u, 4u}) CHECK(kicks(b, o, threads) == one);
  }
}

TEST_CASE("single precision agrees with double") {
  const beam::reference ref = reference("electron", 200);
  for (const double length : {1e-3, 1.0}) {  // in the rest frame: aspect ratios 10 and 10000
    const beam::bunch b = cold(ref, beam::shape::gaussian, {1e-4, 1e-4, length}, 50000);
    const beam::bunch s =
        cold(ref, beam::shape::gaussian, {1e-4, 1e-4, length}, 50000, precision::single);
    const auto exact = kicks(b, {}), rounded = kicks(s, {});
    for (std::size_t axis = 0; axis < 3; ++axis) {
      double difference = 0, norm = 0;
      for (std::size_t i = 0; i < exact[axis].size(); ++i) {
        difference += std::pow(exact[axis][i] - rounded[axis][i], 2);
        norm += std::pow(exact[axis][i], 2);
      }
      CHECK(std::sqrt(difference / norm) < 3e-4);
    }
  }
}

TEST_CASE("kicks follow shifts, scales, charge and energy") {
  const beam::reference ref = reference("proton", 0.2);
  space_charge_3d_options o;
  o.cells = {32, 32, 32};
  o.grid_step = 0;
  const beam::bunch b = cold(ref, beam::shape::gaussian, {1e-3, 1e-3, 1e-3}, 5000);
  const auto plain = kicks(b, o);
  const auto compare = [&](const std::array<std::vector<double>, 3>& other, double factor,
                           double tolerance) {
    for (std::size_t axis = 0; axis < 3; ++axis) {
      double largest = 0, error = 0;
      for (std::size_t i = 0; i < plain[axis].size(); ++i) {
        largest = std::max(largest, std::fabs(plain[axis][i]));
        error = std::max(error, std::fabs(other[axis][i] / factor - plain[axis][i]));
      }
      CHECK(error < tolerance * largest);
    }
  };
  beam::bunch moved = b, larger = b, heavier = b, negative = b;
  moved.visit([]<class F>(const beam::columns<F>& c) {
    for (std::size_t i = 0; i < c.size; ++i) {
      c.z[0][i] += F(0.1);
      c.z[2][i] -= F(0.2);
      c.z[4][i] += F(0.3);
    }
  });
  compare(kicks(moved, o), 1, 1e-9);
  larger.visit([](const auto& c) {
    for (std::size_t i = 0; i < c.size; ++i) {
      for (std::size_t axis : {0u, 2u, 4u}) c.z[axis][i] *= 3;
    }
  });
  compare(kicks(larger, o), 1.0 / 9, 1e-9);
  heavier.visit([](const auto& c) {
    for (std::size_t i = 0; i < c.size; ++i) c.weight[i] *= 5;
  });
  compare(kicks(heavier, o), 5, 1e-9);
  negative.ref.particle.charge = -2;
  compare(kicks(negative, o), 4, 1e-9);  // like charges repel, whatever their sign
  o.grid_step = 0.05;
  compare(kicks(b, o), 1, 0.1);
}

TEST_CASE("the Green's function is reused while the grid stays, and made anew when not") {
  beam::bunch b = cold(reference("proton", 0.2), beam::shape::gaussian, {1e-3, 1e-3, 1e-3}, 1000);
  for (const double step : {0.05, 0.0}) {
    space_charge_3d_options o;
    o.cells = {16, 16, 16};
    o.grid_step = step;
    space_charge_3d solver(o);
    tracking::kick_place place;
    place.length = 1e-6;
    for (int i = 0; i < 5; ++i) {
      b.visit([]<class F>(const beam::columns<F>& c) {
        for (std::size_t k = 0; k < c.size; ++k) c.z[0][k] *= F(1.0005);
      });
      solver.kick(b, place);
    }
    CHECK(solver.times().kicks == 5);
    CHECK(solver.times().green_functions == (step > 0 ? 1 : 5));
  }
}

TEST_CASE("degenerate beams") {
  const beam::reference ref = reference("electron", 10);
  space_charge_3d_options o;
  o.cells = {16, 16, 16};
  const auto all_finite = [](const auto& kick) {
    for (const auto& column : kick) {
      for (double v : column) {
        if (!std::isfinite(v)) return false;
      }
    }
    return true;
  };
  for (std::size_t n : {0u, 1u, 7u}) {  // nothing, one, all at one point
    const auto kick = kicks(beam::bunch(ref, n), o);
    for (const auto& column : kick) {
      for (double v : column) CHECK(v == 0);
    }
  }
  for (const auto& sigma : {std::array{1e-3, 0.0, 0.0}, {0.0, 1e-3, 1e-3}, {0.0, 0.0, 1e-3}}) {
    const beam::bunch b = cold(ref, beam::shape::gaussian, sigma, 1000);
    const auto kick = kicks(b, o);
    CHECK(all_finite(kick));
    for (std::size_t axis = 0; axis < 3; ++axis) {  // nothing pushes out of a line or a sheet
      double largest = 0;
      for (double v : kick[axis]) largest = std::max(largest, std::fabs(v));
      if (sigma[axis] == 0) CHECK(largest == 0);
      if (sigma[axis] != 0) CHECK(largest > 0);
    }
  }
  // far away compared with its size: nothing finer than the coordinates is resolved
  beam::bunch far = cold(ref, beam::shape::gaussian, {1e-9, 1e-9, 1e-9}, 1000, precision::single);
  far.visit([](const auto& c) {
    for (std::size_t i = 0; i < c.size; ++i) c.z[0][i] += 1;
  });
  CHECK(all_finite(kicks(far, o)));

  beam::bunch bad = cold(ref, beam::shape::gaussian, {1e-3, 1e-3, 1e-3}, 1000);
  for (const double value :
       {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    bad.visit(
        [&](const auto& c) { c.z[2][17] = static_cast<std::decay_t<decltype(*c.z[2])>>(value); });
    CHECK_THROWS_WITH_AS(kicks(bad, o), doctest::Contains("y[17]"), std::invalid_argument);
  }
}

TEST_CASE("options out of range and grids larger than memory are refused") {
  const auto message = [](auto change) -> std::string {
    space_charge_3d_options o;
    change(o);
    try {
      space_charge_3d solver(o);
      solver.check_memory(beam::bunch(reference("proton", 1), 100));
    } catch (const std::invalid_argument& error) {
      return error.what();
    }
    return "";
  };
  const auto has = [](const std::string& text, const char* part) {
    return text.find(part) != std::string::npos;
  };
  CHECK(message([](auto&) {}).empty());
  CHECK(has(message([](auto& o) { o.cells[1] = 7; }), "cells = 7 is not allowed; allowed: 8 to"));
  CHECK(has(message([](auto& o) { o.shape = 4; }), "shape = 4 is not allowed; allowed: 1, 2, 3"));
  CHECK(has(message([](auto& o) { o.margin = 0.5; }), "margin = 0.5"));
  CHECK(has(message([](auto& o) { o.grid_step = std::nan(""); }), "grid_step = nan"));
  CHECK(has(message([](auto& o) { o.cells = {4096, 4096, 4096}; }), "GB of memory; allowed:"));
  CHECK(has(message([](auto& o) { o.memory_limit = 1e6; }), "allowed: 0.001 GB"));
}

TEST_CASE("tracking: a cold ball doubles in size, and goes back") {
  // R'' = K/R^2 has R(L) = 2 R0 for L = sqrt(R0^3/(2 K)) (sqrt 2 + ln(1 + sqrt 2)); here K per gamma^2 of the lab
  const beam::reference ref =
      beam::reference::from_kinetic_energy(beam::make_species("electron"), 250e6);
  lattice::line drift;
  drift.elements.push_back(
      std::make_shared<lattice::element>(lattice::element{elements::drift{.length = 6}}));
  drift.elements[0]->slices = 20;
  for (int order : {1, 2}) {
    beam::bunch b =
        cold(ref, beam::shape::kurth6d, {4.472135955e-4, 4.472135955e-4, 4.472135955e-4}, 20000);
    b.set_charge(1e-9);
    const beam::moments before = b.moments();
    space_charge_3d_options o;
    o.cells = {32, 32, 32};
    o.order = order;
    tracking::track_options track;
    track.collective = {effect_of(std::make_shared<space_charge_3d>(o))};
    tracking::track(drift, b, track);
    const beam::moments after = b.moments();
    for (std::size_t axis : {0u, 2u, 4u}) {
      CHECK(std::sqrt(after.cov[7 * axis] / before.cov[7 * axis]) ==
            doctest::Approx(2).epsilon(order == 1 ? 0.03 : 0.006));
    }
    track.way = lattice::direction::backward;
    tracking::track(drift, b, track);
    const beam::moments back = b.moments();
    for (std::size_t axis : {0u, 2u, 4u}) {
      CHECK(back.cov[7 * axis] == doctest::Approx(before.cov[7 * axis]).epsilon(1e-9));
    }
  }
}
