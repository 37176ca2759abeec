// rf_cavity.h: an accelerating gap: a kick in energy, between halves of the drift of the model.
//
//   gamma -> gamma + (|q| V/m c^2) cos(w t/c + phase)          t: the particle's coordinate in this gap
//
// so that phase 0 is the crest, -pi/2 bunches without acceleration (below transition), and late particles see
// a later phase. The reference particle (t = 0) gains |q| V cos(phase); coordinates are rescaled to its new
// momentum, which makes the map conformally symplectic with factor p0_in/p0_out.
// Source: the thin cavity of MAD-X and ImpactX's ShortRF; H. Wiedemann, Particle Accelerator Physics, 4th ed.,
// ch. 9.
#pragma once

#include <numbers>

#include "elements/drift.h"
#include "elements/element.h"
#include "elements/phase_space.h"
#include "elements/spin.h"
#include "numerics/constants.h"

namespace betatron::elements {

template <class R>
struct rf_kick {
  // gain: |q| V/(m c^2); wave_number: w/c [rad/m]; bg_in, bg_out: beta gamma of the reference
  R gain, wave_number, cos_phase, sin_phase, bg_in, bg_out;

  static constexpr unsigned writes = column::px | column::py | column::pt;
  static constexpr spin_effect spin = spin_effect::turned;
  static constexpr bool changes_energy = true;

  template <class T>
  BETATRON_INLINE void push(phase_space<T>& z, const energy<T>&) const {
    using F = scalar_of<T>;
    T s, c;
    sincos(z.t * (wave_number * R(0.5)), s, c);
    // cos(w t/c + phase) - cos(phase) without cancellation
    const T relative = -(s * (s * cos_phase + c * sin_phase)) * F(2);
    z.pt = (z.pt * bg_in - relative * gain) * (R(1) / bg_out);
    z.px = z.px * (bg_in / bg_out);
    z.py = z.py * (bg_in / bg_out);
  }
  template <class T>
  BETATRON_INLINE void turn_spin(vector3<T>& s, const phase_space<T>& before,
                                 const phase_space<T>& behind, const energy<T>&,
                                 const gyration<R>& g) const {
    rotate(s, pass_gap(before, behind, g, sqrt(bg_out * bg_out + R(1)), bg_in, bg_out).turn);
  }
  rf_kick inverse() const { return {-gain, wave_number, cos_phase, sin_phase, bg_out, bg_in}; }
};

struct rf_cavity {
  double length = 0;
  double voltage = 0;
  double frequency = 0;
  double phase = 0;

  static constexpr std::string_view kind = "RFCavity";
  static constexpr std::string_view doc =
      "An accelerating gap: energy gain |q| voltage cos(2 pi frequency t/c + phase) at the middle of each "
      "slice. phase = 0 is the crest, -pi/2 bunches. The reference particle gains |q| voltage cos(phase).";
  static constexpr auto parameters = std::tuple{
      parameter{"length", &rf_cavity::length, "m", "length", range::not_negative},
      parameter{"voltage", &rf_cavity::voltage, "V", "largest energy gain over the charge |q|"},
      parameter{"frequency", &rf_cavity::frequency, "Hz", "frequency", range::not_negative,
                required},
      parameter{"phase", &rf_cavity::phase, "rad", "phase at the arrival of the reference"},
  };
};

namespace detail {
inline double reference_gain(const rf_cavity& c, const beam::reference& ref, double fraction) {
  return std::fabs(ref.particle.charge) * c.voltage * fraction / ref.particle.mass_eV;
}
}  // namespace detail

inline void advance(const rf_cavity& c, beam::reference& ref, double fraction) {
  const double half = c.length * fraction / 2;
  advance_straight(ref, half);
  ref.kinetic += detail::reference_gain(c, ref, fraction) * std::cos(c.phase);
  advance_straight(ref, half);
}

template <class Emit>
void emit_maps(const rf_cavity& c, const slice& s, Emit&& emit) {
  const double half = c.length * s.fraction / 2;
  beam::reference after = s.ref;
  advance(c, after, s.fraction);
  if (half != 0 || s.keep_structure) emit_drift(half, s, emit);
  emit(rf_kick<double>{detail::reference_gain(c, s.ref, s.fraction),
                       2 * std::numbers::pi * c.frequency / numerics::constants::speed_of_light,
                       std::cos(c.phase), std::sin(c.phase), s.ref.beta_gamma(),
                       after.beta_gamma()});
  const slice behind{after,   s.model, s.order,    s.steps,
                     s.index, s.count, s.fraction, s.keep_structure};
  if (half != 0 || s.keep_structure) emit_drift(half, behind, emit);
}

}  // namespace betatron::elements
