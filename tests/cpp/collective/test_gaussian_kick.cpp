// Space charge of Gaussian beams: against closed forms, for tilted beams, in both precisions and on any number of
// threads; what it refuses.
#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <stdexcept>

#include "beams.h"
#include "collective/space_charge_gaussian.h"
#include "collective/strength.h"

namespace {

using namespace betatron;
using namespace beams;
using collective::gaussian_model;
using collective::gaussian_space_charge;

void rotate(beam::bunch& b, double angle) {
  const double c = std::cos(angle), s = std::sin(angle);
  b.visit([&]<class F>(const beam::columns<F>& z) {
    for (std::size_t i = 0; i < z.size; ++i) {
      for (const std::size_t k : {0u, 1u}) {
        const double x = z.z[k][i], y = z.z[k + 2][i];
        z.z[k][i] = static_cast<F>(c * x - s * y);
        z.z[k + 2][i] = static_cast<F>(s * x + c * y);
      }
    }
  });
}

}  // namespace

TEST_CASE("strength: classical radii, and the perveance of a current") {
  const beam::reference ref = proton(6.7e6);
  const double bg = ref.beta_gamma();
  CHECK(collective::classical_radius(beam::make_species("electron")) ==
        doctest::Approx(2.8179403205e-15));
  // K = 2 I/(I_A (beta gamma)^3), I_A = 31.3 MA for protons
  const double k = 2 * collective::density_of_current(0.5, ref.particle) *
                   collective::classical_radius(ref.particle) / (bg * bg * bg);
  CHECK(k == doctest::Approx(2 * 0.5 / (31.2901e6 * bg * bg * bg)).epsilon(1e-4));
  CHECK(collective::particle_count(-1.602176634e-19, beam::make_species("electron")) ==
        doctest::Approx(1));
}

TEST_CASE("3D: the kick of a round bunch at rest") {
  // E(r) = erf(r/(sqrt(2) s))/r^2 - sqrt(2/pi) exp(-r^2/(2 s^2))/(s r), along the radius
  const beam::reference ref = proton(2e9);
  const double bg = ref.beta_gamma(), s = 1e-3, length = 0.3;
  beam::bunch b = gaussian(ref, 20000, 1e-9, {s, 0, s, 0, s / bg, 0});
  const beam::bunch before = b;
  const beam::moments m = b.moments();
  collective::kick(gaussian_space_charge{}, b, length, 1);
  const double strength =
      m.weight * collective::classical_radius(ref.particle) * length / (bg * bg);
  double worst = 0;
  for (std::size_t i = 0; i < b.size(); ++i) {
    const double x = coordinate(before, 0, i) - m.mean[0], y = coordinate(before, 2, i) - m.mean[2],
                 z = -bg * (coordinate(before, 4, i) - m.mean[4]);
    const double r = std::sqrt(x * x + y * y + z * z);
    const double e = std::erf(r / (std::sqrt(2.0) * s)) / (r * r) -
                     std::sqrt(2 / 3.14159265358979) * std::exp(-r * r / (2 * s * s)) / (s * r);
    worst = std::fmax(worst, std::fabs(coordinate(b, 1, i) - strength * e * x / r));
    worst = std::fmax(worst, std::fabs(coordinate(b, 5, i) / -bg - strength * e * z / r));
    CHECK(coordinate(b, 0, i) == coordinate(before, 0, i));
  }
  // the sample is not perfectly round: its moments differ from s by 1 %
  CHECK(worst < 0.03 * strength / (s * s) * 0.43);
}

TEST_CASE("kicks of tilted beams are tilted kicks of upright ones") {
  const beam::reference ref = proton(100e6);
  for (const auto which : {gaussian_model::gauss_2p5d, gaussian_model::gauss_3d}) {
    const gaussian_space_charge model{.model = which, .tolerance = 1e-10};
    beam::bunch straight = gaussian(ref, 1000, 1e-10, {1e-3, 0, 3e-3, 0, 0.1, 0});
    beam::bunch tilted = straight;
    rotate(tilted, 0.6);
    collective::kick(model, straight, 1, 1);
    collective::kick(model, tilted, 1, 1);
    rotate(straight, 0.6);
    for (const std::size_t k : {1u, 3u, 5u}) {
      const double scale = largest(straight, k);
      CHECK(scale > 0);
      for (std::size_t i = 0; i < straight.size(); ++i) {
        CHECK(std::fabs(coordinate(straight, k, i) - coordinate(tilted, k, i)) < 1e-9 * scale);
      }
    }
  }
}

TEST_CASE("2.5D and 3D agree on a long bunch") {
  const beam::reference ref = proton(1e9);
  const std::array<double, 6> sigma = {1e-3, 0, 2e-3, 0, 1.0, 0};
  beam::bunch slices = gaussian(ref, 200000, 1e-9, sigma), whole = slices;
  gaussian_space_charge model{.model = gaussian_model::gauss_2p5d, .density = {.bins = 40}};
  collective::kick(model, slices, 1, 2);
  collective::kick(gaussian_space_charge{.model = gaussian_model::gauss_3d}, whole, 1, 2);
  double difference[6] = {}, size[6] = {};
  for (std::size_t i = 0; i < whole.size(); ++i) {
    for (const std::size_t k : {1u, 3u, 5u}) {
      const double a = coordinate(slices, k, i), b = coordinate(whole, k, i);
      difference[k] += (a - b) * (a - b);
      size[k] += b * b;
    }
  }
  CHECK(std::sqrt(difference[1] / size[1]) < 0.01);
  CHECK(std::sqrt(difference[3] / size[3]) < 0.01);
  CHECK(std::sqrt(difference[5] / size[5]) < 0.08);  // binned slope, and R is a mean
}

TEST_CASE("any number of threads, both precisions, undone by the negative length") {
  const beam::reference ref = proton(50e6);
  const std::array<double, 6> sigma = {1e-3, 1e-3, 2e-3, 1e-3, 0.02, 1e-3};
  for (const auto which : {gaussian_model::gauss_2p5d, gaussian_model::gauss_3d}) {
    const gaussian_space_charge model{.model = which};
    beam::bunch one = gaussian(ref, 50001, 1e-9, sigma), many = one, start = one;
    collective::kick(model, one, 0.5, 1);
    collective::kick(model, many, 0.5, 5);
    bool same = true;
    for (const std::size_t k : {1u, 3u, 5u}) {
      for (std::size_t i = 0; i < one.size(); ++i) {
        same = same && coordinate(one, k, i) == coordinate(many, k, i);
      }
    }
    CHECK(same);
    beam::bunch single = gaussian(ref, 50001, 1e-9, sigma, beam::precision::single);
    collective::kick(model, single, 0.5, 1);
    for (const std::size_t k : {1u, 3u, 5u}) {
      CHECK(std::fabs(coordinate(single, k, 77) - coordinate(one, k, 77)) < 2e-6 * largest(one, k));
    }
    collective::kick(model, one, -0.5, 3);
    for (const std::size_t k : {1u, 3u, 5u}) {
      for (const std::size_t i : {0u, 1u, 50000u}) {
        CHECK(std::fabs(coordinate(one, k, i) - coordinate(start, k, i)) < 1e-15);
      }
    }
  }
}

TEST_CASE("the charge's sign does not matter, nothing happens without charge or company") {
  for (const auto which : {gaussian_model::gauss_2p5d, gaussian_model::gauss_3d}) {
    const gaussian_space_charge model{.model = which};
    const auto electron = beam::reference::from_kinetic_energy(beam::make_species("electron"), 1e7);
    const auto positron = beam::reference::from_kinetic_energy(beam::make_species("positron"), 1e7);
    const std::array<double, 6> sigma = {1e-3, 0, 2e-3, 0, 0.02, 0};
    beam::bunch a = gaussian(electron, 100, 1e-9, sigma), b = gaussian(positron, 100, 1e-9, sigma);
    collective::kick(model, a, 1, 1);
    collective::kick(model, b, 1, 1);
    CHECK(coordinate(a, 1, 5) == coordinate(b, 1, 5));
    CHECK(coordinate(a, 1, 5) * coordinate(a, 0, 5) > 0);
    for (const std::size_t n : {0u, 1u, 100u}) {
      beam::bunch idle = gaussian(electron, n, n == 1 ? 1e-9 : 0, sigma);
      collective::kick(model, idle, 1, 1);
      CHECK(largest(idle, 1) == 0);
    }
  }
}

TEST_CASE("beams that the models cannot take are refused") {
  const beam::reference ref = proton(1e9);
  const gaussian_space_charge flat{.model = gaussian_model::gauss_2p5d}, solid{};
  beam::bunch point = gaussian(ref, 10, 1e-9, {0, 0, 0, 0, 0, 0});
  CHECK_THROWS_AS(collective::kick(flat, point, 1, 1), std::invalid_argument);
  CHECK_THROWS_AS(collective::kick(solid, point, 1, 1), std::invalid_argument);
  beam::bunch sheet = gaussian(ref, 10, 1e-9, {1e-3, 0, 0, 0, 1e-3, 0});
  CHECK_THROWS_AS(collective::kick(flat, sheet, 1, 1), std::invalid_argument);
  CHECK_THROWS_AS(collective::kick(solid, sheet, 1, 1), std::invalid_argument);
  beam::bunch wrong = gaussian(ref, 10, 1e-9, {1e-3, 0, 1e-3, 0, 1e-3, 0});
  wrong.visit([](const auto& c) {
    c.z[2][3] = std::numeric_limits<std::decay_t<decltype(c.z[2][3])>>::quiet_NaN();
  });
  CHECK_THROWS_WITH_AS(collective::kick(solid, wrong, 1, 1), doctest::Contains("y"),
                       std::invalid_argument);
  CHECK_THROWS_AS(collective::effect_of(gaussian_space_charge{.tolerance = 0}, 1, 0),
                  std::invalid_argument);
  CHECK_THROWS_AS(collective::effect_of(gaussian_space_charge{.density = {.bins = 1}}, 1, 0),
                  std::invalid_argument);
  CHECK_THROWS_AS(collective::effect_of(gaussian_space_charge{.scale = -1.0}, 1, 0),
                  std::invalid_argument);
}
