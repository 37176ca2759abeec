"""Laws that every element obeys whatever another code says, measured over random elements.

symplectic   |J^T S J - r S| over |J|^T |S| |J| + 1, r: ratio of the reference momenta
backward     tracked forward and back, over the coordinates carried along both ways
derivative   the forward-mode derivative against fourth-order differences of tracked particles, over
             the largest entry of the row
conjugation  opposite charge in opposite fields, over the coordinates
"""

from __future__ import annotations

import zlib
from typing import Any

import betatron as bt
import numpy as np
from adapters import betatron
from cases import Values, draw_particles, draw_reference, draw_value

LAWS = ("symplectic", "backward", "derivative", "conjugation")
MODELS = ("linear", "paraxial", "exact")
NOT_SYMPLECTIC = ("LinearMap", "TaylorMap")  # the user's own
NO_INVERSE = ("TaylorMap",)  # of degree 2 here
SPECIES = ("electron", "proton")
# in T, and of the ions of a plasma; the others act alike on all charges
FIELDS = ("gradient", "gradient_length", "field", "focusing")
OPPOSITE = {"electron": "positron", "proton": "antiproton"}

S = np.kron(np.eye(3), [[0.0, 1.0], [-1.0, 0.0]])


def draw_element(kind: str, rng: np.random.Generator, ref: bt.Reference) -> Values:
    """Random values of all numbers that have a typical size, and of all words."""
    values: Values = {}
    for p in bt.kinds()[kind]:
        if p["choices"] and p["name"] != "action":
            values[p["name"]] = str(rng.choice(p["choices"]))
        elif p["type"] in ("float", "list"):
            try:
                values[p["name"]] = draw_value(p, rng, ref)
            except LookupError:
                continue
    if kind == "Undulator":  # weaker than what stops the reference particle
        values |= {"period": 0.05, "strength": values["strength"] * ref.beta_gamma}
        values["field"] *= 0.1
    if kind == "PlasmaStage" and values["wake"] == "linear":
        # a wave that is long against the distances of particles, and wide enough to focus gently
        values["density"] = min(values["density"], 1e17) + 1.0
        wave = np.sqrt(4 * np.pi * 2.8179403205e-15 * values["density"])
        gain = abs(values["acceleration"]) / ref.species.mass
        values["width"] = np.sqrt(4 * gain / (wave * ref.beta_gamma) + 1e-4)
    return values


def measure(kind: str, model: str, draws: int = 16) -> dict[str, float | None]:
    """The largest violation of each law; None where it does not apply or nothing was tracked."""
    rng = np.random.default_rng([3, zlib.crc32(f"{kind} {model}".encode())])
    worst: dict[str, float | None] = dict.fromkeys(LAWS)
    for _ in range(draws):
        ref = draw_reference(SPECIES, (0.05, 7e4), rng)
        values = draw_element(kind, rng, ref)
        z = draw_particles(ref, 1, rng)
        found = laws(kind, model, values, ref, z)
        for name, value in found.items():
            worst[name] = max(value, worst[name] or 0.0)
    return worst


def laws(
    kind: str, model: str, values: Values, ref: bt.Reference, z: np.ndarray
) -> dict[str, float]:
    def make(v: Values) -> bt.Element:
        return getattr(bt, kind)(**v, model=model, order=4, steps=4)

    line = bt.Line([make(values)])
    out, beam = betatron(ref, line, z)
    if np.any(np.isnan(out)):
        return {}
    j = line.matrix(ref, z[:, 0])
    path = np.array([0, 0, 0, 0, values.get("length", 0.0) / ref.beta, 0])
    result = {}

    if kind not in NOT_SYMPLECTIC:
        ratio = ref.beta_gamma / beam.reference.beta_gamma
        bound = np.abs(j).T @ np.abs(S) @ np.abs(j) + 1
        result["symplectic"] = float(np.max(np.abs(j.T @ S @ j - ratio * S) / bound))

    if kind not in NO_INVERSE:
        line.track(beam, backward=True, progress=False)
        back = np.array(beam.array)[:, 0]
        carried = np.abs(np.linalg.inv(j)) @ (np.abs(out[:, 0]) + path) + np.abs(z[:, 0]) + path
        result["backward"] = float(np.max(np.abs(back - z[:, 0]) / carried))

    h = np.array([2e-5] * 5 + [2e-5 * ref.beta])
    steps = np.concatenate([z + f * np.diag(h) for f in (1, -1, 2, -2)], axis=1)
    a, b, c, d = np.split(betatron(ref, line, steps)[0], 4, axis=1)
    numeric = (8 * (a - b) - (c - d)) / (12 * h)
    if np.all(np.isfinite(numeric)):
        scale = np.max(np.abs(j * h), axis=1, keepdims=True)
        result["derivative"] = float(np.max(np.abs((numeric - j) * h) / scale))

    # both from the same number, so that they differ in the charge alone
    same, anti = (
        bt.Reference(s, beta_gamma=ref.beta_gamma)
        for s in (ref.species.name, OPPOSITE[ref.species.name])
    )
    flipped = values | {k: -values[k] for k in FIELDS if k in values}
    out = betatron(same, make(values), z)[0]
    other = betatron(anti, make(flipped), z)[0]
    result["conjugation"] = float(np.max(np.abs(other - out) / (np.abs(out) + np.abs(z) + 1e-300)))
    return result


def table() -> list[dict[str, Any]]:
    """One row per kind and model."""
    rows = []
    for kind in bt.kinds():
        for model in MODELS:
            try:
                rows.append({"kind": kind, "model": model, **measure(kind, model)})
            except (
                TypeError,
                ValueError,
            ) as error:  # a parameter of a new kind that is not drawn yet
                rows.append(
                    {"kind": kind, "model": model, **dict.fromkeys(LAWS), "note": str(error)}
                )
    return rows
