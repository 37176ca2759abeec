// random.h: random numbers as a function of where they are used.
//
// A number is not the next of a sequence but a pure function of (seed, stream, index): particle
// `index` gets the same number whichever thread, instruction set or device asks for it, in whatever
// order. There is no state to save, to copy to a device or to share between threads.
//
// seed    the user's: one per simulation
// stream  one per purpose and occasion (initial x and px; radiation in the 7th dipole on turn 12)
// index   one per particle (its id)
//
// Every triple names one block of 128 random bits: two uniform or two normal numbers. Two draws
// from the same triple are the same number: what must be independent has to differ in the stream or
// the index.
//
// The generator is Philox4x32-10 (J. K. Salmon, M. A. Moraes, R. O. Dror and D. E. Shaw, Parallel
// random numbers: as easy as 1, 2, 3, SC11, 2011). The key is the seed, the counter is (index,
// stream).
#pragma once

#include <cmath>
#include <cstdint>

#include "numerics/hd.h"

namespace betatron::numerics {

/// 128 bits: what Philox takes as counter and gives back.
struct random_block {
  std::uint32_t word[4];
  friend constexpr bool operator==(const random_block&, const random_block&) = default;
};

/// Two independent numbers from one block.
struct random_pair {
  double first, second;
};

/// Ten rounds of Philox4x32 with the key (key0, key1).
BETATRON_INLINE constexpr random_block philox4x32(random_block counter, std::uint32_t key0,
                                                  std::uint32_t key1) {
  constexpr std::uint64_t multiplier0 = 0xD2511F53u, multiplier1 = 0xCD9E8D57u;
  constexpr std::uint32_t weyl0 = 0x9E3779B9u, weyl1 = 0xBB67AE85u;  // golden ratio, sqrt(3) - 1
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = multiplier0 * counter.word[0];
    const std::uint64_t p1 = multiplier1 * counter.word[2];
    counter = {{static_cast<std::uint32_t>(p1 >> 32) ^ counter.word[1] ^ key0,
                static_cast<std::uint32_t>(p1),
                static_cast<std::uint32_t>(p0 >> 32) ^ counter.word[3] ^ key1,
                static_cast<std::uint32_t>(p0)}};
    key0 += weyl0;
    key1 += weyl1;
  }
  return counter;
}

/// The 128 bits of (seed, stream, index). All 2^64 values of each are allowed.
BETATRON_INLINE constexpr random_block random_bits(std::uint64_t seed, std::uint64_t stream,
                                                   std::uint64_t index) {
  const random_block counter = {
      {static_cast<std::uint32_t>(index), static_cast<std::uint32_t>(index >> 32),
       static_cast<std::uint32_t>(stream), static_cast<std::uint32_t>(stream >> 32)}};
  return philox4x32(counter, static_cast<std::uint32_t>(seed),
                    static_cast<std::uint32_t>(seed >> 32));
}

/// The upper 53 of 64 random bits as a number strictly between 0 and 1: k 2^-53 for k = 1 ... 2^53
/// - 1, and 2^-54 in the place of k = 0. All 2^53 values are equally likely; the largest is 1 -
/// 2^-53.
BETATRON_INLINE constexpr double to_open_unit_interval(std::uint64_t bits) {
  const std::uint64_t k = bits >> 11;
  return k == 0 ? 0x1p-54 : static_cast<double>(k) * 0x1p-53;
}

/// Two independent numbers, uniform in the open interval (0, 1), 53 bits each.
BETATRON_INLINE constexpr random_pair uniform_pair(std::uint64_t seed, std::uint64_t stream,
                                                   std::uint64_t index) {
  const random_block b = random_bits(seed, stream, index);
  return {to_open_unit_interval(std::uint64_t{b.word[1]} << 32 | b.word[0]),
          to_open_unit_interval(std::uint64_t{b.word[3]} << 32 | b.word[2])};
}

/// The first of uniform_pair.
BETATRON_INLINE constexpr double uniform(std::uint64_t seed, std::uint64_t stream,
                                         std::uint64_t index) {
  return uniform_pair(seed, stream, index).first;
}

/// Two independent normal numbers of mean 0 and variance 1 (G. E. P. Box and M. E. Muller, Ann.
/// Math. Stat. 29, 1958), at most 8.66 in magnitude. The bits behind them are the same everywhere;
/// the last place of log, sin and cos is the mathematics library's.
BETATRON_INLINE random_pair normal_pair(std::uint64_t seed, std::uint64_t stream,
                                        std::uint64_t index) {
  const random_pair u = uniform_pair(seed, stream, index);
  const double radius = std::sqrt(-2 * std::log(u.first));
  const double angle = 6.283185307179586477 * u.second;
  return {radius * std::cos(angle), radius * std::sin(angle)};
}

/// The first of normal_pair.
BETATRON_INLINE double normal(std::uint64_t seed, std::uint64_t stream, std::uint64_t index) {
  return normal_pair(seed, stream, index).first;
}

}  // namespace betatron::numerics
