// Spins: columns that come and go with the particles, their moments, and polarised beams.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "beam/bunch.h"
#include "beam/spin.h"
#include "beam/summary.h"
#include "particles.h"

using namespace betatron;
using beam::bunch;
using beam::precision;
using vector3 = std::array<double, 3>;

namespace {

const auto proton = beam::reference::from_kinetic_energy(beam::make_species("proton"), 1e8);

std::string message_of(auto&& action) {
  try {
    action();
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "accepted";
}

vector3 spin_of(const bunch& b, std::size_t k) {
  return b.visit([k](const auto& c) { return vector3{c.spin[0][k], c.spin[1][k], c.spin[2][k]}; });
}

/// n spins that differ, as three arrays.
template <class F>
std::array<std::vector<F>, 3> some_spins(std::size_t n) {
  std::array<std::vector<F>, 3> s;
  for (std::size_t k = 0; k < n; ++k) {
    const double a = 0.3 * static_cast<double>(k), c = 1 / (1.0 + static_cast<double>(k));
    s[0].push_back(static_cast<F>(std::cos(a) * std::sqrt(1 - c * c)));
    s[1].push_back(static_cast<F>(std::sin(a) * std::sqrt(1 - c * c)));
    s[2].push_back(static_cast<F>(c));
  }
  return s;
}

template <class F>
std::array<std::span<F>, 3> spans(std::array<std::vector<std::remove_const_t<F>>, 3>& s) {
  return {s[0], s[1], s[2]};
}

}  // namespace

TEST_CASE("spin: a beam has none until it is given some") {
  for (const precision p : {precision::single, precision::double_}) {
    bunch b(proton, 5, p);
    CHECK(!b.has_spin());
    CHECK(!b.moments().spin.has_value());
    CHECK(!bunch(b).has_spin());
    b.remove(std::vector<bunch::loss>{{0, 0, 0, 0, beam::loss_reason::aperture}});
    CHECK(!b.lost[0].spin.has_value());
    const auto before = b.memory();  // columns that somebody looks at stay where they are
    const void* x = b.visit([](const auto& c) { return static_cast<const void*>(c.z[0]); });
    b.set_spin({0, 1, 0});
    CHECK(b.has_spin());
    CHECK(x == b.visit([](const auto& c) { return static_cast<const void*>(c.z[0]); }));
    CHECK(spin_of(b, 3) == vector3{0, 1, 0});
    b.set_spin({0, 0, -1});
    CHECK(spin_of(b, 0) == vector3{0, 0, -1});
  }
}

TEST_CASE_TEMPLATE("spin: goes with its particle through copies, moves and losses", F, float,
                   double) {
  particles<F> p(6);
  auto s = some_spins<F>(6);
  bunch b = bunch::copy_of(
      proton, beam::bunch_arrays<const F>{{p.z[0], p.z[1], p.z[2], p.z[3], p.z[4], p.z[5]},
                                          std::nullopt,
                                          std::nullopt,
                                          std::array<std::span<const F>, 3>{s[0], s[1], s[2]}});
  const auto expected = [&](std::size_t k) { return vector3{s[0][k], s[1][k], s[2][k]}; };
  for (std::size_t k = 0; k < 6; ++k) CHECK(spin_of(b, k) == expected(k));
  const bunch copy = b;
  b.remove(std::vector<bunch::loss>{{1, 0, 0, 0, beam::loss_reason::aperture},
                                    {4, 0, 0, 0, beam::loss_reason::non_finite}});
  REQUIRE(b.size() == 4);
  CHECK(spin_of(b, 1) == expected(2));
  CHECK(spin_of(b, 3) == expected(5));
  REQUIRE(b.lost[1].spin.has_value());
  CHECK(*b.lost[1].spin == expected(4));
  bunch moved = std::move(b);
  CHECK(spin_of(moved, 2) == expected(3));
  CHECK(spin_of(copy, 4) == expected(4));
  moved.keep(std::vector<beam::particle_range>{{3, 1}});
  CHECK(spin_of(moved, 0) == expected(5));
  moved.keep({});
  CHECK(moved.has_spin());
}

TEST_CASE_TEMPLATE("spin: borrowed arrays are worked on in place", F, float, double) {
  particles<F> p(4);
  auto s = some_spins<F>(4);
  const beam::bunch_arrays<F> arrays{
      {p.z[0], p.z[1], p.z[2], p.z[3], p.z[4], p.z[5]}, std::nullopt, std::nullopt, spans<F>(s)};
  const bunch b = bunch::borrow(proton, arrays, nullptr);
  s[2][1] = F(0.25);
  CHECK(spin_of(b, 1)[2] == 0.25);
  particles<F> nobody(0);
  std::array<std::vector<F>, 3> none;
  const beam::bunch_arrays<F> empty{
      {nobody.z[0], nobody.z[1], nobody.z[2], nobody.z[3], nobody.z[4], nobody.z[5]},
      std::nullopt,
      std::nullopt,
      spans<F>(none)};
  CHECK(bunch::borrow(proton, empty, nullptr).has_spin());
}

TEST_CASE("spin: what is not a unit vector, or of another length, is refused") {
  bunch b(proton, 3);
  CHECK(message_of([&] { b.set_spin({0, 0.6, 0.7}); }) ==
        "beam: spin[0] = (0, 0.6, 0.7) must be a unit vector, its length is 0.9219544457292886");
  CHECK(
      message_of([&] { b.set_spin({0, 0, std::nan("")}); }).starts_with("beam: spin[0] = (0, 0,"));
  auto s = some_spins<double>(2);
  CHECK(message_of([&] { b.set_spin({{s[0], s[1], s[2]}}); }) ==
        "beam: array sx has 2 entries, the beam has 3 particles");
  s = some_spins<double>(3);
  s[2].pop_back();
  CHECK(message_of([&] { b.set_spin({{s[0], s[1], s[2]}}); }) ==
        "beam: array sz has 2 entries, the beam has 3 particles");
  CHECK(message_of([&] { b.sample_spin({0.8, 0, 0.8}, 1); }) ==
        "beam: polarization = (0.8, 0, 0.8) must be finite and of length <= 1, it has "
        "1.1313708498984762");
  CHECK(message_of([&] { b.sample_spin({0, std::nan(""), 0}, 1); }) != "accepted");
  CHECK(!b.has_spin());
  particles<double> p(3);
  const beam::bunch_arrays<const double> arrays{
      {p.z[0], p.z[1], p.z[2], p.z[3], p.z[4], p.z[5]},
      std::nullopt,
      std::nullopt,
      std::array<std::span<const double>, 3>{s[0], s[1], s[2]}};
  CHECK(message_of([&] { bunch::copy_of(proton, arrays); }) ==
        "beam: array sz has 2 entries, x has 3; all must have the same number");
  b.set_spin({1, 0, 0});
  b.visit([](const auto& c) { c.spin[1][2] = std::numeric_limits<double>::infinity(); });
  CHECK(message_of([&] { b.check_finite(); }) == "beam: sy[2] = inf must be finite");
  CHECK(message_of([&] { b.check_spin(); }).starts_with("beam: spin[2] = (1, inf, 0)"));
}

TEST_CASE("spin: moments are weighted, and the same for any number of threads") {
  constexpr std::size_t n = 300'001;
  bunch b(proton, n);
  b.sample_spin({0.3, -0.2, 0.5}, 4, 2);
  b.visit([]<class F>(const beam::columns<F>& c) {
    for (std::size_t k = 0; k < c.size; ++k) c.weight[k] = static_cast<F>(k % 7);
  });
  long double weight = 0, mean[3] = {}, square[3] = {};
  b.visit([&](const auto& c) {
    for (std::size_t k = 0; k < n; ++k) {
      weight += c.weight[k];
      for (std::size_t i = 0; i < 3; ++i) {
        mean[i] += static_cast<long double>(c.weight[k]) * c.spin[i][k];
        square[i] += static_cast<long double>(c.weight[k]) * c.spin[i][k] * c.spin[i][k];
      }
    }
  });
  const beam::moments m = b.moments(), threaded = b.moments(3);
  REQUIRE(m.spin.has_value());
  for (std::size_t i = 0; i < 3; ++i) {
    const long double average = mean[i] / weight;
    CHECK(m.spin->mean[i] == doctest::Approx(static_cast<double>(average)).epsilon(1e-13));
    CHECK(m.spin->sigma[i] ==
          doctest::Approx(std::sqrt(static_cast<double>(square[i] / weight - average * average)))
              .epsilon(1e-12));
    CHECK(m.spin->mean[i] == threaded.spin->mean[i]);
    CHECK(m.spin->sigma[i] == threaded.spin->sigma[i]);
  }
  const auto row = beam::summarise_spin(m);
  CHECK(row[1] == m.spin->mean[1]);
  CHECK(row[6] == doctest::Approx(std::sqrt(0.38)).epsilon(0.01));
  CHECK(std::isnan(beam::summarise_spin(bunch(proton, 2).moments())[0]));

  b.set_spin({0.6, 0, 0.8});
  const beam::moments same = b.moments();
  CHECK(same.spin->mean == vector3{0.6, 0, 0.8});
  CHECK(same.spin->sigma == vector3{0, 0, 0});
  CHECK(same.spin->polarization() == doctest::Approx(1).epsilon(1e-15));
  b.keep({});
  CHECK(std::isnan(b.moments().spin->mean[0]));
  CHECK(std::isnan(b.moments().spin->polarization()));
}

TEST_CASE("spin: kappa inverts the mean of the distribution") {
  CHECK(beam::spin_concentration(0) == 0);
  CHECK(std::isinf(beam::spin_concentration(1)));
  CHECK(beam::spin_concentration(1e-9) == doctest::Approx(3e-9).epsilon(1e-14));
  for (double p = 1e-3; p < 1; p += 1e-3) {
    const auto k = static_cast<long double>(beam::spin_concentration(p));
    const auto back = static_cast<double>(1 / std::tanh(k) - 1 / k);
    CHECK(back == doctest::Approx(p).epsilon(1e-14));
  }
  CHECK(beam::spin_concentration(1 - 1e-9) == doctest::Approx(1e9).epsilon(1e-6));
}

TEST_CASE("spin: polarised beams have the mean and the distribution that was asked for") {
  constexpr std::size_t n = 200'000;
  for (const vector3& p :
       {vector3{0, 0, 0}, vector3{0.01, 0, 0}, vector3{0.2, 0.5, -0.3}, vector3{0, 0, -0.9},
        vector3{0.7, 0, 0.714}, vector3{0.0, -1.0, 0.0}, vector3{0.36, 0.48, 0.8}}) {
    CAPTURE(p);
    bunch b(proton, n);
    b.sample_spin(p, 11, 2);
    CHECK_NOTHROW(b.check_spin());
    const auto spin = *b.moments().spin;
    const double length = std::hypot(p[0], p[1], p[2]);
    for (std::size_t i = 0; i < 3; ++i) {
      CHECK(std::abs(spin.mean[i] - p[i]) <= 5 * spin.sigma[i] / std::sqrt(double(n)) + 1e-15);
    }
    // S.n has the distribution function (exp(k u) - exp(-k))/(2 sinh k)
    const double k = beam::spin_concentration(length);
    if (length < 1e-3 || length > 1 - 1e-3) continue;
    std::array<int, 20> counts{};
    b.visit([&](const auto& c) {
      for (std::size_t j = 0; j < n; ++j) {
        const double u = (c.spin[0][j] * p[0] + c.spin[1][j] * p[1] + c.spin[2][j] * p[2]) / length;
        const double quantile = std::expm1(k * (u - 1)) / -std::expm1(-2 * k) + 1;
        ++counts[static_cast<std::size_t>(std::clamp(20 * quantile, 0.0, 19.0))];
      }
    });
    double chi_squared = 0;
    for (const int count : counts) chi_squared += std::pow(count - n / 20.0, 2) / (n / 20.0);
    CHECK(chi_squared < 45);  // 19 degrees of freedom: one in a thousand above 43.8
  }
}

TEST_CASE("spin: does not depend on threads, on the number of particles or on precision") {
  bunch a(proton, 150'000), b(proton, 1000), c(proton, 1000, precision::single);
  a.sample_spin({0.1, 0.2, 0.3}, 3, 3);
  b.sample_spin({0.1, 0.2, 0.3}, 3);
  c.sample_spin({0.1, 0.2, 0.3}, 3);
  for (const std::size_t k : {0u, 500u, 999u}) {
    CHECK(spin_of(a, k) == spin_of(b, k));
    for (std::size_t i = 0; i < 3; ++i) {
      CHECK(spin_of(c, k)[i] == static_cast<double>(static_cast<float>(spin_of(b, k)[i])));
    }
  }
  CHECK_NOTHROW(c.check_spin());
}
