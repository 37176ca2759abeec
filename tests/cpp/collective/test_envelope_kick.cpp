// Linear space charge of envelopes: Carlson's integral, closed forms, symmetry, and against particles of the uniform
// beams that it is exact for.
#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <stdexcept>

#include "beams.h"
#include "collective/carlson.h"
#include "collective/space_charge_envelope.h"
#include "collective/strength.h"
#include "numerics/random.h"
#include "tracking/envelope.h"

namespace {

using namespace betatron;
using namespace beams;
using collective::carlson_rd;
using collective::envelope_model;
using collective::envelope_space_charge;
using numerics::uniform;

beam::matrix6 diagonal(double x, double y, double t) {
  beam::matrix6 m{};
  m[0] = x * x, m[14] = y * y, m[28] = t * t;
  return m;
}

beam::matrix6 congruent(const beam::matrix6& r, const beam::matrix6& m) {
  beam::matrix6 result{};
  for (std::size_t i = 0; i < 6; ++i) {
    for (std::size_t j = 0; j < 6; ++j) {
      for (std::size_t k = 0; k < 6; ++k) {
        for (std::size_t l = 0; l < 6; ++l) {
          result[6 * i + j] += r[6 * i + k] * m[6 * k + l] * r[6 * j + l];
        }
      }
    }
  }
  return result;
}

}  // namespace

TEST_CASE("Carlson's R_D") {
  // values of Carlson (1995), section 5
  CHECK(carlson_rd(0, 2, 1) == doctest::Approx(1.7972103521033883).epsilon(1e-14));
  CHECK(carlson_rd(2, 3, 4) == doctest::Approx(0.16510527294261053).epsilon(1e-14));
  CHECK(carlson_rd(1, 1, 1) == doctest::Approx(1).epsilon(1e-15));
  for (std::uint64_t i = 0; i < 200; ++i) {
    const double x = std::exp(20 * uniform(1, 0, i) - 10), y = std::exp(20 * uniform(1, 1, i) - 10),
                 z = std::exp(20 * uniform(1, 2, i) - 10);
    CHECK(carlson_rd(x, y, z) == doctest::Approx(carlson_rd(y, x, z)).epsilon(1e-14));
    CHECK(carlson_rd(4 * x, 4 * y, 4 * z) ==
          doctest::Approx(carlson_rd(x, y, z) / 8).epsilon(1e-14));
    // Poisson's equation in an ellipsoid
    CHECK(carlson_rd(x, y, z) + carlson_rd(y, z, x) + carlson_rd(z, x, y) ==
          doctest::Approx(3 / std::sqrt(x * y * z)).epsilon(1e-13));
  }
}

TEST_CASE("2D: round and flat beams, tilted beams") {
  const beam::reference ref = proton(6.7e6);
  const double bg = ref.beta_gamma(), length = 0.2, current = 0.5;
  const double k = 2 * collective::density_of_current(current, ref.particle) *
                   collective::classical_radius(ref.particle) / (bg * bg * bg);
  const envelope_space_charge model{envelope_model::beam_2d, current};
  const auto round = collective::kick_matrix(model, diagonal(1e-3, 1e-3, 0), 0, ref, length);
  CHECK(round[6] == doctest::Approx(k * length / 4e-6).epsilon(1e-14));
  CHECK(round[20] == doctest::Approx(k * length / 4e-6).epsilon(1e-14));
  const auto flat = collective::kick_matrix(model, diagonal(3e-3, 1e-3, 0), 0, ref, length);
  CHECK(flat[6] == doctest::Approx(k * length / (2 * 3e-3 * 4e-3)).epsilon(1e-14));
  CHECK(flat[20] == doctest::Approx(k * length / (2 * 1e-3 * 4e-3)).epsilon(1e-14));
  // the sum of the slopes is that of the density in the beam, whatever the tilt
  beam::matrix6 r{};
  for (std::size_t i = 0; i < 6; ++i) r[7 * i] = 1;
  const double c = std::cos(0.7), s = std::sin(0.7);
  r[0] = c, r[2] = -s, r[12] = s, r[14] = c;
  r[7] = c, r[9] = -s, r[19] = s, r[21] = c;
  const auto tilted =
      collective::kick_matrix(model, congruent(r, diagonal(3e-3, 1e-3, 0)), 0, ref, length);
  const auto expected = congruent(r, flat);
  for (std::size_t i = 0; i < 36; ++i) CHECK(tilted[i] == doctest::Approx(expected[i]));
}

TEST_CASE("3D: the ellipsoid's slopes add up to its density; symmetry; correlations") {
  for (std::uint64_t n = 0; n < 50; ++n) {
    const beam::reference ref = proton(1e5 + 1e10 * std::pow(uniform(4, 0, n), 8));
    const double bg = ref.beta_gamma(), length = 0.7, charge = 1e-10;
    beam::matrix6 cov{};
    double a[3][3];
    for (auto& row : a) {
      for (double& v : row)
        v = 1e-3 * (uniform(4, 1, 3 * n + static_cast<std::size_t>(&v - row)) - 0.3);
    }
    for (std::size_t i = 0; i < 3; ++i) a[i][i] += 1e-3;
    for (std::size_t i = 0; i < 3; ++i) {
      for (std::size_t j = 0; j < 3; ++j) {
        for (std::size_t k = 0; k < 3; ++k) cov[12 * i + 2 * j] += a[i][k] * a[j][k];
      }
    }
    const auto m = collective::kick_matrix({}, cov, charge, ref, length);
    const double strength = collective::particle_count(charge, ref.particle) *
                            collective::classical_radius(ref.particle) * length;
    const double volume = bg * std::fabs(a[0][0] * (a[1][1] * a[2][2] - a[1][2] * a[2][1]) -
                                         a[0][1] * (a[1][0] * a[2][2] - a[1][2] * a[2][0]) +
                                         a[0][2] * (a[1][0] * a[2][1] - a[1][1] * a[2][0]));
    CHECK(m[6] + m[20] + m[34] / (bg * bg) ==
          doctest::Approx(strength / (bg * bg) * 3 / (5 * std::sqrt(5.0) * volume)).epsilon(1e-9));
    CHECK(m[8] == doctest::Approx(m[18]).epsilon(1e-9));   // dpx/dy, dpy/dx
    CHECK(m[10] == doctest::Approx(m[30]).epsilon(1e-9));  // dpx/dt, dpt/dx
    CHECK(m[22] == doctest::Approx(m[32]).epsilon(1e-9));  // dpy/dt, dpt/dy
    CHECK(m[34] > 0);                                      // behind (t > 0): decelerated, pt > 0
  }
}

TEST_CASE("envelopes: no charge, no extent, wrong models") {
  const beam::reference ref = proton(6.7e6);
  const auto unit = collective::kick_matrix({}, beam::matrix6{}, 0, ref, 1);
  for (std::size_t i = 0; i < 36; ++i) CHECK(unit[i] == (i % 7 == 0 ? 1 : 0));
  CHECK_THROWS_AS(collective::kick_matrix({}, diagonal(1e-3, 0, 1e-3), 1e-9, ref, 1),
                  std::invalid_argument);
  beam::matrix6 wrong = diagonal(1, 1, 1);
  wrong[2] = std::numeric_limits<double>::quiet_NaN();
  CHECK_THROWS_AS(collective::kick_matrix({}, wrong, 1e-9, ref, 1), std::invalid_argument);
  CHECK_THROWS_AS(collective::effect_of({envelope_model::beam_2d, {}}, 1, 0),
                  std::invalid_argument);
  CHECK_THROWS_AS(collective::effect_of({envelope_model::beam_3d, 1.0}, 1, 0),
                  std::invalid_argument);
  CHECK_THROWS_AS(collective::effect_of(
                      {envelope_model::beam_2d, std::numeric_limits<double>::infinity()}, 1, 0),
                  std::invalid_argument);
  // the other sign of the charge, and of the current
  const auto cov = diagonal(1e-3, 2e-3, 3e-3);
  CHECK(collective::kick_matrix({}, cov, -1e-9, ref, 1) ==
        collective::kick_matrix({}, cov, 1e-9, ref, 1));
}

TEST_CASE("envelopes: derivatives where nothing acts yet") {
  const beam::reference ref = proton(6.7e6);
  const auto cov = diagonal(1e-3, 2e-3, 3e-3);
  beam::matrix6 by{};
  by[6] = 0.3, by[20] = -0.7, by[34] = 0.2;  // px by x, py by y, pt by t
  const envelope_space_charge bunch{}, current{envelope_model::beam_2d, 0.5},
      nothing{envelope_model::beam_2d, 0.0};
  const auto close = [](double a, double b) { return std::fabs(a - b) <= 1e-12 * std::fabs(b); };
  for (const auto& model : {bunch, current}) {
    const auto at = collective::pull_kick(model, cov, 1e-9, ref, 1, by);
    const auto thin = collective::pull_kick(model, cov, 1e-9, ref, 0, by);
    CHECK(at.length != 0);
    CHECK(close(thin.length, at.length));  // the kick is linear in it
    CHECK(thin.charge == 0);
    CHECK(thin.strength == 0);
    CHECK(thin.covariance == beam::matrix6{});
  }
  const double full = collective::pull_kick(current, cov, 0, ref, 1, by).strength;
  const auto off = collective::pull_kick(nothing, cov, 0, ref, 1, by);
  CHECK(close(off.strength, full));
  CHECK(off.length == 0);

  // no extent in y: there is no kick, and none of its derivatives but by what there is none of
  const auto flat = diagonal(1e-3, 0, 1e-3);
  CHECK(collective::kick_matrix(nothing, flat, 0, ref, 1) ==
        collective::kick_matrix(bunch, flat, 0, ref, 1));
  CHECK(std::isnan(collective::pull_kick(nothing, flat, 0, ref, 1, by).strength));
  CHECK(std::isnan(collective::pull_kick(bunch, flat, 0, ref, 1, by).charge));
  CHECK(std::isnan(collective::pull_kick(bunch, flat, 1e-9, ref, 0, by).length));
  CHECK(collective::pull_kick(bunch, flat, 0, ref, 1, by).covariance == beam::matrix6{});
  CHECK(collective::pull_kick(bunch, flat, 0, ref, 1, {}).charge == 0);
  CHECK_THROWS_AS(collective::pull_kick(bunch, flat, 1e-9, ref, 1, by), std::invalid_argument);
}
