// Elements by name: descriptions, getting and setting every parameter, and what is refused with which words.
#include "lattice/element.h"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <set>
#include <stdexcept>

namespace {

using namespace betatron::lattice;

template <class Exception, class F>
std::string message(F&& f) {
  try {
    f();
  } catch (const Exception& e) {
    return e.what();
  }
  return "";
}

std::string refused(element& e, std::string_view parameter, const value& v) {
  return message<std::invalid_argument>([&] { set(e, parameter, v); });
}

std::vector<parameter_info> all_parameters(const kind_info& kind) {
  std::vector<parameter_info> r = kind.parameters;
  r.insert(r.end(), common_parameters().begin(), common_parameters().end());
  return r;
}

/// A value that is allowed and not the default.
value another(const parameter_info& p) {
  if (std::holds_alternative<bool>(p.default_value)) return !std::get<bool>(p.default_value);
  if (std::holds_alternative<std::string>(p.default_value)) {
    return p.choices.empty() ? value(std::string("something")) : value(p.choices.back());
  }
  if (std::holds_alternative<double>(p.default_value)) {
    return p.is_integer ? 4.0 : std::fmin(0.75, p.maximum);
  }
  return p.name == "matrix" ? value(std::vector<double>(36, 0.5))
                            : value(std::vector<double>{1, 2});
}

}  // namespace

TEST_CASE("every kind is described in full") {
  std::set<std::string> names;
  CHECK(kinds().size() == std::variant_size_v<betatron::elements::kind>);
  for (const kind_info& kind : kinds()) {
    CAPTURE(kind.name);
    CHECK(names.insert(kind.name).second);
    CHECK(kind.doc.size() > 20);
    CHECK(kind.doc.back() == '.');
    CHECK(&find_kind(kind.name) == &kind);
    std::set<std::string> own;
    for (const parameter_info& p : all_parameters(kind)) {
      CAPTURE(p.name);
      CHECK(own.insert(p.name).second);  // no own parameter hides a common one
      CHECK(!p.doc.empty());
      CHECK(p.minimum <= p.maximum);
    }
  }
  CHECK(message<std::out_of_range>([] {
          find_kind("Quadrupol");
        }).find("there is no element kind 'Quadrupol'; known kinds: Drift, Quadrupole, Bend,") ==
        0);
  CHECK_THROWS_AS(make_element(""), std::out_of_range);
}

TEST_CASE("every parameter of every kind is read as it was written") {
  for (const kind_info& kind : kinds()) {
    element e = make_element(kind.name);
    CHECK(kind_of(e) == kind.name);
    for (const parameter_info& p : all_parameters(kind)) {
      CAPTURE(kind.name);
      CAPTURE(p.name);
      const bool has_default_model = p.name != "model";
      if (has_default_model) CHECK(get(e, p.name) == p.default_value);
      const value v = another(p);
      set(e, p.name, v);
      CHECK(get(e, p.name) == v);
    }
    CHECK(describe(e) == kind.name + " 'something'");
    for (const parameter_info& p : all_parameters(kind)) CHECK(get(e, p.name) == another(p));
  }
}

TEST_CASE("values of the wrong type, not finite or out of range are refused for every parameter") {
  const double infinity = std::numeric_limits<double>::infinity();
  for (const kind_info& kind : kinds()) {
    element e = make_element(kind.name);
    for (const parameter_info& p : all_parameters(kind)) {
      CAPTURE(kind.name);
      CAPTURE(p.name);
      const value before = get(e, p.name);
      const std::string where = kind.name + ": " + p.name;
      const bool is_text = std::holds_alternative<std::string>(p.default_value);
      const std::string type = refused(e, p.name, is_text ? value(1.0) : value(std::string("1")));
      CHECK(type.find(where + " must be a") == 0);
      CHECK(type.find(is_text ? "got a number" : "got a string") != std::string::npos);
      if (std::holds_alternative<double>(p.default_value)) {
        for (double bad : {infinity, -infinity, std::nan("")}) {
          CHECK(refused(e, p.name, bad).find(where + " = ") == 0);
          CHECK(refused(e, p.name, bad).find("is not finite; allowed: ") != std::string::npos);
        }
        if (std::isfinite(p.minimum)) {
          const double low = p.open_below ? p.minimum : p.minimum - 1e-3;
          CHECK(refused(e, p.name, low).find("is not allowed; allowed: ") != std::string::npos);
        }
        if (std::isfinite(p.maximum)) {
          CHECK(refused(e, p.name, p.maximum * 1.001).find("<= ") != std::string::npos);
        }
      }
      if (!p.choices.empty()) {
        const std::string text = refused(e, p.name, std::string("round"));
        CHECK(text.find(where + " = 'round' is not known; allowed: " + p.choices[0] + ", ") == 0);
      }
      if (std::holds_alternative<std::vector<double>>(p.default_value)) {
        CHECK(refused(e, p.name, std::vector<double>{0, std::nan("")})
                  .find(where + "[1] = nan is not finite") == 0);
      }
      CHECK(get(e, p.name) == before);  // a refused value leaves no trace
    }
  }
}

TEST_CASE("messages name element, value, unit and range") {
  element s = make_element("Sextupole");
  set(s, "name", std::string("sf1"));
  CHECK(refused(s, "length", -0.25) ==
        "Sextupole 'sf1': length = -0.25 m is not allowed; allowed: > 0");
  CHECK(refused(s, "length", 0.0) == "Sextupole 'sf1': length = 0 m is not allowed; allowed: > 0");
  CHECK(refused(s, "slices", 0.0) ==
        "Sextupole 'sf1': slices = 0 is not allowed; allowed: >= 1 and <= 1000000");
  CHECK(refused(s, "slices", 2.5) == "Sextupole 'sf1': slices = 2.5 must be a whole number");
  CHECK(refused(s, "order", 3.0) == "Sextupole 'sf1': order = 3 is not allowed; allowed: 2, 4, 6");
  CHECK(refused(s, "k2", true) == "Sextupole 'sf1': k2 must be a number, got a bool");
  CHECK(refused(s, "k2", std::nan("")) ==
        "Sextupole 'sf1': k2 = nan is not finite; allowed: any finite number");
  CHECK(refused(s, "model", std::string("thin")) ==
        "Sextupole 'sf1': model = 'thin' is not known; allowed: linear, paraxial, exact");
  CHECK(
      message<std::out_of_range>([&] { set(s, "k1", 1.0); }) ==
      "Sextupole 'sf1' has no parameter 'k1'; it has: length, k2, k2s, name, model, slices, order, steps, dx, dy, "
      "dz, pitch, yaw, roll, pivot, aperture_x, aperture_y, aperture_shape");
  CHECK_THROWS_AS(get(s, "k1"), std::out_of_range);

  element b = make_element("Bend");
  CHECK(refused(b, "e1", 1.6) == "Bend: e1 = 1.6 rad is not allowed; allowed: >= -1.5 and <= 1.5");
  element m = make_element("Multipole");
  CHECK(refused(m, "knl", std::vector<double>(22, 0.0)) ==
        "Multipole: knl has 22 entries; allowed: at most 21");
  set(m, "knl", std::vector<double>(21, 1.0));
  element l = make_element("LinearMap");
  CHECK(refused(l, "matrix", std::vector<double>(35, 0.0)) ==
        "LinearMap: matrix has 35 entries; allowed: 36 (6 x 6, row by row)");
}

TEST_CASE("what involves several parameters is checked before tracking") {
  element b = make_element("Bend");
  validate(b);
  set(b, "angle", 0.1);
  CHECK(message<std::invalid_argument>([&] { validate(b); }) ==
        "Bend: angle = 0.1 rad needs a length that is not 0");
  set(b, "length", -1.0);
  validate(b);
  CHECK(length(b) == -1);
  CHECK_THROWS_AS(validate(make_element("LinearMap")), std::invalid_argument);
  CHECK(length(make_element("Marker")) == 0);
  CHECK(length(make_element("Aperture")) == 0);
}
