// plan.h: which memory the results of layers share. Fixed once for a network, for the engine and for generated code.
#pragma once

#include <cstddef>
#include <vector>

#include "surrogate/network.h"

namespace betatron::surrogate {

/// Values v_0 ... v_L (see network.h) live in slots of memory, from the layer that makes them to the last that reads
/// them; so do the derivatives by them, on the way back.
struct evaluation_plan {
  std::vector<std::size_t> forward;   ///< slot of v_k
  std::vector<std::size_t> backward;  ///< slot of the derivative by v_k
  std::size_t forward_slots = 0, backward_slots = 0;

  /// Where the argument of the activation function of each layer is kept for the way back, in numbers per particle;
  /// those of all layers together.
  std::vector<std::size_t> kept_at;
  std::size_t kept = 0;
  /// The layer that contributes to the derivative by v_k first, on the way back: L for v_L.
  std::vector<std::size_t> begins_at;
};

evaluation_plan make_plan(const network&);

}  // namespace betatron::surrogate
