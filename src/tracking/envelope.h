// envelope.h: tracking the second moments of a beam instead of its particles.
//
// Along the trajectory of the centroid z the covariance moves with the derivative M of the map,
//   z -> map(z),   Sigma -> M Sigma M^T
// (exact for linear maps; for others the first order in the size of the beam). M is the forward-mode derivative of
// the very maps that particles are tracked with, so that envelopes exist for every element.
#pragma once

#include <functional>
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

/// What track_envelope has just done: passed a piece of lattice, or a kick.
struct envelope_step {
  envelope front;               ///< before it
  const beam::matrix6& matrix;  ///< that the covariance was transported by
  const lattice::piece* piece;  ///< null for a kick
  const kick_place* kick;       ///< null for a piece
  std::size_t effect;           ///< of the kick
  bool recorded;                ///< a record follows
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
  std::vector<std::uint8_t> varied{};  ///< see cut_at_kicks()

  std::function<void(const envelope_step&)> visit{};  ///< called behind each step; may be empty
};

/// Moves the envelope through the line. Records have count 0, weight 1, and no minima and maxima (NaN): an envelope
/// has no particles; apertures do nothing. Throws std::invalid_argument as `track` does.
std::vector<moment_record> track_envelope(const lattice::line& l, envelope& e,
                                          const envelope_options& options);

}  // namespace betatron::tracking
