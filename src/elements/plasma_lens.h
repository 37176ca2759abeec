// plasma_lens.h: lenses that focus both planes by the azimuthal field of a current through a plasma.
//
//   paraxial  H = -P + (px^2 + py^2)/(2P) + k (x^2 + y^2)/2 - pt/beta0      solved exactly
//   exact     H = -sqrt(P^2 - px^2 - py^2) + k (x^2 + y^2)/2 - pt/beta0     split as in quadrupole.h
//
// With w = k/P both planes oscillate, x'' = -w x; the path length follows as in quadrupole.h. A tapered lens has
// a gradient that grows across it, B_x = g (y + tau x y), B_y = -g (x + tau (x^2 + y^2)/2), from the potential
//   V = kl ((x^2 + y^2)/2 + tau (x^3/6 + x y^2/2)),
// so that an achromatic stage with dispersion D = 1/tau focuses all energies alike.
// Sources: J. van Tilborg et al., Phys. Rev. Lett. 115 (2015) 184802 (active plasma lens); C. A. Lindstrom,
// arXiv:2104.14460 (transversely tapered lens).
#pragma once

#include "elements/drift.h"
#include "elements/element.h"
#include "elements/phase_space.h"
#include "elements/quadrupole.h"
#include "elements/spin.h"

namespace betatron::elements {

template <class R>
struct plasma_lens_paraxial {
  R length, k, inv_beta, reach;

  static constexpr unsigned writes = column::x | column::px | column::y | column::py | column::t;
  static constexpr spin_effect spin = spin_effect::turned;

  /// `reach` covers momenta down to 80 % of the reference momentum; see numerics/entire.h.
  static plasma_lens_paraxial make(R length, R k, R inv_beta) {
    return {length, k, inv_beta, std::fabs(k) * length * length * R(1.25)};
  }

  template <class T>
  BETATRON_INLINE void push(phase_space<T>& z, const energy<T>& e) const {
    using F = scalar_of<T>;
    T c[4];
    stumpff<4>(e.inv_p * (k * length * length), reach, c);
    const T s = c[1] * length;
    const T x1 = c[0] * z.x + s * e.inv_p * z.px;
    const T y1 = c[0] * z.y + s * e.inv_p * z.py;
    const T px1 = c[0] * z.px - s * z.x * k;
    const T py1 = c[0] * z.py - s * z.y * k;
    // twice the integral of x'^2 + y'^2
    const T conserved =
        (z.px * z.px + z.py * z.py) * e.inv_p * length + (z.x * z.x + z.y * z.y) * (k * length);
    const T boundary = x1 * px1 - z.x * z.px + y1 * py1 - z.y * z.py;
    const T twice = (conserved + boundary) * e.inv_p;
    z.t = z.t + e.slip * length + (e.slip + inv_beta) * twice * F(0.25);
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
    const T zero = T(F(0));
    auto field = [&](const phase_space<T>& z) { return vector3<T>{z.y * k, -(z.x * k), zero}; };
    const vector3<T> integral{before.py - behind.py, behind.px - before.px, zero};
    turn_spin_along(s, before, behind, e, g, length, R(0), integral, field(before), field(behind));
  }
  plasma_lens_paraxial inverse() const { return {-length, k, inv_beta, reach}; }
};

struct plasma_lens {
  double length = 0;
  double k1 = 0;
  double gradient = 0;

  static constexpr std::string_view kind = "PlasmaLens";
  static constexpr std::string_view doc =
      "A plasma lens with hard edges; focuses x and y where k1 + gradient/(B rho) is positive. A negative "
      "length is allowed and tracks back.";
  static constexpr auto parameters = std::tuple{
      parameter{"length", &plasma_lens::length, "m", "length", range::any, required},
      parameter{"k1", &plasma_lens::k1, "1/m^2",
                "gradient over the signed rigidity, the same for any species"},
      parameter{"gradient", &plasma_lens::gradient, "T/m",
                "field gradient, added to k1; acts with the sign of the charge"},
  };
};

template <class Emit>
void emit_maps(const plasma_lens& q, const slice& s, Emit&& emit) {
  const double inv_beta = s.ref.inverse_beta();
  double k = q.k1;
  if (q.gradient != 0) k += q.gradient / s.ref.rigidity();
  const double length = q.length * s.fraction;
  auto paraxial = [&](double l) { emit(plasma_lens_paraxial<double>::make(l, k, inv_beta)); };
  if (s.model != model::exact) return closed(length, {}, s, emit, paraxial);
  if (k == 0 && !s.keep_structure) return emit_drift(length, s, emit);
  split(length, {}, s, emit, paraxial,
        [&](double l) { emit(exact_remainder<double>{l, inv_beta}); });
}

template <class R>
struct tapered_lens_kick {
  R strength, taper;  // kl [1/m], tau [1/m]

  static constexpr unsigned writes = column::px | column::py;
  static constexpr spin_effect spin = spin_effect::turned;

  template <class T>
  BETATRON_INLINE void push(phase_space<T>& z, const energy<T>&) const {
    using F = scalar_of<T>;
    z.px = z.px - (z.x + (z.x * z.x + z.y * z.y) * (taper * F(0.5))) * strength;
    z.py = z.py - (z.y + z.x * z.y * taper) * strength;
  }
  template <class T>
  BETATRON_INLINE void turn_spin(vector3<T>& s, const phase_space<T>& before,
                                 const phase_space<T>& behind, const energy<T>& e,
                                 const gyration<R>& g) const {
    turn_spin_by_kick(s, before, behind, e, g);
  }
  tapered_lens_kick inverse() const { return {-strength, taper}; }
};

struct tapered_plasma_lens {
  double k1l = 0;
  double gradient_length = 0;
  double taper = 0;

  static constexpr std::string_view kind = "TaperedPlasmaLens";
  static constexpr std::string_view doc =
      "A thin plasma lens whose gradient grows with x. Focuses where k1l + gradient_length/(B rho) is "
      "positive. The same kick in every model but the linear one.";
  static constexpr auto parameters = std::tuple{
      parameter{"k1l", &tapered_plasma_lens::k1l, "1/m",
                "integrated gradient over the signed rigidity, the same for any species"},
      parameter{"gradient_length", &tapered_plasma_lens::gradient_length, "T",
                "integrated gradient, added to k1l; acts with the sign of the charge"},
      parameter{"taper", &tapered_plasma_lens::taper, "1/m",
                "relative growth of the gradient per metre; 1/dispersion for an achromatic focus"},
  };
};

template <class Emit>
void emit_maps(const tapered_plasma_lens& l, const slice& s, Emit&& emit) {
  double k = l.k1l;
  if (l.gradient_length != 0) k += l.gradient_length / s.ref.rigidity();
  emit(tapered_lens_kick<double>{k, l.taper});
}

}  // namespace betatron::elements
