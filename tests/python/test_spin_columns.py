"""Beams with spins: columns, polarised beams, copies, tables and files. Their motion is tested
elsewhere."""

import copy
import pickle

import betatron as bt
import numpy as np
import pandas as pd
import pytest
from betatron.beam import COORDINATES, SPIN
from test_beam import REFERENCE, SHAPE, lost_columns, make_arrays


def some_spins(n, dtype=np.float64, seed=3):
    s = np.random.default_rng(seed).normal(size=(3, n))
    return dict(zip(SPIN, (s / np.linalg.norm(s, axis=0)).astype(dtype), strict=True))


def test_a_beam_has_no_spins_until_it_is_given_some():
    beam = bt.Beam(REFERENCE, SHAPE, n=5)
    assert not beam.has_spin and not hasattr(beam, "sx")
    assert "sx" not in beam.to_dataframe() and "mean_sx" not in beam.moments()
    for action in (lambda: beam.sz, beam.polarization, lambda: setattr(beam, "sx", 1)):
        with pytest.raises(AttributeError, match=r"without spins.*set_spin"):
            action()
    with pytest.raises(KeyError, match=r"no column 'sy'; it has x, px, .*weight, id"):
        beam["sy"]
    x = beam.x
    beam.set_spin(0, 0.6, -0.8)
    assert beam.has_spin and beam.polarization().tolist() == [0, 0.6, -0.8]
    x[0] = 7.0  # views stay valid
    assert beam.x[0] == 7.0
    beam.set_spin(*some_spins(5).values())
    assert np.array_equal(beam.sx, some_spins(5)["sx"])
    beam.sy[...] = 0.25
    beam.sz = np.arange(5)
    assert beam["sy"].tolist() == [0.25] * 5 and beam.sz.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("precision", ["single", "double"])
@pytest.mark.parametrize("p", [(0, 0, 0), (0.1, -0.3, 0.6), (0, 0, 1), (-0.6, 0.8, 0)])
def test_polarised_beams(precision, p):
    n = 40_000
    beam = bt.Beam(REFERENCE, SHAPE, n=n, seed=5, precision=precision, polarization=p)
    m = beam.moments()
    for component, wanted in zip(SPIN, p, strict=True):
        noise = 5 * m[f"sigma_{component}"] / np.sqrt(n)
        assert m[f"mean_{component}"] == pytest.approx(wanted, abs=noise + 1e-7)
    assert m["polarization"] == pytest.approx(np.linalg.norm(beam.polarization()))
    lengths = np.sqrt(beam.sx.astype(float) ** 2 + beam.sy.astype(float) ** 2 + beam.sz**2)
    assert lengths == pytest.approx(1, abs=1e-6 if precision == "single" else 1e-15)
    fewer = bt.Beam(REFERENCE, SHAPE, n=100, seed=5, precision=precision, polarization=p)
    assert np.array_equal(fewer.sx, beam.sx[:100])
    without = bt.Beam(REFERENCE, SHAPE, n=100, seed=5, precision=precision)
    assert np.array_equal(fewer.x, without.x)  # the same particles
    fewer.polarize(p, seed=6)
    if np.linalg.norm(p) < 1:
        assert not np.array_equal(fewer.sx, beam.sx[:100])


@pytest.mark.parametrize(
    ("p", "error", "message"),
    [
        (
            (0, 0, 1.1),
            ValueError,
            r"polarization = \(0, 0, 1.1\) must be finite and of length <= 1",
        ),
        ((0, np.nan, 0), ValueError, "polarization = nan|polarization .* finite"),
        ((0, 1), ValueError, "polarization has 2 numbers, must have 3"),
        (0.5, TypeError, "polarization must be three numbers, got 0.5"),
        ("abc", TypeError, "polarization must be three numbers, got 'abc'"),
    ],
)
def test_polarisations_that_are_refused(p, error, message):
    with pytest.raises(error, match=message):
        bt.Beam(REFERENCE, SHAPE, n=3, polarization=p)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("borrow", [False, True])
def test_from_arrays(dtype, borrow):
    arrays, spins = make_arrays(8, dtype), some_spins(8, dtype)
    weight, ids = np.ones(8, dtype), np.arange(8, dtype=np.uint64)
    beam = bt.Beam.from_arrays(REFERENCE, **arrays, **spins, weight=weight, id=ids, copy=not borrow)
    for name in SPIN:
        assert np.array_equal(beam[name], spins[name]) and beam[name].dtype == dtype
        assert np.shares_memory(beam[name], spins[name]) == borrow
    beam.sx[3] = 0.5
    assert (spins["sx"][3] == 0.5) == borrow


def test_arrays_that_are_refused():
    arrays, spins = make_arrays(4), some_spins(4)
    with pytest.raises(TypeError, match="sx, sy, sz go together; sy, sz is not given"):
        bt.Beam.from_arrays(REFERENCE, **arrays, sx=spins["sx"])
    with pytest.raises(ValueError, match="array sz has 3 entries, x has 4"):
        bt.Beam.from_arrays(REFERENCE, **arrays, **spins | {"sz": spins["sz"][:3]})
    with pytest.raises(ValueError, match=r"spin\[0\] = .* must be a unit vector, its length is"):
        bt.Beam.from_arrays(REFERENCE, **arrays, **spins | {"sz": spins["sz"] + 2})
    with pytest.raises(ValueError, match=r"sy and sx share memory|sx and sy share memory"):
        bt.Beam.from_arrays(REFERENCE, **arrays, **spins | {"sy": spins["sx"]}, copy=False)
    with pytest.raises(TypeError, match="sz is float32, must be float64 like x"):
        wrong = spins | {"sz": spins["sz"].astype(np.float32)}
        bt.Beam.from_arrays(REFERENCE, **arrays, **wrong, copy=False)
    beam = bt.Beam.from_arrays(REFERENCE, **arrays, **spins)
    for given in [(1, 1, 0), (np.nan, 0, 0), (np.ones(4), np.ones(4), np.ones(4))]:
        with pytest.raises(ValueError, match=r"unit vector|finite"):
            beam.set_spin(*given)
    with pytest.raises(ValueError, match="array sx has 3 entries, the beam has 4 particles"):
        beam.set_spin(*(np.ones(3) for _ in range(3)))
    with pytest.raises(ValueError, match="one dimension"):
        beam.set_spin(*(np.ones((4, 1)) for _ in range(3)))
    with pytest.raises(TypeError):
        beam.set_spin("a", 0, 0)
    assert np.array_equal(beam.sx, spins["sx"])


def polarised_beam(n=30, precision="single"):
    beam = bt.Beam(REFERENCE, SHAPE, n=n, precision=precision, polarization=(0.2, 0.3, 0.1))
    spins = some_spins(4)
    spins["sx"][2] = spins["sy"][2] = spins["sz"][2] = np.nan  # lost before there were spins
    beam.set_lost(**lost_columns(4), **spins)
    return beam


@pytest.mark.parametrize(
    "duplicate",
    [lambda b: b.copy(), copy.deepcopy, lambda b: pickle.loads(pickle.dumps(b))],
)
def test_copies_have_the_spins(duplicate):
    beam = polarised_beam()
    other = duplicate(beam)
    for name in SPIN:
        assert np.array_equal(other[name], beam[name])
    pd.testing.assert_frame_equal(other.lost, beam.lost)
    other.sx[:] = 0
    assert beam.sx[0] != 0
    assert np.array_equal(beam.copy("double").sy, beam.sy)


def test_tables():
    beam = polarised_beam()
    table = beam.to_dataframe()
    assert list(table) == [*COORDINATES, "weight", "id", *SPIN]
    again = bt.Beam.from_arrays(REFERENCE, **{name: table[name] for name in table})
    assert np.array_equal(again.sz, beam.sz)
    lost = beam.lost
    assert list(lost)[8:12] == [*SPIN, "s"]
    assert np.isnan(lost["sy"][2]) and lost["sy"][3] == some_spins(4)["sy"][3]


def test_fixed_time_and_back():
    beam = polarised_beam(precision="double")
    table = beam.at_fixed_time()
    back = bt.Beam.from_fixed_time(REFERENCE, **table)
    for name in SPIN:
        assert np.array_equal(table[name], beam[name])
        assert np.array_equal(back[name], beam[name])


@pytest.mark.parametrize("ending", ["h5", "json"])
@pytest.mark.parametrize("n", [0, 30])
def test_files(tmp_path, ending, n):
    beam = polarised_beam(n)
    beam.save(tmp_path / f"b.{ending}")
    back = bt.Beam.load(tmp_path / f"b.{ending}")
    for name in SPIN:
        assert np.array_equal(back[name], beam[name]) and back[name].dtype == np.float32
    pd.testing.assert_frame_equal(back.lost, beam.lost)


def test_losses_and_records_keep_the_spins():
    beam = bt.Beam(REFERENCE, SHAPE, n=500, polarization=(0, 1, 0))
    beam.sx[:], beam.sy[:] = np.where(beam.x > 0, 1, 0), np.where(beam.x > 0, 0, 1)
    line = bt.Line([bt.Marker(name="m"), bt.Aperture(1e-4, 1)])
    result = line.track(beam, record="all")
    assert len(beam) + beam.n_lost == 500 and beam.n_lost > 100
    moments = result.moments
    assert moments["mean_sy"].iloc[-1] == pytest.approx((beam.sy * beam.weight).mean(), abs=1e-12)
    assert (beam.lost["sx"] + beam.lost["sy"] == 1).all()
    monitor = bt.TurnByTurn(quantities="moments")
    line.track(beam, turns=3, monitor=monitor)
    assert len(monitor.moments) == 3 and "polarization" in monitor.moments
