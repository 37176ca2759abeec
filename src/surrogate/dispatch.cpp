// dispatch.cpp: the kernels for networks of the instruction set in use.
#include <stdexcept>
#include <string>
#include <type_traits>

#include "surrogate/kernel_table.h"
#include "tracking/cpu/executor.h"

namespace betatron::surrogate {

#define BETATRON_DECLARE(isa)                                    \
  extern const dense_kernels<float> dense_kernels_##isa##_float; \
  extern const dense_kernels<double> dense_kernels_##isa##_double;

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

template <class F>
const dense_kernels<F>& find() {
  const std::string wanted = tracking::instruction_set();
#define BETATRON_TRY(isa)                     \
  if (wanted == #isa) {                       \
    if constexpr (std::is_same_v<F, float>) { \
      return dense_kernels_##isa##_float;     \
    } else {                                  \
      return dense_kernels_##isa##_double;    \
    }                                         \
  }
#if defined(BETATRON_HAS_V4)
  BETATRON_TRY(v4)
#endif
#if defined(BETATRON_HAS_V3)
  BETATRON_TRY(v3)
#endif
#if defined(BETATRON_HAS_V2)
  BETATRON_TRY(v2)
#endif
#if defined(BETATRON_HAS_BASE)
  BETATRON_TRY(base)
#endif
#undef BETATRON_TRY
  throw std::runtime_error("betatron: no kernels for networks for instruction set " + wanted);
}

}  // namespace

template <>
const dense_kernels<float>& kernels<float>() {
  static const dense_kernels<float>& table = find<float>();
  return table;
}
template <>
const dense_kernels<double>& kernels<double>() {
  static const dense_kernels<double>& table = find<double>();
  return table;
}

}  // namespace betatron::surrogate
