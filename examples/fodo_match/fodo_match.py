#!/usr/bin/env python3
"""Match a FODO cell with strong space charge, with and without gradients.

    python examples/fodo_match/fodo_match.py --output here

A proton beam of 0.5 A and 6.7 MeV shall leave the cell as it came: its Twiss parameters are those
at the entrance if the quadrupoles have -103.12 and 103.12 1/m^2. Three methods look for them from
(-85, 80) 1/m^2. Prints what each needed, and writes `fodo_match.png` to the output folder.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import betatron as bt
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from betatron import losses
from scipy.optimize import least_squares, minimize

REFERENCE = bt.Reference("proton", kinetic_energy=6.7e6)
ALPHA, BETA, EMITTANCE = 2.4685083, 0.737881, 1e-6  # at the entrance; alpha_y = -alpha_x
BEAM = bt.KV.from_twiss(
    beta_x=BETA, alpha_x=ALPHA, emittance_x=EMITTANCE,
    beta_y=BETA, alpha_y=-ALPHA, emittance_y=EMITTANCE,
    beta_t=0.5, alpha_t=0.0, emittance_t=1e-12,
)  # fmt: skip
SPACE_CHARGE = bt.SpaceChargeEnvelope("2D", current=0.5)
START = np.array([-85.0, 80.0])  # 1/m^2
PUBLISHED = np.array([-103.12574100336, 103.12574100336])
CLOSE = 1e-3  # of the published strengths: where a method counts as having arrived


def cell(slices: int) -> bt.Line:
    """Drift, quadrupole, drift, quadrupole, drift; each tracked in this many slices."""
    end = bt.Drift(0.0744, slices=slices)
    return bt.Line(
        [
            end,
            bt.Quadrupole(0.061, k1=START[0], slices=slices, name="q1"),
            bt.Drift(0.1488, slices=slices),
            bt.Quadrupole(0.061, k1=START[1], slices=slices, name="q2"),
            end,
        ]
    )


def mismatch() -> list[losses.Loss]:
    """Four numbers that are 0 where both planes are matched. Half the sum of the two squares of a
    plane is the mismatch of M. Sands, as in `losses.twiss_mismatch`."""

    def slope(plane: str, alpha: float) -> Callable[[losses.Moments], Any]:
        def number(m: losses.Moments) -> Any:
            a, b, _ = m.twiss(plane)
            return a * losses.sqrt(BETA / b) - alpha * losses.sqrt(b / BETA)

        return number

    def size(plane: str) -> Callable[[losses.Moments], Any]:
        def number(m: losses.Moments) -> Any:
            _, b, _ = m.twiss(plane)
            return losses.sqrt(BETA / b) - losses.sqrt(b / BETA)

        return number

    functions = [slope("x", ALPHA), size("x"), slope("y", -ALPHA), size("y")]
    return [losses.of_moments(f) for f in functions]


@dataclass
class Run:
    """What a method did."""

    name: str
    gradients: bool
    path: list[np.ndarray] = field(default_factory=list)  # strengths simulated, in order
    values: list[float] = field(default_factory=list)  # mismatch there
    seconds: float = 0.0  # inside of simulations and gradients

    def note(self, k: np.ndarray, value: float, seconds: float) -> None:
        self.path.append(np.array(k))
        self.values.append(float(value))
        self.seconds += seconds

    @property
    def arrived(self) -> int | None:
        """The number of simulations after which both strengths are, and stay, close to the
        published ones."""
        far = [i for i, k in enumerate(self.path) if np.any(np.abs(k / PUBLISHED - 1) > CLOSE)]
        first = far[-1] + 2 if far else 1
        return first if first <= len(self.path) else None


def simulate(line: bt.Line, k: np.ndarray, terms: losses.Loss) -> float:
    """The mismatch, without derivatives."""
    line["q1"].k1, line["q2"].k1 = k
    end = line.envelope(REFERENCE, BEAM, space_charge=SPACE_CHARGE, record=None)
    m = losses.Moments(end.mean, end.covariance, end.reference.gamma - 1)
    return sum(0.5 * t.function(m).value ** 2 for t in terms.terms)


def run_all(slices: int) -> tuple[list[Run], dict[str, float]]:
    """The three methods, and the seconds of a simulation, a gradient, and a Jacobian."""
    line, four = cell(slices), mismatch()
    together = four[0] + four[1] + four[2] + four[3]
    one = losses.twiss_mismatch("x", ALPHA, BETA) + losses.twiss_mismatch("y", -ALPHA, BETA)
    options = {"space_charge": SPACE_CHARGE}
    scale = 10.0  # 1/m^2

    def timed(
        run: Run, k: np.ndarray, work: Callable[[], Any], value: Callable[[Any], float]
    ) -> Any:
        start = time.perf_counter()
        result = work()
        run.note(k, value(result), time.perf_counter() - start)
        return result

    simplex = Run("Nelder-Mead", gradients=False)
    minimize(
        lambda x: timed(simplex, x * scale, lambda: simulate(line, x * scale, together), float),
        START / scale, method="Nelder-Mead",
    )  # fmt: skip

    conjugate = Run("conjugate gradient", gradients=True)
    scalar = bt.EnvelopeObjective(line, REFERENCE, BEAM, one, "k1", scale=scale, **options)
    minimize(
        lambda x: timed(conjugate, x * scale, lambda: scalar(x), lambda r: r[0]),
        START / scale, jac=True, method="CG",
    )  # fmt: skip

    newton = Run("Gauss-Newton", gradients=True)
    vector = bt.EnvelopeObjective(line, REFERENCE, BEAM, four, "k1", scale=scale, **options)

    def values_and_jacobian(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if newton.path and np.array_equal(newton.path[-1], x * scale):
            return vector(x)  # kept from the last call
        return timed(newton, x * scale, lambda: vector(x), lambda r: 0.5 * np.sum(r[0] ** 2))

    least_squares(
        lambda x: values_and_jacobian(x)[0], START / scale, lambda x: values_and_jacobian(x)[1],
        method="dogbox", xtol=1e-3, ftol=1e-3,
    )  # fmt: skip

    def best(work: Callable[[], Any]) -> float:
        times = []
        for _ in range(15):
            start = time.perf_counter()
            work()
            times.append(time.perf_counter() - start)
        return min(times)

    cost = {
        "simulation": best(lambda: simulate(line, START, together)),
        "gradient": best(scalar._gradient),
        "Jacobian": best(vector._gradient),
    }
    return [simplex, conjugate, newton], cost


def in_simulations(run: Run, cost: dict[str, float]) -> float:
    """What one step of a method costs, in simulations."""
    if not run.gradients:
        return 1.0
    kind = "Jacobian" if run.name == "Gauss-Newton" else "gradient"
    return cost[kind] / cost["simulation"]


def picture(runs: list[Run], slices: int, file: Path) -> None:
    """Mismatch and strengths against simulations, and the matched beam."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    colours = dict(zip((r.name for r in runs), ("tab:gray", "tab:orange", "tab:blue"), strict=True))
    for run in runs:
        number = np.arange(1, len(run.path) + 1)
        colour = colours[run.name]
        left.semilogy(number, run.values, ".-", color=colour, label=run.name, lw=1)
        for column, style in ((0, "-"), (1, "--")):
            middle.plot(number, np.array(run.path)[:, column], style, color=colour, lw=1)
    for value in PUBLISHED:
        middle.axhline(value, color="k", lw=0.5)
    left.set(xlabel="simulations", ylabel="mismatch of both planes", xscale="log")
    left.legend(loc="upper right")
    left.set_ylim(top=2e3)
    middle.set(xlabel="simulations", ylabel="k$_1$ [1/m$^2$] (q1 solid, q2 dashed)", xscale="log")
    for k, style, label in ((START, ":", "start"), (runs[-1].path[-1], "-", "matched")):
        line = cell(slices)
        line["q1"].k1, line["q2"].k1 = k
        moments = line.envelope(
            REFERENCE, BEAM, space_charge=SPACE_CHARGE, record_slices=True
        ).moments
        for plane, colour in (("x", "tab:red"), ("y", "tab:blue")):
            right.plot(
                moments["s"], 2e3 * moments[f"sigma_{plane}"], style, color=colour,
                label=f"{plane}, {label}",
            )  # fmt: skip
    right.set(xlabel="s [m]", ylabel="edge of the beam, 2 sigma [mm]")
    right.set_ylim(1.0, 2.8)
    right.legend(ncols=2, loc="upper center")
    figure.savefig(file, dpi=130)
    plt.close(figure)


def main(arguments: list[str] | None = None) -> int:
    """Run the example; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--slices", type=int, default=50, help="of each element")
    parser.add_argument("--output", type=Path, default=Path("fodo-match-results"), metavar="DIR")
    args = parser.parse_args(arguments)
    args.output.mkdir(parents=True, exist_ok=True)
    matplotlib.use("Agg")

    runs, cost = run_all(args.slices)
    print(
        f"one simulation {1e3 * cost['simulation']:.2f} ms, one with the gradient "
        f"{cost['gradient'] / cost['simulation']:.2f} times that, with the Jacobian of four "
        "numbers "
        f"{cost['Jacobian'] / cost['simulation']:.2f} times"
    )
    print(
        f"\n{'':20}{'arrived':>9}{'at cost':>9}{'in all':>8}{'at cost':>9}{'ms':>8}   found [1/m^2]"
    )
    for run in runs:
        unit = in_simulations(run, cost)
        arrived = run.arrived
        first = "never" if arrived is None else f"{arrived:d}"
        first_cost = "" if arrived is None else f"{arrived * unit:.1f}"
        k = run.path[int(np.argmin(run.values))]
        print(
            f"{run.name:20}{first:>9}{first_cost:>9}{len(run.path):8d}{len(run.path) * unit:9.1f}"
            f"{1e3 * run.seconds:8.1f}   {k[0]:.3f}, {k[1]:.3f}"
        )
    print(
        f"\narrived: simulations until both strengths are within {CLOSE:.1%} of "
        f"{PUBLISHED[1]:.2f}; "
        "at cost: in\nsimulations without gradients; in all: until the method stops by itself. "
        "Published: 167 and 37 simulations."
    )
    picture(runs, args.slices, args.output / "fodo_match.png")
    newton = runs[-1]
    return 0 if newton.arrived is not None else 1


if __name__ == "__main__":
    raise SystemExit(main())
