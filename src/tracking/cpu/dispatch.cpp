// dispatch.cpp: picks the kernels of the best instruction set that this processor has.
#include <cstdlib>
#include <stdexcept>
#include <string_view>

#include "tracking/cpu/kernel_table.h"

namespace betatron::tracking {

#define BETATRON_DECLARE(isa)                        \
  extern const kernel_table<float> kernels_##isa##_float; \
  extern const kernel_table<double> kernels_##isa##_double;

#if defined(BETATRON_HAS_V2) || defined(BETATRON_HAS_V3) || defined(BETATRON_HAS_V4)

BETATRON_DECLARE(v2)
BETATRON_DECLARE(v3)
BETATRON_DECLARE(v4)

namespace {

/// 2, 3 or 4: the best level of x86-64 here. BETATRON_ISA=v2|v3|v4 in the environment lowers it (for tests).
int level() {
  __builtin_cpu_init();
  int best = 0;
  if (__builtin_cpu_supports("sse4.2")) best = 2;
  if (best == 2 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) best = 3;
  if (best == 3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw")) {
    best = 4;
  }
  if (best == 0) throw std::runtime_error("betatron needs a processor with SSE4.2 (x86-64-v2)");
  if (const char* wanted = std::getenv("BETATRON_ISA")) {
    const std::string_view w = wanted;
    if (w == "v2") return 2;
    if (w == "v3" && best >= 3) return 3;
  }
  return best;
}

}  // namespace

template <>
const kernel_table<float>& kernels<float>() {
  static const int best = level();
  return best == 4 ? kernels_v4_float : best == 3 ? kernels_v3_float : kernels_v2_float;
}
template <>
const kernel_table<double>& kernels<double>() {
  static const int best = level();
  return best == 4 ? kernels_v4_double : best == 3 ? kernels_v3_double : kernels_v2_double;
}

#else

BETATRON_DECLARE(base)

template <>
const kernel_table<float>& kernels<float>() {
  return kernels_base_float;
}
template <>
const kernel_table<double>& kernels<double>() {
  return kernels_base_double;
}

#endif

}  // namespace betatron::tracking
