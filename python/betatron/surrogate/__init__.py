"""Learned models: networks, where they come from, and how they become elements of a lattice."""

from betatron.surrogate.network import Layer, Network
from betatron.surrogate.network_element import Surrogate

__all__ = ["Layer", "Network", "Surrogate"]
