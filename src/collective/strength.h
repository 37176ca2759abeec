// strength.h: how strongly a charge acts on the particles of its own beam.
//
// A force F that acts for the path L on a particle at the speed of the reference particle changes its momentum by
// F L/(beta c). With the classical radius r_q = q^2/(4 pi eps0 m c^2) of the species, N particles in the bunch, and
// fields e in units of (charge)/(4 pi eps0) [1/m^2], taken in the rest frame at (x, y, z' = -beta gamma t):
//   dp_x/p0 = N r_q L e_x/(beta gamma)^2,    dpt = -N r_q L e_z/(beta gamma)
// (the magnetic field takes beta^2 of the transverse force away; the longitudinal field is the same in both frames, and
// pt = -(gamma - gamma0)/(beta0 gamma0)). With n particles per metre of t = c (arrival time), and fields e of a long
// beam in units of (charge per length)/(2 pi eps0) [1/m], whose potential is u:
//   dp_x/p0 = 2 n r_q L e_x/(beta^3 gamma^3),    dpt = -2 (dn/dt) r_q L u/(beta gamma)^3.
#pragma once

#include <cmath>

#include "beam/reference.h"
#include "beam/species.h"
#include "numerics/constants.h"

namespace betatron::collective {

/// q^2/(4 pi eps0 m c^2) [m]; does not depend on the sign of the charge.
inline double classical_radius(const beam::species& particle) {
  using namespace numerics::constants;
  return classical_electron_radius * (electron_mass_eV / particle.mass_eV) * particle.charge *
         particle.charge;
}

/// Particles that carry this charge [C, any sign].
inline double particle_count(double charge, const beam::species& particle) {
  return std::fabs(charge / (numerics::constants::elementary_charge * particle.charge));
}

/// Particles per metre of t = c (arrival time) in a beam of this current [A, any sign].
inline double density_of_current(double current, const beam::species& particle) {
  return particle_count(current, particle) / numerics::constants::speed_of_light;
}

}  // namespace betatron::collective
