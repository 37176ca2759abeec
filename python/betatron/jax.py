"""JAX: tracking as a differentiable function of arrays, also under ``jax.jit``. Needs the extra
``betatron[jax]``.

>>> # z = betatron.jax.track(line, z0, reference, {("q1", "k1"): k1})      doctest: +SKIP
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from betatron import _core
from betatron.beam import Reference
from betatron.elements import Element
from betatron.gradient import Knob, beam_of, numbers_of, single_knob, turned

if TYPE_CHECKING:
    from betatron.line import Line

__all__ = ["track"]

# Callbacks may come from several threads of JAX, and parameters of elements are set for as long as
# one tracks.
_busy = threading.Lock()


class _Host:
    """The two passes, on NumPy arrays."""

    def __init__(
        self,
        line: Line,
        reference: Reference,
        chosen: list[Knob],
        own_energy: bool,
        options: dict[str, Any],
    ) -> None:
        self.line, self.reference, self.chosen = line, reference, chosen
        self.own_energy, self.options = own_energy, options

    def _run(self, z: Any, energy: Any, values: Any) -> tuple[np.ndarray, _core.Gradient]:
        reference = self.reference
        if self.own_energy:
            reference = Reference(reference.species, kinetic_energy=float(energy))
        columns = np.array(z)  # arrays of JAX are read-only, beams are not
        run = _core.Gradient(
            self.line,
            beam_of(reference, columns, None),
            numbers_of(self.chosen),
            self.own_energy,
            [],
            False,
            self.options["threads"],
        )
        return columns, run

    def forward(self, z: Any, energy: Any, values: Any) -> np.ndarray:
        with _busy, turned(self.chosen, [float(v) for v in values]):
            _, run = self._run(z, energy, values)
        final = run.final
        if run.lost and self.options["nan"]:
            final[:, run.lost] = np.nan
        return final

    def backward(self, z: Any, energy: Any, values: Any, by_final: Any) -> tuple[Any, ...]:
        with _busy, turned(self.chosen, [float(v) for v in values]):
            columns, run = self._run(z, energy, values)
            r = run.pull(
                np.zeros((0, 6)),
                np.zeros((0, 6, 6)),
                np.zeros(0),
                by_particles=np.ascontiguousarray(by_final, dtype=columns.dtype),
                initial=True,
                in_place=True,
                strategy=self.options["strategy"],
                tolerance=self.options["tolerance"],
            )
        by_energy = r["kinetic"] / self.reference.species.mass if self.own_energy else 0.0
        return (
            r["initial"],
            np.asarray(by_energy, dtype=np.asarray(energy).dtype),
            [
                np.asarray(d, dtype=np.asarray(v).dtype)
                for v, d in zip(values, r["knobs"], strict=True)
            ],
        )


def track(
    line: Line,
    z: Any,
    reference: Reference,
    parameters: Mapping[tuple[str | Element, str], Any] | None = None,
    *,
    kinetic_energy: Any = None,
    strategy: str = "auto",
    tolerance: float | None = None,
    threads: int | None = None,
    mark_lost: bool = False,
) -> jax.Array:
    """Coordinates at the end of a line, as a function of coordinates at its start and of parameters
    that ``jax.grad``, ``jax.vjp`` and ``jax.jit`` can work on.

    Reverse mode only: ``jax.jvp`` and second derivatives are refused by JAX. Tracking runs on the
    host. The reverse pass tracks forward once more, for JAX may keep arrays only.

    Parameters
    ----------
    line
        The line. Its elements have the values of ``parameters`` while the beam is tracked, and
        their own behind it; under ``jax.jit`` other parameters are those at the time of each call.
    z
        Coordinates x, px, y, py, t, pt, shape (6, n), float64 (with ``jax_enable_x64``) or float32.
    reference
        Reference particle at the start.
    parameters
        Numbers by (element or name, parameter); a pair must name one number of one element.
    kinetic_energy
        That of the reference particle at the start [eV]; default: as in ``reference``.
    strategy, tolerance, threads
        As for `Line.gradient`.
    mark_lost
        Coordinates of lost particles are NaN. Else they are those that the particle had when it was
        lost. Their derivatives are 0 in any case.

    Returns
    -------
    Array of shape (6, n), of the type of ``z``.

    Raises
    ------
    TypeError, ValueError, KeyError
        For wrong arguments, and as `Line.track`.
    """
    z = jnp.asarray(z)
    if z.dtype not in (jnp.float64, jnp.float32):
        raise TypeError(f"track: z must be float64 or float32, got {z.dtype}")
    if z.ndim != 2 or z.shape[0] != 6:
        raise ValueError(f"track: z must have the shape (6, n), got {z.shape}")
    chosen: list[Knob] = []
    values: list[jax.Array] = []
    for key, value in (parameters or {}).items():
        chosen.append(single_knob(line, key))
        values.append(jnp.asarray(value, dtype=jnp.result_type(float)))
        if values[-1].ndim != 0:
            raise TypeError(f"track: parameter {key!r} must be one number")
    options = {
        "strategy": strategy,
        "tolerance": tolerance or 0.0,
        "threads": threads or 0,
        "nan": mark_lost,
    }
    host = _Host(line, reference, chosen, kinetic_energy is not None, options)
    energy = jnp.asarray(
        0.0 if kinetic_energy is None else kinetic_energy, dtype=jnp.result_type(float)
    )

    def shape_of(array: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(array.shape, array.dtype)

    @jax.custom_vjp
    def tracked(z: Any, energy: Any, values: Any) -> Any:
        return jax.pure_callback(
            host.forward, shape_of(z), z, energy, values, vmap_method="sequential"
        )

    def forward(z: Any, energy: Any, values: Any) -> tuple[Any, tuple[Any, ...]]:
        return tracked(z, energy, values), (z, energy, values)

    def backward(kept: tuple[Any, ...], by_final: Any) -> tuple[Any, ...]:
        z, energy, values = kept
        shapes = (shape_of(z), shape_of(energy), [shape_of(v) for v in values])
        return jax.pure_callback(
            host.backward, shapes, z, energy, values, by_final, vmap_method="sequential"
        )

    tracked.defvjp(forward, backward)
    return tracked(z, energy, values)
