"""Elements in Python: constructors, checks, dictionary and repr forms, live parameters.

Most tests run over every kind that the core lists: a new kind is tested without a line being
written.
"""

from __future__ import annotations

import contextlib
import copy
import math
import pickle
from typing import Any

import betatron as bt
import numpy as np
import pytest
from betatron.elements import element_from_dict
from hypothesis import given
from hypothesis import strategies as st

KINDS: dict[str, list[dict[str, Any]]] = bt.kinds()
COMMON: list[dict[str, Any]] = bt.common_parameters()

# All kinds with all their parameters, for tests of single parameters.
OWN = [(kind, p) for kind, parameters in KINDS.items() for p in parameters]
NUMBERS = [(kind, p) for kind, p in OWN if p["type"] == "float"]
BOUNDED = [
    (kind, p) for kind, p in NUMBERS if math.isfinite(p["minimum"]) or math.isfinite(p["maximum"])
]


# Values of lists that have to have a certain length.
LISTS = {
    "matrix": np.eye(6).ravel().tolist(),
    "coefficients": np.eye(6, 7, 1).ravel().tolist(),
    "centre": [0.0, 1e-3, 0.0, 0.0, 0.0, 0.0],
    "vertices": [0.0, 0.0, 1.0, 0.0, 0.0, 1.0],
    "rotation": [0.1, 0.2, 0.3],
    "slopes": [0.5] * 18,
}


def named(pair: Any) -> str | None:
    return f"{pair[0]}.{pair[1]['name']}" if isinstance(pair, tuple) else None


def valid(parameter: dict[str, Any]) -> Any:
    """Some allowed value that is not the default."""
    if parameter["type"] == "list":
        return LISTS.get(parameter["name"], [0.0, 0.5])
    if parameter["type"] == "bool":
        return not parameter["default"]
    if parameter["choices"]:
        return next(c for c in parameter["choices"] if c != parameter["default"])
    if parameter["type"] == "str":
        return "some name"
    if parameter["type"] == "int":
        return 4 if parameter["name"] == "order" else 3
    return min(0.25, float(parameter["maximum"]))


def make(kind: str, **more: Any) -> bt.Element:
    """An element of a kind with the parameters that it needs."""
    required = {p["name"]: valid(p) for p in KINDS[kind] if p["required"]}
    return getattr(bt, kind)(**{**required, **more})


# --- what there is --------------------------------------------------------------------------------


def test_the_kinds_of_the_core_are_classes_of_the_package() -> None:
    assert {"Drift", "Quadrupole", "Bend", "Marker", "LinearMap"} <= set(KINDS)
    for kind in KINDS:
        assert issubclass(getattr(bt, kind), bt.Element)
        assert kind in bt.__all__
        assert make(kind).kind == kind


@pytest.mark.parametrize("kind", KINDS)
def test_documentation_names_every_parameter(kind: str) -> None:
    text = getattr(bt, kind).__doc__
    for parameter in KINDS[kind]:
        assert parameter["name"] in text
        assert parameter["doc"] in text


@pytest.mark.parametrize("kind", KINDS)
def test_defaults_are_those_described(kind: str) -> None:
    element = make(kind)
    for parameter in [*KINDS[kind], *COMMON]:
        if not parameter["required"]:
            assert getattr(element, parameter["name"]) == parameter["default"]


def test_positional_parameters_come_in_the_described_order() -> None:
    assert bt.Quadrupole(0.5, 2.0) == bt.Quadrupole(length=0.5, k1=2.0)
    with pytest.raises(TypeError, match="Marker takes at most 0 positional parameters, got 1"):
        bt.Marker(1.0)
    with pytest.raises(TypeError, match="length given twice"):
        bt.Drift(1.0, length=2.0)


# --- round trips ----------------------------------------------------------------------------------

finite = st.floats(-1e3, 1e3, allow_nan=False)


@st.composite
def elements(draw: st.DrawFn) -> bt.Element:
    """Any element with any allowed parameters."""
    kind = draw(st.sampled_from(sorted(KINDS)))
    values = {}
    for p in [*KINDS[kind], *COMMON]:
        if not p["required"] and draw(st.booleans()):
            continue
        if p["type"] == "list":
            count = len(LISTS[p["name"]]) if p["name"] in LISTS else draw(st.integers(0, 4))
            values[p["name"]] = draw(st.lists(finite, min_size=count, max_size=count))
        elif p["type"] == "bool":
            values[p["name"]] = draw(st.booleans())
        elif p["choices"]:
            values[p["name"]] = draw(st.sampled_from(p["choices"]))
        elif p["type"] == "str":
            values[p["name"]] = draw(st.text(max_size=8))
        elif p["type"] == "int":
            values[p["name"]] = draw(
                st.sampled_from([2, 4, 6]) if p["name"] == "order" else st.integers(1, 9)
            )
        else:
            low, high = max(p["minimum"], -1e3), min(p["maximum"], 1e3)
            values[p["name"]] = draw(st.floats(low, high, exclude_min=p["open_below"]))
    if kind == "Bend" and values["length"] == 0.0:
        values["length"] = 1.0  # an angle needs a length
    if kind == "PlasmaStage":  # ramps fit into it, and may begin and end at no density
        for ramp in {"ramp_up", "ramp_down"} & set(values):
            values[ramp] = min(values[ramp], values["length"] / 2)
        values |= {"density": values["density"] + 1.0, "ramp_end": 0.5}
    return getattr(bt, kind)(**values)


@given(elements())
def test_dictionary_form_returns_the_element(element: bt.Element) -> None:
    again = element_from_dict(element.to_dict())
    assert again == element
    assert type(again) is type(element)
    assert again.to_dict() == element.to_dict()


@given(elements())
def test_repr_can_be_evaluated(element: bt.Element) -> None:
    assert eval(repr(element), {name: getattr(bt, name) for name in KINDS}) == element


def test_dictionary_form_is_short_and_plain() -> None:
    assert bt.Quadrupole(length=0.1, k1=2, name="q").to_dict() == {
        "kind": "Quadrupole",
        "length": 0.1,
        "k1": 2.0,
        "name": "q",
    }
    assert repr(bt.Drift(0.5)) == "Drift(length=0.5)"


def test_dictionary_form_is_checked() -> None:
    with pytest.raises(KeyError, match="needs a kind; known kinds: Drift"):
        element_from_dict({"length": 1.0})
    with pytest.raises(KeyError, match=r"no element kind 'Quadrupol'.*did you mean Quadrupole"):
        element_from_dict({"kind": "Quadrupol", "length": 1.0})
    with pytest.raises(
        TypeError, match="Drift 'd' has no parameter 'lenght'; it has: length, name"
    ):
        element_from_dict({"kind": "Drift", "name": "d", "lenght": 1.0})


# --- wrong values ---------------------------------------------------------------------------------


@pytest.mark.parametrize("pair", [x for x in OWN if x[1]["required"]], ids=named)
def test_missing_parameters_are_named(pair: tuple[str, dict[str, Any]]) -> None:
    kind, parameter = pair
    others = {p["name"]: valid(p) for p in KINDS[kind] if p["required"] and p is not parameter}
    with pytest.raises(TypeError, match=f"{kind} needs {parameter['name']}"):
        getattr(bt, kind)(**others)


@pytest.mark.parametrize(
    ("kind", "name", "close"),
    [
        ("Quadrupole", "K1", "k1"),
        ("Quadrupole", "l", "length"),
        ("Bend", "fint", "fint1, fint2"),
        ("RFCavity", "volt", "voltage"),
    ],
)
def test_names_of_other_codes_are_understood_in_errors(kind: str, name: str, close: str) -> None:
    message = f"{kind} has no parameter '{name}' \\(did you mean {close}\\?\\); it has: length"
    with pytest.raises(TypeError, match=message):
        getattr(bt, kind)(**{name: 1.0})


@pytest.mark.parametrize("kind", KINDS)
def test_unknown_parameters_are_named(kind: str) -> None:
    with pytest.raises(
        TypeError, match=f"{kind} has no parameter 'colour'; it has: .*name, model, slices"
    ):
        make(kind, colour="red")
    with pytest.raises(AttributeError):
        make(kind).colour = "red"


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, np.float64("nan")])
@pytest.mark.parametrize(
    "pair", [*NUMBERS, *[("Drift", p) for p in COMMON if p["type"] == "float"]], ids=named
)
def test_numbers_must_be_finite(pair: tuple[str, dict[str, Any]], bad: float) -> None:
    kind, parameter = pair
    with pytest.raises(
        ValueError, match=f"{kind}.*: {parameter['name']} = .*not finite; allowed: "
    ):
        make(kind, **{parameter["name"]: bad})


@pytest.mark.parametrize("bad", ["1.0", True, None, [1.0], {"a": 1}, 1j, object()])
@pytest.mark.parametrize("pair", NUMBERS, ids=named)
def test_numbers_must_be_numbers(pair: tuple[str, dict[str, Any]], bad: Any) -> None:
    kind, parameter = pair
    with pytest.raises(
        TypeError, match=f"{kind}.*: {parameter['name']} must be a number, got {type(bad).__name__}"
    ):
        make(kind, **{parameter["name"]: bad})


@pytest.mark.parametrize("pair", BOUNDED, ids=named)
def test_ranges_are_enforced_and_named(pair: tuple[str, dict[str, Any]]) -> None:
    kind, parameter = pair
    low, high = parameter["minimum"], parameter["maximum"]
    outside = []
    if math.isfinite(low):
        outside.append(low if parameter["open_below"] else math.nextafter(low, -math.inf))
    if math.isfinite(high):
        outside.append(math.nextafter(high, math.inf))
    for value in outside:
        with pytest.raises(
            ValueError, match=f"{parameter['name']} = .*is not allowed; allowed: [<>]"
        ):
            make(kind, **{parameter["name"]: value})
    for value in (low, high):
        if math.isfinite(value) and not (parameter["open_below"] and value == low):
            assert getattr(make(kind, **{parameter["name"]: value}), parameter["name"]) == value


def test_where_a_length_may_be_negative() -> None:
    assert bt.Drift(-0.1).length == -0.1  # drifts back, as after a thick element modelled as thin
    assert bt.Multipole(-0.1, [0.0, 1.0]).length == -0.1
    for kind in ("Sextupole", "Octupole", "Kicker", "RFCavity", "Instrument"):
        with pytest.raises(
            ValueError, match=f"{kind}: length = -1 m is not allowed; allowed: >=? 0"
        ):
            make(kind, length=-1)


@pytest.mark.parametrize("name", ["slices", "order", "steps"])
def test_whole_numbers(name: str) -> None:
    assert getattr(bt.Drift(1.0, **{name: 2}), name) == 2
    assert isinstance(getattr(bt.Drift(1.0, **{name: np.int32(4)}), name), int)
    for bad in (0, -1, 2.5, 10**9):
        with pytest.raises(
            ValueError, match=f"Drift: {name} = .*(is not allowed|must be a whole number)"
        ):
            bt.Drift(1.0, **{name: bad})
    for wrong in (True, "2", None, [2]):
        with pytest.raises(TypeError, match=f"Drift: {name} must be a whole number"):
            bt.Drift(1.0, **{name: wrong})


def test_orders_that_do_not_exist() -> None:
    with pytest.raises(ValueError, match="order = 3 is not allowed; allowed: 2, 4, 6"):
        bt.Sextupole(length=0.1, k2=1.0, order=3)


def test_words_are_checked() -> None:
    with pytest.raises(
        ValueError, match="model = 'exakt' is not known; allowed: linear, paraxial, exact"
    ):
        bt.Drift(1.0, model="exakt")
    with pytest.raises(
        ValueError, match="shape = 'round' is not known; allowed: rectangular, elliptical"
    ):
        bt.Aperture(x_max=1.0, y_max=1.0, shape="round")
    with pytest.raises(TypeError, match="model must be a string, got int 1"):
        bt.Drift(1.0, model=1)
    with pytest.raises(TypeError, match="shift_odd_x must be True or False, got int 1"):
        bt.Aperture(x_max=1.0, y_max=1.0, shift_odd_x=1)


def test_lists_are_checked() -> None:
    assert bt.Multipole(knl=(0, 1.5)).knl == [0.0, 1.5]
    assert bt.Multipole(knl=np.array([0, 1.5])).knl == [0.0, 1.5]
    with pytest.raises(TypeError, match="knl must be a list of numbers, got str"):
        bt.Multipole(knl="0 1")
    with pytest.raises(TypeError, match="knl must be a list of numbers, got float"):
        bt.Multipole(knl=1.0)
    with pytest.raises(ValueError, match=r"knl\[1\] = nan is not finite"):
        bt.Multipole(knl=[0.0, math.nan])
    with pytest.raises(ValueError, match="knl has 22 entries; allowed: at most 21"):
        bt.Multipole(knl=[0.0] * 22)
    with pytest.raises(ValueError, match="matrix has 35 entries; allowed: 36"):
        bt.LinearMap(matrix=[0.0] * 35)
    nested = bt.LinearMap(matrix=np.arange(36.0).reshape(6, 6))
    assert nested.matrix == list(map(float, range(36)))


def test_what_several_parameters_say_together() -> None:
    with pytest.raises(
        ValueError, match=r"Bend 'b': angle = 0\.1 rad needs a length that is not 0"
    ):
        bt.Bend(length=0.0, angle=0.1, name="b")


# --- live parameters ------------------------------------------------------------------------------


@pytest.mark.parametrize("pair", [*OWN, *[("Drift", p) for p in COMMON]], ids=named)
def test_every_parameter_can_be_set(pair: tuple[str, dict[str, Any]]) -> None:
    kind, parameter = pair
    element = make(kind)
    if kind == "Bend":
        element.length = 0.5  # no angle without a length
    setattr(element, parameter["name"], valid(parameter))
    assert getattr(element, parameter["name"]) == valid(parameter)


def test_a_refused_value_changes_nothing() -> None:
    bend = bt.Bend(length=1.0, angle=0.1)
    for name, bad in (
        ("length", 0.0),
        ("angle", math.nan),
        ("hgap", -1.0),
        ("e1", "x"),
        ("model", "?"),
    ):
        with pytest.raises((TypeError, ValueError), match=name if name != "length" else "angle"):
            setattr(bend, name, bad)
        assert bend == bt.Bend(length=1.0, angle=0.1)


@pytest.mark.parametrize(
    "scalar", [np.float64(0.5), np.float32(0.5), np.int64(2), np.array(0.5), 2]
)
def test_numpy_scalars_are_numbers(scalar: Any) -> None:
    quadrupole = bt.Quadrupole(length=scalar, k1=scalar)
    assert type(quadrupole.k1) is float
    assert quadrupole.k1 == float(scalar)
    quadrupole.k1 = -scalar
    assert quadrupole.k1 == -float(scalar)


def test_equality_and_identity() -> None:
    one, same, other = bt.Drift(1.0), bt.Drift(1.0), bt.Drift(2.0)
    assert one == same
    assert one != other
    assert one != bt.Instrument(length=1.0)
    assert one != "Drift"
    assert len({one, same}) == 2  # hashed by identity: equal elements are different knobs


def test_parameters_are_those_of_the_kind() -> None:
    assert bt.Kicker(hkick=1e-3, name="k").parameters() == {
        "length": 0.0,
        "hkick": 1e-3,
        "vkick": 0.0,
    }


# --- copies and pickles ---------------------------------------------------------------------------


def pickled(what: Any) -> Any:
    return pickle.loads(pickle.dumps(what))


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, pickled])
@pytest.mark.parametrize("kind", KINDS)
def test_elements_are_copied_and_pickled(kind: str, again: Any) -> None:
    """With all their parameters, each changed alone: not all of them go together."""
    plain = make(kind)
    for parameter in [*KINDS[kind], *COMMON]:
        element = make(kind)
        with contextlib.suppress(ValueError):
            setattr(element, parameter["name"], valid(parameter))
        made = again(element)
        assert type(made) is type(element) and made is not element
        assert made == element
        made.name = "another"
        assert element.name != "another"
    assert again(plain).to_dict() == plain.to_dict()


class Tagged(bt.Quadrupole):
    """With a constructor and an attribute of its own."""

    def __init__(self, k1: float) -> None:
        super().__init__(0.1, k1=k1)
        self.tag = [k1]


@pytest.mark.parametrize("again", [copy.deepcopy, pickled])
def test_subclasses_are_copied_with_what_they_hold(again: Any) -> None:
    element = Tagged(3.0)
    made = again(element)
    assert type(made) is Tagged
    assert (made.k1, made.tag) == (3.0, [3.0])
    assert made.tag is not element.tag


@pytest.mark.parametrize("again", [copy.deepcopy, pickled])
def test_lines_are_copied_with_what_they_share(again: Any) -> None:
    q = bt.Quadrupole(0.1, k1=2.0, name="q")
    line = bt.Line([q, bt.Drift(1.0), q, bt.PlasmaStageSurrogate("stage_02")], name="cell")
    made, other = again([line, bt.Line([q])])
    assert made == line and made.name == "cell"
    assert made[0] is made[2] and made[0] is other[0] and made[0] is not q
    made[0].k1 = 5.0
    assert q.k1 == 2.0


def test_broken_pickles_are_refused() -> None:
    with pytest.raises(ValueError, match="length = -1 m is not allowed"):
        bt.Sextupole.__new__(bt.Sextupole).__setstate__(
            ({"kind": "Sextupole", "length": -1.0}, None)
        )
