"""Physics against published results: all cases of tests/reference/cases.json.

The same comparison as `python tests/reference/run.py tests/reference/cases.json`; see the README in
that folder.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

REFERENCE = Path(__file__).resolve().parents[1] / "reference"
sys.path.insert(0, str(REFERENCE))

import run  # noqa: E402  (the runner is a script next to its data, not an installed module)
from facts import Unsupported  # noqa: E402
from quantities import Stages, evaluate, parse, rule_expression  # noqa: E402

FILE: dict[str, Any] = json.loads((REFERENCE / "cases.json").read_text(encoding="utf-8"))
CASES = {case["id"]: case for case in FILE["cases"]}

# Cases whose elements and features exist: they must pass, not merely not fail.
MUST_PASS = [
    "fodo__fodo",
    "fodo__fodo_envelope",
    "fodo__fodo_madx",
    "fodo_userdef__fodo_userdef",
    "fodo_channel__fodo",
    "chicane__chicane_madx",
    "distgen__kvdist_twiss",
    "kurth__kurth_periodic",
    "solenoid__solenoid",
    "solenoid__solenoid_madx",
    "fodo_chromatic__fodo_chr",
    "cfbend__cfbend",
    "compression__compression",
    "kicker__kicker",
    "kicker__kicker_madx",
    "kicker__hvkicker_madx",
    "aperture__absorber",
    "aperture__aperture_periodic",
    "apochromatic__apochromatic",
    "alignment__alignment",
    "dogleg__dogleg",
    "dogleg__dogleg_reverse",
    "dogleg__dogleg_reverse_envelope",
    "linear_map__map",
    "charge_sign__charge_sign",
    "symplectic_integration__exact_quad",
    "symplectic_integration__fodo_multipole",
    "symplectic_integration__sextupole",
    "htu_beamline__impactx",
    "initialize_from_array__from_array",
    "phase_wrapper__phase_wrap",
    "simple_booster__simple_booster",
    "pals__fodo_pals",
    "turn_update__turn_update",
    "optimize_triplet__triplet",
    "polygon_aperture__polygon_aperture",
    "polygon_aperture__polygon_aperture_absorb",
    "polygon_aperture__polygon_aperture_absorb_offset",
    "polygon_aperture__polygon_aperture_absorb_rotate",
    "active_plasma_lens__APL_ConstF_envelope_zero",
    "active_plasma_lens__APL_ConstF_envelope_defocusing",
    "active_plasma_lens__APL_ConstF_tracking_focusing",
    "spin_tracking__quad_spin_rbc",
    "spin_tracking__sbend_spin",
    "incoherent_synchrotron__bend_isr_ref",
    "chicane__chicane_isr",
]

# The same, of small differences that single precision does not resolve.
MUST_PASS_IN_DOUBLE = [
    "spin_tracking__cfbend_spin",
    "spin_tracking__reversibility_spin",
    "spin_tracking__exact_quad_spin_scaling",
    "spin_tracking__exact_sbend_spin_scaling",
    "spin_tracking__spin_map",
]


def _check(name: str, precision: str) -> run.Outcome:
    return run.check_case(CASES[name], FILE["conventions"], run.Options(precision=precision))


@pytest.mark.parametrize("name", CASES)
def test_case_in_double_precision(name: str) -> None:
    outcome = _check(name, "double")
    assert outcome.status != "FAIL", "\n".join([outcome.reason, *outcome.details])
    if name in MUST_PASS + MUST_PASS_IN_DOUBLE:
        assert outcome.status == "PASS", outcome.reason
    elif outcome.status == "UNSUPPORTED":
        pytest.skip(outcome.reason)


@pytest.mark.parametrize("name", MUST_PASS)
def test_optics_case_in_single_precision(name: str) -> None:
    outcome = _check(name, "single")
    assert outcome.status == "PASS", "\n".join([outcome.reason, *outcome.details])


def test_every_name_in_the_list_of_cases_that_must_pass_is_a_case() -> None:
    assert set(MUST_PASS + MUST_PASS_IN_DOUBLE) <= set(CASES)


def _changed(name: str, **changes: Any) -> dict[str, Any]:
    """A deep copy of a case with some of its top-level entries replaced."""
    return {**json.loads(json.dumps(CASES[name])), **changes}


@pytest.mark.parametrize(
    ("change", "status", "reason"),
    [
        ({"expected": []}, "UNSUPPORTED", "no expected number"),
        ({"settings": {"algo.space_charge": "3D"}}, "UNSUPPORTED", "space charge"),
        ({"settings": {"algo.new_physics": True}}, "UNSUPPORTED", "algo.new_physics"),
        ({"python_hooks": ["before_slice"]}, "UNSUPPORTED", "before_slice"),
        ({"tracking_mode": "backwards"}, "UNSUPPORTED", "backwards"),
    ],
)
def test_missing_feature_is_named(change: dict[str, Any], status: str, reason: str) -> None:
    outcome = run.check_case(_changed("kicker__kicker", **change), {}, run.Options())
    assert outcome.status == status
    assert reason in outcome.reason


def test_wrong_expected_number_fails() -> None:
    case = _changed("kicker__kicker")
    case["expected"][0]["quantities"]["sigma_x"] *= 1.5
    outcome = run.check_case(case, {}, run.Options(particles="case"))
    assert outcome.status == "FAIL"
    assert "initial sigma_x" in outcome.reason


def test_unknown_quantity_is_not_passed_over() -> None:
    case = _changed("kicker__kicker")
    case["expected"][0]["quantities"]["brilliance"] = 1.0
    outcome = run.check_case(case, {}, run.Options(particles="case"))
    assert outcome.status == "UNSUPPORTED"
    assert "brilliance" in outcome.reason


def test_unknown_element_parameter_is_not_passed_over() -> None:
    case = _changed("fodo__fodo")
    case["lattice"]["elements"]["quad1"]["saturation"] = 0.1
    outcome = run.check_case(case, {}, run.Options(particles="case"))
    assert outcome.status == "UNSUPPORTED"
    assert "saturation of Quad" in outcome.reason


def test_broken_lattice_fails_with_the_name_of_the_element() -> None:
    case = _changed("fodo__fodo")
    case["lattice"]["sequence"].append("quad9")
    outcome = run.check_case(case, {}, run.Options(particles="case"))
    assert outcome.status == "FAIL"
    assert "quad9" in outcome.reason


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("sigma_x", ""),
        ("sigpt", ""),
        ("px_meani", "initial"),
        ("gammaf", "final"),
        ("final_gamma_ref", "final"),
        ("s_final", "final"),
        ("sigma_px.iloc[0]", "start"),
        ("sigma_px.iloc[-1]", "end"),
        ("total_s", "run"),
        ("tunex", "run"),
    ],
)
def test_published_names_are_understood(name: str, stage: str) -> None:
    assert parse(name, CASES["fodo__fodo"]).stage == stage


@pytest.mark.parametrize("name", ["luminosity", "sigma_q", "alpha_px", "x'", "__import__('os')"])
def test_unknown_names_are_refused(name: str) -> None:
    with pytest.raises(Unsupported, match="quantity"):
        parse(name, CASES["fodo__fodo"])


def test_tolerance_rules_are_arithmetic_and_nothing_else() -> None:
    rule = "0.05 * emittance_x / sigma_x  (0.05 = 5/sqrt(10000), about 1.5e-5)"
    assert rule_expression(rule) == "0.05 * emittance_x / sigma_x"
    assert evaluate("3.0 * n ** (-0.5) * sqrt(s)", {"n": 100.0, "s": 4.0}) == pytest.approx(0.6)
    for expression in ("__import__('os')", "a.b", "[1]", "a if b else c", "'x'"):
        with pytest.raises(Unsupported):
            evaluate(expression, {"a": 1, "b": 1, "c": 1})


def test_stage_rules_of_the_file_are_read() -> None:
    def series(name: str) -> dict[str, str]:
        stages = Stages(CASES[name], FILE["conventions"])
        return {stage: found.name for stage, found in stages.series.items()}

    assert series("fodo__fodo") == {}
    assert series("htu_beamline__impactx") == {
        "initial": "TCPhosphor",
        "final": "UC_VisaEBeam8",
    }
    assert series("symplectic_integration__exact_quad") == {"initial": "monitor"}


@pytest.mark.parametrize(
    "arguments", [["no_such_file.json"], [str(REFERENCE / "README.md")], ["{}", "--case", "x"]]
)
def test_unusable_input_exits_with_status_2(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if arguments[0] == "{}":
        file = tmp_path / "cases.json"
        file.write_text('{"cases": []}', encoding="utf-8")
        arguments[0] = str(file)
    with pytest.raises(SystemExit) as exit_status:
        run.main(arguments)
    assert exit_status.value.code == 2
    assert "error" in capsys.readouterr().err
