// kernel_table.h: what networks are evaluated with, for one instruction set, as a table of functions.
//
// Particles go through all layers in panels that stay in the cache. A panel consists of blocks of up to
// `vectors` packs; in a block, the numbers of one feature are neighbours (lane by lane), features follow each
// other. A layer multiplies blocks by its weights, which lie in the order in which they are needed (see
// packed_weights): the innermost kernel holds `rows` outputs of a whole block in registers.
//
// Every sum runs over the inputs in the same order whatever the size of the block and the number of particles,
// so that a result depends on nothing but the particle.
#pragma once

#include <cstddef>

#include "surrogate/network.h"

namespace betatron::surrogate {

/// What is done to a sum before it is stored.
struct epilogue {
  activation function = activation::identity;
  bool slope_per_output = false;
};

/// One block through one layer, or through a range of its inputs.
template <class F>
struct dense_task {
  const F* weights;  ///< see packed_weights: of this range of inputs
  std::size_t inputs, outputs;
  std::size_t packs;        ///< of the block
  const F* x;               ///< inputs x packs
  F* y;                     ///< outputs x packs: results, and sums between ranges of inputs
  const F* bias = nullptr;  ///< one per output; null for 0
  const F* before =
      nullptr;  ///< outputs x packs, added before the activation function; null for none
  const F* behind = nullptr;  ///< ... behind it
  const F* slope = nullptr;   ///< one, or one per output
  F* z = nullptr;  ///< outputs x packs: what went into the activation function; null if not wanted
  epilogue end{};
  bool first = true, last = true;  ///< range of inputs
};

template <class F>
struct dense_kernels {
  void (*dense)(const dense_task<F>&);
  /// gradient[i] *= f'(z[i]), outputs x packs.
  void (*derive)(const epilogue&, const F* slope, const F* z, F* gradient, std::size_t outputs,
                 std::size_t packs);
  /// to += from.
  void (*add)(const F* from, F* to, std::size_t packs);

  /// to[i] = (from[i] - offset) * scale for i < count, 0 up to the end of the pack. In the arithmetic of the column.
  void (*load_single)(const float* from, F* to, std::size_t count, double offset, double scale);
  void (*load_double)(const double* from, F* to, std::size_t count, double offset, double scale);
  /// to[i] = from[i] * scale + offset.
  void (*store_single)(const F* from, float* to, std::size_t count, double offset, double scale);
  void (*store_double)(const F* from, double* to, std::size_t count, double offset, double scale);

  std::size_t width;    ///< lanes per pack
  std::size_t rows;     ///< most outputs that are computed together
  std::size_t vectors;  ///< most packs in a block
  const char* isa;
};

/// Outputs are computed in groups of at most `rows`, as equal as possible: the first `larger` groups have one more
/// than the others.
struct output_groups {
  std::size_t count, smaller, larger;
  output_groups(std::size_t outputs, std::size_t rows)
      : count((outputs + rows - 1) / rows), smaller(outputs / count), larger(outputs % count) {}
};

/// The table for this processor, see numerics/dispatch.h.
template <class F>
const dense_kernels<F>& kernels();

}  // namespace betatron::surrogate
