"""What readers of other codes' lattices share: the result, the report, and the frame of a bend."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pandas as pd

from betatron.beam import Reference
from betatron.elements import Element, element_from_dict
from betatron.line import Line

COLUMNS = ["element", "name", "attribute", "value", "reason"]


@dataclass(frozen=True)
class Imported:
    """A lattice that was read from another code.

    Attributes
    ----------
    line
        The elements of the lattice, one period of it.
    reference
        Its reference particle.
    periodicity
        How many periods make the ring: ``ring = periodicity * line``.
    report
        What was not carried over, one row per element and attribute: ``element`` (position in the
        lattice of the other code, -1 for the lattice), ``name``, ``attribute``, ``value``,
        ``reason``.
    """

    line: Line
    reference: Reference
    periodicity: int
    report: pd.DataFrame


class Report:
    """The rows of ``Imported.report``."""

    def __init__(self) -> None:
        self._rows: list[tuple[int, str, str, Any, str]] = []

    def lose(self, position: int, name: str, attribute: str, value: Any, reason: str) -> None:
        self._rows.append((position, name, attribute, value, reason))

    def table(self) -> pd.DataFrame:
        return pd.DataFrame(self._rows, columns=COLUMNS)


class Reader:
    """The translation of one element; remembers which attributes were read.

    Parameters
    ----------
    values
        The attributes of the element; those in `silent` say nothing about the beam.
    """

    def __init__(
        self, position: int, name: str, values: dict[str, Any], silent: set[str], report: Report
    ) -> None:
        self.name = name
        self._position = position
        self._values = values
        self._unread = set(values) - silent
        self._report = report

    def finish(self) -> None:
        """Report what was not read and is not empty."""
        for key in sorted(self._unread):
            if not self._empty(key, self._values[key]):
                self._lose(key, self._values[key], "not carried over")

    def _empty(self, key: str, value: Any) -> bool:
        """Whether an attribute has no effect with this value."""
        raise NotImplementedError

    def _lose(self, attribute: str, value: Any, reason: str) -> None:
        self._report.lose(self._position, self.name, attribute, value, reason)

    def get(self, key: str, default: Any) -> Any:
        self._unread.discard(key)
        return self._values.get(key, default)

    def number(self, key: str) -> float:
        return float(self.get(key, 0.0))

    def _make(self, kind: str, **parameters: Any) -> Element:
        return element_from_dict({"kind": kind, "name": self.name, **parameters})


def framed(
    elements: list[Element], *, dx: float = 0.0, dy: float = 0.0, roll: float = 0.0
) -> list[Element]:
    """Elements in a frame that is shifted and turned in front of them, and back behind."""
    if dx == dy == roll == 0.0:
        return elements
    if dx == dy == 0.0:
        ends = [{"kind": "PlaneRotation", "angle": sign * roll} for sign in (1, -1)]
    else:
        c, s = math.cos(roll), math.sin(roll)
        back = {"offset_x": -(dx * c + dy * s), "offset_y": dx * s - dy * c}
        ends = [
            {"kind": "Patch", "offset_x": dx, "offset_y": dy, "rotation_z": roll},
            {"kind": "Patch", **back, "rotation_z": -roll},
        ]
    return [element_from_dict(ends[0]), *elements, element_from_dict(ends[1])]
