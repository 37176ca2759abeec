// machines.h: lines and beams for the tests of the tracking room.
#pragma once

#include <array>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "beam/bunch.h"
#include "elements/kinds.h"
#include "lattice/line.h"
#include "numerics/random.h"

namespace machines {

namespace beam = betatron::beam;
namespace elements = betatron::elements;
namespace lattice = betatron::lattice;

inline beam::reference electron(double kinetic_energy_eV = 1e8) {
  return beam::reference::from_kinetic_energy(beam::make_species("electron"), kinetic_energy_eV);
}

inline std::shared_ptr<lattice::element> make(elements::kind body,
                                              elements::model model = elements::model::paraxial) {
  auto e = std::make_shared<lattice::element>(lattice::element{std::move(body)});
  e->model = model;
  return e;
}

/// A stable cell of 2 m: quadrupoles, a sextupole, drifts.
inline lattice::line fodo(int cells = 1) {
  const auto f = make(elements::quadrupole{.length = 0.2, .k1 = 4});
  const auto d = make(elements::quadrupole{.length = 0.2, .k1 = -4});
  const auto s = make(elements::sextupole{.length = 0.1, .k2 = 3});
  const auto o = make(elements::drift{.length = 0.8}),
             short_o = make(elements::drift{.length = 0.7});
  lattice::line l;
  for (int i = 0; i < cells; ++i) {
    for (const auto& e : {f, s, short_o, d, o}) l.elements.push_back(e);
  }
  return l;
}

/// Every map that executors know, at strengths at which a beam of 1 mm and 1 mrad stays together; or all of them that
/// can be undone.
inline lattice::line everything(bool invertible = false) {
  using enum elements::model;
  lattice::line l;
  for (const auto m : {linear, paraxial, exact}) {
    auto add = [&](elements::kind body) { l.elements.push_back(make(std::move(body), m)); };
    add(elements::drift{.length = 0.3});
    add(elements::quadrupole{.length = 0.2, .k1 = 2, .gradient = 0.3});
    add(elements::bend{
        .length = 0.5, .angle = 0.2, .e1 = 0.1, .e2 = 0.05, .fint1 = 0.4, .hgap = 0.01});
    add(elements::bend{.length = 0.4, .angle = -0.1, .k1 = 1.5});
    add(elements::dipole_edge{.curvature = 0.4, .angle = 0.2});
    add(elements::sextupole{.length = 0.1, .k2 = 20, .k2s = 5});
    add(elements::octupole{.length = 0.1, .k3 = 500});
    add(elements::multipole{.length = 0, .knl = {0, -0.3, 2, 30}, .ksl = {0, 0.1, -1}});
    add(elements::solenoid{.length = 0.3, .ks = 0.8});
    add(elements::constant_focusing{.length = 0.1, .kx = 1.2, .ky = -0.7, .kt = 2e-3});
    add(elements::kicker{.length = 0.1, .hkick = 1e-4, .vkick = -2e-4});
    add(elements::rf_cavity{.length = 0.2, .voltage = 2e6, .frequency = 1.3e9, .phase = -0.4});
    add(elements::aperture{.x_max = 0.2, .y_max = 0.15, .shape = "elliptical"});
    add(elements::polygon_aperture{.vertices = {-1, -1, 2, -1, 0, 2}});
    add(elements::quadrupole{.length = 0.1, .k1 = 2, .fringe = "hard"});
    add(elements::dipole_edge{.curvature = 0.4, .angle = 0.1, .hgap = 0.01, .fringe = "nonlinear"});
    add(elements::bend{.length = 0.3, .angle = 0.1, .kn = {0, 0.5, 3}, .ks = {0, 0.2}});
    add(elements::plasma_lens{.length = 0.1, .k1 = 2});
    add(elements::tapered_plasma_lens{.k1l = 0.2, .taper = 3});
    add(elements::thin_dipole{.angle = 0.02, .curvature = 0.1});
    add(elements::buncher{.voltage = 1e5, .frequency = 1.3e9});
    add(elements::crab_cavity{.length = 0.1, .voltage = 1e5, .frequency = 4e8});
    add(elements::nonlinear_lens{.knl = 0.01, .cnl = 0.5});
    add(elements::pole_face_rotation{.angle_in = 0, .angle_out = 0.1});
    add(elements::pole_face_rotation{.angle_in = 0.1, .angle_out = 0});
    add(elements::patch{.offset_x = 1e-4, .offset_z = 0.1, .rotation_y = 1e-3, .rotation_z = 0.2});
    add(elements::rf_field_map{.length = 0.2,
                               .amplitude = 1e6,
                               .frequency = 1.3e9,
                               .phase = 0.3,
                               .cosine = {1, 0.4},
                               .sine = {0, 0.1}});
    add(elements::uniform_acceleration{.length = 0.1, .voltage = 1e6, .field = 0.05});
    add(elements::undulator{.length = 0.3, .period = 0.03, .strength = 0.5});
    add(elements::plasma_stage{.length = 0.1, .density = 1e17, .acceleration = 3e6, .slope = 1e8});
    elements::plasma_stage wave{.length = 0.1, .density = 1e17, .acceleration = 3e6};
    wave.wake = "linear";
    wave.phase = 0.5;
    wave.width = 0.02;
    wave.slip = 1e-3;
    wave.ramp_up = wave.ramp_down = 0.03;
    add(wave);
    add(elements::quadrupole{.length = 0.2, .k1 = -2.5});
    l.elements.back()->align = {.dx = 1e-4, .dy = -2e-4, .roll = 0.3};
    l.elements.back()->slices = 3;
    add(elements::bend{.length = 0.3, .angle = 0.2});
    l.elements.back()->align = {1e-4, -2e-4, 1e-4, 1e-3, -2e-3, 0.01, true};
  }
  std::vector<double> coupled(36);
  for (std::size_t i = 0; i < 6; ++i) coupled[7 * i] = 1;
  coupled[1] = 0.3;  // x += 0.3 px
  coupled[2 * 6 + 0] = 0.1;
  coupled[5 * 6 + 4] = -0.05;
  l.elements.push_back(make(elements::linear_map{.matrix = coupled}));
  std::vector<double> slopes(18);
  for (std::size_t i = 0; i < 18; ++i) slopes[i] = 0.3 * static_cast<double>(i) - 2;
  l.elements.push_back(make(elements::spin_map{.rotation = {0.1, -0.2, 0.5}, .slopes = slopes}));
  for (int degree = 1; degree <= (invertible ? 1 : 3); ++degree) {
    const std::size_t n = elements::taylor_terms(degree);
    elements::taylor_map m{.coefficients = std::vector<double>(6 * n),
                           .centre = {1e-4, 0, -1e-4, 0, 0, 0}};
    for (std::size_t i = 0; i < 6; ++i) {
      for (std::size_t k = 0; k < 6; ++k) m.coefficients[i * n + 1 + k] = coupled[6 * i + k];
      for (std::size_t k = 7; k < n; ++k) {
        m.coefficients[i * n + k] = 0.1 * std::cos(static_cast<double>(7 * i + k));
      }
    }
    l.elements.push_back(make(m));
  }
  return l;
}

/// n particles, normal with the given sigmas; particle i is the same for every n.
inline beam::bunch bunch(std::size_t n, beam::precision p = beam::precision::double_,
                         const std::array<double, 6>& sigma = {1e-3, 1e-3, 1e-3, 1e-3, 1e-3, 1e-2},
                         beam::reference ref = electron()) {
  beam::bunch b(ref, n, p);
  b.visit([&](const auto& columns) {
    using F = typename std::remove_cvref_t<decltype(columns)>::value_type;
    for (std::size_t i = 0; i < n; ++i) {
      for (std::size_t c = 0; c < 6; ++c) {
        columns.z[c][i] = static_cast<F>(sigma[c] * betatron::numerics::normal(11, c, i));
      }
      columns.weight[i] = static_cast<F>(1 + i % 3);
    }
  });
  return b;
}

/// One coordinate of one particle, as double.
inline double coordinate(const beam::bunch& b, std::size_t column, std::size_t particle) {
  return b.visit(
      [&](const auto& columns) { return static_cast<double>(columns.z[column][particle]); });
}

inline void set(beam::bunch& b, std::size_t column, std::size_t particle, double value) {
  b.visit([&](const auto& columns) {
    using F = typename std::remove_cvref_t<decltype(columns)>::value_type;
    columns.z[column][particle] = static_cast<F>(value);
  });
}

/// The first n particles have the same bits in all columns, and the same ids.
inline bool same_bits(const beam::bunch& a, const beam::bunch& b, std::size_t n) {
  if (a.precision() != b.precision() || a.size() < n || b.size() < n) return false;
  if (n == 0) return true;
  return a.visit([&](const auto& ca) {
    using columns = std::remove_cvref_t<decltype(ca)>;
    return b.visit([&](const auto& cb) {
      if constexpr (std::is_same_v<columns, std::remove_cvref_t<decltype(cb)>>) {
        bool same = std::memcmp(ca.id, cb.id, n * sizeof *ca.id) == 0 &&
                    std::memcmp(ca.weight, cb.weight, n * sizeof *ca.weight) == 0;
        for (std::size_t c = 0; c < 6; ++c) {
          same = same && std::memcmp(ca.z[c], cb.z[c], n * sizeof *ca.z[c]) == 0;
        }
        return same;
      } else {
        return false;
      }
    });
  });
}

inline bool same_bits(const beam::bunch& a, const beam::bunch& b) {
  return a.size() == b.size() && same_bits(a, b, a.size());
}

}  // namespace machines
