"""Learned models: networks, where they come from, and how they become elements of a lattice."""

from pathlib import Path

from betatron.surrogate.element import OutsideDomainWarning, PlasmaStageSurrogate
from betatron.surrogate.network import Layer, Network
from betatron.surrogate.network_element import Surrogate
from betatron.surrogate.stage import Domain, Residuals, StageModel

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


def plasma_stage_files() -> list[Path]:
    """Files of the fifteen trained stages that come with the package, the first first: laser-plasma
    stages of 28 cm, from 1 GeV to above 100 GeV; see the documentation on plasma surrogates."""
    return sorted(
        (Path(__file__).parents[1] / "data" / "plasma_stages").glob("stage_*.safetensors")
    )
