#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>

#include "beam/distribution.h"
#include "beam/moments.h"
#include "particles.h"

using namespace betatron;
using beam::distribution;
using beam::matrix6;
using beam::shape;

namespace {

constexpr shape all_shapes[] = {shape::gaussian, shape::waterbag, shape::kv,
                                shape::kurth4d,  shape::kurth6d,  shape::semigaussian,
                                shape::triangle};

distribution normalised(shape kind) { return distribution::from_covariance(kind, identity6()); }

template <class F = double>
particles<F> sample(const distribution& from, std::size_t n, std::uint64_t seed = 1) {
  particles<F> p(n);
  beam::generate(from, seed, p.view());
  return p;
}

/// Mean and covariance of a sample agree with `from` within 5 standard errors. All shapes have
/// fourth moments <u^4> of at most 3 (the normal one), so a sample covariance of normalised
/// coordinates has a standard error of at most sqrt((3 - 1)/n); a mean has 1/sqrt(n).
void check_second_moments(const distribution& from, std::size_t n) {
  particles<double> p = sample(from, n);
  const beam::moments m = beam::finish(beam::sum_moments(p.view()));
  const matrix6 cov = from.covariance();
  const double bound = 5 / std::sqrt(static_cast<double>(n));
  for (std::size_t i = 0; i < 6; ++i) {
    const double sigma = std::sqrt(cov[7 * i]);
    CHECK(std::abs(m.mean[i] - from.mean[i]) <= bound * sigma);
    for (std::size_t j = 0; j < 6; ++j) {
      CAPTURE(i);
      CAPTURE(j);
      CHECK(std::abs(m.cov[6 * i + j] - cov[6 * i + j]) <=
            std::sqrt(2.0) * bound * sigma * std::sqrt(cov[7 * j]));
    }
  }
}

void check_close(const matrix6& a, const matrix6& b, double tolerance) {
  for (std::size_t i = 0; i < 6; ++i) {
    for (std::size_t j = 0; j < 6; ++j) {
      CAPTURE(i);
      CAPTURE(j);
      CHECK(std::abs(a[6 * i + j] - b[6 * i + j]) <= tolerance * std::sqrt(b[7 * i] * b[7 * j]));
    }
  }
}

const std::array<beam::ellipse_parameters, 3> ellipses = {
    {{4e-5, 2.7e-5, -0.85}, {1e-3, 3e-6, 0.4}, {2e-4, 1e-2, 0.99999}}};
const std::array<beam::courant_snyder_parameters, 3> twiss = {
    {{2.8, -1.6, 2e-9}, {0.3, 5, 1e-8}, {1e3, 90, 3e-7}}};
const beam::dispersion_vector dispersion = {1.2, -0.3, 0.5, 0.01};
const std::array<double, 6> mean = {1e-3, -2e-4, 3e-3, 1e-5, -2e-2, 5e-3};

/// Fractions of a sample below given quantiles of its distribution.
void check_quantiles(std::vector<double> values, double (*cumulative)(double)) {
  std::ranges::sort(values);
  const auto n = static_cast<double>(values.size());
  double worst = 0;  // Kolmogorov-Smirnov
  for (std::size_t k = 0; k < values.size(); ++k) {
    const double expected = cumulative(values[k]);
    worst = std::max({worst, std::abs(expected - static_cast<double>(k) / n),
                      std::abs(expected - static_cast<double>(k + 1) / n)});
  }
  CHECK(worst * std::sqrt(n) < 2.3);  // probability of exceeding: 5e-5
}

template <class Function>
std::vector<double> map_particles(const particles<double>& p, Function f) {
  std::vector<double> values;
  for (std::size_t k = 0; k < p.weight.size(); ++k) {
    values.push_back(
        f(std::array{p.z[0][k], p.z[1][k], p.z[2][k], p.z[3][k], p.z[4][k], p.z[5][k]}));
  }
  return values;
}

using z6 = std::array<double, 6>;
double square(double v) { return v * v; }
double normal_cumulative(double v) { return 0.5 * std::erfc(-v / std::sqrt(2.0)); }
double unit_cumulative(double v) { return std::clamp(v, 0.0, 1.0); }
double symmetric_cumulative(double v) { return std::clamp((v + 1) / 2, 0.0, 1.0); }

std::string message_of(auto&& action) {
  try {
    action();
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "accepted";
}

}  // namespace

TEST_CASE("distribution: every shape has the requested second moments, however they are given") {
  for (const shape kind : all_shapes) {
    CAPTURE(beam::name_of(kind));
    check_second_moments(normalised(kind), 100'000);
    check_second_moments(distribution::from_ellipse(kind, ellipses, dispersion, mean), 40'000);
    check_second_moments(distribution::from_twiss(kind, twiss, dispersion, mean), 40'000);
    const matrix6 coupled = transported(random_symplectic(3), identity6());
    check_second_moments(distribution::from_covariance(kind, coupled, mean), 40'000);
  }
}

TEST_CASE("distribution: the covariance is the one of the parameters") {
  const auto from_ellipse = distribution::from_ellipse(shape::waterbag, ellipses).covariance();
  const auto from_twiss = distribution::from_twiss(shape::waterbag, twiss).covariance();
  matrix6 ellipse{}, courant_snyder{};
  for (std::size_t k = 0; k < 3; ++k) {
    const std::size_t q = 2 * k, p = q + 1;
    const auto [lq, lp, mu] = ellipses[k];
    ellipse[7 * q] = lq * lq / (1 - mu * mu);
    ellipse[7 * p] = lp * lp / (1 - mu * mu);
    ellipse[6 * q + p] = ellipse[6 * p + q] = -mu * lq * lp / (1 - mu * mu);
    const auto [beta, alpha, e] = twiss[k];
    courant_snyder[7 * q] = e * beta;
    courant_snyder[7 * p] = e * (1 + alpha * alpha) / beta;
    courant_snyder[6 * q + p] = courant_snyder[6 * p + q] = -e * alpha;
  }
  check_close(from_ellipse, ellipse, 1e-10);  // mu_tpt is close to 1
  check_close(from_twiss, courant_snyder, 1e-14);
  const matrix6 coupled = transported(random_symplectic(7), identity6());
  check_close(distribution::from_covariance(shape::kv, coupled).covariance(), coupled, 1e-13);
}

TEST_CASE("distribution: a covariance with dispersion is the same beam as explicit dispersion") {
  for (const shape kind : all_shapes) {
    const distribution a = distribution::from_twiss(kind, twiss, dispersion);
    const distribution b = distribution::from_covariance(kind, a.covariance());
    particles<double> p = sample(a, 100), q = sample(b, 100);
    for (std::size_t i = 0; i < 6; ++i) {
      const double sigma = std::sqrt(a.covariance()[7 * i]);
      for (std::size_t k = 0; k < 100; ++k) CHECK(std::abs(p.z[i][k] - q.z[i][k]) < 1e-6 * sigma);
    }
  }
}

TEST_CASE("distribution: dispersion appears as dispersion") {
  const auto d = distribution::from_twiss(shape::gaussian, twiss, dispersion);
  beam::moments m;
  m.cov = d.covariance();
  const auto got = beam::dispersion(m);
  CHECK(got[0] == doctest::Approx(dispersion.x).epsilon(1e-13));
  CHECK(got[1] == doctest::Approx(dispersion.px).epsilon(1e-13));
  CHECK(got[2] == doctest::Approx(dispersion.y).epsilon(1e-13));
  CHECK(got[3] == doctest::Approx(dispersion.py).epsilon(1e-13));
  const auto x = beam::twiss(m, beam::plane_x);
  CHECK(x.beta == doctest::Approx(twiss[0].beta).epsilon(1e-8));
  CHECK(x.alpha == doctest::Approx(twiss[0].alpha).epsilon(1e-8));
  CHECK(x.emittance == doctest::Approx(twiss[0].emittance).epsilon(1e-8));
}

TEST_CASE("distribution: a plane may be cold, or a beam a point") {
  const auto pencil =
      distribution::from_ellipse(shape::kv, {{{1e-3, 0, 0.5}, {0, 0, 0}, {0, 1e-3, 0}}});
  particles<double> p = sample(pencil, 1000);
  const beam::moments m = beam::finish(beam::sum_moments(p.view()));
  CHECK(m.sigma(0) > 0);
  for (const int i : {1, 2, 3, 4}) CHECK(m.sigma(i) == 0);
  CHECK(m.sigma(5) > 0);
  CHECK(distribution::from_covariance(shape::waterbag, {}).factor == matrix6{});
  CHECK(distribution::from_twiss(shape::waterbag, {}).factor == matrix6{});
}

TEST_CASE("distribution: a covariance of any rank is met") {
  for (std::uint64_t seed = 0; seed < 500; ++seed) {
    CAPTURE(seed);
    const matrix6 map = random_symplectic(seed);
    for (std::size_t rank = 1; rank <= 6; ++rank) {
      matrix6 some{};
      for (std::size_t i = 0; i < rank; ++i) some[7 * i] = 1;
      const matrix6 cov = transported(map, some);
      check_close(distribution::from_covariance(shape::kv, cov).covariance(), cov, 1e-12);
    }
  }
}

TEST_CASE("distribution: particles are functions of seed and index alone") {
  for (const shape kind : all_shapes) {
    const distribution from = distribution::from_twiss(kind, twiss, dispersion, mean);
    const particles<double> all = sample(from, 1000);
    CHECK(sample(from, 300).z[3][299] == all.z[3][299]);  // a prefix
    particles<double> tail(100);
    beam::generate(from, 1, tail.view(), 900);  // a later part
    for (std::size_t i = 0; i < 6; ++i) {
      CHECK(std::equal(tail.z[i].begin(), tail.z[i].end(), all.z[i].begin() + 900));
    }
    CHECK(sample(from, 1000, 2).z != all.z);
  }
  const distribution from = normalised(shape::waterbag);
  particles<float> one(250'000), three(250'000);
  beam::generate(from, 9, one.view(), 0, 1);
  beam::generate(from, 9, three.view(), 0, 3);
  CHECK(one.z == three.z);
}

TEST_CASE("distribution: single precision is double precision rounded") {
  const distribution from = distribution::from_twiss(shape::triangle, twiss, dispersion, mean);
  const particles<double> d = sample<double>(from, 1000);
  const particles<float> f = sample<float>(from, 1000);
  for (std::size_t i = 0; i < 6; ++i) {
    for (std::size_t k = 0; k < 1000; ++k) CHECK(f.z[i][k] == static_cast<float>(d.z[i][k]));
  }
}

TEST_CASE("gaussian: marginals are normal") {
  const particles<double> p = sample(normalised(shape::gaussian), 20'000);
  for (std::size_t i = 0; i < 6; ++i) check_quantiles(p.z[i], normal_cumulative);
}

TEST_CASE("gaussian: a cut keeps the rms, and has its edge where the literature puts it") {
  for (const double cut : {1e-200, 1e-3, 0.05, 0.141, 0.142, 1.0, 2.0, 3.0, 6.0, 40.0}) {
    CAPTURE(cut);
    const distribution from =
        normalised(shape::gaussian).with_cuts(cut, distribution::no_cut, 2 * cut);
    check_second_moments(from, 20'000);
    const particles<double> p = sample(from, 20'000);
    double largest = 0;
    for (const double r : map_particles(p, [](const z6& z) { return std::hypot(z[0], z[1]); })) {
      largest = std::max(largest, r);
    }
    const long double f = static_cast<long double>(cut) * cut / 2;
    const long double kept = f < 1e-300L ? f / 2 : 1 - f / std::expm1(f);
    const double edge = cut > 10     ? cut
                        : cut < 1e-2 ? 2  // a uniform disk
                                     : static_cast<double>(cut / std::sqrt(kept));
    CHECK(largest <= edge * (1 + 1e-6));
    if (cut < 2.5) CHECK(largest > edge * 0.99);
  }
}

TEST_CASE("waterbag: uniform in the ball of radius sqrt(8)") {
  const particles<double> p = sample(normalised(shape::waterbag), 20'000);
  check_quantiles(map_particles(p,
                                [](const z6& z) {
                                  double r2 = 0;
                                  for (const double v : z) r2 += v * v;
                                  return std::pow(r2 / 8, 3);
                                }),
                  unit_cumulative);
}

TEST_CASE("kv: on the sphere of radius 2, with uniform projections on planes") {
  const particles<double> p = sample(normalised(shape::kv), 20'000);
  for (const double r2 : map_particles(p, [](const z6& z) {
         return square(z[0]) + square(z[1]) + square(z[2]) + square(z[3]);
       })) {
    CHECK(std::abs(r2 - 4) < 1e-12);
  }
  for (const auto& [i, j] : {std::pair{0u, 1u}, {0u, 2u}, {0u, 3u}, {1u, 2u}, {1u, 3u}, {2u, 3u}}) {
    check_quantiles(
        map_particles(p, [i = i, j = j](const z6& z) { return (square(z[i]) + square(z[j])) / 4; }),
        unit_cumulative);
  }
  check_quantiles(map_particles(p, [](const z6& z) { return z[4] / std::sqrt(3.0); }),
                  symmetric_cumulative);
  check_quantiles(p.z[5], normal_cumulative);
}

TEST_CASE("kurth4d: uniform disk, bounded invariants, stationary under rotation of phase space") {
  particles<double> p = sample(normalised(shape::kurth4d), 20'000);
  for (int step = 0; step < 2; ++step) {
    check_quantiles(map_particles(p, [](const z6& z) { return (square(z[0]) + square(z[2])) / 4; }),
                    unit_cumulative);
    for (const double root : map_particles(p, [](const z6& z) {
           const double l = (z[0] * z[3] - z[2] * z[1]) / 4;
           return 1 - (square(z[0]) + square(z[1]) + square(z[2]) + square(z[3])) / 4 + l * l;
         })) {
      CHECK(root >= -1e-12);
    }
    // one radian of the harmonic motion of which the distribution is an equilibrium
    const double c = std::cos(1.0), s = std::sin(1.0);
    for (std::size_t q : {0u, 2u}) {
      for (std::size_t k = 0; k < p.weight.size(); ++k) {
        const double position = p.z[q][k], momentum = p.z[q + 1][k];
        p.z[q][k] = c * position + s * momentum;
        p.z[q + 1][k] = c * momentum - s * position;
      }
    }
  }
}

TEST_CASE("kurth6d: uniform ball, bounded invariants, stationary under rotation of phase space") {
  particles<double> p = sample(normalised(shape::kurth6d), 20'000);
  for (int step = 0; step < 2; ++step) {
    check_quantiles(map_particles(p,
                                  [](const z6& z) {
                                    const double r2 = square(z[0]) + square(z[2]) + square(z[4]);
                                    return std::pow(r2 / 5, 1.5);
                                  }),
                    unit_cumulative);
    // no direction is special: the cosine to any axis is uniform
    check_quantiles(
        map_particles(p, [](const z6& z) { return z[0] / std::hypot(z[0], z[2], z[4]); }),
        symmetric_cumulative);
    for (const double root : map_particles(p, [](const z6& z) {
           const double lx = z[2] * z[5] - z[4] * z[3], ly = z[4] * z[1] - z[0] * z[5],
                        lt = z[0] * z[3] - z[2] * z[1];
           double sum = 0;
           for (const double v : z) sum += v * v;
           return 1 - sum / 5 + (lx * lx + ly * ly + lt * lt) / 25;
         })) {
      CHECK(root >= -1e-12);
    }
    const double c = std::cos(1.0), s = std::sin(1.0);
    for (std::size_t q : {0u, 2u, 4u}) {
      for (std::size_t k = 0; k < p.weight.size(); ++k) {
        const double position = p.z[q][k], momentum = p.z[q + 1][k];
        p.z[q][k] = c * position + s * momentum;
        p.z[q + 1][k] = c * momentum - s * position;
      }
    }
  }
}

TEST_CASE("semigaussian: uniform cylinder, normal momenta") {
  const particles<double> p = sample(normalised(shape::semigaussian), 20'000);
  check_quantiles(map_particles(p, [](const z6& z) { return (square(z[0]) + square(z[2])) / 4; }),
                  unit_cumulative);
  check_quantiles(map_particles(p, [](const z6& z) { return z[4] / std::sqrt(3.0); }),
                  symmetric_cumulative);
  for (const std::size_t i : {1u, 3u, 5u}) check_quantiles(p.z[i], normal_cumulative);
}

TEST_CASE("triangle: current falls linearly behind the head, transverse ball of four dimensions") {
  const particles<double> p = sample(normalised(shape::triangle), 20'000);
  check_quantiles(p.z[4], [](double t) {
    const double behind = std::clamp((2 - t / std::sqrt(2.0)) / 3, 0.0, 1.0);
    return 1 - behind * behind;
  });
  check_quantiles(p.z[5], normal_cumulative);
  check_quantiles(map_particles(p,
                                [](const z6& z) {
                                  const double r2 =
                                      square(z[0]) + square(z[1]) + square(z[2]) + square(z[3]);
                                  return square(r2 / 6);
                                }),
                  unit_cumulative);
}

TEST_CASE("distribution: names of shapes go both ways") {
  CHECK(beam::shape_names().size() == 7);
  for (const shape kind : all_shapes) CHECK(beam::shape_from_name(beam::name_of(kind)) == kind);
  CHECK(message_of([] { beam::shape_from_name("sombrero"); }) ==
        "distribution: unknown shape 'sombrero'; known are gaussian waterbag kv kurth4d kurth6d "
        "semigaussian triangle");
}

TEST_CASE("distribution: bad parameters are refused by name, value and range") {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const shape kind = shape::waterbag;
  const auto ellipse = [&](double lq, double lp, double mu) {
    return message_of(
        [&] { distribution::from_ellipse(kind, {{{1, 1, 0}, {lq, lp, mu}, {1, 1, 0}}}); });
  };
  CHECK(ellipse(-1, 1, 0) == "distribution: lambda_y = -1 must be finite and >= 0 (m)");
  CHECK(ellipse(1, nan, 0) == "distribution: lambda_py = nan must be finite and >= 0");
  CHECK(ellipse(1, 1, 1) ==
        "distribution: mu_ypy = 1 must be finite and between -1 and 1, exclusive");
  CHECK(ellipse(1, 1, -1.5) ==
        "distribution: mu_ypy = -1.5 must be finite and between -1 and 1, exclusive");
  const auto courant_snyder = [&](double beta, double alpha, double e) {
    return message_of(
        [&] { distribution::from_twiss(kind, {{{1, 0, 1}, {1, 0, 1}, {beta, alpha, e}}}); });
  };
  CHECK(courant_snyder(0, 0, 1) == "distribution: beta_t = 0 must be finite and > 0 (m)");
  CHECK(courant_snyder(1, nan, 1) == "distribution: alpha_t = nan must be finite");
  CHECK(courant_snyder(1, 0, -2e-6) ==
        "distribution: emittance_t = -2e-06 must be finite and >= 0 (m rad)");
  CHECK(message_of([&] { distribution::from_twiss(kind, twiss, {0, 0, nan, 0}); }) ==
        "distribution: dispersion_y = nan must be finite");
  CHECK(message_of([&] { distribution::from_twiss(kind, twiss, {}, {0, 0, 0, 0, nan, 0}); }) ==
        "distribution: mean of t = nan must be finite");
  CHECK(message_of([&] { normalised(shape::kv).with_cuts(3, 3, 3); }) ==
        "distribution: cuts are for the gaussian shape, this one is kv");
  for (const double bad : {0.0, -1.0, nan}) {
    CHECK(message_of([&] {
            normalised(shape::gaussian).with_cuts(1, bad, 1);
          }).starts_with("distribution: cut_y = "));
  }
}

TEST_CASE("distribution: a matrix that is no covariance is refused with the reason") {
  const auto from = [](const matrix6& cov) {
    return message_of([&] { distribution::from_covariance(shape::gaussian, cov); });
  };
  matrix6 cov = identity6();
  cov[6 * 0 + 5] = 0.1;
  CHECK(from(cov) ==
        "distribution: covariance(x, pt) = 0.1 must be equal to covariance(pt, x) = 0");
  cov = identity6();
  cov[7 * 3] = -1e-9;
  CHECK(from(cov) == "distribution: covariance(py, py) = -1e-09 must be finite and >= 0");
  cov = identity6();
  cov[6 * 1 + 2] = std::numeric_limits<double>::infinity();
  CHECK(from(cov) == "distribution: covariance(px, y) = inf must be finite");
  cov = identity6();
  cov[7 * 0] = 0;
  cov[1] = cov[6] = 1e-3;
  CHECK(from(cov) == "distribution: covariance(x, px) = 0.001 must be 0 where a variance is 0");
  cov = identity6();
  cov[1] = cov[6] = 1.5;
  CHECK(from(cov).starts_with(
      "distribution: smallest eigenvalue of the correlation matrix of the covariance = -0."));
  CHECK(from(cov).ends_with("must be >= 0: the matrix is not positive semidefinite"));
}
