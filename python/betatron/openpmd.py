"""Beams in openPMD files (https://www.openPMD.org, standard 1.1), by the package openPMD-api.

What `save` writes, as one iteration with the number 0:

species "beam" (or another name)
    position/x, y, t   m; t is c times the delay
    momentum/x, y, t   as in memory, relative to the reference momentum p0; unitSI = p0 in kg m/s
                       gives p_x, p_y and -(E - E0)/c in SI units
    positionOffset     0: positions are relative to the reference particle
    spin/x, y, z       of beams with spins: unit vector in the frame ex, ey, ez of the reference
                       particle
    weighting, id      real particles per macroparticle; numbers that stay with the particles
    charge, mass       of one real particle, C and kg
    attributes         as ImpactX names them: mass_ref [kg], charge_ref [C], beta_ref, gamma_ref,
                       beta_gamma_ref, s_ref, x_ref, y_ref, z_ref, t_ref (c times time) [m],
                       px_ref, py_ref, pz_ref, pt_ref (in m c; pt_ref = -gamma);
                       from which the reference particle is restored bit by bit: species_name,
                       species_mass_eV, species_charge_e, species_anomaly, gamma_minus_1_ref,
                       frame_ref (row-major, rows ex, ey, ez)
species "beam_lost", if particles were lost
    position, momentum, spin, weighting, id of each when it was lost (momentum relative to p0 there,
    without SI unit, since p0 may have changed since; spin 0 where it had none), and s [m], turn,
    element, element_name and reason (numbers that the attributes element_names and reason_names
    spell out)

`load` reads these files, and those of ImpactX's beam monitors, whose layout is the same.
"""

from __future__ import annotations

import contextlib
import glob
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from betatron import _core
from betatron._constants import ELEMENTARY_CHARGE, SPEED_OF_LIGHT
from betatron._core import Reference, Species

if TYPE_CHECKING:
    from betatron.beam import Beam

_AXES = ("x", "y", "t")
_SPACE = ("x", "y", "z")
_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_LOST_SUFFIX = "_lost"
_FILE_TYPES = (".h5", ".json", ".bp", ".bp4", ".bp5")


def save(beam: Beam, path: str | os.PathLike[str], *, overwrite: bool, name: str) -> None:
    """Write a beam as a new file; see `Beam.save`."""
    if not name or not name.replace("_", "").isalnum():
        raise ValueError(f"Beam.save: name = {name!r} must be letters, digits and underscores")
    with new_file(path, "Beam.save", overwrite=overwrite) as (io, series):
        iteration = begin_iteration(series, 0, beam.reference.t / SPEED_OF_LIGHT)
        _write_beam(io, iteration.particles[name], beam)
        if beam.n_lost:
            _write_lost(io, iteration.particles[name + _LOST_SUFFIX], beam)
        iteration.close()


def load(
    cls: type[Beam], path: str | os.PathLike[str], *, iteration: int | None, name: str | None
) -> Beam:
    """Read a beam; see `Beam.load`."""
    with opened_file(path, "Beam.load") as series:
        numbers = sorted(series.iterations)
        if not numbers:
            raise ValueError(f"Beam.load: {path} has no iterations")
        if iteration is None:
            iteration = numbers[-1]
        if iteration not in numbers:
            raise KeyError(f"Beam.load: {path} has no iteration {iteration}; it has {numbers}")
        species = series.iterations[iteration].open().particles
        if name is None:
            name = _only_species(list(species), path)
        if name not in species:
            raise KeyError(f"Beam.load: {path} has no species {name!r}; it has {list(species)}")
        where = f"Beam.load: species {name!r} of {path}"
        beam = _read_beam(cls, series, species[name], where)
        if name + _LOST_SUFFIX in species:
            _read_lost(series, species[name + _LOST_SUFFIX], beam)
    return beam


# --- files ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def new_file(
    path: str | os.PathLike[str], where: str, *, overwrite: bool
) -> Iterator[tuple[Any, Any]]:
    """(openpmd_api, a series to write to). Its file takes the place of `path` when the block ends;
    if that raises, nothing is left of it, and a file that was there stays. Errors begin with
    `where`: FileExistsError unless `overwrite`, ValueError for other kinds of files."""
    import openpmd_api as io

    path = Path(path)
    known = [s for s in _FILE_TYPES if s.removeprefix(".") in io.file_extensions]
    if path.suffix not in known:
        raise ValueError(f"{where}: {path} must end in one of {', '.join(known)}")
    if "%" in path.name:
        raise ValueError(f"{where}: {path} must not contain %: it is one file")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{where}: {path} exists; overwrite=True replaces it")

    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        series = io.Series(str(unfinished), io.Access.create)
        try:
            series.set_software("betatron", _core.version)
            series.set_particles_path("particles")
            yield io, series
        finally:
            series.close()
        if path.is_dir():  # ADIOS2
            shutil.rmtree(path)
        os.replace(unfinished, path)
    finally:
        if unfinished.is_dir():
            shutil.rmtree(unfinished)
        else:
            unfinished.unlink(missing_ok=True)


def begin_iteration(series: Any, number: int, time: float) -> Any:
    """A new iteration of a series at a time [s]."""
    iteration = series.iterations[number]
    iteration.time, iteration.dt, iteration.time_unit_SI = time, 0.0, 1.0
    return iteration


@contextlib.contextmanager
def opened_file(path: str | os.PathLike[str], where: str) -> Iterator[Any]:
    """A series to read, of one file or of one per iteration ("beam_%T.h5"). FileNotFoundError and
    ValueError (not openPMD) begin with `where`."""
    import openpmd_api as io

    pattern, several = re.subn(r"%\d*T", "*", str(path))
    if not (glob.glob(pattern) if several else Path(path).exists()):
        raise FileNotFoundError(f"{where}: there is no {path}")
    if not several and Path(path).suffix == ".h5":
        # openPMD-api writes pages of messages about such files, and may crash when it opens another one
        with open(path, "rb") as file:
            if file.read(len(_HDF5_SIGNATURE)) != _HDF5_SIGNATURE:
                raise ValueError(f"{where}: {path} is not an openPMD file: it is not HDF5")
    try:
        series = io.Series(str(path), io.Access.read_only)
    except Exception as error:  # openPMD-api raises various types, RuntimeError among them
        raise ValueError(f"{where}: {path} is not an openPMD file: {error}") from error
    try:
        yield series
    finally:
        series.close()


# --- writing --------------------------------------------------------------------------------------


def _write_beam(io: Any, species: Any, beam: Beam) -> None:
    ref = beam.reference
    for key, value in _reference_attributes(ref).items():
        species.set_attribute(key, value)
    positions, momenta = [beam.x, beam.y, beam.t], [beam.px, beam.py, beam.pt]
    write_positions(io, species, _AXES, positions, momenta, _momentum_SI(ref), {})
    if beam.has_spin:
        _write_vector(io, species["spin"], [beam.sx, beam.sy, beam.sz], {}, 1.0, _SPACE)
    write_identity(io, species, beam.weight, beam.id, _charge_SI(ref), _mass_SI(ref))


def write_positions(
    io: Any, species: Any, axes: tuple[str, ...], positions: Sequence[np.ndarray],
    momenta: Sequence[np.ndarray], unit: float, offset: Mapping[str, float],
) -> None:  # fmt: skip
    """The records position [m], momentum in a unit [kg m/s], and positionOffset, by axis; 0 where
    not given."""
    length = {io.Unit_Dimension.L: 1}
    momentum = {io.Unit_Dimension.L: 1, io.Unit_Dimension.M: 1, io.Unit_Dimension.T: -1}
    _write_vector(io, species["position"], positions, length, 1.0, axes)
    _write_vector(io, species["momentum"], momenta, momentum, unit, axes)
    _write_offset(io, species["positionOffset"], len(positions[0]), length, axes, offset)


def write_identity(
    io: Any, species: Any, weight: np.ndarray, ids: np.ndarray, charge: float, mass: float
) -> None:
    """What tells the particles apart and what they are: weighting, id, charge [C] and mass [kg] of
    one; and of all records of the species, how they go with the weight (extension ED-PIC)."""
    _write_scalar(io, species["weighting"], weight)
    _write_scalar(io, species["id"], ids)
    _write_constant(
        io, species["charge"], charge, len(ids), {io.Unit_Dimension.T: 1, io.Unit_Dimension.I: 1}
    )
    _write_constant(io, species["mass"], mass, len(ids), {io.Unit_Dimension.M: 1})
    for record in species:
        # of one real particle but for the weight; a macroparticle has weight^power times as much
        power = 1.0 if record in ("weighting", "momentum", "charge", "mass") else 0.0
        species[record].set_attribute("macroWeighted", np.uint32(record == "weighting"))
        species[record].set_attribute("weightingPower", power)


def _write_lost(io: Any, species: Any, beam: Beam) -> None:
    lost = beam.lost_columns()
    length = {io.Unit_Dimension.L: 1}
    _write_vector(io, species["position"], [lost[q] for q in _AXES], length, 1.0)
    _write_vector(io, species["momentum"], [lost["p" + q] for q in _AXES], {}, 1.0)
    if "sx" in lost:
        spins = [np.nan_to_num(lost["s" + q]) for q in _SPACE]  # JSON has no NaN
        _write_vector(io, species["spin"], spins, {}, 1.0, _SPACE)
    _write_offset(io, species["positionOffset"], beam.n_lost, length)
    _write_scalar(io, species["s"], lost["s"], length)
    for name in ("weight", "id", "turn", "element", "reason"):
        _write_scalar(io, species["weighting" if name == "weight" else name], lost[name])
    names, indices = np.unique(beam.lost["element_name"].to_numpy(dtype=str), return_inverse=True)
    _write_scalar(io, species["element_name"], indices.astype(np.int64))
    # A leading ":": no backend takes empty text, and particles may be lost in unnamed elements.
    species.set_attribute("element_names", [":" + n for n in names.tolist()])
    species.set_attribute("reason_names", list(_core.loss_reasons))


def _write_vector(
    io: Any, record: Any, columns: Sequence[np.ndarray], dimension: Mapping[Any, float],
    unit_SI: float, axes: tuple[str, ...] = _AXES,
) -> None:  # fmt: skip
    record.unit_dimension = dimension
    record.time_offset = 0.0
    for axis, values in zip(axes, columns, strict=True):
        _write_values(io, record[axis], values, unit_SI)


def _write_scalar(
    io: Any, record: Any, values: np.ndarray, dimension: Mapping[Any, float] | None = None
) -> None:
    record.unit_dimension = dimension or {}
    record.time_offset = 0.0
    _write_values(io, record[io.Record_Component.SCALAR], values, 1.0)


def _write_values(io: Any, component: Any, values: np.ndarray, unit_SI: float) -> None:
    component.unit_SI = unit_SI
    if len(values):
        component.reset_dataset(io.Dataset(values.dtype, values.shape))
        component.store_chunk(np.ascontiguousarray(values))
        component.series_flush()
    else:
        component.make_empty(values.dtype, 1)


def _write_offset(
    io: Any, record: Any, n: int, dimension: Mapping[Any, float],
    axes: tuple[str, ...] = _AXES, offset: Mapping[str, float] | None = None,
) -> None:  # fmt: skip
    record.unit_dimension = dimension
    record.time_offset = 0.0
    for axis in axes:
        _write_constant_component(io, record[axis], (offset or {}).get(axis, 0.0), n)


def _write_constant(
    io: Any, record: Any, value: float, n: int, dimension: Mapping[Any, float]
) -> None:
    record.unit_dimension = dimension
    record.time_offset = 0.0
    _write_constant_component(io, record[io.Record_Component.SCALAR], value, n)


def _write_constant_component(io: Any, component: Any, value: float, n: int) -> None:
    component.unit_SI = 1.0
    component.reset_dataset(io.Dataset(np.dtype(np.float64), [n]))
    component.make_constant(value)


def _mass_SI(ref: Reference) -> float:
    return ref.species.mass * ELEMENTARY_CHARGE / SPEED_OF_LIGHT**2


def _charge_SI(ref: Reference) -> float:
    return ref.species.charge * ELEMENTARY_CHARGE


def _momentum_SI(ref: Reference) -> float:
    return ref.momentum * ELEMENTARY_CHARGE / SPEED_OF_LIGHT


def _reference_attributes(ref: Reference) -> dict[str, Any]:
    px, py, pz = (ref.beta_gamma * ref.frame[2]).tolist()
    x, y, z = ref.position.tolist()
    return {
        "mass_ref": _mass_SI(ref),
        "charge_ref": _charge_SI(ref),
        "beta_ref": ref.beta,
        "gamma_ref": ref.gamma,
        "beta_gamma_ref": ref.beta_gamma,
        "s_ref": ref.s,
        "x_ref": x,
        "y_ref": y,
        "z_ref": z,
        "t_ref": ref.t,
        "px_ref": px,
        "py_ref": py,
        "pz_ref": pz,
        "pt_ref": -ref.gamma,
        "species_name": ref.species.name,
        "species_mass_eV": ref.species.mass,
        "species_charge_e": ref.species.charge,
        "species_anomaly": ref.species.anomaly,
        "gamma_minus_1_ref": ref.gamma_minus_1,
        "frame_ref": ref.frame.ravel().tolist(),
    }


# --- reading --------------------------------------------------------------------------------------


def _only_species(names: list[str], path: str | os.PathLike[str]) -> str:
    if "beam" in names:
        return "beam"
    candidates = [n for n in names if not n.endswith(_LOST_SUFFIX)]
    if len(candidates) != 1:
        raise KeyError(
            f"Beam.load: {path} has the species {names}; name=... says which one is the beam"
        )
    return candidates[0]


def _read_beam(cls: type[Beam], series: Any, species: Any, where: str) -> Beam:
    for record in ("position", "momentum"):
        missing = [a for a in _AXES if record not in species or a not in species[record]]
        if missing:
            raise ValueError(
                f"{where} has no {record}/{missing[0]}: only beams at a fixed s, in coordinates "
                "x, y, t and their momenta, can be read"
            )
    ref = _read_reference(species, where)
    columns = {}
    for axis in _AXES:
        columns[axis] = _read_component(series, species["position"][axis], 1.0)
        columns["p" + axis] = _read_momentum(series, species["momentum"], axis, _momentum_SI(ref))
    if "spin" in species:
        columns |= {"s" + q: _read_component(series, species["spin"][q], 1.0) for q in _SPACE}
    scalars = {
        target: _read_scalar(series, species[source])
        for target, source in (("weight", "weighting"), ("id", "id"))
        if source in species
    }
    try:
        return cls.from_arrays(ref, **columns, **scalars)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from error


def _read_lost(series: Any, species: Any, beam: Beam) -> None:
    scalars = {
        "weight": np.float64, "id": np.uint64, "s": np.float64, "turn": np.int64,
        "element": np.int64, "reason": np.uint8, "element_name": np.int64,
    }  # fmt: skip
    columns = {
        name: _read_scalar(series, species["weighting" if name == "weight" else name]).astype(kind)
        for name, kind in scalars.items()
    }
    for axis in _AXES:
        columns[axis] = _read_component(series, species["position"][axis], 1.0)
        columns["p" + axis] = _read_component(series, species["momentum"][axis], 1.0)
    if "spin" in species:
        spins = [_read_component(series, species["spin"][q], 1.0) for q in _SPACE]
        none = ~np.any(spins, axis=0)
        for q, values in zip(_SPACE, spins, strict=True):
            columns["s" + q] = np.where(none, np.nan, values)
    names = [n.removeprefix(":") for n in _texts(species, "element_names")]
    beam._lost_names = [names[i] for i in columns.pop("element_name").tolist()]
    # The numbers of the reasons may be others in the version that wrote the file.
    reasons = [_core.loss_reasons.index(n) for n in _texts(species, "reason_names")]
    columns["reason"] = np.array(reasons, dtype=np.uint8)[columns["reason"]]
    beam.set_lost(**columns)


def _texts(species: Any, attribute: str) -> list[str]:
    value = species.get_attribute(attribute)
    return [value] if isinstance(value, str) else list(value)


def _read_scalar(series: Any, record: Any) -> np.ndarray:
    import openpmd_api as io

    return _read_component(series, record[io.Record_Component.SCALAR], 1.0)


def _read_momentum(series: Any, record: Any, axis: str, p0: float) -> np.ndarray:
    """Relative to the reference momentum, whether the record is in SI units or a plain number."""
    in_SI = tuple(record.unit_dimension)[:3] == (1.0, 1.0, -1.0)
    return _read_component(series, record[axis], p0 if in_SI else 1.0)


def _read_component(series: Any, component: Any, unit: float) -> np.ndarray:
    """Values in `unit` (an SI value)."""
    if component.shape[0] == 0:
        return np.empty(0, dtype=component.dtype)
    values = component.load_chunk()
    series.flush()
    # Not multiplied by 1: in files written by `save` every bit stays as it was.
    scale = component.unit_SI / unit
    return values if scale == 1.0 else values * values.dtype.type(scale)


def _read_reference(species: Any, where: str) -> Reference:
    given = set(species.attributes)

    def value(name: str) -> Any:
        if name not in given:
            raise ValueError(f"{where} has no attribute {name}, which a beam needs")
        return species.get_attribute(name)

    if "gamma_minus_1_ref" in given:
        particle = Species(
            value("species_name"),
            value("species_mass_eV"),
            value("species_charge_e"),
            value("species_anomaly"),
        )
        place = {q: value(f"{q}_ref") for q in ("s", "t", "x", "y", "z")}
        return Reference.from_gamma_minus_1(
            particle,
            value("gamma_minus_1_ref"),
            place["s"],
            place["t"],
            (place["x"], place["y"], place["z"]),
            value("frame_ref"),
        )
    mass = value("mass_ref") / ELEMENTARY_CHARGE * SPEED_OF_LIGHT**2
    direction = np.array([value("px_ref"), value("py_ref"), value("pz_ref")], dtype=float)
    return Reference(
        _species_of(mass, value("charge_ref") / ELEMENTARY_CHARGE),
        beta_gamma=value("beta_gamma_ref"),
        s=value("s_ref"),
        t=value("t_ref"),
        position=[value("x_ref"), value("y_ref"), value("z_ref")],
        frame=_upright_frame(direction),
    )


def _species_of(mass: float, charge: float) -> Species:
    """The known species of this mass [eV] and charge [e], as far as constants of codes agree."""
    for name in Species.names():
        known = Species(name)
        if np.isclose(mass, known.mass, rtol=1e-6) and np.isclose(charge, known.charge, rtol=1e-6):
            return known
    return Species("particle", mass=mass, charge=charge)


def _upright_frame(direction: np.ndarray) -> np.ndarray:
    """The frame that flies in a direction without roll: ex is horizontal."""
    ez = direction / np.linalg.norm(direction)
    up = np.array([0.0, 1.0, 0.0]) if abs(ez[1]) < 0.999 else np.array([0.0, 0.0, -ez[1]])
    ex = np.cross(up, ez)
    ex /= np.linalg.norm(ex)
    return np.array([ex, np.cross(ez, ex), ez])
