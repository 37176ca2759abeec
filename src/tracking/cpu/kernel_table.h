// kernel_table.h: the vector kernels of one instruction set, as a table of functions.
//
// kernels.cpp is compiled once per instruction set and precision; dispatch.cpp picks a table at run time.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "beam/columns.h"
#include "beam/moments_block.h"
#include "elements/kinds.h"
#include "elements/radiation.h"

namespace betatron::tracking {

/// Particles per tile: six coordinates and two energy columns of 384 doubles fill half of a 48 KiB first-level cache.
inline constexpr std::size_t tile_size = 384;

/// A run of particles whose columns stay in cache. `count` is a multiple of the pack width.
template <class F>
struct tile {
  std::array<F*, 6> z;  ///< x, px, y, py, t, pt
  F* inv_p;             ///< see elements::energy
  F* slip;
  std::size_t count;
  std::uint32_t*
      outside;  ///< out: one word per pack, one bit per lane that left the domain of a map
  std::array<F*, 3> spin{};  ///< sx, sy, sz; null where the beam has no spins
  std::array<F*, 2> mark{};  ///< kinetic px, py where a step began that radiates
  F* noise = nullptr;        ///< random numbers for the step, see elements/radiation.h
};

template <class F>
struct kernel_table {
  /// Pushes a tile through one map; true if any lane is outside its domain. Those lanes keep their coordinates.
  using push_function = bool (*)(const F* coefficients, const tile<F>&);

  std::array<push_function, elements::all_maps::size> push;

  /// The same, with the spins, of the maps that turn them; null for those that do not.
  using spin_function = bool (*)(const F* coefficients, const tile<F>&,
                                 const elements::gyration<F>&);
  std::array<spin_function, elements::all_maps::size> push_spin;

  void (*refresh)(const F* energy, const tile<F>&);
  void (*mark)(const F* coefficients, const tile<F>&);     ///< elements::radiation_mark
  bool (*radiate)(const F* coefficients, const tile<F>&);  ///< elements::radiation_loss
  /// Marks lanes with a coordinate that is not finite; true if there are any.
  bool (*find_non_finite)(const tile<F>&);
  beam::moment_sums (*sum)(const beam::columns<const F>&, std::size_t first, std::size_t count);
  std::size_t width;  ///< lanes per pack
  const char* isa;
};

/// The best table for this processor. Throws std::runtime_error if the processor lacks the oldest instruction
/// set that was compiled.
template <class F>
const kernel_table<F>& kernels();

}  // namespace betatron::tracking
