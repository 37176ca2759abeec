// longitudinal_boundary.h: what happens to particles that leave the bucket |t| <= L/2.
//
//   periodic    t -> t - n L,  n = the whole number nearest to t/L: a long train seen through one bucket
//   reflecting  t is folded back at +-L/2 like light between two mirrors, and pt changes its sign with every
//               reflection: (t, pt) -> (-1)^n (t - n L, pt)
//   absorbing   the particle is lost
//
// These are no elements: lattice::compile puts one of the maps behind every slice of every element. Periodic and
// reflecting are symplectic, but many particles become one: they have no inverse.
#pragma once

#include "elements/element.h"
#include "elements/phase_space.h"
#include "elements/spin.h"

namespace betatron::elements {

enum class longitudinal_boundary { open, periodic, absorbing, reflecting };

/// Why a map cannot be undone.
inline constexpr std::string_view many_to_one =
    "it maps many particles onto one and has no inverse";

template <class R>
struct bucket_wrap {
  R length, inv_length;

  static constexpr unsigned writes = column::t;
  static constexpr spin_effect spin = spin_effect::none;
  static constexpr std::string_view has_no_inverse = many_to_one;

  template <class T>
  BETATRON_INLINE void push(phase_space<T>& z, const energy<T>&) const {
    z.t = z.t - round_to_integer(z.t * inv_length) * length;
  }
};

template <class R>
struct bucket_mirror {
  R length, inv_length;

  static constexpr unsigned writes = column::t | column::pt;
  static constexpr spin_effect spin = spin_effect::none;
  static constexpr bool changes_energy = true;
  static constexpr std::string_view has_no_inverse = many_to_one;

  template <class T>
  BETATRON_INLINE void push(phase_space<T>& z, const energy<T>&) const {
    using F = scalar_of<T>;
    const T n = round_to_integer(z.t * inv_length);
    const T odd = abs(n - round_to_integer(n * F(0.5)) * F(2));  // 0 or 1
    const T sign = T(F(1)) - odd * F(2);
    z.t = (z.t - n * length) * sign;
    z.pt = z.pt * sign;
  }
};

template <class R>
struct bucket_filter {
  R inv_half_length;

  static constexpr unsigned writes = 0;
  static constexpr spin_effect spin = spin_effect::none;
  static constexpr beam::loss_reason loss = beam::loss_reason::outside_bucket;

  template <class T>
  BETATRON_INLINE mask_of<T> push(phase_space<T>& z, const energy<T>&) const {
    return abs(z.t * inv_half_length) <= T(scalar_of<T>(1));
  }
  bucket_filter inverse() const { return *this; }
};

/// The map of a boundary, for a bucket of this length [m]; none if it is open.
template <class Emit>
void emit_boundary(longitudinal_boundary boundary, double length, Emit&& emit) {
  switch (boundary) {
    case longitudinal_boundary::open:
      return;
    case longitudinal_boundary::periodic:
      return emit(bucket_wrap<double>{length, 1 / length});
    case longitudinal_boundary::reflecting:
      return emit(bucket_mirror<double>{length, 1 / length});
    case longitudinal_boundary::absorbing:
      return emit(bucket_filter<double>{2 / length});
  }
}

}  // namespace betatron::elements
