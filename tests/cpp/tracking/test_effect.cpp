// Collective kicks between stretches of lattice: where they stand, splitting, undoing, records, envelopes. The effect
// here is one whose field is known: a defocusing force proportional to x.
#include "tracking/effect.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <string>

#include "machines.h"
#include "tracking/envelope.h"
#include "tracking/track.h"

namespace {

using namespace betatron;
using namespace machines;
using tracking::effect;
using tracking::kick_place;
using tracking::track;
using tracking::track_options;

/// px += strength length x.
effect defocusing(double strength, std::vector<kick_place>* seen = nullptr) {
  effect e;
  e.name = "defocusing";
  e.reversible = true;
  e.kick = [=](beam::bunch& b, const kick_place& place) {
    if (seen) seen->push_back(place);
    b.visit([&]<class F>(const beam::columns<F>& c) {
      for (std::size_t i = 0; i < c.size; ++i) {
        c.z[1][i] += static_cast<F>(strength * place.length) * c.z[0][i];
      }
    });
  };
  e.envelope_kick = [=](const std::array<double, 6>&, const beam::matrix6&, double,
                        const kick_place& place) {
    beam::matrix6 m{};
    for (std::size_t i = 0; i < 6; ++i) m[7 * i] = 1;
    m[6] = strength * place.length;
    return m;
  };
  return e;
}

lattice::line one_drift(double length, int slices) {
  lattice::line l;
  l.elements.push_back(make(elements::drift{.length = length}));
  l.elements.back()->slices = slices;
  return l;
}

beam::bunch one_particle(double x) {
  beam::bunch b(electron(), 1);
  b.visit([&](const auto& c) { c.z[0][0] = static_cast<std::decay_t<decltype(*c.z[0])>>(x); });
  return b;
}

double x_of(const beam::bunch& b) {
  return b.visit([](const auto& c) { return static_cast<double>(c.z[0][0]); });
}

beam::bunch cloud(std::size_t n, beam::precision p = beam::precision::double_) {
  beam::matrix6 covariance{};
  for (std::size_t i = 0; i < 6; ++i) covariance[7 * i] = 1e-6;
  return beam::bunch::sample(
      electron(), beam::distribution::from_covariance(beam::shape::gaussian, covariance), n, 7, p);
}

double difference(const beam::bunch& a, const beam::bunch& b) {
  double largest = 0;
  a.visit([&]<class F>(const beam::columns<const F>& u) {
    b.visit([&]<class G>(const beam::columns<const G>& v) {
      REQUIRE(u.size == v.size);
      for (std::size_t c = 0; c < 6; ++c) {
        for (std::size_t i = 0; i < u.size; ++i) {
          largest = std::max(
              largest, std::fabs(static_cast<double>(u.z[c][i]) - static_cast<double>(v.z[c][i])));
        }
      }
    });
  });
  return largest;
}

}  // namespace

TEST_CASE("kicks stand in every slice of elements with length and add up to it") {
  lattice::line l = everything();
  for (auto& e : l.elements) e->slices = 3;
  double length = 0;
  for (const auto& e : l.elements) length += lattice::length(*e);
  for (int order : {1, 2}) {
    std::vector<kick_place> seen;
    track_options o;
    o.collective = {defocusing(0, &seen)};
    o.collective[0].order = order;
    beam::bunch b(electron(), 1);
    track(l, b, o);
    double sum = 0;
    std::size_t thick = 0;
    for (const kick_place& p : seen) sum += p.length;
    for (const auto& e : l.elements) thick += lattice::length(*e) != 0;
    CHECK(sum == doctest::Approx(length));
    CHECK(seen.size() == 3 * thick);
  }
}

TEST_CASE("the spacing of kicks does not depend on slices") {
  for (int slices : {1, 2, 3, 10}) {
    for (double spacing : {0.05, 0.3, 0.5, 2.0}) {
      for (int order : {1, 2}) {
        std::vector<kick_place> seen;
        track_options o;
        o.collective = {defocusing(0, &seen)};
        o.collective[0].order = order;
        o.collective[0].spacing = spacing;
        beam::bunch b(electron(), 1);
        track(one_drift(1.0, slices), b, o);
        double sum = 0;
        for (const kick_place& p : seen) {
          CHECK(p.length <= spacing * (1 + 1e-12));
          CHECK(p.ref.s == doctest::Approx(order == 1 ? p.from : (p.from + p.to) / 2));
          sum += p.length;
        }
        CHECK(sum == doctest::Approx(1.0));
        CHECK(seen.size() <= static_cast<std::size_t>(std::ceil(1 / spacing)) + 10);
        CHECK(b.ref.s == doctest::Approx(1.0));
      }
    }
  }
}

TEST_CASE("the error of splitting falls with its order") {
  const double k = 4, length = 1;  // x'' = k x
  const double exact = std::cosh(std::sqrt(k) * length) * 1e-6;
  for (int order : {1, 2}) {
    double before = 0;
    for (int slices : {20, 40, 80}) {
      track_options o;
      o.collective = {defocusing(k)};
      o.collective[0].order = order;
      beam::bunch b = one_particle(1e-6);
      track(one_drift(length, slices), b, o);
      const double error = std::fabs(x_of(b) - exact);
      if (before != 0) CHECK(std::log2(before / error) == doctest::Approx(order).epsilon(0.05));
      before = error;
    }
  }
}

TEST_CASE("effects act in their order, and are undone backward") {
  lattice::line l = fodo(2);
  for (auto& e : l.elements) e->slices = 2;
  for (int order : {1, 2}) {
    track_options o;
    o.turns = 3;
    o.collective = {defocusing(0.3), defocusing(-1.1), defocusing(0.7)};
    o.collective[1].order = order;
    o.collective[2].spacing = 0.15;
    o.recorded.assign(l.elements.size(), 1);
    o.record_slices = true;
    const beam::bunch start = cloud(1000);
    beam::bunch b = start;
    const auto forward = track(l, b, o);
    CHECK(difference(b, start) > 1e-4);
    o.way = lattice::direction::backward;
    const auto backward = track(l, b, o);
    CHECK(difference(b, start) < 1e-13);
    CHECK(std::fabs(b.ref.s) < 1e-13);
    // what was recorded in front of a slice is recorded behind it when going back
    const std::size_t n = forward.records.size();
    REQUIRE(backward.records.size() == n);
    for (std::size_t i = 0; i + 1 < n; ++i) {
      const auto& f = forward.records[i];
      const auto& r = backward.records[n - 2 - i];
      CHECK(f.ref.s == doctest::Approx(r.ref.s));
      for (std::size_t c = 0; c < 36; ++c) {
        CHECK(std::fabs(f.moments.cov[c] - r.moments.cov[c]) < 1e-12 * 1e-4);
      }
    }
  }
}

TEST_CASE("turns, threads, monitors and losses are what they are without kicks") {
  lattice::line l = fodo(2);
  l.elements.insert(l.elements.begin() + 4, make(elements::aperture{.x_max = 2e-3, .y_max = 2e-3}));
  track_options o;
  o.turns = 4;
  o.threads = 1;
  o.recorded.assign(l.elements.size(), 1);
  beam::bunch plain = cloud(5000), kicked = cloud(5000);
  const auto a = track(l, plain, o);
  o.collective = {defocusing(0)};
  o.threads = 3;
  o.collective[0].order = 2;
  std::size_t reports = 0;
  o.on_progress = [&](double part) { return ++reports, part >= 0 && part <= 1; };
  const auto b = track(l, kicked, o);
  CHECK(a.lost > 0);
  CHECK(a.lost == b.lost);
  CHECK(difference(plain, kicked) < 1e-15);
  REQUIRE(a.records.size() == b.records.size());
  for (std::size_t i = 0; i < a.records.size(); ++i) {
    CHECK(a.records[i].turn == b.records[i].turn);
    CHECK(a.records[i].element == b.records[i].element);
    CHECK(a.records[i].ref.s == doctest::Approx(b.records[i].ref.s));
    CHECK(a.records[i].moments.count == b.records[i].moments.count);
  }
  for (beam::bunch* each : {&plain, &kicked}) {
    std::ranges::sort(each->lost, {}, &beam::lost_particle::id);
  }
  REQUIRE(plain.lost.size() == kicked.lost.size());
  for (std::size_t i = 0; i < plain.lost.size(); ++i) {
    CHECK(plain.lost[i].s == doctest::Approx(kicked.lost[i].s));
  }
  CHECK(reports == 4 * (l.elements.size() - 1));  // nothing is cut at the aperture, which is thin

  std::size_t places = 0;
  tracking::monitor m;
  m.observed_at.assign(l.elements.size(), 1);
  m.particles = {0, 17};
  m.write = [&](const tracking::observation_chunk& c) {
    places += c.places.size() * c.turns.size();
    CHECK(c.coordinates.size() == c.places.size() * 6 * c.turns.size() * 2);
  };
  o.monitor = m;
  beam::bunch watched = cloud(50);
  track(l, watched, o);
  CHECK(places == 4 * l.elements.size());
}

TEST_CASE("tracking with kicks stops between elements, and goes on") {
  const lattice::line l = fodo(3);
  track_options o;
  o.collective = {defocusing(0.5)};
  o.collective[0].order = 2;
  beam::bunch whole = cloud(100), parts = whole;
  track(l, whole, o);
  int calls = 0;
  o.on_progress = [&](double) { return ++calls < 3; };
  const auto r = track(l, parts, o);
  CHECK(r.interrupted);
  REQUIRE(r.element > 0);
  lattice::line rest;
  rest.elements.assign(l.elements.begin() + static_cast<std::ptrdiff_t>(r.element),
                       l.elements.end());
  o.on_progress = nullptr;
  track(rest, parts, o);
  CHECK(difference(whole, parts) == 0);
}

TEST_CASE("envelopes get the linear kick of an effect") {
  lattice::line l = fodo(2);
  for (auto& e : l.elements) {
    e->slices = 2;
    e->model = elements::model::linear;
  }
  for (int order : {1, 2}) {
    effect e = defocusing(0.4);
    e.order = order;
    beam::bunch b = cloud(2000);
    const auto m = b.moments();
    tracking::envelope sigma{b.ref, m.mean, m.cov};
    tracking::envelope_options eo;
    eo.collective = {e};
    eo.turns = 2;
    track_envelope(l, sigma, eo);
    track_options o;
    o.collective = {e};
    o.turns = 2;
    track(l, b, o);
    const auto after = b.moments();
    for (std::size_t i = 0; i < 36; ++i) {
      CHECK(sigma.covariance[i] == doctest::Approx(after.cov[i]).epsilon(1e-9));
    }
    e.envelope_kick = nullptr;
    eo.collective = {e};
    CHECK_THROWS_WITH_AS(track_envelope(l, sigma, eo),
                         "defocusing has no form for envelope tracking", std::invalid_argument);
  }
}

TEST_CASE("what cannot be done with kicks is refused before anything moves") {
  const lattice::line l = fodo();
  beam::bunch b = cloud(10);
  const beam::bunch start = b;
  track_options o;
  const auto refused = [&](const char* text, auto change) {
    o.collective = {defocusing(1)};
    change(o.collective[0]);
    std::string message;
    try {
      track(l, b, o);
    } catch (const std::invalid_argument& error) {
      message = error.what();
    }
    CHECK(message.find(text) != std::string::npos);
    CHECK(difference(b, start) == 0);
  };
  refused("order = 3 is not allowed; allowed: 1, 2", [](effect& e) { e.order = 3; });
  refused("spacing = -1 m is not allowed; allowed: >= 0", [](effect& e) { e.spacing = -1; });
  refused("more than 5e6 pieces", [](effect& e) { e.spacing = 1e-9; });
  refused("has 2 flags", [](effect& e) { e.at = {1, 0}; });
  refused("no kick on particles", [](effect& e) { e.kick = nullptr; });
  refused("too large", [](effect& e) {
    e.begin = [](const auto&, const auto&, auto) { throw std::invalid_argument("too large"); };
  });
  o.way = lattice::direction::backward;
  refused("cannot be undone", [](effect& e) { e.reversible = false; });
}

TEST_CASE("flags choose elements, thin ones too") {
  lattice::line l = fodo();
  l.elements.push_back(make(elements::marker{}));
  std::vector<kick_place> seen;
  track_options o;
  o.turns = 2;
  o.collective = {defocusing(1, &seen)};
  o.collective[0].at.assign(l.elements.size(), 0);
  o.collective[0].at.back() = 1;
  o.collective[0].at[1] = 1;
  beam::bunch b = cloud(10);
  track(l, b, o);
  REQUIRE(seen.size() == 4);
  CHECK(seen[0].element == 1);
  CHECK(seen[0].ref.s == doctest::Approx(0.2));
  CHECK(seen[1].element == l.elements.size() - 1);
  CHECK(seen[1].length == 0);
  CHECK(seen[3].turn == 1);
}
