"""Gradients of tracked moments against differences of the tracking itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import betatron as bt
import numpy as np
import pytest
from betatron import losses
from betatron.gradient import knobs, turned

REF = bt.Reference("proton", kinetic_energy=6.7e6)
ELECTRON = bt.Reference("electron", kinetic_energy=20e6)
SHAPE = bt.Gaussian.from_twiss(
    beta_x=0.7, alpha_x=0.8, emittance_x=1e-6, beta_y=0.9, alpha_y=-0.6, emittance_y=2e-6,
    beta_t=3.0, alpha_t=0.2, emittance_t=1e-6, mean=(1e-3, 2e-4, -5e-4, 3e-4, 1e-4, 2e-3),
)  # fmt: skip
CURRENT = bt.SpaceChargeEnvelope("2D", current=0.3)
BUNCH = bt.SpaceChargeEnvelope("3D")


def machine() -> bt.Line:
    q = bt.Quadrupole(0.06, k1=30.0, slices=3, name="q")
    return bt.Line(
        [
            bt.Drift(0.1, slices=2, name="d"), q, bt.Kicker(hkick=1e-3, vkick=-5e-4, name="steer"),
            bt.Bend(
                0.2, angle=0.15, e1=0.05, hgap=0.02, fint1=0.4, fint2=0.3, slices=2, name="bend"
            ),
            bt.Quadrupole(0.06, k1=-25.0, dx=2e-4, roll=0.1, slices=2, name="skew"),
            bt.RFCavity(voltage=2e5, frequency=2e8, phase=-0.5, name="cavity"),
            bt.Drift(0.05, name="middle"), q, bt.Solenoid(0.1, ks=2.0, name="solenoid"),
            bt.Quadrupole(0.05, k1=0.0, name="zero"), bt.Multipole(knl=[0, 0, 3.0], name="m"),
            bt.Drift(0.1, name="end"),
        ]
    )  # fmt: skip


def random_loss(seed: int) -> losses.Loss:
    """A smooth function of all moments at three places."""
    rng = np.random.default_rng(seed)

    def term() -> Callable[[losses.Moments], Any]:
        a, b = rng.normal(size=6), rng.normal(size=(6, 6))

        def function(m: losses.Moments) -> Any:
            total: Any = 0.0
            for i in range(6):
                total = total + 1e3 * a[i] * m.mean[i]
                for j in range(6):
                    total = total + 1e6 * b[i, j] * m.cov[i, j]
            return total + losses.log(m.cov[0, 0]) * m.kinetic

        return function

    return (
        losses.of_moments(term())
        + losses.of_moments(term(), at="middle")
        + losses.of_moments(term(), at="start")
    )


def slope(f: Callable[[float], float], x: float, h: float) -> float:
    """Central difference of order 6."""
    d = [f(x + k * h) - f(x - k * h) for k in (1, 2, 3)]
    return (45 * d[0] - 9 * d[1] + d[2]) / (60 * h)


CASES = [(None, None), (CURRENT, None), (BUNCH, 2e-9)]


@pytest.mark.parametrize(("model", "charge"), CASES)
@pytest.mark.parametrize("reference", [REF, ELECTRON])
def test_all_parameters(reference: bt.Reference, model: Any, charge: float | None) -> None:
    line, loss = machine(), random_loss(4)
    options = {"space_charge": model, "charge": charge}

    def value() -> float:
        return line.envelope_gradient(reference, SHAPE, loss, **options).value

    g = line.envelope_gradient(reference, SHAPE, loss, "all", **options)
    assert g.value == value()
    scale = {"frequency": 2e8, "voltage": 2e5, "k1": 10.0, "length": 0.05}
    for knob, derivative in zip(knobs(line, "all"), g.derivatives, strict=True):
        x, size = knob.value, scale.get(knob.parameter, 1e-2)

        def at(v: float, knob: Any = knob) -> float:
            with turned([knob], [v]):
                return value()

        h = 2e-3 * size
        if knob.parameter in ("voltage", "length"):
            h *= 5
        expected = slope(at, x, h)
        rounding = 1e-15 * abs(g.value) / h
        assert derivative == pytest.approx(expected, rel=2e-7, abs=30 * rounding + 1e-9), (
            knob.element.name, knob.name,
        )  # fmt: skip


@pytest.mark.parametrize(("model", "charge"), CASES)
def test_initial_moments_energy_and_charge(model: Any, charge: float | None) -> None:
    line, loss = machine(), random_loss(7)
    covariance, mean = SHAPE.covariance, np.array(SHAPE.mean)

    def value(
        c: np.ndarray = covariance, m: np.ndarray = mean, energy: float = 6.7e6, strength: float = 1
    ) -> float:
        sc = model
        if model is CURRENT:
            sc = bt.SpaceChargeEnvelope("2D", current=0.3 * strength)
        q = None if charge is None else charge * strength
        ref = bt.Reference("proton", kinetic_energy=energy)
        return line.envelope_gradient(ref, c, loss, mean=list(m), space_charge=sc, charge=q).value

    g = line.envelope_gradient(
        REF,
        SHAPE,
        loss,
        space_charge=model,
        charge=charge,
        initial_mean=True,
        reference_energy=True,
    )
    assert np.array_equal(g.covariance, g.covariance.T)
    rng = np.random.default_rng(1)
    for _ in range(3):
        step = rng.normal(size=6) * np.sqrt(np.diag(covariance))
        expected = slope(lambda e, d=step: value(m=mean + e * d), 0.0, 0.02)
        assert g.mean @ step == pytest.approx(expected, rel=1e-8)
        root = rng.normal(size=(6, 6)) * np.sqrt(np.diag(covariance))
        change = 0.1 * (root.T @ root)
        expected = slope(lambda e, d=change: value(c=covariance + e * d), 0.0, 0.01)
        assert np.sum(g.covariance * change) == pytest.approx(expected, rel=1e-8)
    assert g.reference_energy == pytest.approx(
        slope(lambda e: value(energy=e), 6.7e6, 5e3), rel=1e-7
    )
    by_strength = slope(lambda e: value(strength=e), 1.0, 0.01)
    assert g.current * 0.3 + g.charge * (charge or 0) == pytest.approx(by_strength, rel=1e-8, abs=0)
    assert (g.current == 0) == (model is not CURRENT)
    assert (g.charge == 0) == (model is not BUNCH)


def test_round_beams_have_the_derivatives_of_their_neighbours() -> None:
    """Principal axes of equal length: quotients of differences have limits there."""
    line = bt.Line([bt.Drift(0.3, slices=4)])
    loss = random_loss(3)
    loss = losses.Loss([t for t in loss.terms if t.at != "middle"])
    bg = ELECTRON.beta_gamma
    for apart in (0.0, 1e-9, 1e-3):
        size = np.array([1e-3, 1e-4, 1e-3 * (1 + apart), 1e-4, 1e-3 / bg, 1e-3])
        for model, charge in CASES[1:]:
            g = line.envelope_gradient(
                ELECTRON, np.diag(size**2), loss, space_charge=model, charge=charge
            )
            change = (
                np.outer(size, size)
                * [[1, 0.3, 0.5, 0, 0.2, 0]]
                * np.array([[1, 0.3, 0.5, 0, 0.2, 0]]).T
            )

            def value(
                e: float,
                model: Any = model,
                charge: Any = charge,
                change: Any = change,
                size: Any = size,
            ) -> float:
                return line.envelope_gradient(
                    ELECTRON, np.diag(size**2) + e * change, loss, space_charge=model, charge=charge
                ).value

            assert np.sum(g.covariance * change) == pytest.approx(slope(value, 0.0, 0.01), rel=1e-8)


def test_several_losses_and_repeated_elements() -> None:
    """An element that stands at two places has the sum of both derivatives; pieces that are alike
    are found out once."""
    q = bt.Quadrupole(0.1, k1=20.0, slices=5, name="q")
    line = bt.Line([q, bt.Drift(0.2, slices=3), q, bt.Drift(0.1, name="end")])
    first, second = (bt.Quadrupole(0.1, k1=20.0, slices=5) for _ in range(2))
    apart = bt.Line([first, bt.Drift(0.2, slices=3), second, bt.Drift(0.1, name="end")])
    both = [losses.beam_size("x"), losses.beam_size("y"), losses.beam_size("x", at=1)]
    g = line.envelope_gradient(REF, SHAPE, both, "k1", space_charge=CURRENT)
    h = apart.envelope_gradient(REF, SHAPE, both, "k1", space_charge=CURRENT)
    assert g.value.shape == (3,) and g.derivatives.shape == (3, 1) and h.derivatives.shape == (3, 2)
    assert np.allclose(g.derivatives[:, 0], h.derivatives.sum(axis=1), rtol=1e-12)
    assert np.array_equal(g["q", "k1"], g.derivatives[:, 0])
    one = line.envelope_gradient(REF, SHAPE, both[1], "k1", space_charge=CURRENT)
    assert one.value == g.value[1] and one["q", "k1"] == g.derivatives[1, 0]
    assert list(one.table.columns) == ["element", "kind", "parameter", "value", "derivative"]


def test_objective_finds_the_strengths_that_make_a_beam() -> None:
    scipy_optimize = pytest.importorskip("scipy.optimize")
    first, second = bt.Quadrupole(0.1, k1=8.0), bt.Quadrupole(0.1, k1=-6.0)
    line = bt.Line([first, bt.Drift(0.2, slices=4), second, bt.Drift(0.3)])
    end = line.envelope(REF, SHAPE, space_charge=CURRENT, record=None).covariance
    aims = [losses.of_moments(lambda m, i=i: m.cov[i, i] / end[i, i] - 1) for i in (0, 2)]
    objective = bt.EnvelopeObjective(
        line, REF, SHAPE, aims, [(first, "k1"), (second, "k1")], scale=10.0, space_charge=CURRENT
    )
    found = scipy_optimize.least_squares(objective.fun, [0.75, -0.55], objective.jac, xtol=1e-12)
    assert found.x == pytest.approx([0.8, -0.6], rel=1e-9)
    assert objective.evaluations <= found.nfev
    one = bt.EnvelopeObjective(
        line, REF, SHAPE, aims[0] * 0.5, [(first, "k1")], space_charge=CURRENT
    )
    assert one([8.1])[0] != 0 and one([8.1])[1].shape == (1,)


def test_refusals() -> None:
    line = machine()
    with pytest.raises(ValueError, match="no particles"):
        line.envelope_gradient(REF, SHAPE, losses.of_particles(lambda z: (0.0, z)))
    with pytest.raises(ValueError, match="charge of the bunch"):
        line.envelope_gradient(REF, SHAPE, random_loss(1), space_charge=BUNCH)
    with pytest.raises(ValueError, match="no loss"):
        line.envelope_gradient(REF, SHAPE, [])
    with pytest.raises(KeyError, match="k7"):
        line.envelope_gradient(REF, SHAPE, random_loss(1), "k7")
    other = bt.Quadrupole(0.1, name="elsewhere")
    with pytest.raises(KeyError):
        line.envelope_gradient(REF, SHAPE, random_loss(1), [(other, "k1")])
