// pipe_shape.h: the cross-section of a conducting pipe around the beam, for models of space charge.
#pragma once

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "beam/bunch.h"
#include "beam/text.h"
#include "numerics/parallel.h"

namespace betatron::collective {

struct pipe_shape {
  bool round = false;
  double half_width = 0, half_height = 0;  ///< [m], > 0; round: both are the radius
};

/// Throws std::invalid_argument naming the value, with the name of the model in front.
inline void check(const pipe_shape& p, const std::string& model) {
  const auto positive = [&](const char* name, double value) {
    if (value > 0 && std::isfinite(value)) return;
    throw std::invalid_argument(model + ": " + name + " of the pipe = " + beam::number_text(value) +
                                " m is not allowed; allowed: > 0 and finite");
  };
  positive(p.round ? "radius" : "half_width", p.half_width);
  positive(p.round ? "radius" : "half_height", p.half_height);
}

/// The largest distance of a particle from the axis.
inline double largest_radius(const beam::bunch& b, unsigned threads) {
  constexpr std::size_t chunk = 1 << 16;
  std::vector<double> largest((b.size() + chunk - 1) / chunk);
  b.visit([&]<class F>(const beam::columns<const F>& c) {
    numerics::parallel_for(threads, largest.size(), [&](std::size_t part) {
      double square = 0;
      for (std::size_t k = part * chunk; k < std::min(c.size, (part + 1) * chunk); ++k) {
        const double x = static_cast<double>(c.z[0][k]), y = static_cast<double>(c.z[2][k]);
        square = std::max(square, x * x + y * y);
      }
      largest[part] = square;
    });
  });
  return largest.empty() ? 0 : std::sqrt(*std::ranges::max_element(largest));
}

/// Particles beyond the wall, in their order.
inline std::vector<std::size_t> outside(const pipe_shape& p, const beam::bunch& b,
                                        unsigned threads) {
  constexpr std::size_t chunk = 1 << 16;
  std::vector<std::vector<std::size_t>> found((b.size() + chunk - 1) / chunk);
  b.visit([&]<class F>(const beam::columns<const F>& c) {
    numerics::parallel_for(threads, found.size(), [&](std::size_t part) {
      for (std::size_t k = part * chunk; k < std::min(c.size, (part + 1) * chunk); ++k) {
        const double x = static_cast<double>(c.z[0][k]), y = static_cast<double>(c.z[2][k]);
        const bool beyond = p.round ? std::sqrt(x * x + y * y) > p.half_width
                                    : std::fabs(x) > p.half_width || std::fabs(y) > p.half_height;
        if (beyond) found[part].push_back(k);
      }
    });
  });
  std::vector<std::size_t> all;
  for (const auto& part : found) all.insert(all.end(), part.begin(), part.end());
  return all;
}

/// Throws std::invalid_argument naming the place of a particle beyond the wall, if there is one.
inline void check_inside(const pipe_shape& p, const std::string& model, const beam::bunch& b,
                         unsigned threads) {
  const std::vector<std::size_t> beyond = outside(p, b, threads);
  if (beyond.empty()) return;
  const auto [x, y] = b.visit([&](const auto& c) {
    return std::pair(static_cast<double>(c.z[0][beyond[0]]),
                     static_cast<double>(c.z[2][beyond[0]]));
  });
  const auto refuse = [&](const std::string& where, double value, double wall) {
    throw std::invalid_argument(model + ": a particle at " + where + " = " +
                                beam::number_text(value) +
                                " m is outside of the conducting pipe, which ends at " +
                                beam::number_text(wall) + " m; allowed: beams within the pipe");
  };
  if (p.round) refuse("a radius", std::sqrt(x * x + y * y), p.half_width);
  if (std::fabs(x) > p.half_width) refuse("x", x, std::copysign(p.half_width, x));
  refuse("y", y, std::copysign(p.half_height, y));
}

}  // namespace betatron::collective
