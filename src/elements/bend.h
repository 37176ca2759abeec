// bend.h: a sector bending magnet, with pole faces, fringe fields and multipoles.
//
// Curvature h = angle/length, field matched to it. In the frame that turns with the reference orbit
//   exact     H = -(1 + h x) sqrt(P^2 - px^2 - py^2) + h x + h^2 x^2/2 + V(x, y) - pt/beta0
//   paraxial  H = -(1 + h x) P + (px^2 + py^2)/(2P) + h x + (h^2 + k1) x^2/2 - k1 y^2/2 - pt/beta0
// The paraxial one is quadratic in (x, px, y, py) at every energy and is solved exactly; it drops the
// product h x (px^2 + py^2)/(2P). The exact one has a closed solution for V = 0 (a circle); else it is split into
// that and the kick of V, the field of multipoles in the curved frame (curved_multipole.h). The paraxial one is
// split likewise if there are multipoles other than k1.
// Sources: E. Forest, Beam Dynamics (1998), sec. 12.2; K. L. Brown, SLAC-75, for the edges.
#pragma once

#include <algorithm>

#include "beam/text.h"
#include "elements/curved_multipole.h"
#include "elements/dipole_edge.h"
#include "elements/drift.h"
#include "elements/element.h"
#include "elements/phase_space.h"
#include "elements/spin.h"

namespace betatron::elements {

template <class R>
struct bend_paraxial {
  R length, curvature, k1, inv_beta, reach_x, reach_y;

  static constexpr unsigned writes = column::x | column::px | column::y | column::py | column::t;
  static constexpr spin_effect spin = spin_effect::turned;

  static bend_paraxial make(R length, R h, R k1, R inv_beta) {
    const R l2 = length * length * R(1.25);
    return {length, h, k1, inv_beta, std::fabs(h * h + k1) * l2, std::fabs(k1) * l2};
  }

  template <class T>
  BETATRON_INLINE void push(phase_space<T>& z, const energy<T>& e) const {
    using F = scalar_of<T>;
    const R h = curvature;
    const R kx = h * h + k1;
    const T wx = e.inv_p * kx, wy = -(e.inv_p * k1);
    T cx[4], cy[4];
    stumpff<4>(wx * (length * length), reach_x, cx);
    stumpff<4>(wy * (length * length), reach_y, cy);

    // delta = P - 1 without cancellation; the dispersive force is h delta/P
    const T delta = z.pt * (z.pt - inv_beta * F(2)) * e.inv_p / (e.inv_p + F(1));
    const T f = delta * e.inv_p * h;
    const T dx0 = z.px * e.inv_p, dy0 = z.py * e.inv_p;
    const T x1 = cx[0] * z.x + cx[1] * dx0 * length + cx[2] * f * (length * length);
    const T px1 = cx[0] * z.px + cx[1] * (delta * h - z.x * kx) * length;
    const T y1 = cy[0] * z.y + cy[1] * dy0 * length;
    const T py1 = cy[0] * z.py + cy[1] * z.y * (k1 * length);

    const T int_x = (cx[1] * z.x + (cx[2] * dx0 + cx[3] * f * length) * length) * length;
    // x'^2 + wx x^2 - 2 f x and y'^2 + wy y^2 are conserved; see quadrupole.h for the integrals
    const T conserved = dx0 * dx0 + (wx * z.x - f * F(2)) * z.x + dy0 * dy0 + wy * z.y * z.y;
    const T boundary = (x1 * px1 + y1 * py1) * e.inv_p - z.x * dx0 - z.y * dy0;
    const T twice = conserved * length + boundary + f * int_x;
    z.t = z.t + e.slip * length + (e.slip + inv_beta) * (int_x * h + twice * F(0.25));
    z.x = x1;
    z.px = px1;
    z.y = y1;
    z.py = py1;
  }
  template <class T>
  BETATRON_INLINE void turn_spin(vector3<T>& s, const phase_space<T>& before,
                                 const phase_space<T>& behind, const energy<T>& e,
                                 const gyration<R>& g) const {
    using F = scalar_of<T>;
    const T zero = T(F(0)), p = F(1) / e.inv_p;
    auto field = [&](const phase_space<T>& z) {
      return vector3<T>{-(z.y * k1), -(z.x * (curvature * curvature + k1) + curvature), zero};
    };
    const vector3<T> integral{before.py - behind.py,
                              behind.px - before.px - p * (curvature * length), zero};
    turn_spin_along(s, before, behind, e, g, length, curvature, integral, field(before),
                    field(behind));
  }
  bend_paraxial inverse() const { return {-length, curvature, k1, inv_beta, reach_x, reach_y}; }
};

/// The circle in a uniform field, written in the Cartesian frame of the exit plane. There the entrance point is
/// at (x_in, -D), D = (1 + h x) sin(theta)/h, and with u, w the momentum along and across that plane
///   px_out = u - h D,  x_out = x_in + D (u + px_out)/(pz_out + w),  tan(alpha/2) = h D/(pz_out + w)
/// where alpha is the angle the particle turns. Nothing is divided by h: straight and bent are one formula.
template <class R>
struct bend_exact {
  R length, curvature, cosine, sine, chord, sagitta, inv_beta;

  static constexpr unsigned writes = column::x | column::px | column::y | column::t;
  static constexpr spin_effect spin = spin_effect::turned;
  static constexpr beam::loss_reason loss = beam::loss_reason::outside_domain;

  /// |angle| <= 1 rad, so that pz_out + w cannot vanish for a forward particle.
  static bend_exact make(R length, R h, R inv_beta) {
    const R theta = h * length;
    R c[4];
    stumpff<4>(theta * theta, theta * theta, c);
    return {length, h, c[0], theta * c[1], length * c[1], h * length * length * c[2], inv_beta};
  }

  template <class T>
  BETATRON_INLINE mask_of<T> push(phase_space<T>& z, const energy<T>& e) const {
    using F = scalar_of<T>;
    const T excess = z.pt * (z.pt - inv_beta * F(2));  // P^2 - 1
    const T p_plane2 = excess + F(1) - z.py * z.py;
    const T pz2 = p_plane2 - z.px * z.px;
    const T pz = sqrt(select(pz2 > T(F(0)), pz2, T(F(1))));
    const T d = z.x * (curvature * chord) + chord;
    const T u = z.px * cosine + pz * sine;
    const T w = pz * cosine - z.px * sine;
    const T px1 = z.px * cosine + ((pz - F(1)) - z.x * curvature) * sine;
    const T pz1_squared = p_plane2 - px1 * px1;
    const T pz1 = sqrt(select(pz1_squared > T(F(0)), pz1_squared, T(F(1))));
    const T inv_sum = F(1) / (pz1 + w);
    const T tangent = d * inv_sum * curvature;
    const T tau = d * inv_sum * atan_ratio(tangent * tangent) * F(2);  // length over momentum
    z.x = z.x * cosine - sagitta + d * (u + px1) * inv_sum;
    z.px = px1;
    z.y = z.y + z.py * tau;
    const T b = e.slip + inv_beta;
    z.t = z.t + e.slip * length + b * (tau * ((excess + F(1)) * e.inv_p) - length);
    return (pz2 > T(F(0))) & (pz1_squared > T(F(0))) & (pz1 + w > T(F(0)));
  }
  /// The integral of f = -h (1 + h x) by Simpson's rule, as that of M.
  template <class T>
  BETATRON_INLINE void turn_spin(vector3<T>& s, const phase_space<T>& before,
                                 const phase_space<T>& behind, const energy<T>& e,
                                 const gyration<R>& g) const {
    using F = scalar_of<T>;
    const T zero = T(F(0));
    const precession<T> m(before.pt, e.inv_p, g);
    auto field = [&](const T& x) {
      return vector3<T>{zero, -(x * (curvature * curvature) + curvature), zero};
    };
    auto slope = [&](const phase_space<T>& z) {
      return (z.x * curvature + F(1)) * z.px * m(z.px, z.py).inv_pz;
    };
    const T middle =
        (before.x + behind.x) * F(0.5) + (slope(before) - slope(behind)) * (length * R(0.125));
    const vector3<T> f0 = field(before.x), f1 = field(behind.x);
    const vector3<T> integral = (f0 + field(middle) * F(4) + f1) * (length * R(1.0 / 6));
    turn_spin_along(s, before, behind, e, g, length, curvature, integral, f0, f1);
  }
  bend_exact inverse() const {
    return {-length, curvature, cosine, -sine, -chord, sagitta, inv_beta};
  }
};

struct bend {
  double length = 0;
  double angle = 0;
  double k1 = 0;
  double e1 = 0;
  double e2 = 0;
  double fint1 = 0;
  double fint2 = 0;
  double hgap = 0;
  std::string fringe = "linear";
  std::vector<double> kn{};
  std::vector<double> ks{};

  static constexpr std::string_view kind = "Bend";
  static constexpr bool turns_frame = true;  ///< of the reference particle
  static constexpr std::string_view doc =
      "A sector bend. A positive angle bends towards -x. Pole faces e1 and e2 turn the entrance and exit "
      "faces as in MAD-X (positive for a rectangular magnet: e1 = e2 = angle/2). A negative length is "
      "allowed and tracks back.";
  static constexpr auto parameters = std::tuple{
      parameter{"length", &bend::length, "m", "arc length of the reference orbit", range::any,
                required},
      parameter{"angle", &bend::angle, "rad", "bending angle of the reference orbit"},
      parameter{"k1", &bend::k1, "1/m^2", "quadrupole component"},
      parameter{"e1", &bend::e1, "rad", "pole-face angle at the entrance", pole_face},
      parameter{"e2", &bend::e2, "rad", "pole-face angle at the exit", pole_face},
      parameter{"fint1", &bend::fint1, "1", "fringe-field integral at the entrance"},
      parameter{"fint2", &bend::fint2, "1", "fringe-field integral at the exit"},
      parameter{"hgap", &bend::hgap, "m", "half of the gap between the poles", range::not_negative},
      parameter{"fringe", &bend::fringe, "linear|nonlinear",
                "order of the maps of the pole faces, see DipoleEdge", std::string_view{}},
      parameter{
          "kn", &bend::kn, "1/m^(n+1)",
          "normal multipoles in the mid-plane, n = 0 ... 4: kn[0] is a field error, kn[1] adds to k1"},
      parameter{"ks", &bend::ks, "1/m^(n+1)", "skew multipoles in the mid-plane, n = 0 ... 4"},
  };
};

/// What is wrong with the parameters together; empty if nothing is.
inline std::string problem(const bend& b) {
  if (b.length == 0 && b.angle != 0) {
    return "angle = " + beam::number_text(b.angle) + " rad needs a length that is not 0";
  }
  for (const auto* list : {&b.kn, &b.ks}) {
    constexpr std::size_t most = static_cast<std::size_t>(max_curved_multipole) + 1;
    if (list->size() > most) {
      return std::string(list == &b.kn ? "kn" : "ks") + " has " + std::to_string(list->size()) +
             " entries; allowed: at most " + std::to_string(most);
    }
  }
  return {};
}

template <class Emit>
void emit_bend_body(const bend& b, double length, double h, const slice& s, Emit&& emit) {
  const double inv_beta = s.ref.inverse_beta();
  const bool exact = s.model == model::exact;
  std::vector<double> kn = b.kn;
  kn.resize(std::max<std::size_t>(kn.size(), 2));
  const double k1 = b.k1 + kn[1];
  kn[1] = exact ? k1 : 0;  // the paraxial body has the quadrupole in it

  auto body = [&](double l) {
    if (!exact) return emit(bend_paraxial<double>::make(l, h, k1, inv_beta));
    if (h == 0 && !s.keep_structure) return emit_drift(l, s, emit);
    // where derivatives are taken the number must not change at a round angle
    const double longest = s.keep_structure ? 1.0371 : 1;
    const int pieces = std::max(1, static_cast<int>(std::ceil(std::fabs(h * l) / longest)));
    for (int i = 0; i < pieces; ++i) emit(bend_exact<double>::make(l / pieces, h, inv_beta));
  };
  using kick = curved_multipole_kick<double>;
  auto any = [](const std::vector<double>& k) {
    return std::any_of(k.begin(), k.end(), [](double v) { return v != 0; });
  };
  const bool listed = s.keep_structure && (exact || b.kn.size() != 0);
  const bool normal = any(kn) || listed, skew = any(b.ks) || (s.keep_structure && !b.ks.empty());
  if (!normal && !skew) return closed(length, {.curvature = h}, s, emit, body);
  const kick normal_kick = kick::make(kn.data(), kn.size(), false, h, s.keep_structure);
  const kick skew_kick = kick::make(b.ks.data(), b.ks.size(), true, h, s.keep_structure);
  split(length, {.curvature = h}, s, emit, body, [&](double l) {
    if (normal) emit(normal_kick.scaled(l));
    if (skew) emit(skew_kick.scaled(l));
  });
}

template <class Emit>
void emit_maps(const bend& b, const slice& s, Emit&& emit) {
  const double h = b.length != 0 ? b.angle / b.length : 0;
  auto edge = [&](double angle, double fint, const char* location) {
    emit_maps(dipole_edge{h, angle, fint, b.hgap, b.fringe, location}, s, emit);
  };
  if (s.is_first()) edge(b.e1, b.fint1, "entry");
  emit_bend_body(b, b.length * s.fraction, h, s, emit);
  if (s.is_last()) edge(b.e2, b.fint2, "exit");
}

/// Turns the reference particle by `angle` about ey, towards -ex.
inline void turn(beam::reference& ref, double angle) {
  const double cosine = std::cos(angle), sine = std::sin(angle);
  for (std::size_t i = 0; i < 3; ++i) {
    const double ex = ref.frame[i], ez = ref.frame[6 + i];
    ref.frame[i] = cosine * ex + sine * ez;
    ref.frame[6 + i] = cosine * ez - sine * ex;
  }
}

/// The reference particle on an arc.
inline void advance(const bend& b, beam::reference& ref, double fraction) {
  const double length = b.length * fraction, theta = b.angle * fraction;
  double c[4];
  stumpff<4>(theta * theta, theta * theta, c);
  const double along = length * c[1], across = -length * theta * c[2];
  ref.s += length;
  ref.t += length * ref.inverse_beta();
  for (std::size_t i = 0; i < 3; ++i) {
    ref.position[i] += along * ref.frame[6 + i] + across * ref.frame[i];
  }
  turn(ref, theta);
}

}  // namespace betatron::elements
