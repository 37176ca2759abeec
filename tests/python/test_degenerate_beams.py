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
