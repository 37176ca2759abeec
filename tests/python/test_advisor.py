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


@pytest.mark.parametrize(("n", "cells"), [(1000, 32), (1000, 64), (5000, 32), (20_000, 24)])
def test_an_error_of_the_mesh_below_the_noise_is_not_taken_for_none(n: int, cells: int) -> None:
    start = beam(n)
    advice = bt.advise(LINE, start, bt.SpaceCharge3D(cells))
    errors = advice.errors
    for error, bound in zip(errors.mesh, errors.mesh_bound, strict=True):
        assert error > 0.1 / cells
        if not math.isnan(bound):
            assert bound >= error
            assert min(advice.proposed_model.cells) >= cells  # type: ignore[attr-defined]
            assert "below the noise: <" in str(advice)
    # what was promised is what the proposal says of itself
    again = bt.advise(LINE, start, advice.proposed_model).errors
    for promised, found in zip(advice.proposed_errors.mesh, again.mesh, strict=True):
        assert 0.5 < found / promised < 2
    assert any(not math.isnan(b) for b in errors.mesh_bound) == (n < 20_000)


def test_steps_are_unknown_where_there_is_no_envelope() -> None:
    sheet = beam(2000)
    sheet.y[:] = sheet.py[:] = 0
    code = bt.Line([bt.Drift(0.5), bt.Programmable(push=lambda b, s: None)])
    for line, start, model, why in (
        (LINE, sheet, bt.SpaceCharge2D(1.0, 16), "no extent"),
        (code, beam(2000), bt.SpaceCharge2D(1.0, 16), "derivative"),
    ):
        advice = bt.advise(line, start, model)
        assert math.isnan(advice.errors.steps) and math.isfinite(advice.errors.total)
        assert why in advice.errors.steps_unknown
        assert advice.proposed_model.spacing is None
        assert "error of steps unknown: there is no envelope" in str(advice)


def test_a_limit_of_memory_is_one_for_the_advice() -> None:
    with pytest.raises(MemoryError, match="its memory_limit is 1e-06 GB"):
        bt.advise(LINE, beam(1000), bt.SpaceCharge3D(16, memory_limit=1000))
    needed = bt.SpaceCharge3D(16).memory(5000, "double")
    advice = bt.advise(LINE, beam(5000), bt.SpaceCharge3D(16, memory_limit=1.1 * needed))
    assert not advice.fits


def test_particles_beyond_the_pipe_are_left_out() -> None:
    start = beam(2000)
    inside = int((np.hypot(start.x, start.y) <= 1.5e-3).sum())
    advice = bt.advise(LINE, start, bt.SpaceCharge2D(1.0, 16, pipe=bt.RoundPipe(1.5e-3)))
    assert 100 < inside < 2000 and advice.particles == 2000
    with pytest.raises(ValueError, match=r"particles within RoundPipe\(radius=1e-06\) are too few"):
        bt.advise(LINE, start, bt.SpaceCharge2D(1.0, 16, pipe=bt.RoundPipe(1e-6)))
