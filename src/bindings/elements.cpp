// elements.cpp: elements as Python classes. Everything is generated from the descriptions in lattice/element.h: a new
// kind appears here without a line being written.
#include <nanobind/nanobind.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstring>
#include <limits>
#include <sstream>

#include "bindings/bindings.h"
#include "bindings/programmable.h"
#include "lattice/element.h"

namespace nb = nanobind;

namespace betatron::bindings {

namespace {

using lattice::element;
using lattice::kind_info;
using lattice::parameter_info;
using lattice::value;

/// A type of its own for each kind, so that Python has a class for each.
template <class Kind>
struct element_of : element {
  element_of() : element{Kind{}} {}
};

nb::object to_python(const value& v, const parameter_info& p) {
  if (const auto* x = std::get_if<double>(&v)) {
    return p.is_integer ? nb::object(nb::int_(static_cast<long>(*x))) : nb::object(nb::float_(*x));
  }
  if (const auto* x = std::get_if<bool>(&v)) return nb::bool_(*x);
  if (const auto* x = std::get_if<std::string>(&v)) return nb::str(x->c_str(), x->size());
  nb::list list;
  for (double x : std::get<std::vector<double>>(v)) list.append(x);
  return nb::object(list);
}

std::string repr_of(nb::handle h) { return nb::cast<std::string>(nb::repr(h)); }

[[noreturn]] void wrong_type(const element& e, const parameter_info& p, const char* expected,
                             nb::handle got) {
  throw nb::type_error((lattice::describe(e) + ": " + p.name + " must be " + expected + ", got " +
                        nb::cast<std::string>(got.type().attr("__name__")) + " " + repr_of(got))
                           .c_str());
}

/// A number, also a NumPy scalar or zero-dimensional array, but not a bool or a string.
bool read_number(nb::handle h, double& x) {
  if (nb::isinstance<nb::bool_>(h) || nb::isinstance<nb::str>(h)) return false;
  x = PyFloat_AsDouble(h.ptr());
  if (x == -1.0 && PyErr_Occurred()) {
    PyErr_Clear();
    return false;
  }
  return true;
}

/// Numbers of a nested or flat sequence or array, in row-major order.
bool read_numbers(nb::handle h, std::vector<double>& list) {
  if (nb::isinstance<nb::str>(h) || nb::isinstance<nb::dict>(h)) return false;
  nb::object iterator = nb::steal(PyObject_GetIter(h.ptr()));
  if (!iterator.is_valid()) {
    PyErr_Clear();
    return false;
  }
  while (nb::object item = nb::steal(PyIter_Next(iterator.ptr()))) {
    double x;
    if (read_number(item, x)) {
      list.push_back(x);
    } else if (!read_numbers(item, list)) {
      return false;
    }
  }
  if (PyErr_Occurred()) throw nb::python_error();
  return true;
}

value from_python(const element& e, const parameter_info& p, nb::handle h) {
  switch (p.default_value.index()) {
    case 0: {
      double x;
      if (!read_number(h, x)) wrong_type(e, p, p.is_integer ? "a whole number" : "a number", h);
      return x;
    }
    case 1:
      if (!nb::isinstance<nb::bool_>(h)) wrong_type(e, p, "True or False", h);
      return nb::cast<bool>(h);
    case 2:
      if (!nb::isinstance<nb::str>(h)) wrong_type(e, p, "a string", h);
      return nb::cast<std::string>(h);
    default: {
      std::vector<double> list;
      if (!read_numbers(h, list)) wrong_type(e, p, "a list of numbers", h);
      return list;
    }
  }
}

const parameter_info* find(const std::vector<parameter_info>& list, std::string_view name) {
  for (const parameter_info& p : list) {
    if (p.name == name) return &p;
  }
  return nullptr;
}

void assign(element& e, std::string_view name, nb::handle h) {
  const parameter_info* p = find(lattice::find_kind(lattice::kind_of(e)).parameters, name);
  if (!p) p = find(lattice::common_parameters(), name);
  if (!p) {
    try {
      lattice::get(e, name);  // throws, naming the known parameters
    } catch (const std::out_of_range& unknown) {
      throw nb::type_error(unknown.what());
    }
    return;
  }
  lattice::set(e, name, from_python(e, *p, h));
}

/// Element(*args, **kwargs): own parameters in order, then keywords.
void construct(element& e, const kind_info& kind, const nb::args& args, const nb::kwargs& kwargs) {
  if (kwargs.contains("name")) assign(e, "name", kwargs["name"]);  // first: messages show it
  std::vector<bool> given(kind.parameters.size(), false);
  if (args.size() > kind.parameters.size()) {
    throw nb::type_error((lattice::describe(e) + " takes at most " +
                          std::to_string(kind.parameters.size()) + " positional parameters, got " +
                          std::to_string(args.size()))
                             .c_str());
  }
  for (std::size_t i = 0; i < args.size(); ++i) {
    assign(e, kind.parameters[i].name, args[i]);
    given[i] = true;
  }
  for (auto [key, item] : kwargs) {
    const auto name = nb::cast<std::string>(key);
    for (std::size_t i = 0; i < kind.parameters.size(); ++i) {
      if (kind.parameters[i].name != name) continue;
      if (given[i])
        throw nb::type_error((lattice::describe(e) + ": " + name + " given twice").c_str());
      given[i] = true;
    }
    assign(e, name, item);
  }
  for (std::size_t i = 0; i < kind.parameters.size(); ++i) {
    const parameter_info& p = kind.parameters[i];
    if (p.required && !given[i]) {
      throw nb::type_error((lattice::describe(e) + " needs " + p.name +
                            (p.unit.empty() ? "" : " [" + p.unit + "]") + ": " + p.doc)
                               .c_str());
    }
  }
  lattice::validate(e);
}

std::string number_text(double x) { return repr_of(nb::float_(x)); }

std::string type_text(const parameter_info& p) {
  switch (p.default_value.index()) {
    case 0:
      return p.is_integer ? "int" : "float";
    case 1:
      return "bool";
    case 2:
      return "str";
    default:
      return "collections.abc.Sequence[float]";
  }
}

std::string default_text(const parameter_info& p) { return repr_of(to_python(p.default_value, p)); }

std::string parameter_doc(const parameter_info& p) {
  std::string text = p.doc;
  if (!p.unit.empty()) text += " [" + p.unit + "]";
  if (std::isfinite(p.minimum) && !p.is_integer && p.default_value.index() == 0) {
    text += std::string(", ") + (p.open_below ? "> " : ">= ") + number_text(p.minimum);
  }
  if (std::isfinite(p.maximum) && !p.is_integer && p.default_value.index() == 0) {
    text += ", <= " + number_text(p.maximum);
  }
  for (std::size_t i = 0; i < p.choices.size(); ++i) {
    text += (i == 0 ? ": " : ", ") + ("\"" + p.choices[i] + "\"");
  }
  return text;
}

/// Strings that Python classes refer to for as long as the process lives.
const char* keep(std::string text) { return (new std::string(std::move(text)))->c_str(); }

std::string signature(const kind_info& kind, bool has_code) {
  std::string text = "def __init__(self";
  bool optional = false;
  for (const parameter_info& p : kind.parameters) {
    // after an optional parameter Python allows only optional ones: required ones come first by convention, but
    // where they do not, keywords still work
    if (!p.required) optional = true;
    text += ", " + p.name + ": " + type_text(p);
    if (!p.required || optional)
      text += " = " + (p.required ? std::string("...") : default_text(p));
  }
  text += ", *";
  if (has_code)
    text +=
        ", code: object = None, push: object = None, inverse: object = None, reference: object = None";
  for (const parameter_info& p : lattice::common_parameters()) {
    text += ", " + p.name + ": " + type_text(p) + " = " + default_text(p);
  }
  return text + ") -> None";
}

std::string class_doc(const kind_info& kind) {
  std::string text = kind.doc + "\n\nParameters\n----------\n";
  for (const parameter_info& p : kind.parameters) {
    text += p.name + " : " + type_text(p) + "\n    " + parameter_doc(p) +
            (p.required ? " (required)" : "") + "\n";
  }
  return text;
}

nb::dict parameters_of(const element& e) {
  nb::dict d;
  for (const parameter_info& p : lattice::find_kind(lattice::kind_of(e)).parameters) {
    d[p.name.c_str()] = to_python(lattice::get(e, p.name), p);
  }
  return d;
}

/// Kind, own parameters that are required or changed, and common ones that are changed.
nb::dict to_dict(const element& e) {
  nb::dict d;
  d["kind"] = nb::str(std::string(lattice::kind_of(e)).c_str());
  auto add = [&](const std::vector<parameter_info>& list) {
    for (const parameter_info& p : list) {
      const value v = lattice::get(e, p.name);
      if (p.required || v != p.default_value) d[p.name.c_str()] = to_python(v, p);
    }
  };
  add(lattice::find_kind(lattice::kind_of(e)).parameters);
  add(lattice::common_parameters());
  return d;
}

std::string repr(const element& e) {
  std::string text = std::string(lattice::kind_of(e)) + "(";
  bool first = true;
  for (auto [key, item] : to_dict(e)) {
    const auto name = nb::cast<std::string>(key);
    if (name == "kind") continue;
    text += (first ? "" : ", ") + name + "=" + repr_of(item);
    first = false;
  }
  return text + ")";
}

bool same(const element& a, const element& b) {
  if (lattice::kind_of(a) != lattice::kind_of(b)) return false;
  auto equal = [&](const std::vector<parameter_info>& list) {
    for (const parameter_info& p : list) {
      if (lattice::get(a, p.name) != lattice::get(b, p.name)) return false;
    }
    return true;
  };
  return equal(lattice::find_kind(lattice::kind_of(a)).parameters) &&
         equal(lattice::common_parameters());
}

template <class Class>
void add_property(Class& cls, const parameter_info& p) {
  const parameter_info* info = &p;
  auto getter = [info](const element& e) { return to_python(lattice::get(e, info->name), *info); };
  auto setter = [info](element& e, nb::handle h) {
    element changed = e;  // a refused value leaves the element as it was
    lattice::set(changed, info->name, from_python(e, *info, h));
    lattice::validate(changed);
    e = changed;
  };
  const std::string type = type_text(p);
  cls.def_prop_rw(
      p.name.c_str(), getter, setter,
      nb::for_getter(nb::sig(keep("def " + p.name + "(self) -> " + type))),
      nb::for_setter(nb::sig(keep("def " + p.name + "(self, value: " + type + ", /) -> None"))),
      keep(parameter_doc(p)));
}

template <class Kind>
void bind_kind(nb::module_& m, const kind_info& kind) {
  using type = element_of<Kind>;
  constexpr bool has_code = std::is_same_v<Kind, elements::programmable>;
  static PyType_Slot no_slots[] = {{0, nullptr}};
  nb::class_<type, element> cls(m, kind.name.c_str(), keep(class_doc(kind)),
                                nb::type_slots(has_code ? programmable_slots : no_slots));
  const kind_info* info = &kind;
  cls.def(
      "__init__",
      [info](type* self, nb::args args, nb::kwargs kwargs) {
        new (self) type();
        try {
          if constexpr (has_code) take_code(std::get<Kind>(self->body), kwargs);
          construct(*self, *info, args, kwargs);
        } catch (...) {
          self->~type();
          throw;
        }
      },
      nb::sig(keep(signature(kind, has_code))));
  if constexpr (!has_code) {  // that is not all of an element with code
    cls.def("__getstate__", [](nb::handle self) {
      return nb::make_tuple(to_dict(nb::cast<const element&>(self)),
                            nb::getattr(self, "__dict__", nb::none()));
    });
    cls.def("__setstate__", [info](nb::pointer_and_handle<type> self, const nb::tuple& state) {
      new (self.p) type();
      try {
        nb::kwargs parameters = nb::cast<nb::kwargs>(state[0].attr("copy")());
        PyDict_DelItemString(parameters.ptr(), "kind");
        construct(*self.p, *info, nb::args(), parameters);
      } catch (...) {
        self.p->~type();
        throw;
      }
      if (!state[1].is_none()) self.h.attr("__dict__").attr("update")(state[1]);
    });
  }
  for (const parameter_info& p : kind.parameters) add_property(cls, p);
}

nb::dict describe_parameter(const parameter_info& p) {
  nb::dict d;
  d["name"] = p.name;
  d["unit"] = p.unit;
  d["doc"] = p.doc;
  d["type"] = p.default_value.index() == 3 ? std::string("list") : type_text(p);
  d["default"] = to_python(p.default_value, p);
  d["minimum"] = p.minimum;
  d["maximum"] = p.maximum;
  d["open_below"] = p.open_below;
  d["required"] = p.required;
  d["choices"] = p.choices;
  return d;
}

nb::list describe_parameters(const std::vector<parameter_info>& list) {
  nb::list result;
  for (const parameter_info& p : list) result.append(describe_parameter(p));
  return result;
}

}  // namespace

void bind_elements(nb::module_& m) {
  nb::class_<element> cls(m, "Element", "What all kinds of elements have in common.");
  for (const parameter_info& p : lattice::common_parameters()) add_property(cls, p);
  cls.def_prop_ro(
         "kind", [](const element& e) { return std::string(lattice::kind_of(e)); },
         "name of the kind, e.g. \"Quadrupole\"")
      .def(
          "alignment_at",
          [](const element& e, double place) {
            if (!(place >= 0 && place <= 1)) {
              throw nb::value_error((lattice::describe(e) + ": place = " + std::to_string(place) +
                                     " must be between 0 (entrance) and 1 (exit)")
                                        .c_str());
            }
            const lattice::alignment a = lattice::alignment_at(e, place);
            nb::dict d;
            d["dx"] = a.dx;
            d["dy"] = a.dy;
            d["dz"] = a.dz;
            d["pitch"] = a.pitch;
            d["yaw"] = a.yaw;
            d["roll"] = a.roll;
            return d;
          },
          nb::arg("place"),
          "The misalignment as it is seen in the frame of the reference orbit at a place inside the "
          "element, from 0 (entrance) to 1 (exit): dx, dy, dz, pitch, yaw, roll of a thin element "
          "there that moves with this one. Raises ValueError for another place.")
      .def("parameters", &parameters_of, "The parameters of the kind as a dictionary.")
      .def(
          "to_dict", &to_dict,
          "The element as a dictionary: kind, required parameters, and all others that are not at their "
          "default. See from_dict.")
      .def("__repr__", &repr)
      .def("__eq__", [](const element& a, const element& b) { return same(a, b); })
      .def("__eq__", [](const element&, nb::handle) { return false; })
      .def("__hash__", [](nb::handle self) {
        return static_cast<Py_ssize_t>(reinterpret_cast<std::uintptr_t>(self.ptr()) >> 4);
      });

  auto bind_all = [&]<std::size_t... I>(std::index_sequence<I...>) {
    (bind_kind<std::variant_alternative_t<I, elements::kind>>(m, lattice::kinds()[I]), ...);
  };
  bind_all(std::make_index_sequence<std::variant_size_v<elements::kind>>());

  m.def(
      "kinds",
      [] {
        nb::dict d;
        for (const kind_info& k : lattice::kinds()) {
          d[k.name.c_str()] = describe_parameters(k.parameters);
        }
        return d;
      },
      nb::sig("def kinds() -> dict[str, list[dict[str, object]]]"),
      "All kinds of elements with their parameters: name, unit, doc, type, default, minimum, maximum, "
      "open_below, required, choices.");
  m.def(
      "common_parameters", [] { return describe_parameters(lattice::common_parameters()); },
      nb::sig("def common_parameters() -> list[dict[str, object]]"),
      "The parameters that every kind has, described as in kinds().");
}

}  // namespace betatron::bindings
