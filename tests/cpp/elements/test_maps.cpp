// Properties of every map in elements/kinds.h: what it declares to write, its inverse, that packs and floats do
// what doubles do, symplecticity, and that it solves Hamilton's equations of the Hamiltonian in its header.
#include "elements/kinds.h"

#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <complex>
#include <cstdint>
#include <limits>
#include <vector>

#include "beam/reference.h"
#include "numerics/dual.h"
#include "numerics/random.h"

namespace {

using namespace betatron::elements;
namespace beam = betatron::beam;
using betatron::numerics::dual;
using betatron::numerics::uniform;

using tangent = dual<double, 6>;
using matrix = std::array<double, 36>;
using vector = std::array<double, 6>;

constexpr double eps = std::numeric_limits<double>::epsilon();

struct particle_energy {
  double inv_beta, inv_bg2, bg;
};

/// beta from 0.05 to 1 - 1e-12
std::vector<particle_energy> energies() {
  std::vector<particle_energy> r;
  for (double one_minus_beta : {0.95, 0.5, 1e-2, 1e-6, 1e-12}) {
    const double beta = 1 - one_minus_beta;
    const double bg = beta / std::sqrt(one_minus_beta * (1 + beta));
    const auto ref = beam::reference::from_beta_gamma(beam::make_species("electron"), bg);
    r.push_back({ref.inverse_beta(), ref.inverse_beta_gamma_squared(), bg});
  }
  return r;
}

/// Lengths of both signs and strengths from 0 on both sides to a phase of about 2.5 over a metre.
constexpr double lengths[] = {1.0, -0.7, 0.05, 0};
constexpr double strengths[] = {0, 1e-300, -1e-300, 1e-9, -1e-9, 0.3, -0.3, 6, -6};

/// Coordinates up to 1 cm and 10 mrad; the energy within 1 % in momentum.
phase_space<double> particle(std::uint64_t i, double inv_beta, double size = 1e-2) {
  auto draw = [&](std::uint64_t stream) { return size * (2 * uniform(5, stream, i) - 1); };
  return {draw(0), draw(1), draw(2), draw(3), draw(4), draw(5) / inv_beta};
}

/// Instances of a map at this energy. A map that is new here does not compile until it gets some.
template <template <class> class Map>
std::vector<Map<double>> samples(const particle_energy&);

template <template <class> class Map>
std::vector<Map<double>> of_length(const particle_energy& e) {
  std::vector<Map<double>> r;
  for (double l : lengths) r.push_back({l, e.inv_beta});
  return r;
}
template <>
std::vector<drift_paraxial<double>> samples<drift_paraxial>(const particle_energy& e) {
  return of_length<drift_paraxial>(e);
}
template <>
std::vector<drift_exact<double>> samples<drift_exact>(const particle_energy& e) {
  return of_length<drift_exact>(e);
}
template <>
std::vector<exact_remainder<double>> samples<exact_remainder>(const particle_energy& e) {
  return of_length<exact_remainder>(e);
}
template <>
std::vector<quadrupole_paraxial<double>> samples<quadrupole_paraxial>(const particle_energy& e) {
  std::vector<quadrupole_paraxial<double>> r;
  for (double l : lengths) {
    for (double k : strengths) r.push_back(quadrupole_paraxial<double>::make(l, k, e.inv_beta));
  }
  return r;
}
template <>
std::vector<bend_paraxial<double>> samples<bend_paraxial>(const particle_energy& e) {
  std::vector<bend_paraxial<double>> r;
  for (double l : lengths) {
    for (double h : {0.0, 1e-300, 1e-9, -1e-9, 0.8, -0.4}) {
      for (double k : strengths) r.push_back(bend_paraxial<double>::make(l, h, k, e.inv_beta));
    }
  }
  r.push_back(bend_paraxial<double>::make(1, 0.5, -0.25, e.inv_beta));  // h^2 + k1 = 0
  return r;
}
template <>
std::vector<bend_exact<double>> samples<bend_exact>(const particle_energy& e) {
  std::vector<bend_exact<double>> r;
  for (double l : lengths) {
    for (double h : {0.0, 1e-300, 1e-9, -1e-9, 0.8, -0.4, 1.0}) {
      r.push_back(bend_exact<double>::make(l, h, e.inv_beta));
    }
  }
  return r;
}
template <>
std::vector<curved_multipole_kick<double>> samples<curved_multipole_kick>(const particle_energy&) {
  std::vector<curved_multipole_kick<double>> r;
  for (double h : {0.5, -1.0, 0.0}) {
    for (std::size_t n = 0; n <= 4; ++n) {
      double k[5] = {};
      for (std::size_t i = 0; i <= n; ++i)
        k[i] = std::pow(5.0, static_cast<double>(i)) * (i % 2 ? 0.3 : -0.2);
      for (bool skew : {false, true}) {
        r.push_back(curved_multipole_kick<double>::make(k, n + 1, skew, h).scaled(0.3));
      }
    }
  }
  return r;
}
template <>
std::vector<dipole_edge_kick<double>> samples<dipole_edge_kick>(const particle_energy&) {
  std::vector<dipole_edge_kick<double>> r;
  for (double h : {0.5, -0.5, 0.0}) {
    for (double angle : {0.3, -0.2, 0.0}) {
      r.push_back(dipole_edge_kick<double>::make(h, angle, 0.5, 0.02));
    }
  }
  return r;
}
template <>
std::vector<multipole_kick<double>> samples<multipole_kick>(const particle_energy&) {
  std::vector<multipole_kick<double>> r;
  for (int n = 0; n <= max_multipole; ++n) {
    std::vector<double> normal(static_cast<std::size_t>(n) + 1), skew = normal;
    for (std::size_t i = 0; i < normal.size(); ++i) {
      const double scale = std::pow(10.0, static_cast<double>(i)) / 10;
      normal[i] = scale * (2 * uniform(6, 0, i) - 1);
      skew[i] = scale * (2 * uniform(6, 1, i) - 1);
    }
    r.push_back(detail::scaled_kick({normal.data(), normal.size(), skew.data(), skew.size()}, 1));
  }
  return r;
}
template <>
std::vector<solenoid_paraxial<double>> samples<solenoid_paraxial>(const particle_energy& e) {
  std::vector<solenoid_paraxial<double>> r;
  for (double l : lengths) {
    for (double ks : strengths) r.push_back(solenoid_paraxial<double>::make(l, ks, e.inv_beta));
  }
  return r;
}
template <>
std::vector<solenoid_exact<double>> samples<solenoid_exact>(const particle_energy& e) {
  std::vector<solenoid_exact<double>> r;
  for (const auto& m : samples<solenoid_paraxial>(e)) {
    r.push_back({m.length, m.half_ks, m.inv_beta, m.reach});
  }
  return r;
}
template <>
std::vector<dipole_kick<double>> samples<dipole_kick>(const particle_energy&) {
  return {{1e-3, -2e-3}, {0, 0}, {0.1, 0}};
}
template <>
std::vector<rf_kick<double>> samples<rf_kick>(const particle_energy& e) {
  std::vector<rf_kick<double>> r;
  for (double phase : {0.0, -1.5707963267948966, 0.7, 3.1}) {
    for (double part : {0.3, -0.01, 0.0}) {  // of the kinetic energy
      for (double wave_number : {0.0, 27.0, -60.0}) {
        const double gamma = e.bg * e.inv_beta, kinetic = e.bg * e.bg / (gamma + 1);
        const double gain = part * kinetic, after = kinetic + gain * std::cos(phase);
        r.push_back({gain, wave_number, std::cos(phase), std::sin(phase), e.bg,
                     std::sqrt(after * (after + 2))});
      }
    }
  }
  return r;
}
/// Maps of one slice of an element at this energy.
template <template <class> class Map, class Kind>
void collect(const Kind& kind, const particle_energy& e, model m, std::vector<Map<double>>& found) {
  const auto ref = beam::reference::from_beta_gamma(beam::make_species("electron"), e.bg);
  const slice whole{ref, m, 2, 2, 0, 1, 1};
  emit_maps(kind, whole, [&]<class Found>(const Found& map) {
    if constexpr (std::is_same_v<Found, Map<double>>) found.push_back(map);
  });
}
template <>
std::vector<rf_field_kick<double>> samples<rf_field_kick>(const particle_energy& e) {
  std::vector<rf_field_kick<double>> r;
  const double kinetic_eV = 510998.95 * (std::sqrt(1 + e.bg * e.bg) - 1);
  for (double part : {0.2, -0.1, 0.0}) {  // of the kinetic energy
    rf_field_map cavity{0.7, part * kinetic_eV, 1e9, 0.4, {1.0, -0.6}, {0.0, 0.3}};
    collect(cavity, e, model::paraxial, r);
  }
  const std::size_t forward = r.size();
  for (std::size_t i = 0; i < forward; ++i) r.push_back(r[i].inverse());
  return r;
}
std::vector<uniform_acceleration> accelerators(const particle_energy& e) {
  const double kinetic_eV = 510998.95 * (std::sqrt(1 + e.bg * e.bg) - 1), field = e.bg * 1.7e-3;
  return {{1.0, 0.5 * kinetic_eV, 0},
          {0.7, -0.3 * kinetic_eV, field},
          {1.0, 0, field},
          {0.2, 10 * kinetic_eV, -field},
          {1.0, 0, 0}};
}
template <>
std::vector<uniform_acceleration_paraxial<double>> samples<uniform_acceleration_paraxial>(
    const particle_energy& e) {
  std::vector<uniform_acceleration_paraxial<double>> r;
  for (const auto& a : accelerators(e)) collect(a, e, model::paraxial, r);
  return r;
}
template <>
std::vector<uniform_acceleration_exact<double>> samples<uniform_acceleration_exact>(
    const particle_energy& e) {
  std::vector<uniform_acceleration_exact<double>> r;
  for (const auto& a : accelerators(e)) collect(a, e, model::exact, r);
  return r;
}
std::vector<undulator> undulators(const particle_energy& e) {
  return {{1.0, 0.3, 0.1 * e.bg, 0, 0},
          {0.7, 0.1, 0.05 * e.bg, 0, 0.5},
          {1.0, 0.3, 0.5 * e.bg, 0, 1},
          {1.0, 0.3, 0, 0, 0}};
}
template <>
std::vector<undulator_paraxial<double>> samples<undulator_paraxial>(const particle_energy& e) {
  std::vector<undulator_paraxial<double>> r;
  for (const auto& u : undulators(e)) collect(u, e, model::paraxial, r);
  return r;
}
template <>
std::vector<undulator_exact<double>> samples<undulator_exact>(const particle_energy& e) {
  std::vector<undulator_exact<double>> r;
  for (const auto& u : undulators(e)) collect(u, e, model::exact, r);
  return r;
}
std::vector<plasma_stage> plasma_stages(const particle_energy& e) {
  const double kinetic_eV = 510998.95 * (std::sqrt(1 + e.bg * e.bg) - 1);
  const double density = e.bg / (2 * std::numbers::pi * 2.8179403205e-15);  // K/(beta gamma) = 1
  plasma_stage ions{.length = 0.5, .density = density, .acceleration = kinetic_eV};
  ions.slope = 30 * kinetic_eV;
  plasma_stage wave{.length = 0.7, .density = density, .acceleration = 0.5 * kinetic_eV};
  wave.wake = "linear";
  wave.phase = 0.6;
  wave.width = std::sqrt(kinetic_eV / 510998.95 / (std::sqrt(2 * e.bg) * e.bg));  // the same K
  plasma_stage plane = wave;
  plane.width = 0;
  plane.slip = 0.01;
  return {ions, wave, plane};
}
template <>
std::vector<blowout_kick<double>> samples<blowout_kick>(const particle_energy& e) {
  std::vector<blowout_kick<double>> r;
  for (const auto& p : plasma_stages(e)) collect(p, e, model::paraxial, r);
  return r;
}
template <>
std::vector<linear_wake_kick<double>> samples<linear_wake_kick>(const particle_energy& e) {
  std::vector<linear_wake_kick<double>> r;
  for (const auto& p : plasma_stages(e)) collect(p, e, model::paraxial, r);
  return r;
}
/// Place of the monomial of these ascending indices in a row of a Taylor map.
std::size_t monomial(const std::vector<int>& indices) {
  std::size_t at = 0;
  const auto size = static_cast<int>(indices.size());
  for (int degree = 0; degree < size; ++degree) at += degree == 0 ? 1 : degree == 1 ? 6 : 21;
  auto count = [&](auto&& self, int first, int place) -> bool {  // true where it is found
    if (place == size) return true;
    for (int i = first; i < 6; ++i) {
      if (i == indices[static_cast<std::size_t>(place)]) return self(self, i, place + 1);
      // all that begin with i
      std::size_t rest = 1;
      for (int n = 1; n <= size - place - 1; ++n) {
        rest = rest * static_cast<std::size_t>(6 - i + n - 1) / static_cast<std::size_t>(n);
      }
      at += rest;
    }
    return false;
  };
  count(count, 0, 0);
  return at;
}

/// A kick of second or third order from V = k (x^3/6 - x y^2/2) + q x t^2/2 (+ k (x^4 - 6 x^2 y^2 + y^4)/24), and drifts
/// behind it: symplectic though it is cut.
template <template <class> class Map, int degree>
std::vector<Map<double>> taylor_samples() {
  constexpr std::size_t n = taylor_terms(degree);
  std::vector<Map<double>> r;
  for (double k : {3.0, -1.0, 0.0}) {
    Map<double> m{};
    auto at = [&](int row, std::vector<int> indices) -> double& {
      return m.c[static_cast<std::size_t>(row) * n + monomial(indices)];
    };
    for (int i = 0; i < 6; ++i) at(i, {i}) = 1;
    at(1, {0, 0}) = -k / 2;
    at(1, {2, 2}) = k / 2;
    at(1, {4, 4}) = -0.5;
    at(3, {0, 2}) = k;
    at(5, {0, 4}) = -1;
    if constexpr (degree == 3) {
      at(1, {0, 0, 0}) = -k / 6;
      at(1, {0, 2, 2}) = k / 2;
      at(3, {0, 0, 2}) = k / 2;
      at(3, {2, 2, 2}) = -k / 6;
    }
    for (std::size_t q = 0; q < 6; q += 2) {
      for (std::size_t i = 0; i < n; ++i) m.c[q * n + i] += 0.3 * m.c[(q + 1) * n + i];
    }
    m.c[0] = 1e-3;
    m.centre[2] = -1e-3;
    r.push_back(m);
  }
  return r;
}
template <>
std::vector<taylor_second<double>> samples<taylor_second>(const particle_energy&) {
  return taylor_samples<taylor_second, 2>();
}
template <>
std::vector<taylor_third<double>> samples<taylor_third>(const particle_energy&) {
  return taylor_samples<taylor_third, 3>();
}
template <>
std::vector<aperture_filter<double>> samples<aperture_filter>(const particle_energy&) {
  return {{1 / 6e-3, 1 / 4e-3, {}, 0, 0},
          {1 / 6e-3, 1 / 4e-3, {}, 1, 1},
          {1 / 1e-3, 1 / 2e-3, opening_grid<double>::make(4e-3, 5e-3, true), 1, 0}};
}
template <>
std::vector<polygon_filter<double>> samples<polygon_filter>(const particle_energy&) {
  std::vector<polygon_filter<double>> r;
  const slice whole{{}, model::paraxial, 2, 10, 0, 1, 1};
  for (const auto& a :
       {polygon_aperture{.vertices = {6e-3, 1e-3, -5e-3, 8e-3, -4e-3, -7e-3}},
        polygon_aperture{.vertices = {2e-3, 2e-3, -2e-3, 2e-3, -2e-3, -2e-3, 2e-3, -2e-3},
                         .min_radius2 = 4e-6,
                         .action = "absorb",
                         .repeat_x = 5e-3}}) {
    emit_maps(a, whole, [&](const polygon_filter<double>& f) { r.push_back(f); });
  }
  return r;
}
template <>
std::vector<quadrupole_fringe<double>> samples<quadrupole_fringe>(const particle_energy& e) {
  return {{0.5, e.inv_beta}, {-0.5, e.inv_beta}, {20, e.inv_beta}, {0, e.inv_beta}};
}
template <>
std::vector<dipole_fringe<double>> samples<dipole_fringe>(const particle_energy& e) {
  std::vector<dipole_fringe<double>> r;
  for (double h : {0.5, -0.5}) {
    for (double angle : {0.3, -0.2, 0.0}) {
      for (const char* location : {"entry", "exit"}) {
        const dipole_edge edge{.curvature = h,
                               .angle = angle,
                               .fint = 0.5,
                               .hgap = 0.02,
                               .location = location,
                               .fringe_k4 = 0.3,
                               .fringe_k5 = -0.4,
                               .fringe_k6 = 0.2,
                               .fringe_scale = 0.5};
        r.push_back(make_dipole_fringe(edge, e.inv_beta));
      }
    }
  }
  return r;
}
template <>
std::vector<plasma_lens_paraxial<double>> samples<plasma_lens_paraxial>(const particle_energy& e) {
  std::vector<plasma_lens_paraxial<double>> r;
  for (double l : lengths) {
    for (double k : strengths) r.push_back(plasma_lens_paraxial<double>::make(l, k, e.inv_beta));
  }
  return r;
}
template <>
std::vector<tapered_lens_kick<double>> samples<tapered_lens_kick>(const particle_energy&) {
  return {{0.5, 20}, {-3, 5}, {0.5, 0}, {0, 5}};
}
template <>
std::vector<buncher_kick<double>> samples<buncher_kick>(const particle_energy& e) {
  return {{0.2, 0.1 * e.inv_bg2 / (1 + e.inv_bg2)}, {-0.3, -0.1}, {0, 0}};
}
template <>
std::vector<crab_kick<double>> samples<crab_kick>(const particle_energy&) {
  return {{1e-3, 27, 0, 1}, {-2e-3, 60, 0.6, 0.8}, {1e-3, 0, 1, 0}, {0, 27, 0, 1}};
}
template <>
std::vector<thin_dipole_kick<double>> samples<thin_dipole_kick>(const particle_energy& e) {
  return {{0.2, 0.5, e.inv_beta}, {-0.1, 0, e.inv_beta}, {0, 1, e.inv_beta}};
}
template <>
std::vector<nonlinear_lens_kick<double>> samples<nonlinear_lens_kick>(const particle_energy&) {
  return {{1e-4, 1 / 0.02}, {-1e-3, 1 / 0.05}, {0, 1}};
}
template <>
std::vector<face_rotation<double>> samples<face_rotation>(const particle_energy& e) {
  std::vector<face_rotation<double>> r;
  for (const auto& [in, out] : {std::pair{0.0, 0.3}, {0.3, 0.0}, {-0.4, 0.5}, {0.2, 0.2}}) {
    const slice whole{beam::reference::from_beta_gamma(beam::make_species("electron"), e.bg),
                      model::paraxial,
                      2,
                      10,
                      0,
                      1,
                      1};
    emit_maps(pole_face_rotation{in, out}, whole, [&](const auto& m) { r.push_back(m); });
  }
  return r;
}
template <>
std::vector<frame_patch<double>> samples<frame_patch>(const particle_energy& e) {
  std::vector<frame_patch<double>> r;
  for (const patch& p : {patch{1e-3, -2e-3, 0.5, 0, 0, 0}, patch{0, 0, 0, 0.3, 0, 0},
                         patch{0, 0, 0, 0, -0.4, 0}, patch{1e-2, 2e-2, -0.3, 0.1, 0.2, 2.5}}) {
    const slice whole{beam::reference::from_beta_gamma(beam::make_species("electron"), e.bg),
                      model::paraxial,
                      2,
                      10,
                      0,
                      1,
                      1};
    emit_maps(p, whole, [&](const auto& m) { r.push_back(m); });
  }
  return r;
}
template <>
std::vector<bucket_wrap<double>> samples<bucket_wrap>(const particle_energy&) {
  return {{7e-3, 1 / 7e-3}, {1e-3, 1e3}};
}
template <>
std::vector<bucket_mirror<double>> samples<bucket_mirror>(const particle_energy&) {
  return {{7e-3, 1 / 7e-3}, {1e-3, 1e3}};
}
template <>
std::vector<bucket_filter<double>> samples<bucket_filter>(const particle_energy&) {
  return {{2 / 7e-3}, {2 / 1e-3}};
}
template <>
std::vector<frame_change<double>> samples<frame_change>(const particle_energy&) {
  std::vector<frame_change<double>> r;
  for (double roll : {0.0, 0.4, -1.5707963267948966, 3.0}) {
    r.push_back({1e-3, -2e-3, std::cos(roll), std::sin(roll)});
  }
  return r;
}

/// These find a path length, and pz, as differences of numbers of order one.
template <class Map>
constexpr bool cancels =
    std::is_same_v<Map, bend_exact<double>> || std::is_same_v<Map, frame_patch<double>>;

/// The value and the Jacobian of a map at z.
template <class Map>
std::pair<vector, matrix> jacobian(const Map& map, const phase_space<double>& z,
                                   const particle_energy& e) {
  phase_space<tangent> t{tangent::variable(z.x, 0), tangent::variable(z.px, 1),
                         tangent::variable(z.y, 2), tangent::variable(z.py, 3),
                         tangent::variable(z.t, 4), tangent::variable(z.pt, 5)};
  map.push(t, energy_of(t.pt, e.inv_beta, e.inv_bg2));
  const tangent* out[] = {&t.x, &t.px, &t.y, &t.py, &t.t, &t.pt};
  std::pair<vector, matrix> r;
  for (std::size_t i = 0; i < 6; ++i) {
    r.first[i] = out[i]->v;
    for (std::size_t k = 0; k < 6; ++k) r.second[6 * i + k] = out[i]->d[k];
  }
  return r;
}

/// The two kinds of matrix: derivatives of a bend and of a solenoid, symplectic at every energy.
template <>
std::vector<linear_midplane<double>> samples<linear_midplane>(const particle_energy& e) {
  std::vector<linear_midplane<double>> r;
  for (const auto& b : {bend_paraxial<double>::make(0.8, 0.5, 1.5, e.inv_beta),
                        bend_paraxial<double>::make(-0.3, -0.2, 0, e.inv_beta)}) {
    const auto [value, m] = jacobian(b, {}, e);
    emit_matrix(m, {1e-3, 2e-3, 0, -1e-3, 1e-4, 0}, e.bg, e.bg, [&](const auto& map) {
      if constexpr (std::is_same_v<std::decay_t<decltype(map)>, linear_midplane<double>>)
        r.push_back(map);
    });
  }
  REQUIRE(r.size() == 2);
  return r;
}
template <>
std::vector<linear_dense<double>> samples<linear_dense>(const particle_energy& e) {
  std::vector<linear_dense<double>> r;
  matrix m = jacobian(solenoid_paraxial<double>::make(0.8, 1.5, e.inv_beta), {}, e).second;
  for (std::size_t k = 0; k < 6; ++k)
    m[30 + k] -= 0.02 * m[24 + k];  // and a cavity behind: pt -= 0.02 t
  emit_matrix(m, {1e-3, 2e-3, 0, -1e-3, 1e-4, 1e-5}, e.bg, e.bg, [&](const auto& map) {
    if constexpr (std::is_same_v<std::decay_t<decltype(map)>, linear_dense<double>>)
      r.push_back(map);
  });
  REQUIRE(r.size() == 1);
  return r;
}

template <>
std::vector<spin_rotation<double>> samples<spin_rotation>(const particle_energy&) {
  spin_rotation<double> r{{0.1, 0, -0.3}, {}, {0.2, -0.1, 0.4}, {2, 0.4, 1}};
  for (int i = 0; i < 18; ++i) r.slope[i] = 0.7 * i - 5;
  return {{}, r};
}
template <>
std::vector<reference_change<double>> samples<reference_change>(const particle_energy& e) {
  const double gamma = e.inv_beta * e.bg, loss = 1e-4 * (gamma - 1);
  return {{loss, e.bg, std::sqrt((gamma - loss - 1) * (gamma - loss + 1))}};
}

template <class T>
std::array<T, 6> columns(const phase_space<T>& z) {
  return {z.x, z.px, z.y, z.py, z.t, z.pt};
}

double largest(const matrix& m) {
  double r = 1;
  for (double v : m) r = std::fmax(r, std::fabs(v));
  return r;
}

/// Pushes and says whether the particle is inside.
template <class T, class Map>
auto push(const Map& map, phase_space<T>& z, const particle_energy& e) {
  using F = betatron::numerics::scalar_of<T>;
  const auto en = energy_of(z.pt, static_cast<F>(e.inv_beta), static_cast<F>(e.inv_bg2));
  if constexpr (requires { Map::loss; }) {
    return map.push(z, en);
  } else {
    map.push(z, en);
    return true;
  }
}

/// f.operator()<Map>(instance, energy) for all samples of all maps at all energies.
template <class F>
void for_all_samples(F&& f) {
  all_maps::for_each([&]<template <class> class Map>() {
    CAPTURE(all_maps::code<Map>());
    for (const auto& e : energies()) {
      CAPTURE(e.inv_beta);
      std::size_t number = 0;
      for (const Map<double>& map : samples<Map>(e)) {
        CAPTURE(number);
        ++number;
        f.template operator()<Map>(map, e);
      }
    }
  });
}

/// A unit vector.
vector3<double> rotated_to(std::uint64_t i) {
  const double cosine = 2 * uniform(6, 0, i) - 1, angle = 6.283185307 * uniform(6, 1, i);
  const double sine = std::sqrt(1 - cosine * cosine);
  return {sine * std::cos(angle), sine * std::sin(angle), cosine};
}

template <class F, int W>
using lanes = betatron::numerics::pack<F, W, betatron::numerics::isa::base>;

}  // namespace

TEST_CASE("a map changes the columns it declares, and no others") {
  all_maps::for_each([&]<template <class> class Map>() {
    CAPTURE(all_maps::code<Map>());
    unsigned changed = 0;
    for (const auto& e : energies()) {
      for (const Map<double>& map : samples<Map>(e)) {
        for (std::uint64_t i = 0; i < 10; ++i) {
          const auto before = particle(i, e.inv_beta);
          auto z = before;
          push(map, z, e);
          for (std::size_t c = 0; c < 6; ++c) {
            if (columns(z)[c] != columns(before)[c]) changed |= 1u << c;
          }
        }
      }
    }
    CHECK(changed == Map<double>::writes);
  });
}

TEST_CASE("the inverse undoes the map") {
  for_all_samples([]<template <class> class Map>(const Map<double>& map, const particle_energy& e) {
    if constexpr (requires { Map<double>::has_no_inverse; }) return;
    for (std::uint64_t i = 0; i < 5; ++i) {
      const auto start = particle(i, e.inv_beta);
      const matrix j = jacobian(map, start, e).second;
      auto z = start;
      const bool inside = push(map, z, e);
      if constexpr (requires { map.inverse(); }) {
        push(map.inverse(), z, e);
      } else if constexpr (!requires { Map<double>::has_no_inverse; }) {
        emit_inverse(map, [&](const auto& back) { push(back, z, e); });
      }
      if (!inside) continue;
      // rounding of the way there, amplified on the way back; exact maps work with a pz near 1
      const double allowed = 20 * eps * 1e-2 * largest(j) * largest(j) + 3 * eps;
      for (std::size_t c = 0; c < 6; ++c) {
        CAPTURE(c);
        CHECK(std::fabs(columns(z)[c] - columns(start)[c]) <= allowed);
      }
    }
  });
}

TEST_CASE("maps are symplectic; a cavity by the ratio of momenta") {
  for_all_samples([]<template <class> class Map>(const Map<double>& map, const particle_energy& e) {
    double factor = 1;
    if constexpr (requires { map.bg_in; }) factor = map.bg_in / map.bg_out;
    for (std::uint64_t i = 0; i < 5; ++i) {
      const matrix j = jacobian(map, particle(i, e.inv_beta), e).second;
      const double allowed = 40 * eps * largest(j) * largest(j);
      for (std::size_t a = 0; a < 6; ++a) {
        for (std::size_t b = 0; b < 6; ++b) {
          double sum = 0;  // (J^T S J)_ab
          for (std::size_t q = 0; q < 6; q += 2) {
            sum += j[6 * q + a] * j[6 * (q + 1) + b] - j[6 * (q + 1) + a] * j[6 * q + b];
          }
          const bool pair = a / 2 == b / 2 && a != b;
          const double expected = pair ? (a < b ? factor : -factor) : 0;
          CAPTURE(a);
          CAPTURE(b);
          CHECK(std::fabs(sum - expected) <= allowed);
        }
      }
    }
  });
}

TEST_CASE("spins keep their length, and the inverse map turns them back") {
  for_all_samples([]<template <class> class Map>(const Map<double>& map, const particle_energy& e) {
    if constexpr (spin_effect_of<Map<double>>() == spin_effect::turned &&
                  requires { map.inverse(); }) {
      particle_energy front =
          e;  // a map that accelerates may begin at another energy than the sample
      if constexpr (requires { map.bg_in; }) {
        const double bg2 = map.bg_in * map.bg_in;
        front = {std::sqrt(1 + 1 / bg2), 1 / bg2, map.bg_in};
      }
      gyration<double> there{1.8, front.inv_beta * front.bg, front.bg}, back = there;
      if constexpr (requires { map.bg_out; }) {
        back = {1.8, std::sqrt(1 + map.bg_out * map.bg_out), map.bg_out};
      }
      for (std::uint64_t i = 0; i < 5; ++i) {
        const auto start = particle(i, front.inv_beta);
        const auto spin = rotated_to(i);
        auto z = start;
        auto s = spin;
        const auto e0 = energy_of(z.pt, front.inv_beta, front.inv_bg2);
        if (!push(map, z, front)) continue;
        map.turn_spin(s, start, z, e0, there);
        CHECK(std::fabs(s.x * s.x + s.y * s.y + s.z * s.z - 1) < 8 * eps);
        const auto end = z;
        const double bg = back.beta_gamma;
        const auto e1 = energy_of(z.pt, std::sqrt(1 + 1 / (bg * bg)), 1 / (bg * bg));
        push(map.inverse(), z, {std::sqrt(1 + 1 / (bg * bg)), 1 / (bg * bg), bg});
        map.inverse().turn_spin(s, end, z, e1, back);
        // what the rounding of the orbit turns the spin by: at most (1 + G gamma) times it
        const matrix j = jacobian(map, start, front).second;
        const double allowed =
            4000 * eps * largest(j) * largest(j) * (3 + 1.8 * front.inv_beta * front.bg);
        CHECK(std::fabs(s.x - spin.x) <= allowed);
        CHECK(std::fabs(s.y - spin.y) <= allowed);
        CHECK(std::fabs(s.z - spin.z) <= allowed);
      }
    }
  });
}

TEST_CASE_TEMPLATE("packs do what scalars do", P, lanes<float, 4>, lanes<float, 8>,
                   lanes<double, 2>, lanes<double, 4>) {
  using F = typename P::value_type;
  const double rounding = static_cast<double>(std::numeric_limits<F>::epsilon());
  for_all_samples([&]<template <class> class Map>(const Map<double>& in_double,
                                                  const particle_energy& e) {
    const Map<F> map = convert(in_double, std::type_identity<F>{});
    const double cancelled = cancels<Map<double>> ? 4 * rounding : 0;
    phase_space<P> z;
    P* to[] = {&z.x, &z.px, &z.y, &z.py, &z.t, &z.pt};
    std::vector<phase_space<F>> scalars;
    double size = 1;
    for (int lane = 0; lane < P::width; ++lane) {
      const auto v = particle(static_cast<std::uint64_t>(lane), e.inv_beta);
      size = std::fmax(size, largest(jacobian(in_double, v, e).second));
      const auto c = columns(v);
      phase_space<F> s{};
      F* scalar[] = {&s.x, &s.px, &s.y, &s.py, &s.t, &s.pt};
      for (std::size_t i = 0; i < 6; ++i) {
        *scalar[i] = static_cast<F>(c[i]);
        to[i]->set(lane, *scalar[i]);
      }
      scalars.push_back(s);
    }
    const auto inside = push(map, z, e);
    const auto out = columns(z);
    for (int lane = 0; lane < P::width; ++lane) {
      auto& s = scalars[static_cast<std::size_t>(lane)];
      const bool scalar_inside = push(map, s, e);
      if constexpr (requires { inside.bits(); }) {
        CHECK(((inside.bits() >> lane) & 1) == static_cast<std::uint32_t>(scalar_inside));
      }
      for (std::size_t c = 0; c < 6; ++c) {
        CAPTURE(c);
        // both may be off by the rounding of a few operations on numbers of this size
        const double allowed = 20 * rounding * 1e-2 * size + cancelled;
        CHECK(std::fabs(static_cast<double>(out[c][lane]) - static_cast<double>(columns(s)[c])) <=
              allowed);
      }
    }
  });
}

TEST_CASE("single precision follows double precision") {
  constexpr double rounding = std::numeric_limits<float>::epsilon();
  for_all_samples([]<template <class> class Map>(const Map<double>& map, const particle_energy& e) {
    const Map<float> single = convert(map, std::type_identity<float>{});
    const auto* a = reinterpret_cast<const double*>(&map);
    const auto* b = reinterpret_cast<const float*>(&single);
    for (std::size_t i = 0; i < sizeof map / sizeof(double); ++i)
      CHECK(b[i] == static_cast<float>(a[i]));

    for (std::uint64_t i = 0; i < 5; ++i) {
      const auto start = particle(i, e.inv_beta);
      const double size = largest(jacobian(map, start, e).second);
      const double cancelled = cancels<Map<double>> ? 4 * rounding : 0;
      auto z = start;
      phase_space<float> s{static_cast<float>(z.x), static_cast<float>(z.px),
                           static_cast<float>(z.y), static_cast<float>(z.py),
                           static_cast<float>(z.t), static_cast<float>(z.pt)};
      const bool inside = push(map, z, e);
      CHECK(push(single, s, e) == inside);
      for (std::size_t c = 0; c < 6; ++c) {
        CAPTURE(c);
        CHECK(std::fabs(static_cast<double>(columns(s)[c]) - columns(z)[c]) <=
              40 * rounding * 1e-2 * size + cancelled);
      }
    }
  });
}

namespace {

/// Integrates Hamilton's equations q' = dH/dp, p' = -dH/dq from s = 0 to `length` by the classical fourth-order
/// Runge-Kutta method; the gradient of H comes from dual numbers.
template <class Hamiltonian>
vector integrate(Hamiltonian&& h, double length, const phase_space<double>& start) {
  constexpr int steps = 1000;
  const double ds = length / steps;
  const auto slope = [&](const vector& v) {
    const phase_space<tangent> z{tangent::variable(v[0], 0), tangent::variable(v[1], 1),
                                 tangent::variable(v[2], 2), tangent::variable(v[3], 3),
                                 tangent::variable(v[4], 4), tangent::variable(v[5], 5)};
    const tangent value = h(z);
    return vector{value.d[1], -value.d[0], value.d[3], -value.d[2], value.d[5], -value.d[4]};
  };
  const auto moved = [](vector v, const vector& k, double l) {
    for (std::size_t i = 0; i < 6; ++i) v[i] += l * k[i];
    return v;
  };
  vector z = columns(start);
  for (int i = 0; i < steps; ++i) {
    const vector k1 = slope(z), k2 = slope(moved(z, k1, ds / 2)), k3 = slope(moved(z, k2, ds / 2)),
                 k4 = slope(moved(z, k3, ds));
    for (std::size_t c = 0; c < 6; ++c) z[c] += ds / 6 * (k1[c] + 2 * k2[c] + 2 * k3[c] + k4[c]);
  }
  return z;
}

/// The map of all samples against the flow of h(map, z, P, e) over the length of the map.
template <template <class> class Map, class Hamiltonian, class Length>
void check_flow(Hamiltonian&& h, Length&& length) {
  for (const auto& e : energies()) {
    CAPTURE(e.inv_beta);
    std::size_t number = 0;
    for (const Map<double>& map : samples<Map>(e)) {
      CAPTURE(number);
      if (++number % 3 != 1) continue;  // a third of them is enough
      const auto start = particle(number, e.inv_beta);
      auto z = start;
      push(map, z, e);
      const vector expected = integrate(
          [&](const phase_space<tangent>& t) {
            const tangent p = sqrt(1.0 - t.pt * (2 * e.inv_beta) + t.pt * t.pt);
            return h(map, t, p, e);
          },
          length(map), start);
      const double size = largest(jacobian(map, start, e).second);
      for (std::size_t c = 0; c < 6; ++c) {
        CAPTURE(c);
        // the integrator: (2.5e-3)^4/120 of the coordinates, and rounding over 1000 steps
        CHECK(std::fabs(columns(z)[c] - expected[c]) <=
              1e-13 * size * (c == 4 ? 1 + e.inv_beta : 1));
      }
    }
  }
}

constexpr auto own_length = [](const auto& map) { return map.length; };
constexpr auto unit_length = [](const auto&) { return 1.0; };

}  // namespace

TEST_CASE("maps solve Hamilton's equations") {
  using z = phase_space<tangent>;
  using E = particle_energy;
  check_flow<drift_paraxial>(
      [](const auto&, const z& a, tangent p, const E& e) {
        return (a.px * a.px + a.py * a.py) / (2.0 * p) - p - a.pt * e.inv_beta;
      },
      own_length);
  check_flow<drift_exact>(
      [](const auto&, const z& a, tangent p, const E& e) {
        return -sqrt(p * p - a.px * a.px - a.py * a.py) - a.pt * e.inv_beta;
      },
      own_length);
  check_flow<exact_remainder>(
      [](const auto&, const z& a, tangent p, const E&) {
        const tangent k = a.px * a.px + a.py * a.py;
        return p - k / (2.0 * p) - sqrt(p * p - k);
      },
      own_length);
  check_flow<quadrupole_paraxial>(
      [](const auto& m, const z& a, tangent p, const E& e) {
        return (a.px * a.px + a.py * a.py) / (2.0 * p) - p - a.pt * e.inv_beta +
               (a.x * a.x - a.y * a.y) * (m.k / 2);
      },
      own_length);
  check_flow<bend_paraxial>(
      [](const auto& m, const z& a, tangent p, const E& e) {
        const double h = m.curvature;
        return (a.px * a.px + a.py * a.py) / (2.0 * p) - (1.0 + h * a.x) * p - a.pt * e.inv_beta +
               h * a.x + a.x * a.x * ((h * h + m.k1) / 2) - a.y * a.y * (m.k1 / 2);
      },
      own_length);
  check_flow<bend_exact>(
      [](const auto& m, const z& a, tangent p, const E& e) {
        const double h = m.curvature;
        const tangent pz = sqrt(p * p - a.px * a.px - a.py * a.py);
        return -(1.0 + h * a.x) * pz - a.pt * e.inv_beta + h * a.x + a.x * a.x * (h * h / 2);
      },
      own_length);
  check_flow<plasma_lens_paraxial>(
      [](const auto& m, const z& a, tangent p, const E& e) {
        return (a.px * a.px + a.py * a.py) / (2.0 * p) - p - a.pt * e.inv_beta +
               (a.x * a.x + a.y * a.y) * (m.k / 2);
      },
      own_length);
  check_flow<tapered_lens_kick>(
      [](const auto& m, const z& a, tangent, const E&) {
        return m.strength * ((a.x * a.x + a.y * a.y) / 2.0 +
                             m.taper * (a.x * a.x * a.x / 6.0 + a.x * a.y * a.y / 2.0));
      },
      unit_length);
  check_flow<buncher_kick>(
      [](const auto& m, const z& a, tangent, const E&) {
        return (m.bunching * a.t * a.t - m.defocusing * (a.x * a.x + a.y * a.y)) / 2.0;
      },
      unit_length);
  check_flow<crab_kick>(
      [](const auto& m, const z& a, tangent, const E&) {
        return -m.strength * a.x * sin(m.wave_number * a.t + std::atan2(m.sin_phase, m.cos_phase));
      },
      unit_length);
  check_flow<thin_dipole_kick>(
      [](const auto& m, const z& a, tangent p, const E&) {
        return m.angle * (m.curvature * a.x * a.x / 2.0 - a.x * (p - 1.0));
      },
      unit_length);
  check_flow<solenoid_paraxial>(
      [](const auto& m, const z& a, tangent p, const E& e) {
        const tangent kx = a.px + m.half_ks * a.y, ky = a.py - m.half_ks * a.x;
        return (kx * kx + ky * ky) / (2.0 * p) - p - a.pt * e.inv_beta;
      },
      own_length);
  check_flow<solenoid_exact>(
      [](const auto& m, const z& a, tangent p, const E& e) {
        const tangent kx = a.px + m.half_ks * a.y, ky = a.py - m.half_ks * a.x;
        return -sqrt(p * p - kx * kx - ky * ky) - a.pt * e.inv_beta;
      },
      own_length);
  const auto undulating = [](const auto& m, const z& a, tangent p, bool exact) {
    const double p0_squared = 1 / (m.inv_p0 * m.inv_p0);  // 1 - mean square of the wiggle
    const tangent along2 = p * p - (1 - p0_squared);
    const tangent n =
        a.px * a.px + a.py * a.py + (a.x * a.x * m.wx + a.y * a.y * m.wy) * p0_squared;
    const tangent along = sqrt(exact ? along2 - n : along2);
    return (exact ? tangent(0.0) : n / (2.0 * along)) - along - a.pt * m.inv_beta;
  };
  check_flow<undulator_paraxial>(
      [&](const auto& m, const z& a, tangent p, const E&) { return undulating(m, a, p, false); },
      own_length);
  check_flow<undulator_exact>(
      [&](const auto& m, const z& a, tangent p, const E&) { return undulating(m, a, p, true); },
      own_length);
  check_flow<multipole_kick>(
      [](const auto& m, const z& a, tangent, const E&) {
        // Re sum (k_n + i ks_n) (x + i y)^(n+1)/(n+1)!, the coefficients being divided by n! already
        tangent re = a.x, im = a.y, sum = 0.0;
        for (int n = 0; n <= max_multipole; ++n) {
          sum += (m.normal[n] * re - m.skew[n] * im) / (n + 1);
          const tangent next = re * a.x - im * a.y;
          im = re * a.y + im * a.x;
          re = next;
        }
        return sum;
      },
      unit_length);
  check_flow<dipole_kick>(
      [](const auto& m, const z& a, tangent, const E&) { return -a.x * m.dpx - a.y * m.dpy; },
      unit_length);
}

TEST_CASE("maps of fringe fields are the flow of their Hamiltonian to third order in it") {
  const auto check = [](const auto& map, auto&& hamiltonian, const particle_energy& e) {
    using map_type = std::decay_t<decltype(map)>;
    const auto start = particle(3, e.inv_beta);
    const auto error = [&](double factor) {
      map_type part = map;
      auto* c = reinterpret_cast<double*>(&part);
      for (std::size_t i = 0; i + 1 < sizeof part / sizeof(double); ++i)
        c[i] *= factor;  // all but inv_beta
      auto z = start;
      CHECK(push(part, z, e));
      const vector expected = integrate(
          [&](const phase_space<tangent>& t) {
            const tangent p = sqrt(1.0 - t.pt * (2 * e.inv_beta) + t.pt * t.pt);
            return hamiltonian(part, t, p);
          },
          1, start);
      double r = 0;
      for (std::size_t i = 0; i < 5; ++i) r = std::fmax(r, std::fabs(columns(z)[i] - expected[i]));
      return r / (1 + e.inv_beta);
    };
    CHECK(error(1) <= 1e-7);
    CHECK(error(0.5) <= error(1) / 7.5 + 2e-14);
    CHECK(error(0.05) <= error(1) / 7500 + 2e-14);
  };
  for (const auto& e : energies()) {
    for (const auto& m : samples<quadrupole_fringe>(e)) {
      check(
          m,
          [](const auto& f, const phase_space<tangent>& a, tangent p) {
            return f.strength / p *
                   (a.px * (a.x * a.x * a.x + 3.0 * a.x * a.y * a.y) -
                    a.py * (a.y * a.y * a.y + 3.0 * a.x * a.x * a.y));
          },
          e);
    }
    for (const auto& m : samples<dipole_fringe>(e)) {
      check(
          m,
          [](const auto& f, const phase_space<tangent>& a, tangent p) {
            const tangent x2 = a.x * a.x, y2 = a.y * a.y;
            const tangent omega =
                f.deflection * a.x + f.focus * (x2 - y2) -
                f.curve * (x2 * a.x / 6.0 - a.x * y2 / 2.0) +
                (-f.c2 * a.x + f.c3 * a.px + f.c7 * y2 - f.c8 * x2 * a.x + f.c9 * a.x * y2 +
                 f.c10 * (x2 * a.px - y2 * a.px - 2.0 * a.x * a.y * a.py) - f.c11 * y2 * a.px +
                 f.c12 * y2 * y2) /
                    p;
            return -omega;
          },
          e);
    }
  }
}

TEST_CASE(
    "multipoles of a bend have the field of the mid-plane and obey Maxwell's equations around it") {
  const particle_energy e = energies()[2];
  for (double h : {0.0, 0.4, -1.5}) {
    for (std::size_t n = 0; n <= 4; ++n) {
      for (bool skew : {false, true}) {
        CAPTURE(h);
        CAPTURE(n);
        CAPTURE(skew);
        double k[5] = {};
        k[n] = 0.7;
        const auto kick = curved_multipole_kick<double>::make(k, n + 1, skew, h);
        for (double x : {0.03, -0.02}) {
          const double factorial[] = {1, 1, 2, 6, 24}, u = 1 + h * x;
          const double field = 0.7 * std::pow(x, static_cast<double>(n)) / factorial[n];
          const vector on_axis = jacobian(kick, {x, 0, 0, 0, 0, 0}, e).first;
          CHECK(on_axis[1] == doctest::Approx(skew ? 0 : -u * field).epsilon(1e-12));
          CHECK(on_axis[3] == doctest::Approx(skew ? u * field : 0).epsilon(1e-12));
          // (1 + h x)(V_xx + V_yy) = h V_x with (dpx, dpy) = -grad V
          const auto [z, j] = jacobian(kick, {x, 0, 0.03, 0, 0, 0}, e);
          const double residual = u * (j[6] + j[20]) - h * z[1];
          const double size = 0.7 * std::pow(0.05, static_cast<double>(n) - 1) / factorial[n];
          CHECK(std::fabs(residual) <= 30 * size * std::pow(0.05 * std::fabs(h), 5) + 1e-14 * size);
        }
      }
    }
  }
}

TEST_CASE("the nonlinear lens has the kick of the complex formula") {
  const particle_energy e = energies()[2];
  const double c = 0.01, strength = 3e-4;
  for (double x : {1e-9, 1e-4, -3e-3, 9.9e-3, 2e-2}) {
    for (double y : {1e-9, -1e-4, 4e-3, -3e-2}) {
      const std::complex<double> zeta(x / c, y / c), rest = (1.0 - zeta) * (1.0 + zeta);
      const std::complex<double> kick =
          -strength * (zeta / rest + std::asin(zeta) / (rest * std::sqrt(rest)));
      phase_space<double> z{x, 0, y, 0, 0, 0};
      CHECK(push(nonlinear_lens_kick<double>{strength, 1 / c}, z, e));
      CHECK(std::fabs(z.px - kick.real()) <= 1e-13 * std::abs(kick));
      CHECK(std::fabs(z.py + kick.imag()) <= 1e-13 * std::abs(kick));
    }
  }
  phase_space<double> singular{c, 0, 0, 0, 0, 0};
  CHECK(!push(nonlinear_lens_kick<double>{strength, 1 / c}, singular, e));
}

TEST_CASE("momentum and slip without cancellation") {
  for (const auto& e : energies()) {
    for (double size = 1e-14; size < 0.4; size *= 7) {
      for (double pt : {size, -size}) {
        pt /= e.inv_beta;
        const auto en = energy_of(pt, e.inv_beta, e.inv_bg2);
        const long double p2 =
            1 - 2 * static_cast<long double>(pt) * e.inv_beta + static_cast<long double>(pt) * pt;
        const long double inv_p = 1 / std::sqrt(p2);
        CHECK(en.inv_p == doctest::Approx(static_cast<double>(inv_p)).epsilon(4 * eps));
        // 1/beta - 1/beta0 = (1/beta^2 - 1/beta0^2)/(1/beta + 1/beta0) with 1/beta^2 = 1 + inv_bg2/P^2
        const long double excess =
            static_cast<long double>(pt) * (pt - 2 * static_cast<long double>(e.inv_beta));
        const long double bg2 = e.inv_bg2;
        const long double sum = std::sqrt(1 + bg2 / p2) + std::sqrt(1 + bg2);
        const long double slip = -bg2 * excess / (p2 * sum);
        CHECK(std::fabs(en.slip - static_cast<double>(slip)) <=
              8 * eps * std::fabs(static_cast<double>(slip)));
      }
    }
  }
}

TEST_CASE("strength goes to zero smoothly from both sides") {
  for (const auto& e : energies()) {
    for (std::uint64_t i = 0; i < 5; ++i) {
      const auto start = particle(i, e.inv_beta);
      auto drifted = start;
      push(drift_paraxial<double>{1.5, e.inv_beta}, drifted, e);
      const double size =
          largest(jacobian(drift_paraxial<double>{1.5, e.inv_beta}, start, e).second);
      for (double k : {0.0, 1e-300, -1e-300, 1e-15, -1e-15, 1e-9, -1e-9, 1e-6, -1e-6}) {
        CAPTURE(k);
        // a kick k L x, and k L^2 x of way
        const double allowed = (4 * std::fabs(k) + 20 * eps) * 1e-2 * size;
        const auto check = [&](const auto& map) {
          auto z = start;
          push(map, z, e);
          for (std::size_t c = 0; c < 6; ++c) {
            CHECK(std::fabs(columns(z)[c] - columns(drifted)[c]) <= allowed);
          }
        };
        check(quadrupole_paraxial<double>::make(1.5, k, e.inv_beta));
        check(bend_paraxial<double>::make(1.5, k, 0, e.inv_beta));
        check(bend_paraxial<double>::make(1.5, 0, k, e.inv_beta));
        check(solenoid_paraxial<double>::make(1.5, k, e.inv_beta));
      }
    }
  }
}

TEST_CASE("n pieces are one piece") {
  for (const auto& e : energies()) {
    const auto start = particle(3, e.inv_beta);
    const auto check = [&](const auto& make) {
      auto whole = start, pieces = start;
      push(make(0.9), whole, e);
      for (int i = 0; i < 3; ++i) push(make(0.3), pieces, e);
      const double size = largest(jacobian(make(0.9), start, e).second);
      for (std::size_t c = 0; c < 6; ++c) {
        CHECK(std::fabs(columns(whole)[c] - columns(pieces)[c]) <=
              40 * eps * 1e-2 * size + (c == 4 ? 4 * eps : 0));
      }
    };
    check([&](double l) { return drift_exact<double>{l, e.inv_beta}; });
    check([&](double l) { return quadrupole_paraxial<double>::make(l, 3, e.inv_beta); });
    check([&](double l) { return bend_paraxial<double>::make(l, 0.6, -2, e.inv_beta); });
    check([&](double l) { return bend_exact<double>::make(l, -0.6, e.inv_beta); });
    check([&](double l) { return solenoid_paraxial<double>::make(l, 1.5, e.inv_beta); });
  }
}

TEST_CASE("single and multiple lanes know the domain of a map") {
  const particle_energy e = energies()[2];
  using P = lanes<double, 4>;
  const auto check = [&](const auto& map, auto&& change, std::array<bool, 4> expected) {
    phase_space<P> packed{P(0), P(0), P(0), P(0), P(0), P(0)};
    for (int lane = 0; lane < 4; ++lane) {
      phase_space<double> z{};
      change(z, lane);
      packed.x.set(lane, z.x);
      packed.px.set(lane, z.px);
      packed.y.set(lane, z.y);
      packed.py.set(lane, z.py);
      packed.pt.set(lane, z.pt);
      CAPTURE(lane);
      CHECK(push(map, z, e) == expected[static_cast<std::size_t>(lane)]);
    }
    const auto inside = push(map, packed, e);
    for (int lane = 0; lane < 4; ++lane) {
      CHECK(((inside.bits() >> lane & 1) != 0) == expected[static_cast<std::size_t>(lane)]);
    }
  };
  const auto steep = [](phase_space<double>& z, int lane) {
    const double p[] = {0.99, 1.01, -1.3, 1.3};
    (lane == 2 ? z.py : z.px) = p[lane];
    if (lane == 3) z.pt = -0.5;  // P = 1.5
  };
  check(drift_exact<double>{1, e.inv_beta}, steep, {true, false, false, true});
  check(exact_remainder<double>{1, e.inv_beta}, steep, {true, false, false, true});
  check(solenoid_exact<double>{1, 0, e.inv_beta, 0}, steep, {true, false, false, true});
  check(bend_exact<double>::make(1e-3, 0.5, e.inv_beta), steep, {true, false, false, true});
  // the circle of a steep particle does not reach the exit plane
  check(bend_exact<double>::make(1, 0.9, e.inv_beta),
        [](phase_space<double>& z, int lane) { z.px = 0.9 * (lane - 1); },
        {false, true, true, false});

  // NaN is nowhere inside
  const double not_a_number = std::numeric_limits<double>::quiet_NaN();
  const auto spoilt = [&](phase_space<double>& z, int lane) {
    if (lane == 1) z.px = not_a_number;
    if (lane == 2) z.pt = not_a_number;
  };
  check(drift_exact<double>{1, e.inv_beta}, spoilt, {true, false, false, true});
  check(solenoid_exact<double>{1, 0.3, e.inv_beta, 1}, spoilt, {true, false, false, true});
  check(bend_exact<double>::make(1, 0.5, e.inv_beta), spoilt, {true, false, false, true});

  const auto far = [](phase_space<double>& z, int lane) { z.x = 1e200 * (lane % 2); };
  const double third[] = {0, 0, 0, 1};
  check(detail::scaled_kick({third, 4, third, 0}, 1), far, {true, false, true, false});
}

TEST_CASE("openings of apertures") {
  const particle_energy e = energies()[2];
  struct place {
    double x, y;
    bool inside;
  };
  const auto check = [&](const aperture& a, std::initializer_list<place> places) {
    emit_maps(a, slice{{}, model::paraxial, 2, 10, 0, 1, 1}, [&](const aperture_filter<double>& f) {
      for (const place& p : places) {
        CAPTURE(p.x);
        CAPTURE(p.y);
        phase_space<double> z{p.x, 0, p.y, 0, 0, 0};
        CHECK(push(f, z, e) == p.inside);
        phase_space<double> mirrored{-p.x, 0, -p.y, 0, 0, 0};
        CHECK(push(f, mirrored, e) == p.inside);
      }
    });
  };
  check({.x_max = 2, .y_max = 1},
        {{0, 0, true}, {2, 1, true}, {2.001, 0, false}, {0, -1.001, false}, {1.9, -0.9, true}});
  check({.x_max = 2, .y_max = 1, .shape = "elliptical"},
        {{2, 0, true}, {0, 1, true}, {1.9, 0.9, false}, {1.4, 0.7, true}, {1.42, 0.71, false}});
  check({.x_max = 2, .y_max = 1, .action = "absorb"},
        {{0, 0, false}, {2.001, 0, true}, {0, 1.001, true}});
  // a grid of holes of 0.5 x 0.25 every 3 and 2
  check({.x_max = 0.5, .y_max = 0.25, .repeat_x = 3, .repeat_y = 2}, {{0, 0, true},
                                                                      {3.4, 4.2, true},
                                                                      {3.6, 4.2, false},
                                                                      {3.4, 4.3, false},
                                                                      {1.5, 0, false},
                                                                      {-6.1, 2.1, true}});
  check({.x_max = 0.5, .y_max = 0.25, .repeat_x = 3, .repeat_y = 2, .shift_odd_x = true},
        {{0, 0, true},
         {0, 2, false},
         {1.5, 2, true},
         {-1.6, 2.1, true},
         {3, 4, true},
         {1.5, 4, false}});
}

TEST_CASE("split integration converges with its order") {
  // an octupole in free space: halving the step gains 2^order
  const particle_energy e = energies()[1];
  const phase_space<double> start{0.02, 0.03, -0.01, 0.02, 0, 0.01};
  const auto run = [&](int order, int steps) {
    phase_space<double> z = start;
    double all_a = 0, all_b = 0;
    split(
        1.3, order, steps,
        [&](double l) {
          push(drift_paraxial<double>{l, e.inv_beta}, z, e);
          all_a += l;
        },
        [&](double l) {
          const double k[] = {0, 0, 0, 2e3 * l};
          push(detail::scaled_kick({k, 4, k, 0}, 1), z, e);
          all_b += l;
        });
    CHECK(all_a == doctest::Approx(1.3).epsilon(1e-14));
    CHECK(all_b == doctest::Approx(1.3).epsilon(1e-14));
    return columns(z);
  };
  const vector exact = run(6, 400);
  for (int order : {2, 4, 6}) {
    const auto error = [&](int steps) {
      const vector z = run(order, steps);
      return std::hypot(z[0] - exact[0], z[1] - exact[1], z[2] - exact[2]);
    };
    CAPTURE(order);
    const double gain = std::log2(error(12) / error(24));
    CHECK(gain == doctest::Approx(order).epsilon(0.12));
  }
}

TEST_CASE("inverse of a singular matrix is refused") {
  betatron::beam::matrix6 m{};
  CHECK_THROWS_AS(inverse(m), std::domain_error);
  for (std::size_t i = 0; i < 6; ++i) m[6 * i + (i + 1) % 6] = 2;  // needs pivoting
  const auto r = inverse(m);
  for (std::size_t i = 0; i < 6; ++i) {
    for (std::size_t k = 0; k < 6; ++k) CHECK(r[6 * i + k] == (i == (k + 1) % 6 ? 0.5 : 0));
  }
}
