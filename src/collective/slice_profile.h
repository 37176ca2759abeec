// slice_profile.h: how many particles a bunch has per length of t, and how that changes along it.
#pragma once

#include <cmath>
#include <string>
#include <vector>

#include "collective/line_density.h"
#include "numerics/constants.h"

namespace betatron::collective {

/// From a line density, whose shape is also that of the interpolation: the sum over particles of the slope that they see
/// is 0, so that a force proportional to it gives the bunch as a whole no momentum.
class slice_profile {
 public:
  /// Throws std::invalid_argument as grid_over.
  slice_profile(const beam::bunch& b, const line_options& o, const std::string& effect,
                unsigned threads)
      : grid_(grid_over(b, o, effect, threads)), shape_(o.shape) {
    value_ = deposit(b, grid_, o, false, threads).charge;
    const double particle =
        numerics::constants::elementary_charge * std::fabs(b.ref.particle.charge) * grid_.step;
    for (double& v : value_) v /= particle;
    slope_ = derivative(value_, 1);
    for (double& v : slope_) v /= grid_.step;
  }

  struct local {
    double value;  ///< particles per metre of t
    double slope;  ///< of that [1/m^2]
  };
  const line_grid& grid() const { return grid_; }
  const std::vector<double>& values() const { return value_; }  ///< at the nodes
  const std::vector<double>& slopes() const { return slope_; }

  local at(double t) const {
    return shape_ == shape::linear ? at<shape::linear>(t) : at<shape::quadratic>(t);
  }

 private:
  template <shape S>
  local at(double t) const {
    const line_weights w = weights_at<S>(grid_, t);
    return {interpolate<S>(w, value_.data()), interpolate<S>(w, slope_.data())};
  }

  line_grid grid_;
  shape shape_;
  std::vector<double> value_{}, slope_{};
};

}  // namespace betatron::collective
