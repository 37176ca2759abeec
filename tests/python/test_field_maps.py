"""Elements whose field varies along the axis, and acceleration: against the equations of motion,
integrated here from the fields themselves, and against the literature."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import betatron as bt
import numpy as np
import pytest

C = 299792458.0
CASES = Path(__file__).parents[1] / "reference" / "cases.json"
NAMES = ("x", "px", "y", "py", "t", "pt")


def track(line: bt.Line, ref: bt.Reference, z: np.ndarray) -> tuple[np.ndarray, bt.Beam]:
    """Coordinates (6, n) of particles z (6, n) behind the line, and the beam."""
    beam = bt.Beam.from_arrays(ref.copy(), **{n: np.array(z[i]) for i, n in enumerate(NAMES)})
    line.track(beam, progress=False)
    return np.array(beam.array), beam


def end(line: bt.Line, ref: bt.Reference) -> bt.Reference:
    """The reference particle behind the line."""
    return track(line, ref, np.zeros((6, 1)))[1].reference


def runge_kutta(
    slope: Callable[[float, np.ndarray], np.ndarray], length: float, state: np.ndarray, steps: int
) -> np.ndarray:
    """state(length) of d state/dz = slope(z, state)."""
    h = length / steps
    for i in range(steps):
        z = i * h
        k1 = slope(z, state)
        k2 = slope(z + h / 2, state + h / 2 * k1)
        k3 = slope(z + h / 2, state + h / 2 * k2)
        k4 = slope(z + h, state + h * k3)
        state = state + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return state


def lorentz(fields: Callable) -> Callable[[float, np.ndarray], np.ndarray]:
    """Motion along z of (x, ux, y, uy, ct, gamma), u = p/(m c), from q E/(m c^2) and q B/(m c)."""

    def slope(z: float, s: np.ndarray) -> np.ndarray:
        x, ux, y, uy, t, gamma = s
        uz = np.sqrt(gamma**2 - 1 - ux**2 - uy**2)
        (ex, ey, ez), (bx, by, bz) = fields(x, y, z, t)
        return np.array([
            ux / uz, (gamma * ex + uy * bz - uz * by) / uz,
            uy / uz, (gamma * ey + uz * bx - ux * bz) / uz,
            gamma / uz, (ux * ex + uy * ey + uz * ez) / uz,
        ])  # fmt: skip

    return slope


def state_of(ref: bt.Reference, z: np.ndarray, bz: float = 0.0) -> np.ndarray:
    """Kinetic momenta, time and energy of particles z; bz = q Bz/(m c) at this place."""
    bg = ref.beta_gamma
    return np.array([
        z[0], z[1] * bg + bz / 2 * z[2], z[2], z[3] * bg - bz / 2 * z[0],
        ref.t + z[4], ref.gamma - z[5] * bg,
    ])  # fmt: skip


def coordinates_of(ref: bt.Reference, s: np.ndarray, bz: float = 0.0) -> np.ndarray:
    """The inverse of state_of."""
    bg = ref.beta_gamma
    return np.array([
        s[0], (s[1] - bz / 2 * s[2]) / bg, s[2], (s[3] + bz / 2 * s[0]) / bg,
        s[4] - ref.t, (ref.gamma - s[5]) / bg,
    ])  # fmt: skip


def some_particles(size: float, n: int = 20) -> np.ndarray:
    """Random particles (6, n) of transverse amplitude `size`, with large deviations in t and pt."""
    u = np.random.default_rng(3).uniform(-1, 1, (6, n))
    return u * np.array([[size], [size], [size], [size], [2e-2], [1e-2]])


# --- profiles -------------------------------------------------------------------------------------


def test_fourier_coefficients_of_a_known_series() -> None:
    z = np.linspace(1.0, 1.8, 201)
    angle = 2 * np.pi * (z - 1.4) / 0.8
    cosine, sine = bt.fourier_coefficients(
        z, 1.5 + 0.4 * np.cos(2 * angle) - 0.3 * np.sin(3 * angle), 5
    )
    assert cosine == pytest.approx([3.0, 0, 0.4, 0, 0], abs=1e-13)
    assert sine == pytest.approx([0, 0, 0, -0.3, 0], abs=1e-13)


def test_fourier_coefficients_of_the_recorded_table() -> None:
    """A TESLA profile, sampled from its own series, gives the published coefficients back."""
    cases = json.loads(CASES.read_text(encoding="utf-8"))
    case = next(c for c in cases["cases"] if c["id"] == "rfcavity__rfcavity_ref_part")
    published = case["lattice"]["elements"]["rf"]["cos_coefficients"]
    z = np.linspace(-0.65, 0.65, 401)
    n = np.arange(len(published))
    field = np.cos(2 * np.pi * np.outer(z, n) / 1.3) @ published - published[0] / 2
    cosine, _ = bt.fourier_coefficients(z, field, 25)
    assert cosine == pytest.approx(published, abs=1e-12)


def test_fourier_coefficients_of_an_uneven_table() -> None:
    z = np.sort(np.append(np.random.default_rng(1).uniform(0, 1, 3000), [0, 1]))
    cosine, sine = bt.fourier_coefficients(z, np.exp(z), 3)
    n = np.arange(3)
    exact = 2 * np.exp(0.5) * np.sinh(0.5) * 2 * (-1.0) ** n / (1 + (2 * np.pi * n) ** 2)
    assert cosine == pytest.approx(exact, abs=2e-6)
    assert sine == pytest.approx(-2 * np.pi * n * exact, abs=2e-5)


@pytest.mark.parametrize(
    ("z", "field", "count", "message"),
    [
        ([0, 1], [1], 1, "shape"), ([0], [1], 1, "n >= 2"), ([0, 0], [1, 1], 1, "increase"),
        ([0, math.nan], [1, 1], 1, "finite"), ([0, 1], [1, 1], 3, "allowed: 1 to 1"),
        ([0, 1], [1, 1], 0, "count = 0"),
    ],
)  # fmt: skip
def test_fourier_coefficients_refuse(z: list, field: list, count: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bt.fourier_coefficients(z, field, count)


# --- soft magnets ---------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["linear", "paraxial", "exact"])
def test_a_box_is_a_hard_edge(model: str) -> None:
    ref = bt.Reference("proton", kinetic_energy=200e6)
    z = some_particles(2e-3)
    common = {"length": 0.8, "model": model, "slices": 3}
    pairs = [(bt.SoftSolenoid(ks=1.3, cosine=[2], **common), bt.Solenoid(ks=1.3, **common))]
    if model != "exact":  # the exact quadrupole is split in another order
        pairs.append((bt.SoftQuadrupole(k1=4, cosine=[2], **common), bt.Quadrupole(k1=4, **common)))
    for soft, hard in pairs:
        a, b = (track(bt.Line([e]), ref, z)[0] for e in (soft, hard))
        assert np.max(np.abs(a - b)) < 1e-14


@pytest.mark.parametrize("kind", ["SoftSolenoid", "SoftQuadrupole"])
def test_soft_magnets_follow_the_lorentz_force(kind: str) -> None:
    """A bell-shaped field to first order around the axis: what is left is of third order."""
    ref = bt.Reference("electron", kinetic_energy=3e6)
    length, bell = 0.6, [1.0, 0.5]  # (1 + cos)/2, zero with its slope at the ends
    k = 2 * np.pi / length
    if kind == "SoftSolenoid":
        b = 3.0 * ref.beta_gamma
        soft = bt.SoftSolenoid(length, ks=3.0, cosine=bell)
    else:
        b = 20.0 * ref.beta_gamma
        soft = bt.SoftQuadrupole(length, k1=20.0, cosine=bell)

    def fields(x: Any, y: Any, z: float, t: Any) -> tuple:
        g = 0.5 + 0.5 * np.cos(k * (z - length / 2))
        slope = -0.5 * k * np.sin(k * (z - length / 2))
        if kind == "SoftSolenoid":
            return (0, 0, 0), (-x / 2 * b * slope, -y / 2 * b * slope, b * g)
        return (0, 0, 0), (b * g * y, b * g * x, 0 * x)

    soft.order, soft.steps = 6, 30
    errors = []
    for size in (4e-3, 1e-3):
        z = some_particles(size)
        out, beam = track(bt.Line([soft]), ref, z)
        s = runge_kutta(lorentz(fields), length, state_of(ref, z), 2000)
        errors.append(np.max(np.abs(out - coordinates_of(beam.reference, s)), axis=1))
    assert np.all(errors[0][:4] < 4e-3 * 2e-3)
    assert np.all(errors[1][:4] < errors[0][:4] / 4 / 12)  # third order
    assert errors[1][4] < errors[0][4] / 100 + 1e-12  # fourth order
    assert errors[0][5] < 1e-14


def test_a_solenoid_turns_by_the_integral_of_its_field() -> None:
    """Exactly so, whatever the number of steps: half of int Bz dz over the rigidity."""
    ref = bt.Reference("electron", kinetic_energy=1e6)
    m = bt.Line(
        [bt.SoftSolenoid(0.5, ks=0.8, cosine=[0.7, 0.5, 0.2], sine=[0, 0.1], steps=3)]
    ).matrix(ref)
    assert math.atan2(-m[2, 0], m[0, 0]) == pytest.approx(0.8 * 0.35 * 0.5 / 2, rel=1e-12)


@pytest.mark.parametrize("order", [2, 4, 6])
@pytest.mark.parametrize(
    ("kind", "values", "steps"),
    [("SoftSolenoid", {"ks": 9.0}, 50), ("SoftQuadrupole", {"k1": 30.0}, 50),
     ("RFFieldMap", {"amplitude": 8e6, "frequency": 1.3e9, "phase": 1.9}, 60)],
)  # fmt: skip
def test_the_integration_has_its_order(kind: str, values: dict, steps: int, order: int) -> None:
    """Twice the steps: 2^order times closer, for a particle off energy (and close to the axis:
    the map of a cavity has its order for what is linear in the radius)."""
    ref = bt.Reference("electron", kinetic_energy=2e6)
    z = np.array([[1e-5, 2e-5, -1e-5, 5e-6, 3e-3, 5e-3]]).T
    length = 1.0380 if kind == "RFFieldMap" else 0.8

    def out(n: int, how: int) -> np.ndarray:
        return track(bt.Line([getattr(bt, kind)(length, **values, order=how, steps=n)]), ref, z)[0]

    best = out(16 * steps, 6)
    coarse, fine = (np.max(np.abs(out(n * steps, order) - best)[:4]) for n in (1, 2))
    assert fine > 1e-17
    assert math.log2(coarse / fine) == pytest.approx(order, abs=0.5)


# --- radio frequency ------------------------------------------------------------------------------


def tesla_line(order: int, steps: int) -> tuple[bt.Line, bt.Reference]:
    cases = json.loads(CASES.read_text(encoding="utf-8"))
    case = next(c for c in cases["cases"] if c["id"] == "rfcavity__rfcavity_ref_part")
    rf = case["lattice"]["elements"]["rf"]
    ref = bt.Reference("electron", kinetic_energy=230e6)
    cavity = bt.RFFieldMap(
        rf["ds"], amplitude=rf["escale"] * ref.species.mass, frequency=rf["freq"],
        phase=math.radians(rf["phase"]), slices=4, order=order, steps=steps,
    )  # fmt: skip
    gap = bt.Drift(0.032997)
    return bt.Line([bt.Drift(0.4), *4 * [gap, cavity, gap]]), ref


def test_the_recorded_energy_and_the_converged_one() -> None:
    """The published gamma belongs to order 2 at 100 steps; the physics is where all orders meet."""
    assert end(*tesla_line(2, 100)).gamma == pytest.approx(585.1198943013, abs=1e-8)
    assert end(*tesla_line(6, 100)).gamma == pytest.approx(585.164964, abs=1e-6)
    assert end(*tesla_line(4, 400)).gamma == pytest.approx(585.164964, abs=1e-6)


@pytest.mark.parametrize(("species", "energy"), [("electron", 2e6), ("proton", 40e6)])
def test_a_cavity_follows_the_lorentz_force(species: str, energy: float) -> None:
    """Maxwell's field to second order around the axis: what is left is of third order."""
    ref = end(bt.Line([bt.Drift(1.234)]), bt.Reference(species, kinetic_energy=energy))
    length, frequency, phase = 0.5, 0.7e9, 0.3
    scale = 2.0 * (ref.gamma - 1)  # gain per metre over m c^2
    k, kz = 2 * np.pi * frequency / C, 2 * np.pi / length
    cavity = bt.RFFieldMap(
        length, amplitude=scale * ref.species.mass / abs(ref.species.charge),
        frequency=frequency, phase=phase,
        cosine=[1.0, 0.5], order=6, steps=120,
    )  # fmt: skip

    def fields(x: Any, y: Any, z: float, t: Any) -> tuple:
        angle = kz * (z - length / 2)
        e, slope, curve = (
            0.5 + 0.5 * np.cos(angle),
            -0.5 * kz * np.sin(angle),
            -0.5 * kz**2 * np.cos(angle),
        )
        e, slope, curve = scale * e, scale * slope, scale * curve
        cosine, sine = np.cos(k * t + phase), np.sin(k * t + phase)
        r2 = x**2 + y**2
        radial, round_axis = -slope / 2 * cosine, -k * e / 2 * sine
        ez = (e - r2 / 4 * (curve + k**2 * e)) * cosine
        return (x * radial, y * radial, ez), (-y * round_axis, x * round_axis, 0 * x)

    errors = []
    for size in (4e-3, 1e-3):
        z = np.append(some_particles(size), np.zeros((6, 1)), axis=1)
        out, beam = track(bt.Line([cavity]), ref, z)
        s = runge_kutta(lorentz(fields), length, state_of(ref, z), 2000)
        assert beam.reference.gamma == pytest.approx(s[5, -1], rel=1e-10)
        assert beam.reference.t == pytest.approx(s[4, -1], rel=1e-10)
        errors.append(np.max(np.abs(out - coordinates_of(beam.reference, s))[:4]) / size)
        longitudinal = np.max(np.abs(out - coordinates_of(beam.reference, s))[4:])
        assert longitudinal < 10 * size**4 / ref.beta**3 + 1e-9
    assert errors[0] < 1e-2
    assert errors[1] < errors[0] / 12 + 1e-9


def test_a_cavity_focuses_as_rosenzweig_and_serafini() -> None:
    """The pi mode of many cells, on crest, relativistic (Phys. Rev. E 49 (1994) 1599, eta = 1)."""
    cells, frequency = 20, 1.3e9
    cell = C / frequency / 2
    length = cells * cell
    ref = bt.Reference("electron", kinetic_energy=50e6)
    gain = 40.0 / 0.51099895069  # mean gain of gamma per metre
    # E = 2 g sin(k z) has half of its slope next to the ends: a series of one sine, ending at zero
    sine = [0.0] * (cells // 2 + 1)
    sine[cells // 2] = (-1.0) ** (cells // 2)
    cavity = bt.RFFieldMap(
        length, amplitude=2 * gain * ref.species.mass, frequency=frequency, phase=-math.pi / 2,
        sine=sine, order=4, steps=40 * cells,
    )  # fmt: skip
    line = bt.Line([cavity])
    final = end(line, ref)
    g0, g1 = ref.gamma, final.gamma
    assert g1 - g0 == pytest.approx(gain * length, rel=1e-3)
    alpha = math.log(g1 / g0) / math.sqrt(8)
    slope = (g1 - g0) / length
    s, c = math.sin(alpha), math.cos(alpha)
    expected = np.array([
        [c - math.sqrt(2) * s, math.sqrt(8) * g0 / slope * s],
        [-slope / g1 * (1 / math.sqrt(2) + 1 / math.sqrt(8)) * s, g0 / g1 * (c + math.sqrt(2) * s)],
    ])  # fmt: skip
    m = line.matrix(ref)[:2, :2]
    m[1] *= final.beta_gamma / ref.beta_gamma * g0 / g1  # from px/p0 to x'
    assert m == pytest.approx(expected, rel=0.02, abs=0.02)


@pytest.mark.parametrize("model", ["paraxial", "exact"])
def test_a_static_box_is_a_gap_between_two_aperture_lenses(model: str) -> None:
    """Without frequency: uniform acceleration between two thin lenses, kick -+ x e/(2 beta) where
    the field begins and ends (C. J. Davisson and C. J. Calbick, Phys. Rev. 42 (1932) 580)."""
    ref = bt.Reference("electron", kinetic_energy=100e3)
    gain, length = 80e3, 0.3
    cavity = bt.RFFieldMap(
        length, amplitude=gain / length, frequency=1.0, cosine=[2.0], order=6, steps=40, model=model
    )
    gap = bt.UniformAcceleration(length, voltage=gain, model=model)
    behind = end(bt.Line([gap]), ref)
    field = gain / length / ref.species.mass
    lenses = []
    for r, sign in ((ref, -1), (behind, 1)):
        lens = np.eye(6)
        lens[1, 0] = lens[3, 2] = sign * field / (2 * r.beta * r.beta_gamma)
        lenses.append(bt.LinearMap(lens))
    a = bt.Line([cavity]).matrix(ref)
    b = bt.Line([lenses[0], gap, lenses[1]]).matrix(ref)
    assert a == pytest.approx(b, rel=1e-6, abs=1e-6)
    assert end(bt.Line([cavity]), ref).gamma == pytest.approx(behind.gamma, rel=1e-12)


def test_the_phase_follows_the_clock() -> None:
    """Turns see the phases of the generator, as a longer line does, also on the way back."""
    ref = bt.Reference("electron", kinetic_energy=5e6)
    cell = [bt.Drift(0.3), bt.RFFieldMap(0.4, amplitude=1e6, frequency=1e9, phase=0.2, slices=3)]
    z = some_particles(1e-3)
    one, beam_one = track(bt.Line(3 * cell), ref, z)
    beam = bt.Beam.from_arrays(ref.copy(), **{n: z[i].copy() for i, n in enumerate(NAMES)})
    line = bt.Line(cell)
    line.track(beam, turns=3, progress=False)
    assert np.array_equal(np.array(beam.array), one)
    assert beam.reference.gamma == beam_one.reference.gamma
    survey = bt.Line(3 * cell).survey(ref)
    assert survey.gamma.iloc[-1] == pytest.approx(beam.reference.gamma, rel=1e-14)
    gains = np.diff(survey.gamma.to_numpy())[1::2]
    assert np.ptp(gains) > 0.1 * np.max(np.abs(gains))
    line.track(beam, turns=3, backward=True, progress=False)
    assert np.max(np.abs(np.array(beam.array) - z)) < 1e-14
    assert beam.reference.t == pytest.approx(0, abs=1e-13)


def test_a_field_that_stops_the_reference_is_named() -> None:
    ref = bt.Reference("electron", kinetic_energy=1e5)
    line = bt.Line([bt.RFFieldMap(0.5, amplitude=-1e6, frequency=1e6, cosine=[2], name="rf")])
    with pytest.raises(
        ValueError, match=r"RFFieldMap 'rf': the field stops the reference particle 0\.\d+ m"
    ):
        line.track(bt.Beam.from_arrays(ref, **{n: np.zeros(1) for n in NAMES}))


# --- uniform acceleration -------------------------------------------------------------------------


@pytest.mark.parametrize("part", [3.0, -0.6, 0.0])
@pytest.mark.parametrize("species", ["electron", "proton"])
def test_uniform_acceleration_follows_the_lorentz_force(species: str, part: float) -> None:
    ref = bt.Reference(species, kinetic_energy=1.5e6)
    length, field, voltage = 0.4, 0.05, part * ref.kinetic_energy
    e = voltage / length / ref.species.mass
    b = ref.species.charge * field * C / ref.species.mass
    gap = bt.UniformAcceleration(length, voltage=voltage, field=field, model="exact")
    z = some_particles(2e-2)
    out, beam = track(bt.Line([gap]), ref, z)
    s = runge_kutta(
        lorentz(lambda x, y, z, t: ((0, 0, e), (0, 0, b))), length, state_of(ref, z, b), 4000
    )
    assert np.max(np.abs(out - coordinates_of(beam.reference, s, b))) < 1e-8
    on_axis = runge_kutta(
        lorentz(lambda x, y, z, t: ((0, 0, e), (0, 0, b))), length, state_of(ref, np.zeros(6)), 4000
    )
    assert beam.reference.gamma == pytest.approx(on_axis[5], rel=1e-12)
    assert beam.reference.t == pytest.approx(on_axis[4], rel=1e-9)
    # what the paraxial one leaves out is of third order in the angles, of fourth in time
    errors = []
    for size in (2e-3, 5e-4):
        small = some_particles(size)
        pair = []
        for gap.model in ("exact", "paraxial"):
            pair.append(track(bt.Line([gap]), ref, small)[0])
        errors.append(np.max(np.abs(pair[0] - pair[1]), axis=1))
    assert np.all(errors[0][:4] < 2e-3 * 1e-2)
    assert np.all(errors[1][:4] < errors[0][:4] / 4 / 12)
    assert errors[1][4] < errors[0][4] / 100 + 1e-13


@pytest.mark.parametrize("model", ["linear", "paraxial", "exact"])
def test_without_voltage_it_is_a_solenoid(model: str) -> None:
    ref = bt.Reference("H-", kinetic_energy=3e6)
    z = some_particles(2e-3)
    a, _ = track(bt.Line([bt.UniformAcceleration(0.7, voltage=0, field=0.3, model=model)]), ref, z)
    b, _ = track(bt.Line([bt.Solenoid(0.7, field=0.3, model=model)]), ref, z)
    assert a == pytest.approx(b, abs=1e-14)


def test_acceleration_over_many_rapidities() -> None:
    """From 1 keV to 10 GeV in one step: the arc tangent leaves its series."""
    ref = bt.Reference("electron", kinetic_energy=1e3)
    line = bt.Line([bt.UniformAcceleration(100.0, voltage=1e10)])
    m, behind = line.matrix(ref), end(line, ref)
    rapidity = [math.asinh(r.beta_gamma) for r in (ref, behind)]
    way = ref.beta_gamma * (rapidity[1] - rapidity[0]) / (1e10 / 100 / ref.species.mass)
    assert m[0, 1] == pytest.approx(way, rel=1e-12)
    assert m[1, 1] == pytest.approx(ref.beta_gamma / behind.beta_gamma, rel=1e-12)


def test_particles_without_a_velocity_are_lost() -> None:
    ref = bt.Reference("proton", kinetic_energy=4e3)
    stop = (ref.gamma - 1) / ref.beta_gamma  # the pt at which nothing is left
    pt = np.array([0.0, 0.99 * stop, 1.01 * stop, -0.5 * stop])
    z = np.zeros((6, 4))
    z[5] = pt
    for model in ("paraxial", "exact"):
        _, beam = track(bt.Line([bt.UniformAcceleration(0.04, voltage=4e3, model=model)]), ref, z)
        assert beam.n_lost == 1
        assert beam.lost["pt"].to_numpy() == pytest.approx([1.01 * stop])
        _, beam = track(bt.Line([bt.UniformAcceleration(0.04, voltage=-2e3, model=model)]), ref, z)
        assert beam.n_lost == 2
    with pytest.raises(ValueError, match="stops the reference particle"):
        track(bt.Line([bt.UniformAcceleration(0.04, voltage=-5e3)]), ref, z)


# --- undulator ------------------------------------------------------------------------------------


@pytest.mark.parametrize("sharing", [0.0, 0.3, 0.5])
def test_natural_focusing_of_an_undulator(sharing: float) -> None:
    """Wave numbers K kx/(sqrt(2) gamma) and K ky/(sqrt(2) gamma) (Scharlemann 1985)."""
    ref = bt.Reference("electron", kinetic_energy=500e6)
    period, strength, length = 0.03, 2.5, 9.0
    m = bt.Line([bt.Undulator(length, period=period, strength=strength, sharing=sharing)]).matrix(
        ref
    )
    total = strength * 2 * math.pi / period / (math.sqrt(2) * ref.beta_gamma)
    for i, part in ((0, sharing), (2, 1 - sharing)):
        assert m[i, i] == pytest.approx(math.cos(total * math.sqrt(part) * length), abs=1e-4)


def test_slip_of_an_undulator_is_a_wavelength_per_period() -> None:
    """period (1 + K^2/2)/(2 gamma^2) behind the light, twice that for a relative change of pt."""
    ref = bt.Reference("electron", kinetic_energy=800e6)
    field = 0.9
    strength = field * C * 0.025 / (2 * math.pi * ref.species.mass)
    line = bt.Line([bt.Undulator(100 * 0.025, period=0.025, field=field)])
    wavelength = 0.025 * (1 + strength**2 / 2) / (2 * ref.gamma**2)
    behind = end(line, ref)
    assert (behind.t - behind.s) / 100 == pytest.approx(wavelength, rel=1e-5)
    assert line.matrix(ref)[4, 5] == pytest.approx(200 * wavelength, rel=1e-5)


@pytest.mark.parametrize("model", ["paraxial", "exact"])
def test_an_undulator_averages_the_real_motion(model: str) -> None:
    """Against the Lorentz force over whole periods, in the field
    By = B cosh(ku y) cos(ku z), Bz = -B sinh(ku y) sin(ku z)."""
    ref = bt.Reference("electron", kinetic_energy=100e6)
    period, strength, periods = 0.03, 1.0, 60
    ku, length = 2 * math.pi / period, periods * period
    b = strength * ku

    def fields(x: Any, y: Any, z: float, t: Any) -> tuple:
        return (0, 0, 0), (
            0,
            b * np.cosh(ku * y) * np.cos(ku * z),
            -b * np.sinh(ku * y) * np.sin(ku * z),
        )

    z = np.zeros((6, 4))
    z[2] = [0, 3e-4, 0, 2e-4]
    z[3] = [0, 0, 2e-4, -1e-4]
    z[5] = [0, 0.01, -0.01, 0]
    out, beam = track(
        bt.Line([bt.Undulator(length, period=period, strength=strength, model=model)]), ref, z
    )
    start = state_of(ref, z)
    s = runge_kutta(lorentz(fields), length, start, 100 * periods)
    assert beam.reference.t == pytest.approx(s[4, 0], rel=1e-9)
    true = coordinates_of(beam.reference, s)
    assert out[2] == pytest.approx(true[2], abs=1e-6)
    assert out[3] == pytest.approx(true[3], abs=2e-6)
    assert out[4] - out[4, 0] == pytest.approx(true[4] - true[4, 0], abs=2e-8)


def test_an_undulator_too_strong_for_the_beam_is_named() -> None:
    line = bt.Line([bt.Undulator(1.0, period=0.1, strength=2.0, name="u1")])
    with pytest.raises(
        ValueError, match=r"Undulator 'u1': the undulator parameter is 2\.0+; allowed: below"
    ):
        line.matrix(bt.Reference("electron", beta_gamma=1.0))
