"""Pairs of particles in front of and behind a stage: reading them, and taking out the outliers.

Particles are rows x, y, xi [m], px, py, pz [m c] at a fixed time, xi = z - c T.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from betatron.surrogate.stage import invariants

if TYPE_CHECKING:
    from betatron.plasma import StageData


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Particles in front of (`source`) and behind (`target`) a stage, arrays of shape (n, 6), row
    by row the same particle; `label` says where they come from, `digest` is the SHA-256 of their
    numbers."""

    source: np.ndarray
    target: np.ndarray
    label: str

    def __post_init__(self) -> None:
        for name in ("source", "target"):
            value = getattr(self, name)
            if value.ndim != 2 or value.shape[1] != 6 or value.shape != self.source.shape:
                raise ValueError(
                    f"{self.label}: {name} has shape {value.shape}, wanted (n, 6), "
                    f"the same for source {self.source.shape}"
                )

    def __len__(self) -> int:
        return len(self.source)

    def take(self, rows: np.ndarray) -> Pairs:
        """The pairs of these rows."""
        return Pairs(self.source[rows], self.target[rows], self.label)

    @property
    def digest(self) -> str:
        """SHA-256 of source and target, as float64."""
        h = hashlib.sha256()
        for a in (self.source, self.target):
            h.update(np.ascontiguousarray(a, "<f8").tobytes())
        return h.hexdigest()


def read_npz(path: str | Path, stage: int) -> Pairs:
    """Pairs of one stage, counted from zero, of a file with arrays src_stageK and tgt_stageK of
    shape (n, 6). KeyError says which stages there are."""
    with np.load(path) as data:
        names = f"src_stage{stage}", f"tgt_stage{stage}"
        if any(n not in data.files for n in names):
            known = sorted(int(n[9:]) for n in data.files if n.startswith("src_stage"))
            raise KeyError(f"{path}: no stage {stage}; there are {known}")
        source, target = (data[n].astype(np.float64) for n in names)
    return Pairs(source, target, f"{Path(path).name}, stage {stage}")


def of_stage_data(data: StageData, label: str) -> Pairs:
    """Pairs of what a simulation gave: `betatron.plasma.waket.simulate`, or openPMD files read by
    `betatron.plasma.read_stage`."""
    return Pairs(np.asarray(data.source), np.asarray(data.target), label)


def inliers(pairs: Pairs, focusing: float, threshold: float = 8.0) -> np.ndarray:
    """Which pairs belong to the wake, an array of bool.

    Particles that left the wake miss the smooth gain of energy and slip of the others. Gain and
    slip are fitted by parabolas in the five invariants of a stage (21 terms), and whoever is
    further from them than `threshold` times the rms of the rest is left out, over and over until
    nobody goes. Behind the stage, the amplitude sqrt(|x|^2/b + |p|^2 b) of who is left must be
    below three times the largest one in front. Numbers that are not finite are outliers.
    """
    finite = np.isfinite(pairs.source).all(axis=1) & np.isfinite(pairs.target).all(axis=1)
    f, _, gamma = invariants(np.where(finite[:, None], pairs.source, 1.0).T, focusing)
    g, _, gamma2 = invariants(np.where(finite[:, None], pairs.target, 1.0).T, focusing)
    amplitude = f[2] + f[3]
    f = np.stack(f, axis=1)
    f = (f - np.median(f[finite], axis=0)) / f[finite].std(axis=0)
    change = np.stack((gamma2 - gamma, g[0] - pairs.source[:, 2]), axis=1)
    a = polynomial(f, 2)
    keep = finite & (g[2] + g[3] < 9.0 * amplitude[finite].max())
    for _ in range(50):  # ends long before: each turn takes somebody out
        c = np.linalg.lstsq(a[keep], change[keep], rcond=None)[0]
        r = np.abs(change - a @ c)
        new = keep & (r < threshold * np.sqrt((r[keep] ** 2).mean(axis=0))).all(axis=1)
        if new.sum() == keep.sum():
            break
        keep = new
    return keep


def polynomial(f: np.ndarray, degree: int) -> np.ndarray:
    """All products of powers of the columns of `f`, (n, k), up to a total degree: (n, terms)."""
    powers = (
        e for e in itertools.product(range(degree + 1), repeat=f.shape[1]) if sum(e) <= degree
    )
    return np.stack(
        [
            np.prod([f[:, i] ** n for i, n in enumerate(e) if n], axis=0) * np.ones(len(f))
            for e in powers
        ],
        axis=1,
    )


def split(
    n: int, seed: int, validation: float = 0.1, test: float = 0.2
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows for training, validation and test: a random permutation of range(n) in three parts."""
    rows = np.random.default_rng(seed).permutation(n)
    a, b = round(n * test), round(n * (test + validation))
    return rows[b:], rows[a:b], rows[:a]
