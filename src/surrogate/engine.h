// engine.h: networks in single or double precision, layer by layer, panel by panel.
#pragma once

#include <algorithm>
#include <cstddef>
#include <mutex>
#include <vector>

#include "fields/huge_array.h"
#include "surrogate/kernel_table.h"
#include "surrogate/panel.h"
#include "surrogate/plan.h"

namespace betatron::surrogate {

/// Inputs of a layer that are multiplied in one go: their block stays in the first-level cache.
inline constexpr std::size_t most_inputs = 128;
/// Panels get as many blocks as this memory holds where the weights do not stay in the second-level cache ...
inline constexpr std::size_t panel_bytes = std::size_t{1} << 20;
inline constexpr std::size_t most_blocks = 8;
/// ... which weights of this size do.
inline constexpr std::size_t cached_weights = std::size_t{1} << 20;
template <class F>
using buffer = fields::huge_array<F>;

template <class F>
buffer<F> copy(const std::vector<double>& from) {
  buffer<F> to(from.size());
  for (std::size_t i = 0; i < from.size(); ++i) to[i] = static_cast<F>(from[i]);
  return to;
}

/// A matrix in the order in which kernels read it: ranges of inputs; in each the groups of outputs; in each the inputs;
/// for each of them the outputs of the group.
template <class F>
struct packed_weights {
  std::size_t inputs, outputs;
  std::vector<std::size_t> ranges;  // their ends
  buffer<F> weights;

  /// at(output, input): the number there.
  template <class At>
  packed_weights(std::size_t inputs_, std::size_t outputs_, std::size_t rows, At&& at)
      : inputs(inputs_), outputs(outputs_), weights(inputs * outputs) {
    const std::size_t count = (inputs + most_inputs - 1) / most_inputs;
    const output_groups groups(outputs, rows);
    F* to = weights.data();
    for (std::size_t r = 0, first = 0; r < count; ++r) {
      const std::size_t last = inputs * (r + 1) / count;
      for (std::size_t g = 0, row = 0; g < groups.count; ++g) {
        const std::size_t size = groups.smaller + (g < groups.larger);
        for (std::size_t k = first; k < last; ++k) {
          for (std::size_t m = 0; m < size; ++m) *to++ = static_cast<F>(at(row + m, k));
        }
        row += size;
      }
      ranges.push_back(last);
      first = last;
    }
  }
};

template <class F>
struct packed_layer {
  packed_weights<F> weights;
  buffer<F> bias, slope;
  epilogue end;

  packed_layer(const dense_layer& l, std::size_t rows)
      : weights(l.inputs, l.outputs, rows,
                [&](std::size_t m, std::size_t k) { return l.weights[m * l.inputs + k]; }),
        bias(copy<F>(l.bias)),
        slope(copy<F>(l.slope)),
        end{l.function, l.slope.size() > 1} {}
};

/// Evaluates networks in single or double precision.
template <class F>
class engine {
 public:
  explicit engine(const network& n)
      : network_(n), kernels_(surrogate::kernels<F>()), plan_(make_plan(n)), gate_(n) {
    std::size_t bytes = 0;
    for (const dense_layer& l : n.layers) {
      layers_.emplace_back(l, kernels_.rows);
      bytes += l.weights.size() * sizeof(F);
      widest_ = std::max({widest_, l.inputs, l.outputs});
    }
    const std::size_t lanes = kernels_.vectors * kernels_.width;
    const std::size_t block_bytes = plan_.forward_slots * widest_ * lanes * sizeof(F);
    if (bytes > cached_weights) {
      blocks_ = std::clamp<std::size_t>(panel_bytes / block_bytes, 1, most_blocks);
    }
  }

  const char* instructions() const { return kernels_.isa; }

  /// The particles of a panel.
  std::size_t panel() const { return blocks_ * kernels_.vectors * kernels_.width; }

  template <class C>
  void run_panel(const C* const* in, C* const* out, std::size_t first, std::size_t count) const {
    const panel_shape s = shape_of(count);
    F* values =
        reinterpret_cast<F*>(scratch(plan_.forward_slots * widest_ * s.particles * sizeof(F)));
    gate_.load(in, gate_.input, s, values + slot(plan_.forward[0], s), first);
    for (std::size_t k = 1; k <= layers_.size(); ++k) forward(k, s, values, nullptr);
    gate_.store(values + slot(plan_.forward.back(), s), network_.outputs(), gate_.output, s, out,
                first);
  }

  /// turn(first, count, columns): see evaluator::turn.
  template <class C, class Turn>
  void pull_panel(const C* const* in, const Turn& turn, C* const* in_bar, std::size_t first,
                  std::size_t count) const {
    const packed_transposed& back = transposed();
    const panel_shape s = shape_of(count);
    const std::size_t outputs = network_.outputs();
    const std::size_t value_size = widest_ * s.particles;
    const std::size_t numbers =
        (plan_.forward_slots + plan_.backward_slots) * value_size + plan_.kept * s.particles;
    std::byte* memory = scratch(numbers * sizeof(F) + outputs * s.particles * sizeof(C));
    F* values = reinterpret_cast<F*>(memory);
    F* gradients = values + plan_.forward_slots * value_size;
    F* kept = gradients + plan_.backward_slots * value_size;
    C* columns = reinterpret_cast<C*>(values + numbers);
    gate_.load(in, gate_.input, s, values + slot(plan_.forward[0], s), first);
    for (std::size_t k = 1; k <= layers_.size(); ++k) forward(k, s, values, kept);

    std::vector<C*> out(outputs);
    for (std::size_t i = 0; i < outputs; ++i) out[i] = columns + i * s.particles;
    gate_.store(values + slot(plan_.forward.back(), s), outputs, gate_.output, s, out.data(), 0);
    turn(first, count, out.data());
    gate_.template load<C>(out.data(), gate_.output_bar, s,
                           gradients + slot(plan_.backward.back(), s), 0);
    for (std::size_t k = layers_.size(); k >= 1; --k) backward(k, s, gradients, kept, back);
    gate_.store(gradients + slot(plan_.backward[0], s), network_.inputs(), gate_.input_bar, s,
                in_bar, first);
  }

 private:
  using packed_transposed = std::vector<packed_weights<F>>;

  panel_shape shape_of(std::size_t count) const {
    return {count, kernels_.vectors * kernels_.width, kernels_.width};
  }
  std::size_t slot(std::size_t number, const panel_shape& s) const {
    return number * widest_ * s.particles;
  }

  /// One layer for all blocks, range by range of its inputs: the weights of a range serve all blocks in turn.
  void multiply(const packed_weights<F>& w, const panel_shape& s, const F* x, F* y,
                dense_task<F> task, const F* before, const F* behind, F* z) const {
    const F* weights = w.weights.data();
    std::size_t begin = 0;
    for (const std::size_t end : w.ranges) {
      s.for_blocks([&](std::size_t b, std::size_t packs) {
        dense_task<F> t = task;
        t.weights = weights;
        t.inputs = end - begin;
        t.outputs = w.outputs;
        t.packs = packs;
        t.x = x + b * w.inputs + begin * packs * kernels_.width;
        t.y = y + b * w.outputs;
        t.before = before ? before + b * w.outputs : nullptr;
        t.behind = behind ? behind + b * w.outputs : nullptr;
        t.z = z ? z + b * w.outputs : nullptr;
        t.first = begin == 0;
        t.last = end == w.inputs;
        kernels_.dense(t);
      });
      weights += (end - begin) * w.outputs;
      begin = end;
    }
  }

  void forward(std::size_t k, const panel_shape& s, F* values, F* kept) const {
    const packed_layer<F>& l = layers_[k - 1];
    const dense_layer& description = network_.layers[k - 1];
    dense_task<F> task{};
    task.bias = l.bias.data();
    task.slope = l.slope.data();
    task.end = l.end;
    const F* skipped =
        description.skip < 0
            ? nullptr
            : values + slot(plan_.forward[static_cast<std::size_t>(description.skip)], s);
    const bool inside = description.skip_inside;
    multiply(
        l.weights, s, values + slot(plan_.forward[k - 1], s), values + slot(plan_.forward[k], s),
        task, inside ? skipped : nullptr, inside ? nullptr : skipped,
        kept && l.end.function != activation::identity ? kept + plan_.kept_at[k - 1] * s.particles
                                                       : nullptr);
  }

  void backward(std::size_t k, const panel_shape& s, F* gradients, const F* kept,
                const packed_transposed& back) const {
    const packed_layer<F>& l = layers_[k - 1];
    const dense_layer& description = network_.layers[k - 1];
    F* gradient = gradients + slot(plan_.backward[k], s);
    const std::size_t outputs = description.outputs;
    const auto add_to_skipped = [&] {
      const auto source = static_cast<std::size_t>(description.skip);
      F* to = gradients + slot(plan_.backward[source], s);
      if (plan_.begins_at[source] == k) {
        std::copy_n(gradient, outputs * s.particles, to);
      } else {
        kernels_.add(gradient, to, outputs * s.particles / kernels_.width);
      }
    };
    if (description.skip >= 0 && !description.skip_inside) add_to_skipped();
    s.for_blocks([&](std::size_t b, std::size_t packs) {
      kernels_.derive(l.end, l.slope.data(),
                      kept + plan_.kept_at[k - 1] * s.particles + b * outputs,
                      gradient + b * outputs, outputs, packs);
    });
    if (description.skip >= 0 && description.skip_inside) add_to_skipped();
    F* to = gradients + slot(plan_.backward[k - 1], s);
    const bool more = plan_.begins_at[k - 1] != k || description.skip == static_cast<int>(k) - 1;
    multiply(back[k - 1], s, gradient, to, dense_task<F>{}, more ? to : nullptr, nullptr, nullptr);
  }

  const packed_transposed& transposed() const {
    std::call_once(transposed_once_, [this] {
      for (const dense_layer& l : network_.layers) {
        transposed_.emplace_back(
            l.outputs, l.inputs, kernels_.rows,
            [&](std::size_t m, std::size_t k) { return l.weights[k * l.inputs + m]; });
      }
    });
    return transposed_;
  }

  network network_;
  const dense_kernels<F>& kernels_;
  evaluation_plan plan_;
  column_gate<F> gate_;
  std::vector<packed_layer<F>> layers_;
  std::size_t widest_ = 0, blocks_ = 1;
  mutable std::once_flag transposed_once_;
  mutable packed_transposed transposed_;  // of no use without gradients
};

}  // namespace betatron::surrogate
