// dual.h: numbers that carry their derivatives.
//
// dual<T, N> is a value and its derivatives along N directions,
//
//     x = v + d_1 e_1 + ... + d_N e_N,      e_i e_j = 0,
//
// so that f(x) carries f(v) and f'(v) d_i: forward-mode differentiation, exact to rounding (W. K.
// Clifford 1873; A. Griewank and A. Walther, Evaluating Derivatives, 2nd ed., 2008, ch. 3). T is
// any scalar: float, double, a pack, or another dual number, which gives second derivatives:
//
//     using first = dual<double, 1>;
//     using second = dual<first, 1>;
//     const second x = second::variable(first::variable(0.3, 0), 0);
//     sin(x).d[0].d[0];  // -sin(0.3)
//
// Constants stay constants: x * 2.0 costs N + 1 products, not 2 N + 1.
//
// At a singularity. sqrt has a finite value and an infinite slope at 0. There a direction along
// which x does not move (tangent exactly 0) keeps the derivative 0, and the others get +-infinity:
// without that rule 0 * infinity would spread NaN from a strength or an amplitude of zero to every
// derivative. Functions whose value is itself infinite (1/x, rsqrt, log at 0) have no such rule:
// their tangents are infinite or NaN.
#pragma once

#include <cassert>
#include <type_traits>

#include "numerics/functions.h"
#include "numerics/hd.h"

namespace betatron::numerics {

template <class T, int N>
struct dual;

template <class T>
struct is_dual : std::false_type {};
template <class T, int N>
struct is_dual<dual<T, N>> : std::true_type {};

namespace detail {

/// S is T but for one number where T has a pack of them: what is the same for all lanes, with its
/// derivatives.
template <class S, class T>
struct broadcasts : std::bool_constant<is_pack<T>::value && std::is_same_v<S, scalar_of<T>>> {};
template <class S, class T, int N>
struct broadcasts<dual<S, N>, dual<T, N>> : broadcasts<S, T> {};

/// S can stand for a constant next to a dual<T, N>: a number, a T, a constant of T, or one that is
/// broadcast to T.
template <class S, class T>
struct is_constant_of : std::bool_constant<std::is_arithmetic_v<S> || std::is_same_v<S, T>> {};
template <class S, class T, int N>
struct is_constant_of<S, dual<T, N>>
    : std::bool_constant<std::is_same_v<S, dual<T, N>> || broadcasts<S, dual<T, N>>::value ||
                         is_constant_of<S, T>::value> {};

}  // namespace detail

template <class S, class T>
concept constant_of = detail::is_constant_of<S, T>::value;

namespace detail {

/// The constant as the operations on T want it: a plain number becomes a T, or the scalar T is made
/// of where T is itself a dual number, so that no products with zero tangents arise.
template <class T, constant_of<T> S>
BETATRON_INLINE constexpr auto as_operand(const S& s) {
  if constexpr (!std::is_arithmetic_v<S>) {
    return s;
  } else if constexpr (is_dual<T>::value) {
    return static_cast<scalar_of<T>>(s);
  } else {
    return static_cast<T>(s);
  }
}

/// a b, where a factor that is exactly 0 wins over infinity and NaN.
template <class T>
BETATRON_INLINE T product_zero_wins(const T& a, const T& b) {
  if constexpr (is_dual<T>::value) {
    T r;
    r.v = product_zero_wins(a.v, b.v);
    for (int i = 0; i < T::directions; ++i) {
      r.d[i] = product_zero_wins(a.d[i], b.v) + product_zero_wins(a.v, b.d[i]);
    }
    return r;
  } else {
    const T zero = as_operand<T>(0);
    return select(a == zero, zero, select(b == zero, zero, a * b));
  }
}

/// 1/a by the rule of product_zero_wins, where a is a square root (so that -0 means 0).
template <class T>
BETATRON_INLINE T reciprocal_of_root(const T& a) {
  if constexpr (is_dual<T>::value) {
    T r;
    r.v = reciprocal_of_root(a.v);
    const auto slope = -product_zero_wins(r.v, r.v);
    for (int i = 0; i < T::directions; ++i) r.d[i] = product_zero_wins(a.d[i], slope);
    return r;
  } else {
    return as_operand<T>(1) / abs(a);
  }
}

}  // namespace detail

/// A value of type T and its derivatives along N directions. Default-initialised members are
/// undetermined, as for double; dual{} is zero.
template <class T, int N>
struct dual {
  static_assert(N >= 1, "a dual number has at least one direction");
  using value_type = T;
  static constexpr int directions = N;

  T v;     ///< the value
  T d[N];  ///< its derivatives

  dual() = default;

  /// A constant: all derivatives 0.
  template <constant_of<T> S>
  BETATRON_INLINE constexpr dual(const S& constant) : v(detail::as_operand<T>(constant)), d{} {}

  /// The same number for every lane of a pack: a coefficient, with its derivatives, next to packs of particles.
  template <class S>
    requires(detail::broadcasts<S, T>::value)
  BETATRON_INLINE dual(const dual<S, N>& broadcast) : v(broadcast.v) {
    for (int i = 0; i < N; ++i) d[i] = T(broadcast.d[i]);
  }

  /// The variable of direction `direction` (0 ... N - 1): its derivative is 1 there and 0
  /// elsewhere.
  static BETATRON_INLINE constexpr dual variable(const T& value, int direction) {
    assert(direction >= 0 && direction < N);
    dual r(value);
    r.d[direction] = T(detail::as_operand<T>(1));
    return r;
  }

  BETATRON_INLINE constexpr dual operator+() const { return *this; }
  BETATRON_INLINE constexpr dual operator-() const {
    dual r;
    r.v = -v;
    for (int i = 0; i < N; ++i) r.d[i] = -d[i];
    return r;
  }

  // dual with dual

  friend BETATRON_INLINE constexpr dual operator+(const dual& a, const dual& b) {
    dual r;
    r.v = a.v + b.v;
    for (int i = 0; i < N; ++i) r.d[i] = a.d[i] + b.d[i];
    return r;
  }
  friend BETATRON_INLINE constexpr dual operator-(const dual& a, const dual& b) {
    dual r;
    r.v = a.v - b.v;
    for (int i = 0; i < N; ++i) r.d[i] = a.d[i] - b.d[i];
    return r;
  }
  friend BETATRON_INLINE constexpr dual operator*(const dual& a, const dual& b) {
    dual r;
    r.v = a.v * b.v;
    for (int i = 0; i < N; ++i) r.d[i] = a.d[i] * b.v + a.v * b.d[i];
    return r;
  }
  friend BETATRON_INLINE constexpr dual operator/(const dual& a, const dual& b) {
    dual r;
    r.v = a.v / b.v;
    const T inverse = detail::as_operand<T>(1) / b.v;
    for (int i = 0; i < N; ++i) r.d[i] = (a.d[i] - r.v * b.d[i]) * inverse;
    return r;
  }

  // dual with constant

  template <constant_of<T> S>
  friend BETATRON_INLINE constexpr dual operator+(const dual& a, const S& s) {
    dual r = a;
    r.v = a.v + detail::as_operand<T>(s);
    return r;
  }
  template <constant_of<T> S>
  friend BETATRON_INLINE constexpr dual operator+(const S& s, const dual& a) {
    return a + s;
  }
  template <constant_of<T> S>
  friend BETATRON_INLINE constexpr dual operator-(const dual& a, const S& s) {
    dual r = a;
    r.v = a.v - detail::as_operand<T>(s);
    return r;
  }
  template <constant_of<T> S>
  friend BETATRON_INLINE constexpr dual operator-(const S& s, const dual& a) {
    dual r = -a;
    r.v = detail::as_operand<T>(s) - a.v;
    return r;
  }
  template <constant_of<T> S>
  friend BETATRON_INLINE constexpr dual operator*(const dual& a, const S& s) {
    const auto c = detail::as_operand<T>(s);
    dual r;
    r.v = a.v * c;
    for (int i = 0; i < N; ++i) r.d[i] = a.d[i] * c;
    return r;
  }
  template <constant_of<T> S>
  friend BETATRON_INLINE constexpr dual operator*(const S& s, const dual& a) {
    return a * s;
  }
  template <constant_of<T> S>
  friend BETATRON_INLINE constexpr dual operator/(const dual& a, const S& s) {
    const auto c = detail::as_operand<T>(s);
    dual r;
    r.v = a.v / c;
    const auto inverse = detail::as_operand<T>(1) / c;
    for (int i = 0; i < N; ++i) r.d[i] = a.d[i] * inverse;
    return r;
  }
  template <constant_of<T> S>
  friend BETATRON_INLINE constexpr dual operator/(const S& s, const dual& a) {
    dual r;
    r.v = detail::as_operand<T>(s) / a.v;
    const T slope = -r.v / a.v;
    for (int i = 0; i < N; ++i) r.d[i] = slope * a.d[i];
    return r;
  }

  BETATRON_INLINE constexpr dual& operator+=(const dual& b) { return *this = *this + b; }
  BETATRON_INLINE constexpr dual& operator-=(const dual& b) { return *this = *this - b; }
  BETATRON_INLINE constexpr dual& operator*=(const dual& b) { return *this = *this * b; }
  BETATRON_INLINE constexpr dual& operator/=(const dual& b) { return *this = *this / b; }
  template <constant_of<T> S>
  BETATRON_INLINE constexpr dual& operator+=(const S& s) {
    return *this = *this + s;
  }
  template <constant_of<T> S>
  BETATRON_INLINE constexpr dual& operator-=(const S& s) {
    return *this = *this - s;
  }
  template <constant_of<T> S>
  BETATRON_INLINE constexpr dual& operator*=(const S& s) {
    return *this = *this * s;
  }
  template <constant_of<T> S>
  BETATRON_INLINE constexpr dual& operator/=(const S& s) {
    return *this = *this / s;
  }

  // Comparisons look at the value alone, so that a program takes the same branches with and without
  // derivatives. They answer bool, or the mask of a pack.

  friend BETATRON_INLINE constexpr auto operator<(const dual& a, const dual& b) {
    return a.v < b.v;
  }
  friend BETATRON_INLINE constexpr auto operator<=(const dual& a, const dual& b) {
    return a.v <= b.v;
  }
  friend BETATRON_INLINE constexpr auto operator>(const dual& a, const dual& b) {
    return a.v > b.v;
  }
  friend BETATRON_INLINE constexpr auto operator>=(const dual& a, const dual& b) {
    return a.v >= b.v;
  }
  friend BETATRON_INLINE constexpr auto operator==(const dual& a, const dual& b) {
    return a.v == b.v;
  }
};

/// The innermost value: float, double or a pack.
template <class T, int N>
BETATRON_INLINE constexpr auto value_of(const dual<T, N>& x) {
  return value_of(x.v);
}

template <class T, int N>
BETATRON_INLINE constexpr bool vanishes(const dual<T, N>& x) {
  bool zero = vanishes(x.v);
  for (int i = 0; i < N; ++i) zero = zero && vanishes(x.d[i]);
  return zero;
}

/// The dual number of f(x), given f(x.v) and f'(x.v): the chain rule, for functions written
/// elsewhere.
template <class T, int N>
BETATRON_INLINE constexpr dual<T, N> chain(const dual<T, N>& x, const T& value, const T& slope) {
  dual<T, N> r;
  r.v = value;
  for (int i = 0; i < N; ++i) r.d[i] = slope * x.d[i];
  return r;
}

/// a where `mask` is set, b elsewhere, derivatives included. mask: bool or the mask of a pack.
template <class M, class T, int N>
BETATRON_INLINE dual<T, N> select(const M& mask, const dual<T, N>& a, const dual<T, N>& b) {
  dual<T, N> r;
  r.v = select(mask, a.v, b.v);
  for (int i = 0; i < N; ++i) r.d[i] = select(mask, a.d[i], b.d[i]);
  return r;
}
template <class M, class T, int N, constant_of<T> S>
BETATRON_INLINE dual<T, N> select(const M& mask, const dual<T, N>& a, const S& b) {
  return select(mask, a, dual<T, N>(b));
}
template <class M, class T, int N, constant_of<T> S>
BETATRON_INLINE dual<T, N> select(const M& mask, const S& a, const dual<T, N>& b) {
  return select(mask, dual<T, N>(a), b);
}

/// |x|. The derivative is that of the sign; at 0 it is 0, the middle of the subgradient.
template <class T, int N>
BETATRON_INLINE dual<T, N> abs(const dual<T, N>& x) {
  const T zero(detail::as_operand<T>(0));
  dual<T, N> r;
  r.v = abs(x.v);
  for (int i = 0; i < N; ++i) {
    r.d[i] = select(x.v > zero, x.d[i], select(x.v < zero, -x.d[i], zero));
  }
  return r;
}

/// The nearest integer: a step function, all derivatives 0.
template <class T, int N>
BETATRON_INLINE dual<T, N> round_to_integer(const dual<T, N>& x) {
  return dual<T, N>(round_to_integer(x.v));
}

/// Square root. At 0: see the top of this file.
template <class T, int N>
BETATRON_INLINE dual<T, N> sqrt(const dual<T, N>& x) {
  dual<T, N> r;
  r.v = sqrt(x.v);
  const T slope = detail::reciprocal_of_root(r.v) * detail::as_operand<T>(0.5);
  for (int i = 0; i < N; ++i) r.d[i] = detail::product_zero_wins(x.d[i], slope);
  return r;
}

/// 1/sqrt(x)
template <class T, int N>
BETATRON_INLINE dual<T, N> rsqrt(const dual<T, N>& x) {
  const T r = rsqrt(x.v);
  return chain(x, r, r * r * r * detail::as_operand<T>(-0.5));
}

/// s = sin(x), c = cos(x)
template <class T, int N>
BETATRON_INLINE void sincos(const dual<T, N>& x, dual<T, N>& s, dual<T, N>& c) {
  T sine, cosine;
  sincos(x.v, sine, cosine);
  const dual<T, N> argument = x;  // x may be the same object as s or c
  s = chain(argument, sine, cosine);
  c = chain(argument, cosine, -sine);
}
template <class T, int N>
BETATRON_INLINE dual<T, N> sin(const dual<T, N>& x) {
  T s, c;
  sincos(x.v, s, c);
  return chain(x, s, c);
}
template <class T, int N>
BETATRON_INLINE dual<T, N> cos(const dual<T, N>& x) {
  T s, c;
  sincos(x.v, s, c);
  return chain(x, c, -s);
}

template <class T, int N>
BETATRON_INLINE dual<T, N> atan(const dual<T, N>& x) {
  const T slope = detail::as_operand<T>(1) / (x.v * x.v + detail::as_operand<T>(1));
  return chain(x, atan(x.v), slope);
}

template <class T, int N>
BETATRON_INLINE dual<T, N> exp(const dual<T, N>& x) {
  const T r = exp(x.v);
  return chain(x, r, r);
}

/// Natural logarithm.
template <class T, int N>
BETATRON_INLINE dual<T, N> log(const dual<T, N>& x) {
  return chain(x, log(x.v), detail::as_operand<T>(1) / x.v);
}

}  // namespace betatron::numerics
