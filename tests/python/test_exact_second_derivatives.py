"""Exact Hessian-vector products: against differences of gradients, symmetry, and what is refused."""

from __future__ import annotations

import betatron as bt
import numpy as np
import pytest
from betatron import losses
from betatron.gradient import Knob
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from test_physics import MODELS, SYMPLECTIC, alignments, draw, element, particles, references, scaled

KINDS = (*SYMPLECTIC, "LinearMap", "Aperture")
GENERATE = (Phase.explicit, Phase.reuse, Phase.generate)
COORDINATES = ("x", "px", "y", "py", "t", "pt")
REF = bt.Reference("electron", kinetic_energy=100e6)


def beam_of(z: np.ndarray, ref: bt.Reference = REF, precision: str = "double") -> bt.Beam:
    beam = bt.Beam.from_arrays(ref, **dict(zip(COORDINATES, z, strict=True)))
    return beam if precision == "double" else beam.copy(precision=precision)


def all_knobs(line: bt.Line) -> list[Knob]:
    return [Knob(e, p, i) for e in line.elements for p, i in bt._core.knobs_of(e)]


def quadratic(covector: np.ndarray, matrix: np.ndarray) -> losses.Loss:
    """sum covector z + z^T matrix z/2 over the particles, in units of `size`."""
    return losses.of_particles(
        lambda z: (np.sum(covector * z) + 0.5 * np.sum(z * (matrix @ z)), covector + matrix @ z),
        lambda _, rates: matrix @ rates,
    )


SCALES = {"voltage": 1e5, "frequency": 1e6, "dx": 1e-3, "dy": 1e-3}


def scale_of(knob: Knob) -> float:
    return max(abs(knob.value), SCALES.get(knob.parameter, 0.1))


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=2, phases=GENERATE, deadline=None)
@given(data=st.data(), ref=references, align=alignments)
def test_differences_of_gradients(kind, model, data, ref, align):
    """Every element in every model, by all of its parameters."""
    e = element(kind, model, draw(data, kind, ref), **align)
    line = bt.Line([bt.Drift(0.05, model="exact"), e, bt.Drift(0.1)])
    z = scaled(ref, np.array([data.draw(particles) for _ in range(3)]).T)
    knobs = all_knobs(line)
    seed = data.draw(st.integers(0, 1000))
    rng = np.random.default_rng(seed)
    size = np.abs(z).max() + 1e-12
    covector, matrix = rng.normal(size=(6, 3)), rng.normal(size=(6, 6)) / size
    loss = quadratic(covector, matrix + matrix.T)
    units = np.array([scale_of(k) for k in knobs])
    u, w = rng.normal(size=(2, len(knobs))) * units * 0.1
    beam = beam_of(z, ref)
    try:
        line.gradient(beam, loss, knobs)
        exact = line.hessian_vector(beam, loss, knobs, u, method="exact")
        other = line.hessian_vector(beam, loss, knobs, w, method="exact")
        found = line.hessian_vector(beam, loss, knobs, u, method="differences")
    except (ValueError, RuntimeError) as error:
        print("SKIP", kind, model, str(error)[:150])
        return
    hu, hw = exact.values * units, other.values * units
    s = max(np.abs(hu).max(), np.abs(hw).max(), np.abs(line.gradient(beam, loss, knobs).derivatives*units).max()*0.1)
    off = np.abs(hu - found.values * units)
    err = found.error * units
    sym = abs(u @ other.values - w @ exact.values)/ (s*0.1)
    bad = off > 30 * err + 1e-9 * s
    print(f"{kind:22s} {model:9s} off {off.max()/s:.1e} err {err.max()/s:.1e} sym {sym:.1e} {'BAD '+str([(k.element.kind,k.name,float(a),float(b),float(c)) for k,a,b,c,d in zip(knobs,hu,found.values*units,err,bad) if d][:3]) if bad.any() else ''} {'SYM' if sym>1e-9 else ''}")
