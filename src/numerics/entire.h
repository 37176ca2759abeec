// entire.h: the entire functions of beam optics.
//
// A linear oscillator x'' = -w x over a length L is solved by the Stumpff functions of z = w L^2,
//
//     c_k(z) = sum_n (-z)^n / (k + 2n)!        k = 0, 1, 2, ...
//
//     c_0 = cos sqrt(z)            c_1 = sin sqrt(z) / sqrt(z)
//     c_2 = (1 - c_0) / z          c_3 = (1 - c_1) / z          c_k = 1/k! - z c_{k+2}
//
// (K. Stumpff, Himmelsmechanik I, 1959; E. Stiefel and G. Scheifele, Linear and Regular Celestial
// Mechanics, 1971, sec. 11). They are entire: focusing (z > 0), drift (z = 0) and defocusing (z < 0) are
// one smooth function without square roots and branches, and
//
//     dc_k/dz = (k c_{k+2} - c_{k+1}) / 2
//
// holds at z = 0 too, which is why gradients with respect to a strength exist at strength zero.
//
// Small arguments (nearly all of beam optics) use a truncated series whose length follows from `reach`,
// an upper bound of |z| that the caller knows before the particle loop. Where a lane exceeds its reach, and
// for large reaches, the closed forms take over, lane by lane.
#pragma once

#include "numerics/functions.h"
#include "numerics/hd.h"

namespace betatron::numerics {

template <class T, int N>
struct dual;

namespace detail {

/// c_0 ... c_{count-1} at one |z| that is not small, from trigonometric or hyperbolic functions. The root is
/// corrected by its own rounding error, so that the phase is good to a fraction of an ulp for large |z| too.
BETATRON_HD inline void stumpff_closed_form(double z, double* c, int count) {
  const double a = std::fabs(z);
  const double r = std::sqrt(a);
  const double correction = r > 0 ? std::fma(-r, r, a) / (2 * r) : 0;
  if (z > 0) {
    const double s = std::sin(r), k = std::cos(r);
    c[0] = k - s * correction;
    c[1] = (s + k * correction) / r;
    c[1] -= c[1] * (correction / r);
  } else {
    const double sh = std::sinh(r), ch = std::cosh(r);
    c[0] = ch + sh * correction;
    c[1] = (sh + ch * correction) / r;
    c[1] -= c[1] * (correction / r);
  }
  double factorial = 1;
  for (int k = 2; k < count; ++k) {
    c[k] = (1 / factorial - c[k - 2]) / z;
    factorial *= k - 1;
  }
}

void stumpff_of_lane(double z, double* c, int count);

/// Largest |z| for which `terms` terms of the series of c_0 leave an error below half an ulp of 1.
template <class F>
BETATRON_HD constexpr F series_limit(int terms) {
  if constexpr (sizeof(F) == 8) {
    switch (terms) {
      case 6: return F(6.0e-2);
      case 7: return F(1.9e-1);
      case 8: return F(0.45);
      default: return F(4.4);  // 12 terms
    }
  } else {
    switch (terms) {
      case 3: return F(2.7e-2);
      case 4: return F(1.8e-1);
      case 5: return F(0.62);
      default: return F(5.2);  // 8 terms
    }
  }
}

/// The four lengths in use, short to long.
template <class F>
BETATRON_HD constexpr int series_length(int tier) {
  if constexpr (sizeof(F) == 8) {
    return tier == 0 ? 6 : tier == 1 ? 7 : tier == 2 ? 8 : 12;
  } else {
    return tier == 0 ? 3 : tier == 1 ? 4 : tier == 2 ? 5 : 8;
  }
}

/// sum_{n < Terms} (-z)^n / (first + 2n)!
template <int Terms, class T>
BETATRON_INLINE T stumpff_series(T z, int first) {
  using F = scalar_of<T>;
  T r = T(inverse_factorial<F>(first + 2 * (Terms - 1)) * ((Terms - 1) % 2 ? F(-1) : F(1)));
  for (int n = Terms - 2; n >= 0; --n) {
    r = r * z + T(inverse_factorial<F>(first + 2 * n) * (n % 2 ? F(-1) : F(1)));
  }
  return r;
}

/// c_0 ... c_{K-1} by the series of the last two and the downward recurrence.
template <int K, int Terms, class T>
BETATRON_INLINE void stumpff_small(T z, T (&c)[K]) {
  using F = scalar_of<T>;
  constexpr int n = Terms - (K - 2) / 2;  // every step of the recurrence adds one term
  static_assert(n >= 1);
  c[K - 2] = stumpff_series<n>(z, K - 2);
  c[K - 1] = stumpff_series<n>(z, K - 1);
  for (int k = K - 3; k >= 0; --k) c[k] = T(inverse_factorial<F>(k)) - z * c[k + 2];
}

}  // namespace detail

/// c_0(z) ... c_{K-1}(z), K even and >= 4. `reach` bounds |z| for nearly all particles; an argument
/// beyond it is computed correctly but slowly.
template <int K, real_or_pack T>
BETATRON_INLINE void stumpff(T z, scalar_of<T> reach, T (&c)[K]) {
  static_assert(K >= 4 && K % 2 == 0 && K <= 8);
  using F = scalar_of<T>;
  using detail::series_limit;
  // derivatives (K > 4) use one more term of the same tier, so that they are as exact as the values
  constexpr int more = (K - 4) / 2;
  constexpr int length[4] = {detail::series_length<F>(0), detail::series_length<F>(1),
                             detail::series_length<F>(2), detail::series_length<F>(3)};
  constexpr F limit[4] = {series_limit<F>(length[0]), series_limit<F>(length[1]),
                          series_limit<F>(length[2]), series_limit<F>(length[3])};
  const T size = abs(z);
  if (reach <= limit[0] && !any_of(!(size <= T(limit[0])))) {
    detail::stumpff_small<K, length[0] + more>(z, c);
  } else if (reach <= limit[1] && !any_of(!(size <= T(limit[1])))) {
    detail::stumpff_small<K, length[1] + more>(z, c);
  } else if (reach <= limit[2] && !any_of(!(size <= T(limit[2])))) {
    detail::stumpff_small<K, length[2] + more>(z, c);
  } else if (!any_of(!(size <= T(limit[3])))) {
    detail::stumpff_small<K, length[3] + more>(z, c);
  } else {
    if constexpr (simd_pack<T>) {
      for (int lane = 0; lane < T::width; ++lane) {
        double values[K];
        const double argument = static_cast<double>(z[lane]);
        detail::stumpff_of_lane(argument, values, K);
        for (int k = 0; k < K; ++k) c[k].set(lane, static_cast<F>(values[k]));
      }
    } else {
      double values[K];
#if defined(__CUDA_ARCH__)
      detail::stumpff_closed_form(static_cast<double>(z), values, K);
#else
      detail::stumpff_of_lane(static_cast<double>(z), values, K);
#endif
      for (int k = 0; k < K; ++k) c[k] = static_cast<F>(values[k]);
    }
  }
}

namespace detail {

/// c_0, c_1 at z and at -z from one pair of polynomials: the even and odd parts of the two series.
template <int Terms, class T>
BETATRON_INLINE void oscillator_pair_small(T z, T (&plus)[2], T (&minus)[2]) {
  using F = scalar_of<T>;
  const T z2 = z * z;
  for (int k = 0; k < 2; ++k) {
    // c_k = 1/k! - z (even - z odd), the bracket being c_{k+2}
    constexpr int terms = Terms - 1;
    constexpr int evens = (terms + 1) / 2, odds = terms / 2;
    T even = T(inverse_factorial<F>(k + 2 + 4 * (evens - 1)));
    for (int n = evens - 2; n >= 0; --n) even = even * z2 + T(inverse_factorial<F>(k + 2 + 4 * n));
    T odd = T(inverse_factorial<F>(k + 4 + 4 * (odds - 1)));
    for (int n = odds - 2; n >= 0; --n) odd = odd * z2 + T(inverse_factorial<F>(k + 4 + 4 * n));
    const T balance = z2 * odd + T(F(1));  // 1/0! = 1/1! = 1
    plus[k] = balance - z * even;
    minus[k] = balance + z * even;
  }
}

}  // namespace detail

/// c_0 and c_1 at z (`plus`) and at -z (`minus`): the two planes of a quadrupole.
template <real_or_pack T>
BETATRON_INLINE void oscillator_pair(T z, scalar_of<T> reach, T (&plus)[2], T (&minus)[2]) {
  using F = scalar_of<T>;
  using detail::series_length;
  using detail::series_limit;
  constexpr int length[4] = {series_length<F>(0), series_length<F>(1), series_length<F>(2),
                             series_length<F>(3)};
  constexpr F limit[4] = {series_limit<F>(length[0]), series_limit<F>(length[1]),
                          series_limit<F>(length[2]), series_limit<F>(length[3])};
  const T size = abs(z);
  if (reach <= limit[0] && !any_of(!(size <= T(limit[0])))) {
    detail::oscillator_pair_small<length[0]>(z, plus, minus);
  } else if (reach <= limit[1] && !any_of(!(size <= T(limit[1])))) {
    detail::oscillator_pair_small<length[1]>(z, plus, minus);
  } else if (reach <= limit[2] && !any_of(!(size <= T(limit[2])))) {
    detail::oscillator_pair_small<length[2]>(z, plus, minus);
  } else {
    T c[4];
    stumpff<4>(z, reach, c);
    plus[0] = c[0];
    plus[1] = c[1];
    stumpff<4>(-z, reach, c);
    minus[0] = c[0];
    minus[1] = c[1];
  }
}

/// The same for dual numbers (of anything): the chain rule with dc_k/dz = (k c_{k+2} - c_{k+1}) / 2.
template <int K, class T, int N>
BETATRON_INLINE void stumpff(dual<T, N> z, scalar_of<T> reach, dual<T, N> (&c)[K]) {
  T values[K + 2];
  stumpff<K + 2>(z.v, reach, values);
  for (int k = 0; k < K; ++k) {
    const T slope =
        (values[k + 2] * scalar_of<T>(k) - values[k + 1]) * scalar_of<T>(0.5);
    c[k].v = values[k];
    for (int i = 0; i < N; ++i) c[k].d[i] = slope * z.d[i];
  }
}

template <class T, int N>
BETATRON_INLINE void oscillator_pair(dual<T, N> z, scalar_of<T> reach, dual<T, N> (&plus)[2],
                                     dual<T, N> (&minus)[2]) {
  dual<T, N> c[4];
  stumpff<4>(z, reach, c);
  plus[0] = c[0];
  plus[1] = c[1];
  stumpff<4>(-z, reach, c);
  minus[0] = c[0];
  minus[1] = c[1];
}

/// atan(v)/v as a function of u = v^2 for dual numbers: d/du = (1/(1 + u) - f) / (2u), by its series
/// -1/3 + 2u/5 - ... where u is small.
template <class T, int N>
BETATRON_INLINE dual<T, N> atan_ratio(dual<T, N> u) {
  using F = scalar_of<T>;
  dual<T, N> r;
  r.v = atan_ratio(u.v);
  const T guarded = u.v + T(F(1e-300));
  const auto small = abs(u.v) < T(F(0.02));
  T series = T(F(0));
  for (int n = 9; n >= 1; --n) {
    series = series * u.v + T(F((n % 2 ? -1.0 : 1.0) * n / (2 * n + 1.0)));
  }
  const T slope = select(small, series, (T(F(1)) / (T(F(1)) + u.v) - r.v) / (guarded * F(2)));
  for (int i = 0; i < N; ++i) r.d[i] = slope * u.d[i];
  return r;
}

}  // namespace betatron::numerics
