"""Pictures of a beam at one place: ``beam.plot``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from betatron.plot import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from betatron.beam import Beam

_COORDINATES = ("x", "px", "y", "py", "t", "pt")


class BeamPlots:
    """Pictures of a beam: ``beam.plot``."""

    def __init__(self, beam: Beam) -> None:
        self._beam = beam

    def phase_space(
        self,
        planes: Sequence[str] = ("x-px", "y-py", "t-pt", "x-y", "t-x", "pt-x"),
        *,
        bins: int | None = None,
        ellipse: bool = True,
        columns: int = 3,
    ) -> Figure:
        """Density of the beam in planes of its phase space, with projections on both axes.

        Parameters
        ----------
        planes
            Pairs of coordinates, "x-px": the first to the right, the second upwards. Of x, px, y,
            py, t, pt.
        bins
            Cells along each axis; None: more for more particles.
        ellipse
            Draw the rms ellipse, at one sigma about the mean.
        columns
            Panels beside each other.

        Particles count with their weights. Raises ValueError for a plane that does not exist and
        for a beam without particles, TypeError for what is not a list of planes.
        """
        import matplotlib.pyplot as plt

        pairs = [_pair(plane) for plane in ([planes] if isinstance(planes, str) else planes)]
        if not pairs:
            raise ValueError("phase_space: no planes to draw")
        bins = _bins(bins, len(self._beam))
        if isinstance(columns, bool) or not isinstance(columns, int) or columns < 1:
            raise ValueError(f"phase_space: columns = {columns!r} must be a whole number >= 1")
        if len(self._beam) == 0:
            raise ValueError("phase_space: the beam has no particles to draw")

        coordinates = {
            name: _Coordinate.of(name, self._beam[name])
            for name in _COORDINATES
            if any(name in pair for pair in pairs)
        }
        weights = np.asarray(self._beam.weight, dtype=float)
        if not weights.any():
            weights = np.ones_like(weights)  # a beam without charge still has a shape
        columns = min(columns, len(pairs))
        rows = math.ceil(len(pairs) / columns)
        with style.betatron_style():
            figure = plt.figure(figsize=(3.6 * columns, 3.4 * rows), layout="constrained")
            grid = figure.add_gridspec(rows, columns)
            for number, (right, up) in enumerate(pairs):
                cell = grid[divmod(number, columns)].subgridspec(
                    2, 2, width_ratios=(4, 1), height_ratios=(1, 4), hspace=0, wspace=0
                )
                axes = _Axes.within(figure, cell)
                _draw_plane(axes, coordinates[right], coordinates[up], weights, bins, ellipse)
            figure.suptitle(_title(self._beam), fontsize=10)
        return figure


class _Coordinate(NamedTuple):
    """Values of a coordinate in the unit of its axis."""

    values: np.ndarray
    limits: tuple[float, float]
    label: str

    @classmethod
    def of(cls, name: str, column: np.ndarray) -> _Coordinate:
        values = np.asarray(column, dtype=float)
        low, high = float(values.min()), float(values.max())
        margin = 0.04 * (high - low)
        if margin <= 1e-12 * max(abs(low), abs(high)):  # one particle, or all in one place
            margin = 0.1 * max(abs(low), abs(high)) or 1e-6
        low, high = low - margin, high + margin
        factor, unit = style.scale_and_unit([low, high], style.quantity_unit(name))
        return cls(factor * values, (factor * low, factor * high), style.axis_label(name, unit))


class _Axes(NamedTuple):
    plane: Axes
    top: Axes
    side: Axes

    @classmethod
    def within(cls, figure: Figure, cell: Any) -> _Axes:
        plane = figure.add_subplot(cell[1, 0])
        top = figure.add_subplot(cell[0, 0], sharex=plane)
        side = figure.add_subplot(cell[1, 1], sharey=plane)
        for projection in (top, side):
            projection.axis("off")
        return cls(plane, top, side)


def _draw_plane(
    axes: _Axes, right: _Coordinate, up: _Coordinate, weights: np.ndarray, bins: int, ellipse: bool
) -> None:
    density, x_edges, y_edges = np.histogram2d(
        right.values, up.values, bins=bins, range=(right.limits, up.limits), weights=weights
    )
    axes.plane.pcolormesh(
        x_edges,
        y_edges,
        np.ma.masked_equal(density.T, 0.0),
        cmap="viridis",
        rasterized=True,  # thousands of cells as vectors make files that no viewer likes
    )
    if ellipse:
        axes.plane.plot(
            *_rms_ellipse(right.values, up.values, weights), color=style.VERMILLION, linewidth=1.2
        )
    axes.plane.set(xlabel=right.label, ylabel=up.label, xlim=right.limits, ylim=up.limits)
    axes.top.stairs(density.sum(axis=1), x_edges, fill=True, color=style.LIGHT_GREY)
    axes.side.stairs(
        density.sum(axis=0), y_edges, orientation="horizontal", fill=True, color=style.LIGHT_GREY
    )


def _rms_ellipse(a: np.ndarray, b: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Points (2, n) at one sigma about the mean: mean + L (cos, sin), L L^T the covariance."""
    mean = np.average([a, b], axis=1, weights=weights)
    da, db = a - mean[0], b - mean[1]
    aa, ab, bb = (np.average(q, weights=weights) for q in (da * da, da * db, db * db))
    slope = ab / np.sqrt(aa) if aa > 0.0 else 0.0
    angle = np.linspace(0.0, 2.0 * np.pi, 181)
    first = np.sqrt(aa) * np.cos(angle)
    second = slope * np.cos(angle) + np.sqrt(max(bb - slope**2, 0.0)) * np.sin(angle)
    return mean[:, None] + np.array([first, second])


def _title(beam: Beam) -> str:
    ref = beam.reference
    factor, unit = style.scale_and_unit(ref.kinetic_energy, "eV")
    return (
        f"{len(beam)} macroparticle{'s' if len(beam) > 1 else ''}, {ref.species.name} of "
        f"{factor * ref.kinetic_energy:.4g} {unit}, s = {ref.s:.4g} m"
    )


def _pair(plane: Any) -> tuple[str, str]:
    if not isinstance(plane, str):
        raise TypeError(f'phase_space: planes are given as "x-px", got {plane!r}')
    right, dash, up = plane.partition("-")
    if not dash or right not in _COORDINATES or up not in _COORDINATES:
        raise ValueError(
            f'phase_space: plane {plane!r} must be two of {", ".join(_COORDINATES)}, as in "x-px"'
        )
    return right, up


def _bins(bins: int | None, particles: int) -> int:
    if bins is None:  # about 10 particles per filled cell; odd, so that the middle is a cell
        return int(np.clip(math.sqrt(particles / 10), 30, 200)) | 1
    if isinstance(bins, bool) or not isinstance(bins, int):
        raise TypeError(f"phase_space: bins must be a whole number, got {bins!r}")
    if bins < 1:
        raise ValueError(f"phase_space: bins = {bins} must be >= 1")
    return bins
