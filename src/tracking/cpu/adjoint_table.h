// adjoint_table.h: the vector kernels of the reverse pass, as a table of functions; see kernel_table.h.
//
// The reverse pass carries, for each particle, its coordinates z and the tangent v = S^-1 lambda, where lambda is
// the derivative of the loss with respect to z and S the symplectic form. For a map M whose Jacobian J satisfies
// J^T S J = f S, f = p0_in/p0_out, the derivative with respect to the coordinates in front is J^T lambda = f S J^-1 v:
// pushing (z, v) through the inverse map undoes M and pulls v back. A parameter k that M depends on contributes
// -lambda_in . dM^-1/dk, the derivative taken at z behind.
//
// A step that radiates (elements/radiation.h) is neither symplectic nor undone: it is given z in front of it, and
// J^T lambda and lambda . dM/dk follow from dual numbers.
#pragma once

#include <array>
#include <cstddef>

#include "elements/kinds.h"

namespace betatron::tracking {

/// Particles per tile of the reverse pass: 16 columns of doubles fill half of a 48 KiB first-level cache.
inline constexpr std::size_t adjoint_tile_size = 192;

/// A run of particles. `count` is a multiple of the pack width.
template <class F>
struct adjoint_tile {
  std::array<F*, 6> z;  ///< x, px, y, py, t, pt
  std::array<F*, 6> v;  ///< S^-1 lambda: v_x = -lambda_px, v_px = lambda_x, ...
  F* inv_p;             ///< see elements::energy
  F* slip;
  F* inv_p_tangent;  ///< their derivatives along v, kept while pt does not change
  F* slip_tangent;
  std::size_t count;
  bool still;  ///< v_pt is 0 for all: the loss does not depend on time from here on
};

/// A direction in which the coefficients of a map vary, as dual numbers: value, tangent, value, tangent, ...
template <class F>
struct adjoint_direction {
  const F* coefficients;
  const F* energy;  ///< 1/beta0 and 1/(beta0 gamma0)^2, or null where they do not vary
};

/// What a step that radiates has beside the tile.
template <class F>
struct adjoint_radiation {
  std::array<const F*, 2> mark;  ///< kinetic px, py where it began
  const F* noise;
  std::array<F*, 2> by_mark;  ///< derivatives by these momenta are added here
};

template <class F>
struct adjoint_table {
  /// Undoes a map, given the coefficients of its inverse, and adds to sums[d] what the particles contribute along
  /// each direction d. `scratch` holds `directions` packs.
  using pull_function = void (*)(const F* coefficients, const adjoint_direction<F>* directions,
                                 std::size_t direction_count, F* scratch, double* sums,
                                 const adjoint_tile<F>&);

  std::array<pull_function, elements::all_maps::size> pull;  ///< null for filters

  /// Pushes z and a tangent v of it through a map (forward), along one direction of its coefficients.
  using push_function = void (*)(const F* dual_coefficients, const F* dual_energy,
                                 const adjoint_tile<F>&);
  std::array<push_function, elements::all_maps::size> push;  ///< null for filters

  /// elements::radiation_loss: given z in front, v behind becomes v in front; the other arguments as of pull.
  void (*radiate)(const F* coefficients, const adjoint_direction<F>* directions,
                  std::size_t direction_count, F* scratch, double* sums,
                  const adjoint_radiation<F>&, const adjoint_tile<F>&);

  /// The energy columns and their tangents; returns what `still` is from now on.
  bool (*refresh)(const F* energy, const adjoint_tile<F>&);
  std::size_t width;  ///< lanes per pack
};

/// The table that belongs to kernels<F>().
template <class F>
const adjoint_table<F>& adjoint_kernels();

}  // namespace betatron::tracking
