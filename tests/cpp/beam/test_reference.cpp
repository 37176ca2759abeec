#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>

#include "beam/reference.h"

using namespace betatron;

namespace {

const beam::species electron = beam::make_species("electron");
const beam::species proton = beam::make_species("proton");

/// Relative error in units of the double rounding error.
double ulps(double value, long double exact) {
  const long double error = (static_cast<long double>(value) - exact) / exact;
  return static_cast<double>(std::abs(error)) / std::numeric_limits<double>::epsilon();
}

}  // namespace

TEST_CASE("reference: derived quantities lose nothing from beta = 1e-6 to 1 - beta = 1e-12") {
  // gamma - 1 from 5e-13 (beta 1e-6) to 7e5 (1 - beta 1e-12) and beyond
  for (double kinetic = 1e-13; kinetic < 1e12; kinetic *= 3.7) {
    beam::reference r;
    r.particle = electron;
    r.kinetic = kinetic;
    const long double k = kinetic, m = electron.mass_eV, c = 299792458.0L;
    const long double u = std::sqrt(k * (k + 2));
    CHECK(ulps(r.gamma(), 1 + k) <= 2);
    CHECK(ulps(r.beta_gamma(), u) <= 2);
    CHECK(ulps(r.beta(), u / (1 + k)) <= 3);
    CHECK(ulps(r.inverse_beta(), (1 + k) / u) <= 3);
    CHECK(ulps(r.inverse_beta_gamma_squared(), 1 / (k * (k + 2))) <= 2);
    CHECK(ulps(r.kinetic_energy(), k * m) <= 1);
    CHECK(ulps(r.total_energy(), (1 + k) * m) <= 2);
    CHECK(ulps(r.momentum(), u * m) <= 3);
    CHECK(ulps(r.rigidity(), -u * m / c) <= 4);
    CHECK(r.beta() <= 1);
    CHECK(r.inverse_beta() >= 1);
  }
}

TEST_CASE("reference: every way to give the energy gives the same particle") {
  for (const beam::species& particle : {electron, proton}) {
    for (const double beta : {0.05, 0.3, 0.9, 0.99999}) {
      const long double b = beta;
      const long double gamma = 1 / std::sqrt((1 - b) * (1 + b));
      const auto exact = static_cast<double>(gamma - 1);
      const double tolerance = 1e-12;  // gamma - 1 of a rounded gamma at beta = 0.05
      const auto close = [&](const beam::reference& r) {
        return std::abs(r.kinetic / exact - 1) < tolerance;
      };
      const double m = particle.mass_eV;
      const auto g = static_cast<double>(gamma);
      const auto u = static_cast<double>(b * gamma);
      CHECK(close(beam::reference::from_kinetic_energy(particle, exact * m)));
      CHECK(close(beam::reference::from_total_energy(particle, g * m)));
      CHECK(close(beam::reference::from_momentum(particle, u * m)));
      CHECK(close(beam::reference::from_gamma(particle, g)));
      CHECK(close(beam::reference::from_beta_gamma(particle, u)));
    }
  }
}

TEST_CASE("reference: momentum and beta gamma keep full accuracy at low energy") {
  for (double u = 1e-6; u < 1e9; u *= 5.3) {
    const long double exact = std::sqrt(1 + static_cast<long double>(u) * u);
    const long double kinetic = static_cast<long double>(u) * u / (1 + exact);
    CHECK(ulps(beam::reference::from_beta_gamma(electron, u).kinetic, kinetic) <= 4);
    CHECK(ulps(beam::reference::from_beta_gamma(electron, u).beta_gamma(), u) <= 4);
    CHECK(ulps(beam::reference::from_momentum(electron, u * 1e3).momentum(), u * 1e3L) <= 6);
  }
}

TEST_CASE("reference: starts at the origin of the laboratory, flying along z") {
  const auto r = beam::reference::from_kinetic_energy(proton, 1e9);
  CHECK(r.s == 0);
  CHECK(r.t == 0);
  CHECK(r.position == std::array<double, 3>{0, 0, 0});
  CHECK(r.frame == std::array<double, 9>{1, 0, 0, 0, 1, 0, 0, 0, 1});
  CHECK(r.particle == proton);
}

TEST_CASE("reference: rigidity has the sign of the charge") {
  const auto e = beam::reference::from_momentum(electron, 299792458.0);
  CHECK(e.rigidity() == doctest::Approx(-1).epsilon(1e-15));
  const auto carbon = beam::make_ion("C6+", 11.1749e9, 6);
  CHECK(beam::reference::from_momentum(carbon, 6 * 299792458.0).rigidity() ==
        doctest::Approx(1).epsilon(1e-15));
}

TEST_CASE("reference: energies out of range are refused with value, range and mass") {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const double inf = std::numeric_limits<double>::infinity();
  using beam::reference;
  CHECK_THROWS_WITH_AS(reference::from_kinetic_energy(electron, -1),
                       "reference: kinetic energy = -1 eV of species 'electron' (m c^2 = "
                       "510998.95069 eV) must be finite and > 0 eV",
                       std::invalid_argument);
  CHECK_THROWS_WITH_AS(reference::from_total_energy(electron, 5e5),
                       "reference: total energy = 5e+05 eV of species 'electron' (m c^2 = "
                       "510998.95069 eV) must be finite and > 510998.95069 eV",
                       std::invalid_argument);
  for (const double bad : {0.0, -1.0, nan, inf, -inf}) {
    CHECK_THROWS_AS(reference::from_kinetic_energy(electron, bad), std::invalid_argument);
    CHECK_THROWS_AS(reference::from_total_energy(electron, bad), std::invalid_argument);
    CHECK_THROWS_AS(reference::from_momentum(electron, bad), std::invalid_argument);
    CHECK_THROWS_AS(reference::from_gamma(electron, bad), std::invalid_argument);
    CHECK_THROWS_AS(reference::from_beta_gamma(electron, bad), std::invalid_argument);
  }
  CHECK_THROWS_AS(reference::from_gamma(electron, 1), std::invalid_argument);
  // positive, but gamma - 1 underflows
  CHECK_THROWS_AS(reference::from_beta_gamma(electron, 1e-200), std::invalid_argument);
  beam::species broken = electron;
  broken.mass_eV = 0;
  CHECK_THROWS_AS(reference::from_gamma(broken, 2), std::invalid_argument);
}
