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

namespace betatron::collective {

/// R_D for x, y >= 0, not both 0, and z > 0; relative error about 1e-15. Symmetric in x and y; homogeneous of degree
/// -3/2; R_D(1, 1, 1) = 1.
inline double carlson_rd(double x, double y, double z) {
  const double start = (x + y + 3 * z) / 5;
  double scale = 1, sum = 0, mean = start;
  const double x0 = x, y0 = y;
  // (eps/4)^(1/6) of the rest term
  const double distance =
      600 * std::max({std::fabs(start - x), std::fabs(start - y), std::fabs(start - z)});
  while (distance * scale > mean) {
    const double rx = std::sqrt(x), ry = std::sqrt(y), rz = std::sqrt(z);
    const double lambda = rx * ry + ry * rz + rz * rx;
    sum += scale / (rz * (z + lambda));
    scale /= 4;
    x = (x + lambda) / 4;
    y = (y + lambda) / 4;
    z = (z + lambda) / 4;
    mean = (mean + lambda) / 4;
  }
  const double a = (start - x0) * scale / mean, b = (start - y0) * scale / mean, c = -(a + b) / 3;
  const double ab = a * b, cc = c * c;
  const double e2 = ab - 6 * cc, e3 = (3 * ab - 8 * cc) * c, e4 = 3 * (ab - cc) * cc,
               e5 = ab * cc * c;
  const double series =
      1 - 3 * e2 / 14 + e3 / 6 + 9 * e2 * e2 / 88 - 3 * e4 / 22 - 9 * e2 * e3 / 52 + 3 * e5 / 26;
  return scale * series / (mean * std::sqrt(mean)) + 3 * sum;
}

}  // namespace betatron::collective
