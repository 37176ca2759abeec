"""Hessian-vector products: closed forms of linear lines, symmetry elsewhere, and errors of
differences that are what they
are said to be. See also test_exact_second_derivatives.py."""

from __future__ import annotations

import betatron as bt
import numpy as np
import pytest
from betatron import losses

expm = pytest.importorskip("scipy.linalg").expm
REF = bt.Reference("electron", kinetic_energy=100e6)
COORDINATES = ("x", "px", "y", "py", "t", "pt")


def beam_of(z: np.ndarray, precision: str = "double") -> bt.Beam:
    beam = bt.Beam.from_arrays(REF, **dict(zip(COORDINATES, z, strict=True)))
    return beam if precision == "double" else beam.copy(precision=precision)


# --- quadratic losses of linear lines, as polynomials of degree 2 along a direction -------------------


def times(a: list, b: list) -> list:
    return [sum(a[i] @ b[n - i] for i in range(n + 1)) for n in range(3)]


def exponential(a: list) -> list:
    """Of a0 + e a1 + e^2 a2: the first row of that of the block Toeplitz matrix."""
    n, zero = len(a[0]), np.zeros_like(a[0])
    e = expm(np.block([[a[0], a[1], a[2]], [zero, a[0], a[1]], [zero, zero, a[0]]]))
    return [e[:n, i * n : (i + 1) * n] for i in range(3)]


def generator(k1: float, drift: float = 1.0) -> np.ndarray:
    """Of x'' = -k1 x, y'' = k1 y."""
    a = np.zeros((4, 4))
    a[0, 1] = a[2, 3] = drift
    a[1, 0], a[3, 2] = -k1, k1
    return a


class Quadratic:
    """A random line of quadrupoles and drifts, a beam, and the loss mean.A.mean + tr(B cov)."""

    def __init__(self, seed: int, quadrupoles: int, lengths: bool, strength: float = 8.0) -> None:
        rng = np.random.default_rng(seed)
        elements, self.knobs = [], []
        for i in range(quadrupoles):
            k1 = rng.uniform(-strength, strength)
            q = bt.Quadrupole(rng.uniform(0.05, 0.4), k1=k1, name=f"q{i}", model="linear")
            d = bt.Drift(rng.uniform(0.1, 1), name=f"d{i}", model="linear")
            elements += [q, d]
            self.knobs += [(q.name, "k1")]
            if lengths:
                self.knobs += [(q.name, "length"), (d.name, "length")]
        self.line = bt.Line(elements)
        self.z = 1e-3 * (rng.normal(size=(6, 200)) + rng.normal(size=(6, 1)))
        a, b = rng.normal(size=(2, 4, 4))
        self.a, self.b = a + a.T, b + b.T
        self.mean, self.cov = self.z[:4].mean(1), np.cov(self.z[:4], bias=True)
        self.direction = rng.normal(size=len(self.knobs))
        self.direction *= [0.1 if p == "length" else 1.0 for _, p in self.knobs]
        self.sizes = np.array([abs(getattr(self.line[e], p)) for e, p in self.knobs])

    def loss(self) -> losses.Loss:
        entries = [(i, j) for i in range(4) for j in range(4)]
        return losses.of_moments(
            lambda m: sum(
                self.a[i, j] * m.mean[i] * m.mean[j] + self.b[i, j] * m.cov[i, j]
                for i, j in entries
            )
        )

    def form(self, w: np.ndarray) -> float:
        """w . H w."""
        zero = np.zeros((4, 4))
        m = [np.eye(4), zero, zero]
        rates = dict(zip(self.knobs, w, strict=True))
        for e in self.line.elements:
            now, length = generator(getattr(e, "k1", 0.0)), e.length
            dk = generator(rates.get((e.name, "k1"), 0.0), 0)
            dl = rates.get((e.name, "length"), 0.0)
            m = times(exponential([now * length, dk * length + now * dl, dk * dl]), m)
        c = times(times(m, [self.cov, zero, zero]), [n.T for n in m])
        z = [n @ self.mean for n in m]
        return 2 * (2 * z[0] @ self.a @ z[2] + z[1] @ self.a @ z[1] + np.sum(self.b * c[2]))

    def along(self, i: int) -> float:
        """Entry i of H w, by polarisation."""
        w, unit = self.direction, np.zeros(len(self.knobs))
        unit[i] = np.abs(w).max()
        return (self.form(w + unit) - self.form(w - unit)) / (4 * unit[i])


@pytest.mark.parametrize("lengths", [False, True])
@pytest.mark.parametrize("quadrupoles", [1, 5, 20])
@pytest.mark.parametrize("seed", [1, 2])
def test_quadratic_losses(seed: int, quadrupoles: int, lengths: bool) -> None:
    """Also where the beam grows so much that it cannot be rewound accurately (20 random quadrupoles)."""
    case = Quadratic(seed, quadrupoles, lengths)
    arguments = (beam_of(case.z), case.loss(), case.knobs, case.direction)
    found = case.line.hessian_vector(*arguments, method="differences")
    best = case.line.hessian_vector(*arguments)
    some = np.unique(np.linspace(0, len(case.knobs) - 1, 3).astype(int))
    exact = np.array([case.along(i) for i in some])
    scale = np.abs(exact * case.sizes[some]).max()
    off = np.abs(found.values[some] - exact) * case.sizes[some]
    assert off.max() <= 2e-10 * scale
    assert np.max(np.abs(best.values[some] - exact) * case.sizes[some]) <= 2e-10 * scale
    assert best.method == "exact" or quadrupoles == 20
    # estimates are no promises, but of the right size
    assert off.max() <= 30 * np.max(found.error * case.sizes) + 1e-12 * scale
    assert np.max(found.error * case.sizes) <= 1e-8 * np.max(np.abs(found.values) * case.sizes)


def test_many_at_once() -> None:
    """A direction along all quadrupoles of a channel: together they change more than one does."""
    case = Quadratic(3, 1, False)
    elements: list = []
    for i in range(80):
        k1 = 4.0 if i % 2 == 0 else -4.0
        elements.append(bt.Quadrupole(0.1, k1=k1, name=f"q{i}", model="linear"))
        elements.append(bt.Drift(0.5, model="linear", name=f"d{i}"))
    case.line = bt.Line(elements)
    case.knobs = [(f"q{i}", "k1") for i in range(80)]
    case.direction = np.array([case.line[e].k1 for e, _ in case.knobs])
    for method in ("exact", "differences"):
        found = case.line.hessian_vector(
            beam_of(case.z), case.loss(), "k1", case.direction, method=method
        )
        assert found.values @ case.direction == pytest.approx(case.form(case.direction), rel=1e-9)
        assert found.gradients <= 10


def test_single_precision_says_so() -> None:
    case = Quadratic(1, 3, False, strength=3.0)
    exact = np.array([case.along(i) for i in range(3)])
    beam = beam_of(case.z, "single")
    arguments = (beam, case.loss(), case.knobs, case.direction)
    found = case.line.hessian_vector(*arguments, method="differences")
    assert case.line.hessian_vector(*arguments).values == pytest.approx(exact, rel=1e-4)
    off = np.abs(found.values - exact)
    assert np.max(off) < 1e-3 * np.max(np.abs(exact))
    assert np.max(off) < 30 * np.max(found.error)
    assert np.max(found.error) > 1e-9 * np.max(np.abs(exact))


# --- everything else ------------------------------------------------------------------------------


def test_symmetric_with_acceleration_and_nonlinear_maps() -> None:
    line = bt.Line(
        [
            bt.Quadrupole(0.2, k1=3.0, dx=1e-5, name="q"),
            bt.RFCavity(0.3, voltage=2e6, frequency=1.3e9, phase=-0.4, name="rf"),
            bt.Sextupole(0.2, k2=20.0, name="s", model="exact"),
            bt.Bend(0.5, angle=0.2, name="b"),
            bt.Drift(0.5, name="d"),
        ]
    )
    rng = np.random.default_rng(2)
    beam = beam_of(1e-3 * rng.normal(size=(6, 300)))
    loss = losses.beam_size("x") + 10 * losses.energy_spread() + 1e3 * losses.emittance("y")
    knobs = [
        ("q", "k1"),
        ("q", "dx"),
        ("rf", "voltage"),
        ("rf", "phase"),
        ("s", "k2"),
        ("d", "length"),
    ]
    units = np.array([3, 1e-3, 2e6, 1, 20, 0.5])
    u, w = rng.normal(size=(2, 6)) * units
    hu, hw = (line.hessian_vector(beam, loss, knobs, v, method="differences") for v in (u, w))
    scale = np.sum(np.abs(u * hw.values))
    assert abs(u @ hw.values - w @ hu.values) < 1e-9 * scale
    assert np.max(hu.error * units) < 1e-8 * np.max(np.abs(hu.values) * units)
    assert list(hu.table.columns)[-2:] == ["derivative", "error"]
    assert "6 numbers" in repr(hu)


def test_steps_stay_where_parameters_are_allowed() -> None:
    """A step of 1/16 of 0.1 m, from a length of 1 mm."""
    line = bt.Line([bt.Quadrupole(0.001, k1=50.0, name="q", model="linear"), bt.Drift(1.0)])
    beam = beam_of(1e-3 * np.random.default_rng(3).normal(size=(6, 100)))
    loss = losses.beam_size("x")
    found = line.hessian_vector(beam, loss, [("q", "length")], [1.0], method="differences")
    assert line["q"].length == 0.001
    assert found.error[0] < 1e-7 * abs(found.values[0])


def test_particles_at_an_edge_are_seen_in_the_error() -> None:
    """The gradient jumps where a particle begins to be lost."""
    x = np.array([1e-3, -0.5e-3, 0.2e-3])
    z = np.zeros((6, 3))
    z[0] = x
    edge = float(np.cosh(np.sqrt(3.0) * 0.2) * 1e-3)
    line = bt.Line(
        [
            bt.Quadrupole(0.2, k1=-3.0, name="q", model="linear"),
            bt.Aperture(x_max=edge, y_max=1.0),
            bt.Drift(1.0),
        ]
    )
    found = line.hessian_vector(
        beam_of(z), losses.beam_size("x"), "k1", [1.0], method="differences"
    )
    assert found.error[0] > 0.1 * abs(found.values[0])


def test_scaled_objectives_and_refusals() -> None:
    case = Quadratic(5, 2, False)
    beam, loss = beam_of(case.z), case.loss()
    plain = case.line.hessian_vector(beam, loss, case.knobs, [2.0, 12.0])
    objective = bt.Objective(case.line, beam, loss, case.knobs, scale=[2.0, 4.0])
    scaled = objective.hessian_vector(objective.x0, [1.0, 3.0])
    by_differences = objective.hessian_vector(objective.x0, [1.0, 3.0], method="differences")
    assert by_differences.values == pytest.approx(scaled.values, rel=1e-9)
    assert scaled.values / [2.0, 4.0] == pytest.approx(plain.values, rel=1e-9)
    assert np.array_equal(objective.hessp(objective.x0, [1.0, 3.0]), scaled.values)
    assert "tolerance" not in objective.options
    with pytest.raises(ValueError, match="accuracy"):
        case.line.hessian_vector(beam, loss, case.knobs, [1, 1], accuracy=0.0)
