// soft_magnets.h: solenoid and quadrupole whose strength varies along the axis as g(z), see field_profile.h.
//
//   solenoid    H = -P + ((px + K y)^2 + (py - K x)^2)/(2P) - pt/beta0       K = g(z) ks/2
//   quadrupole  H = -P + (px^2 + py^2)/(2P) + g(z) k (x^2 - y^2)/2 - pt/beta0
//
// or with the square roots of solenoid.h and quadrupole.h in the exact model. The field is of first order in the
// distance from the axis. Each step is the exact map of the hard-edged element with the strength averaged over
// that step, which is symplectic and of order 2 (the average is the same from both ends), and is composed to
// orders 4 and 6; the integral of the strength, with it the rotation by a solenoid, is exact at any number of
// steps. Momenta are canonical, so that a field that ends abruptly includes its fringe.
// Sources: E. Forest, Beam Dynamics (1998), sec. 12; S. Blanes et al., Phys. Rep. 470 (2009) 151, for the average
// (the first term of the Magnus series).
#pragma once

#include "elements/element.h"
#include "elements/field_profile.h"
#include "elements/quadrupole.h"
#include "elements/solenoid.h"

namespace betatron::elements {

namespace detail {

/// Calls step(l, average) for each step: its length and the average of g over it. Where it radiates, stages of
/// negative length make no sense: steps of order 2 then take the place of the stages.
template <class Step>
void for_each_average(const field_profile& profile, double length, const slice& s, Step&& step) {
  double z = length * s.index * s.fraction;
  double before = profile.at(z).integral;
  const bool radiates = s.radiation != nullptr;
  const int stages = s.order == 2 ? 1 : s.order == 4 ? 3 : 7;
  compose(length * s.fraction, radiates ? 2 : s.order, radiates ? s.steps * stages : s.steps,
          [&](double l) {
            z += l;
            const double after = profile.at(z).integral;
            step(l, (after - before) / l);
            before = after;
          });
}

}  // namespace detail

struct soft_solenoid {
  double length = 0;
  double ks = 0;
  double field = 0;
  std::vector<double> cosine{};
  std::vector<double> sine{};

  static constexpr std::string_view kind = "SoftSolenoid";
  static constexpr std::string_view doc =
      "A solenoid with the field g(z) on its axis, a Fourier series over its length: g = cosine[0]/2 + sum over n "
      "of cosine[n] cos(2 pi n u/length) + sine[n] sin(2 pi n u/length), u from the middle. Without a series: a thin "
      "coil of diameter length/3. Integrated by `order` and `steps`.";
  static constexpr auto parameters = std::tuple{
      parameter{"length", &soft_solenoid::length, "m", "length of the field", range::positive,
                required},
      parameter{"ks", &soft_solenoid::ks, "1/m",
                "Bz over the signed rigidity where g = 1, the same for any species"},
      parameter{"field", &soft_solenoid::field, "T",
                "Bz where g = 1, added to ks; acts with the sign of the charge"},
      parameter{"cosine", &soft_solenoid::cosine, "1", "cosine coefficients of g, n = 0, 1, ..."},
      parameter{"sine", &soft_solenoid::sine, "1",
                "sine coefficients of g; the first has no effect"},
  };
};

template <class Emit>
void emit_maps(const soft_solenoid& m, const slice& s, Emit&& emit) {
  double ks = m.ks;
  if (m.field != 0) ks += m.field / s.ref.rigidity();
  const field_profile profile(m.cosine, m.sine, profiles::thin_shell_solenoid, m.length);
  detail::for_each_average(profile, m.length, s,
                           [&](double l, double g) { emit_solenoid(l, ks * g, s, emit); });
}

struct soft_quadrupole {
  double length = 0;
  double k1 = 0;
  double gradient = 0;
  std::vector<double> cosine{};
  std::vector<double> sine{};

  static constexpr std::string_view kind = "SoftQuadrupole";
  static constexpr std::string_view doc =
      "A quadrupole with the gradient g(z) along its axis, a Fourier series over its length: g = cosine[0]/2 + sum "
      "over n of cosine[n] cos(2 pi n u/length) + sine[n] sin(2 pi n u/length), u from the middle. Without a series: "
      "tanh-shaped fringes. Integrated by `order` and `steps`.";
  static constexpr auto parameters = std::tuple{
      parameter{"length", &soft_quadrupole::length, "m", "length of the field", range::positive,
                required},
      parameter{"k1", &soft_quadrupole::k1, "1/m^2",
                "gradient over the signed rigidity where g = 1, the same for any species"},
      parameter{"gradient", &soft_quadrupole::gradient, "T/m",
                "dB_y/dx where g = 1, added to k1; acts with the sign of the charge"},
      parameter{"cosine", &soft_quadrupole::cosine, "1", "cosine coefficients of g, n = 0, 1, ..."},
      parameter{"sine", &soft_quadrupole::sine, "1",
                "sine coefficients of g; the first has no effect"},
  };
};

template <class Emit>
void emit_maps(const soft_quadrupole& q, const slice& s, Emit&& emit) {
  double k = q.k1;
  if (q.gradient != 0) k += q.gradient / s.ref.rigidity();
  const double inv_beta = s.ref.inverse_beta();
  const field_profile profile(q.cosine, q.sine, profiles::tanh_quadrupole, q.length);
  const bool exact = s.model == model::exact;
  double pending = 0;  // length of the remainder not emitted yet
  detail::for_each_average(profile, q.length, s, [&](double l, double g) {
    if (exact) emit(exact_remainder<double>{pending + l / 2, inv_beta});
    radiate(l, {}, s, emit, [&] { emit(quadrupole_paraxial<double>::make(l, k * g, inv_beta)); });
    pending = l / 2;
  });
  if (exact) emit(exact_remainder<double>{pending, inv_beta});
}

}  // namespace betatron::elements
