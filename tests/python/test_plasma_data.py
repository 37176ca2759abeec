"""Particles in front of and behind plasma stages: formulas, samples, openPMD files of several
codes, Wake-T."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from betatron import plasma
from betatron.plasma import waket

C = 299792458.0
E = 1.602176634e-19
MC = 9.1093837139e-31 * C


def test_formulas_agree_with_the_plasma_frequency() -> None:
    n = 1.7e23
    omega = np.sqrt(n * E**2 / (8.8541878188e-12 * 9.1093837139e-31))
    assert plasma.plasma_wavenumber(n) == pytest.approx(omega / C, rel=1e-9)
    assert plasma.wave_breaking_field(n) == pytest.approx(MC * omega / E, rel=1e-9)
    assert plasma.ion_focusing(n) == pytest.approx(omega**2 / (2 * C**2), rel=1e-9)
    assert plasma.matched_beta(n, 2000) == pytest.approx(np.sqrt(4000) * C / omega, rel=1e-9)
    with pytest.raises(ValueError, match=r"density = 0"):
        plasma.plasma_wavenumber(0)
    with pytest.raises(ValueError, match=r"gamma = 0.5"):
        plasma.matched_beta(n, 0.5)


@pytest.mark.parametrize(
    ("shape", "spread"), [("gaussian", 1.0), ("uniform", 3**-0.5), ("ellipsoid", 8**-0.5)]
)
def test_samples_fill_their_shape(shape: str, spread: float) -> None:
    centre, size = np.arange(6.0), np.array([1, 2, 0, 3, 4, 5.0])
    z = waket.sample(20_000, centre, size, shape=shape, seed=3)
    assert np.allclose(z.mean(axis=0), centre, atol=0.05 * size.max())
    assert np.allclose(z.std(axis=0), spread * size, rtol=0.03)
    assert np.array_equal(z, waket.sample(20_000, centre, size, shape=shape, seed=3))
    u = (z - centre)[:, size > 0] / size[size > 0]
    if shape == "ellipsoid":
        assert np.linalg.norm(u, axis=1).max() <= 1
    elif shape == "uniform":
        assert np.abs(u).max() <= 1
    else:
        cut = waket.sample(5_000, centre, size, cut=1.5)
        assert np.abs((cut - centre)[:, size > 0] / size[size > 0]).max() <= 1.5


def test_bad_settings_are_named() -> None:
    grid = {"xi_min": -1e-4, "xi_max": 5e-5, "r_max": 1e-4}
    for make, words in (
        (lambda: waket.Laser(a0=-1, w0=1, duration=1), "a0 = -1"),
        (lambda: waket.Laser(a0=1, w0=0, duration=1), "w0 = 0"),
        (lambda: waket.Laser(a0=1, w0=1, duration=1, polarization="left"), "'left'"),
        (lambda: waket.Plasma(density=np.nan, length=1), "density = nan"),
        (lambda: waket.Plasma(density=1, length=1, ramp_up=0.7, ramp_down=0.7), "ramp_up"),
        (lambda: waket.Grid(**grid, n_xi=0), "n_xi = 0"),
        (lambda: waket.Grid(xi_min=1, xi_max=0, r_max=1), "xi_min = 1"),
        (lambda: waket.sample(0, [0] * 6, [1] * 6), "n = 0"),
        (lambda: waket.sample(1, [0] * 5, [1] * 6), "centre"),
        (lambda: waket.sample(1, [0] * 6, [1] * 6, shape="star"), "'star'"),
    ):
        with pytest.raises(ValueError, match=words.replace("(", r"\(")):
            make()


def test_a_channel_guides_and_ramps_end_at_zero() -> None:
    p = waket.Plasma(1e23, 0.1, channel_radius=4e-5, ramp_up=0.01, ramp_down=0.02)
    kp = plasma.plasma_wavenumber(1e23)
    assert p.profile(0.05, 2e-5) == pytest.approx(1e23 * (1 + 4 * 4e-10 / (kp**2 * 4e-5**4)))
    assert p.profile(np.array([0.0, 0.005, 0.05, 0.09, 0.1]), 0.0) == pytest.approx(
        np.array([0, 0.5, 1, 0.5, 0]) * 1e23
    )


def stage(n: int = 7) -> plasma.StageData:
    random = np.random.default_rng(2)
    source, target = random.normal(size=(2, n, 6)) * [1e-6, 1e-6, 1e-6, 1, 1, 10]
    source[:, 5] += 1000
    target[:, 5] += 2000
    return plasma.StageData(
        source, target, np.arange(n, dtype=np.uint64) + 3, np.full(n, 2.5), 0.1,
        {"code": "none", "laser_a0": 2.0, "grid_n_xi": 4}, np.array([1, 2], np.uint64),
    )  # fmt: skip


def test_a_file_gives_back_the_pairs_and_the_settings(tmp_path: Path) -> None:
    a = stage()
    a.save(tmp_path / "pairs.json")
    with pytest.raises(FileExistsError, match="exists"):
        a.save(tmp_path / "pairs.json")
    a.save(tmp_path / "pairs.json", overwrite=True)
    b = plasma.read_stage(tmp_path / "pairs.json")
    for name in ("source", "target"):
        scale = np.abs(getattr(a, name)).max(axis=0)
        # z is written from the entrance of the stage
        assert np.allclose(getattr(b, name), getattr(a, name), rtol=0, atol=1e-15 * (scale + 0.1))
    assert np.array_equal(a.ids, b.ids) and np.array_equal(a.weight, b.weight)
    assert np.array_equal(a.lost, b.lost)
    assert b.length == pytest.approx(a.length, rel=1e-15)
    assert b.settings == a.settings
    half = b.select(b.source[:, 0] > 0)
    assert 0 < len(half) < len(b) and (half.source[:, 0] > 0).all()


def test_numbers_that_are_not_finite_are_named() -> None:
    a = stage()
    a.target[2, 1] = np.nan
    with pytest.raises(ValueError, match=r"target of 1 particles is not finite.* id 5"):
        plasma.StageData(a.source, a.target, a.ids, a.weight, a.length)


def write(path: Path, code: str, time: float, rows: np.ndarray, ids: np.ndarray) -> None:
    """One iteration as `code` writes it: rows x, y, xi [m], px, py, pz [m c]."""
    io = pytest.importorskip("openpmd_api")
    series = io.Series(str(path), io.Access.create)
    step = series.iterations[100]
    step.time, step.time_unit_SI = time, 1.0
    beam = step.particles["electrons"]
    scalar = io.Record_Component.SCALAR
    columns = rows.copy()
    position_unit, momentum_unit = 1.0, 1.0
    if code == "warpx":  # momenta in SI
        columns[:, 3:] *= MC
        columns[:, 2] += C * time
    elif code == "fbpic":  # with a unit
        momentum_unit = MC
        columns[:, 2] += C * time
    elif code == "hipace":  # in units of the plasma, comoving
        position_unit = 1.3e-5
        columns[:, :3] /= position_unit
        momentum_unit = MC
        beam.set_attribute("HiPACE++_use_reference_unitSI", True)

    def put(record: Any, name: str, values: np.ndarray, unit: float = 1.0) -> None:
        record[name].reset_dataset(io.Dataset(values.dtype, values.shape))
        record[name].store_chunk(np.ascontiguousarray(values))
        series.flush()
        if code == "hipace":
            record[name].set_attribute("HiPACE++_reference_unitSI", unit)
        else:
            record[name].unit_SI = unit

    for i, axis in enumerate("xyz"):
        put(beam["position"], axis, columns[:, i], position_unit)
        put(beam["positionOffset"], axis, np.zeros(len(ids)), position_unit)
        put(beam["momentum"], axis, columns[:, 3 + i], momentum_unit)
    put(beam["weighting"], scalar, np.ones(len(ids)))
    mass = 1.0 if code == "hipace" else 9.1093837139e-31
    put(
        beam["mass"], scalar, np.full(len(ids), mass), 9.1093837139e-31 if code == "hipace" else 1.0
    )
    if code == "warpx":  # of before 2024
        put(beam["cpu"], scalar, np.full(len(ids), 3, np.int32))
    put(beam["id"], scalar, ids)
    series.close()


@pytest.mark.parametrize("code", ["warpx", "fbpic", "hipace"])
def test_output_of_other_codes(code: str, tmp_path: Path) -> None:
    """The same particles in the units and frames of each; some do not arrive, the order changes,
    others appear."""
    a = stage(9)
    ids = np.arange(9, dtype=np.uint64) + 11
    write(tmp_path / "a.h5", code, 1e-12, a.source, ids)
    order = np.array([5, 3, 8, 1, 0, 7])
    behind = a.target[order]
    if code == "fbpic":
        behind[0, 3] = np.inf
    new = np.array([1e-6, 0, 0, 0, 0, 100.0])
    write(
        tmp_path / "b.h5", code, 1e-12 + 0.1 / C, np.concatenate((behind, [new])),
        np.append(ids[order], np.uint64(99)),
    )  # fmt: skip
    b = plasma.read_stage(tmp_path / "a.h5", tmp_path / "b.h5", xi=2e-6)
    kept = np.sort(order[1:] if code == "fbpic" else order)
    shift = np.array([0, 0, 2e-6, 0, 0, 0])
    assert np.allclose(b.source, a.source[kept] + shift, rtol=1e-9, atol=1e-15)
    assert np.allclose(b.target, a.target[kept] + shift, rtol=1e-9, atol=1e-15)
    assert b.length == pytest.approx(0.1)
    assert len(b.lost) == 9 - len(kept)
    with pytest.raises(KeyError, match=r"no species 'protons'; it has \['electrons'\]"):
        plasma.read_stage(tmp_path / "a.h5", tmp_path / "b.h5", species="protons")
    with pytest.raises(KeyError, match=r"no iteration 7; it has \[100\]"):
        plasma.read_stage(tmp_path / "a.h5", iterations=(100, 7))


def test_ids_must_be_there_and_unique(tmp_path: Path) -> None:
    a = stage(3)
    write(tmp_path / "a.h5", "fbpic", 0.0, a.source, np.array([1, 2, 2], np.uint64))
    with pytest.raises(ValueError, match="1 ids stand for several particles, the first is 2"):
        plasma.read_stage(tmp_path / "a.h5")
    with pytest.raises(FileNotFoundError, match="nothing"):
        plasma.read_stage(tmp_path / "nothing.json")
    (tmp_path / "text.json").write_text("hello")
    with pytest.raises(ValueError, match="not an openPMD file"):
        plasma.read_stage(tmp_path / "text.json")


@pytest.mark.filterwarnings("ignore")
def test_wake_t_accelerates_and_focuses() -> None:
    """A short plasma on a coarse grid: the gain follows the wave, the beam oscillates, angular
    momentum stays."""
    pytest.importorskip("wake_t")
    source = waket.sample(60, [0, 0, -63e-6, 0, 0, 2000], [2e-6, 2e-6, 1e-6, 4, 4, 20], seed=5)
    data = waket.simulate(
        waket.Laser(a0=2.36, w0=36e-6, duration=86.4e-15),
        waket.Plasma(1.7e23, 1e-3, channel_radius=40e-6),
        waket.Grid(-100e-6, 60e-6, 80e-6, n_xi=80, n_r=40, step=1e-4),
        source,
    )
    assert len(data) == 60 and len(data.lost) == 0
    a, b = data.source, data.target
    gain = (b[:, 5] - a[:, 5]) / data.length
    breaking = plasma.wave_breaking_field(1.7e23) / 0.51099895e6
    assert (gain > 0.1 * breaking).all() and (gain < 1.5 * breaking).all()
    spin = [q[:, 0] * q[:, 4] - q[:, 1] * q[:, 3] for q in (a, b)]
    assert np.allclose(spin[0], spin[1], rtol=0, atol=1e-3 * np.abs(spin[0]).max())
    # about 1.2 rad of an oscillation in the ion column
    phase = data.length / plasma.matched_beta(1.7e23, 2000)
    bent = (b[:, 3] - a[:, 3]) @ a[:, 0]
    assert 0.5 < phase < 2 and bent < 0
    assert data.settings["laser_a0"] == 2.36 and data.settings["code"] == "Wake-T"
