"""The fifteen plasma stages of examples/plasma_stages: tracking, and the gradient by all lenses, on
one pinned core.

    python benchmarks/plasma_stages.py                     # learned and analytic; half a minute
    python benchmarks/plasma_stages.py --stages surrogate  # only these
    python benchmarks/plasma_stages.py --quick             # a few particles: does it work?

1. Seconds for 10^6 particles through all stages, gaps and lenses, in both precisions.
2. Time of the gradient of the emittance at the end with respect to all 14 lenses, over that of
   tracking the same 10^5 particles once.

Tables are printed, and everything is written as JSON to benchmarks/results/plasma_stages.json. Exit
status: 0 if the targets are reached, 1 if not. With --quick they are not judged.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import common  # before everything that computes: it pins the process to one core
from common import Effort, Report, Target, console
from rich.table import Table

# isort: split
import betatron as bt

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "plasma_stages"
SECONDS, RATIO, NANOSECONDS = 20.0, 5.0, 300.0


def example() -> ModuleType:
    sys.path.insert(0, str(EXAMPLE))
    import plasma_stages

    return plasma_stages


class Tracking:
    """One pass."""

    def __init__(self, line: bt.Line, beam: bt.Beam) -> None:
        self.line, self.start, self.beam = line, beam, beam

    def reset(self) -> None:
        self.beam = self.start.copy()

    def track(self) -> None:
        self.line.track(self.beam, record="ends", threads=1, progress=False)


class Reverse:
    """The gradient by all lenses: forward, backward, everything."""

    def __init__(self, line: bt.Line, beam: bt.Beam, loss: Any, lenses: list[bt.Element]) -> None:
        self.line, self.beam, self.loss, self.knobs = line, beam, loss, [(e, "k1") for e in lenses]

    def reset(self) -> None:
        pass

    def track(self) -> None:
        self.line.gradient(self.beam, self.loss, self.knobs, threads=1)


def judge(stages: ModuleType, kind: str, many: int, some: int, report: Report) -> None:
    """Both parts with stages of one kind."""
    effort = Effort(budget=0.0, repetitions=3)
    line = stages.make_line(15, kind)
    lenses = stages.lenses_of(line)

    tracks = {p: Tracking(line, stages.make_beam(many, p)) for p in ("double", "single")}
    took = {p: timing.processor for p, timing in common.measure(tracks, effort).items()}
    table = Table("precision", "particles", "seconds", "ns per particle and stage",
                  title=f"Tracking, {kind} stages")  # fmt: skip
    for precision, seconds in took.items():
        each = seconds / many / 15
        table.add_row(precision, f"{many:,}", f"{seconds:.3f}", f"{1e9 * each:.0f}")
        report.measurements.append(
            {
                "part": "tracking",
                "stages": kind,
                "precision": precision,
                "particles": many,
                "seconds": seconds,
            }
        )
        report.targets.append(
            Target(f"tracking, {kind}, {precision}", SECONDS, False, "s", seconds)
        )
        if kind == "surrogate":
            report.targets.append(
                Target(f"a learned stage, {precision}", NANOSECONDS, False, "ns", 1e9 * each)
            )
    console.print(table)

    beam = stages.make_beam(some)
    runs = {
        "tracking": Tracking(line, beam),
        "gradient": Reverse(line, beam, stages.final_emittance(), lenses),
    }
    took = {k: timing.processor for k, timing in common.measure(runs, effort).items()}
    ratio = took["gradient"] / took["tracking"]
    table = Table("particles", "tracking [s]", "gradient [s]", "ratio",
                  title=f"Gradient by {len(lenses)} lenses, {kind} stages, double precision")  # fmt: skip
    table.add_row(f"{some:,}", f"{took['tracking']:.3f}", f"{took['gradient']:.3f}", f"{ratio:.2f}")
    console.print(table)
    report.measurements.append(
        {"part": "gradient", "stages": kind, "particles": some, "seconds": took, "ratio": ratio}
    )
    report.targets.append(Target(f"gradient over tracking, {kind}", RATIO, False, "", ratio))


def main() -> int:
    stages = example()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few particles: does it work?")
    parser.add_argument("--stages", choices=sorted(stages.STAGES), help="only these; default: all")
    parser.add_argument("--output", type=Path, default=common.RESULTS / "plasma_stages.json")
    arguments = parser.parse_args()
    many, some = (1000, 200) if arguments.quick else (10**6, 10**5)
    warnings.simplefilter("ignore", bt.OutsideDomainWarning)  # a few of a million are
    common.print_machine()
    kinds = [arguments.stages] if arguments.stages else sorted(stages.STAGES)
    report = Report("plasma_stages", {"quick": arguments.quick, "stages": kinds}, {})
    for kind in kinds:
        judge(stages, kind, many, some, report)
    console.print(common.targets_table(report.targets))
    report.write(arguments.output)
    console.print(f"written to {arguments.output}")
    missed = [t for t in report.targets if t.ok is False]
    return 1 if missed and not arguments.quick else 0


if __name__ == "__main__":
    sys.exit(main())
