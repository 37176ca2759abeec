// parallel.h: filling the particles of a beam by several threads.
#pragma once

#include <algorithm>
#include <cstddef>
#include <thread>
#include <vector>

namespace betatron::beam {

/// Calls fill(begin, end) for ranges that together are [0, n), each by a thread of its own (0
/// threads: one per hardware thread; fewer where there is little to do).
template <class Function>
void fill_in_parallel(std::size_t n, unsigned threads, const Function& fill) {
  constexpr std::size_t worth_a_thread = 50'000;
  if (threads == 0) threads = std::max(1u, std::thread::hardware_concurrency());
  const std::size_t parts = std::clamp<std::size_t>(n / worth_a_thread, 1, threads);
  const auto edge = [&](std::size_t part) { return n / parts * part; };
  std::vector<std::jthread> pool;
  for (std::size_t part = 0; part + 1 < parts; ++part) {
    pool.emplace_back(fill, edge(part), edge(part + 1));
  }
  fill(edge(parts - 1), n);
}

}  // namespace betatron::beam
