// bf16_kernels.cpp: networks in bfloat16 with the dot products of AVX512-BF16. Compiled for that alone: nothing in here
// may be emitted under a name that other sources share.
#include <immintrin.h>

#include <cstring>

#include "surrogate/activation.h"
#include "surrogate/bf16_table.h"

namespace betatron::surrogate {

namespace {

struct here;  // no other source has packs with this tag
using lanes = numerics::pack<float, 16, here>;

BETATRON_INLINE __m512i load_pairs(const std::uint32_t* p) { return _mm512_loadu_si512(p); }
BETATRON_INLINE lanes low(__m512i pairs) {
  return lanes((lanes::vector)_mm512_slli_epi32(pairs, 16));
}
BETATRON_INLINE lanes high(__m512i pairs) {
  return lanes((lanes::vector)_mm512_and_si512(pairs, _mm512_set1_epi32(-0x10000)));
}
/// Rounded to nearest, ties to even.
BETATRON_INLINE void store_pairs(std::uint32_t* to, lanes even, lanes odd) {
  // words 0 ... 15 of what is converted are those of the second argument
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24,
                                         8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  const __m512i both = (__m512i)_mm512_cvtne2ps_pbh((__m512)odd.v, (__m512)even.v);
  _mm512_storeu_si512(to, _mm512_permutexvar_epi16(order, both));
}

/// Eight outputs of N packs.
template <int N>
void multiply_rows(const bf16_product& p, std::size_t first_row) {
  constexpr int rows = 8;
  float* sums = p.sums + first_row * N * 16;
  __m512 sum[rows][N];
#pragma GCC unroll 8
  for (int m = 0; m < rows; ++m) {
#pragma GCC unroll 2
    for (int n = 0; n < N; ++n) {
      sum[m][n] = p.first ? _mm512_setzero_ps() : _mm512_loadu_ps(sums + (m * N + n) * 16);
    }
  }
  const std::size_t tile = first_row / tile_outputs, row = first_row % tile_outputs;
  for (std::size_t s = 0; s < p.steps; ++s) {
    const std::uint16_t* w = p.weights + ((s * p.tiles + tile) * tile_outputs + row) * tile_inputs;
    const std::uint32_t* x = p.x + s * (tile_inputs / 2) * N * 16;
    for (std::size_t j = 0; j < tile_inputs / 2; ++j) {
      __m512bh in[N];
#pragma GCC unroll 2
      for (int n = 0; n < N; ++n) in[n] = (__m512bh)load_pairs(x + n * 16);
#pragma GCC unroll 8
      for (int m = 0; m < rows; ++m) {
        std::int32_t pair;
        std::memcpy(&pair, w + m * static_cast<int>(tile_inputs), sizeof pair);
        const __m512bh weight = (__m512bh)_mm512_set1_epi32(pair);
#pragma GCC unroll 2
        for (int n = 0; n < N; ++n) sum[m][n] = _mm512_dpbf16_ps(sum[m][n], weight, in[n]);
      }
      w += 2;
      x += N * 16;
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < rows; ++m) {
#pragma GCC unroll 2
    for (int n = 0; n < N; ++n) _mm512_storeu_ps(sums + (m * N + n) * 16, sum[m][n]);
  }
}

void multiply(const bf16_product& p) {
  for (std::size_t row = 0; row < p.tiles * tile_outputs; row += 8) {
    if (p.packs == 2) {
      multiply_rows<2>(p, row);
    } else {
      multiply_rows<1>(p, row);
    }
  }
}

template <activation A>
void finish_with(const bf16_result& r) {
  const std::size_t width = r.packs * 16;
  for (std::size_t row = 0; row < r.rows; row += 2) {
    const lanes bias[2] = {r.bias ? r.bias[row] : 0.0f, r.bias ? r.bias[row + 1] : 0.0f};
    const lanes slope[2] = {r.slope ? r.slope[row] : 0.0f, r.slope ? r.slope[row + 1] : 0.0f};
    for (std::size_t i = 0; i < width; i += 16) {
      const std::size_t pair = row / 2 * width + i;
      lanes a = lanes::load(r.sums + row * width + i) + bias[0];
      lanes b = lanes::load(r.sums + (row + 1) * width + i) + bias[1];
      if (r.before) {
        const __m512i more = load_pairs(r.before + pair);
        a += low(more);
        b += high(more);
      }
      if (r.z) store_pairs(r.z + pair, a, b);
      a = apply<A>(a, slope[0]);
      b = apply<A>(b, slope[1]);
      if (r.behind) {
        const __m512i more = load_pairs(r.behind + pair);
        a += low(more);
        b += high(more);
      }
      if (r.pairs) {
        store_pairs(r.pairs + pair, a, b);
      } else {
        a.store(r.numbers + row * width + i);
        b.store(r.numbers + (row + 1) * width + i);
      }
    }
  }
}

template <activation A>
void derive_with(const float* slope, const std::uint32_t* z, std::uint32_t* gradient,
                 std::size_t pairs, std::size_t packs) {
  for (std::size_t j = 0; j < pairs; ++j) {
    const lanes even(slope ? slope[2 * j] : 0.0f), odd(slope ? slope[2 * j + 1] : 0.0f);
    for (std::size_t n = 0; n < packs; ++n, z += 16, gradient += 16) {
      const __m512i at = load_pairs(z), g = load_pairs(gradient);
      store_pairs(gradient, low(g) * derivative<A>(low(at), even),
                  high(g) * derivative<A>(high(at), odd));
    }
  }
}

void finish(const bf16_result& r) {
  with_activation(r.function, [&]<activation A>() { finish_with<A>(r); });
}

void to_pairs(const float* from, std::uint32_t* to, std::size_t rows, std::size_t packs) {
  const std::size_t width = packs * 16;
  for (std::size_t row = 0; row < rows; row += 2) {
    for (std::size_t i = 0; i < width; i += 16) {
      const lanes even = lanes::load(from + row * width + i);
      const lanes odd = row + 1 < rows ? lanes::load(from + (row + 1) * width + i) : lanes(0.0f);
      store_pairs(to + row / 2 * width + i, even, odd);
    }
  }
}

void derive(activation a, const float* slope, const std::uint32_t* z, std::uint32_t* gradient,
            std::size_t pairs, std::size_t packs) {
  if (a == activation::identity) return;
  with_activation(a, [&]<activation A>() { derive_with<A>(slope, z, gradient, pairs, packs); });
}

void add(const std::uint32_t* from, std::uint32_t* to, std::size_t packs) {
  for (std::size_t n = 0; n < packs; ++n, from += 16, to += 16) {
    const __m512i a = load_pairs(from), b = load_pairs(to);
    store_pairs(to, low(a) + low(b), high(a) + high(b));
  }
}

void nothing() {}

}  // namespace

extern const bf16_products bf16_products_dot;
extern const bf16_kernels bf16_kernels_dot;
constinit const bf16_products bf16_products_dot = {nothing, nothing, multiply, "avx512-bf16"};
constinit const bf16_kernels bf16_kernels_dot = {finish, to_pairs, derive, add};

}  // namespace betatron::surrogate
