"""Lattices of MAD-X: the orbits and matrices of its TWISS, and nothing lost in silence."""

import math
import re
import sys
from pathlib import Path

import betatron as bt
import numpy as np
import pytest

pytest.importorskip("cpymad", reason="MAD-X (cpymad) is not installed")

NAMES = ("x", "px", "y", "py", "t", "pt")
SIGN = np.array([1, 1, 1, 1, -1, -1])  # T, PT of MAD-X are -t, -pt
BEAMS = {
    "fast": "particle=electron, energy=1",
    "slow": "particle=proton, energy=0.98358",  # beta = 0.3
    "ions": "particle=ion, mass=11.188, charge=6, energy=14",
    "negative": "particle=antiproton, energy=1.5",
}


@pytest.fixture(scope="module")
def process(tmp_path_factory):
    from cpymad.madx import Madx

    with Madx(stdout=False) as madx:
        madx.option(echo=False, warn=False, info=False)
        madx.chdir(str(tmp_path_factory.mktemp("madx")))  # MAD-X leaves files where it runs
        yield madx


def define(madx, definition, length, beam="particle=proton, energy=2", errors=""):
    """A sequence of one element between two drifts."""
    madx.input(
        f"beam, bv=1, {beam}; e: {definition};"
        f"s: sequence, l={length + 0.5!r}; e, at={length / 2 + 0.25!r}; endsequence;"
        "use, sequence=s;"
    )
    if errors:
        madx.input(f"select, flag=error, clear; select, flag=error, range=e; {errors};")


def compare(madx, start=(0.0,) * 6, model="paraxial", report=()):
    """Matrix and orbit by TWISS, the same by Betatron; what is reported is checked."""
    given = ", ".join(f"{n}={v!r}" for n, v in zip(NAMES, (start * SIGN).tolist(), strict=True))
    madx.input(f"twiss, betx=1, bety=1, rmatrix, {given};")
    last = madx.table.twiss[-1]
    matrix = np.array([[last[f"re{i}{j}"] for j in range(1, 7)] for i in range(1, 7)])
    orbit = np.array([last[n] for n in NAMES]) * SIGN
    imported = bt.from_madx(madx, model=model)
    assert imported.report["attribute"].tolist() == list(report)
    beam = bt.Beam.from_arrays(
        imported.reference, **{n: np.array([v]) for n, v in zip(NAMES, start, strict=True)}
    )
    imported.line.track(beam)
    ours = imported.line.matrix(imported.reference, list(start))
    return matrix * np.outer(SIGN, SIGN), orbit, ours, np.array(beam.array)[:, 0], imported


LINEAR = {
    "drift, l=0.8": [],
    "quadrupole, l=0.8, k1={a}": [],
    "quadrupole, l=0.8, k1={a}, tilt={b}": [],
    "quadrupole, l=0.8, k1={a}, k1s={c}, tilt={b}": [],
    "sbend, l=0.8, angle={b}": [],
    "sbend, l=0.8, angle={b}, k1={a}, k2={c}, e1={c}, e2={d}, tilt={a}": [],
    "sbend, l=0.8, angle={b}, e1={c}, e2={d}, fint=0.4, hgap=0.03, tilt=-0.3": [],
    "sbend, l=0.8, angle={b}, e1={c}, e2={d}, fint=0.4, fintx=0.1, hgap=0.03": [],
    "sbend, l=0.8, angle={b}, e1={c}, e2={d}, fint=0.4, fintx=0, hgap=0.03": [],
    "sbend, l=0.8, angle={b}, k1={a}, e1={c}, kill_ent_fringe=true": [],
    "dipedge, h={b}, e1={c}, fint=0.4, hgap=0.03, tilt={a}": [],
    "multipole, knl={{0, {a}}}, ksl={{0, {c}}}, tilt={b}": [],
    "multipole, knl={{{b}, {a}, 3}}, ksl={{0, {c}}}, lrad=0.7": [],
    "multipole, ksl={{{b}}}, lrad=0.7": [],
    "multipole, knl={{{b}}}, angle={b}, lrad=0.7": [],
    "solenoid, l=0.8, ks={a}": [],
    "solenoid, ks={a}, ksi={b}": [],
    "rfcavity, l=0.8, volt=0.7, freq=50, lag=0.5": [],
    "rfcavity, volt=0.7, freq=50": [],
    "rfcavity, l=0.8, volt=0.7, harmon=2": [],
    "crabcavity, volt=0.7, freq=50": [],
    "crabcavity, volt=0.7, freq=50, lag=0.5, tilt={b}": [],
    "srotation, angle={b}": [],
    "nllens, knll={a}, cnll=0.3": [],
    "matrix, l=0.8, rm11=0.6, rm12=0.8, rm21=-0.8, rm22=0.6, rm56={a}": [],
    "monitor, l=0.8": [],
    "elseparator, l=0.8": ["class"],
}


@pytest.mark.parametrize("beam", BEAMS)
def test_linear_maps(process, beam):
    """To rounding, with random strengths of both signs; behind an RF kick to 1e-9, for MAD-X and
    Betatron have other digits of the masses."""
    random = np.random.default_rng(len(beam))
    for template, report in LINEAR.items():
        values = dict(zip("abcd", random.uniform(-0.4, 0.4, 4).tolist(), strict=True))
        definition = template.format(**values)
        define(process, definition, 0.8 if "l=0.8" in template else 0.0, BEAMS[beam])
        wave = "volt" in template
        if wave and beam == "ions":
            report = ["volt"]
        theirs, _, ours, orbit, _ = compare(process, report=report)
        tolerance = 1e-9 if wave else 1e-12
        size = np.abs(theirs).max()
        np.testing.assert_allclose(ours, theirs, atol=tolerance * size, err_msg=definition)
        np.testing.assert_allclose(orbit, 0.0, atol=1e-15, err_msg=definition)


@pytest.mark.parametrize("arc", [True, False])
def test_rbends(process, arc):
    process.option(rbarc=arc)
    length = 0.2 / math.sin(0.2) if arc else 1.0
    for sign in (1, -1):
        define(process, f"rbend, l=1, angle={sign * 0.4}, e1=0.05, e2=-0.07", length)
        theirs, _, ours, _, imported = compare(process)
        np.testing.assert_allclose(ours, theirs, atol=1e-12)
        assert imported.line.length == pytest.approx(length + 0.5, abs=1e-14)
    process.option(rbarc=True)


KICKS = {  # definition: what is reported
    "kicker, l=0.8, hkick=1e-3, vkick=2e-3, tilt=0.3": [],
    "kicker, hkick=-1e-3, vkick=2e-3": [],
    "tkicker, hkick=1e-3, vkick=2e-3": [],
    "hkicker, l=0.8, kick=1e-3, tilt=0.3": [],
    "hkicker, hkick=1e-3": [],
    "hkicker, kick=1e-3, hkick=3e-3": ["hkick"],
    "vkicker, kick=1e-3, tilt=0.3": [],
    "kicker, hkick=1e-3, chkick=2e-3": [],
    "quadrupole, l=0.8, k1=0.7, k1s=0.3, tilt=0.2": [],
    "sextupole, l=0.8, k2=2, k2s=3, tilt=0.2": [],
    "octupole, l=0.8, k3=2000, k3s=3000, tilt=0.2": [],
    "multipole, knl={0, 0.1, 3, 1000}, ksl={0, 0.2, 4, 2000}, tilt=0.2": [],
    "multipole, knl={0.002}, ksl={0.003}, lrad=0.7": [],
    "multipole, knl={0.012}, angle=0.01": ["angle"],
    "sbend, l=0.8, angle=0.1, k0=0.127": [],
    "sbend, l=0.8, angle=0.1, k0=0.127, e1=0.02": ["k0"],
    "sbend, l=0.8, angle=0.1, k2=10, k1=0.4, tilt=0.7": [],
    "sbend, l=0.8, angle=0.2, k1=1, e1=0.7, e2=-0.6, tilt=0.3": [],
    "sbend, l=0.8, angle=-0.2, e1=-0.3, h1=50, h2=-60, tilt=0.3": [],
    "crabcavity, volt=0.7, freq=50, lag=0.25": [],
    "crabcavity, volt=0.7, freq=50, lag=-0.2, tilt=0.4": [],
    "translation, dx=1e-3, dy=-2e-3": [],
    "xrotation, angle=1e-3": [],
    "yrotation, angle=1e-3": [],
    "matrix, rm12=0.3, kick1=1e-3, kick2=2e-3, kick3=3e-3, kick4=4e-3, kick5=5e-3": [],
    "matrix, tm112=3e4, tm121=2e4, tm255=2e4, tm245=3e4, tm456=1e4, tm513=9e3": [],
    "quadrupole, l=0.8, k1=0.7, dx=1e-3, dy=2e-3, dpsi=0.02": [],
}
START = (1e-4, 2e-5, -3e-4, 4e-5, 1e-4, 1e-4)


@pytest.mark.parametrize("beam", ["fast", "slow"])
def test_orbits(process, beam):
    """Of a particle beside the axis, where TWISS has second order; the kicks are some 1e-3."""
    for definition, report in KICKS.items():
        define(process, definition, 0.8 if "l=0.8" in definition else 0.0, BEAMS[beam])
        _, theirs, _, ours, _ = compare(process, START, "exact", report)
        atol = 7e-7 if report == ["angle"] else 2e-8
        n = 6 if "matrix" in definition else 4
        np.testing.assert_allclose(ours[:n], theirs[:n], atol=atol, err_msg=definition)


MISALIGNED = [
    "quadrupole, l=0.8, k1=0.7, k1s=0.3, tilt=0.2",
    "sextupole, l=0.8, k2=20, tilt=0.2",
    "multipole, knl={0.1, 0.5}, tilt=0",
    "multipole, knl={0, 0.5}, ksl={0, 0.3}, tilt=0.3",
    "sbend, l=0.8, angle=0.3, k1=0.4, e1=0.1",
    "sbend, l=0.8, angle=-0.3, k1=0.4, e1=0.1, fint=0.5, hgap=0.02, tilt=0.9",
    "dipedge, h=0.3, e1=0.2, tilt=0.2",
    "solenoid, l=0.8, ks=0.5",
    "kicker, hkick=1e-2, tilt=0.2",
]


@pytest.mark.parametrize(
    "errors",
    [
        "dx=1e-3, dy=-2e-3",
        "ds=1e-3, dpsi=2e-2",
        "dphi=1e-3",
        "dtheta=1e-3",
        "dx=3e-4, dy=2e-4, ds=1e-3, dphi=3e-4, dtheta=-2e-4, dpsi=1e-3",
    ],
)
def test_misalignments(process, errors):
    """The orbits are some 1e-4, a hundredth of it behind a sextupole; TWISS has first order in the
    angles."""
    for definition in MISALIGNED:
        length = 0.8 if "l=0.8" in definition else 0.0
        define(process, definition, length, errors=f"ealign, {errors}")
        report = ["EALIGN"] if "k1=0.4, e1" in definition else []
        _, theirs, _, ours, _ = compare(process, model="exact", report=report)
        atol = 2e-7 if "sextupole" in definition else 2e-6
        np.testing.assert_allclose(ours[:4], theirs[:4], atol=atol, err_msg=definition)


@pytest.mark.parametrize("part", ["dkn={0, 1e-2}", "dkn={0, 0, 2}", "dks={0, 0, 2}", "dkn={1e-3}"])
def test_field_errors(process, part):
    """TWISS has not all orders in all magnets; a thin multipole has all of them."""
    order = part.count(",")
    magnets = ["multipole, knl={0, 0.3}"]
    magnets += ["quadrupole, l=0.8, k1=0.3"] if order == 1 else []
    magnets += ["sextupole, l=0.8, k2=0.3"] if order == 2 else []
    magnets += ["sbend, l=0.8, angle=0.1"] if "dkn" in part else []
    for definition in magnets:
        length = 0.8 if "l=0.8" in definition else 0.0
        define(process, definition, length, errors=f"efcomp, order=0, {part}")
        _, theirs, _, ours, _ = compare(process, (1e-3, 0, 2e-3, 0, 0, 0), model="exact")
        np.testing.assert_allclose(ours[:4], theirs[:4], atol=1e-8, err_msg=definition)
    define(process, "kicker, hkick=1e-3", 0.0, errors=f"efcomp, order=0, {part}")
    assert bt.from_madx(process).report["attribute"].tolist() == ["EFCOMP"]


def test_a_beam_against_the_sequence(process):
    """bv = -1 changes the signs of strengths; what it does not change is here, too."""
    for definition in (
        "quadrupole, l=0.8, k1=0.5, k1s=0.1, tilt=0.1",
        "sbend, l=0.8, angle=0.1, k1=0.2, e1=0.1, fint=0.5, hgap=0.02, tilt=0.1",
        "sextupole, l=0.8, k2=20, k2s=30, tilt=0.2",
        "multipole, knl={0.01, 1}, ksl={0, 0.3}, lrad=1",
        "hkicker, kick=1e-3, tilt=0.1",
        "solenoid, l=0.8, ks=0.3",
        "crabcavity, volt=0.3, freq=100, lag=0.1",
        "rfcavity, volt=0.3, freq=100, lag=0.5",
        "dipedge, h=0.3, e1=0.1",
        "yrotation, angle=1e-3",
    ):
        length = 0.8 if "l=0.8" in definition else 0.0
        define(process, definition, length, "particle=proton, energy=2, bv=-1")
        _, theirs, _, ours, _ = compare(process, START, "exact", ["bv"])
        atol = np.array([1e-8] * 4 + [1e-6, 1e-8])
        np.testing.assert_array_less(abs(ours - theirs), atol, err_msg=definition)


def test_the_reference_particle_is_accelerated(process):
    define(process, "rfcavity, volt=0.7, freq=50, lag=0.1", 0.0, "particle=electron, energy=0.1")
    process.input("twiss, betx=1, bety=1;")
    imported = bt.from_madx(process)
    assert imported.report["attribute"].tolist() == ["lag"]
    beam = bt.Beam.from_arrays(imported.reference, **{n: np.zeros(1) for n in NAMES})
    imported.line.track(beam)
    gain = beam.reference.total_energy - imported.reference.total_energy
    theirs = process.table.twiss.pt[-1] * imported.reference.momentum
    assert gain == pytest.approx(theirs, rel=1e-6)


@pytest.mark.parametrize(
    "definition",
    [
        "sbend, angle=0.2, k1s=0.3",
        "sbend, angle=0.2, k1=0.3, k2=5, k2s=7, k3=30",
        "quadrupole, k1=0.3, k1s=0.2",
        "sextupole, k2=5, k2s=7",
        "octupole, k3=500, k3s=700",
    ],
)
def test_ptc_has_the_same_fields(definition):
    """Also those that TWISS leaves out."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "conformance"))
    from adapters import PTC, MadxElement

    ptc, ref = PTC(), bt.Reference("muon", kinetic_energy=1e8)
    z = np.random.default_rng(1).normal(scale=1e-3, size=(6, 5))
    no_faces = ", kill_ent_fringe=true, kill_exi_fringe=true" if "bend" in definition else ""
    element = MadxElement(f"{definition}, l=0.8{no_faces}", steps=100)
    theirs = ptc.track(ref, element, 0.8, z)
    imported = bt.from_madx(ptc._madx)
    beam = bt.Beam.from_arrays(ref, **{n: z[i].copy() for i, n in enumerate(NAMES)})
    imported.line.track(beam)
    np.testing.assert_allclose(np.array(beam.array), theirs, atol=2e-8)
    assert len(imported.report) == 0


RING = """
beam, particle=proton, energy={energy};
kf := 0.35;
qf: quadrupole, l=0.4, k1:=kf;  qd: quadrupole, l=0.4, k1:=-kf;
sf: sextupole, l=0.1, k2=1.3;  sd: sextupole, l=0.1, k2=-2.1;
mb: rbend, l=1.5, angle=pi/8, k1=0.02;
rf: rfcavity, harmon=4, volt=0;
bpm: monitor;
cell: sequence, l=8, refer=centre;
qf, at=0.5; sf, at=1; mb, at=2.5; bpm, at=3.8; qd, at=4.5; sd, at=5; mb, at=6.5;
endsequence;
ring: sequence, l=64, refer=entry;
{cells}
rf, at=64;
endsequence;
use, sequence=ring;
"""


@pytest.mark.parametrize("energy", [20.0, 0.98358])
def test_a_small_ring(process, energy, tmp_path):
    """Tunes and chromaticities of TWISS, with rectangular bends of a radius of 3.8 m that focus:
    the pole faces, which turn the quadrupole field, make 1.5 of the chromaticities."""
    text = RING.format(energy=energy, cells="".join(f"cell, at={8 * i};" for i in range(8)))
    file = tmp_path / "ring.madx"
    file.write_text(text)
    imported = bt.from_madx(file)
    assert len(imported.report) == 0
    assert imported.line.length == pytest.approx(64)
    assert len(imported.line.positions("qf")) == 8
    assert imported.line["qf"].k1 == 0.35  # one element at eight places
    assert imported.line["rf"].frequency == pytest.approx(
        4 * imported.reference.beta * 299792458 / 64
    )
    process.input(text)
    process.input("twiss;")
    theirs = {k: process.table.summ[k][0] for k in ("q1", "q2", "dq1", "dq2")}
    ring = bt.Line([e for e in imported.line if e.kind != "RFCavity"])
    ours = ring.chromaticity(imported.reference)
    np.testing.assert_allclose(ours.tunes, np.array([theirs["q1"], theirs["q2"]]) % 1, atol=1e-8)
    np.testing.assert_allclose(  # TWISS has them by PT
        ours.first,
        np.array([theirs["dq1"], theirs["dq2"]]) * imported.reference.beta,
        atol=1e-6,
    )


def test_beams(process):
    for beam, name, charge in (
        ("particle=proton, energy=2", "proton", 1),
        ("particle=electron, pc=1", "electron", -1),
        ("particle=negmuon, energy=2", "muon", -1),
        ("particle=ion, mass=11.188, charge=6, energy=14", "ion", 6),
    ):
        define(process, "marker", 0.0, beam)
        reference = bt.from_madx(process).reference
        assert (reference.species.name, reference.species.charge) == (name, charge)
        data = process.sequence.s.beam
        assert reference.beta_gamma == pytest.approx(data.beta * data.gamma, rel=1e-13)
        assert reference.total_energy == pytest.approx(data.energy * 1e9, rel=1e-6)


def test_pipes(process):
    for definition, kind, shape, sizes in (
        ("quadrupole, l=0.8, k1=1, apertype=circle, aperture={0.02}", "Quadrupole", "elliptical",
         (0.02, 0.02)),
        ("monitor, l=0.8, apertype=ellipse, aperture={0.02, 0.01}", "Instrument", "elliptical",
         (0.02, 0.01)),
        ("rcollimator, l=0.8, apertype=rectangle, aperture={0.02, 0.01}", "Drift", "rectangular",
         (0.02, 0.01)),
        ("sbend, l=0.8, angle=0.1, apertype=rectellipse, aperture={0.02, 0.01, 0.1, 0.1}", "Bend",
         "rectangular", (0.02, 0.01)),
    ):  # fmt: skip
        define(process, definition, 0.8)
        imported = bt.from_madx(process)
        element = imported.line[2]
        assert (element.kind, element.aperture_shape) == (kind, shape)
        assert (element.aperture_x, element.aperture_y) == sizes
        assert len(imported.report) == 0
    define(process, "collimator, apertype=rectangle, aperture={0.02, 0.01}", 0.0)
    thin = bt.from_madx(process).line[2]
    assert (thin.kind, thin.x_max, thin.y_max, thin.shape) == (
        "Aperture", 0.02, 0.01, "rectangular"
    )  # fmt: skip
    for pipe in ("racetrack, aperture={1, 1, 1, 1}", "rectellipse, aperture={2, 2, 3, 1}"):
        define(process, f"collimator, l=0.8, apertype={pipe}", 0.8)
        assert bt.from_madx(process).report["attribute"].tolist() == ["aperture"]


def test_pipes_stand_as_in_madx(process):
    """TILT and EALIGN turn and move them; who is lost is compared."""
    box = "apertype=rectangle, aperture={0.01, 0.02}"
    for definition, errors in (
        ("collimator", ""),
        ("collimator, tilt=pi/2", ""),
        ("multipole, knl={0, 1e-6}, tilt=pi/2", ""),
        ("multipole, knl={0, 1e-6}", "ealign, dx=0.01"),
        ("multipole, knl={0, 1e-6}", "ealign, dy=0.01, dpsi=1.57079"),
        ("monitor, tilt=pi/2", ""),
        ("kicker, hkick=1e-9, tilt=pi/2", ""),
        ("rfcavity, freq=1", ""),
        ("quadrupole, l=0.1, k1s=1e-6", ""),
        ("quadrupole, l=0.1, k1s=1e-6, tilt=pi/2", ""),
        ("sbend, l=0.1, angle=1e-6, tilt=pi/2", ""),
    ):
        define(process, f"{definition}, {box}", 0.1 if "l=0.1" in definition else 0.0,
               errors=errors)  # fmt: skip
        x = np.array([0.015, 0.0, 0.005, 0.0, -0.015])
        y = np.array([0.0, 0.015, 0.0, 0.005, 0.0])
        starts = "".join(f"start, x={a}, y={b};" for a, b in zip(x, y, strict=True))
        process.input(f"track, aperture, onepass, recloss; {starts} run, turns=1; endtrack;")
        imported = bt.from_madx(process)
        zero = np.zeros(5)
        beam = bt.Beam.from_arrays(imported.reference, x=x, px=zero, y=y, py=zero, t=zero, pt=zero)
        ids = list(beam.id)
        imported.line.track(beam)
        lost = [i + 1 for i, one in enumerate(ids) if one not in list(beam.id)]
        assert lost == sorted(int(n) for n in process.table.trackloss.number), (definition, errors)


def test_what_is_not_carried_over_is_reported(process):
    expected = {
        "sbend, l=0.8, angle=0.1, ktap=0.1": {"ktap"},
        "quadrupole, l=0.8, k1=0.2, fringe=1, aper_offset={1e-3}": {"fringe", "aper_offset"},
        "quadrupole, k1=0.2": {"k1"},
        "rfcavity, l=0.8, volt=1, freq=50, shunt=3": {"shunt"},
        "kicker, hkick=1e-3, sinkick=1, sintune=0.3": {"sinkick", "sintune"},
        "twcavity, l=0.8, volt=1, freq=50": {"class", "volt", "freq"},
        "changeref, patch_trans={1e-3, 0, 0}": {"class", "patch_trans"},
        "translation, ds=1e-3": {"ds"},
    }
    for definition, attributes in expected.items():
        define(process, definition, 0.8 if "l=0.8" in definition else 0.0)
        report = bt.from_madx(process).report
        assert set(report["attribute"]) == attributes, definition
        assert set(report["name"]) == {"e"} and set(report["element"]) == {2}
    define(process, "marker", 0.0, "particle=electron, energy=1, radiate=true")
    assert bt.from_madx(process).report["attribute"].tolist() == ["radiate"]
    process.input("beam, radiate=false;")
    define(process, "monitor", 0.0, errors="ealign, dx=1e-3, mrex=2e-3")
    assert set(bt.from_madx(process).report["attribute"]) == {"DX", "MREX"}


def test_files_and_their_errors(tmp_path):
    beam = "beam, particle=proton, energy=2;"
    (tmp_path / "strengths.madx").write_text("kf = 0.2;")
    file = tmp_path / "two.madx"
    file.write_text(
        f"{beam} call, file='strengths.madx'; q: quadrupole, l=1, k1:=kf;"
        "a: sequence, l=2; q, at=1; endsequence; b: sequence, l=1; endsequence;"
        "surprise, k=1; kf = 0.3; stop;"
    )
    imported = bt.from_madx(file, "a")
    assert imported.line["q"].k1 == 0.3
    assert imported.line.length == 2 and imported.periodicity == 1
    assert imported.report["attribute"].tolist() == ["MAD-X"]
    assert "surprise" in imported.report["value"][0]
    where = re.escape(f"from_madx: {file}: ")
    with pytest.raises(ValueError, match=where + "there is no sequence 'c'; .* are: a, b$"):
        bt.from_madx(file, "c")
    with pytest.raises(ValueError, match=where + "no sequence is in use; .* are: a, b$"):
        bt.from_madx(str(file))
    with pytest.raises(FileNotFoundError, match=r"no file 'nowhere\.madx'"):
        bt.from_madx("nowhere.madx")
    file.write_text("a: sequence, l=2; q, at=1; endsequence;")
    with pytest.raises(ValueError, match=where + "MAD-X has stopped: .*unknown class type: q"):
        bt.from_madx(file)
    file.write_text("a: sequence, l=2; endsequence;")
    with pytest.raises(ValueError, match=where + "MAD-X has stopped: .*sequence without beam: a"):
        bt.from_madx(file)


def test_wrong_arguments(process, monkeypatch):
    with pytest.raises(TypeError, match=r"path of a file or a cpymad\.madx\.Madx, got list"):
        bt.from_madx([])
    with pytest.raises(ValueError, match="model = 'thin'; allowed: linear, paraxial, exact"):
        bt.from_madx(process, model="thin")
    process.input("unused: sequence, l=1; endsequence;")
    with pytest.raises(ValueError, match=r"'unused' is not in use: madx\.use\('unused'\)"):
        bt.from_madx(process, "unused")
    monkeypatch.setitem(sys.modules, "cpymad.madx", None)
    with pytest.raises(ImportError, match=r"pip install 'betatron\[madx\]'"):
        bt.from_madx("ring.madx")
