// uniform_acceleration.h: uniform fields Ez and Bz along a straight: a static gap, an electrostatic column.
//
//   paraxial  H = -P + ((px + K y)^2 + (py - K x)^2)/(2P)      exact  H = -sqrt(P^2 - (px + K y)^2 - (py - K x)^2)
//
// with momenta over m c, P(z)^2 = gamma(z)^2 - 1, gamma(z) = gamma + e z the same gain e = |q| Ez/(m c^2) per metre
// for all, and K = q Bz/(2 m c). The kinetic transverse momentum k is conserved, and with S = P_in + P_out (exact:
// pz in place of P) the solution is closed,
//   c dt = dz (gamma_in + gamma_out)/S (+ k^2 dz (gamma_in + gamma_out)/(2 P_in P_out S) if paraxial)
//   int dz/P = (2 dz/S) atanh(v)/v,     v = e dz/S,
// the last being the difference of rapidities over e, tanh((a - b)/2) = (sinh a - sinh b)/(cosh a + cosh b). Nothing
// is divided by e. The delay against the reference has no cancellation: (gamma_in + gamma_out)/S = Q with
// Q^2 = 1 + 4 (1 + k^2)/(S^2 - (e dz)^2), k = 0 if paraxial.
// Source: hyperbolic motion, L. D. Landau and E. M. Lifshitz, The Classical Theory of Fields, sec. 20; the
// transverse part as for a solenoid, see solenoid.h.
#pragma once

#include "elements/element.h"
#include "elements/phase_space.h"
#include "elements/solenoid.h"
#include "elements/spin.h"
#include "numerics/constants.h"

namespace betatron::elements {

namespace detail {

/// The particles that have a velocity at both ends are inside.
template <bool exact, class Map, class T>
BETATRON_INLINE mask_of<T> accelerate(const Map& m, phase_space<T>& z) {
  using F = scalar_of<T>;
  const auto bg_in2 = m.bg_in * m.bg_in;
  const auto half_ks = m.half_bz / m.bg_in;
  const T kx = z.px + z.y * half_ks, ky = z.py - z.x * half_ks;
  const T k2 = (kx * kx + ky * ky) * bg_in2;
  const T gamma = (m.inv_beta_in - z.pt) * m.bg_in;

  // P^2 (exact: pz^2) less that of the reference
  T in = z.pt * (z.pt - m.inv_beta_in * F(2)) * bg_in2;
  if constexpr (exact) in = in - k2;
  const T out = in - z.pt * (m.gain * m.bg_in * F(2));
  const T p_in2 = in + bg_in2, p_out2 = out + m.bg_out * m.bg_out;
  const auto inside =
      (p_in2 > T(F(0))) & (p_out2 > T(F(0))) & (gamma > T(F(0))) & (gamma + m.gain > T(F(0)));
  const T p_in = sqrt(select(inside, p_in2, T(F(1))));
  const T p_out = sqrt(select(inside, p_out2, T(F(1))));

  const auto sum0 = m.bg_in + m.bg_out;
  const auto square0 = sum0 * sum0 - m.gain * m.gain;
  const auto q0 = (m.inv_beta_in * m.bg_in + m.inv_beta_out * m.bg_out) / sum0;
  const T sum = p_in + p_out, inv_sum = F(1) / sum;
  const T more = in / (p_in + m.bg_in) + out / (p_out + m.bg_out);  // sum - sum0
  const T square = (sum - m.gain) * (sum + m.gain);
  const T q = (gamma * F(2) + m.gain) * inv_sum;
  T lag = -(more * (sum + sum0));
  if constexpr (exact) lag = lag + k2 * square0;
  z.t = z.t + lag / square * (m.length * F(4) / square0) / (q + q0);
  if constexpr (!exact) z.t = z.t + k2 * q / (p_in * p_out) * (m.length * F(0.5));

  const T v = inv_sum * m.gain;
  const T inv = atanh_ratio(select(inside, T(v * v), T(F(0)))) * inv_sum * (m.bg_in * F(2));
  solenoid_turn(z, inv, m.length, half_ks, m.reach);
  const auto scale = m.bg_in / m.bg_out;
  z.px = z.px * scale;
  z.py = z.py * scale;
  z.pt = z.pt * scale;
  return inside;
}

/// The spin of a particle on the way: the body of a solenoid, see solenoid.h, and the turn by Ez, both with the means of
/// gamma and momenta, of second order in the length; Bz begins and ends with edges. Ez is taken to have none.
template <bool exact, class Map, class T, class R>
BETATRON_INLINE void turn_spin_accelerated(const Map& m, vector3<T>& s,
                                           const phase_space<T>& before,
                                           const phase_space<T>& behind, const energy<T>& e,
                                           const gyration<R>& g) {
  using F = scalar_of<T>;
  auto kinetic = [&](phase_space<T> z, R half_ks) {
    z.px = z.px + z.y * half_ks;
    z.py = z.py - z.x * half_ks;
    return z;
  };
  const phase_space<T> in = kinetic(before, m.half_bz / m.bg_in);
  turn_spin_by_kick(s, before, in, e, g);

  const T kx = in.px * m.bg_in, ky = in.py * m.bg_in, k2 = kx * kx + ky * ky;
  const T gamma_in = (T(m.inv_beta_in) - before.pt) * m.bg_in;
  auto momentum = [&](const T& gamma, const T& across2) {
    const T square = (gamma - F(1)) * (gamma + F(1)) - across2;
    return sqrt(select(square > T(F(0)), square, T(F(1))));
  };
  const T none = exact ? k2 : T(F(0));
  const T gamma_out = gamma_in + m.gain;
  const T inv_sum = F(1) / (momentum(gamma_in, none) + momentum(gamma_out, none));
  const T v = inv_sum * m.gain;
  const T phi = atanh_ratio(T(v * v)) * inv_sum * (m.half_bz * m.length * F(4));
  const T gamma = (gamma_in + gamma_out) * F(0.5);
  const T pz = momentum(gamma, k2), p2 = (gamma - F(1)) * (gamma + F(1));
  const T along = (gamma - F(1)) * g.anomaly * pz / p2;
  rotate(s, vector3<T>{kx * along, ky * along, pz * along - gamma * g.anomaly} * phi +
                turn_by_acceleration(T(m.gain), gamma, kx, ky, pz, g.anomaly));
  rotate(s, vector3<T>{T(F(0)), T(F(0)), -phi});

  const energy<T> e_out{F(1) / (momentum(gamma_out, T(F(0))) * (R(1) / m.bg_out)), e.slip};
  const gyration<R> g_out{g.anomaly, m.inv_beta_out * m.bg_out, m.bg_out};
  turn_spin_by_kick(s, kinetic(behind, m.half_bz / m.bg_out), behind, e_out, g_out);
}

}  // namespace detail

template <class R>
struct uniform_acceleration_paraxial {
  // gain: of gamma; half_bz: K; the others of the reference in front and behind
  R length, gain, half_bz, bg_in, bg_out, inv_beta_in, inv_beta_out, reach;

  static constexpr unsigned writes = 63;
  static constexpr spin_effect spin = spin_effect::turned;
  static constexpr bool changes_energy = true;
  static constexpr beam::loss_reason loss = beam::loss_reason::outside_domain;

  template <class T>
  BETATRON_INLINE mask_of<T> push(phase_space<T>& z, const energy<T>&) const {
    return detail::accelerate<false>(*this, z);
  }
  template <class T>
  BETATRON_INLINE void turn_spin(vector3<T>& s, const phase_space<T>& before,
                                 const phase_space<T>& behind, const energy<T>& e,
                                 const gyration<R>& g) const {
    detail::turn_spin_accelerated<false>(*this, s, before, behind, e, g);
  }
  uniform_acceleration_paraxial inverse() const {
    return {-length, -gain, half_bz, bg_out, bg_in, inv_beta_out, inv_beta_in, reach};
  }
};

template <class R>
struct uniform_acceleration_exact {
  R length, gain, half_bz, bg_in, bg_out, inv_beta_in, inv_beta_out, reach;

  static constexpr unsigned writes = 63;
  static constexpr spin_effect spin = spin_effect::turned;
  static constexpr bool changes_energy = true;
  static constexpr beam::loss_reason loss = beam::loss_reason::outside_domain;

  template <class T>
  BETATRON_INLINE mask_of<T> push(phase_space<T>& z, const energy<T>&) const {
    return detail::accelerate<true>(*this, z);
  }
  template <class T>
  BETATRON_INLINE void turn_spin(vector3<T>& s, const phase_space<T>& before,
                                 const phase_space<T>& behind, const energy<T>& e,
                                 const gyration<R>& g) const {
    detail::turn_spin_accelerated<true>(*this, s, before, behind, e, g);
  }
  uniform_acceleration_exact inverse() const {
    return {-length, -gain, half_bz, bg_out, bg_in, inv_beta_out, inv_beta_in, reach};
  }
};

struct uniform_acceleration {
  double length = 0;
  double voltage = 0;
  double field = 0;

  static constexpr std::string_view kind = "UniformAcceleration";
  static constexpr std::string_view doc =
      "Uniform electric and magnetic fields along the axis. Every particle gains |q| voltage; one that would be left "
      "without a velocity is lost.";
  static constexpr auto parameters = std::tuple{
      parameter{"length", &uniform_acceleration::length, "m", "length", range::positive, required},
      parameter{"voltage", &uniform_acceleration::voltage, "V",
                "energy gain over the charge |q|; negative decelerates"},
      parameter{"field", &uniform_acceleration::field, "T", "Bz; acts with the sign of the charge"},
  };
};

namespace detail {
inline double gamma_gain(const uniform_acceleration& a, const beam::reference& ref,
                         double fraction) {
  return std::fabs(ref.particle.charge) * a.voltage * fraction / ref.particle.mass_eV;
}
}  // namespace detail

inline void advance(const uniform_acceleration& a, beam::reference& ref, double fraction) {
  const double gain = detail::gamma_gain(a, ref, fraction), length = a.length * fraction;
  const double bg = ref.beta_gamma(), gammas = 2 * ref.gamma() + gain, t = ref.t;
  advance_straight(ref, length);
  ref.kinetic += gain;
  ref.t = t + length * gammas / (bg + ref.beta_gamma());
}

template <class Emit>
void emit_maps(const uniform_acceleration& a, const slice& s, Emit&& emit) {
  beam::reference after = s.ref;
  advance(a, after, s.fraction);
  if (s.in_steps && s.steps > 1) {  // no longer in steps: each is one
    beam::reference ref = s.ref;
    const double fraction = s.fraction / s.steps;
    for (int i = 0; i < s.steps; ++i) {
      emit_maps(a, {ref, s.model, s.order, 1, s.index, s.count, fraction}, emit);
      advance(a, ref, fraction);
    }
    return;
  }
  const double length = a.length * s.fraction, gain = detail::gamma_gain(a, s.ref, s.fraction);
  const double half_bz = a.field * s.ref.particle.charge * numerics::constants::speed_of_light /
                         s.ref.particle.mass_eV / 2;
  const double bg_in = s.ref.beta_gamma(), bg_out = after.beta_gamma();
  const double turn = half_bz * length / std::fmin(bg_in, bg_out);
  const uniform_acceleration_paraxial<double> paraxial{length,
                                                       gain,
                                                       half_bz,
                                                       bg_in,
                                                       bg_out,
                                                       s.ref.inverse_beta(),
                                                       after.inverse_beta(),
                                                       turn * turn * 1.5625};
  if (s.model == model::exact) {
    emit(__builtin_bit_cast(uniform_acceleration_exact<double>, paraxial));
  } else {
    emit(paraxial);
  }
}

}  // namespace betatron::elements
