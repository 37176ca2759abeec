r"""Losses: numbers that say how far a beam is from what is wanted, for `Line.gradient`.

A loss is a function of the moments of the beam at some places of a line, written once; its derivatives with respect
to the moments follow from the same code (forward mode over the 43 numbers that it may look at). Losses add up, and
may be multiplied by numbers:

>>> from betatron import losses
>>> goal = losses.beam_size("x", 1e-4) + 0.1 * losses.centroid("y", at="screen")

and anything else is a function of a `Moments`:

>>> round_beam = losses.of_moments(lambda m: (m.cov[0, 0] / m.cov[2, 2] - 1) ** 2)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = [
    "Loss",
    "Moments",
    "Number",
    "beam_size",
    "centroid",
    "dispersion",
    "emittance",
    "energy_spread",
    "exp",
    "log",
    "of_moments",
    "of_particles",
    "sqrt",
    "twiss_mismatch",
]

_COORDINATES = ("x", "px", "y", "py", "t", "pt")
_PLANES = {"x": 0, "y": 2, "t": 4}
_INPUTS = 6 + 36 + 1  # mean, covariance, gamma - 1 of the reference


class Number:
    """A number with its derivatives by the moments; arithmetic as usual, functions: `sqrt`, `exp`, `log`."""

    __slots__ = ("slope", "value")

    def __init__(self, value: float, slope: np.ndarray) -> None:
        self.value, self.slope = value, slope

    def __add__(self, other: Number | float) -> Number:
        if isinstance(other, Number):
            return Number(self.value + other.value, self.slope + other.slope)
        return Number(self.value + other, self.slope)

    __radd__ = __add__

    def __neg__(self) -> Number:
        return Number(-self.value, -self.slope)

    def __sub__(self, other: Number | float) -> Number:
        return self + (-other)

    def __rsub__(self, other: float) -> Number:
        return -self + other

    def __mul__(self, other: Number | float) -> Number:
        if isinstance(other, Number):
            return Number(
                self.value * other.value, self.slope * other.value + other.slope * self.value
            )
        return Number(self.value * other, self.slope * other)

    __rmul__ = __mul__

    def __truediv__(self, other: Number | float) -> Number:
        if isinstance(other, Number):
            ratio = self.value / other.value
            return Number(ratio, (self.slope - ratio * other.slope) / other.value)
        return Number(self.value / other, self.slope / other)

    def __rtruediv__(self, other: float) -> Number:
        ratio = other / self.value
        return Number(ratio, -ratio / self.value * self.slope)

    def __pow__(self, power: float) -> Number:
        if isinstance(power, Number):
            return exp(log(self) * power)
        return Number(self.value**power, power * self.value ** (power - 1) * self.slope)

    def __abs__(self) -> Number:
        return self if self.value >= 0 else -self

    # comparisons look at the value, so that a function may branch
    def __lt__(self, other: Number | float) -> bool:
        return self.value < _value(other)

    def __le__(self, other: Number | float) -> bool:
        return self.value <= _value(other)

    def __gt__(self, other: Number | float) -> bool:
        return self.value > _value(other)

    def __ge__(self, other: Number | float) -> bool:
        return self.value >= _value(other)

    def __float__(self) -> float:
        return float(self.value)

    def __repr__(self) -> str:
        return f"Number({self.value})"


def _value(x: Any) -> float:
    return x.value if isinstance(x, Number) else float(x)


def sqrt(x: Any) -> Any:
    """Square root of a `Number` or a float. At 0 the slope counts as 0."""
    if not isinstance(x, Number):
        return math.sqrt(x)
    root = math.sqrt(x.value)
    return Number(root, x.slope / (2 * root) if root > 0 else np.zeros_like(x.slope))


def exp(x: Any) -> Any:
    """Exponential of a `Number` or a float."""
    return (
        Number(math.exp(x.value), math.exp(x.value) * x.slope)
        if isinstance(x, Number)
        else math.exp(x)
    )


def log(x: Any) -> Any:
    """Natural logarithm of a `Number` or a float."""
    return Number(math.log(x.value), x.slope / x.value) if isinstance(x, Number) else math.log(x)


class Moments:
    """First and second moments of a beam at one place, as a loss sees them.

    Attributes
    ----------
    mean
        The six means, m.mean[0] ... m.mean[5] (x, px, y, py, t, pt).
    cov
        The covariance matrix, m.cov[i, j].
    kinetic
        gamma - 1 of the reference particle there.
    """

    def __init__(self, mean: np.ndarray, cov: np.ndarray, kinetic: float) -> None:
        unit = np.eye(_INPUTS)
        self.mean = [Number(float(v), unit[i]) for i, v in enumerate(mean)]
        self.cov = np.empty((6, 6), dtype=object)
        for i in range(6):
            for j in range(6):
                self.cov[i, j] = Number(float(cov[i, j]), unit[6 + 6 * i + j])
        self.kinetic = Number(float(kinetic), unit[42])

    @property
    def beta_gamma(self) -> Number:
        """beta gamma of the reference particle."""
        return sqrt(self.kinetic * (self.kinetic + 2))

    def sigma(self, coordinate: str) -> Number:
        """Root mean square of a coordinate about its mean."""
        i = _coordinate(coordinate)
        return sqrt(self.cov[i, i])

    def dispersion(self, coordinate: str) -> Number:
        """-<q pt>/<pt^2>: the derivative by energy of the orbit of the beam (m, or 1)."""
        return -self.cov[_coordinate(coordinate), 5] / self.cov[5, 5]

    def emittance(self, plane: str, normalized: bool = False) -> Number:
        """Projected rms emittance [m], dispersion included; times beta gamma if normalized."""
        i = _plane(plane)
        c = self.cov
        e = sqrt(c[i, i] * c[i + 1, i + 1] - c[i, i + 1] * c[i + 1, i])
        return e * self.beta_gamma if normalized else e

    def twiss(self, plane: str) -> tuple[Number, Number, Number]:
        """(alpha, beta [m], emittance [m]) of a plane; for x and y without what is correlated with pt."""
        i = _plane(plane)
        c = self.cov
        qq, qp, pp = c[i, i], c[i, i + 1], c[i + 1, i + 1]
        if i < 4 and c[5, 5].value > 0:
            a, b = c[i, 5], c[i + 1, 5]
            qq, qp, pp = qq - a * a / c[5, 5], qp - a * b / c[5, 5], pp - b * b / c[5, 5]
        e = sqrt(qq * pp - qp * qp)
        return -qp / e, qq / e, e


def _coordinate(name: str) -> int:
    if name not in _COORDINATES:
        raise ValueError(f"coordinate = {name!r} must be one of {', '.join(_COORDINATES)}")
    return _COORDINATES.index(name)


def _plane(name: str) -> int:
    if name not in _PLANES:
        raise ValueError(f"plane = {name!r} must be one of x, y, t")
    return _PLANES[name]


@dataclass(frozen=True)
class _Term:
    weight: float
    at: Any  # "start", "end", name, element, position; None: of particles
    function: Callable[..., Any]


class Loss:
    """A weighted sum of functions of the moments at places of a line, and of the particles at its end."""

    def __init__(self, terms: Sequence[_Term]) -> None:
        self.terms = tuple(terms)

    def __add__(self, other: Loss) -> Loss:
        if not isinstance(other, Loss):
            return NotImplemented
        return Loss([*self.terms, *other.terms])

    def __mul__(self, factor: float) -> Loss:
        return Loss([_Term(t.weight * float(factor), t.at, t.function) for t in self.terms])

    __rmul__ = __mul__

    def __neg__(self) -> Loss:
        return self * -1.0

    def __sub__(self, other: Loss) -> Loss:
        return self + (-other)

    def __repr__(self) -> str:
        return f"Loss of {len(self.terms)} terms"


def of_moments(function: Callable[[Moments], Number], at: Any = "end") -> Loss:
    """A loss from a function of the moments.

    Parameters
    ----------
    function
        Called with a `Moments`; must return a number made of its attributes by arithmetic and the functions of
        this module.
    at
        "end", "start", or an element of the line by name, position or itself; the moments behind it. Where a
        name or an element stands several times in the line, the loss is summed over the places.
    """
    return Loss([_Term(1.0, at, function)])


def of_particles(function: Callable[[np.ndarray], tuple[float, np.ndarray]]) -> Loss:
    """A loss from a function of the coordinates at the end.

    ``function(z)`` gets the coordinates, shape (6, n), and returns the loss and its derivatives by them, of the
    same shape. Lost particles are in it with the coordinates that they had when they were lost; their derivatives
    are not used.
    """
    return Loss([_Term(1.0, None, function)])


def beam_size(coordinate: str = "x", target: float | None = None, at: Any = "end") -> Loss:
    """Variance of a coordinate; with a target: (sigma/target - 1)^2."""
    i = _coordinate(coordinate)
    if target is None:
        return of_moments(lambda m: m.cov[i, i], at)
    return of_moments(lambda m: (m.sigma(coordinate) / target - 1) ** 2, at)


def centroid(coordinate: str, target: float = 0.0, at: Any = "end") -> Loss:
    """(mean - target)^2."""
    i = _coordinate(coordinate)
    return of_moments(lambda m: (m.mean[i] - target) ** 2, at)


def emittance(plane: str, normalized: bool = False, at: Any = "end") -> Loss:
    """Projected rms emittance [m]."""
    _plane(plane)
    return of_moments(lambda m: m.emittance(plane, normalized), at)


def energy_spread(at: Any = "end") -> Loss:
    """Root mean square of pt: the energy spread over p0 c."""
    return of_moments(lambda m: m.sigma("pt"), at)


def dispersion(coordinate: str, target: float = 0.0, at: Any = "end") -> Loss:
    """(dispersion of the beam - target)^2."""
    _coordinate(coordinate)
    return of_moments(lambda m: (m.dispersion(coordinate) - target) ** 2, at)


def twiss_mismatch(plane: str, alpha: float, beta: float, at: Any = "end") -> Loss:
    r"""Mismatch of the beam to Courant-Snyder parameters, 0 where it fits:

    ``(beta/b + b/beta + (a sqrt(beta/b) - alpha sqrt(b/beta))^2)/2 - 1``, a and b those of the beam.
    Source: M. Sands, SLAC-AP-85 (1991).
    """
    _plane(plane)
    if not beta > 0:
        raise ValueError(f"twiss_mismatch: beta = {beta} m is not allowed; allowed: > 0")

    def mismatch(m: Moments) -> Number:
        a, b, _ = m.twiss(plane)
        ratio = beta / b
        return (ratio + 1 / ratio + (a * sqrt(ratio) - alpha / sqrt(ratio)) ** 2) * 0.5 - 1

    return of_moments(mismatch, at)
