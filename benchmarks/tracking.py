"""Tracking speed: Betatron beside xtrack, PyAT and Cheetah, in one run on one pinned core.

    python benchmarks/tracking.py                # everything; about ten minutes
    python benchmarks/tracking.py --no-peers     # Betatron alone; less than a minute
    python benchmarks/tracking.py --quick        # a few particles: does it work?

Three parts:

1. FODO: [drift 0.1 m, quadrupole +-10 /m^2 0.1 m] x 100, that is 200 elements; electrons of 100 MeV
   with 2.5 % energy spread.
2. HTU: the beamline of examples/htu, 9.7 m, 153 elements. The other codes track only those that do
   something.
3. Two cores against one, Betatron alone.

Before a code is timed it tracks 1,000 particles, and what comes out is compared with Betatron: a
code that differs in x, px, y or py is reported and not timed. Times are minima of several
repetitions, and the codes take turns. Set-up, compilation and copying the initial beam are not in
them; what a call from Python costs is.

Tables are printed, and everything is written as JSON to benchmarks/results/tracking.json. Exit
status: 0 if all targets that could be measured are reached, 1 if not, with a list. With --quick
they are not judged.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import ClassVar

import common  # before everything that computes: it pins the process to one core
from common import Effort, Report, Target, Timing, console
from rich.table import Table

# isort: split
import betatron as bt
import numpy as np
import peers
from peers import Peer

HTU_EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "htu" / "htu.py"

FODO_PAIRS = 100
COORDINATES = ("x", "px", "y", "py", "t", "pt")
PRECISIONS = ("double", "single")

# Largest difference in x, px, y, py from Betatron at the end of a line, over the rms of the
# coordinate, of this many particles. Codes in double precision differ by what their models and
# steps leave out, those in single by rounding.
CHECKED_PARTICLES = 1000
TOLERANCE = {"double": 1e-3, "single": 1e-2}


@dataclass(frozen=True)
class Plan:
    """How much to measure."""

    fodo_particles: tuple[int, ...]
    htu_particles: tuple[int, ...]
    two_cores_particles: int
    effort: Effort
    judged: bool  # whether a missed target is an error


FULL = Plan((10**3, 10**4, 10**5, 10**6), (10**3, 10**6), 10**6, Effort(budget=1.5), True)
QUICK = Plan((100, 1000), (1000,), 50_000, Effort(budget=0.0, repetitions=2), False)


# --- lines and beams ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A line and its initial beam, by number of particles."""

    name: str
    line: bt.Line
    make_beam: Callable[[int], bt.Beam]


def fodo_line(model: str) -> bt.Line:
    drift = bt.Drift(0.1, name="drift", model=model)
    focus = bt.Quadrupole(0.1, k1=10.0, name="focus", model=model)
    defocus = bt.Quadrupole(0.1, k1=-10.0, name="defocus", model=model)
    return bt.Line(FODO_PAIRS // 2 * [drift, focus, drift, defocus], name="FODO")


def fodo_beam(n: int) -> bt.Beam:
    """Transversely 0.1 mm and about matched; 0.1 mm long."""
    reference = bt.Reference("electron", kinetic_energy=100e6)
    transverse = {"beta": 2.0, "alpha": 0.0, "emittance": 5e-9}
    twiss = {f"{name}_{plane}": value for plane in "xy" for name, value in transverse.items()}
    shape = bt.Gaussian.from_twiss(**twiss, beta_t=4e-3, alpha_t=0.0, emittance_t=2.5e-6)
    return bt.Beam(reference, shape, n=n, seed=1)


def fodo_case() -> Case:
    return Case("FODO", fodo_line("paraxial"), fodo_beam)


def htu_case() -> Case:
    """The line and the beam of the example, by its own program."""
    spec = importlib.util.spec_from_file_location("htu", HTU_EXAMPLE)
    assert spec is not None and spec.loader is not None
    htu = sys.modules["htu"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(htu)
    data = htu.YAML(typ="safe").load(htu.DATA.read_text(encoding="utf-8"))

    def make_beam(n: int) -> bt.Beam:
        return htu.make_beam(data, particles=n, precision="double", seed=1)

    return Case("HTU", htu.make_line(data), make_beam)


# --- Betatron, in the form of its peers -----------------------------------------------------------


@dataclass(frozen=True)
class Betatron:
    """One of its settings. With a line of its own it tracks that one, and is not checked."""

    setting: str
    precision: str
    threads: int | None = None
    line: bt.Line | None = field(default=None, compare=False)

    name: ClassVar = "Betatron"

    @property
    def label(self) -> str:
        return f"{self.name}, {self.setting}"

    def build(self, line: bt.Line, reference: bt.Reference) -> BetatronTracker:
        return BetatronTracker(self.line or line, self.precision, self.threads)


@dataclass(frozen=True)
class BetatronTracker:
    line: bt.Line
    precision: str
    threads: int | None

    def load(self, beam: bt.Beam) -> BetatronRun:
        return BetatronRun(self, beam)


class BetatronRun:
    def __init__(self, tracker: BetatronTracker, beam: bt.Beam) -> None:
        self._line, self._threads = tracker.line, tracker.threads
        self._start = beam.copy(tracker.precision)
        self._beam = self._start.copy()

    def reset(self) -> None:
        self._beam = self._start.copy()

    def track(self) -> None:
        self._line.track(self._beam, threads=self._threads)

    def coordinates(self) -> np.ndarray:
        return np.array([self._beam[name] for name in COORDINATES], dtype=np.float64)


Code = Betatron | Peer

PARAXIAL = {p: Betatron("paraxial", p) for p in PRECISIONS}
LINEAR = {p: Betatron("linear", p, line=fodo_line("linear")) for p in PRECISIONS}
AS_IN_EXAMPLE = {p: Betatron("models of the example", p) for p in PRECISIONS}
THREADS = {
    (p, n): Betatron(f"{n} thread{'s'[: n - 1]}", p, threads=n) for p in PRECISIONS for n in (1, 2)
}


# --- measuring ------------------------------------------------------------------------------------


class Results:
    """Timings by part, code and number of particles; all of them go into the report."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self._timings: dict[tuple[str, Code, int], Timing] = {}

    def add(self, part: str, n: int, elements: int, timings: Mapping[Code, Timing]) -> None:
        for code, timing in timings.items():
            self._timings[part, code, n] = timing
            self.report.measurements.append(
                {
                    "part": part,
                    **description(code),
                    "particles": n,
                    "elements": elements,
                    "seconds": timing.best,
                    "seconds_median": timing.median,
                    "repetitions": timing.repetitions,
                    "seconds_on_processor": timing.processor,
                    "ns_per_particle_and_element": timing.best / n / elements * 1e9,
                }
            )

            threads = (code.threads or 1) if isinstance(code, Betatron) else 1
            if timing.busy < 0.95 * threads:
                self.report.note(
                    f"{part}: {code.label}, {code.precision}, {n:,} particles: disturbed, "
                    f"{timing.best:.3g} s for {timing.processor:.3g} s of processor time"
                )

    def seconds(self, part: str, code: Code, n: int) -> float | None:
        timing = self._timings.get((part, code, n))
        return None if timing is None else timing.best

    def codes(self, part: str) -> list[Code]:
        return list(dict.fromkeys(code for p, code, _ in self._timings if p == part))

    def particles(self, part: str) -> list[int]:
        return sorted({n for p, _, n in self._timings if p == part})

    def ratio(self, part: str, slow: Iterable[Code], fast: Code, n: int) -> float | None:
        """Time of the fastest of the slow codes that were measured over that of the fast one.

        Of another code the processor time counts: where other processes disturb, they disturb long
        runs most, and the ratio would be flattering.
        """
        times = [
            timing.processor if isinstance(code, Peer) else timing.best
            for code in slow
            if (timing := self._timings.get((part, code, n))) is not None
        ]
        own = self.seconds(part, fast, n)
        return min(times) / own if times and own is not None else None


def description(code: Code) -> dict[str, str]:
    return {"code": code.name, "setting": code.setting, "precision": code.precision}


def compare(
    case: Case, codes: Iterable[Code], sizes: Iterable[int], effort: Effort, results: Results
) -> None:
    """Time all codes that do the same as Betatron in double precision."""
    trackers = {}
    for code in codes:
        with console.status(f"{case.name}: building {code.label}, {code.precision}"):
            if tracker := checked(case, code, results.report):
                trackers[code] = tracker
    for n in sizes:
        with console.status(f"{case.name}: timing {n:,} particles"):
            beam = case.make_beam(n)
            runs = {code: tracker.load(beam) for code, tracker in trackers.items()}
            results.add(case.name, n, len(case.line), common.measure(runs, effort))


def checked(case: Case, code: Code, report: Report) -> peers.Tracker | None:
    """The code ready to track the line; None, and a note, if it cannot or does something else."""
    beam = case.make_beam(CHECKED_PARTICLES)
    if isinstance(code, Betatron) and code.line is not None:
        return code.build(case.line, beam.reference)
    try:
        tracker = code.build(case.line, beam.reference)
        run = tracker.load(beam)
        run.track()
        found = run.coordinates()
    except Exception as error:
        # whatever is wrong with another code must not keep the rest from being measured
        if isinstance(code, Betatron):
            raise
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        report.note(f"{case.name}: {code.label}, {code.precision}: cannot be used: {reason}")
        return None
    case.line.track(beam)
    transverse, time = deviation(found, beam)
    limit = TOLERANCE[code.precision]
    same = transverse <= limit
    report.agreement.append(
        {
            "part": case.name,
            **description(code),
            "transverse": transverse,
            "time": time,
            "same": same,
        }
    )
    if not same:
        report.note(
            f"{case.name}: {code.label}, {code.precision}: not timed, it differs from Betatron by "
            f"{transverse:.1e} of the rms; allowed: {limit:g}"
        )
    return tracker if same else None


def deviation(found: np.ndarray, expected: bt.Beam) -> tuple[float, float]:
    """Largest difference over the rms of the coordinate: of x, px, y, py, and of t."""
    relative = [
        float(np.max(np.abs(column - expected[name])) / np.std(expected[name]))
        for name, column in zip(COORDINATES, found, strict=True)
    ]
    return float(np.max(relative[:4])), relative[4]  # NaN if there is one


def two_cores(cases: Iterable[Case], n: int, effort: Effort, results: Results) -> None:
    second = common.second_core()
    if second is None:
        results.report.note("two cores: skipped, the process may use one core only")
        return
    for case in cases:
        with common.on_cores({common.CORE, second}), console.status(f"{case.name}: two cores"):
            beam = case.make_beam(n)
            runs = {c: c.build(case.line, beam.reference).load(beam) for c in THREADS.values()}
            timings = common.measure(runs, effort)
        results.add(f"{case.name}, two cores", n, len(case.line), timings)


# --- what came out --------------------------------------------------------------------------------


def targets(results: Results) -> list[Target]:
    """What is to be reached. Ratios are to the fastest setting of the other code."""
    xtrack = (peers.XTRACK, peers.XTRACK_NATIVE)

    def times(name: str, limit: float, slow: Iterable[Code], fast: Code) -> Target:
        measured = results.ratio("FODO", slow, fast, 10**5)
        return Target(f"FODO, 10^5 particles: {name}", limit, True, "x", measured)

    def passage(n: int, limit: float, unit: str, scale: float, code: Code) -> Target:
        seconds = results.seconds("HTU", code, n)
        measured = None if seconds is None else seconds * scale
        name = f"HTU, {n:,} particles: {code.precision}"
        return Target(name, limit, False, unit, measured)

    def two(case: str, precision: str) -> Target:
        part = f"{case}, two cores"
        sizes = results.particles(part)
        one, both = THREADS[precision, 1], THREADS[precision, 2]
        measured = results.ratio(part, [one], both, sizes[0]) if sizes else None
        return Target(f"{part} over one: {precision}", 1.7, True, "x", measured)

    def same(precision: str) -> Target:
        found = [a["transverse"] for a in results.report.agreement if a["precision"] == precision]
        name = f"largest difference in x, px, y, py: {precision}"
        return Target(name, TOLERANCE[precision], False, "rms", max(found, default=None))

    return [
        times("xtrack / double", 30, xtrack, PARAXIAL["double"]),
        times("xtrack / single", 70, xtrack, PARAXIAL["single"]),
        times("PyAT linear / double", 10, [peers.PYAT_LINEAR], PARAXIAL["double"]),
        passage(10**3, 0.2, "ms", 1e3, AS_IN_EXAMPLE["double"]),
        passage(10**6, 0.15, "s", 1, AS_IN_EXAMPLE["single"]),
        *(two(case, precision) for case in ("FODO", "HTU") for precision in PRECISIONS),
        *(same(precision) for precision in PRECISIONS),
    ]


def agreement_table(report: Report) -> Table:
    table = Table(
        title="Largest difference from Betatron in double precision, over the rms; "
        f"{CHECKED_PARTICLES:,} particles"
    )
    for name in ("line", "code", "precision"):
        table.add_column(name)
    for name in ("x, px, y, py", "t"):
        table.add_column(name, justify="right")
    for a in report.agreement:
        code = f"{a['code']}, {a['setting']}"
        table.add_row(a["part"], code, a["precision"], f"{a['transverse']:.1e}", f"{a['time']:.1e}")
    return table


def times_table(part: str, unit: str, scale: Callable[[int], float], results: Results) -> Table:
    """Times in a unit that seconds are multiplied by ``scale(n)`` for; of the other codes also how
    many times they take what Betatron takes in double and in single precision."""
    sizes, codes = results.particles(part), results.codes(part)
    ours = {code.precision: code for code in reversed(codes) if isinstance(code, Betatron)}
    title = f"{part}, {unit}"
    if any(isinstance(code, Peer) for code in codes):
        title += " (in brackets: times Betatron in double, in single)"
    table = Table(title=title)
    table.add_column("code")
    table.add_column("precision")
    for n in sizes:
        table.add_column(f"{n:,} particles", justify="right")
    for code in codes:
        cells = []
        for n in sizes:
            seconds = results.seconds(part, code, n)
            assert seconds is not None  # all codes of a part are timed with the same particles
            cell = f"{seconds * scale(n):.3g}"
            if isinstance(code, Peer):
                ratios = (results.ratio(part, [code], ours[p], n) for p in PRECISIONS if p in ours)
                cell += f" ({', '.join(f'{r:.3g}' for r in ratios)})"
            cells.append(cell)
        table.add_row(code.label, code.precision, *cells)
    return table


# --- the command ----------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="a few particles; targets are not judged"
    )
    parser.add_argument(
        "--peers", action=argparse.BooleanOptionalAction, default=True,
        help="measure other codes too, if they are installed",
    )  # fmt: skip
    parser.add_argument(
        "--output", type=Path, default=common.RESULTS / "tracking.json", metavar="FILE",
        help="where to write the results (default: %(default)s)",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    plan = QUICK if options.quick else FULL

    settings = {**asdict(plan), "peers": options.peers, "betatron": bt.info()}
    report = Report("tracking", settings, peers.installed() if options.peers else {})
    common.print_machine()
    info = settings["betatron"]
    console.print(
        f"Betatron {info['version']}, {info['compiler']}, vectors {info['instruction_set']}"
    )
    for name, version in report.peers.items():
        console.print(f"{name} {version}", highlight=False)
    others = [peer for peer in peers.ALL if options.peers and peer.version is not None]

    results = Results(report)
    fodo, htu = fodo_case(), htu_case()
    compare(
        fodo,
        [*PARAXIAL.values(), *LINEAR.values(), *others],
        plan.fodo_particles,
        plan.effort,
        results,
    )
    compare(htu, [*AS_IN_EXAMPLE.values(), *others], plan.htu_particles, plan.effort, results)
    two_cores([fodo, htu], plan.two_cores_particles, plan.effort, results)
    report.targets = targets(results)
    report.write(options.output)

    def per_element(n: int) -> float:
        return 1e9 / n / len(fodo.line)

    console.print(agreement_table(report))
    console.print(times_table("FODO", "ns per particle and element", per_element, results))
    for part in ("HTU", "FODO, two cores", "HTU, two cores"):
        if results.codes(part):
            console.print(times_table(part, "ms per passage", lambda n: 1e3, results))
    console.print(common.targets_table(report.targets))
    console.print(f"results: {options.output}", soft_wrap=True, highlight=False)

    missed = [target for target in report.targets if target.ok is False]
    if missed and plan.judged:
        console.print("[red]Missed:")
        for target in missed:
            console.print(f"  {target}", highlight=False)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
