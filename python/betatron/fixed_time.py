"""Between coordinates at a fixed place (fixed s, those of a beam) and at a fixed time (fixed t).

A beam holds each particle when it crosses the plane of the reference particle, whenever that is.
Codes that step in time, and pictures of a bunch in space, need all particles at one time: that of
the reference particle. In between every particle flies freely, on a straight line with its own
velocity, so the two forms are exact inverses of each other, whatever the energy and the angles.

With momenta over p0, energy e = E/(p0 c) = 1/beta0 - pt, and

    pz = sqrt(1 - 2 pt/beta0 + pt^2 - px^2 - py^2),

the velocity is (px, py, pz)/e in units of c. A particle that comes late, t > 0, has not reached the
plane yet when the reference particle is there:

    x_T = x - t px/e,    y_T = y - t py/e,    z = -t pz/e,

and back: t = -z e/pz, x = x_T - z px/pz, y = y_T - z py/pz, and pt from the mass shell. Space is
straight here: x, y, z are Cartesian along the axes (ex, ey, ez) of the reference particle, also in
a bend.
Source: kinematics of a free particle.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from betatron._core import Reference

if TYPE_CHECKING:
    Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]

UNITS = ("mc", "p0")


def momentum_scale(reference: Reference, unit: str, where: str) -> float:
    """p0 in the unit of momenta: "mc" (particle mass times c) or "p0" (reference momentum)."""
    if unit not in UNITS:
        raise ValueError(f"{where}: momentum = {unit!r} must be 'mc' or 'p0'")
    return reference.beta_gamma if unit == "mc" else 1.0


def to_fixed_time(reference: Reference, z: Arrays) -> Arrays:
    """x, y, z [m], px, py, pz [p0] at the time of the reference particle, from the coordinates x,
    px, y, py, t, pt of a beam; arrays of shape (n,). A particle that does not move forward has no
    such place: its numbers are NaN."""
    x, px, y, py, t, pt = (np.asarray(q, dtype=np.float64) for q in z)
    energy = 1.0 / reference.beta - pt
    with np.errstate(invalid="ignore"):
        pz = np.sqrt(1.0 + pt * (pt - 2.0 / reference.beta) - px**2 - py**2)
    path = t / energy
    return x - path * px, y - path * py, -path * pz, px, py, pz


def to_fixed_place(reference: Reference, z: Arrays) -> Arrays:
    """The inverse of `to_fixed_time`: x, px, y, py, t, pt from x, y, z [m], px, py, pz [p0], pz
    > 0."""
    x, y, z_, px, py, pz = (np.asarray(q, dtype=np.float64) for q in z)
    beta = reference.beta
    # E^2 - E0^2 = (p^2 - p0^2) c^2, written as a product: pt = -(E - E0)/(p0 c) keeps its digits
    excess = (pz - 1.0) * (pz + 1.0) + px**2 + py**2
    pt = -excess / (np.sqrt(1.0 / beta**2 + excess) + 1.0 / beta)
    path = -z_ / pz
    return x + path * px, px, y + path * py, py, path * (1.0 / beta - pt), pt
