"""Fields on the axis of an element: from a table to the Fourier coefficients that elements take."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def fourier_coefficients(
    z: ArrayLike, field: ArrayLike, count: int
) -> tuple[list[float], list[float]]:
    """Fourier coefficients of a field that is given as a table along the axis.

    With L = z[-1] - z[0] and u measured from the middle of the table,

        g(u) = c[0]/2 + sum_(n > 0) (c[n] cos(2 pi n u/L) + s[n] sin(2 pi n u/L)),
        c[n], s[n] = (2/L) int g(u) (cos, sin)(2 pi n u/L) du,

    the integrals by the trapezoidal rule on as many equidistant points as the table has, between
    whose points it is taken as linear. They go into ``cosine`` and ``sine`` of an element of
    length L:

    >>> z = [-0.2, -0.1, 0.0, 0.1, 0.2]
    >>> cosine, sine = fourier_coefficients(z, [1.0, 2.0, 3.0, 2.0, 1.0], 2)
    >>> [round(c, 12) for c in cosine]
    [4.0, 1.0]

    Parameters
    ----------
    z : array of shape (n,)
        Positions in m, increasing, n >= 2.
    field : array of shape (n,)
        The field there, in any unit.
    count : int
        Number of coefficients of each kind, 1 <= count <= n/2: a table of n points does not tell
        faster oscillations from slower ones.

    Returns
    -------
    cosine, sine : lists of `count` floats
        In the unit of the field; sine[0] is 0.

    Raises
    ------
    ValueError
        If the table is not as described, or `count` is out of range.
    """
    position = np.asarray(z, dtype=float)
    values = np.asarray(field, dtype=float)
    if position.ndim != 1 or position.shape != values.shape or len(position) < 2:
        raise ValueError(
            f"z of shape {position.shape} and field of shape {values.shape}:"
            " both must be of shape (n,) with n >= 2"
        )
    if not (np.all(np.isfinite(position)) and np.all(np.isfinite(values))):
        raise ValueError("z and field must be finite")
    if not np.all(np.diff(position) > 0.0):
        raise ValueError("z must increase from point to point")
    points = len(position)
    if not 1 <= count <= points // 2:
        raise ValueError(
            f"count = {count} is not allowed; allowed: 1 to {points // 2} for {points} points"
        )
    turn = np.linspace(-0.5, 0.5, points)
    even = np.interp(position[0] + (turn + 0.5) * (position[-1] - position[0]), position, values)
    weight = np.full(points, 2.0 / (points - 1))
    weight[[0, -1]] /= 2.0
    angle = 2.0 * np.pi * np.outer(np.arange(count), turn)
    cosine = np.cos(angle) @ (weight * even)
    sine = np.sin(angle) @ (weight * even)
    sine[0] = 0.0
    return cosine.tolist(), sine.tolist()
