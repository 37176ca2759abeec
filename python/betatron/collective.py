"""What a beam does to itself: coherent synchrotron radiation, wakefields, intra-beam scattering.

An effect is given to ``Line.track(beam, collective=[...])``. It kicks the beam between stretches of
lattice: once in every slice of an element, or so that kicks are at most ``spacing`` apart.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from betatron import _core
from betatron._checks import number, splitting_order, thread_count, whole
from betatron._constants import ELEMENTARY_CHARGE
from betatron._warnings import warn_of_domain
from betatron.elements import Element

if TYPE_CHECKING:
    from betatron.beam import Beam, Reference
    from betatron.line import Line

At = None | str | Element | Iterable[str | Element]


class Effect:
    """A collective effect; see its kinds, `CSR`, `Wake`, ..."""

    def _on(self, line: Line) -> _core.Effect:
        raise NotImplementedError


def effects_on(line: Line, given: Any) -> list[_core.Effect]:
    """The effects of ``Line.track(collective=...)``, made ready for a line."""
    if given is None:
        return []
    if not isinstance(given, (Effect, Iterable)):
        raise TypeError(f"collective takes effects (CSR, Wake, ...), got {given!r}")
    items = [given] if isinstance(given, Effect) else list(given)
    for item in items:
        if not isinstance(item, Effect):
            raise TypeError(f"collective takes effects (CSR, Wake, ...), got {item!r}")
    return [item._on(line) for item in items]


def warn_of_effects(effects: Iterable[_core.Effect]) -> None:
    """Behind a run: warns of effects that were used beyond what they are known for."""
    for effect in effects:
        if remark := effect.remark():
            warn_of_domain(remark)


def _flags(line: Line, at: At) -> list[int]:
    """One flag per element, or nothing for all elements with length."""
    return [] if at is None else line._flags(at)[0]


class _OnLineDensity(Effect):
    """Effects that see the beam as a density along t."""

    def __init__(
        self, bins: int, shape: str, smoothing: int, order: int, spacing: float | None
    ) -> None:
        where = type(self).__name__
        self.bins = whole(bins, f"{where}: bins", 20000, 2)
        self.shape = shape
        self.smoothing = whole(smoothing, f"{where}: smoothing", 10000)
        self.order = splitting_order(order, f"{where}: order")
        self.spacing = 0.0 if spacing is None else number(spacing, "spacing")
        if spacing is not None and not 0 < self.spacing < float("inf"):
            raise ValueError(f"spacing = {spacing} m is not allowed; allowed: > 0")
        self._density()

    def _density(self) -> _core.LineOptions:
        return _core.LineOptions(self.bins, self.shape, self.smoothing)


def line_density(
    beam: Beam, bins: int = 150, *, shape: str = "linear", smoothing: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """The charge of a beam per length of t: (t [m], density [C/m]), as collective effects see it.

    Parameters
    ----------
    bins
        Nodes between the first and the last particle, 2 ... 20000.
    shape
        How a particle is spread over nodes: "linear" (two) or "quadratic" (three).
    smoothing
        Passes of the filter (1, 2, 1)/4, 0 ... 10000.

    The sum of the density times the step of t is the charge of the beam. c times the density is the
    current.
    """
    options = _core.LineOptions(
        whole(bins, "bins", 20000), shape, whole(smoothing, "smoothing", 10000)
    )
    t, density, _, _ = _core.line_density(beam, options, False)
    return t, density


class CSR(_OnLineDensity):
    """Coherent synchrotron radiation of a line charge on the reference orbit, in bends and behind
    them.

    Parameters
    ----------
    bins, shape, smoothing
        Of the line density, see `line_density`.
    model
        "steady_state": in every bend as if the beam had always been in it. "transient": with what
        happens at entrances and exits of magnets, in the drifts after them and from one magnet to
        the next.
    drifts
        With the transient model: also in everything without curvature behind the first bend
        (default).
    shielding_gap
        Distance of two conducting plates above and below the orbit [m]; None: free space.
    order
        1: a kick in front of each slice; 2: in the middle (default).
    spacing
        Largest distance of kicks [m]; None: one kick per slice.

    The formulas, for every gamma and both signs of curvature, stand in docs/wakes.md with their
    sources. Kicks change pt only. A bunch needs a length: tracking raises ValueError where all
    particles have the same t, and for the transient model on lines whose plane turns.
    """

    def __init__(
        self,
        bins: int = 150,
        model: str = "steady_state",
        drifts: bool = True,
        shielding_gap: float | None = None,
        *,
        shape: str = "linear",
        smoothing: int = 0,
        order: int = 2,
        spacing: float | None = None,
    ) -> None:
        super().__init__(bins, shape, smoothing, order, spacing)
        if model not in ("steady_state", "transient"):
            raise ValueError(f"model = {model!r} must be 'steady_state' or 'transient'")
        self.model = model
        self.drifts = bool(drifts)
        self.shielding_gap = (
            None if shielding_gap is None else number(shielding_gap, "shielding_gap")
        )
        if self.shielding_gap is not None and not 0 < self.shielding_gap < float("inf"):
            raise ValueError(
                f"shielding_gap = {shielding_gap} m is not allowed; allowed: > 0, or None"
            )

    def __repr__(self) -> str:
        return f"CSR(bins={self.bins}, model={self.model!r})"

    def _on(self, line: Line) -> _core.Effect:
        return _core.csr(
            line,
            self._density(),
            self.model == "transient",
            self.drifts,
            self.shielding_gap or 0.0,
            self.order,
            self.spacing,
        )

    def field(
        self, beam: Beam, orbit: Sequence[tuple[float, float]]
    ) -> tuple[np.ndarray, np.ndarray]:
        """The energy gain per path length of the particles of a beam: (t [m], dE/ds [eV/m]).

        ``orbit`` is the way that the beam has come: (length [m], curvature [1/m]) of arcs, the
        present one first; in front of the last one the orbit is straight. ``[(float("inf"), 1/R)]``
        is the steady state.
        """
        arcs = [(number(a, "length"), number(b, "curvature")) for a, b in orbit]
        for length, curvature in arcs:
            if not (length > 0 and np.isfinite(curvature)):
                raise ValueError(
                    f"orbit: an arc of {length} m and {curvature} 1/m is not allowed; "
                    "allowed: length > 0"
                )
        return _core.csr_profile(beam, self._density(), arcs, self.shielding_gap or 0.0)


class WakeFunction:
    """What a point charge leaves behind: one or more of the wakes "longitudinal", "dipole_x",
    "dipole_y", "quadrupole_x", "quadrupole_y". See its kinds: `Resonator`, `ResistiveWall`,
    `StructureWake`, `WakeTable`.

    Functions of the distance t [m] behind the source (c times the delay), in V/C (longitudinal) and
    V/C/m (transverse), or per metre of path where ``per_metre`` is true.
    """

    _given: tuple[tuple[Any, ...], dict[str, Any]]  # to the constructor of its class

    def __new__(cls, *given: Any, **named: Any) -> Self:
        made = super().__new__(cls)
        made._given = copy.deepcopy((given, named))
        return made

    def __init__(self, terms: dict[str, _core.WakeTerm]) -> None:
        self._terms = terms

    def __reduce__(self) -> tuple[Any, ...]:
        return _made_again, (type(self), *self._given)

    @property
    def kinds(self) -> list[str]:
        """The wakes it has."""
        return list(self._terms)

    @property
    def per_metre(self) -> bool:
        """Whether values are per metre of path."""
        return next(iter(self._terms.values())).per_metre

    def __call__(self, t: Any, kind: str | None = None) -> np.ndarray:
        """Values at distances t [m], 0 for t < 0. ``kind`` may be left out where there is one
        only."""
        given = np.asarray(t, dtype=np.float64)
        return self._term(kind).at(given.ravel().tolist()).reshape(given.shape)

    def loss_factor(self, beam: Beam, bins: int = 1000) -> float:
        """Energy lost over the square of the charge [V/C] (per metre where the wake is), for the
        line density of a beam: int int lambda(t) lambda(t') W(t - t')."""
        options = _core.LineOptions(whole(bins, "bins", 20000), "linear", 0)
        self._watch_reach(beam)
        return self._term("longitudinal").loss_factor(beam, options)

    def potential(
        self, beam: Beam, kind: str | None = None, bins: int = 1000
    ) -> tuple[np.ndarray, np.ndarray]:
        """The wake of a whole beam: (t [m], sum of Q_j W(t - t_j)) [V for longitudinal; V/m for
        quadrupole; for dipole sum of Q_j x_j W, V], per metre where the wake is."""
        options = _core.LineOptions(whole(bins, "bins", 20000), "linear", 0)
        self._watch_reach(beam)
        return _core.wake_profile(beam, options, self._term(kind))

    @property
    def reach(self) -> float:
        """Distance up to which it is known [m]; that of a fit, else infinity."""
        return min(term.reach for term in self._terms.values())

    def _watch_reach(self, beam: Beam) -> None:
        extent = float(np.ptp(np.asarray(beam.t, dtype=float))) if len(beam) else 0.0
        if extent > self.reach:
            warn_of_domain(
                f"{type(self).__name__}: the beam is {extent:.3g} m long (from its first to its last "
                f"particle), the fit is for distances up to {self.reach:.3g} m"
            )

    def _term(self, kind: str | None) -> _core.WakeTerm:
        if kind is None and len(self._terms) == 1:
            return next(iter(self._terms.values()))
        if kind not in self._terms:
            raise KeyError(f"there is no wake {kind!r} here; there are: {', '.join(self._terms)}")
        return self._terms[kind]


def _made_again(kind: type[WakeFunction], given: Any, named: Any) -> WakeFunction:
    return kind(*given, **named)


class Resonator(WakeFunction):
    """A resonator: a cavity mode, or a broad-band impedance.

    Parameters
    ----------
    shunt_impedance
        R of Z = R/(1 + i Q (f_r/f - f/f_r)) [Ohm], or of Z = (f_r/f) R/(1 + ...) [Ohm/m] for
        transverse kinds.
    quality, frequency
        Q and f_r [Hz], > 0.
    kind
        "longitudinal", "dipole_x", "dipole_y", "quadrupole_x" or "quadrupole_y".
    """

    def __init__(
        self, shunt_impedance: float, quality: float, frequency: float, kind: str = "longitudinal"
    ) -> None:
        super().__init__(
            {
                kind: _core.resonator(
                    kind,
                    number(shunt_impedance, "shunt_impedance"),
                    number(quality, "quality"),
                    number(frequency, "frequency"),
                )
            }
        )


class ResistiveWall(WakeFunction):
    """A pipe of a normal conductor, per metre: short-range and long-range wake.

    Parameters
    ----------
    radius
        Of the pipe, or half the distance of the plates [m], > 0.
    conductivity
        For direct current [1/(Ohm m)], > 0; copper has 5.9e7.
    pipe
        "round", or "flat": two plates at y = +-radius, with form factors that hold for distances
        much longer than (2 radius^2/(Z0 conductivity))^(1/3).
    relaxation_time
        Of the conduction electrons [s], 0 to 1e-9: the conductivity at the frequency omega is
        conductivity/(1 - i omega relaxation_time), after Drude. Copper at room temperature has
        2.7e-14, aluminium 0.8e-14. 0 is that of direct current at all frequencies.
    """

    def __init__(
        self,
        radius: float,
        conductivity: float,
        pipe: str = "round",
        relaxation_time: float = 0.0,
    ) -> None:
        if pipe not in ("round", "flat"):
            raise ValueError(f"pipe = {pipe!r} must be 'round' or 'flat'")
        terms = _core.resistive_wall(
            number(radius, "radius"),
            number(conductivity, "conductivity"),
            pipe == "flat",
            number(relaxation_time, "relaxation_time"),
        )
        names = ("longitudinal", "dipole_x", "dipole_y", "quadrupole_x", "quadrupole_y")
        super().__init__(dict(zip(names, terms, strict=False)))


class StructureWake(WakeFunction):
    """A periodic accelerating structure, per metre: the short-range fits of Bane.

    Parameters
    ----------
    iris_radius, gap, period
        a, g, p of the cells [m]; 0 < g <= p. The fits are for 0.34 <= a/p <= 0.69, 0.54 <= g/p <=
        0.89 (5 % beyond that there is an `OutsideDomainWarning`) and distances up to 0.15 p.

    Where a beam is longer than that, from its first to its last particle, tracking ends with an
    `OutsideDomainWarning` that names the element, the length and the range. Of earlier turns the
    fits say nothing: `Wake(memory=...)` leaves them out.
    """

    def __init__(self, iris_radius: float, gap: float, period: float) -> None:
        terms = _core.periodic_structure(
            number(iris_radius, "iris_radius"), number(gap, "gap"), number(period, "period")
        )
        for name, ratio, low, high in (
            ("iris_radius", iris_radius / period, 0.34, 0.69),
            ("gap", gap / period, 0.54, 0.89),
        ):
            if not 0.95 * low <= ratio <= 1.05 * high:
                warn_of_domain(
                    f"StructureWake: {name}/period = {ratio:.3g} is outside of the range of the "
                    f"fit, {low} ... {high}"
                )
        super().__init__(dict(zip(("longitudinal", "dipole_x", "dipole_y"), terms, strict=True)))


class WakeTable(WakeFunction):
    """Wakes from tables: linear in between, 0 beyond the last distance.

    Parameters
    ----------
    t
        Distances behind the source [m], ascending from 0.
    longitudinal, dipole_x, dipole_y, quadrupole_x, quadrupole_y
        Values at these distances: V/C and V/C/m, or per metre of path.
    per_metre
        Whether values are per metre of path.
    """

    def __init__(
        self,
        t: Sequence[float],
        longitudinal: Sequence[float] | None = None,
        dipole_x: Sequence[float] | None = None,
        dipole_y: Sequence[float] | None = None,
        quadrupole_x: Sequence[float] | None = None,
        quadrupole_y: Sequence[float] | None = None,
        per_metre: bool = False,
    ) -> None:
        distances = np.asarray(t, dtype=np.float64).ravel().tolist()
        columns = {
            "longitudinal": longitudinal,
            "dipole_x": dipole_x,
            "dipole_y": dipole_y,
            "quadrupole_x": quadrupole_x,
            "quadrupole_y": quadrupole_y,
        }
        terms = {
            kind: _core.wake_table(
                kind,
                distances,
                np.asarray(values, dtype=np.float64).ravel().tolist(),
                bool(per_metre),
            )
            for kind, values in columns.items()
            if values is not None
        }
        if not terms:
            raise ValueError(f"WakeTable: give values of at least one of {', '.join(columns)}")
        super().__init__(terms)


class Wake(_OnLineDensity):
    """Wakefields, at single elements or distributed along the line.

    Parameters
    ----------
    functions
        One `WakeFunction` or several.
    at
        Names, regular expressions or elements of the line where the wakes act, thin ones included;
        None: all elements with length (wakes per metre only).
    length
        Metres of structure that each of these elements stands for; None: its own length (which a
        thin one has not: ValueError in tracking). Only for wakes per metre.
    memory
        Turns whose fields are remembered. 0: every passage finds the surroundings without field.
        With 1 or more, resonators keep their field for ever, exactly; of other wakes that of the
        last `memory` turns is kept, but for `StructureWake`, which is known for short distances
        only.
    bins, shape, smoothing
        Of the line density, see `line_density`.
    order, spacing
        Of the kicks in long elements, see `CSR`.

    Sign: a longitudinal W > 0 takes energy from a later particle, a transverse one deflects it to
    the side of the source (dipole) or to its own (quadrupole).
    """

    def __init__(
        self,
        functions: WakeFunction | Iterable[WakeFunction],
        at: At = None,
        length: float | None = None,
        memory: int = 0,
        bins: int = 150,
        *,
        shape: str = "linear",
        smoothing: int = 0,
        order: int = 1,
        spacing: float | None = None,
    ) -> None:
        super().__init__(bins, shape, smoothing, order, spacing)
        self.functions = [functions] if isinstance(functions, WakeFunction) else list(functions)
        for f in self.functions:
            if not isinstance(f, WakeFunction):
                raise TypeError(
                    f"Wake takes wake functions (Resonator, ResistiveWall, ...), got {f!r}"
                )
        self.at = at
        self.memory = whole(memory, "memory", 1_000_000)
        self.length = None if length is None else number(length, "length")
        if self.length is not None:
            if not 0 < self.length < float("inf"):
                raise ValueError(f"length = {length} m is not allowed; allowed: > 0, or None")
            if not all(f.per_metre for f in self.functions):
                raise ValueError(f"length = {length} m is for wakes per metre only")
        if not self.functions:
            raise ValueError("Wake needs at least one wake function")
        if at is None and not all(f.per_metre for f in self.functions):
            raise ValueError(
                "Wake: a wake that is not per metre needs `at`: the elements where it acts"
            )

    def __repr__(self) -> str:
        return f"Wake([{', '.join(type(f).__name__ for f in self.functions)}], at={self.at!r})"

    def _on(self, line: Line) -> _core.Effect:
        return _core.wake(
            [term for f in self.functions for term in f._terms.values()],
            self._density(),
            self.length or 0.0,
            self.memory,
            self.order,
            self.spacing,
            _flags(line, self.at),
        )


class IBS(_OnLineDensity):
    """Intra-beam scattering: friction and random kicks from the moments of the bunch at every
    place.

    Parameters
    ----------
    coulomb_log
        Coulomb logarithm; None: from the size, density and temperature of the bunch.
    seed
        Of the random numbers, which depend on it, the turn, the place and the id of a particle
        only.
    bins, shape, smoothing
        Of the line density along t, which scattering follows; see `line_density`.
    order, spacing
        Of the kicks, see `CSR`.

    Across, and for the temperature, the bunch is taken as Gaussian. The mean momentum of the beam
    does not change. Tracking raises ValueError for a bunch without size in x, y or t.
    """

    def __init__(
        self,
        coulomb_log: float | None = None,
        seed: int = 0,
        bins: int = 50,
        *,
        shape: str = "linear",
        smoothing: int = 0,
        order: int = 1,
        spacing: float | None = None,
    ) -> None:
        super().__init__(bins, shape, smoothing, order, spacing)
        self.seed = whole(seed, "seed", 2**63 - 1)
        self.coulomb_log = _coulomb_log(coulomb_log)

    def __repr__(self) -> str:
        return f"IBS(coulomb_log={self.coulomb_log}, seed={self.seed})"

    def _on(self, line: Line) -> _core.Effect:
        return _core.ibs(self.coulomb_log, self._density(), self.seed, self.order, self.spacing)


class BeamBeam(Effect):
    """The kick of a given Gaussian bunch that comes the other way (weak-strong).

    Parameters
    ----------
    at
        Elements at which the bunches meet: names, regular expressions or elements. Thin ones, a
        `Marker`: in an element with length each slice gets its part of the kick, as if the bunches
        met all along it.
    charge
        Of the other bunch [C], with its sign: like charges repel each other.
    sigma_x, sigma_y
        Its rms sizes at the collision point [m], > 0, in any ratio.
    sigma_t
        Its rms length [m]: six dimensions, slice by slice, with energy change. None: a thin lens.
    slices
        Of equal charge, 1 ... 1000; in six dimensions.
    beta_x, beta_y, alpha_x, alpha_y
        Courant-Snyder functions of the other bunch [m, 1], S running along with the beam that is
        tracked; None: its size is the same all along (no hourglass effect).
    crossing_angle
        Between the two directions of flight [rad]; |angle| < 1. Needs sigma_t.
    crossing_plane
        0: horizontal; pi/2: vertical [rad].
    offset_x, offset_y
        Of the centre of the other bunch [m].
    other_beta
        Its velocity over c.

    Kicks in single-precision beams are computed in double. A thin lens can be tracked backward.
    """

    def __init__(
        self,
        at: str | Element | Iterable[str | Element],
        charge: float,
        sigma_x: float,
        sigma_y: float,
        sigma_t: float | None = None,
        slices: int = 11,
        *,
        beta_x: float | None = None,
        beta_y: float | None = None,
        alpha_x: float = 0.0,
        alpha_y: float = 0.0,
        crossing_angle: float = 0.0,
        crossing_plane: float = 0.0,
        offset_x: float = 0.0,
        offset_y: float = 0.0,
        other_beta: float = 1.0,
    ) -> None:
        self.at = at
        self.charge = number(charge, "charge")
        self._x = _strong("x", sigma_x, beta_x, alpha_x, offset_x)
        self._y = _strong("y", sigma_y, beta_y, alpha_y, offset_y)
        self.sigma_t = None if sigma_t is None else number(sigma_t, "sigma_t")
        if self.sigma_t is not None and not 0 < self.sigma_t < float("inf"):
            raise ValueError(f"sigma_t = {sigma_t} m is not allowed; allowed: > 0, or None")
        self.slices = whole(slices, "slices", 1000)
        self.crossing_angle = number(crossing_angle, "crossing_angle")
        self.crossing_plane = number(crossing_plane, "crossing_plane")
        self.other_beta = number(other_beta, "other_beta")
        self._make([1])  # checks all the rest

    def __repr__(self) -> str:
        return (
            f"BeamBeam(at={self.at!r}, charge={self.charge:g}, "
            f"sigma_x={self._x[0]:g}, sigma_y={self._y[0]:g})"
        )

    def _on(self, line: Line) -> _core.Effect:
        return self._make(_flags(line, self.at))

    def _make(self, flags: list[int]) -> _core.Effect:
        return _core.beam_beam(
            self.charge,
            self._x,
            self._y,
            self.sigma_t or 0.0,
            self.slices,
            0.5 * self.crossing_angle,
            self.crossing_plane,
            self.other_beta,
            flags,
        )


def _strong(plane: str, sigma: Any, beta: Any, alpha: Any, offset: Any) -> list[float]:
    if beta is not None and not 0 < number(beta, f"beta_{plane}") < float("inf"):
        raise ValueError(f"beta_{plane} = {beta} m is not allowed; allowed: > 0, or None")
    return [
        number(sigma, f"sigma_{plane}"),
        0.0 if beta is None else number(beta, f"beta_{plane}"),
        number(alpha, f"alpha_{plane}"),
        number(offset, f"offset_{plane}"),
    ]


def collide(
    first: Beam,
    second: Beam,
    *,
    slices: int = 11,
    crossing_angle: float = 0.0,
    crossing_plane: float = 0.0,
    cells: tuple[int, int] | None = None,
    threads: int | None = None,
) -> None:
    """Let two bunches that go in opposite directions kick each other once, in place
    (strong-strong).

    Each is in its own coordinates, the x and y axes of both being the same. Slices of equal charge
    act on each other in the order in which they meet. With one slice both bunches are kicked at the
    place where their particles meet the centre of the other.

    Parameters
    ----------
    slices
        Of each bunch, 1 ... 1000.
    crossing_angle, crossing_plane
        As for `BeamBeam`.
    cells
        None: the field of a slice is that of the Gaussian with its present moments. Two numbers,
        8 ... 4096: that of its particles, on a grid with so many nodes in x and y around the
        particles of both slices; the change of its size while it is crossed is then left out.

    Raises
    ------
    ValueError
        If a slice that acts has no transverse size, or a coordinate is not finite.
    """
    from betatron.beam import Beam as BeamType

    for beam in (first, second):
        if not isinstance(beam, BeamType):
            raise TypeError(f"collide() needs two beams, got {type(beam).__name__}")
    if first is second:
        raise ValueError("collide() needs two different beams")
    if cells is not None and (len(cells) != 2 or min(cells) < 8):
        raise ValueError(f"cells = {cells} is not allowed; allowed: two numbers, 8 ... 4096")
    _core.collide(
        first,
        second,
        whole(slices, "slices", 1000),
        0.5 * number(crossing_angle, "crossing_angle"),
        number(crossing_plane, "crossing_plane"),
        [0, 0] if cells is None else [whole(n, "cells", 4096, 8) for n in cells],
        thread_count(threads),
    )


@dataclass(frozen=True)
class IBSRates:
    """Growth rates (d emittance/dt)/emittance [1/s] of three modes, and the mean Coulomb logarithm.

    Rates of amplitudes, as some codes state them, are half of these.
    """

    x: float
    y: float
    t: float
    coulomb_log: float


def ibs_rates(
    line: Line,
    reference: Reference,
    *,
    charge: float,
    emittance_x: float,
    emittance_y: float,
    sigma_t: float,
    sigma_pt: float | None = None,
    coulomb_log: float | None = None,
    spacing: float = 0.1,
) -> IBSRates:
    """Growth rates of a Gaussian bunch that is matched to a ring, by intra-beam scattering.

    Parameters
    ----------
    line
        One turn. Its linear map must be stable.
    charge
        Of the bunch [C]; its sign does not matter.
    emittance_x, emittance_y
        Geometric rms emittances of the transverse modes [m], > 0.
    sigma_t, sigma_pt
        Rms bunch length and energy spread, without the part from the transverse emittances.
        sigma_pt is for rings without cavities only: with cavities it follows from sigma_t.
    coulomb_log
        None: from the bunch, see docs.
    spacing
        Of the places where scattering is computed [m].

    As Bjorken and Mtingwa, with coupling and dispersion in both planes; see `IBS` for the formulas.
    """
    normal, has_cavities = _normal_form(line.matrix(reference))
    sizes = {"emittance_x": emittance_x, "emittance_y": emittance_y, "sigma_t": sigma_t}
    for name, value in sizes.items():
        sizes[name] = number(value, name)
        if not 0 < sizes[name] < float("inf"):
            raise ValueError(f"ibs_rates: {name} = {value} is not allowed; allowed: > 0")
    length = sizes["sigma_t"]
    if has_cavities:
        if sigma_pt is not None:
            raise ValueError(
                f"ibs_rates: sigma_pt = {sigma_pt} cannot be chosen in a ring with cavities; "
                "it follows from sigma_t"
            )
        emittance_t = length**2 / (normal[4, 4] ** 2 + normal[4, 5] ** 2)
    else:
        if sigma_pt is None:
            raise ValueError("ibs_rates: a ring without cavities needs sigma_pt")
        spread = number(sigma_pt, "sigma_pt")
        if not 0 < spread < float("inf"):
            raise ValueError(f"ibs_rates: sigma_pt = {sigma_pt} is not allowed; allowed: > 0")
        emittance_t = length * spread
        root = np.sqrt(length / spread)
        normal[:, 4] *= root
        normal[:, 5] /= root
    particles = abs(number(charge, "charge")) / (abs(reference.species.charge) * ELEMENTARY_CHARGE)
    rate, logarithm = _core.ibs_rates(
        line,
        reference,
        normal.ravel().tolist(),
        [sizes["emittance_x"], sizes["emittance_y"], emittance_t],
        particles,
        _coulomb_log(coulomb_log),
        number(spacing, "spacing"),
    )
    return IBSRates(*rate, logarithm)


def _coulomb_log(given: Any) -> float | None:
    if given is None:
        return None
    value = number(given, "coulomb_log")
    if not 0 < value < float("inf"):
        raise ValueError(f"coulomb_log = {given} is not allowed; allowed: > 0, or None")
    return value


def _normal_form(matrix: np.ndarray) -> tuple[np.ndarray, bool]:
    """(N, whether there are cavities) of a one-turn matrix: N symplectic, N^-1 M N a rotation in
    each mode; without cavities in the transverse modes, the third being t and pt themselves with
    the dispersion taken out."""
    has_cavities = bool(np.abs(matrix[5, :5]).max() > 1e-13)
    if has_cavities:
        return _modes(matrix), True
    transverse = _modes(matrix[:4, :4])
    dispersion = np.linalg.solve(np.eye(4) - matrix[:4, :4], matrix[:4, 5])
    s = np.kron(np.eye(2), np.array([[0.0, 1.0], [-1.0, 0.0]]))
    shift = np.eye(6)  # z -> z + d pt, t -> t + d S z: symplectic
    shift[:4, 5] = dispersion
    shift[4, :4] = dispersion @ s
    normal = np.eye(6)
    normal[:4, :4] = transverse
    return shift @ normal, False


def _modes(matrix: np.ndarray) -> np.ndarray:
    """The symplectic matrix of the modes of a stable matrix, those of x, y, t in this order."""
    n = len(matrix) // 2
    values, vectors = np.linalg.eig(matrix)
    if np.abs(np.abs(values) - 1).max() > 1e-6 or np.abs(values.imag).min() < 1e-12:
        raise ValueError(
            f"the one-turn map has no stable modes: its eigenvalues are "
            f"{np.array2string(values, precision=4)}"
        )
    s = np.kron(np.eye(n), np.array([[0.0, 1.0], [-1.0, 0.0]]))
    modes = []
    for v in vectors.T:
        area = (v.conj() @ s @ v).imag
        if area > 0:  # one of each conjugate pair
            modes.append(v * np.sqrt(2 / area))
    # every mode to the plane it has most of its action in
    share = np.array(
        [[abs((m[2 * k].conj() * m[2 * k + 1]).imag) for k in range(n)] for m in modes]
    )
    best = max(
        itertools.permutations(range(n)), key=lambda o: sum(share[o[k], k] for k in range(n))
    )
    normal = np.empty((2 * n, 2 * n))
    for k, chosen in enumerate(best):
        v = modes[chosen]
        v = v * np.exp(-1j * np.angle(v[2 * k]))
        normal[:, 2 * k], normal[:, 2 * k + 1] = v.real, v.imag
    return normal
