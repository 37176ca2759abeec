// Beams in thermal equilibrium with their own field.
#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>

#include "beam/bunch.h"
#include "beam/thermal.h"
#include "numerics/constants.h"
#include "numerics/random.h"

using namespace betatron;
using beam::thermal_parameters;
using beam::thermal_profile;

namespace {

constexpr double pi = numerics::constants::pi;

std::string message_of(auto&& action) {
  try {
    action();
  } catch (const std::exception& error) {
    return error.what();
  }
  return "accepted";
}

/// int f(r) 4 pi r^2 dr from the centre to the edge, by Simpson's rule.
double integral(const thermal_profile& p, auto&& f) {
  constexpr int n = 20'000;
  const double h = p.edge() / n;
  double sum = 0;
  for (int i = 0; i <= n; ++i) {
    const double r = h * i;
    sum += (i == 0 || i == n ? 1 : i % 2 == 1 ? 4 : 2) * f(r) * 4 * pi * r * r;
  }
  return sum * h / 3;
}

}  // namespace

TEST_CASE("thermal: without charge it is a Gaussian") {
  const double k = 3, kT = 1e-4, sigma = std::sqrt(kT) / k;
  for (const double intensity : {0.0, 1e-16}) {
    const thermal_profile p({k, kT, 0, 0}, intensity);
    CHECK(p.focusing_left() == doctest::Approx(1).epsilon(1e-9));
    CHECK(p.sigma_position() == doctest::Approx(sigma).epsilon(1e-9));
    CHECK(p.sigma_momentum() == std::sqrt(kT));
    for (const double r : {0.0, 0.3, 1.0, 2.5, 5.0}) {
      const double normal = std::exp(-r * r / 2) / std::pow(std::sqrt(2 * pi) * sigma, 3);
      CHECK(p.density(r * sigma) == doctest::Approx(normal).epsilon(1e-6));
      // the part inside r of a normal distribution in three dimensions
      const double inside =
          std::erf(r / std::sqrt(2.0)) - std::sqrt(2 / pi) * r * std::exp(-r * r / 2);
      if (r < 4) CHECK(p.radius(0, inside) == doctest::Approx(r * sigma).epsilon(1e-6));
    }
  }
}

TEST_CASE("thermal: weak charge is a perturbation of first order") {
  const thermal_profile cold({1, 1, 0, 0}, 0);
  const double first = thermal_profile({1, 1, 0, 0}, 1e-3).sigma_position() - 1;
  const double second = thermal_profile({1, 1, 0, 0}, 2e-3).sigma_position() - 1;
  CHECK(second == doctest::Approx(2 * first).epsilon(1e-4));
  // the envelope equation of a Gaussian: sigma^3 = 1/sigma + K/(4 pi) (1/(6 sqrt(pi)))
  CHECK(first == doctest::Approx(1e-3 / (4 * pi) / (6 * std::sqrt(pi)) / 2).epsilon(1e-3));
}

TEST_CASE("thermal: strong charge makes a uniform core of density 3 k^2/K") {
  for (const double intensity : {1e4, 1e5, 1e6}) {
    const double k = 1;
    const thermal_profile p({k, 1, 0, 0}, intensity);
    const double density = 3 * k * k / intensity, edge = std::cbrt(intensity / (4 * pi));
    CHECK(p.density(0) == doctest::Approx(density).epsilon(1e-5));
    CHECK(p.density(0.5 * edge) == doctest::Approx(density).epsilon(1e-2));
    CHECK(p.density(1.7 * edge) < 1e-3 * density);
    // a ball: <r^2> = 3/5 R^2
    CHECK(p.sigma_position() == doctest::Approx(edge / std::sqrt(5.0)).epsilon(30 / edge / edge));
    CHECK(p.focusing_left() < 1e-5);
    CHECK(p.focusing_left() > 0);
  }
}

TEST_CASE("thermal: number, virial theorem and Poisson's equation of random beams") {
  for (std::uint64_t seed = 0; seed < 12; ++seed) {
    auto draw = [seed, index = std::uint64_t{0}]() mutable {
      return numerics::uniform(seed, 77, index++);
    };
    const thermal_parameters t{std::pow(10, 3 * draw() - 1), std::pow(10, -8 * draw()), 0,
                               seed % 3 == 0 ? 0 : 0.9 * draw()};
    thermal_parameters given = t;
    given.kT_halo = t.kT * std::pow(10, 4 * draw() - 1.5);
    const double intensity = 4 * pi * std::pow(t.kT, 1.5) / t.k * std::pow(10, 7 * draw() - 3);
    const thermal_profile p(given, intensity);
    CAPTURE(seed);
    CHECK(integral(p, [&](double r) { return p.density(r); }) == doctest::Approx(1).epsilon(1e-6));
    const double square = integral(p, [&](double r) { return p.density(r) * r * r; });
    CHECK(p.sigma_position() == doctest::Approx(std::sqrt(square / 3)).epsilon(1e-6));
    // 3 <p^2> = <r dU/dr>, U from its values
    const double virial = integral(p, [&](double r) {
      const double h = 1e-5 * p.sigma_position();
      return r < h ? 0 : p.density(r) * r * (p.potential(r + h) - p.potential(r - h)) / (2 * h);
    });
    const double momentum = p.sigma_momentum();
    CHECK(virial == doctest::Approx(3 * momentum * momentum).epsilon(1e-4));
    // Gauss: r^2 dU/dr = k^2 r^3 - K N(r)/(4 pi), far outside with N = 1
    const double far = 1.5 * p.edge(), h = 1e-4 * far;
    const double field = (p.potential(far + h) - p.potential(far - h)) / (2 * h);
    CHECK(field ==
          doctest::Approx(t.k * t.k * far - intensity / (4 * pi * far * far)).epsilon(1e-6));
    // the same whatever the steps
    const thermal_profile finer(given, intensity, 1e-12), coarser(given, intensity, 1e-8);
    CHECK(coarser.sigma_position() == doctest::Approx(finer.sigma_position()).epsilon(1e-6));
    CHECK(p.sigma_position() == doctest::Approx(finer.sigma_position()).epsilon(1e-8));
    CHECK(p.central_density(0) == doctest::Approx(finer.central_density(0)).epsilon(1e-7));
    // radius is the inverse of the part inside
    for (const double u : {0.0, 1e-9, 0.1, 0.5, 0.99, 1 - 1e-9, 1.0}) {
      const double r = p.radius(0, u);
      CHECK(r >= 0);
      CHECK(r <= p.edge());
      if (u == 0 || u > 0.999 || t.halo > 0) continue;
      constexpr int n = 4000;
      double inside = 0;
      for (int i = 0; i < n; ++i) {
        const double at = r * (i + 0.5) / n;
        inside += p.density(at) * 4 * pi * at * at * r / n;
      }
      CHECK(inside == doctest::Approx(u).epsilon(1e-5));
    }
  }
}

TEST_CASE("thermal: the published bithermal beam") {
  // R. D. Ryne et al., EPAC 2004: protons of 0.1 MeV, 0.1 A at 700 MHz; A_i in the units in which
  // ImpactX asks for them, where they were found by trial to four or five digits
  const auto proton = beam::reference::from_kinetic_energy(beam::make_species("proton"), 1e5);
  const double k = 2 * pi, charge = 0.1 / 700e6;
  const auto d = beam::distribution::from_thermal({k, 36e-6, 900e-6, 0.05}, proton, charge);
  const thermal_profile& p = *d.profile;
  const double kT = 0.95 * 36e-6 + 0.05 * 900e-6, bg = proton.beta_gamma();
  const double intensity =
      charge / (numerics::constants::vacuum_permittivity * bg * bg * proton.particle.mass_eV);
  const double scale =
      std::sqrt(kT + std::pow(intensity * k / (4 * pi * 5 * std::sqrt(5.0)), 2.0 / 3)) / k;
  const double unit = std::pow(std::sqrt(2 * pi) * scale, 3);
  CHECK(p.central_density(0) * unit / 0.95 == doctest::Approx(0.54226).epsilon(2e-4));
  CHECK(p.central_density(1) * unit / 0.05 == doctest::Approx(0.08195).epsilon(3e-3));

  const auto b = beam::bunch::sample(proton, d, 200'000, 3, beam::precision::double_, 2);
  const beam::moments m = b.moments(2);
  for (const int i : {0, 1, 2, 3}) {
    CHECK(m.sigma(i) ==
          doctest::Approx(i % 2 == 0 ? p.sigma_position() : p.sigma_momentum()).epsilon(0.01));
  }
  CHECK(m.sigma(4) == doctest::Approx(p.sigma_position() / bg).epsilon(0.01));
  CHECK(m.sigma(5) == doctest::Approx(p.sigma_momentum() * bg).epsilon(0.01));
  // the Hamiltonian: kinetic part 3/2 kT, potential part from the profile
  double potential = 0, kinetic = 0;
  b.visit([&](const auto& c) {
    for (std::size_t i = 0; i < c.size; ++i) {
      const double zeta = -bg * c.z[4][i], p_zeta = -c.z[5][i] / bg;
      potential +=
          p.potential(std::sqrt(c.z[0][i] * c.z[0][i] + c.z[2][i] * c.z[2][i] + zeta * zeta));
      kinetic += (c.z[1][i] * c.z[1][i] + c.z[3][i] * c.z[3][i] + p_zeta * p_zeta) / 2;
    }
  });
  const double n = static_cast<double>(b.size());
  CHECK(kinetic / n == doctest::Approx(1.5 * kT).epsilon(0.01));
  CHECK(potential / n == doctest::Approx(integral(p, [&](double r) {
                           return p.density(r) * p.potential(r);
                         })).epsilon(0.01));
  CHECK(d.covariance()[0] == doctest::Approx(p.sigma_position() * p.sigma_position()));
}

TEST_CASE("thermal: parameters that are refused") {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const auto make = [](thermal_parameters p, double intensity) {
    return message_of([&] { thermal_profile(p, intensity); });
  };
  CHECK(make({0, 1, 0, 0}, 1) == "thermal beam: k = 0 must be finite and > 0 (1/m)");
  CHECK(make({1, -1, 0, 0}, 1) == "thermal beam: kT = -1 must be finite and > 0");
  CHECK(make({1, 1, 0, 0.5}, 1) == "thermal beam: kT_halo = 0 must be finite and > 0");
  CHECK(make({1, 1, 1, 1}, 1) == "thermal beam: halo = 1 must be finite and >= 0 and < 1");
  CHECK(make({1, 1, 0, 0}, nan) == "thermal beam: intensity = nan must be finite and >= 0 (m)");
  CHECK(make({1, 1, 0, 0}, 1e12)
            .starts_with(
                "thermal beam: no equilibrium found for k = 1 1/m, kT = 1, kT_halo = 0, halo = 0, "
                "intensity = 1e+12 m: "));
  const auto proton = beam::reference::from_kinetic_energy(beam::make_species("proton"), 1e5);
  CHECK(message_of([&] { beam::distribution::from_thermal({1, 1, 0, 0}, proton, -1); }) ==
        "distribution: charge = -1 must be finite and >= 0 (C; the species gives the sign)");
  CHECK(message_of([&] { beam::distribution::from_ellipse(beam::shape::thermal, {}); }) ==
        "distribution: a thermal beam is made by from_thermal");
}
