#include "fields/cylinder.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "numerics/constants.h"
#include "numerics/parallel.h"

namespace betatron::fields {

namespace {

using numerics::constants::pi;

// see the header
constexpr double negligible = 6e-6;    // of modes
constexpr double shortest = 1e-8;      // likewise, of waves along z
constexpr double resolved = 1.2;       // kappa h
constexpr double far_away = 6;         // z beyond which the pipe has no field
constexpr double rank_error = 1e-12;   // squared
constexpr double ring_spacing = 0.1;   // over the distance to the image
constexpr double finest_wave = 1.9;    // kappa h/resolved that has faded
constexpr std::size_t free_modes = 6;  // harmonics of 1/|r - r'| that count from far_away on

double fading(double k, double m, double cell) {
  const double kappa2 = (k * k + m * m) * cell * cell / (resolved * resolved);
  return std::exp(-kappa2 * kappa2);
}

/// Nodes and weights for integrals.
struct rule {
  std::vector<double> x{}, weight{};
};

/// Gauss-Legendre on 0 ... 1, by Newton's method on the recursion of the polynomials.
rule gauss_legendre(std::size_t n) {
  rule r;
  for (std::size_t i = 0; i < n; ++i) {
    double x = std::cos(pi * (static_cast<double>(i) + 0.75) / (static_cast<double>(n) + 0.5));
    double slope = 1;
    for (int step = 0; step < 8; ++step) {
      double p = 1, before = 0;
      for (std::size_t j = 0; j < n; ++j) {
        const double l = static_cast<double>(j);
        const double next = ((2 * l + 1) * x * p - l * before) / (l + 1);
        before = p;
        p = next;
      }
      slope = static_cast<double>(n) * (x * p - before) / (x * x - 1);
      x -= p / slope;
    }
    r.x.push_back((1 - x) / 2);
    r.weight.push_back(1 / ((1 - x * x) * slope * slope));
  }
  return r;
}

constexpr double panel_turn = 24;  // k z that a panel of 16 points resolves to 1e-10
constexpr std::size_t panel_points = 16, graded_points = 32;

/// For int_0^inf f(k) dk, with f smooth but for ln k at 0, 0 beyond `last`, and turning like sin(k z) at most.
rule wave_rule(double last, double z) {
  rule r;
  const double turn = panel_turn / z;
  const double first = std::min({1.0, turn, last});
  const rule graded = gauss_legendre(graded_points), even = gauss_legendre(panel_points);
  for (std::size_t i = 0; i < graded.x.size(); ++i) {
    const double t = graded.x[i], t3 = t * t * t;
    r.x.push_back(first * t3 * t);
    r.weight.push_back(first * 4 * t3 * graded.weight[i]);
  }
  for (double low = first; low < last;) {
    const double size = std::min({turn, std::max(1.5, low / 2), last - low});
    for (std::size_t i = 0; i < even.x.size(); ++i) {
      r.x.push_back(low + size * even.x[i]);
      r.weight.push_back(size * even.weight[i]);
    }
    low += size;
  }
  return r;
}

/// K_1(x)/K_0(x), from exp(x) K_n(x) = int_0^inf exp(-x (cosh t - 1)) cosh(n t) dt by the trapezoidal rule, which for this
/// integrand is exact to rounding.
double k1_over_k0(double x) {
  const double step = std::min(0.2, 0.7 / std::sqrt(x));
  double k0 = 0.5, k1 = 0.5;
  for (double t = step;; t += step) {
    const double s = std::sinh(t / 2), f = std::exp(-2 * x * s * s);
    k0 += f;
    k1 += f * std::cosh(t);
    if (2 * x * s * s > 40 + t) return k1 / k0;
  }
}

/// I_{m+1}(x)/I_m(x) for m < modes at some x, all x of an m together, and exp(-x) I_0(x): by the recursion downwards, normalised
/// by exp(x) = I_0 + 2 I_1 + 2 I_2 + ... (Abramowitz and Stegun 9.6.26, 9.6.37).
struct bessel_ratios {
  std::vector<double> ratio, i0;

  void take(const std::vector<double>& x, std::size_t modes) {
    const std::size_t n = x.size();
    ratio.resize(modes * n);
    i0.assign(n, 0);  // first (I_j + I_{j+1} + ...)/I_{j-1}
    last_.assign(n, 0);
    const double m = static_cast<double>(modes), largest = *std::ranges::max_element(x);
    double *r = last_.data(), *tail = i0.data();
    for (auto j = static_cast<std::size_t>(std::sqrt(m * m + 80 * largest)) + 20; j > 0; --j) {
      const double twice = 2 * static_cast<double>(j);
      for (std::size_t i = 0; i < n; ++i) {
        r[i] = x[i] / (twice + x[i] * r[i]);
        tail[i] = r[i] * (1 + tail[i]);
      }
      if (j <= modes) std::copy_n(r, n, ratio.data() + (j - 1) * n);
    }
    for (double& v : i0) v = 1 / (1 + 2 * v);
  }

 private:
  std::vector<double> last_;
};

/// I_m(k r)/I_m(k) at all rings, and I_m(k) K_m(k).
class waves {
 public:
  waves(const std::vector<double>& rings, const rule& k, std::size_t modes, unsigned threads)
      : rings_(rings.size()),
        nodes_(k.x.size()),
        radial_(modes * rings_ * nodes_),
        wall_(modes * nodes_) {
    struct memory {
      bessel_ratios bessel;
      std::vector<double> x, v;
    };
    const auto make = [&] {
      return memory{{}, std::vector<double>(rings_ + 1), std::vector<double>(rings_)};
    };
    numerics::parallel_for_with(threads, nodes_, make, [&](memory& own, std::size_t i) {
      const double k_here = k.x[i];
      for (std::size_t a = 0; a < rings_; ++a) own.x[a] = k_here * std::fabs(rings[a]);
      own.x[rings_] = k_here;  // the wall
      own.bessel.take(own.x, modes);
      double q = k1_over_k0(k_here);
      for (std::size_t a = 0; a < rings_; ++a) {
        own.v[a] = own.bessel.i0[a] / own.bessel.i0[rings_] * std::exp(own.x[a] - k_here);
      }
      for (std::size_t m = 0; m < modes; ++m) {
        const double* ratio = own.bessel.ratio.data() + m * (rings_ + 1);
        double* to = radial_.data() + (m * nodes_ + i) * rings_;
        const double inverse = 1 / ratio[rings_];
        for (std::size_t a = 0; a < rings_; ++a) {
          to[a] = own.v[a];
          own.v[a] *= ratio[a] * inverse;
        }
        for (std::size_t a = 0; m % 2 == 1 && rings[a] < 0; ++a) to[a] = -to[a];
        // the Wronskian: I_m K_{m+1} + I_{m+1} K_m = 1/x
        wall_[m * nodes_ + i] = 1 / (k_here * (q + ratio[rings_]));
        q = 1 / q + 2 * static_cast<double>(m + 1) / k_here;
      }
    });
  }
  /// At all rings.
  const double* radial(std::size_t m, std::size_t node) const {
    return radial_.data() + (m * nodes_ + node) * rings_;
  }
  double wall(std::size_t m, std::size_t node) const { return wall_[m * nodes_ + node]; }
  std::size_t rings() const { return rings_; }
  std::size_t nodes() const { return nodes_; }

 private:
  std::size_t rings_, nodes_;
  std::vector<double> radial_, wall_;
};

/// int from z1 to z2 of the harmonic m of 1/|r - r'|.
double free_harmonic(std::size_t m, double r, double s, double z1, double z2) {
  constexpr int angles = 32;
  double sum = 0;
  for (int i = 0; i < angles; ++i) {
    const double a = 2 * pi * i / angles;
    const double d = std::sqrt(std::max(1e-30, r * r + s * s - 2 * r * s * std::cos(a)));
    sum += std::cos(static_cast<double>(m) * a) * (std::asinh(z2 / d) - std::asinh(z1 / d));
  }
  return sum / angles;
}

/// W_m between rings, but for the factor 2/pi, as sums over k.
class harmonic {
 public:
  harmonic(const waves& wave, const rule& k, std::size_t m, double cell)
      : wave_(wave), m_(m), amplitude_(wave.nodes()) {
    for (std::size_t i = 0; i < amplitude_.size(); ++i) {
      amplitude_[i] = k.weight[i] * wave.wall(m, i) * fading(k.x[i], static_cast<double>(m), cell);
    }
  }

  /// W_m(0) of every ring with itself.
  std::vector<double> diagonal() const {
    std::vector<double> sum(wave_.rings());
    for (std::size_t i = 0; i < amplitude_.size(); ++i) {
      const double* at = wave_.radial(m_, i);
      for (std::size_t r = 0; r < sum.size(); ++r) sum[r] += amplitude_[i] * at[r] * at[r];
    }
    return sum;
  }

  /// W_m(0) of every ring with this one.
  std::vector<double> column(std::size_t ring) const {
    std::vector<double> sum(wave_.rings());
    for (std::size_t i = 0; i < amplitude_.size(); ++i) {
      const double* at = wave_.radial(m_, i);
      const double f = amplitude_[i] * at[ring];
      for (std::size_t r = 0; r < sum.size(); ++r) sum[r] += f * at[r];
    }
    return sum;
  }

  /// Of two rings, with the factors table[node][j] in place of cos(k z) = 1.
  void sums(std::size_t ring, std::size_t other, const std::vector<double>& table,
            std::vector<double>& result) const {
    const std::size_t n = result.size();
    std::ranges::fill(result, 0.0);
    for (std::size_t i = 0; i < amplitude_.size(); ++i) {
      const double* at = wave_.radial(m_, i);
      const double f = amplitude_[i] * at[ring] * at[other];
      const double* row = table.data() + i * n;
      for (std::size_t j = 0; j < n; ++j) result[j] += f * row[j];
    }
  }

 private:
  const waves& wave_;
  std::size_t m_;
  std::vector<double> amplitude_;
};

/// W_m(0) = U W_pivots U^T: rings that stand for all, and U, ring by ring.
struct few_rings {
  std::vector<std::size_t> pivot{};
  std::vector<double> u{};

  few_rings(const harmonic& w, double tolerance) {
    std::vector<double> left = w.diagonal();   // of W - L L^T
    std::vector<std::vector<double>> columns;  // of L
    while (pivot.size() < left.size()) {
      const auto p = static_cast<std::size_t>(std::ranges::max_element(left) - left.begin());
      if (left[p] <= tolerance) break;
      const double root = std::sqrt(left[p]);
      std::vector<double> column = w.column(p);
      for (std::size_t r = 0; r < left.size(); ++r) {
        for (const auto& c : columns) column[r] -= c[r] * c[p];
        column[r] /= root;
        left[r] -= column[r] * column[r];
      }
      left[p] = 0;
      pivot.push_back(p);
      columns.push_back(std::move(column));
    }
    // U L_pivots = L
    const std::size_t n = pivot.size();
    u.resize(left.size() * n);
    for (std::size_t r = 0; r < left.size(); ++r) {
      double* row = u.data() + r * n;
      for (std::size_t p = n; p-- > 0;) {
        double v = columns[p][r];
        for (std::size_t q = p + 1; q < n; ++q) v -= row[q] * columns[p][pivot[q]];
        row[p] = v / columns[p][pivot[p]];
      }
    }
  }
};

}  // namespace

polar_weights::polar_weights(double u) {
  // the points are at -2 ... 3
  for (std::size_t a = 0; a < polar_points; ++a) {
    double product = 1, derivative = 0;
    for (std::size_t b = 0; b < polar_points; ++b) {
      if (b == a) continue;
      const double d = 1 / (static_cast<double>(a) - static_cast<double>(b));
      derivative = (derivative * (u + 2 - static_cast<double>(b)) + product) * d;
      product *= (u + 2 - static_cast<double>(b)) * d;
    }
    value[a] = product;
    slope[a] = derivative;
  }
}

std::size_t cylinder_wall::modes(double reach, double cell) {
  const double finest = 1.5 * resolved / cell;
  const double needed = reach < 1 ? std::log(negligible) / (2 * std::log(reach)) : finest;
  return 2 + static_cast<std::size_t>(std::min(needed, finest));
}

double cylinder_wall::memory(double cell, double rings) {
  const double panels = finest_wave * resolved / cell * far_away / panel_turn + 2;
  const double nodes = graded_points + panel_points * panels;
  return sizeof(double) * static_cast<double>(modes(1, cell)) * nodes * (rings + 1);
}

double cylinder_wall::place(double radius) const {
  return 2 - std::log1p(-radius / scale) / spacing;
}

double cylinder_wall::place_slope(double radius) const { return 1 / ((scale - radius) * spacing); }

cylinder_wall::cylinder_wall(double reach_, double cell_, double step_, std::size_t planes_,
                             unsigned threads)
    : reach(reach_), cell(cell_), step(step_), planes(planes_) {
  scale = 2 - reach + 2 * cell;
  const double length = -std::log1p(-reach / scale);
  spacing = std::min(ring_spacing, length / 6);
  const std::size_t count = static_cast<std::size_t>(length / spacing) + polar_points + 1;
  for (std::size_t i = 0; i < count; ++i) {
    rings.push_back(-scale * std::expm1(-(static_cast<double>(i) - 2) * spacing));
  }

  // edges of cells along z; the last one is where the free potential takes over
  std::vector<double> edges;
  for (std::size_t j = 0; j < planes; ++j) {
    const double z = (static_cast<double>(j) + 0.5) * step;
    if (z > far_away) break;
    edges.push_back(z);
  }
  const std::size_t near = edges.size();
  if (near < planes) edges.push_back(far_away);
  const double finest = finest_wave * resolved / cell;
  const double last = reach < 1 ? std::min(finest, -std::log(shortest) / (2 - 2 * reach)) : finest;
  const rule k = wave_rule(last, edges.back());
  const std::size_t nodes = k.x.size(), cuts = edges.size();
  std::vector<double> sines(nodes * cuts);
  numerics::parallel_for(threads, nodes, [&](std::size_t i) {
    for (std::size_t j = 0; j < cuts; ++j) {
      sines[i * cuts + j] = 2 / pi * std::sin(k.x[i] * edges[j]) / k.x[i];
    }
  });

  const std::size_t all = modes(reach, cell);
  const waves wave(rings, k, all, threads);
  const double tolerance = rank_error * std::ranges::max(harmonic(wave, k, 0, cell).diagonal());
  rank.resize(all);
  u.resize(all);
  w.resize(all);
  numerics::parallel_for(threads, all, [&](std::size_t m) {
    const harmonic here(wave, k, m, cell);
    few_rings few(here, tolerance);
    const std::size_t n = rank[m] = few.pivot.size();
    u[m] = std::move(few.u);
    w[m].resize(n * (n + 1) / 2 * planes);
    double* to = w[m].data();
    std::vector<double> s(cuts);
    for (std::size_t p = 0; p < n; ++p) {
      for (std::size_t q = 0; q <= p; ++q, to += planes) {
        here.sums(few.pivot[p], few.pivot[q], sines, s);
        const double r1 = rings[few.pivot[p]], r2 = rings[few.pivot[q]];
        const double twice = m == 0 ? 1 : 2;
        double before = 0;
        for (std::size_t j = 0; j < planes; ++j) {
          const double z = (static_cast<double>(j) + 0.5) * step;
          double now = s[std::min(j, near)];
          if (j >= near && m < free_modes) now += free_harmonic(m, r1, r2, far_away, z);
          to[j] = twice * (j == 0 ? 2 * now : now - before) / step;
          before = now;
        }
      }
    }
  });
}

}  // namespace betatron::fields
