// faddeeva.h: the Faddeeva function w(z) = exp(-z^2) erfc(-i z) of a complex number, for numbers and packs.
//
// In the upper half plane w(z) = (2 i z/pi) int_0^inf exp(-t^2)/(z^2 - t^2) dt. The midpoint and the trapezoidal rule
// with the step h = sqrt(pi/(N + 1)) and N + 1 nodes t_k,
//
//   w(z) ~ (2 i h z/pi) sum_k exp(-t_k^2)/(z^2 - t_k^2)  [+ i h/(pi z) for the trapezoidal rule]
//          + 2 exp(-z^2)/(1 +- exp(-2 pi i z/h)),
//
// whose last term takes the pole at t = z into account (+ midpoint, - trapezoidal, none for Im z >= pi/h), have a
// relative error of about exp(-pi (N + 1)). The two take turns so that no node comes near Re z: there are no regions
// with formulas of their own, so that all lanes of a pack do the same.
// Source: M. Al Azah and S. N. Chandler-Wilde, Computation of the complex error function using modified trapezoidal
// rules, SIAM J. Numer. Anal. 59, 2346 (2021), eqs. (6)-(9).
#pragma once

#include <cstddef>

#include "numerics/complex_value.h"
#include "numerics/functions.h"

namespace betatron::numerics {

namespace detail {

/// exp(-t^2) for constants 0 <= t < 7: by its series on t/8.
constexpr double gauss_weight(double t) {
  const double u = t * t / 64;
  double term = 1, sum = 1;
  for (int n = 1; n < 40; ++n) {
    term *= u / n;
    sum += term;
  }
  for (int n = 0; n < 6; ++n) sum *= sum;
  return 1 / sum;
}

template <class F>
struct faddeeva_rule {
  static constexpr std::size_t nodes = sizeof(F) == 8 ? 12 : 7;
  static constexpr double pi = 3.14159265358979323846;
  static constexpr double step =  // sqrt(pi/nodes)
      nodes == 12 ? 0.5116633539732443 : 0.6699245856906788;

  // plain arrays: no functions that could be left out of line (see hd.h)
  F square_middle[nodes]{}, weight_middle[nodes]{}, square_end[nodes]{}, weight_end[nodes]{};

  constexpr faddeeva_rule() {
    for (std::size_t k = 0; k < nodes; ++k) {
      const double n = static_cast<double>(k);
      const double middle = (n + 0.5) * step, end = n * step;
      square_middle[k] = static_cast<F>(middle * middle);
      weight_middle[k] = static_cast<F>(gauss_weight(middle));
      square_end[k] = static_cast<F>(end * end);
      weight_end[k] = k == 0 ? F(0.5) : static_cast<F>(gauss_weight(end));
    }
  }
};

template <class T>
BETATRON_INLINE T smaller(T a, T b) {
  return select(a < b, a, b);
}
template <class T>
BETATRON_INLINE T larger(T a, T b) {
  return select(a < b, b, a);
}

}  // namespace detail

/// w(x + i y) for x >= 0, y >= 0. |error| <= 3e-14 |w| (double), 3e-6 |w| (float); the real part, exp(-x^2) on the
/// axis, is as accurate relative to itself as long as it is above that part of |w|. NaN where x or y is infinite.
template <real_or_pack T>
BETATRON_INLINE complex_value<T> faddeeva_quadrant(T x, T y) {
  using F = scalar_of<T>;
  using rule_type = detail::faddeeva_rule<F>;
  constexpr rule_type rule;
  constexpr F step = F(rule_type::step);
  constexpr F pi = F(rule_type::pi);

  // Far away, where squares could overflow: i/(sqrt(pi) z) (1 + 1/(2 z^2))
  const T size = detail::larger(x, y);
  const auto far = size > T(sizeof(F) == 8 ? F(1e6) : F(3e3));
  const T unit = select(far, size, T(F(1)));
  const T u = x / unit, v = y / unit;
  const T n = select(far, unit * (u * u + v * v), T(F(1)));
  const T p = u / n, q = -v / n;  // 1/z
  const T half_re = T(F(0.5)) * (p * p - q * q), half_im = p * q;
  constexpr F inverse_root_pi = F(0.56418958354775628695);
  const T far_re = -T(inverse_root_pi) * (q + q * half_re + p * half_im);
  const T far_im = T(inverse_root_pi) * (p + p * half_re - q * half_im);
  x = select(far, T(F(1)), x);
  y = select(far, T(F(1)), y);

  const T in_steps = x * T(F(1) / step);
  const T phase = in_steps - round_to_integer(in_steps);   // -1/2 ... 1/2
  const auto ends = (y < x) & (abs(phase) >= T(F(0.25)));  // else x could be near a middle
  const T a = (x - y) * (x + y), b = T(F(2)) * x * y;
  T re(F(0)), im(F(0));  // of sum_k weight/(z^2 - square)
#pragma GCC unroll 12
  for (std::size_t k = 0; k < rule_type::nodes; ++k) {
    const T d = a - select(ends, T(rule.square_end[k]), T(rule.square_middle[k]));
    const T weight = select(ends, T(rule.weight_end[k]), T(rule.weight_middle[k]));
    const T part = weight / (d * d + b * b);
    re += d * part;
    im -= b * part;
  }
  const T scale(F(2) * step / pi);
  T w_re = -scale * (x * im + y * re), w_im = scale * (x * re - y * im);

  constexpr F reach = pi / step;
  const auto near = y < T(reach);
  const T low = detail::smaller(y, T(reach));
  const T bound = detail::smaller(x, T(sizeof(F) == 8 ? F(27) : F(9.5)));  // exp(-x^2) is 0 beyond
  const T height = T(F(2)) * exp((low - bound) * (low + bound));
  const T growth = exp(T(F(2) * reach) * low);
  T sin_square, cos_square, sin_phase, cos_phase;
  sincos(T(F(2)) * bound * low, sin_square, cos_square);
  sincos(T(F(2) * pi) * phase, sin_phase, cos_phase);
  const T sign = select(ends, T(F(-1)), T(F(1)));
  const T c = T(F(1)) + sign * growth * cos_phase, s = -sign * growth * sin_phase;
  const T pole = select(near, height / (c * c + s * s), T(F(0)));
  w_re += pole * (cos_square * c - sin_square * s);
  w_im -= pole * (sin_square * c + cos_square * s);
  return {select(far, far_re, w_re), select(far, far_im, w_im)};
}

/// w(x + i y) anywhere: w(-conj z) = conj w(z), w(-z) = 2 exp(-z^2) - w(z). Below the real axis it grows as
/// exp(y^2 - x^2), overflows, and has zeros, near which only |error|/(1 + |2 exp(-z^2)|) is small.
template <real_or_pack T>
BETATRON_INLINE complex_value<T> faddeeva(T x, T y) {
  using F = scalar_of<T>;
  complex_value<T> w = faddeeva_quadrant(abs(x), abs(y));
  const auto below = y < T(F(0));
  const T height = T(F(2)) * exp((abs(y) - abs(x)) * (abs(y) + abs(x)));
  T s, c;
  // |x y| is bounded where the height counts: elsewhere any angle will do
  const auto counts = height > T(F(0));
  sincos(select(counts, T(F(2)) * abs(x) * abs(y), T(F(0))), s, c);
  // at (|x|, -|y|): 2 exp(-z^2) - w(-z), and -z is the mirror image of (|x|, |y|)
  w.re = select(below, height * c - w.re, w.re);
  w.im = select(below, height * s + w.im, w.im);
  w.im = select(x < T(F(0)), -w.im, w.im);
  return w;
}

}  // namespace betatron::numerics
