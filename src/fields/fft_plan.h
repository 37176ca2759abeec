// fft_plan.h: lengths, factors and twiddle factors of the discrete Fourier transforms that fields are solved with.
//
// Transforms work in place on as many lines at once as a vector register holds. Forward they leave the frequencies in
// the order in which decimation makes them; backward they start from that order. A convolution multiplies in between
// and never needs them sorted.
//   n = r1 r2 ...,   k = k1 + r1 (k2 + r2 (...)),   position of k = k1 n/r1 + k2 n/(r1 r2) + ...
// Source: W. M. Gentleman, G. Sande, AFIPS Proc. 29 (1966) 563 (decimation in frequency).
#pragma once

#include <complex>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace betatron::fields {

/// The smallest even number >= n whose prime factors are 2, 3 and 5; at least 4.
std::size_t good_length(std::size_t n);

/// A transform of length n (factors 2, 3, 5 only).
template <class F>
struct fft_plan {
  std::size_t n = 0;
  std::vector<int> radices{};
  std::vector<F>
      twiddles{};  ///< for each stage, for each j < length/r, (re, im) of w^(j t), t = 1 ... r-1
  std::vector<std::uint32_t> frequency{};  ///< frequency[p]: at position p
  std::vector<std::uint32_t> position{};   ///< position[k]: of frequency k

  explicit fft_plan(std::size_t length);
  fft_plan() = default;
};

/// The convolution of n numbers with an even kernel, for one axis: as if padded with zeros to 2m >= 2n - 1, of which
/// none is transformed. The even frequencies of length 2m are a transform of length m; the odd ones are that of the
/// numbers times exp(-i pi j/m).
template <class F>
struct axis_plan {
  std::size_t n = 0, m = 0;
  fft_plan<F> complex{};  ///< length m
  fft_plan<F> half{};     ///< length m/2, for real numbers
  std::vector<F> turn{};  ///< (re, im) of exp(-i pi j/m), j < m

  /// Positions of the 2m frequencies, those of the odd ones m higher: first 0, 2, ... m - 2, 1, 3, ... m - 1, then their
  /// mirror images 2m - f, for which an even kernel has the same value; in place of that of 0, which is 0 itself, m.
  std::vector<std::uint32_t> pairs{};

  explicit axis_plan(std::size_t points);
  axis_plan() = default;
};

extern template struct fft_plan<float>;
extern template struct fft_plan<double>;
extern template struct axis_plan<float>;
extern template struct axis_plan<double>;

}  // namespace betatron::fields
