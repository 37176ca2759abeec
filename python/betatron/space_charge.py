"""Space charge: what the charges of a beam do to each other.

A model is given to ``Line.track(beam, space_charge=...)``; `SpaceChargeEnvelope` to ``Line.envelope``. Kicks stand
between stretches of lattice: one in every slice of an element with length, or so that they are at most ``spacing``
apart. With ``order=1`` a kick stands in front of its piece of the element, with ``order=2`` in the middle.

Formulas and sources: docs/space_charge_models.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from betatron import _core
from betatron._checks import number, whole
from betatron.collective import Effect

if TYPE_CHECKING:
    from collections.abc import Sequence

    from betatron.beam import Beam
    from betatron.line import Line

_SHAPES = {"linear": 1, "quadratic": 2, "cubic": 3}


class SpaceCharge(Effect):
    """A model of space charge; see its kinds."""

    _needs_charge = False

    def kick(self, beam: Beam, length: float, *, threads: int | None = None) -> None:
        """One kick on the momenta of a beam, in place, as for a straight path of ``length`` [m] (negative: undoes
        it). ``threads`` as in ``Line.track``. Raises ValueError as tracking does."""
        from betatron.line import Line

        path = number(length, "length")
        if not abs(path) < float("inf"):
            raise ValueError(f"kick: length = {path} m is not allowed; allowed: finite")
        count = 0 if threads is None else whole(threads, "threads", 4096)
        _core.kick_once(self._on(Line([])), beam, path, count)


def _splitting(order: int, spacing: float | None) -> tuple[int, float]:
    if whole(order, "order", 2) < 1:
        raise ValueError(f"order = {order} is not allowed; allowed: 1, 2")
    if spacing is None:
        return order, 0.0
    distance = number(spacing, "spacing")
    if not 0 < distance < float("inf"):
        raise ValueError(f"spacing = {distance} m is not allowed; allowed: > 0")
    return order, distance


def _optional(value: float | None, where: str) -> float | None:
    return None if value is None else number(value, where)


class _OnPlane(SpaceCharge):
    """Models with a transverse grid."""

    def __init__(
        self, cells: Sequence[int], shape: str, margin: float, order: int, spacing: float | None
    ) -> None:
        self.cells = tuple(whole(n, "cells", 4096) for n in cells)
        if len(self.cells) != 2:
            raise ValueError(f"cells = {tuple(cells)} must be two numbers, along x and y")
        if shape not in _SHAPES:
            raise ValueError(f"shape = {shape!r} must be one of {', '.join(map(repr, _SHAPES))}")
        self.shape = shape
        self.margin = number(margin, "margin")
        self.order, self.spacing = _splitting(order, spacing)

    @property
    def memory(self) -> float:
        """Bytes that a kick needs besides the beam, about."""
        return _core.space_charge_2d_memory(self.cells)


class SpaceCharge2D(_OnPlane):
    """Space charge of an unbunched beam of constant current: the field in the transverse plane, on a grid.

    Parameters
    ----------
    current
        Of the beam [A]; the charge that the particles carry gives only their shares in it. The sign does not matter.
    cells
        Nodes of the grid along x and y, 8 ... 4096 each. It fits the beam at every kick.
    shape
        Of a particle on the grid: "linear", "quadratic" or "cubic".
    margin
        Size of the grid over that of the beam, 1 ... 100; six more cells are always added.
    order
        Of the splitting: 1 or 2.
    spacing
        Largest distance of kicks [m]; None: one kick per slice.

    Open boundaries, integrated Green's function. t of the particles has no meaning and pt is not changed.

    Raises
    ------
    ValueError, TypeError
        For values out of range, here; for coordinates that are not finite, in tracking.
    """

    def __init__(
        self,
        current: float,
        cells: Sequence[int] = (64, 64),
        *,
        shape: str = "quadratic",
        margin: float = 1.0,
        order: int = 2,
        spacing: float | None = None,
    ) -> None:
        super().__init__(cells, shape, margin, order, spacing)
        self.current = number(current, "current")
        self._make()

    def __repr__(self) -> str:
        return f"SpaceCharge2D(current={self.current!r}, cells={self.cells})"

    def _make(self) -> _core.Effect:
        return _core.space_charge_2d(
            False,
            self.cells,
            _SHAPES[self.shape],
            self.margin,
            self.current,
            _core.LineOptions(100, "linear", 0),
            False,
            None,
            self.order,
            self.spacing,
        )

    def _on(self, line: Line) -> _core.Effect:
        return self._make()


class SpaceCharge2p5D(_OnPlane):
    """Space charge of a long bunch: the field of its transverse profile, times the line density of each slice.

    Parameters
    ----------
    cells, shape, margin, order, spacing
        As for `SpaceCharge2D`.
    bins, smoothing
        Points of the line density, 2 ... 20000, and passes of the filter (1, 2, 1)/4 over it, 0 ... 10000.
    longitudinal
        Also kick pt, by the potential times the slope of the line density.
    longitudinal_scale
        Distance at which the potential of a slice is 0 [m], which stands for the length of the bunch; None:
        1.1026 beta gamma sigma_t of the bunch, the best for a Gaussian one.

    Good where beta gamma sigma_t is much larger than sigma_x and sigma_y. All slices have the same transverse
    profile, that of the whole bunch.

    Raises
    ------
    ValueError, TypeError
        For values out of range, here; in tracking for coordinates that are not finite, and where all particles have
        the same t.
    """

    def __init__(
        self,
        cells: Sequence[int] = (64, 64),
        bins: int = 100,
        *,
        longitudinal: bool = True,
        longitudinal_scale: float | None = None,
        smoothing: int = 0,
        shape: str = "quadratic",
        margin: float = 1.0,
        order: int = 2,
        spacing: float | None = None,
    ) -> None:
        super().__init__(cells, shape, margin, order, spacing)
        self.bins = whole(bins, "bins", 20000)
        self.smoothing = whole(smoothing, "smoothing", 10000)
        self.longitudinal = bool(longitudinal)
        self.longitudinal_scale = _optional(longitudinal_scale, "longitudinal_scale")
        self._make()

    def __repr__(self) -> str:
        return f"SpaceCharge2p5D(cells={self.cells}, bins={self.bins})"

    def _make(self) -> _core.Effect:
        return _core.space_charge_2d(
            True,
            self.cells,
            _SHAPES[self.shape],
            self.margin,
            None,
            _core.LineOptions(self.bins, "linear", self.smoothing),
            self.longitudinal,
            self.longitudinal_scale,
            self.order,
            self.spacing,
        )

    def _on(self, line: Line) -> _core.Effect:
        return self._make()


class SpaceChargeGaussian(SpaceCharge):
    """Space charge of a beam that is taken for Gaussian, with its present first and second moments: without a grid,
    and without the noise of particles.

    Parameters
    ----------
    dimension
        "3D": a bunch, in its rest frame. "2.5D": the field of a long beam, times the line density of each slice.
    tolerance
        Of the integrals, relative to the largest field: 1e-14 ... 1e-2.
    bins, smoothing, longitudinal, longitudinal_scale
        Only "2.5D": as for `SpaceCharge2p5D`.
    order, spacing
        As for `SpaceCharge2D`.

    Beams that are tilted in x, y or t keep their tilt: fields are computed in the principal axes.

    Raises
    ------
    ValueError, TypeError
        For values out of range, here; in tracking for coordinates that are not finite, and for a beam without extent
        in one direction (its field would be infinite).
    """

    def __init__(
        self,
        dimension: str = "3D",
        *,
        tolerance: float = 1e-8,
        bins: int = 129,
        smoothing: int = 0,
        longitudinal: bool = True,
        longitudinal_scale: float | None = None,
        order: int = 2,
        spacing: float | None = None,
    ) -> None:
        if dimension not in ("2.5D", "3D"):
            raise ValueError(f"dimension = {dimension!r} must be '2.5D' or '3D'")
        self.dimension = dimension
        self.tolerance = number(tolerance, "tolerance")
        self.bins = whole(bins, "bins", 20000)
        self.smoothing = whole(smoothing, "smoothing", 10000)
        self.longitudinal = bool(longitudinal)
        self.longitudinal_scale = _optional(longitudinal_scale, "longitudinal_scale")
        self.order, self.spacing = _splitting(order, spacing)
        self._make()

    def __repr__(self) -> str:
        return f"SpaceChargeGaussian({self.dimension!r})"

    def _make(self) -> _core.Effect:
        return _core.space_charge_gaussian(
            self.dimension == "2.5D",
            self.tolerance,
            _core.LineOptions(self.bins, "linear", self.smoothing),
            self.longitudinal,
            self.longitudinal_scale,
            self.order,
            self.spacing,
        )

    def _on(self, line: Line) -> _core.Effect:
        return self._make()


class SpaceChargeEnvelope(SpaceCharge):
    """Linear space charge of an envelope (``Line.envelope``): the field of the uniform beam with its second moments.

    Parameters
    ----------
    dimension
        "2D": a long beam of a current, an ellipse. "3D": a bunch, an ellipsoid in its rest frame; ``Line.envelope``
        needs its charge.
    current
        Of the beam [A], for "2D" only; the sign does not matter.
    order, spacing
        As for `SpaceCharge2D`.

    Tilted and coupled beams are treated in their principal axes. The second moments of every beam whose profile has
    the symmetry of an ellipse move like this, if its emittance does not change (Sacherer 1971).

    Raises
    ------
    ValueError, TypeError
        For values out of range, here; in tracking for a beam without extent in one direction.
    """

    def __init__(
        self,
        dimension: str = "3D",
        *,
        current: float | None = None,
        order: int = 2,
        spacing: float | None = None,
    ) -> None:
        if dimension not in ("2D", "3D"):
            raise ValueError(f"dimension = {dimension!r} must be '2D' or '3D'")
        self.dimension = dimension
        self.current = _optional(current, "current")
        self.order, self.spacing = _splitting(order, spacing)
        self._needs_charge = dimension == "3D"
        self._make()

    def __repr__(self) -> str:
        current = "" if self.current is None else f", current={self.current!r}"
        return f"SpaceChargeEnvelope({self.dimension!r}{current})"

    def _make(self) -> _core.Effect:
        return _core.space_charge_envelope(
            self.dimension == "3D", self.current, self.order, self.spacing
        )

    def _on(self, line: Line) -> _core.Effect:
        return self._make()
