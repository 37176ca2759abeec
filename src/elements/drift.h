// drift.h: a field-free straight.
//
//   paraxial  H = -P + (px^2 + py^2)/(2P) - pt/beta0
//   exact     H = -sqrt(P^2 - px^2 - py^2) - pt/beta0
//
// Both depend on momenta only, so that the maps are exact solutions.
// Source: E. Forest, Beam Dynamics: A New Attitude and Framework (1998), sec. 4.
#pragma once

#include "elements/element.h"
#include "elements/phase_space.h"
#include "elements/spin.h"

namespace betatron::elements {

template <class R>
struct drift_paraxial {
  R length, inv_beta;

  static constexpr unsigned writes = column::x | column::y | column::t;
  static constexpr spin_effect spin = spin_effect::none;

  template <class T>
  BETATRON_INLINE void push(phase_space<T>& z, const energy<T>& e) const {
    using F = scalar_of<T>;
    const T l = e.inv_p * length;
    const T u = (z.px * z.px + z.py * z.py) * (e.inv_p * e.inv_p);
    z.x = z.x + l * z.px;
    z.y = z.y + l * z.py;
    z.t = z.t + (e.slip + (e.slip + inv_beta) * u * F(0.5)) * length;
  }
  drift_paraxial inverse() const { return {-length, inv_beta}; }
};

namespace detail {
/// P/pz - 1 for u = (px^2 + py^2)/P^2, given r = 1/sqrt(1 - u) = P/pz. Single precision takes the form
/// without cancellation; in double the rounding of r - 1 is 1e-16 of the path length.
template <class T>
BETATRON_INLINE T excess_path(const T& u, const T& r) {
  using F = scalar_of<T>;
  if constexpr (sizeof(F) == 4) {
    return u * r * r / (r + F(1));
  } else {
    return r - F(1);
  }
}
}  // namespace detail

template <class R>
struct drift_exact {
  R length, inv_beta;

  static constexpr unsigned writes = column::x | column::y | column::t;
  static constexpr spin_effect spin = spin_effect::none;
  static constexpr beam::loss_reason loss = beam::loss_reason::outside_domain;

  template <class T>
  BETATRON_INLINE mask_of<T> push(phase_space<T>& z, const energy<T>& e) const {
    using F = scalar_of<T>;
    const T u = (z.px * z.px + z.py * z.py) * (e.inv_p * e.inv_p);
    const T r = rsqrt(F(1) - u);
    const T l = e.inv_p * r * length;
    z.x = z.x + l * z.px;
    z.y = z.y + l * z.py;
    z.t = z.t + (e.slip + (e.slip + inv_beta) * detail::excess_path(u, r)) * length;
    return u < T(F(1));
  }
  drift_exact inverse() const { return {-length, inv_beta}; }
};

struct drift {
  double length = 0;

  static constexpr std::string_view kind = "Drift";
  static constexpr std::string_view doc =
      "A field-free straight. A negative length is allowed and tracks back.";
  static constexpr auto parameters = std::tuple{
      parameter{"length", &drift::length, "m", "length", range::any, required},
  };
};

/// A straight stretch without field, in the model of the element it belongs to.
template <class Emit>
void emit_drift(double length, const slice& s, Emit&& emit) {
  const double inv_beta = s.ref.inverse_beta();
  if (s.model == model::exact) {
    emit(drift_exact<double>{length, inv_beta});
  } else {
    emit(drift_paraxial<double>{length, inv_beta});
  }
}

template <class Emit>
void emit_maps(const drift& d, const slice& s, Emit&& emit) {
  emit_drift(d.length * s.fraction, s, emit);
}

}  // namespace betatron::elements
