"""Beams at a fixed time: where free particles are when the reference particle passes."""

import betatron as bt
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

COORDINATES = ("x", "px", "y", "py", "t", "pt")
FIXED_TIME = ("x", "y", "z", "px", "py", "pz")


def make_beam(reference, n=200, spread=1e-2, seed=1, dtype=np.float64):
    rng = np.random.default_rng(seed)
    columns = {name: rng.normal(scale=spread, size=n).astype(dtype) for name in COORDINATES}
    # the kinetic energy of a slow particle is a small part of p0 c: pt must not take all of it
    columns["pt"] = (columns["pt"] * reference.beta).astype(dtype)
    return bt.Beam.from_arrays(reference, **columns, weight=rng.uniform(1, 2, n).astype(dtype))


@given(
    species=st.sampled_from(["electron", "proton", "H-"]),
    exponent=st.floats(0, 13),
    spread=st.sampled_from([1e-6, 1e-3, 5e-2]),
    momentum=st.sampled_from(["mc", "p0"]),
)
def test_there_and_back_again(species, exponent, spread, momentum):
    """From 1 eV, beta = 5e-5 for protons, to 10 TeV."""
    reference = bt.Reference(species, kinetic_energy=10.0**exponent)
    beam = make_beam(reference, spread=spread)
    there = beam.at_fixed_time(momentum)
    again = bt.Beam.from_fixed_time(
        reference, **{q: there[q] for q in FIXED_TIME}, momentum=momentum,
        weight=there["weight"], id=there["id"],
    )  # fmt: skip
    eps = np.finfo(float).eps
    # the energy over p0 c is 1/beta0: t and pt can be no better than its rounding
    scale = {"t": 1.0, "pt": reference.beta}
    for name in COORDINATES:
        size = np.max(np.abs(beam[name])) + (1.0 if name in ("px", "py", "pt") else 0.0)
        tolerance = 20 * eps * size * scale.get(name, 1.0)
        np.testing.assert_allclose(
            again[name], beam[name], rtol=20 * eps, atol=tolerance, err_msg=name
        )
    np.testing.assert_array_equal(again.weight, beam.weight)
    np.testing.assert_array_equal(again.id, beam.id)


@pytest.mark.parametrize("energy", [1e3, 1e6, 1e10])
def test_a_drift_moves_all_particles_by_their_velocity(energy):
    """Seen at a fixed time, an exact drift of the reference particle by L is free flight for the
    time L/(beta0 c): positions change by velocity times time minus L, momenta do not."""
    reference = bt.Reference("proton", kinetic_energy=energy)
    beam = make_beam(reference)
    before = beam.at_fixed_time()
    length = 0.7
    bt.Line([bt.Drift(length, model="exact")]).track(beam)
    after = beam.at_fixed_time()
    momenta = before[["px", "py", "pz"]].to_numpy()
    velocity = momenta / np.sqrt(1.0 + np.sum(momenta**2, axis=1))[:, None]  # c
    moved = velocity * length / reference.beta - np.array([0, 0, length])
    expected = before[["x", "y", "z"]].to_numpy() + moved
    np.testing.assert_allclose(after[["x", "y", "z"]].to_numpy(), expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(
        after[["px", "py", "pz"]].to_numpy(), momenta, rtol=1e-13, atol=1e-18
    )


def test_units_and_signs():
    reference = bt.Reference("electron", kinetic_energy=1e8)
    zero = np.zeros(2)
    late = bt.Beam.from_arrays(
        reference, x=zero, px=[0, 0.1], y=zero, py=zero, t=[1e-3, 1e-3], pt=zero
    )
    there = late.at_fixed_time()
    assert there["z"][0] == pytest.approx(-1e-3 * reference.beta)  # late is behind
    assert there["pz"][0] == pytest.approx(reference.beta_gamma)
    assert there["px"][1] == pytest.approx(0.1 * reference.beta_gamma)
    assert there["x"][1] == pytest.approx(-1e-3 * 0.1 * reference.beta)  # not as far out yet
    in_p0 = late.at_fixed_time("p0")
    assert in_p0["pz"][0] == pytest.approx(1.0)
    fast = bt.Beam.from_fixed_time(
        reference, x=[0.0], y=[0.0], z=[0.0], px=[0.0], py=[0.0], pz=[1.01 * reference.beta_gamma]
    )
    assert fast.pt[0] < 0  # more energy


def test_single_precision_stays_single():
    reference = bt.Reference("electron", kinetic_energy=1e8)
    beam = make_beam(reference, dtype=np.float32)
    there = beam.at_fixed_time()
    assert there["x"].dtype == np.float64
    again = bt.Beam.from_fixed_time(
        reference, **{q: there[q].to_numpy(np.float32) for q in FIXED_TIME}
    )
    assert again.precision == "single"
    np.testing.assert_allclose(again.pt, beam.pt, rtol=0, atol=1e-6)


def test_what_has_no_place_is_refused():
    reference = bt.Reference("electron", kinetic_energy=1e8)
    one = {name: [0.0] for name in FIXED_TIME}
    with pytest.raises(ValueError, match=r"pz\[0\] = 0\.0 must be > 0"):
        bt.Beam.from_fixed_time(reference, **one)
    with pytest.raises(ValueError, match=r"pz\[0\] = nan must be > 0"):
        bt.Beam.from_fixed_time(reference, **(one | {"pz": [np.nan]}))
    with pytest.raises(ValueError, match="momentum = 'SI' must be 'mc' or 'p0'"):
        bt.Beam.from_fixed_time(reference, **(one | {"pz": [1.0]}), momentum="SI")
    with pytest.raises(ValueError, match="one length"):
        bt.Beam.from_fixed_time(reference, **(one | {"pz": [1.0, 1.0]}))
    with pytest.raises(TypeError, match=r"Beam\.from_fixed_time: x has type"):
        bt.Beam.from_fixed_time(reference, **(one | {"x": "here"}))
    with pytest.raises(TypeError, match=r"must be a betatron\.Reference"):
        bt.Beam.from_fixed_time(1.0, **one)
    beam = bt.Beam(reference, n=3)
    beam.px[1] = 1.1
    with pytest.raises(ValueError, match="particle 1 does not move forward"):
        beam.at_fixed_time()
    with pytest.raises(ValueError, match="momentum = 'SI'"):
        beam.at_fixed_time("SI")


def test_an_empty_beam_has_an_empty_table():
    reference = bt.Reference("electron", kinetic_energy=1e8)
    table = bt.Beam(reference).at_fixed_time()
    assert len(table) == 0
    assert len(bt.Beam.from_fixed_time(reference, **{q: table[q] for q in FIXED_TIME})) == 0
