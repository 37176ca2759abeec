// dipole_edge.h: the pole face of a dipole, where its field begins or ends, as a thin map.
//
// linear     px += h tan(e) x,  py -= h tan(e - psi) y,  psi = h gap fint (1 + sin^2 e)/cos e
// nonlinear  the flow over unit time of H = -Omega, with
//   Omega = c13 x - c2 x/P + c3 px/P + (c5 - c14)(x^2 - y^2) + c7 y^2/P - c8 x^3/P + c9 x y^2/P
//         - c15 (x^3/6 - x y^2/2) + c10 (x^2 px - y^2 px - 2 x y py)/P - c11 y^2 px/P + c12 y^4/P
//   c2 = gap^2 K0 h^2 sin e/(2 cos^3 e)      c3 = +-gap^2 K0 h/cos^2 e       c5 = h tan(e)/2
//   c7 = gap K2 h^2 (1 + sin^2 e)/(2 cos^3 e)                                c8 = h^2 tan^3(e)/12
//   c9 = h^2 tan(e)/(4 cos^2 e)              c10 = +-h tan^2(e)/2            c11 = +-h/2
//   c12 = h^2 K3 (1/cos e - 2/cos^3 e)/(6 gap)                               c13 = gap^2 K4 h sin^2 e/(2 R cos^3 e)
//   c14 = gap K5 h sin e/(2 R cos^3 e)       c15 = K6 h/(R cos^3 e)
// h = curvature of the reference orbit, e = pole-face angle, gap = 2 hgap, K2 = fint; + at the entrance, - at the
// exit. c3 moves the orbit; the terms without gap and K are those of a hard edge. K4, K5, K6 describe a curved
// pole face and a field that varies along it, over the length R. The integral K1 of the source is 0: the edge is
// where the effective field boundary is. Without a gap the term c12, which diverges, is left out.
// Sources: K. L. Brown, SLAC-75 (linear); K. Hwang and S. Y. Lee, Phys. Rev. ST Accel. Beams 18 (2015) 122401;
// C. Mitchell and K. Hwang, NAPAC 2025, eq. (14).
#pragma once

#include <numbers>

#include "elements/element.h"
#include "elements/fringe.h"
#include "elements/phase_space.h"
#include "elements/spin.h"

namespace betatron::elements {

template <class R>
struct dipole_edge_kick {
  R focus_x, focus_y;

  static constexpr unsigned writes = column::px | column::py;
  static constexpr spin_effect spin = spin_effect::turned;

  static dipole_edge_kick make(R h, R angle, R fint, R hgap) {
    const R s = std::sin(angle);
    const R psi = 2 * h * hgap * fint * (1 + s * s) / std::cos(angle);
    return {h * std::tan(angle), -h * std::tan(angle - psi)};
  }

  template <class T>
  BETATRON_INLINE void push(phase_space<T>& z, const energy<T>&) const {
    z.px = z.px + z.x * focus_x;
    z.py = z.py + z.y * focus_y;
  }
  template <class T>
  BETATRON_INLINE void turn_spin(vector3<T>& s, const phase_space<T>& before,
                                 const phase_space<T>& behind, const energy<T>& e,
                                 const gyration<R>& g) const {
    turn_spin_by_kick(s, before, behind, e, g);
  }
  dipole_edge_kick inverse() const { return {-focus_x, -focus_y}; }
};

/// The nonlinear map; names as in the head of this file.
template <class R>
struct dipole_fringe {
  R c2, c3, c7, c8, c9, c10, c11, c12;  // over P
  R deflection, focus, curve;           // c13, c5 - c14, c15
  R inv_beta;

  static constexpr unsigned writes = column::x | column::px | column::y | column::py | column::t;
  static constexpr spin_effect spin = spin_effect::turned;
  static constexpr beam::loss_reason loss = beam::loss_reason::outside_domain;

  template <class T>
  BETATRON_INLINE mask_of<T> push(phase_space<T>& z, const energy<T>& e) const {
    using F = scalar_of<T>;
    const auto middle = detail::push_through_fringe(z, [&](const T& x, const T& y) {
      const T x2 = x * x, y2 = y * y, xy = x * y;
      const T along_x = e.inv_p * x * (c10 * F(2));
      const T gx = (x2 * (c8 * F(3)) - y2 * c9 + c2) * e.inv_p - x * (focus * F(2)) +
                   (x2 - y2) * (curve * F(0.5)) - deflection;
      const T gy = y * (focus * F(2)) - xy * curve -
                   (y * c7 + xy * c9 + y2 * y * (c12 * F(2))) * e.inv_p * F(2);
      return detail::fringe_field<T>{(y2 * c11 - (x2 - y2) * c10 - c3) * e.inv_p,
                                     along_x * y,
                                     -along_x,
                                     e.inv_p * y * ((c10 + c11) * F(2)),
                                     e.inv_p * y * (c10 * F(2)),
                                     along_x,
                                     gx,
                                     gy};
    });
    const T x = middle.x, y = middle.y, x2 = x * x, y2 = y * y;
    const T over_p = middle.px * (y2 * c11 - (x2 - y2) * c10 - c3) +
                     middle.py * x * y * (c10 * F(2)) + x * (x2 * c8 - y2 * c9 + c2) -
                     y2 * (y2 * c12 + c7);
    z.t = z.t + (e.slip + inv_beta) * (e.inv_p * e.inv_p) * over_p;  // d(1/P)/dpt = 1/(beta P^2)
    return middle.inside;
  }
  /// The fringe has the longitudinal field h y of which the terms with c11 are a consequence.
  template <class T>
  BETATRON_INLINE void turn_spin(vector3<T>& s, const phase_space<T>& before,
                                 const phase_space<T>& behind, const energy<T>& e,
                                 const gyration<R>& g) const {
    using F = scalar_of<T>;
    const T y = (before.y + behind.y) * F(0.5);
    turn_spin_by_kick(s, before, behind, e, g, y * (c11 * R(-2)));
  }
  dipole_fringe inverse() const {
    return {-c2, -c3, -c7, -c8, -c9, -c10, -c11, -c12, -deflection, -focus, -curve, inv_beta};
  }
};

inline constexpr range pole_face{-1.5, 1.5, false};

/// A pole face on its own, as MAD-X's DIPEDGE.
struct dipole_edge {
  double curvature = 0;
  double angle = 0;
  double fint = 0;
  double hgap = 0;
  std::string fringe = "linear";
  std::string location = "entry";
  double fringe_k0 = std::numbers::pi * std::numbers::pi / 6;
  double fringe_k3 = 1.0 / 6;
  double fringe_k4 = 0;
  double fringe_k5 = 0;
  double fringe_k6 = 0;
  double fringe_scale = 1;

  static constexpr std::string_view kind = "DipoleEdge";
  static constexpr std::string_view doc =
      "One pole face of a bend on its own, thin: to first order (Brown), or to third order with the integrals "
      "of the fringe field (Hwang and Lee), of which fint is K2.";
  static constexpr auto parameters = std::tuple{
      parameter{"curvature", &dipole_edge::curvature, "1/m",
                "curvature of the reference orbit in the bend", range::any, required},
      parameter{"angle", &dipole_edge::angle, "rad", "pole-face angle", pole_face, required},
      parameter{"fint", &dipole_edge::fint, "1", "fringe-field integral"},
      parameter{"hgap", &dipole_edge::hgap, "m", "half of the gap between the poles",
                range::not_negative},
      parameter{"fringe", &dipole_edge::fringe, "linear|nonlinear", "order of the map",
                std::string_view{}},
      parameter{"location", &dipole_edge::location, "entry|exit",
                "whether the field begins or ends here (nonlinear)", std::string_view{}},
      parameter{"fringe_k0", &dipole_edge::fringe_k0, "1", "integral K0 (nonlinear)"},
      parameter{"fringe_k3", &dipole_edge::fringe_k3, "1", "integral K3 (nonlinear)"},
      parameter{"fringe_k4", &dipole_edge::fringe_k4, "1", "integral K4 (nonlinear)"},
      parameter{"fringe_k5", &dipole_edge::fringe_k5, "1", "integral K5 (nonlinear)"},
      parameter{"fringe_k6", &dipole_edge::fringe_k6, "1", "integral K6 (nonlinear)"},
      parameter{"fringe_scale", &dipole_edge::fringe_scale, "m",
                "length R that K4, K5 and K6 refer to", range::positive},
  };
};

inline dipole_fringe<double> make_dipole_fringe(const dipole_edge& d, double inv_beta) {
  const double h = d.curvature, gap = 2 * d.hgap, side = d.location == "entry" ? 1 : -1;
  const double sine = std::sin(d.angle), tangent = std::tan(d.angle), sec = 1 / std::cos(d.angle);
  const double sec3 = sec * sec * sec, soft = d.fringe_scale * 2;
  dipole_fringe<double> f{};
  f.c2 = gap * gap * d.fringe_k0 * h * h * sine * sec3 / 2;
  f.c3 = side * gap * gap * d.fringe_k0 * h * sec * sec;
  f.c7 = gap * d.fint * h * h * (1 + sine * sine) * sec3 / 2;
  f.c8 = h * h * tangent * tangent * tangent / 12;
  f.c9 = h * h * tangent * sec * sec / 4;
  f.c10 = side * h * tangent * tangent / 2;
  f.c11 = side * h / 2;
  if (gap != 0) f.c12 = h * h * d.fringe_k3 * (sec - 2 * sec3) / (6 * gap);
  f.deflection = gap * gap * d.fringe_k4 * h * sine * sine * sec3 / soft;
  f.focus = h * tangent / 2 - gap * d.fringe_k5 * h * sine * sec3 / soft;
  f.curve = 2 * d.fringe_k6 * h * sec3 / soft;
  f.inv_beta = inv_beta;
  return f;
}

template <class Emit>
void emit_maps(const dipole_edge& d, const slice& s, Emit&& emit) {
  if (d.curvature == 0 && !s.keep_structure) return;
  if (d.fringe == "nonlinear") {
    emit(make_dipole_fringe(d, s.ref.inverse_beta()));
  } else if (d.angle != 0 || (d.fint != 0 && d.hgap != 0) || s.keep_structure) {
    emit(dipole_edge_kick<double>::make(d.curvature, d.angle, d.fint, d.hgap));
  }
}

}  // namespace betatron::elements
