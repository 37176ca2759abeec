// parallel.h: a loop on several threads, for results that do not depend on how many there are.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <exception>
#include <thread>
#include <vector>

namespace betatron::numerics {

/// work(memory, i) for all i < count, on at most `threads` threads, the calling one among them, each with a memory of its
/// own from make(). Which thread takes which i is not defined. What the first work that fails throws is passed on when
/// all have stopped.
template <class Make, class Work>
void parallel_for_with(unsigned threads, std::size_t count, Make&& make, Work&& work) {
  const std::size_t workers = std::min<std::size_t>(std::max(1u, threads), count);
  if (workers <= 1) {
    if (count == 0) return;
    auto memory = make();
    for (std::size_t i = 0; i < count; ++i) work(memory, i);
    return;
  }
  std::atomic<std::size_t> next{0};
  std::atomic<bool> failed{false};
  std::exception_ptr failure;
  const auto run = [&] {
    try {
      auto memory = make();
      for (std::size_t i = next++; i < count && !failed; i = next++) work(memory, i);
    } catch (...) {
      if (!failed.exchange(true)) failure = std::current_exception();
    }
  };
  std::vector<std::thread> pool;
  try {
    for (std::size_t k = 1; k < workers; ++k) pool.emplace_back(run);
  } catch (...) {
    // no more threads to be had: those that started, and this one, do it
  }
  run();
  for (std::thread& t : pool) t.join();
  if (failure) std::rethrow_exception(failure);
}

/// work(i), likewise.
template <class Work>
void parallel_for(unsigned threads, std::size_t count, Work&& work) {
  parallel_for_with(threads, count, [] { return 0; }, [&](int, std::size_t i) { work(i); });
}

/// work(begin, end) for ranges of particles that together are [0, n), of about equal size: as many as threads (0: one per
/// hardware thread), fewer where there is little to do.
template <class Work>
void parallel_ranges(unsigned threads, std::size_t n, Work&& work) {
  constexpr std::size_t worth_a_thread = 50'000;
  if (threads == 0) threads = std::max(1u, std::thread::hardware_concurrency());
  const std::size_t parts = std::clamp<std::size_t>(n / worth_a_thread, 1, threads);
  parallel_for(threads, parts,
               [&](std::size_t part) { work(n * part / parts, n * (part + 1) / parts); });
}

}  // namespace betatron::numerics
