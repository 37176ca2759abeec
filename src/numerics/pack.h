// pack.h: W numbers that go through one instruction together.
//
// pack<F, W, Isa> wraps the vector extension of GCC and Clang. Isa is a tag: it makes the packs of two
// instruction sets different types, so that code compiled for AVX-512 never takes the place of code
// compiled for AVX2 at link time. std::experimental::simd has no such tag, and its reciprocal square
// root is a full division; otherwise the vocabulary here is the same.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "numerics/hd.h"

namespace betatron::numerics {

namespace isa {
struct base;  // whatever the compiler's baseline is
struct v2;    // x86-64-v2: SSE4.2
struct v3;    // x86-64-v3: AVX2 and FMA
struct v4;    // x86-64-v4: AVX-512
}  // namespace isa

template <class F, int W, class Isa>
struct pack;

template <class T>
struct is_pack : std::false_type {};
template <class F, int W, class Isa>
struct is_pack<pack<F, W, Isa>> : std::true_type {};

BETATRON_INLINE bool any_of(bool m) { return m; }

#if !defined(__CUDACC__) && \
    !defined(__HIPCC__)  // a device thread holds one particle: no packs there

namespace detail {

#if defined(__AVX512F__) && defined(__AVX512DQ__)
inline constexpr bool has_avx512 = true;
#else
inline constexpr bool has_avx512 = false;
#endif

template <class F, int W>
inline constexpr bool is_zmm = has_avx512 && W * sizeof(F) == 64;

template <class F>
using lane_integer = std::conditional_t<sizeof(F) == 8, std::int64_t, std::int32_t>;

template <class F, int W, bool Native>
struct mask_storage {  // all bits of a lane set or clear
  typedef lane_integer<F> vector __attribute__((vector_size(W * sizeof(F))));
  using type = vector;
  vector m;
};
template <class F, int W>
struct mask_storage<F, W, true> {  // one bit per lane
  using type = std::uint32_t;
  std::uint32_t m;
};

}  // namespace detail

/// The answer of a comparison, lane by lane. With AVX-512 it lives in a mask register.
template <class F, int W, class Isa>
struct lane_mask : detail::mask_storage<F, W, detail::is_zmm<F, W>> {
  static constexpr bool native = detail::is_zmm<F, W>;
  using base = detail::mask_storage<F, W, native>;
  using bits_type = std::uint32_t;
  using base::m;

  lane_mask() = default;
  BETATRON_INLINE explicit lane_mask(typename base::type lanes) { m = lanes; }

  friend BETATRON_INLINE lane_mask operator&(lane_mask a, lane_mask b) {
    return lane_mask(a.m & b.m);
  }
  friend BETATRON_INLINE lane_mask operator|(lane_mask a, lane_mask b) {
    return lane_mask(a.m | b.m);
  }
  friend BETATRON_INLINE lane_mask operator!(lane_mask a) {
    if constexpr (native) {
      return lane_mask(a.m ^ ((bits_type{1} << W) - 1));
    } else {
      return lane_mask(~a.m);
    }
  }

  /// One bit per lane, lane 0 lowest.
  BETATRON_INLINE bits_type bits() const {
    if constexpr (native) {
      return m;
    } else {
#if defined(__AVX__)
      if constexpr (W * sizeof(F) == 32 && sizeof(F) == 8) {
        return static_cast<bits_type>(_mm256_movemask_pd((__m256d)m));
      } else if constexpr (W * sizeof(F) == 32) {
        return static_cast<bits_type>(_mm256_movemask_ps((__m256)m));
      } else
#endif
      {
        bits_type b = 0;
        for (int i = 0; i < W; ++i) b |= static_cast<bits_type>(m[i] != 0) << i;
        return b;
      }
    }
  }
};

template <class F, int W, class Isa>
BETATRON_INLINE bool any_of(lane_mask<F, W, Isa> m) {
  return m.bits() != 0;
}

/// W floating-point numbers. Arithmetic mixes with scalars (which are broadcast).
template <class F, int W, class Isa>
struct pack {
  static_assert(W > 1 && (W & (W - 1)) == 0, "the width of a pack is a power of two");
  using value_type = F;
  using mask = lane_mask<F, W, Isa>;
  static constexpr int width = W;
  typedef F vector __attribute__((vector_size(W * sizeof(F))));

  vector v;

  pack() = default;
  BETATRON_INLINE pack(vector values) : v(values) {}
  template <class S, class = std::enable_if_t<std::is_arithmetic_v<S>>>
  BETATRON_INLINE pack(S broadcast) : v(static_cast<F>(broadcast) - vector{}) {}  // x - 0 = x

  static BETATRON_INLINE pack load(const F* p) {
    pack r;
    std::memcpy(&r.v, p, sizeof(vector));
    return r;
  }
  BETATRON_INLINE void store(F* p) const { std::memcpy(p, &v, sizeof(vector)); }
  BETATRON_INLINE F operator[](int lane) const { return v[lane]; }
  BETATRON_INLINE void set(int lane, F value) { v[lane] = value; }

  friend BETATRON_INLINE pack operator+(pack a, pack b) { return a.v + b.v; }
  friend BETATRON_INLINE pack operator-(pack a, pack b) { return a.v - b.v; }
  friend BETATRON_INLINE pack operator*(pack a, pack b) { return a.v * b.v; }
  friend BETATRON_INLINE pack operator/(pack a, pack b) { return a.v / b.v; }
  BETATRON_INLINE pack operator-() const { return -v; }
  BETATRON_INLINE pack& operator+=(pack b) { return *this = *this + b; }
  BETATRON_INLINE pack& operator-=(pack b) { return *this = *this - b; }
  BETATRON_INLINE pack& operator*=(pack b) { return *this = *this * b; }
  BETATRON_INLINE pack& operator/=(pack b) { return *this = *this / b; }

#if defined(__AVX512F__) && defined(__AVX512DQ__)
#define BETATRON_COMPARE(op, code)                                       \
  friend BETATRON_INLINE mask operator op(pack a, pack b) {              \
    if constexpr (mask::native && sizeof(F) == 8) {                      \
      return mask(_mm512_cmp_pd_mask((__m512d)a.v, (__m512d)b.v, code)); \
    } else if constexpr (mask::native) {                                 \
      return mask(_mm512_cmp_ps_mask((__m512)a.v, (__m512)b.v, code));   \
    } else {                                                             \
      return mask(a.v op b.v);                                           \
    }                                                                    \
  }
#else
#define BETATRON_COMPARE(op, code) \
  friend BETATRON_INLINE mask operator op(pack a, pack b) { return mask(a.v op b.v); }
#endif
  BETATRON_COMPARE(<, _CMP_LT_OQ)
  BETATRON_COMPARE(<=, _CMP_LE_OQ)
  BETATRON_COMPARE(>, _CMP_GT_OQ)
  BETATRON_COMPARE(>=, _CMP_GE_OQ)
  BETATRON_COMPARE(==, _CMP_EQ_OQ)
#undef BETATRON_COMPARE
};

/// Lane by lane: a where m is set, b elsewhere.
template <class F, int W, class Isa>
BETATRON_INLINE pack<F, W, Isa> select(lane_mask<F, W, Isa> m, pack<F, W, Isa> a,
                                       pack<F, W, Isa> b) {
  using vector = typename pack<F, W, Isa>::vector;
#if defined(__AVX512F__) && defined(__AVX512DQ__)
  if constexpr (detail::is_zmm<F, W> && sizeof(F) == 8) {
    return (vector)_mm512_mask_blend_pd(static_cast<__mmask8>(m.m), (__m512d)b.v, (__m512d)a.v);
  } else if constexpr (detail::is_zmm<F, W>) {
    return (vector)_mm512_mask_blend_ps(static_cast<__mmask16>(m.m), (__m512)b.v, (__m512)a.v);
  } else
#endif
  {
    using integers = typename detail::mask_storage<F, W, false>::vector;
    return (vector)((m.m & (integers)a.v) | (~m.m & (integers)b.v));
  }
}

template <class F, int W, class Isa>
BETATRON_INLINE pack<F, W, Isa> abs(pack<F, W, Isa> a) {
  using vector = typename pack<F, W, Isa>::vector;
  using integers = typename detail::mask_storage<F, W, false>::vector;
  using integer = detail::lane_integer<F>;
  constexpr integer magnitude = ~(integer{1} << (8 * sizeof(F) - 1));
  return (vector)((integers)a.v & (integers{} + magnitude));
}

template <class F, int W, class Isa>
BETATRON_INLINE pack<F, W, Isa> sqrt(pack<F, W, Isa> a) {
  using vector = typename pack<F, W, Isa>::vector;
#if defined(__AVX512F__)
  if constexpr (W * sizeof(F) == 64 && sizeof(F) == 8) {
    return (vector)_mm512_sqrt_pd((__m512d)a.v);
  } else if constexpr (W * sizeof(F) == 64) {
    return (vector)_mm512_sqrt_ps((__m512)a.v);
  } else
#endif
#if defined(__AVX__)
      if constexpr (W * sizeof(F) == 32 && sizeof(F) == 8) {
    return (vector)_mm256_sqrt_pd((__m256d)a.v);
  } else if constexpr (W * sizeof(F) == 32) {
    return (vector)_mm256_sqrt_ps((__m256)a.v);
  } else
#endif
#if defined(__SSE2__)
      if constexpr (W * sizeof(F) == 16 && sizeof(F) == 8) {
    return (vector)_mm_sqrt_pd((__m128d)a.v);
  } else if constexpr (W * sizeof(F) == 16) {
    return (vector)_mm_sqrt_ps((__m128)a.v);
  } else
#endif
  {
    vector r;
    for (int i = 0; i < W; ++i) {
      r[i] = sizeof(F) == 8 ? static_cast<F>(__builtin_sqrt(static_cast<double>(a.v[i])))
                            : static_cast<F>(__builtin_sqrtf(static_cast<float>(a.v[i])));
    }
    return r;
  }
}

/// 1/sqrt(a) to about one unit in the last place. NaN for a < 0. With AVX-512 this is a table look-up and
/// two Newton steps, five times cheaper than a square root and a division; a = 0 and a = inf, which the
/// Newton steps would turn into NaN, do not occur for momenta (a caller that can meet them checks first).
template <class F, int W, class Isa>
BETATRON_INLINE pack<F, W, Isa> rsqrt(pack<F, W, Isa> a) {
  using P = pack<F, W, Isa>;
#if defined(__AVX512F__)
  using vector = typename P::vector;
  if constexpr (W * sizeof(F) == 64) {
    P y;
    if constexpr (sizeof(F) == 8) {
      y = P((vector)_mm512_rsqrt14_pd((__m512d)a.v));
    } else {
      y = P((vector)_mm512_rsqrt14_ps((__m512)a.v));
    }
    // y (1 + e/2 + 3e^2/8), e = 1 - a y^2: third order, so one step serves float
    const P e = P(1) - a * y * y;
    y = y + y * e * (P(F(0.5)) + P(F(0.375)) * e);
    if constexpr (sizeof(F) == 8) {
      const P r = P(1) - a * y * y;
      y = y + y * r * P(F(0.5));
    }
    return y;
  }
#endif
  return P(1) / sqrt(a);
}

/// Round to the nearest integer (ties to even), for |a| < 2^51 (double) or 2^22 (float).
template <class F, int W, class Isa>
BETATRON_INLINE pack<F, W, Isa> round_to_integer(pack<F, W, Isa> a) {
  using P = pack<F, W, Isa>;
  // adding 1.5 * 2^52 pushes the fraction out of the significand; the compiler may not undo it without
  // -fassociative-math, which Betatron never sets
  const P magic = sizeof(F) == 8 ? F(6755399441055744.0) : F(12582912.0);
  return (a + magic) - magic;
}

#endif  // not device code

}  // namespace betatron::numerics
