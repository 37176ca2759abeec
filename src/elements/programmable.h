// programmable.h: an element whose effect is code of the user: on particles tile by tile inside the fused pass
// (tile_code.h), or on the whole beam while all threads stand still; and on the reference particle.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "elements/drift.h"
#include "elements/element.h"
#include "elements/tile_code.h"

namespace betatron::beam {
class bunch;
}

namespace betatron::elements {

/// Code that is called with the whole beam. It may change what particles there are by taking some out of the beam
/// (bunch::remove), not by adding any. What it throws ends tracking with all particles in front of the slice.
struct beam_code {
  using function = std::function<void(beam::bunch&, const code_place&)>;

  std::string name{};  ///< as in messages
  function push{};
  function inverse{};  ///< from the exit to the entrance; empty: it cannot be undone
};

/// Where the user's function moves the reference particle: a piece of the element, backwards if to < from.
struct reference_place {
  double length;    ///< of the element [m]
  double from, to;  ///< fractions of it
};

struct programmable {
  double length = 0;
  std::vector<double> settings{};
  std::shared_ptr<const tile_code> tiles{};  ///< one of these two, or none
  std::shared_ptr<const beam_code> beam{};

  /// Moves the reference particle along a piece. It may be called any number of times, from any thread, and must
  /// always do the same. Empty: straight ahead.
  std::function<void(beam::reference&, const reference_place&)> reference{};

  std::string made_as{};  ///< what messages call its kind, if it was made as another

  static constexpr std::string_view kind = "Programmable";
  static constexpr std::string_view doc =
      "An element whose effect on particles and on the reference particle is code of the user; without code it is a "
      "drift.";
  static constexpr bool follows_clock = true;  // it may: it sees the clock of the reference
  static constexpr bool whole_slices = true;
  static constexpr auto parameters = std::tuple{
      parameter{"length", &programmable::length, "m", "path length of the reference orbit"},
      parameter{"settings", &programmable::settings, "",
                "numbers that the code is given with every call"},
  };
};

/// What is wrong with the code; empty if nothing is.
inline std::string problem(const programmable& p) {
  if (p.tiles && p.beam) return "it has code for tiles and for the whole beam; allowed: one";
  if (p.tiles && !p.tiles->push_double) return "its code has no push in double precision";
  if (p.tiles && !std::ranges::all_of(p.tiles->steps, [&](double h) {
        return std::isfinite(h) && (p.tiles->steps[0] == 0 ? h == 0 : h > 0);
      })) {
    return "its code has steps of differences that are not all finite and > 0, or all 0";
  }
  if (p.beam && !p.beam->push) return "its code has no push";
  if (!p.tiles && !p.beam && p.reference) {
    return "it has a reference function but no push: particles must follow the reference particle";
  }
  return {};
}

inline void advance(const programmable& p, beam::reference& ref, const stretch& piece) {
  if (!p.reference) return advance_straight(ref, p.length * (piece.to - piece.from));
  p.reference(ref, {p.length, piece.from, piece.to});
  const auto finite = [](double v) { return std::isfinite(v); };
  if (finite(ref.s) && finite(ref.t) && finite(ref.kinetic) &&
      std::ranges::all_of(ref.position, finite) && std::ranges::all_of(ref.frame, finite)) {
    return;
  }
  throw std::domain_error("its reference function gives a reference particle that is not finite");
}

template <class Emit>
void emit_maps(const programmable& p, const slice& s, Emit&& emit) {
  if (!p.tiles && !p.beam) return emit_drift(p.length * s.fraction, s, emit);
  code_call call{p.tiles, p.beam,  s.ref,      s.ref, p.length * s.fraction,
                 s.index, s.count, p.settings, false, {}};
  advance(p, call.exit, s.piece());
  emit(call);
}

}  // namespace betatron::elements
