// track.h: tracking a beam through a line.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "beam/bunch.h"
#include "lattice/program.h"

namespace betatron::tracking {

struct track_options {
  std::int64_t turns = 1;
  std::int64_t first_turn = 0;  ///< number of the first turn, in records and losses
  lattice::direction way = lattice::direction::forward;
  std::vector<std::uint8_t> recorded{};  ///< one flag per element: moments behind it; empty: none
  bool record_slices = false;
  bool record_start = false;  ///< also before the first element of the first turn
  unsigned threads = 0;       ///< 0: all processors that the process may use

  /// Called now and then (after at most about a quarter of a second of work per processor) with the part that is
  /// done, 0 ... 1. Return false to stop there: all particles are then at the same place.
  std::function<bool(double)> on_progress{};
};

struct moment_record {
  std::int64_t turn;
  std::int32_t element;  ///< position in the line, -1 for the start
  std::int32_t slice;
  beam::reference ref;
  beam::moments moments;
};

struct track_result {
  std::vector<moment_record> records{};
  std::size_t lost = 0;        ///< particles lost in this call; see bunch::lost
  bool interrupted = false;
  std::int64_t turn = 0;       ///< where tracking ended: turns completed ...
  std::size_t element = 0;     ///< ... and elements of the next one
};

/// Tracks in place; bunch.ref moves along. Throws std::invalid_argument before anything is moved if an element
/// cannot be tracked or an option is out of range (turns < 0, flags of the wrong number).
track_result track(const lattice::line& l, beam::bunch& b, const track_options& options);

}  // namespace betatron::tracking
