"""Training of plasma-stage surrogates from pairs of particles. Needs PyTorch (extra `train`).

The network of a structured stage (betatron.surrogate.stage) has some 1,500 numbers, so it is
fitted by Levenberg and Marquardt's method and not by gradient descent: minutes become seconds, and
the error is ten times smaller. Steps:

1. the matrix M of every particle, from its pair (two columns, x and y, give all four numbers), and
   its phase; unwrapped from the middle of the beam outwards by polynomials of growing degree;
2. the network is fitted to phase, gain and slip: this puts every phase within the right turn;
3. then to the particles themselves. Residuals are errors of (u, v) = (x/sqrt b2, px sqrt b2) over
   the particle's own amplitude, of gamma over the spread of the gain and of xi, with a pseudo-Huber
   loss. Early stopping by a validation part.

Plain dense networks, as published, are in betatron.surrogate.dense.

Source: K. Levenberg, Q. Appl. Math. 2 (1944) 164; D. Marquardt, SIAM J. Appl. Math. 11 (1963) 431;
R. Sandberg et al., PASC24, doi:10.1145/3659914.3659937 (plain networks for plasma stages).
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import itertools
import logging
import time
from datetime import UTC, datetime
from typing import Any

import numpy as np

from betatron._checks import number
from betatron.surrogate.pairs import Pairs, inliers, polynomial, split
from betatron.surrogate.stage import (
    OUTPUTS,
    Domain,
    Residuals,
    StageModel,
    actions,
    features,
    head,
    invariants,
)

log = logging.getLogger(__name__)

CLASSICAL_ELECTRON_RADIUS = 2.8179403205e-15

DEGREES = ((1, 300), (2, 1500), (3, 4000), (4, 6500), (6, np.inf))
"""Degree of the polynomials that phases are unwrapped with, up to so many particles."""


def ion_column_focusing(density: float) -> float:
    """K = kp^2/2 [1/m^2] of a column of ions of this density [1/m^3]: x'' = -K x/gamma.
    Source: E. Esarey et al., Phys. Rev. E 65 (2002) 056505, eq. 2."""
    if not density > 0:
        raise ValueError(f"density = {density} 1/m^3 must be > 0")
    return 2.0 * np.pi * CLASSICAL_ELECTRON_RADIUS * density


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How to train a structured stage.

    hidden: widths of the hidden layers. rounds: at most that many steps of Levenberg and Marquardt
    on `batch` particles each, the last third on `final_batch`. patience, target: stop when the
    validation loss has not fallen for that many steps, or is below the target. huber: residuals
    above it count linearly. In shares of the mean amplitude: `bend`, the A of the features, below
    which they are like the square of the amplitude; `floor`, what is added to a particle's own
    amplitude in the scale of its residuals; `thin`: particles are drawn with a probability ~
    1/(amplitude + thin), so that the few near the axis, where narrow beams are, count. seed: of
    split, first weights and batches. weight: factors of the residuals (transverse, gamma, xi).
    """

    hidden: tuple[int, ...] = (32, 32)
    rounds: int = 60
    batch: int = 2000
    final_batch: int = 5000
    patience: int = 12
    target: float = 2e-5
    huber: float = 0.2
    bend: float = 0.1
    floor: float = 0.02
    thin: float = 0.1
    weight: tuple[float, float, float] = (1.0, 1.0, 0.3)
    seed: int = 1


_COLUMNS = ("x", "y", "xi", "px", "py", "pz")
_LEAST = 700  # pairs: 70 % are trained on, of 43 % of these the phase is known, 200 are needed


def _check(pairs: Pairs, length: float, focusing: float) -> None:
    """Raises ValueError, TypeError for what no stage can be trained with."""
    for name, value, unit in (("length", length, " m"), ("focusing", focusing, " 1/m^2")):
        if not 0 < number(value, f"train_stage: {name}") < np.inf:
            raise ValueError(f"train_stage: {name} = {value}{unit} is not allowed; allowed: > 0")
    finite = np.isfinite(pairs.source).all(axis=1) & np.isfinite(pairs.target).all(axis=1)
    if finite.sum() < _LEAST:
        raise ValueError(
            f"{pairs.label}: {finite.sum()} pairs of finite numbers are too few to train a stage, "
            f"at least {_LEAST} are needed"
        )
    for part in ("source", "target"):
        for i, name in enumerate(_COLUMNS):
            column = getattr(pairs, part)[finite, i]
            if column.min() == column.max():
                raise ValueError(
                    f"{pairs.label}: {name} of all particles of {part} is {column[0]}; a stage can "
                    "only be trained with particles that differ"
                )


def train_stage(
    pairs: Pairs,
    length: float,
    focusing: float,
    recipe: Recipe | None = None,
    source: str = "",
    start: StageModel | None = None,
) -> StageModel:
    """A structured stage from pairs. `length` [m] and `focusing` K [1/m^2] (`ion_column_focusing`)
    are those of the formula in betatron.surrogate.stage: K need not be the wake's exact one, the
    network corrects it. `source`: words on where the data come from, kept in the file. `start`: a
    stage of a similar beam, with as many units, whose weights are the first ones here. ValueError
    for too few pairs, pairs that are all the same, and a length or K that is not > 0.
    RuntimeError if the phases cannot be unwrapped (too few pairs, or a K far from the wake's)."""
    _check(pairs, length, focusing)
    import torch

    recipe = recipe or Recipe()
    begin = time.monotonic()
    rows, validation, test = split(len(pairs), recipe.seed)
    keep = inliers(pairs, focusing)
    rows, validation, test = (r[keep[r]] for r in (rows, validation, test))
    rng = np.random.default_rng((recipe.seed, 1))

    problem = _Problem.of(pairs, rows, length, focusing, recipe)
    target = unwrapped_phase(pairs, rows, length, focusing, rng)
    o_mean, o_scale = problem.output_scales(target)

    sizes = (5, *recipe.hidden, len(OUTPUTS))
    net = [
        (rng.normal(0.0, np.sqrt(2.0 / (i + o)), (o, i)), rng.normal(0.0, 0.3, o))
        for i, o in itertools.pairwise(sizes)
    ]
    net[-1] = (0.3 * net[-1][0], 0.0 * net[-1][1])
    if start is not None:
        if [b.size for b in start.biases] != list(sizes[1:]):
            raise ValueError(f"start has layers of other sizes than {sizes[1:]}")
        net = [(w.copy(), b.copy()) for w, b in zip(start.weights, start.biases, strict=True)]

    solver = _LevenbergMarquardt(net, recipe.huber)
    known = np.stack((target, *problem.changes(rows)), axis=1)
    known = (known - o_mean[[0, 5, 6]]) / o_scale[[0, 5, 6]]

    def direct(o, which):
        return o[:, [0, 5, 6]] - torch.as_tensor(known[which])

    for _ in range(15):
        which = rng.choice(len(rows), min(1000, len(rows)), replace=False)
        solver.step(problem.inputs(rows[which]), lambda o, w=which: direct(o, w))

    chance = 1.0 / (problem.size[rows] / problem.mean_size + recipe.thin)
    chance /= chance.sum()
    tensors = problem.tensors(validation)

    def residuals(o, data):
        return problem.residuals(o * torch.as_tensor(o_scale) + torch.as_tensor(o_mean), data)

    best, best_net, best_round = np.inf, solver.net, 0
    solver.damping = 1e-2
    for n in range(recipe.rounds):
        size = recipe.batch if n < 2 * recipe.rounds // 3 else recipe.final_batch
        which = rows[rng.choice(len(rows), min(size, len(rows)), replace=False, p=chance)]
        data = problem.tensors(which)
        solver.step(problem.inputs(which), lambda o, d=data: residuals(o, d))
        loss = solver.loss(problem.inputs(validation), lambda o: residuals(o, tensors))
        log.info("round %d: validation %.3g, damping %.1g", n, loss, solver.damping)
        if loss < best:
            best, best_net, best_round = loss, [(w.copy(), b.copy()) for w, b in solver.net], n
        elif n - best_round >= recipe.patience:
            break
        if best < recipe.target:
            break

    f = problem.features[rows]
    g, _ = problem.changes(rows)
    d = f[:, 0] - f[:, 0].mean()
    gain = np.linalg.lstsq(np.stack((np.ones_like(d), d, d**2), axis=1), g, rcond=None)[0]
    fallback = o_mean.copy()
    model = StageModel(
        length=float(length),
        focusing=float(focusing),
        amplitude=problem.amplitude,
        xi=float(np.median(pairs.source[rows, 2])),
        weights=tuple(w.astype(np.float32).astype(np.float64) for w, _ in best_net),
        biases=tuple(b.astype(np.float32).astype(np.float64) for _, b in best_net),
        feature_mean=problem.mean,
        feature_scale=problem.scale,
        output_mean=o_mean,
        output_scale=o_scale,
        domain=Domain.of(f),
        residuals=Residuals(np.array([np.inf]), np.zeros(1), np.zeros(1), np.zeros(1)),
        gain=gain,
        fallback=fallback,
        provenance={
            "data": pairs.label,
            "data_sha256": pairs.digest,
            "source": source,
            "start": "" if start is None else start.provenance.get("data", ""),
            "pairs": len(pairs),
            "outliers": int((~keep).sum()),
            "recipe": dataclasses.asdict(recipe),
            "rounds": best_round + 1,
            "validation_loss": best,
            "seconds": round(time.monotonic() - begin, 1),
            "date": datetime.now(UTC).strftime("%Y-%m-%d"),
            "versions": versions(),
        },
    )
    return dataclasses.replace(model, residuals=held_out_residuals(model, pairs.take(test)))


def search(
    pairs: Pairs,
    length: float,
    focusing: float,
    trials: int = 20,
    recipe: Recipe | None = None,
    most_operations: int = 21_600,
) -> tuple[Recipe, Any]:
    """The recipe with the smallest error on the validation part, and Optuna's study, which holds
    all trials. Needs Optuna (extra `train`).

    Widths (8 to 64 units) and number (1 to 3) of hidden layers and the recipe's huber, bend, floor
    and thin are varied, the rest is that of `recipe`. The error is the rms of that of a particle's
    transverse place over its amplitude, plus that of the gain over its spread. Networks of more
    than `most_operations` are not tried; the default is 1/300 of 5 x 900 units.
    """
    _check(pairs, length, focusing)
    import optuna

    base = recipe or Recipe()
    validation = split(len(pairs), base.seed)[1]
    held_out = pairs.take(validation[inliers(pairs, focusing)[validation]])
    spread = float((held_out.target - held_out.source)[:, 5].std())

    def of(trial: Any) -> Recipe:
        layers = trial.suggest_int("layers", 1, 3)
        return dataclasses.replace(
            base,
            hidden=(trial.suggest_int("width", 8, 64, step=8),) * layers,
            huber=trial.suggest_float("huber", 0.02, 1.0, log=True),
            bend=trial.suggest_float("bend", 0.02, 2.0, log=True),
            floor=trial.suggest_float("floor", 0.005, 0.5, log=True),
            thin=trial.suggest_float("thin", 0.03, 3.0, log=True),
        )

    def objective(trial: Any) -> float:
        tried = of(trial)
        sizes = (5, *tried.hidden, len(OUTPUTS))
        operations = 2 * sum(i * o for i, o in itertools.pairwise(sizes))
        trial.set_user_attr("operations", operations)
        if operations > most_operations:
            raise optuna.TrialPruned
        model = train_stage(pairs, length, focusing, tried)
        r = held_out_residuals(model, held_out, bins=1)
        return float(r.transverse[0] + r.energy[0] / spread)

    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=base.seed))
    study.optimize(objective, n_trials=trials)
    return of(optuna.trial.FixedTrial(study.best_params)), study


def versions() -> dict[str, str]:
    """Versions of the libraries that training rests on."""
    found = {}
    for name in ("betatron", "numpy", "torch"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def held_out_residuals(model: StageModel, pairs: Pairs, bins: int = 8) -> Residuals:
    """Errors of a model on pairs that it was not trained with, in `bins` bins of distance from the
    centre of its domain that hold as many particles each."""
    f = model.features(pairs.source)
    got, want = model.apply(pairs.source), pairs.target
    gamma, gamma2 = (np.sqrt(1 + (a[:, 3:] ** 2).sum(axis=1)) for a in (want, got))
    b = 1.0 / np.sqrt(model.focusing * gamma)
    d = got - want
    amplitude = actions(pairs.source, model.focusing)
    transverse = ((d[:, 0] ** 2 + d[:, 1] ** 2) / b + (d[:, 3] ** 2 + d[:, 4] ** 2) * b) / amplitude
    distance = model.domain.distance(f)
    order = np.argsort(distance)
    parts = np.array_split(order, bins)

    def rms(square):
        return np.array([np.sqrt(square[p].mean()) for p in parts])

    edges = np.array([distance[p].max() for p in parts])
    return Residuals(edges, rms(transverse), rms((gamma2 - gamma) ** 2), rms(d[:, 2] ** 2))


def unwrapped_phase(
    pairs: Pairs, rows: np.ndarray, length: float, focusing: float, rng: np.random.Generator
) -> np.ndarray:
    """Betatron phase of each pair beyond that of the formula, smoothed by a polynomial of degree
    up to 6 in the features, shape (len(rows),).

    The matrix M of a particle is (r2, p2)(r1, p1)^-1, where (r, p) has the columns (x, px), (y,
    py); where angular momentum is small, it is not known, and such particles take no part. Its
    phase is known but for turns. So a plane is sought that makes the phases of the 200 particles
    in the middle of the beam agree; then more and more particles are taken in, each moved by the
    turns that bring it closest to the polynomial of those already in.
    """
    s, t = pairs.source[rows].T, pairs.target[rows].T
    f, b1, gamma = features(s, focusing, 0.1 * actions(s.T, focusing).mean())
    _, b2, gamma2 = invariants(t, focusing)
    f = np.stack(f, axis=1)
    f = (f - f.mean(axis=0)) / f.std(axis=0)
    x, y, _, px, py, _ = s
    x2, y2, _, px2, py2, _ = t
    spin = x * py - y * px
    with np.errstate(divide="ignore", invalid="ignore"):
        m = np.array(
            ((x2 * py - y2 * px, y2 * x - x2 * y), (px2 * py - py2 * px, py2 * x - px2 * y))
        )
        m /= spin
    sine = m[0, 1] / np.sqrt(b1 * b2) - m[1, 0] * np.sqrt(b1 * b2)
    cosine = m[0, 0] * np.sqrt(b1 / b2) + m[1, 1] * np.sqrt(b2 / b1)
    phase = np.arctan2(sine, cosine)
    phase -= 2.0 * np.sqrt(focusing) * length / (np.sqrt(gamma) + np.sqrt(gamma2))

    known = np.abs(spin) > 0.5 * np.sqrt((spin**2).mean())
    distance = (f**2).sum(axis=1)
    weight = 1.0 + distance  # few are far out, and the polynomial must not lose them
    order = np.argsort(distance)
    order = order[known[order]]
    if len(order) < 200:
        raise RuntimeError(
            f"{pairs.label}: {len(order)} pairs with a known phase are too few, 200 needed"
        )

    def wrapped(a):
        return (a + np.pi) % (2.0 * np.pi) - np.pi

    middle = order[:200]
    plane = polynomial(f, 1)
    tries = rng.normal(size=(20000, plane.shape[1]))
    z = np.exp(1j * (phase[middle] - tries @ plane[middle].T))
    coherence = np.abs(z.mean(axis=1))
    best = int(coherence.argmax())
    if coherence[best] < 0.6:
        raise RuntimeError(
            f"{pairs.label}: phases of the pairs do not line up (coherence {coherence[best]:.2f}); "
            f"is focusing = {focusing:.4g} 1/m^2 that of the wake, and are the pairs of one stage?"
        )
    guess = plane @ tries[best] + np.angle(z[best].mean())
    count = 150
    while True:
        inside = order[:count]
        degree = next(d for d, most in DEGREES if count < most)
        a = polynomial(f, degree)
        for _ in range(4):
            r = wrapped(phase[inside] - guess[inside])
            good = np.abs(r) < max(6.0 * np.median(np.abs(r)), 0.5)
            w = weight[inside][good]
            c = np.linalg.lstsq(
                a[inside][good] * w[:, None], (guess[inside] + r)[good] * w, rcond=None
            )[0]
            guess = a @ c
        if count == len(order):
            break
        count = min(count * 6 // 5, len(order))
    spread = float(np.median(np.abs(wrapped(phase[order] - guess[order]))))
    far = float(np.mean(np.abs(wrapped(phase[order] - guess[order])) > 1.0))
    log.info(
        "%s: phases unwrapped; from their polynomial, half are within %.2g rad, a share of %.2g is "
        "further than 1 rad",
        pairs.label,
        spread,
        far,
    )
    if spread > 0.5:
        raise RuntimeError(
            f"{pairs.label}: phases could not be unwrapped (median miss {spread:.2f} rad)"
        )
    return guess


@dataclasses.dataclass(frozen=True)
class _Problem:
    """Pairs in the form that the fit needs."""

    source: np.ndarray
    target: np.ndarray
    features: np.ndarray
    b: np.ndarray
    gamma: np.ndarray
    gamma2: np.ndarray
    mean: np.ndarray
    scale: np.ndarray
    gain: float
    slip: float
    size: np.ndarray
    mean_size: float
    amplitude: float
    length: float
    focusing: float
    recipe: Recipe

    @classmethod
    def of(
        cls, pairs: Pairs, rows: np.ndarray, length: float, focusing: float, recipe: Recipe
    ) -> _Problem:
        size = actions(pairs.source, focusing)
        amplitude = recipe.bend * float(size[rows].mean())
        f, b, gamma = features(pairs.source.T, focusing, amplitude)
        f = np.stack(f, axis=1)
        gamma2 = invariants(pairs.target.T, focusing)[2]
        return cls(
            pairs.source,
            pairs.target,
            f,
            b,
            gamma,
            gamma2,
            f[rows].mean(axis=0),
            f[rows].std(axis=0),
            float((gamma2 - gamma)[rows].std()),
            float((pairs.target - pairs.source)[rows, 2].std()),
            size,
            float(size[rows].mean()),
            amplitude,
            length,
            focusing,
            recipe,
        )

    def changes(self, rows):
        """Gain of gamma and slip in xi."""
        return (self.gamma2 - self.gamma)[rows], (self.target - self.source)[rows, 2]

    def output_scales(self, phase):
        """Mean and scale of the seven outputs."""
        mean, scale = np.zeros(7), np.full(7, 0.1)
        mean[0], scale[0] = phase.mean(), max(phase.std(), 0.1)
        scale[5], scale[6] = self.gain, self.slip
        return mean, scale

    def inputs(self, rows):
        return (self.features[rows] - self.mean) / self.scale

    def tensors(self, rows):
        import torch

        t = torch.as_tensor
        columns = tuple(t(np.ascontiguousarray(c)) for c in self.source[rows].T)
        target = tuple(t(np.ascontiguousarray(c)) for c in self.target[rows].T)
        size = np.sqrt(self.size[rows] + self.recipe.floor * self.mean_size)
        root_b2 = (self.focusing * self.gamma2[rows]) ** -0.25
        return (
            columns,
            target,
            t(self.b[rows]),
            t(self.gamma[rows]),
            t(self.gamma2[rows]),
            t(size),
            t(root_b2),
        )

    def residuals(self, o, data):
        import torch

        columns, target, b, gamma, gamma2, size, root_b2 = data
        x, y, xi, px, py, g = head(
            o.unbind(1), columns, b, gamma, self.focusing, self.length, torch
        )
        across, energy, along = self.recipe.weight
        return torch.stack(
            (
                (x - target[0]) / root_b2 / size * across,
                (y - target[1]) / root_b2 / size * across,
                (px - target[3]) * root_b2 / size * across,
                (py - target[4]) * root_b2 / size * across,
                (g - gamma2) / self.gain * energy,
                (xi - target[2]) / self.slip * along,
            ),
            dim=1,
        )


class _LevenbergMarquardt:
    """Steps of Levenberg and Marquardt for a dense tanh network whose outputs enter residuals."""

    CHUNK = 500

    def __init__(self, net, huber):
        self.net = net
        self.huber = huber
        self.damping = 1e-1

    def loss(self, inputs, residuals, net=None):
        import torch

        o, _ = self._forward(net or self.net, inputs)
        r = residuals(torch.as_tensor(o)).numpy()
        return float(
            (self.huber**2 * (np.sqrt(1.0 + (r / self.huber) ** 2) - 1.0)).sum(axis=1).mean()
        )

    def step(self, inputs, residuals):
        """One step on these particles: damping falls until the loss would not, and rises if it
        must."""
        normal, gradient = self._normal_equations(inputs, residuals)
        before = self.loss(inputs, residuals)
        diagonal = np.diag(normal).copy()
        floor = 1e-7 * diagonal.max()
        for _ in range(8):
            a = normal.copy()
            a[np.diag_indices_from(a)] += self.damping * diagonal + floor
            moved = self._moved(np.linalg.solve(a, gradient))
            if self.loss(inputs, residuals, moved) < before:
                self.net = moved
                self.damping = max(self.damping / 3.0, 1e-6)
                return
            self.damping *= 4.0

    @staticmethod
    def _forward(net, inputs):
        layers = [inputs]
        for w, b in net[:-1]:
            layers.append(np.tanh(layers[-1] @ w.T + b))
        w, b = net[-1]
        return layers[-1] @ w.T + b, layers

    def _normal_equations(self, inputs, residuals):
        import torch

        o, layers = self._forward(self.net, inputs)
        out = torch.as_tensor(o).requires_grad_()
        r = residuals(out)
        slopes = [
            torch.autograd.grad(c.sum(), out, retain_graph=True)[0].numpy() for c in r.unbind(1)
        ]
        r = r.detach().numpy()
        weight = (1.0 + (r / self.huber) ** 2) ** -0.25
        slope = np.stack(slopes, axis=1) * weight[:, :, None]
        r = r * weight
        size = sum(w.size + b.size for w, b in self.net)
        normal, gradient = np.zeros((size, size)), np.zeros(size)
        for at in range(0, len(r), self.CHUNK):
            part = slice(at, at + self.CHUNK)
            j = self._jacobian([h[part] for h in layers], slope[part])
            normal += j.T @ j
            gradient += j.T @ r[part].reshape(-1).astype(np.float32)
        return normal, gradient

    def _jacobian(self, layers, slope):
        """Derivatives of weighted residuals by all numbers of the network: (n residuals, size)."""
        n, m, _ = slope.shape
        blocks = []
        delta = slope.astype(np.float32)
        for (w, _), h in zip(reversed(self.net), reversed(layers), strict=True):
            h32 = h.astype(np.float32)
            blocks.append(delta.reshape(n * m, -1))
            blocks.append((delta[:, :, :, None] * h32[:, None, None, :]).reshape(n * m, -1))
            delta = (delta @ w.astype(np.float32)) * (1.0 - h32 * h32)[:, None, :]
        return np.concatenate(blocks[::-1], axis=1)

    def _moved(self, step):
        moved, at = [], 0
        for w, b in self.net:
            dw = step[at : at + w.size].reshape(w.shape)
            at += w.size
            db = step[at : at + b.size]
            at += b.size
            moved.append((w - dw, b - db))
        return moved
