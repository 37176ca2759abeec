// space_charge_envelope.h: the linear space charge of a beam that is given by its second moments.
//
// The linear part of the space charge force on a beam depends, as far as its second moments are concerned, on these
// moments alone, whatever its profile, if that has the symmetry of an ellipse (F. J. Sacherer, IEEE Trans. Nucl. Sci.
// NS-18, 1105 (1971)). So the field is that of the uniform beam with the same moments, in its principal axes (a tilted
// beam keeps its tilt; coupled planes need no other formula):
//
//  - beam_2d: a long beam of the current I, an ellipse with the semi-axes 2 s_1, 2 s_2,
//      e_i = x_i/(2 s_i (s_1 + s_2))   in units of (charge per length)/(2 pi eps0):
//      x_i'' = K x_i/(2 s_i (s_1 + s_2)),  K = 2 I/(I_A (beta gamma)^3), I_A = 4 pi eps0 m c^3/q.
//    s_i are the principal sizes of x and y. (I. M. Kapchinskij, V. V. Vladimirskij, Proc. HEACC 1959, 274)
//    As a matrix, with the covariance V of positions: e = (adj V + d)/(2 d (tr V + 2 d)), d = sqrt(det V) = s_1 s_2.
//  - beam_3d: a bunch, in its rest frame an ellipsoid with the semi-axes sqrt(5) s_i,
//      e_i = x_i R_D(s_j^2, s_k^2, s_i^2)/(5 sqrt(5))      in units of charge/(4 pi eps0),
//    with Carlson's R_D (carlson.h) and the principal sizes of x, y and z' = -beta gamma t. For other profiles than the
//    uniform one the factor in three dimensions differs by less than 1 % (Sacherer).
//
// The force is the same for either sign of the charge: every beam repels itself.
#pragma once

#include <array>
#include <optional>

#include "tracking/effect.h"

namespace betatron::collective {

enum class envelope_model { beam_2d, beam_3d };

struct envelope_space_charge {
  envelope_model model = envelope_model::beam_3d;
  std::optional<double> current{};  ///< A, of beam_2d; the sign does not matter
};

/// Throws std::invalid_argument naming the value and its range: beam_2d needs a current, finite; beam_3d has none.
void check(const envelope_space_charge& model);

/// The kick for the path `length` [m] on the deviations from the centroid, as a matrix, at the reference particle `ref`.
/// `charge` of the bunch [C], any sign; not used by beam_2d. Identity without charge. Throws std::invalid_argument where
/// the beam has no extent in x and y (beam_3d: and t), or moments that are not finite.
beam::matrix6 kick_matrix(const envelope_space_charge& model, const beam::matrix6& covariance,
                          double charge, const beam::reference& ref, double length);

/// What a number that depends on the entries of this matrix depends on: its derivatives, given those by the entries.
/// `strength` is that by the current. Also where there is no charge or current yet (there the derivative is that of more
/// of it), and no length. There a beam without extent in a direction is allowed, as for kick_matrix(); its derivative by what
/// there is none of does not exist, and is NaN. With F(V) = sum_k f_k(v) a_k a_k^T for the principal axes a_k and variances v of V,
///   dF_kl = (f_k - f_l)/(v_k - v_l) dV_kl (k != l),   dF_kk = sum_l df_k/dv_l dV_ll
/// in these axes (e.g. R. Bhatia, Matrix Analysis, 1997, ch. V.3); for f_k = R_D(v_i, v_j, v_k) the quotient is
/// 2 df_k/dv_l, which is smooth where axes are equally long.
tracking::envelope_kick_pull pull_kick(const envelope_space_charge& model,
                                       const beam::matrix6& covariance, double charge,
                                       const beam::reference& ref, double length,
                                       const beam::matrix6& by_matrix);

/// The effect for tracking::track_envelope. On particles it has no kick.
tracking::effect effect_of(const envelope_space_charge& model, int order, double spacing);

}  // namespace betatron::collective
