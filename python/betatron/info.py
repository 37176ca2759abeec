"""What this installation is and what it can use."""

from __future__ import annotations

import importlib.util
import platform

from betatron import _core


def info() -> dict[str, object]:
    """Version, compiler, vector instructions in use, processors, and which optional packages are present."""
    optional = ("openpmd_api", "torch", "jax", "cupy", "cpymad")
    return {
        "version": _core.version,
        "python": platform.python_version(),
        "compiler": _core.compiler,
        "instruction_set": _core.instruction_set(),
        "threads": _core.available_threads(),
        "optional": {name: importlib.util.find_spec(name) is not None for name in optional},
    }
