"""Thin elements, frames and fringes in other codes: the second part of the list of cases.py."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import betatron as bt
import numpy as np
from cases import (
    EXACT,
    FINE,
    INTEGRATED,
    STEPS,
    STRAIGHT,
    WAVE,
    Values,
    _any_phase,
    add,
    madx,
    sequence,
    xtrack,
)

DERIVATIVE = {"derivative": True, "limit": INTEGRATED}
ALL = "paraxial exact"


def add_with_derivative(
    kind: str, code: str, label: str, element: Callable[[Values], Any], parameters: str, **more: Any
) -> None:
    """The same map in the paraxial and the exact model, and its derivative in the linear one."""
    add(kind, ALL, code, label, element, parameters, **more)
    add(kind, "linear", code, f"{label}, derivative", element, parameters, **(more | DERIVATIVE))


# --- Cavities --------------------------------------------------------------------------------

_crab = {"crab_voltage": "voltage", "frequency": "frequency", "phase": "phase"}
add_with_derivative(
    "CrabCavity", "Xtrack", "CrabCavity, thin", xtrack("CrabCavity", _crab), WAVE,
    restrict=_any_phase,
)  # fmt: skip
for _model, _drift, *_ in STRAIGHT:
    add(
        "CrabCavity", _model, "Xtrack", f"CrabCavity, {_drift}, 1 kick",
        xtrack(
            "CrabCavity", {"length": "length"} | _crab, model=_drift, integrator="uniform",
            num_kicks=1,
        ),
        f"length {WAVE}", restrict=_any_phase,
    )  # fmt: skip

_crossing = xtrack("Cavity", {"voltage": "voltage", "frequency": "frequency"})
add("Buncher", ALL, "Xtrack", "Cavity, zero crossing", _crossing, "voltage frequency",
    explanation="buncher")  # fmt: skip
add("Buncher", "linear", "Xtrack", "Cavity, zero crossing, derivative", _crossing,
    "voltage frequency", explanation="buncher-radial", **DERIVATIVE)  # fmt: skip

# --- Lenses ----------------------------------------------------------------------------------

_nll = {"knll": "knl", "cnll": "cnl"}
add_with_derivative(
    "NonlinearLens", "Xtrack", "NonLinearLens", xtrack("NonLinearLens", _nll), "knl cnl"
)
add("NonlinearLens", "linear", "MAD-X", "TWISS, NLLENS", madx("nllens", _nll), "knl cnl")


def _towards_centre(v: Values, ref: bt.Reference) -> Values:
    return v | {"curvature": math.copysign(v["curvature"], v["angle"])}


def _arc(v: Values) -> float:
    return v["angle"] / v["curvature"]


add_with_derivative(
    "ThinDipole", "Xtrack", "Multipole with hxl",
    xtrack("Multipole", {"knl": lambda v: [v["angle"]], "hxl": "angle", "length": _arc}),
    "angle curvature", restrict=_towards_centre,
)  # fmt: skip
_mad_thin = {"knl": lambda v: [v["angle"]], "lrad": _arc}
add(
    "ThinDipole", "paraxial", "MAD-X/PTC", "thin", madx("multipole", _mad_thin, exact=False),
    "angle curvature", restrict=_towards_centre,
)  # fmt: skip
add(
    "ThinDipole", "linear", "MAD-X", "TWISS, thin", madx("multipole", _mad_thin),
    "angle curvature", restrict=_towards_centre,
)  # fmt: skip

# --- Frames ----------------------------------------------------------------------------------


def _kick(angle: str, sign: float) -> Any:
    """Momenta with respect to the normal of the plane, or to the reference again."""
    return xtrack("Multipole", {"knl": lambda v: [-sign * math.sin(v[angle])]})


def _turn(axis: str, angle: Callable[[Values], float]) -> Any:
    return xtrack(f"{axis}Rotation", {"angle": lambda v: math.degrees(angle(v))})


add_with_derivative(
    "PoleFaceRotation", "Xtrack", "YRotation, kicks",
    sequence(
        _kick("angle_in", 1.0),
        _turn("Y", lambda v: v["angle_in"] - v["angle_out"]),
        _kick("angle_out", -1.0),
    ),
    "angle_in angle_out",
)  # fmt: skip
add_with_derivative(
    "PlaneRotation", "Xtrack", "SRotation", sequence(_turn("S", lambda v: v["angle"])), "angle"
)
add(
    "PlaneRotation", "linear", "MAD-X", "TWISS, SROTATION", madx("srotation", {"angle": "angle"}),
    "angle",
)  # fmt: skip
add_with_derivative(
    "Patch", "Xtrack", "XYShift, Drift, Y-, X-, SRotation",
    sequence(
        xtrack("XYShift", {"dx": "offset_x", "dy": "offset_y"}),
        xtrack("Drift", {"length": "offset_z"}, model="exact"),
        _turn("Y", lambda v: v["rotation_y"]),
        _turn("X", lambda v: v["rotation_x"]),
        _turn("S", lambda v: v["rotation_z"]),
    ),
    "offset_x offset_y offset_z rotation_x rotation_y rotation_z",
)  # fmt: skip

# --- TaylorMap: Xtrack's coordinates are zeta = -beta0 t and -pt/beta0 ------------------------


def _scaled_tensor(degree: int) -> Callable[[Values], Any]:
    def tensor(v: Values) -> np.ndarray:
        series = bt.TaylorSeries(np.reshape(v["coefficients"], (6, -1)), np.zeros(6))
        scale = np.array([1, 1, 1, 1, -1 / v["beta"], -v["beta"]])
        found = (series.orbit, series.R, series.T)[degree]
        for axis in range(1, degree + 1):
            found = found * scale.reshape([-1 if i == axis else 1 for i in range(degree + 1)])
        return found / scale.reshape([-1] + [1] * degree)

    return tensor


_series = {"k": _scaled_tensor(0), "R": _scaled_tensor(1), "T": _scaled_tensor(2)}
add_with_derivative(
    "TaylorMap", "Xtrack", "SecondOrderTaylorMap",
    xtrack("SecondOrderTaylorMap", _series, length=0.0), "coefficients",
)  # fmt: skip

# --- PolygonAperture -------------------------------------------------------------------------

add(
    "PolygonAperture", "linear paraxial exact", "Xtrack", "LimitPolygon",
    xtrack(
        "LimitPolygon",
        {"x_vertices": lambda v: v["vertices"][::2], "y_vertices": lambda v: v["vertices"][1::2]},
    ),
    "vertices",
)  # fmt: skip

# --- Fringes ---------------------------------------------------------------------------------


def _hard(v: Values, ref: bt.Reference) -> Values:
    return v | {"fringe": "hard"}


def _nonlinear(v: Values, ref: bt.Reference) -> Values:
    """Without the integrals of the fringe that move the orbit and that Xtrack takes from fint."""
    return v | {"fringe": "nonlinear", "fringe_k0": 0.0, "fringe_k3": 0.0}


def _nonlinear_exit(v: Values, ref: bt.Reference) -> Values:
    return _nonlinear(v, ref) | {"location": "exit"}


_edge = {"kn": lambda v: [0.0, v["k1"]]}
add(
    "QuadrupoleEdge", ALL, "Xtrack", "MultipoleEdge", xtrack("MultipoleEdge", _edge, is_exit=False),
    "k1", explanation="fringe-map",
)  # fmt: skip
add(
    "QuadrupoleEdge", ALL, "Xtrack", "MultipoleEdge, exit",
    xtrack("MultipoleEdge", _edge, is_exit=True), "k1", explanation="fringe-map",
    restrict=lambda v, ref: v | {"location": "exit"},
)  # fmt: skip
add(
    "QuadrupoleEdge", "linear", "Xtrack", "MultipoleEdge, derivative",
    xtrack("MultipoleEdge", _edge, is_exit=False), "k1", **DERIVATIVE,
)  # fmt: skip
_quad = {"length": "length", "k1": "k1"}
_faces = {"edge_entry_active": True, "edge_exit_active": True}
add(
    "Quadrupole", "paraxial", "Xtrack", "mat-kick-mat, fringes",
    xtrack("Quadrupole", _quad, model="mat-kick-mat", **_faces), "length k1",
    restrict=_hard, explanation="fringe-map", suffix=", hard edges",
)  # fmt: skip
add(
    "Quadrupole", "exact", "Xtrack", "mat-kick-mat-exact, fringes",
    xtrack("Quadrupole", _quad, model="mat-kick-mat-exact", **_faces, **FINE), "length k1",
    restrict=_hard, explanation="fringe-map", suffix=", hard edges", **EXACT,
)  # fmt: skip
add(
    "Quadrupole", "exact", "MAD-X/PTC", "exact=true, fringes",
    madx("quadrupole", {"l": "length", "k1": "k1"}, steps=STEPS, fringe=True), "length k1",
    restrict=_hard, explanation="fringe-map", suffix=", hard edges", **EXACT,
)  # fmt: skip

_face = {"k": "curvature", "e1": "angle"}
_gap = _face | {"fint": "fint", "hgap": "hgap"}
for _side, _restrict in (("entry", _nonlinear), ("exit", _nonlinear_exit)):
    add(
        "DipoleEdge", ALL, "Xtrack", f"DipoleEdge, full, {_side}",
        xtrack("DipoleEdge", _face, model="full", side=_side), "curvature angle",
        restrict=_restrict, explanation="dipole-fringe", suffix=", nonlinear",
    )  # fmt: skip
    add(
        "DipoleEdge", ALL, "Xtrack", f"DipoleEdge, full, {_side}, gap",
        xtrack("DipoleEdge", _gap, model="full", side=_side), "curvature angle fint hgap",
        restrict=_restrict, explanation="dipole-fringe-gap", suffix=", nonlinear",
    )  # fmt: skip
add(
    "DipoleEdge", "linear", "Xtrack", "DipoleEdge, full, derivative",
    xtrack("DipoleEdge", _face, model="full", side="entry"), "curvature angle",
    restrict=_nonlinear, suffix=", nonlinear", **DERIVATIVE,
)  # fmt: skip
