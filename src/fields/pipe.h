// pipe.h: the potential of charges inside a rectangular pipe of a perfect conductor, on a grid; open along z.
//
// The potential is 0 at x = +-a and y = +-b. With k_mn^2 = (pi m/2a)^2 + (pi n/2b)^2, X_m = sin(pi m (x + a)/2a) and
// Y_n = sin(pi n (y + b)/2b), grad^2 phi = -rho/eps0 falls apart into
//   phi_mn'' - k_mn^2 phi_mn = -rho_mn/eps0,   phi = sum phi_mn(z) X_m Y_n,   rho_mn = (1/ab) int rho X_m Y_n dx dy,
// each with the Green's function exp(-k |z|)/2k in free space along z (J. D. Jackson, Classical Electrodynamics, 3rd ed.,
// sec. 3.11; J. Qiang, Comput. Phys. Commun. 203 (2016) 122). On the grid the transverse modes are those of its nodes, by sine
// transforms, and charges are uniform along z within a cell of the length h:
//   G_0 = (1 - exp(-k h/2))/(k^2 h),   G_j = exp(-k (j - 1/2) h) (1 - exp(-k h))/(2 k^2 h)   at a distance of j cells.
// The convolution with such a function is two recursions, one from each end: nothing is padded, cut off or periodic.
//
// Nodes stand on the walls. Beyond them the grid has pipe_margin more nodes on every side, into which shapes of particles
// reach: charge there is that of an image, of the opposite sign inside; and the potential is continued as an odd function.
// So two particles push each other with equal strength, and the force of a wall is that of the images.
#pragma once

#include <array>
#include <cstddef>

#include "fields/poisson.h"

namespace betatron::fields {

/// Nodes beyond a wall.
inline constexpr std::size_t pipe_margin = 3;

/// Cells across the pipe that are used for at least so many: a length of good transforms.
std::size_t pipe_cells(std::size_t wanted);

template <class F>
class pipe_solver {
 public:
  /// Nodes {cells across x + 2 pipe_margin + 1, likewise in y, nz}; the cells are pipe_cells of something. Throws
  /// std::bad_alloc.
  explicit pipe_solver(std::array<std::size_t, 3> nodes);

  /// For cells of these edges (> 0, finite); true if tables were made, false if they are there already.
  bool set_cells(const cell& edges);

  /// Charges become their potential times 4 pi eps0 unit().
  void solve(grid<F>& charges, unsigned threads);

  /// What potentials are in: the edge of a cell in x.
  double unit() const { return unit_; }

  /// Bytes that a solver and one grid take.
  static double memory(std::array<std::size_t, 3> nodes);

 private:
  std::array<std::size_t, 3> n_;
  std::array<fft_plan<F>, 2> plan_;
  double unit_ = 0;
  std::array<double, 3> edges_{};
  std::size_t row_ = 0;                      // of the tables
  huge_array<F> self_{}, step_{}, decay_{};  // of every mode: G_0, G_1, exp(-k h)
};

/// The same for long lines of charge: -grad^2 u = 2 pi times the charge per length; u of a charge of 1 is -ln r near it.
class pipe_solver_2d {
 public:
  explicit pipe_solver_2d(std::array<std::size_t, 2> nodes);
  void set_cells(const std::array<double, 2>& edges);
  /// A plane of charges becomes their potential u. `charges` has nodes {nx, ny, at least 1}.
  void solve(grid<double>& charges);
  static double memory(std::array<std::size_t, 2> nodes);

 private:
  std::array<std::size_t, 2> n_;
  std::array<fft_plan<double>, 2> plan_;
  std::array<double, 2> edges_{};
  std::size_t row_ = 0;
  huge_array<double> green_{}, work_{};
};

extern template class pipe_solver<float>;
extern template class pipe_solver<double>;

}  // namespace betatron::fields
