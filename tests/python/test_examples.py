"""The examples of the FODO channel run, and the run file and the script do the same.

The HTU beamline has tests of its own, test_example_htu.py.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import betatron as bt
import pandas as pd
import pytest
from betatron import runfile

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def fodo(tmp_path: Path) -> Path:
    """A copy of the example, which writes beside itself."""
    folder = tmp_path / "fodo"
    shutil.copytree(ROOT / "examples" / "fodo", folder, ignore=shutil.ignore_patterns("output"))
    return folder


def python(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    # its own process, so that what an example imports and leaves behind does not meet the other
    # tests
    environment = os.environ | {"MPLBACKEND": "Agg", "PYTHONWARNINGS": "error", "COLUMNS": "120"}
    environment["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_fodo_run_file(fodo: Path) -> None:
    command = [
        "-c",
        "from betatron.cli import app; app()",
        "run",
        fodo / "fodo.yaml",
        "--particles",
        "5000",
    ]
    result = python(*command, cwd=fodo)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "FODO: 26 elements, 15 m; 5,000 particles (electron)" in result.stdout
    assert {f.name for f in (fodo / "output").iterdir()} == {
        "moments.csv",
        "final_beam.h5",
        "envelope.png",
        "phase_space.png",
        "survey.png",
    }
    assert len(bt.Beam.load(fodo / "output" / "final_beam.h5")) == 5000
    again = python(*command, cwd=fodo)
    assert again.returncode == 1
    assert "--overwrite" in again.stderr


def test_fodo_is_matched(fodo: Path) -> None:
    job = runfile.load(fodo / "fodo.yaml")
    job.source.n = 5000
    moments = job.run(progress=False).track.moments
    cells = moments[(moments["element"] + 1) % 5 == 0].iloc[:6]
    for name in ("beta_x", "beta_y"):
        # a matched beam repeats; 5000 particles know their beta to 1.5 %, and so how well they
        # match
        assert cells[name].to_numpy() == pytest.approx(2.8216194, rel=0.06)
    assert moments["emittance_x"].max() < 1.001 * moments["emittance_x"].min()


def test_fodo_script(fodo: Path) -> None:
    script = fodo / "fodo.py"
    script.write_text(script.read_text().replace("n=100_000", "n=5000"))
    result = python(script, cwd=fodo)
    assert result.returncode == 0, result.stdout + result.stderr
    folder = fodo / "output" / "python"
    assert {f.name for f in folder.iterdir()} == {"envelope.png", "phase_space.png", "survey.png"}
    # the last line of the printed table: what the run file gives
    job = runfile.load(fodo / "fodo.yaml")
    job.source.n = 5000
    final = job.run(progress=False).final
    row = next(line for line in result.stdout.splitlines() if re.match(r"26\s", line)).split()
    assert row[1:3] == ["15.00", "end"]
    assert float(row[3]) == pytest.approx(final["sigma_x"], abs=1e-6)
    assert float(row[5]) == pytest.approx(final["emittance_x"], rel=1e-5)
    assert python(script, cwd=fodo).returncode == 1  # nothing is written over


def code_blocks(page: Path) -> list[str]:
    return re.findall(
        r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )


PAGES = [
    "README.md",
    "docs/index.md",
    *sorted(f"docs/howto/{p.name}" for p in (ROOT / "docs" / "howto").glob("*.md")),
]


@pytest.mark.parametrize("page", PAGES)
def test_code_in_the_documentation_runs(page: str, tmp_path: Path) -> None:
    """All Python blocks of a page, one after the other, in an empty folder."""
    blocks = code_blocks(ROOT / page)
    if find_spec("cpymad") is None:
        blocks = [b for b in blocks if "from_madx" not in b]
    script = "\n".join(blocks).replace("100_000", "2_000")
    (tmp_path / "page.py").write_text(script)
    shutil.copy(ROOT / "examples" / "fodo" / "fodo.yaml", tmp_path)
    result = python("page.py", cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr


BEAM = """
import numpy as np
import betatron as bt
shape = bt.Gaussian.from_twiss(
    beta_x=1e-3, emittance_x=2e-10, beta_y=1e-3, emittance_y=2e-10, beta_t=1e-3, emittance_t=4e-10
)
beam = bt.Beam(bt.Reference("electron", kinetic_energy=1e9), shape, n=500, charge=1e-12, seed=1)
"""
LINES = """
line = bt.Line(
    [
        bt.Drift(0.1), bt.Bend(0.1, angle=0.01), bt.Drift(0.2, name="linac1"),
        bt.Marker(name="cavity"), bt.Drift(0.1),
    ]
)
q1, q2, b = bt.Quadrupole(0.2, k1=2), bt.Quadrupole(0.2, k1=-2), bt.Bend(0.5, angle=np.pi / 8)
ring = bt.Line([bt.Marker(name="ip"), *8 * [q1, bt.Drift(0.3), b, q2, bt.Drift(0.3), b]])
ref = reference = beam.reference
dist = shape
"""
NETWORK = """
r = np.random.default_rng(1)
w1, b1, w2, b2 = 0.1 * r.normal(size=(6, 6)), r.normal(size=6), 0.1 * r.normal(size=(6, 6)), None
mean, spread, x, y_bar = np.zeros(6), np.ones(6), r.normal(size=(6, 9)), r.normal(size=(6, 9))
lens, drift = bt.PlasmaLens(1e-3, k1=1.0), bt.Drift(0.1)
"""


@pytest.mark.parametrize(
    ("page", "before", "without", "needs"),
    [
        ("surrogates.md", BEAM + NETWORK, (), ()),
        ("plasma_surrogates.md", BEAM, ("train_stage",), ()),
        ("plasma.md", BEAM, ("waket", "diags/"), ()),
        ("programmable.md", BEAM, ("import torch",), ("numba",)),
        ("collective.md", BEAM + LINES, (), ()),
        ("space_charge_models.md", BEAM + LINES, (), ()),
        ("wakes.md", BEAM + LINES, (), ()),
        ("spin_radiation.md", BEAM + LINES, (), ()),
    ],
)
def test_code_in_reference_pages_runs(
    page: str, before: str, without: tuple[str, ...], needs: tuple[str, ...], tmp_path: Path
) -> None:
    """As above, with what the pages take for granted; without blocks that need simulations."""
    for package in needs:
        pytest.importorskip(package)
    blocks = [b for b in code_blocks(ROOT / "docs" / page) if not any(w in b for w in without)]
    script = "\n".join([before, *blocks]).replace("10_000", "500").replace("turns=1000", "turns=3")
    (tmp_path / "page.py").write_text(script)
    result = python("page.py", cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr


def test_moments_file_is_a_table(fodo: Path) -> None:
    job = runfile.load(fodo / "fodo.yaml")
    job.source.n = 100
    job.output.plots = ()
    result = job.run(progress=False)
    table = pd.read_csv(fodo / "output" / "moments.csv")
    assert list(table.columns) == list(result.track.moments.columns)
    assert table["sigma_x"].to_numpy() == pytest.approx(result.track.moments["sigma_x"].to_numpy())


def example(name: str, *arguments: str, folder: Path) -> str:
    """What an example prints; its picture must have been made."""
    script = ROOT / "examples" / name / f"{name}.py"
    result = python(script, *arguments, "--output", folder, cwd=folder)
    assert result.returncode == 0, result.stdout + result.stderr
    assert (folder / f"{name}.png").stat().st_size > 10_000
    return result.stdout


def test_fodo_match(tmp_path: Path) -> None:
    """Four simulations with derivatives match the cell, as counted in the published comparison."""
    pytest.importorskip("scipy")
    printed = example("fodo_match", folder=tmp_path)
    rows = {line[:20].strip(): line[20:].split() for line in printed.splitlines()}
    assert int(rows["Gauss-Newton"][2]) <= 4
    assert int(rows["Nelder-Mead"][2]) > 40
    assert float(rows["Gauss-Newton"][-1]) == pytest.approx(103.12, rel=1e-3)


def test_htu_focus(tmp_path: Path) -> None:
    pytest.importorskip("scipy")
    printed = example("htu_focus", "--particles", "1000", "--steps", "25", folder=tmp_path)
    first, last = re.search(r"loss (\S+) -> (\S+)", printed).groups()  # type: ignore[union-attr]
    assert float(last) < 0.2 * float(first)


def test_calibration(tmp_path: Path) -> None:
    pytest.importorskip("scipy")
    printed = example(
        "calibration", "--particles", "1000", "--settings", "8", "--steps", "15", "--rough",
        folder=tmp_path,
    )  # fmt: skip
    rest = re.search(r"rms difference: dx (\S+) um, dy (\S+) um", printed)
    assert rest is not None and float(rest[1]) < 60 and float(rest[2]) < 60  # of 200 um


def test_tomography(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    printed = example(
        "tomography", "--particles", "500", "--scan", "2", "--steps", "25", folder=tmp_path
    )
    first, last = re.search(r"pictures (\S+) -> (\S+)", printed).groups()  # type: ignore[union-attr]
    assert float(last) < 0.5 * float(first)
