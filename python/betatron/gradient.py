"""Derivatives of losses, by running the beam backwards through a line; see docs/gradients.md."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd

from betatron import _core
from betatron._checks import bucket, number
from betatron.beam import Beam
from betatron.collective import Effect, effects_on, warn_of_effects
from betatron.elements import Element
from betatron.losses import Loss, Moments, NoSecondDerivative, value_of
from betatron.radiation import Radiation, check_radiation
from betatron.space_charge import SpaceCharge

if TYPE_CHECKING:
    from betatron.line import Line

Parameters = str | Iterable[str | tuple[str | Element, str]]

_STRATEGIES = ("auto", "rewind", "checkpoint", "forward")
_ENTRY = re.compile(r"(\w+)\[(\d+)\]")


@dataclass
class Knob:
    """One number of one element: ``element.parameter``, or an entry of it if it is a list."""

    element: Element
    parameter: str
    entry: int = -1

    @property
    def name(self) -> str:
        """The parameter, for example "k1" or "knl[2]"."""
        return self.parameter if self.entry < 0 else f"{self.parameter}[{self.entry}]"

    @property
    def value(self) -> float:
        """What it is set to."""
        if self.entry < 0:
            return float(getattr(self.element, self.parameter))
        return float(self._entries()[self.entry])

    @value.setter
    def value(self, value: float) -> None:
        if self.entry >= 0:
            entries = self._entries()
            entries[self.entry] = float(value)
            setattr(self.element, self.parameter, entries)
        else:
            setattr(self.element, self.parameter, float(value))

    def _entries(self) -> list[float]:
        entries = list(getattr(self.element, self.parameter))
        if self.entry >= len(entries):
            raise ValueError(
                f"{self.element!r} has no {self.name}: its {self.parameter} has {len(entries)} entries"
            )
        return entries


def knobs(line: Line, parameters: Parameters) -> list[Knob]:
    """The numbers that ``parameters`` names, in their order, each once.

    "all" is every number that a derivative exists for; a name like "k1" is that parameter of all elements
    that have it; a pair is a parameter of an element or of all elements of a name or pattern. Entries of
    lists are named "knl[2]", all of them "knl".
    """
    if isinstance(parameters, str):
        parameters = [parameters]
    if not isinstance(parameters, Iterable):
        raise TypeError(
            f"parameters takes names and pairs (element, parameter), not {parameters!r}"
        )
    found: dict[tuple[int, str, int], Knob] = {}
    elements = line.elements
    inside = {id(e) for e in elements}

    def add(among: list[Element], parameter: str | None, match: re.Match[str] | None) -> int:
        count = 0
        for element, own, entry in _core.knobs_of(among, match[1] if match else parameter):
            if match is None or entry == int(match[2]):
                found.setdefault((id(element), own, entry), Knob(element, own, entry))
                count += 1
        return count

    for item in parameters:
        if isinstance(item, str):
            named, entry = None if item == "all" else item, _ENTRY.fullmatch(item)
            if add(elements, named, entry) == 0 and item != "all":
                pair = isinstance(parameters, tuple) and len(parameters) == 2
                hint = f"; a pair goes into a list: [{parameters!r}]" if pair else ""
                raise KeyError(
                    f"no element of the line has a number {item!r} to differentiate by{hint}"
                )
            continue
        if isinstance(item, Knob) and id(item.element) in inside:
            found.setdefault((id(item.element), item.parameter, item.entry), item)
            continue
        if isinstance(item, Knob):
            item = (item.element, item.name)
        if not isinstance(item, tuple) or len(item) != 2 or not isinstance(item[1], str):
            raise TypeError(f"parameters takes names and pairs (element, parameter), not {item!r}")
        which, parameter = item
        for place in dict.fromkeys(line._matches(which, "parameters")):
            element = line.element(place)
            if add([element], parameter, _ENTRY.fullmatch(parameter)) == 0:
                known = ", ".join(Knob(*k).name for k in _core.knobs_of([element]))
                thin = parameter == "length" and getattr(element, "length", None) == 0
                raise KeyError(
                    f"{element!r} has no number {parameter!r} to differentiate by"
                    f"{': it is thin' if thin else ''}; it has: {known}"
                )
    return list(found.values())


def numbers_of(chosen: Iterable[Knob]) -> list[tuple[Element, str, int]]:
    """The knobs as the engine takes them."""
    return [(k.element, k.parameter, k.entry) for k in chosen]


def set_knobs(chosen: Sequence[Knob], values: Sequence[float] | np.ndarray) -> None:
    """Sets each knob to its value; none if one of them is not allowed."""
    before = [k.value for k in chosen]
    try:
        for knob, value in zip(chosen, values, strict=True):
            knob.value = value
    except BaseException:
        for knob, value in zip(chosen, before, strict=True):
            knob.value = value
        raise


def effects_of(
    line: Line, space_charge: SpaceCharge | None, collective: Effect | Iterable[Effect]
) -> list[_core.Effect]:
    """What tracking is given as ``space_charge`` and ``collective``, made ready for a line."""
    if space_charge is not None and not isinstance(space_charge, SpaceCharge):
        raise TypeError(f"space_charge takes a model of space charge, got {space_charge!r}")
    return effects_on(line, space_charge) + effects_on(line, collective)


def single_knob(line: Line, key: tuple[str | Element, str]) -> Knob:
    """The number that a pair (element or name, parameter) names; ValueError if it names several."""
    found = knobs(line, [key])
    if len(found) != 1:
        raise ValueError(f"track: {key!r} names {len(found)} numbers; it must be one")
    return found[0]


def table_of(chosen: Sequence[Knob], derivatives: np.ndarray) -> pd.DataFrame:
    """One row per knob: element, kind, parameter, value, derivative."""
    return pd.DataFrame(
        {
            "element": [k.element.name for k in chosen],
            "kind": [k.element.kind for k in chosen],
            "parameter": [k.name for k in chosen],
            "value": [k.value for k in chosen],
            "derivative": derivatives,
        }
    )


class KnobDerivatives:
    """Derivatives by knobs, found as ``result[element or name, parameter]``."""

    knobs: list[Knob]
    derivatives: np.ndarray

    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)

    def __getitem__(self, key: tuple[str | Element, str]) -> Any:
        if not isinstance(key, tuple) or len(key) != 2:
            raise KeyError(f"derivatives are found by (element or name, parameter), not by {key!r}")
        which, parameter = key
        places = [
            i
            for i, k in enumerate(self.knobs)
            if k.name == parameter
            and (k.element.name == which if isinstance(which, str) else k.element is which)
        ]
        if not places:
            raise KeyError(f"no derivative by {parameter!r} of {which!r}")
        if len(places) > 1:
            raise KeyError(
                f"{len(places)} elements are named {which!r}: take the element itself, or `table`"
            )
        found = self.derivatives[..., places[0]]
        return float(found) if found.ndim == 0 else found

    @property
    def table(self) -> pd.DataFrame:
        """One row per knob: element, kind, parameter, value, derivative (of the first loss)."""
        first = self.derivatives if self.derivatives.ndim == 1 else self.derivatives[0]
        return table_of(self.knobs, first)


class Gradient(KnobDerivatives):
    """What `Line.gradient` gives.

    Attributes
    ----------
    value
        The loss.
    knobs
        The numbers that were varied.
    derivatives
        Of the loss by the knobs, shape (len(knobs),); also as ``gradient["q1", "k1"]``, by element or name.
    initial
        Derivatives by the initial coordinates, shape (6, n), 0 where a particle was lost; None if not wanted.
    reference_energy
        Derivative by the kinetic energy of the reference at the start [1/eV], at fixed initial coordinates
        (which are relative to it); None if not wanted.
    charge
        Derivative by the size of the charge of the beam (as ``Beam.set_charge`` takes it) through collective
        effects, at fixed coordinates [1/C].
    rewind_error
        Largest distance of rewound from initial coordinates, shape (6,), of the attempt if it was not exact
        enough; 0 if none was made.
    relative_rewind_error
        The largest of them, rms, over the extent of the beam at the start; see docs/gradients.md.
    strategy
        "rewind", "checkpoint" or "forward": what was done.
    lost
        Particles that were lost on the way: places in the columns of the beam.
    memory
        Bytes kept between the two passes.
    learned
        What learned elements say of the beam, as `Track.learned`.
    """

    value: float
    initial: np.ndarray | None
    reference_energy: float | None
    charge: float
    rewind_error: np.ndarray
    relative_rewind_error: float
    strategy: str
    lost: list[int]
    memory: int
    learned: dict[str, dict[str, float]]

    def __repr__(self) -> str:
        return (
            f"Gradient: loss {self.value:.6g}, {len(self.knobs)} derivatives by {self.strategy}, "
            f"relative rewind error {self.relative_rewind_error:.1e}"
        )


def _places(line: Line, at: Any) -> list[int]:
    """Elements behind which moments are wanted; -1: the start, len(line): the end."""
    if isinstance(at, str) and at in ("start", "end"):
        return [-1 if at == "start" else len(line)]
    if isinstance(at, (int, np.integer)) and not isinstance(at, bool):
        place = int(at) + len(line) if at < 0 else int(at)
        if not 0 <= place < len(line):
            raise IndexError(f"at = {at}: the line has {len(line)} elements")
        return [place]
    return line._matches(at, "at")


def _pair(returned: Any) -> tuple[Any, np.ndarray]:
    """What a function of particles returned, checked."""
    if not isinstance(returned, tuple) or len(returned) != 2:
        raise TypeError(
            "of_particles: the function must return (loss, derivatives), got "
            f"{type(returned).__name__}"
        )
    try:
        return returned[0], np.asarray(returned[1], dtype=float)
    except (TypeError, ValueError) as error:
        raise TypeError(f"of_particles: derivatives must be numbers: {error}") from error


class LossPlaces:
    """Losses with the places they look at: -1 is the start, ``end`` the end, others elements."""

    def __init__(self, line: Line, losses: Sequence[Loss]) -> None:
        self.losses: list[list[tuple[Any, list[int] | None]]] = []
        for loss in losses:
            if not isinstance(loss, Loss):
                raise TypeError(f"loss must be a betatron.losses.Loss, got {loss!r}")
            self.losses.append(
                [(t, None if t.at is None else _places(line, t.at)) for t in loss.terms]
            )
        wanted = {p for terms in self.losses for _, places in terms for p in places or ()}
        self.end = len(line)
        self.start = -1 in wanted
        self.flags = [int(i in wanted) for i in range(len(line))] if wanted - {-1, self.end} else []

    @staticmethod
    def take(
        term: Any, moments: Moments, slopes: np.ndarray, bends: np.ndarray | None = None
    ) -> float:
        """What a term adds to its loss for the moments of one record; ``slopes`` get its derivatives
        by mean, covariance and energy, shape (43,), and ``bends`` their rates."""
        try:
            part = term.function(moments)
        except ArithmeticError as error:
            raise ValueError(
                f"the loss at {term.at!r} has no value for this beam: {error}"
            ) from error
        if hasattr(part, "slope"):
            slopes += term.weight * part.slope
            if bends is not None:
                if part.bend is None:
                    raise NoSecondDerivative("a loss of moments makes a Number of its own")
                bends += term.weight * part.bend
        return float(term.weight * value_of(part))

    @staticmethod
    def check_finite(value: float, slopes: np.ndarray) -> None:
        """Raises ValueError unless they are."""
        if not np.isfinite(value) or not np.all(np.isfinite(slopes)):
            raise ValueError(f"the loss is {value}; it and its derivatives must be finite")


class _Evaluation(LossPlaces):
    """A loss of a tracked beam."""

    def __init__(self, line: Line, loss: Loss) -> None:
        super().__init__(line, [loss])
        self.terms = self.losses[0]

    def __call__(self, run: _core.Gradient, beam: Beam) -> tuple[float, dict[str, Any]]:
        """The loss and its derivatives, as arguments of _core.Gradient.pull."""
        value, (slopes,), (by_particles,) = self._evaluate(run, beam, None)
        return value, {**by_moments(slopes), "by_particles": by_particles}

    def twice(self, run: _core.HessianProduct, beam: Beam) -> dict[str, Any]:
        """The derivatives and their rates, as arguments of _core.HessianProduct.pull. Raises
        NoSecondDerivative."""
        _, (slopes, bends), (by_particles, rates) = self._evaluate(run, beam, run.rates())
        arguments = by_moments(slopes) | by_moments(bends, "_rates")
        return {**arguments, "by_particles": by_particles, "by_particles_rates": rates}

    def _evaluate(
        self, run: Any, beam: Beam, rates: np.ndarray | None
    ) -> tuple[float, list[np.ndarray], list[np.ndarray | None]]:
        """The loss, its derivatives by the moments and by the particles: with the rates of the
        moments each of them and its rate, without them only the derivatives."""
        element, kinetic, _, mean, cov = run.records()
        rows: dict[int, list[int]] = {self.end: [len(element) - 1]}
        for row, place in enumerate(element):
            rows.setdefault(int(place), []).append(row)  # once in every turn
        orders = 1 if rates is None else 2
        slopes = [np.zeros((len(element), 43)) for _ in range(orders)]
        by_particles: list[np.ndarray | None] = [None] * orders
        value = 0.0
        final = run.final
        if any(places is None for _, places in self.terms):
            overflown = [i for i in run.lost if not np.all(np.isfinite(final[:, i]))]
            if overflown:
                final = final.copy()
                final[:, overflown] = 0
        for term, places in self.terms:
            if places is None:
                weight = np.array(beam["weight"], dtype=float)
                if not weight.sum() > 0:
                    raise ValueError(
                        "a loss of particles needs weights; those of the beam are all 0"
                    )
                weight /= weight.sum()
                weight[run.lost] = 0
                part, slope = _pair(term.function(final, weight))
                found = [slope]
                if rates is not None:
                    found.append(term.function.bend(final, weight, run.final_rates))
                value += term.weight * value_of(part)
                for order, found_slope in enumerate(found):
                    made = _particles_checked(found_slope, run, "second " * order + "derivatives")
                    made = np.ascontiguousarray(term.weight * made, dtype=run.final.dtype)
                    before = by_particles[order]
                    by_particles[order] = made if before is None else before + made
                continue
            for row in (r for place in places for r in rows[place]):
                known = None if rates is None else rates[row]
                moments = Moments(mean[row], cov[row], kinetic[row], known)
                value += self.take(term, moments, *(s[row] for s in slopes))
        for s in slopes:
            self.check_finite(value, s)
        return value, slopes, by_particles


def by_moments(slopes: np.ndarray, suffix: str = "") -> dict[str, np.ndarray]:
    """Derivatives by mean, covariance and energy, shape (records, 43), as arguments of the engine."""
    return {
        f"mean{suffix}": np.ascontiguousarray(slopes[:, :6]),
        f"covariance{suffix}": np.ascontiguousarray(slopes[:, 6:42]).reshape(-1, 6, 6),
        f"kinetic{suffix}": np.ascontiguousarray(slopes[:, 42]),
    }


def _particles_checked(slope: np.ndarray, run: Any, what: str) -> np.ndarray:
    """What a function of particles gave as its derivatives."""
    if slope.shape != run.final.shape:
        raise ValueError(
            f"of_particles: {what} must have the shape {run.final.shape}, got {slope.shape}"
        )
    if not np.all(np.isfinite(np.delete(slope, run.lost, axis=1))):
        raise ValueError(f"of_particles: {what} must be finite")
    return slope


def _check_beam(beam: Beam) -> None:
    if not isinstance(beam, Beam):
        raise TypeError(f"gradient() needs a betatron.Beam, got {type(beam).__name__}")


def check_strategy(strategy: str, tolerance: float | None) -> float:
    """Raises for arguments that are not allowed; the tolerance, or 0 for the default."""
    if strategy not in _STRATEGIES:
        raise ValueError(f"strategy = {strategy!r} must be one of {', '.join(_STRATEGIES)}")
    bound = 0.0
    if tolerance is not None:
        bound = number(tolerance, "tolerance")
        if not 0 < bound < np.inf:
            raise ValueError(f"tolerance = {bound} is not allowed; allowed: > 0")
    return bound


def gradient(
    line: Line,
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
    """See `Line.gradient`."""
    _check_beam(beam)
    bound = check_strategy(strategy, tolerance)
    if strategy == "forward" and initial:
        raise ValueError("strategy = 'forward' has no derivatives by initial coordinates")
    check_radiation(radiation)
    bucket_size = bucket(boundary, bucket_length)
    chosen = knobs(line, parameters)
    evaluation = _Evaluation(line, loss)
    effects = effects_of(line, space_charge, collective)
    learned = line._watch_learned()
    run = _core.Gradient(
        line,
        beam,
        numbers_of(chosen),
        bool(reference_energy),
        evaluation.flags,
        evaluation.start,
        0 if threads is None else threads,
        effects,
        turns,
        radiation,
        boundary,
        bucket_size,
    )
    warn_of_effects(effects)
    common: dict[str, Any] = {"learned": learned()}
    value, slopes = evaluation(run, beam)
    common |= {"value": value, "knobs": chosen, "lost": run.lost, "memory": run.memory}
    mass = beam.reference.species.mass
    if strategy == "forward":
        derivatives = np.array([run.push(**slopes, knob=i) for i in range(len(chosen))])
        energy = run.push(**slopes, knob=-1) / mass if reference_energy else None
        return Gradient(
            **common,
            derivatives=derivatives,
            initial=None,
            reference_energy=energy,
            charge=0.0,
            rewind_error=np.zeros(6),
            relative_rewind_error=0.0,
            strategy="forward",
        )
    r = run.pull(**slopes, initial=initial, in_place=True, strategy=strategy, tolerance=bound)
    return Gradient(
        **common,
        derivatives=r["knobs"],
        initial=r["initial"],
        reference_energy=r["kinetic"] / mass if reference_energy else None,
        charge=r["charge"],
        rewind_error=r["rewind_error"],
        relative_rewind_error=r["relative_rewind_error"],
        strategy="checkpoint" if r["checkpointed"] else "rewind",
    )


# On which things vary, at 0 too; 0.1 for all else.
_LENGTHS = {
    "voltage": 1e5,
    "amplitude": 1e5,
    "acceleration": 1e5,
    "slope": 1e11,
    "density": 1e20,
    "frequency": 1e6,
    "phase": 1.0,
    "dx": 1e-2,
    "dy": 1e-2,
}
_ROWS = 9

HESSIAN_METHODS = ("auto", "exact", "differences")


@dataclass
class HessianVector:
    """What `Line.hessian_vector` gives: second derivatives of a loss times a direction.

    Attributes
    ----------
    values
        How the gradient changes along the direction, shape (len(knobs),).
    error
        Estimated errors of the values, from differences between extrapolations and from rounding;
        None if they are exact.
    knobs
        The numbers that were varied.
    gradients
        How many gradients were taken; 0 if the values are exact.
    method
        "exact" or "differences": what was done.
    obstacle
        What was in the way of the exact method, if "auto" did not take it; else "".
    initial
        How the derivatives by the initial coordinates change, shape (6, n), if the direction has
        these coordinates too; else None.
    """

    values: np.ndarray
    error: np.ndarray | None
    knobs: list[Knob]
    gradients: int
    method: str = "differences"
    obstacle: str = ""
    initial: np.ndarray | None = None

    @property
    def table(self) -> pd.DataFrame:
        """One row per knob: element, kind, parameter, value, derivative (of the gradient), and
        error unless exact."""
        table = table_of(self.knobs, self.values)
        return table if self.error is None else table.assign(error=self.error)

    def __repr__(self) -> str:
        if self.error is None:
            return f"HessianVector: {len(self.knobs)} numbers, exact"
        doubt = np.max(
            self.error / np.maximum(np.abs(self.values), np.finfo(float).tiny), initial=0
        )
        return f"HessianVector: {len(self.knobs)} numbers, {self.gradients} gradients, relative error {doubt:.0e}"


def exact_hessian_vector(
    line: Line,
    beam: Beam,
    loss: Loss,
    chosen: Sequence[Knob],
    direction: np.ndarray,
    *,
    strategy: str = "auto",
    tolerance: float | None = None,
    threads: int | None = None,
    space_charge: SpaceCharge | None = None,
    collective: Effect | Iterable[Effect] = (),
    turns: int = 1,
    radiation: Radiation | None = None,
    boundary: str = "open",
    bucket_length: float | None = None,
    initial: bool = False,
    reference_energy: bool = False,
    initial_direction: np.ndarray | None = None,
) -> HessianVector:
    """Second derivatives times the direction, by forward over reverse mode; see
    src/tracking/hessian.h.

    Raises NoSecondDerivative for what has none, and RuntimeError for a line that cannot be rewound
    accurately.
    """
    _check_beam(beam)
    bound = check_strategy(strategy, tolerance)
    kicks = effects_of(line, space_charge, collective)
    if kicks:
        raise NoSecondDerivative(f"{kicks[0].name} acts on the beam")
    if strategy not in ("auto", "rewind"):
        raise NoSecondDerivative(f"strategy = {strategy!r} was asked for")
    if radiation is not None:
        raise NoSecondDerivative("the beam radiates, and cannot be rewound")
    if boundary != "open":
        raise NoSecondDerivative(f"boundary = {boundary!r} has no second derivative")
    evaluation = _Evaluation(line, loss)
    run = _core.HessianProduct(
        line,
        beam,
        numbers_of(chosen),
        np.asarray(direction, dtype=float).tolist(),
        evaluation.flags,
        evaluation.start,
        0 if threads is None else threads,
        turns,
        initial_direction,
    )
    _, product, _, by_initial = run.pull(
        **evaluation.twice(run, beam),
        initial=initial_direction is not None,
        tolerance=bound,
    )
    return HessianVector(product, None, list(chosen), 0, "exact", initial=by_initial)


def hessian_vector(
    slope: Callable[[float], np.ndarray],
    values: np.ndarray,
    direction: np.ndarray,
    chosen: Sequence[Knob],
    accuracy: float = 1e-9,
    epsilon: float = 2.0**-52,
) -> HessianVector:
    """The derivative of ``slope(e)``, the exact gradient at ``values + e * direction``, at e = 0.

    Central differences, extrapolated from steps that are halved until two extrapolations agree to ``accuracy`` of the
    largest entry (entries times the sizes of their parameters), or until rounding makes them worse; the best one is
    taken. The first step changes no parameter by more than 1/16 of its size, and all together by no more than half of
    one. Steps outside of what parameters are allowed to be are halved. ``epsilon`` is the least relative error of
    gradients.

    Source: C. Ridders, Adv. Eng. Software 4 (1982) 75.
    """
    sizes = np.array(
        [max(abs(v), _LENGTHS.get(k.parameter, 0.1)) for v, k in zip(values, chosen, strict=True)]
    )
    relative = np.abs(direction) / sizes
    fastest = max(16 * np.max(relative, initial=0.0), 2 * np.sum(relative))
    if not np.isfinite(fastest):
        raise ValueError("hessian_vector: the direction must be finite")
    nothing = np.zeros(len(values))
    if fastest == 0:
        return HessianVector(nothing, nothing.copy(), list(chosen), 0)
    best, error, least = nothing, np.full(len(values), np.inf), np.inf
    row: list[np.ndarray] = []
    step, taken = 1 / fastest, 0
    for attempt in range(_ROWS):
        try:
            ahead, behind = slope(step), slope(-step)
        except ValueError:
            if attempt == _ROWS - 1 and not taken:
                raise
            row, step = [], step / 2
            continue
        taken += 2
        before, row = row, [(ahead - behind) / (2 * step)]
        rounding = epsilon * np.maximum(np.abs(ahead), np.abs(behind)) / step
        closest = np.inf
        for order, coarse in enumerate(before, 1):
            row.append(row[-1] + (row[-1] - coarse) / (4**order - 1))
            doubt = np.maximum(np.abs(row[-1] - row[-2]), np.abs(row[-1] - coarse)) + rounding
            closest = min(closest, float(np.max(doubt * sizes)))
            if closest < least:
                best, error, least = row[-1], doubt, closest
        largest = np.max(np.abs(best * sizes))
        if least <= accuracy * largest or (least < 1e-2 * largest and closest > 4 * least):
            break
        step /= 2
    return HessianVector(best, error, list(chosen), taken)


@dataclass
class _Kept:
    """What an objective has found and was not yet asked for."""

    x: np.ndarray
    asked: int  # how often any objective had been asked then
    part: int
    result: Any


class Objective:
    """A loss as a function of a vector of parameters, for optimisers.

    >>> # scipy.optimize.minimize(objective, objective.x0, jac=True)          doctest: +SKIP

    Calling it sets the parameters of the elements and returns (loss, derivatives); ``fun`` and
    ``jac`` return one of them. Where they follow one another at the same x, the second takes what
    the first has found, unless another objective was asked in between. If a value is not allowed,
    no parameter is changed.

    Parameters
    ----------
    line, beam, loss, parameters, options
        As for `Line.gradient`. ``scale``: x is in units of these (one number or one per knob), default 1.

    Attributes
    ----------
    evaluations
        How many gradients were taken.
    learned
        What learned elements say of the beam of the last one, as `Track.learned`.
    """

    _asked: ClassVar[int] = 0

    def __init__(
        self,
        line: Line,
        beam: Beam,
        loss: Loss,
        parameters: Parameters,
        *,
        scale: float | Sequence[float] = 1.0,
        **options: Any,
    ) -> None:
        self.line, self.beam, self.loss, self.options = line, beam, loss, options
        self.knobs = knobs(line, parameters)
        if not self.knobs:
            raise ValueError("an objective needs at least one parameter")
        try:
            self.scale = np.broadcast_to(np.asarray(scale, dtype=float), (len(self.knobs),))
        except (TypeError, ValueError):
            self.scale = np.zeros(1)
        if not np.all(np.isfinite(self.scale)) or not np.all(self.scale):
            raise ValueError(
                f"Objective: scale = {scale!r} must be one finite number other than 0, or "
                f"{len(self.knobs)} of them, one per parameter"
            )
        self.evaluations = 0
        self._kept: _Kept | None = None
        self.learned: dict[str, dict[str, float]] = {}

    @property
    def x0(self) -> np.ndarray:
        """The present values of the parameters, over ``scale``."""
        return np.array([k.value for k in self.knobs]) / self.scale

    def __call__(self, x: Sequence[float]) -> tuple[float, np.ndarray]:
        at = np.array(x, dtype=float)
        if at.shape != (len(self.knobs),):
            raise ValueError(f"x must have the shape ({len(self.knobs)},), got {at.shape}")
        self._kept = None
        set_knobs(self.knobs, at * self.scale)
        Objective._asked += 1
        g = self._gradient()
        self.evaluations += 1
        return g.value, g.derivatives * self.scale

    def _gradient(self) -> Gradient:
        found = gradient(self.line, self.beam, self.loss, self.knobs, **self.options)
        self.learned = found.learned
        return found

    def _sharp_options(self) -> dict[str, Any]:
        """Differences divide errors of rewinding by their steps: they are worth a tighter tolerance."""
        if self.options.get("strategy", "auto") != "auto":
            return {}
        return {"tolerance": 1e-13 if self.beam.precision == "double" else 1e-6}

    def _epsilon(self) -> float:
        return 2.0**-52 if self.beam.precision == "double" else 2.0**-23

    def _exact(
        self, direction: np.ndarray, initial_direction: np.ndarray | None = None
    ) -> HessianVector:
        return exact_hessian_vector(
            self.line,
            self.beam,
            self.loss,
            self.knobs,
            direction,
            initial_direction=initial_direction,
            **self.options,
        )

    def hessian_vector(
        self,
        x: Sequence[float],
        p: Sequence[float],
        accuracy: float = 1e-9,
        method: str = "auto",
    ) -> HessianVector:
        """The second derivatives at x times the direction p, in units of x; see
        `Line.hessian_vector`. The parameters are those of x afterwards."""
        if method not in HESSIAN_METHODS:
            raise ValueError(f"method = {method!r} must be one of {', '.join(HESSIAN_METHODS)}")
        at, along = np.array(x, dtype=float), np.asarray(p, dtype=float)
        if at.shape != (len(self.knobs),) or along.shape != at.shape:
            raise ValueError(
                f"x and p must have the shape ({len(self.knobs)},), got {at.shape} and "
                f"{along.shape}"
            )
        obstacle = ""
        if method != "differences":
            set_knobs(self.knobs, at * self.scale)
            Objective._asked += 1
            try:
                product = self._exact(along * self.scale)
                product.values = product.values * self.scale
                return product
            except (ValueError, RuntimeError) as error:
                if method == "exact":
                    raise
                obstacle = str(error)
        product = self._by_differences(at, along, accuracy)
        product.obstacle = obstacle
        return product

    def _by_differences(self, at: np.ndarray, along: np.ndarray, accuracy: float) -> HessianVector:
        options = self.options
        self.options = self._sharp_options() | options
        try:
            product = hessian_vector(
                lambda step: self(at + step * along)[1] / self.scale,
                at * self.scale,
                along * self.scale,
                self.knobs,
                accuracy,
                self._epsilon(),
            )
        finally:
            set_knobs(self.knobs, at * self.scale)
            self.options = options
        product.values = product.values * self.scale
        product.error = product.error * np.abs(self.scale)
        return product

    def hessp(self, x: Sequence[float], p: Sequence[float]) -> np.ndarray:
        """The values of `hessian_vector`, as ``scipy.optimize.minimize(..., hessp=...)`` takes them."""
        return self.hessian_vector(x, p).values

    def fun(self, x: Sequence[float]) -> float:
        """The loss."""
        return self._one(x, 0)

    def jac(self, x: Sequence[float]) -> np.ndarray:
        """Its derivatives."""
        return self._one(x, 1)

    def _one(self, x: Sequence[float], part: int) -> Any:
        """The loss (0) or its derivatives (1). The other of the two is kept until something is asked
        for: elements, the beam and options may change between two questions."""
        at, kept, self._kept = np.array(x, dtype=float), self._kept, None
        if (
            kept is not None
            and kept.part == part
            and kept.asked == Objective._asked
            and np.array_equal(kept.x, at)
            and np.array_equal([k.value for k in self.knobs], at * self.scale)
        ):
            return kept.result
        results = self(at)
        self._kept = _Kept(at, Objective._asked, 1 - part, results[1 - part])
        return results[part]


@contextmanager
def turned(chosen: Sequence[Knob], values: Sequence[float]) -> Iterator[None]:
    """The knobs at these values, for as long as the context lasts."""
    before = [k.value for k in chosen]
    try:
        set_knobs(chosen, values)
        yield
    finally:
        set_knobs(chosen, before)
