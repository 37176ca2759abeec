// dispatch.cpp: the field kernels of the instruction set in use.
#include "numerics/dispatch.h"

#include "fields/gaussian_table.h"
#include "fields/kernel_table.h"
#include "fields/round_table.h"

namespace betatron::fields {

#define BETATRON_DECLARE(level, isa)                               \
  extern const field_kernels<float> field_kernels_##isa##_float;   \
  extern const field_kernels<double> field_kernels_##isa##_double; \
  extern const round_kernels<float> round_kernels_##isa##_float;   \
  extern const round_kernels<double> round_kernels_##isa##_double; \
  extern const gaussian_table gaussian_kernels_##isa;
BETATRON_EACH_ISA(BETATRON_DECLARE)

#define BETATRON_FLOAT(level, isa) {level, &field_kernels_##isa##_float},
#define BETATRON_DOUBLE(level, isa) {level, &field_kernels_##isa##_double},
#define BETATRON_ROUND_FLOAT(level, isa) {level, &round_kernels_##isa##_float},
#define BETATRON_ROUND_DOUBLE(level, isa) {level, &round_kernels_##isa##_double},
#define BETATRON_GAUSSIAN(level, isa) {level, &gaussian_kernels_##isa},

template <>
const field_kernels<float>& kernels<float>() {
  static const auto& table =
      numerics::pick<field_kernels<float>>({BETATRON_EACH_ISA(BETATRON_FLOAT)});
  return table;
}
template <>
const field_kernels<double>& kernels<double>() {
  static const auto& table =
      numerics::pick<field_kernels<double>>({BETATRON_EACH_ISA(BETATRON_DOUBLE)});
  return table;
}
template <>
const round_kernels<float>& round_table<float>() {
  static const auto& table =
      numerics::pick<round_kernels<float>>({BETATRON_EACH_ISA(BETATRON_ROUND_FLOAT)});
  return table;
}
template <>
const round_kernels<double>& round_table<double>() {
  static const auto& table =
      numerics::pick<round_kernels<double>>({BETATRON_EACH_ISA(BETATRON_ROUND_DOUBLE)});
  return table;
}
const gaussian_table& gaussian_kernels() {
  static const auto& table = numerics::pick<gaussian_table>({BETATRON_EACH_ISA(BETATRON_GAUSSIAN)});
  return table;
}

}  // namespace betatron::fields
