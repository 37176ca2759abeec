"""Watching a beam for many turns, in bounded memory.

>>> import betatron as bt
>>> ref = bt.Reference("electron", kinetic_energy=100e6)
>>> qf, qd, d = bt.Quadrupole(0.1, k1=10), bt.Quadrupole(0.1, k1=-10, name="qd"), bt.Drift(0.1)
>>> cell = bt.Line([d, qf, d, qd])
>>> beam = bt.Beam(ref, n=100)
>>> seen = ("centroid", "coordinates")
>>> watch = bt.TurnByTurn(elements="qd", particles=slice(0, 3), quantities=seen)
>>> track = cell.track(beam, turns=20, monitor=watch)
>>> watch.coordinates("qd").shape  # x, px, y, py, t, pt; turns; particles
(6, 20, 3)
>>> len(watch.moments)
20

Files are openPMD (https://www.openPMD.org, standard 1.1): iteration 0 says what is watched, and
each further iteration holds a chunk of turns:

mesh "moments"
    components turn, element, slice and the columns of ``Beam.moments``, one entry per record
mesh "coordinates_N", N the position of the element in the line
    components x, px, y, py, t, pt of shape (turns, particles), NaN where a particle was lost before
mesh "turns_N"
    numbers of these turns

Iteration 0 has the mesh "particles", ids of the particles, in their order. The series has the
attributes ``every``, ``quantities``, ``elements`` (positions) and ``element_names``. The file is
complete, and closed, after each chunk: what a run has written is not lost with the run.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd

from betatron import _core
from betatron._checks import whole

if TYPE_CHECKING:
    from betatron.beam import Beam
    from betatron.elements import Element
    from betatron.line import Line

COORDINATES = ("x", "px", "y", "py", "t", "pt")
QUANTITIES = ("moments", "centroid", "coordinates")
_CENTROID = ("s", "n", *(f"mean_{q}" for q in COORDINATES))
_INTEGERS = ("turn", "element", "slice", "n")

Chunk = dict[str, dict[str, np.ndarray]]
"""By mesh, then by component: what a file holds in one iteration."""


class TurnByTurn:
    """Records a beam at chosen elements, turn by turn; given to ``Line.track(..., monitor=...)``.

    Parameters
    ----------
    path
        A new file for the records, which ends in .h5 (HDF5), .json, or .bp (ADIOS2, where
        openPMD-api has it). What is seen goes there in chunks, so that memory does not grow with
        the number of turns. None keeps everything in memory.
    elements
        Where: names, regular expressions and elements, as for ``record``, or "all"; None is the end
        of the line.
    every
        Only in turns whose number is a multiple of this, >= 1. Turns are counted from
        ``first_turn`` of ``track``.
    particles
        Whose coordinates are recorded: a slice of the beam as it is when tracking begins, or ids.
        None: all.
    quantities
        Some of "moments" (all of ``Beam.moments``), "centroid" (s, number of particles and mean
        coordinates) and "coordinates" (of the chosen particles).
    chunk
        Bytes that are collected before they are written; at least one turn is.

    Raises
    ------
    FileExistsError
        If the file exists: nothing is written over.
    TypeError, ValueError
        For arguments that are not allowed; elements are checked when tracking begins.

    An object watches one run. `TurnByTurn.load` reads a file.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        elements: str | Element | Iterable[str | Element] | None = None,
        *,
        every: int = 1,
        particles: slice | Sequence[int] | np.ndarray | None = None,
        quantities: str | Iterable[str] = ("centroid",),
        chunk: int = 16_000_000,
    ) -> None:
        self.every = whole(every, "TurnByTurn: every", 2**62)
        if self.every == 0:
            raise ValueError("TurnByTurn: every = 0 must be at least 1")
        self.quantities = _quantities(quantities)
        self._elements = elements
        self._wanted = _particles(particles)
        self._chunk = whole(chunk, "TurnByTurn: chunk", 2**40)
        self._store: _Memory | _File = _Memory() if path is None else _File.new(path)
        self._pending: list[Chunk] = []
        self._pending_bytes = 0
        self._used = False
        #: Positions of the elements in the line, and their names.
        self.places: dict[int, str] = {}
        #: Ids of the particles whose coordinates are recorded, in order.
        self.particles = np.empty(0, dtype=np.uint64)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """What was recorded in a file.

        Raises
        ------
        FileNotFoundError, ValueError
            If there is no such file, or it is none of TurnByTurn.
        """
        self = cls.__new__(cls)
        store = _File(Path(path))
        attributes, header = store.header()
        self._store, self._used, self._pending, self._pending_bytes = store, True, [], 0
        self.every = attributes["every"]
        self.quantities = tuple(attributes["quantities"])
        self.places = dict(zip(attributes["elements"], attributes["element_names"], strict=True))
        self.particles = header.get("particles", {}).get("id", np.empty(0, dtype=np.uint64))
        return self

    # --- what was seen -----------------------------------------------------------------------

    @property
    def moments(self) -> pd.DataFrame:
        """Moments or centroids, one row per record: turn, element (position), slice, name, and
        the columns of ``Beam.moments`` or, without "moments", s, n and the means."""
        parts = [chunk["moments"] for chunk in self._chunks() if "moments" in chunk]
        columns = self._columns_of(parts[0] if parts else {})
        table = pd.DataFrame({c: np.concatenate([p[c] for p in parts] or [[]]) for c in columns})
        table = table.astype(dict.fromkeys(_INTEGERS, np.int64))
        table.insert(3, "name", [self.places[i] for i in table["element"]])
        return table

    def coordinates(
        self, element: str | int | None = None, first: int | None = None, last: int | None = None
    ) -> np.ndarray:
        """Coordinates x, px, y, py, t, pt of the chosen particles behind an element, shape (6,
        turns, particles); NaN from where a particle was lost.

        Parameters
        ----------
        element
            Its name or position in the line; not needed if there is only one.
        first, last
            Only turns with these numbers and between; a file is then read in parts, too.
        """
        return self._gather(element, first, last)[1]

    def turns(
        self, element: str | int | None = None, first: int | None = None, last: int | None = None
    ) -> np.ndarray:
        """Numbers of the turns that ``coordinates`` of the same arguments returns."""
        return self._gather(element, first, last)[0]

    def __repr__(self) -> str:
        where = ", ".join(name or f"element {i}" for i, name in self.places.items()) or "a line"
        return f"TurnByTurn: {', '.join(self.quantities)} at {where}, {self._store}"

    def _gather(
        self, element: str | int | None, first: int | None, last: int | None
    ) -> tuple[np.ndarray, np.ndarray]:
        if "coordinates" not in self.quantities:
            raise ValueError(
                f"TurnByTurn: coordinates were not recorded, only {', '.join(self.quantities)}"
            )
        place = self._place(element)
        numbers, values = [np.empty(0, dtype=np.int64)], [np.empty((6, 0, len(self.particles)))]
        for chunk in self._chunks([f"turns_{place}", f"coordinates_{place}"]):
            if f"turns_{place}" not in chunk:
                continue
            turn = chunk[f"turns_{place}"]["turn"]
            inside = (turn >= (turn.min() if first is None else first)) & (
                turn <= (turn.max() if last is None else last)
            )
            if inside.any():
                parts = chunk[f"coordinates_{place}"]
                numbers.append(turn[inside])
                values.append(np.stack([parts[q][inside] for q in COORDINATES]))
        return np.concatenate(numbers), np.concatenate(values, axis=1)

    def _place(self, element: str | int | None) -> int:
        if element is None:
            found = list(self.places)
        elif isinstance(element, str):
            found = [i for i, name in self.places.items() if name == element]
        else:
            found = [i for i in self.places if i == element]
        if len(found) != 1:
            raise KeyError(
                f"TurnByTurn: element = {element!r} stands for {len(found)} of the places "
                f"{self.places} (position: name)"
            )
        return found[0]

    @property
    def _columns(self) -> tuple[str, ...]:
        if "moments" in self.quantities:
            return tuple(_core.summary_names)
        return _CENTROID if "centroid" in self.quantities else ()

    def _columns_of(self, table: dict[str, np.ndarray]) -> tuple[str, ...]:
        """What is kept of a table of moments: that of a beam with spins has more columns."""
        spin = _core.spin_summary_names if "moments" in self.quantities else ()
        return ("turn", "element", "slice", *self._columns, *(c for c in spin if c in table))

    def _chunks(self, meshes: Sequence[str] | None = None) -> Iterator[Chunk]:
        yield from self._store.chunks(meshes)
        yield from self._pending

    # --- for Line.track ----------------------------------------------------------------------

    def _begin(self, line: Line, beam: Beam) -> dict[str, Any]:
        """Get ready for a run; the members of the core's monitor."""
        if self._used:
            raise ValueError("TurnByTurn: this monitor has watched a run; make another one")
        flags = [0] * len(line)
        if self._elements is None:
            flags[-1:] = [1] * len(flags[-1:])
        else:
            flags = line._flags(self._elements)[0]
        if not any(flags):
            raise ValueError("TurnByTurn: the line has no elements to watch")
        observed = flags if "coordinates" in self.quantities else []
        ids = _chosen(self._wanted, beam) if observed else np.empty(0, dtype=np.uint64)
        self.places = {i: line.element(i).name for i, flag in enumerate(flags) if flag}
        self.particles = ids
        header = {"particles": {"id": ids}} if len(ids) else {}
        self._store.begin(
            {
                "every": self.every,
                "quantities": list(self.quantities),
                "elements": list(self.places),
                "element_names": list(self.places.values()),
            },
            header,
        )
        self._used = True
        return {
            "moments_at": flags if self._columns else [],
            "observed_at": observed if len(ids) else [],
            "particles": ids.tolist(),
            "every": self.every,
            "chunk_bytes": max(self._chunk, 1),
            "write": self._receive,
        }

    def _receive(
        self,
        turns: np.ndarray,
        moments: dict[str, np.ndarray],
        elements: list[int],
        coordinates: np.ndarray,
    ) -> None:
        chunk: Chunk = {}
        if len(moments["turn"]):
            chunk["moments"] = {c: moments[c] for c in self._columns_of(moments)}
        if len(turns):
            for place, values in zip(elements, coordinates, strict=True):
                chunk[f"turns_{place}"] = {"turn": turns}
                chunk[f"coordinates_{place}"] = dict(zip(COORDINATES, values, strict=True))
        if chunk:
            self._pending.append(chunk)
            self._pending_bytes += sum(a.nbytes for mesh in chunk.values() for a in mesh.values())
        if self._pending_bytes >= self._chunk:
            self._flush()

    def _flush(self) -> None:
        if self._pending:
            self._store.append(_joined(self._pending))
            self._pending.clear()
            self._pending_bytes = 0

    def _end(self) -> None:
        self._flush()


def _joined(parts: Sequence[Chunk]) -> Chunk:
    """Chunks one behind the other, along the first axis."""
    meshes = dict.fromkeys(mesh for part in parts for mesh in part)
    result: Chunk = {}
    for mesh in meshes:
        held = [part[mesh] for part in parts if mesh in part]
        result[mesh] = {c: np.concatenate([h[c] for h in held]) for c in held[0]}
    return result


def _quantities(given: str | Iterable[str]) -> tuple[str, ...]:
    names = (given,) if isinstance(given, str) else tuple(given)
    wrong = [n for n in names if n not in QUANTITIES]
    if wrong or not names:
        raise ValueError(
            f"TurnByTurn: quantities = {given!r} must be some of {', '.join(QUANTITIES)}"
        )
    return names


def _particles(given: Any) -> slice | np.ndarray:
    if given is None:
        return slice(None)
    if isinstance(given, slice):
        return given
    ids = np.asarray(given)
    if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
        raise TypeError(f"TurnByTurn: particles must be a slice or ids, got {given!r}")
    if ids.size and (ids.min() < 0 or len(np.unique(ids)) != len(ids)):
        raise ValueError("TurnByTurn: particles must be different ids >= 0")
    return ids.astype(np.uint64)


def _chosen(wanted: slice | np.ndarray, beam: Beam) -> np.ndarray:
    present = beam.id
    if isinstance(wanted, slice):
        ids = np.array(present[wanted], dtype=np.uint64)
        if len(np.unique(ids)) != len(ids):
            raise ValueError(
                "TurnByTurn: particles of the beam have equal ids; they cannot be told apart"
            )
        return ids
    missing = wanted[~np.isin(wanted, present)]
    if len(missing):
        raise ValueError(f"TurnByTurn: the beam has no particle with the id {missing[0]}")
    return wanted


# --- where chunks are kept ------------------------------------------------------------------------


class _Memory:
    def __init__(self) -> None:
        self._chunks: list[Chunk] = []

    def begin(self, attributes: dict[str, Any], header: Chunk) -> None:
        pass

    def append(self, chunk: Chunk) -> None:
        self._chunks.append(chunk)

    def chunks(self, meshes: Sequence[str] | None) -> Iterator[Chunk]:
        return iter(self._chunks)

    def __repr__(self) -> str:
        return "in memory"


class _File:
    """One openPMD series, opened and closed for every chunk."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @classmethod
    def new(cls, path: str | os.PathLike[str]) -> Self:
        import openpmd_api as io

        path = Path(path)
        known = [
            f".{ending}"
            for ending in ("h5", "json", "bp", "bp4", "bp5")
            if ending in io.file_extensions
        ]
        if path.suffix not in known:
            raise ValueError(f"TurnByTurn: {path} must end in one of {', '.join(known)}")
        if "%" in path.name:
            raise ValueError(f"TurnByTurn: {path} must not contain %: one run is one file")
        if path.exists():
            raise FileExistsError(f"TurnByTurn: {path} exists; records are not written over it")
        return cls(path)

    def begin(self, attributes: dict[str, Any], header: Chunk) -> None:
        import openpmd_api as io

        if self._path.exists():
            raise FileExistsError(
                f"TurnByTurn: {self._path} exists; records are not written over it"
            )
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._next = 0
        series = io.Series(str(self._path), io.Access.create)
        series.set_software("betatron", _core.version)
        series.set_attribute("every", attributes["every"])
        series.set_attribute("quantities", attributes["quantities"])
        series.set_attribute("elements", np.array(attributes["elements"], dtype=np.int64))
        # a leading ":", as in betatron.openpmd: no backend takes empty text
        series.set_attribute("element_names", [":" + name for name in attributes["element_names"]])
        self._write(io, series, header)

    def append(self, chunk: Chunk) -> None:
        import openpmd_api as io

        self._write(io, io.Series(str(self._path), io.Access.append), chunk)

    def _write(self, io: Any, series: Any, chunk: Chunk) -> None:
        try:
            iteration = series.write_iterations()[self._next]
            iteration.time, iteration.dt, iteration.time_unit_SI = float(self._next), 1.0, 1.0
            for name, components in chunk.items():
                mesh = iteration.meshes[name]
                axes = ["turn", "particle"] if name.startswith("coordinates") else ["index"]
                mesh.axis_labels = axes
                mesh.grid_spacing = [1.0] * len(axes)
                mesh.grid_global_offset = [0.0] * len(axes)
                for label, values in components.items():
                    component = mesh[label]
                    component.reset_dataset(io.Dataset(values.dtype, values.shape))
                    component.store_chunk(np.ascontiguousarray(values))
                    component.series_flush()
            iteration.close()
        finally:
            series.close()
        self._next += 1

    def header(self) -> tuple[dict[str, Any], Chunk]:
        import openpmd_api as io

        if not self._path.exists():
            raise FileNotFoundError(f"TurnByTurn.load: there is no {self._path}")
        try:
            series = io.Series(str(self._path), io.Access.read_only)
        except Exception as error:  # openPMD-api raises various types, RuntimeError among them
            raise ValueError(
                f"TurnByTurn.load: {self._path} is not an openPMD file: {error}"
            ) from error
        try:
            names = ("every", "quantities", "elements", "element_names")
            missing = [n for n in names if n not in series.attributes]
            if missing:
                raise ValueError(
                    f"TurnByTurn.load: {self._path} has no attribute {missing[0]}: it is no "
                    "file of TurnByTurn"
                )
            found = {n: series.get_attribute(n) for n in names}
            for n in names[1:]:  # one value is read as that, not as a list
                if isinstance(found[n], (str, int)):
                    found[n] = [found[n]]
            found["element_names"] = [n.removeprefix(":") for n in found["element_names"]]
            return found, self._read(series, series.iterations[0], None)
        finally:
            series.close()

    def chunks(self, meshes: Sequence[str] | None) -> Iterator[Chunk]:
        import openpmd_api as io

        if not self._path.exists():  # before the run
            return
        series = io.Series(str(self._path), io.Access.read_only)
        try:
            for number in sorted(series.iterations):
                if number > 0:
                    yield self._read(series, series.iterations[number], meshes)
        finally:
            series.close()

    @staticmethod
    def _read(series: Any, iteration: Any, meshes: Sequence[str] | None) -> Chunk:
        iteration.open()
        chunk: Chunk = {}
        for name in iteration.meshes:
            if meshes is None or name in meshes:
                mesh = iteration.meshes[name]
                chunk[name] = {label: mesh[label].load_chunk() for label in mesh}
        series.flush()
        return chunk

    def __repr__(self) -> str:
        return str(self._path)
