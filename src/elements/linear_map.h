// linear_map.h: 6x6 matrices: the user's own, and those that the linear model derives from paraxial maps.
#pragma once

#include <array>
#include <stdexcept>
#include <utility>

#include "beam/linear.h"
#include "elements/element.h"
#include "elements/phase_space.h"
#include "elements/spin.h"

namespace betatron::elements {

using beam::matrix6;  // row-major, coordinates x, px, y, py, t, pt

/// M^-1 by Gauss-Jordan elimination with partial pivoting. Throws std::domain_error if M is singular.
inline matrix6 inverse(matrix6 m) {
  matrix6 r{};
  for (std::size_t i = 0; i < 6; ++i) r[7 * i] = 1;
  for (std::size_t c = 0; c < 6; ++c) {
    std::size_t pivot = c;
    for (std::size_t i = c + 1; i < 6; ++i) {
      if (std::fabs(m[6 * i + c]) > std::fabs(m[6 * pivot + c])) pivot = i;
    }
    if (!(std::fabs(m[6 * pivot + c]) > 0)) {
      throw std::domain_error("a singular linear map cannot be tracked backwards");
    }
    for (std::size_t k = 0; k < 6; ++k) {
      std::swap(m[6 * c + k], m[6 * pivot + k]);
      std::swap(r[6 * c + k], r[6 * pivot + k]);
    }
    const double scale = 1 / m[7 * c];
    for (std::size_t k = 0; k < 6; ++k) {
      m[6 * c + k] *= scale;
      r[6 * c + k] *= scale;
    }
    for (std::size_t i = 0; i < 6; ++i) {
      const double f = m[6 * i + c];
      if (i == c || f == 0) continue;
      for (std::size_t k = 0; k < 6; ++k) {
        m[6 * i + k] -= f * m[6 * c + k];
        r[6 * i + k] -= f * r[6 * c + k];
      }
    }
  }
  return r;
}

/// z -> M z + d, all 36 entries in use. Coordinates before and behind may refer to different momenta.
template <class R>
struct linear_dense {
  R m[36];
  R d[6];
  R bg_in, bg_out;  // beta gamma of the reference

  static constexpr unsigned writes = 63;
  static constexpr spin_effect spin = spin_effect::none;
  static constexpr bool changes_energy = true;

  template <class T>
  BETATRON_INLINE void push(phase_space<T>& z, const energy<T>&) const {
    const phase_space<T> a = z;
    auto row = [&](int i) {
      const R* r = m + 6 * i;
      return a.x * r[0] + a.px * r[1] + a.y * r[2] + a.py * r[3] + a.t * r[4] + a.pt * r[5] + d[i];
    };
    z = {row(0), row(1), row(2), row(3), row(4), row(5)};
  }
};

/// z -> M z + d where y, py are on their own and pt does not change: bends and all straight magnets.
template <class R>
struct linear_midplane {
  // rows x and px over (x, px, pt); rows y, py over (y, py); row t over (x, px, t, pt)
  R xx, xp, xd, px, pp, pd, yy, yq, qy, qq, tx, tp, tt, td;
  R d[6];

  static constexpr unsigned writes = column::x | column::px | column::y | column::py | column::t;
  static constexpr spin_effect spin = spin_effect::none;

  template <class T>
  BETATRON_INLINE void push(phase_space<T>& z, const energy<T>&) const {
    const phase_space<T> a = z;
    z.x = a.x * xx + a.px * xp + a.pt * xd + d[0];
    z.px = a.x * px + a.px * pp + a.pt * pd + d[1];
    z.y = a.y * yy + a.py * yq + d[2];
    z.py = a.y * qy + a.py * qq + d[3];
    z.t = a.x * tx + a.px * tp + a.t * tt + a.pt * td + d[4];
  }
};

/// The cheapest of the two forms that holds matrix m and offset d, or the general one; bg_in, bg_out: beta gamma of
/// the reference.
template <class Emit>
void emit_matrix(const matrix6& m, const std::array<double, 6>& d, double bg_in, double bg_out,
                 Emit&& emit, bool general = false) {
  auto zero = [&](std::initializer_list<int> entries) {
    for (int i : entries) {
      if (m[static_cast<std::size_t>(i)] != 0) return false;
    }
    return true;
  };
  const bool energy_kept = bg_in == bg_out && zero({30, 31, 32, 33, 34}) && m[35] == 1 && d[5] == 0;
  const bool midplane =
      energy_kept && zero({2, 3, 4, 8, 9, 10, 12, 13, 16, 17, 18, 19, 22, 23, 26, 27});
  if (midplane && !general) {
    emit(linear_midplane<double>{m[0],
                                 m[1],
                                 m[5],
                                 m[6],
                                 m[7],
                                 m[11],
                                 m[14],
                                 m[15],
                                 m[20],
                                 m[21],
                                 m[24],
                                 m[25],
                                 m[28],
                                 m[29],
                                 {d[0], d[1], d[2], d[3], d[4], d[5]}});
  } else {
    linear_dense<double> dense;
    for (std::size_t i = 0; i < 36; ++i) dense.m[i] = m[i];
    for (std::size_t i = 0; i < 6; ++i) dense.d[i] = d[i];
    dense.bg_in = bg_in;
    dense.bg_out = bg_out;
    emit(dense);
  }
}

/// The matrix and offset of either form.
inline std::pair<matrix6, std::array<double, 6>> full(const linear_midplane<double>& l) {
  return {{l.xx, l.xp, 0,    0,    0,    l.xd,  //
           l.px, l.pp, 0,    0,    0,    l.pd,  //
           0,    0,    l.yy, l.yq, 0,    0,     //
           0,    0,    l.qy, l.qq, 0,    0,     //
           l.tx, l.tp, 0,    0,    l.tt, l.td,  //
           0,    0,    0,    0,    0,    1},
          {l.d[0], l.d[1], l.d[2], l.d[3], l.d[4], l.d[5]}};
}
inline std::pair<matrix6, std::array<double, 6>> full(const linear_dense<double>& l) {
  std::pair<matrix6, std::array<double, 6>> r;
  for (std::size_t i = 0; i < 36; ++i) r.first[i] = l.m[i];
  for (std::size_t i = 0; i < 6; ++i) r.second[i] = l.d[i];
  return r;
}

/// Emits what undoes z -> M z + d, that is z -> M^-1 z - M^-1 d, in whichever form it needs or in the general one.
template <class Matrix, class Emit>
  requires requires(const Matrix& m) { full(m); }
void emit_inverse(const Matrix& map, Emit&& emit, bool general = false) {
  const auto [m, d] = full(map);
  double bg_in = 1, bg_out = 1;
  if constexpr (requires { map.bg_in; }) {
    bg_in = map.bg_in;
    bg_out = map.bg_out;
  }
  const matrix6 r = inverse(m);
  std::array<double, 6> back{};
  for (std::size_t i = 0; i < 6; ++i) {
    for (std::size_t k = 0; k < 6; ++k) back[i] -= r[6 * i + k] * d[k];
  }
  emit_matrix(r, back, bg_out, bg_in, emit, general);
}

struct linear_map {
  std::vector<double> matrix{};
  double length = 0;

  static constexpr std::string_view kind = "LinearMap";
  static constexpr std::string_view doc =
      "An arbitrary 6x6 matrix on (x, px, y, py, t, pt), applied as a whole at the last slice. It need not be "
      "symplectic. The reference particle advances by length.";
  static constexpr auto parameters = std::tuple{
      parameter{"matrix", &linear_map::matrix, "m, 1", "36 numbers, row by row", range::any,
                required},
      parameter{"length", &linear_map::length, "m", "path length of the reference orbit"},
  };
};

/// What is wrong with the matrix; empty if nothing is.
inline std::string problem(const linear_map& l) {
  if (l.matrix.size() == 36) return {};
  return "matrix has " + std::to_string(l.matrix.size()) +
         " entries; allowed: 36 (6 x 6, row by row)";
}

template <class Emit>
void emit_maps(const linear_map& l, const slice& s, Emit&& emit) {
  if (!s.is_last()) return;
  matrix6 m;
  for (std::size_t i = 0; i < 36; ++i) m[i] = l.matrix[i];
  emit_matrix(m, {}, s.ref.beta_gamma(), s.ref.beta_gamma(), emit, s.keep_structure);
}

}  // namespace betatron::elements
