"""The numerics advisor: its estimates against errors that are known, its proposals, and memory."""

from __future__ import annotations

import dataclasses
import math

import betatron as bt
import numpy as np
import pytest


def beam(n: int = 50_000, seed: int = 1) -> bt.Beam:
    ref = bt.Reference("proton", kinetic_energy=250e6)
    spread = bt.Gaussian.from_ellipse(
        lambda_x=5e-4, lambda_y=8e-4, lambda_t=2e-3, lambda_px=1e-4, lambda_py=1e-4, lambda_pt=1e-4
    )
    return bt.Beam(ref, spread, n=n, charge=1e-9, seed=seed)


LINE = bt.Line(
    [bt.Drift(1.0, slices=4), bt.Quadrupole(0.2, k1=3, slices=2), bt.Drift(1.0, slices=4)]
)


def kick(model: bt.SpaceCharge3D, b: bt.Beam) -> np.ndarray:
    for name in ("px", "py", "pt"):
        b[name][:] = 0
    model.kick(b, 1.0)
    return np.array([b[name] for name in ("px", "py", "pt")], dtype=float)


@pytest.mark.parametrize("model", [bt.SpaceCharge2D(0.1, (24, 24)), bt.SpaceCharge3D(24)], ids=repr)
def test_estimates_are_right(model: bt.SpaceCharge2D) -> None:
    """Mesh error: against a grid four times as fine. Noise: against the same kick by another
    sample."""
    start = beam()
    advice = bt.advise(LINE, start, model)
    assert advice.model is model
    assert advice.particles == len(start)

    large = beam(800_000, seed=9)
    coarse = kick(model, large)
    fine = kick(dataclasses.replace(model, cells=tuple(4 * n for n in model.cells)), large)
    error = np.sqrt(np.mean((coarse - fine)[:2] ** 2) / np.mean(fine[:2] ** 2))
    assert advice.errors.mesh[0] == pytest.approx(error, rel=0.35)

    # the field of small samples at the same places
    samples = []
    for seed in (1, 5):
        own, places = beam(seed=seed), beam(20_000, seed=7)
        both = bt.Beam.from_arrays(
            own.reference,
            **{
                name: np.concatenate([own[name], places[name]])
                for name in ("x", "px", "y", "py", "t", "pt")
            },
            weight=np.concatenate([own.weight, np.zeros(len(places))]),
        )
        samples.append(kick(model, both)[:, len(own) :])
    noise = np.sqrt(np.mean((samples[0] - samples[1])[:2] ** 2) / 2 / np.mean(samples[0][:2] ** 2))
    assert advice.errors.noise[0] == pytest.approx(noise, rel=0.5)


def test_proposals_meet_the_wanted_error() -> None:
    coarse = bt.SpaceCharge2D(0.1, (16, 16), order=1)
    advice = bt.advise(LINE, beam(5000), coarse, error=0.02)
    assert advice.errors.total > 0.02
    assert advice.proposed_errors.total <= 0.02 * 1.3
    assert advice.proposed_model.cells > coarse.cells  # type: ignore[attr-defined]
    assert advice.proposed_particles > 5000
    again = bt.advise(LINE, beam(advice.proposed_particles), advice.proposed_model, error=0.02)
    assert again.errors.total < 0.03
    assert "grid" in str(advice)
    assert advice.fits


def test_steps_are_those_of_the_splitting() -> None:
    """Doubling the kicks divides the error by 2 or 4."""
    for order, factor in ((1, 2.0), (2, 4.0)):
        errors = [
            bt.advise(LINE, beam(1000), bt.SpaceChargeGaussian(order=order, spacing=s)).errors.steps
            for s in (0.25, 0.125)
        ]
        assert errors[0] / errors[1] == pytest.approx(factor, rel=0.3)


def test_models_without_a_grid_or_length() -> None:
    advice = bt.advise(LINE, beam(2000), bt.SpaceChargeGaussian())
    assert advice.errors.mesh == (0.0, 0.0)
    assert advice.errors.noise[0] > 0
    assert advice.kicks == 10
    thin = bt.advise(bt.Line([bt.Marker()]), beam(2000), bt.SpaceChargeGaussian())
    assert thin.kicks == 0
    assert thin.errors.steps == 0


def test_slices_are_balanced_against_noise() -> None:
    advice = bt.advise(LINE, beam(), bt.SpaceCharge2p5D((64, 64), bins=400))
    assert advice.errors.noise[1] > advice.errors.mesh[1]
    assert advice.proposed_model.bins < 400  # type: ignore[attr-defined]


def test_a_run_that_does_not_fit_says_so() -> None:
    with pytest.raises(
        MemoryError, match=r"the run needs [\d.e+]+ GB: 1000 particles .* there are"
    ):
        bt.advise(LINE, beam(1000), bt.SpaceCharge3D(4096))


def test_nothing_is_changed() -> None:
    start = beam(3000)
    before = start.copy()
    bt.advise(LINE, start, bt.SpaceCharge2p5D((16, 16)), sample=1000)
    for name in ("x", "px", "y", "py", "t", "pt", "weight"):
        assert np.array_equal(start[name], before[name])
    assert start.reference.s == before.reference.s


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"error": 0.0}, ValueError),
        ({"error": math.nan}, ValueError),
        ({"sample": 10}, ValueError),
        ({"space_charge": "3D"}, TypeError),
        ({"space_charge": bt.SpaceChargeEnvelope()}, TypeError),
        ({"beam": None}, TypeError),
        ({"beam": beam(10)}, ValueError),
    ],
)
def test_wrong_arguments(arguments: dict, error: type) -> None:
    given = {
        "line": LINE,
        "beam": beam(1000),
        "space_charge": bt.SpaceChargeGaussian(),
        **arguments,
    }
    with pytest.raises(error):
        bt.advise(**given)
