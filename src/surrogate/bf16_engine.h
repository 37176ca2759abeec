// bf16_engine.h: networks in bfloat16, see bf16_table.h. Every value of a network is kept in pairs of features, filled
// up to a multiple of 32 with finite numbers that zero weights multiply.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

#include "fields/huge_array.h"
#include "surrogate/bf16_table.h"
#include "surrogate/engine.h"
#include "surrogate/panel.h"
#include "surrogate/plan.h"

namespace betatron::surrogate {

/// The upper half of a single-precision number, rounded to nearest, ties to even.
inline std::uint16_t bf16_bits(double value) {
  const auto bits = std::bit_cast<std::uint32_t>(static_cast<float>(value));
  return static_cast<std::uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}
inline float bf16_number(std::uint16_t bits) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
}

/// A matrix in tiles: groups of two tiles of 16 outputs, where the last may have one; in each the steps of 32 inputs; in
/// each of them the tiles.
struct tiled_weights {
  std::size_t steps, tiles;
  fields::huge_array<std::uint16_t> weights;

  /// at(output, input): the number there. Pairs of tiles only, unless `odd`.
  template <class At>
  tiled_weights(std::size_t inputs, std::size_t outputs, bool odd, At&& at)
      : steps((inputs + tile_inputs - 1) / tile_inputs),
        tiles((outputs + tile_outputs - 1) / tile_outputs),
        weights(0) {
    if (!odd) tiles += tiles % 2;
    weights = fields::huge_array<std::uint16_t>(steps * tiles * tile_outputs * tile_inputs);
    std::uint16_t* to = weights.data();
    for (std::size_t group = 0; group < tiles; group += 2) {
      for (std::size_t s = 0; s < steps; ++s) {
        for (std::size_t t = group; t < std::min(group + 2, tiles); ++t) {
          for (std::size_t m = t * tile_outputs; m < (t + 1) * tile_outputs; ++m) {
            for (std::size_t k = s * tile_inputs; k < (s + 1) * tile_inputs; ++k) {
              *to++ = m < outputs && k < inputs ? bf16_bits(at(m, k)) : std::uint16_t{0};
            }
          }
        }
      }
    }
  }
  std::size_t rows() const { return tiles * tile_outputs; }
};

class bf16_engine {
 public:
  /// At least two layers; `support` has both tables.
  bf16_engine(const network& n, const bf16_support& support)
      : network_(n),
        products_(*support.products),
        kernels_(*support.kernels),
        dense_(surrogate::kernels<float>()),
        plan_(make_plan(n)),
        gate_(n),
        first_(n.layers.front(), dense_.rows) {
    std::size_t bytes = 0;
    for (std::size_t k = 0; k < n.layers.size(); ++k) {
      const dense_layer& l = n.layers[k];
      layers_.emplace_back(l, k + 1 == n.layers.size());
      kept_at_.push_back(kept_);
      if (l.function != activation::identity) kept_ += pairs(l.outputs);
      widest_ = std::max({widest_, pairs(l.inputs), pairs(l.outputs)});
      bytes += layers_.back().weights.weights.size() * sizeof(std::uint16_t);
    }
    const std::size_t block_bytes =
        plan_.forward_slots * widest_ * bf16_packs * bf16_lanes * sizeof(std::uint32_t);
    blocks_ = bytes > cached_weights
                  ? std::clamp<std::size_t>(2 * panel_bytes / block_bytes, 1, most_bf16_blocks)
                  : 2;
  }

  const char* instructions() const { return products_.name; }
  /// The particles of a panel.
  std::size_t panel() const { return blocks_ * bf16_packs * bf16_lanes; }

  template <class C>
  void run_panel(const C* const* in, C* const* out, std::size_t first, std::size_t count) const {
    const panel_shape s(count, bf16_packs * bf16_lanes, bf16_lanes);
    const memory m(*this, s, false, 0);
    gate_.load(in, gate_.input, s, m.input, first);
    through_layers(s, m);
    gate_.store(m.result, layers_.back().weights.rows(), gate_.output, s, out, first);
  }

  /// turn(first, count, columns): see evaluator::turn.
  template <class C, class Turn>
  void pull_panel(const C* const* in, const Turn& turn, C* const* in_bar, std::size_t first,
                  std::size_t count) const {
    const std::vector<tiled_weights>& back = transposed();
    const panel_shape s(count, bf16_packs * bf16_lanes, bf16_lanes);
    const std::size_t outputs = network_.outputs(), last = layers_.size();
    const memory m(*this, s, true, outputs * s.particles * sizeof(C));
    gate_.load(in, gate_.input, s, m.input, first);
    through_layers(s, m);

    C* columns = reinterpret_cast<C*>(m.columns);
    std::vector<C*> out(outputs);
    for (std::size_t i = 0; i < outputs; ++i) out[i] = columns + i * s.particles;
    gate_.store(m.result, layers_.back().weights.rows(), gate_.output, s, out.data(), 0);
    turn(first, count, out.data());
    gate_.template load<C>(out.data(), gate_.output_bar, s, m.result, 0);
    to_pairs(m.result, outputs, s, m.gradient(plan_.backward[last]));
    products_.begin();
    for (std::size_t k = last; k >= 1; --k) backward(k, s, m, back[k - 1]);
    products_.end();
    gate_.store(m.result, back.front().rows(), gate_.input_bar, s, in_bar, first);
  }

 private:
  /// Steps of inputs that are multiplied in one go: two tiles of weights over these, and one block, stay in the
  /// first-level cache.
  static constexpr std::size_t most_steps = 8;
  static constexpr std::size_t most_bf16_blocks = 16;

  static std::size_t pairs(std::size_t features) {  // filled up
    return (features + tile_inputs - 1) / tile_inputs * (tile_inputs / 2);
  }

  struct layer {
    tiled_weights weights;
    std::vector<float> bias, slope;  // one per row of tiles

    layer(const dense_layer& l, bool last)
        : weights(l.inputs, l.outputs, last,
                  [&](std::size_t m, std::size_t k) { return l.weights[m * l.inputs + k]; }) {
      bias.assign(weights.rows(), 0.0f);
      std::ranges::transform(l.bias, bias.begin(), [](double b) { return static_cast<float>(b); });
      slope.assign(l.slope.empty() ? 0 : weights.rows(), 0.0f);
      for (std::size_t m = 0; m < l.outputs && !slope.empty(); ++m) {
        slope[m] = static_cast<float>(l.slope[l.slope.size() == 1 ? 0 : m]);
      }
    }
    const float* slopes() const { return slope.empty() ? nullptr : slope.data(); }
  };

  /// The memory of a panel.
  struct memory {
    float *input, *result;   // first and last value, and derivatives by them
    float* sums;             // of one group of outputs
    float *dense, *dense_z;  // the first layer, one block
    std::uint32_t *values, *gradients, *kept;
    std::byte* columns;
    std::size_t value_size;

    memory(const bf16_engine& e, const panel_shape& s, bool pull, std::size_t bytes)
        : value_size(e.widest_ * s.particles) {
      const network& n = e.network_;
      const std::size_t rows = std::max(pairs(n.inputs()), pairs(n.outputs())) * 2;
      const std::size_t parts[] = {n.inputs() * s.particles,
                                   rows * s.particles,
                                   2 * tile_outputs * s.particles,
                                   n.layers.front().outputs * s.block,
                                   n.layers.front().outputs * s.block,
                                   e.plan_.forward_slots * value_size,
                                   pull ? e.plan_.backward_slots * value_size : 0,
                                   pull ? e.kept_ * s.particles : 0};
      std::size_t total = 0;
      for (const std::size_t part : parts) total += aligned(part * 4);
      std::byte* at = scratch(total + bytes);
      const auto take = [&](std::size_t part) {
        std::byte* begin = at;
        at += aligned(parts[part] * 4);
        return begin;
      };
      input = reinterpret_cast<float*>(take(0));
      result = reinterpret_cast<float*>(take(1));
      sums = reinterpret_cast<float*>(take(2));
      dense = reinterpret_cast<float*>(take(3));
      dense_z = reinterpret_cast<float*>(take(4));
      values = reinterpret_cast<std::uint32_t*>(take(5));
      gradients = reinterpret_cast<std::uint32_t*>(take(6));
      kept = pull ? reinterpret_cast<std::uint32_t*>(take(7)) : nullptr;
      columns = at;
    }
    static std::size_t aligned(std::size_t bytes) { return (bytes + 63) / 64 * 64; }
    std::uint32_t* value(std::size_t slot) const { return values + slot * value_size; }
    std::uint32_t* gradient(std::size_t slot) const { return gradients + slot * value_size; }
  };

  /// Rows of blocks to pairs, filled up with 0.
  void to_pairs(const float* from, std::size_t rows, const panel_shape& s,
                std::uint32_t* to) const {
    s.for_blocks([&](std::size_t b, std::size_t packs) {
      block_to_pairs(from + b * rows, rows, packs, to + b * pairs(rows));
    });
  }
  void block_to_pairs(const float* from, std::size_t rows, std::size_t packs,
                      std::uint32_t* to) const {
    kernels_.to_pairs(from, to, rows, packs);
    std::fill(to + (rows + 1) / 2 * packs * bf16_lanes, to + pairs(rows) * packs * bf16_lanes, 0u);
  }

  void through_layers(const panel_shape& s, const memory& m) const {
    to_pairs(m.input, network_.inputs(), s, m.value(plan_.forward[0]));
    first_layer(s, m);
    products_.begin();
    for (std::size_t k = 2; k <= layers_.size(); ++k) forward(k, s, m);
    products_.end();
  }

  /// Few inputs, and their digits matter: in single precision.
  void first_layer(const panel_shape& s, const memory& m) const {
    const dense_layer& l = network_.layers.front();
    s.for_blocks([&](std::size_t b, std::size_t packs) {
      // the kernels go through all inputs in ranges; one is wide enough here
      const float* x = m.input + b * l.inputs;
      dense_task<float> t{};
      t.outputs = l.outputs;
      t.packs = packs;
      t.y = m.dense;
      t.bias = first_.bias.data();
      t.slope = first_.slope.data();
      t.end = first_.end;
      t.z = m.kept ? m.dense_z : nullptr;
      if (l.skip == 0) (l.skip_inside ? t.before : t.behind) = x;
      const float* weights = first_.weights.weights.data();
      std::size_t begin = 0;
      for (const std::size_t end : first_.weights.ranges) {
        t.weights = weights;
        t.inputs = end - begin;
        t.x = x + begin * packs * bf16_lanes;
        t.first = begin == 0;
        t.last = end == l.inputs;
        dense_.dense(t);
        weights += t.inputs * l.outputs;
        begin = end;
      }
      block_to_pairs(m.dense, l.outputs, packs, m.value(plan_.forward[1]) + b * pairs(l.outputs));
      if (m.kept && l.function != activation::identity) {
        block_to_pairs(m.dense_z, l.outputs, packs,
                       m.kept + kept_at_[0] * s.particles + b * pairs(l.outputs));
      }
    });
  }

  /// finish(b, packs, row, result) for each block and group of outputs: `result` has sums and sizes filled in.
  template <class Finish>
  void multiply(const tiled_weights& w, const std::uint32_t* x, const panel_shape& s,
                const memory& m, Finish&& finish) const {
    const std::size_t ranges = (w.steps + most_steps - 1) / most_steps;
    for (std::size_t tile = 0; tile < w.tiles; tile += 2) {
      const std::size_t tiles = std::min<std::size_t>(2, w.tiles - tile);
      const std::uint16_t* weights = w.weights.data() + tile * w.steps * tile_outputs * tile_inputs;
      for (std::size_t r = 0; r < ranges; ++r) {
        const std::size_t begin = w.steps * r / ranges, end = w.steps * (r + 1) / ranges;
        s.for_blocks([&](std::size_t b, std::size_t packs) {
          products_.multiply(
              {weights + begin * tiles * tile_outputs * tile_inputs,
               x + b * w.steps * (tile_inputs / 2) + begin * (tile_inputs / 2) * packs * bf16_lanes,
               m.sums + b * 2 * tile_outputs, end - begin, tiles, packs, r == 0});
        });
      }
      s.for_blocks([&](std::size_t b, std::size_t packs) {
        bf16_result result{};
        result.sums = m.sums + b * 2 * tile_outputs;
        result.rows = tiles * tile_outputs;
        result.packs = packs;
        finish(b, packs, tile * tile_outputs, result);
      });
    }
  }

  void forward(std::size_t k, const panel_shape& s, const memory& m) const {
    const layer& l = layers_[k - 1];
    const dense_layer& description = network_.layers[k - 1];
    const bool last = k == layers_.size();
    const std::size_t size = pairs(description.outputs);
    const std::uint32_t* skipped =
        description.skip < 0 ? nullptr
                             : m.value(plan_.forward[static_cast<std::size_t>(description.skip)]);
    std::uint32_t* z = m.kept && description.function != activation::identity
                           ? m.kept + kept_at_[k - 1] * s.particles
                           : nullptr;
    multiply(l.weights, m.value(plan_.forward[k - 1]), s, m,
             [&](std::size_t b, std::size_t packs, std::size_t row, bf16_result& r) {
               const std::size_t at = b * size + row / 2 * packs * bf16_lanes;
               r.bias = l.bias.data() + row;
               r.slope = l.slopes() ? l.slopes() + row : nullptr;
               r.function = description.function;
               if (skipped) (description.skip_inside ? r.before : r.behind) = skipped + at;
               r.z = z ? z + at : nullptr;
               if (last) {
                 r.numbers = m.result + b * l.weights.rows() + row * packs * bf16_lanes;
               } else {
                 r.pairs = m.value(plan_.forward[k]) + at;
               }
               kernels_.finish(r);
             });
  }

  void backward(std::size_t k, const panel_shape& s, const memory& m,
                const tiled_weights& back) const {
    const dense_layer& description = network_.layers[k - 1];
    std::uint32_t* gradient = m.gradient(plan_.backward[k]);
    const std::size_t size = pairs(description.outputs);
    const auto add_to_skipped = [&] {
      const auto source = static_cast<std::size_t>(description.skip);
      std::uint32_t* to = m.gradient(plan_.backward[source]);
      if (plan_.begins_at[source] == k) {
        std::copy_n(gradient, size * s.particles, to);
      } else {
        kernels_.add(gradient, to, size * s.particles / bf16_lanes);
      }
    };
    if (description.skip >= 0 && !description.skip_inside) add_to_skipped();
    s.for_blocks([&](std::size_t b, std::size_t packs) {
      kernels_.derive(description.function, layers_[k - 1].slopes(),
                      m.kept + kept_at_[k - 1] * s.particles + b * size, gradient + b * size,
                      std::min(size, layers_[k - 1].weights.rows() / 2), packs);
    });
    if (description.skip >= 0 && description.skip_inside) add_to_skipped();
    std::uint32_t* to = m.gradient(plan_.backward[k - 1]);
    const bool more = plan_.begins_at[k - 1] != k || description.skip == static_cast<int>(k) - 1;
    const std::size_t size_in_front = pairs(description.inputs);
    multiply(back, gradient, s, m,
             [&](std::size_t b, std::size_t packs, std::size_t row, bf16_result& r) {
               const std::size_t at = b * size_in_front + row / 2 * packs * bf16_lanes;
               r.function = activation::identity;
               r.before = more ? to + at : nullptr;
               if (k == 1) {
                 r.numbers = m.result + b * back.rows() + row * packs * bf16_lanes;
               } else {
                 r.pairs = to + at;
               }
               kernels_.finish(r);
             });
  }

  const std::vector<tiled_weights>& transposed() const {
    std::call_once(transposed_once_, [this] {
      for (std::size_t k = 0; k < network_.layers.size(); ++k) {
        const dense_layer& l = network_.layers[k];
        transposed_.emplace_back(l.outputs, l.inputs, k == 0, [&](std::size_t m, std::size_t j) {
          return l.weights[j * l.inputs + m];
        });
      }
    });
    return transposed_;
  }

  network network_;
  const bf16_products& products_;
  const bf16_kernels& kernels_;
  const dense_kernels<float>& dense_;
  evaluation_plan plan_;
  column_gate<float> gate_;
  packed_layer<float> first_;
  std::vector<layer> layers_;
  std::vector<std::size_t> kept_at_;  // of arguments of activation functions, in pairs per particle
  std::size_t kept_ = 0, widest_ = 0, blocks_ = 1;
  mutable std::once_flag transposed_once_;
  mutable std::vector<tiled_weights> transposed_;  // of no use without gradients
};

}  // namespace betatron::surrogate
