#include "collective/line_density.h"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "beam/text.h"
#include "numerics/parallel.h"

namespace betatron::collective {

namespace {

/// Sums over particles are formed in this many parts and added in order, whatever the number of threads.
constexpr std::size_t parts = 16;

template <class F>
line_density measure(const beam::columns<const F>& particles, double t_min, double t_max,
                     std::size_t points, unsigned threads) {
  if (!(t_min < t_max) || points < 3) {
    throw std::invalid_argument("line density: needs t_min < t_max and at least 3 points, got " +
                                beam::number_text(t_min) + ", " + beam::number_text(t_max) +
                                " and " + std::to_string(points));
  }
  line_density density;
  density.step = (t_max - t_min) / static_cast<double>(points - 1);
  density.first = t_min - density.step;
  const std::size_t n = points + 2;
  std::vector<std::vector<double>> sums(parts);
  numerics::parallel_for(threads, parts, [&](std::size_t part) {
    std::vector<double>& sum = sums[part];
    sum.assign(n, 0);
    const std::size_t begin = particles.size * part / parts,
                      end = particles.size * (part + 1) / parts;
    const double inverse = 1 / density.step;
    for (std::size_t k = begin; k < end; ++k) {
      const double place = (static_cast<double>(particles.z[4][k]) - density.first) * inverse;
      const std::size_t i = std::clamp<std::size_t>(static_cast<std::size_t>(place), 1, points - 1);
      const double share = place - static_cast<double>(i),
                   w = static_cast<double>(particles.weight[k]);
      sum[i] += (1 - share) * w;
      sum[i + 1] += share * w;
    }
  });
  density.value.assign(n, 0);
  for (const std::vector<double>& sum : sums) {
    for (std::size_t i = 0; i < n; ++i) density.value[i] += sum[i];
  }
  for (double& v : density.value) v /= density.step;
  density.slope.assign(n, 0);
  for (std::size_t i = 0; i < n; ++i) {
    const double before = i > 0 ? density.value[i - 1] : 0;
    const double after = i + 1 < n ? density.value[i + 1] : 0;
    density.slope[i] = (after - before) / (2 * density.step);
  }
  return density;
}

}  // namespace

line_density measure_line_density(const beam::columns<const float>& particles, double t_min,
                                  double t_max, std::size_t points, unsigned threads) {
  return measure(particles, t_min, t_max, points, threads);
}
line_density measure_line_density(const beam::columns<const double>& particles, double t_min,
                                  double t_max, std::size_t points, unsigned threads) {
  return measure(particles, t_min, t_max, points, threads);
}

}  // namespace betatron::collective
