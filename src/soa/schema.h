// schema.h: what a table holds. Columns are named and typed at compile time:
//
//   using point = soa::schema<soa::column<"x", double>, soa::column<"id", std::uint64_t>>;
//
// and a `record` is one row of them as a value of its own.
#pragma once

#include <array>
#include <cstddef>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>

#include "soa/config.h"

namespace betatron::soa {

namespace detail {

// Nested members rather than an array: nvcc 13 repeats the template arguments of a kernel's
// parameters in host code, and what it writes for an array there does not compile.
template <std::size_t N>
struct letters {
  char first;
  letters<N - 1> others;
};
template <>
struct letters<0> {};

template <std::size_t N>
constexpr letters<N> spell(const char* text) noexcept {
  if constexpr (N == 0) {
    return {};
  } else {
    return {*text, spell<N - 1>(text + 1)};
  }
}

template <std::size_t N>
constexpr void write_letters(const letters<N>& name, char* to) noexcept {
  if constexpr (N > 0) {
    *to = name.first;
    write_letters(name.others, to + 1);
  }
}

}  // namespace detail

/// A string that can be a template argument; made from a literal, as in column<"x", double>.
template <std::size_t N>
struct fixed_string {
  detail::letters<N> letters;

  constexpr fixed_string(const detail::letters<N>& name) noexcept : letters(name) {}
  constexpr fixed_string(const char (&literal)[N + 1]) noexcept
      : letters(detail::spell<N>(literal)) {}
};

template <std::size_t M>
fixed_string(const char (&)[M]) -> fixed_string<M - 1>;

namespace detail {

template <std::size_t N>
constexpr std::array<char, N + 1> characters(const fixed_string<N>& name) noexcept {
  std::array<char, N + 1> text{};
  write_letters(name.letters, text.data());
  return text;
}

template <fixed_string Name>
inline constexpr auto text = characters(Name);

}  // namespace detail

/// The characters of a fixed_string.
template <fixed_string Name>
constexpr std::string_view name_of() noexcept {
  return {detail::text<Name>.data(), detail::text<Name>.size() - 1};
}

/// A block of memory starts on, and is counted in, cache lines; so does every column.
struct alignas(64) cache_line {
  std::byte bytes[64];
};

/// One column: a name and the type of its elements, which must be trivially copyable. (This is what
/// lets tables move columns as bytes, live on a device, and promise that only allocation can fail.)
template <fixed_string Name, class T>
struct column {
  static_assert(name_of<Name>().size() > 0, "a column needs a name");
  static_assert(std::is_same_v<T, std::remove_cvref_t<T>>, "a column's type is a plain value type");
  static_assert(std::is_trivially_copyable_v<T>, "a column's type must be trivially copyable");
  static_assert(std::is_default_constructible_v<T>, "a column's type needs a default value");
  static_assert(std::is_copy_assignable_v<T>, "a column's type must be assignable");
  static_assert(alignof(T) <= alignof(cache_line),
                "a column's type is aligned to 64 bytes at most");

  using type = T;
  static constexpr std::string_view name() noexcept { return name_of<Name>(); }
};

/// How rows lie in memory: structure of arrays (every column contiguous) or array of structures
/// (every row contiguous, as a C struct with the columns as its members in order).
enum class layout { soa, aos };

template <class... Columns>
struct record;

namespace detail {

template <class... Columns>
consteval std::size_t find_column(std::string_view name) {
  const std::array<std::string_view, sizeof...(Columns)> names{Columns::name()...};
  for (std::size_t i = 0; i < names.size(); ++i) {
    if (names[i] == name) return i;
  }
  return sizeof...(Columns);
}

template <class... Columns>
consteval bool names_are_distinct() {
  const std::array<std::string_view, sizeof...(Columns)> names{Columns::name()...};
  for (std::size_t i = 0; i < names.size(); ++i) {
    for (std::size_t j = 0; j < i; ++j) {
      if (names[i] == names[j]) return false;
    }
  }
  return true;
}

// A tuple that is trivially copyable, lies in memory like a C struct, and works in device code;
// std::tuple does none of these.
template <std::size_t I, class T>
struct leaf {
  T value{};
};

template <class Indices, class... T>
struct leaves;

template <std::size_t... I, class... T>
struct leaves<std::index_sequence<I...>, T...> : leaf<I, T>... {};

template <class... T>
using flat_tuple = leaves<std::index_sequence_for<T...>, T...>;

template <std::size_t I, class T>
BETATRON_SOA_INLINE constexpr T& leaf_value(leaf<I, T>& l) noexcept {
  return l.value;
}
template <std::size_t I, class T>
BETATRON_SOA_INLINE constexpr const T& leaf_value(const leaf<I, T>& l) noexcept {
  return l.value;
}

}  // namespace detail

/// The columns of a table, as a type. Names must be distinct.
template <class... Columns>
struct schema {
  static_assert(sizeof...(Columns) > 0, "a schema needs at least one column");
  static_assert(detail::names_are_distinct<Columns...>(), "two columns have the same name");

  using record_type = record<Columns...>;
  using indices = std::index_sequence_for<Columns...>;
  static constexpr std::size_t column_count = sizeof...(Columns);
  static constexpr std::array<std::string_view, column_count> names{Columns::name()...};

  template <std::size_t I>
  using column_type = std::tuple_element_t<I, std::tuple<typename Columns::type...>>;

  /// Position of a column; column_count if there is none of that name.
  template <fixed_string Name>
  static constexpr std::size_t index_of = detail::find_column<Columns...>(name_of<Name>());

  template <fixed_string Name>
  static constexpr bool has = index_of<Name> < column_count;

  /// Whether the default value of every column is made by the language, that is, is all zeros.
  static constexpr bool zero_by_default =
      (std::is_trivially_default_constructible_v<typename Columns::type> && ...);
};

/// One row as a value: what the iterators call value_type. Default: every field T{}.
/// Fields by name, r.get<"x">(), by position, r.get<0>(), or by structured binding.
template <class... Columns>
struct record : private detail::flat_tuple<typename Columns::type...> {
  using schema_type = schema<Columns...>;

  constexpr record() = default;
  BETATRON_SOA_INLINE constexpr explicit(sizeof...(Columns) == 1)
      record(const typename Columns::type&... values) noexcept
      : fields{{values}...} {}

  template <std::size_t I>
  BETATRON_SOA_INLINE constexpr auto& get() & noexcept {
    return detail::leaf_value<I>(static_cast<fields&>(*this));
  }
  template <std::size_t I>
  BETATRON_SOA_INLINE constexpr const auto& get() const& noexcept {
    return detail::leaf_value<I>(static_cast<const fields&>(*this));
  }
  template <std::size_t I>
  BETATRON_SOA_INLINE constexpr auto&& get() && noexcept {
    return std::move(detail::leaf_value<I>(static_cast<fields&>(*this)));
  }
  template <fixed_string Name>
    requires(schema_type::template has<Name>)
  BETATRON_SOA_INLINE constexpr auto& get() & noexcept {
    return get<schema_type::template index_of<Name>>();
  }
  template <fixed_string Name>
    requires(schema_type::template has<Name>)
  BETATRON_SOA_INLINE constexpr const auto& get() const& noexcept {
    return get<schema_type::template index_of<Name>>();
  }
  template <fixed_string Name>
    requires(schema_type::template has<Name>)
  BETATRON_SOA_INLINE constexpr auto&& get() && noexcept {
    return std::move(get<schema_type::template index_of<Name>>());
  }

  friend constexpr bool operator==(const record& a, const record& b) {
    return equal(a, b, typename schema_type::indices{});
  }

 private:
  using fields = detail::flat_tuple<typename Columns::type...>;

  template <std::size_t... I>
  static constexpr bool equal(const record& a, const record& b, std::index_sequence<I...>) {
    return ((a.template get<I>() == b.template get<I>()) && ...);
  }
};

/// Where row 0 lies: one pointer per column (soa) or one pointer to the first record (aos).
/// Everything else in this room reaches the elements through `field`.
template <class Schema, layout L, bool Const>
struct origin;

template <class... Columns, bool Const>
struct origin<schema<Columns...>, layout::soa, Const> {
  template <class T>
  using pointer_to = std::conditional_t<Const, const T*, T*>;
  using pointers = detail::flat_tuple<pointer_to<typename Columns::type>...>;
  using record_type = std::conditional_t<Const, const record<Columns...>, record<Columns...>>;
  using indices = std::index_sequence_for<Columns...>;

  pointers columns{};

  constexpr origin() = default;
  BETATRON_SOA_INLINE constexpr origin(pointer_to<typename Columns::type>... first) noexcept
      : columns{{first}...} {}
  /// A record seen as a table of one row.
  BETATRON_SOA_INLINE constexpr explicit origin(record_type& r) noexcept : origin(r, indices{}) {}

  template <std::size_t I>
  BETATRON_SOA_INLINE constexpr auto* column() const noexcept {
    return detail::leaf_value<I>(columns);
  }
  template <std::size_t I>
  BETATRON_SOA_INLINE constexpr auto& field(std::size_t row) const noexcept {
    return column<I>()[row];
  }
  template <std::size_t I>
  static constexpr std::size_t step() noexcept {
    return sizeof(typename schema<Columns...>::template column_type<I>);
  }
  BETATRON_SOA_INLINE constexpr origin shifted(std::size_t rows) const noexcept {
    return shifted(rows, indices{});
  }
  BETATRON_SOA_INLINE constexpr origin<schema<Columns...>, layout::soa, true> as_const()
      const noexcept {
    return as_const(indices{});
  }

 private:
  template <std::size_t... I>
  BETATRON_SOA_INLINE constexpr origin(record_type& r, std::index_sequence<I...>) noexcept
      : origin(&r.template get<I>()...) {}
  template <std::size_t... I>
  BETATRON_SOA_INLINE constexpr origin shifted(std::size_t rows,
                                               std::index_sequence<I...>) const noexcept {
    return {(column<I>() + rows)...};
  }
  template <std::size_t... I>
  BETATRON_SOA_INLINE constexpr origin<schema<Columns...>, layout::soa, true> as_const(
      std::index_sequence<I...>) const noexcept {
    return {column<I>()...};
  }
};

template <class... Columns, bool Const>
struct origin<schema<Columns...>, layout::aos, Const> {
  using record_type = std::conditional_t<Const, const record<Columns...>, record<Columns...>>;

  record_type* records = nullptr;

  constexpr origin() = default;
  BETATRON_SOA_INLINE constexpr origin(record_type* first) noexcept : records(first) {}
  BETATRON_SOA_INLINE constexpr explicit origin(record_type& r) noexcept : records(&r) {}

  template <std::size_t I>
  BETATRON_SOA_INLINE constexpr auto* column() const noexcept {
    using element = std::remove_reference_t<decltype(records->template get<I>())>;
    return records == nullptr ? static_cast<element*>(nullptr) : &records->template get<I>();
  }
  template <std::size_t I>
  BETATRON_SOA_INLINE constexpr auto& field(std::size_t row) const noexcept {
    return records[row].template get<I>();
  }
  template <std::size_t I>
  static constexpr std::size_t step() noexcept {
    return sizeof(record<Columns...>);
  }
  BETATRON_SOA_INLINE constexpr origin shifted(std::size_t rows) const noexcept {
    return {records + rows};
  }
  BETATRON_SOA_INLINE constexpr origin<schema<Columns...>, layout::aos, true> as_const()
      const noexcept {
    return {records};
  }
};

}  // namespace betatron::soa

template <class... Columns>
struct std::tuple_size<betatron::soa::record<Columns...>>
    : std::integral_constant<std::size_t, sizeof...(Columns)> {};

template <std::size_t I, class... Columns>
struct std::tuple_element<I, betatron::soa::record<Columns...>> {
  using type = typename betatron::soa::schema<Columns...>::template column_type<I>;
};
