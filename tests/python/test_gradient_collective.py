"""Gradients through collective effects, against differences of tracking: for every effect, order of
the splitting and precision; adjointness along directions; losses of particles; several turns; code
in elements."""

from __future__ import annotations

import ctypes
import importlib.util
import sys
from pathlib import Path

import betatron as bt
import numpy as np
import pytest
from betatron import losses

COORDINATES = ("x", "px", "y", "py", "t", "pt")
SIZES = np.array([1e-3, 1e-4, 1e-3, 1e-4, 1e-3, 1e-3])
N = 120


def coordinates(beam):
    return np.array([getattr(beam, c) for c in COORDINATES], dtype=float)


def difference(f, step):
    return (8 * (f(step) - f(-step)) - (f(2 * step) - f(-2 * step))) / (12 * step)


class Case:
    """A line, a beam and effects; the loss is lambda . z at the end for a random lambda."""

    def __init__(self, line, effects, charge, energy=20e6, particle="electron", seed=1, **options):
        self.line, self.effects, self.charge, self.options = line, effects, charge, options
        self.ref = bt.Reference(particle, kinetic_energy=energy)
        rng = np.random.default_rng(seed)
        self.z = rng.normal(size=(6, N)) * SIZES[:, None]
        self.covector = rng.normal(size=(6, N)) / SIZES[:, None]
        self.direction = rng.normal(size=(6, N)) * SIZES[:, None]
        self.weight = rng.uniform(0.5, 1.5, size=N)

    def beam(self, z=None, ref=None, charge=None, precision="double"):
        columns = dict(zip(COORDINATES, self.z if z is None else z, strict=True))
        beam = bt.Beam.from_arrays(ref or self.ref, **columns, weight=self.weight)
        beam.set_charge(charge or self.charge)
        return beam.copy(precision=precision)

    def loss(self, beam=None):
        beam = self.beam() if beam is None else beam
        self.line.track(beam, collective=self.effects, threads=1, progress=False, **self.options)
        lost = {p for p in beam.lost["id"]} if len(beam.lost) else set()
        alive = [i for i in range(N) if i not in lost]
        return float(np.sum(self.covector[:, alive] * coordinates(beam)))

    def gradient(self, parameters=(), precision="double", **options):
        def of_particles(z):
            return float(np.nansum(self.covector * z)), self.covector  # the lost may be NaN

        return self.line.gradient(
            self.beam(precision=precision),
            losses.of_particles(of_particles),
            parameters,
            initial=True,
            collective=self.effects,
            threads=1,
            **self.options,
            **options,
        )

    def check(self, knobs, tolerance=1e-7, energy=True, step=1e-5, **options):
        """Central differences of tracking against the gradient."""
        g = self.gradient(knobs, reference_energy=energy, **options)
        along = difference(lambda e: self.loss(self.beam(self.z + e * self.direction)), step)
        assert np.sum(g.initial * self.direction) == pytest.approx(along, rel=tolerance)
        for knob, derivative in zip(g.knobs, g.derivatives, strict=True):
            at = knob.value

            def moved(h, knob=knob, at=at):
                knob.value = at + h
                result = self.loss()
                knob.value = at
                return result

            expected = difference(moved, 1e-4 * abs(at))
            assert derivative == pytest.approx(expected, rel=tolerance), knob.name
        if energy:
            k = self.ref.kinetic_energy
            expected = difference(
                lambda h: self.loss(
                    self.beam(ref=bt.Reference(self.ref.species, kinetic_energy=k + h))
                ),
                1e-5 * k,
            )
            assert g.reference_energy == pytest.approx(expected, rel=10 * tolerance)
        return g


def straight():
    return bt.Line(
        [
            bt.Drift(0.3, name="d"),
            bt.Quadrupole(0.2, k1=4.0, name="q", slices=2),
            bt.Drift(0.2, name="e"),
        ]
    )


def bends():
    return bt.Line(
        [
            bt.Drift(0.3, name="d"),
            bt.Bend(0.3, angle=0.1, name="b", slices=2),
            bt.Drift(0.2, name="e"),
            bt.Bend(0.3, angle=-0.12, name="c"),
            bt.Drift(0.2, name="f"),
        ]
    )


STRAIGHT = [("d", "length"), ("q", "k1"), ("q", "length")]
EVERYWHERE = {"at": ["q", "e"]}

EFFECTS = {
    "linear": (lambda o: bt.SpaceCharge3D(cells=(14, 16, 18), shape="linear", order=o), 1e-11),
    "quadratic": (lambda o: bt.SpaceCharge3D(cells=(14, 16, 18), order=o), 1e-11),
    "cubic": (lambda o: bt.SpaceCharge3D(cells=(14, 16, 18), shape="cubic", order=o), 1e-11),
    "fitted": (lambda o: bt.SpaceCharge3D(cells=(14, 16, 18), grid_step=0, order=o), 1e-11),
    "pipe": (
        lambda o: bt.SpaceCharge3D(
            cells=(14, 16, 18), pipe=bt.RectangularPipe(6e-3, 5e-3), shape="cubic", order=o
        ),
        1e-11,
    ),
    "round pipe": (
        lambda o: bt.SpaceCharge3D(cells=(14, 16, 18), pipe=bt.RoundPipe(6e-3), order=o),
        1e-11,
    ),
    "sheet": (
        lambda o: bt.SpaceCharge3D(
            cells=(14, 16, 18), shape="cubic", grid_step=0, margin=1.5, order=o
        ),
        1e-11,
    ),
    "plane linear": (
        lambda o: bt.SpaceCharge2D(0.5, cells=(14, 16), shape="linear", order=o),
        1e-11,
    ),
    "plane": (lambda o: bt.SpaceCharge2D(0.5, cells=(14, 16), margin=1.2, order=o), 1e-11),
    "plane cubic": (lambda o: bt.SpaceCharge2D(0.5, cells=16, shape="cubic", order=o), 1e-11),
    "slices": (lambda o: bt.SpaceCharge2p5D(cells=(14, 16), bins=20, smoothing=1, order=o), 1e-11),
    "slices to 1 cm": (
        lambda o: bt.SpaceCharge2p5D(cells=16, bins=20, longitudinal_scale=0.01, order=o),
        1e-11,
    ),
    "gaussian": (lambda o: bt.SpaceChargeGaussian(tolerance=1e-10, order=o), 1e-11),
    "long gaussian": (
        lambda o: bt.SpaceChargeGaussian("2.5D", tolerance=1e-10, bins=20, order=o),
        1e-11,
    ),
    "resonator": (
        lambda o: bt.Wake(
            bt.Resonator(1e6, 5, 30e9), bins=30, shape="quadratic", order=o, **EVERYWHERE
        ),
        1e-12,
    ),
    "dipole": (
        lambda o: bt.Wake(
            bt.Resonator(1e9, 5, 30e9, kind="dipole_x"), bins=30, order=o, **EVERYWHERE
        ),
        1e-12,
    ),
    "plates": (
        lambda o: bt.Wake(
            bt.ResistiveWall(1e-3, 1e5, pipe="flat"),
            bins=30,
            shape="quadratic",
            smoothing=2,
            order=o,
        ),
        1e-10,
    ),
    "structure": (
        lambda o: bt.Wake(
            bt.StructureWake(20e-3, 32e-3, 40e-3), bins=30, shape="quadratic", order=o
        ),
        1e-8,
    ),
}


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("name", EFFECTS)
def test_derivatives_are_those_of_tracking(name, order):
    make, charge = EFFECTS[name]
    # piecewise shapes have kinks: steps are short, so that few particles cross one
    case = Case(straight(), [make(order)], charge)
    smooth = name in ("quadratic", "cubic", "fitted", "sheet", "plane", "plane cubic", "gaussian")
    g = case.check(STRAIGHT, tolerance=1e-6, step=1e-5 if smooth else 1e-6)
    charge_slope = difference(lambda h: case.loss(case.beam(charge=charge * (1 + h))), 1e-6)
    assert g.charge * charge == pytest.approx(charge_slope, rel=1e-5, abs=1e-6)
    without = case.line.gradient(
        case.beam(),
        losses.of_particles(lambda z: (0.0, case.covector)),
        STRAIGHT,
        initial=True,
    )
    change = np.sum((g.initial - without.initial) * case.direction)
    assert abs(change) > 1e-5 * abs(np.sum(g.initial * case.direction)), "the effect does nothing"


@pytest.mark.parametrize("shielding_gap", [None, 0.01])
@pytest.mark.parametrize("model", ["steady_state", "transient"])
def test_coherent_radiation(model, shielding_gap):
    effect = bt.CSR(20, model, shape="quadratic", smoothing=1, shielding_gap=shielding_gap)
    # the integrals behind the wake are good to 1e-8 or so, and to less near corners of the orbit
    case = Case(bends(), [effect], 1e-9, energy=50e6)
    case.check([("b", "angle"), ("b", "length"), ("e", "length")], tolerance=1e-4)


@pytest.mark.parametrize(
    ("effect", "message"),
    [
        (
            bt.SpaceCharge3D(12, grid_step=0, pipe=bt.RectangularPipe(6e-3, 5e-3)),
            "has cells that follow the beam in a pipe",
        ),
        (bt.SpaceCharge2D(0.1, 12, pipe=bt.RoundPipe(6e-3)), "stands in a conducting pipe"),
    ],
)
def test_pipes_that_have_no_derivatives_say_so(effect, message):
    with pytest.raises(ValueError, match=message):
        Case(straight(), [effect], 1e-11).gradient()


def test_effects_together():
    effects = [
        bt.SpaceCharge3D(cells=(12, 12, 12), spacing=0.07),
        bt.Wake(bt.ResistiveWall(2e-3, 1e5), bins=20, shape="quadratic", order=2),
    ]
    Case(straight(), effects, 1e-11).check(STRAIGHT, tolerance=1e-6)


@pytest.mark.parametrize(
    "name",
    ["linear", "quadratic", "cubic", "fitted", "plane", "gaussian", "resonator", "plates"],
)
def test_single_precision(name):
    make, charge = EFFECTS[name]
    case = Case(straight(), [make(1)], charge)
    double = case.gradient(STRAIGHT)
    covector = case.covector
    case.covector = case.covector.astype(np.float32)
    single = case.gradient(STRAIGHT, precision="single")
    case.covector = covector
    scale = np.abs(double.initial).max(axis=1)
    off = np.abs(single.initial - double.initial).max(axis=1)
    # a particle on the other side of a kink has another slope: linear shapes have one at every node
    assert np.all(off < (0.2 if name == "linear" else 2e-3) * scale)
    assert single.derivatives == pytest.approx(double.derivatives, rel=2e-2)


@pytest.mark.parametrize("name", ["quadratic", "fitted", "plates", "slices", "long gaussian"])
def test_strategies_and_threads_agree(name):
    make, charge = EFFECTS[name]
    case = Case(straight(), [make(1)], charge)
    rewound = case.gradient(STRAIGHT, strategy="rewind")
    tracked = case.gradient(STRAIGHT, strategy="checkpoint")
    assert rewound.strategy == "rewind" and tracked.strategy == "checkpoint"
    assert rewound.relative_rewind_error < 1e-12
    assert tracked.initial == pytest.approx(rewound.initial, rel=1e-9, abs=1e-9 / SIZES.max())
    assert tracked.derivatives == pytest.approx(rewound.derivatives, rel=1e-9)
    with pytest.raises(ValueError, match="forward mode does not follow"):
        case.line.gradient(
            case.beam(),
            losses.beam_size("x"),
            "k1",
            strategy="forward",
            collective=case.effects,
        )


def test_moments_and_objective():
    case = Case(straight(), [bt.SpaceCharge3D(cells=(12, 12, 12))], 1e-11)
    loss = losses.beam_size("x") + 3 * losses.centroid("x", at="q") + losses.beam_size("t", at="q")
    objective = bt.Objective(
        case.line, case.beam(), loss, [("q", "k1")], collective=case.effects, threads=1
    )
    slope = objective(objective.x0)[1][0]
    assert slope == pytest.approx(
        difference(lambda h: objective.fun([4.0 + h]), 1e-3), rel=1e-8, abs=0
    )
    objective.fun([4.0])
    with_space_charge = case.line.gradient(
        case.beam(), loss, [("q", "k1")], space_charge=case.effects[0]
    )
    assert with_space_charge["q", "k1"] == pytest.approx(slope, rel=1e-12, abs=0)


def test_lost_particles():
    """They take part until they are lost, also between kicks; the others are as in tracking, to the
    bit."""
    line = bt.Line(
        [
            bt.Drift(0.3, name="d"),
            bt.Aperture(1.5e-3, 1.5e-3, name="a"),
            bt.Quadrupole(0.2, k1=4.0, name="q", slices=3),
            bt.Aperture(1.2e-3, 1.2e-3, name="b"),
            bt.Drift(0.2, name="e", slices=2),
            bt.Aperture(1.2e-3, 1.2e-3, name="c"),
        ]
    )
    case = Case(line, [bt.SpaceCharge3D(cells=(12, 12, 12))], 1e-11)
    final = []
    beam = case.beam()
    line.track(beam, collective=case.effects, threads=1, progress=False)
    assert len(beam.lost) > 10
    alive = np.setdiff1d(np.arange(N), beam.lost["id"])

    def of_particles(z):
        final.append(z.copy())
        return 0.0, np.zeros_like(z)

    line.gradient(case.beam(), losses.of_particles(of_particles), collective=case.effects)
    assert np.array_equal(final[0][:, alive], coordinates(beam))
    for strategy in ("rewind", "checkpoint"):
        g = case.gradient([("q", "k1"), ("d", "length")], strategy=strategy)
        assert sorted(g.lost) == sorted(beam.lost["id"])
        # those that are lost in front of the first kick have no effect on anything
        along = difference(lambda e: case.loss(case.beam(case.z + e * case.direction)), 1e-7)
        assert np.sum(g.initial * case.direction) == pytest.approx(along, rel=1e-5), strategy


def test_several_turns():
    case = Case(straight(), [bt.SpaceCharge3D(cells=(12, 12, 12))], 1e-12, turns=3)
    case.check(STRAIGHT, tolerance=1e-6)
    # without effects, too; places of a loss count in every turn
    line, beam = straight(), case.beam()
    loss = losses.centroid("x", at="q") + losses.centroid("x")
    g = line.gradient(beam, loss, [("q", "k1")], turns=2)
    twice = bt.Line([*line.elements, *line.elements])
    assert g["q", "k1"] == pytest.approx(twice.gradient(beam, loss, [("q", "k1")])["q", "k1"])
    with pytest.raises(ValueError, match="turns = 0"):
        line.gradient(beam, loss, turns=0)


def test_effects_without_a_derivative_are_named():
    case = Case(straight(), [], 1e-11)
    for effect, message in (
        (
            bt.Wake(bt.Resonator(1e6, 5, 30e9), at=["q"], memory=2),
            "Wake has no derivative.*memory = 0",
        ),
        (bt.IBS(), "has no derivative"),
    ):
        with pytest.raises(ValueError, match=message):
            case.line.gradient(case.beam(), losses.beam_size("x"), collective=[effect])


def test_memory_does_not_grow_with_the_number_of_kicks():
    case = Case(straight(), [bt.SpaceCharge3D(cells=(12, 12, 12))], 1e-12)
    few = case.gradient().memory
    case.effects = [bt.SpaceCharge3D(cells=(12, 12, 12), spacing=0.01)]
    assert case.gradient().memory == few
    assert few < 100 * N + 1000


def test_tensors():
    torch = pytest.importorskip("torch")
    from betatron.torch import track

    case = Case(straight(), [], 1e-11)
    effect = bt.SpaceCharge3D(cells=(12, 12, 12))
    z = torch.tensor(case.z, requires_grad=True)
    k1 = torch.tensor(4.0, dtype=torch.float64, requires_grad=True)
    weight = case.beam().weight
    out = track(
        case.line, z, case.ref, {("q", "k1"): k1}, weight=weight, space_charge=effect, threads=1
    )
    (out * torch.tensor(case.covector)).sum().backward()
    case.effects = [effect]
    g = case.gradient([("q", "k1")])
    assert np.allclose(z.grad.numpy(), g.initial, rtol=1e-12)
    assert float(k1.grad) == pytest.approx(g["q", "k1"])


def c_kick(nan=False):
    """px -= 0.7 (x + 200 x^3), py += 0.7 y, where pt > 2.5e-3 is lost, or made NaN: a C function,
    made by ctypes."""
    column, numbers = ctypes.POINTER(ctypes.c_double), ctypes.POINTER(ctypes.c_double)
    prototype = ctypes.CFUNCTYPE(
        None, ctypes.c_int64, *[column] * 7, ctypes.POINTER(ctypes.c_uint64),
        ctypes.POINTER(ctypes.c_uint8), numbers, numbers,
    )  # fmt: skip

    def push(n, x, px, y, py, t, pt, weight, ids, lost, place, settings):
        for i in range(n):
            px[i] -= 0.7 * (x[i] + 200 * x[i] ** 3)
            py[i] += 0.7 * y[i]
            if pt[i] > 2.5e-3:
                lost[i] = not nan
                px[i] = float("nan") if nan else px[i]

    return prototype(push)


@pytest.mark.parametrize("effects", [[], [bt.SpaceCharge3D(cells=(12, 12, 12))]])
def test_code_in_elements(effects):
    """Tile code has no inverse: it is pulled back at the coordinates that were kept."""
    steps = [1e-6, 1e-6, 1e-6, 1e-6, 1e-6, 1e-6]
    code = bt.Programmable(push=c_kick(), differences=steps, name="code", dx=1e-4)
    line = bt.Line(
        [
            bt.Drift(0.3, name="d"),
            code,
            bt.Quadrupole(0.2, k1=4.0, name="q"),
            code,
            bt.Drift(0.2, name="e"),
        ]
    )
    case = Case(line, effects, 1e-12)
    g = case.check([("q", "k1"), ("d", "length"), ("code", "dx")], tolerance=1e-5, energy=False)
    again = case.gradient([("q", "k1"), ("d", "length"), ("code", "dx")], strategy="checkpoint")
    assert again.derivatives == pytest.approx(g.derivatives, rel=1e-9)
    assert g.memory > 12 * 8 * N
    with pytest.raises(
        ValueError, match=r"Programmable 'code'.*energy of the reference is not known"
    ):
        case.gradient(reference_energy=True)
    with pytest.raises(ValueError, match="its code has no derivative"):
        bt.Line([bt.Programmable(push=c_kick())]).gradient(case.beam(), losses.beam_size("x"))
    with pytest.raises(ValueError, match="code for the whole beam has no derivative"):
        bt.Line([bt.Programmable(push=lambda beam, state: None)]).gradient(
            case.beam(), losses.beam_size("x")
        )


@pytest.mark.parametrize("nan", [False, True])
@pytest.mark.parametrize("effects", [[], [bt.SpaceCharge3D(cells=(12, 12, 12))]])
def test_particles_that_code_loses(effects, nan):
    """They count up to the code, which may have no derivative for them, and are rewound from where it was called."""
    code = bt.Programmable(push=c_kick(nan), differences=[1e-6] * 6, name="code")
    quad = bt.Quadrupole(0.2, k1=4.0, name="q")
    case = Case(bt.Line([quad, bt.Drift(0.3, name="d"), code, bt.Drift(0.2)]), effects, 1e-12)
    beam = case.beam()
    case.loss(beam)
    assert 0 < len(beam.lost) < N
    for strategy in ("rewind", "checkpoint"):
        g = case.check([("q", "k1")], tolerance=1e-5, energy=False, strategy=strategy)
        assert np.isfinite(g.initial).all()
        assert not g.initial[:, beam.lost["id"]].any() or effects
        # in front of the code no particle is lost
        chosen = {"collective": effects, "threads": 1, "strategy": strategy}
        in_front = losses.beam_size("x", at="d")
        seen = case.line.gradient(case.beam(), in_front, [("q", "k1")], **chosen)
        alone = case.line[:2].gradient(case.beam(), in_front, [("q", "k1")], **chosen)
        assert seen["q", "k1"] == pytest.approx(alone["q", "k1"], rel=1e-9)


def test_example(capsys):
    path = Path(__file__).parents[2] / "examples/space_charge_gradient/space_charge_gradient.py"
    spec = importlib.util.spec_from_file_location("space_charge_gradient", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["space_charge_gradient"] = module
    spec.loader.exec_module(module)
    assert module.main(["--particles", "2000", "--cells", "16"]) == 0, capsys.readouterr().out
    assert "differences agree" in capsys.readouterr().out


def test_a_flat_beam_in_single_precision():
    """Solved in double, like its kick."""
    g = np.random.default_rng(1).normal(size=(6, 2000))
    sizes = np.array([1e-3, 1e-4, 1e-3, 1e-4, 1e-9, 1e-4])
    line = bt.Line([bt.Drift(0.1), bt.Quadrupole(0.1, k1=3.0, name="q"), bt.Drift(0.1)])
    found = []
    for dtype in (np.float64, np.float32):
        columns = (sizes[:, None] * g).astype(dtype)
        beam = bt.Beam.from_arrays(
            bt.Reference("electron", kinetic_energy=5e6),
            **dict(zip(("x", "px", "y", "py", "t", "pt"), columns, strict=True)),
            charge=1e-11,
        )
        found.append(
            line.gradient(
                beam,
                bt.losses.beam_size("x"),
                [("q", "k1")],
                initial=True,
                space_charge=bt.SpaceCharge3D(16),
            )
        )
    assert found[1].charge == pytest.approx(found[0].charge, rel=1e-5)
    size = np.abs(found[0].initial).max(axis=1)
    assert np.all(np.abs(found[1].initial - found[0].initial).max(axis=1) < 1e-3 * size)
