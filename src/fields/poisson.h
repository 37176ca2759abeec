// poisson.h: the potential of charges in free space, on a grid.
//
//   phi_i = sum_j q_j G(x_i - x_j),   G = average of 1/r over a cell of the grid (see green.h)
//
// as a convolution by discrete Fourier transforms (R. W. Hockney, J. W. Eastwood, Computer Simulation Using Particles,
// 1988, sec. 6-5-4), organised so that nothing is computed twice or for nothing:
//   - G is even along each axis: its transform is real and even. One octant is computed, from real transforms, and
//     kept while the shape of the cells stays the same: scaling all edges scales G.
//   - The zeros that keep the images of periodicity away are never transformed (see axis_plan).
//   - The charges are transformed along z, real to complex. Then each plane of constant frequency is transformed along
//     x and y, multiplied and transformed back on its own, in cache; what would be the doubled grid never exists.
//   - Many lines go through the transforms at once, one per lane of a vector register.
#pragma once

#include <array>
#include <cstddef>
#include <span>

#include "fields/fft_plan.h"
#include "fields/huge_array.h"
#include "fields/kernel_table.h"

namespace betatron::fields {

/// Numbers on a grid of n nodes, x fastest; rows and planes are padded. There are at least 8 numbers behind the last.
template <class F>
class grid {
 public:
  grid() = default;
  explicit grid(std::array<std::size_t, 3> nodes);

  std::array<std::size_t, 3> nodes() const { return n_; }
  std::size_t row() const { return row_; }      ///< from one row to the next
  std::size_t plane() const { return plane_; }  ///< from one plane to the next
  lattice_view<F> view() { return {data_.data(), n_[0], n_[1], n_[2], row_, plane_}; }
  lattice_view<const F> view() const { return {data_.data(), n_[0], n_[1], n_[2], row_, plane_}; }
  F& at(std::size_t x, std::size_t y, std::size_t z) { return data_[z * plane_ + y * row_ + x]; }
  F at(std::size_t x, std::size_t y, std::size_t z) const {
    return data_[z * plane_ + y * row_ + x];
  }

  grid copy() const;

  /// All numbers 0, padding too.
  void clear(unsigned threads);

 private:
  std::array<std::size_t, 3> n_{};
  std::size_t row_ = 0, plane_ = 0;
  huge_array<F> data_{};
};

/// The edges of a cell: that in x [m], and the others relative to it. (Ratios are kept, not formed, so that cells of
/// the same shape are recognised by their bits.)
struct cell {
  double x = 1, y_over_x = 1, z_over_x = 1;

  std::array<double, 3> edges() const { return {x, x * y_over_x, x * z_over_x}; }
};

template <class F>
class open_solver {
 public:
  /// For grids of this many nodes, each >= 2. Throws std::bad_alloc.
  explicit open_solver(std::array<std::size_t, 3> nodes);

  /// Makes the Green's function for cells of these edges (> 0, finite), unless that for the same ratios is there
  /// already; true if it was made. slope: 1 or 2 for its derivative by y_over_x or z_over_x, x = 1.
  bool set_cells(const cell& edges, unsigned threads, int slope = 0);

  /// Charges become their potential, times unit().
  void solve(grid<F>& charges, unsigned threads);

  /// What potentials are in: the edge of a cell in x, so that single precision has no range to lose.
  double unit() const { return unit_; }

  /// Bytes that a solver and one grid take.
  static double memory(std::array<std::size_t, 3> nodes);

 private:
  std::array<std::size_t, 3> n_;
  std::array<axis_plan<F>, 3> plan_;
  double unit_ = 0;
  std::array<double, 3> shape_{};  // edges over that in x
  int slope_ = 0;
  std::size_t row_ = 0;    // of the spectrum
  std::size_t plane_ = 0;  // of the spectrum: real and imaginary parts
  std::size_t green_row_ = 0, green_plane_ = 0;
  huge_array<F> spectrum_, green_;
};

extern template class grid<float>;
extern template class grid<double>;
extern template class open_solver<float>;
extern template class open_solver<double>;

}  // namespace betatron::fields
