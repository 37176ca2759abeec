// kernels.cpp: networks as loops over packs. Compiled once per BETATRON_ISA and BETATRON_REAL; nothing in here may be
// emitted under a name that another instruction set shares (see numerics/hd.h).
#include <utility>

#include "numerics/native_vector.h"
#include "numerics/pack.h"
#include "surrogate/activation.h"
#include "surrogate/kernel_table.h"

#if !defined(BETATRON_ISA) || !defined(BETATRON_REAL)
#error "kernels.cpp is compiled with BETATRON_ISA and BETATRON_REAL"
#endif

namespace betatron::surrogate {

namespace {

using real = BETATRON_REAL;

constexpr int width = numerics::vector_bytes / static_cast<int>(sizeof(real));

using lanes = numerics::pack<real, width, numerics::isa::BETATRON_ISA>;
using task = dense_task<real>;

// Sums in registers, outputs x packs of particles: as many as leave registers for one input of the block and one
// weight. AVX-512 and NEON have 32 registers, SSE and AVX 16.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int most_rows = 6, most_packs = 4;
#else
constexpr int most_rows = 6, most_packs = 2;
#endif

/// apply() where it costs no more than a comparison: it is done to sums in registers.
constexpr bool is_cheap(activation a) {
  return a == activation::identity || a == activation::relu || a == activation::leaky_relu ||
         a == activation::prelu;
}

template <int M, int N>
struct sums {
  lanes at[M][N];
};

/// M outputs of N packs. `w`: inputs x M weights.
template <int M, int N>
BETATRON_INLINE void multiply(const real* w, const real* x, std::size_t inputs, sums<M, N>& sum) {
  for (std::size_t k = 0; k < inputs; ++k) {
    lanes in[N];
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) in[n] = lanes::load(x + n * width);
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m) {
      const lanes weight(w[m]);
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) sum.at[m][n] += weight * in[n];
    }
    x += N * width;
    w += M;
  }
}

/// Outputs [row, row + M): sums, what is added, and a cheap activation function.
template <int M, int N>
void group(const task& t, const real* w, std::size_t row) {
  constexpr std::size_t stride = N * width;
  sums<M, N> sum;
  real* y = t.y + row * stride;
#pragma GCC unroll 16
  for (int m = 0; m < M; ++m) {
    const lanes bias(t.first && t.bias ? t.bias[row + static_cast<std::size_t>(m)] : real(0));
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) {
      sum.at[m][n] = t.first ? bias : lanes::load(y + m * static_cast<int>(stride) + n * width);
    }
  }
  if (t.first && t.before) {
    const real* more = t.before + row * stride;
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m) {
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) {
        sum.at[m][n] += lanes::load(more + m * static_cast<int>(stride) + n * width);
      }
    }
  }
  multiply<M, N>(w, t.x, t.inputs, sum);
  const auto store = [&](real* to) {
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m) {
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) {
        sum.at[m][n].store(to + m * static_cast<int>(stride) + n * width);
      }
    }
  };
  if (t.last && t.z) store(t.z + row * stride);
  if (t.last && t.end.function == activation::relu) {
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m) {
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) {
        sum.at[m][n] = apply<activation::relu>(sum.at[m][n], lanes(real(0)));
      }
    }
  } else if (t.last && is_cheap(t.end.function) && t.end.function != activation::identity) {
    const real* slopes = t.slope + (t.end.slope_per_output ? row : 0);
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m) {
      const lanes slope(slopes[t.end.slope_per_output ? m : 0]);
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) {
        sum.at[m][n] = apply<activation::prelu>(sum.at[m][n], slope);
      }
    }
  }
  if (t.last && t.behind && is_cheap(t.end.function)) {
    const real* more = t.behind + row * stride;
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m) {
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) {
        sum.at[m][n] += lanes::load(more + m * static_cast<int>(stride) + n * width);
      }
    }
  }
  store(y);
}

/// y = f(y) (+ behind) for numbers that were just stored.
template <activation A>
void activate(real* y, const real* behind, std::size_t numbers) {
  for (std::size_t i = 0; i < numbers; i += width) {
    lanes v = apply<A>(lanes::load(y + i), lanes(real(0)));
    if (behind) v += lanes::load(behind + i);
    v.store(y + i);
  }
}

template <activation A>
void derive_by(const real* z, real* gradient, std::size_t numbers, real slope) {
  for (std::size_t i = 0; i < numbers; i += width) {
    (lanes::load(gradient + i) * derivative<A>(lanes::load(z + i), lanes(slope)))
        .store(gradient + i);
  }
}

using group_function = void (*)(const task&, const real*, std::size_t);

struct group_table {
  group_function at[most_packs][most_rows];
};

template <int N, int... M>
constexpr void fill(group_table& t, std::integer_sequence<int, M...>) {
  ((t.at[N - 1][M] = group<M + 1, N>), ...);
}
template <int... N>
constexpr group_table make_groups(std::integer_sequence<int, N...>) {
  group_table t{};
  (fill<N + 1>(t, std::make_integer_sequence<int, most_rows>()), ...);
  return t;
}
constexpr group_table groups = make_groups(std::make_integer_sequence<int, most_packs>());

void dense(const task& t) {
  const output_groups split(t.outputs, most_rows);
  const group_function* table = groups.at[t.packs - 1];
  const real* w = t.weights;
  std::size_t row = 0;
  const bool extra = t.last && !is_cheap(t.end.function);
  const std::size_t stride = t.packs * width;
  for (std::size_t g = 0; g < split.count; ++g) {
    const std::size_t rows = split.smaller + (g < split.larger);
    table[rows - 1](t, w, row);
    if (extra) {
      with_activation(t.end.function, [&]<activation A>() {
        if constexpr (!is_cheap(A)) {
          activate<A>(t.y + row * stride, t.behind ? t.behind + row * stride : nullptr,
                      rows * stride);
        }
      });
    }
    w += rows * t.inputs;
    row += rows;
  }
}

void derive(const epilogue& end, const real* slope, const real* z, real* gradient,
            std::size_t outputs, std::size_t packs) {
  if (end.function == activation::identity) return;
  const std::size_t stride = packs * width;
  with_activation(end.function, [&]<activation A>() {
    if (end.slope_per_output) {
      for (std::size_t m = 0; m < outputs; ++m) {
        derive_by<A>(z + m * stride, gradient + m * stride, stride, slope[m]);
      }
    } else {
      derive_by<A>(z, gradient, outputs * stride, slope ? slope[0] : real(0));
    }
  });
}

void add(const real* from, real* to, std::size_t packs) {
  for (std::size_t i = 0; i < packs * width; i += width) {
    (lanes::load(from + i) + lanes::load(to + i)).store(to + i);
  }
}

template <class Column>
void load(const Column* from, real* to, std::size_t count, double offset, double scale) {
  const Column o = static_cast<Column>(offset), s = static_cast<Column>(scale);
  for (std::size_t i = 0; i < count; ++i) to[i] = static_cast<real>((from[i] - o) * s);
  for (std::size_t i = count; i % width != 0; ++i) to[i] = 0;
}

template <class Column>
void store(const real* from, Column* to, std::size_t count, double offset, double scale) {
  const Column o = static_cast<Column>(offset), s = static_cast<Column>(scale);
  for (std::size_t i = 0; i < count; ++i) to[i] = static_cast<Column>(from[i]) * s + o;
}

}  // namespace

#define BETATRON_JOIN(a, b, c) a##b##_##c
#define BETATRON_EXPAND(a, b, c) BETATRON_JOIN(a, b, c)
#define BETATRON_TEXT(a) #a
#define BETATRON_NAME(a) BETATRON_TEXT(a)
#define BETATRON_TABLE BETATRON_EXPAND(dense_kernels_, BETATRON_ISA, BETATRON_REAL)

extern const dense_kernels<real> BETATRON_TABLE;
constinit const dense_kernels<real> BETATRON_TABLE = {dense,
                                                      derive,
                                                      add,
                                                      load<float>,
                                                      load<double>,
                                                      store<float>,
                                                      store<double>,
                                                      static_cast<std::size_t>(width),
                                                      static_cast<std::size_t>(most_rows),
                                                      static_cast<std::size_t>(most_packs),
                                                      BETATRON_NAME(BETATRON_ISA)};

}  // namespace betatron::surrogate
