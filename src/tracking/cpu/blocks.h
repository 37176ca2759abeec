// blocks.h: how particles are cut up for the threads of the CPU.
#pragma once

#include <algorithm>
#include <cstddef>

#include "numerics/parallel.h"
#include "tracking/cpu/kernel_table.h"

namespace betatron::tracking {

/// Particles are handed to threads in at most this many blocks of tiles. The number is fixed, because sums are formed
/// per block and added in the order of blocks: that makes them independent of the number of threads.
inline constexpr std::size_t max_blocks = 64;

/// Particle-operations that are worth a thread (about 0.2 ms).
inline constexpr double work_per_thread = 2e5;

constexpr std::size_t tile_count(std::size_t particles) {
  return (particles + tile_size - 1) / tile_size;
}

constexpr std::size_t block_count(std::size_t particles) {
  return std::min(tile_count(particles), max_blocks);
}

/// work(memory, block, first, last) for the particles [first, last) of each block, on at most `threads` threads, each
/// with a memory of its own from make(). `operations`: of each particle.
template <class Make, class Work>
void for_blocks(std::size_t particles, double operations, unsigned threads, Make&& make,
                Work&& work) {
  const std::size_t tiles = tile_count(particles), blocks = block_count(particles);
  const auto worth = static_cast<std::size_t>(
      std::max(1.0, static_cast<double>(particles) * operations / work_per_thread));
  const auto used = static_cast<unsigned>(std::min<std::size_t>(threads, worth));
  numerics::parallel_for_with(used, blocks, make, [&](auto& memory, std::size_t b) {
    work(memory, b, tiles * b / blocks * tile_size,
         std::min(particles, tiles * (b + 1) / blocks * tile_size));
  });
}

}  // namespace betatron::tracking
