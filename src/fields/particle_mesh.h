// particle_mesh.h: charges of particles onto a grid, and fields of the grid onto particles.
//
// Particles are first sorted into tiles of the grid, so that what they touch stays in cache. Sorting keeps the order
// of the beam within a tile, and tiles that touch the same nodes are never worked on at the same time: every node is
// summed in the same order on any number of threads. What particles read and, in the adjoint, add, is a vector at every
// node: a tile works with a copy of its nodes as vectors, where particles read whole ones and not rows of each component.
// Results are written in the order of tiles, and then added to the beam in its own. Fields are central differences of the
// potential on the grid, seen through the same shape that was deposited, so that no particle acts on itself and the
// forces add up to zero (R. W. Hockney, J. W. Eastwood, Computer Simulation Using Particles, 1988, sec. 5-3-3).
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "beam/columns.h"
#include "fields/poisson.h"

namespace betatron::fields {

/// Cells between a particle and the edge of the grid, for all shapes.
inline constexpr std::size_t mesh_margin = 3;

/// Where the grid lies: x, y and `t_scale` t of a particle, less the origin, over the edges of a cell, is its place in
/// units of nodes.
struct mesh_frame {
  std::array<double, 3> origin{};
  cell cells{};
  double t_scale = -1;
};

/// Smallest and largest x, y, t; zeros for no particle.
struct extent {
  std::array<double, 3> low{}, high{};
  bool finite = true;  ///< all of all particles
};

template <class F>
extent extent_of(const beam::columns<const F>& particles, unsigned threads);

template <class F>
class particle_mesh {
 public:
  /// Places the particles relative to a grid of n nodes. They must lie mesh_margin cells inside it; what rounding
  /// carries outside is put back to the edge.
  void place(const beam::columns<const F>& particles, const mesh_frame& frame,
             std::array<std::size_t, 3> n, unsigned threads);

  /// Adds the weights of the placed particles. order: of the shape, 1 (cloud in cell), 2 (quadratic), 3 (cubic).
  void deposit(int order, grid<F>& density, unsigned threads) const;

  /// Adds factor[i] (minus the difference of the potential along axis i from node to node) to the columns of the
  /// particles that were placed.
  void gather(int order, const grid<F>& potential, const std::array<double, 3>& factor, F* px,
              F* py, F* pt, unsigned threads);

  /// The dual charges that the derivatives of a loss by the momenta stand for, and the adjoint of deposit and gather
  /// together: see pull_columns. The latter returns its sums: nu_a, nu_a (u_a - centre_a), m_a E_a.
  void deposit_pull(int order, const pull_columns<F>& columns, grid<F>& density, grid<F>& dual,
                    unsigned threads);
  std::array<double, 9> gather_pull(int order, const grid<F>& potential, const grid<F>& dual,
                                    const pull_columns<F>& columns, unsigned threads);

  static double memory(std::size_t particles) {
    return static_cast<double>(particles) *
           (sizeof(mesh_particle<F>) + sizeof(triple<F>) + sizeof(std::uint32_t));
  }

 private:
  huge_array<F> tile_memory(const grid<F>& mesh) const;
  template <class Work>
  void for_each(huge_array<triple<F>>& sorted, unsigned threads, Work&& work) const;

  huge_array<mesh_particle<F>> sorted_{};
  huge_array<std::uint32_t> rank_{};          // of every particle, among the sorted ones
  huge_array<triple<F>> fields_{}, pulls_{};  // of every sorted particle
  std::size_t count_ = 0;
  std::size_t tile_rows_ = 0, tiles_y_ = 0;
  std::vector<std::size_t> first_{};  // of every tile, and the end
};

extern template extent extent_of(const beam::columns<const float>&, unsigned);
extern template extent extent_of(const beam::columns<const double>&, unsigned);
extern template class particle_mesh<float>;
extern template class particle_mesh<double>;

}  // namespace betatron::fields
