"""Learned models: networks, where they come from, and how they become elements of a lattice."""

from betatron._warnings import OutsideDomainWarning
from betatron.surrogate.element import PlasmaStageSurrogate
from betatron.surrogate.network import Layer, Network
from betatron.surrogate.network_element import Surrogate
from betatron.surrogate.stage import Domain, Residuals, StageModel, plasma_stage_files

__all__ = [
    "Domain",
    "Layer",
    "Network",
    "OutsideDomainWarning",
    "PlasmaStageSurrogate",
    "Residuals",
    "StageModel",
    "Surrogate",
    "plasma_stage_files",
]
