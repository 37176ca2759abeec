// kernel_table.h: the vector kernels of field solvers for one instruction set, as a table of functions.
//
// kernels.cpp is compiled once per instruction set and precision; dispatch.cpp picks the table of the instruction set
// that tracking uses.
#pragma once

#include <cstddef>
#include <cstdint>

#include "fields/fft_lines.h"
#include "fields/fft_plan.h"
#include "numerics/hd.h"

namespace betatron::fields {

/// What kernels see of an axis_plan.
template <class F>
struct axis_view {
  std::size_t n, m;
  fft_view<F> complex, half;
  const F* turn;
  const std::uint32_t* pairs;
};

template <class F>
fft_view<F> view_of(const fft_plan<F>& p) {
  return {p.n,
          p.radices.data(),
          p.radices.size(),
          p.twiddles.data(),
          p.frequency.data(),
          p.position.data()};
}
template <class F>
axis_view<F> view_of(const axis_plan<F>& a) {
  return {a.n, a.m, view_of(a.complex), view_of(a.half), a.turn.data(), a.pairs.data()};
}

/// Number of the plane that holds frequency 0, 2, ..., m, then 1, 5, 9, ... (see forward_z), unfolded: a plane p > m/2
/// stands for 4 (p - m/2 - 1) + 1, which may be above m.
BETATRON_INLINE std::size_t folded_frequency(std::size_t p, std::size_t m) {
  const std::size_t f = p <= m / 2 ? 2 * p : 4 * (p - m / 2 - 1) + 1;
  return f <= m ? f : 2 * m - f;
}

/// The column of a Green's function that holds frequency f <= m along x, see axis_plan::pairs.
BETATRON_INLINE std::size_t green_column(std::size_t f, std::size_t m) {
  return f == m ? m : f % 2 * (m / 2) + f / 2;
}

/// Numbers nx x ny x nz on a grid: x fastest, rows `row` apart, planes `plane` apart.
template <class F>
struct lattice_view {
  F* data;
  std::size_t nx, ny, nz, row, plane;
};

/// Where the cells around a node are far away, the average of 1/r over a cell is a series in cell/distance. Distances
/// are in units of the cell in x; `near_*`: nodes below these numbers (in all three) are taken from `near`, x fastest.
template <class F>
struct green_view {
  F hy, hz;  ///< cells in units of that in x
  F scale;   ///< of the result
  std::size_t near_x, near_y, near_z;
  const double* near;
  int slope = 0;  ///< 1, 2: not the average itself but its derivative by hy, hz, in `near` too
};

/// A particle on its way to the grid: position in cells, weight.
template <class F>
struct mesh_particle {
  F x, y, z, weight;
};

/// A number along each axis, for a particle.
template <class F>
struct triple {
  F x, y, z;
};

/// What the adjoint of deposit and gather reads and writes, in columns of the beam.
///
/// With the shape S of a particle at u (in cells), its central difference d^a along the axis a, the potential phi and
/// the kick E_a = sum d^a_i phi_i (times a constant), and with the derivatives m_a = factor_a by_momentum_a of the loss by
/// E_a: the dual charges sigma_i = sum_p m_a d^a_i have the dual potential psi, and the derivative of the loss by u_b is
///   nu_b = sum_i m_a (d/du_b d^a_i) phi_i + w sum_i (dS_i/du_b) psi_i.
template <class F>
struct pull_columns {
  const F* by_momentum[3];  ///< derivatives of the loss by px, py, pt
  F* by_place[3];           ///< by x, y, t: += scale nu
  F* momentum[3];           ///< px, py, pt: -= undo E
  F factor[3], scale[3], undo[3];
  double centre[3];  ///< where the sums of nu (u - centre) are formed
};

/// Planes of a tile. A particle touches at most one plane below and two above its own (three, where its place was
/// rounded up), so that tiles of four planes with one between them share no node.
inline constexpr std::uint32_t tile_planes = 4;

/// From y and t to the tile that a particle falls into.
struct tile_map {
  double scale[2], offset[2], low, last[2];
  double tiles_per_row;
  std::uint32_t tiles_y;
};

template <class F>
struct field_kernels {
  /// Row y of the numbers, padded with zeros and transformed along z: z.m + 1 planes of real and imaginary parts,
  /// frequencies 0, 2, ... 2 (m/2), then 1, 5, 9, ... . `out`: real part of the first plane; imaginary parts are
  /// `imaginary` behind, planes `plane` apart. `work`: 2 m packs.
  void (*forward_z)(const axis_view<F>& z, const lattice_view<const F>& in, std::size_t y, F* out,
                    std::size_t imaginary, std::size_t plane, F* work);
  /// The way back.
  void (*backward_z)(const axis_view<F>& z, const F* in, std::size_t imaginary, std::size_t plane,
                     const lattice_view<F>& out, std::size_t y, F* work);

  /// One plane of complex numbers, ny rows of nx, convolved with the kernel whose transform is `green`: (y.m + 1) rows
  /// of x.m + 1 numbers in the order of green_column, `green_row` (whole packs) apart. `work`: see plane_work.
  void (*convolve)(const axis_view<F>& x, const axis_view<F>& y, F* re, F* im, std::size_t row,
                   const F* green, std::size_t green_row, F* work);

  /// Plane z of the integrated Green's function, transformed along x and y: (y.m + 1) rows of x.m + 1
  /// numbers, as `convolve` takes it.
  void (*green_plane)(const axis_view<F>& x, const axis_view<F>& y, const green_view<F>& g,
                      std::size_t z, F* out, std::size_t row, F* work);
  /// Transforms row y of the planes along z, in place: z.n planes become z.m + 1, in the order of forward_z.
  void (*green_row)(const axis_view<F>& z, F* row_of_first_plane, std::size_t count,
                    std::size_t plane, F* work);

  /// S_k = sum_j f_j sin(pi j k/N), 0 < j, k < N, along x and then along y, in place: (ny - 1) rows of nx - 1 numbers, rows
  /// `row` apart; what is between the last of them and the next multiple of a pack becomes undefined. The plans have the lengths
  /// 2 nx and 2 ny. `work`: 2 max(nx, ny) complex packs. Twice makes nx ny/4 times what there was.
  void (*sine_plane)(const fft_view<F>& x, const fft_view<F>& y, F* first, std::size_t row,
                     F* work);
  /// A row of `count` sine amplitudes in each of nz planes; along z it is convolved with
  /// self, step, step decay, step decay^2, ... at the distances 0, 1, 2, 3, ... . Undefined as above. `work`: nz packs.
  void (*decay_z)(F* first, std::size_t count, std::size_t nz, std::size_t plane, const F* self,
                  const F* step, const F* decay, F* work);

  /// Smallest and largest of count >= 1 numbers; false if one of them is not finite.
  bool (*extent)(const F* x, std::size_t count, F* low, F* high);
  /// The tile of each of count particles: z/tile_planes tiles_y + y tiles_per_row (whole numbers), with y and z scaled, shifted
  /// and kept between low and last; see particle_mesh.
  void (*tiles)(const F* y, const F* t, std::size_t count, const tile_map& map,
                std::uint32_t* result);
  /// Adds particles to the density. order: 1 cloud in cell, 2 quadratic, 3 cubic.
  void (*deposit)(int order, const mesh_particle<F>* p, std::size_t count, const lattice_view<F>&);
  /// `factor` times the difference of a potential from node to node, at particles: central differences on the grid, seen
  /// through the shape that was deposited. `work` here and below: four numbers for every node that the particles touch,
  /// rows filled up to whole packs.
  void (*gather)(int order, const mesh_particle<F>* p, std::size_t count,
                 const lattice_view<const F>& potential, const F* factor, triple<F>* kicks,
                 F* work);

  /// Density and dual charges of particles with these m_a, see pull_columns. A particle touches two planes below its own
  /// and three above (four, where its place was rounded up).
  void (*deposit_pull)(int order, const mesh_particle<F>* p, std::size_t count,
                       const triple<F>* pulls, const lattice_view<F>& density,
                       const lattice_view<F>& dual, F* work);
  /// The adjoint of deposit and gather. fields: E_a; pulls: m_a, which become nu_a. Adds to sums: nu_a (0 ... 2),
  /// nu_a (u_a - centre_a) (3 ... 5), m_a E_a (6 ... 8).
  void (*gather_pull)(int order, const mesh_particle<F>* p, std::size_t count,
                      const lattice_view<const F>& potential, const lattice_view<const F>& dual,
                      const double* centre, triple<F>* fields, triple<F>* pulls, double* sums,
                      F* work);

  std::size_t width;  ///< lanes per pack
  const char* isa;
};

/// Numbers of F that `convolve` and `green_plane` work in.
template <class F>
std::size_t plane_work(const axis_view<F>& x, const axis_view<F>& y, std::size_t width) {
  const std::size_t longest = (x.m > y.m ? x.m : y.m) + 2 * width;  // lines, filled up
  const std::size_t half = (y.m + width) * (x.m + 2 * width);       // a plane between x and y
  return 4 * width * longest + (y.m + 1 + width) * width + 4 * half;
}

/// The table for this processor, see numerics/dispatch.h.
template <class F>
const field_kernels<F>& kernels();

/// n, filled up to whole packs.
template <class F>
std::size_t whole_packs(std::size_t n) {
  const std::size_t width = kernels<F>().width;
  return (n + width - 1) / width * width;
}

}  // namespace betatron::fields
