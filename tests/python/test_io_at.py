"""Lattices of PyAT: the same tunes and the same particles, and nothing lost in silence."""

import math
import warnings
from pathlib import Path

import betatron as bt
import numpy as np
import pytest
from betatron import from_at

at = pytest.importorskip("at")
machine_data = pytest.importorskip("machine_data")


# PyAT takes every velocity for c, and says so whenever a particle has a mass.
pytestmark = pytest.mark.filterwarnings("ignore:AT tracking still assumes beta==1")


def load(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return at.load_lattice(str(Path(machine_data.__file__).parent / name))


def lattice(*elements):
    return at.Lattice(elements, energy=3e9, periodicity=1, particle="electron")


def fractional_tunes(matrix):
    tunes = []
    for plane in (slice(0, 2), slice(2, 4)):
        block = matrix[plane, plane]
        angle = math.acos(np.trace(block) / 2) / (2 * math.pi)
        tunes.append(angle if block[0, 1] > 0 else 1 - angle)
    return np.array(tunes)


def converged_tunes(ring, steps=80):
    """Tunes of one period by PyAT. It integrates quadrupoles and bends that Betatron solves:
    with the 10 steps of its files the tunes of SOLEIL are off by 1.2e-4."""
    elements = [e.deepcopy() for e in ring]
    for e in elements:
        if hasattr(e, "NumIntSteps"):
            e.NumIntSteps = steps
    cell = at.Lattice(elements, energy=ring.energy, periodicity=1)
    cell.disable_6d()
    return cell.get_tune()


def both(source, z):
    """Particles x, px, y, py, delta, ct through PyAT and through Betatron, in Betatron's
    coordinates x, px, y, py and t; PyAT takes every velocity for c, so energies should be high."""
    elements = [e.deepcopy() for e in source]
    theirs = np.asfortranarray(z)
    at.internal_lpass(elements, theirs)
    imported = from_at(
        at.Lattice(elements, energy=source.energy, periodicity=1, particle=source.particle)
    )
    beta = imported.reference.beta
    pt = 1 / beta - np.sqrt(1 / beta**2 + 2 * z[4] + z[4] ** 2)
    beam = bt.Beam.from_arrays(imported.reference, x=z[0], px=z[1], y=z[2], py=z[3], t=z[5], pt=pt)
    imported.line.track(beam)
    assert beam.n_lost == 0
    return theirs[[0, 1, 2, 3, 5]], np.array([beam.x, beam.px, beam.y, beam.py, beam.t])


def particles(n=100, size=1e-4, delta=1e-3):
    z = np.random.default_rng(1).normal(size=(6, n)) * size
    z[[1, 3]] *= 0.1
    z[4] *= delta / size
    z[5] = 0
    return z


def test_the_ebs_like_cell():
    """S28d of the ESRF-EBS: hard-edge fringes, combined-function bends, sextupoles, octupoles."""
    cell = load("hmba.mat")
    imported = from_at(cell)
    assert imported.periodicity == 32
    assert imported.line.length == pytest.approx(cell.circumference / 32, rel=1e-13)
    matrix = imported.line.matrix(imported.reference)
    np.testing.assert_allclose(fractional_tunes(matrix), converged_tunes(cell), atol=3e-6)
    ring = np.linalg.matrix_power(matrix, 32)
    np.testing.assert_allclose(fractional_tunes(ring), [0.21, 0.34], atol=1.5e-4)
    # what is switched off, and the particle that moves at the velocity of light, are reported
    assert imported.report["attribute"].tolist() == ["Voltage", "particle"]
    assert imported.report["element"].tolist() == [0, -1]

    theirs, ours = both(cell, particles())
    size = theirs.std(axis=1)
    np.testing.assert_allclose(ours / size[:, None], theirs / size[:, None], atol=5e-4)


@pytest.mark.parametrize(
    "name", ["dba.mat", "esrf.m", "soleil.m", "australian_synchrotron.m", "thomx.m"]
)
def test_other_rings_have_the_tunes_of_pyat(name):
    try:
        ring = load(name)
    except Exception as error:  # whatever the reader of this version of PyAT cannot do
        pytest.skip(f"PyAT does not read it: {error}")
    imported = from_at(ring)
    tunes = fractional_tunes(imported.line.matrix(imported.reference))
    np.testing.assert_allclose(tunes, converged_tunes(ring), atol=3e-6)


def test_every_magnet_particle_by_particle():
    magnets = [
        at.Drift("d", 0.7),
        at.Quadrupole("q", 0.3, 1.7, NumIntSteps=20),
        at.Quadrupole("qf", 0.3, 1.7, NumIntSteps=20, FringeQuadEntrance=1, FringeQuadExit=1),
        at.Quadrupole("skew", 0.3, 1.7, PolynomA=[0, 0.4, 0], MaxOrder=1, NumIntSteps=20),
        at.Sextupole("s", 0.2, 40.0, NumIntSteps=20),
        at.Multipole("o", 0.2, [0, 0, 0, 10.0], [0, 0.3, 2.0, 900.0], NumIntSteps=20),
        at.ThinMultipole("thin", [0, 0, 1.0], [0, 0.1, 2.0]),
        at.Corrector("c", 0.0, [1e-4, -2e-4]),
        at.Sextupole("kick", 0.2, 40.0, KickAngle=[1e-4, 2e-4], NumIntSteps=20),
        at.Marker("m"),
        at.Monitor("bpm"),
    ]
    for magnet in magnets:
        theirs, ours = both(lattice(magnet), particles(size=1e-3))
        np.testing.assert_allclose(ours[:4], theirs[:4], atol=2e-9, err_msg=magnet.FamName)
    # bends: PyAT's model is not the same to all orders in x/rho
    for bend in (
        at.Dipole("b", 0.8, 0.05, 0.0, NumIntSteps=40),
        at.Dipole("bq", 0.8, 0.05, -0.9, EntranceAngle=0.02, ExitAngle=0.03, NumIntSteps=40),
        at.Dipole(
            "gap",
            0.8,
            0.05,
            EntranceAngle=0.025,
            ExitAngle=0.025,
            FullGap=0.04,
            FringeInt1=0.5,
            FringeInt2=0.5,
            NumIntSteps=40,
        ),
        at.Dipole("bs", 0.8, 0.05, 0.3, PolynomB=[0, 0.3, 5.0], NumIntSteps=40),
        at.Dipole(
            "f",
            0.8,
            0.05,
            -0.9,
            EntranceAngle=0.02,
            FringeQuadEntrance=1,
            FringeQuadExit=1,
            NumIntSteps=40,
        ),
    ):
        theirs, ours = both(lattice(bend), particles(size=1e-3))
        np.testing.assert_allclose(ours[:4], theirs[:4], atol=3e-7, err_msg=bend.FamName)


def test_a_cavity_has_its_phase():
    cavity = at.RFCavity("rf", 0.0, 2e6, 352e6, 992, 3e9, TimeLag=0.03, PassMethod="RFCavityPass")
    z = particles()
    z[5] = np.linspace(-0.1, 0.1, z.shape[1])
    after = np.asfortranarray(z)
    ring = lattice(cavity)
    at.internal_lpass(list(ring), after, energy=3e9)
    imported = from_at(ring)
    beta = imported.reference.beta
    pt = 1 / beta - np.sqrt(1 / beta**2 + 2 * z[4] + z[4] ** 2)
    beam = bt.Beam.from_arrays(imported.reference, x=z[0], px=z[1], y=z[2], py=z[3], t=z[5], pt=pt)
    imported.line.track(beam)
    # the reference particle of Betatron is accelerated, that of PyAT is not
    p0 = imported.reference.momentum
    delta = (
        np.sqrt(1 - 2 * beam.pt / beam.reference.beta + beam.pt**2) * beam.reference.momentum / p0
        - 1
    )
    np.testing.assert_allclose(delta, after[4], atol=1e-9)


def test_places_and_pipes():
    q = at.Quadrupole("q", 0.3, 1.7)
    q.T1, q.T2 = np.array([-1e-3, 0, 2e-3, 0, 0, 0]), np.array([1e-3, 0, -2e-3, 0, 0, 0])
    q.EApertures = [0.02, 0.015]
    rolled = at.Quadrupole("r", 0.3, 1.7)
    c, s = math.cos(0.1), math.sin(0.1)
    rolled.R1 = np.eye(6)
    rolled.R1[:4, :4] = np.kron([[c, s], [-s, c]], np.eye(2))
    rolled.R2 = rolled.R1.T
    rolled.RApertures = [-0.01, 0.01, -0.02, 0.02]
    imported = from_at(lattice(q, rolled))
    first, second = imported.line
    assert (first.dx, first.dy, first.aperture_x, first.aperture_shape) == (
        1e-3,
        -2e-3,
        0.02,
        "elliptical",
    )
    assert second.roll == pytest.approx(0.1)
    assert (second.aperture_y, second.aperture_shape) == (0.02, "rectangular")
    assert len(imported.report) == 0
    for element in (q, rolled):
        theirs, ours = both(lattice(element), particles(size=1e-3))
        np.testing.assert_allclose(ours[:4], theirs[:4], atol=2e-9)


def test_what_is_not_carried_over_is_reported():
    odd = at.Quadrupole("q", 0.3, 1.7, PassMethod="StrMPoleSymplectic4RadPass")
    odd.T1, odd.T2 = np.array([0, 1e-3, 0, 0, 0, 0]), np.zeros(6)
    odd.RApertures = [-0.01, 0.02, -0.02, 0.02]
    wiggler = at.Drift("w", 1.6)
    wiggler.Period = 0.2
    bpm = at.Monitor("bpm")
    bpm.Offset = np.array([1e-3, 0])
    imported = from_at(lattice(odd, wiggler, bpm))
    found = set(zip(imported.report["name"], imported.report["attribute"], strict=True))
    assert found == {
        ("q", "PassMethod"),
        ("q", "T1, T2"),
        ("q", "RApertures"),
        ("w", "Period"),
        ("bpm", "Offset"),
    }


def test_wrong_arguments():
    with pytest.raises(TypeError, match=r"from_at needs an at\.Lattice, got list"):
        from_at([])


def test_a_displaced_dipole_has_its_frame_displaced() -> None:
    bend = at.Dipole("b", 0.8, 0.3, EntranceAngle=0.1, NumIntSteps=200)
    c, s = math.cos(0.4), math.sin(0.4)
    turned = at.Dipole("b", 0.8, 0.3, NumIntSteps=200)
    turned.R1 = np.eye(6)
    turned.R1[:4, :4] = np.kron([[c, s], [-s, c]], np.eye(2))
    turned.R2 = turned.R1.T
    bend.T1 = np.array([-1e-3, 0, 2e-3, 0, 0, 0])
    bend.T2 = -bend.T1
    for element, kinds in (
        (turned, ["PlaneRotation", "Bend", "PlaneRotation"]),
        (bend, ["Patch", "Bend", "Patch"]),
    ):
        imported = from_at(lattice(element))
        assert [e.kind for e in imported.line] == kinds and len(imported.report) == 0
        theirs, ours = both(lattice(element), particles(size=1e-3))
        np.testing.assert_allclose(ours[:4], theirs[:4], atol=2e-8)


@pytest.mark.parametrize(
    "method",
    ["BndMPoleSymplectic4E2Pass", "ExactSectorBendPass", "ExactRectBendPass"],
)
def test_pole_faces_of_second_order_come_along(method):
    """They make most of the vertical chromaticity of a small ring (1.8 of dba.mat)."""
    magnet = at.Dipole("b", 1.0, 0.4, EntranceAngle=0.2, ExitAngle=0.2)
    magnet.PassMethod, magnet.NumIntSteps = method, 40
    theirs, ours = both(lattice(magnet), particles(size=1e-3))
    np.testing.assert_allclose(ours[:4], theirs[:4], atol=3e-8)
    assert len(from_at(lattice(magnet)).report) == 0


def test_chromaticity_of_a_small_ring():
    ring = load("dba.mat")
    ring.disable_6d()
    for element in ring:
        if hasattr(element, "NumIntSteps"):
            element.NumIntSteps = 30
    imported = from_at(ring)
    assert imported.report["attribute"].tolist() == ["particle"]
    ours = imported.line.chromaticity(imported.reference)
    np.testing.assert_allclose(ours.first, [-0.3019, -0.4392], atol=2e-4)
    np.testing.assert_allclose(ring.get_chrom(), ours.first, atol=2e-4)


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("BndStrMPoleSymplectic4Pass", {}),
        ("ExactRectBendPass", {"k": 0.5}),
        ("BndMPoleSymplectic4E2Pass", {"FullGap": 0.04, "FringeInt1": 0.5}),
    ],
)
def test_pass_methods_without_a_translation_are_reported(method, parameters):
    magnet = at.Dipole("b", 1.0, 0.4, PassMethod=method, **parameters)
    assert from_at(lattice(magnet)).report["attribute"].tolist() == ["PassMethod"]
