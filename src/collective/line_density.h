// line_density.h: how many particles a bunch has per length, and how that changes along it.
#pragma once

#include <cstddef>
#include <vector>

#include "beam/columns.h"

namespace betatron::collective {

/// Particles per metre of t at equally spaced points, linear in between and 0 outside. Its slope is the central
/// difference at the points and linear in between: the sum of all slopes, weighted by the density, is 0, so that the
/// bunch as a whole gets no momentum from a force proportional to it.
struct line_density {
  double first = 0, step = 0;  // m
  std::vector<double> value;   // 1/m; 0 at both ends
  std::vector<double> slope;   // 1/m^2

  struct local {
    double value, slope;
  };
  local at(double t) const {
    const double place = (t - first) / step;
    if (!(place >= 0) || place >= static_cast<double>(value.size() - 1)) return {0, 0};
    const auto i = static_cast<std::size_t>(place);
    const double part = place - static_cast<double>(i);
    return {value[i] + part * (value[i + 1] - value[i]),
            slope[i] + part * (slope[i + 1] - slope[i])};
  }
};

/// The line density of particles between t_min and t_max: `points` points there, each particle shared linearly by its
/// neighbours, and one (empty) point beyond on either side. The same bits for any number of threads. Throws
/// std::invalid_argument unless t_min < t_max and points >= 3.
line_density measure_line_density(const beam::columns<const float>& particles, double t_min,
                                  double t_max, std::size_t points, unsigned threads);
line_density measure_line_density(const beam::columns<const double>& particles, double t_min,
                                  double t_max, std::size_t points, unsigned threads);

}  // namespace betatron::collective
