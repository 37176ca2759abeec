"""Gradients where they are hard to take: particles that overflow, beams that cannot be rewound, maps without
inverse."""

import betatron as bt
import numpy as np
import pytest
from betatron import _core, losses
from betatron.beam import COORDINATES
from hypothesis import given, settings
from hypothesis import strategies as st
from test_physics import MODELS, SCALE, element

ELECTRONS = bt.Reference("electron", kinetic_energy=1e9)
SLOW = bt.Reference("electron", kinetic_energy=20e6)


def beam_of(ref, z, precision="double"):
    beam = bt.Beam.from_arrays(ref, **dict(zip(COORDINATES, np.array(z), strict=True)))
    return beam.copy(precision=precision)


def normal(seed, n, size=1e-4):
    return np.random.default_rng(seed).normal(size=(6, n)) * size


# --- particles that overflow ----------------------------------------------------------------------


def octupole_cell():
    return bt.Line(
        [
            bt.Quadrupole(0.2, k1=1.5, name="qf"),
            bt.Drift(1.0),
            bt.Octupole(0.2, k3=2000.0),
            bt.Drift(0.5),
            bt.Quadrupole(0.2, k1=-1.5, name="qd"),
            bt.Drift(1.5),
        ]
    )


def overflowing():
    """Healthy particles and one that goes to infinity within some turns."""
    z = normal(1, 20)
    z[0, 3] = 0.05
    return z


@pytest.mark.parametrize("precision", ["double", "single"])
def test_a_particle_that_overflows_does_not_spoil_the_gradient(precision):
    line, beam = octupole_cell(), beam_of(ELECTRONS, overflowing(), precision)
    # records in the turns before it is lost see it: its part is large there
    for goal in (losses.beam_size("x"), losses.of_moments(lambda m: m.sigma("x"), at="qf")):
        forward = line.gradient(beam, goal, "k1", turns=20, strategy="forward")
        assert forward.lost == [3] and np.all(np.isfinite(forward.derivatives))
        for strategy in ("auto", "checkpoint"):
            g = line.gradient(beam, goal, "k1", turns=20, strategy=strategy, initial=True)
            tolerance = 1e-9 if precision == "double" else 1e-2
            assert np.allclose(g.derivatives, forward.derivatives, rtol=tolerance)
            assert np.all(np.isfinite(g.initial))
    assert np.all(g.initial[:4, 3] != 0)  # seen in its first turns


def test_second_derivatives_beside_a_particle_that_overflows():
    line, beam = octupole_cell(), beam_of(ELECTRONS, overflowing())

    def product(**options):
        return line.hessian_vector(beam, losses.beam_size("x"), "k1", [1, 0.5], turns=20, **options)

    exact, differences = product(method="exact"), product(method="differences")
    assert np.allclose(exact.values, differences.values, rtol=1e-9)


def test_kicks_beside_a_particle_that_overflows():
    line, beam = octupole_cell(), beam_of(ELECTRONS, overflowing())
    beam.set_charge(1e-12)
    focus = line.elements[0]

    def gradient(**how):
        return line.gradient(
            beam,
            losses.beam_size("x"),
            [("qf", "k1")],
            turns=20,
            space_charge=bt.SpaceChargeGaussian(order=1),
            **how,
        )

    def at(k1):
        focus.k1 = k1
        return gradient().value

    h = 1e-6
    difference = (8 * (at(1.5 + h) - at(1.5 - h)) - at(1.5 + 2 * h) + at(1.5 - 2 * h)) / (12 * h)
    focus.k1 = 1.5
    for strategy in ("auto", "checkpoint"):
        g = gradient(strategy=strategy, initial=True)
        assert g.lost == [3] and np.all(np.isfinite(g.initial))
        assert g["qf", "k1"] == pytest.approx(difference, rel=1e-6)


@pytest.mark.parametrize("precision", ["double", "single"])
def test_states_beside_particles_that_overflow(precision):
    # most of them within one element, and in single precision lanes of a pack are empty
    stage = bt.PlasmaStage(0.01, density=1e21, acceleration=1e8, slope=1e12, dx=2e-3)
    line = bt.Line([bt.Quadrupole(0.1, k1=2, name="a"), stage])
    options = {"reference_energy": True}
    for n in (12, 9):
        few = beam_of(SLOW, normal(0, 12, 1e-3)[:, :n], precision)
        forward = line.gradient(few, losses.beam_size("x"), "k1", strategy="forward", **options)
        kept = line.gradient(few, losses.beam_size("x"), "k1", strategy="checkpoint", **options)
        assert len(kept.lost) > 4
        tolerance = 1e-9 if precision == "double" else 0.1
        assert np.allclose(kept.derivatives, forward.derivatives, rtol=tolerance)
        assert np.isclose(kept.reference_energy, forward.reference_energy, rtol=tolerance)


def test_derivatives_that_overflow_are_an_error():
    line = bt.Line([bt.Quadrupole(0.1, k1=2.0, name="q"), bt.Drift(1.0)])
    huge = losses.of_particles(lambda z: (0.0, np.full(z.shape, 1e308)))
    with pytest.raises(
        RuntimeError, match=r"derivative of the loss by k1 of Quadrupole 'q' is not"
    ):
        line.gradient(beam_of(SLOW, normal(1, 50, 1.0)), huge, "k1")
    with pytest.raises(RuntimeError, match="by the initial x of particle 0 is not finite"):
        line.gradient(beam_of(SLOW, normal(1, 50)), huge, initial=True)


# --- beams that cannot be rewound -----------------------------------------------------------------


@st.composite
def lines(draw):
    """Stable and unstable ones, with foci in between, of elements that are strong or weak."""
    seed = draw(st.integers(0, 10**6))
    r = np.random.default_rng(seed)
    strong = 10 ** r.uniform(-0.5, 1.5)
    elements = [bt.Quadrupole(0.1, k1=1.0, name="first")]
    for i in range(int(10 ** r.uniform(0.5, 1.7))):
        kind = r.integers(7)
        if kind < 4:
            model = str(r.choice(["linear", "paraxial", "exact"]))
            k1 = strong * r.normal()
            elements.append(bt.Quadrupole(r.uniform(0.05, 0.3), k1=k1, model=model, name=f"q{i}"))
        elif kind == 4:
            elements.append(bt.Bend(r.uniform(0.2, 0.5), angle=0.1 * r.normal()))
        elif kind == 5:
            voltage, phase = 1e5 * r.normal(), r.uniform(-3, 3)
            elements.append(bt.RFCavity(0.2, voltage=voltage, frequency=1e9, phase=phase))
        elements.append(bt.Drift(10 ** r.uniform(-1, 1)))
    z = r.normal(size=(6, 200)) * 10 ** r.uniform(-7, -3, size=(6, 1))
    z[5] *= 0.1
    if r.random() < 0.3:
        z[:, 0] *= 1000  # one that is far from the others
    return bt.Line(elements), z, int(r.integers(len(elements)))


@settings(max_examples=60, deadline=None)
@given(lines(), st.sampled_from(["double", "single"]), st.sampled_from(["x", "y", "t"]))
def test_what_is_rewound_is_as_exact_as_tolerated(drawn, precision, coordinate):
    line, z, place = drawn
    beam = beam_of(SLOW, z, precision)
    goal = losses.beam_size("x") + losses.beam_size(coordinate, at=place)
    try:
        kept = line.gradient(beam, goal, "k1", initial=True, strategy="checkpoint")
    except (ValueError, RuntimeError) as error:
        assert "finite" in str(error)  # a beam or derivatives that overflow
        return
    g = line.gradient(beam, goal, "k1", initial=True)
    tolerance = 1e-8 if precision == "double" else 1e-3
    assert g.strategy == "checkpoint" or g.relative_rewind_error <= tolerance
    off = np.abs(g.derivatives - kept.derivatives).max()
    assert off <= tolerance * np.abs(kept.derivatives).max()


@pytest.mark.parametrize("precision", ["double", "single"])
def test_a_beam_that_grows_cannot_be_rewound(precision):
    """Of a beam 5 million times (in single precision 2000 times) as large at the end, rounding is all that is left at
    the start, whatever is long and far away."""
    n = 40 if precision == "double" else 20
    line = bt.Line(
        [e for _ in range(n) for e in (bt.Quadrupole(0.1, k1=-8, model="linear"), bt.Drift(0.1))]
    )
    z = normal(0, 500, 1e-6)
    z[5] *= 100
    for change in ({}, {4: 1e6}):
        changed = z.copy()
        for c, factor in change.items():
            changed[c] *= factor
        changed[2, 0] = 1.0 if change else changed[2, 0]
        beam = beam_of(SLOW, changed, precision)
        assert line.gradient(beam, losses.beam_size("x"), "k1").strategy == "checkpoint"
        with pytest.raises(RuntimeError, match="rewound beam is off by"):
            line.gradient(beam, losses.beam_size("x"), "k1", strategy="rewind")
    product = line.hessian_vector(beam_of(SLOW, z), losses.beam_size("x"), "k1", np.ones(2 * n)[:n])
    assert product.method == "differences" and "rewound beam" in product.obstacle


@pytest.mark.parametrize("precision", ["double", "single"])
def test_ordinary_beams_are_rewound(precision):
    """Also those without extent in some coordinates."""
    line = bt.Line(
        [
            bt.Quadrupole(0.2, k1=1.5),
            bt.Drift(0.8),
            bt.Quadrupole(0.2, k1=-1.5),
            bt.Drift(0.8),
            bt.RFCavity(0.1, voltage=1e4, frequency=1e8),
        ]
        * 50
    )
    for absent in ((), (5,), (4, 5), (1, 3), (0, 2), (0, 1, 4, 5), (1, 2, 3, 4, 5)):
        z = normal(0, 300, 1e-4)
        z[list(absent)] = 0
        for n in (300, 1):
            g = line.gradient(beam_of(ELECTRONS, z[:, :n], precision), losses.centroid("x"), "k1")
            assert g.strategy == "rewind", (absent, n, g.relative_rewind_error)


# --- maps without inverse -------------------------------------------------------------------------


@pytest.mark.parametrize("degree", [2, 3])
def test_taylor_maps_need_no_inverse(degree):
    rng = np.random.default_rng(degree)
    terms = {2: 28, 3: 84}[degree]
    rows = rng.normal(size=(6, terms))
    rows[:, 0] *= 1e-4
    rows[:, 1:7] = np.eye(6) + 0.1 * rows[:, 1:7]
    series = bt.TaylorMap(rows.ravel().tolist(), centre=[1e-4] * 6, length=0.2, roll=0.1, name="t")
    cavity = bt.RFCavity(0.1, voltage=1e5, frequency=1e9, name="rf")
    line = bt.Line([bt.Quadrupole(0.1, k1=2, name="a"), cavity, series, cavity])
    beam = beam_of(SLOW, normal(1, 13, 1e-3))
    goal = losses.beam_size("x", at="t") + 0.1 * losses.beam_size("pt")
    parameters = ["k1", "voltage", "coefficients", "centre", "dx"]
    g = line.gradient(beam, goal, parameters, initial=True, reference_energy=True)
    forward = line.gradient(beam, goal, parameters, reference_energy=True, strategy="forward")
    assert g.strategy == "checkpoint" and len(g.knobs) == 3 + 6 * terms + 6 + 2
    scale = np.abs(forward.derivatives * [k.parameter != "voltage" for k in g.knobs]).max()
    assert np.allclose(g.derivatives, forward.derivatives, rtol=1e-9, atol=1e-10 * scale)
    assert g["rf", "voltage"] == pytest.approx(forward["rf", "voltage"], rel=1e-9)
    assert g.reference_energy == pytest.approx(forward.reference_energy, rel=1e-9)

    direction = normal(2, 13, 1.0)

    def along(h):
        return line.gradient(beam_of(SLOW, normal(1, 13, 1e-3) + h * direction), goal).value

    h = 1e-5
    difference = (8 * (along(h) - along(-h)) - along(2 * h) + along(-2 * h)) / (12 * h)
    assert np.sum(g.initial * direction) == pytest.approx(difference, rel=1e-7)
    with pytest.raises(
        ValueError, match=r"through TaylorMap 't', whose map .* allowed: .* auto or"
    ):
        line.gradient(beam, goal, "k1", strategy="rewind")
    product = line.hessian_vector(beam, goal, "k1", [1.0])
    assert product.method == "differences" and "TaylorMap 't'" in product.obstacle


# --- parameters that are 0 ------------------------------------------------------------------------

# on which things vary, in any line; 0.1 for all else
USUAL = {"density": 1e20, "slope": 1e11, "acceleration": 1e8, "voltage": 1e5, "amplitude": 1e6}
CENTRAL = {1: 4 / 5, 2: -1 / 5, 3: 4 / 105, 4: -1 / 280}
FORWARD = {0: -25 / 12, 1: 4.0, 2: -3.0, 3: 4 / 3, 4: -1 / 4}


def differences(function, size, one_sided):
    """Derivatives at 0 with a range of steps."""
    for h in size * 4.0 ** -np.arange(2, 9):
        if one_sided:
            yield sum(w * function(j * h) for j, w in FORWARD.items()) / h
        else:
            yield sum(w * (function(j * h) - function(-j * h)) for j, w in CENTRAL.items()) / h


KINDS = [k for k in bt.kinds() if k not in ("Aperture", "PolygonAperture", "PlasmaStage")]


def usual_values(kind):
    """Numbers that are not 0, where a kind has any."""
    values = {
        "matrix": np.eye(6).ravel().tolist(),
        "coefficients": np.eye(6, 7, 1).ravel().tolist(),
    }
    sizes = {"Hz": 1e9, "V": 1e5, "V/m": 1e6, "T": 0.05, "T/m": 0.5, "m": 0.2}
    for p in bt.kinds()[kind]:
        if p["type"] == "float" and p["name"] not in ("x_max", "y_max"):
            size = (
                0.3
                if p["name"] == "length"
                else sizes.get(p["unit"], 0.7 * SCALE.get(p["unit"], 1))
            )
            values[p["name"]] = max(p["minimum"], min(p["maximum"], size))
    return {
        name: value
        for name, value in values.items()
        if any(name == p["name"] for p in bt.kinds()[kind])
    }


STAGES = [{"wake": "blowout"}, {"wake": "linear", "width": 1e-3}, {"wake": "linear"}]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    ("kind", "values"),
    [("PlasmaStage", {"length": 0.01, "density": 1e20, "acceleration": 1e8, **s}) for s in STAGES]
    + [(kind, None) for kind in KINDS],
)
def test_derivatives_at_zero(kind, values, model):
    """By every number of every kind that may be 0, in turn."""
    ref = SLOW
    if values is None:
        values = usual_values(kind)
    rng = np.random.default_rng(1)
    z = normal(1, 12, 1e-5)
    covector, curvature = rng.normal(size=z.shape), 1e4 * rng.normal(size=z.shape)
    goal = losses.of_particles(
        lambda z: (
            np.sum(covector * z + curvature * z**2 / 2),
            covector + curvature * z,
        )
    )
    for p in bt.kinds()[kind]:
        name = p["name"]
        if p["type"] != "float" or name == "length" or p["open_below"] or p["minimum"] > 0:
            continue
        try:
            e = element(kind, model, {**values, name: 0.0})
        except ValueError as error:
            assert "allowed" in str(error)
            continue
        line = bt.Line([bt.Quadrupole(0.1, k1=2.0), e, bt.Drift(0.5)])
        if (e, name, -1) not in _core.knobs_of([e]):
            continue
        beam = beam_of(ref, z)
        try:
            g = line.gradient(beam, goal, [(e, name)])
        except ValueError as error:
            assert "cannot be differentiated" in str(error) or "allowed" in str(error)
            continue
        forward = line.gradient(beam, goal, [(e, name)], strategy="forward").derivatives[0]
        found = g.derivatives[0]
        size = USUAL.get(name, 0.1)

        def at(x, e=e, name=name, line=line, beam=beam):
            setattr(e, name, x)
            return line.gradient(beam, goal).value

        best = min(differences(at, size, p["minimum"] >= 0), key=lambda d: abs(d - found))
        noise = 1e-9 * abs(g.value) / size
        assert abs(found - best) <= 1e-6 * abs(best) + noise, (name, found, best)
        assert abs(found - forward) <= 1e-8 * abs(best) + noise, (name, found, forward)


@pytest.mark.parametrize("kind", ["Drift", "Quadrupole", "Bend", "Solenoid", "Instrument"])
def test_lengths_of_zero(kind):
    """What a little length does, where it is that of a thick element."""
    values = {"Quadrupole": {"k1": 2.0}, "Solenoid": {"ks": 0.5}, "Bend": {"k1": 1.0}}.get(kind, {})
    e = getattr(bt, kind)(length=0.0, name="e", **values)
    line = bt.Line([bt.Quadrupole(0.1, k1=2.0, name="q"), e, bt.Drift(0.5)])
    beam = beam_of(SLOW, normal(1, 50))
    goal = losses.beam_size("x")
    g = line.gradient(beam, goal, "length")
    assert len(g.knobs) == 3

    def at(length):
        e.length = length
        return line.gradient(beam, goal).value

    assert g["e", "length"] == pytest.approx(
        sum(w * at(1e-3 * j) for j, w in FORWARD.items()) / 1e-3, rel=1e-6
    )


KICKS = {
    "gaussian": lambda order: bt.SpaceChargeGaussian(tolerance=1e-10, order=order),
    "plane": lambda order: bt.SpaceCharge2D(0.1, cells=(16, 16), shape="cubic", order=order),
    "mesh": lambda order: bt.SpaceCharge3D(cells=(12, 12, 12), shape="cubic", order=order),
    "wall": lambda order: bt.Wake(
        bt.ResistiveWall(5e-3, 5.9e7), bins=40, shape="quadratic", order=order
    ),
    "apart": lambda order: bt.SpaceChargeGaussian("2.5D", spacing=0.02, bins=30, order=order),
}


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("name", KICKS)
def test_lengths_of_zero_beside_kicks(name, order):
    """A little length brings a little kick."""
    e = bt.Drift(0.0, name="e", slices=2, dx=1e-4, roll=0.3)
    q = bt.Quadrupole(0.1, k1=2.0, name="q")
    line = bt.Line([q, e, bt.Drift(0.5), e, bt.Marker(name="m")])
    beam = beam_of(SLOW, normal(1, 50))
    beam.set_charge(1e-11)
    goal, effect = 1e6 * losses.beam_size("x") + 1e3 * losses.energy_spread(), [KICKS[name](order)]
    for parameters in ("all", [(e, "length")]):
        g = line.gradient(beam, goal, parameters, collective=effect)
        without = line.gradient(beam, goal, parameters)

    def at(length):
        e.length = length
        return line.gradient(beam, goal, collective=effect).value

    h = 1e-4
    expected = sum(w * at(h * j) for j, w in FORWARD.items()) / h
    assert g.derivatives[0] == pytest.approx(expected, rel=1e-5)
    assert abs(g.derivatives[0] / without.derivatives[0] - 1) > 1e-3, "the effect does nothing"


@pytest.mark.parametrize("model", ["2D", "3D"])
def test_lengths_of_zero_of_envelopes(model):
    e = bt.Drift(0.0, name="e")
    line = bt.Line([bt.Quadrupole(0.1, k1=2.0), e, bt.Drift(0.5)])
    cov = np.diag([1e-6, 1e-6, 2e-6, 1e-6, 1e-5, 1e-6])
    options = {"2D": {"current": 2.0}, "3D": {}}[model]
    for order in (1, 2):
        sc = bt.SpaceChargeEnvelope(model, order=order, **options)
        charge = {"2D": {}, "3D": {"charge": 1e-9}}[model]

        def at(length, sc=sc, charge=charge):
            e.length = length
            return line.envelope_gradient(
                SLOW, cov, losses.beam_size("x"), "length", space_charge=sc, **charge
            )

        g = at(0.0)
        expected = sum(w * at(1e-3 * j).value for j, w in FORWARD.items()) / 1e-3
        assert g["e", "length"] == pytest.approx(expected, rel=1e-7)
        kicks = line.envelope_gradient(SLOW, cov, losses.beam_size("x"), [(e, "length")])
        assert abs(g["e", "length"] / kicks["e", "length"] - 1) > 1e-3, "the effect does nothing"


@pytest.mark.parametrize("length", [0.0, 1e-5])
@pytest.mark.parametrize("model", ["steady_state", "transient"])
def test_short_lengths_behind_bends(model, length):
    """The orbit behind is asked for no negative lengths."""
    e = bt.Drift(length, name="e")
    line = bt.Line([bt.Bend(0.3, angle=0.1), e, bt.Bend(0.3, angle=-0.12), bt.Drift(0.2)])
    ref = bt.Reference("electron", kinetic_energy=50e6)
    beam = beam_of(ref, normal(1, 60))
    beam.set_charge(1e-9)
    options = {"collective": bt.CSR(20, model, shape="quadratic", smoothing=1)}

    def at(more):
        e.length = length + more
        return line.gradient(beam, losses.energy_spread(), [(e, "length")], **options)

    expected = sum(w * at(1e-3 * j).value for j, w in FORWARD.items()) / 1e-3
    assert at(0.0)["e", "length"] == pytest.approx(expected, rel=3e-4)


def test_thin_elements_have_no_length_to_vary():
    line = bt.Line([bt.Kicker(0.0, hkick=1e-4, name="k"), bt.Drift(1.0)])
    with pytest.raises(KeyError, match="no number 'length' to differentiate by: it is thin"):
        line.gradient(beam_of(SLOW, normal(1, 5)), losses.centroid("x"), [("k", "length")])
