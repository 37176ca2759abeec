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
// an upper bound of |z| that the caller knows before the particle loop. Where a lane exceeds its reach, the
// longest series serves; beyond that, closed forms take over, lane by lane.
#pragma once

#include "numerics/functions.h"
#include "numerics/hd.h"

namespace betatron::numerics {

template <class T, int N>
struct dual;

namespace detail {

/// c_k by its series, nested: 1/k! (1 - z/((k+1)(k+2)) (1 - z/((k+3)(k+4)) (1 - ...))).
BETATRON_HD inline double stumpff_nested_series(double z, int k) {
  double r = 1;
  for (int n = k + 28; n > k; n -= 2) r = 1 - r * z / static_cast<double>((n - 1) * n);
  return r * inverse_factorial<double>(k);
}

/// c_0 ... c_{count-1} at any z, each by its series or from trigonometric or hyperbolic functions, whichever
/// loses no digits. The root is corrected by its own rounding error, so that the phase is good to a fraction
/// of an ulp for large |z| too.
BETATRON_HD inline void stumpff_anywhere(double z, double* c, int count) {
  const double a = std::fabs(z);
  const double r = std::sqrt(a);
  const double correction = std::fma(-r, r, a) / (2 * r);
  for (int k = 0; k < count; ++k) {
    if (a <= (z < 0 || k > 3 ? 16 : k > 1 ? 4 : 1)) {
      c[k] = stumpff_nested_series(z, k);
    } else if (k == 0) {
      c[0] = z > 0 ? std::cos(r) - std::sin(r) * correction
                   : std::cosh(r) * (1 + std::tanh(r) * correction);
    } else if (k == 1) {
      const double s = z > 0 ? std::sin(r) + std::cos(r) * correction
                             : std::sinh(r) * (1 + correction / std::tanh(r));
      c[1] = s / r;
      c[1] -= c[1] * (correction / r);
    } else {
      c[k] = (inverse_factorial<double>(k - 2) - c[k - 2]) / z;
    }
  }
}

void stumpff_of_lane(double z, double* c, int count);

/// Largest |z| for which `terms` terms of the series of c_0 leave an error below half an ulp of 1.
template <class F>
BETATRON_HD constexpr F series_limit(int terms) {
  if constexpr (sizeof(F) == 8) {
    switch (terms) {
      case 6:
        return F(6.0e-2);
      case 7:
        return F(1.9e-1);
      case 8:
        return F(0.45);
      default:
        return F(4.4);  // 12 terms
    }
  } else {
    switch (terms) {
      case 3:
        return F(2.7e-2);
      case 4:
        return F(1.8e-1);
      case 5:
        return F(0.62);
      default:
        return F(5.2);  // 8 terms
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

/// c_k = 1/k! - z c_{k+2} for k = K-3 ... 0.
template <int K, int N, class T>
BETATRON_INLINE void stumpff_recurrence(T z, T (&c)[K]) {
  if constexpr (N >= 0) {
    constexpr scalar_of<T> one = inverse_factorial<scalar_of<T>>(N);
    c[N] = T(one) - z * c[N + 2];
    stumpff_recurrence<K, N - 1>(z, c);
  }
}

/// c_0 ... c_{K-1} by the series of the last two and the downward recurrence, every step of which adds a term.
template <int K, int Terms, class T>
BETATRON_INLINE void stumpff_small(T z, T (&c)[K]) {
  constexpr int terms = Terms - (K - 2) / 2;
  static_assert(terms >= 1);
  c[K - 2] = factorial_series<K - 2, 2, terms, true>(z);
  c[K - 1] = factorial_series<K - 1, 2, terms, true>(z);
  stumpff_recurrence<K, K - 3>(z, c);
}

}  // namespace detail

/// c_0(z) ... c_{K-1}(z), K even and >= 4. `reach` bounds |z| for nearly all particles; an argument
/// beyond it is computed correctly but slowly.
template <int K, real_or_pack T>
BETATRON_INLINE void stumpff(T z, scalar_of<T> reach, T (&c)[K]) {
  static_assert(K >= 4 && K % 2 == 0 && K <= 8);
  using F = scalar_of<T>;
  using detail::series_limit;
  // the length of a tier suits c_0; what starts later in the series needs as many terms of its own
  constexpr int more = (K - 2) / 2;
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
      detail::stumpff_anywhere(static_cast<double>(z), values, K);
#else
      detail::stumpff_of_lane(static_cast<double>(z), values, K);
#endif
      for (int k = 0; k < K; ++k) c[k] = static_cast<F>(values[k]);
    }
  }
}

namespace detail {

/// c_k at z and at -z from one pair of polynomials: with the even and odd parts of c_{k+2} = even - z odd,
/// c_k = 1/k! - z c_{k+2}; 1/k! = 1 for k = 0 and 1.
template <int k, int Terms, class T>
BETATRON_INLINE void both_signs(T z, T z2, T& plus, T& minus) {
  constexpr int terms = Terms - 1;
  const T even = factorial_series<k + 2, 4, (terms + 1) / 2, false>(z2);
  const T odd = factorial_series<k + 4, 4, terms / 2, false>(z2);
  const T balance = z2 * odd + T(scalar_of<T>(1));
  plus = balance - z * even;
  minus = balance + z * even;
}

template <int Terms, class T>
BETATRON_INLINE void oscillator_pair_small(T z, T (&plus)[2], T (&minus)[2]) {
  const T z2 = z * z;
  both_signs<0, Terms>(z, z2, plus[0], minus[0]);
  both_signs<1, Terms>(z, z2, plus[1], minus[1]);
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
  } else if (!any_of(!(size <= T(limit[3])))) {
    detail::oscillator_pair_small<length[3]>(z, plus, minus);
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
    const T slope = (values[k + 2] * scalar_of<T>(k) - values[k + 1]) * scalar_of<T>(0.5);
    c[k].v = values[k];
    for (int i = 0; i < N; ++i) c[k].d[i] = slope * z.d[i];
  }
}

/// A bound that is itself a dual number, as all coefficients of a map whose parameters vary: its value counts.
template <int K, class T, int N, class R, int M>
BETATRON_INLINE void stumpff(dual<T, N> z, const dual<R, M>& reach, dual<T, N> (&c)[K]) {
  stumpff(z, value_of(reach), c);
}

namespace detail {

/// c_0 ... c_{K+1} at z and at -z from the series of the last two, see both_signs. K = 2, 4 or 6.
template <int K, int Terms, class T>
BETATRON_INLINE void pair_and_slopes_small(T z, T (&plus)[K + 2], T (&minus)[K + 2]) {
  using F = scalar_of<T>;
  const T z2 = z * z;
  // the slope needs one more than the value, and the second derivative another
  constexpr int terms = Terms - K / 2 + (K > 4 ? 2 : 1);
  auto last = [&]<int k>(std::integral_constant<int, k>) {
    const T even = factorial_series<k, 4, (terms + 1) / 2, false>(z2);
    const T odd = factorial_series<k + 2, 4, terms / 2, false>(z2);
    plus[k] = even - z * odd;
    minus[k] = even + z * odd;
  };
  last(std::integral_constant<int, K>{});
  last(std::integral_constant<int, K + 1>{});
  auto down = [&]<int k>(std::integral_constant<int, k>) {
    plus[k] = T(inverse_factorial<F>(k)) - z * plus[k + 2];
    minus[k] = z * minus[k + 2] + T(inverse_factorial<F>(k));
  };
  if constexpr (K >= 6) {
    down(std::integral_constant<int, 4>{});
    down(std::integral_constant<int, 5>{});
  }
  if constexpr (K >= 4) {
    down(std::integral_constant<int, 2>{});
    down(std::integral_constant<int, 3>{});
  }
  down(std::integral_constant<int, 0>{});
  down(std::integral_constant<int, 1>{});
}

/// c_0 ... c_{K+1} at z and at -z: what c_0 ... c_{K-1} and their derivatives are made of.
template <int K, real_or_pack T>
BETATRON_INLINE void pair_and_slopes(T z, scalar_of<T> reach, T (&plus)[K + 2], T (&minus)[K + 2]) {
  using F = scalar_of<T>;
  constexpr int length[4] = {series_length<F>(0), series_length<F>(1), series_length<F>(2),
                             series_length<F>(3)};
  constexpr F limit[4] = {series_limit<F>(length[0]), series_limit<F>(length[1]),
                          series_limit<F>(length[2]), series_limit<F>(length[3])};
  const T size = abs(z);
  if (reach <= limit[0] && !any_of(!(size <= T(limit[0])))) {
    pair_and_slopes_small<K, length[0]>(z, plus, minus);
  } else if (reach <= limit[1] && !any_of(!(size <= T(limit[1])))) {
    pair_and_slopes_small<K, length[1]>(z, plus, minus);
  } else if (reach <= limit[2] && !any_of(!(size <= T(limit[2])))) {
    pair_and_slopes_small<K, length[2]>(z, plus, minus);
  } else {
    constexpr int count = K + 2 < 4 ? 4 : K + 2;
    stumpff<count>(z, reach, plus);
    stumpff<count>(-z, reach, minus);
  }
}

}  // namespace detail

/// c_0 ... c_{K-1} at z and at -z for dual numbers (of anything), K = 2, 4 or 6.
template <int K, class T, int N>
BETATRON_INLINE void oscillator_pair(dual<T, N> z, scalar_of<T> reach, dual<T, N> (&plus)[K],
                                     dual<T, N> (&minus)[K]) {
  using F = scalar_of<T>;
  T p[K + 2], m[K + 2];
  if constexpr (real_or_pack<T>) {
    detail::pair_and_slopes<K>(z.v, reach, p, m);
  } else {
    oscillator_pair(z.v, reach, p, m);
  }
  for (int k = 0; k < K; ++k) {
    plus[k].v = p[k];
    minus[k].v = m[k];
    const T up = (p[k + 2] * F(k) - p[k + 1]) * F(0.5);
    const T down = (m[k + 1] - m[k + 2] * F(k)) * F(0.5);
    for (int i = 0; i < N; ++i) {
      plus[k].d[i] = up * z.d[i];
      minus[k].d[i] = down * z.d[i];
    }
  }
}
template <int K, class T, int N, class R, int M>
BETATRON_INLINE void oscillator_pair(dual<T, N> z, const dual<R, M>& reach, dual<T, N> (&plus)[K],
                                     dual<T, N> (&minus)[K]) {
  oscillator_pair(z, value_of(reach), plus, minus);
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

/// The same for atanh(v)/v: d/du = (1/(1 - u) - f) / (2u), by its series 1/3 + 2u/5 + ... where u is small.
template <class T, int N>
BETATRON_INLINE dual<T, N> atanh_ratio(dual<T, N> u) {
  using F = scalar_of<T>;
  dual<T, N> r;
  r.v = atanh_ratio(u.v);
  const auto small = abs(u.v) < T(F(0.02));
  T series = T(F(0));
  for (int n = 9; n >= 1; --n) series = series * u.v + T(F(n / (2 * n + 1.0)));
  const T guarded = select(small, T(F(1)), u.v);
  const T slope = select(small, series, (T(F(1)) / (T(F(1)) - u.v) - r.v) / (guarded * F(2)));
  for (int i = 0; i < N; ++i) r.d[i] = slope * u.d[i];
  return r;
}

}  // namespace betatron::numerics
