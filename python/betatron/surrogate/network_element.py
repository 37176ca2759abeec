"""A network as an element of a lattice: from the six coordinates in front of it to those behind
it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from betatron import _core, elements
from betatron._checks import number
from betatron.programmable import OneSlice
from betatron.surrogate.network import FORMATS, Network
from betatron.surrogate.tensors import alike

_OWN = {"kind", "length", "settings", "slices"}


class Surrogate(OneSlice):
    """An element whose effect on particles is a network with six inputs and six outputs.

    It is evaluated inside the fused pass, and gradients pass through it.

    Parameters
    ----------
    network
        The network, or the path of a file that `Network.save` wrote. Its own normalisation is part
        of it.
    length
        Path length of the reference orbit [m], which is straight.
    energy_gain
        Of the reference particle [eV].
    coordinates
        "canonical": x, px, y, py, t, pt, relative to the reference particle, in front of the
        element and behind it. "fixed_time": x, y, xi [m], px, py, pz [m c] of all particles at the
        time when the reference particle is at the entrance, and when it is at the exit; particles
        fly freely to the plane and from it. Those that do not move forward are lost.
    xi
        Place of the reference particle along the axis at the entrance and at the exit, in the xi of
        fixed_time [m].
    format
        What the network is computed in; by default its own (`Network.format`).
    name
        Of the element.
    **common
        dx, roll, ...: as for all elements. It is tracked as a whole, in one slice.

    Raises
    ------
    TypeError, ValueError
        For another number of inputs or outputs, values that are not finite, unknown words.
    """

    def __init__(
        self,
        network: Network | str | Path,
        length: float,
        *,
        energy_gain: float = 0.0,
        coordinates: str = "canonical",
        xi: Sequence[float] = (0.0, 0.0),
        format: str | None = None,
        name: str = "",
        **common: Any,
    ) -> None:
        path = None
        if not isinstance(name, str):
            raise TypeError(f"Surrogate: name must be a text, got {type(name).__name__} {name!r}")
        if not isinstance(network, Network):
            if not isinstance(network, (str, Path)):
                raise TypeError(
                    f"Surrogate {name!r}: network must be a Network or the path of its file, got "
                    f"{type(network).__name__}"
                )
            path = Path(network)
            network = Network.load(path)
            name = name or path.stem
        where = f"Surrogate {name!r}"
        if "slices" in common:
            raise TypeError(f"{where}: it has one slice")
        if coordinates not in ("canonical", "fixed_time"):
            raise ValueError(
                f"{where}: coordinates = {coordinates!r} must be 'canonical' or 'fixed_time'"
            )
        if format is not None and format not in FORMATS:
            raise ValueError(f"{where}: format = {format!r} must be one of {', '.join(FORMATS)}")
        if not isinstance(xi, Sequence | np.ndarray) or isinstance(xi, str) or len(xi) != 2:
            raise ValueError(f"{where}: xi = {xi!r} must be two numbers, at the entrance and exit")
        length = number(length, f"{where}: length")
        core = _core.NetworkMap(
            name,
            network._core,
            format or network.format,
            coordinates,
            length,
            number(energy_gain, f"{where}: energy_gain"),
            number(xi[0], f"{where}: xi[0]"),
            number(xi[1], f"{where}: xi[1]"),
        )
        super().__init__(length, push=core.code(), reference=core.reference, name=name, **common)
        self._network, self._path = network, path
        self._how = {
            "energy_gain": float(energy_gain),
            "coordinates": coordinates,
            "xi": [float(q) for q in xi],
            "format": format,
        }

    @property
    def network(self) -> Network:
        """What it evaluates."""
        return self._network

    @property
    def energy_gain(self) -> float:
        """Of the reference particle [eV]."""
        return self._how["energy_gain"]

    @property
    def coordinates(self) -> str:
        """Those of the network: "canonical" or "fixed_time"."""
        return self._how["coordinates"]

    def _common(self) -> dict[str, Any]:
        plain = _core.Programmable.to_dict(self)
        return {key: value for key, value in plain.items() if key not in _OWN}

    def copy(self) -> Surrogate:
        """An element of its own with the same network and parameters."""
        made = Surrogate(self._network, self.length, **self._how, **self._common())
        made._path = self._path
        return made

    def __copy__(self) -> Surrogate:
        return self.copy()

    def __deepcopy__(self, memo: dict[int, Any]) -> Surrogate:
        return self.copy()  # what the element has taken of its network does not change

    def __reduce__(self) -> tuple[Any, ...]:
        parameters = {"length": self.length, **self._how, **self._common()}
        return _made_again, (self._network, self._path, parameters)

    def to_dict(self) -> dict[str, Any]:
        """The element as a dictionary of plain values, with the path of its network's file.

        Raises
        ------
        ValueError
            If it was made from a network in memory.
        """
        if self._path is None:
            raise ValueError(
                f"Surrogate {self.name!r}: its network is in no file; save it, and give the path"
            )
        own = {key: value for key, value in self._how.items() if value is not None}
        return {
            "kind": "Surrogate",
            "network": str(self._path),
            "length": self.length,
            **own,
            **self._common(),
        }

    def __repr__(self) -> str:
        return f"Surrogate({self._network!r}, length={self.length!r}, name={self.name!r})"

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Surrogate)
            and (
                alike(self._network._arguments(), other._network._arguments())
                or (self._path is not None and self._path == other._path)
            )
            and self._how == other._how
            and self._common() == other._common()
            and self.length == other.length
        )

    __hash__ = _core.Programmable.__hash__


def _made_again(network: Network, path: Path | None, parameters: dict[str, Any]) -> Surrogate:
    made = Surrogate(network, **parameters)
    made._path = path
    return made


elements._classes["Surrogate"] = Surrogate
