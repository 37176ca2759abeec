// undulator.h: a wiggler or undulator, averaged over its period.
//
// In the field By = B cosh(kx x) cosh(ky y) cos(ku z) + ..., kx^2 + ky^2 = ku^2 = (2 pi/period)^2, a particle wiggles
// with the momentum px = (a + ...) sin(ku z), a = K/(beta0 gamma0), K = e B/(m c ku). What the mean of px^2,
//   a^2/2 cosh^2(kx x) cosh^2(ky y) = (a^2/2) (1 + kx^2 x^2 + ky^2 y^2) + higher orders,
// leaves of the longitudinal momentum moves the orbit about which it wiggles:
//   exact     H = -sqrt(P^2 - a^2/2 - N) - pt/beta0'       N = px^2 + py^2 + (a^2/2)(kx^2 x^2 + ky^2 y^2)
//   paraxial  the same to first order in N
// that is a particle of mass m sqrt(1 + K^2/2), the one that makes the wavelength of the light,
// period (1 + K^2/2)/(2 gamma^2), with natural focusing of wave numbers K kx/(sqrt(2) beta gamma) and with ky. N is
// conserved, so that both are closed: oscillations of the phase (a kx/sqrt 2) L/P. beta0' belongs to the heavier
// reference particle. The wiggle itself, the ends, and terms of higher orders in kx x, ky y are left out.
// Sources: E. T. Scharlemann, J. Appl. Phys. 58 (1985) 2154 (natural focusing, parabolic poles); P. Schmueser et al.,
// Free-Electron Lasers in the Ultraviolet and X-Ray Regime (2014), ch. 2 and 3.
#pragma once

#include <numbers>
#include <stdexcept>
#include <string>

#include "elements/drift.h"
#include "elements/element.h"
#include "elements/phase_space.h"
#include "elements/spin.h"
#include "numerics/constants.h"

namespace betatron::elements {

namespace detail {

template <bool exact, class Map, class T>
BETATRON_INLINE mask_of<T> undulate(const Map& m, phase_space<T>& z) {
  using F = scalar_of<T>;
  // coordinates in units of the mean longitudinal momentum of the reference
  const T px = z.px * m.inv_p0, py = z.py * m.inv_p0, pt = z.pt * m.inv_p0;
  const T p2 = pt * (pt - m.inv_beta * F(2)) + F(1);
  const auto moving = p2 > T(F(0));
  const energy<T> e = energy_of(select(moving, pt, T(F(0))), m.inv_beta, m.inv_bg2);
  const T u = (px * px + py * py + z.x * z.x * m.wx + z.y * z.y * m.wy) * (e.inv_p * e.inv_p);
  T inv = e.inv_p;
  auto inside = moving;
  if constexpr (exact) {
    inside = moving & (u < T(F(1)));
    const T r = rsqrt(F(1) - select(inside, u, T(F(0))));
    inv = inv * r;
    z.t = z.t + (e.slip + (e.slip + m.inv_beta) * excess_path(u, r)) * m.length;
  } else {
    z.t = z.t + (e.slip + (e.slip + m.inv_beta) * u * F(0.5)) * m.length;
  }
  auto plane = [&](T& q, T& p, const T& p_scaled, auto w, auto reach) {
    T c[4];
    stumpff<4>(inv * inv * (w * m.length * m.length), reach, c);
    const T l = inv * c[1] * m.length;
    const T moved = c[0] * q + l * p_scaled;
    p = c[0] * p - l * q * (w / m.inv_p0);
    q = moved;
  };
  plane(z.x, z.px, px, m.wx, m.reach_x);
  plane(z.y, z.py, py, m.wy, m.reach_y);
  return inside;
}

}  // namespace detail

template <class R>
struct undulator_paraxial {
  // w: squares of the wave numbers of the natural focusing; 1/P0, 1/beta0', 1/(beta0' gamma0')^2 of the reference
  R length, wx, wy, inv_p0, inv_beta, inv_bg2, reach_x, reach_y;

  static constexpr unsigned writes = column::x | column::px | column::y | column::py | column::t;
  static constexpr spin_effect spin = spin_effect::unknown;
  static constexpr beam::loss_reason loss = beam::loss_reason::outside_domain;

  template <class T>
  BETATRON_INLINE mask_of<T> push(phase_space<T>& z, const energy<T>&) const {
    return detail::undulate<false>(*this, z);
  }
  undulator_paraxial inverse() const {
    return {-length, wx, wy, inv_p0, inv_beta, inv_bg2, reach_x, reach_y};
  }
};

template <class R>
struct undulator_exact {
  R length, wx, wy, inv_p0, inv_beta, inv_bg2, reach_x, reach_y;

  static constexpr unsigned writes = column::x | column::px | column::y | column::py | column::t;
  static constexpr spin_effect spin = spin_effect::unknown;
  static constexpr beam::loss_reason loss = beam::loss_reason::outside_domain;

  template <class T>
  BETATRON_INLINE mask_of<T> push(phase_space<T>& z, const energy<T>&) const {
    return detail::undulate<true>(*this, z);
  }
  undulator_exact inverse() const {
    return {-length, wx, wy, inv_p0, inv_beta, inv_bg2, reach_x, reach_y};
  }
};

struct undulator {
  double length = 0;
  double period = 0;
  double strength = 0;
  double field = 0;
  double sharing = 0;

  static constexpr std::string_view kind = "Undulator";
  static constexpr std::string_view doc =
      "A planar undulator or wiggler with vertical field, averaged over its period: natural focusing and the delay of "
      "the longer path; no wiggle, no radiation. A helical one of parameter K is one of strength sqrt(2) K with "
      "sharing 1/2.";
  static constexpr auto parameters = std::tuple{
      parameter{"length", &undulator::length, "m", "length", range::positive, required},
      parameter{"period", &undulator::period, "m", "period of the field", range::positive,
                required},
      parameter{"strength", &undulator::strength, "1",
                "undulator parameter K = e B/(m c ku) of the peak field; its sign has no effect"},
      parameter{"field", &undulator::field, "T", "peak field, which adds q B/(m c ku) to strength"},
      parameter{"sharing", &undulator::sharing, "1",
                "kx^2/ku^2, the part of the focusing in x: 0 flat poles, 1/2 parabolic ones",
                range{0, 1, false}},
  };
};

namespace detail {

/// a^2/2, the mean square of the wiggling momentum over that of the reference. Throws std::domain_error if the
/// reference would not pass.
inline double mean_square_wiggle(const undulator& u, const beam::reference& ref) {
  const double ku = 2 * std::numbers::pi / u.period;
  const double charge_over_mass =
      ref.particle.charge * numerics::constants::speed_of_light / ref.particle.mass_eV;
  const double parameter = u.strength + charge_over_mass * u.field / ku;
  const double a = parameter / ref.beta_gamma();
  if (!(a * a < 2)) {
    throw std::domain_error("the undulator parameter is " + std::to_string(parameter) +
                            "; allowed: below sqrt(2) beta gamma = " +
                            std::to_string(std::numbers::sqrt2 * ref.beta_gamma()));
  }
  return a * a / 2;
}

}  // namespace detail

inline void advance(const undulator& u, beam::reference& ref, double fraction) {
  const double p0 = std::sqrt(1 - detail::mean_square_wiggle(u, ref)), t = ref.t;
  advance_straight(ref, u.length * fraction);
  ref.t = t + u.length * fraction * ref.inverse_beta() / p0;
}

template <class Emit>
void emit_maps(const undulator& u, const slice& s, Emit&& emit) {
  const double ku = 2 * std::numbers::pi / u.period, length = u.length * s.fraction;
  const double wiggle = detail::mean_square_wiggle(u, s.ref);
  const double p2 = 1 - wiggle, inv_p0 = 1 / std::sqrt(p2);
  const double wx = wiggle / p2 * ku * ku * u.sharing, wy = wiggle / p2 * ku * ku * (1 - u.sharing);
  const double phase2 = length * length * 1.5625;  // momenta down to 80 % of the reference momentum
  const double inv_beta = s.ref.inverse_beta() * inv_p0;
  const double inv_bg2 = (s.ref.inverse_beta_gamma_squared() + wiggle) / p2;
  const undulator_paraxial<double> paraxial{length,   wx,      wy,          inv_p0,
                                            inv_beta, inv_bg2, wx * phase2, wy * phase2};
  // the curvature a ku cos(ku z): the mean of |cos|^3 is 4/(3 pi), that of cos^2 1/2
  const radiating_field field{.wiggle = wiggle * ku * ku,
                              .cube = 8 * std::numbers::sqrt2 / (3 * std::numbers::pi)};
  radiate(length, field, s, emit, [&] {
    if (s.model == model::exact) {
      emit(__builtin_bit_cast(undulator_exact<double>, paraxial));
    } else {
      emit(paraxial);
    }
  });
}

}  // namespace betatron::elements
