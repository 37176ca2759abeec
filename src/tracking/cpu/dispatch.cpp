// dispatch.cpp: the kernels of the instruction set in use.
#include "numerics/dispatch.h"

#include "tracking/cpu/adjoint_table.h"
#include "tracking/cpu/kernel_table.h"

namespace betatron::tracking {

#define BETATRON_DECLARE(level, isa)                                 \
  extern const kernel_table<float> kernels_##isa##_float;            \
  extern const kernel_table<double> kernels_##isa##_double;          \
  extern const adjoint_table<float> adjoint_kernels_##isa##_float;   \
  extern const adjoint_table<double> adjoint_kernels_##isa##_double; \
  extern const second_order_table second_order_kernels_##isa;
BETATRON_EACH_ISA(BETATRON_DECLARE)

#define BETATRON_FLOAT(level, isa) {level, &kernels_##isa##_float},
#define BETATRON_DOUBLE(level, isa) {level, &kernels_##isa##_double},
#define BETATRON_ADJOINT_FLOAT(level, isa) {level, &adjoint_kernels_##isa##_float},
#define BETATRON_ADJOINT_DOUBLE(level, isa) {level, &adjoint_kernels_##isa##_double},
#define BETATRON_SECOND_ORDER(level, isa) {level, &second_order_kernels_##isa},

template <>
const kernel_table<float>& kernels<float>() {
  static const auto& table =
      numerics::pick<kernel_table<float>>({BETATRON_EACH_ISA(BETATRON_FLOAT)});
  return table;
}
template <>
const kernel_table<double>& kernels<double>() {
  static const auto& table =
      numerics::pick<kernel_table<double>>({BETATRON_EACH_ISA(BETATRON_DOUBLE)});
  return table;
}
template <>
const adjoint_table<float>& adjoint_kernels<float>() {
  static const auto& table =
      numerics::pick<adjoint_table<float>>({BETATRON_EACH_ISA(BETATRON_ADJOINT_FLOAT)});
  return table;
}
template <>
const adjoint_table<double>& adjoint_kernels<double>() {
  static const auto& table =
      numerics::pick<adjoint_table<double>>({BETATRON_EACH_ISA(BETATRON_ADJOINT_DOUBLE)});
  return table;
}
const second_order_table& second_order_kernels() {
  static const auto& table =
      numerics::pick<second_order_table>({BETATRON_EACH_ISA(BETATRON_SECOND_ORDER)});
  return table;
}

}  // namespace betatron::tracking
