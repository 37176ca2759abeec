// rewind_scale.h: what errors of a rewound beam are measured by.
//
// Rounding at the end of a line, where a beam may be large, comes back to its start, where it may
// be small. A gradient is as wrong as the coordinates that it is taken from, each on its own: so
// the error of each (rms over the particles) is measured by how far the beam reaches in it at the
// start, whatever a few distant particles do and wherever the beam is at the end. Only t counts at
// the end as well: it grows along any way without acting on anything, and where it does act, so
// that errors grow, they are in pt too. And pt may be as wrong as px and py: where dispersion is of
// the order of the beta functions, that moves particles as far. A beam with hardly any energy spread
// has its pt to the rounding of the energy, which is no harm to it.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <vector>

#include "beam/bunch.h"

namespace betatron::tracking {

/// How far particles are from their middle: the median, among those that are not in it, of evenly
/// spaced ones of them; where all are in one place (but for rounding), how far that is from 0. Not
/// finite ones do not count.
template <class F>
double reach_of(const F* z, std::size_t n) {
  constexpr std::size_t most = 512;  // good to a few percent
  const std::size_t count = std::min(n, most);
  std::vector<double> v;
  for (std::size_t i = 0; i < count; ++i) {
    const double x = static_cast<double>(z[i * n / count]);
    if (std::isfinite(x)) v.push_back(x);
  }
  const auto median = [&] {
    const auto middle = v.begin() + static_cast<std::ptrdiff_t>(v.size() / 2);
    std::nth_element(v.begin(), middle, v.end());
    return *middle;
  };
  if (v.empty()) return 0;
  const double middle = median();
  const double rounding = 1e3 * std::numeric_limits<F>::epsilon() * std::fabs(middle);
  for (double& x : v) x = std::fabs(x - middle);
  std::erase_if(v, [&](double x) { return x <= rounding; });
  return v.empty() ? std::fabs(middle) : median();
}

/// The scale of each coordinate, 0 if nothing tells it, for a beam that goes from `start` to `end`
/// on a way of this length. Coordinates that do not reach anywhere are measured by what others make
/// of them: places by their momenta and momenta by their places, over the length; or by the largest
/// of the other planes, at the start or at the end.
template <class F>
std::array<double, 6> rewind_scale(const std::array<const F*, 6>& start,
                                   const std::array<const F*, 6>& end, std::size_t n,
                                   double length) {
  std::array<double, 6> first, scale;
  for (std::size_t c = 0; c < 6; ++c) first[c] = reach_of(start[c], n);
  const auto at_start = [&](std::size_t c) { return first[c]; };
  const auto at_end = [&](std::size_t c) { return reach_of(end[c], n); };
  const auto largest = [](const auto& reach, std::size_t c) {
    return std::max({reach(c % 2), reach(2 + c % 2), reach(4 + c % 2)});
  };
  const double way = length > 0 ? length : 1;
  for (std::size_t c = 0; c < 6; ++c) {
    scale[c] = first[c];
    if (scale[c] == 0) scale[c] = c % 2 == 0 ? first[c + 1] * way : first[c - 1] / way;
    if (scale[c] == 0) scale[c] = largest(at_start, c);
    if (scale[c] == 0) scale[c] = largest(at_end, c);
  }
  scale[4] = std::max(scale[4], at_end(4));
  scale[5] = std::max({scale[5], first[1], first[3]});
  return scale;
}

/// The largest of errors over their scales, for sums of squares over n particles. Not finite if one
/// of them is not.
inline double relative_error(const std::array<double, 6>& squares, std::size_t n,
                             const std::array<double, 6>& scale) {
  double largest = 0;
  for (std::size_t c = 0; c < 6; ++c) {
    if (squares[c] == 0) continue;
    const double relative = std::sqrt(squares[c] / static_cast<double>(n)) / scale[c];
    if (!std::isfinite(relative)) return std::numeric_limits<double>::infinity();
    largest = std::max(largest, relative);
  }
  return largest;
}

}  // namespace betatron::tracking
