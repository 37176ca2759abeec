// bf16_dispatch.cpp: which instructions for bfloat16 this processor, and the system on it, have.
#include <cstdlib>
#include <string_view>

#include "numerics/dispatch.h"
#include "surrogate/bf16_table.h"

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
struct features {
  bool dot = false, fast_dot = false, tiles = false;
};

/// What the processor says. Source: Intel 64 and IA-32 Architectures Software Developer's Manual, vol. 2A, CPUID.
features ask() {
  features f;
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid_count(7, 1, &a, &b, &c, &d)) f.dot = (a >> 5 & 1) != 0;  // AVX512_BF16
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) {
    f.tiles = (d >> 22 & 1) != 0 && (d >> 24 & 1) != 0;  // AMX-BF16, AMX-TILE
  }
  // measured on Sapphire Rapids: a dot product takes four times as long as a fused multiply-add there, so that single
  // precision is faster; other makers' processors do as many of one as of the other
  if (__get_cpuid(0, &a, &b, &c, &d)) f.fast_dot = f.dot && b != signature_INTEL_ebx;
  return f;
}

/// The system grants tiles to this process: they enlarge what it must save for a thread, so that Linux wants to be asked.
/// Source: Linux, Documentation/arch/x86/xstate.rst.
bool granted_tiles() {
#if defined(__linux__) && defined(SYS_arch_prctl)
  constexpr long request_permission = 0x1023, tile_data = 18;
  return ::syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
#else
  return false;
#endif
}
#endif

bf16_support find() {
#if defined(BETATRON_HAS_BF16)
  const char* variable = std::getenv("BETATRON_BF16");
  const std::string_view wish = variable ? variable : "";
  const features f = ask();
  if (numerics::instruction_level() < 4 || !f.dot || wish == "off") return {};
#if defined(BETATRON_HAS_AMX)
  if (f.tiles && wish != "dot" && granted_tiles()) return {&bf16_products_amx, &bf16_kernels_dot};
#endif
  if (f.fast_dot || wish == "dot") return {&bf16_products_dot, &bf16_kernels_dot};
#endif
  return {};
}

}  // namespace

const bf16_support& find_bf16() {
  static const bf16_support found = find();
  return found;
}

}  // namespace betatron::surrogate
