// executor.h: takes particles through a program on the threads and vector units of the CPU.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "beam/bunch.h"
#include "lattice/program.h"

namespace betatron::tracking {

/// A particle that is observed: its place in the columns, and in the buffer of observations.
struct observed_particle {
  std::size_t index, slot;
};

struct cpu_run {
  std::int64_t first_turn = 0;
  std::int64_t turns = 1;  ///< times that the program is repeated
  unsigned threads = 1;    ///< at most; fewer where there is little to do

  /// Which operations: those from `first`, which must be 0 or a refresh, up to `last`.
  std::size_t first = 0, last = std::numeric_limits<std::size_t>::max();

  std::int64_t record_every = 1;  ///< records are taken in turns whose number is a multiple of this
  std::int64_t observe_every = 1;  ///< and observations in multiples of this

  std::span<const observed_particle> observed{};  ///< ascending by index
  std::size_t slots = 0;                          ///< per observation

  /// Receives observations: [program.observations][coordinate][observed turn][slot]. What is not written (lost
  /// particles) keeps its value.
  double* observations = nullptr;
};

/// How many of the turns [first, first + turns) are multiples of `every` >= 1.
inline std::int64_t count_turns(std::int64_t first, std::int64_t turns, std::int64_t every) {
  const auto below = [every](std::int64_t n) {  // multiples in [0, n), negative if n < 0
    return n >= 0 ? (n + every - 1) / every : -(-n / every);
  };
  return below(first + turns) - below(first);
}

struct cpu_result {
  /// recorded turns x program.records.size() sums, by turn
  std::vector<beam::moment_sums> records;
  /// ascending by index; the particles are still in their columns, with the coordinates they had when lost
  std::vector<beam::bunch::loss> losses;
};

/// Pushes all particles through all operations, `turns` times, in place. The result has the same bits for any
/// number of threads. Throws std::invalid_argument where code for the whole beam is among the
/// operations. F is float or double.
template <class F>
cpu_result run(const lattice::program& program, const beam::columns<F>& particles,
               const cpu_run& how);

/// The instruction set in use: "v2", "v3", "v4" or "base".
const char* instruction_set();

/// Processors that this process may use.
unsigned available_threads();

}  // namespace betatron::tracking
