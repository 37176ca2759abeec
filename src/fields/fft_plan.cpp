#include "fields/fft_plan.h"

#include <cmath>
#include <stdexcept>
#include <string>

#include "numerics/constants.h"

namespace betatron::fields {

namespace {

/// exp(-2 pi i k/n), accurate to rounding: the angle is reduced to the first octant by whole numbers.
std::complex<double> root(std::size_t k, std::size_t n) {
  k %= n;
  const std::size_t eighth = 8 * k / n;  // octant
  const auto angle = [n](std::size_t part) {
    return 2 * numerics::constants::pi * static_cast<double>(part) / static_cast<double>(n);
  };
  switch (eighth) {
    case 0:
      return {std::cos(angle(k)), -std::sin(angle(k))};
    case 1:
    case 2: {  // around a quarter: k = n/4 + d/4
      const double d = (4 * static_cast<double>(k) - static_cast<double>(n)) / 4;
      const double a = 2 * numerics::constants::pi * d / static_cast<double>(n);
      return {-std::sin(a), -std::cos(a)};
    }
    case 3:
    case 4: {
      const double d = (2 * static_cast<double>(k) - static_cast<double>(n)) / 2;
      const double a = 2 * numerics::constants::pi * d / static_cast<double>(n);
      return {-std::cos(a), std::sin(a)};
    }
    default: {
      const std::complex<double> mirrored = root(n - k, n);
      return std::conj(mirrored);
    }
  }
}

std::vector<int> factors(std::size_t n) {
  std::vector<int> r;
  std::size_t rest = n;
  const auto take = [&](int radix) {
    while (rest % static_cast<std::size_t>(radix) == 0) {
      r.push_back(radix);
      rest /= static_cast<std::size_t>(radix);
    }
  };
  take(5);
  take(3);
  // eights and fours, without a two where a pair of fours does instead of an eight and a two
  while (rest % 8 == 0 && rest != 16) {
    r.push_back(8);
    rest /= 8;
  }
  take(4);
  take(2);
  if (rest != 1) {
    throw std::invalid_argument("fft_plan: length " + std::to_string(n) +
                                " has prime factors other than 2, 3 and 5");
  }
  return r;
}

}  // namespace

std::size_t good_length(std::size_t n) {
  for (std::size_t m = n < 4 ? 4 : n + n % 2;; m += 2) {
    std::size_t rest = m;
    for (std::size_t p : {2u, 3u, 5u}) {
      while (rest % p == 0) rest /= p;
    }
    if (rest == 1) return m;
  }
}

template <class F>
fft_plan<F>::fft_plan(std::size_t length) : n(length), radices(factors(length)) {
  std::size_t block = n;
  for (int radix : radices) {
    const std::size_t r = static_cast<std::size_t>(radix), q = block / r;
    for (std::size_t j = 0; j < q; ++j) {
      for (std::size_t t = 1; t < r; ++t) {
        const std::complex<double> w = root(j * t, block);
        twiddles.push_back(static_cast<F>(w.real()));
        twiddles.push_back(static_cast<F>(w.imag()));
      }
    }
    block = q;
  }
  frequency.resize(n);
  position.resize(n);
  for (std::size_t k = 0; k < n; ++k) {
    std::size_t rest = k, at = 0, size = n;
    for (int radix : radices) {
      const std::size_t r = static_cast<std::size_t>(radix);
      size /= r;
      at += rest % r * size;
      rest /= r;
    }
    position[k] = static_cast<std::uint32_t>(at);
    frequency[at] = static_cast<std::uint32_t>(k);
  }
}

template <class F>
axis_plan<F>::axis_plan(std::size_t points)
    : n(points), m(good_length(points)), complex(m), half(m / 2) {
  for (std::size_t j = 0; j < m; ++j) {
    const std::complex<double> w = root(j, 2 * m);
    turn.push_back(static_cast<F>(w.real()));
    turn.push_back(static_cast<F>(w.imag()));
  }
  const auto position_of = [&](std::size_t f) {
    return complex.position[f / 2] + static_cast<std::uint32_t>(f % 2 * m);
  };
  for (std::size_t f = 0; f < m; f += 2) pairs.push_back(position_of(f));
  for (std::size_t f = 1; f < m; f += 2) pairs.push_back(position_of(f));
  for (std::size_t f = 0; f < m; f += 2) pairs.push_back(position_of(f == 0 ? m : 2 * m - f));
  for (std::size_t f = 1; f < m; f += 2) pairs.push_back(position_of(2 * m - f));
}

template struct fft_plan<float>;
template struct fft_plan<double>;
template struct axis_plan<float>;
template struct axis_plan<double>;

}  // namespace betatron::fields
