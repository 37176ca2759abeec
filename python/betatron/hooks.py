"""Functions of the user that are called while a beam is tracked.

>>> import betatron as bt
>>> ref = bt.Reference("electron", kinetic_energy=1e8)
>>> beam = bt.Beam(ref, n=3)
>>> line = bt.Line([bt.Drift(1.0, slices=2, name="d")])
>>> seen = []
>>> track = line.track(beam, hooks=bt.Hooks(after_slice=lambda state: seen.append(state.s)))
>>> seen
[0.5, 1.0]
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from betatron import _core
from betatron.elements import Element

if TYPE_CHECKING:
    from betatron.line import Line

Hook = Callable[[_core.State], Any]

POINTS = (
    "before_turn",
    "after_turn",
    "before_element",
    "after_element",
    "before_slice",
    "after_slice",
    "after_kick",
)


class Hooks:
    """Functions ``hook(state)`` for ``line.track(beam, hooks=Hooks(...))``.

    Parameters
    ----------
    before_turn, after_turn
        Called in front of and behind every passage of the line.
    before_element, after_element
        The same for every element.
    before_slice, after_slice
        The same for every slice of an element; elements without length have one.
    after_kick
        Called behind the kicks of collective effects at a place.
    at
        Names, regular expressions or elements to which calls at elements, slices and kicks are
        restricted; None: all.

    The state (see `betatron.State`) has the beam, whose columns may be changed in place, and the
    place. A hook may set parameters of elements: maps are made when the beam comes to them. Only
    before_turn may change slices, which say where the beam stops.

    At one place hooks are called in the order after_slice, after_element, after_turn, before_turn,
    before_element, before_slice; then collective effects kick; then after_kick. What is recorded
    behind an element is recorded before they are called. Of several `Hooks` the first is called
    first.

    Raises
    ------
    TypeError
        For what is not a function.
    """

    def __init__(
        self,
        *,
        before_turn: Hook | None = None,
        after_turn: Hook | None = None,
        before_element: Hook | None = None,
        after_element: Hook | None = None,
        before_slice: Hook | None = None,
        after_slice: Hook | None = None,
        after_kick: Hook | None = None,
        at: str | Element | Iterable[str | Element] | None = None,
    ) -> None:
        given = (
            before_turn,
            after_turn,
            before_element,
            after_element,
            before_slice,
            after_slice,
            after_kick,
        )
        if at is not None and not isinstance(at, (str, Element, Iterable)):
            raise TypeError(f"Hooks: at takes names, regular expressions and elements, not {at!r}")
        self.at = at
        self._functions = {
            point: function
            for point, function in zip(POINTS, given, strict=True)
            if function is not None
        }
        for point, function in self._functions.items():
            if not callable(function):
                raise TypeError(f"Hooks: {point} must be a function, got {function!r}")

    def __repr__(self) -> str:
        shown = ", ".join(f"{point}={function!r}" for point, function in self._functions.items())
        return f"Hooks({shown}{'' if self.at is None else f', at={self.at!r}'})"

    def _on(self, line: Line) -> list[tuple[str, Hook, list[int]]]:
        flags = [] if self.at is None else line._flags(self.at, "at")[0]
        return [
            (point, function, [] if point.endswith("_turn") else flags)
            for point, function in self._functions.items()
        ]


def hooks_on(line: Line, given: Any) -> list[tuple[str, Hook, list[int]]]:
    """The hooks of ``Line.track(hooks=...)``, made ready for a line."""
    if given is None:
        return []
    if not isinstance(given, (Hooks, Iterable)):
        raise TypeError(f"hooks takes betatron.Hooks, got {given!r}")
    items = [given] if isinstance(given, Hooks) else list(given)
    for item in items:
        if not isinstance(item, Hooks):
            raise TypeError(f"hooks takes betatron.Hooks, got {item!r}")
    return [hook for item in items for hook in item._on(line)]
