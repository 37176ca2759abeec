// envelope_gradient.cpp: reverse mode for second moments; betatron.envelope_gradient is the half that talks.
#include "tracking/envelope_gradient.h"

#include <nanobind/nanobind.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/vector.h>

#include <algorithm>

#include "bindings/arrays.h"
#include "bindings/bindings.h"
#include "bindings/derivatives.h"

namespace nb = nanobind;

namespace betatron::bindings {

void bind_envelope_gradient(nb::module_& m) {
  using tracking::envelope_gradient;
  nb::class_<envelope_gradient>(m, "EnvelopeGradient",
                                "Moments on their way through a line and back.")
      .def(
          "__init__",
          [](envelope_gradient* self, const lattice::line& l, const beam::reference& ref,
             const std::array<double, 6>& mean, const std::vector<double>& covariance,
             const std::vector<knob_tuple>& knobs, bool reference_energy, bool initial_mean,
             const std::vector<std::uint8_t>& recorded, bool record_start,
             const std::vector<tracking::effect>& collective, double charge) {
            tracking::envelope e{ref, mean, {}};
            if (covariance.size() != 36) throw nb::value_error("covariance must be 6 x 6");
            std::copy(covariance.begin(), covariance.end(), e.covariance.begin());
            tracking::envelope_gradient_options o;
            o.knobs = knobs_from(knobs);
            o.reference_energy = reference_energy;
            o.initial_mean = initial_mean;
            o.recorded = recorded;
            o.record_start = record_start;
            o.collective = collective;
            o.charge = charge;
            nb::gil_scoped_release unlocked;
            new (self) envelope_gradient(l, e, std::move(o));
          },
          nb::arg("line"), nb::arg("reference"), nb::arg("mean"), nb::arg("covariance"),
          nb::arg("knobs"), nb::arg("reference_energy"), nb::arg("initial_mean"),
          nb::arg("recorded"), nb::arg("record_start"), nb::arg("collective"), nb::arg("charge"),
          "Tracks forward. knobs: (element, parameter, entry of a list or -1).")
      .def(
          "records",
          [](const envelope_gradient& g) {
            std::vector<double> element, kinetic, mean, cov;
            for (const tracking::moment_record& r : g.records()) {
              element.push_back(r.element);
              kinetic.push_back(r.ref.kinetic);
              mean.insert(mean.end(), r.moments.mean.begin(), r.moments.mean.end());
              cov.insert(cov.end(), r.moments.cov.begin(), r.moments.cov.end());
            }
            const std::size_t n = element.size();
            return nb::make_tuple(array_of(element, {n}), array_of(kinetic, {n}),
                                  array_of(mean, {n, 6}), array_of(cov, {n, 6, 6}));
          },
          "(element, gamma - 1 of the reference, mean, covariance), one entry per record.")
      .def(
          "pull",
          [](const envelope_gradient& g, const doubles& mean, const doubles& cov,
             const doubles& kinetic) {
            const auto by_moments = by_moments_of(mean, cov, kinetic);
            tracking::envelope_pull_result r;
            {
              nb::gil_scoped_release unlocked;
              r = g.pull(by_moments);
            }
            nb::dict d;
            d["knobs"] = array_of(r.knobs);
            d["kinetic"] = r.kinetic;
            d["mean"] = array_of(r.mean, {6});
            d["covariance"] = array_of(r.covariance, {6, 6});
            d["charge"] = r.charge;
            d["strengths"] = array_of(r.strengths);
            return d;
          },
          nb::arg("mean"), nb::arg("covariance"), nb::arg("kinetic"), "The reverse pass.");
}

}  // namespace betatron::bindings
