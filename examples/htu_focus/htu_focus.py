#!/usr/bin/env python3
"""Focus and steer the HTU beamline with all its magnets at once, from the gradient of a particle
beam.

    python examples/htu_focus/htu_focus.py --output here
    python examples/htu_focus/htu_focus.py --particles 5000 --steps 20

The lattice and the beam are those of examples/htu. Every quadrupole gets a random displacement and
the beam a wrong direction; then 14 gradients and 24 corrector kicks are found that bring the beam
through the middle of the screens with the size that is wanted there. Kicks have a price: screens do
not see an orbit that is wide between them. Prints what was reached and writes `htu_focus.png` to
the output folder.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import betatron as bt
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from betatron import losses
from ruamel.yaml import YAML
from scipy.optimize import minimize

DATA = Path(__file__).resolve().parents[1] / "htu" / "htu.yaml"
DISPLACEMENT = 50e-6  # m, rms, of every quadrupole
DIRECTION = (0.3e-3, -0.2e-3)  # rad, of the beam
SIZE = 150e-6  # m, wanted on the screens in the undulator
KICK = 3e-3  # rad: a corrector of this strength costs as much as a beam SIZE beside a screen
UNDULATOR = [f"UC_VisaEBeam{i}" for i in range(1, 9)]
ALL_SCREENS = ["Phosphor1", "UC_ALineEbeam1", "UC_ALineEBeam2", "UC_ALineEBeam3", *UNDULATOR]


def make_line(data: dict[str, Any], seed: int) -> bt.Line:
    """The line of examples/htu, with displaced quadrupoles."""
    line = bt.Line.from_dict({"elements": data["elements"], "sequence": data["line"]})
    rng = np.random.default_rng(seed)
    for element in line.elements:
        if element.kind == "Quadrupole":
            element.dx, element.dy = DISPLACEMENT * rng.normal(size=2)
    return line


def make_beam(data: dict[str, Any], particles: int, seed: int) -> bt.Beam:
    """The beam at the plasma exit with a wrong direction. Its energy spread is a tenth of that of
    examples/htu: with 2.5 % no quadrupoles give a small spot."""
    reference = bt.Reference(
        data["reference"]["species"], kinetic_energy=data["reference"]["kinetic_energy"]
    )
    twiss = dict(data["beam"]["twiss"])
    twiss["emittance_t"] /= 10
    twiss["beta_t"] *= 10
    shape = bt.Gaussian.from_twiss(**twiss, mean=(0, DIRECTION[0], 0, DIRECTION[1], 0, 0))
    return bt.Beam(reference, shape, n=particles, charge=data["beam"]["charge"], seed=seed)


def make_loss() -> losses.Loss:
    """Squares of the distances from the middle of each screen, and of what is wrong with the
    sizes."""
    total = losses.Loss([])
    for screen in ALL_SCREENS:
        for q in "xy":
            total = total + losses.centroid(q, at=screen) * (1 / SIZE**2)
    for screen in UNDULATOR:
        for q in "xy":
            total = total + losses.of_moments(
                lambda m, q=q: losses.log(m.sigma(q) * (1 / SIZE)) ** 2, at=screen
            )
    return total


def make_knobs(line: bt.Line) -> tuple[list[tuple[str, str]], list[float]]:
    """All gradients and kicks, each with the size of a step that does something."""
    knobs, scales = [], []
    for element in line.elements:
        if element.kind == "Quadrupole":
            knobs.append((element.name, "gradient"))
            scales.append(0.02 * abs(element.gradient))
        if element.kind == "Kicker":
            knobs += [(element.name, "hkick"), (element.name, "vkick")]
            scales += [1e-4, 1e-4]
    return knobs, scales


def picture(tables: dict[str, Any], history: list[float], file: Path) -> None:
    """Centroid and size along the line before and after, and the way there."""
    figure, axes = plt.subplots(3, 1, figsize=(9, 9), layout="constrained")
    for (when, table), style in zip(tables.items(), (":", "-"), strict=True):
        for plane, colour in (("x", "tab:red"), ("y", "tab:blue")):
            label = f"{plane}, {when}"
            axes[0].plot(table["s"], 1e3 * table[f"mean_{plane}"], style, color=colour, label=label)
            axes[1].semilogy(
                table["s"], 1e3 * table[f"sigma_{plane}"], style, color=colour, label=label
            )
    screens = tables["after"]["name"].isin(UNDULATOR)
    axes[1].plot(tables["after"]["s"][screens], [1e3 * SIZE] * screens.sum(), "k+", label="wanted")
    axes[0].set(ylabel="centroid [mm]")
    axes[1].set(xlabel="s [m]", ylabel="rms size [mm]")
    axes[2].semilogy(np.minimum.accumulate(history), "k-")
    axes[2].set(xlabel="evaluations of loss and gradient", ylabel="loss")
    axes[0].legend(ncols=2)
    axes[1].set_ylim(bottom=1e-3)
    axes[1].legend(ncols=3, loc="lower center")
    figure.savefig(file, dpi=130)
    plt.close(figure)


def main(arguments: list[str] | None = None) -> int:
    """Run the example; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--particles", type=int, default=100_000, metavar="N")
    parser.add_argument("--steps", type=int, default=400, help="of the optimiser, at most")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("htu-focus-results"), metavar="DIR")
    args = parser.parse_args(arguments)
    args.output.mkdir(parents=True, exist_ok=True)
    matplotlib.use("Agg")

    data = YAML(typ="safe").load(DATA)
    line, beam = make_line(data, args.seed), make_beam(data, args.particles, args.seed)
    knobs, scales = make_knobs(line)

    def moments() -> Any:
        return line.track(beam.copy(), record="all", progress=False).moments

    tables = {"before": moments()}
    start = time.perf_counter()
    line.track(beam.copy(), record=None, progress=False)
    forward = time.perf_counter() - start

    history: list[float] = []
    objective = bt.Objective(line, beam, make_loss(), knobs, scale=scales)
    strength = np.array(
        [
            s / KICK if name.endswith("kick") else 0.0
            for (_, name), s in zip(knobs, scales, strict=True)
        ]
    )

    def counted(x: np.ndarray) -> tuple[float, np.ndarray]:
        value, slope = objective(x)
        kicks = strength * x
        value, slope = value + kicks @ kicks, slope + 2 * strength * kicks
        history.append(value)
        # the logarithm of a sum of squares is better shaped than the sum where that is large
        return float(np.log1p(value)), slope / (1 + value)

    start = time.perf_counter()
    found = minimize(
        counted, objective.x0, jac=True, method="BFGS", options={"maxiter": args.steps}
    )
    seconds = time.perf_counter() - start
    objective(found.x)  # sets the magnets
    tables["after"] = moments()

    per_gradient = seconds / len(history)
    print(
        f"{len(knobs)} parameters, {len(beam):,} particles: {len(history)} gradients in "
        f"{seconds:.1f} s,"
        f" {per_gradient:.3f} s each, {per_gradient / forward:.1f} times a tracking"
    )
    largest = max(abs(v) for v, k in zip(found.x * scales, strength, strict=True) if k)
    print(f"loss {history[0]:.4g} -> {min(history):.4g}")
    print(f"largest kick {1e3 * largest:.2f} mrad\n")
    print(f"{'':16}{'centroid [um]':^34}{'rms size [um]':^34}")
    print(f"{'screen':16}" + 2 * f"{'before':^17}{'after':^17}")
    for screen in ALL_SCREENS:
        row = f"{screen:16}"
        for what in ("mean", "sigma"):
            for table in tables.values():
                at = table[table["name"] == screen].iloc[-1]
                row += f"{1e6 * at[f'{what}_x']:8.1f}{1e6 * at[f'{what}_y']:8.1f} "
        print(row)
    picture(tables, history, args.output / "htu_focus.png")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
