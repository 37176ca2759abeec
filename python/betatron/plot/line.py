"""Pictures of a line and of what a beam does in it: floor plan, lattice silhouette, envelopes, optics.

`LinePlots` is ``line.plot``, `TrackPlots` is ``track.plot`` and `TwissPlots` is ``twiss.plot``. Every
method that makes a picture returns a Matplotlib figure and shows nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from betatron.plot import style

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from betatron.beam import Reference
    from betatron.elements import Element
    from betatron.line import Envelope, Line, Track
    from betatron.optics import Twiss


class LinePlots:
    """Pictures of a line: ``line.plot``."""

    def __init__(self, line: Line) -> None:
        self._line = line

    def survey(self, reference: Reference | None = None, *, labels: bool = True) -> Figure:
        """Floor plan: the line seen from above, z to the right and x (left of the beam) upwards.

        Lengths along the orbit and angles are true to scale; the model knows no transverse size of
        magnets, so that boxes have a width that is easy to see. What is switched off (all strengths
        zero) is an empty box, or a grey line.

        Parameters
        ----------
        reference
            Where the line starts, and at which energy; None: at the origin along z.
        labels
            Write names of elements (of all kinds but Drift and Marker). Where there is no room for
            a name at every place, each different element is named once; if there still is no room,
            bends, cavities and instruments come first.

        Returns
        -------
        matplotlib.figure.Figure
        """
        return _FloorPlan(self._line, reference, labels).draw()

    def silhouette(
        self, ax: Axes, *, start: float = 0.0, turns: int = 1, reference: Reference | None = None
    ) -> None:
        """Draw the elements of the line along s into an axes.

        Quadrupoles that focus in x stand above the axis and those that defocus below, bends,
        cavities and solenoids on both sides, instruments hang as ticks below. Elements without a
        length are lines. What is switched off (all strengths zero) is an empty box, or a grey line.

        Parameters
        ----------
        ax
            An axes whose x axis is s [m]. The vertical axis is taken over: from -1.25 to 1.25, not
            shown.
        start
            s at the start of the line [m].
        turns
            How often the line is drawn, one behind the other.
        reference
            Its signed rigidity decides in which plane a quadrupole given by its gradient in T/m
            focuses; None: 1 T m.
        """
        from matplotlib.collections import LineCollection, PolyCollection

        boxes: dict[tuple[str, str], list[list[tuple[float, float]]]] = {}
        strokes: dict[str, list[list[tuple[float, float]]]] = {}
        ends = _ends(self._line)
        rigidity = 1.0 if reference is None else reference.rigidity
        shapes = [_silhouette_shape(e, rigidity) for e in self._line]
        for turn in range(turns):
            offset = start + turn * ends[-1]
            for i, (e, shape) in enumerate(zip(self._line, shapes, strict=True)):
                if shape is None:
                    continue
                low, high = shape
                a, b = offset + ends[i], offset + ends[i + 1]
                if a == b:
                    strokes.setdefault(_stroke_colour(e), []).append([(a, low), (a, high)])
                else:
                    colours = _face_colour(e), _colour(e)
                    boxes.setdefault(colours, []).append([(a, low), (b, low), (b, high), (a, high)])
        ax.axhline(0.0, color=style.BLACK, linewidth=0.8, zorder=1)
        for (face, edge), corners in boxes.items():
            ax.add_collection(
                PolyCollection(corners, facecolors=face, edgecolors=edge, linewidths=0.5, zorder=2)
            )
        for colour, lines in strokes.items():
            ax.add_collection(LineCollection(lines, colors=colour, linewidths=1.2, zorder=3))
        ax.set_ylim(-1.25, 1.25)
        ax.set_yticks([])
        ax.grid(False)
        for side in ("left", "top", "right"):
            ax.spines[side].set_visible(False)


class TrackPlots:
    """Pictures of a tracked beam, or of a tracked envelope: ``track.plot``."""

    def __init__(self, track: Track | Envelope) -> None:
        self._track = track

    def envelope(
        self,
        quantities: str | Sequence[str] = ("sigma_x", "sigma_y"),
        *,
        losses: bool | None = None,
    ) -> Figure:
        """Moments of the beam along s, above a silhouette of the lattice.

        Parameters
        ----------
        quantities
            Columns of ``track.moments``. Those of one sort (sigma, emittance, ...) and unit share a
            panel.
        losses
            Also show the part of the particles that is still there; None: if some were lost.

        Returns
        -------
        matplotlib.figure.Figure

        Raises
        ------
        KeyError
            If a quantity is not a column of ``track.moments``.
        ValueError
            If nothing was recorded.

        Notes
        -----
        Curves of sigma_x and sigma_y between records of neighbouring elements are cubics for the
        squares, through the recorded values with the slopes d<x^2>/ds = 2 <x px>: parabolas in a
        drift. All others are joined by straight lines. With 40 places or fewer, the records
        themselves are marked.
        """
        moments = self._track.moments
        names = _quantity_names(quantities, moments.columns)
        if len(moments) == 0:
            raise ValueError(
                'nothing was recorded, so there is nothing to draw; track with record="all" or '
                "record=[names of elements]"
            )
        groups = _panels(names)
        first = float(moments["n"].iloc[0])
        lost = bool(moments["n"].iloc[-1] < first)
        show_losses = lost if losses is None else losses
        with style.betatron_style():
            figure, panels = _figure_over_s(moments, groups, self._curve, show_losses)
            if show_losses:
                self._draw_losses(panels[len(groups)], first)
            self._draw_lattice(panels[-1])
            figure.align_ylabels(panels)
        return figure

    def _curve(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Points of the curve of a quantity: the records; for sigma_x, sigma_y also between."""
        moments = self._track.moments
        s, values = moments["s"].to_numpy(), moments[name].to_numpy()
        if name not in ("sigma_x", "sigma_y"):
            return s, values
        i = 0 if name == "sigma_x" else 2
        slopes = 2.0 * self._track.covariances[:, i, i + 1]
        s, squares = _cubics(s, values**2, slopes, self._neighbours())
        return s, np.sqrt(np.maximum(squares, 0.0))

    def _neighbours(self) -> np.ndarray:
        """For each record whether at most one element lies between it and the one before."""
        moments = self._track.moments
        count = len(self._track.line)
        element = moments["element"].to_numpy()
        # places of the machine in the order passed: 0 is the start of the first turn
        turn = moments["turn"].to_numpy() - moments["turn"].iloc[0]
        backward = len(moments) > 1 and moments["s"].iloc[-1] < moments["s"].iloc[0]
        inside = count - element if backward else element + 1
        place = np.where(element < 0, 0, turn * count + inside)
        return np.diff(place, prepend=place[0]) <= 1

    def _draw_losses(self, ax: Axes, first: float) -> None:
        moments = self._track.moments
        part = 100.0 * moments["n"] / first if first > 0 else 0.0 * moments["n"]
        ax.step(moments["s"], part, where="pre", color=style.BLACK)
        ax.fill_between(
            moments["s"], part, step="pre", color=style.LIGHT_GREY, alpha=0.6, linewidth=0
        )
        ax.set_ylabel("particles [%]")
        ax.set_ylim(0.0, 105.0)

    def _draw_lattice(self, ax: Axes) -> None:
        moments, line = self._track.moments, self._track.line
        s = moments["s"].to_numpy()
        low, high = float(s.min()), float(s.max())
        length, start, turns = _ends(line)[-1], 0.0, 0
        if length > 0:
            start = self._start_of_line()
            before = math.floor((low - start) / length + 1e-9)
            turns = max(1, math.ceil((high - start) / length - 1e-9) - before)
            start += before * length
        _lattice_strip(ax, line, self._track.reference, start, turns, low, high)

    def _start_of_line(self) -> float:
        """s of the start of the line, up to whole turns, from the first record."""
        moments, line = self._track.moments, self._track.line
        ends = _ends(line)
        row = moments.iloc[0]
        i = int(row["element"])
        if i < 0:  # at the start of the passage; backwards that is the end, a whole turn on
            return float(row["s"])
        passed = (int(row["slice"]) + 1) / line.element(i).slices if self._sliced() else 1.0
        backward = len(moments) > 1 and moments["s"].iloc[-1] < row["s"]
        inside = (1.0 - passed if backward else passed) * (ends[i + 1] - ends[i])
        return float(row["s"] - ends[i] - inside)

    def _sliced(self) -> bool:
        return bool((self._track.moments["slice"] > 0).any())


class TwissPlots:
    """Pictures of the optics of a line: ``twiss.plot``."""

    def __init__(self, twiss: Twiss) -> None:
        self._twiss = twiss

    def optics(self, quantities: str | Sequence[str] | None = None) -> Figure:
        """Beta functions, dispersion or other functions along s, above a silhouette of the lattice.

        Parameters
        ----------
        quantities
            Columns of ``twiss.table``. Those of one sort (beta, dispersion, ...) and unit share a panel.
            None: beta functions and dispersions, without those that are 0.

        Returns
        -------
        matplotlib.figure.Figure

        Raises
        ------
        KeyError
            If a quantity is not a column of ``twiss.table``.

        Notes
        -----
        Curves of beta functions, phases and dispersions inside elements are cubics with the slopes at
        both ends: right in drifts and short elements. All others are joined by straight lines.
        """
        table, line = self._twiss.table, self._twiss.line
        names = _quantity_names(
            self._not_zero() if quantities is None else quantities, table.columns
        )
        groups = _panels(names)
        with style.betatron_style():
            figure, panels = _figure_over_s(table, groups, self._curve)
            s = table["s"].to_numpy()
            reference = self._twiss[0].reference
            _lattice_strip(panels[-1], line, reference, s[0], 1, float(s.min()), float(s.max()))
            figure.align_ylabels(panels)
        return figure

    def _not_zero(self) -> list[str]:
        table = self._twiss.table
        names = ["beta_x", "beta_y", "beta_1y", "beta_2x", "dispersion_x", "dispersion_y"]
        return names[:2] + [n for n in names[2:] if np.max(np.abs(table[n])) > 1e-9]

    def _curve(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        table = self._twiss.table
        s, values = table["s"].to_numpy(), table[name].to_numpy()
        sort, _, plane = name.partition("_")
        if sort == "beta":
            slopes = -2.0 * table[f"alpha_{plane}"]
        elif sort == "mu":
            slopes = (1.0 - table["u"]) / (2 * math.pi * table[f"beta_{plane}"])
        elif name in ("dispersion_x", "dispersion_y"):
            slopes = table[f"dispersion_p{plane}"]
        else:
            return s, values
        return _cubics(s, values, slopes.to_numpy(), np.full(len(s), True))


# --- what pictures along s share ------------------------------------------------------------------


def _figure_over_s(
    table: pd.DataFrame,
    groups: Sequence[Sequence[str]],
    curve: Callable[[str], tuple[np.ndarray, np.ndarray]],
    losses: bool = False,
) -> tuple[Figure, list[Axes]]:
    """A panel for each group of quantities, one for losses if wanted, and one for the lattice; the last two
    are empty."""
    import matplotlib.pyplot as plt

    heights = [3.0] * len(groups) + [1.2] * losses + [0.7]
    figure, axes = plt.subplots(
        len(heights),
        1,
        sharex=True,
        height_ratios=heights,
        squeeze=False,
        figsize=(9.0, (4.8 if len(groups) == 1 else 1.2 + 2.1 * len(groups)) + 0.9 * losses),
        layout="constrained",
    )
    panels: list[Axes] = list(axes[:, 0])
    for ax, group in zip(panels, groups, strict=False):
        _draw_panel(ax, table, group, curve)
    return figure, panels


def _draw_panel(
    ax: Axes,
    table: pd.DataFrame,
    names: Sequence[str],
    curve: Callable[[str], tuple[np.ndarray, np.ndarray]],
) -> None:
    """Quantities of one sort over s; `curve` gives points of the curve of each."""
    factor, unit = style.scale_and_unit(
        table[list(names)].to_numpy(), style.quantity_unit(names[0])
    )
    used: set[str] = set()
    for number, name in enumerate(names):
        colour = style.quantity_colour(name)
        if colour is None or colour in used:  # e.g. sigma_x and sigma_px in one plane
            colour = next(
                (c for c in style.CYCLE if c not in used),
                style.CYCLE[number % len(style.CYCLE)],
            )
        used.add(colour)
        s, values = curve(name)
        ax.plot(s, factor * values, color=colour, label=style.quantity_symbol(name))
        if len(table) <= 40:
            ax.plot(table["s"], factor * table[name], ".", color=colour, markersize=5)
    symbols = ", ".join(style.quantity_symbol(n) for n in names)
    ax.set_ylabel(f"{symbols} [{unit}]" if unit else symbols)
    if all(n.startswith(("sigma", "emittance", "beta")) for n in names):
        top = np.nanmax(factor * table[list(names)].to_numpy(), initial=0.0)
        ax.set_ylim(0.0, max(1.08 * top, ax.get_ylim()[1]) if top > 0 else 1.0)
    if len(names) > 1:
        ax.legend(loc="best", ncols=min(len(names), 3))


def _cubics(
    s: np.ndarray, values: np.ndarray, slopes: np.ndarray, near: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Points of cubic Hermite interpolation between places, where `near` says that a place is next to the
    one before."""
    points_s, points = [s[:1]], [values[:1]]
    u = np.linspace(0.0, 1.0, 17)[1:]
    for k in range(1, len(s)):
        h = s[k] - s[k - 1]
        if h == 0.0 or not near[k]:
            points_s.append(s[k : k + 1])
            points.append(values[k : k + 1])
            continue
        points_s.append(s[k - 1] + h * u)
        points.append(
            (1 + 2 * u) * (1 - u) ** 2 * values[k - 1]
            + u * u * (3 - 2 * u) * values[k]
            + h * u * (1 - u) * ((1 - u) * slopes[k - 1] - u * slopes[k])
        )
    return np.concatenate(points_s), np.concatenate(points)


def _lattice_strip(
    ax: Axes, line: Line, reference: Reference, start: float, turns: int, low: float, high: float
) -> None:
    """The axes below the panels, with a silhouette of the line over so many turns."""
    if 0 < turns and turns * len(line) <= 5000:  # more would be a grey bar
        LinePlots(line).silhouette(ax, start=start, turns=turns, reference=reference)
    ax.set_yticks([])
    ax.set_ylim(-1.25, 1.25)
    if high > low:
        ax.set_xlim(low, high)
    ax.grid(False)
    for side in ("left", "top", "right"):
        ax.spines[side].set_visible(False)
    ax.set_xlabel("$s$ [m]")


# --- what lines and silhouettes share -------------------------------------------------------------

_NOT_DRAWN = (
    *("Drift", "Marker", "DipoleEdge", "QuadrupoleEdge"),
    *("PoleFaceRotation", "PlaneRotation", "Patch"),
)
_NAMED_FIRST = (
    "Bend",
    "RFCavity",
    "RFFieldMap",
    "Undulator",
    "PlasmaLens",
    "Instrument",
    "Solenoid",
)
_STRENGTHS = {
    *("k1", "gradient", "k1l", "gradient_length", "angle", "k2", "k2s", "k3", "k3s", "knl", "ksl"),
    *("ks", "field", "kx", "ky", "kt", "hkick", "vkick", "voltage", "strength", "cnl"),
}
"""Parameters without which an element does nothing but take room."""


def _ends(line: Line) -> np.ndarray:
    """s at the start of the line and behind each element, shape (n + 1,)."""
    return np.concatenate([[0.0], np.cumsum([_length(e) for e in line])])


def _length(e: Element) -> float:
    return float(e.parameters().get("length", 0.0))


def _colour(e: Element) -> str:
    return style.KIND_COLOURS.get(e.kind, style.GREY)


def _is_off(e: Element) -> bool:
    """Whether an element that has strengths has none but zeros."""
    strengths = [value for name, value in e.parameters().items() if name in _STRENGTHS]
    return bool(strengths) and not any(any(v) if isinstance(v, list) else v for v in strengths)


def _face_colour(e: Element) -> str:
    return "white" if _is_off(e) else _colour(e)


def _stroke_colour(e: Element) -> str:
    return style.LIGHT_GREY if _is_off(e) else _colour(e)


def _silhouette_shape(e: Element, rigidity: float) -> tuple[float, float] | None:
    """Lower and upper edge of an element in a silhouette whose axis is at 0; None: not drawn."""
    if e.kind in _NOT_DRAWN:
        return None
    if e.kind in ("Quadrupole", "SoftQuadrupole"):
        strength = e.k1 + e.gradient / rigidity
        if strength == 0.0:
            return -0.3, 0.3
        return (0.0, 1.0) if strength > 0 else (-1.0, 0.0)
    if e.kind == "Kicker":
        return (-0.6, 0.6)
    if e.kind == "Instrument":
        return (-1.0, -0.35) if _length(e) == 0.0 else (-0.35, 0.35)
    half = {"Bend": 0.5, "Sextupole": 0.75, "Octupole": 0.75, "Multipole": 0.75, "RFCavity": 0.6}
    return -half.get(e.kind, 0.45), half.get(e.kind, 0.45)


def _quantity_names(quantities: str | Sequence[str], known: Iterable[str]) -> list[str]:
    import difflib

    names = [quantities] if isinstance(quantities, str) else list(quantities)
    columns = [c for c in known if c not in ("turn", "element", "slice", "name", "kind", "s")]
    if not names:
        raise ValueError(f"no quantities to draw; there are: {', '.join(columns)}")
    for name in names:
        if name not in columns:
            close = difflib.get_close_matches(str(name), columns, n=3)
            hint = f"; did you mean {', '.join(close)}?" if close else ""
            raise KeyError(f"no quantity is named {name!r}{hint}; there are: {', '.join(columns)}")
    return names


def _panels(names: Sequence[str]) -> list[list[str]]:
    """Quantities that share a panel: of one sort and one unit, in order of appearance."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name in names:
        sort = name.partition("_")[0]
        if name.startswith("emittance") and name.endswith("n"):
            sort = "normalised emittance"
        groups.setdefault((sort, style.quantity_unit(name)), []).append(name)
    return list(groups.values())


# --- floor plan -----------------------------------------------------------------------------------


class _FloorPlan:
    """Draws a line from above. All sizes on paper are in inches; `scale` is inches per metre."""

    width, height_limit = 11.0, 8.0  # of the figure
    left, right, bottom, top = 0.75, 0.2, 0.55, 0.45  # margins for ticks, titles and the legend
    half_width: ClassVar = {"Bend": 0.12, "Quadrupole": 0.09, "RFCavity": 0.11, "Solenoid": 0.11}
    default_half_width = 0.075
    stroke = 0.11  # half of the line that stands for an element without length
    label_size = 7.5  # points
    label_step = 0.135  # between neighbouring labels
    leader = 0.45  # from the orbit to a label

    def __init__(self, line: Line, reference: Reference | None, labels: bool) -> None:
        self.elements = list(line)
        self.name = line.name
        table = line.survey(reference)
        self.points = table[["z", "x"]].to_numpy()
        self.angles = np.unwrap(table["theta"].to_numpy())
        self._unwrap_large_bends()
        flat = np.hypot(table["ez_x"], table["ez_z"]).to_numpy()[:-1]
        self.lengths = np.array([_length(e) for e in self.elements]) * flat
        self.ends = np.concatenate([[0.0], np.cumsum(np.abs(self.lengths))])
        self.straight = [not self._is_arc(i) for i in range(len(self.elements))]
        places = [self.points[:1]]
        for i in range(len(self.elements)):
            places.append(np.array([self._inside(i, part) for part in self._parts(i)[1:]]))
        self.orbit = np.concatenate(places)
        self.named = self._named_elements() if labels else []

    def draw(self) -> Figure:
        import matplotlib.pyplot as plt

        labels, low, high = self._layout()
        paper = np.array(
            [self.width - self.left - self.right, max((high - low)[1] * self.scale, 1.2)]
        )
        height = paper[1] + self.bottom + self.top
        with style.betatron_style():
            figure = plt.figure(figsize=(self.width, height))
            ax = figure.add_axes(
                (
                    self.left / self.width,
                    self.bottom / height,
                    paper[0] / self.width,
                    paper[1] / height,
                )
            )
            ax.set_aspect("equal", adjustable="box")
            centre, half = 0.5 * (low + high), paper / (2.0 * self.scale)
            ax.set_xlim(centre[0] - half[0], centre[0] + half[0])
            ax.set_ylim(centre[1] - half[1], centre[1] + half[1])
            ax.plot(*self.orbit.T, color=style.BLACK, linewidth=1.0, zorder=2)
            self._draw_beam_arrow(ax)
            self._draw_elements(ax)
            for label in labels:
                self._draw_label(ax, label)
            ax.set_xlabel("$z$ [m]")
            ax.set_ylabel("$x$ [m]")
            if self.name:
                ax.set_title(self.name, loc="left")
        return figure

    # Geometry

    def _unwrap_large_bends(self) -> None:
        """Angles that a survey knows up to 2 pi only are those of the bends."""
        for i, e in enumerate(self.elements):
            if e.kind == "Bend":
                turn = self.angles[i + 1] - self.angles[i]
                self.angles[i + 1 :] += round((-e.angle - turn) / (2 * math.pi)) * 2 * math.pi

    def _inside(self, i: int, part: float) -> np.ndarray:
        """The point (z, x) on the orbit at a part of element i."""
        if self.straight[i]:
            return self.points[i] + part * (self.points[i + 1] - self.points[i])
        return self._on_arc(i, part)

    def _on_arc(self, i: int, part: float) -> np.ndarray:
        turn = (self.angles[i + 1] - self.angles[i]) * part
        direction = self.angles[i] + 0.5 * turn
        chord = self.lengths[i] * part * np.sinc(0.5 * turn / np.pi)
        return self.points[i] + chord * np.array([math.cos(direction), math.sin(direction)])

    def _is_arc(self, i: int) -> bool:
        """Whether element i follows a circle in the plane; patches, for example, jump."""
        size = abs(self.lengths[i]) + float(np.abs(self.points[i + 1]).max()) + 1e-12
        return bool(
            np.allclose(self._on_arc(i, 1.0), self.points[i + 1], rtol=0.0, atol=1e-9 * size)
        )

    def _parts(self, i: int) -> np.ndarray:
        """From 0 to 1 in steps that show the bend of element i."""
        turn = 0.0 if self.straight[i] else abs(self.angles[i + 1] - self.angles[i])
        steps = max(1, math.ceil(turn / 0.05))
        return np.linspace(0.0, 1.0, steps + 1)

    def _at(self, s: float) -> tuple[np.ndarray, float]:
        """Point (z, x) and direction at a place along the orbit; straight on beyond its ends."""
        if s <= 0.0 or s >= self.ends[-1]:
            i = 0 if s <= 0.0 else -1
            beyond = s if s <= 0.0 else s - self.ends[-1]
            direction = float(self.angles[i])
            return self.points[i] + beyond * np.array(
                [math.cos(direction), math.sin(direction)]
            ), direction
        i = int(np.searchsorted(self.ends, s, side="right")) - 1
        part = (s - self.ends[i]) / abs(self.lengths[i])
        return self._inside(i, part), float(
            self.angles[i] + part * (self.angles[i + 1] - self.angles[i])
        )

    @staticmethod
    def _normal(angle: float) -> np.ndarray:
        """To the left of the beam, in the plane (z, x)."""
        return np.array([-math.sin(angle), math.cos(angle)])

    # Layout

    def _layout(self) -> tuple[list[_Label], np.ndarray, np.ndarray]:
        """Chooses the scale; labels, and the corners (z, x) of what has to be seen [m]."""
        room = np.array(
            [
                self.width - self.left - self.right - 0.1,
                self.height_limit - self.bottom - self.top,
            ]
        )
        low, high = self.orbit.min(axis=0), self.orbit.max(axis=0)
        size = np.maximum(high - low, 1e-12)
        self.scale = float(min((room - 0.8) / size)) if size.max() > 1e-6 else 1.0
        while True:
            labels = self._labels()
            corners = [self.orbit - 0.25 / self.scale, self.orbit + 0.25 / self.scale]
            corners += [label.outline for label in labels]
            everything = np.concatenate(corners)
            low, high = everything.min(axis=0), everything.max(axis=0)
            excess = float(max((high - low) * self.scale / room))
            if excess <= 1.0 or size.max() <= 1e-6:
                return labels, low, high
            self.scale *= min(0.98, 1.0 / excess)  # labels keep their size on paper: once more

    def _named_elements(self) -> list[tuple[int, float]]:
        """(first element, s in the middle) of each run of elements of one name that is worth
        naming.
        """
        chosen = []
        for i, e in enumerate(self.elements):
            if (
                not e.name
                or e.kind in _NOT_DRAWN
                or (i > 0 and self.elements[i - 1].name == e.name)
            ):
                continue
            j = i
            while j < len(self.elements) and self.elements[j].name == e.name:
                j += 1
            chosen.append((i, 0.5 * float(self.ends[i] + self.ends[j])))
        return chosen

    def _reduced(self, room: int) -> list[tuple[int, float]]:
        """As many labels as there is room for."""
        if len(self.named) <= room // 2:
            return self.named
        seen: set[str] = set()
        once = []
        for i, s in self.named:
            if self.elements[i].name not in seen:
                seen.add(self.elements[i].name)
                once.append((i, s))
        first = [x for x in once if self.elements[x[0]].kind in _NAMED_FIRST]
        others = [x for x in once if self.elements[x[0]].kind not in _NAMED_FIRST]
        return sorted((first + others)[:room])

    def _labels(self) -> list[_Label]:
        """Labels at this scale: none covers another, nor leaves the length of the line."""
        margin = 0.2 / self.scale
        step = self.label_step / self.scale
        room = max(1, int((self.ends[-1] + 2 * margin) / step) + 1)
        chosen = self._reduced(room)
        # on the outer side of the machine, where a bent orbit spreads the labels
        side = 1.0 if self.angles[-1] - self.angles[0] <= 1e-9 else -1.0
        places = spread(np.array([s for _, s in chosen]), step, -margin, self.ends[-1] + margin)
        labels: list[_Label] = []
        for (i, s), place in zip(chosen, places, strict=True):
            foot, foot_angle = self._at(s)
            base, angle = self._at(float(place))
            outward = side * self._normal(angle)
            label = _Label(
                self.elements[i].name,
                foot + side * self._normal(foot_angle) * 0.15 / self.scale,
                base + outward * self.leader / self.scale,
                math.degrees(math.atan2(outward[1], outward[0])),
            )
            reach = outward * (0.0085 * self.label_size * len(label.text) + 0.03) / self.scale
            across = np.array([-outward[1], outward[0]]) * 0.4 * step
            label.outline = label.base + np.array([-across, reach - across, reach + across, across])
            if not any(_overlap(label.outline, other.outline) for other in labels):
                labels.append(label)  # else the machine closes or crosses itself here
        return labels

    # Drawing

    def _draw_beam_arrow(self, ax: Axes) -> None:
        start, angle = self._at(-0.05 / self.scale)
        tail = start - 0.2 / self.scale * np.array([math.cos(angle), math.sin(angle)])
        ax.annotate(
            "",
            xy=tuple(start),
            xytext=tuple(tail),
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-|>",
                "color": style.BLACK,
                "linewidth": 1.0,
                "shrinkA": 0,
                "shrinkB": 0,
            },
        )

    def _draw_elements(self, ax: Axes) -> None:
        from matplotlib.collections import LineCollection, PolyCollection
        from matplotlib.patches import Patch

        boxes: dict[str, list[np.ndarray]] = {}
        strokes: dict[str, list[np.ndarray]] = {}
        kinds: dict[str, str] = {}
        for i, e in enumerate(self.elements):
            if e.kind in _NOT_DRAWN:
                continue
            if self.lengths[i] == 0.0:
                across = self._normal(self.angles[i]) * self.stroke / self.scale
                line = np.array([self.points[i] - across, self.points[i] + across])
                strokes.setdefault(_stroke_colour(e), []).append(line)
            else:
                boxes.setdefault(_face_colour(e), []).append(self._box(i))
            kinds.setdefault(e.kind, _colour(e))
        for colour, shapes in boxes.items():
            ax.add_collection(
                PolyCollection(
                    shapes, facecolors=colour, edgecolors=style.BLACK, linewidths=0.4, zorder=3
                ),
                autolim=False,
            )
        for colour, lines in strokes.items():
            ax.add_collection(
                LineCollection(lines, colors=colour, linewidths=1.4, zorder=4), autolim=False
            )
        if kinds:
            handles = [
                Patch(facecolor=colour, edgecolor=style.BLACK, linewidth=0.4, label=kind)
                for kind, colour in kinds.items()
            ]
            ax.legend(
                handles=handles,
                loc="lower right",
                bbox_to_anchor=(1.0, 1.0),
                ncols=len(handles),
                borderaxespad=0.2,
                handlelength=1.2,
                columnspacing=1.2,
                fontsize=9,
            )

    def _box(self, i: int) -> np.ndarray:
        """Corners of an element that follows the orbit."""
        turn = self.angles[i + 1] - self.angles[i]
        half = self.half_width.get(self.elements[i].kind, self.default_half_width) / self.scale
        if turn != 0.0:
            half = min(half, 0.4 * abs(self.lengths[i] / turn))  # inside its radius of curvature
        parts = self._parts(i)
        centre = np.array([self._inside(i, part) for part in parts])
        across = half * np.array([self._normal(self.angles[i] + part * turn) for part in parts])
        return np.concatenate([centre + across, (centre - across)[::-1]])

    def _draw_label(self, ax: Axes, label: _Label) -> None:
        ax.plot(*np.array([label.foot, label.base]).T, color=style.GREY, linewidth=0.5, zorder=1)
        # text that would stand on its head starts from its other end; upright lines may lean a
        # little
        flipped = not -80.0 < label.direction <= 100.0
        ax.text(
            float(label.base[0]),
            float(label.base[1]),
            label.text,
            fontsize=self.label_size,
            color=style.BLACK,
            zorder=5,
            rotation=label.direction + 180.0 * flipped,
            rotation_mode="anchor",
            ha="right" if flipped else "left",
            va="center",
        )


@dataclass
class _Label:
    """A name beside the orbit; positions (z, x) in m."""

    text: str
    foot: np.ndarray  # of the leading line, at the element
    base: np.ndarray  # where the text starts
    direction: float  # in which it is written [degrees]
    outline: np.ndarray = field(default_factory=lambda: np.zeros((4, 2)))  # corners


def spread(wanted: np.ndarray, step: float, low: float, high: float) -> np.ndarray:
    """Places at least `step` apart, from `low` to `high`, nearest to `wanted` in least squares.

    `wanted` increases, and (n - 1) steps fit between the bounds. This is isotonic regression of
    wanted[i] - i step by pooling adjacent violators (Ayer et al., Ann. Math. Stat. 26, 641, 1955).
    """
    blocks: list[tuple[float, int]] = []  # mean, count
    for i, w in enumerate(wanted):
        mean, count = float(w) - i * step, 1
        while blocks and blocks[-1][0] >= mean:
            other, others = blocks.pop()
            mean, count = (mean * count + other * others) / (count + others), count + others
        blocks.append((mean, count))
    flat = np.array([mean for mean, count in blocks for _ in range(count)])
    last = len(flat) - 1
    return np.clip(flat, low, max(low, high - last * step)) + step * np.arange(last + 1)


def _overlap(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two rectangles overlap: no edge direction of either separates them."""
    for corners in (a, b):
        for edge in (corners[1] - corners[0], corners[3] - corners[0]):
            pa, pb = a @ edge, b @ edge
            if pa.max() <= pb.min() or pb.max() <= pa.min():
                return False
    return True
