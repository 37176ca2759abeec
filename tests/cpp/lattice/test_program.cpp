// Lines in the laboratory, and programs compiled from them: what they do to particles is what the elements say,
// forward and backward, in every model.
#include "lattice/program.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <stdexcept>
#include <string>

#include "numerics/random.h"
#include "tracking/gpu/interpreter.h"  // the simplest way to run a program

namespace {

using namespace betatron;
using namespace betatron::lattice;
using elements::matrix6;
using elements::model;
using numerics::uniform;
using vector = std::array<double, 6>;

constexpr double pi = std::numbers::pi;

beam::reference particle(double beta_gamma, const char* species = "electron") {
  return beam::reference::from_beta_gamma(beam::make_species(species), beta_gamma);
}

/// beta from 0.05 to 1 - 1e-12
constexpr double beta_gammas[] = {0.05, 0.6, 7, 200, 7.07e5};

std::shared_ptr<element> make(elements::kind body, elements::model m = model::paraxial) {
  auto e = std::make_shared<element>(element{std::move(body)});
  e->model = m;
  return e;
}

vector run(const program& p, const vector& start) {
  std::vector<tracking::gpu::instruction> instructions;
  for (const operation& op : p.operations) {
    if (op.code != operation::record) instructions.push_back({op.code, op.coefficients});
  }
  const tracking::gpu::program_view<double> view{
      instructions.data(), static_cast<std::int32_t>(instructions.size()), p.coefficients.data(),
      p.entrance_energy[0], p.entrance_energy[1]};
  elements::phase_space<double> z{start[0], start[1], start[2], start[3], start[4], start[5]};
  REQUIRE(!tracking::gpu::run_particle(view, 1, z).is_lost());
  return {z.x, z.px, z.y, z.py, z.t, z.pt};
}

vector track(const line& l, const vector& start, beam::reference& ref,
             direction way = direction::forward) {
  return run(compile(l, 0, l.elements.size(), ref, {.way = way}), start);
}

matrix6 derivative_of(const line& l, beam::reference ref, const vector& start = {}) {
  return derivative(l, 0, l.elements.size(), ref, start).matrix;
}

double largest(const matrix6& m) {
  double r = 1;
  for (double v : m) r = std::fmax(r, std::fabs(v));
  return r;
}

/// Up to 5 mm, 5 mrad and 0.5 % of momentum.
vector coordinates(std::uint64_t i, const beam::reference& ref) {
  vector z;
  for (std::size_t c = 0; c < 6; ++c) z[c] = 5e-3 * (2 * uniform(21, c, i) - 1);
  z[5] *= ref.beta();
  return z;
}

/// An element of this kind with random parameters of moderate strength: phases below about 1 rad.
std::shared_ptr<element> random_element(const kind_info& kind, std::uint64_t seed,
                                        const beam::reference& ref) {
  auto e = std::make_shared<element>(make_element(kind.name));
  std::uint64_t stream = 0;
  for (const parameter_info& p : kind.parameters) {
    const double u = 2 * uniform(seed, stream++, 1) - 1;
    if (p.name == "matrix") {
      beam::reference copy = ref;
      line l;
      l.elements = {make(elements::solenoid{.length = 0.7, .ks = u}),
                    make(elements::bend{.length = 0.4, .angle = u / 2})};
      const matrix6 m = derivative_of(l, copy);
      set(*e, "matrix", std::vector<double>(m.begin(), m.end()));
    } else if (p.name == "voltage") {
      set(*e, p.name, 0.2 * u * ref.kinetic_energy() / std::fabs(ref.particle.charge));
    } else if (p.name == "amplitude") {
      set(*e, p.name, 0.2 * u * ref.kinetic_energy() / std::fabs(ref.particle.charge));
    } else if (p.name == "acceleration" || p.name == "slope") {
      set(*e, p.name, 0.2 * u * ref.kinetic_energy() / std::fabs(ref.particle.charge));
    } else if (p.name == "density") {  // K/(beta gamma) below 1
      const double radius = 2.8179403205e-15 * 510998.95 / ref.particle.mass_eV;
      set(*e, p.name, std::fabs(u) * ref.beta_gamma() / (2 * std::numbers::pi * radius));
    } else if (p.name.starts_with("ramp_") && p.unit == "m") {
      set(*e, p.name, 0.4 * std::fabs(u) * std::get<double>(get(*e, "length")));
    } else if (p.name == "period") {
      set(*e, p.name, 0.3);
    } else if (p.name == "strength") {
      set(*e, p.name, 0.5 * u * ref.beta_gamma());
    } else if (kind.name == "Undulator" && p.name == "field") {
      set(*e, p.name, 0.0);  // `strength` does the same
    } else if (p.name == "frequency") {
      set(*e, p.name, 1e9 * std::fabs(u));
    } else if (p.name == "gradient" || p.name == "field") {
      set(*e, p.name, u * std::fabs(ref.rigidity()));
    } else if (p.name == "kt") {
      set(*e, p.name, std::fabs(u) * std::sqrt(ref.inverse_beta_gamma_squared()));
    } else if (kind.name == "Bend" && p.name == "angle") {
      set(*e, p.name, u * std::get<double>(get(*e, "length")));  // a radius above 1 m
    } else if (p.name == "x_max" || p.name == "y_max") {
      set(*e, p.name, 1.0);
    } else if (p.name == "coefficients") {  // of degree 1, which can be undone
      line l;
      l.elements = {make(elements::solenoid{.length = 0.7, .ks = u})};
      beam::reference copy = ref;
      const matrix6 m = derivative_of(l, copy);
      std::vector<double> rows(42);
      for (std::size_t i = 0; i < 36; ++i) rows[7 * (i / 6) + 1 + i % 6] = m[i];
      rows[0] = 1e-3 * u;
      set(*e, p.name, rows);
    } else if (p.name == "centre") {
      set(*e, p.name, std::vector<double>{0, 1e-3 * u, 0, 0, 1e-3, 0});
    } else if (p.name == "vertices") {
      set(*e, p.name, std::vector<double>{-1, -1, 2, -1, 0, 2});
    } else if (p.name == "hgap") {
      set(*e, p.name, 0.05 * std::fabs(u));
    } else if (p.name == "hkick" || p.name == "vkick") {
      set(*e, p.name, 1e-3 * u);
    } else if (p.name == "rotation" || p.name == "slopes") {
      set(*e, p.name, std::vector<double>(p.name == "slopes" ? 18 : 3, u));
    } else if (std::holds_alternative<std::vector<double>>(p.default_value)) {
      set(*e, p.name, std::vector<double>{1e-3 * u, u, -3 * u, 10 * u});
    } else if (std::holds_alternative<double>(p.default_value)) {
      const double scale = p.name == "k2" || p.name == "k2s"   ? 10
                           : p.name == "k3" || p.name == "k3s" ? 100
                                                               : 1;
      const double low = std::isfinite(p.minimum) && p.minimum >= 0 ? 0.05 : -1;
      set(*e, p.name, scale * (low < 0 ? u : low + (1 - low) * std::fabs(u)));
    }
  }
  return e;
}

/// f(element, reference, number) over all kinds, models, energies, slicings and misalignments.
template <class F>
void for_all_elements(F&& f) {
  std::uint64_t number = 0;
  for (const kind_info& kind : kinds()) {
    for (const auto m : {model::linear, model::paraxial, model::exact}) {
      for (double beta_gamma : beta_gammas) {
        for (int repeat = 0; repeat < 4; ++repeat) {
          ++number;
          const beam::reference ref = particle(beta_gamma, repeat % 2 ? "proton" : "electron");
          const auto e = random_element(kind, number, ref);
          e->model = m;
          e->slices = 1 + repeat % 3;
          e->order = 2 + 2 * (repeat % 3);
          e->steps = 3;
          if (repeat == 2) e->align = {.dx = 1e-3, .dy = -5e-4, .roll = 0.3};
          if (repeat == 3) e->align = {1e-3, -5e-4, 2e-3, 3e-3, -4e-3, -0.3, number % 2 == 0};
          CAPTURE(kind.name);
          CAPTURE(static_cast<int>(m));
          CAPTURE(beta_gamma);
          CAPTURE(repeat);
          f(e, ref, number);
        }
      }
    }
  }
}

}  // namespace

TEST_CASE("a ring of bends closes in the laboratory") {
  for (const double turn : {2 * pi, -2 * pi}) {
    line ring;
    const auto bend = make(elements::bend{.length = 0.7, .angle = turn / 12, .k1 = 1, .e1 = 0.1});
    const auto drift = make(elements::drift{.length = 1.3}),
               cavity = make(elements::kicker{.length = 0.2, .hkick = 1});
    for (int i = 0; i < 12; ++i) ring.elements.insert(ring.elements.end(), {bend, drift, cavity});
    CHECK(length(ring) == doctest::Approx(12 * 2.2).epsilon(1e-15));
    beam::reference start = particle(3);
    start.position = {1, -2, 3};
    start.s = 5;
    const auto places = survey(ring, start);
    REQUIRE(places.size() == 37);
    CHECK(places[0] == start);
    const beam::reference& end = places.back();
    for (std::size_t i = 0; i < 3; ++i)
      CHECK(std::fabs(end.position[i] - start.position[i]) < 1e-13);
    for (std::size_t i = 0; i < 9; ++i) CHECK(std::fabs(end.frame[i] - start.frame[i]) < 1e-14);
    CHECK(end.s == doctest::Approx(5 + 12 * 2.2).epsilon(1e-14));
    CHECK(end.t == doctest::Approx(12 * 2.2 / start.beta()).epsilon(1e-14));
    CHECK(places[18].position[1] == -2);  // flat
    // half a ring away, towards -x for positive angles
    CHECK((places[18].position[0] - 1) * turn < 0);
  }
}

TEST_CASE("a bend of 90 degrees turns z to -x") {
  line l;
  l.elements = {make(elements::bend{.length = pi, .angle = pi / 2})};  // radius 2
  const beam::reference end = survey(l, particle(3)).back();
  CHECK(end.position[0] == doctest::Approx(-2).epsilon(1e-15));
  CHECK(end.position[2] == doctest::Approx(2).epsilon(1e-15));
  const double ez[] = {-1, 0, 0}, ex[] = {0, 0, 1};
  for (std::size_t i = 0; i < 3; ++i) {
    CHECK(std::fabs(end.frame[6 + i] - ez[i]) < 1e-15);
    CHECK(std::fabs(end.frame[i] - ex[i]) < 1e-15);
  }
  // slice by slice, and back
  beam::reference ref = particle(3);
  for (int i = 0; i < 7; ++i) advance(*l.elements[0], ref, i / 7.0, (i + 1) / 7.0);
  for (std::size_t i = 0; i < 3; ++i) CHECK(std::fabs(ref.position[i] - end.position[i]) < 1e-14);
  advance(*l.elements[0], ref, 1, 0);
  for (std::size_t i = 0; i < 3; ++i) CHECK(std::fabs(ref.position[i]) < 1e-14);
  CHECK(std::fabs(ref.s) < 1e-15);
}

TEST_CASE("a reference particle that would stop is an error with its place") {
  line l;
  l.elements = {make(elements::drift{.length = 2.5}),
                make(elements::rf_cavity{.voltage = 1e6, .frequency = 1e9, .phase = pi})};
  l.elements[1]->name = "c1";
  const auto message = [&](auto&& f) -> std::string {
    try {
      f();
    } catch (const std::invalid_argument& e) {
      return e.what();
    }
    return "";
  };
  const auto ref = beam::reference::from_kinetic_energy(beam::make_species("electron"), 4e5);
  const std::string text = message([&] { survey(l, ref); });
  CHECK(text.find("RFCavity 'c1' at s = 2.5") == 0);
  CHECK(text.find("would be -6") != std::string::npos);
  beam::reference copy = ref;
  CHECK(message([&] { compile(l, 0, 2, copy, {}); }) == text);
}

TEST_CASE("a program moves the reference particle as the survey does, and knows its places") {
  line l;
  l.elements = {make(elements::drift{.length = 0.5}),
                make(elements::bend{.length = 1, .angle = 0.3, .e1 = 0.1}),
                make(elements::marker{}),
                make(elements::rf_cavity{.length = 0.2, .voltage = 3e6, .frequency = 1e9}),
                make(elements::quadrupole{.length = 0.4, .k1 = 2})};
  l.elements[4]->slices = 2;
  const beam::reference start = particle(50);
  const auto places = survey(l, start);
  beam::reference ref = start;
  const std::vector<std::uint8_t> flags = {1, 0, 1, 0, 1};
  const program p = compile(l, 0, 5, ref, {.recorded = flags, .record_slices = true});
  CHECK(ref.s == doctest::Approx(places.back().s).epsilon(1e-15));
  CHECK(ref.kinetic == places.back().kinetic);
  CHECK(p.entrance_energy[0] == start.inverse_beta());
  CHECK(p.entrance_energy[1] == start.inverse_beta_gamma_squared());
  REQUIRE(p.records.size() == 4);
  const std::int32_t recorded[] = {0, 2, 4, 4}, slices[] = {0, 0, 0, 1};
  const double s[] = {0.5, 1.5, 1.9, 2.1};
  for (std::size_t i = 0; i < 4; ++i) {
    CHECK(p.records[i].element == recorded[i]);
    CHECK(p.records[i].slice == slices[i]);
    CHECK(p.records[i].ref.s == doctest::Approx(s[i]).epsilon(1e-15));
  }
  CHECK(p.records[1].ref == places[3]);
  std::int32_t element = 0;
  std::uint32_t record = 0;
  bool refreshed = false;
  for (const operation& op : p.operations) {
    CHECK(op.element >= element);
    element = op.element;
    CHECK(op.s <= places[static_cast<std::size_t>(element) + 1].s * (1 + 1e-15));
    if (op.code == operation::record) CHECK(op.coefficients == record++);
    if (op.code == operation::refresh) {
      CHECK(!refreshed);
      refreshed = true;
      CHECK(op.element == 3);
      CHECK(p.coefficients[op.coefficients] ==
            doctest::Approx(places[4].inverse_beta()).epsilon(1e-15));
      CHECK(p.coefficients[op.coefficients + 1] ==
            doctest::Approx(places[4].inverse_beta_gamma_squared()).epsilon(1e-15));
    }
  }
  CHECK(record == 4);
  CHECK(refreshed);
  CHECK(p.single_coefficients().size() == p.coefficients.size());

  // two stretches are the whole
  beam::reference part = start;
  const program first = compile(l, 0, 3, part, {}), second = compile(l, 3, 5, part, {});
  beam::reference all = start;
  const vector z = coordinates(1, start), whole = track(l, z, all),
               pieces = run(second, run(first, z));
  CHECK(part == all);
  for (std::size_t c = 0; c < 6; ++c) CHECK(whole[c] == doctest::Approx(pieces[c]).epsilon(1e-14));

  // and an empty stretch is nothing
  CHECK(compile(l, 2, 2, part, {}).operations.empty());
}

TEST_CASE("backward undoes forward for every element, model and energy") {
  for_all_elements([](const auto& e, const beam::reference& ref, std::uint64_t number) {
    line l;
    l.elements = {e};
    beam::reference moved = ref;
    const vector z = coordinates(number, ref);
    const double size = largest(derivative_of(l, ref, z));
    const vector there = track(l, z, moved);
    const vector back = track(l, there, moved, direction::backward);
    for (std::size_t c = 0; c < 6; ++c) {
      CAPTURE(c);
      // of coordinates up to 1 cm, amplified on the way back, and of numbers of order one in exact models
      CHECK(std::fabs(back[c] - z[c]) <= 1e-17 * 200 * size * size + 2e-15);
    }
    CHECK(moved.kinetic == doctest::Approx(ref.kinetic).epsilon(1e-14));
    CHECK(std::fabs(moved.s) <= 1e-15);
    for (std::size_t i = 0; i < 3; ++i) CHECK(std::fabs(moved.position[i]) <= 1e-14);
  });
}

TEST_CASE("every element is symplectic in every model, up to the ratio of momenta") {
  for_all_elements([](const auto& e, const beam::reference& ref, std::uint64_t number) {
    line l;
    l.elements = {e};
    beam::reference behind = ref;
    const matrix6 j = derivative(l, 0, 1, behind, coordinates(number, ref)).matrix;
    const double factor = ref.beta_gamma() / behind.beta_gamma();
    const double size = largest(j);
    double worst = 0;
    for (std::size_t a = 0; a < 6; ++a) {
      for (std::size_t b = 0; b < 6; ++b) {
        double sum = 0;
        for (std::size_t q = 0; q < 6; q += 2) {
          sum += j[6 * q + a] * j[6 * (q + 1) + b] - j[6 * (q + 1) + a] * j[6 * q + b];
        }
        worst = std::fmax(
            worst, std::fabs(sum - (a / 2 == b / 2 && a != b ? (a < b ? factor : -factor) : 0)));
      }
    }
    CHECK(worst <= 3e-14 * size * size);
  });
}

TEST_CASE("the derivative is the limit of differences") {
  for_all_elements([](const auto& e, const beam::reference& ref, std::uint64_t number) {
    line l;
    l.elements = {e};
    beam::reference behind = ref;
    const vector start = coordinates(number, ref);
    const auto d = derivative(l, 0, 1, behind, start);
    const vector end = track(l, start, behind = ref);
    const double size = largest(d.matrix), h = 1e-4;
    for (std::size_t k = 0; k < 6; ++k) {
      const auto difference = [&](double step) {
        vector plus = start, minus = start;
        plus[k] += step;
        minus[k] -= step;
        const vector a = track(l, plus, behind = ref), b = track(l, minus, behind = ref);
        vector r;
        for (std::size_t i = 0; i < 6; ++i) r[i] = (a[i] - b[i]) / (2 * step);
        return r;
      };
      const double step = k == 5 ? h * ref.beta() : h;
      const vector coarse = difference(step), fine = difference(step / 2);
      for (std::size_t i = 0; i < 6; ++i) {
        CAPTURE(i);
        CAPTURE(k);
        // Richardson: the error of order h^2 is taken out; rounding of numbers of order one over h remains
        const double expected = (4 * fine[i] - coarse[i]) / 3;
        // (of order h^4 remains too; slow particles in cavities have the largest fifth derivatives)
        CHECK(std::fabs(d.matrix[6 * i + k] - expected) <= 3e-8 * size / ref.beta());
      }
      CHECK(d.orbit[k] == doctest::Approx(end[k]).epsilon(1e-13));
    }
  });
}

TEST_CASE("the linear model is the derivative of the paraxial one at the reference orbit") {
  for_all_elements([](const auto& e, const beam::reference& ref, std::uint64_t number) {
    if (e->model != model::linear || e->slices > 1) return;  // slices follow their own orbit
    line linear, paraxial;
    linear.elements = {e};
    paraxial.elements = {std::make_shared<element>(*e)};
    paraxial.elements[0]->model = model::paraxial;
    const matrix6 m = derivative_of(paraxial, ref);
    const double size = largest(m);
    beam::reference behind = ref;
    const vector z = coordinates(number, ref), orbit = track(linear, {}, behind),
                 end = track(linear, z, behind = ref);
    for (std::size_t i = 0; i < 6; ++i) {
      double expected = orbit[i];
      for (std::size_t k = 0; k < 6; ++k) expected += m[6 * i + k] * z[k];
      CHECK(std::fabs(end[i] - expected) <= 1e-16 * size + 2.3e-16 * std::fabs(orbit[i]));
    }
    const vector paraxial_orbit = track(paraxial, {}, behind = ref);
    for (std::size_t i = 0; i < 6; ++i) {
      CHECK(std::fabs(orbit[i] - paraxial_orbit[i]) <= 1e-16 * size);
    }
  });
}

TEST_CASE("slices are the whole where maps are closed solutions") {
  for (double beta_gamma : beta_gammas) {
    const beam::reference ref = particle(beta_gamma);
    const vector z = coordinates(5, ref);
    const std::vector<elements::kind> bodies = {
        elements::drift{.length = 1.1},
        elements::quadrupole{.length = 0.6, .k1 = -3},
        elements::bend{.length = 0.9,
                       .angle = 0.5,
                       .k1 = 0.7,
                       .e1 = 0.2,
                       .e2 = -0.1,
                       .fint2 = 0.4,
                       .hgap = 0.02},
        elements::solenoid{.length = 0.8, .ks = 1.3},
        elements::instrument{.length = 0.3},
        elements::constant_focusing{.length = 0.4, .kx = 1, .ky = -2}};
    for (const auto& body : bodies) {
      for (const alignment& align : {alignment{.dx = 1e-3, .dy = 2e-3, .roll = 0.2},
                                     alignment{1e-3, 2e-3, -1e-3, 0.01, 0.02, 0.2, true}}) {
        line whole, sliced;
        whole.elements = {make(body)};
        sliced.elements = {make(body)};
        sliced.elements[0]->slices = 5;
        sliced.elements[0]->align = whole.elements[0]->align = align;
        CAPTURE(describe(*whole.elements[0]));
        beam::reference a = ref, b = ref;
        const vector one = track(whole, z, a), many = track(sliced, z, b);
        const double size = largest(derivative_of(whole, ref, z));
        // lengths of drifts to and fro are of the size of the coordinates, sums in patches of order 1
        const double rounding = align.about_center ? 2e-15 : 1e-16 * size;
        for (std::size_t c = 0; c < 6; ++c) CHECK(std::fabs(one[c] - many[c]) <= rounding);
        CHECK(a.s == doctest::Approx(b.s).epsilon(1e-15));
      }
    }
  }
}

TEST_CASE("matrices of textbooks") {
  const beam::reference ref = particle(2);
  const auto check = [&](const elements::kind& body,
                         std::initializer_list<std::pair<std::size_t, double>> entries) {
    line l;
    l.elements = {make(body)};
    const matrix6 m = derivative_of(l, ref);
    CAPTURE(describe(*l.elements[0]));
    for (const auto& entry : entries) {
      CAPTURE(entry.first);
      CHECK(std::fabs(m[entry.first] - entry.second) <=
            4e-16 * std::fmax(1, std::fabs(entry.second)));
    }
  };
  const auto at = [](std::size_t i, std::size_t k) { return 6 * (i - 1) + (k - 1); };  // R_ik
  check(elements::drift{.length = 1.5},
        {{at(1, 1), 1}, {at(1, 2), 1.5}, {at(3, 4), 1.5}, {at(5, 6), 1.5 / 4}, {at(2, 1), 0}});
  check(elements::quadrupole{.length = 0.5, .k1 = 4}, {{at(1, 1), std::cos(1.0)},
                                                       {at(1, 2), std::sin(1.0) / 2},
                                                       {at(2, 1), -2 * std::sin(1.0)},
                                                       {at(3, 3), std::cosh(1.0)},
                                                       {at(3, 4), std::sinh(1.0) / 2},
                                                       {at(4, 3), 2 * std::sinh(1.0)}});
  // a sector bend of radius 2 and 0.6 rad; the dispersion is with respect to pt, that is -1/beta of delta
  const double theta = 0.6, rho = 2, beta = ref.beta();
  check(elements::bend{.length = rho * theta, .angle = theta},
        {{at(1, 1), std::cos(theta)},
         {at(1, 2), rho * std::sin(theta)},
         {at(2, 1), -std::sin(theta) / rho},
         {at(1, 6), -rho * (1 - std::cos(theta)) / beta},
         {at(2, 6), -std::sin(theta) / beta},
         {at(5, 1), std::sin(theta) / beta},
         {at(5, 2), rho * (1 - std::cos(theta)) / beta},
         {at(3, 4), rho * theta},
         {at(4, 3), 0}});
  // a rectangular one is a drift horizontally and focuses vertically in its faces
  check(elements::bend{.length = rho * theta, .angle = theta, .e1 = theta / 2, .e2 = theta / 2},
        {{at(1, 1), 1},
         {at(1, 2), rho * std::sin(theta)},
         {at(2, 1), 0},
         {at(3, 3), 1 - theta * std::tan(theta / 2)}});
  // a solenoid: rotation by ks L/2 times focusing (Larmor)
  const double phi = 0.4, c = std::cos(phi), s = std::sin(phi);
  check(elements::solenoid{.length = 0.5, .ks = 2 * phi / 0.5},
        {{at(1, 1), c * c}, {at(1, 3), s * c}, {at(3, 1), -s * c}, {at(1, 2), s * c * 0.5 / phi}});
  // a cavity on crest: slope of -cos at the top is 0; at -pi/2 it turns t into pt
  const double mc2 = ref.particle.mass_eV, k = 2 * pi * 1e9 / 299792458;
  check(elements::rf_cavity{.voltage = 0.1 * mc2, .frequency = 1e9, .phase = -pi / 2},
        {{at(6, 5), -0.1 * k / 2}, {at(2, 2), 1}});
}

TEST_CASE("fields act with the sign of the charge, normalised strengths do not") {
  const auto matrix_of = [](const elements::kind& body, const char* species) {
    line l;
    l.elements = {make(body)};
    return derivative_of(l, particle(300, species));
  };
  for (const bool by_field : {true, false}) {
    const elements::kind quadrupole = by_field ? elements::quadrupole{.length = 0.3, .gradient = 2}
                                               : elements::quadrupole{.length = 0.3, .k1 = 3};
    const elements::kind solenoid = by_field ? elements::solenoid{.length = 0.3, .field = 0.5}
                                             : elements::solenoid{.length = 0.3, .ks = 0.9};
    const matrix6 q = matrix_of(quadrupole, "electron"), q_anti = matrix_of(quadrupole, "positron");
    const matrix6 s = matrix_of(solenoid, "electron"), s_anti = matrix_of(solenoid, "positron");
    CHECK(q[6] == (by_field ? q_anti[20] : q_anti[6]));  // x of one is y of the other
    CHECK(q[6] * (by_field ? 1 : -1) > 0);               // a positive gradient defocuses electrons
    CHECK(s[2] == (by_field ? -s_anti[2] : s_anti[2]));
    CHECK(s[6] == s_anti[6]);
  }
}

TEST_CASE("an element that cannot be undone is named") {
  line l;
  l.elements = {make(elements::linear_map{.matrix = std::vector<double>(36, 0.0)})};
  l.elements[0]->name = "target";
  beam::reference ref = particle(3);
  compile(l, 0, 1, ref, {});
  try {
    compile(l, 0, 1, ref, {.way = direction::backward});
    FAIL("no exception");
  } catch (const std::invalid_argument& e) {
    CHECK(std::string(e.what()) ==
          "LinearMap 'target': a singular linear map cannot be tracked backwards");
  }
  l.elements = {make(elements::taylor_map{.coefficients = std::vector<double>(168, 0.0)})};
  l.elements[0]->name = "cell";
  try {
    compile(l, 0, 1, ref, {.way = direction::backward});
    FAIL("no exception");
  } catch (const std::invalid_argument& e) {
    CHECK(std::string(e.what()) ==
          "TaylorMap 'cell': the inverse of a Taylor map of order 2 is no polynomial");
  }
}
