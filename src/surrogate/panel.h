// panel.h: particles on their way from columns through a network and back: memory of a thread, blocks, normalisation.
#pragma once

#include <algorithm>
#include <cstddef>
#include <type_traits>
#include <utility>
#include <vector>

#include "fields/huge_array.h"
#include "surrogate/kernel_table.h"
#include "surrogate/network.h"

namespace betatron::surrogate {

/// Memory for a panel, kept by each thread from call to call.
inline std::byte* scratch(std::size_t bytes) {
  thread_local fields::huge_array<std::byte> memory;
  if (memory.size() < bytes) {
    memory = {};
    memory = fields::huge_array<std::byte>(bytes);
  }
  return memory.data();
}

/// How a panel is cut into blocks.
struct panel_shape {
  std::size_t count;      ///< particles
  std::size_t particles;  ///< with those that fill up the last pack
  std::size_t block, width;

  panel_shape(std::size_t particles_, std::size_t block_, std::size_t width_)
      : count(particles_),
        particles((particles_ + width_ - 1) / width_ * width_),
        block(block_),
        width(width_) {}

  /// Calls body(first lane, packs) for each block.
  template <class Body>
  void for_blocks(Body&& body) const {
    for (std::size_t b = 0; b < particles; b += block) {
      body(b, std::min(block, particles - b) / width);
    }
  }
};

/// Columns to blocks and back, with the normalisation of a network.
template <class F>
class column_gate {
 public:
  explicit column_gate(const network& n)
      : input(whole(n.input, n.inputs())),
        output(whole(n.output, n.outputs())),
        input_bar{std::vector<double>(n.inputs(), 0.0), input.scale},
        output_bar{std::vector<double>(n.outputs(), 0.0), output.scale},
        kernels_(kernels<F>()) {}

  const normalisation input, output;
  const normalisation input_bar, output_bar;  ///< for derivatives

  /// Features of blocks, `(x - offset) * scale`; the lanes that fill up the last pack are 0.
  template <class C>
  void load(const C* const* in, const normalisation& n, const panel_shape& s, F* to,
            std::size_t first) const {
    const std::size_t columns = n.scale.size();
    s.for_blocks([&](std::size_t b, std::size_t packs) {
      const std::size_t lanes = packs * s.width, some = std::min(lanes, s.count - b);
      for (std::size_t k = 0; k < columns; ++k) {
        F* row = to + b * columns + k * lanes;
        if constexpr (std::is_same_v<C, float>) {
          kernels_.load_single(in[k] + first + b, row, some, n.offset[k], n.scale[k]);
        } else {
          kernels_.load_double(in[k] + first + b, row, some, n.offset[k], n.scale[k]);
        }
      }
    });
  }

  /// y * scale + offset; a block has `rows` features, of which the first are stored.
  template <class C>
  void store(const F* from, std::size_t rows, const normalisation& n, const panel_shape& s,
             C* const* out, std::size_t first) const {
    s.for_blocks([&](std::size_t b, std::size_t packs) {
      const std::size_t lanes = packs * s.width, some = std::min(lanes, s.count - b);
      for (std::size_t k = 0; k < n.scale.size(); ++k) {
        const F* row = from + b * rows + k * lanes;
        if constexpr (std::is_same_v<C, float>) {
          kernels_.store_single(row, out[k] + first + b, some, n.offset[k], n.scale[k]);
        } else {
          kernels_.store_double(row, out[k] + first + b, some, n.offset[k], n.scale[k]);
        }
      }
    });
  }

 private:
  static normalisation whole(normalisation n, std::size_t columns) {
    if (n.offset.empty()) n.offset.assign(columns, 0.0);
    if (n.scale.empty()) n.scale.assign(columns, 1.0);
    return n;
  }

  const dense_kernels<F>& kernels_;
};

}  // namespace betatron::surrogate
