// Power series of elements and lines, and the element that they make.
#include "lattice/taylor.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <stdexcept>

#include "../tracking/machines.h"
#include "lattice/program.h"

namespace {

using namespace betatron;
using namespace betatron::lattice;
using elements::matrix6;
using vector = std::array<double, 6>;

}  // namespace

TEST_CASE("power series of every element are the derivatives of the tracked particle") {
  const vector start = {1e-3, -2e-4, 2e-3, 3e-4, 1e-4, -5e-4};
  const line all = machines::everything();
  for (const auto& e : all.elements) {
    CAPTURE(describe(*e));
    line one;
    one.elements = {e};
    beam::reference ref = machines::electron(), behind = ref;
    const orbit_map first = derivative(one, 0, 1, behind, start);
    beam::reference at_end = ref;
    const taylor_series series = expand(one, 0, 1, at_end, 2, start);
    CHECK(at_end == behind);
    constexpr std::size_t n = 28;
    REQUIRE(series.coefficients.size() == 6 * n);
    double largest = 1;
    for (double c : first.matrix) largest = std::fmax(largest, std::fabs(c));
    for (std::size_t i = 0; i < 6; ++i) {
      CHECK(std::fabs(series.coefficients[i * n] - first.orbit[i]) <= 1e-15 * largest);
      for (std::size_t k = 0; k < 6; ++k) {
        CHECK(std::fabs(series.coefficients[i * n + 1 + k] - first.matrix[6 * i + k]) <=
              1e-13 * largest);
      }
    }
    // second derivatives against differences of the first
    const double h = 1e-5;
    for (std::size_t k = 0; k < 6; ++k) {
      vector above = start, below = start;
      above[k] += h;
      below[k] -= h;
      beam::reference r1 = ref, r2 = ref;
      const matrix6 a = derivative(one, 0, 1, r1, above).matrix,
                    b = derivative(one, 0, 1, r2, below).matrix;
      for (std::size_t i = 0; i < 6; ++i) {
        for (std::size_t j = 0; j < 6; ++j) {
          const std::size_t p = std::min(j, k), q = std::max(j, k);
          const std::size_t at = 7 + p * (13 - p) / 2 + (q - p);
          const double found = series.coefficients[i * n + at] * (j == k ? 2 : 1);
          const double expected = (a[6 * i + j] - b[6 * i + j]) / (2 * h);
          CAPTURE(i);
          CAPTURE(j);
          CAPTURE(k);
          CHECK(found == doctest::Approx(expected).epsilon(1e-4).scale(largest));
        }
      }
    }
  }
}

TEST_CASE("orders of power series that there are not") {
  line l;
  beam::reference ref = machines::electron();
  for (const int order : {0, 5, -1})
    CHECK_THROWS_AS(expand(l, 0, 0, ref, order), std::invalid_argument);
}
