#include "beam/bunch.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <stdexcept>
#include <string>

#include "beam/spin.h"
#include "beam/text.h"
#include "numerics/constants.h"
#include "numerics/reduction.h"
#include "soa/soa.h"

namespace betatron::beam {

namespace {

template <class F>
using particle_table = soa::table<soa::column<"x", F>, soa::column<"px", F>, soa::column<"y", F>,
                                  soa::column<"py", F>, soa::column<"t", F>, soa::column<"pt", F>,
                                  soa::column<"weight", F>, soa::column<"id", std::uint64_t>>;

template <class F>
using spin_table = soa::table<soa::column<"sx", F>, soa::column<"sy", F>, soa::column<"sz", F>>;

/// What a bunch keeps whose spins were added later.
template <class F>
struct memory_with_spin {
  std::shared_ptr<void> other_columns;
  spin_table<F> spin;
};

/// What a borrowing bunch keeps: the lender, and the columns that were not lent.
template <class F>
struct borrowed_memory {
  std::shared_ptr<void> lender;
  soa::table<soa::column<"weight", F>> weight;
  soa::table<soa::column<"id", std::uint64_t>> id;
};

template <class F>
columns<F> columns_of(particle_table<F>& table) {
  return {{table.template data<0>(), table.template data<1>(), table.template data<2>(),
           table.template data<3>(), table.template data<4>(), table.template data<5>()},
          table.template data<6>(),
          table.template data<7>(),
          table.size()};
}

template <class F>
void number_from_zero(const columns<F>& c) {
  std::iota(c.id, c.id + c.size, std::uint64_t{0});
}

template <class F>
void weigh_one(const columns<F>& c) {
  std::fill_n(c.weight, c.size, F(1));
}

/// The common length of the arrays.
template <class F>
std::size_t checked_size(const bunch_arrays<F>& arrays) {
  const std::size_t n = arrays.z[0].size();
  const auto check = [n](const char* name, std::size_t size) {
    if (size == n) return;
    throw std::invalid_argument("beam: array " + std::string(name) + " has " +
                                std::to_string(size) + " entries, x has " + std::to_string(n) +
                                "; all must have the same number");
  };
  for (std::size_t i = 1; i < 6; ++i) check(column_names[i], arrays.z[i].size());
  if (arrays.weight) check("weight", arrays.weight->size());
  if (arrays.id) check("id", arrays.id->size());
  for (std::size_t i = 0; arrays.spin && i < 3; ++i) check(spin_names[i], (*arrays.spin)[i].size());
  return n;
}

template <class F>
void check_column(const char* name, const F* values, std::size_t n, bool negative_allowed) {
  for (std::size_t k = 0; k < n; ++k) {
    if (std::isfinite(values[k]) && (negative_allowed || values[k] >= 0)) continue;
    throw std::invalid_argument("beam: " + std::string(name) + "[" + std::to_string(k) +
                                "] = " + number_text(static_cast<double>(values[k])) +
                                " must be finite" + (negative_allowed ? "" : " and >= 0"));
  }
}

template <class F>
void check_spins(const std::array<F*, 3>& spin, std::size_t n) {
  for (std::size_t k = 0; k < n; ++k) {
    const double s[3] = {static_cast<double>(spin[0][k]), static_cast<double>(spin[1][k]),
                         static_cast<double>(spin[2][k])};
    const double length = std::sqrt(s[0] * s[0] + s[1] * s[1] + s[2] * s[2]);
    if (std::abs(length - 1) <= spin_tolerance) continue;
    throw std::invalid_argument("beam: spin[" + std::to_string(k) + "] = (" + number_text(s[0]) +
                                ", " + number_text(s[1]) + ", " + number_text(s[2]) +
                                ") must be a unit vector, its length is " + number_text(length));
  }
}

template <class T>
void move_down(T* column, std::span<const particle_range> ranges) {
  T* end = column;
  for (const auto [first, count] : ranges) {
    if (count > 0) std::memmove(end, column + first, count * sizeof(T));
    end += count;
  }
}

}  // namespace

std::string_view name_of(precision p) { return p == precision::single ? "single" : "double"; }

std::string_view name_of(loss_reason reason) {
  switch (reason) {
    case loss_reason::aperture:
      return "aperture";
    case loss_reason::non_finite:
      return "non_finite";
    case loss_reason::outside_domain:
      return "outside_domain";
    case loss_reason::outside_bucket:
      return "outside_bucket";
    case loss_reason::user:
      return "user";
  }
  throw std::invalid_argument("loss_reason: no such value");
}

bunch::bunch(reference reference_particle, std::size_t n, beam::precision p)
    : ref(std::move(reference_particle)) {
  const auto allocate = [&]<class F>(F) {
    auto table = std::make_shared<particle_table<F>>(n);
    const columns<F> c = columns_of<F>(*table);
    weigh_one(c);
    number_from_zero(c);
    columns_ = c;
    memory_ = std::move(table);
  };
  if (p == beam::precision::single) {
    allocate(float());
  } else {
    allocate(double());
  }
}

template <class F>
bunch::bunch(reference reference_particle, const columns<F>& c, std::shared_ptr<void> memory)
    : ref(std::move(reference_particle)), columns_(c), memory_(std::move(memory)) {}

bunch bunch::sample(reference ref, const distribution& from, std::size_t n, std::uint64_t seed,
                    beam::precision p, unsigned threads) {
  bunch b(std::move(ref), n, p);
  b.visit([&](const auto& c) { generate(from, seed, c, 0, threads); });
  return b;
}

template <class F>
bunch bunch::copy_of(reference ref, const bunch_arrays<const F>& arrays) {
  const std::size_t n = checked_size(arrays);
  bunch b(std::move(ref), n,
          std::is_same_v<F, float> ? beam::precision::single : beam::precision::double_);
  const columns<F>& c = std::get<columns<F>>(b.columns_);
  for (std::size_t i = 0; i < 6; ++i) std::ranges::copy(arrays.z[i], c.z[i]);
  if (arrays.weight) std::ranges::copy(*arrays.weight, c.weight);
  if (arrays.id) std::ranges::copy(*arrays.id, c.id);
  if (arrays.spin) {
    b.allocate_spin();
    for (std::size_t i = 0; i < 3; ++i) std::ranges::copy((*arrays.spin)[i], c.spin[i]);
  }
  b.check_finite();
  b.check_spin();
  return b;
}

template <class F>
bunch bunch::borrow(reference ref, const bunch_arrays<F>& arrays,
                    std::shared_ptr<void> keep_alive) {
  columns<F> c;
  c.size = checked_size(arrays);
  for (std::size_t i = 0; i < 6; ++i) c.z[i] = arrays.z[i].data();
  auto memory = std::make_shared<borrowed_memory<F>>();
  memory->lender = std::move(keep_alive);
  if (arrays.weight) {
    c.weight = arrays.weight->data();
  } else {
    memory->weight.resize(c.size);
    c.weight = memory->weight.template data<0>();
    weigh_one(c);
  }
  if (arrays.id) {
    c.id = arrays.id->data();
  } else {
    memory->id.resize(c.size);
    c.id = memory->id.template data<0>();
    number_from_zero(c);
  }
  for (std::size_t i = 0; arrays.spin && i < 3; ++i) c.spin[i] = (*arrays.spin)[i].data();
  bunch b(std::move(ref), c, std::move(memory));
  if (arrays.spin) b.allocate_spin();  // an empty array may have no address
  b.check_finite();
  b.check_spin();
  return b;
}

template bunch bunch::copy_of(reference, const bunch_arrays<const float>&);
template bunch bunch::copy_of(reference, const bunch_arrays<const double>&);
template bunch bunch::borrow(reference, const bunch_arrays<float>&, std::shared_ptr<void>);
template bunch bunch::borrow(reference, const bunch_arrays<double>&, std::shared_ptr<void>);

bunch::bunch(const bunch& other) : bunch(other.ref, other.size(), other.precision()) {
  lost = other.lost;
  if (other.has_spin()) allocate_spin();
  other.visit([&]<class F>(const columns<const F>& from) {
    const columns<F>& to = std::get<columns<F>>(columns_);
    for (std::size_t i = 0; i < 6; ++i) std::copy_n(from.z[i], from.size, to.z[i]);
    std::copy_n(from.weight, from.size, to.weight);
    std::copy_n(from.id, from.size, to.id);
    for (std::size_t i = 0; from.has_spin() && i < 3; ++i) {
      std::copy_n(from.spin[i], from.size, to.spin[i]);
    }
  });
}

bunch::bunch(bunch&& other) noexcept
    : ref(std::move(other.ref)),
      lost(std::move(other.lost)),
      columns_(std::exchange(other.columns_, columns<double>())),
      memory_(std::move(other.memory_)) {}

bunch& bunch::operator=(const bunch& other) { return *this = bunch(other); }

bunch& bunch::operator=(bunch&& other) noexcept {
  bunch taken(std::move(other));
  std::swap(ref, taken.ref);
  std::swap(lost, taken.lost);
  std::swap(columns_, taken.columns_);
  std::swap(memory_, taken.memory_);
  return *this;
}

std::size_t bunch::size() const {
  return visit([](const auto& c) { return c.size; });
}

beam::precision bunch::precision() const {
  return std::holds_alternative<columns<float>>(columns_) ? beam::precision::single
                                                          : beam::precision::double_;
}

bool bunch::has_spin() const {
  return visit([](const auto& c) { return c.has_spin(); });
}

/// Columns for spins; does nothing if there are some.
void bunch::allocate_spin() {
  std::visit(
      [&]<class F>(columns<F>& c) {
        if (c.has_spin()) return;
        auto table = std::make_shared<memory_with_spin<F>>();
        table->other_columns = memory_;
        // a beam without particles has columns too: there must be something to point to
        table->spin.reserve(std::max<std::size_t>(c.size, 1));
        table->spin.resize(c.size);
        c.spin = {table->spin.template data<0>(), table->spin.template data<1>(),
                  table->spin.template data<2>()};
        memory_ = std::move(table);
      },
      columns_);
}

void bunch::set_spin(const std::array<double, 3>& direction) {
  const std::array<const double*, 3> one = {&direction[0], &direction[1], &direction[2]};
  check_spins(one, 1);
  allocate_spin();
  visit([&]<class F>(const columns<F>& c) {
    for (std::size_t i = 0; i < 3; ++i) {
      std::fill_n(c.spin[i], c.size, static_cast<F>(direction[i]));
    }
  });
}

void bunch::set_spin(const std::array<std::span<const double>, 3>& spins) {
  for (std::size_t i = 0; i < 3; ++i) {
    if (spins[i].size() == size()) continue;
    throw std::invalid_argument("beam: array " + std::string(spin_names[i]) + " has " +
                                std::to_string(spins[i].size()) + " entries, the beam has " +
                                std::to_string(size()) + " particles");
  }
  check_spins(std::array{spins[0].data(), spins[1].data(), spins[2].data()}, size());
  allocate_spin();
  visit([&]<class F>(const columns<F>& c) {
    for (std::size_t i = 0; i < 3; ++i) {
      std::ranges::transform(spins[i], c.spin[i], [](double s) { return static_cast<F>(s); });
    }
  });
}

void bunch::sample_spin(const std::array<double, 3>& polarization, std::uint64_t seed,
                        unsigned threads) {
  check_polarization(polarization);
  allocate_spin();
  visit([&](const auto& c) { generate_spins(polarization, seed, c, 0, threads); });
}

double bunch::charge() const {
  const double weight =
      visit([](const auto& c) { return numerics::sum(std::span(c.weight, c.size)); });
  return weight * ref.particle.charge * numerics::constants::elementary_charge;
}

void bunch::set_charge(double coulomb) {
  if (!(std::isfinite(coulomb) && coulomb >= 0)) {
    throw std::invalid_argument("beam: charge = " + number_text(coulomb) +
                                " C must be finite and >= 0 (the species gives the sign)");
  }
  const double present = std::abs(charge());
  if (present == 0) {
    if (coulomb == 0) return;
    throw std::invalid_argument("beam: charge = " + number_text(coulomb) +
                                " C cannot be carried by " + std::to_string(size()) +
                                " particles without weight");
  }
  const double scale = coulomb / present;
  visit([scale]<class F>(const columns<F>& c) {
    for (std::size_t k = 0; k < c.size; ++k) {
      c.weight[k] = static_cast<F>(static_cast<double>(c.weight[k]) * scale);
    }
  });
}

beam::moments bunch::moments(unsigned threads) const {
  return finish(visit([threads](const auto& c) { return sum_moments(c, threads); }), has_spin());
}

void bunch::check_finite() const {
  visit([](const auto& c) {
    for (std::size_t i = 0; i < 6; ++i) check_column(column_names[i], c.z[i], c.size, true);
    check_column("weight", c.weight, c.size, false);
    for (std::size_t i = 0; c.has_spin() && i < 3; ++i) {
      check_column(spin_names[i], c.spin[i], c.size, true);
    }
  });
}

void bunch::check_spin() const {
  visit([](const auto& c) {
    if (c.has_spin()) check_spins(c.spin, c.size);
  });
}

void bunch::remove(std::span<const loss> losses) {
  if (losses.empty()) return;
  std::vector<particle_range> ranges;
  std::size_t next = 0;
  for (const loss& l : losses) {
    if (l.index < next || l.index >= size()) {
      throw std::invalid_argument("beam: lost particle " + std::to_string(l.index) +
                                  " must come after the one before and be below " +
                                  std::to_string(size()));
    }
    if (l.index > next) ranges.push_back({next, l.index - next});
    next = l.index + 1;
  }
  if (next < size()) ranges.push_back({next, size() - next});
  visit([&](const auto& c) {
    const auto value = [&](std::size_t i, std::size_t k) { return static_cast<double>(c.z[i][k]); };
    for (const auto& [k, s, turn, element, reason] : losses) {
      lost.push_back({c.id[k], value(0, k), value(1, k), value(2, k), value(3, k), value(4, k),
                      value(5, k), static_cast<double>(c.weight[k]), s, turn, element, reason});
      if (!c.has_spin()) continue;
      lost.back().spin = {static_cast<double>(c.spin[0][k]), static_cast<double>(c.spin[1][k]),
                          static_cast<double>(c.spin[2][k])};
    }
  });
  keep(ranges);
}

void bunch::keep(std::span<const particle_range> ranges) {
  std::size_t end = 0, kept = 0;
  for (const auto [first, count] : ranges) {
    if (first < end || first > size() || count > size() - first) {
      throw std::invalid_argument("beam: particles " + std::to_string(first) + " to " +
                                  std::to_string(first) + " + " + std::to_string(count) +
                                  " must come after the range before and be among " +
                                  std::to_string(size()));
    }
    end = first + count;
    kept += count;
  }
  std::visit(
      [&](auto& c) {
        for (auto* column : c.z) move_down(column, ranges);
        move_down(c.weight, ranges);
        move_down(c.id, ranges);
        for (std::size_t i = 0; c.has_spin() && i < 3; ++i) move_down(c.spin[i], ranges);
        c.size = kept;
      },
      columns_);
}

}  // namespace betatron::beam
