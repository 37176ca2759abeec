"""What the numbers of a space charge run should be, and how good those are that were chosen."""

from __future__ import annotations

import dataclasses
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from betatron import _core
from betatron._checks import number, whole
from betatron.space_charge import (
    SpaceCharge,
    SpaceCharge2D,
    SpaceChargeEnvelope,
)

if TYPE_CHECKING:
    from betatron.beam import Beam
    from betatron.line import Line

# Sizes that transforms are fast for: even, of the factors 2, 3 and 5.
_FAST = sorted(
    n
    for n in (2 ** (a + 1) * 3**b * 5**c for a in range(12) for b in range(8) for c in range(6))
    if 16 <= n <= 4096
)
_MOST_NODES = 2**24  # of a grid for the estimate
_MOST_KICKS = 100_000  # of an envelope for the estimate


@dataclass(frozen=True)
class KickErrors:
    """Relative errors, estimated: rms of the error of a kick over rms of the kick (transverse and
    longitudinal), and the largest relative error of a beam size along the line that comes from the
    splitting.

    mesh, noise
        (transverse, longitudinal): of the finite cells, and of the finite number of particles.
    steps
        Of the splitting into kicks.
    """

    mesh: tuple[float, float]
    noise: tuple[float, float]
    steps: float

    @property
    def total(self) -> float:
        """Root of the sum of the squares, the worse of transverse and longitudinal."""
        kick = max(math.hypot(m, n) for m, n in zip(self.mesh, self.noise, strict=True))
        return math.hypot(kick, self.steps)


@dataclass(frozen=True)
class Advice:
    """What `advise` found; ``print(advice)`` shows it as a table.

    Attributes
    ----------
    model, particles
        As given.
    errors
        Estimated ones of these, `KickErrors`.
    kicks
        Kicks in one passage of the line.
    seconds
        What the kicks of the run will take, about, from the time of a sample kick on this machine.
    memory, available
        Bytes that beam and solver need, and bytes that there are (with what the beam has already).
    proposed_model, proposed_particles, proposed_errors, proposed_kicks, proposed_memory
        The same for what is proposed: enough for the wanted error, and not much more.
    """

    model: SpaceCharge
    particles: int
    errors: KickErrors
    kicks: int
    seconds: float
    memory: float
    available: float
    proposed_model: SpaceCharge
    proposed_particles: int
    proposed_errors: KickErrors
    proposed_kicks: int
    proposed_memory: float

    @property
    def fits(self) -> bool:
        """Whether what is proposed fits into memory."""
        return self.proposed_memory <= self.available

    def __str__(self) -> str:
        def grid(model: SpaceCharge) -> str:
            cells = getattr(model, "cells", None)
            return "none" if cells is None else " x ".join(map(str, cells))

        def bins(model: SpaceCharge) -> str:
            return str(getattr(model, "bins", ""))

        def percent(errors: tuple[float, float]) -> str:
            return " / ".join(f"{100 * e:.2g}" for e in errors)

        rows = [("", "chosen", "proposed")]
        rows.append(("grid", grid(self.model), grid(self.proposed_model)))
        if _has_bins(self.model):
            rows.append(("bins", bins(self.model), bins(self.proposed_model)))
        rows.append(("particles", f"{self.particles}", f"{self.proposed_particles}"))
        rows.append(("kicks per passage", f"{self.kicks}", f"{self.proposed_kicks}"))
        for name in ("mesh", "noise"):
            rows.append(
                (
                    f"error of {name}, transverse / longitudinal [%]",
                    percent(getattr(self.errors, name)),
                    percent(getattr(self.proposed_errors, name)),
                )
            )
        for name in ("steps", "total"):
            rows.append(
                (
                    f"error of {name} [%]" if name == "steps" else "error in total [%]",
                    f"{100 * getattr(self.errors, name):.2g}",
                    f"{100 * getattr(self.proposed_errors, name):.2g}",
                )
            )
        rows.append(
            ("memory [MB]", f"{self.memory / 1e6:.3g}", f"{self.proposed_memory / 1e6:.3g}")
        )
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        lines = [
            "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        lines.append(
            f"kicks take about {self.seconds:.3g} s; {self.available / 1e9:.3g} GB are there"
        )
        if not self.fits:
            lines.append("what is proposed does NOT fit into memory")
        return "\n".join(lines)


def advise(
    line: Line,
    beam: Beam,
    space_charge: SpaceCharge,
    *,
    error: float = 0.01,
    turns: int = 1,
    sample: int = 1_000_000,
    threads: int | None = None,
) -> Advice:
    """Estimate the errors and the memory of a run with space charge before it starts, and propose
    better numbers.

    Parameters
    ----------
    line, beam, space_charge, turns
        Of ``line.track(beam, turns, space_charge=space_charge)``; none of them is changed.
    error
        Wanted relative error in total, 1e-4 ... 0.5.
    sample
        At most so many particles are taken for the estimate, >= 1000 (a larger beam is thinned out;
        its noise is scaled).
    threads
        As for ``Line.track``.

    The errors of a kick are measured on the beam at the start of the line. The beam is cut at
    random into two halves A and B, each with the whole charge; all particles are kicked by either,
    on the chosen grid and on one with twice the cells (half of them, if that is too large). With K
    the kicks and D their difference between the two grids, the mean square of ``(K_A - K_B)/2`` is
    that of the noise of the whole beam, and the mean of ``D_A D_B``, from which independent noise
    drops out, the square of the systematic change, whose 4/3 is the error of a solver of second
    order (L. F. Richardson, Phil. Trans. A 210, 307 (1911)). Models with slices are compared with
    half their ``bins`` likewise (1/3 of the change): that is the longitudinal error of their mesh;
    where it is hidden in the noise, that of a Gaussian bunch is taken, (bin/sigma_t)^2/3.

    The error of the steps is that of an envelope with linear space charge, tracked with the chosen
    kicks and with four times as many.

    Proposed are cells and bins, with whose square the error of the mesh falls, particles, with the
    root of whose number the noise falls (it grows with the root of the cells per axis in three
    dimensions, the longitudinal one of slices with the power 3/2 of the bins), and a spacing of
    kicks, each for ``error/sqrt(3)``. What the model itself leaves out (a Gaussian model of another
    beam, slices of equal profile) is no part of the estimate. It does not know of wakes, CSR,
    scattering and beam-beam: check those by doubling their ``bins`` and the particles.

    Raises
    ------
    MemoryError
        If the run as chosen does not fit into memory; the message says what it needs and what there
        is.
    TypeError, ValueError
        For wrong arguments, and where the model cannot take the beam.
    """
    from betatron.beam import Beam as AnyBeam

    if not isinstance(beam, AnyBeam):
        raise TypeError(f"advise() needs a betatron.Beam, got {type(beam).__name__}")
    if not isinstance(space_charge, SpaceCharge) or isinstance(space_charge, SpaceChargeEnvelope):
        raise TypeError(
            f"advise() needs a model of space charge for particles, got {space_charge!r}"
        )
    wanted = number(error, "advise: error")
    if not 1e-4 <= wanted <= 0.5:
        raise ValueError(f"advise: error = {wanted} is not allowed; allowed: 1e-4 ... 0.5")
    turns = whole(turns, "advise: turns", 10**12)
    limit = whole(sample, "advise: sample", 2**40)
    if limit < 1000:
        raise ValueError(f"advise: sample = {sample} is not allowed; allowed: >= 1000")
    if len(beam) < 100:
        raise ValueError(
            f"advise: {len(beam)} particles are too few for an estimate; allowed: >= 100"
        )

    memory, available = _memory(space_charge, len(beam), beam), _available(beam)
    if memory > available:
        solver = space_charge.memory(len(beam), beam.precision)
        raise MemoryError(
            f"the run needs {memory / 1e9:.3g} GB: {len(beam)} particles "
            f"{(memory - solver) / 1e9:.3g} GB, {space_charge!r} {solver / 1e9:.3g} GB; "
            f"there are {available / 1e9:.3g} GB"
        )

    part = _thinned(beam, limit)
    mesh, noise, seconds = _kick_errors(part, space_charge, threads)
    share = math.sqrt(len(part) / len(beam))
    noise = (noise[0] * share, noise[1] * share)
    steps = _step_error(line, beam, space_charge, max(1, min(turns, 10)))
    chosen = KickErrors(mesh, noise, steps)
    kicks = _kick_count(line, space_charge.spacing)

    # each of the three gets an equal share of the error
    each = wanted / math.sqrt(3.0)
    sliced = _has_bins(space_charge)
    if sliced and mesh[1] < noise[1]:  # hidden in the noise
        mesh = (mesh[0], _smooth_bin_error(beam, space_charge))
        chosen = KickErrors(mesh, noise, steps)
    proposed, finer = _with_cells(space_charge, (mesh[0] if sliced else max(mesh)) / each)
    proposed, longer = _with_bins(proposed, mesh[1] / each) if sliced else (proposed, finer)
    root = math.sqrt(finer) if len(getattr(space_charge, "cells", ())) == 3 else 1.0
    noise_there = (noise[0] * root, noise[1] * (longer**1.5 if sliced else root))
    particles = _rounded(len(beam) * (max(noise_there) / each) ** 2)
    order = space_charge.order
    factor = min(4.0, max(1 / 64, (each / steps) ** (1 / order) if steps > 0 else 4.0))
    if kicks > 0 and not (1.0 <= factor < 1.25):
        spacing = _spacing(line, space_charge) * factor
        # most elements may be shorter than the longest piece: so many kicks, not a spacing, halve
        # the error
        while factor < 1.0 and _kick_count(line, spacing) < kicks / factor:
            spacing *= 0.9
        proposed = dataclasses.replace(proposed, spacing=spacing)
    proposed_kicks = _kick_count(line, proposed.spacing)
    fewer = math.sqrt(len(beam) / particles)
    predicted = KickErrors(
        (mesh[0] / finer**2, mesh[1] / longer**2),
        (noise_there[0] * fewer, noise_there[1] * fewer),
        steps if kicks == 0 else steps * (kicks / max(1, proposed_kicks)) ** order,
    )
    return Advice(
        model=space_charge,
        particles=len(beam),
        errors=chosen,
        kicks=kicks,
        seconds=seconds * len(beam) / len(part) * kicks * turns,
        memory=memory,
        available=available,
        proposed_model=proposed,
        proposed_particles=particles,
        proposed_errors=predicted,
        proposed_kicks=proposed_kicks,
        proposed_memory=_memory(proposed, particles, beam),
    )


# --- memory ---------------------------------------------------------------------------------------


def _beam_memory(particles: int, beam: Beam) -> float:
    """Bytes of seven columns and the ids."""
    return particles * (7.0 * beam.x.itemsize + 8.0)


def _memory(model: SpaceCharge, particles: int, beam: Beam) -> float:
    return _beam_memory(particles, beam) + model.memory(particles, beam.precision)


def _available(beam: Beam) -> float:
    return _core.available_memory() + _beam_memory(len(beam), beam)


# --- kicks ----------------------------------------------------------------------------------------


def _thinned(beam: Beam, limit: int) -> Beam:
    """Every n-th particle, with the charge of all."""
    from betatron.beam import Beam as NewBeam

    step = -(-len(beam) // limit)
    if step == 1:
        return beam
    columns = {name: np.array(beam[name][::step]) for name in ("x", "px", "y", "py", "t", "pt")}
    weight = np.array(beam.weight[::step])
    total = float(np.sum(beam.weight, dtype=np.float64))
    kept = float(np.sum(weight, dtype=np.float64))
    if kept > 0:
        weight *= weight.dtype.type(total / kept)
    return NewBeam.from_arrays(beam.reference, **columns, weight=weight)


def _kicks(beam: Beam, model: SpaceCharge, threads: int | None) -> tuple[np.ndarray, float]:
    """(dpx, dpy, dpt) of one kick for 1 m, shape (3, n), and the seconds it took."""
    for name in ("px", "py", "pt"):
        beam[name][:] = 0
    start = time.perf_counter()
    model.kick(beam, 1.0, threads=threads)
    seconds = time.perf_counter() - start
    return np.array([beam[name] for name in ("px", "py", "pt")], dtype=np.float64), seconds


def _kick_errors(
    beam: Beam, model: SpaceCharge, threads: int | None
) -> tuple[tuple[float, float], tuple[float, float], float]:
    """((mesh), (noise), seconds per kick); transverse and longitudinal errors."""
    first = np.random.default_rng(1).random(len(beam)) < 0.5
    weight = np.array(beam.weight, dtype=np.float64)
    total = weight.sum()
    work = beam.copy()
    other, factor = _other_grid(model)
    at_grid, at_other = [], []
    seconds = math.inf
    for half in (first, ~first):
        share = np.where(half, weight, 0.0)
        kept = share.sum()
        work.weight[:] = share * (total / kept if kept > 0 else 0.0)
        kick, took = _kicks(work, model, threads)
        seconds = min(seconds, took)
        at_grid.append(kick)
        if other is not None:
            at_other.append(_kicks(work, other, threads)[0])
    mean = (at_grid[0] + at_grid[1]) / 2
    noise = (at_grid[0] - at_grid[1]) / 2
    if at_other:
        product = (at_grid[0] - at_other[0]) * (at_grid[1] - at_other[1])
        change = np.array([factor[0], factor[0], factor[1]]) ** 2 * np.mean(product, axis=1)
    else:
        change = np.zeros(3)
    size = np.mean(mean**2, axis=1)
    square = np.mean(noise**2, axis=1)

    def relative(part: np.ndarray) -> tuple[float, float]:
        groups = (slice(0, 2), slice(2, 3))
        values = [(float(part[g].sum()), float(size[g].sum())) for g in groups]
        x, t = (math.sqrt(max(p, 0.0) / s) if s > 0 else 0.0 for p, s in values)
        return x, t

    return relative(change), relative(square), seconds


def _other_grid(model: SpaceCharge) -> tuple[SpaceCharge | None, tuple[float, float]]:
    """The model on twice the cells, or on half of them, and with half its bins; and what the
    transverse and the longitudinal difference are to be multiplied by to be the error of the given
    one, for second order."""
    cells = getattr(model, "cells", None)
    changed: dict[str, Any] = {}
    factor = 1.0 / 3.0
    if cells is not None:
        twice = tuple(2 * n for n in cells)
        if max(twice) <= 4096 and math.prod(twice) <= _MOST_NODES:
            changed["cells"], factor = twice, 4.0 / 3.0
        else:
            changed["cells"] = tuple(max(8, n // 2) for n in cells)
    if not _has_bins(model):
        return (dataclasses.replace(model, **changed) if changed else None), (factor, factor)
    changed["bins"] = max(4, model.bins // 2)
    return dataclasses.replace(model, **changed), (factor, 1.0 / 3.0)


def _has_bins(model: SpaceCharge) -> bool:
    """Whether slices matter to it."""
    return (
        hasattr(model, "bins")
        and getattr(model, "dimension", "2.5D") == "2.5D"
        and bool(getattr(model, "longitudinal", True))
    )


def _smooth_bin_error(beam: Beam, model: Any) -> float:
    """Of the slope of a Gaussian line density: the linear shape and the central difference, one
    sixth each."""
    moments = beam.moments()
    step = (moments["max_t"] - moments["min_t"]) / (model.bins - 1)
    return float((step / moments["sigma_t"]) ** 2 / 3.0) if moments["sigma_t"] > 0 else 0.0


def _with_bins(model: Any, ratio: float) -> tuple[SpaceCharge, float]:
    """The model with bins for an error that is `ratio` times smaller, and the factor of bins that
    this takes."""
    bins = round(min(20000, max(16, model.bins * min(16.0, max(1 / 16, math.sqrt(ratio))))))
    return dataclasses.replace(model, bins=bins), bins / model.bins


def _with_cells(model: SpaceCharge, ratio: float) -> tuple[SpaceCharge, float]:
    """The model with cells for an error that is `ratio` times smaller, and the factor of cells that
    this takes."""
    cells = getattr(model, "cells", None)
    if cells is None:
        return model, 1.0
    factor = min(16.0, max(0.25, math.sqrt(ratio)))
    chosen = []
    for n in cells:
        fitting = [fast for fast in _FAST if fast >= n * factor * (1 - 1e-9)]
        chosen.append(fitting[0] if fitting else _FAST[-1])
    return dataclasses.replace(model, cells=tuple(chosen)), min(
        new / old for new, old in zip(chosen, cells, strict=True)
    )


def _rounded(count: float) -> int:
    """Two digits, upwards; at least 1000."""
    count = min(max(count, 1000.0), 1e15)
    unit = 10 ** (math.floor(math.log10(count)) - 1)
    return int(math.ceil(count / unit - 1e-9) * unit)


# --- steps ----------------------------------------------------------------------------------------


def _pieces(line: Line) -> list[tuple[float, int]]:
    """(length, slices) of the elements that get kicks."""
    found = ((abs(float(e.length)) if hasattr(e, "length") else 0.0, int(e.slices)) for e in line)
    return [(length, slices) for length, slices in found if length > 0]


def _kick_count(line: Line, spacing: float | None) -> int:
    """Kicks in one passage; the rule of tracking/effect.cpp."""
    total = 0
    for length, slices in _pieces(line):
        if spacing is None:
            total += slices
            continue
        n = max(1, math.ceil(length / spacing * (1 - 1e-12)))
        if n > slices:
            total += -(-n // slices) * slices
        else:
            total += next(k for k in range(n, slices + 1) if slices % k == 0)
    return total


def _spacing(line: Line, model: SpaceCharge) -> float:
    """Largest distance of the kicks of a model."""
    if model.spacing is not None:
        return model.spacing
    return max((length / slices for length, slices in _pieces(line)), default=1.0)


def _step_error(line: Line, beam: Beam, model: SpaceCharge, turns: int) -> float:
    """Largest relative error of a beam size along the line."""
    pieces = _pieces(line)
    charge = beam.charge
    current = model.current if isinstance(model, SpaceCharge2D) else None
    if not pieces or not (charge if current is None else current):
        return 0.0
    length = sum(part for part, _ in pieces)
    smallest = min(min(model.spacing or math.inf, part / slices) for part, slices in pieces)
    fine = max(smallest / 4, length / _MOST_KICKS * turns)
    covariance = beam.covariance()
    mean = [beam.moments()[f"mean_{name}"] for name in ("x", "px", "y", "py", "t", "pt")]

    def sizes(spacing: float | None) -> np.ndarray:
        envelope = line.envelope(
            beam.reference,
            covariance,
            turns,
            mean=mean,
            record="all",
            space_charge=SpaceChargeEnvelope(
                "3D" if current is None else "2D",
                current=current,
                order=model.order,
                spacing=spacing,
            ),
            charge=charge,
        )
        columns = ["sigma_x", "sigma_y"] + (["sigma_t"] if current is None else [])
        return envelope.moments[columns].to_numpy()

    coarse, exact = sizes(model.spacing), sizes(fine)
    ratio = 4.0**model.order
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.abs(coarse - exact) / np.abs(exact)
    return float(np.nanmax(relative, initial=0.0)) * ratio / (ratio - 1.0)
