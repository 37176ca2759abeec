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

/// Kicks of an effect in an element: a multiple or a divisor of the number of its slices. `begins`: its length is 0, but
/// varied.
int kick_count(const effect& e, std::size_t i, const lattice::element& element, bool begins) {
  const double length = std::fabs(lattice::length(element));
  if (!e.at.empty() && e.at[i] == 0) return 0;
  if (length == 0 && !begins && (e.at.empty() || e.needs_length)) return 0;
  const int slices = lattice::slice_count(element);
  if (e.spacing == 0 || length == 0) return slices;
  const double wanted = std::max(1.0, std::ceil(length / e.spacing * (1 - 1e-12)));
  if (wanted * 2 > max_parts) {
    throw std::invalid_argument(e.name + ": spacing = " + beam::number_text(e.spacing) +
                                " m would cut " + lattice::describe(element) + " of " +
                                beam::number_text(length) + " m into more than 5e6 pieces");
  }
  int n = static_cast<int>(wanted);
  if (n > slices && lattice::has_whole_slices(element)) return slices;
  if (n > slices) return (n + slices - 1) / slices * slices;
  while (slices % n != 0) ++n;
  return n;
}

bool is_set(const std::vector<std::uint8_t>& flags, std::size_t i) {
  return flags.empty() || flags[i] != 0;
}

/// Hooks of this kind, called in front of what lies behind the cut.
void add_hooks(std::span<const hook> hooks, hook_point point, std::size_t element, int slice,
               kicked_stretch& to) {
  for (std::size_t h = 0; h < hooks.size(); ++h) {
    if (hooks[h].point == point && is_set(hooks[h].at, element)) {
      to.hooks.push_back({h, element, slice});
    }
  }
}

}  // namespace

const char* name_of(hook_point p) {
  switch (p) {
    case hook_point::before_turn:
      return "before_turn";
    case hook_point::after_turn:
      return "after_turn";
    case hook_point::before_element:
      return "before_element";
    case hook_point::after_element:
      return "after_element";
    case hook_point::before_slice:
      return "before_slice";
    case hook_point::after_slice:
      return "after_slice";
    case hook_point::after_kick:
      return "after_kick";
  }
  throw std::invalid_argument("hook_point: no such value");
}

std::vector<kicked_stretch> cut_at_kicks(const lattice::line& l, std::span<const effect> effects,
                                         std::span<const hook> hooks,
                                         std::span<const std::uint8_t> varied) {
  for (const effect& e : effects) check(e, l);
  for (const hook& h : hooks) {
    check_flags(name_of(h.point), h.at, l);
    if (!h.call) throw std::invalid_argument(std::string(name_of(h.point)) + " has no function");
  }
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
  // hooks of this kind at `here`, which is where the open stretch begins or behind that
  const auto call = [&](hook_point point, const lattice::position& here, std::size_t element,
                        int slice) {
    kicked_stretch found;
    add_hooks(hooks, point, element, slice, found);
    if (found.hooks.empty()) return;
    cut(here);
    auto& at = stretches.back().hooks;
    at.insert(at.end(), found.hooks.begin(), found.hooks.end());
  };
  for (std::size_t i = 0; i < l.elements.size(); ++i) {
    const lattice::element& element = *l.elements[i];
    const double length = lattice::length(element);
    const bool begins = length == 0 && !varied.empty() && varied[i] != 0;
    const bool thick = (length != 0 || begins) && !lattice::has_whole_slices(element);
    std::int64_t parts = lattice::slice_count(element);
    std::vector<int> counts;
    for (const effect& e : effects) {
      counts.push_back(kick_count(e, i, element, begins));
      const bool halves = e.order == 2 && thick;
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
    const int of = static_cast<int>(parts), slices = lattice::slice_count(element);
    for (std::size_t k = 0; k < effects.size(); ++k) {
      const int n = counts[k];
      for (int j = 0; j < n; ++j) {
        const int width = of / n;
        const int middle = effects[k].order == 2 && thick ? width / 2 : 0;
        const int part = j * width + middle;
        kicks.push_back({part,
                         {k, length / n, static_cast<double>(j) / n, static_cast<double>(j + 1) / n,
                          i, part / (of / slices)}});
      }
    }
    std::ranges::stable_sort(kicks, {}, &kick_at::part);
    const auto at = [&](int part) {
      if (part == of) return lattice::position{i + 1};
      return part == 0 ? lattice::position{i} : lattice::position{i, part, of};
    };
    if (!kicks.empty()) cut({i});
    call(hook_point::before_element, {i}, i, 0);
    auto next = kicks.begin();
    for (int k = 0; k < slices; ++k) {
      const int end = of / slices * (k + 1);
      call(hook_point::before_slice, at(end - of / slices), i, k);
      for (; next != kicks.end() && next->part < end; ++next) {
        cut(at(next->part));
        stretches.back().kicks.push_back(next->kick);
      }
      call(hook_point::after_slice, at(end), i, k);
    }
    call(hook_point::after_element, {i + 1}, i, slices - 1);
  }
  stretches.back().last = {l.elements.size()};
  return stretches;
}

hook_place place_of(const lattice::line& l, const hook& h, const kicked_stretch::hook_call& c) {
  hook_place p{h.point, 0, c.element, c.slice, 1, 0, {}};
  if (c.element == l.elements.size() || h.point == hook_point::before_turn) return p;
  const lattice::element& e = *l.elements[c.element];
  const bool slice = h.point != hook_point::before_element && h.point != hook_point::after_element;
  p.slices = lattice::slice_count(e);
  p.length = lattice::length(e) / (slice ? p.slices : 1);
  return p;
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
