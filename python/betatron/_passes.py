"""What the functions of PyTorch and of JAX share: a line with numbers that vary, tracked forward and
pulled back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from betatron import _core
from betatron._checks import bucket, thread_count, whole
from betatron.beam import COORDINATES, Beam, Reference, check_reference
from betatron.collective import Effect, warn_of_effects
from betatron.elements import Element
from betatron.gradient import check_strategy, effects_of, numbers_of, single_knob, turned
from betatron.radiation import Radiation, check_radiation
from betatron.space_charge import SpaceCharge

if TYPE_CHECKING:
    from betatron.line import Line


class Passes:
    """Tracking as a function of coordinates, of numbers of elements, and of the energy; arguments
    as those of `betatron.torch.track`. Raises for those that are not allowed."""

    def __init__(
        self,
        line: Line,
        reference: Reference,
        names: Iterable[tuple[str | Element, str]],
        *,
        strategy: str,
        tolerance: float | None,
        threads: int | None,
        mark_lost: bool,
        weight: np.ndarray | None,
        space_charge: SpaceCharge | None,
        collective: Effect | Iterable[Effect],
        turns: int,
        radiation: Radiation | None,
        boundary: str,
        bucket_length: float | None,
    ) -> None:
        if not isinstance(line, _core.Line):
            raise TypeError(f"track: line must be a betatron.Line, got {type(line).__name__}")
        check_reference(reference, "track")
        self.line, self.reference = line, reference
        self.chosen = [single_knob(line, name) for name in names]
        different = {(id(k.element), k.parameter, k.entry) for k in self.chosen}
        if len(different) < len(self.chosen):
            raise ValueError(
                "track: two of the parameters are the same number: "
                + ", ".join(f"{k.element.name!r} {k.name}" for k in self.chosen)
            )
        self.tolerance = check_strategy(strategy, tolerance)
        if strategy == "forward":
            raise ValueError("track: strategy = 'forward' has no reverse pass")
        self.strategy, self.mark_lost = strategy, bool(mark_lost)
        self.weight = (
            None if weight is None else np.array(weight)
        )  # the reverse pass needs the same
        self.threads = thread_count(threads)
        self.turns = whole(turns, "turns", 2**31 - 1, 1)
        check_radiation(radiation)
        self.surroundings = radiation, boundary, bucket(boundary, bucket_length)
        self.space_charge = space_charge
        self.collective = collective if isinstance(collective, Effect) else list(collective)
        effects_of(line, space_charge, self.collective)

    def forward(
        self, z: np.ndarray, values: Sequence[float], kinetic_energy: float | None
    ) -> tuple[_core.Gradient, np.ndarray]:
        """Tracks coordinates z, shape (6, n), without copying them; what the reverse pass starts
        from, and the coordinates at the end, in its memory."""
        reference = self.reference
        if kinetic_energy is not None:
            reference = Reference(
                reference.species,
                kinetic_energy=kinetic_energy,
                s=reference.s,
                t=reference.t,
                position=reference.position,
                frame=reference.frame,
            )
        weight = None if self.weight is None else np.ascontiguousarray(self.weight, z.dtype)
        columns = dict(zip(COORDINATES, z, strict=True))
        beam = Beam.from_arrays(reference, **columns, weight=weight, copy=False)
        effects = effects_of(self.line, self.space_charge, self.collective)
        learned = self.line._watch_learned()
        with turned(self.chosen, values):
            run = _core.Gradient(
                self.line,
                beam,
                numbers_of(self.chosen),
                kinetic_energy is not None,
                [],
                False,
                self.threads,
                effects,
                self.turns,
                *self.surroundings,
            )
        learned()  # warns
        warn_of_effects(effects)
        final = run.final
        if self.mark_lost:
            final[:, run.lost] = np.nan
        return run, final

    def pull(
        self, run: _core.Gradient, by_final: np.ndarray, *, initial: bool, in_place: bool = False
    ) -> tuple[np.ndarray | None, np.ndarray, float]:
        """Derivatives by the initial coordinates (if wanted), by the numbers, and by the energy
        [1/eV]; ``in_place``: the final coordinates are overwritten."""
        r = run.pull(
            np.zeros((0, 6)),
            np.zeros((0, 6, 6)),
            np.zeros(0),
            by_particles=by_final,
            initial=initial,
            in_place=in_place,
            strategy=self.strategy,
            tolerance=self.tolerance,
        )
        return r["initial"], r["knobs"], r["kinetic"] / self.reference.species.mass
