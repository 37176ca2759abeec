"""Beams as a user sees them: columns without copies, moments, weights, copies."""

import copy
import gc
import math
import pickle

import betatron as bt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

COORDINATES = ("x", "px", "y", "py", "t", "pt")
ELEMENTARY_CHARGE = 1.602176634e-19

REFERENCE = bt.Reference("electron", kinetic_energy=100e6)
SHAPE = bt.Gaussian.from_twiss(
    beta_x=2.0, alpha_x=0.5, emittance_x=1e-8, beta_y=3.0, alpha_y=-1.0, emittance_y=2e-8,
    beta_t=0.1, alpha_t=0.2, emittance_t=1e-6,
)  # fmt: skip


def make_arrays(n, dtype=np.float64, seed=0):
    values = np.random.default_rng(seed).normal(scale=1e-3, size=(6, n)).astype(dtype)
    return {name: values[i].copy() for i, name in enumerate(COORDINATES)}


def lost_columns(n):
    ramp = np.arange(n)
    columns = {name: 1e-3 * ramp + i for i, name in enumerate((*COORDINATES, "weight", "s"))}
    return {
        "id": 100 + ramp.astype(np.uint64),
        **columns,
        "turn": ramp.astype(np.int64),
        "element": (ramp % 3).astype(np.int64),
        "reason": (ramp % 3).astype(np.uint8),
    }


# --- reference particle ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "energy",
    ["kinetic_energy", "total_energy", "momentum", "gamma", "beta_gamma"],
)
@pytest.mark.parametrize("species", bt.Species.names())
def test_the_measures_of_the_energy_agree(species, energy):
    first = bt.Reference(species, kinetic_energy=0.7e9)
    second = bt.Reference(species, **{energy: getattr(first, energy)})
    assert second.kinetic_energy == pytest.approx(0.7e9, rel=1e-12)
    mass = first.species.mass
    assert first.total_energy == pytest.approx(0.7e9 + mass)
    assert first.momentum == pytest.approx(math.sqrt(0.7e9 * (0.7e9 + 2 * mass)))
    assert first.beta == pytest.approx(first.momentum / first.total_energy)
    assert first.rigidity * first.species.charge == pytest.approx(first.momentum / 299792458.0)


def test_reference_is_a_constant_value():
    ref = bt.Reference("proton", kinetic_energy=2e6, s=1.5, position=(1, 2, 3))
    with pytest.raises(AttributeError):
        ref.s = 0.0
    with pytest.raises(ValueError, match="read-only"):
        ref.position[0] = 0.0
    moved = ref.copy(s=2.5, frame=[[0, 0, -1], [0, 1, 0], [1, 0, 0]])
    assert (ref.s, moved.s) == (1.5, 2.5)
    assert ref.frame.tolist() == np.eye(3).tolist()
    assert moved.frame[2].tolist() == [1, 0, 0]
    assert moved.position.tolist() == [1, 2, 3]
    assert ref == bt.Reference("proton", kinetic_energy=2e6, s=1.5, position=(1, 2, 3)) != moved
    assert len({ref, ref.copy(), moved}) == 2
    assert pickle.loads(pickle.dumps(moved)) == moved


def test_species():
    carbon = bt.Species("C6+", mass=11.1779e9, charge=6)
    assert (carbon.name, carbon.mass, carbon.charge, carbon.anomaly) == ("C6+", 11.1779e9, 6, 0)
    assert bt.Species("electron").mass == pytest.approx(510998.95, rel=1e-8)
    assert bt.Species("antiproton").charge == bt.Species("electron").charge == -1
    assert bt.Species("proton") == bt.Reference("proton", gamma=2).species != carbon
    assert pickle.loads(pickle.dumps(carbon)) == carbon
    assert eval(repr(carbon), {"Species": bt.Species}) == carbon


# --- columns --------------------------------------------------------------------------------------


def address(array):
    return array.__array_interface__["data"][0]


@pytest.mark.parametrize("precision", ["single", "double"])
def test_columns_are_views(precision):
    beam = bt.Beam(REFERENCE, SHAPE, n=1000, seed=3, precision=precision)
    dtype = np.float32 if precision == "single" else np.float64
    block = beam.array
    assert block.shape == (6, 1000) and block.dtype == dtype and block.flags.writeable
    for i, name in enumerate(COORDINATES):
        column = getattr(beam, name)
        assert column.dtype == dtype and column.shape == (1000,) and column.flags.writeable
        assert address(column) == address(getattr(beam, name)) == address(beam[name])
        assert address(column) == address(block[i])
    assert beam.weight.dtype == dtype
    assert beam.id.dtype == np.uint64
    assert np.array_equal(beam.id, np.arange(1000))

    beam.x[7] = 0.25
    assert beam.array[0, 7] == 0.25
    before = address(beam.x)
    beam.x += 1.0
    beam["py"] = 3.0
    beam.py[0] = 4.0
    assert address(beam.x) == before and beam.x[7] == 1.25
    assert beam.py.tolist()[:2] == [4.0, 3.0]


def test_views_keep_the_memory():
    beam = bt.Beam(REFERENCE, SHAPE, n=100_000)
    views, copies = (
        [beam.x, beam.array, beam.id],
        [beam.x.copy(), beam.array.copy(), beam.id.copy()],
    )
    del beam
    gc.collect()
    bt.Beam(REFERENCE, SHAPE, n=100_000, seed=2)  # would reuse the memory if it were free
    for view, expected in zip(views, copies, strict=True):
        assert np.array_equal(view, expected)


def test_from_arrays_copies():
    arrays = make_arrays(50)
    beam = bt.Beam.from_arrays(REFERENCE, **arrays)
    for name, array in arrays.items():
        assert np.array_equal(beam[name], array) and not np.shares_memory(beam[name], array)
    assert np.all(beam.weight == 1) and np.array_equal(beam.id, np.arange(50))
    assert beam.precision == "double"
    assert bt.Beam.from_arrays(REFERENCE, **make_arrays(5, np.float32)).precision == "single"


def test_from_arrays_takes_what_looks_like_numbers():
    block = np.arange(24.0).reshape(4, 6)
    beam = bt.Beam.from_arrays(
        REFERENCE,
        x=block[:, 0],  # not contiguous
        px=[1, 2, 3, 4],
        y=pd.Series([1.0, 2.0, 3.0, 4.0], index=[9, 8, 7, 6]),
        py=np.arange(4, dtype=np.int32),
        t=np.arange(4, dtype=">f8"),  # of the other byte order
        pt=memoryview(np.zeros(4)),
        id=[5, 6, 7, 2**63 - 1],
        weight=np.ones(4, np.float32),
    )
    assert beam.x.tolist() == [0, 6, 12, 18] and beam.px.tolist() == beam.y.tolist() == [1, 2, 3, 4]
    assert beam.t.tolist() == beam.py.tolist() == [0, 1, 2, 3]
    assert beam.id.tolist() == [5, 6, 7, 2**63 - 1]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_from_arrays_without_copy(dtype):
    arrays = make_arrays(50, dtype)
    weight, id = np.full(50, 2, dtype), np.arange(50, dtype=np.uint64)[::-1].copy()
    beam = bt.Beam.from_arrays(REFERENCE, **arrays, weight=weight, id=id, copy=False)
    for name, array in {**arrays, "weight": weight, "id": id}.items():
        assert address(beam[name]) == address(array)
    beam.x *= 2
    arrays["pt"][:] = 5
    assert np.array_equal(beam.x, arrays["x"]) and np.all(beam.pt == 5)
    with pytest.raises(ValueError, match="separate arrays"):
        _ = beam.array
    expected = arrays["x"].copy()
    view = beam.x
    del beam, arrays
    gc.collect()
    assert np.array_equal(view, expected)


def test_block_without_copy():
    block = np.random.default_rng(0).normal(size=(6, 30))
    beam = bt.Beam.from_arrays(REFERENCE, **dict(zip(COORDINATES, block, strict=True)), copy=False)
    assert address(beam.array) == address(block) and np.array_equal(beam.array, block)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_torch_tensors(dtype):
    torch = pytest.importorskip("torch")
    kind = getattr(torch, dtype)
    tensors = {name: torch.linspace(0, 1e-3, 20, dtype=kind) for name in COORDINATES}
    beam = bt.Beam.from_arrays(REFERENCE, **tensors, copy=False)
    assert address(beam.x) == tensors["x"].data_ptr()
    assert beam.precision == ("single" if dtype == "float32" else "double")
    tensors["x"] += 1
    assert beam.x[0] == 1
    assert torch.from_dlpack(beam.px).data_ptr() == tensors["px"].data_ptr()

    tensors["x"].requires_grad_()
    with pytest.raises(ValueError, match="x is a tensor that requires a gradient"):
        bt.Beam.from_arrays(REFERENCE, **tensors, copy=False)
    copied = bt.Beam.from_arrays(REFERENCE, **tensors)
    assert copied.x[0] == 1 and address(copied.px) != tensors["px"].data_ptr()


class OnDevice:
    """Stands for an array of CuPy: DLPack on a CUDA device, copied to the host by `get`."""

    def __init__(self, array):
        self.array = array

    def __dlpack_device__(self):
        return (2, 0)

    def __dlpack__(self, **_):
        raise BufferError("not in host memory")

    def get(self):
        return self.array


def test_arrays_on_a_device_are_copied_to_the_host():
    arrays = make_arrays(4)
    device = {name: OnDevice(array) for name, array in arrays.items()}
    assert np.array_equal(bt.Beam.from_arrays(REFERENCE, **device).x, arrays["x"])
    with pytest.raises(TypeError, match="x cannot be used as an array"):
        bt.Beam.from_arrays(REFERENCE, **device, copy=False)


# --- moments --------------------------------------------------------------------------------------


def weighted_moments(beam):
    z = np.array([beam[name] for name in COORDINATES], dtype=float)
    w = np.asarray(beam.weight, dtype=float)
    mean = np.average(z, axis=1, weights=w)
    return mean, np.cov(z, aweights=w, ddof=0).reshape(6, 6)


@given(
    n=st.integers(2, 300),
    seed=st.integers(0, 2**32),
    offset=st.floats(-1e-2, 1e-2),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_moments_are_those_of_numpy(n, seed, offset, dtype):
    arrays = make_arrays(n, dtype, seed)
    arrays["y"] += dtype(offset)
    arrays["x"] -= dtype(0.3) * arrays["pt"]
    weight = np.random.default_rng(seed).uniform(0.5, 2, n).astype(dtype)
    beam = bt.Beam.from_arrays(REFERENCE, **arrays, weight=weight)
    mean, cov = weighted_moments(beam)
    m = beam.moments()
    assert np.allclose(beam.covariance(), cov, rtol=1e-11, atol=1e-12 * np.max(cov))
    for i, name in enumerate(COORDINATES):
        assert m[f"mean_{name}"] == pytest.approx(mean[i], rel=1e-11, abs=1e-14)
        assert m[f"sigma_{name}"] == pytest.approx(math.sqrt(cov[i, i]), rel=1e-11)
        assert (m[f"min_{name}"], m[f"max_{name}"]) == (beam[name].min(), beam[name].max())
    for k, plane in enumerate("xyt"):
        block = cov[2 * k : 2 * k + 2, 2 * k : 2 * k + 2]
        emittance = math.sqrt(max(np.linalg.det(block), 0))
        rounding = 1e-7 * math.sqrt(block[0, 0] * block[1, 1])
        assert m[f"emittance_{plane}"] == pytest.approx(emittance, rel=1e-6, abs=rounding)
        assert m[f"emittance_{plane}n"] == pytest.approx(
            REFERENCE.beta_gamma * m[f"emittance_{plane}"], rel=1e-14
        )
    for i, name in enumerate(COORDINATES[:4]):
        expected = -cov[i, 5] / cov[5, 5]
        assert m[f"dispersion_{name}"] == pytest.approx(expected, rel=1e-9, abs=1e-12)
    # The product of the eigenemittances is the volume: sqrt(det cov).
    if n > 12:
        volume = math.sqrt(np.linalg.det(cov / np.max(cov))) * np.max(cov) ** 3
        assert m["emittance_1"] * m["emittance_2"] * m["emittance_3"] == pytest.approx(
            volume, rel=1e-6
        )


def test_dispersion_is_positive_where_more_energy_goes_out():
    pt = np.linspace(-1e-3, 1e-3, 11)  # negative: more energy
    zero = np.zeros(11)
    beam = bt.Beam.from_arrays(REFERENCE, x=-0.5 * pt, px=zero, y=zero, py=0.1 * pt, t=zero, pt=pt)
    m = beam.moments()
    assert m["dispersion_x"] == pytest.approx(0.5)
    assert m["dispersion_py"] == pytest.approx(-0.1)


def test_twiss_without_dispersion():
    with_dispersion = bt.Gaussian.from_twiss(
        beta_x=2, alpha_x=0.5, emittance_x=1e-8, beta_y=3, emittance_y=1e-8, beta_t=0.1,
        emittance_t=1e-6, dispersion_x=0.4, dispersion_px=-0.1,
    )  # fmt: skip
    m = bt.Beam(REFERENCE, with_dispersion, n=200_000).moments()
    assert m["beta_x"] == pytest.approx(2, rel=0.02)
    assert m["alpha_x"] == pytest.approx(0.5, abs=0.02)
    assert m["dispersion_x"] == pytest.approx(0.4, rel=0.01)
    assert m["dispersion_px"] == pytest.approx(-0.1, rel=0.01)
    assert m["emittance_x"] > 3e-8  # what dispersion adds is included
    assert m["emittance_3"] == pytest.approx(1e-8, rel=0.02)


def test_moments_of_one_particle_and_of_none():
    one = bt.Beam.from_arrays(REFERENCE, x=[1e-3], px=[0], y=[0], py=[0], t=[2e-3], pt=[0])
    m = one.moments()
    assert (m["n"], m["mean_x"], m["max_t"], m["sigma_x"], m["emittance_x"]) == (
        1,
        1e-3,
        2e-3,
        0,
        0,
    )
    none = bt.Beam(REFERENCE)
    m = none.moments()
    assert (m["n"], m["charge"], m["s"]) == (0, 0, 0) and m["gamma"] == REFERENCE.gamma
    assert math.isnan(m["mean_x"]) and math.isnan(m["sigma_x"])
    assert none.array.shape == (6, 0) and none.x.shape == (0,)
    assert len(none.to_dataframe()) == 0
    empty = {name: np.empty(0) for name in COORDINATES}
    assert len(bt.Beam.from_arrays(REFERENCE, **empty)) == 0
    assert len(bt.Beam.from_arrays(REFERENCE, **empty, copy=False)) == 0


# --- charge ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("species, sign", [("electron", -1), ("proton", 1)])
@pytest.mark.parametrize("precision", ["single", "double"])
def test_charge(species, sign, precision):
    ref = bt.Reference(species, kinetic_energy=1e9)
    beam = bt.Beam(ref, SHAPE, n=1000, charge=25e-12, precision=precision)
    assert beam.charge == pytest.approx(sign * 25e-12, rel=1e-6)
    assert beam.moments()["charge"] == pytest.approx(beam.charge, rel=1e-12)
    assert beam.weight[0] == pytest.approx(25e-12 / ELEMENTARY_CHARGE / 1000, rel=1e-6)
    beam.set_charge(1e-9)
    assert beam.charge == pytest.approx(sign * 1e-9, rel=1e-6)
    assert bt.Beam(ref, SHAPE, n=10).charge == pytest.approx(sign * 10 * ELEMENTARY_CHARGE)


def test_charge_scales_given_weights():
    beam = bt.Beam.from_arrays(REFERENCE, **make_arrays(2), weight=[1, 3], charge=4e-12)
    assert beam.weight[1] / beam.weight[0] == pytest.approx(3)
    assert beam.charge == pytest.approx(-4e-12)


# --- copies, tables, lost particles ---------------------------------------------------------------


def test_table():
    beam = bt.Beam(REFERENCE, SHAPE, n=20)
    table = beam.to_dataframe()
    assert list(table) == [*COORDINATES, "weight", "id"] and len(table) == 20
    table.loc[0, "x"] = 1.0
    assert beam.x[0] != 1.0
    again = bt.Beam.from_arrays(REFERENCE, **{name: table[name] for name in table})
    assert np.array_equal(again.px, beam.px)


@pytest.mark.parametrize(
    "duplicate",
    [lambda b: b.copy(), copy.copy, copy.deepcopy, lambda b: pickle.loads(pickle.dumps(b))],
)
def test_copies_are_independent_and_complete(duplicate):
    beam = bt.Beam(REFERENCE.copy(s=3.0), SHAPE, n=30, charge=1e-12, precision="single")
    beam.set_lost(**lost_columns(4))
    beam._name_losses(["q1", "q2", "q3"].__getitem__)
    other = duplicate(beam)
    assert type(other) is bt.Beam and other.precision == "single"
    assert other.reference == beam.reference
    for name in (*COORDINATES, "weight", "id"):
        assert np.array_equal(other[name], beam[name])
    pd.testing.assert_frame_equal(other.lost, beam.lost)
    other.x[:] = 0
    assert beam.x[0] != 0


def test_copy_in_another_precision():
    beam = bt.Beam(REFERENCE, SHAPE, n=30, charge=1e-12)
    single = beam.copy("single")
    assert single.precision == "single" and single.x.dtype == np.float32
    assert np.array_equal(single.x, beam.x.astype(np.float32))
    assert np.array_equal(single.copy("double").x, single.x)


def test_reference_moves_with_the_beam_only():
    beam = bt.Beam(REFERENCE, SHAPE, n=3)
    before = beam.reference
    beam.reference = before.copy(s=5.0)
    assert (before.s, beam.reference.s) == (0.0, 5.0)


def test_lost_particles():
    beam = bt.Beam(REFERENCE, SHAPE, n=3)
    assert beam.n_lost == 0 and len(beam.lost) == 0
    names = list(beam.lost)
    beam.set_lost(**lost_columns(2))
    beam._name_losses(["a", "b", "c"].__getitem__)
    beam.set_lost(**lost_columns(5))  # three more, in another line
    beam._name_losses(["d", "e", "f"].__getitem__)
    lost = beam.lost
    assert list(lost) == names
    assert beam.n_lost == 5 and lost["id"].tolist() == [100, 101, 102, 103, 104]
    assert lost["element_name"].tolist() == ["a", "b", "f", "d", "e"]
    assert lost["reason"].tolist()[:3] == ["aperture", "non_finite", "outside_domain"]
    assert lost["s"].tolist() == [7.0 + 1e-3 * i for i in range(5)]


def test_repr():
    assert repr(bt.Beam(REFERENCE, SHAPE, n=10, charge=25e-12)) == (
        "Beam(10 particles, double precision, -2.5e-11 C, electron of 1e+08 eV, s = 0 m)"
    )


# --- pictures -------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 5000])
def test_phase_space_picture(n):
    import matplotlib.pyplot as plt

    beam = bt.Beam(REFERENCE, SHAPE, n=n, charge=1e-12)
    figure = beam.plot.phase_space(["x-px", "pt-x"])
    planes = [ax for ax in figure.axes if ax.get_xlabel()]
    assert [ax.get_xlabel().split("$")[1] for ax in planes] == ["x", "p_t"]
    assert all(ax.get_ylabel() for ax in planes)
    for ax, (right, up) in zip(planes, (("x", "px"), ("pt", "x")), strict=True):
        drawn = ax.collections[0].get_array().sum()
        assert drawn == pytest.approx(beam.weight.sum(), rel=1e-9)
        if n > 2:  # the ellipse touches one sigma on both sides
            ellipse = np.ptp(ax.lines[0].get_xydata(), axis=0)
            span = np.array([np.ptp(ax.get_xlim()), np.ptp(ax.get_ylim())])
            m = beam.moments()
            sigma = np.array([m[f"sigma_{right}"], m[f"sigma_{up}"]])
            extent = np.array([np.ptp(beam[right]), np.ptp(beam[up])])
            assert ellipse / span * 1.08 == pytest.approx(2 * sigma / extent, rel=1e-3)
    plt.close(figure)


def test_phase_space_of_a_beam_without_charge():
    import matplotlib.pyplot as plt

    plt.close(bt.Beam(REFERENCE, SHAPE, n=10, charge=0).plot.phase_space())
