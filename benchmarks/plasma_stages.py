"""The fifteen plasma stages of examples/plasma_stages: tracking, and the gradient by all lenses, on
one pinned core.

    python benchmarks/plasma_stages.py                     # about a minute
    python benchmarks/plasma_stages.py --stages surrogate  # others than the analytic ones
    python benchmarks/plasma_stages.py --quick             # a few particles: does it work?

1. Seconds for 10^6 particles through all stages, gaps and lenses, in both precisions.
2. Time of the gradient of the emittance at the end with respect to all 14 lenses, over that of
  tracking
   the same 10^5 particles once.

Tables are printed, and everything is written as JSON to benchmarks/results/plasma_stages.json. Exit
status: 0 if the targets are reached, 1 if not. With --quick they are not judged.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import common  # before everything that computes: it pins the process to one core
from common import Effort, Report, Target, console
from rich.table import Table

# isort: split
import betatron as bt

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "plasma_stages"
SECONDS, RATIO = 20.0, 5.0


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


def main() -> int:
    stages = example()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few particles: does it work?")
    parser.add_argument("--stages", choices=sorted(stages.STAGES), default="analytic")
    parser.add_argument("--output", type=Path, default=common.RESULTS / "plasma_stages.json")
    arguments = parser.parse_args()
    many, some = (1000, 200) if arguments.quick else (10**6, 10**5)
    effort = Effort(budget=0.0, repetitions=2)
    common.print_machine()
    report = Report("plasma_stages", {"quick": arguments.quick, "stages": arguments.stages}, {})
    line = stages.make_line(15, arguments.stages)
    lenses = stages.lenses_of(line)

    tracks = {p: Tracking(line, stages.make_beam(many, p)) for p in ("double", "single")}
    took = common.measure(tracks, effort)
    table = Table("precision", "particles", "seconds", "ns per particle and stage",
                  title=f"Tracking, {arguments.stages} stages")  # fmt: skip
    for precision, timing in took.items():
        seconds = timing.processor
        table.add_row(precision, f"{many:,}", f"{seconds:.3f}", f"{seconds / many / 15e-9:.0f}")
        report.measurements.append(
            {"part": "tracking", "precision": precision, "particles": many, "seconds": seconds}
        )
    console.print(table)

    beam = stages.make_beam(some)
    runs = {
        "tracking": Tracking(line, beam),
        "gradient": Reverse(line, beam, stages.final_emittance(), lenses),
    }
    took_both = {k: t.processor for k, t in common.measure(runs, effort).items()}
    ratio = took_both["gradient"] / took_both["tracking"]
    table = Table("particles", "tracking [s]", "gradient [s]", "ratio",
                  title=f"Gradient by {len(lenses)} lenses, double precision")  # fmt: skip
    table.add_row(
        f"{some:,}", *(f"{took_both[k]:.3f}" for k in ("tracking", "gradient")), f"{ratio:.2f}"
    )
    console.print(table)
    report.measurements.append(
        {"part": "gradient", "particles": some, "seconds": took_both, "ratio": ratio}
    )
    report.targets = [
        Target("15 stages, 10^6 particles, double", SECONDS, False, "s", took["double"].processor),
        Target("gradient by all lenses over tracking", RATIO, False, "", ratio),
    ]
    console.print(common.targets_table(report.targets))
    report.write(arguments.output)
    console.print(f"written to {arguments.output}")
    missed = [t for t in report.targets if t.ok is False]
    return 1 if missed and not arguments.quick else 0


if __name__ == "__main__":
    sys.exit(main())
