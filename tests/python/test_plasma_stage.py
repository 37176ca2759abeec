"""PlasmaStage: known solutions of its equation of motion, its limits, radiation, and what it
refuses.

The properties that every element has (symplectic, reversible, derivatives, ...) are in
test_physics.py.
"""

from __future__ import annotations

import math

import betatron as bt
import numpy as np
import pytest
from betatron.plasma import ion_focusing, matched_beta

MC2 = 0.51099895069e6
DENSITY = 1.7e23
LENGTH = 0.02
FIELD = 25e9


def particle(ref: bt.Reference, z: list[float], n: int = 1) -> bt.Beam:
    columns = np.tile(np.array(z, dtype=float)[:, None], n)
    return bt.Beam.from_arrays(
        ref.copy(), **dict(zip(("x", "px", "y", "py", "t", "pt"), columns, strict=True))
    )


def electron(gamma: float = 2000.0) -> bt.Reference:
    return bt.Reference("electron", gamma=gamma)


def through(
    element: bt.Element, ref: bt.Reference, z: list[float], **how: object
) -> tuple[np.ndarray, bt.Beam]:
    beam = particle(ref, z)
    bt.Line([element]).track(beam, **how)
    return np.array(beam.array)[:, 0], beam


@pytest.mark.parametrize("model", ["linear", "paraxial", "exact"])
def test_betatron_motion_with_acceleration_is_that_of_bessel_functions(model: str) -> None:
    """(gamma x')' = -K x with gamma = gamma0 + a s: x = A J0(u) + B Y0(u), u = 2 sqrt(K gamma)/a,
    and gamma x' = -sqrt(K gamma) (A J1(u) + B Y1(u)), up to 1/gamma^2 and the square of the
    angle."""
    special = pytest.importorskip("scipy.special")
    ref = electron()
    a, k = FIELD / MC2, ion_focusing(DENSITY)
    stage = bt.PlasmaStage(
        LENGTH, density=DENSITY, acceleration=FIELD, steps=200, order=4, model=model
    )
    x0, p0 = 2e-7, 3e-5 * ref.beta_gamma
    out, beam = through(stage, ref, [x0, p0 / ref.beta_gamma, 0, 0, 0, 0])

    def at(gamma: float) -> np.ndarray:
        u, root = 2 * math.sqrt(k * gamma) / a, math.sqrt(k * gamma)
        return np.array(
            [[special.j0(u), special.y0(u)], [-root * special.j1(u), -root * special.y1(u)]]
        )

    end = ref.gamma + a * LENGTH
    x, p = at(end) @ np.linalg.solve(at(ref.gamma), [x0, p0])
    assert beam.reference.gamma == pytest.approx(end, rel=1e-13)
    size = math.hypot(x0, p0 / math.sqrt(k * ref.gamma))
    assert out[0] == pytest.approx(x, abs=3e-5 * size)
    assert out[1] * beam.reference.beta_gamma == pytest.approx(
        p, abs=3e-5 * size * math.sqrt(k * end)
    )


def test_order_of_the_integration() -> None:
    """Errors fall with the steps as the order says; with that of 2 where a ramp meets the
    plateau."""
    ref, z = electron(), [2e-6, 0, 0, 1e-3, 1e-6, -1e-3]
    ramp = {"ramp_up": 0.002, "ramp": "adiabatic", "ramp_end": 0.3}
    for order, expected, more in ((2, 2, {}), (4, 4, {}), (6, 6, {}), (2, 2, ramp), (4, 2, ramp)):
        stage = bt.PlasmaStage(
            0.005, density=DENSITY, acceleration=FIELD, slope=-1.4e15, order=order, **more
        )
        out = []
        for steps in (10, 20, 640):
            stage.steps = steps
            out.append(through(stage, ref, z)[0])
        error = [np.abs(o - out[2])[[0, 1, 2, 3]].max() for o in out[:2]]
        assert math.log2(error[0] / error[1]) > expected - 0.3


def test_a_matched_beam_is_damped_adiabatically() -> None:
    """Its normalised emittance and beta sqrt(K/gamma) stay, so sigma goes as gamma^(-1/4)."""
    ref = electron()
    beta = matched_beta(DENSITY, ref.gamma)
    emittance = 1e-6 / ref.beta_gamma
    shape = bt.Gaussian.from_twiss(
        beta_x=beta, alpha_x=0, emittance_x=emittance, beta_y=beta, alpha_y=0,
        emittance_y=emittance, beta_t=1e-6, alpha_t=0, emittance_t=1e-16,
    )  # fmt: skip
    beam = bt.Beam(ref, shape, n=4000, seed=3)
    before = beam.moments()
    stage = bt.PlasmaStage(0.1, density=DENSITY, acceleration=FIELD, steps=250)
    bt.Line([stage]).track(beam)
    after = beam.moments()
    assert after.gamma / before.gamma == pytest.approx(1 + FIELD * 0.1 / MC2 / ref.gamma, rel=1e-9)
    assert after.emittance_xn == pytest.approx(before.emittance_xn, rel=2e-3)
    # the sample is matched up to its own errors
    ratio = (after.sigma_x * after.sigma_y / (before.sigma_x * before.sigma_y)) ** 0.5
    assert ratio == pytest.approx((after.gamma / before.gamma) ** -0.25, rel=0.03)


@pytest.mark.parametrize("species", ["electron", "positron", "proton"])
def test_ions_focus_electrons_and_defocus_their_opposite(species: str) -> None:
    ref = bt.Reference(species, beta_gamma=3e3)
    mass = ref.species.mass / MC2
    stage = bt.PlasmaStage(1e-4, density=DENSITY)
    out, _ = through(stage, ref, [1e-6, 0, 0, 0, 0, 0])
    force = ref.species.charge * ion_focusing(DENSITY) / mass * 1e-4 / ref.beta_gamma
    assert out[1] == pytest.approx(force * 1e-6, rel=2e-2)
    stage.focusing = -1.0
    assert through(stage, ref, [1e-6, 0, 0, 0, 0, 0])[0][1] == pytest.approx(
        -force * 1e-6, rel=2e-2
    )


def test_acceleration_along_the_bunch() -> None:
    """Who is ahead (t < 0) gains `slope` more per metre; all gain |q| acceleration, whatever the
    charge."""
    for species in ("electron", "positron"):
        ref = bt.Reference(species, gamma=5000.0)
        stage = bt.PlasmaStage(
            0.01, density=1e20, acceleration=FIELD, slope=-1.4e15, slip=2e-6, steps=4
        )
        out, beam = through(stage, ref, [0, 0, 0, 0, -3e-6, 0])
        assert beam.reference.kinetic_energy - ref.kinetic_energy == pytest.approx(
            (FIELD - 1.4e15 * 1e-6) * 0.01, rel=1e-9
        )
        more = -out[5] * beam.reference.beta_gamma * MC2
        assert more == pytest.approx(-1.4e15 * 3e-6 * 0.01, rel=1e-4)


def test_a_linear_wave_focuses_and_accelerates_by_its_phase() -> None:
    """dgamma/ds = a cos(phi) (1 - 2 r^2/w^2), dp/ds = -(4 a/(kp w^2)) sin(phi) r (Panofsky and
    Wenzel)."""
    ref = electron(20000.0)
    n, w, length, t, x = 1e23, 4e-5, 1e-4, 4e-6, 3e-6
    kp = math.sqrt(2 * ion_focusing(n))
    a = 5e9 / MC2
    for phase in (-2.0, -0.7, 0.0, 0.4, 1.5, 3.0):
        stage = bt.PlasmaStage(
            length, density=n, acceleration=5e9, wake="linear", phase=phase, width=w, steps=5
        )
        out, beam = through(stage, ref, [x, 0, 0, 0, t, 0])
        phi = phase - kp * t
        gain = beam.reference.gamma - ref.gamma
        assert gain == pytest.approx(a * math.cos(phase) * length, abs=1e-9)
        gamma = beam.reference.gamma - out[5] * beam.reference.beta_gamma
        assert gamma - ref.gamma == pytest.approx(
            a * math.cos(phi) * (1 - 2 * x**2 / w**2) * length, abs=2e-4 * a * length
        )
        push = -4 * a / (kp * w**2) * math.sin(phi) * x * length
        assert out[1] * beam.reference.beta_gamma == pytest.approx(
            push, abs=5e-3 * 4 * a / (kp * w**2) * x * length
        )


@pytest.mark.parametrize("wake", ["blowout", "linear"])
@pytest.mark.parametrize("ramp", ["linear", "cosine", "adiabatic"])
def test_the_gain_is_the_integral_of_the_profile(ramp: str, wake: str) -> None:
    """Whatever the steps, slices and where they cut the ramps."""
    ref = electron()
    up, down, length, end = 0.004, 0.007, 0.02, 0.05
    stage = bt.PlasmaStage(
        length, density=1e20, acceleration=FIELD, slope=-1.4e15, slip=9e-6, wake=wake, phase=0.3,
        ramp_up=up, ramp_down=down, ramp=ramp, ramp_end=end,
    )  # fmt: skip
    s = (np.arange(400_000) + 0.5) / 400_000 * length
    v = np.clip(np.maximum((up - s) / up, (s - length + down) / down), 0, 1)
    g = {
        "linear": 1 - (1 - end) * v,
        "cosine": end + (1 - end) * (1 + np.cos(np.pi * v)) / 2,
        "adiabatic": (1 + (end**-0.5 - 1) * v) ** -2.0,
    }[ramp]
    xi = 9e-6 * s / length
    kp = math.sqrt(2 * ion_focusing(1e20))
    force = FIELD * np.cos(0.3 + kp * xi) if wake == "linear" else FIELD - 1.4e15 * xi
    expected = np.mean(g * force) * length
    for slices, steps, order in ((1, 10, 2), (7, 3, 4), (3, 5, 6)):
        stage.slices, stage.steps, stage.order = slices, steps, order
        _, beam = through(stage, ref, [0] * 6)
        gain = beam.reference.kinetic_energy - ref.kinetic_energy
        assert gain == pytest.approx(expected, rel=1e-9)


def test_an_adiabatic_ramp_transforms_the_beam_as_it_says() -> None:
    """In n ~ (1 + q d)^-2, d behind the plateau, beta = b (1 + q d)/sqrt(1 - c^2), alpha =
    -c/sqrt(1 - c^2), with c = q b/2 and b = sqrt(gamma/K): an exact solution, and matched
    everywhere."""
    ref = electron()
    b, length, end = matched_beta(DENSITY, ref.gamma), 0.05, 0.01
    q = (end**-0.5 - 1) / length
    c = q * b / 2
    stage = bt.PlasmaStage(
        length, density=DENSITY, ramp_down=length, ramp="adiabatic", ramp_end=end, steps=1000
    )
    m = bt.Line([stage]).matrix(ref)[:2, :2]
    root = math.sqrt(1 - c * c)
    start, alpha = b / root, -c / root
    sigma = np.array([[start, -alpha], [-alpha, (1 + alpha**2) / start]])
    out = m @ sigma @ m.T
    assert out[0, 0] == pytest.approx(start * (1 + q * length), rel=1e-4)
    assert -out[0, 1] == pytest.approx(alpha, abs=1e-4)


@pytest.mark.parametrize("order", [2, 4])
def test_betatron_radiation_is_that_of_the_transverse_force(order: int) -> None:
    """The mean loss of gamma is (2/3) r_e gamma^2 K^2 r^2 per metre; over oscillations <r^2> =
    A^2/2. E. Esarey et al., Phys. Rev. E 65 (2002) 056505."""
    ref = electron(40_000.0)
    k = ion_focusing(DENSITY)
    amplitude = 3e-6
    periods = 6
    length = periods * 2 * math.pi / math.sqrt(k / ref.gamma)
    stage = bt.PlasmaStage(length, density=DENSITY, steps=40 * periods, order=order)
    line = bt.Line([stage])
    beam = particle(ref, [amplitude, 0, 0, 0, 0, 0])
    line.track(beam, radiation=bt.Radiation())
    lost = beam.pt[0] * ref.beta_gamma
    radius = 2.8179403205e-15
    expected = 2 / 3 * radius * ref.gamma**2 * k**2 * amplitude**2 / 2 * length
    assert lost == pytest.approx(expected, rel=1e-2)


def test_slices_and_radiation_with_acceleration_agree() -> None:
    """Radiation off and on give the same reference, and with no force the same beam."""
    ref = electron()
    stage = bt.PlasmaStage(
        0.01, density=DENSITY, acceleration=FIELD, slope=-1e15, steps=40, slices=3
    )
    a, beam_a = through(stage, ref, [0, 0, 0, 0, 1e-6, 1e-3])
    b, beam_b = through(stage, ref, [0, 0, 0, 0, 1e-6, 1e-3], radiation=bt.Radiation())
    assert beam_b.reference.gamma == pytest.approx(beam_a.reference.gamma, rel=1e-13)
    assert np.allclose(a, b, rtol=1e-9, atol=1e-18)


def test_gradients_by_all_parameters() -> None:
    """The reverse pass agrees with central differences."""
    ref = electron(20_000.0)
    beam = bt.Beam(
        ref,
        bt.Gaussian.from_ellipse(
            lambda_x=1e-6, lambda_y=2e-6, lambda_t=1e-6, lambda_px=1e-4, lambda_py=5e-5,
            lambda_pt=1e-3,
        ),
        n=200, seed=4,
    )  # fmt: skip
    blowout = bt.PlasmaStage(
        0.004, density=DENSITY, acceleration=FIELD, slope=-1.4e15, slip=2e-6, ramp_up=1e-3,
        ramp_end=0.2, name="a",
    )  # fmt: skip
    wave = bt.PlasmaStage(
        0.004, density=DENSITY, acceleration=FIELD, wake="linear", phase=0.5, width=5e-5, slip=1e-6,
        name="b",
    )  # fmt: skip
    line = bt.Line([blowout, bt.Drift(0.001), wave, bt.PlasmaLens(0.001, k1=1e4, name="lens")])
    loss = bt.losses.emittance("x", True) + 1e-3 * bt.losses.beam_size("y", 1e-6)
    knobs = [
        (e, k)
        for e, names in (
            (blowout, ("density", "acceleration", "slope", "focusing", "slip", "length")),
            (wave, ("acceleration", "phase", "width", "density")),
        )
        for k in names
    ] + [(line["lens"], "k1")]
    g = line.gradient(beam, loss, knobs)

    def value() -> float:
        return line.gradient(beam, loss, [(line["lens"], "k1")]).value

    for (element, name), derivative in zip(knobs, g.derivatives, strict=True):
        at = getattr(element, name)
        h = 1e-5 * abs(at)
        values = []
        for x in (at + h, at - h):
            setattr(element, name, x)
            values.append(value())
        setattr(element, name, at)
        numeric = (values[0] - values[1]) / (2 * h)
        assert derivative * at == pytest.approx(numeric * at, rel=1e-4, abs=1e-6 * g.value), name


def test_what_cannot_be_tracked_is_named() -> None:
    ref = electron()
    beam = particle(ref, [0] * 6)
    for stage, words in (
        (bt.PlasmaStage(0.28, density=DENSITY, name="long"), "steps of at least 229 per slice"),
        (bt.PlasmaStage(0.1, density=0, acceleration=-20e9), "stops the reference"),
    ):
        with pytest.raises(ValueError, match=words):
            bt.Line([stage]).track(beam)
    for wrong, words in (
        ({"ramp_up": 0.06, "ramp_down": 0.06}, "'p': ramp_up .* = 0.12 m; allowed: .* 0.1 m"),
        ({"ramp_up": 0.06, "ramp": "adiabatic"}, "'p': ramp_end = 0"),
        ({"density": 0, "wake": "linear", "width": 1e-5}, "'p': density = 0"),
    ):
        with pytest.raises(ValueError, match=words):
            bt.PlasmaStage(0.1, **{"density": 1e10, "name": "p", **wrong})
    stage = bt.PlasmaStage(0.1, density=1e10, ramp_up=0.06)
    with pytest.raises(ValueError, match="ramp_up"):
        stage.ramp_down = 0.06
    assert stage.ramp_down == 0
    with pytest.raises(ValueError, match="wake"):
        bt.PlasmaStage(0.1, density=1, wake="other")
    with pytest.raises(ValueError, match="density"):
        bt.PlasmaStage(0.1, density=-1)
    assert beam.reference.s == 0 and len(beam) == 1
