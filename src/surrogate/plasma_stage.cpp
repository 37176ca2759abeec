#include "surrogate/plasma_stage.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <type_traits>
#include <utility>
#include <vector>

#include "beam/text.h"
#include "numerics/constants.h"
#include "numerics/dual.h"
#include "surrogate/stage_kernels.h"

namespace betatron::surrogate {

namespace {

constexpr std::array<std::string_view, 4> policy_names{"warn", "fallback", "lose", "stop"};

/// Particles that go through a stage together.
constexpr std::size_t most_lanes = 256;

[[noreturn]] void reject(const stage_description& d, const std::string& what) {
  throw std::invalid_argument("plasma stage '" + d.name + "': " + what);
}

template <std::size_t N>
void require_finite(const stage_description& d, const char* what, const std::array<double, N>& v) {
  for (const double a : v) {
    if (!std::isfinite(a)) {
      reject(d, std::string(what) + " holds " + beam::number_text(a) + ", allowed: finite numbers");
    }
  }
}

/// Memory for some particles inside a stage, on the stack.
template <class F>
struct stage_memory {
  alignas(64) F columns[stage_columns][most_lanes];
  alignas(64) F features[stage_features][most_lanes];
  alignas(64) F outputs[stage_outputs][most_lanes];
  alignas(64) F square[most_lanes];
  std::uint8_t outside[most_lanes];
};

template <class F, std::size_t N>
std::array<F*, N> pointers(F (&rows)[N][most_lanes]) {
  std::array<F*, N> result;
  for (std::size_t i = 0; i < N; ++i) result[i] = rows[i];
  return result;
}

template <class F>
stage_bounds<F> bounds_of(const stage_domain& d) {
  stage_bounds<F> b{};
  for (std::size_t k = 0; k < 5; ++k) {
    b.lower[k] = static_cast<F>(d.lower[k]);
    b.upper[k] = static_cast<F>(d.upper[k]);
    b.centre[k] = static_cast<F>(d.centre[k]);
    for (std::size_t j = 0; j < 5; ++j) b.whitening[k][j] = static_cast<F>(d.whitening[5 * k + j]);
  }
  b.limit = static_cast<F>(d.limit * d.limit);
  return b;
}

struct axis_passage {
  double gain, slip;  ///< dgamma, dxi
};

}  // namespace

outside_policy outside_policy_named(std::string_view name) {
  const auto found = std::ranges::find(policy_names, name);
  if (found == policy_names.end()) {
    throw std::invalid_argument("outside = '" + std::string(name) +
                                "' must be 'warn', 'fallback', 'lose' or 'stop'");
  }
  return static_cast<outside_policy>(found - policy_names.begin());
}

void check(const stage_description& d) {
  check(d.net);
  if (d.net.inputs() != stage_features || d.net.outputs() != stage_outputs) {
    reject(d, "its network has " + std::to_string(d.net.inputs()) + " inputs and " +
                  std::to_string(d.net.outputs()) + " outputs, expected 5 and 7");
  }
  const auto positive = [&](const char* what, double v) {
    if (!(std::isfinite(v) && v > 0)) {
      reject(d, std::string(what) + " = " + beam::number_text(v) + " must be > 0");
    }
  };
  positive("length", d.length);
  positive("focusing", d.focusing);
  positive("amplitude", d.amplitude);
  positive("limit of the domain", d.domain.limit);
  require_finite(d, "xi", std::array{d.xi, d.xi_centre});
  require_finite(d, "lower bound of the domain", d.domain.lower);
  require_finite(d, "upper bound of the domain", d.domain.upper);
  require_finite(d, "centre of the domain", d.domain.centre);
  require_finite(d, "whitening of the domain", d.domain.whitening);
  for (std::size_t i = 0; i < d.distances.size(); ++i) {
    if (!(d.distances[i] > (i == 0 ? 0 : d.distances[i - 1]))) {
      reject(d, "edge " + std::to_string(i) + " of its bins of distance is " +
                    beam::number_text(d.distances[i]) + ", expected more than the one before");
    }
  }
  require_finite(d, "gain", d.gain);
  require_finite(d, "constant", d.constant);
  for (std::size_t k = 0; k < 5; ++k) {
    if (!(d.domain.lower[k] <= d.domain.upper[k])) {
      reject(d, "bounds of feature " + std::to_string(k) + " are " +
                    beam::number_text(d.domain.lower[k]) + " to " +
                    beam::number_text(d.domain.upper[k]) + ", expected lower <= upper");
    }
    for (std::size_t j = k + 1; j < 5; ++j) {
      if (d.domain.whitening[5 * k + j] != 0) {
        reject(d, "whitening of the domain is not a lower triangle");
      }
    }
  }
}

struct plasma_stage::state {
  stage_description d;
  outside_policy policy;
  evaluator single, wide;
  stage_bounds<float> bounds_single;
  stage_bounds<double> bounds_double;
  std::vector<double> squares;  // of the edges of bins, without the last
  mutable std::atomic<std::uint64_t> passed{0}, outside{0};
  mutable std::vector<std::atomic<double>> by_distance;

  state(stage_description description, outside_policy p)
      : d(std::move(description)),
        policy(p),
        single(d.net, number_format::single),
        wide(d.net, number_format::double_),
        bounds_single(bounds_of<float>(d.domain)),
        bounds_double(bounds_of<double>(d.domain)),
        by_distance(d.distances.size()) {
    for (std::size_t i = 0; i + 1 < d.distances.size(); ++i) {
      squares.push_back(d.distances[i] * d.distances[i]);
    }
  }

  /// The weights of particles inside, at the squares of their distances, into `sums` of bins.
  template <class F>
  void sort_in(const stage_memory<F>& m, const F* weight, std::size_t count, double* sums) const {
    if (by_distance.empty()) return;
    std::uint32_t bin[most_lanes] = {};
    for (const double square : squares) {
      const F edge = static_cast<F>(square);
      for (std::size_t i = 0; i < count; ++i) bin[i] += !(m.square[i] <= edge);
    }
    for (std::size_t i = 0; i < count; ++i) {
      const float w = m.outside[i] ? 0.0f : static_cast<float>(weight[i]);
      sums[bin[i]] += static_cast<double>(w);
    }
  }

  template <class F>
  const evaluator& net() const {
    if constexpr (std::is_same_v<F, float>) {
      return single;
    } else {
      return wide;
    }
  }
  template <class F>
  const stage_bounds<F>& bounds() const {
    if constexpr (std::is_same_v<F, float>) {
      return bounds_single;
    } else {
      return bounds_double;
    }
  }

  /// dgamma where it was fitted, and beyond what it is at the end.
  template <class T>
  T parabola(const T& xi) const {
    T a = xi - d.xi_centre;
    if (xi < d.domain.lower[0]) a = T(d.domain.lower[0] - d.xi_centre);
    if (xi > d.domain.upper[0]) a = T(d.domain.upper[0] - d.xi_centre);
    return d.gain[0] + a * (d.gain[1] + a * d.gain[2]);
  }

  /// The physics model of dgamma and dxi, from xi, 1/sqrt(gamma) and the sum of the third and fourth feature.
  template <class T>
  std::array<T, 2> physics(const T& xi, const T& slow, const T& swing) const {
    using std::sqrt;
    // swing = a/sqrt(1 + a/A)
    const T half = swing / (2 * d.amplitude);
    const T a = swing * (half + sqrt(half * half + 1.0));
    const T u = 1.0 / slow, v = sqrt(u * u + parabola(xi));
    const double kappa = std::sqrt(d.focusing) * d.length / 2;
    const T late = kappa * (a - 10 * d.amplitude) / (u * (u + v) * (u + v));
    return {parabola(xi - late),
            -(kappa * a) / (u * v * (u + v)) - d.length / (2.0 * (u * v) * (u * v))};
  }

  /// The reference particle on the axis.
  axis_passage on_axis(double gamma) const {
    const double features[5] = {d.xi, 1 / std::sqrt(gamma), 0, 0, 0};
    if (policy == outside_policy::fallback && !holds(features)) {
      const auto [gain, slip] = physics(d.xi, features[1], 0.0);
      return {gain, slip};
    }
    double out[7];
    const double* from[5];
    double* to[7];
    for (std::size_t i = 0; i < 5; ++i) from[i] = &features[i];
    for (std::size_t i = 0; i < 7; ++i) to[i] = &out[i];
    wide.run(from, to, 1);
    return {out[5], out[6]};
  }

  bool holds(const double (&f)[5]) const {
    const stage_bounds<double>& b = bounds_double;
    double square = 0;
    for (std::size_t k = 0; k < 5; ++k) {
      if ((k != 2 && k != 3 && f[k] < b.lower[k]) || !(f[k] <= b.upper[k])) return false;
      double row = 0;
      for (std::size_t j = 0; j <= k; ++j) row += b.whitening[k][j] * (f[j] - b.centre[j]);
      square += row * row;
    }
    return square <= b.limit;
  }

  template <class F>
  stage_numbers<F> numbers(const elements::code_place& at) const {
    const double gamma = at.exit.gamma(), momentum = at.exit.beta_gamma();
    const double slip = on_axis(at.entrance.gamma()).slip;
    stage_numbers<F> n{};
    n.inverse_beta = static_cast<F>(at.entrance.inverse_beta());
    n.momentum = static_cast<F>(at.entrance.beta_gamma());
    n.inverse_momentum_behind = static_cast<F>(1 / momentum);
    n.gamma_behind = static_cast<F>(gamma);
    n.clock_behind = static_cast<F>(-slip * gamma / momentum);
    n.xi = static_cast<F>(d.xi);
    n.root_focusing = static_cast<F>(std::sqrt(d.focusing));
    n.inverse_amplitude = static_cast<F>(1 / d.amplitude);
    n.advance = static_cast<F>(2 * std::sqrt(d.focusing) * d.length);
    return n;
  }

  /// The physics model for who is outside, of `count` particles from `first` on.
  template <class F>
  void replace(const stage_memory<F>& m, F* const* outputs, std::size_t first,
               std::size_t count) const {
    for (std::size_t i = 0; i < count; ++i) {
      if (!m.outside[first + i]) continue;
      for (std::size_t k = 0; k < 5; ++k) outputs[k][i] = static_cast<F>(d.constant[k]);
      const auto f = [&](std::size_t k) { return static_cast<double>(m.features[k][first + i]); };
      const auto [gain, slip] = physics(f(0), f(1), f(2) + f(3));
      outputs[5][i] = static_cast<F>(gain);
      outputs[6][i] = static_cast<F>(slip);
    }
  }

  /// Of who is outside: derivatives by features, from those by dgamma and dxi of the physics model.
  template <class F>
  void replace_back(const stage_memory<F>& m, const F* by_gain, const F* by_slip,
                    F* const* features_bar, std::size_t count) const {
    using real = numerics::dual<double, 3>;
    for (std::size_t i = 0; i < count; ++i) {
      if (!m.outside[i]) continue;
      const auto f = [&](std::size_t k) { return static_cast<double>(m.features[k][i]); };
      const auto [gain, slip] =
          physics(real::variable(f(0), 0), real::variable(f(1), 1), real::variable(f(2) + f(3), 2));
      double by[3];
      for (int k = 0; k < 3; ++k) {
        by[k] = static_cast<double>(by_gain[i]) * gain.d[k] +
                static_cast<double>(by_slip[i]) * slip.d[k];
      }
      for (std::size_t k = 0; k < 5; ++k) {
        features_bar[k][i] = k == 4 ? F(0) : static_cast<F>(by[std::min<std::size_t>(k, 2)]);
      }
    }
  }

  /// kernels.leave; who is outside keeps the coordinates that it came with, as with other elements that lose particles.
  template <class F>
  void lose(const stage_kernels<F>& kernels, const stage_numbers<F>& n, const stage_memory<F>& m,
            const F* const* columns, const F* const* outputs, F* const* z, std::size_t some,
            std::size_t lanes) const {
    F before[6][most_lanes];
    for (std::size_t k = 0; k < 6; ++k) std::copy_n(z[k], some, before[k]);
    kernels.leave(n, columns, outputs, z, lanes);
    for (std::size_t k = 0; k < 6; ++k) {
      for (std::size_t i = 0; i < some; ++i) {
        if (m.outside[i]) z[k][i] = before[k][i];
      }
    }
  }

  template <class F>
  void push(const elements::code_place& at, const elements::code_tile<F>& tile) const {
    const stage_kernels<F>& kernels = kernels_of_stages<F>();
    const stage_numbers<F> n = numbers<F>(at);
    stage_memory<F> m;
    const auto columns = pointers(m.columns);
    const auto features = pointers(m.features);
    const auto outputs = pointers(m.outputs);
    std::size_t away = 0;
    std::vector<double> sums(by_distance.size());
    for_parts(
        tile, kernels.width,
        [&](F* const* z, std::size_t first, std::size_t some, std::size_t lanes) {
          kernels.enter(n, bounds<F>(), z, columns.data(), features.data(), m.outside, m.square,
                        lanes);
          net<F>().run(features.data(), outputs.data(), lanes);
          sort_in(m, tile.weight + first, some, sums.data());
          const auto here = static_cast<std::size_t>(std::count(m.outside, m.outside + some, 1));
          away += here;
          if (here != 0 && policy == outside_policy::fallback) replace(m, outputs.data(), 0, lanes);
          if (here != 0 && (policy == outside_policy::lose || policy == outside_policy::stop)) {
            lose(kernels, n, m, columns.data(), outputs.data(), z, some, lanes);
            std::copy_n(m.outside, some, tile.outside + first);
          } else {
            kernels.leave(n, columns.data(), outputs.data(), z, lanes);
          }
        });
    passed.fetch_add(tile.count, std::memory_order_relaxed);
    if (away != 0) outside.fetch_add(away, std::memory_order_relaxed);
    for (std::size_t b = 0; b < sums.size(); ++b) {
      if (sums[b] != 0) by_distance[b].fetch_add(sums[b], std::memory_order_relaxed);
    }
  }

  template <class F>
  void pull(const elements::code_place& at, const elements::code_tile<F>& tile,
            F* const lambda[6]) const {
    const stage_kernels<F>& kernels = kernels_of_stages<F>();
    const stage_numbers<F> n = numbers<F>(at);
    stage_memory<F> m;
    alignas(64) F columns_bar_rows[stage_columns][most_lanes];
    alignas(64) F features_bar_rows[stage_features][most_lanes];
    F by_gain[most_lanes], by_slip[most_lanes];  // of the physics model
    const auto columns = pointers(m.columns);
    const auto features = pointers(m.features);
    const auto columns_bar = pointers(columns_bar_rows);
    const auto features_bar = pointers(features_bar_rows);
    for_parts(tile, kernels.width,
              [&](F* const* z, std::size_t first, std::size_t, std::size_t lanes) {
                F* l[6];
                for (std::size_t k = 0; k < 6; ++k) l[k] = lambda[k] + first;
                kernels.enter(n, bounds<F>(), z, columns.data(), features.data(), m.outside,
                              m.square, lanes);
                const auto turn = [&](std::size_t begin, std::size_t count, F* const* o) {
                  const F* c[stage_columns];
                  const F* part[6];
                  F* bar[stage_columns];
                  for (std::size_t k = 0; k < stage_columns; ++k) {
                    c[k] = columns[k] + begin;
                    bar[k] = columns_bar[k] + begin;
                  }
                  for (std::size_t k = 0; k < 6; ++k) part[k] = l[k] + begin;
                  if (policy != outside_policy::fallback) {
                    kernels.leave_back(n, c, part, o, bar, count);
                    return;
                  }
                  replace(m, o, begin, count);
                  kernels.leave_back(n, c, part, o, bar, count);
                  std::copy_n(o[5], count, by_gain + begin);
                  std::copy_n(o[6], count, by_slip + begin);
                  for (std::size_t i = 0; i < count; ++i) {
                    if (!m.outside[begin + i]) continue;
                    for (std::size_t k = 0; k < 7; ++k) o[k][i] = 0;
                  }
                };
                const evaluator::turn<F> step = turn;
                net<F>().pull(features.data(), step, features_bar.data(), lanes);
                if (policy == outside_policy::fallback)
                  replace_back(m, by_gain, by_slip, features_bar.data(), lanes);
                kernels.enter_back(n, z, columns.data(), columns_bar.data(), features_bar.data(), l,
                                   lanes);
              });
  }

 private:
  /// Calls body(coordinates, first, particles, lanes) for parts of a tile; lanes fill whole packs.
  template <class F, class Body>
  static void for_parts(const elements::code_tile<F>& tile, std::size_t width, Body&& body) {
    for (std::size_t first = 0; first < tile.count; first += most_lanes) {
      const std::size_t some = std::min(most_lanes, tile.count - first);
      const std::size_t lanes = (some + width - 1) / width * width;
      if (first + lanes > tile.padded) {
        throw std::logic_error("plasma stage: a tile is not filled up to whole vectors");
      }
      F* z[6];
      for (std::size_t k = 0; k < 6; ++k) z[k] = tile.z[k] + first;
      body(z, first, some, lanes);
    }
  }
};

plasma_stage::plasma_stage(stage_description d, outside_policy policy) {
  check(d);
  state_ = std::make_shared<const state>(std::move(d), policy);
}

const stage_description& plasma_stage::description() const { return state_->d; }
outside_policy plasma_stage::policy() const { return state_->policy; }

stage_counts plasma_stage::counts() const {
  stage_counts c{state_->passed.load(std::memory_order_relaxed),
                 state_->outside.load(std::memory_order_relaxed),
                 {}};
  for (const auto& w : state_->by_distance) c.by_distance.push_back(w.load());
  return c;
}
void plasma_stage::reset() const {
  state_->passed.store(0, std::memory_order_relaxed);
  state_->outside.store(0, std::memory_order_relaxed);
  for (auto& w : state_->by_distance) w.store(0);
}

std::shared_ptr<const elements::tile_code> plasma_stage::code() const {
  auto code = std::make_shared<elements::tile_code>();
  code->name = "plasma stage '" + state_->d.name + "'";
  const auto s = state_;
  code->push_double = [s](const elements::code_place& at, const elements::code_tile<double>& t) {
    s->push(at, t);
  };
  code->push_single = [s](const elements::code_place& at, const elements::code_tile<float>& t) {
    s->push(at, t);
  };
  code->pull_double = [s](const elements::code_place& at, const elements::code_tile<double>& t,
                          double* const lambda[6]) { s->pull(at, t, lambda); };
  code->pull_single = [s](const elements::code_place& at, const elements::code_tile<float>& t,
                          float* const lambda[6]) { s->pull(at, t, lambda); };
  code->cost = 100;
  if (state_->policy == outside_policy::stop) {
    code->stops = "are outside of what it was trained for";
  }
  return code;
}

void plasma_stage::advance(beam::reference& ref, const elements::reference_place& place) const {
  const stage_description& d = state_->d;
  const auto fail = [](const std::string& what) { throw std::domain_error(what); };
  if (std::abs(place.length - d.length) > 1e-12 * d.length) {
    fail("length = " + beam::number_text(place.length) + " m; allowed: that of its model, " +
         beam::number_text(d.length) + " m");
  }
  constexpr double mass = numerics::constants::electron_mass_eV;
  if (!(ref.particle.charge < 0 && std::abs(ref.particle.mass_eV - mass) < 1e-6 * mass)) {
    fail("the reference particle has a charge of " + beam::number_text(ref.particle.charge) +
         " e and a rest energy of " + beam::number_text(ref.particle.mass_eV) +
         " eV; it was trained for electrons");
  }
  // gamma at the entrance of the stage: the gain depends on it but little
  double gamma = ref.gamma() - place.from * state_->parabola(d.xi);
  if (!(gamma > 1)) gamma = ref.gamma();
  axis_passage p{};
  for (int i = 0; i < 50; ++i) {
    p = state_->on_axis(gamma);
    const double better = ref.gamma() - place.from * p.gain;
    if (!(better > 1)) {
      fail("no energy at its entrance gives gamma = " + beam::number_text(ref.gamma()) +
           " at a fraction of " + beam::number_text(place.from) + " of it");
    }
    const double change = better - gamma;
    gamma = better;
    if (std::abs(change) <= 1e-15 * gamma) break;
  }
  const double fraction = place.to - place.from, kinetic = ref.kinetic + fraction * p.gain;
  if (!(kinetic > 0)) {
    fail("gamma = " + beam::number_text(ref.gamma()) + " of the reference particle becomes " +
         beam::number_text(1 + kinetic));
  }
  const double path = place.length * fraction, end = gamma + p.gain;
  ref.s += path;
  // at the time L/c after its entrance it is -slip short of the exit
  ref.t += fraction * (d.length - p.slip * end / std::sqrt(end * end - 1));
  for (std::size_t i = 0; i < 3; ++i) ref.position[i] += path * ref.frame[6 + i];
  ref.kinetic = kinetic;
}

}  // namespace betatron::surrogate
