// reference.h: the reference particle, to which all coordinates of a beam are relative.
#pragma once

#include <array>

#include "beam/species.h"

namespace betatron::beam {

/// The reference particle: species, energy, and where it stands in the laboratory. A plain value.
///
/// The energy is kept as `kinetic` = gamma - 1 = (kinetic energy)/(m c^2), because every other
/// measure follows from it without cancellation from beta = 1e-6 to 1 - beta = 1e-12, which is not
/// true of gamma (at low energy) or of beta (at high energy).
struct reference {
  species particle;
  double kinetic = 0;  // gamma - 1, > 0

  double s = 0;  // path length along the reference orbit [m]
  double t = 0;  // c times the time of flight [m]

  std::array<double, 3> position{0, 0, 0};  // laboratory position [m]

  /// Orientation, row-major: the rows are the unit vectors ex, ey, ez of the co-moving frame in
  /// laboratory coordinates; ez is the direction of flight. A vector v in the co-moving frame is
  /// v[0] ex + v[1] ey + v[2] ez in the laboratory.
  std::array<double, 9> frame{1, 0, 0, 0, 1, 0, 0, 0, 1};

  double gamma() const;                       // 1 + kinetic
  double beta_gamma() const;                  // p0 / (m c) = sqrt(kinetic (kinetic + 2))
  double beta() const;                        // v / c
  double inverse_beta() const;                // 1 / beta
  double inverse_beta_gamma_squared() const;  // 1 / (beta gamma)^2, the slip of a drift
  double kinetic_energy() const;              // eV
  double total_energy() const;                // eV
  double momentum() const;                    // p0 c [eV], that is p0 in eV/c
  double rigidity() const;                    // p0 / q [T m], with the sign of the charge

  /// Build from one measure of the energy, at the origin of the laboratory, flying along z.
  /// Energies in eV, momentum in eV/c. Throw std::invalid_argument naming the value, the allowed
  /// range and the mass of the species where the value is not finite, is out of range (kinetic
  /// energy, momentum and beta gamma > 0; total energy > m c^2; gamma > 1), or gives a kinetic
  /// energy that rounds to 0.
  static reference from_kinetic_energy(const species& particle, double energy_eV);
  static reference from_total_energy(const species& particle, double energy_eV);
  static reference from_momentum(const species& particle, double momentum_eV);
  static reference from_gamma(const species& particle, double gamma);
  static reference from_beta_gamma(const species& particle, double beta_gamma);

  friend bool operator==(const reference&, const reference&) = default;
};

}  // namespace betatron::beam
