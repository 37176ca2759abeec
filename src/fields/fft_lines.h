// fft_lines.h: transforms of a register full of lines at once; for kernels.cpp, which is compiled per instruction set.
// See fft_plan.h.
#pragma once

#include <utility>

#include "numerics/pack.h"

namespace betatron::fields {

template <class V>
struct complex_lanes {
  V re, im;
};

/// A stage structure that kernels can hold: pointers into an fft_plan.
template <class F>
struct fft_view {
  std::size_t n;
  const int* radices;
  std::size_t stages;
  const F* twiddles;
  const std::uint32_t* frequency;
  const std::uint32_t* position;
};

namespace detail {

template <class V>
BETATRON_INLINE complex_lanes<V> operator+(complex_lanes<V> a, complex_lanes<V> b) {
  return {a.re + b.re, a.im + b.im};
}
template <class V>
BETATRON_INLINE complex_lanes<V> operator-(complex_lanes<V> a, complex_lanes<V> b) {
  return {a.re - b.re, a.im - b.im};
}

/// a times re + i im, or its conjugate.
template <bool Conjugate, class V, class F>
BETATRON_INLINE complex_lanes<V> times(complex_lanes<V> a, F re, F im) {
  if constexpr (Conjugate) {
    return {a.re * V(re) + a.im * V(im), a.im * V(re) - a.re * V(im)};
  } else {
    return {a.re * V(re) - a.im * V(im), a.im * V(re) + a.re * V(im)};
  }
}

/// -i a forward, +i a backward.
template <bool Backward, class V>
BETATRON_INLINE complex_lanes<V> quarter(complex_lanes<V> a) {
  if constexpr (Backward) {
    return {-a.im, a.re};
  } else {
    return {a.im, -a.re};
  }
}

template <bool Backward, class V>
BETATRON_INLINE void butterfly(complex_lanes<V> (&x)[2]) {
  const complex_lanes<V> a = x[0] + x[1], b = x[0] - x[1];
  x[0] = a;
  x[1] = b;
}

template <bool Backward, class V>
BETATRON_INLINE void butterfly(complex_lanes<V> (&x)[3]) {
  using F = typename V::value_type;
  const F half_root3 = F(0.86602540378443864676);
  const complex_lanes<V> s = x[1] + x[2], d = quarter<Backward>(x[1] - x[2]);
  const complex_lanes<V> c{x[0].re - s.re * F(0.5), x[0].im - s.im * F(0.5)};
  x[0] = x[0] + s;
  x[1] = {c.re + d.re * half_root3, c.im + d.im * half_root3};
  x[2] = {c.re - d.re * half_root3, c.im - d.im * half_root3};
}

template <bool Backward, class V>
BETATRON_INLINE void butterfly(complex_lanes<V> (&x)[4]) {
  const complex_lanes<V> a = x[0] + x[2], b = x[0] - x[2], c = x[1] + x[3],
                         d = quarter<Backward>(x[1] - x[3]);
  x[0] = a + c;
  x[1] = b + d;
  x[2] = a - c;
  x[3] = b - d;
}

template <bool Backward, class V>
BETATRON_INLINE void butterfly(complex_lanes<V> (&x)[5]) {
  using F = typename V::value_type;
  const F c1 = F(0.30901699437494742410), c2 = F(-0.80901699437494742410),
          s1 = F(0.95105651629515357212), s2 = F(0.58778525229247312917);
  const complex_lanes<V> a = x[1] + x[4], b = x[2] + x[3], d = quarter<Backward>(x[1] - x[4]),
                         e = quarter<Backward>(x[2] - x[3]);
  const complex_lanes<V> p{x[0].re + a.re * c1 + b.re * c2, x[0].im + a.im * c1 + b.im * c2};
  const complex_lanes<V> q{x[0].re + a.re * c2 + b.re * c1, x[0].im + a.im * c2 + b.im * c1};
  const complex_lanes<V> u{d.re * s1 + e.re * s2, d.im * s1 + e.im * s2};
  const complex_lanes<V> v{d.re * s2 - e.re * s1, d.im * s2 - e.im * s1};
  x[0] = x[0] + a + b;
  x[1] = p + u;
  x[2] = q + v;
  x[3] = q - v;
  x[4] = p - u;
}

template <bool Backward, class V>
BETATRON_INLINE void butterfly(complex_lanes<V> (&x)[8]) {
  using F = typename V::value_type;
  const F r = F(0.70710678118654752440);
  complex_lanes<V> even[4] = {x[0], x[2], x[4], x[6]};
  complex_lanes<V> odd[4] = {x[1], x[3], x[5], x[7]};
  butterfly<Backward>(even);
  butterfly<Backward>(odd);
  const complex_lanes<V> q1 = quarter<Backward>(odd[1]), q3 = quarter<Backward>(odd[3]);
  const complex_lanes<V> w1{(odd[1].re + q1.re) * r, (odd[1].im + q1.im) * r};
  const complex_lanes<V> w2 = quarter<Backward>(odd[2]);
  const complex_lanes<V> w3{(q3.re - odd[3].re) * r, (q3.im - odd[3].im) * r};
  x[0] = even[0] + odd[0];
  x[4] = even[0] - odd[0];
  x[1] = even[1] + w1;
  x[5] = even[1] - w1;
  x[2] = even[2] + w2;
  x[6] = even[2] - w2;
  x[3] = even[3] + w3;
  x[7] = even[3] - w3;
}

/// One stage on blocks of `block` numbers.
template <int R, bool Backward, class V, class F>
BETATRON_INLINE void stage(complex_lanes<V>* z, std::size_t n, std::size_t block, const F* w) {
  const std::size_t q = block / R;
  for (std::size_t j = 0; j < q; ++j, w += 2 * (R - 1)) {
    F turns[2 * (R - 1)];
    for (int t = 0; t < 2 * (R - 1); ++t) turns[t] = w[t];
    for (complex_lanes<V>* p = z + j; p < z + n; p += block) {
      complex_lanes<V> x[R];
      if constexpr (Backward) {
        x[0] = p[0];
        for (int t = 1; t < R; ++t) {
          x[t] =
              times<true>(p[static_cast<std::size_t>(t) * q], turns[2 * t - 2], turns[2 * t - 1]);
        }
        butterfly<true>(x);
        for (int t = 0; t < R; ++t) p[static_cast<std::size_t>(t) * q] = x[t];
      } else {
        for (int t = 0; t < R; ++t) x[t] = p[static_cast<std::size_t>(t) * q];
        butterfly<false>(x);
        p[0] = x[0];
        for (int t = 1; t < R; ++t) {
          p[static_cast<std::size_t>(t) * q] =
              times<false>(x[t], turns[2 * t - 2], turns[2 * t - 1]);
        }
      }
    }
  }
}

template <bool Backward, class V, class F>
BETATRON_INLINE void any_stage(int radix, complex_lanes<V>* z, std::size_t n, std::size_t block,
                               const F* w) {
  switch (radix) {
    case 2:
      return stage<2, Backward>(z, n, block, w);
    case 3:
      return stage<3, Backward>(z, n, block, w);
    case 4:
      return stage<4, Backward>(z, n, block, w);
    case 5:
      return stage<5, Backward>(z, n, block, w);
    default:
      return stage<8, Backward>(z, n, block, w);
  }
}

}  // namespace detail

/// z_k = sum_j z_j exp(-2 pi i j k/n), in the order of the plan. Carries the instruction set in its name through V.
template <class V, class F>
void transform(const fft_view<F>& plan, complex_lanes<V>* z) {
  const F* w = plan.twiddles;
  std::size_t block = plan.n;
  for (std::size_t s = 0; s < plan.stages; ++s) {
    const std::size_t r = static_cast<std::size_t>(plan.radices[s]);
    detail::any_stage<false>(plan.radices[s], z, plan.n, block, w);
    w += 2 * (r - 1) * (block / r);
    block /= r;
  }
}

/// The opposite sign, from the order of the plan; not divided by n.
template <class V, class F>
void transform_back(const fft_view<F>& plan, complex_lanes<V>* z) {
  const F* w = plan.twiddles;
  std::size_t block = plan.n;
  for (std::size_t s = 0; s < plan.stages; ++s) {
    const std::size_t r = static_cast<std::size_t>(plan.radices[s]);
    w += 2 * (r - 1) * (block / r);
    block /= r;
  }
  for (std::size_t s = plan.stages; s-- > 0;) {
    const std::size_t r = static_cast<std::size_t>(plan.radices[s]);
    w -= 2 * (r - 1) * block;
    block *= r;
    detail::any_stage<true>(plan.radices[s], z, plan.n, block, w);
  }
}

/// A square of W x W numbers: rows become columns.
template <class F, int W, class Isa>
BETATRON_INLINE void transpose(numerics::pack<F, W, Isa> (&v)[W]) {
  using vector = typename numerics::pack<F, W, Isa>::vector;
  const auto step = [&]<int D, int... L>(std::integer_sequence<int, D>,
                                         std::integer_sequence<int, L...>)
      __attribute__((always_inline)) {
    for (int i = 0; i < W; ++i) {
      if (i & D) continue;
      const vector a = v[i].v, b = v[i + D].v;
      v[i].v = __builtin_shufflevector(a, b, ((L & D) != 0 ? W + L - D : L)...);
      v[i + D].v = __builtin_shufflevector(a, b, ((L & D) != 0 ? W + L : L + D)...);
    }
  };
  constexpr auto lanes = std::make_integer_sequence<int, W>();
  if constexpr (W >= 16) step(std::integer_sequence<int, 8>(), lanes);
  if constexpr (W >= 8) step(std::integer_sequence<int, 4>(), lanes);
  if constexpr (W >= 4) step(std::integer_sequence<int, 2>(), lanes);
  step(std::integer_sequence<int, 1>(), lanes);
}

/// Loads up to W rows of W numbers, `row` apart, the others as zeros, as columns.
template <class F, int W, class Isa>
BETATRON_INLINE void load_columns(numerics::pack<F, W, Isa> (&v)[W], const F* from, std::size_t row,
                                  std::size_t rows) {
  using lanes = numerics::pack<F, W, Isa>;
  for (std::size_t i = 0; i < static_cast<std::size_t>(W); ++i) {
    v[i] = i < rows ? lanes::load(from + i * row) : lanes(F(0));
  }
  transpose(v);
}

}  // namespace betatron::fields
