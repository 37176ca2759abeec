// constants.h: physical constants, CODATA 2022 recommended values.
//
// Source: P. J. Mohr, D. B. Newell, B. N. Taylor, E. Tiesinga, "CODATA recommended values of the
// fundamental physical constants: 2022", Rev. Mod. Phys. 97, 025002 (2025), arXiv:2409.03787.
// Masses are given as rest energies because every formula of Betatron uses m c^2 in eV: this keeps
// the relative uncertainty of 3e-10 and does not add the rounding of kg -> eV.
#pragma once

namespace betatron::numerics::constants {

inline constexpr double pi = 3.14159265358979323846;

inline constexpr double speed_of_light = 299792458.0;                  // m/s, exact
inline constexpr double elementary_charge = 1.602176634e-19;           // C, exact
inline constexpr double planck_reduced = 1.0545718176461565e-34;       // J s, exact up to rounding
inline constexpr double vacuum_permittivity = 8.8541878188e-12;        // F/m
inline constexpr double classical_electron_radius = 2.8179403205e-15;  // m

inline constexpr double electron_mass_eV = 0.51099895069e6;    // m_e c^2
inline constexpr double proton_mass_eV = 938.27208943e6;       // m_p c^2
inline constexpr double muon_mass_eV = 105.6583755e6;          // m_mu c^2
inline constexpr double atomic_mass_unit_eV = 931.49410372e6;  // u c^2

// Gyromagnetic anomalies (g - 2)/2.
inline constexpr double electron_anomaly = 1.15965218046e-3;
inline constexpr double muon_anomaly = 1.16592062e-3;
inline constexpr double proton_anomaly = 1.79284734465;  // g_p = 5.5856946893

}  // namespace betatron::numerics::constants
