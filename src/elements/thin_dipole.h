// thin_dipole.h: a bend of no length that turns the reference orbit by an angle.
//
//   U = angle (h x^2/2 - x (P - 1)),   dpx = -dU/dx,  dt = dU/dpt
//
// the part of the paraxial bend H = -(1 + h x) P + (px^2 + py^2)/(2P) + h x + h^2 x^2/2 that is not a drift, times
// the length angle/h; together with drifts of that length it makes the bend.
// Source: G. Ripken and F. Schmidt, A symplectic six-dimensional thin-lens formalism for tracking, CERN SL/95-12.
#pragma once

#include "elements/bend.h"
#include "elements/element.h"
#include "elements/phase_space.h"
#include "elements/spin.h"

namespace betatron::elements {

template <class R>
struct thin_dipole_kick {
  R angle, curvature, inv_beta;

  static constexpr unsigned writes = column::px | column::t;
  static constexpr spin_effect spin = spin_effect::turned;

  template <class T>
  BETATRON_INLINE void push(phase_space<T>& z, const energy<T>& e) const {
    using F = scalar_of<T>;
    // delta = P - 1 without cancellation
    const T delta = z.pt * (z.pt - inv_beta * F(2)) * e.inv_p / (e.inv_p + F(1));
    z.px = z.px + (delta - z.x * curvature) * angle;
    z.t = z.t + z.x * (e.slip + inv_beta) * angle;
  }
  /// A step of unit length in a frame of curvature `angle`, with the field of that place: f_y = -angle (1 + h x).
  template <class T>
  BETATRON_INLINE void turn_spin(vector3<T>& s, const phase_space<T>& before,
                                 const phase_space<T>& behind, const energy<T>& e,
                                 const gyration<R>& g) const {
    using F = scalar_of<T>;
    const T zero = T(F(0));
    const vector3<T> f{zero, -(before.x * (angle * curvature) + angle), zero};
    turn_spin_along(s, before, behind, e, g, R(1), angle, f, f, f);
  }
  thin_dipole_kick inverse() const { return {-angle, curvature, inv_beta}; }
};

struct thin_dipole {
  double angle = 0;
  double curvature = 0;

  static constexpr std::string_view kind = "ThinDipole";
  static constexpr bool turns_frame = true;  ///< of the reference particle
  static constexpr std::string_view doc =
      "A bend of no length: turns the reference orbit by angle towards -x, with the weak focusing of a bend "
      "of this curvature. The same kick in every model but the linear one.";
  static constexpr auto parameters = std::tuple{
      parameter{"angle", &thin_dipole::angle, "rad", "bending angle of the reference orbit",
                range::any, required},
      parameter{"curvature", &thin_dipole::curvature, "1/m",
                "curvature of the reference orbit in the bend that this one stands for"},
  };
};

template <class Emit>
void emit_maps(const thin_dipole& d, const slice& s, Emit&& emit) {
  const double length = d.curvature != 0 ? d.angle / d.curvature : 0;  // of what it stands for
  radiate(length, {.curvature = d.curvature}, s, emit,
          [&] { emit(thin_dipole_kick<double>{d.angle, d.curvature, s.ref.inverse_beta()}); });
}

/// `fraction` is 1 forward and -1 backward.
inline void advance(const thin_dipole& d, beam::reference& ref, double fraction) {
  turn(ref, d.angle * fraction);
}

}  // namespace betatron::elements
