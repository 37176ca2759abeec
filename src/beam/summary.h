// summary.h: the table row that describes a beam at one place, for diagnostics in any language.
#pragma once

#include <array>
#include <string_view>

#include "beam/moments.h"
#include "beam/reference.h"

namespace betatron::beam {

/// Names of the entries of `summarise`. Units: m for x, y, t, s, emittances and beta; px, py, pt relative to the
/// reference momentum; charge in C. emittance_x is projected (dispersion included), emittance_xn that times beta
/// gamma; alpha_x and beta_x have the dispersion taken out; emittance_1 >= 2 >= 3 are eigenemittances.
inline constexpr std::array<std::string_view, 47> summary_names = {"s",
                                                                   "gamma",
                                                                   "n",
                                                                   "charge",
                                                                   "mean_x",
                                                                   "mean_px",
                                                                   "mean_y",
                                                                   "mean_py",
                                                                   "mean_t",
                                                                   "mean_pt",
                                                                   "sigma_x",
                                                                   "sigma_px",
                                                                   "sigma_y",
                                                                   "sigma_py",
                                                                   "sigma_t",
                                                                   "sigma_pt",
                                                                   "min_x",
                                                                   "min_px",
                                                                   "min_y",
                                                                   "min_py",
                                                                   "min_t",
                                                                   "min_pt",
                                                                   "max_x",
                                                                   "max_px",
                                                                   "max_y",
                                                                   "max_py",
                                                                   "max_t",
                                                                   "max_pt",
                                                                   "emittance_x",
                                                                   "emittance_y",
                                                                   "emittance_t",
                                                                   "emittance_xn",
                                                                   "emittance_yn",
                                                                   "emittance_tn",
                                                                   "alpha_x",
                                                                   "alpha_y",
                                                                   "alpha_t",
                                                                   "beta_x",
                                                                   "beta_y",
                                                                   "beta_t",
                                                                   "dispersion_x",
                                                                   "dispersion_px",
                                                                   "dispersion_y",
                                                                   "dispersion_py",
                                                                   "emittance_1",
                                                                   "emittance_2",
                                                                   "emittance_3"};

/// One row, in the order of summary_names.
std::array<double, summary_names.size()> summarise(const moments& m, const reference& ref);

/// What a beam with spins has in addition: components of the polarisation vector, rms distances from
/// it, and its length.
inline constexpr std::array<std::string_view, 7> spin_summary_names = {
    "mean_sx", "mean_sy", "mean_sz", "sigma_sx", "sigma_sy", "sigma_sz", "polarization"};

/// One row, in the order of spin_summary_names; NaN for a beam without spins.
std::array<double, spin_summary_names.size()> summarise_spin(const moments& m);

}  // namespace betatron::beam
