"""The drivers of cases that are programs: hooks and optimisers, which no table of facts can state.

Everything else about such a case (beam, elements, expected numbers) is read like that of any other. A
program may change the elements of the lattice before tracking starts (:attr:`Program.prepare`) and
by a hook before each period (:attr:`Program.before_period`), and may say which particles have to
be left at the end where the case says it in words (:attr:`Program.survivors`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import betatron as bt
import numpy as np
from facts import Facts, Lattice, Unsupported, make_beam, make_reference
from scipy.optimize import minimize


@dataclass(frozen=True)
class Program:
    """What the driver of a case does beside tracking.

    `prepare(case, lattice)` changes elements; `before_period(lattice, period)` is the hook that is
    called in front of a period; `survivors(x, y)` is the mask of the particles that the case keeps.
    """

    prepare: Callable[[Facts, Lattice], None] | None = None
    before_period: Callable[[Lattice, int], Callable[[bt.State], None]] | None = None
    survivors: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None


def program_of(case: Facts) -> Program | None:
    """The program of a case; None where its facts tell everything, or where it is not known.

    Raises `Unsupported` with the reason for a program whose result cannot be reproduced.
    """
    if case["id"] in _UNREPRODUCIBLE:
        raise Unsupported(_UNREPRODUCIBLE[case["id"]])
    return _PROGRAMS.get(case["id"])


def _shorten_drift(lattice: Lattice, period: int) -> Callable[[bt.State], None]:
    """From the second period on the drift is as long as 1 m^2 over the path so far."""

    def before_turn(state: bt.State) -> None:
        if period > 0:
            lattice.element("drift1", state.reference).length = 1.0 / state.s

    return before_turn


def _match_triplet(case: Facts, lattice: Lattice) -> None:
    """Quadrupole strengths k1 <= 0 <= k2 for beta = 0.55 m and alpha = 0 in both planes at the end.

    As in the published driver: Nelder-Mead, from the strengths of the lattice, on the Twiss
    parameters of a tracked beam.
    """
    reference = make_reference(case["reference"])
    names = ("quad1", "quad2")
    quads = [lattice.element(name, reference) for name in names]
    line = bt.Line([lattice.element(name, reference) for name in lattice.sequence])
    start = make_beam(case, reference, precision="double", seed=1, particles=10_000)

    def distance(strengths: np.ndarray) -> float:
        for quad, k1 in zip(quads, strengths, strict=True):
            quad.k1 = float(k1)
        beam = start.copy()
        line.track(beam, progress=False)
        twiss = beam.moments()
        targets = {"alpha_x": 0.0, "alpha_y": 0.0, "beta_x": 0.55, "beta_y": 0.55}
        return float(sum((twiss[name] - value) ** 2 for name, value in targets.items()))

    best = minimize(
        distance,
        [quad.k1 for quad in quads],
        method="Nelder-Mead",
        bounds=[(None, 0.0), (0.0, None)],
        options={"xatol": 1e-8, "fatol": 1e-10, "maxfev": 500},
    )
    if not best.success:
        raise RuntimeError(f"the match of the triplet has not converged: {best.message}")
    distance(best.x)  # leaves the best strengths in the lattice


def _plus(
    *, absorb: bool = False, dx: float = 0.0, dy: float = 0.0, rotation: float = 0.0
) -> Program:
    """Keeps what is in a plus 3 mm wide with arms of 1 mm, or outside if it absorbs.

    The plus is displaced by dx, dy [m] and rotated by `rotation` [degrees] from x to y.
    """
    wide, narrow = 1.5e-3, 0.5e-3  # m
    turn = np.exp(-1j * np.radians(rotation))

    def survivors(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        own = ((x - dx) + 1j * (y - dy)) * turn
        x, y = np.abs(own.real), np.abs(own.imag)
        inside = ((x < wide) & (y < narrow)) | ((x < narrow) & (y < wide))
        return ~inside if absorb else inside

    return Program(survivors=survivors)


_PROGRAMS = {
    "turn_update__turn_update": Program(before_period=_shorten_drift),
    "optimize_triplet__triplet": Program(prepare=_match_triplet),
    "polygon_aperture__polygon_aperture": _plus(),
    "polygon_aperture__polygon_aperture_absorb": _plus(absorb=True),
    "polygon_aperture__polygon_aperture_absorb_offset": _plus(absorb=True, dx=6e-4, dy=-1.2e-3),
    "polygon_aperture__polygon_aperture_absorb_rotate": _plus(absorb=True, rotation=30.0),
}

_UNREPRODUCIBLE = {
    "rfcavity__rfcavity_ref_part_opt": "the expected energy is one of 396 local maxima that the"
    " energy behind the first cavity has in 360 degrees of phase (the slow proton slips through"
    " several periods of a cavity made for beta = 1): which of them a bounded search finds depends"
    " on its own steps",
}
