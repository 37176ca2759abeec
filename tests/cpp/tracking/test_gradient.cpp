// Reverse mode against central differences and against forward mode; what kernels do with directions.
#include <doctest/doctest.h>

#include <cmath>
#include <vector>

#include "machines.h"
#include "tracking/gradient.h"

namespace {

using namespace betatron;
using tracking::gradient;
using tracking::gradient_options;

/// Covectors of the final coordinates, the same in both precisions.
template <class F>
std::vector<F> covectors(std::size_t n) {
  std::vector<F> lambda(6 * n);
  for (std::size_t i = 0; i < lambda.size(); ++i) {
    lambda[i] = static_cast<F>(numerics::normal(5, 0, i));
  }
  return lambda;
}

template <class F>
tracking::pull_request<F> request_of(const std::vector<F>& lambda, std::vector<F>& initial) {
  tracking::pull_request<F> r;
  const std::size_t n = lambda.size() / 6;
  initial.resize(6 * n);
  for (std::size_t c = 0; c < 6; ++c) {
    r.by_particles[c] = lambda.data() + c * n;
    r.initial[c] = initial.data() + c * n;
  }
  return r;
}

gradient_options all_knobs(const lattice::line& l) {
  gradient_options o;
  o.reference_energy = true;
  for (const auto& e : l.elements) {
    bool seen = false;
    for (const auto& k : o.knobs) seen = seen || k.of == e;
    if (seen) continue;
    for (const auto& k : lattice::knobs_of(e)) o.knobs.push_back(k);
  }
  return o;
}

}  // namespace

TEST_CASE("every map: reverse mode, kept states and forward mode agree") {
  const lattice::line l = machines::everything(true);
  const beam::bunch b = machines::bunch(37);
  gradient_options o = all_knobs(l);
  const gradient g(l, b, o);
  const auto lambda = covectors<double>(b.size());
  std::vector<double> initial, kept_initial;
  auto request = request_of(lambda, initial);
  const auto rewound = g.pull(request);
  CHECK_FALSE(rewound.checkpointed);
  CHECK(rewound.relative_rewind_error < 1e-10);
  auto kept_request = request_of(lambda, kept_initial);
  kept_request.strategy = tracking::reverse_strategy::checkpoint;
  const auto kept = g.pull(kept_request);
  CHECK(kept.checkpointed);
  double largest = 0;
  for (double d : initial) largest = std::fmax(largest, std::fabs(d));
  for (std::size_t i = 0; i < initial.size(); ++i) {
    CHECK(std::fabs(initial[i] - kept_initial[i]) <= 1e-8 * largest);
  }
  double size = 0;
  for (double d : kept.knobs) size = std::fmax(size, std::fabs(d));
  for (std::size_t k = 0; k < o.knobs.size(); k += 7) {  // forward mode takes a pass for each
    CAPTURE(o.knobs[k].parameter);
    CAPTURE(lattice::describe(*o.knobs[k].of));
    const double forward = g.push(request, static_cast<std::ptrdiff_t>(k));
    const double tolerance = 1e-8 * std::fmax(std::fabs(forward), 1e-4 * size);
    CHECK(std::fabs(kept.knobs[k] - forward) <= tolerance);
    CHECK(std::fabs(rewound.knobs[k] - forward) <= 10 * tolerance);
  }
  const double energy = g.push(request, -1);
  CHECK(std::fabs(kept.kinetic - energy) <= 1e-8 * std::fabs(energy));
}

TEST_CASE("the same bits for any number of threads, in both precisions") {
  const lattice::line l = machines::fodo(6);
  auto run = [&]<class F>(F, unsigned threads) {
    const beam::bunch b =
        machines::bunch(20000, sizeof(F) == 8 ? beam::precision::double_ : beam::precision::single);
    gradient_options o = all_knobs(l);
    o.threads = threads;
    const gradient g(l, b, o);
    const auto lambda = covectors<F>(b.size());
    std::vector<F> initial;
    auto r = g.pull(request_of(lambda, initial));
    r.knobs.push_back(r.kinetic);
    for (std::size_t i = 0; i < initial.size(); i += 97) {
      r.knobs.push_back(static_cast<double>(initial[i]));
    }
    return r.knobs;
  };
  for (unsigned threads : {2u, 3u, 4u}) {
    CHECK(run(double{}, 1) == run(double{}, threads));
    CHECK(run(float{}, 1) == run(float{}, threads));
  }
}

TEST_CASE("the strength of a quadrupole: by its integral, among others, and by differences") {
  // alone, the derivative is that of an integral along the way; with others, that of the coefficients
  auto q = machines::make(elements::quadrupole{.length = 0.3, .k1 = 2});
  const lattice::line l{{q, machines::make(elements::drift{.length = 0.4})}};
  for (double k : {0.0, 2.0, -2.0, 40.0, 400.0}) {
    q->body = elements::quadrupole{.length = 0.3, .k1 = k};
    const beam::bunch b = machines::bunch(100);
    const auto lambda = covectors<double>(b.size());
    std::vector<double> initial;
    gradient_options alone, among;
    alone.knobs = {{q, "k1"}};
    among.knobs = {{q, "k1"}, {q, "length"}};
    const auto one = gradient(l, b, alone).pull(request_of(lambda, initial));
    const auto two = gradient(l, b, among).pull(request_of(lambda, initial));
    CAPTURE(k);
    CHECK(one.knobs[0] == doctest::Approx(two.knobs[0]).epsilon(1e-11));
  }
}

TEST_CASE("a beam without particles, a line without elements") {
  const lattice::line nothing;
  const beam::bunch one = machines::bunch(1);
  std::vector<double> initial;
  const auto lambda = covectors<double>(1);
  for (const auto strategy :
       {tracking::reverse_strategy::rewind, tracking::reverse_strategy::checkpoint}) {
    auto request = request_of(lambda, initial);
    request.strategy = strategy;
    gradient(nothing, one, {}).pull(request);
    CHECK(initial == lambda);
  }
  const lattice::line l = machines::fodo();
  const beam::bunch none = machines::bunch(0);
  const auto r = gradient(l, none, all_knobs(l)).pull(tracking::pull_request<double>{});
  for (double d : r.knobs) CHECK(d == 0);
}

TEST_CASE("knobs that do not exist are named") {
  const lattice::line l = machines::fodo();
  const beam::bunch b = machines::bunch(1);
  gradient_options o;
  o.knobs = {{l.elements[0], "fringe"}};
  CHECK_THROWS_WITH_AS(gradient(l, b, o), "Quadrupole: fringe is not a number with a derivative",
                       std::invalid_argument);
  o.knobs = {{machines::make(elements::drift{.length = 1}), "length"}};
  CHECK_THROWS_WITH_AS(gradient(l, b, o),
                       "Drift: its length has no effect, the element is not in the line",
                       std::invalid_argument);
}
