// spin.h: the spins of an initial beam.
//
// Partly polarised spins follow the von Mises-Fisher distribution, the one of largest entropy on the
// unit sphere for a given mean: density
//
//     f(S) = kappa/(4 pi sinh kappa) exp(kappa n.S),
//
// |S| = 1, whose mean, the polarisation vector, is P = (coth kappa - 1/kappa) n (R. A. Fisher,
// Dispersion on a sphere, Proc. R. Soc. A 217, 295 (1953), eqs. 2 and 3). kappa = 0 is isotropic,
// kappa -> infinity parallel.
#pragma once

#include <array>
#include <cstdint>

#include "beam/columns.h"

namespace betatron::beam {

/// A spin that is given must have length 1 within this (single precision rounds to 1e-7).
inline constexpr double spin_tolerance = 1e-6;

/// The kappa of a polarisation 0 <= p < 1: coth kappa - 1/kappa = p. Infinity for p >= 1.
double spin_concentration(double p);

/// Throws std::invalid_argument naming the vector unless it is finite and of length <= 1.
void check_polarization(const std::array<double, 3>& polarization);

/// Fill the spins of `out` with those of particles first_index, first_index + 1, ... of the beam
/// that `seed` names, drawn with mean `polarization`: 0 gives isotropic directions, length 1 makes
/// all spins parallel to it. The result does not depend on `threads` (0 means one per hardware
/// thread); single precision gives the rounded components of double precision. Throws
/// what `check_polarization` does.
void generate_spins(const std::array<double, 3>& polarization, std::uint64_t seed,
                    const columns<float>& out, std::uint64_t first_index = 0, unsigned threads = 1);
void generate_spins(const std::array<double, 3>& polarization, std::uint64_t seed,
                    const columns<double>& out, std::uint64_t first_index = 0,
                    unsigned threads = 1);

}  // namespace betatron::beam
