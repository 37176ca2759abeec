"""Tracking as a JAX function."""

import betatron as bt
import numpy as np
import pytest

jax = pytest.importorskip("jax")

import jax.numpy as jnp  # noqa: E402
from betatron.jax import track  # noqa: E402
from betatron.losses import of_particles  # noqa: E402

REF = bt.Reference("electron", kinetic_energy=100e6)
SIZE = np.array([1e-3, 1e-3, 1e-3, 1e-3, 1e-3, 1e-2])[:, None]


@pytest.fixture(autouse=True)
def double_precision():
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)


@pytest.fixture
def line():
    return bt.Line(
        [
            bt.Quadrupole(0.2, k1=3.0, name="q"),
            bt.RFCavity(0.3, voltage=2e6, frequency=1.3e9, phase=-0.4, name="rf"),
            bt.Drift(0.5, model="exact"),
            bt.Multipole(0, knl=[0, 0.1, 30.0], name="m"),
        ]
    )


def beam(n=20, seed=1):
    return np.random.default_rng(seed).normal(size=(6, n)) * SIZE


def loss(line, z, k1, phase, sextupole, energy):
    parameters = {("q", "k1"): k1, ("rf", "phase"): phase, ("m", "knl[2]"): sextupole}
    out = track(line, z, REF, parameters, kinetic_energy=energy)
    return jnp.sum((out / SIZE) ** 2) + jnp.sum(jnp.sin(out[0] / SIZE[0]))


@pytest.mark.parametrize("jit", [False, True])
def test_gradient_is_that_of_differences(line, jit):
    z = beam()
    start = (3.0, -0.4, 30.0, 1e8)

    def f(*arguments):
        return loss(line, *arguments)

    gradient = jax.grad(f, argnums=(0, 1, 2, 3, 4))
    if jit:
        f, gradient = jax.jit(f), jax.jit(gradient)
    g = gradient(z, *start)
    assert line["q"].k1 == 3.0
    for i, h in enumerate((1e-3, 1e-4, 1e-1, 1e4)):
        up, down = list(start), list(start)
        up[i] += h
        down[i] -= h
        assert float(g[1 + i]) == pytest.approx(float(f(z, *up) - f(z, *down)) / (2 * h), rel=1e-5)
    step = np.random.default_rng(2).normal(size=z.shape) * SIZE * 1e-4
    difference = (f(z + step, *start) - f(z - step, *start)) / 2
    assert float(jnp.sum(g[0] * step)) == pytest.approx(float(difference), rel=1e-6)


def test_same_as_the_native_gradient(line):
    z = beam(100)
    by_k1 = jax.jit(jax.grad(lambda k: jnp.sum(track(line, z, REF, {("q", "k1"): k})[0] ** 2)))(3.0)

    def square(final):
        slope = np.zeros_like(final)
        slope[0] = 2 * final[0]
        return float(np.sum(final[0] ** 2)), slope

    columns = dict(zip(bt.beam.COORDINATES, z, strict=True))
    native = line.gradient(bt.Beam.from_arrays(REF, **columns), of_particles(square), "k1")
    assert float(by_k1) == pytest.approx(native["q", "k1"], rel=1e-13)


@pytest.mark.parametrize(
    "options",
    [
        {"space_charge": bt.SpaceCharge3D(cells=(16, 16, 16)), "weight": 1e7},
        {"radiation": bt.Radiation(), "turns": 2},
        {"boundary": "periodic", "bucket_length": 1e-3},
    ],
    ids=["space charge", "radiation", "bucket"],
)
def test_what_happens_on_the_way_is_that_of_the_native_gradient(line, options):
    z = beam(50)
    weight = np.full(50, options.get("weight", 1.0))

    def sizes(k1, z):
        out = track(line, z, REF, {("q", "k1"): k1}, **options | {"weight": weight})
        return jnp.sum((out / SIZE) ** 2)

    by_k1, by_z = jax.jit(jax.grad(sizes, argnums=(0, 1)))(3.0, z)
    columns = dict(zip(bt.beam.COORDINATES, z, strict=True))
    sums = of_particles(lambda z: (np.sum((z / SIZE) ** 2), 2 * z / SIZE**2))
    native = line.gradient(
        bt.Beam.from_arrays(REF, **columns, weight=weight),
        sums,
        "k1",
        initial=True,
        **{name: value for name, value in options.items() if name != "weight"},
    )
    assert float(sizes(3.0, z)) == pytest.approx(native.value, rel=1e-13)
    plain = jax.grad(lambda k: jnp.sum((track(line, z, REF, {("q", "k1"): k}) / SIZE) ** 2))(3.0)
    assert abs(float(by_k1) - float(plain)) > 1e-9 * abs(float(plain))
    assert float(by_k1) == pytest.approx(native["q", "k1"], rel=1e-12)
    assert np.allclose(by_z, native.initial, rtol=1e-12, atol=1e-12 * np.abs(native.initial).max())


def test_single_precision_values_and_lost_particles(line):
    z = jnp.asarray(beam(), dtype=jnp.float32)
    out, pull = jax.vjp(lambda z: track(line, z, REF), z)
    assert out.dtype == jnp.float32 and pull(out)[0].dtype == jnp.float32
    narrow = bt.Line([bt.Aperture(1e-3, 1e-3), *line.elements])
    out = track(narrow, beam(200), REF, mark_lost=True)
    assert 0 < int(jnp.sum(jnp.isnan(out[0]))) < 200


def test_refusals(line):
    z = beam()
    with pytest.raises(ValueError, match="shape"):
        track(line, z[:5], REF)
    with pytest.raises(TypeError, match="float"):
        track(line, np.zeros((6, 3), dtype=int), REF)
    with pytest.raises(TypeError, match="one number"):
        track(line, z, REF, {("q", "k1"): jnp.ones(2)})
    with pytest.raises(KeyError):
        track(line, z, REF, {("q", "k7"): 1.0})
    with pytest.raises(ValueError, match="reverse pass"):
        track(line, z, REF, strategy="forward")
    with pytest.raises(TypeError, match="space charge"):
        track(line, z, REF, space_charge=3)
