#!/usr/bin/env python3
"""Phase-space tomography: find the distribution of a beam in six dimensions from pictures of
screens.

    python examples/tomography/tomography.py --output here

Screens behind a quadrupole that is scanned, a transverse deflecting cavity that is off or on, and a
spectrometer magnet that is off or on see two dimensions each. A small neural network turns random
numbers into a beam; it is trained until that beam, tracked to the screens, gives the same pictures.
Gradients go from the pictures through the beamline into the network. Needs PyTorch. Prints how well
the beam was found and writes `tomography.png`.
After R. Roussel et al., Phys. Rev. Lett. 130 (2023) 145001, and arXiv:2404.10853 for six
dimensions.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import betatron as bt
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import torch
from betatron import losses
from betatron.torch import image, track

REFERENCE = bt.Reference("electron", kinetic_energy=60e6)
SIZE = np.array([4e-4, 1.5e-4, 3e-4, 1.5e-4, 5e-4, 4e-3])  # of the beam, about: m, rad
NAMES = ["x [mm]", "px [mrad]", "y [mm]", "py [mrad]", "t [mm]", "pt [1e-3]"]
NOISE = 0.01  # of the brightest pixel, rms


@dataclass
class View:
    """A beamline to a screen."""

    name: str
    line: bt.Line
    screen: losses.Screen


def make_views(strengths: np.ndarray) -> list[View]:
    """Quadrupole scans with the cavity and the spectrometer off and on."""
    views = []
    for bend in (False, True):
        for cavity in (False, True):
            for k1 in strengths:
                items = [
                    bt.Drift(0.3),
                    bt.Quadrupole(0.1, k1=float(k1)),
                    bt.Drift(0.4),
                    # streaks in y by the time of arrival
                    bt.CrabCavity(
                        voltage=2.0e6 if cavity else 0.0, frequency=2.856e9, roll=np.pi / 2
                    ),
                    bt.Drift(0.4),
                ]
                items += [bt.Bend(0.3, angle=0.35), bt.Drift(0.6)] if bend else [bt.Drift(0.9)]
                half = 4e-3 if bend else 2.5e-3
                tall = 4e-3 if cavity else 2.5e-3
                screen = losses.Screen((-half, half, 50), (-tall, tall, 50), smoothing=1.0)
                name = f"k1 = {k1:+.0f}" + ", streaked" * cavity + ", dispersed" * bend
                views.append(View(name, bt.Line(items), screen))
    return views


def true_beam(particles: int, seed: int) -> np.ndarray:
    """Bent in x, px; two lobes in y; a chirp with curvature in t, pt, correlated with x: shape (6,
    n)."""
    g = np.random.default_rng(seed).normal(size=(6, particles))
    z = np.empty_like(g)
    z[0] = 0.8 * g[0]
    z[1] = 0.5 * g[1] + 0.35 * (g[0] ** 2 - 1)
    z[2] = 0.45 * g[2] + 0.8 * np.sign(g[3] + 0.5)
    z[3] = 0.5 * g[5] - 0.4 * z[2]
    z[4] = g[4]
    z[5] = 0.35 * g[3] + 0.8 * g[4] - 0.35 * (g[4] ** 2 - 1) + 0.3 * g[0]
    return z * SIZE[:, None]


class Generator(torch.nn.Module):
    """Turns normal random numbers, shape (6, n), into coordinates."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(6, width), torch.nn.Tanh(),
            torch.nn.Linear(width, width), torch.nn.Tanh(),
            torch.nn.Linear(width, 6),
        )  # fmt: skip
        self.direct = torch.nn.Linear(6, 6)
        with torch.no_grad():  # a plain beam to start with
            self.layers[-1].weight *= 0.1
            self.direct.weight.copy_(torch.eye(6))
            self.direct.bias.zero_()

    def forward(self, noise: torch.Tensor) -> torch.Tensor:
        z = self.direct(noise.T) + self.layers(noise.T)
        return (z * torch.tensor(SIZE)).T.contiguous()


def measure(views: list[View], beam: np.ndarray, seed: int) -> list[torch.Tensor]:
    """Noisy pictures."""
    rng = np.random.default_rng(seed)
    pictures = []
    for view in views:
        picture = image(view.screen, track(view.line, torch.tensor(beam), REFERENCE))
        noise = NOISE * float(picture.max()) * rng.normal(size=picture.shape)
        pictures.append(picture + torch.from_numpy(noise))
    return pictures


def difference(views: list[View], pictures: list[torch.Tensor], z: torch.Tensor) -> torch.Tensor:
    """Mean square of the difference between pictures, over that of the pictures."""
    total = torch.zeros((), dtype=z.dtype)
    for view, picture in zip(views, pictures, strict=True):
        rest = image(view.screen, track(view.line, z, REFERENCE)) - picture
        total = total + (rest**2).sum() / (picture**2).sum()
    return total / len(views)


def picture_file(
    truth: np.ndarray,
    found: np.ndarray,
    views: list[View],
    pictures: list[torch.Tensor],
    file: Path,
) -> None:
    """Projections of both beams, and some pictures beside their reconstruction."""
    planes = [(0, 1), (2, 3), (4, 5), (0, 5)]
    figure, axes = plt.subplots(4, 4, figsize=(12, 12), layout="constrained")
    unit = np.array([1e3] * 6)
    for column, (i, j) in enumerate(planes):
        edges = [
            np.linspace(*(unit[k] * np.quantile(truth[k], (0.001, 0.999)) * 1.3), 60)
            for k in (i, j)
        ]
        for row, (name, beam) in enumerate((("true beam", truth), ("found", found))):
            axes[row, column].hist2d(unit[i] * beam[i], unit[j] * beam[j], bins=edges)
            axes[row, column].set(xlabel=NAMES[i], ylabel=NAMES[j], title=name)
    shown = np.linspace(0, len(views) - 1, 4).astype(int)
    for column, number in enumerate(shown):
        view = views[number]
        seen = view.screen.image(track(view.line, torch.tensor(found), REFERENCE).numpy())
        extent = [1e3 * v for v in view.screen.extent]
        for row, what in ((2, pictures[number].numpy()), (3, seen)):
            axes[row, column].imshow(what, origin="lower", extent=extent, aspect="auto", vmin=0)
            axes[row, column].set(xlabel="x [mm]", ylabel="y [mm]")
        axes[2, column].set_title(f"measured, {view.name}", fontsize=8)
        axes[3, column].set_title("from the beam found", fontsize=8)
    figure.savefig(file, dpi=110)
    plt.close(figure)


def main(arguments: list[str] | None = None) -> int:
    """Run the example; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--particles", type=int, default=3000, metavar="N", help="of the network")
    parser.add_argument("--scan", type=int, default=5, help="settings of the quadrupole")
    parser.add_argument("--steps", type=int, default=400, help="of the training")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("tomography-results"), metavar="DIR")
    args = parser.parse_args(arguments)
    args.output.mkdir(parents=True, exist_ok=True)
    matplotlib.use("Agg")
    torch.manual_seed(args.seed)
    torch.set_default_dtype(torch.float64)

    views = make_views(np.linspace(-12, 12, args.scan))
    truth = true_beam(10 * args.particles, args.seed)
    pictures = measure(views, truth, args.seed + 1)

    network = Generator()
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.steps, eta_min=5e-4)
    history = []
    start = time.perf_counter()
    for _ in range(args.steps):
        optimizer.zero_grad()
        loss = difference(views, pictures, network(torch.randn(6, args.particles)))
        loss.backward()
        optimizer.step()
        schedule.step()
        history.append(loss.item())
    seconds = time.perf_counter() - start

    with torch.no_grad():
        found = network(torch.randn(6, 10 * args.particles)).numpy()
    print(
        f"{len(views)} pictures, {args.particles:,} particles, {args.steps} steps in {seconds:.1f} "
        "s; "
        f"difference of the pictures {history[0]:.3f} -> {history[-1]:.3f}\n"
    )
    print("covariance over the product of the true sizes (true, found):")
    scale = np.outer(truth.std(axis=1), truth.std(axis=1))
    true_cov, found_cov = np.cov(truth) / scale, np.cov(found) / scale
    for row in range(6):
        print("  ".join(f"{true_cov[row, k]:6.2f}{found_cov[row, k]:6.2f}" for k in range(6)))
    picture_file(truth, found, views, pictures, args.output / "tomography.png")
    print(f"largest difference {np.abs(true_cov - found_cov).max():.3f}")
    return 0 if history[-1] < 0.5 * history[0] else 1


if __name__ == "__main__":
    raise SystemExit(main())
