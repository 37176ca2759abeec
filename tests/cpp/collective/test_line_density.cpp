// The line density: charge, first moments, interpolation with the same weights, the filter, convolutions.
#include "collective/line_density.h"

#include <doctest/doctest.h>

#include <cmath>
#include <vector>

#include "beam/bunch.h"
#include "collective/energy_kick.h"
#include "numerics/random.h"

namespace {

using namespace betatron;
using collective::line_options;
using collective::shape;

beam::bunch random_bunch(std::size_t n, beam::precision p = beam::precision::double_) {
  beam::bunch b(beam::reference::from_kinetic_energy(beam::make_species("electron"), 1e8), n, p);
  b.visit([&](const auto& c) {
    using F = typename std::remove_cvref_t<decltype(c)>::value_type;
    for (std::size_t i = 0; i < n; ++i) {
      for (std::size_t k = 0; k < 6; ++k) {
        c.z[k][i] = static_cast<F>(1e-3 * numerics::normal(3, k, i));
      }
      c.weight[i] = static_cast<F>(1e5 * numerics::uniform(4, 0, i));
    }
  });
  return b;
}

}  // namespace

TEST_CASE("charge and its first moments stay, for every shape, precision and number of threads") {
  for (const auto p : {beam::precision::double_, beam::precision::single}) {
    const beam::bunch b = random_bunch(70001, p);
    for (const shape s : {shape::linear, shape::quadratic}) {
      for (const int smoothing : {0, 3}) {
        const line_options o{40, s, smoothing};
        const auto grid = collective::grid_over(b, o, "test", 1);
        const auto d = collective::deposit(b, grid, o, true, 1);
        CHECK(d.total() == doctest::Approx(std::fabs(b.charge())).epsilon(1e-12));
        double t = 0, x = 0;
        for (std::size_t i = 0; i < grid.nodes; ++i) {
          t += d.charge[i] * grid.node(i);
          x += d.x_charge[i];
        }
        const auto m = b.moments();
        CHECK(t / d.total() == doctest::Approx(m.mean[4]).epsilon(1e-8));
        CHECK(x / d.total() == doctest::Approx(m.mean[0]).epsilon(1e-8));
        const auto again =
            collective::deposit(b, collective::grid_over(b, o, "test", 5), o, true, 5);
        CHECK(d.charge == again.charge);
        CHECK(d.y_charge == again.y_charge);
      }
    }
  }
}

TEST_CASE("energy lost is the sum over nodes of charge times gain") {
  for (const shape s : {shape::linear, shape::quadratic}) {
    beam::bunch b = random_bunch(20000);
    const line_options o{30, s, 0};
    const auto grid = collective::grid_over(b, o, "test", 1);
    const auto d = collective::deposit(b, grid, o, false, 1);
    std::vector<double> gain(grid.nodes);
    for (std::size_t i = 0; i < gain.size(); ++i) gain[i] = 1e3 * std::sin(static_cast<double>(i));
    const double before = b.moments().mean[5];
    collective::add_energy(b, grid, s, gain, 2);
    double exact = 0;
    for (std::size_t i = 0; i < gain.size(); ++i) exact += gain[i] * d.charge[i];
    const double change = -(b.moments().mean[5] - before) * b.ref.momentum();
    CHECK(change == doctest::Approx(exact / d.total()).epsilon(1e-9));
  }
}

TEST_CASE("the filter keeps the sum and takes the fastest oscillation away") {
  std::vector<double> q(51);
  for (std::size_t i = 0; i < q.size(); ++i) q[i] = 1 + (i % 2 == 0 ? 0.5 : -0.5);
  double before = 0, after = 0;
  for (const double v : q) before += v;
  collective::smooth(q, 1);
  for (const double v : q) after += v;
  CHECK(after == doctest::Approx(before).epsilon(1e-14));
  for (std::size_t i = 1; i + 1 < q.size(); ++i) CHECK(q[i] == doctest::Approx(1).epsilon(1e-14));
}

TEST_CASE("derivative and convolution") {
  std::vector<double> q(20), kernel(39);
  for (std::size_t i = 0; i < q.size(); ++i) q[i] = 3.0 * static_cast<double>(i);
  for (const double slope : collective::derivative(q, 0.5)) {
    CHECK(slope == doctest::Approx(12));
  }
  kernel[19 + 4] = 2;  // what comes four nodes later
  const auto r = collective::convolve(q, kernel);
  for (std::size_t i = 0; i < r.size(); ++i) CHECK(r[i] == (i < 4 ? 0 : 2 * q[i - 4]));
  CHECK_THROWS_WITH_AS(collective::convolve(q, q),
                       "convolve: a kernel for 20 nodes has 39 entries, not 20",
                       std::invalid_argument);
}

TEST_CASE("a bunch at one point, an empty one, and one that is not finite") {
  beam::bunch b(beam::reference::from_kinetic_energy(beam::make_species("electron"), 1e8), 3);
  const auto grid = collective::grid_over(b, {}, "test", 1);
  CHECK(grid.is_point);
  CHECK(grid.step > 0);
  CHECK(collective::deposit(b, grid, {}, false, 1).total() > 0);
  b.visit([](const auto& c) { c.z[4][1] = NAN; });
  CHECK_THROWS_WITH_AS(collective::grid_over(b, {}, "test", 1),
                       "test: t of a particle is not finite", std::invalid_argument);
  const beam::bunch none(b.ref, 0);
  CHECK(collective::grid_over(none, {}, "test", 1).nodes == 0);
}
