"""Many turns: what a symplectic integrator must not do."""

import math

import betatron as bt
import numpy as np
import pytest

REFERENCE = bt.Reference("electron", kinetic_energy=3e9)


def make_ring():
    """Eight cells with sextupoles, tunes far from low resonances."""
    d, b = bt.Drift(0.5), bt.Bend(1.0, angle=2 * math.pi / 16)
    qf, qd = bt.Quadrupole(0.2, k1=1.62, name="qf"), bt.Quadrupole(0.2, k1=-1.48, name="qd")
    sf = bt.Sextupole(0.1, k2=8.0, order=4, steps=2)
    sd = bt.Sextupole(0.1, k2=-12.0, order=4, steps=2)
    return bt.Line(8 * [qf, sf, d, b, d, qd, sd, d, b, d])


def action(turn, q, p):
    """(gamma q^2 + 2 alpha q p + beta p^2)/2 with the Twiss parameters of a one-turn matrix."""
    sine = np.sign(turn[0, 1]) * math.sqrt(1 - (np.trace(turn) / 2) ** 2)
    alpha = (turn[0, 0] - turn[1, 1]) / (2 * sine)
    return (-turn[1, 0] / sine * q**2 + 2 * alpha * q * p + turn[0, 1] / sine * p**2) / 2


@pytest.mark.parametrize("model", ["paraxial", "exact"])
def test_actions_do_not_drift(model):
    ring = make_ring()
    for e in ring.elements:
        e.model = model
    matrix = ring.matrix(REFERENCE)
    assert abs(np.trace(matrix[:2, :2])) < 2 and abs(np.trace(matrix[2:4, 2:4])) < 2
    size, zero = np.linspace(1e-5, 1e-4, 8), np.zeros(8)
    beam = bt.Beam.from_arrays(REFERENCE, x=size, px=zero, y=size[::-1], py=zero, t=zero, pt=zero)
    watch = bt.TurnByTurn(quantities="coordinates")
    ring.track(beam, turns=4096, monitor=watch)
    seen = watch.coordinates()
    for plane in (0, 2):
        block = matrix[plane : plane + 2, plane : plane + 2]
        j = action(block, seen[plane], seen[plane + 1])
        mean = j.mean(axis=0)
        swing = (
            np.ptp(j, axis=0) / mean
        )  # of the nonlinear motion; the mean of many turns does not follow it
        first, second = j[:2048].mean(axis=0), j[2048:].mean(axis=0)
        assert np.all(np.abs(second - first) / mean < 0.01 * swing + 1e-10)


def test_a_thousand_turns_and_back():
    ring = make_ring()
    rng = np.random.default_rng(1)
    columns = {q: rng.normal(scale=1e-5, size=16) for q in ("x", "px", "y", "py", "t", "pt")}
    beam = bt.Beam.from_arrays(REFERENCE, **columns)
    ring.track(beam, turns=1000)
    ring.track(beam, turns=1000, backward=True)
    for name in ("x", "px", "y", "py"):
        np.testing.assert_allclose(beam[name], columns[name], atol=1e-15)
