"""Checks of numbers that users give; the messages say what was given and what is allowed."""

from __future__ import annotations

import operator
from typing import Any


def number(value: Any, where: str) -> float:
    """A real number as float. Raises TypeError for anything else, also for bool and text."""
    if not isinstance(value, (bool, str, bytes)):
        try:
            return float(value)
        except (TypeError, ValueError):
            pass
    raise TypeError(f"{where} must be a number, got {type(value).__name__} {value!r}")


def whole(value: Any, where: str, maximum: int | None = None, minimum: int | None = 0) -> int:
    """A whole number from `minimum` to `maximum` (None: no limit). Raises TypeError for other types
    (1e5 is one: a float), ValueError outside the range."""
    try:
        if isinstance(value, bool):
            raise TypeError
        result = operator.index(value)
    except TypeError:
        raise TypeError(
            f"{where} must be a whole number, got {type(value).__name__} {value!r}"
        ) from None
    if maximum is None:
        if minimum is not None and result < minimum:
            raise ValueError(f"{where} = {result} is not allowed; allowed: >= {minimum}")
    elif result > maximum or (minimum is not None and result < minimum):
        raise ValueError(f"{where} = {result} must be between {minimum} and {maximum}")
    return result


def thread_count(threads: Any) -> int:
    """What users give as `threads`, for C++: 0 for None, all processors. As `whole`, >= 1."""
    count = 0 if threads is None else whole(threads, "threads", minimum=1)
    return min(count, 2**16)  # more than there are anywhere
