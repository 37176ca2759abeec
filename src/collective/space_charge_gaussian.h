// space_charge_gaussian.h: the space charge of a beam that is taken for Gaussian, without a grid.
//
// The beam is replaced by the Gaussian distribution of its first and second moments, in its principal axes (a beam that
// is tilted in x, y or t keeps its tilt). What the kick lacks in detail it has in smoothness: no noise of particles, no
// mesh, and the linear tune shift of the core is right.
//
//  - gauss_3d: the field of a bunch at rest in its own frame, fields::rule_3d.
//  - gauss_2p5d: a bunch much longer than wide (beta gamma sigma_t >> sigma_x, sigma_y). Transverse: the field of a long
//    beam, fields::gaussian_2d, times the local line density. Longitudinal: from the slope of the line density,
//    E_z = -(1/gamma^2) dlambda/dz u/(2 pi eps0),  u(x, y) = ln(2 R/(s_1 + s_2)) - (ln 2 - gamma_E)/2 - psi(x, y)
//    with the potential psi of fields::rule_2d_potential. The distance R, where the potential of the slice is 0, stands for
//    the length of the bunch. For a Gaussian bunch the choice
//      R = 2 exp(-gamma_E - psi(3/2)/2) beta gamma sigma_t = 1.1026 beta gamma sigma_t     (psi: digamma function)
//    gives the exact field on the axis the least mean square deviation: in Fourier space the potential of a thin line is
//    2 K_0(k r) g(k) -> -2 (ln(k r/2) + gamma_E) g(k), and the mean of ln k over the square of the slope, whose
//    weight is k^2 exp(-k^2 sigma^2), is psi(3/2)/2 - ln sigma.
//
// Source: J. Qiang, "Fast space-charge model for long Gaussian bunches" (2025), as 2.5D model in ImpactX;
// M. Bassetti, G. A. Erskine, CERN-ISR-TH/80-06.
#pragma once

#include <optional>

#include "collective/line_density.h"
#include "tracking/effect.h"

namespace betatron::collective {

/// See above.
enum class gaussian_model { gauss_2p5d, gauss_3d };

struct gaussian_space_charge {
  gaussian_model model = gaussian_model::gauss_3d;
  double tolerance = 1e-8;  ///< of the integrals, relative to the largest field: 1e-14 ... 1e-2

  // Only gauss_2p5d:
  line_options density{.bins = 129};  ///< of the slices
  bool longitudinal = true;           ///< with the longitudinal kick
  std::optional<double> scale{};      ///< R [m], > 0; empty: 1.1026 beta gamma sigma_t of the beam
};

/// Throws std::invalid_argument naming the value and its range.
void check(const gaussian_space_charge& model);

/// Kicks px, py, pt of all particles as by the path `length` [m] (negative: undoes it) at the reference particle of the
/// bunch. Fewer than two particles, or a beam without charge, are left alone. Throws std::invalid_argument where the
/// beam has no extent in a direction that the model divides by, or coordinates that are not finite. The result has the
/// same bits for any number of threads.
void kick(const gaussian_space_charge& model, beam::bunch& b, double length, unsigned threads);

/// The adjoint of the kick, see tracking::effect: derivatives of fields by places and moments as in fields::pull_of, those of
/// moments by each particle (of cov_ab: w_p ((z_b - mean_b) dz_a + (z_a - mean_a) dz_b)/W), and slices as in line_pull.h. Throws
/// as kick.
tracking::kick_slopes pull(const gaussian_space_charge& model, beam::bunch& b,
                           const tracking::covector& lambda, double length, unsigned threads);

/// The effect for tracking::track.
tracking::effect effect_of(const gaussian_space_charge& model, int order, double spacing);

}  // namespace betatron::collective
