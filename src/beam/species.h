// species.h: what kind of particle a beam is made of.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace betatron::beam {

/// A particle species.
///
/// name     as reported in tables and files
/// mass_eV  rest energy m c^2 [eV]
/// charge   signed charge in units of the elementary charge
/// anomaly  gyromagnetic anomaly G = (g - 2)/2, used by spin tracking only
struct species {
  std::string name;
  double mass_eV = 0;
  double charge = 0;
  double anomaly = 0;

  friend bool operator==(const species&, const species&) = default;
};

/// A species by name: one of `species_names()`, or one of the aliases "Hminus", "H⁻" (H-), "mu-"
/// (muon), "mu+" (antimuon), "e-" (electron), "e+" (positron). Masses and anomalies are CODATA 2022
/// values; H- is taken as a proton and two electrons (their binding energy, 14 eV, is neglected)
/// with the anomaly of the proton. Throws std::invalid_argument naming the known species.
species make_species(std::string_view name);

/// The names that `make_species` knows, aliases left out.
std::vector<std::string> species_names();

/// A species of the user's own, such as an ion: rest energy in eV, charge in units of e. Throws
/// std::invalid_argument unless the name is not empty, mass_eV is finite and > 0, charge is finite
/// and not 0, and anomaly is finite.
species make_ion(std::string name, double mass_eV, double charge, double anomaly = 0);

/// The checks of `make_ion` for a species that exists already.
void validate(const species& particle);

}  // namespace betatron::beam
