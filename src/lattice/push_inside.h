// push_inside.h: a particle with its derivatives through a map, as the tracked ones go.
#pragma once

#include <limits>

#include "elements/phase_space.h"

namespace betatron::lattice {

/// Outside of the domain of a map, where particles are lost, all of x becomes NaN: what the map makes of it
/// there is neither its value nor its derivative. Apertures are ignored.
template <class Map, class T>
void push_inside(const Map& map, elements::phase_space<T>& z, const elements::energy<T>& e) {
  if constexpr (requires { Map::loss; }) {
    const bool inside = map.push(z, e);
    if (Map::loss == beam::loss_reason::outside_domain && !inside) {
      z.x = z.x * T(std::numeric_limits<double>::quiet_NaN());
    }
  } else {
    map.push(z, e);
  }
}

}  // namespace betatron::lattice
