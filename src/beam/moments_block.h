// moments_block.h: the sums that moments are made of, for one block of particles.
//
// The tracking kernels call `sum_block` on particles that are still in cache, once for every
// instruction set they are compiled for: hence the tag Isa and the forced inlining (see
// numerics/hd.h, numerics/pack.h).
#pragma once

#include <cstddef>
#include <cstring>
#include <limits>
#include <type_traits>

#include "beam/columns.h"
#include "numerics/hd.h"
#include "numerics/pack.h"

namespace betatron::beam {

/// Mergeable sums over a set of particles: start from {}, `merge` what `sum_block` gives.
struct moment_sums {
  static constexpr double infinity = std::numeric_limits<double>::infinity();

  double weight = 0;
  double count = 0;     // a whole number, exact up to 2^53
  double mean[6] = {};  // weighted; 0 while weight is 0
  double m2[21] = {};   // sum of w (z_i - mean_i)(z_j - mean_j), i <= j, at index(i, j)
  double min[6] = {infinity, infinity, infinity, infinity, infinity, infinity};
  double max[6] = {-infinity, -infinity, -infinity, -infinity, -infinity, -infinity};
  double spin_mean[3] = {};  // weighted, and the sums of w (s - mean)^2; 0 without spins
  double spin_m2[3] = {};

  /// Where m2 keeps the pair i <= j: the upper triangle, row by row.
  static BETATRON_INLINE constexpr int index(int i, int j) { return i * (11 - i) / 2 + j; }

  /// Add the particles of another set. The result depends on the order of merging only by rounding;
  /// merge in a fixed order to get the same bits every time.
  void merge(const moment_sums& other);
};

namespace detail {

/// W consecutive numbers as doubles.
template <class P, class F>
BETATRON_INLINE P load_double(const F* p) {
  if constexpr (std::is_same_v<F, double>) {
    return P::load(p);
  } else {
    typedef F narrow __attribute__((vector_size(P::width * sizeof(F))));
    narrow values;
    std::memcpy(&values, p, sizeof values);
    return P(__builtin_convertvector(values, typename P::vector));
  }
}

/// Where the kernels read coordinate i and the weight of the lanes starting at particle k.
template <class P, class F>
struct lanes {
  const F* z[6];
  const F* w;

  BETATRON_INLINE P coordinate(int i, std::size_t k) const { return load_double<P>(z[i] + k); }
  BETATRON_INLINE P weight(std::size_t k) const { return load_double<P>(w + k); }
};

template <class P>
BETATRON_INLINE double sum_lanes(P a) {
  double sum = 0;
  for (int lane = 0; lane < P::width; ++lane) sum += a[lane];
  return sum;
}

/// First pass over coordinates First .. First+2: weighted sum, smallest, largest. Three at a time,
/// because their accumulators fit in sixteen registers.
template <class P, int First>
struct first_pass {
  P weight = P(0.0);
  P sum[3] = {P(0.0), P(0.0), P(0.0)};
  P min[3] = {P(moment_sums::infinity), P(moment_sums::infinity), P(moment_sums::infinity)};
  P max[3] = {P(-moment_sums::infinity), P(-moment_sums::infinity), P(-moment_sums::infinity)};

  template <class L>
  BETATRON_INLINE void add(const L& from, std::size_t k) {
    const P w = from.weight(k);
    weight += w;
#pragma GCC unroll 3
    for (int i = 0; i < 3; ++i) {
      const P z = from.coordinate(First + i, k);
      sum[i] += w * z;
      min[i] = select(z < min[i], z, min[i]);
      max[i] = select(z > max[i], z, max[i]);
    }
  }

  BETATRON_INLINE void store(moment_sums& sums) const {
    double w = sum_lanes(weight);
    sums.weight = w;
    for (int i = 0; i < 3; ++i) {
      sums.mean[First + i] = w > 0 ? sum_lanes(sum[i]) / w : 0;
      for (int lane = 0; lane < P::width; ++lane) {
        if (min[i][lane] < sums.min[First + i]) sums.min[First + i] = min[i][lane];
        if (max[i][lane] > sums.max[First + i]) sums.max[First + i] = max[i][lane];
      }
    }
  }
};

/// Second pass over rows First .. Last-1 of the upper triangle of the covariance.
template <class P, int First, int Last>
struct second_pass {
  static constexpr int offset = moment_sums::index(First, First);
  static constexpr int pairs = moment_sums::index(Last - 1, 5) + 1 - offset;
  P mean[6];
  P sum[pairs];

  BETATRON_INLINE explicit second_pass(const moment_sums& sums) {
    for (int i = 0; i < 6; ++i) mean[i] = P(sums.mean[i]);
    for (int i = 0; i < pairs; ++i) sum[i] = P(0.0);
  }

  template <class L>
  BETATRON_INLINE void add(const L& from, std::size_t k) {
    const P w = from.weight(k);
    P d[6];
#pragma GCC unroll 6
    for (int i = First; i < 6; ++i) d[i] = from.coordinate(i, k) - mean[i];
#pragma GCC unroll 6
    for (int i = First; i < Last; ++i) {
      const P wd = w * d[i];
#pragma GCC unroll 6
      for (int j = i; j < 6; ++j) sum[moment_sums::index(i, j) - offset] += wd * d[j];
    }
  }

  BETATRON_INLINE void store(moment_sums& sums) const {
    for (int i = 0; i < pairs; ++i) sums.m2[offset + i] = sum_lanes(sum[i]);
  }
};

/// The particles after the last full pack, as doubles. Lanes without a particle get weight 0 and
/// stand where the last particle stands, so that they change neither sums nor extremes.
template <class P>
struct remainder_block {
  double data[7][P::width];

  template <class F>
  BETATRON_INLINE remainder_block(const lanes<P, F>& from, std::size_t first, std::size_t end) {
    for (std::size_t lane = 0; lane < static_cast<std::size_t>(P::width); ++lane) {
      const bool occupied = first + lane < end;
      const std::size_t k = occupied ? first + lane : end - 1;
      for (int i = 0; i < 6; ++i) data[i][lane] = static_cast<double>(from.z[i][k]);
      data[6][lane] = occupied ? static_cast<double>(from.w[k]) : 0.0;
    }
  }

  BETATRON_INLINE lanes<P, double> view() const {
    return {{data[0], data[1], data[2], data[3], data[4], data[5]}, data[6]};
  }
};

/// One pass over a block: all full packs, then the rest.
template <class Pass, class P, class F>
BETATRON_INLINE void run(Pass&& pass, const lanes<P, F>& from, std::size_t full,
                         const remainder_block<P>& rest, moment_sums& sums) {
  for (std::size_t k = 0; k < full; k += P::width) pass.add(from, k);
  pass.add(rest.view(), 0);
  pass.store(sums);
}

/// Means of the spins, and sums of squares of the distances from them. Distances from the first
/// spin are averaged, so that spins that are all the same have exactly that mean and no spread.
template <class P, class F>
BETATRON_INLINE void sum_spins(const F* s, const F* weight, std::size_t count, std::size_t full,
                               double total, double& mean, double& m2) {
  if (total == 0) return;
  const double start = static_cast<double>(s[0]);
  P sum(0.0);
  for (std::size_t k = 0; k < full; k += P::width) {
    sum += load_double<P>(weight + k) * (load_double<P>(s + k) - P(start));
  }
  double distance = sum_lanes(sum);
  for (std::size_t k = full; k < count; ++k) {
    distance += static_cast<double>(weight[k]) * (static_cast<double>(s[k]) - start);
  }
  mean = start + distance / total;
  P square(0.0);
  for (std::size_t k = 0; k < full; k += P::width) {
    const P d = load_double<P>(s + k) - P(mean);
    square += load_double<P>(weight + k) * d * d;
  }
  m2 = sum_lanes(square);
  for (std::size_t k = full; k < count; ++k) {
    const double d = static_cast<double>(s[k]) - mean;
    m2 += static_cast<double>(weight[k]) * d * d;
  }
}

}  // namespace detail

/// Sums over particles [first, first + count) of the view, W at a time. Meant for blocks that stay
/// in the first-level cache between the passes (up to a few thousand particles). The bits of the
/// result depend on W and on the instruction set (fused multiply-add), not on alignment.
template <class Isa, int W, class F>
BETATRON_INLINE moment_sums sum_block(const columns<F>& particles, std::size_t first,
                                      std::size_t count) {
  using P = numerics::pack<double, W, Isa>;
  using value = std::remove_const_t<F>;
  moment_sums sums;
  if (count == 0) return sums;
  sums.count = static_cast<double>(count);

  detail::lanes<P, value> from;
  for (std::size_t i = 0; i < 6; ++i) from.z[i] = particles.z[i] + first;
  from.w = particles.weight + first;

  const std::size_t full = count / W * W;
  const detail::remainder_block<P> rest(from, full, count);
  detail::run(detail::first_pass<P, 0>(), from, full, rest, sums);
  detail::run(detail::first_pass<P, 3>(), from, full, rest, sums);
  detail::run(detail::second_pass<P, 0, 2>(sums), from, full, rest, sums);
  detail::run(detail::second_pass<P, 2, 6>(sums), from, full, rest, sums);
  if (particles.has_spin()) {
    for (std::size_t c = 0; c < 3; ++c) {
      const value* s = particles.spin[c] + first;
      detail::sum_spins<P>(s, from.w, count, full, sums.weight, sums.spin_mean[c], sums.spin_m2[c]);
    }
  }
  return sums;
}

}  // namespace betatron::beam
