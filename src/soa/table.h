// table.h: the container. All columns lie in one block of memory:
//
//   - every column starts on a cache line (64 bytes), and its last line belongs to it alone:
//     whole-vector loads and stores may run over the last row up to the next multiple of 64 bytes;
//   - columns are spread evenly over the 4096 bytes of a page. A load whose address equals that of
//     a recent store in its last 12 bits waits for that store (4K aliasing: Intel 64 and IA-32
//     Architectures Optimization Reference Manual), which columns of a power-of-two length would
//     make happen on every row;
//   - neighbouring columns of one type are the same distance apart, so that they form a matrix.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "soa/memory.h"
#include "soa/view.h"

namespace betatron::soa {

namespace detail {

// Where the arrays of a block lie: one per column (soa), or a single one of records (aos).
template <class Schema, layout L>
struct block_plan;

template <class... Columns>
struct block_plan<schema<Columns...>, layout::soa> {
  static constexpr std::size_t count = sizeof...(Columns);
  static constexpr std::size_t page = 4096;
  static constexpr std::size_t spread =
      std::max(sizeof(cache_line), page / count / sizeof(cache_line) * sizeof(cache_line));
  static constexpr std::array<std::size_t, count> sizes{sizeof(typename Columns::type)...};

  static constexpr std::size_t max_rows() noexcept {
    std::size_t row = 0;
    for (std::size_t size : sizes) row += size;
    return (std::numeric_limits<std::ptrdiff_t>::max() - count * 2 * page) / row;
  }

  // Byte offset of every column, and of the end.
  static constexpr std::array<std::size_t, count + 1> offsets(std::size_t capacity) noexcept {
    std::array<std::size_t, count + 1> at{};
    for (std::size_t k = 0; k < count; ++k) {
      const std::size_t bytes = capacity * sizes[k] + sizeof(cache_line) - 1;
      const std::size_t end = at[k] + bytes / sizeof(cache_line) * sizeof(cache_line);
      const bool last = k + 1 == count;
      at[k + 1] = last ? end : end + ((k + 1) * spread - end) % page;
    }
    return at;
  }

  static constexpr std::size_t bytes(std::size_t capacity) noexcept {
    return offsets(capacity)[count];
  }

  static origin<schema<Columns...>, layout::soa, false> place(std::byte* block,
                                                              std::size_t capacity) {
    return place(block, offsets(capacity), std::index_sequence_for<Columns...>{});
  }

 private:
  template <std::size_t... I>
  static origin<schema<Columns...>, layout::soa, false> place(
      std::byte* block, const std::array<std::size_t, count + 1>& at, std::index_sequence<I...>) {
    return {reinterpret_cast<typename Columns::type*>(block + at[I])...};
  }
};

template <class... Columns>
struct block_plan<schema<Columns...>, layout::aos> {
  using record_type = record<Columns...>;

  static constexpr std::size_t max_rows() noexcept {
    return std::numeric_limits<std::ptrdiff_t>::max() / sizeof(record_type) - sizeof(cache_line);
  }
  static constexpr std::size_t bytes(std::size_t capacity) noexcept {
    return (capacity * sizeof(record_type) + sizeof(cache_line) - 1) / sizeof(cache_line) *
           sizeof(cache_line);
  }
  static origin<schema<Columns...>, layout::aos, false> place(std::byte* block, std::size_t) {
    return {reinterpret_cast<record_type*>(block)};
  }
};

// Calls f(array...) for every contiguous array of a table: each column, or the array of records;
// given several origins, with the array of each.
template <class Schema, layout L, bool... Const, class F>
void for_each_array(F&& f, const origin<Schema, L, Const>&... of) {
  if constexpr (L == layout::soa) {
    [&]<std::size_t... I>(std::index_sequence<I...>) {
      const auto one = [&]<std::size_t K>(std::integral_constant<std::size_t, K>) {
        f(of.template column<K>()...);
      };
      (one(std::integral_constant<std::size_t, I>{}), ...);
    }(typename Schema::indices{});
  } else {
    f(of.records...);
  }
}

}  // namespace detail

/// The table: owns its rows. `Allocator` is any standard allocator, rebound.
///
/// References, views and iterators stay valid until the table reallocates (grows beyond its
/// capacity, shrink_to_fit) or is destroyed or assigned to; erasing invalidates those at and after
/// the first row erased. A move keeps them, referring to the new owner's rows.
///
/// Every operation either completes or throws and leaves the rows as they were. What can throw is
/// allocation (std::bad_alloc, std::length_error), a checked index, and what the user brings: a
/// predicate, an element's default constructor.
///
/// On memory that the host cannot touch there are construction, resize, reserve, copies, views and
/// tensors.
template <class Schema, layout L = layout::soa, class Allocator = host_allocator>
class basic_table {
  using plan = detail::block_plan<Schema, L>;
  using line_allocator =
      typename std::allocator_traits<Allocator>::template rebind_alloc<cache_line>;
  using allocator_traits = std::allocator_traits<line_allocator>;
  using memory = typename detail::memory_of<line_allocator>::type;
  static constexpr bool on_host = memory::host_accessible;

 public:
  using schema_type = Schema;
  using allocator_type = Allocator;
  using value_type = typename Schema::record_type;
  using view_type = table_view<Schema, L, false>;
  using const_view_type = table_view<Schema, L, true>;
  using reference = typename view_type::reference;
  using const_reference = typename const_view_type::reference;
  using iterator = typename view_type::iterator;
  using const_iterator = typename const_view_type::iterator;
  using size_type = std::size_t;
  using difference_type = std::ptrdiff_t;

  /// The same columns, laid out or allocated another way.
  template <layout M>
  using with_layout = basic_table<Schema, M, Allocator>;
  template <class A>
  using with_allocator = basic_table<Schema, L, A>;

  basic_table() : basic_table(Allocator()) {}
  explicit basic_table(const Allocator& allocator) noexcept : allocator_(allocator) {}
  /// n rows of default values (zeros, for numbers).
  explicit basic_table(std::size_t n, const Allocator& allocator = Allocator())
      : basic_table(allocator) {
    resize(n);
  }
  basic_table(std::initializer_list<value_type> rows, const Allocator& allocator = Allocator())
    requires on_host
      : basic_table(allocator) {
    reserve(rows.size());
    for (const value_type& r : rows) push_back(r);
  }
  /// The rows of a view, which may be of the other layout.
  template <layout M, bool Const>
    requires on_host
  explicit basic_table(table_view<Schema, M, Const> rows, const Allocator& allocator = Allocator())
      : basic_table(allocator) {
    append(rows);
  }
  /// The rows of a table in other memory: host to device and back.
  template <class Other>
    requires(!std::is_same_v<Other, Allocator>)
  explicit basic_table(const basic_table<Schema, L, Other>& other,
                       const Allocator& allocator = Allocator())
      : basic_table(allocator) {
    relocate(other.size());
    using other_memory = typename basic_table<Schema, L, Other>::memory;
    copy_rows<std::conditional_t<on_host, other_memory, memory>>(block_.first, 0,
                                                                 other.block_.first, other.size());
    size_ = other.size();
  }

  basic_table(const basic_table& other)
      : basic_table(
            other,
            Allocator(allocator_traits::select_on_container_copy_construction(other.allocator_))) {}
  basic_table(const basic_table& other, const Allocator& allocator) : basic_table(allocator) {
    relocate(other.size_);
    copy_rows<memory>(block_.first, 0, other.block_.first, other.size_);
    size_ = other.size_;
  }
  /// The moved-from table is empty.
  basic_table(basic_table&& other) noexcept
      : allocator_(std::move(other.allocator_)),
        block_(std::exchange(other.block_, {})),
        size_(std::exchange(other.size_, 0)) {}

  basic_table& operator=(const basic_table& other) {
    if (this == &other) return *this;
    constexpr bool propagate = allocator_traits::propagate_on_container_copy_assignment::value;
    basic_table copy(other, Allocator(propagate ? other.allocator_ : allocator_));
    take<propagate>(copy);
    return *this;
  }
  /// Copies only if the allocators differ and do not move along; then this can throw, and leaves
  /// `other` as it was.
  basic_table& operator=(basic_table&& other) noexcept(
      allocator_traits::propagate_on_container_move_assignment::value ||
      allocator_traits::is_always_equal::value) {
    if (this == &other) return *this;
    constexpr bool propagate = allocator_traits::propagate_on_container_move_assignment::value;
    if (propagate || allocator_ == other.allocator_) {
      take<propagate>(other);
    } else {
      basic_table copy(other, Allocator(allocator_));
      take<false>(copy);
    }
    return *this;
  }
  ~basic_table() { release(); }

  /// As for standard containers: allocators must be equal unless they are swapped along.
  friend void swap(basic_table& a, basic_table& b) noexcept {
    using std::swap;
    if constexpr (allocator_traits::propagate_on_container_swap::value)
      swap(a.allocator_, b.allocator_);
    swap(a.block_, b.block_);
    swap(a.size_, b.size_);
  }

  Allocator get_allocator() const noexcept { return Allocator(allocator_); }
  /// The device that the memory is on.
  soa::device where() const { return detail::where(allocator_); }

  // Reading and writing
  // ------------------------------------------------------------------------------

  std::size_t size() const noexcept { return size_; }
  bool empty() const noexcept { return size_ == 0; }
  std::size_t capacity() const noexcept { return block_.capacity; }
  static constexpr std::size_t max_size() noexcept { return plan::max_rows(); }

  // shifted(0) copies member by member. Of a struct copied as a whole Clang 14 forgets the types,
  // and would read the pointers anew after every store in a loop over t[i].
  BETATRON_SOA_INLINE view_type view() noexcept { return {block_.first.shifted(0), size_}; }
  BETATRON_SOA_INLINE const_view_type view() const noexcept {
    return {block_.first.as_const(), size_};
  }
  view_type subview(std::size_t first, std::size_t count) { return view().subview(first, count); }
  const_view_type subview(std::size_t first, std::size_t count) const {
    return view().subview(first, count);
  }

  /// A column, by name or position: std::span (soa) or strided_span (aos).
  template <std::size_t I>
  auto get() noexcept {
    return view().template get<I>();
  }
  template <std::size_t I>
  auto get() const noexcept {
    return view().template get<I>();
  }
  template <fixed_string Name>
    requires(Schema::template has<Name>)
  auto get() noexcept {
    return view().template get<Name>();
  }
  template <fixed_string Name>
    requires(Schema::template has<Name>)
  auto get() const noexcept {
    return view().template get<Name>();
  }

  /// Pointer to the first element of a column; soa only.
  template <fixed_string Name>
    requires(L == layout::soa && Schema::template has<Name>)
  auto* data() noexcept {
    return view().template data<Name>();
  }
  template <fixed_string Name>
    requires(L == layout::soa && Schema::template has<Name>)
  auto* data() const noexcept {
    return view().template data<Name>();
  }
  template <std::size_t I>
    requires(L == layout::soa)
  auto* data() noexcept {
    return view().template data<I>();
  }
  template <std::size_t I>
    requires(L == layout::soa)
  auto* data() const noexcept {
    return view().template data<I>();
  }

  BETATRON_SOA_INLINE reference operator[](std::size_t i) noexcept
    requires on_host
  {
    return view()[i];
  }
  BETATRON_SOA_INLINE const_reference operator[](std::size_t i) const noexcept
    requires on_host
  {
    return view()[i];
  }
  /// Row i; throws std::out_of_range naming i and the size.
  reference at(std::size_t i)
    requires on_host
  {
    return view().at(i);
  }
  const_reference at(std::size_t i) const
    requires on_host
  {
    return view().at(i);
  }
  reference front() noexcept
    requires on_host
  {
    return view().front();
  }
  const_reference front() const noexcept
    requires on_host
  {
    return view().front();
  }
  reference back() noexcept
    requires on_host
  {
    return view().back();
  }
  const_reference back() const noexcept
    requires on_host
  {
    return view().back();
  }

  iterator begin() noexcept
    requires on_host
  {
    return view().begin();
  }
  iterator end() noexcept
    requires on_host
  {
    return view().end();
  }
  const_iterator begin() const noexcept
    requires on_host
  {
    return view().begin();
  }
  const_iterator end() const noexcept
    requires on_host
  {
    return view().end();
  }
  const_iterator cbegin() const noexcept
    requires on_host
  {
    return view().begin();
  }
  const_iterator cend() const noexcept
    requires on_host
  {
    return view().end();
  }

  /// Tensors over one column, or over columns First to Last; see table_view.
  template <fixed_string Name>
  tensor_view tensor() {
    return view().template tensor<Name>(where());
  }
  template <fixed_string Name>
  tensor_view tensor() const {
    return view().template tensor<Name>(where());
  }
  template <fixed_string First, fixed_string Last>
  tensor_view tensor_block() {
    return view().template tensor_block<First, Last>(where());
  }
  template <fixed_string First, fixed_string Last>
  tensor_view tensor_block() const {
    return view().template tensor_block<First, Last>(where());
  }

  // Growing and shrinking
  // ----------------------------------------------------------------------------

  /// Room for n rows without reallocation.
  void reserve(std::size_t n) {
    if (n > capacity()) relocate(n);
  }
  void shrink_to_fit() {
    if (size_ < capacity()) relocate(size_);
  }
  /// New rows have default values.
  void resize(std::size_t n) {
    if (n > size_) {
      if (n > capacity()) relocate(grown(n));
      construct(n - size_);
    }
    size_ = n;
  }
  void clear() noexcept { size_ = 0; }

  /// The row is taken by value, so it may come from this table.
  void push_back(value_type r)
    requires on_host
  {
    if (size_ == capacity()) relocate(grown(size_ + 1));
    construct(1);
    ++size_;
    back() = r;
  }
  /// As push_back, from one value for each column.
  template <class... Values>
    requires(on_host && std::is_constructible_v<value_type, Values...>)
  reference emplace_back(Values&&... values) {
    push_back(value_type(std::forward<Values>(values)...));
    return back();
  }
  void pop_back() noexcept { --size_; }

  /// Copies of other rows at the end; they may be this table's own.
  template <layout M, bool Const>
    requires on_host
  void append(table_view<Schema, M, Const> rows) {
    const std::size_t n = rows.size();
    if (n > max_size() - size_) throw_too_long(size_, n);
    if (size_ + n <= capacity()) {
      write_rows(rows);
      size_ += n;
      return;
    }
    basic_table longer{Allocator(allocator_)};
    longer.block_ = longer.allocate(grown(size_ + n));
    copy_rows<memory>(longer.block_.first, 0, block_.first, size_);
    longer.size_ = size_;
    longer.write_rows(rows);
    longer.size_ += n;
    take<false>(longer);
  }

  // Erasing: all keep the order of the rows that stay
  // -----------------------------------------------

  /// Erases rows [first, first + count); throws std::out_of_range if there are not as many.
  void erase(std::size_t first, std::size_t count = 1)
    requires on_host
  {
    detail::check_rows("erase", first, count, size_);
    const std::size_t behind = first + count;
    detail::for_each_array([&](auto* array) { move_down(array, first, behind, size_ - behind); },
                           block_.first);
    size_ -= count;
  }

  /// Erases rows by number, strictly increasing. Throws std::out_of_range if one is not a row,
  /// std::invalid_argument if they are not increasing.
  void erase_indices(std::span<const std::size_t> rows)
    requires on_host
  {
    for (std::size_t k = 0; k < rows.size(); ++k) {
      detail::check_rows("erase_indices", rows[k], 1, size_);
      if (k > 0 && rows[k] <= rows[k - 1]) {
        throw std::invalid_argument("soa::erase_indices: row " + std::to_string(rows[k]) +
                                    " after row " + std::to_string(rows[k - 1]) +
                                    "; row numbers must be strictly increasing");
      }
    }
    if (rows.empty()) return;
    detail::for_each_array(
        [&](auto* array) {
          std::size_t to = rows[0];
          for (std::size_t k = 0; k < rows.size(); ++k) {
            const std::size_t from = rows[k] + 1;
            const std::size_t kept = (k + 1 < rows.size() ? rows[k + 1] : size_) - from;
            move_down(array, to, from, kept);
            to += kept;
          }
        },
        block_.first);
    size_ -= rows.size();
  }

  /// Erases the rows for which predicate(const_reference) is true, and returns how many. All rows
  /// are judged, in order, before any is erased.
  template <class Predicate>
    requires on_host
  std::size_t erase_if(Predicate&& predicate) {
    std::vector<std::size_t> rows;
    const const_view_type all = std::as_const(*this).view();
    for (std::size_t i = 0; i < size_; ++i) {
      if (predicate(all[i])) rows.push_back(i);
    }
    erase_indices(rows);
    return rows.size();
  }

  friend bool operator==(const basic_table& a, const basic_table& b)
    requires on_host
  {
    return a.view() == b.view();
  }

 private:
  template <class S, layout M, class A>
  friend class basic_table;

  struct block {
    typename allocator_traits::pointer lines{};
    std::size_t line_count = 0;
    std::size_t capacity = 0;
    origin<Schema, L, false> first{};
  };

  [[noreturn]] static void throw_too_long(std::size_t rows, std::size_t more) {
    throw std::length_error("soa::table: " + std::to_string(rows) + " + " + std::to_string(more) +
                            " rows; a table of these columns holds at most " +
                            std::to_string(max_size()));
  }

  block allocate(std::size_t capacity) {
    if (capacity > max_size()) throw_too_long(0, capacity);
    block b;
    if (capacity == 0) return b;
    b.line_count = plan::bytes(capacity) / sizeof(cache_line);
    b.lines = allocator_traits::allocate(allocator_, b.line_count);
    b.capacity = capacity;
    b.first = plan::place(reinterpret_cast<std::byte*>(std::to_address(b.lines)), capacity);
    return b;
  }

  void release() noexcept {
    if (block_.line_count > 0)
      allocator_traits::deallocate(allocator_, block_.lines, block_.line_count);
    block_ = {};
    size_ = 0;
  }

  // Takes over the rows of `other`, whose allocator is ours or comes along.
  template <bool WithAllocator>
  void take(basic_table& other) noexcept {
    release();
    if constexpr (WithAllocator) allocator_ = std::move(other.allocator_);
    block_ = std::exchange(other.block_, {});
    size_ = std::exchange(other.size_, 0);
  }

  // Capacity for at least n rows, growing geometrically.
  std::size_t grown(std::size_t n) const {
    if (n > max_size()) throw_too_long(size_, n - size_);
    const std::size_t once_and_a_half = std::min(max_size(), capacity() + capacity() / 2);
    return std::max({n, once_and_a_half, std::min<std::size_t>(8, max_size())});
  }

  void relocate(std::size_t capacity) {
    basic_table moved{Allocator(allocator_)};
    moved.block_ = moved.allocate(capacity);
    moved.size_ = size_;
    copy_rows<memory>(moved.block_.first, 0, block_.first, size_);
    take<false>(moved);
  }

  // Default values in the `count` rows behind the last.
  void construct(std::size_t count) {
    detail::for_each_array(
        [&](auto* array) {
          using element = std::remove_pointer_t<decltype(array)>;
          if constexpr (on_host) {
            std::uninitialized_value_construct_n(array + size_, count);
          } else {
            static_assert(Schema::zero_by_default, "on a device, default values can only be zeros");
            memory::clear(array + size_, count * sizeof(element));
          }
        },
        block_.first);
  }

  // Rows of one layout as bytes, to row `at` of `to` and on.
  template <class By, bool Const>
  static void copy_rows(const origin<Schema, L, false>& to, std::size_t at,
                        const origin<Schema, L, Const>& from, std::size_t count) {
    detail::for_each_array(
        [&](auto* target, const auto* source) {
          if (count > 0) By::copy(target + at, source, count * sizeof(*source));
        },
        to, from);
  }

  // Rows of either layout into the capacity behind the last row.
  template <layout M, bool Const>
  void write_rows(table_view<Schema, M, Const> rows) {
    if constexpr (M == L) {
      copy_rows<memory>(block_.first, size_, rows.first_row(), rows.size());
    } else {
      construct(rows.size());
      for (std::size_t i = 0; i < rows.size(); ++i) reference(block_.first, size_ + i) = rows[i];
    }
  }

  // memmove; runs of a few rows, as scattered losses leave them, without the call.
  template <class T>
  static void move_down(T* array, std::size_t to, std::size_t from, std::size_t count) noexcept {
    if (count < 16) {
      for (std::size_t i = 0; i < count; ++i) array[to + i] = array[from + i];
    } else {
      std::memmove(static_cast<void*>(array + to), static_cast<const void*>(array + from),
                   count * sizeof(T));
    }
  }

  [[no_unique_address]] line_allocator allocator_;
  block block_;
  std::size_t size_ = 0;
};

/// Structure of arrays in host memory: table<column<"x", double>, column<"id", std::uint64_t>>.
/// Other layouts and memory: basic_table, or table<...>::with_layout<layout::aos> and
/// with_allocator<A>.
template <class... Columns>
using table = basic_table<schema<Columns...>>;

}  // namespace betatron::soa
