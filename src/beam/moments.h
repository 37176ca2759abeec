// moments.h: means, covariance and everything that is computed from them.
//
// All moments are central, weighted and of the population (divided by the sum of weights, not by
// one less). They are formed in double precision from columns of either precision: per block of
// particles in two passes (mean first, then squares of the distances from it, so that a beam far
// off axis loses nothing), and blocks are combined pairwise by the update of Chan, Golub and
// LeVeque (Algorithms for computing the sample variance, The American Statistician 37, 242 (1983),
// eq. 1.3) in an order that does not depend on the number of threads.
#pragma once

#include <array>
#include <cstddef>
#include <optional>

#include "beam/columns.h"
#include "beam/linear.h"
#include "beam/moments_block.h"

namespace betatron::beam {

/// Moments of the spins, weighted; NaN where nothing has a weight.
struct spin_moments {
  std::array<double, 3> mean{};   // <sx>, <sy>, <sz>: the polarisation vector
  std::array<double, 3> sigma{};  // rms distances from it

  double polarization() const;  // |<S>|, 1 where all spins are parallel
};

/// The moments of a beam. Without particles, or where all weights are 0, the mean and covariance
/// are NaN (nothing has no mean); without particles min and max are NaN too. One particle has
/// covariance 0, and a coordinate that is the same for all particles has exactly that mean and
/// exactly zero (co)variance.
struct moments {
  double weight = 0;      // sum of weights = number of real particles
  std::size_t count = 0;  // number of macroparticles, those of weight 0 included
  std::array<double, 6> mean{};
  matrix6 cov{};
  std::array<double, 6> min{};  // over all macroparticles, those of weight 0 included
  std::array<double, 6> max{};
  std::optional<spin_moments> spin{};  // of beams with spins

  double covariance(int i, int j) const { return cov[static_cast<std::size_t>(6 * i + j)]; }
  double sigma(int i) const;  // sqrt(covariance(i, i))
};

/// Sums over all particles of the view. The result has the same bits for any number of threads (>=
/// 1; 0 means one per hardware thread).
moment_sums sum_moments(columns<const float> particles, unsigned threads = 1);
moment_sums sum_moments(columns<const double> particles, unsigned threads = 1);

/// Moments from sums. `with_spin` says whether the sums are of a beam with spins.
moments finish(const moment_sums& sums, bool with_spin = false);

/// The three planes of motion: coordinates (2 plane, 2 plane + 1).
enum plane : int { plane_x = 0, plane_y = 1, plane_t = 2 };

/// Geometric projected rms emittance of a plane [m]: sqrt(<q^2><p^2> - <q p>^2) about the means,
/// dispersion included. The normalised emittance is this times beta gamma of the reference
/// particle.
double emittance(const moments& m, plane which);

/// Dispersion of x, px, y, py: D_q = -<q pt>/<pt^2> about the means (m, 1, m, 1). The sign makes it
/// the derivative of the orbit with respect to -pt, that is for more energy. NaN where all pt are
/// equal.
std::array<double, 4> dispersion(const moments& m);

/// Courant-Snyder parameters of a plane and the emittance that belongs to them.
struct twiss_parameters {
  double alpha;      // -<q p>/emittance
  double beta;       // <q^2>/emittance [m]
  double emittance;  // [m]; for x and y with the dispersive part taken out
};

/// For x and y the part of the beam that is correlated with pt is removed first: <a b> -> <a b> -
/// <a pt><b pt>/<pt^2> (nothing is removed where all pt are equal); t uses the moments as they are.
/// alpha and beta are NaN where the emittance is 0.
twiss_parameters twiss(const moments& m, plane which);

/// The three eigenemittances (mode emittances) of a covariance matrix [m], largest first: the
/// numbers e_k of the eigenvalues +-i e_k of cov*S, S the symplectic form. They are invariant under
/// every linear symplectic map, and equal the projected emittances (in some order: planes have no
/// meaning for coupled motion) where the planes are not coupled. A. J. Dragt, F. Neri, G.
/// Rangarajan, Phys. Rev. A 45, 2572 (1992).
///
/// With cov = L L^T they are the singular values of the antisymmetric L^T S L, each occurring
/// twice; they are found by one-sided Jacobi rotations, which keep small ones accurate next to
/// large ones. NaN for a covariance that is not finite.
std::array<double, 3> eigenemittances(const matrix6& cov);

}  // namespace betatron::beam
