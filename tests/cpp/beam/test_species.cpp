#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>

#include "beam/species.h"

using namespace betatron;

TEST_CASE("species: every listed name can be made and keeps its name") {
  CHECK(beam::species_names().size() == 7);
  for (const std::string& name : beam::species_names()) {
    const beam::species particle = beam::make_species(name);
    CHECK(particle.name == name);
    CHECK(particle.mass_eV > 0);
    CHECK(std::abs(particle.charge) == 1);
  }
}

TEST_CASE("species: antiparticles differ from particles by the sign of the charge only") {
  for (const auto& [one, other] :
       {std::pair{"electron", "positron"}, {"proton", "antiproton"}, {"muon", "antimuon"}}) {
    beam::species conjugate = beam::make_species(one);
    conjugate.charge = -conjugate.charge;
    conjugate.name = other;
    CHECK(conjugate == beam::make_species(other));
  }
  CHECK(beam::make_species("electron").charge == -1);
  CHECK(beam::make_species("muon").charge == -1);
  CHECK(beam::make_species("proton").charge == +1);
}

TEST_CASE("species: aliases name the same species") {
  for (const char* alias : {"Hminus", "H\u207b"}) {
    CHECK(beam::make_species(alias) == beam::make_species("H-"));
  }
  CHECK(beam::make_species("mu-") == beam::make_species("muon"));
  CHECK(beam::make_species("mu+") == beam::make_species("antimuon"));
  CHECK(beam::make_species("e-") == beam::make_species("electron"));
  CHECK(beam::make_species("e+") == beam::make_species("positron"));
}

TEST_CASE("species: H- is a proton with two electrons") {
  const double expected =
      beam::make_species("proton").mass_eV + 2 * beam::make_species("electron").mass_eV;
  CHECK(beam::make_species("H-").mass_eV == expected);
  CHECK(beam::make_species("H-").charge == -1);
}

TEST_CASE("species: an unknown name is refused with the list of known ones") {
  for (const char* name : {"", "Electron", "graviton"}) {
    try {
      beam::make_species(name);
      FAIL("accepted");
    } catch (const std::invalid_argument& error) {
      const std::string message = error.what();
      CHECK(message.find("'" + std::string(name) + "'") != std::string::npos);
      for (const std::string& known : beam::species_names()) {
        CHECK(message.find(known) != std::string::npos);
      }
    }
  }
}

TEST_CASE("species: ions are checked") {
  const beam::species carbon = beam::make_ion("C6+", 11.1749e9, 6);
  CHECK(carbon.name == "C6+");
  CHECK(carbon.charge == 6);
  CHECK(carbon.anomaly == 0);
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const double inf = std::numeric_limits<double>::infinity();
  CHECK_THROWS_WITH_AS(beam::make_ion("", 1e9, 1), "species: the name is empty",
                       std::invalid_argument);
  CHECK_THROWS_WITH_AS(beam::make_ion("a", -1, 1),
                       "species 'a': mass = -1 eV must be finite and > 0", std::invalid_argument);
  CHECK_THROWS_AS(beam::make_ion("a", 0, 1), std::invalid_argument);
  CHECK_THROWS_AS(beam::make_ion("a", nan, 1), std::invalid_argument);
  CHECK_THROWS_AS(beam::make_ion("a", inf, 1), std::invalid_argument);
  CHECK_THROWS_WITH_AS(beam::make_ion("a", 1e9, 0),
                       "species 'a': charge = 0 e must be finite and not 0", std::invalid_argument);
  CHECK_THROWS_AS(beam::make_ion("a", 1e9, nan), std::invalid_argument);
  CHECK_THROWS_WITH_AS(beam::make_ion("a", 1e9, 1, nan),
                       "species 'a': anomaly = nan must be finite", std::invalid_argument);
}
