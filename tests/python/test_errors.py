"""Random errors of machines: reproducible, reversible, and what they say they are."""

import math

import betatron as bt
import numpy as np
import pytest

REFERENCE = bt.Reference("electron", kinetic_energy=3e9)


def make_ring(cells=4):
    """Elements shared between cells, as in any ring that is written by hand."""
    qf, qd = bt.Quadrupole(0.3, k1=1.2, name="qf"), bt.Quadrupole(0.3, k1=-1.1, name="qd")
    bend = bt.Bend(1.0, angle=2 * math.pi / (2 * cells), name="b")
    sx, d = bt.Sextupole(0.1, k2=4.0, name="sx"), bt.Drift(0.4)
    return bt.Line(cells * [qf, d, bend, sx, qd, d, bend, d])


def values(line):
    return [e.to_dict() for e in line]


SPEC = {
    "q[fd]": bt.errors.Errors(
        absolute={"dx": 1e-4, "dy": 1e-4, "roll": 2e-4}, relative={"k1": 1e-3}
    ),
    "Bend": {"relative": {"angle": 5e-4}, "absolute": {"roll": 3e-4}},
    "sx": {
        "relative": {"k2": (0.01, 1e-3)},
        "normal": {4: 1e-3},
        "skew": {3: 1e-3},
        "radius": 0.01,
    },
}


def test_the_ideal_line_stays_and_every_place_has_its_own_errors():
    ring = make_ring()
    before = values(ring)
    real = bt.errors.apply(ring, SPEC, seed=1)
    assert values(ring) == before
    assert real.ideal is ring
    strengths = [e.k1 for e in real.line if e.name == "qf"]
    assert len(set(strengths)) == 4
    assert len(real.table) == 4 * (2 * 4 + 2 * 2 + 3)
    row = real.table[(real.table["name"] == "qf") & (real.table["quantity"] == "k1")].iloc[1]
    assert strengths[1] == row["ideal"] + row["error"]
    assert row["error"] == pytest.approx(1.2e-3 * row["sigmas"])
    # elements without errors are not copied
    assert real.line[1] is ring[1]
    assert len(real.line) == len(ring) + 2 * 2 * 4 + 2 * 4  # two thin kicks per bend and sextupole


def test_scaling_and_undoing_to_the_last_bit():
    ring = make_ring()
    real = bt.errors.apply(ring, SPEC, seed=1)
    full = values(real.line)
    real.scale(0.3)
    assert values(real.line) != full
    real.undo()
    assert real.factor == 0
    bare = [e for e in real.line if "_error_" not in e.name]
    assert [e.to_dict() for e in bare] == values(ring)
    matrix = ring.matrix(REFERENCE)
    np.testing.assert_allclose(real.line.matrix(REFERENCE), matrix, rtol=1e-13, atol=1e-13)
    real.scale(1)
    assert values(real.line) == full


def test_knobs_that_were_turned_stay_turned():
    ring = make_ring()
    real = bt.errors.apply(ring, {"qf": {"relative": {"k1": 1e-2}}}, seed=3)
    q = real.line[0]
    q.k1 += 0.25
    real.undo()
    assert q.k1 == pytest.approx(1.45, rel=1e-14)


def test_draws_depend_on_name_and_seed_only():
    first = bt.errors.apply(make_ring(), SPEC, seed=1).table
    again = bt.errors.apply(make_ring(), SPEC, seed=1).table
    assert first.equals(again)
    # other elements and other errors do not matter
    ring = bt.Line([bt.Quadrupole(0.1, k1=1, name="new"), bt.Marker(), make_ring(6)])
    more = {"new": {"absolute": {"dx": 1e-3}}, "qf": {"relative": {"k1": 2e-3}}}
    other = bt.errors.apply(ring, more, seed=1).table
    mine = first[(first["name"] == "qf") & (first["quantity"] == "k1")]
    theirs = other[(other["name"] == "qf") & (other["quantity"] == "k1")]
    np.testing.assert_array_equal(theirs["sigmas"][:4], mine["sigmas"])
    np.testing.assert_allclose(theirs["error"][:4], 2 * mine["error"], rtol=1e-14)
    changed = bt.errors.apply(make_ring(), SPEC, seed=2).table
    assert not (changed["sigmas"] == first["sigmas"]).any()


def test_gaussian_with_a_cut():
    line = bt.Line([bt.Quadrupole(0.1, k1=1.0, name="q")] * 4000)
    for cut, sigma in ((2.0, 0.879626), (1e3, 1.0)):  # of a normal distribution cut at 2 sigma
        table = bt.errors.apply(
            line, {"q": {"absolute": {"dx": (1e-4, 1e-5)}, "cut": cut}}, seed=5
        ).table
        assert table["sigmas"].abs().max() <= cut
        assert table["error"].mean() == pytest.approx(1e-4, abs=5e-7)
        assert table["error"].std() == pytest.approx(sigma * 1e-5, rel=0.04)
        # one normal distribution, and neighbours know nothing of each other
        assert abs(np.corrcoef(table["sigmas"][1:], table["sigmas"][:-1])[0, 1]) < 0.05


def test_multipole_errors_are_fields_relative_to_the_main_field():
    """By its definition: at the radius, the field of order n is b_n times the main field."""
    radius, b5, a3 = 0.013, 3e-4, -2e-4
    q = bt.Quadrupole(0.4, k1=-1.7, name="q", dx=1e-3, roll=0.1)
    exact = {"normal": {5: (b5, 0)}, "skew": {3: (a3, 0)}, "radius": radius}
    real = bt.errors.apply(bt.Line([q]), {"q": exact}, seed=1)
    assert [e.kind for e in real.line] == ["Multipole", "Quadrupole", "Multipole"]
    knl = np.sum([real.line[i].knl for i in (0, 2)], axis=0)
    ksl = np.sum([real.line[i].ksl for i in (0, 2)], axis=0)
    main = q.k1 * q.length * radius
    assert knl[5] * radius**5 / math.factorial(5) == pytest.approx(b5 * main)
    assert ksl[3] * radius**3 / math.factorial(3) == pytest.approx(a3 * main)
    assert np.count_nonzero(knl) == np.count_nonzero(ksl) == 1
    for i in (0, 2):
        assert (real.line[i].dx, real.line[i].roll) == (q.dx, q.roll)


def test_kicks_move_with_their_magnet():
    spec = {"absolute": {"dx": 1e-4}, "normal": {2: 1e-3}, "radius": 0.01}
    real = bt.errors.apply(bt.Line([bt.Quadrupole(0.4, k1=1.7, name="q")]), {"q": spec}, seed=1)
    assert real.line[0].dx == real.line[1].dx == real.line[2].dx != 0
    real.undo()
    assert real.line[0].dx == 0


def test_all_six_degrees_of_freedom_and_kicks_that_move_with_a_bend():
    places = ("dx", "dy", "dz", "pitch", "yaw", "roll")
    spec = {"absolute": dict.fromkeys(places, 1e-3), "normal": {1: 1e-3}, "radius": 0.01}
    bend = bt.Bend(1.0, angle=0.5, name="b", pivot="center", model="exact")
    real = bt.errors.apply(bt.Line([bend]), {"b": spec}, seed=1)
    assert sorted(real.table["quantity"]) == sorted([*places, "normal_1"])
    first, moved, last = real.line
    assert moved.pivot == "center" and all(getattr(moved, q) != 0 for q in places)
    for kick, place in ((first, 0.0), (last, 1.0)):
        assert {q: getattr(kick, q) for q in places} == moved.alignment_at(place)
    assert first.dz != last.dz
    real.scale(0.5)
    assert {q: getattr(last, q) for q in places} == moved.alignment_at(1.0)
    real.undo()
    assert all(getattr(e, q) == 0 for e in real.line for q in places)


def test_uniform_errors():
    line = bt.Line([bt.Quadrupole(0.1, k1=1.0, name="q")] * 2000)
    spec = {"q": {"absolute": {"yaw": (1e-4, 3e-5)}, "shape": "uniform"}}
    table = bt.errors.apply(line, spec, seed=5).table
    assert table["sigmas"].abs().max() <= 1
    assert table["sigmas"].std() == pytest.approx(1 / math.sqrt(3), rel=0.03)
    assert table["error"].mean() == pytest.approx(1e-4, abs=2e-6)
    assert table["error"].between(7e-5, 1.3e-4).all()
    with pytest.raises(ValueError, match="shape = 'normal' must be one of gaussian, uniform"):
        bt.errors.Errors(shape="normal")


def test_a_field_error_of_a_bend_deflects_particles_not_the_reference():
    bend = bt.Bend(1.0, angle=0.2, name="b", model="exact")
    line = bt.Line([bend, bt.Drift(1.0)])
    error = 1e-4
    real = bt.errors.apply(line, {"b": {"relative": {"angle": (error, 0)}}}, seed=1)
    end, ideal = real.line.survey(REFERENCE).iloc[-1], line.survey(REFERENCE).iloc[-1]
    assert (end["x"], end["z"], end["theta"]) == (ideal["x"], ideal["z"], ideal["theta"])
    beam = bt.Beam(REFERENCE, n=1)
    real.line.track(beam)
    # more field bends further, to -x, by the angle times the error
    assert beam.px[0] == pytest.approx(-0.2 * error, rel=0.02)


def test_a_random_orbit_grows_with_the_errors():
    ring = make_ring(6)
    sizes = []
    for factor in (0.5, 1.0):
        real = bt.errors.apply(ring, {"q[fd]": {"absolute": {"dx": 1e-5}}}, seed=11)
        real.scale(factor)
        beam = bt.Beam(REFERENCE, n=1)
        real.line.track(beam)
        sizes.append(beam.x[0])
    assert sizes[1] == pytest.approx(2 * sizes[0], rel=1e-2)
    assert sizes[1] != 0


def test_wrong_arguments():
    ring = make_ring()
    apply, Errors = bt.errors.apply, bt.errors.Errors
    with pytest.raises(KeyError, match="no element is named 'qq'"):
        apply(ring, {"qq": Errors()}, seed=1)
    with pytest.raises(KeyError, match="the line has no Solenoid"):
        apply(ring, {"Solenoid": Errors()}, seed=1)
    with pytest.raises(KeyError, match="Quadrupole 'qf' has no parameter 'k7'"):
        apply(ring, {"qf": Errors(absolute={"k7": 1.0})}, seed=1)
    with pytest.raises(TypeError, match="no real number"):
        apply(ring, {"qf": Errors(absolute={"slices": 1.0})}, seed=1)
    with pytest.raises(ValueError, match="errors of k1 are given twice"):
        apply(
            ring, {"qf": Errors(relative={"k1": 1e-3}), "q.": Errors(absolute={"k1": 1e-3})}, seed=1
        )
    with pytest.raises(ValueError, match="relative to the main field of Bend, Quadrupole"):
        apply(
            bt.Line([bt.Drift(1.0, name="d")]), {"d": Errors(normal={2: 1e-3}, radius=0.01)}, seed=1
        )
    gradient = bt.Line([bt.Quadrupole(1.0, gradient=3.0, name="q")])
    with pytest.raises(ValueError, match="not as a gradient"):
        apply(gradient, {"q": Errors(normal={2: 1e-3}, radius=0.01)}, seed=1)
    with pytest.raises(ValueError, match="need a radius > 0"):
        Errors(normal={2: 1e-3})
    with pytest.raises(ValueError, match=r"cut = 0 must be > 0"):
        Errors(cut=0)
    with pytest.raises(ValueError, match="standard deviation >= 0"):
        Errors(relative={"k1": -1e-3})
    with pytest.raises(TypeError, match="must be a number"):
        Errors(relative={"k1": "much"})
    with pytest.raises(KeyError, match="'relatve' is none of"):
        apply(ring, {"qf": {"relatve": {}}}, seed=1)
    with pytest.raises(TypeError, match=r"needs betatron\.errors\.Errors"):
        apply(ring, {"qf": 1e-3}, seed=1)
    with pytest.raises(ValueError, match="seed = -1"):
        apply(ring, {}, seed=-1)
    with pytest.raises(ValueError, match="factor = nan"):
        apply(ring, {}, seed=1).scale(math.nan)
