"""What all plots share: units of axes, labels of quantities, colours.

>>> scale_and_unit([0.0, 3.2e-4], "m")
(1000000.0, 'µm')
>>> axis_label("sigma_x", "µm")
'$\\\\sigma_x$ [µm]'
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

# The palette of Okabe and Ito (2008), distinct for all common kinds of colour vision, and below it
# two dark colours that differ from the others in lightness.
BLUE = "#0072B2"
VERMILLION = "#D55E00"
GREEN = "#009E73"
ORANGE = "#E69F00"
SKY = "#56B4E9"
PINK = "#CC79A7"
YELLOW = "#F0E442"
PURPLE = "#6A4C93"
WINE = "#882255"
BLACK = "#222222"
GREY = "#8A8A8A"
LIGHT_GREY = "#D0D0D0"

PLANE_COLOURS = {"x": BLUE, "y": VERMILLION, "t": GREEN}
"""Colour of a plane, the same in all plots."""

CYCLE = (BLUE, VERMILLION, GREEN, PINK, ORANGE, SKY, BLACK)
"""Colours of curves that belong to no plane."""

KIND_COLOURS = {
    "Bend": ORANGE,
    "ThinDipole": ORANGE,
    "Quadrupole": BLUE,
    "SoftQuadrupole": BLUE,
    "Sextupole": GREEN,
    "Octupole": PURPLE,
    "Multipole": PURPLE,
    "NonlinearLens": PURPLE,
    "Solenoid": SKY,
    "SoftSolenoid": SKY,
    "RFCavity": VERMILLION,
    "RFFieldMap": VERMILLION,
    "Buncher": VERMILLION,
    "CrabCavity": VERMILLION,
    "UniformAcceleration": VERMILLION,
    "PlasmaLens": WINE,
    "TaperedPlasmaLens": WINE,
    "PlasmaStage": PINK,
    "Undulator": YELLOW,
    "Kicker": PINK,
    "Instrument": BLACK,
    "Aperture": GREY,
    "PolygonAperture": GREY,
    "Programmable": LIGHT_GREY,
    "LinearMap": LIGHT_GREY,
    "TaylorMap": LIGHT_GREY,
    "SpinMap": LIGHT_GREY,
    "ConstantFocusing": LIGHT_GREY,
}
"""Colour of a kind of element; others are grey (or not drawn: drifts, markers, edges)."""

_STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.edgecolor": BLACK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "figure.dpi": 110,
    "savefig.dpi": 200,
}

_PREFIXES = {
    -18: "a",
    -15: "f",
    -12: "p",
    -9: "n",
    -6: "µ",
    -3: "m",
    0: "",
    3: "k",
    6: "M",
    9: "G",
    12: "T",
}
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

_COORDINATE_SYMBOLS = {"x": "x", "px": "p_x", "y": "y", "py": "p_y", "t": "t", "pt": "p_t"}
_COORDINATE_UNITS = {"x": "m", "px": "rad", "y": "m", "py": "rad", "t": "m", "pt": "1"}


def scale_and_unit(values: Any, unit: str) -> tuple[float, str]:
    """Factor and unit with which values are read best on an axis.

    Parameters
    ----------
    values
        Numbers in `unit`, any shape; what is not finite is ignored.
    unit
        An SI unit ("m", "rad", "eV", "C", "s", also "m rad"), or "1" for a plain number.

    Returns
    -------
    factor, text
        Multiply the values by the factor; the largest magnitude then lies in [1, 1000). The text is
        the unit with its prefix, or a power of ten for plain numbers ("10⁻³"; empty for 1).
    """
    numbers = np.abs(np.asarray(values, dtype=float))
    numbers = numbers[np.isfinite(numbers)]
    largest = float(numbers.max()) if numbers.size else 0.0
    exponent = 0
    if largest > 0.0:
        # 999.6 is shown as 1000 with three digits: round before the prefix is chosen
        exponent = 3 * math.floor(math.log10(float(f"{largest:.3g}")) / 3)
    if unit == "1":
        # between 0.1 and 10^4 a plain number needs no power of ten
        if 0.1 <= largest < 1e4 or exponent == 0:
            return 1.0, ""
        return 10.0**-exponent, "10" + str(exponent).translate(_SUPERSCRIPTS)
    exponent = min(max(exponent, min(_PREFIXES)), max(_PREFIXES))
    return 10.0**-exponent, _PREFIXES[exponent] + unit


def quantity_symbol(name: str) -> str:
    """Symbol of a coordinate or of a column of ``Beam.moments``, for Matplotlib, such as
    r"$\\sigma_x$"; the name itself if it has none."""
    head, _, tail = name.partition("_")
    if name in _COORDINATE_SYMBOLS:
        return f"${_COORDINATE_SYMBOLS[name]}$"
    if name in ("s", "n"):
        return f"${name}$"
    if name == "gamma":
        return r"$\gamma$"
    symbol = _COORDINATE_SYMBOLS.get(tail)
    if symbol is not None:
        wide = symbol if len(symbol) == 1 else f"{{{symbol}}}"
        forms = {
            "mean": rf"$\langle {symbol}\rangle$",
            "sigma": rf"$\sigma_{wide}$",
            "min": rf"$\min\,{symbol}$",
            "max": rf"$\max\,{symbol}$",
            "emittance": rf"$\varepsilon_{wide}$",
            "alpha": rf"$\alpha_{wide}$",
            "beta": rf"$\beta_{wide}$",
            "dispersion": rf"$D_{wide}$",
            "mu": rf"$\mu_{wide}/2\pi$",
        }
        return forms.get(head, name)
    if head in ("alpha", "beta") and tail in ("1y", "2x"):
        return rf"$\{head}_{{{tail}}}$"
    if head == "emittance" and tail in ("1", "2", "3"):
        return rf"$\varepsilon_{tail}$"
    if head == "emittance" and len(tail) == 2 and tail[1] == "n":
        return rf"$\varepsilon_{{{tail[0]},n}}$"
    return name


def quantity_unit(name: str) -> str:
    """SI unit of a coordinate or of a column of ``Beam.moments``; "1" for plain numbers."""
    head, _, tail = name.partition("_")
    if name in _COORDINATE_UNITS:
        return _COORDINATE_UNITS[name]
    if name == "s" or head in ("emittance", "beta"):
        return "m"
    if name == "charge":
        return "C"
    if head in ("mean", "sigma", "min", "max"):
        return _COORDINATE_UNITS.get(tail, "1")
    if head == "dispersion":
        return "m" if tail in ("x", "y") else "1"
    return "1"


def quantity_colour(name: str) -> str | None:
    """Colour of the plane that a quantity belongs to; None if it belongs to none."""
    plane = name.rpartition("_")[2].removeprefix("p")[:1]
    return PLANE_COLOURS.get(plane)


def axis_label(name: str, unit: str) -> str:
    """Symbol and unit (as scale_and_unit gives it): "$x$ [mm]"; no brackets without a unit."""
    return f"{quantity_symbol(name)} [{unit}]" if unit else quantity_symbol(name)


@contextmanager
def betatron_style() -> Iterator[None]:
    """Matplotlib settings of all plots, in force inside the with block only."""
    import matplotlib as mpl

    with mpl.rc_context(_STYLE):
        yield
