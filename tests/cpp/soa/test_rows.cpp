// Rows by reference, views and iterators: with the algorithms and ranges of the standard library.
#include <doctest/doctest.h>
#include <algorithm>
#include <array>
#include <cstdint>
#include <functional>
#include <iterator>
#include <numeric>
#include <random>
#include <ranges>
#include <type_traits>
#include <utility>
#include <vector>

#include "soa/soa.h"

namespace soa = betatron::soa;

namespace {

using points = soa::table<soa::column<"x", double>, soa::column<"id", std::uint32_t>>;
using points_aos = points::with_layout<soa::layout::aos>;

// x is a permutation of 0..n-1, id = 3 x + 1: a row torn apart shows.
template <class Table>
Table shuffled(std::size_t n) {
  std::vector<std::uint32_t> order(n);
  std::iota(order.begin(), order.end(), 0u);
  std::shuffle(order.begin(), order.end(), std::mt19937(42));
  Table t;
  for (std::uint32_t k : order) t.emplace_back(static_cast<double>(k), 3 * k + 1);
  return t;
}

template <class Rows>
bool intact(const Rows& rows) {
  return std::all_of(rows.begin(), rows.end(), [](auto r) {
    return soa::get<"id">(r) == 3 * static_cast<std::uint32_t>(soa::get<"x">(r)) + 1;
  });
}

constexpr auto by_x = [](const auto& a, const auto& b) {
  return soa::get<"x">(a) < soa::get<"x">(b);
};

template <class Table>
constexpr bool models_the_iterator_concepts() {
  using iterator = typename Table::iterator;
  using const_iterator = typename Table::const_iterator;
  static_assert(std::random_access_iterator<iterator>);
  static_assert(std::random_access_iterator<const_iterator>);
  static_assert(std::sortable<iterator, decltype(by_x)>);
  static_assert(std::indirectly_swappable<iterator>);
  static_assert(std::indirectly_writable<iterator, typename Table::value_type>);
  static_assert(!std::indirectly_writable<const_iterator, typename Table::value_type>);
  static_assert(
      !std::is_assignable_v<typename Table::const_reference, typename Table::const_reference>);
  static_assert(std::convertible_to<iterator, const_iterator>);
  static_assert(!std::convertible_to<const_iterator, iterator>);
  static_assert(std::convertible_to<typename Table::reference, typename Table::const_reference>);
  static_assert(std::convertible_to<typename Table::view_type, typename Table::const_view_type>);
  static_assert(!std::convertible_to<typename Table::const_view_type, typename Table::view_type>);
  static_assert(std::ranges::random_access_range<Table> && std::ranges::sized_range<Table>);
  static_assert(std::ranges::random_access_range<const Table>);
  static_assert(std::ranges::view<typename Table::view_type>);
  static_assert(std::ranges::borrowed_range<typename Table::view_type>);
  static_assert(std::is_trivially_copyable_v<typename Table::view_type>);
  static_assert(std::is_trivially_copyable_v<iterator>);
  static_assert(std::is_nothrow_move_constructible_v<Table> &&
                std::is_nothrow_move_assignable_v<Table>);
  return true;
}
static_assert(models_the_iterator_concepts<points>());
static_assert(models_the_iterator_concepts<points_aos>());

// The column names and the size are all that a view is.
static_assert(sizeof(points::view_type) == 3 * sizeof(void*));
static_assert(sizeof(points_aos::view_type) == 2 * sizeof(void*));

static_assert(points::schema_type::has<"x"> && !points::schema_type::has<"z">);
static_assert(points::schema_type::index_of<"id"> == 1);
template <class T>
concept has_z = requires(T& t) { t.template get<"z">(); };
static_assert(!has_z<points> && !has_z<points::view_type> && !has_z<points::reference> &&
              !has_z<points::value_type>);
template <class T>
concept has_data = requires(T& t) { t.template data<"x">(); };
static_assert(has_data<points> && !has_data<points_aos>);

}  // namespace

TEST_CASE_TEMPLATE("a row refers, a record holds", table, points, points_aos) {
  table t = shuffled<table>(4);
  auto row = t[1];
  const typename table::value_type before = t[1];
  row.template get<"x">() = 100;
  CHECK(t[1].template get<"x">() == 100);
  CHECK(before.template get<"x">() != 100);

  auto [x, id] = t[2];
  x = 200;
  CHECK(t[2].template get<"x">() == 200);
  auto [held_x, held_id] = before;
  held_x = 300;
  CHECK(before.template get<"x">() != 300);
  static_assert(std::is_same_v<decltype(x), double&> &&
                std::is_same_v<decltype(held_id), std::uint32_t>);
  CHECK(id == t[2].template get<1>());

  t[0] = t[1];  // assigns the contents
  CHECK(t[0] == t[1]);
  t[0].template get<"id">() = 77;
  CHECK_FALSE(t[0] == t[1]);
  t[3] = typename table::value_type(5.0, 6u);
  CHECK(t[3] == typename table::value_type(5.0, 6u));
  t[3] = {};
  CHECK(t[3] == typename table::value_type());

  typename table::value_type record(1.0, 2u);
  const typename table::reference to_record = record;
  to_record.template get<"x">() = 9;
  CHECK(record.template get<"x">() == 9);

  const table& c = t;
  const auto [cx, cid] = c[2];
  static_assert(std::is_same_v<decltype(cx), const double&>);
  CHECK(cx == 200);
  CHECK(cid == id);
}

TEST_CASE_TEMPLATE("iterators do arithmetic", table, points, points_aos) {
  table t = shuffled<table>(5);
  auto it = t.begin();
  CHECK(t.end() - it == 5);
  CHECK((it + 3 > it));
  CHECK(*(it + 3) == t[3]);
  CHECK(it[4] == t[4]);
  CHECK(*(2 + it) == t[2]);
  it += 4;
  CHECK(*--it == t[3]);
  CHECK(*it-- == t[3]);
  CHECK(*it++ == t[2]);
  CHECK(it->template get<"x">() == t[3].template get<"x">());
  it -= 3;
  const typename table::const_iterator same = it;
  CHECK(same == t.cbegin());
  CHECK(typename table::iterator() == typename table::iterator());
}

TEST_CASE_TEMPLATE("standard algorithms move whole rows", table, points, points_aos) {
  table t = shuffled<table>(1000);

  std::sort(t.begin(), t.end(), by_x);
  for (std::size_t i = 0; i < t.size(); ++i)
    REQUIRE(t[i].template get<"x">() == static_cast<double>(i));
  CHECK(intact(t));

  t = shuffled<table>(1000);
  std::stable_sort(t.begin(), t.end(), by_x);
  CHECK(std::is_sorted(t.begin(), t.end(), by_x));
  CHECK(intact(t));

  t = shuffled<table>(1000);
  const auto small = [](auto r) { return soa::get<"x">(r) < 300; };
  const auto middle = std::partition(t.begin(), t.end(), small);
  CHECK(middle - t.begin() == 300);
  CHECK(std::is_partitioned(t.begin(), t.end(), small));
  CHECK(intact(t));

  t = shuffled<table>(1000);
  std::stable_partition(t.begin(), t.end(), small);
  CHECK(std::is_partitioned(t.begin(), t.end(), small));
  std::nth_element(t.begin(), t.begin() + 500, t.end(), by_x);
  CHECK(t[500].template get<"x">() == 500);
  std::partial_sort(t.begin(), t.begin() + 10, t.end(), by_x);
  CHECK(t[9].template get<"x">() == 9);
  std::make_heap(t.begin(), t.end(), by_x);
  std::sort_heap(t.begin(), t.end(), by_x);
  CHECK(t[999].template get<"x">() == 999);
  std::rotate(t.begin(), t.begin() + 1, t.end());
  CHECK(t[999].template get<"x">() == 0);
  std::reverse(t.begin(), t.end());
  CHECK(t[0].template get<"x">() == 0);
  std::shuffle(t.begin(), t.end(), std::mt19937(1));
  CHECK(intact(t));

  std::vector<double> doubled(t.size());
  std::transform(t.begin(), t.end(), doubled.begin(), [](auto r) { return 2 * soa::get<"x">(r); });
  CHECK(doubled[17] == 2 * t[17].template get<"x">());
  std::transform(t.begin(), t.end(), t.begin(), [](auto r) {
    return typename table::value_type(soa::get<"x">(r) + 1, soa::get<"id">(r) + 3);
  });
  CHECK(intact(t));

  table copy(t.size());
  std::copy(t.cbegin(), t.cend(), copy.begin());
  CHECK(copy == t);
  const auto end = std::remove_if(t.begin(), t.end(), [](auto r) { return soa::get<"x">(r) > 10; });
  CHECK(end - t.begin() == 10);
  t.resize(static_cast<std::size_t>(end - t.begin()));
  CHECK(intact(t));

  std::fill(t.begin(), t.end(), typename table::value_type(2.0, 7u));
  CHECK(intact(t));
}

TEST_CASE_TEMPLATE("range algorithms take tables, projections and rows", table, points,
                   points_aos) {
  table t = shuffled<table>(500);
  std::ranges::sort(t, std::less{}, soa::by<"x">);
  CHECK(std::ranges::is_sorted(t, {}, soa::by<"x">));
  CHECK(intact(t));
  std::ranges::sort(t.begin(), t.end(), std::greater{}, soa::by<"id">);
  CHECK(t[0].template get<"x">() == 499);
  CHECK(intact(t));
  std::ranges::sort(t.view(),
                    [](typename table::const_reference a, typename table::const_reference b) {
                      return a.template get<"x">() < b.template get<"x">();
                    });
  CHECK(t[0].template get<"x">() == 0);
  CHECK(std::ranges::lower_bound(t, 123.0, {}, soa::by<"x">) - t.begin() == 123);
  CHECK((*std::ranges::max_element(t, {}, soa::by<"id">)).template get<"x">() == 499);
  CHECK(std::ranges::count_if(t, [](double x) { return x < 20; }, soa::by<"x">) == 20);
  std::ranges::swap_ranges(t.begin(), t.begin() + 100, t.begin() + 100, t.begin() + 200);
  CHECK(t[0].template get<"x">() == 100);
  CHECK(intact(t));

  auto a = t[0];
  auto b = t[1];
  swap(a, b);
  CHECK(t[0].template get<"x">() == 101);
  std::ranges::iter_swap(t.begin(), t.begin() + 1);
  CHECK(t[0].template get<"x">() == 100);
  static_assert(
      std::is_same_v<decltype(std::ranges::iter_move(t.begin())), typename table::value_type>);

  // Columns are ranges of their own.
  std::ranges::fill(t.template get<"x">(), 4.0);
  const auto x = t.template get<"x">();
  CHECK(std::accumulate(x.begin(), x.end(), 0.0) == 2000.0);
  static_assert(std::ranges::random_access_range<decltype(t.template get<"x">())>);
}

// The range adaptors of libstdc++ need Clang 16 or newer, whatever the range.
#if !defined(__clang__) || __clang_major__ >= 16
TEST_CASE_TEMPLATE("range adaptors compose", table, points, points_aos) {
  table t = shuffled<table>(100);
  std::ranges::sort(t, std::less{}, soa::by<"x">);
  double sum = 0;
  for (auto r : t | std::views::filter([](auto row) { return soa::get<"id">(row) % 2 == 1; }) |
                    std::views::take(3)) {
    sum += soa::get<"x">(r);
    soa::get<"x">(r) = -1;
  }
  CHECK(sum == 0 + 2 + 4);
  CHECK(t[2].template get<"x">() == -1);
  for (double x :
       t.view() | std::views::reverse | std::views::transform(soa::by<"x">) | std::views::take(1)) {
    CHECK(x == 99);
  }
  const auto rest = std::ranges::partition(t, [](auto r) { return soa::get<"x">(r) < 0; });
  CHECK(rest.begin() - t.begin() == 3);
}
#endif

TEST_CASE_TEMPLATE("views refer to the rows of others", table, points, points_aos) {
  table t = shuffled<table>(10);
  const auto part = t.subview(2, 5);
  CHECK(part.size() == 5);
  CHECK(part[0] == t[2]);
  part[0].template get<"x">() = 50;  // a view passes writing on, even a const one
  CHECK(t[2].template get<"x">() == 50);
  CHECK(part.subview(1, 3)[2] == t[5]);
  CHECK(part.template get<"id">().size() == 5);
  CHECK(part.template get<"id">()[4] == t[6].template get<"id">());
  CHECK(part.back() == t[6]);
  CHECK(part.subview(5, 0).empty());
  CHECK_THROWS_WITH_AS(part.subview(3, 3), "soa::subview: rows 3 to 3 + 3 of a table of 5 rows",
                       std::out_of_range);
  CHECK_THROWS_AS(part.at(5), std::out_of_range);

  std::ranges::sort(part, std::less{}, soa::by<"x">);
  CHECK(part.back().template get<"x">() == 50);

  const typename table::const_view_type constant = part;
  static_assert(std::is_same_v<decltype(constant[0].template get<"x">()), const double&>);
  CHECK(constant == part);
  CHECK(typename table::view_type().empty());
}

TEST_CASE("views of borrowed columns") {
  std::vector<double> x{3, 1, 2};
  std::array<std::uint32_t, 3> id{10, 4, 7};
  const points::view_type rows({x.data(), id.data()}, 3);
  std::ranges::sort(rows, std::less{}, soa::by<"x">);
  CHECK(x == std::vector<double>{1, 2, 3});
  CHECK(id == std::array<std::uint32_t, 3>{4, 7, 10});
  CHECK(rows.data<"x">() == x.data());

  const std::vector<double> cx{5};
  const std::uint32_t cid = 6;
  const points::const_view_type constant({cx.data(), &cid}, 1);
  CHECK(constant[0].get<"x">() == 5);

  std::array<points::value_type, 2> records{points::value_type(2.0, 1u),
                                            points::value_type(1.0, 0u)};
  const points_aos::view_type structures(records.data(), 2);
  std::ranges::sort(structures, std::less{}, soa::by<"x">);
  CHECK(records[0].get<"id">() == 0);
}

TEST_CASE("generic code does not see the layout") {
  const auto drift = [](auto rows) {
    auto x = soa::get<"x">(rows);
    auto id = soa::get<"id">(rows);
    for (std::size_t i = 0; i < rows.size(); ++i) x[i] += id[i];
    for (auto r : rows) soa::get<"id">(r) += 1;
  };
  points t = shuffled<points>(50);
  points_aos a(t.view());
  drift(t.view());
  drift(a.view());
  CHECK(a.view() == t.view());
}
