// misalignment.h: the step into the frame of an element that is displaced by (dx, dy) and rolled about the beam
// axis; its inverse steps out. See rigid_motion.h for other displacements, and for elements that bend the orbit.
#pragma once

#include "elements/phase_space.h"
#include "elements/spin.h"

namespace betatron::elements {

/// Shift by (-dx, -dy), then turn the axes by the roll angle. The inverse is a map of the same form.
template <class R>
struct frame_change {
  R dx, dy, cosine, sine;

  static constexpr unsigned writes = column::x | column::px | column::y | column::py;
  static constexpr spin_effect spin = spin_effect::turned;

  template <class T>
  BETATRON_INLINE void push(phase_space<T>& z, const energy<T>&) const {
    const T x = z.x - dx, y = z.y - dy, px = z.px;
    z.x = x * cosine + y * sine;
    z.y = y * cosine - x * sine;
    z.px = px * cosine + z.py * sine;
    z.py = z.py * cosine - px * sine;
  }
  template <class T>
  BETATRON_INLINE void turn_spin(vector3<T>& s, const phase_space<T>&, const phase_space<T>&,
                                 const energy<T>&, const gyration<R>&) const {
    const T x = s.x;
    s.x = x * cosine + s.y * sine;
    s.y = s.y * cosine - x * sine;
  }
  frame_change inverse() const {
    return {-(dx * cosine + dy * sine), dx * sine - dy * cosine, cosine, -sine};
  }
};

}  // namespace betatron::elements
