// code_push.h: calls of tile code (elements/tile_code.h) inside a pass, and of its derivative.
//
// Code that knows only double gets copies of the particles of a beam in single precision.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "elements/tile_code.h"
#include "tracking/cpu/kernel_table.h"

namespace betatron::tracking {

/// What calls work with.
struct code_memory {
  std::uint8_t left[tile_size];  ///< what code says of particles
  std::vector<double> wide{};    ///< coordinates and weights for code that knows only double
};

/// `count` particles of a tile with their weights and ids, as code sees them.
template <class F>
elements::code_tile<F> view_of(const std::array<F*, 6>& z, std::size_t padded, const F* weight,
                               const std::uint64_t* id, std::size_t count, code_memory& memory) {
  std::fill_n(memory.left, count, std::uint8_t{0});
  elements::code_tile<F> view{{}, weight, id, count, padded, memory.left};
  std::ranges::copy(z, view.z);
  return view;
}

namespace detail {

/// The same in double.
inline elements::code_tile<double> widened(const elements::code_tile<float>& t,
                                           std::vector<double>& memory) {
  memory.resize(7 * t.padded);
  double* weight = memory.data() + 6 * t.padded;
  elements::code_tile<double> wide{{}, weight, t.id, t.count, t.padded, t.outside};
  for (std::size_t c = 0; c < 6; ++c) {
    wide.z[c] = memory.data() + c * t.padded;
    std::copy_n(t.z[c], t.padded, wide.z[c]);
  }
  std::copy_n(t.weight, t.count, weight);
  return wide;
}

inline void narrow(const double* from, std::size_t n, float* to) {
  std::transform(from, from + n, to, [](double v) { return static_cast<float>(v); });
}

/// lambda at the exit becomes that at the entrance: by the code's own pull, or by differences with its steps.
inline void pull_code_double(const elements::tile_code& code, const elements::code_place& place,
                             const elements::code_tile<double>& t, double* const lambda[6]) {
  if (code.pull_double) return code.pull_double(place, t, lambda);
  const std::size_t n = t.padded;
  std::vector<double> side[2], front(6 * n);
  std::vector<std::uint8_t> outside(t.count);
  for (std::size_t k = 0; k < 6; ++k) {
    for (int s = 0; s < 2; ++s) {
      side[s].resize(6 * n);
      elements::code_tile<double> moved = t;
      moved.outside = outside.data();
      for (std::size_t c = 0; c < 6; ++c) {
        moved.z[c] = side[s].data() + c * n;
        std::copy_n(t.z[c], n, moved.z[c]);
      }
      for (std::size_t i = 0; i < n; ++i) moved.z[k][i] += s == 0 ? code.steps[k] : -code.steps[k];
      code.push_double(place, moved);
    }
    for (std::size_t i = 0; i < n; ++i) {
      const double width = (t.z[k][i] + code.steps[k]) - (t.z[k][i] - code.steps[k]);
      for (std::size_t c = 0; c < 6; ++c) {
        front[k * n + i] += lambda[c][i] * (side[0][c * n + i] - side[1][c * n + i]) / width;
      }
    }
  }
  for (std::size_t k = 0; k < 6; ++k) std::copy_n(front.data() + k * n, n, lambda[k]);
}

}  // namespace detail

/// Takes particles through code; true if it loses some, which are then marked in `outside`, one word per pack of
/// `width` lanes.
template <class F>
bool push_code(const elements::tile_code& code, const elements::code_place& place,
               const elements::code_tile<F>& t, std::size_t width, std::uint32_t* outside,
               code_memory& memory) {
  if constexpr (std::is_same_v<F, double>) {
    code.push_double(place, t);
  } else if (code.push_single) {
    code.push_single(place, t);
  } else {
    const elements::code_tile<double> wide = detail::widened(t, memory.wide);
    code.push_double(place, wide);
    for (std::size_t c = 0; c < 6; ++c) detail::narrow(wide.z[c], t.padded, t.z[c]);
  }
  if (std::all_of(t.outside, t.outside + t.count, [](std::uint8_t flag) { return flag == 0; })) {
    return false;
  }
  std::fill_n(outside, (t.padded + width - 1) / width, 0u);
  for (std::size_t i = 0; i < t.count; ++i) {
    if (t.outside[i] != 0) outside[i / width] |= 1u << i % width;
  }
  return true;
}

/// Turns lambda, the derivative by coordinates at the exit, into that by coordinates at the entrance, which t has.
template <class F>
void pull_code(const elements::tile_code& code, const elements::code_place& place,
               const elements::code_tile<F>& t, F* const lambda[6], code_memory& memory) {
  if constexpr (std::is_same_v<F, double>) {
    detail::pull_code_double(code, place, t, lambda);
  } else if (code.pull_single) {
    code.pull_single(place, t, lambda);
  } else {
    const elements::code_tile<double> wide = detail::widened(t, memory.wide);
    std::vector<double> numbers(6 * t.padded);
    double* columns[6];
    for (std::size_t c = 0; c < 6; ++c) {
      columns[c] = numbers.data() + c * t.padded;
      std::copy_n(lambda[c], t.padded, columns[c]);
    }
    detail::pull_code_double(code, place, wide, columns);
    for (std::size_t c = 0; c < 6; ++c) detail::narrow(columns[c], t.padded, lambda[c]);
  }
}

}  // namespace betatron::tracking
