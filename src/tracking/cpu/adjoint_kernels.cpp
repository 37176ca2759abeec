// adjoint_kernels.cpp: every map with tangents, as a loop over packs. Compiled once per BETATRON_ISA and
// BETATRON_REAL, under the same rules as kernels.cpp, and with -ffinite-math-only -fno-signed-zeros: many tangents
// are zero by construction, and so the compiler may leave out what is multiplied by them. Particles that are not
// finite do not come here, and results that are not are found where they are used (tracking/gradient.cpp).
#include "tracking/cpu/adjoint_loops.h"

namespace betatron::tracking {

namespace {

using loops = adjoint_loops<first_order>;

template <template <class> class Map>
void push(const real* dual_coefficients, const real* dual_energy,
          const adjoint_tile<real>& shared) {
  const auto map = load_map<Map<loops::coefficient>>(dual_coefficients);
  const adjoint_tile<real> t = shared;
  const auto* constants = reinterpret_cast<const loops::coefficient*>(dual_energy);
  const loops::moving inv_beta(constants[0]), inv_bg2(constants[1]);
  for (std::size_t i = 0; i < t.count; i += width) {
    phase_space<loops::moving> z = loops::load(t, i);
    const energy<loops::moving> e = elements::energy_of(z.pt, inv_beta, inv_bg2);
    map.push(z, e);
    loops::store<Map<real>::writes>(z, t, i);
  }
}

}  // namespace

#define BETATRON_JOIN(a, b, c) a##b##_##c
#define BETATRON_TABLE(i, r) BETATRON_JOIN(adjoint_kernels_, i, r)

extern const adjoint_table<real> BETATRON_TABLE(BETATRON_ISA, BETATRON_REAL);

constinit const adjoint_table<real> BETATRON_TABLE(BETATRON_ISA, BETATRON_REAL) = [] {
  adjoint_table<real> table{};
  std::size_t i = 0;
  elements::all_maps::for_each([&]<template <class> class Map>() {
    if constexpr (Map<real>::writes != 0) {  // what filters let pass does not change
      table.pull[i] = loops::pull<Map>;
      table.push[i] = push<Map>;
    }
    ++i;
  });
  table.refresh = loops::refresh;
  table.width = width;
  return table;
}();

}  // namespace betatron::tracking
