// ibs.h: intra-beam scattering: many small Coulomb collisions of the particles of a bunch with each other.
//
// In the rest frame of the bunch particles move slowly: u = p/(m c) = (beta gamma px, beta gamma py, -pt). At one place
// in the bunch their momenta have the covariance T = <uu> - <uX><XX>^-1<Xu>, X = (x, y, t): for a Gaussian bunch it is
// the same everywhere. In the principal axes of T, the collision integral of Landau (small angles, Coulomb logarithm
// L, equal particles) gives, with the mean density <n> = int n^2/N in the rest frame,
//
//   d<u_i^2>/ds = A (sum_k T_k R_k - 3 T_i R_i),      R_i = R_D(T_j, T_k; T_i) (Carlson),
//   A = (4 sqrt(pi)/3) <n> r_c^2 L/(beta gamma),      <n> = N/((4 pi)^(3/2) beta gamma sqrt(det <XX>)),
//
// a diffusion D_i = A (sum_k T_k R_k - T_i R_i) and a friction du_i/ds = -A R_i (u_i - u(X)) towards the mean momentum
// u(X) at that place; the trace of d<uu>/ds is 0. Carried along the line with the coupled optics of the beam itself,
// dispersion in both planes included, this is the result of Bjorken and Mtingwa; with R_D instead of an integral for
// every place, as Nagaitsev showed.
//
// Sources: J. D. Bjorken, S. K. Mtingwa, Part. Accel. 13 (1983) 115; S. Nagaitsev, Phys. Rev. ST Accel. Beams 8 (2005)
// 064403; K. Kubo, K. Oide, Phys. Rev. ST Accel. Beams 4 (2001) 124401 (from the covariance, in the rest frame);
// P. Zenkevich, O. Boine-Frankenheim, A. Bolshakov, NIM A 561 (2006) 284 (friction and diffusion for macroparticles).
#pragma once

#include <array>
#include <cstdint>
#include <optional>

#include "beam/linear.h"
#include "collective/line_density.h"
#include "lattice/line.h"
#include "tracking/effect.h"

namespace betatron::collective {

/// Scattering at one place of the line.
struct scattering {
  std::array<double, 3> temperature{};                ///< T_i, principal variances of u
  std::array<std::array<double, 3>, 3> axes{};        ///< rows: principal axes in terms of u
  std::array<double, 3> friction{};                   ///< A R_i [1/m]
  std::array<double, 3> diffusion{};                  ///< D_i [1/m]
  std::array<std::array<double, 3>, 3> regression{};  ///< u(X) = regression (X - <X>)
  double logarithm = 0;                               ///< L

  /// d<(px, py, pt)(px, py, pt)>/ds, as a 6 x 6 matrix with the other entries 0 [1/m].
  beam::matrix6 growth(const beam::reference& ref) const;
};

/// Of a bunch of N particles with this covariance (x, px, y, py, t, pt). Without a Coulomb logarithm it is
/// ln(r_max/r_min), r_max the smaller of the rms radius of the bunch in the rest frame and its Debye length, r_min the
/// larger of the classical distance of closest approach and the quantum limit hbar/(2 p) (as MAD-X, from the mean
/// temperature). `line_density`: mean over particles of the density along t [1/m], 0 for that of a Gaussian,
/// 1/(2 sqrt(pi) sigma_t). `local`: T, where it is known better than from the covariance. Throws std::invalid_argument where the bunch has no size in x, y or t, or no spread of
/// momentum at one place, or the logarithm is not > 0.
scattering scatter(const beam::matrix6& covariance, const beam::reference& ref, double particles,
                   std::optional<double> logarithm, double line_density = 0,
                   const std::array<std::array<double, 3>, 3>* local = nullptr);

struct ibs_growth {
  std::array<double, 3> rate{};  ///< (d emittance/dt)/emittance of the three modes [1/s]
  double logarithm = 0;          ///< mean along the line
};

/// Growth of the emittances [m] of a bunch in a ring, or along a line: the mean over its length, at places at most
/// `spacing` m apart. `normal`: the symplectic N of the start, with covariance N diag(e1, e1, e2, e2, e3, e3) N^T.
/// Throws as scatter, and where N is not symplectic.
ibs_growth ibs_rates(const lattice::line& l, const beam::reference& start,
                     const beam::matrix6& normal, const std::array<double, 3>& emittances,
                     double particles, std::optional<double> logarithm, double spacing);

struct ibs_options {
  std::optional<double> logarithm{};
  line_options density{};  ///< scattering follows the density along t
  std::uint64_t seed = 0;
  int order = 1;
  double spacing = 0;
};

/// Kicks of friction and random kicks, as if the bunch were Gaussian across and at each place had the same
/// temperature: that of its particles weighted with the density along t, with which the mean of the energy in the rest
/// frame does not change even where dense slices have another temperature. The mean momentum does not change. The numbers depend on the seed, the turn, the place and the id of a
/// particle only. Cannot be tracked backward.
tracking::effect ibs(const ibs_options& o);

}  // namespace betatron::collective
