// activation.h: activation functions and their derivatives, for packs. With u = 3e-7 in single and 5e-16 in double
// precision (tested over the whole range of z): the relative error of tanh, sigmoid and silu is below u, but for sigmoid
// and silu where exp(-z) overflows, below z = -88 (-709): there they are 0. The absolute error of both forms of gelu is
// below u max(1, |z|), that of derivatives below u. NaN gives NaN.
#pragma once

#include "numerics/functions.h"
#include "surrogate/network.h"

namespace betatron::surrogate {

namespace detail {

using numerics::exp;
using numerics::select;

/// c[0] + c[1] z + ...
template <std::size_t First = 0, class P, std::size_t N>
BETATRON_INLINE P polynomial(const double (&c)[N], P z) {
  if constexpr (First + 1 < N) {
    return polynomial<First + 1>(c, z) * z + P(c[First]);
  } else {
    return P(c[First]);
  }
}

template <class P>
BETATRON_INLINE P sigmoid(P z) {
  return P(1) / (P(1) + exp(-z));
}

/// sigmoid(z) and sigmoid(-z) = 1 - sigmoid(z), both to all digits.
template <class P>
struct sigmoid_pair {
  P up, down;

  BETATRON_INLINE explicit sigmoid_pair(P z) {
    const P small = exp(-abs(z)), share = P(1) / (P(1) + small);
    up = select(z < P(0), small, P(1)) * share;
    down = select(z < P(0), P(1), small) * share;
  }
};

/// 1 - 2/(exp(2|z|) + 1) with the sign of z; for |z| < 0.625 a rational function (double) or polynomial (float).
/// Source of the coefficients: S. L. Moshier, Cephes Mathematical Library, tanh.c, tanhf.c.
template <class P>
BETATRON_INLINE P tanh(P z) {
  using F = typename P::value_type;
  const P magnitude = abs(z);
  const P far = P(1) - P(2) / (exp(P(2) * magnitude) + P(1));
  const P u = z * z;
  P near;
  if constexpr (sizeof(F) == 8) {
    constexpr double p[] = {-1.61468768441708447952e3, -9.92877231001918586564e1,
                            -9.64399179425052238628e-1};
    constexpr double q[] = {4.84406305325125486048e3, 2.23548839060100448583e3,
                            1.12811678491632931402e2, 1.0};
    near = z + z * u * (polynomial(p, u) / polynomial(q, u));
  } else {
    constexpr double p[] = {-3.33332819422e-1, 1.33314422036e-1, -5.37397155531e-2,
                            2.06390887954e-2, -5.70498872745e-3};
    near = z + z * u * polynomial(p, u);
  }
  return select(magnitude < P(F(0.625)), near, select(z < P(0), -far, far));
}

/// Distribution function of the normal distribution, (1 + erf(z/sqrt 2))/2 = erfc(-z/sqrt 2)/2. erf is a rational
/// function below 1, erfc another times exp(-u^2) above. Source of the coefficients: Cephes, ndtr.c.
template <class P>
BETATRON_INLINE P normal_distribution(P z) {
  using F = typename P::value_type;
  constexpr double t[] = {5.55923013010394962768e4, 7.00332514112805075473e3,
                          2.23200534594684319226e3, 9.00260197203842689217e1,
                          9.60497373987051638749};
  constexpr double u[] = {4.92673942608635921086e4, 2.26290000613890934246e4,
                          4.59432382970980127987e3, 5.21357949780152679795e2,
                          3.35617141647503099647e1, 1.0};
  constexpr double p[] = {
      5.57535335369399327526e2, 1.02755188689515710272e3,  9.34528527171957607540e2,
      5.26445194995477358631e2, 1.96520832956077098242e2,  4.86371970985681366614e1,
      7.46321056442269912687,   5.64189564831068821977e-1, 2.46196981473530512524e-10};
  constexpr double q[] = {
      5.57535340817727675546e2, 1.65666309194161350182e3, 2.24633760818710981792e3,
      1.82390916687909736289e3, 9.75708501743205489753e2, 3.54937778887819891062e2,
      8.67072140885989742329e1, 1.32281951154744992508e1, 1.0};
  const P a = abs(z) * P(F(0.70710678118654752440));
  // beyond, the result is 0 or 1; a is kept where powers of it do not overflow. NaN stays.
  const P bounded = select(a > P(F(27)), P(F(27)), a);
  const P square = bounded * bounded;
  const P erf = bounded * polynomial(t, square) / polynomial(u, square);
  const P erfc = exp(-square) * polynomial(p, bounded) / polynomial(q, bounded);
  const P upper = P(F(0.5)) * select(a < P(1), P(1) - erf, erfc);  // of |z|
  return select(z < P(0), upper, P(1) - upper);
}

/// exp(-z^2/2)/sqrt(2 pi)
template <class P>
BETATRON_INLINE P normal_density(P z) {
  using F = typename P::value_type;
  return P(F(0.39894228040143267794)) * exp(P(F(-0.5)) * z * z);
}

template <class P>
BETATRON_INLINE P gelu_argument(P z) {  // twice that of tanh
  using F = typename P::value_type;
  return P(F(1.59576912160573071176)) * (z + P(F(0.044715)) * z * z * z);
}

}  // namespace detail

/// Calls body.operator()<A>() for the activation function a. leaky_relu is the same function as prelu: the body is
/// called with that.
template <class Body>
BETATRON_INLINE void with_activation(activation a, Body&& body) {
  switch (a) {
    case activation::identity:
      return body.template operator()<activation::identity>();
    case activation::relu:
      return body.template operator()<activation::relu>();
    case activation::leaky_relu:
    case activation::prelu:
      return body.template operator()<activation::prelu>();
    case activation::tanh:
      return body.template operator()<activation::tanh>();
    case activation::sigmoid:
      return body.template operator()<activation::sigmoid>();
    case activation::silu:
      return body.template operator()<activation::silu>();
    case activation::gelu:
      return body.template operator()<activation::gelu>();
    case activation::gelu_tanh:
      return body.template operator()<activation::gelu_tanh>();
  }
}

/// f(z). `slope`: of prelu.
template <activation A, class P>
BETATRON_INLINE P apply(P z, P slope) {
  using detail::select;
  if constexpr (A == activation::relu) {
    return select(z < P(0), P(0), z);  // NaN stays
  } else if constexpr (A == activation::prelu) {
    return select(z < P(0), z * slope, z);
  } else if constexpr (A == activation::tanh) {
    return detail::tanh(z);
  } else if constexpr (A == activation::sigmoid) {
    return detail::sigmoid(z);
  } else if constexpr (A == activation::silu) {
    return z * detail::sigmoid(z);
  } else if constexpr (A == activation::gelu) {
    return z * detail::normal_distribution(z);
  } else if constexpr (A == activation::gelu_tanh) {
    return z * detail::sigmoid(detail::gelu_argument(z));
  } else {
    return z;
  }
}

/// f'(z); 0 for relu and the slope for prelu at z = 0.
template <activation A, class P>
BETATRON_INLINE P derivative(P z, P slope) {
  using F = typename P::value_type;
  using detail::select;
  if constexpr (A == activation::relu) {
    return select(z > P(0), P(1), P(0) * z);  // NaN stays
  } else if constexpr (A == activation::prelu) {
    return select(z > P(0), P(1), slope + P(0) * z);
  } else if constexpr (A == activation::tanh) {
    const P t = detail::tanh(z);
    return (P(1) - t) * (P(1) + t);
  } else if constexpr (A == activation::sigmoid) {
    const detail::sigmoid_pair s(z);
    return s.up * s.down;
  } else if constexpr (A == activation::silu) {
    const detail::sigmoid_pair s(z);
    return s.up + z * s.up * s.down;
  } else if constexpr (A == activation::gelu) {
    return detail::normal_distribution(z) + z * detail::normal_density(z);
  } else if constexpr (A == activation::gelu_tanh) {
    const detail::sigmoid_pair s(detail::gelu_argument(z));
    const P y = select(abs(z) < P(64), z, P(0));  // beyond, s is 0 or 1, and powers would overflow
    const P inner = P(F(1.59576912160573071176)) * (P(1) + P(F(3 * 0.044715)) * y * y);
    return s.up + y * s.up * s.down * inner;
  } else {
    return P(1);
  }
}

}  // namespace betatron::surrogate
