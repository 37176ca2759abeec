// programmable.h: what the other files of bindings need to know of code of the user.
#pragma once

#include <nanobind/nanobind.h>

#include <functional>
#include <vector>

#include "elements/programmable.h"
#include "lattice/line.h"
#include "tracking/hook.h"

namespace betatron::bindings {

/// Garbage collection of elements::programmable.
extern PyType_Slot programmable_slots[];

/// The reference function of an element of the package: not code of the user.
struct reference_code {
  std::function<void(beam::reference&, const elements::reference_place&)> advance;
};

/// Takes what is code (code, push, inverse, reference), and what messages call the kind (made_as), out of the arguments
/// of a constructor.
void take_code(elements::programmable& p, nanobind::kwargs& arguments);

/// Hooks from triples (name of the point, function(state), flags of elements); the line must live as long as they.
std::vector<tracking::hook> hooks_of(const lattice::line& l, nanobind::handle given);

}  // namespace betatron::bindings
