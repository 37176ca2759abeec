#include "beam/species.h"

#include <array>
#include <cmath>
#include <stdexcept>
#include <utility>

#include "beam/text.h"
#include "numerics/constants.h"

namespace betatron::beam {

namespace {

namespace constants = numerics::constants;

struct entry {
  const char* name;
  double mass_eV;
  double charge;
  double anomaly;
};

constexpr std::array<entry, 7> known = {{
    {"electron", constants::electron_mass_eV, -1, constants::electron_anomaly},
    {"positron", constants::electron_mass_eV, +1, constants::electron_anomaly},
    {"proton", constants::proton_mass_eV, +1, constants::proton_anomaly},
    {"antiproton", constants::proton_mass_eV, -1, constants::proton_anomaly},
    {"H-", constants::proton_mass_eV + 2 * constants::electron_mass_eV, -1,
     constants::proton_anomaly},
    {"muon", constants::muon_mass_eV, -1, constants::muon_anomaly},
    {"antimuon", constants::muon_mass_eV, +1, constants::muon_anomaly},
}};

constexpr std::array<std::pair<std::string_view, std::string_view>, 6> aliases = {{
    {"e-", "electron"},
    {"e+", "positron"},
    {"Hminus", "H-"},
    {"H\u207b", "H-"},
    {"mu-", "muon"},
    {"mu+", "antimuon"},
}};

}  // namespace

species make_species(std::string_view name) {
  std::string_view wanted = name;
  for (const auto& [alias, canonical] : aliases) {
    if (wanted == alias) wanted = canonical;
  }
  for (const entry& e : known) {
    if (wanted == e.name) return {e.name, e.mass_eV, e.charge, e.anomaly};
  }
  std::string message = "species: unknown name '" + std::string(name) + "'; known are ";
  for (const entry& e : known) message += std::string(e.name) + ", ";
  message += "or any ion by mass and charge";
  throw std::invalid_argument(message);
}

std::vector<std::string> species_names() {
  std::vector<std::string> names;
  for (const entry& e : known) names.emplace_back(e.name);
  return names;
}

species make_ion(std::string name, double mass_eV, double charge, double anomaly) {
  species ion{std::move(name), mass_eV, charge, anomaly};
  validate(ion);
  return ion;
}

void validate(const species& particle) {
  if (particle.name.empty()) throw std::invalid_argument("species: the name is empty");
  const std::string where = "species '" + particle.name + "': ";
  if (!(std::isfinite(particle.mass_eV) && particle.mass_eV > 0)) {
    throw std::invalid_argument(where + "mass = " + number_text(particle.mass_eV) +
                                " eV must be finite and > 0");
  }
  if (!(std::isfinite(particle.charge) && particle.charge != 0)) {
    throw std::invalid_argument(where + "charge = " + number_text(particle.charge) +
                                " e must be finite and not 0");
  }
  if (!std::isfinite(particle.anomaly)) {
    throw std::invalid_argument(where + "anomaly = " + number_text(particle.anomaly) +
                                " must be finite");
  }
}

}  // namespace betatron::beam
