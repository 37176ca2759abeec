"""Gradients of beams that radiate, that have spins, and that live in a bucket: central differences of tracking."""

from __future__ import annotations

import re
from collections.abc import Callable

import betatron as bt
import numpy as np
import pytest
from betatron import losses
from betatron.gradient import Knob, knobs, turned
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from test_physics import MODELS, SYMPLECTIC, draw, element

COORDINATES = ("x", "px", "y", "py", "t", "pt")
SIZE = np.array([1e-3, 1e-4, 1e-3, 1e-4, 1e-3, 1e-3])
# central differences of order 8
WEIGHTS = (4 / 5, -1 / 5, 4 / 105, -1 / 280)


def columns(beam: bt.Beam) -> np.ndarray:
    return np.array([getattr(beam, c) for c in COORDINATES], dtype=float)


def make_beam(ref: bt.Reference, z: np.ndarray, **options) -> bt.Beam:
    return bt.Beam.from_arrays(
        ref.copy(), **dict(zip(COORDINATES, z.copy(), strict=True)), **options
    )


def particles(rng: np.random.Generator, n: int) -> np.ndarray:
    return SIZE[:, None] * rng.uniform(-1, 1, (6, n))


def random_line(rng: np.random.Generator) -> bt.Line:
    """Every kind of radiating field in some order, displaced, in random models, slices and steps."""

    def how() -> dict:
        return {
            "model": rng.choice(["linear", "paraxial", "exact"]),
            "slices": int(rng.integers(1, 3)),
            "steps": int(rng.integers(1, 4)),
            "dx": 1e-4 * rng.uniform(-1, 1),
            "roll": 0.1 * rng.uniform(-1, 1),
        }

    u = rng.uniform
    elements = [
        bt.Bend(u(0.5, 1.5), angle=u(-0.2, 0.2), name="bend", **how()),
        bt.Bend(u(0.5, 1.5), angle=u(0.05, 0.2), k1=u(-1, 1), name="gradient", **how()),
        bt.Quadrupole(u(0.2, 0.5), k1=u(-2, 2), name="quad", **how()),
        bt.Sextupole(u(0.1, 0.3), k2=u(-5, 5), name="sext", **how()),
        bt.Solenoid(u(0.3, 0.6), ks=u(-1, 1), name="sol", **how()),
        bt.Undulator(u(0.5, 1.0), period=0.05, strength=u(5, 20), sharing=u(0, 0.5), name="wiggler",
                     slices=2, steps=2),
        bt.RFCavity(u(0.2, 0.5), voltage=u(1e6, 5e6), frequency=5e8, phase=u(-1, 1), name="rf"),
        bt.Drift(u(0.2, 0.5), name="gap"),
    ]  # fmt: skip
    return bt.Line([elements[i] for i in rng.permutation(len(elements))])


def tracked(line: bt.Line, ref: bt.Reference, z: np.ndarray, **options) -> np.ndarray:
    beam = make_beam(ref, z)
    line.track(beam, progress=False, **options)
    return columns(beam)


def slope(function, at: float, scale: float) -> float:
    step = scale * 2.0**-7
    return sum(
        w * (function(at + k * step) - function(at - k * step))
        for k, w in enumerate(WEIGHTS, start=1)
    ) / step  # fmt: skip


def slope_by(knob: Knob, function: Callable[[], float], scale: float) -> float:
    def at(value: float) -> float:
        with turned([knob], [value]):
            return function()

    return slope(at, knob.value, scale)


def goal(covector: np.ndarray) -> losses.Loss:
    return losses.of_particles(lambda z: ((covector * z).sum(), covector))


MEAN, QUANTUM = bt.Radiation(), bt.Radiation("quantum", seed=3)


@pytest.mark.parametrize(
    ("radiation", "turns"),
    [
        (MEAN, 1),
        (bt.Radiation(order=3), 1),
        (QUANTUM, 1),
        (bt.Radiation("quantum", order=2), 2),
        (bt.Radiation("quantum", reference=True), 1),
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_it_is_the_central_difference(radiation: bt.Radiation, turns: int, seed: int) -> None:
    rng = np.random.default_rng([seed, turns])
    line = random_line(rng)
    ref = bt.Reference("electron", total_energy=10e9)
    z = particles(rng, 21)
    covector = rng.uniform(-1, 1, z.shape) / SIZE[:, None]
    options = {"radiation": radiation, "turns": turns}
    chosen = [
        k
        for k in knobs(line, "all")
        if k.name not in ("dy", "dz", "pitch", "yaw", "hgap", "sharing")
    ]
    g = line.gradient(
        make_beam(ref, z), goal(covector), chosen, initial=True, reference_energy=True, **options
    )
    assert g.strategy == "checkpoint" and g.lost == []
    quiet = line.gradient(make_beam(ref, z), goal(covector), chosen, turns=turns)
    assert g.value == pytest.approx((covector * tracked(line, ref, z, **options)).sum(), rel=1e-12)

    def at(line: bt.Line = line, ref: bt.Reference = ref, z: np.ndarray = z) -> float:
        return float((covector * tracked(line, ref, z, **options)).sum())

    sizes = {
        "voltage": 1e6,
        "frequency": 1e7,
        "length": 0.1,
        "angle": 0.1,
        "period": 0.01,
        "dx": 1e-4,
        "phase": 1.0,
    }
    radiated = 0
    for number, knob in enumerate(chosen):
        value = knob.value
        scale = max(abs(value) / 4, sizes.get(knob.name, 0.1)) / turns
        expected = slope_by(knob, at, scale)
        size = max(abs(expected), abs(at()) / max(abs(value), scale))
        assert g.derivatives[number] == pytest.approx(expected, abs=1e-8 * size), knob
        radiated += abs(quiet.derivatives[number] - expected) > 1e-4 * abs(expected)
    assert radiated > 5  # it is not the gradient of a beam that does not radiate

    for c in range(6):
        direction = np.zeros_like(z)
        direction[c] = SIZE[c] * rng.uniform(-1, 1, z.shape[1])
        expected = slope(lambda x, d=direction: at(z=z + x * d), 0.0, 0.5)
        assert (g.initial * direction).sum() == pytest.approx(
            expected, rel=1e-8, abs=1e-9 * abs(at())
        )

    def at_energy(energy: float) -> float:
        return at(ref=bt.Reference("electron", kinetic_energy=energy))

    kinetic = ref.kinetic_energy
    expected = slope(at_energy, kinetic, kinetic / 4)
    assert g.reference_energy == pytest.approx(expected, rel=1e-8, abs=1e-8 * abs(at()) / kinetic)


@pytest.mark.parametrize("kind", [k for k in SYMPLECTIC if k != "ConstantFocusing"])
@settings(max_examples=3, phases=[Phase.explicit, Phase.generate])
@given(data=st.data(), model=st.sampled_from(MODELS), reference=st.booleans())
def test_every_kind(kind: str, data: st.DataObject, model: str, reference: bool) -> None:
    """Mean losses, which are smooth everywhere, by every parameter. (ConstantFocusing is not, with or without.)"""
    ref = bt.Reference("electron", total_energy=5e9)
    e = element(kind, model, draw(data, kind, ref), dx=1e-4, roll=0.05)
    line = bt.Line([bt.Drift(0.05), e, bt.Drift(0.1)])
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    z = 0.5 * particles(rng, 9)
    covector = rng.uniform(-1, 1, z.shape) / SIZE[:, None]
    options = {"radiation": bt.Radiation(reference=reference)}
    chosen = [k for k in knobs(line, "all") if k.element is e]
    try:
        g = line.gradient(make_beam(ref, z), goal(covector), chosen, initial=True, **options)
    except ValueError as error:
        assert re.search("stops|cannot be differentiated|allowed", str(error))
        return

    def at(z: np.ndarray = z) -> float:
        return float((covector * tracked(line, ref, z, **options)).sum())

    size = np.abs(covector * tracked(line, ref, z, **options)).sum()
    direction = SIZE[:, None] * rng.uniform(-0.1, 0.1, z.shape)
    expected = slope(lambda x: at(z + x * direction), 0.0, 1.0)
    assert (g.initial * direction).sum() == pytest.approx(expected, abs=1e-9 * size)
    sizes = {"pitch": 1e-3, "yaw": 1e-3, "dx": 1e-4, "dy": 1e-4, "dz": 1e-4}
    for number, knob in enumerate(chosen):
        value = knob.value
        scale = max(abs(value) / 8, sizes.get(knob.name, 1e-2))
        try:
            expected = slope_by(knob, at, scale)
        except ValueError:  # a step leaves what is allowed
            continue
        bound = 1e-8 * max(abs(expected), size / max(abs(value), scale))
        assert g.derivatives[number] == pytest.approx(expected, abs=bound), knob


@pytest.mark.parametrize("radiation", [MEAN, QUANTUM])
def test_single_precision(radiation: bt.Radiation) -> None:
    rng = np.random.default_rng(7)
    line = random_line(rng)
    ref = bt.Reference("electron", total_energy=10e9)
    z = particles(rng, 500).astype(np.float32)
    covector = (rng.uniform(-1, 1, z.shape) / SIZE[:, None]).astype(np.float32)
    single, double = (
        line.gradient(
            make_beam(ref, z.astype(kind)), goal(covector.astype(kind)), ["k1", "angle", "ks"],
            initial=True, radiation=radiation,
        )
        for kind in (np.float32, np.float64)
    )  # fmt: skip
    assert single.initial.dtype == np.float32
    assert np.allclose(single.derivatives, double.derivatives, rtol=1e-3)
    size = np.abs(double.initial).max(axis=1, keepdims=True)
    assert np.all(np.abs(single.initial - double.initial) < 2e-3 * size)


def test_same_bits_for_any_number_of_threads_and_moments_on_the_way() -> None:
    rng = np.random.default_rng(5)
    line = random_line(rng)
    ref = bt.Reference("electron", total_energy=8e9)
    z = particles(rng, 3000)
    loss = losses.beam_size("x", 1e-4, at="quad") + losses.energy_spread() + losses.emittance("y")
    results = [
        line.gradient(make_beam(ref, z), loss, "all", radiation=QUANTUM, turns=2, threads=n)
        for n in (1, 3)
    ]
    assert np.array_equal(results[0].derivatives, results[1].derivatives)
    knob = next(k for k in results[0].knobs if k.element.name == "bend" and k.name == "angle")

    def at(x: float) -> float:
        value, knob.value = knob.value, x
        try:
            return line.gradient(make_beam(ref, z), loss, [], radiation=QUANTUM, turns=2).value
        finally:
            knob.value = value

    expected = slope(at, knob.value, 0.02)
    assert results[0]["bend", "angle"] == pytest.approx(expected, rel=1e-7)


def test_lost_by_radiating_everything() -> None:
    """They count where they were, and do not disturb the others."""
    ref = bt.Reference("electron", total_energy=50e9)
    line = bt.Line([bt.Drift(0.1), bt.Quadrupole(1.0, k1=20.0, steps=2), bt.Drift(0.5)])
    rng = np.random.default_rng(2)
    z = particles(rng, 700) * 0.1
    z[0, ::50] = 1.0  # in a field that takes all
    covector = rng.uniform(-1, 1, z.shape)
    g = line.gradient(make_beam(ref, z), goal(covector), "k1", initial=True, radiation=MEAN)
    beam = make_beam(ref, z)
    line.track(beam, progress=False, radiation=MEAN)
    assert g.lost == list(range(0, 700, 50)) and beam.lost.shape[0] == 14
    assert np.all(g.initial[:, ::50] == 0) and np.all(np.isfinite(g.initial))
    rest = np.delete(np.arange(700), np.arange(0, 700, 50))
    alone = line.gradient(
        make_beam(ref, z[:, rest]), goal(covector[:, rest]), "k1", initial=True, radiation=MEAN
    )
    assert g.derivatives == pytest.approx(alone.derivatives, rel=1e-12)
    assert np.allclose(g.initial[:, rest], alone.initial, rtol=1e-12)


def test_memory_does_not_grow_with_the_line() -> None:
    ref = bt.Reference("electron", total_energy=3e9)
    z = particles(np.random.default_rng(1), 1000)
    cell = [bt.Bend(0.5, angle=0.01), bt.Quadrupole(0.2, k1=0.5), bt.Drift(0.3),
            bt.Quadrupole(0.2, k1=-0.5)]  # fmt: skip
    memory = {
        line.gradient(make_beam(ref, z), losses.beam_size("x"), radiation=QUANTUM).memory
        for line in (bt.Line(n * cell) for n in (1, 20))
    }
    assert len(memory) == 1


def test_with_collective_kicks() -> None:
    rng = np.random.default_rng(11)
    ref = bt.Reference("electron", total_energy=1e9)
    z = particles(rng, 400)
    line = bt.Line([bt.Bend(0.5, angle=0.1, slices=2, name="b"), bt.Drift(0.3, slices=2)])
    field = bt.SpaceChargeGaussian("3D")
    covector = rng.uniform(-1, 1, z.shape) / SIZE[:, None]

    def beam() -> bt.Beam:
        return make_beam(ref, z, weight=np.full(400, 1e10))

    g = line.gradient(beam(), goal(covector), "angle", radiation=QUANTUM, space_charge=field)

    def at(x: float) -> float:
        line["b"].angle = x
        after = beam()
        line.track(after, progress=False, radiation=QUANTUM, space_charge=field)
        line["b"].angle = 0.1
        return float((covector * columns(after)).sum())

    assert g["b", "angle"] == pytest.approx(slope(at, 0.1, 0.05), rel=1e-7)


def test_pytorch() -> None:
    torch = pytest.importorskip("torch")
    from betatron.torch import track

    rng = np.random.default_rng(3)
    line = random_line(rng)
    ref = bt.Reference("electron", total_energy=6e9)
    z = particles(rng, 10)
    covector = rng.uniform(-1, 1, z.shape)
    options = {"radiation": QUANTUM, "boundary": "periodic", "bucket_length": 1e-3}
    angle = torch.tensor(line["bend"].angle, dtype=torch.float64, requires_grad=True)
    start = torch.tensor(z, requires_grad=True)
    out = track(line, start, ref, {("bend", "angle"): angle}, **options)
    (out * torch.tensor(covector)).sum().backward()
    g = line.gradient(
        make_beam(ref, z), goal(covector), [("bend", "angle")], initial=True, **options
    )
    assert np.allclose(out.detach(), tracked(line, ref, z, **options), rtol=1e-10, atol=1e-15)
    assert float(angle.grad) == pytest.approx(g["bend", "angle"], rel=1e-12)
    assert np.allclose(start.grad, g.initial, rtol=1e-12)


def test_what_is_refused() -> None:
    line = bt.Line([bt.Bend(0.5, angle=0.1, name="b")])
    beam = make_beam(bt.Reference("electron", total_energy=1e9), np.zeros((6, 3)))
    loss = losses.centroid("x")
    for strategy, message in (("rewind", "cannot be rewound"), ("forward", "forward mode")):
        with pytest.raises(ValueError, match=message):
            line.gradient(beam, loss, "angle", radiation=MEAN, strategy=strategy)
    with pytest.raises(TypeError, match=r"radiation must be a betatron\.Radiation"):
        line.gradient(beam, loss, radiation=True)
    with pytest.raises(ValueError, match="needs a bucket_length"):
        line.gradient(beam, loss, boundary="periodic")


# --- buckets and spins -----------------------------------------------------------------------------------


@pytest.mark.parametrize("boundary", ["periodic", "reflecting", "absorbing"])
@pytest.mark.parametrize("precision", ["double", "single"])
def test_boundaries(boundary: str, precision: str) -> None:
    rng = np.random.default_rng(4)
    ref = bt.Reference("proton", kinetic_energy=20e6)
    line = bt.Line(
        [
            bt.Drift(1.0, slices=2, name="d"),
            bt.RFCavity(0.3, voltage=1e5, frequency=2e8, phase=0.3, name="rf"),
            bt.Quadrupole(0.3, k1=1.0, name="q"),
            bt.Drift(2.0, slices=3),
        ]
    )
    z = particles(rng, 300)
    z[4] *= 500  # several buckets
    z[5] *= 20
    options = {"boundary": boundary, "bucket_length": 0.3, "turns": 2}
    kind = np.float64 if precision == "double" else np.float32
    beam = make_beam(ref, z.astype(kind))
    after = beam.copy()
    line.track(after, progress=False, **options)
    moved = np.abs(columns(after)[4]).max()
    assert moved <= 0.15 * (1 + 1e-6)
    loss = losses.of_moments(lambda m: 10 * m.cov[4, 4] + 1e4 * m.cov[0, 0] + m.mean[5])
    wanted = [("rf", "voltage"), ("rf", "phase"), ("q", "k1"), ("d", "length")]
    g = line.gradient(beam, loss, wanted, initial=True, **options)
    assert (len(g.lost) > 0) == (boundary == "absorbing")
    if precision == "single":
        double = line.gradient(
            make_beam(ref, z.astype(np.float32).astype(float)),
            loss,
            wanted,
            initial=True,
            **options,
        )
        assert np.allclose(g.derivatives, double.derivatives, rtol=1e-3)
        return
    for number, knob in enumerate(g.knobs):
        # so little that nobody changes the bucket
        scale = 1e-3 * max(abs(knob.value), 0.1)
        expected = slope_by(knob, lambda: line.gradient(beam, loss, **options).value, scale)
        assert g.derivatives[number] == pytest.approx(expected, rel=1e-6), knob


def test_spins_do_not_matter() -> None:
    rng = np.random.default_rng(9)
    line = random_line(rng)
    ref = bt.Reference("electron", total_energy=3e9)
    z = particles(rng, 50)
    plain, spinning = make_beam(ref, z), make_beam(ref, z)
    spinning.set_spin(0.0, 1.0, 0.0)
    loss = losses.beam_size("x", 1e-4) + losses.centroid("t")
    for options in ({}, {"radiation": QUANTUM}, {"space_charge": bt.SpaceChargeGaussian("3D")}):
        a, b = (
            line.gradient(beam, loss, ["k1", "angle"], initial=True, **options)
            for beam in (plain, spinning)
        )
        assert a.value == b.value
        assert np.array_equal(a.derivatives, b.derivatives)
        assert np.array_equal(a.initial, b.initial)


# --- numbers that are not finite -------------------------------------------------------------------------


def test_not_a_number_is_refused_where_tracking_refuses_it() -> None:
    ref = bt.Reference("electron", kinetic_energy=1e8)
    line = bt.Line([bt.Drift(0.1), bt.Quadrupole(0.1, k1=1.0)])
    beam = make_beam(ref, particles(np.random.default_rng(1), 20))
    beam.x[3] = np.nan
    field = bt.SpaceChargeGaussian("3D")
    for run in (
        lambda: line.track(beam.copy(), space_charge=field, progress=False),
        lambda: line.gradient(beam, losses.beam_size("x"), "k1", space_charge=field),
    ):
        with pytest.raises(ValueError, match=r"x\[3\]"):
            run()


def test_losses_of_particles_do_not_see_it() -> None:
    ref = bt.Reference("electron", kinetic_energy=1e8)
    line = bt.Line([bt.Drift(0.1), bt.Quadrupole(0.1, k1=1.0)])
    z = particles(np.random.default_rng(1), 20)
    beam = make_beam(ref, z)
    beam.x[3] = np.nan
    loss = losses.of_particles(lambda z: ((z**2).sum(), 2 * z))
    g = line.gradient(beam, loss, "k1", initial=True)
    assert g.lost == [3] and np.isfinite(g.value)
    rest = np.delete(np.arange(20), 3)
    alone = line.gradient(make_beam(ref, z[:, rest]), loss, "k1", initial=True)
    assert g.value == pytest.approx(alone.value, rel=1e-12)
    assert g.derivatives == pytest.approx(alone.derivatives, rel=1e-12)
    assert np.all(g.initial[:, 3] == 0)
