"""Programmable elements: code of the user on whole beams and inside the fused pass."""

from __future__ import annotations

import copy
import ctypes
import gc
import pickle
import sys
import types
import weakref
from typing import Any

import betatron as bt
import numpy as np
import pytest
from betatron import programmable

COORDINATES = ("x", "px", "y", "py", "t", "pt")


def reference() -> bt.Reference:
    return bt.Reference("electron", kinetic_energy=1e8)


def make_beam(n: int = 1000, precision: str = "double", **more: Any) -> bt.Beam:
    shape = bt.Gaussian.from_twiss(
        beta_x=2, emittance_x=1e-8, beta_y=2, emittance_y=1e-8, beta_t=1, emittance_t=1e-8
    )
    return bt.Beam(reference(), shape, n=n, seed=1, precision=precision, **more)


def thin_lens(beam: bt.Beam, state: bt.State) -> None:
    (strength,) = state.settings
    beam.px[:] -= strength * beam.x
    beam.py[:] += strength * beam.y


def same(a: bt.Beam, b: bt.Beam, **tolerance: float) -> None:
    for name in COORDINATES:
        scale = np.abs(b[name]).max()
        np.testing.assert_allclose(
            a[name], b[name], **{"rtol": 0, "atol": 1e-13 * scale, **tolerance}
        )


# --- whole beams --------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["single", "double"])
def test_a_function_of_python_is_an_element(precision: str) -> None:
    d = bt.Drift(0.4)
    lens = bt.Programmable(push=thin_lens, settings=[0.7])
    quad = bt.Multipole(knl=[0, 0.7])
    a, b = make_beam(precision=precision), make_beam(precision=precision)
    bt.Line([d, lens, d]).track(a, turns=3)
    bt.Line([d, quad, d]).track(b, turns=3)
    tolerance = 1e-12 if precision == "double" else 1e-5
    for name in COORDINATES:
        np.testing.assert_allclose(a[name], b[name], rtol=0, atol=tolerance * np.abs(b[name]).max())


def test_columns_are_the_memory_of_the_beam() -> None:
    beam = make_beam(precision="single")
    addresses = {name: beam[name].ctypes.data for name in (*COORDINATES, "weight", "id")}
    seen: list[dict[str, int]] = []

    def push(beam: bt.Beam, state: bt.State) -> None:
        assert beam is state.beam and beam.x.dtype == np.float32
        seen.append({name: beam[name].ctypes.data for name in addresses})

    line = bt.Line([bt.Drift(0.1), bt.Programmable(0.2, push=push, slices=3), bt.Drift(0.1)])
    line.track(beam, turns=2)
    assert seen == [addresses] * 6


def test_torch_sees_and_writes_columns() -> None:
    torch = pytest.importorskip("torch")
    beam = make_beam()

    def push(beam: bt.Beam, state: bt.State) -> None:
        px = torch.from_dlpack(beam.px)
        assert px.data_ptr() == beam.px.ctypes.data
        px.mul_(0)

    bt.Line([bt.Programmable(push=push)]).track(beam)
    assert not beam.px.any()


def test_the_state_says_where_it_is() -> None:
    states: list[bt.State] = []
    p = bt.Programmable(
        0.6, [1.0, 2.0], push=lambda beam, state: states.append(state), slices=3, name="p"
    )
    line = bt.Line([bt.Drift(0.5), p])
    line.track(make_beam(3), turns=2, first_turn=5)
    assert [(s.turn, s.element, s.name, s.slice, s.slices) for s in states] == [
        (turn, 1, "p", k, 3) for turn in (5, 6) for k in range(3)
    ]
    assert [s.s for s in states] == pytest.approx([0.5, 0.7, 0.9, 1.6, 1.8, 2.0])
    for s in states:
        assert s.length == pytest.approx(0.2)
        assert s.exit is not None and s.exit.s == pytest.approx(s.s + 0.2)
        assert s.exit.t == pytest.approx(s.reference.t + 0.2 / s.reference.beta)
        assert s.settings == [1.0, 2.0] and s.point == "push"


def test_settings_may_change_between_turns_and_in_hooks() -> None:
    p = bt.Programmable(push=thin_lens, settings=[0.0])
    strengths = [0.1, -0.3, 0.2]

    def turn_knob(state: bt.State) -> None:
        p.settings = [strengths[state.turn]]

    a, b = make_beam(), make_beam()
    bt.Line([p]).track(a, turns=3, hooks=bt.Hooks(before_turn=turn_knob))
    bt.Line([bt.Multipole(knl=[0, k]) for k in strengths]).track(b)
    same(a, b)


def test_without_code_it_is_a_drift() -> None:
    a, b = make_beam(), make_beam()
    bt.Line([bt.Programmable(0.5, slices=2)]).track(a)
    bt.Line([bt.Drift(0.5, slices=2)]).track(b)
    same(a, b, atol=0)
    assert a.reference == b.reference


def test_in_a_displaced_element_code_sees_its_frame() -> None:
    a, b = make_beam(), make_beam()
    frame = {"dx": 1e-3, "roll": 0.3, "aperture_x": 8e-4}
    bt.Line([bt.Programmable(push=thin_lens, settings=[0.7], **frame)]).track(a)
    bt.Line([bt.Multipole(knl=[0, 0.7], **frame)]).track(b)
    assert 0 < a.n_lost == b.n_lost < 1000
    same(a, b)


def test_records_and_monitor_see_it() -> None:
    lens = bt.Programmable(push=thin_lens, settings=[0.7], name="lens", aperture_x=3e-4)
    quad = bt.Multipole(knl=[0, 0.7], name="lens", aperture_x=3e-4)
    d = bt.Drift(0.4, name="d")
    tracks = []
    for element in (lens, quad):
        line = bt.Line([d, element, d])
        monitor = bt.TurnByTurn(
            elements="lens", particles=[0, 7], quantities=("centroid", "coordinates")
        )
        track = line.track(make_beam(), turns=4, record="all", monitor=monitor)
        tracks.append((track, monitor))
    (a, ma), (b, mb) = tracks
    columns = ["turn", "element", "n", "s", "mean_x", "sigma_x", "emittance_x"]
    np.testing.assert_allclose(a.moments[columns], b.moments[columns], rtol=1e-9)
    lost = [track.lost.sort_values("id") for track in (a, b)]
    assert list(lost[0]["id"]) == list(lost[1]["id"]) and a.n_lost > 0
    np.testing.assert_allclose(lost[0]["s"], lost[1]["s"])
    assert ma.coordinates().shape == (6, 4, 2)
    np.testing.assert_allclose(ma.coordinates(), mb.coordinates(), rtol=1e-9)


def test_particles_are_lost_by_a_mask() -> None:
    beam = make_beam()
    far = beam.x > 1e-4
    ids = beam.id[far].copy()

    def scrape(beam: bt.Beam, state: bt.State) -> None:
        state.lose(beam.x > 1e-4)
        assert len(beam) == 1000  # until the function returns

    line = bt.Line([bt.Drift(0.0), bt.Programmable(push=scrape, name="scraper")])
    track = line.track(beam, record="ends")
    assert track.n_lost == far.sum() > 0
    assert len(beam) == 1000 - far.sum()
    assert list(beam.lost["id"]) == list(ids)
    assert set(beam.lost["reason"]) == {"user"} and set(beam.lost["element_name"]) == {"scraper"}
    assert track.moments["n"].iloc[-1] == len(beam)


@pytest.mark.parametrize("mask", [[True], np.zeros(3), np.zeros((3, 1), bool), "abc", None])
def test_a_wrong_mask_is_refused(mask: Any) -> None:
    p = bt.Programmable(push=lambda beam, state: state.lose(mask))
    with pytest.raises(bt.UserCodeError, match="array of 3 booleans"):
        bt.Line([p]).track(make_beam(3))


def test_a_state_cannot_be_used_afterwards() -> None:
    kept: list[bt.State] = []
    bt.Line([bt.Programmable(push=lambda beam, state: kept.append(state))]).track(make_beam(3))
    with pytest.raises(ValueError, match="the call that this state belongs to is over"):
        kept[0].lose(np.ones(3, bool))
    assert kept[0].turn == 0


def test_not_finite_coordinates_are_found() -> None:
    def push(beam: bt.Beam, state: bt.State) -> None:
        beam.x[2] = np.nan

    beam = make_beam(5)
    bt.Line([bt.Programmable(push=push), bt.Drift(1.0)]).track(beam)
    assert list(beam.lost["id"]) == [2] and list(beam.lost["reason"]) == ["non_finite"]


# --- errors -------------------------------------------------------------------------------------


def test_an_exception_stops_with_the_beam_in_one_place() -> None:
    def fail(beam: bt.Beam, state: bt.State) -> None:
        if state.turn == 1 and state.slice == 1:
            raise KeyError("no such thing")

    p = bt.Programmable(1.0, push=fail, slices=2, name="p")
    beam = make_beam(2000)
    with pytest.raises(bt.UserCodeError) as caught:
        bt.Line([bt.Drift(0.5), p, bt.Drift(0.5)]).track(beam, turns=3)
    assert isinstance(caught.value.__cause__, KeyError)
    assert str(caught.value) == (
        "push of Programmable raised KeyError at turn 1, element 1 ('p'), slice 1 of 2, s = 3 m: "
        "'no such thing'"
    )
    assert beam.reference.s == pytest.approx(3.0)
    other = make_beam(2000)  # Programmable did nothing: x moves in the drifts only
    bt.Line([bt.Drift(0.5)] * 3).track(other)
    np.testing.assert_allclose(beam.x, other.x, rtol=1e-12)


def test_ctrl_c_is_not_wrapped() -> None:
    def interrupt(beam: bt.Beam, state: bt.State) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bt.Line([bt.Programmable(push=interrupt)]).track(make_beam(3))


def test_what_cannot_be_done_is_refused_by_name() -> None:
    line = bt.Line([bt.Programmable(push=thin_lens, settings=[1.0], name="lens")])
    ref = reference()
    with pytest.raises(ValueError, match="Programmable 'lens': its code has no inverse"):
        line.track(make_beam(3), backward=True)
    with pytest.raises(ValueError, match="Programmable 'lens': its code has no derivative"):
        line.matrix(ref)
    with pytest.raises(ValueError, match="Programmable 'lens': its code has no derivative"):
        line.envelope(ref, np.eye(6))
    with pytest.raises(ValueError, match="Programmable 'lens': code has no power series"):
        line.taylor_map(ref)
    with pytest.raises(ValueError, match="Programmable 'lens'"):
        line.gradient(make_beam(3), bt.losses.beam_size("x"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"push": 3.5}, "push must be a function, got 3.5"),
        ({"inverse": thin_lens}, "inverse needs a push"),
        ({"push": thin_lens, "pull": 17}, "pull cannot be given with no compiled push"),
        (
            {"push": thin_lens, "differences": [1e-6] * 6},
            "differences cannot be given with no compiled push",
        ),
        ({"push": 17, "inverse": thin_lens}, "inverse cannot be given with a compiled function"),
        ({"push": 17, "pull": thin_lens}, "pull must be a compiled function"),
        ({"push": -1}, "push must be a compiled function, got -1"),
        ({"push": "nonsense"}, 'must have the form "module:function"'),
        ({"push": "no.such.module:f"}, "cannot be imported: No module named"),
        ({"push": "math:no_such_function"}, "cannot be imported: .*no_such_function"),
        ({"reference": "math:pi"}, "reference must be a function"),
        ({"reference": lambda ref, piece: ref}, "a reference function but no push"),
        ({"push": 17, "differences": [1.0]}, "differences must be six numbers"),
        ({"push": 17, "cost": -1}, "cost = -1.0 ns is not allowed"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        bt.Programmable(**arguments)


# --- reference particle and backward ------------------------------------------------------------


def gain(ref: bt.Reference, piece: Any) -> bt.Reference:
    """1 MeV per element, on a straight path."""
    moved = bt.Reference(
        ref.species, kinetic_energy=ref.kinetic_energy + 1e6 * (piece.end - piece.start)
    )
    return moved.copy(
        s=ref.s + piece.length,
        t=ref.t + piece.length / ref.beta,
        position=ref.position + piece.length * ref.frame[2],
        frame=ref.frame,
    )


def accelerate(beam: bt.Beam, state: bt.State) -> None:
    before, after = state.reference, state.exit
    gamma = before.gamma - before.beta_gamma * beam.pt + (after.gamma - before.gamma)
    beam.pt[:] = -(gamma - after.gamma) / after.beta_gamma
    for c in (beam.px, beam.py):
        c *= before.beta_gamma / after.beta_gamma


def test_the_reference_particle_follows_the_code_there_and_back() -> None:
    p = bt.Programmable(
        0.3, push=accelerate, inverse=accelerate, reference=gain, slices=3, name="cavity"
    )
    line = bt.Line([bt.Drift(0.2), p, bt.Quadrupole(0.1, k1=3.0)])
    start, beam = make_beam(), make_beam()
    line.track(beam)
    assert beam.reference.kinetic_energy == pytest.approx(1.01e8, rel=1e-12)
    assert beam.reference.s == pytest.approx(0.6)
    assert beam.reference.position[2] == pytest.approx(0.6)
    survey = line.survey(reference())
    assert survey["gamma"].iloc[-1] == pytest.approx(beam.reference.gamma, rel=1e-14)
    line.track(beam, backward=True)
    assert beam.reference.kinetic_energy == pytest.approx(1e8, rel=1e-12)
    same(beam, start, atol=1e-12)


def test_wrong_reference_functions() -> None:
    p = bt.Programmable(1.0, push=thin_lens, reference=lambda ref, piece: None, name="p")
    with pytest.raises(TypeError, match="must return a Reference, got None"):
        bt.Line([p]).track(make_beam(3))
    p = bt.Programmable(1.0, push=thin_lens, reference=lambda ref, piece: 1 / 0, name="p")
    with pytest.raises(bt.UserCodeError, match=r"reference function .* raised ZeroDivisionError"):
        bt.Line([p]).track(make_beam(3))


def test_collective_kicks_stand_in_front_of_its_slices() -> None:
    calls: list[float] = []
    p = bt.Programmable(1.0, push=lambda beam, state: calls.append(state.length), slices=2)
    beam = make_beam(100, charge=1e-12)
    bt.Line([p]).track(beam, collective=bt.IBS(coulomb_log=10.0, order=2, spacing=0.01))
    assert calls == [0.5, 0.5]


# --- dictionary form ----------------------------------------------------------------------------


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> str:
    made = types.ModuleType("user_of_betatron")
    made.lens = thin_lens  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, made.__name__, made)
    return made.__name__


def test_code_given_as_text_has_a_dictionary_form(module: str) -> None:
    lens = bt.Programmable(push=f"{module}:lens", settings=[0.7], name="lens", slices=2, length=0.1)
    data = bt.Line([lens]).to_dict()
    assert data["elements"]["lens"]["push"] == f"{module}:lens"
    loaded = bt.Line.from_dict(data)["lens"]
    assert loaded == lens and loaded.settings == [0.7]
    assert eval(repr(lens), {"Programmable": bt.Programmable}) == lens
    a, b = make_beam(10), make_beam(10)
    bt.Line([lens]).track(a)
    bt.Line([loaded]).track(b)
    same(a, b, atol=0)


def test_a_function_has_none() -> None:
    lens = bt.Programmable(push=thin_lens, settings=[0.7], name="lens")
    with pytest.raises(
        TypeError, match="Programmable 'lens': push is code, which cannot be written"
    ):
        bt.Line([lens]).to_dict()
    assert "push=thin_lens" in repr(lens)
    assert lens != bt.Programmable(push=accelerate, settings=[0.7], name="lens")
    copy = lens.copy()
    assert copy == lens and copy is not lens and copy.push is thin_lens


def test_errors_move_programmable_elements() -> None:
    lens = bt.Programmable(push=thin_lens, settings=[0.7], name="lens")
    line = bt.Line([lens])
    real = bt.errors.apply(line, {"lens": bt.errors.Errors(absolute={"dx": 1e-3})}, seed=1)
    assert real.line["lens"].dx != 0 and lens.dx == 0
    a = make_beam(3)
    real.line.track(a)
    assert a.px.mean() != make_beam(3).px.mean()


def test_functions_that_refer_to_their_element_are_collected() -> None:
    class Owner:
        pass

    owner = Owner()

    def push(beam: bt.Beam, state: bt.State) -> None:
        owner.element.settings = [1.0]  # type: ignore[attr-defined]  # noqa: F821

    owner.element = bt.Programmable(push=push, inverse=push)  # type: ignore[attr-defined]
    bt.Line([owner.element]).track(make_beam(3))  # type: ignore[attr-defined]
    gone = weakref.ref(owner)
    del push, owner
    gc.collect()
    assert gone() is None


# --- compiled code ------------------------------------------------------------------------------


def c_lens(precision: str = "double") -> Any:
    """A lens of strength settings[0] as a function of C, made by ctypes: it calls back into Python
    and is slow, but what is called is a plain C function."""
    real: Any = ctypes.c_double if precision == "double" else ctypes.c_float
    column = ctypes.POINTER(real)
    numbers = ctypes.POINTER(ctypes.c_double)
    prototype = ctypes.CFUNCTYPE(
        None, ctypes.c_int64, *[column] * 7, ctypes.POINTER(ctypes.c_uint64),
        ctypes.POINTER(ctypes.c_uint8), numbers, numbers,
    )  # fmt: skip

    def push(n: int, x: Any, px: Any, y: Any, py: Any, *rest: Any) -> None:
        lost, place, settings = rest[-3:]
        assert place[15] == 1.0 and place[3] == 2.0 and place[4] == 0.05
        for i in range(n):
            px[i] -= settings[0] * x[i]
            py[i] += settings[0] * y[i]
            lost[i] = x[i] > settings[0]

    return prototype(push)


@pytest.mark.parametrize("precision", ["double", "single", "converted"])
def test_a_function_of_c_is_an_element(precision: str) -> None:
    beams = [make_beam(1000, "double" if precision == "double" else "single") for _ in range(2)]
    single = c_lens("single") if precision == "single" else None
    lens = bt.Programmable(
        0.1, [0.7], push=c_lens(), push_single=single, slices=2, name="lens", cost=1e4
    )
    beams[0].x[17] = 0.8
    track = bt.Line([lens, bt.Drift(0.3)]).track(beams[0], threads=2)
    bt.Line([bt.Multipole(knl=[0, 0.7])] * 2 + [bt.Drift(0.3)]).track(beams[1])
    assert track.n_lost == 1 and list(beams[0].lost["id"]) == [17]
    assert list(beams[0].lost["reason"]) == ["outside_domain"]
    assert list(beams[0].lost["s"]) == pytest.approx([0.05])
    keep = beams[1].id != 17
    for name in COORDINATES:
        np.testing.assert_allclose(beams[0][name], beams[1][name][keep], rtol=1e-5, atol=1e-12)


def numba_functions() -> tuple[Any, Any, Any]:
    numba = pytest.importorskip("numba")

    @numba.cfunc(programmable.c_signature())
    def push(n, x, px, y, py, t, pt, weight, id, lost, place, settings):  # type: ignore[no-untyped-def]
        k = settings[0]
        for i in range(n):
            px[i] -= k * x[i] + k * x[i] ** 3
            py[i] += k * y[i]

    @numba.cfunc(programmable.c_signature("single"))
    def push_single(n, x, px, y, py, t, pt, weight, id, lost, place, settings):  # type: ignore[no-untyped-def]
        k = settings[0]
        for i in range(n):
            px[i] -= k * x[i] + k * x[i] ** 3
            py[i] += k * y[i]

    @numba.cfunc(programmable.c_signature("double", "pull"))
    def pull(n, x, px, y, py, t, pt, weight, id, lx, lpx, ly, lpy, lt, lpt, place, settings):  # type: ignore[no-untyped-def]
        k = settings[0]
        for i in range(n):
            lx[i] -= (k + 3 * k * x[i] ** 2) * lpx[i]
            ly[i] += k * lpy[i]

    return push, push_single, pull


def test_numba_inside_the_fused_pass() -> None:
    push, push_single, pull = numba_functions()
    lens = bt.Programmable(settings=[0.7], push=push, push_single=push_single, pull=pull, name="n")
    line = bt.Line([bt.Drift(0.5), lens, bt.Drift(0.5)])

    def slow(beam: bt.Beam, state: bt.State) -> None:
        k = state.settings[0]
        beam.px[:] -= k * beam.x + k * beam.x**3
        beam.py[:] += k * beam.y

    other = bt.Line([bt.Drift(0.5), bt.Programmable(settings=[0.7], push=slow), bt.Drift(0.5)])
    for precision, tolerance in (("double", 1e-13), ("single", 1e-5)):
        beams = [make_beam(5000, precision) for _ in range(3)]
        line.track(beams[0], turns=2, threads=2)
        line.track(beams[1], turns=2, threads=1)
        other.track(beams[2], turns=2)
        for name in COORDINATES:
            assert np.array_equal(beams[0][name], beams[1][name])
            scale = np.abs(beams[2][name]).max()
            np.testing.assert_allclose(beams[0][name], beams[2][name], atol=tolerance * scale)


def test_derivatives_of_compiled_code() -> None:
    push, _, pull = numba_functions()
    start = [2e-2, 0.0, -1e-2, 0.0, 0.0, 0.0]
    drift = bt.Line([bt.Drift(0.5)])
    expected = np.eye(6)
    x = start[0]
    expected[1, 0] = -0.7 * (1 + 3 * x**2)
    expected[3, 2] = 0.7
    exact = bt.Line([bt.Programmable(settings=[0.7], push=push, pull=pull)])
    np.testing.assert_allclose(exact.matrix(reference(), start), expected, atol=1e-15)
    differences = bt.Line([bt.Programmable(settings=[0.7], push=push, differences=[1e-5] * 6)])
    np.testing.assert_allclose(differences.matrix(reference(), start), expected, atol=1e-9)
    linear = bt.Line([bt.Programmable(settings=[0.7], push=push, pull=pull, model="linear")])
    beam, start_beam = make_beam(10), make_beam(10)
    linear.track(beam)
    np.testing.assert_allclose(beam.px, start_beam.px - 0.7 * start_beam.x, rtol=1e-12)
    envelope = (drift + exact).envelope(reference(), np.eye(6) * 1e-8)
    assert envelope.covariance[1, 1] > 0
    with pytest.raises(ValueError, match="Programmable: its code has no inverse"):
        exact.track(make_beam(3), backward=True)


def test_a_wrong_signature_is_refused() -> None:
    numba = pytest.importorskip("numba")

    @numba.cfunc("void(int64)")
    def wrong(n):  # type: ignore[no-untyped-def]
        pass

    with pytest.raises(TypeError, match=r"push has the signature .* it must be"):
        bt.Programmable(push=wrong)
    with pytest.raises(TypeError, match=r"push_single has the signature"):
        bt.Programmable(push=numba_functions()[0], push_single=numba_functions()[0])


def halve(beam: bt.Beam, state: bt.State) -> None:
    beam.px[:] *= 0.5


class Halver(bt.Programmable):
    """With a constructor and an attribute of its own."""

    def __init__(self, tag: str) -> None:
        super().__init__(0.1, push=halve)
        self.tag = tag


@pytest.mark.parametrize(
    "again", [copy.copy, copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))]
)
def test_copies_and_pickles(again: Any) -> None:
    element = bt.Programmable(0.1, [2.0], push=halve, inverse=halve, name="h", dx=1e-3, slices=3)
    made = again(element)
    assert made == element and made is not element
    assert made.push is halve
    own = again(Halver("mine"))
    assert (type(own), own.tag, own.length) == (Halver, "mine", 0.1)
    settings = made.settings
    made.settings = [3.0]
    assert (settings, element.settings) == ([2.0], [2.0])


def test_what_cannot_be_pickled_is_named() -> None:
    code = bt.Programmable(push=ctypes.CFUNCTYPE(None)(lambda: None), name="c")
    assert copy.deepcopy(code) == code  # the same code, in the same process
    with pytest.raises(TypeError, match="Programmable 'c': push is compiled code in the memory"):
        pickle.dumps(code)
    with pytest.raises((pickle.PicklingError, AttributeError), match="lambda"):
        pickle.dumps(bt.Programmable(push=lambda beam, state: None))
