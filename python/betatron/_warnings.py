"""The warning of models that are used beyond what they are made for."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

_PACKAGE = Path(__file__).parent


class OutsideDomainWarning(UserWarning):
    """A model was used for what it is not made for: a learned stage for particles that it was not
    trained for, a fit to short distances for a longer beam."""


def warn_of_domain(message: str) -> None:
    """An `OutsideDomainWarning` at the line of whoever called the package."""
    level, frame = 1, sys._getframe(0)
    while frame.f_back is not None and _PACKAGE in Path(frame.f_code.co_filename).parents:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, OutsideDomainWarning, stacklevel=level)
