// view.h: rows of a table, or of anybody's columns, without owning them: pointers and a size. Views
// are trivially copyable, are passed by value (to device kernels too), and like pointers they do
// not pass their own constness on: a `table_view<..., false>` writes even if it is itself const.
#pragma once

#include <array>
#include <cassert>
#include <compare>
#include <cstddef>
#include <iterator>
#include <ranges>
#include <span>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>

#include "soa/row.h"
#include "soa/tensor.h"

namespace betatron::soa {

/// Elements a fixed number of bytes apart: a column of an array of structures. Interface of
/// std::span where the two have a common meaning.
template <class T>
class strided_span {
 public:
  class iterator;
  using element_type = T;
  using value_type = std::remove_cv_t<T>;

  constexpr strided_span() = default;
  BETATRON_SOA_INLINE strided_span(T* first, std::size_t size, std::size_t step_bytes) noexcept
      : first_(first), size_(size), step_(step_bytes) {}

  BETATRON_SOA_INLINE std::size_t size() const noexcept { return size_; }
  BETATRON_SOA_INLINE bool empty() const noexcept { return size_ == 0; }
  BETATRON_SOA_INLINE T& operator[](std::size_t i) const noexcept {
    return begin()[static_cast<std::ptrdiff_t>(i)];
  }
  BETATRON_SOA_INLINE T& front() const noexcept { return *begin(); }
  BETATRON_SOA_INLINE T& back() const noexcept { return (*this)[size_ - 1]; }
  BETATRON_SOA_INLINE iterator begin() const noexcept {
    return {first_, static_cast<std::ptrdiff_t>(step_), 0};
  }
  BETATRON_SOA_INLINE iterator end() const noexcept {
    return begin() + static_cast<std::ptrdiff_t>(size_);
  }

 private:
  T* first_ = nullptr;
  std::size_t size_ = 0;
  std::size_t step_ = sizeof(T);
};

template <class T>
class strided_span<T>::iterator {
  using byte = std::conditional_t<std::is_const_v<T>, const std::byte, std::byte>;

 public:
  using value_type = std::remove_cv_t<T>;
  using reference = T&;
  using pointer = T*;
  using difference_type = std::ptrdiff_t;
  using iterator_category = std::random_access_iterator_tag;

  constexpr iterator() = default;
  BETATRON_SOA_INLINE iterator(T* first, difference_type step, difference_type index) noexcept
      : first_(first), step_(step), index_(index) {}

  BETATRON_SOA_INLINE T& operator*() const noexcept { return (*this)[0]; }
  BETATRON_SOA_INLINE T* operator->() const noexcept { return &**this; }
  BETATRON_SOA_INLINE T& operator[](difference_type n) const noexcept {
    return *reinterpret_cast<T*>(reinterpret_cast<byte*>(first_) + (index_ + n) * step_);
  }
  BETATRON_SOA_INLINE iterator& operator++() noexcept { return *this += 1; }
  BETATRON_SOA_INLINE iterator& operator--() noexcept { return *this += -1; }
  BETATRON_SOA_INLINE iterator operator++(int) noexcept {
    const iterator before = *this;
    ++index_;
    return before;
  }
  BETATRON_SOA_INLINE iterator operator--(int) noexcept {
    const iterator before = *this;
    --index_;
    return before;
  }
  BETATRON_SOA_INLINE iterator& operator+=(difference_type n) noexcept {
    index_ += n;
    return *this;
  }
  BETATRON_SOA_INLINE iterator& operator-=(difference_type n) noexcept {
    index_ -= n;
    return *this;
  }
  friend BETATRON_SOA_INLINE iterator operator+(iterator i, difference_type n) noexcept {
    return i += n;
  }
  friend BETATRON_SOA_INLINE iterator operator+(difference_type n, iterator i) noexcept {
    return i += n;
  }
  friend BETATRON_SOA_INLINE iterator operator-(iterator i, difference_type n) noexcept {
    return i -= n;
  }
  friend BETATRON_SOA_INLINE difference_type operator-(const iterator& a,
                                                       const iterator& b) noexcept {
    return a.index_ - b.index_;
  }
  friend BETATRON_SOA_INLINE bool operator==(const iterator& a, const iterator& b) noexcept {
    return a.index_ == b.index_;
  }
  friend BETATRON_SOA_INLINE std::strong_ordering operator<=>(const iterator& a,
                                                              const iterator& b) noexcept {
    return a.index_ <=> b.index_;
  }

 private:
  T* first_ = nullptr;
  difference_type step_ = 0;
  difference_type index_ = 0;
};

namespace detail {
[[noreturn]] inline void throw_row_out_of_range(std::size_t index, std::size_t size) {
  throw std::out_of_range("soa::at: row " + std::to_string(index) + " of a table of " +
                          std::to_string(size) + " rows");
}
inline void check_rows(const char* where, std::size_t first, std::size_t count, std::size_t size) {
  if (first > size || count > size - first) {
    throw std::out_of_range(std::string("soa::") + where + ": rows " + std::to_string(first) +
                            " to " + std::to_string(first) + " + " + std::to_string(count) +
                            " of a table of " + std::to_string(size) + " rows");
  }
}
}  // namespace detail

/// Rows by reference: a table without the ownership. Everything here a table can do, too.
template <class Schema, layout L, bool Const>
class table_view {
 public:
  using schema_type = Schema;
  using origin_type = origin<Schema, L, Const>;
  using value_type = typename Schema::record_type;
  using reference = row<Schema, L, Const>;
  using iterator = row_iterator<Schema, L, Const>;
  using size_type = std::size_t;
  using difference_type = std::ptrdiff_t;

  constexpr table_view() = default;

  /// Borrowed memory. soa: `size` rows and a pointer to the first element of each column, in order,
  /// as in `point::view_type({x, id}, n)`; aos: a pointer to the first record. Valid while that
  /// memory is.
  BETATRON_SOA_INLINE constexpr table_view(const origin_type& first, std::size_t size) noexcept
      : origin_(first), size_(size) {}

  template <bool FromConst>
    requires(Const && !FromConst)
  BETATRON_SOA_INLINE constexpr table_view(const table_view<Schema, L, FromConst>& other) noexcept
      : origin_(other.first_row().as_const()), size_(other.size()) {}

  BETATRON_SOA_INLINE constexpr std::size_t size() const noexcept { return size_; }
  BETATRON_SOA_INLINE constexpr bool empty() const noexcept { return size_ == 0; }
  BETATRON_SOA_INLINE constexpr const origin_type& first_row() const noexcept { return origin_; }

  /// Row i; not checked, except by assert.
  BETATRON_SOA_INLINE constexpr reference operator[](std::size_t i) const noexcept {
    assert(i < size_);
    return {origin_, i};
  }
  /// Row i; throws std::out_of_range.
  constexpr reference at(std::size_t i) const {
    if (i >= size_) detail::throw_row_out_of_range(i, size_);
    return {origin_, i};
  }
  BETATRON_SOA_INLINE constexpr reference front() const noexcept { return (*this)[0]; }
  BETATRON_SOA_INLINE constexpr reference back() const noexcept { return (*this)[size_ - 1]; }
  BETATRON_SOA_INLINE constexpr iterator begin() const noexcept { return {origin_, 0}; }
  BETATRON_SOA_INLINE constexpr iterator end() const noexcept {
    return {origin_, static_cast<difference_type>(size_)};
  }

  /// A column: std::span for soa, strided_span for aos.
  template <std::size_t I>
  constexpr auto get() const noexcept {
    using element = std::remove_reference_t<decltype(origin_.template field<I>(0))>;
    if constexpr (L == layout::soa) {
      return std::span<element>(origin_.template column<I>(), size_);
    } else {
      return strided_span<element>(origin_.template column<I>(), size_,
                                   origin_type::template step<I>());
    }
  }
  template <fixed_string Name>
    requires(Schema::template has<Name>)
  constexpr auto get() const noexcept {
    return get<Schema::template index_of<Name>>();
  }

  /// Pointer to the first element of a column. Only soa: elsewhere the next element is not at +1.
  template <std::size_t I>
    requires(L == layout::soa)
  BETATRON_SOA_INLINE constexpr auto* data() const noexcept {
    return origin_.template column<I>();
  }
  template <fixed_string Name>
    requires(L == layout::soa && Schema::template has<Name>)
  BETATRON_SOA_INLINE constexpr auto* data() const noexcept {
    return origin_.template column<Schema::template index_of<Name>>();
  }

  /// Rows [first, first + count); throws std::out_of_range if there are not as many.
  constexpr table_view subview(std::size_t first, std::size_t count) const {
    detail::check_rows("subview", first, count, size_);
    return first == 0 ? table_view(origin_, count) : table_view(origin_.shifted(first), count);
  }

  /// A column as a tensor of shape (size, element shape...). The memory is said to be on `where`; a
  /// view does not know.
  template <fixed_string Name>
    requires(Schema::template has<Name>)
  tensor_view tensor(device where = {}) const {
    return column_tensor<Schema::template index_of<Name>>(where);
  }

  /// Columns First to Last (inclusive, all of one type) as one tensor of shape (columns, size,
  /// element shape...). Throws std::invalid_argument if borrowed columns are not evenly spaced in
  /// memory.
  template <fixed_string First, fixed_string Last>
    requires(Schema::template has<First> && Schema::template has<Last> &&
             Schema::template index_of<First> <= Schema::template index_of<Last>)
  tensor_view tensor_block(device where = {}) const {
    constexpr std::size_t from = Schema::template index_of<First>;
    return block_tensor<from>(
        where, std::make_index_sequence<Schema::template index_of<Last> - from + 1>{});
  }

 private:
  template <std::size_t I>
  tensor_view column_tensor(device where) const {
    static_assert(tensor_element<typename Schema::template column_type<I>>::exportable,
                  "this column's type has no tensor element type; see soa::tensor_element");
    return detail::column_tensor(origin_.template column<I>(), size_,
                                 origin_type::template step<I>(), where);
  }

  template <std::size_t From, std::size_t... I>
  tensor_view block_tensor(device where, std::index_sequence<I...>) const {
    static_assert((std::is_same_v<typename Schema::template column_type<From>,
                                  typename Schema::template column_type<From + I>> &&
                   ...),
                  "the columns of a block must be of one type");
    const std::array<std::intptr_t, sizeof...(I)> addresses{
        reinterpret_cast<std::intptr_t>(origin_.template column<From + I>())...};
    std::intptr_t step = 0;
    if constexpr (sizeof...(I) > 1) step = addresses[1] - addresses[0];
    for (std::size_t k = 1; k < addresses.size(); ++k) {
      if (addresses[k] - addresses[k - 1] != step) {
        throw std::invalid_argument(
            "soa::tensor_block: column '" + std::string(Schema::names[From + k]) + "' lies " +
            std::to_string(addresses[k] - addresses[k - 1]) + " bytes after the one before, not " +
            std::to_string(step) +
            " as the others; columns must be evenly spaced to form one tensor");
      }
    }
    return detail::stacked(column_tensor<From>(where), sizeof...(I), step);
  }

  origin_type origin_;
  std::size_t size_ = 0;
};

/// Same number of rows, and equal rows.
template <class Schema, layout L, bool C, layout M, bool D>
constexpr bool operator==(const table_view<Schema, L, C>& a, const table_view<Schema, M, D>& b) {
  if (a.size() != b.size()) return false;
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (!(typename Schema::record_type(a[i]) == typename Schema::record_type(b[i]))) return false;
  }
  return true;
}

}  // namespace betatron::soa

template <class Schema, betatron::soa::layout L, bool Const>
inline constexpr bool std::ranges::enable_view<betatron::soa::table_view<Schema, L, Const>> = true;
template <class Schema, betatron::soa::layout L, bool Const>
inline constexpr bool
    std::ranges::enable_borrowed_range<betatron::soa::table_view<Schema, L, Const>> = true;
template <class T>
inline constexpr bool std::ranges::enable_borrowed_range<betatron::soa::strided_span<T>> = true;
