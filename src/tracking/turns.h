// turns.h: what drivers of derivatives share: turns as one long line, what is recorded in it, and columns side by side.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "lattice/line.h"
#include "tracking/track.h"

namespace betatron::tracking {

/// A turn, and flags of its elements, `turns` times; its name stays.
struct repeated_line {
  lattice::line line;
  std::vector<std::uint8_t> recorded{};

  repeated_line(const lattice::line& turn, const std::vector<std::uint8_t>& flags,
                std::int64_t turns)
      : line{{}, turn.name} {
    for (std::int64_t k = 0; k < turns; ++k) {
      line.elements.insert(line.elements.end(), turn.elements.begin(), turn.elements.end());
      recorded.insert(recorded.end(), flags.begin(), flags.end());
    }
  }
};

/// What was recorded at a place in such a line, of which a turn has this many elements.
inline moment_record record_of(const lattice::record_point& at, std::size_t elements,
                               const beam::moment_sums& sums) {
  const auto count = static_cast<std::int32_t>(elements);
  const bool inside = at.element >= 0;
  return {inside ? at.element / count : 0, inside ? at.element % count : -1, at.slice, at.ref,
          beam::finish(sums)};
}

/// Six columns of n numbers, one behind the other.
template <class F>
std::array<F*, 6> columns_in(F* data, std::size_t n) {
  std::array<F*, 6> z;
  for (std::size_t c = 0; c < 6; ++c) z[c] = data + c * n;
  return z;
}

}  // namespace betatron::tracking
