// hook.h: functions of the user that are called while the whole beam stands at a place of the line.
//
// At one place they are called in this order: after_slice, after_element of what ends there, after_turn, before_turn,
// before_element, before_slice of what begins, then collective kicks, then after_kick. What is recorded behind an
// element is recorded before they are called.
//
// A hook may change the particles, take some out of the beam (bunch::remove), change bunch::ref, and set parameters of
// elements: maps are made when the beam comes to them. Lengths and slices say where the beam stops: from before_turn
// on, slices must stay as they are, and kicks have the lengths of then.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "beam/bunch.h"

namespace betatron::tracking {

struct effect;

enum class hook_point {
  before_turn,
  after_turn,
  before_element,
  after_element,
  before_slice,
  after_slice,
  after_kick
};

/// "before_turn", ...
const char* name_of(hook_point p);

/// Where a hook is called.
struct hook_place {
  hook_point point;
  std::int64_t turn;
  std::size_t
      element;  ///< position in the line; before and after a turn 0 and the number of elements
  int slice,
      slices;  ///< that begins, has ended, or has the kick; before and after an element the first and the last
  double length;                    ///< of the slice [m]; before and after an element of that
  std::span<const effect> effects;  ///< collective ones, in the order of the options
};

struct hook {
  hook_point point;

  /// What it throws ends tracking with all particles at that place, and bunch::ref there.
  std::function<void(beam::bunch&, const hook_place&)> call{};

  /// One flag per element, or empty: all of them. Not for turns.
  std::vector<std::uint8_t> at{};
};

}  // namespace betatron::tracking
