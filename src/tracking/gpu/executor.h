// gpu/executor.h: takes particles through a program on a CUDA device, one thread per particle.
//
// The counterpart of cpu/executor.h, in a library of its own (target betatron_cuda). Differences: no moments
// are taken on the way (a program with records is refused), and results agree with the CPU to rounding, not
// to the bit. It has been compiled but not run on a device; see interpreter.h for what has been tested.
#pragma once

#include <cstdint>
#include <vector>

#include "beam/bunch.h"
#include "lattice/program.h"

namespace betatron::tracking::gpu {

struct run_options {
  std::int64_t first_turn = 0;  ///< number of the first turn, in losses
  std::int64_t turns = 1;       ///< times that the program is repeated
};

/// Where the columns of particles are.
enum class memory { host, device };

/// CUDA devices that can be used; 0 if there is none or no driver.
int device_count();

/// Pushes all particles through all operations, `turns` times, in place, on the current device. The columns lie
/// in host memory, and are copied to the device and back, or in memory of the current device. Returns the
/// particles that were lost, ascending by index; they stay in their columns with the coordinates they had when
/// lost. Weights and ids are not read. Waits until all is done.
///
/// Throws std::invalid_argument if the program has records or observations, turns spins, or turns < 0, and
/// std::runtime_error, saying what
/// CUDA says, if there is no device or no memory; particles in host memory are then untouched. F is float or
/// double.
template <class F>
std::vector<beam::bunch::loss> run(const lattice::program& program,
                                   const beam::columns<F>& particles, const run_options& how,
                                   memory where = memory::host);

}  // namespace betatron::tracking::gpu
