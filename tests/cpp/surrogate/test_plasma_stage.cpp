// Structured plasma stages: what they conserve, their derivatives, both precisions, the domain, the reference particle.
#include "surrogate/plasma_stage.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <stdexcept>
#include <utility>
#include <vector>

#include "beam/species.h"
#include "numerics/random.h"

namespace {

using namespace betatron;
using namespace betatron::surrogate;
using numerics::uniform;

constexpr double gamma_in = 2000;

/// A network with random weights around the WKB map of a stage of 28 cm.
stage_description random_stage(std::uint64_t seed) {
  auto number = [&, n = std::uint64_t{0}]() mutable { return 2 * uniform(seed, 0, n++) - 1; };
  stage_description d;
  d.name = "random";
  d.length = 0.28;
  d.focusing = 3e9;
  d.amplitude = 1e-5;
  d.xi = -63e-6;
  using sizes = std::pair<std::size_t, std::size_t>;
  for (const auto& [inputs, outputs] : {sizes{5, 9}, sizes{9, 7}}) {
    dense_layer l;
    l.name = "layer";
    l.inputs = inputs;
    l.outputs = outputs;
    for (std::size_t i = 0; i < inputs * outputs; ++i) l.weights.push_back(0.7 * number());
    for (std::size_t i = 0; i < outputs; ++i) l.bias.push_back(number());
    if (d.net.layers.empty()) l.function = activation::tanh;
    d.net.layers.push_back(l);
  }
  d.net.input = {{-63e-6, 1 / std::sqrt(gamma_in), 2e-5, 2e-5, 0},
                 {1 / 2e-6, 30 * std::sqrt(gamma_in), 1 / 2e-5, 1 / 2e-5, 1 / 2e-5}};
  d.net.output = {{-2, 0, 0, 0, 0, 14000, -1e-7}, {1, 0.05, 0.05, 0.05, 0.05, 300, 1e-7}};
  d.domain.lower = {-73e-6, 0.8 / std::sqrt(gamma_in), 0, 0, -1e-3};
  d.domain.upper = {-53e-6, 1.25 / std::sqrt(gamma_in), 1e-3, 1e-3, 1e-3};
  d.domain.centre = {-63e-6, 1 / std::sqrt(gamma_in), 2e-5, 2e-5, 0};
  d.domain.whitening[0] = 1 / 5e-6;
  d.domain.whitening[6] = 10 * std::sqrt(gamma_in);
  for (const std::size_t i : {std::size_t{12}, std::size_t{18}, std::size_t{24}})
    d.domain.whitening[i] = 1 / 4e-5;
  d.domain.limit = 8;
  d.gain = {14000, -7e8, 1e12};
  d.xi_centre = -63e-6;
  d.constant = {-2, 0, 0, 0, 0, 0, -1e-7};
  return d;
}

beam::reference electron(double gamma = gamma_in) {
  return beam::reference::from_gamma(beam::make_species("electron"), gamma);
}

template <class F>
struct particles {
  std::array<std::vector<F>, 6> z;
  std::vector<F> weight;
  std::vector<std::uint64_t> id;
  std::vector<std::uint8_t> outside;
  std::size_t count;

  explicit particles(std::size_t n) : weight(n, F(1)), id(n), outside(n), count(n) {
    for (auto& c : z) c.resize((n + 31) / 32 * 32);
  }
  elements::code_tile<F> tile() {
    return {{z[0].data(), z[1].data(), z[2].data(), z[3].data(), z[4].data(), z[5].data()},
            weight.data(),
            id.data(),
            count,
            z[0].size(),
            outside.data()};
  }
};

template <class F = double>
particles<F> draw(std::size_t n, std::uint64_t seed) {
  particles<F> p(n);
  const double size[6] = {2e-6, 2e-3, 2e-6, 2e-3, 2e-6, 0.05};
  for (std::size_t k = 0; k < 6; ++k) {
    for (std::size_t i = 0; i < n; ++i) {
      p.z[k][i] = static_cast<F>(size[k] * (2 * uniform(seed, k + 1, i) - 1));
    }
  }
  return p;
}

struct passage {
  plasma_stage stage;
  beam::reference before, after;
  std::shared_ptr<const elements::tile_code> code;

  explicit passage(const plasma_stage& s)
      : stage(s), before(electron()), after(before), code(s.code()) {
    stage.advance(after, {stage.description().length, 0, 1});
  }
  elements::code_place place() const { return {before, after, 0.28, 0, 1}; }
};

TEST_CASE("plasma stage: the axis and angular momentum stay") {
  const passage p(plasma_stage(random_stage(1), outside_policy::warn));
  auto beam = draw(500, 2);
  const auto start = beam;
  p.code->push_double(p.place(), beam.tile());
  for (std::size_t i = 0; i < beam.count; ++i) {
    const double before = start.z[0][i] * start.z[3][i] - start.z[2][i] * start.z[1][i];
    const double after = beam.z[0][i] * beam.z[3][i] - beam.z[2][i] * beam.z[1][i];
    CHECK(after * p.after.beta_gamma() ==
          doctest::Approx(before * p.before.beta_gamma()).epsilon(1e-9));
  }
  particles<double> axis(1);
  p.code->push_double(p.place(), axis.tile());
  for (std::size_t k = 0; k < 4; ++k) CHECK(axis.z[k][0] == 0);
  CHECK(std::abs(axis.z[4][0]) < 1e-15);
  CHECK(std::abs(axis.z[5][0]) < 1e-13);
}

TEST_CASE("plasma stage: vector-Jacobian product against differences") {
  for (const auto policy : {outside_policy::warn, outside_policy::fallback}) {
    const passage p(plasma_stage(random_stage(3), policy));
    auto beam = draw(300, 4);
    for (std::size_t i = 0; i < 20; ++i) beam.z[4][i] += 2e-5;  // outside
    const auto start = beam;
    std::array<std::vector<double>, 6> lambda;
    double* pointers[6];
    const double scale[6] = {1e6, 1e3, 1e6, 1e3, 1e6, 10};
    for (std::size_t k = 0; k < 6; ++k) {
      lambda[k].resize(beam.z[0].size());
      for (std::size_t i = 0; i < 300; ++i) lambda[k][i] = scale[k] * (uniform(5, k, i) - 0.5);
      pointers[k] = lambda[k].data();
    }
    const auto given = lambda;
    p.code->pull_double(p.place(), beam.tile(), pointers);
    for (std::size_t k = 0; k < 6; ++k) CHECK(beam.z[k] == start.z[k]);
    const double step[6] = {1e-11, 1e-8, 1e-11, 1e-8, 1e-11, 1e-7};
    for (std::size_t k = 0; k < 6; ++k) {
      auto up = start, down = start;
      for (double& v : up.z[k]) v += step[k];
      for (double& v : down.z[k]) v -= step[k];
      p.code->push_double(p.place(), up.tile());
      p.code->push_double(p.place(), down.tile());
      double largest = 0, worst = 0;
      for (std::size_t i = 0; i < 300; ++i) {
        double slope = 0;
        for (std::size_t j = 0; j < 6; ++j) {
          slope += given[j][i] * (up.z[j][i] - down.z[j][i]) / (2 * step[k]);
        }
        largest = std::max(largest, std::abs(slope));
        worst = std::max(worst, std::abs(slope - lambda[k][i]));
      }
      CAPTURE(k);
      CHECK(worst < 1e-5 * largest);
    }
  }
}

TEST_CASE("plasma stage: single precision is double precision, rounded") {
  const passage p(plasma_stage(random_stage(6), outside_policy::warn));
  auto single = draw<float>(333, 7);
  particles<double> wide(333);
  for (std::size_t k = 0; k < 6; ++k) std::copy_n(single.z[k].begin(), 333, wide.z[k].begin());
  p.code->push_single(p.place(), single.tile());
  p.code->push_double(p.place(), wide.tile());
  for (std::size_t k = 0; k < 6; ++k) {
    double largest = 0, worst = 0;
    for (std::size_t i = 0; i < 333; ++i) {
      largest = std::max(largest, std::abs(wide.z[k][i]));
      worst = std::max(worst, std::abs(wide.z[k][i] - static_cast<double>(single.z[k][i])));
    }
    CAPTURE(k);
    CHECK(worst < 1e-4 * largest);
  }
  for (std::size_t k = 0; k < 6; ++k) {
    for (const float v : single.z[k]) CHECK(std::isfinite(v));  // padding, too
  }
}

TEST_CASE("plasma stage: particles outside of the domain") {
  const auto push = [](outside_policy policy, particles<double>& beam) {
    const passage p(plasma_stage(random_stage(8), policy));
    p.code->push_double(p.place(), beam.tile());
    return p.stage.counts();
  };
  auto beam = draw(400, 9);
  for (std::size_t i = 0; i < 30; ++i) beam.z[4][3 * i] = -2e-5;
  const auto start = beam;
  stage_counts c = push(outside_policy::warn, beam);
  CHECK(c.passed == 400);
  CHECK(c.outside == 30);
  CHECK(std::ranges::count(beam.outside, 1) == 0);

  auto lost = start;
  push(outside_policy::lose, lost);
  CHECK(std::ranges::count(lost.outside, 1) == 30);

  auto fallen = start;
  push(outside_policy::fallback, fallen);
  for (std::size_t i = 0; i < 400; ++i) {
    CHECK((fallen.z[0][i] == beam.z[0][i]) == !(i % 3 == 0 && i < 90));
  }
  auto stopped = start;  // marked, for tracking to stop
  push(outside_policy::stop, stopped);
  CHECK(stopped.outside == lost.outside);
  CHECK(!plasma_stage(random_stage(8), outside_policy::stop).code()->stops.empty());
  CHECK(plasma_stage(random_stage(8), outside_policy::lose).code()->stops.empty());
  CHECK_THROWS_AS(outside_policy_named("ignore"), std::invalid_argument);
}

TEST_CASE("plasma stage: the reference particle, in pieces and back") {
  const plasma_stage s(random_stage(10), outside_policy::warn);
  auto whole = electron(), pieces = whole;
  s.advance(whole, {0.28, 0, 1});
  s.advance(pieces, {0.28, 0, 0.4});
  s.advance(pieces, {0.28, 0.4, 1});
  CHECK(whole.gamma() > 15000);
  CHECK(pieces.gamma() == doctest::Approx(whole.gamma()).epsilon(1e-13));
  CHECK(pieces.t == doctest::Approx(whole.t).epsilon(1e-13));
  auto back = whole;
  s.advance(back, {0.28, 1, 0});
  CHECK(back.gamma() == doctest::Approx(gamma_in).epsilon(1e-12));
  CHECK(std::abs(back.s) < 1e-16);
  CHECK(std::abs(back.t) < 1e-15);
  auto positron = beam::reference::from_gamma(beam::make_species("positron"), gamma_in);
  CHECK_THROWS_AS(s.advance(positron, {0.28, 0, 1}), std::domain_error);
}

TEST_CASE("plasma stage: what is wrong with a description is said") {
  const auto refused = [](auto&& change) {
    stage_description d = random_stage(11);
    change(d);
    CHECK_THROWS_AS(plasma_stage(d, outside_policy::warn), std::invalid_argument);
  };
  refused([](stage_description& d) { d.length = 0; });
  refused([](stage_description& d) { d.focusing = -1; });
  refused([](stage_description& d) { d.amplitude = NAN; });
  refused([](stage_description& d) { d.net.layers.pop_back(); });
  refused([](stage_description& d) { d.net.layers[0].weights[3] = NAN; });
  refused([](stage_description& d) { d.domain.upper[2] = -1; });
  refused([](stage_description& d) { d.domain.whitening[1] = 1; });
  refused([](stage_description& d) { d.gain[1] = INFINITY; });
  auto ref = electron();
  CHECK_THROWS_AS(plasma_stage(random_stage(11), outside_policy::warn).advance(ref, {0.14, 0, 1}),
                  std::domain_error);
}

TEST_CASE("plasma stage: weights of particles inside, by distance") {
  stage_description d = random_stage(8);
  d.distances = {0.6, 0.7, 8};
  const plasma_stage stage(d, outside_policy::warn);
  const passage p(stage);
  auto beam = draw(400, 9);
  for (std::size_t i = 0; i < 400; ++i) beam.weight[i] = i < 200 ? 0.5 : 3;
  for (std::size_t i = 0; i < 30; ++i) beam.z[4][i] = -2e-5;
  p.code->push_double(p.place(), beam.tile());
  const stage_counts c = stage.counts();
  CHECK(c.outside == 30);
  REQUIRE(c.by_distance.size() == 3);
  CHECK(c.by_distance[0] + c.by_distance[1] + c.by_distance[2] == 170 * 0.5 + 200 * 3);
  for (const double w : c.by_distance) CHECK(w > 0);
}

TEST_CASE("plasma stage: the physics model is late by the longer way of an oscillation") {
  stage_description d = random_stage(13);
  d.domain.limit = 1e-3;  // all are outside
  d.gain = {0, 0, 0};     // so that the energy stays
  const passage p(plasma_stage(d, outside_policy::fallback));
  particles<double> beam(2);
  const double radius = 4e-6;
  beam.z[0][1] = radius;
  p.code->push_double(p.place(), beam.tile());
  const double gamma = p.before.gamma(), k2 = d.focusing / gamma;
  // <x'^2>/2 = k2 x^2/4
  CHECK(beam.z[4][1] - beam.z[4][0] ==
        doctest::Approx(0.28 * k2 * radius * radius / 4).epsilon(1e-3));
}

}  // namespace
