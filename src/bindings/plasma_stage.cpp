// plasma_stage.cpp: structured plasma stages for Python, as code of an element.
#include "surrogate/plasma_stage.h"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "bindings/bindings.h"
#include "bindings/programmable.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace betatron::bindings {

namespace {

using surrogate::plasma_stage;
using numbers = nb::ndarray<const double, nb::c_contig, nb::device::cpu>;

template <std::size_t N>
void copy(const numbers& from, std::array<double, N>& to, const char* what) {
  if (from.size() != N) {
    throw std::invalid_argument(std::string(what) + " has " + std::to_string(from.size()) +
                                " numbers, expected " + std::to_string(N));
  }
  std::copy_n(from.data(), N, to.data());
}

std::vector<double> vector_of(const numbers& a) { return {a.data(), a.data() + a.size()}; }

surrogate::network network_of(const std::string& name, const nb::dict& d) {
  const auto weights = nb::cast<std::vector<numbers>>(d["weights"]);
  const auto biases = nb::cast<std::vector<numbers>>(d["biases"]);
  if (biases.size() != weights.size()) {
    throw std::invalid_argument("plasma stage '" + name + "': " + std::to_string(weights.size()) +
                                " arrays of weights and " + std::to_string(biases.size()) +
                                " of biases");
  }
  surrogate::network net;
  net.name = name;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    const numbers& w = weights[i];
    if (w.ndim() != 2) {
      throw std::invalid_argument("plasma stage '" + name + "': weights of layer " +
                                  std::to_string(i) + " have " + std::to_string(w.ndim()) +
                                  " axes, expected 2 (outputs, inputs)");
    }
    surrogate::dense_layer l;
    l.name = "layers." + std::to_string(i);
    l.outputs = w.shape(0);
    l.inputs = w.shape(1);
    l.weights = vector_of(w);
    l.bias = vector_of(biases[i]);
    if (i + 1 < weights.size()) l.function = surrogate::activation::tanh;
    net.layers.push_back(std::move(l));
  }
  net.input.offset = vector_of(nb::cast<numbers>(d["feature_mean"]));
  net.input.scale = vector_of(nb::cast<numbers>(d["feature_scale"]));
  for (double& s : net.input.scale) s = 1 / s;
  net.output.offset = vector_of(nb::cast<numbers>(d["output_mean"]));
  net.output.scale = vector_of(nb::cast<numbers>(d["output_scale"]));
  return net;
}

}  // namespace

void bind_plasma_stage(nb::module_& m) {
  nb::class_<plasma_stage>(m, "PlasmaStageCode",
                           "A trained plasma stage; see betatron.PlasmaStageSurrogate.")
      .def(
          "__init__",
          [](plasma_stage* self, std::string name, double length, double focusing, double amplitude,
             double xi, const nb::dict& net, const nb::dict& domain, double limit,
             const numbers& distances, const numbers& gain, double xi_centre,
             const numbers& constant, const std::string& outside) {
            surrogate::stage_description d;
            d.name = std::move(name);
            d.length = length;
            d.focusing = focusing;
            d.amplitude = amplitude;
            d.xi = xi;
            d.net = network_of(d.name, net);
            copy(nb::cast<numbers>(domain["lower"]), d.domain.lower, "lower");
            copy(nb::cast<numbers>(domain["upper"]), d.domain.upper, "upper");
            copy(nb::cast<numbers>(domain["centre"]), d.domain.centre, "centre");
            copy(nb::cast<numbers>(domain["whitening"]), d.domain.whitening, "whitening");
            d.domain.limit = limit;
            d.distances = vector_of(distances);
            copy(gain, d.gain, "gain");
            d.xi_centre = xi_centre;
            copy(constant, d.constant, "constant");
            new (self) plasma_stage(std::move(d), surrogate::outside_policy_named(outside));
          },
          "name"_a, "length"_a, "focusing"_a, "amplitude"_a, "xi"_a, "net"_a, "domain"_a, "limit"_a,
          "distances"_a, "gain"_a, "xi_centre"_a, "constant"_a, "outside"_a)
      .def_prop_ro("code", &plasma_stage::code)
      .def_prop_ro(
          "reference",
          [](const plasma_stage& p) {
            return reference_code{[p](beam::reference& ref, const elements::reference_place& at) {
              p.advance(ref, at);
            }};
          })
      .def_prop_ro("counts",
                   [](const plasma_stage& p) {
                     const surrogate::stage_counts c = p.counts();
                     return nb::make_tuple(c.passed, c.outside, c.by_distance);
                   })
      .def("reset", &plasma_stage::reset);
}

}  // namespace betatron::bindings
