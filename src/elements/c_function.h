// c_function.h: tile code from functions of C, as compilers of other languages make them (Numba's cfunc, Cython, Rust,
// ctypes, cffi).
//
//   void push(int64_t n, F *x, F *px, F *y, F *py, F *t, F *pt, const F *weight, const uint64_t *id,
//             uint8_t *lost, const double *place, const double *settings);
//
// with F = double or float takes n particles through one slice, in place; lost[i], 0 at the call, is set to 1 to lose
// a particle there. `place` has the 16 numbers of c_place below, `settings` the user's numbers. Not NULL are columns
// only; it is called from several threads at once.
//
//   void pull(int64_t n, const F *x, const F *px, const F *y, const F *py, const F *t, const F *pt,
//             const F *weight, const uint64_t *id, F *lx, F *lpx, F *ly, F *lpy, F *lt, F *lpt,
//             const double *place, const double *settings);
//
// is its vector-Jacobian product, see tile_code::pull_double; the coordinates are those at the entrance.
#pragma once

#include <array>
#include <memory>
#include <string>

#include "elements/tile_code.h"

namespace betatron::elements {

template <class F>
using c_push = void (*)(std::int64_t n, F* x, F* px, F* y, F* py, F* t, F* pt, const F* weight,
                        const std::uint64_t* id, std::uint8_t* lost, const double* place,
                        const double* settings);
template <class F>
using c_pull = void (*)(std::int64_t n, const F* x, const F* px, const F* y, const F* py,
                        const F* t, const F* pt, const F* weight, const std::uint64_t* id, F* lx,
                        F* lpx, F* ly, F* lpy, F* lt, F* lpt, const double* place,
                        const double* settings);

/// turn, element, slice, slices, length; s, t, gamma, beta gamma at the entrance and the same at the exit; rest energy
/// [eV] and charge [e] of a particle; number of settings.
inline std::array<double, 16> c_place(const code_place& p) {
  const auto number = [](auto n) { return static_cast<double>(n); };
  return {number(p.turn),
          number(p.element),
          number(p.slice),
          number(p.slices),
          p.length,
          p.entrance.s,
          p.entrance.t,
          p.entrance.gamma(),
          p.entrance.beta_gamma(),
          p.exit.s,
          p.exit.t,
          p.exit.gamma(),
          p.exit.beta_gamma(),
          p.entrance.particle.mass_eV,
          p.entrance.particle.charge,
          number(p.settings.size())};
}

/// Functions of C; null for those that there are not. `owner` is kept as long as they can be called.
struct c_functions {
  c_push<double> push_double = nullptr;
  c_push<float> push_single = nullptr;
  c_pull<double> pull_double = nullptr;
  c_pull<float> pull_single = nullptr;
  std::shared_ptr<const void> owner{};
};

namespace detail {

template <class F>
tile_code::push_function<F> push_of(c_push<F> function, std::shared_ptr<const void> owner) {
  if (function == nullptr) return {};
  return [function, owner = std::move(owner)](const code_place& at, const code_tile<F>& p) {
    const auto place = c_place(at);
    function(static_cast<std::int64_t>(p.count), p.z[0], p.z[1], p.z[2], p.z[3], p.z[4], p.z[5],
             p.weight, p.id, p.outside, place.data(), at.settings.data());
  };
}

template <class F>
tile_code::pull_function<F> pull_of(c_pull<F> function, std::shared_ptr<const void> owner) {
  if (function == nullptr) return {};
  return [function, owner = std::move(owner)](const code_place& at, const code_tile<F>& p,
                                              F* const l[6]) {
    const auto place = c_place(at);
    function(static_cast<std::int64_t>(p.count), p.z[0], p.z[1], p.z[2], p.z[3], p.z[4], p.z[5],
             p.weight, p.id, l[0], l[1], l[2], l[3], l[4], l[5], place.data(), at.settings.data());
  };
}

}  // namespace detail

inline tile_code make_tile_code(std::string name, const c_functions& c) {
  tile_code code;
  code.name = std::move(name);
  code.push_double = detail::push_of(c.push_double, c.owner);
  code.push_single = detail::push_of(c.push_single, c.owner);
  code.pull_double = detail::pull_of(c.pull_double, c.owner);
  code.pull_single = detail::pull_of(c.pull_single, c.owner);
  return code;
}

}  // namespace betatron::elements
