#include "tracking/effect.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <stdexcept>

#include "beam/text.h"
#include "tracking/track.h"

namespace betatron::tracking {

namespace {

/// More pieces of one element than this are a mistake in a length.
constexpr double max_parts = 1e7;

void check(const effect& e, const lattice::line& l) {
  if (e.order != 1 && e.order != 2) {
    throw std::invalid_argument(e.name + ": order = " + std::to_string(e.order) +
                                " is not allowed; allowed: 1, 2");
  }
  if (!(e.spacing >= 0) || !std::isfinite(e.spacing)) {
    throw std::invalid_argument(e.name + ": spacing = " + beam::number_text(e.spacing) +
                                " m is not allowed; allowed: >= 0 (0: one kick per slice)");
  }
  check_flags(e.name.c_str(), e.at, l);
}

/// Kicks of an effect in an element: a multiple or a divisor of the number of its slices.
int kick_count(const effect& e, std::size_t i, const lattice::element& element) {
  const double length = std::fabs(lattice::length(element));
  if (e.at.empty() ? length == 0 : e.at[i] == 0) return 0;
  const int slices = lattice::slice_count(element);
  if (e.spacing == 0 || length == 0) return slices;
  const double wanted = std::max(1.0, std::ceil(length / e.spacing * (1 - 1e-12)));
  if (wanted * 2 > max_parts) {
    throw std::invalid_argument(e.name + ": spacing = " + beam::number_text(e.spacing) +
                                " m would cut " + lattice::describe(element) + " of " +
                                beam::number_text(length) + " m into more than 5e6 pieces");
  }
  int n = static_cast<int>(wanted);
  if (n > slices) return (n + slices - 1) / slices * slices;
  while (slices % n != 0) ++n;
  return n;
}

}  // namespace

std::vector<kicked_stretch> cut_at_kicks(const lattice::line& l, std::span<const effect> effects) {
  for (const effect& e : effects) check(e, l);
  std::vector<kicked_stretch> stretches(1);
  const auto cut = [&](const lattice::position& here) {
    kicked_stretch& open = stretches.back();
    if (open.first == here) return;
    open.last = here;
    stretches.push_back({{}, here, here});
  };

  struct kick_at {
    int part;
    kicked_stretch::kick kick;
  };
  std::vector<kick_at> kicks;
  for (std::size_t i = 0; i < l.elements.size(); ++i) {
    const lattice::element& element = *l.elements[i];
    const double length = lattice::length(element);
    std::int64_t parts = lattice::slice_count(element);
    std::vector<int> counts;
    for (const effect& e : effects) {
      counts.push_back(kick_count(e, i, element));
      const bool halves = e.order == 2 && length != 0;
      if (counts.back() > 0) {
        parts = std::lcm(parts, static_cast<std::int64_t>(counts.back()) * (halves ? 2 : 1));
      }
      if (static_cast<double>(parts) > max_parts) {
        throw std::invalid_argument(e.name + ": the kicks of all effects cut " +
                                    lattice::describe(element) +
                                    " into more than 1e7 pieces; "
                                    "choose spacings that fit each other");
      }
    }
    kicks.clear();
    const int of = static_cast<int>(parts);
    for (std::size_t k = 0; k < effects.size(); ++k) {
      const int n = counts[k];
      for (int j = 0; j < n; ++j) {
        const int width = of / n;
        const int middle = effects[k].order == 2 && length != 0 ? width / 2 : 0;
        kicks.push_back(
            {j * width + middle,
             {k, length / n, static_cast<double>(j) / n, static_cast<double>(j + 1) / n, i}});
      }
    }
    if (kicks.empty()) continue;
    std::ranges::stable_sort(kicks, {}, &kick_at::part);
    cut({i});
    for (const kick_at& k : kicks) {
      cut(k.part == 0 ? lattice::position{i} : lattice::position{i, k.part, of});
      stretches.back().kicks.push_back(k.kick);
    }
  }
  stretches.back().last = {l.elements.size()};
  return stretches;
}

kick_place place_of(const lattice::line& l, const kicked_stretch::kick& k) {
  kick_place p;
  p.length = k.length;
  p.curvature = lattice::curvature(*l.elements[k.element]);
  p.element = k.element;
  p.from = k.from;
  p.to = k.to;
  p.line = &l;
  return p;
}

}  // namespace betatron::tracking
