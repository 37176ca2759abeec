// module.cpp: the compiled module betatron._core.
#include "bindings/bindings.h"

NB_MODULE(_core, m) {
  m.doc() = "Betatron's compiled core. Use the package betatron.";
  betatron::bindings::bind_beam(m);
  betatron::bindings::bind_elements(m);
  betatron::bindings::bind_tracking(m);
}
