// taylor.h: truncated power series, numbers that carry their derivatives of several orders.
//
// taylor<Order, N> is a polynomial of degree Order in N variables, cut behind that degree,
//
//     x = c_0 + sum_i c_i e_i + sum_{i<=j} c_ij e_i e_j + sum_{i<=j<=k} c_ijk e_i e_j e_k + ...
//
// A function of x is its own series around c_0 in what is left of x, which is nilpotent: exact to rounding. Pushed
// through the maps of a lattice, the coordinates become their power series in those at the start.
// Source: M. Berz, Part. Accel. 24 (1989) 109 (differential algebra).
//
// The coefficients stand by degree, within a degree by indices in ascending order:
//   1 | e_0, e_1, ... | e_0 e_0, e_0 e_1, ..., e_1 e_1, ... | e_0 e_0 e_0, ...
// Comparisons look at c_0 alone, as for dual numbers. For the host only: products go by a table.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "numerics/arcsine.h"
#include "numerics/entire.h"
#include "numerics/functions.h"

namespace betatron::numerics {

/// Monomials of degree <= `degree` in `variables` variables: (variables + degree)! / (variables! degree!).
constexpr std::size_t monomial_count(int variables, int degree) {
  std::size_t r = 1;
  for (int i = 1; i <= degree; ++i) {
    r = r * static_cast<std::size_t>(variables + i) / static_cast<std::size_t>(i);
  }
  return r;
}

namespace detail {

/// Which product of two monomials is which: only those that are kept.
template <int Order, int N>
struct product_table {
  struct entry {
    std::uint16_t a, b, product;
  };
  std::vector<entry> entries{};

  product_table() {
    constexpr std::size_t count = monomial_count(N, Order);
    using exponents = std::array<int, N>;
    std::vector<exponents> powers;
    std::vector<int> degrees;
    auto list = [&](auto&& self, exponents e, int first, int left) -> void {
      if (left == 0) {
        powers.push_back(e);
        return;
      }
      for (int i = first; i < N; ++i) {
        ++e[static_cast<std::size_t>(i)];
        self(self, e, i, left - 1);
        --e[static_cast<std::size_t>(i)];
      }
    };
    for (int degree = 0; degree <= Order; ++degree) {
      list(list, exponents{}, 0, degree);
      degrees.resize(powers.size(), degree);
    }
    for (std::size_t a = 0; a < count; ++a) {
      for (std::size_t b = 0; b < count; ++b) {
        if (degrees[a] + degrees[b] > Order) continue;
        exponents sum = powers[a];
        for (std::size_t i = 0; i < N; ++i) sum[i] += powers[b][i];
        std::size_t at = monomial_count(N, degrees[a] + degrees[b] - 1);
        if (degrees[a] + degrees[b] == 0) at = 0;
        while (powers[at] != sum) ++at;
        entries.push_back({static_cast<std::uint16_t>(a), static_cast<std::uint16_t>(b),
                           static_cast<std::uint16_t>(at)});
      }
    }
  }
};

template <int Order, int N>
inline const product_table<Order, N> products{};

}  // namespace detail

template <int Order, int N = 6>
struct taylor {
  static_assert(Order >= 1 && N >= 1);
  using value_type = double;
  static constexpr int order = Order;
  static constexpr std::size_t count = monomial_count(N, Order);

  std::array<double, count> c;

  taylor() = default;
  taylor(double constant) : c{} { c[0] = constant; }

  /// `value` plus the variable e_i.
  static taylor variable(double value, int i) {
    taylor r(value);
    r.c[static_cast<std::size_t>(1 + i)] = 1;
    return r;
  }

  double value() const { return c[0]; }

  /// What is left of the series without its constant term.
  taylor nilpotent() const {
    taylor r = *this;
    r.c[0] = 0;
    return r;
  }

  friend taylor operator-(taylor a) {
    for (double& x : a.c) x = -x;
    return a;
  }
  friend taylor operator+(taylor a, const taylor& b) {
    for (std::size_t i = 0; i < count; ++i) a.c[i] += b.c[i];
    return a;
  }
  friend taylor operator-(taylor a, const taylor& b) {
    for (std::size_t i = 0; i < count; ++i) a.c[i] -= b.c[i];
    return a;
  }
  friend taylor operator*(const taylor& a, const taylor& b) {
    taylor r(0.0);
    for (const auto& e : detail::products<Order, N>.entries) r.c[e.product] += a.c[e.a] * b.c[e.b];
    return r;
  }
  friend taylor operator/(const taylor& a, const taylor& b) { return a * reciprocal(b); }

  friend taylor operator+(taylor a, double b) {
    a.c[0] += b;
    return a;
  }
  friend taylor operator+(double a, const taylor& b) { return b + a; }
  friend taylor operator-(taylor a, double b) {
    a.c[0] -= b;
    return a;
  }
  friend taylor operator-(double a, const taylor& b) { return -b + a; }
  friend taylor operator*(taylor a, double b) {
    for (double& x : a.c) x *= b;
    return a;
  }
  friend taylor operator*(double a, const taylor& b) { return b * a; }
  friend taylor operator/(taylor a, double b) {
    for (double& x : a.c) x /= b;
    return a;
  }
  friend taylor operator/(double a, const taylor& b) { return reciprocal(b) * a; }

  taylor& operator+=(const taylor& b) { return *this = *this + b; }
  taylor& operator-=(const taylor& b) { return *this = *this - b; }
  taylor& operator*=(const taylor& b) { return *this = *this * b; }
  taylor& operator/=(const taylor& b) { return *this = *this / b; }

  friend bool operator<(const taylor& a, const taylor& b) { return a.c[0] < b.c[0]; }
  friend bool operator<=(const taylor& a, const taylor& b) { return a.c[0] <= b.c[0]; }
  friend bool operator>(const taylor& a, const taylor& b) { return a.c[0] > b.c[0]; }
  friend bool operator>=(const taylor& a, const taylor& b) { return a.c[0] >= b.c[0]; }
  friend bool operator==(const taylor& a, const taylor& b) { return a.c[0] == b.c[0]; }
};

/// f(x) from the coefficients f[k] = f^(k)(c_0)/k! of the series of f around c_0.
template <int Order, int N>
taylor<Order, N> compose(const std::array<double, Order + 1>& f, const taylor<Order, N>& x) {
  const taylor<Order, N> n = x.nilpotent();
  taylor<Order, N> r(f[Order]);
  for (int k = Order - 1; k >= 0; --k) r = r * n + f[static_cast<std::size_t>(k)];
  return r;
}

namespace detail {

/// Coefficients of (v + n)^power in powers of n.
template <int Order>
std::array<double, Order + 1> power_series(double v, double power) {
  std::array<double, Order + 1> f;
  f[0] = std::pow(v, power);
  for (std::size_t k = 1; k <= Order; ++k) {
    const double i = static_cast<double>(k);
    f[k] = f[k - 1] * (power - i + 1) / (i * v);
  }
  return f;
}

}  // namespace detail

template <int Order, int N>
taylor<Order, N> reciprocal(const taylor<Order, N>& x) {
  return compose(detail::power_series<Order>(x.value(), -1), x);
}

template <int Order, int N>
taylor<Order, N> sqrt(const taylor<Order, N>& x) {
  auto f = detail::power_series<Order>(x.value(), 0.5);
  return compose(f, x);
}

/// 1/sqrt(x)
template <int Order, int N>
taylor<Order, N> rsqrt(const taylor<Order, N>& x) {
  return compose(detail::power_series<Order>(x.value(), -0.5), x);
}

template <int Order, int N>
taylor<Order, N> abs(const taylor<Order, N>& x) {
  return x.value() < 0 ? -x : x;
}

/// The nearest integer: a step function, all derivatives 0.
template <int Order, int N>
taylor<Order, N> round_to_integer(const taylor<Order, N>& x) {
  return std::nearbyint(x.value());
}

template <int Order, int N>
taylor<Order, N> select(bool mask, const taylor<Order, N>& a, const taylor<Order, N>& b) {
  return mask ? a : b;
}

/// s = sin(x), c = cos(x)
template <int Order, int N>
void sincos(const taylor<Order, N>& x, taylor<Order, N>& s, taylor<Order, N>& c) {
  const double sine = std::sin(x.value()), cosine = std::cos(x.value());
  const double cycle[4] = {sine, cosine, -sine, -cosine};
  std::array<double, Order + 1> fs, fc;
  double factor = 1;  // 1/k!
  for (std::size_t k = 0; k <= Order; ++k) {
    if (k > 0) factor /= static_cast<double>(k);
    fs[k] = cycle[k % 4] * factor;
    fc[k] = cycle[(k + 1) % 4] * factor;
  }
  const taylor<Order, N> argument = x;  // x may be the same object as s or c
  s = compose(fs, argument);
  c = compose(fc, argument);
}
template <int Order, int N>
taylor<Order, N> sin(const taylor<Order, N>& x) {
  taylor<Order, N> s, c;
  sincos(x, s, c);
  return s;
}
template <int Order, int N>
taylor<Order, N> cos(const taylor<Order, N>& x) {
  taylor<Order, N> s, c;
  sincos(x, s, c);
  return c;
}

template <int Order, int N>
taylor<Order, N> exp(const taylor<Order, N>& x) {
  std::array<double, Order + 1> f{std::exp(x.value())};
  for (std::size_t k = 1; k <= Order; ++k) f[k] = f[k - 1] / static_cast<double>(k);
  return compose(f, x);
}

/// Natural logarithm.
template <int Order, int N>
taylor<Order, N> log(const taylor<Order, N>& x) {
  const auto slope = detail::power_series<Order>(x.value(), -1);
  std::array<double, Order + 1> f{std::log(x.value())};
  for (std::size_t k = 1; k <= Order; ++k) f[k] = slope[k - 1] / static_cast<double>(k);
  return compose(f, x);
}

/// The slope d = 1/(1 + x^2) has (1 + v^2) d_k + 2 v d_{k-1} + d_{k-2} = 0 for k > 0.
template <int Order, int N>
taylor<Order, N> atan(const taylor<Order, N>& x) {
  const double v = x.value(), scale = 1 / (1 + v * v);
  std::array<double, Order + 1> f{std::atan(v)}, d{scale};
  for (std::size_t k = 1; k <= Order; ++k) {
    f[k] = d[k - 1] / static_cast<double>(k);
    d[k] = -scale * (2 * v * d[k - 1] + (k > 1 ? d[k - 2] : 0));
  }
  return compose(f, x);
}

/// c_0 ... c_{K-1} of x: the derivative of c_k is (k c_{k+2} - c_{k+1})/2, see entire.h.
template <int K, int Order, int N>
void stumpff(const taylor<Order, N>& x, double, taylor<Order, N> (&c)[K]) {
  constexpr int size = K + 2 * Order;
  double values[size], slopes[size];
  detail::stumpff_of_lane(x.value(), values, size);
  std::array<std::array<double, Order + 1>, K> f;
  double factor = 1;  // 1/n!
  for (int n = 0; n <= Order; ++n) {
    if (n > 0) factor /= n;
    for (std::size_t k = 0; k < K; ++k) f[k][static_cast<std::size_t>(n)] = values[k] * factor;
    // the n-th derivatives are known for as many k as are needed for the next
    for (int k = 0; k < size - 2 * (n + 1); ++k)
      slopes[k] = (k * values[k + 2] - values[k + 1]) / 2;
    for (int k = 0; k < size - 2 * (n + 1); ++k) values[k] = slopes[k];
  }
  for (std::size_t k = 0; k < K; ++k) c[k] = compose(f[k], x);
}

template <int Order, int N>
void oscillator_pair(const taylor<Order, N>& x, double reach, taylor<Order, N> (&plus)[2],
                     taylor<Order, N> (&minus)[2]) {
  taylor<Order, N> c[4];
  stumpff<4>(x, reach, c);
  plus[0] = c[0];
  plus[1] = c[1];
  stumpff<4>(-x, reach, c);
  minus[0] = c[0];
  minus[1] = c[1];
}

namespace detail {

/// Coefficients around v of f(u) = sum_n (sign u)^n/(2n + 1), which is atan(w)/w (sign -1) or atanh(w)/w (sign 1)
/// with w^2 = u: by this sum where v is small, else from 2 u f' + f = 1/(1 - sign u).
template <int Order>
std::array<double, Order + 1> arc_ratio_series(double v, double value, double sign) {
  std::array<double, Order + 1> f{};
  if (std::fabs(v) < 0.2) {
    constexpr int terms = 26 + Order;
    for (std::size_t k = 1; k <= Order; ++k) {
      for (int n = terms; n >= static_cast<int>(k); --n) {
        double binomial = 1;
        for (std::size_t i = 1; i <= k; ++i) {
          binomial *= static_cast<double>(n) - static_cast<double>(k - i);
          binomial /= static_cast<double>(i);
        }
        const double sign_n = sign < 0 && n % 2 ? -1 : 1;
        f[k] = f[k] * v + sign_n * binomial / (2 * n + 1);
      }
    }
    f[0] = value;
    return f;
  }
  f[0] = value;
  const double scale = 1 / (1 - sign * v);
  double g = scale;  // coefficients of 1/(1 - sign u)
  for (std::size_t k = 0; k < Order; ++k) {
    const double n = static_cast<double>(k);
    f[k + 1] = (g - (2 * n + 1) * f[k]) / (2 * v * (n + 1));
    g *= sign * scale;
  }
  return f;
}

}  // namespace detail

template <int Order, int N>
taylor<Order, N> atan_ratio(const taylor<Order, N>& u) {
  const double v = u.value();
  return compose(detail::arc_ratio_series<Order>(v, atan_ratio(v), -1), u);
}

template <int Order, int N>
taylor<Order, N> atanh_ratio(const taylor<Order, N>& u) {
  const double v = u.value();
  return compose(detail::arc_ratio_series<Order>(v, atanh_ratio(v), 1), u);
}

/// A = asin(zeta)/sqrt(1 - zeta^2), see arcsine.h. From A' (1 - zeta^2) = 1 + zeta A,
///   (k + 1)(1 - z^2) A_{k+1} = [k = 0] + (2k + 1) z A_k + k A_{k-1}      around zeta = z.
template <int Order, int N>
complex_value<taylor<Order, N>> arcsine_ratio(const taylor<Order, N>& x,
                                              const taylor<Order, N>& y) {
  struct number {
    double re, im;
  };
  auto times = [](number a, number b) {
    return number{a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
  };
  const number z{x.value(), y.value()};
  const complex_value<double> start = arcsine_ratio(z.re, z.im);
  const number w{(1 - z.re) * (1 + z.re) + z.im * z.im, -2 * z.re * z.im};  // 1 - z^2
  const double size = w.re * w.re + w.im * w.im;
  const number inverse{w.re / size, -w.im / size};
  std::array<number, Order + 1> f;
  f[0] = {start.re, start.im};
  for (std::size_t k = 0; k < Order; ++k) {
    const double n = static_cast<double>(k);
    number sum = times(z, f[k]);
    sum = {sum.re * (2 * n + 1) + (k == 0 ? 1 : 0), sum.im * (2 * n + 1)};
    if (k > 0) sum = {sum.re + n * f[k - 1].re, sum.im + n * f[k - 1].im};
    sum = times(sum, inverse);
    f[k + 1] = {sum.re / (n + 1), sum.im / (n + 1)};
  }
  const taylor<Order, N> a = x.nilpotent(), b = y.nilpotent();
  complex_value<taylor<Order, N>> r{f[Order].re, f[Order].im};
  for (int k = Order - 1; k >= 0; --k) {
    const number& c = f[static_cast<std::size_t>(k)];
    r = {r.re * a - r.im * b + c.re, r.re * b + r.im * a + c.im};
  }
  return r;
}

template <int Order, int N>
double value_of(const taylor<Order, N>& x) {
  return x.value();
}

}  // namespace betatron::numerics
