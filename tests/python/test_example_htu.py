"""The HTU example: its results agree with the reference, and it never writes over files unasked."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "htu" / "htu.py"


@pytest.fixture(scope="module")
def htu() -> ModuleType:
    spec = importlib.util.spec_from_file_location("htu", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["htu"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("precision", ["single", "double"])
def test_moments_agree_and_results_are_written(
    htu: ModuleType, precision: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "results"
    arguments = ["--particles", "50000", "--precision", precision, "--output", str(folder)]
    assert htu.main(arguments) == 0, capsys.readouterr().out
    assert "all 14 values agree" in capsys.readouterr().out
    assert {file.name for file in folder.iterdir()} == set(htu.RESULTS)
    moments = pd.read_csv(folder / "moments.csv")
    assert moments["s"].iloc[-1] == pytest.approx(9.6975805)
    assert {"TCPhosphor", "UC_VisaEBeam8"} <= set(moments["name"])

    with pytest.raises(SystemExit) as exit_status:
        htu.main(arguments)
    assert exit_status.value.code == 2
    assert "--overwrite" in capsys.readouterr().err
    assert htu.main([*arguments, "--overwrite"]) == 0


def test_standard_errors_are_those_of_repeated_samples(htu: ModuleType) -> None:
    data = htu.YAML(typ="safe").load(htu.DATA)
    beams = [
        htu.make_beam(data, particles=2000, precision="double", seed=seed) for seed in range(200)
    ]
    estimate = htu.standard_errors(beams[0])
    for name in ("sigma_x", "emittance_y", "sigma_t", "emittance_t"):
        scatter = np.std([beam.moments()[name] for beam in beams], ddof=1)
        # 200 samples give their own standard deviation to 5 % (one standard error).
        assert estimate[name] == pytest.approx(scatter, rel=0.25)
