"""PyTorch: tracking as a differentiable function of tensors. Needs the extra ``betatron[torch]``.

>>> # z = betatron.torch.track(line, z0, reference, {("q1", "k1"): k1})      doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from betatron._passes import Passes
from betatron.beam import Reference
from betatron.collective import Effect
from betatron.elements import Element
from betatron.losses import Screen
from betatron.radiation import Radiation
from betatron.space_charge import SpaceCharge

if TYPE_CHECKING:
    from betatron.line import Line

__all__ = ["image", "track"]


class _Track(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        passes: Passes,
        z: torch.Tensor,
        energy: torch.Tensor | None,
        *values: torch.Tensor,
    ) -> torch.Tensor:
        ctx.run, made = passes.forward(
            z.detach().numpy(),
            [float(v) for v in values],
            None if energy is None else float(energy.detach()),
        )
        final = torch.from_numpy(made)
        ctx.passes = passes
        ctx.save_for_backward(z, final, energy, *values)  # notices changes in place
        return final

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, by_final: torch.Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        z, _, energy, *values = ctx.saved_tensors
        initial, knobs, kinetic = ctx.passes.pull(
            ctx.run,
            by_final.detach().to(z.dtype).contiguous().numpy(),
            initial=ctx.needs_input_grad[1],
        )
        by_initial = None if initial is None else torch.from_numpy(initial)
        by_energy = None if energy is None else energy.new_full(energy.shape, kinetic)
        by_values = [v.new_full(v.shape, d) for v, d in zip(values, knobs, strict=True)]
        return None, by_initial, by_energy, *by_values


def track(
    line: Line,
    z: torch.Tensor,
    reference: Reference,
    parameters: Mapping[tuple[str | Element, str], torch.Tensor] | None = None,
    *,
    kinetic_energy: torch.Tensor | None = None,
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
) -> torch.Tensor:
    """Coordinates at the end of a line, as a differentiable function of coordinates at its start and of parameters.

    Parameters
    ----------
    line
        The line. Its elements have the values of ``parameters`` during the call, and their own behind it.
    z
        Coordinates x, px, y, py, t, pt, shape (6, n), float64 or float32 on the CPU; contiguous ones are not copied.
    reference
        Reference particle at the start.
    parameters
        Tensors of one number each, by (element or name, parameter); a pair must name one number of one element.
    kinetic_energy
        That of the reference particle at the start [eV], a tensor of one number; default: as in ``reference``.
    strategy, tolerance, threads
        As for `Line.gradient`.
    mark_lost
        Coordinates of lost particles are NaN. Else they are those that the particle had when it was lost. Their
        derivatives are 0 in any case.
    weight
        Real particles per particle, shape (n,), in the type of z; default 1. Only collective effects look at it.
    space_charge, collective, turns, radiation, boundary, bucket_length
        As for `Line.gradient`.

    Returns
    -------
    Tensor of shape (6, n). It shares memory with what the reverse pass starts from: changing it in place is an error
    in ``backward``.

    Raises
    ------
    TypeError, ValueError, KeyError
        For wrong arguments, and as `Line.track`.
    """
    if not isinstance(z, torch.Tensor) or z.device.type != "cpu":
        raise TypeError("track: z must be a tensor on the CPU")
    if z.dtype not in (torch.float64, torch.float32):
        raise TypeError(f"track: z must be float64 or float32, got {z.dtype}")
    if z.ndim != 2 or z.shape[0] != 6:
        raise ValueError(f"track: z must have the shape (6, n), got {tuple(z.shape)}")
    if kinetic_energy is not None and (
        not isinstance(kinetic_energy, torch.Tensor) or kinetic_energy.numel() != 1
    ):
        raise TypeError("track: kinetic_energy must be a tensor of one number")
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
    for key, value in (parameters or {}).items():
        if not isinstance(value, torch.Tensor) or value.numel() != 1:
            raise TypeError(f"track: parameter {key!r} must be a tensor of one number")
    values = (parameters or {}).values()
    return _Track.apply(passes, z.contiguous(), kinetic_energy, *values)


class _Image(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, screen: Screen, z: torch.Tensor, weight: np.ndarray | None
    ) -> torch.Tensor:
        ctx.screen, ctx.weight = screen, weight
        ctx.save_for_backward(z)
        return torch.from_numpy(screen.image(z.detach().numpy(), weight)).to(z.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, by_image: torch.Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        (z,) = ctx.saved_tensors
        slope = ctx.screen.pull(z.detach().numpy(), by_image.numpy().astype(float), ctx.weight)
        return None, torch.from_numpy(slope).to(z.dtype), None


def image(screen: Screen, z: torch.Tensor, weight: np.ndarray | None = None) -> torch.Tensor:
    """What a `betatron.losses.Screen` sees of particles, coordinates of shape (6, n) on the CPU: a tensor of shape
    (pixels in y, pixels in x), differentiable by the coordinates. ``weight``: of the particles, shape (n,); default:
    1/n each."""
    if not isinstance(z, torch.Tensor) or z.device.type != "cpu":
        raise TypeError("image: z must be a tensor on the CPU")
    if z.ndim != 2 or z.shape[0] != 6:
        raise ValueError(f"image: z must have the shape (6, n), got {tuple(z.shape)}")
    return _Image.apply(screen, z, weight)
