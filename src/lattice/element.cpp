#include "lattice/element.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <cmath>
#include <sstream>
#include <stdexcept>

namespace betatron::lattice {

namespace {

using elements::model;

constexpr std::array<std::string_view, 3> model_names = {"linear", "paraxial", "exact"};

std::vector<std::string> split_words(std::string_view text) {
  std::vector<std::string> words;
  while (!text.empty()) {
    const std::size_t bar = text.find('|');
    words.emplace_back(text.substr(0, bar));
    if (bar == std::string_view::npos) break;
    text.remove_prefix(bar + 1);
  }
  return words;
}

std::string join(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& w : words) {
    if (!text.empty()) text += ", ";
    text += w;
  }
  return text;
}

std::string number(double v) {
  std::ostringstream out;
  out.precision(12);
  out << v;
  return out.str();
}

std::string range_text(const parameter_info& p) {
  std::string text;
  if (std::isfinite(p.minimum)) text = (p.open_below ? "> " : ">= ") + number(p.minimum);
  if (std::isfinite(p.maximum)) text += (text.empty() ? "<= " : " and <= ") + number(p.maximum);
  if (text.empty()) text = "any finite number";
  return text;
}

const char* type_name(const value& v) {
  switch (v.index()) {
    case 0:
      return "a number";
    case 1:
      return "a bool";
    case 2:
      return "a string";
    default:
      return "a list of numbers";
  }
}

template <class Kind, class Value>
parameter_info describe_parameter(const elements::parameter<Kind, Value>& p) {
  const Kind defaults{};
  return {
      std::string(p.name), std::string(p.unit),   std::string(p.doc),   value(defaults.*(p.member)),
      p.allowed.minimum,   p.allowed.maximum,     p.allowed.open_below, false,
      p.is_required,       split_words(p.choices)};
}

template <class Kind>
kind_info describe_kind() {
  kind_info info{std::string(Kind::kind), std::string(Kind::doc), {}};
  std::apply([&](const auto&... p) { (info.parameters.push_back(describe_parameter(p)), ...); },
             Kind::parameters);
  return info;
}

template <std::size_t... I>
std::vector<kind_info> describe_kinds(std::index_sequence<I...>) {
  return {describe_kind<std::variant_alternative_t<I, elements::kind>>()...};
}

parameter_info integer_parameter(const char* name, const char* doc, double default_value,
                                 double maximum) {
  return {name, "", doc, value(default_value), 1, maximum, false, true, false, {}};
}

parameter_info number_parameter(const char* name, const char* unit, const char* doc) {
  const elements::range any{};
  return {name, unit, doc, value(0.0), any.minimum, any.maximum, false, false, false, {}};
}

parameter_info tilt_parameter(const char* name, const char* doc) {
  return {name, "rad", doc, value(0.0), -1.5, 1.5, false, false, false, {}};
}

parameter_info size_parameter(const char* name, const char* doc) {
  const elements::range allowed = elements::range::not_negative;
  return {name, "m", doc, value(0.0), allowed.minimum, allowed.maximum, false, false, false, {}};
}

/// Throws unless v is of the type of the default and inside the allowed range.
void check_value(const element& e, const parameter_info& p, const value& v) {
  const std::string where = describe(e) + ": " + p.name;
  if (v.index() != p.default_value.index()) {
    throw std::invalid_argument(where + " must be " + type_name(p.default_value) + ", got " +
                                type_name(v));
  }
  auto check_number = [&](double x, const std::string& text) {
    if (!std::isfinite(x)) {
      throw std::invalid_argument(text + " = " + number(x) +
                                  " is not finite; allowed: " + range_text(p));
    }
    const bool low = p.open_below ? x <= p.minimum : x < p.minimum;
    if (low || x > p.maximum) {
      throw std::invalid_argument(text + " = " + number(x) + (p.unit.empty() ? "" : " " + p.unit) +
                                  " is not allowed; allowed: " + range_text(p));
    }
    if (p.is_integer && x != std::floor(x)) {
      throw std::invalid_argument(text + " = " + number(x) + " must be a whole number");
    }
  };
  if (const double* x = std::get_if<double>(&v)) check_number(*x, where);
  if (const auto* list = std::get_if<std::vector<double>>(&v)) {
    for (std::size_t i = 0; i < list->size(); ++i) {
      check_number((*list)[i], where + "[" + std::to_string(i) + "]");
    }
  }
  if (const auto* word = std::get_if<std::string>(&v); word && !p.choices.empty()) {
    if (std::find(p.choices.begin(), p.choices.end(), *word) == p.choices.end()) {
      throw std::invalid_argument(where + " = '" + *word +
                                  "' is not known; allowed: " + join(p.choices));
    }
  }
}

/// Whether one of two names is how the other begins, in small or capital letters: K1 and k1, l and length.
bool begin_alike(std::string_view a, std::string_view b) {
  auto same = [](char c, char d) {
    return std::tolower(static_cast<unsigned char>(c)) ==
           std::tolower(static_cast<unsigned char>(d));
  };
  const std::size_t n = std::min(a.size(), b.size());
  return n > 0 &&
         std::equal(a.begin(), a.begin() + static_cast<std::ptrdiff_t>(n), b.begin(), same);
}

[[noreturn]] void unknown_parameter(const element& e, std::string_view name) {
  std::vector<std::string> known, close;
  for (const parameter_info& p : find_kind(kind_of(e)).parameters) known.push_back(p.name);
  for (const std::string& own : known) {
    if (begin_alike(own, name)) close.push_back(own);
  }
  for (const parameter_info& p : common_parameters()) known.push_back(p.name);
  throw std::out_of_range(describe(e) + " has no parameter '" + std::string(name) + "'" +
                          (close.empty() ? "" : " (did you mean " + join(close) + "?)") +
                          "; it has: " + join(known));
}

const parameter_info* find_parameter(const std::vector<parameter_info>& list,
                                     std::string_view name) {
  for (const parameter_info& p : list) {
    if (p.name == name) return &p;
  }
  return nullptr;
}

/// Checks of single parameters beyond their range.
void check_own(const element& e, const std::string& name, const value& v) {
  if (const auto* list = std::get_if<std::vector<double>>(&v)) {
    if (name == "matrix" && list->size() != 36) {
      throw std::invalid_argument(describe(e) + ": matrix has " + std::to_string(list->size()) +
                                  " entries; allowed: 36 (6 x 6, row by row)");
    }
    if ((name == "knl" || name == "ksl") && list->size() > elements::max_multipole + 1) {
      throw std::invalid_argument(describe(e) + ": " + name + " has " +
                                  std::to_string(list->size()) + " entries; allowed: at most " +
                                  std::to_string(elements::max_multipole + 1));
    }
  }
}

}  // namespace

const std::vector<kind_info>& kinds() {
  static const std::vector<kind_info> all =
      describe_kinds(std::make_index_sequence<std::variant_size_v<elements::kind>>());
  return all;
}

const kind_info& find_kind(std::string_view name) {
  std::vector<std::string> known;
  for (const kind_info& k : kinds()) {
    if (k.name == name) return k;
    known.push_back(k.name);
  }
  throw std::out_of_range("there is no element kind '" + std::string(name) +
                          "'; known kinds: " + join(known));
}

const std::vector<parameter_info>& common_parameters() {
  static const std::vector<parameter_info> common = {
      {"name", "", "name, need not be unique", value(std::string{}), 0, 0, false, false, false, {}},
      {"model",
       "",
       "how the element is tracked",
       value(std::string("paraxial")),
       0,
       0,
       false,
       false,
       false,
       {"linear", "paraxial", "exact"}},
      integer_parameter("slices", "pieces, at whose ends the beam can be recorded", 1, 1e6),
      integer_parameter("order", "order of split integration: 2, 4 or 6", 2, 6),
      integer_parameter("steps", "steps of split integration per slice", 10, 1e6),
      number_parameter("dx", "m", "horizontal displacement"),
      number_parameter("dy", "m", "vertical displacement"),
      number_parameter("dz", "m", "displacement along the beam"),
      tilt_parameter("pitch", "rotation about the x axis, which turns z towards -y"),
      tilt_parameter("yaw", "rotation about the y axis, which turns z towards x"),
      number_parameter("roll", "rad", "rotation about the beam axis, which turns x towards y"),
      {"pivot",
       "",
       "frame of the orbit in which the element is displaced and rotated",
       value(std::string("entrance")),
       0,
       0,
       false,
       false,
       false,
       {"entrance", "center"}},
      size_parameter("aperture_x", "half-width of the pipe, checked behind each slice (0: none)"),
      size_parameter("aperture_y", "half-height of the pipe, checked behind each slice (0: none)"),
      {"aperture_shape",
       "",
       "cross section of the pipe",
       value(std::string("elliptical")),
       0,
       0,
       false,
       false,
       false,
       {"elliptical", "rectangular"}},
  };
  return common;
}

element make_element(std::string_view kind) {
  const std::size_t index = static_cast<std::size_t>(&find_kind(kind) - kinds().data());
  element e{elements::drift{}};
  auto fill = [&]<std::size_t... I>(std::index_sequence<I...>) {
    ((index == I ? static_cast<void>(e.body.template emplace<I>()) : void()), ...);
  };
  fill(std::make_index_sequence<std::variant_size_v<elements::kind>>());
  return e;
}

std::string_view kind_of(const element& e) {
  return std::visit([](const auto& body) { return std::decay_t<decltype(body)>::kind; }, e.body);
}

std::string describe(const element& e) {
  std::string text(kind_of(e));
  const auto* code = std::get_if<elements::programmable>(&e.body);
  if (code && !code->made_as.empty()) text = code->made_as;
  if (!e.name.empty()) text += " '" + e.name + "'";
  return text;
}

value get(const element& e, std::string_view parameter) {
  if (parameter == "name") return e.name;
  if (parameter == "model") return std::string(model_names[static_cast<std::size_t>(e.model)]);
  if (parameter == "slices") return static_cast<double>(e.slices);
  if (parameter == "order") return static_cast<double>(e.order);
  if (parameter == "steps") return static_cast<double>(e.steps);
  if (parameter == "dx") return e.align.dx;
  if (parameter == "dy") return e.align.dy;
  if (parameter == "dz") return e.align.dz;
  if (parameter == "pitch") return e.align.pitch;
  if (parameter == "yaw") return e.align.yaw;
  if (parameter == "roll") return e.align.roll;
  if (parameter == "pivot") return std::string(e.align.about_center ? "center" : "entrance");
  if (parameter == "aperture_x") return e.pipe.x;
  if (parameter == "aperture_y") return e.pipe.y;
  if (parameter == "aperture_shape") {
    return std::string(e.pipe.rectangular ? "rectangular" : "elliptical");
  }
  value result;
  bool found = false;
  std::visit(
      [&](const auto& body) {
        std::apply(
            [&](const auto&... p) {
              ((p.name == parameter ? (result = body.*(p.member), found = true) : false), ...);
            },
            std::decay_t<decltype(body)>::parameters);
      },
      e.body);
  if (!found) unknown_parameter(e, parameter);
  return result;
}

void set(element& e, std::string_view parameter, const value& v) {
  if (const parameter_info* p = find_parameter(common_parameters(), parameter)) {
    check_value(e, *p, v);
    if (parameter == "name") e.name = std::get<std::string>(v);
    if (parameter == "model") {
      const auto* name =
          std::find(model_names.begin(), model_names.end(), std::get<std::string>(v));
      e.model = static_cast<model>(name - model_names.begin());
    }
    if (parameter == "slices") e.slices = static_cast<int>(std::get<double>(v));
    if (parameter == "order") {
      const int order = static_cast<int>(std::get<double>(v));
      if (order % 2 != 0) {
        throw std::invalid_argument(describe(e) + ": order = " + std::to_string(order) +
                                    " is not allowed; allowed: 2, 4, 6");
      }
      e.order = order;
    }
    if (parameter == "steps") e.steps = static_cast<int>(std::get<double>(v));
    if (parameter == "dx") e.align.dx = std::get<double>(v);
    if (parameter == "dy") e.align.dy = std::get<double>(v);
    if (parameter == "dz") e.align.dz = std::get<double>(v);
    if (parameter == "pitch") e.align.pitch = std::get<double>(v);
    if (parameter == "yaw") e.align.yaw = std::get<double>(v);
    if (parameter == "roll") e.align.roll = std::get<double>(v);
    if (parameter == "pivot") e.align.about_center = std::get<std::string>(v) == "center";
    if (parameter == "aperture_x") e.pipe.x = std::get<double>(v);
    if (parameter == "aperture_y") e.pipe.y = std::get<double>(v);
    if (parameter == "aperture_shape")
      e.pipe.rectangular = std::get<std::string>(v) == "rectangular";
    return;
  }
  const parameter_info* p = find_parameter(find_kind(kind_of(e)).parameters, parameter);
  if (!p) unknown_parameter(e, parameter);
  check_value(e, *p, v);
  check_own(e, p->name, v);
  std::visit(
      [&](auto& body) {
        auto assign = [&](const auto& q) {
          if (q.name != parameter) return;
          using type = std::decay_t<decltype(body.*(q.member))>;
          body.*(q.member) = std::get<type>(v);
        };
        std::apply([&](const auto&... q) { (assign(q), ...); },
                   std::decay_t<decltype(body)>::parameters);
      },
      e.body);
}

double length(const element& e) {
  return std::visit(
      [](const auto& body) {
        if constexpr (requires { body.length; }) {
          return body.length;
        } else {
          return 0.0;
        }
      },
      e.body);
}

double curvature(const element& e) {
  const auto* bend = std::get_if<elements::bend>(&e.body);
  return bend && bend->length != 0 ? bend->angle / bend->length : 0.0;
}

int slice_count(const element& e) { return length(e) == 0 ? 1 : e.slices; }

bool has_whole_slices(const element& e) {
  return std::visit([](const auto& body) { return requires { body.whole_slices; }; }, e.body);
}

elements::rigid_motion motion_at(const element& e, double place) {
  const alignment& a = e.align;
  const auto motion = elements::rigid_motion::of({a.dx, a.dy, a.dz, a.pitch, a.yaw, a.roll});
  const double pivot = a.about_center && length(e) != 0 ? 0.5 : 0;
  beam::reference at;  // as seen from the pivot
  at.kinetic = 1;      // any will do
  std::visit(
      [&](const auto& body) {
        if constexpr (requires { body.turns_frame; }) {
          if (place != pivot) advance(body, at, place - pivot);
        } else {
          elements::advance_straight(at, length(e) * (place - pivot));
        }
      },
      e.body);
  return motion.seen_from(at.position, at.frame);
}

alignment alignment_at(const element& e, double place) {
  const elements::rigid_motion m = motion_at(e, place);
  const auto& [o, axes] = std::pair(m.origin, m.axes);
  // axes = Rz(roll) Rx(pitch) Ry(yaw), see elements::detail::patch_axes
  return {
      o[0],
      o[1],
      o[2],
      std::asin(std::clamp(-axes[7], -1.0, 1.0)),
      std::atan2(axes[6], axes[8]),
      m.is_transverse() && axes[0] == std::cos(e.align.roll) && axes[1] == std::sin(e.align.roll)
          ? e.align.roll  // to the last bit, and beyond half a turn
          : std::atan2(axes[1], axes[4]),
      false};
}

void validate(const element& e) {
  std::visit(
      [&](const auto& body) {
        if constexpr (requires { problem(body); }) {
          if (const std::string text = problem(body); !text.empty()) {
            throw std::invalid_argument(describe(e) + ": " + text);
          }
        }
      },
      e.body);
}

}  // namespace betatron::lattice
