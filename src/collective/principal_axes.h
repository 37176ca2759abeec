// principal_axes.h: the axes in which the positions of a beam are not correlated.
#pragma once

#include <array>
#include <cstddef>

#include "beam/linear.h"

namespace betatron::collective {

/// Principal variances, smallest first, and axes[i] of N coordinates.
template <std::size_t N>
struct principal_axes {
  std::array<double, N> variance{};
  std::array<std::array<double, N>, N> axes{};  ///< orthonormal rows
};

/// Of a symmetric matrix; N is 2 or 3.
template <std::size_t N>
principal_axes<N> find_principal_axes(const std::array<std::array<double, N>, N>& covariance) {
  static_assert(N == 2 || N == 3);
  // in the corner of a 6 x 6 matrix whose other eigenvalues are larger, but of the same size
  double trace = 0;
  for (std::size_t i = 0; i < N; ++i) trace += covariance[i][i];
  beam::matrix6 m{};
  for (std::size_t i = 0; i < 6; ++i) m[7 * i] = 2 * trace;
  for (std::size_t i = 0; i < N; ++i) {
    for (std::size_t j = 0; j < N; ++j) m[6 * i + j] = covariance[i][j];
  }
  const beam::symmetric_eigensystem solved = beam::diagonalise(m);
  principal_axes<N> result;
  for (std::size_t k = 0; k < N; ++k) {
    result.variance[k] = solved.values[k];
    for (std::size_t i = 0; i < N; ++i) result.axes[k][i] = solved.vectors[6 * i + k];
  }
  return result;
}

}  // namespace betatron::collective
