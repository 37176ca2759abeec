// cylinder.h: what the wall of a round pipe adds to the potential of charges, as a few functions of the radius per harmonic.
//
// In units of the radius of the pipe, with charges in units of 4 pi eps0 (J. D. Jackson, Classical Electrodynamics, 3rd ed.,
// eq. 3.148, and the solution of Laplace's equation that makes the sum 0 at r = 1):
//   1/|r - r'| = (2/pi) sum_m e^{i m (t - t')} int_0^inf cos k(z - z') I_m(k r_<) K_m(k r_>) dk,
//   phi = 1/|r - r'| - sum_m e^{i m (t - t')} W_m(r, r', z - z'),
//   W_m(r, r', z) = (2/pi) int_0^inf cos(k z) K_m(k)/I_m(k) I_m(k r) I_m(k r') dk,      m = -inf ... inf.
//
// - Modes. Amplitudes fall like (r r')^m and exp(-k (2 - r - r')): modes are taken up to 6e-6 at the largest radius `reach`.
//   Next to the wall they would never end: those shorter than the mesh resolves, kappa = (k^2 + m^2)^(1/2) > 1.2/h, fade by
//   exp(-(kappa h/1.2)^4). The wall within about a cell of a particle is smoothed by that, as is everything on a mesh.
// - Radius. W_m(0) is a positive matrix between radii, and of low rank: a pivoted Cholesky decomposition picks few radii r_p whose
//   functions U_p stand for all, W_m(r, r', z) = sum_pq U_p(r) W_m(r_p, r_q, z) U_q(r'), to the root of 1e-12 of the largest
//   (|W(z)| <= W(0)). U is given on rings, between which it is to be interpolated: their distance follows that to the image at
//   2 - reach.
// - Along z. What counts is the average over a cell of the length h_z, as for Green's function (green.h): differences of
//     S(z) = int_0^z W_m dz = (2/pi) int sin(k z)/k ... dk,
//   by Gauss-Legendre panels in k, graded at the logarithm at k = 0. At z > 6 all that is left of phi is exp(-2.405 z): there
//   W_m is the free 1/|r - r'|, (1/2 pi) int cos(m a) [asinh(z/d(a))] da, d^2 = r^2 + r'^2 - 2 r r' cos a.
#pragma once

#include <cstddef>
#include <vector>

namespace betatron::fields {

/// Rings that are interpolated between for one radius, and angles for one angle.
inline constexpr std::size_t polar_points = 6;

/// Weights of polar_points equidistant values at 0 <= u <= 1 between the third and the fourth of them, and their slopes:
/// the polynomial through the values.
struct polar_weights {
  double value[polar_points], slope[polar_points];
  explicit polar_weights(double u);
};

/// Lengths in units of the radius of the pipe.
struct cylinder_wall {
  double reach = 0;        ///< largest radius, 0 < reach <= 1
  double cell = 0;         ///< h: edge of a cell across the pipe, the longer one
  double step = 0;         ///< h_z
  std::size_t planes = 0;  ///< distances 0, h_z, ..., (planes - 1) h_z

  /// Place of a radius 0 ... reach among the rings, >= 2 (see polar_weights); ring i is at i.
  double place(double radius) const;
  /// The slope of the same.
  double place_slope(double radius) const;

  double scale = 0, spacing = 0;         ///< of the rings: r = scale (1 - exp(-(i - 2) spacing))
  std::vector<double> rings{};           ///< radii; those below 0 are on the other side of the axis
  std::vector<std::size_t> rank{};       ///< of m = 0, 1, ...
  std::vector<std::vector<double>> u{};  ///< of m: U_p(ring), p fastest
  /// Of m, of pairs (p, q <= p) one after the other: averages of W_m over cells, twice that for m > 0 (which is cos and
  /// sin together, in place of m and -m); the distance is fastest.
  std::vector<std::vector<double>> w{};

  cylinder_wall() = default;

  /// With all tables.
  cylinder_wall(double reach, double cell, double step, std::size_t planes, unsigned threads);

  /// Modes m = 0 ... modes - 1 for such a reach and cell.
  static std::size_t modes(double reach, double cell);

  /// Bytes that making it takes at most, with so many rings.
  static double memory(double cell, double rings);
};

}  // namespace betatron::fields
