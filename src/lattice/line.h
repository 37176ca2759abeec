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

/// Moves the reference particle through an element between two fractions of its length, backwards if to < from:
/// path length, time of flight, laboratory position and direction, energy. Throws std::invalid_argument naming the
/// element where the particle would stop.
void advance(const element& e, beam::reference& ref, double from = 0, double to = 1);

/// True if the maps depend on the time of the reference particle: then no turn is like another.
bool follows_clock(const line& l);

/// The reference particle behind each element, after the one given (size n + 1). Throws std::invalid_argument
/// naming the element at which it would stop (kinetic energy <= 0).
std::vector<beam::reference> survey(const line& l, const beam::reference& start);

}  // namespace betatron::lattice
