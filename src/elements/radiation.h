// radiation.h: what a particle loses by incoherent synchrotron radiation.
//
// Between two places of its orbit (`radiation_mark` and `radiation_loss`), a length L of the reference orbit apart, the
// turn of the momentum against the turn of the frame (by -h L about y) tells the field, whichever magnet it is of:
//   f_y = (px_1 - px_0)/L - h pz,   f_x = -(py_1 - py_0)/L,   kappa = f_across/((1 + h x) P),   dl = (1 + h x) L P/pz
// with momenta over p0; kappa is the curvature of the orbit, dl its length. An undulator that is averaged over its
// period adds the mean square of the curvature of the wiggle. The mean and the variance of what gamma loses are
//   (2/3) r_c gamma (beta gamma)^3 kappa^2 dl g(chi),      55/(24 sqrt 3) r_c lambda_c gamma^4 (beta gamma)^3 kappa^3 dl h(chi)
//   g = 1 - (55 sqrt(3)/16) chi + 48 chi^2,     h = 1 - (448 sqrt(3)/55) chi + (777/4) chi^2,     chi = (beta gamma)^2 kappa lambda_c
// up to the wanted order in chi; r_c = q^2/(4 pi eps0 m c^2) is the classical radius and lambda_c = hbar/(m c) the
// reduced Compton wavelength of the species. g and h follow from the moments of the quantum spectrum
//   dW/du ~ (1 + u)^-2 (int_y K_5/3 + u^2/(1 + u) K_2/3(y)),   y = 2u/(3 chi),   u = photon energy/what is left.
// The fluctuation is Gaussian: there are many photons in a turn, few in one step. Photons leave along the momentum, in
// the middle of the step: what they take is the mean of the momenta at its ends, in the frame of the last.
// Sources: M. Sands, SLAC-121 (1970), sec. 5; V. B. Berestetskii, E. M. Lifshitz, L. P. Pitaevskii, Quantum
// Electrodynamics (1982), sec. 90 (the spectrum, and g); F. Niel et al., Phys. Rev. E 97 (2018) 043209 (mean and
// diffusion as functions of chi).
#pragma once

#include <cstdint>
#include <numbers>

#include "elements/phase_space.h"
#include "elements/spin.h"
#include "numerics/constants.h"

namespace betatron::elements {

/// How synchrotron radiation is modelled.
struct radiation_model {
  bool quantum = false;    ///< with fluctuations, else the mean loss only
  int order = 1;           ///< terms of g and h: 1, 2 or 3
  bool reference = false;  ///< the reference particle radiates too: coordinates follow its momentum
  std::uint64_t seed = 1;  ///< of the fluctuations
};

/// Kinetic momenta at the start of a step.
template <class T>
struct kinetic_momenta {
  T px, py;
};

/// Starts a step. half_ks: of the solenoid in which the step lies, whose momenta are canonical.
template <class R>
struct radiation_mark {
  R half_ks;

  template <class T>
  BETATRON_INLINE kinetic_momenta<T> operator()(const phase_space<T>& z) const {
    return {z.px + z.y * half_ks, z.py - z.x * half_ks};
  }
};

/// Ends it. wiggle: mean square of the field of an undulator over the rigidity, whose mean cube is `cube` times the
/// power 3/2 of it. The others are constants of the species, the model and the reference particle.
template <class R>
struct radiation_loss {
  R length, curvature, half_ks, wiggle, cube;
  R mean, variance;  // of the loss of gamma: (2/3) r_c and 55/(24 sqrt 3) r_c lambda_c
  R compton;         // lambda_c
  R g1, g2, h1, h2;  // coefficients of chi, chi^2
  R gamma, beta_gamma, inv_beta, inv_bg2;
  R quantum;  // flag
  R number;   // of the step in its element

  static constexpr beam::loss_reason loss = beam::loss_reason::outside_domain;

  /// `noise`: normal, of variance 1. False for a particle that would be left without a momentum.
  template <class T>
  BETATRON_INLINE mask_of<T> push(phase_space<T>& z, energy<T>& e, const kinetic_momenta<T>& before,
                                  const T& noise) const {
    using F = scalar_of<T>;
    const T p = F(1) / e.inv_p;
    const T kx = z.px + z.y * half_ks, ky = z.py - z.x * half_ks;
    const T px = (before.px + kx) * F(0.5), py = (before.py + ky) * F(0.5);
    const T pz2 = p * p - px * px - py * py, least = p * p * F(1.0 / 16);
    const T inv_pz = rsqrt(select(pz2 > least, pz2, least)), pz = F(1) / inv_pz;

    const R inv_length = R(1) / length;
    const T fx = (before.py - ky) * inv_length, fy = (kx - before.px) * inv_length - pz * curvature;
    const T along = (fx * px + fy * py) * e.inv_p;
    const T stretch = z.x * curvature + F(1);
    const T inv = e.inv_p / stretch;
    const T square = (fx * fx + fy * fy - along * along + wiggle) * (inv * inv);  // of kappa
    const T kappa = root_above_zero(square);
    const T path = abs(stretch * p * inv_pz * length);

    const T bg = p * beta_gamma, g = T(gamma) - z.pt * beta_gamma;
    const T chi = bg * bg * kappa * compton;
    const T rate = bg * bg * bg * g * kappa * kappa * path;
    T lost = rate * mean * ((chi * g2 + g1) * chi + F(1));
    const auto some_left = g - lost > T(F(1));
    const T half =
        lost *
        F(0.5);  // in the same field goes with gamma and beta gamma: as they are in the middle
    lost = lost * (F(1) - half / g) * (F(1) - half * g / (bg * bg));
    if (!(quantum == R(0))) {  // R may be a dual number
      const T width = rate * g * g * g * kappa * (variance * cube) * ((chi * h2 + h1) * chi + F(1));
      lost = lost + noise * root_above_zero(width);
    }
    const T pt = z.pt + lost * (R(1) / beta_gamma);
    const T p2 = pt * (pt - inv_beta * F(2)) + F(1);
    const auto inside = some_left & (p2 > T(F(0))) & (g - lost > T(F(1)));
    // the part of the momentum that is lost, without the difference of two nearly equal numbers
    const T change = (pt - z.pt) * (inv_beta * F(2) - pt - z.pt);
    const T part = change / ((p + sqrt(select(inside, p2, T(F(1))))) * p);
    z.px = z.px - part * (px + pz * (curvature * length * R(0.5)));
    z.py = z.py - part * py;
    z.pt = pt;
    e = energy_of(select(inside, pt, T(F(0))), inv_beta, inv_bg2);
    return inside;
  }

 private:
  /// sqrt(x), and 0 where x is not above 0: with the derivative 0 there, where nothing is radiated.
  template <class T>
  static BETATRON_INLINE T root_above_zero(const T& x) {
    using F = scalar_of<T>;
    const auto above = x > T(F(0));
    return select(above, sqrt(select(above, x, T(F(1)))), T(F(0)));
  }
};

namespace detail {

inline double classical_radius(const beam::species& particle) {
  namespace constants = numerics::constants;
  return constants::classical_electron_radius * particle.charge * particle.charge *
         constants::electron_mass_eV / particle.mass_eV;
}

inline double compton_wavelength(const beam::species& particle) {
  namespace constants = numerics::constants;
  return constants::planck_reduced * constants::speed_of_light /
         (particle.mass_eV * constants::elementary_charge);
}

}  // namespace detail

/// The end of a step over `length` (not 0) in a frame of this curvature. wiggle and cube: see radiation_loss.
inline radiation_loss<double> make_radiation_loss(const radiation_model& model,
                                                  const beam::reference& ref, double length,
                                                  double curvature, double half_ks, double wiggle,
                                                  double cube) {
  const double radius = detail::classical_radius(ref.particle);
  const double compton = detail::compton_wavelength(ref.particle);
  const double root = std::numbers::sqrt3;
  radiation_loss<double> r{};
  r.length = length;
  r.curvature = curvature;
  r.half_ks = half_ks;
  r.wiggle = wiggle;
  r.cube = cube;
  r.mean = 2 * radius / 3;
  r.variance = 55 / (24 * root) * radius * compton;
  r.compton = compton;
  if (model.order > 1) {
    r.g1 = -55 * root / 16;
    r.h1 = -448 * root / 55;
  }
  if (model.order > 2) {
    r.g2 = 48;
    r.h2 = 777.0 / 4;
  }
  r.gamma = ref.gamma();
  r.beta_gamma = ref.beta_gamma();
  r.inv_beta = ref.inverse_beta();
  r.inv_bg2 = ref.inverse_beta_gamma_squared();
  r.quantum = model.quantum ? 1 : 0;
  return r;
}

/// What the reference particle loses of gamma in a step that it makes with this gamma; 0 where it goes straight.
inline double reference_loss(const radiation_loss<double>& r, double gamma) {
  const double bg2 = (gamma - 1) * (gamma + 1);
  const double square = r.curvature * r.curvature + r.wiggle;
  const double chi = bg2 * std::sqrt(square) * r.compton;
  return r.mean * bg2 * std::sqrt(bg2) * gamma * square * std::fabs(r.length) *
         (1 + chi * (r.g1 + chi * r.g2));
}

/// Coordinates relative to a reference particle that has lost `shift` of gamma.
template <class R>
struct reference_change {
  R shift, bg_in, bg_out;

  static constexpr unsigned writes = column::px | column::py | column::pt;
  static constexpr spin_effect spin = spin_effect::none;
  static constexpr bool changes_energy = true;

  template <class T>
  BETATRON_INLINE void push(phase_space<T>& z, const energy<T>&) const {
    z.pt = (z.pt * bg_in - shift) * (R(1) / bg_out);
    z.px = z.px * (bg_in / bg_out);
    z.py = z.py * (bg_in / bg_out);
  }
  reference_change inverse() const { return {-shift, bg_out, bg_in}; }
};

}  // namespace betatron::elements
