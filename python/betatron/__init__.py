"""Betatron: particle accelerators from source to target, fast and differentiable.

>>> import betatron as bt
>>> ref = bt.Reference("electron", kinetic_energy=100e6)
>>> cell = bt.Line([bt.Drift(0.1), bt.Quadrupole(0.1, k1=10), bt.Drift(0.1), bt.Quadrupole(0.1, k1=-10)])
>>> spread = bt.Gaussian.from_twiss(beta_x=1, alpha_x=0, emittance_x=1e-8, beta_y=1, alpha_y=0,
...                                 emittance_y=1e-8, beta_t=1, alpha_t=0, emittance_t=1e-8)
>>> beam = bt.Beam(ref, spread, n=1000, seed=1)
>>> track = (10 * cell).track(beam, record="all")
>>> len(track.moments)
41
"""

from betatron import _core, errors, losses, surrogate
from betatron._warnings import OutsideDomainWarning
from betatron.advisor import Advice, advise
from betatron.beam import Beam, Reference, Species
from betatron.collective import (
    CSR,
    IBS,
    BeamBeam,
    IBSRates,
    ResistiveWall,
    Resonator,
    StructureWake,
    Wake,
    WakeTable,
    collide,
    ibs_rates,
    line_density,
)
from betatron.distributions import (
    KV,
    Gaussian,
    Kurth4D,
    Kurth6D,
    SemiGaussian,
    Thermal,
    Triangle,
    Waterbag,
)
from betatron.elements import *  # noqa: F403  (the kinds are listed by the core)
from betatron.elements import __all__ as _element_names
from betatron.envelope_gradient import EnvelopeGradient, EnvelopeObjective
from betatron.fields import fourier_coefficients
from betatron.gradient import Gradient, HessianVector, Objective
from betatron.hooks import Hooks
from betatron.info import info
from betatron.io_at import from_at
from betatron.io_madx import from_madx
from betatron.line import Envelope, Line, Track
from betatron.monitor import TurnByTurn
from betatron.optics import Optics, Twiss
from betatron.radiation import Radiation
from betatron.space_charge import (
    RectangularPipe,
    RoundPipe,
    SpaceCharge2D,
    SpaceCharge2p5D,
    SpaceChargeEnvelope,
    SpaceChargeGaussian,
)
from betatron.space_charge_3d import SpaceCharge3D
from betatron.surrogate import PlasmaStageSurrogate, Surrogate
from betatron.taylor import Chromaticity, TaylorSeries

State = _core.State
UserCodeError = _core.UserCodeError

__version__: str = _core.version

__all__ = [
    "Advice",
    "Beam",
    "BeamBeam",
    "Chromaticity",
    "CSR",
    "Envelope",
    "EnvelopeGradient",
    "EnvelopeObjective",
    "Gaussian",
    "Gradient",
    "HessianVector",
    "Hooks",
    "IBS",
    "IBSRates",
    "Kurth4D",
    "Kurth6D",
    "KV",
    "Line",
    "Objective",
    "Optics",
    "OutsideDomainWarning",
    "PlasmaStageSurrogate",
    "Radiation",
    "RectangularPipe",
    "Reference",
    "ResistiveWall",
    "Resonator",
    "RoundPipe",
    "SemiGaussian",
    "SpaceCharge2D",
    "SpaceCharge2p5D",
    "SpaceCharge3D",
    "SpaceChargeEnvelope",
    "SpaceChargeGaussian",
    "Species",
    "State",
    "StructureWake",
    "Surrogate",
    "TaylorSeries",
    "Thermal",
    "Track",
    "Triangle",
    "TurnByTurn",
    "Twiss",
    "UserCodeError",
    "Wake",
    "WakeTable",
    "Waterbag",
    "advise",
    "collide",
    "errors",
    "fourier_coefficients",
    "from_at",
    "from_madx",
    "ibs_rates",
    "info",
    "line_density",
    "losses",
    "surrogate",
    *_element_names,
]
