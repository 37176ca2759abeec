// A network as a map of coordinates: derivatives against differences, the way to a fixed time and back, the reference
// particle.
#include <doctest/doctest.h>

#include <cmath>
#include <stdexcept>

#include "beam/reference.h"
#include "beam/species.h"
#include "networks.h"
#include "surrogate/network_map.h"

using namespace betatron;
using namespace betatron::surrogate;

namespace {

constexpr std::size_t particles = 450, lanes = 464;  // more than one part of a tile

template <class F>
struct tile {
  std::vector<std::vector<F>> columns{6, std::vector<F>(lanes)};
  std::vector<F> weight = std::vector<F>(particles, F(1));
  std::vector<std::uint64_t> id = std::vector<std::uint64_t>(particles);
  std::vector<std::uint8_t> outside = std::vector<std::uint8_t>(particles);

  explicit tile(unsigned seed) {
    std::mt19937 generator(seed);
    std::normal_distribution<double> normal;
    for (auto& c : columns) {
      for (std::size_t i = 0; i < particles; ++i) c[i] = static_cast<F>(0.1 * normal(generator));
    }
  }
  elements::code_tile<F> view() {
    elements::code_tile<F> t{};
    for (std::size_t k = 0; k < 6; ++k) t.z[k] = columns[k].data();
    t.weight = weight.data();
    t.id = id.data();
    t.count = particles;
    t.padded = lanes;
    t.outside = outside.data();
    return t;
  }
};

/// Near the identity, for coordinates of order 0.1 and momenta along the axis of order `momentum`.
network near_identity(double momentum, bool fixed_time) {
  network n = random_network(1, 12, activation::tanh);
  for (double& w : n.layers[1].weights) w *= 0.1;
  n.layers[1].skip = 0;
  n.input = {};
  n.output = {};
  if (fixed_time) {
    n.input.scale = {1, 1, 1, 1 / momentum, 1 / momentum, 1 / momentum};
    n.output.scale = {1, 1, 1, momentum, momentum, momentum};
  }
  return n;
}

}  // namespace

TEST_CASE("pull is the transposed derivative of push") {
  const auto electron = beam::make_species("electron");
  const auto entrance = beam::reference::from_kinetic_energy(electron, 3e6);
  for (const coordinate_form form : {coordinate_form::canonical, coordinate_form::fixed_time}) {
    network_map m{"map",
                  near_identity(entrance.beta_gamma(), form == coordinate_form::fixed_time),
                  number_format::double_,
                  form,
                  0.2,
                  5e5,
                  -0.01,
                  0.02};
    beam::reference exit = entrance;
    advance(m, exit, {m.length, 0, 1});
    const elements::code_place place{entrance, exit, m.length, 0, 1};
    const auto code = code_of(m);
    tile<double> start(1), lambda(2);
    double* bar[6];
    for (std::size_t k = 0; k < 6; ++k) bar[k] = lambda.columns[k].data();
    const auto weights = lambda.columns;
    code->pull_double(place, start.view(), bar);
    const double h = 1e-6;
    for (std::size_t j = 0; j < 6; ++j) {
      tile<double> up = start, down = start;
      for (double& v : up.columns[j]) v += h;
      for (double& v : down.columns[j]) v -= h;
      code->push_double(place, up.view());
      code->push_double(place, down.view());
      for (const std::size_t i : std::vector<std::size_t>{0, 1, 77, 383, 384, 449}) {
        double sum = 0;
        for (std::size_t k = 0; k < 6; ++k) {
          sum += weights[k][i] * (up.columns[k][i] - down.columns[k][i]) / (2 * h);
        }
        CAPTURE(j);
        CAPTURE(i);
        CHECK(lambda.columns[j][i] == doctest::Approx(sum).epsilon(1e-6).scale(0.1));
      }
    }
    tile<float> single(1);  // the same particles
    code->push_single(place, single.view());
    tile<double> wide = start;
    code->push_double(place, wide.view());
    for (std::size_t k = 0; k < 6; ++k) {
      CHECK(double(single.columns[k][5]) == doctest::Approx(wide.columns[k][5]).epsilon(1e-4));
    }
  }
}

TEST_CASE("to a fixed time and back is nothing") {
  const auto electron = beam::make_species("electron");
  const auto ref = beam::reference::from_kinetic_energy(electron, 3e6);
  network n;
  dense_layer l;
  l.inputs = l.outputs = 6;
  l.weights.assign(36, 0.0);
  for (std::size_t k = 0; k < 6; ++k) l.weights[7 * k] = 1;
  n.layers.push_back(l);
  network_map m{"nothing", n, number_format::double_, coordinate_form::fixed_time, 0, 0, 0.3, 0.3};
  const auto code = code_of(m);
  tile<double> t(3);
  t.columns[1][9] = 3;  // faster across than it is at all
  const auto before = t.columns;
  code->push_double({ref, ref, 0, 0, 1}, t.view());
  for (std::size_t i = 0; i < particles; ++i) {
    for (std::size_t k = 0; k < 6; ++k) {
      if (i == 9) {
        CHECK(std::isnan(t.columns[k][i]));
      } else {
        CHECK(t.columns[k][i] == doctest::Approx(before[k][i]).epsilon(1e-12).scale(1));
      }
    }
  }
}

TEST_CASE("the reference particle gains its energy, and pieces add up") {
  const auto start = beam::reference::from_kinetic_energy(beam::make_species("electron"), 1e6);
  const network_map m{"gain",
                      random_network(1, 4, activation::relu),
                      number_format::single,
                      coordinate_form::canonical,
                      2.0,
                      4e6};
  beam::reference whole = start, pieces = start;
  advance(m, whole, {2.0, 0, 1});
  advance(m, pieces, {2.0, 0, 0.25});
  advance(m, pieces, {2.0, 0.25, 1});
  CHECK(whole.kinetic_energy() == doctest::Approx(5e6).epsilon(1e-13));
  CHECK(pieces.kinetic == doctest::Approx(whole.kinetic).epsilon(1e-14));
  CHECK(pieces.t == doctest::Approx(whole.t).epsilon(1e-14));
  double clock = 0;  // the integral of 1/beta
  const int steps = 100000;
  for (int i = 0; i < steps; ++i) {
    const double gamma = start.gamma() + (whole.gamma() - start.gamma()) * (i + 0.5) / steps;
    clock += gamma / std::sqrt(gamma * gamma - 1) * 2.0 / steps;
  }
  CHECK(whole.t == doctest::Approx(clock).epsilon(1e-9));
  advance(m, whole, {2.0, 1, 0});
  CHECK(whole.kinetic == doctest::Approx(start.kinetic).epsilon(1e-13));
  CHECK(whole.t == doctest::Approx(0.0).scale(1));
  const network_map loss{"loss",
                         random_network(1, 4, activation::relu),
                         number_format::single,
                         coordinate_form::canonical,
                         2.0,
                         -2e6};
  CHECK_THROWS_AS(advance(loss, whole, {2.0, 0, 1}), std::domain_error);
  CHECK_THROWS_AS(advance(m, whole, {1.0, 0, 1}), std::domain_error);  // of another length
  CHECK_THROWS_AS(coordinate_form_named("polar"), std::invalid_argument);
}
