// linear.h: the little linear algebra of 6 x 6 covariance matrices.
#pragma once

#include <array>
#include <cstddef>

namespace betatron::beam {

/// A 6 x 6 matrix, row-major, in the order x, px, y, py, t, pt.
using matrix6 = std::array<double, 36>;

/// a b, where a may have many zeros.
matrix6 product(const matrix6& a, const matrix6& b);

/// m a m^T for a symmetric a: symmetric to the bit.
matrix6 sandwich(const matrix6& m, const matrix6& a);

/// Eigenvalues, smallest first, and orthonormal eigenvectors (columns, in the same order) of a
/// symmetric matrix, by cyclic Jacobi rotations.
struct symmetric_eigensystem {
  std::array<double, 6> values;
  matrix6 vectors;
};
symmetric_eigensystem diagonalise(matrix6 a);

/// A factor L with L L^T = cov of a symmetric positive semidefinite matrix of any rank, triangular
/// in the given order of the coordinates: coordinate order[k] depends on the columns order[0..k]
/// only, and on its own column with a coefficient >= 0. The column of a coordinate that does not vary on
/// its own (no variance, or fully correlated with those before it) is 0. For a definite matrix it is the Cholesky
/// factor; the way through eigenvalues (those below 0 count as 0) is accurate for singular ones
/// too.
matrix6 semidefinite_factor(const matrix6& cov, const std::array<int, 6>& order);

/// Singular values, largest first, by one-sided Jacobi rotations (Hestenes 1958), which keep small
/// ones accurate next to large ones.
std::array<double, 6> singular_values(matrix6 a);

}  // namespace betatron::beam
