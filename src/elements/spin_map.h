// spin_map.h: a rotation of the spin given by its first-order expansion in the coordinates z,
//
//   S -> exp(v x) exp((A z) x) S
//
// which leaves the orbit alone: the spin part of a linear element, measured or computed elsewhere.
// Source: the spin-orbit maps of K. Yokoya and of H. Mais and G. Ripken, see S. R. Mane, Yu. M. Shatunov, K. Yokoya,
// Rep. Prog. Phys. 68 (2005) 1997, sec. 5.
#pragma once

#include <string>

#include "elements/element.h"
#include "elements/spin.h"

namespace betatron::elements {

struct spin_map {
  std::vector<double> rotation{};
  std::vector<double> slopes{};

  static constexpr std::string_view kind = "SpinMap";
  static constexpr std::string_view doc =
      "Turns the spin and nothing else: by the vector slopes times (x, px, y, py, t, pt), then by the vector "
      "rotation; the components along x, y, s of a vector are its axis times its angle.";
  static constexpr auto parameters = std::tuple{
      parameter{"rotation", &spin_map::rotation, "rad",
                "rotation vector on the reference orbit, 3 numbers or none"},
      parameter{"slopes", &spin_map::slopes, "rad/m, rad",
                "derivatives of the rotation vector, 3 x 6 numbers, row by row, or none"},
  };
};

/// What is wrong with the lists; empty if nothing is.
inline std::string problem(const spin_map& m) {
  if (!m.rotation.empty() && m.rotation.size() != 3) {
    return "rotation has " + std::to_string(m.rotation.size()) + " entries; allowed: 3 or none";
  }
  if (!m.slopes.empty() && m.slopes.size() != 18) {
    return "slopes has " + std::to_string(m.slopes.size()) +
           " entries; allowed: 18 (3 x 6, row by row) or none";
  }
  return {};
}

template <class Emit>
void emit_maps(const spin_map& m, const slice&, Emit&& emit) {
  spin_rotation<double> r{};
  for (std::size_t i = 0; i < m.slopes.size(); ++i) r.slope[i] = m.slopes[i];
  for (std::size_t i = 0; i < m.rotation.size(); ++i) r.behind[i] = m.rotation[i];
  emit(r);
}

}  // namespace betatron::elements
