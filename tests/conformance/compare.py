"""Particle-by-particle comparison of one case, and how a difference scales."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import betatron as bt
import numpy as np
from adapters import NAMES, Adapter, betatron, rereferenced
from cases import (
    Case,
    Values,
    draw_alignment,
    draw_parameters,
    draw_particles,
    draw_reference,
)  # fmt: skip


def generator(case: Case, seed: int) -> np.random.Generator:
    """The same numbers in every run and on every machine, whatever other cases there are."""
    return np.random.default_rng([seed, zlib.crc32(repr(case.key).encode())])


def draw_values(case: Case, ref: bt.Reference, rng: np.random.Generator) -> Values:
    values = draw_parameters(case.kind, case.parameters, rng, ref)
    if case.aligned:
        values |= draw_alignment(rng, case.rigid)
    return case.restrict(values, ref)


def both(
    case: Case, adapter: Adapter, ref: bt.Reference, values: Values, z: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates (6, n) behind the element, by Betatron and by the other code."""
    element = getattr(bt, case.kind)(**{"model": case.model, **case.options, **values})
    ours, beam = betatron(ref, element, z)
    context = {"beta": ref.beta, "beta_gamma": ref.beta_gamma, "total_energy": ref.total_energy}
    track = adapter.linear if case.derivative else adapter.track
    theirs = track(ref, case.element(values | context), case.length(values), z)
    return ours, rereferenced(theirs, ref, beam.reference)


def relative_difference(ours: np.ndarray, theirs: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Largest difference of each coordinate over the largest value it takes, shape (6,).

    A particle that one code loses and the other does not is a difference of 1 in every coordinate.
    """
    lost = np.isnan(ours[0])
    if np.any(lost != np.isnan(theirs[0])):
        return np.ones(6)
    if np.all(lost):
        return np.zeros(6)
    scale = np.maximum(np.abs(z).max(axis=1), np.abs(ours[:, ~lost]).max(axis=1))
    return np.abs(ours - theirs)[:, ~lost].max(axis=1) / np.where(scale > 0, scale, 1)


def deviation(case: Case, adapter: Adapter, draws: int, particles: int) -> np.ndarray:
    """`relative_difference` over several random elements, references and sets of particles."""
    rng = generator(case, 1)
    worst = np.zeros(6)
    for _ in range(draws):
        ref = draw_reference(adapter.species, case.beta_gamma, rng)
        values = draw_values(case, ref, rng)
        z = draw_particles(ref, particles, rng)
        worst = np.maximum(worst, relative_difference(*both(case, adapter, ref, values, z), z))
    return worst


@dataclass(frozen=True)
class Law:
    """The difference in `column` is proportional to a power of what is varied.

    vary, still: any of "amplitude" (x, px, y, py), "energy" (pt), single coordinates,
    "beta_gamma", "slices", "steps", parameters and displacements, separated by spaces. What is in
    `still` is zero for the measurement, so that one cause acts alone; `start` is the factor on
    what is varied with which the measurement begins, `amplified` one on x, px, y, py all along
    (where the difference would drown in rounding).
    """

    vary: str
    power: float
    column: str
    still: str = ""
    start: float = 1.0
    amplified: float = 1.0

    tolerance = 0.15

    def measure(
        self, case: Case, adapter: Adapter, draws: int = 12, wanted: int = 4
    ) -> tuple[float, float]:
        """Smallest and largest exponent between `start` and half of it, over random elements
        for which the difference is above rounding; NaN if there is none."""
        found: list[float] = []
        rng = generator(case, 2)
        ref = bt.Reference(adapter.species[0], beta_gamma=max(1.5, case.beta_gamma[0]))
        for _ in range(draws):
            values = draw_values(case, ref, rng)
            z = draw_particles(ref, 40, rng)
            z[:4] *= self.amplified
            whole, half = (
                self._difference(case, adapter, ref, values, z, self.start * f) for f in (1.0, 0.5)
            )
            if min(whole, half) > 5e-15 / ref.beta:
                found.append(float(np.log2(whole / half)))
            if len(found) == wanted:
                break
        return (min(found), max(found)) if found else (np.nan, np.nan)

    def holds(self, exponents: tuple[float, float]) -> bool:
        return all(abs(e - self.power) <= self.tolerance for e in exponents)

    def _difference(
        self,
        case: Case,
        adapter: Adapter,
        ref: bt.Reference,
        values: Values,
        z: np.ndarray,
        factor: float,
    ) -> float:
        for name in self.still.split():
            ref, values, z = scaled(name, 0.0, ref, values, z)
        for name in self.vary.split():
            ref, values, z = scaled(name, factor, ref, values, z)
        ours, theirs = both(case, adapter, ref, values, z)
        return float(np.nanmax(np.abs(ours - theirs)[NAMES.index(self.column)]))

    def __str__(self) -> str:
        varied = self.vary.replace(" ", ", ")
        fixed = f" (without {self.still.replace(' ', ', ')})" if self.still else ""
        large = f", {self.amplified:g} times the amplitude" if self.amplified != 1 else ""
        return f"{self.column}: power {self.power:g} of {varied}{fixed}{large}"


def scaled(
    name: str, factor: float, ref: bt.Reference, values: Values, z: np.ndarray
) -> tuple[bt.Reference, Values, np.ndarray]:
    """One of the things that a law varies, times a factor."""
    columns = {"amplitude": [0, 1, 2, 3], "energy": [5]}.get(name)
    if columns is None and name in NAMES:
        columns = [NAMES.index(name)]
    if columns is not None:
        z = z.copy()
        z[columns] *= factor
        return ref, values, z
    if name == "beta_gamma":
        return bt.Reference(ref.species, beta_gamma=ref.beta_gamma * factor), values, z
    if name in ("slices", "steps"):
        return ref, values | {name: round({"slices": 4, "steps": 16}[name] * factor)}, z
    if name in ("dx", "dy", "roll") and name not in values:
        return ref, values, z
    return ref, values | {name: values[name] * factor}, z
