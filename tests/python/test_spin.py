"""Spins: against an independent integration of the equation of Thomas, Bargmann, Michel and Telegdi, known precessions,
conservation laws."""

from __future__ import annotations

from collections.abc import Callable

import betatron as bt
import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.linalg import expm

Field = Callable[[float, float, float], tuple[float, float, float]]

# low and high energy, both signs of the charge, small and large anomalies
REFERENCES = [
    bt.Reference("electron", kinetic_energy=1e3),
    bt.Reference("electron", kinetic_energy=1e9),
    bt.Reference("positron", kinetic_energy=10e9),
    bt.Reference("proton", kinetic_energy=10e6),
    bt.Reference("antiproton", kinetic_energy=20e9),
    bt.Reference("antimuon", kinetic_energy=3e9),
]
IDS = [f"{r.species.name} {r.kinetic_energy:g} eV" for r in REFERENCES]
COORDINATES = ("x", "px", "y", "py", "t", "pt")


def cross(v: np.ndarray) -> np.ndarray:
    return np.array([[0, -v[2], v[1]], [v[2], 0, -v[0]], [-v[1], v[0], 0]])


def integrate(
    ref: bt.Reference,
    start: np.ndarray,
    spin: np.ndarray,
    field: Field,
    length: float,
    h: float = 0.0,
    from_s: float = 0.0,
) -> np.ndarray:
    """(x, px, y, py, t, pt, sx, sy, sz) behind a field over the rigidity, by the Lorentz force and the equation of
    the spin in a frame of curvature h; t is left as it is."""
    anomaly = ref.species.anomaly

    def slope(s: float, u: np.ndarray) -> np.ndarray:
        x, px, y, py, _, pt = u[:6]
        p2 = 1 - 2 * pt / ref.beta + pt**2
        p = np.sqrt(p2)
        pz = np.sqrt(p2 - px**2 - py**2)
        n = np.array([px, py, pz]) / p
        gamma = ref.gamma - ref.beta_gamma * pt
        b = np.array(field(x, y, s))
        along = n * (n @ b)
        path = (1 + h * x) * p / pz
        force = path * np.cross(n, b)
        turn = -path / p * ((1 + anomaly * gamma) * (b - along) + (1 + anomaly) * along)
        frame = np.array([0.0, h, 0.0])
        ds = np.cross(turn + frame, u[6:])
        x_slope, y_slope = (1 + h * x) * px / pz, (1 + h * x) * py / pz
        return np.array([x_slope, force[0] + h * pz, y_slope, force[1], 0.0, 0.0, *ds])

    u = np.array([*start, *spin])
    return solve_ivp(slope, (from_s, from_s + length), u, "DOP853", rtol=1e-12, atol=1e-14).y[:, -1]


def samples(n: int, seed: int = 1) -> list[tuple[np.ndarray, np.ndarray]]:
    random = np.random.default_rng(seed)
    result = []
    for _ in range(n):
        z = random.normal(size=6) * [2e-3, 2e-3, 2e-3, 2e-3, 0.0, 1e-3]
        s = random.normal(size=3)
        result.append((z, s / np.linalg.norm(s)))
    return result


def one(ref: bt.Reference, z: np.ndarray, s: np.ndarray) -> bt.Beam:
    beam = bt.Beam.from_arrays(ref.copy(), **{q: z[i : i + 1] for i, q in enumerate(COORDINATES)})
    beam.set_spin(*s)
    return beam


def spin_of(beam: bt.Beam) -> np.ndarray:
    return np.array([beam.sx, beam.sy, beam.sz], dtype=float)


def through(line: bt.Line, ref: bt.Reference, z: np.ndarray, s: np.ndarray) -> np.ndarray:
    """(x, ..., pt, sx, sy, sz) behind the line."""
    beam = one(ref, z, s)
    line.track(beam)
    return np.concatenate([np.array(beam.array)[:, 0], spin_of(beam)[:, 0]])


def combined(h: float, k: float) -> Field:
    """Dipole and quadrupole k x in the mid-plane of a frame of curvature h, continued by Maxwell's equations."""

    def field(x: float, y: float, s: float) -> tuple[float, float, float]:
        stretch = 1 + h * x
        bx = k * y + y**3 / 6 * h**2 * k / stretch**2
        by = h + k * x - y**2 / 2 * h * k / stretch + y**4 / 24 * h**3 * k / stretch**3
        return bx, by, 0.0

    return field


K, K2, H, KS = 1.5, 30.0, 0.375, 0.9
EXACT = {"model": "exact", "order": 4}
MAGNETS: dict[str, tuple[bt.Element, Field, float]] = {
    "quadrupole": (
        bt.Quadrupole(length=0.7, k1=K, steps=10, **EXACT),
        lambda x, y, s: (K * y, K * x, 0.0),
        0.0,
    ),
    "bend": (bt.Bend(length=0.8, angle=0.8 * H, **EXACT), lambda x, y, s: (0.0, H, 0.0), H),
    "combined": (
        bt.Bend(length=0.8, angle=0.8 * H, k1=0.7, steps=40, **EXACT),
        combined(H, 0.7),
        H,
    ),
    "sextupole": (
        bt.Sextupole(length=0.4, k2=K2, **EXACT),
        lambda x, y, s: (K2 * x * y, K2 * (x * x - y * y) / 2, 0.0),
        0.0,
    ),
    "plasma lens": (
        bt.PlasmaLens(length=0.4, k1=K, **EXACT),
        lambda x, y, s: (-K * y, K * x, 0.0),
        0.0,
    ),
}


@pytest.mark.parametrize("magnet", MAGNETS)
@pytest.mark.parametrize("ref", REFERENCES, ids=IDS)
def test_spin_follows_the_equation_of_motion(ref: bt.Reference, magnet: str) -> None:
    element, field, h = MAGNETS[magnet]
    for z, s in samples(3):
        expected = integrate(ref, z, s, field, element.length, h)
        found = through(bt.Line([element]), ref, z, s)
        orbit = np.abs(found[:4] - expected[:4]).max()
        assert orbit < 1e-9
        # an error of the orbit turns the spin by (1 + G gamma) times that, over the angles of the magnet
        precession = 1 + abs(ref.species.anomaly) * ref.gamma
        assert np.abs(found[6:] - expected[6:]).max() < 2e-10 * precession + 30 * precession * orbit


@pytest.mark.parametrize("ref", REFERENCES, ids=IDS)
def test_edges_of_a_solenoid_turn_the_spin(ref: bt.Reference) -> None:
    """A field that rises over a width w: the hard edge is its limit, to first order in w."""
    length, ends = 0.2, 0.02
    line = bt.Line(
        [
            bt.Drift(length=ends, model="exact"),
            bt.Solenoid(length=length, ks=KS, model="exact"),
            bt.Drift(length=ends, model="exact"),
        ]
    )
    z, s = samples(1, seed=3)[0]
    z = z * [1, 5, 1, 5, 0, 1]
    found = through(line, ref, z, s)
    errors = []
    for width in (8e-4, 4e-4):

        def field(
            x: float, y: float, at: float, width: float = width
        ) -> tuple[float, float, float]:
            a, b = np.tanh((at - ends) / width), np.tanh((at - ends - length) / width)
            slope = KS / 2 * ((1 - a * a) - (1 - b * b)) / width
            return -x / 2 * slope, -y / 2 * slope, KS / 2 * (a - b)

        u, at = np.array([*z, *s]), 0.0
        for piece in (2 * ends, length - 2 * ends, 2 * ends):
            u = integrate(ref, u[:6], u[6:], field, piece, from_s=at)
            at += piece
        errors.append(np.abs(found[6:] - u[6:]).max())
    assert errors[1] < 2e-5 * (1 + abs(ref.species.anomaly) * ref.gamma)
    assert errors[1] < 0.7 * errors[0] + 1e-10


@pytest.mark.parametrize("model", ["linear", "paraxial", "exact"])
@pytest.mark.parametrize("ref", REFERENCES, ids=IDS)
def test_precession_in_a_bend_is_g_gamma_times_its_angle(ref: bt.Reference, model: str) -> None:
    angle = 0.4
    for bend in (
        bt.Bend(length=2.0, angle=angle, model=model, steps=3),
        bt.Bend(length=2.0, angle=angle, k1=0.3, model=model, slices=4),
        bt.ThinDipole(angle=angle, curvature=0.2, model=model),
    ):
        rotation = bt.Line([bend]).spin_matrix(ref)
        # towards -x, that is by a negative angle about y
        expected = expm(cross(np.array([0, -ref.species.anomaly * ref.gamma * angle, 0])))
        np.testing.assert_allclose(rotation, expected, atol=1e-12 * max(1, ref.gamma))


@pytest.mark.parametrize("ref", REFERENCES, ids=IDS)
def test_precession_on_the_axis_of_a_solenoid(ref: bt.Reference) -> None:
    rotation = bt.Line([bt.Solenoid(length=1.5, ks=0.6)]).spin_matrix(ref)
    expected = expm(cross(np.array([0, 0, -0.9 * (1 + ref.species.anomaly)])))
    np.testing.assert_allclose(rotation, expected, atol=1e-14)
    soft = bt.Line([bt.SoftSolenoid(length=1.5, ks=0.6, cosine=[2.0])]).spin_matrix(ref)
    np.testing.assert_allclose(soft, expected, atol=1e-13)


def test_thin_kick_turns_by_one_plus_g_gamma() -> None:
    ref = REFERENCES[2]
    kick = 1e-4
    turn = (1 + ref.species.anomaly * ref.gamma) * kick
    rotation = bt.Line([bt.Kicker(hkick=kick)]).spin_matrix(ref)
    np.testing.assert_allclose(rotation[0, 2], np.sin(turn), rtol=1e-7)
    rotation = bt.Line([bt.Kicker(vkick=kick)]).spin_matrix(ref)
    np.testing.assert_allclose(rotation[1, 2], np.sin(turn), rtol=1e-7)


def machine(model: str, steps: int = 4) -> bt.Line:
    return bt.Line(
        [
            bt.Quadrupole(length=0.3, k1=2, model=model, steps=steps),
            bt.Bend(length=1.0, angle=0.2, e1=0.1, e2=0.1, model=model, slices=3, steps=steps),
            bt.Solenoid(length=0.3, ks=0.5, model=model),
            bt.Quadrupole(length=0.3, k1=-2, dx=1e-3, roll=0.3, model=model, steps=steps),
            bt.Bend(length=0.5, angle=-0.1, k1=0.5, fringe="nonlinear", model=model, steps=steps),
            bt.Sextupole(length=0.2, k2=10, model=model, steps=steps),
            bt.RFCavity(length=0.1, voltage=20e6, frequency=5e8, phase=0.3, model=model),
            bt.Multipole(knl=[1e-3, 0.2, 3], model=model),
            bt.SoftSolenoid(length=0.3, ks=0.2, model=model),
            bt.Patch(offset_x=1e-3, rotation_x=0.02, rotation_y=-0.03, rotation_z=0.1, model=model),
            bt.SpinMap(rotation=[0.1, 0.2, 0.3], slopes=np.arange(18.0) / 10),
        ]
    )


def polarised(n: int, ref: bt.Reference = REFERENCES[2], precision: str = "double") -> bt.Beam:
    twiss = {"beta_x": 3, "beta_y": 3, "beta_t": 1, "alpha_x": 0, "alpha_y": 0, "alpha_t": 0}
    emittances = {"emittance_x": 1e-7, "emittance_y": 1e-7, "emittance_t": 1e-7}
    spread = bt.Gaussian.from_twiss(**twiss, **emittances)
    return bt.Beam(ref, spread, n=n, seed=2, precision=precision, polarization=[0.3, 0.5, 0.2])


@pytest.mark.parametrize("model", ["linear", "paraxial", "exact"])
@pytest.mark.parametrize("precision, rounding", [("double", 1e-12), ("single", 1e-4)])
def test_length_is_kept_and_the_way_back_restores(
    model: str, precision: str, rounding: float
) -> None:
    beam = polarised(500, precision=precision)
    before = spin_of(beam)
    line = machine(model)
    line.track(beam, turns=3)
    after = spin_of(beam)
    assert np.abs(after - before).max() > 0.5
    np.testing.assert_allclose(np.linalg.norm(after, axis=0), 1.0, atol=rounding / 10)
    line.track(beam, turns=3, backward=True)
    np.testing.assert_allclose(spin_of(beam), before, atol=10 * rounding)


@pytest.mark.parametrize("model", ["linear", "paraxial", "exact"])
def test_spins_do_not_act_on_the_orbit(model: str) -> None:
    with_spins, without = polarised(300), polarised(300)
    spins = spin_of(without)
    line = machine(model)
    line.track(with_spins)
    line.track(without, spin=False)
    np.testing.assert_allclose(with_spins.array, without.array, rtol=0, atol=1e-13)
    np.testing.assert_array_equal(spin_of(without), spins)
    bare = bt.Beam.from_arrays(REFERENCES[2].copy(), **{q: polarised(300)[q] for q in COORDINATES})
    line.track(bare)
    np.testing.assert_array_equal(bare.array, without.array)


@pytest.mark.parametrize("model", ["linear", "paraxial", "exact"])
def test_spin_map_is_the_derivative(model: str) -> None:
    ref = REFERENCES[2]
    line = machine(model)
    rotation, slopes = line.spin_map(ref)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-13)
    z, s = samples(1)[0]
    errors = []
    for size in (1e-2, 5e-3):
        predicted = rotation @ expm(cross(slopes @ (size * z))) @ s
        errors.append(np.abs(through(line, ref, size * z, s)[6:] - predicted).max())
    assert errors[0] < 1e-4
    assert errors[1] < errors[0] / 3.2  # second order


def test_linear_model_is_the_derivative_of_the_paraxial_one() -> None:
    ref = REFERENCES[2]
    for element in (
        bt.Quadrupole(length=0.5, k1=2, slices=2),
        bt.Bend(length=1.0, angle=0.2, k1=0.4, slices=2),
        bt.Solenoid(length=0.5, ks=0.4),
    ):
        element.model = "paraxial"
        rotation, slopes = bt.Line([element]).spin_map(ref)
        element.model = "linear"
        z, s = samples(1)[0]
        linear = through(bt.Line([element]), ref, z, s)[6:]
        expected = rotation @ expm(cross(slopes @ z)) @ s
        second_order = (1 + ref.species.anomaly * ref.gamma) * 2e-5 if element.slices > 1 else 1e-13
        assert np.abs(linear - expected).max() < second_order


@pytest.mark.parametrize(
    "kind, values, order, expected",
    [
        ("Quadrupole", {"k1": 3, "model": "paraxial"}, 2, 4),  # closed: only the spin has steps
        ("Bend", {"angle": 0.3, "k1": 1, "model": "exact"}, 2, 2),
        ("Bend", {"angle": 0.3, "k1": 1, "model": "exact"}, 4, 4),
        ("Sextupole", {"k2": 50, "model": "exact"}, 2, 2),
        ("Sextupole", {"k2": 50, "model": "exact"}, 4, 4),
    ],
)
def test_order_of_convergence(
    kind: str, values: dict[str, object], order: int, expected: int
) -> None:
    ref = REFERENCES[2]
    z, s = samples(1)[0]

    def behind(steps: int, method: int) -> np.ndarray:
        element = getattr(bt, kind)(length=1.0, order=method, steps=steps, **values)
        return through(bt.Line([element]), ref, 5 * z, s)[6:]

    best = behind(100, 6)
    errors = [np.abs(behind(n, order) - best).max() for n in (10, 20)]
    assert np.log2(errors[0] / errors[1]) == pytest.approx(expected, abs=0.3)


def test_slices_make_the_whole() -> None:
    ref = REFERENCES[2]
    z, s = samples(1)[0]
    for kind, values in {
        "Quadrupole": {"length": 0.5, "k1": 2.0},
        "Bend": {"length": 1.0, "angle": 0.1},
        "Solenoid": {"length": 0.5, "ks": 0.4},
    }.items():
        whole, cut = (
            through(bt.Line([getattr(bt, kind)(**values, slices=n, steps=12 // n)]), ref, z, s)
            for n in (1, 3)
        )
        np.testing.assert_allclose(cut, whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize("ref", REFERENCES[:1] + REFERENCES[3:4], ids=IDS[:1] + IDS[3:4])
def test_electric_fields_turn_the_spin(ref: bt.Reference) -> None:
    """Ez and Bz along a straight, by the equation of motion with its electric term, from edge to edge of Bz."""
    length, gain, field = 0.2, 0.6 * ref.kinetic_energy, 0.3 * ref.rigidity
    anomaly, mass = ref.species.anomaly, ref.species.mass
    ks, dgamma = 0.3, gain / mass / length

    def slope(
        s: float, u: np.ndarray
    ) -> np.ndarray:  # momenta over m c; B over m c/q: ks beta gamma
        gamma = u[4]
        p = np.array([u[1], u[3], np.sqrt(gamma**2 - 1 - u[1] ** 2 - u[3] ** 2)])
        b = np.array([0.0, 0.0, ks * ref.beta_gamma])
        beta = p / gamma
        n = p / np.linalg.norm(p)
        along = n * (n @ b)
        turn = -((1 + anomaly * gamma) * (b - along) + (1 + anomaly) * along) / p[2]
        turn += (anomaly + 1 / (gamma + 1)) * np.cross(beta, [0.0, 0.0, dgamma]) / beta[2]
        force = np.cross(p, b) / p[2]
        ds = np.cross(turn, u[5:])
        return np.array([p[0] / p[2], force[0], p[1] / p[2], force[1], dgamma, *ds])

    z, s = samples(1, seed=3)[0]
    z = z * [0, 10, 0, 10, 0, 1]  # on the axis: no edge at the entrance
    start = [0.0, z[1] * ref.beta_gamma, 0.0, z[3] * ref.beta_gamma, ref.gamma]
    start[4] -= ref.beta_gamma * z[5]
    end = solve_ivp(slope, (0, length), [*start, *s], "DOP853", rtol=1e-12, atol=1e-14).y[:, -1]
    # the edge at the exit: the radial field turns momentum and spin
    p = np.array([end[1], end[3], 0.0])
    p[2] = np.sqrt(end[4] ** 2 - 1 - p @ p)
    kick = ks * ref.beta_gamma / 2 * np.array([-end[2], end[0], 0.0])
    middle = p + kick / 2
    middle[2] = np.sqrt(end[4] ** 2 - 1 - middle[:2] @ middle[:2])
    f = np.array([-kick[1], kick[0], 0.0])
    n = middle / np.linalg.norm(middle)
    along = n * (n @ f)
    turn = (1 + anomaly * end[4]) * (f - along) + (1 + anomaly) * along
    expected = expm(cross(turn / middle[2])) @ end[5:]

    errors = []
    for steps in (20, 40):
        element = bt.UniformAcceleration(
            length=length, voltage=gain, field=field, model="exact", steps=steps
        )
        found = through(bt.Line([element]), ref, z, s)
        np.testing.assert_allclose(found[[0, 2]], end[[0, 2]], rtol=1e-9)
        errors.append(np.abs(found[6:] - expected).max())
    assert errors[1] < 1e-6
    assert errors[1] < errors[0] / 3 + 1e-10


def test_a_short_gap_turns_the_spin_as_a_cavity_does() -> None:
    ref = REFERENCES[3]
    z, s = samples(1)[0]
    z = z * [0, 30, 0, 30, 0, 1]
    voltage = 0.02 * ref.kinetic_energy
    gap = bt.UniformAcceleration(length=1e-9, voltage=voltage, model="exact", steps=20)
    cavity = bt.RFCavity(voltage=voltage, frequency=1.0, phase=0.0)
    spins = [through(bt.Line([e]), ref, z, s)[6:] for e in (gap, cavity)]
    assert np.abs(spins[0] - s).max() > 1e-5
    np.testing.assert_allclose(spins[1], spins[0], atol=1e-7)


@pytest.mark.parametrize("energy", [1e4, 2e9])
def test_transverse_kick_of_a_cavity(energy: float) -> None:
    """A buncher's radial kick D is electric by gamma^2 D, which turns the spin by beta (G + 1/(gamma + 1)) times the
    momentum over m c, and magnetic by (1 - gamma^2) D."""
    ref = bt.Reference("proton", kinetic_energy=energy)
    z, s = np.array([1e-6, 0, 0, 0, 0, 0]), np.array([0.0, 0.0, 1.0])
    g, anomaly = ref.gamma, ref.species.anomaly
    found = through(bt.Line([bt.Buncher(voltage=0.1 * energy, frequency=1e9)]), ref, z, s)
    electric = ref.beta * ref.beta_gamma * (anomaly + 1 / (g + 1)) * g**2
    expected = found[1] * (electric + (1 + anomaly * g) * (1 - g**2))
    assert found[6] == pytest.approx(expected, rel=1e-6)
    crab = bt.CrabCavity(voltage=1e-5 * energy, frequency=4e8, phase=np.pi / 2)
    found = through(bt.Line([crab]), ref, 0 * z, s)
    assert found[6] == pytest.approx(found[1] * (1 + anomaly * g), rel=1e-6)


def test_spin_tune_of_a_flat_ring() -> None:
    ref = REFERENCES[1]
    ring = bt.Line([bt.Quadrupole(length=0.2, k1=1), bt.Bend(length=1, angle=np.pi / 4)] * 8)
    tune, n0 = ring.spin_tune(ref)
    expected = (ref.species.anomaly * ref.gamma) % 1.0
    assert tune == pytest.approx(min(expected, 1 - expected), abs=1e-12)
    np.testing.assert_allclose(np.abs(n0), [0, 1, 0], atol=1e-12)
    half = bt.Line([bt.SpinMap(rotation=[0, 0, np.pi])])
    tune, n0 = half.spin_tune(ref)
    assert tune == pytest.approx(0.5)
    np.testing.assert_allclose(np.abs(n0), [0, 0, 1], atol=1e-12)
    tune, n0 = bt.Line([bt.Drift(length=1.0)]).spin_tune(ref)
    assert tune == 0
    assert np.isnan(n0).all()


def test_spin_map_element() -> None:
    ref = REFERENCES[1]
    z, s = samples(1)[0]
    slopes = np.random.default_rng(4).normal(size=(3, 6)) * 30
    rotation = np.array([0.3, -1.0, 0.5])
    element = bt.SpinMap(rotation=rotation, slopes=slopes)
    expected = expm(cross(rotation)) @ expm(cross(slopes @ z)) @ s
    for model in ("linear", "paraxial", "exact"):
        element.model = model
        found = through(bt.Line([element]), ref, z, s)
        np.testing.assert_allclose(found[6:], expected, atol=1e-13)
        np.testing.assert_array_equal(found[:6], z)
    with pytest.raises(ValueError, match=r"SpinMap.*rotation has 2 entries; allowed: 3"):
        bt.Line([bt.SpinMap(rotation=[1, 2])]).track(one(ref, z, s))
    with pytest.raises(ValueError, match=r"slopes has 6 entries; allowed: 18"):
        bt.Line([bt.SpinMap(slopes=np.ones(6))]).track(one(ref, z, s))


def test_threads_and_tails_do_not_matter() -> None:
    line = machine("exact")
    beams = [polarised(2001) for _ in range(4)]
    for threads, beam in zip((1, 2, 3, 4), beams, strict=True):
        line.track(beam, turns=2, threads=threads)
    for beam in beams[1:]:
        np.testing.assert_array_equal(spin_of(beam), spin_of(beams[0]))
    short = polarised(5)
    line.track(short, turns=2)
    np.testing.assert_allclose(spin_of(short), spin_of(beams[0])[:, :5], atol=1e-13)


def test_lost_particles_keep_the_spin_they_had() -> None:
    ref = REFERENCES[1]
    beam = polarised(3, ref)
    beam.x[1] = 0.1
    spin = spin_of(beam)[:, 1]
    bend = bt.Bend(length=1.0, angle=0.1)
    bt.Line([bt.Aperture(x_max=0.01, y_max=0.01), bend]).track(beam)
    assert len(beam) == 2
    np.testing.assert_array_equal(beam.lost[["sx", "sy", "sz"]].to_numpy()[0], spin)
    assert np.isfinite(spin_of(beam)).all()


def test_errors() -> None:
    ref = REFERENCES[1]
    z, s = samples(1)[0]
    bare = bt.Beam.from_arrays(ref, **{q: z[i : i + 1] for i, q in enumerate(COORDINATES)})
    line = bt.Line([bt.Drift(length=1.0)])
    with pytest.raises(ValueError, match="the beam has none"):
        line.track(bare, spin=True)
    with pytest.raises(TypeError, match="spin must be True, False or None"):
        line.track(bare, spin=1)
    ion = bt.Reference(bt.Species(name="He-4", mass=3.7e9, charge=2), kinetic_energy=1e9)
    with pytest.raises(ValueError, match=r"'He-4' has no gyromagnetic anomaly"):
        line.track(one(ion, z, s))
    with pytest.raises(ValueError, match=r"'He-4' has no gyromagnetic anomaly"):
        line.spin_matrix(ion)
    undulator = bt.Undulator(length=0.3, period=0.03, strength=1.0, name="u1")
    beam = one(ref, z, s)
    for model in ("linear", "paraxial"):
        undulator.model = model
        with pytest.raises(ValueError, match=r"Undulator 'u1': its effect on the spin"):
            bt.Line([undulator]).track(beam)
    np.testing.assert_array_equal(spin_of(beam)[:, 0], s)
    bt.Line([undulator]).track(beam, spin=False)
