#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "beam/moments.h"
#include "particles.h"

using namespace betatron;
using beam::matrix6;

namespace {

/// A beam with correlations, offsets, unequal weights and some weights 0.
template <class F>
particles<F> messy_beam(std::size_t n, double offset = 0.1) {
  particles<F> p(n);
  for (std::size_t k = 0; k < n; ++k) {
    const auto a = numerics::normal_pair(1, 0, k), b = numerics::normal_pair(1, 1, k),
               c = numerics::normal_pair(1, 2, k);
    const double u[6] = {a.first, a.second, b.first, b.second, c.first, c.second};
    const double scale[6] = {1e-3, 2e-4, 5e-4, 1e-5, 3e-2, 1e-3};
    for (std::size_t i = 0; i < 6; ++i) {
      p.z[i][k] = static_cast<F>(scale[i] * (offset + u[i] + 0.5 * u[(i + 2) % 6]));
    }
    const double w = numerics::uniform(1, 3, k);
    p.weight[k] = static_cast<F>(w < 0.1 ? 0 : 1e5 * w);
  }
  return p;
}

/// Two passes in long double, straight from the definition.
template <class F>
beam::moments direct(const particles<F>& p) {
  beam::moments m;
  m.count = p.weight.size();
  long double weight = 0, mean[6] = {};
  for (std::size_t k = 0; k < m.count; ++k) {
    weight += p.weight[k];
    for (std::size_t i = 0; i < 6; ++i)
      mean[i] += static_cast<long double>(p.weight[k]) * p.z[i][k];
  }
  m.weight = static_cast<double>(weight);
  for (std::size_t i = 0; i < 6; ++i) {
    mean[i] /= weight;
    m.mean[i] = static_cast<double>(mean[i]);
    m.min[i] = static_cast<double>(*std::ranges::min_element(p.z[i]));
    m.max[i] = static_cast<double>(*std::ranges::max_element(p.z[i]));
  }
  for (std::size_t i = 0; i < 6; ++i) {
    for (std::size_t j = 0; j < 6; ++j) {
      long double sum = 0;
      for (std::size_t k = 0; k < m.count; ++k) {
        sum += p.weight[k] * (p.z[i][k] - mean[i]) * (p.z[j][k] - mean[j]);
      }
      m.cov[6 * i + j] = static_cast<double>(sum / weight);
    }
  }
  return m;
}

void check_equal(const beam::moments& a, const beam::moments& b, double tolerance) {
  CHECK(a.count == b.count);
  CHECK(a.weight == doctest::Approx(b.weight).epsilon(tolerance));
  for (int i = 0; i < 6; ++i) {
    const auto k = static_cast<std::size_t>(i);
    CHECK(std::abs(a.mean[k] - b.mean[k]) <= tolerance * (b.sigma(i) + std::abs(b.mean[k])));
    CHECK(a.min[k] == b.min[k]);
    CHECK(a.max[k] == b.max[k]);
    for (int j = 0; j < 6; ++j) {
      CHECK(std::abs(a.covariance(i, j) - b.covariance(i, j)) <=
            tolerance * b.sigma(i) * b.sigma(j));
    }
  }
}

bool same_bits(const beam::moment_sums& a, const beam::moment_sums& b) {
  return std::memcmp(&a, &b, sizeof a) == 0;
}

beam::moments with_covariance(const matrix6& cov) {
  beam::moments m;
  m.weight = 1;
  m.count = 1;
  m.cov = cov;
  return m;
}

matrix6 uncoupled(double ex, double ey, double et, double bx, double by, double bt) {
  matrix6 cov{};
  const double e[3] = {ex, ey, et}, b[3] = {bx, by, bt};
  for (std::size_t k = 0; k < 3; ++k) {
    cov[7 * (2 * k)] = e[k] * b[k];
    cov[7 * (2 * k + 1)] = e[k] / b[k];
  }
  return cov;
}

}  // namespace

TEST_CASE_TEMPLATE("moments: blocks and merging give what the definition gives", F, float, double) {
  // around the widths of packs, blocks (2048) and chunks (131072)
  for (const std::size_t n : {1u, 2u, 3u, 7u, 8u, 9u, 2047u, 2048u, 2049u, 131073u}) {
    CAPTURE(n);
    particles<F> p = messy_beam<F>(n);
    p.weight[n / 2] = F(3);  // never all 0
    check_equal(beam::finish(beam::sum_moments(p.view())), direct(p), 1e-13);
  }
}

TEST_CASE("moments: a beam far off its origin keeps its size") {
  particles<double> p = messy_beam<double>(5000, 1e6);
  check_equal(beam::finish(beam::sum_moments(p.view())), direct(p), 1e-9);
  // relative to the distance, the error is that of rounding the input
  CHECK(
      beam::finish(beam::sum_moments(p.view())).sigma(0) ==
      doctest::Approx(beam::finish(beam::sum_moments(messy_beam<double>(5000, 0).view())).sigma(0))
          .epsilon(1e-8));
}

TEST_CASE("moments: the number of threads does not change a bit") {
  particles<float> p = messy_beam<float>(400'000);
  const beam::moment_sums one = beam::sum_moments(p.view(), 1);
  for (const unsigned threads : {0u, 2u, 3u, 8u}) {
    CHECK(same_bits(one, beam::sum_moments(p.view(), threads)));
  }
}

TEST_CASE("moments: merging parts of a beam gives the moments of the whole") {
  particles<double> p = messy_beam<double>(1000);
  const auto part = [&](std::size_t first, std::size_t count) {
    return beam::sum_block<numerics::isa::base, 2>(p.view(), first, count);
  };
  beam::moment_sums sums;
  sums.merge(part(0, 0));
  for (const auto& [first, count] : {std::pair{0, 1}, {1, 4}, {5, 200}, {205, 0}, {205, 795}}) {
    sums.merge(part(static_cast<std::size_t>(first), static_cast<std::size_t>(count)));
  }
  check_equal(beam::finish(sums), direct(p), 1e-13);
}

TEST_CASE("moments: particles of weight 0 count, and reach the extremes, but weigh nothing") {
  particles<double> p = messy_beam<double>(100);
  particles<double> more(101);
  for (std::size_t i = 0; i < 6; ++i) {
    std::ranges::copy(p.z[i], more.z[i].begin());
    more.z[i][100] = 42;
  }
  std::ranges::copy(p.weight, more.weight.begin());
  more.weight[100] = 0;
  const beam::moments a = beam::finish(beam::sum_moments(p.view()));
  const beam::moments b = beam::finish(beam::sum_moments(more.view()));
  CHECK(b.count == 101);
  CHECK(b.max[3] == 42);
  CHECK(b.weight == a.weight);
  for (int i = 0; i < 6; ++i) CHECK(b.sigma(i) == doctest::Approx(a.sigma(i)).epsilon(1e-13));
}

TEST_CASE("moments: nothing has no mean, one particle has no spread") {
  const beam::moments none = beam::finish(beam::sum_moments(particles<double>(0).view()));
  CHECK(none.count == 0);
  CHECK(none.weight == 0);
  for (std::size_t i = 0; i < 6; ++i) {
    CHECK(std::isnan(none.mean[i]));
    CHECK(std::isnan(none.min[i]));
    CHECK(std::isnan(none.max[i]));
    CHECK(std::isnan(none.cov[7 * i]));
  }
  CHECK(std::isnan(beam::emittance(none, beam::plane_x)));
  CHECK(std::isnan(beam::twiss(none, beam::plane_t).beta));
  CHECK(std::isnan(beam::dispersion(none)[0]));
  for (const double e : beam::eigenemittances(none.cov)) CHECK(std::isnan(e));

  particles<float> single(1);
  single.z[0][0] = 0.1f;
  single.weight[0] = 0.3f;
  const beam::moments one = beam::finish(beam::sum_moments(single.view()));
  CHECK(one.count == 1);
  CHECK(one.mean[0] == static_cast<double>(0.1f));
  CHECK(one.cov == matrix6{});
  CHECK(beam::emittance(one, beam::plane_x) == 0);
  CHECK(beam::eigenemittances(one.cov) == std::array<double, 3>{});

  particles<double> weightless(2);
  weightless.weight = {0, 0};
  weightless.z[2] = {-1, 1};
  const beam::moments ghosts = beam::finish(beam::sum_moments(weightless.view()));
  CHECK(ghosts.count == 2);
  CHECK(std::isnan(ghosts.mean[2]));
  CHECK(ghosts.min[2] == -1);
}

TEST_CASE("moments: a monochromatic beam has exactly no energy spread and no dispersion") {
  particles<double> p = messy_beam<double>(3000);
  std::ranges::fill(p.z[5], 0.1);
  const beam::moments m = beam::finish(beam::sum_moments(p.view()));
  CHECK(m.mean[5] == 0.1);
  for (int i = 0; i < 6; ++i) CHECK(m.covariance(i, 5) == 0);
  CHECK(std::isnan(beam::dispersion(m)[0]));
  CHECK(beam::twiss(m, beam::plane_x).emittance == beam::emittance(m, beam::plane_x));
  CHECK(std::isnan(beam::twiss(m, beam::plane_t).beta));
  CHECK(beam::twiss(m, beam::plane_t).emittance == 0);
}

TEST_CASE("moments: NaN in a column shows in its mean") {
  particles<double> p = messy_beam<double>(100);
  p.z[1][50] = std::nan("");
  const beam::moments m = beam::finish(beam::sum_moments(p.view()));
  CHECK(std::isnan(m.mean[1]));
  CHECK(std::isnan(m.covariance(1, 0)));
  CHECK(!std::isnan(m.mean[0]));
}

TEST_CASE("emittance: Twiss parameters of a plane come back, dispersion removed") {
  const double alpha = -1.3, beta = 2.5, e = 3e-9, d = 0.7, dp = -0.2, spread = 2e-3;
  matrix6 cov = uncoupled(1, 1, 1, 1, 1, 1);
  cov[7 * 0] = e * beta + d * d * spread * spread;
  cov[7 * 1] = e * (1 + alpha * alpha) / beta + dp * dp * spread * spread;
  cov[6 * 0 + 1] = cov[6 * 1 + 0] = -e * alpha + d * dp * spread * spread;
  cov[7 * 5] = spread * spread;
  cov[6 * 0 + 5] = cov[6 * 5 + 0] = -d * spread * spread;
  cov[6 * 1 + 5] = cov[6 * 5 + 1] = -dp * spread * spread;
  const beam::moments m = with_covariance(cov);
  const auto [got_alpha, got_beta, got_e] = beam::twiss(m, beam::plane_x);
  CHECK(got_alpha == doctest::Approx(alpha).epsilon(1e-8));
  CHECK(got_beta == doctest::Approx(beta).epsilon(1e-8));
  CHECK(got_e == doctest::Approx(e).epsilon(1e-8));
  CHECK(beam::dispersion(m)[0] == doctest::Approx(d).epsilon(1e-14));
  CHECK(beam::dispersion(m)[1] == doctest::Approx(dp).epsilon(1e-14));
  CHECK(beam::dispersion(m)[2] == 0);
  CHECK(beam::emittance(m, beam::plane_x) ==
        doctest::Approx(std::sqrt(cov[0] * cov[7] - cov[1] * cov[1])).epsilon(1e-14));
}

TEST_CASE("eigenemittances: those of an uncoupled beam are its emittances, largest first") {
  const auto e = beam::eigenemittances(uncoupled(1e-9, 4e-7, 2e-12, 10, 0.1, 1e3));
  CHECK(e[0] == doctest::Approx(4e-7).epsilon(1e-14));
  CHECK(e[1] == doctest::Approx(1e-9).epsilon(1e-14));
  CHECK(e[2] == doctest::Approx(2e-12).epsilon(1e-14));
}

TEST_CASE("eigenemittances: no symplectic map changes them") {
  const matrix6 initial = uncoupled(3e-6, 2e-6, 1e-5, 2, 0.7, 1.5);
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    CAPTURE(seed);
    const auto e = beam::eigenemittances(transported(random_symplectic(seed), initial));
    CHECK(e[0] == doctest::Approx(1e-5).epsilon(1e-11));
    CHECK(e[1] == doctest::Approx(3e-6).epsilon(1e-11));
    CHECK(e[2] == doctest::Approx(2e-6).epsilon(1e-11));
  }
}

TEST_CASE("eigenemittances: small modes stay accurate next to large ones") {
  // a photoinjector-like beam: weakly coupled, emittances over seven decades
  const matrix6 initial = uncoupled(1e-9, 1e-10, 1e-3, 2, 0.7, 1.5);
  for (std::uint64_t seed = 0; seed < 50; ++seed) {
    CAPTURE(seed);
    const auto e = beam::eigenemittances(transported(random_symplectic(seed, 1e-3), initial));
    CHECK(e[0] == doctest::Approx(1e-3).epsilon(1e-10));
    CHECK(e[1] == doctest::Approx(1e-9).epsilon(1e-4));
    CHECK(e[2] == doctest::Approx(1e-10).epsilon(1e-3));
  }
}

TEST_CASE("eigenemittances: equal and vanishing ones") {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    const matrix6 map = random_symplectic(seed);
    for (const double e : beam::eigenemittances(transported(map, uncoupled(1, 1, 1, 1, 1, 1)))) {
      CHECK(e == doctest::Approx(1).epsilon(1e-11));
    }
    const auto cold = beam::eigenemittances(transported(map, uncoupled(1, 0, 0, 1, 1, 1)));
    CHECK(cold[0] == doctest::Approx(1).epsilon(1e-11));
    CHECK(cold[1] < 1e-6);
    CHECK(cold[2] < 1e-6);
  }
}

TEST_CASE("emittance: the projected one is invariant where a map does not couple planes") {
  matrix6 map = identity6();
  for (std::size_t k = 0; k < 3; ++k) {  // thin lens, then drift
    map[7 * (2 * k)] = 1 - 0.3 * 2.0;
    map[6 * (2 * k) + 2 * k + 1] = 2;
    map[6 * (2 * k + 1) + 2 * k] = -0.3;
  }
  const matrix6 initial = uncoupled(3e-9, 5e-10, 1e-6, 2, 8, 0.3);
  const beam::moments before = with_covariance(initial);
  const beam::moments after = with_covariance(transported(map, initial));
  for (const beam::plane k : {beam::plane_x, beam::plane_y, beam::plane_t}) {
    CHECK(beam::emittance(after, k) == doctest::Approx(beam::emittance(before, k)).epsilon(1e-12));
  }
}
