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
    RectangularPipe,
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
        Of the splitting into kicks; NaN where it cannot be estimated: `steps_unknown` says why.
    mesh_bound
        (transverse, longitudinal): where the error of the mesh is hidden in the noise, what it is
        not larger than; `mesh` is then that of a Gaussian beam. NaN where it was measured.
    """

    mesh: tuple[float, float]
    noise: tuple[float, float]
    steps: float
    mesh_bound: tuple[float, float] = (math.nan, math.nan)
    steps_unknown: str = ""

    @property
    def total(self) -> float:
        """Root of the sum of the squares, the worse of transverse and longitudinal, without the
        steps if their error is unknown."""
        kick = max(math.hypot(m, n) for m, n in zip(self.mesh, self.noise, strict=True))
        return kick if math.isnan(self.steps) else math.hypot(kick, self.steps)


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
    fits
        Whether what is proposed fits into memory, and into the ``memory_limit`` of the model.
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
    fits: bool

    def __str__(self) -> str:
        def grid(model: SpaceCharge) -> str:
            cells = getattr(model, "cells", None)
            return "none" if cells is None else " x ".join(map(str, cells))

        def bins(model: SpaceCharge) -> str:
            return str(getattr(model, "bins", ""))

        def percent(error: float) -> str:
            return "unknown" if math.isnan(error) else f"{100 * error:.2g}"

        def percents(errors: tuple[float, float]) -> str:
            return " / ".join(map(percent, errors))

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
                    percents(getattr(self.errors, name)),
                    percents(getattr(self.proposed_errors, name)),
                )
            )
        for name in ("steps", "total"):
            rows.append(
                (
                    f"error of {name} [%]" if name == "steps" else "error in total [%]",
                    percent(getattr(self.errors, name)),
                    percent(getattr(self.proposed_errors, name)),
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
        for name, bound in zip(("transverse", "longitudinal"), self.errors.mesh_bound, strict=True):
            if not math.isnan(bound):
                lines.append(
                    f"the {name} error of the mesh is below the noise: < {100 * bound:.2g} %; that "
                    "of a Gaussian beam is shown"
                )
        if self.errors.steps_unknown:
            lines.append(f"error of steps unknown: {self.errors.steps_unknown}")
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
    half their ``bins`` likewise (1/3 of the change): that is the longitudinal error of their mesh.
    Where it is below the noise, the error of a Gaussian beam is taken, and what was measured with
    the noise in it is the bound: on cells of h, with the mean over the axes u = (h/sigma)^2, it is
    about c u (1 + 7 u), c = 0.6 (linear), 0.85 (quadratic), 0.95 (cubic); of slices, (bin/sigma_t)^2/3.

    The error of the steps is that of an envelope with linear space charge, tracked with the chosen
    kicks and with four times as many; it is unknown where there is no such envelope (a beam without
    extent in one direction, elements without derivatives).

    Proposed are cells, with which the error of the mesh falls as above (they never become fewer
    where it is below the noise), bins, with whose square it falls, particles, with the
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
    if not _fits(space_charge, len(beam), beam, available):
        solver = space_charge.memory(len(beam), beam.precision)
        most = _limit(space_charge)
        raise MemoryError(
            f"the run needs {memory / 1e9:.3g} GB: {len(beam)} particles "
            f"{(memory - solver) / 1e9:.3g} GB, {space_charge!r} {solver / 1e9:.3g} GB; "
            f"there are {available / 1e9:.3g} GB"
            + (f", and its memory_limit is {most / 1e9:.3g} GB" if most < math.inf else "")
        )

    part = _thinned(_inside(beam, space_charge), limit)
    mesh, bound, noise, seconds = _kick_errors(part, space_charge, threads)
    share = math.sqrt(len(part) / len(beam))
    noise = (noise[0] * share, noise[1] * share)
    steps, unknown = _step_error(line, beam, space_charge, max(1, min(turns, 10)))
    chosen = KickErrors(mesh, noise, steps, bound, unknown)
    kicks = _kick_count(line, space_charge.spacing)

    # each of the three gets an equal share of the error
    each = wanted / math.sqrt(3.0)
    sliced = _has_bins(space_charge)
    measured = all(math.isnan(b) for b in (bound[:1] if sliced else bound))
    proposed, finer, fall = _with_cells(
        space_charge,
        part,
        (mesh[0] if sliced else max(mesh)) / each,
        fewest=0.25 if measured else 1.0,
    )
    proposed, longer = _with_bins(proposed, mesh[1] / each) if sliced else (proposed, finer)
    root = math.sqrt(finer) if len(getattr(space_charge, "cells", ())) == 3 else 1.0
    noise_there = (noise[0] * root, noise[1] * (longer**1.5 if sliced else root))
    particles = _rounded(len(beam) * (max(noise_there) / each) ** 2)
    order = space_charge.order
    factor = min(4.0, max(1 / 64, (each / steps) ** (1 / order) if steps > 0 else 4.0))
    if kicks > 0 and not unknown and not (1.0 <= factor < 1.25):
        spacing = _spacing(line, space_charge) * factor
        # most elements may be shorter than the longest piece: so many kicks, not a spacing, halve
        # the error
        while factor < 1.0 and _kick_count(line, spacing) < kicks / factor:
            spacing *= 0.9
        proposed = dataclasses.replace(proposed, spacing=spacing)
    proposed_kicks = _kick_count(line, proposed.spacing)
    fewer = math.sqrt(len(beam) / particles)
    predicted = KickErrors(
        (mesh[0] / fall, mesh[1] / (longer**2 if sliced else fall)),
        (noise_there[0] * fewer, noise_there[1] * fewer),
        steps if kicks == 0 else steps * (kicks / max(1, proposed_kicks)) ** order,
        steps_unknown=unknown,
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
        fits=_fits(proposed, particles, beam, available),
    )


# --- memory ---------------------------------------------------------------------------------------


def _beam_memory(particles: int, beam: Beam) -> float:
    """Bytes of seven columns and the ids."""
    return particles * (7.0 * beam.x.itemsize + 8.0)


def _memory(model: SpaceCharge, particles: int, beam: Beam) -> float:
    return _beam_memory(particles, beam) + model.memory(particles, beam.precision)


def _limit(model: SpaceCharge) -> float:
    """Bytes that the solver may take."""
    return getattr(model, "memory_limit", None) or math.inf


def _fits(model: SpaceCharge, particles: int, beam: Beam, available: float) -> bool:
    solver = model.memory(particles, beam.precision)
    return _memory(model, particles, beam) <= available and solver <= _limit(model)


def _available(beam: Beam) -> float:
    return _core.available_memory() + _beam_memory(len(beam), beam)


# --- kicks ----------------------------------------------------------------------------------------


def _part(beam: Beam, which: Any, share: float = 1.0) -> Beam:
    """A copy of some particles, their weights multiplied by `share`."""
    from betatron.beam import Beam as NewBeam

    columns = {name: np.array(beam[name][which]) for name in ("x", "px", "y", "py", "t", "pt")}
    weight = np.array(beam.weight[which])
    weight *= weight.dtype.type(share)
    return NewBeam.from_arrays(beam.reference, **columns, weight=weight)


def _inside(beam: Beam, model: SpaceCharge) -> Beam:
    """The particles within the pipe: tracking loses the others at its first kick."""
    pipe = getattr(model, "pipe", None)
    if pipe is None:
        return beam
    x, y = (np.asarray(beam[name], dtype=np.float64) for name in "xy")
    if isinstance(pipe, RectangularPipe):
        inside = (np.abs(x) <= pipe.half_width) & (np.abs(y) <= pipe.half_height)
    else:
        inside = np.sqrt(x * x + y * y) <= pipe.radius
    if inside.all():
        return beam
    if inside.sum() < 100:
        raise ValueError(
            f"advise: {inside.sum()} particles within {pipe!r} are too few for an estimate; "
            "allowed: >= 100"
        )
    return _part(beam, inside)


def _thinned(beam: Beam, limit: int) -> Beam:
    """Every n-th particle, with the charge of all."""
    step = -(-len(beam) // limit)
    if step == 1:
        return beam
    which = slice(None, None, step)
    kept = float(np.sum(beam.weight[which], dtype=np.float64))
    total = float(np.sum(beam.weight, dtype=np.float64))
    return _part(beam, which, total / kept if kept > 0 else 1.0)


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
) -> tuple[tuple[float, float], tuple[float, float], tuple[float, float], float]:
    """(mesh, bound, noise, seconds per kick); transverse and longitudinal errors."""
    first = np.random.default_rng(1).random(len(beam)) < 0.5
    weight = np.array(beam.weight, dtype=np.float64)
    total = weight.sum()
    work = beam.copy()
    other, factor = _other_grid(model, beam)
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

    groups = (slice(0, 2), slice(2, 3))
    size = np.mean((at_grid[0] + at_grid[1]) ** 2 / 4, axis=1)

    def relative(square: np.ndarray, group: slice) -> float:
        of, unit = float(square[group].sum()), float(size[group].sum())
        return math.sqrt(max(of, 0.0) / unit) if unit > 0 else 0.0

    noise = np.mean((at_grid[0] - at_grid[1]) ** 2 / 4, axis=1)
    mesh, bound = [0.0, 0.0], [math.nan, math.nan]
    if other is not None:
        change = [a - b for a, b in zip(at_grid, at_other, strict=True)]
        product = np.mean(change[0] * change[1], axis=1)
        of_noise = np.mean((change[0] - change[1]) ** 2 / 4, axis=1)
        for i, group in enumerate(groups):
            # the mean product of the noise of two halves is 0 only on average
            if product[group].sum() > of_noise[group].sum() or of_noise[group].sum() == 0:
                mesh[i] = factor[i] * relative(product, group)
                continue
            bound[i] = factor[i] * relative(product + of_noise, group)
            sliced = i == 1 and _has_bins(model)
            smooth = _smooth_bin_error(beam, model) if sliced else _smooth_cell_error(beam, model)
            mesh[i] = min(smooth, bound[i])
    return (
        (mesh[0], mesh[1]),
        (bound[0], bound[1]),
        (relative(noise, groups[0]), relative(noise, groups[1])),
        seconds,
    )


def _other_grid(model: SpaceCharge, beam: Beam) -> tuple[SpaceCharge | None, tuple[float, float]]:
    """The model on twice the cells, or on half of them, and with half its bins; and what the
    transverse and the longitudinal difference are to be multiplied by to be the error of the given
    one, for second order."""
    cells = getattr(model, "cells", None)
    changed: dict[str, Any] = {}
    factor = 1.0 / 3.0
    if cells is not None:
        changed["cells"] = tuple(max(8, n // 2) for n in cells)
        twice = tuple(2 * n for n in cells)
        if max(twice) <= 4096 and math.prod(twice) <= _MOST_NODES:
            finer: Any = dataclasses.replace(model, cells=twice)  # type: ignore[call-arg]
            if _fits(finer, len(beam), beam, _available(beam)):
                changed["cells"], factor = twice, 4.0 / 3.0
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


def _cells_over_sigma(beam: Beam, model: Any) -> float:
    """The mean over the axes of (edge of a cell/sigma)^2, of those along which the beam is
    extended."""
    moments = beam.moments()
    pipe = getattr(model, "pipe", None)
    squares = []
    for name, n in zip("xyt", model.cells, strict=False):
        sigma = float(moments[f"sigma_{name}"])
        extent = float(moments[f"max_{name}"] - moments[f"min_{name}"]) * model.margin
        if name != "t" and isinstance(pipe, RectangularPipe):
            extent = 2 * (pipe.half_width if name == "x" else pipe.half_height)
        if sigma > 0:
            squares.append((extent / n / sigma) ** 2)
    return sum(squares) / len(squares) if squares else 0.0


def _smooth_error(square: float) -> float:
    """How the error of a Gaussian beam grows with the square of cells over sigma, 0.05 ... 0.7."""
    return square * (1 + 7 * square)


def _smooth_cell_error(beam: Beam, model: Any) -> float:
    """Of the kick of a Gaussian beam."""
    shape = {"linear": 0.6, "quadratic": 0.85, "cubic": 0.95}[model.shape]
    return shape * _smooth_error(_cells_over_sigma(beam, model))


def _with_cells(
    model: SpaceCharge, beam: Beam, ratio: float, fewest: float
) -> tuple[SpaceCharge, float, float]:
    """The model with cells for an error that is `ratio` times smaller, but not fewer than `fewest`
    times those; the factor of cells that this takes, and the one that the error falls by."""
    cells = getattr(model, "cells", None)
    if cells is None:
        return model, 1.0, 1.0
    square = _cells_over_sigma(beam, model)

    def fall(factor: float) -> float:
        there = _smooth_error(square / factor**2)
        return _smooth_error(square) / there if there > 0 else factor**2

    factors = np.geomspace(fewest, 16.0, 400)
    enough = [float(f) for f in factors if fall(float(f)) >= ratio * (1 - 1e-9)]
    factor = enough[0] if enough else 16.0
    chosen = []
    for n in cells:
        fitting = [fast for fast in _FAST if fast >= n * factor * (1 - 1e-9)]
        chosen.append(fitting[0] if fitting else _FAST[-1])
    finer = min(new / old for new, old in zip(chosen, cells, strict=True))
    proposed: Any = dataclasses.replace(model, cells=tuple(chosen))  # type: ignore[call-arg]
    return proposed, finer, fall(finer)


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


def _step_error(line: Line, beam: Beam, model: SpaceCharge, turns: int) -> tuple[float, str]:
    """Largest relative error of a beam size along the line; NaN and why, where it is unknown."""
    pieces = _pieces(line)
    charge = beam.charge
    current = model.current if isinstance(model, SpaceCharge2D) else None
    if not pieces or not (charge if current is None else current):
        return 0.0, ""
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

    try:
        coarse, exact = sizes(model.spacing), sizes(fine)
    except (ValueError, TypeError, NotImplementedError) as error:
        return math.nan, f"there is no envelope of this run ({error})"
    ratio = 4.0**model.order
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.abs(coarse - exact) / np.abs(exact)
    return float(np.nanmax(relative, initial=0.0)) * ratio / (ratio - 1.0), ""
