// marker.h: places with a name. A Marker has no length; an Instrument (monitor, screen) may have one.
#pragma once

#include "elements/drift.h"
#include "elements/element.h"

namespace betatron::elements {

struct marker {
  static constexpr std::string_view kind = "Marker";
  static constexpr std::string_view doc = "A place with a name; does nothing to the beam.";
  static constexpr auto parameters = std::tuple{};
};

template <class Emit>
void emit_maps(const marker&, const slice&, Emit&&) {}

struct instrument {
  double length = 0;

  static constexpr std::string_view kind = "Instrument";
  static constexpr std::string_view doc =
      "A monitor or screen: a drift of its length; track(record=...) records the beam behind it.";
  static constexpr auto parameters = std::tuple{
      parameter{"length", &instrument::length, "m", "length", range::not_negative},
  };
};

template <class Emit>
void emit_maps(const instrument& i, const slice& s, Emit&& emit) {
  if (i.length != 0 || s.keep_structure) emit_drift(i.length * s.fraction, s, emit);
}

}  // namespace betatron::elements
