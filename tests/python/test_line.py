"""Lines: how they are put together, named access, live parameters, dictionary form, tracking."""

from __future__ import annotations

import io
import math
from typing import Any

import betatron as bt
import numpy as np
import pandas as pd
import pytest
from betatron.line import _Progress
from hypothesis import given
from hypothesis import strategies as st

COORDINATES = ("x", "px", "y", "py", "t", "pt")


def reference(**energy: float) -> bt.Reference:
    return bt.Reference("electron", **(energy or {"kinetic_energy": 1e8}))


def one_particle(**z: float) -> bt.Beam:
    return bt.Beam.from_arrays(reference(), **{name: [z.get(name, 0.0)] for name in COORDINATES})


def make_beam(n: int = 200, seed: int = 1) -> bt.Beam:
    shape = bt.Gaussian.from_twiss(
        beta_x=2, emittance_x=1e-8, beta_y=2, emittance_y=1e-8, beta_t=1, emittance_t=1e-8
    )
    return bt.Beam(reference(), shape, n=n, seed=seed)


def elements() -> tuple[bt.Element, ...]:
    return (
        bt.Quadrupole(0.2, k1=2.0, name="qf"),
        bt.Drift(0.3, name="d"),
        bt.Quadrupole(0.2, k1=-2.0, name="qd"),
    )


def cell() -> bt.Line:
    qf, d, qd = elements()
    return bt.Line([qf, d, qd, d], name="cell")


# --- putting lines together -----------------------------------------------------------------------


def test_nested_lines_are_flattened() -> None:
    qf, d, qd = elements()
    inner = bt.Line([qf, d])
    line = bt.Line([inner, [qd, (d, [inner])], iter([qd])])
    assert list(line) == [qf, d, qd, d, qf, d, qd]
    assert len(line) == 7
    assert line.length == pytest.approx(0.2 + 0.3 + 0.2 + 0.3 + 0.2 + 0.3 + 0.2)


def test_repetition_and_sums_are_lines_of_the_same_elements() -> None:
    qf, d, qd = elements()
    line = 2 * bt.Line([qf, d], name="half")
    assert [id(e) for e in line] == [id(qf), id(d), id(qf), id(d)]
    assert line.name == "half"
    assert list(bt.Line([qf, d]) * 2) == list(line)
    assert list(line + qd) == [qf, d, qf, d, qd]
    assert list(line + bt.Line([qd, d])) == [qf, d, qf, d, qd, d]
    assert len(0 * line) == 0
    assert len(line) == 4  # not changed by what was made of it


@pytest.mark.parametrize("times", [1.5, "2", True, None])
def test_repetition_needs_a_whole_number(times: Any) -> None:
    with pytest.raises(TypeError, match="repeated a whole number of times"):
        cell() * times


def test_repetition_cannot_be_negative() -> None:
    with pytest.raises(ValueError, match=r"repeated -1 times; allowed: >= 0"):
        cell() * -1


def test_reversal() -> None:
    qf, d, qd = elements()
    line = bt.Line([qf, d, qd], name="l")
    assert list(line.reversed()) == [qd, d, qf]
    assert list(reversed(line)) == [qd, d, qf]
    assert line.reversed().name == "l"
    assert line.reversed().reversed() == line


def test_access_by_position_and_slice() -> None:
    line = cell()
    assert line[0] is line["qf"]
    assert line[-1] is line[1]
    assert isinstance(line[1:3], bt.Line)
    assert [e.name for e in line[1:3]] == ["d", "qd"]
    assert [e.name for e in line[::-1]] == ["d", "qd", "d", "qf"]
    for bad in (4, -5):
        with pytest.raises(IndexError, match=f"element {bad} of a line of 4 elements"):
            line[bad]


def test_access_by_name() -> None:
    line = cell()
    assert line["qd"].k1 == -2.0
    assert line["d"] is line[3]  # twice in the line, but one element
    assert "qd" in line
    assert "qx" not in line
    assert line["qd"] in line
    assert bt.Quadrupole(0.2, k1=-2.0, name="qd") not in line  # equal, but another knob
    assert line.positions("d") == [1, 3]
    assert line.positions(line["qf"]) == [0]
    line.elements.clear()  # a list of its own
    assert [e.name for e in line.elements] == ["qf", "d", "qd"]
    with pytest.raises(KeyError, match="no element is named 'qff'; did you mean 'qf'"):
        line["qff"]
    two = bt.Line([bt.Drift(1.0, name="d"), bt.Drift(2.0, name="d")])
    with pytest.raises(
        KeyError, match=r"2 different elements are named 'd', at positions \[0, 1\]"
    ):
        two["d"]


@pytest.mark.parametrize("item", ["qf", b"qf", 1.0, None, {"kind": "Drift"}])
def test_only_elements_make_a_line(item: Any) -> None:
    with pytest.raises(TypeError, match=r"line 'l'\[1\]: expected an element, a line or a list"):
        bt.Line([bt.Drift(1.0), item], name="l")


def test_equality_and_text() -> None:
    assert cell() == cell()
    assert cell() != cell().reversed()
    assert cell() != [*cell()]
    text = repr(cell())
    assert text.startswith("Line 'cell': 4 elements, 1 m")
    assert "0  Quadrupole(length=0.2, k1=2.0, name='qf')" in text
    long = repr(100 * cell())
    assert "..." in long
    assert len(long.splitlines()) == 13
    assert "399  Drift" in long


def test_empty_lines() -> None:
    line = bt.Line([])
    assert len(line) == 0
    assert line.length == 0.0
    beam = make_beam(3)
    before = beam.array.copy()
    track = line.track(beam, record="all")
    assert np.array_equal(beam.array, before)
    assert len(track.moments) == 1


# --- live parameters ------------------------------------------------------------------------------


def test_a_changed_parameter_takes_effect_everywhere() -> None:
    line = 3 * bt.Line([bt.Kicker(hkick=1e-3, name="k"), bt.Drift(1.0, model="linear")])
    other = bt.Line([line["k"]])
    line["k"].hkick = 2e-3
    assert line[4].hkick == 2e-3
    beam = one_particle()
    line.track(beam)
    assert beam.px[0] == pytest.approx(6e-3)
    assert beam.x[0] == pytest.approx((1 + 2 + 3) * 2e-3)
    other.track(beam)
    assert beam.px[0] == pytest.approx(8e-3)


def test_parameters_are_read_when_tracking_starts() -> None:
    quadrupole = bt.Quadrupole(0.1, k1=0.0, model="linear")
    line = bt.Line([quadrupole])
    angles = []
    for k1 in (0.0, 1.0, -1.0, 4.0):
        quadrupole.k1 = k1
        beam = one_particle(x=1e-3)
        line.track(beam)
        w = math.sqrt(abs(k1)) if k1 else 1.0
        expected = -w * math.sin(w * 0.1) * 1e-3 if k1 > 0 else w * math.sinh(w * 0.1) * 1e-3
        assert beam.px[0] == pytest.approx(0.0 if k1 == 0 else expected, rel=1e-12)
        angles.append(beam.px[0])
    assert len(set(angles)) == 4


def test_a_slice_of_a_line_shares_its_elements() -> None:
    line = cell()
    line[0:1]["qf"].k1 = 7.0
    assert line["qf"].k1 == 7.0


def test_elements_outlive_their_line() -> None:
    quadrupole = cell()["qf"]
    quadrupole.k1 = 3.0
    assert quadrupole.k1 == 3.0


# --- dictionary form ------------------------------------------------------------------------------

names = st.sampled_from(["", "a", "b", "c c"])
any_element = st.one_of(
    st.builds(lambda n, x: bt.Drift(x, name=n), names, st.floats(0, 2)),
    st.builds(
        lambda n, x, k: bt.Quadrupole(x, k1=k, name=n), names, st.floats(0, 2), st.floats(-9, 9)
    ),
    st.builds(
        lambda n, k: bt.Multipole(knl=k, name=n), names, st.lists(st.floats(-1, 1), max_size=4)
    ),
    st.builds(lambda n: bt.Marker(name=n, slices=2), names),
)


@given(st.data())
def test_dictionary_form_returns_the_line(data: st.DataObject) -> None:
    pool = data.draw(st.lists(any_element, max_size=5))
    chosen = data.draw(st.lists(st.sampled_from(pool), max_size=12)) if pool else []
    line = bt.Line(chosen, name=data.draw(names))
    form = line.to_dict()
    again = bt.Line.from_dict(form)
    assert again.name == line.name
    assert len(again) == len(line)
    assert len(again.elements) == len(line.elements)  # what was one element is one again
    for new, old in zip(again, line, strict=True):
        assert new.parameters() == old.parameters()
        assert old.name == new.name  # also where there is none
    assert again == line


def test_dictionary_form_is_plain() -> None:
    assert cell().to_dict() == {
        "name": "cell",
        "elements": {
            "qf": {"kind": "Quadrupole", "length": 0.2, "k1": 2.0, "name": "qf"},
            "d": {"kind": "Drift", "length": 0.3, "name": "d"},
            "qd": {"kind": "Quadrupole", "length": 0.2, "k1": -2.0, "name": "qd"},
        },
        "sequence": ["qf", "d", "qd", "d"],
    }


def test_sequences_may_be_nested_and_repeated() -> None:
    line = bt.Line.from_dict(
        {
            "elements": {"a": {"kind": "Marker"}, "b": {"kind": "Drift", "length": 1.0}},
            "sequence": ["a", ["b", {"repeat": 2, "line": ["a", ["b"]]}], {"line": ["a"]}],
        }
    )
    assert [e.name for e in line] == ["a", "b", "a", "b", "a", "b", "a"]
    assert len(line.elements) == 2


@pytest.mark.parametrize(
    ("elements", "sequence", "error", "message"),
    [
        ({"a": {"kind": "Drfit", "length": 1}}, [], KeyError, "element 'a'.*did you mean Drift"),
        ({"a": {"kind": "Drift"}}, [], TypeError, "element 'a'.*needs length"),
        ({"a": {"kind": "Drift", "length": math.nan}}, [], ValueError, "element 'a'.*not finite"),
        ({}, ["a"], KeyError, r"sequence\[0\]: no element is named 'a'"),
        (
            {"ab": {"kind": "Marker"}},
            ["ab", ["abc"]],
            KeyError,
            r"sequence\[1\]\[0\].*did you mean 'ab'",
        ),
        ({}, [{"repeat": 2}], KeyError, r"sequence\[0\]: a repeated line has the keys"),
        (
            {},
            [{"repeat": 2, "lines": []}],
            KeyError,
            r"sequence\[0\]: a repeated line has the keys",
        ),
        ({}, [{"repeat": -1, "line": []}], ValueError, r"sequence\[0\].repeat = -1 is not allowed"),
        (
            {},
            [{"repeat": 1.5, "line": []}],
            TypeError,
            r"sequence\[0\].repeat must be a whole number",
        ),
        ({}, [3], TypeError, r"sequence\[0\]: expected a key, a list or a repeated line, got 3"),
    ],
)
def test_errors_in_dictionary_forms(
    elements: dict[str, Any], sequence: list[Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        bt.Line.from_dict({"elements": elements, "sequence": sequence})


@pytest.mark.parametrize(
    ("form", "error", "message"),
    [
        ([], TypeError, "made from a dictionary, not from list"),
        ({"sequence": []}, KeyError, "the key elements is missing"),
        ({"elements": {}}, KeyError, "the key sequence is missing"),
        ({"elements": {}, "sequence": [], "particle": 1}, KeyError, "'particle' is not a known"),
        ({"elements": [], "sequence": []}, TypeError, "elements must be a dictionary"),
        ({"elements": {"a": {"kind": "Marker"}}, "sequence": "a"}, TypeError, "must be a list"),
        ({"elements": {"a": "Marker"}, "sequence": []}, TypeError, "'a' must be a dictionary"),
        ({"elements": {}, "sequence": [{"line": "ab"}]}, TypeError, r"\[0\].line must be a list"),
    ],
)
def test_what_is_no_dictionary_form(form: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        bt.Line.from_dict(form)


def test_names_of_elements_and_of_keys_are_not_mixed_up() -> None:
    line = bt.Line([bt.Drift(1.0), bt.Quadrupole(0.1, k1=2.0, name="drift_0")])
    again = bt.Line.from_dict(line.to_dict())
    assert again == line
    assert again["drift_0"].kind == "Quadrupole"


# --- reference orbit and matrix -------------------------------------------------------------------


def test_survey_of_a_bend() -> None:
    table = bt.Line([bt.Bend(length=1.0, angle=math.pi / 2, name="b")]).survey()
    assert list(table["name"]) == ["start", "b"]
    end = table.iloc[-1]
    radius = 2 / math.pi
    assert (end["x"], end["y"], end["z"]) == pytest.approx((-radius, 0.0, radius))
    assert end["theta"] == pytest.approx(-math.pi / 2)
    assert end["s"] == 1.0


def test_survey_starts_at_the_reference() -> None:
    start = bt.Reference("proton", kinetic_energy=1e9, s=3.0, position=(1.0, 2.0, 4.0))
    table = bt.Line([bt.Drift(1.0)]).survey(start)
    assert list(table["s"]) == [3.0, 4.0]
    assert list(table["z"]) == [4.0, 5.0]
    assert table["y"].iloc[1] == 2.0


def test_matrix_of_a_drift() -> None:
    ref = reference()
    expected = np.eye(6)
    expected[0, 1] = expected[2, 3] = 2.0
    expected[4, 5] = 2.0 / ref.beta_gamma**2
    assert bt.Line([bt.Drift(2.0)]).matrix(ref) == pytest.approx(expected)
    assert ref.s == 0.0  # the reference that was given does not move


# --- recording ------------------------------------------------------------------------------------


def test_what_is_recorded() -> None:
    line = 2 * cell()

    def places(record: Any) -> list[int]:
        return list(line.track(make_beam(10), record=record).moments["element"])

    assert places(None) == []
    assert places("all") == list(range(-1, 8))
    assert places("ends") == [-1, 7]
    assert places("qd") == [2, 6]
    assert places(["qd", line[0]]) == [0, 2, 4, 6]
    assert places("q.") == [0, 2, 4, 6]
    assert places(line["d"]) == [1, 3, 5, 7]
    assert places([]) == []


def test_names_come_before_regular_expressions() -> None:
    line = bt.Line([bt.Marker(name="a.c"), bt.Marker(name="abc")])
    assert list(line.track(make_beam(2), record="a.c").moments["name"]) == ["a.c"]
    assert list(line.track(make_beam(2), record="ab?c").moments["name"]) == ["abc"]


def test_records_are_moments_of_the_beam() -> None:
    beam = make_beam()
    initial = beam.moments()
    track = cell().track(beam, record="ends")
    columns = ["turn", "element", "slice", "name", "kind", *initial.index]
    assert list(track.moments.columns) == columns
    first, last = track.moments.iloc[0], track.moments.iloc[-1]
    assert (first["name"], last["name"], last["kind"]) == ("start", "d", "Drift")
    for name in initial.index:
        assert first[name] == pytest.approx(initial[name], rel=1e-12, nan_ok=True)
        # sums in another order
        assert last[name] == pytest.approx(beam.moments()[name], rel=1e-9, abs=1e-22, nan_ok=True)
    assert track.covariances.shape == (2, 6, 6)
    assert track.covariances[-1] == pytest.approx(beam.covariance(), rel=1e-9, abs=1e-25)


def test_slices_are_recorded_on_request() -> None:
    line = cell()
    line["qf"].slices = 4
    track = line.track(make_beam(10), record=["qf"], record_slices=True)
    assert list(track.moments["slice"]) == [0, 1, 2, 3]
    assert list(track.moments["s"]) == pytest.approx([0.05, 0.1, 0.15, 0.2])
    assert len(line.track(make_beam(10), record=["qf"]).moments) == 1


def test_turns_are_counted() -> None:
    track = cell().track(make_beam(10), turns=3, record="qf", first_turn=10)
    assert list(track.moments["turn"]) == [10, 11, 12]
    assert list(track.moments["s"]) == pytest.approx([0.2, 1.2, 2.2])
    beam = make_beam(10)
    before = beam.array.copy()
    cell().track(beam, turns=0)
    assert np.array_equal(beam.array, before)


def test_records_do_not_change_the_beam() -> None:
    plain, recorded = make_beam(), make_beam()
    (5 * cell()).track(plain)
    (5 * cell()).track(recorded, record="all")
    assert np.array_equal(plain.array, recorded.array)


@pytest.mark.parametrize(
    ("record", "error", "message"),
    [
        ("qff", KeyError, "no element is named 'qff'; did you mean 'qf'"),
        (["qf", "qe"], KeyError, "no element is named 'qe'"),
        ("(", ValueError, r"record='\(' is no name in the line and no regular expression"),
        ([3], TypeError, "record takes names, regular expressions and elements, not 3"),
        (3, TypeError, "."),
    ],
)
def test_wrong_records(record: Any, error: type[Exception], message: str) -> None:
    beam = make_beam(5)
    before = beam.array.copy()
    with pytest.raises(error, match=message):
        cell().track(beam, record=record)
    assert np.array_equal(beam.array, before)


def test_an_element_of_another_line_is_not_recorded() -> None:
    with pytest.raises(KeyError, match=r"Drift\(length=1.0\) does not stand in the line"):
        cell().track(make_beam(5), record=bt.Drift(1.0))


# --- tracking -------------------------------------------------------------------------------------


@pytest.mark.parametrize("turns", [1, 3])
def test_backward_undoes_forward(turns: int) -> None:
    bend = bt.Bend(length=0.5, angle=0.2, e1=0.1, e2=0.1)
    cavity = bt.RFCavity(voltage=1e6, frequency=3e9, phase=-0.3)
    line = cell() + bt.Line([bend, cavity, bt.Sextupole(0.1, k2=10.0)])
    beam = make_beam()
    start, place = beam.copy(), beam.reference.position
    line.track(beam, turns)
    assert not np.allclose(beam.array, start.array, rtol=1e-3)
    assert beam.reference.s == pytest.approx(turns * line.length)
    line.track(beam, turns, backward=True)
    assert np.allclose(beam.array, start.array, rtol=1e-9, atol=1e-15)
    assert beam.reference.s == pytest.approx(0.0, abs=1e-14)
    assert beam.reference.gamma == pytest.approx(start.reference.gamma, rel=1e-14)
    assert np.allclose(beam.reference.position, place, atol=1e-14)


def test_the_beam_moves_and_the_track_holds_it() -> None:
    beam = make_beam()
    track = cell().track(beam)
    assert track.beam is beam
    assert track.n_lost == 0
    assert len(track.moments) == 0
    assert beam.reference.s == pytest.approx(1.0)
    assert "200 particles at s = 1 m, 0 lost" in repr(track)


@pytest.mark.parametrize("n", [0, 1])
def test_no_and_one_particle(n: int) -> None:
    beam = make_beam(n)
    track = cell().track(beam, record="all")
    assert len(beam) == n
    assert list(track.moments["n"]) == [n] * 5
    assert beam.reference.s == pytest.approx(1.0)


def test_results_do_not_depend_on_threads() -> None:
    one, two = make_beam(20_000), make_beam(20_000)
    a = (5 * cell()).track(one, record="ends", threads=1)
    b = (5 * cell()).track(two, record="ends", threads=2)
    assert np.array_equal(one.array, two.array)
    pd.testing.assert_frame_equal(a.moments, b.moments, check_exact=True)


def test_lost_particles_are_listed() -> None:
    line = bt.Line([bt.Drift(1.0), bt.Aperture(x_max=1e-3, y_max=1e-3, name="hole")])
    beam = bt.Beam.from_arrays(
        reference(),
        x=[0.0, 2e-3, 0.0],
        px=[0] * 3,
        y=[0] * 3,
        py=[0.0, 0.0, 2e-3],
        t=[0] * 3,
        pt=[0] * 3,
    )
    track = line.track(beam, turns=2, first_turn=5)
    assert track.n_lost == 2
    assert list(beam.id) == [0]
    lost = track.lost
    assert list(lost["id"]) == [1, 2]
    assert set(lost["turn"]) == {5}
    assert set(lost["element"]) == {1}
    assert set(lost["element_name"]) == {"hole"}
    assert set(lost["reason"]) == {"aperture"}
    assert list(lost["s"]) == [1.0, 1.0]
    assert list(lost["y"]) == pytest.approx([0.0, 2e-3])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"turns": -1}, ValueError, "turns = -1 is not allowed; allowed: >= 0"),
        ({"turns": 1.5}, TypeError, "turns must be a whole number, got float 1.5"),
        ({"turns": True}, TypeError, "turns must be a whole number, got bool True"),
        ({"threads": 0}, ValueError, "threads = 0 is not allowed; allowed: >= 1"),
        ({"threads": "2"}, TypeError, "threads must be a whole number"),
        ({"first_turn": None}, TypeError, "first_turn must be a whole number"),
        ({"progress": 3}, TypeError, "progress must be True, False, None or a function, got 3"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    beam = make_beam(5)
    before = beam.array.copy()
    with pytest.raises(error, match=message):
        cell().track(beam, **arguments)
    assert np.array_equal(beam.array, before)


def test_only_beams_are_tracked() -> None:
    with pytest.raises(TypeError, match=r"track\(\) needs a betatron.Beam, got ndarray"):
        cell().track(np.zeros((6, 10)))


def test_a_stopped_reference_is_an_error_before_tracking() -> None:
    cavity = bt.RFCavity(voltage=2e8, frequency=1e9, phase=math.pi, name="brake")
    beam = make_beam(5)
    before = beam.array.copy()
    with pytest.raises(
        ValueError, match=r"RFCavity 'brake' at s = .* stops the reference particle"
    ):
        bt.Line([bt.Drift(1.0), cavity]).track(beam)
    assert np.array_equal(beam.array, before)
    assert beam.reference.s == 0.0


# --- progress and interruption --------------------------------------------------------------------


def test_progress_is_reported() -> None:
    parts: list[float] = []
    cell().track(make_beam(), turns=10, progress=parts.append)
    assert parts
    assert parts == sorted(parts)
    assert parts[-1] == 1.0


class Stop(Exception):
    pass


@pytest.mark.parametrize("exception", [KeyboardInterrupt, Stop])
def test_an_interrupted_run_leaves_a_valid_beam(exception: type[BaseException]) -> None:
    # energy changes in every turn, so that turns are tracked, and reported, one by one
    line = cell() + bt.Line([bt.RFCavity(voltage=1e5, frequency=1e9)])

    def progress(part: float) -> None:
        if part >= 0.5:
            raise exception

    beam = make_beam()
    with pytest.raises(exception):
        line.track(beam, turns=10, progress=progress)
    turns = round(beam.reference.s / line.length)
    assert 0 < turns < 10
    expected = make_beam()
    line.track(expected, turns)
    assert np.array_equal(beam.array, expected.array)
    assert beam.reference.gamma == expected.reference.gamma
    line.track(beam, 10 - turns)  # and it can go on
    line.track(expected, 10 - turns)
    assert np.array_equal(beam.array, expected.array)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_bar_appears_only_when_it_is_wanted_or_a_run_is_long() -> None:
    def text(wanted: bool | None, stream: io.StringIO, patience: float = 2.0) -> str:
        bar = _Progress(wanted, stream)
        bar.patience = patience
        with bar as report:
            if report is not None:
                report(0.25)
                report(1.0)
        return stream.getvalue()

    assert "tracking" in text(True, io.StringIO())
    assert text(False, Terminal()) == ""
    assert text(None, io.StringIO(), patience=0.0) == ""
    assert text(None, Terminal()) == ""
    assert "tracking" in text(None, Terminal(), patience=0.0)


def test_tracking_looks_through_the_elements_once(monkeypatch):
    line = bt.Line(elements())
    beam = make_beam(3)
    line.track(beam)

    def scan(self):
        raise AssertionError("a line does not change: what is known of its elements is kept")

    monkeypatch.setattr(bt.Line, "elements", property(scan))
    monkeypatch.setattr(bt.Line, "__iter__", scan)
    assert line.track(beam).learned == {}
    assert beam.reference.s == pytest.approx(2 * line.length)


# --- what is asked for in other codes' ways -------------------------------------------------------


@pytest.mark.parametrize(
    ("ask", "error", "message"),
    [
        (lambda line, ref: line.matrix("electron"), TypeError, "matrix: reference must be"),
        (lambda line, ref: line.taylor_map("electron"), TypeError, "taylor_map: reference must"),
        (lambda line, ref: line.survey("electron"), TypeError, "survey: reference must be"),
        (lambda line, ref: line.envelope("e-", np.eye(6)), TypeError, "envelope: reference must"),
        (
            lambda line, ref: line.envelope(ref, bt.Beam(ref, n=2)),
            TypeError,
            "got a beam; beam.cov",
        ),
        (lambda line, ref: line.matrix(ref, [0.0] * 4), ValueError, "six finite numbers"),
        (lambda line, ref: line.matrix(ref, [math.nan] * 6), ValueError, "six finite numbers"),
        (lambda line, ref: line.spin_map(ref, "orbit"), TypeError, "must be six numbers"),
        (lambda line, ref: line[1.0], TypeError, "must be a whole number, got float 1.0"),
        (lambda line, ref: line._flags(3), TypeError, "takes names, regular expressions and"),
        (lambda line, ref: line._flags("x*"), KeyError, "it is a regular expression"),
    ],
)
def test_wrong_arguments_are_named(ask: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ask(cell(), bt.Reference("electron", kinetic_energy=1e9))
