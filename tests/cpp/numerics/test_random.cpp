// Counter-based random numbers: the published answers, the distributions, and their independence.
#include "numerics/random.h"

#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <thread>
#include <vector>

namespace {

using namespace betatron::numerics;

constexpr int samples = 200'000;

/// Pearson's chi^2 of counts that should all be equal, as a number of standard deviations.
template <class Counts>
double excess_chi2(const Counts& counts) {
  double total = 0;
  for (const int n : counts) total += n;
  const double expected = total / static_cast<double>(counts.size());
  double chi2 = 0;
  for (const int n : counts) chi2 += (n - expected) * (n - expected) / expected;
  const double freedom = static_cast<double>(counts.size()) - 1;
  return (chi2 - freedom) / std::sqrt(2 * freedom);
}

/// sum of f over the sample divided by sqrt(n): of unit variance if f has mean 0 and variance 1.
template <class F>
double standardised_mean(F f) {
  double sum = 0;
  for (int i = 0; i < samples; ++i) sum += f(static_cast<std::uint64_t>(i));
  return sum / std::sqrt(static_cast<double>(samples));
}

}  // namespace

TEST_CASE("Philox4x32-10 gives the known answers of Random123") {
  // kat_vectors of the Random123 distribution, D. E. Shaw Research
  static_assert(philox4x32({{0, 0, 0, 0}}, 0, 0) ==
                random_block{{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}});
  static_assert(
      philox4x32({{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}}, 0xffffffff, 0xffffffff) ==
      random_block{{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}});
  static_assert(
      philox4x32({{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}}, 0xa4093822, 0x299f31d0) ==
      random_block{{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}});
  // the third vector again at run time, through (seed, stream, index)
  volatile std::uint64_t seed = 0x299f31d0a4093822, stream = 0x0370734413198a2e,
                         index = 0x85a308d3243f6a88;
  CHECK(random_bits(seed, stream, index) ==
        random_block{{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}});
}

TEST_CASE("uniform numbers lie strictly inside the unit interval, with 53 bits") {
  constexpr std::uint64_t all = std::numeric_limits<std::uint64_t>::max();
  static_assert(to_open_unit_interval(0) == 0x1p-54);
  static_assert(to_open_unit_interval(2047) == 0x1p-54);
  static_assert(to_open_unit_interval(2048) == 0x1p-53);
  static_assert(to_open_unit_interval(all) == 1 - 0x1p-53);
  static_assert(to_open_unit_interval(std::uint64_t{1} << 63) == 0.5);
  std::uint64_t seen = 0;  // every one of the 53 bits is sometimes set, sometimes clear
  std::uint64_t always = all;
  for (std::uint64_t i = 0; i < 1000; ++i) {
    const auto k = static_cast<std::uint64_t>(uniform(7, 0, i) * 0x1p53);
    seen |= k;
    always &= k;
  }
  CHECK(seen == (std::uint64_t{1} << 53) - 1);
  CHECK(always == 0);
}

TEST_CASE("uniform numbers are uniform, one by one and in pairs") {
  std::array<int, 1000> first{}, second{}, joint{};
  for (std::uint64_t i = 0; i < samples; ++i) {
    const random_pair u = uniform_pair(1, 2, i);
    ++first[static_cast<std::size_t>(u.first * 1000)];
    ++second[static_cast<std::size_t>(u.second * 1000)];
    ++joint[static_cast<std::size_t>(u.first * 25) * 40 + static_cast<std::size_t>(u.second * 40)];
  }
  CHECK(std::fabs(excess_chi2(first)) < 4);
  CHECK(std::fabs(excess_chi2(second)) < 4);
  CHECK(std::fabs(excess_chi2(joint)) < 4);
}

TEST_CASE("normal numbers have the moments and the tails of the normal distribution") {
  for (const bool second : {false, true}) {
    CAPTURE(second);
    const auto z = [second](std::uint64_t i) {
      const random_pair n = normal_pair(3, 4, i);
      return second ? n.second : n.first;
    };
    // Hermite polynomials: mean 0, variance k!, each independent of the others
    CHECK(std::fabs(standardised_mean(z)) < 4);
    CHECK(std::fabs(standardised_mean([&](auto i) { return (z(i) * z(i) - 1) / std::sqrt(2.0); })) <
          4);
    CHECK(std::fabs(standardised_mean(
              [&](auto i) { return (std::pow(z(i), 3) - 3 * z(i)) / std::sqrt(6.0); })) < 4);
    CHECK(std::fabs(standardised_mean([&](auto i) {
            return (std::pow(z(i), 4) - 6 * z(i) * z(i) + 3) / std::sqrt(24.0);
          })) < 4);
    std::array<int, 500> counts{};  // equal probabilities by the cumulative distribution
    for (std::uint64_t i = 0; i < samples; ++i) {
      ++counts[static_cast<std::size_t>(500 * (0.5 * std::erfc(-z(i) / std::sqrt(2.0))))];
    }
    CHECK(std::fabs(excess_chi2(counts)) < 4);
  }
  // the two of a pair are uncorrelated, and so are their squares
  CHECK(std::fabs(standardised_mean([](auto i) {
          const random_pair n = normal_pair(3, 4, i);
          return n.first * n.second;
        })) < 4);
  CHECK(std::fabs(standardised_mean([](auto i) {
          const random_pair n = normal_pair(3, 4, i);
          return (n.first * n.first - 1) * (n.second * n.second - 1) / 2;
        })) < 4);
}

TEST_CASE("normal numbers are finite at the ends of the unit interval") {
  const double largest = std::sqrt(-2 * std::log(to_open_unit_interval(0)));
  CHECK(largest > 8.65);
  CHECK(largest < 8.66);
  CHECK(std::sqrt(-2 * std::log(to_open_unit_interval(~std::uint64_t{0}))) > 0);
}

TEST_CASE("neighbouring seeds, streams and indices are independent") {
  struct neighbour {
    std::uint64_t seed, stream, index;
  };
  const std::uint64_t high = std::uint64_t{1} << 32;  // the upper words count
  for (const neighbour step : {neighbour{1, 0, 0},
                               {0, 1, 0},
                               {0, 0, 1},
                               {high, 0, 0},
                               {0, high, 0},
                               {0, 0, high},
                               {1, 1, 1}}) {
    CAPTURE(step.seed);
    CAPTURE(step.stream);
    CAPTURE(step.index);
    const double correlation = standardised_mean([&](std::uint64_t i) {
      return normal(10, 20, i) * normal(10 + step.seed, 20 + step.stream, i + step.index);
    });
    CHECK(std::fabs(correlation) < 4);
    std::array<int, 400> joint{};
    int equal = 0;
    for (std::uint64_t i = 0; i < samples; ++i) {
      const double u = uniform(10, 20, i);
      const double w = uniform(10 + step.seed, 20 + step.stream, i + step.index);
      equal += u == w;
      ++joint[static_cast<std::size_t>(u * 20) * 20 + static_cast<std::size_t>(w * 20)];
    }
    CHECK(equal == 0);
    CHECK(std::fabs(excess_chi2(joint)) < 4);
  }
}

TEST_CASE("numbers do not depend on the number of threads or on the order") {
  constexpr std::size_t n = 10'007;
  std::vector<double> expected(n);
  for (std::size_t i = n; i-- > 0;) expected[i] = normal(5, 6, i);
  for (const std::size_t threads : {1u, 2u, 3u, 8u}) {
    std::vector<double> result(n);
    std::vector<std::thread> team;
    for (std::size_t t = 0; t < threads; ++t) {
      team.emplace_back([&, t] {
        for (std::size_t i = n * t / threads; i < n * (t + 1) / threads; ++i) {
          result[i] = normal(5, 6, i);
        }
      });
    }
    for (std::thread& member : team) member.join();
    CHECK(result == expected);
  }
}
