#include "collective/line_pull.h"

#include <algorithm>
#include <cmath>

#include "collective/chunks.h"
#include "collective/slice_profile.h"
#include "numerics/constants.h"
#include "numerics/reduction.h"

namespace betatron::collective {

double central_slope(const std::function<double(double)>& f, double x, double scale) {
  constexpr double weight[] = {4.0 / 5, -1.0 / 5, 4.0 / 105, -1.0 / 280};
  const double h = std::exp2(std::floor(std::log2(scale / 512)));
  double sum = 0;
  for (int j = 0; j < 4; ++j) sum += weight[j] * (f(x + (j + 1) * h) - f(x - (j + 1) * h));
  return sum / h;
}

/// weight(columns, particle), summed over particles with the shape of each.
template <class Weight>
std::vector<double> line_pull::sum_on_nodes(const Weight& weight) const {
  std::vector<std::vector<double>> parts(chunk_count(bunch_.size()));
  bunch_.visit([&](const auto& c) {
    with_shape(options_.shape, [&](auto s) {
      for_chunks(c.size, threads_, [&](std::size_t chunk, std::size_t first, std::size_t last) {
        std::vector<double>& sum = parts[chunk];
        sum.assign(grid_.nodes, 0.0);
        for (std::size_t i = first; i < last; ++i) {
          const line_weights at = weights_at<s()>(grid_, static_cast<double>(c.z[4][i]));
          const double v = weight(c, i);
          for (std::size_t k = 0; k < static_cast<std::size_t>(s()); ++k) {
            sum[at.first + k] += v * at.w[k];
          }
        }
      });
    });
  });
  std::vector<double> sum(grid_.nodes);
  for (std::size_t i = 0; i < grid_.nodes; ++i) {
    for (const auto& part : parts) sum[i] += part[i];
  }
  return sum;
}

std::vector<double> line_pull::by_nodes(std::size_t column, bool by_coordinate) const {
  return sum_on_nodes([&]<class F>(const beam::columns<F>& c, std::size_t i) {
    const double v = static_cast<double>(lambda_.of<F>()[column][i]);
    return by_coordinate ? v * static_cast<double>(c.z[column - 1][i]) : v;
  });
}

std::vector<double> line_pull::by_nodes(std::span<const double> weights) const {
  return sum_on_nodes([&](const auto&, std::size_t i) { return weights[i]; });
}

void line_pull::finish(const std::array<kick, 3>& kicks, sources by, double by_step,
                       std::span<const seen> others) const {
  const std::size_t n = bunch_.size();
  const double unit =
      std::fabs(bunch_.ref.particle.charge) * numerics::constants::elementary_charge;
  for (auto* values : {&by.charge, &by.x_charge, &by.y_charge}) {
    smooth(*values, options_.smoothing);  // the filter is symmetric
    for (double& v : *values) v *= unit;
  }
  const double centre = static_cast<double>(grid_.nodes - 1) / 2;
  std::vector<std::array<double, 2>> parts(chunk_count(n));
  bunch_.visit([&]<class F>(const beam::columns<F>& c) {
    const std::array<F*, 6>& lambda = lambda_.of<F>();
    const auto add = [](F& to, double v) { to = static_cast<F>(static_cast<double>(to) + v); };
    with_shape(options_.shape, [&](auto s) {
      for_chunks(n, threads_, [&](std::size_t chunk, std::size_t first, std::size_t last) {
        std::array<double, 2> sum{};
        for (std::size_t i = first; i < last; ++i) {
          const double t = static_cast<double>(c.z[4][i]);
          const line_weights at = weights_at<s()>(grid_, t);
          const line_weights slope{at.first, weight_slopes_at<s()>(at)};
          const auto value = [&](const line_weights& w, const std::vector<double>& v) {
            return v.empty() ? 0.0 : interpolate<s()>(w, v.data());
          };
          double by_place = 0;
          for (std::size_t a = 0; a < 3; ++a) {
            const kick& k = kicks[a];
            if (k.value.empty() && k.gradient.empty()) continue;
            const double q = static_cast<double>(c.z[2 * a][i]);
            const double l = static_cast<double>(lambda[2 * a + 1][i]);
            const double gradient = value(at, k.gradient);
            by_place += l * (value(slope, k.value) + q * value(slope, k.gradient));
            if (!k.gradient.empty()) add(lambda[2 * a][i], l * gradient);
            add(c.z[2 * a + 1][i], -(value(at, k.value) + q * gradient));
          }
          for (const seen& o : others) {
            by_place += o.weights[i] * interpolate<s()>(slope, o.values.data());
          }
          const double w = static_cast<double>(c.weight[i]);
          double source = value(slope, by.charge);
          if (!by.x_charge.empty()) {
            source += static_cast<double>(c.z[0][i]) * value(slope, by.x_charge) +
                      static_cast<double>(c.z[2][i]) * value(slope, by.y_charge);
            add(lambda[0][i], w * value(at, by.x_charge));
            add(lambda[2][i], w * value(at, by.y_charge));
          }
          by_place += w * source;
          add(lambda[4][i], by_place / grid_.step);
          sum[0] += by_place;
          sum[1] += by_place * ((t - grid_.start) / grid_.step - centre);
        }
        parts[chunk] = sum;
      });
    });
    numerics::compensated_sum all, moment;
    for (const auto& p : parts) {
      all.add(p[0]);
      moment.add(p[1]);
    }
    const F* t = c.z[4];
    const auto low = static_cast<std::size_t>(std::min_element(t, t + n) - t);
    const auto high = static_cast<std::size_t>(std::max_element(t, t + n) - t);
    const double middle = -0.5 * all.value() / grid_.step;
    double edge = (by_step - moment.value() / grid_.step) / static_cast<double>(options_.bins - 1);
    if (grid_.is_point) edge = 0;
    add(lambda[4][low], middle - edge);
    add(lambda[4][high], middle + edge);
  });
}

void pull_profile(beam::bunch& b, const tracking::covector& lambda, const slice_profile& profile,
                  const line_options& o, std::span<const double> by_value,
                  std::span<const double> by_slope, unsigned threads) {
  // with node charges q: value = q/step, slope = D q/step^2
  const line_pull adjoint(b, lambda, profile.grid(), o, threads);
  const double step = profile.grid().step;
  std::vector<double> by_charge = adjoint.by_nodes(by_value);
  double by_step = -numerics::dot(by_charge, profile.values()) / step;
  std::vector<line_pull::seen> seen = {{by_value, profile.values()}};
  if (!by_slope.empty()) {
    const std::vector<double> back = adjoint.by_nodes(by_slope);
    by_step -= 2 * numerics::dot(back, profile.slopes()) / step;
    add_transposed_derivative(back, 1 / step, by_charge);
    seen.push_back({by_slope, profile.slopes()});
  }
  const double particle =
      numerics::constants::elementary_charge * std::fabs(b.ref.particle.charge) * step;
  for (double& v : by_charge) v /= particle;
  adjoint.finish({}, {std::move(by_charge), {}, {}}, by_step, seen);
}

void pull_sigma_t(beam::bunch& b, const tracking::covector& lambda, const beam::moments& m,
                  double by_logarithm) {
  const double each = by_logarithm / (m.weight * m.covariance(4, 4));
  b.visit([&]<class F>(const beam::columns<F>& c) {
    F* by_t = lambda.of<F>()[4];
    for (std::size_t i = 0; i < c.size; ++i) {
      const double more =
          each * static_cast<double>(c.weight[i]) * (static_cast<double>(c.z[4][i]) - m.mean[4]);
      by_t[i] = static_cast<F>(static_cast<double>(by_t[i]) + more);
    }
  });
}

}  // namespace betatron::collective
