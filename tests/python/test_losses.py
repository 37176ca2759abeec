"""Losses of particles and screens, and second derivatives."""

from __future__ import annotations

import copy
import pickle

import betatron as bt
import numpy as np
import pytest
from betatron import losses

REF = bt.Reference("electron", kinetic_energy=100e6)
SHAPE = bt.Gaussian.from_twiss(
    beta_x=2, alpha_x=0.5, emittance_x=1e-7, beta_y=3, alpha_y=-0.5, emittance_y=1e-7, beta_t=1,
    alpha_t=0, emittance_t=1e-6, mean=(2e-4, 0, -1e-4, 0, 0, 0),
)  # fmt: skip
SCREEN = losses.Screen((-2e-3, 2e-3, 30), (-1.5e-3, 1.5e-3, 24), smoothing=1.2)


def line() -> bt.Line:
    q1, q2 = bt.Quadrupole(0.1, k1=4.0, name="q1"), bt.Quadrupole(0.1, k1=-4.0, name="q2")
    return bt.Line([q1, bt.Drift(0.4, name="d"), q2, bt.Drift(0.6)])


def beam(n: int = 2000) -> bt.Beam:
    return bt.Beam(REF, SHAPE, n=n, seed=2)


def target() -> np.ndarray:
    other = bt.Beam(REF, SHAPE, n=3000, seed=9)
    return SCREEN.image(np.array(other.array))


LOSSES = {
    "transmission": losses.transmission(8e-4, 6e-4, softness=0.3),
    "rectangular": losses.transmission(8e-4, 6e-4, softness=0.3, rectangular=True),
    "screen": losses.screen_image(SCREEN, target()),
    "gaussian transmission": losses.gaussian_transmission(5e-4, 4e-4, at="d"),
    "one side": losses.gaussian_transmission(y=3e-4),
    "spot": 1e6 * losses.spot_size(),
}


@pytest.mark.parametrize("name", LOSSES)
def test_derivatives_are_those_of_differences(name: str) -> None:
    lattice, particles, loss = line(), beam(), LOSSES[name]
    g = lattice.gradient(particles, loss, "k1", initial=True)
    for i, which in enumerate(("q1", "q2")):
        k1, h, sample = lattice[which].k1, 1e-3, []
        for step in (h, -h):
            lattice[which].k1 = k1 + step
            sample.append(lattice.gradient(particles, loss).value)
        lattice[which].k1 = k1
        # splines of second order have steps in their second derivative
        assert g.derivatives[i] == pytest.approx((sample[0] - sample[1]) / (2 * h), rel=1e-5)


EVERY = {
    **LOSSES,
    "size": losses.beam_size("x", 1e-4) - 0.3 * losses.beam_size("px", at="d"),
    "centroid": losses.centroid("y", 1e-4, at="q1"),
    "emittance": losses.emittance("x", normalized=True),
    "energy spread": losses.energy_spread(),
    "dispersion": losses.dispersion("x", 0.1),
    "mismatch": losses.twiss_mismatch("y", 0.3, 2.0),
}


@pytest.mark.parametrize("again", [copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))])
@pytest.mark.parametrize("name", EVERY)
def test_copies_and_pickles(name: str, again: object) -> None:
    lattice, particles = line(), beam(200)
    first, second = (
        lattice.gradient(particles, loss, "k1", initial=True)
        for loss in (EVERY[name], again(EVERY[name]))
    )
    assert second.value == first.value != 0
    assert np.array_equal(second.derivatives, first.derivatives)
    assert np.array_equal(second.initial, first.initial)
    product, other = (
        lattice.hessian_vector(particles, loss, "k1", [1.0, 2.0], method="exact").values
        for loss in (EVERY[name], again(EVERY[name]))
    )
    assert np.array_equal(product, other)


def test_weights_and_lost_particles_count_as_they_should() -> None:
    z = np.array(beam(4000).array)
    weight = np.random.default_rng(3).uniform(0.5, 2, size=z.shape[1])
    columns = dict(zip(bt.beam.COORDINATES, z, strict=True))
    heavy = bt.Beam.from_arrays(REF, **columns, weight=weight)
    wall = bt.Line([bt.Aperture(6e-4, 6e-4, shape="elliptical"), bt.Drift(1e-6)])
    open_ = losses.transmission(1.0, 1.0, softness=1e-3)
    alive = (z[0] / 6e-4) ** 2 + (z[2] / 6e-4) ** 2 <= 1
    passed = wall.gradient(heavy, open_)
    assert passed.value == pytest.approx(weight[alive].sum() / weight.sum(), rel=1e-12)
    sharp = bt.Line([bt.Drift(1e-9)]).gradient(
        heavy, losses.transmission(6e-4, 6e-4, softness=1e-4)
    )
    assert sharp.value == pytest.approx(passed.value, abs=1e-3)
    gauss = bt.Line([bt.Drift(1e-9)]).gradient(heavy, losses.gaussian_transmission(6e-4, None))
    inside = np.abs(z[0]) < 6e-4
    assert gauss.value == pytest.approx(weight[inside].sum() / weight.sum(), abs=0.02)


def test_envelopes_take_losses_on_moments() -> None:
    lattice = line()
    loss = losses.gaussian_transmission(5e-4, 4e-4, at="d") + losses.spot_size() * 1e6
    g = lattice.envelope_gradient(REF, SHAPE, loss, "k1")
    many = lattice.gradient(bt.Beam(REF, SHAPE, n=100_000, seed=1), loss, "k1")
    assert g.value == pytest.approx(many.value, rel=0.02)
    assert g.derivatives == pytest.approx(many.derivatives, rel=0.05)


def test_screen_sees_all_of_the_beam_where_it_is() -> None:
    wide = losses.Screen((-1e-2, 1e-2, 200), (-1e-2, 1e-2, 200), smoothing=2.0)
    z = np.array(beam(5000).array)
    image = wide.image(z)
    assert image.sum() == pytest.approx(1, rel=1e-9)
    left, right = wide.extent[:2]
    x = left + (right - left) * (np.arange(200) + 0.5) / 200
    assert image.sum(axis=0) @ x == pytest.approx(z[0].mean(), abs=1e-9)
    assert image.sum(axis=1) @ x == pytest.approx(z[2].mean(), abs=1e-9)
    variance = image.sum(axis=0) @ (x - z[0].mean()) ** 2
    pixel = (right - left) / 200
    assert variance == pytest.approx(z[0].var() + (2.0**2 + 0.25) * pixel**2, rel=1e-3)
    # what is far away is not seen, not an error, and has no derivative
    z[0, :10], z[2, 10:20], z[0, 20:30] = 1.0, -1e300, np.nan
    assert wide.image(z).sum() == pytest.approx(1 - 30 / 5000, rel=1e-9)
    assert np.all(wide.pull(z, image)[:, :30] == 0)


def test_pull_is_the_adjoint_of_the_image() -> None:
    rng = np.random.default_rng(5)
    z = rng.normal(size=(6, 200)) * 1e-3  # some of it beside the screen
    step, by_image = rng.normal(size=z.shape) * 1e-9, rng.normal(size=(24, 30))
    change = SCREEN.image(z + step) - SCREEN.image(z - step)
    assert np.sum(SCREEN.pull(z, by_image) * step) == pytest.approx(
        np.sum(by_image * change) / 2, rel=1e-6
    )


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: losses.transmission(-1.0, 1.0), "x = -1.0 m"),
        (lambda: losses.transmission(1.0, 1.0, softness=0.0), "softness"),
        (lambda: losses.gaussian_transmission(0.0), "x = 0.0 m"),
        (lambda: losses.Screen((1, 0, 9), (0, 1, 9)), "in order"),
        (lambda: losses.Screen((0, 1, 2), (0, 1, 9)), "pixels"),
        (lambda: losses.Screen((0, 1, 9), (0, 1, 9), smoothing=-1), "smoothing"),
        (lambda: losses.Screen((0, 1, 9), (0, 1, 9), coordinates=("x",)), "two names"),
        (lambda: SCREEN.image(np.zeros((5, 3))), r"shape \(6, n\), got \(5, 3\)"),
        (lambda: losses.beam_size("x", 0.0), "target = 0.0"),
        (lambda: losses.centroid("x", float("nan")), "target = nan"),
        (lambda: losses.twiss_mismatch("x", float("nan"), 1.0), "alpha = nan"),
        (lambda: losses.beam_size("x") * float("nan"), "factor of a loss = nan"),
        (lambda: losses.screen_image(SCREEN, np.ones((3, 3))), "shape"),
        (lambda: losses.screen_image(SCREEN, np.zeros((24, 30))), "dark"),
    ],
)
def test_refusals(make: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()  # type: ignore[operator]


def test_second_derivatives() -> None:
    """A quadrupole's Hessian by differences of the loss; symmetry; and the same from an
    envelope."""
    lattice, particles = line(), beam(500)
    loss = 1e6 * losses.beam_size("x") + losses.of_moments(lambda m: losses.log(m.cov[2, 2]))
    knobs = [("q1", "k1"), ("q2", "k1"), ("d", "length")]
    rows = np.array([lattice.hessian_vector(particles, loss, knobs, e).values for e in np.eye(3)])
    assert np.allclose(rows, rows.T, rtol=1e-8, atol=1e-10 * np.abs(rows).max())
    assert lattice["q1"].k1 == 4.0 and lattice["d"].length == 0.4
    mixed = lattice.hessian_vector(particles, loss, knobs, [0.3, -2.0, 0.1])
    assert mixed.values == pytest.approx(rows @ [0.3, -2.0, 0.1], rel=1e-8)
    h = 0.02

    def value(a: float, b: float) -> float:
        lattice["q1"].k1, lattice["q2"].k1 = 4.0 + a, -4.0 + b
        return lattice.gradient(particles, loss).value

    both = (value(h, h) - value(h, -h) - value(-h, h) + value(-h, -h)) / (4 * h * h)
    lattice["q1"].k1, lattice["q2"].k1 = 4.0, -4.0
    assert rows[0, 1] == pytest.approx(both, rel=1e-4)
    envelope = bt.EnvelopeObjective(lattice, REF, particles.covariance(), loss, knobs)
    start = envelope.x0
    assert envelope.hessp(start, [1, 0, 0]) == pytest.approx(rows[0], rel=0.1, abs=0.02)
    assert np.array_equal(envelope.x0, start)
    assert np.all(lattice.hessian_vector(particles, loss, knobs, [0, 0, 0]).values == 0)
    with pytest.raises(ValueError, match="3 finite numbers"):
        lattice.hessian_vector(particles, loss, knobs, [1, 0])


def test_an_objective_forgets_what_may_have_changed() -> None:
    """Two objectives in turn, changes by hand, and values that are not allowed."""
    lattice, particles = line(), beam(100)
    loss = losses.beam_size("x", 4e-4)
    q1, q2, d = lattice["q1"], lattice["q2"], lattice["d"]
    first = bt.Objective(lattice, particles, loss, [("q1", "k1")])
    second = bt.Objective(lattice, particles, loss, [("q2", "k1")])

    def now() -> bt.Gradient:
        return lattice.gradient(particles, loss, [("q1", "k1")])

    old = first.fun([8.0])
    second([5.0])
    assert first.jac([8.0]) == now().derivatives and first.fun([8.0]) == now().value != old
    q1.k1 = 1.0
    assert first([8.0])[0] == now().value and q1.k1 == 8.0
    first.fun([8.0])
    q1.k1 = 1.0
    assert first.jac([8.0]) == now().derivatives and q1.k1 == 8.0
    first.fun([8.0])
    first.fun([8.0])
    evaluations = first.evaluations
    q2.k1 = -2.0
    first([8.0])
    assert first.evaluations == evaluations + 1
    evaluations = first.evaluations
    first.jac([7.0]), first.fun([7.0])
    assert first.evaluations == evaluations + 1

    both = bt.Objective(lattice, particles, loss, [("q1", "k1"), ("d", "length")])
    with pytest.raises(ValueError, match="length"):
        both([3.0, np.nan])
    assert (q1.k1, d.length) == (7.0, 0.4)


def test_losses_say_where_they_have_no_value() -> None:
    nothing = dict.fromkeys(bt.beam.COORDINATES, np.zeros(5))
    steps = np.arange(5.0)
    cold = bt.Beam.from_arrays(REF, **nothing)
    straight = bt.Beam.from_arrays(REF, **nothing | {"x": 1e-4 * steps, "px": 3e-5 * steps})
    lattice = line()
    with pytest.raises(ValueError, match=r"loss at 'd' has no value.*no energy spread"):
        lattice.gradient(cold, losses.dispersion("x", at="d"))
    with pytest.raises(ValueError, match="no emittance in x"):
        lattice.gradient(straight, losses.twiss_mismatch("x", 0.0, 1.0))
    with pytest.raises(ValueError, match=r"loss at 'end' has no value.*division by 0"):
        lattice.gradient(cold, losses.of_moments(lambda m: 1 / m.cov[0, 0]))
    with pytest.raises(ValueError, match=r"logarithm of 0\.0"):
        lattice.gradient(cold, losses.of_moments(lambda m: losses.log(m.cov[0, 0])))
    with pytest.raises(ValueError, match="square root of -1"):
        lattice.gradient(cold, losses.of_moments(lambda m: losses.sqrt(m.cov[0, 0] - 1)))
    g = lattice.gradient(straight, losses.emittance("x") + losses.spot_size(), "k1")
    assert g.value == 0 and not g.derivatives.any()
    assert lattice.gradient(cold, losses.gaussian_transmission(1e-3, 1e-3)).value == 1
    weightless = bt.Beam.from_arrays(REF, **nothing, weight=np.zeros(5))
    with pytest.raises(ValueError, match="weights; those of the beam are all 0"):
        lattice.gradient(weightless, losses.transmission(1e-3, 1e-3))


def test_losses_are_summed_and_divided() -> None:
    lattice, particles = line(), beam(100)
    x, y = losses.beam_size("x"), losses.beam_size("y")

    def value(loss: losses.Loss) -> float:
        return lattice.gradient(particles, loss).value

    assert value(sum([x, +y])) == value(x + y)
    assert value(x / 4) == value(x) / 4
    with pytest.raises(ValueError, match="divisor"):
        x / 0
    two_to = losses.of_moments(lambda m: 2 ** +(1e6 * m.cov[0, 0]))
    g = lattice.gradient(particles, two_to, [("q1", "k1")])
    slope = lattice.gradient(particles, x, [("q1", "k1")]).derivatives
    assert g.value == pytest.approx(2 ** (1e6 * value(x)))
    assert g.derivatives == pytest.approx(g.value * np.log(2) * 1e6 * slope)


def test_names_that_stand_for_several_derivatives() -> None:
    twins = bt.Line([bt.Quadrupole(0.1, k1=k, name="q") for k in (3.0, -3.0)])
    g = twins.gradient(beam(50), losses.beam_size("x"), "k1")
    with pytest.raises(KeyError, match="2 elements are named 'q'"):
        g["q", "k1"]
    assert g[twins[1], "k1"] == g.derivatives[1]
    multipole = bt.Multipole(0, knl=[0.0, 0.1, 2.0], name="m")
    lattice = bt.Line([multipole])
    objective = bt.Objective(lattice, beam(50), losses.beam_size("x"), [("m", "knl[2]")])
    multipole.knl = [0.0]
    with pytest.raises(ValueError, match=r"has no knl\[2\]: its knl has 1 entries"):
        objective([1.0])


def test_newton_of_scipy() -> None:
    optimize = pytest.importorskip("scipy.optimize")
    lattice = line()
    loss = losses.beam_size("x", 4e-4) + losses.beam_size("y", 4e-4)
    objective = bt.Objective(lattice, beam(500), loss, "k1", scale=4.0)
    found = optimize.minimize(
        objective.fun, objective.x0, jac=objective.jac, hessp=objective.hessp,
        method="trust-ncg", options={"gtol": 1e-8},
    )  # fmt: skip
    assert np.max(np.abs(objective(found.x)[1])) < 1e-7
