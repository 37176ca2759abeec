"""What the expected numbers of a case mean: from a published name to a value of a run.

Published checks name the same thing in many ways (``sigma_x``, ``sigx``, ``px_meani``,
``final_gamma_ref``, ``sigma_y.iloc[-1]``). :func:`parse` turns a name into a :class:`Quantity`, or
raises `Unsupported`: a name that is not understood is never guessed. :class:`Stages` says which
record "initial" and "final" stand for, :func:`tolerance` evaluates the rules given as text.
"""

from __future__ import annotations

import ast
import fnmatch
import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import betatron as bt
import numpy as np
from facts import (
    COORDINATES,
    ELEMENTARY_CHARGE,
    SPEED_OF_LIGHT,
    SPINS,
    Facts,
    Lattice,
    Unsupported,
    prescribed_particles,
)
from records import Particles, Record, Run

Value = float | np.ndarray
_COORD = "(px|py|pt|x|y|t)"


@dataclass(frozen=True)
class Quantity:
    """A number that a run yields.

    `stage` is "initial" or "final" where the name says so itself ("" where it does not), "start",
    "end" or "row" for a line of a per-slice table (`row`: the number of slices passed), and "run"
    for a number that belongs to the whole run. `magnitude` is the size of the coordinate behind a
    small difference: rounding in single precision is judged by it. `key` is the one name of a
    moment of the beam, "prediction" for what a formula of the case makes of the initial beam.
    """

    value: Callable[[Run, Record], Value]
    stage: str = ""
    row: int = 0
    needs_particles: bool = False
    magnitude: float | None = None
    key: str = ""


# --- stages ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Series:
    """Records of one monitor, the first or the last of them."""

    name: str
    first: bool


class Stages:
    """Which record a stage of the expected numbers stands for.

    "initial" is the first monitor record and "final" the last one, unless the conventions of the
    file, an assertion of the case or the expected entry itself name a monitor.
    """

    def __init__(self, case: Facts, conventions: Facts) -> None:
        self._monitors = {
            str(facts.get("name", key.split("~")[0]))
            for key, facts in case["lattice"].get("elements", {}).items()
            if facts.get("type") == "BeamMonitor"
        }
        self.series: dict[str, _Series] = {}
        texts = []
        for pattern, rule in re.findall(
            r"([\w*]+)\s*\(([^()]*=[^()]*)\)", str(conventions.get("stages", ""))
        ):
            if fnmatch.fnmatch(case["id"], pattern):
                texts.append(rule)
        texts += case.get("other_assertions", [])
        for text in texts:
            self._read(text)

    def _read(self, text: str) -> None:
        """Statements such as ``"initial" = last monitor record named M1`` or ``final = M2``."""
        for stage, which, name in re.findall(
            r"\"?\b(initial|final)\"?\s*=\s*(?:(first|last)\s+(?:monitor\s+)?record\s+"
            r"(?:named|of)\s+)?['\"]?(\w+)",
            text,
        ):
            if name in self._monitors:
                first = which == "first" or (not which and stage == "initial")
                self.series[stage] = _Series(name, first)

    def find(self, run: Run, stage: str, monitor: str | None = None) -> Record:
        """The record of a stage; `monitor` restricts it to the records of that monitor."""
        series = self.series.get(stage)
        if monitor is not None:
            series = _Series(monitor, stage == "initial")
        elif stage in self._monitors:
            series = _Series(stage, first=False)
        if series is not None:
            records = [record for record in run.monitors if record.name == series.name]
            if not records:
                raise Unsupported(f"monitor {series.name!r} wrote no record")
            return records[0 if series.first else -1]
        assert run.end is not None
        if stage == "initial":
            # A single record cannot be both ends: one of them is then the run's own start or end.
            return run.monitors[0] if len(run.monitors) > 1 else run.start
        if stage == "final":
            if not run.monitors or (len(run.monitors) == 1 and run.monitors[0].index == 0):
                return run.end
            return run.monitors[-1]
        raise Unsupported(f"stage {stage!r}")


# --- names ----------------------------------------------------------------------------------------


def parse(name: str, case: Facts, label: str | None = None) -> Quantity:
    """The quantity that a published name stands for, which the label of its entry may explain;
    `Unsupported` if it is not understood."""
    text = name.strip()
    if text == "m" and label is not None:
        text = f"slope of {label.strip(' :').lower()}"
    row = re.fullmatch(r"(.+)\.iloc\[(-?\d+)\]", text)
    if row:
        number = int(row[2])
        quantity = parse(row[1], case)
        if number == 0:
            return replace(quantity, stage="start")
        if number == -1:
            return replace(quantity, stage="end")
        if number > 0 and case.get("settings", {}).get("diag.slice_step_diagnostics"):
            return replace(quantity, stage="row", row=number)
        raise Unsupported(f"quantity {name!r}")

    found = _lookup(text, case)
    if found is not None:
        return found
    for pattern, group, stage in (
        (r"(?:initial|init)_(.+)", 1, "initial"),
        (r"final_(.+)", 1, "final"),
        (r"(.+)_(?:initial|init|i)", 1, "initial"),
        (r"(.+)_(?:final|f)", 1, "final"),
        (r"(.+)i", 1, "initial"),
        (r"(.+)f", 1, "final"),
    ):
        match = re.fullmatch(pattern, text)
        found = _lookup(match[group], case) if match else None
        if found is not None and found.stage == "":
            return replace(found, stage=stage)
    raise Unsupported(f"quantity {name!r}")


def _lookup(name: str, case: Facts) -> Quantity | None:
    for pattern, make in _NAMES:
        match = re.fullmatch(pattern, name)
        found = make(match, case) if match else None
        if found is not None:
            return found
    return None


def _moment(key: str) -> Quantity:
    def value(run: Run, record: Record) -> float:
        if key not in record.moments:
            mode = run.case.get("tracking_mode") or "particles"
            raise Unsupported(f"{key} in tracking mode {mode!r}")
        return float(record.moments[key])

    return Quantity(value, key=key)


def _of_reference(function: Callable[[Any], float]) -> Quantity:
    return Quantity(lambda run, record: float(function(record.reference)))


def _emittance(axis: str, case: Facts) -> Quantity:
    """Projected rms emittance; of x and an angle instead of px where an assertion defines one."""
    angle = _angle_definition(case)
    if angle is None or axis == "t":
        return _moment(f"emittance_{axis}")
    if axis == "y":
        angle = re.sub(r"\b(p?)([xy])\b", lambda m: m[1] + ("y" if m[2] == "x" else "x"), angle)

    def value(run: Run, record: Record) -> float:
        particles = _particles(record)
        slope = evaluate(angle, particles.columns)
        covariance = np.cov(particles[axis], slope, ddof=0)
        return float(np.sqrt(np.linalg.det(covariance)))

    return Quantity(value, needs_particles=True, key=f"emittance_{axis}")


def _angle_definition(case: Facts) -> str | None:
    """The expression after ``angle x'=`` in an assertion about emittances."""
    for text in case.get("other_assertions", []):
        match = re.search(r"emittances computed with angle x'\s*=\s*([^;]+)", text)
        if match:
            return match[1].strip()
    return None


def _growth(axis: str, case: Facts) -> Quantity:
    """Relative growth of an emittance from the initial to the final record, in percent."""
    emittance = _emittance(axis, case)

    def value(run: Run, record: Record) -> float:
        initial = emittance.value(run, _ends(run)[0])
        final = emittance.value(run, _ends(run)[1])
        return float(100.0 * (final - initial) / initial)

    return Quantity(value, stage="run", needs_particles=emittance.needs_particles)


def _loss_percent() -> Quantity:
    def value(run: Run, record: Record) -> float:
        initial, final = (end.moments["charge"] for end in _ends(run))
        return float(100.0 * (initial - final) / initial)

    return Quantity(value, stage="run")


def _place_of_loss() -> Quantity:
    def value(run: Run, record: Record) -> np.ndarray:
        if run.lost is None or len(run.lost) == 0:
            raise AssertionError("no particle was lost")
        return np.asarray(run.lost["s"], dtype=float)

    return Quantity(value, stage="run")


def _tune(axis: str) -> Quantity:
    """Fractional tune from four consecutive records of one monitor.

    A motion x_n = a + b cos(2 pi q n + phi) obeys
    x_0 - x_1 + x_2 - x_3 = 2 cos(2 pi q) (x_1 - x_2) for any a, b, phi; the cosine is fitted to all
    particles by least squares.
    """

    def value(run: Run, record: Record) -> float:
        if len(run.monitors) < 4:
            raise Unsupported("a tune from fewer than four monitor records")
        records = [_particles(r) for r in run.monitors[:4]]
        orders = _common_order(records)
        x = [particles[axis][order] for particles, order in zip(records, orders, strict=True)]
        twice = x[1] - x[2]
        cosine = 0.5 * float(np.dot(x[0] - x[1] + x[2] - x[3], twice) / np.dot(twice, twice))
        return math.acos(cosine) / (2.0 * math.pi)

    return Quantity(value, stage="run", needs_particles=True)


def _table_error(match: re.Match[str], case: Facts) -> Quantity | None:
    """Largest deviation of a coordinate from a table of the case, over its largest value or not.

    ``error_xi`` compares with the table of initial coordinates, ``error_xf`` with the final one.
    """
    coordinate, letter, divisor = match[1], match[2], match[3]
    if divisor is not None and divisor != f"{coordinate}{letter}_max":
        return None
    stage = {"i": "initial", "f": "final"}[letter]
    tables = [t for n, t in case.get("coordinate_tables", {}).items() if n.startswith(stage)]
    if not tables or coordinate not in tables[0]["columns"]:
        raise Unsupported(f"a table of {stage} coordinates is not given")
    column = tables[0]["columns"].index(coordinate)
    expected = np.array([line[column] for line in tables[0]["rows"]], dtype=float)
    largest = float(np.max(np.abs(expected), initial=0.0))

    def value(run: Run, record: Record) -> float:
        particles = _particles(record)
        actual = particles[coordinate][np.argsort(particles.id)]
        if actual.shape != expected.shape:
            raise AssertionError(f"{actual.size} particles, the table has {expected.size}")
        error = float(np.max(np.abs(actual - expected)))
        return error / largest if divisor else error

    return Quantity(value, stage=stage, needs_particles=True, magnitude=1.0 if divisor else largest)


def _kick_error(match: re.Match[str], case: Facts) -> Quantity | None:
    """Deviation of the momenta in the final record from a closed form at the initial positions,
    rms or largest, over the largest value of the closed form (``pr``: of the transverse momentum).

    The closed forms, of a uniform and of a Gaussian round beam, are stated in an assertion.
    """
    momentum, reduction, divisor = match[1], match[2], match[3]
    if divisor not in ("pr", momentum):
        return None
    texts = case.get("other_assertions", [])
    if any(text.startswith("px=L*K*x/R0^2 with K=2I/(I_A (beta gamma)^3)") for text in texts):
        closed_form = _uniform_kick
    elif any(re.match(r"px=L\*Ks\*g\(z\)\*x|same px,py formula", text) for text in texts):
        closed_form = _gaussian_kick
    else:
        raise Unsupported("a kick without its closed form")

    def value(run: Run, record: Record) -> float:
        ends = [_particles(r) for r in _ends(run)]
        orders = _common_order(ends)
        before, after = (
            {name: p[name][order] for name in COORDINATES}
            for p, order in zip(ends, orders, strict=True)
        )
        expected = closed_form(run, record.reference, before)
        if divisor == "pr":
            largest = np.max(np.hypot(expected["px"], expected["py"]))
        else:
            largest = np.max(np.abs(expected[momentum]))
        error = after[momentum] - before[momentum] - expected[momentum]
        size = np.sqrt(np.mean(error**2)) if reduction == "rms" else np.max(np.abs(error))
        return float(size / largest)

    return Quantity(value, stage="run", needs_particles=True)


def _classical_radius(species: bt.Species) -> float:
    """q^2/(4 pi eps0 m c^2) in m."""
    return 2.8179403205e-15 * 0.51099895069e6 / species.mass * species.charge**2


def _uniform_kick(run: Run, reference: bt.Reference, z: Facts) -> dict[str, np.ndarray]:
    """Of a uniform beam of the current I and the radius R0 = 2 sigma, over the length L."""
    distribution = run.case["beam"]["distribution"]
    radius = 2.0 * float(distribution["lambdaX"])
    per_metre = float(run.case["beam"]["current_A"]) / (
        SPEED_OF_LIGHT * ELEMENTARY_CHARGE * abs(reference.species.charge)
    )
    perveance = 2.0 * per_metre * _classical_radius(reference.species) / reference.beta_gamma**3
    strength = run.lattice.length * perveance / radius**2
    return {"px": strength * z["x"], "py": strength * z["y"]}


def _gaussian_kick(run: Run, reference: bt.Reference, z: Facts) -> dict[str, np.ndarray]:
    """Of a long round Gaussian bunch whose potential vanishes at the distance R = 6 m."""
    distribution = run.case["beam"]["distribution"]
    sigma, length = float(distribution["lambdaX"]), float(distribution["lambdaT"])
    number = float(run.case["beam"]["bunch_charge_C"]) / (
        ELEMENTARY_CHARGE * abs(reference.species.charge)
    )
    density = number * np.exp(-0.5 * (z["t"] / length) ** 2) / (math.sqrt(2.0 * math.pi) * length)
    square = z["x"] ** 2 + z["y"] ** 2
    strength = (
        2.0
        * _classical_radius(reference.species)
        * run.lattice.length
        / reference.beta_gamma**3
        * density
    )
    radial = -np.expm1(-0.5 * square / sigma**2) / square
    potential = 0.5 * (_exponential_integral(-0.5 * square / sigma**2) + np.log(36.0 / square))
    return {
        "px": strength * radial * z["x"],
        "py": strength * radial * z["y"],
        "pt": strength * z["t"] / length**2 * potential,
    }


def _exponential_integral(u: np.ndarray) -> np.ndarray:
    """Ei(u) for u < 0, that is gamma + ln(-u) + int_0^u (exp(v) - 1)/v dv, by Gauss's rule."""
    points, weights = np.polynomial.legendre.leggauss(60)
    v = 0.5 * (points + 1.0)
    inner = np.maximum(u, -40.0)[:, None]
    integral = np.expm1(inner * v) / v @ (0.5 * weights)
    series = np.euler_gamma + np.log(-inner[:, 0]) + integral
    return np.where(u < -40.0, 0.0, series)


def _wrapping_error(case: Facts) -> Quantity:
    """Largest difference of t in the final record from the initial t, brought into the bucket.

    An assertion states the rule: t_final = fmod(fmod(t + L/2, L) + L, L) - L/2.
    """
    texts = case.get("other_assertions", [])
    if not any(text.startswith("t_final=fmod(fmod(t+L/2,L)+L,L)-L/2") for text in texts):
        raise Unsupported("a difference of t without the rule for it")
    length = float(case["beam"]["bucket_length_m"])

    def value(run: Run, record: Record) -> float:
        ends = [_particles(r) for r in _ends(run)]
        before, after = (p["t"][o] for p, o in zip(ends, _common_order(ends), strict=True))
        expected = np.fmod(np.fmod(before + length / 2, length) + length, length) - length / 2
        return float(np.max(np.abs(after - expected)))

    return Quantity(value, stage="run", needs_particles=True, magnitude=length)


def _at_fixed_time(case: Facts) -> bool:
    """Whether an assertion says that positions and momenta are meant at a fixed time."""
    texts = case.get("other_assertions", [])
    return any(text.startswith("back-transformed lab-frame std") for text in texts)


def _fixed_time_sigma(name: str, case: Facts) -> Quantity | None:
    """Standard deviation of a position [m] or momentum [m c] at a fixed time."""
    if not _at_fixed_time(case):
        return None

    def value(run: Run, record: Record) -> float:
        particles = _particles(record)
        beam = bt.Beam.from_arrays(record.reference, **particles.columns)
        return float(beam.at_fixed_time()[name].std(ddof=0))

    return Quantity(value, needs_particles=True)


def _real_particles(case: Facts) -> Quantity | None:
    """Sum of the weights, if the case has particles with weights."""
    given = case["beam"].get("explicit_particles")
    if not given or "w" not in (given[0] if isinstance(given, list) else given):
        return None

    def value(run: Run, record: Record) -> float:
        electric = abs(record.reference.species.charge) * ELEMENTARY_CHARGE
        return abs(record.moments["charge"]) / electric

    return Quantity(value)


def _invariant(kind: str, which: str) -> Quantity:
    """Mean, standard deviation or rms of an invariant of the nonlinear integrable lens."""
    reduce: dict[str, Callable[[np.ndarray], float]] = {
        "mean": lambda v: float(np.mean(v)),
        "sig": lambda v: float(np.std(v)),
        "rms": lambda v: float(np.sqrt(np.mean(v**2))),
    }
    return Quantity(lambda run, record: reduce[kind](_lens_invariant(record, which)), "", 0, True)


def _invariant_change(which: str) -> Quantity:
    """Largest change of an invariant of any particle between the initial and final records."""

    def value(run: Run, record: Record) -> float:
        ends = _ends(run)
        orders = _common_order([_particles(r) for r in ends])
        first, last = (_lens_invariant(r, which)[o] for r, o in zip(ends, orders, strict=True))
        return float(np.max(np.abs(last - first)))

    return Quantity(value, stage="run", needs_particles=True)


def _fringe_generator_change() -> Quantity:
    """Largest change of the generator of a nonlinear dipole edge across it, with K1 = K2 = 0 in it.

    Omega = -c2 x + c3 px + c5 (x^2 - y^2) - c8 x^3 + c9 x y^2 + c10 (x^2 px - y^2 px - 2 x y py)
          - c11 y^2 px + c12 y^4 for particles of the reference energy, coefficients as in
    K. Hwang, S. Y. Lee, Phys. Rev. ST Accel. Beams 18, 122401 (2015).
    """

    def value(run: Run, record: Record) -> float:
        edges = [e for e in run.case["lattice"]["elements"].values() if e["type"] == "DipEdge"]
        if len(edges) != 1 or edges[0].get("model") != "nonlinear":
            raise Unsupported("the generator of more than one nonlinear edge")
        ends = [_particles(r) for r in _ends(run)]
        orders = _common_order(ends)
        first, last = (_fringe_generator(p, edges[0])[o] for p, o in zip(ends, orders, strict=True))
        return float(np.max(np.abs(last - first)))

    return Quantity(value, stage="run", needs_particles=True)


def _fringe_generator(particles: Particles, edge: Facts) -> np.ndarray:
    h, gap, psi = 1.0 / float(edge["rc"]), float(edge["g"]), float(edge["psi"])
    k0, k3 = float(edge.get("K0", math.pi**2 / 6.0)), float(edge.get("K3", 1.0 / 6.0))
    side = 1.0 if edge.get("location", "entry") == "entry" else -1.0
    sine, cosine, tangent = math.sin(psi), math.cos(psi), math.tan(psi)
    if np.any(particles["pt"] != 0.0):
        raise Unsupported("the generator of a dipole edge at another energy")
    x, px, y, py = (particles[q] for q in ("x", "px", "y", "py"))
    c10, c11 = side * h * tangent**2 / 2.0, side * h / 2.0
    return (
        -(sine * gap**2 * k0 * h**2 / (2.0 * cosine**3)) * x
        + side * gap**2 * k0 * h / cosine**2 * px
        + h * tangent / 2.0 * (x**2 - y**2)
        - tangent**3 * h**2 / 12.0 * x**3
        + tangent * h**2 / (4.0 * cosine**2) * x * y**2
        + c10 * (x**2 * px - y**2 * px - 2.0 * x * y * py)
        - c11 * y**2 * px
        + (4.0 / cosine - 8.0 / cosine**3) * k3 * h**2 / (24.0 * gap) * y**4
    )


def _lens_invariant(record: Record, which: str) -> np.ndarray:
    """H or I of Danilov and Nagaitsev for every particle, with the monitor's alpha, beta, tn, cn.

    Normalised coordinates u = x/(c sqrt(beta)), w = px sqrt(beta)/c + alpha u; zeta = u_x + i u_y.
    H = (u_x^2 + u_y^2 + w_x^2 + w_y^2)/2 + tn Re[zeta/sqrt(1-zeta^2) asin(zeta)];
    I = (u_x w_y - u_y w_x)^2 + w_x^2 + u_x^2 + tn Re[(zeta + zeta*)/sqrt(1-zeta^2) asin(zeta)].
    V. Danilov, S. Nagaitsev, Phys. Rev. ST Accel. Beams 13, 084002 (2010).
    """
    options = record.options
    if not options.get("nonlinear_lens_invariants"):
        raise Unsupported("invariants at a monitor that does not define them")
    alpha, beta, tn, cn = (float(options[key]) for key in ("alpha", "beta", "tn", "cn"))
    particles = _particles(record)
    ux, uy = (particles[q] / (cn * math.sqrt(beta)) for q in ("x", "y"))
    wx = particles["px"] * math.sqrt(beta) / cn + alpha * ux
    wy = particles["py"] * math.sqrt(beta) / cn + alpha * uy
    zeta = ux + 1j * uy
    lens = np.arcsin(zeta) / np.sqrt(1.0 - zeta**2)
    if which == "H":
        return 0.5 * (ux**2 + uy**2 + wx**2 + wy**2) + tn * (zeta * lens).real
    return (ux * wy - uy * wx) ** 2 + wx**2 + ux**2 + tn * (2.0 * ux * lens).real


def _hamiltonian_change() -> Quantity:
    """Largest change of the exact Hamiltonian between two records, over its spread.

    Defined where the elements between the two records are straight, of one type and of equal
    strength, so that the Hamiltonian does not depend on s there:
    H = -sqrt(1 - 2 pt/beta0 + pt^2 - px^2 - py^2) + Re sum_n (k_n + i s_n)(x + i y)^(n+1)/(n+1)!
        - pt/beta0, with the strengths divided by the signed rigidity.
    """

    def value(run: Run, record: Record) -> float:
        first, last = _ends(run)
        strengths = _strengths_between(run.lattice, first, last)
        orders = _common_order([_particles(r) for r in (first, last)])
        before = _hamiltonian(first, strengths)[orders[0]]
        after = _hamiltonian(last, strengths)[orders[1]]
        return float(np.max(np.abs(after - before)) / np.std(before))

    return Quantity(value, stage="run", needs_particles=True)


def _strengths_between(lattice: Lattice, first: Record, last: Record) -> np.ndarray:
    """Complex normalised strengths k_n + i s_n, n = 0, 1, ..., common to all elements between."""
    if first.period != last.period:
        raise Unsupported("conservation of a Hamiltonian over several periods")
    found: list[np.ndarray] = []
    for name in lattice.sequence[first.index + 1 : last.index + 1]:
        facts = lattice.definitions[name]
        if facts["type"] == "BeamMonitor":
            continue
        if facts["type"] == "ExactDrift":
            normal, skew = [0.0], [0.0]
        elif facts["type"] == "ExactQuad":
            normal, skew = [0.0, float(facts["k"])], [0.0]
        elif facts["type"] == "ExactMultipole":
            normal, skew = [0.0, *facts["k_normal"][1:]], [0.0, *facts["k_skew"][1:]]
        else:
            raise Unsupported(f"the Hamiltonian of {facts['type']}")
        scale = 1.0 / first.reference.rigidity if facts.get("unit") else 1.0
        strengths = np.zeros(max(len(normal), len(skew)), dtype=complex)
        strengths[: len(normal)] += scale * np.asarray(normal)
        strengths[: len(skew)] += 1j * scale * np.asarray(skew)
        found.append(strengths)
    if not found or any(not np.array_equal(found[0], other) for other in found[1:]):
        raise Unsupported("conservation of a Hamiltonian across different elements")
    return found[0]


def _hamiltonian(record: Record, strengths: np.ndarray) -> np.ndarray:
    particles = _particles(record)
    x, px, y, py, _, pt = (particles[name] for name in COORDINATES)
    inverse_beta = 1.0 / record.reference.beta
    energy = -np.sqrt(1.0 - 2.0 * pt * inverse_beta + pt**2 - px**2 - py**2)
    potential = np.zeros_like(x)
    for n, strength in enumerate(strengths):
        potential += (strength * (x + 1j * y) ** (n + 1)).real / math.factorial(n + 1)
    return np.asarray(energy + potential - pt * inverse_beta)


def _spin_change() -> Quantity:
    """Largest length of the change of the spin of any particle, from first to last record."""

    def value(run: Run, record: Record) -> float:
        return float(np.max(np.linalg.norm(_changes(run, SPINS), axis=0)))

    return Quantity(value, stage="run", needs_particles=True, magnitude=1.0)


def _changes(run: Run, names: Sequence[str]) -> np.ndarray:
    """Final less initial columns of these names, of particles that are in both records."""
    first, last = (_particles(r) for r in _ends(run))
    before, after = _common_order([first, last])
    return np.array([last[name][after] - first[name][before] for name in names])


def _slope(names: Sequence[str]) -> Quantity:
    """Power of the distance |z| of a particle from the reference orbit with which its columns
    differ between two models: by linear regression of the logarithms.

    Where the lattice ends at the place where it began, it holds both models itself, one the inverse
    of the other; else the same lattice in the linear model is what the final beam is compared with.
    """

    def value(run: Run, record: Record) -> float:
        start = _particles(_ends(run)[0])
        distance = np.linalg.norm([start[q] for q in COORDINATES], axis=0)
        change = _changes(run, names)
        if run.lattice.length != 0.0:
            change -= _linear_changes(run, names)
        size = np.linalg.norm(change, axis=0)
        local = np.diff(np.log(size)) / np.diff(np.log(distance))
        if np.ptp(local) > 1.0:
            # first-order differences of the integrators at small distances, third order at large
            # ones: the one number that is left of this depends on the integrator
            text = ", ".join(f"{slope:.2f}" for slope in local)
            raise Unsupported(f"no power law: from particle to particle the slope is {text}")
        return float(np.polyfit(np.log(distance), np.log(size), 1)[0])

    return Quantity(value, stage="run", needs_particles=True)


def _linear_changes(run: Run, names: Sequence[str]) -> np.ndarray:
    """What the lattice of a run would change in its first record if all elements were linear."""
    record = _ends(run)[0]
    particles = _particles(record)
    beam = bt.Beam.from_arrays(record.reference, **{q: particles[q] for q in COORDINATES})
    if "sx" in particles.columns:
        beam.set_spin(*(particles[q] for q in SPINS))
    elements = []
    for name in run.lattice.sequence * run.lattice.periods:
        element = run.lattice.element(name, record.reference, fresh=True)
        element.model = "linear"
        elements.append(element)
    bt.Line(elements).track(beam, progress=False)
    return np.array([beam[q] - particles[q] for q in names])


def _reference_loss() -> Quantity:
    """Energy that the reference particle loses from first to last record, relative."""

    def value(run: Run, record: Record) -> float:
        first, last = (r.reference.gamma for r in _ends(run))
        return (first - last) / first

    return Quantity(value, stage="run")


def _betatron_periods(case: Facts) -> Quantity | None:
    """sqrt(k) L/(2 pi) of the one quadrupole of a case that is titled to be one period long."""
    if "over one betatron period" not in case.get("title", ""):
        return None
    quadrupoles = [e for e in case["lattice"]["elements"].values() if e["type"] == "Quad"]
    if len(quadrupoles) != 1:
        return None
    strength, length = float(quadrupoles[0]["k"]), float(quadrupoles[0]["ds"])
    return Quantity(lambda run, record: math.sqrt(strength) * length / (2.0 * math.pi))


def _depolarised(component: str, case: Facts) -> Quantity | None:
    """A component of the polarisation behind a sector bend over one period of the spin tune.

    The rule that the case states: the initial one times exp(-lambda^2/2), with a = 1 + G gamma,
    psi = 2 pi/(G gamma), curvature h = 1/rc and the spreads sx, spx, spt of the initial beam,
    lambda^2 = 4 spx^2 a^2 sin^4(psi/2) + h^2 a^2 sx^2 sin^2(psi)
             + spt^2 (-2 pi beta^2 + a sin(psi))^2/beta^2.
    """
    texts = case.get("other_assertions", [])
    if not any(text.startswith("P_x,z damp by exp(-lam2/2), lam2=4 spx^2 a^2") for text in texts):
        return None
    bends = [e for e in case["lattice"]["elements"].values() if e["type"] == "Sbend"]
    if len(bends) != 1:
        return None

    def value(run: Run, record: Record) -> float:
        reference, m = record.reference, record.moments
        tune = reference.species.anomaly * reference.gamma
        a, psi, h = 1.0 + tune, 2.0 * math.pi / tune, 1.0 / float(bends[0]["rc"])
        beta = reference.beta
        squared = (
            4.0 * m["sigma_px"] ** 2 * a**2 * math.sin(psi / 2.0) ** 4
            + h**2 * a**2 * m["sigma_x"] ** 2 * math.sin(psi) ** 2
            + m["sigma_pt"] ** 2 * (-2.0 * math.pi * beta**2 + a * math.sin(psi)) ** 2 / beta**2
        )
        return float(m[f"mean_s{component}"] * math.exp(-squared / 2.0))

    return Quantity(value, stage="run", key="prediction")


def _particles(record: Record) -> Particles:
    if record.particles is None:
        raise Unsupported("a quantity of single particles in this tracking mode")
    return record.particles


def _common_order(records: Sequence[Particles]) -> list[np.ndarray]:
    """For each record the positions of the particles that are in all of them, in equal order."""
    common = records[0].id
    for particles in records[1:]:
        common = np.intersect1d(common, particles.id)
    orders = [np.argsort(particles.id) for particles in records]
    return [
        order[np.searchsorted(particles.id[order], common)]
        for particles, order in zip(records, orders, strict=True)
    ]


def _ends(run: Run) -> tuple[Record, Record]:
    """The initial and final records of a run, as `Stages` of its case has set them."""
    if run.ends is None:
        raise ValueError("the stages of this run have not been found yet")
    return run.ends


_NameRule = tuple[str, Callable[[re.Match[str], Facts], Quantity | None]]

_NAMES: list[_NameRule] = [
    (r"(?:sigma_|sig)(x|y|z|px|py|pz)", lambda m, c: _fixed_time_sigma(m[1], c)),
    (rf"(?:sigma|sig|std|rms)_?{_COORD}", lambda m, c: _moment(f"sigma_{m[1]}")),
    (rf"{_COORD}_(?:sigma|sig|std|rms)", lambda m, c: _moment(f"sigma_{m[1]}")),
    (rf"mean_?{_COORD}", lambda m, c: _moment(f"mean_{m[1]}")),
    (rf"{_COORD}_mean", lambda m, c: _moment(f"mean_{m[1]}")),
    (rf"(min|max)_?{_COORD}", lambda m, c: _moment(f"{m[1]}_{m[2]}")),
    (rf"{_COORD}_(min|max)", lambda m, c: _moment(f"{m[2]}_{m[1]}")),
    (r"(?:emittance|emitt|emit)_?([xyt])", lambda m, c: _emittance(m[1], c)),
    (r"(?:emittance|emitt|emit)_?([xyt])_?n", lambda m, c: _moment(f"emittance_{m[1]}n")),
    (r"(?:emittance|emitt|emit)_?([123])", lambda m, c: _moment(f"emittance_{m[1]}")),
    (r"d(?:emittance|emitt|emit)_?([xyt])", lambda m, c: _growth(m[1], c)),
    (r"(alpha|beta)_?([xyt])", lambda m, c: _moment(f"{m[1]}_{m[2]}")),
    (r"(?:dispersion|disp)_?(px|py|x|y)", lambda m, c: _moment(f"dispersion_{m[1]}")),
    (r"P([xyz])f", lambda m, c: _depolarised(m[1], c)),
    (r"dpt_ref", lambda m, c: _reference_loss()),
    (r"dspinmax", lambda m, c: _spin_change()),
    (r"slope of spin difference norm", lambda m, c: _slope(SPINS)),
    (r"slope of phase space difference norm", lambda m, c: _slope(COORDINATES)),
    (r"condition", lambda m, c: _betatron_periods(c)),
    (r"polarization_([xyz])", lambda m, c: _moment(f"mean_s{m[1]}")),
    (r"charge(?:_C)?", lambda m, c: _moment("charge")),
    (r"num_particles|npart|n_particles", lambda m, c: _moment("n")),
    (r"N", lambda m, c: _real_particles(c)),
    (r"Delta_Omega\.max\(\)", lambda m, c: _fringe_generator_change()),
    (r"beam_joined\['dt'\]", lambda m, c: _wrapping_error(c)),
    (r"s(?:_ref)?", lambda m, c: _of_reference(lambda r: r.s)),
    (r"gamma(?:_ref)?", lambda m, c: _of_reference(lambda r: r.gamma)),
    (r"beta_ref", lambda m, c: _of_reference(lambda r: r.beta)),
    (r"beta_?gamma(?:_ref)?", lambda m, c: _of_reference(lambda r: r.beta_gamma)),
    (r"x_ref", lambda m, c: _of_reference(lambda r: r.position[0])),
    (r"y_ref", lambda m, c: _of_reference(lambda r: r.position[1])),
    (r"z_ref", lambda m, c: _of_reference(lambda r: r.position[2])),
    (r"t_ref", lambda m, c: _of_reference(lambda r: r.t)),
    (r"px_ref", lambda m, c: _of_reference(lambda r: r.beta_gamma * r.frame[2][0])),
    (r"py_ref", lambda m, c: _of_reference(lambda r: r.beta_gamma * r.frame[2][1])),
    (r"pz_ref", lambda m, c: _of_reference(lambda r: r.beta_gamma * r.frame[2][2])),
    (r"pt_ref", lambda m, c: _of_reference(lambda r: -r.gamma)),
    (r"total_s", lambda m, c: Quantity(lambda run, record: run.lattice.length, stage="run")),
    (r"loss_pct|loss_percent", lambda m, c: _loss_percent()),
    (r"s_lost", lambda m, c: _place_of_loss()),
    (r"(?:tune_?|nu_?)([xyt])", lambda m, c: _tune(m[1])),
    (rf"error_{_COORD}([if])(?: / (\w+))?", _table_error),
    (r"d(px|py|pt)_(rms|max) / (pr|px|py|pt)_max", _kick_error),
    (r"(mean|sig)_?([HI])", lambda m, c: _invariant(m[1], m[2])),
    (r"([HI])rms", lambda m, c: _invariant("rms", m[1])),
    (r"(?:beam_joined\[')?d([HI])(?:'\])?", lambda m, c: _invariant_change(m[1])),
    (r"dH_max_relative", lambda m, c: _hamiltonian_change()),
]


# --- tolerances given as text ---------------------------------------------------------------------

_OPERATORS: Mapping[type, Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
}
_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "sqrt": np.sqrt,
    "abs": np.abs,
    "exp": np.exp,
    "log": np.log,
    "sin": np.sin,
    "cos": np.cos,
}


def evaluate(expression: str, names: Mapping[str, Any] | Callable[[str], Any]) -> Any:
    """Value of an arithmetic expression (+ - * / ** ^, brackets, a few functions) and nothing else.

    `names` gives the value of a name. Raises `Unsupported` for anything but arithmetic.
    """
    look_up = names if callable(names) else names.__getitem__

    def visit(node: ast.AST) -> Any:
        match node:
            case ast.Expression(body=body):
                return visit(body)
            case ast.Constant(value=int() | float() as number):
                return number
            case ast.Name(id=name):
                return look_up(name)
            case ast.UnaryOp(op=op, operand=operand) if type(op) in _OPERATORS:
                return _OPERATORS[type(op)](visit(operand))
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
                return _OPERATORS[type(op)](visit(left), visit(right))
            case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]) if (
                name in _FUNCTIONS
            ):
                return _FUNCTIONS[name](visit(argument))
        raise Unsupported(f"expression {expression!r}")

    try:
        tree = ast.parse(expression.replace("^", "**"), mode="eval")
    except SyntaxError as error:
        raise Unsupported(f"expression {expression!r}") from error
    return visit(tree)


def rule_expression(rule: str) -> str:
    """The arithmetic part of a rule, without the remark in brackets that may follow it."""
    for end in [len(rule), *(m.start() for m in reversed(list(re.finditer(r"\s\(", rule))))]:
        text = rule[:end].strip()
        try:
            ast.parse(text, mode="eval")
        except SyntaxError:
            continue
        return text
    raise Unsupported(f"tolerance {rule!r}")


def rule_names(rule: str) -> list[str]:
    """The names of quantities that a rule refers to."""
    tree = ast.parse(rule_expression(rule), mode="eval")
    calls = {
        node.func.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    return sorted(names - calls - {"num_particles"})


def tolerance(rule: str, run: Run, record: Record) -> float:
    """Value of a tolerance rule at a record; `num_particles` is the number the case prescribes."""

    def look_up(name: str) -> float:
        if name == "num_particles":
            count = prescribed_particles(run.case)
            if count is None:
                raise Unsupported("num_particles is not given")
            return count
        return float(parse(name, run.case).value(run, record))

    return float(evaluate(rule_expression(rule), look_up))
