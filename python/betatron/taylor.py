"""Power series of the map of a line: matrices of higher order, chromaticity, amplitude detuning."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from betatron import _core
from betatron._checks import number
from betatron.beam import check_reference
from betatron.elements import TaylorMap

if TYPE_CHECKING:
    from betatron.beam import Reference
    from betatron.line import Line

S = np.kron(np.eye(3), [[0.0, 1.0], [-1.0, 0.0]])


@lru_cache(maxsize=8)
def monomials(order: int) -> tuple[tuple[int, ...], ...]:
    """The monomials of degree <= order as ascending indices of the coordinates, in the order of the
    coefficients: () is 1, (0,) is x, (0, 1) is x px, (5, 5) is pt^2, ..."""

    def of_degree(n: int, first: int = 0) -> list[tuple[int, ...]]:
        if n == 0:
            return [()]
        return [(i, *rest) for i in range(first, 6) for rest in of_degree(n - 1, i)]

    return tuple(m for n in range(order + 1) for m in of_degree(n))


@lru_cache(maxsize=8)
def _products(order: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which two monomials make which third one, of those that are kept."""
    place = {m: i for i, m in enumerate(monomials(order))}
    rows = [
        (i, j, place[tuple(sorted(a + b))])
        for a, i in place.items()
        for b, j in place.items()
        if len(a) + len(b) <= order
    ]
    return tuple(np.array(column) for column in zip(*rows, strict=True))  # type: ignore[return-value]


class TaylorSeries:
    """The map of a line as power series, made by `Line.taylor_map`.

    With w = z - start and sums over all indices (T and U symmetric in the last ones, as in
    TRANSPORT and MAD-X),

        z_i(end) = orbit_i + R_ij w_j + T_ijk w_j w_k + U_ijkl w_j w_k w_l + ...

    Attributes
    ----------
    order
        Degree of the polynomials, 1 to 4.
    start
        The particle around which the series are taken, shape (6,): x, px, y, py, t, pt.
    coefficients
        Shape (6, n), n = 7, 28, 84, 210: by degree, within a degree by ascending indices: of 1;
        x, px, ... pt; x^2, x px, ... pt^2; x^3, ... (`monomials` lists them). T_ijk is the
        coefficient over the number of orders in which its indices can stand.
    length
        Path length of the reference orbit [m].
    momentum_ratio
        Momentum of the reference particle in front over that behind: 1 without acceleration.
    """

    def __init__(
        self,
        coefficients: np.ndarray,
        start: np.ndarray,
        length: float = 0.0,
        momentum_ratio: float = 1.0,
    ) -> None:
        self.coefficients = np.array(coefficients, dtype=np.float64)
        self.start = np.array(start, dtype=np.float64)
        self.length, self.momentum_ratio = float(length), float(momentum_ratio)
        sizes = {(6, len(monomials(n))): n for n in (1, 2, 3, 4)}
        if self.coefficients.shape not in sizes:
            raise ValueError(
                f"TaylorSeries: coefficients of shape {self.coefficients.shape}; "
                f"allowed: {', '.join(map(str, sizes))}"
            )
        if self.start.shape != (6,):
            raise ValueError(f"TaylorSeries: start of shape {self.start.shape}; allowed: (6,)")
        self.order = sizes[self.coefficients.shape]

    def __repr__(self) -> str:
        return f"TaylorSeries(order={self.order}, length={self.length:.6g} m)"

    @property
    def orbit(self) -> np.ndarray:
        """Where the particle `start` ends, shape (6,)."""
        return self.coefficients[:, 0].copy()

    @property
    def R(self) -> np.ndarray:
        """First derivatives, shape (6, 6)."""
        return self._tensor(1)

    @property
    def T(self) -> np.ndarray:
        """Half the second derivatives, shape (6, 6, 6), symmetric in the last two indices."""
        return self._tensor(2)

    @property
    def U(self) -> np.ndarray:
        """A sixth of the third derivatives, shape (6, 6, 6, 6), symmetric in the last three."""
        return self._tensor(3)

    def _tensor(self, degree: int) -> np.ndarray:
        from itertools import permutations

        if degree > self.order:
            raise ValueError(f"the series is of order {self.order}, not {degree} or more")
        tensor = np.zeros((6,) * (degree + 1))
        for column, indices in enumerate(monomials(self.order)):
            if len(indices) == degree:
                places = set(permutations(indices))
                for place in places:
                    tensor[(slice(None), *place)] = self.coefficients[:, column] / len(places)
        return tensor

    def evaluate(self, z: np.ndarray) -> np.ndarray:
        """Coordinates behind, of particles z in front, shape (6,) or (6, n)."""
        w = np.asarray(z, dtype=np.float64)
        if w.ndim not in (1, 2) or w.shape[0] != 6:
            raise ValueError(f"evaluate: coordinates of shape {w.shape}; allowed: (6,) and (6, n)")
        w = (w.T - self.start).T
        values = np.empty((self.coefficients.shape[1], *w.shape[1:]))
        place = {}
        for i, indices in enumerate(monomials(self.order)):
            values[i] = values[place[indices[:-1]]] * w[indices[-1]] if indices else 1.0
            place[indices] = i
        return self.coefficients @ values

    __call__ = evaluate

    def jacobian(self, z: np.ndarray | None = None) -> np.ndarray:
        """Derivative at a particle z (default: `start`), shape (6, 6)."""
        w = np.zeros(6) if z is None else np.asarray(z, dtype=np.float64) - self.start
        matrix = np.zeros((6, 6))
        for column, indices in enumerate(monomials(self.order)):
            for n, i in enumerate(indices):
                others = indices[:n] + indices[n + 1 :]
                matrix[:, i] += self.coefficients[:, column] * np.prod(w[list(others)])
        return matrix

    def symplectic_error(self, z: np.ndarray | None = None) -> float:
        """Largest entry of J^T S J - S p_in/p_out at a particle z (default: `start`, where it is
        rounding; elsewhere it grows with the power `order` of the distance)."""
        j = self.jacobian(z)
        return float(np.max(np.abs(j.T @ S @ j - self.momentum_ratio * S)))

    def compose(self, first: TaylorSeries) -> TaylorSeries:
        """This map behind `first`, to the lower order of the two.

        It is the map of both lines to that order if this one was taken around the particle in which
        ``first`` ends (``first.orbit``); otherwise what was cut off here is missing there.
        """
        if not isinstance(first, TaylorSeries):
            raise TypeError(f"compose: a TaylorSeries is needed, got {type(first).__name__}")
        order = min(self.order, first.order)
        n = len(monomials(order))
        a, b, product = _products(order)
        inner = first.coefficients[:, :n].copy()
        inner[:, 0] -= self.start
        powers = np.zeros((len(monomials(self.order)), n))
        place = {}
        for i, indices in enumerate(monomials(self.order)):
            if indices:
                last = inner[indices[-1]]
                weights = powers[place[indices[:-1]]][a] * last[b]
                powers[i] = np.bincount(product, weights=weights, minlength=n)
            else:
                powers[i, 0] = 1.0
            place[indices] = i
        return TaylorSeries(
            self.coefficients @ powers,
            first.start,
            self.length + first.length,
            self.momentum_ratio * first.momentum_ratio,
        )

    def to_element(self, name: str = "", **common: Any) -> TaylorMap:
        """A `TaylorMap` element with these polynomials.

        Raises
        ------
        ValueError
            For order 4, and for a line that accelerates the reference particle: an element with a
            given map does not.
        """
        if self.order > 3:
            raise ValueError(f"to_element: order {self.order}; allowed: 1, 2, 3")
        if abs(self.momentum_ratio - 1) > 1e-14:
            raise ValueError(
                "to_element: the line changes the momentum of the reference particle by a factor "
                f"{1 / self.momentum_ratio:.9g}; a TaylorMap element keeps it"
            )
        return TaylorMap(
            coefficients=self.coefficients,
            centre=self.start,
            length=self.length,
            name=name,
            **common,
        )


@dataclass(frozen=True)
class Chromaticity:
    """How tunes and orbit of a periodic line change with the momentum, delta = (p - p0)/p0.

    tunes
        Fractional tunes in [0, 1), shape (2,): of the mode that is mostly horizontal, the other.
    first, second
        dQ/d delta and d^2Q/d delta^2, shape (2,).
    dispersion, second_dispersion
        First and second derivatives of the closed orbit (x, px, y, py) by delta [m, 1], shape (4,).
    orbit
        The closed orbit at the momentum of the reference, shape (6,).
    """

    tunes: np.ndarray
    first: np.ndarray
    second: np.ndarray
    dispersion: np.ndarray
    second_dispersion: np.ndarray
    orbit: np.ndarray


def particle_of(where: str, reference: Any, start: Any) -> list[float]:
    """The six coordinates of a particle, by default that on the reference orbit; checks the reference too."""
    check_reference(reference, where)
    try:
        begin = np.zeros(6) if start is None else np.asarray(start, dtype=np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"{where}: a particle must be six numbers, got {start!r}") from None
    if begin.shape != (6,) or not np.all(np.isfinite(begin)):
        raise ValueError(
            f"{where}: a particle must be six finite numbers (x, px, y, py, t, pt), got {start!r}"
        )
    return begin.tolist()


def check_inside(where: str, start: Any, *results: Any, of: str = "a map") -> None:
    """Raises ValueError where a particle has left the domain of the maps, and results are not finite."""
    if not all(np.all(np.isfinite(r)) for r in results):
        raise ValueError(
            f"{where}: the particle {[float(v) for v in start]} leaves the domain of {of} (px^2 + py^2 "
            "above p^2, or it turns back); in tracking it would be lost"
        )


def pt_at_rest(reference: Reference) -> float:
    """That of a particle without kinetic energy: all others have less."""
    return reference.gamma_minus_1 / reference.beta_gamma


def expand(
    line: Line, reference: Reference, order: int, start: np.ndarray | None = None
) -> TaylorSeries:
    """See `Line.taylor_map`."""
    if isinstance(order, bool) or not isinstance(order, (int, np.integer)):
        raise TypeError(f"order must be a whole number from 1 to 4, got {order!r}")
    begin = particle_of("taylor_map", reference, start)
    coefficients, behind = _core.Line.expand(line, reference, int(order), begin)
    check_inside("taylor_map", begin, coefficients)
    return TaylorSeries(
        coefficients,
        np.array(begin),
        behind.s - reference.s,
        reference.beta_gamma / behind.beta_gamma,
    )


def _varies_in_time(matrix: np.ndarray) -> bool:
    """Whether anything but t depends on t, or pt on anything but pt: beyond rounding, which a cavity of
    voltage 0 has."""
    kept = np.abs(matrix[5] - [0, 0, 0, 0, 0, 1]) < 1e-12
    return bool(np.any(matrix[[0, 1, 2, 3, 5], 4] != 0) or not np.all(kept))


def closed_orbit(line: Line, reference: Reference, pt: float = 0.0) -> np.ndarray:
    """See `Line.closed_orbit`."""
    check_reference(reference, "closed_orbit")
    pt = number(pt, "closed_orbit: pt")
    at_rest = pt_at_rest(reference)
    if not -np.inf < pt < at_rest:
        raise ValueError(
            f"closed_orbit: pt = {pt:g} must be finite and < {at_rest:g}, where a particle is at rest"
        )
    z = np.array([0.0, 0.0, 0.0, 0.0, 0.0, pt])
    for _ in range(50):
        matrix, end, behind = line.derivative(reference, z.tolist())
        if abs(behind.beta_gamma / reference.beta_gamma - 1) > 1e-14:
            raise ValueError(
                "closed_orbit: the line changes the momentum of the reference particle"
            )
        if _varies_in_time(matrix):
            elements = [
                f"{e.kind}{f' {e.name!r}' if e.name else ''} at position {line.positions(e)[0]}"
                for e in line.elements
                if _varies_in_time(type(line)([e]).derivative(reference, z.tolist())[0])
            ]
            raise ValueError(
                f"closed_orbit: the line holds fields that vary in time: {', '.join(elements)}; the "
                "closed orbit at a given energy is that of a line without them (set their voltage "
                "to 0, or leave them out)"
            )
        try:
            step = np.linalg.solve(np.eye(4) - matrix[:4, :4], np.asarray(end)[:4] - z[:4])
        except np.linalg.LinAlgError:  # a drift, for example: any number of closed orbits, or none
            break
        if not np.all(np.isfinite(step)):
            break
        z[:4] += step
        if np.max(np.abs(step)) <= 1e-15 + 1e-14 * np.max(np.abs(z[:4])):
            return z
    raise ValueError(
        f"closed_orbit: Newton's method does not converge at pt = {pt:g}: the line has no closed "
        "orbit near the reference orbit, or a tune close to a whole number"
    )


def _modes(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Eigenvalues exp(2 pi i Q), right eigenvectors (columns), left ones (rows, left @ right = 1)
    of a stable 4x4 matrix: of the mode mostly in x, of the other, then their conjugates."""
    values, right = np.linalg.eig(matrix)
    if np.max(np.abs(np.abs(values) - 1)) > 1e-6 or np.min(np.abs(values.imag)) < 1e-12:
        raise ValueError(
            "the motion is not stable, or a tune is a multiple of 1/2: eigenvalues "
            + ", ".join(f"{v:.6g}" for v in values)
        )
    sense = np.einsum("ik,ij,jk->k", right.conj(), S[:4, :4], right).imag
    forward = [k for k in range(4) if sense[k] > 0]
    share = [np.sum(np.abs(right[:2, k]) ** 2) / np.sum(np.abs(right[:, k]) ** 2) for k in forward]
    if share[0] < share[1]:
        forward.reverse()
    # |v^dagger S v| = 2: then a coordinate is Re(w v) with |w|^2 = 2 J
    vectors = np.stack([right[:, k] / np.sqrt(sense[k] / 2) for k in forward], axis=1)
    right = np.concatenate([vectors, vectors.conj()], axis=1)
    values = np.concatenate([values[forward], values[forward].conj()])
    return values, right, np.linalg.inv(right)


def chromaticity(line: Line, reference: Reference) -> Chromaticity:
    """See `Line.chromaticity`."""
    orbit = closed_orbit(line, reference)
    series = expand(line, reference, 3, orbit)
    t, u = series.T, series.U
    matrix = series.R[:4, :4]
    values, right, left = _modes(matrix)

    # the closed orbit and the matrix on it, as series in pt
    first = np.zeros(6)
    first[5] = 1.0
    first[:4] = np.linalg.solve(np.eye(4) - matrix, series.R[:4, 5])
    second = np.zeros(6)
    second[:4] = np.linalg.solve(np.eye(4) - matrix, np.einsum("ijk,j,k->i", t, first, first)[:4])
    slope = 2 * np.einsum("ijk,k->ij", t, first)[:4, :4]
    bend = 2 * np.einsum("ijk,k->ij", t, second) + 3 * np.einsum("ijkl,k,l->ij", u, first, first)

    # perturbation of the eigenvalues: lambda (1 + a pt + b pt^2)
    a1, a2 = left @ slope @ right, left @ bend[:4, :4] @ right
    dq, ddq = np.empty(2), np.empty(2)
    for n in range(2):
        others = [m for m in range(4) if m != n]
        if abs(values[0] - values[1]) < 1e-9:
            if abs(a1[0, 1] * a1[1, 0]) > 1e-18 * np.max(np.abs(a1)) ** 2:
                raise ValueError(
                    "chromaticity: both tunes are equal and the modes coupled: they have no "
                    f"derivatives by the energy; tunes {np.angle(values[:2]) / (2 * np.pi) % 1.0}"
                )
            others.remove(1 - n)
        mixing = sum(a1[n, m] * a1[m, n] / (values[n] - values[m]) for m in others)
        a, b = a1[n, n] / values[n], (a2[n, n] + mixing) / values[n]
        dq[n] = a.imag / (2 * np.pi)
        ddq[n] = 2 * (b - a * a / 2).imag / (2 * np.pi)

    # from pt to delta: 1 + delta = sqrt(1 - 2 pt/beta + pt^2)
    rate, curve = -1 / reference.beta, -1 / reference.beta_gamma**2

    def by_delta(f1: np.ndarray, f2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return f1 / rate, (f2 - f1 / rate * curve) / rate**2

    return Chromaticity(
        np.angle(values[:2]) / (2 * np.pi) % 1.0,
        *by_delta(dq, ddq),
        *by_delta(first[:4], 2 * second[:4]),
        orbit,
    )


def amplitude_detuning(line: Line, reference: Reference) -> np.ndarray:
    """See `Line.amplitude_detuning`."""
    series = expand(line, reference, 3, closed_orbit(line, reference))
    values, right, left = _modes(series.R[:4, :4])
    # the map in the complex amplitudes w: coordinates are sum_k v_k w_k / 2 over both senses, so
    # that w_k -> lambda_k w_k + quadratic + cubic, with |w|^2 = 2 J
    half = right / 2
    quadratic = np.einsum("ai,ijk,jb,kc->abc", 2 * left, series.T[:4, :4, :4], half, half)
    cubic = np.einsum(
        "ai,ijkl,jb,kc,ld->abcd", 2 * left, series.U[:4, :4, :4, :4], half, half, half
    )
    # the near-identity change of variables f that removes the quadratic part,
    #   lambda f(w) + quadratic(w) = f(lambda w),
    # leaves the cubic part, cubic + 2 quadratic(w, f(w))
    pairs = values[:, None] * values[None, :]
    distance = pairs[None] - values[:, None, None]
    if np.min(np.abs(distance)) < 1e-9:
        raise ValueError("amplitude_detuning: the tunes are on a resonance of third order")
    change = quadratic / distance
    cubic = cubic + 2 * np.einsum("abe,ecd->abcd", quadratic, change)
    detuning = np.empty((2, 2))
    for n in range(2):
        for m in range(2):  # all orders of w_n w_m conj(w_m)
            places = {(n, m, m + 2), (n, m + 2, m), (m, n, m + 2), (m, m + 2, n), (m + 2, n, m),
                      (m + 2, m, n)}  # fmt: skip
            total = sum(cubic[(n, *place)] for place in places)
            detuning[n, m] = 2 * (total / values[n]).imag / (2 * np.pi)
    return detuning
