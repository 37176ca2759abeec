#!/usr/bin/env python3
"""Calibrate a beamline: find displacements and strengths of quadrupoles from pictures of a screen.

    python examples/calibration/calibration.py --output here

Six quadrupoles stand somewhat beside their places and are somewhat stronger or weaker than they
say. A screen behind them was looked at with different settings of the quadrupoles; its pictures
have noise. From the pictures alone, all 18 errors are found at once, by the gradient of the
difference between pictures and simulation. Prints them beside the true ones and writes
`calibration.png`.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import betatron as bt
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from betatron import losses
from scipy.optimize import minimize

REFERENCE = bt.Reference("electron", kinetic_energy=50e6)
SHAPE = bt.Gaussian.from_twiss(
    beta_x=3.0, alpha_x=0.5, emittance_x=2e-8, beta_y=2.0, alpha_y=-0.5, emittance_y=2e-8,
    beta_t=1.0, alpha_t=0.0, emittance_t=1e-8,
)  # fmt: skip
NOMINAL = np.array([6.0, -6.0, 6.0, -6.0, 6.0, -6.0])  # 1/m^2
SCREEN = losses.Screen((-4e-3, 4e-3, 60), (-4e-3, 4e-3, 60), smoothing=2.5)
NOISE = 0.01  # of the brightest pixel, rms
RMS_OFFSET, RMS_STRENGTH = 200e-6, 0.05  # m; relative


def make_line() -> bt.Line:
    items = []
    for i, k1 in enumerate(NOMINAL):
        items += [bt.Drift(0.4), bt.Quadrupole(0.1, k1=k1, name=f"q{i + 1}")]
    return bt.Line([*items, bt.Drift(0.8, name="screen")])


def make_settings(count: int, seed: int) -> np.ndarray:
    """What the quadrupoles are set to, over nominal: shape (settings, quadrupoles)."""
    return 1 + 0.5 * np.random.default_rng(seed).uniform(-1, 1, size=(count, len(NOMINAL)))


def set_magnets(line: bt.Line, setting: np.ndarray, errors: np.ndarray) -> None:
    """errors: shape (3, quadrupoles): dx, dy over RMS_OFFSET, strength over RMS_STRENGTH."""
    for i, k1 in enumerate(NOMINAL):
        q = line[f"q{i + 1}"]
        q.dx, q.dy = errors[0, i] * RMS_OFFSET, errors[1, i] * RMS_OFFSET
        q.k1 = k1 * setting[i] * (1 + errors[2, i] * RMS_STRENGTH)


def measure(
    line: bt.Line, settings: np.ndarray, truth: np.ndarray, particles: int, seed: int
) -> list[np.ndarray]:
    """Noisy pictures of another sample of the beam."""
    rng = np.random.default_rng(seed)
    pictures = []
    for setting in settings:
        set_magnets(line, setting, truth)
        beam = bt.Beam(REFERENCE, SHAPE, n=particles, seed=int(rng.integers(2**31)))
        line.track(beam, record=None, progress=False)
        picture = SCREEN.image(np.array(beam.array))
        pictures.append(picture + NOISE * picture.max() * rng.normal(size=picture.shape))
    return pictures


def exact_sample(particles: int, seed: int) -> bt.Beam:
    """A sample of the beam with exactly its first and second moments, so that a few particles say
    much."""
    z = np.array(bt.Beam(REFERENCE, SHAPE, n=particles, seed=seed).array)
    z -= z.mean(axis=1, keepdims=True)
    wanted, own = np.linalg.cholesky(SHAPE.covariance), np.linalg.cholesky(np.cov(z, bias=True))
    columns = zip(bt.beam.COORDINATES, wanted @ np.linalg.solve(own, z), strict=True)
    return bt.Beam.from_arrays(REFERENCE, **dict(columns))


class Difference:
    """Minus the logarithm of the probability of the errors, given the pictures, and its
    derivatives.

    Noise and errors are normal: that is half of chi^2, and half of the squares of the errors over
    their expected size.
    """

    def __init__(
        self, line: bt.Line, settings: np.ndarray, pictures: list[np.ndarray], beam: bt.Beam
    ) -> None:
        self.line, self.settings, self.beam = line, settings, beam
        self.losses, self.centroids = [], []
        for p in pictures:
            half_chi2 = np.sum(p**2) / (2 * (NOISE * p.max()) ** 2)
            self.losses.append(losses.screen_image(SCREEN, p) * half_chi2)
            self.centroids.append(self.centre_of(p))
        self.knobs = [(f"q{i + 1}", p) for p in ("dx", "dy", "k1") for i in range(len(NOMINAL))]
        self.evaluations = 0
        self.coarse = True

    @staticmethod
    def centre_of(picture: np.ndarray) -> np.ndarray:
        """The centre (x, y) of what is bright."""
        bright = np.where(picture > 0.1 * picture.max(), picture, 0)
        left, right, bottom, top = SCREEN.extent
        x = np.linspace(left, right, 2 * SCREEN.count[0] + 1)[1::2]
        y = np.linspace(bottom, top, 2 * SCREEN.count[1] + 1)[1::2]
        return np.array([bright.sum(axis=0) @ x, bright.sum(axis=1) @ y]) / bright.sum()

    def loss(self, number: int) -> losses.Loss:
        """That of one picture. At first the distance of its centre, known to some 20 um, which
        leads there from far away; then of its pixels."""
        if not self.coarse:
            return self.losses[number]
        cx, cy = self.centroids[number]
        return (losses.centroid("x", cx) + losses.centroid("y", cy)) * (0.5 / 20e-6**2)

    def __call__(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        errors = x.reshape(3, -1)
        value, slope = 0.5 * float(np.sum(errors**2)), errors.copy()
        for number, setting in enumerate(self.settings):
            set_magnets(self.line, setting, errors)
            g = self.line.gradient(self.beam, self.loss(number), self.knobs)
            value += g.value
            by = g.derivatives.reshape(3, -1)
            slope[:2] += by[:2] * RMS_OFFSET
            slope[2] += by[2] * NOMINAL * setting * RMS_STRENGTH
        self.evaluations += len(self.settings)
        return value, slope.ravel()


def picture_file(
    measured: list[np.ndarray], images: dict[str, list[np.ndarray]], truth: np.ndarray,
    found: np.ndarray, file: Path,
) -> None:  # fmt: skip
    """Some pictures beside simulations before and after, and the errors."""
    shown = range(min(3, len(measured)))
    figure = plt.figure(figsize=(13, 7), layout="constrained")
    grid = figure.add_gridspec(3, 6)
    extent = [1e3 * v for v in SCREEN.extent]
    for row, (name, pictures) in enumerate({"measured": measured, **images}.items()):
        for column in shown:
            axis = figure.add_subplot(grid[row, column])
            axis.imshow(pictures[column], origin="lower", extent=extent, vmin=0)
            axis.set_title(f"setting {column + 1}" if row == 0 else "")
            axis.set_ylabel(f"{name}\ny [mm]" if column == 0 else "")
            axis.set_xlabel("x [mm]" if row == 2 else "")
    for row, (name, unit, factor) in enumerate(
        (("dx", "µm", 1e6 * RMS_OFFSET), ("dy", "µm", 1e6 * RMS_OFFSET),
         ("strength", "%", 1e2 * RMS_STRENGTH))
    ):  # fmt: skip
        axis = figure.add_subplot(grid[row, 3:])
        at = np.arange(1, len(NOMINAL) + 1)
        axis.bar(at - 0.2, factor * truth[row], 0.4, color="lightgray", label="true")
        axis.bar(at + 0.2, factor * found[row], 0.4, color="tab:blue", label="found")
        axis.axhline(0, color="k", lw=0.5)
        axis.set(ylabel=f"{name} [{unit}]", xlabel="quadrupole" if row == 2 else "")
        axis.legend()
    figure.savefig(file, dpi=130)
    plt.close(figure)


def main(arguments: list[str] | None = None) -> int:
    """Run the example; returns the exit status: 0 if all errors were found to a quarter of their
    expected size."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--particles", type=int, default=5000, metavar="N")
    parser.add_argument(
        "--settings", type=int, default=16, help="of the quadrupoles, one picture each"
    )
    parser.add_argument("--steps", type=int, default=60, help="of the optimiser, at most")
    parser.add_argument("--rough", action="store_true", help="accept any result (for quick runs)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("calibration-results"), metavar="DIR")
    args = parser.parse_args(arguments)
    args.output.mkdir(parents=True, exist_ok=True)
    matplotlib.use("Agg")

    truth = np.random.default_rng(args.seed).normal(size=(3, len(NOMINAL)))
    settings = make_settings(args.settings, args.seed + 1)
    line = make_line()
    measured = measure(line, settings, truth, 20 * args.particles, args.seed + 2)
    beam = exact_sample(args.particles, args.seed + 3)
    difference = Difference(line, settings, measured, beam)

    start = time.perf_counter()
    x = np.zeros(truth.size)
    for difference.coarse, steps in ((True, 20), (False, args.steps)):
        x = minimize(difference, x, jac=True, method="BFGS", options={"maxiter": steps}).x
    seconds = time.perf_counter() - start
    found = x.reshape(truth.shape)

    images = {}
    for name, errors in (("without errors", np.zeros_like(truth)), ("calibrated", found)):
        images[name] = []
        for setting in settings:
            set_magnets(line, setting, errors)
            copy = beam.copy()
            line.track(copy, record=None, progress=False)
            images[name].append(SCREEN.image(np.array(copy.array)))

    print(
        f"{args.settings} pictures, {truth.size} unknowns: {difference.evaluations} gradients of "
        f"{args.particles:,} particles in {seconds:.1f} s\n"
    )
    print(f"{'':6}{'dx [um]':^20}{'dy [um]':^20}{'strength [%]':^20}")
    print(f"{'':6}" + 3 * f"{'true':>9}{'found':>9}  ")
    factors = (1e6 * RMS_OFFSET, 1e6 * RMS_OFFSET, 1e2 * RMS_STRENGTH)
    for i in range(len(NOMINAL)):
        row = f"q{i + 1:<5}"
        for k, factor in enumerate(factors):
            row += f"{factor * truth[k, i]:9.2f}{factor * found[k, i]:9.2f}  "
        print(row)
    rest = np.sqrt(np.mean((found - truth) ** 2, axis=1))
    print(
        f"rms difference: dx {rest[0] * factors[0]:.1f} um, dy {rest[1] * factors[1]:.1f} um, "
        f"strength {rest[2] * factors[2]:.3f} %"
    )
    picture_file(measured, images, truth, found, args.output / "calibration.png")
    return 0 if args.rough or np.all(rest < 0.25) else 1


if __name__ == "__main__":
    raise SystemExit(main())
