// distribution.h: initial beams.
//
// A distribution is a shape, drawn in a normalised phase space where every coordinate has mean 0
// and variance 1 and no two are correlated, followed by the linear map that gives the wanted
// covariance:
//
//     z = mean + factor * u.
//
// Every number is a function of (seed, index of the particle), so a beam does not depend on the
// number of threads, and the first n particles of a larger beam are the beam of n particles.
#pragma once

#include <array>
#include <cstdint>
#include <limits>
#include <memory>
#include <string_view>
#include <vector>

#include "beam/columns.h"
#include "beam/linear.h"
#include "beam/reference.h"
#include "beam/thermal.h"

namespace betatron::beam {

/// Shapes in the normalised phase space; densities and sources are in docs/beam.md.
enum class shape {
  gaussian,      // normal in all six; optionally cut in each plane
  waterbag,      // uniform in a ball of six dimensions
  kv,            // uniform on a sphere of four (x, px, y, py); t uniform, pt normal
  kurth4d,       // transverse Kurth distribution: uniform disk in (x, y); t uniform, pt normal
  kurth6d,       // Kurth distribution: uniform ball in (x, y, t)
  semigaussian,  // uniform in a cylinder in (x, y, t); px, py, pt normal
  triangle,      // current falling from head to tail; pt normal; transverse ball of four
  thermal,       // in equilibrium with its own field: see thermal.h, and from_thermal below
};

/// "gaussian", "waterbag", "kv", "kurth4d", "kurth6d", "semigaussian", "triangle", in the order of
/// `shape`: those that can have every covariance, which leaves out "thermal".
std::vector<std::string_view> shape_names();

/// The shape of that name. Throws std::invalid_argument listing the names.
shape shape_from_name(std::string_view name);
std::string_view name_of(shape kind);

/// The rms ellipse of one plane by where it meets the axes: lambda_q [m], lambda_p (relative to
/// p0), and the correlation mu: <q^2> = lambda_q^2/(1 - mu^2), <p^2> = lambda_p^2/(1 - mu^2), <q p>
/// = -mu lambda_q lambda_p/(1 - mu^2).
struct ellipse_parameters {
  double lambda_q = 0;  // finite, >= 0
  double lambda_p = 0;  // finite, >= 0
  double mu = 0;        // |mu| < 1
};

/// The rms ellipse of one plane by Courant-Snyder parameters: <q^2> = emittance beta,
/// <p^2> = emittance (1 + alpha^2)/beta, <q p> = -emittance alpha.
struct courant_snyder_parameters {
  double beta = 1;       // [m], finite, > 0
  double alpha = 0;      // finite
  double emittance = 0;  // rms geometric [m rad], finite, >= 0
};

/// Dispersion given to a beam: (x, px, y, py) -> (x, px, y, py) - (x, px, y, py)_D pt.
struct dispersion_vector {
  double x = 0, px = 0, y = 0, py = 0;  // m, 1, m, 1
};

/// What an initial beam is drawn from. The builders validate: they throw std::invalid_argument
/// naming the parameter, its value and the allowed range.
struct distribution {
  shape kind = shape::gaussian;

  /// From the normalised phase space to the beam, row-major; factor factor^T is the covariance.
  matrix6 factor{};

  /// Mean of x, px, y, py, t, pt.
  std::array<double, 6> mean{};

  /// Gaussian only: in each plane (x, y, t) no particle has a normalised radius above `cut` times
  /// the sigma of the uncut normal distribution; the radii are then scaled up so that the
  /// covariance is the requested one all the same. Infinity means no cut.
  static constexpr double no_cut = std::numeric_limits<double>::infinity();
  std::array<double, 3> cut{no_cut, no_cut, no_cut};

  /// Thermal only: the profile.
  std::shared_ptr<const thermal_profile> profile = nullptr;

  matrix6 covariance() const;

  static distribution from_ellipse(shape kind, const std::array<ellipse_parameters, 3>& planes,
                                   const dispersion_vector& dispersion = {},
                                   const std::array<double, 6>& mean = {});
  static distribution from_twiss(shape kind, const std::array<courant_snyder_parameters, 3>& planes,
                                 const dispersion_vector& dispersion = {},
                                 const std::array<double, 6>& mean = {});

  /// From a symmetric positive semidefinite covariance matrix. Where planes are coupled, the
  /// normalised coordinates are matched in the order t, pt, x, px, y, py: t keeps the shape's
  /// profile in t, and x, px, y, py are the shape's plus terms linear in t and pt. (This makes a
  /// matrix with dispersion the same beam as the explicit dispersion.)
  static distribution from_covariance(shape kind, const matrix6& covariance,
                                      const std::array<double, 6>& mean = {});

  /// The beam of `charge` [C] (its magnitude) that is stationary, with its own field, in a channel
  /// of constant focusing with the same wave number in all planes. Throws as thermal_profile does,
  /// and unless the charge is finite and >= 0.
  static distribution from_thermal(const thermal_parameters& parameters, const reference& ref,
                                   double charge, const std::array<double, 6>& mean = {});

  /// The same with cuts, each > 0 (infinity: none). Throws unless the shape is gaussian.
  distribution with_cuts(double x, double y, double t) const;
};

/// Fill the coordinates (not weight and id) of `out` with particles first_index, first_index + 1,
/// ... of the beam that `seed` names. The result does not depend on `threads` (0 means one per
/// hardware thread); single precision gives the rounded coordinates of double precision.
void generate(const distribution& from, std::uint64_t seed, const columns<float>& out,
              std::uint64_t first_index = 0, unsigned threads = 1);
void generate(const distribution& from, std::uint64_t seed, const columns<double>& out,
              std::uint64_t first_index = 0, unsigned threads = 1);

}  // namespace betatron::beam
