// bf16_dispatch.cpp: which instructions for bfloat16 this processor, and the system on it, have.
#include <cstdlib>
#include <string_view>

#include "surrogate/bf16_table.h"
#include "tracking/cpu/executor.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace betatron::surrogate {

#if defined(BETATRON_HAS_BF16)
extern const bf16_products bf16_products_dot;
extern const bf16_kernels bf16_kernels_dot;
#endif
#if defined(BETATRON_HAS_AMX)
extern const bf16_products bf16_products_amx;
#endif

namespace {

#if defined(BETATRON_HAS_BF16)
bool has_dot_products() {
  unsigned a = 0, b = 0, c = 0, d = 0;  // leaf 7.1, EAX bit 5: AVX512_BF16
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && (a >> 5 & 1) != 0;
}
#endif

#if defined(BETATRON_HAS_AMX)
/// The processor has tiles, and the system grants them to this process: they enlarge what it must save for a thread,
/// so that Linux wants to be asked. Source: Linux, Documentation/arch/x86/xstate.rst.
bool has_tiles() {
#if defined(__linux__) && defined(SYS_arch_prctl)
  unsigned a = 0, b = 0, c = 0, d = 0;  // leaf 7.0, EDX bits 22 and 24: AMX-BF16, AMX-TILE
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0 || (d >> 22 & 1) == 0 || (d >> 24 & 1) == 0) {
    return false;
  }
  const char* wish = std::getenv("BETATRON_AMX");
  if (wish && std::string_view(wish) == "off") return false;
  constexpr long request_permission = 0x1023, tile_data = 18;
  return ::syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
#else
  return false;
#endif
}
#endif

bf16_support find() {
#if defined(BETATRON_HAS_BF16)
  if (std::string_view(tracking::instruction_set()) == "v4" && has_dot_products()) {
    bf16_support found{&bf16_products_dot, &bf16_kernels_dot};
#if defined(BETATRON_HAS_AMX)
    if (has_tiles()) found.products = &bf16_products_amx;
#endif
    return found;
  }
#endif
  return {};
}

}  // namespace

const bf16_support& find_bf16() {
  static const bf16_support found = find();
  return found;
}

}  // namespace betatron::surrogate
