"""Random errors of a machine: misaligned magnets, wrong strengths, multipole errors.

>>> import betatron as bt
>>> q, d = bt.Quadrupole(0.2, k1=1.5, name="q"), bt.Drift(1.0, name="d")
>>> ring = bt.Line([q, d, q, d])
>>> spec = {"q": bt.errors.Errors(absolute={"dx": 50e-6, "dy": 50e-6}, relative={"k1": 1e-3})}
>>> real = bt.errors.apply(ring, spec, seed=1)
>>> len(real.table)
6
>>> real.scale(0.5)  # half the errors; scale(0) takes them away
>>> ring["q"].k1  # the ideal line stays as it is
1.5

A line holds references, and one element may stand at many places: so each element with errors is
copied, once for every place, and the errors are in a new line, ``real.line``. What is drawn depends
only on the seed, the name of the element, the how-manieth of that name it is (elements without a
name: of that kind) and the quantity: other elements and other errors can be added and removed
without changing it.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import pandas as pd

from betatron import _core
from betatron._checks import number, whole
from betatron.elements import Element, copy_of, element_from_dict
from betatron.line import Line

__all__ = ["Applied", "Errors", "apply"]

# Integrated strength [1/m^n] of the main field, and its order n: 0 for dipoles.
_MAIN = {
    "Bend": (0, lambda e: e.angle),
    "Quadrupole": (1, lambda e: e.k1 * e.length),
    "Sextupole": (2, lambda e: e.k2 * e.length),
    "Octupole": (3, lambda e: e.k3 * e.length),
}


# Parameters of the place of an element.
_PLACE = ("dx", "dy", "dz", "pitch", "yaw", "roll")
_SHAPES = ("gaussian", "uniform")


@dataclass(frozen=True)
class Errors:
    """Sizes of the errors of some elements: each a standard deviation (or, with a uniform shape, a
    half-width), or a pair (mean, that size).

    Parameters
    ----------
    absolute
        By parameter, added to it in its unit: ``{"dx": 50e-6, "roll": 1e-4, "hkick": 1e-5}``. The
        place of an element has six: dx, dy, dz, pitch, yaw, roll.
    relative
        By parameter, times its value: ``{"k1": 1e-3}``. For a Bend, "angle" is a relative error of
        its dipole field: the reference orbit stays, and particles get the additional deflection.
    normal, skew
        Multipole errors by order n (0 dipole, 1 quadrupole, ...): field of that order over the main
        field, both at ``radius`` (times 1e4 these are "units"). With main order m, integrated
        strengths K_m, and b_n, a_n: K_n = b_n K_m n!/m! radius^(m-n), and the same for skew ones.
        For Bend, Quadrupole, Sextupole, Octupole.
    radius
        Where multipole errors are given [m], > 0.
    cut
        Draws beyond so many standard deviations are drawn again, > 0; of the gaussian shape.
    shape
        "gaussian", or "uniform" within the size on both sides of the mean.

    Dipole and multipole errors act as thin kicks, half at the entrance and half at the exit of the
    element (the second-order approximation to a constant error along it), which move with it as one
    rigid body.
    """

    absolute: Mapping[str, Any] = field(default_factory=dict)
    relative: Mapping[str, Any] = field(default_factory=dict)
    normal: Mapping[int, Any] = field(default_factory=dict)
    skew: Mapping[int, Any] = field(default_factory=dict)
    radius: float | None = None
    cut: float = 3.0
    shape: str = "gaussian"

    def __post_init__(self) -> None:
        for group in ("absolute", "relative", "normal", "skew"):
            for name, size in getattr(self, group).items():
                _mean_and_sigma(size, f"Errors: {group}[{name!r}]")
        for group in ("normal", "skew"):
            for n in getattr(self, group):
                whole(n, f"Errors: order in {group}", 20)
        if (self.normal or self.skew) and not (
            self.radius is not None and 0 < self.radius < math.inf
        ):
            raise ValueError(f"Errors: multipole errors need a radius > 0 m, got {self.radius!r}")
        if not number(self.cut, "Errors: cut") > 0:
            raise ValueError(f"Errors: cut = {self.cut} must be > 0")
        if self.shape not in _SHAPES:
            raise ValueError(f"Errors: shape = {self.shape!r} must be one of {', '.join(_SHAPES)}")


@dataclass
class _Change:
    """One error: what is added to a parameter (or to entry `order` of a list) of one element."""

    element: Element
    parameter: str
    order: int | None
    ideal: float
    error: float

    def scale(self, old: float, new: float) -> None:
        """From `old` times the error to `new` times; a value that was changed meanwhile stays
        changed."""
        values = getattr(self.element, self.parameter)
        now = values if self.order is None else values[self.order]
        untouched = now == self.ideal + old * self.error
        value = self.ideal + new * self.error if untouched else now + (new - old) * self.error
        if self.order is None:
            setattr(self.element, self.parameter, value)
        else:
            values = list(values)
            values[self.order] = value
            setattr(self.element, self.parameter, values)


@dataclass
class _Edge:
    """A thin kick at one end of an element (place 0 or 1), which moves with it."""

    kick: Element
    element: Element
    place: float

    def follow(self) -> None:
        for name, value in self.element.alignment_at(self.place).items():
            setattr(self.kick, name, value)


class Applied:
    """A line with errors.

    Attributes
    ----------
    line
        The new line. Elements without errors are those of the ideal line.
    ideal
        The line without errors, unchanged.
    seed
        Of the random numbers.
    table
        What was drawn, one row per error: ``element`` (position in the ideal line), ``name``,
        ``kind``, ``quantity`` (a parameter, "field", "normal_2", "skew_3", ...), ``unit``,
        ``ideal`` (value without error; 1 for the main field), ``error`` (added to it), ``sigmas``
        (the error less its mean, in units of its size).
    """

    def __init__(
        self,
        line: Line,
        ideal: Line,
        seed: int,
        changes: list[_Change],
        edges: list[_Edge],
        table: pd.DataFrame,
    ) -> None:
        self.line, self.ideal, self.seed, self.table = line, ideal, seed, table
        self._changes, self._edges = changes, edges
        self._factor = 0.0
        self.scale(1.0)

    @property
    def factor(self) -> float:
        """The part of the errors that is in the line: 1, or what `scale` was given."""
        return self._factor

    def scale(self, factor: float) -> None:
        """Put so many times the errors into the line: 0 takes them away to the last bit, 1
        restores them. Parameters that were changed meanwhile (a corrector, a knob) keep that
        change."""
        factor = number(factor, "scale: factor")
        if not math.isfinite(factor):
            raise ValueError(f"scale: factor = {factor} must be finite")
        for change in self._changes:
            change.scale(self._factor, factor)
        for edge in self._edges:
            edge.follow()
        self._factor = factor

    def undo(self) -> None:
        """Take the errors away: `scale` by 0."""
        self.scale(0.0)

    def __repr__(self) -> str:
        count = self.table["element"].nunique()
        return (
            f"Applied: {len(self.table)} errors of {count} elements, seed {self.seed}, "
            f"times {self._factor:g}"
        )


def apply(
    line: Line, spec: Mapping[str | Element, Errors | Mapping[str, Any]], seed: int
) -> Applied:
    """A copy of a line with random errors.

    Parameters
    ----------
    line
        The ideal line; neither it nor its elements are changed.
    spec
        Errors by elements: a name, a regular expression for names, a kind ("Quadrupole"), or an
        element. The values are `Errors`, or dictionaries of its parameters. An element may be meant
        by several keys, if these give different errors.
    seed
        0 <= seed < 2^64.

    Raises
    ------
    KeyError
        If nothing in the line is meant by a key, or an element has no such parameter.
    TypeError, ValueError
        For what is not allowed: sizes that are negative or not finite, an error given twice,
        multipole errors of an element without a main field (or with one in T/m, that depends on the
        energy), values out of range.
    """
    seed = whole(seed, "errors.apply: seed", 2**64 - 1)
    wanted = _by_position(line, spec)
    seen: Counter[str] = Counter()
    changes: list[_Change] = []
    edges: list[_Edge] = []
    rows: list[dict[str, Any]] = []
    items: list[Element] = []
    for position, original in enumerate(line):
        label = original.name or f"<{original.kind}>"
        occurrence = seen[label]
        seen[label] += 1
        if position not in wanted:
            items.append(original)
            continue
        maker = _Maker(original, f"{seed}|{label}|{occurrence}", position)
        for errors in wanted[position]:
            maker.draw(errors)
        items += maker.finish()
        changes += maker.changes
        edges += maker.edges
        rows += maker.rows
    columns = ["element", "name", "kind", "quantity", "unit", "ideal", "error", "sigmas"]
    table = pd.DataFrame(rows, columns=columns)
    return Applied(Line(items, line.name), line, seed, changes, edges, table)


class _Maker:
    """The copy of one element, with its errors."""

    def __init__(self, original: Element, key: str, position: int) -> None:
        self.element = copy_of(original)
        self.changes: list[_Change] = []
        self.rows: list[dict[str, Any]] = []
        self.edges: list[_Edge] = []
        self._key = key
        self._position = position
        self._where = f"errors.apply: {original.kind} {original.name!r}"

    def finish(self) -> list[Element]:
        """The elements that stand for the original one: its copy, between its thin kicks if it
        has any."""
        kicks = [edge.kick for edge in self.edges]
        return [*kicks[:1], self.element, *kicks[1:]]

    def draw(self, errors: Errors) -> None:
        for name, size in errors.absolute.items():
            self._parameter(name, *self._drawn(name, size, errors), 1.0)
        for name, size in errors.relative.items():
            if self.element.kind == "Bend" and name == "angle":
                value, sigmas = self._drawn("field", size, errors)
                self._multipole("field", "knl", 0, value * self.element.angle, value, sigmas)
            else:
                self._parameter(name, *self._drawn(name, size, errors), None)
        for group, list_name in (("normal", "knl"), ("skew", "ksl")):
            for n, size in getattr(errors, group).items():
                quantity = f"{group}_{n}"
                value, sigmas = self._drawn(quantity, size, errors)
                order, strength = self._main()
                assert errors.radius is not None  # see Errors
                ratio = math.factorial(n) / math.factorial(order) * errors.radius ** (order - n)
                self._multipole(quantity, list_name, n, value * strength * ratio, value, sigmas)

    def _parameter(self, name: str, value: float, sigmas: float, scale: float | None) -> None:
        """Add value * scale to a parameter; scale None stands for the parameter itself."""
        info = {
            p["name"]: p for p in (*_core.kinds()[self.element.kind], *_core.common_parameters())
        }
        if name not in info:
            raise KeyError(f"{self._where} has no parameter {name!r}; it has {', '.join(info)}")
        ideal = getattr(self.element, name)
        if isinstance(ideal, bool) or not isinstance(ideal, float):
            raise TypeError(
                f"{self._where}: {name} = {ideal!r} is no real number, and can have no error"
            )
        error = value * (ideal if scale is None else scale)
        self._add(name, info[name]["unit"], ideal, error, sigmas)
        self.changes.append(_Change(self.element, name, None, ideal, error))

    def _multipole(
        self, quantity: str, list_name: str, n: int, strength: float, value: float, sigmas: float
    ) -> None:
        if not self.edges:
            e = self.element
            for place, end in ((0.0, "in"), (1.0, "out")):
                kick = {"kind": "Multipole", "name": f"{e.name}_error_{end}", "model": e.model}
                self.edges.append(_Edge(element_from_dict(kick), e, place))
        self._add(quantity, "1", 1.0 if quantity == "field" else 0.0, value, sigmas)
        for kick in (edge.kick for edge in self.edges):
            for other in ("knl", "ksl"):
                values = list(getattr(kick, other))
                if len(values) <= n:
                    setattr(kick, other, values + [0.0] * (n + 1 - len(values)))
            self.changes.append(_Change(kick, list_name, n, 0.0, strength / 2))

    def _main(self) -> tuple[int, float]:
        kind = self.element.kind
        if kind not in _MAIN:
            raise ValueError(
                f"{self._where}: multipole errors are relative to the main field of "
                f"{', '.join(_MAIN)}"
            )
        if getattr(self.element, "gradient", 0.0) != 0.0:
            raise ValueError(
                f"{self._where}: multipole errors need its strength as k1, not as a gradient in T/m"
            )
        order, strength = _MAIN[kind]
        return order, strength(self.element)

    def _drawn(self, quantity: str, size: Any, errors: Errors) -> tuple[float, float]:
        """The error, and its distance from the mean in units of its size."""
        mean, sigma = _mean_and_sigma(size, quantity)
        digest = hashlib.blake2b(f"{self._key}|{quantity}".encode(), digest_size=16).digest()
        random = np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))
        if errors.shape == "uniform":
            sigmas = random.uniform(-1.0, 1.0)
            return mean + sigma * sigmas, sigmas
        sigmas = random.standard_normal()
        while abs(sigmas) > errors.cut:
            sigmas = random.standard_normal()
        return mean + sigma * sigmas, float(sigmas)

    def _add(self, quantity: str, unit: str, ideal: float, error: float, sigmas: float) -> None:
        if any(row["quantity"] == quantity for row in self.rows):
            raise ValueError(f"{self._where}: errors of {quantity} are given twice")
        self.rows.append({
            "element": self._position, "name": self.element.name, "kind": self.element.kind,
            "quantity": quantity, "unit": unit, "ideal": ideal, "error": error, "sigmas": sigmas,
        })  # fmt: skip


def _by_position(line: Line, spec: Mapping[Any, Any]) -> dict[int, list[Errors]]:
    wanted: dict[int, list[Errors]] = {}
    known = {f.name for f in fields(Errors)}
    for key, given in spec.items():
        errors = given
        if not isinstance(errors, Errors):
            if not isinstance(given, Mapping):
                raise TypeError(
                    f"errors.apply: {key!r} needs betatron.errors.Errors or a dictionary, "
                    f"got {given!r}"
                )
            unknown = sorted(set(given) - known)
            if unknown:
                raise KeyError(
                    f"errors.apply: {key!r}: {unknown[0]!r} is none of {', '.join(sorted(known))}"
                )
            errors = Errors(**given)
        if isinstance(key, str) and key in _core.kinds() and key not in line:
            places = [i for i, e in enumerate(line) if e.kind == key]
            if not places:
                raise KeyError(f"errors.apply: the line has no {key}")
        else:
            places = line._matches(key)
        for i in places:
            wanted.setdefault(i, []).append(errors)
    return wanted


def _mean_and_sigma(size: Any, where: str) -> tuple[float, float]:
    pair = size if isinstance(size, (tuple, list)) else (0.0, size)
    if len(pair) != 2:
        raise ValueError(
            f"{where} = {size!r} must be a standard deviation or (mean, standard deviation)"
        )
    mean, sigma = (number(v, where) for v in pair)
    if not (math.isfinite(mean) and 0 <= sigma < math.inf):
        raise ValueError(f"{where} = {size!r} must be finite, and the standard deviation >= 0")
    return mean, sigma
