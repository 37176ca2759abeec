"""Gradients: Betatron's reverse mode beside its own tracking and beside Cheetah's, in one run on one pinned core.

    python benchmarks/gradient.py                # everything; a few minutes
    python benchmarks/gradient.py --no-peers     # Betatron alone
    python benchmarks/gradient.py --quick        # a few particles: does it work?

The line is [quadrupole 0.2 m, drift 0.8 m] repeated, focusing and defocusing in turn, every quadrupole
an element of its own; electrons of 1 GeV. What is differentiated is the variance of x at the end, with
respect to the strength of every quadrupole (and every initial coordinate, which costs nothing more).

1. Time of the gradient over time of tracking the same beam once, by number of particles, in both
   precisions; and for a loss that depends on time, which takes more of the maps along.
2. Memory: what is kept between the passes and by how much the resident memory of the process grows,
   per particle, for lines of 40, 400 and 4000 elements.
3. Forward mode, a Hessian times a vector, and the gradient of an envelope with space charge, over the time of
   tracking the same once.
4. Cheetah: the same gradient by PyTorch's reverse mode, where its graph fits into memory.
   The largest difference of the derivatives is printed: the codes differ by what a drift-kick-drift leaves out.
5. Space charge in three dimensions: gradient over tracking with ten kicks of the field of 1 million particles on
   grids of 64^3 and 128^3 cells, in both precisions.

Tables are printed, and everything is written as JSON to benchmarks/results/gradient.json. Exit status:
0 if all targets that could be measured are reached, 1 if not. With --quick they are not judged.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import common  # before everything that computes: it pins the process to one core
from common import Effort, Report, Target, console
from rich.table import Table

# isort: split
import betatron as bt
import numpy as np
import peers

ELEMENTS = (40, 400, 4000)
RATIO, BYTES, SPEEDUP = 4.0, 64.0, 60.0


@dataclass(frozen=True)
class Plan:
    particles: tuple[int, ...]
    memory_particles: int
    cheetah_particles: tuple[int, ...]
    kicked: tuple[int, tuple[int, ...]]  # particles; cells along each axis
    effort: Effort
    judged: bool


FULL = Plan(
    (10**4, 10**5, 10**6), 10**6, (10**3, 10**4), (10**6, (64, 128)), Effort(budget=2.0), True
)
QUICK = Plan((200,), 2000, (200,), (2000, (16,)), Effort(budget=0.0, repetitions=2), False)


def line_of(elements: int) -> bt.Line:
    """Every quadrupole has a strength of its own."""
    drift = bt.Drift(0.8, name="drift")
    items: list[bt.Element] = []
    for i in range(elements // 2):
        items += [bt.Quadrupole(0.2, k1=1.0 if i % 2 == 0 else -1.0, name=f"q{i}"), drift]
    return bt.Line(items)


def beam_of(n: int, precision: str = "double") -> bt.Beam:
    transverse = {"beta": 8.0, "alpha": 0.0, "emittance": 1e-9}
    twiss = {f"{name}_{plane}": value for plane in "xy" for name, value in transverse.items()}
    shape = bt.Gaussian.from_twiss(**twiss, beta_t=0.1, alpha_t=0.0, emittance_t=1e-7)
    return bt.Beam(
        bt.Reference("electron", kinetic_energy=1e9), shape, n=n, seed=1, precision=precision
    )


class Tracking:
    """One forward pass, with the moments at the end."""

    def __init__(self, line: bt.Line, beam: bt.Beam, **effects: Any) -> None:
        self.line, self.start, self.beam, self.effects = line, beam, beam, effects

    def reset(self) -> None:
        self.beam = self.start.copy()

    def track(self) -> None:
        self.line.track(self.beam, record="ends", threads=1, progress=False, **self.effects)


class Reverse:
    """The gradient: forward, backward, everything."""

    def __init__(self, line: bt.Line, beam: bt.Beam, loss: bt.losses.Loss, **effects: Any) -> None:
        self.line, self.beam, self.loss, self.effects = line, beam, loss, effects
        self.result: bt.Gradient | None = None

    def reset(self) -> None:
        self.result = None

    def track(self) -> None:
        self.result = self.line.gradient(
            self.beam, self.loss, "k1", initial=True, threads=1, **self.effects
        )


class CheetahReverse:
    """The same by PyTorch's graph."""

    def __init__(self, tracker: Any, beam: bt.Beam) -> None:
        import torch

        self._run = tracker.load(beam)
        self.strengths = [e.k1 for e in tracker.segment.elements if hasattr(e, "k1")]
        for k in self.strengths:
            k.requires_grad_(True)
        self._torch = torch

    def reset(self) -> None:
        for k in self.strengths:
            k.grad = None

    def track(self) -> None:
        out = tracker_out = self._run._segment.track(self._run._incoming)
        x = out.particles[:, 0]
        ((x - x.mean()) ** 2).mean().backward()
        del tracker_out

    def derivatives(self) -> np.ndarray:
        return np.array([float(k.grad) for k in self.strengths])


def resident() -> int:
    """Bytes in memory, and the most there were since reset_peak()."""
    for row in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if row.startswith("VmHWM:"):
            return int(row.split()[1]) * 1024
    return 0


def reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def times(plan: Plan, report: Report) -> dict[tuple[str, int], float]:
    """Part 1: seconds of a gradient over seconds of tracking."""
    line = line_of(400)
    table = Table("precision", "particles", "tracking [ms]", "gradient [ms]", "ratio", "loss of time too",
                  "rewind error", title="400 elements, derivatives by 200 strengths and all coordinates")  # fmt: skip
    found = {}
    size = bt.losses.beam_size("x")
    late = size + bt.losses.beam_size("t")
    for precision in ("double", "single"):
        for n in plan.particles:
            beam = beam_of(n, precision)
            runs = {
                "tracking": Tracking(line, beam),
                "gradient": Reverse(line, beam, size),
                "of time": Reverse(line, beam, late),
            }
            took = common.measure(runs, plan.effort)
            ratio = {k: took[k].processor / took["tracking"].processor for k in took}
            error = runs["gradient"].result.relative_rewind_error
            found[precision, n] = ratio["gradient"]
            table.add_row(precision, f"{n:,}", f"{took['tracking'].processor * 1e3:.2f}",
                          f"{took['gradient'].processor * 1e3:.2f}", f"{ratio['gradient']:.2f}",
                          f"{ratio['of time']:.2f}", f"{error:.1e}")  # fmt: skip
            report.measurements.append(
                {"part": "time", "precision": precision, "particles": n, "elements": 400,
                 "seconds": {k: t.processor for k, t in took.items()}, "ratio": ratio, "rewind_error": error}
            )  # fmt: skip
    console.print(table)
    return found


def memory(plan: Plan, report: Report) -> float:
    """Part 2: the most bytes per particle of all lines."""
    n = plan.memory_particles
    beam = beam_of(n)
    table = Table("elements", "kept [bytes/particle]", "growth of the process [bytes/particle]",
                  title=f"Memory of a gradient, {n:,} particles in double precision")  # fmt: skip
    most = 0.0
    beam_of(10)  # what libraries allocate once
    line_of(40).gradient(beam_of(10), bt.losses.beam_size("x"), "k1", initial=True)
    for elements in ELEMENTS:
        line = line_of(elements)
        reset_peak()
        before = resident()
        g = line.gradient(beam, bt.losses.beam_size("x"), "k1", initial=True, threads=1)
        grown = (resident() - before) / n
        kept = g.memory / n
        most = max(most, grown, kept)
        table.add_row(f"{elements:,}", f"{kept:.1f}", f"{grown:.1f}")
        report.measurements.append(
            {"part": "memory", "elements": elements, "particles": n, "kept": kept, "grown": grown}
        )
        del g
    console.print(table)
    return most


class Repeated:
    """Anything that is run again and again."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self.work = work

    def reset(self) -> None:
        pass

    def track(self) -> None:
        self.work()


def other_derivatives(plan: Plan, report: Report) -> None:
    """Part 3: forward mode, second derivatives, and envelopes, over the time of tracking once."""
    line = line_of(400)
    n = plan.particles[0]
    beam, size = beam_of(n), bt.losses.beam_size("x")
    few = [("q0", "k1"), ("q1", "k1")]
    direction = np.ones(200)
    start, ref = beam_of(1000).covariance(), beam.reference
    current = bt.SpaceChargeEnvelope("2D", current=0.1)
    groups = {
        f"{n:,} particles": {
            "tracking": Tracking(line, beam),
            "reverse, 2 parameters": Repeated(lambda: line.gradient(beam, size, few, threads=1)),
            "forward, 2 parameters": Repeated(
                lambda: line.gradient(beam, size, few, strategy="forward", threads=1)
            ),
            "reverse, 200 parameters": Repeated(lambda: line.gradient(beam, size, "k1", threads=1)),
        }
        | {
            f"Hessian times a vector, 200 parameters, {method}": Repeated(
                lambda method=method: line.hessian_vector(
                    beam, size, "k1", direction, method=method, threads=1
                )
            )
            for method in ("exact", "differences")
        },
        "an envelope with space charge": {
            "tracking": Repeated(
                lambda: line.envelope(ref, start, space_charge=current, record=None)
            ),
            "reverse, 2 parameters": Repeated(
                lambda: line.envelope_gradient(ref, start, size, few, space_charge=current)
            ),
            "reverse, 200 parameters": Repeated(
                lambda: line.envelope_gradient(ref, start, size, "k1", space_charge=current)
            ),
        },
    }
    table = Table(
        "beam", "what", "time [ms]", "over tracking", title="Other derivatives of 400 elements"
    )
    for name, runs in groups.items():
        took = common.measure(runs, plan.effort)
        for what, t in took.items():
            ratio = t.processor / took["tracking"].processor
            table.add_row(name, what, f"{t.processor * 1e3:.2f}", f"{ratio:.2f}")
            report.measurements.append(
                {
                    "part": "other",
                    "beam": name,
                    "what": what,
                    "seconds": t.processor,
                    "ratio": ratio,
                }
            )
            if what.startswith("Hessian"):
                gradients = t.processor / took["reverse, 200 parameters"].processor
                report.note(f"{what}: {gradients:.1f} times the gradient by them")
    console.print(table)


def against_cheetah(plan: Plan, report: Report) -> float | None:
    """Part 4: how many times faster, with the largest number of particles."""
    if peers.CHEETAH.version is None:
        report.note("Cheetah is not installed")
        return None
    line = line_of(400)
    table = Table("particles", "Betatron [ms]", "Cheetah [ms]", "times faster", "largest difference",
                  title="Gradient of 400 elements, double precision")  # fmt: skip
    ratio = None
    for n in plan.cheetah_particles:
        beam = beam_of(n)
        tracker = peers.CHEETAH.build(line, beam.reference)
        runs = {
            "Betatron": Reverse(line, beam, bt.losses.beam_size("x")),
            "Cheetah": CheetahReverse(tracker, beam),
        }
        took = common.measure(runs, plan.effort)
        ours, theirs = runs["Betatron"].result.derivatives, runs["Cheetah"].derivatives()
        difference = float(np.abs(ours - theirs).max() / np.abs(ours).max())
        ratio = took["Cheetah"].processor / took["Betatron"].processor
        table.add_row(f"{n:,}", f"{took['Betatron'].processor * 1e3:.2f}",
                      f"{took['Cheetah'].processor * 1e3:.1f}", f"{ratio:.0f}", f"{difference:.1e}")  # fmt: skip
        report.measurements.append(
            {"part": "peer", "particles": n, "seconds": {k: t.processor for k, t in took.items()},
             "difference": difference}
        )  # fmt: skip
    console.print(table)
    return ratio


def with_space_charge(plan: Plan, report: Report) -> float:
    """Part 4: the largest ratio in double precision."""
    n, grids = plan.kicked
    line = line_of(10)
    table = Table("precision", "cells", "tracking [ms]", "gradient [ms]", "ratio",
                  "kept [bytes/particle]", "rewind error",
                  title=f"Ten kicks of space charge in 3D, {n:,} particles, all coordinates")  # fmt: skip
    largest = 0.0
    for precision in ("double", "single"):
        beam = beam_of(n, precision)
        beam.set_charge(1e-9)
        for cells in grids:
            field = bt.SpaceCharge3D(cells=(cells,) * 3)
            runs = {
                "tracking": Tracking(line, beam, space_charge=field),
                "gradient": Reverse(line, beam, bt.losses.beam_size("x"), space_charge=field),
            }
            took = common.measure(runs, plan.effort)
            ratio = took["gradient"].processor / took["tracking"].processor
            result = runs["gradient"].result
            if precision == "double":
                largest = max(largest, ratio)
            table.add_row(precision, f"{cells}^3", f"{took['tracking'].processor * 1e3:.0f}",
                          f"{took['gradient'].processor * 1e3:.0f}", f"{ratio:.2f}",
                          f"{result.memory / n:.0f}", f"{result.relative_rewind_error:.1e}")  # fmt: skip
            report.measurements.append(
                {"part": "space charge", "precision": precision, "particles": n, "cells": cells,
                 "seconds": {k: t.processor for k, t in took.items()}, "ratio": ratio,
                 "kept": result.memory / n, "rewind_error": result.relative_rewind_error}
            )  # fmt: skip
    console.print(table)
    return largest


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few particles: does it work?")
    parser.add_argument("--no-peers", action="store_true", help="Betatron alone")
    parser.add_argument("--output", type=Path, default=common.RESULTS / "gradient.json")
    arguments = parser.parse_args()
    plan = QUICK if arguments.quick else FULL
    common.print_machine()
    report = Report("gradient", {"quick": arguments.quick}, peers.installed())
    ratios = times(plan, report)
    bytes_per_particle = memory(plan, report)
    kicked = with_space_charge(plan, report)
    other_derivatives(plan, report)
    speedup = None if arguments.no_peers else against_cheetah(plan, report)
    largest = max(n for _, n in ratios)
    report.targets = [
        Target("gradient over tracking, double", RATIO, False, "", ratios["double", largest]),
        Target("the same with space charge in 3D", RATIO, False, "", kicked),
        Target("memory of a gradient", BYTES, False, "bytes/particle", bytes_per_particle),
        Target("faster than Cheetah", SPEEDUP, True, "times", speedup),
    ]
    console.print(common.targets_table(report.targets))
    report.write(arguments.output)
    console.print(f"written to {arguments.output}")
    missed = [t for t in report.targets if t.ok is False]
    return 1 if plan.judged and missed else 0


if __name__ == "__main__":
    sys.exit(main())
