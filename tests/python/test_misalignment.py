"""Elements that are moved as rigid bodies. That misaligned elements are symplectic, can be undone,
and have a linear model that is the derivative is in test_physics.py; comparisons with other codes
are in tests/conformance."""

from __future__ import annotations

import math

import betatron as bt
import numpy as np
import pytest
from betatron.beam import COORDINATES

REFERENCE = bt.Reference("proton", kinetic_energy=0.8e9)
PLACES = ("dx", "dy", "dz", "pitch", "yaw", "roll")
ELEMENTS = {
    "drift": lambda **k: bt.Drift(0.7, model="exact", **k),
    "quadrupole": lambda **k: bt.Quadrupole(0.5, k1=2.5, **k),
    "exact quadrupole": lambda **k: bt.Quadrupole(0.5, k1=2.5, model="exact", **k),
    "bend": lambda **k: bt.Bend(0.9, angle=0.4, e1=0.1, e2=-0.2, k1=0.3, **k),
    "exact bend": lambda **k: bt.Bend(0.9, angle=-0.4, model="exact", **k),
    "solenoid": lambda **k: bt.Solenoid(0.6, ks=0.7, **k),
    "kicker": lambda **k: bt.Kicker(length=0.3, hkick=1e-3, **k),
    "multipole": lambda **k: bt.Multipole(knl=[0.0, 0.2, 3.0], **k),
    "thin dipole": lambda **k: bt.ThinDipole(0.1, curvature=0.2, **k),
    "cavity": lambda **k: bt.RFCavity(0.4, voltage=5e6, frequency=2e8, phase=0.3, **k),
}


def particles(n: int = 20, seed: int = 1) -> np.ndarray:
    scale = np.array([2e-3, 2e-3, 2e-3, 2e-3, 5e-3, 5e-3])
    return np.random.default_rng(seed).uniform(-1, 1, (6, n)) * scale[:, None]


def track(elements: list[bt.Element], z: np.ndarray) -> tuple[np.ndarray, bt.Beam]:
    beam = bt.Beam.from_arrays(REFERENCE, **dict(zip(COORDINATES, z.copy(), strict=True)))
    bt.Line(elements).track(beam, progress=False)
    assert len(beam) == z.shape[1]
    return np.array(beam.array), beam


def random_alignment(seed: int) -> dict[str, float]:
    size = np.array([1e-3, 1e-3, 3e-3, 0.02, 0.02, 0.5])
    return dict(zip(PLACES, np.random.default_rng(seed).uniform(-size, size), strict=True))


def pose(a: dict[str, float]) -> np.ndarray:
    """From coordinates in the moved frame to those in the old one, 4 x 4."""

    def turn(axis: int, angle: float) -> np.ndarray:
        c, s, r = math.cos(angle), math.sin(angle), np.eye(4)
        i, j = [(1, 2), (2, 0), (0, 1)][axis]
        r[i, i] = r[j, j] = c
        r[j, i], r[i, j] = s, -s
        return r

    shift = np.eye(4)
    shift[:3, 3] = [a["dx"], a["dy"], a["dz"]]
    return shift @ turn(1, a["yaw"]) @ turn(0, a["pitch"]) @ turn(2, a["roll"])


def patch(p: np.ndarray) -> bt.Element:
    """To the frame of this pose."""
    ez = p[:3, 2]
    return bt.Patch(
        offset_x=p[0, 3], offset_y=p[1, 3], offset_z=p[2, 3],
        rotation_x=math.asin(-ez[1]), rotation_y=math.atan2(ez[0], ez[2]),
        rotation_z=math.atan2(p[1, 0], p[1, 1]),
    )  # fmt: skip


def pose_at(element: bt.Element, fraction: float) -> np.ndarray:
    """Of the reference orbit inside an element, as seen from its entrance."""
    angle, length = getattr(element, "angle", 0.0) * fraction, getattr(element, "length", 0.0)
    p = np.eye(4)
    p[0, 0] = p[2, 2] = math.cos(angle)
    p[2, 0], p[0, 2] = math.sin(angle), -math.sin(angle)
    if angle and length:
        radius = length * fraction / angle
        p[:3, 3] = [radius * (math.cos(angle) - 1), 0, radius * math.sin(angle)]
    else:
        p[2, 3] = length * fraction
    return p


@pytest.mark.parametrize("pivot", ["entrance", "center"])
@pytest.mark.parametrize("slices", [1, 3])
@pytest.mark.parametrize("name", ELEMENTS)
def test_a_misaligned_element_stands_between_two_patches(
    name: str, slices: int, pivot: str
) -> None:
    make = ELEMENTS[name]
    for seed in range(3):
        alignment = random_alignment(seed)
        ideal = make(slices=slices)
        center = pose_at(ideal, 0.5 if pivot == "center" and getattr(ideal, "length", 0) else 0)
        exit_ = pose_at(ideal, 1)
        inwards = center @ pose(alignment) @ np.linalg.inv(center)
        outwards = np.linalg.inv(inwards @ exit_) @ exit_
        z = particles(seed=seed)
        expected, other = track([patch(inwards), ideal, patch(outwards)], z)
        got, beam = track([make(slices=slices, pivot=pivot, **alignment)], z)
        # the reference particle has also passed the patches
        before, behind = 1 / REFERENCE.beta, 1 / beam.reference.beta
        expected[4] += inwards[2, 3] * before + outwards[2, 3] * behind
        assert other.reference.gamma == pytest.approx(beam.reference.gamma, rel=1e-15)
        if name == "cavity":  # its phase is that when the reference particle arrives
            assert np.allclose(got[:4], expected[:4], rtol=0, atol=2e-5)
        else:
            assert np.allclose(got, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("model", ["linear", "paraxial", "exact"])
def test_a_rolled_bend_kicks_vertically(model: str) -> None:
    """As in Xtrack and PTC: the orbit in the magnet is still bent in its own plane."""
    out, _ = track([bt.Bend(1.0, angle=0.1, roll=1e-3, model=model)], np.zeros((6, 1)))
    assert out[2, 0] == pytest.approx(-4.9958e-5, rel=1e-4)
    assert out[3, 0] == pytest.approx(-9.9833e-5, rel=1e-4)


def test_a_displaced_bend_is_displaced_along_the_beam_at_its_end() -> None:
    """By the sagitta geometry: a shift dx of a bend of 90 degrees is one along -z' at its exit."""
    bend = bt.Bend(math.pi / 2, angle=math.pi / 2, dx=1e-3)  # radius 1
    seen = bend.alignment_at(1.0)
    assert seen["dx"] == pytest.approx(0, abs=1e-18)
    assert seen["dz"] == pytest.approx(-1e-3, rel=1e-14)
    assert bend.alignment_at(0.0) == {q: getattr(bend, q) for q in PLACES}


@pytest.mark.parametrize("name", ELEMENTS)
def test_alignment_about_the_center_is_one_about_the_entrance(name: str) -> None:
    make = ELEMENTS[name]
    about_center = make(pivot="center", **random_alignment(7))
    about_entrance = make(**about_center.alignment_at(0.0))
    z = particles()
    assert np.allclose(track([about_center], z)[0], track([about_entrance], z)[0], atol=1e-14)


def test_free_space_can_stand_anywhere() -> None:
    z = particles()
    for make in (
        ELEMENTS["drift"],
        lambda **k: bt.Marker(**k),
        lambda **k: bt.PlaneRotation(0.3, **k),
        lambda **k: bt.Patch(offset_x=1e-3, rotation_y=0.1, **k),
    ):
        ideal, _ = track([make()], z)
        moved, _ = track([make(slices=2, **random_alignment(3))], z)
        assert np.allclose(moved, ideal, rtol=0, atol=1e-15)


def test_records_between_slices_are_on_the_reference_orbit() -> None:
    z = particles(200)
    thick = {"pitch": 0.01, "yaw": -0.02, "dx": 1e-3, "roll": 0.2}
    whole = bt.Drift(0.9, model="exact", slices=3, **thick)
    beam = bt.Beam.from_arrays(REFERENCE, **dict(zip(COORDINATES, z, strict=True)))
    moments = bt.Line([whole]).track(beam, record="all", record_slices=True).moments
    moments = moments[moments["element"] == 0]
    for k in range(3):
        part, other = track([bt.Drift(0.3 * (k + 1), model="exact")], z)
        assert moments["sigma_x"].iloc[k] == pytest.approx(other.moments()["sigma_x"], rel=1e-5)
        assert moments["mean_y"].iloc[k] == pytest.approx(part[2].mean(), abs=1e-8)


def test_a_small_misalignment_moves_the_orbit_in_proportion() -> None:
    line = [bt.Quadrupole(0.5, k1=2.5, yaw=1e-4), bt.Drift(1.0)]
    once, _ = track(line, np.zeros((6, 1)))
    line[0].yaw *= 2
    twice, _ = track(line, np.zeros((6, 1)))
    assert twice[0, 0] == pytest.approx(2 * once[0, 0], rel=1e-6)
    # yaw turns z towards x about the entrance: the magnet is displaced to +x, and focuses there
    assert once[1, 0] == pytest.approx(2.5 * 0.5 * 1e-4 * 0.25, rel=0.1)


def test_files_and_messages() -> None:
    element = bt.Bend(1.0, angle=0.1, name="b", pivot="center", **random_alignment(1))
    again = bt.Line.from_dict(bt.Line([element]).to_dict())[0]
    assert again == element and again.pivot == "center"
    with pytest.raises(ValueError, match=r"Bend: pitch = 2 rad is not allowed; allowed: >= -1.5"):
        bt.Bend(1.0, angle=0.1, pitch=2)
    with pytest.raises(ValueError, match="pivot = 'exit' is not known; allowed: entrance, center"):
        bt.Bend(1.0, angle=0.1, pivot="exit")
    with pytest.raises(ValueError, match=r"Bend 'b': place = .* must be between 0"):
        element.alignment_at(1.5)
