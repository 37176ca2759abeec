"""Run files: a whole simulation in one YAML file, for `betatron run` and for Python.

>>> from betatron import runfile
>>> run = runfile.load("fodo.yaml")          # doctest: +SKIP
>>> run.line, run.reference, run.beam()      # doctest: +SKIP
>>> result = run.run()                       # doctest: +SKIP

The file is YAML 1.2 (so that 1.0e9 is a number) with the sections ``reference``, ``beam``,
``line``, ``track`` and ``output``; docs/howto/command_line.md describes every key. Everything is
checked when the file is loaded: an error names the file, the line, the key, the value and what is
allowed.
"""

from __future__ import annotations

import difflib
import inspect
import math
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from betatron import distributions
from betatron.beam import Beam, Reference, Species
from betatron.elements import Element, common_parameters, element_from_dict, kinds
from betatron.line import Line, Track
from betatron.programmable import CODE

DISTRIBUTIONS = ("Gaussian", "Waterbag", "KV", "Kurth4D", "Kurth6D", "SemiGaussian", "Triangle")
THERMAL = "Thermal"  # has parameters of its own, and no other forms
PICTURES = ("envelope", "phase_space", "survey")
PRECISIONS = ("double", "single")
BOUNDARIES = ("open", "periodic", "absorbing", "reflecting")
MAX_ELEMENTS = 10_000_000
"""Longest line that a run file may describe: more is taken for a mistake in a repetition."""


class RunFileError(ValueError):
    """Something in a run file is wrong; the message starts with the file and the line."""


@dataclass
class BeamSource:
    """Where the initial beam comes from: a distribution, or an openPMD file."""

    distribution: Any = None
    n: int = 0
    charge: float | None = None
    seed: int = 1
    precision: str = "double"
    polarization: list[float] | None = None
    file: Path | None = None


@dataclass
class Output:
    """What a run writes. ``directory`` None: nothing. Names None or empty: not that."""

    directory: Path | None = None
    beam: str | None = "final_beam.h5"
    moments: str | None = "moments.csv"
    plots: tuple[str, ...] = PICTURES

    def files(self) -> list[Path]:
        """All files that will be written."""
        if self.directory is None:
            return []
        names = [self.moments, self.beam, *(f"{plot}.png" for plot in self.plots)]
        return [self.directory / name for name in names if name]


@dataclass
class Run:
    """A loaded run file. All attributes may be changed before ``run`` is called."""

    path: Path
    line: Line
    source: BeamSource
    start: Reference | None = None
    turns: int = 1
    record: str | list[str] | None = "all"
    record_slices: bool = False
    backward: bool = False
    first_turn: int = 0
    boundary: str = "open"
    bucket_length: float | None = None
    threads: int | None = None
    output: Output = field(default_factory=Output)

    @property
    def reference(self) -> Reference:
        """The reference particle at the start, a new one each time."""
        return self.start.copy() if self.start is not None else self.beam().reference

    def beam(self) -> Beam:
        """The initial beam, a new one each time."""
        source = self.source
        if source.file is not None:
            return Beam.load(source.file)
        return Beam(
            self.reference,
            source.distribution,
            n=source.n,
            charge=source.charge,
            seed=source.seed,
            precision=source.precision,
            polarization=source.polarization,
        )

    def run(
        self, *, overwrite: bool = False, progress: bool | Callable[[float], None] | None = None
    ) -> Result:
        """Track the beam and write what ``output`` asks for.

        Parameters
        ----------
        overwrite
            Replace files that exist.
        progress
            As in ``Line.track``.

        Raises
        ------
        FileExistsError
            If a file would be written over, before anything is tracked.
        """
        existing = [file for file in self.output.files() if file.exists()]
        if existing and not overwrite:
            raise FileExistsError(
                f"{existing[0].parent} already holds {', '.join(file.name for file in existing)}; "
                "choose another directory or ask to overwrite"
            )
        beam = self.beam()
        initial = beam.moments()
        started = time.perf_counter()
        track = self.line.track(
            beam,
            self.turns,
            record=self.record,
            record_slices=self.record_slices,
            backward=self.backward,
            threads=self.threads,
            first_turn=self.first_turn,
            boundary=self.boundary,
            bucket_length=self.bucket_length,
            progress=progress,
        )
        seconds = time.perf_counter() - started
        result = Result(self, beam, track, initial, beam.moments(), seconds, [])
        result.files.extend(_write(self.output, result))
        return result


@dataclass(frozen=True)
class Result:
    """What a run gave: the tracked beam, the track, moments before and after, time, files."""

    run: Run
    beam: Beam
    track: Track
    initial: pd.Series
    final: pd.Series
    seconds: float
    files: list[Path]

    @property
    def pushes(self) -> float:
        """Particles x elements x turns, of the particles at the start."""
        return float(self.initial["n"]) * len(self.run.line) * self.run.turns


def load(path: str | Path) -> Run:
    """Read and check a run file.

    Relative paths in the file are relative to the folder it lies in.

    Raises
    ------
    RunFileError
        If it is not YAML or describes no valid run.
    OSError
        If the file cannot be read.
    """
    path = Path(path)
    try:
        return _read(path)
    except RecursionError:
        raise RunFileError(f"{path}: is nested too deeply") from None


# --- sections of the file -------------------------------------------------------------------------


def _read(path: Path) -> Run:
    top = _Section(
        path,
        _parse(path),
        "",
        1,
        required=("line", "beam"),
        optional=("reference", "track", "output"),
    )
    line = _read_line(top.section("line", required=("elements", "sequence"), optional=("name",)))
    start, source = _read_beam(top)
    run = Run(path, line, source, start)
    if "track" in top:
        _read_track(top, run)
    if "output" in top:
        _read_output(top, run)
    if start is not None:
        with top.blame("line"):
            line.survey(start)  # e.g. a cavity that would stop the reference particle
    return run


def _read_reference(top: _Section) -> Reference:
    energies = ("kinetic_energy", "total_energy", "momentum", "gamma", "beta_gamma")
    section = top.section("reference", required=("species",), optional=energies)
    given = [key for key in energies if key in section]
    if len(given) != 1:
        got = " and ".join(given) if given else "none"
        raise section.error(None, f"needs exactly one of {', '.join(energies)}; got {got}")
    species: Any = section.value("species")
    if isinstance(species, dict):
        custom = section.section(
            "species", required=("name", "mass", "charge"), optional=("anomaly",)
        )
        values = {key: custom.number(key) for key in ("mass", "charge", "anomaly") if key in custom}
        with custom.blame(None):
            species = Species(name=custom.text("name"), **values)
    else:
        with section.blame("species"):
            species = Species(section.text("species"))
    energy = section.number(given[0])
    with section.blame(given[0]):
        return Reference(species, **{given[0]: energy})


def _read_beam(top: _Section) -> tuple[Reference | None, BeamSource]:
    """The reference particle (None: in the file of the beam) and the beam."""
    forms: tuple[str, ...] = ("twiss", "ellipse", "covariance", "thermal")
    others = ("n", "charge", "seed", "precision", "polarization", "file")
    section = top.section("beam", optional=("distribution", *forms, *others))
    if "file" in section:
        given = [key for key in section if key != "file"]
        if given:
            raise section.error(given[0], "cannot be given together with file")
        if "reference" in top:
            raise top.error(
                "reference", "is not allowed with beam.file: the file holds the reference particle"
            )
        file = top.path.parent / section.text("file")
        if not file.exists():
            raise section.error("file", f"= {str(file)!r} does not exist")
        return None, BeamSource(file=file)
    if "reference" not in top:
        raise top.error(
            None, "the section reference is missing (only a beam from a file needs none)"
        )
    start = _read_reference(top)
    section.require("distribution", "n")
    name = section.choice("distribution", (*DISTRIBUTIONS, THERMAL))
    forms = ("thermal",) if name == THERMAL else forms[:3]
    given = [key for key in ("twiss", "ellipse", "covariance", "thermal") if key in section]
    if len(given) != 1 or given[0] not in forms:
        got = " and ".join(given) if given else "none"
        raise section.error(None, f"needs exactly one of {', '.join(forms)}; got {got}")
    shape = getattr(distributions, name)
    build = shape if name == THERMAL else getattr(shape, f"from_{given[0]}")
    parameters = [
        p for p in inspect.signature(build).parameters.values() if p.kind is not p.VAR_KEYWORD
    ]
    required = [p.name for p in parameters if p.default is p.empty]
    optional = [p.name for p in parameters if p.default is not p.empty]
    if name == "Gaussian":
        optional += ["cut_x", "cut_y", "cut_t"]
    moments = section.section(given[0], required=required, optional=optional)
    with moments.blame(None):
        distribution = build(**{key: moments.value(key) for key in moments})
    charge = section.number("charge", minimum=0.0) if "charge" in section else None
    polarization = section.value("polarization") if "polarization" in section else None
    if polarization is not None:  # before the run: a beam without particles tries it
        with section.blame("polarization"):
            Beam(start, polarization=polarization)
    return start, BeamSource(
        distribution=distribution,
        n=section.whole("n", minimum=0),
        charge=charge,
        seed=section.whole("seed", default=1, minimum=0),
        precision=section.choice("precision", PRECISIONS, default="double"),
        polarization=polarization,
    )


def _read_line(section: _Section) -> Line:
    registry = {kind: {p["name"] for p in parameters} for kind, parameters in kinds().items()}
    common = {p["name"] for p in common_parameters()}
    elements: dict[str, Element] = {}
    entries = section.section("elements", any_key=True)
    for key in entries:
        entry = entries.section(key, any_key=True)
        entry.require("kind")
        kind = entry.choice("kind", tuple(registry))
        code = CODE if kind == "Programmable" else ()
        entry.allow(("kind", *sorted(registry[kind]), *sorted(common), *code))
        with entry.blame(None):
            elements[key] = element_from_dict({"name": key, **{k: entry.value(k) for k in entry}})
    sequence = section.raw("sequence")
    if not isinstance(sequence, list):
        raise section.error("sequence", f"must be a list of element names, got {_shown(sequence)}")
    items = _expand(section, sequence, "sequence", section.line_of("sequence"), elements)
    return Line(items, section.text("name", default=""))


def _expand(
    section: _Section, items: list[Any], key: str, line: int, elements: Mapping[str, Element]
) -> list[Element]:
    """The elements of a sequence of names, nested lists and repeated lines."""
    result: list[Element] = []
    for number, item in enumerate(items):
        place, at = f"{key}[{number}]", _line_of_item(items, number, line)
        times = 1
        if isinstance(item, dict):
            part = _Section(
                section.path,
                item,
                section.full(place),
                at,
                required=("line",),
                optional=("repeat",),
            )
            times = part.whole("repeat", default=1, minimum=0)
            place, at, item = f"{place}.line", part.line_of("line"), part.raw("line")
        if isinstance(item, str):
            if item not in elements:
                raise section.error_at(
                    at, place, f"= {item!r} is no element{_suggest(item, elements)}"
                )
            added = [elements[item]]
        elif isinstance(item, list):
            added = _expand(section, item, place, at, elements)
        else:
            raise section.error_at(
                at,
                place,
                "must be the name of an element, a list or {repeat: n, line: [...]}, got "
                + _shown(item),
            )
        if len(result) + len(added) * times > MAX_ELEMENTS:
            raise section.error_at(
                at, place, f"makes the line longer than {MAX_ELEMENTS:,} elements"
            )
        result += added * times
    return result


def _read_track(top: _Section, run: Run) -> None:
    section = top.section(
        "track",
        optional=(
            *("turns", "record", "record_slices", "backward", "first_turn", "threads"),
            *("boundary", "bucket_length"),
        ),
    )
    run.turns = section.whole("turns", default=1, minimum=0)
    run.backward = section.flag("backward", default=False)
    run.record_slices = section.flag("record_slices", default=False)
    run.first_turn = section.whole("first_turn", default=0)
    run.boundary = section.choice("boundary", BOUNDARIES, default="open")
    if "bucket_length" in section:
        run.bucket_length = section.number("bucket_length", minimum=0.0)
        if run.boundary == "open":
            raise section.error("bucket_length", "has no effect on an open boundary")
    if run.boundary != "open" and not run.bucket_length:
        raise section.error("boundary", f"= {run.boundary!r} needs a bucket_length [m] > 0")
    if run.boundary != "open" and run.backward:
        raise section.error("boundary", f"= {run.boundary!r} is not possible backward")
    if "threads" in section:
        run.threads = section.whole("threads", minimum=1)
    if "record" in section:
        record = section.value("record")
        names = record if isinstance(record, list) else [record]
        if record is not None and not all(isinstance(name, str) for name in names):
            raise section.error(
                "record", f"must be all, ends, null or names of elements, got {_shown(record)}"
            )
        with section.blame("record"):
            run.line._flags(record)  # names that are not there
        run.record = record


def _read_output(top: _Section, run: Run) -> None:
    section = top.section("output", required=("directory",), optional=("beam", "moments", "plots"))
    output = run.output
    output.directory = top.path.parent / section.text("directory")
    output.moments = _file_name(section, "moments", output.moments, (".csv",))
    output.beam = _file_name(section, "beam", output.beam, (".h5", ".bp", ".json"))
    if "plots" in section:
        plots = section.value("plots")
        if isinstance(plots, bool):
            output.plots = PICTURES if plots else ()
        elif isinstance(plots, list):
            for plot in plots:
                if plot not in PICTURES:
                    raise section.error(
                        "plots",
                        f"= {_shown(plot)} is not known{_suggest(plot, PICTURES)}; "
                        f"allowed: {', '.join(PICTURES)}",
                    )
            output.plots = tuple(plots)
        else:
            raise section.error(
                "plots",
                f"must be true, false or a list of {', '.join(PICTURES)}, got {_shown(plots)}",
            )


def _file_name(
    section: _Section, key: str, default: str | None, endings: Collection[str]
) -> str | None:
    if key not in section:
        return default
    if section.value(key) is False:
        return None
    name = section.text(key)
    if Path(name).name != name or Path(name).suffix not in endings:
        raise section.error(
            key,
            f"= {name!r} is not allowed; allowed: false, or a file name ending in "
            + ", ".join(endings),
        )
    return name


def _write(output: Output, result: Result) -> list[Path]:
    """Write what is asked for; existing files have been agreed to be replaced."""
    folder = output.directory
    if folder is None:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    if output.moments:
        result.track.moments.to_csv(folder / output.moments, index=False)
        written.append(folder / output.moments)
    if output.beam:
        result.beam.save(folder / output.beam, overwrite=True)
        written.append(folder / output.beam)
    if output.plots:
        written += _draw(output, result)
    return written


def _draw(output: Output, result: Result) -> list[Path]:
    import matplotlib.pyplot as plt

    draw: dict[str, Callable[[], Any]] = {
        "envelope": result.track.plot.envelope,
        "phase_space": result.beam.plot.phase_space,
        "survey": lambda: result.run.line.plot.survey(result.run.reference),
    }
    written = []
    for name in output.plots:
        if name == "envelope" and len(result.track.moments) == 0:
            continue
        assert output.directory is not None
        figure = draw[name]()
        figure.savefig(output.directory / f"{name}.png")
        plt.close(figure)
        written.append(output.directory / f"{name}.png")
    return written


# --- reading YAML with places ---------------------------------------------------------------------


def _parse(path: Path) -> Any:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        text = path.read_text(encoding="utf-8")
        return YAML(typ="rt").load(text)  # keeps line numbers; builds plain values only
    except UnicodeDecodeError as error:
        raise RunFileError(f"{path}: is not UTF-8 text: {error}") from None
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark is not None else ""
        problem = str(error.problem or error.context).strip().splitlines()[0]
        raise RunFileError(f"{path}{line}: is not YAML: {problem}") from None
    except YAMLError as error:
        raise RunFileError(f"{path}: is not YAML: {str(error).splitlines()[0]}") from None


class _Section:
    """A mapping of the file with its place, read key by key; every complaint names the place."""

    def __init__(
        self,
        path: Path,
        data: Any,
        key: str,
        line: int,
        *,
        required: Iterable[str] = (),
        optional: Iterable[str] = (),
        any_key: bool = False,
    ) -> None:
        self.path, self.key, self._line = path, key, line
        if not isinstance(data, dict):
            raise self.error(None, f"must be a section with keys and values, got {_shown(data)}")
        self._data = data
        for name in data:
            if not isinstance(name, str):
                raise self.error_at(
                    _line_of_key(data, name, line), "", f"the key {name!r} must be text"
                )
        required = tuple(required)
        if not any_key:
            self.allow((*required, *optional))
        self.require(*required)

    def __contains__(self, key: str) -> bool:
        return key in self._data

    def __iter__(self) -> Iterator[str]:
        return iter(self._data)

    def allow(self, keys: Collection[str]) -> None:
        for name in self._data:
            if name not in keys:
                raise self.error(
                    name, f"is not a known key{_suggest(name, keys)}; allowed: {', '.join(keys)}"
                )

    def require(self, *keys: str) -> None:
        for key in keys:
            if key not in self._data:
                raise self.error(None, f"needs the key {key}")

    # values

    def raw(self, key: str) -> Any:
        """As YAML gave it, with line numbers."""
        return self._data[key]

    def value(self, key: str) -> Any:
        """In plain Python types."""
        return _plain(self._data[key])

    def section(self, key: str, **keys: Any) -> _Section:
        return _Section(self.path, self._data[key], self.full(key), self.line_of(key), **keys)

    def text(self, key: str, default: str | None = None) -> str:
        if key not in self._data and default is not None:
            return default
        value = self.value(key)
        if not isinstance(value, str) or (not value and default is None):
            raise self.error(key, f"must be text, got {_shown(value)}")
        return value

    def choice(self, key: str, allowed: Collection[str], default: str | None = None) -> str:
        value = self.text(key, default)
        if value not in allowed:
            raise self.error(
                key,
                f"= {value!r} is not known{_suggest(value, allowed)}; "
                f"allowed: {', '.join(allowed)}",
            )
        return value

    def number(self, key: str, minimum: float = -math.inf) -> float:
        value = self.value(key)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self.error(key, f"must be a number, got {_shown(value)}")
        if not math.isfinite(value) or value < minimum:
            allowed = f">= {minimum:g}" if math.isfinite(minimum) else "any finite number"
            raise self.error(key, f"= {value} is not allowed; allowed: {allowed}")
        return float(value)

    def whole(self, key: str, default: int | None = None, minimum: int | None = None) -> int:
        if key not in self._data and default is not None:
            return default
        value = self.value(key)
        if isinstance(value, float) and value.is_integer():
            value = int(value)  # 1.0e6 particles
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.error(key, f"must be a whole number, got {_shown(value)}")
        if minimum is not None and value < minimum:
            raise self.error(key, f"= {value} is not allowed; allowed: >= {minimum}")
        return value

    def flag(self, key: str, default: bool) -> bool:
        value = self.value(key) if key in self._data else default
        if not isinstance(value, bool):
            raise self.error(key, f"must be true or false, got {_shown(value)}")
        return value

    # places

    def full(self, key: str) -> str:
        return f"{self.key}.{key}" if self.key else key

    def line_of(self, key: str) -> int:
        return _line_of_key(self._data, key, self._line)

    def error(self, key: str | None, text: str) -> RunFileError:
        """An error at a key, or at the section itself."""
        if key is None:
            return RunFileError(f"{self.path}:{self._line}: {self.key or 'the file'} {text}")
        return self.error_at(self.line_of(key), key, text)

    def error_at(self, line: int, key: str, text: str) -> RunFileError:
        return RunFileError(f"{self.path}:{line}: {self.full(key) if key else self.key} {text}")

    @contextmanager
    def blame(self, key: str | None) -> Iterator[None]:
        """Adds the place to errors of what is made from this section: that of `key`, or else of
        the key that the message names."""
        try:
            yield
        except RunFileError:
            raise
        except (TypeError, ValueError, KeyError) as error:
            text = str(error.args[0]) if error.args else str(error)
            if key is None:
                words = set(re.findall(r"\w+", text))
                key = next((name for name in self._data if name in words and name != "name"), None)
            line = self.line_of(key) if key is not None else self._line
            place = self.full(key) if key is not None else self.key
            raise RunFileError(f"{self.path}:{line}: {place}: {text}") from error


def _line_of_key(data: Any, key: Any, otherwise: int) -> int:
    try:
        return int(data.lc.key(key)[0]) + 1
    except (
        AttributeError,
        KeyError,
        TypeError,
    ):  # keys merged in by "<<" have no line of their own
        return otherwise


def _line_of_item(data: Any, number: int, otherwise: int) -> int:
    try:
        return int(data.lc.item(number)[0]) + 1
    except (AttributeError, KeyError, TypeError):
        return otherwise


def _plain(value: Any) -> Any:
    """The value in Python's own types."""
    from ruamel.yaml.scalarbool import ScalarBoolean

    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, (bool, ScalarBoolean)):
        return bool(value)
    for kind in (int, float, str):
        if isinstance(value, kind):
            return kind(value)
    return value


def _shown(value: Any) -> str:
    value = _plain(value)
    if value is None:
        return "nothing"
    names = {
        bool: "true or false",
        int: "a number",
        float: "a number",
        str: "text",
        list: "a list",
        dict: "a section",
    }
    text = repr(value)
    shown = text if len(text) <= 60 else text[:57] + "..."
    return f"{names.get(type(value), type(value).__name__)} {shown}"


def _suggest(name: object, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(str(name), list(known), n=2)
    return f" (did you mean {' or '.join(close)}?)" if close else ""
