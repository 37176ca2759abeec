"""Power series of lines, the element TaylorMap, chromaticity and amplitude detuning."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import betatron as bt
import numpy as np
import pytest
from betatron.elements import element_from_dict
from betatron.taylor import monomials
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from test_physics import MODELS, draw, element, references, track

# Kinds with maps that are not smooth in the coordinates lose particles instead.
SMOOTH = [k for k in bt.kinds() if k not in ("Aperture", "PolygonAperture")]
S = np.kron(np.eye(3), [[0.0, 1.0], [-1.0, 0.0]])


def ring(model: str = "exact", face: float = 0.1, **common: object) -> bt.Line:
    """A stable cell with bends, chromatic sextupoles and an octupole."""
    how = {"model": model, "order": 6, "steps": 10, **common}
    return bt.Line([
        bt.Quadrupole(0.3, k1=1.3, **how), bt.Sextupole(0.1, k2=8.0, **how), bt.Drift(0.5, **how),
        bt.Bend(1.0, angle=0.2, e1=face, e2=face, **how), bt.Drift(0.5, **how),
        bt.Quadrupole(0.3, k1=-1.3, **how), bt.Sextupole(0.1, k2=-12.0, **how),
        bt.Octupole(0.1, k3=300.0, **how), bt.Drift(0.5, **how),
        bt.Bend(1.0, angle=0.2, e1=face, e2=face, **how), bt.Drift(0.5, **how),
    ])  # fmt: skip


# --- power series ---------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("kind", SMOOTH)
@settings(max_examples=5, deadline=None)
@given(data=st.data(), ref=references)
def test_errors_fall_with_the_order(kind: str, model: str, data: st.DataObject, ref) -> None:
    """What is missing in a series of order n shrinks with the power n + 1 of the amplitude, around
    an orbit that is not the reference orbit."""
    line = bt.Line([element(kind, model, draw(data, kind, ref))])
    start = np.array([3e-4, -2e-4, 2e-4, 1e-4, 3e-4, 2e-4 * ref.beta])
    w = np.random.default_rng(1).uniform(-1, 1, (6, 8)) * 1e-3
    w[5] *= ref.beta
    tracked = []
    for factor in (1.0, 0.5):
        z, beam = track(line, ref, start[:, None] + factor * w)
        assume(beam.n_lost == 0 and np.all(np.isfinite(z)))
        tracked.append(z)
    rounding = 2e-13 * (np.max(np.abs(tracked[0])) + line.length / ref.beta * 1e-2) / ref.beta
    for order in (1, 2, 3):
        series = line.taylor_map(ref, order, start)
        assert series.symplectic_error() < 1e-12 * (1 + np.max(np.abs(series.R))) ** 2 or kind in (
            "LinearMap",
            "TaylorMap",
        )
        whole, half = (
            float(np.max(np.abs(series(start[:, None] + f * w) - z)))
            for f, z in zip((1.0, 0.5), tracked, strict=True)
        )
        if half > 100 * rounding:
            assert math.log2(whole / half) > order + 0.4
        else:
            assert half <= 100 * rounding


def test_first_order_is_the_matrix() -> None:
    ref, line, start = (
        bt.Reference("proton", kinetic_energy=1e9),
        ring(),
        [1e-3, 0, 2e-3, 0, 0, 1e-3],
    )
    for order in (1, 2, 3, 4):
        series = line.taylor_map(ref, order, start)
        assert series.R == pytest.approx(line.matrix(ref, start), rel=1e-13, abs=1e-14)
        assert series.order == order
        assert series.length == pytest.approx(line.length)
        assert series.jacobian() == pytest.approx(series.R)
        assert series(start) == pytest.approx(series.orbit, abs=1e-16)


def test_tensors_are_symmetric_derivatives() -> None:
    ref = bt.Reference("electron", kinetic_energy=1e8)
    line = bt.Line([bt.Multipole(knl=[0, 0.3, 2.0, 5.0])])
    series = line.taylor_map(ref, 3)
    # px -= 0.3 x + 2 (x^2 - y^2)/2 + 5 (x^3 - 3 x y^2)/6
    t, u = series.T, series.U
    assert t[1, 0, 0] == pytest.approx(-1.0)
    assert t[1, 2, 2] == pytest.approx(1.0)
    assert t[3, 0, 2] == t[3, 2, 0] == pytest.approx(1.0)
    assert u[1, 0, 0, 0] == pytest.approx(-5 / 6)
    assert u[1, 0, 2, 2] == u[1, 2, 0, 2] == u[1, 2, 2, 0] == pytest.approx(5 / 6)
    assert np.count_nonzero(t) == 4
    z = np.random.default_rng(2).normal(size=(6, 5)) * 1e-2
    by_tensors = (
        series.orbit[:, None] + series.R @ z + np.einsum("ijk,jn,kn->in", t, z, z)
        + np.einsum("ijkl,jn,kn,ln->in", u, z, z, z)
    )  # fmt: skip
    assert series(z) == pytest.approx(by_tensors, abs=1e-17)


def test_monomials_are_counted_and_ordered() -> None:
    assert [len(monomials(n)) for n in (1, 2, 3, 4)] == [7, 28, 84, 210]
    assert monomials(2)[:9] == ((), (0,), (1,), (2,), (3,), (4,), (5,), (0, 0), (0, 1))
    assert monomials(3)[-1] == (5, 5, 5)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_composition_is_the_series_of_both(order: int) -> None:
    ref, line = bt.Reference("proton", kinetic_energy=1e9), ring()
    start = [1e-3, -1e-4, 2e-3, 1e-4, 0, 1e-3]
    first = line[:5].taylor_map(ref, order, start)
    second = line[5:].taylor_map(ref, order, first.orbit)
    both, whole = second.compose(first), line.taylor_map(ref, order, start)
    for n in range(both.coefficients.shape[1]):
        size = np.max(np.abs(whole.coefficients[:, n])) + 1
        assert both.coefficients[:, n] == pytest.approx(whole.coefficients[:, n], abs=1e-11 * size)
    assert both.length == pytest.approx(line.length)


def test_acceleration_is_in_the_ratio_of_momenta() -> None:
    ref = bt.Reference("proton", kinetic_energy=1e8)
    line = bt.Line([bt.Drift(1.0), bt.RFCavity(voltage=1e7, frequency=1e8, phase=-0.3)])
    series = line.taylor_map(ref, 2)
    assert series.momentum_ratio < 1
    assert series.symplectic_error() < 1e-15
    with pytest.raises(ValueError, match="changes the momentum of the reference particle"):
        series.to_element()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"order": 0}, ValueError, "order = 0 of a Taylor map is not allowed; allowed: 1 to 4"),
        ({"order": 5}, ValueError, "order = 5"),
        ({"order": 2.0}, TypeError, "order must be a whole number"),
        ({"order": True}, TypeError, "order must be a whole number"),
        ({"start": [0, 1]}, ValueError, "must be six finite numbers"),
        ({"start": [0, 0, 0, 0, 0, math.nan]}, ValueError, "must be six finite numbers"),
    ],
)
def test_wrong_arguments(arguments: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ring().taylor_map(bt.Reference("proton", kinetic_energy=1e9), **arguments)


def test_wrong_shapes() -> None:
    series = ring().taylor_map(bt.Reference("proton", kinetic_energy=1e9), 1)
    with pytest.raises(ValueError, match=r"shape \(5,\); allowed: \(6,\) and \(6, n\)"):
        series(np.zeros(5))
    with pytest.raises(ValueError, match="the series is of order 1, not 2"):
        _ = series.T
    with pytest.raises(ValueError, match=r"coefficients of shape \(6, 8\)"):
        bt.TaylorSeries(np.zeros((6, 8)), np.zeros(6))
    with pytest.raises(ValueError, match="start of shape"):
        bt.TaylorSeries(np.zeros((6, 7)), np.zeros(5))
    with pytest.raises(TypeError, match="a TaylorSeries is needed"):
        series.compose(np.eye(6))


# --- the element ----------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["double", "single"])
@pytest.mark.parametrize("degree", [1, 2, 3])
def test_element_is_its_polynomial(degree: int, precision: str) -> None:
    rng = np.random.default_rng(degree)
    n = len(monomials(degree))
    coefficients = rng.normal(size=(6, n)) * 10.0 ** np.array([len(m) for m in monomials(degree)])
    centre, z = rng.normal(size=6) * 1e-2, rng.normal(size=(6, 37)) * 1e-2
    map_ = bt.TaylorMap(coefficients, centre=centre, length=0.5)
    out, beam = track(bt.Line([map_]), bt.Reference("proton", kinetic_energy=1e9), z, precision)
    expected = bt.TaylorSeries(coefficients, centre)(z)
    tolerance = 1e-14 if precision == "double" else 5e-6
    assert out == pytest.approx(expected, rel=tolerance, abs=tolerance * np.max(np.abs(expected)))
    assert beam.reference.s == 0.5


@pytest.mark.parametrize("degree", [1, 2, 3])
def test_element_of_a_line_stands_for_it(degree: int) -> None:
    ref, line = bt.Reference("proton", kinetic_energy=1e9), ring()
    series = line.taylor_map(ref, degree)
    map_ = series.to_element(name="cell")
    z = np.random.default_rng(0).normal(size=(6, 20)) * 1e-4
    out, _ = track(bt.Line([map_]), ref, z)
    assert out == pytest.approx(series(z), rel=1e-13, abs=1e-17)
    assert element_from_dict(map_.to_dict()).to_dict() == map_.to_dict()
    again = bt.Line.from_dict(bt.Line([map_]).to_dict())
    assert track(again, ref, z)[0].tolist() == out.tolist()
    # its own derivatives
    assert bt.Line([map_]).taylor_map(ref, degree).coefficients == pytest.approx(
        series.coefficients, rel=1e-13, abs=1e-15
    )


def test_backward_only_where_there_is_an_inverse() -> None:
    ref, line = bt.Reference("proton", kinetic_energy=1e9), ring("linear")
    z = np.random.default_rng(0).normal(size=(6, 20)) * 1e-4
    map_ = line.taylor_map(ref, 1, [1e-3, 0, 0, 1e-4, 0, 0]).to_element()
    _, beam = track(bt.Line([map_]), ref, z)
    bt.Line([map_]).track(beam, backward=True, progress=False)
    assert np.array(beam.array) == pytest.approx(z, rel=1e-11, abs=1e-15)
    for order in (2, 3):
        map_ = line.taylor_map(ref, order).to_element(name="cell")
        with pytest.raises(
            ValueError, match=f"TaylorMap 'cell': the inverse of a Taylor map of order {order}"
        ):
            bt.Line([map_]).track(beam, backward=True, progress=False)


def test_element_is_checked() -> None:
    with pytest.raises(ValueError, match="TaylorMap 'm': coefficients has 41 entries; allowed: 42"):
        bt.TaylorMap(np.zeros(41), name="m")
    with pytest.raises(ValueError, match="centre has 5 entries; allowed: 0 or 6"):
        bt.TaylorMap(np.zeros(42), centre=np.zeros(5))
    with pytest.raises(ValueError, match="allowed: 1, 2, 3"):
        ring().taylor_map(bt.Reference("proton", kinetic_energy=1e9), 4).to_element()


def test_the_linear_model_is_the_derivative() -> None:
    ref, line = bt.Reference("proton", kinetic_energy=1e9), ring()
    map_ = line.taylor_map(ref, 3, [1e-3, 0, 0, 0, 0, 0]).to_element()
    full = bt.Line([map_]).matrix(ref)
    map_.model = "linear"
    assert bt.Line([map_]).matrix(ref) == pytest.approx(full, rel=1e-14, abs=1e-15)


# --- tunes and their derivatives ------------------------------------------------------------------


def test_chromaticity_of_a_thin_fodo_cell() -> None:
    """-tan(mu/2)/pi for thin lenses and paraxial drifts, from sin(mu/2) = L/(2 f (1 + delta))."""
    ref, length, focal = bt.Reference("electron", kinetic_energy=1e9), 2.0, 1.5
    half = bt.Multipole(knl=[0, 0.5 / focal])
    cell = bt.Line(
        [half, bt.Drift(length), bt.Multipole(knl=[0, -1 / focal]), bt.Drift(length), half]
    )
    phase = 2 * math.asin(length / (2 * focal))
    c = cell.chromaticity(ref)
    assert c.tunes == pytest.approx([phase / (2 * math.pi)] * 2, rel=1e-13)
    assert c.first == pytest.approx([-math.tan(phase / 2) / math.pi] * 2, rel=1e-12)
    # mu = 2 asin(s/(1 + delta)): the second derivative is known as well
    tangent = math.tan(phase / 2)
    second = (2 * tangent + tangent**3) / math.pi
    assert c.second == pytest.approx([second] * 2, rel=1e-11)
    assert c.dispersion == pytest.approx(np.zeros(4), abs=1e-14)


@pytest.mark.parametrize("model", ["paraxial", "exact"])
@pytest.mark.parametrize("kinetic_energy", [2e7, 1e9, 1e12])
def test_chromaticity_is_what_off_momentum_tunes_say(kinetic_energy: float, model: str) -> None:
    ref, line = bt.Reference("proton", kinetic_energy=kinetic_energy), ring(model)
    c = line.chromaticity(ref)

    def at(delta: float) -> tuple[np.ndarray, np.ndarray]:
        pt = 1 / ref.beta - math.sqrt(1 / ref.beta**2 + 2 * delta + delta**2)
        orbit = line.closed_orbit(ref, pt)
        m = line.matrix(ref, orbit)
        traces = np.array([np.trace(m[i : i + 2, i : i + 2]) for i in (0, 2)])
        return np.arccos(traces / 2) / (2 * np.pi), orbit[:4]

    h = 1e-4
    (q2, z2), (q1, z1), (q0, z0), (p1, y1), (p2, y2) = (at(d) for d in (-2 * h, -h, 0, h, 2 * h))
    assert c.tunes == pytest.approx(q0, rel=1e-12)
    assert c.first == pytest.approx((8 * (p1 - q1) - (p2 - q2)) / (12 * h), rel=1e-6)
    assert c.second == pytest.approx(
        (16 * (p1 + q1) - (p2 + q2) - 30 * q0) / (12 * h * h), rel=1e-4
    )
    assert c.dispersion == pytest.approx((8 * (y1 - z1) - (y2 - z2)) / (12 * h), rel=1e-7, abs=1e-9)
    assert c.second_dispersion == pytest.approx(
        (16 * (y1 + z1) - (y2 + z2) - 30 * z0) / (12 * h * h), rel=1e-4, abs=1e-5
    )


def test_chromaticity_does_not_mind_a_rolled_frame() -> None:
    """Coupling: the same cell in a turned frame has the same tunes and chromaticities."""
    ref = bt.Reference("proton", kinetic_energy=1e9)
    cell = [bt.Quadrupole(0.3, k1=1.3), bt.Sextupole(0.1, k2=8.0), bt.Drift(1.0),
            bt.Quadrupole(0.3, k1=-1.1), bt.Drift(1.3)]  # fmt: skip
    plain = bt.Line(cell).chromaticity(ref)
    turned = bt.Line([bt.PlaneRotation(0.5), *cell, bt.PlaneRotation(-0.5)]).chromaticity(ref)
    order = [0, 1] if abs(turned.tunes[0] - plain.tunes[0]) < 1e-9 else [1, 0]
    assert turned.tunes[order] == pytest.approx(plain.tunes, rel=1e-12)
    assert turned.first[order] == pytest.approx(plain.first, rel=1e-10)
    assert turned.second[order] == pytest.approx(plain.second, rel=1e-9)


def test_chromaticity_of_equal_tunes() -> None:
    """In a flat ring it is that of both planes; in a turned frame the modes are any."""
    ref = bt.Reference("proton", kinetic_energy=1e9)

    def cell(k1: float) -> bt.Line:
        d, b = bt.Drift(0.5), bt.Bend(1.0, angle=0.2, model="exact")
        qf, qd, s = bt.Quadrupole(0.3, k1=1.3), bt.Quadrupole(0.3, k1=k1), bt.Sextupole(0.1, k2=6.0)
        return bt.Line([qf, s, d, b, d, qd, d, b, d])

    k1 = -1.421034143273402  # of equal tunes
    equal, near = cell(k1).chromaticity(ref), cell(k1 + 1e-8).chromaticity(ref)
    assert abs(equal.tunes[0] - equal.tunes[1]) < 1e-12
    np.testing.assert_allclose(equal.first, near.first, rtol=1e-6)
    np.testing.assert_allclose(equal.second, near.second, rtol=1e-6)
    with pytest.raises(ValueError, match="both tunes are equal and the modes coupled"):
        bt.Line([bt.PlaneRotation(0.5), cell(k1), bt.PlaneRotation(-0.5)]).chromaticity(ref)


def test_sextupoles_at_dispersion_change_the_chromaticity() -> None:
    """dQ'/d(k2 l) = beta D/(4 pi) of a thin sextupole at the start."""
    ref, line = bt.Reference("proton", kinetic_energy=1e9), ring("paraxial")
    before = line.chromaticity(ref)
    m = line.matrix(ref)
    strength = 1e-3
    after = bt.Line([bt.Multipole(knl=[0, 0, strength]), line]).chromaticity(ref)
    for plane, sign in ((0, 1), (1, -1)):
        block = m[2 * plane : 2 * plane + 2, 2 * plane : 2 * plane + 2]
        beta = block[0, 1] / math.sin(2 * math.pi * before.tunes[plane])
        change = (after.first - before.first)[plane]
        expected = sign * beta * before.dispersion[0] * strength / (4 * math.pi)
        assert change == pytest.approx(expected, rel=1e-5)


def test_detuning_of_an_octupole() -> None:
    """2 pi dQ = d<V>/dJ of V = k3l (x^4 - 6 x^2 y^2 + y^4)/24, averaged over the phases: first
    order of perturbation."""
    ref, k3l = bt.Reference("proton", kinetic_energy=1e9), 30.0
    cell = [bt.Quadrupole(0.3, k1=1.3), bt.Drift(1.0), bt.Quadrupole(0.3, k1=-1.1), bt.Drift(1.3)]
    line = bt.Line([bt.Multipole(knl=[0, 0, 0, k3l]), *cell])
    without = bt.Line(cell)
    m, c = without.matrix(ref), without.chromaticity(ref)
    bx, by = (m[2 * i, 2 * i + 1] / math.sin(2 * math.pi * c.tunes[i]) for i in (0, 1))
    expected = k3l / (16 * math.pi) * np.array([[bx * bx, -2 * bx * by], [-2 * bx * by, by * by]])
    found = line.amplitude_detuning(ref) - without.amplitude_detuning(ref)
    assert found == pytest.approx(expected, rel=1e-10)
    assert without.amplitude_detuning(ref) == pytest.approx(np.zeros((2, 2)), abs=1e-10)


@pytest.mark.parametrize("model", ["paraxial", "exact"])
def test_detuning_is_what_tracked_particles_do(model: str) -> None:
    ref, line = bt.Reference("proton", kinetic_energy=1e9), ring(model)
    detuning = line.amplitude_detuning(ref)
    assert detuning == pytest.approx(detuning.T, rel=1e-8)  # the map is symplectic
    tunes, m = line.chromaticity(ref).tunes, line.matrix(ref)
    turns = 2048
    actions = np.array([[2e-8, 0], [0, 2e-8], [4e-8, 0], [0, 4e-8]])
    amplitudes = []
    for i in (0, 1):
        b = m[2 * i : 2 * i + 2, 2 * i : 2 * i + 2]
        sine = math.sin(2 * math.pi * tunes[i])
        beta, alpha = b[0, 1] / sine, (b[0, 0] - b[1, 1]) / (2 * sine)
        amplitudes.append((beta, alpha))
    z = np.zeros((6, 4))
    for i, (beta, _) in enumerate(amplitudes):
        z[2 * i] = np.sqrt(2 * beta * actions[:, i]) + 1e-7
        z[2 * i + 1] = -amplitudes[i][1] / beta * z[2 * i]
    beam = bt.Beam.from_arrays(ref.copy(), **dict(zip("x px y py t pt".split(), z, strict=True)))
    signal = np.empty((turns, 2, 4), dtype=complex)
    for turn in range(turns):
        for i, (beta, alpha) in enumerate(amplitudes):
            q, p = np.array(beam.array)[2 * i : 2 * i + 2]
            signal[turn, i] = q / math.sqrt(beta) - 1j * (
                alpha / math.sqrt(beta) * q + math.sqrt(beta) * p
            )
        line.track(beam, progress=False)

    def tune(s: np.ndarray) -> float:
        """The line of largest amplitude, through a Hann window, by the golden search."""
        window = np.hanning(len(s)) * s
        n = np.arange(len(s))
        guess = np.argmax(np.abs(np.fft.fft(window))) / len(s)
        low, high = guess - 1 / len(s), guess + 1 / len(s)
        for _ in range(60):
            a, b = low + 0.382 * (high - low), low + 0.618 * (high - low)
            fa, fb = (abs(np.sum(window * np.exp(-2j * np.pi * q * n))) for q in (a, b))
            low, high = (low, b) if fa > fb else (a, high)
        return (low + high) / 2

    for i in (0, 1):
        for k in (0, 1):
            q1, q2 = (tune(signal[:, i, particle]) for particle in (k, k + 2))
            # extrapolated from J and 2 J: Q(J) = Q0 + a J + b J^2
            slope = (4 * (q1 - tunes[i]) - (q2 - tunes[i])) / (2 * 2e-8)
            assert slope == pytest.approx(detuning[i, k], rel=2e-2)


def test_no_closed_orbit_and_no_tunes() -> None:
    ref = bt.Reference("proton", kinetic_energy=1e9)
    cavity = bt.RFCavity(voltage=1e3, frequency=1e6, phase=-math.pi / 2, name="rf")
    crab = bt.CrabCavity(voltage=1e3, frequency=1e6)
    with pytest.raises(
        ValueError, match="vary in time: RFCavity 'rf' at position 11, CrabCavity at"
    ):
        bt.Line([ring(), cavity, crab, cavity]).chromaticity(ref)
    cavity.voltage = 0.0  # at this energy p beta gamma/(beta gamma) is rounded
    bt.Line([ring(), cavity]).chromaticity(bt.Reference("electron", kinetic_energy=123456789.0))
    with pytest.raises(ValueError, match="changes the momentum of the reference"):
        bt.Line([ring(), bt.RFCavity(voltage=1e3, frequency=1e6)]).closed_orbit(ref)
    with pytest.raises(ValueError, match="not stable"):
        bt.Line([bt.Quadrupole(1.0, k1=1.0), bt.Drift(1.0)]).chromaticity(ref)
    for line in (bt.Line([]), bt.Line([bt.Drift(1.0), bt.Kicker(hkick=1e-3)])):
        with pytest.raises(ValueError, match="no closed orbit near"):
            line.chromaticity(ref)
    # beyond rest P^2 is positive again at negative energies: no particle
    for pt in (math.nan, -math.inf, 1.0001 * (ref.gamma - 1) / ref.beta_gamma, 3 / ref.beta):
        with pytest.raises(ValueError, match=r"closed_orbit: pt = .* must be finite and < 0\.5896"):
            ring().closed_orbit(ref, pt=pt)


@pytest.mark.parametrize(
    ("model", "fringe", "first"),
    [
        ("exact", "nonlinear", [0.05232653, 0.47414594]),  # PTC 5.09.03, model 2, exact, 20 steps
        ("paraxial", "linear", [-0.85631707, 0.21879096]),  # PTC without exact
    ],
)
def test_chromaticity_of_a_small_ring(model: str, fringe: str, first: list[float]) -> None:
    """Bending radius 2.5 m: the terms between the curvature and the angles, which only the exact model
    has, are as large as the chromaticity."""
    ref = bt.Reference("electron", kinetic_energy=1e9)
    d, b = bt.Drift(0.4), bt.Bend(1.0, angle=math.pi / 8, fringe=fringe)
    qf, qd = bt.Quadrupole(0.4, k1=1.3), bt.Quadrupole(0.4, k1=-1.2)
    sf, sd = bt.Sextupole(0.1, k2=6.0), bt.Sextupole(0.1, k2=-9.0)
    cell = bt.Line([qf, d, sf, d, b, d, qd, d, sd, d, b, d])
    for e in cell.elements:
        e.model = model
    np.testing.assert_allclose((8 * cell).chromaticity(ref).first, first, atol=2e-5)


def test_closed_orbit_comes_back() -> None:
    ref = bt.Reference("proton", kinetic_energy=1e9)
    line = bt.Line([ring(), bt.Kicker(hkick=1e-4, vkick=-2e-4)])
    for pt in (0.0, 2e-3):
        orbit = line.closed_orbit(ref, pt)
        z, _ = track(line, ref, orbit)
        assert z[:4, 0] == pytest.approx(orbit[:4], abs=1e-15)
        assert np.max(np.abs(orbit[:4])) > 1e-4
    # the series around it, and tunes there, are those of the orbit
    c = line.chromaticity(ref)
    assert c.orbit == pytest.approx(line.closed_orbit(ref), abs=1e-16)


# --- other codes ----------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
def test_pyat_agrees() -> None:
    """Tunes, chromaticities and dispersion by PyAT's optics, which takes differences."""
    at = pytest.importorskip("at")
    ours, parts = ring("paraxial", steps=30), []
    for e in ours:
        if e.kind == "Quadrupole":
            parts.append(at.Quadrupole("q", e.length, e.k1, NumIntSteps=200))
        elif e.kind == "Sextupole":
            parts.append(at.Sextupole("s", e.length, e.k2 / 2, NumIntSteps=200))
        elif e.kind == "Octupole":
            parts.append(at.Octupole("o", e.length, [0] * 4, [0, 0, 0, e.k3 / 6], NumIntSteps=200))
        elif e.kind == "Bend":
            faces = {"EntranceAngle": e.e1, "ExitAngle": e.e2}
            parts.append(
                at.Dipole("b", e.length, e.angle, PassMethod="BndMPoleSymplectic4Pass",
                          NumIntSteps=200, **faces)
            )  # fmt: skip
        else:
            parts.append(at.Drift("d", e.length))
    ref = bt.Reference("electron", kinetic_energy=1e9)  # PyAT's time of flight plays no part
    lattice = at.Lattice(parts, energy=ref.total_energy, periodicity=1)
    start, data, _ = lattice.get_optics(get_chrom=True)
    c = ours.chromaticity(ref)
    assert c.tunes == pytest.approx(data.tune[:2], rel=1e-8)
    assert c.first == pytest.approx(data.chromaticity[:2], rel=1e-5)
    assert c.dispersion == pytest.approx(start.dispersion, rel=1e-6, abs=1e-9)


@pytest.mark.filterwarnings("ignore")
def test_ptc_agrees(tmp_path: Path) -> None:
    """Tunes, chromaticities and amplitude detuning (dQ/d(2J)) by PTC_NORMAL."""
    pytest.importorskip("cpymad")
    from cpymad.madx import Madx

    ref, line = bt.Reference("muon", kinetic_energy=1e9), ring("exact", face=0.0, steps=30)
    rows, at = [], 0.0
    for i, e in enumerate(line):
        attributes = {
            "Quadrupole": lambda e: f"quadrupole, k1={e.k1!r}",
            "Sextupole": lambda e: f"sextupole, k2={e.k2!r}",
            "Octupole": lambda e: f"octupole, k3={e.k3!r}",
            "Bend": lambda e: (
                f"sbend, angle={e.angle!r}, kill_ent_fringe=true, kill_exi_fringe=true"
            ),
            "Drift": lambda e: "drift",
        }[e.kind](e)
        rows.append((f"e{i}: {attributes}, l={e.length!r};", f"e{i}, at={at!r};"))
        at += e.length
    m = Madx(stdout=False)
    try:
        m.option(echo=False, warn=False, info=False)
        m.chdir(str(tmp_path))  # MAD-X leaves files where it runs
        m.input(
            f"beam, particle=other, mass={ref.species.mass / 1e9!r}, charge=1,"
            f"pc={ref.momentum / 1e9!r};"
        )
        m.input("".join(r[0] for r in rows) + f"s: sequence, l={at!r}, refer=entry;"
                + "".join(r[1] for r in rows) + "endsequence; use, sequence=s;")  # fmt: skip
        m.input(
            "ptc_create_universe;"
            "ptc_create_layout, time=false, model=2, method=6, nst=30, exact=true;"
            "select_ptc_normal, q1=0, q2=0, dq1=1, dq2=1;"
            "select_ptc_normal, anhx=1,0,0; select_ptc_normal, anhx=0,1,0;"
            "select_ptc_normal, anhy=1,0,0; select_ptc_normal, anhy=0,1,0;"
            "ptc_normal, closed_orbit, normal, icase=5, no=4; ptc_end;"
        )
        table = m.table.normal_results
        found = {
            (name.split(":")[0].lower(), int(o1), int(o2), int(o3)): value
            for name, value, o1, o2, o3 in zip(
                table["name"], table["value"], table["order1"], table["order2"], table["order3"],
                strict=True,
            )
        }  # fmt: skip
    finally:
        m.quit()
    c, detuning = line.chromaticity(ref), line.amplitude_detuning(ref)
    assert c.tunes == pytest.approx([found["q1", 0, 0, 0], found["q2", 0, 0, 0]], rel=1e-10)
    assert c.first == pytest.approx([found["dq1", 1, 0, 0], found["dq2", 1, 0, 0]], rel=1e-8)
    anharmonicities = [
        [found["anhx", 1, 0, 0], found["anhx", 0, 1, 0]],
        [found["anhy", 1, 0, 0], found["anhy", 0, 1, 0]],
    ]
    assert detuning / 2 == pytest.approx(np.array(anharmonicities), rel=2e-6)


@pytest.mark.filterwarnings("ignore")
def test_madx_has_the_same_second_order() -> None:
    """T_ijk of MAD-X's SECTORMAP, in -t and -pt; its bends are exact, without the fringes."""
    pytest.importorskip("cpymad")
    sys.path.insert(0, str(Path(__file__).parents[1] / "conformance"))
    from adapters import MadxElement, Twiss

    no_fringe = "kill_ent_fringe=true, kill_exi_fringe=true"
    how = {"model": "exact", "order": 6, "steps": 60}
    pairs = [
        ("drift", bt.Drift(0.7, **how)),
        ("quadrupole, k1=1.7", bt.Quadrupole(0.7, k1=1.7, **how)),
        ("sextupole, k2=7", bt.Sextupole(0.7, k2=7.0, **how)),
        ("solenoid, ks=0.8", bt.Solenoid(0.7, ks=0.8, **how)),
        (f"sbend, angle=0.3, {no_fringe}", bt.Bend(0.7, angle=0.3, **how)),
        (f"sbend, angle=0.3, k1=0.8, {no_fringe}", bt.Bend(0.7, angle=0.3, k1=0.8, **how)),
    ]
    ref, madx, sign = (
        bt.Reference("muon", kinetic_energy=2e8),
        Twiss(),
        np.array([1] * 4 + [-1] * 2),
    )
    for definition, e in pairs:
        madx.track(ref, MadxElement(f"{definition}, l=0.7"), 0.7, np.zeros((6, 1)))
        row, r = madx._madx.table.sector, range(1, 7)
        theirs = np.array([[[row[f"t{i}{j}{k}"][0] for k in r] for j in r] for i in r])
        ours = bt.Line([e]).taylor_map(ref, 2).T * np.einsum("i,j,k->ijk", sign, sign, sign)
        assert ours == pytest.approx(theirs, abs=1e-13), definition


@pytest.mark.parametrize(
    "outside",
    [
        bt.Bend(1.0, angle=0.1, model="exact"),
        bt.Solenoid(1.0, ks=1.0, model="exact"),
        bt.Quadrupole(0.2, k1=1.0, yaw=0.1),
        bt.Patch(rotation_y=0.3),
    ],
    ids=lambda e: e.kind,
)
def test_no_derivatives_outside_of_the_domain(outside: bt.Element) -> None:
    """With px = 1.5 particles are lost there; what the maps make of them is no map."""
    ref, start = bt.Reference("proton", kinetic_energy=1e8), [0, 1.5, 0, 0, 0, 0]
    line = bt.Line([outside])
    for ask in (line.matrix, lambda r, z: line.taylor_map(r, 2, z)):
        with pytest.raises(ValueError, match=r"1\.5, .* leaves the domain of a map"):
            ask(ref, start)
    hole = bt.Aperture(x_max=1e-3, y_max=1e-3)  # ignored
    assert bt.Line([hole]).matrix(ref, [0.1, 0, 0, 0, 0, 0])[0, 0] == 1.0
