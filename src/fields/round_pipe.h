// round_pipe.h: the potential of charges inside a round pipe of a perfect conductor, on a grid; open along z.
//
// That in free space (poisson.h) less that of the wall, which is a smooth function of both places (cylinder.h):
//   phi = G rho - P C P^T rho.
// P^T sums charges of a plane of the mesh over functions e^{i m t} U_p(r): each column is shared by 6 x 6 rings and sectors, with
// the weights of the polynomials through them, the sums go through a Fourier transform along the sectors and U along the rings.
// C is the convolution with W along z, by the transforms of poisson.h, for each harmonic between its few functions. P is the way
// back. All of this is symmetric, so that two charges act alike on each other and an adjoint is one more solution; and it does
// not depend on where along z charges are.
//
// Nodes may lie beyond the wall, where shapes of particles reach: U is continued by its tangent at the wall for 4 cells, and is
// constant from there.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "fields/poisson.h"
#include "fields/round_table.h"

namespace betatron::fields {

template <class F>
class round_pipe_solver {
 public:
  /// For grids of this many nodes, each >= 2. Throws std::bad_alloc.
  explicit round_pipe_solver(std::array<std::size_t, 3> nodes);

  /// For cells of these edges (> 0, finite) with the first node at (x, y) and a pipe of this radius around x = y = 0; true if a
  /// Green's function was made, of free space or of the wall.
  bool set_cells(const cell& edges, const std::array<double, 2>& first, double radius,
                 unsigned threads);

  /// Charges become their potential times 4 pi eps0 unit().
  void solve(grid<F>& charges, unsigned threads);

  /// What potentials are in: the edge of a cell in x.
  double unit() const { return open_.unit(); }

  /// Bytes that a solver and one grid take at most: where the grid reaches the wall.
  static double memory(std::array<std::size_t, 3> nodes);

 private:
  struct shape {  ///< of the wall's functions
    double radius = 0, reach = 0, cell = 0, step = 0;
    bool operator==(const shape&) const = default;
  };
  void make_wall(const shape& s, unsigned threads);
  void place_columns(const cell& edges, const std::array<double, 2>& first, unsigned threads);
  polar_view<F> view() const;
  void convolve(unsigned threads);  ///< the amplitudes with W, along z

  std::array<std::size_t, 3> n_;
  open_solver<F> open_;
  shape shape_{};
  std::array<double, 4> places_for_{};  // edges and first node
  cylinder_wall wall_;
  fft_plan<F> circle_{};
  std::vector<std::uint32_t> rank_{};
  huge_array<F> radial_{};
  huge_array<polar_place<F>> places_{};
  axis_plan<F> along_;
  huge_array<F> green_{};  // transform of W: planes of all pairs of all m
  std::size_t green_plane_ = 0;
  std::size_t amplitude_count_ = 0;
  grid<F> amplitudes_{};  // of a plane one after the other, in rows
  huge_array<F> spectrum_{};
};

extern template class round_pipe_solver<float>;
extern template class round_pipe_solver<double>;

}  // namespace betatron::fields
