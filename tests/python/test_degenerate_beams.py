"""Beams without extent, single particles, numbers that are none and grids that do not fit, for all
models of space charge."""

from __future__ import annotations

import math

import betatron as bt
import numpy as np
import pytest

REF = bt.Reference("proton", kinetic_energy=1e8)
COLUMNS = ("x", "px", "y", "py", "t", "pt")
LINE = bt.Line([bt.Drift(0.3), bt.Drift(0.2)])

GRID_3D = [bt.SpaceCharge3D(16), bt.SpaceCharge3D(16, grid_step=0, shape="linear")]
GRID_2D = [bt.SpaceCharge2D(0.1, 16), bt.SpaceCharge2D(0.1, 16, pipe=bt.RoundPipe(1.0))]
SLICES = [bt.SpaceCharge2p5D(16), bt.SpaceCharge2p5D(16, pipe=bt.RectangularPipe(1.0, 1.0))]
GAUSSIAN = [bt.SpaceChargeGaussian("3D"), bt.SpaceChargeGaussian("2.5D")]
WALLS = [
    bt.SpaceCharge3D(16, pipe=bt.RectangularPipe(1.0, 1.0)),
    bt.SpaceCharge3D(16, pipe=bt.RoundPipe(1.0)),
]
ALL = [*GRID_3D, *GRID_2D, *SLICES, *GAUSSIAN, *WALLS]


def beam(n=200, flat=(), precision="double"):
    random = np.random.default_rng(8)
    dtype = np.float32 if precision == "single" else np.float64
    columns = {}
    for name in COLUMNS:
        size = 0.0 if name in flat else {"x": 1e-3, "y": 1e-3, "t": 0.1}.get(name, 1e-5)
        columns[name] = (size * random.normal(size=n)).astype(dtype)
    return bt.Beam.from_arrays(REF, **columns, charge=1e-9 if n else None)


def kick(model, made):
    before = made.array.copy()
    model.kick(made, 1.0)
    change = made.array - before
    assert np.all(np.isfinite(change)) and np.all(change[[0, 2, 4]] == 0)
    return change


@pytest.mark.parametrize("model", ALL, ids=repr)
@pytest.mark.parametrize("precision", ["double", "single"])
@pytest.mark.parametrize("n", [0, 1])
def test_no_particle_and_one(model, precision, n):
    change = kick(model, beam(n, precision=precision))
    if (model.__class__ is bt.SpaceCharge3D and model.pipe) or getattr(model, "pipe", None):
        return  # one feels its image
    assert np.all(change == 0)


@pytest.mark.parametrize("model", [*GRID_3D, *GRID_2D, *WALLS], ids=repr)
@pytest.mark.parametrize("precision", ["double", "single"])
def test_all_at_one_point(model, precision):
    change = kick(model, beam(flat=("x", "y", "t"), precision=precision))
    if model in GRID_3D or model.pipe is None:
        assert np.all(change == 0)
    else:  # on the axis of the pipe
        assert np.abs(change).max() < 1e-12


@pytest.mark.parametrize("model", [*SLICES, *GAUSSIAN], ids=repr)
@pytest.mark.parametrize("flat", [("x", "y", "t"), ("t",)])
def test_a_bunch_without_length_is_refused_by_what_needs_one(model, flat):
    made = beam(flat=flat)
    with pytest.raises(ValueError, match=r"same t|extent"):
        model.kick(made, 1.0)


@pytest.mark.parametrize("model", GAUSSIAN, ids=repr)
@pytest.mark.parametrize("flat", [("x",), ("x", "y")])
def test_gaussian_beams_need_a_width(model, flat):
    with pytest.raises(ValueError, match="extent"):
        model.kick(beam(flat=flat), 1.0)


@pytest.mark.parametrize("model", [*GRID_3D, *GRID_2D, *SLICES, *WALLS], ids=repr)
@pytest.mark.parametrize("flat", [("x",), ("y",), ("x", "y"), ("x", "t"), ("y", "t")], ids="-".join)
@pytest.mark.parametrize("precision", ["double", "single"])
def test_sheets_and_lines_have_no_field_across_them(model, flat, precision):
    if model in SLICES and "t" in flat:
        return
    change = kick(model, beam(flat=flat, precision=precision))
    largest = np.abs(change).max()
    if {"x", "y"} <= set(flat) and model in (*GRID_2D, SLICES[0]):
        assert largest < 1e-20  # a line along the beam: its field is infinite, and nothing happens
        return
    assert largest > 0
    for name in set(flat) & {"x", "y"}:
        row = COLUMNS.index("p" + name)
        assert np.abs(change[row]).max() <= 1e-4 * largest


@pytest.mark.parametrize("model", ALL, ids=repr)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("column", COLUMNS)
def test_numbers_that_are_none_are_refused_before_the_beam_moves(model, value, column):
    made = beam()
    made[column][7] = value
    before = made.array.copy()
    with pytest.raises(ValueError, match=rf"{column}\[7\] = .* must be finite"):
        LINE.track(made, space_charge=model)
    assert np.array_equal(made.array, before, equal_nan=True)
    if column in ("x", "y"):
        with pytest.raises(ValueError, match="finite"):
            model.kick(made, 1.0)
        assert np.array_equal(made.array, before, equal_nan=True)


@pytest.mark.parametrize(
    "effect",
    [
        bt.CSR(20),
        bt.Wake(bt.ResistiveWall(5e-3, 5.9e7)),
        bt.IBS(),
        bt.BeamBeam(LINE[0], 1e-9, 1e-5, 1e-5),
    ],
    ids=lambda e: type(e).__name__,
)
def test_other_effects_refuse_them_likewise(effect):
    made = beam()
    made.px[3] = math.nan
    before = made.array.copy()
    with pytest.raises(ValueError, match=r"px\[3\] = nan must be finite"):
        LINE.track(made, collective=effect)
    assert np.array_equal(made.array, before, equal_nan=True)


@pytest.mark.parametrize(
    "model",
    [
        bt.SpaceCharge3D(4096),
        bt.SpaceCharge3D(4096, pipe=bt.RectangularPipe(1.0, 1.0)),
        bt.SpaceCharge3D(4096, pipe=bt.RoundPipe(1.0)),
        bt.SpaceCharge3D(16, memory_limit=1000),
    ],
    ids=repr,
)
def test_a_grid_that_is_larger_than_the_memory_is_refused_before_the_beam_moves(model):
    made = beam()
    before = made.array.copy()
    with pytest.raises(ValueError, match=r"need .* of memory; allowed"):
        LINE.track(made, space_charge=model)
    assert np.array_equal(made.array, before)


def placed(x, y, t, dtype=np.float64, weight=None):
    """A beam of electrons at these places, without momenta."""
    ref = bt.Reference("electron", kinetic_energy=10e6)
    zeros = np.zeros(len(x), dtype)
    places = {name: np.asarray(v, dtype) for name, v in zip("xyt", (x, y, t), strict=True)}
    return bt.Beam.from_arrays(
        ref,
        **places,
        px=zeros,
        py=zeros,
        pt=zeros,
        weight=weight,
        charge=1e-10 if weight is None else None,
    )


def momenta(model, made):
    model.kick(made, 0.1)
    return np.array([made.px, made.py, made.pt], float)


PAIRS = {
    "late": ([1e-3, -1e-3], [0, 0], [0, 4e-14]),
    "beside": ([1e-3, -1e-3], [0, 1e-9], [0, 0]),
    "long": ([0, 1e-12], [0, 0], [1e-3, -1e-3]),
}


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("pipe", [None, bt.RoundPipe(0.02), bt.RectangularPipe(0.02, 0.02)])
def test_rounding_between_two_particles_is_no_distance(pair, pipe):
    """Both precisions agree, and forces add up to zero along each axis, measured by the
    force that there is in the rest frame."""
    model = bt.SpaceCharge3D(32, pipe=pipe)
    double = momenta(model, placed(*PAIRS[pair]))
    single = momenta(model, placed(*PAIRS[pair], dtype=np.float32))
    rest = np.array([[1.0], [1.0], [1 / placed(*PAIRS[pair]).reference.beta_gamma]])
    size = np.abs(rest * double).max()
    assert np.abs(rest * (single - double)).max() < 1e-3 * size
    if pipe is None:
        assert np.abs((rest * double).sum(axis=1)).max() < 1e-6 * size


@pytest.mark.parametrize(
    "sizes",
    [(1, 1, 1e-3), (1, 1, 1e-5), (1, 1, 1e-7), (1, 1e-5, 1), (1, 1e-4, 1e-7), (1e-6, 1e-6, 1)],
)
def test_flat_beams_in_single_precision(sizes):
    random = np.random.default_rng(3)
    x, y, t = 1e-3 * np.array(sizes)[:, None] * random.normal(size=(3, 5000))
    model = bt.SpaceCharge3D(32)
    kicks = []
    for dtype in (np.float64, np.float32):
        made = placed(x, y, t / -20.5, dtype)
        kicks.append(momenta(model, made))
    size = np.sqrt(np.mean(kicks[0] ** 2, axis=1))
    assert np.all(np.sqrt(np.mean((kicks[1] - kicks[0]) ** 2, axis=1)) < 1e-3 * size)


def test_a_flat_beam_in_single_precision_shows_its_field():
    random = np.random.default_rng(3)
    x, y, t = 1e-3 * random.normal(size=(3, 1000))
    model = bt.SpaceCharge3D(16)
    fields = [
        model.field(placed(x, y, 1e-6 * t, dtype)).potential for dtype in (np.float64, np.float32)
    ]
    assert fields[1].dtype == np.float32
    assert np.allclose(fields[0], fields[1], rtol=1e-5)


@pytest.mark.parametrize("model", [bt.SpaceCharge2D(1.0, 32), bt.SpaceCharge2p5D(32)], ids=repr)
def test_rounding_beside_a_line_is_no_distance(model):
    """Of two particles behind each other, and of many."""
    for n in (2, 100):
        t = np.linspace(-1e-3, 1e-3, n)
        x = 1e-25 * np.arange(n)
        assert np.abs(momenta(model, placed(x, 0 * x, t))[:2]).max() < 1e-7


def test_a_line_in_a_wide_round_pipe_is_the_line_of_free_space():
    t = np.linspace(-1e-3, 1e-3, 500) ** 3 * 1e6
    line = placed(0 * t, 0 * t, t)
    wide = momenta(bt.SpaceCharge3D(32, pipe=bt.RoundPipe(1.0)), line)
    line.pt[:] = 0
    free = momenta(bt.SpaceCharge3D(32), line)
    assert np.abs(wide[2] - free[2]).max() < 0.02 * np.abs(free[2]).max()


@pytest.mark.parametrize("model", [*SLICES, bt.SpaceChargeGaussian("2.5D")], ids=repr)
def test_slices_are_those_of_the_particles_that_carry_charge(model):
    places = ([0, 1e-3, 2e-3], [0, 1e-3, -1e-3], [0, 0, 1e-3])
    made = placed(*places, weight=[1e9, 1e9, 0])
    before = made.array.copy()
    with pytest.raises(ValueError, match="all particles that carry charge have the same t"):
        LINE.track(made, space_charge=model)
    assert np.array_equal(made.array, before)
    with pytest.raises(ValueError, match="all particles that carry charge have the same t"):
        model.kick(made, 1.0)
    one = placed(*places, weight=[1e9, 0, 0])
    LINE.track(one, space_charge=model)
    assert len(one) == 3 and np.all(one.px == 0) and np.all(one.pt == 0)


def test_every_kick_asks_for_the_memory_that_it_is_allowed():
    model = bt.SpaceCharge3D(16, memory_limit=1e5)
    for act in (lambda: model.kick(beam(), 1.0), lambda: model.field(beam())):
        with pytest.raises(ValueError, match=r"need .* of memory; allowed: 0.0001 GB"):
            act()
    # flat beams in single precision need the memory of both
    between = bt.SpaceCharge3D(16).memory(2000, "single") * 1.5
    model = bt.SpaceCharge3D(16, memory_limit=between)
    model.kick(beam(2000, precision="single"), 1.0)
    thin = beam(2000, precision="single")
    thin.y[:] *= 1e-6
    with pytest.raises(ValueError, match=r"double precision need .* of memory"):
        model.kick(thin, 1.0)
