#include "numerics/dispatch.h"

#include <cstdlib>
#include <string_view>

namespace betatron::numerics {

int instruction_level() {
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

}  // namespace betatron::numerics
