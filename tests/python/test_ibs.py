"""Intra-beam scattering against the formulas of Nagaitsev, other codes' figures and conservation
laws."""

import betatron as bt
import numpy as np
import pytest
from scipy.special import elliprd

C = 299792458.0
E = 1.602176634e-19
CELLS = 16


def ring(tilt=0.0):
    angle = np.pi / CELLS
    focus, defocus = bt.Quadrupole(0.3, k1=0.9), bt.Quadrupole(0.3, k1=-0.9, roll=tilt)
    bend, drift = bt.Bend(1.5, angle=angle), bt.Drift(0.35)
    return bt.Line(CELLS * [focus, drift, bend, drift, defocus, drift, bend, drift, bt.Drift(0.1)])


REFERENCE = bt.Reference("proton", total_energy=2e9)
BUNCH = {
    "charge": 1e11 * E,
    "emittance_x": 5e-6,
    "emittance_y": 3e-6,
    "sigma_t": 2.0 / REFERENCE.beta,
}
DELTA = 1.282197e-3


def nagaitsev(line, ref, particles, ex, ey, sigma_s, delta, log, pieces=60):
    """Phys. Rev. ST Accel. Beams 8 (2005) 064403, eqs. 9-27, for rings that are bent in the
    horizontal plane; optics from matrices of pieces of the elements."""
    m = line.matrix(ref)
    gamma, beta = ref.gamma, ref.beta

    def optics(block):
        cos = 0.5 * np.trace(block)
        sin = np.sign(block[0, 1]) * np.sqrt(1 - cos**2)
        return block[0, 1] / sin, (block[0, 0] - block[1, 1]) / (2 * sin)

    (bx, ax), (by, ay) = optics(m[:2, :2]), optics(m[2:4, 2:4])
    d = np.linalg.solve(np.eye(2) - m[:2, :2], m[:2, 5])
    radius = 1.5346983e-18  # classical radius of the proton
    total, length = np.zeros(3), 0.0
    from betatron import _core

    for e in line:
        n = max(1, int(np.ceil(e.length / 1.5 * pieces)))
        parameters = e.to_dict()
        parameters.pop("kind")
        parameters["length"] = e.length / n
        if e.kind == "Bend":
            parameters["angle"] = e.angle / n
        part = _core.Line([getattr(bt, e.kind)(**parameters)], "")
        matrix = part.derivative(ref, [0.0] * 6)[0]
        for _ in range(n):
            dx, dp = -beta * d[0], -beta * d[1]  # per delta
            phi = dp + ax * dx / bx
            sx = np.sqrt(ex * bx + (dx * delta) ** 2)
            sy = np.sqrt(ey * by)
            a_x, a_y = bx / ex, by / ey
            a_s = a_x * (dx**2 / bx**2 + phi**2) + 1 / delta**2
            a1, a2 = 0.5 * (a_x + gamma**2 * a_s), 0.5 * (a_x - gamma**2 * a_s)
            q = np.sqrt(a2**2 + gamma**2 * a_x**2 * phi**2)
            l1, l2, l3 = a_y, a1 + q, a1 - q
            r1 = elliprd(1 / l2, 1 / l3, 1 / l1) / l1
            r2 = elliprd(1 / l3, 1 / l1, 1 / l2) / l2
            r3 = 3 * np.sqrt(l1 * l2 / l3) - l1 / l3 * r1 - l2 / l3 * r2
            s_p = gamma**2 / 2 * (2 * r1 - r2 * (1 - 3 * a2 / q) - r3 * (1 + 3 * a2 / q))
            s_x = 0.5 * (2 * r1 - r2 * (1 + 3 * a2 / q) - r3 * (1 - 3 * a2 / q))
            s_xp = 3 * gamma**2 * phi**2 * a_x / q * (r3 - r2)
            psi_y = r2 + r3 - 2 * r1
            step = e.length / n
            total += (
                step
                / (sx * sy)
                * np.array(
                    [
                        bx / ex * (s_x + (dx**2 / bx**2 + phi**2) * s_p + s_xp),
                        by / ey * psi_y,
                        s_p / delta**2,
                    ]
                )
            )
            length += step
            gx, gy = (1 + ax**2) / bx, (1 + ay**2) / by
            x, y = matrix[:2, :2], matrix[2:4, 2:4]
            d = x @ d + matrix[:2, 5]
            bx, ax = (
                x[0, 0] ** 2 * bx - 2 * x[0, 0] * x[0, 1] * ax + x[0, 1] ** 2 * gx,
                -x[0, 0] * x[1, 0] * bx
                + (x[0, 0] * x[1, 1] + x[0, 1] * x[1, 0]) * ax
                - x[0, 1] * x[1, 1] * gx,
            )
            by, ay = (
                y[0, 0] ** 2 * by - 2 * y[0, 0] * y[0, 1] * ay + y[0, 1] ** 2 * gy,
                -y[0, 0] * y[1, 0] * by
                + (y[0, 0] * y[1, 1] + y[0, 1] * y[1, 0]) * ay
                - y[0, 1] * y[1, 1] * gy,
            )
    return (
        particles
        * radius**2
        * C
        * log
        / (12 * np.pi * beta**3 * gamma**5 * sigma_s)
        * total
        / length
    )


def test_rates_are_those_of_nagaitsev():
    rates = bt.ibs_rates(
        ring(), REFERENCE, sigma_pt=DELTA * REFERENCE.beta, coulomb_log=20.0, spacing=0.02, **BUNCH
    )
    exact = nagaitsev(ring(), REFERENCE, 1e11, 5e-6, 3e-6, 2.0, DELTA, 20.0)
    assert rates.t == pytest.approx(exact[2], rel=2e-3)
    assert rates.x == pytest.approx(exact[0], abs=2e-3 * exact[2])
    assert rates.y == pytest.approx(exact[1], abs=2e-3 * exact[2])


def test_rates_are_those_of_xfields():
    # xfields 0.27.5, formalism "nagaitsev", 15 pieces per element, twice its amplitude rates as
    # printed
    rates = bt.ibs_rates(
        ring(), REFERENCE, sigma_pt=DELTA * REFERENCE.beta, coulomb_log=23.23, spacing=0.05, **BUNCH
    )
    assert rates.t == pytest.approx(2 * 2.87e-5, rel=1e-2)
    assert rates.y == pytest.approx(2 * 8.19e-6, rel=1e-2)
    assert rates.x == pytest.approx(2 * -2.34e-6, rel=2e-2)
    own = bt.ibs_rates(ring(), REFERENCE, sigma_pt=DELTA * REFERENCE.beta, **BUNCH)
    assert own.coulomb_log == pytest.approx(23.23, rel=0.05)


def test_rates_are_those_of_madx():
    # command IBS of MAD-X 5.09 (cpymad 1.20), every element in 15 pieces
    rates = bt.ibs_rates(
        ring(),
        REFERENCE,
        sigma_pt=DELTA * REFERENCE.beta,
        coulomb_log=23.233,
        spacing=0.02,
        **BUNCH,
    )
    assert rates.t == pytest.approx(5.763449e-05, rel=5e-4)
    assert rates.x == pytest.approx(-4.712702e-06, rel=3e-3)
    assert rates.y == pytest.approx(1.642388e-05, rel=5e-4)


def test_rotating_the_lattice_exchanges_the_planes():
    straight = bt.ibs_rates(ring(), REFERENCE, sigma_pt=1e-3, coulomb_log=20.0, **BUNCH)
    quarter = np.eye(6)
    quarter[:4, :4] = np.kron(np.array([[0.0, 1.0], [-1.0, 0.0]]), np.eye(2))
    turned = bt.Line([bt.LinearMap(quarter), *ring(), bt.LinearMap(quarter.T)])
    swapped = dict(BUNCH, emittance_x=BUNCH["emittance_y"], emittance_y=BUNCH["emittance_x"])
    other = bt.ibs_rates(turned, REFERENCE, sigma_pt=1e-3, coulomb_log=20.0, **swapped)
    assert other.x == pytest.approx(straight.y, rel=1e-9)
    assert other.y == pytest.approx(straight.x, rel=1e-9, abs=1e-12)
    assert other.t == pytest.approx(straight.t, rel=1e-9)


def test_coupling_shares_the_growth():
    rates = bt.ibs_rates(ring(0.02), REFERENCE, sigma_pt=1e-3, coulomb_log=20.0, **BUNCH)
    flat = bt.ibs_rates(ring(), REFERENCE, sigma_pt=1e-3, coulomb_log=20.0, **BUNCH)
    assert rates.y != pytest.approx(flat.y, rel=1e-3) and np.isfinite([rates.x, rates.t]).all()


def test_ring_with_a_cavity():
    electron = bt.Reference("electron", kinetic_energy=1e9)
    length = ring().length
    frequency = 40 * electron.beta * C / length
    cavity = bt.RFCavity(0.0, voltage=2e6, frequency=frequency, phase=np.pi / 2)
    line = bt.Line([*ring(), cavity])
    m = line.matrix(electron)
    if abs(m[4, 4] + m[5, 5]) > 2:  # above transition the other slope is stable
        cavity.phase = -np.pi / 2
    bunch = {
        "charge": 1e-9,
        "emittance_x": 1e-9,
        "emittance_y": 1e-11,
        "sigma_t": 3e-3,
        "coulomb_log": 15.0,
    }
    with_cavity = bt.ibs_rates(line, electron, **bunch)
    with pytest.raises(ValueError, match=r"sigma_pt = 0\.001 cannot be chosen"):
        bt.ibs_rates(line, electron, sigma_pt=1e-3, **bunch)
    assert with_cavity.x > 0 and with_cavity.t > 0


def bunch(
    n=40_000, precision="double", seed=2, sizes=(1e-3, 2e-3, 0.5), spreads=(1e-3, 4e-4, 3e-4)
):
    rng = np.random.default_rng(seed)
    kind = np.float64 if precision == "double" else np.float32
    columns = {}
    for name, s in zip(("x", "y", "t"), sizes, strict=True):
        columns[name] = (s * rng.standard_normal(n)).astype(kind)
    for name, s in zip(("px", "py", "pt"), spreads, strict=True):
        columns[name] = (s * rng.standard_normal(n)).astype(kind)
    return bt.Beam.from_arrays(bt.Reference("proton", kinetic_energy=1e8), charge=2e-9, **columns)


def temperatures(beam):
    bg = beam.reference.beta_gamma
    return np.array([bg**2 * np.var(beam.px), bg**2 * np.var(beam.py), np.var(beam.pt)])


def test_kicks_heat_as_the_collision_integral():
    ref = bt.Reference("proton", kinetic_energy=1e8)
    sizes, spreads = (1e-3, 2e-3, 0.5), (1e-3, 4e-4, 3e-4)
    t = np.array([(ref.beta_gamma * s) ** 2 for s in spreads[:2]] + [spreads[2] ** 2])
    density = 2e-9 / E / ((4 * np.pi) ** 1.5 * ref.beta_gamma * np.prod(sizes))
    a = 4 * np.sqrt(np.pi) / 3 * density * 1.5346983e-18**2 * 20 / ref.beta_gamma
    r = np.array([t[i] * elliprd(t[(i + 1) % 3], t[(i + 2) % 3], t[i]) for i in range(3)])
    exact = a * (r.sum() - 3 * r)
    path = 0.004 * t[0] / np.abs(exact[0])
    kicked = bt.Line([bt.LinearMap(np.eye(6), path)])
    changes = []
    for seed in range(3):
        beam = bunch(400_000, seed=seed)
        before = temperatures(beam)
        mean = [np.mean(beam[k]) for k in ("px", "py", "pt")]
        kicked.track(beam, collective=bt.IBS(coulomb_log=20.0, seed=seed))
        changes.append((temperatures(beam) - before) / path)
        assert np.allclose([np.mean(beam[k]) for k in ("px", "py", "pt")], mean, atol=1e-18)
    change = np.mean(changes, axis=0)
    assert np.allclose(change, exact, atol=0.1 * np.abs(exact).max())
    assert abs(change.sum()) < 0.1 * np.abs(exact).max()


def test_a_tracked_bunch_grows_as_the_rates_say():
    from betatron.collective import _normal_form

    line, ref = ring(), REFERENCE
    for element in line.elements:
        element.model = "linear"
    normal, _ = _normal_form(line.matrix(ref))
    spread = DELTA * ref.beta
    rates = bt.ibs_rates(line, ref, sigma_pt=spread, coulomb_log=20.0, **BUNCH)
    turn = line.length / (ref.beta * C)
    more = 0.04 / (rates.t * turn)  # charge, so that one turn is enough
    growth = []
    for seed in range(2):
        g = np.random.default_rng(seed).normal(size=(6, 100_000))
        sizes = [5e-6**0.5] * 2 + [3e-6**0.5] * 2 + [BUNCH["sigma_t"], spread]
        z = normal @ (g * np.array(sizes)[:, None])
        names = ("x", "px", "y", "py", "t", "pt")
        beam = bt.Beam.from_arrays(
            ref, charge=more * BUNCH["charge"], **dict(zip(names, z, strict=True))
        )
        still = beam.copy()
        line.track(still)
        line.track(beam, collective=bt.IBS(20.0, seed=seed, spacing=1.5))
        actions = []
        for b in (beam, still):
            modes = np.linalg.solve(normal, b.array - b.array.mean(axis=1)[:, None])
            actions.append([np.sum(modes[:2] ** 2), np.sum(modes[2:4] ** 2), np.sum(modes[5] ** 2)])
        growth.append(np.array(actions[0]) / actions[1] - 1)
    found = np.mean(growth, axis=0) / (turn * more)
    # without cavities all growth of the third mode is in pt
    assert found[2] == pytest.approx(2 * rates.t, rel=0.08)
    assert found[1] == pytest.approx(rates.y, abs=0.08 * rates.t)
    assert found[0] == pytest.approx(rates.x, abs=0.12 * rates.t)


def test_temperatures_become_equal():
    beam = bunch(20_000)
    start = temperatures(beam)
    line = bt.Line([bt.LinearMap(np.eye(6), 2e7)])
    line.track(beam, turns=250, collective=bt.IBS(coulomb_log=20.0))
    end = temperatures(beam)
    assert end.max() / end.min() < 1.1 < start.max() / start.min()
    assert end.sum() == pytest.approx(start.sum(), rel=0.05)


@pytest.mark.parametrize("precision", ["double", "single"])
def test_threads_do_not_matter_and_seeds_do(precision):
    line = bt.Line([bt.LinearMap(np.eye(6), 1e7)])
    results = {}
    for threads, seed in ((1, 1), (3, 1), (1, 2)):
        beam = bunch(60_000, precision)
        line.track(beam, turns=2, threads=threads, collective=bt.IBS(seed=seed))
        results[threads, seed] = beam.array.copy()
    assert np.array_equal(results[1, 1], results[3, 1])
    assert not np.array_equal(results[1, 1], results[1, 2])


def test_what_cannot_scatter_is_refused():
    line = bt.Line([bt.Drift(1.0)])
    one = bt.Beam.from_arrays(
        bt.Reference("proton", kinetic_energy=1e8),
        charge=1e-9,
        **dict.fromkeys(("x", "px", "y", "py", "t", "pt"), np.zeros(1)),
    )
    with pytest.raises(ValueError, match="IBS: the rms size of the bunch in x is 0 m"):
        line.track(one, collective=bt.IBS())
    with pytest.raises(ValueError, match="cannot be tracked backward"):
        line.track(bunch(100), collective=bt.IBS(), backward=True)
    with pytest.raises(ValueError, match="coulomb_log = -1"):
        bt.IBS(coulomb_log=-1)
    with pytest.raises(ValueError, match="emittance_x = 0"):
        bt.ibs_rates(ring(), REFERENCE, sigma_pt=1e-3, **dict(BUNCH, emittance_x=0))
    with pytest.raises(ValueError, match="needs sigma_pt"):
        bt.ibs_rates(ring(), REFERENCE, **BUNCH)
    with pytest.raises(ValueError, match="no stable modes"):
        bt.ibs_rates(bt.Line([bt.Quadrupole(1.0, k1=1.0)]), REFERENCE, sigma_pt=1e-3, **BUNCH)
