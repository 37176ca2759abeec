"""Initial distributions: the requested second moments, and the shapes themselves."""

import math
import pickle

import betatron as bt
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

COORDINATES = ("x", "px", "y", "py", "t", "pt")
SHAPES = [bt.Gaussian, bt.Waterbag, bt.KV, bt.Kurth4D, bt.Kurth6D, bt.SemiGaussian, bt.Triangle]
REFERENCE = bt.Reference("proton", kinetic_energy=2e6)
N = 100_000

every_shape = pytest.mark.parametrize("shape", SHAPES)


def sample(distribution, n=N, seed=1, precision="double"):
    return bt.Beam(REFERENCE, distribution, n=n, seed=seed, precision=precision)


def assert_moments(beam, covariance, mean):
    """Means and covariance within six standard errors of a normal distribution: no shape here has a
    larger fourth moment."""
    scale = np.sqrt(np.diag(covariance))
    error = 6 / math.sqrt(len(beam))
    m = beam.moments()
    for i, name in enumerate(COORDINATES):
        assert m[f"mean_{name}"] == pytest.approx(mean[i], abs=error * scale[i] + 1e-15)
    deviation = np.abs(beam.covariance() - covariance)
    assert np.all(deviation <= math.sqrt(2) * error * np.outer(scale, scale) + 1e-30)


def random_covariance(seed):
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(6, 6)) * rng.uniform(1e-5, 1e-3, size=6)[:, None]
    return matrix @ matrix.T


# --- parameters -----------------------------------------------------------------------------------

PLANE = {"beta": st.floats(0.1, 100), "alpha": st.floats(-3, 3), "emittance": st.floats(1e-9, 1e-5)}


@every_shape
@given(
    planes=st.tuples(*[st.fixed_dictionaries(PLANE)] * 3),
    dispersion=st.tuples(*[st.floats(-1, 1)] * 4),
)
@settings(max_examples=20)
def test_twiss(shape, planes, dispersion):
    parameters = {
        f"{k}_{q}": v for q, plane in zip("xyt", planes, strict=True) for k, v in plane.items()
    }
    names = ("dispersion_x", "dispersion_px", "dispersion_y", "dispersion_py")
    made = shape.from_twiss(**parameters, **dict(zip(names, dispersion, strict=True)))
    expected = np.zeros((6, 6))
    for k, p in enumerate(planes):
        gamma = (1 + p["alpha"] ** 2) / p["beta"]
        block = p["emittance"] * np.array([[p["beta"], -p["alpha"]], [-p["alpha"], gamma]])
        expected[2 * k : 2 * k + 2, 2 * k : 2 * k + 2] = block
    transfer = np.eye(6)
    transfer[:4, 5] = -np.array(dispersion)
    expected = transfer @ expected @ transfer.T
    scale = np.sqrt(np.diag(expected))
    assert np.all(np.abs(made.covariance - expected) <= 1e-12 * np.outer(scale, scale))


@every_shape
def test_ellipse(shape):
    made = shape.from_ellipse(
        lambda_x=1e-3, lambda_px=2e-4, mu_xpx=0.6, lambda_y=2e-3, lambda_py=1e-4, mu_ypy=-0.5,
        lambda_t=3e-3, lambda_pt=1e-3,
    )  # fmt: skip
    cov = made.covariance
    assert cov[0, 0] == pytest.approx(1e-6 / 0.64)
    assert cov[1, 1] == pytest.approx(4e-8 / 0.64)
    assert cov[0, 1] == pytest.approx(-0.6 * 2e-7 / 0.64)
    assert cov[2, 3] == pytest.approx(0.5 * 2e-7 / 0.75)
    assert cov[4, 4] == pytest.approx(9e-6) and cov[4, 5] == 0


@every_shape
@pytest.mark.parametrize("seed", [1, 2])
def test_covariance_and_mean_of_a_sample(shape, seed):
    covariance = random_covariance(seed)
    mean = [1e-3, 2e-4, -3e-3, 1e-4, 5e-3, -1e-4]
    made = shape.from_covariance(covariance, mean=mean)
    assert np.allclose(made.covariance, covariance, rtol=1e-9, atol=1e-22)
    assert np.array_equal(made.mean, mean)
    assert_moments(sample(made, seed=seed), covariance, mean)


@every_shape
def test_single_precision_rounds_double(shape):
    made = shape.from_covariance(random_covariance(5))
    double, single = (sample(made, 1000, precision=p) for p in ("double", "single"))
    for name in COORDINATES:
        assert np.array_equal(single[name], double[name].astype(np.float32))


@every_shape
def test_a_beam_is_a_function_of_the_seed(shape):
    made = shape.from_covariance(random_covariance(6))
    beam = sample(made, 2000, seed=7)
    assert np.array_equal(sample(made, 2000, seed=7).array, beam.array)
    assert np.array_equal(sample(made, 100, seed=7).array, beam.array[:, :100])
    assert not np.any(sample(made, 2000, seed=8).array == beam.array)


@every_shape
def test_a_matrix_with_dispersion_is_the_explicit_dispersion(shape):
    plain = {"beta_x": 2, "emittance_x": 1e-8, "beta_y": 3, "alpha_y": 1, "emittance_y": 1e-8,
             "beta_t": 0.1, "alpha_t": 0.3, "emittance_t": 1e-6}  # fmt: skip
    explicit = shape.from_twiss(**plain, dispersion_x=0.5, dispersion_py=-0.1)
    implicit = shape.from_covariance(explicit.covariance)
    a, b = sample(explicit, 500).array, sample(implicit, 500).array
    assert np.allclose(a, b, rtol=0, atol=1e-9 * np.abs(a).max())


@every_shape
@pytest.mark.parametrize("n", [0, 1])
def test_few_particles(shape, n):
    beam = sample(shape.from_covariance(random_covariance(1)), n)
    assert len(beam) == n and np.all(np.isfinite(beam.array))


@every_shape
def test_no_width_is_a_point(shape):
    made = shape.from_covariance(np.zeros((6, 6)), mean=[1, 2, 3, 4, 5, 6])
    assert np.all(sample(made, 10).array == np.arange(1.0, 7)[:, None])


@every_shape
@pytest.mark.parametrize("cold", [(1, 3, 5), (5,), (1,), (3, 4), (0, 2), (2, 3)])
def test_a_coordinate_without_variance_takes_none_of_the_others(shape, cold):
    """x and y of a cold beam are those of a warm one: the correlations of a shape stay in its
    planes."""
    sigma = np.diag([2.0, 0.1, 2.0, 0.2, 3.0, 0.3])
    warm = sample(shape.from_covariance(sigma**2), 300).array
    sigma[cold, cold] = 0
    made = shape.from_covariance(sigma**2)
    assert np.allclose(made.covariance, sigma**2, rtol=1e-14, atol=0)
    z = sample(made, 300).array
    assert np.all(z[list(cold)] == 0)
    rest = [i for i in range(6) if i not in cold]
    assert np.allclose(z[rest], warm[rest], rtol=1e-14, atol=0)


@pytest.mark.parametrize("seed", range(4))
def test_coordinates_that_are_fully_correlated(seed):
    """A covariance of rank 3 (momenta are functions of positions) is met, and x, y, t of Kurth6D
    stay a ball."""
    random = np.random.default_rng(seed)
    chirp = random.normal(size=(3, 3))
    to = np.zeros((6, 3))
    to[[0, 2, 4]] = np.eye(3)
    to[[1, 3, 5]] = chirp
    made = bt.Kurth6D.from_covariance(to @ to.T)
    scale = np.sqrt(np.diag(to @ to.T))
    assert np.all(np.abs(made.covariance - to @ to.T) <= 1e-12 * np.outer(scale, scale))
    z = sample(made, 1000).array
    assert np.allclose(z[[1, 3, 5]], chirp @ z[[0, 2, 4]], rtol=0, atol=1e-6)


def test_kurth6d_without_momenta_is_round():
    x, _, y, _, t, _ = sample(bt.Kurth6D.from_covariance(np.diag([1.0, 0, 1, 0, 1, 0])), N).array
    expected = 25 * 3 / 105  # <x^2 y^2> in a ball of radius sqrt(5)
    for a, b in ((x, y), (y, t), (t, x)):
        deviation = np.mean(a**2 * b**2) - expected
        assert abs(deviation) < 6 * np.std(a**2 * b**2) / math.sqrt(N)


@every_shape
def test_pickle_and_repr(shape):
    made = shape.from_covariance(random_covariance(1))
    again = pickle.loads(pickle.dumps(made))
    assert type(again) is shape and np.array_equal(sample(again, 10).array, sample(made, 10).array)
    assert repr(made).startswith(shape.__name__ + "(sigma_x=")


# --- shapes ---------------------------------------------------------------------------------------


def normalised(shape, **cuts):
    return sample(shape.from_covariance(np.eye(6), **cuts), N).array


def assert_uniform(values, low, high):
    """Kolmogorov-Smirnov distance from the uniform distribution, and no value outside."""
    values = np.sort(values)
    assert low - 1e-9 <= values[0] and values[-1] <= high + 1e-9
    steps = np.arange(len(values)) / len(values)
    assert np.max(np.abs((values - low) / (high - low) - steps)) < 2.5 / math.sqrt(len(values))


def assert_normal(values):
    assert np.mean(values**4) == pytest.approx(3, abs=6 * math.sqrt(96 / len(values)))


def test_gaussian_shape():
    for values in normalised(bt.Gaussian):
        assert_normal(values)


def test_waterbag_is_a_uniform_ball():
    radius = np.linalg.norm(normalised(bt.Waterbag), axis=0)
    assert_uniform(radius**6, 0, 8**3)


def test_kv_is_a_sphere_and_a_uniform_disk():
    z = normalised(bt.KV)
    assert np.allclose(np.sum(z[:4] ** 2, axis=0), 4, rtol=1e-9)
    for i, j in ((0, 1), (2, 3), (0, 2), (1, 3)):
        assert_uniform(z[i] ** 2 + z[j] ** 2, 0, 4)
    assert_uniform(z[4], -math.sqrt(3), math.sqrt(3))
    assert_normal(z[5])


def test_kurth4d_is_a_uniform_disk():
    z = normalised(bt.Kurth4D)
    assert_uniform(z[0] ** 2 + z[2] ** 2, 0, 4)
    assert_uniform(z[4], -math.sqrt(3), math.sqrt(3))
    assert_normal(z[5])


def test_kurth6d_is_a_uniform_ball():
    z = normalised(bt.Kurth6D)
    assert_uniform(np.linalg.norm(z[[0, 2, 4]], axis=0) ** 3, 0, 5**1.5)


def test_semigaussian_is_a_uniform_cylinder():
    z = normalised(bt.SemiGaussian)
    assert_uniform(z[0] ** 2 + z[2] ** 2, 0, 4)
    assert_uniform(z[4], -math.sqrt(3), math.sqrt(3))
    for i in (1, 3, 5):
        assert_normal(z[i])


def test_triangle_has_its_peak_at_the_head():
    z = normalised(bt.Triangle)
    head, tail = -math.sqrt(2), 2 * math.sqrt(2)
    assert_uniform(((tail - z[4]) / (tail - head)) ** 2, 0, 1)
    assert_uniform(np.sum(z[:4] ** 2, axis=0) ** 2, 0, 36)
    assert_normal(z[5])


@pytest.mark.parametrize("cut", [0.5, 1.0, 2.0, 3.0])
def test_cuts_keep_the_rms(cut):
    z = normalised(bt.Gaussian, cut_x=cut, cut_t=cut)
    f = cut**2 / 2
    edge = cut / math.sqrt(1 - f * math.exp(-f) / (1 - math.exp(-f)))
    for q, p in ((0, 1), (4, 5)):
        assert np.max(np.hypot(z[q], z[p])) <= edge * (1 + 1e-12)
        assert np.max(np.hypot(z[q], z[p])) > 0.99 * edge
        assert np.mean(z[q] ** 2) == pytest.approx(1, abs=6 * math.sqrt(2 / N))
    assert np.max(np.hypot(z[2], z[3])) > 4


def test_no_cut():
    parameters = {
        "lambda_x": 1,
        "lambda_y": 1,
        "lambda_t": 1,
        "lambda_px": 1,
        "lambda_py": 1,
        "lambda_pt": 1,
    }
    plain = sample(bt.Gaussian.from_ellipse(**parameters), 100).array
    for none in (None, math.inf):
        made = bt.Gaussian.from_ellipse(**parameters, cut_x=none)
        assert np.array_equal(sample(made, 100).array, plain)


# --- in equilibrium with its own field ------------------------------------------------------------

PROTON = bt.Reference("proton", kinetic_energy=1e5)
BITHERMAL = {"k": 2 * math.pi, "kT": 36e-6, "kT_halo": 900e-6, "halo": 0.05}


def test_a_thermal_beam_without_charge_is_gaussian():
    beam = bt.Beam(PROTON, bt.Thermal(2.0, 1e-6), n=N, charge=0)
    sigma = {"x": 5e-4, "px": 1e-3, "y": 5e-4, "py": 1e-3,
             "t": 5e-4 / PROTON.beta_gamma, "pt": 1e-3 * PROTON.beta_gamma}  # fmt: skip
    for name, value in sigma.items():
        assert_normal(beam[name] / value)


def test_a_thermal_beam_knows_the_charge_of_the_beam():
    shape = bt.Thermal(**BITHERMAL, mean=[1e-3, 0, 0, 0, 0, 0])
    sizes = []
    for charge in (1e-12, 1e-10, 1e-9):
        profile = shape.equilibrium(PROTON, charge)
        beam = bt.Beam(PROTON, shape, n=20_000, charge=charge)
        m = beam.moments()
        assert m["mean_x"] == pytest.approx(1e-3, abs=5 * m["sigma_x"] / math.sqrt(20_000))
        assert m["sigma_x"] == pytest.approx(profile.sigma_position, rel=0.03)
        assert m["sigma_t"] * PROTON.beta_gamma == pytest.approx(profile.sigma_position, rel=0.03)
        assert m["sigma_py"] == pytest.approx(profile.sigma_momentum, rel=0.03)
        sizes.append(profile.sigma_position)
        r = np.linspace(0, profile.edge, 20_001)
        total = np.trapezoid(4 * np.pi * r**2 * profile.density(r), r)
        assert total == pytest.approx(1, rel=1e-6)
        assert np.all(np.diff(profile.density(r)) <= 0) and np.all(
            np.diff(profile.potential(r)) > 0
        )
    assert sizes == sorted(sizes)
    # without charge= the particles are real ones
    few = bt.Beam(PROTON, shape, n=100)
    assert few.moments()["sigma_x"] < sizes[0] * 1.3


def test_pickle_and_repr_of_a_thermal_beam():
    made = bt.Thermal(**BITHERMAL)
    again = pickle.loads(pickle.dumps(made))
    first, second = (bt.Beam(PROTON, s, n=10, charge=1e-10) for s in (made, again))
    assert np.array_equal(first.array, second.array)
    assert repr(made) == "Thermal(k=6.283, kT=3.6e-05, kT_halo=0.0009, halo=0.05)"
    with pytest.raises(AttributeError, match="equilibrium"):
        _ = made.covariance


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"k": 0}, ValueError, r"Thermal: k = 0.0 must be finite and > 0"),
        ({"kT": math.nan}, ValueError, "Thermal: kT = nan"),
        ({"kT_halo": -1}, ValueError, "Thermal: kT_halo = -1.0 must be finite and > 0"),
        ({"kT_halo": None}, TypeError, "Thermal: a halo of 0.05 needs kT_halo"),
        ({"halo": 1}, ValueError, r"Thermal: halo = 1.0 must be >= 0 and < 1"),
        ({"halo": "a"}, TypeError, "Thermal: halo must be a number"),
        ({"mean": [0, 1]}, ValueError, "Thermal: mean has shape"),
    ],
)
def test_thermal_beams_that_are_refused(changed, error, message):
    with pytest.raises(error, match=message):
        bt.Thermal(**BITHERMAL | changed)


def test_a_thermal_beam_has_no_other_forms():
    with pytest.raises(TypeError, match="use Thermal"):
        bt.Thermal.from_covariance(np.eye(6))
    with pytest.raises(RuntimeError, match="no equilibrium found for k = 1 1/m, kT = 1e-12"):
        bt.Thermal(1.0, 1e-12).equilibrium(PROTON, 1.0)
