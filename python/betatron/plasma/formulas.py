"""Formulas of plasma waves and ion columns.

Source: E. Esarey, C. B. Schroeder, W. P. Leemans, Rev. Mod. Phys. 81 (2009) 1229, sec. I and V.
"""

from __future__ import annotations

import math

CLASSICAL_ELECTRON_RADIUS = 2.8179403205e-15  # m, CODATA 2022
ELECTRON_MASS = 0.51099895069e6  # eV


def _density(density: float, where: str) -> float:
    if not (density > 0 and math.isfinite(density)):
        raise ValueError(f"{where}: density = {density!r} 1/m^3 must be above 0 and finite")
    return density


def plasma_wavenumber(density: float) -> float:
    """kp = sqrt(4 pi r_e n) [1/m] of a plasma with `density` electrons per m^3."""
    return math.sqrt(
        4 * math.pi * CLASSICAL_ELECTRON_RADIUS * _density(density, "plasma_wavenumber")
    )


def wave_breaking_field(density: float) -> float:
    """m c^2 kp/e [V/m]: the largest field of a cold plasma wave that is not relativistic."""
    return ELECTRON_MASS * plasma_wavenumber(density)


def ion_focusing(density: float) -> float:
    """K = kp^2/2 [1/m^2]: an electron in a column of ions, from which the electrons have gone,
    feels the force -m c^2 K r, x'' = -(K/gamma) x."""
    return plasma_wavenumber(density) ** 2 / 2


def matched_beta(density: float, gamma: float, focusing: float = 1.0) -> float:
    """beta = sqrt(gamma/(focusing K)) [m] of a beam whose size an ion column keeps."""
    if not gamma >= 1 or not focusing > 0:
        raise ValueError(
            f"matched_beta: gamma = {gamma!r} must be at least 1 and focusing = {focusing!r} above "
            "0"
        )
    return math.sqrt(gamma / (focusing * ion_focusing(density)))
