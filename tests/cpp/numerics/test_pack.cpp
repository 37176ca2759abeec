// Packs: every operation lane by lane against the scalar one, and the elementary functions against long
// double. CMake compiles this file once more for each instruction set (BETATRON_ISA), because packs are
// made of other instructions in each.
#include "numerics/pack.h"

#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "accuracy.h"
#include "numerics/functions.h"
#include "numerics/random.h"

#ifndef BETATRON_ISA
#define BETATRON_ISA base
#endif

namespace {

using namespace betatron::numerics;

template <class F, int W>
using lanes = pack<F, W, isa::BETATRON_ISA>;

template <class P>
P from(const std::vector<typename P::value_type>& values, std::size_t first) {
  P r(0);
  for (int i = 0; i < P::width; ++i) {
    r.set(i, values[(first + static_cast<std::size_t>(i)) % values.size()]);
  }
  return r;
}

/// Calls check(pack of arguments) until all values have been in a lane; neighbours fill the rest.
template <class P, class Check>
void for_packs(const std::vector<typename P::value_type>& values, Check&& check) {
  for (std::size_t i = 0; i < values.size(); i += static_cast<std::size_t>(P::width)) {
    check(from<P>(values, i));
  }
}

/// Both bits and NaN-ness: 0 and -0 differ, NaN equals NaN.
template <class F>
bool same(F a, F b) {
  return std::isnan(a) ? std::isnan(b) : a == b && std::signbit(a) == std::signbit(b);
}

template <class F>
std::vector<F> awkward() {
  using limits = std::numeric_limits<F>;
  return {F(0),
          -F(0),
          F(1),
          F(-1),
          F(0.1),
          F(-7.25),
          limits::min(),
          limits::max(),
          limits::lowest(),
          limits::infinity(),
          -limits::infinity(),
          limits::quiet_NaN(),
          limits::epsilon(),
          F(3e7),
          F(-2.5e-8)};
}

/// n numbers with magnitudes from 10^low to 10^high, both signs if `negative`.
template <class F>
std::vector<F> magnitudes(std::size_t n, double low, double high, bool negative) {
  std::vector<F> r(n);
  for (std::size_t i = 0; i < n; ++i) {
    const auto u = uniform_pair(1, 2, i);
    const double v = std::pow(10.0, low + (high - low) * u.first);
    r[i] = static_cast<F>(negative && u.second < 0.5 ? -v : v);
  }
  return r;
}

}  // namespace

#define ALL_PACKS                                                                        \
  lanes<float, 2>, lanes<float, 4>, lanes<float, 8>, lanes<float, 16>, lanes<double, 2>, \
      lanes<double, 4>, lanes<double, 8>

TEST_CASE_TEMPLATE("pack arithmetic is the scalar one in every lane", P, ALL_PACKS) {
  using F = typename P::value_type;
  const auto values = awkward<F>();
  for (std::size_t shift = 0; shift < values.size(); ++shift) {
    for_packs<P>(values, [&](P a) {
      const P b = from<P>(values, shift);
      const P sum = a + b, difference = a - b, product = a * b, quotient = a / b, negative = -a;
      P in_place = a;
      in_place += b;
      in_place *= b;
      in_place -= b;
      in_place /= b;
      const P steps = (((a + b) * b) - b) / b;
      for (int i = 0; i < P::width; ++i) {
        CAPTURE(a[i]);
        CAPTURE(b[i]);
        CHECK(same<F>(sum[i], a[i] + b[i]));
        CHECK(same<F>(difference[i], a[i] - b[i]));
        CHECK(same<F>(product[i], a[i] * b[i]));
        CHECK(same<F>(quotient[i], a[i] / b[i]));
        CHECK(same<F>(negative[i], -a[i]));
        CHECK(same<F>(in_place[i], steps[i]));
      }
    });
  }
}

TEST_CASE_TEMPLATE("packs load, store and broadcast", P, ALL_PACKS) {
  using F = typename P::value_type;
  constexpr int w = P::width;
  F memory[w + 2];
  for (int i = 0; i < w + 2; ++i) memory[i] = static_cast<F>(i + 1);
  P a = P::load(memory + 1);  // any alignment
  for (int i = 0; i < w; ++i) CHECK(a[i] == static_cast<F>(i + 2));
  a.set(w - 1, F(-3));
  a.store(memory + 1);
  CHECK(memory[0] == F(1));
  CHECK(memory[w] == F(-3));
  CHECK(memory[w + 1] == static_cast<F>(w + 2));
  const P three(3), mixed = 2 * a + 1.0;
  for (int i = 0; i < w; ++i) {
    CHECK(three[i] == F(3));
    CHECK(mixed[i] == 2 * a[i] + 1);
  }
}

TEST_CASE_TEMPLATE("comparisons, masks and select", P, ALL_PACKS) {
  using F = typename P::value_type;
  const auto values = awkward<F>();
  const std::uint32_t all = (std::uint32_t{1} << (P::width - 1) << 1) - 1;
  for (std::size_t shift = 0; shift < values.size(); ++shift) {
    for_packs<P>(values, [&](P a) {
      const P b = from<P>(values, shift);
      const auto bits = [&](auto compare) {
        std::uint32_t r = 0;
        for (int i = 0; i < P::width; ++i) r |= std::uint32_t{compare(a[i], b[i])} << i;
        return r;
      };
      const std::uint32_t lt = bits([](F x, F y) { return x < y; });
      const std::uint32_t ge = bits([](F x, F y) { return x >= y; });
      CHECK((a < b).bits() == lt);
      CHECK((a <= b).bits() == bits([](F x, F y) { return x <= y; }));
      CHECK((a > b).bits() == bits([](F x, F y) { return x > y; }));
      CHECK((a >= b).bits() == ge);
      CHECK((a == b).bits() == bits([](F x, F y) { return x == y; }));
      CHECK((!(a < b)).bits() == (~lt & all));  // not the same as ge: NaN
      CHECK(((a < b) | (a >= b)).bits() == (lt | ge));
      CHECK(((a < b) & (a >= b)).bits() == 0);
      CHECK(any_of(a < b) == (lt != 0));
      const P chosen = select(a < b, a, b), magnitude = abs(a);
      for (int i = 0; i < P::width; ++i) {
        CHECK(same<F>(chosen[i], a[i] < b[i] ? a[i] : b[i]));
        CHECK(same<F>(magnitude[i], std::fabs(a[i])));
      }
    });
  }
  CHECK((P(0) == P(0)).bits() == all);
  CHECK(any_of(true));
  CHECK(!any_of(false));
}

TEST_CASE_TEMPLATE("square roots are rounded correctly, reciprocal ones within 2 ulp", P,
                   ALL_PACKS) {
  using F = typename P::value_type;
  auto values = magnitudes<F>(4000, -30, 30, false);
  for (int i = 0; i < 200; ++i) values.push_back(F(1) + static_cast<F>(i) / F(800));
  for (int i = 0; i < 8; ++i) {  // around powers of two
    values.push_back(std::nextafter(std::ldexp(F(1), 2 * i), F(0)));
    values.push_back(std::ldexp(F(1), i));
  }
  double worst = 0;
  bool exact = true;
  for_packs<P>(values, [&](P a) {
    const P root = sqrt(a), inverse = rsqrt(a);
    for (int i = 0; i < P::width; ++i) {
      exact = exact && root[i] == std::sqrt(a[i]);
      const long double reference = 1 / std::sqrt(static_cast<long double>(a[i]));
      worst = std::fmax(worst, ulps(inverse[i], reference));
    }
  });
  CHECK(exact);
  CHECK(worst <= 2);
  CHECK(sqrt(P(0))[0] == 0);
  CHECK(std::isnan(sqrt(P(-1))[0]));
  CHECK(std::isnan(rsqrt(P(-1))[P::width - 1]));
}

TEST_CASE_TEMPLATE("rounding goes to the nearest integer, ties to even", P, ALL_PACKS) {
  using F = typename P::value_type;
  std::vector<F> values = {F(0),    F(-0.3), F(0.5),  F(1.5),   F(2.5),       F(-0.5),      F(-1.5),
                           F(-2.5), F(0.49), F(7.51), F(-7.51), F(1048575.5), F(-1048576.5)};
  for (F v : magnitudes<F>(2000, -3, 6, true)) values.push_back(v);
  for_packs<P>(values, [&](P a) {
    const P r = round_to_integer(a);
    for (int i = 0; i < P::width; ++i) {
      CAPTURE(a[i]);
      CHECK(r[i] == std::nearbyint(a[i]));
    }
  });
}

TEST_CASE_TEMPLATE("sine and cosine within 2 ulp for any argument", P, ALL_PACKS) {
  using F = typename P::value_type;
  constexpr bool wide = sizeof(F) == 8;
  const double border = wide ? 1e5 : 1e3;
  // In single precision the reduced argument is off by up to 640 times the rounding of the third piece of
  // pi/2, 640 x 2^-48 = 2.3e-12: little more than a unit in the last place of 2e-5.
  const long double smallest = wide ? 0 : 2e-5L;
  double worst = 0;
  const auto check = [&](P a) {
    P s, c;
    sincos(a, s, c);
    const P sine = sin(a), cosine = cos(a);
    for (int i = 0; i < P::width; ++i) {
      const long double x = a[i], se = std::sin(x), ce = std::cos(x);
      worst = std::fmax(worst, ulps(s[i], se, std::fmax(std::fabs(se), smallest)));
      worst = std::fmax(worst, ulps(c[i], ce, std::fmax(std::fabs(ce), smallest)));
      CHECK(same<F>(sine[i], s[i]));
      CHECK(same<F>(cosine[i], c[i]));
    }
  };
  for_packs<P>(magnitudes<F>(8000, -8, std::log10(border), true), check);
  CHECK(worst <= 2);

  worst = 0;  // at the multiples of pi/4, where pieces and signs change
  std::vector<F> corners;
  for (int n = -2000; n <= 2000; ++n) {
    const F x = static_cast<F>(static_cast<long double>(n) * 0.785398163397448309616L);
    if (std::fabs(x) > border) continue;
    corners.push_back(x);
    corners.push_back(std::nextafter(x, F(0)));
    corners.push_back(std::nextafter(x, F(1e9)));
  }
  for_packs<P>(corners, check);
  CHECK(worst <= 2);

  worst = 0;  // beyond the border, and packs that lie across it
  for_packs<P>(magnitudes<F>(2000, std::log10(border) - 1, wide ? 15 : 7, true), check);
  CHECK(worst <= 2);

  P s, c;
  sincos(P(std::numeric_limits<F>::infinity()), s, c);
  CHECK(std::isnan(s[0]));
  CHECK(std::isnan(c[P::width - 1]));
}

TEST_CASE_TEMPLATE("atan(v)/v as a function of v^2", P, ALL_PACKS) {
  using F = typename P::value_type;
  std::vector<F> values = {F(0), F(0.1715728), F(0.1715729), F(1), F(1e6)};
  for (F u : magnitudes<F>(4000, -12, 4, false)) values.push_back(u);
  for (int i = 0; i < 2000; ++i)
    values.push_back(static_cast<F>(i) / F(11000));  // the fitted range
  double worst = 0, scalar_worst = 0;
  for_packs<P>(values, [&](P u) {
    const P r = atan_ratio(u);
    for (int i = 0; i < P::width; ++i) {
      const long double v = std::sqrt(static_cast<long double>(u[i]));
      const long double exact = v > 0 ? std::atan(v) / v : 1;
      worst = std::fmax(worst, ulps(r[i], exact));
      scalar_worst = std::fmax(scalar_worst, ulps(atan_ratio(u[i]), exact));
    }
  });
  CHECK(worst <= 2);
  CHECK(scalar_worst <= 2);
}
