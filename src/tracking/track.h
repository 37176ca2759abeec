// track.h: tracking a beam through a line.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "beam/bunch.h"
#include "lattice/program.h"
#include "tracking/effect.h"

namespace betatron::tracking {

struct moment_record {
  std::int64_t turn;
  std::int32_t element;  ///< position in the line, -1 for the start
  std::int32_t slice;
  beam::reference ref;
  beam::moments moments;
};

/// What a monitor saw in some consecutive observed turns.
struct observation_chunk {
  std::span<const std::int64_t> turns;  ///< numbers of the observed turns
  std::span<const moment_record> moments;
  std::span<const lattice::record_point> places;  ///< where particles were observed

  /// [place][x, px, y, py, t, pt][turn][particle, as in monitor::particles]; NaN for lost particles
  std::span<const double> coordinates;
};

/// Watches a beam for many turns in bounded memory: what it sees is passed on in chunks.
struct monitor {
  std::vector<std::uint8_t> moments_at{};  ///< one flag per element, or empty: moments behind it
  std::vector<std::uint8_t>
      observed_at{};  ///< one flag per element, or empty: coordinates behind it
  std::vector<std::uint64_t> particles{};  ///< ids of the particles observed, all different
  std::int64_t every = 1;              ///< only in turns whose number is a multiple of this, >= 1
  std::size_t chunk_bytes = 16 << 20;  ///< of coordinates and of moments; at least one turn is kept

  /// Called with each chunk, by the thread that called `track`. What it throws ends tracking with all particles
  /// at the same place.
  std::function<void(const observation_chunk&)> write{};
};

struct track_options {
  std::int64_t turns = 1;
  std::int64_t first_turn = 0;  ///< number of the first turn, in records and losses
  lattice::direction way = lattice::direction::forward;
  std::vector<std::uint8_t> recorded{};  ///< one flag per element: moments behind it; empty: none
  bool record_slices = false;
  bool record_start = false;  ///< also before the first element of the first turn
  unsigned threads = 0;       ///< 0: all processors that the process may use

  /// Acts on t behind every slice; see elements/longitudinal_boundary.h.
  elements::longitudinal_boundary boundary = elements::longitudinal_boundary::open;
  double bucket_length = 0;  ///< m

  bool spin = false;  ///< fields turn the spins, which the beam must have
  std::optional<elements::radiation_model> radiation{};  ///< synchrotron radiation, if any

  /// What the beam does to itself, in this order.
  std::vector<effect> collective{};

  /// Called while the whole beam stands still; only forward.
  std::vector<hook> hooks{};

  tracking::monitor monitor{};

  /// Called now and then (after at most about a quarter of a second of work per processor) with the part that is
  /// done, 0 ... 1. Return false to stop there: all particles are then at the same place.
  std::function<bool(double)> on_progress{};
};

struct track_result {
  std::vector<moment_record> records{};
  std::size_t lost = 0;  ///< particles lost in this call; see bunch::lost
  bool interrupted = false;
  std::int64_t turn = 0;    ///< where tracking ended: turns completed ...
  std::size_t element = 0;  ///< ... and elements of the next one
};

/// What all drivers ask of their options. Throw std::invalid_argument naming the value: turns must be >= `least`, and
/// `flags` (of "record", "monitor") empty or one per element of the line.
void check_turns(std::int64_t turns, std::int64_t least = 0);
void check_flags(const char* what, const std::vector<std::uint8_t>& flags, const lattice::line& l);

/// Tracks in place; bunch.ref moves along. Throws std::invalid_argument before anything is moved if an element
/// cannot be tracked or an option is out of range (turns < 0, flags of the wrong number, ...).
track_result track(const lattice::line& l, beam::bunch& b, const track_options& options);

}  // namespace betatron::tracking
