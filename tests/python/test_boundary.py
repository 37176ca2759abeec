"""Longitudinal boundaries: what happens to particles that leave the bucket."""

import betatron as bt
import numpy as np
import pytest

REFERENCE = bt.Reference("proton", kinetic_energy=800e6)
LENGTH = 0.2  # m
WALL = bt.Line([bt.Marker(name="here")])


def beam_of(t, pt=0.0, precision="double"):
    t = np.asarray(t, dtype=np.float32 if precision == "single" else np.float64)
    zero = np.zeros_like(t)
    return bt.Beam.from_arrays(
        REFERENCE, x=zero, px=zero, y=zero, py=zero, t=t, pt=np.full_like(t, pt)
    )


@pytest.mark.parametrize("precision", ["double", "single"])
def test_periodic_brings_t_into_the_bucket(precision):
    t = np.random.default_rng(1).normal(scale=1.0, size=1000)
    beam = beam_of(t, 1e-3, precision)
    start = beam.t.astype(float)
    WALL.track(beam, boundary="periodic", bucket_length=LENGTH)
    eps = np.finfo(beam.t.dtype).eps
    expected = np.fmod(np.fmod(start + LENGTH / 2, LENGTH) + LENGTH, LENGTH) - LENGTH / 2
    apart = np.abs(beam.t - expected)
    assert np.all(np.minimum(apart, LENGTH - apart) < 20 * eps)
    assert np.all(np.abs(beam.t) <= LENGTH / 2 * (1 + 4 * eps))
    np.testing.assert_array_equal(beam.pt, np.full_like(beam.pt, 1e-3))


def test_reflecting_folds_t_and_turns_pt():
    beam = beam_of([0.03, 0.12, -0.12, 0.25, 0.31, -0.55], 1e-3)
    WALL.track(beam, boundary="reflecting", bucket_length=LENGTH)
    np.testing.assert_allclose(beam.t, [0.03, 0.08, -0.08, -0.05, -0.09, -0.05], atol=1e-15)
    np.testing.assert_array_equal(np.sign(beam.pt), [1, -1, -1, -1, 1, -1])


def test_a_reflected_particle_runs_between_the_walls():
    """Free motion between mirrors is free motion on a line, folded: the energy columns that the
    kernels keep beside the particle follow the sign of pt."""
    drift = bt.Line([bt.Drift(1.0)])
    mirrored, free = (
        beam_of(np.linspace(-0.09, 0.09, 7), 1e-5),
        beam_of(np.linspace(-0.09, 0.09, 7), 1e-5),
    )
    drift.track(mirrored, turns=100_000, boundary="reflecting", bucket_length=LENGTH)
    drift.track(free, turns=100_000)
    assert np.all(np.abs(free.t) > LENGTH)
    n = np.rint(free.t / LENGTH)
    folded = np.where(n % 2 == 0, 1, -1) * (free.t - n * LENGTH)
    # backwards it is as slow as it was fast to first order in pt only
    np.testing.assert_allclose(mirrored.t, folded, atol=1e-4 * LENGTH)


def test_absorbing_loses_with_place_and_reason():
    drift = bt.Drift(1.0, name="long", slices=4)
    line = bt.Line([bt.Marker(name="start"), drift])
    slow = beam_of([0.0, 0.11, 0.0999999], 1e-3)
    track = line.track(slow, first_turn=7, boundary="absorbing", bucket_length=LENGTH)
    assert track.n_lost == 2 and len(slow) == 1
    assert slow.lost["element_name"].tolist() == ["start", "long"]
    assert slow.lost["reason"].tolist() == ["outside_bucket"] * 2
    assert slow.lost["turn"].tolist() == [7, 7]
    assert slow.lost["s"].tolist() == [0.0, 0.25]


def test_records_are_taken_behind_the_boundary():
    beam = beam_of([0.15, 0.15])
    track = WALL.track(beam, record="all", boundary="periodic", bucket_length=LENGTH)
    np.testing.assert_allclose(track.moments["mean_t"], [0.15, -0.05])


def test_an_open_boundary_is_none():
    beam, same = beam_of([1.0]), beam_of([1.0])
    WALL.track(beam, boundary="open")
    WALL.track(same)
    np.testing.assert_array_equal(beam.array, same.array)


@pytest.mark.parametrize("boundary", ["periodic", "reflecting", "absorbing"])
def test_what_is_not_allowed(boundary):
    beam = beam_of([0.3])
    for length in (0.0, -1.0, np.inf, np.nan):
        with pytest.raises(ValueError, match=f"bucket_length = {length} m is not allowed"):
            WALL.track(beam, boundary=boundary, bucket_length=length)
    with pytest.raises(ValueError, match="needs a bucket_length"):
        WALL.track(beam, boundary=boundary)
    with pytest.raises(TypeError, match="bucket_length must be a number"):
        WALL.track(beam, boundary=boundary, bucket_length="long")
    with pytest.raises(ValueError, match="cannot be undone"):
        WALL.track(beam, boundary=boundary, bucket_length=1.0, backward=True)
    with pytest.raises(ValueError, match="'closed' must be one of open, periodic"):
        WALL.track(beam, boundary="closed", bucket_length=1.0)
    with pytest.raises(ValueError, match="no effect on an open boundary"):
        WALL.track(beam, bucket_length=1.0)
    with pytest.raises(TypeError, match="boundary must be text"):
        WALL.track(beam, boundary=None)
    assert beam.t[0] == 0.3
