#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "beam/bunch.h"
#include "particles.h"

using namespace betatron;
using beam::bunch;
using beam::loss_reason;
using beam::precision;

namespace {

const auto electron = beam::reference::from_kinetic_energy(beam::make_species("electron"), 1e8);
const auto proton = beam::reference::from_kinetic_energy(beam::make_species("proton"), 1e8);

/// Particles whose coordinates say who they are: coordinate i of particle k is 100 k + i.
template <class F>
particles<F> labelled(std::size_t n) {
  particles<F> p(n);
  for (std::size_t k = 0; k < n; ++k) {
    for (std::size_t i = 0; i < 6; ++i) p.z[i][k] = static_cast<F>(100 * k + i);
    p.weight[k] = static_cast<F>(k + 1);
    p.id[k] = 1000 + k;
  }
  return p;
}

template <class F>
beam::bunch_arrays<F> lend(particles<F>& p) {
  return {{p.z[0], p.z[1], p.z[2], p.z[3], p.z[4], p.z[5]}, p.weight, p.id};
}

template <class F>
beam::bunch_arrays<const F> show(const particles<F>& p) {
  return {{p.z[0], p.z[1], p.z[2], p.z[3], p.z[4], p.z[5]}, p.weight, p.id};
}

std::vector<std::uint64_t> ids(const bunch& b) {
  return b.visit([](const auto& c) { return std::vector<std::uint64_t>(c.id, c.id + c.size); });
}

std::vector<double> column(const bunch& b, std::size_t i) {
  return b.visit([i](const auto& c) {
    const auto* from = i < 6 ? c.z[i] : c.weight;
    return std::vector<double>(from, from + c.size);
  });
}

/// Rows of sx, sy, sz; empty without spins.
std::vector<std::array<double, 3>> spins(const bunch& b) {
  std::vector<std::array<double, 3>> rows;
  b.visit([&](const auto& c) {
    for (std::size_t k = 0; c.has_spin() && k < c.size; ++k) {
      rows.push_back({c.spin[0][k], c.spin[1][k], c.spin[2][k]});
    }
  });
  return rows;
}

bool same_particles(const bunch& a, const bunch& b) {
  for (std::size_t i = 0; i < 7; ++i) {
    if (column(a, i) != column(b, i)) return false;
  }
  return spins(a) == spins(b) && ids(a) == ids(b) && a.precision() == b.precision() &&
         a.lost == b.lost && a.ref == b.ref;
}

std::string message_of(auto&& action) {
  try {
    action();
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "accepted";
}

}  // namespace

TEST_CASE("bunch: starts on the reference orbit, one real particle each") {
  for (const precision p : {precision::single, precision::double_}) {
    for (const std::size_t n : {0u, 1u, 1000u}) {
      const bunch b(electron, n, p);
      CHECK(b.size() == n);
      CHECK(b.precision() == p);
      CHECK(b.ref == electron);
      CHECK(b.lost.empty());
      for (std::size_t i = 0; i < 6; ++i) CHECK(column(b, i) == std::vector<double>(n, 0));
      CHECK(column(b, 6) == std::vector<double>(n, 1));
      for (std::size_t k = 0; k < n; ++k) CHECK(ids(b)[k] == k);
      CHECK(b.moments().count == n);
      CHECK_NOTHROW(b.check_finite());
    }
  }
}

TEST_CASE("bunch: visit hands out columns of the precision chosen at run time") {
  bunch single(electron, 1, precision::single), twice(electron, 1, precision::double_);
  CHECK(single.visit([](const auto& c) { return sizeof(*c.z[0]); }) == sizeof(float));
  CHECK(twice.visit([](const auto& c) { return sizeof(*c.z[0]); }) == sizeof(double));
  std::as_const(twice).visit([](const auto& c) {
    static_assert(std::is_const_v<std::remove_reference_t<decltype(*c.z[0])>>);
    static_assert(std::is_const_v<std::remove_reference_t<decltype(*c.id)>>);
  });
  twice.visit([](const auto& c) { c.z[3][0] = 7; });
  CHECK(column(twice, 3)[0] == 7);
}

TEST_CASE("bunch: sampled beams agree between precisions and thread counts") {
  const auto from = beam::distribution::from_twiss(
      beam::shape::gaussian, {{{2, -1, 1e-9}, {3, 0.5, 2e-9}, {10, 0, 1e-6}}});
  const bunch d = bunch::sample(electron, from, 1000, 5);
  const bunch f = bunch::sample(electron, from, 1000, 5, precision::single, 2);
  CHECK(column(d, 0)[999] == doctest::Approx(column(f, 0)[999]).epsilon(1e-7));
  for (int i = 0; i < 6; ++i) {
    CHECK(d.moments().sigma(i) == doctest::Approx(f.moments().sigma(i)).epsilon(1e-6));
  }
  CHECK(bunch::sample(electron, from, 0, 5).size() == 0);
}

TEST_CASE_TEMPLATE("bunch: arrays are copied in order", F, float, double) {
  const particles<F> p = labelled<F>(5);
  const bunch b = bunch::copy_of(proton, show(p));
  CHECK(b.precision() == (sizeof(F) == 4 ? precision::single : precision::double_));
  for (std::size_t i = 0; i < 6; ++i) CHECK(column(b, i)[4] == static_cast<double>(400 + i));
  CHECK(column(b, 6)[4] == 5);
  CHECK(ids(b)[4] == 1004);
  auto plain = show(p);
  plain.weight.reset();
  plain.id.reset();
  const bunch c = bunch::copy_of(proton, plain);
  CHECK(column(c, 6)[4] == 1);
  CHECK(ids(c)[4] == 4);
}

TEST_CASE_TEMPLATE("bunch: borrowed arrays are worked on in place and kept alive", F, float,
                   double) {
  auto p = std::make_shared<particles<F>>(labelled<F>(4));
  const std::weak_ptr<void> watch = p;
  const F* x = p->z[0].data();
  auto b = std::make_unique<bunch>(bunch::borrow(proton, lend(*p), p));
  b->visit([&](const auto& c) {
    CHECK(static_cast<const void*>(c.z[0]) == x);
    c.z[0][2] = 77;
  });
  CHECK(p->z[0][2] == F(77));
  p.reset();
  CHECK(!watch.expired());

  const bunch copy = *b;  // has memory of its own
  copy.visit([&](const auto& c) { CHECK(static_cast<const void*>(c.z[0]) != x); });
  CHECK(same_particles(copy, *b));

  std::shared_ptr<void> memory = b->memory();
  b.reset();
  CHECK(!watch.expired());  // somebody still looks at the columns
  memory.reset();
  CHECK(watch.expired());
}

TEST_CASE("bunch: a lender without weights and ids gets the bunch's own") {
  particles<double> p = labelled<double>(3);
  auto arrays = lend(p);
  arrays.weight.reset();
  arrays.id.reset();
  bunch b = bunch::borrow(proton, arrays, nullptr);
  CHECK(column(b, 6) == std::vector<double>{1, 1, 1});
  CHECK(ids(b) == std::vector<std::uint64_t>{0, 1, 2});
  b.set_charge(1e-9);
  CHECK(p.weight[2] == 3);
}

TEST_CASE("bunch: copies and moves carry everything, a moved-from bunch is empty") {
  particles<double> p = labelled<double>(4);
  bunch a = bunch::copy_of(proton, show(p));
  a.remove(std::vector<bunch::loss>{{1, 2.5, 0, 3, loss_reason::aperture}});
  bunch b = a;
  CHECK(same_particles(a, b));
  b.visit([](const auto& c) { c.z[0][0] = -1; });
  CHECK(column(a, 0)[0] == 0);
  bunch c = std::move(b);
  CHECK(c.size() == 3);
  CHECK(b.size() == 0);  // NOLINT: documented
  b = a;
  CHECK(same_particles(a, b));
  b = std::move(c);
  CHECK(column(b, 0)[0] == -1);
  b = *&b;
  CHECK(b.size() == 3);
}

TEST_CASE("bunch: arrays of unequal lengths are refused by name") {
  particles<double> p = labelled<double>(4);
  auto arrays = lend(p);
  arrays.z[3] = arrays.z[3].first(2);
  const std::string expected =
      "beam: array py has 2 entries, x has 4; all must have the same number";
  CHECK(message_of([&] { bunch::borrow(proton, arrays, nullptr); }) == expected);
  auto constant = show(p);
  constant.weight = constant.weight->first(0);
  CHECK(message_of([&] { bunch::copy_of(proton, constant); }) ==
        "beam: array weight has 0 entries, x has 4; all must have the same number");
  constant = show(p);
  constant.id = constant.id->first(3);
  CHECK(message_of([&] { bunch::copy_of(proton, constant); }) ==
        "beam: array id has 3 entries, x has 4; all must have the same number");
}

TEST_CASE_TEMPLATE("bunch: what is not finite is refused by column, index and value", F, float,
                   double) {
  const F nan = std::numeric_limits<F>::quiet_NaN(), inf = std::numeric_limits<F>::infinity();
  const auto with = [](std::size_t i, F value) {
    particles<F> p = labelled<F>(4);
    (i < 6 ? p.z[i] : p.weight)[2] = value;
    const std::string copied = message_of([&] { bunch::copy_of(proton, show(p)); });
    CHECK(message_of([&] { bunch::borrow(proton, lend(p), nullptr); }) == copied);
    return copied;
  };
  CHECK(with(0, nan) == "beam: x[2] = nan must be finite");
  CHECK(with(5, -inf) == "beam: pt[2] = -inf must be finite");
  CHECK(with(6, inf) == "beam: weight[2] = inf must be finite and >= 0");
  CHECK(with(6, -1) == "beam: weight[2] = -1 must be finite and >= 0");
  CHECK(with(6, 0) == "accepted");
}

TEST_CASE("bunch: the charge has the sign of the species and is set by its magnitude") {
  const double e = 1.602176634e-19;
  bunch b(electron, 1000);
  CHECK(b.charge() == doctest::Approx(-1000 * e).epsilon(1e-15));
  b.set_charge(25e-12);
  CHECK(b.charge() == doctest::Approx(-25e-12).epsilon(1e-14));
  CHECK(bunch(proton, 3).charge() == doctest::Approx(3 * e).epsilon(1e-15));
  const auto carbon =
      beam::reference::from_kinetic_energy(beam::make_ion("C6+", 11.17e9, 6), 4.8e9);
  bunch ions(carbon, 10, precision::single);
  ions.set_charge(6e-9);
  CHECK(ions.charge() == doctest::Approx(6e-9).epsilon(1e-6));
  CHECK(column(ions, 6)[0] == doctest::Approx(1e-10 / e).epsilon(1e-6));

  // relative weights survive
  const particles<double> p = labelled<double>(2);
  bunch unequal = bunch::copy_of(proton, show(p));
  unequal.set_charge(3 * e);
  CHECK(column(unequal, 6)[1] == doctest::Approx(2).epsilon(1e-14));

  unequal.set_charge(0);
  CHECK(unequal.charge() == 0);
  CHECK(message_of([&] { unequal.set_charge(1e-9); }) ==
        "beam: charge = 1e-09 C cannot be carried by 2 particles without weight");
  CHECK(message_of([&] { b.set_charge(-1e-9); }) ==
        "beam: charge = -1e-09 C must be finite and >= 0 (the species gives the sign)");
  CHECK(message_of([&] { b.set_charge(std::nan("")); }).starts_with("beam: charge = nan"));
  bunch empty(electron, 0);
  CHECK(empty.charge() == 0);
  CHECK_NOTHROW(empty.set_charge(0));
  CHECK(message_of([&] { empty.set_charge(1e-9); }) ==
        "beam: charge = 1e-09 C cannot be carried by 0 particles without weight");
}

TEST_CASE_TEMPLATE("bunch: lost particles move to the record, the others keep their order", F,
                   float, double) {
  const particles<F> p = labelled<F>(8);
  bunch b = bunch::copy_of(proton, show(p));
  b.remove({});
  CHECK(b.size() == 8);
  b.remove(std::vector<bunch::loss>{{0, 1.5, 2, 7, loss_reason::aperture},
                                    {3, 1.5, 2, 7, loss_reason::non_finite},
                                    {4, 1.75, 2, 8, loss_reason::outside_domain},
                                    {7, 1.75, 2, 8, loss_reason::aperture}});
  CHECK(ids(b) == std::vector<std::uint64_t>{1001, 1002, 1005, 1006});
  CHECK(column(b, 5) == std::vector<double>{105, 205, 505, 605});
  CHECK(column(b, 6) == std::vector<double>{2, 3, 6, 7});
  REQUIRE(b.lost.size() == 4);
  CHECK(b.lost[1] == beam::lost_particle{1003, 300, 301, 302, 303, 304, 305, 4, 1.5, 2, 7,
                                         loss_reason::non_finite});
  CHECK(beam::name_of(b.lost[2].reason) == "outside_domain");
  // nobody disappears
  double weight = 0;
  for (const auto& particle : b.lost) weight += particle.weight;
  CHECK(weight + b.moments().weight == 36);

  b.remove(std::vector<bunch::loss>{{0, 2, 3, 0, loss_reason::aperture},
                                    {1, 2, 3, 0, loss_reason::aperture},
                                    {2, 2, 3, 0, loss_reason::aperture},
                                    {3, 2, 3, 0, loss_reason::aperture}});
  CHECK(b.size() == 0);
  CHECK(b.lost.size() == 8);
  CHECK(b.charge() == 0);
}

TEST_CASE("bunch: losses and ranges out of order or bounds are refused") {
  bunch b(electron, 5);
  using losses = std::vector<bunch::loss>;
  const auto aperture = loss_reason::aperture;
  CHECK(message_of([&] { b.remove(losses{{5, 0, 0, 0, aperture}}); }) ==
        "beam: lost particle 5 must come after the one before and be below 5");
  CHECK(message_of([&] { b.remove(losses{{2, 0, 0, 0, aperture}, {2, 0, 0, 0, aperture}}); }) ==
        "beam: lost particle 2 must come after the one before and be below 5");
  using ranges = std::vector<beam::particle_range>;
  CHECK(message_of([&] { b.keep(ranges{{0, 2}, {1, 2}}); }) ==
        "beam: particles 1 to 1 + 2 must come after the range before and be among 5");
  CHECK(message_of([&] { b.keep(ranges{{4, 2}}); }) ==
        "beam: particles 4 to 4 + 2 must come after the range before and be among 5");
  CHECK(b.size() == 5);
  CHECK(b.lost.empty());
  b.keep(ranges{{1, 1}, {2, 0}, {3, 2}});
  CHECK(ids(b) == std::vector<std::uint64_t>{1, 3, 4});
  b.keep({});
  CHECK(b.size() == 0);
}
