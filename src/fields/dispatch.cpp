// dispatch.cpp: the field kernels of the instruction set in use.
#include <stdexcept>
#include <string>
#include <type_traits>

#include "fields/kernel_table.h"
#include "tracking/cpu/executor.h"

namespace betatron::fields {

#define BETATRON_DECLARE(isa)                                    \
  extern const field_kernels<float> field_kernels_##isa##_float; \
  extern const field_kernels<double> field_kernels_##isa##_double;

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
const field_kernels<F>& find() {
  const std::string wanted = tracking::instruction_set();
#define BETATRON_TRY(isa)                     \
  if (wanted == #isa) {                       \
    if constexpr (std::is_same_v<F, float>) { \
      return field_kernels_##isa##_float;     \
    } else {                                  \
      return field_kernels_##isa##_double;    \
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
  throw std::runtime_error("betatron: no field kernels for instruction set " + wanted);
}

}  // namespace

template <>
const field_kernels<float>& kernels<float>() {
  static const field_kernels<float>& table = find<float>();
  return table;
}
template <>
const field_kernels<double>& kernels<double>() {
  static const field_kernels<double>& table = find<double>();
  return table;
}

}  // namespace betatron::fields
