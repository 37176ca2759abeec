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


def splitting_order(value: Any, where: str) -> int:
    """The order of a splitting, 1 or 2."""
    result = whole(value, where, minimum=None)
    if result not in (1, 2):
        raise ValueError(f"{where} = {result} is not allowed; allowed: 1, 2")
    return result


def bucket(boundary: Any, length: Any) -> float:
    """The length of the bucket, 0 if there is none."""
    if not isinstance(boundary, str):
        raise TypeError(f"boundary must be text, got {boundary!r}")
    known = ("open", "periodic", "absorbing", "reflecting")
    if boundary not in known:
        raise ValueError(f"boundary = {boundary!r} must be one of {', '.join(known)}")
    if boundary == "open":
        if length is not None:
            raise ValueError(f"bucket_length = {length!r} has no effect on an open boundary")
        return 0.0
    if length is None:
        raise ValueError(f"boundary = {boundary!r} needs a bucket_length in m")
    value = number(length, "bucket_length")
    if not 0.0 < value < float("inf"):
        raise ValueError(f"bucket_length = {value} m is not allowed; allowed: > 0")
    return value


def thread_count(threads: Any) -> int:
    """What users give as `threads`, for C++: 0 for None, all processors. As `whole`, >= 1."""
    count = 0 if threads is None else whole(threads, "threads", minimum=1)
    return min(count, 2**16)  # more than there are anywhere
