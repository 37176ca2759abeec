// inference.h: evaluates a network, and pulls gradients back through it, for particles in columns.
//
// A panel of particles goes through all layers while it stays in the cache; panels are shared out among the threads
// that the caller allows. The result for a particle depends neither on the other particles nor on the threads.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>

#include "surrogate/network.h"

namespace betatron::surrogate {

/// What a network is computed in. bf16: weights and results of layers are rounded to 8 significant bits, sums are
/// single precision, and so is the first layer with its inputs; by the matrix or dot-product instructions of the
/// processor where it has them, else by single precision arithmetic on the rounded numbers.
enum class number_format { single, double_, bf16 };

/// A network made ready for this processor. Immutable; may be called from many threads at once.
class evaluator {
 public:
  /// Throws std::invalid_argument as check(network) does.
  evaluator(const network&, number_format);
  ~evaluator();
  evaluator(evaluator&&) noexcept;
  evaluator& operator=(evaluator&&) noexcept;

  std::size_t inputs() const;
  std::size_t outputs() const;
  number_format format() const;
  /// The instructions in use, e.g. "v4" (AVX-512), "amx-bf16".
  const char* instructions() const;

  /// in: one column of `count` numbers per input; out: one per output, which may be among the columns of `in`, but
  /// not overlap them otherwise. Threads beside the calling one are started if the work is worth it.
  void run(const float* const* in, float* const* out, std::size_t count,
           unsigned threads = 1) const;
  void run(const double* const* in, double* const* out, std::size_t count,
           unsigned threads = 1) const;

  /// Vector-Jacobian product: in_bar_j = sum_i out_bar_i d out_i/d in_j for each particle. `in_bar` may be among `out_bar`
  /// or `in`. Layers are computed once more, as run() does.
  void pull(const float* const* in, const float* const* out_bar, float* const* in_bar,
            std::size_t count, unsigned threads = 1) const;
  void pull(const double* const* in, const double* const* out_bar, double* const* in_bar,
            std::size_t count, unsigned threads = 1) const;

  /// Gets the particles [first, first + count) and `outputs` columns of `count` numbers, which hold the outputs of the
  /// network; has to replace them by the derivatives of what is differentiated. Called from many threads at once.
  template <class F>
  using turn = std::function<void(std::size_t first, std::size_t count, F* const* columns)>;

  /// The same where out_bar depends on the outputs: the layers are computed once, not twice.
  void pull(const float* const* in, const turn<float>& out_bar, float* const* in_bar,
            std::size_t count, unsigned threads = 1) const;
  void pull(const double* const* in, const turn<double>& out_bar, double* const* in_bar,
            std::size_t count, unsigned threads = 1) const;

 private:
  struct implementation;
  std::unique_ptr<implementation> implementation_;
};

}  // namespace betatron::surrogate
