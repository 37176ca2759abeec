// taylor_map.h: a map given as a polynomial of the coordinates,
//
//   z_i -> c_i + sum_j c_ij w_j + sum_{j<=k} c_ijk w_j w_k + sum_{j<=k<=l} c_ijkl w_j w_k w_l,     w = z - centre
//
// of degree 1, 2 or 3: the user's own, or what Line.taylor_map found. The coefficients of a row stand by degree, within
// a degree by ascending indices, as in numerics/taylor.h: 7, 28 or 84 for each of x, px, y, py, t, pt.
// A polynomial of degree 2 or 3 is symplectic only to its order, and its inverse is no polynomial.
// Source: K. L. Brown, SLAC-75 (matrices of second order); A. J. Dragt, Lie Methods (2011), sec. 1.4.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "elements/element.h"
#include "elements/linear_map.h"
#include "elements/phase_space.h"

namespace betatron::elements {

/// Monomials of degree <= n in six variables: 7, 28, 84.
constexpr std::size_t taylor_terms(int n) { return n == 1 ? 7 : n == 2 ? 28 : 84; }

namespace detail {

/// One row of a polynomial of degree 2 or 3, nested: c + w_j (c_j + w_k (c_jk + w_l c_jkl)).
template <int degree, class T, class R>
BETATRON_INLINE T taylor_row(const R* c, const T (&w)[6]) {
  const R *second = c + taylor_terms(1), *third = c + taylor_terms(2);
  T sum = T(c[0]);
  for (int j = 0; j < 6; ++j) {
    T inner = T(c[1 + j]);
    for (int k = j; k < 6; ++k) {
      T slope = T(*second++);
      if constexpr (degree == 3) {
        for (int l = k; l < 6; ++l) slope = slope + w[l] * (*third++);
      }
      inner = inner + w[k] * slope;
    }
    sum = sum + w[j] * inner;
  }
  return sum;
}

template <int degree, class T, class R>
BETATRON_INLINE void push_taylor(const R* c, const R* centre, phase_space<T>& z) {
  const T w[6] = {z.x - centre[0],  z.px - centre[1], z.y - centre[2],
                  z.py - centre[3], z.t - centre[4],  z.pt - centre[5]};
  constexpr std::size_t n = taylor_terms(degree);
  z.x = taylor_row<degree>(c, w);
  z.px = taylor_row<degree>(c + n, w);
  z.y = taylor_row<degree>(c + 2 * n, w);
  z.py = taylor_row<degree>(c + 3 * n, w);
  z.t = taylor_row<degree>(c + 4 * n, w);
  z.pt = taylor_row<degree>(c + 5 * n, w);
}

}  // namespace detail

template <class R>
struct taylor_second {
  R c[6 * taylor_terms(2)];
  R centre[6];

  static constexpr unsigned writes = 63;
  static constexpr spin_effect spin = spin_effect::none;
  static constexpr bool changes_energy = true;
  static constexpr std::string_view has_no_inverse =
      "the inverse of a Taylor map of order 2 is no polynomial";

  template <class T>
  BETATRON_INLINE void push(phase_space<T>& z, const energy<T>&) const {
    detail::push_taylor<2>(c, centre, z);
  }
};

template <class R>
struct taylor_third {
  R c[6 * taylor_terms(3)];
  R centre[6];

  static constexpr unsigned writes = 63;
  static constexpr spin_effect spin = spin_effect::none;
  static constexpr bool changes_energy = true;
  static constexpr std::string_view has_no_inverse =
      "the inverse of a Taylor map of order 3 is no polynomial";

  template <class T>
  BETATRON_INLINE void push(phase_space<T>& z, const energy<T>&) const {
    detail::push_taylor<3>(c, centre, z);
  }
};

struct taylor_map {
  std::vector<double> coefficients{};
  std::vector<double> centre{};
  double length = 0;

  static constexpr std::string_view kind = "TaylorMap";
  static constexpr std::string_view doc =
      "A polynomial map of degree 1, 2 or 3 on (x, px, y, py, t, pt), applied as a whole at the last slice. It need not "
      "be symplectic, and can be tracked backwards only if it is of degree 1. The reference particle advances by length.";
  static constexpr auto parameters = std::tuple{
      parameter{
          "coefficients", &taylor_map::coefficients, "m, 1",
          "6 rows of 7, 28 or 84 numbers: of 1; x, px, ... pt; x^2, x px, ... pt^2; x^3, x^2 px, ... pt^3 "
          "(degree 1, 2, 3)",
          range::any, required},
      parameter{"centre", &taylor_map::centre, "m, 1",
                "6 coordinates that are subtracted first; none for 0"},
      parameter{"length", &taylor_map::length, "m", "path length of the reference orbit"},
  };
};

/// What is wrong with the parameters together; empty if nothing is.
inline std::string problem(const taylor_map& m) {
  const std::size_t n = m.coefficients.size();
  if (n != 6 * taylor_terms(1) && n != 6 * taylor_terms(2) && n != 6 * taylor_terms(3)) {
    return "coefficients has " + std::to_string(n) +
           " entries; allowed: 42, 168 or 504 (6 rows of 7, 28 or 84, for degree 1, 2 or 3)";
  }
  if (!m.centre.empty() && m.centre.size() != 6) {
    return "centre has " + std::to_string(m.centre.size()) + " entries; allowed: 0 or 6";
  }
  return {};
}

template <class Emit>
void emit_maps(const taylor_map& m, const slice& s, Emit&& emit) {
  if (!s.is_last()) return;
  std::array<double, 6> centre{};
  for (std::size_t i = 0; i < m.centre.size(); ++i) centre[i] = m.centre[i];
  if (m.coefficients.size() == 6 * taylor_terms(1)) {
    matrix6 matrix;
    std::array<double, 6> offset;
    for (std::size_t i = 0; i < 6; ++i) {
      offset[i] = m.coefficients[7 * i];
      for (std::size_t k = 0; k < 6; ++k) {
        matrix[6 * i + k] = m.coefficients[7 * i + 1 + k];
        offset[i] -= matrix[6 * i + k] * centre[k];
      }
    }
    return emit_matrix(matrix, offset, s.ref.beta_gamma(), s.ref.beta_gamma(), emit,
                       s.keep_structure);
  }
  auto filled = [&]<class Map>(Map map) {
    for (std::size_t i = 0; i < m.coefficients.size(); ++i) map.c[i] = m.coefficients[i];
    for (std::size_t i = 0; i < 6; ++i) map.centre[i] = centre[i];
    emit(map);
  };
  if (m.coefficients.size() == 6 * taylor_terms(2)) {
    filled(taylor_second<double>{});
  } else {
    filled(taylor_third<double>{});
  }
}

}  // namespace betatron::elements
