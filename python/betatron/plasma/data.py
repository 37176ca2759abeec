"""Particles in front of and behind a stage, all at one time: in memory, in openPMD files.

Rows are x, y, xi [m], px, py, pz [m c]. xi = z - c T, with the time T since the driver was at the
entrance of the stage (z = 0), so that xi is the place in the wake: the driver at xi = 0, xi < 0
behind it.

What `StageData.save` writes, in one openPMD file (standard 1.1): the iterations 0 (in front) and 1
(behind), at their times; a species with position (z along the beamline: a constant positionOffset
is c T), momentum in SI units, weighting, id, charge and mass; all settings of the simulation as
attributes of the series, `setting_NAME`. `read_stage` reads these and those of other codes:

WarpX, FBPIC, Wake-T   z in the laboratory at the time of the iteration; momenta in SI units
HiPACE++               z is in the comoving frame already; units are those of its attribute
                       HiPACE++_reference_unitSI, whether it ran in SI or in normalised units

Particles are matched by their ids (those of WarpX of before 2024 with the record cpu beside). Those
in front that are not behind have been lost on the way; they are counted and left out.
Source: openPMD standard 1.1 (https://www.openPMD.org), extension ED-PIC.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from betatron._constants import ELECTRON_MASS, ELEMENTARY_CHARGE, SPEED_OF_LIGHT
from betatron.openpmd import (
    begin_iteration,
    new_file,
    opened_file,
    write_identity,
    write_positions,
)

_SETTING = "setting_"
_AXES = ("x", "y", "z")


@dataclasses.dataclass(frozen=True)
class StageData:
    """Particles in front of (`source`) and behind (`target`) a stage, float64 arrays of shape (n,
    6), row by row the same particle.

    ids: (n,) uint64. weight: (n,) real particles each stands for. length: of the stage [m].
    settings: what made them, names to numbers, texts or lists. lost: ids of particles that did not
    arrive. ValueError names what has a wrong shape or is not finite.
    """

    source: np.ndarray
    target: np.ndarray
    ids: np.ndarray
    weight: np.ndarray
    length: float
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    lost: np.ndarray = dataclasses.field(default_factory=lambda: np.empty(0, np.uint64))

    def __post_init__(self) -> None:
        n = len(self.source)
        for name, shape in (
            ("source", (n, 6)),
            ("target", (n, 6)),
            ("ids", (n,)),
            ("weight", (n,)),
        ):
            value = getattr(self, name)
            if value.shape != shape:
                raise ValueError(f"StageData: {name} has shape {value.shape}; wanted: {shape}")
        for name in ("source", "target", "weight"):
            bad = ~np.isfinite(getattr(self, name)).reshape(n, -1).all(axis=1)
            if bad.any():
                raise ValueError(
                    f"StageData: {name} of {bad.sum()} particles is not finite, the first has the "
                    "id "
                    f"{self.ids[np.argmax(bad)]}"
                )

    def __len__(self) -> int:
        return len(self.source)

    def __repr__(self) -> str:
        return f"StageData({len(self)} particles, length={self.length:g} m, {len(self.lost)} lost)"

    def select(self, rows: np.ndarray) -> StageData:
        """The particles of these rows (indices, or a mask of shape (n,))."""
        return dataclasses.replace(
            self, source=self.source[rows], target=self.target[rows], ids=self.ids[rows],
            weight=self.weight[rows],
        )  # fmt: skip

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write a new openPMD file (.h5, .json, .bp). FileExistsError unless `overwrite`."""
        with new_file(path, "StageData.save", overwrite=overwrite) as (io, series):
            for name, value in self.settings.items():
                series.set_attribute(_SETTING + name, value)
            for step, rows in enumerate((self.source, self.target)):
                time = step * self.length / SPEED_OF_LIGHT
                iteration = begin_iteration(series, step, time)
                beam = iteration.particles["beam"]
                offset = {"z": SPEED_OF_LIGHT * time}
                mc = ELECTRON_MASS * SPEED_OF_LIGHT
                write_positions(io, beam, _AXES, rows.T[:3], rows.T[3:], mc, offset)
                write_identity(io, beam, self.weight, self.ids, -ELEMENTARY_CHARGE, ELECTRON_MASS)
                if step == 0 and len(self.lost):
                    beam.set_attribute("lost_ids", self.lost.tolist())
                iteration.close()


def read_stage(
    initial: str | os.PathLike[str],
    final: str | os.PathLike[str] | None = None,
    *,
    species: str | None = None,
    iterations: tuple[int, int] | None = None,
    xi: float = 0.0,
    frame: str | None = None,
) -> StageData:
    """Pairs of particles from openPMD output of a simulation.

    initial, final: files or series ("beam_%T.h5") with the particles in front of and behind the
        stage; without `final`, both are in `initial`.
    species: its name; not needed where there is one only.
    iterations: their numbers; by default the first of `initial` and the last of `final`.
    xi: added to z - c t [m]: where the driver was at t = 0 with the sign changed, so that it is
    at 0. frame: of z, "lab" or "comoving"; by default comoving for HiPACE++ and lab for others.

    Particles with numbers that are not finite count as lost. FileNotFoundError, KeyError (a species
    or an iteration that is not there), ValueError (no ids, ids that are not unique, no particle in
    both, not openPMD) name the file.
    """
    if frame not in (None, "lab", "comoving"):
        raise ValueError(f"read_stage: frame = {frame!r} must be 'lab', 'comoving' or None")
    final = initial if final is None else final
    first, last = iterations if iterations is not None else (None, None)
    a = _read(initial, species, first, 0, frame, xi)
    b = _read(final, species, last, -1, frame, xi)
    common, i, j = np.intersect1d(a.ids, b.ids, assume_unique=True, return_indices=True)
    ok = np.isfinite(a.rows[i]).all(axis=1) & np.isfinite(b.rows[j]).all(axis=1)
    if not ok.any():
        raise ValueError(f"read_stage: {initial} and {final} have no particle in common")
    i, j, common = i[ok], j[ok], common[ok]
    lost = np.union1d(np.setdiff1d(a.ids, common, assume_unique=True), a.known_lost)
    return StageData(
        a.rows[i], b.rows[j], common.astype(np.uint64), a.weight[i],
        SPEED_OF_LIGHT * (b.time - a.time), a.settings, lost.astype(np.uint64),
    )  # fmt: skip


# --- openPMD --------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Snapshot:
    rows: np.ndarray
    ids: np.ndarray
    weight: np.ndarray
    time: float
    settings: dict[str, Any]
    known_lost: np.ndarray


def _read(
    path: str | os.PathLike[str], species: str | None, number: int | None, which: int,
    frame: str | None, xi: float,
) -> _Snapshot:  # fmt: skip
    import openpmd_api as io

    where = f"read_stage: {path}"
    with opened_file(path, "read_stage") as series:
        numbers = sorted(series.iterations)
        if number is None:
            if not numbers:
                raise ValueError(f"{where} has no iterations")
            number = numbers[which]
        if number not in numbers:
            raise KeyError(f"{where} has no iteration {number}; it has {numbers}")
        step = series.iterations[number].open()
        names = sorted(step.particles)
        if species is None:
            if len(names) != 1:
                raise KeyError(f"{where} has the species {names}; species=... says which")
            species = names[0]
        if species not in names:
            raise KeyError(f"{where} has no species {species!r}; it has {names}")
        beam = step.particles[species]
        hipace = "HiPACE++_use_reference_unitSI" in beam.attributes
        for record in ("position", "momentum"):
            missing = [q for q in _AXES if record not in beam or q not in beam[record]]
            if missing:
                raise ValueError(f"{where}: species {species!r} has no {record}/{missing[0]}")
        if "id" not in beam:
            raise ValueError(f"{where}: species {species!r} has no record id to match particles by")

        def load(record: str, component: str) -> np.ndarray:
            c = beam[record][component]
            value = c.load_chunk()
            series.flush()
            unit = c.get_attribute("HiPACE++_reference_unitSI") if hipace else c.unit_SI
            return np.asarray(value, np.float64) * unit

        scalar = io.Record_Component.SCALAR
        place = [load("position", q) for q in _AXES]
        if "positionOffset" in beam:
            place = [p + load("positionOffset", q) for p, q in zip(place, _AXES, strict=True)]
        mass = load("mass", scalar) if "mass" in beam else ELECTRON_MASS
        momenta = [load("momentum", q) / (mass * SPEED_OF_LIGHT) for q in _AXES]
        time = step.time * step.time_unit_SI
        if frame == "lab" or (frame is None and not hipace):
            place[2] = place[2] - SPEED_OF_LIGHT * time
        place[2] = place[2] + xi
        ids = _ids(series, beam, scalar, where)
        weight = load("weighting", scalar) if "weighting" in beam else np.ones(len(ids))
        settings = {
            name.removeprefix(_SETTING): series.get_attribute(name)
            for name in series.attributes
            if name.startswith(_SETTING)
        }
        lost = (
            np.atleast_1d(beam.get_attribute("lost_ids")) if "lost_ids" in beam.attributes else []
        )
        return _Snapshot(
            np.stack((*place, *momenta), axis=1), ids, weight, time, settings,
            np.asarray(lost, np.uint64),
        )  # fmt: skip


def _ids(series: Any, beam: Any, scalar: str, where: str) -> np.ndarray:
    raw = np.asarray(beam["id"][scalar].load_chunk())
    series.flush()
    ids = raw.astype(np.uint64)
    if "cpu" in beam:  # unique together only
        cpu = np.asarray(beam["cpu"][scalar].load_chunk())
        series.flush()
        ids |= cpu.astype(np.uint64) << np.uint64(40)
    values, count = np.unique(ids, return_counts=True)
    if len(values) != len(ids):
        raise ValueError(
            f"{where}: {np.sum(count > 1)} ids stand for several particles, the first is "
            f"{values[np.argmax(count > 1)]}"
        )
    return ids
