// chunks.h: work over all particles of a beam on several threads, cut in a way that does not depend on their number.
#pragma once

#include <algorithm>
#include <cstddef>

#include "numerics/parallel.h"

namespace betatron::collective {

/// Particles are cut into this many chunks at most, each of `smallest_chunk` or more.
inline constexpr std::size_t most_chunks = 64, smallest_chunk = 8192;

constexpr std::size_t chunk_count(std::size_t particles) {
  return std::clamp<std::size_t>(particles / smallest_chunk, 1, most_chunks);
}

/// Calls work(chunk, first, last) for every chunk of [0, particles), on at most `threads` threads. Exceptions are
/// passed on when all threads have ended.
template <class Work>
void for_chunks(std::size_t particles, unsigned threads, Work&& work) {
  const std::size_t chunks = chunk_count(particles);
  numerics::parallel_for(threads, chunks, [&](std::size_t c) {
    work(c, particles * c / chunks, particles * (c + 1) / chunks);
  });
}

}  // namespace betatron::collective
