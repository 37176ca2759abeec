// arcsine.h: the function asin(zeta)/sqrt(1 - zeta^2) of a complex number, for every scalar type.
//
// It is odd and analytic but for cuts on the real axis beyond +-1. Its derivative follows from itself,
//   A' = (1 + zeta A)/(1 - zeta^2),
// so that dual numbers need nothing else. With w = zeta/(1 + sqrt(1 - zeta^2)), |w| <= 1,
//   asin zeta = 2 atan w = atan2(2u, 1 - |w|^2) + (i/2) log(1 + 4v/(u^2 + (1 - v)^2)),   w = u + i v,
// which loses nothing where zeta is small or large.
// Source: M. Abramowitz and I. Stegun, Handbook of Mathematical Functions (1964), 4.4.26 and 4.4.39.
#pragma once

#include "numerics/complex_value.h"
#include "numerics/dual.h"
#include "numerics/functions.h"

namespace betatron::numerics {

namespace detail {

/// In plain double, also for the device.
BETATRON_HD inline complex_value<double> arcsine_ratio_anywhere(double x, double y) {
  // the root of 1 - zeta^2 with a positive real part; on a cut, the side that the sign of y says
  const double a = (1 - x) * (1 + x) + y * y, b = -2 * x * y;
  const double m = std::hypot(a, b);
  double p, q;
  if (a >= 0) {
    p = std::sqrt((m + a) / 2);
    q = p > 0 ? b / (2 * p) : 0;
  } else {
    q = std::copysign(std::sqrt((m - a) / 2), b);
    p = b / (2 * q);
  }
  const double n = (1 + p) * (1 + p) + q * q;
  const double u = (x * (1 + p) + y * q) / n, v = std::fabs(y * (1 + p) - x * q) / n;
  const double re = std::atan2(2 * u, (1 - u) * (1 + u) - v * v);
  const double im = std::copysign(std::log1p(4 * v / (u * u + (1 - v) * (1 - v))) / 2, y);
  return {(re * p + im * q) / m, (im * p - re * q) / m};  // m = p^2 + q^2
}

/// The same, compiled once for the baseline instruction set.
complex_value<double> arcsine_ratio_of_lane(double x, double y);

}  // namespace detail

/// asin(zeta)/sqrt(1 - zeta^2) at zeta = x + i y; not finite at zeta = +-1.
template <real T>
BETATRON_INLINE complex_value<T> arcsine_ratio(T x, T y) {
#if defined(__CUDA_ARCH__)
  const complex_value<double> r = detail::arcsine_ratio_anywhere(x, y);
#else
  const complex_value<double> r =
      detail::arcsine_ratio_of_lane(static_cast<double>(x), static_cast<double>(y));
#endif
  return {static_cast<T>(r.re), static_cast<T>(r.im)};
}

/// Packs: lane by lane.
template <simd_pack P>
BETATRON_INLINE complex_value<P> arcsine_ratio(P x, P y) {
  complex_value<P> r;
  for (int lane = 0; lane < P::width; ++lane) {
    const auto one = arcsine_ratio(x[lane], y[lane]);
    r.re.set(lane, one.re);
    r.im.set(lane, one.im);
  }
  return r;
}

template <class T, int N>
BETATRON_INLINE complex_value<dual<T, N>> arcsine_ratio(const dual<T, N>& x, const dual<T, N>& y) {
  using F = scalar_of<T>;
  const complex_value<T> a = arcsine_ratio(x.v, y.v);
  // A' = (c + i d)/(g + i k)
  const T c = x.v * a.re - y.v * a.im + F(1), d = x.v * a.im + y.v * a.re;
  const T g = (F(1) - x.v) * (x.v + F(1)) + y.v * y.v, k = x.v * y.v * F(-2);
  const T inv = F(1) / (g * g + k * k);
  const T re = (c * g + d * k) * inv, im = (d * g - c * k) * inv;
  complex_value<dual<T, N>> r;
  r.re.v = a.re;
  r.im.v = a.im;
  for (int i = 0; i < N; ++i) {
    r.re.d[i] = re * x.d[i] - im * y.d[i];
    r.im.d[i] = re * y.d[i] + im * x.d[i];
  }
  return r;
}

}  // namespace betatron::numerics
