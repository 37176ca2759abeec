// thermal.h: a beam in thermal equilibrium with its own field, in a channel of constant focusing.
//
// In the frame of the beam the channel is isotropic: with zeta = -beta gamma t and
// p_zeta = -pt/(beta gamma), the motion of the element ConstantFocusing with kx = ky = kt = k follows from
//
//     H = (px^2 + py^2 + p_zeta^2)/2 + k^2 r^2/2 + psi(r),    r^2 = x^2 + y^2 + zeta^2,
//
// where psi = q phi/(beta^2 gamma^2 m c^2) is the potential phi of the beam in its rest frame, from
//
//     (1/r^2) d/dr (r^2 dpsi/dr) = -K n(r),    K = |q Q|/(eps0 beta^2 gamma^2 m c^2),    psi(0) = 0,
//
// n being the density in space, of integral 1, and Q the charge of the beam. Any function of H is
// stationary. A core and a halo of temperatures T1 and T2 (mean squares of each component of the
// momentum, relative to p0) with fractions 1 - w and w of the particles are
//
//     f = sum_i A_i (2 pi T_i)^(-3/2) exp(-H/T_i),    n = sum_i A_i exp(-(k^2 r^2/2 + psi)/T_i),
//
// the Poisson-Boltzmann equation, where A_i is such that each population has its fraction. Without
// charge it is a Gaussian of sigma^2 = T/k^2; where the field is strong, the core is a ball of uniform
// density 3 k^2/K. Sources: M. Reiser, Theory and Design of Charged Particle Beams, 2nd ed. (2008),
// sec. 5.4.4; for the two populations R. D. Ryne et al., A test suite of space-charge problems for
// code benchmarking, EPAC 2004, WEPLT047.
//
// It is solved in rho = r k/sqrt(T1) and v = (k^2 r^2/2 + psi)/T1, by integrating
//
//     (1/rho^2)(rho^2 v')' = 3 delta - sum_i a_i (exp(-v T1/T_i) - 1),   v(0) = v'(0) = 0,
//
// outwards, with a_i = K A_i/k^2 and delta = 1 - sum a_i/3, the part of the focusing that the field
// leaves over at the centre. delta falls exponentially with the charge; as it is a parameter of its
// own, nothing cancels. The two a_i are found by Newton's method from the conditions
// a_i int rho^2 exp(-v T1/T_i) drho = (fraction_i) K k/(4 pi T1^(3/2)).
#pragma once

#include <array>
#include <cstddef>
#include <vector>

namespace betatron::beam {

struct thermal_parameters {
  double k = 0;        // wave number of the focusing without charge [1/m], > 0
  double kT = 0;       // mean square of px of the core, > 0 (relative to p0)
  double kT_halo = 0;  // that of the halo, > 0; not used without a halo
  double halo = 0;     // fraction of the particles in the halo, 0 <= halo < 1
};

/// The radial profile of a beam in equilibrium.
class thermal_profile {
 public:
  /// intensity is K in the equation above [m], >= 0. Throws std::invalid_argument naming the
  /// parameter, its value and the allowed range, and std::runtime_error where the equation has no
  /// solution in double precision (a core of more than some hundred Debye lengths).
  thermal_profile(const thermal_parameters& parameters, double intensity, double tolerance = 1e-10);

  /// The radius [m] inside which the part u, 0 <= u <= 1, of a population (0: core, 1: halo) is.
  double radius(std::size_t population, double u) const;

  /// Density in space [1/m^3], of integral 1 over both populations.
  double density(double r) const;

  /// Density of a population at the centre, A_i [1/m^3].
  double central_density(std::size_t population) const { return central_[population]; }

  /// Potential (k^2 r^2/2 + psi) of H.
  double potential(double r) const;

  /// Part of the focusing at the centre that the field of the beam leaves over, delta: 1 without
  /// charge.
  double focusing_left() const { return delta_; }

  const thermal_parameters& parameters() const { return parameters_; }
  double sigma_position() const { return sigma_position_; }  // rms x = y = zeta [m]
  double sigma_momentum() const { return sigma_momentum_; }  // rms px = py = p_zeta

  /// Radius beyond which there is nobody, to double precision [m].
  double edge() const { return rho_.back() * length_; }

 private:
  thermal_parameters parameters_;
  double length_ = 0;  // of rho = 1 [m]
  double delta_ = 1;
  double sigma_position_ = 0, sigma_momentum_ = 0;
  std::array<double, 2> central_{};

  // at the nodes of the integration
  std::vector<double> rho_, v_, v_slope_;
  std::array<std::vector<double>, 2> inside_, inside_slope_;  // part of a population inside; d/drho
};

}  // namespace betatron::beam
