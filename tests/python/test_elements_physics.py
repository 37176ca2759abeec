"""Physics of single kinds of elements: known solutions, limits, and independent integrations."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import betatron as bt
import numpy as np
import pytest

PROTON = bt.Reference("proton", kinetic_energy=800e6)
ELECTRON = bt.Reference("electron", kinetic_energy=200e6)


def particles(n: int, size: float = 2e-3, seed: int = 1) -> np.ndarray:
    """Random coordinates (6, n) within `size`."""
    return np.random.default_rng(seed).uniform(-size, size, (6, n))


def tracked(beam: bt.Beam, line: bt.Line) -> bt.Beam:
    line.track(beam)
    return beam


def beam_of(z: np.ndarray, ref: bt.Reference = PROTON) -> bt.Beam:
    names = ("x", "px", "y", "py", "t", "pt")
    columns = np.atleast_2d(np.asarray(z, dtype=float).T).T
    return bt.Beam.from_arrays(ref.copy(), **dict(zip(names, columns, strict=True)))


def push(z: np.ndarray, *elements: bt.Element, ref: bt.Reference = PROTON) -> np.ndarray:
    """Coordinates behind the elements; none of the particles may be lost."""
    beam = tracked(beam_of(z, ref), bt.Line(list(elements)))
    assert beam.n_lost == 0
    return np.array(beam.array)


# --- plasma lenses --------------------------------------------------------------------------------


@pytest.mark.parametrize("k1", [30.0, -30.0])
def test_plasma_lens_is_the_focusing_plane_of_a_quadrupole_twice(k1: float) -> None:
    lens = bt.Line([bt.PlasmaLens(0.2, k1)]).matrix(PROTON)
    quadrupole = bt.Line([bt.Quadrupole(0.2, k1)]).matrix(PROTON)
    assert np.allclose(lens[:2, :2], quadrupole[:2, :2], rtol=1e-14)
    assert np.allclose(lens[2:4, 2:4], quadrupole[:2, :2], rtol=1e-14)


def test_plasma_lens_is_isochronous_like_a_quadrupole_at_equal_orbits() -> None:
    """In the plane that both focus, path length and arrival are the same."""
    z = particles(20)
    z[2:4] = 0.0
    for model in ("paraxial", "exact"):
        a = push(z, bt.PlasmaLens(0.3, 12.0, model=model, order=6))
        b = push(z, bt.Quadrupole(0.3, 12.0, model=model, order=6))
        assert np.allclose(a, b, rtol=1e-13, atol=1e-17)


def test_gradient_of_a_plasma_lens_acts_with_the_charge() -> None:
    z = np.array([1e-3, 0, 1e-3, 0, 0, 0])
    out = push(z, bt.PlasmaLens(0.02, gradient=1000.0), ref=ELECTRON)
    k = -1000.0 / abs(ELECTRON.rigidity)  # electrons are defocused
    kick = 1e-3 * math.sqrt(-k) * math.sinh(math.sqrt(-k) * 0.02)
    assert out[[1, 3], 0] == pytest.approx([kick, kick], rel=1e-12)


def test_tapered_lens_is_achromatic_where_the_dispersion_matches() -> None:
    """x = D delta + x_b sees a gradient 1 + delta: all energies are focused alike."""
    dispersion, k = 0.05, 2.0
    lens = bt.TaperedPlasmaLens(k1l=k, taper=1 / dispersion)
    angles = []
    for delta in (-0.01, 0.0, 0.01):
        z = np.zeros((6, 2))
        z[0] = dispersion * delta + np.array([0.0, 1e-7])
        out = push(z, lens)
        angles.append((out[1, 1] - out[1, 0]) / 1e-7 / (1 + delta))
    assert np.allclose(angles, -k, rtol=1e-5)


# --- fringes --------------------------------------------------------------------------------------


def test_quadrupole_edge_has_the_third_order_kick_of_a_hard_edge() -> None:
    k, x, px, y, py = 8.0, 1e-3, 2e-3, -1.5e-3, 1e-3
    out = push(np.array([x, px, y, py, 0, 0]), bt.QuadrupoleEdge(k1=k))[:, 0]
    a = k / 12
    assert out[0] - x == pytest.approx(a * (x**3 + 3 * x * y**2), rel=1e-4)
    assert out[2] - y == pytest.approx(-a * (y**3 + 3 * x**2 * y), rel=1e-4)
    assert out[1] - px == pytest.approx(-3 * a * (px * (x**2 + y**2) - 2 * py * x * y), rel=1e-4)
    assert out[3] - py == pytest.approx(3 * a * (py * (x**2 + y**2) - 2 * px * x * y), rel=1e-4)


def test_fringes_of_a_quadrupole_are_its_edges() -> None:
    z = particles(10)
    whole = push(z, bt.Quadrupole(0.3, 8.0, fringe="hard", slices=3))
    parts = push(
        z, bt.QuadrupoleEdge(8.0), bt.Quadrupole(0.3, 8.0), bt.QuadrupoleEdge(8.0, location="exit")
    )
    assert np.allclose(whole, parts, rtol=1e-13, atol=1e-17)
    back = push(whole, bt.Quadrupole(-0.3, 8.0, fringe="hard"))
    assert np.allclose(back, z, rtol=1e-12, atol=1e-16)


def test_hard_edge_of_a_quadrupole_is_the_limit_of_a_field_that_rises_quickly() -> None:
    """Third-order part of the orbit through k(z) = k/2 (1 + tanh(z/a)), by integration of the
    Lorentz force with the field of the potential k(z) x y - k''(z) x y (x^2 + y^2)/12."""
    k, length, a = 6.0, 0.2, 2e-3

    def force(s: float, v: np.ndarray) -> np.ndarray:
        x, px, y, py = v
        h = math.tanh(s / a)
        slope = (1 - h * h) / a  # of tanh
        k0, k1, k2 = k / 2 * (1 + h), k / 2 * slope, -k * h * slope / a
        bx = k0 * y - k2 / 12 * (3 * x * x * y + y**3)
        by = k0 * x - k2 / 12 * (x**3 + 3 * x * y * y)
        bz = k1 * x * y
        pz = math.sqrt(1 - px * px - py * py)
        return np.array([px / pz, py * bz / pz - by, py / pz, bx - px * bz / pz])

    def soft(v: np.ndarray) -> np.ndarray:
        n = 4000
        ds = 2 * length / n
        for i in range(n):
            s = -length + i * ds
            k_1 = force(s, v)
            k_2 = force(s + ds / 2, v + ds / 2 * k_1)
            k_3 = force(s + ds / 2, v + ds / 2 * k_2)
            k_4 = force(s + ds, v + ds * k_3)
            v = v + ds / 6 * (k_1 + 2 * k_2 + 2 * k_3 + k_4)
        return v

    def hard(v: np.ndarray, edge: Sequence[bt.Element] = ()) -> np.ndarray:
        body = bt.Quadrupole(length, k, model="exact", order=6, steps=20)
        return push(np.array([*v, 0, 0]), bt.Drift(length, model="exact"), *edge, body)[:4, 0]

    v = np.array([6e-3, 1e-2, -5e-3, 8e-3])
    with_edge = functools.partial(hard, edge=[bt.QuadrupoleEdge(k)])
    cubic = [(f(2 * v) - 2 * f(v)) / 6 for f in (soft, with_edge, hard)]
    effect = np.abs(cubic[1] - cubic[2])
    assert np.all(np.abs(cubic[0] - cubic[1]) <= 0.1 * np.max(effect))
    assert np.max(np.abs(cubic[0] - cubic[2])) >= 0.8 * np.max(effect)


def test_hard_edge_of_a_dipole_moves_the_orbit_with_y_squared() -> None:
    """x -> x + h y^2/2, py -> py - h y px where the field begins, the opposite where it ends."""
    h, px, y = 0.5, 2e-3, 4e-3
    z = np.array([0, px, y, 0, 0, 0])
    entry = push(z, bt.DipoleEdge(h, 0.0, fringe="nonlinear"))
    assert entry[0, 0] == pytest.approx(h * y**2 / 2, rel=1e-3)
    assert entry[3, 0] == pytest.approx(-h * y * px, rel=1e-3)
    leave = push(entry, bt.DipoleEdge(h, 0.0, fringe="nonlinear", location="exit"))
    assert np.allclose(leave[:, 0], z, rtol=1e-13, atol=1e-18)


def test_nonlinear_dipole_edge_has_the_linear_one_in_it() -> None:
    """To first order in the gap (the linear map puts the fringe integral into a tangent)."""
    common = {"curvature": 0.5, "angle": 0.3, "fint": 0.45, "hgap": 1e-3}
    linear = bt.Line([bt.DipoleEdge(**common)]).matrix(PROTON)
    nonlinear = bt.Line([bt.DipoleEdge(**common, fringe="nonlinear")]).matrix(PROTON)
    assert np.allclose(linear[:4, :4], nonlinear[:4, :4], rtol=0, atol=2e-6)
    assert abs(nonlinear[3, 2] + 0.5 * math.tan(0.3)) > 1e-4  # the integral matters


def test_pole_faces_of_a_bend_are_dipole_edges() -> None:
    z = particles(10)
    more = {"hgap": 0.01, "fringe": "nonlinear"}
    whole = push(z, bt.Bend(0.5, 0.2, e1=0.1, e2=0.05, fint1=0.4, fint2=0.3, model="exact", **more))
    parts = push(
        z,
        bt.DipoleEdge(0.4, 0.1, fint=0.4, **more),
        bt.Bend(0.5, 0.2, model="exact"),
        bt.DipoleEdge(0.4, 0.05, fint=0.3, location="exit", **more),
    )
    assert np.allclose(whole, parts, rtol=1e-14, atol=1e-18)


# --- bends ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["paraxial", "exact"])
def test_quadrupole_of_a_bend_by_either_name(model: str) -> None:
    z = particles(10)
    a = push(z, bt.Bend(0.5, 0.2, k1=1.5, model=model))
    b = push(z, bt.Bend(0.5, 0.2, k1=1.0, kn=[0.0, 0.5], model=model))
    assert np.allclose(a, b, rtol=1e-13, atol=1e-17)


@pytest.mark.parametrize("model", ["paraxial", "exact"])
def test_multipoles_of_a_straight_bend_are_those_of_a_multipole(model: str) -> None:
    z = particles(10, 5e-3)
    kn, ks = [1e-4, 2.0, -30.0, 200.0, 3e3], [-1e-4, 1.0, 20.0, 300.0, -2e3]
    common = {"model": model, "order": 6, "steps": 30}
    a = push(z, bt.Bend(0.5, 0.0, kn=kn, ks=ks, **common))
    b = push(z, bt.Multipole(0.5, [0.5 * k for k in kn], [0.5 * k for k in ks], **common))
    assert np.allclose(a, b, rtol=0, atol=1e-11)  # the quadrupole is in the body of the one only


def test_dipole_error_of_a_bend_bends_more() -> None:
    """kn[0] added to the field: the same orbit as in a bend of that curvature, turned back."""
    length, h, error = 0.5, 0.3, 1e-3
    bend = bt.Bend(length, length * h, kn=[error], model="exact", order=6, steps=20)
    out = push(np.zeros(6), bend)
    # a circle of curvature h + error from the entrance, in the (x, z) plane of the entrance
    cosine, sine, field = math.cos(length * h), math.sin(length * h), h + error
    centre = np.array([-1 / field, 0.0])
    # where it meets the plane of the exit, u from the origin of that plane along its x axis
    origin, ex = np.array([(cosine - 1) / h, sine / h]), np.array([cosine, sine])
    d = origin - centre
    u = -d @ ex + math.sqrt((d @ ex) ** 2 - d @ d + 1 / field**2)
    radius = d + u * ex
    direction = np.array([-radius[1], radius[0]]) * field
    assert out[0, 0] == pytest.approx(u, rel=1e-9)
    assert out[1, 0] == pytest.approx(direction @ ex, rel=1e-9)


def test_thin_dipoles_and_drifts_make_a_bend() -> None:
    """The slices differ by the sagitta that a drift leaves out: second order in their angle."""
    z = particles(5, 1e-3)
    angle, length = 0.2, 1.0
    expected = push(z, bt.Bend(length, angle))
    errors = []
    for n in (20, 40):
        half = bt.Drift(length / n / 2)
        kick = bt.ThinDipole(angle / n, curvature=angle / length)
        errors.append(np.max(np.abs(push(z, *[half, kick, half] * n) - expected)))
    assert errors[0] < 1e-5 and errors[1] < errors[0] / 3.5
    end = bt.Line([bt.ThinDipole(angle)]).survey().iloc[-1]
    assert end.x == 0.0 and end.z == 0.0


# --- cavities -------------------------------------------------------------------------------------


def test_buncher_is_the_linear_part_of_a_cavity_at_its_zero_crossing() -> None:
    common = {"voltage": 1e5, "frequency": 2e8}
    buncher = bt.Line([bt.Buncher(**common)]).matrix(PROTON)
    cavity = bt.Line([bt.RFCavity(**common, phase=-math.pi / 2)]).matrix(PROTON)
    assert buncher[5, 4] == pytest.approx(cavity[5, 4], rel=1e-12)
    assert buncher[5, 4] < 0  # a late particle gains energy
    # Laplace: the focusing in t is that of the defocusing in x and y, boosted
    defocusing = -buncher[5, 4] / PROTON.beta_gamma**2 / 2
    assert buncher[1, 0] == buncher[3, 2] == pytest.approx(defocusing)


def test_crab_cavity_tilts_the_bunch_and_obeys_panofsky_wenzel() -> None:
    cavity = bt.CrabCavity(voltage=1e5, frequency=4e8)
    k = 2 * math.pi * 4e8 / 299792458.0
    a = 1e5 / PROTON.momentum
    j = bt.Line([cavity]).matrix(PROTON)
    assert j[1, 4] == pytest.approx(a * k, rel=1e-12)  # the head and the tail to opposite sides
    assert j[5, 0] == pytest.approx(j[1, 4], rel=1e-12)
    z = np.array([1e-3, 0, 0, 0, 0.05, 0])
    out = push(z, cavity)
    assert out[1, 0] == pytest.approx(a * math.sin(k * 0.05), rel=1e-12)
    assert out[5, 0] == pytest.approx(a * k * 1e-3 * math.cos(k * 0.05), rel=1e-12)
    # a pair closes the bump
    closed = push(out, bt.CrabCavity(voltage=-1e5, frequency=4e8))
    assert np.allclose(closed[:, 0], z, rtol=1e-12, atol=1e-18)


# --- frames ---------------------------------------------------------------------------------------


def test_pole_face_rotation_is_a_turn_of_the_frame() -> None:
    z, angle = particles(20, 5e-3), 0.3
    a = push(z, bt.PoleFaceRotation(0.0, angle))
    b = push(z, bt.Patch(rotation_y=-angle))
    b[1] -= math.sin(angle)
    assert np.allclose(a, b, rtol=1e-12, atol=1e-16)
    assert np.allclose(push(a, bt.PoleFaceRotation(angle, 0.0)), z, rtol=1e-12, atol=1e-16)
    assert np.array_equal(push(z, bt.PoleFaceRotation(0.2, 0.2)), z)


def test_plane_rotation_is_a_roll() -> None:
    z, angle = particles(10), 0.7
    a = push(z, bt.PlaneRotation(angle), bt.Quadrupole(0.3, 5.0), bt.PlaneRotation(-angle))
    b = push(z, bt.Quadrupole(0.3, 5.0, roll=angle))
    assert np.allclose(a, b, rtol=1e-13, atol=1e-17)
    end = bt.Line([bt.PlaneRotation(math.pi / 2), bt.Bend(1.0, math.pi / 2)]).survey().iloc[-1]
    assert end.x == pytest.approx(0.0, abs=1e-15) and end.y == pytest.approx(-2 / math.pi)


def test_patch_along_the_axis_is_a_drift() -> None:
    z = particles(10, 1e-2)
    expected = push(z, bt.Drift(0.4, model="exact"))
    assert np.allclose(push(z, bt.Patch(offset_z=0.4)), expected, rtol=1e-12, atol=1e-16)


def test_a_ray_through_patches_stays_where_it_is_in_space() -> None:
    """Points and directions in the laboratory, by the reference's frame, before and behind."""
    z = particles(20, 1e-2)
    z[5] = 0.0
    line = bt.Line(
        [
            bt.Patch(0.01, -0.02, 0.3, 0.1, -0.2, 0.4),
            bt.Drift(0.2, model="exact"),
            bt.Patch(-0.03, 0.01, -0.1, -0.15, 0.1, -1.2),
        ]
    )
    beam = tracked(beam_of(z), line)

    def rays(columns: np.ndarray, ref: bt.Reference) -> tuple[np.ndarray, np.ndarray]:
        frame = np.array(ref.frame)
        pz = np.sqrt(1 - columns[1] ** 2 - columns[3] ** 2)
        places = np.array(ref.position)[:, None] + frame[:2].T @ columns[[0, 2]]
        return places, frame.T @ np.stack([columns[1], columns[3], pz])

    (r0, p0), (r1, p1) = rays(z, PROTON), rays(np.array(beam.array), beam.reference)
    assert np.allclose(p0, p1, atol=1e-14)
    way = np.sum((r1 - r0) * p0, axis=0)
    assert np.allclose(r1 - r0, way * p0, atol=1e-14)
    # and the clock goes with the way
    delay = z[4] + (way - (beam.reference.s - PROTON.s)) / PROTON.beta
    assert np.allclose(beam.t, delay, atol=1e-13)


# --- the nonlinear lens ---------------------------------------------------------------------------


def test_nonlinear_lens_is_a_quadrupole_near_the_axis_and_harmonic_everywhere() -> None:
    lens = bt.NonlinearLens(knl=2e-6, cnl=0.01)
    j = bt.Line([lens]).matrix(PROTON)
    assert j[1, 0] == pytest.approx(-2 * 2e-6 / 0.01**2, rel=1e-12)
    for x, y in ((3e-3, 2e-3), (0.0, 2e-2), (9e-3, -1e-3), (1.5e-2, 5e-3)):
        j = bt.Line([lens]).matrix(PROTON, np.array([x, 0, y, 0, 0, 0]))
        assert j[1, 0] == pytest.approx(-j[3, 2], rel=1e-11)
        assert j[1, 2] == pytest.approx(j[3, 0], rel=1e-11)


def test_a_particle_on_the_singularity_of_the_nonlinear_lens_is_lost() -> None:
    z = np.zeros((6, 2))
    z[0] = [0.01, 0.005]
    beam = tracked(beam_of(z), bt.Line([bt.NonlinearLens(knl=1e-6, cnl=0.01)]))
    assert beam.n_lost == 1 and len(beam) == 1


# --- apertures ------------------------------------------------------------------------------------

PLUS = np.array(
    [
        (1, 1), (1, 3), (-1, 3), (-1, 1), (-3, 1), (-3, -1),
        (-1, -1), (-1, -3), (1, -3), (1, -1), (3, -1), (3, 1),
    ]
)  # fmt: skip


def kept(z: np.ndarray, aperture: bt.Element) -> np.ndarray:
    """Which of the particles pass."""
    beam = beam_of(z)
    everyone = np.array(beam.id)
    return np.isin(everyone, tracked(beam, bt.Line([aperture])).id)


@pytest.mark.parametrize("vertices", [PLUS, PLUS[::-1], np.concatenate([PLUS, PLUS[:1]])])
def test_plus_shaped_polygon(vertices: np.ndarray) -> None:
    z = particles(5000, 2e-3)
    inside = (np.abs(z[0]) < 5e-4) & (np.abs(z[2]) < 1.5e-3)
    inside |= (np.abs(z[2]) < 5e-4) & (np.abs(z[0]) < 1.5e-3)
    corners = 5e-4 * vertices
    assert np.array_equal(kept(z, bt.PolygonAperture(corners)), inside)
    assert np.array_equal(kept(z, bt.PolygonAperture(corners, min_radius2=5e-7)), inside)
    assert np.array_equal(kept(z, bt.PolygonAperture(corners, action="absorb")), ~inside)


def test_polygon_follows_the_alignment_and_repeats() -> None:
    z = particles(5000, 4e-3)
    square = [(1e-3, 1e-3), (-1e-3, 1e-3), (-1e-3, -1e-3), (1e-3, -1e-3)]
    u, v = z[0] - 1e-3, z[2] + 5e-4
    diamond = np.abs(u) + np.abs(v) < math.sqrt(2) * 1e-3
    aperture = bt.PolygonAperture(square, dx=1e-3, dy=-5e-4, roll=math.pi / 4)
    assert np.array_equal(kept(z, aperture), diamond)
    grid = {"repeat_x": 3e-3, "repeat_y": 2.5e-3, "shift_odd_x": True}
    assert np.array_equal(
        kept(z, bt.PolygonAperture(square, **grid)), kept(z, bt.Aperture(1e-3, 1e-3, **grid))
    )


@pytest.mark.parametrize("count", [2, 65])
def test_polygons_need_3_to_64_corners(count: int) -> None:
    message = f"PolygonAperture 'p': vertices has {2 * count} entries; allowed: 6 to 128"
    with pytest.raises(ValueError, match=message):
        bt.PolygonAperture(np.zeros((count, 2)), name="p")


def test_pipe_is_checked_behind_each_slice() -> None:
    """A particle that leaves the pipe and comes back is found only by slices."""
    z = np.array([[4e-3, 4e-3], [-4e-3, 0], [0, 4e-3], [0, -4e-3], [0, 0], [0, 0]], dtype=float)
    magnet = bt.PlasmaLens(1.0, (2 * math.pi) ** 2, aperture_x=5e-3, aperture_y=5e-3)
    assert tracked(beam_of(z), bt.Line([magnet])).n_lost == 1  # one turn: where they began
    wide = np.array([[0.0], [5e-2], [0.0], [0.0], [0.0], [0.0]])
    assert tracked(beam_of(wide), bt.Line([magnet])).n_lost == 0
    magnet.slices = 4
    beam = tracked(beam_of(wide), bt.Line([bt.Drift(0.0), magnet]))
    assert beam.n_lost == 1
    assert beam.lost.s.iloc[0] == pytest.approx(0.25) and beam.lost.reason.iloc[0] == "aperture"
    magnet.aperture_shape = "rectangular"
    magnet.slices = 1
    assert tracked(beam_of(z), bt.Line([magnet])).n_lost == 0


@pytest.mark.parametrize("model", ["linear", "paraxial", "exact"])
def test_pipe_moves_with_its_element_and_may_be_a_slit(model: str) -> None:
    z = particles(1000, 4e-3)
    z[[1, 3, 4, 5]] = 0.0
    tube = bt.Drift(0.5, model=model, dx=1e-3, aperture_x=2e-3)
    passed = kept(z, tube)
    assert np.array_equal(passed, np.abs(z[0] - 1e-3) <= 2e-3)


@pytest.mark.parametrize("precision", ["double", "single"])
@pytest.mark.parametrize("model", ["paraxial", "exact"])
@pytest.mark.parametrize("length", [0.0, 0.1])
def test_particles_below_rest_are_lost(length: float, model: str, precision: str) -> None:
    """A late particle that a cavity takes more energy from than 2 m c^2 and all it had: P^2 is positive
    again at negative energies, where there are no particles."""
    reference = bt.Reference("electron", kinetic_energy=1e6)
    wave = 299792458.0 / 1e9
    line = bt.Line([
        bt.RFCavity(length, voltage=5e6, frequency=1e9, model=model),
        bt.Drift(0.1, model=model),
        bt.Quadrupole(0.1, k1=1.0, model=model),
    ])  # fmt: skip
    zero = np.zeros(3)
    beam = bt.Beam.from_arrays(
        reference, x=zero, px=zero, y=zero, py=zero, t=[0.0, wave / 4, wave / 2], pt=zero
    ).copy(precision)
    line.track(beam)
    assert beam.id.tolist() == [0, 1]
    assert beam.lost["reason"].tolist() == ["outside_domain" if model == "exact" else "non_finite"]
