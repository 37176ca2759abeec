"""Beams in openPMD files: every bit comes back, units are right, nothing is written over."""

import betatron as bt
import numpy as np
import openpmd_api as io
import pandas as pd
import pytest

COORDINATES = ("x", "px", "y", "py", "t", "pt")
SPEED_OF_LIGHT = 299792458.0
ELEMENTARY_CHARGE = 1.602176634e-19
SCALAR = io.Record_Component.SCALAR

TURNED = [[0.6, 0.0, -0.8], [0.0, 1.0, 0.0], [0.8, 0.0, 0.6]]
REFERENCE = bt.Reference(
    "electron", kinetic_energy=99.489e6, s=1.25, t=1.3, position=(0.1, 0.2, 0.3), frame=TURNED
)
SHAPE = bt.Waterbag.from_twiss(
    beta_x=2,
    alpha_x=0.5,
    emittance_x=1e-8,
    beta_y=3,
    emittance_y=1e-8,
    beta_t=0.1,
    emittance_t=1e-6,
)

backends = pytest.mark.parametrize(
    "suffix", [s for s in (".h5", ".json", ".bp") if s[1:] in io.file_extensions]
)


def make_beam(n=100, precision="double", lost=0, reference=REFERENCE):
    beam = bt.Beam(reference, SHAPE, n=n, charge=25e-12 if n else None, precision=precision)
    beam.id[:] = np.arange(n, dtype=np.uint64)[::-1] + 2**63
    if lost:
        ramp = np.arange(lost)
        columns = {q: 0.1 * ramp + i for i, q in enumerate((*COORDINATES, "weight", "s"))}
        beam.set_lost(
            id=ramp.astype(np.uint64),
            **columns,
            turn=-ramp.astype(np.int64),
            element=(ramp % 3).astype(np.int64),
            reason=(ramp % 3).astype(np.uint8),
        )
        beam._name_losses(["q1", "", "Größe"].__getitem__)
    return beam


def assert_same(a, b):
    assert a.reference == b.reference
    assert (a.precision, len(a)) == (b.precision, len(b))
    for name in (*COORDINATES, "weight", "id"):
        assert a[name].tobytes() == b[name].tobytes()
    pd.testing.assert_frame_equal(a.lost, b.lost)


@backends
@pytest.mark.parametrize("precision", ["single", "double"])
@pytest.mark.parametrize("n, lost", [(100, 0), (100, 7), (1, 1), (0, 0), (0, 2)])
def test_round_trip(tmp_path, suffix, precision, n, lost):
    beam = make_beam(n, precision, lost)
    path = tmp_path / f"beam{suffix}"
    beam.save(path)
    again = bt.Beam.load(path)
    assert_same(beam, again)
    again.x[:] = 0  # writable, and the file is closed
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    "species, energy",
    [
        (("proton",), {"kinetic_energy": 1e-3}),
        (("C6+", 11.1779e9, 6, 0.1), {"beta_gamma": 1 / 3}),
    ],
)
def test_round_trip_of_the_reference(tmp_path, species, energy):
    reference = bt.Reference(bt.Species(*species), **energy)
    beam = make_beam(3, reference=reference)
    beam.save(tmp_path / "beam.json")
    assert_same(beam, bt.Beam.load(tmp_path / "beam.json"))


def test_records_in_SI_units(tmp_path):
    beam = make_beam(50, lost=3)
    beam.save(tmp_path / "beam.h5", name="electrons")
    series = io.Series(str(tmp_path / "beam.h5"), io.Access.read_only)
    iteration = series.iterations[0]
    assert iteration.time * iteration.time_unit_SI == pytest.approx(1.3 / SPEED_OF_LIGHT)
    assert sorted(iteration.particles) == ["electrons", "electrons_lost"]
    species = iteration.particles["electrons"]

    assert list(species["position"].unit_dimension) == [1, 0, 0, 0, 0, 0, 0]
    assert list(species["momentum"].unit_dimension) == [1, 1, -1, 0, 0, 0, 0]
    assert list(species["charge"].unit_dimension) == [0, 0, 1, 1, 0, 0, 0]
    assert list(species["mass"].unit_dimension) == [0, 1, 0, 0, 0, 0, 0]
    # ED-PIC: what is of one real particle but goes with the number of them
    powers = {name: species[name].get_attribute("weightingPower") for name in species}
    one = {"momentum", "charge", "mass", "weighting"}
    assert {name for name, power in powers.items() if power == 1.0} == one
    assert {name for name, power in powers.items() if power != 0.0} == one
    assert species["weighting"].get_attribute("macroWeighted") == 1
    assert species["momentum"].get_attribute("macroWeighted") == 0
    p0 = REFERENCE.momentum * ELEMENTARY_CHARGE / SPEED_OF_LIGHT
    values = {}
    for axis in "xyt":
        component = species["momentum"][axis]
        chunk = component.load_chunk()
        series.flush()
        values[axis] = chunk * component.unit_SI
        assert np.allclose(values[axis], p0 * beam["p" + axis], rtol=1e-14)
    energy_deviation = -values["t"] * SPEED_OF_LIGHT / ELEMENTARY_CHARGE  # eV
    gamma = REFERENCE.gamma - beam.pt * REFERENCE.beta_gamma
    expected = (gamma - REFERENCE.gamma) * REFERENCE.species.mass
    assert np.allclose(energy_deviation, expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())

    mass = species["mass"][SCALAR].load_chunk()
    charge = species["charge"][SCALAR].load_chunk()
    weight = species["weighting"][SCALAR].load_chunk()
    series.flush()
    assert np.allclose(mass, 9.1093837139e-31) and np.allclose(charge, -ELEMENTARY_CHARGE)
    assert np.sum(weight * charge) == pytest.approx(-25e-12)

    def attribute(name):
        return species.get_attribute(name)

    assert attribute("mass_ref") == pytest.approx(9.1093837139e-31)
    assert attribute("charge_ref") == -ELEMENTARY_CHARGE
    assert attribute("gamma_ref") == REFERENCE.gamma == -attribute("pt_ref")
    assert [attribute(f"{q}_ref") for q in "sxyzt"] == [1.25, 0.1, 0.2, 0.3, 1.3]
    momentum = np.array([attribute(f"p{q}_ref") for q in "xyz"])
    assert momentum == pytest.approx(REFERENCE.beta_gamma * np.array([0.8, 0, 0.6]))
    series.close()


@pytest.mark.parametrize("n, lost", [(100, 5), (0, 0)])
def test_files_are_valid(tmp_path, n, lost):
    validator = pytest.importorskip("openpmd_validator.check_h5")
    make_beam(n, lost=lost).save(tmp_path / "beam.h5")
    errors, _ = validator.check_file(str(tmp_path / "beam.h5"))
    assert errors == 0


@backends
def test_nothing_is_written_over(tmp_path, suffix):
    path = tmp_path / f"beam{suffix}"
    first, second = make_beam(3), make_beam(5)
    first.save(path)
    with pytest.raises(FileExistsError, match=r"beam.* exists; overwrite=True"):
        second.save(path)
    assert len(bt.Beam.load(path)) == 3
    second.save(path, overwrite=True)
    assert len(bt.Beam.load(path)) == 5
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "beam.h5"
    make_beam(3).save(path)
    monkeypatch.setattr("betatron.openpmd._write_beam", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        make_beam(5).save(path, overwrite=True)
    assert len(bt.Beam.load(path)) == 3
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


# --- files of other programs ----------------------------------------------------------------------


def write_like_impactx(path, records, attributes, iteration=7, name="beam"):
    """The layout of ImpactX's beam monitors: no units, reference particle in attributes."""
    series = io.Series(str(path), io.Access.create)
    species = series.iterations[iteration].particles[name]
    for key, value in attributes.items():
        species.set_attribute(key, value)
    for record, components in records.items():
        for component, values in components.items():
            target = species[record][component]
            target.reset_dataset(io.Dataset(values.dtype, values.shape))
            target.store_chunk(values)
    for component in "xyt":
        offset = species["positionOffset"][component]
        offset.reset_dataset(io.Dataset(np.dtype(float), [3]))
        offset.make_constant(0.0)
    series.close()


RECORDS = {
    "position": {q: np.array([1e-3, 2e-3, 3e-3]) for q in "xyt"},
    "momentum": {q: np.array([1e-4, 2e-4, 3e-4]) for q in "xyt"},
    "weighting": {SCALAR: np.full(3, 1e6)},
    "id": {SCALAR: np.array([4, 5, 6], dtype=np.uint64)},
}
ATTRIBUTES = {
    "mass_ref": 1.67262192595e-27,
    "charge_ref": 1.602176634e-19,
    "beta_gamma_ref": 2.0,
    "s_ref": 3.0,
    "x_ref": 0.1,
    "y_ref": 0.0,
    "z_ref": 2.9,
    "t_ref": 3.1,
    "px_ref": -1.2,
    "py_ref": 0.0,
    "pz_ref": 1.6,
}


def test_file_of_impactx(tmp_path):
    write_like_impactx(tmp_path / "monitor.h5", RECORDS, ATTRIBUTES)
    beam = bt.Beam.load(tmp_path / "monitor.h5", iteration=7)
    ref = beam.reference
    assert ref.species == bt.Species("proton")
    assert (ref.beta_gamma, ref.s, ref.t) == (pytest.approx(2), 3.0, 3.1)
    assert ref.position.tolist() == [0.1, 0.0, 2.9]
    assert np.allclose(ref.frame, [[0.8, 0, 0.6], [0, 1, 0], [-0.6, 0, 0.8]])
    assert beam.x.tolist() == [1e-3, 2e-3, 3e-3] and beam.pt.tolist() == [1e-4, 2e-4, 3e-4]
    assert beam.weight.tolist() == [1e6] * 3 and beam.id.tolist() == [4, 5, 6]


def test_unknown_species_and_its_only_name(tmp_path):
    attributes = {**ATTRIBUTES, "mass_ref": 2e-26, "charge_ref": 6 * ELEMENTARY_CHARGE}
    write_like_impactx(tmp_path / "m.json", RECORDS, attributes, name="ions")
    species = bt.Beam.load(tmp_path / "m.json").reference.species
    assert species.charge == pytest.approx(6)
    assert species.mass == pytest.approx(2e-26 * SPEED_OF_LIGHT**2 / ELEMENTARY_CHARGE)


def test_one_file_per_iteration(tmp_path):
    for number in (2, 10):
        records = {**RECORDS, "weighting": {SCALAR: np.full(3, float(number))}}
        write_like_impactx(tmp_path / f"m_{number}.json", records, ATTRIBUTES, iteration=number)
    assert bt.Beam.load(tmp_path / "m_%T.json").weight[0] == 10
    assert bt.Beam.load(tmp_path / "m_%T.json", iteration=2).weight[0] == 2


@pytest.mark.parametrize(
    "records, attributes, message",
    [
        ({"position": {"x": np.zeros(3)}}, {}, "no position/y"),
        ({"momentum": {"z": np.zeros(3)}}, {}, "no momentum/x"),
        ({}, {"mass_ref": None}, "no attribute mass_ref"),
        ({"position": {q: np.full(3, np.nan) for q in "xyt"}}, {}, r"x\[0\] = nan must be finite"),
    ],
)
def test_files_without_a_beam(tmp_path, records, attributes, message):
    attributes = {k: v for k, v in {**ATTRIBUTES, **attributes}.items() if v is not None}
    write_like_impactx(tmp_path / "m.h5", {**RECORDS, **records}, attributes)
    with pytest.raises(ValueError, match=message):
        bt.Beam.load(tmp_path / "m.h5")


def test_errors_of_paths_and_names(tmp_path):
    beam = make_beam(2)
    for name in ("beam.txt", "beam"):
        with pytest.raises(ValueError, match=r"must end in one of \.h5"):
            beam.save(tmp_path / name)
    with pytest.raises(ValueError, match="must not contain %"):
        beam.save(tmp_path / "beam_%T.h5")
    with pytest.raises(ValueError, match="name = 'a/b'"):
        beam.save(tmp_path / "beam.h5", name="a/b")
    for name in ("none.h5", "none_%T.h5"):
        with pytest.raises(FileNotFoundError, match="there is no"):
            bt.Beam.load(tmp_path / name)
    (tmp_path / "text.h5").write_text("not a file of HDF5")
    with pytest.raises(ValueError, match="is not an openPMD file: it is not HDF5"):
        bt.Beam.load(tmp_path / "text.h5")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["text.h5"]

    beam.save(tmp_path / "beam.h5", name="a")
    with pytest.raises(KeyError, match="no iteration 3; it has \\[0\\]"):
        bt.Beam.load(tmp_path / "beam.h5", iteration=3)
    with pytest.raises(KeyError, match="no species 'b'; it has \\['a'\\]"):
        bt.Beam.load(tmp_path / "beam.h5", name="b")
