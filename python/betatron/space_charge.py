"""Space charge: what the charges of a beam do to each other.

A model is given to ``Line.track(beam, space_charge=...)``; `SpaceChargeEnvelope` to
``Line.envelope``. Kicks stand between stretches of lattice: one in every slice of an element with
length, or so that they are at most ``spacing`` apart. With ``order=1`` a kick stands in front of
its piece of the element, with ``order=2`` in the middle.

Formulas and sources: docs/space_charge_models.md.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from betatron import _core
from betatron._checks import number, splitting_order, thread_count, whole
from betatron.collective import Effect

if TYPE_CHECKING:
    from betatron.beam import Beam
    from betatron.line import Line

SHAPES = ("linear", "quadratic", "cubic")


@dataclass(frozen=True)
class RectangularPipe:
    """A conducting pipe around the axis, between x = -half_width ... half_width and y =
    -half_height ... half_height [m], both > 0; for ``pipe=`` of `SpaceCharge3D`, `SpaceCharge2D`
    and `SpaceCharge2p5D`."""

    half_width: float
    half_height: float

    def __post_init__(self) -> None:
        for name in ("half_width", "half_height"):
            object.__setattr__(self, name, _length(self, name))

    def _make(self) -> _core.PipeShape:
        return _core.PipeShape(False, self.half_width, self.half_height)


@dataclass(frozen=True)
class RoundPipe:
    """A round conducting pipe around the axis with this radius [m], > 0; for ``pipe=`` of
    `SpaceCharge3D`, `SpaceCharge2D` and `SpaceCharge2p5D`."""

    radius: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "radius", _length(self, "radius"))

    def _make(self) -> _core.PipeShape:
        return _core.PipeShape(True, self.radius, self.radius)


def _length(pipe: RectangularPipe | RoundPipe, name: str) -> float:
    where = f"{type(pipe).__name__}: {name}"
    value = number(getattr(pipe, name), where)
    if not 0 < value < float("inf"):
        raise ValueError(f"{where} = {value} m is not allowed; allowed: > 0 and finite")
    return value


def take_pipe(pipe: Any, where: str, kinds: tuple[type, ...]) -> Any:
    """The pipe, or that of its dictionary; None stays None. Raises TypeError unless it is one of
    these kinds."""
    if isinstance(pipe, dict):
        pipe = (RoundPipe if "radius" in pipe else RectangularPipe)(**pipe)
    if pipe is None or isinstance(pipe, kinds):
        return pipe
    names = " or ".join(kind.__name__ for kind in kinds)
    raise TypeError(f"{where}: pipe = {pipe!r} must be {names}, or None")


class SpaceCharge(Effect):
    """A model of space charge; see its kinds."""

    _needs_charge = False

    def kick(self, beam: Beam, length: float, *, threads: int | None = None) -> None:
        """One kick on the momenta of a beam, in place, as for a straight path of ``length`` [m]
        (negative: undoes it). ``threads`` as in ``Line.track``. Raises ValueError as tracking
        does."""
        from betatron.line import Line

        path = number(length, "length")
        if not abs(path) < float("inf"):
            raise ValueError(f"kick: length = {path} m is not allowed; allowed: finite")
        count = thread_count(threads)
        _core.kick_once(self._on(Line([])), beam, path, count)

    def memory(self, particles: int = 0, precision: str = "double") -> float:
        """Bytes that a kick of so many particles needs besides the beam."""
        return 0.0


class _Model(SpaceCharge):
    """What the models here have in common; they are frozen dataclasses, whose fields are their
    arguments."""

    def _make(self) -> _core.Effect:
        raise NotImplementedError

    def _on(self, line: Line) -> _core.Effect:
        return self._make()

    def _take(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _check(self) -> None:
        """Checks and converts the fields that are there, then what the core checks."""
        where = type(self).__name__
        for name in ("bins", "smoothing"):
            if hasattr(self, name):
                limit = 20000 if name == "bins" else 10000
                self._take(name, whole(getattr(self, name), f"{where}: {name}", limit))
        for name in ("current", "longitudinal_scale", "spacing"):
            if getattr(self, name, None) is not None:
                self._take(name, number(getattr(self, name), f"{where}: {name}"))
        for name in ("margin", "tolerance"):
            if hasattr(self, name):
                self._take(name, number(getattr(self, name), f"{where}: {name}"))
        if hasattr(self, "longitudinal"):
            self._take("longitudinal", bool(self.longitudinal))
        self._take("order", splitting_order(self.order, f"{where}: order"))
        if self.spacing is not None and not 0 < self.spacing < float("inf"):
            raise ValueError(f"{where}: spacing = {self.spacing} m is not allowed; allowed: > 0")
        self._make()

    def to_dict(self) -> dict[str, Any]:
        """The arguments as a dictionary of plain values; ``Model(**d)`` makes it again."""
        values = dataclasses.asdict(self)
        return {n: list(v) if isinstance(v, tuple) else v for n, v in values.items()}


@dataclass(frozen=True, kw_only=True)
class _OnPlane(_Model):
    """Models with a transverse grid, ``cells``."""

    shape: str = "quadratic"
    margin: float = 1.0
    order: int = 2
    spacing: float | None = None
    pipe: RectangularPipe | RoundPipe | None = None

    def __post_init__(self) -> None:
        where = type(self).__name__
        cells = self.cells
        if not isinstance(cells, (tuple, list, np.ndarray)):
            cells = (cells,) * 2
        if len(cells) != 2:
            raise ValueError(f"{where}: cells = {self.cells!r} must be one or two numbers")
        self._take("cells", tuple(whole(n, f"{where}: cells", 4096, 8) for n in cells))
        if self.shape not in SHAPES:
            raise ValueError(
                f"{where}: shape = {self.shape!r} is not allowed; allowed: "
                + ", ".join(map(repr, SHAPES))
            )
        self._take("pipe", take_pipe(self.pipe, where, (RectangularPipe, RoundPipe)))
        self._check()

    def _effect(
        self,
        current: float | None,
        line: _core.LineOptions,
        longitudinal: bool,
        scale: float | None,
    ) -> _core.Effect:
        """That of the core: a beam of a current, or slices."""
        return _core.space_charge_2d(
            current is None,
            self.cells,
            SHAPES.index(self.shape) + 1,
            self.margin,
            current,
            line,
            longitudinal,
            scale,
            self.order,
            self.spacing or 0.0,
            self.pipe and self.pipe._make(),
        )

    def memory(self, particles: int = 0, precision: str = "double") -> float:
        """Bytes that a kick of so many particles needs besides the beam, about; the precision does
        not matter."""
        count = whole(particles, "particles", 2**40)
        return _core.space_charge_2d_memory(self.cells, count, self.pipe and self.pipe._make())


@dataclass(frozen=True)
class SpaceCharge2D(_OnPlane):
    """Space charge of an unbunched beam of constant current: the field in the transverse plane, on
    a grid.

    Parameters
    ----------
    current
        Of the beam [A]; the charge that the particles carry gives only their shares in it. The sign
        does not matter.
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
    pipe
        `RectangularPipe`: conducting walls; the grid fills the pipe, with ``cells`` from wall to
        wall, filled up to products of 2, 3 and 5. `RoundPipe`: the grid is as without, and images
        are added. None: free space.

    Integrated Green's function. t of the particles has no meaning and pt is not
    changed.

    Raises
    ------
    ValueError, TypeError
        For values out of range, here; in tracking for coordinates that are not finite, and for
        particles outside of the pipe.
    """

    current: float
    cells: tuple[int, int] | int = (64, 64)

    def _make(self) -> _core.Effect:
        return self._effect(self.current, _core.LineOptions(100, "linear", 0), False, None)


@dataclass(frozen=True)
class SpaceCharge2p5D(_OnPlane):
    """Space charge of a long bunch: the field of its transverse profile, times the line density of
    each slice.

    Parameters
    ----------
    cells, shape, margin, order, spacing, pipe
        As for `SpaceCharge2D`.
    bins, smoothing
        Points of the line density, 2 ... 20000, and passes of the filter (1, 2, 1)/4 over it, 0 ...
        10000.
    longitudinal
        Also kick pt, by the potential times the slope of the line density.
    longitudinal_scale
        Distance at which the potential of a slice is 0 [m], which stands for the length of the
        bunch; None: 1.1026 beta gamma sigma_t of the bunch, the best for a Gaussian one. Not used
        in a pipe, whose wall it is.

    Good where beta gamma sigma_t is much larger than sigma_x and sigma_y. All slices have the same
    transverse profile, that of the whole bunch.

    Raises
    ------
    ValueError, TypeError
        For values out of range, here; in tracking for coordinates that are not finite, for
        particles outside of the pipe, and where all that carry charge have the same t.
    """

    cells: tuple[int, int] | int = (64, 64)
    bins: int = 100
    longitudinal: bool = True
    longitudinal_scale: float | None = None
    smoothing: int = 0

    def _make(self) -> _core.Effect:
        line = _core.LineOptions(self.bins, "linear", self.smoothing)
        return self._effect(None, line, self.longitudinal, self.longitudinal_scale)


@dataclass(frozen=True)
class SpaceChargeGaussian(_Model):
    """Space charge of a beam that is taken for Gaussian, with its present first and second moments:
    without a grid, and without the noise of particles.

    Parameters
    ----------
    dimension
        "3D": a bunch, in its rest frame. "2.5D": the field of a long beam, times the line density
        of each slice.
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
        For values out of range, here; in tracking for coordinates that are not finite, and for a
        beam without extent in one direction (its field would be infinite).
    """

    dimension: str = "3D"
    tolerance: float = 1e-8
    bins: int = 129
    longitudinal: bool = True
    longitudinal_scale: float | None = None
    smoothing: int = 0
    order: int = 2
    spacing: float | None = None

    def __post_init__(self) -> None:
        _dimension(self, "2.5D", "3D")
        self._check()

    def _make(self) -> _core.Effect:
        return _core.space_charge_gaussian(
            self.dimension == "2.5D",
            self.tolerance,
            _core.LineOptions(self.bins, "linear", self.smoothing),
            self.longitudinal,
            self.longitudinal_scale,
            self.order,
            self.spacing or 0.0,
        )


@dataclass(frozen=True)
class SpaceChargeEnvelope(_Model):
    """Linear space charge of an envelope (``Line.envelope``): the field of the uniform beam with
    its second moments.

    Parameters
    ----------
    dimension
        "2D": a long beam of a current, an ellipse. "3D": a bunch, an ellipsoid in its rest frame;
        ``Line.envelope`` needs its charge.
    current
        Of the beam [A], for "2D" only; the sign does not matter.
    order, spacing
        As for `SpaceCharge2D`.

    Tilted and coupled beams are treated in their principal axes. The second moments of every beam
    whose profile has the symmetry of an ellipse move like this, if its emittance does not change
    (Sacherer 1971).

    Raises
    ------
    ValueError, TypeError
        For values out of range, here; in tracking for a beam without extent in one direction.
    """

    dimension: str = "3D"
    current: float | None = None
    order: int = 2
    spacing: float | None = None

    def __post_init__(self) -> None:
        _dimension(self, "2D", "3D")
        self._check()

    @property
    def _needs_charge(self) -> bool:  # type: ignore[override]
        return self.dimension == "3D"

    def _make(self) -> _core.Effect:
        return _core.space_charge_envelope(
            self.dimension == "3D", self.current, self.order, self.spacing or 0.0
        )


def _dimension(model: Any, *allowed: str) -> None:
    if model.dimension not in allowed:
        choices = " or ".join(map(repr, allowed))
        raise ValueError(
            f"{type(model).__name__}: dimension = {model.dimension!r} must be {choices}"
        )
