// interpreter.h: one particle through a whole program, with its coordinates in registers.
//
// This is what every thread of the device executor does (executor.cu). It calls the same Map::push as the
// CPU kernels, on plain floats or doubles, and takes the same decisions as the CPU executor: where a particle
// is lost, with which coordinates, and when coordinates are looked at for being finite.
//
// What has been run: this header on the host, particle by particle against the CPU executor
// (tests/cpp/tracking/test_interpreter.cpp). The device code made from it has been compiled; it has not been
// run, for want of a device.
#pragma once

#include <cstddef>
#include <cstdint>
#include <tuple>
#include <type_traits>

#include "numerics/dual.h"  // before the maps: completes the overload sets of numerics

#include "beam/loss.h"
#include "elements/kinds.h"
#include "lattice/program.h"

namespace betatron::tracking::gpu {

/// An operation as the device needs it: what to do, and where its coefficients start in the pool.
struct instruction {
  std::int32_t code;
  std::uint32_t coefficients;
};

/// A program in the memory of whoever runs it.
template <class F>
struct program_view {
  const instruction* instructions;
  std::int32_t size;
  const F* coefficients;
  F inv_beta, inv_bg2;  ///< of the reference particle at the start
};

/// Where a particle was lost.
struct fate {
  static constexpr std::int32_t alive = -1;

  std::int64_t turn = 0;           ///< counted from the first of this run
  std::int32_t operation = alive;  ///< position in the program
  beam::loss_reason reason = beam::loss_reason::non_finite;

  BETATRON_HD bool is_lost() const { return operation != alive; }
};

namespace detail {

template <class F>
BETATRON_INLINE bool is_finite(const elements::phase_space<F>& z) {
  const F probe =
      (z.x * F(0) + z.px * F(0)) + (z.y * F(0) + z.py * F(0)) + (z.t * F(0) + z.pt * F(0));
  return probe == F(0);
}

/// Pushes through one map; false and untouched if the particle is outside its domain.
template <class Map, class F>
BETATRON_INLINE bool push(const F* coefficients, elements::phase_space<F>& z,
                          const elements::energy<F>& e) {
  // Read in place, not copied: the orders of a multipole are indexed at run time, which would put a copy
  // into memory of the thread. A map holds nothing but its scalars (elements/phase_space.h).
  static_assert(std::is_standard_layout_v<Map> && alignof(Map) == alignof(F));
  const Map& map = *reinterpret_cast<const Map*>(coefficients);
  if constexpr (requires { Map::loss; }) {
    const elements::phase_space<F> before = z;
    const bool inside = map.push(z, e);
    if (!inside) z = before;
    return inside;
  } else {
    map.push(z, e);
    return true;
  }
}

template <class Map>
constexpr beam::loss_reason loss_of() {
  if constexpr (requires { Map::loss; }) {
    return Map::loss;
  } else {
    return beam::loss_reason::non_finite;
  }
}

template <class List>
struct all_of;
template <template <class> class... Maps>
struct all_of<elements::map_list<Maps...>> {
  /// Pushes through the map with this code, which is found by bisection: a few comparisons that
  /// all threads of a warp answer alike. Says why if the particle is lost.
  template <class F, int First = 0, int Last = sizeof...(Maps)>
  static BETATRON_INLINE bool push(int code, const F* coefficients, elements::phase_space<F>& z,
                                   const elements::energy<F>& e, beam::loss_reason& reason) {
    if constexpr (Last - First == 1) {
      using map = std::tuple_element_t<First, std::tuple<Maps<F>...>>;
      reason = loss_of<map>();
      return detail::push<map>(coefficients, z, e);
    } else {
      constexpr int middle = (First + Last) / 2;
      return code < middle ? push<F, First, middle>(code, coefficients, z, e, reason)
                           : push<F, middle, Last>(code, coefficients, z, e, reason);
    }
  }
};

}  // namespace detail

/// Takes one particle through all operations, `turns` times, or to where it is lost; there it keeps the
/// coordinates that it had. The program must have no records.
template <class F>
BETATRON_HD inline fate run_particle(const program_view<F>& program, std::int64_t turns,
                                     elements::phase_space<F>& z) {
  using maps = detail::all_of<elements::all_maps>;
  fate r;
  elements::energy<F> e = elements::energy_of(z.pt, program.inv_beta, program.inv_bg2);
  for (std::int64_t turn = 0; turn < turns; ++turn) {
    for (std::int32_t i = 0; i < program.size; ++i) {
      const instruction op = program.instructions[i];
      const F* coefficients = program.coefficients + op.coefficients;
      if (op.code == lattice::operation::refresh) {
        e = elements::energy_of(z.pt, coefficients[0], coefficients[1]);
      } else if (!maps::push(op.code, coefficients, z, e, r.reason)) {
        if (!detail::is_finite(z)) r.reason = beam::loss_reason::non_finite;
        r.turn = turn;
        r.operation = i;
        return r;
      }
    }
    const bool look = (turn & 63) == 63 || turn == turns - 1;
    if (look && program.size > 0 && !detail::is_finite(z)) {
      r.turn = turn;
      r.operation = program.size - 1;
      r.reason = beam::loss_reason::non_finite;
      return r;
    }
  }
  return r;
}

}  // namespace betatron::tracking::gpu
