"""Trains the surrogates of plasma stages from pairs of particles in front of and behind them.

    python train.py pairs.npz --out stages/ [--stages 1 8 15] [--seed 1] [--pictures]

The file holds arrays src_stageK, tgt_stageK (K from 0) of shape (n, 6): x, y, xi [m], px, py, pz
[m c] at a fixed time. Writes stage_01.safetensors, ... and report.md with the errors on pairs kept
out of training. One stage takes half a minute to three minutes on one core. Needs PyTorch.
"""

import argparse
import logging
from pathlib import Path

import numpy as np
import torch
from betatron.surrogate.pairs import inliers, read_npz, split
from betatron.surrogate.report import held_out_errors, pictures, table
from betatron.surrogate.stage import StageModel
from betatron.surrogate.training import Recipe, ion_column_focusing, train_stage

SOURCE = (
    "Wake-T 0.9.1, quasistatic_2d on 400 x 128 cells: laser a0 = 2.36, w0 = 36 um; plasma of "
    "1.7e23 1/m^3 on the axis of a parabolic channel of 40 um, 28 cm; unloaded"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--stages", type=int, nargs="*", help="counted from 1; default: all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--hidden", type=int, nargs="*", default=[32, 32])
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--length", type=float, default=0.28, help="of a stage [m]")
    parser.add_argument("--density", type=float, default=1.7e23, help="of the plasma [1/m^3]")
    parser.add_argument("--source", default=SOURCE, help="where the pairs come from, in words")
    parser.add_argument("--pictures", action="store_true")
    a = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    a.out.mkdir(parents=True, exist_ok=True)
    with np.load(a.pairs) as data:
        there = sorted(int(n[9:]) + 1 for n in data.files if n.startswith("src_stage"))

    recipe = Recipe(hidden=tuple(a.hidden), rounds=a.rounds, seed=a.seed)
    focusing = ion_column_focusing(a.density)
    rows = []
    for stage in a.stages or there:
        pairs = read_npz(a.pairs, stage - 1)
        # from the third on, the weights of the one before are close
        before = a.out / f"stage_{stage - 1:02d}.safetensors"
        start = StageModel.load(before) if stage > 2 and before.exists() else None
        model = train_stage(pairs, a.length, focusing, recipe, a.source, start)
        path = a.out / f"stage_{stage:02d}.safetensors"
        path.unlink(missing_ok=True)
        model.save(path)
        test = split(len(pairs), a.seed)[2]
        held_out = pairs.take(test[inliers(pairs, focusing)[test]])
        for beam, errors in held_out_errors(model.apply, held_out).items():
            rows.append((f"{stage}, {beam}", errors))
            print(table(rows[-1:]), flush=True)
        if a.pictures:
            pictures(model.apply, held_out, a.out / f"stage_{stage:02d}.png", model)
    (a.out / "report.md").write_text(table(rows, "stage, beam") + "\n")


if __name__ == "__main__":
    main()
