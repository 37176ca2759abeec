"""A trained plasma stage as an element of a lattice."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from betatron import _core, elements
from betatron._checks import number
from betatron._warnings import warn_of_domain
from betatron.fixed_time import to_fixed_time
from betatron.programmable import OneSlice
from betatron.surrogate.stage import StageModel, plasma_stage_files
from betatron.surrogate.tensors import alike

if TYPE_CHECKING:
    from betatron import Beam

_NOT_COMMON = {"kind", "length", "settings", "slices"}


class PlasmaStageSurrogate(OneSlice):
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
        "fallback": the physics model takes its place (acceleration that depends on the place in
        the wake, linear focusing, the slip of oscillating particles; see
        `betatron.surrogate.StageModel.physics`). "lose": they are lost, with the reason
        "outside_domain". "stop": tracking ends with a RuntimeError, with the whole beam in front of
        the stage.
    xi
        Position of the reference particle in the wake [m], behind the laser at 0, so < 0; by
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
            path = _path_of(model)
            if not path.suffix and not path.exists():
                raise FileNotFoundError(
                    f"PlasmaStageSurrogate: {str(model)!r} is no file and no stage of the "
                    f"package; those are {', '.join(f.stem for f in plasma_stage_files())}"
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
        if not -np.inf < xi < 0:
            raise ValueError(
                f"PlasmaStageSurrogate {name!r}: xi = {xi} m is not allowed; allowed: < 0, behind "
                "the laser"
            )
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
        super().__init__(
            length=model.length, name=name, push=core.code, reference=core.reference, **common
        )
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

    def __copy__(self) -> PlasmaStageSurrogate:
        return self.copy()

    def __deepcopy__(self, memo: dict[int, Any]) -> PlasmaStageSurrogate:
        return self.copy()  # models do not change

    def __reduce__(self) -> tuple[Any, ...]:
        return _made_again, (
            self._model,
            None if self._path is None else self._file,
            {"outside": self._outside, "xi": self._xi, **self._common()},
        )

    @property
    def _file(self) -> str:
        """The path of its file, for files and pickles; of those of the package the name."""
        return self._path.stem if self._path in plasma_stage_files() else str(self._path)

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
        """How many particles came since `reset_counts`, and how many of them were outside of what
        the stage was trained for. Gradients may take a beam through a stage several times."""
        return self._core_stage.counts[:2]

    def reset_counts(self) -> None:
        """Set both counts to 0."""
        self._core_stage.reset()

    def particles(self, beam: Beam) -> np.ndarray:
        """The beam in front of the stage in the coordinates of the model, x, y, xi [m], px, py, pz
        [m c] at a fixed time, shape (n, 6), about the reference orbit: without misalignments."""
        if not hasattr(beam, "reference"):
            raise TypeError(f"beam must be a betatron.Beam, got {type(beam).__name__}")
        ref = beam.reference
        x, y, z, px, py, pz = to_fixed_time(
            ref, [getattr(beam, c) for c in ("x", "px", "y", "py", "t", "pt")]
        )
        u = ref.beta_gamma
        return np.stack((x, y, z + self._xi, px * u, py * u, pz * u), axis=1)

    def expected_error(self, beam: Beam) -> dict[str, float]:
        """What errors on held-out particles say of this beam, in front of the stage, misaligned as
        it is, with the weights of the particles: what `Track.learned` says of it afterwards. See
        `StageModel.expected_error`. ValueError for coordinates that are not finite."""
        from betatron.line import Line

        if not hasattr(beam, "reference"):
            raise TypeError(f"beam must be a betatron.Beam, got {type(beam).__name__}")
        for c in ("x", "px", "y", "py", "t", "pt"):
            if not np.isfinite(getattr(beam, c)).all():
                raise ValueError(f"PlasmaStageSurrogate {self.name!r}: {c} holds NaN or infinity")
        twin = PlasmaStageSurrogate(self._model, outside="fallback", xi=self._xi, **self._common())
        report = Line([twin]).track(beam.copy(), progress=False, spin=False).learned
        return next(iter(report.values()))

    def __repr__(self) -> str:
        model = str(self._path) if self._path is not None else "a model in memory"
        return f"PlasmaStageSurrogate({model!r}, name={self.name!r}, outside={self._outside!r})"

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, PlasmaStageSurrogate)
            and (
                alike(vars(self._model), vars(other._model))
                or (self._path is not None and self._path == other._path)
            )
            and (self._outside, self._xi) == (other._outside, other._xi)
            and self._common() == other._common()
        )

    __hash__ = _core.Programmable.__hash__

    def _common(self) -> dict[str, Any]:
        plain = _core.Programmable.to_dict(self)
        return {k: v for k, v in plain.items() if k not in _NOT_COMMON}

    def _tally(self) -> tuple[int, int, np.ndarray]:
        passed, outside, weights = self._core_stage.counts
        return passed, outside, np.array(weights)

    def _report(self, before: tuple[int, int, np.ndarray]) -> dict[str, float]:
        """Of the particles since that tally; warns of those outside if that is the policy."""
        passed, outside, weights = (a - b for a, b in zip(self._tally(), before, strict=True))
        if outside > 0 and self._outside == "warn":
            warn_of_domain(
                f"PlasmaStageSurrogate {self.name!r}: {outside} of {passed} particles were outside "
                "of what it was trained for"
            )
        return self._model.report(passed, outside, weights)

    def to_dict(self) -> dict[str, Any]:
        """Its kind, file and parameters. ValueError if it was made from a model in memory."""
        if self._path is None:
            raise ValueError(
                f"PlasmaStageSurrogate {self.name!r}: its model is in no file; save it"
            )
        return {
            "kind": "PlasmaStageSurrogate",
            "model": self._file,
            "outside": self._outside,
            "xi": self._xi,
            **self._common(),
        }


def _made_again(
    model: StageModel, file: str | None, parameters: dict[str, Any]
) -> PlasmaStageSurrogate:
    made = PlasmaStageSurrogate(model, **parameters)
    if file is not None:
        made._path = _path_of(file)
    return made


def _path_of(file: str | Path) -> Path:
    """Where a model is, by its path or, of those of the package, its name."""
    own = {f.stem: f for f in plasma_stage_files()}
    return own.get(str(file), Path(file))


elements._classes["PlasmaStageSurrogate"] = PlasmaStageSurrogate
