// What a thread of the device does, run on the host and held against the CPU executor: the same particles, the
// same losses.
#include "tracking/gpu/interpreter.h"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "machines.h"
#include "tracking/cpu/executor.h"

namespace {

using namespace betatron;
using namespace machines;
using tracking::gpu::fate;

/// All particles through the interpreter, in place.
template <class F>
std::vector<beam::bunch::loss> interpret(const lattice::program& p,
                                         const beam::columns<F>& particles, std::int64_t turns) {
  std::vector<tracking::gpu::instruction> instructions;
  for (const auto& op : p.operations) instructions.push_back({op.code, op.coefficients});
  const std::vector<F> coefficients(p.coefficients.begin(), p.coefficients.end());
  const tracking::gpu::program_view<F> view{
      instructions.data(), static_cast<std::int32_t>(instructions.size()), coefficients.data(),
      static_cast<F>(p.entrance_energy[0]), static_cast<F>(p.entrance_energy[1])};
  std::vector<beam::bunch::loss> losses;
  for (std::size_t i = 0; i < particles.size; ++i) {
    elements::phase_space<F> z{particles.z[0][i], particles.z[1][i], particles.z[2][i],
                               particles.z[3][i], particles.z[4][i], particles.z[5][i]};
    const fate r = tracking::gpu::run_particle(view, turns, z);
    const F after[] = {z.x, z.px, z.y, z.py, z.t, z.pt};
    for (std::size_t c = 0; c < 6; ++c) particles.z[c][i] = after[c];
    if (r.is_lost()) {
      const auto& op = p.operations[static_cast<std::size_t>(r.operation)];
      losses.push_back({i, op.s, r.turn, op.element, r.reason});
    }
  }
  return losses;
}

template <class F>
void compare(const lattice::line& l, const beam::bunch& start, lattice::direction way,
             std::int64_t turns, std::size_t losses_expected,
             elements::longitudinal_boundary boundary = elements::longitudinal_boundary::open) {
  beam::reference end = start.ref;
  const lattice::program p = lattice::compile(
      l, 0, l.elements.size(), end, {.way = way, .boundary = boundary, .bucket_length = 5e-3});
  beam::bunch vectors = start, scalars = start;
  const auto run = [&](auto& b, auto&& f) {
    return b.visit([&](const auto& columns) {
      if constexpr (std::is_same_v<std::remove_cvref_t<decltype(columns)>, beam::columns<F>>) {
        return f(columns);
      } else {
        return std::vector<beam::bunch::loss>{};
      }
    });
  };
  const auto expected = run(vectors, [&](const beam::columns<F>& c) {
    return tracking::run(p, c, {.turns = turns}).losses;
  });
  const auto losses =
      run(scalars, [&](const beam::columns<F>& c) { return interpret(p, c, turns); });

  CHECK(expected.size() == losses_expected);
  REQUIRE(losses.size() == expected.size());
  for (std::size_t i = 0; i < losses.size(); ++i) {
    CHECK(losses[i].index == expected[i].index);
    CHECK(losses[i].s == expected[i].s);
    CHECK(losses[i].turn == expected[i].turn);
    CHECK(losses[i].element == expected[i].element);
    CHECK(losses[i].reason == expected[i].reason);
  }
  // The two differ by the rounding of each operation (fused or not, 1/sqrt in one step or two): it adds up like
  // a random walk over the operations, on top of a growth of the beam that both share.
  const double steps = static_cast<double>(p.operations.size()) * static_cast<double>(turns);
  const double eps = static_cast<double>(std::numeric_limits<F>::epsilon());
  for (std::size_t c = 0; c < 6; ++c) {
    double size = 0, worst = 0;
    for (std::size_t i = 0; i < start.size(); ++i) {
      const double a = coordinate(vectors, c, i), b = coordinate(scalars, c, i);
      if (std::isnan(a) && std::isnan(b)) continue;
      if (a == b) continue;  // infinite
      size = std::fmax(size, std::fmin(1, std::fabs(a)));
      worst = std::fmax(worst, std::fabs(a - b));
    }
    if (c == 4) size += 0.01;  // exact maps find t as the difference of path lengths
    CAPTURE(c);
    CHECK(worst <= 20 * std::sqrt(steps) * eps * size);
  }
}

template <class F>
constexpr beam::precision precision_of =
    sizeof(F) == 4 ? beam::precision::single : beam::precision::double_;

}  // namespace

TEST_CASE_TEMPLATE("the interpreter does what the kernels do", F, float, double) {
  const beam::bunch start = bunch(1000, precision_of<F>, {1e-3, 1e-3, 1e-3, 1e-3, 1e-3, 1e-3});
  compare<F>(everything(), start, lattice::direction::forward, 1, 0);
  compare<F>(everything(true), start, lattice::direction::backward, 1, 0);
  compare<F>(fodo(3), start, lattice::direction::forward, 20, 0);
  using enum elements::longitudinal_boundary;
  compare<F>(fodo(3), start, lattice::direction::forward, 2, 0, periodic);
  compare<F>(fodo(3), start, lattice::direction::forward, 2, 0, reflecting);
  compare<F>({}, start, lattice::direction::forward, 3, 0);
  compare<F>(fodo(), bunch(0, precision_of<F>), lattice::direction::forward, 1, 0);
}

TEST_CASE_TEMPLATE("all maps occur in the line that the interpreter is tested with", F, double) {
  std::vector<int> seen(elements::all_maps::size, 0);
  for (const auto way : {lattice::direction::forward, lattice::direction::backward}) {
    const lattice::line l = everything(way == lattice::direction::backward);
    beam::reference ref = electron();
    for (const auto& op : lattice::compile(l, 0, l.elements.size(), ref, {.way = way}).operations) {
      if (op.code < static_cast<int>(seen.size())) ++seen[static_cast<std::size_t>(op.code)];
    }
  }
  for (const int boundary : {elements::all_maps::code<elements::bucket_wrap>(),
                             elements::all_maps::code<elements::bucket_mirror>(),
                             elements::all_maps::code<elements::bucket_filter>()}) {
    seen[static_cast<std::size_t>(boundary)] = 1;  // no elements: see the tests above and below
  }
  // these two are only where spins are tracked, or radiation, which the interpreter is not given
  for (const int other : {elements::all_maps::code<elements::spin_rotation>(),
                          elements::all_maps::code<elements::reference_change>()}) {
    seen[static_cast<std::size_t>(other)] = 1;
  }
  for (std::size_t code = 0; code < seen.size(); ++code) {
    CAPTURE(code);
    CHECK(seen[code] > 0);
  }
}

TEST_CASE_TEMPLATE("the interpreter loses the same particles at the same places", F, float,
                   double) {
  beam::bunch start = bunch(500, precision_of<F>, {1e-3, 1e-4, 1e-3, 1e-4, 1e-3, 1e-3});
  lattice::line l = fodo(2);
  l.elements.insert(l.elements.begin() + 3, make(elements::aperture{.x_max = 0.02, .y_max = 0.02}));
  l.elements.push_back(make(elements::drift{.length = 0.5}, elements::model::exact));
  const double nan = std::numeric_limits<double>::quiet_NaN();
  set(start, 0, 17, 0.05);  // hits the aperture
  set(start, 0, 100, nan);  // not a number where the aperture looks
  set(start, 5, 200, nan);  // not a number where only maps look
  set(start, 1, 300, 0.9);  // hits the aperture later
  set(start, 3, 499, 1.5);  // too steep for the exact drift, unless the aperture has it before
  set(start, 4, 0, std::numeric_limits<double>::infinity());
  compare<F>(l, start, lattice::direction::forward, 3, 6);
  beam::bunch late = bunch(500, precision_of<F>, {1e-3, 1e-4, 1e-3, 1e-4, 1e-6, 1e-3});
  set(late, 4, 30, 2.6e-3);
  set(late, 4, 499, -0.1);
  compare<F>(fodo(2), late, lattice::direction::forward, 3, 2,
             elements::longitudinal_boundary::absorbing);
  // 65 turns: looked at after 64 and after the last
  lattice::line straight;
  straight.elements = {make(elements::drift{.length = 0.1})};
  compare<F>(straight, start, lattice::direction::forward, 65, 3);
}
