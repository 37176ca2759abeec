// Truncated power series: against derivatives by nested dual numbers, identities, and functions of known series.
#include "numerics/taylor.h"

#include <doctest/doctest.h>

#include <cmath>
#include <numbers>

#include "numerics/dual.h"

namespace {

using namespace betatron::numerics;

using series = taylor<4, 2>;
using d1 = dual<double, 1>;
using d2 = dual<d1, 1>;
using d3 = dual<d2, 1>;

/// The third derivative of f at v by nested dual numbers, and those below it.
template <class F>
std::array<double, 4> derivatives(F f, double v) {
  const d3 x = d3::variable(d2::variable(d1::variable(v, 0), 0), 0);
  const d3 y = f(x);
  return {y.v.v.v, y.v.v.d[0], y.v.d[0].d[0], y.d[0].d[0].d[0]};
}

template <class F>
void check(F f, double v, double tolerance = 1e-13) {
  CAPTURE(v);
  const auto expected = derivatives(f, v);
  const taylor<3, 1> y = f(taylor<3, 1>::variable(v, 0));
  const double factorial[] = {1, 1, 2, 6};
  for (std::size_t k = 0; k < 4; ++k) {
    CAPTURE(k);
    CHECK(y.c[k] * factorial[k] == doctest::Approx(expected[k]).epsilon(tolerance));
  }
}

}  // namespace

TEST_CASE("taylor: numbers of monomials, and their order") {
  CHECK(monomial_count(6, 0) == 1);
  CHECK(monomial_count(6, 1) == 7);
  CHECK(monomial_count(6, 2) == 28);
  CHECK(monomial_count(6, 3) == 84);
  CHECK(monomial_count(6, 4) == 210);
  using t = taylor<3>;
  const t x = t::variable(0, 0), px = t::variable(0, 1), pt = t::variable(0, 5);
  auto place = [](const t& monomial) {
    std::size_t at = 0;
    while (monomial.c[at] == 0) ++at;
    CHECK(monomial.c[at] == 1);
    return at;
  };
  CHECK(place(x) == 1);
  CHECK(place(pt) == 6);
  CHECK(place(x * x) == 7);
  CHECK(place(px * x) == 8);
  CHECK(place(px * px) == 13);
  CHECK(place(pt * pt) == 27);
  CHECK(place(x * x * x) == 28);
  CHECK(place(x * pt * pt) == 48);
  CHECK(place(pt * pt * pt) == 83);
  const t beyond = x * x * pt * pt;
  for (double c : beyond.c) CHECK(c == 0);
}

TEST_CASE("taylor: arithmetic") {
  const series x = series::variable(0.7, 0), y = series::variable(-1.3, 1);
  const series a = 2.0 * x * y - x / (3.0 + y * y) + 1.5, b = 1.0 + x * x;
  const series back = a / b * b - a, twice = a + a - 2.0 * a, negative = -a + a;
  for (std::size_t i = 0; i < series::count; ++i) {
    CHECK(std::fabs(back.c[i]) < 1e-14);
    CHECK(twice.c[i] == 0);
    CHECK(negative.c[i] == 0);
  }
  series c = a;
  c += b;
  c -= b;
  c *= b;
  c /= b;
  for (std::size_t i = 0; i < series::count; ++i) CHECK(std::fabs(c.c[i] - a.c[i]) < 1e-14);
  CHECK(x > y);
  CHECK(x >= y);
  CHECK(y < 0.0);
  CHECK(y <= 0.0);
  CHECK(x == series(0.7));
  CHECK(value_of(abs(y)) == 1.3);
  CHECK(abs(y).c[2] == -1);
  CHECK(round_to_integer(y).c[0] == -1);
  CHECK(round_to_integer(y).c[2] == 0);
  CHECK(select(true, x, y).c[1] == 1);
}

TEST_CASE("taylor: functions have the derivatives of nested dual numbers") {
  for (double v : {0.1, 0.7, 2.3}) {
    check([](auto x) { return sqrt(x); }, v);
    check([](auto x) { return rsqrt(x); }, v);
    check([](auto x) { return exp(x); }, v);
    check([](auto x) { return log(x); }, v);
    check([](auto x) { return 1.0 / x; }, v);
  }
  for (double v : {-2.0, -0.3, 0.0, 0.4, 1.7}) {
    check([](auto x) { return sin(x); }, v);
    check([](auto x) { return cos(x); }, v);
    check([](auto x) { return atan(x); }, v);
  }
}

TEST_CASE("taylor: Stumpff functions for arguments of both signs, small and large") {
  for (double v : {-30.0, -3.0, -1e-9, 0.0, 0.2, 5.0, 40.0}) {
    CAPTURE(v);
    using t = taylor<4, 1>;
    const t z = t::variable(v, 0);
    t c[4];
    stumpff<4>(z, 1.0, c);
    // c_0^2 + z c_1^2 = 1 and c_k = 1/k! - z c_{k+2}
    const t circle = c[0] * c[0] + z * c[1] * c[1] - 1.0;
    const t second = c[0] - 1.0 + z * c[2], third = c[1] - 1.0 + z * c[3];
    const double size = std::fmax(1.0, c[0].c[0] * c[0].c[0]);
    for (std::size_t k = 0; k < t::count; ++k) {
      CAPTURE(k);
      CHECK(std::fabs(circle.c[k]) < 1e-14 * size);
      CHECK(std::fabs(second.c[k]) < 1e-14 * size);
      CHECK(std::fabs(third.c[k]) < 1e-14 * size);
    }
    t plus[2], minus[2], other[4];
    oscillator_pair(z, 1.0, plus, minus);
    stumpff<4>(-z, 1.0, other);
    for (std::size_t i = 0; i < 2; ++i) {
      for (std::size_t k = 0; k < t::count; ++k) {
        CHECK(plus[i].c[k] == c[i].c[k]);
        CHECK(minus[i].c[k] == other[i].c[k]);
      }
    }
  }
}

TEST_CASE("taylor: ratios of inverse tangents obey 2 u f' + f = 1/(1 +- u) on both branches") {
  for (double v : {0.0, 1e-12, 0.05, 0.1, 0.1999, 0.2001, 0.7}) {
    CAPTURE(v);
    using t = taylor<4, 1>;
    const t u = t::variable(v, 0);
    for (double sign : {-1.0, 1.0}) {
      const t f = sign < 0 ? atan_ratio(u) : atanh_ratio(u);
      t slope(0.0);
      for (std::size_t k = 1; k < t::count; ++k) slope.c[k - 1] = static_cast<double>(k) * f.c[k];
      const t rest = 2.0 * u * slope + f - 1.0 / (1.0 - sign * u);
      for (std::size_t k = 0; k + 1 < t::count; ++k) {
        CAPTURE(k);
        CHECK(std::fabs(rest.c[k]) < 3e-13 * std::fmax(1.0, std::fabs(f.c[k])));
      }
    }
  }
}

TEST_CASE("taylor: the arcsine ratio is that of the values, and analytic") {
  const double h = 1e-3;
  for (double x : {0.0, 0.3, -0.8}) {
    for (double y : {0.0, 0.5, -1.2}) {
      using t = taylor<4, 2>;
      const auto a = arcsine_ratio(t::variable(x, 0), t::variable(y, 1));
      for (double dx : {h, -h}) {
        for (double dy : {h, -2 * h}) {
          double re = 0, im = 0;
          std::size_t at = 0;
          for (int degree = 0; degree <= 4; ++degree) {
            for (int i = degree; i >= 0; --i, ++at) {
              const double monomial = std::pow(dx, i) * std::pow(dy, degree - i);
              re += a.re.c[at] * monomial;
              im += a.im.c[at] * monomial;
            }
          }
          const auto direct = arcsine_ratio(x + dx, y + dy);
          CHECK(re == doctest::Approx(direct.re).epsilon(1e-9));
          CHECK(im == doctest::Approx(direct.im).epsilon(1e-9));
        }
      }
      // Cauchy-Riemann
      CHECK(a.re.c[1] == doctest::Approx(a.im.c[2]).epsilon(1e-14));
      CHECK(a.re.c[2] == doctest::Approx(-a.im.c[1]).epsilon(1e-14));
    }
  }
}
