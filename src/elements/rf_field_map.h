// rf_field_map.h: a standing-wave cavity from the field on its axis, Ez(z, t) = E(z) cos(w t/c + phase).
//
// Maxwell's equations give the field around the axis; to second order in r, in the gauge without a transverse
// vector potential, with e(z) = |q| E(z)/(m c^2), k = w/c and all momenta over m c,
//   a_z = -e (1 - k^2 r^2/4) sin(k t + phase)/k          psi = (r^2/4) e' cos(k t + phase)
//   H = -sqrt((p_t + psi)^2 - 1 - px^2 - py^2) - a_z  =  D + E + K  + higher orders of r
//   D = the drift of the model      E = psi/beta      K = e (1 - k^2 r^2/4) sin(k t + phase)/k
// E is the radial electric field, whose push per metre goes with 1/beta of the particle; K is acceleration and the
// azimuthal magnetic field. Each of the three is solved at fixed z, K and E with their integrals over z (E has the
// step of e, so that a field that ends abruptly gets its fringe kick), in the order K E K - D - K E K ...: of order
// 2, composed to 4 and 6 for all that is linear in r. The reference particle (r = 0) sees half a kick, a drift, half
// a kick.
//
// K shifts momenta. E depends on t and pt, and is taken from the generating function
//   F(x, px', t, pt') = x px' + t pt' + A r^2 cos(k t + phase) g(pt')        g = 1/beta = (1/beta0 - pt')/P
// (coordinates of the beam; A = step of e/(4 beta0 gamma0)): symplectic to rounding, exact to order r^2, as psi is.
// Its implicit equation is solved by Newton's method; so is the one of its inverse.
// Sources: J. Rosenzweig and L. Serafini, Phys. Rev. E 49 (1994) 1599, and R. D. Ryne, LA-UR-95-391 (acc-phys/9502001), for the
// field; E. Hairer et al., Geometric Numerical Integration (2006), sec. VI.5, for the generating function.
#pragma once

#include <numbers>
#include <stdexcept>
#include <string>

#include "elements/drift.h"
#include "elements/element.h"
#include "elements/field_profile.h"
#include "elements/phase_space.h"
#include "elements/spin.h"
#include "numerics/constants.h"

namespace betatron::elements {

/// K over `gain_in`, E over `step`, K over `gain_out`; backwards E is solved for what was in front of it.
template <class R>
struct rf_field_kick {
  R gain_in, gain_out;                  // integrals of e over the halves
  R step;                               // e behind - e in front [1/m]
  R wave_number, cos_phase, sin_phase;  // k, and of the phase at the time of the reference particle
  R bg_in, bg, bg_out;  // beta gamma of the reference in front, in the middle, behind
  R inv_beta, inv_bg2;  // in the middle
  R direction;          // 1, or -1 on the way back

  static constexpr unsigned writes = column::px | column::py | column::t | column::pt;
  static constexpr spin_effect spin = spin_effect::unknown;
  static constexpr bool changes_energy = true;

  template <class T>
  BETATRON_INLINE void push(phase_space<T>& z, const energy<T>&) const {
    accelerate(z, gain_in, bg_in, bg);
    if (!vanishes(step)) {
      if (direction > R(0)) {
        focus(z);
      } else {
        focus_back(z);
      }
    }
    accelerate(z, gain_out, bg, bg_out);
  }

  rf_field_kick inverse() const {
    return {-gain_out, -gain_in, step,  wave_number, cos_phase, sin_phase,
            bg_out,    bg,       bg_in, inv_beta,    inv_bg2,   -direction};
  }

 private:
  template <class T>
  struct phase {
    T cosine, sine, relative;  // of k t + phase; cosine - cos(phase) without cancellation
  };
  template <class T>
  BETATRON_INLINE phase<T> phase_at(const T& t) const {
    using F = scalar_of<T>;
    T s, c;
    sincos(t * (wave_number * R(0.5)), s, c);
    const T relative = -(s * (s * cos_phase + c * sin_phase)) * F(2);
    const T sine = s * (c * cos_phase - s * sin_phase) * F(2) + sin_phase;
    return {relative + cos_phase, sine, relative};
  }

  template <class T>
  BETATRON_INLINE void accelerate(phase_space<T>& z, R gain, R before, R behind) const {
    const phase<T> w = phase_at(z.t);
    const T bend = (z.x * z.x + z.y * z.y) * (wave_number * wave_number * R(0.25));
    const T more_energy = (w.relative - bend * w.cosine) * gain;
    const T push = w.sine * (gain * wave_number * R(0.5));
    const R scale = R(1) / behind;
    z.pt = (z.pt * before - more_energy) * scale;
    z.px = (z.px * before + z.x * push) * scale;
    z.py = (z.py * before + z.y * push) * scale;
  }

  template <class T>
  BETATRON_INLINE void inverse_velocity(const T& pt, T& g, T& slope) const {
    using F = scalar_of<T>;
    const T inv_p = rsqrt(pt * (pt - inv_beta * F(2)) + F(1));
    g = (inv_beta - pt) * inv_p;
    slope = inv_p * inv_p * inv_p * inv_bg2;
  }

  template <class T>
  BETATRON_INLINE void focus(phase_space<T>& z) const {
    using F = scalar_of<T>;
    const R amplitude = step * R(0.25) / bg;
    const phase<T> w = phase_at(z.t);
    const T a = (z.x * z.x + z.y * z.y) * amplitude;
    const T b = a * w.sine * wave_number;
    T pt = z.pt, g, slope;
    for (int i = 0; i < 2; ++i) {  // pt' = pt + b g(pt'); b is small, of second order in r
      inverse_velocity(pt, g, slope);
      pt = pt - (pt - z.pt - b * g) / (F(1) - b * slope);
    }
    inverse_velocity(pt, g, slope);
    const T pull = w.cosine * g * (amplitude * R(2));
    z.px = z.px - z.x * pull;
    z.py = z.py - z.y * pull;
    z.t = z.t + a * w.cosine * slope;
    z.pt = pt;
  }

  template <class T>
  BETATRON_INLINE void focus_back(phase_space<T>& z) const {
    using F = scalar_of<T>;
    const R amplitude = step * R(0.25) / bg;
    const T a = (z.x * z.x + z.y * z.y) * amplitude;
    T g, slope;
    inverse_velocity(z.pt, g, slope);
    const T b = a * slope;
    T t = z.t;
    for (int i = 0; i < 2; ++i) {  // t' = t + b cos(k t + phase)
      const phase<T> w = phase_at(t);
      t = t - (t - z.t + b * w.cosine) / (F(1) - b * w.sine * wave_number);
    }
    const phase<T> w = phase_at(t);
    const T pull = w.cosine * g * (amplitude * R(2));
    z.px = z.px + z.x * pull;
    z.py = z.py + z.y * pull;
    z.pt = z.pt - a * w.sine * g * wave_number;
    z.t = t;
  }
};

struct rf_field_map {
  double length = 0;
  double amplitude = 0;
  double frequency = 0;
  double phase = 0;
  std::vector<double> cosine{};
  std::vector<double> sine{};

  static constexpr std::string_view kind = "RFFieldMap";
  static constexpr std::string_view doc =
      "A standing-wave cavity from the field on its axis, amplitude g(z) cos(2 pi frequency t + phase), with t the time "
      "since the start of the reference particle: the clock of the generator, not the arrival. g is a Fourier series "
      "over the length: cosine[0]/2 + sum over n of cosine[n] cos(2 pi n u/length) + sine[n] sin(2 pi n u/length), u "
      "from the middle; without a series: a TESLA cavity. Accelerates and focuses; integrated by `order` and `steps`.";
  static constexpr auto parameters = std::tuple{
      parameter{"length", &rf_field_map::length, "m", "length of the field", range::positive,
                required},
      parameter{"amplitude", &rf_field_map::amplitude, "V/m",
                "energy gain per length over the charge |q| where g = 1, on crest"},
      parameter{"frequency", &rf_field_map::frequency, "Hz", "frequency", range::positive,
                required},
      parameter{"phase", &rf_field_map::phase, "rad", "phase when the clock of the reference is 0"},
      parameter{"cosine", &rf_field_map::cosine, "1", "cosine coefficients of g, n = 0, 1, ..."},
      parameter{"sine", &rf_field_map::sine, "1",
                "sine coefficients of g; the first has no effect"},
  };
  static constexpr bool follows_clock = true;  ///< maps depend on the time of the reference
};

namespace detail {

/// Takes the reference particle through a piece, backwards too: calls kick(gain_in, gain_out, step, before, middle,
/// behind), which are reference particles of before, between and behind the halves, and drift(l, reference). Throws
/// std::domain_error where the field stops it.
template <class Kick, class Drift>
void pass_field(const rf_field_map& m, beam::reference& ref, const stretch& piece, Kick&& kick,
                Drift&& drift) {
  const double k = 2 * std::numbers::pi * m.frequency / numerics::constants::speed_of_light;
  const double scale = std::fabs(ref.particle.charge) * m.amplitude / ref.particle.mass_eV;
  const field_profile profile(m.cosine, m.sine, profiles::tesla_cavity, m.length);
  auto at = [&](double z, double fraction) {
    field_profile::values v = profile.at(z);
    if (fraction == 0 || fraction == 1) v.field = 0;  // outside, next to the end
    return v;
  };
  double z = piece.from * m.length;
  auto half_kick = [&](double gain) {
    ref.kinetic += gain * std::cos(k * ref.t + m.phase);
    if (!(ref.kinetic > 0)) {
      throw std::domain_error("the field stops the reference particle " + std::to_string(z) +
                              " m behind the entrance");
    }
  };
  auto kick_between = [&](const field_profile::values& a, const field_profile::values& b,
                          const field_profile::values& c) {
    const double gain_in = scale * (b.integral - a.integral);
    const double gain_out = scale * (c.integral - b.integral);
    const beam::reference before = ref;
    half_kick(gain_in);
    const beam::reference middle = ref;
    half_kick(gain_out);
    kick(gain_in, gain_out, scale * (c.field - a.field), before, middle, ref);
  };
  field_profile::values last = at(z, piece.from), here = last;
  compose((piece.to - piece.from) * m.length, piece.order, piece.steps, [&](double l) {
    const field_profile::values middle = profile.at(z + l / 2);
    kick_between(last, here, middle);
    drift(l, ref);
    advance_straight(ref, l);
    last = middle;
    z += l;
    here = profile.at(z);
  });
  kick_between(last, here, at(z, piece.to));
}

}  // namespace detail

inline void advance(const rf_field_map& m, beam::reference& ref, const stretch& piece) {
  detail::pass_field(m, ref, piece, [](auto&&...) {}, [](auto&&...) {});
}

template <class Emit>
void emit_maps(const rf_field_map& m, const slice& s, Emit&& emit) {
  const double k = 2 * std::numbers::pi * m.frequency / numerics::constants::speed_of_light;
  beam::reference ref = s.ref;
  detail::pass_field(
      m, ref, s.piece(),
      [&](double gain_in, double gain_out, double step, const beam::reference& before,
          const beam::reference& middle, const beam::reference& behind) {
        const double angle = k * before.t + m.phase;
        emit(rf_field_kick<double>{gain_in, gain_out, step, k, std::cos(angle), std::sin(angle),
                                   before.beta_gamma(), middle.beta_gamma(), behind.beta_gamma(),
                                   middle.inverse_beta(), middle.inverse_beta_gamma_squared(), 1});
      },
      [&](double l, const beam::reference& at) {
        emit_drift(l,
                   {at, s.model, s.order, s.steps, s.index, s.count, s.fraction, s.keep_structure},
                   emit);
      });
}

}  // namespace betatron::elements
