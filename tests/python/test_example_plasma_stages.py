"""The example of the plasma stages, with few of them and few particles."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType

import betatron as bt
import numpy as np
import pandas as pd
import pytest

pytest.importorskip("scipy")

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "plasma_stages" / "plasma_stages.py"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("plasma_stages", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["plasma_stages"] = module
    spec.loader.exec_module(module)
    return module


def test_lenses_are_set_and_results_are_written(
    example: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "results"
    arguments = ["--count", "2", "--particles", "500", "--sample", "200", "--output", str(folder)]
    assert example.main(arguments) == 0, capsys.readouterr().out
    assert {f.name for f in folder.iterdir()} == {*example.RESULTS, "monitors"}
    moments = pd.read_csv(folder / "moments.csv")
    ends = moments.groupby("lenses").last()
    assert set(ends.index) == {"twiss", "stagewise", "gradient"}
    gain = 2 * example.ACCELERATION * example.LENGTH / example.MC2
    assert np.allclose(ends["gamma"], math.hypot(1958, 1) + gain, rtol=1e-9)
    # optimised lenses are not worse, but for the sample that they were optimised with
    assert (ends["emittance_xn"] < ends.loc["twiss", "emittance_xn"] * 1.02).all()
    last = bt.Beam.load(folder / "monitors" / "stage2.h5")
    assert last.moments().emittance_xn == pytest.approx(ends.loc["twiss", "emittance_xn"], rel=1e-9)

    with pytest.raises(SystemExit) as exit_status:
        example.main(arguments)
    assert exit_status.value.code == 2
    assert "--overwrite" in capsys.readouterr().err


def test_learned_stages(
    example: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "--stages",
        "surrogate",
        "--count",
        "2",
        "--particles",
        "500",
        "--optimise",
        "none",
    ]
    assert example.main([*arguments, "--output", str(tmp_path)]) == 0, capsys.readouterr().out
    end = pd.read_csv(tmp_path / "moments.csv").iloc[-1]
    gain = 2 * example.ACCELERATION * example.LENGTH / example.MC2
    assert end["gamma"] - 1958 == pytest.approx(gain, rel=0.01)
    assert end["emittance_xn"] < 1.2e-6


def test_a_lens_turns_the_beam_around(example: ModuleType) -> None:
    alpha, beta, length = -6.0, 0.1, 0.003
    k1 = example.refocusing_strength(alpha, beta, length)
    m = bt.Line([bt.PlasmaLens(length, k1=k1)]).matrix(bt.Reference("electron", gamma=1e4))[:2, :2]
    sigma = np.array([[beta, -alpha], [-alpha, (1 + alpha**2) / beta]])
    assert np.allclose(m @ sigma @ m.T, sigma * [[1, -1], [-1, 1]], rtol=1e-9)
    with pytest.raises(ValueError, match="alpha = 1"):
        example.refocusing_strength(1.0, beta, length)


def test_all_lenses_by_one_gradient(example: ModuleType) -> None:
    """The gradient by all lenses at once is that of differences."""
    line, beam = example.make_line(3), example.make_beam(300)
    lenses = example.lenses_of(line)
    for lens in lenses:
        lens.k1 *= 1.01
    knobs = [(lens, "k1") for lens in lenses]
    g = line.gradient(beam, example.final_emittance(), knobs)
    for lens, derivative in zip(lenses, g.derivatives, strict=True):
        at, values = lens.k1, []
        for x in (at * (1 + 1e-5), at * (1 - 1e-5)):
            lens.k1 = x
            end = beam.copy()
            line.track(end)
            values.append(math.log(example.normalised_emittance(end)))
        lens.k1 = at
        assert derivative == pytest.approx((values[0] - values[1]) / (2e-5 * at), rel=1e-4)
