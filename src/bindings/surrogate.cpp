// surrogate.cpp: networks for Python: their description, evaluation on columns, vector-Jacobian products.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <array>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "bindings/arrays.h"
#include "bindings/bindings.h"
#include "bindings/programmable.h"
#include "surrogate/code_generation.h"
#include "surrogate/inference.h"
#include "surrogate/network.h"
#include "surrogate/network_map.h"
#include "tracking/cpu/executor.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace betatron::bindings {

namespace {

using surrogate::dense_layer;
using surrogate::evaluator;
using surrogate::network;
using surrogate::normalisation;
using surrogate::number_format;

using numbers = nb::ndarray<const double, nb::c_contig, nb::device::cpu>;

std::vector<double> vector_of(const numbers& a) { return {a.data(), a.data() + a.size()}; }

const std::array<const char*, 3> format_names{"float32", "float64", "bfloat16"};

number_format format_named(const std::string& name) {
  for (std::size_t i = 0; i < format_names.size(); ++i) {
    if (name == format_names[i]) return static_cast<number_format>(i);
  }
  throw std::invalid_argument("format '" + name + "' is not one of float32, float64, bfloat16");
}

/// A network and what was made of it so far.
class prepared_network {
 public:
  explicit prepared_network(network n) : network_(std::move(n)) { check(network_); }

  const network& description() const { return network_; }

  std::shared_ptr<const evaluator> in_format(number_format f) const {
    const std::lock_guard lock(mutex_);
    auto& made = evaluators_[static_cast<std::size_t>(f)];
    if (!made) made = std::make_shared<const evaluator>(network_, f);
    return made;
  }

 private:
  network network_;
  mutable std::mutex mutex_;
  mutable std::array<std::shared_ptr<const evaluator>, 3> evaluators_;
};

template <class F>
using columns_of = std::vector<nb::ndarray<F, nb::ndim<1>, nb::c_contig, nb::device::cpu>>;

/// The first numbers of columns, which all have the same length.
template <class F>
std::vector<F*> pointers(const columns_of<F>& columns, std::size_t wanted, const char* what,
                         std::optional<std::size_t>& length) {
  if (columns.size() != wanted) {
    throw std::invalid_argument(std::string(what) + ": " + std::to_string(columns.size()) +
                                " columns, expected " + std::to_string(wanted));
  }
  std::vector<F*> result;
  for (const auto& c : columns) {
    if (!length) length = c.size();
    if (c.size() != *length) {
      throw std::invalid_argument(std::string(what) + ": a column has " + std::to_string(c.size()) +
                                  " numbers, expected " + std::to_string(*length));
    }
    result.push_back(c.data());
  }
  return result;
}

unsigned thread_count(unsigned threads) {
  return threads == 0 ? tracking::available_threads() : threads;
}

template <class F>
void run(const evaluator& e, const columns_of<const F>& in, const columns_of<F>& out,
         unsigned threads) {
  std::optional<std::size_t> n;
  const auto from = pointers(in, e.inputs(), "in", n);
  const auto to = pointers(out, e.outputs(), "out", n);
  nb::gil_scoped_release unlocked;
  e.run(from.data(), to.data(), *n, thread_count(threads));
}

template <class F>
void pull(const evaluator& e, const columns_of<const F>& in, const columns_of<const F>& out_bar,
          const columns_of<F>& in_bar, unsigned threads) {
  std::optional<std::size_t> n;
  const auto from = pointers(in, e.inputs(), "in", n);
  const auto given = pointers(out_bar, e.outputs(), "out_bar", n);
  const auto to = pointers(in_bar, e.inputs(), "in_bar", n);
  nb::gil_scoped_release unlocked;
  e.pull(from.data(), given.data(), to.data(), *n, thread_count(threads));
}

dense_layer layer_of(const nb::dict& d) {
  dense_layer l;
  l.name = nb::cast<std::string>(d["name"]);
  const auto w = nb::cast<numbers>(d["weights"]);
  if (w.ndim() != 2) {
    throw std::invalid_argument("layer '" + l.name + "': weights have " + std::to_string(w.ndim()) +
                                " axes, expected 2 (outputs, inputs)");
  }
  l.outputs = w.shape(0);
  l.inputs = w.shape(1);
  l.weights = vector_of(w);
  l.bias = vector_of(nb::cast<numbers>(d["bias"]));
  l.slope = vector_of(nb::cast<numbers>(d["slope"]));
  try {
    l.function = surrogate::activation_named(nb::cast<std::string>(d["activation"]));
  } catch (const std::invalid_argument& failure) {
    throw std::invalid_argument("layer '" + l.name + "': " + failure.what());
  }
  l.skip = nb::cast<int>(d["skip"]);
  l.skip_inside = nb::cast<bool>(d["skip_inside"]);
  return l;
}

nb::dict dict_of(const dense_layer& l) {
  nb::dict d;
  d["name"] = l.name;
  d["weights"] = array_of(l.weights, {l.outputs, l.inputs});
  d["bias"] = array_of(l.bias);
  d["activation"] = std::string(surrogate::name_of(l.function));
  d["slope"] = array_of(l.slope);
  d["skip"] = l.skip;
  d["skip_inside"] = l.skip_inside;
  return d;
}

}  // namespace

void bind_surrogate(nb::module_& m) {
  m.def("network_activations", &surrogate::activation_names);
  nb::class_<prepared_network>(m, "Network",
                               "A fully connected network; see betatron.surrogate.Network.")
      .def(
          "__init__",
          [](prepared_network* self, std::string name, const std::vector<nb::dict>& layers,
             const numbers& input_offset, const numbers& input_scale, const numbers& output_offset,
             const numbers& output_scale) {
            network n;
            n.name = std::move(name);
            for (const nb::dict& d : layers) n.layers.push_back(layer_of(d));
            n.input = {vector_of(input_offset), vector_of(input_scale)};
            n.output = {vector_of(output_offset), vector_of(output_scale)};
            new (self) prepared_network(std::move(n));
          },
          "name"_a, "layers"_a, "input_offset"_a, "input_scale"_a, "output_offset"_a,
          "output_scale"_a)
      .def_prop_ro("name", [](const prepared_network& p) { return p.description().name; })
      .def_prop_ro("inputs", [](const prepared_network& p) { return p.description().inputs(); })
      .def_prop_ro("outputs", [](const prepared_network& p) { return p.description().outputs(); })
      .def_prop_ro("parameters",
                   [](const prepared_network& p) { return p.description().parameters(); })
      .def_prop_ro("operations",
                   [](const prepared_network& p) { return p.description().operations(); })
      .def("layers",
           [](const prepared_network& p) {
             std::vector<nb::dict> layers;
             for (const dense_layer& l : p.description().layers) layers.push_back(dict_of(l));
             return layers;
           })
      .def("normalisation",
           [](const prepared_network& p) {
             const network& n = p.description();
             const auto array = [](const std::vector<double>& v) { return array_of(v); };
             return nb::make_tuple(array(n.input.offset), array(n.input.scale),
                                   array(n.output.offset), array(n.output.scale));
           })
      .def(
          "header",
          [](const prepared_network& p, const std::string& name, bool include_weights) {
            const auto code = surrogate::generate_header(p.description(), name, include_weights);
            return nb::make_tuple(code.header, nb::bytes(code.weights.data(), code.weights.size()));
          },
          "name"_a, "include_weights"_a)
      .def(
          "instructions",
          [](const prepared_network& p, const std::string& format) {
            return std::string(p.in_format(format_named(format))->instructions());
          },
          "format"_a)
      .def(
          "run",
          [](const prepared_network& p, const std::string& format,
             const columns_of<const float>& in, const columns_of<float>& out,
             unsigned threads) { run(*p.in_format(format_named(format)), in, out, threads); },
          "format"_a, "in_"_a.noconvert(), "out"_a.noconvert(), "threads"_a = 0)
      .def(
          "run",
          [](const prepared_network& p, const std::string& format,
             const columns_of<const double>& in, const columns_of<double>& out,
             unsigned threads) { run(*p.in_format(format_named(format)), in, out, threads); },
          "format"_a, "in_"_a.noconvert(), "out"_a.noconvert(), "threads"_a = 0)
      .def(
          "pull",
          [](const prepared_network& p, const std::string& format,
             const columns_of<const float>& in, const columns_of<const float>& out_bar,
             const columns_of<float>& in_bar, unsigned threads) {
            pull(*p.in_format(format_named(format)), in, out_bar, in_bar, threads);
          },
          "format"_a, "in_"_a.noconvert(), "out_bar"_a.noconvert(), "in_bar"_a.noconvert(),
          "threads"_a = 0)
      .def(
          "pull",
          [](const prepared_network& p, const std::string& format,
             const columns_of<const double>& in, const columns_of<const double>& out_bar,
             const columns_of<double>& in_bar, unsigned threads) {
            pull(*p.in_format(format_named(format)), in, out_bar, in_bar, threads);
          },
          "format"_a, "in_"_a.noconvert(), "out_bar"_a.noconvert(), "in_bar"_a.noconvert(),
          "threads"_a = 0);

  nb::class_<surrogate::network_map>(m, "NetworkMap",
                                     "A network as a map of coordinates; see betatron.Surrogate.")
      .def(
          "__init__",
          [](surrogate::network_map* self, std::string name, const prepared_network& net,
             const std::string& format, const std::string& coordinates, double length,
             double energy_gain, double xi_entrance, double xi_exit) {
            new (self) surrogate::network_map{std::move(name),
                                              net.description(),
                                              format_named(format),
                                              surrogate::coordinate_form_named(coordinates),
                                              length,
                                              energy_gain,
                                              xi_entrance,
                                              xi_exit};
          },
          "name"_a, "network"_a, "format"_a, "coordinates"_a, "length"_a, "energy_gain"_a,
          "xi_entrance"_a, "xi_exit"_a)
      .def("code", &surrogate::code_of)
      .def_prop_ro("reference", [](const surrogate::network_map& map) {
        return reference_code{[map](beam::reference& ref, const elements::reference_place& at) {
          surrogate::advance(map, ref, at);
        }};
      });
}

}  // namespace betatron::bindings
