// Fields of Gaussian beams: against adaptive integration in long double of the integrals that define them, in all
// regions of the formulas, for round, flat and long beams; symmetry, Gauss's law, far field.
#include "fields/gaussian.h"

#include <doctest/doctest.h>

#include <cmath>
#include <stdexcept>
#include <vector>

#include "numerics/random.h"

namespace {

using namespace betatron;
using numerics::normal;
using numerics::uniform;

/// Integral of f(u) over ln q = u, wide enough for sizes between 1e-4 and 1e4: a fine trapezoidal rule, exponentially
/// convergent (no substitution in common with the code).
template <class F>
long double over_log(F f) {
  const long double step = 0.02L;
  long double sum = 0;
  for (int k = -4500; k <= 4500; ++k) sum += f(std::exp(step * static_cast<long double>(k)));
  return step * sum;
}

struct vector2 {
  double x, y;
};

/// In units of lambda/(2 pi eps0): E_x = x int dq exp(...)/(Sx sqrt(Sx Sy)), S = 2 sigma^2 + q.
vector2 exact_2d(double a, double b, double x, double y) {
  const auto part = [&](bool along_x) {
    return over_log([&](long double q) {
      const long double sx = 2.0L * a * a + q, sy = 2.0L * b * b + q;
      return q * std::exp(-x * x / sx - y * y / sy) / ((along_x ? sx : sy) * std::sqrt(sx * sy));
    });
  };
  return {static_cast<double>(x * part(true)), static_cast<double>(y * part(false))};
}

}  // namespace

TEST_CASE("field of a two-dimensional Gaussian beam against its integral") {
  for (const double ratio :
       {1.0, 1 - 1e-15, 1 - 1e-9, 1 - 1e-4, 0.97, 0.7, 0.501, 0.499, 0.2, 0.03, 1e-3}) {
    for (const bool turned : {false, true}) {
      const double a = 3e-3, b = a * ratio;
      const fields::gaussian_2d beam{turned ? b : a, turned ? a : b};
      std::vector<double> x, y;
      for (std::uint64_t i = 0; i < 24; ++i) {
        const double reach = i % 3 == 0 ? 1e-3 : i % 3 == 1 ? 1 : 3;
        x.push_back(reach * beam.sigma_x * normal(2, 0, i));
        y.push_back(reach * beam.sigma_y * normal(2, 1, i));
      }
      x.push_back(20 * a), y.push_back(15 * a);
      std::vector<double> ex(x.size()), ey(x.size());
      fields::field_of(beam, x.data(), y.data(), ex.data(), ey.data(), x.size());
      const double largest = 1 / (beam.sigma_x + beam.sigma_y);
      for (std::size_t i = 0; i < x.size(); ++i) {
        CAPTURE(ratio);
        CAPTURE(x[i] / a);
        CAPTURE(y[i] / a);
        const vector2 exact = exact_2d(beam.sigma_x, beam.sigma_y, x[i], y[i]);
        const double tolerance = ratio < 0.1 ? 1e-12 : 1e-13;
        CHECK(std::fabs(ex[i] - exact.x) <= tolerance * largest);
        CHECK(std::fabs(ey[i] - exact.y) <= tolerance * largest);
        if (ratio > 0.5) {
          CHECK(std::fabs(ex[i] - exact.x) <= 1e-12 * std::fabs(exact.x));
          CHECK(std::fabs(ey[i] - exact.y) <= 1e-12 * std::fabs(exact.y));
        }
      }
    }
  }
}

TEST_CASE("field of a two-dimensional Gaussian beam: zero on axis, round limit, far away") {
  const double x[] = {0, 1e-3, -1e-3, 10}, y[] = {0, 0, 2e-3, -20};
  double ex[4], ey[4];
  fields::field_of({1e-3, 1e-3}, x, y, ex, ey, 4);
  CHECK(ex[0] == 0);
  CHECK(ey[0] == 0);
  CHECK(ex[1] == doctest::Approx(1e3 * -std::expm1(-0.5)).epsilon(1e-14));
  CHECK(ex[2] == doctest::Approx(-1e-3 / 5e-6 * -std::expm1(-2.5)).epsilon(1e-14));
  CHECK(ey[3] == doctest::Approx(-20.0 / 500).epsilon(1e-14));
}

TEST_CASE("field of a three-dimensional Gaussian bunch against its integral") {
  const double sizes[][3] = {{1, 1, 1},
                             {1, 1.2, 3},
                             {1, 1, 30},
                             {1, 0.1, 100},
                             {1, 1, 1000},
                             {1, 1, 0.01},
                             {1e-3, 1e-3, 1e3 * 1e-3}};
  for (const auto& s : sizes) {
    for (const double tolerance : {1e-5, 1e-8, 1e-12}) {
      const auto rule = fields::rule_3d(s[0], s[1], s[2], tolerance);
      CHECK(rule.size() < 300);
      std::vector<double> r[3], e[3];
      for (std::uint64_t i = 0; i < 11; ++i) {
        for (std::uint64_t c = 0; c < 3; ++c) {
          r[c].push_back((i % 2 ? 1.0 : 2.0) * s[c] * normal(3, c, i));
          e[c].push_back(0);
        }
      }
      fields::field_of(rule, r[0].data(), r[1].data(), r[2].data(), e[0].data(), e[1].data(),
                       e[2].data(), 11);
      double largest[3] = {};
      long double exact[3][11];
      for (std::size_t c = 0; c < 3; ++c) {
        for (std::size_t i = 0; i < 11; ++i) {
          exact[c][i] = over_log([&](long double q) {
            long double product = 1, exponent = 0, own = 1;
            for (std::size_t k = 0; k < 3; ++k) {
              const long double size = 2.0L * s[k] * s[k] + q;
              product *= size;
              exponent += r[k][i] * r[k][i] / size;
              if (k == c) own = size;
            }
            return q * std::exp(-exponent) / (own * std::sqrt(product));
          });
          exact[c][i] *= r[c][i] * 2 / std::sqrt(3.14159265358979323846L);
          largest[c] = std::fmax(largest[c], std::fabs(static_cast<double>(exact[c][i])));
        }
      }
      for (std::size_t c = 0; c < 3; ++c) {
        for (std::size_t i = 0; i < 11; ++i) {
          CAPTURE(s[2]);
          CAPTURE(tolerance);
          CHECK(std::fabs(e[c][i] - static_cast<double>(exact[c][i])) <=
                2 * tolerance * largest[c]);
        }
      }
    }
  }
}

TEST_CASE("a bunch of any shape is a point charge far away, a long one a line charge") {
  const auto rule = fields::rule_3d(1e-3, 2e-3, 3e-3, 1e-12);
  const double x = 3, y = -2, z = 6;
  double ex, ey, ez;
  fields::field_of(rule, &x, &y, &z, &ex, &ey, &ez, 1);
  CHECK(ex == doctest::Approx(3.0 / 343).epsilon(2e-3));
  CHECK(ez == doctest::Approx(6.0 / 343).epsilon(2e-3));
  const auto needle = fields::rule_3d(1e-3, 2e-3, 1e3, 1e-12);
  const double u = 1.5e-3, v = -1e-3, w = 0;
  fields::field_of(needle, &u, &v, &w, &ex, &ey, &ez, 1);
  double lx, ly;
  fields::field_of(fields::gaussian_2d{1e-3, 2e-3}, &u, &v, &lx, &ly, 1);
  const double density = 2 / (std::sqrt(2 * 3.14159265358979) * 1e3);  // 2 lambda: 1/(2 pi eps0)
  CHECK(ex == doctest::Approx(density * lx).epsilon(1e-8));
  CHECK(ey == doctest::Approx(density * ly).epsilon(1e-8));
}

TEST_CASE("the gradient of the potential is the field") {
  for (const double b : {1e-3, 0.7e-3, 1e-4}) {
    const double a = 1e-3, h = 1e-7;
    const auto rule = fields::rule_2d_potential(a, b, 1e-12);
    for (std::uint64_t i = 0; i < 20; ++i) {
      const double x = 2 * a * normal(5, 0, i), y = 2 * b * normal(5, 1, i);
      const double xs[] = {x + h, x - h, x, x}, ys[] = {y, y, y + h, y - h};
      double psi[4], ex, ey;
      fields::potential_of(rule, xs, ys, psi, 4);
      fields::field_of(fields::gaussian_2d{a, b}, &x, &y, &ex, &ey, 1);
      CHECK(std::fabs((psi[0] - psi[1]) / (2 * h) - ex) < 2e-6 / (a + b));
      CHECK(std::fabs((psi[2] - psi[3]) / (2 * h) - ey) < 2e-6 / (a + b));
    }
  }
  // a round beam far out: ln(r/s) + (gamma_E - ln 2)/2
  const auto round = fields::rule_2d_potential(1, 1, 1e-12);
  const double x = 6, y = 8;
  double psi;
  fields::potential_of(round, &x, &y, &psi, 1);
  CHECK(psi ==
        doctest::Approx(std::log(10.0) + (0.57721566490153286 - std::log(2.0)) / 2).epsilon(1e-9));
}

TEST_CASE("sizes and tolerances out of range are refused") {
  CHECK_THROWS_AS(fields::rule_3d(1, 1, 0, 1e-8), std::invalid_argument);
  CHECK_THROWS_AS(fields::rule_3d(1, -1, 1, 1e-8), std::invalid_argument);
  CHECK_THROWS_AS(fields::rule_3d(1, 1, 1, 0), std::invalid_argument);
  CHECK_THROWS_AS(fields::rule_2d_potential(std::nan(""), 1, 1e-8), std::invalid_argument);
}
