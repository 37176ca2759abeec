// fringe.h: the flow behind thin maps of fringe fields, whose Hamiltonians are linear in the momenta,
//
//   H = px v_x(x, y) + py v_y(x, y) + g(x, y)        (v and g depend on pt as well)
//
// over unit time by the implicit midpoint rule, which is symplectic for any H, conserves H to third order in it,
// and is undone exactly by the flow of -H. For this H it is nearly explicit: only the middle
//   q_m = q + v(q_m)/2
// is searched, by Newton's method; the momenta follow from a linear equation,
//   p1 = p - A^T (p + p1)/2 - grad g(q_m),   A = dv/dq at q_m.
// Source: E. Hairer, C. Lubich, G. Wanner, Geometric Numerical Integration, 2nd ed. (2006), sec. VI.
#pragma once

#include "elements/phase_space.h"

namespace betatron::elements::detail {

/// v, its derivatives and grad g at one place.
template <class T>
struct fringe_field {
  T vx, vy;
  T vx_x, vx_y, vy_x, vy_y;
  T gx, gy;
};

/// Where the flow passes half-way, and with which momenta: what the change of t depends on.
template <class T>
struct fringe_middle {
  T x, y, px, py;
  mask_of<T>
      inside;  ///< false where the field varies so fast that the expansion behind H has no meaning
};

/// Pushes x, px, y, py; field(x, y) returns a fringe_field<T>.
template <class T, class Field>
BETATRON_INLINE fringe_middle<T> push_through_fringe(phase_space<T>& z, const Field& field) {
  using F = scalar_of<T>;
  const F half = F(0.5);
  // The start is off by the square of |A|/2, three steps make that its 23rd power: below rounding for
  // |A| <= 0.4, and |A| <= 0.5 is what counts as inside.
  fringe_field<T> f = field(z.x, z.y);
  T x = z.x + f.vx * half, y = z.y + f.vy * half;
  for (int i = 0; i < 3; ++i) {
    f = field(x, y);
    const T rx = z.x + f.vx * half - x, ry = z.y + f.vy * half - y;
    const T a = T(F(1)) - f.vx_x * half, d = T(F(1)) - f.vy_y * half;
    const T b = f.vx_y * half, c = f.vy_x * half;
    const T inv = F(1) / (a * d - b * c);
    x = x + (rx * d + ry * b) * inv;
    y = y + (ry * a + rx * c) * inv;
  }
  f = field(x, y);
  const T a = f.vx_x * half, b = f.vy_x * half, c = f.vx_y * half, d = f.vy_y * half;  // A^T/2
  const T qx = z.px - (a * z.px + b * z.py) - f.gx;
  const T qy = z.py - (c * z.px + d * z.py) - f.gy;
  const T a1 = a + F(1), d1 = d + F(1);
  const T inv = F(1) / (a1 * d1 - b * c);
  const T px = (d1 * qx - b * qy) * inv;
  const T py = (a1 * qy - c * qx) * inv;
  const T limit = T(F(0.25));
  const mask_of<T> inside = (abs(a) + abs(b) <= limit) & (abs(c) + abs(d) <= limit);
  const fringe_middle<T> middle{x, y, (z.px + px) * half, (z.py + py) * half, inside};
  z.x = z.x + f.vx;
  z.y = z.y + f.vy;
  z.px = px;
  z.py = py;
  return middle;
}

}  // namespace betatron::elements::detail
