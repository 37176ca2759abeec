"""A trained plasma stage as an element of a lattice."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from betatron import _core, elements
from betatron._checks import number
from betatron.fixed_time import to_fixed_time
from betatron.programmable import Programmable
from betatron.surrogate.stage import StageModel, plasma_stage_files

if TYPE_CHECKING:
    from betatron import Beam, Reference

_NOT_COMMON = {"kind", "length", "settings", "slices"}


class OutsideDomainWarning(UserWarning):
    """Particles went through a surrogate that was not trained for such particles."""


class PlasmaStageSurrogate(Programmable):
    """A plasma stage learned from a simulation.

    Parameters
    ----------
    model
        A file that `betatron.surrogate.StageModel.save` wrote, or such a model; or "stage_01" to
        "stage_15", those that come with the package (`betatron.surrogate.plasma_stage_files`).
    name
        Of the element; by default that of the file.
    outside
        What becomes of particles for which the stage was not trained. They are counted in any case.
        "warn": the network is taken all the same, and tracking ends with an `OutsideDomainWarning`.
        "fallback": the physics model takes its place (uniform acceleration that depends on the
        place in the wake, linear focusing). "lose": they are lost, with the reason
        "outside_domain". "stop": tracking ends with a RuntimeError.
    xi
        Position of the reference particle in the wake [m], behind the laser at 0, so negative; by
        default the median of the training particles.
    common
        Parameters that every element has: dx, dy, pitch, yaw, ...

    The reference particle gains what a particle on the axis at `xi` does. A stage is tracked as a
    whole, in one slice; electrons only.
    """

    def __init__(
        self,
        model: StageModel | str | Path,
        name: str = "",
        *,
        outside: str = "warn",
        xi: float | None = None,
        **common: Any,
    ) -> None:
        path = None
        if not isinstance(name, str):
            raise TypeError(
                f"PlasmaStageSurrogate: name must be a text, got {type(name).__name__} {name!r}"
            )
        if not isinstance(model, StageModel):
            if not isinstance(model, (str, Path)):
                raise TypeError(
                    f"PlasmaStageSurrogate {name!r}: model must be a StageModel, a file or the "
                    "name "
                    f"of a stage of the package, got {type(model).__name__}"
                )
            path = Path(model)
            if not path.suffix:
                own = {f.stem: f for f in plasma_stage_files()}
                path = own.get(str(model), path)
                if not path.exists():
                    raise FileNotFoundError(
                        f"PlasmaStageSurrogate: {str(model)!r} is no file and no stage of the "
                        f"package; those are {', '.join(own)}"
                    )
            model = StageModel.load(path)
        name = name or (path.stem if path is not None else "")
        if "slices" in common:
            raise TypeError(f"PlasmaStageSurrogate {name!r}: it has one slice")
        if "length" in common:
            raise TypeError(f"PlasmaStageSurrogate {name!r}: its length is that of the model")
        if not isinstance(outside, str):
            raise TypeError(
                f"PlasmaStageSurrogate {name!r}: outside must be a text, got {outside!r}"
            )
        xi = model.xi if xi is None else number(xi, f"PlasmaStageSurrogate {name!r}: xi")
        core = _core.PlasmaStageCode(
            name,
            model.length,
            model.focusing,
            model.amplitude,
            xi,
            {
                "weights": [np.ascontiguousarray(w, np.float64) for w in model.weights],
                "biases": [np.ascontiguousarray(b, np.float64) for b in model.biases],
                "feature_mean": model.feature_mean,
                "feature_scale": model.feature_scale,
                "output_mean": model.output_mean,
                "output_scale": model.output_scale,
            },
            {
                k: np.ascontiguousarray(getattr(model.domain, k))
                for k in ("lower", "upper", "centre", "whitening")
            },
            model.domain.limit,
            np.ascontiguousarray(model.residuals.distance),
            model.gain,
            float(model.feature_mean[0]),
            model.fallback,
            outside,
        )

        length = model.length

        def reference(ref: Reference, piece: _core.ReferencePiece) -> Reference:
            if abs(piece.length - length * (piece.end - piece.start)) > 1e-12 * length:
                raise ValueError(f"PlasmaStageSurrogate {name!r}: its length is {length} m, always")
            return core.advance(ref, piece.start, piece.end)

        super().__init__(length=length, name=name, push=core.code, reference=reference, **common)
        self._core_stage = core
        self._model = model
        self._path = path
        self._outside = outside
        self._xi = xi

    def copy(self) -> PlasmaStageSurrogate:
        """A stage of its own with the same model and parameters, and counts of its own."""
        made = PlasmaStageSurrogate(
            self._model, outside=self._outside, xi=self._xi, **self._common()
        )
        made._path = self._path
        return made

    @property
    def model(self) -> StageModel:
        """What it was made from."""
        return self._model

    @property
    def outside(self) -> str:
        """The policy for particles outside the domain."""
        return self._outside

    @property
    def xi(self) -> float:
        """Position of the reference particle in the wake [m]."""
        return self._xi

    @property
    def counts(self) -> tuple[int, int]:
        """How many particles passed since `reset_counts`, and how many of them were outside of what
        the stage was trained for."""
        return self._core_stage.counts[:2]

    def reset_counts(self) -> None:
        """Set both counts to 0."""
        self._core_stage.reset()

    def particles(self, beam: Beam) -> np.ndarray:
        """The beam in front of the stage in the coordinates of the model, x, y, xi [m], px, py, pz
        [m c] at a fixed time: shape (n, 6)."""
        if not hasattr(beam, "reference"):
            raise TypeError(f"beam must be a betatron.Beam, got {type(beam).__name__}")
        ref = beam.reference
        x, y, z, px, py, pz = to_fixed_time(
            ref, [getattr(beam, c) for c in ("x", "px", "y", "py", "t", "pt")]
        )
        u = ref.beta_gamma
        return np.stack((x, y, z + self._xi, px * u, py * u, pz * u), axis=1)

    def expected_error(self, beam: Beam) -> dict[str, float]:
        """What errors on held-out particles say of this beam, in front of the stage; see
        `StageModel.expected_error`."""
        return self._model.expected_error(self.particles(beam))

    def __repr__(self) -> str:
        model = str(self._path) if self._path is not None else "a model in memory"
        return f"PlasmaStageSurrogate({model!r}, name={self.name!r}, outside={self._outside!r})"

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, PlasmaStageSurrogate)
            and (
                self._model is other._model
                or (self._path is not None and self._path == other._path)
            )
            and (self._outside, self._xi) == (other._outside, other._xi)
            and self._common() == other._common()
        )

    __hash__ = _core.Programmable.__hash__

    def _common(self) -> dict[str, Any]:
        plain = _core.Programmable.to_dict(self)
        return {k: v for k, v in plain.items() if k not in _NOT_COMMON}

    def _tally(self) -> tuple[int, int, list[int]]:
        return self._core_stage.counts

    def _report(self, before: tuple[int, int, list[int]]) -> dict[str, float]:
        """Of the particles since that tally; warns of those outside if that is the policy."""
        now = self._tally()
        passed, outside = now[0] - before[0], now[1] - before[1]
        share = (np.array(now[2]) - np.array(before[2])) / max(passed, 1)
        r = self._model.residuals
        if outside > 0 and self._outside == "warn":
            warnings.warn(
                f"PlasmaStageSurrogate {self.name!r}: {outside} of {passed} particles were outside "
                "of what it was trained for",
                OutsideDomainWarning,
                stacklevel=3,
            )
        errors = {
            name: float(np.sqrt((share * getattr(r, field) ** 2).sum()))
            for name, field in (("transverse", "transverse"), ("gamma", "energy"), ("xi", "xi"))
        }
        return {"passed": passed, "outside": outside, **errors}

    def to_dict(self) -> dict[str, Any]:
        """Its kind, file and parameters. ValueError if it was made from a model in memory."""
        if self._path is None:
            raise ValueError(
                f"PlasmaStageSurrogate {self.name!r}: its model is in no file; save it"
            )
        return {
            "kind": "PlasmaStageSurrogate",
            "model": self._path.stem if self._path in plasma_stage_files() else str(self._path),
            "outside": self._outside,
            "xi": self._xi,
            **self._common(),
        }


elements._classes["PlasmaStageSurrogate"] = PlasmaStageSurrogate
