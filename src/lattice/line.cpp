#include "lattice/line.h"

#include <stdexcept>

namespace betatron::lattice {

double length(const line& l) {
  double sum = 0;
  for (const auto& e : l.elements) sum += length(*e);
  return sum;
}

void advance(const element& e, beam::reference& ref, double fraction) {
  std::visit([&](const auto& body) { elements::advance(body, ref, fraction); }, e.body);
  if (!(ref.kinetic > 0)) {
    throw std::invalid_argument(describe(e) + " at s = " + std::to_string(ref.s) +
                                " m stops the reference particle: its kinetic energy would be " +
                                std::to_string(ref.kinetic * ref.particle.mass_eV) +
                                " eV; allowed: > 0");
  }
}

std::vector<beam::reference> survey(const line& l, const beam::reference& start) {
  std::vector<beam::reference> places = {start};
  places.reserve(l.elements.size() + 1);
  for (const auto& e : l.elements) {
    places.push_back(places.back());
    advance(*e, places.back());
  }
  return places;
}

}  // namespace betatron::lattice
