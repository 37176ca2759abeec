// envelope.h: tracking the second moments of a beam instead of its particles.
//
// Along the trajectory of the centroid z the covariance moves with the derivative M of the map,
//   z -> map(z),   Sigma -> M Sigma M^T
// (exact for linear maps; for others the first order in the size of the beam). M is the forward-mode derivative of
// the very maps that particles are tracked with, so that envelopes exist for every element.
#pragma once

#include <vector>

#include "tracking/effect.h"
#include "tracking/track.h"

namespace betatron::tracking {

/// Centroid and covariance of a beam at the reference particle.
struct envelope {
  beam::reference ref;
  std::array<double, 6> mean{};
  beam::matrix6 covariance{};
};

struct envelope_options {
  std::int64_t turns = 1;
  std::int64_t first_turn = 0;
  std::vector<std::uint8_t> recorded{};  ///< one flag per element; empty: none
  bool record_slices = false;
  bool record_start = false;

  /// What the beam does to itself: effects with a linear kick on the covariance, see effect::envelope_kick.
  std::vector<effect> collective{};
  double charge = 0;  ///< of the beam [C], with its sign: collective effects need it
};

/// Moves the envelope through the line. Records have count 0, weight 1, and no minima and maxima (NaN): an envelope
/// has no particles; apertures do nothing. Throws std::invalid_argument as `track` does.
std::vector<moment_record> track_envelope(const lattice::line& l, envelope& e,
                                          const envelope_options& options);

}  // namespace betatron::tracking
