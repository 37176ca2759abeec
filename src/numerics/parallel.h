// parallel.h: a loop on several threads, for results that do not depend on how many there are.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <exception>
#include <thread>
#include <vector>

namespace betatron::numerics {

/// work(i) for all i < count, on at most `threads` threads, the calling one among them. Which thread takes which i
/// is not defined. What the first work that fails throws is passed on when all have stopped.
template <class Work>
void parallel_for(unsigned threads, std::size_t count, Work&& work) {
  const std::size_t workers = std::min<std::size_t>(std::max(1u, threads), count);
  if (workers <= 1) {
    for (std::size_t i = 0; i < count; ++i) work(i);
    return;
  }
  std::atomic<std::size_t> next{0};
  std::atomic<bool> failed{false};
  std::exception_ptr failure;
  const auto run = [&] {
    try {
      for (std::size_t i = next++; i < count && !failed; i = next++) work(i);
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

}  // namespace betatron::numerics
