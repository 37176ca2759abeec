// The entire functions against long double, from -1e3 to 1e8, in every tier and on both sides of its
// border, and their derivatives.
#include "numerics/entire.h"

#include <doctest/doctest.h>

#include <cmath>
#include <vector>

#include "accuracy.h"
#include "numerics/dual.h"
#include "numerics/random.h"

namespace {

using namespace betatron::numerics;

template <class F>
using lanes = pack<F, 4, isa::base>;

/// c_k(z). The series where it loses less than a digit of long double, the recurrence from circular or
/// hyperbolic functions elsewhere.
long double exact(int k, long double z) {
  if (std::fabs(z) <= 16) {
    long double term = 1, sum = 0;
    for (int n = 1; n <= k; ++n) term /= n;
    for (int n = 0; n < 40; ++n) {
      sum += term;
      term *= -z / static_cast<long double>((k + 2 * n + 1) * (k + 2 * n + 2));
    }
    return sum;
  }
  if (k >= 2) {
    long double leading = 1;
    for (int n = 1; n <= k - 2; ++n) leading /= n;
    return (leading - exact(k - 2, z)) / z;
  }
  const long double a = std::fabs(z), r = std::sqrt(a), rest = std::fma(-r, r, a) / (2 * r);
  const long double root = r + rest;
  if (z > 0) {
    return k == 0 ? std::cos(r) - std::sin(r) * rest : (std::sin(r) + std::cos(r) * rest) / root;
  }
  return k == 0 ? std::cosh(r) + std::sinh(r) * rest : (std::sinh(r) + std::cosh(r) * rest) / root;
}

/// dc_k/dz = -sum_{n >= 1} n (-z)^(n-1)/(k + 2n)!
long double exact_slope(int k, long double z) {
  return (static_cast<long double>(k) * exact(k + 2, z) - exact(k + 1, z)) / 2;
}

/// The size against which an error of c_k counts: its own where all terms of the series have one sign, and the
/// amplitude of its oscillation where it has zeros.
long double scale(int k, long double z) {
  if (z <= 0) return exact(k, z);
  long double leading = 1;
  for (int n = 1; n <= k; ++n) leading /= n;
  if (k == 0) return 1;
  if (k == 1) return std::fmin(1.0L, 1 / std::sqrt(z));
  return std::fmin(leading, leading * static_cast<long double>(k * (k - 1)) / z);
}

constexpr double tier_borders[] = {1.3e-2, 1.9e-1, 0.94, 4.4, 2.7e-2, 1.8e-1, 1.5, 5.2, 1, 4, 16};

/// Both signs, all magnitudes, and both sides of every border.
template <class F>
std::vector<F> arguments() {
  std::vector<F> z = {
      F(0), F(1e-300), F(-1e-300), F(1e8), F(-1e3), F(9.8696044010893586), F(39.478417604357434)};
  for (double b : tier_borders) {
    for (F border : {static_cast<F>(b), -static_cast<F>(b)}) {
      z.push_back(border);
      z.push_back(std::nextafter(border, F(100)));
      z.push_back(std::nextafter(border, F(-100)));
    }
  }
  for (std::uint64_t i = 0; i < 6000; ++i) {
    const auto u = uniform_pair(3, 1, i);
    const bool positive = u.second < 0.5;
    const double magnitude = std::pow(10.0, -12 + (positive ? 20 : 15) * u.first);
    z.push_back(static_cast<F>(positive ? magnitude : -magnitude));
    z.push_back(static_cast<F>(6 * (2 * u.second - 1)));
  }
  return z;
}

/// Bounds of |z| that callers may pass: right ones (the tier of z itself), too small and too large ones.
template <class F>
std::vector<F> reaches(F z) {
  return {std::fabs(z), F(0), F(0.1), F(0.5), F(2), F(1e9)};
}

template <int K, class F>
void check_values(double allowed) {
  double worst[K] = {};
  const auto z = arguments<F>();
  for (F argument : z) {
    for (F reach : reaches(argument)) {
      F c[K];
      stumpff<K>(argument, reach, c);
      for (int k = 0; k < K; ++k) {
        worst[k] = std::fmax(worst[k], ulps(c[k], exact(k, argument), scale(k, argument)));
      }
    }
  }
  for (int k = 0; k < K; ++k) {
    CAPTURE(k);
    CHECK(worst[k] <= allowed);
  }
}

}  // namespace

TEST_CASE_TEMPLATE("Stumpff functions to a few ulp over the whole range", F, float, double) {
  // c_0 near |z| = 4.4 sums terms up to 2.2. Where z < -16, each step c_k -> c_{k+2} = (1/k! - c_k)/z loses up
  // to a factor of two on top of the 2 ulp of sinh and cosh.
  check_values<4, F>(4);
  check_values<6, F>(5);
  check_values<8, F>(10);
}

TEST_CASE_TEMPLATE("packs of Stumpff functions, lanes of all sizes together", F, float, double) {
  using P = lanes<F>;
  const auto z = arguments<F>();
  double worst = 0;
  for (std::size_t i = 0; i < z.size(); ++i) {
    P argument;
    F largest = 0;
    for (std::size_t lane = 0; lane < 4; ++lane) {
      // neighbours of the list lie in one tier now and then, distant ones hardly ever
      const std::size_t j = i % 2 == 0 ? (i + lane) % z.size() : (i * (lane + 1) * 7) % z.size();
      argument.set(static_cast<int>(lane), z[j]);
      largest = std::fmax(largest, std::fabs(z[j]));
    }
    for (F reach : {largest, F(0), F(0.5)}) {
      P c[6], plus[2], minus[2];
      stumpff<6>(argument, reach, c);
      oscillator_pair(argument, reach, plus, minus);
      for (int lane = 0; lane < 4; ++lane) {
        const F x = argument[lane];
        for (int k = 0; k < 6; ++k) {
          worst = std::fmax(worst, ulps(c[k][lane], exact(k, x), scale(k, x)));
        }
        if (std::fabs(x) > F(1e3)) continue;  // cosh(1e4) overflows
        for (int k = 0; k < 2; ++k) {
          worst = std::fmax(worst, ulps(plus[k][lane], exact(k, x), scale(k, x)));
          worst = std::fmax(worst, ulps(minus[k][lane], exact(k, -x), scale(k, -x)));
        }
      }
    }
  }
  CHECK(worst <= 6);
}

TEST_CASE_TEMPLATE("a lane at zero next to a lane out of reach is a lane at zero", F, float,
                   double) {
  lanes<F> z(0);
  z.set(2, F(400));
  lanes<F> c[6];
  stumpff<6>(z, F(0), c);
  double factorial = 1;
  for (int k = 0; k < 6; factorial *= ++k) {
    CHECK(c[k][0] == static_cast<F>(1 / factorial));
  }
  CHECK(ulps(c[0][2], std::cos(20.0L), 1) <= 1);
}

TEST_CASE_TEMPLATE("what is not finite stays so", F, float, double) {
  const F infinity = std::numeric_limits<F>::infinity();
  F c[4];
  stumpff<4>(std::numeric_limits<F>::quiet_NaN(), F(1), c);
  for (F v : c) CHECK(std::isnan(v));
  stumpff<4>(infinity, F(1), c);
  CHECK(std::isnan(c[0]));
  stumpff<4>(F(-1e6), F(1), c);  // cosh(1000)
  CHECK(c[0] == infinity);
}

TEST_CASE_TEMPLATE("oscillator pairs are the Stumpff functions of both signs", F, float, double) {
  double worst = 0;
  for (F z : arguments<F>()) {
    if (std::fabs(z) > F(1e3)) continue;
    for (F reach : reaches(z)) {
      F plus[2], minus[2];
      oscillator_pair(z, reach, plus, minus);
      for (int k = 0; k < 2; ++k) {
        worst = std::fmax(worst, ulps(plus[k], exact(k, z), scale(k, z)));
        worst = std::fmax(worst, ulps(minus[k], exact(k, -z), scale(k, -z)));
      }
    }
  }
  // near z = 4.4, c_1 is the difference of two numbers of size 2, against an amplitude below 0.5
  CHECK(worst <= 6);
}

TEST_CASE_TEMPLATE("derivatives of Stumpff functions, at zero too", F, float, double) {
  using number = dual<F, 1>;
  double worst = 0;
  for (F z : arguments<F>()) {
    for (F reach : reaches(z)) {
      number c[4];
      stumpff<4>(number::variable(z, 0), reach, c);
      for (int k = 0; k < 4; ++k) {
        // (k c_{k+2} - c_{k+1})/2 inherits the errors of its two terms
        const long double size =
            std::fmax(std::fabs(scale(k + 1, z)), k * std::fabs(scale(k + 2, z)));
        worst = std::fmax(worst, ulps(c[k].d[0], exact_slope(k, z), size / 2));
        CHECK(ulps(c[k].v, exact(k, z), scale(k, z)) <= 4);
      }
    }
  }
  CHECK(worst <= 8);

  number c[4];
  stumpff<4>(number::variable(F(0), 0), F(0), c);
  const double slopes[] = {-1.0 / 2, -1.0 / 6, -1.0 / 24, -1.0 / 120};
  for (int k = 0; k < 4; ++k) CHECK(ulps(c[k].d[0], static_cast<long double>(slopes[k])) <= 2);
}

TEST_CASE("second derivatives by nested dual numbers") {
  using first = dual<double, 1>;
  using second = dual<first, 1>;
  // d^2 c_k/dz^2 = (k (k+2) c_{k+4} - (2k+1) c_{k+3} + c_{k+2})/4
  for (double z : arguments<double>()) {
    second c[4], pair[2][2], pairs[2][4];
    const second argument = second::variable(first::variable(z, 0), 0);
    stumpff<4>(argument, std::fabs(z), c);
    for (int k = 0; k < 4; ++k) {
      const long double curvature =
          (k * (k + 2) * exact(k + 4, z) - (2 * k + 1) * exact(k + 3, z) + exact(k + 2, z)) / 4;
      const long double size = std::fmax((2 * k + 1) * scale(k + 3, z), scale(k + 2, z)) / 4;
      CHECK(ulps(c[k].d[0].d[0], curvature, size) <= 16);
      CHECK(c[k].d[0].v == c[k].v.d[0]);
    }
    if (std::fabs(z) > 1e3) continue;
    oscillator_pair(argument, std::fabs(z), pair[0], pair[1]);
    oscillator_pair(argument, std::fabs(z), pairs[0], pairs[1]);
    second mirrored[4];
    stumpff<4>(-argument, std::fabs(z), mirrored);
    for (int sign = 0; sign < 2; ++sign) {
      const double side = sign == 0 ? z : -z;
      for (int k = 0; k < 4; ++k) {
        const second& one = sign == 0 ? c[k] : mirrored[k];
        const auto check = [&](const second& found) {
          CHECK(ulps(found.v.v, one.v.v, scale(k, side)) <= 8);
          const long double slope = std::fmax(scale(k + 1, side), k * scale(k + 2, side));
          CHECK(ulps(found.d[0].v, one.d[0].v, slope) <= 16);
          const long double size =
              std::fmax((2 * k + 1) * scale(k + 3, side), scale(k + 2, side)) / 4;
          CHECK(ulps(found.d[0].d[0], one.d[0].d[0], size) <= 32);
        };
        check(pairs[sign][k]);
        if (k < 2) check(pair[sign][k]);
      }
    }
  }
}

TEST_CASE_TEMPLATE("derivative of atan(v)/v by v^2, at zero too", F, float, double) {
  using number = dual<F, 1>;
  for (int i = 0; i <= 4000; ++i) {
    const F u = static_cast<F>(i < 2000 ? i * 2e-5 : (i - 2000) * 1e-3);
    const number r = atan_ratio(number::variable(u, 0));
    long double slope = 0;
    if (u < F(0.1)) {
      long double power = 1;
      for (int n = 1; n < 40; ++n, power *= -static_cast<long double>(u)) {
        slope -= power * n / (2 * n + 1);
      }
    } else {
      const long double w = u, v = std::sqrt(w);
      slope = (1 / (1 + w) - std::atan(v) / v) / (2 * w);
    }
    CAPTURE(u);
    // a series, or the difference of two numbers near 1, each good to an ulp or two, over 2u >= 0.04
    CHECK(ulps(r.d[0], slope, 1) <= (u < F(0.02) ? 2 : 3 / (2 * static_cast<double>(u)) + 2));
  }
  CHECK(atan_ratio(number::variable(F(0), 0)).d[0] == static_cast<F>(-1.0 / 3));
}

TEST_CASE("dual numbers of packs and of floats use the same series") {
  using number = dual<lanes<float>, 2>;
  number z;
  z.v = lanes<float>(0);
  z.d[0] = lanes<float>(1);
  z.d[1] = lanes<float>(-2);
  for (int lane = 0; lane < 4; ++lane) z.v.set(lane, static_cast<float>(lane) * 0.7f - 1.f);
  number c[4];
  stumpff<4>(z, 1.1f, c);
  for (int lane = 0; lane < 4; ++lane) {
    for (int k = 0; k < 4; ++k) {
      const long double slope = exact_slope(k, z.v[lane]);
      CHECK(ulps(c[k].v[lane], exact(k, z.v[lane]), scale(k, z.v[lane])) <= 4);
      CHECK(ulps(c[k].d[0][lane], slope) <= 8);
      CHECK(c[k].d[1][lane] == -2 * c[k].d[0][lane]);
    }
  }
}

TEST_CASE(
    "dual oscillators: both signs, two or four functions, have the slopes of the Stumpff functions") {
  for (double z : {0.0, 1e-3, -0.02, 0.3, 2.0, -9.0, 50.0}) {
    for (double reach : {std::fabs(z), 100.0}) {
      dual<double, 1> c[4], plus[2], minus[2], plus4[4], minus4[4];
      const auto variable = dual<double, 1>::variable(z, 0);
      oscillator_pair(variable, reach, plus, minus);
      oscillator_pair(variable, reach, plus4, minus4);
      for (int sign : {1, -1}) {
        stumpff<4>(variable * sign, reach, c);
        for (int k = 0; k < 4; ++k) {
          const auto& four = sign > 0 ? plus4[k] : minus4[k];
          CHECK(four.v == doctest::Approx(c[k].v).epsilon(1e-14));
          CHECK(four.d[0] == doctest::Approx(c[k].d[0]).epsilon(1e-13));
          if (k > 1) continue;
          const auto& two = sign > 0 ? plus[k] : minus[k];
          CHECK(two.v == doctest::Approx(c[k].v).epsilon(1e-14));
          CHECK(two.d[0] == doctest::Approx(c[k].d[0]).epsilon(1e-13));
        }
      }
    }
  }
}
