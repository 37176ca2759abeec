"""Derivatives of losses on moments that are tracked as such (``Line.envelope``); see
docs/gradients.md."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from betatron import _core
from betatron.beam import Reference, check_reference
from betatron.distributions import Distribution
from betatron.gradient import (
    HessianVector,
    KnobDerivatives,
    LossPlaces,
    Objective,
    Parameters,
    by_moments,
    knobs,
    numbers_of,
)
from betatron.losses import Loss, Moments, NoSecondDerivative

if TYPE_CHECKING:
    from betatron.line import Line
    from betatron.space_charge import SpaceChargeEnvelope


class EnvelopeGradient(KnobDerivatives):
    """What `Line.envelope_gradient` gives. With a list of n losses, ``value`` and all derivatives
    have one more axis in front, of length n.

    Attributes
    ----------
    value
        The loss.
    knobs
        The numbers that were varied.
    derivatives
        Of the loss by the knobs, shape (len(knobs),); also as ``gradient["q1", "k1"]``, by element
        or name.
    covariance
        Derivatives by the covariance at the start, shape (6, 6), symmetric: the loss changes by the
        sum of ``covariance * change``.
    mean
        Derivatives by the centroid at the start, shape (6,); None if not wanted.
    reference_energy
        Derivative by the kinetic energy of the reference at the start [1/eV], at a fixed covariance
        (whose coordinates are relative to it); None if not wanted.
    charge
        Derivative by the charge of the bunch [1/C], for space charge in three dimensions, else 0.
    current
        Derivative by the current of the beam [1/A], for space charge in two dimensions, else 0.
    end
        (mean, covariance) at the end of the line.
    """

    value: Any
    covariance: np.ndarray
    mean: np.ndarray | None
    reference_energy: Any
    charge: Any
    current: Any
    end: tuple[np.ndarray, np.ndarray]

    def __repr__(self) -> str:
        return f"EnvelopeGradient: loss {self.value}, {len(self.knobs)} derivatives"


class _Terms(LossPlaces):
    """Losses on moments that are tracked as such."""

    def __init__(self, line: Line, losses: Sequence[Loss]) -> None:
        super().__init__(line, losses)
        if any(places is None for terms in self.losses for _, places in terms):
            raise ValueError(
                "envelope_gradient: an envelope has no particles; use losses on moments"
            )

    def __call__(self, run: _core.EnvelopeGradient) -> list[tuple[float, np.ndarray]]:
        """Each loss and its derivatives by mean, covariance and energy of each record, shape
        (records, 43)."""
        element, kinetic, mean, cov = run.records()
        rows = {int(e): i for i, e in enumerate(element)}
        rows[self.end] = len(element) - 1
        made: dict[int, Moments] = {}
        results = []
        for terms in self.losses:
            value, slopes = 0.0, np.zeros((len(element), 43))
            for term, places in terms:
                for place in places or ():
                    row = rows[place]
                    if row not in made:
                        made[row] = Moments(mean[row], cov[row], kinetic[row])
                    value += self.take(term, made[row], slopes[row])
            self.check_finite(value, slopes)
            results.append((value, slopes))
        return results


def envelope_gradient(
    line: Line,
    reference: Reference,
    start: Distribution | np.ndarray,
    loss: Loss | Sequence[Loss],
    parameters: Parameters = (),
    *,
    mean: Sequence[float] | None = None,
    initial_mean: bool = False,
    reference_energy: bool = False,
    space_charge: SpaceChargeEnvelope | None = None,
    charge: float | None = None,
) -> EnvelopeGradient:
    """See `Line.envelope_gradient`."""
    check_reference(reference, "envelope_gradient")
    if not isinstance(loss, Iterable) and not isinstance(loss, Loss):
        raise TypeError(f"loss must be a betatron.losses.Loss or a list of them, got {loss!r}")
    single = isinstance(loss, Loss)
    losses = [loss] if isinstance(loss, Loss) else list(loss)
    if not losses:
        raise ValueError("envelope_gradient: there is no loss")
    centroid, covariance, effects, coulomb = line._moments_at_start(
        "envelope_gradient", start, mean, space_charge, charge
    )
    chosen = knobs(line, parameters)
    terms = _Terms(line, losses)
    run = _core.EnvelopeGradient(
        line,
        reference,
        centroid.tolist(),
        covariance.ravel().tolist(),
        numbers_of(chosen),
        bool(reference_energy),
        bool(initial_mean),
        terms.flags,
        terms.start,
        effects,
        coulomb,
    )
    values, pulls = [], []
    for value, slopes in terms(run):
        values.append(value)
        pulls.append(run.pull(**by_moments(slopes)))

    def together(numbers: list[Any]) -> Any:
        return numbers[0] if single else np.array(numbers)

    _, _, means, covariances = run.records()
    mass = reference.species.mass
    return EnvelopeGradient(
        value=together(values),
        knobs=chosen,
        derivatives=together([p["knobs"] for p in pulls]),
        covariance=together([p["covariance"] for p in pulls]),
        mean=together([p["mean"] for p in pulls]) if initial_mean else None,
        reference_energy=together([p["kinetic"] / mass for p in pulls])
        if reference_energy
        else None,
        charge=together([p["charge"] for p in pulls]),
        current=together([float(p["strengths"].sum()) for p in pulls]),
        end=(means[-1], covariances[-1]),
    )


class EnvelopeObjective(Objective):
    """A loss on tracked moments as a function of a vector of parameters, for optimisers; as
    `Objective`.

    With a list of losses, ``fun`` gives their vector and ``jac`` their Jacobian, as
    ``scipy.optimize.least_squares`` takes them:

    >>> # scipy.optimize.least_squares(objective.fun, objective.x0, objective.jac)  doctest: +SKIP

    Parameters
    ----------
    line, reference, start, loss, parameters, options
        As for `Line.envelope_gradient`.
    scale
        As for `Objective`.
    """

    def __init__(
        self,
        line: Line,
        reference: Reference,
        start: Distribution | np.ndarray,
        loss: Loss | Sequence[Loss],
        parameters: Parameters,
        *,
        scale: float | Sequence[float] = 1.0,
        **options: Any,
    ) -> None:
        self.reference, self.start = reference, start
        super().__init__(line, None, loss, parameters, scale=scale, **options)  # type: ignore[arg-type]

    def _sharp_options(self) -> dict[str, Any]:
        return {}  # nothing is rewound

    def _epsilon(self) -> float:
        return 2.0**-52

    def _exact(self, direction: np.ndarray) -> HessianVector:
        raise NoSecondDerivative("moments are tracked, not particles")

    def _gradient(self) -> EnvelopeGradient:  # type: ignore[override]
        return envelope_gradient(
            self.line, self.reference, self.start, self.loss, self.knobs, **self.options
        )
