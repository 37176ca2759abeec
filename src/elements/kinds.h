// kinds.h: the list of all elements and of all maps. A new element adds one line to each.
#pragma once

#include <variant>

#include "elements/aperture.h"
#include "elements/bend.h"
#include "elements/constant_focusing.h"
#include "elements/drift.h"
#include "elements/kicker.h"
#include "elements/linear_map.h"
#include "elements/marker.h"
#include "elements/misalignment.h"
#include "elements/multipole.h"
#include "elements/quadrupole.h"
#include "elements/rf_cavity.h"
#include "elements/solenoid.h"

namespace betatron::elements {

/// Every kind of element.
using kind = std::variant<drift, quadrupole, bend, dipole_edge, sextupole, octupole, multipole,
                          solenoid, constant_focusing, kicker, rf_cavity, linear_map, aperture,
                          instrument, marker>;

template <template <class> class... Maps>
struct map_list {
  static constexpr std::size_t size = sizeof...(Maps);

  /// Position of Map in the list, which is its operation code in a program.
  template <template <class> class Map>
  static constexpr int code() {
    int index = 0, found = -1;
    ((found = std::is_same_v<Map<double>, Maps<double>> ? index : found, ++index), ...);
    return found;
  }

  /// Calls f.template operator()<Map>() for each map, in order.
  template <class F>
  static constexpr void for_each(F&& f) {
    (f.template operator()<Maps>(), ...);
  }
};

/// Every map that the executors know.
using all_maps =
    map_list<drift_paraxial, drift_exact, quadrupole_paraxial, exact_remainder, bend_paraxial,
             bend_exact, curved_quadrupole_kick, dipole_edge_kick, multipole_kick, solenoid_paraxial,
             solenoid_exact, dipole_kick, rf_kick, aperture_filter, linear_dense, linear_midplane,
             frame_change>;

}  // namespace betatron::elements
