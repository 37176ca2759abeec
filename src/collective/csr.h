// csr.h: coherent synchrotron radiation of a line charge that follows the reference orbit.
//
// The beam is taken as a line of charge of density lambda(z) [C/m] on the reference orbit (z = -beta t, ahead
// positive), rigid while light travels from tail to head. From the retarded potentials of such a line, the energy
// that a particle of charge q gains per path length is
//
//   dE/ds = -(|q|/(4 pi eps0)) int dlambda/dz(z - s) V(s) ds
//
// where V is the potential at the observer of a charge that it sees at a retarded place on the orbit, at path
// distance L, chord rho between the two places, behind it by s = L - beta rho now:
//
//   V rho kappa = 1/gamma^2 + beta^2 (1 - cos phi) + beta (cos a_o - cos a_s),      kappa = 1 - beta cos a_s
//
// phi is the angle between the directions of flight at both places, a_o and a_s those of these directions to the
// chord. On a straight orbit V = 1/(gamma^2 s): the field of the beam that is there without curvature. It belongs to
// space charge and is subtracted, as in Sagan et al.
//
// Model "steady_state": the orbit is the circle of the magnet that the beam is in. For angles << 1, with
// s = (R/gamma^3) (u/2 + u^3/24),
//
//   V - V_straight = (gamma/R) 4 u (u^2 + 8)/((u^2 + 4)(u^2 + 12)),
//   integral from 0 to s = (u^2 - 4 ln(1 + u^2/12))/(4 gamma^2),                u = 4 sinh(asinh(3 gamma^3 s/(2R))/3)
//
// for every gamma >> 1 (the error is of order 1/gamma^2; Saldin et al., eq. 27), free of a singularity; for gamma -> infinity it is the wake
// 2/(3^(1/3) R^(2/3) s^(1/3)).
//
// Model "transient": the orbit behind is the line itself: drifts and bends of either sign, with all they do to each
// other: entrance and exit of magnets, drifts after them, the field of one magnet in the next. In front of the line
// the orbit is straight. For gamma -> infinity this gives the cases A to D of Saldin et al. and, in drifts, the wake
// of Stupakov and Emma. Where phi is not small there is a relative error of O(phi^2) for light that crosses from one
// element into another.
//
// Shielding by two conducting plates parallel to the plane of the orbit, `gap` apart, the orbit in the middle: image
// charges of alternating sign at multiples of the gap, with the same V and chords that leave the plane (Agoh and
// Yokoya, sec. IV; Sagan et al., sec. VI; Murphy, Krinsky, Gluckstern). Their alternating sum is accelerated by the
// method of Cohen, Rodriguez Villegas and Zagier.
//
// Sources: E. L. Saldin, E. A. Schneidmiller, M. V. Yurkov, NIM A 398 (1997) 373; D. Sagan, G. Hoffstaetter,
// C. Mayes, U. Sae-Ueng, Phys. Rev. ST Accel. Beams 12 (2009) 040703; G. Stupakov, P. Emma, EPAC 2002, p. 1479;
// T. Agoh, K. Yokoya, Phys. Rev. ST Accel. Beams 7 (2004) 054403; J. B. Murphy, S. Krinsky, R. L. Gluckstern, Part.
// Accel. 57 (1997) 9; H. Cohen, F. Rodriguez Villegas, D. Zagier, Experiment. Math. 9 (2000) 3.
#pragma once

#include <span>
#include <vector>

#include "collective/line_density.h"
#include "lattice/line.h"
#include "tracking/effect.h"

namespace betatron::collective {

struct csr_options {
  line_options density{};
  bool transient = false;  ///< the model
  bool drifts = true;      ///< transient: also in elements without curvature
  double gap = 0;          ///< between the shielding plates [m]; 0: none
  int order = 2;           ///< of the splitting
  double spacing = 0;      ///< of kicks, see tracking::effect
};

/// The effect on a line: kicks in bends, and where the model asks for it in all elements behind the first bend. Throws
/// std::invalid_argument naming what is out of range, and for the transient model where an element turns the plane of
/// the orbit.
tracking::effect csr(const csr_options& o, const lattice::line& l);

/// A stretch of orbit of constant curvature.
struct orbit_arc {
  double length;     ///< m, > 0
  double curvature;  ///< 1/m, of either sign
};

/// Integrals of V - V_straight over cells of s: entry n - 1 + m is that over [(m-1) step, m step], m = 1 - n ... n
/// (2 n entries). `behind`: the orbit from the observer backwards; straight before its last arc. The steady state is
/// one arc of infinite length.
std::vector<double> csr_cells(std::span<const orbit_arc> behind, const beam::reference& ref,
                              double step, std::size_t n, double gap);

/// Energy gain per path length [eV/m] at the nodes of a density, from the integrals of csr_cells.
std::vector<double> csr_field(const line_density& d, const beam::reference& ref,
                              std::span<const double> cells);

}  // namespace betatron::collective
