// inference.cpp: networks layer by layer, panel by panel.
#include "surrogate/inference.h"

#include <algorithm>
#include <cstddef>
#include <mutex>
#include <optional>
#include <span>
#include <utility>
#include <variant>
#include <vector>

#include "fields/huge_array.h"
#include "numerics/parallel.h"
#include "surrogate/kernel_table.h"
#include "surrogate/plan.h"

namespace betatron::surrogate {

namespace {

/// Memory for a panel, kept by each thread from call to call.
std::byte* scratch(std::size_t bytes) {
  thread_local fields::huge_array<std::byte> memory;
  if (memory.size() < bytes) {
    memory = {};
    memory = fields::huge_array<std::byte>(bytes);
  }
  return memory.data();
}

/// Inputs of a layer that are multiplied in one go: their block stays in the first-level cache.
constexpr std::size_t most_inputs = 128;
/// Panels get as many blocks as this memory holds where the weights do not stay in the second-level cache ...
constexpr std::size_t panel_bytes = std::size_t{1} << 20;
constexpr std::size_t most_blocks = 8;
/// ... which weights of this size do.
constexpr std::size_t cached_weights = std::size_t{1} << 20;
/// Operations that are worth a thread.
constexpr double work_per_thread = 4e6;

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
      : network_(n), kernels_(surrogate::kernels<F>()), plan_(make_plan(n)) {
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
    if (n.input.offset.empty()) network_.input.offset.assign(n.inputs(), 0.0);
    if (n.input.scale.empty()) network_.input.scale.assign(n.inputs(), 1.0);
    if (n.output.offset.empty()) network_.output.offset.assign(n.outputs(), 0.0);
    if (n.output.scale.empty()) network_.output.scale.assign(n.outputs(), 1.0);
  }

  const char* instructions() const { return kernels_.isa; }

  /// The particles of a panel.
  std::size_t panel() const { return blocks_ * kernels_.vectors * kernels_.width; }

  template <class C>
  void run_panel(const C* const* in, C* const* out, std::size_t first, std::size_t count) const {
    const shape s = shape_of(count);
    F* values = reinterpret_cast<F*>(
        scratch(plan_.forward_slots * widest_ * s.particles * sizeof(F)));
    load(in, network_.input, s, values + slot(plan_.forward[0], s), first);
    for (std::size_t k = 1; k <= layers_.size(); ++k) forward(k, s, values, nullptr);
    store(values + slot(plan_.forward.back(), s), network_.output, s, out, first);
  }

  template <class C>
  void pull_panel(const C* const* in, const evaluator::turn<C>& turn, C* const* in_bar,
                  std::size_t first, std::size_t count) const {
    const packed_transposed& back = transposed();
    const shape s = shape_of(count);
    const std::size_t outputs = network_.outputs();
    const std::size_t value_size = widest_ * s.particles;
    std::byte* memory =
        scratch(((plan_.forward_slots + plan_.backward_slots) * value_size +
                 plan_.kept * s.particles) *
                    sizeof(F) +
                outputs * s.particles * sizeof(C));
    F* values = reinterpret_cast<F*>(memory);
    F* gradients = values + plan_.forward_slots * value_size;
    F* kept = gradients + plan_.backward_slots * value_size;
    C* columns = reinterpret_cast<C*>(kept + plan_.kept * s.particles);
    load(in, network_.input, s, values + slot(plan_.forward[0], s), first);
    for (std::size_t k = 1; k <= layers_.size(); ++k) forward(k, s, values, kept);

    std::vector<C*> out(outputs);
    for (std::size_t i = 0; i < outputs; ++i) out[i] = columns + i * s.particles;
    store(values + slot(plan_.forward.back(), s), network_.output, s, out.data(), 0);
    turn(first, count, out.data());
    const normalisation out_scale{std::vector<double>(outputs, 0.0), network_.output.scale};
    load<C>(out.data(), out_scale, s, gradients + slot(plan_.backward.back(), s), 0);
    for (std::size_t k = layers_.size(); k >= 1; --k) backward(k, s, gradients, kept, back);
    const normalisation in_scale{std::vector<double>(network_.inputs(), 0.0),
                                 network_.input.scale};
    store(gradients + slot(plan_.backward[0], s), in_scale, s, in_bar, first);
  }

 private:
  using packed_transposed = std::vector<packed_weights<F>>;

  /// How a panel of particles is cut into blocks. In memory the blocks of a slot follow each other.
  struct shape {
    std::size_t count, particles, block;  // without and with the lanes that fill it up
  };
  shape shape_of(std::size_t count) const {
    const std::size_t w = kernels_.width;
    return {count, (count + w - 1) / w * w, kernels_.vectors * w};
  }
  std::size_t slot(std::size_t number, const shape& s) const {
    return number * widest_ * s.particles;
  }
  /// Calls body(first lane, packs) for each block.
  template <class Body>
  void for_blocks(const shape& s, Body&& body) const {
    for (std::size_t b = 0; b < s.particles; b += s.block) {
      body(b, std::min(s.block, s.particles - b) / kernels_.width);
    }
  }

  template <class C>
  void load(const C* const* in, const normalisation& n, const shape& s, F* to,
            std::size_t first) const {
    const std::size_t columns = n.scale.size();
    for_blocks(s, [&](std::size_t b, std::size_t packs) {
      const std::size_t lanes = packs * kernels_.width, some = std::min(lanes, s.count - b);
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

  template <class C>
  void store(const F* from, const normalisation& n, const shape& s, C* const* out,
             std::size_t first) const {
    const std::size_t columns = n.scale.size();
    for_blocks(s, [&](std::size_t b, std::size_t packs) {
      const std::size_t lanes = packs * kernels_.width, some = std::min(lanes, s.count - b);
      for (std::size_t k = 0; k < columns; ++k) {
        const F* row = from + b * columns + k * lanes;
        if constexpr (std::is_same_v<C, float>) {
          kernels_.store_single(row, out[k] + first + b, some, n.offset[k], n.scale[k]);
        } else {
          kernels_.store_double(row, out[k] + first + b, some, n.offset[k], n.scale[k]);
        }
      }
    });
  }

  /// One layer for all blocks, range by range of its inputs: the weights of a range serve all blocks in turn.
  void multiply(const packed_weights<F>& w, const shape& s, const F* x, F* y,
                dense_task<F> task, const F* before, const F* behind, F* z) const {
    const F* weights = w.weights.data();
    std::size_t begin = 0;
    for (const std::size_t end : w.ranges) {
      for_blocks(s, [&](std::size_t b, std::size_t packs) {
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

  void forward(std::size_t k, const shape& s, F* values, F* kept) const {
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
    multiply(l.weights, s, values + slot(plan_.forward[k - 1], s),
             values + slot(plan_.forward[k], s), task, inside ? skipped : nullptr,
             inside ? nullptr : skipped,
             kept && l.end.function != activation::identity
                 ? kept + plan_.kept_at[k - 1] * s.particles
                 : nullptr);
  }

  void backward(std::size_t k, const shape& s, F* gradients, const F* kept,
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
    for_blocks(s, [&](std::size_t b, std::size_t packs) {
      kernels_.derive(l.end, l.slope.data(), kept + plan_.kept_at[k - 1] * s.particles + b * outputs,
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
  std::vector<packed_layer<F>> layers_;
  std::size_t widest_ = 0, blocks_ = 1;
  mutable std::once_flag transposed_once_;
  mutable packed_transposed transposed_;  // of no use without gradients
};

}  // namespace

struct evaluator::implementation {
  std::size_t inputs, outputs;
  number_format format;
  double operations;
  std::optional<engine<float>> single;
  std::optional<engine<double>> double_;

  implementation(const network& n, number_format a)
      : inputs(n.inputs()), outputs(n.outputs()), format(a), operations(n.operations()) {
    if (a == number_format::double_) {
      double_.emplace(n);
    } else {
      single.emplace(n);
    }
  }

  template <class Body>
  void with_engine(Body&& body) const {
    if (double_) {
      body(*double_);
    } else {
      body(*single);
    }
  }

  /// body(engine, first, count) for each panel.
  template <class Body>
  void for_panels(std::size_t count, unsigned threads, double work, Body&& body) const {
    const double worth = work * operations * static_cast<double>(count) / work_per_thread;
    const auto useful = static_cast<unsigned>(std::clamp(worth, 1.0, 4096.0));
    with_engine([&](const auto& e) {
      const std::size_t panel = e.panel(), panels = (count + panel - 1) / panel;
      numerics::parallel_for(std::min(threads, useful), panels, [&](std::size_t p) {
        body(e, p * panel, std::min(panel, count - p * panel));
      });
    });
  }

  template <class C>
  void run(const C* const* in, C* const* out, std::size_t count, unsigned threads) const {
    for_panels(count, threads, 1, [&](const auto& e, std::size_t first, std::size_t some) {
      e.run_panel(in, out, first, some);
    });
  }
  template <class C>
  void pull(const C* const* in, const turn<C>& out_bar, C* const* in_bar, std::size_t count,
            unsigned threads) const {
    for_panels(count, threads, 2, [&](const auto& e, std::size_t first, std::size_t some) {
      e.pull_panel(in, out_bar, in_bar, first, some);
    });
  }
  template <class C>
  void pull(const C* const* in, const C* const* out_bar, C* const* in_bar, std::size_t count,
            unsigned threads) const {
    const turn<C> given = [&](std::size_t first, std::size_t some, C* const* columns) {
      for (std::size_t i = 0; i < outputs; ++i) {
        std::copy_n(out_bar[i] + first, some, columns[i]);
      }
    };
    pull(in, given, in_bar, count, threads);
  }
};

evaluator::evaluator(const network& n, number_format a) {
  check(n);
  implementation_ = std::make_unique<implementation>(n, a);
}
evaluator::~evaluator() = default;
evaluator::evaluator(evaluator&&) noexcept = default;
evaluator& evaluator::operator=(evaluator&&) noexcept = default;

std::size_t evaluator::inputs() const { return implementation_->inputs; }
std::size_t evaluator::outputs() const { return implementation_->outputs; }
number_format evaluator::format() const { return implementation_->format; }
const char* evaluator::instructions() const {
  const char* name = nullptr;
  implementation_->with_engine([&](const auto& e) { name = e.instructions(); });
  return name;
}

void evaluator::run(const float* const* in, float* const* out, std::size_t count,
                    unsigned threads) const {
  implementation_->run(in, out, count, threads);
}
void evaluator::run(const double* const* in, double* const* out, std::size_t count,
                    unsigned threads) const {
  implementation_->run(in, out, count, threads);
}
void evaluator::pull(const float* const* in, const float* const* out_bar, float* const* in_bar,
                     std::size_t count, unsigned threads) const {
  implementation_->pull(in, out_bar, in_bar, count, threads);
}
void evaluator::pull(const double* const* in, const double* const* out_bar, double* const* in_bar,
                     std::size_t count, unsigned threads) const {
  implementation_->pull(in, out_bar, in_bar, count, threads);
}
void evaluator::pull(const float* const* in, const turn<float>& out_bar, float* const* in_bar,
                     std::size_t count, unsigned threads) const {
  implementation_->pull(in, out_bar, in_bar, count, threads);
}
void evaluator::pull(const double* const* in, const turn<double>& out_bar, double* const* in_bar,
                     std::size_t count, unsigned threads) const {
  implementation_->pull(in, out_bar, in_bar, count, threads);
}

}  // namespace betatron::surrogate
