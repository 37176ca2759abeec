// envelope_gradient.h: derivatives of a number that depends on tracked second moments, by reverse mode.
//
// A piece of lattice moves centroid and covariance by z' = m(z), S' = M S M^T with the derivative M of the map m at z
// (envelope.h). Given the derivatives l' and L' (symmetric) of a number by z' and S', those in front are
//
//   L = M^T L' M,   l = M^T l' + sum_ij G_ij dM_ij/dz,   G = 2 L' M S,
//
// and what the number depends on a parameter k of the piece through it is l' dm/dk + sum_ij G_ij dM_ij/dk. Kicks of
// collective effects are the same with a matrix that depends on S. States are 42 numbers, which are kept; dM/dz are the
// second-order terms of the map (pushed power series), and dM/dk are found as in lattice/sensitivity.h, once for all
// pieces that are the same function. The chain over the reference particle is that of sensitivity::collect.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "lattice/sensitivity.h"
#include "tracking/envelope.h"
#include "tracking/gradient.h"

namespace betatron::tracking {

struct envelope_gradient_options {
  std::vector<lattice::knob> knobs{};
  bool reference_energy = false;         ///< also the derivative with respect to it
  bool initial_mean = false;             ///< also those with respect to the centroid at the start
  std::vector<std::uint8_t> recorded{};  ///< one flag per element, or empty: moments behind it
  bool record_start = false;
  std::vector<effect> collective{};
  double charge = 0;  ///< of the beam [C]
};

struct envelope_pull_result {
  std::vector<double> knobs;
  double kinetic =
      0;  ///< by the kinetic energy over m c^2 of the reference at the start, if it was wanted
  std::array<double, 6> mean{};   ///< by the centroid at the start, if it was wanted
  beam::matrix6 covariance{};     ///< at the start, by each entry as if it were on its own
  double charge = 0;              ///< [1/C]
  std::vector<double> strengths;  ///< of the effects, see envelope_kick_pull
};

/// An envelope on its way through a line and back.
class envelope_gradient {
 public:
  /// Tracks forward. Throws std::invalid_argument as track_envelope and lattice::differentiate, and for effects
  /// without derivatives.
  envelope_gradient(const lattice::line& l, const envelope& start,
                    envelope_gradient_options options);
  ~envelope_gradient();
  envelope_gradient(envelope_gradient&&) noexcept;
  envelope_gradient& operator=(envelope_gradient&&) noexcept;

  /// Moments at the start (if wanted), behind recorded elements, and last at the end.
  const std::vector<moment_record>& records() const;
  /// The derivatives of a number, given those by the moments of each record. May be called many times.
  envelope_pull_result pull(std::span<const moment_derivative> by_moments) const;

 private:
  struct state;
  std::unique_ptr<state> state_;
};

}  // namespace betatron::tracking
