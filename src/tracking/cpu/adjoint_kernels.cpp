// adjoint_kernels.cpp: every map with tangents, as a loop over packs. Compiled once per BETATRON_ISA and
// BETATRON_REAL, under the same rules as kernels.cpp, and with -ffinite-math-only -fno-signed-zeros: many tangents
// are zero by construction, and so the compiler may leave out what is multiplied by them. Particles that are not
// finite do not come here, and results that are not are found where they are used (tracking/cpu/reverse_pass.h).
#include "numerics/dual.h"  // before the maps: completes the overload sets of numerics

#include "tracking/cpu/adjoint_table.h"

#include "elements/radiation.h"
#include "numerics/native_vector.h"
#include "numerics/pack.h"

#if !defined(BETATRON_ISA) || !defined(BETATRON_REAL)
#error "adjoint_kernels.cpp is compiled with BETATRON_ISA and BETATRON_REAL"
#endif

namespace betatron::tracking {

namespace {

using isa = numerics::isa::BETATRON_ISA;
using real = BETATRON_REAL;
using numerics::vector_bytes;

constexpr std::size_t width = vector_bytes / sizeof(real);
using lanes = numerics::pack<real, static_cast<int>(width), isa>;
using moving = numerics::dual<lanes, 1>;      // a number of each particle and its tangent
using coefficient = numerics::dual<real, 1>;  // the same for all particles

using elements::energy;
using elements::phase_space;
namespace column = elements::column;

BETATRON_INLINE moving load(const real* value, const real* tangent) {
  moving r;
  r.v = lanes::load(value);
  r.d[0] = lanes::load(tangent);
  return r;
}

template <bool Still = false>
BETATRON_INLINE phase_space<moving> load(const adjoint_tile<real>& t, std::size_t i) {
  return {load(t.z[0] + i, t.v[0] + i),
          load(t.z[1] + i, t.v[1] + i),
          load(t.z[2] + i, t.v[2] + i),
          load(t.z[3] + i, t.v[3] + i),
          load(t.z[4] + i, t.v[4] + i),
          Still ? moving(lanes::load(t.z[5] + i)) : load(t.z[5] + i, t.v[5] + i)};
}

/// Still: none of the particles of the tile has a tangent in pt.
template <bool Still>
BETATRON_INLINE energy<moving> load_energy(const adjoint_tile<real>& t, std::size_t i) {
  if constexpr (Still) {
    return {moving(lanes::load(t.inv_p + i)), moving(lanes::load(t.slip + i))};
  } else {
    return {load(t.inv_p + i, t.inv_p_tangent + i), load(t.slip + i, t.slip_tangent + i)};
  }
}

template <unsigned Writes>
BETATRON_INLINE void store(const phase_space<moving>& z, const adjoint_tile<real>& t,
                           std::size_t i) {
  auto put = [&](const moving& m, int c) {
    m.v.store(t.z[static_cast<std::size_t>(c)] + i);
    m.d[0].store(t.v[static_cast<std::size_t>(c)] + i);
  };
  if constexpr ((Writes & column::x) != 0) put(z.x, 0);
  if constexpr ((Writes & column::px) != 0) put(z.px, 1);
  if constexpr ((Writes & column::y) != 0) put(z.y, 2);
  if constexpr ((Writes & column::py) != 0) put(z.py, 3);
  if constexpr ((Writes & column::t) != 0) put(z.t, 4);
  if constexpr ((Writes & column::pt) != 0) put(z.pt, 5);
}

/// The same particles with tangents that are zero.
BETATRON_INLINE phase_space<moving> at_rest(const phase_space<moving>& z) {
  return {moving(z.x.v),  moving(z.px.v), moving(z.y.v),
          moving(z.py.v), moving(z.t.v),  moving(z.pt.v)};
}

/// -lambda . w = -(S v) . w
BETATRON_INLINE lanes contribution(const phase_space<moving>& v, const phase_space<moving>& w) {
  return (v.x.d[0] * w.px.d[0] - v.px.d[0] * w.x.d[0]) +
         (v.y.d[0] * w.py.d[0] - v.py.d[0] * w.y.d[0]) +
         (v.t.d[0] * w.pt.d[0] - v.pt.d[0] * w.t.d[0]);
}

template <class Map>
BETATRON_INLINE Map load_map(const void* coefficients) {
  Map map;
  __builtin_memcpy(&map, coefficients, sizeof map);
  return map;
}

template <template <class> class Map>
concept has_integral = requires(const Map<real>& m, phase_space<moving>& z, energy<moving> e) {
  m.push_and_integrate(z, e);
};

/// The derivative of a map along one coefficient is the flow of the integral of dH/dk along the way; so what a
/// particle contributes is the derivative of that integral along v, with a minus.
template <template <class> class Map, bool Still>
void pull_by_integral(const real* coefficients, const adjoint_direction<real>& direction,
                      real* scratch, double* sums, const adjoint_tile<real>& shared) {
  const auto map = load_map<Map<real>>(coefficients);
  const auto varied = load_map<Map<coefficient>>(direction.coefficients);
  const adjoint_tile<real> t = shared;
  lanes sum(real(0));
  for (std::size_t i = 0; i < t.count; i += width) {
    phase_space<moving> z = load<Still>(t, i);
    const moving integral = map.push_and_integrate(z, load_energy<Still>(t, i));
    sum = sum - integral.d[0];
    store<Map<real>::writes>(z, t, i);
  }
  (sum * varied.k.d[0]).store(scratch);
  double total = 0;
  for (std::size_t lane = 0; lane < width; ++lane) total += static_cast<double>(scratch[lane]);
  sums[0] += total;
}

/// Whether of all coefficients that matter only the one of the integral varies.
template <template <class> class Map>
bool varies_in_strength(const adjoint_direction<real>& direction) {
  const auto varied = load_map<Map<coefficient>>(direction.coefficients);
  return varied.length.d[0] == real(0) && varied.inv_beta.d[0] == real(0) && !direction.energy;
}

/// Adds up, for each direction, the lanes of its pack.
void add_lanes(const real* scratch, std::size_t direction_count, double* sums) {
  for (std::size_t d = 0; d < direction_count; ++d) {
    double sum = 0;
    for (std::size_t lane = 0; lane < width; ++lane) {
      sum += static_cast<double>(scratch[d * width + lane]);
    }
    sums[d] += sum;
  }
}

template <template <class> class Map, bool Still>
void pull_all(const real* coefficients, const adjoint_direction<real>* directions,
              std::size_t direction_count, real* scratch, double* sums,
              const adjoint_tile<real>& shared) {
  if constexpr (has_integral<Map>) {
    if (direction_count == 1 && varies_in_strength<Map>(directions[0])) {
      return pull_by_integral<Map, Still>(coefficients, directions[0], scratch, sums, shared);
    }
  }
  const auto map = load_map<Map<real>>(coefficients);
  const adjoint_tile<real> t = shared;  // a copy cannot alias the columns
  for (std::size_t d = 0; d < direction_count; ++d) lanes(real(0)).store(scratch + d * width);
  for (std::size_t i = 0; i < t.count; i += width) {
    const phase_space<moving> behind = load<Still>(t, i);
    const energy<moving> e = load_energy<Still>(t, i);
    phase_space<moving> z = behind;
    map.push(z, e);
    if constexpr (requires { map.bg_in; }) {  // of the inverse: bg_in is behind
      const lanes factor = map.bg_out / map.bg_in;
      for (moving* m : {&z.x, &z.px, &z.y, &z.py, &z.t, &z.pt}) m->d[0] = m->d[0] * factor;
    }
    for (std::size_t d = 0; d < direction_count; ++d) {
      const auto varied = load_map<Map<coefficient>>(directions[d].coefficients);
      energy<moving> varied_energy{moving(e.inv_p.v), moving(e.slip.v)};
      phase_space<moving> w = at_rest(behind);
      if (directions[d].energy) {
        const auto* constants = reinterpret_cast<const coefficient*>(directions[d].energy);
        varied_energy = elements::energy_of(w.pt, moving(constants[0]), moving(constants[1]));
      }
      varied.push(w, varied_energy);
      (lanes::load(scratch + d * width) + contribution(z, w)).store(scratch + d * width);
    }
    if constexpr (requires { map.bg_in; }) {
      store<63>(z, t, i);
    } else {
      store<Map<real>::writes>(z, t, i);
    }
  }
  add_lanes(scratch, direction_count, sums);
}

template <template <class> class Map>
void pull(const real* coefficients, const adjoint_direction<real>* directions,
          std::size_t direction_count, real* scratch, double* sums, const adjoint_tile<real>& t) {
  if constexpr (requires(const Map<real>& m) {
                  m.inv_beta;
                }) {  // the others look at pt as at all else
    if (t.still) {
      return pull_all<Map, true>(coefficients, directions, direction_count, scratch, sums, t);
    }
  }
  pull_all<Map, false>(coefficients, directions, direction_count, scratch, sums, t);
}

template <template <class> class Map>
void push(const real* dual_coefficients, const real* dual_energy,
          const adjoint_tile<real>& shared) {
  const auto map = load_map<Map<coefficient>>(dual_coefficients);
  const adjoint_tile<real> t = shared;
  const auto* constants = reinterpret_cast<const coefficient*>(dual_energy);
  const moving inv_beta(constants[0]), inv_bg2(constants[1]);
  for (std::size_t i = 0; i < t.count; i += width) {
    phase_space<moving> z = load(t, i);
    const energy<moving> e = elements::energy_of(z.pt, inv_beta, inv_bg2);
    map.push(z, e);
    store<Map<real>::writes>(z, t, i);
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
  add_lanes(scratch, direction_count, sums);
}

bool refresh(const real* constants, const adjoint_tile<real>& t) {
  bool still = true;
  for (std::size_t i = 0; i < t.count; i += width) {
    still = still && !any_of(!(lanes::load(t.v[5] + i) == lanes(real(0))));
    const energy<moving> e =
        elements::energy_of(load(t.z[5] + i, t.v[5] + i), constants[0], constants[1]);
    e.inv_p.v.store(t.inv_p + i);
    e.slip.v.store(t.slip + i);
    e.inv_p.d[0].store(t.inv_p_tangent + i);
    e.slip.d[0].store(t.slip_tangent + i);
  }
  return still;
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
      table.pull[i] = pull<Map>;
      table.push[i] = push<Map>;
    }
    ++i;
  });
  table.radiate = radiate;
  table.refresh = refresh;
  table.width = width;
  return table;
}();

}  // namespace betatron::tracking
