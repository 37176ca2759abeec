// gradient.cpp: reverse mode; betatron.gradient is the half that talks.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/optional.h>

#include <memory>
#include <optional>
#include <tuple>

#include "bindings/arrays.h"
#include "bindings/bindings.h"
#include "bindings/derivatives.h"
#include "tracking/gradient.h"
#include "tracking/hessian.h"

namespace nb = nanobind;

namespace betatron::bindings {

namespace {

using lattice::element;
using tracking::gradient;

template <class F>
using columns_array = nb::ndarray<const F, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

/// An array of shape `shape` that shares memory with `data`.
template <class F>
nb::object shared_array(std::shared_ptr<F[]> data, std::initializer_list<std::size_t> shape) {
  auto* holder = new std::shared_ptr<F[]>(std::move(data));
  nb::capsule owner(holder, [](void* p) noexcept { delete static_cast<std::shared_ptr<F[]>*>(p); });
  return nb::cast(nb::ndarray<nb::numpy, F>(holder->get(), shape, owner));
}

/// A gradient and the beam it works on, of either precision.
struct held_gradient {
  gradient g;
  std::size_t size;
  bool single;
};

tracking::reverse_strategy strategy_named(const std::string& name) {
  using enum tracking::reverse_strategy;
  if (name == "rewind") return rewind;
  if (name == "checkpoint") return checkpoint;
  if (name == "auto") return automatic;
  throw nb::value_error(
      ("strategy = '" + name + "' must be 'auto', 'rewind', 'checkpoint' or 'forward'").c_str());
}

template <class F>
void set_particles(std::array<const F*, 6>& to, nb::handle given, std::size_t size) {
  if (given.is_none()) return;
  columns_array<F> columns;
  if (!nb::try_cast(given, columns) || columns.shape(0) != 6 || columns.shape(1) != size) {
    throw nb::value_error(
        "derivatives by particles: must be a contiguous array of shape (6, n) in the precision of the beam");
  }
  for (std::size_t c = 0; c < 6; ++c) to[c] = columns.data() + c * size;
}

template <class F>
nb::dict pull(const held_gradient& h, const std::vector<tracking::moment_derivative>& by_moments,
              nb::handle by_particles, bool initial, bool in_place, const std::string& strategy,
              double tolerance) {
  tracking::pull_request<F> request;
  request.by_moments = by_moments;
  request.strategy = strategy_named(strategy);
  request.tolerance = tolerance;
  set_particles(request.by_particles, by_particles, h.size);
  std::shared_ptr<F[]> out;
  if (initial) {
    out = in_place ? h.g.final_coordinates<F>() : std::make_shared_for_overwrite<F[]>(6 * h.size);
    for (std::size_t c = 0; c < 6; ++c) request.initial[c] = out.get() + c * h.size;
  }
  tracking::pull_result r;
  {
    nb::gil_scoped_release unlocked;
    r = h.g.pull(request);
  }
  nb::dict d;
  d["knobs"] = array_of(r.knobs);
  d["kinetic"] = r.kinetic;
  d["charge"] = r.charge;
  d["rewind_error"] = array_of(r.rewind_error, {6});
  d["relative_rewind_error"] = r.relative_rewind_error;
  d["checkpointed"] = r.checkpointed;
  d["initial"] = initial ? shared_array<F>(out, {6, h.size}) : nb::none();
  return d;
}

template <class F>
double push(const held_gradient& h, const std::vector<tracking::moment_derivative>& by_moments,
            nb::handle by_particles, std::ptrdiff_t knob) {
  tracking::pull_request<F> request;
  request.by_moments = by_moments;
  set_particles(request.by_particles, by_particles, h.size);
  nb::gil_scoped_release unlocked;
  return h.g.push(request, knob);
}

/// (element, gamma - 1 of the reference, weight, mean, covariance), one entry per record.
nb::tuple tuple_of(const std::vector<tracking::moment_record>& records) {
  std::vector<double> element, kinetic, weight, mean, cov;
  for (const tracking::moment_record& r : records) {
    element.push_back(r.element);
    kinetic.push_back(r.ref.kinetic);
    weight.push_back(r.moments.weight);
    mean.insert(mean.end(), r.moments.mean.begin(), r.moments.mean.end());
    cov.insert(cov.end(), r.moments.cov.begin(), r.moments.cov.end());
  }
  const std::size_t n = element.size();
  return nb::make_tuple(array_of(element, {n}), array_of(kinetic, {n}), array_of(weight, {n}),
                        array_of(mean, {n, 6}), array_of(cov, {n, 6, 6}));
}

struct held_product {
  tracking::hessian_product h;
  std::size_t size;
  nb::object initial_direction;  // keeps its columns alive
};

void bind_hessian(nb::module_& m) {
  nb::class_<held_product>(
      m, "HessianProduct",
      "A beam on its way through a line and back, with its rates along a direction.")
      .def(
          "__init__",
          [](held_product* self, const lattice::line& l, const beam::bunch& b,
             const std::vector<knob_tuple>& knobs, const std::vector<double>& direction,
             const std::vector<std::uint8_t>& recorded, bool record_start, unsigned threads,
             std::int64_t turns, nb::object initial_direction) {
            tracking::hessian_options o;
            set_particles(o.initial_direction, initial_direction, b.size());
            o.knobs = knobs_from(knobs);
            o.direction = direction;
            o.recorded = recorded;
            o.record_start = record_start;
            o.threads = threads;
            o.turns = turns;
            std::optional<tracking::hessian_product> made;
            {
              nb::gil_scoped_release unlocked;
              made.emplace(l, b, std::move(o));
            }
            new (self) held_product{std::move(*made), b.size(), std::move(initial_direction)};
          },
          nb::arg("line"), nb::arg("bunch"), nb::arg("knobs"), nb::arg("direction"),
          nb::arg("recorded") = std::vector<std::uint8_t>{}, nb::arg("record_start") = false,
          nb::arg("threads") = 0, nb::arg("turns") = 1, nb::arg("initial_direction") = nb::none(),
          nb::keep_alive<1, 3>(),
          "Tracks forward. direction: one number per knob; initial_direction: shape (6, n).")
      .def(
          "records", [](const held_product& p) { return tuple_of(p.h.records()); },
          "(element, gamma - 1 of the reference, weight, mean, covariance), one entry per record.")
      .def(
          "rates",
          [](const held_product& p) {
            std::vector<double> all;
            for (const tracking::moment_rate& r : p.h.record_rates()) {
              all.insert(all.end(), r.mean.begin(), r.mean.end());
              all.insert(all.end(), r.covariance.begin(), r.covariance.end());
              all.push_back(r.kinetic);
            }
            return array_of(all, {all.size() / 43, 43});
          },
          "How mean, covariance and gamma - 1 of the reference change at each record, shape (r, 43).")
      .def_prop_ro("lost", [](const held_product& p) { return p.h.lost(); })
      .def_prop_ro(
          "final",
          [](const held_product& p) { return shared_array(p.h.final_coordinates(), {6, p.size}); },
          "Coordinates at the end, shape (6, n); no copy.")
      .def_prop_ro(
          "final_rates",
          [](const held_product& p) { return shared_array(p.h.final_rates(), {6, p.size}); },
          "How they change.")
      .def(
          "pull",
          [](const held_product& p, const doubles& mean, const doubles& cov, const doubles& kinetic,
             const doubles& mean_rates, const doubles& cov_rates, const doubles& kinetic_rates,
             nb::object by_particles, nb::object by_particles_rates, bool initial,
             double tolerance) {
            const auto by_moments = by_moments_of(mean, cov, kinetic);
            const auto rates = by_moments_of(mean_rates, cov_rates, kinetic_rates);
            tracking::second_order_request request;
            request.by_moments = by_moments;
            request.by_moments_rates = rates;
            request.tolerance = tolerance;
            set_particles(request.by_particles, by_particles, p.size);
            set_particles(request.by_particles_rates, by_particles_rates, p.size);
            if (by_particles.is_none() != by_particles_rates.is_none()) {
              throw nb::value_error(
                  "derivatives by particles come with their rates, or not at all");
            }
            std::shared_ptr<double[]> out[2];
            for (int k = 0; initial && k < 2; ++k) {
              out[k] = std::make_shared_for_overwrite<double[]>(6 * p.size);
              auto& columns = k == 0 ? request.initial : request.initial_product;
              for (std::size_t c = 0; c < 6; ++c) columns[c] = out[k].get() + c * p.size;
            }
            tracking::second_order_result r;
            {
              nb::gil_scoped_release unlocked;
              r = p.h.pull(request);
            }
            const auto columns_of = [&](const std::shared_ptr<double[]>& data) -> nb::object {
              return initial ? shared_array<double>(data, {6, p.size}) : nb::none();
            };
            return nb::make_tuple(array_of(r.gradient, {r.gradient.size()}),
                                  array_of(r.product, {r.product.size()}), columns_of(out[0]),
                                  columns_of(out[1]));
          },
          nb::arg("mean"), nb::arg("covariance"), nb::arg("kinetic"), nb::arg("mean_rates"),
          nb::arg("covariance_rates"), nb::arg("kinetic_rates"),
          nb::arg("by_particles") = nb::none(), nb::arg("by_particles_rates") = nb::none(),
          nb::arg("initial") = false, nb::arg("tolerance") = 0.0,
          "The reverse pass: (gradient, Hessian times the direction, and both for the initial coordinates).");
}

}  // namespace

void bind_gradient(nb::module_& m) {
  bind_hessian(m);
  nb::class_<held_gradient>(m, "Gradient", "A beam on its way through a line and back.")
      .def(
          "__init__",
          [](held_gradient* self, const lattice::line& l, const beam::bunch& b,
             const std::vector<knob_tuple>& knobs, bool reference_energy,
             const std::vector<std::uint8_t>& recorded, bool record_start, unsigned threads,
             const std::vector<tracking::effect>& collective, std::int64_t turns,
             nb::object radiation, const std::string& boundary, double bucket_length) {
            tracking::gradient_options o;
            o.knobs = knobs_from(knobs);
            o.reference_energy = reference_energy;
            o.recorded = recorded;
            o.record_start = record_start;
            o.threads = threads;
            o.collective = collective;
            o.turns = turns;
            o.radiation = radiation_of(radiation);
            o.boundary = boundary_named(boundary);
            o.bucket_length = bucket_length;
            nb::gil_scoped_release unlocked;
            new (self) held_gradient{gradient(l, b, std::move(o)), b.size(),
                                     b.precision() == beam::precision::single};
          },
          nb::arg("line"), nb::arg("bunch"), nb::arg("knobs"), nb::arg("reference_energy") = false,
          nb::arg("recorded") = std::vector<std::uint8_t>{}, nb::arg("record_start") = false,
          nb::arg("threads") = 0, nb::arg("collective") = std::vector<tracking::effect>{},
          nb::arg("turns") = 1, nb::arg("radiation") = nb::none(), nb::arg("boundary") = "open",
          nb::arg("bucket_length") = 0.0, nb::keep_alive<1, 3>(),
          "Tracks forward. knobs: (element, parameter, entry of a list or -1).")
      .def(
          "records", [](const held_gradient& h) { return tuple_of(h.g.records()); },
          "(element, gamma - 1 of the reference, weight, mean, covariance), one entry per record.")
      .def_prop_ro("lost", [](const held_gradient& h) { return h.g.lost(); })
      .def_prop_ro("memory", [](const held_gradient& h) { return h.g.memory(); })
      .def_prop_ro(
          "final",
          [](const held_gradient& h) {
            return h.single ? shared_array(h.g.final_coordinates<float>(), {6, h.size})
                            : shared_array(h.g.final_coordinates<double>(), {6, h.size});
          },
          "Coordinates at the end, shape (6, n); no copy.")
      .def(
          "pull",
          [](const held_gradient& h, const doubles& mean, const doubles& cov,
             const doubles& kinetic, nb::object by_particles, bool initial, bool in_place,
             const std::string& strategy, double tolerance) {
            const auto by_moments = by_moments_of(mean, cov, kinetic);
            return h.single ? pull<float>(h, by_moments, by_particles, initial, in_place, strategy,
                                          tolerance)
                            : pull<double>(h, by_moments, by_particles, initial, in_place, strategy,
                                           tolerance);
          },
          nb::arg("mean"), nb::arg("covariance"), nb::arg("kinetic"),
          nb::arg("by_particles") = nb::none(), nb::arg("initial") = true,
          nb::arg("in_place") = false, nb::arg("strategy") = "auto", nb::arg("tolerance") = 0.0,
          "The reverse pass; in_place puts the result where the final coordinates are.")
      .def(
          "push",
          [](const held_gradient& h, const doubles& mean, const doubles& cov,
             const doubles& kinetic, nb::object by_particles, std::ptrdiff_t knob) {
            const auto by_moments = by_moments_of(mean, cov, kinetic);
            return h.single ? push<float>(h, by_moments, by_particles, knob)
                            : push<double>(h, by_moments, by_particles, knob);
          },
          nb::arg("mean"), nb::arg("covariance"), nb::arg("kinetic"),
          nb::arg("by_particles") = nb::none(), nb::arg("knob") = -1,
          "Forward mode along one knob; -1: gamma - 1 of the reference at the start.");

  m.def(
      "knobs_of",
      [](const std::vector<std::shared_ptr<element>>& elements,
         const std::optional<std::string>& parameter) {
        std::vector<knob_tuple> r;
        for (const auto& e : elements) {
          for (const lattice::knob& k : lattice::knobs_of(e, parameter)) {
            r.emplace_back(e, k.parameter, k.entry);
          }
        }
        return r;
      },
      nb::arg("elements"), nb::arg("parameter") = nb::none(),
      "All (element, parameter, entry of a list or -1) that derivatives exist for, or those of one "
      "parameter.");
}

}  // namespace betatron::bindings
