// Code of the user: tile code inside the fused pass, code for the whole beam, hooks.
#include "elements/programmable.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>

#include "elements/c_function.h"
#include "machines.h"
#include "tracking/track.h"

namespace {

using namespace betatron;
using namespace machines;
using elements::beam_code;
using elements::code_place;
using elements::code_tile;
using elements::programmable;
using elements::tile_code;
using tracking::hook_point;
using tracking::track;
using tracking::track_options;

/// px -= k x^3, of settings[0]; lost where |x| > settings[1].
template <class F>
void push_octupole(const code_place& at, const code_tile<F>& p) {
  for (std::size_t i = 0; i < p.padded; ++i) {
    p.z[1][i] -= static_cast<F>(at.settings[0]) * p.z[0][i] * p.z[0][i] * p.z[0][i];
  }
  for (std::size_t i = 0; i < p.count; ++i) {
    p.outside[i] = std::fabs(p.z[0][i]) > static_cast<F>(at.settings[1]);
  }
}

template <class F>
void pull_octupole(const code_place& at, const code_tile<F>& p, F* const lambda[6]) {
  for (std::size_t i = 0; i < p.count; ++i) {
    lambda[0][i] -= 3 * static_cast<F>(at.settings[0]) * p.z[0][i] * p.z[0][i] * lambda[1][i];
  }
}

tile_code octupole() {
  tile_code code;
  code.name = "octupole";
  code.push_double = push_octupole<double>;
  code.push_single = push_octupole<float>;
  code.pull_double = pull_octupole<double>;
  code.pull_single = pull_octupole<float>;
  return code;
}

std::shared_ptr<lattice::element> element_of(tile_code code, double k = 500, double edge = 1) {
  programmable p;
  p.settings = {k, edge};
  p.tiles = std::make_shared<const tile_code>(std::move(code));
  return make(p);
}

/// Fodo cells with the element in front of each.
lattice::line with(const std::shared_ptr<lattice::element>& e) {
  lattice::line l;
  for (int i = 0; i < 3; ++i) {
    l.elements.push_back(e);
    for (const auto& other : fodo().elements) l.elements.push_back(other);
  }
  return l;
}

beam::bunch spread(std::size_t n, beam::precision p = beam::precision::double_) {
  beam::bunch b(electron(), n, p);
  b.visit([&]<class F>(const beam::columns<F>& c) {
    for (std::size_t i = 0; i < n; ++i) {
      for (std::size_t k = 0; k < 6; ++k) {
        c.z[k][i] = static_cast<F>(1e-3 * std::sin(1.0 + static_cast<double>(i * (k + 1))));
      }
    }
  });
  return b;
}

std::vector<double> coordinates(const beam::bunch& b) {
  std::vector<double> all;
  b.visit([&](const auto& c) {
    for (const auto* column : c.z) all.insert(all.end(), column, column + c.size);
  });
  return all;
}

double largest_difference(const std::vector<double>& a, const std::vector<double>& b) {
  REQUIRE(a.size() == b.size());
  double largest = 0;
  for (std::size_t i = 0; i < a.size(); ++i) largest = std::max(largest, std::fabs(a[i] - b[i]));
  return largest;
}

}  // namespace

TEST_CASE("tile code does what the same multipole does, with the same bits on any threads") {
  // knl[3]/3! = k
  const auto same = make(elements::multipole{.knl = {0, 0, 0, 3000}});
  const auto code = element_of(octupole());
  for (const std::size_t n : {1u, 17u, 1000u, 5000u}) {
    track_options o;
    o.turns = 2;
    auto expected = spread(n);
    // a multipole kicks y too: compare in one plane
    expected.visit([&](const auto& c) {
      for (std::size_t i = 0; i < n; ++i) c.z[2][i] = c.z[3][i] = 0;
    });
    auto one = expected, two = expected;
    track(with(same), expected, o);
    o.threads = 1;
    track(with(code), one, o);
    o.threads = 3;
    track(with(code), two, o);
    CHECK(coordinates(one) == coordinates(two));
    CHECK(largest_difference(coordinates(one), coordinates(expected)) < 1e-16);
    CHECK(one.ref.s == doctest::Approx(expected.ref.s));
  }
}

TEST_CASE("single precision has code of its own, or is converted") {
  auto own = spread(700, beam::precision::single), converted = own;
  track(with(element_of(octupole())), own, {});
  tile_code code = octupole();
  code.push_single = nullptr;
  track(with(element_of(code)), converted, {});
  CHECK(largest_difference(coordinates(own), coordinates(converted)) < 3e-9);  // an ulp or two
}

TEST_CASE("what tile code marks is lost there, and what it makes NaN too") {
  auto b = spread(1000);
  const auto before = b;
  track(with(element_of(octupole(), 500, 8e-4)), b, {});
  REQUIRE(b.lost.size() > 0);
  CHECK(b.size() + b.lost.size() == 1000);
  std::size_t at_once = 0;
  before.visit([&](const auto& c) {
    for (std::size_t i = 0; i < c.size; ++i) at_once += std::fabs(c.z[0][i]) > 8e-4;
  });
  CHECK(static_cast<std::size_t>(std::ranges::count_if(
            b.lost, [](const auto& p) { return p.element == 0; })) == at_once);
  for (const auto& p : b.lost) {
    CHECK(p.reason == beam::loss_reason::outside_domain);
    CHECK(p.element % 6 == 0);
    CHECK(std::fabs(p.x) > 8e-4);
  }

  tile_code bad;
  bad.push_double = [](const code_place&, const code_tile<double>& p) {
    for (std::size_t i = 0; i < p.count; ++i) {
      if (p.id[i] == 399) p.z[2][i] = std::numeric_limits<double>::quiet_NaN();
    }
  };
  b = spread(1000);
  track(with(element_of(bad)), b, {});
  REQUIRE(b.lost.size() == 1);
  CHECK(b.lost[0].id == 399);
  CHECK(b.lost[0].element == 0);
  CHECK(b.lost[0].reason == beam::loss_reason::non_finite);
}

TEST_CASE("tile code knows its place in every turn") {
  std::atomic<int> wrong{0};
  tile_code code;
  code.push_double = [&](const code_place& at, const code_tile<double>& p) {
    const double s = 6.0 * static_cast<double>(at.turn - 3) + 2.0 + 0.25 * at.slice;
    wrong += std::fabs(at.entrance.s - s) > 1e-12 || std::fabs(at.exit.s - s - 0.25) > 1e-12 ||
             at.slices != 2 || at.length != 0.25 || at.element != 1 || at.name != "code" ||
             p.padded < p.count;
  };
  programmable body;
  body.length = 0.5;
  body.tiles = std::make_shared<const tile_code>(code);
  const auto e = make(body);
  e->slices = 2;
  e->name = "code";
  lattice::line l;
  l.elements = {make(elements::drift{.length = 2}), e, make(elements::drift{.length = 3.5})};
  auto b = spread(400);
  track_options o;
  o.turns = 4;
  o.first_turn = 3;
  track(l, b, o);
  CHECK(wrong == 0);
}

TEST_CASE("linear maps go through tile code by its pull, or by stated differences") {
  const std::array<double, 6> start{2e-2, 1e-3, 0, 0, 0, 0};
  tile_code differences = octupole();
  differences.pull_double = nullptr;
  const lattice::line exact = with(element_of(octupole()));
  CHECK_THROWS_WITH_AS(
      [&] {
        auto ref = electron();
        lattice::derivative(with(element_of(differences)), 0, 1, ref, start);
      }(),
      doctest::Contains("Programmable: its code has no derivative"), std::invalid_argument);
  differences.steps.fill(1e-5);
  const lattice::line approximate = with(element_of(differences));
  auto ref = electron();
  const auto a = lattice::derivative(exact, 0, exact.elements.size(), ref, start);
  ref = electron();
  const auto b = lattice::derivative(approximate, 0, approximate.elements.size(), ref, start);
  for (std::size_t i = 0; i < 36; ++i) {
    CHECK(b.matrix[i] == doctest::Approx(a.matrix[i]).epsilon(1e-6).scale(1e-6));
  }
  ref = electron();
  const auto one = lattice::derivative(exact, 0, 1, ref, start);
  CHECK(one.orbit[1] == doctest::Approx(1e-3 - 500 * 8e-6));
  CHECK(one.matrix[6] == doctest::Approx(-3 * 500 * 4e-4));
  CHECK(one.matrix[0] == 1);
}

TEST_CASE("tile code that stops leaves all particles in front of it") {
  tile_code code = octupole();
  code.stops = "are far out";
  const auto stop = element_of(code, 500, 0.9e-3);
  for (const unsigned threads : {1u, 3u}) {
    for (const bool kicked : {false, true}) {
      auto b = spread(3000), want = spread(3000);
      want.visit([](const auto& c) { std::fill_n(c.z[0], c.size, 0.5e-3); });
      b = want;
      lattice::line front;
      for (const auto& e : fodo().elements) front.elements.push_back(e);
      track_options o;
      o.threads = threads;
      track(front, want, o);
      std::size_t outside = 0;
      want.visit([&](const auto& c) {
        for (std::size_t i = 0; i < c.size; ++i) outside += std::fabs(c.z[0][i]) > 0.9e-3;
      });
      REQUIRE(outside > 0);
      lattice::line l = front;
      l.elements.push_back(stop);
      for (const auto& e : fodo().elements) l.elements.push_back(e);
      if (kicked) {  // stretch by stretch
        tracking::hook h;
        h.point = hook_point::before_element;
        h.call = [](beam::bunch&, const tracking::hook_place&) {};
        o.hooks.push_back(h);
      }
      const std::string words = std::to_string(outside) + " of 3000 particles are far out";
      CHECK_THROWS_WITH_AS(track(l, b, o), doctest::Contains(words.c_str()), std::runtime_error);
      CHECK(b.size() == 3000);
      CHECK(b.lost.size() == 0);
      CHECK(b.ref.s == doctest::Approx(want.ref.s));
      want.visit([&]<class F>(const beam::columns<F>& w) {
        b.visit([&]<class G>(const beam::columns<G>& c) {
          for (std::size_t k = 0; k < 6; ++k) {
            CHECK(std::equal(w.z[k], w.z[k] + w.size, c.z[k], [](F x, G y) {
              return static_cast<double>(x) == static_cast<double>(y);
            }));
          }
        });
      });
    }
  }
}

TEST_CASE("tile code is refused by name where it cannot be used") {
  const lattice::line l = with(element_of(octupole()));
  auto b = spread(3);
  track_options o;
  o.way = lattice::direction::backward;
  CHECK_THROWS_WITH_AS(track(l, b, o), doctest::Contains("Programmable: its code has no inverse"),
                       std::invalid_argument);
  b.set_spin({0, 0, 1});
  o.way = lattice::direction::forward;
  o.spin = true;
  CHECK_THROWS_WITH_AS(track(l, b, o), doctest::Contains("its effect on the spin is not known"),
                       std::invalid_argument);
}

TEST_CASE("C functions are tile code") {
  elements::c_functions c;
  c.push_double = [](std::int64_t n, double* x, double* px, double*, double*, double*, double*,
                     const double* weight, const std::uint64_t* id, std::uint8_t* lost,
                     const double* place, const double* settings) {
    for (std::int64_t i = 0; i < n; ++i) {
      px[i] -= settings[0] * x[i] * x[i] * x[i] * weight[i];
      lost[i] = id[i] == 5 && place[15] == 2;
    }
  };
  auto a = spread(800), b = spread(800);
  track(with(element_of(elements::make_tile_code("c", c))), a, {});
  CHECK(a.lost.size() == 1);
  CHECK(a.size() == 799);
  track(with(element_of(octupole())), b, {});
  const std::vector<beam::bunch::loss> fifth = {{5, 0, 0, 0, beam::loss_reason::user}};
  b.remove(fifth);
  CHECK(largest_difference(coordinates(a), coordinates(b)) < 1e-16);
}

TEST_CASE("code for the whole beam cuts the pass, forwards and backwards") {
  auto code = std::make_shared<beam_code>();
  const auto kick = [](double sign) {
    return [sign](beam::bunch& b, const code_place& at) {
      CHECK(b.ref == (sign > 0 ? at.entrance : at.exit));
      b.visit([&]<class F>(const beam::columns<F>& c) {
        for (std::size_t i = 0; i < c.size; ++i) {
          c.z[1][i] -= static_cast<F>(sign * at.settings[0]) * c.z[0][i];
        }
      });
    };
  };
  code->push = kick(1);
  code->inverse = kick(-1);
  programmable p;
  p.settings = {0.3};
  p.beam = code;
  const auto e = make(p);
  e->align.dx = 1e-3;
  e->align.roll = 0.2;
  const lattice::line l = with(e);
  const auto start = spread(1000);
  auto b = start;
  track_options o;
  o.turns = 3;
  track(l, b, o);
  CHECK(largest_difference(coordinates(b), coordinates(start)) > 1e-4);
  o.way = lattice::direction::backward;
  track(l, b, o);
  CHECK(largest_difference(coordinates(b), coordinates(start)) < 1e-15);
  CHECK(b.ref.s == doctest::Approx(0).scale(1));
}

TEST_CASE("hooks are called at their places, and a failing one leaves a beam in one place") {
  lattice::line l = fodo();
  l.elements[0]->slices = 2;
  std::vector<std::string> seen;
  track_options o;
  for (const hook_point p :
       {hook_point::before_turn, hook_point::after_turn, hook_point::before_element,
        hook_point::after_element, hook_point::before_slice, hook_point::after_slice}) {
    o.hooks.push_back({p,
                       [&](beam::bunch&, const tracking::hook_place& at) {
                         seen.push_back(tracking::name_of(at.point) + std::string(" ") +
                                        std::to_string(at.element) + "." +
                                        std::to_string(at.slice));
                       },
                       {}});
  }
  o.hooks.back().at = {1, 0, 0, 0, 0};
  auto b = spread(50);
  track(l, b, o);
  const std::vector<std::string> first = {
      "before_turn 0.0",  "before_element 0.0", "before_slice 0.0",  "after_slice 0.0",
      "before_slice 0.1", "after_slice 0.1",    "after_element 0.1", "before_element 1.0"};
  REQUIRE(seen.size() == 2 + 2 * 5 + 6 + 2);
  CHECK(std::vector<std::string>(seen.begin(), seen.begin() + 8) == first);
  CHECK(seen.back() == "after_turn 5.0");

  o.hooks = {{hook_point::after_element,
              [](beam::bunch&, const tracking::hook_place& at) {
                if (at.element == 2) throw std::runtime_error("stop here");
              },
              {}}};
  b = spread(500);
  auto expected = b;
  CHECK_THROWS_WITH(track(l, b, o), "stop here");
  lattice::line part = l;
  part.elements.resize(3);
  track(part, expected, {});
  CHECK(largest_difference(coordinates(b), coordinates(expected)) < 1e-16);
  CHECK(b.ref.s == doctest::Approx(expected.ref.s));
}
