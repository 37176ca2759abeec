"""Hooks: functions that are called while a beam is tracked."""

from __future__ import annotations

from typing import Any

import betatron as bt
import numpy as np
import pytest

COORDINATES = ("x", "px", "y", "py", "t", "pt")


def reference() -> bt.Reference:
    return bt.Reference("electron", kinetic_energy=1e8)


def make_beam(n: int = 1000, **more: Any) -> bt.Beam:
    shape = bt.Gaussian.from_twiss(
        beta_x=2, emittance_x=1e-8, beta_y=2, emittance_y=1e-8, beta_t=1, emittance_t=1e-8
    )
    return bt.Beam(reference(), shape, n=n, seed=1, **more)


def make_line() -> bt.Line:
    return bt.Line(
        [
            bt.Quadrupole(0.2, k1=2.0, name="qf", slices=2),
            bt.Drift(0.5, name="d"),
            bt.Quadrupole(0.2, k1=-2.0, name="qd"),
            bt.Marker(name="m"),
        ]
    )


def equal(a: bt.Beam, b: bt.Beam) -> None:
    for name in COORDINATES:
        assert np.array_equal(a[name], b[name]), name
    assert a.reference == b.reference


def test_the_order_of_calls() -> None:
    seen: list[tuple[Any, ...]] = []

    def note(state: bt.State) -> None:
        seen.append((state.point, state.turn, state.element, state.name, state.slice))

    points = ("turn", "element", "slice")
    every = {f"{when}_{what}": note for when in ("before", "after") for what in points}
    make_line().track(make_beam(3), turns=2, hooks=bt.Hooks(**every))
    expected: list[tuple[Any, ...]] = []
    for turn in range(2):
        expected.append(("before_turn", turn, 0, "qf", 0))
        for i, (name, slices) in enumerate([("qf", 2), ("d", 1), ("qd", 1), ("m", 1)]):
            expected.append(("before_element", turn, i, name, 0))
            for k in range(slices):
                expected.append(("before_slice", turn, i, name, k))
                expected.append(("after_slice", turn, i, name, k))
            expected.append(("after_element", turn, i, name, slices - 1))
        expected.append(("after_turn", turn, 4, "", 0))
    assert seen == expected


def test_empty_hooks_change_nothing() -> None:
    a, b = make_beam(), make_beam()
    empty = bt.Hooks(before_slice=lambda s: None, after_element=lambda s: None)
    ta = make_line().track(a, turns=5, record="all", hooks=empty)
    tb = make_line().track(b, turns=5, record="all")
    for name in COORDINATES:
        np.testing.assert_allclose(a[name], b[name], rtol=0, atol=1e-14 * np.abs(b[name]).max())
    assert a.reference.s == pytest.approx(b.reference.s, rel=1e-14)
    np.testing.assert_allclose(
        ta.moments[["turn", "element", "s", "sigma_x"]],
        tb.moments[["turn", "element", "s", "sigma_x"]],
    )


def test_place_and_reference() -> None:
    beam = make_beam(3)
    where: list[float] = []

    def check(state: bt.State) -> None:
        assert state.beam is beam and state.reference == beam.reference and state.exit is None
        where.append(state.s)

    make_line().track(beam, hooks=bt.Hooks(after_slice=check))
    assert where == pytest.approx([0.1, 0.2, 0.7, 0.9, 0.9])


def test_restricted_to_elements_by_name() -> None:
    seen: list[str] = []
    line = make_line()
    hooks = [
        bt.Hooks(before_element=lambda s: seen.append("q " + s.name), at="q."),
        bt.Hooks(after_element=lambda s: seen.append("d " + s.name), at=line["d"]),
    ]
    line.track(make_beam(3), hooks=hooks)
    assert seen == ["q qf", "d d", "q qd"]
    with pytest.raises(KeyError, match="nothing"):
        line.track(make_beam(3), hooks=bt.Hooks(before_element=print, at="nothing"))


def test_a_zero_copy_write_is_seen_by_the_next_element() -> None:
    beam = make_beam()
    address = beam.px.ctypes.data

    def kick(state: bt.State) -> None:
        assert state.beam.px.ctypes.data == address
        state.beam.px[:] += 1e-4

    make_line().track(beam, hooks=bt.Hooks(before_element=kick, at="d"))
    other = make_beam()
    line = make_line()
    line[:1].track(other)
    other.px += 1e-4
    line[1:].track(other)
    equal(beam, other)
    assert beam.px.ctypes.data == address


def test_a_parameter_set_by_a_hook_counts_at_once() -> None:
    """A lens whose strength comes from the beam in front of it."""
    line = make_line()
    lens = line["qd"]

    def match(state: bt.State) -> None:
        lens.k1 = -1.0 / state.beam.moments()["beta_x"]

    beam, other = make_beam(), make_beam()
    line.track(beam, hooks=bt.Hooks(before_element=match, at="qd"))
    before = make_line()[:2]
    before.track(other)
    k1 = -1.0 / other.moments()["beta_x"]
    assert lens.k1 == pytest.approx(k1)
    bt.Line([bt.Quadrupole(0.2, k1=lens.k1), bt.Marker()]).track(other)
    equal(beam, other)


def test_a_length_set_before_a_turn_counts_in_it() -> None:
    d = bt.Drift(1.0)

    def lengthen(state: bt.State) -> None:
        d.length = 1.0 + state.turn
        d.slices = 1 + state.turn

    beam = make_beam(3)
    calls: list[int] = []
    hooks = bt.Hooks(before_turn=lengthen, before_slice=lambda s: calls.append(s.slices))
    bt.Line([d]).track(beam, turns=3, hooks=hooks)
    assert beam.reference.s == pytest.approx(6.0)
    assert calls == [1, 2, 2, 3, 3, 3]


def test_slices_cannot_change_within_a_turn() -> None:
    d = bt.Drift(1.0, name="d")

    def more(state: bt.State) -> None:
        d.slices = 7

    with pytest.raises(
        ValueError, match="a hook has changed the slices of Drift 'd' within a turn"
    ):
        bt.Line([d]).track(make_beam(3), hooks=bt.Hooks(before_element=more))


def test_the_reference_particle_may_be_changed() -> None:
    """A hook that makes the beam relative to another energy: physics stays the same."""

    def rescale(state: bt.State) -> None:
        beam, before = state.beam, state.reference
        gamma = before.gamma - before.beta_gamma * beam.pt
        after = bt.Reference("electron", kinetic_energy=1.001e8, s=before.s, t=before.t)
        beam.pt[:] = -(gamma - after.gamma) / after.beta_gamma
        beam.px[:] *= before.beta_gamma / after.beta_gamma
        beam.py[:] *= before.beta_gamma / after.beta_gamma
        beam.reference = after

    beam, other = make_beam(), make_beam()
    line = bt.Line([bt.Drift(0.5), bt.Drift(0.5, name="second")])
    line.track(beam, hooks=bt.Hooks(before_element=rescale, at="second"))
    line.track(other)
    assert beam.reference.kinetic_energy == pytest.approx(1.001e8)
    np.testing.assert_allclose(beam.x, other.x, rtol=1e-9, atol=1e-12)


def test_particles_lost_in_hooks() -> None:
    beam = make_beam()

    def scrape(state: bt.State) -> None:
        state.lose(np.asarray(state.beam.x) > 2e-4)

    line = make_line()
    track = line.track(beam, turns=2, hooks=bt.Hooks(after_element=scrape, at="qf"))
    assert 0 < track.n_lost == beam.n_lost == 1000 - len(beam)
    assert set(beam.lost["element_name"]) == {"qf"} and set(beam.lost["reason"]) == {"user"}
    at_ends = make_beam()
    line.track(at_ends, hooks=bt.Hooks(before_turn=scrape, after_turn=scrape))
    assert set(at_ends.lost["element_name"]) <= {"qf", ""}


def test_another_line_may_be_tracked_inside() -> None:
    probe: list[float] = []

    def look_ahead(state: bt.State) -> None:
        copy = state.beam.copy()
        bt.Line([bt.Drift(1.0)]).track(copy)
        probe.append(float(copy.x.std()))

    make_line().track(make_beam(), hooks=bt.Hooks(before_element=look_ahead))
    assert len(probe) == 4


def test_a_mask_is_refused_when_particles_have_been_lost_in_between() -> None:
    beam = make_beam()
    edge = float(np.abs(beam.x).max()) / 3
    inside = bt.Line([bt.Aperture(x_max=edge, y_max=1.0)])

    def code(state: bt.State) -> None:
        state.lose(state.beam.x > edge)
        inside.track(state.beam, progress=False)

    with pytest.raises(ValueError, match=r"mask of 1000 particles, but the beam has \d+ when"):
        make_line().track(beam, hooks=bt.Hooks(before_turn=code))
    assert set(beam.lost["reason"]) == {"aperture"}


def test_an_exception_names_the_place() -> None:
    def fail(state: bt.State) -> None:
        raise ValueError("enough")

    beam = make_beam()
    with pytest.raises(bt.UserCodeError) as caught:
        make_line().track(beam, hooks=bt.Hooks(after_slice=fail, at="d"))
    assert isinstance(caught.value.__cause__, ValueError)
    assert str(caught.value) == (
        "hook after_slice raised ValueError at turn 0, element 1 ('d'), slice 0 of 1, s = 0.7 m: "
        "enough"
    )
    other = make_beam()
    make_line()[:2].track(other)
    for name in COORDINATES:
        np.testing.assert_allclose(beam[name], other[name], rtol=0, atol=1e-16)
    assert beam.reference.s == pytest.approx(0.7)


def test_hooks_need_the_forward_direction() -> None:
    with pytest.raises(ValueError, match="hooks cannot be undone"):
        make_line().track(make_beam(3), backward=True, hooks=bt.Hooks(before_turn=print))


def test_wrong_hooks() -> None:
    with pytest.raises(TypeError, match="Hooks: before_turn must be a function, got 3"):
        bt.Hooks(before_turn=3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"hooks takes betatron\.Hooks, got"):
        make_line().track(make_beam(3), hooks=[print])  # type: ignore[list-item]


def test_columns_of_an_empty_beam() -> None:
    sizes: list[int] = []
    make_line().track(
        make_beam(0), hooks=bt.Hooks(before_slice=lambda s: sizes.append(len(s.beam.x)))
    )
    assert sizes == [0] * 5


def test_fields_of_space_charge_are_seen_without_a_copy() -> None:
    beam = make_beam(5000, charge=1e-10)
    effect = bt.SpaceCharge3D(cells=16, order=1)
    line = bt.Line([bt.Drift(0.5, slices=2)])
    seen = []

    def look(state: bt.State) -> None:
        assert state.fields.keys() == ["density", "potential"] and "density" in state.fields
        density, potential = state.fields["density"], state.fields["potential"]
        again = state.fields["density"]
        assert again.array.ctypes.data == density.array.ctypes.data
        cell = np.prod(density.spacing)
        charge = density.array.sum() * density.unit * cell
        assert charge == pytest.approx(state.beam.charge, rel=1e-10)
        expected = effect.field(state.beam) if not seen else None
        seen.append((density.array.ctypes.data, potential.array.ctypes.data))
        if expected is not None:
            nodes = [
                o + h * np.arange(16) for o, h in zip(density.origin, density.spacing, strict=True)
            ]
            np.testing.assert_allclose(nodes[0], expected.x, rtol=1e-12)
            assert density.array.shape == potential.array.shape == expected.density.shape

    line.track(beam, space_charge=effect, hooks=bt.Hooks(after_kick=look))
    assert len(seen) == 2 and seen[0] == seen[1]


@pytest.mark.parametrize(
    ("options", "slices"),
    [
        ({"order": 1}, [0, 1, 2, 3]),
        ({"order": 2}, [0, 1, 2, 3]),
        ({"order": 1, "spacing": 0.1}, [0, 2]),
        ({"order": 2, "spacing": 0.05 / 1.5}, [0, 0, 1, 1, 2, 2, 3, 3]),
    ],
)
def test_kicks_know_their_slice(options: dict, slices: list[int]) -> None:
    seen = []
    line = bt.Line([bt.Marker(), bt.Drift(0.2, slices=4, name="d")])
    line.track(
        make_beam(100, charge=1e-12),
        space_charge=bt.SpaceChargeGaussian(**options),
        hooks=bt.Hooks(after_kick=lambda s: seen.append((s.slice, s.slices, s.name, s.length))),
    )
    assert seen == [(k, 4, "d", 0.05) for k in slices]


def test_fields_are_those_of_the_last_kick() -> None:
    beam = make_beam(5000, charge=1e-10)
    effect = bt.SpaceCharge3D(cells=16, order=1)
    got = []

    def look(state: bt.State) -> None:
        f = state.fields
        got.append(
            (f["density"].array * f["density"].unit, f["potential"].array * f["potential"].unit)
        )

    expected = bt.SpaceCharge3D(cells=16, order=1).field(beam)
    bt.Line([bt.Drift(0.1)]).track(beam, space_charge=effect, hooks=bt.Hooks(after_slice=look))
    np.testing.assert_allclose(
        got[0][0], expected.density, rtol=1e-10, atol=1e-10 * expected.density.max()
    )
    np.testing.assert_allclose(got[0][1], expected.potential, rtol=1e-10)


def test_there_are_no_fields_before_the_first_kick() -> None:
    def look(state: bt.State) -> None:
        assert len(state.fields) == 0
        with pytest.raises(KeyError, match="there is no field density"):
            state.fields["density"]

    effect = bt.SpaceCharge3D(cells=16)
    hooks = bt.Hooks(before_turn=look)
    bt.Line([bt.Drift(0.1)]).track(make_beam(100, charge=1e-12), space_charge=effect, hooks=hooks)
    bt.Line([bt.Drift(0.1)]).track(make_beam(100), hooks=hooks)
