// Compensated sums: against sums known exactly, in any order of magnitude, for any number of
// threads.
#include "numerics/reduction.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <span>
#include <stdexcept>
#include <thread>
#include <vector>

#include "numerics/random.h"

namespace {

using namespace betatron::numerics;

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();
constexpr double largest = std::numeric_limits<double>::max();

double accumulated(const std::vector<double>& x) {
  compensated_sum s;
  for (const double value : x) s.add(value);
  return s.value();
}

/// n numbers of all magnitudes between 1e-8 and 1e8 and both signs, followed by their negatives in
/// another order, so that the exact sum is 0.
std::vector<double> cancelling_numbers(std::size_t n) {
  std::vector<double> x(2 * n);
  for (std::size_t i = 0; i < n; ++i) {
    const random_pair u = uniform_pair(1, 0, i);
    x[i] = (u.first - 0.5) * std::pow(10.0, 16 * u.second - 8);
    x[2 * n - 1 - (i * 7919) % n] = -x[i];
  }
  return x;
}

bool same_bits(double a, double b) { return a == b || (std::isnan(a) && std::isnan(b)); }

}  // namespace

TEST_CASE("small terms survive beside huge ones that cancel") {
  CHECK(accumulated({1, 1e100, 1, -1e100}) == 2);
  CHECK(sum(std::vector<double>{1, 1e100, 1, -1e100}) == 2);
  CHECK(sum(std::array{1e100, 1.0, -1e100}) == 1);
  std::vector<double> x(5000, 1e-3);  // the huge ones in different blocks and lanes
  x[17] = 1e18;
  x[3333] = -1e18;
  CHECK(sum(x) == doctest::Approx(4.998).epsilon(1e-12));
  CHECK(accumulated(x) == doctest::Approx(4.998).epsilon(1e-12));
}

TEST_CASE("a sum that cancels exactly is zero") {
  const std::vector<double> x = cancelling_numbers(1009);
  double plain = 0;
  for (const double value : x) plain += value;
  CHECK(std::fabs(plain) > 1e-9);  // the test is not trivial
  // error bound: n^2 eps^2 sum |x| ~ 1e-16; in fact the errors are far smaller
  CHECK(std::fabs(sum(x)) < 1e-18);
  CHECK(std::fabs(accumulated(x)) < 1e-18);
}

TEST_CASE("a million tenths") {
  const std::vector<double> x(1'000'000, 0.1);
  CHECK(sum(x) == 1e5);
  const std::vector<float> y(1'000'000, 0.1f);
  CHECK(sum(y) == 1e6 * static_cast<double>(0.1f));  // added in double, not float
}

TEST_CASE("sums of every length are complete") {
  for (std::size_t n :
       {std::size_t{0}, std::size_t{1}, std::size_t{7}, std::size_t{8}, std::size_t{9},
        reduction_block - 1, reduction_block, reduction_block + 1, 3 * reduction_block + 13}) {
    CAPTURE(n);
    std::vector<double> x(n), ones(n, 1.0);
    for (std::size_t i = 0; i < n; ++i) x[i] = static_cast<double>(i + 1);
    const std::vector<float> low(x.begin(), x.end()), low_ones(n, 1.0f);
    const double expected = static_cast<double>(n * (n + 1) / 2);
    CHECK(sum(x) == expected);
    CHECK(sum(low) == expected);
    CHECK(dot(x, ones) == expected);
    CHECK(dot(low, low_ones) == expected);
    CHECK(sum(std::span<const double>(x)) == expected);
  }
}

TEST_CASE("dot products keep the rounding errors of the products") {
  // (1 + e)(1 - e) - 1 = -e^2, far below the rounding of the product
  const double e = 0x1p-40;
  CHECK(dot(std::array{1 + e, 1.0}, std::array{1 - e, -1.0}) == -e * e);
  // x . x - x . x with the halves in different blocks
  const std::vector<double> x = cancelling_numbers(2000);
  std::vector<double> both(x), other(x);
  both.insert(both.end(), x.begin(), x.end());
  for (std::size_t i = 0; i < x.size(); ++i) other.push_back(-x[i]);
  double plain = 0;
  for (std::size_t i = 0; i < both.size(); ++i) plain += both[i] * other[i];
  CHECK(std::fabs(plain) > 1e-3);
  CHECK(std::fabs(dot(both, other)) < 1e-12);
  // products of floats are exact in double
  const std::array a{16777215.0f, 16777215.0f}, b{16777213.0f, -16777211.0f};
  CHECK(dot(a, b) == 2 * 16777215.0);
}

TEST_CASE("products passed to the accumulator are rounded once, not fused into the sum") {
  // volatile: the factors are not known at compile time, and `rounded` has been through memory
  volatile double offset = 5, a = 1 + 0x1p-30, b = 1 - 0x1p-30;
  volatile double rounded = a * b;
  compensated_sum s;
  s.add(offset);
  s.add(a * b);
  s.add(-rounded);
  s.add(-offset);
  CHECK(s.value() == 0);  // fused: -2^-60
  const std::array terms{offset, a * b, -rounded, -offset};
  CHECK(sum(terms) == 0);
}

TEST_CASE("infinities and NaN come out as from a plain sum") {
  struct expectation {
    std::vector<double> terms;
    double result;
  };
  const expectation expectations[] = {
      {{1, infinity, 2}, infinity},         {{1, -infinity, 2}, -infinity},
      {{infinity, infinity}, infinity},     {{infinity, -infinity}, not_a_number},
      {{1, not_a_number, 2}, not_a_number}, {{infinity, not_a_number}, not_a_number},
      {{largest, largest}, infinity},       {{-largest, -largest, 1}, -infinity},
      {{largest, 1, -largest}, 1},          {{}, 0},
  };
  for (const expectation& e : expectations) {
    CAPTURE(e.result);
    CHECK(same_bits(accumulated(e.terms), e.result));
    CHECK(same_bits(sum(e.terms), e.result));
    CHECK(same_bits(dot(e.terms, std::vector<double>(e.terms.size(), 1.0)), e.result));
    std::vector<double> longer(5000, 0.5);  // in the middle of a long vector
    std::copy(e.terms.begin(), e.terms.end(), longer.begin() + 2000);
    if (!std::isfinite(e.result)) {
      CHECK(same_bits(sum(longer), e.result));
      CHECK(same_bits(accumulated(longer), e.result));
    }
    compensated_sum merged;  // merging keeps them too
    for (const double term : e.terms) {
      compensated_sum one;
      one.add(term);
      merged.add(one);
    }
    CHECK(same_bits(merged.value(), e.result));
  }
  CHECK(dot(std::array{1e200, 1.0}, std::array{1e200, 1.0}) == infinity);
  CHECK(std::isnan(dot(std::array{infinity, 1.0}, std::array{0.0, 1.0})));
  const float inf = std::numeric_limits<float>::infinity();
  CHECK(sum(std::array{1.0f, inf}) == infinity);
  CHECK(dot(std::array{3e38f, 1.0f}, std::array{3e38f, 1.0f}) < infinity);  // fits a double
}

TEST_CASE("blocks summed by any number of threads give the same bits") {
  constexpr std::size_t n = 20 * reduction_block + 77;
  std::vector<double> x(n), y(n);
  for (std::size_t i = 0; i < n; ++i) {
    x[i] = normal(1, 1, i) * std::pow(10.0, static_cast<double>(i % 30));
    y[i] = normal(1, 2, i);
  }
  const std::size_t count = reduction_block_count(n);
  for (const std::size_t threads : {1u, 2u, 3u, 7u}) {
    std::vector<compensated_sum> sums(count), dots(count);
    std::vector<std::thread> team;
    for (std::size_t t = 0; t < threads; ++t) {
      team.emplace_back([&, t] {
        for (std::size_t block = t; block < count; block += threads) {
          sums[block] = sum_block(x, block);
          dots[block] = dot_block(x, y, block);
        }
      });
    }
    for (std::thread& member : team) member.join();
    CHECK(merge(sums).value() == sum(x));
    CHECK(merge(dots).value() == dot(x, y));
  }
}

TEST_CASE("bad sizes are refused") {
  const std::vector<double> x(10), y(11);
  CHECK_THROWS_WITH_AS(dot(x, y), "dot: the ranges must have equal sizes, got 10 and 11",
                       std::invalid_argument);
  CHECK_THROWS_AS(dot_block(x, y, 0), std::invalid_argument);
  CHECK_THROWS_WITH_AS(sum_block(x, 1),
                       "reduction: there is no block 1 in 10 elements, which have 1 blocks of 1024",
                       std::out_of_range);
  CHECK_THROWS_AS(sum_block(std::vector<double>{}, 0), std::out_of_range);
}
