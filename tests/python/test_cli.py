"""The command line and run files: what they do, and what they say when something is wrong."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import betatron as bt
import numpy as np
import pandas as pd
import pytest
from betatron import runfile
from betatron.cli import app
from typer.testing import CliRunner

RUN = """\
# a comment
reference:
  species: electron
  kinetic_energy: 1.0e9
beam:
  distribution: Gaussian
  twiss:
    beta_x: 2.0
    emittance_x: 1e-9
    beta_y: 2.0
    emittance_y: 1e-9
    beta_t: 1.0
    emittance_t: 1e-7
  n: 200
  charge: 1e-12
line:
  name: cell
  elements:
    qf: {kind: Quadrupole, length: 0.2, k1: 2}
    d: {kind: Drift, length: 0.3}
    qd:
      kind: Quadrupole
      length: 0.2
      k1: -2
  sequence:
    - repeat: 2
      line: [qf, d, [qd, d]]
    - qf
"""


def run_file(folder: Path, text: str = RUN, name: str = "run.yaml") -> Path:
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return file


def betatron(*arguments: Any) -> Any:
    return CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "200"})


# --- info, kinds ----------------------------------------------------------------------------------


def test_info() -> None:
    result = betatron("info")
    assert result.exit_code == 0
    for value in (
        bt.__version__,
        bt.info()["compiler"],
        bt.info()["instruction_set"],
        "openpmd_api",
    ):
        assert str(value) in result.output


def test_version() -> None:
    result = betatron("--version")
    assert (result.exit_code, result.output) == (0, f"{bt.__version__}\n")


def test_help_without_arguments() -> None:
    result = betatron()
    assert result.exit_code == 2
    for command in ("run", "info", "kinds"):
        assert command in result.output


def test_kinds() -> None:
    result = betatron("kinds")
    assert result.exit_code == 0
    for kind in bt.kinds():
        assert kind in result.output


@pytest.mark.parametrize("kind", bt.kinds())
def test_one_kind(kind: str) -> None:
    result = betatron("kinds", kind)
    assert result.exit_code == 0
    for parameter in [*bt.kinds()[kind], *bt.common_parameters()]:
        assert parameter["name"] in result.output


def test_unknown_kind() -> None:
    result = betatron("kinds", "quadrupol")
    assert result.exit_code == 2
    assert "there is no kind 'quadrupol'; did you mean Quadrupole" in result.stderr


# --- run ------------------------------------------------------------------------------------------


def test_run_prints_moments_and_writes_nothing_unasked(tmp_path: Path) -> None:
    file = run_file(tmp_path)
    result = betatron("run", file)
    assert result.exit_code == 0, result.output
    assert "cell: 9 elements, 2.2 m; 200 particles (electron), double precision" in result.output
    for text in ("sigma_x", "emittance_yn", "no particles were lost", "elements per second"):
        assert text in result.output
    assert list(tmp_path.iterdir()) == [file]


def test_run_does_what_the_same_calls_do(tmp_path: Path) -> None:
    result = runfile.load(run_file(tmp_path)).run(progress=False)
    qf, d, qd = bt.Quadrupole(0.2, k1=2), bt.Drift(0.3), bt.Quadrupole(0.2, k1=-2)
    shape = bt.Gaussian.from_twiss(
        beta_x=2, emittance_x=1e-9, beta_y=2, emittance_y=1e-9, beta_t=1, emittance_t=1e-7
    )
    beam = bt.Beam(bt.Reference("electron", kinetic_energy=1e9), shape, n=200, charge=1e-12)
    bt.Line([2 * bt.Line([qf, d, qd, d]), qf]).track(beam, record="all")
    assert np.array_equal(result.beam.array, beam.array)
    assert len(result.track.moments) == 10
    assert result.files == []
    assert result.pushes == 200 * 9


def test_run_writes_what_is_asked_for(tmp_path: Path) -> None:
    file = run_file(tmp_path, RUN + "output:\n  directory: results/here\n")
    result = betatron("run", file)
    assert result.exit_code == 0, result.output
    folder = tmp_path / "results" / "here"  # beside the run file
    names = {"moments.csv", "final_beam.h5", "envelope.png", "phase_space.png", "survey.png"}
    assert {f.name for f in folder.iterdir()} == names
    assert all(f"wrote {folder / name}" in result.output for name in names)
    moments = pd.read_csv(folder / "moments.csv")
    assert len(moments) == 10
    assert len(bt.Beam.load(folder / "final_beam.h5")) == 200


def test_nothing_is_written_over_unless_asked(tmp_path: Path) -> None:
    file = run_file(tmp_path)
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "moments.csv").write_text("mine")
    (folder / "other.txt").write_text("mine")
    result = betatron("run", file, "--output", folder)
    assert result.exit_code == 1
    assert f"{folder} already holds moments.csv; choose another directory" in result.stderr
    assert "--overwrite" in result.stderr
    assert {f.name for f in folder.iterdir()} == {"moments.csv", "other.txt"}
    assert (folder / "moments.csv").read_text() == "mine"
    assert betatron("run", file, "--output", folder, "--overwrite").exit_code == 0
    assert (folder / "moments.csv").read_text() != "mine"
    assert (folder / "other.txt").read_text() == "mine"


def test_options_take_the_place_of_keys(tmp_path: Path) -> None:
    file = run_file(tmp_path)
    folder = tmp_path / "out"
    arguments = [
        "--particles",
        50,
        "--precision",
        "single",
        "--seed",
        7,
        "--threads",
        1,
        "--no-plots",
    ]
    result = betatron("run", file, "--output", folder, *arguments)
    assert result.exit_code == 0, result.output
    assert "50 particles (electron), single precision" in result.output
    assert {f.name for f in folder.iterdir()} == {"moments.csv", "final_beam.h5"}
    beam = bt.Beam.load(folder / "final_beam.h5")
    assert len(beam) == 50
    assert beam.precision == "single"
    job = runfile.load(file)
    job.source.n, job.source.seed, job.source.precision = 50, 7, "single"
    assert np.array_equal(job.run(progress=False).beam.x, beam.x)


def test_names_of_files_can_be_chosen(tmp_path: Path) -> None:
    text = RUN + "output: {directory: out, beam: end.json, moments: false, plots: [survey]}\n"
    assert betatron("run", run_file(tmp_path, text)).exit_code == 0
    assert {f.name for f in (tmp_path / "out").iterdir()} == {"end.json", "survey.png"}
    text = RUN + "output: {directory: out2, beam: false, plots: false}\n"
    assert betatron("run", run_file(tmp_path, text)).exit_code == 0
    assert {f.name for f in (tmp_path / "out2").iterdir()} == {"moments.csv"}
    assert betatron("run", tmp_path / "run.yaml", "--plots", "--overwrite").exit_code == 0
    assert len(list((tmp_path / "out2").iterdir())) == 4


def test_plots_need_a_place(tmp_path: Path) -> None:
    result = betatron("run", run_file(tmp_path), "--plots")
    assert result.exit_code == 2
    assert "--plots needs --output DIR" in result.stderr


def test_track_section(tmp_path: Path) -> None:
    text = (
        RUN
        + """
track:
  turns: 3
  record: [qd]
  record_slices: false
  backward: false
  first_turn: 5
  threads: 1
"""
    )
    result = runfile.load(run_file(tmp_path, text)).run(progress=False)
    assert list(result.track.moments["turn"]) == [5, 5, 6, 6, 7, 7]
    assert result.final["s"] == pytest.approx(3 * 2.2)
    back = runfile.load(run_file(tmp_path, RUN + "track: {backward: true, record: ends}\n")).run(
        progress=False
    )
    assert back.final["s"] == pytest.approx(-2.2)
    bucket = "track: {boundary: absorbing, bucket_length: 1e-4}\n"
    absorbed = runfile.load(run_file(tmp_path, RUN + bucket)).run(progress=False)
    assert set(absorbed.track.lost["reason"]) == {"outside_bucket"}
    none = runfile.load(run_file(tmp_path, RUN + "track: {record: null}\noutput: {directory: o}\n"))
    assert "envelope.png" not in {f.name for f in none.run(progress=False).files}


def test_a_beam_may_come_from_a_file(tmp_path: Path) -> None:
    first = runfile.load(run_file(tmp_path))
    beam = first.beam()
    beam.save(tmp_path / "start.h5")
    line = RUN[RUN.index("line:") :]
    file = run_file(tmp_path, "beam: {file: start.h5}\n" + line, "second.yaml")
    job = runfile.load(file)
    assert job.reference == first.reference
    assert np.array_equal(job.beam().array, beam.array)
    assert betatron("run", file).exit_code == 0
    result = betatron("run", file, "--particles", 3)
    assert result.exit_code == 2
    assert "the beam comes from" in result.stderr


@pytest.mark.parametrize(
    ("old", "new", "name"),
    [
        ("species: electron", "species: {name: C6+, mass: 11.178e9, charge: 6}", "C6+"),
        ("kinetic_energy: 1.0e9", "gamma: 2000", "electron"),
        ("species: electron", "species: proton", "proton"),
    ],
)
def test_references(tmp_path: Path, old: str, new: str, name: str) -> None:
    job = runfile.load(run_file(tmp_path, RUN.replace(old, new)))
    assert job.reference.species.name == name
    assert betatron("run", job.path).exit_code == 0


@pytest.mark.parametrize(
    "moments",
    [
        "ellipse: {lambda_x: 1e-4, lambda_y: 1e-4, lambda_t: 1e-4, lambda_px: 1e-5, "
        "lambda_py: 1e-5, lambda_pt: 1e-4}",
        f"covariance: {{matrix: {np.diag([1e-8, 1e-9] * 3).tolist()}, "
        "mean: [0, 0, 1e-3, 0, 0, 0]}",
        "twiss: {beta_x: 1, emittance_x: 1e-9, beta_y: 1, emittance_y: 1e-9, beta_t: 1, "
        "emittance_t: 1e-7, "
        "alpha_x: 0.5, dispersion_x: 0.1, cut_x: 3}",
    ],
)
def test_distributions(tmp_path: Path, moments: str) -> None:
    start, end = RUN.index("  twiss:"), RUN.index("  n: 200")
    text = RUN[:start] + f"  {moments}\n" + RUN[end:]
    assert len(runfile.load(run_file(tmp_path, text)).beam()) == 200
    for name in runfile.DISTRIBUTIONS:
        if "cut_x" not in moments:
            other = text.replace("distribution: Gaussian", f"distribution: {name}")
            assert len(runfile.load(run_file(tmp_path, other)).beam()) == 200


def test_thermal_and_polarised_beams(tmp_path: Path) -> None:
    start, end = RUN.index("  twiss:"), RUN.index("  n: 200")
    thermal = "  thermal: {k: 2, kT: 1e-6}\n  polarization: [0, 0.5, 0]\n"
    text = (RUN[:start] + thermal + RUN[end:]).replace("Gaussian", "Thermal")
    beam = runfile.load(run_file(tmp_path, text)).beam()
    assert beam.moments()["sigma_px"] == pytest.approx(1e-3, rel=0.2)
    assert beam.polarization()[1] == pytest.approx(0.5, abs=0.2)
    for wrong, message in (
        (text.replace("0.5", "1.5"), r"beam.polarization: .*of length <= 1"),
        (text.replace("Thermal", "Gaussian"), "exactly one of twiss, .*; got thermal"),
        (text.replace("k: 2", "k: -2"), "k = -2.0 must be finite and > 0"),
    ):
        with pytest.raises(runfile.RunFileError, match=message):
            runfile.load(run_file(tmp_path, wrong))


def test_yaml_is_that_of_2009(tmp_path: Path) -> None:
    """YAML 1.2: 1e9 is a number, no and off are text, anchors and merge keys work."""
    text = """\
reference: {species: electron, kinetic_energy: 1e9}
beam:
  distribution: KV
  n: 1.0e2
  twiss: {beta_x: 1, emittance_x: 1e-9, beta_y: 1, emittance_y: 1e-9, beta_t: 1, emittance_t: 1e-7}
line:
  elements:
    no: &quadrupole {kind: Quadrupole, length: 0.1, k1: 010}
    off: {<<: *quadrupole, k1: -10}
  sequence: [&pair [no, off], *pair]
"""
    job = runfile.load(run_file(tmp_path, text))
    assert [e.name for e in job.line] == ["no", "off", "no", "off"]
    assert job.line["no"].k1 == 10.0
    assert job.line["off"].k1 == -10.0
    assert len(job.beam()) == 100


def test_losses_are_listed(tmp_path: Path) -> None:
    text = RUN.replace("    d: {", "    hole: {kind: Aperture, x_max: 1e-5, y_max: 1e-5}\n    d: {")
    text = text.replace("    - qf", "    - hole")
    result = betatron("run", run_file(tmp_path, text))
    assert result.exit_code == 0
    assert "particles were lost:" in result.output
    assert "aperture" in result.output


# --- errors ---------------------------------------------------------------------------------------


def line_with(text: str) -> int:
    """Number of the line of RUN that holds a text."""
    return next(i for i, line in enumerate(RUN.splitlines(), 1) if text in line)


CHANGES: list[tuple[str, str, str]] = [
    # what stands in the file, what is written instead, the message
    (
        "beam:\n",
        "beams:\n",
        "beams is not a known key (did you mean beam?); allowed: line, beam, reference, track, "
        "output",
    ),
    ("  species: electron\n", "", "reference needs the key species"),
    ("electron", "elektron", "reference.species: .*elektron"),
    ("electron", "3", "reference.species must be text, got a number 3"),
    (
        "species: electron",
        "species: {name: X, mass: -1.0, charge: 1}",
        "reference.species.mass: .*mass",
    ),
    ("species: electron", "species: {name: X, charge: 1}", "reference.species needs the key mass"),
    ("1.0e9", "-1.0e9", "reference.kinetic_energy: .*-1e\\+09.*> 0"),
    ("1.0e9", "1 GeV", "reference.kinetic_energy must be a number, got text '1 GeV'"),
    ("1.0e9", ".nan", "reference.kinetic_energy = nan is not allowed; allowed: any finite number"),
    ("1.0e9", "true", "reference.kinetic_energy must be a number, got true or false True"),
    ("1.0e9", "", "reference.kinetic_energy must be a number, got nothing"),
    (
        "  kinetic_energy: 1.0e9\n",
        "",
        "reference needs exactly one of kinetic_energy, .*; got none",
    ),
    (
        "1.0e9",
        "1.0e9\n  gamma: 2",
        "reference needs exactly one of .*; got kinetic_energy and gamma",
    ),
    (
        "kinetic_energy",
        "energy",
        "reference.energy is not a known key \\(did you mean .*kinetic_energy",
    ),
    ("Gaussian", "Gausian", "beam.distribution = 'Gausian' is not known (did you mean Gaussian"),
    ("  distribution: Gaussian\n", "", "beam needs the key distribution"),
    ("  n: 200\n", "", "beam needs the key n"),
    ("n: 200", "n: 2.5", "beam.n must be a whole number, got a number 2.5"),
    ("n: 200", "n: -1", "beam.n = -1 is not allowed; allowed: >= 0"),
    ("n: 200", "n: many", "beam.n must be a whole number, got text 'many'"),
    ("n: 200", "n: 200\n  seed: -3", "beam.seed = -3 is not allowed; allowed: >= 0"),
    (
        "n: 200",
        "n: 200\n  precision: half",
        "beam.precision = 'half' is not known; allowed: double, single",
    ),
    ("charge: 1e-12", "charge: -1e-12", "beam.charge = -1e-12 is not allowed; allowed: >= 0"),
    ("charge:", "chrage:", "beam.chrage is not a known key (did you mean charge"),
    ("  twiss:\n", "  twis:\n", "beam.twis is not a known key (did you mean twiss"),
    ("    beta_x: 2.0\n", "", "beam.twiss needs the key beta_x"),
    ("beta_x: 2.0", "beta_x: -2.0", "beam.twiss.beta_x: Gaussian.from_twiss: .*beta_x = -2"),
    (
        "beta_x: 2.0",
        "beta_x: wide",
        "beam.twiss.beta_x: Gaussian.from_twiss: beta_x must be a number",
    ),
    ("beta_x: 2.0", "betax: 2.0", "beam.twiss.betax is not a known key (did you mean beta_x"),
    ("beta_x: 2.0", "beta_x: 2.0\n    cut_x: -1", "beam.twiss.cut_x: .*cut_x"),
    (
        "n: 200",
        "n: 200\n  ellipse: {}",
        "beam needs exactly one of twiss, ellipse, covariance; got twiss and ellipse",
    ),
    ("charge: 1e-12", "file: x.h5", "beam.distribution cannot be given together with file"),
    ("name: cell", "name: [1]", "line.name must be text, got a list [1]"),
    (
        "{kind: Drift,",
        "{kind: Drfit,",
        "line.elements.d.kind = 'Drfit' is not known (did you mean Drift",
    ),
    ("{kind: Drift,", "{", "line.elements.d needs the key kind"),
    (
        "length: 0.3}",
        "lenght: 0.3}",
        "line.elements.d.lenght is not a known key (did you mean length",
    ),
    (", length: 0.3}", "}", "line.elements.d.*Drift 'd' needs length"),
    ("k1: -2\n", "k1: .inf\n", "line.elements.qd.k1: Quadrupole 'qd': k1 = inf is not finite"),
    (
        "k1: -2\n",
        "k1: strong\n",
        "line.elements.qd.k1: Quadrupole 'qd': k1 must be a number, got str 'strong'",
    ),
    (
        "k1: -2\n",
        "model: thin\n",
        "line.elements.qd.model: .*model = 'thin' is not known; allowed: linear",
    ),
    (
        "    d: {kind: Drift, length: 0.3}",
        "    d: 0.3",
        "line.elements.d must be a section with keys and values, got a number 0.3",
    ),
    ("    d: {kind", "    3: {kind", "line.elements the key 3 must be text"),
    ("    - qf\n", "    - qff\n", "line.sequence[1] = 'qff' is no element (did you mean qf"),
    ("[qd, d]", "[qd, e]", "line.sequence[0].line[2][1] = 'e' is no element"),
    ("    - qf\n", "    - 3\n", "line.sequence[1] must be the name of an element, a list or"),
    ("repeat: 2", "repeat: -2", "line.sequence[0].repeat = -2 is not allowed; allowed: >= 0"),
    ("repeat: 2", "times: 2", "line.sequence[0].times is not a known key"),
    (
        "repeat: 2",
        "repeat: 1e9",
        "line.sequence[0].line makes the line longer than 10,000,000 elements",
    ),
]


@pytest.mark.parametrize(
    ("old", "new", "message"), CHANGES, ids=[c[1].strip() or "no " + c[0] for c in CHANGES]
)
def test_what_is_wrong_is_named_with_its_line(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    assert RUN.count(old) >= 1
    file = run_file(tmp_path, RUN.replace(old, new, 1))
    pattern = message if ".*" in message or "\\" in message else re.escape(message)
    with pytest.raises(runfile.RunFileError, match=rf"run\.yaml:\d+: {pattern}") as caught:
        runfile.load(file)
    result = betatron("run", file)
    assert result.exit_code == 2
    assert str(caught.value) in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("track: {turns: -1}", "track.turns = -1 is not allowed"),
        ("track: {turn: 1}", "track.turn is not a known key (did you mean turns"),
        ("track: {backward: 1}", "track.backward must be true or false, got a number 1"),
        ("track: {threads: 0}", "track.threads = 0 is not allowed; allowed: >= 1"),
        ("track: {record: qff}", "track.record: no element is named 'qff'; did you mean 'qf'?"),
        (
            "track: {record: {a: 1}}",
            "track.record must be all, ends, null or names of elements, got a section",
        ),
        ("track: {record: [qf, 2]}", "track.record must be all, ends, null or names"),
        ("track: {boundary: closed}", "track.boundary = 'closed' is not known; allowed: open"),
        (
            "track: {boundary: periodic}",
            "track.boundary = 'periodic' needs a bucket_length [m] > 0",
        ),
        (
            "track: {boundary: periodic, bucket_length: 1, backward: true}",
            "track.boundary = 'periodic' is not possible backward",
        ),
        ("track: {bucket_length: 1}", "track.bucket_length has no effect on an open boundary"),
        ("track: {bucket_length: -1}", "track.bucket_length = -1 is not allowed; allowed: >= 0"),
        ("track: 3", "track must be a section with keys and values, got a number 3"),
        ("track:", "track must be a section with keys and values, got nothing"),
        ("output: {}", "output needs the key directory"),
        ("output: {directory: 3}", "output.directory must be text, got a number 3"),
        (
            "output: {directory: a, beam: b.txt}",
            "output.beam = 'b.txt' is not allowed; allowed: false, or a file name ending",
        ),
        ("output: {directory: a, beam: ../b.h5}", "output.beam = '../b.h5' is not allowed"),
        (
            "output: {directory: a, moments: true}",
            "output.moments must be text, got true or false True",
        ),
        (
            "output: {directory: a, plots: [enveloppe]}",
            "output.plots = text 'enveloppe' is not known (did you mean envelope",
        ),
        ("output: {directory: a, plots: some}", "output.plots must be true, false or a list"),
        ("beam: {}", "is not YAML: found duplicate key"),
        ("track: [", "is not YAML:"),
        ("track: {turns: 1\n", "is not YAML:"),
        ("\ttrack: 1", "is not YAML:"),
    ],
)
def test_wrong_sections_behind_the_others(tmp_path: Path, extra: str, message: str) -> None:
    file = run_file(tmp_path, RUN + extra + "\n")
    with pytest.raises(runfile.RunFileError) as caught:
        runfile.load(file)
    text = str(caught.value)
    assert message in text
    number = int(text.removeprefix(f"{file}:").partition(":")[0])
    assert (
        len(RUN.splitlines()) - (1 if "duplicate" in message else 0) < number
        or "duplicate" in message
    )
    assert betatron("run", file).exit_code == 2


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("kinetic_energy", "-1"),
        ("n: 200", "n: x"),
        ("k1: -2", "k1: x"),
        ("    - qf", "    - x"),
        ("[qd, d]", "[qd, x]"),
    ],
)
def test_line_numbers_are_right(tmp_path: Path, text: str, line: str) -> None:
    new = "kinetic_energy: -1 #" if text == "kinetic_energy" else line
    if text == "[qd, d]":
        new = "[qd, x]"
    file = run_file(tmp_path, RUN.replace(text, new, 1))
    with pytest.raises(runfile.RunFileError, match=rf"run\.yaml:{line_with(text)}: "):
        runfile.load(file)


def test_files_that_are_no_run_files(tmp_path: Path) -> None:
    for text in ("", "- a\n- b\n", "just text\n", "3\n"):
        with pytest.raises(runfile.RunFileError, match=r"run\.yaml:1: the file must be a section"):
            runfile.load(run_file(tmp_path, text))
    with pytest.raises(runfile.RunFileError, match="the file needs the key line"):
        runfile.load(run_file(tmp_path, "beam: {}\n"))
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(runfile.RunFileError, match="is not UTF-8 text"):
        runfile.load(binary)
    (tmp_path / "control.yaml").write_text("a: \x01\n")
    with pytest.raises(runfile.RunFileError, match="is not YAML"):
        runfile.load(tmp_path / "control.yaml")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    result = betatron("run", tmp_path / "none.yaml")
    assert result.exit_code == 2
    assert "none.yaml" in result.stderr
    assert betatron("run", tmp_path).exit_code == 2


def test_beams_that_are_not_there(tmp_path: Path) -> None:
    line = RUN[RUN.index("line:") :]
    with pytest.raises(
        runfile.RunFileError, match=r"run\.yaml:1: beam\.file = '.*none\.h5' does not exist"
    ):
        runfile.load(run_file(tmp_path, "beam: {file: none.h5}\n" + line))
    (tmp_path / "some.h5").write_bytes(b"no HDF5")
    file = run_file(tmp_path, "reference: {}\nbeam: {file: some.h5}\n" + line)
    with pytest.raises(
        runfile.RunFileError, match=r"run\.yaml:1: reference is not allowed with beam\.file"
    ):
        runfile.load(file)
    file = run_file(tmp_path, "beam: {file: some.h5}\n" + line)
    result = betatron("run", file)
    assert result.exit_code == 1
    assert result.stderr.startswith("betatron: ")
    text = RUN[: RUN.index("reference:")] + RUN[RUN.index("beam:") :]
    with pytest.raises(runfile.RunFileError, match="the section reference is missing"):
        runfile.load(run_file(tmp_path, text))


def test_files_that_contain_themselves(tmp_path: Path) -> None:
    text = RUN.replace("    - qf\n", "    - &loop\n      - qf\n      - *loop\n")
    with pytest.raises(runfile.RunFileError, match=r"line\.sequence\[1\]\[1\] must be the name"):
        runfile.load(run_file(tmp_path, text))
    text = "line: " + "[" * 5000 + "]" * 5000
    with pytest.raises(runfile.RunFileError, match="is nested too deeply"):
        runfile.load(run_file(tmp_path, text))


def test_a_reference_that_would_stop(tmp_path: Path) -> None:
    text = RUN.replace(
        "    d: {", "    rf: {kind: RFCavity, frequency: 1e9, voltage: -2e9}\n    d: {"
    )
    text = text.replace("    - qf", "    - rf")
    with pytest.raises(
        runfile.RunFileError, match=r"line: RFCavity 'rf' at s = .* stops the reference particle"
    ):
        runfile.load(run_file(tmp_path, text))


@pytest.mark.parametrize(
    "arguments",
    [
        ["--particles", "-1"],
        ["--precision", "half"],
        ["--threads", "0"],
        ["--seed", "x"],
        ["--sead", "1"],
        [],
    ],
)
def test_wrong_options(tmp_path: Path, arguments: list[str]) -> None:
    file = [run_file(tmp_path)] if arguments else []
    result = betatron("run", *file, *arguments)
    assert result.exit_code == 2
    assert "Traceback" not in result.output


def test_interruption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(bt.Line, "track", stop)
    result = betatron("run", run_file(tmp_path), "--output", tmp_path / "out")
    assert result.exit_code == 130
    assert "stopped; nothing was written" in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    result = betatron("run", run_file(tmp_path), "--output", tmp_path / "out")
    assert result.exit_code == 1
    assert "out" in result.stderr
    assert (tmp_path / "out").read_text() == "a file"


def test_documented_run_file_is_complete() -> None:
    """Every key that the loader knows is explained in the guide."""
    guide = Path(__file__).resolve().parents[2] / "docs" / "howto" / "command_line.md"
    text = guide.read_text(encoding="utf-8")
    for key in (
        "reference species kinetic_energy total_energy momentum gamma beta_gamma "
        "beam distribution twiss ellipse covariance n charge seed precision file "
        "line name elements sequence repeat "
        "track turns record record_slices backward first_turn threads boundary bucket_length "
        "output directory moments plots"
    ).split():
        assert f"`{key}`" in text or f"### {key}\n" in text, key
