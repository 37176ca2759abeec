// What people see.
#include <doctest/doctest.h>
#include <array>
#include <cstdint>
#include <iomanip>
#include <sstream>
#include <string>

#include "soa/soa.h"

namespace soa = betatron::soa;

namespace {

using points = soa::table<soa::column<"x", double>, soa::column<"id", std::uint64_t>>;

template <class T>
std::string printed(const T& value) {
  std::ostringstream os;
  os << value;
  return os.str();
}

}  // namespace

TEST_CASE_TEMPLATE("short tables are printed in full", table, points,
                   points::with_layout<soa::layout::aos>) {
  const table t{{0.5, 7u}, {-12.25, 12345u}};
  CHECK(printed(t) ==
        "        x     id\n"
        "0     0.5      7\n"
        "1  -12.25  12345\n"
        "(2 rows)");
  CHECK(printed(t[1]) == "{x: -12.25, id: 12345}");
  CHECK(printed(typename table::value_type(t[0])) == "{x: 0.5, id: 7}");
  CHECK(printed(t.subview(1, 1)) ==
        "        x     id\n"
        "0  -12.25  12345\n"
        "(1 row)");
  CHECK(printed(table()) ==
        "  x  id\n"
        "(0 rows)");
}

TEST_CASE("the middle of long tables is left out") {
  points t(1000);
  for (std::size_t i = 0; i < t.size(); ++i) t[i].get<"id">() = i;
  CHECK(printed(t) ==
        "       x   id\n"
        "  0    0    0\n"
        "  1    0    1\n"
        "  2    0    2\n"
        "  3    0    3\n"
        "  4    0    4\n"
        "...  ...  ...\n"
        "995    0  995\n"
        "996    0  996\n"
        "997    0  997\n"
        "998    0  998\n"
        "999    0  999\n"
        "(1000 rows)");
  t.resize(10);
  CHECK(printed(t).find("...") == std::string::npos);
  t.resize(11);
  CHECK(printed(t).find("...") != std::string::npos);
}

TEST_CASE("elements follow the stream's format and their type") {
  struct opaque {
    int hidden = 0;
  };
  enum class color : std::uint8_t { red = 3 };
  using mixed =
      soa::table<soa::column<"byte", std::uint8_t>, soa::column<"v", std::array<double, 2>>,
                 soa::column<"c", color>, soa::column<"o", opaque>>;
  const mixed t{{std::uint8_t{65}, {1.0, 2.5}, color::red, opaque{}}};
  CHECK(printed(t[0]) == "{byte: 65, v: (1, 2.5), c: 3, o: ...}");

  std::ostringstream os;
  os << std::scientific << std::setprecision(2) << points{{0.5, 1u}}[0];
  CHECK(os.str() == "{x: 5.00e-01, id: 1}");
}
