// record_pull.h: what a loss's dependence on the moments at a record means for each particle there.
#pragma once

#include <algorithm>
#include <array>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "tracking/gradient.h"

namespace betatron::tracking {

/// The derivative of the loss by the coordinates z of a particle of weight w: w (a + h (z - mean)).
struct record_pull {
  std::array<double, 6> a, mean;
  beam::matrix6 h;
  bool active = false;

  /// Entry c of it over w, for z - mean.
  double slope(std::size_t c, const double* distance) const {
    double s = a[c];
    for (std::size_t k = 0; k < 6; ++k) s += h[6 * c + k] * distance[k];
    return s;
  }
};

/// What a loss's dependence on moments means for each particle: d mean_a = w dz_a/W, d cov_ab = w ((z_b - mean_b)
/// dz_a + (z_a - mean_a) dz_b)/W.
inline std::vector<record_pull> pulls_of(std::span<const moment_derivative> derivatives,
                                         const std::vector<moment_record>& records) {
  std::vector<record_pull> r(records.size());
  if (derivatives.empty()) return r;
  if (derivatives.size() != records.size()) {
    throw std::invalid_argument("derivatives by the moments of " +
                                std::to_string(derivatives.size()) + " records; there are " +
                                std::to_string(records.size()));
  }
  for (std::size_t i = 0; i < r.size(); ++i) {
    const moment_derivative& d = derivatives[i];
    auto nonzero = [](double x) { return x != 0; };
    r[i].active =
        std::ranges::any_of(d.mean, nonzero) || std::ranges::any_of(d.covariance, nonzero);
    if (!r[i].active) continue;
    const double inverse_weight = 1 / records[i].moments.weight;
    r[i].mean = records[i].moments.mean;
    for (std::size_t a = 0; a < 6; ++a) {
      r[i].a[a] = d.mean[a] * inverse_weight;
      for (std::size_t b = 0; b < 6; ++b) {
        r[i].h[6 * a + b] = (d.covariance[6 * a + b] + d.covariance[6 * b + a]) * inverse_weight;
      }
    }
  }
  return r;
}

}  // namespace betatron::tracking
