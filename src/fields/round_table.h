// round_table.h: the vector kernels of round_pipe.h for one instruction set, as a table of functions.
//
// round_kernels.cpp is compiled once per instruction set and precision; dispatch.cpp picks a table at run time. Lanes of a
// pack are planes of the mesh.
#pragma once

#include <cstddef>
#include <cstdint>

#include "fields/cylinder.h"
#include "fields/kernel_table.h"

namespace betatron::fields {

/// Where a column of the mesh (all z) stands among rings and sectors.
template <class F>
struct polar_place {
  std::uint32_t first;  ///< of the rings and sectors that share it
  F ring[polar_points], sector[polar_points];
};

/// Between columns of the mesh and functions of angle and radius.
template <class F>
struct polar_view {
  const polar_place<F>* places;  ///< of all columns, x fastest
  std::size_t rings,
      row;  ///< row: sectors of a ring, with polar_points - 1 more that repeat the first ones
  fft_view<F> circle;         ///< of all sectors
  std::size_t modes;          ///< m = 0 ... modes - 1
  const std::uint32_t* rank;  ///< of m
  const F* radial;            ///< of m, ring by ring: `rank` numbers
  std::size_t amplitudes;     ///< of m: `rank` for cos, and but for m = 0 `rank` for sin
};

template <class F>
struct round_kernels {
  std::size_t width;  ///< planes that are worked on together

  /// Planes z ... z + width - 1 (those that are there): sums over the columns of their numbers times the functions;
  /// amplitude i of plane z is out[z out_plane + i]. `work`: see polar_work.
  void (*sum)(const polar_view<F>& polar, const lattice_view<const F>& mesh, std::size_t z, F* out,
              std::size_t out_plane, F* work);
  /// The transpose: what the functions with these amplitudes are is added to the columns.
  void (*add)(const polar_view<F>& polar, const lattice_view<F>& mesh, std::size_t z, const F* in,
              std::size_t in_plane, F* work);
};

/// Numbers of F that those work in.
template <class F>
std::size_t polar_work(const polar_view<F>& p, std::size_t width) {
  return width * ((p.rings + 1) * p.row + 2 * p.circle.n + p.amplitudes + width);
}

/// The table for this processor, see numerics/dispatch.h.
template <class F>
const round_kernels<F>& round_table();

}  // namespace betatron::fields
