"""What all benchmark scripts share: one pinned core, fair timing, targets, tables and JSON.

Import it before anything else that computes: importing it binds the process to one core and sets
the thread count of every numerical library to 1, which they read when they are loaded. On its own,

    python benchmarks/common.py

prints the description of this machine that goes into every result file.
"""

from __future__ import annotations

import os

AVAILABLE_CORES: tuple[int, ...] = tuple(sorted(os.sched_getaffinity(0)))
"""Processors that the process was allowed to use when it started."""

CORE: int = AVAILABLE_CORES[-1]  # the first one handles most interrupts
"""The processor that everything runs on."""

os.sched_setaffinity(0, {CORE})
for _library in ("OMP", "OPENBLAS", "MKL", "NUMEXPR", "VECLIB_MAXIMUM", "BLIS"):
    os.environ[f"{_library}_NUM_THREADS"] = "1"

import gc  # noqa: E402
import json  # noqa: E402
import platform  # noqa: E402
import statistics  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from collections.abc import Iterable, Iterator, Mapping, Sequence  # noqa: E402
from contextlib import contextmanager  # noqa: E402
from dataclasses import asdict, dataclass, field  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any, Protocol  # noqa: E402

from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

RESULTS = Path(__file__).resolve().parent / "results"

# Where the output is no terminal, rich would take it for 80 columns wide.
console = Console() if sys.stdout.isatty() else Console(width=120)


# --- timing ---------------------------------------------------------------------------------------


class Run(Protocol):
    """Something to be timed, again and again from the same state."""

    def reset(self) -> None:
        """Back to the initial state; not timed."""

    def track(self) -> None:
        """What is timed."""


@dataclass(frozen=True)
class Timing:
    """Seconds of several repetitions."""

    best: float
    median: float
    repetitions: int
    processor: float
    """Least processor time, of all threads together. Unlike elapsed time it does not count what
    other processes take away, which long runs cannot avoid on a busy machine."""

    @property
    def busy(self) -> float:
        """Processors in use. Below the number of threads, something else was in the way."""
        return self.processor / self.best


@dataclass(frozen=True)
class Effort:
    """How long to measure.

    A run is repeated until its repetitions took ``budget`` seconds in all, but at least
    ``repetitions`` times, or ``slow_repetitions`` times where one takes longer than the budget.
    Codes take turns after ``burst`` seconds.
    """

    budget: float
    repetitions: int = 3
    slow_repetitions: int = 2
    burst: float = 0.1

    def enough(self, seconds: Sequence[float]) -> bool:
        slow = bool(seconds) and min(seconds) > self.budget
        needed = self.slow_repetitions if slow else self.repetitions
        return len(seconds) >= needed and sum(seconds) >= self.budget


def measure(runs: Mapping[Any, Run], effort: Effort) -> dict[Any, Timing]:
    """Time all runs in turn, round by round, each for a burst.

    A disturbance of the machine, or its clock slowing down, then meets all of them and not just
    one; within a burst of repetitions every run finds its code and data in the caches.
    """
    seconds: dict[Any, list[float]] = {key: [] for key in runs}
    processor: dict[Any, float] = {key: float("inf") for key in runs}
    with _no_garbage_collection():
        while waiting := [key for key, taken in seconds.items() if not effort.enough(taken)]:
            for key in waiting:
                burst = 0.0
                while burst <= effort.burst and not effort.enough(seconds[key]):
                    taken, on_processor = _timed(runs[key])
                    seconds[key].append(taken)
                    processor[key] = min(processor[key], on_processor)
                    burst += taken
    return {
        key: Timing(min(taken), statistics.median(taken), len(taken), processor[key])
        for key, taken in seconds.items()
    }


def _timed(run: Run) -> tuple[float, float]:
    """(elapsed time, time on the processor) of one repetition."""
    run.reset()
    before = time.process_time()
    start = time.perf_counter()
    run.track()
    taken = time.perf_counter() - start
    return taken, time.process_time() - before


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


# --- cores ----------------------------------------------------------------------------------------


def second_core() -> int | None:
    """A processor on another physical core than CORE, if the process may use one."""
    siblings = _siblings(CORE)
    return next((core for core in AVAILABLE_CORES if core not in siblings), None)


def _siblings(core: int) -> set[int]:
    """The processors that share the physical core of this one, itself included."""
    path = Path(f"/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list")
    try:
        parts = path.read_text(encoding="ascii").strip().split(",")
    except OSError:  # not every virtual machine tells
        return {core}
    found = {core}
    for part in parts:
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return found


@contextmanager
def on_cores(cores: Iterable[int]) -> Iterator[None]:
    """Let the process use these processors, then only CORE again."""
    os.sched_setaffinity(0, set(cores))
    try:
        yield
    finally:
        os.sched_setaffinity(0, {CORE})


# --- what it ran on -------------------------------------------------------------------------------


def machine() -> dict[str, Any]:
    """What the numbers depend on beside the programs."""
    cpu = "unknown"
    flags: set[str] = set()
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            cpu = value.strip()
        elif key.strip() == "flags":
            flags = set(value.split())
    vectors = ("sse4_2", "avx2", "fma", "avx512f", "avx512vl", "avx512_bf16", "amx_tile")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": cpu,
        "vector_instructions": [name for name in vectors if name in flags],
        "processors": os.cpu_count(),
        "available": len(AVAILABLE_CORES),
        "pinned_to": CORE,
        "memory_GiB": round(memory / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "load": round(load(), 2),
    }


def load() -> float:
    """Processes that wanted to run, on average over the last minute."""
    return os.getloadavg()[0]


# --- targets --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Target:
    """A number that has to be reached, and what was measured (None: it was not)."""

    name: str
    limit: float
    at_least: bool  # or at most
    unit: str
    measured: float | None

    @property
    def ok(self) -> bool | None:
        """Whether it was reached; None if it was not measured."""
        if self.measured is None:
            return None
        return self.measured >= self.limit if self.at_least else self.measured <= self.limit

    def __str__(self) -> str:
        measured = "not measured" if self.measured is None else f"{self.measured:.3g} {self.unit}"
        return f"{self.name}: {measured.strip()}, wanted {self.wanted}"

    @property
    def wanted(self) -> str:
        return f"{'>=' if self.at_least else '<='} {self.limit:g} {self.unit}".strip()


def targets_table(targets: Iterable[Target]) -> Table:
    table = Table("target", "wanted", "measured", "reached", title="Targets")
    shown = {True: "[green]yes", False: "[red]NO", None: "-"}
    for t in targets:
        measured = "-" if t.measured is None else f"{t.measured:.3g} {t.unit}"
        table.add_row(t.name, t.wanted, measured.strip(), shown[t.ok])
    return table


# --- results --------------------------------------------------------------------------------------


@dataclass
class Report:
    """Everything that goes into the result file."""

    benchmark: str
    settings: dict[str, Any]
    peers: dict[str, str]
    machine: dict[str, Any] = field(default_factory=machine)
    measurements: list[dict[str, Any]] = field(default_factory=list)
    agreement: list[dict[str, Any]] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        self.notes.append(text)
        console.print(text, style="yellow", markup=False, highlight=False)

    def write(self, path: Path) -> None:
        """As JSON; folders are made as needed."""
        data = asdict(self)
        data["targets"] = [{**asdict(t), "ok": t.ok} for t in self.targets]
        data["load_at_end"] = round(load(), 2)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def print_machine() -> None:
    facts = machine()
    console.print(
        f"{facts['cpu']}, {' '.join(facts['vector_instructions'])}; "
        f"processor {CORE} of {facts['processors']}, {facts['memory_GiB']} GiB; "
        f"{facts['system']}, Python {facts['python']}",
        highlight=False,
    )
    if facts["load"] > 0.5:
        console.print(
            f"[yellow]load {facts['load']}: something else is running; trust the numbers less"
        )


if __name__ == "__main__":
    print_machine()
