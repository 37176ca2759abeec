"""The benchmark scripts run, and write what they measured as JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    # in a process of its own: the scripts bind theirs to one processor
    command = [sys.executable, str(BENCHMARKS / script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict:
    file = tmp_path_factory.mktemp("results") / "new" / "tracking.json"
    done = run("tracking.py", "--quick", "--no-peers", "--output", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    assert str(file) in done.stdout
    return json.loads(file.read_text(encoding="utf-8"))


def test_every_part_is_measured(results: dict) -> None:
    measured = {
        (m["part"], m["setting"], m["precision"], m["particles"]) for m in results["measurements"]
    }
    for precision in ("double", "single"):
        for model in ("paraxial", "linear"):
            for n in (100, 1000):
                assert ("FODO", model, precision, n) in measured
        assert ("HTU", "models of the example", precision, 1000) in measured
    for m in results["measurements"]:
        assert m["code"] == "Betatron"
        assert 0 < m["seconds"] <= m["seconds_median"]
        assert m["repetitions"] >= 2
        assert m["elements"] == (200 if m["part"].startswith("FODO") else 153)
        nanoseconds = m["seconds"] / m["particles"] / m["elements"] * 1e9
        assert m["ns_per_particle_and_element"] == pytest.approx(nanoseconds)


def test_two_cores_are_measured_or_the_reason_is_given(results: dict) -> None:
    parts = {m["part"] for m in results["measurements"]}
    skipped = any(note.startswith("two cores: skipped") for note in results["notes"])
    assert {"FODO, two cores", "HTU, two cores"} <= parts or skipped


def test_precisions_agree(results: dict) -> None:
    assert {a["precision"] for a in results["agreement"]} == {"double", "single"}
    assert all(a["same"] for a in results["agreement"])


def test_targets_say_whether_they_were_measured_and_reached(results: dict) -> None:
    assert len(results["targets"]) == 11
    for target in results["targets"]:
        if target["measured"] is None:
            assert target["ok"] is None
        elif target["at_least"]:
            assert target["ok"] == (target["measured"] >= target["limit"])
        else:
            assert target["ok"] == (target["measured"] <= target["limit"])
    unmeasured = {t["name"] for t in results["targets"] if t["measured"] is None}
    assert "FODO, 10^5 particles: xtrack / double" in unmeasured


def test_results_say_what_they_were_measured_with(results: dict) -> None:
    assert results["machine"]["pinned_to"] >= 0
    assert results["settings"]["betatron"]["instruction_set"]
    assert results["settings"]["judged"] is False
    assert results["peers"] == {}


def test_missed_targets_are_listed() -> None:
    # in a process of its own, like the scripts
    code = """
import common
reached = common.Target("fast", 2.0, True, "x", 3.0)
missed = common.Target("small", 1.0, False, "s", 1.5)
unknown = common.Target("unknown", 1.0, False, "s", None)
assert (reached.ok, missed.ok, unknown.ok) == (True, False, None)
assert str(missed) == "small: 1.5 s, wanted <= 1 s"
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, cwd=BENCHMARKS
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("script", "expected"), [("common.py", "processor"), ("peers.py", "xtrack")]
)
def test_helpers_describe_themselves(script: str, expected: str) -> None:
    done = run(script)
    assert done.returncode == 0, done.stderr
    assert expected in done.stdout


def test_space_charge_is_measured(tmp_path: Path) -> None:
    file = tmp_path / "space_charge.json"
    done = run("space_charge.py", "--quick", "--codes", "Betatron", "--output", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads(file.read_text(encoding="utf-8"))
    assert len(results["measurements"]) == 6
    for m in results["measurements"]:
        assert 0 < m["seconds"] and m["memory_peak"] >= m["memory_before"] > 0
        assert set(m["phases"]) == {"deposit", "green", "transforms", "gather"}
        assert (m["phases"]["green"] > 1e-5) == (m["setting"] != "reused")
        assert m["difference"] < 0.1


def test_the_error_of_space_charge_is_of_second_order(tmp_path: Path) -> None:
    file = tmp_path / "accuracy.json"
    done = run("space_charge_accuracy.py", "--quick", "--output", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    errors: dict[tuple, list[float]] = {}
    for r in json.loads(file.read_text(encoding="utf-8")):
        errors.setdefault((r["aspect"], r["shape"], r["precision"]), []).append(r["error"])
    assert len(errors) == 8
    for coarse, fine in errors.values():  # 16 and 32 cells
        assert fine < 0.12 and 3.5 < coarse / fine < 5.5


def test_gradients_are_measured(tmp_path: Path) -> None:
    file = tmp_path / "gradient.json"
    done = run("gradient.py", "--quick", "--no-peers", "--output", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    measured = json.loads(file.read_text(encoding="utf-8"))["measurements"]
    assert {m["precision"] for m in measured if m["part"] == "time"} == {"double", "single"}
    assert [m["elements"] for m in measured if m["part"] == "memory"] == [40, 400, 4000]
    assert all(m["rewind_error"] < 1e-3 for m in measured if m["part"] == "time")


def test_plasma_stages_are_measured(tmp_path: Path) -> None:
    file = tmp_path / "plasma_stages.json"
    done = run("plasma_stages.py", "--quick", "--output", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads(file.read_text(encoding="utf-8"))
    parts = ["tracking", "tracking", "gradient"]
    assert [(m["stages"], m["part"]) for m in results["measurements"]] == [
        (stages, part) for stages in ("analytic", "surrogate") for part in parts
    ]
    assert all(t["measured"] > 0 for t in results["targets"])


def test_hooks_are_measured(tmp_path: Path) -> None:
    file = tmp_path / "hooks.json"
    done = run("hooks.py", "--quick", "--output", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads(file.read_text(encoding="utf-8"))
    calls = [m for m in results["measurements"] if m["what"].startswith("empty")]
    assert len(calls) == 4 and all(m["microseconds_per_call"] < 1000 for m in calls)
    lenses = {m["what"] for m in results["measurements"] if m["what"].startswith("lens")}
    assert {"lens and drift: Multipole", "lens and drift: Python (NumPy)"} <= lenses


def test_networks_are_measured(tmp_path: Path) -> None:
    file = tmp_path / "surrogate.json"
    done = run("surrogate.py", "--quick", "--no-peers", "--output", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    measured = json.loads(file.read_text(encoding="utf-8"))["measurements"]
    assert {m["format"] for m in measured} == {"float32", "bfloat16"}
    assert {"Betatron", "Betatron, vjp"} <= {m["code"] for m in measured}
    assert all(0 < m["ns_per_particle"] for m in measured)
