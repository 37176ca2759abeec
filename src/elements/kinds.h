// kinds.h: the list of all elements and of all maps. A new element adds one line to each.
#pragma once

#include <variant>

#include "elements/aperture.h"
#include "elements/bend.h"
#include "elements/constant_focusing.h"
#include "elements/dipole_edge.h"
#include "elements/drift.h"
#include "elements/kicker.h"
#include "elements/linear_map.h"
#include "elements/longitudinal_boundary.h"
#include "elements/marker.h"
#include "elements/misalignment.h"
#include "elements/multipole.h"
#include "elements/nonlinear_lens.h"
#include "elements/plasma_lens.h"
#include "elements/plasma_stage.h"
#include "elements/polygon_aperture.h"
#include "elements/programmable.h"
#include "elements/quadrupole.h"
#include "elements/rf_cavity.h"
#include "elements/rf_field_map.h"
#include "elements/rotation.h"
#include "elements/soft_magnets.h"
#include "elements/solenoid.h"
#include "elements/spin_map.h"
#include "elements/taylor_map.h"
#include "elements/thin_dipole.h"
#include "elements/thin_rf.h"
#include "elements/undulator.h"
#include "elements/uniform_acceleration.h"

namespace betatron::elements {

/// Every kind of element.
using kind =
    std::variant<drift, quadrupole, bend, dipole_edge, sextupole, octupole, multipole, solenoid,
                 constant_focusing, quadrupole_edge, plasma_lens, tapered_plasma_lens, buncher,
                 crab_cavity, thin_dipole, nonlinear_lens, pole_face_rotation, plane_rotation,
                 patch, polygon_aperture, kicker, rf_cavity, soft_solenoid, soft_quadrupole,
                 rf_field_map, uniform_acceleration, undulator, plasma_stage, linear_map,
                 taylor_map, spin_map, aperture, programmable, instrument, marker>;

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
             bend_exact, curved_multipole_kick, dipole_edge_kick, multipole_kick, solenoid_paraxial,
             solenoid_exact, dipole_kick, rf_kick, rf_field_kick, uniform_acceleration_paraxial,
             uniform_acceleration_exact, undulator_paraxial, undulator_exact, blowout_kick,
             linear_wake_kick, aperture_filter, quadrupole_fringe, dipole_fringe,
             plasma_lens_paraxial, tapered_lens_kick, buncher_kick, crab_kick, thin_dipole_kick,
             nonlinear_lens_kick, face_rotation, frame_patch, polygon_filter, linear_dense,
             linear_midplane, taylor_second, taylor_third, frame_change, bucket_wrap, bucket_mirror,
             bucket_filter, spin_rotation, reference_change>;

}  // namespace betatron::elements
