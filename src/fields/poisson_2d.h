// poisson_2d.h: the potential of long lines of charge in free space, on a plane grid.
//
//   phi_i = sum_j q_j G(x_i - x_j),   G = average of -ln r over a cell of the grid,
//
// as a convolution by discrete Fourier transforms, as in poisson.h: the plane is one of the planes there. The average
// is exact (integrated Green's function: J. Qiang et al., PRSTAB 9, 044204 (2006), in two dimensions): near by from the
// antiderivative at the corners of the cell,
//   4 int int -ln r dx dy = -2 (x y ln(x^2 + y^2) - 3 x y + x^2 atan(y/x) + y^2 atan(x/y)),
// and at more than 24 cells, where that loses digits, from its Taylor series: -ln r is harmonic, so that the terms of
// second and fourth order are Re(1/z^2) (hx^2 - hy^2)/24 and Re(1/z^4) ((hx^4 + hy^4)/320 - hx^2 hy^2/96), z = x + i y.
#pragma once

#include <array>
#include <cstddef>
#include <vector>

#include "fields/poisson.h"

namespace betatron::fields {

/// The average of -ln r over a rectangle of these edges (> 0) around (x, y).
double average_logarithm(double x, double y, double hx, double hy);

/// Its derivative by hy, where y is a fixed multiple j of it: with the averages F+- of -ln r over the edges of the rectangle
/// at y +- hy/2, (-G + (F+ + F-)/2 + j (F+ - F-))/hy.
double average_logarithm_slope(double x, double y, double hx, double hy);

class open_solver_2d {
 public:
  /// For grids of this many nodes, each >= 2. Throws std::bad_alloc.
  explicit open_solver_2d(std::array<std::size_t, 2> nodes);

  /// Makes the Green's function for cells of these edges (> 0, finite), unless it is there already: scaling both edges
  /// changes the potential by a constant only. slope: its derivative by the ratio of edges y over x instead, x = 1.
  void set_cells(const std::array<double, 2>& edges, bool slope = false);

  /// A plane of charges becomes their potential, -sum q ln(r/1 m). `charges` has nodes {nx, ny, 2}; plane 1 is used.
  void solve(grid<double>& charges);

  /// Bytes that a solver and its grid take.
  static double memory(std::array<std::size_t, 2> nodes);

 private:
  std::array<std::size_t, 2> n_;
  std::array<axis_plan<double>, 2> plan_;
  double edge_ = 0, shape_ = 0;  // hx, hy/hx
  bool slope_ = false;
  std::size_t green_row_ = 0;
  huge_array<double> green_, work_;
};

}  // namespace betatron::fields
