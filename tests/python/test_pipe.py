"""Space charge in conducting pipes: against sums of images and the modes of the pipes."""

from __future__ import annotations

import copy
import functools
import pickle

import betatron as bt
import numpy as np
import pytest
from scipy import special

REF = bt.Reference("proton", kinetic_energy=1e8)
A, B = 10e-3, 7e-3
PIPE = bt.RectangularPipe(A, B)
ROUND = bt.RoundPipe(A)
LIGHT, EPSILON0 = 299792458.0, 8.8541878188e-12
VOLT_METRE = 1.602176634e-19 / (4 * np.pi * EPSILON0)
CURRENT = 1e-3
# K L for 1 m
PERVEANCE = 2 * CURRENT / (4 * np.pi * EPSILON0 * LIGHT * REF.species.mass) / REF.beta_gamma**3


def beam(x, y, z=None, weight=None, precision="double", reference=REF):
    """At rest; z in the rest frame [m]."""
    x = np.asarray(x, float)
    zero = np.zeros_like(x)
    z = zero if z is None else np.asarray(z, float)
    weight = np.ones_like(x) if weight is None else np.asarray(weight, float)
    dtype = np.float32 if precision == "single" else np.float64
    columns = {"x": x, "px": zero, "y": np.asarray(y, float), "py": zero,
               "t": -z / reference.beta_gamma, "pt": zero, "weight": weight}  # fmt: skip
    return bt.Beam.from_arrays(reference, **{k: v.astype(dtype) for k, v in columns.items()})


def kicks(effect, made, length=1.0):
    """(3, n): of px, py and of the momentum along z in the rest frame."""
    effect.kick(made, length)
    bg = made.reference.beta_gamma
    return np.array([made.px, made.py, -np.asarray(made.pt) / bg], float)


def field_of_images(at, source):
    """E of a unit point charge in the pipe over 1/(4 pi eps0); the alternating sum is cut off
    smoothly."""
    field = np.zeros_like(at)
    for m in range(-36, 37):
        for n in range(-36, 37):
            image = np.array(
                [2 * A * m + (-1) ** m * source[0], 2 * B * n + (-1) ** n * source[1], source[2]]
            )
            d = at - image[:, None]
            r = np.linalg.norm(d, axis=0)
            window = np.exp(-(image[0] ** 2 + image[1] ** 2) / 0.2**2)
            field += (-1) ** (m + n) * window * d / r**3
    return field


def ball(centre, radius, n, seed=1):
    """Particles on antithetic places in a ball: their field outside is that of a point."""
    random = np.random.default_rng(seed)
    u = random.normal(size=(3, n // 2))
    u *= radius * random.random(n // 2) ** (1 / 3) / np.linalg.norm(u, axis=0)
    return np.concatenate([u, -u], axis=1) + np.reshape(centre, (3, 1))


@pytest.mark.parametrize("shape", ["linear", "quadratic", "cubic"])
@pytest.mark.parametrize("precision", ["double", "single"])
def test_a_small_ball_has_the_field_of_its_images(shape, precision):
    centre = np.array([3e-3, -2e-3, 1e-3])
    source = ball(centre, 1e-3, 20_000)
    test = np.array([[-5, 0, 6, 0, 9], [0, 3, 1, -5, -6], [3, -4, 0, 8, 2]]) * 1e-3
    places = np.concatenate([source, test], axis=1)
    weight = np.concatenate([np.full(source.shape[1], 1e9 / source.shape[1]), np.zeros(5)])
    effect = bt.SpaceCharge3D((64, 64, 96), shape=shape, pipe=PIPE, grid_step=0)
    ours = kicks(effect, beam(*places, weight, precision))[:, -5:]
    strength = 1e9 * VOLT_METRE / (REF.beta_gamma**2 * REF.species.mass)
    theirs = strength * field_of_images(test, centre)
    assert np.all(np.abs(ours - theirs) < 8e-3 * np.linalg.norm(theirs, axis=0))


def test_the_longitudinal_field_falls_off_with_the_lowest_mode():
    k = np.pi * np.hypot(1 / (2 * A), 1 / (2 * B))
    z = np.array([0.0, 0.05, 0.06])
    made = beam(np.zeros(3), np.zeros(3), z, [1e9, 0, 0])
    ours = kicks(bt.SpaceCharge3D((32, 32, 512), pipe=PIPE, grid_step=0), made)[2]
    assert ours[2] / ours[1] == pytest.approx(np.exp(-0.01 * k), rel=2e-3)
    strength = 1e9 * VOLT_METRE / (REF.beta_gamma**2 * REF.species.mass)
    # phi = 4 pi/(ab) exp(-k z)/2k at the centre
    assert ours[1] == pytest.approx(strength * 2 * np.pi / (A * B) * np.exp(-0.05 * k), rel=6e-3)


def test_a_wide_pipe_is_free_space():
    random = np.random.default_rng(2)
    x, y, z = random.normal(size=(3, 20_000)) * 1e-3
    size = 1.2 * max(np.abs(x).max(), np.abs(y).max())
    wide = 3 * size
    free = kicks(bt.SpaceCharge3D(96, grid_step=0), beam(x, y, z, np.full(x.size, 1e5)))
    pipe = bt.RectangularPipe(wide, wide)
    near = kicks(
        bt.SpaceCharge3D((288, 288, 96), pipe=pipe, grid_step=0),
        beam(x, y, z, np.full(x.size, 1e5)),
    )
    for i in range(3):
        # what is left are the images, of the order (sigma/wall)^2, and the mesh
        assert np.sqrt(np.mean((near[i] - free[i]) ** 2) / np.mean(free[i] ** 2)) < 0.04


@pytest.mark.parametrize("shape", ["linear", "quadratic", "cubic"])
def test_particles_push_each_other_alike_and_the_wall_pulls(shape):
    """Two particles anywhere, also next to a wall: kick of 1 by 2 as of 2 by 1 in the mirror, and
    no field on a wall along it."""
    random = np.random.default_rng(3)
    effect = bt.SpaceCharge3D((16, 24, 32), shape=shape, pipe=PIPE, grid_step=0)
    for _ in range(4):
        x = random.uniform(-A, A, 2)
        y = random.uniform(-B, B, 2)
        z = np.array([0, 3e-3])
        there = kicks(effect, beam(x, y, z, [1e9, 1e9]))
        back = kicks(effect, beam(-x, -y, -z, [1e9, 1e9]))
        assert there == pytest.approx(-back, abs=1e-9 * np.abs(there).max())
        # longitudinal momentum has no wall to go to
        assert abs(there[2].sum()) < 1e-9 * np.abs(there).max()
    x = np.array([0, A, A, 0.3 * A])
    y = np.array([0, 0.2 * B, 0.6 * B, B])
    on_wall = kicks(effect, beam(x, y, np.zeros(4), [1e9, 0, 0, 0]))
    largest = np.abs(on_wall).max()
    assert np.all(np.abs(on_wall[1:, 1:3]) < 1e-12 * largest)
    assert np.all(np.abs(on_wall[[0, 2], 3]) < 1e-12 * largest)


def test_one_particle_is_pulled_to_the_wall():
    kick = kicks(bt.SpaceCharge3D((64, 64, 64), pipe=PIPE), beam([8e-3], [0], [0], [1e9]))
    assert kick[0, 0] > 0 and abs(kick[1, 0]) < 1e-9 * kick[0, 0]
    centred = kicks(bt.SpaceCharge3D((64, 64, 64), pipe=PIPE), beam([0], [0], [0], [1e9]))
    assert np.all(np.abs(centred) < 1e-9 * kick[0, 0])
    # flat pipe, image next to it: half of 1/(2 d)^2 more or less
    strength = 1e9 * VOLT_METRE / (REF.beta_gamma**2 * REF.species.mass)
    assert kick[0, 0] == pytest.approx(strength / (2 * 2e-3) ** 2, rel=0.15)


@pytest.mark.parametrize("precision", ["double", "single"])
def test_same_bits_on_any_number_of_threads_and_undone_backwards(precision):
    random = np.random.default_rng(4)
    x, y, z = random.uniform(-1, 1, (3, 30_000)) * np.array([[A], [B], [2e-2]])
    line = bt.Line([bt.Drift(0.1, slices=3)])
    for effect in (
        bt.SpaceCharge3D((20, 30, 40), pipe=PIPE),
        bt.SpaceCharge3D((20, 30, 40), pipe=bt.RoundPipe(1.5 * A)),
        bt.SpaceCharge2D(CURRENT, (20, 30), pipe=PIPE),
        bt.SpaceCharge2p5D((20, 30), pipe=bt.RoundPipe(2 * A)),
    ):
        results = []
        for threads in (1, 2, 3):
            made = beam(x, y, z, np.full(x.size, 1e3), precision)
            effect.kick(made, 1.0, threads=threads)
            results.append(made.array.copy())
        assert np.array_equal(results[0], results[1]) and np.array_equal(results[0], results[2])
        made = beam(0.9 * x, 0.9 * y, z, np.full(x.size, 1e3), precision)
        start = made.array.copy()
        line.track(made, space_charge=effect)
        assert np.any(made.array != start)
        line.track(made, space_charge=effect, backward=True)
        assert np.abs(made.array - start).max() < (1e-15 if precision == "double" else 1e-8)


def test_a_round_pipe_adds_the_images_of_all_particles():
    random = np.random.default_rng(5)
    x, y = random.uniform(-4e-3, 4e-3, (2, 3000)) + np.array([[3e-3], [-1e-3]])
    radius = 10e-3
    pipe = bt.RoundPipe(radius)
    there = kicks(bt.SpaceCharge2D(CURRENT, (32, 32), pipe=pipe), beam(x, y))
    free = kicks(bt.SpaceCharge2D(CURRENT, (32, 32)), beam(x, y))
    z = x + 1j * y
    image = radius**2 / np.conj(z)
    expected = np.array([-np.mean(1 / np.conj(p - image)) for p in z[:50]]) * PERVEANCE
    found = (there - free)[0, :50] + 1j * (there - free)[1, :50]
    assert np.abs(found - expected).max() < 1e-9 * np.abs(expected).max()
    # two lines at one place off the axis feel the image alone
    pair = kicks(bt.SpaceCharge2D(CURRENT, (32, 32), pipe=pipe), beam([5e-3] * 2, [0, 0]))
    assert pair[0] == pytest.approx(PERVEANCE * 5e-3 / (radius**2 - 25e-6), rel=1e-9)


def test_a_rod_in_a_rectangular_pipe_is_pulled_by_its_images():
    line = np.linspace(-4e-4, 4e-4, 15)
    x0, y0 = 4e-3, -2e-3
    x, y = (q.ravel() for q in np.meshgrid(x0 + line, y0 + line))
    found = kicks(bt.SpaceCharge2D(CURRENT, 300, pipe=PIPE), beam(x, y)).mean(axis=1)
    force, unit = 0j, np.pi / (4 * A)
    for n in range(-20, 21):
        height = 1j * (2 * B * n + (-1) ** n * y0)
        z = x0 + 1j * y0 - height
        row = (unit / np.tan(unit * (z - x0)) if n else 0) - unit / np.tan(unit * (z - 2 * A + x0))
        force += (-1) ** n * np.conj(row)
    assert found[0] == pytest.approx(PERVEANCE * force.real, rel=4e-3)
    assert found[1] == pytest.approx(PERVEANCE * force.imag, rel=4e-3)


@pytest.mark.parametrize("pipe", [bt.RoundPipe(5e-3), bt.RectangularPipe(5e-3, 5e-3)])
def test_the_wall_sets_the_longitudinal_field_of_slices(pipe):
    """A round uniform beam of radius r in a round pipe of radius R: u = ln(R/r) + 1/2 on the axis;
    a square pipe is a round one of 1.0787 times its half width."""
    random = np.random.default_rng(6)
    n, r = 200_000, 1e-3
    radius, phi = r * np.sqrt(random.random(n)), 2 * np.pi * random.random(n)
    t = random.normal(size=n) * 0.5
    zero = np.zeros(n)
    made = bt.Beam.from_arrays(
        REF, x=radius * np.cos(phi), px=zero, y=radius * np.sin(phi), py=zero, t=t, pt=zero,
        charge=1e-9,
    )  # fmt: skip
    bt.SpaceCharge2p5D((128, 128), bins=80, pipe=pipe).kick(made, 1.0)
    classical = VOLT_METRE / REF.species.mass
    slope = -t / 0.25 * 1e-9 / 1.602176634e-19 * np.exp(-2 * t**2) / (np.sqrt(2 * np.pi) * 0.5)
    wall = 5e-3 * (1.0787 if isinstance(pipe, bt.RectangularPipe) else 1)
    u = np.log(wall / r) + 0.5 - 0.5 * (radius / r) ** 2
    expected = -2 * classical / REF.beta_gamma**3 * slope * u
    pt = np.asarray(made.pt)
    assert np.dot(pt, expected) / np.dot(expected, expected) == pytest.approx(1, abs=0.04)


def field_of_modes(at, source):
    """E of a unit point charge in the round pipe over 1/(4 pi eps0), by the Fourier-Bessel series
    2/a sum e^{im(t-t')} J_m J_m' exp(-x |z|/a)/(x J_{m+1}(x)^2), J_m(x) = 0 (Jackson, sec. 3.11);
    not for z = z'."""
    r, angle = np.hypot(at[0], at[1]), np.arctan2(at[1], at[0])
    turn, z = angle - np.arctan2(source[1], source[0]), at[2] - source[2]
    e_r, e_t, e_z = np.zeros((3, at.shape[1]))
    for m in range(40):
        x = special.jn_zeros(m, 40)[:, None]
        amplitude = (2 if m == 0 else 4) / A * np.exp(-x * np.abs(z) / A) / x
        amplitude *= special.jv(m, x * np.hypot(*source[:2]) / A) / special.jv(m + 1, x) ** 2
        wave = special.jv(m, x * r / A)
        slope = special.jvp(m, x * r / A) * x / A
        e_r -= np.sum(amplitude * slope, axis=0) * np.cos(m * turn)
        e_t += np.sum(amplitude * wave, axis=0) * np.sin(m * turn) * m / r
        e_z += np.sum(amplitude * wave * x / A, axis=0) * np.sign(z) * np.cos(m * turn)
    along, across = np.exp(1j * angle), 1j * np.exp(1j * angle)
    e = e_r * along + e_t * across
    return np.array([e.real, e.imag, e_z])


@pytest.mark.parametrize("shape", ["linear", "quadratic", "cubic"])
@pytest.mark.parametrize("precision", ["double", "single"])
@pytest.mark.parametrize("centre", [(3e-3, -2e-3, 0), (6e-3, 3e-3, 0)])
def test_a_small_ball_has_the_modes_of_a_round_pipe(centre, precision, shape):
    source = ball(centre, 1e-3, 20_000)
    test = np.array([[-5, 0.1, 6, 0, 8], [0, 3, 1, -5, -4], [4, -4, 6, 8, 5]]) * 1e-3
    places = np.concatenate([source, test], axis=1)
    weight = np.concatenate([np.full(source.shape[1], 1e9 / source.shape[1]), np.zeros(5)])
    strength = 1e9 * VOLT_METRE / (REF.beta_gamma**2 * REF.species.mass)
    theirs = strength * field_of_modes(test, np.array(centre))
    ours = kicks(bt.SpaceCharge3D(64, shape=shape, pipe=ROUND), beam(*places, weight, precision))[
        :, -5:
    ]
    assert np.all(np.abs(ours - theirs) < 2e-3 * np.linalg.norm(theirs, axis=0))


@functools.cache
def image_force(r):
    """On a unit point charge off the axis of the round pipe, over 1/(4 pi eps0): half the slope of
    (2/pi) sum_m int K_m(ka)/I_m(ka) I_m(kr)^2 dk."""
    x, weight = np.polynomial.legendre.leggauss(120)
    u = (x + 1) / 2
    last = 20 / (1 - r / A)
    k, weight = last * u**3, weight / 2 * 3 * u**2 * last  # k of the pipe's radius
    force = 0.0
    for m in range(60):
        here, wall = special.ive(m, k * r / A), special.ive(m, k)
        slope = (special.ive(m + 1, k * r / A) + m / (k * r / A) * here) * k / A
        with np.errstate(all="ignore"):
            part = special.kve(m, k) / wall * here * slope * np.exp(-2 * k * (1 - r / A))
        part = np.where(np.isfinite(part), part, 0)  # where k^m is below all numbers
        force += (2 / np.pi if m == 0 else 4 / np.pi) * np.sum(weight * part) / A
    return force


@pytest.mark.parametrize("precision", ["double", "single"])
def test_one_particle_is_pulled_to_the_wall_of_a_round_pipe(precision):
    strength = 1e9 * VOLT_METRE / (REF.beta_gamma**2 * REF.species.mass)
    for r, tolerance in ((2e-3, 2e-3), (5e-3, 3e-3), (8e-3, 2e-2)):
        expected = strength * image_force(r)
        for turn in (0.0, 1.0, -2.5):
            place = [r * np.cos(turn)], [r * np.sin(turn)], [0.0]
            kick = kicks(bt.SpaceCharge3D(64, pipe=ROUND), beam(*place, [1e9], precision))[:, 0]
            assert np.hypot(*kick[:2]) == pytest.approx(expected, rel=tolerance)
            assert np.arctan2(kick[1], kick[0]) == pytest.approx(turn, abs=5e-3)
            assert kick[2] == 0


def test_a_long_bunch_in_a_round_pipe_is_that_of_slices():
    """Cells along the bunch longer than the pipe is wide."""
    fast = bt.Reference("proton", kinetic_energy=1e12)
    random = np.random.default_rng(8)
    x, y = np.clip(random.normal(size=(2, 100_000)), -3, 3) * [[1e-3], [0.7e-3]]
    t = random.normal(size=x.size) * 0.1
    zero = np.zeros_like(x)
    kick = []
    for model in (bt.SpaceCharge3D(48, pipe=ROUND),
                  bt.SpaceCharge2p5D(48, bins=48, pipe=ROUND)):  # fmt: skip
        made = bt.Beam.from_arrays(
            fast, x=x + 3e-3, px=zero, y=y - 2e-3, py=zero, t=t, pt=zero, charge=1e-9
        )
        model.kick(made, 1.0)
        kick.append(np.array([made.px, made.py, made.pt]))
    three, slices = kick
    rms = np.sqrt(np.mean((three - slices) ** 2, axis=1) / np.mean(slices**2, axis=1))
    assert np.all(rms < [0.03, 0.03, 0.06])
    slope = np.sum(three * slices, axis=1) / np.sum(slices**2, axis=1)
    assert slope == pytest.approx(1, abs=0.02)


def test_the_middle_of_a_long_rod_in_a_round_pipe_is_a_beam_of_a_current():
    random = np.random.default_rng(9)
    n, length = 100_000, 0.2
    radius, phi = 2e-3 * np.sqrt(random.random(n)), 2 * np.pi * random.random(n)
    x, y, z = radius * np.cos(phi) + 5e-3, radius * np.sin(phi), random.random(n) * length
    weight = np.full(n, 1e9 / n)
    rod = kicks(bt.SpaceCharge3D((40, 40, 96), pipe=ROUND), beam(x, y, z, weight))
    # charge per length of the laboratory times speed
    current = 1e9 * 1.602176634e-19 / length * REF.gamma * REF.beta * LIGHT
    plane = kicks(bt.SpaceCharge2D(current, 40, pipe=ROUND), beam(x, y))
    middle = np.abs(z - length / 2) < 0.2 * length
    off = (rod - plane)[:2, middle]
    assert np.sqrt(np.mean(off**2) / np.mean(plane[:2, middle] ** 2)) < 0.06  # noise
    assert rod[:2, middle].mean(axis=1) == pytest.approx(
        plane[:2, middle].mean(axis=1), abs=5e-3 * np.abs(plane).max()
    )


@pytest.mark.parametrize("precision", ["double", "single"])
def test_a_wide_round_pipe_is_free_space(precision):
    random = np.random.default_rng(10)
    x, y, z = random.normal(size=(3, 10_000)) * 1e-3

    def of(pipe):
        # one cell of 25 is kept for the place of the grid in a pipe
        effect = bt.SpaceCharge3D((26, 26, 25), pipe=pipe, margin=1.0 if pipe else 20 / 19)
        return kicks(effect, beam(x, y, z * 19 / 20, np.full(x.size, 1e5), precision))

    free = of(None)
    for radius in (0.1, 1.0, 1e6):
        off = np.sqrt(np.mean((of(bt.RoundPipe(radius)) - free) ** 2) / np.mean(free**2))
        assert off < 0.01  # the grid lies elsewhere


def test_no_potential_on_a_round_wall():
    random = np.random.default_rng(11)
    x, y, z = random.normal(size=(3, 50_000)) * np.array([[2e-3], [1e-3], [5e-3]]) + 1e-3
    inside = np.hypot(x, y) < 0.99 * A
    # at the wall's height, so that the grid reaches it
    made = beam(x[inside], y[inside], z[inside], np.full(inside.sum(), 1e5))
    reach = beam([0.99 * A, -0.99 * A, 0, 0], [0, 0, 0.99 * A, -0.99 * A], np.zeros(4), np.zeros(4))
    columns = {c: np.concatenate([getattr(made, c), getattr(reach, c)])
               for c in ("x", "px", "y", "py", "t", "pt", "weight")}  # fmt: skip
    made = bt.Beam.from_arrays(REF, **columns)
    largest = []
    for cells in (24, 48):
        f = bt.SpaceCharge3D(cells, pipe=ROUND).field(made)
        phi = f.potential
        turn = np.linspace(0, 2 * np.pi, 100)
        at = [(A * np.cos(turn) - f.x[0]) / (f.x[1] - f.x[0]),
              (A * np.sin(turn) - f.y[0]) / (f.y[1] - f.y[0])]  # fmt: skip
        (i, u), (j, v) = ((np.floor(q).astype(int), q - np.floor(q)) for q in at)
        u, v = u[:, None], v[:, None]
        wall = ((1 - v) * ((1 - u) * phi[i, j] + u * phi[i + 1, j])
                + v * ((1 - u) * phi[i, j + 1] + u * phi[i + 1, j + 1]))  # fmt: skip
        largest.append(np.abs(wall).max() / phi.max())
        assert np.all(np.isfinite(phi))
    assert largest[0] < 0.02 and largest[1] < 0.4 * largest[0]


@pytest.mark.parametrize("shape", ["linear", "quadratic", "cubic"])
def test_particles_push_each_other_alike_in_a_round_pipe(shape):
    """Anywhere, also next to the wall."""
    random = np.random.default_rng(12)
    effect = bt.SpaceCharge3D((16, 24, 20), shape=shape, pipe=ROUND)
    for last in (0.3, 0.9, 1.0):
        r, turn = last * A, random.uniform(0, 2 * np.pi, 2)
        x, y, z = r * np.cos(turn), r * np.sin(turn), np.array([0, 3e-3])
        there = kicks(effect, beam(x, y, z, [1e9, 1e9]))
        back = kicks(effect, beam(-x, -y, -z, [1e9, 1e9]))
        assert there == pytest.approx(-back, abs=1e-6 * np.abs(there).max())
        assert abs(there[2].sum()) < 1e-9 * np.abs(there).max()
    x, y = random.uniform(-0.7 * A, 0.7 * A, (2, 5000))
    z = random.normal(size=5000) * 5e-3
    dense = kicks(effect, beam(x, y, z, np.full(5000, 1e5)))
    assert abs(dense[2].sum()) < 1e-12 * np.abs(dense[2]).sum()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: bt.RoundPipe(0), "radius = 0.0 m is not allowed; allowed: > 0"),
        (lambda: bt.RectangularPipe(1, np.inf), "half_height = inf m is not allowed"),
        (lambda: bt.SpaceCharge3D(16, pipe=2), "pipe = 2 must be RectangularPipe or RoundPipe"),
        (lambda: bt.SpaceCharge3D(8, pipe=ROUND), "cells = 8 is not allowed; allowed: 9 to 4096"),
        (lambda: bt.SpaceCharge2D(1, pipe=3), "pipe = 3 must be RectangularPipe or RoundPipe"),
    ],
)
def test_refused(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make()


@pytest.mark.parametrize(
    "effect",
    [
        bt.SpaceCharge3D(16, pipe=PIPE),
        bt.SpaceCharge3D(16, pipe=ROUND),
        bt.SpaceCharge2D(CURRENT, 16, pipe=PIPE),
        bt.SpaceCharge2D(CURRENT, 16, pipe=ROUND),
        bt.SpaceCharge2p5D(16, pipe=ROUND),
    ],
    ids=repr,
)
def test_particles_outside_are_refused_and_apertures_take_them_away(effect):
    x = np.array([0.0, 2e-3, -1.1 * A])
    z = np.array([0, 1e-2, 2e-2])
    made = beam(x, np.zeros(3), z, [1e9] * 3)
    with pytest.raises(ValueError, match="outside of the conducting pipe"):
        effect.kick(made, 1.0)
    assert np.all(np.asarray(made.px) == 0)
    if isinstance(effect, bt.SpaceCharge3D):
        pipe = bt.Aperture(A, B) if hasattr(bt, "Aperture") else None
        assert pipe is not None
        line = bt.Line([pipe, bt.Drift(0.1)])
        line.track(made, space_charge=effect)
        assert len(made) == 2


@pytest.mark.parametrize(
    "effect",
    [
        bt.SpaceCharge3D(16, pipe=PIPE),
        bt.SpaceCharge3D(16, pipe=ROUND),
        bt.SpaceCharge2D(CURRENT, 16, pipe=PIPE),
        bt.SpaceCharge2p5D(16, pipe=ROUND),
    ],
    ids=repr,
)
def test_particles_that_reach_the_wall_are_lost_there(effect):
    made = beam(np.array([0.0, 2e-3, -1e-3]), np.zeros(3), [0, 1e-2, 2e-2], [1e3] * 3)
    made.px[2] = -0.9 * A
    line = bt.Line([bt.Drift(1.0, name="first"), bt.Drift(1.0, name="second", slices=4)])
    line.track(made, space_charge=effect)
    assert len(made) == 2 and len(made.lost) == 1
    lost = made.lost
    assert lost.reason[0] == "aperture" and lost.element[0] == 1 and lost.id[0] == 2
    assert lost.s[0] == pytest.approx(1.125 if effect.order == 2 else 1.0, abs=0.26)
    assert lost.x[0] < -A


def test_a_gradient_names_the_wall_that_a_particle_meets():
    made = beam(np.array([0.0, 2e-3, -1e-3]), np.zeros(3), [0, 1e-2, 2e-2], [1e9] * 3)
    made.px[2] = -0.9 * A
    quadrupole = bt.Quadrupole(0.1, k1=0.0, name="q")
    line = bt.Line([quadrupole, bt.Drift(1.0), bt.Drift(1.0, name="behind", slices=4)])
    with pytest.raises(ValueError, match=r"meets the wall of the pipe in .*behind.* at s = 1\."):
        line.gradient(
            made,
            bt.losses.beam_size("x"),
            [("q", "k1")],
            space_charge=bt.SpaceCharge3D(16, pipe=PIPE),
        )


def test_copies_and_dictionaries_keep_the_pipe():
    for effect in (
        bt.SpaceCharge3D(16, pipe=PIPE),
        bt.SpaceCharge3D(16, pipe=ROUND),
        bt.SpaceCharge2D(1.0, 16, pipe=PIPE),
        bt.SpaceCharge2p5D(16, pipe=ROUND),
    ):
        for other in (
            copy.copy(effect),
            pickle.loads(pickle.dumps(effect)),
            type(effect)(**effect.to_dict()),
        ):
            assert other == effect and other.pipe == effect.pipe
        assert effect.memory(1000) > 0
