// network_map.h: a network that maps the six coordinates of a particle in front of an element to those behind it, as
// code of the element (elements/tile_code.h).
//
// coordinate_form::canonical: x, px, y, py, t, pt, relative to the reference particle at the entrance and at the exit.
// coordinate_form::fixed_time: x, y, xi [m], px, py, pz [m c] of all particles at the time when the reference particle
// is at the entrance, and when it is at the exit; xi is the place along the axis, `xi_entrance` and `xi_exit` that of the
// reference particle. In between a particle flies freely to the plane and from it, as in fixed_time.py.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "elements/programmable.h"
#include "surrogate/inference.h"

namespace betatron::surrogate {

enum class coordinate_form { canonical, fixed_time };

/// Throws std::invalid_argument listing the names: canonical, fixed_time.
coordinate_form coordinate_form_named(std::string_view name);

struct network_map {
  std::string name;
  network net;  ///< six inputs and six outputs
  number_format format = number_format::single;
  coordinate_form coordinates = coordinate_form::canonical;
  double length = 0;       ///< [m]
  double energy_gain = 0;  ///< of the reference particle [eV]
  double xi_entrance = 0, xi_exit = 0;
};

/// What becomes of particles. Those that do not move forward at a fixed time are lost. Throws std::invalid_argument as
/// check(network) does, and if the network does not have six inputs and outputs or a number is not allowed.
std::shared_ptr<const elements::tile_code> code_of(const network_map&);

/// What becomes of the reference particle: straight ahead, with an energy that grows linearly. Throws std::domain_error
/// if none is left, and for another length.
void advance(const network_map&, beam::reference&, const elements::reference_place&);

}  // namespace betatron::surrogate
