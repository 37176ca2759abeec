// kernels.cpp: every map as a loop over packs. Compiled once per BETATRON_ISA and BETATRON_REAL; nothing in here
// may be emitted under a name that another instruction set shares (see numerics/hd.h).
#include "numerics/dual.h"  // before the maps: completes the overload sets of numerics

#include "tracking/cpu/kernel_table.h"

#include "beam/moments_block.h"
#include "numerics/native_vector.h"
#include "numerics/pack.h"

#if !defined(BETATRON_ISA) || !defined(BETATRON_REAL)
#error "kernels.cpp is compiled with BETATRON_ISA and BETATRON_REAL"
#endif

namespace betatron::tracking {

namespace {

using isa = numerics::isa::BETATRON_ISA;
using real = BETATRON_REAL;
using numerics::vector_bytes;

constexpr int width = vector_bytes / static_cast<int>(sizeof(real));
using lanes = numerics::pack<real, width, isa>;

using elements::energy;
using elements::phase_space;
namespace column = elements::column;

template <unsigned Writes>
BETATRON_INLINE void store(const phase_space<lanes>& z, const tile<real>& t, std::size_t i) {
  if constexpr ((Writes & column::x) != 0) z.x.store(t.z[0] + i);
  if constexpr ((Writes & column::px) != 0) z.px.store(t.z[1] + i);
  if constexpr ((Writes & column::y) != 0) z.y.store(t.z[2] + i);
  if constexpr ((Writes & column::py) != 0) z.py.store(t.z[3] + i);
  if constexpr ((Writes & column::t) != 0) z.t.store(t.z[4] + i);
  if constexpr ((Writes & column::pt) != 0) z.pt.store(t.z[5] + i);
}

BETATRON_INLINE phase_space<lanes> load(const tile<real>& t, std::size_t i) {
  return {lanes::load(t.z[0] + i), lanes::load(t.z[1] + i), lanes::load(t.z[2] + i),
          lanes::load(t.z[3] + i), lanes::load(t.z[4] + i), lanes::load(t.z[5] + i)};
}

/// Lanes outside the domain keep what they had.
template <class Mask>
BETATRON_INLINE void keep_outside(phase_space<lanes>& z, const phase_space<lanes>& before,
                                  Mask inside) {
  z = {select(inside, z.x, before.x), select(inside, z.px, before.px),
       select(inside, z.y, before.y), select(inside, z.py, before.py),
       select(inside, z.t, before.t), select(inside, z.pt, before.pt)};
}

template <class Map>
bool push(const real* coefficients, const tile<real>& shared) {
  Map map;
  __builtin_memcpy(&map, coefficients, sizeof map);
  const tile<real> t = shared;  // a copy cannot alias the columns
  bool any_outside = false;
  for (std::size_t i = 0; i < t.count; i += static_cast<std::size_t>(width)) {
    phase_space<lanes> z = load(t, i);
    const energy<lanes> e{lanes::load(t.inv_p + i), lanes::load(t.slip + i)};
    if constexpr (requires { Map::loss; }) {
      const phase_space<lanes> before = z;
      const auto inside = map.push(z, e);
      const std::uint32_t bits = (!inside).bits();
      if (bits != 0) [[unlikely]] {
        keep_outside(z, before, inside);
        any_outside = true;
      }
      t.outside[i / static_cast<std::size_t>(width)] = bits;
    } else {
      map.push(z, e);
    }
    store<Map::writes>(z, t, i);
  }
  return any_outside;
}

/// The same with the spins.
template <class Map>
bool push_spin(const real* coefficients, const tile<real>& shared,
               const elements::gyration<real>& gyration) {
  Map map;
  __builtin_memcpy(&map, coefficients, sizeof map);
  const tile<real> t = shared;
  const elements::gyration<real> g = gyration;
  bool any_outside = false;
  for (std::size_t i = 0; i < t.count; i += static_cast<std::size_t>(width)) {
    phase_space<lanes> z = load(t, i);
    const phase_space<lanes> before = z;
    const energy<lanes> e{lanes::load(t.inv_p + i), lanes::load(t.slip + i)};
    elements::vector3<lanes> s{lanes::load(t.spin[0] + i), lanes::load(t.spin[1] + i),
                               lanes::load(t.spin[2] + i)};
    if constexpr (requires { Map::loss; }) {
      const auto inside = map.push(z, e);
      const std::uint32_t bits = (!inside).bits();
      const elements::vector3<lanes> s0 = s;
      map.turn_spin(s, before, z, e, g);
      if (bits != 0) [[unlikely]] {
        keep_outside(z, before, inside);
        s = {select(inside, s.x, s0.x), select(inside, s.y, s0.y), select(inside, s.z, s0.z)};
        any_outside = true;
      }
      t.outside[i / static_cast<std::size_t>(width)] = bits;
    } else {
      map.push(z, e);
      map.turn_spin(s, before, z, e, g);
    }
    store<Map::writes>(z, t, i);
    s.x.store(t.spin[0] + i);
    s.y.store(t.spin[1] + i);
    s.z.store(t.spin[2] + i);
  }
  return any_outside;
}

template <class Map>
constexpr typename kernel_table<real>::spin_function spin_kernel() {
  if constexpr (elements::spin_effect_of<Map>() == elements::spin_effect::turned) {
    return push_spin<Map>;
  } else {
    return nullptr;
  }
}

void refresh(const real* constants, const tile<real>& t) {
  for (std::size_t i = 0; i < t.count; i += static_cast<std::size_t>(width)) {
    const energy<lanes> e =
        elements::energy_of(lanes::load(t.z[5] + i), constants[0], constants[1]);
    e.inv_p.store(t.inv_p + i);
    e.slip.store(t.slip + i);
  }
}

void mark(const real* coefficients, const tile<real>& t) {
  elements::radiation_mark<real> map;
  __builtin_memcpy(&map, coefficients, sizeof map);
  for (std::size_t i = 0; i < t.count; i += static_cast<std::size_t>(width)) {
    const elements::kinetic_momenta<lanes> k = map(load(t, i));
    k.px.store(t.mark[0] + i);
    k.py.store(t.mark[1] + i);
  }
}

bool radiate(const real* coefficients, const tile<real>& shared) {
  elements::radiation_loss<real> map;
  __builtin_memcpy(&map, coefficients, sizeof map);
  const tile<real> t = shared;
  bool any_outside = false;
  for (std::size_t i = 0; i < t.count; i += static_cast<std::size_t>(width)) {
    phase_space<lanes> z = load(t, i);
    const phase_space<lanes> before = z;
    energy<lanes> e{lanes::load(t.inv_p + i), lanes::load(t.slip + i)};
    const auto inside = map.push(z, e, {lanes::load(t.mark[0] + i), lanes::load(t.mark[1] + i)},
                                 lanes::load(t.noise + i));
    const std::uint32_t bits = (!inside).bits();
    if (bits != 0) [[unlikely]] {
      keep_outside(z, before, inside);
      any_outside = true;
    }
    t.outside[i / static_cast<std::size_t>(width)] = bits;
    store<column::px | column::py | column::pt>(z, t, i);
    e.inv_p.store(t.inv_p + i);
    e.slip.store(t.slip + i);
  }
  return any_outside;
}

bool find_non_finite(const tile<real>& t) {
  bool any = false;
  for (std::size_t i = 0; i < t.count; i += static_cast<std::size_t>(width)) {
    const phase_space<lanes> z = load(t, i);
    // a coordinate times zero is zero unless it is infinite or not a number
    const lanes probe = (z.x * real(0) + z.px * real(0)) + (z.y * real(0) + z.py * real(0)) +
                        (z.t * real(0) + z.pt * real(0));
    const std::uint32_t bits = (!(probe == lanes(real(0)))).bits();
    t.outside[i / static_cast<std::size_t>(width)] = bits;
    any = any || bits != 0;
  }
  return any;
}

beam::moment_sums sum(const beam::columns<const real>& particles, std::size_t first,
                      std::size_t count) {
  constexpr int double_lanes = vector_bytes / 8;
  return beam::sum_block<isa, double_lanes>(particles, first, count);
}

}  // namespace

#define BETATRON_JOIN(a, b, c) a##b##_##c
#define BETATRON_TABLE(i, r) BETATRON_JOIN(kernels_, i, r)
#define BETATRON_TEXT(i) #i
#define BETATRON_NAME(i) BETATRON_TEXT(i)

extern const kernel_table<real> BETATRON_TABLE(BETATRON_ISA, BETATRON_REAL);

constinit const kernel_table<real> BETATRON_TABLE(BETATRON_ISA, BETATRON_REAL) = [] {
  kernel_table<real> table{};
  std::size_t i = 0;
  elements::all_maps::for_each([&]<template <class> class Map>() {
    table.push[i] = push<Map<real>>;
    table.push_spin[i++] = spin_kernel<Map<real>>();
  });
  table.refresh = refresh;
  table.mark = mark;
  table.radiate = radiate;
  table.find_non_finite = find_non_finite;
  table.sum = sum;
  table.width = static_cast<std::size_t>(width);
  table.isa = BETATRON_NAME(BETATRON_ISA);
  return table;
}();

}  // namespace betatron::tracking
