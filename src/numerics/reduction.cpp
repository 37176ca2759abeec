// reduction.cpp: the loops behind sum and dot.
#include "numerics/reduction.h"

#include <stdexcept>
#include <string>

namespace betatron::numerics {
namespace {

/// Independent chains of additions, enough to keep the adders of current processors busy. It
/// decides the order of summation and is therefore the same for every instruction set.
constexpr std::size_t lanes = 8;

/// Makes the compiler store what x points to and read it back, whatever it knows of it.
inline void keep_stored(const void* x) { asm volatile("" : : "r"(x) : "memory"); }

/// The sum of term(i, rest) and its rounding error `rest` over i = 0 ... n - 1: element i goes to
/// lane i mod `lanes`, then the lanes are merged in order.
template <class Term>
compensated_sum sum_in_lanes(std::size_t n, Term term) {
  double sum[lanes] = {}, error[lanes] = {};
  const auto add = [&](std::size_t i, std::size_t lane) {
    double rest = 0;
    const double x = term(i, rest);
    detail::add_with_error(sum[lane], error[lane], x, rest);
  };
  const std::size_t whole = n - n % lanes;
  for (std::size_t i = 0; i < whole; i += lanes) {
    for (std::size_t lane = 0; lane < lanes; ++lane) add(i + lane, lane);
  }
  for (std::size_t i = whole; i < n; ++i) add(i, i - whole);

  compensated_sum total;
  for (std::size_t lane = 0; lane < lanes; ++lane) {
    total.add(compensated_sum(sum[lane], error[lane]));
  }
  return total;
}

template <class F>
compensated_sum sum_of(const F* x, std::size_t n) {
  keep_stored(x);
  return sum_in_lanes(n, [x](std::size_t i, double&) { return static_cast<double>(x[i]); });
}

/// n <= reduction_block
compensated_sum dot_of(const double* x, const double* y, std::size_t n) {
  double product[reduction_block];
  for (std::size_t i = 0; i < n; ++i) product[i] = x[i] * y[i];
  keep_stored(product);
  const double* p = product;
  return sum_in_lanes(n, [x, y, p](std::size_t i, double& rest) {
    rest = std::fma(x[i], y[i], -p[i]);  // what the product lost
    return p[i];
  });
}

compensated_sum dot_of(const float* x, const float* y, std::size_t n) {
  // the double product of floats is exact: fused or not, the result is the same
  return sum_in_lanes(n, [x, y](std::size_t i, double&) {
    return static_cast<double>(x[i]) * static_cast<double>(y[i]);
  });
}

std::size_t size_of_block(std::size_t n, std::size_t block) {
  const std::size_t count = reduction_block_count(n);
  if (block >= count) {
    throw std::out_of_range("reduction: there is no block " + std::to_string(block) + " in " +
                            std::to_string(n) + " elements, which have " + std::to_string(count) +
                            " blocks of " + std::to_string(reduction_block));
  }
  return block + 1 < count ? reduction_block : n - block * reduction_block;
}

void require_equal_sizes(std::size_t x, std::size_t y) {
  if (x != y) {
    throw std::invalid_argument("dot: the ranges must have equal sizes, got " + std::to_string(x) +
                                " and " + std::to_string(y));
  }
}

template <class F>
compensated_sum sum_block_of(std::span<const F> x, std::size_t block) {
  const std::size_t n = size_of_block(x.size(), block);
  return sum_of(x.data() + block * reduction_block, n);
}

template <class F>
compensated_sum dot_block_of(std::span<const F> x, std::span<const F> y, std::size_t block) {
  require_equal_sizes(x.size(), y.size());
  const std::size_t n = size_of_block(x.size(), block);
  const std::size_t begin = block * reduction_block;
  return dot_of(x.data() + begin, y.data() + begin, n);
}

/// The merged results of block(0) ... block(count - 1)
template <class Block>
double merged(std::size_t count, Block block) {
  compensated_sum total;
  for (std::size_t i = 0; i < count; ++i) total.add(block(i));
  return total.value();
}

template <class F>
double sum_all(std::span<const F> x) {
  return merged(reduction_block_count(x.size()), [x](std::size_t i) { return sum_block_of(x, i); });
}

template <class F>
double dot_all(std::span<const F> x, std::span<const F> y) {
  require_equal_sizes(x.size(), y.size());
  return merged(reduction_block_count(x.size()),
                [x, y](std::size_t i) { return dot_block_of(x, y, i); });
}

}  // namespace

compensated_sum sum_block(std::span<const double> x, std::size_t block) {
  return sum_block_of(x, block);
}
compensated_sum sum_block(std::span<const float> x, std::size_t block) {
  return sum_block_of(x, block);
}

compensated_sum dot_block(std::span<const double> x, std::span<const double> y, std::size_t block) {
  return dot_block_of(x, y, block);
}
compensated_sum dot_block(std::span<const float> x, std::span<const float> y, std::size_t block) {
  return dot_block_of(x, y, block);
}

compensated_sum merge(std::span<const compensated_sum> blocks) {
  compensated_sum total;
  for (const compensated_sum& block : blocks) total.add(block);
  return total;
}

double sum(std::span<const double> x) { return sum_all(x); }
double sum(std::span<const float> x) { return sum_all(x); }

double dot(std::span<const double> x, std::span<const double> y) { return dot_all(x, y); }
double dot(std::span<const float> x, std::span<const float> y) { return dot_all(x, y); }

}  // namespace betatron::numerics
