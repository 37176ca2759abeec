// gaussian.h: the fields of Gaussian charge distributions, without a grid.
//
// Two dimensions (a long beam with rms sizes sx >= sy), in units of (charge per length)/(2 pi eps0): far away E = r/r^2.
// M. Bassetti and G. A. Erskine, CERN-ISR-TH/80-06 (1980), eq. (29):
//
//   E_y + i E_x = (sqrt(pi)/S) (w(z1) - exp(-x^2/2sx^2 - y^2/2sy^2) w(z2)),    S^2 = 2 (sx^2 - sy^2),
//   z1 = (x + i y)/S,   z2 = (x sy/sx + i y sx/sy)/S.
//
// Its two terms cancel near the centre of a nearly round beam, and S = 0 for a round one. There the same field is the
// integral that it comes from, with r = sy/sx and t = 1 - (1 - r) v,
//
//   E_x = x/(sx (sx + sy)) int_0^1 exp(-a) dv,   E_y = y/(sx (sx + sy)) int_0^1 exp(-a)/t^2 dv,
//   a = v (1 + t) (x^2 + y^2/t^2)/(2 sx (sx + sy)),
//
// which is smooth for all r, without a difference in it (v = 1 - t over 1 - r: for r = 1, E_x = x (1 - exp(-x^2/2s^2 -
// y^2/2s^2))/r^2). It is taken by the Gauss-Legendre rule where the beam is round within a factor 2.
//
// Three dimensions, and the potential in two: integrals over q = 0 ... infinity of
//
//   exp(-x^2/S1 - y^2/S2 - z^2/S3),  S_i = 2 s_i^2 + q
//
// with weights that do not depend on the particle (O. D. Kellogg, Foundations of Potential Theory (1929), chapter VII;
// E. Regenstreif for Gaussian beams). ln q = u - exp(a - u) + exp(u - b) with a, b the logarithms of the smallest and
// the largest 2 s_i^2 makes the integrand fall double exponentially at both ends, and the trapezoidal rule in u
// converges exponentially for every aspect ratio (H. Takahasi and M. Mori, Publ. RIMS 9, 721 (1974)).
#pragma once

#include <cstddef>
#include <vector>

#include "numerics/faddeeva.h"
#include "numerics/functions.h"

namespace betatron::fields {

template <class T>
struct transverse_field {
  T x, y;
};

/// A Gaussian beam in two dimensions, upright. The sizes must be positive.
struct gaussian_2d {
  double sigma_x, sigma_y;

  /// E at (x, y), in double precision: |error| <= 1e-13 of the largest field of the beam (1e-12 where sizes differ by
  /// a factor of 1000), at the centre of beams round within a factor 2 relative to itself.
  template <class T>
  BETATRON_INLINE transverse_field<T> field(T x, T y) const {
    if (sigma_x >= sigma_y) return wide(x, y, sigma_x, sigma_y);
    const transverse_field<T> turned = wide(y, x, sigma_y, sigma_x);
    return {turned.y, turned.x};
  }

 private:
  /// wide > narrow > 0
  template <class T>
  static BETATRON_INLINE transverse_field<T> wide(T x, T y, double a, double b) {
    using numerics::abs;
    using numerics::any_of;
    using numerics::exp;
    using numerics::select;
    const double ratio = b / a;
    const T amplitude = T(0.5 / (a * a)) * x * x + T(0.5 / (b * b)) * y * y;
    const auto inner = amplitude < T(ratio >= 0.5 ? 8.0 : -1.0);
    T ex(0.0), ey(0.0);
    if (any_of(inner)) {
      // Gauss-Legendre rule of 20 points on 0 ... 1, symmetric: the points of one half. Local, because a constant of
      // the header would be a symbol that instruction sets share (see numerics/hd.h).
      constexpr double points[10] = {
          0.0034357004074525376, 0.018014036361043104, 0.043882785874337047, 0.080441514088890588,
          0.1268340467699246,    0.18197315963674249,  0.24456649902458645,  0.31314695564229022,
          0.38610707442917746,   0.46173673943325133};
      constexpr double weights[10] = {
          0.0088070035695760592, 0.020300714900193471, 0.031336024167054532, 0.041638370788352374,
          0.050965059908620218,  0.059097265980759209, 0.065844319224588313, 0.071048054659191026,
          0.074586493236301873,  0.076376693565362925};
      const double slope = 1 / (a * (a + b));
#pragma GCC unroll 10
      for (int i = 0; i < 10; ++i) {
#pragma GCC unroll 2
        for (int side = 0; side < 2; ++side) {
          const double v = side == 0 ? points[i] : 1 - points[i];
          const double t = 1 - (1 - ratio) * v, inverse = 1 / (t * t);
          const double c = 0.5 * slope * v * (1 + t);
          const T e = T(slope * weights[i]) * exp(T(-c) * (x * x + T(inverse) * y * y));
          ex += e;
          ey += T(inverse) * e;
        }
      }
      ex *= x;
      ey *= y;
    }
    if (any_of(!inner)) {
      // not less than 1e-7 a: this far out in a beam that is so round, the field depends on S by 1e-14
      const double difference = 2 * (a - b) * (a + b), least = 1e-14 * a * a;
      const double s = numerics::sqrt(difference > least ? difference : least);
      const T ax = abs(x), ay = abs(y);
      const auto w1 = numerics::faddeeva_quadrant(T(1 / s) * ax, T(1 / s) * ay);
      const auto w2 = numerics::faddeeva_quadrant(T(b / (a * s)) * ax, T(a / (b * s)) * ay);
      const T g = exp(-amplitude);
      constexpr double root_pi = 1.77245385090551602730;
      const T fx = T(root_pi / s) * (w1.im - g * w2.im);
      const T fy = T(root_pi / s) * (w1.re - g * w2.re);
      ex = select(inner, ex, select(x < T(0.0), -fx, fx));
      ey = select(inner, ey, select(y < T(0.0), -fy, fy));
    }
    return {ex, ey};
  }
};

/// The nodes q_k of an integral over a Gaussian distribution in its principal axes: 1/S_i and weights.
struct gaussian_rule {
  std::vector<double> inverse_x, inverse_y, inverse_z;
  std::vector<double> weight;

  std::size_t size() const { return weight.size(); }
};

/// Rule for E of a Gaussian bunch at rest with these rms sizes (all > 0), in units of charge/(4 pi eps0):
///   E_i = x_i sum_k weight_k inverse_ik exp(-x^2 inverse_xk - y^2 inverse_yk - z^2 inverse_zk),
/// with an error of about `tolerance` (1e-14 ... 1e-2) of its largest value. Far away E = r/r^3.
gaussian_rule rule_3d(double sigma_x, double sigma_y, double sigma_z, double tolerance);

/// Rule for the potential of a long beam below that at its centre, in units of (charge per length)/(2 pi eps0):
///   psi = sum_k weight_k (1 - exp(-x^2 inverse_xk - y^2 inverse_yk));
/// inverse_z is empty. On the axis the potential itself is ln(2 R/(sigma_x + sigma_y)) - (ln 2 - gamma_E)/2 for a
/// beam whose potential is 0 at a distance R far away.
gaussian_rule rule_2d_potential(double sigma_x, double sigma_y, double tolerance);

/// gaussian_2d::field of n points, on the best instruction set. Arrays of any alignment; n any number.
void field_of(const gaussian_2d& beam, const double* x, const double* y, double* ex, double* ey,
              std::size_t n);

/// E of rule_3d at n points.
void field_of(const gaussian_rule& rule, const double* x, const double* y, const double* z,
              double* ex, double* ey, double* ez, std::size_t n);

/// psi of rule_2d_potential at n points.
void potential_of(const gaussian_rule& rule, const double* x, const double* y, double* psi,
                  std::size_t n);

/// Derivatives of sum over points of g . E + p u, u the potential, by the places r of the points and by the covariance matrix
/// of the distribution (each entry on its own, in its principal axes), which follow from the heat equation d/dcov_ij =
/// (1/2) d^2/dr_i dr_j that a Gaussian distribution and with it E and u solve.
///
/// Arrays of gaussian_block numbers, those behind the points 0. sums: of xx, yx, yy (, zx, zy, zz), added to.
inline constexpr std::size_t gaussian_block = 256;

/// For rule_3d, p = 0; also gives E.
void pull_of(const gaussian_rule& rule, const double* const (&r)[3], const double* const (&g)[3],
             double* const (&e)[3], double* const (&by_r)[3], double* sums);

/// For rule_2d_potential, E being minus the gradient of u.
void pull_of(const gaussian_rule& rule, const double* const (&r)[2], const double* const (&g)[2],
             const double* by_potential, double* const (&by_r)[2], double* sums);

}  // namespace betatron::fields
