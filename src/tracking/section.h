// section.h: a line between two places where the whole beam stops, and the particles that are lost there.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <functional>
#include <span>
#include <vector>

#include "lattice/sensitivity.h"

namespace betatron::tracking {

/// A particle that was lost in operation `op` of the forward program, and where it was then. `index` counts the
/// particles that were in the beam at the start of the section, `of` all of them.
///
/// The reverse pass takes it back where a loss saw it last: what it did from there on until it was lost has no
/// influence, and maps may be anything but regular there.
template <class F>
struct casualty {
  static constexpr std::ptrdiff_t at_start = -1;

  std::size_t index, of;
  std::size_t op;
  bool in_code;  ///< lost by code
  std::array<F, 6> z;
  std::ptrdiff_t seen;       ///< the last record in front, or at_start of the section
  std::array<F, 6> seen_at;  ///< where it was there

  /// It was in the beam in front of operation `i`, which reverse passes come to from behind, for a loss to see.
  bool is_back(std::ptrdiff_t i) const { return seen >= i; }
};

/// Those among `count` particles from `first` on, the last to be lost first; all of them are ascending by index.
template <class F>
std::vector<const casualty<F>*> lost_in(std::span<const casualty<F>> all, std::size_t first,
                                        std::size_t count) {
  std::vector<const casualty<F>*> dead;
  const auto begin = std::ranges::lower_bound(all, first, {}, &casualty<F>::index);
  for (auto d = begin; d != all.end() && d->index < first + count; ++d) dead.push_back(&*d);
  std::ranges::stable_sort(dead, std::ranges::greater{}, &casualty<F>::op);
  return dead;
}

/// Throws std::runtime_error if some of the particles that were lost in a section, of `all`, were so in code that stops
/// then. `turn`: the line of one turn.
template <class F>
void check_stops(std::span<const casualty<F>> dead, const lattice::program& p,
                 const lattice::line& turn, std::size_t all) {
  const auto stopping = [&](const casualty<F>& d) -> const elements::code_call* {
    const bool finite = std::ranges::all_of(d.z, [](F value) { return std::isfinite(value); });
    if (!d.in_code || !finite) return nullptr;
    const elements::code_call& call = p.calls[p.operations[d.op].coefficients];
    return call.tiles->stops.empty() ? nullptr : &call;
  };
  const casualty<F>* first = nullptr;  // in the line
  std::size_t outside = 0;
  for (const casualty<F>& d : dead) {
    if (stopping(d) == nullptr) continue;
    if (first == nullptr || d.op < first->op) {
      first = &d;
      outside = 0;
    }
    outside += d.op == first->op;
  }
  if (first == nullptr) return;
  for (const casualty<F>& d : dead) all -= d.op < first->op;
  const auto at = static_cast<std::size_t>(p.operations[first->op].element);
  const std::size_t element = at % turn.elements.size();
  const elements::code_call& call = *stopping(*first);
  elements::stop_for(*call.tiles,
                     call.at(static_cast<std::int64_t>(at / turn.elements.size()),
                             static_cast<std::int32_t>(element)),
                     lattice::describe(*turn.elements[element]), outside, all);
}

/// The first of `count` particles from `first` on that is none of the dead, or `count`.
template <class F>
std::size_t first_alive(const std::vector<const casualty<F>*>& dead, std::size_t first,
                        std::size_t count) {
  std::size_t lane = 0;
  const auto is_dead = [&](const casualty<F>* d) { return d->index == first + lane; };
  while (lane < count && std::ranges::any_of(dead, is_dead)) ++lane;
  return lane;
}

/// Operations between two places where the whole beam stops.
struct section {
  std::size_t first, last;                    ///< of the forward program
  std::size_t first_backward, last_backward;  ///< of the reverse pass
  std::array<double, 2> entrance, exit;       ///< 1/beta0 and 1/(beta0 gamma0)^2
  std::size_t first_record = 0, last_record = 0;
};

inline std::vector<section> sections_of(const lattice::sensitivity& plan) {
  std::vector<section> all;
  const std::size_t stops = plan.stops.size();
  std::array<double, 2> energy = plan.forward.entrance_energy;
  for (std::size_t n = 0; n <= stops; ++n) {
    section s{};
    s.first = n == 0 ? 0 : plan.stops[n - 1].forward;
    s.last = n == stops ? plan.forward.operations.size() : plan.stops[n].forward;
    s.first_backward = n == stops ? 0 : plan.stops[n].backward;
    s.last_backward = n == 0 ? plan.backward.size() : plan.stops[n - 1].backward;
    s.entrance = energy;
    if (n < stops) {
      const beam::reference& ref = plan.stops[n].ref;
      energy = {ref.inverse_beta(), ref.inverse_beta_gamma_squared()};
    } else {
      energy = plan.exit_energy;
    }
    s.exit = energy;
    s.first_record = s.last_record = all.empty() ? 0 : all.back().last_record;
    for (std::size_t i = s.first; i < s.last; ++i) {
      if (plan.forward.operations[i].code == lattice::operation::record) ++s.last_record;
    }
    all.push_back(s);
  }
  return all;
}

}  // namespace betatron::tracking
