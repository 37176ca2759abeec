// programmable.cpp: code of the user: hooks, elements.Programmable, and functions of C inside the fused pass.
#include "bindings/programmable.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <stdexcept>
#include <string>
#include <variant>

#include "beam/text.h"
#include "bindings/bindings.h"
#include "elements/c_function.h"
#include "lattice/element.h"
#include "tracking/effect.h"

namespace nb = nanobind;

namespace betatron::bindings {

namespace {

PyObject* user_code_error = nullptr;  // an exception type of the module, which lives as long

/// An object of Python that any thread may copy and let go.
class held_object {
 public:
  explicit held_object(nb::handle object)
      : held_(object.inc_ref().ptr(), [](PyObject* p) {
          if (!Py_IsInitialized()) return;
          nb::gil_scoped_acquire locked;
          Py_DECREF(p);
        }) {}
  nb::handle get() const { return held_.get(); }
  bool is_only() const { return held_.use_count() == 1; }
  std::shared_ptr<const void> owner() const { return held_; }

 private:
  std::shared_ptr<PyObject> held_;
};

/// What code of the user is told about where it is called.
struct state {
  std::string point{};
  std::int64_t turn = 0;
  std::int64_t element = 0;
  std::string name{};
  int slice = 0, slices = 1;
  double length = 0;
  beam::reference ref{};
  std::optional<beam::reference> exit{};
  std::vector<double> settings{};
  nb::object beam{};
  std::vector<tracking::effect> effects{};
  std::vector<std::uint8_t> lost{};  // one flag per particle, or empty
  std::size_t particles = 0;
  bool open = true;  // the call is not over

  std::string place() const {
    std::string text = "turn " + std::to_string(turn);
    if (point != "before_turn" && point != "after_turn") {
      text += ", element " + std::to_string(element);
      if (!name.empty()) text += " ('" + name + "')";
      text += ", slice " + std::to_string(slice) + " of " + std::to_string(slices);
    }
    return text + ", s = " + beam::number_text(ref.s) + " m";
  }

  void lose(nb::handle mask) {
    if (!open) throw nb::value_error("lose(): the call that this state belongs to is over");
    using flags = nb::ndarray<const bool, nb::ndim<1>, nb::device::cpu>;
    flags given;
    if (!nb::try_cast<flags>(mask, given, false) || given.shape(0) != particles) {
      throw nb::value_error(
          ("lose() needs an array of " + std::to_string(particles) + " booleans, one per particle")
              .c_str());
    }
    lost.resize(particles, 0);
    for (std::size_t i = 0; i < particles; ++i) {
      if (given(i)) lost[i] = 1;
    }
  }
};

/// Calls `function(arguments...)`; what it raises is raised again with the place, as the cause of a UserCodeError.
template <class... Arguments>
nb::object call_user(nb::handle function, const auto& what, const auto& place,
                     Arguments&&... arguments) {
  try {
    return function(std::forward<Arguments>(arguments)...);
  } catch (nb::python_error& error) {
    if (!error.matches(PyExc_Exception)) throw;  // Ctrl-C, exit
    const std::string type = nb::cast<std::string>(error.type().attr("__name__"));
    const std::string text = nb::cast<std::string>(nb::str(error.value()));
    const std::string message =
        what() + " raised " + type + " at " + place() + (text.empty() ? "" : ": " + text);
    nb::raise_from(error, user_code_error, "%s", message.c_str());
  }
}

/// The beam as an object of Python: the one that is tracked.
nb::object object_of(beam::bunch& b) {
  nb::object found = nb::find(b);
  return found.is_valid() ? found : nb::cast(&b, nb::rv_policy::reference);
}

/// Calls code with the beam, and takes out of it what that has lost. arguments(beam, state) calls it.
template <class Call>
void with_state(beam::bunch& b, state&& made, Call&& call) {
  made.beam = object_of(b);
  made.particles = b.size();
  nb::object shown = nb::cast(std::move(made));
  state& s = nb::cast<state&>(shown);
  const auto close = [&] {
    s.open = false;
    s.effects.clear();
  };
  try {
    call(s, shown);
  } catch (...) {
    close();
    throw;
  }
  close();
  if (s.lost.empty()) return;
  if (b.size() != s.particles) {  // the mask does not say which of them are left
    throw std::invalid_argument(
        "lose() at " + s.place() + " was given a mask of " + std::to_string(s.particles) +
        " particles, but the beam has " + std::to_string(b.size()) +
        " when the function returns; allowed: no other losses in the same call");
  }
  std::vector<beam::bunch::loss> losses;
  for (std::size_t i = 0; i < b.size(); ++i) {
    if (s.lost[i] != 0) {
      losses.push_back({i, s.ref.s, s.turn, s.element, beam::loss_reason::user});
    }
  }
  b.remove(losses);
}

/// Beam code that is a function of Python.
struct beam_function {
  held_object function;
  const char* what;

  void operator()(beam::bunch& b, const elements::code_place& at) const {
    nb::gil_scoped_acquire locked;
    state s;
    s.point = what;
    s.turn = at.turn;
    s.element = at.element;
    s.name = at.name;
    s.slice = at.slice;
    s.slices = at.slices;
    s.length = at.length;
    const bool back = std::string_view(what) == "inverse";
    s.ref = back ? at.exit : at.entrance;
    s.exit = back ? at.entrance : at.exit;
    s.settings.assign(at.settings.begin(), at.settings.end());
    with_state(b, std::move(s), [&](state& seen, nb::handle shown) {
      call_user(
          function.get(), [&] { return std::string(what) + " of Programmable"; },
          [&] { return seen.place(); }, seen.beam, shown);
    });
  }
};

/// The piece of an element along which the user's function moves the reference particle.
struct reference_piece {
  double length, start, end;
};

struct reference_function {
  held_object function;

  void operator()(beam::reference& ref, const elements::reference_place& at) const {
    nb::gil_scoped_acquire locked;
    const reference_piece piece{at.length * (at.to - at.from), at.from, at.to};
    nb::object result = call_user(
        function.get(), [] { return std::string("the reference function of Programmable"); },
        [&] { return "s = " + beam::number_text(ref.s) + " m"; }, nb::cast(ref), nb::cast(piece));
    if (!nb::try_cast<beam::reference>(result, ref)) {
      throw nb::type_error(("the reference function of Programmable must return a Reference, got " +
                            nb::cast<std::string>(nb::repr(result)))
                               .c_str());
    }
  }
};

/// A grid that belongs to a collective effect.
struct field {
  nb::object array;
  double unit;
  std::array<double, 3> origin, spacing;
};

field field_of(tracking::effect_field&& f) {
  auto* owner = new std::shared_ptr<void>(std::move(f.owner));
  nb::capsule kept(owner, [](void* p) noexcept { delete static_cast<std::shared_ptr<void>*>(p); });
  const std::int64_t strides[3] = {static_cast<std::int64_t>(f.strides[0]),
                                   static_cast<std::int64_t>(f.strides[1]),
                                   static_cast<std::int64_t>(f.strides[2])};
  nb::object array = std::visit(
      [&]<class F>(F* data) {
        return nb::cast(nb::ndarray<nb::numpy, F>(data, 3, f.nodes.data(), kept, strides));
      },
      f.data);
  return {std::move(array), f.unit, f.origin, f.spacing};
}

/// The fields of collective effects by name, as they were at their last kick.
struct field_map {
  std::vector<tracking::effect> effects;

  std::vector<std::string> names() const {
    std::vector<std::string> all;
    for (const tracking::effect& e : effects) {
      for (const std::string& name : e.field_names) {
        if (e.field(name)) all.push_back(name);
      }
    }
    return all;
  }

  field get(const std::string& name) const {
    for (const tracking::effect& e : effects) {
      if (std::ranges::find(e.field_names, name) == e.field_names.end()) continue;
      if (auto found = e.field(name)) return field_of(std::move(*found));
    }
    throw nb::key_error(("there is no field " + name +
                         ": SpaceCharge3D has \"density\" and \"potential\" behind its first kick")
                            .c_str());
  }
};

template <class Function>
Function address_of(const nb::handle& given) {
  return given.is_none() ? nullptr : reinterpret_cast<Function>(nb::cast<std::uintptr_t>(given));
}

/// What the garbage collector needs to know of elements that hold functions: they may refer back to their element.
/// A function that a program or a copy of the element also holds is not shown, which is always safe.
template <class Visit>
int visit_functions(const elements::programmable& p, Visit&& visit) {
  const auto show = [&](const held_object* h) { return h && h->is_only() ? visit(h->get()) : 0; };
  if (p.beam && p.beam.use_count() == 1) {
    for (const auto* f : {&p.beam->push, &p.beam->inverse}) {
      const auto* python = f->template target<beam_function>();
      if (const int stop = show(python ? &python->function : nullptr)) return stop;
    }
  }
  const auto* python = p.reference.target<reference_function>();
  return show(python ? &python->function : nullptr);
}

lattice::element* element_at(PyObject* self) {
  return nb::inst_ready(self) ? nb::inst_ptr<lattice::element>(self) : nullptr;
}

int traverse(PyObject* self, visitproc visit, void* arg) {
  Py_VISIT(Py_TYPE(self));
  const lattice::element* e = element_at(self);
  if (!e) return 0;
  return visit_functions(std::get<elements::programmable>(e->body),
                         [&](nb::handle h) { return visit(h.ptr(), arg); });
}

int clear(PyObject* self) {
  if (lattice::element* e = element_at(self)) {
    auto& p = std::get<elements::programmable>(e->body);
    const auto beam = std::move(p.beam);  // let go after the element has
    const auto reference = std::move(p.reference);
    p.beam = nullptr;
    p.reference = nullptr;
  }
  return 0;
}

}  // namespace

PyType_Slot programmable_slots[] = {{Py_tp_traverse, reinterpret_cast<void*>(&traverse)},
                                    {Py_tp_clear, reinterpret_cast<void*>(&clear)},
                                    {0, nullptr}};

void take_code(elements::programmable& p, nb::kwargs& arguments) {
  const auto take = [&](const char* name) {
    nb::object value = nb::none();
    if (arguments.contains(name)) {
      value = arguments[name];
      PyDict_DelItemString(arguments.ptr(), name);
    }
    return value;
  };
  const nb::object code = take("code"), push = take("push"), inverse = take("inverse"),
                   reference = take("reference"), made_as = take("made_as");
  if (!made_as.is_none()) p.made_as = nb::cast<std::string>(made_as);
  if (!code.is_none()) {
    p.tiles = nb::cast<std::shared_ptr<const elements::tile_code>>(code);
  }
  if (!push.is_none()) {
    auto beam = std::make_shared<elements::beam_code>();
    beam->push = beam_function{held_object(push), "push"};
    if (!inverse.is_none()) beam->inverse = beam_function{held_object(inverse), "inverse"};
    p.beam = std::move(beam);
  }
  if (reference_code known; nb::try_cast(reference, known, false)) {
    p.reference = std::move(known.advance);
  } else if (!reference.is_none()) {
    p.reference = reference_function{held_object(reference)};
  }
}

std::vector<tracking::hook> hooks_of(const lattice::line& l, nb::handle given) {
  using point = tracking::hook_point;
  constexpr point points[] = {point::before_turn,   point::after_turn,   point::before_element,
                              point::after_element, point::before_slice, point::after_slice,
                              point::after_kick};
  std::vector<tracking::hook> hooks;
  if (given.is_none()) return hooks;
  for (nb::handle item : given) {
    const auto [name, function, flags] =
        nb::cast<std::tuple<std::string, nb::object, std::vector<std::uint8_t>>>(item);
    tracking::hook h;
    h.point = *std::ranges::find(points, std::string_view(name),
                                 [](point p) { return std::string_view(tracking::name_of(p)); });
    h.at = flags;
    h.call = [held = held_object(function), &l](beam::bunch& b, const tracking::hook_place& at) {
      nb::gil_scoped_acquire locked;
      state s;
      s.point = tracking::name_of(at.point);
      s.turn = at.turn;
      s.element = static_cast<std::int64_t>(at.element);
      if (at.element < l.elements.size()) s.name = l.elements[at.element]->name;
      s.slice = at.slice;
      s.slices = at.slices;
      s.length = at.length;
      s.ref = b.ref;
      s.effects.assign(at.effects.begin(), at.effects.end());
      with_state(b, std::move(s), [&](state& seen, nb::handle shown) {
        call_user(
            held.get(), [&] { return "hook " + seen.point; }, [&] { return seen.place(); }, shown);
      });
    };
    hooks.push_back(std::move(h));
  }
  return hooks;
}

void bind_programmable(nb::module_& m) {
  user_code_error = PyErr_NewExceptionWithDoc(
      (nb::cast<std::string>(m.attr("__name__")) + ".UserCodeError").c_str(),
      "A hook or the code of a Programmable raised an exception, which is the cause of this one; "
      "the message says where. The beam stands there, with all its particles.",
      PyExc_RuntimeError, nullptr);
  m.attr("UserCodeError") = nb::handle(user_code_error);

  nb::class_<field>(m, "Field", "A field on the grid of a collective effect.")
      .def_ro(
          "array", &field::array,
          "The numbers, shape (nx, ny, nz): memory of the effect, written anew at its next kick.")
      .def_ro("unit", &field::unit, "What 1 in the array stands for, in SI units.")
      .def_ro("origin", &field::origin, "Place of the first node, x, y, z [m].")
      .def_ro("spacing", &field::spacing, "Distances of nodes in x, y, z [m].");

  nb::class_<field_map>(m, "Fields", "Fields of collective effects at their last kick, by name.")
      .def("__getitem__", &field_map::get, nb::arg("name"))
      .def("keys", &field_map::names, "Names of the fields that there are.")
      .def("__contains__",
           [](const field_map& f, const std::string& name) {
             return std::ranges::count(f.names(), name) > 0;
           })
      .def("__len__", [](const field_map& f) { return f.names().size(); });

  nb::class_<reference_piece>(m, "ReferencePiece",
                              "The piece of an element along which a reference function moves.")
      .def_ro("length", &reference_piece::length, "Of the path [m]; negative: backwards.")
      .def_ro("start", &reference_piece::start, "Where it begins, as a fraction of the element.")
      .def_ro("end", &reference_piece::end, "Where it ends, as a fraction of the element.");

  nb::class_<state>(m, "State", "Where code of the user is called, and with what.")
      .def_ro("point", &state::point,
              "Why: \"before_slice\", ... of hooks, \"push\" or \"inverse\" of a Programmable.")
      .def_ro("turn", &state::turn, "Number of the turn.")
      .def_ro("element", &state::element, "Position of the element in the line.")
      .def_ro("name", &state::name, "Name of the element.")
      .def_ro("slice", &state::slice, "Number of the slice, from 0.")
      .def_ro("slices", &state::slices, "Slices of the element.")
      .def_prop_ro(
          "s", [](const state& s) { return s.ref.s; }, "Path length of the reference particle [m].")
      .def_ro("length", &state::length,
              "Of the slice [m]; in front of and behind an element, of that.")
      .def_ro("reference", &state::ref, "The reference particle, where the beam is.")
      .def_ro("exit", &state::exit,
              "The reference particle behind the slice, to which coordinates are relative "
              "afterwards; None for hooks.")
      .def_ro("settings", &state::settings, "The settings of the Programmable.")
      .def_ro("beam", &state::beam, "The beam that is tracked.")
      .def_prop_ro(
          "fields", [](const state& s) { return field_map{s.effects}; },
          "Fields of collective effects at their last kick.")
      .def("lose", &state::lose, nb::arg("mask").none(),
           nb::sig("def lose(self, mask: numpy.typing.ArrayLike) -> None"),
           "Take particles out of the beam when the function returns, where the mask (one boolean "
           "per particle) is true; they go to `beam.lost` with the reason \"user\".")
      .def("__repr__",
           [](const state& s) { return "State(" + s.point + " at " + s.place() + ")"; });

  nb::class_<reference_code>(m, "ReferenceCode", "A reference function of the package.")
      .def(
          "__call__",
          [](const reference_code& code, beam::reference ref, nb::handle piece) {
            const auto number = [&](const char* name) {
              return nb::cast<double>(piece.attr(name));
            };
            const double from = number("start"), to = number("end");
            code.advance(ref, {number("length") / (to - from), from, to});
            return ref;
          },
          nb::arg("reference"), nb::arg("piece"));

  nb::class_<elements::tile_code>(m, "TileCode",
                                  "Compiled code that takes particles through an element.")
      .def_ro("name", &elements::tile_code::name)
      .def_ro("cost", &elements::tile_code::cost, "Time per particle, about [ns].")
      .def_prop_ro("has_derivative", &elements::tile_code::has_derivative)
      .def_static(
          "from_c",
          [](std::string name, nb::handle push, nb::handle push_single, nb::handle pull,
             nb::handle pull_single, std::array<double, 6> steps, double cost, nb::object owner) {
            elements::c_functions c;
            c.push_double = address_of<elements::c_push<double>>(push);
            c.push_single = address_of<elements::c_push<float>>(push_single);
            c.pull_double = address_of<elements::c_pull<double>>(pull);
            c.pull_single = address_of<elements::c_pull<float>>(pull_single);
            c.owner = held_object(owner).owner();
            auto code =
                std::make_shared<elements::tile_code>(elements::make_tile_code(std::move(name), c));
            code->steps = steps;
            code->cost = cost;
            return code;
          },
          nb::arg("name"), nb::arg("push"), nb::arg("push_single").none(), nb::arg("pull").none(),
          nb::arg("pull_single").none(), nb::arg("steps"), nb::arg("cost"), nb::arg("owner").none(),
          "From the addresses of functions of C; see betatron.programmable.");
}

}  // namespace betatron::bindings
