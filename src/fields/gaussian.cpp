#include "fields/gaussian.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <stdexcept>

#include "fields/gaussian_table.h"
#include "numerics/constants.h"

namespace betatron::fields {

namespace {

/// Calls whole(first, count) for all full packs, and rest(first, count) for what is left.
template <class Whole, class Rest>
void in_packs(std::size_t n, Whole&& whole, Rest&& rest) {
  const std::size_t full = n / gaussian_kernels().width * gaussian_kernels().width;
  if (full > 0) whole(full);
  if (full < n) rest(full, n - full);
}

constexpr std::size_t widest = 8;

/// Points beyond the last full pack, padded by the origin.
struct padded {
  std::array<double, widest> values{};
  padded(const double* from, std::size_t count) { std::copy_n(from, count, values.data()); }
};

struct node {
  double q, width;  // width: step dq
};

/// Nodes of the rule in the header comment. The integrand falls as q at 0 and as q^-decay at infinity (in ln q).
std::vector<node> nodes_of(double smallest, double largest, double decay, double tolerance) {
  if (!(tolerance >= 1e-14 && tolerance <= 1e-2)) {
    throw std::invalid_argument("Gaussian field: tolerance = " + std::to_string(tolerance) +
                                " is not allowed; allowed: 1e-14 ... 1e-2");
  }
  const double digits = std::log(1 / tolerance) + 6;
  const double a = std::log(smallest), b = std::log(largest);
  const double first = a - std::log(digits), last = b + std::log(digits / decay) + 0.7;
  // the error falls as exp(-6/step) where it falls slowest, for flat discs
  const double step = 6 / (std::log(1 / tolerance) + 10);
  const auto count = static_cast<std::size_t>(std::ceil((last - first) / step)) + 1;
  std::vector<node> nodes;
  for (std::size_t k = 0; k < count; ++k) {
    const double u = first + step * static_cast<double>(k);
    const double left = std::exp(a - u), right = std::exp(u - b);
    const double q = std::exp(u - left + right);
    nodes.push_back({q, step * (1 + left + right) * q});
  }
  return nodes;
}

void check_sizes(std::initializer_list<double> sigmas) {
  for (const double sigma : sigmas) {
    if (!(sigma > 0) || !std::isfinite(sigma)) {
      throw std::invalid_argument("Gaussian field: a beam size of " + std::to_string(sigma) +
                                  " m is not allowed; allowed: > 0 and finite");
    }
  }
}

}  // namespace

gaussian_rule rule_3d(double sigma_x, double sigma_y, double sigma_z, double tolerance) {
  check_sizes({sigma_x, sigma_y, sigma_z});
  const double x = 2 * sigma_x * sigma_x, y = 2 * sigma_y * sigma_y, z = 2 * sigma_z * sigma_z;
  gaussian_rule rule;
  for (const node& n : nodes_of(std::min({x, y, z}), std::max({x, y, z}), 1.5, tolerance)) {
    const double sx = x + n.q, sy = y + n.q, sz = z + n.q;
    rule.inverse_x.push_back(1 / sx);
    rule.inverse_y.push_back(1 / sy);
    rule.inverse_z.push_back(1 / sz);
    rule.weight.push_back(2 / std::sqrt(numerics::constants::pi) * n.width /
                          (std::sqrt(sx) * std::sqrt(sy) * std::sqrt(sz)));
  }
  return rule;
}

gaussian_rule rule_2d_potential(double sigma_x, double sigma_y, double tolerance) {
  check_sizes({sigma_x, sigma_y});
  const double x = 2 * sigma_x * sigma_x, y = 2 * sigma_y * sigma_y;
  gaussian_rule rule;
  for (const node& n : nodes_of(std::min(x, y), std::max(x, y), 1, tolerance)) {
    const double sx = x + n.q, sy = y + n.q;
    rule.inverse_x.push_back(1 / sx);
    rule.inverse_y.push_back(1 / sy);
    rule.weight.push_back(0.5 * n.width / (std::sqrt(sx) * std::sqrt(sy)));
  }
  return rule;
}

void field_of(const gaussian_2d& beam, const double* x, const double* y, double* ex, double* ey,
              std::size_t n) {
  in_packs(
      n, [&](std::size_t count) { gaussian_kernels().field_2d(beam, x, y, ex, ey, count); },
      [&](std::size_t first, std::size_t count) {
        const padded px(x + first, count), py(y + first, count);
        std::array<double, widest> fx, fy;
        gaussian_kernels().field_2d(beam, px.values.data(), py.values.data(), fx.data(), fy.data(),
                                    gaussian_kernels().width);
        std::copy_n(fx.data(), count, ex + first);
        std::copy_n(fy.data(), count, ey + first);
      });
}

void field_of(const gaussian_rule& rule, const double* x, const double* y, const double* z,
              double* ex, double* ey, double* ez, std::size_t n) {
  const double* inverse[3] = {rule.inverse_x.data(), rule.inverse_y.data(), rule.inverse_z.data()};
  const auto evaluate = [&](const double* const* r, double* const* e, std::size_t count) {
    gaussian_kernels().field_3d(inverse, rule.weight.data(), rule.size(), r, e, count);
  };
  const double* r[3] = {x, y, z};
  double* e[3] = {ex, ey, ez};
  in_packs(
      n, [&](std::size_t count) { evaluate(r, e, count); },
      [&](std::size_t first, std::size_t count) {
        const padded px(x + first, count), py(y + first, count), pz(z + first, count);
        std::array<double, widest> field[3];
        const double* points[3] = {px.values.data(), py.values.data(), pz.values.data()};
        double* results[3] = {field[0].data(), field[1].data(), field[2].data()};
        evaluate(points, results, gaussian_kernels().width);
        for (std::size_t c = 0; c < 3; ++c) std::copy_n(results[c], count, e[c] + first);
      });
}

void potential_of(const gaussian_rule& rule, const double* x, const double* y, double* psi,
                  std::size_t n) {
  const double* inverse[2] = {rule.inverse_x.data(), rule.inverse_y.data()};
  const auto evaluate = [&](const double* const* r, double* result, std::size_t count) {
    gaussian_kernels().potential(inverse, rule.weight.data(), rule.size(), r, result, count);
  };
  const double* r[2] = {x, y};
  in_packs(
      n, [&](std::size_t count) { evaluate(r, psi, count); },
      [&](std::size_t first, std::size_t count) {
        const padded px(x + first, count), py(y + first, count);
        std::array<double, widest> result;
        const double* points[2] = {px.values.data(), py.values.data()};
        evaluate(points, result.data(), gaussian_kernels().width);
        std::copy_n(result.data(), count, psi + first);
      });
}

void pull_of(const gaussian_rule& rule, const double* const (&r)[3], const double* const (&g)[3],
             double* const (&e)[3], double* const (&by_r)[3], double* sums) {
  const double* inverse[3] = {rule.inverse_x.data(), rule.inverse_y.data(), rule.inverse_z.data()};
  gaussian_kernels().pull_3d(inverse, rule.weight.data(), rule.size(), r, g, e, by_r, sums,
                             gaussian_block);
}

void pull_of(const gaussian_rule& rule, const double* const (&r)[2], const double* const (&g)[2],
             const double* by_potential, double* const (&by_r)[2], double* sums) {
  // the weights are those of the potential, of which E has twice
  std::vector<double> weight = rule.weight;
  for (double& w : weight) w *= 2;
  const double* inverse[2] = {rule.inverse_x.data(), rule.inverse_y.data()};
  gaussian_kernels().pull_2d(inverse, weight.data(), rule.size(), r, g, by_potential, by_r, sums,
                             gaussian_block);
}

}  // namespace betatron::fields
