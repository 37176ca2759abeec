// module.cpp: the compiled module betatron._core.
#include "bindings/bindings.h"

NB_MODULE(_core, m) {
  // objects that caches of the interpreter (of test frameworks, for one) hold at exit are not leaks
  nanobind::set_leak_warnings(false);
  m.doc() = "Betatron's compiled core. Use the package betatron.";
  betatron::bindings::bind_beam(m);
  betatron::bindings::bind_programmable(m);
  betatron::bindings::bind_elements(m);
  betatron::bindings::bind_collective(m);
  betatron::bindings::bind_space_charge(m);
  betatron::bindings::bind_space_charge_models(m);
  betatron::bindings::bind_tracking(m);
  betatron::bindings::bind_gradient(m);
  betatron::bindings::bind_surrogate(m);
  betatron::bindings::bind_plasma_stage(m);
  betatron::bindings::bind_envelope_gradient(m);
}
