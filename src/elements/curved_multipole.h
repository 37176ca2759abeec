// curved_multipole.h: multipoles in the frame of a bent reference orbit of curvature h.
//
// Strengths describe the field over the rigidity in the mid-plane y = 0,
//   normal  B_y = sum_n k_n x^n/n!        skew  B_x = sum_n ks_n x^n/n!
// and Maxwell's equations continue it. With V = -(1 + h x) A_s, so that H = H_bend + V and
//   B_y = (dV/dx)/(1 + h x),   B_x = -(dV/dy)/(1 + h x),   (1 + h x)(V_xx + V_yy) = h V_x,
// a series V = sum_j y^j/j! v_j(x) follows from
//   v_0' = (1 + h x) sum k_n x^n/n!,   v_1 = -(1 + h x) sum ks_n x^n/n!,   v_{j+2} = -v_j'' + h/(1 + h x) v_j'.
// It is cut behind four more powers of the coordinates than the highest multipole has in a straight magnet: what
// is left out is of order (h r)^5 of that field. The kick is a gradient, hence symplectic wherever it is cut.
// Sources: K. L. Brown, SLAC-75, sec. I; E. M. McMillan, Nucl. Instrum. Methods 127 (1975) 471.
#pragma once

#include <algorithm>
#include <array>

#include "elements/element.h"
#include "elements/phase_space.h"
#include "elements/spin.h"

namespace betatron::elements {

inline constexpr int max_curved_multipole = 4;  ///< largest order n: the decapole
inline constexpr int max_curved_degree =
    max_curved_multipole + 4;  ///< of the polynomials of a kick

/// The kick of normal or of skew multipoles: one of dpx, dpy is even in y and the other odd,
///   even = sum_{j even} y^j (polynomial of degree `degree` - j in x),  odd likewise over odd j.
template <class R>
struct curved_multipole_kick {
  R degree, skew;  // a whole number; 0: dpx is the even one, 1: dpy is
  R coefficients[(max_curved_degree + 1) * (max_curved_degree + 2) /
                 2];  // by j, then by powers of x

  static constexpr unsigned writes = column::px | column::py;
  static constexpr spin_effect spin = spin_effect::turned;

  template <class T>
  BETATRON_INLINE void push(phase_space<T>& z, const energy<T>&) const {
    using F = scalar_of<T>;
    const int n = static_cast<int>(value_of(degree));
    const T y2 = z.y * z.y;
    T sums[2] = {T(F(0)), T(F(0))};
    const R* row = coefficients + (n + 1) * (n + 2) / 2;
    for (int j = n; j >= 0; --j) {
      row -= n - j + 1;
      T value = T(row[n - j]);
      for (int i = n - j - 1; i >= 0; --i) value = value * z.x + row[i];
      sums[j % 2] = sums[j % 2] * y2 + value;
    }
    const T odd = sums[1] * z.y;
    if (value_of(skew) != 0) {
      z.px = z.px + odd;
      z.py = z.py + sums[0];
    } else {
      z.px = z.px + sums[0];
      z.py = z.py + odd;
    }
  }
  template <class T>
  BETATRON_INLINE void turn_spin(vector3<T>& s, const phase_space<T>& before,
                                 const phase_space<T>& behind, const energy<T>& e,
                                 const gyration<R>& g) const {
    turn_spin_by_kick(s, before, behind, e, g);
  }
  curved_multipole_kick inverse() const { return scaled(R(-1)); }

  curved_multipole_kick scaled(R factor) const {
    curved_multipole_kick r = *this;
    for (R& c : r.coefficients) c *= factor;
    return r;
  }

  /// The kick over a metre of strengths k_n (n = 0 ... count - 1), count <= max_curved_multipole + 1. The degree
  /// is that of `count` orders around a bend, or what strengths and curvature that are not zero need.
  static curved_multipole_kick make(const double* strengths, std::size_t count, bool is_skew,
                                    double h, bool full_degree = false);
};

template <class R>
curved_multipole_kick<R> curved_multipole_kick<R>::make(const double* strengths, std::size_t count,
                                                        bool is_skew, double h, bool full_degree) {
  constexpr std::size_t size = static_cast<std::size_t>(max_curved_degree) + 3;
  using series = std::array<double, size>;  // in x
  auto derivative = [](const series& s) {
    series r{};
    for (std::size_t i = 1; i < size; ++i) r[i - 1] = static_cast<double>(i) * s[i];
    return r;
  };
  auto times_one_plus_hx = [&](const series& s) {
    series r = s;
    for (std::size_t i = 1; i < size; ++i) r[i] += h * s[i - 1];
    return r;
  };
  auto over_one_plus_hx = [&](series s) {
    for (std::size_t i = 1; i < size; ++i) s[i] -= h * s[i - 1];
    return s;
  };

  curved_multipole_kick r{};
  std::size_t highest = 0;
  series field{};
  double inverse_factorial = 1;
  for (std::size_t n = 0; n < count; ++n) {
    if (n > 0) inverse_factorial /= static_cast<double>(n);
    field[n] = strengths[n] * inverse_factorial;
    if (strengths[n] != 0 || full_degree) highest = n;
  }
  const std::size_t degree = highest + (h != 0 || full_degree ? 4 : 0);
  r.degree = static_cast<R>(degree);
  r.skew = is_skew ? R(1) : R(0);

  series v = times_one_plus_hx(field);
  if (is_skew) {
    for (double& c : v) c = -c;
  } else {  // v_0 from its derivative
    for (std::size_t i = size - 1; i > 0; --i) v[i] = v[i - 1] / static_cast<double>(i);
    v[0] = 0;
  }
  double scale = 1;  // 1/j!
  auto put = [&](std::size_t j, const series& s, double factor) {
    if (j > degree) return;
    std::size_t at = 0;
    for (std::size_t k = 0; k < j; ++k) at += degree - k + 1;
    for (std::size_t i = 0; i + j <= degree; ++i) {
      r.coefficients[at + i] = static_cast<R>(-s[i] * factor);
    }
  };
  for (std::size_t j = is_skew ? 1 : 0; j <= degree + 1; j += 2) {
    const series slope = derivative(v);
    put(j, slope, scale);                                      // -dV/dx
    if (j > 0) put(j - 1, v, scale * static_cast<double>(j));  // -dV/dy
    const series bent = over_one_plus_hx(slope), second = derivative(slope);
    for (std::size_t i = 0; i < size; ++i) v[i] = h * bent[i] - second[i];
    scale /= static_cast<double>((j + 1) * (j + 2));
  }
  return r;
}

}  // namespace betatron::elements
