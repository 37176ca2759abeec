"""Lines of elements, and tracking through them."""

from __future__ import annotations

import difflib
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, TextIO

import numpy as np
import pandas as pd

from betatron import _core
from betatron._checks import bucket, number, thread_count, whole
from betatron.beam import Beam, Reference, check_reference
from betatron.collective import Effect, warn_of_effects
from betatron.distributions import Distribution
from betatron.elements import Element, element_from_dict
from betatron.envelope_gradient import EnvelopeGradient, envelope_gradient
from betatron.gradient import (
    Gradient,
    HessianVector,
    Objective,
    Parameters,
    effects_of,
    gradient,
    turned,
)
from betatron.hooks import Hooks, hooks_on
from betatron.losses import Loss
from betatron.monitor import TurnByTurn
from betatron.optics import Optics, Twiss, twiss
from betatron.plot import LinePlots, TrackPlots
from betatron.radiation import Radiation, check_radiation
from betatron.space_charge import SpaceCharge, SpaceChargeEnvelope
from betatron.taylor import (
    Chromaticity,
    TaylorSeries,
    amplitude_detuning,
    check_inside,
    chromaticity,
    closed_orbit,
    expand,
    particle_of,
)

Recorded = None | str | Element | Iterable[str | Element]


class Line(_core.Line):
    """An ordered list of references to elements.

    Parameters
    ----------
    items
        Elements, lines (their elements are taken in), and lists of these.
    name
        Name of the line.

    The same element may stand at several places and in several lines; changing its parameters takes
    effect everywhere the next time a beam is tracked. A line itself does not change: ``2 * line``,
    ``line + other``, ``line.reversed()`` and ``line[2:5]`` are new lines of the same elements.

    Raises
    ------
    TypeError
        If an item is neither an element nor a line; the message says which.
    """

    def __init__(self, items: Iterable[Any], name: str = "") -> None:
        super().__init__(list(_flatten(items, "line" if not name else f"line {name!r}")), name)

    def __getitem__(self, key: int | slice | str) -> Any:
        if isinstance(key, str):
            return self._named(key)
        if isinstance(key, slice):
            return Line([self.element(i) for i in range(*key.indices(len(self)))], self.name)
        key = whole(key, "line[position]", minimum=None)
        index = key + len(self) if key < 0 else key
        if not 0 <= index < len(self):
            raise IndexError(f"element {key} of a line of {len(self)} elements")
        return self.element(index)

    def __iter__(self) -> Iterator[Element]:
        return (self.element(i) for i in range(len(self)))

    def __contains__(self, item: object) -> bool:
        if isinstance(item, str):
            return any(e.name == item for e in self)
        return any(e is item for e in self)

    def __add__(self, other: Line | Element) -> Line:
        return Line([self, other], self.name)

    def __mul__(self, times: int) -> Line:
        if isinstance(times, bool) or not isinstance(times, int):
            raise TypeError(f"a line is repeated a whole number of times, not {times!r}")
        if times < 0:
            raise ValueError(f"a line cannot be repeated {times} times; allowed: >= 0")
        return Line(list(self) * times, self.name)

    __rmul__ = __mul__

    def __reversed__(self) -> Iterator[Element]:
        return (self.element(i) for i in reversed(range(len(self))))

    def reversed(self) -> Line:
        """The same elements in reverse order (the elements themselves are not turned round)."""
        return Line(reversed(self), self.name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Line) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (list(self), self.name)

    def __repr__(self) -> str:
        title = f"Line {self.name!r}" if self.name else "Line"
        rows = [f"{title}: {len(self)} elements, {self.length:.6g} m"]
        shown = (
            range(len(self))
            if len(self) <= 12
            else [*range(6), None, *range(len(self) - 5, len(self))]
        )
        rows += ["  ..." if i is None else f"  {i:4d}  {self.element(i)!r}" for i in shown]
        return "\n".join(rows)

    @property
    def length(self) -> float:
        """Path length of the reference orbit [m]."""
        return super().length()

    @property
    def plot(self) -> LinePlots:
        """Pictures of the line; see `betatron.plot.LinePlots`."""
        return LinePlots(self)

    @property
    def elements(self) -> list[Element]:
        """The different elements of the line, in order of first appearance."""
        return list(self._different)

    @cached_property
    def _different(self) -> tuple[Element, ...]:
        """Looked for once: a line does not change."""
        return tuple({id(e): e for e in self}.values())

    @cached_property
    def _learned(self) -> list[Any]:
        """The elements that know what they were trained for: `_tally()` is what they have seen,
        `_report(before)` what is to be said of particles since that tally (it warns if it must).
        As `_different`, looked for once."""
        return [e for e in self._different if hasattr(e, "_tally")]

    def _watch_learned(self) -> Callable[[], dict[str, dict[str, float]]]:
        """Called behind a passage that begins now, the result gives `Track.learned`; it warns if it must."""
        watched = [(e, e._tally()) for e in self._learned]

        def reports() -> dict[str, dict[str, float]]:
            found: dict[str, dict[str, float]] = {}
            for e, before in watched:
                name, number = e.name or type(e).__name__, 1
                while (key := name if number == 1 else f"{name} {number}") in found:
                    number += 1
                found[key] = e._report(before)
            return found

        return reports

    def positions(self, which: str | Element) -> list[int]:
        """Places (counted from 0) at which an element, or elements of a name, stand."""
        if isinstance(which, str):
            return [i for i, e in enumerate(self) if e.name == which]
        return [i for i, e in enumerate(self) if e is which]

    def _named(self, name: str) -> Element:
        found = {id(e): e for e in self if e.name == name}
        if len(found) == 1:
            return next(iter(found.values()))
        if found:
            raise KeyError(
                f"{len(found)} different elements are named {name!r}, at positions "
                f"{self.positions(name)}; use line[position]"
            )
        raise KeyError(_unknown_name(name, {e.name for e in self if e.name}))

    # --- reference orbit ---------------------------------------------------------------------

    def survey(self, reference: Reference | None = None) -> pd.DataFrame:
        """Where the line lies in the laboratory.

        Returns a table with one row for the start and one behind each element: ``name``, ``kind``,
        ``s``, ``x``, ``y``, ``z`` [m], the direction of flight ``ez_x``, ``ez_y``, ``ez_z``, the angle
        ``theta`` of its horizontal projection from the z axis towards x [rad], and ``gamma``. Without a
        reference an electron of 1 GeV stands at the origin (the shape does not depend on it unless
        there are cavities).
        """
        start = reference if reference is not None else Reference("electron", kinetic_energy=1e9)
        check_reference(start, "survey")
        places = super().survey(start)
        labels = [("start", "")] + [(e.name, e.kind) for e in self]
        rows = []
        for (name, kind), ref in zip(labels, places, strict=True):
            x, y, z = ref.position
            ez = np.asarray(ref.frame)[2]
            rows.append((name, kind, ref.s, x, y, z, *ez, np.arctan2(ez[0], ez[2]), ref.gamma))
        columns = ["name", "kind", "s", "x", "y", "z", "ez_x", "ez_y", "ez_z", "theta", "gamma"]
        return pd.DataFrame(rows, columns=columns)

    def matrix(self, reference: Reference, orbit: Sequence[float] | None = None) -> np.ndarray:
        """Derivative of the map of the line, shape (6, 6), coordinates x, px, y, py, t, pt.

        It is exact to rounding (forward-mode derivatives of the maps that particles are tracked with) and
        taken along the trajectory of the particle that starts with the coordinates ``orbit`` (six
        numbers; default: on the reference orbit). Apertures are ignored; the reference stays as it is.

        Raises
        ------
        TypeError, ValueError
            If ``orbit`` is not six finite numbers, or of a particle that leaves the domain of a map,
            where it would be lost; also as ``track``.
        """
        start = particle_of("matrix", reference, orbit)
        matrix, end, _ = self.derivative(reference, start)
        check_inside("matrix", start, matrix, end)
        return matrix

    def taylor_map(
        self, reference: Reference, order: int = 2, start: Sequence[float] | None = None
    ) -> TaylorSeries:
        """The map of the line as power series of the coordinates, to this order (1 to 4).

        They are exact to rounding (the maps that particles are tracked with are evaluated with
        truncated power series) and taken around the particle that starts with the coordinates
        ``start`` (six numbers; default: the reference orbit). Apertures are ignored. For one element:
        ``bt.Line([element]).taylor_map(reference)``.

        Raises
        ------
        TypeError, ValueError
            If the order is not 1 to 4 or ``start`` is not six finite numbers; also as ``track``.
        """
        return expand(self, reference, order, start)

    def closed_orbit(self, reference: Reference, pt: float = 0.0) -> np.ndarray:
        """The particle of energy deviation ``pt`` that comes back to its x, px, y, py, shape (6,), t = 0.

        Found by Newton's method from the reference orbit.

        Raises
        ------
        ValueError
            If there is none nearby, and for a line with cavities (the energy would not stay).
        """
        return closed_orbit(self, reference, pt)

    def chromaticity(self, reference: Reference) -> Chromaticity:
        """Tunes of the line as a period, their first and second derivatives by delta = (p - p0)/p0, and
        the dispersion of first and second order.

        From the power series of third order around the closed orbit, by perturbation of the
        eigenvalues of its matrix: no differences, coupling included. It is that of the maps of the
        elements: for rings with bending radii of metres these have to be in the exact model, and
        bends with ``fringe="nonlinear"``. The paraxial model of a bend lacks the terms between curvature
        and angles, which are of the size of the chromaticity there.

        Raises
        ------
        ValueError
            If the motion is not stable; also as ``closed_orbit``.
        """
        return chromaticity(self, reference)

    def twiss(self, reference: Reference, start: Optics | None = None, *, pt: float = 0.0) -> Twiss:
        """Optics along the line: beta functions, phases and dispersion at the start and behind each element.

        Around the closed orbit of the line as a ring, periodic; or from given values at its start, around the
        particle given there. The matrices of the elements are the exact derivatives of the maps that particles
        are tracked with, misalignments and all. Coupled lines have two modes, mode 1 the one that is mostly
        horizontal at the start, each with functions in both planes (Mais and Ripken).

        Parameters
        ----------
        reference
            Reference particle at the start; it is not changed.
        start
            `Optics.from_twiss(...)`, or a row of another result, for a line behind it: with ``front =
            ring.twiss(reference)``, ``line.twiss(front[-1].reference, front[-1])``. None: a ring.
        pt
            Of a ring: energy deviation of the closed orbit.

        Phases count whole oscillations, inside of elements too; of linear maps, Taylor maps, networks and code
        of the user only the fraction is known, which is taken >= 0 if they have a length.

        Lines from given values may have cavities. Then the modes are followed as vectors in six dimensions,
        and functions are those over the geometric emittance there, which falls as 1/p0.

        Raises
        ------
        TypeError
            If ``start`` is no `Optics`.
        ValueError
            If the motion in a ring is not stable, for a start of another energy or species, and where the
            orbit leaves the domain of a map; also as `closed_orbit`.
        """
        return twiss(self, reference, start, pt)

    def amplitude_detuning(self, reference: Reference) -> np.ndarray:
        """dQ_i/dJ_k [1/m] of the line as a period, shape (2, 2): how the tunes change with the actions
        J = (x^2 + (alpha x + beta px)^2)/(2 beta) of both modes, to first order.

        From the power series of third order around the closed orbit, by the normal form (E. Forest,
        Beam Dynamics (1998), ch. 5): sextupoles to second order and octupoles to first.

        Raises
        ------
        ValueError
            On a resonance of third order; also as ``chromaticity``.
        """
        return amplitude_detuning(self, reference)

    def spin_matrix(self, reference: Reference, orbit: Sequence[float] | None = None) -> np.ndarray:
        """Rotation of the spin along the line, shape (3, 3): the spin at the end is this times that at the start,
        components along x, y, s of the frame.

        Taken along the trajectory of the particle that starts with the coordinates ``orbit`` (six numbers;
        default: on the reference orbit); the reference stays as it is. Over a turn of a ring, on its closed
        orbit, its axis is the stable spin direction and its angle over 2 pi the spin tune, see `spin_tune`.

        Raises
        ------
        ValueError
            If the species has no anomaly, or naming an element whose effect on the spin is not known.
        """
        return self.spin_map(reference, orbit)[0]

    def spin_map(
        self, reference: Reference, orbit: Sequence[float] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The rotation of the spin with its derivatives: (rotation, slopes) of shapes (3, 3) and (3, 6).

        A particle that starts z = (x, px, y, py, t, pt) beside ``orbit`` has at the end, to first order in z,
        the spin ``rotation @ expm(cross(slopes @ z)) @ S``, where cross(v) is the matrix of the vector product
        with v. Arguments and errors as for `spin_matrix`.
        """
        start = particle_of("spin_map", reference, orbit)
        rotation, slopes = self.spin_derivative(reference, start)[:2]
        return np.array(rotation).reshape(3, 3), np.array(slopes).reshape(3, 6)

    def spin_tune(
        self, reference: Reference, orbit: Sequence[float] | None = None
    ) -> tuple[float, np.ndarray]:
        """Spin tune and stable spin direction (n0, shape (3,)) of a line that is one turn of a ring.

        ``orbit`` is the closed orbit (six numbers; default: the reference orbit). The spin turns by 2 pi tune
        about n0 in every turn; the tune is the fractional part in [0, 1/2], with which n0 has its sign. In a
        flat ring n0 is vertical and the tune is G gamma up to a whole number and its sign. Where the spin does
        not turn (tune 0) there is no n0, and it is NaN. Errors as for `spin_matrix`.
        """
        rotation = self.spin_matrix(reference, orbit)
        axis = 0.5 * np.array(
            [
                rotation[2, 1] - rotation[1, 2],
                rotation[0, 2] - rotation[2, 0],
                rotation[1, 0] - rotation[0, 1],
            ]
        )
        sine = float(np.linalg.norm(axis))
        tune = float(np.arctan2(sine, 0.5 * (np.trace(rotation) - 1.0))) / (2.0 * np.pi)
        if (
            0.0 < sine < 1e-6 and tune > 0.25
        ):  # half a turn: the axis is that of the projector (R + 1)/2
            column = np.argmax(np.diag(rotation))
            projector = rotation + np.eye(3)
            axis = projector[:, column]
            sine = float(np.linalg.norm(axis))
        return tune, axis / sine if sine > 0.0 else np.full(3, np.nan)

    # --- tracking ----------------------------------------------------------------------------

    def track(
        self,
        beam: Beam,
        turns: int = 1,
        *,
        record: Recorded = None,
        record_slices: bool = False,
        backward: bool = False,
        threads: int | None = None,
        progress: bool | Callable[[float], None] | None = None,
        first_turn: int = 0,
        boundary: str = "open",
        bucket_length: float | None = None,
        monitor: TurnByTurn | None = None,
        spin: bool | None = None,
        radiation: Radiation | None = None,
        space_charge: SpaceCharge | None = None,
        collective: Effect | Iterable[Effect] = (),
        hooks: Hooks | Iterable[Hooks] | None = None,
    ) -> Track:
        """Track a beam through the line, in place.

        Parameters
        ----------
        beam
            Changed in place; its reference particle moves along. Lost particles go to ``beam.lost``.
        turns
            How often the line is passed, >= 0.
        record
            Where moments are taken: None (nowhere), "all" (at the start and behind every element),
            "ends" (at the start and the end), or names, regular expressions and elements.
        record_slices
            Also behind every slice of recorded elements.
        backward
            Undo a passage: from the end of the line to its start.
        threads
            At most so many; None: all processors that the process may use. Results do not depend on it.
        progress
            True shows a bar, None shows one on a terminal after two seconds, False never; or a function
            called now and then with the part done. Ctrl-C, or an exception raised by that function,
            stops with all particles at the same place.
        first_turn
            Number of the first turn, in the records and in ``beam.lost``.
        boundary
            What happens behind every slice, before anything is recorded there, to particles outside the bucket
            ``|t| <= bucket_length/2``: "open" (nothing), "periodic" (they come in at the other end: t changes
            by a multiple of the length), "absorbing" (they are lost, with the reason "outside_bucket"), or
            "reflecting" (t is folded back, and pt changes its sign with every reflection). Only forward.
        bucket_length
            Length of the bucket [m], > 0; c times the period of the cavities, for example.
        monitor
            Watches the beam turn by turn in bounded memory. ``record`` keeps all it records in memory.
        spin
            Whether fields turn the spins of the beam; None: if it has spins. See the concepts page on spin.
        radiation
            How particles radiate in magnets that have a length; None: not at all. Only forward.
        space_charge
            What the charges of the beam do to each other: `SpaceCharge2D`, `SpaceChargeGaussian`, ... It acts
            before other effects at the same place.
        collective
            What the beam does to itself otherwise: one effect or several (`CSR`, `Wake`, `IBS`, ...), which act in this
            order where they stand at the same place.
        hooks
            Functions that are called on the way, with the beam standing still. Only forward.

        Raises
        ------
        TypeError, ValueError, KeyError
            For wrong arguments and for elements that cannot be tracked, before any particle has moved.
        UserCodeError
            If a hook or the code of a `Programmable` raises an exception, which is its cause. The beam stands
            there, with all its particles.
        """
        if not isinstance(beam, Beam):
            raise TypeError(f"track() needs a betatron.Beam, got {type(beam).__name__}")
        turns = whole(turns, "turns")
        first_turn = whole(first_turn, "first_turn", minimum=None)
        threads = thread_count(threads)
        bucket_size = bucket(boundary, bucket_length)
        if spin is not None and not isinstance(spin, (bool, np.bool_)):
            raise TypeError(f"spin must be True, False or None, got {spin!r}")
        check_radiation(radiation)
        flags, start = self._flags(record)
        if monitor is not None and not isinstance(monitor, TurnByTurn):
            raise TypeError(f"monitor must be a betatron.TurnByTurn, got {monitor!r}")
        effects = effects_of(self, space_charge, collective)
        watch = None if monitor is None else monitor._begin(self, beam)
        learned = self._watch_learned()
        try:
            with _Progress(progress) as report:
                result = _core.track(
                    self,
                    beam,
                    turns,
                    first_turn,
                    bool(backward),
                    flags,
                    bool(record_slices),
                    start,
                    threads,
                    report,
                    boundary,
                    bucket_size,
                    watch,
                    beam.has_spin if spin is None else bool(spin),
                    radiation,
                    effects,
                    hooks_on(self, hooks),
                )
        finally:
            beam._name_losses(self._name_at)
            if monitor is not None:
                monitor._end()
        warn_of_effects(effects)
        return Track(self, beam, result, learned())

    def envelope(
        self,
        reference: Reference,
        start: Distribution | np.ndarray,
        turns: int = 1,
        *,
        mean: Sequence[float] | None = None,
        record: Recorded = "all",
        record_slices: bool = False,
        first_turn: int = 0,
        space_charge: SpaceChargeEnvelope | None = None,
        charge: float | None = None,
    ) -> Envelope:
        """Track the first and second moments of a beam instead of its particles.

        The centroid goes through the maps of the elements, the covariance with their derivatives along
        its trajectory: exact for linear elements, else to first order in the size of the beam. Apertures
        do nothing.

        Parameters
        ----------
        reference
            Reference particle at the start; it is not changed.
        start
            A distribution, or its covariance matrix of shape (6, 6).
        turns, record, record_slices, first_turn
            As for ``track``.
        mean
            Coordinates of the centroid (six numbers); default: those of the distribution, or 0.
        space_charge
            A `SpaceChargeEnvelope`: linear kicks on the covariance. Models that need particles are refused.
        charge
            Charge of the bunch [C], for space charge in three dimensions; its sign does not matter.

        Raises
        ------
        ValueError
            If the covariance is not a finite symmetric matrix of shape (6, 6); also as ``track``.
        """
        turns, first_turn = whole(turns, "turns"), whole(first_turn, "first_turn", minimum=None)
        flags, at_start = self._flags(record)
        check_reference(reference, "envelope")
        centroid, covariance, effects, coulomb = self._moments_at_start(
            "envelope", start, mean, space_charge, charge
        )
        return Envelope(
            self,
            *_core.track_envelope(
                self,
                reference,
                centroid.tolist(),
                covariance.ravel().tolist(),
                turns,
                first_turn,
                flags,
                bool(record_slices),
                at_start,
                effects,
                coulomb,
            ),
        )

    def hessian_vector(
        self,
        beam: Beam,
        loss: Loss,
        parameters: Parameters,
        direction: Sequence[float],
        *,
        method: str = "auto",
        initial_direction: np.ndarray | None = None,
        accuracy: float = 1e-9,
        **options: Any,
    ) -> HessianVector:
        """Second derivatives of a loss by parameters, times a direction: how the gradient changes along it.

        Exact, by forward over reverse mode: particles are tracked with the rates of their
        coordinates along the direction, and the reverse pass is run with the rates of all that it
        works with. It takes the time of some four gradients, and the memory of two beams, in double
        precision whatever that of the beam. Which particles are lost counts as given.

        Or by differences of exact gradients, extrapolated from steps that are halved until two
        results agree; mostly from six gradients, each number with an estimate of its error. Where
        particles begin to be lost, or cross nodes of a grid, the estimate tells that there is no
        such derivative. This follows collective effects, code of the user's, singular matrices and
        lines that cannot be rewound, for which there is no exact method.

        Parameters
        ----------
        beam, loss, parameters
            As for ``gradient``.
        direction
            One number per parameter, in their order and units.
        method
            "exact"; "differences"; or "auto", the first where it applies, else the second.
        initial_direction
            How the initial coordinates change along the direction, shape (6, n); only exact.
            Default: they stand still.
        accuracy
            Of differences: at which estimated error, relative to the largest entry, to stop; > 0.
            Where rounding does not allow it, in single precision for instance, the most accurate
            result is given.
        options
            As for ``gradient``: ``strategy``, ``tolerance``, ``threads``, ``space_charge``, ``collective``, ``turns``,
            ``radiation``, ``boundary``, ``bucket_length``.
            The ``tolerance`` of the exact method is that of the rewound beam and of its rates,
            default 1e-11.

        Returns
        -------
        ``values``, one number per parameter, and the ``method``; of differences also the ``error``
        of each (else None), the number of ``gradients`` taken, and, for "auto", the ``obstacle`` to
        the exact method. With an ``initial_direction`` also ``initial``, the second derivatives by
        the initial coordinates and whatever changes.

        Raises
        ------
        ValueError, RuntimeError
            For wrong arguments; with "exact" saying what is in its way: an effect, an element, a
            loss without second derivatives, or a beam that cannot be rewound to the ``tolerance``.
        """
        objective = Objective(self, beam, loss, parameters, **options)
        try:
            vector = np.asarray(direction, dtype=float)
        except (TypeError, ValueError):
            vector = np.empty(0)
        if vector.shape != (len(objective.knobs),) or not np.all(np.isfinite(vector)):
            raise ValueError(
                f"hessian_vector: the direction must be {len(objective.knobs)} finite numbers, got {direction!r}"
            )
        bound = number(accuracy, "accuracy")
        if not 0 < bound < np.inf:
            raise ValueError(f"accuracy = {bound} is not allowed; allowed: > 0")
        if initial_direction is not None:
            return self._hessian_of_coordinates(objective, vector, method, initial_direction)
        values = [k.value for k in objective.knobs]
        with turned(objective.knobs, values):
            return objective.hessian_vector(values, vector, bound, method)

    def _hessian_of_coordinates(
        self, objective: Objective, vector: np.ndarray, method: str, initial: np.ndarray
    ) -> HessianVector:
        """hessian_vector of a direction that changes the initial coordinates, too."""
        if method not in ("auto", "exact"):
            raise ValueError("hessian_vector: an initial_direction needs the exact method")
        size = (6, len(objective.beam))
        columns = np.ascontiguousarray(initial, dtype=float)
        if columns.shape != size or not np.all(np.isfinite(columns)):
            raise ValueError(
                f"hessian_vector: initial_direction must be finite numbers of shape {size}, got "
                f"{columns.shape}"
            )
        return objective._exact(vector, initial_direction=columns)

    def _moments_at_start(
        self,
        caller: str,
        start: Distribution | np.ndarray,
        mean: Sequence[float] | None,
        space_charge: SpaceCharge | None,
        charge: float | None,
    ) -> tuple[np.ndarray, np.ndarray, list[_core.Effect], float]:
        """Centroid, covariance, effects and charge, checked."""
        if isinstance(start, Distribution):
            covariance, centroid = start.covariance, start.mean
        elif isinstance(start, Beam):
            raise TypeError(
                f"{caller}: start must be a distribution or a covariance matrix, got a beam; "
                "beam.covariance() is its matrix"
            )
        else:
            covariance, centroid = np.asarray(start, dtype=np.float64), np.zeros(6)
        if mean is not None:
            centroid = np.asarray(mean, dtype=np.float64)
        if covariance.shape != (6, 6) or not np.all(np.isfinite(covariance)):
            raise ValueError(
                f"{caller}: the covariance must be a finite 6 x 6 matrix, got shape {covariance.shape}"
            )
        if not np.allclose(covariance, covariance.T, rtol=1e-10, atol=0):
            raise ValueError(f"{caller}: the covariance must be symmetric")
        if np.any(np.diag(covariance) < 0):
            i = int(np.argmin(np.diag(covariance)))
            raise ValueError(
                f"{caller}: the variance of {('x', 'px', 'y', 'py', 't', 'pt')[i]} is "
                f"{covariance[i, i]}; allowed: >= 0"
            )
        if centroid.shape != (6,) or not np.all(np.isfinite(centroid)):
            raise ValueError(f"{caller}: mean must be six finite numbers, got {centroid}")
        effects = effects_of(self, space_charge, ())
        if space_charge is not None and space_charge._needs_charge and charge is None:
            raise ValueError(f"{caller}: {space_charge!r} needs the charge of the bunch [C]")
        coulomb = 0.0 if charge is None else number(charge, "charge")
        if not np.isfinite(coulomb):
            raise ValueError(f"{caller}: charge = {coulomb} C is not allowed; allowed: finite")
        return centroid, covariance, effects, coulomb

    def envelope_gradient(
        self,
        reference: Reference,
        start: Distribution | np.ndarray,
        loss: Loss | Sequence[Loss],
        parameters: Parameters = (),
        *,
        mean: Sequence[float] | None = None,
        initial_mean: bool = False,
        reference_energy: bool = False,
        space_charge: SpaceChargeEnvelope | None = None,
        charge: float | None = None,
    ) -> EnvelopeGradient:
        """Derivatives of a loss on moments that are tracked as such, through the line once; see `envelope`.

        Reverse mode: besides tracking it costs about half as much again whatever the number of parameters, and some
        ten evaluations of each varied element.

        Parameters
        ----------
        reference, start, mean, space_charge, charge
            As for ``envelope``.
        loss
            What is differentiated: one of `betatron.losses` on moments, or a list of them.
        parameters
            As for ``gradient``.
        initial_mean
            Also by the centroid at the start.
        reference_energy
            Also by the energy of the reference particle at the start.

        Raises
        ------
        TypeError, ValueError, KeyError
            For wrong arguments, a loss of particles, elements that cannot be tracked, parameters without a derivative.
        """
        return envelope_gradient(
            self,
            reference,
            start,
            loss,
            parameters,
            mean=mean,
            initial_mean=initial_mean,
            reference_energy=reference_energy,
            space_charge=space_charge,
            charge=charge,
        )

    def gradient(
        self,
        beam: Beam,
        loss: Loss,
        parameters: Parameters = (),
        *,
        initial: bool = False,
        reference_energy: bool = False,
        strategy: str = "auto",
        tolerance: float | None = None,
        threads: int | None = None,
        space_charge: SpaceCharge | None = None,
        collective: Effect | Iterable[Effect] = (),
        turns: int = 1,
        radiation: Radiation | None = None,
        boundary: str = "open",
        bucket_length: float | None = None,
    ) -> Gradient:
        """Derivatives of a loss after tracking a beam through the line once.

        The beam is tracked forward and then run backward, undoing every map, with the derivatives of the loss
        beside each particle. With one parameter per quadrupole that costs about 3.5 times the tracking (4.7 times if
        the loss depends on time) whatever the number of elements, and memory for one array of the size of the
        beam. The beam does not change.

        Parameters
        ----------
        beam
            The beam at the start.
        loss
            What is differentiated; see `betatron.losses`.
        parameters
            "all"; or names like "k1" (of all elements that have it), and pairs (element or name, parameter).
            Entries of lists are named "knl[2]".
        initial
            Also by the initial coordinates of every particle.
        reference_energy
            Also by the energy of the reference particle at the start.
        strategy
            "auto": rewind, and where that is not exact enough (single precision, long lines) or not possible,
            track each tile of particles again and keep its states; "rewind" or "checkpoint": only that;
            "forward": one forward pass per parameter, without rewinding.
        tolerance
            Largest rewind error, > 0; default 1e-8, in single precision 1e-3. It is that of the coordinate that is
            worst: rms over the particles, over how far the beam reaches in it (the median distance from its middle) at
            the start of the line.
        threads
            At most so many; None: all processors that the process may use. Results do not depend on it.
        space_charge, collective
            What the beam does to itself, as for `track`. Derivatives go through it: what a particle does to the
            others, and the dependence of grids on the beam, are part of them. Strategy "forward" does not have it.
        turns
            Times through the line, >= 1. Places of a loss are those of every turn, "end" is that of the last one.
        radiation, boundary, bucket_length
            As for `track`. Radiation is differentiated at fixed random numbers, those of ``track`` from turn 0 on.
            Beams with any of them but an absorbing boundary are not rewound: states are kept as with strategy
            "checkpoint". Strategy "forward" does not have them.

        Spins do not act on orbits: the gradient of a beam that has spins is that of one without.

        Raises
        ------
        TypeError, ValueError, KeyError
            For wrong arguments, for elements that cannot be tracked, for parameters without a derivative, and for
            collective effects that have none.
        RuntimeError
            With strategy="rewind", if the rewind error exceeds the tolerance; and for derivatives that are not finite.
        """
        return gradient(
            self,
            beam,
            loss,
            parameters,
            initial=initial,
            reference_energy=reference_energy,
            strategy=strategy,
            tolerance=tolerance,
            threads=thread_count(threads),
            space_charge=space_charge,
            collective=collective,
            turns=whole(turns, "turns", minimum=1),
            radiation=radiation,
            boundary=boundary,
            bucket_length=bucket_length,
        )

    def _flags(self, record: Recorded, argument: str = "record") -> tuple[list[int], bool]:
        """(one flag per element or nothing, whether to record at the start)."""
        if record is None:
            return [], False
        if isinstance(record, str) and record == "all":
            return [1] * len(self), True
        if isinstance(record, str) and record == "ends":
            flags = [0] * len(self)
            flags[-1:] = [1] * len(flags[-1:])
            return flags, True
        several = isinstance(record, Iterable) and not isinstance(record, (str, Element))
        wanted = list(record) if several else [record]
        flags = [0] * len(self)
        for item in wanted:
            for i in self._matches(item, argument):
                flags[i] = 1
        return flags, False

    def _name_at(self, place: int) -> str:
        return self.element(place).name if 0 <= place < len(self) else ""

    def _matches(self, item: str | Element, argument: str = "record") -> list[int]:
        if isinstance(item, Element):
            places = self.positions(item)
            if not places:
                raise KeyError(f"{item!r} does not stand in the line")
            return places
        if not isinstance(item, str):
            raise TypeError(
                f"{argument} takes names, regular expressions and elements, not {item!r}"
            )
        places = self.positions(item)
        if not places:
            try:
                pattern = re.compile(item)
            except re.error as error:
                raise ValueError(
                    f"{argument}={item!r} is no name in the line and no regular expression ('.*' is any "
                    f"text): {error}"
                ) from error
            places = [i for i, e in enumerate(self) if pattern.fullmatch(e.name)]
        if not places:
            hint = "; it is a regular expression: 'q.*' is all that begins with q" * ("*" in item)
            raise KeyError(_unknown_name(item, {e.name for e in self if e.name}) + hint)
        return places

    # --- dictionary form ---------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """The line as a dictionary of plain values: ``elements`` (each different one once, by a unique
        key) and ``sequence`` (keys in order). See from_dict."""
        keys: dict[int, str] = {}
        elements: dict[str, Any] = {}
        for count, e in enumerate(self.elements):
            key = e.name or f"{e.kind.lower()}_{count}"
            while key in elements:
                key += "_"
            keys[id(e)] = key
            elements[key] = {**e.to_dict(), "name": e.name}
        result: dict[str, Any] = {"elements": elements, "sequence": [keys[id(e)] for e in self]}
        return {"name": self.name, **result} if self.name else result

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Line:
        """A line from ``{"name": ..., "elements": {key: {"kind": ...}}, "sequence": [...]}``.

        The sequence holds keys, nested lists, and ``{"repeat": n, "line": [...]}``. An element without a
        name is named by its key.

        Raises
        ------
        KeyError, TypeError, ValueError
            Naming the key of the element or the place in the sequence.
        """
        _check_form(data)
        elements = {}
        for key, description in data["elements"].items():
            if not isinstance(description, dict):
                raise TypeError(f"element {key!r} must be a dictionary, got {description!r}")
            try:
                elements[key] = element_from_dict({"name": key, **description})
            except (KeyError, TypeError, ValueError) as error:
                raise type(error)(f"element {key!r}: {error.args[0]}") from error

        def expand(items: Any, where: str) -> Iterator[Element]:
            for count, item in enumerate(items):
                place = f"{where}[{count}]"
                if isinstance(item, str):
                    if item not in elements:
                        raise KeyError(f"{place}: {_unknown_name(item, elements)}")
                    yield elements[item]
                elif isinstance(item, dict):
                    unknown = set(item) - {"repeat", "line"}
                    if unknown or "line" not in item:
                        raise KeyError(
                            f"{place}: a repeated line has the keys repeat and line, got {set(item)}"
                        )
                    if not isinstance(item["line"], (list, tuple)):
                        raise TypeError(f"{place}.line must be a list, got {item['line']!r}")
                    times = whole(item.get("repeat", 1), f"{place}.repeat")
                    yield from list(expand(item["line"], f"{place}.line")) * times
                elif isinstance(item, (list, tuple)):
                    yield from expand(item, place)
                else:
                    raise TypeError(
                        f"{place}: expected a key, a list or a repeated line, got {item!r}"
                    )

        return cls(expand(data["sequence"], "sequence"), data.get("name", ""))


class Records:
    """Moments that were recorded along a line.

    Attributes
    ----------
    line
        The line that was tracked.
    """

    def __init__(self, line: Line, result: _core.TrackResult) -> None:
        self.line = line
        self._result = result
        self._moments: pd.DataFrame | None = None

    @property
    def plot(self) -> TrackPlots:
        """Pictures of what was recorded; see `betatron.plot.TrackPlots`."""
        # made anew each time: kept here, it would refer back to this object, and the memory of the beam
        # would stay in use until Python's garbage collector comes by
        return TrackPlots(self)

    @property
    def moments(self) -> pd.DataFrame:
        """Recorded moments, one row per record: turn, element (position, -1 for the start), slice, name,
        kind, and the columns of ``Beam.moments``."""
        if self._moments is None:
            table = pd.DataFrame(self._result.table())
            for column in ("turn", "element", "slice", "n"):
                table[column] = table[column].astype(np.int64)
            places = [self.line.element(i) if i >= 0 else None for i in table["element"]]
            table.insert(3, "name", [e.name if e is not None else "start" for e in places])
            table.insert(4, "kind", [e.kind if e is not None else "" for e in places])
            self._moments = table
        return self._moments

    @property
    def covariances(self) -> np.ndarray:
        """Covariance matrices of the records, shape (records, 6, 6)."""
        return self._result.covariances()


class Track(Records):
    """What tracking gave beside the tracked beam.

    Attributes
    ----------
    line, beam
        What was tracked. The beam is the one given, changed in place.
    n_lost
        Particles lost in this call; all of them are in ``beam.lost``.
    learned
        For each learned element that knows its domain (`PlasmaStageSurrogate`), by name (further ones
        of a name as "name 2", ...), what is to be said of this call: how many particles "passed", how
        many were "outside" of what it was trained for, and the errors that are to be expected of
        those inside, from particles kept out of its training, NaN if there are none; see
        `StageModel.expected_error`.
    """

    def __init__(
        self,
        line: Line,
        beam: Beam,
        result: _core.TrackResult,
        learned: dict[str, dict[str, float]] | None = None,
    ) -> None:
        super().__init__(line, result)
        self.beam = beam
        self.n_lost = result.lost
        self.learned = learned or {}

    @property
    def reference(self) -> Reference:
        """The reference particle of the beam."""
        return self.beam.reference

    @property
    def lost(self) -> pd.DataFrame:
        """All lost particles of the beam; see ``Beam.lost``."""
        return self.beam.lost

    def __repr__(self) -> str:
        return (
            f"Track: {len(self.beam)} particles at s = {self.beam.reference.s:.6g} m, {self.n_lost} lost, "
            f"{len(self.moments)} records"
        )


class Envelope(Records):
    """What tracking an envelope gave.

    Attributes
    ----------
    reference
        The reference particle at the end.
    mean
        Centroid at the end, shape (6,).
    covariance
        Covariance at the end, shape (6, 6).
    """

    def __init__(
        self,
        line: Line,
        result: _core.TrackResult,
        reference: Reference,
        mean: list[float],
        covariance: np.ndarray,
    ) -> None:
        super().__init__(line, result)
        self.reference = reference
        self.mean = np.array(mean)
        self.covariance = covariance

    def __repr__(self) -> str:
        return f"Envelope: at s = {self.reference.s:.6g} m, {len(self.moments)} records"


def _flatten(items: Any, where: str) -> Iterator[Element]:
    if isinstance(items, Element):
        yield items
    elif isinstance(items, (str, bytes, dict)) or not isinstance(items, Iterable):
        raise TypeError(f"{where}: expected an element, a line or a list of these, got {items!r}")
    else:
        for number, item in enumerate(items):
            if isinstance(item, Element):
                yield item
            else:
                yield from _flatten(item, f"{where}[{number}]")


def _check_form(data: Any) -> None:
    """That a dictionary has the keys of a line, of their types, and no others."""
    types = {
        "elements": (dict, "a dictionary"),
        "sequence": ((list, tuple), "a list"),
        "name": (str, "text"),
    }
    if not isinstance(data, dict):
        raise TypeError(f"a line is made from a dictionary, not from {type(data).__name__}")
    for key in ("elements", "sequence"):
        if key not in data:
            raise KeyError(f"line: the key {key} is missing")
    for key, value in data.items():
        if key not in types:
            raise KeyError(f"line: {key!r} is not a known key; allowed: {', '.join(types)}")
        kind, title = types[key]
        if not isinstance(value, kind):
            raise TypeError(f"line: {key} must be {title}, got {value!r}")


def _unknown_name(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=3)
    hint = f"; did you mean {', '.join(map(repr, close))}?" if close else ""
    return f"no element is named {name!r}{hint}"


class _Progress:
    """A progress bar that appears only when a run takes long; or the user's own function."""

    patience = 2.0  # s

    def __init__(
        self, wanted: bool | Callable[[float], None] | None, stream: TextIO | None = None
    ) -> None:
        if wanted is not None and not isinstance(wanted, bool) and not callable(wanted):
            raise TypeError(f"progress must be True, False, None or a function, got {wanted!r}")
        self._wanted = wanted
        self._stream = stream
        self._bar: Any = None
        self._started = time.monotonic()

    def __enter__(self) -> Callable[[float], None] | None:
        if callable(self._wanted):
            return self._wanted
        if self._wanted is False:
            return None
        return self._show

    def _show(self, part: float) -> None:
        if self._bar is None:
            stream = self._stream or sys.stderr
            if self._wanted is None and not stream.isatty():
                return
            if self._wanted is None and time.monotonic() - self._started < self.patience:
                return
            from rich.console import Console
            from rich.progress import Progress

            self._bar = Progress(console=Console(file=stream))
            self._bar.start()
            self._task = self._bar.add_task("tracking", total=1.0)
        self._bar.update(self._task, completed=part)

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
