"""Plasma stages: formulas of wakes, particles in front of and behind a stage, and where they come
from.

`PlasmaStage` (an element, see the reference) tracks with analytic wakes. `waket.simulate` runs
Wake-T (extra "waket") for a laser and a plasma, `read_stage` reads what WarpX, FBPIC, HiPACE++ or
Wake-T wrote; both give a `StageData`: pairs of particles, from which surrogates are trained.
"""

from betatron.plasma.data import StageData, read_stage
from betatron.plasma.formulas import (
    ion_focusing,
    matched_beta,
    plasma_wavenumber,
    wave_breaking_field,
)

__all__ = [
    "StageData",
    "ion_focusing",
    "matched_beta",
    "plasma_wavenumber",
    "read_stage",
    "wave_breaking_field",
]
