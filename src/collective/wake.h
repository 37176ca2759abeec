// wake.h: wakefields: what a charge leaves behind in the surroundings, and what later charges feel of it.
//
// A wake function W(t) belongs to a point charge and a witness that comes the distance t > 0 later (t = c x delay [m],
// as the coordinate t; nothing is felt ahead: W(t < 0) = 0). A beam with the charges Q_j gives a particle of charge q
//
//   longitudinal   dE     = - |q| sum_j |Q_j| W(t - t_j)                [V/C]     W > 0: the witness loses energy
//   dipole         dp_x c = + |q| sum_j |Q_j| x_j W(t - t_j)            [V/C/m]   W > 0: deflected to the side of the
//   quadrupole     dp_x c = + |q| x sum_j |Q_j| W(t - t_j)              [V/C/m]   source, or to its own side
//
// and the same in y. A charge feels half of its own longitudinal W(0+) (the fundamental theorem of beam loading): W is
// integrated with a density that is linear between nodes, so that this comes out by itself, and so that W may vary
// quickly, or as sqrt(t), within one cell.
//
// Over many turns, resonators carry their exact state from passage to passage; of other wakes the charges of the last
// `memory` turns are kept, but not for fits to short distances, which say nothing of the next turn.
//
// Sources: A. W. Chao, Physics of collective beam instabilities in high energy accelerators (1993), chapter 2, eq. 2.84
// and 2.88 (resonators); K. Bane, M. Sands, SLAC-PUB-95-7074 (1995), eq. 9 (resistive wall), and their section on the
// conductivity for alternating current, as in K. Bane, G. Stupakov, SLAC-PUB-10707 (2004); K. Bane, SLAC-PUB-9663
// (2003), eqs. 2-5, and K. Bane et al., SLAC-PUB-7862 (1998) (periodic structures); K. Yokoya, Part. Accel. 41 (1993)
// 221 (form factors of plates).
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "collective/line_density.h"
#include "lattice/line.h"
#include "tracking/effect.h"

namespace betatron::collective {

enum class wake_kind : std::uint8_t {
  longitudinal,
  dipole_x,
  dipole_y,
  quadrupole_x,
  quadrupole_y
};

/// "longitudinal", "dipole_x", ... Throws std::invalid_argument listing the names.
wake_kind wake_kind_named(std::string_view name);

/// The damped oscillator behind a resonator: every W of it is a f1 + b f2 with
///   f1(t) = exp(-alpha t) cos(w t),   f2(t) = exp(-alpha t) sin(w t)/w,   w^2 = (omega_r/c)^2 - alpha^2
/// which holds for w^2 < 0 (quality below 1/2) too. Lengths in m.
struct oscillator {
  double alpha = 0, square = 0;  ///< 1/m, 1/m^2

  std::array<double, 2> basis(double t) const;  ///< f1, f2 at t >= 0
  std::array<double, 2> later(const std::array<double, 2>& ab,
                              double t) const;  ///< (a, b) as seen from t later
};

/// One wake function.
struct wake_term {
  wake_kind kind = wake_kind::longitudinal;
  std::function<double(double)> at{};  ///< W(t), t >= 0 in m
  bool per_metre = false;              ///< W is per metre of path: [V/C/m], [V/C/m^2]

  /// For fits: the name, as in messages, and the distance up to which they hold [m].
  std::string fit{};
  double reach = std::numeric_limits<double>::infinity();

  /// Points between a and b that integration should not cross, for W that is not smooth in sqrt(t) from a to b.
  std::function<void(double a, double b, std::vector<double>&)> breaks{};

  /// For resonators: the oscillator, and W = ab[0] f1 + ab[1] f2.
  bool resonant = false;
  collective::oscillator oscillator{};
  std::array<double, 2> ab{};
};

/// A resonator of shunt impedance R [Ohm; Ohm/m for dipole and quadrupole], quality and frequency [Hz]:
///   longitudinal  Z(omega) = R/(1 + i Q (omega_r/omega - omega/omega_r))
///   transverse    Z(omega) = (omega_r/omega) R/(1 + i Q (omega_r/omega - omega/omega_r))
/// Throws std::invalid_argument naming the value unless quality and frequency are > 0 and all are finite.
wake_term resonator(wake_kind kind, double shunt_impedance, double quality, double frequency);

/// Short-range and long-range wakes, per metre, of a pipe of this radius [m] and conductivity [1/(Ohm m)], longitudinal,
/// dipole_x and dipole_y. For direct current (relaxation_time = 0):
///   W(s) = (4 Z0 c/(pi a^2)) [ exp(-s/s0) cos(sqrt(3) s/s0)/3 - (sqrt(2)/pi) int_0^inf x^2 exp(-x^2 s/s0)/(x^6 + 8) dx ],
///   W_dipole(s) = (2/a^2) int_0^s W,            s0 = (2 a^2/(Z0 conductivity))^(1/3).
/// With a relaxation time tau of the electrons [s] the conductivity is sigma/(1 - i omega tau) (Drude). In p = -i omega s0/c
/// and G = c tau/s0 the impedance per metre is
///   Z = (Z0 s0/(pi a^2))/(p + 2 sqrt(2)/S),   S = sqrt(p (1 + G p)),
/// whose inverse Laplace transform has the one pair of poles p1 with p1 S = -2 sqrt(2), roots of G p^4 + p^3 = 8, and the
/// cut from -1/G to 0:
///   W(s) = (Z0 c/(pi a^2)) [ 2 Re (2 (1 + G p1)/(3 + 4 G p1)) exp(p1 s/s0)
///                            - (2 sqrt(2)/pi) int_0^{1/G} sqrt(x (1 - G x)) exp(-x s/s0)/(8 + x^3 (1 - G x)) dx ].
/// `flat`: between two plates at y = +-radius, with the form factors of Yokoya (longitudinal 1, dipole pi^2/24 and
/// pi^2/12, quadrupole -+pi^2/24), which hold for s >> s0.
std::vector<wake_term> resistive_wall(double radius, double conductivity, bool flat,
                                      double relaxation_time);

/// Short-range wakes, per metre, of a periodic structure of irises of radius a, gaps g and period p [m]:
///   W(s) = (Z0 c/(pi a^2)) exp(-sqrt(s/s1)),                                   s1 = 0.41 a^1.8 g^1.6/p^2.4
///   W_dipole(s) = (4 Z0 c s2/(pi a^4)) [1 - (1 + sqrt(s/s2)) exp(-sqrt(s/s2))], s2 = 0.169 a^1.79 g^0.38/p^1.17
/// a fit for 0.34 <= a/p <= 0.69, 0.54 <= g/p <= 0.89 and s/p <= 0.15. Far beyond it W falls too fast, and W_dipole does
/// not fall at all.
std::vector<wake_term> periodic_structure(double iris_radius, double gap, double period);

/// A table of W at t[0] = 0 < t[1] < ... [m], linear in between and 0 beyond. Throws std::invalid_argument naming the
/// entry that is wrong.
wake_term wake_table(wake_kind kind, std::vector<double> t, std::vector<double> values,
                     bool per_metre);

struct wake_options {
  std::string name = "Wake";
  std::vector<wake_term> terms{};
  line_options density{};
  double length =
      0;  ///< of the structure that a thin element stands for [m]; multiplies what is per metre. 0: the
          ///< length of the element
  int memory = 0;  ///< turns whose fields are kept; 0: those of the same passage only
  int order = 1;
  double spacing = 0;
  std::vector<std::uint8_t> at{};  ///< one flag per element; empty: all elements with length
};

/// The effect. Wakes that are not per metre are those of one element: with several kicks in it, each gives its part. It
/// has a remark where the beam was longer than a fit reaches. Throws std::invalid_argument naming what is out of range.
tracking::effect wake(const wake_options& o);

/// int_{-1}^{1} (1 - |u|) W((m + u) step) du for m = 0 ... n - 1: what a linear density of node charges gives.
std::vector<double> wake_kernel(const wake_term& term, double step, std::size_t n);

/// The derivative of these by the step: with C_j = int_0^1 (j + f) W((j + f) step) df, (C_m - C_{m-1} - kernel_m)/step (from
/// t dW/dt by parts).
std::vector<double> wake_kernel_slope(const wake_term& term, double step,
                                      std::span<const double> kernel);

/// Energy per charge squared that a bunch of this density loses to a longitudinal wake [V/C].
double loss_factor(const wake_term& term, const line_density& d);

}  // namespace betatron::collective
