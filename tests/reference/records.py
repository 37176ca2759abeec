"""Run a case and record the beam at its monitors: :func:`run_case` returns a :class:`Run`.

The three tracking modes differ only in what is carried along the line (a probe): macro-particles, a
covariance matrix, or the reference particle alone. The line is tracked in pieces that end at the
monitors, so that the whole beam can be looked at there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import betatron as bt
import numpy as np
from facts import (
    COORDINATES,
    SPINS,
    Facts,
    Lattice,
    Unsupported,
    boundary,
    check_driver,
    check_settings,
    make_beam,
    make_covariance,
    make_reference,
    radiation,
    space_charge,
    tracks_spins,
)
from programs import program_of

AXES = ("x", "y", "t")


@dataclass(frozen=True)
class Particles:
    """A copy of all particles alive at one place, in double precision; columns by name."""

    id: np.ndarray
    columns: Mapping[str, np.ndarray]

    def __getitem__(self, name: str) -> np.ndarray:
        return self.columns[name]


@dataclass(frozen=True)
class Record:
    """What a monitor saw. `index` counts the elements passed in this period before it."""

    name: str
    period: int
    index: int
    reference: bt.Reference
    moments: Mapping[str, float]
    particles: Particles | None
    options: Facts = field(default_factory=dict)


@dataclass
class Run:
    """The records of one run: at the start, at every monitor in order, and at the end.

    `rows` holds the beam after the n-th slice of the run where that was asked for; `lost` is the
    table of lost particles, or None where no particles were tracked. `ends` are the records that
    the case calls initial and final; whoever compares numbers sets them.
    """

    case: Facts
    lattice: Lattice
    start: Record
    monitors: list[Record] = field(default_factory=list)
    rows: dict[int, Record] = field(default_factory=dict)
    end: Record | None = None
    lost: Any = None
    ends: tuple[Record, Record] | None = None


class _Probe(Protocol):
    @property
    def reference(self) -> bt.Reference: ...
    def track(self, line: bt.Line, hooks: bt.Hooks | None = None) -> None: ...
    def moments(self) -> Mapping[str, float]: ...
    def particles(self) -> Particles | None: ...
    def lost(self) -> Any: ...


class _ParticleProbe:
    def __init__(self, beam: bt.Beam, threads: int | None, options: Facts) -> None:
        self._beam = beam
        self._threads = threads
        self._options = options
        self._calls = 0

    @property
    def reference(self) -> bt.Reference:
        return self._beam.reference

    def track(self, line: bt.Line, hooks: bt.Hooks | None = None) -> None:
        line.track(
            self._beam,
            threads=self._threads,
            progress=False,
            hooks=hooks,
            first_turn=self._calls,  # other random numbers each time that a piece is passed
            **self._options,
        )
        self._calls += 1

    def moments(self) -> Mapping[str, float]:
        return {key: float(value) for key, value in dict(self._beam.moments()).items()}

    def particles(self) -> Particles:
        names = COORDINATES + (SPINS if self._beam.has_spin else ())
        columns = {name: np.array(self._beam[name], dtype=float) for name in names}
        return Particles(np.array(self._beam.id), columns)

    def lost(self) -> Any:
        return self._beam.lost


class _ReferenceProbe:
    """The reference particle, carried by a beam of one particle on the reference orbit."""

    def __init__(self, reference: bt.Reference) -> None:
        self._beam = bt.Beam.from_arrays(reference, **{name: np.zeros(1) for name in COORDINATES})

    @property
    def reference(self) -> bt.Reference:
        return self._beam.reference

    def track(self, line: bt.Line, hooks: bt.Hooks | None = None) -> None:
        line.track(self._beam, progress=False, hooks=hooks)

    def moments(self) -> Mapping[str, float]:
        return {}

    def particles(self) -> None:
        return None

    def lost(self) -> None:
        return None


class _EnvelopeProbe(_ReferenceProbe):
    """A covariance matrix S, carried by the linear maps of the line, S -> M S M^T, and by linear
    space charge."""

    def __init__(self, reference: bt.Reference, covariance: np.ndarray, options: Facts) -> None:
        super().__init__(reference)
        self._covariance = covariance
        self._options = options

    def track(self, line: bt.Line, hooks: bt.Hooks | None = None) -> None:
        end = line.envelope(self.reference, self._covariance, record=None, **self._options)
        self._covariance = np.array(end.covariance)
        super().track(line, hooks)

    def moments(self) -> Mapping[str, float]:
        return covariance_moments(self._covariance)


def covariance_moments(covariance: np.ndarray) -> dict[str, float]:
    """Sigmas, projected emittances, Twiss parameters and dispersions of a 6x6 covariance.

    Order x, px, y, py, t, pt. Dispersion D_q = -<q pt>/<pt^2>; the emittance of a plane includes
    dispersion, its alpha and beta do not: there q -> q + D_q pt is taken first.
    """
    sigma = np.sqrt(np.clip(np.diag(covariance), 0.0, None))
    result = {f"sigma_{name}": float(sigma[i]) for i, name in enumerate(COORDINATES)}
    spread = covariance[5, 5]
    dispersion = -covariance[:4, 5] / spread if spread > 0.0 else np.zeros(4)
    betatron = covariance[:4, :4] - spread * np.outer(dispersion, dispersion)
    for i, name in enumerate(("x", "px", "y", "py")):
        result[f"dispersion_{name}"] = float(dispersion[i])
    for plane, axis in enumerate(AXES):
        block = slice(2 * plane, 2 * plane + 2)
        result[f"emittance_{axis}"] = _root_determinant(covariance[block, block])
        optics = covariance[block, block] if axis == "t" else betatron[block, block]
        emittance = _root_determinant(optics)
        if emittance > 0.0:
            result[f"beta_{axis}"] = float(optics[0, 0]) / emittance
            result[f"alpha_{axis}"] = -float(optics[0, 1]) / emittance
    return result


def _root_determinant(block: np.ndarray) -> float:
    return float(np.sqrt(max(block[0, 0] * block[1, 1] - block[0, 1] * block[1, 0], 0.0)))


def _make_probe(
    case: Facts, *, precision: str, seed: int, particles: int | None, threads: int | None
) -> _Probe:
    reference = make_reference(case["reference"])
    mode = case.get("tracking_mode") or "particles"
    if mode == "particles":
        beam = make_beam(case, reference, precision=precision, seed=seed, particles=particles)
        options = {
            **boundary(case),
            "space_charge": space_charge(case),
            "spin": tracks_spins(case),
            "radiation": radiation(case, seed),
        }
        return _ParticleProbe(beam, threads, options)
    if mode == "envelope":
        charge = case["beam"].get("bunch_charge_C")
        options = {"space_charge": space_charge(case), "charge": charge}
        return _EnvelopeProbe(reference, make_covariance(case["beam"]["distribution"]), options)
    if mode == "reference_orbit":
        return _ReferenceProbe(reference)
    raise Unsupported(f"tracking mode {mode!r}")


def run_case(
    case: Facts,
    *,
    precision: str = "double",
    seed: int = 1,
    particles: int | None = None,
    threads: int | None = None,
    keep_particles: bool = False,
    rows: Sequence[int] = (),
) -> Run:
    """Track the beam of `case` through all its periods and return the records.

    `particles` is the size of a sampled beam (default: the number that the case prescribes).
    `keep_particles` stores a copy of all particles in every record. `rows` asks for the beam after
    the given numbers of slices, counted over the whole run; a number that does not fall on the end
    of an element raises `Unsupported`, as does everything else that cannot be translated.
    """
    check_settings(case)
    program = program_of(case)
    if program is None:
        check_driver(case)
    lattice = Lattice(case)
    lattice.check(make_reference(case["reference"]))
    if program is not None and program.prepare is not None:
        program.prepare(case, lattice)
    probe = _make_probe(case, precision=precision, seed=seed, particles=particles, threads=threads)

    def record(name: str, period: int, index: int, options: Facts | None = None) -> Record:
        copy = probe.particles() if keep_particles else None
        reference = probe.reference.copy()
        return Record(name, period, index, reference, probe.moments(), copy, options or {})

    run = Run(case, lattice, record("start", 0, 0))
    fresh = lattice.depends_on_energy()
    wanted = set(rows)
    slices = 0
    pending: list[Any] = []
    hooks: list[bt.Hooks] = []  # of the period that begins

    def advance() -> None:
        if pending:
            probe.track(bt.Line(pending), hooks[0] if hooks else None)
            pending.clear()
            hooks.clear()

    for period in range(lattice.periods):
        if program is not None and program.before_period is not None:
            advance()
            hooks.append(bt.Hooks(before_turn=program.before_period(lattice, period)))
        for index, name in enumerate(lattice.sequence):
            if fresh and lattice.needs_rigidity(name):
                advance()
            if lattice.is_monitor(name) and lattice.monitor_active(name, period):
                # before it is passed: a boundary acts behind each slice, and monitors have one
                advance()
                options = lattice.definitions[name]
                run.monitors.append(record(lattice.monitor_name(name), period, index, options))
            pending.append(lattice.element(name, probe.reference, fresh=fresh))
            slices += lattice.slices(name)
            if slices in wanted:
                advance()
                run.rows[slices] = record(f"row {slices}", period, index)
    advance()
    missing = sorted(wanted - set(run.rows))
    if missing:
        raise Unsupported(f"diagnostic row {missing[0]} (does not end an element of this lattice)")
    run.end = record("end", lattice.periods - 1, len(lattice.sequence))
    run.lost = probe.lost()
    return run
