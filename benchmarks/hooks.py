"""What a hook costs, and code of the user beside the same map of the library.

    python benchmarks/hooks.py [--quick] [--output FILE]

Measured on one core: the time that an empty hook on every slice adds per call, for beams of
different sizes (with many particles most of it is that they leave the fused pass at every slice); a
`Programmable` that is an empty function of Python; and a thin lens as an element
of the library, as a C function compiled by Numba inside the fused pass, and as a function of NumPy
on the whole beam. Writes results/hooks.json.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import common
from common import Effort, Report, Target, console, measure

import betatron as bt  # isort: skip

SLICES = 1000


class Passage:
    """A beam through a line, again and again from the same state."""

    def __init__(self, line: bt.Line, particles: int, precision: str, hooks: Any = None) -> None:
        reference = bt.Reference("electron", kinetic_energy=1e9)
        shape = bt.Gaussian.from_twiss(
            beta_x=2, emittance_x=1e-9, beta_y=2, emittance_y=1e-9, beta_t=1, emittance_t=1e-9
        )
        self.line, self.hooks = line, hooks
        self.start = bt.Beam(reference, shape, n=particles, seed=1, precision=precision)
        self.beam = self.start.copy()

    def reset(self) -> None:
        self.beam = self.start.copy()

    def track(self) -> None:
        self.line.track(self.beam, hooks=self.hooks, progress=False, threads=1)


def nothing(*_: Any) -> None:
    pass


def numpy_lens(beam: bt.Beam, state: bt.State) -> None:
    beam.px[:] -= 1e-4 * beam.x
    beam.py[:] += 1e-4 * beam.y


def numba_lens() -> dict[str, Any] | None:
    try:
        import numba
    except ImportError:
        return None

    def push(n, x, px, y, py, t, pt, weight, id, lost, place, settings):  # type: ignore[no-untyped-def]
        k = settings[0]
        for i in range(n):
            px[i] -= k * x[i]
            py[i] += k * y[i]

    signature = bt.programmable.c_signature
    return {
        "push": numba.cfunc(signature())(push),
        "push_single": numba.cfunc(signature("single"))(push),
        "settings": [1e-4],
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="short measurements, not to be quoted")
    parser.add_argument("--output", type=Path, default=common.RESULTS / "hooks.json")
    arguments = parser.parse_args()
    effort = Effort(budget=0.1 if arguments.quick else 1.0)
    common.print_machine()
    report = Report("hooks", {"slices": SLICES, "judged": not arguments.quick}, {})
    measurements = report.measurements

    drifts = bt.Line([bt.Drift(1.0, slices=SLICES)])
    per_slice = bt.Line([bt.Programmable(1.0, push=nothing, slices=SLICES)])
    hook = bt.Hooks(before_slice=nothing)
    for n in (1, 1000) if arguments.quick else (1, 100, 1000, 10_000):
        times = measure(
            {
                "plain": Passage(drifts, n, "double"),
                "hook": Passage(drifts, n, "double", hook),
                "Programmable": Passage(per_slice, n, "double"),
            },
            effort,
        )
        for name in ("hook", "Programmable"):
            microseconds = (times[name].best - times["plain"].best) / SLICES * 1e6
            measurements.append(
                {"what": f"empty {name}", "particles": n, "microseconds_per_call": microseconds}
            )
            console.print(f"empty {name}, {n} particles: {microseconds:.2f} us per call")

    lenses: dict[str, dict[str, Any]] = {"Python (NumPy)": {"push": numpy_lens}}
    if compiled := numba_lens():
        lenses["C function (Numba)"] = compiled
    else:
        report.note("Numba is not installed: no compiled lens")
    for n in (1000,) if arguments.quick else (1000, 100_000):
        for precision in ("double", "single"):
            d = bt.Drift(0.01)
            runs = {
                "Multipole": Passage(50 * bt.Line([bt.Multipole(knl=[0, 1e-4]), d]), n, precision)
            }
            for name, code in lenses.items():
                runs[name] = Passage(50 * bt.Line([bt.Programmable(**code), d]), n, precision)
            for name, time in measure(runs, effort).items():
                nanoseconds = time.best / (50 * n) * 1e9
                measurements.append(
                    {
                        "what": f"lens and drift: {name}",
                        "particles": n,
                        "precision": precision,
                        "ns_per_particle": nanoseconds,
                    }
                )
                console.print(
                    f"{name}, {precision}, {n} particles: {nanoseconds:.2f} ns per particle"
                )

    for n in (1, 1000):
        (cost,) = (
            m["microseconds_per_call"]
            for m in measurements
            if m["what"] == "empty hook" and m["particles"] == n
        )
        name = f"empty hook on every slice, {n} particles"
        report.targets.append(Target(name, 5.0, False, "us per call", cost))
    console.print(common.targets_table(report.targets))
    report.write(arguments.output)
    console.print(f"written: {arguments.output}")
    return int(not arguments.quick and not all(t.ok for t in report.targets))


if __name__ == "__main__":
    sys.exit(main())
