// spin.h: how a field that turns the momentum turns the spin: the equation of Thomas, Bargmann, Michel and Telegdi.
//
// With G the gyromagnetic anomaly, a = G gamma, n the direction of flight, and B split along and across n,
//   dS/dt = W x S,   W = -q/(gamma m) ((1 + a) B_across + (1 + G) B_along) + q/(m c) (G + 1/(gamma + 1)) beta x E.
// A map knows what its field does to the momentum: across the frame the forces per metre of the reference orbit are
//   dpx/ds = h pz + f_y,   dpy/ds = -f_x,   f = -(1 + h x) B/(B rho)_0
// (h: curvature of the frame, momenta over p0), so that the spin follows from the orbit. In the frame of the
// orbit, which turns by -h per metre about y,
//   dS/ds = (M f + (0, h, 0)) x S,   M f = ((1 + a) f - (a - G) (f.p) p/P^2)/pz.
// One step over the length L of a map takes the integral of f from the momenta, exactly where that is possible, M by
// Simpson's rule, and adds the first commutator of the Magnus series, W = int (M f + ...) ds,
//   S -> exp(W - (L/12) W x [M f]_start^end) S,
// an error of order L^5 per step; the step looks the same from both ends and is undone by the one of length -L.
// Spins are unit vectors, and stay so to rounding. Components are along x, y, s of the frame.
// Sources: V. Bargmann, L. Michel, V. L. Telegdi, Phys. Rev. Lett. 2 (1959) 435; S. R. Mane, Yu. M. Shatunov,
// K. Yokoya, Rep. Prog. Phys. 68 (2005) 1997, sec. 2; S. Blanes et al., Phys. Rep. 470 (2009) 151, sec. 5.
#pragma once

#include "elements/phase_space.h"

namespace betatron::elements {

/// A vector in the frame of the orbit: a spin, a rotation (its axis times its angle), a field.
template <class T>
struct vector3 {
  T x, y, z;

  friend BETATRON_INLINE vector3 operator+(const vector3& a, const vector3& b) {
    return {a.x + b.x, a.y + b.y, a.z + b.z};
  }
  friend BETATRON_INLINE vector3 operator-(const vector3& a, const vector3& b) {
    return {a.x - b.x, a.y - b.y, a.z - b.z};
  }
  template <class S>
  friend BETATRON_INLINE vector3 operator*(const vector3& a, const S& s) {
    return {a.x * s, a.y * s, a.z * s};
  }
};

template <class T>
BETATRON_INLINE vector3<T> cross(const vector3<T>& a, const vector3<T>& b) {
  return {a.y * b.z - a.z * b.y, a.z * b.x - a.x * b.z, a.x * b.y - a.y * b.x};
}

/// What the precession depends on beside the fields: anomaly G, gamma and beta gamma of the reference particle.
template <class R>
struct gyration {
  R anomaly, gamma, beta_gamma;
};

/// How a map treats the spin. A map that turns it has
///   turn_spin(s, before, behind, e, g)    the spin s of a particle whose coordinates it changes in this way
enum class spin_effect {
  none,     ///< no field, or one that is not meant to act on the spin
  turned,   ///< by turn_spin
  unknown,  ///< the fields are not known well enough
};

/// Of a map that does not say it, the effect is unknown.
template <class Map>
constexpr spin_effect spin_effect_of() {
  if constexpr (requires { Map::spin; }) {
    return Map::spin;
  } else {
    return spin_effect::unknown;
  }
}

/// S -> exp(w x) S, by Rodrigues' formula; a Newton step for |S| = 1 takes away what rounding adds to the length.
template <class T>
BETATRON_INLINE void rotate(vector3<T>& s, const vector3<T>& w) {
  using F = scalar_of<T>;
  T c[4];
  stumpff<4>(w.x * w.x + w.y * w.y + w.z * w.z, F(0), c);
  const vector3<T> across = cross(w, s);
  s = s + across * c[1] + cross(w, across) * c[2];
  s = s * ((s.x * s.x + s.y * s.y + s.z * s.z) * F(-0.5) + F(1.5));
}

/// The linear map M of the head of this file, for one particle.
template <class T>
class precession {
 public:
  /// M at one place of its orbit.
  struct at {
    T px, py, pz, inv_pz, across, along;

    BETATRON_INLINE vector3<T> operator()(const vector3<T>& f) const {
      const T shift = (f.x * px + f.y * py + f.z * pz) * along;
      return {f.x * across - px * shift, f.y * across - py * shift, f.z * across - pz * shift};
    }
  };

  template <class R>
  BETATRON_INLINE precession(const T& pt, const T& inv_p, const gyration<R>& g)
      : inv_p2_(inv_p * inv_p), p2_(T(scalar_of<T>(1)) / inv_p2_) {
    const T a = (T(g.gamma) - pt * g.beta_gamma) * g.anomaly;
    across_ = a + scalar_of<T>(1);
    along_ = (a - g.anomaly) * inv_p2_;
  }

  /// A particle steeper than 75 degrees counts as one with pz = P/4: paraxial ones may be steeper than possible.
  BETATRON_INLINE at operator()(const T& px, const T& py) const {
    using F = scalar_of<T>;
    const T pz2 = p2_ - px * px - py * py, least = p2_ * F(1.0 / 16);
    const T inv_pz = rsqrt(select(pz2 > least, pz2, least));
    return {px, py, T(F(1)) / inv_pz, inv_pz, across_ * inv_pz, along_ * inv_pz};
  }

 private:
  T inv_p2_, p2_, across_, along_;
};

/// One step: f0 and f1 per metre at the ends, `integral` that of f over the length.
template <class T, class R>
BETATRON_INLINE void turn_spin_along(vector3<T>& s, const phase_space<T>& before,
                                     const phase_space<T>& behind, const energy<T>& e,
                                     const gyration<R>& g, R length, R curvature,
                                     const vector3<T>& integral, const vector3<T>& f0,
                                     const vector3<T>& f1) {
  using F = scalar_of<T>;
  const precession<T> m(before.pt, e.inv_p, g);
  const auto m0 = m(before.px, before.py), m1 = m(behind.px, behind.py);
  const R eighth = length * R(0.125), twelfth = length * R(1.0 / 12);
  const auto middle =
      m((before.px + behind.px) * F(0.5) + (f0.y - f1.y + (m0.pz - m1.pz) * curvature) * eighth,
        (before.py + behind.py) * F(0.5) - (f0.x - f1.x) * eighth);
  const vector3<T> w0 = m0(f0), w1 = m1(f1);
  // the last two add what the slopes of M and of f make together
  vector3<T> w = (m0(integral) + middle(integral) * F(4) + m1(integral)) * F(1.0 / 6) +
                 (w1 + w0 - m1(f0) - m0(f1)) * twelfth;
  w.y = w.y + T(curvature * length);
  rotate(s, w - cross(w, (w1 - w0) * twelfth));
}

/// A kick by a transverse field, in no length; `along`: its integral of f_s (of a fringe field).
template <class T, class R>
BETATRON_INLINE void turn_spin_by_kick(vector3<T>& s, const phase_space<T>& before,
                                       const phase_space<T>& behind, const energy<T>& e,
                                       const gyration<R>& g) {
  using F = scalar_of<T>;
  const vector3<T> f{before.py - behind.py, behind.px - before.px, T(F(0))};
  turn_spin_along(s, before, behind, e, g, R(1), R(0), f, f, f);
}
template <class T, class R>
BETATRON_INLINE void turn_spin_by_kick(vector3<T>& s, const phase_space<T>& before,
                                       const phase_space<T>& behind, const energy<T>& e,
                                       const gyration<R>& g, const T& along) {
  using F = scalar_of<T>;
  const T x = (before.px + behind.px) * e.inv_p * F(0.5),
          y = (before.py + behind.py) * e.inv_p * F(0.5);
  const vector3<T> f{before.py - behind.py + along * x, behind.px - before.px + along * y, along};
  turn_spin_along(s, before, behind, e, g, R(1), R(0), f, f, f);
}

/// What an electric field along s does that adds `gain` to gamma. p: mean momenta over m c.
template <class T, class R>
BETATRON_INLINE vector3<T> turn_by_acceleration(const T& gain, const T& gamma, const T& px,
                                                const T& py, const T& pz, R anomaly) {
  using F = scalar_of<T>;
  const T rate = gain * (F(1) / (gamma + F(1)) + anomaly) / pz;
  return {py * rate, -(px * rate), T(F(0))};
}

/// What a particle has on the way through an electric field along s of no length: the means of gamma and of the momenta over
/// m c on both sides, and how that field turns its spin.
template <class T>
struct gap_passage {
  T gamma, px, py, pz;
  vector3<T> turn;
};
/// gamma0, bg: of the reference, in front and behind.
template <class T, class R>
BETATRON_INLINE gap_passage<T> pass_gap(const phase_space<T>& before, const phase_space<T>& behind,
                                        const gyration<R>& g, R gamma0_out, R bg_in, R bg_out) {
  using F = scalar_of<T>;
  const T px = (before.px * bg_in + behind.px * bg_out) * F(0.5);
  const T py = (before.py * bg_in + behind.py * bg_out) * F(0.5);
  const T gamma_in = T(g.gamma) - before.pt * bg_in, gamma_out = T(gamma0_out) - behind.pt * bg_out;
  const T gain = (before.pt * bg_in - behind.pt * bg_out) + (gamma0_out - g.gamma);
  auto along = [&](const T& gamma) {
    const T square = (gamma - F(1)) * (gamma + F(1)) - px * px - py * py;
    return sqrt(select(square > T(F(0)), square, T(F(1))));
  };
  const T gamma = (gamma_in + gamma_out) * F(0.5),
          pz = (along(gamma_in) + along(gamma_out)) * F(0.5);
  return {gamma, px, py, pz, turn_by_acceleration(gain, gamma, px, py, pz, g.anomaly)};
}

/// A rotation of the spin that depends on the coordinates z of the particle to first order,
///   S -> exp(behind x) exp((A z + offset) x) exp(before x) S.
/// The linear model derives it from the paraxial maps; SpinMap is one.
template <class R>
struct spin_rotation {
  R before[3], slope[18], offset[3], behind[3];  // A row by row

  static constexpr unsigned writes = 0;
  static constexpr spin_effect spin = spin_effect::turned;
  static constexpr bool spin_only = true;  ///< left out where no spins are tracked

  template <class T>
  BETATRON_INLINE void push(phase_space<T>&, const energy<T>&) const {}

  template <class T>
  BETATRON_INLINE void turn_spin(vector3<T>& s, const phase_space<T>& z, const phase_space<T>&,
                                 const energy<T>&, const gyration<R>&) const {
    auto row = [&](int i) {
      const R* a = slope + 6 * i;
      return z.x * a[0] + z.px * a[1] + z.y * a[2] + z.py * a[3] + z.t * a[4] + z.pt * a[5] +
             offset[i];
    };
    rotate(s, vector3<T>{T(before[0]), T(before[1]), T(before[2])});
    rotate(s, vector3<T>{row(0), row(1), row(2)});
    rotate(s, vector3<T>{T(behind[0]), T(behind[1]), T(behind[2])});
  }
  spin_rotation inverse() const {
    spin_rotation r{};
    for (int i = 0; i < 3; ++i) {
      r.before[i] = -behind[i];
      r.behind[i] = -before[i];
      r.offset[i] = -offset[i];
    }
    for (int i = 0; i < 18; ++i) r.slope[i] = -slope[i];
    return r;
  }
};

}  // namespace betatron::elements
