// second_order_kernels.cpp: the loops of the reverse pass with rates along a direction in which the
// line is changed. Compiled as adjoint_kernels.cpp, in double precision only.
#include "tracking/cpu/adjoint_loops.h"

namespace betatron::tracking {

#define BETATRON_JOIN(a, b) a##b
#define BETATRON_TABLE(i) BETATRON_JOIN(second_order_kernels_, i)

extern const second_order_table BETATRON_TABLE(BETATRON_ISA);

constinit const second_order_table BETATRON_TABLE(BETATRON_ISA) = [] {
  using loops = adjoint_loops<second_order>;
  second_order_table table{};
  std::size_t i = 0;
  elements::all_maps::for_each([&]<template <class> class Map>() {
    if constexpr (Map<real>::writes != 0) table.pull[i] = loops::pull<Map>;
    ++i;
  });
  table.refresh = loops::refresh;
  table.width = width;
  return table;
}();

}  // namespace betatron::tracking
