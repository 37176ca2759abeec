#include "collective/line_density.h"

#include <algorithm>
#include <limits>
#include <stdexcept>

#include "beam/text.h"
#include "collective/chunks.h"
#include "numerics/constants.h"
#include "numerics/reduction.h"

namespace betatron::collective {

void check(const line_options& o, const std::string& effect) {
  if (o.bins < 2 || o.bins > 20000) {
    throw std::invalid_argument(effect + ": bins = " + std::to_string(o.bins) +
                                " is not allowed; allowed: 2 ... 20000");
  }
  if (o.smoothing < 0 || o.smoothing > 10000) {
    throw std::invalid_argument(effect + ": smoothing = " + std::to_string(o.smoothing) +
                                " passes is not allowed; allowed: 0 ... 10000");
  }
}

bool has_slices(const beam::bunch& b, const std::string& effect) {
  return b.visit([&](const auto& c) {
    const std::size_t none = c.size;
    std::size_t first = none, another = none;
    for (std::size_t i = 0; i < c.size; ++i) {
      if (!(c.weight[i] > 0)) continue;
      if (first == none) {
        first = i;
      } else if (another = i; c.z[4][i] != c.z[4][first]) {
        return true;
      }
    }
    if (another == none) return false;
    throw std::invalid_argument(effect + ": all particles that carry charge have the same t = " +
                                beam::number_text(static_cast<double>(c.z[4][first])) +
                                " m; slices need a bunch with a length");
  });
}

line_grid grid_over(const beam::bunch& b, const line_options& o, const std::string& effect,
                    unsigned threads) {
  const std::size_t n = b.size();
  if (n == 0) return {};
  struct limits {
    double low = std::numeric_limits<double>::infinity();
    double high = -std::numeric_limits<double>::infinity();
    bool finite = true;
  };
  std::vector<limits> parts(chunk_count(n));
  b.visit([&](const auto& c) {
    for_chunks(n, threads, [&](std::size_t chunk, std::size_t first, std::size_t last) {
      limits l;
      for (std::size_t i = first; i < last; ++i) {
        const double t = static_cast<double>(c.z[4][i]);
        l.low = std::min(l.low, t);
        l.high = std::max(l.high, t);
        l.finite = l.finite && std::isfinite(t);
      }
      parts[chunk] = l;
    });
  });
  limits all;
  for (const limits& l : parts) {
    all = {std::min(all.low, l.low), std::max(all.high, l.high), all.finite && l.finite};
  }
  if (!all.finite) {
    throw std::invalid_argument(effect + ": t of a particle is not finite");
  }
  const double smallest = 1e-12 * std::max({std::fabs(all.low), std::fabs(all.high), 1.0});
  line_grid g;
  g.step = std::max((all.high - all.low) / static_cast<double>(o.bins - 1), smallest);
  g.is_point = all.high == all.low;
  const std::size_t pad = 2 + static_cast<std::size_t>(o.smoothing);
  g.nodes = o.bins + 2 * pad;
  const double middle = all.low + (all.high - all.low) / 2;
  g.start = middle - g.step * static_cast<double>(g.nodes - 1) / 2;
  return g;
}

double line_density::total() const { return numerics::sum(charge); }

namespace {

template <shape S, class F>
void deposit_chunk(const beam::columns<F>& c, const line_grid& g, std::size_t first,
                   std::size_t last, bool dipoles, double* charge) {
  constexpr std::size_t order = static_cast<std::size_t>(S);
  double* x_charge = charge + g.nodes;
  double* y_charge = x_charge + g.nodes;
  for (std::size_t i = first; i < last; ++i) {
    const line_weights at = weights_at<S>(g, static_cast<double>(c.z[4][i]));
    const double q = static_cast<double>(c.weight[i]);
    for (std::size_t k = 0; k < order; ++k) charge[at.first + k] += q * at.w[k];
    if (!dipoles) continue;
    const double qx = q * static_cast<double>(c.z[0][i]), qy = q * static_cast<double>(c.z[2][i]);
    for (std::size_t k = 0; k < order; ++k) {
      x_charge[at.first + k] += qx * at.w[k];
      y_charge[at.first + k] += qy * at.w[k];
    }
  }
}

}  // namespace

line_density deposit(const beam::bunch& b, const line_grid& grid, const line_options& o,
                     bool dipoles, unsigned threads) {
  const std::size_t n = b.size(), columns = dipoles ? 3 : 1;
  std::vector<std::vector<double>> parts(chunk_count(n));
  b.visit([&](const auto& c) {
    with_shape(o.shape, [&](auto s) {
      for_chunks(n, threads, [&](std::size_t chunk, std::size_t first, std::size_t last) {
        parts[chunk].assign(columns * grid.nodes, 0.0);
        deposit_chunk<s()>(c, grid, first, last, dipoles, parts[chunk].data());
      });
    });
  });
  const double unit = std::fabs(b.ref.particle.charge) * numerics::constants::elementary_charge;
  const auto collect = [&](std::size_t column) {
    std::vector<double> sum(grid.nodes);
    for (std::size_t i = 0; i < grid.nodes; ++i) {
      for (const auto& part : parts) sum[i] += part[column * grid.nodes + i];
      sum[i] *= unit;
    }
    smooth(sum, o.smoothing);
    return sum;
  };
  line_density d{grid, collect(0), {}, {}};
  if (dipoles) {
    d.x_charge = collect(1);
    d.y_charge = collect(2);
  }
  return d;
}

void smooth(std::span<double> q, int passes) {
  const std::size_t n = q.size();
  if (n < 2) return;
  for (int p = 0; p < passes; ++p) {
    double before = q[0];  // the node before the present one, as it was; reflected at the start
    for (std::size_t i = 0; i < n; ++i) {
      const double here = q[i], next = i + 1 < n ? q[i + 1] : here;
      q[i] = 0.25 * (before + 2 * here + next);
      before = here;
    }
  }
}

std::vector<double> derivative(std::span<const double> q, double step) {
  const std::size_t n = q.size();
  std::vector<double> r(n);
  if (n < 2) return r;
  const double per = 1 / (step * step);
  for (std::size_t i = 1; i + 1 < n; ++i) r[i] = 0.5 * (q[i + 1] - q[i - 1]) * per;
  r[0] = (q[1] - q[0]) * per;
  r[n - 1] = (q[n - 1] - q[n - 2]) * per;
  return r;
}

void add_transposed_derivative(std::span<const double> by, double factor, std::span<double> to) {
  const std::size_t n = by.size();
  if (n < 2) return;
  for (std::size_t i = 1; i + 1 < n; ++i) {
    to[i + 1] += 0.5 * factor * by[i];
    to[i - 1] -= 0.5 * factor * by[i];
  }
  to[1] += factor * by[0];
  to[0] -= factor * by[0];
  to[n - 1] += factor * by[n - 1];
  to[n - 2] -= factor * by[n - 1];
}

std::vector<double> convolve(std::span<const double> q, std::span<const double> kernel) {
  const std::size_t n = q.size();
  if (kernel.size() + 1 != 2 * n) {
    throw std::invalid_argument("convolve: a kernel for " + std::to_string(n) + " nodes has " +
                                std::to_string(2 * n - 1) + " entries, not " +
                                std::to_string(kernel.size()));
  }
  std::vector<double> r(n);
  for (std::size_t j = 0; j < n; ++j) {
    if (q[j] == 0) continue;
    const double* k = kernel.data() + (n - 1 - j);
    for (std::size_t i = 0; i < n; ++i) r[i] += q[j] * k[i];
  }
  return r;
}

}  // namespace betatron::collective
