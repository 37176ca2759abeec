#include "beam/moments.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <thread>
#include <vector>

#include "numerics/parallel.h"

namespace betatron::beam {

namespace {

constexpr double nan = std::numeric_limits<double>::quiet_NaN();

constexpr std::size_t block = 2048;  // particles whose seven columns fit the first-level cache
constexpr std::size_t chunk = 64 * block;  // what one thread takes at a time

/// a b - c d with one rounding of the products (Kahan): the determinants of strongly correlated
/// planes are small differences.
double difference_of_products(double a, double b, double c, double d) {
  const double cd = c * d;
  const double error = std::fma(-c, d, cd);
  return std::fma(a, b, -cd) + error;
}

template <class F>
moment_sums sum_chunk(const columns<F>& particles, std::size_t first, std::size_t end) {
  moment_sums sums;
  for (; first < end; first += block) {
    sums.merge(sum_block<numerics::isa::base, 2>(particles, first, std::min(block, end - first)));
  }
  return sums;
}

template <class F>
moment_sums sum_all(const columns<F>& particles, unsigned threads) {
  const std::size_t chunks = (particles.size + chunk - 1) / chunk;
  std::vector<moment_sums> parts(chunks);
  if (threads == 0) threads = std::max(1u, std::thread::hardware_concurrency());
  numerics::parallel_for(threads, chunks, [&](std::size_t c) {
    parts[c] = sum_chunk(particles, c * chunk, std::min((c + 1) * chunk, particles.size));
  });
  moment_sums sums;
  for (const moment_sums& part : parts) sums.merge(part);
  return sums;
}

}  // namespace

void moment_sums::merge(const moment_sums& other) {
  count += other.count;
  for (int i = 0; i < 6; ++i) {
    min[i] = std::min(min[i], other.min[i]);
    max[i] = std::max(max[i], other.max[i]);
  }
  const double total = weight + other.weight;
  if (other.weight == 0) return;
  if (weight == 0) {
    std::copy_n(other.mean, 6, mean);
    std::copy_n(other.m2, 21, m2);
    std::copy_n(other.spin_mean, 3, spin_mean);
    std::copy_n(other.spin_m2, 3, spin_m2);
    weight = total;
    return;
  }
  const double part = other.weight / total;
  double distance[6];
  for (int i = 0; i < 6; ++i) distance[i] = other.mean[i] - mean[i];
  for (int i = 0; i < 6; ++i) {
    for (int j = i; j < 6; ++j) {
      m2[index(i, j)] += other.m2[index(i, j)] + weight * part * distance[i] * distance[j];
    }
    mean[i] += part * distance[i];
  }
  for (int c = 0; c < 3; ++c) {
    const double d = other.spin_mean[c] - spin_mean[c];
    spin_m2[c] += other.spin_m2[c] + weight * part * d * d;
    spin_mean[c] += part * d;
  }
  weight = total;
}

moment_sums sum_moments(columns<const float> particles, unsigned threads) {
  return sum_all(particles, threads);
}

moment_sums sum_moments(columns<const double> particles, unsigned threads) {
  return sum_all(particles, threads);
}

moments finish(const moment_sums& sums, bool with_spin) {
  moments m;
  m.weight = sums.weight;
  m.count = static_cast<std::size_t>(sums.count);
  const bool any = m.count > 0;
  const bool weighted = sums.weight != 0;  // a NaN weight goes through and shows
  const auto constant = [&](std::size_t i) { return sums.min[i] == sums.max[i]; };
  for (std::size_t i = 0; i < 6; ++i) {
    m.min[i] = any ? sums.min[i] : nan;
    m.max[i] = any ? sums.max[i] : nan;
    m.mean[i] = !weighted ? nan : constant(i) ? sums.min[i] : sums.mean[i];
    for (std::size_t j = i; j < 6; ++j) {
      const double sum = sums.m2[moment_sums::index(static_cast<int>(i), static_cast<int>(j))];
      // The mean of equal numbers carries a rounding error, which would leave a spurious spread.
      const double value = !weighted ? nan : constant(i) || constant(j) ? 0 : sum / sums.weight;
      m.cov[6 * i + j] = m.cov[6 * j + i] = value;
    }
  }
  if (with_spin) {
    m.spin.emplace();
    for (std::size_t c = 0; c < 3; ++c) {
      m.spin->mean[c] = weighted ? sums.spin_mean[c] : nan;
      m.spin->sigma[c] = weighted ? std::sqrt(sums.spin_m2[c] / sums.weight) : nan;
    }
  }
  return m;
}

double spin_moments::polarization() const {
  return std::sqrt(mean[0] * mean[0] + mean[1] * mean[1] + mean[2] * mean[2]);
}

double moments::sigma(int i) const { return std::sqrt(covariance(i, i)); }

double emittance(const moments& m, plane which) {
  const int q = 2 * which, p = q + 1;
  const double squared = difference_of_products(m.covariance(q, q), m.covariance(p, p),
                                                m.covariance(q, p), m.covariance(q, p));
  return squared < 0 ? 0 : std::sqrt(squared);
}

std::array<double, 4> dispersion(const moments& m) {
  std::array<double, 4> d;
  for (std::size_t i = 0; i < 4; ++i) {
    const double spread = m.covariance(5, 5);
    d[i] = spread > 0 ? -m.covariance(static_cast<int>(i), 5) / spread : nan;
  }
  return d;
}

twiss_parameters twiss(const moments& m, plane which) {
  const int q = 2 * which, p = q + 1;
  double qq = m.covariance(q, q), qp = m.covariance(q, p), pp = m.covariance(p, p);
  const double spread = m.covariance(5, 5);
  if (which != plane_t && spread > 0) {
    const double q_pt = m.covariance(q, 5), p_pt = m.covariance(p, 5);
    qq -= q_pt * q_pt / spread;
    qp -= q_pt * p_pt / spread;
    pp -= p_pt * p_pt / spread;
  }
  const double squared = difference_of_products(qq, pp, qp, qp);
  const double e = squared < 0 ? 0 : std::sqrt(squared);
  if (e == 0) return {nan, nan, 0};
  return {-qp / e, qq / e, e};
}

std::array<double, 3> eigenemittances(const matrix6& cov) {
  if (!std::ranges::all_of(cov, [](double c) { return std::isfinite(c); })) return {nan, nan, nan};
  // Positions and momenta differ by many orders of magnitude. q -> q r, p -> p/r is symplectic, so
  // it leaves the result alone, and makes the two of a plane comparable.
  matrix6 balanced = cov;
  for (std::size_t k = 0; k < 3; ++k) {
    const std::size_t q = 2 * k, p = q + 1;
    const double ratio = std::sqrt(std::sqrt(cov[7 * p] / cov[7 * q]));
    if (!(ratio > 0) || std::isinf(ratio)) continue;
    for (std::size_t i = 0; i < 6; ++i) {
      balanced[6 * q + i] *= ratio;
      balanced[6 * i + q] *= ratio;
      balanced[6 * p + i] /= ratio;
      balanced[6 * i + p] /= ratio;
    }
  }
  const matrix6 factor = semidefinite_factor(balanced, {0, 1, 2, 3, 4, 5});
  matrix6 antisymmetric{};
  for (std::size_t i = 0; i < 6; ++i) {
    for (std::size_t j = i + 1; j < 6; ++j) {
      double sum = 0;
      for (std::size_t q = 0; q < 6; q += 2) {
        sum += difference_of_products(factor[6 * q + i], factor[6 * (q + 1) + j],
                                      factor[6 * (q + 1) + i], factor[6 * q + j]);
      }
      antisymmetric[6 * i + j] = sum;
      antisymmetric[6 * j + i] = -sum;
    }
  }
  const std::array<double, 6> pairs = singular_values(antisymmetric);
  return {pairs[0], pairs[2], pairs[4]};
}

}  // namespace betatron::beam
