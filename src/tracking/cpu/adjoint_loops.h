// adjoint_loops.h: every map with tangents, as a loop over packs; for the sources that are compiled
// once per BETATRON_ISA and BETATRON_REAL, and by them only.
//
// The loops are written for particles and coefficients of any type of number. With packs and plain
// numbers they are those of the reverse pass; with dual numbers of them, whose tangent is the rate
// of everything along a direction in which the line is changed, what they compute comes with its
// rate too: forward over reverse, second derivatives (A. Griewank and A. Walther, Evaluating
// Derivatives, 2nd ed., 2008, sec. 5.1).
#pragma once

#include "numerics/dual.h"  // before the maps: completes the overload sets of numerics

#include "tracking/cpu/adjoint_table.h"

#include "numerics/native_vector.h"
#include "numerics/pack.h"

#if !defined(BETATRON_ISA) || !defined(BETATRON_REAL)
#error "adjoint_loops.h is for sources that are compiled with BETATRON_ISA and BETATRON_REAL"
#endif

namespace betatron::tracking {

namespace {

using isa = numerics::isa::BETATRON_ISA;
using real = BETATRON_REAL;
using numerics::vector_bytes;

constexpr std::size_t width = vector_bytes / sizeof(real);
using lanes = numerics::pack<real, static_cast<int>(width), isa>;

using elements::energy;
using elements::phase_space;
namespace column = elements::column;

double sum_of(const lanes& p, real* scratch) {
  p.store(scratch);
  double sum = 0;
  for (std::size_t lane = 0; lane < width; ++lane) sum += static_cast<double>(scratch[lane]);
  return sum;
}

/// The reverse pass itself.
struct first_order {
  using tile = adjoint_tile<real>;
  using number = real;      // the same for all particles
  using particles = lanes;  // one of each
  static constexpr std::size_t parts = 1;

  static BETATRON_INLINE particles load(const tile&, const real* from) { return lanes::load(from); }
  static BETATRON_INLINE void store(const particles& p, const tile&, real* to) { p.store(to); }
  static BETATRON_INLINE particles load(const real* from) { return lanes::load(from); }
  static BETATRON_INLINE void store(const particles& p, real* to) { p.store(to); }
  static void add(const particles& p, real* scratch, double* sums) {
    sums[0] += sum_of(p, scratch);
  }
  static BETATRON_INLINE auto differs_from_zero(const particles& p) {
    return !(p == lanes(real(0)));
  }
};

/// The same with rates.
struct second_order {
  using tile = second_order_tile<real>;
  using number = numerics::dual<real, 1>;
  using particles = numerics::dual<lanes, 1>;
  static constexpr std::size_t parts = 2;

  static BETATRON_INLINE particles joined(const real* value, const real* rate) {
    particles r;
    r.v = lanes::load(value);
    r.d[0] = lanes::load(rate);
    return r;
  }
  static BETATRON_INLINE particles load(const tile& t, const real* from) {
    return joined(from, from + t.rates);
  }
  static BETATRON_INLINE void store(const particles& p, const tile& t, real* to) {
    p.v.store(to);
    p.d[0].store(to + t.rates);
  }
  static BETATRON_INLINE particles load(const real* from) { return joined(from, from + width); }
  static BETATRON_INLINE void store(const particles& p, real* to) {
    p.v.store(to);
    p.d[0].store(to + width);
  }
  static void add(const particles& p, real* scratch, double* sums) {
    sums[0] += sum_of(p.v, scratch);
    sums[1] += sum_of(p.d[0], scratch);
  }
  static BETATRON_INLINE auto differs_from_zero(const particles& p) {
    return !((p.v == lanes(real(0))) & (p.d[0] == lanes(real(0))));
  }
};

template <class Map>
BETATRON_INLINE Map load_map(const void* coefficients) {
  Map map;
  __builtin_memcpy(&map, coefficients, sizeof map);
  return map;
}

template <class Order>
struct adjoint_loops {
  using tile = typename Order::tile;
  using number = typename Order::number;
  using particles = typename Order::particles;
  using moving = numerics::dual<particles, 1>;    // a number of each particle and its tangent
  using coefficient = numerics::dual<number, 1>;  // the same for all particles

  static BETATRON_INLINE moving load(const tile& t, const real* value, const real* tangent) {
    moving r;
    r.v = Order::load(t, value);
    r.d[0] = Order::load(t, tangent);
    return r;
  }

  template <bool Still = false>
  static BETATRON_INLINE phase_space<moving> load(const tile& t, std::size_t i) {
    return {load(t, t.z[0] + i, t.v[0] + i),
            load(t, t.z[1] + i, t.v[1] + i),
            load(t, t.z[2] + i, t.v[2] + i),
            load(t, t.z[3] + i, t.v[3] + i),
            load(t, t.z[4] + i, t.v[4] + i),
            Still ? moving(Order::load(t, t.z[5] + i)) : load(t, t.z[5] + i, t.v[5] + i)};
  }

  /// Still: none of the particles of the tile has a tangent in pt.
  template <bool Still>
  static BETATRON_INLINE energy<moving> load_energy(const tile& t, std::size_t i) {
    if constexpr (Still) {
      return {moving(Order::load(t, t.inv_p + i)), moving(Order::load(t, t.slip + i))};
    } else {
      return {load(t, t.inv_p + i, t.inv_p_tangent + i), load(t, t.slip + i, t.slip_tangent + i)};
    }
  }

  template <unsigned Writes>
  static BETATRON_INLINE void store(const phase_space<moving>& z, const tile& t, std::size_t i) {
    auto put = [&](const moving& m, std::size_t c) {
      Order::store(m.v, t, t.z[c] + i);
      Order::store(m.d[0], t, t.v[c] + i);
    };
    if constexpr ((Writes & column::x) != 0) put(z.x, 0);
    if constexpr ((Writes & column::px) != 0) put(z.px, 1);
    if constexpr ((Writes & column::y) != 0) put(z.y, 2);
    if constexpr ((Writes & column::py) != 0) put(z.py, 3);
    if constexpr ((Writes & column::t) != 0) put(z.t, 4);
    if constexpr ((Writes & column::pt) != 0) put(z.pt, 5);
  }

  /// The same particles with tangents that are zero.
  static BETATRON_INLINE phase_space<moving> at_rest(const phase_space<moving>& z) {
    return {moving(z.x.v),  moving(z.px.v), moving(z.y.v),
            moving(z.py.v), moving(z.t.v),  moving(z.pt.v)};
  }

  /// -lambda . w = -(S v) . w
  static BETATRON_INLINE particles contribution(const phase_space<moving>& v,
                                                const phase_space<moving>& w) {
    return (v.x.d[0] * w.px.d[0] - v.px.d[0] * w.x.d[0]) +
           (v.y.d[0] * w.py.d[0] - v.py.d[0] * w.y.d[0]) +
           (v.t.d[0] * w.pt.d[0] - v.pt.d[0] * w.t.d[0]);
  }

  template <template <class> class Map>
  static constexpr bool has_integral = requires(const Map<number>& m, phase_space<moving>& z,
                                                energy<moving> e) { m.push_and_integrate(z, e); };

  /// The derivative of a map along one coefficient is the flow of the integral of dH/dk along the
  /// way; so what a particle contributes is the derivative of that integral along v, with a minus.
  template <template <class> class Map, bool Still>
  static void pull_by_integral(const real* coefficients, const adjoint_direction<real>& direction,
                               real* scratch, double* sums, const tile& shared) {
    const auto map = load_map<Map<number>>(coefficients);
    const auto varied = load_map<Map<coefficient>>(direction.coefficients);
    const tile t = shared;
    particles sum(real(0));
    for (std::size_t i = 0; i < t.count; i += width) {
      phase_space<moving> z = load<Still>(t, i);
      const moving integral = map.push_and_integrate(z, load_energy<Still>(t, i));
      sum = sum - integral.d[0];
      store<Map<real>::writes>(z, t, i);
    }
    Order::add(sum * particles(varied.k.d[0]), scratch, sums);
  }

  /// Whether of all coefficients that matter only the one of the integral varies.
  template <template <class> class Map>
  static bool varies_in_strength(const adjoint_direction<real>& direction) {
    const auto varied = load_map<Map<coefficient>>(direction.coefficients);
    return numerics::vanishes(varied.length.d[0]) && numerics::vanishes(varied.inv_beta.d[0]) &&
           !direction.energy;
  }

  template <template <class> class Map, bool Still>
  static void pull_all(const real* coefficients, const adjoint_direction<real>* directions,
                       std::size_t direction_count, real* scratch, double* sums,
                       const tile& shared) {
    if constexpr (has_integral<Map>) {
      if (direction_count == 1 && varies_in_strength<Map>(directions[0])) {
        return pull_by_integral<Map, Still>(coefficients, directions[0], scratch, sums, shared);
      }
    }
    constexpr std::size_t stride = Order::parts * width;
    const auto map = load_map<Map<number>>(coefficients);
    const tile t = shared;  // a copy cannot alias the columns
    for (std::size_t d = 0; d < direction_count; ++d) {
      Order::store(particles(real(0)), scratch + d * stride);
    }
    for (std::size_t i = 0; i < t.count; i += width) {
      const phase_space<moving> behind = load<Still>(t, i);
      const energy<moving> e = load_energy<Still>(t, i);
      phase_space<moving> z = behind;
      map.push(z, e);
      if constexpr (requires { map.bg_in; }) {  // of the inverse: bg_in is behind
        const particles factor = map.bg_out / map.bg_in;
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
        real* sum = scratch + d * stride;
        Order::store(Order::load(sum) + contribution(z, w), sum);
      }
      if constexpr (requires { map.bg_in; }) {
        store<63>(z, t, i);
      } else {
        store<Map<real>::writes>(z, t, i);
      }
    }
    for (std::size_t d = 0; d < direction_count; ++d) {
      Order::add(Order::load(scratch + d * stride), scratch + d * stride, sums + d * Order::parts);
    }
  }

  template <template <class> class Map>
  static void pull(const real* coefficients, const adjoint_direction<real>* directions,
                   std::size_t direction_count, real* scratch, double* sums, const tile& t) {
    if constexpr (requires(const Map<real>& m) {
                    m.inv_beta;
                  }) {  // the others look at pt as at all else
      if (t.still) {
        return pull_all<Map, true>(coefficients, directions, direction_count, scratch, sums, t);
      }
    }
    pull_all<Map, false>(coefficients, directions, direction_count, scratch, sums, t);
  }

  static bool refresh(const real* energy_constants, const tile& t) {
    const auto* constants = reinterpret_cast<const number*>(energy_constants);
    bool still = true;
    for (std::size_t i = 0; i < t.count; i += width) {
      still = still && !any_of(Order::differs_from_zero(Order::load(t, t.v[5] + i)));
      const energy<moving> e =
          elements::energy_of(load(t, t.z[5] + i, t.v[5] + i), constants[0], constants[1]);
      Order::store(e.inv_p.v, t, t.inv_p + i);
      Order::store(e.slip.v, t, t.slip + i);
      Order::store(e.inv_p.d[0], t, t.inv_p_tangent + i);
      Order::store(e.slip.d[0], t, t.slip_tangent + i);
    }
    return still;
  }
};

}  // namespace

}  // namespace betatron::tracking
