"""Envelopes: second moments moved by the derivative of the maps."""

from __future__ import annotations

import time

import betatron as bt
import numpy as np
import pytest

REF = bt.Reference("electron", kinetic_energy=100e6)
BEAM = {
    "beta_x": 1.3, "alpha_x": 0.4, "emittance_x": 1e-8, "beta_y": 0.8, "alpha_y": -0.2, "emittance_y": 2e-8,
    "beta_t": 1.0, "alpha_t": 0.0, "emittance_t": 1e-8,
}  # fmt: skip


def line() -> bt.Line:
    return bt.Line(
        [
            bt.Drift(0.3), bt.Quadrupole(0.2, k1=4.0, roll=0.3), bt.Bend(0.5, angle=0.2, e1=0.1, e2=0.1),
            bt.Solenoid(0.3, ks=1.5), bt.RFCavity(voltage=2e6, frequency=1e9, phase=-0.4), bt.Quadrupole(0.2, k1=-3.0),
            bt.Kicker(hkick=1e-4), bt.Drift(0.5),
        ]
    )  # fmt: skip


@pytest.mark.parametrize("shape", [bt.Gaussian, bt.Waterbag])
def test_envelope_equals_particles_through_the_linear_map(shape: type) -> None:
    """For linear elements the covariance of particles is moved by the same matrix."""
    spread = shape.from_twiss(**BEAM, mean=(1e-4, 0, 0, 2e-5, 0, 0))
    cells = line()
    for e in cells.elements:
        e.model = "linear"
    beam = bt.Beam(REF, spread, n=2000, seed=3)
    start, centroid = beam.covariance(), np.array(beam.array).mean(axis=1)
    cells.track(beam)
    envelope = cells.envelope(REF, start, mean=centroid)
    scale = np.sqrt(np.outer(np.diag(envelope.covariance), np.diag(envelope.covariance)))
    assert np.all(np.abs(envelope.covariance - beam.covariance()) <= 1e-11 * scale)
    assert np.allclose(envelope.mean, np.array(beam.array).mean(axis=1), rtol=0, atol=1e-15)
    assert envelope.reference.gamma == beam.reference.gamma
    assert envelope.reference.s == beam.reference.s


def test_small_nonlinear_beam_follows_the_envelope() -> None:
    """A beam a hundred times smaller than the aberrations matter for has the envelope's moments."""
    tiny = BEAM | {f"emittance_{q}": 1e-14 for q in "xyt"}
    spread = bt.Gaussian.from_twiss(**tiny)
    beam = bt.Beam(REF, spread, n=5000, seed=5)
    envelope = line().envelope(REF, beam.covariance())
    line().track(beam)
    scale = np.sqrt(np.outer(np.diag(envelope.covariance), np.diag(envelope.covariance)))
    assert np.all(np.abs(envelope.covariance - beam.covariance()) <= 1e-3 * scale)


def test_records_and_turns() -> None:
    spread = bt.Gaussian.from_twiss(**BEAM)
    cell = bt.Line([bt.Drift(0.4, slices=4, name="d"), bt.Quadrupole(0.1, k1=2.0, name="q")])
    envelope = cell.envelope(REF, spread, turns=3, record_slices=True)
    assert len(envelope.moments) == 1 + 3 * 5
    assert envelope.moments.s.iloc[-1] == pytest.approx(1.5)
    assert envelope.covariances.shape == (16, 6, 6)
    again = (cell * 3).envelope(REF, spread)
    assert np.allclose(again.covariance, envelope.covariance, rtol=1e-13)
    # emittances of uncoupled linear motion do not change
    assert envelope.moments.emittance_y.iloc[-1] == pytest.approx(2e-8, rel=1e-12)


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (np.eye(5), "6 x 6"),
        (np.full((6, 6), np.nan), "finite"),
        (np.triu(np.ones((6, 6))), "symmetric"),
    ],
)
def test_bad_covariances_are_refused(start: np.ndarray, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        line().envelope(REF, start)


def test_a_thousand_elements_take_less_than_a_millisecond() -> None:
    cells = 250 * bt.Line(
        [bt.Drift(0.1), bt.Quadrupole(0.1, k1=10), bt.Drift(0.1), bt.Quadrupole(0.1, k1=-10)]
    )
    spread = bt.Gaussian.from_twiss(**BEAM)
    best = np.inf
    for _ in range(5):
        start = time.perf_counter()
        cells.envelope(REF, spread, record=None)
        best = min(best, time.perf_counter() - start)
    assert best < 5e-3  # 0.25 ms on a free processor; machines that run tests are not free
