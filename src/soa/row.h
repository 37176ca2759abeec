// row.h: one row of a table by reference, and the iterator that yields it.
//
// A `row` stands for a reference to a record that exists nowhere as an object: assigning to it
// writes to the table, copying it copies the reference. Both layouts use it, so that
// `auto r = t[i]` means the same for both.
#pragma once

#include <compare>
#include <concepts>
#include <cstddef>
#include <iterator>
#include <type_traits>
#include <utility>

#include "soa/schema.h"

namespace betatron::soa {

namespace detail {
struct assignable {};
struct not_assignable {
  constexpr not_assignable() = default;
  constexpr not_assignable(const not_assignable&) = default;
  not_assignable& operator=(const not_assignable&) = delete;
};
}  // namespace detail

/// Reference to one row. Fields as references, r.get<"x">() or r.get<0>(), or by structured
/// binding: `auto [x, id] = t[i]; x = 1;` writes to the table. Converts to the record; a mutable
/// row converts to a const one; a record converts to a row that refers to it.
template <class Schema, layout L, bool Const>
class row : private std::conditional_t<Const, detail::not_assignable, detail::assignable> {
  // What copy assignment takes; for const rows a type nobody has, so the deleted default stays.
  struct nothing {};
  using assigned = std::conditional_t<Const, nothing, row>;
  using record_reference = typename origin<Schema, L, Const>::record_type&;

 public:
  using schema_type = Schema;
  using value_type = typename Schema::record_type;

  BETATRON_SOA_INLINE constexpr row(const origin<Schema, L, Const>& first,
                                    std::size_t index) noexcept
      : origin_(first), index_(index) {}
  BETATRON_SOA_INLINE constexpr row(record_reference r) noexcept : origin_(r), index_(0) {}
  constexpr row(const row&) = default;
  template <bool FromConst>
    requires(Const && !FromConst)
  BETATRON_SOA_INLINE constexpr row(const row<Schema, L, FromConst>& other) noexcept
      : origin_(other.origin_.as_const()), index_(other.index_) {}

  // Assignment writes through, so it is const: the reference itself does not change.
  BETATRON_SOA_INLINE constexpr const row& operator=(const assigned& from) const noexcept {
    assign(from, typename Schema::indices{});
    return *this;
  }
  BETATRON_SOA_INLINE constexpr const row& operator=(const value_type& from) const noexcept
    requires(!Const)
  {
    assign(from, typename Schema::indices{});
    return *this;
  }
  template <layout M, bool FromConst>
    requires(!Const && (M != L || FromConst))
  BETATRON_SOA_INLINE constexpr const row& operator=(
      const row<Schema, M, FromConst>& from) const noexcept {
    assign(from, typename Schema::indices{});
    return *this;
  }

  template <std::size_t I>
  BETATRON_SOA_INLINE constexpr auto& get() const noexcept {
    return origin_.template field<I>(index_);
  }
  template <fixed_string Name>
    requires(Schema::template has<Name>)
  BETATRON_SOA_INLINE constexpr auto& get() const noexcept {
    return origin_.template field<Schema::template index_of<Name>>(index_);
  }

  BETATRON_SOA_INLINE constexpr operator value_type() const noexcept {
    return load(typename Schema::indices{});
  }

  /// By value, for rows are references: swaps the contents.
  friend BETATRON_SOA_INLINE constexpr void swap(row a, row b) noexcept
    requires(!Const)
  {
    const value_type kept = a;
    a = b;
    b = kept;
  }
  friend constexpr bool operator==(const row& a, const row& b) {
    return value_type(a) == value_type(b);
  }
  friend constexpr bool operator==(const row& a, const value_type& b) { return value_type(a) == b; }

 private:
  template <class S, layout M, bool C>
  friend class row;

  template <class From, std::size_t... I>
  BETATRON_SOA_INLINE constexpr void assign(const From& from,
                                            std::index_sequence<I...>) const noexcept {
    ((get<I>() = from.template get<I>()), ...);
  }
  template <std::size_t... I>
  BETATRON_SOA_INLINE constexpr value_type load(std::index_sequence<I...>) const noexcept {
    return value_type(get<I>()...);
  }

  origin<Schema, L, Const> origin_;
  std::size_t index_;
};

/// Random-access iterator over rows. Comparing or subtracting is defined between iterators of the
/// same view; a subview counts its rows from its own first.
template <class Schema, layout L, bool Const>
class row_iterator {
  struct arrow {
    row<Schema, L, Const> target;
    BETATRON_SOA_INLINE constexpr const row<Schema, L, Const>* operator->() const noexcept {
      return &target;
    }
  };

 public:
  using value_type = typename Schema::record_type;
  using reference = row<Schema, L, Const>;
  using pointer = arrow;
  using difference_type = std::ptrdiff_t;
  using iterator_concept = std::random_access_iterator_tag;
  // By the letter of C++17 an iterator with proxy references is an input iterator; in practice the
  // standard algorithms need no more than assignable references with a swap, and this tag.
  using iterator_category = std::random_access_iterator_tag;

  constexpr row_iterator() = default;
  BETATRON_SOA_INLINE constexpr row_iterator(const origin<Schema, L, Const>& first,
                                             difference_type index) noexcept
      : origin_(first), index_(index) {}
  template <bool FromConst>
    requires(Const && !FromConst)
  BETATRON_SOA_INLINE constexpr row_iterator(
      const row_iterator<Schema, L, FromConst>& other) noexcept
      : origin_(other.origin_.as_const()), index_(other.index_) {}

  BETATRON_SOA_INLINE constexpr reference operator*() const noexcept {
    return {origin_, static_cast<std::size_t>(index_)};
  }
  BETATRON_SOA_INLINE constexpr arrow operator->() const noexcept { return {**this}; }
  BETATRON_SOA_INLINE constexpr reference operator[](difference_type n) const noexcept {
    return {origin_, static_cast<std::size_t>(index_ + n)};
  }

  BETATRON_SOA_INLINE constexpr row_iterator& operator++() noexcept { return *this += 1; }
  BETATRON_SOA_INLINE constexpr row_iterator& operator--() noexcept { return *this += -1; }
  BETATRON_SOA_INLINE constexpr row_iterator operator++(int) noexcept {
    const row_iterator before = *this;
    ++index_;
    return before;
  }
  BETATRON_SOA_INLINE constexpr row_iterator operator--(int) noexcept {
    const row_iterator before = *this;
    --index_;
    return before;
  }
  BETATRON_SOA_INLINE constexpr row_iterator& operator+=(difference_type n) noexcept {
    index_ += n;
    return *this;
  }
  BETATRON_SOA_INLINE constexpr row_iterator& operator-=(difference_type n) noexcept {
    index_ -= n;
    return *this;
  }
  friend BETATRON_SOA_INLINE constexpr row_iterator operator+(row_iterator i,
                                                              difference_type n) noexcept {
    return i += n;
  }
  friend BETATRON_SOA_INLINE constexpr row_iterator operator+(difference_type n,
                                                              row_iterator i) noexcept {
    return i += n;
  }
  friend BETATRON_SOA_INLINE constexpr row_iterator operator-(row_iterator i,
                                                              difference_type n) noexcept {
    return i -= n;
  }
  friend BETATRON_SOA_INLINE constexpr difference_type operator-(const row_iterator& a,
                                                                 const row_iterator& b) noexcept {
    return a.index_ - b.index_;
  }
  friend BETATRON_SOA_INLINE constexpr bool operator==(const row_iterator& a,
                                                       const row_iterator& b) noexcept {
    return a.index_ == b.index_;
  }
  friend BETATRON_SOA_INLINE constexpr std::strong_ordering operator<=>(
      const row_iterator& a, const row_iterator& b) noexcept {
    return a.index_ <=> b.index_;
  }

  friend BETATRON_SOA_INLINE constexpr value_type iter_move(const row_iterator& i) noexcept {
    return *i;
  }
  friend BETATRON_SOA_INLINE constexpr void iter_swap(const row_iterator& a,
                                                      const row_iterator& b) noexcept
    requires(!Const)
  {
    swap(*a, *b);
  }

 private:
  template <class S, layout M, bool C>
  friend class row_iterator;

  origin<Schema, L, Const> origin_;
  difference_type index_ = 0;
};

/// soa::get<"x">(thing) for records, rows, views and tables: in templates it saves the `template`
/// keyword of thing.template get<"x">().
template <fixed_string Name, class Thing>
  requires requires(Thing&& thing) { std::forward<Thing>(thing).template get<Name>(); }
BETATRON_SOA_INLINE constexpr decltype(auto) get(Thing&& thing) noexcept {
  return std::forward<Thing>(thing).template get<Name>();
}

template <fixed_string Name>
struct by_column {
  template <class Row>
  BETATRON_SOA_INLINE constexpr auto operator()(const Row& r) const noexcept {
    return r.template get<Name>();
  }
};

/// Projection onto a column: std::ranges::sort(t, std::less{}, soa::by<"x">).
template <fixed_string Name>
inline constexpr by_column<Name> by{};

}  // namespace betatron::soa

template <class Schema, betatron::soa::layout L, bool Const>
struct std::tuple_size<betatron::soa::row<Schema, L, Const>>
    : std::integral_constant<std::size_t, Schema::column_count> {};

template <std::size_t I, class Schema, betatron::soa::layout L, bool Const>
struct std::tuple_element<I, betatron::soa::row<Schema, L, Const>> {
  using column_type = typename Schema::template column_type<I>;
  using type = std::conditional_t<Const, const column_type&, column_type&>;
};

// What a row and a record have in common is the record; the C++20 iterator concepts ask.
template <class Schema, betatron::soa::layout L, bool Const, class... Columns,
          template <class> class RowQualifier, template <class> class RecordQualifier>
  requires std::same_as<typename Schema::record_type, betatron::soa::record<Columns...>>
struct std::basic_common_reference<betatron::soa::row<Schema, L, Const>,
                                   betatron::soa::record<Columns...>, RowQualifier,
                                   RecordQualifier> {
  using type = betatron::soa::record<Columns...>;
};

template <class Schema, betatron::soa::layout L, bool Const, class... Columns,
          template <class> class RecordQualifier, template <class> class RowQualifier>
  requires std::same_as<typename Schema::record_type, betatron::soa::record<Columns...>>
struct std::basic_common_reference<betatron::soa::record<Columns...>,
                                   betatron::soa::row<Schema, L, Const>, RecordQualifier,
                                   RowQualifier> {
  using type = betatron::soa::record<Columns...>;
};
