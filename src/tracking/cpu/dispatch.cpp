// dispatch.cpp: picks the kernels of the best instruction set that was compiled and that this processor has.
#include <cstdlib>
#include <stdexcept>
#include <string_view>
#include <type_traits>

#include "tracking/cpu/adjoint_table.h"
#include "tracking/cpu/kernel_table.h"

namespace betatron::tracking {

#define BETATRON_DECLARE(isa)                                      \
  extern const kernel_table<float> kernels_##isa##_float;          \
  extern const kernel_table<double> kernels_##isa##_double;        \
  extern const adjoint_table<float> adjoint_kernels_##isa##_float; \
  extern const adjoint_table<double> adjoint_kernels_##isa##_double;

#if defined(BETATRON_HAS_V4)
BETATRON_DECLARE(v4)
#endif
#if defined(BETATRON_HAS_V3)
BETATRON_DECLARE(v3)
#endif
#if defined(BETATRON_HAS_V2)
BETATRON_DECLARE(v2)
#endif
#if defined(BETATRON_HAS_BASE)
BETATRON_DECLARE(base)
#endif

namespace {

/// The level of x86-64 that the processor has (1: less than 2; 0 on other processors). BETATRON_ISA=v2|v3 in the
/// environment lowers it, for tests.
int level() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  int best = 1;
  if (__builtin_cpu_supports("sse4.2")) best = 2;
  if (best == 2 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) best = 3;
  if (best == 3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw")) {
    best = 4;
  }
  if (const char* wanted = std::getenv("BETATRON_ISA")) {
    const std::string_view w = wanted;
    if (w == "v2" && best > 2) return 2;
    if (w == "v3" && best > 3) return 3;
  }
  return best;
#else
  return 0;
#endif
}

/// The kernels of one instruction set.
template <class F>
struct tables {
  const kernel_table<F>& forward;
  const adjoint_table<F>& adjoint;
};

template <class F>
tables<F> best() {
  const int here = level();
#define BETATRON_TRY(needed, isa)                                      \
  if (here >= needed) {                                                \
    if constexpr (std::is_same_v<F, float>) {                          \
      return {kernels_##isa##_float, adjoint_kernels_##isa##_float};   \
    } else {                                                           \
      return {kernels_##isa##_double, adjoint_kernels_##isa##_double}; \
    }                                                                  \
  }
#if defined(BETATRON_HAS_V4)
  BETATRON_TRY(4, v4)
#endif
#if defined(BETATRON_HAS_V3)
  BETATRON_TRY(3, v3)
#endif
#if defined(BETATRON_HAS_V2)
  BETATRON_TRY(2, v2)
#endif
#if defined(BETATRON_HAS_BASE)
  BETATRON_TRY(0, base)
#endif
#undef BETATRON_TRY
  throw std::runtime_error(
      "betatron was built for processors with SSE4.2 (x86-64-v2); this one has none");
}

template <class F>
const tables<F>& chosen() {
  static const tables<F> t = best<F>();
  return t;
}

}  // namespace

template <>
const kernel_table<float>& kernels<float>() {
  return chosen<float>().forward;
}
template <>
const kernel_table<double>& kernels<double>() {
  return chosen<double>().forward;
}
template <>
const adjoint_table<float>& adjoint_kernels<float>() {
  return chosen<float>().adjoint;
}
template <>
const adjoint_table<double>& adjoint_kernels<double>() {
  return chosen<double>().adjoint;
}

}  // namespace betatron::tracking
