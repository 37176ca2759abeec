// accuracy.h: how far a result is from the exact one, for the tests of the numerics room.
#pragma once

#include <cmath>
#include <limits>

/// The spacing of numbers of type F at magnitude `scale`.
template <class F>
long double spacing(long double scale) {
  const long double smallest = std::numeric_limits<F>::min();
  const int exponent = std::ilogb(std::fmax(std::fabs(scale), smallest));
  return std::ldexp(static_cast<long double>(std::numeric_limits<F>::epsilon()), exponent);
}

/// |computed - exact| in units of the last place at magnitude `scale`; infinity if `computed` is NaN.
template <class F>
double ulps(F computed, long double exact, long double scale) {
  if (std::isnan(computed)) return std::numeric_limits<double>::infinity();
  const long double distance = std::fabs(static_cast<long double>(computed) - exact);
  return static_cast<double>(distance / spacing<F>(scale));
}

template <class F>
double ulps(F computed, long double exact) {
  return ulps(computed, exact, exact);
}
