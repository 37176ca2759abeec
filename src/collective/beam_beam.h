// beam_beam.h: the kick of a bunch on another one that comes the other way.
//
// A Gaussian slice of N_s particles of charge q_s, rms sizes sx, sy, gives a particle (charge q, momentum p0) that
// crosses it with the relative velocity (beta + beta_s) c
//
//   dpx, dpy = K (E_x, E_y),    K = q q_s N_s e (1 + beta beta_s)/((beta + beta_s) 2 pi eps0 p0 c),
//
// E the field of Bassetti and Erskine (fields/gaussian.h), for sizes of any ratio. Like charges repel each other.
//
// In four dimensions all of the bunch is one thin lens. In six, its slices of equal charge act one after the other,
// each where the particle meets it, S = (sigma - sigma_s)/2 from the collision point (sigma = -t ahead), with the size
// that it has there and the energy change that goes with the change of size (Hirata's synchro-beam mapping):
//
//   X = x + S px - x_s,   px += F_x,   x -= S F_x,   F_x = K E_x(X, Y; Sigma(S)),
//   delta += F_x (px + F_x/2)/2 + F_y (py + F_y/2)/2 + (G_x dSigma_x/dS + G_y dSigma_y/dS)/2,
//
// with px, py before the kick and G_x = -dU/dSigma_x = (1/2) dF_x/dx, for Gaussian potentials U. The map is
// symplectic. A crossing angle is taken out by Hirata's Lorentz boost and put back behind. The boost takes
// gamma >> 1: errors are of order 1/gamma^2.
//
// Strong-strong: two bunches of macroparticles kick each other, slice by slice in the order in which slices meet. The
// field of a slice is that of the Gaussian with its present moments ("soft Gaussian"), or that of its particles, each
// where it passes the centre of the other slice, by the open-boundary solver of fields/poisson_2d.h (linear shape). On
// the grid the change of the size of a slice while it is crossed is left out.
//
// Sources: M. Bassetti, G. A. Erskine, CERN-ISR-TH/80-06 (1980); K. Hirata, H. Moshammer, F. Ruggiero, Part. Accel. 40
// (1993) 205; K. Hirata, Phys. Rev. Lett. 74 (1995) 2228; L. H. A. Leunissen, F. Schmidt, G. Ripken, LHC Project Report
// 369 (2000).
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "beam/bunch.h"
#include "tracking/effect.h"

namespace betatron::collective {

/// The size of a bunch in one plane around the collision point: sigma^2(S) = sigma^2 (1 - 2 alpha S/beta
/// + (1 + alpha^2) S^2/beta^2). S runs with the beam that is kicked. beta = 0: the same size everywhere.
struct strong_plane {
  double sigma = 0;  ///< m, > 0
  double beta = 0, alpha = 0;
  double offset = 0;  ///< m
};

struct beam_beam_options {
  double charge = 0;  ///< of the other bunch [C], with its sign
  strong_plane x{}, y{};
  double sigma_t = 0;     ///< rms length [m]; 0: four dimensions
  int slices = 11;        ///< of the other bunch, in six dimensions
  double half_angle = 0;  ///< half of the crossing angle [rad]
  double plane = 0;       ///< of the crossing: 0 horizontal, pi/2 vertical [rad]
  double other_beta = 1;  ///< v/c of the other bunch
  std::vector<std::uint8_t> at{};
};

/// The kick of a given (strong) bunch, at flagged elements. Throws std::invalid_argument naming what is out of range.
tracking::effect beam_beam(const beam_beam_options& o);

struct collision_options {
  int slices = 11;        ///< of each bunch, of equal charge; 1: one thin kick at the centres
  double half_angle = 0;  ///< half of the crossing angle [rad]
  double plane = 0;

  /// Nodes in x and y of a grid on which the field of the particles of a slice is solved; 0: that of a Gaussian.
  std::array<std::size_t, 2> cells = {0, 0};
};

/// Two bunches that go in opposite directions, each in its own coordinates with the x and y axes of both the same, meet
/// once at their collision point. Throws std::invalid_argument for a bunch that has no transverse size where it meets
/// the other, and where a coordinate is not finite.
void collide(beam::bunch& a, beam::bunch& b, const collision_options& o, unsigned threads);

/// Centres of slices of equal charge of a Gaussian bunch, from the tail (-) to the head: in units of its rms length.
std::vector<double> gaussian_slices(int slices);

}  // namespace betatron::collective
