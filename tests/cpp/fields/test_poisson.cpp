// The open-boundary solver against direct sums and known potentials.
#include "fields/poisson.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <complex>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "fields/green.h"

namespace {

using namespace betatron::fields;

template <class F>
grid<F> random_charges(std::array<std::size_t, 3> n, unsigned seed) {
  grid<F> g(n);
  g.clear(1);
  std::mt19937 random(seed);
  std::uniform_real_distribution<double> value(-1, 1);
  for (std::size_t z = 0; z < n[2]; ++z) {
    for (std::size_t y = 0; y < n[1]; ++y) {
      for (std::size_t x = 0; x < n[0]; ++x) g.at(x, y, z) = static_cast<F>(value(random));
    }
  }
  return g;
}

/// The convolution as it is written.
template <class F>
double largest_error(std::array<std::size_t, 3> n, cell edges, unsigned threads) {
  const std::array<double, 3> h = edges.edges();
  grid<F> charges = random_charges<F>(n, 1), potential = random_charges<F>(n, 1);
  open_solver<F> solver(n);
  CHECK(solver.set_cells(edges, threads));
  solver.solve(potential, threads);
  std::vector<double> green(n[0] * n[1] * n[2]);
  for (std::size_t i = 0; i < green.size(); ++i) {
    const std::array<std::size_t, 3> k = {i % n[0], i / n[0] % n[1], i / n[0] / n[1]};
    green[i] = average_inverse_distance(
        {static_cast<double>(k[0]) * h[0], static_cast<double>(k[1]) * h[1],
         static_cast<double>(k[2]) * h[2]},
        h);
  }
  double error = 0, scale = 0;
  std::mt19937 random(5);
  for (int trial = 0; trial < 40; ++trial) {
    const std::size_t x = random() % n[0], y = random() % n[1], z = random() % n[2];
    double sum = 0, size = 0;
    for (std::size_t c = 0; c < n[2]; ++c) {
      for (std::size_t b = 0; b < n[1]; ++b) {
        for (std::size_t a = 0; a < n[0]; ++a) {
          const auto d = [](std::size_t u, std::size_t v) { return u > v ? u - v : v - u; };
          const double term = static_cast<double>(charges.at(a, b, c)) *
                              green[(d(z, c) * n[1] + d(y, b)) * n[0] + d(x, a)];
          sum += term;
          size += std::fabs(term);
        }
      }
    }
    error = std::max(error,
                     std::fabs(static_cast<double>(potential.at(x, y, z)) / solver.unit() - sum));
    scale = std::max(scale, size);
  }
  return error / scale;
}

/// Average of 1/r by brute force: the box is divided until every part is short, parts by their Taylor series or, at
/// the origin, by symmetry into smaller boxes.
double brute_force(std::array<double, 3> c, std::array<double, 3> h, int depth = 0) {
  const double r2 = c[0] * c[0] + c[1] * c[1] + c[2] * c[2];
  const double longest = std::max({h[0], h[1], h[2]});
  if (r2 > 60 * 60 * longest * longest) return average_inverse_distance(c, h);
  if (depth > 60) return 0;
  const std::size_t axis = h[0] == longest ? 0 : h[1] == longest ? 1 : 2;
  std::array<double, 3> half = h, low = c, high = c;
  half[axis] /= 2;
  low[axis] -= half[axis] / 2;
  high[axis] += half[axis] / 2;
  return (brute_force(low, half, depth + 1) + brute_force(high, half, depth + 1)) / 2;
}

}  // namespace

TEST_CASE("lengths of transforms") {
  CHECK(good_length(1) == 4);
  CHECK(good_length(64) == 64);
  CHECK(good_length(65) == 72);
  CHECK(good_length(11) == 12);
  for (std::size_t n = 1; n < 3000; ++n) {
    CHECK(good_length(n) >= n);
    CHECK(good_length(n) <= n + n / 7 + 4);
  }
}

TEST_CASE("the potential of a box, near and far, whatever its shape") {
  for (const std::array<double, 3> h :
       {std::array{1.0, 1.0, 1.0}, {1.0, 1.3, 0.8}, {1.0, 1.0, 30.0}, {1.0, 20.0, 25.0}}) {
    for (const std::array<double, 3> index : {std::array{1.0, 0.0, 0.0},
                                              {0.0, 1.0, 1.0},
                                              {3.0, 2.0, 1.0},
                                              {9.0, 11.0, 2.0},
                                              {30.0, 5.0, 0.0},
                                              {20.0, 20.0, 3.0},
                                              {1.0, 14.0, 17.0}}) {
      const std::array<double, 3> c = {index[0] * h[0], index[1] * h[1], index[2] * h[2]};
      CHECK(average_inverse_distance(c, h) == doctest::Approx(brute_force(c, h)).epsilon(2e-9));
    }
  }
  // at the centre of a unit cube: 3 ln((sqrt 3 + 1)/(sqrt 3 - 1)) - pi/2
  const double root = std::sqrt(3.0);
  CHECK(average_inverse_distance({0, 0, 0}, {1, 1, 1}) ==
        doctest::Approx(3 * std::log((root + 1) / (root - 1)) - std::acos(0.0)).epsilon(1e-14));
}

TEST_CASE("averages at all nodes are those at each") {
  const std::array<std::size_t, 3> n = {20, 7, 19};
  for (const std::array<double, 3>& h :
       {std::array<double, 3>{1, 1, 1}, {1, 0.07, 3}, {2, 5, 0.3}, {1e-4, 1, 1}}) {
    for (unsigned threads : {1u, 3u}) {
      const std::vector<double> all = average_inverse_distances(n, h, threads);
      REQUIRE(all.size() == n[0] * n[1] * n[2]);
      for (std::size_t i = 0; i < all.size(); ++i) {
        const std::array<double, 3> c = {static_cast<double>(i % n[0]) * h[0],
                                         static_cast<double>(i / n[0] % n[1]) * h[1],
                                         static_cast<double>(i / n[0] / n[1]) * h[2]};
        CHECK(all[i] == doctest::Approx(average_inverse_distance(c, h)).epsilon(1e-11));
      }
    }
  }
}

TEST_CASE("the potential of a box joins smoothly where its formula changes") {
  // of two boxes that make up one, at random places and shapes
  std::mt19937 random(3);
  std::uniform_real_distribution<double> exponent(-4, 4), place(0, 40);
  for (int trial = 0; trial < 20000; ++trial) {
    const std::array<double, 3> h = {1, std::pow(10, exponent(random)),
                                     std::pow(10, exponent(random))};
    const std::array<double, 3> c = {std::floor(place(random)) * h[0],
                                     std::floor(place(random)) * h[1],
                                     std::floor(place(random)) * h[2]};
    const std::size_t axis = static_cast<std::size_t>(trial) % 3;
    std::array<double, 3> half = h, low = c, high = c;
    half[axis] /= 2;
    low[axis] -= half[axis] / 2;
    high[axis] += half[axis] / 2;
    const double whole = average_inverse_distance(c, h);
    const double parts =
        (average_inverse_distance(low, half) + average_inverse_distance(high, half)) / 2;
    CHECK(whole == doctest::Approx(parts).epsilon(3e-9));
  }
}

TEST_CASE_TEMPLATE("the solver is the convolution", F, float, double) {
  const double tolerance = 20 * static_cast<double>(std::numeric_limits<F>::epsilon());
  for (const std::array<std::size_t, 3> n : {std::array<std::size_t, 3>{8, 8, 8},
                                             {16, 8, 12},
                                             {32, 32, 32},
                                             {13, 17, 19},
                                             {2, 3, 40},
                                             {60, 5, 2},
                                             {25, 31, 7}}) {
    CAPTURE(n[0]);
    CHECK(largest_error<F>(n, {1, 1, 1}, 1) < std::max(tolerance, 1e-9));
    CHECK(largest_error<F>(n, {2e-5, 1.5, 500}, 1) < std::max(tolerance, 1e-9));
    CHECK(largest_error<F>(n, {1, 1e-3, 1e-3}, 2) < std::max(tolerance, 1e-9));
  }
}

TEST_CASE_TEMPLATE("the solver gives the same bits on any number of threads, and scales", F, float,
                   double) {
  const std::array<std::size_t, 3> n = {24, 20, 30};
  open_solver<F> solver(n);
  CHECK(solver.set_cells({1, 2, 3}, 1));
  grid<F> one = random_charges<F>(n, 2);
  solver.solve(one, 1);
  for (unsigned threads : {2u, 3u, 4u}) {
    open_solver<F> other(n);
    other.set_cells({1, 2, 3}, threads);
    grid<F> many = random_charges<F>(n, 2);
    other.solve(many, threads);
    CHECK_FALSE(other.set_cells({2, 2, 3}, threads));  // the same shape: the same function
    CHECK(other.unit() == 2);
    bool same = true;
    for (std::size_t z = 0; z < n[2]; ++z) {
      for (std::size_t y = 0; y < n[1]; ++y) {
        for (std::size_t x = 0; x < n[0]; ++x) same = same && one.at(x, y, z) == many.at(x, y, z);
      }
    }
    CHECK(same);
  }
}

TEST_CASE("transforms of every length that occurs") {
  for (std::size_t n = 4; n <= 200; n = good_length(n + 1)) {
    const fft_plan<double> plan(n);
    std::vector<bool> seen(n);
    for (std::size_t k = 0; k < n; ++k) {
      CHECK(plan.frequency[plan.position[k]] == k);
      seen[plan.position[k]] = true;
    }
    CHECK(std::find(seen.begin(), seen.end(), false) == seen.end());
  }
  CHECK_THROWS_AS(fft_plan<double>(14), std::invalid_argument);
}
