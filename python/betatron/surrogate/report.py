"""How good a surrogate of a stage is: errors of the moments of beams, tables, pictures."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np

from betatron.surrogate.pairs import Pairs
from betatron.surrogate.stage import StageModel

Map = Callable[[np.ndarray], np.ndarray]
MOMENTS = ("sigma_x", "sigma_px", "emittance_x", "mean_energy", "energy_spread")


@dataclasses.dataclass(frozen=True)
class TestBeam:
    """A Gaussian beam for tests: sizes [m] and momenta [m c] in x and y, offset in x [m]; xi and
    energy as in the data."""

    __test__ = False  # no test class

    name: str
    sigma: float
    sigma_p: float
    offset: float = 0.0


NARROW = TestBeam("narrow", 0.75e-6, 1.0 / 0.75)
OFFSET = TestBeam("off axis", 0.75e-6, 1.0 / 0.75, 1e-6)


def moments(particles: np.ndarray, weight: np.ndarray | None = None) -> dict[str, float]:
    """Size [m], momentum spread [m c] and normalised emittance [m] in x, mean energy and its spread
    [m c^2] of particles of shape (n, 6)."""
    w = np.ones(len(particles)) if weight is None else weight
    w = w / w.sum()
    x, px = particles[:, 0], particles[:, 3]
    gamma = np.sqrt(1.0 + (particles[:, 3:] ** 2).sum(axis=1))

    def mean(a):
        return float((w * a).sum())

    x, px = x - mean(x), px - mean(px)
    xx, xp, pp = mean(x * x), mean(x * px), mean(px * px)
    energy = mean(gamma)
    return {
        "sigma_x": xx**0.5,
        "sigma_px": pp**0.5,
        "emittance_x": max(xx * pp - xp * xp, 0.0) ** 0.5,
        "mean_energy": energy,
        "energy_spread": mean((gamma - energy) ** 2) ** 0.5,
    }


def moment_errors(predict: Map, pairs: Pairs, weight: np.ndarray | None = None) -> dict[str, float]:
    """Relative errors of the moments of a beam behind a stage: (predicted - true)/true."""
    got, want = moments(predict(pairs.source), weight), moments(pairs.target, weight)
    return {k: (got[k] - want[k]) / want[k] for k in MOMENTS}


def rotated(pairs: Pairs, copies: int, seed: int = 0) -> Pairs:
    """Each pair `copies` times, turned about the axis by random angles: in a wake that is symmetric
    about it, these are pairs, too."""
    angle = np.random.default_rng(seed).uniform(0.0, 2.0 * np.pi, copies * len(pairs))
    c, s = np.cos(angle), np.sin(angle)

    def turn(a):
        a = np.repeat(a, copies, axis=0)
        for i, j in ((0, 1), (3, 4)):
            a[:, i], a[:, j] = c * a[:, i] - s * a[:, j], s * a[:, i] + c * a[:, j]
        return a

    return Pairs(turn(pairs.source), turn(pairs.target), pairs.label)


def weights_of(beam: TestBeam, pairs: Pairs) -> np.ndarray:
    """Weights that make another beam of these Gaussian pairs: densities of x, y, px, py in the one
    over those in the other, shape (n,). (sum w)^2/(sum w^2) is the number of particles that
    count."""
    a = pairs.source[:, [0, 1, 3, 4]]
    have = a.std(axis=0)
    want = np.array([beam.sigma, beam.sigma, beam.sigma_p, beam.sigma_p])
    shift = np.array([beam.offset, 0.0, 0.0, 0.0])
    exponent = 0.5 * (((a - a.mean(axis=0)) / have) ** 2 - ((a - shift) / want) ** 2).sum(axis=1)
    return np.exp(exponent - exponent.max())


def effective_number(weight: np.ndarray) -> float:
    """(sum w)^2/(sum w^2)."""
    return float(weight.sum() ** 2 / (weight**2).sum())


def held_out_errors(predict: Map, pairs: Pairs, copies: int = 16) -> dict[str, dict[str, float]]:
    """Errors of moments of three beams made of pairs that were kept out of training: "narrow" and
    "off axis" by weights, "wide" as they are."""
    many = rotated(pairs, copies)
    result = {b.name: moment_errors(predict, many, weights_of(b, many)) for b in (NARROW, OFFSET)}
    result["wide"] = moment_errors(predict, pairs)
    return result


def table(rows: Iterable[tuple[str, Mapping[str, float]]], first: str = "beam") -> str:
    """Errors as a table in Markdown, in percent."""
    head = [first, "σx", "σpx", "εx", "mean energy", "energy spread"]
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * len(MOMENTS)]
    for name, errors in rows:
        lines.append(
            f"| {name} | " + " | ".join(f"{100 * errors[k]:+.3f} %" for k in MOMENTS) + " |"
        )
    return "\n".join(lines)


def pictures(predict: Map, pairs: Pairs, path: str | Path, model: StageModel | None = None) -> None:
    """One picture of held-out pairs: phase spaces behind the stage, simulated and predicted, and
    errors of the particles; with a structured model, errors by distance in its domain."""
    from matplotlib.figure import Figure

    got, want = predict(pairs.source), pairs.target
    figure = Figure(figsize=(11, 6.5), layout="constrained")
    axes = figure.subplots(2, 3)
    views = (
        (0, 3, "x [µm]", "px [m c]"),
        (0, 1, "x [µm]", "y [µm]"),
        (2, 5, "ξ [µm]", "pz [m c]"),
    )
    scale = np.array([1e6, 1e6, 1e6, 1.0, 1.0, 1.0])
    for ax, (i, j, a, b) in zip(axes[0], views, strict=True):
        ax.plot(want[:, i] * scale[i], want[:, j] * scale[j], ".", ms=2, label="simulation")
        ax.plot(got[:, i] * scale[i], got[:, j] * scale[j], ".", ms=1, label="surrogate")
        ax.set(xlabel=a, ylabel=b)
    axes[0, 0].legend(markerscale=4)
    for ax, i, label in zip(axes[1], (0, 3, 5), ("x [µm]", "px [m c]", "pz [m c]"), strict=True):
        d = (got - want)[:, i] * scale[i]
        if model is not None:
            ax.plot(model.domain.distance(model.features(pairs.source)), d, ".", ms=2)
            ax.set(xlabel="distance in the domain")
        else:
            ax.plot(want[:, i] * scale[i], d, ".", ms=2)
            ax.set(xlabel=label)
        ax.set(ylabel=f"error of {label}")
    figure.savefig(path, dpi=120)
