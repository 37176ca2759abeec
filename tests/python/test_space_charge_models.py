"""Space charge of long and Gaussian beams and of envelopes: against each other, against known
solutions, and what is refused."""

from __future__ import annotations

import dataclasses
import math
import pickle

import betatron as bt
import numpy as np
import pytest
from scipy.integrate import solve_ivp

COORDINATES = ("x", "px", "y", "py", "t", "pt")
MODELS = [
    bt.SpaceCharge2D(0.1, (32, 32)),
    bt.SpaceCharge2p5D((32, 32), 50),
    bt.SpaceChargeGaussian("3D"),
    bt.SpaceChargeGaussian("2.5D"),
]


def proton(energy: float = 250e6) -> bt.Reference:
    return bt.Reference("proton", kinetic_energy=energy)


def gaussian(n: int = 20_000, charge: float = 1e-9, precision: str = "double") -> bt.Beam:
    spread = bt.Gaussian.from_ellipse(
        lambda_x=1e-3, lambda_y=2e-3, lambda_t=0.1, lambda_px=1e-4, lambda_py=1e-4, lambda_pt=1e-4
    )
    return bt.Beam(proton(), spread, n=n, charge=charge, seed=3, precision=precision)


def classical_radius(reference: bt.Reference) -> float:
    return 2.8179403205e-15 * 0.51099895069e6 / reference.species.mass


def perveance(reference: bt.Reference, current: float) -> float:
    density = current / (299792458.0 * 1.602176634e-19)
    return 2 * density * classical_radius(reference) / reference.beta_gamma**3


# --- envelopes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [1, 2])
def test_envelope_in_two_dimensions_solves_the_envelope_equations(order: int) -> None:
    """A'' = -k A + 2 K/(A + B) + (4 emittance)^2/A^3 for the semi-axes A = 2 sigma_x, B
    (Kapchinskij, Vladimirskij)."""
    ref, current, emittance = proton(6.7e6), 0.5, 1e-6
    twiss = {"beta_x": 0.737881, "alpha_x": 2.4685083, "beta_y": 0.737881, "alpha_y": -2.4685083}
    start = bt.KV.from_twiss(
        **twiss,
        emittance_x=emittance,
        emittance_y=emittance,
        beta_t=1,
        alpha_t=0,
        emittance_t=1e-12,
    )
    pieces = [(0.0744, 0.0), (0.061, -103.1257), (0.1488, 0.0), (0.061, 103.1257), (0.0744, 0.0)]
    k = perveance(ref, current)
    root = math.sqrt(emittance / twiss["beta_x"])
    axes = [2 * root * twiss["beta_x"], -2 * root * twiss["alpha_x"]]
    axes += [2 * root * twiss["beta_y"], -2 * root * twiss["alpha_y"]]
    for length, focusing in pieces:

        def slope(_: float, u: np.ndarray, focusing: float = focusing) -> list[float]:
            a, da, b, db = u
            both = 2 * k / (a + b)
            return [
                da,
                -focusing * a + both + (4 * emittance) ** 2 / a**3,
                db,
                focusing * b + both + (4 * emittance) ** 2 / b**3,
            ]

        axes = solve_ivp(slope, (0, length), axes, rtol=1e-11, atol=1e-15).y[:, -1]

    errors = []
    for slices in (10, 20):
        line = bt.Line(
            [
                bt.Quadrupole(s, k1=f, slices=slices) if f else bt.Drift(s, slices=slices)
                for s, f in pieces
            ]
        )
        model = bt.SpaceChargeEnvelope("2D", current=current, order=order)
        end = line.envelope(ref, start, space_charge=model, record="ends").moments.iloc[-1]
        errors.append(abs(2 * end["sigma_x"] / axes[0] - 1) + abs(2 * end["sigma_y"] / axes[2] - 1))
    assert errors[1] < (2e-2 if order == 1 else 2e-4)
    assert errors[0] / errors[1] == pytest.approx(2**order, rel=0.25)


def test_sphere_expands_as_the_ellipsoid_in_three_dimensions_says() -> None:
    """R'' = N r_q/((beta gamma)^2 R^2) for the radius R of a cold uniform sphere, in its rest
    frame."""
    ref, radius, charge, length = proton(), 2e-3, 1e-9, 4.0
    cold = bt.Kurth6D.from_ellipse(
        lambda_x=radius / math.sqrt(5),
        lambda_y=radius / math.sqrt(5),
        lambda_t=radius / math.sqrt(5) / ref.beta_gamma,
        lambda_px=0,
        lambda_py=0,
        lambda_pt=0,
    )
    strength = charge / 1.602176634e-19 * classical_radius(ref) / ref.beta_gamma**2
    exact = solve_ivp(
        lambda s, u: [u[1], strength / u[0] ** 2], (0, length), [radius, 0], rtol=1e-11, atol=1e-15
    ).y[0, -1]
    line = bt.Line([bt.Drift(length, slices=200, model="linear")])
    end = line.envelope(
        ref, cold, space_charge=bt.SpaceChargeEnvelope("3D"), charge=charge, record="ends"
    ).moments.iloc[-1]
    assert exact > 1.3 * radius
    for axis, unit in (("x", 1), ("y", 1), ("t", ref.beta_gamma)):
        assert end[f"sigma_{axis}"] * unit * math.sqrt(5) == pytest.approx(exact, rel=1e-4)


def test_tilted_envelope_against_particles() -> None:
    """A flat KV beam through rolled quadrupoles: the whole covariance, coupling included."""
    ref = proton(6.7e6)
    start = bt.KV.from_ellipse(
        lambda_x=1e-3, lambda_y=4e-4, lambda_t=1e-3, lambda_px=1e-3, lambda_py=2e-3, lambda_pt=0
    )
    line = bt.Line(
        [
            bt.Drift(0.1, slices=8, model="linear"),
            bt.Quadrupole(0.1, k1=25, roll=0.5, slices=8, model="linear"),
            bt.Drift(0.1, slices=8, model="linear"),
            bt.Quadrupole(0.1, k1=-30, roll=-0.3, slices=8, model="linear"),
            bt.Drift(0.1, slices=8, model="linear"),
        ]
    )
    current = 0.2
    beam = bt.Beam(ref, start, n=200_000, seed=2)
    covariance = beam.covariance()
    expected = line.envelope(
        ref, covariance, space_charge=bt.SpaceChargeEnvelope("2D", current=current)
    ).covariance
    without = line.envelope(ref, covariance).covariance
    line.track(beam, space_charge=bt.SpaceCharge2D(current, (64, 64)), progress=False)
    found = beam.covariance()
    size = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))[:4, :4]
    assert abs(expected[0, 2]) > 0.1 * size[0, 2]
    assert np.max(np.abs(without - expected)[:4, :4] / size) > 0.2
    assert np.max(np.abs(found - expected)[:4, :4] / size) < 0.01


def test_ellipsoid_against_particles_on_a_grid() -> None:
    """A uniform ellipsoid, tilted in x and t: envelope and particles in three dimensions."""
    ref = proton()
    start = bt.Kurth6D.from_ellipse(
        lambda_x=1e-3, lambda_y=5e-4, lambda_t=2e-3, lambda_px=0, lambda_py=0, lambda_pt=0
    )
    beam = bt.Beam(ref, start, n=200_000, charge=2e-9, seed=4)
    beam.x[:] += 0.6 * beam.t
    covariance = beam.covariance()
    line = bt.Line([bt.Drift(1.0, slices=10, model="linear")])
    expected = line.envelope(
        ref, covariance, space_charge=bt.SpaceChargeEnvelope("3D"), charge=2e-9
    ).covariance
    line.track(beam, space_charge=bt.SpaceCharge3D((48, 48, 48)), progress=False)
    found = beam.covariance()
    size = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    assert np.max(np.abs(expected - covariance) / size) > 0.1
    assert np.max(np.abs(found - expected) / size) < 0.02


# --- particles ------------------------------------------------------------------------------------


def test_uniform_beam_doubles_in_size_and_takes_test_particles_along() -> None:
    """The expanding beam of ImpactX's example: after L = 1.516770632602484 R0/sqrt(K) its radius
    has doubled. Particles of weight 0 inside move with it; those outside are repelled by all of
    it."""
    ref, radius, current = proton(), 1e-3, 0.15
    k = perveance(ref, current)
    length = 1.516770632602484 * radius / math.sqrt(k)
    cold = bt.KV.from_ellipse(
        lambda_x=radius / 2,
        lambda_y=radius / 2,
        lambda_t=1e-3,
        lambda_px=0,
        lambda_py=0,
        lambda_pt=0,
    )
    beam = bt.Beam(ref, cold, n=50_000, seed=1)
    x = np.concatenate([beam.x, np.linspace(0, radius, 11), [1.5 * radius]])
    y = np.concatenate([beam.y, np.zeros(12)])
    weight = np.concatenate([beam.weight, np.zeros(12)])
    nothing = np.zeros(len(x))
    beam = bt.Beam.from_arrays(
        ref, x=x, y=y, weight=weight, px=nothing, py=nothing, t=nothing, pt=nothing
    )
    line = bt.Line([bt.Drift(length, slices=40, model="linear")])
    line.track(beam, space_charge=bt.SpaceCharge2D(current, (64, 64)), progress=False)
    inner = beam.x[50_000:50_009]
    np.testing.assert_allclose(inner, 2 * np.linspace(0, radius, 11)[:9], atol=0.03 * radius)
    outside = solve_ivp(lambda s, u: [u[1], k / u[0]], (0, length), [1.5 * radius, 0], rtol=1e-9).y[
        0, -1
    ]
    assert beam.x[-1] == pytest.approx(outside, rel=0.01)


@pytest.mark.parametrize("model", MODELS, ids=repr)
def test_kicks_do_not_depend_on_threads_and_are_undone(model: bt.SpaceCharge2D) -> None:
    line = bt.Line([bt.Drift(1.0, slices=3), bt.Quadrupole(0.2, k1=3)])
    start = gaussian()
    one, many = start.copy(), start.copy()
    line.track(one, space_charge=model, threads=1, progress=False)
    line.track(many, space_charge=model, threads=4, progress=False)
    for name in COORDINATES:
        assert np.array_equal(one[name], many[name])
    line.track(one, space_charge=model, backward=True, progress=False)
    for name in COORDINATES:
        size = np.max(np.abs(start[name]))
        assert np.max(np.abs(one[name] - start[name])) < 1e-12 * size


@pytest.mark.parametrize("model", MODELS, ids=repr)
def test_single_precision_agrees_with_double(model: bt.SpaceCharge2D) -> None:
    kicks = []
    for precision in ("double", "single"):
        beam = gaussian(precision=precision)
        for name in ("px", "py", "pt"):
            beam[name][:] = 0
        model.kick(beam, 1.0)
        kicks.append([np.array(beam[name], dtype=float) for name in ("px", "py", "pt")])
    for double, single in zip(*kicks, strict=True):
        assert np.max(np.abs(double - single)) <= 5e-6 * np.max(np.abs(double))


@pytest.mark.parametrize("model", MODELS, ids=repr)
def test_models_are_values(model: bt.SpaceCharge2D) -> None:
    assert type(model)(**model.to_dict()) == model
    assert pickle.loads(pickle.dumps(model)) == model
    assert dataclasses.replace(model, order=1) != model
    with pytest.raises(dataclasses.FrozenInstanceError):
        model.order = 1  # type: ignore[misc]


def test_gaussian_bunch_agrees_with_the_grid() -> None:
    beam = gaussian(400_000)
    for name in ("px", "py", "pt"):
        beam[name][:] = 0
    other = beam.copy()
    bt.SpaceChargeGaussian("3D").kick(beam, 1.0)
    bt.SpaceCharge3D((64, 64, 64), shape="quadratic").kick(other, 1.0)
    for name in ("px", "py", "pt"):
        error = np.sqrt(np.mean((beam[name] - other[name]) ** 2))
        assert error < 0.06 * np.sqrt(np.mean(beam[name] ** 2))


def test_spacing_and_order_decide_where_kicks_stand() -> None:
    line = bt.Line([bt.Drift(1.0)])
    results = []
    for options in ({"spacing": 0.01}, {"spacing": 0.25}, {"spacing": 0.25, "order": 1}, {}):
        beam = gaussian(5000)
        line.track(beam, space_charge=bt.SpaceChargeGaussian(**options), progress=False)
        results.append(float(beam.moments()["sigma_x"]))
    exact, second, first, one = results
    assert abs(second / exact - 1) < abs(first / exact - 1)
    assert abs(second / exact - 1) < abs(one / exact - 1)


# --- refused --------------------------------------------------------------------------------------


def test_models_stand_only_where_they_make_sense() -> None:
    line, beam, spread = bt.Line([bt.Drift(1.0)]), gaussian(100), gaussian(1000).covariance()
    with pytest.raises(ValueError, match="SpaceChargeEnvelope 2D has no kick on particles"):
        line.track(beam, space_charge=bt.SpaceChargeEnvelope("2D", current=1.0))
    for model in [*MODELS, bt.SpaceCharge3D(8)]:
        with pytest.raises(ValueError, match="envelope"):
            line.envelope(proton(), spread, space_charge=model, charge=1e-9)
    with pytest.raises(ValueError, match="needs the charge"):
        line.envelope(proton(), spread, space_charge=bt.SpaceChargeEnvelope("3D"))
    with pytest.raises(TypeError, match="space_charge takes a model"):
        line.track(beam, space_charge="3D")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: bt.SpaceCharge2D(math.nan), "current = nan A is not allowed; allowed: finite"),
        (lambda: bt.SpaceCharge2D(1.0, (4, 64)), "cells = 4 must be between 8 and 4096"),
        (lambda: bt.SpaceCharge2D(1.0, (8, 8, 8)), "must be one or two numbers"),
        (lambda: bt.SpaceCharge2D(1.0, shape="cubical"), "shape = 'cubical' is not allowed"),
        (lambda: bt.SpaceCharge2D(1.0, margin=0.5), "margin = 0.5 is not allowed; allowed: >= 1"),
        (
            lambda: bt.SpaceCharge2D(1.0, order=3),
            "SpaceCharge2D: order = 3 is not allowed; allowed: 1, 2",
        ),
        (
            lambda: bt.SpaceCharge2D(1.0, spacing=0.0),
            "spacing = 0.0 m is not allowed; allowed: > 0",
        ),
        (lambda: bt.SpaceCharge2p5D(bins=1), "bins = 1 is not allowed"),
        (lambda: bt.SpaceCharge2p5D(longitudinal_scale=-1.0), "longitudinal_scale = -1 m"),
        (lambda: bt.SpaceChargeGaussian("2D"), "dimension = '2D' must be '2.5D' or '3D'"),
        (lambda: bt.SpaceChargeGaussian(tolerance=0.1), "tolerance = 0.1 is not allowed"),
        (lambda: bt.SpaceChargeEnvelope("2D"), "needs the current"),
        (lambda: bt.SpaceChargeEnvelope("3D", current=1.0), "has a charge, not a current"),
    ],
)
def test_values_out_of_range(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]


@pytest.mark.parametrize("model", MODELS, ids=repr)
def test_degenerate_beams(model: bt.SpaceCharge2D) -> None:
    line = bt.Line([bt.Drift(1.0)])
    for n in (0, 1):
        beam = gaussian(n, charge=1e-9 if n else None)  # type: ignore[arg-type]
        line.track(beam, space_charge=model, progress=False)
        assert len(beam) == n
    if not isinstance(model, bt.SpaceCharge2D):
        neutral = gaussian(100, charge=0.0)
        before = np.array(neutral.px)
        line.track(neutral, space_charge=model, progress=False)
        assert np.array_equal(neutral.px, before)
    wrong = gaussian(100)
    wrong.x[7] = math.nan
    with pytest.raises(ValueError, match=r"finite|not a number|nan"):
        model.kick(wrong, 1.0)


def test_current_zero_does_nothing() -> None:
    beam = gaussian(1000)
    before = np.array(beam.px)
    bt.SpaceCharge2D(0.0).kick(beam, 1.0)
    assert np.array_equal(beam.px, before)
