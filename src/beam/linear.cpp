#include "beam/linear.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

namespace betatron::beam {

namespace {

constexpr int sweeps = 40;  // Jacobi needs about six

constexpr std::size_t at(std::size_t i, std::size_t j) { return 6 * i + j; }

struct rotation {
  double c, s;
};

/// Columns p and q of m become c p - s q and s p + c q.
void rotate_columns(matrix6& m, std::size_t p, std::size_t q, const rotation& r) {
  for (std::size_t k = 0; k < 6; ++k) {
    const double mp = m[at(k, p)], mq = m[at(k, q)];
    m[at(k, p)] = r.c * mp - r.s * mq;
    m[at(k, q)] = r.s * mp + r.c * mq;
  }
}

/// Rows p and q likewise.
void rotate_rows(matrix6& m, std::size_t p, std::size_t q, const rotation& r) {
  for (std::size_t k = 0; k < 6; ++k) {
    const double mp = m[at(p, k)], mq = m[at(q, k)];
    m[at(p, k)] = r.c * mp - r.s * mq;
    m[at(q, k)] = r.s * mp + r.c * mq;
  }
}

/// The smaller of the rotations that make [[app, apq], [apq, aqq]] diagonal.
rotation jacobi_rotation(double app, double apq, double aqq) {
  const double zeta = (aqq - app) / (2 * apq);
  const double t = std::copysign(1.0, zeta) / (std::abs(zeta) + std::hypot(1.0, zeta));
  const double c = 1 / std::hypot(1.0, t);
  return {c, c * t};
}

}  // namespace

matrix6 product(const matrix6& a, const matrix6& b) {
  matrix6 r{};
  for (std::size_t i = 0; i < 6; ++i) {
    for (std::size_t k = 0; k < 6; ++k) {
      if (a[at(i, k)] == 0) continue;
      for (std::size_t j = 0; j < 6; ++j) r[at(i, j)] += a[at(i, k)] * b[at(k, j)];
    }
  }
  return r;
}

matrix6 sandwich(const matrix6& m, const matrix6& a) {
  const matrix6 half = product(m, a);
  matrix6 r{};
  for (std::size_t i = 0; i < 6; ++i) {
    for (std::size_t j = i; j < 6; ++j) {
      double sum = 0;
      for (std::size_t k = 0; k < 6; ++k) sum += half[at(i, k)] * m[at(j, k)];
      r[at(i, j)] = r[at(j, i)] = sum;
    }
  }
  return r;
}

symmetric_eigensystem diagonalise(matrix6 a) {
  matrix6 vectors{};
  for (std::size_t i = 0; i < 6; ++i) vectors[at(i, i)] = 1;
  for (int sweep = 0; sweep < sweeps; ++sweep) {
    double off = 0, all = 0;
    for (std::size_t i = 0; i < 6; ++i) {
      for (std::size_t j = 0; j < 6; ++j) {
        all += a[at(i, j)] * a[at(i, j)];
        if (i != j) off += a[at(i, j)] * a[at(i, j)];
      }
    }
    if (!(off > 1e-34 * all)) break;
    for (std::size_t p = 0; p < 5; ++p) {
      for (std::size_t q = p + 1; q < 6; ++q) {
        if (a[at(p, q)] == 0) continue;
        const rotation r = jacobi_rotation(a[at(p, p)], a[at(p, q)], a[at(q, q)]);
        rotate_columns(a, p, q, r);
        rotate_rows(a, p, q, r);
        a[at(p, q)] = a[at(q, p)] = 0;
        rotate_columns(vectors, p, q, r);
      }
    }
  }
  std::array<std::size_t, 6> order = {0, 1, 2, 3, 4, 5};
  std::ranges::sort(order, std::less<>(), [&](std::size_t k) { return a[at(k, k)]; });
  symmetric_eigensystem sorted;
  for (std::size_t j = 0; j < 6; ++j) {
    sorted.values[j] = a[at(order[j], order[j])];
    for (std::size_t i = 0; i < 6; ++i) sorted.vectors[at(i, j)] = vectors[at(i, order[j])];
  }
  return sorted;
}

matrix6 semidefinite_factor(const matrix6& cov, const std::array<int, 6>& order) {
  // Of the correlation matrix, so that each coordinate gets the accuracy that its own scale allows.
  std::array<double, 6> sigma;
  matrix6 correlation;
  for (std::size_t i = 0; i < 6; ++i) sigma[i] = std::sqrt(cov[at(i, i)]);
  for (std::size_t i = 0; i < 6; ++i) {
    for (std::size_t j = 0; j < 6; ++j) {
      const bool any = sigma[i] != 0 && sigma[j] != 0;
      correlation[at(i, j)] = any ? cov[at(i, j)] / sigma[i] / sigma[j] : 0;
    }
  }
  const auto [values, vectors] = diagonalise(correlation);
  matrix6 factor;
  for (std::size_t i = 0; i < 6; ++i) {
    for (std::size_t j = 0; j < 6; ++j) {
      factor[at(i, j)] = sigma[i] * vectors[at(i, j)] * std::sqrt(std::max(values[j], 0.0));
    }
  }
  // Any rotation of the columns leaves the product. For each coordinate in its turn, what it has in columns that are not
  // taken yet is rotated into its own. One that has nothing left, beyond rounding, leaves its column to the others; in the
  // end that column is 0.
  constexpr double rounding = 1e-13;
  std::array<bool, 6> taken{};
  for (const int coordinate : order) {
    const auto p = static_cast<std::size_t>(coordinate);
    double square = 0;
    for (std::size_t q = 0; q < 6; ++q) {
      if (!taken[q]) square += factor[at(p, q)] * factor[at(p, q)];
    }
    if (std::sqrt(square) <= rounding * sigma[p]) {
      for (std::size_t q = 0; q < 6; ++q) {
        if (!taken[q]) factor[at(p, q)] = 0;
      }
      continue;
    }
    taken[p] = true;
    for (const int other : order) {
      const auto q = static_cast<std::size_t>(other);
      if (taken[q] || factor[at(p, q)] == 0) continue;
      const double length = std::hypot(factor[at(p, p)], factor[at(p, q)]);
      rotate_columns(factor, p, q, {factor[at(p, p)] / length, -factor[at(p, q)] / length});
      factor[at(p, q)] = 0;
    }
    if (factor[at(p, p)] < 0) {
      for (std::size_t i = 0; i < 6; ++i) factor[at(i, p)] = -factor[at(i, p)];
    }
  }
  return factor;
}

std::array<double, 6> singular_values(matrix6 a) {
  for (int sweep = 0; sweep < sweeps; ++sweep) {
    bool rotated = false;
    for (std::size_t p = 0; p < 5; ++p) {
      for (std::size_t q = p + 1; q < 6; ++q) {
        double app = 0, apq = 0, aqq = 0;
        for (std::size_t k = 0; k < 6; ++k) {
          app += a[at(k, p)] * a[at(k, p)];
          apq += a[at(k, p)] * a[at(k, q)];
          aqq += a[at(k, q)] * a[at(k, q)];
        }
        // Columns p and q are orthogonal to rounding already.
        if (!(std::abs(apq) > 1e-16 * std::sqrt(app) * std::sqrt(aqq))) continue;
        rotated = true;
        rotate_columns(a, p, q, jacobi_rotation(app, apq, aqq));
      }
    }
    if (!rotated) break;
  }
  std::array<double, 6> values;
  for (std::size_t j = 0; j < 6; ++j) {
    double sum = 0;
    for (std::size_t k = 0; k < 6; ++k) sum += a[at(k, j)] * a[at(k, j)];
    values[j] = std::sqrt(sum);
  }
  std::ranges::sort(values, std::greater<>());
  return values;
}

}  // namespace betatron::beam
