// lattice/line.h: an ordered list of elements, and where it lies in the laboratory.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "beam/reference.h"
#include "lattice/element.h"

namespace betatron::lattice {

/// Holds references: the same element may stand at several places and in several lines, and a changed parameter
/// takes effect everywhere the next time it is tracked.
struct line {
  std::vector<std::shared_ptr<element>> elements{};
  std::string name{};
};

/// Path length of the reference orbit [m].
double length(const line& l);

/// Moves the reference particle through a fraction of an element, backwards if negative: path length, time of
/// flight, laboratory position and direction, energy.
void advance(const element& e, beam::reference& ref, double fraction = 1);

/// The reference particle behind each element, after the one given (size n + 1). Throws std::invalid_argument
/// naming the element at which it would stop (kinetic energy <= 0).
std::vector<beam::reference> survey(const line& l, const beam::reference& start);

}  // namespace betatron::lattice
