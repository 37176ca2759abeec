"""Collective effects against independent codes and closed forms: figures instead of maps.

A part below is one setting of one effect beside one code; it yields its figures, each with our
values, theirs, and the limit of the difference with what it comes from. The deviation is the
largest difference over the largest value. Codes that are not installed are skipped with the reason.
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import betatron as bt
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

ELEMENTARY_CHARGE = 1.602176634e-19
VOLT_METRE = ELEMENTARY_CHARGE / (4 * np.pi * 8.8541878188e-12)
LIGHT = 299792458.0

# what limits the agreement
CONSTANTS = "constants of nature"
METHOD = "two discretisations"


@dataclass(frozen=True)
class Figure:
    """What is compared: values of any shape."""

    name: str
    ours: Any
    theirs: Any
    limit: float
    why: str = METHOD


@dataclass(frozen=True)
class Part:
    effect: str
    code: str
    modules: tuple[str, ...]  # that it needs
    distribution: str  # whose version is told; "": a formula
    run: Callable[[], Iterator[Figure]]
    seconds: float = 1.0  # about; short ones are tested by pytest, too

    def missing(self) -> str:
        for module in self.modules:
            if importlib.util.find_spec(module) is None:
                return f"{module} is not installed"
        return ""


def deviation(figure: Figure) -> float:
    ours, theirs = np.atleast_1d(figure.ours), np.atleast_1d(figure.theirs)
    return float(np.max(np.abs(ours - theirs)) / np.max(np.abs(theirs)))


def evaluate(part: Part) -> list[dict[str, Any]]:
    """Its cells; the scripts of other codes leave files where they run."""
    os.environ.setdefault("XSUITE_ALLOW_KERNEL_COMPILATION", "1")
    cell: dict[str, Any] = {"effect": part.effect, "code": part.code}
    if why := part.missing():
        return [{**cell, "figure": "", "verdict": f"not run: {why}"}]
    cells = []
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for figure in part.run():
            found = deviation(figure)
            largest = int(np.argmax(np.abs(np.ravel(figure.theirs))))
            cells.append(
                {
                    **cell,
                    "figure": figure.name,
                    "ours": float(np.ravel(figure.ours)[largest]),
                    "theirs": float(np.ravel(figure.theirs)[largest]),
                    "deviation": found,
                    "limit": figure.limit,
                    "limited_by": figure.why,
                    "verdict": "agrees" if found <= figure.limit else "UNEXPLAINED",
                }
            )
    return cells


def run(only: list[str] | None) -> tuple[dict[str, str], list[dict[str, Any]]]:
    """(versions of the codes, cells)."""
    versions, cells = {}, []
    for part in PARTS:
        words = f"{part.effect} {part.code}".lower()
        if only and not any(word.lower() in words for word in only):
            continue
        start = time.perf_counter()
        found = evaluate(part)
        cells += found
        if part.distribution and not part.missing():
            versions[part.distribution] = version(part.distribution)
        for c in found:
            print(
                f"{c['effect']:22s} {c['code']:13s} {c['figure']:44s} "
                f"{c.get('deviation', float('nan')):8.1e}  {c['verdict']}",
                flush=True,
            )
        print(f"({time.perf_counter() - start:.1f} s)", flush=True)
    return versions, cells


# --- space charge ---------------------------------------------------------------------------------


def bunch(n: int, ref: bt.Reference, charge: float, seed: int = 3) -> tuple[bt.Beam, np.ndarray]:
    """A Gaussian bunch of 1, 0.7 and, in the rest frame, 2 mm, cut at 4 sigma; x, y, z' [m]."""
    random = np.random.default_rng(seed)
    z = np.clip(random.normal(size=(3, n)), -4, 4) * np.array([[1e-3], [7e-4], [2e-3]])
    zero = np.zeros(n)
    beam = bt.Beam.from_arrays(
        ref, x=z[0], px=zero, y=z[1], py=zero, t=-z[2] / ref.beta_gamma, pt=zero, charge=charge
    )
    return beam, z


def momenta(beam: bt.Beam) -> np.ndarray:
    """px, py and the energy deviation over p0 c."""
    return np.array([beam.px, beam.py, -np.asarray(beam.pt)])


def space_charge_3d_xfields() -> Iterator[Figure]:
    """The same nodes, the same shape, the same integrated Green's function."""
    sys.modules.setdefault("pyfftw", None)  # type: ignore[arg-type]
    import xfields as xf
    import xtrack as xt

    charge, length, n, mesh = 1e-9, 1e-4, 20_000, 40  # short: delta is not linear in pt
    ref = bt.Reference("electron", kinetic_energy=10e6)
    beam, z = bunch(n, ref, charge)
    effect = bt.SpaceCharge3D(mesh, shape="linear", grid_step=0)
    nodes = effect.field(beam)
    effect.kick(beam, length)
    particles = xt.Particles(
        mass0=xt.ELECTRON_MASS_EV, q0=-1, p0c=ref.momentum, x=z[0], y=z[1],
        zeta=z[2] / ref.gamma, weight=charge / ELEMENTARY_CHARGE / n,
    )  # fmt: skip
    xf.SpaceCharge3D(
        length=length,
        apply_z_kick=True,
        x_grid=nodes.x,
        y_grid=nodes.y,
        z_grid=nodes.z,
        solver="FFTSolver3D",
        gamma0=float(ref.gamma),
    ).track(particles)
    order = np.argsort(particles.particle_id)
    theirs = np.array([particles.px, particles.py, particles.ptau])[:, order]
    ours = momenta(beam)
    for i, name in enumerate(("px", "py", "pt")):
        yield Figure(f"kick {name}, the same grid of {mesh}³", ours[i], theirs[i], 1e-6, CONSTANTS)


def space_charge_3d_ocelot() -> Iterator[Figure]:
    """Its own grid; rms of the differences over the rms."""
    from ocelot.cpbd.beam import ParticleArray
    from ocelot.cpbd.sc import SpaceCharge

    charge, length, n, mesh = 1e-9, 0.01, 200_000, 63
    ref = bt.Reference("electron", kinetic_energy=10e6)
    beam, z = bunch(n, ref, charge)
    bt.SpaceCharge3D(64, shape="linear", grid_step=0).kick(beam, length)
    p = ParticleArray(n)
    p.E = ref.total_energy * 1e-9
    p.q_array = np.full(n, charge / n)
    p.rparticles[0], p.rparticles[2], p.rparticles[4] = z[0], z[1], -z[2] / ref.beta_gamma
    SpaceCharge(nmesh_xyz=[mesh] * 3).apply(p, length)
    ours, theirs = momenta(beam), p.rparticles[[1, 3, 5]]
    slope = [np.dot(a, b) / np.dot(b, b) for a, b in zip(ours, theirs, strict=True)]
    for name, value, limit in zip(("px", "py", "pt"), slope, (1e-2, 1e-2, 2e-2), strict=True):
        yield Figure(f"kick {name}, regression on theirs", value, 1.0, limit)


def space_charge_3d_exact() -> Iterator[Figure]:
    """The field of a Gaussian ellipsoid, and how the error falls with the cells."""
    cores = os.sched_getaffinity(0)
    from space_charge_accuracy import error

    os.sched_setaffinity(0, cores)  # benchmarks bind their process to one
    for aspect in (1.0, 100.0):
        coarse, fine = error(aspect, 24, "quadratic"), error(aspect, 48, "quadratic")
        scaled = 1 + fine, 1.0
        yield Figure(f"ellipsoid 1 : 1 : {aspect:.0f}, rms error at 48³", *scaled, 0.06, "mesh")
        order = np.log2(coarse / fine)
        yield Figure(
            f"ellipsoid 1 : 1 : {aspect:.0f}, order from 24³ to 48³",
            order,
            2.0,
            0.1,
            "next order of the mesh",
        )


def pipe_images() -> Iterator[Figure]:
    """A rod of charge in a square pipe, against the sum of its images in both walls."""
    a = 10e-3
    ref = bt.Reference("proton", kinetic_energy=1e8)
    current, length = 1e-3, 1.0
    x0, y0, size = 4e-3, -2e-3, 0.4e-3
    line = np.linspace(-size, size, 21)
    x, y = (q.ravel() for q in np.meshgrid(x0 + line, y0 + line))
    zero = np.zeros_like(x)
    beam = bt.Beam.from_arrays(ref, x=x, px=zero, y=y, py=zero, t=zero, pt=zero, charge=1e-12)
    pipe = bt.RectangularPipe(a, a)
    bt.SpaceCharge2D(current, 400, pipe=pipe, shape="linear").kick(beam, length)
    # sum 1/(z - z_k) over a row of images (period 4a, alternating) is a difference of cotangents
    force, z = 0j, x0 + 1j * y0
    unit = np.pi / (4 * a)
    for n in range(-20, 21):
        height = 1j * (2 * a * n + (-1) ** n * y0)
        same = z - x0 - height
        row = (unit / np.tan(unit * same) if n else 0) - unit / np.tan(
            unit * (z - (2 * a - x0) - height)
        )
        force += (-1) ** n * np.conj(row)
    bg = ref.beta_gamma
    perveance = 2 * current / (4 * np.pi * 8.8541878188e-12 * LIGHT * ref.species.mass) / bg**3
    for name, column, part in (("x", beam.px, force.real), ("y", beam.py, force.imag)):
        value = perveance * length * part
        yield Figure(f"image force {name} on a rod", np.mean(column), value, 1e-4, "mesh")


def round_pipe_modes() -> Iterator[Figure]:
    """Test particles around a small ball of charge in a round pipe, against the Fourier-Bessel
    series of the potential of a point, (2/a) sum e^{im(t-t')} J_m J_m' exp(-x |z|/a)/(x
    J_{m+1}(x)^2) with J_m(x) = 0 (Jackson, sec. 3.11)."""
    from scipy.special import jn_zeros, jv, jvp

    a, length, centre = 10e-3, 1.0, 6e-3
    ref = bt.Reference("proton", kinetic_energy=1e8)
    random = np.random.default_rng(6)
    seed = random.normal(size=(3, 400))
    seed *= 1e-3 * random.random(400) ** (1 / 3) / np.linalg.norm(seed, axis=0)
    cube = itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3))
    # the symmetry of a cube: no quadrupole moment
    ball = np.concatenate([seed[list(p)] * np.reshape(s, (3, 1)) for p, s in cube], axis=1)
    ball[0] += centre
    n = ball.shape[1]
    r, turn = np.array([[4e-3, 8e-3, 7e-3], [0.4, -0.5, 2.5]])
    test = np.array([r * np.cos(turn), r * np.sin(turn), [4e-3, -3e-3, 6e-3]])
    x, y, z = np.concatenate([ball, test], axis=1)
    zero, weight = np.zeros_like(x), np.repeat([1e9 / n, 0], [n, 3])
    beam = bt.Beam.from_arrays(
        ref, x=x, px=zero, y=y, py=zero, t=-z / ref.beta_gamma, pt=zero, weight=weight
    )
    bt.SpaceCharge3D(128, pipe=bt.RoundPipe(a)).kick(beam, length)

    e_r, e_t, e_z = np.zeros((3, 3))
    for m in range(40):
        k = jn_zeros(m, 40)[:, None] / a
        part = (2 if m == 0 else 4) * jv(m, k * centre) / (k * a * jv(m + 1, k * a)) ** 2
        part = part * k * np.exp(-k * np.abs(test[2]))
        e_r -= np.sum(part * k * jvp(m, k * r), axis=0) * np.cos(m * turn)
        e_t += np.sum(part * jv(m, k * r), axis=0) * m / r * np.sin(m * turn)
        e_z += np.sum(part * k * jv(m, k * r), axis=0) * np.sign(test[2]) * np.cos(m * turn)
    transverse = (e_r + 1j * e_t) * np.exp(1j * turn)
    bg = ref.beta_gamma
    strength = 1e9 * VOLT_METRE * length / (bg * ref.species.mass)
    for name, column, e in (
        ("px", beam.px, transverse.real / bg),
        ("py", beam.py, transverse.imag / bg),
        ("pt", beam.pt, -e_z),
    ):
        yield Figure(
            f"kick {name} beside a ball", np.array(column)[-3:], strength * e, 2e-3, "mesh"
        )


def space_charge_gaussian_xfields() -> Iterator[Figure]:
    """The same sizes in the principal axes of x and y; the line density is Gaussian there, and that
    of the particles here."""
    import xfields as xf
    import xtrack as xt
    from scipy.special import ndtri

    n, charge, length = 20_000, 1e-9, 0.5
    ref = bt.Reference("proton", kinetic_energy=1.4e9)
    random = np.random.default_rng(5)
    x, y = random.normal(size=(2, n)) * np.array([[3e-3], [1e-3]])
    zeta = random.permutation(ndtri((np.arange(n) + 0.5) / n))
    zero = np.zeros(n)
    beam = bt.Beam.from_arrays(
        ref, x=x, px=zero, y=y, py=zero, t=-zeta / ref.beta, pt=zero, charge=charge
    )
    bt.SpaceChargeGaussian("2.5D", longitudinal=False, bins=201).kick(beam, length)
    values, axes = np.linalg.eigh(np.cov([x, y], bias=True))
    turned = axes.T @ (np.array([x, y]) - np.mean([x, y], axis=1, keepdims=True))
    particles = xt.Particles(
        mass0=xt.PROTON_MASS_EV, q0=1, p0c=ref.momentum, x=turned[0], y=turned[1], zeta=zeta,
        weight=charge / ELEMENTARY_CHARGE / n,
    )  # fmt: skip
    profile = xf.LongitudinalProfileQGaussian(
        number_of_particles=charge / ELEMENTARY_CHARGE, sigma_z=1.0, z0=0.0, q_parameter=1.0
    )
    xf.SpaceChargeBiGaussian(
        longitudinal_profile=profile, length=length, mean_x=0.0, mean_y=0.0,
        sigma_x=float(np.sqrt(values[0])), sigma_y=float(np.sqrt(values[1])), min_sigma_diff=1e-14,
    ).track(particles)  # fmt: skip
    order = np.argsort(particles.particle_id)
    theirs = axes @ np.array([particles.px, particles.py])[:, order]
    ours = np.array([beam.px, beam.py])
    yield Figure(
        "direction of kicks",
        np.arctan2(ours[1], ours[0]),
        np.arctan2(theirs[1], theirs[0]),
        1e-9,
        "rounding",
    )
    yield Figure("kicks", ours, theirs, 5e-3, "bins of the line density")


# --- radiation ------------------------------------------------------------------------------------


def csr_ocelot() -> Iterator[Figure]:
    """The Berlin-Zeuthen chicane, the same particles (benchmarks/csr.py with fewer)."""
    import csr

    columns = csr.particles(1 << 14, 5e9)
    still, there = (csr.betatron(columns, 5e9, model, bins=150) for model in (None, "transient"))
    quiet, loud = (csr.ocelot(columns, 5e9, on) for on in (False, True))
    kick, other = there["delta"] - still["delta"], loud["delta"] - quiet["delta"]
    yield Figure("Berlin-Zeuthen chicane, mean loss", np.mean(kick), np.mean(other), 0.03)
    yield Figure("Berlin-Zeuthen chicane, rms of the loss", np.std(kick), np.std(other), 0.05)
    yield Figure(
        "Berlin-Zeuthen chicane, emittance [m]", there["emittance"], loud["emittance"], 0.05
    )


# --- wakes ----------------------------------------------------------------------------------------


def wakes_xwakes() -> Iterator[Figure]:
    """Kicks of resonators and of a resistive wall on one bunch; xwakes is of first order in its
    slices."""
    import xtrack as xt
    import xwakes as xw

    rng = np.random.default_rng(1)
    n = 20_000
    zeta, x, y = rng.normal(0, 1e-3, n), rng.normal(5e-4, 1e-4, n), rng.normal(2e-4, 1e-4, n)
    ref = bt.Reference("electron", momentum=1e9)
    zero = np.zeros(n)
    for kind, column, r, q, f in (
        ("longitudinal", "pt", 1e5, 1.0, 30e9),
        ("dipole_x", "px", 1e7, 3.0, 40e9),
        ("quadrupole_y", "py", 1e7, 3.0, 40e9),
    ):
        beam = bt.Beam.from_arrays(
            ref, x=x, px=zero, y=y, py=zero, t=-zeta / ref.beta, pt=zero, charge=1e-9
        )
        place = bt.Marker(name="wake")
        effect = bt.Wake(bt.Resonator(r, q, f, kind), at=place, bins=800)
        bt.Line([place]).track(beam, collective=effect)
        for slices, limit in ((800, 1.5e-2), (6400, 3e-3)):
            wake = xw.WakeResonator(kind=kind, r=r, q=q, f_r=f)
            wake.configure_for_tracking(zeta_range=(-8e-3, 8e-3), num_slices=slices)
            p = xt.Particles(
                p0c=1e9, mass0=xt.ELECTRON_MASS_EV, q0=-1, zeta=zeta, x=x, y=y,
                weight=1e-9 / ELEMENTARY_CHARGE / n,
            )  # fmt: skip
            wake.track(p)
            theirs = {"pt": -p.ptau, "px": p.px, "py": p.py}[column][np.argsort(p.particle_id)]
            yield Figure(
                f"resonator, {kind}, {slices} slices", np.asarray(beam[column]), theirs, limit,
                "slices there",
            )  # fmt: skip


def wakes_ocelot() -> Iterator[Figure]:
    """The wake potential of a Gaussian bunch in a round copper pipe, with and without relaxation of
    the conductivity: theirs by the impedance and discrete Fourier transforms."""
    from ocelot.cpbd.reswake import imp_resistiveAC_SI

    radius, conductivity, sigma = 2.5e-3, 5.9e7, 15e-6
    count, step = 1 << 15, 0.5e-6
    s = step * (np.arange(count) - 400)
    density = np.exp(-0.5 * (s / sigma) ** 2) / (np.sqrt(2 * np.pi) * sigma)
    for tau, label in ((0.0, "direct current"), (2.7e-14, "relaxation time 27 fs")):
        frequency = np.fft.rfftfreq(count, step / LIGHT)
        impedance = np.zeros(frequency.size, complex)
        impedance[1:] = imp_resistiveAC_SI(frequency[1:], conductivity, radius, tau, 0.0)
        theirs = np.fft.irfft(impedance * np.fft.rfft(density), count) * LIGHT
        wall = bt.ResistiveWall(radius, conductivity, relaxation_time=tau)
        # our function, convolved finely in sqrt(distance)
        root = (np.arange(4000) + 0.5) * np.sqrt(12 * sigma + 400e-6) / 4000
        distance = root**2
        weight = 2 * root * (root[1] - root[0])
        wake = np.array([wall(d, "longitudinal") for d in distance])
        places = s[200:800:10]
        ours = np.array(
            [
                np.sum(
                    weight
                    * wake
                    * np.exp(-0.5 * ((p - distance) / sigma) ** 2)
                    / (np.sqrt(2 * np.pi) * sigma)
                )
                for p in places
            ]
        )
        yield Figure(
            f"copper pipe, 15 µm bunch, {label}", ours, theirs[200:800:10], 5e-4, "steps there"
        )


def structure_wake_table() -> Iterator[Figure]:
    """The SLAC linac (a = 11.6 mm, g = 29.2 mm, p = 35 mm): loss factor of a 0.6 mm bunch per metre,
    against quadrature of the published fit W = 226 V/pC/m ... exp(-sqrt(s/s1))."""
    from scipy.integrate import quad

    a, g, p, sigma = 11.6e-3, 29.2e-3, 35e-3, 0.6e-3
    s1 = 0.41 * a**1.8 * g**1.6 / p**2.4
    start = 376.730313668 * LIGHT / (np.pi * a**2)
    # k = int_0^inf W(s) exp(-s^2/4 sigma^2)/(2 sqrt(pi) sigma) ds, s = r^2
    theirs = quad(
        lambda r: start * np.exp(-r / np.sqrt(s1)) * np.exp(-(r**4) / (4 * sigma**2)) * 2 * r,
        0,
        np.sqrt(12 * sigma),
        epsabs=0,
        epsrel=1e-10,
    )[0] / (2 * np.sqrt(np.pi) * sigma)
    n = 20001
    u = (np.arange(n) + 0.5) / n
    from scipy.special import ndtri

    ref = bt.Reference("electron", total_energy=1e9)
    zero = np.zeros(n)
    beam = bt.Beam.from_arrays(
        ref, x=zero, px=zero, y=zero, py=zero, t=sigma * ndtri(u), pt=zero, charge=1e-9
    )
    ours = bt.StructureWake(a, g, p).loss_factor(beam)
    yield Figure("SLAC linac, loss factor of 0.6 mm [V/C/m]", ours, theirs, 1e-5, "bins")


# --- scattering -----------------------------------------------------------------------------------

CELLS, PIECES = 16, 15


def ring_rates(logarithm: float, ref: bt.Reference) -> np.ndarray:
    """A proton ring of 16 cells at 2 GeV."""
    focus, defocus = bt.Quadrupole(0.3, k1=0.9), bt.Quadrupole(0.3, k1=-0.9)
    bend, drift = bt.Bend(1.5, angle=np.pi / CELLS), bt.Drift(0.35)
    cell = [focus, drift, bend, drift, defocus, drift, bend, drift, bt.Drift(0.1)]
    r = bt.ibs_rates(
        bt.Line(CELLS * cell),
        ref,
        charge=1e11 * ELEMENTARY_CHARGE,
        emittance_x=5e-6,
        emittance_y=3e-6,
        sigma_t=2.0 / ref.beta,
        sigma_pt=1e-3 / ref.beta,
        coulomb_log=logarithm,
        spacing=0.02,
    )
    return np.array([r.x, r.y, r.t])


def scattering_madx() -> Iterator[Figure]:
    """Elements are cut in 15 there: it takes means over elements."""
    from cpymad.madx import Madx

    log = Path("log")
    with log.open("w") as stream:
        madx = Madx(stdout=stream)
        parts = {k: ",".join([k] * PIECES) for k in ("qf", "qd", "b", "d", "e")}
        madx.input(f"""
            beam, particle=proton, energy=2.0, ex=5e-6, ey=3e-6, sigt=2.0, sige=1e-3,
            npart=1e11, bunched=true; qf: quadrupole, l=0.3/{PIECES}, k1=0.9; qd: quadrupole,
            l=0.3/{PIECES}, k1=-0.9; b: sbend, l=1.5/{PIECES}, angle=pi/{CELLS}/{PIECES}; d:
            drift, l=0.35/{PIECES}; e: drift, l=0.1/{PIECES}; cell:
            line=({parts["qf"]},{parts["d"]},{parts["b"]},{parts["d"]},{parts["qd"]},{parts["d"]},
                        {parts["b"]},{parts["d"]},{parts["e"]});
            ring: line=({CELLS}*cell);
            use, sequence=ring; select, flag=twiss, clear; twiss, chrom=false; ibs;""")
        madx.quit()
    text = log.read_text().split("average rates")[1].split("lifetimes")[0]
    logarithm = float(log.read_text().split("COULOMB LOG")[1].split()[1])
    ours = ring_rates(logarithm, bt.Reference("proton", total_energy=2e9))
    for i, (name, word) in enumerate(
        (("x", "Horizontal"), ("y", "Vertical"), ("t", "Longitudinal"))
    ):
        theirs = float(text.split(word)[1].split()[1])
        yield Figure(f"growth rate of emittance {name} [1/s]", ours[i], theirs, 3e-3, "steps there")


def scattering_xfields() -> Iterator[Figure]:
    import xtrack as xt

    elements = []
    for _ in range(CELLS):
        for kind, length, value in (
            ("q", 0.3, 0.9), ("d", 0.35, 0), ("b", 1.5, 0), ("d", 0.35, 0),
            ("q", 0.3, -0.9), ("d", 0.35, 0), ("b", 1.5, 0), ("d", 0.35, 0), ("d", 0.1, 0),
        ):  # fmt: skip
            for _ in range(PIECES):
                part = length / PIECES
                if kind == "q":
                    elements.append(xt.Quadrupole(length=part, k1=value))
                elif kind == "d":
                    elements.append(xt.Drift(length=part))
                else:
                    elements.append(
                        xt.Bend(
                            length=part,
                            angle=np.pi / CELLS / PIECES,
                            k0_from_h=True,
                            edge_entry_active=False,
                            edge_exit_active=False,
                        )
                    )
    ref = bt.Reference("proton", total_energy=2e9)
    line = xt.Line(elements=elements)
    line.particle_ref = xt.Particles(mass0=xt.PROTON_MASS_EV, q0=1, energy0=2e9)
    r = line.twiss4d().get_ibs_growth_rates(
        formalism="nagaitsev",
        total_beam_intensity=1e11,
        gemitt_x=5e-6,
        gemitt_y=3e-6,
        sigma_delta=1e-3 / ref.beta**2,
        bunch_length=2.0,
        bunched=True,
    )
    mine = ring_rates(20.0, ref)
    why = "steps there; its Coulomb logarithm is not told"
    for k, name, rate in ((0, "x", r.Kx), (1, "y", r.Ky)):
        yield Figure(f"rate of {name} over that of t", mine[k] / mine[2], rate / r.Kz, 1e-2, why)


# --- beam-beam ------------------------------------------------------------------------------------

INTENSITY = 1.15e11


def beam_beam_xfields() -> Iterator[Figure]:
    import xfields as xf
    import xtrack as xt

    rng = np.random.default_rng(4)
    n = 2000
    g = rng.normal(size=(6, n))
    ref = bt.Reference("proton", momentum=7e12)
    place = bt.Marker(name="ip")
    line = bt.Line([place])
    charge = INTENSITY * ELEMENTARY_CHARGE

    def compare(name: str, element: Any, effect: bt.BeamBeam, limit: float) -> Iterator[Figure]:
        p = xt.Particles(
            p0c=7e12, mass0=xt.PROTON_MASS_EV, q0=1, x=3e-5 * g[0], px=3e-5 * g[1], y=4e-5 * g[2],
            py=4e-5 * g[3], zeta=0.075 * g[4], delta=1e-4 * g[5],
        )  # fmt: skip
        start = np.array([p.px, p.py, p.ptau])
        beam = bt.Beam.from_arrays(
            ref, x=p.x.copy(), px=p.px.copy(), y=p.y.copy(), py=p.py.copy(), t=-p.zeta / ref.beta,
            pt=-p.ptau, charge=1e-12,
        )  # fmt: skip
        line.track(beam, collective=effect)
        element.track(p)
        theirs = np.array([p.px, p.py, p.ptau])[:, np.argsort(p.particle_id)] - start
        ours = momenta(beam) - start
        for i, column in enumerate(("px", "py", "pt")):
            if np.any(theirs[i]):
                yield Figure(f"{name}, {column}", ours[i], theirs[i], limit, CONSTANTS)

    for name, sx, sy in (
        ("round", 1.7e-5, 1.7e-5),
        ("nearly round", 1.7e-5, 1.65e-5),
        ("flat, 100 : 1", 1e-4, 1e-6),
    ):
        element = xf.BeamBeamBiGaussian2D(
            other_beam_q0=1,
            other_beam_beta0=1.0,
            other_beam_num_particles=INTENSITY,
            other_beam_Sigma_11=sx**2,
            other_beam_Sigma_33=sy**2,
        )
        yield from compare(name, element, bt.BeamBeam(place, charge, sx, sy), 3e-8)
    sx, sy, beta_x, beta_y, slices = 1.7e-5, 1.2e-5, 0.15, 0.1, 11
    slicer = xf.TempSlicer(n_slices=slices, sigma_z=0.075, mode="unicharge")
    for name, phi, plane, limit in (
        ("hourglass", 0.0, 0.0, 1e-7),
        ("crossing 0.3 mrad", 1.5e-4, 0.0, 1e-7),
        ("crossing 10 mrad, skew", 5e-3, 0.3, 1e-6),
    ):
        element = xf.BeamBeamBiGaussian3D(
            phi=phi,
            alpha=plane,
            other_beam_q0=1,
            slices_other_beam_num_particles=slicer.bin_weights * INTENSITY,
            slices_other_beam_zeta_center=slicer.bin_centers,
            slices_other_beam_Sigma_11=slices * [sx**2],
            slices_other_beam_Sigma_12=slices * [0.0],
            slices_other_beam_Sigma_22=slices * [(sx / beta_x) ** 2],
            slices_other_beam_Sigma_33=slices * [sy**2],
            slices_other_beam_Sigma_34=slices * [0.0],
            slices_other_beam_Sigma_44=slices * [(sy / beta_y) ** 2],
        )
        effect = bt.BeamBeam(
            place, charge, sx, sy, 0.075, slices,
            beta_x=beta_x, beta_y=beta_y, crossing_angle=2 * phi, crossing_plane=plane,
        )  # fmt: skip
        yield from compare(name, element, effect, limit)


def tune(turns: np.ndarray) -> float:
    """From turn-by-turn values: the mean advance of the phase, with a smooth window."""
    n = len(turns)
    signal = turns - np.mean(turns)
    window = np.hanning(n) ** 2
    spectrum = np.abs(np.fft.rfft(signal * window))
    start = np.argmax(spectrum) / n
    k = np.arange(n)

    def height(q: float) -> float:
        return -abs(np.sum(signal * window * np.exp(-2j * np.pi * q * k)))

    from scipy.optimize import minimize_scalar

    bounds = (start - 1 / n, start + 1 / n)
    return float(
        minimize_scalar(height, bounds=bounds, method="bounded", options={"xatol": 1e-12}).x
    )


def beam_beam_tune_shift() -> Iterator[Figure]:
    """A round bunch at beta* = 0.5 m: tunes of small and of large amplitudes, against
    cos 2 pi (Q + dQ) = cos 2 pi Q - 2 pi xi sin 2 pi Q and the first order average of the kick (A.
    W. Chao, in Frontiers of Particle Beams, 1985), for opposite charges."""
    from scipy.special import ive

    beta, q0, sigma = 0.5, 0.31, 2e-5
    ref = bt.Reference("proton", momentum=1e11)
    # a weaker bunch keeps higher orders of the kick below the limit
    n_particles = 2e9
    radius = VOLT_METRE / ref.species.mass
    xi = n_particles * radius * beta / (4 * np.pi * ref.gamma * sigma**2)
    turn = np.eye(6)
    for i, q in ((0, q0), (2, 0.17)):
        c, s = np.cos(2 * np.pi * q), np.sin(2 * np.pi * q)
        turn[i : i + 2, i : i + 2] = [[c, beta * s], [-s / beta, c]]
    place = bt.Marker(name="ip")
    line = bt.Line([place, bt.LinearMap(matrix=turn.tolist())])
    amplitudes = np.array([1e-3, 1.0, 3.0])
    zero = np.zeros(amplitudes.size)
    beam = bt.Beam.from_arrays(
        ref, x=amplitudes * sigma, px=zero, y=zero, py=zero, t=zero, pt=zero, charge=1e-15
    )
    effect = bt.BeamBeam(place, -n_particles * ELEMENTARY_CHARGE, sigma, sigma)
    history = []
    for _ in range(2048):
        line.track(beam, collective=effect)
        history.append(np.array(beam.x))
    found = [tune(h) - q0 for h in np.array(history).T]
    kicked = np.arccos(np.cos(2 * np.pi * q0) - 2 * np.pi * xi * np.sin(2 * np.pi * q0))
    yield Figure(
        "tune shift near the axis", found[0], kicked / (2 * np.pi) - q0, 1e-4, "beta of protons"
    )
    for a, value in zip(amplitudes[1:], found[1:], strict=True):
        # dQ/xi = 4/a^2 [1 - exp(-a^2/4) I0(a^2/4)] for motion in one plane
        theirs = xi * 4 / a**2 * (1 - ive(0, a**2 / 4))
        yield Figure(f"tune shift at {a:.0f} sigma", value, theirs, 1e-2, "first order in the kick")


PARTS: tuple[Part, ...] = (
    Part("SpaceCharge3D", "closed form", (), "", space_charge_3d_exact, 5),
    Part("SpaceCharge3D", "xfields", ("xfields", "xtrack"), "xfields", space_charge_3d_xfields, 30),
    Part("SpaceCharge3D", "Ocelot", ("ocelot",), "ocelot-collab", space_charge_3d_ocelot, 15),
    Part("SpaceCharge3D, round pipe", "Fourier–Bessel series", ("scipy",), "", round_pipe_modes),
    Part("SpaceCharge2D, pipe", "sum of images", (), "", pipe_images),
    Part(
        "SpaceChargeGaussian", "xfields", ("xfields", "xtrack"), "xfields",
        space_charge_gaussian_xfields, 30,
    ),
    Part("CSR", "Ocelot", ("ocelot", "scipy"), "ocelot-collab", csr_ocelot, 60),
    Part("Wake", "xwakes", ("xwakes", "xtrack"), "xwakes", wakes_xwakes, 30),
    Part("Wake", "Ocelot", ("ocelot",), "ocelot-collab", wakes_ocelot, 5),
    Part("Wake", "closed form", ("scipy",), "", structure_wake_table),
    Part("IBS", "MAD-X", ("cpymad",), "cpymad", scattering_madx, 5),
    Part("IBS", "xfields", ("xfields", "xtrack"), "xfields", scattering_xfields, 30),
    Part("BeamBeam", "xfields", ("xfields", "xtrack"), "xfields", beam_beam_xfields, 40),
    Part("BeamBeam", "closed form", ("scipy",), "", beam_beam_tune_shift, 2),
)  # fmt: skip
