// Dual numbers: derivatives against closed forms, complex steps and finite differences.
#include "numerics/dual.h"

#include <doctest/doctest.h>

#include <cmath>
#include <complex>
#include <limits>
#include <type_traits>

namespace {

using namespace betatron::numerics;

template <class T>
constexpr double tolerance = 8.0 * static_cast<double>(std::numeric_limits<T>::epsilon());

constexpr double infinity = std::numeric_limits<double>::infinity();

/// |a - b| relative to the larger of 1 and |b|
template <class T>
double deviation(T a, T b) {
  return std::fabs(static_cast<double>(a) - static_cast<double>(b)) /
         std::fmax(1.0, std::fabs(static_cast<double>(b)));
}

// An expression that uses every operator, as an element's map would be written: for real, complex
// and dual scalars.
template <class T>
constexpr T rational(T x, T y) {
  T r = 2.0 * x * y - x / (3.0 + y * y) + 1.5;
  r += y / 4.0;
  r -= 0.25;
  r *= x - 7.0;
  r /= 1.0 + x * x;
  return -r + (5.0 - y) / 2.0 + 1.0 / (2.0 + y);
}

template <class T>
T transcendental(T x, T y) {
  using std::atan, std::cos, std::exp, std::log, std::sin, std::sqrt;
  return sqrt(1.0 + x * x + y * y) * exp(-x) + sin(x * y) * cos(y) + log(2.0 + x) / (1.0 + y * y) +
         atan(x / 2.0);
}

template <class F>
double complex_step(F f, double x, double y, int direction) {
  using complex = std::complex<double>;
  const double h = 1e-100;
  return f(complex(x, direction == 0 ? h : 0), complex(y, direction == 1 ? h : 0)).imag() / h;
}

}  // namespace

TEST_CASE_TEMPLATE("dual numbers differentiate the elementary functions", T, float, double) {
  for (const T x : {T(0.1), T(0.7), T(2.3), T(11)}) {
    CAPTURE(x);
    using dual1 = dual<T, 1>;
    const dual1 z = dual1::variable(x, 0);
    const auto check = [](dual1 result, T value, T slope) {
      CHECK(deviation(result.v, value) <= tolerance<T>);
      CHECK(deviation(result.d[0], slope) <= tolerance<T>);
    };
    check(sqrt(z), std::sqrt(x), 1 / (2 * std::sqrt(x)));
    check(rsqrt(z), 1 / std::sqrt(x), T(-0.5) / (x * std::sqrt(x)));
    check(sin(z), std::sin(x), std::cos(x));
    check(cos(z), std::cos(x), -std::sin(x));
    check(atan(z), std::atan(x), 1 / (1 + x * x));
    check(exp(-z), std::exp(-x), -std::exp(-x));
    check(log(z), std::log(x), 1 / x);
    check(abs(z), x, T(1));
    check(abs(-z), x, T(1));
    dual1 s, c;
    sincos(z, s, c);
    check(s, std::sin(x), std::cos(x));
    check(c, std::cos(x), -std::sin(x));
    dual1 in_place = z;
    sincos(in_place, in_place, c);
    check(in_place, std::sin(x), std::cos(x));
    check(c, std::cos(x), -std::sin(x));
  }
}

TEST_CASE("dual numbers agree with complex steps") {
  using dual2 = dual<double, 2>;
  for (const double x : {-0.9, 0.0, 0.4, 3.0}) {
    for (const double y : {-1.3, 0.0, 0.8}) {
      CAPTURE(x);
      CAPTURE(y);
      const dual2 a = dual2::variable(x, 0), b = dual2::variable(y, 1);
      const dual2 r = rational(a, b), t = transcendental(a, b);
      CHECK(r.v == doctest::Approx(rational(x, y)).epsilon(1e-15));
      CHECK(t.v == doctest::Approx(transcendental(x, y)).epsilon(1e-15));
      for (int i = 0; i < 2; ++i) {
        const auto f = [](auto u, auto w) { return rational(u, w); };
        const auto g = [](auto u, auto w) { return transcendental(u, w); };
        CHECK(deviation(r.d[i], complex_step(f, x, y, i)) < 1e-14);
        CHECK(deviation(t.d[i], complex_step(g, x, y, i)) < 1e-14);
      }
    }
  }
}

TEST_CASE("single precision dual numbers follow the double ones") {
  const auto f = dual<float, 2>::variable(0.4f, 0), g = dual<float, 2>::variable(-1.3f, 1);
  const auto x = dual<double, 2>::variable(0.4, 0), y = dual<double, 2>::variable(-1.3, 1);
  static_assert(std::is_same_v<decltype(2.0 * f), dual<float, 2>>);
  const auto low = transcendental(f, g);
  const auto high = transcendental(x, y);
  CHECK(deviation(static_cast<double>(low.v), high.v) < 1e-6);
  CHECK(deviation(static_cast<double>(low.d[0]), high.d[0]) < 1e-6);
  CHECK(deviation(static_cast<double>(low.d[1]), high.d[1]) < 1e-6);
}

TEST_CASE("constants of any arithmetic type mix from both sides") {
  using dual1 = dual<double, 1>;
  const dual1 x = dual1::variable(3, 0);
  CHECK((x + 1).v == 4);
  CHECK((1 - x).d[0] == -1);
  CHECK((x - 1.5f).v == 1.5);
  CHECK((2u * x).d[0] == 2);
  CHECK((x / 2).v == 1.5);  // not an integer division
  CHECK((x / 2).d[0] == 0.5);
  CHECK((1 / x).d[0] == doctest::Approx(-1.0 / 9).epsilon(1e-15));
  CHECK((+x).d[0] == 1);
  dual1 y = 5;  // a constant
  CHECK(y.d[0] == 0);
  const dual1& same = y;
  y *= same;  // operands may be the same object
  y += x;
  y -= x;
  y /= 5;
  CHECK(y.v == 5);
  y = x;
  y /= same;
  CHECK(y.v == 1);
  CHECK(y.d[0] == 0);
}

TEST_CASE("the constants around a nested dual number may stop at any level") {
  using first = dual<double, 2>;
  using second = dual<first, 3>;
  const first a = first::variable(2, 1);
  const second x = second::variable(a, 2);
  const second product = x * a, quotient = a / x, sum = x + 1, ratio = 1 / x, half = x / 2;
  CHECK(value_of(product) == 4);
  CHECK(product.v.d[1] == 4);  // d(a a)/da
  CHECK(product.d[2].v == 2);  // a held constant
  CHECK(product.d[2].d[1] == 1);
  CHECK(value_of(quotient) == 1);
  CHECK(quotient.v.d[1] == 0);
  CHECK(quotient.d[2].v == -0.5);
  CHECK(value_of(sum) == 3);
  CHECK(ratio.d[2].v == -0.25);
  CHECK(ratio.d[2].d[1] == 0.25);  // d^2(1/x)/dx^2 = 2/x^3
  CHECK(half.d[2].v == 0.5);
  static_assert(std::is_same_v<decltype(value_of(x)), double>);
  static_assert(constant_of<int, second> && constant_of<first, second>);
  static_assert(!constant_of<second, first>);
}

TEST_CASE("nested dual numbers give second derivatives") {
  using first = dual<double, 2>;
  using second = dual<first, 2>;
  const double x = 0.4, y = -0.7;
  const second a = second::variable(first::variable(x, 0), 0);
  const second b = second::variable(first::variable(y, 1), 1);

  const auto check_against_differences = [&](auto f) {
    const second r = f(a, b);
    CHECK(value_of(r) == doctest::Approx(f(x, y)).epsilon(1e-15));
    CHECK(r.d[0].d[1] == doctest::Approx(r.d[1].d[0]).epsilon(1e-14));
    const double h = 1e-5;  // central differences of exact first derivatives: error h^2
    for (int i = 0; i < 2; ++i) {
      CHECK(r.d[i].v == doctest::Approx(complex_step(f, x, y, i)).epsilon(1e-14));
      for (int j = 0; j < 2; ++j) {
        const double dx = j == 0 ? h : 0, dy = j == 1 ? h : 0;
        const double expected =
            (complex_step(f, x + dx, y + dy, i) - complex_step(f, x - dx, y - dy, i)) / (2 * h);
        CHECK(deviation(r.d[i].d[j], expected) < 1e-8);
      }
    }
  };
  check_against_differences([](auto u, auto w) { return rational(u, w); });
  check_against_differences([](auto u, auto w) { return transcendental(u, w); });

  using scalar1 = dual<double, 1>;
  using scalar2 = dual<scalar1, 1>;
  const auto square_root = rsqrt(scalar2::variable(scalar1::variable(4, 0), 0));
  CHECK(square_root.d[0].d[0] == doctest::Approx(0.75 / 32).epsilon(1e-15));  // 3/4 x^(-5/2)
  const auto third = dual<scalar2, 1>::variable(scalar2::variable(scalar1::variable(2, 0), 0), 0);
  CHECK((third * third * third * third).d[0].d[0].d[0] == 48);               // 24 x
  CHECK(log(third).d[0].d[0].d[0] == doctest::Approx(0.25).epsilon(1e-15));  // 2/x^3
}

TEST_CASE("the slope of a square root at zero spoils no other direction") {
  using dual2 = dual<double, 2>;
  // sqrt(k) at strength k = 0 in a machine where only the second variable is varied
  const dual2 constant_zero = 0.0;
  const dual2 still = sqrt(constant_zero) + dual2::variable(3, 1);
  CHECK(still.v == 3);
  CHECK(still.d[0] == 0);
  CHECK(still.d[1] == 1);

  const dual2 moving = sqrt(dual2::variable(0, 0));
  CHECK(moving.d[0] == infinity);
  CHECK(moving.d[1] == 0);
  CHECK(sqrt(-dual2::variable(0, 0)).d[0] == -infinity);

  // |x| as sqrt(x^2): the tangent of x^2 vanishes at 0
  const dual2 x = dual2::variable(0, 0);
  CHECK(sqrt(x * x).d[0] == 0);

  // second derivatives obey the same rule
  using nested = dual<dual2, 2>;
  const nested zero = sqrt(nested(0.0));
  const nested corner = sqrt(nested::variable(dual2::variable(0, 0), 0));
  for (int i = 0; i < 2; ++i) {
    for (int j = 0; j < 2; ++j) CHECK(zero.d[i].d[j] == 0);
  }
  CHECK(corner.d[0].v == infinity);
  CHECK(corner.d[0].d[0] == -infinity);
  CHECK(corner.d[0].d[1] == 0);
  CHECK(corner.d[1].v == 0);
  CHECK(corner.d[1].d[0] == 0);
  CHECK(corner.d[1].d[1] == 0);

  // but a vanishing first derivative must not hide a second: sqrt(1 + x^2)'' = 1 at x = 0
  const nested y = nested::variable(dual2::variable(0, 0), 0);
  const nested hyperbola = sqrt(1.0 + y * y);
  CHECK(hyperbola.d[0].v == 0);
  CHECK(hyperbola.d[0].d[0] == 1);
}

TEST_CASE("the absolute value has the derivative of its sign, zero at the kink") {
  using dual1 = dual<double, 1>;
  const dual1 zero = abs(dual1::variable(0, 0)), negative_zero = abs(dual1::variable(-0.0, 0));
  CHECK(zero.d[0] == 0);
  CHECK(negative_zero.d[0] == 0);
  CHECK(!std::signbit(negative_zero.v));
  CHECK(abs(dual1::variable(-2, 0)).d[0] == -1);
}

TEST_CASE("comparisons and select look at values, results carry derivatives") {
  using dual1 = dual<double, 1>;
  const dual1 a = dual1::variable(1, 0), b = 1.0, c = 2.0;
  CHECK(a == b);
  CHECK(a != c);
  CHECK(a < c);
  CHECK(a <= b);
  CHECK(c > a);
  CHECK(c >= 2);
  CHECK(1.5 > a);
  CHECK(a == 1);
  CHECK(select(a < c, a, c).d[0] == 1);
  CHECK(select(a > c, a, c).d[0] == 0);
  CHECK(select(a < c, a, 0.0).d[0] == 1);
  CHECK(select(a < c, 0.0, a).v == 0);
  CHECK(std::is_same_v<decltype(a < c), bool>);
}

TEST_CASE("dual numbers work in constant expressions") {
  constexpr auto x = dual<double, 2>::variable(3.0, 0);
  constexpr auto y = dual<double, 2>::variable(4.0, 1);
  constexpr auto f = rational(x, y) - x / y;
  static_assert((x * x * y).d[0] == 24.0 && (x * x * y).d[1] == 9.0);
  static_assert(dual<double, 2>{}.d[1] == 0.0);
  CHECK(f.v == rational(3.0, 4.0) - 0.75);
  static_assert(std::is_trivially_copyable_v<dual<double, 6>> &&
                std::is_trivially_default_constructible_v<dual<double, 6>> &&
                sizeof(dual<double, 6>) == 7 * sizeof(double));
}

TEST_CASE("chain lifts a function with a known derivative") {
  const auto x = dual<double, 1>::variable(0.3, 0) * 2.0;
  const auto r = chain(x, std::tanh(x.v), 1 - std::tanh(x.v) * std::tanh(x.v));
  CHECK(r.v == std::tanh(0.6));
  CHECK(r.d[0] == doctest::Approx(2 / (std::cosh(0.6) * std::cosh(0.6))).epsilon(1e-15));
}

TEST_CASE("numbers that are the same for all lanes stand next to packs, with their derivatives") {
  using lanes = pack<double, 4, isa::base>;
  using number = dual<double, 1>;  // with its rate along e
  using particles = dual<lanes, 1>;
  using moving = dual<particles, 1>;  // with its tangent too
  lanes x(0.0), rate(0.0), tangent(0.0), tangent_rate(0.0);
  for (int i = 0; i < 4; ++i) {
    x.set(i, 0.2 + 0.3 * i);
    rate.set(i, 1.0 - 0.5 * i);
    tangent.set(i, 0.7 * i);
    tangent_rate.set(i, -0.4 + i);
  }
  moving z;
  z.v.v = x;
  z.v.d[0] = rate;
  z.d[0].v = tangent;
  z.d[0].d[0] = tangent_rate;
  number k(1.3);
  k.d[0] = 0.6;
  const auto f = [](const auto& q, const auto& c) {
    return c * sin(q * c) + (q - c) / (c + q * q) + 2.0 / (c * q) + sqrt(q + c) - q / c;
  };
  const moving r = f(z, k);
  using varied = dual<number, 1>;
  varied c(k);  // a coefficient that varies along the tangent
  c.d[0].v = 0.9;
  c.d[0].d[0] = -0.2;
  const moving s = f(z, c);
  for (int i = 0; i < 4; ++i) {
    const auto scalar = [&](double value, double e, double t, double te) {
      varied one;
      one.v.v = value;
      one.v.d[0] = e;
      one.d[0].v = t;
      one.d[0].d[0] = te;
      return one;
    };
    const varied lane = scalar(x[i], rate[i], tangent[i], tangent_rate[i]);
    const auto check = [&](const moving& found, const varied& expected) {
      CHECK(deviation(found.v.v[i], expected.v.v) < 1e-14);
      CHECK(deviation(found.v.d[0][i], expected.v.d[0]) < 1e-14);
      CHECK(deviation(found.d[0].v[i], expected.d[0].v) < 1e-14);
      CHECK(deviation(found.d[0].d[0][i], expected.d[0].d[0]) < 1e-13);
    };
    check(r, f(lane, varied(k)));
    check(s, f(lane, c));
  }
}

TEST_CASE_TEMPLATE("dual numbers of packs are lanes of dual numbers", F, float, double) {
  using lanes = pack<F, 4, isa::base>;
  using dual2 = dual<lanes, 2>;
  lanes x, y;
  for (int i = 0; i < 4; ++i) {
    x.set(i, static_cast<F>(0.3 * i - 0.4));
    y.set(i, static_cast<F>(0.0 + 0.5 * i));
  }
  const dual2 a = dual2::variable(x, 0), b = dual2::variable(y, 1);
  const auto f = [](auto u, auto w) {
    auto root = sqrt(w);  // w = 0 in lane 0
    return select(u < 0.0, sin(u) * 2.0, rsqrt(1.0 + u * u)) + abs(u) / (1.0 + w) + root - 1.5f * w;
  };
  const dual2 r = f(a, b);
  for (int i = 0; i < 4; ++i) {
    CAPTURE(i);
    using scalar2 = dual<F, 2>;
    const scalar2 expected = f(scalar2::variable(x[i], 0), scalar2::variable(y[i], 1));
    CHECK(deviation(r.v[i], expected.v) <= tolerance<F>);
    CHECK(deviation(r.d[0][i], expected.d[0]) <= tolerance<F>);
    if (i == 0) {
      CHECK(static_cast<double>(r.d[1][i]) == infinity);
    } else {
      CHECK(deviation(r.d[1][i], expected.d[1]) <= tolerance<F>);
    }
  }
  CHECK(any_of(a > 0.4));
  CHECK(!any_of(a > 1.0));
  static_assert(std::is_same_v<decltype(value_of(dual<dual2, 1>(a))), lanes>);
}
