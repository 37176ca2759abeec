"""Exact Hessian-vector products: against differences of gradients, symmetry, and what is
refused."""

from __future__ import annotations

from collections.abc import Callable

import betatron as bt
import numpy as np
import pytest
from betatron import losses
from betatron.gradient import Knob
from hypothesis import given, settings
from hypothesis import strategies as st
from test_gradient import COORDINATES, GENERATE, KINDS, all_knobs
from test_gradient_collective import c_kick
from test_physics import (
    MODELS,
    alignments,
    draw,
    element,
    particles,
    references,
    scaled,
)

REF = bt.Reference("electron", kinetic_energy=100e6)
SCALES = {"voltage": 1e5, "frequency": 1e6, "dx": 1e-3, "dy": 1e-3, "knl": 1e-3, "ksl": 1e-3}


def beam_of(z: np.ndarray, ref: bt.Reference = REF, **columns: np.ndarray) -> bt.Beam:
    return bt.Beam.from_arrays(ref, **dict(zip(COORDINATES, z, strict=True)), **columns)


def scales_of(knobs: list[Knob]) -> np.ndarray:
    return np.array([max(abs(k.value), SCALES.get(k.parameter, 0.1)) for k in knobs])


def quadratic(covector: np.ndarray, matrix: np.ndarray) -> losses.Loss:
    """sum over particles of covector z + z^T matrix z/2."""
    return losses.of_particles(
        lambda z: (np.sum(covector * z) + 0.5 * np.sum(z * (matrix @ z)), covector + matrix @ z),
        lambda _, rates: matrix @ rates,
    )


def compare(
    line: bt.Line,
    beam: bt.Beam,
    loss: losses.Loss,
    knobs: list[Knob],
    scale: float,
    seed: int = 0,
    **options: int,
) -> None:
    """Exact products are those of differences, and symmetric, to the errors of differences of
    functions of this scale."""
    units = scales_of(knobs)
    u, w = 0.1 * np.random.default_rng(seed).normal(size=(2, len(knobs))) * units

    def product(direction: np.ndarray, method: str) -> bt.HessianVector:
        return line.hessian_vector(beam, loss, knobs, direction, method=method, **options)

    hu, hw, found = product(u, "exact"), product(w, "exact"), product(u, "differences")
    assert hu.method == "exact" and hu.error is None and hu.gradients == 0
    assert abs(u @ hw.values - w @ hu.values) <= 1e-9 * max(np.sum(np.abs(u * hw.values)), scale)
    off = np.abs(hu.values - found.values) * units
    bound = 10 * np.max(found.error * units) + 1e-9 * max(np.max(np.abs(hu.values * units)), scale)
    assert np.max(off) <= bound, [(k.name, a) for k, a in zip(knobs, off / bound, strict=True)]


# --- every element, model and parameter -----------------------------------------------------------

NOT_EXACT = ("cannot be differentiated", "rewound", "stops", "allowed", "no neighbouring")


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=2, phases=GENERATE, deadline=None)
@given(data=st.data(), ref=references, align=alignments)
def test_every_element_by_all_its_parameters(kind, model, data, ref, align):
    e = element(kind, model, draw(data, kind, ref), **align)
    line = bt.Line([bt.Drift(0.05, model="exact"), e, bt.Drift(0.1)])
    z = scaled(ref, np.array([data.draw(particles) for _ in range(3)]).T)
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    size = np.abs(z).max() + 1e-3  # elements are displaced by as much
    covector, matrix = rng.normal(size=(6, 3)), rng.normal(size=(6, 6)) / size
    try:
        gain = np.abs(line.matrix(ref)).max()
        compare(
            line,
            beam_of(z, ref),
            quadratic(covector, matrix + matrix.T),
            all_knobs(line),
            np.abs(covector).sum() * size * gain**2,
        )
    except (ValueError, RuntimeError) as error:
        assert any(part in str(error) for part in NOT_EXACT), error


@pytest.mark.parametrize("roll", [0.0, 1e-160, 0.3])
@pytest.mark.parametrize("kind", ["SpinMap", "Kicker", "Quadrupole"])
def test_displacements_in_the_linear_model(kind: str, roll: float) -> None:
    """What a matrix moves the axis by is the small rest of a way into the element and out of it:
    its rounding errors are those of the way."""
    values = {"length": 0.2, "k1": 1e-6} if kind == "Quadrupole" else {}
    units = np.array([0.1, 0.1, 0.1, 0.1, 1e-3, 1e-3])
    for seed in range(8):
        rng = np.random.default_rng(seed)
        dx, dy, pitch = 1e-3 * rng.normal(size=3) * [1, 1, seed % 2]
        e = getattr(bt, kind)(model="linear", dx=dx, dy=dy, pitch=pitch, roll=roll, **values)
        line = bt.Line([bt.Drift(0.05, model="exact"), e, bt.Drift(0.1)])
        beam = beam_of(1e-3 * rng.normal(size=(6, 3)))
        covector, matrix = rng.normal(size=(6, 3)), 1e2 * rng.normal(size=(6, 6))
        loss = quadratic(covector, matrix + matrix.T)
        knobs = [Knob(e, n) for n in ("dz", "yaw", "pitch", "roll", "dx", "dy")]
        along = rng.normal(size=6) * units
        exact = line.hessian_vector(beam, loss, knobs, along, method="exact").values * units
        found = line.hessian_vector(beam, loss, knobs, along, method="differences").values * units
        assert np.max(np.abs(exact - found)) < 1e-11
        if kind != "Quadrupole":  # it is nowhere for the orbit
            assert np.max(np.abs(exact)) < 1e-13


@pytest.fixture
def machine() -> bt.Line:
    """Acceleration, on crest and off, coupling, misalignment, strengths of zero, one element at two
    places."""
    q = bt.Quadrupole(0.2, k1=3.0, name="q1")
    return bt.Line(
        [
            q,
            bt.Drift(0.5, name="d"),
            bt.Quadrupole(0.2, k1=-3.0, name="q2"),
            bt.RFCavity(0.3, voltage=2e6, frequency=1.3e9, phase=-0.4, name="rf"),
            bt.Aperture(x_max=3e-3, y_max=3e-3, name="hole"),
            q,
            bt.RFCavity(0.1, voltage=2e6, frequency=1.3e9, phase=0.0, name="crest"),
            bt.Sextupole(0.2, k2=0.0, name="s"),
            bt.Multipole(0, knl=[0, 0.1, 3.0], ksl=[0, 0.0], name="m"),
            bt.Bend(0.5, angle=0.2, e1=0.1, name="b"),
            bt.Quadrupole(0.2, k1=0.0, dx=1e-4, roll=0.1, name="q3", model="exact", slices=2),
            bt.Solenoid(0.3, ks=0.4, name="sol", model="linear"),
            bt.Drift(1.0, name="end"),
        ]
    )


GOAL = (
    losses.beam_size("x", 1e-3)
    + 0.3 * losses.twiss_mismatch("y", 0.5, 2.0, at="q1")
    + 1e4 * losses.emittance("x", normalized=True)
    + 1e6 * losses.centroid("x", 1e-4, at="d")
    + losses.energy_spread()
    + losses.dispersion("x", 0.1)
    + losses.gaussian_transmission(2e-3, 1e-3, at="b")
    + losses.of_moments(lambda m: losses.exp(m.sigma("y") * 100) + losses.log(m.cov[0, 0]) / 10)
    + losses.transmission(2e-3, 1e-3)
    + losses.transmission(3e-3, 2e-3, rectangular=True)
)


VARIED = ("k1", "length", "voltage", "phase", "k2", "knl", "ksl", "angle", "e1", "dx", "roll")


@pytest.mark.parametrize("turns", [1, 2])
def test_a_machine(machine: bt.Line, turns: int) -> None:
    """With weights, places in the line and energies that change."""
    rng = np.random.default_rng(4)
    beam = beam_of(1e-3 * rng.normal(size=(6, 700)), weight=rng.uniform(0.5, 2, size=700))
    line = bt.Line([e for e in machine.elements if e.name != "hole"])
    knobs = [k for k in all_knobs(line) if k.parameter in VARIED]
    before = [k.value for k in knobs]
    compare(line, beam, GOAL, knobs, 1.0, turns=turns)
    assert [k.value for k in knobs] == before


@pytest.mark.parametrize("turns", [1, 2])
def test_lost_particles(machine: bt.Line, turns: int) -> None:
    """They are seen by losses in front of where they are lost. In steps that lose no others."""
    beam = beam_of(1e-3 * np.random.default_rng(4).normal(size=(6, 150)))
    knobs = [k for k in all_knobs(machine) if k.parameter in VARIED]
    units = scales_of(knobs)
    u = np.random.default_rng(0).normal(size=len(knobs)) * units
    lost = machine.gradient(beam, GOAL, turns=turns).lost
    assert len(lost) > 5

    def slope(step: float) -> np.ndarray:
        with bt.gradient.turned(knobs, [k.value + step * a for k, a in zip(knobs, u, strict=True)]):
            g = machine.gradient(beam, GOAL, knobs, turns=turns)
        assert g.lost == lost
        return g.derivatives * units

    h = 1e-6
    found = (8 * (slope(h) - slope(-h)) - (slope(2 * h) - slope(-2 * h))) / (12 * h)
    exact = machine.hessian_vector(beam, GOAL, knobs, u, turns=turns)
    assert exact.method == "exact"
    assert np.max(np.abs(exact.values * units - found)) < 1e-6 * np.max(np.abs(found))


def test_an_image(machine: bt.Line) -> None:
    screen = bt.losses.Screen((-5e-3, 5e-3, 12), (-5e-3, 5e-3, 10))
    beam = beam_of(1e-3 * np.random.default_rng(1).normal(size=(6, 400)))
    target = screen.image(1e-3 * np.random.default_rng(2).normal(size=(6, 400)))
    line = bt.Line([e for e in machine.elements if e.name != "hole"])
    loss = losses.screen_image(screen, target)
    knobs = [Knob(line["q1"], "k1"), Knob(line["m"], "knl", 1), Knob(line["rf"], "voltage")]
    units = scales_of(knobs)
    u, w = np.random.default_rng(0).normal(size=(2, 3)) * units
    hu, hw = (line.hessian_vector(beam, loss, knobs, v, method="exact").values for v in (u, w))
    assert u @ hw == pytest.approx(w @ hu, rel=1e-10)

    # splines have second derivatives that jump, at a few particles within a step
    def slope(step: float) -> np.ndarray:
        with bt.gradient.turned(knobs, [k.value + step * a for k, a in zip(knobs, u, strict=True)]):
            return line.gradient(beam, loss, knobs).derivatives

    found = (slope(1e-6) - slope(-1e-6)) / 2e-6
    assert np.max(np.abs(found - hu) * units) < 1e-3 * np.max(np.abs(hu) * units)


def test_initial_coordinates(machine: bt.Line) -> None:
    """Symmetry, and differences of gradients of moved beams."""
    rng = np.random.default_rng(5)
    z = 1e-3 * rng.normal(size=(6, 60))
    line = bt.Line([e for e in machine.elements if e.name != "hole"])
    knobs = [Knob(line["q1"], "k1"), Knob(line["rf"], "phase")]
    (u, dz), (w, dw) = ((rng.normal(size=2), 1e-3 * rng.normal(size=(6, 60))) for _ in range(2))
    hu, hw = (
        line.hessian_vector(beam_of(z), GOAL, knobs, a, initial_direction=b)
        for a, b in ((u, dz), (w, dw))
    )
    left = w @ hu.values + np.sum(dw * hu.initial)
    size = np.sum(np.abs(w * hu.values)) + np.sum(np.abs(dw * hu.initial))
    assert abs(left - u @ hw.values - np.sum(dz * hw.initial)) < 1e-10 * size

    def slopes(step: float) -> np.ndarray:
        with bt.gradient.turned(knobs, [k.value + step * a for k, a in zip(knobs, u, strict=True)]):
            g = line.gradient(beam_of(z + step * dz), GOAL, knobs, initial=True)
        return np.append(g.derivatives, 1e-3 * g.initial)

    h = 1e-4
    found = (8 * (slopes(h) - slopes(-h)) - (slopes(2 * h) - slopes(-2 * h))) / (12 * h)
    exact = np.append(hu.values, 1e-3 * hu.initial)
    assert np.max(np.abs(found - exact)) < 1e-7 * np.max(np.abs(exact))
    with pytest.raises(ValueError, match=r"shape \(6, 60\)"):
        line.hessian_vector(beam_of(z), GOAL, knobs, u, initial_direction=dz[:, 1:])


def test_threads_and_precisions(machine: bt.Line) -> None:
    z = 1e-3 * np.random.default_rng(3).normal(size=(6, 3000))
    beam = beam_of(z)
    direction = [1.0, 2.0, -1.0, 0.5]
    one, many, single = (
        machine.hessian_vector(b, GOAL, "k1", direction, threads=n, method="exact").values
        for b, n in ((beam, 1), (beam, 4), (beam.copy(precision="single"), 1))
    )
    assert np.array_equal(one, many)
    assert single == pytest.approx(one, rel=1e-4)


# --- losses ---------------------------------------------------------------------------------------


def test_numbers_bend_as_their_slopes_do() -> None:
    """Random expressions of moments, along a random direction of them."""
    rng = np.random.default_rng(7)
    a = rng.normal(size=(6, 6))
    cov, mean, kinetic = a @ a.T, rng.normal(size=6), 3.0
    rates = rng.normal(size=43)

    def function(m: losses.Moments) -> losses.Number:
        a, b, c = m.cov[0, 0], m.mean[1], m.kinetic
        return (
            losses.sqrt(a) / (b * b + 1) ** 1.5
            + 2 / (a + c) ** losses.log(c)
            - abs(b) * losses.erf(b / 3)
            + np.exp(-a / 10) / 4
            + (3 - b) ** 2 * (-a) ** 3
            + m.emittance("x", normalized=True)
            + m.dispersion("y")
        )

    def slope(step: float) -> np.ndarray:
        v = step * rates
        return function(
            losses.Moments(mean + v[:6], cov + v[6:42].reshape(6, 6), kinetic + v[42])
        ).slope

    found = function(losses.Moments(mean, cov, kinetic, rates))
    assert found.rate == pytest.approx(found.slope @ rates, rel=1e-12)
    h = 1e-3
    differences = (8 * (slope(h) - slope(-h)) - (slope(2 * h) - slope(-2 * h))) / (12 * h)
    assert found.bend == pytest.approx(differences, rel=1e-6, abs=1e-7 * np.abs(found.bend).max())


def test_a_root_of_nothing() -> None:
    zero = losses.Number(0.0, np.ones(43), 1.0, np.ones(43))
    assert np.all(losses.sqrt(zero).bend == 0)
    assert np.all((zero**2).bend == 2)
    assert np.all((zero**3).bend == 0)
    assert np.all((zero**1).bend == 1)


# --- what is refused ------------------------------------------------------------------------------


def own_function(z: np.ndarray) -> tuple[float, np.ndarray]:
    return float(np.sum(z[0] ** 2)), 2 * z * (np.arange(6) == 0)[:, None]


OBSTACLES: list[tuple[str, dict, Callable[[], losses.Loss]]] = [
    ("space charge acts", {"space_charge": bt.SpaceCharge3D(cells=(8, 8, 8))}, losses.beam_size),
    ("checkpoint", {"strategy": "checkpoint"}, losses.beam_size),
    ("of_particles: the function has no second", {}, lambda: losses.of_particles(own_function)),
    (
        "a Number of its own",
        {},
        lambda: losses.of_moments(lambda m: losses.Number(m.cov[0, 0].value, m.cov[0, 0].slope)),
    ),
]


@pytest.mark.parametrize(("name", "options", "loss"), OBSTACLES, ids=[o[0] for o in OBSTACLES])
def test_obstacles_are_named(name: str, options: dict, loss: Callable[[], losses.Loss]) -> None:
    line = bt.Line([bt.Quadrupole(0.2, k1=2.0, name="q"), bt.Drift(0.5)])
    beam = beam_of(1e-3 * np.random.default_rng(3).normal(size=(6, 50)))
    beam.set_charge(1e-12)
    with pytest.raises(losses.NoSecondDerivative, match=name):
        line.hessian_vector(beam, loss(), "k1", [1.0], method="exact", **options)
    found = line.hessian_vector(beam, loss(), "k1", [1.0], accuracy=1e-4, **options)
    assert found.method == "differences" and name in found.obstacle and found.gradients > 0


def test_elements_without_an_inverse() -> None:
    singular = np.eye(6)
    singular[1, 1] = 0
    code = bt.Programmable(push=c_kick(), differences=[1e-6] * 6, name="code")
    beam = beam_of(1e-3 * np.random.default_rng(3).normal(size=(6, 50)))
    for e, name in ((bt.LinearMap(matrix=singular), "singular"), (code, "'code'")):
        line = bt.Line([bt.Quadrupole(0.2, k1=2.0, name="q"), e])
        with pytest.raises(ValueError, match=name):
            line.hessian_vector(beam, losses.beam_size(), "k1", [1.0], method="exact")
        found = line.hessian_vector(beam, losses.beam_size(), "k1", [1.0], accuracy=1e-3)
        assert found.method == "differences"


def test_what_is_not_smooth() -> None:
    """The focusing of ky |ky| has no second derivative at 0."""
    e = bt.ConstantFocusing(1.5, kx=0.3, ky=0.0, name="c", model="exact")
    line = bt.Line([bt.Drift(0.1), e])
    beam = beam_of(1e-3 * np.random.default_rng(3).normal(size=(6, 50)))
    knobs = [Knob(e, "length"), Knob(e, "ky")]
    with pytest.raises(ValueError, match=r"'c' cannot be differentiated twice .* is not smooth"):
        line.hessian_vector(beam, losses.beam_size("y"), knobs, [1.0, 0.0], method="exact")
    e.ky = 1e-3
    assert line.hessian_vector(beam, losses.beam_size("y"), knobs, [1.0, 0.0]).method == "exact"


def test_arguments() -> None:
    line = bt.Line([bt.Quadrupole(0.2, k1=2.0, name="q")])
    beam = beam_of(1e-3 * np.random.default_rng(3).normal(size=(6, 50)))
    with pytest.raises(ValueError, match="method = 'both'"):
        line.hessian_vector(beam, losses.beam_size(), "k1", [1.0], method="both")
    with pytest.raises(ValueError, match=r"shape \(1,\)"):
        bt.Objective(line, beam, losses.beam_size(), "k1").hessian_vector([2.0], [1.0, 2.0])
    exact = line.hessian_vector(beam, losses.beam_size(), "k1", [1.0])
    assert "exact" in repr(exact) and "error" not in exact.table
