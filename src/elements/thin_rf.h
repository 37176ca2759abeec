// thin_rf.h: thin cavities that do not accelerate the reference particle: Buncher and CrabCavity. Both are kicks
// from a potential U(x, y, t), the integral of H over the gap, dpx = -dU/dx, dpy = -dU/dy, dpt = -dU/dt:
//
//   buncher  U = (a w/2) (t^2 - (x^2 + y^2)/(2 (beta0 gamma0)^2))
//   crab     U = -a x sin(w t + phase)
//
// with a = |q| V/(p0 c) and w = 2 pi f/c. The buncher is a cavity at its zero crossing, linear in t, with the
// radial defocusing that the wave equation ties to it; it bunches for V > 0 below transition. The crab cavity
// deflects by its phase, and its electric field, which grows with x, acts on the energy (Panofsky-Wenzel).
// Sources: M. Reiser, Theory and Design of Charged Particle Beams, 2nd ed. (2008), sec. 5.4; W. K. H. Panofsky and
// W. A. Wenzel, Rev. Sci. Instrum. 27 (1956) 967.
#pragma once

#include <numbers>

#include "elements/drift.h"
#include "elements/element.h"
#include "elements/phase_space.h"
#include "elements/spin.h"
#include "numerics/constants.h"

namespace betatron::elements {

template <class R>
struct buncher_kick {
  R bunching, defocusing;  // dpt = -bunching t; dpx, dpy = defocusing (x, y)

  static constexpr unsigned writes = column::px | column::py | column::pt;
  static constexpr spin_effect spin = spin_effect::turned;
  static constexpr bool changes_energy = true;

  template <class T>
  BETATRON_INLINE void push(phase_space<T>& z, const energy<T>&) const {
    z.px = z.px + z.x * defocusing;
    z.py = z.py + z.y * defocusing;
    z.pt = z.pt - z.t * bunching;
  }
  /// Of the radial kick D the electric field makes gamma0^2 D and the magnetic one the rest, (1 - gamma0^2) D; electric
  /// fields turn by (G + 1/(gamma + 1)) times beta and the kick, both over m c. Ez adds what gamma changes by.
  template <class T>
  BETATRON_INLINE void turn_spin(vector3<T>& s, const phase_space<T>& before,
                                 const phase_space<T>& behind, const energy<T>&,
                                 const gyration<R>& g) const {
    using F = scalar_of<T>;
    gap_passage<T> p = pass_gap(before, behind, g, g.gamma, g.beta_gamma, g.beta_gamma);
    const T electric = (F(1) / (p.gamma + F(1)) + g.anomaly) * p.pz / p.gamma;  // times beta_z
    const T magnetic = (p.gamma * g.anomaly + F(1)) / p.pz;
    const T factor =
        (electric * (g.gamma * g.gamma) + magnetic * (R(1) - g.gamma * g.gamma)) * g.beta_gamma;
    // the kick itself, not the difference of momenta, whose rounding gamma^2 would multiply
    p.turn.x = p.turn.x - before.y * defocusing * factor;
    p.turn.y = p.turn.y + before.x * defocusing * factor;
    rotate(s, p.turn);
  }
  buncher_kick inverse() const { return {-bunching, -defocusing}; }
};

template <class R>
struct crab_kick {
  R strength, wave_number, sin_phase, cos_phase;  // a; w [rad/m]

  static constexpr unsigned writes = column::px | column::pt;
  static constexpr spin_effect spin = spin_effect::turned;
  static constexpr bool changes_energy = true;

  template <class T>
  BETATRON_INLINE void push(phase_space<T>& z, const energy<T>&) const {
    T s, c;
    sincos(z.t * wave_number, s, c);
    z.px = z.px + (s * cos_phase + c * sin_phase) * strength;
    z.pt = z.pt + z.x * (c * cos_phase - s * sin_phase) * (strength * wave_number);
  }
  /// The field that deflects is magnetic (TM110 mode); the electric one is along s.
  template <class T>
  BETATRON_INLINE void turn_spin(vector3<T>& s, const phase_space<T>& before,
                                 const phase_space<T>& behind, const energy<T>&,
                                 const gyration<R>& g) const {
    using F = scalar_of<T>;
    gap_passage<T> p = pass_gap(before, behind, g, g.gamma, g.beta_gamma, g.beta_gamma);
    p.turn.y =
        p.turn.y + (behind.px - before.px) * ((p.gamma * g.anomaly + F(1)) / p.pz * g.beta_gamma);
    rotate(s, p.turn);
  }
  crab_kick inverse() const { return {-strength, wave_number, sin_phase, cos_phase}; }
};

namespace detail {
/// |q| V/(p0 c)
inline double relative_voltage(double voltage, const beam::reference& ref) {
  return std::fabs(ref.particle.charge) * voltage / ref.momentum();
}
/// 2 pi f/c [rad/m]
inline double wave_number(double frequency) {
  return 2 * std::numbers::pi * frequency / numerics::constants::speed_of_light;
}
}  // namespace detail

struct buncher {
  double voltage = 0;
  double frequency = 0;

  static constexpr std::string_view kind = "Buncher";
  static constexpr std::string_view doc =
      "A thin cavity at its zero crossing, linear in time and radius: a late particle gains energy where the "
      "voltage is positive. The same kick in every model.";
  static constexpr auto parameters = std::tuple{
      parameter{"voltage", &buncher::voltage, "V", "largest energy gain over the charge |q|"},
      parameter{"frequency", &buncher::frequency, "Hz", "frequency", range::not_negative, required},
  };
};

template <class Emit>
void emit_maps(const buncher& b, const slice& s, Emit&& emit) {
  const double k = detail::relative_voltage(b.voltage, s.ref) * detail::wave_number(b.frequency);
  emit(buncher_kick<double>{k, k * s.ref.inverse_beta_gamma_squared() / 2});
}

struct crab_cavity {
  double length = 0;
  double voltage = 0;
  double frequency = 0;
  double phase = 0;

  static constexpr std::string_view kind = "CrabCavity";
  static constexpr std::string_view doc =
      "A deflecting cavity: adds |q| voltage/(p0 c) sin(2 pi frequency t/c + phase) to px at the middle of each "
      "slice, and the energy that goes with it. phase = 0 tilts the bunch. roll = pi/2 deflects vertically.";
  static constexpr auto parameters = std::tuple{
      parameter{"length", &crab_cavity::length, "m", "length", range::not_negative},
      parameter{"voltage", &crab_cavity::voltage, "V", "largest transverse kick times c over |q|"},
      parameter{"frequency", &crab_cavity::frequency, "Hz", "frequency", range::not_negative,
                required},
      parameter{"phase", &crab_cavity::phase, "rad", "phase at the arrival of the reference"},
  };
};

template <class Emit>
void emit_maps(const crab_cavity& c, const slice& s, Emit&& emit) {
  const double half = c.length * s.fraction / 2;
  if (half != 0 || s.keep_structure) emit_drift(half, s, emit);
  emit(crab_kick<double>{detail::relative_voltage(c.voltage, s.ref) * s.fraction,
                         detail::wave_number(c.frequency), std::sin(c.phase), std::cos(c.phase)});
  if (half != 0 || s.keep_structure) emit_drift(half, s, emit);
}

}  // namespace betatron::elements
