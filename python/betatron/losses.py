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
from functools import partial
from typing import Any

import numpy as np

from betatron._checks import number, whole

__all__ = [
    "Loss",
    "Moments",
    "NoSecondDerivative",
    "Number",
    "Screen",
    "beam_size",
    "centroid",
    "dispersion",
    "emittance",
    "energy_spread",
    "erf",
    "exp",
    "gaussian_transmission",
    "log",
    "of_moments",
    "of_particles",
    "of_weighted_particles",
    "screen_image",
    "spot_size",
    "sqrt",
    "transmission",
    "twiss_mismatch",
]

_COORDINATES = ("x", "px", "y", "py", "t", "pt")
_PLANES = {"x": 0, "y": 2, "t": 4}
_INPUTS = 6 + 36 + 1  # mean, covariance, gamma - 1 of the reference


class NoSecondDerivative(ValueError):
    """Something has no exact second derivative; the message says what."""


class Number:
    """A number with its derivatives by the moments; arithmetic as usual, functions: `sqrt`, `exp`,
    `log`.

    Attributes
    ----------
    value, slope
        The number, and its derivatives, shape (43,).
    rate, bend
        How the two change along a direction in which the moments do, for second derivatives; None
        where that is not known.
    """

    __slots__ = ("bend", "rate", "slope", "value")

    def __init__(
        self,
        value: float,
        slope: np.ndarray,
        rate: float | None = None,
        bend: np.ndarray | None = None,
    ) -> None:
        self.value, self.slope, self.rate, self.bend = value, slope, rate, bend

    def _chain(self, value: float, first: float, second: Callable[[], float]) -> Number:
        """f of it, given f, f' and f''."""
        if self.rate is None or self.bend is None:
            return Number(value, first * self.slope)
        bend = first * self.bend + (second() * self.rate) * self.slope
        return Number(value, first * self.slope, first * self.rate, bend)

    def _with(self, other: Number, made: Number, rates: Callable[..., tuple[float, Any]]) -> Number:
        """What was made of two numbers, with what ``rates(self.rate, self.bend, other.rate,
        other.bend)`` gives."""
        if self.rate is not None and other.rate is not None:
            made.rate, made.bend = rates(self.rate, self.bend, other.rate, other.bend)
        return made

    def __add__(self, other: Number | float) -> Number:
        if isinstance(other, Number):
            made = Number(self.value + other.value, self.slope + other.slope)
            return self._with(other, made, lambda r, b, s, c: (r + s, b + c))
        return Number(self.value + other, self.slope, self.rate, self.bend)

    __radd__ = __add__

    def __pos__(self) -> Number:
        return self

    def __neg__(self) -> Number:
        return self._chain(-self.value, -1.0, lambda: 0.0)

    def __sub__(self, other: Number | float) -> Number:
        return self + (-other)

    def __rsub__(self, other: float) -> Number:
        return -self + other

    def __mul__(self, other: Number | float) -> Number:
        if not isinstance(other, Number):
            return self._chain(self.value * other, other, lambda: 0.0)
        v, w = self.value, other.value
        made = Number(v * w, self.slope * w + other.slope * v)
        return self._with(
            other,
            made,
            lambda r, b, s, c: (r * w + s * v, b * w + c * v + s * self.slope + r * other.slope),
        )

    __rmul__ = __mul__

    def __truediv__(self, other: Number | float) -> Number:
        if not isinstance(other, Number):
            return self._chain(_ratio(self.value, other), 1 / other, lambda: 0.0)
        ratio, over = _ratio(self.value, other.value), other.value
        made = Number(ratio, (self.slope - ratio * other.slope) / over)

        def rates(r: float, b: np.ndarray, s: float, c: np.ndarray) -> tuple[float, np.ndarray]:
            rate = (r - ratio * s) / over
            return rate, (b - ratio * c - rate * other.slope - s * made.slope) / over

        return self._with(other, made, rates)

    def __rtruediv__(self, other: float) -> Number:
        ratio = _ratio(other, self.value)
        return self._chain(ratio, -ratio / self.value, lambda: 2 * ratio / self.value**2)

    def __pow__(self, power: float) -> Number:
        if isinstance(power, Number):
            return exp(log(self) * power)

        def second() -> float:
            factor = power * (power - 1)
            if factor == 0 or (self.value == 0 and power > 2):
                return 0.0
            return factor * self.value ** (power - 2) if self.value or power == 2 else math.inf

        return self._chain(self.value**power, power * self.value ** (power - 1), second)

    def __rpow__(self, base: float) -> Number:
        return exp(self * math.log(base))

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
        raise TypeError(
            "a Number carries derivatives, which float() and the functions of math would drop: take "
            "sqrt, exp, log and erf of betatron.losses; its value is Number.value"
        )

    # functions of NumPy call these
    def sqrt(self) -> Number:
        """Square root."""
        return sqrt(self)

    def exp(self) -> Number:
        """Exponential."""
        return exp(self)

    def log(self) -> Number:
        """Natural logarithm."""
        return log(self)

    def __repr__(self) -> str:
        return f"Number({self.value})"


class NoValue(ArithmeticError):
    """A function has no value there; the message says which and where."""


def _ratio(over: float, under: float) -> float:
    if under == 0:
        raise NoValue("division by 0")
    return over / under


def _value(x: Any) -> float:
    return x.value if isinstance(x, Number) else float(x)


def value_of(x: Any) -> float:
    """What a function of moments or particles returned, as a number without derivatives."""
    return number(x.value if isinstance(x, Number) else x, "a loss: what the function returned")


def sqrt(x: Any) -> Any:
    """Square root of a `Number` or a float. At 0 the slope counts as 0."""
    if not isinstance(x, Number):
        return math.sqrt(x)
    if x.value < 0:
        raise NoValue(f"the square root of {x.value}")
    root = math.sqrt(x.value)
    if root == 0:
        return x._chain(0.0, 0.0, lambda: 0.0)
    return x._chain(root, 1 / (2 * root), lambda: -1 / (4 * root * x.value))


def exp(x: Any) -> Any:
    """Exponential of a `Number` or a float."""
    if not isinstance(x, Number):
        return math.exp(x)
    value = math.exp(x.value)
    return x._chain(value, value, lambda: value)


def log(x: Any) -> Any:
    """Natural logarithm of a `Number` or a float."""
    if not isinstance(x, Number):
        return math.log(x)
    if x.value <= 0:
        raise NoValue(f"the logarithm of {x.value}")
    return x._chain(math.log(x.value), 1 / x.value, lambda: -1 / x.value**2)


def erf(x: Any) -> Any:
    """Error function of a `Number` or a float."""
    if not isinstance(x, Number):
        return math.erf(x)
    slope = 2 / math.sqrt(math.pi) * math.exp(-x.value * x.value)
    return x._chain(math.erf(x.value), slope, lambda: -2 * x.value * slope)


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

    def __init__(
        self, mean: np.ndarray, cov: np.ndarray, kinetic: float, rates: np.ndarray | None = None
    ) -> None:
        """rates: of all of them along a direction, shape (43,), for second derivatives."""
        values = np.concatenate([mean, np.ravel(cov), [kinetic]]).tolist()
        variables = [Number(v, unit) for v, unit in zip(values, np.eye(_INPUTS), strict=True)]
        if rates is not None:
            zero = np.zeros(_INPUTS)
            for variable, rate in zip(variables, rates.tolist(), strict=True):
                variable.rate, variable.bend = rate, zero
        self.mean = variables[:6]
        self.cov = np.array(variables[6:42], dtype=object).reshape(6, 6)
        self.kinetic = variables[42]

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
        if self.cov[5, 5].value == 0:
            raise NoValue("the beam has no energy spread, and no dispersion")
        return -self.cov[_coordinate(coordinate), 5] / self.cov[5, 5]

    def emittance(self, plane: str, normalized: bool = False) -> Number:
        """Projected rms emittance [m], dispersion included; times beta gamma if normalized."""
        i = _plane(plane)
        c = self.cov
        e = _area(c[i, i], c[i, i + 1], c[i + 1, i + 1])
        return e * self.beta_gamma if normalized else e

    def twiss(self, plane: str) -> tuple[Number, Number, Number]:
        """(alpha, beta [m], emittance [m]) of a plane; for x and y without what is correlated with pt."""
        i = _plane(plane)
        c = self.cov
        qq, qp, pp = c[i, i], c[i, i + 1], c[i + 1, i + 1]
        if i < 4 and c[5, 5].value > 0:
            a, b = c[i, 5], c[i + 1, 5]
            qq, qp, pp = qq - a * a / c[5, 5], qp - a * b / c[5, 5], pp - b * b / c[5, 5]
        e = _area(qq, qp, pp)
        if e.value == 0:
            raise NoValue(f"the beam has no emittance in {plane}, and no Courant-Snyder parameters")
        return -qp / e, qq / e, e


def _area(qq: Number, qp: Number, pp: Number) -> Number:
    """sqrt(qq pp - qp^2); 0 if it is nothing but rounding."""
    square = qq * pp - qp * qp
    if square.value <= 2.0**-50 * qq.value * pp.value:
        return square * 0.0
    return sqrt(square)  # type: ignore[no-any-return]


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

    def __radd__(self, start: object) -> Loss:
        return self if start == 0 else NotImplemented  # sum() begins with 0

    def __mul__(self, factor: float) -> Loss:
        factor = _finite("the factor of a loss", factor)
        return Loss([_Term(t.weight * factor, t.at, t.function) for t in self.terms])

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> Loss:
        divisor = _finite("the divisor of a loss", divisor)
        if divisor == 0:
            raise ValueError("the divisor of a loss = 0 is not allowed")
        return self * (1 / divisor)

    def __pos__(self) -> Loss:
        return self

    def __neg__(self) -> Loss:
        return self * -1.0

    def __sub__(self, other: Loss) -> Loss:
        return self + (-other)

    def __repr__(self) -> str:
        return f"Loss of {len(self.terms)} terms"


def _finite(name: str, value: Any) -> float:
    result = number(value, name)
    if not math.isfinite(result):
        raise ValueError(f"{name} = {result} is not allowed; allowed: any finite number")
    return result


def _positive(name: str, value: Any, unit: str = "") -> float:
    result = number(value, name)
    if not 0 < result < math.inf:
        raise ValueError(f"{name} = {result}{unit} is not allowed; allowed: > 0")
    return result


def _function(where: str, function: Any) -> None:
    if not callable(function):
        raise TypeError(f"{where} takes a function, got {function!r}")


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
    _function("of_moments", function)
    return Loss([_Term(1.0, at, function)])


class _Particles:
    """A function of the particles at the end, as a term of a loss."""

    def __init__(self, where: str, function: Any, second: Any, weighted: bool) -> None:
        _function(where, function)
        if second is not None:
            _function(f"{where}: second", second)
        self.where, self.function, self.second, self.weighted = where, function, second, weighted

    def _given(self, z: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, ...]:
        return (z, weight) if self.weighted else (z,)

    def __call__(self, z: np.ndarray, weight: np.ndarray) -> Any:
        return self.function(*self._given(z, weight))

    def bend(self, z: np.ndarray, weight: np.ndarray, rates: np.ndarray) -> np.ndarray:
        """How the derivatives change where the coordinates change at these rates; both of shape (6,
        n)."""
        if self.second is None:
            raise NoSecondDerivative(f"{self.where}: the function has no second derivative given")
        return np.asarray(self.second(*self._given(z, weight), rates), dtype=float)


def of_particles(
    function: Callable[[np.ndarray], tuple[float, np.ndarray]],
    second: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
) -> Loss:
    """A loss from a function of the coordinates at the end.

    ``function(z)`` gets the coordinates, shape (6, n), and returns the loss and its derivatives by
    them, of the same shape. Lost particles are in it with the coordinates that they had when they
    were lost, or with 0 if these were not finite; their derivatives are not used. ``second(z,
    rates)``, if given, returns how these derivatives change where z changes by ``rates``, all of
    shape (6, n): the second derivatives of the loss times the rates, for exact
    `Line.hessian_vector`.
    """
    return Loss([_Term(1.0, None, _Particles("of_particles", function, second, False))])


def of_weighted_particles(
    function: Callable[[np.ndarray, np.ndarray], tuple[float, np.ndarray]],
    second: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray] | None = None,
) -> Loss:
    """The same with weights.

    ``function(z, weight)`` gets them with shape (n,); they are those of the beam, over their sum at the start, and 0
    for particles that were lost on the way. ``second(z, weight, rates)`` likewise.
    """
    return Loss([_Term(1.0, None, _Particles("of_weighted_particles", function, second, True))])


def beam_size(coordinate: str = "x", target: float | None = None, at: Any = "end") -> Loss:
    """Variance of a coordinate; with a target: (sigma/target - 1)^2."""
    i = _coordinate(coordinate)
    if target is None:
        return of_moments(partial(_variance, i=i), at)
    size = _positive("beam_size: target", target)
    return of_moments(partial(_off_size, coordinate=coordinate, target=size), at)


def _variance(m: Moments, i: int) -> Number:
    return m.cov[i, i]  # type: ignore[no-any-return]


def _off_size(m: Moments, coordinate: str, target: float) -> Number:
    return (m.sigma(coordinate) / target - 1) ** 2


def centroid(coordinate: str, target: float = 0.0, at: Any = "end") -> Loss:
    """(mean - target)^2."""
    i = _coordinate(coordinate)
    wanted = _finite("centroid: target", target)
    return of_moments(partial(_off_centre, i=i, target=wanted), at)


def _off_centre(m: Moments, i: int, target: float) -> Number:
    return (m.mean[i] - target) ** 2


def emittance(plane: str, normalized: bool = False, at: Any = "end") -> Loss:
    """Projected rms emittance [m]."""
    _plane(plane)
    return of_moments(partial(Moments.emittance, plane=plane, normalized=normalized), at)


def energy_spread(at: Any = "end") -> Loss:
    """Root mean square of pt: the energy spread over p0 c."""
    return of_moments(partial(Moments.sigma, coordinate="pt"), at)


def dispersion(coordinate: str, target: float = 0.0, at: Any = "end") -> Loss:
    """(dispersion of the beam - target)^2."""
    _coordinate(coordinate)
    wanted = _finite("dispersion: target", target)
    return of_moments(partial(_off_dispersion, coordinate=coordinate, target=wanted), at)


def _off_dispersion(m: Moments, coordinate: str, target: float) -> Number:
    return (m.dispersion(coordinate) - target) ** 2


def twiss_mismatch(plane: str, alpha: float, beta: float, at: Any = "end") -> Loss:
    r"""Mismatch of the beam to Courant-Snyder parameters, 0 where it fits:

    ``(beta/b + b/beta + (a sqrt(beta/b) - alpha sqrt(b/beta))^2)/2 - 1``, a and b those of the beam.
    Source: M. Sands, SLAC-AP-85 (1991).
    """
    _plane(plane)
    alpha = _finite("twiss_mismatch: alpha", alpha)
    beta = _positive("twiss_mismatch: beta", beta, " m")
    return of_moments(partial(_mismatch, plane=plane, alpha=alpha, beta=beta), at)


def _mismatch(m: Moments, plane: str, alpha: float, beta: float) -> Number:
    a, b, _ = m.twiss(plane)
    ratio = beta / b
    return (ratio + 1 / ratio + (a * sqrt(ratio) - alpha / sqrt(ratio)) ** 2) * 0.5 - 1


def spot_size(at: Any = "end") -> Loss:
    """Area of the spot over pi, ``sqrt(<xx><yy> - <xy>^2)`` [m^2], about its centre."""
    return of_moments(_spot, at)


def _spot(m: Moments) -> Number:
    return _area(m.cov[0, 0], m.cov[0, 2], m.cov[2, 2])


def _half_width(name: str, value: float | None) -> None:
    if value is not None and not number(value, name) > 0:
        raise ValueError(f"{name} = {value} m is not allowed; allowed: > 0, or None for no limit")


def gaussian_transmission(x: float | None = None, y: float | None = None, at: Any = "end") -> Loss:
    """The fraction of a Gaussian beam that is within +-x and +-y [m] (0 ... 1): smooth where hard apertures are not.

    Its moments are those of the beam, x and y count as independent. None: no limit. Maximise it by the loss
    ``-gaussian_transmission(...)``.
    """
    _half_width("x", x)
    _half_width("y", y)
    return of_moments(partial(_gaussian_inside, x=x, y=y), at)


def _gaussian_inside(m: Moments, x: float | None, y: float | None) -> Any:
    result: Any = 1.0
    for i, half in ((0, x), (2, y)):
        if half is None:
            continue
        scale = sqrt(m.cov[i, i] * 2)
        if scale.value == 0:  # all of it is at one place
            result = result * float(abs(m.mean[i]) < half)
            continue
        result = result * (
            (erf((half - m.mean[i]) / scale) + erf((half + m.mean[i]) / scale)) * 0.5
        )
    return result


def transmission(x: float, y: float, softness: float = 0.1, *, rectangular: bool = False) -> Loss:
    """The fraction of the beam (0 ... 1, by weight) that is within an opening at the end of the line, with a soft edge.

    A particle counts ``1/(1 + exp((r^2 - 1)/softness))`` with ``r^2 = (px/x)^2 + (py/y)^2`` at its position (px, py);
    in a rectangular opening, the product of one such factor per plane. Particles that were lost on the way count 0.
    Maximise it by the loss ``-transmission(...)``; with ``softness`` towards 0 it becomes what passes.

    Raises
    ------
    ValueError
        Unless all numbers are > 0.
    """
    for name, half in (("x", x), ("y", y)):
        number(half, f"transmission: {name}")
        _half_width(name, half)
    opening = _SoftOpening(x, y, _positive("softness", softness), rectangular)
    return of_weighted_particles(opening.passed, opening.second)


@dataclass(frozen=True)
class _SoftOpening:
    x: float
    y: float
    softness: float
    rectangular: bool

    def fermi(self, excess: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """With its first and second derivative."""
        f = 0.5 * (1 - np.tanh(0.5 * excess / self.softness))
        slope = -f * (1 - f) / self.softness
        return f, slope, -(1 - 2 * f) * slope / self.softness

    def passed(self, z: np.ndarray, weight: np.ndarray) -> tuple[float, np.ndarray]:
        u, v = z[0] / self.x, z[2] / self.y
        by_u, by_v = 2 * u / self.x * weight, 2 * v / self.y * weight
        slope = np.zeros_like(z)
        if self.rectangular:
            (a, da, _), (b, db, _) = self.fermi(u * u - 1), self.fermi(v * v - 1)
            inside = a * b
            slope[0], slope[2] = by_u * da * b, by_v * a * db
        else:
            inside, change, _ = self.fermi(u * u + v * v - 1)
            slope[0], slope[2] = by_u * change, by_v * change
        return float(weight @ inside), slope

    def second(self, z: np.ndarray, weight: np.ndarray, rates: np.ndarray) -> np.ndarray:
        u, v = z[0] / self.x, z[2] / self.y
        du, dv = rates[0] / self.x, rates[2] / self.y
        bend = np.zeros_like(z)
        if self.rectangular:
            (a, da, dda), (b, db, ddb) = self.fermi(u * u - 1), self.fermi(v * v - 1)
            p, q = 2 * u * du, 2 * v * dv
            bend[0] = du * da * b + u * (dda * p * b + da * db * q)
            bend[2] = dv * a * db + v * (da * p * db + a * ddb * q)
        else:
            _, change, bent = self.fermi(u * u + v * v - 1)
            more = bent * 2 * (u * du + v * dv)
            bend[0] = du * change + u * more
            bend[2] = dv * change + v * more
        bend[0] *= 2 / self.x * weight
        bend[2] *= 2 / self.y * weight
        return bend


class Screen:
    """A screen: what its pixels see of the particles, as a smooth function of their positions.

    Particles are spread over 3 x 3 pixels by quadratic splines (R. W. Hockney, J. W. Eastwood, Computer Simulation
    Using Particles, 1988, ch. 5: "triangular shaped cloud"), then the image is convolved with a Gaussian:
    a kernel density.

    Parameters
    ----------
    x, y
        (lower edge, upper edge, number of pixels) [m].
    smoothing
        Standard deviation of the Gaussian [pixels]; 0 for none.
    coordinates
        What the screen shows; default ("x", "y"). ("x", "pt") is that of an ideal spectrometer.

    Raises
    ------
    ValueError
        For edges that are not in order, less than 3 pixels, or a negative ``smoothing``.
    """

    def __init__(
        self,
        x: tuple[float, float, int],
        y: tuple[float, float, int],
        smoothing: float = 1.0,
        coordinates: tuple[str, str] = ("x", "y"),
    ) -> None:
        if isinstance(coordinates, str) or len(coordinates) != 2:
            raise ValueError(f"Screen: coordinates = {coordinates!r} must be two names")
        self.rows = tuple(_coordinate(c) for c in coordinates)
        for name, edges in (("x", x), ("y", y)):
            if not isinstance(edges, (tuple, list)) or len(edges) != 3:
                raise TypeError(
                    f"Screen: {name} must be (lower edge, upper edge, number of pixels), got {edges!r}"
                )
            low, high = (number(e, f"Screen: edge of {name}") for e in edges[:2])
            count = whole(edges[2], f"Screen: pixels in {name}")
            if not (np.isfinite(low) and np.isfinite(high) and low < high):
                raise ValueError(f"Screen: {name} = ({low}, {high}, ...) must be in order")
            if count < 3:
                raise ValueError(f"Screen: {name} has {count} pixels; allowed: >= 3")
        smoothing = number(smoothing, "Screen: smoothing")
        if not 0 <= smoothing < math.inf:
            raise ValueError(f"Screen: smoothing = {smoothing} is not allowed; allowed: >= 0")
        self.low = np.array([x[0], y[0]], dtype=float)
        self.count = (int(x[2]), int(y[2]))
        self.pixel = (np.array([x[1], y[1]], dtype=float) - self.low) / self.count
        self.smoothing = float(smoothing)
        self._blur = [self._blur_matrix(n) for n in self.count]

    def _blur_matrix(self, n: int) -> np.ndarray:
        if self.smoothing == 0:
            return np.eye(n)
        distance = np.subtract.outer(np.arange(n), np.arange(n)) / self.smoothing
        # what a Gaussian shines beside the screen is not seen
        return np.exp(-0.5 * distance**2) / (math.sqrt(2 * math.pi) * self.smoothing)

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """(left, right, bottom, top) [m], for ``imshow(image, extent=..., origin="lower")``."""
        high = self.low + self.pixel * self.count
        return (float(self.low[0]), float(high[0]), float(self.low[1]), float(high[1]))

    def _splines(self, z: np.ndarray) -> tuple[np.ndarray, list[np.ndarray], list[np.ndarray]]:
        """Flat number of the middle pixel, and per axis what three pixels get and how that changes [1/pixel]."""
        nx, ny = self.count
        middle, shares, slopes = [], [], []
        for axis, n in enumerate((nx, ny)):
            u = (z[self.rows[axis]].astype(float) - self.low[axis]) / self.pixel[axis] - 0.5
            u = np.clip(np.nan_to_num(u, nan=-9.0), -9.0, n + 8.0)  # far away is far away
            nearest = np.floor(u + 0.5)
            d = u - nearest
            shares.append(np.array([0.5 * (0.5 - d) ** 2, 0.75 - d * d, 0.5 * (0.5 + d) ** 2]))
            slopes.append(np.array([d - 0.5, -2 * d, d + 0.5]))
            middle.append(
                nearest.astype(np.int64) + 10
            )  # in a frame of 10 pixels around the screen
        return middle[1] * (nx + 20) + middle[0], shares, slopes

    def image(self, z: np.ndarray, weight: np.ndarray | None = None) -> np.ndarray:
        """What is seen of particles, coordinates of shape (6, n): shape (pixels in y, pixels in x). Its sum is that of
        the weights (default: 1/n each) but for what misses the screen."""
        z = np.asarray(z)
        if z.ndim != 2 or z.shape[0] != 6:
            raise ValueError(f"Screen.image: coordinates must have the shape (6, n), got {z.shape}")
        weight = np.full(z.shape[1], 1 / max(1, z.shape[1])) if weight is None else weight
        if np.shape(weight) != (z.shape[1],):
            raise ValueError(
                f"Screen.image: weight must have the shape ({z.shape[1]},), got {np.shape(weight)}"
            )
        flat, (sx, sy), _ = self._splines(z)
        return self._seen(flat, [(weight, sx, sy)])

    def _seen(self, flat: np.ndarray, terms: list[tuple[np.ndarray, ...]]) -> np.ndarray:
        """The blurred image of (amount, shares in x, shares in y) around pixels."""
        nx, ny = self.count
        cells = np.zeros((ny + 20) * (nx + 20))
        for j in range(3):
            for i in range(3):
                at = flat + (j - 1) * (nx + 20) + (i - 1)
                amount = sum(a * x[i] * y[j] for a, x, y in terms)
                cells += np.bincount(at, amount, minlength=cells.size)
        seen = cells.reshape(ny + 20, nx + 20)[10 : ny + 10, 10 : nx + 10]
        return self._blur[1] @ seen @ self._blur[0].T

    def _felt(
        self, flat: np.ndarray, by_image: np.ndarray, *shares: tuple[np.ndarray, np.ndarray]
    ) -> list[np.ndarray]:
        """The sum around each particle of a function of the pixels, for each pair of shares in x
        and y."""
        nx, ny = self.count
        field = np.zeros((ny + 20, nx + 20))
        field[10 : ny + 10, 10 : nx + 10] = self._blur[1].T @ by_image @ self._blur[0]
        field = field.ravel()
        felt = [np.zeros(flat.size) for _ in shares]
        for j in range(3):
            for i in range(3):
                here = field[flat + (j - 1) * (nx + 20) + (i - 1)]
                for sum_of, (x, y) in zip(felt, shares, strict=True):
                    sum_of += here * x[i] * y[j]
        return felt

    def pull(
        self, z: np.ndarray, by_image: np.ndarray, weight: np.ndarray | None = None
    ) -> np.ndarray:
        """Derivatives by the coordinates, shape (6, n), of a number with these derivatives by the pixels."""
        z = np.asarray(z)
        weight = np.full(z.shape[1], 1 / max(1, z.shape[1])) if weight is None else weight
        flat, (sx, sy), (dx, dy) = self._splines(z)
        slope = np.zeros(z.shape)
        for axis, felt in enumerate(self._felt(flat, by_image, (dx, sy), (sx, dy))):
            slope[self.rows[axis]] += felt * weight / self.pixel[axis]
        return slope

    def _image_rate(self, z: np.ndarray, weight: np.ndarray, rates: np.ndarray) -> np.ndarray:
        """How the image changes where the coordinates do at these rates, shape (6, n)."""
        flat, (sx, sy), (dx, dy) = self._splines(z)
        du, dv = (weight * rates[self.rows[a]] / self.pixel[a] for a in range(2))
        return self._seen(flat, [(du, dx, sy), (dv, sx, dy)])

    def _bend(
        self, z: np.ndarray, by_image: np.ndarray, weight: np.ndarray, rates: np.ndarray
    ) -> np.ndarray:
        """How what `pull` gives changes then, at the same derivatives by the pixels."""
        flat, (sx, sy), (dx, dy) = self._splines(z)
        bent = np.array([1.0, -2.0, 1.0])[:, None]
        xx, xy, yy = self._felt(flat, by_image, (bent, sy), (dx, dy), (sx, bent))
        du, dv = (rates[self.rows[a]] / self.pixel[a] for a in range(2))
        bend = np.zeros(z.shape)
        bend[self.rows[0]] += (xx * du + xy * dv) * weight / self.pixel[0]
        bend[self.rows[1]] += (xy * du + yy * dv) * weight / self.pixel[1]
        return bend


def screen_image(screen: Screen, target: np.ndarray) -> Loss:
    """Squared distance of the image on a `Screen` at the end of the line from ``target`` (shape (pixels in y, pixels in
    x), as `Screen.image` gives it), over the square of the target."""
    if not isinstance(screen, Screen):
        raise TypeError(f"screen_image: screen must be a Screen, got {type(screen).__name__}")
    wanted = np.array(target, dtype=float)
    if wanted.shape != (screen.count[1], screen.count[0]):
        raise ValueError(
            f"screen_image: the target has the shape {wanted.shape}; the screen {screen.count[::-1]}"
        )
    norm = float(np.sum(wanted**2))
    if not 0 < norm < np.inf:
        raise ValueError("screen_image: the target must be finite and not dark")

    image = _Image(screen, wanted, norm)
    return of_weighted_particles(image.distance, image.second)


@dataclass(frozen=True)
class _Image:
    """What is wanted on a screen, and the sum of its squares."""

    screen: Screen
    wanted: np.ndarray
    norm: float

    def distance(self, z: np.ndarray, weight: np.ndarray) -> tuple[float, np.ndarray]:
        rest = self.screen.image(z, weight) - self.wanted
        slope = self.screen.pull(z, 2 * rest / self.norm, weight)
        return float(np.sum(rest**2)) / self.norm, slope

    def second(self, z: np.ndarray, weight: np.ndarray, rates: np.ndarray) -> np.ndarray:
        by_image = 2 * (self.screen.image(z, weight) - self.wanted) / self.norm
        moved = self.screen._image_rate(z, weight, rates)
        bend = self.screen._bend(z, by_image, weight, rates)
        return self.screen.pull(z, 2 * moved / self.norm, weight) + bend
