"""Optics along a line: beta functions, phases and dispersion, of a ring or from given values.

A place of a line has six vectors, the columns of `Optics.basis`: real and imaginary part of the
eigenvector of each transverse mode, and two that carry t and pt. They go through the matrices of the
elements around the orbit; all functions are read off them. Sources: E. D. Courant, H. S. Snyder, Ann.
Phys. 3 (1958) 1; F. Willeke, G. Ripken, DESY 88-114 (1988); V. A. Lebedev, S. A. Bogacz, JINST 5 (2010)
P10010.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from betatron import _core
from betatron._checks import number, whole
from betatron._constants import SPEED_OF_LIGHT
from betatron.beam import Reference, check_reference
from betatron.elements import Element, LinearMap, Programmable, TaylorMap
from betatron.plot import TwissPlots
from betatron.taylor import S, _modes, check_inside, chromaticity, closed_orbit, pt_at_rest

if TYPE_CHECKING:
    from betatron.line import Line
    from betatron.taylor import Chromaticity

_COORDINATES = ("x", "px", "y", "py", "t", "pt")
_DISPERSION = ("dispersion_x", "dispersion_px", "dispersion_y", "dispersion_py")


@dataclass(frozen=True, eq=False)
class Optics:
    """The optics at one place: where `Line.twiss` starts, and a row of what it gives.

    Made by `from_twiss`, or taken from a result: ``twiss[0]`` at the start, ``twiss["q1"]`` behind an
    element.

    Attributes
    ----------
    reference
        The reference particle there.
    basis
        Shape (6, 6), symplectic. Columns 0 and 1 are the real and imaginary part of the eigenvector of
        mode 1, columns 2 and 3 those of mode 2: beta_x = basis[0, 0]^2 + basis[0, 1]^2. Columns 4 and 5
        span what t and pt do to the orbit.
    orbit
        Coordinates of the particle that the optics are those around, shape (6,).
    phases
        mu_x and mu_y [2 pi] so far, shape (2,).
    """

    reference: Reference
    basis: np.ndarray
    orbit: np.ndarray
    phases: np.ndarray

    def __post_init__(self) -> None:
        check_reference(self.reference, "Optics")
        for name, shape in (("basis", (6, 6)), ("orbit", (6,)), ("phases", (2,))):
            values = np.array(getattr(self, name), dtype=np.float64)
            if values.shape != shape or not np.all(np.isfinite(values)):
                raise ValueError(f"Optics: {name} must be finite numbers of shape {shape}")
            values.setflags(write=False)
            object.__setattr__(self, name, values)

    @classmethod
    def from_twiss(
        cls,
        reference: Reference,
        *,
        beta_x: float,
        alpha_x: float = 0.0,
        beta_y: float,
        alpha_y: float = 0.0,
        dispersion_x: float = 0.0,
        dispersion_px: float = 0.0,
        dispersion_y: float = 0.0,
        dispersion_py: float = 0.0,
        mu_x: float = 0.0,
        mu_y: float = 0.0,
        x: float = 0.0,
        px: float = 0.0,
        y: float = 0.0,
        py: float = 0.0,
        t: float = 0.0,
        pt: float = 0.0,
    ) -> Optics:
        """Of uncoupled planes.

        Parameters
        ----------
        reference
            The reference particle at the start.
        beta_x, beta_y
            [m], > 0.
        alpha_x, alpha_y
            Finite.
        dispersion_x, dispersion_px, dispersion_y, dispersion_py
            Derivatives of the orbit by delta = (p - p0)/p0 [m, 1, m, 1]. `Gaussian.from_twiss` has them by
            -pt, which is beta_0 delta to first order.
        mu_x, mu_y
            Phases [2 pi] from which those of the line are counted on.
        x, px, y, py, t, pt
            The orbit.

        Raises
        ------
        TypeError, ValueError
            Naming the parameter, its value and what is allowed.
        """
        check_reference(reference, "Optics.from_twiss")
        given = {
            name: value for name, value in locals().items() if name not in ("cls", "reference")
        }
        values = {name: number(v, f"Optics.from_twiss: {name}") for name, v in given.items()}
        for name, value in values.items():
            if not math.isfinite(value) or (name.startswith("beta") and value <= 0):
                allowed = "> 0" if name.startswith("beta") else "finite"
                raise ValueError(f"Optics.from_twiss: {name} = {value}; allowed: {allowed}")
        orbit = np.array([values[name] for name in _COORDINATES])
        at_rest = pt_at_rest(reference)
        if orbit[5] >= at_rest:
            raise ValueError(
                f"Optics.from_twiss: pt = {pt:g}; allowed: < {at_rest:.6g}, where a particle is at rest"
            )
        vectors = np.zeros((4, 4))
        for k, plane in enumerate("xy"):
            beta, alpha = values[f"beta_{plane}"], values[f"alpha_{plane}"]
            vectors[2 * k : 2 * k + 2, 2 * k : 2 * k + 2] = _normal_form(beta, alpha)
        by_delta = np.array([values[name] for name in _DISPERSION])
        basis = _basis(vectors, by_delta * _delta_by_pt(reference.beta, orbit[5]))
        return cls(reference, basis, orbit, np.array([values["mu_x"], values["mu_y"]]))

    @property
    def functions(self) -> dict[str, float]:
        """All functions there by the names of the columns of `Twiss.table`."""
        columns = _functions(
            self.basis[None], self.orbit[None], self.phases[None], np.array([self.reference.beta])
        )
        return {name: float(column[0]) for name, column in columns.items()}

    def covariance(
        self,
        emittance_1: float,
        emittance_2: float,
        sigma_t: float = 0.0,
        sigma_pt: float = 0.0,
    ) -> np.ndarray:
        """Covariance matrix of a beam matched to the optics, shape (6, 6).

        For ``bt.Gaussian.from_covariance(twiss[0].covariance(...), mean=twiss[0].orbit)``, any other
        shape, and `Line.envelope`. In a ring without cavities it comes back after every turn, but for
        the length of the bunch; its eigenemittances are those given and sigma_t sigma_pt.

        Parameters
        ----------
        emittance_1, emittance_2
            Of both modes, geometric, rms [m rad], >= 0; of uncoupled lines those in x and in y, without
            what dispersion adds.
        sigma_t, sigma_pt
            Length [m] and energy spread of the bunch, >= 0, which are not correlated.

        Raises
        ------
        TypeError, ValueError
            Naming the parameter, its value and what is allowed.
        """
        given = {
            "emittance_1": emittance_1,
            "emittance_2": emittance_2,
            "sigma_t": sigma_t,
            "sigma_pt": sigma_pt,
        }
        e1, e2, st, spt = (number(v, f"covariance: {name}") for name, v in given.items())
        for name, value in zip(given, (e1, e2, st, spt), strict=True):
            if not 0 <= value < math.inf:
                raise ValueError(f"covariance: {name} = {value}; allowed: finite and >= 0")
        vectors = np.hstack([self.basis[:, :4], _by_t_and_pt(self.basis)])
        return vectors @ np.diag([e1, e1, e2, e2, st**2, spt**2]) @ vectors.T


class Twiss:
    """Optics along a line, made by `Line.twiss`.

    Attributes
    ----------
    line, periodic
        What was asked for; periodic: a ring, not from given values.
    table
        One row for the start and one behind each element:

        - ``name``, ``kind``, ``s`` [m];
        - the orbit, ``x``, ``px``, ``y``, ``py``, ``t``, ``pt``;
        - ``beta_x`` [m], ``alpha_x``, ``gamma_x`` [1/m] of mode 1 in x, and the same of mode 2 in y;
        - ``mu_x``, ``mu_y``: phases of mode 1 in x and of mode 2 in y [2 pi], with whole oscillations;
        - ``dispersion_x`` [m], ``dispersion_px``, ``dispersion_y`` [m], ``dispersion_py``: derivatives of
          the orbit by delta = (p - p0)/p0, at the same t;
        - ``beta_1y`` [m], ``alpha_1y`` of mode 1 in y, ``beta_2x``, ``alpha_2x`` of mode 2 in x, 0 in
          uncoupled lines; by how much x is ahead of y in mode 1, ``nu_1``, and y of x in mode 2,
          ``nu_2`` [rad]; ``u``, the part of each mode in the other plane (beta_x gamma_x = (1 - u)^2 +
          alpha_x^2);
        - ``gamma`` of the reference particle.

    Sizes are those of geometric emittances: <x^2> = emittance_1 beta_x + emittance_2 beta_2x +
    (dispersion_x sigma_delta)^2. Momenta are canonical, also in alpha; inside solenoids that is with the
    vector potential.
    """

    def __init__(
        self,
        line: Line,
        periodic: bool,
        references: list[Reference],
        basis: np.ndarray,
        orbit: np.ndarray,
        phases: np.ndarray,
        matrix: np.ndarray,
    ) -> None:
        self.line, self.periodic = line, periodic
        self._references, self._matrix = references, matrix
        self._basis, self._orbit, self._phases = basis, orbit, phases
        labels = [("start", "")] + [(e.name, e.kind) for e in line]
        columns: dict[str, object] = {
            "name": [name for name, _ in labels],
            "kind": [kind for _, kind in labels],
            "s": [reference.s for reference in references],
        }
        beta = np.array([reference.beta for reference in references])
        columns |= _functions(basis, orbit, phases, beta)
        columns["gamma"] = [reference.gamma for reference in references]
        self.table = pd.DataFrame(columns)

    def __repr__(self) -> str:
        if not self.periodic:
            return f"Twiss: from given values, {len(self.line)} elements, {self.length:.6g} m"
        return (
            f"Twiss: {len(self.line)} elements, {self.length:.6g} m, tunes {self.tunes[0]:.6g}, "
            f"{self.tunes[1]:.6g}, momentum compaction {self.momentum_compaction:.6g}"
        )

    def __len__(self) -> int:
        return len(self._references)

    def __getitem__(self, place: int | str | Element) -> Optics:
        """The optics of a row of the table: 0 is the start, -1 the end; or behind an element, which
        stands once in the line, or its name."""
        if isinstance(place, (str, Element)):
            positions = self.line._matches(place, "twiss[...]")
            if len(positions) > 1:
                raise KeyError(
                    f"twiss[...]: {place!r} is at positions {positions}; use twiss[position + 1]"
                )
            place = positions[0] + 1
        row = whole(place, "twiss[row]", minimum=None)
        if not -len(self) <= row < len(self):
            raise IndexError(f"row {row} of {len(self)} rows")
        return Optics(
            self._references[row].copy(), self._basis[row], self._orbit[row], self._phases[row]
        )

    @property
    def plot(self) -> TwissPlots:
        """Pictures of the functions; see `betatron.plot.TwissPlots`."""
        return TwissPlots(self)

    @property
    def length(self) -> float:
        """Path length of the reference orbit [m]."""
        return self._references[-1].s - self._references[0].s

    @property
    def matrix(self) -> np.ndarray:
        """Derivative of the map of the line around the orbit, shape (6, 6)."""
        return self._matrix.copy()

    @property
    def tunes(self) -> np.ndarray:
        """Tunes with their whole parts, of modes 1 and 2, shape (2,)."""
        self._of_rings("tunes")
        return self._phases[-1] - self._phases[0]

    @property
    def chromaticity(self) -> Chromaticity:
        """See `Line.chromaticity`; around pt = 0, of the line as it is when this is asked for."""
        self._of_rings("chromaticity")
        if (pt := self._orbit[0, 5]) != 0:
            raise ValueError(f"chromaticity: it is known around pt = 0, and this is pt = {pt:g}")
        return chromaticity(self.line, self._references[0])

    @property
    def revolution_time(self) -> float:
        """Of the particle on the closed orbit [s]."""
        self._of_rings("revolution_time")
        path = self.length / self._references[0].beta + self._orbit[-1, 4] - self._orbit[0, 4]
        return float(path) / SPEED_OF_LIGHT

    @property
    def slip_factor(self) -> float:
        """(dT/T)/(dp/p) of the time of revolution T: momentum compaction - 1/gamma^2."""
        path = self.revolution_time * SPEED_OF_LIGHT
        by_pt = self._matrix[4, :4] @ _by_t_and_pt(self._basis[0])[:4, 1] + self._matrix[4, 5]
        pt, beta = self._orbit[0, 5], self._references[0].beta
        return float(by_pt / path / _delta_by_pt(beta, pt) * (1 + _delta(beta, pt)))

    @property
    def momentum_compaction(self) -> float:
        """(dC/C)/(dp/p) of the length C of the closed orbit."""
        reference, pt = self._references[0], self._orbit[0, 5]
        return self.slip_factor + 1 / (reference.gamma - reference.beta_gamma * pt) ** 2

    @property
    def gamma_transition(self) -> float:
        """1/sqrt(momentum compaction); NaN if that is not above 0: no transition."""
        compaction = self.momentum_compaction
        return 1 / math.sqrt(compaction) if compaction > 0 else math.nan

    def _of_rings(self, what: str) -> None:
        if not self.periodic:
            raise ValueError(f"{what}: known for rings, Line.twiss without start")


def twiss(line: Line, reference: Reference, start: Optics | None = None, pt: float = 0.0) -> Twiss:
    """See `Line.twiss`."""
    check_reference(reference, "twiss")
    pt = number(pt, "twiss: pt")
    reference = reference.copy()  # users may change theirs
    if start is None:
        orbit = closed_orbit(line, reference, pt)
        around = line.derivative(reference, orbit.tolist())[0]
        return _follow(line, Optics(reference, _periodic_basis(around), orbit, np.zeros(2)), True)
    if not isinstance(start, Optics):
        raise TypeError(
            f"twiss: start must be a betatron.Optics, as Optics.from_twiss(...) or a row of another "
            f"result, got {type(start).__name__} {start!r}"
        )
    if pt != 0:
        raise ValueError(f"twiss: pt = {pt:g} is for rings; with a start it is that of its orbit")
    of = start.reference
    if of.species != reference.species or not math.isclose(
        of.beta_gamma, reference.beta_gamma, rel_tol=1e-9
    ):
        raise ValueError(f"twiss: start is for {of!r}, and the reference is {reference!r}")
    return _follow(line, Optics(reference, start.basis, start.orbit, start.phases), False)


def _follow(line: Line, start: Optics, periodic: bool) -> Twiss:
    """The optics behind every element."""
    references, bases, orbits, matrix = [start.reference], [start.basis], [start.orbit], np.eye(6)
    for place, e in enumerate(line):
        front, orbit = references[-1], orbits[-1].tolist()
        part, end, behind = _core.Line([e], "").derivative(front, orbit)
        # momenta are over p0: with them the matrix is symplectic up to the ratio of both
        basis = part @ bases[-1] * math.sqrt(behind.beta_gamma / front.beta_gamma)
        of = f"the map of {e.kind} {e.name!r} at position {place}"
        check_inside("twiss", orbit, basis, end, of=of)
        references.append(behind)
        bases.append(basis)
        orbits.append(np.array(end))
        matrix = part @ matrix
    basis, orbit = np.array(bases), np.array(orbits)
    advance = _phase_advances(line, references, basis, orbit) / (2 * np.pi)
    phases = start.phases + np.cumsum(np.concatenate([np.zeros((1, 2)), advance]), axis=0)
    return Twiss(line, periodic, references, basis, orbit, phases, matrix)


# --- functions ------------------------------------------------------------------------------------


def _normal_form(beta: float, alpha: float) -> np.ndarray:
    """Real and imaginary part of the eigenvector of a plane, as columns."""
    return np.array([[math.sqrt(beta), 0.0], [-alpha / math.sqrt(beta), 1 / math.sqrt(beta)]])


def _basis(vectors: np.ndarray, by_pt: np.ndarray) -> np.ndarray:
    """From the transverse vectors, shape (4, 4), and the derivatives of the orbit by pt, shape (4,)."""
    basis = np.zeros((6, 6))
    basis[:4, :4] = vectors
    basis[4, :4] = -vectors.T @ S[:4, :4] @ by_pt  # what makes them symplectic
    basis[4, 4] = basis[5, 5] = 1.0
    basis[:4, 5] = by_pt
    return basis


def _modes_of(basis: np.ndarray) -> np.ndarray:
    """The eigenvectors of both modes, shape (..., 6, 2)."""
    return basis[..., 0:4:2] + 1j * basis[..., 1:4:2]


def _by_t_and_pt(basis: np.ndarray) -> np.ndarray:
    """Derivatives of the orbit by t and by pt, of its last columns, shape (..., 6, 2)."""
    return basis[..., :, 4:] @ np.linalg.inv(basis[..., 4:, 4:])


def _delta(beta: np.ndarray | float, pt: np.ndarray | float) -> np.ndarray | float:
    return np.sqrt(1 - 2 * pt / beta + pt**2) - 1


def _delta_by_pt(beta: np.ndarray | float, pt: np.ndarray | float) -> np.ndarray | float:
    return (pt - 1 / beta) / (1 + _delta(beta, pt))


def _functions(
    basis: np.ndarray, orbit: np.ndarray, phases: np.ndarray, beta: np.ndarray
) -> dict[str, np.ndarray]:
    """The columns of the table, from those of n places and beta of their references."""
    columns = {name: orbit[:, i] for i, name in enumerate(_COORDINATES)}
    modes = _modes_of(basis)
    area = {}
    for mode, other, plane in ((0, 1, "x"), (1, 0, "y")):
        q, p = modes[:, 2 * mode, mode], modes[:, 2 * mode + 1, mode]
        columns |= {f"beta_{plane}": np.abs(q) ** 2, f"alpha_{plane}": -(q.conj() * p).real}
        columns |= {f"gamma_{plane}": np.abs(p) ** 2, f"mu_{plane}": phases[:, mode]}
        area[mode] = (modes[:, 2 * other].conj() * modes[:, 2 * other + 1])[:, mode]
    by_pt = _by_t_and_pt(basis)[:, :4, 1] / _delta_by_pt(beta, orbit[:, 5])[:, None]
    columns |= {name: by_pt[:, i] + 0.0 for i, name in enumerate(_DISPERSION)}  # no -0
    for mode, other, name in ((0, 1, "1y"), (1, 0, "2x")):
        columns[f"beta_{name}"] = np.abs(modes[:, 2 * other, mode]) ** 2
        columns[f"alpha_{name}"] = -area[mode].real + 0.0
    for mode, other in ((0, 1), (1, 0)):
        # the angle of a vector that is 0 is 0
        product = modes[:, 2 * mode, mode] * modes[:, 2 * other, mode].conj()
        columns[f"nu_{mode + 1}"] = np.where(product == 0, 0.0, np.angle(product))
    columns["u"] = area[0].imag
    return columns


def _periodic_basis(matrix: np.ndarray) -> np.ndarray:
    """That of the modes of a ring, from its matrix around the closed orbit."""
    m = matrix[:4, :4]
    by_pt = np.linalg.solve(np.eye(4) - m, matrix[:4, 5])
    if max(np.max(np.abs(m[:2, 2:])), np.max(np.abs(m[2:, :2]))) > 1e-12 * np.max(np.abs(m)):
        right = _modes(m)[1]
        # mode 1 has its phase 0 in x, mode 2 in y
        right = right[:, :2] * np.exp(-1j * np.angle(right[[0, 2], [0, 1]]))
        vectors = np.stack(
            [right[:, 0].real, right[:, 0].imag, right[:, 1].real, right[:, 1].imag], 1
        )
        return _basis(vectors, by_pt)
    vectors = np.zeros((4, 4))  # of planes, also where both have the same tune
    for k, plane in enumerate("xy"):
        (a, b), (c, d) = m[2 * k : 2 * k + 2, 2 * k : 2 * k + 2]
        square = -b * c - 0.25 * (a - d) ** 2
        if not (square > 1e-24 and b != 0):
            raise ValueError(
                f"twiss: the motion in {plane} is not stable, or its tune a multiple of 1/2: half the "
                f"trace of its matrix is {0.5 * (a + d):.9g}; allowed: > -1 and < 1"
            )
        sine = math.copysign(math.sqrt(square), b)
        vectors[2 * k : 2 * k + 2, 2 * k : 2 * k + 2] = _normal_form(b / sine, (a - d) / (2 * sine))
    return _basis(vectors, by_pt)


# --- phases ---------------------------------------------------------------------------------------


def _phase_advances(
    line: Line, references: list[Reference], basis: np.ndarray, orbit: np.ndarray
) -> np.ndarray:
    """Of both modes through each element [rad], shape (n, 2)."""
    modes = _modes_of(basis)
    advances = _between(modes)
    for place, e in enumerate(line):
        length = e.parameters().get("length", 0.0)
        if length == 0 or e.kind == "Drift":
            continue  # along a straight line, less than half a turn is seen
        if isinstance(e, (LinearMap, TaylorMap, Programmable)):  # cannot be cut
            forward = math.copysign(1.0, length)
            advances[place] += 2 * np.pi * forward * (forward * advances[place] < -1e-9)
            continue
        count, inside = 4 * e.slices, None
        while inside is None:
            inside = _through_pieces(
                line, place, count, references[place], orbit[place], modes[place], length
            )
            count *= 2
        advances[place] += 2 * np.pi * np.round((inside - advances[place]) / (2 * np.pi))
    return advances


def _between(modes: np.ndarray) -> np.ndarray:
    """How far the phases of modes of shape (n, 6, 2) come from each to the next, within half a turn.

    Phases are those in the plane of the mode, or in the other one where the mode is not in its own:
    between rotations of the frame by pi/2. There they jump by 0 or pi, and by as much back.
    """
    own, other = modes[:, [0, 2], [0, 1]], modes[:, [2, 0], [0, 1]]
    turned = np.abs(own) < 1e-6 * np.abs(other)
    advance = np.diff(np.angle(np.where(turned, other, own)), axis=0)
    middle = 0.5 * np.pi * np.diff(turned.astype(float), axis=0)
    return advance - 2 * np.pi * np.round((advance - middle) / (2 * np.pi))


def _through_pieces(
    line: Line,
    place: int,
    count: int,
    reference: Reference,
    orbit: np.ndarray,
    modes: np.ndarray,
    length: float,
) -> np.ndarray | None:
    """Phase advances through an element, added up over pieces; None if half an oscillation may be in one.

    Through a piece of length l with focusing k, positions follow from momenta by l sin(phi)/phi, phi =
    sqrt(k) l. In the determinant of both planes over their size that is above l/4 for phi < 2.2 and for no
    phi > pi.
    """
    here, passed = orbit.tolist(), [modes]
    for index in range(count):
        part, here, reference = line.piece_derivative(place, index, count, reference, here)
        (a, b), (c, d) = part[0:4:2, 1:4:2].tolist()
        size = math.sqrt(a * a + b * b + c * c + d * d)  # 0: a kick that stands for a length
        if abs(a * d - b * c) < 0.25 * abs(length) / count * size and count < 2**13:
            return None
        passed.append(part @ passed[-1])
    return _between(np.array(passed)).sum(axis=0)
