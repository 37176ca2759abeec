"""Space charge in three dimensions, through the Python interface."""

from __future__ import annotations

import copy
import dataclasses
import pickle

import betatron as bt
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st


def ball(n: int = 4000, precision: str = "double", beta_gamma: float = 0.5) -> bt.Beam:
    reference = bt.Reference("proton", beta_gamma=beta_gamma)
    shape = bt.Gaussian.from_ellipse(
        lambda_x=1e-3, lambda_y=1e-3, lambda_t=2e-3, lambda_px=0, lambda_py=0, lambda_pt=0
    )
    return bt.Beam(reference, shape, n=n, charge=1e-10, precision=precision)


def test_a_cold_beam_expands_and_is_brought_back() -> None:
    line = bt.Line([bt.Drift(0.5, slices=5), bt.Quadrupole(0.2, k1=2, slices=2)])
    for order in (1, 2):
        beam = ball()
        before = beam.copy() if hasattr(beam, "copy") else copy.deepcopy(beam)
        effect = bt.SpaceCharge3D(24, order=order)
        track = line.track(beam, space_charge=effect, record="all")
        assert effect.times["kicks"] == 7
        assert track.moments["sigma_y"].iloc[-1] > before.moments()["sigma_y"]
        line.track(beam, space_charge=effect, backward=True)
        for q in ("x", "px", "y", "py", "t", "pt"):
            assert np.allclose(beam[q], before[q], rtol=0, atol=1e-11)


def test_spacing_makes_kicks_independent_of_slices() -> None:
    effect = bt.SpaceCharge3D(16, spacing=0.1)
    bt.Line([bt.Drift(1.0), bt.Drift(0.25, slices=5)]).track(ball(100), space_charge=effect)
    assert effect.times["kicks"] == 10 + 5


def test_field_of_a_beam() -> None:
    for precision in ("double", "single"):
        beam = ball(20000, precision)
        effect = bt.SpaceCharge3D((40, 44, 48))
        field = effect.field(beam)
        assert field.density.shape == field.potential.shape == (40, 44, 48)
        assert field.density.dtype == (np.float32 if precision == "single" else np.float64)
        cell = np.prod([q[1] - q[0] for q in (field.x, field.y, field.z)])
        assert np.sum(field.density, dtype=float) * cell == pytest.approx(1e-10, rel=1e-5)
        # the centre of the charge, and the sizes in the laboratory: z = -beta t
        z = np.sum(field.density.sum(axis=(0, 1)) * field.z) * cell / 1e-10
        assert z == pytest.approx(-beam.reference.beta * beam.t.mean(dtype=float), abs=1e-7)
        assert field.z.min() < (-beam.reference.beta * beam.t).min()
        assert np.all(field.potential > 0)
        # div E' = rho'/eps0 in the rest frame, inside
        gamma = beam.reference.gamma
        e = field.electric_field
        dz = field.z[1] - field.z[0]
        divergence = (
            np.gradient(e[0] / gamma, field.x, axis=0)
            + np.gradient(e[1] / gamma, field.y, axis=1)
            + np.gradient(e[2], dz * gamma, axis=2)
        )
        inner = (slice(8, -8),) * 3
        total = np.sum(divergence[inner]) * 8.8541878188e-12
        assert total == pytest.approx(np.sum(field.density[inner], dtype=float) / gamma, rel=0.02)
        assert effect.times["kicks"] == 0  # pictures do not count


def test_the_same_kick_in_both_precisions_and_on_any_number_of_threads() -> None:
    kicks = {}
    for precision in ("double", "single"):
        for threads in (1, 3):
            beam = ball(20000, precision)
            bt.SpaceCharge3D(32).kick(beam, 1.0, threads=threads)
            kicks[precision, threads] = np.array([beam.px, beam.py, beam.pt])
    for precision in ("double", "single"):
        assert np.array_equal(kicks[precision, 1], kicks[precision, 3])
    exact, rounded = kicks["double", 1], kicks["single", 1].astype(float)
    assert np.sqrt(np.mean((exact - rounded) ** 2)) < 1e-4 * np.sqrt(np.mean(exact**2))


@given(
    cells=st.tuples(*[st.integers(8, 40)] * 3),
    shape=st.sampled_from(["linear", "quadratic", "cubic"]),
    beta_gamma=st.floats(1e-2, 1e4),
    step=st.just(0.0) | st.floats(1e-4, 1),
)
def test_momentum_is_conserved(
    cells: tuple[int, int, int], shape: str, beta_gamma: float, step: float
) -> None:
    beam = ball(500, beta_gamma=beta_gamma)
    bt.SpaceCharge3D(cells, shape=shape, grid_step=step).kick(beam, 1e-3)
    for q in ("px", "py", "pt"):
        assert np.all(np.isfinite(beam[q]))
        assert abs(np.sum(beam[q])) <= 1e-12 * np.sum(np.abs(beam[q]))


def test_values_copies_and_dictionaries() -> None:
    effect = bt.SpaceCharge3D(32, shape="cic", spacing=0.5)
    assert effect.cells == (32, 32, 32) and effect.shape == "linear"
    assert effect == bt.SpaceCharge3D(**effect.to_dict())
    assert repr(effect).startswith("SpaceCharge3D(cells=(32, 32, 32), shape='linear'")
    for other in (copy.deepcopy(effect), pickle.loads(pickle.dumps(effect))):
        assert other == effect and other is not effect
    with pytest.raises(dataclasses.FrozenInstanceError):
        effect.order = 1  # type: ignore[misc]
    assert effect.memory() < effect.memory(1000) < effect.memory(10**6)
    assert effect.memory(precision="single") == pytest.approx(effect.memory() / 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cells": 7}, "cells = 7 must be between 8 and 4096"),
        ({"cells": (8, 8)}, "must be one or three numbers"),
        ({"cells": 1e3}, "cells must be a whole number"),
        ({"shape": "round"}, "shape = 'round' is not allowed; allowed: 'linear'"),
        ({"order": 3}, "order = 3 is not allowed; allowed: 1, 2"),
        ({"order": 0}, "order = 0 is not allowed; allowed: 1, 2"),
        ({"spacing": 0.0}, "spacing = 0.0 is not allowed; allowed: > 0"),
        ({"margin": 0.9}, "margin = 0.9 is not allowed; allowed: >= 1"),
        ({"grid_step": float("nan")}, "grid_step = nan"),
        ({"grid_step": 1e-9}, "grid_step = 1e-09 is not allowed; allowed: 0, or >= 1e-4"),
        ({"memory_limit": -1}, "memory_limit = -1.0"),
    ],
)
def test_values_out_of_range_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises((ValueError, TypeError)) as error:
        bt.SpaceCharge3D(**arguments)
    assert message in str(error.value)


def test_what_cannot_be_solved_is_refused_before_anything_moves() -> None:
    line = bt.Line([bt.Drift(1.0)])
    beam = ball(100)
    x = np.array(beam.x)
    with pytest.raises(ValueError, match="GB of memory; allowed: 1e-06 GB"):
        line.track(beam, space_charge=bt.SpaceCharge3D(memory_limit=1e3))
    with pytest.raises(ValueError, match="4096 x 4096 x 4096 cells"):
        line.track(beam, space_charge=bt.SpaceCharge3D(4096))
    assert np.array_equal(beam.x, x) and beam.reference.s == 0
    beam.y[3] = np.nan
    with pytest.raises(ValueError, match=r"y\[3\] = nan must be finite"):
        line.track(beam, space_charge=bt.SpaceCharge3D(16, order=1))
    with pytest.raises(ValueError, match="two places"):
        bt.SpaceCharge3D(16).field(ball(1))
    with pytest.raises(TypeError, match="model of space charge"):
        line.track(ball(10), space_charge=3)  # type: ignore[arg-type]


def test_lost_particles_do_not_push() -> None:
    beam = ball(2000)
    line = bt.Line([bt.Drift(0.2), bt.Aperture(x_max=1e-3, y_max=1e-3), bt.Drift(0.2)])
    track = line.track(beam, space_charge=bt.SpaceCharge3D(16))
    assert track.n_lost > 100 and len(beam) + track.n_lost == 2000
    assert np.all(np.isfinite(beam.px))
