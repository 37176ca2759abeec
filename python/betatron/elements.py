"""Elements of a lattice: one class per kind, generated from the descriptions in the C++ core."""

from __future__ import annotations

import difflib
from typing import Any

from betatron import _core
from betatron._core import Element, common_parameters, kinds
from betatron.programmable import Programmable

_classes: dict[str, type[Element]] = {kind: getattr(_core, kind) for kind in kinds()}
_classes["Programmable"] = Programmable
globals().update(_classes)

__all__ = ["Element", "common_parameters", "element_from_dict", "kinds", *_classes]


def copy_of(element: Element) -> Element:
    """An element of its own with the same parameters."""
    if isinstance(element, Programmable):
        return element.copy()
    return element_from_dict(element.to_dict())


def element_from_dict(data: dict[str, Any]) -> Element:
    """An element from its dictionary form: ``{"kind": "Quadrupole", "length": 0.1, "k1": 10.0}``.

    The inverse of ``Element.to_dict``.

    Raises
    ------
    KeyError
        If ``kind`` is missing or unknown.
    TypeError, ValueError
        As the constructor of the kind.
    """
    parameters = dict(data)
    kind = parameters.pop("kind", None)
    if kind is None:
        raise KeyError(f"an element needs a kind; known kinds: {', '.join(_classes)}")
    if kind not in _classes:
        close = difflib.get_close_matches(str(kind), list(_classes), n=2)
        hint = f" (did you mean {' or '.join(close)}?)" if close else ""
        raise KeyError(
            f"there is no element kind {kind!r}{hint}; known kinds: {', '.join(_classes)}"
        )
    return _classes[kind](**parameters)
