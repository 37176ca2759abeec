// quadrupole.h: a quadrupole with hard edges.
//
//   paraxial  H = -P + (px^2 + py^2)/(2P) + k (x^2 - y^2)/2 - pt/beta0      solved exactly
//   exact     H = -sqrt(P^2 - px^2 - py^2) + k (x^2 - y^2)/2 - pt/beta0     split into the paraxial
//             Hamiltonian and the remainder P - (px^2 + py^2)/(2P) - sqrt(...), which depends on momenta only
//
// With w = k/P the motion is x'' = -w x, y'' = w y. The path length needs the integral of x'^2; because
// x'^2 + w x^2 is conserved and d(x x')/ds = x'^2 - w x^2,
//   int x'^2 ds = (L (x'^2 + w x^2) + [x x'])/2.
//
// Where the field begins within no length, Maxwell's equations leave a kick of third order, the flow of
//   H = +-k/(12 P) (px (x^3 + 3x y^2) - py (y^3 + 3x^2 y))      + at the entrance, - at the exit.
// Sources: E. Forest, Beam Dynamics (1998), sec. 12; exact splitting as in PTC (E. Forest et al., KEK 2002-3);
// fringes: E. Forest and J. Milutinovic, Nucl. Instrum. Methods A 269 (1988) 474, eq. (28).
#pragma once

#include "elements/drift.h"
#include "elements/element.h"
#include "elements/fringe.h"
#include "elements/phase_space.h"
#include "elements/spin.h"

namespace betatron::elements {

template <class R>
struct quadrupole_paraxial {
  R length, k, inv_beta, reach;

  static constexpr unsigned writes = column::x | column::px | column::y | column::py | column::t;
  static constexpr spin_effect spin = spin_effect::turned;

  /// `reach` covers momenta down to 80 % of the reference momentum; see numerics/entire.h.
  static quadrupole_paraxial make(R length, R k, R inv_beta) {
    return {length, k, inv_beta, std::fabs(k) * length * length * R(1.25)};
  }

  template <class T>
  BETATRON_INLINE void push(phase_space<T>& z, const energy<T>& e) const {
    T cx[2], cy[2];
    oscillator_pair(e.inv_p * k * (length * length), reach, cx, cy);
    push(z, e, cx, cy);
  }

  /// The same, and the integral of dH/dk = (x^2 - y^2)/2 over the length: the derivative of the map with respect to k
  /// is the flow of that function. With C, S the cosine-like and sine-like solutions, S = L c_1,
  ///   int C^2 = (L + C S)/2,   int C S = S^2/2,   int S^2 = L^3 (c_2 + c_3 - z c_2 c_3)/2.
  template <class T>
  BETATRON_INLINE T push_and_integrate(phase_space<T>& z, const energy<T>& e) const {
    using F = scalar_of<T>;
    const T argument = e.inv_p * k * (length * length);
    T cx[4], cy[4];
    oscillator_pair(argument, reach, cx, cy);
    const T slope_x = z.px * e.inv_p * length, slope_y = z.py * e.inv_p * length;
    auto square = [](const T& q, const T& slope, const T(&c)[4], const T& a) {
      const T s = slope * c[1];
      return q * q * (c[0] * c[1] + F(1)) +
             (q * s * c[1] * F(2) + slope * slope * (c[2] + c[3] - a * c[2] * c[3]));
    };
    const T integral = square(z.x, slope_x, cx, argument) - square(z.y, slope_y, cy, -argument);
    push(z, e, cx, cy);
    return integral * (length * F(0.25));
  }

  quadrupole_paraxial inverse() const { return {-length, k, inv_beta, reach}; }

  template <class T>
  BETATRON_INLINE void turn_spin(vector3<T>& s, const phase_space<T>& before,
                                 const phase_space<T>& behind, const energy<T>& e,
                                 const gyration<R>& g) const {
    using F = scalar_of<T>;
    const T zero = T(F(0));
    auto field = [&](const phase_space<T>& z) { return vector3<T>{-(z.y * k), -(z.x * k), zero}; };
    const vector3<T> integral{before.py - behind.py, behind.px - before.px, zero};
    turn_spin_along(s, before, behind, e, g, length, R(0), integral, field(before), field(behind));
  }

 private:
  /// Given c_0 and c_1 of the two planes.
  template <class T, int K>
  BETATRON_INLINE void push(phase_space<T>& z, const energy<T>& e, const T (&cx)[K],
                            const T (&cy)[K]) const {
    using F = scalar_of<T>;
    const T l = e.inv_p * length;
    const T sx = cx[1] * length, sy = cy[1] * length;

    // twice the integrals of x'^2 + y'^2, with x' = px/P
    const T px1 = cx[0] * z.px - sx * z.x * k;
    const T py1 = cy[0] * z.py + sy * z.y * k;
    const T x1 = cx[0] * z.x + sx * e.inv_p * z.px;
    const T y1 = cy[0] * z.y + sy * e.inv_p * z.py;
    const T invariant = (z.px * z.px + z.py * z.py) * l + (z.x * z.x - z.y * z.y) * (k * length);
    const T boundary = x1 * px1 - z.x * z.px + y1 * py1 - z.y * z.py;
    const T twice = (invariant + boundary) * e.inv_p;
    z.t = z.t + e.slip * length + (e.slip + inv_beta) * twice * F(0.25);
    z.x = x1;
    z.px = px1;
    z.y = y1;
    z.py = py1;
  }
};

/// The flow of -sqrt(P^2 - px^2 - py^2) + P - (px^2 + py^2)/(2P): what the paraxial drift leaves out.
template <class R>
struct exact_remainder {
  R length, inv_beta;

  static constexpr unsigned writes = column::x | column::y | column::t;
  static constexpr spin_effect spin = spin_effect::none;
  static constexpr beam::loss_reason loss = beam::loss_reason::outside_domain;

  template <class T>
  BETATRON_INLINE mask_of<T> push(phase_space<T>& z, const energy<T>& e) const {
    using F = scalar_of<T>;
    const T u = (z.px * z.px + z.py * z.py) * (e.inv_p * e.inv_p);
    const T q = detail::excess_path(u, rsqrt(F(1) - u));
    const T l = e.inv_p * q * length;
    z.x = z.x + l * z.px;
    z.y = z.y + l * z.py;
    z.t = z.t + (e.slip + inv_beta) * (q - u * F(0.5)) * length;
    return u < T(F(1));
  }
  exact_remainder inverse() const { return {-length, inv_beta}; }
};

/// A hard edge; strength = +k/12 where the field begins, -k/12 where it ends.
template <class R>
struct quadrupole_fringe {
  R strength, inv_beta;

  static constexpr unsigned writes = column::x | column::px | column::y | column::py | column::t;
  static constexpr spin_effect spin = spin_effect::turned;
  static constexpr beam::loss_reason loss = beam::loss_reason::outside_domain;

  template <class T>
  BETATRON_INLINE mask_of<T> push(phase_space<T>& z, const energy<T>& e) const {
    using F = scalar_of<T>;
    const T a = e.inv_p * strength;
    const auto middle = detail::push_through_fringe(z, [&](const T& x, const T& y) {
      const T x2 = x * x, y2 = y * y;
      const T same = a * (x2 + y2) * F(3), cross = a * x * y * F(6);
      return detail::fringe_field<T>{a * x * (x2 + y2 * F(3)),
                                     -(a * y * (y2 + x2 * F(3))),
                                     same,
                                     cross,
                                     -cross,
                                     -same,
                                     T(F(0)),
                                     T(F(0))};
    });
    const T x = middle.x, y = middle.y, x2 = x * x, y2 = y * y;
    const T generator = middle.px * x * (x2 + y2 * F(3)) - middle.py * y * (y2 + x2 * F(3));
    z.t = z.t + (e.slip + inv_beta) * (e.inv_p * e.inv_p) * generator *
                    strength;  // d(1/P)/dpt = 1/(beta P^2)
    return middle.inside;
  }
  /// The fringe has the longitudinal field k x y of which the kick is a consequence.
  template <class T>
  BETATRON_INLINE void turn_spin(vector3<T>& s, const phase_space<T>& before,
                                 const phase_space<T>& behind, const energy<T>& e,
                                 const gyration<R>& g) const {
    using F = scalar_of<T>;
    const T x = (before.x + behind.x) * F(0.5), y = (before.y + behind.y) * F(0.5);
    turn_spin_by_kick(s, before, behind, e, g, x * y * (strength * R(-12)));
  }
  quadrupole_fringe inverse() const { return {-strength, inv_beta}; }
};

struct quadrupole {
  double length = 0;
  double k1 = 0;
  double gradient = 0;
  std::string fringe = "none";

  static constexpr std::string_view kind = "Quadrupole";
  static constexpr std::string_view doc =
      "A quadrupole; focuses x where k1 + gradient/(B rho) is positive. A skew "
      "quadrupole is one with roll = pi/4. A negative length is allowed and tracks back.";
  static constexpr auto parameters = std::tuple{
      parameter{"length", &quadrupole::length, "m", "length", range::any, required},
      parameter{"k1", &quadrupole::k1, "1/m^2",
                "gradient over the signed rigidity, the same for any species"},
      parameter{"gradient", &quadrupole::gradient, "T/m",
                "field gradient dB_y/dx, added to k1; acts with the sign of the charge"},
      parameter{"fringe", &quadrupole::fringe, "none|hard",
                "third-order kicks of hard edges at both ends, or none", std::string_view{}},
  };
};

template <class Emit>
void emit_maps(const quadrupole& q, const slice& s, Emit&& emit) {
  const double inv_beta = s.ref.inverse_beta();
  double k = q.k1;
  if (q.gradient != 0) k += q.gradient / s.ref.rigidity();
  const double length = q.length * s.fraction;
  const bool edges = q.fringe == "hard" && (k != 0 || s.keep_structure);
  if (edges && s.is_first()) emit(quadrupole_fringe<double>{k / 12, inv_beta});
  auto paraxial = [&](double l) { emit(quadrupole_paraxial<double>::make(l, k, inv_beta)); };
  if (s.model != model::exact) {
    closed(length, {}, s, emit, paraxial);
  } else if (k == 0 && !s.keep_structure) {
    emit_drift(length, s, emit);
  } else {
    split(length, {}, s, emit, paraxial,
          [&](double l) { emit(exact_remainder<double>{l, inv_beta}); });
  }
  if (edges && s.is_last()) emit(quadrupole_fringe<double>{-k / 12, inv_beta});
}

struct quadrupole_edge {
  double k1 = 0;
  double gradient = 0;
  std::string location = "entry";

  static constexpr std::string_view kind = "QuadrupoleEdge";
  static constexpr std::string_view doc =
      "One hard edge of a quadrupole on its own, thin, of third order (Forest and Milutinovic).";
  static constexpr auto parameters = std::tuple{
      parameter{"k1", &quadrupole_edge::k1, "1/m^2",
                "gradient of the quadrupole over the signed rigidity"},
      parameter{"gradient", &quadrupole_edge::gradient, "T/m",
                "field gradient dB_y/dx, added to k1; acts with the sign of the charge"},
      parameter{"location", &quadrupole_edge::location, "entry|exit",
                "whether the field begins or ends here", std::string_view{}},
  };
};

template <class Emit>
void emit_maps(const quadrupole_edge& q, const slice& s, Emit&& emit) {
  double k = q.k1;
  if (q.gradient != 0) k += q.gradient / s.ref.rigidity();
  emit(quadrupole_fringe<double>{(q.location == "entry" ? k : -k) / 12, s.ref.inverse_beta()});
}

}  // namespace betatron::elements
