// executor.h: takes particles through a program on the threads and vector units of the CPU.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "beam/bunch.h"
#include "lattice/program.h"

namespace betatron::tracking {

struct cpu_run {
  std::int64_t first_turn = 0;
  std::int64_t turns = 1;  ///< times that the program is repeated
  unsigned threads = 1;    ///< at most; fewer where there is little to do
};

struct cpu_result {
  /// turns x program.records.size() sums, by turn
  std::vector<beam::moment_sums> records;
  /// ascending by index; the particles are still in their columns, with the coordinates they had when lost
  std::vector<beam::bunch::loss> losses;
};

/// Pushes all particles through all operations, `turns` times, in place. The result has the same bits for any
/// number of threads. F is float or double.
template <class F>
cpu_result run(const lattice::program& program, const beam::columns<F>& particles,
               const cpu_run& how);

/// The instruction set in use: "v2", "v3", "v4" or "base".
const char* instruction_set();

/// Processors that this process may use.
unsigned available_threads();

}  // namespace betatron::tracking
