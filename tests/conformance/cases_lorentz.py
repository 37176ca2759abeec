"""Which kind of element is which field: the cells of the column "Lorentz force" (lorentz.py)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import betatron as bt
import numpy as np
from cases import EXACT, INTEGRATED, Restriction, Values, add
from lorentz import (
    THIN,
    Fields,
    Setup,
    curved,
    magnet,
    soft_quadrupole,
    soft_solenoid,
    standing_wave,
    transverse,
    undulator,
    uniform,
)

CODE = "Lorentz force"
LINEAR = {"derivative": True, "limit": INTEGRATED}
PARAXIAL = {"explanation": "paraxial"}


def setup(
    fields: Callable[[Values, bt.Reference], Fields], **more: Any
) -> Callable[[Values], Callable[[bt.Reference], Setup]]:
    """Fields of (values, reference); other members of Setup as numbers or as functions of them."""

    def build(v: Values) -> Callable[[bt.Reference], Setup]:
        return lambda ref: Setup(
            fields(v, ref), **{k: f(v, ref) if callable(f) else f for k, f in more.items()}
        )

    return build


# --- Magnets of constant cross section -------------------------------------------------------


def _straight(normal: Callable[[Values], list], skew: Callable[[Values], list] = lambda v: []):
    return setup(lambda v, ref: curved(normal(v), skew(v), 0.0, ref.rigidity))


def _vacuum(v: Values, ref: bt.Reference) -> Fields:
    return magnet(lambda x, y, s: [0.0, 0.0, 0.0])


add("Drift", "exact", CODE, "no field", setup(_vacuum), limit=INTEGRATED)
add(
    "Quadrupole", "exact", CODE, "B_y = k1 x", _straight(lambda v: [0, v["k1"]]),
    "length k1", **EXACT,
)  # fmt: skip
add(
    "Sextupole", "exact", CODE, "harmonic field",
    _straight(lambda v: [0, 0, v["k2"]], lambda v: [0, 0, v["k2s"]]), "length k2 k2s", **EXACT,
)  # fmt: skip
add(
    "Octupole", "exact", CODE, "harmonic field",
    _straight(lambda v: [0, 0, 0, v["k3"]], lambda v: [0, 0, 0, v["k3s"]]),
    "length k3 k3s", **EXACT,
)  # fmt: skip


def _per_metre(name: str) -> Callable[[Values], list[float]]:
    return lambda v: [k / v["length"] for k in v[name]]


add(
    "Multipole", "exact", CODE, "harmonic field", _straight(_per_metre("knl"), _per_metre("ksl")),
    "length knl ksl", **EXACT,
)  # fmt: skip


def _curvature(v: Values, ref: bt.Reference) -> float:
    return v["angle"] / v["length"]


def _bend_field(v: Values, ref: bt.Reference) -> Fields:
    h, normal = _curvature(v, ref), [0.0] * 5
    for n, k in enumerate(v.get("kn", [])):
        normal[n] += k
    normal[0] += h
    normal[1] += v["k1"]
    return curved(normal, v.get("ks", []), h, ref.rigidity)


def _no_error(v: Values, ref: bt.Reference) -> Values:
    """Without field errors, which move the orbit that the linear model is the derivative on."""
    return v | {"kn": [0.0, *v["kn"][1:]], "ks": [0.0, *v["ks"][1:]]}


_body = setup(_bend_field, curvature=_curvature)
for _parameters in ("length angle k1", "length angle k1 kn ks"):
    _label = "cylindrical field, " + ("multipoles" if "kn" in _parameters else "k1")
    _restrict: Restriction = _no_error if "kn" in _parameters else lambda v, ref: v
    add("Bend", "exact", CODE, _label, _body, _parameters, **EXACT)
    add(
        "Bend", "linear", CODE, _label, _body, _parameters, restrict=_restrict, derivative=True,
        **EXACT,
    )  # fmt: skip


def _edge_field(
    ks: Callable[[Values, bt.Reference], float],
) -> Callable[[Values, bt.Reference], Any]:
    """The potential of a solenoid's field that begins and ends abruptly."""

    def potential(v: Values, ref: bt.Reference) -> Any:
        half = ks(v, ref) / 2
        return lambda x, y: (-half * y, half * x)

    return lambda v, ref: potential(v, ref)


def _solenoid(v: Values, ref: bt.Reference) -> Fields:
    return uniform(0.0, v["ks"] * ref.rigidity)


_edges = _edge_field(lambda v, ref: v["ks"])
add(
    "Solenoid", "exact", CODE, "uniform field", setup(_solenoid, potential=_edges), "length ks",
    limit=INTEGRATED,
)  # fmt: skip

# --- Plasma lenses: the field of a current, B = grad x (A_s) ------------------------------------


def _plasma_lens(v: Values, ref: bt.Reference) -> Fields:
    k = v["k1"] + v["gradient"] / ref.rigidity
    return transverse(lambda x, y: (k * x, k * y), ref.rigidity)


_lens = setup(_plasma_lens)
_names = "length k1 gradient"
add("PlasmaLens", "exact", CODE, "field of a uniform current", _lens, _names, **EXACT)
add(
    "PlasmaLens", "paraxial", CODE, "field of a uniform current", _lens, _names,
    limit=INTEGRATED, **PARAXIAL,
)  # fmt: skip
add("PlasmaLens", "linear", CODE, "field of a uniform current", _lens, _names, **LINEAR)


def _tapered(v: Values, ref: bt.Reference) -> Fields:
    k, tau = (v["k1l"] + v["gradient_length"] / ref.rigidity) / THIN, v["taper"]
    return transverse(
        lambda x, y: (k * (x + tau * (x * x + y * y) / 2), k * (y + tau * x * y)), ref.rigidity
    )


_lens, _names = setup(_tapered), "k1l gradient_length taper"
add("TaperedPlasmaLens", "paraxial exact", CODE, "thin", _lens, _names, limit=INTEGRATED)
add("TaperedPlasmaLens", "linear", CODE, "thin", _lens, _names, **LINEAR)

# --- Fields that accelerate ---------------------------------------------------------------------


def _gap(v: Values, ref: bt.Reference) -> Fields:
    sign = math.copysign(1.0, ref.species.charge)
    return uniform(sign * v["voltage"] / v["length"], v["field"])


_column = setup(_gap, potential=_edge_field(lambda v, ref: v["field"] / ref.rigidity))
_names = "length voltage field"
add("UniformAcceleration", "exact", CODE, "uniform fields", _column, _names, limit=INTEGRATED)
add(
    "UniformAcceleration", "paraxial", CODE, "uniform fields", _column, _names,
    limit=INTEGRATED, **PARAXIAL,
)  # fmt: skip
add("UniformAcceleration", "linear", CODE, "uniform fields", _column, _names, **LINEAR)


def _wave(v: Values, ref: bt.Reference) -> Fields:
    sign = math.copysign(1.0, ref.species.charge)
    return standing_wave(
        sign * v["amplitude"], v["frequency"], v["phase"], v["cosine"], v["sine"], v["length"]
    )


def _short_wave(v: Values, ref: bt.Reference) -> Values:
    """A cavity of a few half waves, and any phase."""
    waves = v["length"] * 2 * math.pi * v["frequency"] / (299792458.0 * ref.beta)
    few = 1.0 if waves < 10 else 10 / waves
    least = 0.1 * ref.kinetic_energy  # so that there is something to see
    return v | {
        "frequency": v["frequency"] * few,
        "phase": v["phase"] * math.pi / 0.4,
        "amplitude": math.copysign(max(abs(v["amplitude"]), least), v["amplitude"]),
    }


_cavity = setup(_wave, pieces=60)
_names = "length amplitude frequency phase cosine sine"
_fine = {"options": {"order": 6, "steps": 100}, "restrict": _short_wave}
add("RFFieldMap", "linear", CODE, "TM modes", _cavity, _names, **LINEAR, **_fine)
for _model in ("paraxial", "exact"):
    add(
        "RFFieldMap", _model, CODE, "TM modes", _cavity, _names,
        limit=INTEGRATED, explanation="rf-field-map", **_fine,
    )  # fmt: skip

# --- Plasma stages: on a particle at the speed of light E_r acts like a magnetic field ------------------


def _blowout(v: Values, ref: bt.Reference) -> Fields:
    """Ez that grows along the bunch, and the field of the ions as that of a current."""
    sign, mass = math.copysign(1.0, ref.species.charge), ref.species.mass
    rate, gamma, momentum = (
        abs(ref.species.charge) * v["acceleration"] / mass,
        ref.gamma,
        ref.beta_gamma,
    )
    ions = 2 * math.pi * 2.8179403205e-15 * v["density"] * 510998.95069 / mass
    k = -ref.species.charge * v["focusing"] * ions / momentum
    focus = transverse(lambda x, y: (k * x, k * y), ref.rigidity)

    def fields(x: Any, y: Any, s: Any, ct: Any) -> tuple[Any, Any]:
        now = gamma + rate * s
        arrival = s * (gamma + now) / (momentum + np.sqrt((now - 1) * (now + 1)))
        electric = sign * (v["acceleration"] + v["slope"] * (arrival - ct))
        return [0.0, 0.0, electric], focus(x, y, s, ct)[1]

    return fields


_stage, _names = setup(_blowout), "length density acceleration slope focusing"
add("PlasmaStage", "exact", CODE, "blow-out", _stage, _names, **EXACT)
add(
    "PlasmaStage", "paraxial", CODE, "blow-out", _stage, _names, limit=INTEGRATED,
    options=EXACT["options"], **PARAXIAL,
)  # fmt: skip
add("PlasmaStage", "linear", CODE, "blow-out", _stage, _names, options=EXACT["options"], **LINEAR)

# --- Soft edges ---------------------------------------------------------------------------------


def _soft_solenoid(v: Values, ref: bt.Reference) -> Fields:
    return soft_solenoid(v["ks"] * ref.rigidity + v["field"], v["cosine"], v["sine"], v["length"])


def _soft_quadrupole(v: Values, ref: bt.Reference) -> Fields:
    return soft_quadrupole(
        v["k1"] * ref.rigidity + v["gradient"], v["cosine"], v["sine"], v["length"]
    )


for _kind, _field, _strengths in (
    ("SoftSolenoid", _soft_solenoid, "ks field"),
    ("SoftQuadrupole", _soft_quadrupole, "k1 gradient"),
):
    _magnet, _names = setup(_field, pieces=60), f"length {_strengths} cosine sine"
    _steps = {"options": {"order": 6, "steps": 100}}
    add(_kind, "linear", CODE, "field to all orders", _magnet, _names, **LINEAR, **_steps)
    for _model in ("paraxial", "exact"):
        add(
            _kind, _model, CODE, "field to all orders", _magnet, _names,
            limit=INTEGRATED, explanation="soft-edge", **_steps,
        )  # fmt: skip

# --- Undulator ----------------------------------------------------------------------------------


def _undulator(v: Values, ref: bt.Reference) -> Fields:
    ku = 2 * np.pi / v["period"]
    charge_over_mass = ref.species.charge * 299792458.0 / ref.species.mass
    return undulator(v["strength"] * ku / charge_over_mass, v["period"], v["sharing"])


def _whole_periods(v: Values, ref: bt.Reference) -> Values:
    """16 periods, over which the phase of the natural focusing is 1 to 2."""
    length = 1.0 + v["length"]
    period, phase = length / 16, 1 + abs(v["strength"])
    strength = math.sqrt(2) * phase * ref.beta_gamma * period / (2 * math.pi * length)
    return v | {"length": length, "period": period, "strength": strength}


def _wiggle(v: Values, ref: bt.Reference) -> list[float]:
    """Where a particle is at the peak of the field, from the middle of its wiggle."""
    return [v["strength"] / ref.beta_gamma * v["period"] / (2 * math.pi), 0, 0, 0, 0, 0]


_wiggler = setup(_undulator, pieces=320, shift=_wiggle)
_names = "length period strength sharing"
add(
    "Undulator", "linear", CODE, "field of all periods", _wiggler, _names, limit=INTEGRATED,
    restrict=_whole_periods, derivative=True, explanation="period-average",
)  # fmt: skip
for _model in ("paraxial", "exact"):
    add(
        "Undulator", _model, CODE, "field of all periods", _wiggler, _names, limit=INTEGRATED,
        restrict=_whole_periods, explanation="period-average-and-poles",
    )  # fmt: skip
