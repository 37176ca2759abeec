// adjoint_kernels.cpp: every map with tangents, as a loop over packs. Compiled once per BETATRON_ISA and
// BETATRON_REAL, under the same rules as kernels.cpp, and with -ffinite-math-only -fno-signed-zeros: many tangents
// are zero by construction, and so the compiler may leave out what is multiplied by them. Particles that are not
// finite do not come here, and results that are not are found where they are used (tracking/cpu/reverse_pass.h).
#include "tracking/cpu/adjoint_loops.h"

#include "elements/radiation.h"

namespace betatron::tracking {

namespace {

using loops = adjoint_loops<first_order>;
using moving = loops::moving;
using coefficient = loops::coefficient;

template <template <class> class Map>
void push(const real* dual_coefficients, const real* dual_energy,
          const adjoint_tile<real>& shared) {
  const auto map = load_map<Map<coefficient>>(dual_coefficients);
  const adjoint_tile<real> t = shared;
  const auto* constants = reinterpret_cast<const coefficient*>(dual_energy);
  const moving inv_beta(constants[0]), inv_bg2(constants[1]);
  for (std::size_t i = 0; i < t.count; i += width) {
    phase_space<moving> z = loops::load(t, i);
    const energy<moving> e = elements::energy_of(z.pt, inv_beta, inv_bg2);
    map.push(z, e);
    loops::store<Map<real>::writes>(z, t, i);
  }
}

void radiate(const real* coefficients, const adjoint_direction<real>* directions,
             std::size_t direction_count, real* scratch, double* sums,
             const adjoint_radiation<real>& step, const adjoint_tile<real>& shared) {
  using varied = numerics::dual<lanes, 7>;  // by x, px, y, py, pt and the momenta at the mark
  const auto map = load_map<elements::radiation_loss<real>>(coefficients);
  const adjoint_tile<real> t = shared;
  const adjoint_radiation<real> r = step;
  const lanes none(real(0));
  for (std::size_t d = 0; d < direction_count; ++d) none.store(scratch + d * width);
  for (std::size_t i = 0; i < t.count; i += width) {
    const lanes noise = lanes::load(r.noise + i);
    const lanes mark_px = lanes::load(r.mark[0] + i), mark_py = lanes::load(r.mark[1] + i);
    const phase_space<lanes> front{lanes::load(t.z[0] + i), lanes::load(t.z[1] + i),
                                   lanes::load(t.z[2] + i), lanes::load(t.z[3] + i),
                                   lanes::load(t.z[4] + i), lanes::load(t.z[5] + i)};
    const lanes by_px = -lanes::load(t.v[0] + i), by_py = -lanes::load(t.v[2] + i),
                by_pt = -lanes::load(t.v[4] + i);
    phase_space<varied> z{varied::variable(front.x, 0),
                          varied::variable(front.px, 1),
                          varied::variable(front.y, 2),
                          varied::variable(front.py, 3),
                          varied(front.t),
                          varied::variable(front.pt, 4)};
    energy<varied> e = elements::energy_of(z.pt, map.inv_beta, map.inv_bg2);
    const lanes inv_p = e.inv_p.v, slip = e.slip.v;
    const auto inside =
        map.push(z, e, {varied::variable(mark_px, 5), varied::variable(mark_py, 6)}, varied(noise));
    auto by = [&](int k) {
      const lanes sum = by_px * z.px.d[k] + by_py * z.py.d[k] + by_pt * z.pt.d[k];
      return select(inside, sum, none);
    };
    (lanes::load(t.v[1] + i) + by(0)).store(t.v[1] + i);
    (lanes::load(t.v[3] + i) + by(2)).store(t.v[3] + i);
    (-by(1)).store(t.v[0] + i);
    (-by(3)).store(t.v[2] + i);
    (-by(4)).store(t.v[4] + i);
    (lanes::load(r.by_mark[0] + i) + by(5)).store(r.by_mark[0] + i);
    (lanes::load(r.by_mark[1] + i) + by(6)).store(r.by_mark[1] + i);
    for (std::size_t d = 0; d < direction_count; ++d) {
      const auto turned =
          load_map<elements::radiation_loss<coefficient>>(directions[d].coefficients);
      phase_space<moving> w{moving(front.x),  moving(front.px), moving(front.y),
                            moving(front.py), moving(front.t),  moving(front.pt)};
      energy<moving> with{moving(inv_p), moving(slip)};
      if (directions[d].energy) {
        const auto* constants = reinterpret_cast<const coefficient*>(directions[d].energy);
        with = elements::energy_of(w.pt, moving(constants[0]), moving(constants[1]));
      }
      turned.push(w, with, {moving(mark_px), moving(mark_py)}, moving(noise));
      const lanes sum = by_px * w.px.d[0] + by_py * w.py.d[0] + by_pt * w.pt.d[0];
      (lanes::load(scratch + d * width) + select(inside, sum, none)).store(scratch + d * width);
    }
  }
  for (std::size_t d = 0; d < direction_count; ++d) {
    sums[d] += sum_of(lanes::load(scratch + d * width), scratch + d * width);
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
  table.radiate = radiate;
  table.refresh = loops::refresh;
  table.width = width;
  return table;
}();

}  // namespace betatron::tracking
