"""Space charge: the field of a bunch on itself, on a grid in three dimensions.

>>> import betatron as bt
>>> ref = bt.Reference("electron", kinetic_energy=5e6)
>>> ball = bt.Kurth6D.from_ellipse(lambda_x=1e-3, lambda_y=1e-3, lambda_t=1e-4,
...                                lambda_px=0, lambda_py=0, lambda_pt=0)
>>> beam = bt.Beam(ref, ball, n=10000, charge=1e-10)
>>> drift = bt.Line([bt.Drift(0.5, slices=10)])
>>> effect = bt.SpaceCharge3D(cells=32)
>>> track = drift.track(beam, space_charge=effect)
>>> effect.times["kicks"]
10
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from betatron import _core
from betatron._checks import number, splitting_order, thread_count, whole
from betatron.space_charge import SHAPES, RectangularPipe, RoundPipe, SpaceCharge, take_pipe

if TYPE_CHECKING:
    from betatron.beam import Beam
    from betatron.line import Line


@dataclass(frozen=True)
class SpaceCharge3D(SpaceCharge):
    """The field of a bunch in free space or in a pipe, by a Poisson solver in its rest frame; for
    ``line.track(beam, space_charge=SpaceCharge3D(...))``.

    Parameters
    ----------
    cells
        Of the grid in x, y and z, each 8 ... 4096; one number stands for a cube. Products of powers of 2, 3 and 5
        are fast; others are filled up to the next such number.
    shape
        Of a particle on the grid: "linear" (cloud in cell, also "cic": 2 cells wide), "quadratic" (3) or "cubic" (4).
    order
        Of the splitting: 1 is a kick in front of each slice, 2 a kick in its middle.
    spacing
        Largest distance of kicks [m], > 0; None: one kick in every slice. Groups or parts of slices of equal length
        get one kick each.
    margin
        Size of the grid over that of the bunch, 1 ... 100; six cells are always added.
    grid_step
        Edges of cells are powers of ``1 + grid_step``, 1e-4 ... 1: while the bunch changes by less, the grid and its
        Green's function stay. 0: the grid fits the bunch closely, and the function is made anew, at every kick.
    pipe
        `RectangularPipe`: conducting walls around the bunch; the grid fills the pipe, with ``cells`` from wall to
        wall in x and y, filled up to products of 2, 3 and 5, and is open along z. ``margin`` then counts for z
        only. `RoundPipe`: the grid follows the bunch, with at least 9 ``cells`` in x and y, and the wall acts
        through harmonics of the cylinder; ``memory`` says what that takes at most, where the grid reaches the
        wall. None: free space.
    memory_limit
        Bytes that grid and particles may take, > 0; None: what the system has left.

    The solver works in the precision of the beam (in double where a beam in single is so flat that it needs it, see
    docs/collective.md) and keeps its memory between kicks and calls, as long as the object
    lives. It may be used by several threads, which take turns.

    Raises
    ------
    TypeError, ValueError
        Naming the argument, its value and what is allowed. Tracking raises ValueError before anything moves if the
        grid does not fit into memory, and at the first kick with a coordinate that is not finite.

    The formulas and their sources are in docs/collective.md.
    """

    cells: tuple[int, int, int] | int = (64, 64, 64)
    shape: str = "quadratic"
    order: int = 2
    spacing: float | None = None
    margin: float = 1.0
    grid_step: float = 0.05
    memory_limit: float | None = None
    pipe: RectangularPipe | RoundPipe | None = None
    _solver: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        def take(name: str, value: Any) -> None:
            object.__setattr__(self, name, value)

        cells = self.cells
        if not isinstance(cells, (tuple, list, np.ndarray)):
            cells = (cells,) * 3
        if len(cells) != 3:
            raise ValueError(f"SpaceCharge3D: cells = {self.cells!r} must be one or three numbers")
        take("cells", tuple(whole(n, "SpaceCharge3D: cells", 4096, 8) for n in cells))
        if self.shape == "cic":
            take("shape", "linear")
        if self.shape not in SHAPES:
            raise ValueError(
                f"SpaceCharge3D: shape = {self.shape!r} is not allowed; allowed: "
                + ", ".join(map(repr, SHAPES))
            )
        take("order", splitting_order(self.order, "SpaceCharge3D: order"))
        for name in ("spacing", "memory_limit"):
            value = getattr(self, name)
            if value is None:
                continue
            value = number(value, f"SpaceCharge3D: {name}")
            if not 0 < value < float("inf"):
                raise ValueError(f"SpaceCharge3D: {name} = {value} is not allowed; allowed: > 0")
            take(name, value)
        take("margin", number(self.margin, "SpaceCharge3D: margin"))
        take("grid_step", number(self.grid_step, "SpaceCharge3D: grid_step"))
        take("pipe", take_pipe(self.pipe, "SpaceCharge3D", (RectangularPipe, RoundPipe)))
        solver = _core.SpaceCharge3D(
            list(self.cells),
            SHAPES.index(self.shape) + 1,
            self.margin,
            self.grid_step,
            self.order,
            self.spacing or 0.0,
            self.memory_limit or 0.0,
            self.pipe and self.pipe._make(),
        )
        take("_solver", solver)

    def _on(self, line: Line) -> _core.Effect:
        return self._solver.effect()

    def to_dict(self) -> dict[str, Any]:
        """The arguments as a dictionary of plain values; ``SpaceCharge3D(**d)`` makes it again."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.init}
        pipe = self.pipe and dataclasses.asdict(self.pipe)
        return {**values, "cells": list(self.cells), "pipe": pipe}

    def __reduce__(self) -> Any:  # copies and pickles make a solver of their own
        return _from_dict, (self.to_dict(),)

    def memory(self, particles: int = 0, precision: str = "double") -> float:
        """Bytes that the solver takes for a beam of so many particles."""
        if precision not in ("single", "double"):
            raise ValueError(f"precision = {precision!r} must be 'single' or 'double'")
        return self._solver.memory(precision == "single", whole(particles, "particles", 2**32 - 1))

    def field(self, beam: Beam, threads: int | None = None) -> SpaceChargeField:
        """Density, potential and field of a beam on the grid.

        Raises
        ------
        ValueError
            If the beam has fewer than two particles or they are all at one point, if a coordinate is not finite, or
            the grid does not fit into memory.
        """
        threads = thread_count(threads)
        density, density_unit, potential, potential_unit, origin, edges = self._solver.field(
            beam, threads
        )
        gamma = beam.reference.gamma
        density *= density_unit
        potential *= potential_unit * gamma
        axes = [o + h * np.arange(n) for o, h, n in zip(origin, edges, density.shape, strict=True)]
        return SpaceChargeField(*axes, density, potential, gamma)

    @property
    def times(self) -> dict[str, float]:
        """Seconds spent in kicks so far, by phase ("deposit", "green", "transforms", "gather"), and how many "kicks"
        and "green_functions" there were."""
        return self._solver.times()

    def reset_times(self) -> None:
        """Start counting `times` again."""
        self._solver.reset_times()


def _from_dict(arguments: dict[str, Any]) -> SpaceCharge3D:
    return SpaceCharge3D(**arguments)


@dataclass(frozen=True, eq=False)
class SpaceChargeField:
    """What `SpaceCharge3D.field` gives, in the laboratory, at the time of the reference particle.

    Attributes
    ----------
    x, y, z
        Nodes of the grid [m]; z points forward, z = -beta t.
    density
        Charge per volume [C/m^3], shape (nx, ny, nz).
    potential
        Electric potential [V], shape (nx, ny, nz): gamma times that of the rest frame.
    gamma
        Of the reference particle.
    """

    x: np.ndarray
    y: np.ndarray
    z: np.ndarray
    density: np.ndarray
    potential: np.ndarray
    gamma: float

    @property
    def electric_field(self) -> np.ndarray:
        """Electric field [V/m], shape (3, nx, ny, nz), by central differences of the potential as in kicks. (The
        magnetic force takes away all but 1/gamma^2 of the transverse part; the vector potential belongs to the
        longitudinal one.)"""
        ex, ey, ez = np.gradient(-self.potential, self.x, self.y, self.z)
        return np.stack([ex, ey, ez / self.gamma**2])
