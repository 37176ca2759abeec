// kicker.h: a steering magnet, H = -hkick x - vkick y over its length, between halves of the drift of the model.
#pragma once

#include "elements/drift.h"
#include "elements/element.h"
#include "elements/phase_space.h"
#include "elements/spin.h"

namespace betatron::elements {

template <class R>
struct dipole_kick {
  R dpx, dpy;

  static constexpr unsigned writes = column::px | column::py;
  static constexpr spin_effect spin = spin_effect::turned;

  template <class T>
  BETATRON_INLINE void push(phase_space<T>& z, const energy<T>&) const {
    z.px = z.px + dpx;
    z.py = z.py + dpy;
  }
  template <class T>
  BETATRON_INLINE void turn_spin(vector3<T>& s, const phase_space<T>& before,
                                 const phase_space<T>& behind, const energy<T>& e,
                                 const gyration<R>& g) const {
    turn_spin_by_kick(s, before, behind, e, g);
  }
  dipole_kick inverse() const { return {-dpx, -dpy}; }
};

struct kicker {
  double length = 0;
  double hkick = 0;
  double vkick = 0;

  static constexpr std::string_view kind = "Kicker";
  static constexpr std::string_view doc =
      "A steering magnet: adds hkick to px and vkick to py; the reference orbit stays straight.";
  static constexpr auto parameters = std::tuple{
      parameter{"length", &kicker::length, "m", "length", range::not_negative},
      parameter{"hkick", &kicker::hkick, "rad", "horizontal kick, in units of p0"},
      parameter{"vkick", &kicker::vkick, "rad", "vertical kick, in units of p0"},
  };
};

template <class Emit>
void emit_maps(const kicker& k, const slice& s, Emit&& emit) {
  const double half = k.length * s.fraction / 2;
  radiate(2 * half, {}, s, emit, [&] {
    if (half != 0 || s.keep_structure) emit_drift(half, s, emit);
    emit(dipole_kick<double>{k.hkick * s.fraction, k.vkick * s.fraction});
    if (half != 0 || s.keep_structure) emit_drift(half, s, emit);
  });
}

}  // namespace betatron::elements
