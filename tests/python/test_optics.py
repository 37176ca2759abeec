"""Optics along lines: closed forms, matched beams, chains, phases, and what is refused."""

from __future__ import annotations

import math
import time

import betatron as bt
import matplotlib.pyplot as plt
import numpy as np
import pytest

S = np.kron(np.eye(3), [[0.0, 1.0], [-1.0, 0.0]])
FAST = bt.Reference("electron", kinetic_energy=1e9)
SLOW = bt.Reference("proton", beta_gamma=0.3 / math.sqrt(1 - 0.3**2))
REFERENCES = pytest.mark.parametrize("ref", [FAST, SLOW], ids=["fast", "slow"])
FUNCTIONS = ("beta_x", "alpha_x", "gamma_x", "beta_y", "alpha_y", "gamma_y", "dispersion_x",
             "dispersion_px", "dispersion_y", "dispersion_py", "beta_1y", "alpha_1y", "beta_2x",
             "alpha_2x", "nu_1", "nu_2", "u")  # fmt: skip


def arc(*extra: bt.Element, **common: object) -> bt.Line:
    """A cell with bends and what else is given."""
    d, b = bt.Drift(0.5), bt.Bend(1.0, angle=math.pi / 8, e1=0.05, e2=0.1, **common)
    qf, qd = bt.Quadrupole(0.4, k1=1.3, name="qf"), bt.Quadrupole(0.4, k1=-1.2, name="qd")
    return bt.Line([qf, d, b, d, qd, *extra, d, b, d])


def coupled() -> bt.Line:
    """A ring with a rolled quadrupole, a solenoid, a displaced sextupole and a vertical kick."""
    skew = bt.Quadrupole(0.2, k1=0.4, roll=math.pi / 4, pivot="center")
    end = [
        bt.Solenoid(0.4, ks=0.5),
        bt.Sextupole(0.2, k2=5.0, dx=1e-3, dy=-2e-3),
        bt.Kicker(vkick=3e-4),
    ]
    return bt.Line([arc(skew), 6 * arc(), arc(*end)])


def functions(row: bt.Optics) -> np.ndarray:
    return np.array([row.functions[name] for name in FUNCTIONS])


def assert_same(a: bt.Twiss, b: bt.Twiss, rel: float = 1e-9) -> None:
    assert list(a.table["name"]) == list(b.table["name"])
    for name in a.table.columns[2:]:
        x, y = a.table[name].to_numpy(), b.table[name].to_numpy()
        np.testing.assert_allclose(x, y, rtol=rel, atol=rel * (1 + np.max(np.abs(y))), err_msg=name)


# --- rings ----------------------------------------------------------------------------------------


def test_fodo_cell_of_thin_lenses() -> None:
    """beta = L (1 +- sin(mu/2))/sin mu with half a cell of length L/2, sin(mu/2) = L/(4 f)."""
    length, focal = 4.0, 1.5
    half = bt.Multipole(knl=[0, 0.5 / focal])
    cell = bt.Line([half, bt.Drift(length / 2), bt.Multipole(knl=[0, -1 / focal], name="d"),
                    bt.Drift(length / 2), half])  # fmt: skip
    tw, mu = cell.twiss(FAST), 2 * math.asin(length / (4 * focal))
    largest, smallest = (length * (1 + sign * math.sin(mu / 2)) / math.sin(mu) for sign in (1, -1))
    start, table = tw[0].functions, tw.table
    assert [start["beta_x"], start["beta_y"]] == pytest.approx([largest, smallest], rel=1e-13)
    assert [start["alpha_x"], start["alpha_y"]] == pytest.approx([0, 0], abs=1e-13)
    assert tw.tunes == pytest.approx([mu / (2 * math.pi)] * 2, rel=1e-13)
    assert table["beta_x"][2] == pytest.approx(smallest, rel=1e-12)
    assert tw["d"].functions["beta_x"] == table["beta_x"][3]
    # a symmetric cell: half the phase in the middle; nothing is coupled, to the last bit
    assert table["mu_x"][2] == pytest.approx(mu / (4 * math.pi), rel=1e-12)
    zero = ["dispersion_x", "dispersion_py", "beta_1y", "alpha_1y", "beta_2x", "nu_1", "nu_2", "u"]
    assert np.all(table[zero] == 0)
    assert tw.momentum_compaction == pytest.approx(0, abs=1e-16)


@REFERENCES
def test_ring_is_that_of_its_maps(ref: bt.Reference) -> None:
    ring = 8 * arc()
    tw, c = ring.twiss(ref), ring.chromaticity(ref)
    assert tw.tunes % 1 == pytest.approx(c.tunes, abs=1e-12)
    assert np.floor(tw.tunes) == pytest.approx([2, 1])
    assert tw.tunes == pytest.approx(8 * arc().twiss(ref).tunes, rel=1e-12)
    names = ["dispersion_x", "dispersion_px", "dispersion_y", "dispersion_py"]
    np.testing.assert_allclose(tw.table[names].iloc[0], c.dispersion, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(functions(tw[-1]), functions(tw[0]), rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(tw.matrix, ring.matrix(ref), rtol=1e-12, atol=1e-12)
    for plane in "xy":
        beta, alpha, gamma = (tw.table[f"{name}_{plane}"] for name in ("beta", "alpha", "gamma"))
        np.testing.assert_allclose(beta * gamma - alpha**2, 1.0, rtol=1e-11)
        assert np.all(np.diff(tw.table[f"mu_{plane}"]) > 0)
    assert tw.chromaticity.first == pytest.approx(c.first)
    # the time of revolution of particles with other momenta
    assert tw.length == pytest.approx(ring.length)
    assert tw.revolution_time == pytest.approx(ring.length / (ref.beta * 299792458.0), rel=1e-13)
    h, times = 1e-4, []
    for delta in (-h, h):
        pt = 1 / ref.beta - math.sqrt(1 / ref.beta**2 + 2 * delta + delta**2)
        times.append(ring.twiss(ref, pt=pt).revolution_time)
    slip = (times[1] - times[0]) / (2 * h * tw.revolution_time)
    assert tw.slip_factor == pytest.approx(slip, rel=1e-5)
    compaction = np.trapezoid(tw.table["dispersion_x"], tw.table["s"])  # roughly its integral
    assert tw.momentum_compaction == pytest.approx(tw.slip_factor + ref.gamma**-2, rel=1e-12)
    assert tw.gamma_transition == pytest.approx(tw.momentum_compaction**-0.5)
    assert 0 < tw.momentum_compaction < compaction / tw.length


@REFERENCES
def test_off_momentum_optics(ref: bt.Reference) -> None:
    """The dispersion is the derivative of the orbit there; tunes go with the chromaticity."""
    line, h = arc(model="exact"), 1e-5

    def at(delta: float) -> bt.Twiss:
        return line.twiss(ref, pt=1 / ref.beta - math.sqrt(1 / ref.beta**2 + 2 * delta + delta**2))

    low, middle, high = at(2e-3 - h), at(2e-3), at(2e-3 + h)
    for name in ("x", "px"):
        slope = (high.table[name] - low.table[name]) / (2 * h)
        np.testing.assert_allclose(middle.table[f"dispersion_{name}"], slope, rtol=1e-7, atol=1e-8)
    slip = (high.revolution_time - low.revolution_time) / (2 * h * middle.revolution_time)
    assert middle.slip_factor == pytest.approx(slip * (1 + 2e-3), rel=1e-6)
    tunes = (at(h).tunes - at(-h).tunes) / (2 * h)
    assert tunes == pytest.approx(line.twiss(ref).chromaticity.first, rel=1e-6)
    with pytest.raises(ValueError, match="known around pt = 0"):
        _ = middle.chromaticity


@REFERENCES
def test_matched_beam_stays_matched(ref: bt.Reference) -> None:
    """In a coupled ring, behind every element: the covariance of the moved beam is that of the optics there,
    and its eigenemittances are those given."""
    ring = coupled()
    tw = ring.twiss(ref)
    assert tw.table[["beta_1y", "beta_2x"]].to_numpy().min(axis=0).max() > 1e-5
    assert np.max(np.abs(tw.table["y"])) > 1e-4
    given = (2e-8, 5e-9, 1e-3, 1e-4)
    start = tw[0].covariance(*given)
    sizes = np.sqrt(np.diag(start))
    envelope = ring.envelope(ref, start, mean=tw[0].orbit)
    for row, moved in enumerate(envelope.covariances):
        here = tw[row].covariance(*given)
        five = [0, 1, 2, 3, 5]  # the bunch gets longer: no cavities
        scale = np.sqrt(np.outer(np.diag(here), np.diag(here)))[np.ix_(five, five)]
        error = np.abs(moved - here)[np.ix_(five, five)] / scale
        assert np.max(error) < 1e-10
        if row % 7 == 0:
            emittances = np.sort(np.abs(np.linalg.eigvals(here @ S).imag))[::2]
            assert emittances == pytest.approx([5e-9, 2e-8, 1e-7], rel=1e-7)
    assert (
        np.max(np.abs(envelope.covariances[-1] - start)[:4, :4] / np.outer(sizes, sizes)[:4, :4])
        < 1e-10
    )
    # transverse modes come back with what they do to t
    still = tw[0].covariance(2e-8, 5e-9, 0.0, 0.0)
    np.testing.assert_allclose(tw.matrix @ still @ tw.matrix.T, still, rtol=1e-8, atol=1e-19)
    beam = bt.Beam(ref, bt.Gaussian.from_covariance(start, mean=tw[0].orbit), n=20, seed=1)
    assert len(beam) == 20


def test_coupled_functions_are_those_of_mais_and_ripken() -> None:
    tw = coupled().twiss(FAST)
    table, modes = tw.table, np.array([tw[i].basis for i in range(len(tw))])
    basis_error = np.max(np.abs(np.swapaxes(modes, 1, 2) @ S @ modes - S))
    assert basis_error < 1e-9
    u = table["u"].to_numpy()
    for plane in "xy":
        product = table[f"beta_{plane}"] * table[f"gamma_{plane}"] - table[f"alpha_{plane}"] ** 2
        np.testing.assert_allclose(product, (1 - u) ** 2, rtol=1e-9)
    # <xy> of both modes: V. A. Lebedev, S. A. Bogacz, eq. (3.6)
    e1, e2 = 3e-8, 1e-8
    for row in (0, 20, 40):
        f, sigma = tw[row].functions, tw[row].covariance(e1, e2)
        assert sigma[0, 0] == pytest.approx(e1 * f["beta_x"] + e2 * f["beta_2x"], rel=1e-12)
        assert sigma[2, 2] == pytest.approx(e1 * f["beta_1y"] + e2 * f["beta_y"], rel=1e-12)
        assert sigma[0, 1] == pytest.approx(-e1 * f["alpha_x"] - e2 * f["alpha_2x"], rel=1e-12)
        assert sigma[2, 3] == pytest.approx(-e1 * f["alpha_1y"] - e2 * f["alpha_y"], rel=1e-12)
        xy = e1 * math.sqrt(f["beta_x"] * f["beta_1y"]) * math.cos(f["nu_1"])
        xy += e2 * math.sqrt(f["beta_y"] * f["beta_2x"]) * math.cos(f["nu_2"])
        assert sigma[0, 2] == pytest.approx(xy, rel=1e-10)
    assert tw.tunes % 1 == pytest.approx(coupled().chromaticity(FAST).tunes, abs=1e-11)
    np.testing.assert_allclose(functions(tw[-1]), functions(tw[0]), rtol=1e-9, atol=1e-9)


def test_vertical_bends() -> None:
    """A ring that stands upright: x and y, and the modes, are exchanged inside of the rotations."""
    up, down = bt.PlaneRotation(math.pi / 2), bt.PlaneRotation(-math.pi / 2)
    flat, upright = 8 * arc(), bt.Line([up, 8 * arc(), down])
    a, b = flat.twiss(FAST), upright.twiss(FAST)
    assert b.tunes == pytest.approx(a.tunes[::-1], rel=1e-12)
    assert b[0].functions["dispersion_y"] == pytest.approx(
        a[0].functions["dispersion_x"], rel=1e-11
    )
    assert b[0].functions["beta_y"] == pytest.approx(a[0].functions["beta_x"], rel=1e-11)
    assert b[1].functions["beta_2x"] == pytest.approx(a[0].functions["beta_x"], rel=1e-11)
    assert b.momentum_compaction == pytest.approx(a.momentum_compaction, rel=1e-11)
    each = bt.Line([part for e in 8 * arc() for part in (up, e, down)]).twiss(FAST)
    assert each.tunes == pytest.approx(a.tunes[::-1], rel=1e-12)
    # bends of both planes in one ring: two dispersions, no coupling
    vertical = [bt.Line([up, bt.Bend(0.3, angle=angle), down]) for angle in (0.05, -0.05)]
    both = bt.Line([8 * arc(), vertical[0], bt.Drift(1.0), vertical[1]])
    tw, c = both.twiss(SLOW), both.chromaticity(SLOW)
    assert tw.tunes % 1 == pytest.approx(c.tunes, abs=1e-11)
    names = ["dispersion_x", "dispersion_px", "dispersion_y", "dispersion_py"]
    np.testing.assert_allclose(tw.table[names].iloc[0], c.dispersion, rtol=1e-10, atol=1e-13)
    assert abs(c.dispersion[2]) > 1e-3
    assert tw.table["beta_1y"].iloc[0] < 1e-25
    # two quarter turns change the sign of both: half an oscillation
    half = bt.Line([up, up, 8 * arc()]).twiss(FAST)
    assert half.tunes % 1 == pytest.approx((a.tunes + 0.5) % 1, rel=1e-11)


def test_negative_angles_and_lengths() -> None:
    def ring(sign: float, *extra: bt.Element) -> bt.Line:
        b = bt.Bend(1.0, angle=sign * math.pi / 8, e1=sign * 0.05, e2=sign * 0.1)
        d, qf, qd = bt.Drift(0.5), bt.Quadrupole(0.4, k1=1.3), bt.Quadrupole(0.4, k1=-1.2)
        return 8 * bt.Line([qf, d, b, d, qd, *extra, d, b, d])

    left, right = ring(1).twiss(FAST), ring(-1).twiss(FAST)
    for name in ("beta_x", "alpha_y", "mu_x"):
        np.testing.assert_allclose(right.table[name], left.table[name], rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(right.table["dispersion_x"], -left.table["dispersion_x"], rtol=1e-11)
    there, back = bt.Quadrupole(3.0, k1=2.0), bt.Quadrupole(-3.0, k1=2.0)
    detour = ring(1, there, back, bt.Drift(2.0), bt.Drift(-2.0)).twiss(FAST)
    assert detour.tunes == pytest.approx(left.tunes, rel=1e-10)
    assert detour.table["mu_x"].diff().min() < -0.1


@pytest.mark.filterwarnings("ignore")
@REFERENCES
def test_madx_agrees(ref: bt.Reference) -> None:
    """TWISS with RIPKEN, of a coupled ring; its dispersion is by PT."""
    cpymad = pytest.importorskip("cpymad.madx")
    d, b = bt.Drift(0.5), bt.Bend(1.0, angle=math.pi / 8)
    qf, qd = bt.Quadrupole(0.4, k1=1.3), bt.Quadrupole(0.4, k1=-1.2)
    skew = bt.Quadrupole(0.2, k1=0.2, roll=math.pi / 4, pivot="center")
    first = [qf, d, b, d, qd, skew, d, b, d]
    ring = bt.Line(
        [first, 6 * bt.Line([qf, d, b, d, qd, d, b, d]), first[:5], bt.Solenoid(0.5, ks=0.3), b, d]
    )
    forms = {
        "Drift": lambda e: "drift",
        "Bend": lambda e: f"sbend, angle={e.angle!r}",
        "Quadrupole": lambda e: f"quadrupole, k1={e.k1!r}, tilt={e.roll!r}",
        "Solenoid": lambda e: f"solenoid, ks={e.ks!r}",
    }
    madx = cpymad.Madx(stdout=False)
    for i, e in enumerate(ring):
        madx.input(f"e{i}: {forms[e.kind](e)}, l={e.length!r};")
    madx.input(f"ring: line=({','.join(f'e{i}' for i in range(len(ring)))});")
    mass, energy = ref.species.mass / 1e9, ref.total_energy / 1e9
    madx.input(f"beam, mass={mass!r}, charge=1, energy={energy!r};")
    madx.use("ring")
    theirs, tw = madx.twiss(ripken=True), ring.twiss(ref)
    columns = {
        "beta_x": "beta11", "beta_1y": "beta21", "beta_2x": "beta12", "beta_y": "beta22",
        "alpha_x": "alfa11", "alpha_1y": "alfa21", "alpha_2x": "alfa12", "alpha_y": "alfa22",
        "mu_x": "mux", "mu_y": "muy",
    }  # fmt: skip
    for ours, name in columns.items():
        expected = theirs[name][: len(tw)]
        np.testing.assert_allclose(tw.table[ours], expected, rtol=0, atol=1e-12 * np.ptp(expected))
    for ours, name in (("x", "dx"), ("px", "dpx"), ("y", "dy"), ("py", "dpy")):
        expected = ref.beta * theirs[name][: len(tw)]
        np.testing.assert_allclose(tw.table[f"dispersion_{ours}"], expected, rtol=0, atol=1e-11)
    assert np.max(tw.table["beta_2x"]) > 0.01
    assert tw.momentum_compaction == pytest.approx(theirs.summary.alfa, rel=1e-8)
    assert tw.gamma_transition == pytest.approx(theirs.summary.gammatr, rel=1e-8)
    madx.quit()


# --- lines from given values ----------------------------------------------------------------------


@REFERENCES
@pytest.mark.parametrize("make", [lambda: 8 * arc(), coupled], ids=["flat", "coupled"])
def test_open_is_periodic_from_the_periodic_values(ref: bt.Reference, make: object) -> None:
    ring = make()
    tw = ring.twiss(ref, pt=1e-4)
    assert_same(ring.twiss(ref, tw[0]), tw)
    if np.all(tw.table["beta_1y"] == 0):
        skipped = {"gamma_x", "gamma_y", *FUNCTIONS[10:]}
        given = {name: v for name, v in tw[0].functions.items() if name not in skipped}
        assert_same(ring.twiss(ref, bt.Optics.from_twiss(ref, **given)), tw)


def test_chains_are_one_line() -> None:
    """A line behind a ring, with a cavity at a place with dispersion."""
    ring, cavity = 8 * arc(), bt.RFCavity(length=0.5, voltage=3e8, frequency=1e9, phase=-0.3)
    parts = [bt.Line([arc(), cavity]), bt.Line([arc(), cavity, bt.Solenoid(0.5, ks=0.3), arc()])]
    front = ring.twiss(FAST)[-1]
    whole = bt.Line(parts).twiss(front.reference, front)
    first = parts[0].twiss(front.reference, front)
    second = parts[1].twiss(first[-1].reference, first[-1])
    np.testing.assert_allclose(functions(second[-1]), functions(whole[-1]), rtol=1e-10, atol=1e-12)
    assert second.table["mu_x"].iloc[-1] == pytest.approx(whole.table["mu_x"].iloc[-1], rel=1e-12)
    assert second.table["s"].iloc[-1] == pytest.approx(ring.length + whole.length)
    # sizes are those of the envelope, with what the cavity does to the energies of betatron oscillations
    envelope = bt.Line(parts).envelope(front.reference, front.covariance(2e-8, 1e-8))
    damping = FAST.beta_gamma / np.sqrt(whole.table["gamma"] ** 2 - 1)
    size = damping * (2e-8 * whole.table["beta_x"] + 1e-8 * whole.table["beta_2x"])
    np.testing.assert_allclose(size, envelope.covariances[:, 0, 0], rtol=1e-10)
    with pytest.raises(ValueError, match="start is for"):
        parts[1].twiss(FAST, first[-1])
    with pytest.raises(ValueError, match="tunes: known for rings"):
        _ = first.tunes


def test_acceleration_is_that_of_the_envelope() -> None:
    """beta times the geometric emittance, which falls as 1/p0, is the size of the beam; the dispersion does
    not mind what cavities in front of it do to t and pt."""
    ref = bt.Reference("electron", kinetic_energy=5e6)
    cavity = bt.RFCavity(length=1.0, voltage=2e7, frequency=1.3e9, phase=-0.2)
    linac = 4 * bt.Line([bt.Quadrupole(0.1, k1=4.0), cavity, bt.Quadrupole(0.1, k1=-4.0), cavity])
    line = bt.Line([linac, arc(), bt.UniformAcceleration(length=1.0, voltage=5e7)])
    start = bt.Optics.from_twiss(ref, beta_x=2.0, alpha_x=-0.3, beta_y=1.0, alpha_y=0.4)
    tw = line.twiss(ref, start)
    e1, e2 = 1e-8, 3e-9
    envelope = line.envelope(ref, start.covariance(e1, e2))
    damping = ref.beta_gamma / np.array([tw[i].reference.beta_gamma for i in range(len(tw))])
    assert damping[-1] < 0.05
    for name, emittance, at in (("x", e1, 0), ("y", e2, 2)):
        squares = envelope.covariances[:, at, at]
        beta, alpha = tw.table[f"beta_{name}"], tw.table[f"alpha_{name}"]
        np.testing.assert_allclose(emittance * damping * beta, squares, rtol=1e-10)
        products = -envelope.covariances[:, at, at + 1]
        np.testing.assert_allclose(emittance * damping * alpha, products, rtol=1e-9, atol=1e-20)
        # nothing is coupled yet in front of the arc
        product = tw.table[f"gamma_{name}"] * beta - alpha**2
        np.testing.assert_allclose(product, 1.0, rtol=1e-9)
    entrance = tw[len(linac)]
    alone = arc().twiss(
        entrance.reference, bt.Optics.from_twiss(entrance.reference, beta_x=1, beta_y=1)
    )
    here = tw[len(linac) + len(arc())].functions["dispersion_x"]
    assert here == pytest.approx(alone[-1].functions["dispersion_x"], rel=1e-9)


@pytest.mark.parametrize("k", [0.3, 40.0])
def test_phases_count_oscillations_inside_of_elements(k: float) -> None:
    line = bt.Line([bt.ConstantFocusing(5.0, kx=k, ky=1.5 * k), bt.Quadrupole(5.0, k1=-(k**2))])
    start = bt.Optics.from_twiss(FAST, beta_x=1 / k, beta_y=1 / (1.5 * k), mu_x=2.0)
    tw = line[:1].twiss(FAST, start)
    expected = [2 + 5 * k / (2 * math.pi), 7.5 * k / (2 * math.pi)]
    assert tw[-1].phases == pytest.approx(expected, rel=1e-12)
    vertical = line[1:].twiss(FAST, bt.Optics.from_twiss(FAST, beta_x=1, beta_y=1 / k))
    assert vertical[-1].phases[1] == pytest.approx(5 * k / (2 * math.pi), rel=1e-12)
    back = bt.Line([line[0], bt.ConstantFocusing(-5.0, kx=k, ky=1.5 * k)]).twiss(FAST, start)
    assert back[-1].phases == pytest.approx([2.0, 0.0], abs=1e-10)


def test_solenoid_couples() -> None:
    """A solenoid with k = ks/2 that turns a round beam: half of each mode is in each plane after 45 degrees."""
    ks, length = 2.0, math.pi / 4
    start = bt.Optics.from_twiss(FAST, beta_x=1.0, beta_y=1.0)
    tw = bt.Line([bt.Solenoid(length, ks=ks)]).twiss(FAST, start)
    f = tw[-1].functions
    assert [f["beta_x"], f["beta_1y"], f["u"]] == pytest.approx([0.5, 0.5, 0.5], rel=1e-9)
    assert tw[-1].phases == pytest.approx([0.125, 0.125], rel=1e-9)


# --- speed, pictures, errors ----------------------------------------------------------------------


def test_a_thousand_elements() -> None:
    ring = 120 * arc()
    began = time.perf_counter()
    tw = ring.twiss(FAST)
    assert time.perf_counter() - began < 2.0  # 0.2 s on a free machine
    assert len(tw.table) == len(tw) == len(ring) + 1


def test_picture() -> None:
    tw = (8 * arc()).twiss(FAST)
    figure = tw.plot.optics()
    labels = [
        [line.get_label() for line in ax.lines if "$" in str(line.get_label())]
        for ax in figure.axes
    ]
    assert labels[:2] == [[r"$\beta_x$", r"$\beta_y$"], ["$D_x$"]]
    s, beta = figure.axes[0].lines[0].get_data()
    inside = bt.Line([bt.Quadrupole(0.4, k1=1.3), bt.Drift(0.25)]).twiss(FAST, tw[0])
    assert np.interp(0.65, s, beta) == pytest.approx(inside[-1].functions["beta_x"], rel=1e-3)
    assert len(coupled().twiss(FAST).plot.optics().axes[0].lines) >= 4
    assert tw.plot.optics(["mu_x", "mu_y"]).axes[0].get_ylabel() == r"$\mu_x/2\pi$, $\mu_y/2\pi$"
    with pytest.raises(KeyError, match="no quantity is named 'betax'; did you mean beta_x"):
        tw.plot.optics("betax")
    plt.close("all")


def test_what_is_refused() -> None:
    ring, given = 8 * arc(), {"beta_x": 1.0, "beta_y": 1.0}
    start = bt.Optics.from_twiss(FAST, **given)
    with pytest.raises(
        ValueError, match=r"motion in x is not stable.* 1.54308.*; allowed: > -1 and < 1"
    ):
        bt.Line([bt.Quadrupole(1.0, k1=-1.0)]).twiss(FAST)
    with pytest.raises(ValueError, match="not stable"):
        bt.Line([bt.Quadrupole(1.0, k1=1.0, roll=0.3), bt.Drift(1.0)]).twiss(FAST)
    with pytest.raises(ValueError, match="fields that vary in time: RFCavity 'rf'"):
        rf = bt.RFCavity(voltage=1e3, frequency=1e6, phase=-math.pi / 2, name="rf")
        bt.Line([ring, rf]).twiss(FAST)
    with pytest.raises(TypeError, match=r"start must be a betatron.Optics.*got dict"):
        ring.twiss(FAST, given)
    with pytest.raises(TypeError, match=r"twiss: reference must be"):
        ring.twiss(1e9)
    with pytest.raises(ValueError, match=r"pt = 0.001 is for rings"):
        ring.twiss(FAST, start, pt=1e-3)
    with pytest.raises(ValueError, match=r"start is for .*proton.*reference is .*electron"):
        ring.twiss(FAST, bt.Optics.from_twiss(SLOW, **given))
    for name, value, allowed in (
        ("beta_x", 0.0, "> 0"),
        ("alpha_y", math.nan, "finite"),
        ("pt", 2.0, "< 0.999489"),
    ):
        with pytest.raises(ValueError, match=rf"from_twiss: {name} = .*; allowed: {allowed}"):
            bt.Optics.from_twiss(FAST, **{**given, name: value})
    with pytest.raises(TypeError, match=r"from_twiss: beta_y must be a number"):
        bt.Optics.from_twiss(FAST, beta_x=1.0, beta_y="1")
    with pytest.raises(
        ValueError, match=r"covariance: emittance_2 = -1.0; allowed: finite and >= 0"
    ):
        start.covariance(1e-9, -1.0)
    with pytest.raises(ValueError, match=r"basis must be finite numbers of shape"):
        bt.Optics(FAST, np.eye(4), np.zeros(6), np.zeros(2))
    steep = bt.Optics.from_twiss(FAST, **given, px=1.5)
    with pytest.raises(ValueError, match="leaves the domain of the map of Bend 'b' at position 1"):
        bt.Line([bt.Drift(0.1), bt.Bend(1.0, angle=0.1, model="exact", name="b")]).twiss(
            FAST, steep
        )
    tw = ring.twiss(FAST)
    with pytest.raises(KeyError, match=r"'qf' is at positions \[0, 8"):
        _ = tw["qf"]
    with pytest.raises(KeyError, match="no element is named 'qq'"):
        _ = tw["qq"]
    with pytest.raises(IndexError, match="row 65 of 65 rows"):
        _ = tw[65]
    assert "tunes 2.1" in repr(tw) and "from given values" in repr(ring.twiss(FAST, tw[0]))
    with pytest.raises(ValueError, match="read-only"):
        tw[0].basis[0, 0] = 0.0
