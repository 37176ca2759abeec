// dispatch.cpp: the kernels for networks and plasma stages of the instruction set in use.
#include "numerics/dispatch.h"

#include "surrogate/kernel_table.h"
#include "surrogate/stage_kernels.h"

namespace betatron::surrogate {

#define BETATRON_DECLARE(level, isa)                               \
  extern const dense_kernels<float> dense_kernels_##isa##_float;   \
  extern const dense_kernels<double> dense_kernels_##isa##_double; \
  extern const stage_kernels<float> stage_kernels_##isa##_float;   \
  extern const stage_kernels<double> stage_kernels_##isa##_double;
BETATRON_EACH_ISA(BETATRON_DECLARE)

#define BETATRON_FLOAT(level, isa) {level, &dense_kernels_##isa##_float},
#define BETATRON_DOUBLE(level, isa) {level, &dense_kernels_##isa##_double},
#define BETATRON_STAGE_FLOAT(level, isa) {level, &stage_kernels_##isa##_float},
#define BETATRON_STAGE_DOUBLE(level, isa) {level, &stage_kernels_##isa##_double},

template <>
const dense_kernels<float>& kernels<float>() {
  static const auto& table =
      numerics::pick<dense_kernels<float>>({BETATRON_EACH_ISA(BETATRON_FLOAT)});
  return table;
}
template <>
const dense_kernels<double>& kernels<double>() {
  static const auto& table =
      numerics::pick<dense_kernels<double>>({BETATRON_EACH_ISA(BETATRON_DOUBLE)});
  return table;
}
template <>
const stage_kernels<float>& kernels_of_stages<float>() {
  static const auto& table =
      numerics::pick<stage_kernels<float>>({BETATRON_EACH_ISA(BETATRON_STAGE_FLOAT)});
  return table;
}
template <>
const stage_kernels<double>& kernels_of_stages<double>() {
  static const auto& table =
      numerics::pick<stage_kernels<double>>({BETATRON_EACH_ISA(BETATRON_STAGE_DOUBLE)});
  return table;
}

}  // namespace betatron::surrogate
