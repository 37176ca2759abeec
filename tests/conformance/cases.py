"""Which kind of element, in which model, has which counterpart in which code.

A `Case` is one cell of the matrix: how its parameters are drawn and how the other code writes the
same element. `CASES` lists all cells. Parameters that a case does not name keep their defaults.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import betatron as bt
import numpy as np
from adapters import MadxElement, XtrackElement

# Relative to the coordinates: rounding of closed formulas, and of thousands of integration steps.
CLOSED, INTEGRATED = 1e-11, 1e-9

Values = dict[str, Any]
Restriction = Callable[[Values, bt.Reference], Values]


@dataclass(frozen=True)
class Case:
    kind: str
    model: str
    code: str
    label: str  # the other code's name of its model
    element: Callable[[Values], Any]  # the element in the other code, see adapters.py
    parameters: tuple[str, ...]
    limit: float = CLOSED
    options: dict[str, Any] = field(default_factory=dict)  # of Betatron's element: order, steps
    restrict: Restriction = lambda values, ref: values
    beta_gamma: tuple[float, float] = (0.05, 7e4)  # of the random references
    aligned: bool = False  # displaced and rolled
    rigid: bool = False  # in all six degrees of freedom
    explanation: str = ""  # key in explanations.py
    derivative: bool = False  # the other code's derivative on the reference orbit, see adapters.py
    suffix: str = ""  # to the kind, where the same kind is compared with another option

    def length(self, values: Values) -> float:
        """Path length of the reference orbit."""
        return values.get("length", values.get("offset_z", 0.0))

    @property
    def title(self) -> str:
        return self.kind + self.suffix + (", displaced" if self.aligned else "")

    @property
    def key(self) -> tuple[str, str, str, str]:
        return self.title, self.model, self.code, self.label


CASES: list[Case] = []


def add(
    kind: str,
    models: str,
    code: str,
    label: str,
    element: Callable[[Values], Any],
    parameters: str = "length",
    **more: Any,
) -> None:
    for model in models.split():
        CASES.append(Case(kind, model, code, label, element, tuple(parameters.split()), **more))


# --- Random parameters, references and particles ---------------------------------------------

# typical size by unit, as in tests/python/test_physics.py
SCALE = {
    "m": 0.02,
    "1/m": 2.0,
    "1/m^2": 10.0,
    "1/m^3": 50.0,
    "1/m^4": 500.0,
    "rad": 0.4,
    "1": 0.6,
    "T/m": 10.0,
    "T": 2.0,
    "V": 0.2,
    "V/m": 0.2,
    "V/m^2": 0.2,
}


def draw_value(parameter: dict, rng: np.random.Generator, ref: bt.Reference) -> Any:
    """A random value of a parameter as a machine would have it, by its unit."""
    name, unit = parameter["name"], parameter["unit"]
    if parameter["type"] == "list":
        return draw_list(name, rng)
    if name == "length":
        return rng.uniform(0.1, 1.5)
    if name == "offset_z":
        return rng.uniform(-0.5, 0.5)
    if name in ("hkick", "vkick"):
        return rng.uniform(-5e-3, 5e-3)
    if name in ("x_max", "y_max"):
        return rng.uniform(5e-4, 2e-3)
    if name == "min_radius2":
        return rng.uniform(0, 5e-4) ** 2
    if name == "hgap":
        return rng.uniform(0.005, 0.05)
    if name == "cnl":
        return rng.uniform(2.5e-3, 1e-2)  # beyond the particles: the field is singular there
    if name == "knl":
        return rng.uniform(-5e-6, 5e-6)
    if name == "taper":
        return rng.uniform(-50.0, 50.0)
    if name == "sharing":
        return rng.uniform(0.0, 0.5)
    if name.startswith("fint"):
        return rng.uniform(0.0, 0.6)  # MAD-X takes a negative FINTX for one that is not given
    if name == "density":  # of a plasma: oscillations of up to about 1 rad
        radius = 2.8179403205e-15 * 510998.95069 / ref.species.mass
        return rng.uniform(0.0, 1.0) * ref.beta_gamma / (2 * math.pi * radius)
    if unit == "Hz":
        return math.exp(rng.uniform(math.log(1e8), math.log(3e9)))
    if unit not in SCALE or name.startswith("repeat"):
        raise LookupError(f"no typical size of parameter {name!r} with unit {unit!r}")
    scale = SCALE[unit]
    low = 0.0 if parameter["minimum"] >= 0 else -scale
    value = rng.uniform(low, min(scale, parameter["maximum"]))
    if unit in ("T/m", "T"):
        value *= ref.rigidity
    return value * ref.kinetic_energy if unit.startswith("V") else value


def draw_list(name: str, rng: np.random.Generator) -> list[float]:
    if name == "matrix":
        return (np.eye(6) + 0.3 * rng.normal(size=(6, 6))).ravel().tolist()
    if name == "coefficients":  # of a Taylor map of degree 2
        rows = rng.normal(size=(6, 28)) * np.repeat([1e-4, 0.3, 5.0], [1, 6, 21])
        rows[:, 1:7] += np.eye(6)
        return rows.ravel().tolist()
    if name == "centre":
        return rng.uniform(-1e-3, 1e-3, 6).tolist()
    if name in ("knl", "ksl"):
        return [rng.uniform(-s, s) for s in (1e-3, 0.5, 5.0, 50.0, 500.0)]
    if name in ("kn", "ks"):
        return [rng.uniform(-s, s) for s in (1e-3, 5.0, 50.0, 500.0, 5000.0)]
    if name in ("cosine", "sine"):
        # of ((1 + cos)/2)^2, ((1 + cos)/2)^3 and sin (1 + cos): smooth, and zero at the ends
        a, b, c = rng.uniform(0.5, 1), rng.uniform(-0.5, 0.5), rng.uniform(-0.3, 0.3)
        if name == "sine":
            return [0.0, c, c / 2]
        return [0.75 * a + 0.625 * b, 0.5 * a + 0.46875 * b, 0.125 * a + 0.1875 * b, 0.03125 * b]
    if name == "vertices":  # a star-shaped polygon
        turns = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(5, 12)))
        radii = rng.uniform(5e-4, 2.5e-3, turns.size)
        return np.stack([radii * np.cos(turns), radii * np.sin(turns)], axis=1).ravel().tolist()
    raise LookupError(f"no typical values of parameter {name!r}")


def draw_parameters(
    kind: str, names: tuple[str, ...], rng: np.random.Generator, ref: bt.Reference
) -> Values:
    known = {p["name"]: p for p in bt.kinds()[kind]}
    return {n: draw_value(known[n], rng, ref) for n in names}


def draw_alignment(rng: np.random.Generator, rigid: bool) -> Values:
    values = {
        "dx": rng.uniform(-1e-3, 1e-3),
        "dy": rng.uniform(-1e-3, 1e-3),
        "roll": rng.uniform(-1, 1),
    }
    if rigid:
        values |= {
            "dz": rng.uniform(-2e-3, 2e-3),
            "pitch": rng.uniform(-0.02, 0.02),
            "yaw": rng.uniform(-0.02, 0.02),
        }
    return values


def ptc_angles(v: Values) -> tuple[float, float, float]:
    """DPHI, DTHETA, DPSI: PTC turns about x before it turns about y, and DPHI turns z towards y."""
    x, y, z = (np.array([math.cos(v[a]), math.sin(v[a])]) for a in ("pitch", "yaw", "roll"))
    ex = z[0] * np.array([y[0], 0, -y[1]]) + z[1] * np.array([x[1] * y[1], x[0], x[1] * y[0]])
    theta, phi = math.asin(x[0] * y[1]), math.atan2(x[1], x[0] * y[0])
    before_roll = np.array(
        [
            [math.cos(theta), math.sin(theta) * math.sin(phi), -math.sin(theta) * math.cos(phi)],
            [0.0, math.cos(phi), math.sin(phi)],
        ]
    )
    cosine, sine = before_roll @ ex
    return -phi, theta, math.atan2(sine, cosine)


def draw_reference(
    species: tuple[str, ...], beta_gamma: tuple[float, float], rng: np.random.Generator
) -> bt.Reference:
    low, high = map(math.log, beta_gamma)
    return bt.Reference(str(rng.choice(species)), beta_gamma=math.exp(rng.uniform(low, high)))


def draw_particles(ref: bt.Reference, n: int, rng: np.random.Generator) -> np.ndarray:
    """Particles within 2 mm, 2 mrad, 5 mm and 0.5 % of the momentum, shape (6, n)."""
    scale = np.array([2e-3, 2e-3, 2e-3, 2e-3, 5e-3, 5e-3 * ref.beta])
    return rng.uniform(-1, 1, (6, n)) * scale[:, None]


# --- How the other codes write an element ----------------------------------------------------
# `names` maps the other code's parameters to Betatron's, or to functions of the values.

Names = dict[str, str | Callable[[Values], Any]]


def renamed(names: Names, values: Values) -> Values:
    return {
        there: here(values) if callable(here) else values[here] for there, here in names.items()
    }


def sequence(*parts: Callable[[Values], XtrackElement]) -> Callable[[Values], list[XtrackElement]]:
    return lambda v: [part(v) for part in parts]


def xtrack(kind: str, names: Names, **arguments: Any) -> Callable[[Values], XtrackElement]:
    def build(v: Values) -> XtrackElement:
        shift: Names = {}
        if "roll" in v:
            shift = {"shift_x": "dx", "shift_y": "dy", "rot_s_rad_no_frame": "roll"}
        if "yaw" in v:
            shift |= {"shift_s": "dz", "rot_x_rad": lambda v: -v["pitch"], "rot_y_rad": "yaw"}
        return XtrackElement(kind, renamed(names | shift, v) | arguments)

    return build


def madx(kind: str, names: Names, *more: str, **how: Any) -> Callable[[Values], MadxElement]:
    def literal(value: Any) -> str:
        return "{" + ", ".join(map(repr, value)) + "}" if isinstance(value, list) else repr(value)

    def build(v: Values) -> MadxElement:
        given = [f"{there}={literal(value)}" for there, value in renamed(names, v).items()]
        align: Names = {"dx": "dx", "dy": "dy", "dpsi": "roll"} if "roll" in v else {}
        if "yaw" in v:
            angles = dict(zip(("dphi", "dtheta", "dpsi"), ptc_angles(v), strict=True))
            align |= {"ds": "dz"} | {k: lambda _, a=a: a for k, a in angles.items()}
        return MadxElement(", ".join([kind, *given, *more]), align=renamed(align, v), **how)

    return build


def pyat(kind: str, *names: str | Callable[[Values], Any], **more: Any) -> Callable[[Values], Any]:
    """Arguments by position, then by name."""

    def build(v: Values) -> Any:
        given = [n(v) if callable(n) else v[n] for n in names]
        options = {k: o(v) if callable(o) else o for k, o in more.items()}
        return lambda at: getattr(at, kind)("e", *given, **options, **pyat_alignment(v))

    return build


def pyat_alignment(v: Values) -> Values:
    """T1, R1 (into the displaced frame) and R2, T2 (out of it), which PyAT takes as they are."""
    if "roll" not in v:
        return {}
    c, s = math.cos(v["roll"]), math.sin(v["roll"])
    turn = np.eye(6)
    turn[:4, :4] = [[c, 0, s, 0], [0, c, 0, s], [-s, 0, c, 0], [0, -s, 0, c]]
    shift = np.array([v["dx"], 0, v["dy"], 0, 0, 0])
    return {
        "T1": -shift,
        "T2": shift,
        "R1": np.asfortranarray(turn),
        "R2": np.asfortranarray(turn.T),
    }


def polynomial(integrated: list[float], length: float = 1.0) -> list[float]:
    """PyAT's coefficients of a multipole: strengths per length divided by n!."""
    return [k / length / math.factorial(n) for n, k in enumerate(integrated)]


def cheetah(kind: str, names: Names, **arguments: Any) -> Callable[[Values], tuple[str, dict]]:
    def build(v: Values) -> tuple[str, dict]:
        shift = (
            {"misalignment": lambda v: [v["dx"], v["dy"]], "tilt": "roll"} if "roll" in v else {}
        )
        return kind, renamed(names | shift, v) | arguments

    return build


# Integration: Betatron's order 6, Xtrack's order 8, PyAT's order 4, PTC's order 6
EXACT = {"limit": INTEGRATED, "options": {"order": 6, "steps": 100}}
FINE = {"num_multipole_kicks": 1500, "integrator": "yoshida-8"}
SLICES, STEPS = 1500, 2000

# --- Drift, Instrument, Marker ---------------------------------------------------------------

LENGTH: Names = {"length": "length"}
for _kind in ("Drift", "Instrument"):
    _mad: Names = {"l": "length"}
    add(_kind, "paraxial", "Xtrack", "Drift, expanded", xtrack("Drift", LENGTH, model="expanded"))
    add(_kind, "exact", "Xtrack", "Drift, exact", xtrack("Drift", LENGTH, model="exact"))
    add(_kind, "paraxial", "MAD-X/PTC", "exact=false", madx("drift", _mad, exact=False))
    add(_kind, "exact", "MAD-X/PTC", "exact=true", madx("drift", _mad))
    add(_kind, "linear", "MAD-X", "TWISS", madx("drift", _mad))
    add(_kind, "paraxial", "PyAT", "DriftPass", pyat("Drift", "length"))
    add(
        _kind,
        "exact",
        "PyAT",
        "ExactDriftPass",
        pyat("Drift", "length", PassMethod="ExactDriftPass"),
    )
    add(_kind, "linear", "Cheetah", "linear", cheetah("Drift", LENGTH))
    add(
        _kind,
        "exact",
        "Cheetah",
        "drift_kick_drift",
        cheetah("Drift", LENGTH, tracking_method="drift_kick_drift"),
    )

add("Marker", "linear paraxial exact", "Xtrack", "Marker", xtrack("Marker", {}), "")

# --- Quadrupole ------------------------------------------------------------------------------

_quad: Names = {"length": "length", "k1": "k1"}
_mad_quad: Names = {"l": "length", "k1": "k1"}
for _aligned in (False, True):
    _more: dict[str, Any] = {"parameters": "length k1", "aligned": _aligned}
    add(
        "Quadrupole",
        "paraxial",
        "Xtrack",
        "mat-kick-mat",
        xtrack("Quadrupole", _quad, model="mat-kick-mat"),
        rigid=_aligned,
        **_more,
    )
    add(
        "Quadrupole",
        "exact",
        "Xtrack",
        "drift-kick-drift-exact",
        xtrack("Quadrupole", _quad, model="drift-kick-drift-exact", **FINE),
        **EXACT,
        **_more,
    )
    add(
        "Quadrupole",
        "exact",
        "Xtrack",
        "mat-kick-mat-exact",
        xtrack("Quadrupole", _quad, model="mat-kick-mat-exact", **FINE),
        **EXACT,
        **_more,
    )
    add(
        "Quadrupole",
        "paraxial",
        "MAD-X/PTC",
        "exact=false",
        madx("quadrupole", _mad_quad, exact=False, steps=STEPS),
        limit=INTEGRATED,
        **_more,
    )
    add(
        "Quadrupole",
        "exact",
        "MAD-X/PTC",
        "exact=true",
        madx("quadrupole", _mad_quad, steps=STEPS),
        rigid=_aligned,
        **EXACT,
        **_more,
    )
    add(
        "Quadrupole",
        "paraxial",
        "PyAT",
        "QuadLinearPass",
        pyat("Quadrupole", "length", "k1", PassMethod="QuadLinearPass"),
        explanation="pyat-defocusing",
        **_more,
    )
    add(
        "Quadrupole",
        "paraxial",
        "PyAT",
        "StrMPoleSymplectic4Pass",
        pyat("Quadrupole", "length", "k1", NumIntSteps=SLICES),
        limit=INTEGRATED,
        **_more,
    )
    add(
        "Quadrupole",
        "exact",
        "PyAT",
        "ExactMultipolePass",
        pyat("Quadrupole", "length", "k1", PassMethod="ExactMultipolePass", NumIntSteps=SLICES),
        **EXACT,
        **_more,
    )
    add(
        "Quadrupole",
        "linear",
        "Cheetah",
        "linear",
        cheetah("Quadrupole", _quad),
        explanation="axis-expansion" if _aligned else "",
        **_more,
    )
    add(
        "Quadrupole",
        "paraxial",
        "Cheetah",
        "drift_kick_drift",
        cheetah("Quadrupole", _quad, tracking_method="drift_kick_drift"),
        explanation="bmad-low-energy",
        **_more,
    )
add("Quadrupole", "linear", "MAD-X", "TWISS", madx("quadrupole", _mad_quad), "length k1")

# --- Bend ------------------------------------------------------------------------------------

_bend: Names = {"length": "length", "angle": "angle", "k1": "k1"}
_mad_bend: Names = {"l": "length", "angle": "angle", "k1": "k1"}
_mad_faces: Names = _mad_bend | {
    "e1": "e1",
    "e2": "e2",
    "fint": "fint1",
    "fintx": "fint2",
    "hgap": "hgap",
}
_xt_faces: Names = _bend | {
    "edge_entry_angle": "e1",
    "edge_exit_angle": "e2",
    "edge_entry_fint": "fint1",
    "edge_exit_fint": "fint2",
    "edge_entry_hgap": "hgap",
    "edge_exit_hgap": "hgap",
}
_cheetah_faces: Names = _bend | {
    "dipole_e1": "e1",
    "dipole_e2": "e2",
    "fringe_integral": "fint1",
    "fringe_integral_exit": "fint2",
    "gap": lambda v: 2 * v["hgap"],
}
_no_fringe = ("kill_ent_fringe=true", "kill_exi_fringe=true")
FACES = "length angle e1 e2 fint1 fint2 hgap"


def _no_k1(v: Values, ref: bt.Reference) -> Values:
    return v | {"k1": 0.0}


def _at_bend(tracking: str, **more: Any) -> Callable[[Values], Any]:
    return pyat(
        "Dipole",
        "length",
        "angle",
        "k1",
        PassMethod=tracking,
        NumIntSteps=SLICES,
        EntranceAngle=lambda v: v.get("e1", 0.0),
        ExitAngle=lambda v: v.get("e2", 0.0),
        FullGap=lambda v: 2 * v.get("hgap", 0.0),
        FringeInt1=lambda v: v.get("fint1", 0.0),
        FringeInt2=lambda v: v.get("fint2", 0.0),
        **more,
    )


def _bends(
    model: str,
    code: str,
    label: str,
    element: Callable[[Values], Any],
    parameters: str,
    **more: Any,
) -> None:
    add("Bend", model, code, label, element, parameters, **more)


_bends(
    "paraxial",
    "Xtrack",
    "mat-kick-mat, pole faces",
    xtrack("Bend", _xt_faces, model="mat-kick-mat", num_multipole_kicks=1),
    FACES,
    restrict=_no_k1,
)
_bends(
    "paraxial",
    "Xtrack",
    "mat-kick-mat, k1",
    xtrack("Bend", _bend, model="mat-kick-mat", **FINE),
    "length angle k1",
    limit=INTEGRATED,
    explanation="curved-quadrupole",
)
_bends(
    "exact",
    "Xtrack",
    "bend-kick-bend, pole faces",
    xtrack("Bend", _xt_faces, model="bend-kick-bend", num_multipole_kicks=1),
    FACES,
    restrict=_no_k1,
)
_bends(
    "exact",
    "Xtrack",
    "bend-kick-bend, k1",
    xtrack("Bend", _bend, model="bend-kick-bend", **FINE),
    "length angle k1",
    **EXACT,
    explanation="xtrack-curvature",
)
_bends(
    "exact",
    "Xtrack",
    "rot-kick-rot-high-order, k1",
    xtrack("Bend", _bend, model="rot-kick-rot-high-order", **FINE),
    "length angle k1",
    **EXACT,
    explanation="xtrack-curvature",
)
_bends(
    "paraxial",
    "MAD-X/PTC",
    "exact=false, k1",
    madx("sbend", _mad_bend, exact=False, steps=STEPS),
    "length angle k1",
    limit=INTEGRATED,
)
_bends(
    "paraxial",
    "MAD-X/PTC",
    "exact=false, pole faces",
    madx("sbend", _mad_faces, exact=False, steps=STEPS),
    FACES,
    limit=INTEGRATED,
    restrict=_no_k1,
    explanation="ptc-edge",
)
_bends(
    "paraxial",
    "MAD-X/PTC",
    "exact=false, e1, e2",
    madx("sbend", _mad_bend | {"e1": "e1", "e2": "e2"}, exact=False, steps=STEPS),
    "length angle k1 e1 e2",
    limit=INTEGRATED,
)
_bends(
    "exact",
    "MAD-X/PTC",
    "exact=true",
    madx("sbend", _mad_bend, *_no_fringe),
    "length angle",
    restrict=_no_k1,
)
_bends(
    "exact",
    "MAD-X/PTC",
    "exact=true, k1",
    madx("sbend", _mad_bend, *_no_fringe, steps=STEPS),
    "length angle k1",
    **EXACT,
    explanation="ptc-curvature",
)
_bends("linear", "MAD-X", "TWISS, pole faces, k1", madx("sbend", _mad_faces), f"{FACES} k1")
_bends(
    "paraxial",
    "PyAT",
    "BndMPoleSymplectic4Pass, k1, e1, e2",
    _at_bend("BndMPoleSymplectic4Pass"),
    "length angle k1 e1 e2",
    limit=INTEGRATED,
)
_bends(
    "paraxial",
    "PyAT",
    "BndMPoleSymplectic4Pass, gap",
    _at_bend("BndMPoleSymplectic4Pass"),
    FACES,
    limit=INTEGRATED,
    restrict=_no_k1,
    explanation="pyat-edge",
)
_bends(
    "paraxial",
    "PyAT",
    "BendLinearPass, k1",
    _at_bend("BendLinearPass"),
    "length angle k1",
    explanation="pyat-bend-linear",
)
_bends(
    "exact",
    "PyAT",
    "ExactSectorBendPass",
    _at_bend("ExactSectorBendPass", FringeBendEntrance=0, FringeBendExit=0),
    "length angle",
    limit=INTEGRATED,
    restrict=_no_k1,
)
_bends(
    "exact",
    "PyAT",
    "ExactSectorBendPass, k1",
    _at_bend("ExactSectorBendPass", FringeBendEntrance=0, FringeBendExit=0),
    "length angle k1",
    **EXACT,
    explanation="pyat-straight-quadrupole",
)
_bends(
    "linear", "Cheetah", "linear, pole faces, k1", cheetah("Dipole", _cheetah_faces), f"{FACES} k1"
)
_bends(
    "exact",
    "Cheetah",
    "drift_kick_drift, pole faces",
    cheetah("Dipole", _cheetah_faces, tracking_method="drift_kick_drift"),
    FACES,
    restrict=_no_k1,
)
_bends(
    "exact",
    "Xtrack",
    "bend-kick-bend, rigid body",
    xtrack(
        "Bend",
        {"length": "length", "angle": "angle"},
        model="bend-kick-bend",
        num_multipole_kicks=1,
    ),
    "length angle",
    aligned=True,
    rigid=True,
)
_bends(
    "exact",
    "MAD-X/PTC",
    "exact=true, EALIGN",
    madx("sbend", _mad_bend, *_no_fringe),
    "length angle",
    restrict=_no_k1,
    aligned=True,
    rigid=True,
)

# --- DipoleEdge: thin and linear in every model ----------------------------------------------

_edge: Names = {"k": "curvature", "e1": "angle", "fint": "fint", "hgap": "hgap"}
_mad_edge = madx("dipedge", {"h": "curvature", "e1": "angle", "fint": "fint", "hgap": "hgap"})
add(
    "DipoleEdge",
    "linear paraxial exact",
    "Xtrack",
    "DipoleEdge, linear",
    xtrack("DipoleEdge", _edge, model="linear", side="entry"),
    "curvature angle fint hgap",
)
add("DipoleEdge", "exact", "MAD-X/PTC", "exact=true", _mad_edge, "curvature angle fint hgap")
add("DipoleEdge", "linear", "MAD-X", "TWISS", _mad_edge, "curvature angle fint hgap")

# --- Sextupole, Octupole, Multipole ----------------------------------------------------------

STRAIGHT = (
    # model, Xtrack's drift, PTC's exact, PyAT's method
    ("paraxial", "drift-kick-drift-expanded", False, "StrMPoleSymplectic4Pass"),
    ("exact", "drift-kick-drift-exact", True, "ExactMultipolePass"),
)
for _kind, _n in (("Sextupole", 2), ("Octupole", 3)):
    _k, _ks = f"k{_n}", f"k{_n}s"
    _p = f"length {_k} {_ks}"
    _names: Names = {_k: _k, _ks: _ks}

    def _series(strength: str, n: int = _n) -> Callable[[Values], list[float]]:
        return lambda v: polynomial([0.0] * n + [v[strength]])

    for _model, _drift, _is_exact, _pass in STRAIGHT:
        add(
            _kind,
            _model,
            "Xtrack",
            _drift,
            xtrack(_kind, LENGTH | _names, model=_drift, **FINE),
            _p,
            **EXACT,
        )
        add(
            _kind,
            _model,
            "MAD-X/PTC",
            f"exact={str(_is_exact).lower()}",
            madx(_kind.lower(), {"l": "length"} | _names, exact=_is_exact, steps=STEPS),
            _p,
            **EXACT,
        )
        add(
            _kind,
            _model,
            "PyAT",
            _pass,
            pyat(
                "Multipole",
                "length",
                _series(_ks),
                _series(_k),
                PassMethod=_pass,
                NumIntSteps=SLICES,
            ),
            _p,
            **EXACT,
        )
    add(_kind, "linear", "MAD-X", "TWISS", madx(_kind.lower(), {"l": "length"} | _names), _p)
add(
    "Sextupole",
    "linear",
    "Cheetah",
    "linear",
    cheetah("Sextupole", LENGTH | {"k2": "k2"}, tracking_method="linear"),
    "length k2",
)
add(
    "Sextupole",
    "paraxial",
    "Cheetah",
    "second_order",
    cheetah("Sextupole", LENGTH | {"k2": "k2"}),
    "length k2",
    **EXACT,
    explanation="second-order",
)


def _no_dipole(v: Values, ref: bt.Reference) -> Values:
    """In MAD-X the dipole component of a multipole bends the reference orbit."""
    return v | {"knl": [0.0, *v["knl"][1:]], "ksl": [0.0, *v["ksl"][1:]]}


_knl: Names = {"knl": "knl", "ksl": "ksl"}
_mad_thin = {"parameters": "knl ksl", "restrict": _no_dipole}
add(
    "Multipole", "paraxial exact", "Xtrack", "Multipole, thin", xtrack("Multipole", _knl), "knl ksl"
)
add("Multipole", "paraxial", "MAD-X/PTC", "thin", madx("multipole", _knl, exact=False), **_mad_thin)
add("Multipole", "exact", "MAD-X/PTC", "thin", madx("multipole", _knl), **_mad_thin)
add("Multipole", "linear", "MAD-X", "TWISS, thin", madx("multipole", _knl), **_mad_thin)
add(
    "Multipole",
    "paraxial exact",
    "PyAT",
    "ThinMPolePass",
    pyat("ThinMultipole", lambda v: polynomial(v["ksl"]), lambda v: polynomial(v["knl"])),
    "knl ksl",
)
for _model, _drift, _is_exact, _pass in STRAIGHT:
    add(
        "Multipole",
        _model,
        "Xtrack",
        _drift,
        xtrack("Multipole", LENGTH | _knl, isthick=True, model=_drift, **FINE),
        "length knl ksl",
        **EXACT,
    )
    add(
        "Multipole",
        _model,
        "PyAT",
        _pass,
        pyat(
            "Multipole",
            "length",
            lambda v: polynomial(v["ksl"], v["length"]),
            lambda v: polynomial(v["knl"], v["length"]),
            PassMethod=_pass,
            NumIntSteps=SLICES,
        ),
        "length knl ksl",
        **EXACT,
    )

# --- Solenoid --------------------------------------------------------------------------------

_sol: Names = {"length": "length", "ks": "ks"}
_mad_sol: Names = {"l": "length", "ks": "ks"}
add("Solenoid", "exact", "Xtrack", "UniformSolenoid", xtrack("UniformSolenoid", _sol), "length ks")
add(
    "Solenoid",
    "paraxial",
    "MAD-X/PTC",
    "exact=false",
    madx("solenoid", _mad_sol, exact=False, steps=100),
    "length ks",
)
add(
    "Solenoid",
    "exact",
    "MAD-X/PTC",
    "exact=true",
    madx("solenoid", _mad_sol, steps=100),
    "length ks",
)
add("Solenoid", "linear", "MAD-X", "TWISS", madx("solenoid", _mad_sol), "length ks")
add(
    "Solenoid",
    "paraxial",
    "PyAT",
    "SolenoidLinearPass",
    pyat(
        "Element",
        Length=lambda v: v["length"],
        K=lambda v: v["ks"],
        PassMethod="SolenoidLinearPass",
    ),
    "length ks",
)
add(
    "Solenoid",
    "linear",
    "Cheetah",
    "linear",
    cheetah("Solenoid", LENGTH | {"k": lambda v: v["ks"] / 2}),
    "length ks",
)

# --- Kicker ----------------------------------------------------------------------------------

KICKS = "length hkick vkick"
_mad_kick: Names = {"l": "length", "hkick": "hkick", "vkick": "vkick"}
for _model, _drift, _is_exact, _ in STRAIGHT:
    add(
        "Kicker",
        _model,
        "Xtrack",
        f"Multipole, {_drift}, 1 kick",
        xtrack(
            "Multipole",
            LENGTH | {"knl": lambda v: [-v["hkick"]], "ksl": lambda v: [v["vkick"]]},
            isthick=True,
            model=_drift,
            integrator="uniform",
            num_multipole_kicks=1,
        ),
        KICKS,
    )
    add(
        "Kicker",
        _model,
        "MAD-X/PTC",
        f"exact={str(_is_exact).lower()}",
        madx("kicker", _mad_kick, exact=_is_exact, steps=STEPS),
        KICKS,
        explanation="one-kick",
    )
add(
    "Kicker",
    "linear",
    "MAD-X",
    "TWISS",
    madx("kicker", _mad_kick),
    KICKS,
    explanation="straight-orbit",
)
add(
    "Kicker",
    "paraxial",
    "PyAT",
    "CorrectorPass",
    pyat("Corrector", "length", lambda v: [v["hkick"], v["vkick"]]),
    KICKS,
    explanation="one-kick",
)
add(
    "Kicker",
    "paraxial exact",
    "PyAT",
    "CorrectorPass, thin",
    pyat("Corrector", lambda v: 0.0, lambda v: [v["hkick"], v["vkick"]]),
    "hkick vkick",
)
add(
    "Kicker",
    "linear",
    "Cheetah",
    "linear",
    cheetah("CombinedCorrector", LENGTH | {"horizontal_angle": "hkick", "vertical_angle": "vkick"}),
    KICKS,
    explanation="cheetah-corrector",
)

# --- RFCavity --------------------------------------------------------------------------------
# Xtrack: sin(phase + w t); MAD-X, PTC: sin(2 pi lag + w t); PyAT: -sin(w t - lag)

WAVE = "voltage frequency phase"


def _zero_crossing(v: Values, ref: bt.Reference) -> Values:
    return v | {"phase": math.copysign(math.pi / 2, v["phase"])}


def _any_phase(v: Values, ref: bt.Reference) -> Values:
    return v | {"phase": v["phase"] * math.pi / SCALE["rad"]}


_xt_cavity: Names = {
    "voltage": "voltage",
    "frequency": "frequency",
    "phase": lambda v: v["phase"] + math.pi / 2,
}
_mad_cavity = madx(
    "rfcavity",
    {
        "volt": lambda v: v["voltage"] / 1e6,
        "freq": lambda v: v["frequency"] / 1e6,
        "lag": lambda v: 0.25 + v["phase"] / (2 * math.pi),
    },
)
add(
    "RFCavity",
    "paraxial exact",
    "Xtrack",
    "Cavity, thin",
    xtrack("Cavity", _xt_cavity),
    WAVE,
    restrict=_any_phase,
)
for _model, _drift, *_ in STRAIGHT:
    add(
        "RFCavity",
        _model,
        "Xtrack",
        f"Cavity, {_drift}, 1 kick",
        xtrack("Cavity", LENGTH | _xt_cavity, model=_drift, integrator="uniform", num_kicks=1),
        f"length {WAVE}",
        restrict=_any_phase,
    )
add("RFCavity", "exact", "MAD-X/PTC", "thin", _mad_cavity, WAVE, restrict=_any_phase)
add("RFCavity", "linear", "MAD-X", "TWISS, thin", _mad_cavity, WAVE, restrict=_zero_crossing)
add(
    "RFCavity",
    "paraxial exact",
    "PyAT",
    "RFCavityPass, thin",
    pyat(
        "RFCavity",
        lambda v: 0.0,
        "voltage",
        "frequency",
        lambda v: 1,
        "total_energy",
        PhaseLag=lambda v: math.pi / 2 - v["phase"],
        PassMethod="RFCavityPass",
    ),
    WAVE,
    restrict=_any_phase,
    beta_gamma=(3e3, 7e4),
    explanation="pyat-cavity",
)

# --- LinearMap: the same matrix in the signs of the other code -------------------------------


def _matrix(v: Values, *signs: float) -> np.ndarray:
    flip = np.diag(signs)
    return flip @ np.reshape(v["matrix"], (6, 6)) @ flip


def _symplectic(v: Values, ref: bt.Reference) -> Values:
    """MAD-X makes matrices symplectic; so it is given one that is (a Cayley transform)."""
    a = np.reshape(v["matrix"], (6, 6)) - np.eye(6)
    h = np.kron(np.eye(3), [[0.0, 1.0], [-1.0, 0.0]]) @ (a + a.T) / 4
    return v | {"matrix": (np.linalg.inv(np.eye(6) - h) @ (np.eye(6) + h)).ravel().tolist()}


def _mad_matrix(i: int, j: int) -> Callable[[Values], float]:
    return lambda v: float(_matrix(v, 1, 1, 1, 1, -1, -1)[i, j])


def _augmented(v: Values) -> np.ndarray:
    m = np.eye(7)
    m[:6, :6] = _matrix(v, 1, 1, 1, 1, 1, -1)
    return m


add(
    "LinearMap",
    "linear paraxial exact",
    "Xtrack",
    "FirstOrderTaylorMap",
    xtrack("FirstOrderTaylorMap", {"m1": lambda v: _matrix(v, 1, 1, 1, 1, -1, -1)}),
    "matrix",
)
add(
    "LinearMap",
    "linear",
    "MAD-X",
    "TWISS, MATRIX",
    madx("matrix", {f"rm{i + 1}{j + 1}": _mad_matrix(i, j) for i in range(6) for j in range(6)}),
    "matrix",
    restrict=_symplectic,
)
add(
    "LinearMap",
    "linear",
    "Cheetah",
    "CustomTransferMap",
    cheetah("CustomTransferMap", {"predefined_transfer_map": _augmented}),
    "matrix",
)

# --- ConstantFocusing: a smooth ring of Xtrack with the same phase advances ------------------


def _gentle(v: Values, ref: bt.Reference) -> Values:
    """Focusing only; longitudinally so weak that no particle is driven to negative energy."""
    kt = (0.1 + v["kt"] / 2) * min(1.0, ref.beta / ref.beta_gamma**2)
    return v | {"kx": abs(v["kx"]) + 0.1, "ky": abs(v["ky"]) + 0.1, "kt": kt}


def _tune(wave_number: str) -> Callable[[Values], float]:
    return lambda v: v[wave_number] * v["length"] / (2 * math.pi)


add(
    "ConstantFocusing",
    "linear paraxial exact",
    "Xtrack",
    "LineSegmentMap",
    xtrack(
        "LineSegmentMap",
        LENGTH
        | {
            "qx": _tune("kx"),
            "qy": _tune("ky"),
            "qs": _tune("kt"),
            "betx": lambda v: 1 / v["kx"],
            "bety": lambda v: 1 / v["ky"],
            "bets": lambda v: -(v["beta"] ** 2) / (v["kt"] * v["beta_gamma"] ** 2),
        },
        longitudinal_mode="linear_fixed_qs",
    ),
    "length kx ky kt",
    restrict=_gentle,
)

# --- Aperture: the particles that survive ----------------------------------------------------


def _elliptical(v: Values, ref: bt.Reference) -> Values:
    return v | {"shape": "elliptical"}


_window = {"parameters": "x_max y_max"}
_models = "linear paraxial exact"
add(
    "Aperture",
    _models,
    "Xtrack",
    "LimitRect",
    xtrack(
        "LimitRect",
        {
            "min_x": lambda v: -v["x_max"],
            "max_x": "x_max",
            "min_y": lambda v: -v["y_max"],
            "max_y": "y_max",
        },
    ),
    **_window,
)
add(
    "Aperture",
    _models,
    "Xtrack",
    "LimitEllipse",
    xtrack("LimitEllipse", {"a": "x_max", "b": "y_max"}),
    restrict=_elliptical,
    **_window,
)
add(
    "Aperture",
    _models,
    "PyAT",
    "AperturePass",
    pyat("Aperture", lambda v: [-v["x_max"], v["x_max"], -v["y_max"], v["y_max"]]),
    **_window,
)
add(
    "Aperture",
    _models,
    "PyAT",
    "EAperturePass",
    pyat("Element", Axes=lambda v: np.array([v["x_max"], v["y_max"]]), PassMethod="EAperturePass"),
    restrict=_elliptical,
    **_window,
)
add(
    "Aperture",
    _models,
    "Cheetah",
    "rectangular",
    cheetah("Aperture", {"x_max": "x_max", "y_max": "y_max"}),
    **_window,
)

# --- The rest of the list --------------------------------------------------------------------

import cases_lorentz  # noqa: E402, F401
import cases_thin  # noqa: E402, F401
