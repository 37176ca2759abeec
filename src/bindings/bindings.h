// bindings.h: one function per room adds its classes to the module.
#pragma once

#include <nanobind/nanobind.h>

#include <optional>
#include <string>

#include "elements/longitudinal_boundary.h"
#include "elements/radiation.h"

namespace betatron::bindings {

void bind_beam(nanobind::module_& m);
void bind_elements(nanobind::module_& m);
void bind_programmable(nanobind::module_& m);
void bind_gradient(nanobind::module_& m);
void bind_envelope_gradient(nanobind::module_& m);
void bind_space_charge(nanobind::module_& m);
void bind_surrogate(nanobind::module_& m);
void bind_plasma_stage(nanobind::module_& m);
void bind_tracking(nanobind::module_& m);
void bind_collective(nanobind::module_& m);
void bind_space_charge_models(nanobind::module_& m);

/// What Line.track and Line.gradient take: a name, and a betatron.Radiation or None.
elements::longitudinal_boundary boundary_named(const std::string& name);
std::optional<elements::radiation_model> radiation_of(nanobind::handle given);

}  // namespace betatron::bindings
