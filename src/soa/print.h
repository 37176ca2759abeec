// print.h: tables, views, rows and records on a stream, for people to read.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <ostream>
#include <sstream>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "soa/table.h"

namespace betatron::soa {

namespace detail {

template <class T>
concept streamable = requires(std::ostream& os, const T& value) { os << value; };

template <class T>
void print_value(std::ostream& os, const T& value) {
  if constexpr (std::is_integral_v<T> && sizeof(T) == 1 && !std::is_same_v<T, bool>) {
    os << static_cast<int>(value);  // a number, not a character
  } else if constexpr (streamable<T>) {
    os << value;
  } else if constexpr (std::is_enum_v<T>) {
    print_value(os, static_cast<std::underlying_type_t<T>>(value));
  } else if constexpr (requires { value.begin() != value.end(); }) {
    os << '(';
    const char* separator = "";
    for (const auto& element : value) {
      os << separator;
      print_value(os, element);
      separator = ", ";
    }
    os << ')';
  } else {
    os << "...";
  }
}

// As the stream would print it, without padding.
template <class T>
std::string printed(const std::ostream& like, const T& value) {
  std::ostringstream os;
  os.copyfmt(like);
  os.exceptions(std::ios_base::goodbit);
  os.width(0);
  print_value(os, value);
  return os.str();
}

inline std::size_t width(const std::string& utf8) {
  return static_cast<std::size_t>(
      std::count_if(utf8.begin(), utf8.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

template <class Schema, class Row>
std::ostream& print_row(std::ostream& os, const Row& r) {
  [&]<std::size_t... I>(std::index_sequence<I...>) {
    ((os << (I == 0 ? "{" : ", ") << Schema::names[I] << ": " << printed(os, r.template get<I>())),
     ...);
  }(typename Schema::indices{});
  return os << '}';
}

}  // namespace detail

/// {x: 1.5, id: 3}
template <class... Columns>
std::ostream& operator<<(std::ostream& os, const record<Columns...>& r) {
  return detail::print_row<schema<Columns...>>(os, r);
}
template <class Schema, layout L, bool Const>
std::ostream& operator<<(std::ostream& os, const row<Schema, L, Const>& r) {
  return detail::print_row<Schema>(os, r);
}

/// Row numbers and columns, right-aligned under their names; of more than ten rows the first and
/// last five. Numbers are formatted as the stream is set.
template <class Schema, layout L, bool Const>
std::ostream& operator<<(std::ostream& os, const table_view<Schema, L, Const>& rows) {
  constexpr std::size_t most = 10;
  using line = std::array<std::string, Schema::column_count + 1>;
  std::vector<line> lines(1);
  for (std::size_t c = 0; c < Schema::column_count; ++c) lines[0][c + 1] = Schema::names[c];
  for (std::size_t i = 0; i < rows.size(); ++i) {
    if (rows.size() > most && i == most / 2) {
      lines.emplace_back().fill("...");
      i = rows.size() - most / 2;
    }
    line& cells = lines.emplace_back();
    cells[0] = std::to_string(i);
    [&]<std::size_t... I>(std::index_sequence<I...>) {
      ((cells[I + 1] = detail::printed(os, rows[i].template get<I>())), ...);
    }(typename Schema::indices{});
  }
  std::array<std::size_t, Schema::column_count + 1> widths{};
  for (const line& cells : lines) {
    for (std::size_t c = 0; c < cells.size(); ++c)
      widths[c] = std::max(widths[c], detail::width(cells[c]));
  }
  std::string text;
  for (const line& cells : lines) {
    for (std::size_t c = 0; c < cells.size(); ++c) {
      text.append((c == 0 ? 0 : 2) + widths[c] - detail::width(cells[c]), ' ') += cells[c];
    }
    text += '\n';
  }
  text += '(' + std::to_string(rows.size()) + (rows.size() == 1 ? " row)" : " rows)");
  return os << text;
}

template <class Schema, layout L, class Allocator>
  requires requires(const basic_table<Schema, L, Allocator>& t) { t.begin(); }
std::ostream& operator<<(std::ostream& os, const basic_table<Schema, L, Allocator>& t) {
  return os << t.view();
}

}  // namespace betatron::soa
