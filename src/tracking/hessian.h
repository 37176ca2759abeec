// hessian.h: second derivatives of a number that depends on a tracked beam, times a direction.
//
// Let everything depend on e, where parameters change as k + e s. Particles are pushed forward with
// their rates dz/de, which gives the rates of moments and final coordinates, and so that of the
// derivatives lambda of the loss by them; then the reverse pass (gradient.h) is run with the rate
// of everything it works with: coordinates, covectors, coefficients and their derivatives. What
// comes out is the gradient and its rate, which is the Hessian times s: forward over reverse (A.
// Griewank and A. Walther, Evaluating Derivatives, 2nd ed., 2008, sec. 5.1; B. A. Pearlmutter,
// Neural Comput. 6 (1994) 147). No differences of tracked beams are taken, and memory does not grow
// with the length of the line.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "beam/bunch.h"
#include "lattice/sensitivity.h"
#include "tracking/gradient.h"
#include "tracking/track.h"

namespace betatron::tracking {

struct hessian_options {
  std::vector<lattice::knob> knobs{};
  std::vector<double> direction{};  ///< one number per knob
  /// Of the initial coordinates: columns of the size of the beam, which must stay as they are as
  /// long as the product; null: they stand still.
  std::array<const double*, 6> initial_direction{};
  std::vector<std::uint8_t> recorded{};  ///< these as for gradient_options
  bool record_start = false;
  std::int64_t turns = 1;
  unsigned threads = 0;
};

/// How the moments at one record change.
struct moment_rate {
  std::array<double, 6> mean{};
  beam::matrix6 covariance{};
  double kinetic = 0;  ///< of the energy over m c^2 of the reference there
};

/// Columns in double precision, one behind the other, of size particles each.
struct second_order_request {
  std::span<const moment_derivative> by_moments{}, by_moments_rates{};  ///< one per record
  std::array<const double*, 6> by_particles{}, by_particles_rates{};    ///< null: none
  /// Out: derivatives by the initial coordinates, and the Hessian times the direction for them;
  /// null: not wanted.
  std::array<double*, 6> initial{}, initial_product{};
  /// Of the rewind error of coordinates and of their rates over their extent; 0: 1e-11.
  double tolerance = 0;
};

struct second_order_result {
  std::vector<double> gradient;      ///< of the loss by the knobs
  std::vector<double> product;       ///< the Hessian times the direction
  double relative_rewind_error = 0;  ///< of coordinates or their rates, whichever is larger
};

/// A beam on its way through a line and back with its rates along a direction. Beams in single
/// precision are tracked in double. The bunch must live and stay as it is as long as this.
class hessian_product {
 public:
  /// Tracks forward. Throws std::invalid_argument as gradient, for a direction of the wrong size,
  /// and naming elements that have no second derivatives: those with code, and those without inverse.
  hessian_product(const lattice::line& l, const beam::bunch& b, hessian_options options);
  ~hessian_product();
  hessian_product(hessian_product&&) noexcept;
  hessian_product& operator=(hessian_product&&) noexcept;

  /// As of gradient.
  const std::vector<moment_record>& records() const;
  const std::vector<moment_rate>& record_rates() const;
  const std::vector<std::size_t>& lost() const;
  std::shared_ptr<double[]> final_coordinates() const;
  std::shared_ptr<double[]> final_rates() const;

  /// The reverse pass. Throws std::runtime_error if a rewind is not exact enough.
  second_order_result pull(const second_order_request& request) const;

 private:
  struct state;
  std::unique_ptr<state> state_;
};

}  // namespace betatron::tracking
