"""Plain fully connected networks for stages, as published, and how to make them smaller.

A plain network maps the six numbers of a particle, x, y, xi [m], px, py, pz [m c], to those behind
the stage, each taken relative to its mean over the training particles and in units of its spread.
Training needs PyTorch (extra `train`); networks are `betatron.surrogate.Network`.

Source: R. Sandberg et al., PASC24, doi:10.1145/3659914.3659937 (5 x 900 and 3 x 700 PReLU units).
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from betatron.surrogate.network import Layer, Network
from betatron.surrogate.pairs import Pairs, inliers, split

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class DenseRecipe:
    """How to train a plain network.

    hidden: widths of the hidden layers. activation: "prelu", "relu", "tanh" or "silu". epochs: at
    most that many passes over the training pairs, in batches of `batch`, by Adam with a step size
    that falls from `rate` to 0 like a cosine. weight: of the squared errors of the six outputs, in
    units of their spread. patience: epochs without a better validation loss before it stops. seed:
    of split, first weights and batches.
    """

    hidden: tuple[int, ...] = (256, 256, 256)
    activation: str = "prelu"
    epochs: int = 200
    batch: int = 512
    rate: float = 2e-3
    weight: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
    patience: int = 40
    seed: int = 1


def train_dense(
    pairs: Pairs,
    focusing: float,
    recipe: DenseRecipe | None = None,
    teacher: Callable[[np.ndarray], np.ndarray] | None = None,
    start: Network | None = None,
) -> Network:
    """A plain network from pairs; outliers (`inliers`) are left out.

    focusing: K [1/m^2], for the outliers. teacher: a map of particles (n, 6) that is learned in
    place of the targets, for distillation; in each epoch, it is asked at new particles: the given
    ones, turned about the axis and mixed two by two. start: a network to go on from.
    ValueError if that has skip connections, or hidden layers of different or other activations than
    those of a recipe.
    """
    import torch

    recipe = recipe or DenseRecipe()
    begin = time.monotonic()
    keep = inliers(pairs, focusing)
    rows, validation, _ = (r[keep[r]] for r in split(len(pairs), recipe.seed))
    torch.manual_seed(recipe.seed)
    rng = np.random.default_rng((recipe.seed, 2))
    if start is None:
        a, b = pairs.source[rows], pairs.target[rows]
        norm = (a.mean(axis=0), a.std(axis=0), b.mean(axis=0), b.std(axis=0))
        model = _module((6, *recipe.hidden, 6), recipe.activation)
    else:
        n = start.normalisation
        norm = (n["input_offset"], 1.0 / n["input_scale"], n["output_offset"], n["output_scale"])
        model = _module_of(start)

    def inputs(a):
        return torch.as_tensor((a - norm[0]) / norm[1], dtype=torch.float32)

    def outputs(b):
        return torch.as_tensor((b - norm[2]) / norm[3], dtype=torch.float32)

    weight = torch.as_tensor(recipe.weight, dtype=torch.float32)

    def loss_of(x, y):
        return (((model(x) - y) ** 2) * weight).mean()

    x, y = inputs(pairs.source[rows]), outputs(pairs.target[rows])
    vx, vy = inputs(pairs.source[validation]), outputs(pairs.target[validation])
    masks = [(p, p != 0) for p in model.parameters() if p.ndim == 2] if start is not None else []
    optimiser = torch.optim.Adam(model.parameters(), lr=recipe.rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, recipe.epochs)
    best, best_state, best_epoch = np.inf, copy.deepcopy(model.state_dict()), 0
    for epoch in range(recipe.epochs):
        if teacher is not None:
            more = _mixed(pairs.source[rows], rng)
            x, y = inputs(more), outputs(teacher(more))
        for part in torch.randperm(len(x)).split(recipe.batch):
            optimiser.zero_grad()
            loss_of(x[part], y[part]).backward()
            optimiser.step()
            with torch.no_grad():
                for p, mask in masks:  # what was pruned stays so
                    p.mul_(mask)
        schedule.step()
        with torch.no_grad():
            loss = float(loss_of(vx, vy))
        if loss < best:
            best, best_state, best_epoch = loss, copy.deepcopy(model.state_dict()), epoch
        elif epoch - best_epoch >= recipe.patience:
            break
    model.load_state_dict(best_state)
    log.info("%s: %d epochs, validation %.3g", pairs.label, best_epoch + 1, best)
    return _network(
        model,
        norm,
        {
            "data": pairs.label,
            "data_sha256": pairs.digest,
            "recipe": dataclasses.asdict(recipe),
            "epochs": best_epoch + 1,
            "validation_loss": best,
            "seconds": round(time.monotonic() - begin, 1),
        },
    )


def apply_dense(network: Network, particles: np.ndarray, format: str | None = None) -> np.ndarray:
    """Particles behind the stage, (n, 6), by a plain network."""
    columns = np.ascontiguousarray(np.asarray(particles, np.float64).T)
    return np.asarray(network(columns, format=format)).T


def pruned(network: Network, particles: np.ndarray, share: float) -> Network:
    """Without the given share of the units of each hidden layer: those whose spread over the
    particles (n, 6), times the size of the weights that read them, is least. What they give on
    average goes into the biases behind them. Train on with `train_dense(start=...)`.

    ValueError unless 0 <= share < 1, or for a network with skip connections.
    """
    if not 0.0 <= share < 1.0:
        raise ValueError(f"share = {share} must be in [0, 1)")
    if any(layer.skip is not None for layer in network.layers):
        raise ValueError("a network with skip connections cannot be pruned unit by unit")
    layers = [
        (np.array(a.weights), np.array(a.bias if a.bias is not None else 0.0), a)
        for a in network.layers
    ]
    n = network.normalisation
    value = (np.asarray(particles, np.float64) - n["input_offset"]) * n["input_scale"]
    result = []
    for i, (w, b, layer) in enumerate(layers):
        b = np.broadcast_to(b, (len(w),)).copy()
        slope = None if layer.slope is None else np.asarray(layer.slope)
        if i + 1 < len(layers):
            activity = _activate(value @ w.T + b, layer)
            behind, bias, other = layers[i + 1]
            score = activity.std(axis=0) * np.linalg.norm(behind, axis=0)
            kept = np.sort(np.argsort(-score)[: max(1, round((1.0 - share) * len(w)))])
            gone = np.setdiff1d(np.arange(len(w)), kept)
            moved = np.broadcast_to(bias, (len(behind),)) + behind[:, gone] @ activity[
                :, gone
            ].mean(axis=0)
            layers[i + 1] = (behind[:, kept], moved, other)
            w, b, value = w[kept], b[kept], activity[:, kept]
            slope = slope[kept] if slope is not None and slope.size > 1 else slope
        result.append(dataclasses.replace(layer, weights=w, bias=b, slope=slope))
    return _like(network, result)


def thinned(network: Network, share: float) -> Network:
    """With the given share of the weights of each unit, the smallest, set to zero."""
    if not 0.0 <= share < 1.0:
        raise ValueError(f"share = {share} must be in [0, 1)")

    def thin(layer):
        w = np.array(layer.weights)
        w[np.abs(w) < np.quantile(np.abs(w), share, axis=1, keepdims=True)] = 0.0
        return dataclasses.replace(layer, weights=w)

    return _like(network, [thin(layer) for layer in network.layers])


def rounded(weights: np.ndarray, kind: str) -> np.ndarray:
    """Weights (outputs, inputs) rounded to the nearest that "bf16" (8 significant bits) or "int8"
    (127 steps to the largest weight of each output) can hold. ValueError for another kind."""
    w = np.array(weights, np.float64)
    if kind == "bf16":
        bits = w.astype(np.float32).view(np.uint32).astype(np.uint64)
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
        return bits.astype(np.uint32).view(np.float32).astype(np.float64)
    if kind == "int8":
        step = np.abs(w).max(axis=1, keepdims=True) / 127.0
        return np.rint(w / np.where(step > 0, step, 1.0)) * step
    raise ValueError(f"kind = {kind!r} must be 'bf16' or 'int8'")


def quantised(network: Network, kind: str) -> Network:
    """The network with `rounded` weights."""
    return _like(
        network,
        [dataclasses.replace(a, weights=rounded(a.weights, kind)) for a in network.layers],
    )


def stored_bytes(network: Network, kind: str = "float32") -> int:
    """Memory of the weights that are not zero, and of biases in single precision; `kind` float32,
    bf16 or int8 (with a scale per output). Positions of zeros are not counted."""
    size = {"float32": 4, "bf16": 2, "int8": 1}[kind]
    total = 0
    for layer in network.layers:
        w = np.asarray(layer.weights)
        total += size * int(np.count_nonzero(w)) + 4 * len(w) * (2 if kind == "int8" else 1)
    return total


def _like(network: Network, layers: Sequence[Layer]) -> Network:
    return Network(
        layers,
        name=network.name,
        format=network.format,
        metadata=network.metadata,
        extras=network.extras,
        **network.normalisation,
    )


def _mixed(particles: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """New particles like the given ones: each between itself and another, turned by a random
    angle."""
    other = particles[rng.permutation(len(particles))]
    part = rng.uniform(0.0, 0.5, (len(particles), 1))
    mix = np.sqrt(1.0 - part) * (particles - particles.mean(0)) + np.sqrt(part) * (
        other - particles.mean(0)
    )
    mix += particles.mean(0)
    angle = rng.uniform(0.0, 2.0 * np.pi, len(mix))
    c, s = np.cos(angle), np.sin(angle)
    for i, j in ((0, 1), (3, 4)):
        mix[:, i], mix[:, j] = c * mix[:, i] - s * mix[:, j], s * mix[:, i] + c * mix[:, j]
    return mix


def _activate(z: np.ndarray, layer: Layer) -> np.ndarray:
    name = layer.activation
    if name == "identity":
        return z
    if name == "tanh":
        return np.tanh(z)
    if name == "silu":
        return z / (1.0 + np.exp(-z))
    if name in ("relu", "leaky_relu", "prelu"):
        slope = 0.0 if layer.slope is None else np.asarray(layer.slope)
        return np.where(z > 0, z, slope * z)
    raise ValueError(f"units with the activation {name!r} cannot be pruned")


def _module(widths: Sequence[int], activation: str) -> Any:
    import torch

    made = {
        "prelu": torch.nn.PReLU,
        "relu": torch.nn.ReLU,
        "tanh": torch.nn.Tanh,
        "silu": torch.nn.SiLU,
    }
    if activation not in made:
        raise ValueError(f"activation = {activation!r} must be one of {', '.join(made)}")
    parts: list[Any] = []
    for i, o in itertools.pairwise(widths):
        parts += [torch.nn.Linear(i, o), made[activation]()]
    return torch.nn.Sequential(*parts[:-1])


def _module_of(network: Network) -> Any:
    import torch

    layers = network.layers
    hidden = layers[0].activation if len(layers) > 1 else "relu"
    if [a.activation for a in layers] != [hidden] * (len(layers) - 1) + ["identity"] or any(
        a.skip is not None for a in layers
    ):
        raise ValueError(
            "start: only chains of layers with one activation, the last one without, and no skip "
            f"connections can be trained; it has {', '.join(a.activation for a in layers)}"
        )
    widths = [network.inputs, *(len(np.asarray(layer.weights)) for layer in layers)]
    module = _module(widths, hidden)
    linear = [m for m in module if isinstance(m, torch.nn.Linear)]
    slopes = [m for m in module if isinstance(m, torch.nn.PReLU)]
    with torch.no_grad():
        for m, layer in zip(linear, layers, strict=True):
            m.weight.copy_(torch.as_tensor(np.asarray(layer.weights)))
            bias = np.zeros(len(m.bias)) if layer.bias is None else np.asarray(layer.bias)
            m.bias.copy_(torch.as_tensor(bias))
        for m, layer in zip(slopes, layers, strict=False):
            m.weight.copy_(torch.as_tensor(np.atleast_1d(np.asarray(layer.slope))))
    return module


def _network(module: Any, norm: tuple[np.ndarray, ...], metadata: dict[str, Any]) -> Network:
    import torch

    names = {
        torch.nn.PReLU: "prelu",
        torch.nn.ReLU: "relu",
        torch.nn.Tanh: "tanh",
        torch.nn.SiLU: "silu",
    }
    layers, parts = [], list(module)
    for i, m in enumerate(parts):
        if not isinstance(m, torch.nn.Linear):
            continue
        f = parts[i + 1] if i + 1 < len(parts) else None
        layers.append(
            Layer(
                weights=m.weight.detach().double().numpy(),
                bias=m.bias.detach().double().numpy(),
                activation="identity" if f is None else names[type(f)],
                slope=f.weight.detach().double().numpy() if isinstance(f, torch.nn.PReLU) else None,
                name=f"layers.{i}",
            )
        )
    return Network(
        layers,
        input_offset=norm[0],
        input_scale=1.0 / norm[1],
        output_offset=norm[2],
        output_scale=norm[3],
        metadata=metadata,
    )
