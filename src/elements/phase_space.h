// phase_space.h: the coordinates of one particle, and what every map needs to know of its energy.
//
// Canonical coordinates relative to the reference particle, with the path length s as independent variable:
//   x, y   transverse offsets [m]
//   px, py transverse canonical momenta over the reference momentum p0
//   t      c (arrival time - reference arrival time) [m], late particles have t > 0
//   pt     -(gamma - gamma0)/(beta0 gamma0), more energy is negative
// The momentum follows exactly from P^2 = (p/p0)^2 = 1 - 2 pt/beta0 + pt^2.
//
// A map is a small struct of coefficients of type R (all members are R, so that a map can be converted to
// another precision member by member) with
//   push(z, e)   advances phase_space<T>& z, T being any scalar: double, a pack, a dual number, ...
//                A map with a domain (an aperture, a square root) returns the mask of particles inside it
//                and says in `loss` what it means to be outside.
//   inverse()    the map that undoes it
//   writes       the columns push may change
#pragma once

#include <array>
#include <cstddef>
#include <type_traits>

#include "beam/loss.h"
#include "numerics/entire.h"
#include "numerics/functions.h"
#include "numerics/hd.h"

namespace betatron::elements {

using numerics::abs;
using numerics::atan_ratio;
using numerics::atanh_ratio;
using numerics::oscillator_pair;
using numerics::round_to_integer;
using numerics::rsqrt;
using numerics::scalar_of;
using numerics::select;
using numerics::sincos;
using numerics::sqrt;
using numerics::stumpff;
using numerics::value_of;
using numerics::vanishes;

template <class T>
struct phase_space {
  T x, px, y, py, t, pt;
};

/// Derived from pt alone; kept beside the particle until an element changes pt.
template <class T>
struct energy {
  T inv_p;  ///< p0/p = 1/(1 + delta)
  T slip;   ///< 1/beta - 1/beta0: the extra c dt per metre of a particle on the axis
};

/// inv_beta = 1/beta0 and inv_bg2 = 1/(beta0 gamma0)^2 of the reference particle. The slip is written
/// without the cancellation between 1/beta and 1/beta0: with 1/beta^2 = 1 + inv_bg2/P^2,
///   1/beta - 1/beta0 = inv_bg2 (1/P^2 - 1) / (1/beta + 1/beta0).
/// NaN for a particle that has given away more energy than it had: P^2 is positive again at negative energies.
template <class T, class R>
BETATRON_INLINE energy<T> energy_of(const T& pt, const R& inv_beta, const R& inv_bg2) {
  using F = scalar_of<T>;
  const T excess = pt * (pt - inv_beta * F(2));  // P^2 - 1
  const T total = inv_beta - pt;                 // energy over p0 c
  const T inv_p = rsqrt(select(total > T(F(0)), excess + F(1), T(F(-1))));
  const T inv_p2 = inv_p * inv_p;
  const T slip = -(excess * inv_p2 * inv_bg2) / (total * inv_p + inv_beta);
  return {inv_p, slip};
}

namespace column {
inline constexpr unsigned x = 1, px = 2, y = 4, py = 8, t = 16, pt = 32;
}

/// The answer of a comparison of two T.
template <class T>
using mask_of = decltype(std::declval<T>() < std::declval<T>());

/// The same coefficients in another scalar type. Every member of a map is an R.
template <template <class> class Map, class From, class To>
Map<To> convert(const Map<From>& map, std::type_identity<To>) {
  constexpr std::size_t count = sizeof(Map<From>) / sizeof(From);
  static_assert(sizeof(Map<To>) == count * sizeof(To), "a map holds nothing but its scalars");
  struct raw_from {
    From v[count];
  };
  struct raw_to {
    To v[count];
  };
  const auto from = __builtin_bit_cast(raw_from, map);
  raw_to to;
  for (std::size_t i = 0; i < count; ++i) to.v[i] = static_cast<To>(from.v[i]);
  return __builtin_bit_cast(Map<To>, to);
}

}  // namespace betatron::elements
