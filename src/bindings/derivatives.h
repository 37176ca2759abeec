// derivatives.h: what reverse mode for particles and for moments take from Python.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "lattice/element.h"
#include "lattice/sensitivity.h"
#include "tracking/gradient.h"

namespace betatron::bindings {

using doubles = nanobind::ndarray<const double, nanobind::c_contig, nanobind::device::cpu>;

/// (element, parameter, entry of a list or -1)
using knob_tuple = std::tuple<std::shared_ptr<lattice::element>, std::string, int>;

inline std::vector<lattice::knob> knobs_from(const std::vector<knob_tuple>& given) {
  std::vector<lattice::knob> knobs;
  for (const auto& [of, parameter, entry] : given) knobs.push_back({of, parameter, entry});
  return knobs;
}

/// Derivatives by moments from arrays of shapes (r, 6), (r, 6, 6), (r,); r = 0 for none.
inline std::vector<tracking::moment_derivative> by_moments_of(const doubles& mean,
                                                              const doubles& cov,
                                                              const doubles& kinetic) {
  const std::size_t n = kinetic.size();
  if (mean.size() != 6 * n || cov.size() != 36 * n) {
    throw nanobind::value_error("derivatives by moments: shapes must be (r, 6), (r, 6, 6), (r,)");
  }
  std::vector<tracking::moment_derivative> r(n);
  for (std::size_t i = 0; i < n; ++i) {
    std::copy_n(mean.data() + 6 * i, 6, r[i].mean.begin());
    std::copy_n(cov.data() + 36 * i, 36, r[i].covariance.begin());
    r[i].kinetic = kinetic.data()[i];
  }
  return r;
}

}  // namespace betatron::bindings
