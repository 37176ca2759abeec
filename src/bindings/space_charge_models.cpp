// space_charge_models.cpp: space charge of long and of Gaussian beams, and of envelopes.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>

#include "bindings/bindings.h"
#include "collective/space_charge_2d.h"
#include "collective/space_charge_envelope.h"
#include "collective/space_charge_gaussian.h"
#include "tracking/cpu/executor.h"

namespace nb = nanobind;

namespace betatron::bindings {

void bind_space_charge_models(nb::module_& m) {
  m.def(
      "space_charge_2d",
      [](bool slices, std::array<std::size_t, 2> cells, int shape, double margin,
         std::optional<double> current, const collective::line_options& density, bool longitudinal,
         std::optional<double> scale, int order, double spacing,
         std::optional<collective::pipe_shape> pipe) {
        collective::space_charge_2d_options o;
        o.pipe = pipe;
        o.model = slices ? collective::plane_model::slices : collective::plane_model::beam;
        o.cells = cells;
        o.shape = shape;
        o.margin = margin;
        o.current = current;
        o.density = density;
        o.longitudinal = longitudinal;
        o.scale = scale;
        o.order = order;
        o.spacing = spacing;
        return collective::effect_of(std::make_shared<collective::space_charge_2d>(o));
      },
      nb::arg("slices"), nb::arg("cells"), nb::arg("shape"), nb::arg("margin"),
      nb::arg("current").none(), nb::arg("density"), nb::arg("longitudinal"),
      nb::arg("scale").none(), nb::arg("order"), nb::arg("spacing"), nb::arg("pipe").none());

  m.def(
      "space_charge_2d_memory",
      [](std::array<std::size_t, 2> cells, std::size_t particles,
         std::optional<collective::pipe_shape> pipe) {
        collective::space_charge_2d_options o;
        o.pipe = pipe;
        o.model = collective::plane_model::slices;
        o.cells = cells;
        return collective::space_charge_2d(o).memory(particles);
      },
      nb::arg("cells"), nb::arg("particles"), nb::arg("pipe").none(),
      "Bytes that a kick needs besides the beam.");

  m.def(
      "space_charge_gaussian",
      [](bool slices, double tolerance, const collective::line_options& density, bool longitudinal,
         std::optional<double> scale, int order, double spacing) {
        collective::gaussian_space_charge o;
        o.model =
            slices ? collective::gaussian_model::gauss_2p5d : collective::gaussian_model::gauss_3d;
        o.tolerance = tolerance;
        o.density = density;
        o.longitudinal = longitudinal;
        o.scale = scale;
        return collective::effect_of(o, order, spacing);
      },
      nb::arg("slices"), nb::arg("tolerance"), nb::arg("density"), nb::arg("longitudinal"),
      nb::arg("scale").none(), nb::arg("order"), nb::arg("spacing"));

  m.def(
      "space_charge_envelope",
      [](bool three, std::optional<double> current, int order, double spacing) {
        collective::envelope_space_charge o;
        o.model = three ? collective::envelope_model::beam_3d : collective::envelope_model::beam_2d;
        o.current = current;
        return collective::effect_of(o, order, spacing);
      },
      nb::arg("three"), nb::arg("current").none(), nb::arg("order"), nb::arg("spacing"));

  m.def(
      "kick_once",
      [](const tracking::effect& e, beam::bunch& b, double length, unsigned threads) {
        if (!e.kick) throw nb::value_error((e.name + " has no kick on particles").c_str());
        const lattice::line nowhere;
        tracking::kick_place place;
        place.ref = b.ref;
        place.length = length;
        place.line = &nowhere;
        place.threads = threads != 0 ? threads : tracking::available_threads();
        nb::gil_scoped_release unlocked;
        e.kick(b, place);
      },
      nb::arg("effect"), nb::arg("bunch"), nb::arg("length"), nb::arg("threads"),
      "One kick for a path in a straight section, in place.");
}

}  // namespace betatron::bindings
