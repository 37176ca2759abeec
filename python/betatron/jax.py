"""JAX: tracking as a differentiable function of arrays, also under ``jax.jit``. Needs the extra
``betatron[jax]``.

>>> # z = betatron.jax.track(line, z0, reference, {("q1", "k1"): k1})      doctest: +SKIP
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from betatron import _core
from betatron._passes import Passes
from betatron.beam import Reference
from betatron.collective import Effect
from betatron.elements import Element
from betatron.radiation import Radiation
from betatron.space_charge import SpaceCharge

if TYPE_CHECKING:
    from betatron.line import Line

__all__ = ["track"]

# Callbacks may come from several threads of JAX, and parameters of elements are set for as long as
# one tracks.
_busy = threading.Lock()


class _Host:
    """The two passes, on arrays of JAX; the energy is not looked at if it is the reference's own."""

    def __init__(self, passes: Passes, own_energy: bool) -> None:
        self.passes, self.own_energy = passes, own_energy

    def _run(self, z: Any, energy: Any, values: Any) -> tuple[_core.Gradient, np.ndarray]:
        columns = np.array(z)  # arrays of JAX are read-only, beams are not
        return self.passes.forward(
            columns, [float(v) for v in values], float(energy) if self.own_energy else None
        )

    def forward(self, z: Any, energy: Any, values: Any) -> np.ndarray:
        with _busy:
            return self._run(z, energy, values)[1]

    def backward(self, z: Any, energy: Any, values: Any, by_final: Any) -> tuple[Any, ...]:
        with _busy:
            run, final = self._run(z, energy, values)
            initial, knobs, kinetic = self.passes.pull(
                run,
                np.ascontiguousarray(by_final, dtype=final.dtype),
                initial=True,
                in_place=True,
            )
        return (
            initial,
            np.asarray(kinetic if self.own_energy else 0.0, dtype=np.asarray(energy).dtype),
            [np.asarray(d, dtype=np.asarray(v).dtype) for v, d in zip(values, knobs, strict=True)],
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
    weight: np.ndarray | None = None,
    space_charge: SpaceCharge | None = None,
    collective: Effect | Iterable[Effect] = (),
    turns: int = 1,
    radiation: Radiation | None = None,
    boundary: str = "open",
    bucket_length: float | None = None,
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
    weight
        Real particles per particle, shape (n,), an array of NumPy; default 1. Only collective
        effects look at it.
    space_charge, collective, turns, radiation, boundary, bucket_length
        As for `Line.gradient`.

    Returns
    -------
    Array of shape (6, n), of the type of ``z``.

    Raises
    ------
    TypeError, ValueError, KeyError
        For wrong arguments, before anything is tracked.
    jax.errors.JaxRuntimeError
        What `Line.track` raises; its text has the error.
    """
    z = jnp.asarray(z)
    if z.dtype not in (jnp.float64, jnp.float32):
        raise TypeError(f"track: z must be float64 or float32, got {z.dtype}")
    if z.ndim != 2 or z.shape[0] != 6:
        raise ValueError(f"track: z must have the shape (6, n), got {z.shape}")
    passes = Passes(
        line,
        reference,
        parameters or (),
        strategy=strategy,
        tolerance=tolerance,
        threads=threads,
        mark_lost=mark_lost,
        weight=weight,
        space_charge=space_charge,
        collective=collective,
        turns=turns,
        radiation=radiation,
        boundary=boundary,
        bucket_length=bucket_length,
    )
    values: list[jax.Array] = []
    for key, value in (parameters or {}).items():
        values.append(jnp.asarray(value, dtype=jnp.result_type(float)))
        if values[-1].ndim != 0:
            raise TypeError(f"track: parameter {key!r} must be one number")
    host = _Host(passes, kinetic_energy is not None)
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
