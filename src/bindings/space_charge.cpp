// space_charge.cpp: space charge on a grid in three dimensions, and its fields for pictures.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>

#include "bindings/bindings.h"
#include "collective/space_charge.h"
#include "tracking/cpu/executor.h"
#include "tracking/effect.h"

namespace nb = nanobind;

namespace betatron::bindings {

namespace {

using collective::space_charge_3d;

/// A grid as an array [x, y, z] that owns it: no copy.
template <class F>
nb::object grid_array(fields::grid<F>&& grid) {
  auto* kept = new fields::grid<F>(std::move(grid));
  nb::capsule owner(kept, [](void* p) noexcept { delete static_cast<fields::grid<F>*>(p); });
  const auto n = kept->nodes();
  const std::int64_t strides[3] = {1, static_cast<std::int64_t>(kept->row()),
                                   static_cast<std::int64_t>(kept->plane())};
  const std::size_t shape[3] = {n[0], n[1], n[2]};
  return nb::cast(nb::ndarray<nb::numpy, F>(kept->view().data, 3, shape, owner, strides));
}

template <class F>
nb::tuple field_arrays(space_charge_3d& solver, const beam::bunch& b, unsigned threads) {
  collective::space_charge_field<F> field;
  {
    nb::gil_scoped_release unlocked;
    field = solver.field<F>(b, threads);
  }
  return nb::make_tuple(grid_array(std::move(field.density)), field.density_unit,
                        grid_array(std::move(field.potential)), field.potential_unit, field.origin,
                        field.edges);
}

}  // namespace

void bind_space_charge(nb::module_& m) {
  nb::class_<collective::pipe_shape>(m, "PipeShape", "The cross-section of a conducting pipe.")
      .def(
          "__init__",
          [](collective::pipe_shape* self, bool round, double half_width, double half_height) {
            new (self) collective::pipe_shape{round, half_width, half_height};
          },
          nb::arg("round"), nb::arg("half_width"), nb::arg("half_height"));
  nb::class_<space_charge_3d>(m, "SpaceCharge3D",
                              "Solver for the field of a bunch in free space; see "
                              "betatron.SpaceCharge3D.")
      .def(
          "__init__",
          [](space_charge_3d* self, std::array<std::size_t, 3> cells, int shape, double margin,
             double grid_step, int order, double spacing, double memory_limit,
             std::optional<collective::pipe_shape> pipe) {
            new (self) space_charge_3d(
                {cells, shape, margin, grid_step, order, spacing, memory_limit, pipe});
          },
          nb::arg("cells"), nb::arg("shape"), nb::arg("margin"), nb::arg("grid_step"),
          nb::arg("order"), nb::arg("spacing"), nb::arg("memory_limit"), nb::arg("pipe").none())
      .def(
          "effect",
          [](std::shared_ptr<space_charge_3d> self) { return collective::effect_of(self); },
          "The effect, to be given to track(); it shares the solver.")
      .def(
          "memory",
          [](const space_charge_3d& self, bool single, std::size_t particles) {
            return self.memory(single ? beam::precision::single : beam::precision::double_,
                               particles);
          },
          nb::arg("single"), nb::arg("particles"), "Bytes needed for a beam of so many particles.")
      .def(
          "field",
          [](space_charge_3d& self, const beam::bunch& b, unsigned threads) {
            if (threads == 0) threads = tracking::available_threads();
            return b.precision() == beam::precision::single
                       ? field_arrays<float>(self, b, threads)
                       : field_arrays<double>(self, b, threads);
          },
          nb::arg("bunch"), nb::arg("threads") = 0,
          "(density, its unit, potential, its unit, origin, cell edges) on the grid, as arrays "
          "[x, y, z].")
      .def(
          "times",
          [](const space_charge_3d& self) {
            const collective::space_charge_times t = self.times();
            nb::dict d;
            d["deposit"] = t.deposit;
            d["green"] = t.green;
            d["transforms"] = t.transforms;
            d["gather"] = t.gather;
            d["kicks"] = t.kicks;
            d["green_functions"] = t.green_functions;
            return d;
          },
          "Seconds spent in kicks, by phase, and their number.")
      .def("reset_times", &space_charge_3d::reset_times);
  m.def("available_memory", &collective::available_memory,
        "Bytes of memory that this process may still use.");
}

}  // namespace betatron::bindings
