#!/usr/bin/env python3
"""Accelerate a 1 GeV beam in fifteen plasma stages to above 100 GeV, and optimise the lenses
between them.

    python examples/plasma_stages/plasma_stages.py                          # analytic wakes
    python examples/plasma_stages/plasma_stages.py --stages surrogate  # learned from a simulation
    python examples/plasma_stages/plasma_stages.py --count 4 --particles 2000 --optimise none

Between two stages of 28 cm there are 3 cm with a plasma lens of 3 mm in the middle. The lenses are
set in three ways: each from the Twiss parameters of the beam that comes to it, as it is tracked
("twiss"); one after the other, by Nelder and Mead, for the least emittance behind the next stage
("stagewise"); and all at once, for the least emittance at the end, with the gradient by all of them
("gradient").

Writes to the output folder: `moments.csv` (beam moments behind every element, for each way),
`lenses.csv`, `monitors/` (the beam behind every stage, openPMD), `moments.png`, `phase_space.png`,
`lenses.png`.

Learned stages say how many particles were outside of what they were trained for.

Exit status: 0 if the beam arrives above 100 GeV (of fifteen stages) with the emittance that it had
within 20 %, 1 if not, 2 for unusable arguments.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import betatron as bt
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from betatron import losses
from betatron.plasma import ion_focusing

RESULTS = ("moments.csv", "lenses.csv", "moments.png", "phase_space.png", "lenses.png")

# The stage, as fitted to pairs of Wake-T (n0 = 1.7e23 1/m^3 in a channel of 40 um, a0 = 2.36, w0 =
# 36 um): the mean gain of 13,880 m c^2, its slope along the bunch, and the focusing over that of
# bare ions.
LENGTH = 0.28  # m
DENSITY = 1.7e23  # 1/m^3
ACCELERATION = 25.33e9  # V/m
SLOPE = -1.442e15  # V/m^2
FOCUSING = 0.92

GAP = 0.03  # m
LENS = 0.003  # m
STRENGTHS = (100.0, 300.0)  # 1/m, of lenses that are looked for
MC2 = 0.51099895069e6  # eV

STEP = 0.6  # of integration in a stage, rad of a betatron oscillation


def make_beam(particles: int, precision: str = "double", seed: int = 1) -> bt.Beam:
    """1 GeV (beta gamma = 1957.99...), 0.75 um and 1 mm mrad round, 0.1 um long."""
    reference = bt.Reference("electron", beta_gamma=1958.0)
    shape = bt.Gaussian.from_ellipse(
        lambda_x=0.75e-6, lambda_y=0.75e-6, lambda_t=0.1e-6,
        lambda_px=1.33 / 1958.0, lambda_py=1.33 / 1958.0, lambda_pt=1e-8,
    )  # fmt: skip
    return bt.Beam(reference, shape, n=particles, charge=1e-14, seed=seed, precision=precision)


def analytic_stage(number: int) -> bt.Element:
    """Stage `number`, from 0: a blow-out."""
    gain = ACCELERATION / MC2  # per metre
    gammas = 1958.0 + gain * LENGTH * np.array([number, number + 1])
    phase = 2 * math.sqrt(FOCUSING * ion_focusing(DENSITY)) * LENGTH / np.sqrt(gammas).sum()
    return bt.PlasmaStage(
        length=LENGTH, density=DENSITY, acceleration=ACCELERATION, slope=SLOPE, focusing=FOCUSING,
        steps=max(10, math.ceil(phase / STEP)), name=f"stage{number + 1}",
    )  # fmt: skip


def surrogate_stage(number: int) -> bt.Element:
    """The same as learned from particles of the simulation."""
    from betatron.surrogate import PlasmaStageSurrogate, plasma_stage_files

    return PlasmaStageSurrogate(plasma_stage_files()[number], name=f"stage{number + 1}")


STAGES = {"analytic": analytic_stage, "surrogate": surrogate_stage}


def make_line(count: int, stages: str = "analytic") -> bt.Line:
    """`count` stages, with a lens in each gap; lenses focus to half the gap at first."""
    elements: list[bt.Element] = []
    side = (GAP - LENS) / 2
    for i in range(count):
        elements.append(STAGES[stages](i))
        if i < count - 1:
            elements.append(bt.Drift(side))
            elements.append(bt.PlasmaLens(LENS, k1=2 / (GAP / 2 * LENS), name=f"lens{i + 1}"))
            elements.append(bt.Drift(side))
    return bt.Line(elements, name="collider")


def lenses_of(line: bt.Line) -> list[bt.Element]:
    return [e for e in line if e.kind == "PlasmaLens"]


def refocusing_strength(alpha: float, beta: float, length: float) -> float:
    """k^2 [1/m^2] of the lens of this length that turns alpha around: tan(k l) = -2 alpha/(k beta -
    gamma/k), by bisection between the allowed k; ValueError where none is among them.

    Behind it the beam is the mirror image of what came, and meets the next stage as it left the
    last.
    """

    def miss(k: float) -> float:
        gamma = (1 + alpha**2) / beta
        return math.sin(k * length) * (k * beta - gamma / k) + 2 * alpha * math.cos(k * length)

    low, high = STRENGTHS
    if miss(low) * miss(high) > 0:
        raise ValueError(
            f"no lens of {length:g} m with k from {low:g} to {high:g} 1/m turns around a beam with "
            f"alpha = {alpha:g}, beta = {beta:g} m"
        )
    while high - low > 1e-12 * high:
        k = (low + high) / 2
        low, high = (k, high) if miss(low) * miss(k) > 0 else (low, k)
    return (low + high) ** 2 / 4


def track_with_twiss_lenses(line: bt.Line, beam: bt.Beam, folder: Path | None) -> pd.DataFrame:
    """Track, setting each lens from the beam that comes to it; the beam behind each stage is saved
    in `folder`. Returns the moments behind every element."""

    def set_lens(state: bt.State) -> None:
        m, lens = state.beam.moments(), line[state.element]
        lens.k1 = refocusing_strength(m.alpha_x, m.beta_x, lens.length)

    hooks = [bt.Hooks(before_element=set_lens, at=lenses_of(line))]
    if folder is not None:
        hooks.append(
            bt.Hooks(
                after_element=lambda state: state.beam.save(folder / f"{state.name}.h5"),
                at="stage.*",
            )
        )
    return line.track(beam, record="all", hooks=hooks).moments


def normalised_emittance(beam: bt.Beam) -> float:
    """Geometric mean of both planes [m]."""
    m = beam.moments()
    return math.sqrt(m.emittance_xn * m.emittance_yn)


def optimise_stagewise(line: bt.Line, beam: bt.Beam) -> int:
    """Set the lenses one after the other so that the emittance behind the next stage is least.
    Returns how often a stage was tracked."""
    from scipy.optimize import minimize

    beam = beam.copy()
    parts, tracked = list(line), 0
    positions = [i for i, e in enumerate(parts) if e.kind == "PlasmaLens"]
    bt.Line(parts[: positions[0]]).track(beam)
    for i, at in enumerate(positions):
        end = positions[i + 1] if i + 1 < len(positions) else len(parts)
        section, lens = bt.Line(parts[at:end]), parts[at]
        start = lens.k1

        def emittance(u: np.ndarray) -> float:
            nonlocal tracked
            tracked += 1
            lens.k1 = start * math.exp(u[0])  # noqa: B023
            probe = beam.copy()
            section.track(probe)  # noqa: B023
            return math.log(normalised_emittance(probe))

        simplex = np.array([[-0.02], [0.02]])
        options = {"initial_simplex": simplex, "xatol": 1e-4, "fatol": 1e-7, "maxfev": 30}
        best = minimize(emittance, [0.0], method="Nelder-Mead", options=options)
        lens.k1 = start * math.exp(best.x[0])
        section.track(beam)
    return tracked


def final_emittance() -> losses.Loss:
    """Logarithm of the geometric mean of the normalised emittances at the end."""

    def value(m: losses.Moments) -> losses.Number:
        return losses.log(m.emittance("x", True)) / 2 + losses.log(m.emittance("y", True)) / 2

    return losses.of_moments(value)


def optimise_all(line: bt.Line, beam: bt.Beam) -> bt.Objective:
    """Set all lenses at once so that the emittance at the end is least, by its gradient
    (L-BFGS-B)."""
    from scipy.optimize import minimize

    knobs = [(lens, "k1") for lens in lenses_of(line)]
    scale = [0.02 * lens.k1 for lens in lenses_of(line)]
    objective = bt.Objective(line, beam, final_emittance(), knobs, scale=scale)
    start = objective.x0
    best = minimize(
        objective, start, jac=True, method="L-BFGS-B", bounds=[(x - 10, x + 10) for x in start],
        options={"maxiter": 30, "ftol": 1e-8, "gtol": 1e-7},
    )  # fmt: skip
    objective(best.x)
    return objective


def plot_moments(runs: dict[str, pd.DataFrame], file: Path) -> None:
    figure, axes = plt.subplots(4, 1, figsize=(9, 9), sharex=True, layout="constrained")
    for (name, m), style in zip(runs.items(), ("-", "--", ":"), strict=False):
        energy = (m.gamma - 1) * MC2 / 1e9
        axes[0].plot(m.s, energy, style, label=name)
        axes[1].semilogy(m.s, 1e6 * m.sigma_x, style)
        axes[2].plot(m.s, 1e6 * m.emittance_xn, style)
        axes[3].plot(m.s, 100 * m.sigma_pt, style)
    labels = ("energy [GeV]", "sigma_x [um]", "emittance_xn [mm mrad]", "sigma_pt [%]")
    for axis, label in zip(axes, labels, strict=True):
        axis.set_ylabel(label)
    axes[0].legend(title="lenses", frameon=False)
    axes[-1].set_xlabel("s [m]")
    figure.savefig(file, dpi=130)
    plt.close(figure)


def plot_phase_spaces(beams: dict[str, bt.Beam], file: Path) -> None:
    figure, axes = plt.subplots(2, len(beams), figsize=(3.2 * len(beams), 6), layout="constrained")
    for column, (name, beam) in zip(axes.T, beams.items(), strict=True):
        momentum = beam.reference.beta_gamma
        x, px = 1e6 * np.asarray(beam.x), momentum * np.asarray(beam.px)
        gain = -100 * np.asarray(beam.pt)
        column[0].plot(x, px, ",", alpha=0.5)
        column[0].set(title=name, xlabel="x [um]", ylabel="px [m c]")
        column[1].plot(-1e6 * np.asarray(beam.t), gain, ",", alpha=0.5)
        column[1].set(xlabel="-t [um]", ylabel="-pt [%]")
    figure.savefig(file, dpi=130)
    plt.close(figure)


def plot_lenses(table: pd.DataFrame, file: Path) -> None:
    figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
    for name, marker in zip(table.columns[1:], "os^", strict=False):
        axis.plot(table["lens"], np.sqrt(table[name]), marker, label=name, fillstyle="none")
    axis.set(xlabel="lens", ylabel="sqrt(k1) [1/m]")
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.legend(frameon=False)
    figure.savefig(file, dpi=130)
    plt.close(figure)


def prepare(folder: Path, *, overwrite: bool) -> None:
    """Make the output folder; refuse to write over results unless asked to."""
    existing = [f for f in (*RESULTS, "monitors") if (folder / f).exists()]
    if existing and not overwrite:
        raise FileExistsError(
            f"{folder} already holds {', '.join(existing)}: choose another --output or --overwrite"
        )
    (folder / "monitors").mkdir(parents=True, exist_ok=True)
    for file in (*(folder / f for f in RESULTS), *(folder / "monitors").glob("stage*.h5")):
        file.unlink(missing_ok=True)


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stages", choices=sorted(STAGES), default="analytic")
    parser.add_argument("--count", type=int, default=15, metavar="N", help="stages, 1 to 15")
    parser.add_argument("--particles", type=int, default=100_000, metavar="N")
    parser.add_argument("--precision", choices=("single", "double"), default="double")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--optimise", choices=("none", "stagewise", "gradient", "all"), default="all"
    )
    parser.add_argument(
        "--sample",
        type=int,
        default=5000,
        metavar="N",
        help="particles that the lenses are optimised with",
    )
    parser.add_argument("--output", type=Path, default=Path("plasma-stages-results"), metavar="DIR")
    parser.add_argument("--overwrite", action="store_true", help="replace existing results")
    args = parser.parse_args(arguments)
    if not 1 <= args.count <= 15:
        parser.error(f"--count {args.count}: allowed: 1 to 15")
    for name in ("particles", "sample"):
        if getattr(args, name) < 100:
            parser.error(f"--{name} {getattr(args, name)}: at least 100 are needed")
    try:
        prepare(args.output, overwrite=args.overwrite)
    except OSError as error:
        parser.error(str(error))
    return args


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the example; returns the exit status."""
    args = parse_arguments(arguments)
    matplotlib.use("Agg")
    line = make_line(args.count, args.stages)
    lenses = lenses_of(line)
    first = make_beam(args.particles, args.precision, args.seed)
    sample = make_beam(min(args.sample, args.particles), "double", args.seed + 1)
    runs: dict[str, pd.DataFrame] = {}
    strengths: dict[str, list[float]] = {}

    learned = [e for e in line if hasattr(e, "reset_counts")]

    def finish(name: str, moments: pd.DataFrame, seconds: float, note: str) -> None:
        if learned:
            note += f"; {sum(e.counts[1] for e in learned)} outside of the training"
        end = moments.iloc[-1]
        runs[name], strengths[name] = moments, [lens.k1 for lens in lenses]
        print(
            f"{name:10} {(end.gamma - 1) * MC2 / 1e9:8.3f} GeV   emittances"
            f" {1e6 * end.emittance_xn:.4f} {1e6 * end.emittance_yn:.4f} mm mrad   spread"
            f" {100 * end.sigma_pt:.3f} %   {seconds:6.2f} s {note}"
        )

    print(
        f"{args.count} {args.stages} stages, {line.length:.2f} m; {len(first):,} electrons at"
        f" {first.reference.kinetic_energy / 1e9:.3f} GeV in {args.precision} precision"
    )
    warnings.simplefilter("ignore", bt.OutsideDomainWarning)  # `finish` says how many
    beam = first.copy()
    start = time.perf_counter()
    moments = track_with_twiss_lenses(line, beam, args.output / "monitors")
    finish("twiss", moments, time.perf_counter() - start, "with monitors")

    ways = {"none": (), "all": ("stagewise", "gradient")}.get(args.optimise, (args.optimise,))
    for way in ways if lenses else ():
        for lens, k1 in zip(lenses, strengths["twiss"], strict=True):
            lens.k1 = k1
        start = time.perf_counter()
        if way == "stagewise":
            note = f"({optimise_stagewise(line, sample)} trackings of a stage)"
        else:
            note = f"({optimise_all(line, sample).evaluations} gradients)"
        seconds = time.perf_counter() - start
        for stage in learned:
            stage.reset_counts()
        beam = first.copy()
        finish(way, line.track(beam, record="all").moments, seconds, f"to optimise {note}")

    pd.concat(m.assign(lenses=name) for name, m in runs.items()).to_csv(
        args.output / "moments.csv", index=False
    )
    table = pd.DataFrame({"lens": np.arange(1, len(lenses) + 1), **strengths})
    table.to_csv(args.output / "lenses.csv", index=False)
    plot_moments(runs, args.output / "moments.png")
    plot_lenses(table, args.output / "lenses.png")
    shown = {"start": first}
    for i in sorted({1, (args.count + 1) // 2, args.count}):
        shown[f"stage {i}"] = bt.Beam.load(args.output / "monitors" / f"stage{i}.h5")
    plot_phase_spaces(shown, args.output / "phase_space.png")
    print(f"results in {args.output}: {', '.join(RESULTS)}, monitors/")

    start_emittance = first.moments().emittance_xn
    ends = [m.iloc[-1] for m in runs.values()]
    kept = all(abs(m.emittance_xn / start_emittance - 1) < 0.2 for m in ends)
    high = args.count < 15 or all((m.gamma - 1) * MC2 > 100e9 for m in ends)
    return 0 if kept and high else 1


if __name__ == "__main__":
    sys.exit(main())
