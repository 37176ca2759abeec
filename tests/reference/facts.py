"""From reference facts to Betatron: the reference particle, the beam and the lattice of a case.

A case describes a published benchmark in the vocabulary of the code it was published for (element
types such as ``ChrQuad``, ellipse parameters such as ``lambdaX``). This module translates that
vocabulary, and knows nothing of any particular case. Public: :func:`make_reference`,
:func:`make_beam`, :func:`make_covariance`, :class:`Lattice`, :func:`check_settings`.

Nothing is dropped silently: a parameter, setting, distribution or element that has no translation
raises :class:`Unsupported` with its name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import betatron as bt
import numpy as np

Facts = Mapping[str, Any]

COORDINATES = ("x", "px", "y", "py", "t", "pt")
SPINS = ("sx", "sy", "sz")
PLANES = (("X", "x", "px"), ("Y", "y", "py"), ("T", "t", "pt"))
ELEMENTARY_CHARGE = 1.602176634e-19  # C, exact (SI)
VACUUM_PERMITTIVITY = 8.8541878188e-12  # F/m
SPEED_OF_LIGHT = 299792458.0  # m/s, exact (SI)


class Unsupported(Exception):
    """The case needs something that Betatron or this runner does not offer."""


# --- settings -------------------------------------------------------------------------------------

# Settings that only steer output or a solver which a case without collective effects never calls.
_PASSIVE_SETTINGS = (
    "diag.",
    "amr.",
    "geometry.",
    "amrex.",
    "impactx.",
    "algo.track",
    "algo.particle_shape",
    "algo.poisson_solver",
    "algo.mlmg_",
    "algo.space_charge.",
    "algo.csr_bins",
    "algo.isr_order",
    "lattice.nslice",
)

_COLLECTIVE_SETTINGS = {
    "algo.csr": "coherent synchrotron radiation",
}


def _is_off(value: Any) -> bool:
    return value in (False, None, 0, "", "false", "False", "none", "off", "open")


def check_settings(case: Facts) -> None:
    """Raise `Unsupported` if the case switches on a physics option that is not available."""
    for key, value in case.get("settings", {}).items():
        if _is_off(value) or key.startswith(_PASSIVE_SETTINGS):
            continue
        if key in _COLLECTIVE_SETTINGS:
            detail = "" if value is True else f" ({value})"
            raise Unsupported(f"{_COLLECTIVE_SETTINGS[key]}{detail}")
        if key == "algo.particle_bc":
            boundary(case)
            continue
        if key in ("algo.spin", "algo.isr", "algo.isr_on_ref_part"):
            continue
        if key == "algo.space_charge":
            space_charge(case)
            continue
        raise Unsupported(f"setting {key} = {value!r}")


def check_driver(case: Facts) -> None:
    """Raise `Unsupported` if a program runs the case, which programs.py does not have."""
    if case.get("python_hooks"):
        hooks = ", ".join(map(str, case["python_hooks"]))
        raise Unsupported(f"functions called during tracking ({hooks})")
    goals = [text for text in case.get("other_assertions", []) if text.startswith("Goal:")]
    if goals:
        raise Unsupported(f"an optimiser that varies the lattice ({goals[0]})")


def tracks_spins(case: Facts) -> bool:
    """Whether fields turn the spins of the beam."""
    return not _is_off(case.get("settings", {}).get("algo.spin"))


def radiation(case: Facts, seed: int) -> bt.Radiation | None:
    """The model of incoherent synchrotron radiation, None for none."""
    settings = case.get("settings", {})
    if _is_off(settings.get("algo.isr")):
        return None
    return bt.Radiation(
        model="quantum",
        order=int(settings.get("algo.isr_order", 1)),
        reference=not _is_off(settings.get("algo.isr_on_ref_part")),
        seed=seed,
    )


def boundary(case: Facts) -> dict[str, Any]:
    """Keywords of `Line.track` for the longitudinal boundary; none if it is open."""
    kind = case.get("settings", {}).get("algo.particle_bc", "open")
    if _is_off(kind):
        return {}
    if kind not in ("periodic", "reflecting", "absorbing"):
        raise Unsupported(f"longitudinal boundary condition {kind!r}")
    length = case["beam"].get("bucket_length_m")
    if length is None:
        raise Unsupported(f"a {kind} longitudinal boundary without the length of the bucket")
    return {"boundary": kind, "bucket_length": float(length)}


def space_charge(case: Facts) -> Any:
    """The model of space charge that a case asks for, or None.

    Particles are kicked in the middle of the slices that a case prescribes (order 2): beams in
    equilibrium stay so. The published envelopes were computed with kicks in front of the slices
    (order 1), and are given with so many digits that the error of that splitting belongs to them.
    Where a case refines the grid around the beam, the whole grid is as fine: it fits the beam here.
    """
    settings = case.get("settings", {})
    kind = settings.get("algo.space_charge", False)
    if _is_off(kind):
        return None
    options = {
        key.removeprefix("algo.space_charge."): value
        for key, value in settings.items()
        if key.startswith("algo.space_charge.")
    }
    current = case["beam"].get("current_A")
    if (case.get("tracking_mode") or "particles") == "envelope":
        if kind not in ("2D", "3D") or options:
            raise Unsupported(f"space charge {kind} of an envelope")
        return bt.SpaceChargeEnvelope(kind, current=current, order=1)
    longitudinal = bool(options.pop("apply_longitudinal_kick", True))
    if kind == "Gauss2p5D" or kind == "Gauss3D":
        options.pop("gauss_nint", None)  # how integrals are done, which has no bearing on the beam
        options.pop("gauss_taylor_delta", None)
        bins = int(options.pop("gauss_charge_z_bins", 129))
        scale = options.pop("gauss_long_scale", None)
        _all_used(options)
        if kind == "Gauss3D":
            return bt.SpaceChargeGaussian("3D")
        return bt.SpaceChargeGaussian(
            "2.5D", bins=bins, longitudinal=longitudinal, longitudinal_scale=scale
        )
    grid = _grid(settings)
    if kind == "2D":
        _all_used(options)
        if current is None:
            raise Unsupported("2D space charge without a current")
        return bt.SpaceCharge2D(float(current), grid.pop("cells")[:2], **grid)
    if kind == "2p5D":
        bins = int(options.pop("num_longitudinal_bins", 100))
        _all_used(options)
        cells = grid.pop("cells")[:2]
        return bt.SpaceCharge2p5D(cells, bins, longitudinal=longitudinal, **grid)
    if kind == "3D":
        _all_used(options)
        return bt.SpaceCharge3D(**grid)
    raise Unsupported(f"space charge ({kind})")


def _all_used(options: Facts) -> None:
    if options:
        raise Unsupported(f"space charge with {', '.join(sorted(options))}")


def _grid(settings: Facts) -> dict[str, Any]:
    """Keywords of models with a grid: cells and the shape of particles."""
    if "amr.n_cell" not in settings:
        raise Unsupported("space charge without the number of cells")
    finer = 2 ** int(settings.get("amr.max_level", 0))
    shape = int(settings.get("algo.particle_shape", 2))
    return {
        "cells": tuple(finer * int(n) for n in settings["amr.n_cell"]),
        "shape": {1: "linear", 2: "quadratic", 3: "cubic"}[shape],
    }


# --- reference particle ---------------------------------------------------------------------------


def make_reference(facts: Facts) -> bt.Reference:
    """The reference particle from species (or mass and charge) and kinetic energy (or gamma)."""
    if facts.get("kin_energy_MeV") is not None:
        energy = {"kinetic_energy": 1e6 * float(facts["kin_energy_MeV"])}
    elif facts.get("gamma") is not None:
        energy = {"gamma": float(facts["gamma"])}
    elif facts.get("beta_gamma") is not None:
        energy = {"beta_gamma": float(facts["beta_gamma"])}
    else:
        raise Unsupported("reference particle without an energy")

    mass, charge = facts.get("mass_MeV"), facts.get("charge_qe")
    if facts.get("species"):
        try:
            reference = bt.Reference(str(facts["species"]), **energy)
        except (KeyError, ValueError):
            reference = None  # a species that is defined by its mass and charge alone
        if reference is not None and _same_particle(reference.species, mass, charge):
            return reference
    if mass is None or charge is None:
        raise Unsupported(f"species {facts.get('species')!r}")
    species = bt.Species(
        name=str(facts.get("species") or "particle"),
        mass=1e6 * float(mass),
        charge=float(charge),
        anomaly=float(facts.get("gyromagnetic_anomaly") or 0.0),
    )
    return bt.Reference(species, **energy)


def _same_particle(species: bt.Species, mass_MeV: float | None, charge: float | None) -> bool:
    same_mass = mass_MeV is None or math.isclose(species.mass, 1e6 * mass_MeV, rel_tol=1e-7)
    return same_mass and (charge is None or species.charge == charge)


# --- beam -----------------------------------------------------------------------------------------

_DISTRIBUTIONS = {
    "gaussian": "Gaussian",
    "waterbag": "Waterbag",
    "kv": "KV",
    "kvdist": "KV",
    "kurth4d": "Kurth4D",
    "kurth6d": "Kurth6D",
    "semigaussian": "SemiGaussian",
    "triangle": "Triangle",
}

_ELLIPSE = {
    "lambdaX": "lambda_x",
    "lambdaY": "lambda_y",
    "lambdaT": "lambda_t",
    "lambdaPx": "lambda_px",
    "lambdaPy": "lambda_py",
    "lambdaPt": "lambda_pt",
    "muxpx": "mu_xpx",
    "muypy": "mu_ypy",
    "mutpt": "mu_tpt",
}
_MEANS = ("meanX", "meanPx", "meanY", "meanPy", "meanT", "meanPt")
_DISPERSIONS = {
    "dispX": "dispersion_x",
    "dispPx": "dispersion_px",
    "dispY": "dispersion_y",
    "dispPy": "dispersion_py",
}
_CUTS = {"cutX": "cut_x", "cutY": "cut_y", "cutT": "cut_t"}
_SPELLINGS = {
    "emitt_": "emitt",
    "emittance_": "emitt",
    "alpha_": "alpha",
    "beta_": "beta",
    "dispersion_": "disp",
    "mean_": "mean",
}


def make_beam(
    case: Facts, reference: bt.Reference, *, precision: str, seed: int, particles: int | None = None
) -> bt.Beam:
    """The beam of a case: its listed particles, or a sample of its distribution.

    `particles` is the size of the sample; by default the number that the case prescribes.
    """
    facts = case["beam"]
    columns = _explicit_particles(facts.get("explicit_particles"), reference)
    if not facts.get("distribution"):
        if columns is None:
            raise Unsupported("a case without a beam")
        charge = columns.pop("charge")
        spins = columns.pop("spins")
        dtype = np.float32 if precision == "single" else np.float64
        beam = bt.Beam.from_arrays(
            reference, **{name: columns[name].astype(dtype) for name in COORDINATES}, charge=charge
        )
        if spins is not None:
            beam.set_spin(*spins)
        return beam
    if columns is not None:
        raise Unsupported("listed particles in addition to a distribution")
    count = particles or prescribed_particles(case)
    if not count:
        raise Unsupported("a distribution without a number of particles")
    charge = facts.get("bunch_charge_C")
    return bt.Beam(
        reference,
        _make_distribution(facts["distribution"], reference, charge),
        n=count,
        charge=charge,
        seed=seed,
        precision=precision,
        polarization=_polarization(facts.get("spin")),
    )


def _polarization(facts: Any) -> list[float] | None:
    """Mean of the spins, None for a beam without."""
    if not facts:
        return None
    if facts.get("type") != "von Mises-Fisher":
        raise Unsupported(f"spins from {facts.get('type')!r}")
    return [float(p) for p in facts["polarization"]]


def prescribed_particles(case: Facts) -> int | None:
    """The number of particles that a case prescribes, None if it does not."""
    count = case["beam"].get("npart") or case.get("npart_asserted")
    return None if count is None else int(count)


def _explicit_particles(facts: Any, reference: bt.Reference) -> dict[str, Any] | None:
    """Columns of the listed particles, several lists joined, and their charge in C (or None)."""
    if not facts:
        return None
    lists = [facts] if isinstance(facts, Mapping) else list(facts)
    if len(lists) == 1 and all(isinstance(lists[0].get(name), Mapping) for name in COORDINATES):
        return _drawn_particles(lists[0], reference)
    blocks: list[list[np.ndarray]] = []
    spins: list[np.ndarray] = []
    charge: float | None = None
    for block in lists:
        if any(isinstance(block.get(name), Mapping) for name in COORDINATES):
            raise Unsupported("particles given by their statistics only")
        ratio = abs(reference.species.charge / reference.species.mass)
        if block.get("qm") is not None and not np.allclose(np.abs(block["qm"]), ratio, rtol=1e-6):
            raise Unsupported("particles of another charge-to-mass ratio than the reference")
        arrays = [np.asarray(block[name], dtype=float) for name in COORDINATES]
        if len({array.shape for array in arrays}) != 1 or arrays[0].ndim != 1:
            raise ValueError("listed particles: the six coordinates must have one common length")
        blocks.append(arrays)
        if all(block.get(name) is not None for name in SPINS):
            spin = np.array([block[name] for name in SPINS], dtype=float)
            spins.append(spin / np.linalg.norm(spin, axis=0))  # directions, given to a few digits
        if block.get("bunch_charge"):
            charge = (charge or 0.0) + abs(float(block["bunch_charge"]))
    joined = {
        name: np.concatenate([arrays[i] for arrays in blocks]) for i, name in enumerate(COORDINATES)
    }
    if spins and len(spins) != len(lists):
        raise Unsupported("spins of some of the listed particles only")
    return {**joined, "charge": charge, "spins": np.hstack(spins) if spins else None}


def _drawn_particles(facts: Facts, reference: bt.Reference) -> dict[str, Any]:
    """Columns for particles that the facts give only by the mean and the standard deviation of each
    column: as many, independent and normally distributed, with exactly these."""
    random = np.random.default_rng(1)
    columns: dict[str, Any] = {}
    for name in COORDINATES:
        values = random.normal(size=int(facts[name]["n"]))
        values = (values - values.mean()) / values.std()
        columns[name] = float(facts[name]["mean"]) + float(facts[name]["std"]) * values
    weights = facts["w"]
    if float(weights["max"]) - float(weights["min"]) > 1e-9 * float(weights["mean"]):
        raise Unsupported("different weights given by their statistics only")
    count = float(weights["mean"]) * int(weights["n"])
    charge = abs(reference.species.charge) * ELEMENTARY_CHARGE * count
    return {**columns, "charge": charge, "spins": None}


def _canonical_distribution(facts: Facts) -> dict[str, Any]:
    """Distribution facts under one spelling, Twiss keys merged in where ellipse ones are absent."""
    plain = {key: value for key, value in facts.items() if key not in ("type", "input_form")}
    twiss = plain.pop("twiss", None) or {}
    if not any(key in plain for key in _ELLIPSE):
        plain = {**_respelled(twiss), **_respelled(plain)}
    else:
        extra = {k: v for k, v in _respelled(twiss).items() if k in _DISPERSIONS or k in _MEANS}
        plain = {**extra, **_respelled(plain)}
    return {key: value for key, value in plain.items() if value is not None}


def _respelled(facts: Facts) -> dict[str, Any]:
    """Keys such as ``emitt_x`` and ``dispersion_px`` written as ``emittX`` and ``dispPx``."""
    result = {}
    for key, value in facts.items():
        for prefix, short in _SPELLINGS.items():
            if key.startswith(prefix):
                key = short + key[len(prefix) :].capitalize()
                break
        result[key] = value
    return result


def _distribution_kind(facts: Facts) -> str:
    name = str(facts.get("type", "")).removesuffix("_from_twiss")
    kind = _DISTRIBUTIONS.get(name.lower())
    if kind is None or not hasattr(bt, kind):
        raise Unsupported(f"distribution {name}")
    return kind


def _thermal(facts: Facts, reference: bt.Reference, charge: float | None) -> bt.Thermal:
    """Betatron finds the normalisation of core and halo; those that a case gives must be the same.

    They are the densities at the centre, per particle of the population, times (2 pi)^(3/2) of the
    cube of an estimated radius r, (k r)^2 = kT + (k K/(20 sqrt(5) pi))^(2/3).
    """
    values = {key: float(value) for key, value in facts.items() if key not in ("type",)}
    k, core = values.pop("k"), values.pop("kT")
    hot, halo = values.pop("kT_halo", core), values.pop("halo", 0.0)
    shape = bt.Thermal(k, core, hot, halo)
    charge = charge or 0.0
    intensity = (
        charge
        * abs(reference.species.charge)
        / (VACUUM_PERMITTIVITY * reference.beta_gamma**2 * reference.species.mass)
    )
    estimate = (k * intensity / (20 * math.sqrt(5) * math.pi)) ** (2 / 3)
    radius = math.sqrt((1 - halo) * core + halo * hot + estimate) / k
    densities = shape.equilibrium(reference, charge).central_densities
    for name, density, part in zip(
        ("normalize", "normalize_halo"), densities, (1 - halo, halo), strict=True
    ):
        given = values.pop(name, None)
        if given is None or part == 0:
            continue
        found = density * (math.sqrt(2 * math.pi) * radius) ** 3 / part
        if not math.isclose(given, found, rel_tol=0.01):
            raise Unsupported(f"a thermal beam that is not normalised ({name} = {given}, {found})")
    if values:
        raise Unsupported(f"distribution parameter {', '.join(sorted(values))}")
    return shape


def _make_distribution(facts: Facts, reference: bt.Reference, charge: float | None) -> Any:
    if str(facts.get("type", "")).lower() == "thermal":
        return _thermal(facts, reference, charge)
    kind = getattr(bt, _distribution_kind(facts))
    values = _canonical_distribution(facts)
    keywords: dict[str, Any] = {"mean": [float(values.pop(key, 0.0)) for key in _MEANS]}
    for spelling in (_DISPERSIONS, _CUTS):
        for key, name in spelling.items():
            if key in values:
                keywords[name] = float(values.pop(key))
    if any(key in values for key in _ELLIPSE):
        builder = kind.from_ellipse
        for key, name in _ELLIPSE.items():
            keywords[name] = float(values.pop(key, 0.0))
    else:
        builder = kind.from_twiss
        for plane, axis, _ in PLANES:
            keywords[f"alpha_{axis}"] = float(values.pop(f"alpha{plane}", 0.0))
            keywords[f"beta_{axis}"] = float(values.pop(f"beta{plane}"))
            keywords[f"emittance_{axis}"] = float(values.pop(f"emitt{plane}"))
    if values:
        raise Unsupported(f"distribution parameter {', '.join(sorted(values))}")
    return builder(**keywords)


def make_covariance(facts: Facts) -> np.ndarray:
    """The 6x6 covariance of a distribution, order x, px, y, py, t, pt (for envelope tracking).

    With the ellipse parameters lambda and mu of `conventions.distribution`:
    <q^2> = lambda_q^2/(1-mu^2), <p^2> = lambda_p^2/(1-mu^2), <qp> = -mu lambda_q lambda_p/(1-mu^2);
    a dispersion D then adds x -> x - D pt.
    """
    _distribution_kind(facts)  # refuses the ones that have no ellipse
    values = _canonical_distribution(facts)
    if any(float(values.pop(key, 0.0)) for key in _MEANS):
        raise Unsupported("a displaced beam in envelope tracking")
    covariance = np.zeros((6, 6))
    for plane, (suffix, q, p) in enumerate(PLANES):
        block = covariance[2 * plane : 2 * plane + 2, 2 * plane : 2 * plane + 2]
        if any(key in facts for key in _ELLIPSE):
            length = float(values.pop(f"lambda{suffix}"))
            slope = float(values.pop(f"lambdaP{q}"))
            mu = float(values.pop(f"mu{q}{p}", 0.0))
            block[:] = [[length**2, -mu * length * slope], [-mu * length * slope, slope**2]]
            block /= 1.0 - mu**2
        else:
            alpha = float(values.pop(f"alpha{suffix}", 0.0))
            beta = float(values.pop(f"beta{suffix}"))
            emittance = float(values.pop(f"emitt{suffix}"))
            block[:] = [[beta, -alpha], [-alpha, (1.0 + alpha**2) / beta]]
            block *= emittance
    shear = np.eye(6)
    for row, key in enumerate(_DISPERSIONS):
        shear[row, 5] = -float(values.pop(key, 0.0))
    if values:
        raise Unsupported(
            f"distribution parameter {', '.join(sorted(values))} in envelope tracking"
        )
    return shear @ covariance @ shear.T


# --- elements -------------------------------------------------------------------------------------

# Keywords that every Betatron element takes (see the Python API).
_COMMON = {parameter["name"] for parameter in bt.common_parameters()}

_REQUIRED = object()


class Parameters:
    """The parameters of one element definition; remembers which of them were read."""

    def __init__(self, name: str, facts: Facts, *, slices: int, steps: int) -> None:
        self.type = str(facts["type"])
        self.default_slices = slices
        self.default_steps = steps
        self._values = {k: v for k, v in facts.items() if k not in ("type", "name")}
        self._unread = set(self._values)
        self.name = str(facts.get("name", name.split("~")[0]))

    def get(self, *keys: str, default: Any = _REQUIRED) -> Any:
        """The value under the first of `keys` that is present (alternative spellings)."""
        for key in keys:
            if self._values.get(key) is not None:
                self._unread.discard(key)
                return self._values[key]
            self._unread.discard(key)
        if default is _REQUIRED:
            raise ValueError(f"element {self.name} ({self.type}): no value for {keys[0]}")
        return default

    def number(self, *keys: str, default: Any = _REQUIRED) -> float:
        return float(self.get(*keys, default=default))

    def numbers(self, *keys: str) -> list[float]:
        value = self.get(*keys, default=[])
        return [float(v) for v in (value if isinstance(value, Sequence) else [value])]

    def in_si_units(self) -> bool:
        """True if strengths are fields (T, T/m, ...), False if they are divided by the rigidity."""
        unit = self.get("unit", "units", default=0)
        if unit in (0, 0.0, "0", "dimensionless", "normalized", "normalised", ""):
            return False
        if unit in (1, 1.0, "1", "T-m", "T/m", "T", "SI"):
            return True
        raise Unsupported(f"unit {unit!r} of {self.type}")

    def alignment(self) -> dict[str, Any]:
        """Keywords of offsets and roll; the facts give the roll in degrees."""
        return {
            "name": self.name,
            "dx": self.number("dx", default=0.0),
            "dy": self.number("dy", default=0.0),
            "roll": math.radians(self.number("rotation", default=0.0)),
        }

    def thick(self, model: str) -> dict[str, Any]:
        """Keywords of an element with a length: model, slices, alignment, pipe aperture."""
        keywords = self.alignment()
        keywords["length"] = self.number("ds")
        keywords["model"] = model
        keywords["slices"] = int(self.get("nslice", default=self.default_slices))
        pipe = (self.number("aperture_x", default=0.0), self.number("aperture_y", default=0.0))
        if pipe[0] > 0.0 and pipe[1] > 0.0:
            keywords |= {"aperture_x": pipe[0], "aperture_y": pipe[1]}
        return keywords

    def integrated(self) -> dict[str, Any]:
        """Keywords of a thick element that is tracked by split integration."""
        return {
            **self.thick("exact"),
            "order": int(self.get("int_order", default=2)),
            "steps": int(self.get("mapsteps", default=self.default_steps)),
        }

    def finish(self) -> None:
        if self._unread:
            raise Unsupported(f"parameter {', '.join(sorted(self._unread))} of {self.type}")


def _make(kind: str, **keywords: Any) -> Any:
    """A Betatron element, or `Unsupported` if this kind or one of its parameters is missing."""
    kinds = bt.kinds()
    if kind not in kinds:
        raise Unsupported(f"element kind {kind}")
    known = {parameter["name"] for parameter in kinds[kind]} | _COMMON
    missing = sorted(key for key in keywords if key not in known)
    if missing:
        raise Unsupported(f"parameter {', '.join(missing)} of the element kind {kind}")
    try:
        return getattr(bt, kind)(**keywords)
    except ValueError as error:
        if keywords.get("length", 0.0) < 0.0:
            raise Unsupported(f"{kind} of negative length ({error})") from error
        raise


def _curvature(radius: float) -> float:
    """1/radius; a radius of 0 stands for a straight element."""
    return 1.0 / radius if radius else 0.0


def _drift(model: str) -> Callable[[Parameters, bt.Reference], Any]:
    return lambda p, reference: _make("Drift", **p.thick(model))


def _quadrupole(p: Parameters, reference: bt.Reference) -> Any:
    keywords = p.thick("linear" if p.type == "Quad" else "paraxial")
    if p.type == "Quad":
        keywords["steps"] = 1  # of the spin, which to first order needs no more
    if p.type == "ExactQuad":
        keywords = p.integrated()
    return _make("Quadrupole", **keywords, **{_quad_strength(p): p.number("k")})


def _quad_strength(p: Parameters) -> str:
    return "gradient" if p.in_si_units() else "k1"


def _sector_bend(p: Parameters, reference: bt.Reference) -> Any:
    keywords = p.thick("linear")
    angle = keywords["length"] * _curvature(p.number("rc"))
    if p.type == "CFbend":
        keywords["k1"] = p.number("k")
    if angle == 0.0 and not keywords.get("k1"):
        keywords.pop("k1", None)
        return _make("Drift", **keywords)
    return _make("Bend", **keywords, angle=angle)


def _exact_bend(p: Parameters, reference: bt.Reference) -> Any:
    """Angle `phi` in degrees; a field `B` and the rigidity fix radius and side, so the length."""
    keywords = p.thick("exact")
    field = p.number("B", default=0.0)
    angle = math.radians(p.number("phi"))
    if field != 0.0:
        curvature = field / reference.rigidity
        angle = math.copysign(angle, curvature)
        keywords["length"] = angle / curvature
    return _make("Bend", **keywords, angle=angle)


def _strengths(p: Parameters, reference: bt.Reference) -> tuple[list[float], list[float]]:
    """Normal and skew strengths per metre, divided by the rigidity where given as fields."""
    scale = 1.0 / reference.rigidity if p.in_si_units() else 1.0
    normal = [scale * k for k in p.numbers("k_normal", "K_normal")]
    skew = [scale * k for k in p.numbers("k_skew", "K_skew")]
    return normal, skew


def _exact_combined_bend(p: Parameters, reference: bt.Reference) -> Any:
    """Strengths by order, the first of them the curvature of the reference orbit."""
    keywords = p.integrated()
    normal, skew = _strengths(p, reference)
    angle = keywords["length"] * normal[0]
    return _make("Bend", **keywords, angle=angle, kn=[0.0, *normal[1:]], ks=skew)


def _exact_multipole(p: Parameters, reference: bt.Reference) -> Any:
    """Strengths by order; the dipole entry is ignored by definition of this element."""
    keywords = p.integrated()
    length = keywords["length"]
    normal, skew = _strengths(p, reference)
    return _make(
        "Multipole",
        **keywords,
        knl=[0.0] + [length * k for k in normal[1:]],
        ksl=[0.0] + [length * k for k in skew[1:]],
    )


def _thin_multipole(p: Parameters, reference: bt.Reference) -> Any:
    """One integrated order; `multipole` = 1 is the dipole."""
    order = int(p.get("multipole"))
    zeros = [0.0] * (order - 1)
    return _make(
        "Multipole",
        **p.alignment(),
        knl=[*zeros, p.number("k_normal", "K_normal", default=0.0)],
        ksl=[*zeros, p.number("k_skew", "K_skew", default=0.0)],
    )


def _dipole_edge(p: Parameters, reference: bt.Reference) -> Any:
    """Pole-face edge; K2 is the fringe integral of first order, g the full gap."""
    fringe = str(p.get("model", default="linear"))
    if p.get("modify_ref_part", default=False):
        raise Unsupported("a DipEdge that turns the reference particle")
    if p.number("K1", default=0.0):
        raise Unsupported("a DipEdge whose place is not the effective field boundary (K1)")
    return _make(
        "DipoleEdge",
        **p.alignment(),
        model="linear" if fringe == "linear" else "paraxial",
        fringe=fringe,
        location=str(p.get("location", default="entry")),
        curvature=_curvature(p.number("rc")),
        angle=p.number("psi"),
        fint=p.number("K2", default=1.0),
        hgap=0.5 * p.number("g"),
        fringe_k0=p.number("K0", default=math.pi**2 / 6.0),
        fringe_k3=p.number("K3", default=1.0 / 6.0),
        fringe_k4=p.number("K4", default=0.0),
        fringe_k5=p.number("K5", default=0.0),
        fringe_k6=p.number("K6", default=0.0),
        fringe_scale=p.number("R", default=1.0),
    )


def _quadrupole_edge(p: Parameters, reference: bt.Reference) -> Any:
    location = str(p.get("flag", "location", default="entry"))
    return _make(
        "QuadrupoleEdge", **p.alignment(), location=location, **{_quad_strength(p): p.number("k")}
    )


def _plasma_lens(p: Parameters, reference: bt.Reference) -> Any:
    return _make("PlasmaLens", **p.thick("paraxial"), **{_quad_strength(p): p.number("k")})


def _tapered_plasma_lens(p: Parameters, reference: bt.Reference) -> Any:
    strength = "gradient_length" if p.in_si_units() else "k1l"
    return _make(
        "TaperedPlasmaLens", **p.alignment(), **{strength: p.number("k")}, taper=p.number("taper")
    )


def _buncher(p: Parameters, reference: bt.Reference) -> Any:
    """`V` is the voltage over the rigidity and c, `k` the wave number in 1/m."""
    return _make(
        "Buncher",
        **p.alignment(),
        voltage=p.number("V") * reference.momentum / abs(reference.species.charge),
        frequency=p.number("k") * SPEED_OF_LIGHT / (2.0 * math.pi),
    )


def _thin_dipole(p: Parameters, reference: bt.Reference) -> Any:
    angle = math.radians(p.number("theta"))
    return _make("ThinDipole", **p.alignment(), angle=angle, curvature=_curvature(p.number("rc")))


def _pole_face_rotation(p: Parameters, reference: bt.Reference) -> Any:
    angles = {f"angle_{side}": math.radians(p.number(f"phi_{side}")) for side in ("in", "out")}
    return _make("PoleFaceRotation", name=p.name, **angles)


def _plane_rotation(p: Parameters, reference: bt.Reference) -> Any:
    return _make("PlaneRotation", **p.alignment(), angle=math.radians(p.number("angle")))


def _nonlinear_lens(p: Parameters, reference: bt.Reference) -> Any:
    return _make("NonlinearLens", **p.alignment(), knl=p.number("knll"), cnl=p.number("cnll"))


def _solenoid(p: Parameters, reference: bt.Reference) -> Any:
    return _make("Solenoid", **p.thick("linear"), ks=p.number("ks"))


def _constant_focusing(p: Parameters, reference: bt.Reference) -> Any:
    strengths = {key: p.number(key, default=0.0) for key in ("kx", "ky", "kt")}
    return _make("ConstantFocusing", **p.thick("linear"), **strengths)


def _kicker(p: Parameters, reference: bt.Reference) -> Any:
    scale = 1.0 / reference.rigidity if p.in_si_units() else 1.0
    return _make(
        "Kicker",
        **p.alignment(),
        hkick=scale * p.number("xkick", default=0.0),
        vkick=scale * p.number("ykick", default=0.0),
    )


def _short_rf(p: Parameters, reference: bt.Reference) -> Any:
    """`V` is the largest energy gain over the rest energy; phase in degrees, 0 on crest."""
    species = reference.species
    return _make(
        "RFCavity",
        **p.alignment(),
        length=0.0,
        voltage=p.number("V") * species.mass / abs(species.charge),
        frequency=p.number("freq"),
        phase=math.radians(p.number("phase", default=-90.0)),
    )


def _integrated_linear(p: Parameters) -> dict[str, Any]:
    """Keywords of an element whose linear map is integrated along a field profile."""
    p.get("field_table", default=None)  # where the coefficients come from
    keywords = {**p.thick("linear"), "order": 2}
    keywords["steps"] = int(p.get("mapsteps", default=10))  # from files and from Python alike
    for key, name in (("cosine", "cos_coefficients"), ("sine", "sin_coefficients")):
        keywords[key] = p.numbers(name)
    return keywords


def _soft_solenoid(p: Parameters, reference: bt.Reference) -> Any:
    strength = "field" if p.in_si_units() else "ks"
    return _make("SoftSolenoid", **_integrated_linear(p), **{strength: p.number("bscale")})


def _soft_quadrupole(p: Parameters, reference: bt.Reference) -> Any:
    return _make("SoftQuadrupole", **_integrated_linear(p), k1=p.number("gscale"))


def _rf_field(p: Parameters, reference: bt.Reference) -> Any:
    """`escale`: energy gain per length over the rest energy; phase in degrees, by the clock."""
    species = reference.species
    return _make(
        "RFFieldMap",
        **_integrated_linear(p),
        amplitude=p.number("escale") * species.mass / abs(species.charge),
        frequency=p.number("freq"),
        phase=math.radians(p.number("phase")),
    )


def _uniform_acceleration(p: Parameters, reference: bt.Reference) -> Any:
    """`ez` = q E/(m c^2) and `bz` = q B/(m c), both per metre."""
    species = reference.species
    keywords = p.thick("paraxial")
    return _make(
        "UniformAcceleration",
        **keywords,
        voltage=p.number("ez") * keywords["length"] * species.mass / abs(species.charge),
        field=p.number("bz", default=0.0) * species.mass / (species.charge * SPEED_OF_LIGHT),
    )


def _aperture(p: Parameters, reference: bt.Reference) -> Any:
    return _make(
        "Aperture",
        **p.alignment(),
        x_max=p.number("aperture_x", "xmax"),
        y_max=p.number("aperture_y", "ymax"),
        shape=str(p.get("shape", default="rectangular")),
        action=str(p.get("action", default="transmit")),
        repeat_x=p.number("repeat_x", default=0.0),
        repeat_y=p.number("repeat_y", default=0.0),
        shift_odd_x=bool(p.get("shift_odd_x", default=False)),
    )


def _polygon_aperture(p: Parameters, reference: bt.Reference) -> Any:
    """The facts close the polygon by repeating its first corner."""
    corners = list(zip(p.numbers("vertices_x"), p.numbers("vertices_y"), strict=True))
    return _make(
        "PolygonAperture",
        **p.alignment(),
        vertices=corners[:-1] if corners[0] == corners[-1] else corners,
        min_radius2=p.number("min_radius2", default=0.0),
        action=str(p.get("action", default="transmit")),
        repeat_x=p.number("repeat_x", default=0.0),
        repeat_y=p.number("repeat_y", default=0.0),
        shift_odd_x=bool(p.get("shift_odd_x", default=False)),
    )


def _linear_map(p: Parameters, reference: bt.Reference) -> Any:
    """A user matrix, as all 36 entries or as those that differ from the identity ("12": R12)."""
    entries = p.get("R", default=None)
    matrix = np.eye(6) if entries is None else np.asarray(entries, dtype=float).reshape(6, 6)
    sparse = dict(p.get("R_nonidentity", default={}))
    for i in range(1, 7):
        for j in range(1, 7):
            value = sparse.pop(f"{i}{j}", p.get(f"R{i}{j}", default=None))
            if value is not None:
                matrix[i - 1, j - 1] = float(value)
    if sparse:
        raise Unsupported(f"matrix entry {', '.join(sorted(sparse))} of LinearMap")
    p.get("nslice", default=1)  # the matrix is that of the whole element
    return _make("LinearMap", **p.alignment(), matrix=matrix, length=p.number("ds", default=0.0))


def _spin_map(p: Parameters, reference: bt.Reference) -> Any:
    """Rotation vector v1 ... v3 and its slopes A11 ... A36, those that are not zero listed."""
    entries = dict(p.get("nonzero", default={}))

    def entry(key: str) -> float:
        return float(entries.pop(key, p.get(key, default=0.0)))

    rotation = [entry(f"v{i}") for i in (1, 2, 3)]
    slopes = [entry(f"A{i}{k}") for i in (1, 2, 3) for k in range(1, 7)]
    if entries:
        raise Unsupported(f"entry {', '.join(sorted(entries))} of SpinMap")
    return _make("SpinMap", **p.alignment(), rotation=rotation, slopes=slopes)


def _monitor(p: Parameters, reference: bt.Reference) -> Any:
    for key in _MONITOR_OPTIONS:
        p.get(key, default=None)
    return _make("Instrument", name=p.name)


_MONITOR_OPTIONS = (
    "backend",
    "encoding",
    "period_sample_intervals",
    "nonlinear_lens_invariants",
    "alpha",
    "beta",
    "tn",
    "cn",
)

# The one mapping from the element types of the facts to Betatron's kinds and models.
_CONVERTERS: dict[str, Callable[[Parameters, bt.Reference], Any]] = {
    "Drift": _drift("linear"),
    "ChrDrift": _drift("paraxial"),
    "ExactDrift": _drift("exact"),
    "Quad": _quadrupole,
    "ChrQuad": _quadrupole,
    "ExactQuad": _quadrupole,
    "Sbend": _sector_bend,
    "CFbend": _sector_bend,
    "ExactSbend": _exact_bend,
    "ExactCFbend": _exact_combined_bend,
    "DipEdge": _dipole_edge,
    "QuadEdge": _quadrupole_edge,
    "ChrPlasmaLens": _plasma_lens,
    "TaperedPL": _tapered_plasma_lens,
    "Buncher": _buncher,
    "ThinDipole": _thin_dipole,
    "PRot": _pole_face_rotation,
    "PlaneXYRot": _plane_rotation,
    "NonlinearLens": _nonlinear_lens,
    "PolygonAperture": _polygon_aperture,
    "ExactMultipole": _exact_multipole,
    "Multipole": _thin_multipole,
    "Sol": _solenoid,
    "ConstF": _constant_focusing,
    "Kicker": _kicker,
    "ShortRF": _short_rf,
    "RFCavity": _rf_field,
    "ChrAcc": _uniform_acceleration,
    "SoftSolenoid": _soft_solenoid,
    "SoftQuadrupole": _soft_quadrupole,
    "Aperture": _aperture,
    "LinearMap": _linear_map,
    "SpinMap": _spin_map,
    "BeamMonitor": _monitor,
    "Marker": lambda p, reference: _make("Marker", name=p.name),
    "Empty": lambda p, reference: _make("Marker", name=p.name),
}

_ACCELERATING = {"ShortRF", "RFCavity", "ChrAcc"}


# --- lattice --------------------------------------------------------------------------------------


class Lattice:
    """The lattice of a case: its flat sequence, its monitors, and the building of its elements."""

    def __init__(self, case: Facts) -> None:
        facts = case["lattice"]
        self.definitions: dict[str, Facts] = facts.get("elements", {})
        self.sequence: list[str] = list(_flatten(facts.get("sequence", [])))
        self.periods = int(case.get("periods") or 1)
        self._slices = int(case.get("settings", {}).get("lattice.nslice", 1))
        # Input files default to 10 integration steps per slice, Python constructors to 5.
        self._steps = 5 if case.get("primary_source") == ".py" else 10
        self._elements: dict[str, Any] = {}
        if not self.sequence:
            why = (case.get("reproducible_independently") or {}).get("why")
            raise Unsupported("a lattice that the facts do not list" + (f" ({why})" if why else ""))
        unknown = sorted(set(self.sequence) - set(self.definitions))
        if unknown:
            raise ValueError(f"sequence names undefined elements: {', '.join(unknown)}")

    @property
    def length(self) -> float:
        """Length of one period in m."""
        return math.fsum(float(self.definitions[n].get("ds") or 0.0) for n in self.sequence)

    def type(self, name: str) -> str:
        return str(self.definitions[name]["type"])

    def slices(self, name: str) -> int:
        return int(self.definitions[name].get("nslice") or self._slices)

    def is_monitor(self, name: str) -> bool:
        return self.type(name) == "BeamMonitor"

    def monitor_name(self, name: str) -> str:
        return str(self.definitions[name].get("name", name.split("~")[0]))

    def monitor_active(self, name: str, period: int) -> bool:
        """Whether this monitor records in this period (from 0); interval `start:stop:step`."""
        interval = self.definitions[name].get("period_sample_intervals") or 1
        if isinstance(interval, int | float):
            return period % int(interval) == 0
        first, last, step = [*str(interval).split(":"), "", ""][:3]
        if ":" not in str(interval):
            return period % int(first) == 0
        below = not last or period <= int(last)
        start = int(first or 0)
        return below and period >= start and (period - start) % int(step or 1) == 0

    def needs_rigidity(self, name: str) -> bool:
        """Whether the translation of this element divides a field by the reference's rigidity."""
        facts = self.definitions[name]
        if self.type(name) == "ExactSbend":
            return bool(facts.get("B"))
        if self.type(name) in ("Kicker", "ExactMultipole", "ExactCFbend"):
            return Parameters(name, facts, slices=1, steps=1).in_si_units()
        return False

    def depends_on_energy(self) -> bool:
        """Whether elements must be translated anew wherever the reference energy has changed."""
        accelerates = any(self.type(name) in _ACCELERATING for name in set(self.sequence))
        return accelerates and any(self.needs_rigidity(name) for name in set(self.sequence))

    def check(self, reference: bt.Reference) -> None:
        """Translate every element once, so that what is missing is found before any tracking."""
        for name in dict.fromkeys(self.sequence):
            self._build(name, reference)

    def element(self, name: str, reference: bt.Reference, *, fresh: bool = False) -> Any:
        """The Betatron element of a definition; made once unless `fresh`."""
        if fresh:
            return self._build(name, reference)
        if name not in self._elements:
            self._elements[name] = self._build(name, reference)
        return self._elements[name]

    def _build(self, name: str, reference: bt.Reference) -> Any:
        facts = self.definitions[name]
        converter = _CONVERTERS.get(str(facts["type"]))
        if converter is None:
            raise Unsupported(f"element type {facts['type']}")
        parameters = Parameters(name, facts, slices=self._slices, steps=self._steps)
        element = converter(parameters, reference)
        parameters.finish()
        return element


def _flatten(sequence: Sequence[Any]) -> Iterator[str]:
    for item in sequence:
        if isinstance(item, str):
            yield item
        elif isinstance(item, Mapping) and set(item) <= {"repeat", "block", "reverse"}:
            block = list(_flatten(item["block"]))
            for _ in range(int(item.get("repeat", 1))):
                yield from reversed(block) if item.get("reverse") else block
        elif isinstance(item, Sequence):
            yield from _flatten(item)
        else:
            raise Unsupported(f"sequence entry {item!r}")
