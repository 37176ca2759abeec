"""Synchrotron radiation of tracked particles."""

from __future__ import annotations

from dataclasses import dataclass

from betatron._checks import whole

_LARGEST_SEED = 2**64 - 1


@dataclass(frozen=True)
class Radiation:
    """How particles radiate while they are tracked: for ``Line.track(beam, radiation=...)``.

    Every magnet with a length radiates, by the curvature that its field gives to the orbit of each particle; a
    slice radiates in as many steps as its element has ``steps``. Thin kicks and cavities do not. The photons are
    incoherent, leave along the momentum, and are not followed.

    Parameters
    ----------
    model
        "mean": each particle loses what it radiates on average. "quantum": with fluctuations, Gaussian with the
        variance of the emission of photons. The random numbers depend on the seed, the id of the particle, the
        turn and the place in the line, and on nothing else: not on threads, nor on how a run is cut.
    order
        Terms of the mean and the variance in chi = (beta gamma)^2 lambda_c/rho, 1 (classical) to 3. The series
        is meant for chi << 0.1.
    reference
        Whether the reference particle radiates too, at the end of every slice: coordinates are then relative to
        what is left of its momentum, and the fields of bends follow it.
    seed
        Of the fluctuations, 0 to 2^64 - 1.

    Raises
    ------
    TypeError, ValueError
        Naming the value and what is allowed.

    Sources: M. Sands, SLAC-121 (1970), sec. 5; V. B. Berestetskii, E. M. Lifshitz, L. P. Pitaevskii, Quantum
    Electrodynamics (1982), sec. 90; F. Niel et al., Phys. Rev. E 97 (2018) 043209.
    """

    model: str = "mean"
    order: int = 1
    reference: bool = False
    seed: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.model, str):
            raise TypeError(f"Radiation: model must be text, got {self.model!r}")
        if self.model not in ("mean", "quantum"):
            raise ValueError(f"Radiation: model = {self.model!r} must be 'mean' or 'quantum'")
        object.__setattr__(self, "order", whole(self.order, "Radiation: order", 3, 1))
        if not isinstance(self.reference, bool):
            raise TypeError(f"Radiation: reference must be True or False, got {self.reference!r}")
        object.__setattr__(self, "seed", whole(self.seed, "Radiation: seed", _LARGEST_SEED))


def check_radiation(radiation: Radiation | None) -> None:
    """Raises TypeError unless it is a model or None."""
    if radiation is not None and not isinstance(radiation, Radiation):
        raise TypeError(f"radiation must be a betatron.Radiation or None, got {radiation!r}")
