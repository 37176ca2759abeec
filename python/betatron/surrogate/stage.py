"""The map of a plasma stage whose parameters come from a small network: the model itself, in NumPy.

A laser-driven plasma stage is symmetric about its axis, and an electron in it feels a central force
towards the axis. So angular momentum x py - y px is conserved, and whatever the wake looks like,
the transverse map is a *real* 2x2 matrix of determinant 1, the same for (x, px) and (y, py):

    (x2, px2) = M (x1, px1),    (y2, py2) = M (y1, py1),    det M = 1,

with numbers in M that depend on the particle only by what a rotation leaves as it is. Those are the
five *features* here (momenta in m c, gamma the energy over m c^2, b = 1/sqrt(K gamma) the matched
length over momentum in a focusing strength K [1/m^2]):

    xi,  1/sqrt(gamma),  w (x^2 + y^2)/b,  w (px^2 + py^2) b,  w (x px + y py),
    w = 1/sqrt(1 + ((x^2 + y^2)/b + (px^2 + py^2) b)/A).

A is a tenth of the mean amplitude of the training particles: w makes features above it grow like
the amplitude and not like its square, without which few particles, far out and near the axis, are
learned badly. A dense network (tanh) makes seven numbers of them, h, ln e1, a1, ln e2, a2, dgamma,
dxi, and

    gamma2 = gamma1 + dgamma,    xi2 = xi1 + dxi,
    phase  = 2 sqrt(K) L / (sqrt(gamma1) + sqrt(gamma2)) + h,
    M = S2 R(phase) S1,  S1 = (e1/sqrt(b1), 0; a1 e1/sqrt(b1), sqrt(b1)/e1),
                         S2 = (e2 sqrt(b2), 0; -a2/(e2 sqrt(b2)), 1/(e2 sqrt(b2))).

The first term of the phase, and b1, b2, are the WKB solution of x'' = -K x/gamma with gamma growing
linearly: phase advance and adiabatic damping are exact in it, a hundred radians and more, and the
network learns what is left, a few radians that vary slowly. S1 and S2 are what Courant and Snyder's
form has at the two ends (beta and alpha of the wake).

Coordinates are those of a simulation at a fixed time: x, y, xi [m], px, py, pz [m c], with
xi = z - c T (head of the beam at larger xi), the laser at xi = 0, so xi < 0 behind it.

Source of the form: E. D. Courant, H. S. Snyder, Ann. Phys. 3 (1958) 1, eq. 3.10 ff (M);
E. Esarey et al., Phys. Rev. E 65 (2002) 056505, sec. II (betatron motion with acceleration).
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from betatron.surrogate.tensors import read_tensors, write_tensors

FEATURES = ("xi", "gamma^-1/2", "w r^2/b", "w p^2 b", "w r.p")
OUTPUTS = ("phase", "ln e1", "a1", "ln e2", "a2", "dgamma", "dxi")
KIND = "plasma_stage"
FORMAT = "betatron-surrogate-1"


def plasma_stage_files() -> list[Path]:
    """Files of the fifteen trained stages that come with the package, the first first: laser-plasma
    stages of 28 cm, from 1 GeV to above 100 GeV; see the documentation on plasma surrogates."""
    return sorted(
        (Path(__file__).parents[1] / "data" / "plasma_stages").glob("stage_*.safetensors")
    )


def _rows(particles: Any) -> np.ndarray:
    """Particles as float64 of shape (n, 6). ValueError for another shape."""
    rows = np.asarray(particles, np.float64)
    if rows.ndim != 2 or rows.shape[1] != 6:
        raise ValueError(f"particles have shape {rows.shape}, wanted (n, 6)")
    return rows


def invariants(columns, focusing: float, xp=np):
    """What a rotation about the axis leaves as it is, of particles x, y, xi, px, py, pz (arrays of
    shape (n,)): the tuple xi, 1/sqrt(gamma), (x^2 + y^2)/b, (px^2 + py^2) b, x px + y py; b =
    1/sqrt(K gamma); and gamma. `xp`: numpy or torch."""
    x, y, xi, px, py, pz = columns
    p2 = px * px + py * py
    gamma = xp.sqrt(1.0 + p2 + pz * pz)
    slow = 1.0 / xp.sqrt(gamma)
    b = slow / focusing**0.5
    return (xi, slow, (x * x + y * y) / b, p2 * b, x * px + y * py), b, gamma


def features(columns, focusing: float, amplitude: float, xp=np):
    """The five features (a tuple of arrays), b, gamma; `amplitude` is A."""
    (xi, slow, r2, p2, rp), b, gamma = invariants(columns, focusing, xp)
    w = 1.0 / xp.sqrt(1.0 + (r2 + p2) / amplitude)
    return (xi, slow, w * r2, w * p2, w * rp), b, gamma


def actions(particles: np.ndarray, focusing: float) -> np.ndarray:
    """(x^2 + y^2)/b + (px^2 + py^2) b [m] of particles of shape (n, 6): twice the sum of the two
    actions, shape (n,)."""
    f = invariants(_rows(particles).T, focusing)[0]
    return f[2] + f[3]


def head(outputs, columns, b, gamma, focusing: float, length: float, xp=np):
    """The particles behind the stage, x, y, xi, px, py, gamma, from the seven numbers that the
    network gives for each. A gain that would leave gamma <= 1 gives NaN."""
    h, ln_e1, a1, ln_e2, a2, dgamma, dxi = outputs
    x, y, xi, px, py, _ = columns
    gamma2 = gamma + dgamma
    b2 = 1.0 / xp.sqrt(focusing * gamma2)
    phase = 2.0 * focusing**0.5 * length / (xp.sqrt(gamma) + xp.sqrt(gamma2)) + h
    cos, sin = xp.cos(phase), xp.sin(phase)
    e1 = xp.exp(ln_e1) / xp.sqrt(b)
    e2 = xp.exp(ln_e2) * xp.sqrt(b2)

    def plane(q, p):
        u = q * e1
        v = p / e1 + a1 * u
        u, v = cos * u + sin * v, cos * v - sin * u
        return u * e2, (v - a2 * u) / e2

    x2, px2 = plane(x, px)
    y2, py2 = plane(y, py)
    return x2, y2, xi + dxi, px2, py2, gamma2


@dataclasses.dataclass(frozen=True)
class Domain:
    """Where a model has seen particles, in its features: bounds of each, and an ellipsoid.

    lower, upper: arrays of shape (5,), the least and greatest value of each feature.
    centre: (5,) mean, whitening: (5, 5) matrix W with |W (f - centre)|^2 = the squared Mahalanobis
    distance. limit: the largest distance of a particle inside.
    """

    lower: np.ndarray
    upper: np.ndarray
    centre: np.ndarray
    whitening: np.ndarray
    limit: float

    @classmethod
    def of(cls, f: np.ndarray, share: float = 0.999) -> Domain:
        """The domain of features `f` of shape (n, 5): bounds are those of all, the ellipsoid holds
        the given share of them."""
        centre = f.mean(axis=0)
        whitening = np.tril(np.linalg.inv(np.linalg.cholesky(np.cov(f.T))))
        distance = np.linalg.norm((f - centre) @ whitening.T, axis=1)
        return cls(
            f.min(axis=0), f.max(axis=0), centre, whitening, float(np.quantile(distance, share))
        )

    def distance(self, f: np.ndarray) -> np.ndarray:
        """Mahalanobis distance of features of shape (n, 5) from the centre."""
        return np.linalg.norm((f - self.centre) @ self.whitening.T, axis=1)

    def outside(self, f: np.ndarray) -> np.ndarray:
        """Which of the features of shape (n, 5) the model has not been trained for. Amplitudes
        below the least one are inside: the axis is in the symmetry of the map."""
        low = f < self.lower
        low[:, 2:4] = False
        return (low | (f > self.upper)).any(axis=1) | ~(self.distance(f) <= self.limit)


@dataclasses.dataclass(frozen=True)
class Residuals:
    """Errors on particles kept out of training, by distance from the centre of the domain.

    distance: upper edges of the bins, shape (m,). transverse: rms of the error of (u, v) = (x/sqrt
    b2, px sqrt b2) over the particle's own amplitude; energy: rms error of gamma; xi: rms [m].
    """

    distance: np.ndarray
    transverse: np.ndarray
    energy: np.ndarray
    xi: np.ndarray

    def weights(self, distance: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """What particles at these distances weigh in each bin; beyond the last bin is in the
        last."""
        bins = np.minimum(np.searchsorted(self.distance, distance), len(self.distance) - 1)
        return np.bincount(bins, weight, len(self.distance))

    def expected(self, weights: np.ndarray) -> dict[str, float]:
        """rms errors of one particle, "transverse", "gamma", "xi", of particles that have these
        weights in the bins. NaN if they weigh nothing: nothing is known of them."""
        total = weights.sum()
        share = weights / total if total > 0 else np.full(len(weights), np.nan)
        return {
            name: float(np.sqrt((share * of**2).sum()))
            for name, of in (
                ("transverse", self.transverse),
                ("gamma", self.energy),
                ("xi", self.xi),
            )
        }


@dataclasses.dataclass(frozen=True)
class StageModel:
    """A trained plasma stage. `apply` maps particles; `save`, `load` a file of it.

    length: of the stage [m]. focusing, amplitude: K [1/m^2] and A [m] of the formulas above. xi:
    position of the reference particle in the wake [m]. weights, biases: of the dense layers, shape
    (out, in), (out,). Features are (f - feature_mean)/feature_scale, outputs o output_scale +
    output_mean. gain: of the physics model for particles outside the domain, gamma2 - gamma1 =
    gain . (1, xi - xi_mean, (xi - xi_mean)^2) on the mean way of the training particles, and
    `fallback` its first five outputs; see `physics`.
    """

    length: float
    focusing: float
    amplitude: float
    xi: float
    weights: tuple[np.ndarray, ...]
    biases: tuple[np.ndarray, ...]
    feature_mean: np.ndarray
    feature_scale: np.ndarray
    output_mean: np.ndarray
    output_scale: np.ndarray
    domain: Domain
    residuals: Residuals
    gain: np.ndarray
    fallback: np.ndarray
    provenance: dict[str, Any]

    def features(self, particles: np.ndarray) -> np.ndarray:
        """Features of particles of shape (n, 6): an array of shape (n, 5)."""
        columns = _rows(particles).T
        return np.stack(features(columns, self.focusing, self.amplitude)[0], axis=1)

    def network(self, f: np.ndarray) -> np.ndarray:
        """The seven numbers of each particle, shape (n, 7), from features of shape (n, 5)."""
        h = (f - self.feature_mean) / self.feature_scale
        for w, b in zip(self.weights[:-1], self.biases[:-1], strict=True):
            h = np.tanh(h @ w.T + b)
        return (h @ self.weights[-1].T + self.biases[-1]) * self.output_scale + self.output_mean

    def physics(self, f: np.ndarray) -> np.ndarray:
        """What stands in for the network outside its domain, shape (n, 7).

        A particle of the amplitude a = (x^2 + y^2)/b + (px^2 + py^2) b that oscillates goes a
        longer way. With gamma that grows linearly, and <px^2 + py^2> = a/(2b),

            dxi = -integral (1 + <px^2 + py^2>)/(2 gamma^2) = -k a/(u v (u + v)) - L/(2 u^2 v^2),
            k = sqrt(K) L/2,  u = sqrt(gamma1),  v = sqrt(gamma2).

        So it comes to other places in the wake: its gain is a parabola, fitted to the training
        particles, in the mean of xi over the stage, which is late by k (a - 10 A)/(u (u + v)^2)
        against those particles, whose mean amplitude is 10 A. Beyond their xi the gain is constant.
        The other outputs are the means over the training particles.
        """

        def parabola(xi: np.ndarray) -> np.ndarray:
            d = np.clip(xi, self.domain.lower[0], self.domain.upper[0]) - self.feature_mean[0]
            return self.gain[0] + d * (self.gain[1] + d * self.gain[2])

        swing = f[:, 2] + f[:, 3]  # a/sqrt(1 + a/A)
        half = swing / (2 * self.amplitude)
        a = swing * (half + np.sqrt(half**2 + 1))
        u = 1 / f[:, 1]
        v = np.sqrt(u**2 + parabola(f[:, 0]))
        k = self.focusing**0.5 * self.length / 2
        o = np.tile(self.fallback, (len(f), 1))
        o[:, 5] = parabola(f[:, 0] - k * (a - 10 * self.amplitude) / (u * (u + v) ** 2))
        o[:, 6] = -k * a / (u * v * (u + v)) - self.length / (2 * (u * v) ** 2)
        return o

    def apply(self, particles: np.ndarray, outside: str = "warn") -> np.ndarray:
        """Particles behind the stage, x, y, xi, px, py, pz, of shape (n, 6), from those in front of
        it. `outside`: "warn" takes the network everywhere, "fallback" the physics model for
        particles outside the domain."""
        if outside not in ("warn", "fallback"):
            raise ValueError(f"outside = {outside!r} must be 'warn' or 'fallback'")
        particles = _rows(particles)
        f, b, gamma = features(particles.T, self.focusing, self.amplitude)
        f = np.stack(f, axis=1)
        o = self.network(f)
        if outside == "fallback":
            away = self.domain.outside(f)
            o[away] = self.physics(f[away])
        x, y, xi, px, py, gamma2 = head(o.T, particles.T, b, gamma, self.focusing, self.length)
        pz = np.sqrt(gamma2**2 - 1.0 - px**2 - py**2)
        return np.stack((x, y, xi, px, py, pz), axis=1)

    def operations(self) -> int:
        """Multiplications and additions of the dense layers per particle."""
        return 2 * sum(w.size for w in self.weights)

    def expected_error(
        self, particles: np.ndarray, weight: np.ndarray | None = None
    ) -> dict[str, float]:
        """What is to be expected of particles of shape (n, 6) in front of the stage.

        Parameters
        ----------
        particles
            Finite numbers, else ValueError.
        weight
            Of each particle, shape (n,); default: all the same.

        Returns
        -------
        How many particles "passed", and how many of them were "outside" the domain; and the rms
        error of one particle *inside*, from residuals of held-out particles at the same distance
        from the centre of the domain: "transverse" (of its place over its own amplitude), "gamma",
        "xi" [m]. Of particles outside, and with the physics model, no error is known: the three
        are NaN if there are no others. They are 0 without particles.
        """
        particles = _rows(particles)
        weight = np.ones(len(particles)) if weight is None else np.asarray(weight, np.float64)
        if not np.isfinite(particles).all():
            raise ValueError("particles hold NaN or infinity")
        f = self.features(particles)
        inside = ~self.domain.outside(f)
        weights = self.residuals.weights(self.domain.distance(f)[inside], weight[inside])
        return self.report(len(f), int((~inside).sum()), weights)

    def report(self, passed: int, outside: int, weights: np.ndarray) -> dict[str, float]:
        """The result of `expected_error` for so many particles, with these weights of those inside
        in the bins of residuals."""
        expected = self.residuals.expected(weights)
        if passed == 0:
            expected = dict.fromkeys(expected, 0.0)
        return {"passed": passed, "outside": outside, **expected}

    def save(self, path: str | Path) -> None:
        """Write a safetensors file (weights in single precision, the rest in double)."""
        tensors: dict[str, np.ndarray] = {}
        for i, (w, b) in enumerate(zip(self.weights, self.biases, strict=True)):
            tensors[f"layers.{i}.weight"] = w.astype(np.float32)
            tensors[f"layers.{i}.bias"] = b.astype(np.float32)
        for name in (
            "feature_mean",
            "feature_scale",
            "output_mean",
            "output_scale",
            "gain",
            "fallback",
        ):
            tensors[name] = np.asarray(getattr(self, name), np.float64)
        for group in ("domain", "residuals"):
            for name, value in vars(getattr(self, group)).items():
                tensors[f"{group}.{name}"] = np.asarray(value, np.float64)
        meta = {
            "format": FORMAT,
            "kind": KIND,
            "activation": "tanh",
            "length": repr(self.length),
            "focusing": repr(self.focusing),
            "amplitude": repr(self.amplitude),
            "xi": repr(self.xi),
            "provenance": json.dumps(self.provenance),
        }
        write_tensors(path, tensors, meta)

    @classmethod
    def load(cls, path: str | Path) -> StageModel:
        """Read a file that `save` wrote. ValueError names the file and what is wrong in it."""
        tensors, meta = read_tensors(path)
        if meta.get("format") != FORMAT or meta.get("kind") != KIND:
            raise ValueError(
                f"{path}: not a plasma stage (format {meta.get('format')!r}, kind "
                f"{meta.get('kind')!r}; wanted {FORMAT!r}, {KIND!r})"
            )

        def take(name: str, shape: tuple[int, ...] | None = None) -> np.ndarray:
            if name not in tensors:
                raise ValueError(f"{path}: tensor {name!r} is missing")
            value = tensors[name].astype(np.float64)
            if shape is not None and value.shape != shape:
                raise ValueError(f"{path}: {name} has shape {value.shape}, wanted {shape}")
            if not np.isfinite(value).all():
                raise ValueError(f"{path}: {name} holds NaN or infinity")
            return value

        def number(name: str) -> float:
            try:
                value = float(meta[name])
            except (KeyError, ValueError) as e:
                raise ValueError(f"{path}: {name} is missing or not a number") from e
            if not np.isfinite(value):
                raise ValueError(f"{path}: {name} = {value} must be finite")
            return value

        try:
            provenance = json.loads(meta.get("provenance", "{}"))
        except ValueError as e:
            raise ValueError(f"{path}: provenance is no JSON: {e}") from e
        if not isinstance(provenance, dict):
            raise ValueError(f"{path}: provenance is a {type(provenance).__name__}, no object")
        layers = 0
        while f"layers.{layers}.weight" in tensors:
            layers += 1
        if layers == 0:
            raise ValueError(f"{path}: tensor 'layers.0.weight' is missing")
        weights, biases, inputs = [], [], len(FEATURES)
        for i in range(layers):
            w = take(f"layers.{i}.weight")
            wanted = len(OUTPUTS) if i == layers - 1 else (w.shape[0] if w.ndim == 2 else 0)
            if w.ndim != 2 or w.shape[1] != inputs or w.shape[0] != wanted:
                raise ValueError(
                    f"{path}: layers.{i}.weight has shape {w.shape}, wanted "
                    f"({wanted or 'n'}, {inputs})"
                )
            weights.append(w)
            biases.append(take(f"layers.{i}.bias", (w.shape[0],)))
            inputs = w.shape[0]
        if meta.get("activation") != "tanh":
            raise ValueError(f"{path}: activation = {meta.get('activation')!r} must be 'tanh'")
        five, seven = (len(FEATURES),), (len(OUTPUTS),)
        domain = Domain(
            take("domain.lower", five),
            take("domain.upper", five),
            take("domain.centre", five),
            take("domain.whitening", five + five),
            float(take("domain.limit", ())),
        )
        edges = take("residuals.distance")
        if edges.ndim != 1 or len(edges) == 0:
            raise ValueError(f"{path}: residuals.distance has shape {edges.shape}, wanted (n,)")
        residuals = Residuals(
            edges, *(take(f"residuals.{n}", edges.shape) for n in ("transverse", "energy", "xi"))
        )
        for n in ("transverse", "energy", "xi"):
            if getattr(residuals, n).min() < 0:
                raise ValueError(f"{path}: residuals.{n} holds negative numbers")
        feature_scale = take("feature_scale", five)
        if not feature_scale.all():
            raise ValueError(f"{path}: feature_scale holds 0")
        return cls(
            number("length"),
            number("focusing"),
            number("amplitude"),
            number("xi"),
            tuple(weights),
            tuple(biases),
            take("feature_mean", five),
            feature_scale,
            take("output_mean", seven),
            take("output_scale", seven),
            domain,
            residuals,
            take("gain", (3,)),
            take("fallback", seven),
            provenance,
        )
