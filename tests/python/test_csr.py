"""Coherent synchrotron radiation against closed forms and the fields of moving charges."""

import betatron as bt
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import brentq

COULOMB = 8.9875517862e9  # 1/(4 pi eps0)
INF = float("inf")


def gaussian(sigma, gamma=1e4, charge=1e-9, nodes=20001, species="electron"):
    ref = bt.Reference(species, gamma=gamma)
    z = np.linspace(-6 * sigma, 6 * sigma, nodes)
    zero = np.zeros(nodes)
    return bt.Beam.from_arrays(
        ref,
        x=zero,
        px=zero,
        y=zero,
        py=zero,
        t=-z / ref.beta,
        pt=zero,
        weight=np.exp(-0.5 * (z / sigma) ** 2),
        charge=charge,
    )


def density(z, sigma):
    return np.exp(-0.5 * (z / sigma) ** 2) / np.sqrt(2 * np.pi) / sigma


def mean_and_rms(beam, t, field):
    _, lam = bt.line_density(beam, len(t) - 4)
    w = lam / lam.sum()
    mean = np.sum(w * field)
    return mean, np.sqrt(np.sum(w * field**2) - mean**2)


@pytest.mark.parametrize("curvature", [0.7, -0.7])
def test_steady_state_of_a_gaussian(curvature):
    # -0.3505 and 0.2459 N r_c m c^2/(R^(2/3) sigma^(4/3)): Gamma(5/6)/(6^(1/3) sqrt(pi)) is the
    # first
    sigma = 50e-6
    beam = gaussian(sigma)
    t, field = bt.CSR(bins=400).field(beam, [(INF, curvature)])
    mean, rms = mean_and_rms(beam, t, field)
    unit = COULOMB * 1e-9 * abs(curvature) ** (2 / 3) / sigma ** (4 / 3)
    assert mean == pytest.approx(-0.350 * unit, rel=3e-3)
    assert rms == pytest.approx(0.246 * unit, rel=3e-3)


@pytest.mark.parametrize("angle", [0.03, 0.1, 0.16, 0.4])
def test_entrance_transient_is_that_of_saldin(angle):
    # Saldin et al., eq. 87: gamma -> infinity
    sigma, radius = 50e-6, 1.5
    beam = gaussian(sigma, gamma=1e6)
    t, field = bt.CSR(bins=400).field(beam, [(angle * radius, 1 / radius)])
    z, slip = -t, radius * angle**3 / 24
    ends = 4 / (radius * angle) * (density(z - slip, sigma) - density(z - 4 * slip, sigma))
    u = (np.arange(4000) + 0.5) / 4000 * min(slip, 15 * sigma) ** (1 / 3)
    s = u**3
    slope = -(z[:, None] - s) / sigma**2 * density(z[:, None] - s, sigma)
    inside = 2 / (3 * radius**2) ** (1 / 3) * np.sum(slope * 3 * u, axis=1) * (u[1] - u[0])
    exact = -COULOMB * 1e-9 * (ends + inside)
    assert np.abs(field - exact).max() < 5e-3 * np.abs(exact).max()


@pytest.mark.parametrize("behind", [0.02, 0.1, 0.7])
def test_drift_after_a_long_bend_is_that_of_stupakov_and_emma(behind):
    # EPAC 2002, p. 1479, for gamma -> infinity: a charge seen at the angle psi before the exit is
    # behind by s = R psi^3/24 (psi + 4 x)/(psi + x), x = behind/R, and the potential is 4/(R (psi +
    # 2 x))
    sigma, radius = 20e-6, 5.0
    beam = gaussian(sigma, gamma=1e6)
    t, field = bt.CSR(bins=400).field(beam, [(behind, 0.0), (INF, 1 / radius)])
    x = behind / radius
    psi = np.geomspace(1e-6, 2, 20000)
    s = radius * psi**3 / 24 * (psi + 4 * x) / (psi + x)
    z = -t[:, None]
    slope = -(z - s) / sigma**2 * density(z - s, sigma)
    exact = -COULOMB * 1e-9 * np.trapezoid(slope * 4 / (radius * (psi + 2 * x)), s, axis=1)
    assert np.abs(field - exact).max() < 1e-2 * np.abs(exact).max()


@pytest.mark.parametrize("gamma", [15.0, 50.0, 300.0])
def test_finite_gamma_is_the_field_of_charges_on_a_circle(gamma):
    """The potential Phi - beta A of a line of charge on a circle, less that of a straight one."""
    sigma, radius = 2e-4, 1.0
    beam = gaussian(sigma, gamma=gamma)
    beta = beam.reference.beta
    t, field = bt.CSR(bins=300).field(beam, [(INF, 1 / radius)])

    def angle_of(s):
        return brentq(
            lambda f: radius * f - 2 * radius * beta * np.sin(f / 2) - s, 0, 3, xtol=1e-15
        )

    def potential(s):
        f = angle_of(s)
        circle = (1 - beta**2 * np.cos(f)) / (
            2 * radius * np.sin(f / 2) * (1 - beta * np.cos(f / 2))
        )
        return circle - 1 / (gamma**2 * s)

    scale = np.abs(field).max()
    for i in range(20, len(t), 60):
        z = -beta * t[i]

        def integrand(u, z=z):
            s = u**3
            return -(z - s) / sigma**2 * density(z - s, sigma) * potential(s) * 3 * u**2

        exact = -COULOMB * 1e-9 * quad(integrand, 1e-4, (10 * sigma) ** (1 / 3), limit=200)[0]
        # the closed form is for small angles; here they reach (24 s/R)^(1/3)
        assert field[i] == pytest.approx(exact, abs=3e-2 * scale)


def test_a_chicane_of_arcs_joins_smoothly():
    # the same orbit, cut in other places
    beam = gaussian(50e-6, gamma=2000)
    one = bt.CSR().field(beam, [(0.3, 0.0), (0.2, -0.5), (1.0, 0.0), (0.4, 0.5)])[1]
    other = bt.CSR().field(
        beam,
        [(0.1, 0.0), (0.2, 0.0), (0.15, -0.5), (0.05, -0.5), (1.0, 0.0), (0.4, 0.5), (3.0, 0.0)],
    )[1]
    assert np.abs(one - other).max() < 2e-3 * np.abs(one).max()


def test_plates_suppress_the_radiation():
    sigma, radius = 50e-6, 1.5
    beam = gaussian(sigma)
    free = mean_and_rms(beam, *bt.CSR(bins=400).field(beam, [(INF, 1 / radius)]))[0]

    def shielded(gap):
        return mean_and_rms(
            beam, *bt.CSR(bins=400, shielding_gap=gap).field(beam, [(INF, 1 / radius)])
        )[0]

    assert shielded(0.1) == pytest.approx(free, rel=1e-3)
    for gap in (2e-3, 2.5e-3, 3e-3):
        # Kheifets, Zotter: 4.2 (n_th/n_c)^(5/6) exp(-2 n_th/n_c)
        ratio = np.sqrt(2 / 3) * (np.pi * radius / gap) ** 1.5 / (radius / sigma)
        assert shielded(gap) / free == pytest.approx(
            4.2 * ratio ** (5 / 6) * np.exp(-2 * ratio), rel=0.05
        )


def random_beam(n=20000, precision="double", species="electron", charge=1e-9):
    rng = np.random.default_rng(5)
    kind = np.float64 if precision == "double" else np.float32
    sizes = {"x": 1e-4, "px": 1e-6, "y": 1e-4, "py": 1e-6, "t": 3e-5, "pt": 1e-4}
    columns = {k: (v * rng.standard_normal(n)).astype(kind) for k, v in sizes.items()}
    return bt.Beam.from_arrays(bt.Reference(species, kinetic_energy=1e9), charge=charge, **columns)


@pytest.mark.parametrize("model", ["linear", "paraxial", "exact"])
def test_energy_lost_in_a_bend_is_the_integral(model):
    beam = random_beam()
    before = np.array(beam.pt)
    t, field = bt.CSR(bins=100).field(beam, [(INF, 0.2)])
    _, lam = bt.line_density(beam, 100)
    step = t[1] - t[0]
    loss = np.sum(field * lam * step) / abs(beam.charge) * 0.1
    bt.Line([bt.Bend(0.1, angle=0.02, model=model)]).track(
        beam, collective=bt.CSR(bins=100, order=1)
    )
    gain = -np.mean(np.array(beam.pt) - before) * beam.reference.momentum
    assert gain == pytest.approx(loss, rel=1e-9)


def test_precisions_agree_and_threads_do_not_matter():
    line = bt.Line(
        [
            bt.Bend(0.5, angle=0.05, slices=5),
            bt.Drift(0.3, slices=3),
            bt.Bend(0.5, angle=-0.05, slices=5),
        ]
    )
    effect = bt.CSR(model="transient", shielding_gap=0.03)
    kicks = {}
    for precision in ("double", "single"):
        results = []
        for threads in (1, 3):
            beam = random_beam(50_000, precision)
            line.track(beam, collective=effect, threads=threads)
            results.append(beam.array.copy())
        assert np.array_equal(*results)
        still = random_beam(50_000, precision)
        line.track(still)
        kicks[precision] = (results[0][5] - still.array[5]).astype(np.float64)
    assert np.std(kicks["single"] - kicks["double"]) < 1e-3 * np.std(kicks["double"])


def test_sign_of_the_charge_does_not_matter_and_it_goes_back():
    line = bt.Line([bt.Bend(0.5, angle=0.05, slices=5), bt.Drift(0.3)])
    ends = []
    for species in ("electron", "positron"):
        beam = random_beam(2000, species=species)
        start = beam.array.copy()
        line.track(beam, collective=bt.CSR(model="transient"))
        ends.append(beam.array.copy())
        line.track(beam, collective=bt.CSR(model="transient"), backward=True)
        assert np.abs(beam.array - start).max() < 1e-15
    assert np.array_equal(*ends)


def test_no_curvature_no_radiation():
    beam, still = random_beam(1000), random_beam(1000)
    line = bt.Line([bt.Drift(1.0), bt.Quadrupole(0.1, k1=1.0)])
    line.track(beam, collective=[bt.CSR(), bt.CSR(model="transient")])
    line.track(still)
    assert np.array_equal(beam.array, still.array)


def test_beams_that_cannot_radiate():
    line = bt.Line([bt.Bend(0.5, angle=0.05)])
    ref = bt.Reference("electron", kinetic_energy=1e9)
    for n in (1, 3):
        zero = np.zeros(n)
        beam = bt.Beam.from_arrays(
            ref, x=zero, px=zero, y=zero, py=zero, t=zero, pt=zero, charge=1e-9
        )
        with pytest.raises(ValueError, match=f"CSR at s = .* all {n} particles have the same t"):
            line.track(beam, collective=bt.CSR())
    empty = np.zeros(0)
    beam = bt.Beam.from_arrays(ref, x=empty, px=empty, y=empty, py=empty, t=empty, pt=empty)
    line.track(beam, collective=bt.CSR())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: bt.CSR(bins=0), "bins = 0"),
        (lambda: bt.CSR(bins=10**6), "bins = 1000000 must be between"),
        (lambda: bt.CSR(model="3d"), "model = '3d'"),
        (lambda: bt.CSR(shielding_gap=-1.0), "shielding_gap = -1.0 m"),
        (lambda: bt.CSR(order=3), "CSR: order = 3 is not allowed; allowed: 1, 2"),
        (lambda: bt.CSR(order=0), "CSR: order = 0 is not allowed; allowed: 1, 2"),
        (lambda: bt.CSR(smoothing=-1), "smoothing = -1"),
    ],
)
def test_wrong_parameters_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_transient_model_needs_one_plane():
    line = bt.Line(
        [bt.Bend(0.5, angle=0.05), bt.PlaneRotation(angle=0.1), bt.Bend(0.5, angle=0.05)]
    )
    with pytest.raises(ValueError, match="turns the plane"):
        line.track(random_beam(100), collective=bt.CSR(model="transient"))
