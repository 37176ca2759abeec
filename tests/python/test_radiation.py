"""Synchrotron radiation: against the closed formulas of storage rings, and its own rules."""

from __future__ import annotations

import betatron as bt
import numpy as np
import pytest
from scipy import constants

COORDINATES = ("x", "px", "y", "py", "t", "pt")
MODELS = ("linear", "paraxial", "exact")
COMPTON = constants.hbar / (constants.m_e * constants.c)  # of the electron, reduced


def classical_radius(species: bt.Species) -> float:
    radius = constants.physical_constants["classical electron radius"][0]
    return radius * species.charge**2 * 0.51099895069e6 / species.mass


def electron(energy: float) -> bt.Reference:
    return bt.Reference("electron", total_energy=energy)


def at_rest(ref: bt.Reference, n: int = 1, **columns: float) -> bt.Beam:
    """n particles on the reference orbit, but for these coordinates."""
    values = {q: np.full(n, columns.get(q, 0.0)) for q in COORDINATES}
    return bt.Beam.from_arrays(ref.copy(), **values)


RADIUS = 10.0


def cell(model: str = "paraxial", steps: int = 4) -> bt.Line:
    """A 16th of a ring of bends of 10 m radius; weak enough to be stable in all models."""
    how = {"model": model, "steps": steps}
    bend = bt.Bend(length=2 * np.pi * RADIUS / 32, angle=2 * np.pi / 32, **how)
    focus, defocus = (
        bt.Quadrupole(length=0.25, k1=1, **how),
        bt.Quadrupole(length=0.5, k1=-1, **how),
    )
    gap = bt.Drift(length=0.3, model=model)
    return bt.Line([focus, gap, bend, gap, defocus, gap, bend, gap, focus])


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", ["electron", "positron", "antimuon", "proton"])
def test_loss_of_a_turn(model: str, name: str) -> None:
    """U0 = (4 pi/3) r_c m c^2 beta^3 gamma^4/rho."""
    ref = bt.Reference(name, gamma=600.0)
    beam = at_rest(ref)
    (16 * cell(model)).track(beam, radiation=bt.Radiation())
    lost = beam.pt[0] * ref.beta_gamma
    expected = 4 * np.pi / 3 * classical_radius(ref.species) * ref.beta**3 * ref.gamma**4 / RADIUS
    assert lost == pytest.approx(expected, rel=1e-6)
    heavy = at_rest(ref)
    (16 * cell(model)).track(heavy, radiation=bt.Radiation(reference=True))
    rounding = 32 * np.spacing(ref.gamma)
    lost = ref.gamma - heavy.reference.gamma
    assert lost == pytest.approx(expected, rel=2e-6, abs=rounding)
    assert abs(heavy.pt[0]) < 1e-5 * expected / ref.beta_gamma + rounding / ref.beta_gamma


def test_c_gamma() -> None:
    """The radiation constant of electrons, 8.846e-5 m/GeV^3 (H. Wiedemann, Particle Accelerator Physics, ch. 21)."""
    ref = electron(1e9)
    beam = at_rest(ref)
    (16 * cell()).track(beam, radiation=bt.Radiation())
    loss = beam.pt[0] * ref.momentum * 1e-9
    assert loss == pytest.approx(8.846e-5 / RADIUS, rel=2e-4)


@pytest.mark.parametrize(
    "element, square",
    [
        (bt.Quadrupole(length=0.5, k1=0.8, steps=40), "orbit"),
        (bt.Quadrupole(length=0.5, k1=0.8, steps=40, model="exact"), "orbit"),
        (bt.Sextupole(length=0.2, k2=40, steps=40), "orbit"),
        (bt.Solenoid(length=0.5, ks=0.4), (0.4 * 0.02) ** 2 * 0.5),
        (bt.SoftSolenoid(length=0.5, ks=0.4, cosine=[2.0], order=4), (0.4 * 0.02) ** 2 * 0.5),
        (bt.Kicker(length=0.5, hkick=1e-3, vkick=2e-3), 5e-6 / 0.5),
        (bt.ThinDipole(angle=0.05, curvature=0.1), 0.05 * 0.1),
        (bt.PlasmaLens(length=0.3, k1=0.5, steps=40), "orbit"),
    ],
    ids=lambda v: v.kind + " " + v.model if isinstance(v, bt.Element) else "",
)
def test_loss_in_magnets(element: bt.Element, square: float | str) -> None:
    """(2/3) r_c gamma (beta gamma)^3 times the integral of the square of the curvature along the orbit."""
    ref = electron(2e9)
    start = {"x": 5e-3, "y": -3e-3} if square == "orbit" else {}
    if element.kind in ("Solenoid", "SoftSolenoid"):
        start = {"px": 0.02}
    if square == "orbit":
        pieces = bt.Line([element]).elements[0]
        pieces.slices = 50
        particle = at_rest(ref, **start)
        slopes = [(particle.px[0], particle.py[0])]
        track = bt.Line([pieces]).track(particle, record="all", record_slices=True)
        slopes = track.moments[["mean_px", "mean_py"]].to_numpy()
        square = float((np.diff(slopes, axis=0) ** 2).sum() / (element.length / 50))
        pieces.slices = 1
    beam = at_rest(ref, **start)
    bt.Line([element]).track(beam, radiation=bt.Radiation())
    rate = 2 / 3 * classical_radius(ref.species) * ref.gamma * ref.beta_gamma**3
    assert beam.pt[0] * ref.beta_gamma == pytest.approx(rate * square, rel=2e-3)


def test_loss_in_an_undulator() -> None:
    """The mean square of the curvature K ku cos(ku z)/gamma of the wiggle."""
    ref = electron(2e9)
    beam = at_rest(ref)
    undulator = bt.Undulator(length=2.0, period=0.05, strength=1.5)
    bt.Line([undulator]).track(beam, radiation=bt.Radiation())
    square = (1.5 / ref.beta_gamma * 2 * np.pi / 0.05) ** 2 / 2
    rate = 2 / 3 * classical_radius(ref.species) * ref.gamma * ref.beta_gamma**3
    assert beam.pt[0] * ref.beta_gamma == pytest.approx(rate * square * 2.0, rel=1e-5)


def test_photons_leave_along_the_momentum() -> None:
    """Slopes stay, so that vertical oscillations are damped by half of the relative loss per turn."""
    ref = electron(2e9)
    bend = bt.Bend(length=1.0, angle=0.1, steps=20)
    loud, quiet = at_rest(ref, py=1e-3), at_rest(ref, py=1e-3)
    bt.Line([bend]).track(loud, radiation=bt.Radiation())
    bt.Line([bend]).track(quiet)
    assert loud.pt[0] > 0
    left = 1 - loud.pt[0]  # momentum, over the reference momentum
    assert loud.py[0] / left == pytest.approx(1e-3, rel=1e-7)
    assert loud.y[0] == pytest.approx(quiet.y[0], rel=1e-4)


@pytest.mark.parametrize("steps", [4, 8])
def test_orbit_of_a_radiating_particle_is_of_second_order_in_the_step(steps: int) -> None:
    ref = electron(20e9)

    def behind(n: int) -> np.ndarray:
        beam = at_rest(ref)
        bend = bt.Bend(length=1.0, angle=0.1, model="exact", steps=n)
        bt.Line([bend]).track(beam, radiation=bt.Radiation())
        return np.array(beam.array)[:4, 0]

    best = behind(256)
    coarse, fine = (np.abs(behind(n) - best) for n in (steps, 2 * steps))
    assert coarse[0] > 3.5 * fine[0]
    assert coarse[1] > 3.5 * fine[1] or coarse[1] < 1e-6 * abs(best[1])


def optics(line: bt.Line, ref: bt.Reference) -> tuple[np.ndarray, np.ndarray]:
    """Periodic (beta, -alpha; -alpha, gamma) and (D, D') of pt, in x."""
    m = line.matrix(ref)
    m_x = m[:2, :2]
    sine = np.sign(m_x[0, 1]) * np.sqrt(1 - (np.trace(m_x) / 2) ** 2)
    beta, alpha = m_x[0, 1] / sine, (m_x[0, 0] - m_x[1, 1]) / 2 / sine
    twiss = np.array([[beta, -alpha], [-alpha, (1 + alpha**2) / beta]])
    return twiss, np.linalg.solve(np.eye(2) - m_x, m[:2, 5])


def curly_h(line: bt.Line, ref: bt.Reference) -> float:
    """Mean of H = gamma D^2 + 2 alpha D D' + beta D'^2 over the bends."""
    twiss, d = optics(line, ref)
    values, lengths = [], []
    for element in line:
        pieces = 40 if element.kind == "Bend" else 1
        part = element
        if pieces > 1:
            part = bt.Bend(length=element.length / pieces, angle=element.angle / pieces)
        m = bt.Line([part]).matrix(ref)
        for _ in range(pieces):
            before = d @ np.linalg.inv(twiss) @ d
            twiss, d = m[:2, :2] @ twiss @ m[:2, :2].T, m[:2, :2] @ d + m[:2, 5]
            if pieces > 1:
                values.append((before + d @ np.linalg.inv(twiss) @ d) / 2)
                lengths.append(part.length)
    return float(np.average(values, weights=lengths))


def test_quantum_excitation() -> None:
    """Growth of spread and emittance in a turn: 55/(24 sqrt 3) r_c lambda_c gamma^7 int |kappa|^3 for <gamma^2>, and
    half of it times <H> for the emittance (M. Sands, SLAC-121, sec. 5.3)."""
    ref = electron(3e9)
    n = 40_000
    beam = at_rest(ref, n)
    line = cell()
    (16 * line).track(beam, radiation=bt.Radiation("quantum", reference=True, seed=3))
    growth = 55 / (24 * np.sqrt(3)) * classical_radius(ref.species) * COMPTON
    growth *= ref.gamma**7 * 2 * np.pi / RADIUS**2 / ref.beta_gamma**2
    # the particles that lose less lose more later: damping within the turn
    assert np.var(beam.pt) == pytest.approx(growth, rel=6 * np.sqrt(2 / n))
    twiss, d = optics(line, ref)
    u = np.array([beam.x, beam.px]) - np.outer(d, beam.pt)
    u -= u.mean(axis=1, keepdims=True)
    emittance = np.mean(np.einsum("in,ij,jn->n", u, np.linalg.inv(twiss), u)) / 2
    assert emittance == pytest.approx(growth * curly_h(line, ref) / 2, rel=6 / np.sqrt(n))


def test_noise_is_normal_and_independent() -> None:
    """From step to step, from place to place and from turn to turn."""
    ref = electron(3e9)
    n = 20_000
    bend = bt.Bend(length=1.0, angle=0.1, steps=1)

    def loss(line: bt.Line, **how: object) -> np.ndarray:
        beam = at_rest(ref, n)
        line.track(beam, radiation=bt.Radiation("quantum"), **how)
        return np.array(beam.pt)

    one = loss(bt.Line([bend]))
    excess = (one - one.mean()) / one.std()
    assert abs(np.mean(excess**3)) < 5 * np.sqrt(6 / n)
    assert abs(np.mean(excess**4) - 3) < 5 * np.sqrt(24 / n)
    marker = bt.Marker()
    for line, how in (
        (bt.Line([bend]), {"first_turn": 1}),
        (bt.Line([marker, bend]), {}),
    ):
        assert abs(np.corrcoef(one, loss(line, **how))[0, 1]) < 5 / np.sqrt(n)
    for line, how in ((bt.Line([bend, bend]), {}), (bt.Line([bend]), {"turns": 2})):
        assert np.var(loss(line, **how)) == pytest.approx(2 * np.var(one), rel=6 * np.sqrt(2 / n))
    bend.steps = 4
    assert np.var(loss(bt.Line([bend]))) == pytest.approx(np.var(one), rel=6 * np.sqrt(2 / n))


def random_beam(ref: bt.Reference, n: int, precision: str = "double") -> bt.Beam:
    twiss = {"beta_x": 3, "beta_y": 3, "beta_t": 1, "alpha_x": 0, "alpha_y": 0, "alpha_t": 0}
    emittances = {"emittance_x": 1e-9, "emittance_y": 1e-9, "emittance_t": 1e-6}
    spread = bt.Gaussian.from_twiss(**twiss, **emittances)
    return bt.Beam(ref.copy(), spread, n=n, seed=5, precision=precision)


def test_the_same_bits_on_any_number_of_threads_and_however_a_run_is_cut() -> None:
    ref = electron(3e9)
    line = 4 * cell()
    model = bt.Radiation("quantum", seed=7)
    results = []
    for threads in (1, 2, 3, 4):
        beam = random_beam(ref, 3001)
        line.track(beam, turns=3, threads=threads, radiation=model)
        results.append(np.array(beam.array))
    for turns in ((1, 2), (2, 1)):
        beam = random_beam(ref, 3001)
        line.track(beam, turns=turns[0], radiation=model)
        line.track(beam, turns=turns[1], first_turn=turns[0], radiation=model)
        results.append(np.array(beam.array))
    beam = random_beam(ref, 3001)
    line.track(beam, turns=3, radiation=model, progress=lambda part: None)
    results.append(np.array(beam.array))
    for other in results[1:]:
        np.testing.assert_array_equal(other, results[0])
    beam = random_beam(ref, 3001)
    line.track(beam, turns=3, radiation=bt.Radiation("quantum", seed=8))
    assert np.abs(beam.pt - results[0][5]).max() > 1e-6


def test_single_precision() -> None:
    ref = electron(3e9)
    beams = [random_beam(ref, 1000, p) for p in ("single", "double")]
    for beam in beams:
        (4 * cell()).track(beam, radiation=bt.Radiation("quantum"))
    np.testing.assert_allclose(beams[0].pt, beams[1].pt, rtol=0, atol=1e-7)
    np.testing.assert_allclose(beams[0].x, beams[1].x, rtol=0, atol=1e-7)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_orders_in_chi(order: int) -> None:
    """Mean and variance in a strong field, against the moments of the quantum spectrum."""
    chi = 2e-3
    ref = electron(100e9)
    curvature = chi / (ref.beta_gamma**2 * COMPTON)
    length = 1e-4 / curvature
    radius = classical_radius(ref.species)
    n = 20_000
    beam = at_rest(ref, n)
    bend = bt.Bend(length=length, angle=1e-4, steps=1)
    bt.Line([bend]).track(beam, radiation=bt.Radiation("quantum", order=order))
    alone = at_rest(ref)
    bt.Line([bend]).track(alone, radiation=bt.Radiation(order=order))
    root = np.sqrt(3)
    g = 1 + chi * (-55 * root / 16 * (order > 1) + chi * 48 * (order > 2))
    h = 1 + chi * (-448 * root / 55 * (order > 1) + chi * 777 / 4 * (order > 2))
    mean = 2 / 3 * radius * ref.gamma**4 * curvature**2 * length * g
    variance = 55 / (24 * root) * radius * COMPTON * ref.gamma**7 * curvature**3 * length * h
    mean *= 1 - mean / ref.gamma  # the power falls with gamma^2 on the way
    assert alone.pt[0] * ref.beta_gamma == pytest.approx(mean, rel=1e-6)
    assert np.var(beam.pt) * ref.beta_gamma**2 == pytest.approx(variance, rel=5 * np.sqrt(2 / n))


def test_what_radiates_nothing() -> None:
    ref = electron(3e9)
    for element in (
        bt.Drift(length=1.0),
        bt.Quadrupole(length=1.0, k1=1.0),
        bt.Multipole(knl=[1e-3]),
        bt.Solenoid(length=1.0, ks=1.0),
        bt.RFCavity(length=0.1, voltage=1e6, frequency=5e8, phase=-np.pi / 2),
    ):
        loud, quiet = at_rest(ref), at_rest(ref)
        bt.Line([element]).track(loud, radiation=bt.Radiation("quantum"))
        bt.Line([element]).track(quiet)
        np.testing.assert_allclose(loud.array, quiet.array, atol=1e-17)


def test_spins_and_radiation_together() -> None:
    ref = electron(3e9)
    line = 2 * cell()
    beam = random_beam(ref, 100)
    beam.set_spin(0.0, 0.6, 0.8)
    other = random_beam(ref, 100)
    line.track(beam, radiation=bt.Radiation("quantum"))
    line.track(other, radiation=bt.Radiation("quantum"))
    np.testing.assert_allclose(beam.array, other.array, rtol=0, atol=1e-15)
    np.testing.assert_allclose(beam.sx**2 + beam.sy**2 + beam.sz**2, 1.0, atol=1e-13)


def test_a_particle_that_radiates_everything_is_lost() -> None:
    ref = electron(1e15)
    beam = at_rest(ref, 3)
    bt.Line([bt.Bend(length=100.0, angle=0.1, steps=1)]).track(beam, radiation=bt.Radiation())
    assert len(beam) == 0
    assert set(beam.lost["reason"]) == {"outside_domain"}
    with pytest.raises(ValueError, match="Bend 'b1': the reference particle radiates all"):
        bt.Line([bt.Bend(length=100.0, angle=0.1, steps=1, name="b1")]).track(
            at_rest(ref), radiation=bt.Radiation(reference=True)
        )


def test_errors() -> None:
    ref = electron(3e9)
    line = cell()
    with pytest.raises(ValueError, match="radiation cannot be undone"):
        line.track(at_rest(ref), backward=True, radiation=bt.Radiation())
    with pytest.raises(
        TypeError, match=r"radiation must be a betatron.Radiation or None, got True"
    ):
        line.track(at_rest(ref), radiation=True)
    with pytest.raises(ValueError, match=r"model = 'photons' must be 'mean' or 'quantum'"):
        bt.Radiation("photons")
    with pytest.raises(TypeError, match="model must be text"):
        bt.Radiation(1)
    with pytest.raises(ValueError, match="order = 4 must be between 1 and 3"):
        bt.Radiation(order=4)
    with pytest.raises(TypeError, match="order must be a whole number"):
        bt.Radiation(order=1.5)
    with pytest.raises(TypeError, match="reference must be True or False"):
        bt.Radiation(reference=1)
    with pytest.raises(ValueError, match="seed = -1 must be between 0"):
        bt.Radiation(seed=-1)
