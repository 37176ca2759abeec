#include "beam/reference.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

#include "beam/text.h"
#include "numerics/constants.h"

namespace betatron::beam {

// The square root of each factor on its own cannot overflow or underflow.
double reference::beta_gamma() const { return std::sqrt(kinetic) * std::sqrt(kinetic + 2); }
double reference::gamma() const { return 1 + kinetic; }
// Rounding alone must not make a particle faster than light.
double reference::beta() const { return std::min(beta_gamma() / gamma(), 1.0); }
double reference::inverse_beta() const { return std::max(gamma() / beta_gamma(), 1.0); }
double reference::inverse_beta_gamma_squared() const { return 1 / kinetic / (kinetic + 2); }
double reference::kinetic_energy() const { return kinetic * particle.mass_eV; }
double reference::total_energy() const { return gamma() * particle.mass_eV; }
double reference::momentum() const { return beta_gamma() * particle.mass_eV; }
double reference::rigidity() const {
  return momentum() / (particle.charge * numerics::constants::speed_of_light);
}

namespace {

/// Throws unless `value` is finite and above `limit`.
void check_above(const species& particle, const char* quantity, double value, const char* unit,
                 double limit) {
  validate(particle);
  if (std::isfinite(value) && value > limit) return;
  throw std::invalid_argument("reference: " + std::string(quantity) + " = " + number_text(value) +
                              unit + " of species '" + particle.name +
                              "' (m c^2 = " + number_text(particle.mass_eV) +
                              " eV) must be finite and > " + number_text(limit) + unit);
}

reference at_origin(const species& particle, double kinetic, const char* quantity, double value,
                    const char* unit) {
  if (!(kinetic > 0 && std::isfinite(kinetic))) {
    throw std::invalid_argument(
        "reference: " + std::string(quantity) + " = " + number_text(value) + unit +
        " of species '" + particle.name + "' (m c^2 = " + number_text(particle.mass_eV) +
        " eV) gives gamma - 1 = " + number_text(kinetic) + ", which must be finite and > 0");
  }
  return {particle, kinetic};
}

/// gamma - 1 of u = beta gamma: sqrt(1 + u^2) - 1 without the cancellation.
double kinetic_of_beta_gamma(double u) { return u * (u / (1 + std::hypot(1.0, u))); }

}  // namespace

reference reference::from_kinetic_energy(const species& particle, double energy_eV) {
  check_above(particle, "kinetic energy", energy_eV, " eV", 0);
  return at_origin(particle, energy_eV / particle.mass_eV, "kinetic energy", energy_eV, " eV");
}

reference reference::from_total_energy(const species& particle, double energy_eV) {
  check_above(particle, "total energy", energy_eV, " eV", particle.mass_eV);
  return at_origin(particle, (energy_eV - particle.mass_eV) / particle.mass_eV, "total energy",
                   energy_eV, " eV");
}

reference reference::from_momentum(const species& particle, double momentum_eV) {
  check_above(particle, "momentum", momentum_eV, " eV/c", 0);
  return at_origin(particle, kinetic_of_beta_gamma(momentum_eV / particle.mass_eV), "momentum",
                   momentum_eV, " eV/c");
}

reference reference::from_gamma(const species& particle, double gamma) {
  check_above(particle, "gamma", gamma, "", 1);
  return at_origin(particle, gamma - 1, "gamma", gamma, "");
}

reference reference::from_beta_gamma(const species& particle, double beta_gamma) {
  check_above(particle, "beta gamma", beta_gamma, "", 0);
  return at_origin(particle, kinetic_of_beta_gamma(beta_gamma), "beta gamma", beta_gamma, "");
}

}  // namespace betatron::beam
