// gradient.h: derivatives of a number that depends on a tracked beam, by reverse mode without a tape.
//
// The beam is tracked forward once; then, given what the number (the loss) depends on at the end and at recorded
// places, particles run backward through the inverse maps and carry the derivative of the loss with them
// (cpu/adjoint_table.h). What comes out is the derivative with respect to every initial coordinate, every chosen
// parameter of the elements, and the energy of the reference particle. Memory does not grow with the length of the
// line: one array of the size of the beam's coordinates, which holds first the final beam and then the result.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "beam/bunch.h"
#include "lattice/sensitivity.h"
#include "tracking/track.h"

namespace betatron::tracking {

struct gradient_options {
  std::vector<lattice::knob> knobs{};
  bool reference_energy = false;  ///< also the derivative with respect to it
  std::vector<std::uint8_t>
      recorded{};             ///< one flag per element: moments behind it; empty: only at the end
  bool record_start = false;  ///< also in front of the first element
  std::int64_t turns = 1;     ///< through the line, >= 1; records are taken in each of them
  /// What the beam does to itself, as for track(); each needs effect::pull.
  std::vector<effect> collective{};
  /// Synchrotron radiation, at fixed random numbers (those of track() from turn 0 on), and the boundary of the bucket, as
  /// for track().
  std::optional<elements::radiation_model> radiation{};
  elements::longitudinal_boundary boundary = elements::longitudinal_boundary::open;
  double bucket_length = 0;
  unsigned threads = 0;  ///< 0: all processors that the process may use
};

/// How a loss depends on the moments at one record.
struct moment_derivative {
  std::array<double, 6> mean{};
  beam::matrix6 covariance{};  ///< with respect to each entry as if it were on its own
  double kinetic = 0;          ///< directly on the kinetic energy over m c^2 of the reference there
};

/// Where the reverse pass takes the coordinates of particles from.
enum class reverse_strategy {
  rewind,      ///< undoes the maps, from the end on
  checkpoint,  ///< tracks each tile of particles again from the initial beam and keeps its states: exact, needs about
  ///< two more forward passes and per thread 20 kB times the root of the number of operations
  automatic  ///< rewinds; where that is not exact enough or not possible, as checkpoint
};

/// What the loss depends on, and how to find its derivatives.
template <class F>
struct pull_request {
  std::span<const moment_derivative> by_moments{};  ///< one per record, or empty
  std::array<const F*, 6> by_particles{};  ///< derivatives by the final coordinates; null: none
  std::array<F*, 6>
      initial{};  ///< out: derivatives by the initial coordinates, 0 where a particle was lost
                  ///< may be the array of the final coordinates, not by_particles; null: not wanted
  reverse_strategy strategy = reverse_strategy::automatic;
  double tolerance = 0;  ///< of relative_rewind_error; 0: 1e-8, in single precision 1e-3
};

struct pull_result {
  std::vector<double> knobs;  ///< derivatives of the loss
  double kinetic = 0;         ///< by the kinetic energy over m c^2 of the reference at the start
  double charge = 0;  ///< by the size of the charge of the beam [1/C], through collective effects
  /// Largest distance between rewound and initial coordinates; 0 if no rewind was tried.
  std::array<double, 6> rewind_error{};
  double relative_rewind_error = 0;  ///< the same, rms, over rewind_scale()
  bool checkpointed = false;
};

/// A beam on its way through a line and back. The bunch must live and stay as it is as long as this.
class gradient {
 public:
  /// Tracks forward. Throws std::invalid_argument as lattice::differentiate, for options out of range, and with collective
  /// effects for numbers of the beam that are not finite.
  gradient(const lattice::line& l, const beam::bunch& b, gradient_options options);
  ~gradient();
  gradient(gradient&&) noexcept;
  gradient& operator=(gradient&&) noexcept;

  /// Moments at the start (if wanted), behind recorded elements, and last at the end.
  const std::vector<moment_record>& records() const;
  /// Particles that were lost on the way: places in the columns of the bunch, ascending.
  const std::vector<std::size_t>& lost() const;
  /// Coordinates at the end: 6 columns of bunch.size() F, one behind the other; of lost particles, those they had when
  /// they were lost. Throws std::logic_error unless F is the type of the bunch's columns.
  template <class F>
  std::shared_ptr<F[]> final_coordinates() const;
  /// Bytes kept for the reverse pass.
  std::size_t memory() const;

  /// The reverse pass. Throws std::runtime_error if a rewind is not exact enough and for derivatives that are not
  /// finite (naming the first), std::invalid_argument for
  /// by_moments of the wrong size and where a line cannot be rewound. May be called again unless `initial` has
  /// overwritten the final coordinates.
  template <class F>
  pull_result pull(const pull_request<F>& request) const;

  /// The derivative of the loss along one knob (or, with -1, the kinetic energy of the reference at the start) by
  /// forward mode: particles carry their derivatives along.
  template <class F>
  double push(const pull_request<F>& request, std::ptrdiff_t knob) const;

 private:
  struct state;
  std::unique_ptr<state> state_;
};

}  // namespace betatron::tracking
