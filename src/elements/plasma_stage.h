// plasma_stage.h: a stage of a plasma accelerator, whose wake is given by formulas.
//
// The wake moves with its driver, close to the speed of light. For a particle that does the same, E_r - c B_theta and E_z
// follow from one potential (Panofsky and Wenzel), here in units of m c^2 and expanded to r^2:
//
//   paraxial  H = -P + (px^2 + py^2)/(2P) + g(s) V(x, y, xi)      exact  H = -sqrt(P^2 - px^2 - py^2) + g(s) V(x, y, xi)
//   V = -W(xi) + K(xi) r^2/2,      xi = slip s/length - t,        dgamma/ds = g (W' - K' r^2/2),   dp/ds = -g K r
//
// with momenta over m c, P^2 = gamma^2 - 1. xi is the place in the wake relative to the one where the reference particle
// enters, positive ahead; on its way the reference particle gets ahead by `slip`. Two wakes:
//   blowout   a column of ions without electrons    W' = a + b xi,  K = -(q/e) f (e^2 n/(2 eps0 m c^2)), f = 1 if empty
//   linear    a wave W' = a cos(phi), phi = phase + kp xi, behind a pulse of width w, that is times exp(-2 r^2/w^2):
//             K = (4 a/(kp w^2)) sin(phi), focusing for 0 < phi < pi, accelerating for |phi| < pi/2; kp^2 = e^2 n/(eps0 m_e c^2)
// a = |q| acceleration/(m c^2), b likewise. g(s) <= 1 is the density over that of the plateau; field and focusing go with it.
// Its ramps are, with u = 0 ... 1 from the outer end to the plateau, of length l and of density g0 at the end,
//   linear  g0 + (1 - g0) u     cosine  g0 + (1 - g0) (1 - cos(pi u))/2     adiabatic  (1 + (1/sqrt(g0) - 1) (1 - u))^-2
// the last having a matched beam whose size goes as the square root of the distance, with alpha the same everywhere.
// In between, the beam oscillates with the wave number sqrt(K/gamma), and is damped as gamma^(-1/4).
//
// Integrated in `steps` of the given order. A step is half a kick, an oscillation, half a kick: the oscillation about the
// axis is that of plasma_lens.h, with g K of the reference averaged over it, and keeps the energy; kicks do the rest.
// What the reference gains is exact, whatever the steps. A ramp that meets the plateau at an angle leaves order 2.
// Forces on a particle with v < c, of relative size 1/(2 gamma^2), and the radius of the blow-out are left out; so is what
// the beam does to its wake. Transverse forces radiate.
// Sources: J. B. Rosenzweig et al., Phys. Rev. A 44 (1991) R6189 (blow-out); E. Esarey, C. B. Schroeder and W. P. Leemans,
// Rev. Mod. Phys. 81 (2009) 1229, sec. II and III (linear wake); W. K. H. Panofsky and W. A. Wenzel, Rev. Sci. Instrum. 27
// (1956) 967; K. Floettmann, Phys. Rev. ST Accel. Beams 17 (2014) 054402 (adiabatic matching).
#pragma once

#include <array>
#include <cmath>
#include <numbers>
#include <stdexcept>
#include <string>
#include <string_view>

#include "beam/text.h"
#include "elements/drift.h"
#include "elements/element.h"
#include "elements/phase_space.h"
#include "elements/plasma_lens.h"
#include "elements/quadrupole.h"
#include "elements/spin.h"
#include "numerics/constants.h"

namespace betatron::elements {

/// What particles gain more than the reference in a blow-out: gamma changes by -slope t.
template <class R>
struct blowout_kick {
  R slope, bg_in, bg_out;  // 1/m; beta gamma of the reference

  static constexpr unsigned writes = column::px | column::py | column::pt;
  static constexpr spin_effect spin = spin_effect::turned;
  static constexpr bool changes_energy = true;

  template <class T>
  BETATRON_INLINE void push(phase_space<T>& z, const energy<T>&) const {
    z.pt = (z.pt * bg_in + z.t * slope) * (R(1) / bg_out);
    z.px = z.px * (bg_in / bg_out);
    z.py = z.py * (bg_in / bg_out);
  }
  template <class T>
  BETATRON_INLINE void turn_spin(vector3<T>& s, const phase_space<T>& before,
                                 const phase_space<T>& behind, const energy<T>&,
                                 const gyration<R>& g) const {
    rotate(s, pass_gap(before, behind, g, sqrt(bg_out * bg_out + R(1)), bg_in, bg_out).turn);
  }
  blowout_kick inverse() const { return {-slope, bg_out, bg_in}; }
};

/// The same in a linear wake, and the focusing beyond that of the phase of the reference.
template <class R>
struct linear_wake_kick {
  // gain: a dz; transverse: of K over a; curvature: 2/w^2
  R gain, transverse, curvature, wave_number, cos_phase, sin_phase, bg_in, bg_out;

  static constexpr unsigned writes = column::px | column::py | column::pt;
  static constexpr spin_effect spin = spin_effect::unknown;
  static constexpr bool changes_energy = true;

  template <class T>
  BETATRON_INLINE void push(phase_space<T>& z, const energy<T>&) const {
    using F = scalar_of<T>;
    T s, c;
    sincos(z.t * (wave_number * R(0.5)), s, c);
    // cos(phi) and sin(phi) less those of the reference, without cancellation
    const T more_cos = s * (c * sin_phase - s * cos_phase) * F(2);
    const T more_sin = -(s * (s * sin_phase + c * cos_phase)) * F(2);
    const T radial = (z.x * z.x + z.y * z.y) * curvature;
    const T more = (more_cos - radial * (more_cos + cos_phase)) * gain;
    const T push = more_sin * (gain * transverse);
    z.pt = (z.pt * bg_in - more) * (R(1) / bg_out);
    z.px = (z.px * bg_in - z.x * push) * (R(1) / bg_out);
    z.py = (z.py * bg_in - z.y * push) * (R(1) / bg_out);
  }
  linear_wake_kick inverse() const {
    return {-gain, transverse, curvature, wave_number, cos_phase, sin_phase, bg_out, bg_in};
  }
};

struct plasma_stage {
  double length = 0;
  double density = 0;
  double acceleration = 0;
  double slope = 0;
  std::string wake = "blowout";
  double focusing = 1;
  double phase = 0;
  double width = 0;
  double slip = 0;
  double ramp_up = 0;
  double ramp_down = 0;
  std::string ramp = "cosine";
  double ramp_end = 0;

  static constexpr std::string_view kind = "PlasmaStage";
  static constexpr std::string_view doc =
      "A stage of a plasma accelerator: the analytic wake of a driver that is not tracked, as a blow-out (ion column, "
      "uniform focusing, acceleration linear along the bunch) or a linear wave. Integrated by `order` and `steps`; a "
      "step must be short against a betatron oscillation.";
  static constexpr auto parameters = std::tuple{
      parameter{"length", &plasma_stage::length, "m", "length, with the ramps", range::positive,
                required},
      parameter{"density", &plasma_stage::density, "1/m^3", "electron density of the plateau",
                range::not_negative, required},
      parameter{
          "acceleration", &plasma_stage::acceleration, "V/m",
          "energy gain per length over the charge |q|: of the reference particle where it enters (blowout), on "
          "crest (linear)"},
      parameter{"slope", &plasma_stage::slope, "V/m^2",
                "growth of the acceleration with the place in the wake, forwards (blowout)"},
      parameter{"wake", &plasma_stage::wake, "blowout|linear", "the wake", ""},
      parameter{
          "focusing", &plasma_stage::focusing, "1",
          "focusing over that of the bare ions (blowout): 1 if no electrons are left; it acts with the sign of "
          "the charge, and focuses electrons"},
      parameter{
          "phase", &plasma_stage::phase, "rad",
          "where the reference particle enters the wave (linear): 0 crest, pi/2 the best focusing, ahead"},
      parameter{"width", &plasma_stage::width, "m",
                "width w of the driver, intensity as exp(-2 r^2/w^2) (linear); 0 for a plane wave",
                range::not_negative},
      parameter{"slip", &plasma_stage::slip, "m",
                "how far the reference particle gets ahead in the wake over the length"},
      parameter{"ramp_up", &plasma_stage::ramp_up, "m",
                "length of the ramp of density at the entrance", range::not_negative},
      parameter{"ramp_down", &plasma_stage::ramp_down, "m", "length of that at the exit",
                range::not_negative},
      parameter{"ramp", &plasma_stage::ramp, "linear|cosine|adiabatic", "shape of the ramps", ""},
      parameter{"ramp_end", &plasma_stage::ramp_end, "1",
                "density at the outer end of a ramp over that of the plateau; above 0 if adiabatic",
                range{0, 1, false}},
  };

  /// A width of 0 is a plane wave, and without a ramp the first kick is that of the plateau: no derivatives there.
  static bool zero_is_none(std::string_view parameter) {
    return parameter == "width" || parameter == "ramp_up" || parameter == "ramp_down";
  }

  /// The length over which a ramp is passed: far shorter ones than the stage are steps.
  double passed(double of_ramp) const { return of_ramp > 1e-12 * length ? of_ramp : 0; }
};

/// What does not go together; empty if all does.
inline std::string problem(const plasma_stage& p) {
  const double ramps = p.passed(p.ramp_up) + p.passed(p.ramp_down);
  if (ramps > p.length * (1 + 1e-12)) {
    return "ramp_up + ramp_down = " + beam::number_text(ramps) + " m; allowed: up to the length, " +
           beam::number_text(p.length) + " m";
  }
  if (p.ramp == "adiabatic" && p.ramp_end == 0 && ramps > 0) {
    return "ramp_end = 0 with adiabatic ramps; allowed: above 0";
  }
  if (p.wake == "linear" && p.width > 0 && p.density == 0) {
    return "density = 0 in a linear wake with a width; allowed: above 0";
  }
  return {};
}

namespace detail {

/// The wake of a stage as functions of the path length s behind the entrance, for one species; in units of m c^2.
class plasma_wake {
 public:
  plasma_wake(const plasma_stage& p, const beam::species& particle)
      : stage_(p),
        linear_(p.wake == "linear"),
        up_(p.passed(p.ramp_up)),
        down_(p.passed(p.ramp_down)),
        start_(up_),
        end_(p.length - down_) {
    namespace constants = numerics::constants;
    const double unit = std::fabs(particle.charge) / particle.mass_eV;
    a_ = unit * p.acceleration;
    b_ = unit * p.slope;
    const double kp2 = 4 * std::numbers::pi * constants::classical_electron_radius * p.density;
    kp_ = std::sqrt(kp2);
    if (!linear_) {
      ions_ =
          -particle.charge * p.focusing * kp2 / 2 * constants::electron_mass_eV / particle.mass_eV;
    } else if (p.width > 0) {
      curvature_ = 2 / (p.width * p.width);
      transverse_ = 2 * curvature_ / kp_;
    }
  }

  bool is_linear() const { return linear_; }
  double wave_number() const { return kp_; }
  double transverse() const { return transverse_; }
  double curvature() const { return curvature_; }
  double amplitude() const { return a_; }
  double slope() const { return b_; }
  double phase(double s) const { return stage_.phase + kp_ * slipped(s); }

  /// g, also a little outside of the stage, where stages of methods of higher order look at it.
  double profile(double s) const {
    if (s < start_ && up_ > 0) return ramp((start_ - s) / up_);
    if (s > end_ && down_ > 0) return ramp((s - end_) / down_);
    return 1;
  }

  /// g K at the place of the reference [1/m^2], averaged from s to s + l.
  double focusing(double s, double l) const {
    return mean(s, s + l, [&](double z) {
      return profile(z) * (linear_ ? a_ * transverse_ * std::sin(phase(z)) : ions_);
    });
  }

  /// What the reference particle gains of gamma from s to z.
  double gain(double s, double z) const { return gained(z) - gained(s); }

 private:
  double slipped(double s) const { return stage_.slip * s / stage_.length; }

  /// v: distance from the plateau over the length of the ramp. Not followed far beyond its end.
  double ramp(double v) const {
    const double g0 = stage_.ramp_end;
    v = std::fmin(v, 2);
    if (stage_.ramp == "adiabatic") {
      const double root = 1 + (1 / std::sqrt(g0) - 1) * v;
      return 1 / (root * root);
    }
    if (stage_.ramp == "linear") return 1 - (1 - g0) * v;
    return 1 - (1 - g0) * (1 - std::cos(std::numbers::pi * v)) / 2;
  }

  /// Gauss-Legendre, 12 nodes.
  template <class F>
  static double mean(double from, double to, F&& f) {
    constexpr double node[] = {0.1252334085114689, 0.3678314989981802, 0.5873179542866175,
                               0.7699026741943047, 0.9041172563704749, 0.9815606342467192};
    constexpr double weight[] = {0.2491470458134028, 0.2334925365383548, 0.2031674267230659,
                                 0.1600783285433462, 0.1069393259953184, 0.0471753363865118};
    const double centre = (from + to) / 2, half = (to - from) / 2;
    double sum = 0;
    for (int i = 0; i < 6; ++i) {
      sum += weight[i] * (f(centre - half * node[i]) + f(centre + half * node[i]));
    }
    return sum / 2;
  }

  double force(double s) const { return linear_ ? a_ * std::cos(phase(s)) : a_ + b_ * slipped(s); }

  /// From the start of the plateau to s.
  double gained(double s) const {
    auto plateau = [&](double z) {  // without cancellation in what is closed
      if (linear_ && kp_ * stage_.slip != 0) {
        return (z - start_) * mean(start_, z, [&](double at) { return force(at); });
      }
      return (z - start_) * (force(start_) + force(z)) / 2;
    };
    if (s < start_ && up_ > 0) return -on_ramp(start_ - s, start_, -1, up_);
    if (s > end_ && down_ > 0) return plateau(end_) + on_ramp(s - end_, end_, 1, down_);
    return plateau(s);
  }

  /// Over the distance d from the plateau, which ends at `edge`. The variable of an adiabatic ramp is the logarithm in
  /// which g is an exponential.
  double on_ramp(double d, double edge, int sign, double l) const {
    if (stage_.ramp == "adiabatic" && stage_.ramp_end < 1) {
      const double rate = (1 / std::sqrt(stage_.ramp_end) - 1) / l, end = std::log1p(rate * d);
      return end / rate * mean(0, end, [&](double w) {
               return std::exp(-w) * force(edge + sign * std::expm1(w) / rate);
             });
    }
    return d * mean(0, d, [&](double v) { return ramp(v / l) * force(edge + sign * v); });
  }

  const plasma_stage& stage_;
  bool linear_;
  double up_, down_;    // lengths of the ramps
  double start_, end_;  // of the plateau
  double a_ = 0, b_ = 0, kp_ = 0, ions_ = 0, curvature_ = 0, transverse_ = 0;
};

/// Takes the reference particle through a piece, backwards too: calls kick(weight, s, before, behind) and
/// lens(k, s, l, reference), whose k is over the momentum of the reference. With `apart` kicks of neighbouring steps are
/// not merged. Throws std::domain_error where the wake stops it, and for steps that are too long.
template <class Kick, class Lens>
void pass_plasma(const plasma_stage& p, beam::reference& ref, const stretch& piece, Kick&& kick,
                 Lens&& lens, bool apart = false) {
  constexpr double longest = 1.5;  // of an oscillation [rad]
  const plasma_wake wake(p, ref.particle);
  const double first = piece.from * p.length, last = piece.to * p.length;
  double s = first, pending = 0, middle = first;
  auto kick_up_to = [&](double weight, double next) {
    const double before = ref.beta_gamma();
    ref.kinetic += wake.gain(middle, next);
    if (!(ref.kinetic > 0)) {
      throw std::domain_error("the wake stops the reference particle " + std::to_string(s) +
                              " m behind the entrance");
    }
    kick(weight, s, before, ref.beta_gamma());
    middle = next;
  };
  compose(last - first, piece.order, piece.steps, [&](double l) {
    kick_up_to(pending + l / 2, s + l / 2);
    const double k = wake.focusing(s, l) / ref.beta_gamma();
    const double angle = std::sqrt(std::fabs(k)) * std::fabs(l);
    if (!(angle <= longest)) {
      throw std::domain_error(
          "a step of integration is " + std::to_string(angle) +
          " rad of a betatron oscillation long; allowed: up to " + std::to_string(longest) +
          ", that is, steps of at least " +
          std::to_string(static_cast<long>(std::ceil(piece.steps * angle / longest))) +
          " per slice");
    }
    lens(k, s, l, ref);
    advance_straight(ref, l);
    s += l;
    pending = l / 2;
    if (apart) {
      kick_up_to(pending, s);
      pending = 0;
    }
  });
  if (!apart) kick_up_to(pending, last);
}

}  // namespace detail

inline void advance(const plasma_stage& p, beam::reference& ref, const stretch& piece) {
  detail::pass_plasma(p, ref, piece, [](auto&&...) {}, [](auto&&...) {});
}

/// Where it radiates, a step of order 2 is one of radiation (stages of negative length make no sense), and the momentum of
/// the reference stays the same in it.
template <class Emit>
void emit_maps(const plasma_stage& p, const slice& s, Emit&& emit) {
  const detail::plasma_wake wake(p, s.ref.particle);
  beam::reference ref = s.ref;
  auto kick = [&](double weight, double z, double before, double behind) {
    const double g = wake.profile(z);
    if (wake.is_linear()) {
      const double phase = wake.phase(z);
      emit(linear_wake_kick<double>{weight * g * wake.amplitude(), wake.transverse(),
                                    wake.curvature(), wake.wave_number(), std::cos(phase),
                                    std::sin(phase), before, behind});
    } else {
      emit(blowout_kick<double>{weight * g * wake.slope(), before, behind});
    }
  };
  auto lens = [&](double k, double, double l, const beam::reference& at) {
    const double inv_beta = at.inverse_beta();
    auto remainder = [&] {
      if (s.model == model::exact) emit(exact_remainder<double>{l / 2, inv_beta});
    };
    remainder();
    emit(plasma_lens_paraxial<double>::make(l, k, inv_beta));
    remainder();
  };
  stretch piece = s.piece();
  if (s.radiation == nullptr) return detail::pass_plasma(p, ref, piece, kick, lens);
  piece.steps *= piece.order == 2 ? 1 : piece.order == 4 ? 3 : 7;
  piece.order = 2;
  detail::pass_plasma(
      p, ref, piece,
      [&](double, double z, double before, double behind) { kick(0, z, before, behind); },
      [&](double k, double z, double l, const beam::reference& at) {
        const slice here{at,      s.model,    s.order,    s.steps,    s.index,
                         s.count, s.fraction, s.in_steps, s.radiation};
        const double bg = at.beta_gamma();
        radiate(l, {}, here, emit, [&] {
          kick(l / 2, z, bg, bg);
          lens(k, z, l, at);
          kick(l / 2, z + l, bg, bg);
        });
      },
      true);
}

}  // namespace betatron::elements
