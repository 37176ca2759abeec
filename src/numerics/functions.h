// functions.h: the elementary functions that maps may call, for every scalar type.
//
// Maps call them unqualified; float and double find them here by an enclosing namespace or a using
// declaration, packs (pack.h) and dual numbers (dual.h) by argument-dependent look-up.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "numerics/hd.h"
#include "numerics/pack.h"

namespace betatron::numerics {

template <class T>
concept real = std::is_same_v<T, float> || std::is_same_v<T, double>;

template <class T>
concept simd_pack = is_pack<T>::value;

template <class T>
concept real_or_pack = real<T> || simd_pack<T>;

namespace detail {
template <class T>
struct scalar_type {
  using type = T;
};
template <class T>
  requires requires { typename T::value_type; }
struct scalar_type<T> {
  using type = typename scalar_type<typename T::value_type>::type;
};
}  // namespace detail

/// float or double: what a pack, a dual number, or a dual number of packs is made of.
template <class T>
using scalar_of = typename detail::scalar_type<T>::type;

/// A number without its derivatives, if it has any (dual.h).
template <real_or_pack T>
BETATRON_INLINE constexpr T value_of(T a) {
  return a;
}
/// True for a number that is zero, as all its derivatives are: what is multiplied by it need not be computed.
template <real T>
BETATRON_INLINE constexpr bool vanishes(T a) {
  return a == T(0);
}

template <real T>
BETATRON_INLINE T sqrt(T a) {
  return std::sqrt(a);
}
template <real T>
BETATRON_INLINE T rsqrt(T a) {
  return T(1) / std::sqrt(a);
}
template <real T>
BETATRON_INLINE T abs(T a) {
  return std::fabs(a);
}
template <real T>
BETATRON_INLINE T select(bool m, T a, T b) {
  return m ? a : b;
}
template <real T>
BETATRON_INLINE T round_to_integer(T a) {
  return std::nearbyint(a);
}
template <real T>
BETATRON_INLINE T sin(T a) {
  return std::sin(a);
}
template <real T>
BETATRON_INLINE T cos(T a) {
  return std::cos(a);
}
template <real T>
BETATRON_INLINE T atan(T a) {
  return std::atan(a);
}
template <real T>
BETATRON_INLINE T exp(T a) {
  return std::exp(a);
}
template <real T>
BETATRON_INLINE T log(T a) {
  return std::log(a);
}
template <real T>
BETATRON_INLINE void sincos(T a, T& s, T& c) {
  s = std::sin(a);
  c = std::cos(a);
}

namespace detail {

// Out of line and compiled once for the baseline, so that no instruction set leaks (see hd.h). They serve
// the rare lanes that leave the range of the vector formulas.
double sin_of_lane(double a);
double cos_of_lane(double a);
double atan_of_lane(double a);
double atanh_of_lane(double a);

template <class P, class Function>
BETATRON_INLINE P lane_by_lane(P a, Function f) {
  P r;
  for (int i = 0; i < P::width; ++i) {
    r.set(i, static_cast<typename P::value_type>(f(static_cast<double>(a[i]))));
  }
  return r;
}

/// 1/n!
template <class F>
BETATRON_HD constexpr F inverse_factorial(int n) {
  double r = 1;
  for (int i = 2; i <= n; ++i) r /= i;
  return static_cast<F>(r);
}

/// sum_{n < Terms} (+-1)^n z^n / (First + Step n)!, the signs alternating if Alternate. Everything but z is a
/// template parameter, so that the coefficients are constants in the code whatever the compiler unrolls.
template <int First, int Step, int Terms, bool Alternate, int N = 0, class T>
BETATRON_INLINE T factorial_series(T z) {
  using F = scalar_of<T>;
  constexpr F sign = Alternate && N % 2 ? F(-1) : F(1);
  constexpr F c = sign * inverse_factorial<F>(First + Step * N);
  if constexpr (N + 1 < Terms) {
    return factorial_series<First, Step, Terms, Alternate, N + 1>(z) * z + T(c);
  } else {
    return T(c);
  }
}

}  // namespace detail

/// sin(a) and cos(a). Packs: Cody-Waite reduction by pi/2 in three pieces and Taylor polynomials on
/// |r| <= pi/4, for |a| < 1e5 (double) or 1e3 (float); beyond, lane by lane.
template <simd_pack P>
BETATRON_INLINE void sincos(P a, P& s, P& c) {
  using F = typename P::value_type;
  constexpr bool wide = sizeof(F) == 8;
  if (any_of(!(abs(a) < P(wide ? 1e5 : 1e3)))) [[unlikely]] {
    s = detail::lane_by_lane(a, detail::sin_of_lane);
    c = detail::lane_by_lane(a, detail::cos_of_lane);
    return;
  }
  const P n = round_to_integer(a * P(0.63661977236758134308));
  P r;
  if constexpr (wide) {
    r = a - n * P(1.57079632673412561417e+00);
    r = r - n * P(6.07710050630396597660e-11);
    r = r - n * P(2.02226624879595063154e-21);
  } else {
    r = a - n * P(1.5703125);
    r = r - n * P(4.837512969970703125e-4);
    r = r - n * P(7.54978995489188216e-8);
  }
  const P u = r * r;
  constexpr int terms = wide ? 9 : 5;
  const P ps = detail::factorial_series<1, 2, terms, true>(u) * r;
  const P pc = detail::factorial_series<0, 2, terms, true>(u);
  // n mod 4 without integers: q in {0, 1, 2, 3}
  const P quarter = n * P(0.25);
  P floor = round_to_integer(quarter);
  floor = select(floor > quarter, floor - P(1), floor);
  const P q = n - floor * P(4);
  const auto odd = (q == P(1)) | (q == P(3));
  const P s0 = select(odd, pc, ps);
  const P c0 = select(odd, ps, pc);
  s = select(q >= P(2), -s0, s0);
  c = select((q == P(1)) | (q == P(2)), -c0, c0);
}

template <simd_pack P>
BETATRON_INLINE P sin(P a) {
  P s, c;
  sincos(a, s, c);
  return s;
}
template <simd_pack P>
BETATRON_INLINE P cos(P a) {
  P s, c;
  sincos(a, s, c);
  return c;
}

#if !defined(__CUDACC__)  // device code has no packs
/// exp(a): 2^n exp(r), n the integer nearest to a/ln 2 and a Taylor polynomial on |r| <= ln(2)/2. Within 2 units in the
/// last place; 0 below the logarithm of the smallest normal number, infinite above that of the largest number, NaN for
/// NaN.
template <simd_pack P>
BETATRON_INLINE P exp(P a) {
  using F = typename P::value_type;
  using vector = typename P::vector;
  using integer = detail::lane_integer<F>;
  using integers = typename detail::mask_storage<F, P::width, false>::vector;
  constexpr bool wide = sizeof(F) == 8;
  constexpr F lowest = wide ? F(-708.396418532264106) : F(-87.3365447505531);
  constexpr F highest = wide ? F(709.782712893383996) : F(88.7228390520684);
  const P inside = select(a > P(lowest), select(a < P(highest), a, P(highest)), P(lowest));
  const P n = round_to_integer(inside * P(F(1.44269504088896340736)));
  P r;
  if constexpr (wide) {
    r = inside - n * P(6.93147180369123816490e-01);
    r = r - n * P(1.90821492927058770002e-10);
  } else {
    r = inside - n * P(F(0.693359375));
    r = r - n * P(F(-2.12194440054690583e-4));
  }
  constexpr int terms = wide ? 14 : 8;
  const P p = detail::factorial_series<0, 1, terms, false>(r);
  // 2^(n-1) from its exponent bits: the low bits of (n - 1) + 1.5 * 2^52 are the integer n - 1
  constexpr int fraction = wide ? 52 : 23;
  constexpr integer bias = wide ? 1023 : 127;
  const P shifted = n + P(wide ? F(6755399441055743.0) : F(12582911.0));
  const integers bits = ((integers)shifted.v + bias) << fraction;
  const P value = p * P((vector)bits) * P(F(2));
  const P upper = select(a > P(highest), P(std::numeric_limits<F>::infinity()), value);
  return select(a < P(lowest), P(F(0)), select(a == a, upper, a));
}
#endif

/// atan(v)/v as a function of u = v^2, smooth at 0 (value 1). This is how an angle is recovered from its
/// tangent without dividing by a curvature that may vanish. Chebyshev fit on u <= tan^2(pi/8).
template <real_or_pack T>
BETATRON_INLINE T atan_ratio(T u) {
  using F = scalar_of<T>;
  constexpr F limit = F(0.17157287525380990);  // tan^2(pi/8)
  if (any_of(!(u <= T(limit)))) [[unlikely]] {
    auto general = [](double w) {
      const double v = std::sqrt(w);
      return w < 1e-300 ? 1.0 : detail::atan_of_lane(v) / v;
    };
    if constexpr (simd_pack<T>) {
      return detail::lane_by_lane(u, general);
    } else {
#if defined(__CUDA_ARCH__)
      const double v = ::sqrt(static_cast<double>(u));
      return static_cast<T>(::atan(v) / v);
#else
      return static_cast<T>(general(static_cast<double>(u)));
#endif
    }
  }
  if constexpr (sizeof(F) == 8) {
    constexpr F c[12] = {1.0,
                         -0.3333333333333312095,
                         0.1999999999994083733,
                         -0.1428571427924496849,
                         0.111111107446570996,
                         -0.09090896801472813443,
                         0.07692045194561481467,
                         -0.06662950246036791267,
                         0.05846866752275138984,
                         -0.05035049795312439317,
                         0.03796390316111083303,
                         -0.01780389639481256319};
    T r = T(c[11]);
    for (int i = 10; i >= 0; --i) r = r * u + T(c[i]);
    return r;
  } else {
    constexpr F c[6] = {F(1.0),
                        F(-0.333333068809),
                        F(0.199981823843),
                        F(-0.142395204967),
                        F(0.105697380249),
                        F(-0.060260709705)};
    T r = T(c[5]);
    for (int i = 4; i >= 0; --i) r = r * u + T(c[i]);
    return r;
  }
}

/// atanh(v)/v as a function of u = v^2 < 1, smooth at 0 (value 1): how a rapidity is recovered from its hyperbolic
/// tangent. Its series on u <= 0.04.
template <real_or_pack T>
BETATRON_INLINE T atanh_ratio(T u) {
  using F = scalar_of<T>;
  if (any_of(!(u <= T(F(0.04))))) [[unlikely]] {
    auto general = [](double w) {
      const double v = std::sqrt(w);
      return w < 1e-300 ? 1.0 : detail::atanh_of_lane(v) / v;
    };
    if constexpr (simd_pack<T>) {
      return detail::lane_by_lane(u, general);
    } else {
#if defined(__CUDA_ARCH__)
      const double v = ::sqrt(static_cast<double>(u));
      return static_cast<T>(::atanh(v) / v);
#else
      return static_cast<T>(general(static_cast<double>(u)));
#endif
    }
  }
  constexpr int terms = sizeof(F) == 8 ? 12 : 6;
  T r = T(F(1.0 / (2 * terms - 1)));
  for (int n = terms - 2; n >= 0; --n) r = r * u + T(F(1.0 / (2 * n + 1)));
  return r;
}

}  // namespace betatron::numerics
