// The container: layout of its memory, growth, erasure, copies, and what happens when allocation
// fails.
#include <doctest/doctest.h>
#include <algorithm>
#include <array>
#include <complex>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <memory_resource>
#include <new>
#include <stdexcept>
#include <utility>
#include <vector>

#include "soa/soa.h"

namespace soa = betatron::soa;

namespace {

using points = soa::table<soa::column<"x", double>, soa::column<"y", double>,
                          soa::column<"id", std::uint64_t>>;
using points_aos = points::with_layout<soa::layout::aos>;
using particles =
    soa::table<soa::column<"x", double>, soa::column<"px", double>, soa::column<"y", double>,
               soa::column<"py", double>, soa::column<"t", double>, soa::column<"pt", double>,
               soa::column<"weight", double>, soa::column<"id", std::uint64_t>>;

template <class Table>
Table numbered(std::size_t n) {
  Table t(n);
  for (std::size_t i = 0; i < n; ++i) {
    t[i] = typename Table::value_type(0.5 * static_cast<double>(i), -static_cast<double>(i), i);
  }
  return t;
}

template <class Table>
std::vector<std::uint64_t> ids(const Table& t) {
  const auto column = t.template get<"id">();
  return {column.begin(), column.end()};
}

using list = std::vector<std::uint64_t>;

// Counts the live blocks, and fails when told to. State is shared by copies and rebinds.
struct allocation_state {
  int live = 0;
  int until_failure = -1;
};

template <class T>
struct failing_allocator {
  using value_type = T;
  std::shared_ptr<allocation_state> state = std::make_shared<allocation_state>();

  failing_allocator() = default;
  explicit failing_allocator(std::shared_ptr<allocation_state> s) : state(std::move(s)) {}
  template <class U>
  failing_allocator(const failing_allocator<U>& other) : state(other.state) {}

  T* allocate(std::size_t n) {
    if (state->until_failure == 0) throw std::bad_alloc();
    if (state->until_failure > 0) --state->until_failure;
    ++state->live;
    return std::allocator<T>().allocate(n);
  }
  void deallocate(T* p, std::size_t n) {
    --state->live;
    std::allocator<T>().deallocate(p, n);
  }
  template <class U>
  friend bool operator==(const failing_allocator& a, const failing_allocator<U>& b) {
    return a.state == b.state;
  }
};

// Stands in for a device: memory that the table must only touch through copy and clear.
struct walled_memory {
  static constexpr bool host_accessible = false;
  static inline int copies = 0;

  static void copy(void* to, const void* from, std::size_t bytes) {
    ++copies;
    std::memcpy(to, from, bytes);
  }
  static void clear(void* to, std::size_t bytes) { std::memset(to, 0, bytes); }
};

template <class T>
struct walled_allocator : std::allocator<T> {
  using memory = walled_memory;
  template <class U>
  struct rebind {
    using other = walled_allocator<U>;
  };
  walled_allocator() = default;
  template <class U>
  walled_allocator(const walled_allocator<U>&) {}
  soa::device where() const { return {soa::device::cuda, 3}; }
};

template <class T>
concept host_only_interface = requires(T& t) { t[0]; } || requires(T& t) { t.begin(); } ||
                              requires(T& t) { t.push_back({}); } || requires(T& t) { t.at(0); } ||
                              requires(T& t) { t.erase(0); };

using failing_points = points::with_allocator<failing_allocator<std::byte>>;

}  // namespace

TEST_CASE("a new table holds default values") {
  const points t(100);
  CHECK(t.size() == 100);
  CHECK_FALSE(t.empty());
  for (double x : t.get<"x">()) CHECK(x == 0.0);
  for (std::uint64_t id : t.get<"id">()) CHECK(id == 0);

  struct with_default {
    int value = 7;
  };
  const soa::table<soa::column<"a", with_default>> d(3);
  CHECK(d.get<"a">()[2].value == 7);

  const points none;
  CHECK(none.empty());
  CHECK(none.capacity() == 0);
  CHECK(none.begin() == none.end());
  CHECK(none.get<"x">().empty());
}

TEST_CASE_TEMPLATE("rows and columns are the same numbers", table, points, points_aos) {
  table t = numbered<table>(10);
  CHECK(t[4].template get<"x">() == 2.0);
  CHECK(t.template get<"y">()[4] == -4.0);
  CHECK(soa::get<"id">(t)[9] == 9);
  t[4].template get<"x">() = 17;
  CHECK(t.template get<"x">()[4] == 17);
  t.template get<"id">()[0] = 5;
  CHECK(t.front().template get<"id">() == 5);
  CHECK(t.template get<0>()[4] == 17);
}

TEST_CASE("columns start on cache lines, are evenly spaced, and do not alias modulo 4096 bytes") {
  for (std::size_t n : {1u, 7u, 8u, 100u, 1000u, 1024u, 4096u, 65536u, 100003u}) {
    CAPTURE(n);
    const particles t(n);
    const auto address = [](const auto* p) { return reinterpret_cast<std::uintptr_t>(p); };
    const std::array<std::uintptr_t, 8> at{address(t.data<"x">()),      address(t.data<"px">()),
                                           address(t.data<"y">()),      address(t.data<"py">()),
                                           address(t.data<"t">()),      address(t.data<"pt">()),
                                           address(t.data<"weight">()), address(t.data<"id">())};
    for (std::size_t k = 0; k < at.size(); ++k) {
      CHECK(at[k] % 64 == 0);
      for (std::size_t j = 0; j < k; ++j) {
        const std::uintptr_t apart = (at[k] - at[j]) % 4096;
        CHECK(std::min(apart, 4096 - apart) >= 512);
      }
      if (k > 0) CHECK(at[k] - at[k - 1] == at[1] - at[0]);
      if (k > 0) CHECK(at[k] - at[k - 1] >= (n * 8 + 63) / 64 * 64);
    }
  }
}

TEST_CASE("columns of different sizes are packed in order without overlap") {
  using mixed = soa::table<soa::column<"a", std::uint8_t>, soa::column<"b", double>,
                           soa::column<"c", std::array<float, 3>>, soa::column<"d", bool>,
                           soa::column<"e", std::complex<double>>>;
  for (std::size_t n : {1u, 63u, 64u, 65u, 1000u}) {
    mixed t(n);
    for (std::size_t i = 0; i < n; ++i) {
      t[i] = mixed::value_type(static_cast<std::uint8_t>(i), static_cast<double>(i),
                               {static_cast<float>(i), 1.f, 2.f}, i % 2 == 0,
                               {0.0, static_cast<double>(i)});
    }
    for (std::size_t i = 0; i < n; ++i) {
      CHECK(t[i].get<"a">() == static_cast<std::uint8_t>(i));
      CHECK(t[i].get<"b">() == static_cast<double>(i));
      CHECK(t[i].get<"c">()[0] == static_cast<float>(i));
      CHECK(t[i].get<"d">() == (i % 2 == 0));
      CHECK(t[i].get<"e">().imag() == static_cast<double>(i));
    }
  }
}

TEST_CASE("a record lies in memory like a C struct") {
  struct c_struct {
    std::uint8_t a;
    double b;
    float c;
    std::uint16_t d;
  };
  using record = soa::record<soa::column<"a", std::uint8_t>, soa::column<"b", double>,
                             soa::column<"c", float>, soa::column<"d", std::uint16_t>>;
  static_assert(sizeof(record) == sizeof(c_struct) && alignof(record) == alignof(c_struct));
  static_assert(std::is_trivially_copyable_v<record>);
  record r;
  const auto offset = [&](const auto& field) {
    return static_cast<std::size_t>(reinterpret_cast<const char*>(&field) -
                                    reinterpret_cast<const char*>(&r));
  };
  CHECK(offset(r.get<"a">()) == offsetof(c_struct, a));
  CHECK(offset(r.get<"b">()) == offsetof(c_struct, b));
  CHECK(offset(r.get<"c">()) == offsetof(c_struct, c));
  CHECK(offset(r.get<"d">()) == offsetof(c_struct, d));
}

TEST_CASE("the last cache line of a column may be written as a whole") {
  particles t(13);  // 13 doubles end inside their second line
  for (std::size_t i = 13; i < 16; ++i) t.data<"x">()[i] = 1e300;
  for (std::size_t i = 0; i < 13; ++i) CHECK(t.data<"px">()[i] == 0.0);
  t.resize(16);
  CHECK(t[14].get<"x">() == 0.0);
}

TEST_CASE_TEMPLATE("growing keeps rows and adds default ones", table, points, points_aos) {
  table t;
  for (std::size_t i = 0; i < 1000; ++i) {
    t.emplace_back(0.5 * static_cast<double>(i), -static_cast<double>(i), i);
  }
  CHECK(t == numbered<table>(1000));
  CHECK(t.capacity() < 2000);

  t.resize(1200);
  CHECK(t[999].template get<"id">() == 999);
  CHECK(t[1000].template get<"id">() == 0);
  t[1100].template get<"x">() = 3;
  t.resize(10);
  CHECK(t == numbered<table>(10));
  t.resize(1200);
  CHECK(t[1100].template get<"x">() == 0);  // not the old number

  t.resize(10);
  t.shrink_to_fit();
  CHECK(t.capacity() == 10);
  CHECK(t == numbered<table>(10));
  t.pop_back();
  CHECK(t.back().template get<"id">() == 8);
  t.clear();
  CHECK(t.empty());
  t.shrink_to_fit();
  CHECK(t.capacity() == 0);
}

TEST_CASE_TEMPLATE("rows of the table itself can be appended to it", table, points, points_aos) {
  table t = numbered<table>(3);
  t.shrink_to_fit();
  t.push_back(t[1]);
  CHECK(ids(t) == list{0, 1, 2, 1});
  t.shrink_to_fit();
  t.append(t.view());  // reallocates
  CHECK(ids(t) == list{0, 1, 2, 1, 0, 1, 2, 1});
  t.reserve(100);
  t.append(t.subview(1, 2));
  CHECK(ids(t) == list{0, 1, 2, 1, 0, 1, 2, 1, 1, 2});
}

TEST_CASE("layouts convert into each other") {
  const points t = numbered<points>(20);
  const points_aos a(t.view());
  CHECK(a.view() == t.view());
  CHECK(points(a.view()) == t);
  points twice = t;
  twice.append(a.view());
  CHECK(twice.subview(20, 20) == t.view());
}

TEST_CASE_TEMPLATE("erasing keeps the order of the other rows", table, points, points_aos) {
  table t = numbered<table>(8);
  t.erase(2);
  CHECK(ids(t) == list{0, 1, 3, 4, 5, 6, 7});
  t.erase(1, 3);
  CHECK(ids(t) == list{0, 5, 6, 7});
  t.erase(4, 0);
  CHECK(t.size() == 4);
  const std::vector<std::size_t> some{0, 3};
  t.erase_indices(some);
  CHECK(ids(t) == list{5, 6});
  CHECK(t[0].template get<"x">() == 2.5);
  CHECK(t.erase_if([](auto) { return false; }) == 0);
  CHECK(t.erase_if([](auto) { return true; }) == 2);
  CHECK(t.empty());

  // Long and short runs against the obvious loop.
  t = numbered<table>(500);
  list expected;
  const auto lost = [](std::uint64_t id) {
    return (id > 100 && id < 200) || id % 7 == 3 || id == 499;
  };
  for (std::uint64_t id = 0; id < 500; ++id) {
    if (!lost(id)) expected.push_back(id);
  }
  const std::size_t count = t.erase_if([&](auto r) { return lost(soa::get<"id">(r)); });
  CHECK(count == 500 - expected.size());
  CHECK(ids(t) == expected);
  for (auto r : t) CHECK(soa::get<"y">(r) == -static_cast<double>(soa::get<"id">(r)));
}

TEST_CASE("bad indices are refused before anything changes") {
  points t = numbered<points>(5);
  const points& c = t;
  CHECK(t.at(4).get<"id">() == 4);
  CHECK_THROWS_WITH_AS(t.at(5), "soa::at: row 5 of a table of 5 rows", std::out_of_range);
  CHECK_THROWS_WITH_AS(c.at(99), "soa::at: row 99 of a table of 5 rows", std::out_of_range);
  CHECK_THROWS_WITH_AS(t.erase(5), "soa::erase: rows 5 to 5 + 1 of a table of 5 rows",
                       std::out_of_range);
  CHECK_THROWS_AS(t.erase(3, 3), std::out_of_range);
  CHECK_THROWS_AS(t.erase(1, static_cast<std::size_t>(-1)), std::out_of_range);
  CHECK_THROWS_AS(t.subview(6, 0), std::out_of_range);
  const std::vector<std::size_t> outside{1, 5}, unsorted{3, 1}, twice{2, 2};
  CHECK_THROWS_AS(t.erase_indices(outside), std::out_of_range);
  CHECK_THROWS_WITH_AS(
      t.erase_indices(unsorted),
      "soa::erase_indices: row 1 after row 3; row numbers must be strictly increasing",
      std::invalid_argument);
  CHECK_THROWS_AS(t.erase_indices(twice), std::invalid_argument);
  CHECK_THROWS_AS(t.erase_if([](auto r) -> bool {
    if (soa::get<"id">(r) == 3) throw std::runtime_error("predicate");
    return true;
  }),
                  std::runtime_error);
  CHECK(t == numbered<points>(5));
}

TEST_CASE("impossible sizes are refused") {
  points t = numbered<points>(5);
  CHECK_THROWS_AS(t.resize(static_cast<std::size_t>(-1)), std::length_error);
  CHECK_THROWS_AS(t.reserve(points::max_size() + 1), std::length_error);
  CHECK_THROWS_AS(points_aos(points_aos::max_size() + 1), std::length_error);
  CHECK(t == numbered<points>(5));
}

TEST_CASE("copies are independent and moves take the rows along") {
  points t = numbered<points>(6);
  points copy = t;
  copy[0].get<"x">() = 9;
  CHECK(t[0].get<"x">() == 0);
  CHECK_FALSE(copy == t);
  copy = t;
  CHECK(copy == t);
  copy = *&copy;
  CHECK(copy == t);

  const double* x = t.data<"x">();
  points moved = std::move(t);
  CHECK(moved.data<"x">() == x);
  CHECK(t.empty());  // NOLINT: a moved-from table is empty
  t.resize(2);
  CHECK(t[1].get<"id">() == 0);
  t = std::move(moved);
  CHECK(t.data<"x">() == x);

  points other(2);
  swap(t, other);
  CHECK(other.data<"x">() == x);
  CHECK(t.size() == 2);

  const points listed{{1.0, 2.0, 3u}, {4.0, 5.0, 6u}};
  CHECK(listed[1].get<"y">() == 5.0);
}

TEST_CASE("a failing allocation leaves the table as it was, and nothing leaks") {
  const auto state = std::make_shared<allocation_state>();
  const failing_allocator<std::byte> allocator(state);
  {
    failing_points t(5, allocator);
    for (std::size_t i = 0; i < 5; ++i) t[i].get<"id">() = i;
    t.shrink_to_fit();
    const failing_points before = t;
    const std::uint64_t* data = t.data<"id">();
    state->until_failure = 0;
    CHECK_THROWS_AS(t.push_back({}), std::bad_alloc);
    CHECK_THROWS_AS(t.resize(100), std::bad_alloc);
    CHECK_THROWS_AS(t.reserve(100), std::bad_alloc);
    CHECK_THROWS_AS(t.append(before.view()), std::bad_alloc);
    CHECK_THROWS_AS(failing_points{before}, std::bad_alloc);
    failing_points target(allocator);
    CHECK_THROWS_AS(target = before, std::bad_alloc);
    CHECK(target.empty());
    CHECK(t == before);
    CHECK(t.data<"id">() == data);
    state->until_failure = -1;
    CHECK(state->live == 2);
  }
  CHECK(state->live == 0);
}

TEST_CASE("allocators travel as the standard says") {
  const failing_allocator<std::byte> a, b;
  failing_points from(3, a), to(2, b);
  from[2].get<"id">() = 7;
  to = std::move(from);  // unequal allocators that stay where they are: rows are copied
  CHECK(to.get_allocator() == b);
  CHECK(to.get<"id">()[2] == 7);
  CHECK(a.state->live == 1);
  CHECK(b.state->live == 1);

  std::array<std::byte, 1 << 16> buffer;
  std::pmr::monotonic_buffer_resource arena(buffer.data(), buffer.size(),
                                            std::pmr::null_memory_resource());
  using arena_points = points::with_allocator<std::pmr::polymorphic_allocator<std::byte>>;
  arena_points t(10, &arena);
  const auto* at = reinterpret_cast<const std::byte*>(t.data<"x">());
  CHECK(at >= buffer.data());
  CHECK(at < buffer.data() + buffer.size());
  CHECK(reinterpret_cast<std::uintptr_t>(at) % 64 == 0);
  const points host(t);  // between allocators
  CHECK(host == points(10));
  arena_points moved(&arena);
  moved = std::move(t);
  CHECK(moved.size() == 10);
}

TEST_CASE_TEMPLATE("memory that the host cannot touch", table, points, points_aos) {
  using walled = typename table::template with_allocator<walled_allocator<std::byte>>;
  static_assert(host_only_interface<table> && !host_only_interface<walled>);
  const table host = numbered<table>(20);
  walled_memory::copies = 0;
  walled w(host);
  CHECK(walled_memory::copies > 0);
  CHECK(w.where() == soa::device{soa::device::cuda, 3});
  CHECK(w.template tensor<"x">().device == soa::device{soa::device::cuda, 3});
  CHECK(w.template tensor_block<"x", "y">().shape[0] == 2);
  CHECK(table(w) == host);
  w.resize(30);
  const walled copy = w;
  const table back(copy);
  CHECK(back.subview(0, 20) == host.view());
  CHECK(back.subview(20, 10) == table(10).view());
}
