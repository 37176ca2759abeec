"""Reverse mode: the same derivatives as forward mode, as central differences, and as the matrix of the line."""

from __future__ import annotations

import copy
import math
import re
from pathlib import Path

import betatron as bt
import numpy as np
import pytest
from betatron import _core, losses
from betatron.gradient import Knob, numbers_of
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from test_physics import (
    MODELS,
    PRECISIONS,
    SYMPLECTIC,
    alignments,
    draw,
    element,
    particles,
    references,
    scaled,
)

KINDS = (*SYMPLECTIC, "LinearMap", "Aperture")
NOTHING = (np.zeros((0, 6)), np.zeros((0, 6, 6)), np.zeros(0))
# a failure is reported as it was found: making it smaller takes long
GENERATE = (Phase.explicit, Phase.reuse, Phase.generate)
COORDINATES = ("x", "px", "y", "py", "t", "pt")


def beam_of(ref, z, precision="double"):
    beam = bt.Beam.from_arrays(ref, **dict(zip(COORDINATES, np.atleast_2d(z.T).T, strict=True)))
    return beam if precision == "double" else beam.copy(precision=precision)


def coordinates(beam):
    return np.array([getattr(beam, c) for c in COORDINATES], dtype=float)


def start(line, beam, knobs=(), energy=True, **options):
    return _core.Gradient(line, beam, numbers_of(knobs), energy, **options)


def all_knobs(line):
    return [Knob(*k) for k in _core.knobs_of(line.elements)]


def slope(function, x, h):
    """Central difference of order 8."""
    steps = [(function(x + j * h) - function(x - j * h)) / h for j in (1, 2, 3, 4)]
    return np.dot((4 / 5, -1 / 5, 4 / 105, -1 / 280), steps)


def close(a, b, tolerance, scale=0.0):
    return abs(a - b) <= tolerance * max(abs(a), abs(b), scale)


@pytest.fixture
def machine():
    """Acceleration, coupling, misalignment, strengths of zero, one element at two places."""
    q = bt.Quadrupole(0.2, k1=3.0, name="q1")
    return bt.Line(
        [
            q,
            bt.Drift(0.5, name="d"),
            bt.Quadrupole(0.2, k1=-3.0, name="q2"),
            bt.RFCavity(0.3, voltage=2e6, frequency=1.3e9, phase=-0.4, name="rf"),
            q,
            bt.Sextupole(0.2, k2=0.0, name="s"),
            bt.RFFieldMap(
                0.2, amplitude=1e6, frequency=1.3e9, phase=0.3, cosine=[1, 0.4], name="map"
            ),
            bt.Multipole(0, knl=[0, 0.1, 3.0], ksl=[0, 0.0], name="m"),
            bt.Bend(0.5, angle=0.2, name="b"),
            bt.Quadrupole(0.2, k1=0.0, dx=1e-4, roll=0.1, name="q3", model="exact", slices=2),
            bt.Solenoid(0.3, ks=0.4, name="sol", model="linear"),
            bt.Drift(1.0, name="end"),
        ]
    )


@pytest.fixture
def beam():
    ref = bt.Reference("electron", kinetic_energy=100e6)
    shape = bt.Gaussian.from_twiss(
        beta_x=1, alpha_x=0.3, emittance_x=1e-7, beta_y=1, alpha_y=0, emittance_y=1e-7,
        beta_t=1, alpha_t=0, emittance_t=1e-6,
    )  # fmt: skip
    return bt.Beam(ref, shape, n=1001, seed=1, charge=1e-10)


GOAL = (
    losses.beam_size("x", 1e-4)
    + 0.3 * losses.twiss_mismatch("y", 0.5, 2.0, at="q1")
    + 1e4 * losses.emittance("x", normalized=True)
    + 1e6 * losses.centroid("x", 1e-4, at="d")
    + losses.energy_spread()
    + losses.dispersion("x", 0.1)
    - 1e5 * losses.beam_size("y", at="start")
    + losses.of_moments(lambda m: losses.exp(m.sigma("y") * 100) + losses.log(m.cov[0, 0]) / 10)
)


# --- every element, model, parameter and precision ---------------------------------------------------


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=5, phases=GENERATE)
@given(data=st.data(), ref=references, align=alignments)
def test_reverse_mode_is_forward_mode(kind, model, precision, data, ref, align):
    e = element(kind, model, draw(data, kind, ref), **align)
    line = bt.Line([bt.Drift(0.05, model="exact"), e, bt.Drift(0.1)])
    z = scaled(ref, np.array([data.draw(particles) for _ in range(3)]).T)
    beam = beam_of(ref, z, precision)
    covector = np.array(
        data.draw(st.tuples(*[st.floats(-1.0, 1.0)] * 18)), dtype=beam.x.dtype
    ).reshape(6, 3)
    knobs = all_knobs(line)
    try:
        run = start(line, beam, knobs)
    except ValueError as error:  # the reference does not pass, or a parameter at a singular value
        assert (
            "stops" in str(error)
            or "cannot be differentiated" in str(error)
            or "allowed" in str(error)
        )
        return
    result = run.pull(*NOTHING, by_particles=covector, strategy="checkpoint")
    tolerance = 1e-8 if precision == "double" else 2e-3
    derivatives = [*result["knobs"], result["kinetic"]]
    forward = [run.push(*NOTHING, by_particles=covector, knob=i) for i in range(len(knobs))]
    forward.append(run.push(*NOTHING, by_particles=covector, knob=-1))
    # terms of this size cancel; also of particles on the axis, in elements that are moved by a usual distance
    extent = max(np.abs(coordinates(beam)).max(), 1e-4)
    size = max(np.abs(covector).sum(), 1e-3) * extent * np.abs(line.matrix(ref)).max()
    if kind == "ConstantFocusing":  # its map depends on kx |kx|, whose second derivative jumps at 0
        size *= 1e4
    for name, a, b in zip([*(k.name for k in knobs), "energy"], derivatives, forward, strict=True):
        assert close(a, b, tolerance, size), (name, a, b)


@pytest.mark.parametrize(
    "e",
    [
        bt.Patch(offset_x=-0.02, offset_z=-0.05, rotation_x=0.4, rotation_z=-0.3),
        bt.Bend(1.0, angle=0.4, roll=0.3),
        bt.Bend(1.0, angle=-0.7, pitch=1e-3, model="exact"),
    ],
    ids=["patch", "rolled bend", "pitched bend"],
)
def test_displacements_of_elements_that_turn_the_frame(e):
    # entries of a rotation that are small differences of large numbers
    ref = bt.Reference("electron", beta_gamma=200.0)
    z = np.array([[1e-3], [1e-3], [2e-3], [1e-3], [1e-3], [1e-3]])
    line = bt.Line([e])
    knobs = all_knobs(line)
    run = start(line, beam_of(ref, z), knobs)

    def tracked(name, value):
        moved = copy.copy(e)
        setattr(moved, name, value)
        beam = beam_of(ref, z)
        bt.Line([moved]).track(beam)
        return coordinates(beam)[:, 0]

    for i, knob in enumerate(knobs):
        if knob.parameter not in ("dx", "dy", "dz", "pitch", "yaw", "roll"):
            continue
        name = knob.parameter
        exact = slope(lambda value, name=name: tracked(name, value), getattr(e, name), 2.0**-8)
        for c in range(6):
            covector = np.zeros((6, 1))
            covector[c] = 1.0
            back = run.pull(*NOTHING, by_particles=covector, strategy="checkpoint")["knobs"][i]
            ahead = run.push(*NOTHING, by_particles=covector, knob=i)
            assert back == pytest.approx(exact[c], abs=1e-11), (name, c)
            assert ahead == pytest.approx(exact[c], abs=1e-11), (name, c)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=5, phases=GENERATE)
@given(data=st.data(), ref=references, align=alignments)
def test_adjoint_of_the_matrix(kind, model, data, ref, align):
    # <covector, J v> = <J^T covector, v> with J from forward mode along the trajectory
    line = bt.Line([element(kind, model, draw(data, kind, ref), **align)])
    z = scaled(ref, data.draw(particles))
    beam = beam_of(ref, z[:, None])
    try:
        run = start(line, beam, energy=False)
        m = line.matrix(ref, z)
    except ValueError:
        return
    if run.lost:
        return
    for strategy in ("rewind", "checkpoint"):
        for i in range(6):
            covector = np.zeros((6, 1))
            covector[i] = 1.0
            result = run.pull(*NOTHING, by_particles=covector, strategy=strategy, tolerance=1e300)
            scale = np.abs(m).max()
            assert np.allclose(result["initial"][:, 0], m[i], rtol=1e-12, atol=1e-11 * scale)


# --- a machine -----------------------------------------------------------------------------------------


def test_all_strategies_agree(machine, beam):
    before = coordinates(beam).copy()
    rewound = machine.gradient(beam, GOAL, "all", initial=True, reference_energy=True)
    kept = machine.gradient(
        beam, GOAL, "all", initial=True, reference_energy=True, strategy="checkpoint"
    )
    forward = machine.gradient(beam, GOAL, "all", reference_energy=True, strategy="forward")
    assert rewound.strategy == "rewind" and kept.strategy == "checkpoint"
    assert rewound.relative_rewind_error < 1e-13 and not kept.rewind_error.any()
    assert rewound.value == kept.value == forward.value
    scale = np.abs(rewound.derivatives).max()
    assert np.allclose(rewound.derivatives, kept.derivatives, rtol=1e-10, atol=1e-13 * scale)
    assert np.allclose(rewound.derivatives, forward.derivatives, rtol=1e-9, atol=1e-12 * scale)
    assert np.allclose(
        rewound.initial, kept.initial, rtol=1e-9, atol=1e-10 * np.abs(kept.initial).max()
    )
    assert np.isclose(rewound.reference_energy, forward.reference_energy, rtol=1e-10)
    assert np.array_equal(coordinates(beam), before)


def test_it_is_the_central_difference(machine, beam):
    g = machine.gradient(beam, GOAL, "all", initial=True, reference_energy=True)
    checked = 0
    for knob in g.knobs:
        value = knob.value
        if knob.parameter == "hgap":  # 0 is the end of its range
            continue
        h = 2e-3 * max(abs(value), 0.02)
        if value == 0 and knob.parameter in ("k2", "k2s"):
            h = 0.5

        def at(x, knob=knob, value=value):
            knob.value = x
            loss = machine.gradient(beam, GOAL).value
            knob.value = value
            return loss

        difference = slope(at, value, h)
        noise = 1e-14 * abs(g.value) / h
        assert close(g[knob.element, knob.name], difference, 1e-7, noise * 1e7), knob
        checked += 1
    assert checked == len(g.knobs) - 1 > 60


def test_initial_coordinates_and_energy_by_differences(machine, beam):
    g = machine.gradient(beam, GOAL, initial=True, reference_energy=True)
    rng = np.random.default_rng(5)
    direction = rng.normal(size=(6, len(beam))) * np.std(coordinates(beam), axis=1)[:, None]

    def moved(s):
        other = beam.copy()
        for c, name in enumerate(COORDINATES):
            other[name] = beam[name] + s * direction[c]
        return machine.gradient(other, GOAL).value

    assert np.isclose((g.initial * direction).sum(), slope(moved, 0.0, 1e-3), rtol=1e-9)

    def at_energy(energy):
        ref = bt.Reference("electron", kinetic_energy=energy)
        other = bt.Beam.from_arrays(
            ref, **dict(zip(COORDINATES, coordinates(beam), strict=True)), weight=beam.weight
        )
        return machine.gradient(other, GOAL).value

    assert np.isclose(g.reference_energy, slope(at_energy, 1e8, 1e5), rtol=1e-7)


def test_same_bits_for_any_number_of_threads_and_twice(machine, beam):
    def run(threads):
        g = machine.gradient(
            beam, GOAL, "all", initial=True, reference_energy=True, threads=threads
        )
        return g.value, g.derivatives.tobytes(), g.initial.tobytes(), g.reference_energy

    first = run(1)
    for threads in (1, 2, 3, 4):
        assert run(threads) == first


def test_a_changed_knob_takes_effect(machine, beam):
    before = machine.gradient(beam, GOAL, [("q1", "k1"), ("s", "k2")])
    machine["s"].k2 = 40.0
    changed = machine.gradient(beam, GOAL, [("q1", "k1"), ("s", "k2")])
    assert changed.value != before.value
    forward = machine.gradient(beam, GOAL, [("q1", "k1"), ("s", "k2")], strategy="forward")
    assert np.allclose(changed.derivatives, forward.derivatives, rtol=1e-11)
    machine["s"].k2 = 0.0
    again = machine.gradient(beam, GOAL, [("q1", "k1"), ("s", "k2")])
    assert again.value == before.value and np.array_equal(again.derivatives, before.derivatives)


def test_a_field_map_far_down_the_line(beam):
    # its phase is that of a clock that has turned thousands of times
    field = bt.RFFieldMap(0.3, amplitude=2e6, frequency=1.3e9, phase=0.2, name="map")
    line = bt.Line([bt.Drift(1e4, name="d"), field, bt.Drift(0.5)])
    beam = beam.copy()
    for name in ("px", "py"):
        beam[name] = beam[name] * 1e-4
    goal = losses.centroid("pt", 0.01) + losses.beam_size("t", 1e-3)
    g = line.gradient(beam, goal, [("map", "frequency"), ("map", "phase"), ("d", "length")])
    forward = line.gradient(beam, goal, g.knobs, strategy="forward")
    assert np.allclose(g.derivatives, forward.derivatives, rtol=1e-6)

    def at(phase):
        field.phase = phase
        return line.gradient(beam, goal).value

    assert g["map", "phase"] == pytest.approx((at(0.2 + 1e-4) - at(0.2 - 1e-4)) / 2e-4, rel=1e-5)


@pytest.mark.parametrize("kinetic", [1e3, 1e6])
def test_slow_protons(kinetic):
    ref = bt.Reference("proton", kinetic_energy=kinetic)
    line = bt.Line(
        [
            bt.Quadrupole(0.1, k1=30.0, name="q"),
            bt.Drift(0.2),
            bt.RFCavity(voltage=kinetic / 10, frequency=1e7, phase=-1.0, name="rf"),
            bt.Quadrupole(0.1, k1=-30.0, name="p", model="exact"),
            bt.Solenoid(0.1, field=0.01 * abs(ref.rigidity), name="s"),
        ]
    )
    rng = np.random.default_rng(1)
    beam = beam_of(ref, rng.normal(size=(6, 200)) * 1e-3)
    g = line.gradient(beam, GOAL_SLOW, "all", reference_energy=True)
    forward = line.gradient(beam, GOAL_SLOW, "all", reference_energy=True, strategy="forward")
    scale = np.abs(g.derivatives).max()
    assert np.allclose(g.derivatives, forward.derivatives, rtol=1e-8, atol=1e-10 * scale)
    assert np.isclose(g.reference_energy, forward.reference_energy, rtol=1e-7)


GOAL_SLOW = losses.beam_size("x", 1e-3) + losses.beam_size("t", 1e-3) + losses.beam_size("pt", 1e-3)


# --- losses of particles ---------------------------------------------------------------------------------


def test_lost_particles_count_where_they_were(beam):
    # behind the collimator a particle has no say, in front of it it has
    q = bt.Quadrupole(0.2, k1=2.0, name="q")
    line = bt.Line(
        [
            q,
            bt.Drift(0.3, name="d"),
            bt.Aperture(4e-4, 4e-4),
            bt.Quadrupole(0.2, k1=1.0, model="exact"),
            bt.Drift(0.2),
        ]
    )
    goal = 1e6 * losses.beam_size("x", at="d") + 1e6 * losses.beam_size("y")
    results = [
        line.gradient(beam, goal, [("q", "k1")], initial=True, strategy=s)
        for s in ("rewind", "checkpoint")
    ]
    g = results[0]
    assert 10 < len(g.lost) < len(beam) - 10
    assert np.allclose(
        g.initial, results[1].initial, rtol=1e-10, atol=1e-12 * np.abs(g.initial).max()
    )
    survivors = np.setdiff1d(np.arange(len(beam)), g.lost)
    early = line.gradient(beam, 1e6 * losses.beam_size("x", at="d"), initial=True)
    late = line.gradient(beam, 1e6 * losses.beam_size("y"), initial=True)
    assert not late.initial[:, g.lost].any() and late.initial[:, survivors].any()
    assert early.initial[:, g.lost].any(axis=0).all()
    # differences with the same particles lost
    assert g["q", "k1"] == pytest.approx(
        line.gradient(beam, goal, [("q", "k1")], strategy="forward")["q", "k1"], rel=1e-11
    )
    q.k1 = 2 + 1e-7
    up = line.gradient(beam, goal)
    q.k1 = 2 - 1e-7
    down = line.gradient(beam, goal)
    assert up.lost == down.lost == g.lost
    assert (up.value - down.value) / 2e-7 == pytest.approx(g["q", "k1"], rel=1e-6)


# --- precision -------------------------------------------------------------------------------------------


def long_line(cells):
    return bt.Line(
        [
            bt.Quadrupole(0.2, k1=4.0, name="f"),
            bt.Drift(0.5),
            bt.Quadrupole(0.2, k1=-4.0, name="d"),
            bt.Drift(0.5),
        ]
        * cells
    )


def test_single_precision_is_watched(beam):
    line, single = long_line(50), beam.copy(precision="single")
    goal = losses.beam_size("x", 1e-4)
    exact = line.gradient(beam, goal, "k1")
    g = line.gradient(single, goal, "k1")
    assert g.strategy == "rewind" and 0 < g.relative_rewind_error < 1e-3
    assert np.allclose(g.derivatives, exact.derivatives, rtol=2e-3)
    with pytest.raises(RuntimeError, match=r"rewound beam is off .* allowed: tolerance = 1e-07"):
        line.gradient(single, goal, "k1", strategy="rewind", tolerance=1e-7)
    kept = line.gradient(single, goal, "k1", tolerance=1e-7)
    assert kept.strategy == "checkpoint" and kept.relative_rewind_error > 1e-7  # of the attempt
    assert np.allclose(kept.derivatives, exact.derivatives, rtol=1e-3)


def test_what_cannot_be_rewound_is_tracked_again(beam):
    # a projection: reverse mode needs no inverse
    projection = np.diag([1.0, 1, 0, 1, 1, 1])
    line = bt.Line(
        [
            bt.Quadrupole(0.2, k1=3.0, name="q"),
            bt.LinearMap(projection.ravel().tolist(), name="p"),
            bt.Drift(0.4),
        ]
    )
    goal = losses.beam_size("x", 1e-4) + losses.beam_size("y", 1e-4)
    g = line.gradient(beam, goal, [("q", "k1"), ("p", "matrix")])
    assert g.strategy == "checkpoint"
    forward = line.gradient(beam, goal, [("q", "k1"), ("p", "matrix")], strategy="forward")
    assert np.allclose(g.derivatives, forward.derivatives, rtol=1e-10, atol=1e-12)
    with pytest.raises(ValueError, match="which has a singular matrix"):
        line.gradient(beam, goal, strategy="rewind")


# --- memory ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cells", [10, 100])
def test_memory_does_not_grow_with_the_line(beam, cells):
    g = long_line(cells).gradient(beam, losses.beam_size("x"), "k1", initial=True)
    assert g.memory <= 64 * len(beam)


# --- names, errors, optimisers ---------------------------------------------------------------------------


def test_names_of_parameters(machine, beam):
    g = machine.gradient(
        beam, GOAL, ["k1", ("m", "knl"), ("q[12]", "length"), (machine["d"], "length")]
    )
    names = [(k.element.name, k.name) for k in g.knobs]
    assert names == [
        ("q1", "k1"), ("q2", "k1"), ("b", "k1"), ("q3", "k1"),
        ("m", "knl[0]"), ("m", "knl[1]"), ("m", "knl[2]"), ("q1", "length"), ("q2", "length"), ("d", "length"),
    ]  # fmt: skip
    assert list(g.table.columns) == ["element", "kind", "parameter", "value", "derivative"]
    assert g["m", "knl[2]"] == g.derivatives[6]
    with pytest.raises(KeyError, match="no derivative"):
        g["q1", "nothing"]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"parameters": "k7"}, KeyError, "k7"),
        ({"parameters": ""}, KeyError, "no element of the line has a number ''"),
        ({"parameters": [("q1", "k7")]}, KeyError, "it has: length, k1"),
        ({"parameters": [("qq", "k1")]}, KeyError, "no element is named"),
        ({"parameters": [3]}, TypeError, "pairs"),
        ({"strategy": "magic"}, ValueError, "auto, rewind, checkpoint, forward"),
        ({"tolerance": -1}, ValueError, "allowed: > 0"),
        ({"loss": 3}, TypeError, "Loss"),
        ({"loss": losses.of_moments(lambda m: m.cov[0, 0] * np.nan)}, ValueError, "finite"),
        ({"loss": losses.of_moments(lambda m: math.sqrt(m.cov[0, 0]))}, TypeError, "would drop"),
        ({"loss": losses.of_moments(lambda m: None)}, TypeError, "must be a number, got NoneType"),
        ({"loss": losses.of_particles(lambda z: 0.0)}, TypeError, "must return"),
        ({"parameters": ("q1", "k1")}, KeyError, "a pair goes into a list"),
        ({"parameters": 3}, TypeError, "pairs"),
        ({"loss": losses.beam_size("x", at="nowhere")}, KeyError, "no element is named"),
        ({"loss": losses.of_particles(lambda z: (0.0, z[:2]))}, ValueError, r"shape \(6, 1001\)"),
        ({"strategy": "forward", "initial": True}, ValueError, "initial"),
        ({"threads": 0}, ValueError, "threads"),
    ],
)
def test_wrong_arguments(machine, beam, arguments, error, message):
    with pytest.raises(error, match=message):
        machine.gradient(beam, **{"loss": GOAL, **arguments})


def test_thin_multipole_has_no_length_to_vary(machine, beam):
    assert "length" not in [k.name for k in all_knobs(bt.Line([machine["m"]]))]


def test_losses_of_particles(machine, beam):
    def both(z):
        return float((z[0] ** 2).sum()), np.concatenate([2 * z[:1], np.zeros_like(z[1:])])

    g = machine.gradient(beam, losses.of_particles(both), "k1", initial=True)
    forward = machine.gradient(beam, losses.of_particles(both), "k1", strategy="forward")
    assert np.allclose(g.derivatives, forward.derivatives, rtol=1e-10)
    final = beam.copy()
    machine.track(final)
    assert g.value == pytest.approx(float((final.x**2).sum()), rel=1e-14)


def test_losses_by_differences():
    rng = np.random.default_rng(2)
    mean = rng.normal(size=6)
    a = rng.normal(size=(6, 6))
    cov = a @ a.T
    terms = [
        losses.beam_size("y"), losses.beam_size("x", 0.7), losses.centroid("px", 0.3), losses.emittance("t"),
        losses.emittance("x", normalized=True), losses.energy_spread(), losses.dispersion("px", 2.0),
        losses.twiss_mismatch("x", -0.5, 3.0), losses.twiss_mismatch("t", 0.5, 0.3),
        losses.of_moments(lambda m: 1 / m.cov[0, 0] + (2 - m.mean[0]) / 3 + m.cov[1, 1] ** 1.5 + abs(m.mean[1])),
    ]  # fmt: skip
    for term in terms:
        function = term.terms[0].function
        slope = function(losses.Moments(mean, cov, 4.0)).slope
        for i in range(43):
            h = 1e-4

            def at(s, i=i, function=function):
                change = np.zeros(43)
                change[i] = s
                moved = losses.Moments(
                    mean + change[:6], cov + change[6:42].reshape(6, 6), 4.0 + change[42]
                )
                return function(moved).value

            difference = ((at(h) - at(-h)) * 2 / 3 - (at(2 * h) - at(-2 * h)) / 12) / h
            assert slope[i] == pytest.approx(difference, rel=1e-7, abs=1e-7)


def test_mismatch_is_zero_where_it_fits(beam):
    m = losses.Moments(np.zeros(6), np.cov(coordinates(beam)), beam.reference.gamma_minus_1)
    alpha, beta, _ = (v.value for v in m.twiss("x"))
    matched = losses.twiss_mismatch("x", alpha, beta).terms[0].function(m)
    assert abs(matched.value) < 1e-12 and np.abs(matched.slope).max() < 1e-6 / np.cov(beam.x)


def test_matching_with_scipy(beam):
    optimize = pytest.importorskip("scipy.optimize")
    line = bt.Line(
        [bt.Quadrupole(0.1, k1=1.0, name=f"q{i}") if i % 2 else bt.Drift(0.3) for i in range(9)]
    )
    goal = sum((losses.twiss_mismatch(p, 0.0, 1.5) for p in ("x", "y")), start=losses.Loss([]))
    objective = bt.Objective(line, beam, goal, "k1", scale=10.0)
    done = optimize.minimize(objective, objective.x0, jac=True, method="BFGS")
    assert done.fun < 1e-8 and objective.evaluations < 60
    assert [k.value for k in objective.knobs] != [1.0] * 4
    assert objective.fun(done.x) == done.fun and np.array_equal(
        objective.jac(done.x), objective(done.x)[1]
    )


def test_the_page_about_gradients_runs():
    pytest.importorskip("torch")
    pytest.importorskip("scipy.optimize")
    page = Path(__file__).resolve().parents[2] / "docs" / "gradients.md"
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    names: dict = {}
    for block in blocks:
        exec(compile(block, str(page), "exec"), names)
    assert len(blocks) >= 4 and names["k1"].grad is not None
