// The plane solver: Green's function against numerical averages, the convolution against the direct sum, scaling.
#include "fields/poisson_2d.h"

#include <doctest/doctest.h>

#include <cmath>

#include "numerics/random.h"

namespace {

using namespace betatron;
using numerics::uniform;

}  // namespace

TEST_CASE("average of -ln r over a rectangle") {
  // Gauss-Legendre of 5 points in 40 x 40 pieces
  const double point[] = {0.0, 0.53846931010568309, -0.53846931010568309, 0.90617984593866399,
                          -0.90617984593866399};
  const double weight[] = {0.56888888888888889, 0.47862867049936647, 0.47862867049936647,
                           0.23692688505618909, 0.23692688505618909};
  for (const double hy : {1.0, 0.3, 5.0}) {
    for (std::uint64_t n = 0; n < 12; ++n) {
      const double reach = n < 6 ? 3 : 200;
      const double x = reach * uniform(1, 0, n), y = reach * uniform(1, 1, n);
      const int pieces = n < 6 ? 40 : 4;
      double sum = 0;
      for (int i = 0; i < pieces; ++i) {
        for (int j = 0; j < pieces; ++j) {
          for (int a = 0; a < 5; ++a) {
            for (int b = 0; b < 5; ++b) {
              const double u = x - 0.5 + (i + 0.5 * (1 + point[a])) / pieces;
              const double v = y + hy * (-0.5 + (j + 0.5 * (1 + point[b])) / pieces);
              sum -= weight[a] * weight[b] / 4 * 0.5 * std::log(u * u + v * v);
            }
          }
        }
      }
      sum /= pieces * pieces;
      CAPTURE(x);
      CAPTURE(y);
      CHECK(fields::average_logarithm(x, y, 1, hy) ==
            doctest::Approx(sum).epsilon(n < 6 ? 5e-4 : 1e-11));
    }
  }
  // at the centre of a square: 3/2 - pi/4 - ln(sqrt(2)/2) ... of half edge 1/2
  CHECK(fields::average_logarithm(0, 0, 1, 1) ==
        doctest::Approx(1.5 - 0.78539816339744831 + 0.5 * std::log(2.0)).epsilon(1e-14));
}

TEST_CASE("both forms of the average agree where they meet") {
  for (const double hy : {1.0, 0.2, 1 / 0.3}) {
    const double edge = std::fmax(1, hy);
    for (double angle = 0; angle < 1.6; angle += 0.1) {
      const double r = 24 * edge, x = r * std::cos(angle), y = r * std::sin(angle);
      const double in = fields::average_logarithm(x * (1 - 1e-9), y * (1 - 1e-9), 1, hy);
      const double out = fields::average_logarithm(x * (1 + 1e-9), y * (1 + 1e-9), 1, hy);
      CHECK(std::fabs(in - out - 2e-9) < 1e-11);
    }
  }
}

TEST_CASE("convolution against the direct sum") {
  const std::array<std::size_t, 2> sizes[] = {{2, 2}, {9, 13}, {33, 17}, {64, 20}};
  for (const auto& n : sizes) {
    fields::open_solver_2d solver(n);
    for (const auto& edges : {std::array{1e-3, 2e-3}, std::array{0.5, 0.1}}) {
      solver.set_cells(edges);
      fields::grid<double> g({n[0], n[1], 2});
      g.clear(1);
      std::vector<double> q(n[0] * n[1]);
      for (std::size_t i = 0; i < q.size(); ++i) {
        q[i] = uniform(3, 0, i);
        g.at(i % n[0], i / n[0], 0) = q[i];
      }
      solver.solve(g);
      double worst = 0, size = 0;
      for (std::size_t k = 0; k < q.size(); k += 7) {
        double sum = 0;
        for (std::size_t i = 0; i < q.size(); ++i) {
          const auto d = [&](std::size_t a, std::size_t b) {
            return static_cast<double>(a) - static_cast<double>(b);
          };
          sum += q[i] * fields::average_logarithm(d(k % n[0], i % n[0]) * edges[0],
                                                  d(k / n[0], i / n[0]) * edges[1], edges[0],
                                                  edges[1]);
        }
        worst = std::fmax(worst, std::fabs(g.at(k % n[0], k / n[0], 0) - sum));
        size = std::fmax(size, std::fabs(sum));
      }
      CHECK(worst < 1e-12 * size);
    }
  }
}
