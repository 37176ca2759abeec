"""Space charge in three dimensions against the field of Gaussian ellipsoids: the order of convergence.

    python benchmarks/space_charge_accuracy.py
    python benchmarks/space_charge_accuracy.py --plot docs/images/space_charge_convergence.svg

The charge stands on a regular lattice, weighted with the density, so that there is no noise: what
is left is the error of the grid. Sizes are 1 : 1 : a in the rest frame, a = 1, 10, 100, 1000; the charge
ends at 5 sigma. Test particles without charge, within 3 sigma, feel the field. The exact field is

    E_i = Q/(4 pi eps0) 2 x_i/sqrt(pi) int_0^inf exp(-sum x_j^2/(2 sigma_j^2 + q))
          / ((2 sigma_i^2 + q) sqrt(prod (2 sigma_j^2 + q))) dq

(O. D. Kellogg, Foundations of Potential Theory, 1929, ch. VII; integrated with q = e^u by the
trapezoidal rule, which converges exponentially). Errors are rms differences over the rms field.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import common  # before everything that computes: it pins the process to one core
from common import console
from rich.table import Table

# isort: split
import betatron as bt
import numpy as np

CUT = 5.0  # sigma
ELEMENTARY = 1.602176634e-19
VOLT_METRE = ELEMENTARY / (4 * np.pi * 8.8541878188e-12)


def exact_field(points: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """E [V/m] of a Gaussian with one elementary charge, in the rest frame, shape (3, n)."""
    u = np.arange(-60.0, 30.0, 0.05) + np.log(np.max(sigma) ** 2)
    q = np.exp(u)
    widths = 2 * sigma[:, None] ** 2 + q  # (3, m)
    field = np.zeros_like(points)
    for k in range(points.shape[1]):
        x = points[:, k]
        weight = np.exp(-np.sum(x[:, None] ** 2 / widths, axis=0)) / np.sqrt(
            np.prod(widths, axis=0)
        )
        field[:, k] = 2 * x / np.sqrt(np.pi) * np.sum(weight * q / widths, axis=1) * 0.05
    return VOLT_METRE * field


def error(aspect: float, mesh: int, shape: str, precision: str = "double") -> float:
    """rms error of the kicks, all three axes, each over its own rms."""
    sigma = np.array([1.0, 1.0, aspect]) * 1e-3
    # exactly one per cell (the grid has three more cells at each end): B-splines on the nodes of a lattice add up
    # to 1. Any other distance makes ripples, whose longitudinal field in a long bunch is larger than what is looked for
    line = np.linspace(-CUT, CUT, mesh - 6)
    x, y, z = np.meshgrid(line, line, line, indexing="ij")
    inside = x**2 + y**2 + z**2 <= CUT**2
    unit = np.array([x[inside], y[inside], z[inside]])
    density = np.exp(-0.5 * np.sum(unit**2, axis=0))
    random = np.random.default_rng(5)
    test = random.normal(size=(3, 20000))
    test = test[:, np.sum(test**2, axis=0) < 9][:, :1000]
    exact = exact_field(test * sigma[:, None], sigma)

    reference = bt.Reference("proton", beta_gamma=0.1)
    positions = np.concatenate([test, unit], axis=1) * sigma[:, None]
    weights = np.concatenate([np.zeros(test.shape[1]), density / np.sum(density)]) * 1e9
    dtype = np.float32 if precision == "single" else np.float64
    zero = np.zeros(weights.size, dtype)
    columns = {"x": positions[0], "y": positions[1], "t": -positions[2] / reference.beta_gamma}
    names = ("x", "px", "y", "py", "t", "pt")
    beam = bt.Beam.from_arrays(
        reference,
        weight=weights.astype(dtype),
        **{q: columns.get(q, zero).astype(dtype) for q in names},
    )
    bt.SpaceCharge3D(mesh, shape=shape, grid_step=0).kick(beam, 1.0)
    n = test.shape[1]
    bg, mass = reference.beta_gamma, reference.species.mass
    strength = 1e9 / (bg**2 * mass)
    kicks = np.array([beam.px[:n], beam.py[:n], -np.asarray(beam.pt[:n]) / bg], float)
    scaled = kicks / strength
    return float(
        np.sqrt(
            np.mean(
                [np.mean((scaled[i] - exact[i]) ** 2) / np.mean(exact[i] ** 2) for i in range(3)]
            )
        )
    )


def plot(results: list[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.8), sharey=True, layout="constrained")
    for axes, key, fixed, title in (
        (left, "aspect", ("shape", "quadratic"), "quadratic shape, sizes 1 : 1 : a"),
        (right, "shape", ("aspect", 1), "sizes 1 : 1 : 1"),
    ):
        chosen = [r for r in results if r[fixed[0]] == fixed[1] and r["precision"] == "double"]
        for value in dict.fromkeys(r[key] for r in chosen):
            points = [(r["mesh"], r["error"]) for r in chosen if r[key] == value]
            label = f"a = {value}" if key == "aspect" else str(value)
            axes.loglog(*zip(*points, strict=True), marker="o", markersize=4, label=label)
        meshes = np.array([16.0, 128.0])
        axes.loglog(meshes, 12 / meshes**2, color="0.6", linestyle="--", label="second order")
        axes.set_xlabel("cells along each axis")
        axes.set_xticks([16, 32, 64, 128], ["16", "32", "64", "128"])
        axes.minorticks_off()
        axes.set_title(title, fontsize=10)
        axes.legend(fontsize=8)
        axes.grid(alpha=0.3)
    left.set_ylabel("rms error of the kick")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small grids only")
    parser.add_argument("--plot", type=Path, help="draw it, into this file")
    parser.add_argument(
        "--output",
        type=Path,
        default=common.RESULTS / "space_charge_accuracy.json",
        help="where the JSON goes",
    )
    options = parser.parse_args(arguments)
    meshes = [16, 32] if options.quick else [16, 24, 32, 48, 64, 96, 128]
    cases = [(a, "quadratic", "double") for a in (1, 10, 100, 1000)]
    cases += [(1, "linear", "double"), (1, "cubic", "double"), (1, "quadratic", "single")]
    cases += [(1000, "quadratic", "single")]
    results: list[dict[str, Any]] = []
    for aspect, shape, precision in cases:
        for mesh in meshes:
            results.append(
                {
                    "aspect": aspect,
                    "shape": shape,
                    "precision": precision,
                    "mesh": mesh,
                    "error": error(aspect, mesh, shape, precision),
                }
            )
    table = Table(title="rms error of the kick, and its order between the two finest grids")
    for column in ("aspect", "shape", "precision", *(f"{m}³" for m in meshes), "order"):
        table.add_column(column, justify="right")
    for aspect, shape, precision in cases:
        errors = [
            r["error"]
            for r in results
            if (r["aspect"], r["shape"], r["precision"]) == (aspect, shape, precision)
        ]
        order = np.log(errors[-2] / errors[-1]) / np.log(meshes[-1] / meshes[-2])
        table.add_row(str(aspect), shape, precision, *(f"{e:.2e}" for e in errors), f"{order:.2f}")
    console.print(table)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if options.plot:
        plot(results, options.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
