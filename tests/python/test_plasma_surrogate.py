"""Plasma stages learned from pairs of particles: the map, its element, training, domain, files."""

import copy
import dataclasses
import pickle
import warnings
from pathlib import Path

import betatron as bt
import numpy as np
import pytest
from betatron.fixed_time import to_fixed_place, to_fixed_time
from betatron.surrogate import (
    Domain,
    OutsideDomainWarning,
    PlasmaStageSurrogate,
    Residuals,
    StageModel,
    plasma_stage_files,
)
from betatron.surrogate.pairs import Pairs, inliers, read_npz, split
from betatron.surrogate.report import moment_errors, moments, table
from betatron.surrogate.stage import features

FILES = plasma_stage_files()


def beam_of(reference, particles, xi, precision="double"):
    """A beam in front of a stage from particles x, y, xi, px, py, pz."""
    u = reference.beta_gamma
    x, y, z, px, py, pz = particles.T
    columns = to_fixed_place(reference, (x, y, z - xi, px / u, py / u, pz / u))
    return beam_at(reference, columns, precision)


def beam_at(reference, columns, precision="double"):
    dtype = np.float32 if precision == "single" else np.float64
    names = ("x", "px", "y", "py", "t", "pt")
    return bt.Beam.from_arrays(
        reference, **{k: np.asarray(c, dtype) for k, c in zip(names, columns, strict=True)}
    )


def columns_of(beam):
    return [np.asarray(getattr(beam, c), np.float64) for c in ("x", "px", "y", "py", "t", "pt")]


def particles_of(beam, xi):
    """Particles of the model's coordinates, behind the stage, at the time when the reference
    particle is at its exit."""
    u = beam.reference.beta_gamma
    x, y, z, px, py, pz = to_fixed_time(beam.reference, columns_of(beam))
    return np.stack((x, y, z + xi, px * u, py * u, pz * u), axis=1)


def draw(n, gamma=1957.0, seed=0, scale=1.0, spread=0.03):
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(n, 6)) * [
        scale * 1e-6,
        scale * 1e-6,
        1e-6,
        scale * 4,
        scale * 4,
        spread * gamma,
    ]
    a[:, 2] -= 63e-6
    a[:, 5] += gamma
    return a


def electron(gamma=1957.0):
    return bt.Reference("electron", gamma=gamma)


# --- the shipped stages ---------------------------------------------------------------------------


def test_fifteen_stages_come_with_the_package():
    assert [f.name for f in FILES] == [f"stage_{i:02d}.safetensors" for i in range(1, 16)]
    assert sum(f.stat().st_size for f in FILES) < 1_000_000
    for f in FILES:
        model = StageModel.load(f)
        assert model.length == 0.28
        assert model.operations() <= 6_500_000 / 300
        assert {"source", "data_sha256", "date", "versions", "recipe"} <= set(model.provenance)


@pytest.mark.parametrize("index", [0, 7, 14])
def test_shipped_stages_agree_with_the_simulation(index, held_out):
    """Pairs kept out of training: all five moments to better than 1 %."""
    model = StageModel.load(FILES[index])
    pairs = Pairs(held_out[f"source_{index + 1}"], held_out[f"target_{index + 1}"], "held out")
    for name, error in moment_errors(model.apply, pairs).items():
        assert abs(error) < 0.01, name


def test_a_chain_reaches_100_GeV():
    line = bt.Line([PlasmaStageSurrogate(f) for f in FILES])
    end = line.survey(electron())["gamma"].iloc[-1]
    assert 100e9 < end * 0.51099895e6 < 120e9


@pytest.fixture(scope="module")
def held_out():
    """300 pairs of each of three stages, from the part that was kept for tests (float32)."""
    with np.load(Path(__file__).parent / "data" / "plasma_pairs.npz") as data:
        return {k: data[k].astype(np.float64) for k in data.files}


# --- the map --------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", [0, 14])
def test_angular_momentum_is_conserved_and_the_axis_stays(index):
    model = StageModel.load(FILES[index])
    gamma = float(model.feature_mean[1]) ** -2
    a = draw(300, gamma)
    b = model.apply(a)
    before, after = (p[:, 0] * p[:, 4] - p[:, 1] * p[:, 3] for p in (a, b))
    np.testing.assert_allclose(after, before, rtol=1e-9, atol=1e-18)
    a[:, [0, 1, 3, 4]] = 0.0
    assert not model.apply(a)[:, [0, 1, 3, 4]].any()


def test_turning_the_beam_turns_the_result():
    model = StageModel.load(FILES[0])
    a = draw(200)
    angle = 0.7

    def turn(p):
        c, s = np.cos(angle), np.sin(angle)
        q = p.copy()
        for i, j in ((0, 1), (3, 4)):
            q[:, i], q[:, j] = c * p[:, i] - s * p[:, j], s * p[:, i] + c * p[:, j]
        return q

    np.testing.assert_allclose(model.apply(turn(a)), turn(model.apply(a)), rtol=1e-7, atol=1e-15)


def later(particles, path):
    """Where particles are when light has gone on by `path`."""
    p = particles.copy()
    gamma = np.sqrt(1 + (p[:, 3:] ** 2).sum(axis=1))
    p[:, :2] += path * p[:, 3:5] / gamma[:, None]
    p[:, 2] += path * (p[:, 5] / gamma - 1)
    return p


@pytest.mark.parametrize(("precision", "tolerance"), [("double", 1e-11), ("single", 1e-4)])
@pytest.mark.parametrize("index", [0, 14])
def test_element_is_the_model(index, precision, tolerance):
    model = StageModel.load(FILES[index])
    stage = PlasmaStageSurrogate(FILES[index])
    gamma = float(model.feature_mean[1]) ** -2
    a = draw(1001, gamma)
    beam = beam_of(electron(gamma), a, stage.xi, precision)
    np.testing.assert_allclose(stage.particles(beam), a, rtol=3e-6, atol=1e-9)
    a = stage.particles(beam)
    bt.Line([stage]).track(beam)
    # the plane of the exit is where xi of the reference particle would be without slip: it gets
    # there a little after the time of the model
    axis = np.array([[0, 0, stage.xi, 0, 0, gamma * np.sqrt(1 - gamma**-2)]])
    on_axis = model.apply(axis)
    late = axis[0, 2] - on_axis[0, 2]
    want = later(model.apply(a), late)
    assert beam.reference.gamma == pytest.approx(np.hypot(1.0, on_axis[0, 5]), rel=1e-12)
    assert beam.reference.s == pytest.approx(0.28, rel=1e-14)
    got = particles_of(beam, stage.xi)
    for i in (0, 1, 3, 4, 5):
        scale = np.abs(want[:, i]).max()
        assert np.abs(got[:, i] - want[:, i]).max() < tolerance * scale
    np.testing.assert_allclose(
        got[:, 2], want[:, 2] + late, rtol=0, atol=1e-16 if precision == "double" else 1e-10
    )
    assert stage.counts[0] == 1001


def test_reference_particle_in_pieces_and_back():
    stage = PlasmaStageSurrogate(FILES[0])
    ref = electron()
    forth = stage.reference(ref, _Piece(0.28, 0.0, 1.0))
    half = stage.reference(stage.reference(ref, _Piece(0.07, 0.0, 0.25)), _Piece(0.21, 0.25, 1.0))
    back = stage.reference(forth, _Piece(-0.28, 1.0, 0.0))
    assert half.gamma == pytest.approx(forth.gamma, rel=1e-13)
    assert back.gamma == pytest.approx(ref.gamma, rel=1e-13)
    assert forth.t == pytest.approx(0.28 / ref.beta, rel=1e-6)
    assert back.t == pytest.approx(ref.t, abs=1e-16)


@dataclasses.dataclass
class _Piece:
    length: float
    start: float
    end: float


def test_matrix_is_the_derivative():
    """Of the element at an orbit, against central differences of tracking."""
    line, ref = bt.Line([PlasmaStageSurrogate(FILES[0], outside="fallback")]), electron()
    rng = np.random.default_rng(5)
    for outside in (False, True):
        orbit = rng.normal(size=6) * [1e-6, 1e-3, 1e-6, 1e-3, 5e-7, 0.01]
        orbit[4] += 15e-6 if outside else 0.0
        numeric = np.empty((6, 6))
        for k, h in enumerate((1e-11, 1e-8, 1e-11, 1e-8, 1e-11, 1e-7)):
            beam = beam_at(ref, orbit[:, None] + h * np.eye(6)[:, [k, k]] * [1, -1])
            line.track(beam)
            z = np.stack(columns_of(beam))
            numeric[:, k] = (z[:, 0] - z[:, 1]) / (2 * h)
        scale = np.abs(numeric).max(axis=1, keepdims=True)
        assert np.abs(line.matrix(ref, orbit) - numeric).max() < 1e-5 * scale.max()


def linear(weight):
    """The sum over the particles of weight . z."""
    return bt.losses.of_particles(
        lambda z: (float((weight * z).sum()), np.broadcast_to(weight, z.shape).copy())
    )


def test_gradients_pass_through():
    """Derivatives by initial coordinates against central differences."""
    stage = PlasmaStageSurrogate(FILES[0])
    line = bt.Line([bt.elements.Drift(1e-5), stage, bt.elements.Drift(0.02)])  # stays in the domain
    ref = electron()
    start = np.stack(columns_of(beam_of(ref, draw(40), stage.xi)))
    rng = np.random.default_rng(3)
    weight = rng.normal(size=6)[:, None] / np.array([1e-6, 1e-4, 1e-6, 1e-4, 1e-6, 1e-2])[:, None]

    def end(columns):
        beam = beam_at(ref, columns)
        line.track(beam)
        return float((weight * np.stack(columns_of(beam))).sum())

    g = line.gradient(beam_at(ref, start), linear(weight), initial=True)
    initial = np.asarray(g.initial)
    for k, h in enumerate((1e-11, 1e-9, 1e-11, 1e-9, 1e-11, 1e-7)):
        i = k  # one particle for each coordinate
        up, down = start.copy(), start.copy()
        up[k, i] += h
        down[k, i] -= h
        numeric = (end(up) - end(down)) / (2 * h)
        assert initial[k, i] == pytest.approx(numeric, rel=2e-4), k


# --- the domain -----------------------------------------------------------------------------------


def far(n=50):
    a = draw(n)
    a[: n // 2, 0] += 40e-6
    return a


def test_particles_outside_are_counted_and_reported():
    stage = PlasmaStageSurrogate(FILES[0], name="first")
    a = far()
    expected = int(stage.model.domain.outside(stage.model.features(a)).sum())
    assert expected >= 25
    with pytest.warns(OutsideDomainWarning, match=r"'first': \d+ of 50 particles were outside"):
        track = bt.Line([stage]).track(beam_of(electron(), a, stage.xi))
    report = track.learned["first"]
    assert (report["passed"], report["outside"]) == (50, expected)
    assert report == pytest.approx(stage.model.expected_error(a), rel=1e-6)
    assert stage.counts == (50, expected)
    stage.reset_counts()
    assert stage.counts == (0, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bt.Line([stage]).track(beam_of(electron(), draw(50, scale=0.3, spread=0.01), stage.xi))


def test_policies():
    a = far()
    stage = PlasmaStageSurrogate(FILES[0], outside="lose")
    beam = beam_of(electron(), a, stage.xi)
    bt.Line([stage]).track(beam)
    assert len(beam) == 50 - stage.counts[1]
    assert set(beam.lost["reason"]) == {"outside_domain"}

    # where the network would give NaN, too; who is lost keeps the coordinates that it came with
    beam = beam_of(electron(), np.array([[1e-3, 0, -63e-6, 0, 0, 1957.0]]), stage.xi)
    x = beam.x[0]
    bt.Line([stage]).track(beam)
    assert beam.lost["reason"].tolist() == ["outside_domain"]
    assert beam.lost["x"].tolist() == [x]

    stage = PlasmaStageSurrogate(FILES[0], outside="fallback")
    beam = beam_of(electron(), a, stage.xi)
    bt.Line([stage]).track(beam)
    slip = (
        stage.model.apply(np.array([[0, 0, stage.xi, 0, 0, electron().beta_gamma]]))[0, 2]
        - stage.xi
    )
    want = later(stage.model.apply(a, outside="fallback"), -slip)
    got = particles_of(beam, stage.xi)
    for i in (0, 1, 3, 4, 5):
        assert np.abs(got[:, i] - want[:, i]).max() < 1e-10 * np.abs(want[:, i]).max()
    # linear focusing: amplitudes outside stay what adiabatic damping makes of them
    assert np.abs(got[:25, 0]).max() < 45e-6
    with pytest.raises(ValueError, match="must be 'warn', 'fallback', 'lose' or 'stop'"):
        PlasmaStageSurrogate(FILES[0], outside="ignore")


def test_fallback_has_gradients_too():
    stage = PlasmaStageSurrogate(FILES[0], outside="fallback")
    line = bt.Line([stage])
    ref = electron()
    start = np.stack(columns_of(beam_of(ref, far(12), stage.xi)))
    weight = np.array([1e6, 0, 0, 0, 0, 1e2])[:, None]
    g = np.asarray(line.gradient(beam_at(ref, start), linear(weight), initial=True).initial)

    def end(columns):
        beam = beam_at(ref, columns)
        line.track(beam)
        return float((weight * np.stack(columns_of(beam))).sum())

    for k, h in ((0, 1e-10), (4, 1e-10), (5, 1e-7)):
        up, down = start.copy(), start.copy()
        up[k, 2] += h
        down[k, 2] -= h
        assert g[k, 2] == pytest.approx((end(up) - end(down)) / (2 * h), rel=1e-4)


@pytest.mark.parametrize("precision", ["double", "single"])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("order", [1, -1])
def test_stopping_leaves_the_beam_in_front_of_the_stage(order, threads, precision):
    """All of it, several tiles long, with the count of all; so does a gradient, which changes no
    beam."""
    stage = PlasmaStageSurrogate(FILES[0], "first", outside="stop")
    front = bt.Line([bt.Drift(0.25), bt.Quadrupole(0.25, k1=3.0, name="q")])
    columns = np.zeros((6, 2000))
    columns[0] = np.linspace(0, 2e-5, 2000)[::order]
    columns[1] = 1e-6
    beam = beam_at(electron(), columns, precision)
    want = beam.copy()
    front.track(want)
    line = bt.Line([*front, stage, bt.Drift(0.1)])
    with pytest.raises(RuntimeError, match="of 2000 particles are outside of what") as of_gradient:
        line.gradient(beam, bt.losses.beam_size("x"), [("q", "k1")], threads=threads)
    with pytest.raises(RuntimeError) as caught:
        line.track(beam, threads=threads)
    outside = int(stage.model.domain.outside(stage.model.features(stage.particles(want))).sum())
    assert 0 < outside < 2000
    assert str(caught.value) == (
        f"PlasmaStageSurrogate 'first' at s = 0.5 m, turn 0: {outside} of 2000 particles are "
        "outside of what it was trained for"
    )
    assert str(of_gradient.value) == str(caught.value)
    assert (len(beam), len(beam.lost)) == (2000, 0)
    assert beam.reference == want.reference
    np.testing.assert_array_equal(columns_of(beam), columns_of(want))


def ring(radius, n=200):
    """Particles at rest on a circle about the axis."""
    columns = np.zeros((6, n))
    angle = np.linspace(0, 2 * np.pi, n, endpoint=False)
    columns[0], columns[2] = radius * np.cos(angle), radius * np.sin(angle)
    return beam_at(electron(), columns)


def test_fallback_slips_as_oscillating_particles_do():
    """Far outside, against an analytic stage of the same wake: it comes late because of its longer
    way, and so gains more. On the axis, what the network says."""
    gain, late = {}, {}
    for name, stage in {
        "fallback": PlasmaStageSurrogate(FILES[0], outside="fallback"),
        "analytic": bt.PlasmaStage(
            0.28, 1.7e23, acceleration=25.33e9, slope=-1.442e15, focusing=0.92, steps=400
        ),
    }.items():
        axis, beam = ring(0.0), ring(1.9e-5)
        for b in (axis, beam):
            bt.Line([stage]).track(b)
        ref = beam.reference
        gain[name] = ref.gamma - ref.beta_gamma * beam.pt.mean() - axis.reference.gamma
        late[name] = beam.t.mean() - axis.t.mean()
    assert late["fallback"] == pytest.approx(late["analytic"], rel=0.25)
    assert gain["fallback"] == pytest.approx(gain["analytic"], rel=0.35)
    assert late["fallback"] > 5e-6
    model = StageModel.load(FILES[7])
    f = np.array([[model.xi, model.feature_mean[1], q, q, 0.0] for q in (1e-6, 5e-5)])
    want, got = model.network(f), model.physics(f)
    np.testing.assert_allclose(got[:, 6], want[:, 6], rtol=0.15, atol=2e-10)
    np.testing.assert_allclose(got[:, 5], want[:, 5], rtol=1e-2)


@pytest.mark.parametrize("policy", ["warn", "fallback"])
def test_nothing_is_claimed_of_particles_outside(policy):
    stage = PlasmaStageSurrogate(FILES[0], "s", outside=policy)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OutsideDomainWarning)
        far_out = bt.Line([stage]).track(ring(1.9e-5)).learned["s"]
        mixed = ring(1.9e-5)
        for c, values in zip(("x", "y"), (ring(3e-6).x, ring(3e-6).y), strict=True):
            getattr(mixed, c)[100:] = values[100:]
        mixed = bt.Line([stage]).track(mixed).learned["s"]
    inside = stage.expected_error(ring(3e-6))
    assert (far_out["passed"], far_out["outside"]) == (200, 200)
    assert all(np.isnan(far_out[k]) for k in ("transverse", "gamma", "xi"))
    assert mixed == pytest.approx({**inside, "outside": 100})


def test_one_estimate_before_and_after_tracking():
    """With the weights of particles, and where the stage stands."""
    stage = PlasmaStageSurrogate(FILES[0], "s", dx=1e-5, pitch=1e-4, outside="lose")
    plain = PlasmaStageSurrogate(FILES[0])
    start = np.stack(columns_of(beam_of(electron(), draw(400, scale=3.0, spread=0.1), stage.xi)))
    names = ("x", "px", "y", "py", "t", "pt")

    def weighted(shift, weight):
        columns = dict(zip(names, start, strict=True))
        columns["x"] = columns["x"] + shift
        return bt.Beam.from_arrays(electron(), **columns, weight=weight)

    weight = np.linspace(1.0, 3.0, 400) * 1e5
    before = stage.expected_error(weighted(1e-5, weight))
    after = bt.Line([stage]).track(weighted(1e-5, weight), threads=2).learned["s"]
    assert before == after
    assert stage.counts[0] == 400  # asking does not count
    assert before["outside"] > 0
    assert before != stage.expected_error(weighted(1e-5, np.ones(400)))
    straight = PlasmaStageSurrogate(FILES[0], dx=1e-5)
    assert straight.expected_error(weighted(1e-5, weight)) == pytest.approx(
        plain.expected_error(weighted(0.0, weight)), rel=1e-6
    )
    of_model = stage.model.expected_error(plain.particles(weighted(0.0, weight)), weight)
    assert plain.expected_error(weighted(0.0, weight)) == pytest.approx(of_model, rel=1e-6)
    beam = weighted(0.0, weight)
    beam.px[3] = np.nan
    with pytest.raises(ValueError, match="PlasmaStageSurrogate 's': px holds NaN or infinity"):
        stage.expected_error(beam)
    with pytest.raises(ValueError, match="particles hold NaN or infinity"):
        stage.model.expected_error(np.full((1, 6), np.nan))


def test_gradients_warn_and_report_too():
    stage = PlasmaStageSurrogate(FILES[0], "s")
    line = bt.Line([bt.PlasmaLens(0.003, k1=100.0, name="l"), stage])
    loss = bt.losses.beam_size("x")
    for strategy in ("rewind", "checkpoint"):
        with pytest.warns(OutsideDomainWarning, match="'s': 200 of 200 particles") as caught:
            g = line.gradient(ring(1.9e-5), loss, [("l", "k1")], strategy=strategy, tolerance=1e-3)
        assert [w.filename for w in caught] == [__file__]
        assert (g.learned["s"]["passed"], g.learned["s"]["outside"]) == (200, 200)
    objective = bt.Objective(line, ring(1.9e-5), loss, [("l", "k1")])
    with pytest.warns(OutsideDomainWarning) as caught:
        objective([90.0])
    assert [w.filename for w in caught] == [__file__]
    assert objective.learned["s"]["outside"] == 200


def test_expected_error_grows_outwards():
    stage = PlasmaStageSurrogate(FILES[0])
    near = stage.expected_error(beam_of(electron(), draw(400, scale=0.3, spread=0.005), stage.xi))
    assert near["outside"] == 0
    assert 0 < near["transverse"] < 0.2
    wide = stage.expected_error(beam_of(electron(), draw(400, scale=3.0, spread=0.1), stage.xi))
    assert wide["outside"] > 0.01


def test_stages_of_one_name_are_all_reported():
    a = draw(50, scale=0.3, spread=0.01)
    first, second = (PlasmaStageSurrogate(FILES[i], name="stage") for i in (0, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OutsideDomainWarning)
        track = bt.Line([first, second, first]).track(beam_of(electron(), a, first.xi))
    assert {k: v["passed"] for k, v in track.learned.items()} == {"stage": 100, "stage 2": 50}
    unnamed = bt.Line([PlasmaStageSurrogate(first.model)])
    assert list(unnamed.track(beam_of(electron(), a, first.xi)).learned) == ["PlasmaStageSurrogate"]


def test_the_warning_points_to_who_tracks():
    stage = PlasmaStageSurrogate(FILES[0])
    with pytest.warns(OutsideDomainWarning) as caught:
        bt.Line([stage]).track(beam_of(electron(), far(), stage.xi))
    assert [w.filename for w in caught] == [__file__]


@pytest.mark.parametrize("precision", ["double", "single"])
@pytest.mark.parametrize("n", [0, 1, 3])
def test_few_particles(n, precision):
    stage = PlasmaStageSurrogate(FILES[0], name="first")
    beam = beam_of(electron(), draw(n, scale=0.3, spread=0.01), stage.xi, precision)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before = stage.expected_error(beam)
        report = bt.Line([stage]).track(beam).learned["first"]
    assert (len(beam), report["passed"], report["outside"]) == (n, n, 0)
    assert before["outside"] == 0
    assert all(np.isfinite(v) for v in (*before.values(), *report.values()))
    assert stage.model.apply(np.empty((n, 6))[:0]).shape == (0, 6)


def test_wrong_use_is_refused():
    for wrong, words in (
        ({"name": 5}, "name must be a text, got int 5"),
        ({"outside": None}, "outside must be a text, got None"),
        ({"length": 0.3}, "its length is that of the model"),
    ):
        with pytest.raises(TypeError, match=words):
            PlasmaStageSurrogate(FILES[0], **wrong)
    model = StageModel.load(FILES[0])
    for particles in (np.zeros(6), np.zeros((3, 5)), np.zeros((1, 2, 6))):
        for use in (model.apply, model.features, model.expected_error):
            with pytest.raises(ValueError, match=r"particles have shape .* wanted \(n, 6\)"):
                use(particles)
    with pytest.raises(ValueError, match="outside = 'lose' must be 'warn' or 'fallback'"):
        model.apply(np.zeros((1, 6)), outside="lose")
    with pytest.raises(TypeError, match="one slice"):
        PlasmaStageSurrogate(FILES[0], slices=3)
    for xi in (0.0, 1e-6, np.nan, -np.inf):
        with pytest.raises(ValueError, match=r"xi = .* m is not allowed; allowed: < 0"):
            PlasmaStageSurrogate(FILES[0], xi=xi)


def test_errors_name_the_kind_that_was_made():
    """And are no errors of user code."""
    line = bt.Line([PlasmaStageSurrogate(FILES[0], "s1")])
    beam = beam_of(electron(), draw(3, scale=0.3), -63e-6)
    polarized = bt.Beam(electron(), n=3, polarization=(0, 1, 0))
    for use, words in (
        (lambda: line.survey(bt.Reference("proton", gamma=1957.0)), "trained for electrons"),
        (lambda: line.track(beam, backward=True), "its code has no inverse"),
        (lambda: line.track(polarized), "its effect on the spin is not known"),
        (lambda: line.taylor_map(electron(), 2), "code has no power series"),
    ):
        with pytest.raises(ValueError, match=f"^PlasmaStageSurrogate 's1': .*{words}"):
            use()
    with pytest.raises(ValueError, match=r"^PlasmaStageSurrogate 's1': slices = 2 .* allowed: 1"):
        line["s1"].slices = 2  # each of them would be the whole stage
    line["s1"].slices = 1
    line["s1"].length = 0.1
    with pytest.raises(ValueError, match=r"^PlasmaStageSurrogate 's1': length = 0.1 m; allowed"):
        line.track(beam)
    assert beam.reference == electron()


def test_dictionary_form_and_copy():
    stage = PlasmaStageSurrogate(FILES[3], "s4", outside="lose", dx=1e-6)
    line = bt.Line([stage], name="one")
    again = bt.Line.from_dict(line.to_dict())[0]
    assert isinstance(again, PlasmaStageSurrogate)
    assert stage.to_dict()["model"] == "stage_04"  # the same on every machine
    assert (again.name, again.outside, again.dx, again.xi) == ("s4", "lose", 1e-6, stage.xi)
    assert again == stage  # of the same file
    assert again != PlasmaStageSurrogate(FILES[4], "s4", outside="lose", dx=1e-6, xi=stage.xi)
    twin = stage.copy()
    assert twin.outside == "lose" and twin.dx == 1e-6 and twin.counts == (0, 0)
    with pytest.raises(FileNotFoundError):
        PlasmaStageSurrogate("stage_16")
    with pytest.raises(ValueError, match="in no file"):
        PlasmaStageSurrogate(stage.model).to_dict()


@pytest.mark.parametrize(
    "again", [copy.copy, copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))]
)
def test_copies_and_pickles(again):
    of_file = PlasmaStageSurrogate(FILES[3], "s4", outside="lose", dx=1e-6)
    residuals = Residuals(np.array([1.0, 2.0]), np.ones(2), np.ones(2), np.ones(2))
    in_memory = PlasmaStageSurrogate(small_model(residuals=residuals), "m", xi=-5e-5)
    for stage in (of_file, in_memory):
        made = again(stage)
        assert made == stage and made is not stage
        assert (made.outside, made.xi, made.dx) == (stage.outside, stage.xi, stage.dx)
        assert made.counts == (0, 0)
    assert again(of_file).to_dict() == of_file.to_dict()
    other = small_model(residuals=residuals, amplitude=2e-5)
    assert again(in_memory) != PlasmaStageSurrogate(other, "m", xi=-5e-5)


# --- files ----------------------------------------------------------------------------------------


def small_model(**changes):
    rng = np.random.default_rng(0)
    values = dict(
        length=0.1,
        focusing=3e9,
        amplitude=1e-5,
        xi=-63e-6,
        weights=(rng.normal(size=(4, 5)), rng.normal(size=(7, 4))),
        biases=(rng.normal(size=4), rng.normal(size=7)),
        feature_mean=np.zeros(5),
        feature_scale=np.ones(5),
        output_mean=np.zeros(7),
        output_scale=np.ones(7),
        domain=Domain(np.zeros(5), np.ones(5), np.zeros(5), np.eye(5), 3.0),
        residuals=Residuals(np.ones(2), np.ones(2), np.ones(2), np.ones(2)),
        gain=np.ones(3),
        fallback=np.zeros(7),
        provenance={"data": "none"},
    )
    return StageModel(**{**values, **changes})


def test_files_keep_everything(tmp_path):
    model = StageModel.load(FILES[1])
    model.save(tmp_path / "copy.safetensors")
    again = StageModel.load(tmp_path / "copy.safetensors")
    a = draw(50, float(model.feature_mean[1]) ** -2)
    np.testing.assert_array_equal(again.apply(a), model.apply(a))
    assert again.provenance == model.provenance
    assert again.expected_error(a) == model.expected_error(a)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": (np.ones((4, 5)), np.ones((6, 4)))}, r"layers\.1\.weight has shape \(6, 4\)"),
        ({"biases": (np.ones(3), np.ones(7))}, r"layers\.0\.bias has shape \(3,\)"),
        ({"weights": (np.full((4, 5), np.nan), np.ones((7, 4)))}, r"layers\.0\.weight holds NaN"),
        ({"focusing": np.inf}, "focusing = inf must be finite"),
        ({"gain": np.ones(2)}, r"gain has shape \(2,\)"),
        ({"feature_scale": np.zeros(5)}, "feature_scale holds 0"),
        ({"residuals": Residuals(*np.zeros((4, 0)))}, r"residuals\.distance has shape \(0,\)"),
        ({"residuals": Residuals(*-np.ones((4, 2)))}, r"residuals\.transverse holds negative"),
        ({"provenance": [1]}, "provenance is a list, no object"),
    ],
)
def test_broken_files_are_refused(tmp_path, changes, message):
    path = tmp_path / "broken.safetensors"
    small_model(**changes).save(path)
    with pytest.raises(ValueError, match=message):
        StageModel.load(path)


# --- data and training ----------------------------------------------------------------------------

FOCUSING, LENGTH = 3e9, 0.03


def simulated(n, seed, scale=1.0, spread=0.05, outliers=0, gamma=3000.0):
    """Pairs by integrating the motion in a made-up wake: the field falls with xi, the focusing is
    weaker away from the axis and along xi."""
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(n, 6)) * [
        scale * 2e-6,
        scale * 2e-6,
        2e-6,
        scale * 6,
        scale * 6,
        spread * gamma,
    ]
    a[:, 2] -= 63e-6
    a[:, 5] += gamma
    x, y, xi, px, py, pz = (c.copy() for c in a.T)
    steps = 800
    h = LENGTH / steps
    for _ in range(steps):
        g = np.sqrt(1 + px**2 + py**2 + pz**2)
        x += 0.5 * h * px / g
        y += 0.5 * h * py / g
        xi += 0.5 * h * (pz / g - 1.0)
        k = FOCUSING * (1 + 2e3 * (xi + 63e-6)) * (1 - 2e9 * (x**2 + y**2)) * h
        px -= k * x
        py -= k * y
        pz += h * 5e4 * (1 - 5e4 * (xi + 63e-6))
        g = np.sqrt(1 + px**2 + py**2 + pz**2)
        x += 0.5 * h * px / g
        y += 0.5 * h * py / g
        xi += 0.5 * h * (pz / g - 1.0)
    b = np.stack((x, y, xi, px, py, pz), axis=1)
    b[:outliers] += rng.normal(size=(outliers, 6)) * [1e-3, 1e-3, 1e-5, 30, 30, 800]
    return Pairs(a, b, "made up")


def test_outliers_are_found():
    pairs = simulated(3000, 1, outliers=40)
    keep = inliers(pairs, FOCUSING)
    assert not keep[:40].any()
    assert keep[40:].mean() > 0.98


def test_parts_do_not_overlap():
    parts = split(1000, 3)
    assert sorted(np.concatenate(parts)) == list(range(1000))
    assert [len(p) for p in parts] == [700, 100, 200]


def test_training_makes_an_accurate_stage():
    pytest.importorskip("torch")
    from betatron.surrogate.training import Recipe, train_stage

    recipe = Recipe(hidden=(16, 16), rounds=12, batch=800, final_batch=1200, target=3e-6)
    model = train_stage(simulated(3000, 1, outliers=20), LENGTH, FOCUSING, recipe, "made up")
    assert model.provenance["outliers"] >= 20
    assert model.provenance["source"] == "made up"
    for scale, spread in ((0.3, 0.01), (0.8, 0.04)):
        beam = simulated(2000, 7, scale=scale, spread=spread)
        errors = moment_errors(model.apply, beam)
        assert max(map(abs, errors.values())) < 0.01, errors
        # the stored estimate is about the error that fresh particles have
        want, got = beam.target, model.apply(beam.source)
        gamma = np.sqrt(1 + (want[:, 3:] ** 2).sum(axis=1))
        rms = np.sqrt(((np.sqrt(1 + (got[:, 3:] ** 2).sum(axis=1)) - gamma) ** 2).mean())
        assert 0.2 < model.expected_error(beam.source)["gamma"] / rms < 5


def test_training_is_reproducible():
    pytest.importorskip("torch")
    from betatron.surrogate.training import Recipe, train_stage

    pairs, recipe = simulated(1200, 1), Recipe(hidden=(8,), rounds=2, batch=300)
    first, second = (train_stage(pairs, LENGTH, FOCUSING, recipe) for _ in range(2))
    np.testing.assert_array_equal(first.weights[0], second.weights[0])
    next_one = train_stage(pairs, LENGTH, FOCUSING, recipe, start=first)
    assert next_one.provenance["validation_loss"] <= first.provenance["validation_loss"]
    with pytest.raises(ValueError, match="layers of other sizes"):
        train_stage(pairs, LENGTH, FOCUSING, start=first)


def test_training_checks_what_it_is_given():
    pytest.importorskip("torch")
    from betatron.surrogate.training import search, train_stage

    good = simulated(800, 1)
    same = np.tile(good.source[0], (800, 1))
    gaps = good.source.copy()
    gaps[200:, 2] = np.nan
    for train in (train_stage, search):
        for pairs, words in (
            (Pairs(np.zeros((0, 6)), np.zeros((0, 6)), "none"), "none: 0 pairs of finite numbers"),
            (good.take(np.arange(150)), "150 pairs of finite numbers are too few"),
            (Pairs(gaps, good.target, "gaps"), "gaps: 200 pairs of finite numbers"),
            (Pairs(same, good.target, "same"), "same: x of all particles of source is"),
            (Pairs(good.source, same, "end"), "end: x of all particles of target is"),
        ):
            with pytest.raises(ValueError, match=words):
                train(pairs, LENGTH, FOCUSING)
        for length in (np.nan, -1.0, 0.0):
            with pytest.raises(ValueError, match=rf"length = {length} m is not allowed"):
                train(good, length, FOCUSING)
        with pytest.raises(ValueError, match=r"focusing = inf 1/m\^2 is not allowed"):
            train(good, LENGTH, np.inf)


def test_phases_that_do_not_line_up_are_refused():
    pytest.importorskip("torch")
    from betatron.surrogate.training import train_stage

    pairs = simulated(2000, 1)
    mixed = Pairs(pairs.source, pairs.target[np.random.default_rng(0).permutation(2000)], "mixed")
    with pytest.raises(RuntimeError, match="mixed: "):
        train_stage(mixed, LENGTH, FOCUSING)


def test_search_of_a_recipe():
    pytest.importorskip("torch")
    pytest.importorskip("optuna")
    from betatron.surrogate.training import Recipe, search

    base = Recipe(rounds=2, batch=300)
    recipe, study = search(simulated(1200, 1), LENGTH, FOCUSING, 3, base, most_operations=3000)
    assert len(study.trials) == 3
    assert recipe.rounds == 2
    assert recipe.hidden == (study.best_params["width"],) * study.best_params["layers"]
    assert all(
        t.user_attrs["operations"] <= 3000 for t in study.trials if t.state.name == "COMPLETE"
    )


def test_compression_of_a_plain_network():
    pytest.importorskip("torch")
    from betatron.surrogate.dense import (
        DenseRecipe,
        apply_dense,
        pruned,
        quantised,
        stored_bytes,
        thinned,
        train_dense,
    )

    pairs = simulated(2000, 1)
    net = train_dense(pairs, FOCUSING, DenseRecipe(hidden=(24, 24), epochs=6))

    def rms(n, format=None):
        return np.sqrt(((apply_dense(n, pairs.source, format) - pairs.target) ** 2).mean(axis=0))[5]

    small = pruned(net, pairs.source, 0.25)
    assert [np.shape(layer.weights) for layer in small.layers] == [(18, 6), (18, 18), (6, 18)]
    assert rms(pruned(net, pairs.source, 0.0)) == pytest.approx(rms(net), rel=1e-4)
    trained = train_dense(pairs, FOCUSING, DenseRecipe(epochs=4), start=small)
    assert rms(trained) < rms(small)
    student = train_dense(
        pairs, FOCUSING, DenseRecipe(hidden=(8,), epochs=4), teacher=lambda a: apply_dense(net, a)
    )
    assert student.parameters < net.parameters / 4
    assert rms(quantised(net, "bf16")) == pytest.approx(rms(net), rel=0.1)
    assert rms(quantised(net, "int8")) == pytest.approx(rms(net), rel=0.5)
    assert stored_bytes(net, "int8") < 0.4 * stored_bytes(net)
    assert stored_bytes(thinned(net, 0.5)) < 0.6 * stored_bytes(net)


def test_networks_that_cannot_be_trained_on_are_refused():
    pytest.importorskip("torch")
    from betatron.surrogate import Layer, Network
    from betatron.surrogate.dense import DenseRecipe, apply_dense, train_dense

    pairs, recipe = simulated(400, 1), DenseRecipe(epochs=1, rate=0.0)
    rng = np.random.default_rng(1)
    first, middle = (Layer(rng.normal(size=(6, 6)), activation="tanh") for _ in range(2))
    last = Layer(rng.normal(size=(6, 6)))
    for layers in (
        [first, dataclasses.replace(middle, skip=1), last],
        [first, dataclasses.replace(middle, activation="silu"), last],
        [first, middle],
    ):
        with pytest.raises(ValueError, match="start: only chains of layers with one activation"):
            train_dense(pairs, FOCUSING, recipe, start=Network(layers))
    same = Network([first, middle, last])  # without biases, and with a step size of 0
    trained = train_dense(pairs, FOCUSING, recipe, start=same)
    expected = apply_dense(same, pairs.source, "float64")
    np.testing.assert_allclose(apply_dense(trained, pairs.source, "float64"), expected, rtol=1e-5)


def test_reading_pairs(tmp_path):
    a = draw(10)
    np.savez(tmp_path / "p.npz", src_stage0=a, tgt_stage0=a + 1)
    assert len(read_npz(tmp_path / "p.npz", 0)) == 10
    with pytest.raises(KeyError, match=r"no stage 1; there are \[0\]"):
        read_npz(tmp_path / "p.npz", 1)
    with pytest.raises(ValueError, match=r"target has shape \(9, 6\)"):
        Pairs(a, a[:9], "short")


def test_moments_and_table():
    a = draw(4000, seed=1)
    m = moments(a)
    assert m["sigma_x"] == pytest.approx(a[:, 0].std(), rel=1e-9)
    weight = np.r_[np.ones(2000), np.zeros(2000)]
    assert moments(a, weight) == pytest.approx(moments(a[:2000]))
    rows = table([("one", {k: 0.001 for k in m})])
    assert rows.splitlines()[-1] == "| one | " + " | ".join(["+0.100 %"] * 5) + " |"


def test_features_of_torch_and_numpy_agree():
    torch = pytest.importorskip("torch")
    a = draw(5)
    f = features(a.T, 3e9, 1e-5)[0]
    g = features([torch.as_tensor(c) for c in a.T.copy()], 3e9, 1e-5, torch)[0]
    for p, q in zip(f, g, strict=True):
        np.testing.assert_allclose(p, q.numpy(), rtol=1e-14)
