// plasma_stage.h: a plasma stage whose transverse map has the form that the symmetry of the problem gives it, with
// numbers from a small network.
//
// A laser-driven wake is symmetric about its axis. An electron in it feels a force towards the axis, so that its angular
// momentum x py - y px stays, and whatever the wake looks like,
//   (x2, px2) = M (x1, px1),  (y2, py2) = M (y1, py1),  det M = 1,  M real.
// M, the gain and the slip depend on what a rotation about the axis leaves as it is: five features
//   xi,  1/sqrt(gamma),  w (x^2 + y^2)/b,  w (px^2 + py^2) b,  w (x px + y py),
//   b = 1/sqrt(K gamma),  w = 1/sqrt(1 + ((x^2 + y^2)/b + (px^2 + py^2) b)/A)
// (momenta in m c; A a constant: w makes large amplitudes easier to learn). A network makes seven numbers of them, h, ln e1, a1, ln e2, a2, dgamma, dxi:
//   gamma2 = gamma1 + dgamma,  xi2 = xi1 + dxi,
//   phase  = 2 sqrt(K) L/(sqrt(gamma1) + sqrt(gamma2)) + h,
//   M = S2 R(phase) S1,  S1 = (e1/sqrt(b1), 0; a1 e1/sqrt(b1), sqrt(b1)/e1),
//                        S2 = (e2 sqrt(b2), 0; -a2/(e2 sqrt(b2)), 1/(e2 sqrt(b2))).
// The first term of the phase and b are the WKB solution of x'' = -K x/gamma for gamma that grows linearly, so the
// network has only slow functions to learn.
//
// All this is at a fixed time, with xi = z - c T: the laser at 0, the beam behind it. A beam comes and goes at a fixed
// place: each particle flies freely until the time when the reference particle is at the entrance, and, when that
// would have gone the length L at the speed of light, on to the plane of the exit (xi of the reference particle at the
// entrance plus L, back in the laboratory).
// The physics model is what there is in place of the network for particles that it has not seen: M with the WKB phase
// and mean numbers for the rest, and, because an oscillating particle goes a longer way,
//   dxi = -kappa a/(u v (u + v)) - L/(2 u^2 v^2),    dgamma = G(xi - kappa (a - 10 A)/(u (u + v)^2)),
//   kappa = sqrt(K) L/2,  a = (x^2 + y^2)/b + (px^2 + py^2) b,  u = sqrt(gamma1),  v = sqrt(gamma1 + G(xi)):
// the integral of -(1 + <px^2 + py^2>)/(2 gamma^2) over gamma that grows linearly, and the gain G at the mean of xi on
// the way; 10 A is the mean a of the particles that the parabola G was fitted to. G is constant beyond the xi of these.
//
// Source of the form: E. D. Courant and H. S. Snyder, Ann. Phys. 3 (1958) 1; E. Esarey et al., Phys. Rev. E 65 (2002)
// 056505, section II.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "elements/programmable.h"
#include "surrogate/inference.h"
#include "surrogate/network.h"

namespace betatron::surrogate {

/// What becomes of particles for which a stage was not trained: the network is taken all the same, or the physics model
/// in its place; they are lost; or tracking ends in front of the stage.
enum class outside_policy { warn, fallback, lose, stop };

/// Throws std::invalid_argument listing the names: warn, fallback, lose, stop.
outside_policy outside_policy_named(std::string_view name);

/// Where a stage has seen particles, in its five features f: lower <= f <= upper (amplitudes, the third and fourth, have
/// no lower bound) and |W (f - centre)| <= limit.
struct stage_domain {
  std::array<double, 5> lower{}, upper{}, centre{};
  std::array<double, 25> whitening{};  ///< W, row by row: a lower triangle
  double limit = 0;
};

struct stage_description {
  std::string name;
  double length = 0;     ///< L [m]
  double focusing = 0;   ///< K [1/m^2]
  double amplitude = 0;  ///< A [m]
  double xi = 0;         ///< of the reference particle [m]
  network net;           ///< five features to seven numbers
  stage_domain domain;
  std::vector<double> distances{};  ///< upper edges of bins of |W (f - centre)|, in rising order

  /// The physics model: G = gain . (1, d, d^2) with d = xi - xi_centre; the first five numbers are constant.
  std::array<double, 3> gain{};
  double xi_centre = 0;
  std::array<double, 7> constant{};
};

/// Throws std::invalid_argument that names the stage, the number, what was found and what is allowed.
void check(const stage_description&);

/// How many particles came to a stage, and how many of them were outside its domain; and the weights of those inside in
/// each bin of distance, the last of which has all beyond, too. Weights are taken to 24 binary digits, so that the order
/// in which they are added does not show.
struct stage_counts {
  std::uint64_t passed = 0, outside = 0;
  std::vector<double> by_distance{};
};

/// A stage made ready. Immutable but for its counts; may be used by many threads at once. Copies share the counts.
class plasma_stage {
 public:
  /// Throws std::invalid_argument as check() does.
  plasma_stage(stage_description, outside_policy);

  const stage_description& description() const;
  outside_policy policy() const;

  /// The counts since the last reset.
  stage_counts counts() const;
  void reset() const;

  /// The particles' part of an element, which keeps what it needs of this stage.
  std::shared_ptr<const elements::tile_code> code() const;

  /// The reference particle's part: on the axis, at xi, the stage gives it its gain; it enters and leaves at a distance
  /// of `length`. Pieces of a stage gain in proportion, and back is the inverse. Throws std::domain_error unless the
  /// particle is an electron, and where the length is another or there is no energy that fits.
  void advance(beam::reference&, const elements::reference_place&) const;

  struct state;

 private:
  std::shared_ptr<const state> state_;
};

}  // namespace betatron::surrogate
