// noise.h: the random numbers of radiation, the same wherever and whenever they are drawn.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "elements/radiation.h"
#include "numerics/random.h"

namespace betatron::tracking {

namespace detail {

/// A bijection that leaves nothing of the order of its arguments (the finaliser of SplitMix64: G. L. Steele, D. Lea
/// and C. H. Flood, OOPSLA 2014).
inline std::uint64_t scrambled(std::uint64_t x) {
  x += 0x9E3779B97F4A7C15u;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

}  // namespace detail

/// The fluctuations of one step (an elements::radiation_loss with these coefficients) of `count` particles: a particle's
/// depend on the seed, its id, the turn, the element, and the place of the step in it. Without fluctuations `noise` stays as
/// it is.
template <class F>
void draw_noise(const F* coefficients, std::uint64_t seed, std::int64_t turn, std::int32_t element,
                const std::uint64_t* id, std::size_t count, F* noise) {
  elements::radiation_loss<F> step;
  std::memcpy(&step, coefficients, sizeof step);
  if (step.quantum == F(0)) return;
  const auto place = static_cast<std::uint64_t>(static_cast<std::uint32_t>(element)) << 32 |
                     static_cast<std::uint64_t>(step.number);
  const std::uint64_t stream =
      detail::scrambled(detail::scrambled(place) + static_cast<std::uint64_t>(turn));
  for (std::size_t i = 0; i < count; ++i) {
    noise[i] = static_cast<F>(numerics::normal(seed, stream, id[i]));
  }
}

}  // namespace betatron::tracking
