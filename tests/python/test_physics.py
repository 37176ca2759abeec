"""Laws that every element obeys in every model and precision, over random parameters.

Elements come from the registry: a new kind is tested from the moment it exists. Random values are drawn
by the unit of a parameter, so that they are what a machine would have.
"""

from __future__ import annotations

import math

import betatron as bt
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

S = np.zeros((6, 6))
for i in (0, 2, 4):
    S[i, i + 1], S[i + 1, i] = 1.0, -1.0

MODELS = ("linear", "paraxial", "exact")
PRECISIONS = ("double", "single")
EPS = {"double": 2.2e-16, "single": 1.2e-7}

# typical size by unit; lengths are drawn apart
SCALE = {
    "1/m": 2.0, "1/m^2": 10.0, "1/m^3": 50.0, "1/m^4": 500.0, "rad": 0.4, "1": 0.6,
    # in units of the rigidity and of the kinetic energy, see `draw`
    "T/m": 10.0, "T": 2.0, "V": 0.2, "V/m": 0.2, "V/m^2": 0.2,
}  # fmt: skip

# strengths given as fields, which act with the sign of the charge
FIELDS = ("gradient", "gradient_length", "field")
# and others that do, without a unit
CHARGED = (*FIELDS, "focusing")

# kinds that change the energy of the reference particle
ACCELERATING = ("RFCavity", "RFFieldMap", "UniformAcceleration", "PlasmaStage")
# and those that change the energies of particles
CHANGE_ENERGY = (*ACCELERATING, "Buncher", "CrabCavity", "ConstantFocusing")

# kinds whose slices are pieces of one exact flow; the others are integrated, or act at one place
FLOWS = (
    "Drift", "Quadrupole", "PlasmaLens", "Bend", "Solenoid", "ConstantFocusing", "Instrument", "UniformAcceleration",
    "Undulator",
)  # fmt: skip
SYMPLECTIC = tuple(
    k for k in bt.kinds() if k not in ("LinearMap", "TaylorMap", "Aperture", "PolygonAperture")
)


def number(parameter: dict) -> st.SearchStrategy:
    """Random values of a parameter with a unit."""
    name, unit = parameter["name"], parameter["unit"]
    if name == "length":
        return st.floats(0.02, 1.5)
    if name in ("hgap", "x_max", "y_max"):
        return st.floats(0.005, 0.05)
    if unit == "Hz":
        return st.floats(1e8, 3e9)
    if name == "density":  # in units of the momentum, see `draw`
        return st.floats(0.0, 1.0)
    if name == "ramp_end":
        return st.floats(0.01, 1.0)
    if name in ("ramp_up", "ramp_down", "width", "slip"):  # see `draw`
        return st.floats(0.0, 1.0) | st.just(0.0)
    if name.startswith("offset"):
        return st.floats(-0.05, 0.05)
    if unit == "m":  # a reference length, or a period
        return st.floats(0.1, 1.0) if parameter["open_below"] else st.just(0.0)
    scale = SCALE[unit]
    low = 0.0 if parameter["minimum"] >= 0 else -scale
    return st.floats(low, min(scale, parameter["maximum"])) | st.just(0.0)


def parameters(kind: str) -> st.SearchStrategy:
    """Random parameters of a kind."""
    fields = {}
    for p in bt.kinds()[kind]:
        if p["name"] == "matrix":
            fields["matrix"] = st.just(np.eye(6).ravel().tolist())
        elif p["name"] == "coefficients":
            fields["coefficients"] = st.just(np.eye(6, 7, 1).ravel().tolist())
        elif p["name"] == "centre":
            fields["centre"] = st.just([]) | st.just([1e-3, 0.0, 0.0, -1e-3, 0.0, 0.0])
        elif p["name"] in ("rotation", "slopes"):
            count = 3 if p["name"] == "rotation" else 18
            fields[p["name"]] = st.lists(st.floats(-3, 3), min_size=count, max_size=count)
        elif p["name"] in ("cosine", "sine"):
            fields[p["name"]] = st.just([]) | st.tuples(
                *(st.floats(-s, s) for s in (2.0, 1.0, 0.3))
            ).map(list)
        elif p["type"] == "list":
            fields[p["name"]] = st.tuples(*(st.floats(-s, s) for s in (1e-3, 0.5, 5.0, 50.0))).map(
                list
            )
        elif p["type"] == "float":
            fields[p["name"]] = number(p)
        elif p["choices"]:
            fields[p["name"]] = st.sampled_from(p["choices"])
    return st.fixed_dictionaries(fields)


def draw(data: st.DataObject, kind: str, ref: bt.Reference) -> dict:
    """Random parameters of a kind for this reference particle."""
    values = data.draw(parameters(kind))
    for name in FIELDS:
        if name in values:
            values[name] *= ref.rigidity
    for name in ("voltage", "amplitude", "acceleration", "slope"):
        if name in values:
            values[name] *= ref.kinetic_energy
    if kind == "PlasmaStage":  # phases of the betatron oscillation of about 1 rad
        radius = 2.8179403205e-15 * 510998.95 / ref.species.mass
        values["density"] *= ref.beta_gamma / (2 * math.pi * radius)
        if values["wake"] == "linear":  # waves that are long against the distances of particles
            values["density"] = min(values["density"], 1e17)
        values["ramp_up"] *= 0.5 * values["length"]
        values["ramp_down"] *= 0.5 * values["length"]
        values["slip"] *= 0.01
        if values["wake"] == "linear" and values["width"]:
            values["density"] += 1.0
            wave = math.sqrt(4 * math.pi * 2.8179403205e-15 * values["density"])
            gain = abs(values["acceleration"]) / ref.species.mass
            values["width"] = (1 + values["width"]) * math.sqrt(
                4 * gain / (wave * ref.beta_gamma) + 1e-4
            )
    if kind == "Undulator":
        values["strength"] *= ref.beta_gamma
    if kind == "ConstantFocusing":  # else pt = -(kt beta gamma)^2 t of a t that is rounding
        values["kt"] /= ref.beta_gamma
    return values


alignments = st.one_of(
    st.just({}),
    st.fixed_dictionaries(
        {
            "dx": st.floats(-1e-3, 1e-3),
            "dy": st.floats(-1e-3, 1e-3),
            "roll": st.floats(-math.pi, math.pi),
        }
    ),
    st.fixed_dictionaries(
        {
            **{name: st.floats(-1e-3, 1e-3) for name in ("dx", "dy")},
            # of 1 mm, ConstantFocusing with kt = 1 1/m makes a pt above 1
            "dz": st.floats(-1e-5, 1e-5),
            **{name: st.floats(-0.02, 0.02) for name in ("pitch", "yaw")},
            "roll": st.floats(-math.pi, math.pi),
            "pivot": st.sampled_from(["entrance", "center"]),
        }
    ),
)
species = st.sampled_from(["electron", "positron", "proton", "antiproton", "H-", "muon"])
# beta from 0.05 to 1 - 1e-12
beta_gammas = st.floats(math.log(0.05), math.log(7e5)).map(math.exp)
references = st.builds(lambda s, bg: bt.Reference(s, beta_gamma=bg), species, beta_gammas)
particles = st.tuples(*(st.floats(-1.0, 1.0) for _ in range(6))).map(
    lambda u: (
        np.array(u) * [2e-3, 2e-3, 2e-3, 2e-3, 5e-3, 0.0] + np.array([0, 0, 0, 0, 0, u[5] * 5e-3])
    )
)


def element(kind: str, model: str, values: dict, **common: object) -> bt.Element:
    return getattr(bt, kind)(**values, model=model, order=common.pop("order", 4), steps=2, **common)


def size(ref: bt.Reference, z: np.ndarray) -> np.ndarray:
    """pt in units of the momentum: at low energy a relative momentum is pt beta."""
    z = z.copy()
    z[5] *= ref.beta
    return z


def track(
    line: bt.Line, ref: bt.Reference, z: np.ndarray, precision: str = "double", **how: object
):
    """Coordinates (6, n) of particles behind the line, and the beam."""
    dtype = np.float64 if precision == "double" else np.float32
    columns = np.atleast_2d(np.asarray(z, dtype=np.float64).T).T
    names = ("x", "px", "y", "py", "t", "pt")
    beam = bt.Beam.from_arrays(
        ref.copy(), **{n: columns[i].astype(dtype) for i, n in enumerate(names)}
    )
    line.track(beam, **how)
    return np.array(beam.array, dtype=np.float64), beam


def scaled(ref: bt.Reference, z: np.ndarray) -> np.ndarray:
    return size(ref, z)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("kind", SYMPLECTIC)
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_symplectic(kind: str, model: str, data: st.DataObject) -> None:
    """J^T S J = (p0_in/p0_out) S at a random particle, to rounding."""
    ref = data.draw(references)
    z = scaled(ref, data.draw(particles))
    e = element(kind, model, draw(data, kind, ref), **data.draw(alignments))
    line = bt.Line([e])
    end = line.survey(ref).iloc[-1]
    ratio = ref.beta_gamma / math.sqrt(end.gamma**2 - 1) if e.kind in ACCELERATING else 1.0
    j = line.matrix(ref, z)
    assume(np.all(np.isfinite(j)))
    error = j.T @ S @ j - ratio * S
    # every entry is a sum of products of entries of j, each rounded
    bound = np.abs(j).T @ np.abs(S) @ np.abs(j)
    bound[:4, :4] += np.max(bound[:4, :4])  # a roll mixes the planes, where entries may cancel
    assert np.all(np.abs(error) <= 100 * EPS["double"] * (bound + 1))


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("kind", SYMPLECTIC)
@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_derivative_is_that_of_the_tracked_particles(
    kind: str, model: str, data: st.DataObject
) -> None:
    """The forward-mode derivative equals central differences of particles pushed by the vector kernels."""
    ref = data.draw(references)
    z = scaled(ref, data.draw(particles))
    line = bt.Line([element(kind, model, draw(data, kind, ref), **data.draw(alignments))])
    j = line.matrix(ref, z)
    assume(np.all(np.isfinite(j)) and np.max(np.abs(j)) < 1e6)
    h = scaled(ref, np.full(6, 1e-5))
    steps = [z[:, None] + factor * np.diag(h) for factor in (1, -1, 2, -2, 4, -4)]
    out, beam = track(line, ref, np.concatenate(steps, axis=1))
    assume(len(beam) == 36)
    one, two, four = (
        plus - minus for plus, minus in zip(*[iter(np.split(out, 6, axis=1))] * 2, strict=True)
    )
    numeric, coarse = (8 * one - two) / (12 * h), (8 * two - four) / (24 * h)  # fourth order
    scale = np.max(np.abs(j * h), axis=1, keepdims=True) / h
    reach = np.max(np.abs(j) * np.abs(z).max()) + 1 / ref.beta
    truncation = (
        np.abs(numeric - coarse) / 8
    )  # 16 times smaller in the finer one, if h is small enough
    assert np.all(np.abs(numeric - j) <= 1e-6 * scale + truncation + 50 * EPS["double"] * reach / h)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("kind", SYMPLECTIC)
@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_forward_then_backward_is_nothing(
    kind: str, model: str, precision: str, data: st.DataObject
) -> None:
    ref = data.draw(references)
    z = scaled(ref, data.draw(particles))
    values = draw(data, kind, ref)
    shift = data.draw(alignments)
    line = bt.Line([element(kind, model, values, slices=data.draw(st.integers(1, 3)), **shift)])
    forward = line.matrix(ref, z)
    assume(np.all(np.isfinite(forward)))
    there, beam = track(line, ref, z, precision)
    assume(len(beam) == 1)
    line.track(beam, backward=True)
    assume(len(beam) == 1)
    back = np.array(beam.array, dtype=np.float64)[:, 0]
    # the axes of a tilted element, of length one, are rounded; a Patch is one too
    place = {name: abs(v) for name, v in (values | shift).items() if isinstance(v, float)}
    tilt = sum(place.get(name, 0.0) for name in ("pitch", "yaw", "rotation_x", "rotation_y"))
    along = place.get("dz", 0.0) + place.get("offset_z", 0.0)
    moved = (tilt * (1 + values.get("length", 0)) + along) * np.array([1, 1, 1, 1, 1 / ref.beta, 0])
    # the rounding of the way there, carried back by the inverse map
    inverse = np.linalg.inv(forward)
    carried = np.abs(inverse) @ (
        np.abs(there[:, 0])
        + np.abs(forward) @ (np.abs(z) + moved)
        + moved
        + values.get("length", 0) / ref.beta
    )
    # a rolled element mixes the planes, a displaced one adds its displacement
    turned = np.abs(z[[2, 3, 0, 1, 4, 5]]) * [1, 1, 1, 1, 0, 0]
    turned += np.array([1, 0, 1, 0, 0, 0]) * (abs(shift.get("dx", 0)) + abs(shift.get("dy", 0)))
    assert np.all(np.abs(back - z) <= 200 * EPS[precision] * (carried + np.abs(z) + turned) + 1e-30)
    assert beam.reference.s == pytest.approx(0.0, abs=1e-12)
    assert beam.reference.gamma == pytest.approx(ref.gamma, rel=1e-12)


@pytest.mark.parametrize("kind", SYMPLECTIC)
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_linear_model_is_the_derivative_of_the_paraxial_map(kind: str, data: st.DataObject) -> None:
    ref = data.draw(references)
    values, shift = draw(data, kind, ref), data.draw(alignments)
    linear = bt.Line([element(kind, "linear", values, **shift)])
    paraxial = bt.Line([element(kind, "paraxial", values, **shift)])
    expected = paraxial.matrix(ref)
    assume(np.all(np.isfinite(expected)))
    assert np.allclose(
        linear.matrix(ref), expected, rtol=1e-13, atol=1e-15 * np.max(np.abs(expected))
    )
    # and it is what particles see
    z = scaled(ref, data.draw(particles))
    out, _ = track(linear, ref, np.stack([z, 0 * z], axis=1))
    step = np.abs(expected) @ np.abs(z) + np.abs(out[:, 1])
    assert np.all(np.abs(out[:, 0] - out[:, 1] - expected @ z) <= 20 * EPS["double"] * step)


@pytest.mark.parametrize(
    "kind", [k for k in SYMPLECTIC if k not in ("ConstantFocusing", "DipoleEdge")]
)
@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_exact_and_paraxial_agree_for_small_angles(kind: str, data: st.DataObject) -> None:
    """The exact map differs from the paraxial one by second and higher orders of the transverse coordinates:
    a quarter of the amplitude leaves at most a sixteenth of the difference."""
    ref = data.draw(references)
    values = draw(data, kind, ref)
    values = {k: v for k, v in values.items() if k not in ("hkick", "vkick", "voltage")}
    if kind == "Multipole":
        values["knl"][0] = values["ksl"][0] = 0.0
    if kind == "Bend":
        # the integrator's own error, and that of a displaced orbit, are not of this order
        values |= {"k1": 0.0, "kn": [], "ks": [], "fringe": "linear"}
    z = data.draw(particles) * [1, 1, 1, 1, 0, 0]
    big = np.linalg.norm(z)
    assume(big > 1e-4)
    models = [bt.Line([element(kind, m, values, order=6)]) for m in ("exact", "paraxial")]
    for line in models:
        line[0].steps = 20
    points = np.stack([z, z / 4], axis=1)
    (a, beam_a), (b, beam_b) = (track(line, ref, points) for line in models)
    assume(len(beam_a) == 2 and len(beam_b) == 2)
    difference = np.abs(a - b)
    length = values.get("length", 1.0)
    floor = 1e-13 * (1 + length) / ref.beta + 1e-9 * big**2
    assert np.all(difference[:, 1] <= difference[:, 0].max() / 12 + floor)
    growth = np.max(np.abs(models[1].matrix(ref)))
    assert np.all(
        difference[:, 0]
        <= 20 * (1 + growth) ** 3 * big**2 * (1 + length) ** 2 / ref.beta**2 + floor
    )


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("kind", FLOWS)
@given(data=st.data())
@settings(max_examples=20, deadline=None)
def test_slices_add_up_to_the_whole(kind: str, model: str, data: st.DataObject) -> None:
    ref = data.draw(references)
    values = draw(data, kind, ref)
    # without the strengths that are integrated in steps
    values |= {k: [] for k in ("kn", "ks") if isinstance(values.get(k), list)}
    if kind == "Bend" and model == "linear":
        values["fringe"] = (
            "linear"  # the other displaces the orbit, and slices are linear around the axis
        )
    if model == "exact":
        values |= {k: 0.0 for k in ("k1", "gradient") if k in values}
    n = data.draw(st.integers(2, 7))
    z = scaled(ref, data.draw(particles))
    whole, beam = track(bt.Line([element(kind, model, values)]), ref, z)
    parts, beam_parts = track(bt.Line([element(kind, model, values, slices=n)]), ref, z)
    assume(len(beam) == 1 and len(beam_parts) == 1)
    j = bt.Line([element(kind, model, values)]).matrix(ref, z)
    bound = np.abs(j) @ np.abs(z) + np.abs(whole[:, 0]) + values.get("length", 0) / ref.beta
    growth = 1 + np.max(np.abs(j))
    assert np.all(np.abs(whole - parts)[:, 0] <= 50 * n * EPS["double"] * bound * growth)


INTEGRATED = (
    "Sextupole", "Octupole", "Multipole", "Quadrupole", "PlasmaLens", "Bend", "SoftSolenoid", "SoftQuadrupole",
)  # fmt: skip


@pytest.mark.parametrize("model", ["paraxial", "exact"])
@pytest.mark.parametrize("kind", INTEGRATED)
@given(data=st.data())
@settings(max_examples=10, deadline=None)
def test_integrated_slices_are_steps(kind: str, model: str, data: st.DataObject) -> None:
    """n slices of m steps are the same integration as one slice of n m steps."""
    ref = data.draw(references)
    values = draw(data, kind, ref)
    z = scaled(ref, data.draw(particles))
    n = data.draw(st.integers(2, 4))
    fine, coarse = (element(kind, model, values) for _ in range(2))
    fine.slices, fine.steps = n, 2
    coarse.steps = 2 * n
    a, beam_a = track(bt.Line([fine]), ref, z)
    b, beam_b = track(bt.Line([coarse]), ref, z)
    assume(len(beam_a) == 1 and len(beam_b) == 1 and np.all(np.abs(a) < 10))
    j = np.abs(bt.Line([coarse]).matrix(ref, z))
    bound = (j @ np.abs(z) + np.abs(a[:, 0]) + values["length"] / ref.beta) * (1 + np.max(j))
    assert np.all(np.abs(a - b)[:, 0] <= 200 * n * EPS["double"] * bound)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("kind", SYMPLECTIC)
@given(data=st.data())
@settings(max_examples=10, deadline=None)
def test_charge_conjugation(kind: str, model: str, data: st.DataObject) -> None:
    """Opposite charge in opposite fields moves the same; strengths normalised to the rigidity do not change."""
    particle, anti = data.draw(
        st.sampled_from([("electron", "positron"), ("proton", "antiproton")])
    )
    bg = data.draw(beta_gammas)
    ref, anti_ref = bt.Reference(particle, beta_gamma=bg), bt.Reference(anti, beta_gamma=bg)
    values = draw(data, kind, ref)
    opposite = values | {k: -values[k] for k in CHARGED if k in values}
    z = scaled(ref, data.draw(particles))
    a, beam = track(bt.Line([element(kind, model, values)]), ref, z)
    b, _ = track(bt.Line([element(kind, model, opposite)]), anti_ref, z)
    assume(len(beam) == 1)
    assert np.array_equal(a, b)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    ("particle", "sign"), [("positron", 1), ("electron", -1), ("proton", 1), ("H-", -1)]
)
def test_a_field_gradient_acts_with_the_charge(particle: str, sign: int, model: str) -> None:
    """A positive gradient dBy/dx focuses positive particles in x and defocuses negative ones (q v x B)."""
    ref = bt.Reference(particle, kinetic_energy=1e9)
    quadrupole = bt.Quadrupole(0.1, gradient=5.0, model=model)
    out, _ = track(bt.Line([quadrupole]), ref, np.array([1e-3, 0, 1e-3, 0, 0, 0]))
    kick = sign * 5.0 * 0.1 * 1e-3 / abs(ref.rigidity)
    assert out[1, 0] == pytest.approx(-kick, rel=0.05)
    assert out[3, 0] == pytest.approx(kick, rel=0.05)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("kind", SYMPLECTIC)
@given(data=st.data())
@settings(max_examples=10, deadline=None)
def test_single_precision_is_double_to_rounding(kind: str, model: str, data: st.DataObject) -> None:
    ref = data.draw(references)
    values = draw(data, kind, ref)
    # the float of the start, so that only the rounding of the map is compared
    z = scaled(ref, data.draw(particles)).astype(np.float32).astype(np.float64)
    line = bt.Line([element(kind, model, values)])
    a, beam = track(line, ref, z, "double")
    b, beam_single = track(line, ref, z, "single")
    assume(len(beam) == 1 and len(beam_single) == 1)
    j = np.abs(line.matrix(ref, z))
    # what is added and taken away on the way: the length, or the offsets of a patch
    length = sum(abs(v) for k, v in values.items() if k == "length" or k.startswith("offset_"))
    bound = (
        j @ np.abs(z)
        + np.abs(a[:, 0])
        + length / ref.beta * np.array([0.02, 0.02, 0.02, 0.02, 1, 0])
    ) * (1 + np.max(j[:4, :4]))
    assert np.all(np.abs(a - b)[:, 0] <= 100 * EPS["single"] * bound + 1e-30)  # floats end at 1e-38


STRENGTHS = {
    "Quadrupole": ["k1", "gradient"], "PlasmaLens": ["k1", "gradient"], "Sextupole": ["k2", "k2s"],
    "Octupole": ["k3", "k3s"], "Solenoid": ["ks", "field"], "Bend": ["angle", "k1"], "ConstantFocusing": ["kx", "ky"],
    "Kicker": ["hkick", "vkick"], "RFCavity": ["voltage"], "RFFieldMap": ["amplitude"],
    "SoftSolenoid": ["ks", "field"], "SoftQuadrupole": ["k1", "gradient"],
    "UniformAcceleration": ["voltage", "field"], "Undulator": ["strength"],
    "PlasmaStage": ["focusing", "acceleration", "slope"],
}  # fmt: skip


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    ("kind", "name"), [(k, n) for k, names in STRENGTHS.items() for n in names]
)
@given(data=st.data())
@settings(max_examples=8, deadline=None)
def test_strength_zero_is_a_drift_from_both_sides(
    kind: str, name: str, model: str, precision: str, data: st.DataObject
) -> None:
    ref = data.draw(references)
    z = scaled(ref, data.draw(particles))
    length = data.draw(st.floats(0.05, 1.0))
    required = {"frequency": 1e9} if kind in ("RFCavity", "RFFieldMap") else {}
    if kind == "Undulator":
        required = {"period": 1.0}
    if kind == "PlasmaStage":
        radius = 2.8179403205e-15 * 510998.95 / ref.species.mass
        density = ref.beta_gamma / (2 * math.pi * radius) if name == "focusing" else 0.0
        required = {"density": density}
    drift_model = "linear" if kind == "ConstantFocusing" else model
    expected, _ = track(bt.Line([bt.Drift(length, model=drift_model)]), ref, z, precision)
    previous = None
    for strength in (1e-3, 1e-9, 1e-200, 0.0, -1e-200, -1e-9, -1e-3):
        value = strength * (ref.rigidity if name in FIELDS else 1.0)
        e = getattr(bt, kind)(length=length, **required, **{name: value}, model=model, steps=2)
        out, beam = track(bt.Line([e]), ref, z, precision)
        assert len(beam) == 1
        limit = 1e-2 if abs(strength) == 1e-3 else 1e-8
        if name in ("voltage", "amplitude"):
            limit *= 1 / (ref.beta * ref.beta_gamma)
        slack = (
            30
            * EPS[precision]
            * (
                np.abs(expected)
                + 0.01
                + length / ref.beta * np.array([[0], [0], [0], [0], [1], [0]])
            )
        )
        assert np.all(np.abs(out - expected) <= limit * (1 + 1 / ref.beta) * (1 + length) + slack)
        j = bt.Line([e]).matrix(ref, z)
        assert np.all(np.isfinite(j))
        if previous is not None:
            assert np.all(np.abs(j - previous) <= 0.05 * (1 + np.abs(j)) * (1 + 1 / ref.beta))
        previous = j


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("kind", [k for k in SYMPLECTIC if k not in CHANGE_ENERGY])
@given(data=st.data())
@settings(max_examples=10, deadline=None)
def test_magnets_do_not_change_the_energy(kind: str, model: str, data: st.DataObject) -> None:
    ref = data.draw(references)
    z = scaled(ref, data.draw(particles))
    out, beam = track(bt.Line([element(kind, model, draw(data, kind, ref))]), ref, z)
    assume(len(beam) == 1)
    assert out[5, 0] == z[5]
    assert beam.reference.gamma == ref.gamma


@pytest.mark.parametrize("model", ["paraxial", "exact"])
@given(bg=beta_gammas, u=st.floats(-5e-3, 5e-3), length=st.floats(0.1, 10.0))
@settings(max_examples=50, deadline=None)
def test_drift_time_is_length_over_velocity(model: str, bg: float, u: float, length: float) -> None:
    """A particle on the axis arrives L/beta - L/beta0 after the reference, at any energy."""
    ref = bt.Reference("proton", beta_gamma=bg)
    pt = u * ref.beta
    out, _ = track(bt.Line([bt.Drift(length, model=model)]), ref, np.array([0, 0, 0, 0, 0, pt]))
    kinetic = ref.gamma - 1 - pt * ref.beta_gamma
    with np.errstate(all="raise"):
        k0, k1 = np.longdouble(math.sqrt(bg * bg + 1) - 1), np.longdouble(kinetic)
        bg1 = np.sqrt(k1 * (k1 + 2))
        delay = length * ((1 + k1) / bg1 - (1 + k0) / np.longdouble(bg))
    assert out[4, 0] == pytest.approx(float(delay), rel=1e-7, abs=1e-14 * length / ref.beta)


@given(angle=st.floats(0.05, 6.0), n=st.integers(1, 5))
@settings(max_examples=25, deadline=None)
def test_bend_survey_is_an_arc(angle: float, n: int) -> None:
    length = 3.0
    radius = length / angle
    end = bt.Line([bt.Bend(length / n, angle=angle / n)] * n).survey().iloc[-1]
    assert end.x == pytest.approx(-radius * (1 - math.cos(angle)), abs=1e-12)
    assert end.z == pytest.approx(radius * math.sin(angle), abs=1e-12)
