// beam.cpp: species, reference particle, distributions and beams for Python.
//
// Thin: names, defaults and most of the checks of a user's input are in python/betatron/beam.py and
// distributions.py. Here is what Python cannot do: views of columns that keep their memory alive,
// and a beam on arrays that belong to another library.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/operators.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "beam/bunch.h"
#include "beam/summary.h"
#include "beam/text.h"
#include "bindings/arrays.h"
#include "bindings/bindings.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace betatron::bindings {

namespace {

using beam::bunch;
using beam::distribution;
using beam::number_text;
using beam::reference;
using beam::species;

// --- Python objects in and out -------------------------------------------------------------------

std::string repr_of(nb::handle h) { return nb::cast<std::string>(nb::repr(h)); }

std::string type_of(nb::handle h) { return nb::cast<std::string>(h.type().attr("__name__")); }

[[noreturn]] void fail_type(const std::string& message) { throw nb::type_error(message.c_str()); }

[[noreturn]] void fail_value(const std::string& message) { throw nb::value_error(message.c_str()); }

[[noreturn]] void wrong_type(const std::string& what, const std::string& expected, nb::handle got) {
  fail_type(what + " must be " + expected + ", got " + type_of(got) + " " + repr_of(got));
}

/// A number, also a NumPy scalar, but not a bool or a string.
double number(nb::handle h, const std::string& what) {
  if (!nb::isinstance<nb::bool_>(h)) {
    const double value = PyFloat_AsDouble(h.ptr());
    if (value != -1.0 || !PyErr_Occurred()) return value;
    PyErr_Clear();
  }
  wrong_type(what, "a number", h);
}

double finite_number(nb::handle h, const std::string& what) {
  const double value = number(h, what);
  if (std::isfinite(value)) return value;
  fail_value(what + " = " + number_text(value) + " must be finite");
}

/// N finite numbers: a sequence or array, nested or not, in row-major order.
template <std::size_t N>
std::array<double, N> finite_numbers(nb::handle h, const std::string& what, const char* shape) {
  std::array<double, N> values;
  std::size_t count = 0;
  const auto collect = [&](auto&& self, nb::handle from) -> void {
    if (nb::isinstance<nb::str>(from)) wrong_type(what, "numbers", h);
    nb::object iterator = nb::steal(PyObject_GetIter(from.ptr()));
    if (!iterator.is_valid()) {
      PyErr_Clear();
      const double value = finite_number(from, what);
      if (count < N) values[count] = value;
      ++count;
      return;
    }
    while (nb::object item = nb::steal(PyIter_Next(iterator.ptr()))) self(self, item);
    if (PyErr_Occurred()) throw nb::python_error();
  };
  collect(collect, h);
  if (count != N) {
    fail_value(what + " has " + std::to_string(count) + " numbers, must be of shape " + shape);
  }
  return values;
}

// --- species and reference particle --------------------------------------------------------------

species species_from(nb::handle h, const std::string& what) {
  if (nb::isinstance<species>(h)) return nb::cast<species>(h);
  if (nb::isinstance<nb::str>(h)) return beam::make_species(nb::cast<std::string>(h));
  wrong_type(what, "the name of a species or a Species", h);
}

/// Rows that are orthonormal and right-handed, to rounding.
std::array<double, 9> frame_from(nb::handle h, const std::string& what) {
  const auto f = finite_numbers<9>(h, what, "(3, 3)");
  const auto row = [&](std::size_t i) { return std::array{f[3 * i], f[3 * i + 1], f[3 * i + 2]}; };
  const auto dot = [](const std::array<double, 3>& a, const std::array<double, 3>& b) {
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
  };
  const auto ex = row(0), ey = row(1), ez = row(2);
  const std::array cross = {ex[1] * ey[2] - ex[2] * ey[1], ex[2] * ey[0] - ex[0] * ey[2],
                            ex[0] * ey[1] - ex[1] * ey[0]};
  constexpr double tolerance = 1e-6;
  const std::array errors = {dot(ex, ex) - 1, dot(ey, ey) - 1, dot(ez, ez) - 1, dot(ex, ey),
                             dot(cross, ez) - 1};
  for (const double error : errors) {
    if (!(std::abs(error) < tolerance)) {
      fail_value(
          what + " = " + repr_of(h) +
          " must be a rotation: rows are the orthonormal, right-handed unit vectors ex, ey, ez");
    }
  }
  return f;
}

void place(reference& r, nb::handle s, nb::handle t, nb::handle position, nb::handle frame,
           const std::string& where) {
  if (!s.is_none()) r.s = finite_number(s, where + "s");
  if (!t.is_none()) r.t = finite_number(t, where + "t");
  if (!position.is_none()) r.position = finite_numbers<3>(position, where + "position", "(3,)");
  if (!frame.is_none()) r.frame = frame_from(frame, where + "frame");
}

/// The one measure of the energy that is given.
reference reference_from(const species& particle, nb::handle kinetic_energy,
                         nb::handle total_energy, nb::handle momentum, nb::handle gamma,
                         nb::handle beta_gamma) {
  struct measure {
    const char* name;
    nb::handle value;
    reference (*make)(const species&, double);
  };
  const std::array<measure, 5> measures = {
      {{"kinetic_energy", kinetic_energy, &reference::from_kinetic_energy},
       {"total_energy", total_energy, &reference::from_total_energy},
       {"momentum", momentum, &reference::from_momentum},
       {"gamma", gamma, &reference::from_gamma},
       {"beta_gamma", beta_gamma, &reference::from_beta_gamma}}};
  std::string given;
  const measure* chosen = nullptr;
  for (const measure& m : measures) {
    if (m.value.is_none()) continue;
    given += (given.empty() ? "" : ", ") + std::string(m.name);
    chosen = chosen == nullptr ? &m : chosen;
  }
  if (chosen == nullptr || given != chosen->name) {
    fail_type(
        "Reference: give exactly one of kinetic_energy, total_energy, momentum, gamma, "
        "beta_gamma; " +
        (given.empty() ? std::string("none was given") : "given: " + given));
  }
  return chosen->make(particle, number(chosen->value, std::string("Reference: ") + chosen->name));
}

std::string repr(const species& p) {
  return "Species(name=" + repr_of(nb::cast(p.name)) + ", mass=" + number_text(p.mass_eV) +
         ", charge=" + number_text(p.charge) + ", anomaly=" + number_text(p.anomaly) + ")";
}

bool is_known(const species& p) {
  const auto names = beam::species_names();
  return std::ranges::find(names, p.name) != names.end() && beam::make_species(p.name) == p;
}

std::string repr(const reference& r) {
  return "Reference(" +
         (is_known(r.particle) ? repr_of(nb::cast(r.particle.name)) : repr(r.particle)) +
         ", kinetic_energy=" + number_text(r.kinetic_energy()) + ", s=" + number_text(r.s) +
         ", t=" + number_text(r.t) + ", position=(" + number_text(r.position[0]) + ", " +
         number_text(r.position[1]) + ", " + number_text(r.position[2]) + "))";
}

void bind_species(nb::module_& m) {
  nb::class_<species>(m, "Species", R"(A particle species, a constant value.

Species("proton") is one of the known species: see `Species.names()`.
Species(name="C6+", mass=11.1779e9, charge=6) is one of your own.

name: as reported in tables and files
mass: rest energy m c^2 in eV, > 0
charge: signed, in units of the elementary charge, not 0
anomaly: gyromagnetic anomaly (g - 2)/2

Raises ValueError for an unknown name without mass and charge, and for values out of range.)")
      .def(
          "__init__",
          [](species* self, std::string name, nb::handle mass, nb::handle charge,
             nb::handle anomaly) {
            if (mass.is_none() && charge.is_none() && anomaly.is_none()) {
              new (self) species(beam::make_species(name));
              return;
            }
            if (mass.is_none() || charge.is_none()) {
              fail_type("Species '" + name +
                        "': give both mass (eV) and charge (units of e), or neither");
            }
            new (self) species(beam::make_ion(
                std::move(name), number(mass, "Species: mass"), number(charge, "Species: charge"),
                anomaly.is_none() ? 0 : number(anomaly, "Species: anomaly")));
          },
          "name"_a, "mass"_a = nb::none(), "charge"_a = nb::none(), "anomaly"_a = nb::none(),
          nb::sig("def __init__(self, name: str, mass: float | None = None, "
                  "charge: float | None = None, anomaly: float | None = None) -> None"))
      .def_static("names", &beam::species_names, "The names of the known species.")
      .def_ro("name", &species::name)
      .def_ro("mass", &species::mass_eV, "Rest energy m c^2 [eV].")
      .def_ro("charge", &species::charge, "Signed charge [e].")
      .def_ro("anomaly", &species::anomaly, "Gyromagnetic anomaly (g - 2)/2.")
      .def(nb::self == nb::self, nb::sig("def __eq__(self, other: object, /) -> bool"))
      .def("__hash__",
           [](const species& p) {
             return nb::hash(nb::make_tuple(p.name, p.mass_eV, p.charge, p.anomaly));
           })
      .def("__repr__", [](const species& p) { return repr(p); })
      .def("__getstate__",
           [](const species& p) { return std::make_tuple(p.name, p.mass_eV, p.charge, p.anomaly); })
      .def("__setstate__",
           [](species& p, const std::tuple<std::string, double, double, double>& state) {
             const auto& [name, mass_eV, charge, anomaly] = state;
             new (&p) species{name, mass_eV, charge, anomaly};
           });
}

void bind_reference(nb::module_& m) {
  nb::class_<reference>(m, "Reference",
                        R"(The reference particle: species, energy and place. A constant value.

species: name of a known species, or a Species
exactly one measure of the energy:
    kinetic_energy, total_energy in eV; momentum in eV/c; gamma; beta_gamma
s: path length along the reference orbit [m]
t: c times the time of flight [m]
position: in the laboratory, (x, y, z) [m]
frame: 3 x 3; its rows are the unit vectors ex, ey, ez of the co-moving frame in laboratory
    coordinates, ez the direction of flight

Raises TypeError unless exactly one measure of the energy is given, and ValueError for an unknown
species, an energy that is not finite or not above rest, or a frame that is not a rotation.)")
      .def(
          "__init__",
          [](reference* self, nb::handle particle, nb::handle kinetic_energy,
             nb::handle total_energy, nb::handle momentum, nb::handle gamma, nb::handle beta_gamma,
             nb::handle s, nb::handle t, nb::handle position, nb::handle frame) {
            reference r = reference_from(species_from(particle, "Reference: species"),
                                         kinetic_energy, total_energy, momentum, gamma, beta_gamma);
            place(r, s, t, position, frame, "Reference: ");
            new (self) reference(std::move(r));
          },
          "species"_a, nb::kw_only(), "kinetic_energy"_a = nb::none(),
          "total_energy"_a = nb::none(), "momentum"_a = nb::none(), "gamma"_a = nb::none(),
          "beta_gamma"_a = nb::none(), "s"_a = 0.0, "t"_a = 0.0, "position"_a = nb::none(),
          "frame"_a = nb::none(),
          nb::sig(
              "def __init__(self, species: str | Species, *, kinetic_energy: float | None = None, "
              "total_energy: float | None = None, momentum: float | None = None, "
              "gamma: float | None = None, beta_gamma: float | None = None, "
              "s: float = 0.0, t: float = 0.0, position: numpy.typing.ArrayLike | None = None, "
              "frame: numpy.typing.ArrayLike | None = None) -> None"))
      .def_ro("species", &reference::particle)
      .def_ro("s", &reference::s, "Path length along the reference orbit [m].")
      .def_ro("t", &reference::t, "c times the time of flight [m].")
      .def_prop_ro(
          "position", [](const reference& r) { return array_of<const double>(r.position, {3}); },
          own_array, "Laboratory position (x, y, z) [m].")
      .def_prop_ro(
          "frame", [](const reference& r) { return array_of<const double>(r.frame, {3, 3}); },
          own_array, "3 x 3; rows are the unit vectors ex, ey, ez in laboratory coordinates.")
      .def_ro("gamma_minus_1", &reference::kinetic,
              "gamma - 1 = (kinetic energy)/(m c^2), without cancellation at low energy.")
      .def_prop_ro("gamma", &reference::gamma)
      .def_prop_ro("beta", &reference::beta)
      .def_prop_ro("beta_gamma", &reference::beta_gamma)
      .def_prop_ro("kinetic_energy", &reference::kinetic_energy, "eV")
      .def_prop_ro("total_energy", &reference::total_energy, "eV")
      .def_prop_ro("momentum", &reference::momentum, "eV/c")
      .def_prop_ro("rigidity", &reference::rigidity, "p0/q [T m], with the sign of the charge.")
      .def(
          "copy",
          [](reference r, nb::handle s, nb::handle t, nb::handle position, nb::handle frame) {
            place(r, s, t, position, frame, "Reference.copy: ");
            return r;
          },
          nb::kw_only(), "s"_a = nb::none(), "t"_a = nb::none(), "position"_a = nb::none(),
          "frame"_a = nb::none(),
          nb::sig("def copy(self, *, s: float | None = None, t: float | None = None, "
                  "position: numpy.typing.ArrayLike | None = None, "
                  "frame: numpy.typing.ArrayLike | None = None) -> Reference"),
          "The same reference particle, put at another place where that is given.")
      .def_static(
          "from_gamma_minus_1",
          [](nb::handle particle, nb::handle gamma_minus_1, nb::handle s, nb::handle t,
             nb::handle position, nb::handle frame) {
            reference r;
            r.particle = species_from(particle, "Reference: species");
            r.kinetic = finite_number(gamma_minus_1, "Reference: gamma_minus_1");
            if (!(r.kinetic > 0)) {
              fail_value("Reference: gamma_minus_1 = " + number_text(r.kinetic) +
                         " must be finite and > 0");
            }
            place(r, s, t, position, frame, "Reference: ");
            return r;
          },
          "species"_a, "gamma_minus_1"_a, "s"_a = 0.0, "t"_a = 0.0, "position"_a = nb::none(),
          "frame"_a = nb::none(),
          nb::sig("def from_gamma_minus_1(species: str | Species, gamma_minus_1: float, "
                  "s: float = 0.0, t: float = 0.0, position: ArrayLike | None = None, "
                  "frame: ArrayLike | None = None) -> Reference"),
          "From the number that a reference particle keeps: files and pickles give back the same "
          "bits.")
      .def(nb::self == nb::self, nb::sig("def __eq__(self, other: object, /) -> bool"))
      .def("__hash__",
           [](const reference& r) {
             return nb::hash(nb::make_tuple(r.particle, r.kinetic, r.s, r.t,
                                            nb::tuple(nb::cast(r.position)),
                                            nb::tuple(nb::cast(r.frame))));
           })
      .def("__repr__", [](const reference& r) { return repr(r); })
      .def("__getstate__",
           [](const reference& r) {
             return std::make_tuple(r.particle, r.kinetic, r.s, r.t, r.position, r.frame);
           })
      .def("__setstate__",
           [](reference& r, const std::tuple<species, double, double, double, std::array<double, 3>,
                                             std::array<double, 9>>& state) {
             const auto& [particle, kinetic, s, t, position, frame] = state;
             new (&r) reference{particle, kinetic, s, t, position, frame};
           });
}

// --- distributions -------------------------------------------------------------------------------

void bind_distribution(nb::module_& m) {
  using plane_numbers = std::array<std::array<double, 3>, 3>;
  const auto dispersion_of = [](const std::array<double, 4>& d) {
    return beam::dispersion_vector{d[0], d[1], d[2], d[3]};
  };

  const auto at_radii = [](double (beam::thermal_profile::*of)(double) const) {
    return [of](const beam::thermal_profile& p,
                const nb::ndarray<const double, nb::ndim<1>, nb::c_contig, nb::device::cpu>& r) {
      std::vector<double> values(r.size());
      for (std::size_t i = 0; i < values.size(); ++i) values[i] = (p.*of)(r(i));
      const std::size_t n = values.size();
      return array_of<double>(std::move(values), {n});
    };
  };
  nb::class_<beam::thermal_profile>(m, "ThermalProfile",
                                    "The radial profile of a thermal beam in its rest frame: see "
                                    "betatron.Thermal.")
      .def_prop_ro("sigma_position", &beam::thermal_profile::sigma_position,
                   "rms x, y and beta gamma t [m].")
      .def_prop_ro("sigma_momentum", &beam::thermal_profile::sigma_momentum,
                   "rms px, py and pt/(beta gamma).")
      .def_prop_ro("focusing_left", &beam::thermal_profile::focusing_left,
                   "Part of the focusing at the centre that the field of the beam leaves over.")
      .def_prop_ro("edge", &beam::thermal_profile::edge,
                   "Radius beyond which there is nobody, to double precision [m].")
      .def_prop_ro(
          "central_densities",
          [](const beam::thermal_profile& p) {
            return std::make_tuple(p.central_density(0), p.central_density(1));
          },
          "Densities of core and halo at the centre [1/m^3]; the integral of both is 1.")
      .def("density", at_radii(&beam::thermal_profile::density), "radius"_a,
           "Density [1/m^3] at radii [m], of integral 1; shape (n,).")
      .def("potential", at_radii(&beam::thermal_profile::potential), "radius"_a,
           "The part of the Hamiltonian that depends on the radius [m], shape (n,).");

  nb::class_<distribution>(m, "Distribution",
                           "What an initial beam is drawn from; see betatron.distributions.")
      .def_static(
          "from_ellipse",
          [dispersion_of](std::string_view shape, const plane_numbers& p,
                          const std::array<double, 4>& dispersion,
                          const std::array<double, 6>& mean) {
            std::array<beam::ellipse_parameters, 3> planes;
            for (std::size_t i = 0; i < 3; ++i) planes[i] = {p[i][0], p[i][1], p[i][2]};
            return distribution::from_ellipse(beam::shape_from_name(shape), planes,
                                              dispersion_of(dispersion), mean);
          },
          "shape"_a, "planes"_a, "dispersion"_a, "mean"_a,
          "planes: (lambda_q, lambda_p, mu) of x, y and t.")
      .def_static(
          "from_twiss",
          [dispersion_of](std::string_view shape, const plane_numbers& p,
                          const std::array<double, 4>& dispersion,
                          const std::array<double, 6>& mean) {
            std::array<beam::courant_snyder_parameters, 3> planes;
            for (std::size_t i = 0; i < 3; ++i) planes[i] = {p[i][0], p[i][1], p[i][2]};
            return distribution::from_twiss(beam::shape_from_name(shape), planes,
                                            dispersion_of(dispersion), mean);
          },
          "shape"_a, "planes"_a, "dispersion"_a, "mean"_a,
          "planes: (beta, alpha, emittance) of x, y and t.")
      .def_static(
          "from_covariance",
          [](std::string_view shape, const std::array<double, 36>& covariance,
             const std::array<double, 6>& mean) {
            return distribution::from_covariance(beam::shape_from_name(shape), covariance, mean);
          },
          "shape"_a, "covariance"_a, "mean"_a, "covariance: 36 numbers, row-major.")
      .def_static(
          "from_thermal",
          [](double k, double kT, double kT_halo, double halo, const reference& ref, double charge,
             const std::array<double, 6>& mean) {
            return distribution::from_thermal({k, kT, kT_halo, halo}, ref, charge, mean);
          },
          "k"_a, "kT"_a, "kT_halo"_a, "halo"_a, "reference"_a, "charge"_a, "mean"_a)
      .def_prop_ro(
          "profile", [](const distribution& d) { return d.profile; },
          "The radial profile of a thermal beam, else None.")
      .def("with_cuts", &distribution::with_cuts, "x"_a, "y"_a, "t"_a)
      .def_prop_ro("shape",
                   [](const distribution& d) { return std::string(beam::name_of(d.kind)); })
      .def_prop_ro(
          "covariance", [](const distribution& d) { return array_of(d.covariance(), {6, 6}); },
          own_array)
      .def_prop_ro(
          "mean", [](const distribution& d) { return array_of(d.mean, {6}); }, own_array)
      .def_ro("cuts", &distribution::cut)
      .def("__getstate__",
           [](const distribution& d) {
             if (d.profile) fail_type("a thermal distribution is pickled as betatron.Thermal");
             return std::make_tuple(std::string(beam::name_of(d.kind)), d.factor, d.mean, d.cut);
           })
      .def("__setstate__",
           [](distribution& d, const std::tuple<std::string, beam::matrix6, std::array<double, 6>,
                                                std::array<double, 3>>& state) {
             const auto& [shape, factor, mean, cut] = state;
             new (&d) distribution{beam::shape_from_name(shape), factor, mean, cut, nullptr};
           });
}

// --- beams on arrays of others -------------------------------------------------------------------

beam::precision precision_from(const std::string& name) {
  if (name == "single") return beam::precision::single;
  if (name == "double") return beam::precision::double_;
  fail_value("Beam: precision = '" + name + "' must be 'single' or 'double'");
}

bool on_host(int device) {
  return device == nb::device::cpu::value || device == nb::device::cuda_host::value ||
         device == nb::device::rocm_host::value || device == nb::device::cuda_managed::value;
}

std::string dtype_name(nb::dlpack::dtype type) {
  using code = nb::dlpack::dtype_code;
  const std::string bits = std::to_string(type.bits);
  switch (static_cast<code>(type.code)) {
    case code::Int:
      return "int" + bits;
    case code::UInt:
      return "uint" + bits;
    case code::Float:
      return "float" + bits;
    case code::Bfloat:
      return "bfloat" + bits;
    case code::Complex:
      return "complex" + bits;
    case code::Bool:
      return "bool";
    default:
      return "of DLPack type code " + std::to_string(type.code);
  }
}

/// An array as another library made it, after the checks that do not depend on its type.
struct lent_array {
  const char* name;
  nb::ndarray<nb::ro> array;

  lent_array(const char* array_name, nb::handle from) : name(array_name) {
    if (!nb::try_cast(from, array, false)) {
      fail_type(where() + "cannot be used as an array: " + type_of(from) +
                " offers neither DLPack nor the buffer protocol");
    }
    if (array.ndim() != 1) {
      fail_value(where() + "has " + std::to_string(array.ndim()) + " dimensions, must have one");
    }
    if (!on_host(array.device_type())) {
      fail_value(where() + "is in the memory of a GPU or other device; copy it to the host first");
    }
  }

  /// Start of the messages about it.
  std::string where() const { return "Beam.from_arrays: " + std::string(name) + " "; }

  /// Its numbers, of type T and contiguous.
  template <class T>
  std::span<const T> values(const std::string& because) const {
    if (array.dtype() != nb::dtype<T>()) {
      fail_type(where() + "is " + dtype_name(array.dtype()) + ", must be " +
                dtype_name(nb::dtype<T>()) + because);
    }
    if (array.size() > 1 && array.stride(0) != 1) {
      fail_value(
          where() + "is not contiguous (a step of " + std::to_string(array.stride(0)) +
          " numbers from one to the next): it cannot be used without a copy; pass copy=True");
    }
    const auto* data = static_cast<const T*>(array.data());
    if (reinterpret_cast<std::uintptr_t>(data) % alignof(T) != 0) {
      fail_value(where() +
                 "is not aligned in memory: it cannot be used without a copy; pass copy=True");
    }
    return {data, array.size()};
  }
};

/// Arrays that a beam is to write to: one must not be part of another.
void check_disjoint(const std::vector<lent_array>& arrays) {
  struct interval {
    std::uintptr_t begin, end;
    const char* name;
  };
  std::vector<interval> intervals;
  for (const lent_array& a : arrays) {
    const auto begin = reinterpret_cast<std::uintptr_t>(a.array.data());
    if (a.array.nbytes() > 0) intervals.push_back({begin, begin + a.array.nbytes(), a.name});
  }
  std::ranges::sort(intervals, {}, &interval::begin);
  for (std::size_t i = 1; i < intervals.size(); ++i) {
    if (intervals[i].begin < intervals[i - 1].end) {
      fail_value("Beam.from_arrays: " + std::string(intervals[i - 1].name) + " and " +
                 intervals[i].name +
                 " share memory; a beam without a copy needs arrays that do not overlap");
    }
  }
}

template <class F>
bunch bunch_from(reference ref, const std::vector<lent_array>& z, const lent_array* weight,
                 const lent_array* id, const std::vector<lent_array>& spin, bool copy,
                 const std::vector<nb::object>& objects) {
  const std::string like_x = " like x";
  beam::bunch_arrays<const F> arrays;
  for (std::size_t i = 0; i < 6; ++i) arrays.z[i] = z[i].values<F>(like_x);
  if (weight != nullptr) arrays.weight = weight->values<F>(like_x);
  if (id != nullptr) arrays.id = id->values<std::uint64_t>("");
  if (!spin.empty()) {
    arrays.spin = {spin[0].values<F>(like_x), spin[1].values<F>(like_x), spin[2].values<F>(like_x)};
  }
  if (copy) return bunch::copy_of(std::move(ref), arrays);

  std::vector<lent_array> all = z;
  if (weight != nullptr) all.push_back(*weight);
  if (id != nullptr) all.push_back(*id);
  all.insert(all.end(), spin.begin(), spin.end());
  check_disjoint(all);
  auto lenders = std::make_shared<std::vector<nb::ndarray<>>>();
  for (std::size_t i = 0; i < all.size(); ++i) {
    nb::ndarray<> writable;
    if (!nb::try_cast(objects[i], writable, false)) {
      fail_value(all[i].where() + "is read-only: it cannot be used without a copy; pass copy=True");
    }
    lenders->push_back(std::move(writable));
  }
  const auto lent = [&]<class T>(std::size_t i, std::span<const T> values) {
    return std::span<T>(static_cast<T*>((*lenders)[i].data()), values.size());
  };
  beam::bunch_arrays<F> writable;
  for (std::size_t i = 0; i < 6; ++i) writable.z[i] = lent(i, arrays.z[i]);
  if (arrays.weight) writable.weight = lent(6, *arrays.weight);
  std::size_t next = arrays.weight ? 7 : 6;
  if (arrays.id) writable.id = lent(next++, *arrays.id);
  if (arrays.spin) {
    const auto& s = *arrays.spin;
    writable.spin = {lent(next, s[0]), lent(next + 1, s[1]), lent(next + 2, s[2])};
  }
  return bunch::borrow(std::move(ref), writable, lenders);
}

bunch from_arrays(const reference& ref, const std::vector<nb::object>& z, const nb::object& weight,
                  const nb::object& id, const std::vector<nb::object>& spin, bool copy) {
  if (z.size() != 6) fail_value("Bunch.from_arrays: z must be the arrays x, px, y, py, t, pt");
  if (!spin.empty() && spin.size() != 3) {
    fail_value("Bunch.from_arrays: spin must be the arrays sx, sy, sz, or empty");
  }
  std::vector<nb::object> objects = z;
  std::vector<lent_array> arrays;
  for (std::size_t i = 0; i < 6; ++i) arrays.emplace_back(beam::column_names[i], z[i]);
  std::optional<lent_array> weights, ids;
  if (!weight.is_none()) {
    weights.emplace("weight", weight);
    objects.push_back(weight);
  }
  if (!id.is_none()) {
    ids.emplace("id", id);
    objects.push_back(id);
  }
  std::vector<lent_array> spins;
  for (std::size_t i = 0; i < spin.size(); ++i) {
    spins.emplace_back(beam::spin_names[i], spin[i]);
    objects.push_back(spin[i]);
  }
  const auto make = [&]<class F>(F) {
    return bunch_from<F>(ref, arrays, weights ? &*weights : nullptr, ids ? &*ids : nullptr, spins,
                         copy, objects);
  };
  const auto type = arrays[0].array.dtype();
  if (type == nb::dtype<double>()) return make(double());
  if (type == nb::dtype<float>()) return make(float());
  fail_type(arrays[0].where() + "is " + dtype_name(type) + ", must be float64 or float32");
}

// --- beams ---------------------------------------------------------------------------------------

/// What keeps a bunch's columns in memory, as the owner of an array.
nb::capsule keeper(const bunch& b) {
  return nb::capsule(new std::shared_ptr<void>(b.memory()),
                     [](void* p) noexcept { delete static_cast<std::shared_ptr<void>*>(p); });
}

nb::object column(bunch& b, std::size_t i) {
  if (i > (b.has_spin() ? 9 : 6)) {
    throw nb::index_error(
        "Bunch.column: 0 to 5 are the coordinates, 6 is the weight, 7 to 9 the spin of a beam that "
        "has it");
  }
  return b.visit([&]<class F>(const beam::columns<F>& c) {
    return nb::cast(array<F>(i < 6    ? c.z[i]
                             : i == 6 ? c.weight
                                      : c.spin[i - 7],
                             {c.size}, keeper(b)));
  });
}

array<std::uint64_t> ids(bunch& b) {
  return b.visit([&](const auto& c) { return array<std::uint64_t>(c.id, {c.size}, keeper(b)); });
}

/// All six coordinates as one array, where they lie at equal distances (as they do in a bunch that
/// owns them).
nb::object block(bunch& b) {
  return b.visit([&]<class F>(const beam::columns<F>& c) {
    const auto distance =
        [&](std::size_t i) {  // bytes; of integers, as pointers into different arrays have none
          return static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(c.z[i]) -
                                           reinterpret_cast<std::uintptr_t>(c.z[0]));
        };
    const std::int64_t step = distance(1);
    bool regular = step % static_cast<std::int64_t>(sizeof(F)) == 0;
    for (std::size_t i = 2; i < 6; ++i)
      regular = regular && distance(i) == static_cast<std::int64_t>(i) * step;
    if (!regular) {
      fail_value(
          "beam.array: the columns are separate arrays that were given to the beam, not one "
          "block; use beam.copy().array");
    }
    return nb::cast(
        array<F>(c.z[0], {6, c.size}, keeper(b), {step / static_cast<std::int64_t>(sizeof(F)), 1}));
  });
}

/// A copy in precision p.
bunch converted(const bunch& from, beam::precision p) {
  if (p == from.precision()) return from;
  bunch to(from.ref, from.size(), p);
  to.lost = from.lost;
  if (from.has_spin()) to.set_spin({0, 0, 1});
  to.visit([&]<class F>(const beam::columns<F>& c) {
    from.visit([&](const auto& old) {
      const auto convert = [&](const auto* source, F* target) {
        std::transform(source, source + old.size, target,
                       [](auto value) { return static_cast<F>(value); });
      };
      for (std::size_t i = 0; i < 6; ++i) convert(old.z[i], c.z[i]);
      convert(old.weight, c.weight);
      std::copy_n(old.id, old.size, c.id);
      for (std::size_t i = 0; old.has_spin() && i < 3; ++i) convert(old.spin[i], c.spin[i]);
    });
  });
  to.check_finite();
  return to;
}

constexpr std::array reasons = {beam::loss_reason::aperture, beam::loss_reason::non_finite,
                                beam::loss_reason::outside_domain,
                                beam::loss_reason::outside_bucket, beam::loss_reason::user};

constexpr double no_number = std::numeric_limits<double>::quiet_NaN();

/// Lost particles as columns; sx, sy, sz (NaN where there is none) only of beams with spins.
nb::dict lost_columns(const bunch& b) {
  nb::dict columns;
  const auto add = [&](const char* name, auto&& of) {
    using T = decltype(of(b.lost[0]));
    std::vector<T> values(b.lost.size());
    std::ranges::transform(b.lost, values.begin(), of);
    const std::size_t n = values.size();
    columns[name] = array_of<T>(std::move(values), {n});
  };
  using particle = const beam::lost_particle&;
  add("id", [](particle p) { return p.id; });
  add("x", [](particle p) { return p.x; });
  add("px", [](particle p) { return p.px; });
  add("y", [](particle p) { return p.y; });
  add("py", [](particle p) { return p.py; });
  add("t", [](particle p) { return p.t; });
  add("pt", [](particle p) { return p.pt; });
  add("weight", [](particle p) { return p.weight; });
  const bool spins =
      b.has_spin() || std::ranges::any_of(b.lost, [](particle p) { return p.spin.has_value(); });
  for (std::size_t i = 0; spins && i < 3; ++i) {
    add(beam::spin_names[i], [i](particle p) { return p.spin ? (*p.spin)[i] : no_number; });
  }
  add("s", [](particle p) { return p.s; });
  add("turn", [](particle p) { return p.turn; });
  add("element", [](particle p) { return p.element; });
  add("reason", [](particle p) { return static_cast<std::uint8_t>(p.reason); });
  return columns;
}

template <class T>
using column_argument = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

void set_lost(bunch& b, const column_argument<std::uint64_t>& id, const column_argument<double>& x,
              const column_argument<double>& px, const column_argument<double>& y,
              const column_argument<double>& py, const column_argument<double>& t,
              const column_argument<double>& pt, const column_argument<double>& weight,
              const column_argument<double>& s, const column_argument<std::int64_t>& turn,
              const column_argument<std::int64_t>& element,
              const column_argument<std::uint8_t>& reason,
              const std::optional<column_argument<double>>& sx,
              const std::optional<column_argument<double>>& sy,
              const std::optional<column_argument<double>>& sz) {
  const std::size_t n = id.size();
  for (const std::size_t size :
       {x.size(), px.size(), y.size(), py.size(), t.size(), pt.size(), weight.size(), s.size(),
        turn.size(), element.size(), reason.size()}) {
    if (size != n) fail_value("Bunch.set_lost: all arrays must have the same length");
  }
  const bool spins = sx && sy && sz;
  if (spins && (sx->size() != n || sy->size() != n || sz->size() != n)) {
    fail_value("Bunch.set_lost: all arrays must have the same length");
  }
  std::vector<beam::lost_particle> lost;
  lost.reserve(n);
  for (std::size_t k = 0; k < n; ++k) {
    if (reason(k) >= reasons.size()) {
      fail_value("Bunch.set_lost: reason[" + std::to_string(k) + "] = " +
                 std::to_string(reason(k)) + " must be below " + std::to_string(reasons.size()));
    }
    lost.push_back({id(k), x(k), px(k), y(k), py(k), t(k), pt(k), weight(k), s(k), turn(k),
                    element(k), reasons[reason(k)]});
    if (spins && std::isfinite((*sx)(k))) lost.back().spin = {(*sx)(k), (*sy)(k), (*sz)(k)};
  }
  b.lost = std::move(lost);
}

void bind_bunch(nb::module_& m) {
  using unlocked = nb::call_guard<nb::gil_scoped_release>;

  std::vector<std::string> reason_names;
  for (const beam::loss_reason r : reasons) reason_names.emplace_back(beam::name_of(r));
  m.attr("loss_reasons") = nb::tuple(nb::cast(reason_names));

  m.attr("summary_names") = nb::tuple(
      nb::cast(std::vector<std::string>(beam::summary_names.begin(), beam::summary_names.end())));

  m.attr("spin_summary_names") = nb::tuple(nb::cast(
      std::vector<std::string>(beam::spin_summary_names.begin(), beam::spin_summary_names.end())));

  nb::class_<bunch>(m, "Bunch",
                    "Particles, their reference particle, and those that were lost: the base of "
                    "betatron.Beam.")
      .def(
          "__init__",
          [](bunch* self, const reference& ref, std::size_t n, const std::string& precision) {
            new (self) bunch(ref, n, precision_from(precision));
          },
          "reference"_a, "n"_a, "precision"_a, "n particles on the reference orbit.")
      .def(
          "__init__",
          [](bunch* self, const reference& ref, const distribution& from, std::size_t n,
             std::uint64_t seed, const std::string& precision, unsigned threads) {
            const beam::precision p = precision_from(precision);
            nb::gil_scoped_release released;
            new (self) bunch(bunch::sample(ref, from, n, seed, p, threads));
          },
          "reference"_a, "distribution"_a, "n"_a, "seed"_a, "precision"_a, "threads"_a = 0,
          "n particles drawn from a distribution.")
      .def(
          "__init__",
          [](bunch* self, const reference& ref, const std::vector<nb::object>& z,
             const nb::object& weight, const nb::object& id, const std::vector<nb::object>& spin,
             bool copy) { new (self) bunch(from_arrays(ref, z, weight, id, spin, copy)); },
          "reference"_a, "z"_a, "weight"_a.none(), "id"_a.none(), "spin"_a, "copy"_a,
          "Particles from arrays; z: the six arrays x, px, y, py, t, pt; spin: sx, sy, sz, or "
          "empty.")
      .def(
          "__init__",
          [](bunch* self, const bunch& other, const std::string& precision) {
            const beam::precision p = precision_from(precision);
            nb::gil_scoped_release released;
            new (self) bunch(converted(other, p));
          },
          "other"_a, "precision"_a, "A copy, in a precision of its own.")
      .def("__len__", &bunch::size)
      .def_prop_ro(
          "precision", [](const bunch& b) { return std::string(beam::name_of(b.precision())); },
          "'single' or 'double'.")
      .def_prop_rw(
          "reference", [](const bunch& b) { return b.ref; },
          [](bunch& b, const reference& ref) { b.ref = ref; },
          "The reference particle. It moves along with the beam: what was read stays as it was.")
      .def_prop_ro("charge", &bunch::charge, unlocked(),
                   "Charge of the beam [C], with the sign of the species.")
      .def("set_charge", &bunch::set_charge, "coulomb"_a, unlocked(),
           "Scale all weights so that the magnitude of the charge is `coulomb`. Raises ValueError "
           "unless it is finite and >= 0, and where no particle has a weight that could carry it.")
      .def("column", &column, "index"_a,
           nb::sig("def column(self, index: int) -> numpy.typing.NDArray"),
           "View of x, px, y, py, t, pt, weight or (of a beam with spins) sx, sy, sz, counted from "
           "0.")
      .def_prop_ro("has_spin", &bunch::has_spin, "Whether the particles have spins.")
      .def("set_spin", nb::overload_cast<const std::array<double, 3>&>(&bunch::set_spin),
           "direction"_a, "The same spin, a unit vector, for all particles.")
      .def(
          "set_spin",
          [](bunch& b, const column_argument<double>& sx, const column_argument<double>& sy,
             const column_argument<double>& sz) {
            b.set_spin({std::span(sx.data(), sx.size()), std::span(sy.data(), sy.size()),
                        std::span(sz.data(), sz.size())});
          },
          "sx"_a, "sy"_a, "sz"_a, "Spins from arrays, copied.")
      .def("sample_spin", &bunch::sample_spin, "polarization"_a, "seed"_a, "threads"_a = 0,
           unlocked(), "Spins drawn with a mean.")
      .def_prop_ro("id", &ids, own_array,
                   "View of the numbers that stay with the particles, shape (n,), uint64.")
      .def_prop_ro("array", &block,
                   nb::for_getter(nb::sig("def array(self, /) -> numpy.typing.NDArray")),
                   "View of the six coordinates as one array of shape (6, n). Raises ValueError if "
                   "the beam works on separate arrays of the user.")
      .def(
          "summary",
          [](const bunch& b, unsigned threads) {
            const auto row = [&] {
              nb::gil_scoped_release released;
              const beam::moments of_all = b.moments(threads);
              const auto values = beam::summarise(of_all, b.ref);
              std::vector<double> all(values.begin(), values.end());
              if (b.has_spin()) {
                const auto spin = beam::summarise_spin(of_all);
                all.insert(all.end(), spin.begin(), spin.end());
              }
              return all;
            }();
            const std::size_t n = row.size();
            return array_of<double>(row, {n});
          },
          "threads"_a = 0,
          "The values that `summary_names` names, and of a beam with spins `spin_summary_names`.")
      .def(
          "covariance",
          [](const bunch& b) {
            const beam::moments of_all = [&] {
              nb::gil_scoped_release released;
              return b.moments(0);
            }();
            return array_of(of_all.cov, {6, 6});
          },
          "Covariance matrix of x, px, y, py, t, pt, shape (6, 6): weighted, about the mean, of "
          "the population.")
      .def("check_finite", &bunch::check_finite, unlocked(),
           "Raises ValueError naming the first coordinate or weight that is not finite, or the "
           "first weight below 0.")
      .def_prop_ro(
          "n_lost", [](const bunch& b) { return b.lost.size(); }, "Number of lost particles.")
      .def("lost_columns", &lost_columns,
           "Columns of the lost particles; `reason` is an index into `loss_reasons`.")
      .def("set_lost", &set_lost, "id"_a, "x"_a, "px"_a, "y"_a, "py"_a, "t"_a, "pt"_a, "weight"_a,
           "s"_a, "turn"_a, "element"_a, "reason"_a, "sx"_a = nb::none(), "sy"_a = nb::none(),
           "sz"_a = nb::none(), "The inverse of `lost_columns`.");
}

}  // namespace

void bind_beam(nb::module_& m) {
  bind_species(m);
  bind_reference(m);
  bind_distribution(m);
  bind_bunch(m);
}

}  // namespace betatron::bindings
