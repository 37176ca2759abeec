// Tracking of whole beams: the same bits however the work is divided, losses, records, interruption, turns.
#include "tracking/track.h"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <string>

#include "machines.h"
#include "tracking/cpu/executor.h"

namespace {

using namespace betatron;
using namespace machines;
using beam::loss_reason;
using beam::precision;
using tracking::track;
using tracking::track_options;
using tracking::track_result;

constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();
constexpr double infinity = std::numeric_limits<double>::infinity();

std::vector<std::uint8_t> all_of(const lattice::line& l) {
  return std::vector<std::uint8_t>(l.elements.size(), 1);
}

bool same_bits(const beam::moments& a, const beam::moments& b) {
  const auto same = [](const auto& u, const auto& v) {  // NaN is the same as NaN
    return std::memcmp(&u, &v, sizeof u) == 0;
  };
  return same(a.weight, b.weight) && a.count == b.count && same(a.mean, b.mean) &&
         same(a.cov, b.cov) && same(a.min, b.min) && same(a.max, b.max);
}

void check_same(const track_result& a, const track_result& b) {
  CHECK(a.lost == b.lost);
  REQUIRE(a.records.size() == b.records.size());
  for (std::size_t i = 0; i < a.records.size(); ++i) {
    CHECK(a.records[i].turn == b.records[i].turn);
    CHECK(a.records[i].element == b.records[i].element);
    CHECK(a.records[i].slice == b.records[i].slice);
    CHECK(a.records[i].ref == b.records[i].ref);
    CHECK(same_bits(a.records[i].moments, b.records[i].moments));
  }
}

/// A line that loses part of the beam at an aperture, at a place with an exact map, and by NaN.
lattice::line lossy() {
  lattice::line l = fodo(2);
  l.elements.insert(l.elements.begin() + 4,
                    make(elements::aperture{.x_max = 1.5e-3, .y_max = 2e-3}));
  l.elements.push_back(make(elements::drift{.length = 0.1}, elements::model::exact));
  return l;
}

}  // namespace

TEST_CASE("the same bits for any number of threads") {
  for (const auto p : {precision::single, precision::double_}) {
    const lattice::line l = lossy();
    beam::bunch start = bunch(20000, p);
    set(start, 1, 12345, 1.5);
    set(start, 5, 777, not_a_number);
    track_options how{.turns = 3, .recorded = all_of(l), .record_start = true, .threads = 1};
    beam::bunch expected = start;
    const track_result result = track(l, expected, how);
    CHECK(result.lost > 100);
    CHECK(expected.lost.size() == result.lost);
    CHECK(expected.size() + result.lost == start.size());
    CHECK(result.records.size() == 1 + 3 * l.elements.size());
    for (unsigned threads : {2u, 3u, 4u, 7u}) {
      beam::bunch b = start;
      how.threads = threads;
      check_same(track(l, b, how), result);
      CHECK(machines::same_bits(b, expected));
      CHECK(b.lost.size() == expected.lost.size());
      CHECK(b.ref == expected.ref);
    }
    beam::bunch watched = start;  // watching does not change a bit either
    double last = 0;
    how.on_progress = [&](double part) {
      CHECK(part > last);
      last = part;
      return true;
    };
    check_same(track(l, watched, how), result);
    CHECK(last == 1);
    CHECK(machines::same_bits(watched, expected));
  }
}

TEST_CASE("a particle does not see how many others there are") {
  const lattice::line l = everything();
  for (const auto p : {precision::single, precision::double_}) {
    const std::array<double, 6> sigma = {1e-3, 1e-4, 1e-3, 1e-4, 1e-3, 1e-3};
    beam::bunch many = bunch(1500, p, sigma);
    track(l, many, {});
    CHECK(many.size() == 1500);
    for (std::size_t n : {0u, 1u, 2u, 7u, 15u, 16u, 383u, 384u, 385u, 768u, 1000u}) {
      CAPTURE(n);
      beam::bunch few = bunch(n, p, sigma);
      const track_result r = track(l, few, {.recorded = all_of(l)});
      CHECK(few.size() == n);
      CHECK(machines::same_bits(few, many, n));
      CHECK(few.ref == many.ref);
      for (const auto& record : r.records) CHECK(record.moments.count == n);
    }
  }
}

TEST_CASE("particles are lost where they leave, with the coordinates they had there") {
  lattice::line l;
  l.elements = {make(elements::drift{.length = 1}),
                make(elements::aperture{.x_max = 2e-3, .y_max = 1e-3}),
                make(elements::drift{.length = 2}, elements::model::exact),
                make(elements::aperture{.x_max = 3e-3, .y_max = 3e-3, .shape = "elliptical"})};
  for (std::size_t n : {5u, 400u}) {
    beam::bunch b(electron(), n);
    b.ref.s = 10;
    set(b, 0, 0, 3e-3);    // outside the first aperture from the start
    set(b, 1, 1, 2.5e-3);  // x = 2.5 mm at the first aperture
    set(b, 1, 2, 1.9e-3);  // 1.9 mm there, 5.7 mm at the second
    set(b, 3, 3, 0.9e-3);  // 0.9 mm there, 2.7 mm at the second: inside both
    const track_result r = track(l, b, {.first_turn = 40, .recorded = all_of(l)});
    CHECK(r.lost == 3);
    CHECK(b.size() == n - 3);
    REQUIRE(b.lost.size() == 3);
    CHECK(coordinate(b, 3, 0) == 0.9e-3);  // the others in their order
    b.visit([&](const auto& c) {
      CHECK(c.id[0] == 3);
      for (std::size_t i = 1; i < c.size; ++i) CHECK(c.id[i] == i + 3);
    });
    for (std::size_t i = 0; i < 3; ++i) {
      const beam::lost_particle& lost = b.lost[i];
      CHECK(lost.id == i);
      CHECK(lost.turn == 40);
      CHECK(lost.reason == loss_reason::aperture);
      CHECK(lost.element == (i < 2 ? 1 : 3));
      CHECK(lost.s == (i < 2 ? 11 : 13));
      CHECK(lost.weight == 1);
    }
    CHECK(b.lost[0].x == 3e-3);
    CHECK(b.lost[1].x == doctest::Approx(2.5e-3).epsilon(1e-15));
    CHECK(b.lost[2].x ==
          doctest::Approx(1.9e-3 * (1 + 2 / std::sqrt(1 - 1.9e-3 * 1.9e-3))).epsilon(1e-14));
    CHECK(b.lost[2].px == 1.9e-3);
    CHECK(r.records[0].moments.count == n);
    CHECK(r.records[1].moments.count == n - 2);
    CHECK(r.records[2].moments.count == n - 2);
    CHECK(r.records[3].moments.count == n - 3);
    CHECK(r.records[3].moments.max[3] == 0.9e-3);
    CHECK(r.records[3].moments.max[0] == 0);  // lost particles count nowhere
  }
}

TEST_CASE("losses over several turns name turn and path length") {
  lattice::line l;
  l.elements = {make(elements::drift{.length = 0.75}), make(elements::marker{}),
                make(elements::aperture{.x_max = 1e-2, .y_max = 1}),
                make(elements::drift{.length = 0.25})};
  for (const bool recorded : {false, true}) {
    beam::bunch b(electron(), 100);
    b.ref.s = 5;
    for (std::size_t i = 0; i < 100; ++i) set(b, 1, i, 1e-4 * (static_cast<double>(i) + 0.5));
    track_options how{.turns = 150};
    if (recorded) how.recorded = all_of(l);
    const track_result r = track(l, b, how);
    // 1e-2 = px (turn + 0.75)
    std::size_t lost = 0;
    for (const auto& particle : b.lost) {
      const double distance = 1e-2 / particle.px;
      CHECK(particle.turn == static_cast<std::int64_t>(std::ceil(distance - 0.75)));
      CHECK(particle.s ==
            doctest::Approx(5.75 + static_cast<double>(particle.turn)).epsilon(1e-14));
      CHECK(particle.element == 2);
      CHECK(particle.x == doctest::Approx(particle.px * (static_cast<double>(particle.turn) + 0.75))
                              .epsilon(1e-12));
      ++lost;
    }
    CHECK(lost == r.lost);
    CHECK(lost == 99);  // the first would take 199.25 turns
    CHECK(b.ref.s == doctest::Approx(155));
    if (!recorded) continue;
    for (std::size_t i = 0; i < r.records.size(); ++i) {
      const double turn = static_cast<double>(i / 4);
      const double places[] = {0.75, 0.75, 0.75, 1};
      CHECK(r.records[i].turn == static_cast<std::int64_t>(i / 4));
      CHECK(r.records[i].ref.s == doctest::Approx(5 + turn + places[i % 4]).epsilon(1e-14));
      CHECK(r.records[i].ref.position[2] == doctest::Approx(turn + places[i % 4]).epsilon(1e-13));
    }
  }
}

TEST_CASE("what is not finite is taken out and said so") {
  for (const auto p : {precision::single, precision::double_}) {
    beam::bunch b = bunch(500, p);
    set(b, 0, 3, not_a_number);
    set(b, 5, 499, infinity);
    set(b, 4, 250, -infinity);
    const lattice::line l = fodo();
    const track_result r = track(l, b, {.recorded = all_of(l)});
    CHECK(r.lost == 3);
    REQUIRE(b.lost.size() == 3);
    const std::uint64_t ids[] = {3, 250, 499};
    for (std::size_t i = 0; i < 3; ++i) {
      CHECK(b.lost[i].id == ids[i]);
      CHECK(b.lost[i].reason == loss_reason::non_finite);
      CHECK(b.lost[i].element == 0);
    }
    for (const auto& record : r.records) CHECK(std::isfinite(record.moments.cov[0]));
    b.check_finite();
    // more energy taken than there is: P^2 < 0
    beam::bunch stopped(electron(1e6), 20, p);
    set(stopped, 5, 7, 0.9);
    CHECK(track(l, stopped, {}).lost == 1);
    CHECK(stopped.lost[0].id == 7);
    CHECK(track({}, stopped, {}).lost == 0);
  }
}

TEST_CASE("steep particles leave the domain of the exact models") {
  for (const auto p : {precision::single, precision::double_}) {
    beam::bunch b(electron(), 40, p);
    set(b, 1, 11, 1.25);
    set(b, 3, 12, -1.25);
    set(b, 1, 13, 0.9);
    set(b, 5, 14, -0.5);
    set(b, 1, 14, 1.25);  // P = 1.5: still forward
    lattice::line l;
    l.elements = {make(elements::drift{.length = 1}, elements::model::exact)};
    CHECK(track(l, b, {}).lost == 2);
    CHECK(b.lost[0].id == 11);
    CHECK(b.lost[1].id == 12);
    CHECK(b.lost[0].reason == loss_reason::outside_domain);
    CHECK(b.lost[0].px == 1.25);
    CHECK(b.lost[0].x == 0);
    CHECK(coordinate(b, 0, 11) == doctest::Approx(0.9 / std::sqrt(1 - 0.81)).epsilon(1e-6));
  }
}

TEST_CASE("recorded moments are the moments of the beam at that place") {
  const lattice::line l = everything();
  beam::bunch b = bunch(2000, precision::double_, {1e-3, 1e-4, 1e-3, 1e-4, 1e-3, 1e-3});
  beam::bunch stepwise = b;
  const track_result r = track(l, b, {.recorded = all_of(l), .record_start = true});
  REQUIRE(r.records.size() == l.elements.size() + 1);
  CHECK(r.records[0].element == -1);
  for (std::size_t i = 0; i < r.records.size(); ++i) {
    if (i > 0) {
      lattice::line one;
      one.elements = {l.elements[i - 1]};
      track(one, stepwise, {});
      CHECK(r.records[i].element == static_cast<std::int32_t>(i - 1));
    }
    CAPTURE(i);
    const beam::moments direct = stepwise.moments(), &m = r.records[i].moments;
    CHECK(r.records[i].ref == stepwise.ref);
    CHECK(m.count == direct.count);
    CHECK(m.weight == direct.weight);
    for (std::size_t c = 0; c < 6; ++c) {
      const double sigma = direct.sigma(static_cast<int>(c));
      // the energy constants behind a cavity are rounded differently in one program and in two
      CHECK(std::fabs(m.mean[c] - direct.mean[c]) <= 1e-12 * sigma);
      CHECK(m.min[c] == doctest::Approx(direct.min[c]).epsilon(1e-12));
      CHECK(m.max[c] == doctest::Approx(direct.max[c]).epsilon(1e-12));
      for (std::size_t k = 0; k < 6; ++k) {
        CHECK(std::fabs(m.cov[6 * c + k] - direct.cov[6 * c + k]) <=
              1e-12 * sigma * direct.sigma(static_cast<int>(k)));
      }
    }
  }
}

TEST_CASE("slices are recorded on request") {
  lattice::line l;
  l.elements = {make(elements::drift{.length = 0.3}),
                make(elements::quadrupole{.length = 0.4, .k1 = 1})};
  l.elements[1]->slices = 4;
  beam::bunch b = bunch(100);
  const track_result r = track(l, b, {.recorded = {0, 1}, .record_slices = true});
  REQUIRE(r.records.size() == 4);
  for (int k = 0; k < 4; ++k) {
    const auto& record = r.records[static_cast<std::size_t>(k)];
    CHECK(record.element == 1);
    CHECK(record.slice == k);
    CHECK(record.ref.s == doctest::Approx(0.3 + 0.1 * (k + 1)).epsilon(1e-15));
  }
  beam::bunch whole = bunch(100);
  CHECK(track(l, whole, {.recorded = {0, 1}}).records.size() == 1);
  CHECK(machines::same_bits(b, whole));
}

TEST_CASE("turns tracked together are turns tracked one by one") {
  lattice::line l = fodo(2);
  l.elements.push_back(make(elements::bend{.length = 1, .angle = 0.3}));
  beam::bunch together = bunch(1000), one_by_one = together;
  const track_result r = track(l, together, {.turns = 5, .recorded = all_of(l)});
  std::vector<tracking::moment_record> records;
  for (std::int64_t turn = 0; turn < 5; ++turn) {
    const track_result part = track(l, one_by_one, {.first_turn = turn, .recorded = all_of(l)});
    records.insert(records.end(), part.records.begin(), part.records.end());
  }
  CHECK(machines::same_bits(together, one_by_one));
  REQUIRE(r.records.size() == records.size());
  for (std::size_t i = 0; i < records.size(); ++i) {
    CHECK(r.records[i].turn == records[i].turn);
    CHECK(r.records[i].element == records[i].element);
    CHECK(same_bits(r.records[i].moments, records[i].moments));
    const beam::reference &a = r.records[i].ref, &b = records[i].ref;
    CHECK(a.kinetic == b.kinetic);
    CHECK(a.s == doctest::Approx(b.s).epsilon(1e-14));
    CHECK(a.t == doctest::Approx(b.t).epsilon(1e-14));
    for (std::size_t k = 0; k < 3; ++k) CHECK(std::fabs(a.position[k] - b.position[k]) < 1e-13);
    for (std::size_t k = 0; k < 9; ++k) CHECK(std::fabs(a.frame[k] - b.frame[k]) < 1e-14);
  }
  for (std::size_t k = 0; k < 3; ++k) {
    CHECK(std::fabs(together.ref.position[k] - one_by_one.ref.position[k]) < 1e-13);
  }
  CHECK(r.turn == 5);
  CHECK(r.element == 0);
  CHECK(!r.interrupted);
}

TEST_CASE("an accelerating line is compiled anew for each turn") {
  lattice::line l = fodo();
  const double voltage = 3e7, phase = -0.3;
  l.elements.push_back(
      make(elements::rf_cavity{.voltage = voltage, .frequency = 2e8, .phase = phase}));
  beam::bunch together = bunch(500), one_by_one = together;
  const double kinetic = together.ref.kinetic_energy(), p0 = together.ref.momentum();
  track(l, together, {.turns = 4});
  for (std::int64_t turn = 0; turn < 4; ++turn) track(l, one_by_one, {.first_turn = turn});
  CHECK(machines::same_bits(together, one_by_one));
  CHECK(together.ref == one_by_one.ref);
  CHECK(together.ref.kinetic_energy() ==
        doctest::Approx(kinetic + 4 * voltage * std::cos(phase)).epsilon(1e-14));
  // acceleration damps the momenta: px p0 is kept by a cavity alone
  lattice::line cavity;
  cavity.elements = {l.elements.back()};
  beam::bunch b = bunch(50);
  const double px = coordinate(b, 1, 49);
  track(cavity, b, {.turns = 4});
  CHECK(coordinate(b, 1, 49) * b.ref.momentum() == doctest::Approx(px * p0).epsilon(1e-14));
}

TEST_CASE("backward undoes forward") {
  lattice::line stable = fodo(2);
  stable.elements.push_back(make(elements::bend{.length = 1, .angle = 0.1}));
  stable.elements.push_back(
      make(elements::rf_cavity{.length = 0.1, .voltage = 1e6, .frequency = 1e9}));
  const std::array<double, 6> sigma = {1e-3, 1e-4, 1e-3, 1e-4, 1e-3, 1e-3};
  for (const std::int64_t turns : {1, 5}) {
    const lattice::line l = turns == 1 ? everything(true) : stable;
    const beam::bunch start = bunch(300, precision::double_, sigma);
    beam::bunch b = start;
    track(l, b, {.turns = turns});
    CHECK(b.ref.kinetic > start.ref.kinetic);
    REQUIRE(b.size() == start.size());
    track(l, b, {.turns = turns, .way = lattice::direction::backward});
    CHECK(b.ref.kinetic == doctest::Approx(start.ref.kinetic).epsilon(1e-14));
    CHECK(std::fabs(b.ref.s) < 1e-13);
    for (std::size_t k = 0; k < 3; ++k) CHECK(std::fabs(b.ref.position[k]) < 1e-12);
    double worst = 0;
    for (std::size_t c = 0; c < 6; ++c) {
      for (std::size_t i = 0; i < 300; ++i) {
        worst =
            std::fmax(worst, std::fabs(coordinate(b, c, i) - coordinate(start, c, i)) / sigma[c]);
      }
    }
    CHECK(worst < 1e-10);
  }
}

TEST_CASE("interruption leaves all particles at one place, from where tracking can go on") {
  // enough work for several pieces of a turn: particles x operations > 5e8
  constexpr std::size_t n = 60000, elements_count = 9000;
  const auto drift = make(elements::drift{.length = 0.01});
  const auto lens = make(elements::quadrupole{.length = 0.01, .k1 = 1});
  lattice::line l;
  for (std::size_t i = 0; i < elements_count; ++i) l.elements.push_back(i % 50 == 0 ? lens : drift);
  const beam::bunch start = bunch(n, precision::single, {1e-3, 1e-6, 1e-3, 1e-6, 1e-3, 1e-3});
  beam::bunch whole = start, stopped = start;
  track(l, whole, {});

  int calls = 0;
  const track_result r = track(l, stopped, {.on_progress = [&](double part) {
                                 CHECK(part > 0);
                                 CHECK(part < 1);
                                 ++calls;
                                 return false;
                               }});
  CHECK(calls == 1);
  CHECK(r.interrupted);
  CHECK(r.turn == 0);
  REQUIRE(r.element > 0);
  REQUIRE(r.element < elements_count);
  CHECK(stopped.ref.s == doctest::Approx(0.01 * static_cast<double>(r.element)).epsilon(1e-12));
  lattice::line rest;
  rest.elements.assign(l.elements.begin() + static_cast<std::ptrdiff_t>(r.element),
                       l.elements.end());
  track(rest, stopped, {});
  CHECK(machines::same_bits(stopped, whole));
  CHECK(stopped.ref == whole.ref);
}

TEST_CASE("a refusal to go on after the last element is no interruption") {
  beam::bunch b = bunch(10);
  const track_result r =
      track(fodo(), b, {.turns = 2, .on_progress = [](double part) { return part < 1; }});
  CHECK(!r.interrupted);
  CHECK(r.turn == 2);
}

TEST_CASE("nothing moves when an option or an element cannot be tracked") {
  beam::bunch b = bunch(10);
  const beam::bunch before = b;
  lattice::line l = fodo();
  const auto message = [&](const track_options& how) -> std::string {
    try {
      track(l, b, how);
    } catch (const std::invalid_argument& e) {
      return e.what();
    }
    return "";
  };
  CHECK(message({.turns = -1}) == "turns = -1 is not allowed; allowed: >= 0");
  CHECK(message({.recorded = {1, 0}}) == "record has 2 flags for a line of 5 elements");
  l.elements.push_back(make(elements::bend{.length = 0, .angle = 0.1}));
  l.elements.back()->name = "b7";
  CHECK(message({}).find("Bend 'b7': angle = 0.1 rad needs a length") == 0);
  l.elements.back() = make(elements::rf_cavity{.voltage = -2e8, .frequency = 1e9});
  CHECK(message({}).find("stops the reference particle") != std::string::npos);
  CHECK(machines::same_bits(b, before));
  CHECK(b.ref == before.ref);
}

TEST_CASE("no turns, no elements") {
  beam::bunch b = bunch(10);
  const beam::bunch before = b;
  const lattice::line l = fodo();
  const track_result r = track(l, b, {.turns = 0, .recorded = all_of(l), .record_start = true});
  CHECK(r.records.size() == 1);
  CHECK(r.turn == 0);
  CHECK(track({}, b, {.turns = 1000}).lost == 0);
  CHECK(machines::same_bits(b, before));
  CHECK(b.ref == before.ref);
}

TEST_CASE("the processor is known") {
  const std::string isa = tracking::instruction_set();
  CHECK((isa == "v2" || isa == "v3" || isa == "v4" || isa == "base"));
  CHECK(tracking::available_threads() >= 1);
}
