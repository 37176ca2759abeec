// inference.cpp: panels of particles to engines.
#include "surrogate/inference.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

#include "numerics/parallel.h"
#include "surrogate/bf16_engine.h"
#include "surrogate/engine.h"

namespace betatron::surrogate {

namespace {

/// Operations that are worth a thread.
constexpr double work_per_thread = 4e6;

/// Weights rounded to 8 significant bits, to nearest, ties to even. The first layer, which is computed in single
/// precision, keeps its own.
network rounded(network n) {
  for (std::size_t k = 1; k < n.layers.size(); ++k) {
    for (double& w : n.layers[k].weights) w = static_cast<double>(bf16_number(bf16_bits(w)));
  }
  return n;
}

}  // namespace

struct evaluator::implementation {
  std::size_t inputs, outputs;
  number_format format;
  double operations;
  std::optional<engine<float>> single;
  std::optional<engine<double>> double_;
  std::optional<bf16_engine> bf16;

  implementation(const network& n, number_format a)
      : inputs(n.inputs()), outputs(n.outputs()), format(a), operations(n.operations()) {
    if (a == number_format::double_) {
      double_.emplace(n);
    } else if (a == number_format::single) {
      single.emplace(n);
    } else if (find_bf16().products && n.layers.size() > 1) {
      bf16.emplace(n, find_bf16());
    } else {
      single.emplace(rounded(n));
    }
  }

  template <class Body>
  void with_engine(Body&& body) const {
    if (double_) {
      body(*double_);
    } else if (bf16) {
      body(*bf16);
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
  if (a == number_format::double_) {
    check(n);
  } else {
    check(n, largest_single);
  }
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
