// Activation functions of packs and their derivatives over the whole range of a number, against long double. CMake
// compiles this file once more for each instruction set (BETATRON_ISA), as test_pack.cpp.
#include "surrogate/activation.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string_view>
#include <vector>

#ifndef BETATRON_ISA
#define BETATRON_ISA base
#endif

using namespace betatron;
using surrogate::activation;

namespace {

using exact = long double;
constexpr exact pi = 3.14159265358979323846264338327950288L;

exact sigmoid(exact z) { return 1 / (1 + std::exp(-z)); }
exact argument(exact z) { return std::sqrt(8 / pi) * (z + 0.044715L * z * z * z); }

exact value(activation a, exact z) {
  switch (a) {
    case activation::tanh:
      return std::tanh(z);
    case activation::sigmoid:
      return sigmoid(z);
    case activation::silu:
      return z * sigmoid(z);
    case activation::gelu:
      return z * std::erfc(-z / std::sqrt(exact(2))) / 2;
    case activation::gelu_tanh:
      return z * sigmoid(argument(z));
    default:
      return z;
  }
}

exact slope(activation a, exact z) {
  const auto bell = [](exact u) { return sigmoid(u) * sigmoid(-u); };  // sigmoid'
  switch (a) {
    case activation::tanh:
      return 4 * bell(2 * z);
    case activation::sigmoid:
      return bell(z);
    case activation::silu:
      return sigmoid(z) + (std::abs(z) < 1e4L ? z * bell(z) : 0);
    case activation::gelu:
      return std::erfc(-z / std::sqrt(exact(2))) / 2 + z * std::exp(-z * z / 2) / std::sqrt(2 * pi);
    case activation::gelu_tanh: {
      const exact u = argument(z);
      const bool far = std::abs(z) > 1e3L;
      return sigmoid(u) + (far ? 0 : z * bell(u) * std::sqrt(8 / pi) * (1 + 3 * 0.044715L * z * z));
    }
    default:
      return 1;
  }
}

/// Numbers of all magnitudes, and many where the functions bend; both signs. A whole number of packs.
template <class F>
std::vector<F> arguments() {
  using bits = std::conditional_t<sizeof(F) == 8, std::uint64_t, std::uint32_t>;
  std::vector<F> all{0, std::numeric_limits<F>::max(), std::numeric_limits<F>::min(),
                     std::numeric_limits<F>::denorm_min()};
  const bits top = std::bit_cast<bits>(std::numeric_limits<F>::max());
  const int steps = 50000;
  for (int i = 0; i < steps; ++i) {
    all.push_back(std::bit_cast<F>(static_cast<bits>(top / steps * static_cast<bits>(i))));
  }
  for (const double extent : {2.0, 40.0, sizeof(F) == 8 ? 800.0 : 110.0}) {
    for (int i = 0; i < steps; ++i) all.push_back(static_cast<F>(extent * (i + 0.37) / steps));
  }
  const std::size_t positive = all.size();
  for (std::size_t i = 0; i < positive; ++i) all.push_back(-all[i]);
  all.resize((all.size() + 63) / 64 * 64, F(0.5));
  return all;
}

/// What activation.h promises: |error| <= relative |f| + absolute, and for the derivative <= absolute.
struct promise {
  exact relative, absolute, derivative;
};

template <class F>
promise of(activation a, exact z) {
  const exact unit = sizeof(F) == 8 ? 5e-16L : 3e-7L, width = std::max<exact>(1, std::abs(z));
  // where exp leaves the range of the type: 0 for |z| times less than twice the smallest normal number
  const exact lost = 2 * width * exact(std::numeric_limits<F>::min());
  if (a == activation::gelu || a == activation::gelu_tanh) return {0, unit * width, unit};
  return {unit, lost, unit};
}

template <class F, activation A>
void check() {
  constexpr int width = 64 / static_cast<int>(sizeof(F));
  using lanes = numerics::pack<F, width, numerics::isa::BETATRON_ISA>;
  const std::vector<F> all = arguments<F>();
  std::size_t wrong = 0;
  for (std::size_t i = 0; i < all.size(); i += width) {
    const lanes z = lanes::load(all.data() + i);
    const lanes f = surrogate::apply<A>(z, lanes(F(0)));
    const lanes d = surrogate::derivative<A>(z, lanes(F(0)));
    for (int k = 0; k < width; ++k) {
      const exact at = z[k], wanted = value(A, at);
      const promise p = of<F>(A, at);
      const bool good =
          std::abs(f[k] - wanted) <= p.relative * std::abs(wanted) + p.absolute &&  // false for NaN
          std::abs(d[k] - slope(A, at)) <= p.derivative;
      if (good || ++wrong > 5) continue;
      CAPTURE(z[k]);
      CAPTURE(double(wanted));
      CAPTURE(double(slope(A, at)));
      CAPTURE(f[k]);
      CAPTURE(d[k]);
      CHECK(good);
    }
  }
  CHECK(wrong == 0);
  const lanes nan(std::numeric_limits<F>::quiet_NaN());
  CHECK(std::isnan(surrogate::apply<A>(nan, lanes(F(0)))[0]));
  CHECK(std::isnan(surrogate::derivative<A>(nan, lanes(F(0)))[0]));
}

}  // namespace

TEST_CASE_TEMPLATE("activation functions over the whole range", F, float, double) {
  check<F, activation::tanh>();
  check<F, activation::sigmoid>();
  check<F, activation::silu>();
  check<F, activation::gelu>();
  check<F, activation::gelu_tanh>();
}

TEST_CASE_TEMPLATE("activation functions with a kink", F, float, double) {
  using lanes = numerics::pack<F, 4, numerics::isa::BETATRON_ISA>;
  const F z[] = {F(-3), F(0), F(2), std::numeric_limits<F>::quiet_NaN()};
  const lanes at = lanes::load(z), slope(F(0.25));
  const lanes relu = surrogate::apply<activation::relu>(at, slope);
  const lanes prelu = surrogate::apply<activation::prelu>(at, slope);
  const lanes relu_bent = surrogate::derivative<activation::relu>(at, slope);
  const lanes prelu_bent = surrogate::derivative<activation::prelu>(at, slope);
  const F wanted[4][3] = {{0, 0, 2}, {F(-0.75), 0, 2}, {0, 0, 1}, {F(0.25), F(0.25), 1}};
  for (int k = 0; k < 3; ++k) {
    CHECK(relu[k] == wanted[0][k]);
    CHECK(prelu[k] == wanted[1][k]);
    CHECK(relu_bent[k] == wanted[2][k]);
    CHECK(prelu_bent[k] == wanted[3][k]);
  }
  CHECK(std::isnan(relu[3]));
  CHECK(std::isnan(prelu[3]));
  CHECK(std::isnan(relu_bent[3]));
  CHECK(std::isnan(prelu_bent[3]));
}

TEST_CASE("every activation function is found by its number") {
  for (std::size_t i = 0; i < surrogate::activation_names().size(); ++i) {
    const auto a = static_cast<activation>(i);
    bool called = false;
    surrogate::with_activation(a, [&]<activation A>() {
      called = true;
      CHECK((A == a || (a == activation::leaky_relu && A == activation::prelu)));
    });
    CHECK(called);
  }
}
