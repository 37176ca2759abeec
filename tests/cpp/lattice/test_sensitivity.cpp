// Derivatives of functions of a line along its knobs.
#include "lattice/sensitivity.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "../tracking/machines.h"

namespace {

using namespace betatron;
using namespace betatron::lattice;

}  // namespace

TEST_CASE("the derivative along a knob looks at allowed values only") {
  for (const double x : {0.0, 1e-5, 1e-3, 0.3, 0.999, 1.0}) {
    CAPTURE(x);
    const auto wiggler = std::make_shared<element>(
        element{elements::undulator{.length = 1, .period = 0.05, .strength = 1, .sharing = x}});
    line l;
    l.elements = {wiggler, wiggler};
    const double slope = derivative_along({wiggler, "sharing", -1}, l, [](const line& now) {
      double sum = 0;
      for (const auto& e : now.elements) {
        const double sharing = std::get<elements::undulator>(e->body).sharing;
        CHECK(sharing >= 0);
        CHECK(sharing <= 1);
        sum += std::sin(1 + sharing);
      }
      return sum;
    });
    CHECK(slope == doctest::Approx(2 * std::cos(1 + x)).epsilon(1e-7));
  }
}

TEST_CASE("knobs of one parameter are those of all with its name") {
  for (const kind_info& kind : kinds()) {
    CAPTURE(kind.name);
    const auto e = std::make_shared<element>(make_element(kind.name));
    const std::vector<knob> all = knobs_of(e);
    std::size_t found = 0;
    for (const auto* list : {&kind.parameters, &common_parameters()}) {
      for (const parameter_info& p : *list) {
        for (const knob& k : knobs_of(e, p.name)) {
          CHECK(k.parameter == p.name);
          found += static_cast<std::size_t>(std::ranges::count_if(all, [&](const knob& other) {
            return other.parameter == k.parameter && other.entry == k.entry;
          }));
        }
      }
    }
    CHECK(found == all.size());
    CHECK(knobs_of(e, "").empty());
  }
}

TEST_CASE("the slope of what is linear in a knob, and of what is not") {
  const double angle = 0.1;
  for (const double length : {0.3, 2.0, 700.0}) {
    CAPTURE(length);
    const auto magnet =
        std::make_shared<element>(element{elements::bend{.length = length, .angle = angle}});
    const geometry_slope by_length = geometry_of({magnet, "length", -1});
    const geometry_slope by_angle = geometry_of({magnet, "angle", -1});
    CHECK(std::fabs(by_length.length - 1) < 1e-14);
    CHECK(std::fabs(by_length.curvature * length * length / angle + 1) < 1e-12);
    CHECK(by_angle.length == 0);
    CHECK(std::fabs(by_angle.curvature * length - 1) < 1e-14);
  }
}
