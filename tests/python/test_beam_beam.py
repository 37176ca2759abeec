"""Beam-beam kicks against closed forms, another code's figures, and the laws of Hamiltonian
motion."""

import betatron as bt
import numpy as np
import pytest

E = 1.602176634e-19
PROTON = bt.Reference("proton", momentum=7e12)
N = 1.15e11
MARKER = bt.Marker(name="ip")
LINE = bt.Line([MARKER])
RADIUS = 1.5346983e-18  # of the proton


def beam(coordinates, ref=PROTON, precision=np.float64, charge=1e-12):
    c = np.atleast_2d(np.asarray(coordinates, dtype=precision))
    names = ("x", "px", "y", "py", "t", "pt")
    return bt.Beam.from_arrays(
        ref, charge=charge, **{k: c[:, i].copy() for i, k in enumerate(names)}
    )


def kicked(coordinates, **options):
    b = beam(coordinates)
    LINE.track(b, collective=bt.BeamBeam("ip", N * E, **options))
    return np.array([b[k] for k in ("x", "px", "y", "py", "t", "pt")]).T


def test_round_beam_in_closed_form():
    sigma = 1.7e-5
    r = np.array([1e-9, 1e-6, 1e-5, 3e-5, 1e-4, 1e-3])
    start = np.zeros((len(r), 6))
    start[:, 0], start[:, 2] = 0.6 * r, 0.8 * r
    end = kicked(start, sigma_x=sigma, sigma_y=sigma)
    kick = 2 * N * RADIUS / PROTON.gamma / r * -np.expm1(-0.5 * (r / sigma) ** 2)
    assert np.allclose(end[:, 1], 0.6 * kick, rtol=1e-7, atol=0)  # like charges: outwards
    assert np.allclose(end[:, 3], 0.8 * kick, rtol=1e-7, atol=0)


@pytest.mark.parametrize(
    ("sx", "sy"), [(1.7e-5, 1.7e-5), (1e-4, 1e-6), (1e-6, 3e-5), (1e-5, 1.0001e-5)]
)
def test_tune_shift_is_the_beam_beam_parameter(sx, sy):
    # xi_x = N r beta_x/(2 pi gamma sx (sx + sy)), with a small part of the charge so that it is
    # linear
    beta_x, beta_y = 0.5, 0.3
    mu = 2 * np.pi * np.array([0.31, 0.22])
    matrix = np.eye(6)
    for k, (beta, phase) in enumerate(zip((beta_x, beta_y), mu, strict=True)):
        c, s = np.cos(phase), np.sin(phase)
        matrix[2 * k : 2 * k + 2, 2 * k : 2 * k + 2] = [[c, beta * s], [-s / beta, c]]
    ring = bt.Line([MARKER, bt.LinearMap(matrix)])
    charge = -1e-3 * N * E  # unlike charges focus
    step = 1e-6 * min(sx, sy)
    columns = []
    for k in range(4):
        z = np.zeros(6)
        z[k] = step
        b = beam(z)
        ring.track(b, collective=bt.BeamBeam("ip", charge, sx, sy))
        columns.append(np.array([b.x[0], b.px[0], b.y[0], b.py[0]]) / step)
    m = np.array(columns).T
    for k, (beta, size) in enumerate(((beta_x, sx), (beta_y, sy))):
        xi = 1e-3 * N * RADIUS * beta / (2 * np.pi * PROTON.gamma * size * (sx + sy))
        tune = np.arccos(0.5 * np.trace(m[2 * k : 2 * k + 2, 2 * k : 2 * k + 2])) / (2 * np.pi)
        exact = np.arccos(np.cos(mu[k]) - 2 * np.pi * xi * np.sin(mu[k])) / (2 * np.pi)
        assert tune - mu[k] / (2 * np.pi) == pytest.approx(exact - mu[k] / (2 * np.pi), rel=1e-5)


def test_signs_of_charges():
    start = [[1e-5, 0, 0, 0, 0, 0]]
    for species, charge, outwards in (
        ("proton", 1e-9, True),
        ("proton", -1e-9, False),
        ("electron", 1e-9, False),
        ("electron", -1e-9, True),
    ):
        b = beam(start, bt.Reference(species, kinetic_energy=1e10))
        LINE.track(b, collective=bt.BeamBeam("ip", charge, 1e-5, 2e-5))
        assert (b.px[0] > 0) == outwards


def test_slow_beams():
    # the fields of a line of charge act for as long as the beams pass each other
    ref = bt.Reference("proton", beta_gamma=1.0)
    r, sigma = 1e-3, 1e-5
    b = beam([[r, 0, 0, 0, 0, 0]], ref)
    LINE.track(b, collective=bt.BeamBeam("ip", 1e-9, sigma, sigma, other_beta=0.5))
    field = 1e-9 / (2 * np.pi * 8.8541878188e-12) / r
    exact = field * (1 + 0.5 * ref.beta) / (0.5 + ref.beta) / ref.momentum
    assert b.px[0] == pytest.approx(exact, rel=1e-9)


#: xfields 0.27.5, BeamBeamBiGaussian3D with 11 slices: coordinates of two particles, then for three
#: cases half of the crossing angle, its plane, and the changes of px, py and -pt
XFIELDS = {
    "start": [
        [
            -1.955373457835069e-05,
            -1.863616604922144e-05,
            -5.2149170764548814e-05,
            -1.1838215329100153e-05,
            0.07421918945720975,
            2.2472387647853864e-05,
        ],
        [
            4.45894569756079e-06,
            -3.6296176795728644e-05,
            -1.5432279027973016e-05,
            -1.619782400158192e-05,
            -0.181739294258222,
            1.0334338626072359e-05,
        ],
    ],
    "hourglass": (
        0.0,
        0.0,
        [
            [-2.642424849024131e-07, -7.863180700483208e-07, 7.511763858370412e-12],
            [7.263534562499654e-08, -1.0629254456198777e-06, 5.5892015340497196e-11],
        ],
    ),
    "crossing": (
        0.00015,
        0.0,
        [
            [-3.485933589220015e-07, -6.758820240453076e-07, -4.4803033197760456e-11],
            [8.895005735768159e-07, -7.121751173904974e-07, 1.4105382030138957e-10],
        ],
    ),
    "large and skew": (
        0.005,
        0.3,
        [
            [-3.813020417262403e-08, -1.3024787077343875e-07, -3.7346795423134536e-10],
            [6.556499712973647e-08, 1.7870265552120105e-08, 3.3826227402268603e-10],
        ],
    ),
}


SIX = {
    "sigma_x": 1.7e-5,
    "sigma_y": 1.2e-5,
    "sigma_t": 0.075,
    "beta_x": 0.15,
    "beta_y": 0.1,
}


@pytest.mark.parametrize("particle", [0, 1])
@pytest.mark.parametrize("case", ["hourglass", "crossing", "large and skew"])
def test_six_dimensions_are_those_of_xfields(particle, case):
    angle, plane, changes = XFIELDS[case]
    start = np.array(XFIELDS["start"][particle])
    end = kicked(start, crossing_angle=2 * angle, crossing_plane=plane, **SIX)[0]
    seen = np.array([end[1] - start[1], end[3] - start[3], -(end[5] - start[5])])
    assert np.allclose(seen, changes[particle], rtol=3e-6, atol=1e-16)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"alpha_x": 0.7, "alpha_y": -0.4},
        {"crossing_angle": 0.04, "crossing_plane": 0.4, "offset_x": 1e-5},
        {"sigma_y": 1.69e-5},
        {"sigma_y": 1e-6},
    ],
)
def test_the_map_is_symplectic(options):
    given = {**SIX, "slices": 5, **options}
    # in units in which all coordinates are of order 1
    scale = np.array([1e-5, 1e-4, 1e-5, 1e-4, 1e-2, 1e-4])
    s = np.kron(np.eye(3), np.array([[0.0, 1.0], [-1.0, 0.0]]))
    area = np.diag(scale) @ s @ np.diag(scale)
    rng = np.random.default_rng(3)
    for _ in range(4):
        z = scale * rng.normal(size=6)
        h = 1e-3
        points = [z + sign * h * scale * np.eye(6)[k] for k in range(6) for sign in (2, 1, -1, -2)]
        out = kicked(points, **given).reshape(6, 4, 6)
        jacobian = ((8 * (out[:, 1] - out[:, 2]) - (out[:, 0] - out[:, 3])) / (12 * h)).T
        defect = jacobian.T @ s @ jacobian - area
        assert np.abs(defect).max() < 2e-7 * np.abs(area).max()


def test_a_short_bunch_in_six_dimensions_is_the_thin_lens():
    rng = np.random.default_rng(1)
    start = rng.normal(size=(50, 6)) * [2e-5, 1e-6, 2e-5, 1e-6, 1e-6, 1e-5]
    thin = kicked(start, sigma_x=1.7e-5, sigma_y=1.2e-5)
    long = kicked(start, sigma_x=1.7e-5, sigma_y=1.2e-5, sigma_t=1e-6, slices=3)
    assert np.abs(thin - long)[:, [1, 3]].max() < 1e-5 * np.abs(thin - start)[:, [1, 3]].max()


@pytest.mark.parametrize("precision", [np.float64, np.float32])
def test_threads_do_not_matter_and_a_lens_goes_back(precision):
    rng = np.random.default_rng(1)
    start = rng.normal(size=(40_000, 6)) * [2e-5, 1e-6, 2e-5, 1e-6, 1e-2, 1e-4]
    for options in (SIX, {"sigma_x": 1e-5, "sigma_y": 1e-6}):
        results = []
        for threads in (1, 3):
            b = beam(start, precision=precision)
            LINE.track(b, threads=threads, collective=bt.BeamBeam("ip", N * E, **options))
            results.append(b.array.copy())
        assert np.array_equal(*results)
    before = beam(start, precision=precision).array
    LINE.track(b, backward=True, collective=bt.BeamBeam("ip", N * E, **options))
    assert np.abs(b.array - before).max() < (1e-20 if precision is np.float64 else 1e-11)
    with pytest.raises(ValueError, match="cannot be tracked backward"):
        LINE.track(b, backward=True, collective=bt.BeamBeam("ip", N * E, **SIX))


def gaussian_bunch(seed, sizes, ref=PROTON, charge=N * E, n=20_000):
    rng = np.random.default_rng(seed)
    return beam(rng.normal(size=(n, 6)) * sizes, ref, charge=charge)


SIZES = np.array([1.7e-5, 1.1e-4, 1.2e-5, 1.2e-4, 0.075, 1e-4])


def test_strong_strong_is_weak_strong_for_a_weak_beam():
    strong = gaussian_bunch(1, SIZES, n=100_000)
    weak = gaussian_bunch(2, SIZES, charge=1e-20)
    other = weak.copy()
    still = strong.array.copy()
    bt.collide(strong, weak, slices=11, crossing_angle=3e-4)
    LINE.track(
        other,
        collective=bt.BeamBeam(
            "ip",
            N * E,
            1.7e-5,
            1.2e-5,
            0.075,
            11,
            beta_x=1.7e-5 / 1.1e-4,
            beta_y=0.1,
            crossing_angle=3e-4,
        ),
    )
    assert np.abs(strong.array - still).max() < 1e-12
    for column in (1, 3):
        kick = other.array[column] - gaussian_bunch(2, SIZES).array[column]
        difference = weak.array[column] - other.array[column]
        assert np.std(difference) < 0.02 * np.std(kick)


def test_strong_strong_exchanges_momentum():
    a = gaussian_bunch(1, SIZES)
    b = gaussian_bunch(2, SIZES)
    a.x[:] += 1e-5
    before = [(np.mean(c.px), np.mean(c.py)) for c in (a, b)]
    bt.collide(a, b, slices=1)
    change = [
        (np.mean(c.px) - p[0], np.mean(c.py) - p[1]) for c, p in zip((a, b), before, strict=True)
    ]
    assert change[0][0] > 0 > change[1][0]
    # a soft Gaussian conserves momentum as well as the bunches are Gaussian
    assert change[0][0] == pytest.approx(-change[1][0], rel=0.03)


def test_strong_strong_does_not_depend_on_threads():
    results = []
    for threads in (1, 3):
        a, b = gaussian_bunch(1, SIZES), gaussian_bunch(2, SIZES)
        bt.collide(a, b, slices=3, threads=threads)
        results.append(np.concatenate([a.array, b.array]))
    assert np.array_equal(*results)


def test_the_grid_agrees_with_the_gaussian():
    kicks = []
    for cells in (None, (128, 128)):
        a, b = gaussian_bunch(1, SIZES, n=100_000), gaussian_bunch(2, SIZES, n=100_000)
        before = a.array.copy()
        bt.collide(a, b, slices=3, cells=cells)
        kicks.append(a.array - before)
    for column in (1, 3):
        # slices of a third of a bunch change their size while they pass, and are not quite Gaussian
        assert np.std(kicks[1][column] - kicks[0][column]) < 0.06 * np.std(kicks[0][column])


def test_the_grid_conserves_momentum():
    a, b = gaussian_bunch(1, SIZES), gaussian_bunch(2, SIZES)
    a.x[:] += 3e-5
    before = np.mean(a.px), np.mean(b.px)
    bt.collide(a, b, slices=1, cells=(64, 64))
    change = np.mean(a.px) - before[0], np.mean(b.px) - before[1]
    assert change[0] == pytest.approx(-change[1], rel=1e-9)


def test_the_grid_does_not_depend_on_threads():
    results = []
    for threads in (1, 3):
        a, b = gaussian_bunch(1, SIZES, n=60_000), gaussian_bunch(2, SIZES, n=60_000)
        bt.collide(a, b, slices=2, cells=(32, 48), crossing_angle=1e-3, threads=threads)
        results.append(np.concatenate([a.array, b.array]))
    assert np.array_equal(*results)
    with pytest.raises(ValueError, match=r"cells = \(4, 64\)"):
        bt.collide(a, b, cells=(4, 64))


def test_head_on_beams_of_opposite_charge_pinch():
    electrons = bt.Reference("electron", kinetic_energy=5e9)
    positrons = bt.Reference("positron", kinetic_energy=5e9)
    sizes = SIZES * [1, 1, 1, 1, 0.01, 1]
    a, b = gaussian_bunch(1, sizes, electrons, 1e-9), gaussian_bunch(2, sizes, positrons, 1e-9)
    bt.collide(a, b, slices=5)
    for c in (a, b):
        assert np.mean(np.asarray(c.x) * np.asarray(c.px)) < 0


def test_degenerate_bunches():
    one = beam([[1e-5, 0, 0, 0, 0, 0]])
    with pytest.raises(ValueError, match="slice 0 of the second beam has rms sizes of 0 m"):
        bt.collide(gaussian_bunch(1, SIZES, n=100), one, slices=1)
    empty = beam(np.zeros((0, 6)), charge=None)
    bt.collide(empty, one)
    with pytest.raises(ValueError, match="two different beams"):
        bt.collide(one, one)
    LINE.track(empty, collective=bt.BeamBeam("ip", 1e-9, 1e-5, 1e-5))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sigma_x": 0.0}, "sigma_x = 0 is not allowed"),
        ({"sigma_y": float("inf")}, "sigma_y = inf"),
        ({"sigma_t": -1.0}, "sigma_t = -1.0 m"),
        ({"beta_x": 0.0}, "beta_x = 0.0 m"),
        ({"sigma_t": 0.1, "slices": 0}, "slices = 0"),
        (
            {"crossing_angle": 0.1},
            "half of the crossing angle = 0.05 is not allowed; allowed: 0 without",
        ),
        ({"sigma_t": 0.1, "crossing_angle": 2.0}, "half of the crossing angle = 1"),
        ({"other_beta": 1.5}, "other_beta = 1.5"),
    ],
)
def test_wrong_parameters_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        bt.BeamBeam("ip", 1e-9, **{"sigma_x": 1e-5, "sigma_y": 1e-5, **options})
