#include "lattice/line.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

namespace betatron::lattice {

double length(const line& l) {
  double sum = 0;
  for (const auto& e : l.elements) sum += length(*e);
  return sum;
}

void advance(const element& e, beam::reference& ref, double from, double to) {
  const double slices = std::fabs(to - from) * slice_count(e);
  const elements::stretch piece{from, to, e.order,
                                std::max(1, static_cast<int>(std::lround(e.steps * slices)))};
  try {
    std::visit([&](const auto& body) { advance(body, ref, piece); }, e.body);
  } catch (const std::domain_error& impossible) {
    throw std::invalid_argument(describe(e) + ": " + impossible.what());
  }
  if (!(ref.kinetic > 0)) {
    throw std::invalid_argument(describe(e) + " at s = " + std::to_string(ref.s) +
                                " m stops the reference particle: its kinetic energy would be " +
                                std::to_string(ref.kinetic * ref.particle.mass_eV) +
                                " eV; allowed: > 0");
  }
}

bool follows_clock(const line& l) {
  return std::any_of(l.elements.begin(), l.elements.end(), [](const auto& e) {
    return std::visit([](const auto& body) { return requires { body.follows_clock; }; }, e->body);
  });
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
