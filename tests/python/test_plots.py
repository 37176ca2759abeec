"""Plots of lines and tracks, and the units, labels and colours that all plots share."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import betatron as bt
import matplotlib.pyplot as plt
import numpy as np
import pytest
from betatron.plot import line as line_plots
from betatron.plot import style
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure


@pytest.fixture(autouse=True)
def close_figures() -> Iterator[None]:
    yield
    plt.close("all")


def reference() -> bt.Reference:
    return bt.Reference("electron", kinetic_energy=1e8)


def make_beam(n: int = 500) -> bt.Beam:
    shape = bt.Gaussian.from_twiss(
        beta_x=2, emittance_x=1e-8, beta_y=2, emittance_y=1e-8, beta_t=1, emittance_t=1e-8
    )
    return bt.Beam(reference(), shape, n=n, charge=1e-12 if n else None)


def cell() -> bt.Line:
    return bt.Line(
        [
            bt.Quadrupole(0.2, k1=2.0, name="qf"),
            bt.Drift(0.3),
            bt.Quadrupole(0.2, k1=-2.0, name="qd"),
            bt.Drift(0.3),
            bt.Instrument(name="screen"),
        ],
        name="cell",
    )


def ring() -> bt.Line:
    bend = bt.Bend(length=1.0, angle=2 * math.pi / 8, name="b")
    return bt.Line([8 * bt.Line([bend, bt.Drift(0.5), bt.Quadrupole(0.2, k1=1.0, name="q")])])


def outlines(ax: Axes) -> list[np.ndarray]:
    return [
        p.vertices for c in ax.collections if isinstance(c, PolyCollection) for p in c.get_paths()
    ]


def assert_saves(figure: Figure, tmp_path: Path) -> None:
    assert isinstance(figure, Figure)
    figure.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


# --- units and labels -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "unit", "expected"),
    [
        ([0.0, 3.2e-4], "m", (1e6, "µm")),
        ([-2.0, 1.0], "m", (1.0, "m")),
        ([0.998e-3], "m", (1e6, "µm")),
        ([0.9999e-3], "m", (1e3, "mm")),  # with three digits this is 1.00 mm
        ([1500.0], "eV", (1e-3, "keV")),
        ([2.5e-11], "C", (1e12, "pC")),
        ([1e-25], "m", (1e18, "am")),
        ([0.0], "m", (1.0, "m")),
        ([], "m", (1.0, "m")),
        ([math.nan, math.inf, 2e-9], "m", (1e9, "nm")),
        ([0.25, 1.0], "1", (1.0, "")),
        ([4000.0], "1", (1.0, "")),
        ([2.5e-2], "1", (1e3, "10⁻³")),
        ([3e7], "1", (1e-6, "10⁶")),
        ([7e-4], "rad", (1e6, "µrad")),
    ],
)
def test_scale_and_unit(values: list[float], unit: str, expected: tuple[float, str]) -> None:
    factor, text = style.scale_and_unit(values, unit)
    assert text == expected[1]
    assert factor == pytest.approx(expected[0], rel=1e-12)


@given(st.floats(1e-17, 1e14), st.sampled_from(["m", "eV", "rad"]))
def test_scaled_values_have_one_to_three_digits(value: float, unit: str) -> None:
    factor, text = style.scale_and_unit([value], unit)
    assert 0.999 <= factor * value < 1000.0
    assert text.endswith(unit)


def test_every_moment_has_a_symbol_and_a_unit() -> None:
    for name in make_beam(10).moments().index:
        symbol = style.quantity_symbol(name)
        assert symbol == "charge" or symbol.startswith("$"), name
        assert style.quantity_unit(name) in ("m", "rad", "1", "C")
    assert style.axis_label("sigma_x", "mm") == r"$\sigma_x$ [mm]"
    assert style.axis_label("gamma", "") == r"$\gamma$"
    assert style.quantity_symbol("emittance_xn") == r"$\varepsilon_{x,n}$"
    assert style.quantity_symbol("something") == "something"
    assert style.quantity_unit("dispersion_px") == "1"
    assert style.quantity_colour("emittance_yn") == style.PLANE_COLOURS["y"]
    assert style.quantity_colour("gamma") is None


def test_settings_are_left_as_they_were() -> None:
    before = dict(plt.rcParams)
    cell().plot.survey()
    assert dict(plt.rcParams) == before


def test_colours_of_kinds_are_colours_of_kinds() -> None:
    assert set(style.KIND_COLOURS) <= set(bt.kinds())


# --- floor plan -----------------------------------------------------------------------------------


def test_survey_is_true_to_scale(tmp_path: Path) -> None:
    figure = ring().plot.survey()
    (ax,) = figure.axes
    assert ax.get_aspect() == 1.0
    assert ax.get_xlabel() == "$z$ [m]"
    assert ax.get_ylabel() == "$x$ [m]"
    orbit = ax.lines[0].get_xydata()
    assert orbit[0] == pytest.approx([0.0, 0.0])
    assert orbit[-1] == pytest.approx([0.0, 0.0], abs=1e-12)  # the ring closes
    assert orbit[:, 1].min() < -3.0  # a positive angle bends towards -x
    for low, high, k in ((*ax.get_xlim(), 0), (*ax.get_ylim(), 1)):
        assert low < orbit[:, k].min()
        assert orbit[:, k].max() < high
    length = np.sum(np.hypot(*np.diff(orbit, axis=0).T))
    assert length == pytest.approx(ring().length, rel=1e-4)  # arcs, drawn as many short straights
    assert_saves(figure, tmp_path)


def test_survey_draws_magnets_along_the_orbit() -> None:
    bend = bt.Bend(length=1.0, angle=0.5, name="b")
    (ax,) = bt.Line([bend]).plot.survey().axes
    (outline,) = outlines(ax)
    radius = 2.0
    distance = np.hypot(outline[:, 0], outline[:, 1] + radius)  # from the centre of curvature
    width = distance.max() - distance.min()
    assert 0.0 < width < 1.0
    assert np.allclose(np.abs(distance - radius), 0.5 * width)


def test_survey_follows_the_reference() -> None:
    start = bt.Reference("electron", kinetic_energy=1e8, position=(1.0, 0.0, 5.0))
    orbit = bt.Line([bt.Drift(2.0)]).plot.survey(start).axes[0].lines[0].get_xydata()
    assert orbit == pytest.approx(np.array([[5.0, 1.0], [7.0, 1.0]]))


def test_a_full_turn_in_one_bend() -> None:
    orbit = (
        bt.Line([bt.Bend(length=3.0, angle=2 * math.pi)])
        .plot.survey()
        .axes[0]
        .lines[0]
        .get_xydata()
    )
    assert orbit[:, 1].min() == pytest.approx(-3.0 / math.pi, rel=1e-3)


def test_an_orbit_may_jump_and_turn() -> None:
    line = bt.Line([bt.Drift(1.0), bt.Patch(offset_x=0.5, rotation_y=0.3), bt.Drift(1.0)])
    orbit = line.plot.survey().axes[0].lines[0].get_xydata()
    table = line.survey()
    for place in table[["z", "x"]].to_numpy():
        assert np.hypot(*(orbit - place).T).min() < 1e-12
    assert len(orbit) == 4


def label_boxes(figure: Figure) -> list[np.ndarray]:
    """Corners on the canvas of the rotated texts as they are drawn."""
    figure.canvas.draw()
    (ax,) = figure.axes
    renderer = figure.canvas.get_renderer()
    boxes = []
    for text in ax.texts:
        if not text.get_text():
            continue  # the arrow
        x, y = ax.transData.transform(text.get_position())
        width, height, _ = renderer.get_text_width_height_descent(
            text.get_text(), text.get_fontproperties(), False
        )
        angle = math.radians(text.get_rotation())
        along = np.array([math.cos(angle), math.sin(angle)])
        across = 0.5 * height * np.array([-along[1], along[0]])
        first, last = (0.0, width) if text.get_horizontalalignment() == "left" else (-width, 0.0)
        centre = np.array([x, y])
        boxes.append(
            np.array(
                [
                    centre + first * along - across,
                    centre + last * along - across,
                    centre + last * along + across,
                    centre + first * along + across,
                ]
            )
        )
    return boxes


@pytest.mark.parametrize("which", ["crowded", "ring", "dogleg"])
def test_labels_do_not_overlap(which: str) -> None:
    if which == "crowded":
        parts = [
            [bt.Quadrupole(0.02, k1=1.0, name=f"QUADRUPOLE_{i}"), bt.Drift(0.05)] for i in range(60)
        ]
        line = bt.Line([bt.Drift(2.0), parts, bt.Bend(length=0.1, angle=0.05, name="BEND")])
    elif which == "ring":
        line = ring()
    else:
        b1, b2 = bt.Bend(1.0, 0.6, name="B1"), bt.Bend(1.0, -0.6, name="B2")
        monitors = [bt.Instrument(name=f"M{i}") for i in range(9)]
        line = bt.Line([b1, monitors, bt.Drift(2.0), b2, monitors])
    figure = line.plot.survey()
    boxes = label_boxes(figure)
    assert len(boxes) > 8
    for i, box in enumerate(boxes):
        assert not any(line_plots._overlap(box, other) for other in boxes[:i])
    ax = figure.axes[0]
    area = ax.get_window_extent()
    for box in boxes:
        assert area.x0 - 5 <= box[:, 0].min()
        assert box[:, 0].max() <= area.x1 + 5
        assert area.y0 - 5 <= box[:, 1].min()
        assert box[:, 1].max() <= area.y1 + 5
    names = {t.get_text() for t in ax.texts} - {""}
    assert names <= {e.name for e in line}
    if which == "crowded":
        assert "BEND" in names  # first when there is no room for all


def test_labels_can_be_left_out() -> None:
    with_labels, without = cell().plot.survey(), cell().plot.survey(labels=False)
    assert {t.get_text() for t in with_labels.axes[0].texts} - {""} == {"qf", "qd", "screen"}
    assert {t.get_text() for t in without.axes[0].texts} <= {""}


def test_survey_of_almost_nothing(tmp_path: Path) -> None:
    for elements in ([], [bt.Marker()], [bt.Kicker(name="k")], [bt.Drift(-1.0)]):
        assert_saves(bt.Line(elements).plot.survey(), tmp_path)


def test_survey_names_the_kinds() -> None:
    legend = cell().plot.survey().axes[0].get_legend()
    assert [t.get_text() for t in legend.get_texts()] == ["Quadrupole", "Instrument"]


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=12), st.floats(0.01, 0.5))
def test_spread_keeps_order_and_distance(wanted: list[float], step: float) -> None:
    wanted.sort()
    places = line_plots.spread(np.array(wanted), step, -6.0, 6.0)
    assert np.all(np.diff(places) >= step * (1 - 1e-9))
    assert places[0] >= -6.0
    assert places[-1] <= 6.0 + 1e-9
    if all(b - a >= step for a, b in pairwise(wanted)):
        assert np.allclose(places, wanted)
    else:  # optimal: no common shift of all places is better
        assert (
            abs(np.sum(places - wanted)) < 1e-6 * len(wanted)
            or places[0] == -6.0
            or places[-1] >= 6.0 - 1e-9
        )


# --- silhouette -----------------------------------------------------------------------------------


def test_silhouette_shows_the_sign_of_quadrupoles() -> None:
    _, ax = plt.subplots()
    cell().plot.silhouette(ax, start=10.0)
    focusing, defocusing = sorted(outlines(ax), key=lambda o: o[:, 0].min())
    assert focusing[:, 0].min() == pytest.approx(10.0)
    assert focusing[:, 0].max() == pytest.approx(10.2)
    assert focusing[:, 1].min() == 0.0 < focusing[:, 1].max()
    assert defocusing[:, 0].min() == pytest.approx(10.5)
    assert defocusing[:, 1].max() == 0.0 > defocusing[:, 1].min()


def test_silhouette_of_a_gradient_depends_on_the_charge() -> None:
    line = bt.Line([bt.Quadrupole(1.0, gradient=10.0)])
    for species, sign in (("proton", 1), ("electron", -1)):
        _, ax = plt.subplots()
        line.plot.silhouette(ax, reference=bt.Reference(species, kinetic_energy=1e9))
        assert np.sign(outlines(ax)[0][:, 1].sum()) == sign


@pytest.mark.parametrize("kind", bt.kinds())
def test_silhouette_and_survey_of_every_kind(kind: str, tmp_path: Path) -> None:
    lists = {
        "matrix": np.eye(6).ravel(),
        "coefficients": np.eye(6, 7, 1).ravel(),
        "vertices": [0.0, 0.0, 1.0, 0.0, 0.0, 1.0],
    }
    needed: dict[str, Any] = {
        p["name"]: lists.get(p["name"], 0.5) for p in bt.kinds()[kind] if p["required"]
    }
    line = bt.Line([bt.Drift(1.0), getattr(bt, kind)(name="e", **needed), bt.Drift(1.0)])
    figure, ax = plt.subplots()
    line.plot.silhouette(ax, turns=2)
    drawn = [c for c in ax.collections if isinstance(c, (PolyCollection, LineCollection))]
    count = sum(len(c.get_paths()) for c in drawn)
    assert count == (0 if kind in line_plots._NOT_DRAWN else 2)
    assert_saves(figure, tmp_path)
    assert_saves(line.plot.survey(), tmp_path)


def test_what_is_off_is_empty() -> None:
    _, ax = plt.subplots()
    bt.Line([bt.Bend(length=1.0, name="off"), bt.Bend(length=1.0, angle=0.1)]).plot.silhouette(ax)
    colours = {
        tuple(c.get_facecolor()[0][:3]) for c in ax.collections if isinstance(c, PolyCollection)
    }
    assert (1.0, 1.0, 1.0) in colours
    assert len(colours) == 2


# --- envelopes ------------------------------------------------------------------------------------


def test_envelope_shows_the_recorded_moments(tmp_path: Path) -> None:
    track = (3 * cell()).track(make_beam(), record="all")
    figure = track.plot.envelope()
    panel, lattice = figure.axes
    assert panel.get_ylabel() == r"$\sigma_x$, $\sigma_y$ [µm]"
    assert lattice.get_xlabel() == "$s$ [m]"
    assert lattice.get_xlim() == pytest.approx((0.0, 3.0))
    assert len(outlines(lattice)) == 6
    marked = panel.lines[1].get_xydata()
    assert marked == pytest.approx(np.array([track.moments["s"], 1e6 * track.moments["sigma_x"]]).T)
    assert panel.get_ylim()[0] == 0.0
    assert [t.get_text() for t in panel.get_legend().get_texts()] == [r"$\sigma_x$", r"$\sigma_y$"]
    assert_saves(figure, tmp_path)


def test_curves_between_records_are_those_of_a_drift() -> None:
    beam = make_beam()
    beam.px[:] -= 2e-3 * beam.x / 1e-3 * 0.5  # converging: a waist inside
    start = beam.covariance()
    track = bt.Line([bt.Drift(2.0, model="linear")]).track(beam, record="all")
    s, sigma = track.plot._curve("sigma_x")
    exact = np.sqrt(start[0, 0] + 2 * s * start[0, 1] + s**2 * start[1, 1])
    assert sigma == pytest.approx(exact, rel=1e-9)
    assert sigma.min() < 0.9 * min(sigma[0], sigma[-1])


def test_curves_do_not_pretend_where_nothing_was_recorded() -> None:
    track = (3 * cell()).track(make_beam(), record="ends")
    s, _ = track.plot._curve("sigma_x")
    assert len(s) == 2


def test_quantities_are_grouped_by_sort_and_unit(tmp_path: Path) -> None:
    track = cell().track(make_beam(), record="all")
    figure = track.plot.envelope(
        ["sigma_x", "sigma_px", "emittance_x", "emittance_xn", "emittance_yn", "gamma"]
    )
    labels = [ax.get_ylabel() for ax in figure.axes[:-1]]
    assert [label.partition("[")[0].strip() for label in labels] == [
        r"$\sigma_x$",
        r"$\sigma_{p_x}$",
        r"$\varepsilon_x$",
        r"$\varepsilon_{x,n}$, $\varepsilon_{y,n}$",
        r"$\gamma$",
    ]
    assert_saves(figure, tmp_path)
    single = track.plot.envelope("alpha_x")
    assert len(single.axes) == 2


def test_losses_are_shown_when_there_are_some() -> None:
    line = bt.Line([bt.Drift(0.5), bt.Aperture(x_max=1e-4, y_max=1e-4), bt.Drift(0.5)])
    track = line.track(make_beam(), record="all")
    assert track.n_lost > 0
    panel = track.plot.envelope().axes[1]
    assert panel.get_ylabel() == "particles [%]"
    part = panel.lines[0].get_ydata()
    assert part[0] == 100.0
    assert part[-1] == pytest.approx(100.0 * (500 - track.n_lost) / 500)
    assert len(track.plot.envelope(losses=False).axes) == 2
    assert len(cell().track(make_beam(), record="all").plot.envelope(losses=True).axes) == 3


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("record", ["all", "ends", ["screen"], ["qf"]])
@pytest.mark.parametrize("turns", [1, 3])
def test_silhouette_lies_where_the_beam_went(backward: bool, record: Any, turns: int) -> None:
    beam = make_beam(50)
    track = cell().track(beam, turns, record=record, backward=backward)
    ax = track.plot.envelope().axes[-1]
    centres = sorted(0.5 * (o[:, 0].min() + o[:, 0].max()) for o in outlines(ax))
    s = track.moments["s"]
    shown = [c for c in centres if s.min() < c < s.max()]
    # quadrupoles stand 0.1 m and 0.6 m behind the start of each turn; backwards s runs from 0 down
    for c in shown:
        assert min(abs((c - 0.1 + 0.25) % 1.0 - 0.25), abs((c - 0.6 + 0.25) % 1.0 - 0.25)) < 1e-9
    if record == "all":
        assert len(shown) == 2 * turns


def test_slices_are_points_of_the_curve() -> None:
    line = cell()
    line["qf"].slices = 4
    track = line.track(make_beam(), record="all", record_slices=True)
    s, _ = track.plot._curve("sigma_y")
    assert set(np.round([0.05, 0.1, 0.15], 9)) <= set(np.round(s, 9))
    assert min(o[:, 0].min() for o in outlines(track.plot.envelope().axes[-1])) == pytest.approx(
        0.0
    )


@pytest.mark.parametrize("n", [0, 1])
def test_envelope_of_no_and_one_particle(n: int, tmp_path: Path) -> None:
    track = cell().track(make_beam(n), record="all")
    assert_saves(track.plot.envelope(["sigma_x", "beta_x", "mean_x"], losses=True), tmp_path)


def test_envelope_of_a_line_without_length(tmp_path: Path) -> None:
    track = bt.Line([bt.Kicker(hkick=1e-3)]).track(make_beam(), record="all")
    assert_saves(track.plot.envelope(["mean_px"]), tmp_path)


def test_envelope_of_an_envelope(tmp_path: Path) -> None:
    beam = make_beam()
    envelope = (3 * cell()).envelope(beam.reference, beam.covariance(), record="all")
    figure = envelope.plot.envelope()
    assert len(figure.axes) == 2
    assert len(outlines(figure.axes[-1])) == 6
    assert_saves(figure, tmp_path)


def test_envelope_errors() -> None:
    track = cell().track(make_beam(10), record="all")
    with pytest.raises(KeyError, match="no quantity is named 'sigmax'; did you mean sigma_x"):
        track.plot.envelope(["sigmax"])
    with pytest.raises(KeyError, match="no quantity is named 'kind'"):
        track.plot.envelope("kind")
    with pytest.raises(ValueError, match="no quantities to draw"):
        track.plot.envelope([])
    with pytest.raises(ValueError, match=r'nothing was recorded.*record="all"'):
        cell().track(make_beam(10)).plot.envelope()
