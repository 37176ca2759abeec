"""Learned models: networks, where they come from, and how they become elements of a lattice."""

from betatron.surrogate.network import Layer, Network

__all__ = ["Layer", "Network"]
