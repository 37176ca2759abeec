// solenoid.h: a solenoid with hard edges, in canonical momenta (the fringe kicks are in the vector potential).
//
//   paraxial  H = -P + ((px + K y)^2 + (py - K x)^2)/(2P) - pt/beta0
//   exact     H = -sqrt(P^2 - (px + K y)^2 - (py - K x)^2) - pt/beta0         K = ks/2 = Bz/(2 B rho)
//
// The kinetic transverse momentum squared is conserved, so that the exact flow is the paraxial one with P
// replaced by pz: a rotation by theta = K L/pz and an oscillation with the same phase.
// Source: E. Forest, Beam Dynamics (1998), sec. 12; A. Wolski, Beam Dynamics in High Energy Particle
// Accelerators (2014), sec. 3.6.
#pragma once

#include "elements/drift.h"
#include "elements/element.h"
#include "elements/phase_space.h"
#include "elements/spin.h"

namespace betatron::elements {

namespace detail {

/// Larmor rotation and focusing with `inv` in place of 1/P.
template <class T, class R>
BETATRON_INLINE void solenoid_turn(phase_space<T>& z, const T& inv, R length, R half_ks, R reach) {
  const T theta = inv * (half_ks * length);
  T c[4];
  stumpff<4>(theta * theta, reach, c);
  const T cosine = c[0], sine = theta * c[1];
  const T b = inv * c[1] * length;                        // x += b px
  const T f = inv * c[1] * (half_ks * half_ks * length);  // px -= f x
  const T x = cosine * z.x + b * z.px, px = cosine * z.px - f * z.x;
  const T y = cosine * z.y + b * z.py, py = cosine * z.py - f * z.y;
  z.x = cosine * x + sine * y;
  z.y = cosine * y - sine * x;
  z.px = cosine * px + sine * py;
  z.py = cosine * py - sine * px;
}

template <class T, class R>
BETATRON_INLINE T kinetic_squared(const phase_space<T>& z, const energy<T>& e, R half_ks) {
  const T kx = z.px + z.y * half_ks, ky = z.py - z.x * half_ks;
  return (kx * kx + ky * ky) * (e.inv_p * e.inv_p);
}

/// The body: seen from a frame that turns with the kinetic momentum k, by -phi about s, phi = ks L `inv`, the field and
/// k stand still, and the spin turns by -phi (a e_s - (a - G) n_s n), n = k/P. At both ends the vector potential, which
/// makes canonical of kinetic momenta, stands for the radial field of an edge; where two pieces meet, the edges cancel.
template <class T, class R>
BETATRON_INLINE void turn_spin_in_solenoid(vector3<T>& s, const phase_space<T>& before,
                                           const phase_space<T>& behind, const energy<T>& e,
                                           const gyration<R>& g, R length, R half_ks,
                                           const T& inv) {
  using F = scalar_of<T>;
  auto kinetic = [&](phase_space<T> z) {
    z.px = z.px + z.y * half_ks;
    z.py = z.py - z.x * half_ks;
    return z;
  };
  const phase_space<T> in = kinetic(before);
  turn_spin_by_kick(s, before, in, e, g);
  const T pz = precession<T>(before.pt, e.inv_p, g)(in.px, in.py).pz;
  const T phi = inv * (half_ks * length * R(2));
  const T a = (T(g.gamma) - before.pt * g.beta_gamma) * g.anomaly;
  const T along = (a - g.anomaly) * pz * (e.inv_p * e.inv_p);
  rotate(s, vector3<T>{in.px * along, in.py * along, pz * along - a} * phi);
  rotate(s, vector3<T>{T(F(0)), T(F(0)), -phi});
  turn_spin_by_kick(s, kinetic(behind), behind, e, g);
}

}  // namespace detail

template <class R>
struct solenoid_paraxial {
  R length, half_ks, inv_beta, reach;

  static constexpr unsigned writes = column::x | column::px | column::y | column::py | column::t;
  static constexpr spin_effect spin = spin_effect::turned;

  static solenoid_paraxial make(R length, R ks, R inv_beta) {
    const R phase = ks * length * R(0.5);
    return {length, ks / 2, inv_beta, phase * phase * R(1.5625)};
  }

  template <class T>
  BETATRON_INLINE void push(phase_space<T>& z, const energy<T>& e) const {
    using F = scalar_of<T>;
    const T u = detail::kinetic_squared(z, e, half_ks);
    detail::solenoid_turn(z, e.inv_p, length, half_ks, reach);
    z.t = z.t + (e.slip + (e.slip + inv_beta) * u * F(0.5)) * length;
  }
  template <class T>
  BETATRON_INLINE void turn_spin(vector3<T>& s, const phase_space<T>& before,
                                 const phase_space<T>& behind, const energy<T>& e,
                                 const gyration<R>& g) const {
    detail::turn_spin_in_solenoid(s, before, behind, e, g, length, half_ks, e.inv_p);
  }
  solenoid_paraxial inverse() const { return {-length, half_ks, inv_beta, reach}; }
};

template <class R>
struct solenoid_exact {
  R length, half_ks, inv_beta, reach;

  static constexpr unsigned writes = column::x | column::px | column::y | column::py | column::t;
  static constexpr spin_effect spin = spin_effect::turned;
  static constexpr beam::loss_reason loss = beam::loss_reason::outside_domain;

  template <class T>
  BETATRON_INLINE mask_of<T> push(phase_space<T>& z, const energy<T>& e) const {
    using F = scalar_of<T>;
    const T raw = detail::kinetic_squared(z, e, half_ks);
    const auto inside = raw < T(F(1));
    const T u = select(inside, raw, T(F(0)));
    const T r = rsqrt(F(1) - u);
    detail::solenoid_turn(z, T(e.inv_p * r), length, half_ks, reach);
    z.t = z.t + (e.slip + (e.slip + inv_beta) * detail::excess_path(u, r)) * length;
    return inside;
  }
  template <class T>
  BETATRON_INLINE void turn_spin(vector3<T>& s, const phase_space<T>& before,
                                 const phase_space<T>& behind, const energy<T>& e,
                                 const gyration<R>& g) const {
    const T u = detail::kinetic_squared(before, e, half_ks);
    const T inv = e.inv_p * rsqrt(T(scalar_of<T>(1)) - u);
    detail::turn_spin_in_solenoid(s, before, behind, e, g, length, half_ks, inv);
  }
  solenoid_exact inverse() const { return {-length, half_ks, inv_beta, reach}; }
};

struct solenoid {
  double length = 0;
  double ks = 0;
  double field = 0;

  static constexpr std::string_view kind = "Solenoid";
  static constexpr std::string_view doc =
      "A solenoid with hard edges. A negative length is allowed and tracks back.";
  static constexpr auto parameters = std::tuple{
      parameter{"length", &solenoid::length, "m", "length", range::any, required},
      parameter{"ks", &solenoid::ks, "1/m",
                "Bz over the signed rigidity, the same for any species"},
      parameter{"field", &solenoid::field, "T",
                "Bz, added to ks; acts with the sign of the charge"},
  };
};

/// A stretch of uniform field, in the model of the element it belongs to.
template <class Emit>
void emit_solenoid(double length, double ks, const slice& s, Emit&& emit) {
  radiate(length, {.half_ks = ks / 2}, s, emit, [&] {
    const auto paraxial = solenoid_paraxial<double>::make(length, ks, s.ref.inverse_beta());
    if (s.model == model::exact) {
      emit(solenoid_exact<double>{length, paraxial.half_ks, paraxial.inv_beta, paraxial.reach});
    } else {
      emit(paraxial);
    }
  });
}

template <class Emit>
void emit_maps(const solenoid& m, const slice& s, Emit&& emit) {
  double ks = m.ks;
  if (m.field != 0) ks += m.field / s.ref.rigidity();
  const int pieces = s.radiation != nullptr ? s.steps : 1;
  for (int i = 0; i < pieces; ++i) emit_solenoid(m.length * s.fraction / pieces, ks, s, emit);
}

}  // namespace betatron::elements
