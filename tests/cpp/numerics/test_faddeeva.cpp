// The Faddeeva function against 40 digits (computed with mpmath as exp(-z^2) erfc(-i z)), for numbers and packs,
// and by its symmetries in all quadrants; the exponential of packs.
#include "numerics/faddeeva.h"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "numerics/random.h"

namespace {

using namespace betatron::numerics;

struct known {
  double x, y, re, im;
};

const std::vector<known> table = {
    {0.0, 0.0, 1.0, 0.0},
    {0.0, 1e-300, 1.0, 0.0},
    {1e-300, 0.0, 1.0, 1.1283791670955126e-300},
    {0.2558316769866222, 0.0, 0.93664602123659588, 0.27640298587665285},
    {0.1279, 1e-12, 0.98377466218324113, 0.14275605223916825},
    {0.5116633539732443, 1e-09, 0.76966541186259693, 0.48639040632598624},
    {0.3837, 0.0, 0.8630991625832631, 0.39286458849065945},
    {1.0, 0.0, 0.36787944117144232, 0.60715770584139373},
    {1.0, 1.0, 0.30474420525691259, 0.20821893820283163},
    {2.5, 1e-08, 0.0019304554385872667, 0.25172302451533487},
    {5.9, 0.001, 1.6962074384579159e-5, 0.097062814107260229},
    {6.2, 6.1, 0.045797642521503017, 0.045937207761372819},
    {6.1, 6.2, 0.046528180749338966, 0.045177141889060715},
    {0.01, 6.14, 0.090714188486906561, 0.00014406121383268876},
    {7.957157066806801, 2.50699e-05, 2.2890263236109856e-7, 0.071477145275435925},
    {12.0, 0.0003, 1.1878565611207932e-6, 0.047180778677005303},
    {26.5, 0.0, 1.0392022621430825e-305, 0.02130536400094508},
    {40.0, 1e-06, 3.5294958721554864e-10, 0.014109151458534093},
    {1e-05, 30.0, 0.018795888861414669, 6.2583541050741485e-9},
    {300.0, 200.0, 0.00086798988110258615, 0.0013019748063652799},
    {990000.0, 1.0, 5.756449174043915e-13, 5.6988846822976613e-7},
    {1100000.0, 3.0, 1.3988171492832874e-12, 5.1289962140344816e-7},
    {1000000000000.0, 0.001, 5.641895835477563e-28, 5.6418958354775629e-13},
    {2.0, 1000000000.0, 5.6418958354775628e-10, 1.1283791670955126e-18},
    {1e+100, 1e+90, 5.6418958354775625e-111, 5.6418958354775628e-101},
    {0.0105499, 0.00328929, 0.99618875474473456, 0.011834265284135759},
    {0.0389769, 0.0102929, 0.98700756561464092, 0.04314426871347589},
    {0.490453, 3.49856e-07, 0.78619970515395434, 0.47265146410257598},
    {0.00113926, 0.893292, 0.45859639043846949, 0.00035209701139915419},
    {0.0130383, 8.80941e-06, 0.9998200802839571, 0.014710249179833638},
    {19.1105, 0.000800179, 1.241253474931182e-6, 0.029563077493048685},
    {3.9517, 0.000898942, 3.6428491317652186e-5, 0.1478754747169011},
    {0.559749, 1.77876e-06, 0.7310157407935445, 0.51482936208473129},
    {0.536909, 1.60242, 0.28721032450375305, 0.075853727070656074},
    {0.177697, 0.142033, 0.83514047417627478, 0.15431596975705593},
    {0.771027, 3.39986e-07, 0.55184792728921502, 0.59492959961064257},
    {1.82134, 0.00805613, 0.03845652306803656, 0.38429096438332646},
    {0.0197447, 1.80883e-07, 0.99961001885930996, 0.022273711411881345},
    {5.26947, 0.000839107, 1.8065905509950771e-5, 0.10911050382665226},
    {1.23294, 1.96855, 0.20429835305419506, 0.10946778055258124},
    {1.17695, 4.41691, 0.11722890136411288, 0.02988290207108078},
    {0.0499278, 0.444163, 0.64448393508209921, 0.027677839985244093},
    {0.0816339, 5.82599, 0.09545490619868508, 0.0013007407248081618},
    {6.01349, 6.43978e-07, 1.049591795190564e-8, 0.095175824090054276},
    {0.00384296, 6.324e-06, 0.99997809614839597, 0.0043362247060762406},
    {14.1764, 0.000417007, 1.1795237003708837e-6, 0.039897566118015866},
    {0.49498, 3.1515e-05, 0.78267974684592227, 0.47562026430489137},
    {0.151756, 0.000159474, 0.97706151895232775, 0.16858601175696982},
    {0.0322786, 0.00717985, 0.99092502522823479, 0.035937908972259417},
    {0.325299, 3.19797, 0.16740985279255259, 0.015677144847545448},
    {0.856097, 5.13155, 0.10527728551028334, 0.016965616924939871},
    {4.81418, 16.7963, 0.031004754908621097, 0.0088577269649896767},
    {0.769974, 2.25802e-06, 0.55274371539570538, 0.59470498029731947},
    {5.02044, 10.1497, 0.044621277734949162, 0.021901577536960464},
    {7.76592, 0.00529166, 5.0788401159556746e-5, 0.07326732958191758},
    {1.17331, 5.65376e-06, 0.25242244872288793, 0.57873712689968562},
    {3.76629, 0.00575862, 0.00025988593988033439, 0.15577473441158365},
    {0.0168003, 3.36297e-07, 0.99971741049247165, 0.018953530530127636},
    {4.69843, 16.4206, 0.031720651726296995, 0.0090453556437778732},
    {0.0024023, 0.441511, 0.64694991587268912, 0.0013383325075032292},
};

template <class F>
using lanes = pack<F, 4, isa::base>;

template <class T>
scalar_of<T> lane(T v) {
  if constexpr (simd_pack<T>) {
    return v[T::width - 1];
  } else {
    return v;
  }
}

}  // namespace

TEST_CASE_TEMPLATE("w(z) against 40 digits", T, double, lanes<double>, float, lanes<float>) {
  using F = scalar_of<T>;
  const double tolerance = sizeof(F) == 8 ? 3e-14 : 3e-6;
  for (const known& k : table) {
    if (sizeof(F) == 4 && (k.x > 1e18 || k.y > 1e18)) continue;
    CAPTURE(k.x);
    CAPTURE(k.y);
    const auto w = faddeeva_quadrant(T(F(k.x)), T(F(k.y)));
    const double size = std::hypot(k.re, k.im);
    CHECK(std::hypot(static_cast<double>(lane(w.re)) - k.re,
                     static_cast<double>(lane(w.im)) - k.im) <= tolerance * size);
    const double floor = sizeof(F) == 8 ? 1e-15 : 1e-6;
    CHECK(std::fabs(static_cast<double>(lane(w.re)) - k.re) <=
          2 * tolerance * k.re + floor * tolerance * size + 1e-300);
  }
}

TEST_CASE("packs and numbers agree, in all quadrants, with the symmetries of w") {
  for (std::uint64_t i = 0; i < 2000; ++i) {
    const double x = 12 * uniform(11, 0, i) - 6, y = 12 * uniform(11, 1, i) - 6;
    const auto w = faddeeva(x, y);
    const auto packed = faddeeva(lanes<double>(x), lanes<double>(y));
    const double size = std::hypot(w.re, w.im);
    CAPTURE(x);
    CAPTURE(y);
    CHECK(std::hypot(packed.re[2] - w.re, packed.im[2] - w.im) <=
          1e-13 * (size + 2 * std::exp(y * y - x * x)));
    const auto mirrored = faddeeva(-x, y);
    CHECK(mirrored.re == w.re);
    CHECK(mirrored.im == -w.im);
    // w(z) + w(-z) = 2 exp(-z^2)
    const auto opposite = faddeeva(-x, -y);
    const double height = 2 * std::exp(y * y - x * x);
    CHECK(std::fabs(w.re + opposite.re - height * std::cos(2 * x * y)) <= 1e-13 * (1 + height));
    CHECK(std::fabs(w.im + opposite.im + height * std::sin(2 * x * y)) <= 1e-13 * (1 + height));
  }
}

TEST_CASE("the derivative of w is -2 z w + 2 i/sqrt(pi)") {
  for (std::uint64_t i = 0; i < 500; ++i) {
    const double x = 7 * uniform(11, 0, i), y = 7 * uniform(11, 1, i), h = 1e-4;
    const auto w = faddeeva(x, y), up = faddeeva(x + h, y), down = faddeeva(x - h, y);
    CHECK(std::fabs((up.re - down.re) / (2 * h) + 2 * (x * w.re - y * w.im)) < 1e-7);
    CHECK(std::fabs((up.im - down.im) / (2 * h) + 2 * (x * w.im + y * w.re) - 1.1283791670955126) <
          1e-7);
  }
}

TEST_CASE_TEMPLATE("exp of packs", F, float, double) {
  using P = lanes<F>;
  const F largest = sizeof(F) == 8 ? F(709.7) : F(88.7),
          smallest = sizeof(F) == 8 ? F(-708) : F(-87);
  for (std::uint64_t i = 0; i < 5000; ++i) {
    const F a = static_cast<F>(static_cast<double>(smallest) +
                               static_cast<double>(largest - smallest) * uniform(11, 0, i));
    const long double exact = std::exp(static_cast<long double>(a));
    CHECK(std::fabs(static_cast<long double>(exp(P(a))[1]) - exact) <=
          2 * std::numeric_limits<F>::epsilon() * exact);
  }
  using limits = std::numeric_limits<F>;
  CHECK(exp(P(F(0)))[0] == F(1));
  CHECK(exp(P(-limits::infinity()))[0] == F(0));
  CHECK(exp(P(F(-1000)))[0] == F(0));
  CHECK(exp(P(F(1000)))[0] == limits::infinity());
  CHECK(exp(P(limits::infinity()))[0] == limits::infinity());
  CHECK(std::isnan(exp(P(limits::quiet_NaN()))[0]));
}
