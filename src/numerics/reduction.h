// reduction.h: sums over particles that do not depend on who adds them up.
//
// compensated_sum carries the rounding errors of its additions along (A. Neumaier, Z. angew. Math.
// Mech. 54, 1974; T. Ogita, S. M. Rump and S. Oishi, SIAM J. Sci. Comput. 26, 2005): the result is
// as accurate as if computed in twice double precision and then rounded,
//
//     |error| <= eps |sum| + O(n^2 eps^2) sum |x_i|,       eps = 2^-53.
//
// sum and dot cut their input into blocks of `reduction_block` elements, which do not depend on
// anything but the index of an element, and merge the blocks in order. A parallel caller computes
// sum_block and dot_block on whatever threads it likes and merges in the same order: the same bits
// for any number of threads, and for any instruction set.
//
// Infinities and NaN come out as from the plain sum: inf + 1 is inf, inf - inf is NaN, and a sum
// that leaves the range of double is infinite. (The compensation alone would turn each into NaN.)
//
// The compiler must not rearrange this arithmetic. -ffast-math is never used; -ffp-contract=fast
// is, and could fuse the product that made a number into the additions, so that the error terms no
// longer fit. Numbers are therefore stored before they are added; what is left has no products to
// fuse.
#pragma once

#include <cmath>
#include <cstddef>
#include <limits>
#include <span>

namespace betatron::numerics {

/// Elements of a block of sum and dot: fits the first-level cache, and is long enough that merging
/// is free.
inline constexpr std::size_t reduction_block = 1024;

/// Number of blocks of n elements; the last may be shorter.
constexpr std::size_t reduction_block_count(std::size_t n) {
  return n / reduction_block + (n % reduction_block != 0);
}

namespace detail {

/// sum + x with the rounding error of the addition (and `error` of x itself) added to `errors`. The
/// two-sum of D. E. Knuth gives that error exactly, whichever of sum and x is larger.
inline __attribute__((always_inline)) void add_with_error(double& sum, double& errors, double x,
                                                          double error) {
  const double total = sum + x;
  const double part = total - sum;
  errors += ((sum - (total - part)) + (x - part)) + error;
  sum = total;
}

}  // namespace detail

/// A running sum with its rounding errors.
class compensated_sum {
 public:
  compensated_sum() = default;
  /// sum + error, where |error| is of the order of the rounding of sum.
  inline __attribute__((always_inline)) compensated_sum(double sum, double error)
      : sum_(sum), error_(error) {}

  /// Adds a number.
  inline __attribute__((always_inline)) void add(double x) {
    asm("" : "+m"(x));  // stored and read back: see the top of this file
    detail::add_with_error(sum_, error_, x, 0);
  }

  /// Adds what another sum has collected.
  inline __attribute__((always_inline)) void add(const compensated_sum& other) {
    detail::add_with_error(sum_, error_, other.sum_, other.error_);
  }

  /// The sum so far, rounded to double.
  inline __attribute__((always_inline)) double value() const {
    // sum_ is the plain sum; error_ is NaN once sum_ has become infinite
    return std::fabs(sum_) <= std::numeric_limits<double>::max() ? sum_ + error_ : sum_;
  }

 private:
  double sum_ = 0, error_ = 0;
};

/// The sum of the elements of one block: x[block * reduction_block] and on. Throws
/// std::out_of_range.
compensated_sum sum_block(std::span<const double> x, std::size_t block);
compensated_sum sum_block(std::span<const float> x, std::size_t block);

/// The sum of x_i y_i over one block. Throws std::out_of_range, std::invalid_argument if the sizes
/// differ.
compensated_sum dot_block(std::span<const double> x, std::span<const double> y, std::size_t block);
compensated_sum dot_block(std::span<const float> x, std::span<const float> y, std::size_t block);

/// Sums of blocks, merged in order.
compensated_sum merge(std::span<const compensated_sum> blocks);

/// The sum of all elements; 0 for none. Equal to merging sum_block of every block, bit by bit.
double sum(std::span<const double> x);
double sum(std::span<const float> x);

/// The sum of x_i y_i, as accurate where the products are not representable (underflow excepted).
/// Equal to merging dot_block of every block, bit by bit. Throws std::invalid_argument if the sizes
/// differ.
double dot(std::span<const double> x, std::span<const double> y);
double dot(std::span<const float> x, std::span<const float> y);

}  // namespace betatron::numerics
