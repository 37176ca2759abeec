// carlson.h: Carlson's symmetric elliptic integral of the second kind,
//   R_D(x, y, z) = (3/2) int_0^inf dt / (sqrt(t + x) sqrt(t + y) (t + z)^(3/2)).
//
// By the duplication theorem R_D(x, y, z) = R_D((x + l)/4, (y + l)/4, (z + l)/4)/4 + 3/(sqrt(z) (z + l)),
// l = sqrt(xy) + sqrt(yz) + sqrt(zx), until the arguments are so close to each other that seven terms of the series at
// equal arguments are exact to rounding. Source: B. C. Carlson, Numerical computation of real or complex elliptic
// integrals, Numer. Algorithms 10, 13 (1995), Algorithm 4 (arXiv:math/9409227).
#pragma once

#include <algorithm>
#include <cmath>

#include "numerics/dual.h"

namespace betatron::collective {

/// The value of a number that may carry derivatives.
inline double double_of(double x) { return x; }
template <int N>
double double_of(const numerics::dual<double, N>& x) {
  return x.v;
}

namespace detail {

template <class T>
T rd(T x, T y, T z) {
  using std::sqrt;
  const T start = (x + y + z * 3.0) / 5.0;
  double scale = 1;
  T sum(0.0), mean = start;
  const T x0 = x, y0 = y;
  const auto away = [&](const T& v) { return std::fabs(double_of(start) - double_of(v)); };
  // (eps/4)^(1/6) of the rest term
  const double distance = 600 * std::max({away(x), away(y), away(z)});
  while (distance * scale > double_of(mean)) {
    const T rx = sqrt(x), ry = sqrt(y), rz = sqrt(z);
    const T lambda = rx * ry + ry * rz + rz * rx;
    sum = sum + scale / (rz * (z + lambda));
    scale /= 4;
    x = (x + lambda) / 4.0;
    y = (y + lambda) / 4.0;
    z = (z + lambda) / 4.0;
    mean = (mean + lambda) / 4.0;
  }
  const T a = (start - x0) * scale / mean, b = (start - y0) * scale / mean, c = (a + b) / -3.0;
  const T ab = a * b, cc = c * c;
  const T e2 = ab - cc * 6.0, e3 = (ab * 3.0 - cc * 8.0) * c, e4 = (ab - cc) * cc * 3.0,
          e5 = ab * cc * c;
  const T series = 1.0 - e2 * 3.0 / 14.0 + e3 / 6.0 + e2 * e2 * 9.0 / 88.0 - e4 * 3.0 / 22.0 -
                   e2 * e3 * 9.0 / 52.0 + e5 * 3.0 / 26.0;
  return series * scale / (mean * sqrt(mean)) + sum * 3.0;
}

}  // namespace detail

/// R_D for x, y >= 0, not both 0, and z > 0; relative error about 1e-15. Symmetric in x and y; homogeneous of degree
/// -3/2; R_D(1, 1, 1) = 1.
inline double carlson_rd(double x, double y, double z) { return detail::rd(x, y, z); }

/// With derivatives, of a relative error of about 1e-14; x, y > 0.
template <int N>
numerics::dual<double, N> carlson_rd(const numerics::dual<double, N>& x,
                                     const numerics::dual<double, N>& y,
                                     const numerics::dual<double, N>& z) {
  return detail::rd(x, y, z);
}

}  // namespace betatron::collective
