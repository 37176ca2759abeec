"""Makes a large plain network of a plasma stage smaller, and says what that costs in accuracy.

    python compress.py pairs.npz [--stage 15] [--hidden 256 256 256] [--structured FILE]

Trains a plain network, then distils it into a smaller one, prunes units and single weights (and
trains on), and rounds weights to bf16 and int8. Prints a table: operations and memory, and errors
on pairs kept out of training. Needs PyTorch.
"""

import argparse
import dataclasses
from pathlib import Path

import numpy as np
import torch
from betatron.surrogate import StageModel
from betatron.surrogate.dense import (
    DenseRecipe,
    apply_dense,
    pruned,
    quantised,
    rounded,
    stored_bytes,
    thinned,
    train_dense,
)
from betatron.surrogate.pairs import inliers, read_npz, split
from betatron.surrogate.report import moment_errors
from betatron.surrogate.training import Recipe, ion_column_focusing, train_stage


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--stage", type=int, default=15, help="counted from 1")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--hidden", type=int, nargs="+", default=[256, 256, 256])
    parser.add_argument("--small", type=int, nargs="+", default=[64, 64, 64])
    parser.add_argument("--epochs", type=int, default=150)
    parser.add_argument("--density", type=float, default=1.7e23, help="of the plasma [1/m^3]")
    parser.add_argument("--length", type=float, default=0.28, help="of the stage [m]")
    parser.add_argument("--structured", type=Path, help="a structured stage to compare with")
    a = parser.parse_args()
    torch.set_num_threads(1)
    focusing = ion_column_focusing(a.density)
    pairs = read_npz(a.pairs, a.stage - 1)
    test = split(len(pairs), a.seed)[2]
    held_out = pairs.take(test[inliers(pairs, focusing)[test]])

    moments = "σx | σpx | εx | mean energy | energy spread"
    print(f"| network | operations | memory | {moments} | rms x |")
    print("|---|" + "---:|" * 8)

    def row(name, predict, operations, size):
        errors = moment_errors(predict, held_out)
        x = predict(held_out.source)[:, 0] - held_out.target[:, 0]
        text = " | ".join(f"{100 * e:+.2f} %" for e in errors.values())
        miss = np.sqrt((x**2).mean()) / held_out.target[:, 0].std()
        print(
            f"| {name} | {operations:,.0f} | {size:,} B | {text} | {100 * miss:.2f} % |", flush=True
        )

    def dense_row(name, network, kind="float32", operations=None):
        row(
            name,
            lambda s: apply_dense(network, s),
            operations or network.operations,
            stored_bytes(network, kind),
        )

    recipe = DenseRecipe(hidden=tuple(a.hidden), epochs=a.epochs, seed=a.seed)
    more = dataclasses.replace(recipe, epochs=max(1, a.epochs // 3), rate=recipe.rate / 4)
    large = train_dense(pairs, focusing, recipe)
    dense_row(f"plain, {a.hidden}", large)
    dense_row("rounded to bf16", quantised(large, "bf16"), "bf16")
    dense_row("rounded to int8", quantised(large, "int8"), "int8")
    half = pruned(large, pairs.source, 0.5)
    dense_row("half of the units", half)
    half = train_dense(pairs, focusing, more, start=half)
    dense_row("half of the units, trained on", half)
    thin = train_dense(pairs, focusing, more, start=thinned(large, 0.8))
    dense_row("a fifth of the weights, trained on", thin)
    small = dataclasses.replace(recipe, hidden=tuple(a.small))
    dense_row(f"plain, {a.small}", train_dense(pairs, focusing, small))
    student = train_dense(pairs, focusing, small, teacher=lambda s: apply_dense(large, s))
    dense_row(f"plain, {a.small}, distilled from the first", student)
    if a.structured is None:
        stage = train_stage(pairs, a.length, focusing, Recipe(seed=a.seed))
    else:
        stage = StageModel.load(a.structured)

    def stage_row(name, model, size):
        numbers = sum(size * w.size + 4 * len(w) for w in model.weights)
        row(name, model.apply, model.operations(), numbers)

    stage_row("structured", stage, 4)
    for kind, size in (("bf16", 2), ("int8", 1)):
        weights = tuple(rounded(w, kind) for w in stage.weights)
        stage_row(
            f"structured, rounded to {kind}", dataclasses.replace(stage, weights=weights), size
        )


if __name__ == "__main__":
    main()
