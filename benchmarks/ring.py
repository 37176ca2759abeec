"""A storage ring: Betatron beside xtrack and PyAT at equal accuracy, in one run on one pinned core.

    python benchmarks/ring.py            # a few minutes
    python benchmarks/ring.py --quick    # a few particles and turns: does it work?

The ring is 32 cells S28d of the ESRF-EBS (6 GeV), which PyAT ships as hmba.mat; cavities are off,
and so are the third-order fringes of quadrupoles, which the codes model differently. What does
nothing (markers, monitors, cavities) is left out in all of them. All use the paraxial Hamiltonian.

Equal accuracy: quadrupoles and bends are solved in closed form by Betatron and xtrack, and
integrated by PyAT; thick sextupoles and octupoles are integrated by all. Of its settings (order and
steps) each code gets the cheapest one whose particles, after one turn, are within TOLERANCE of the
same code with many steps: largest rms difference in x, px, y, py over the rms of the coordinate.
The converged coordinates of the codes are compared with each other, too.

Then 1e5 turns: the Courant-Snyder actions of a few particles, turn by turn. A symplectic integrator
lets them oscillate, but not drift.

Tables are printed, and everything is written as JSON to benchmarks/results/ring.json. Exit status:
0 if all targets are reached, 1 if not. With --quick they are not judged.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import common  # before everything that computes: it pins the process to one core
from common import Effort, Report, Target, console
from rich.table import Table

# isort: split
import betatron as bt
import numpy as np
import peers

CELLS = 32
TOLERANCE = 1e-3  # the 20 steps that the file of PyAT asks for reach 0.7e-3
ACTIONS_TOLERANCE = 1e-6  # change of an action over all turns, over the action


@dataclass(frozen=True)
class Plan:
    particles: int
    turns: int
    many_turns: int
    effort: Effort
    judged: bool


FULL = Plan(1000, 10, 100_000, Effort(budget=10.0, repetitions=5), True)
QUICK = Plan(64, 1, 500, Effort(budget=0.0, repetitions=1), False)


# --- the ring in the form of each code ------------------------------------------------------------


def load_cell() -> Any:
    """The cell as an at.Lattice of what acts on particles."""
    import at
    import machine_data

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cell = at.load_lattice(str(Path(machine_data.__file__).parent / "hmba.mat"))
    elements = []
    for element in cell:
        if element.PassMethod == "IdentityPass":
            continue
        copy = element.deepcopy()
        copy.FringeQuadEntrance = copy.FringeQuadExit = 0
        elements.append(copy)
    return at.Lattice(elements, energy=cell.energy, periodicity=CELLS, particle=cell.particle)


@dataclass(frozen=True)
class Setting:
    """How sextupoles and octupoles (PyAT: all magnets) are integrated."""

    label: str
    cost: int  # kicks per magnet
    values: tuple[Any, ...]


class Betatron:
    name = "Betatron"
    settings = (
        *(Setting(f"order 2, {n} steps", n, (2, n)) for n in (1, 2, 3, 4, 6, 8, 12, 16)),
        *(Setting(f"order 4, {n} steps", 3 * n, (4, n)) for n in (1, 2, 3, 4)),
    )
    converged = Setting("order 6, 10 steps", 70, (6, 10))

    def __init__(self, cell: bt.Line, reference: bt.Reference) -> None:
        self._cell = cell

    def build(self, setting: Setting) -> Callable[[bt.Beam, int], common.Run]:
        order, steps = setting.values
        elements = [bt.element_from_dict(e.to_dict()) for e in self._cell]
        for e in elements:
            e.order, e.steps = order, steps
        line = CELLS * bt.Line(elements)
        return lambda beam, turns: _BetatronRun(line, beam, turns)


class _BetatronRun:
    def __init__(self, line: bt.Line, beam: bt.Beam, turns: int) -> None:
        self._line, self._start, self._turns = line, beam, turns
        self._beam = beam.copy()

    def reset(self) -> None:
        self._beam = self._start.copy()

    def track(self) -> None:
        self._line.track(self._beam, turns=self._turns, threads=1, progress=False)

    def coordinates(self) -> np.ndarray:
        return np.array(self._beam.array)


class Xtrack:
    settings = (
        *(Setting(f"teapot, {n} kicks", n, ("teapot", n, 1)) for n in (1, 2, 3, 4, 6, 8, 12, 16)),
        *(Setting(f"yoshida-4, {n} kicks", n, ("yoshida-4", n, 1)) for n in (3, 6, 9, 12)),
    )
    converged = Setting("yoshida-8, 60 kicks", 60, ("yoshida-8", 60, 60))

    def __init__(self, cell: bt.Line, reference: bt.Reference, flags: str = "") -> None:
        self._ring = _XtrackRing(cell, reference, flags)
        self.name = "xtrack, for this CPU" if flags else "xtrack, for any CPU"

    def build(self, setting: Setting) -> Callable[[bt.Beam, int], common.Run]:
        """Runs share one compiled line: a run uses the setting that was built last."""
        self._ring.set(*setting.values)
        return lambda beam, turns: _XtrackRun(self._ring, beam, turns)


class _XtrackRing:
    """What peers.XtrackRun needs: line, context, reference."""

    def __init__(self, cell: bt.Line, reference: bt.Reference, flags: str) -> None:
        import xobjects
        import xtrack

        self.context = xobjects.ContextCpu()
        self.context.allow_kernel_compilation = True
        self.reference = {
            "mass0": reference.species.mass,
            "q0": reference.species.charge,
            "p0c": reference.momentum,
        }
        split = {
            "model": "drift-kick-drift-expanded",
            "edge_entry_active": False, "edge_exit_active": False,
        }  # fmt: skip

        def translated(e: bt.Element) -> Any:
            p = e.parameters()
            length = {"length": p["length"]}
            if e.kind == "Drift":
                return xtrack.Drift(model="expanded", **length)
            if e.kind == "Quadrupole":
                return xtrack.Quadrupole(
                    k1=p["k1"],
                    model="mat-kick-mat",
                    edge_entry_active=False,
                    edge_exit_active=False,
                    **length,
                )
            if e.kind == "Bend" and not p["kn"] and not p["ks"]:
                return xtrack.Bend(
                    angle=p["angle"], k0=p["angle"] / p["length"], k1=p["k1"], model="mat-kick-mat",
                    edge_entry_angle=p["e1"], edge_exit_angle=p["e2"],
                    edge_entry_model="linear", edge_exit_model="linear", **length,
                )  # fmt: skip
            if e.kind == "Sextupole" and not p["k2s"]:
                return xtrack.Sextupole(k2=p["k2"], **split, **length)
            if (
                e.kind == "Multipole"
                and not any(p["ksl"])
                and not any(p["knl"][:3])
                and len(p["knl"]) == 4
            ):
                return xtrack.Octupole(k3=p["knl"][3] / p["length"], **split, **length)
            raise ValueError(f"{e!r}: not translated")

        self._split = (xtrack.Sextupole, xtrack.Octupole)
        self._matrices = (xtrack.Quadrupole, xtrack.Bend)
        self.line = xtrack.Line(elements=[translated(e) for _ in range(CELLS) for e in cell])
        self.line.particle_ref = xtrack.Particles(**self.reference)
        with peers.compiler_flags(flags), redirect_stdout(io.StringIO()):
            self.line.build_tracker(
                _context=self.context,
                use_prebuilt_kernels=not flags and peers.version("xsuite") is not None,
            )
            self.line.track(xtrack.Particles(_context=self.context, **self.reference))  # compiles

    def set(self, integrator: str, kicks: int, matrix_kicks: int) -> None:
        """`matrix_kicks`: in quadrupoles and bends, between matrices; left alone, xtrack takes
        so many that bends cost more than three times as much, for no accuracy that shows here."""
        for element in self.line.elements:
            if isinstance(element, self._split):
                element.integrator, element.num_multipole_kicks = integrator, kicks
            elif isinstance(element, self._matrices):
                element.integrator, element.num_multipole_kicks = "uniform", matrix_kicks


class _XtrackRun(peers.XtrackRun):
    def __init__(self, tracker: _XtrackRing, beam: bt.Beam, turns: int) -> None:
        super().__init__(tracker, beam)
        self._turns = turns

    def track(self) -> None:
        self._line.track(self._particles, num_turns=self._turns)


class PyAT:
    name = "PyAT"
    settings = tuple(Setting(f"order 4, {n} steps", 3 * n, (n,)) for n in (5, 10, 15, 20, 30, 40))
    converged = Setting("order 4, 100 steps", 300, (100,))

    def __init__(self, cell: Any) -> None:
        self._cell = cell

    def build(self, setting: Setting) -> Callable[[bt.Beam, int], common.Run]:
        period = [e.deepcopy() for e in self._cell]
        for e in period:
            if hasattr(e, "NumIntSteps"):
                e.NumIntSteps = setting.values[0]
        return lambda beam, turns: _PyATRun(CELLS * period, beam, turns)


class _PyATRun(peers.PyATRun):
    """Its coordinates t and pt are not looked at."""

    def __init__(self, lattice: list[Any], beam: bt.Beam, turns: int) -> None:
        self.lattice, self.length, self._turns = lattice, 0.0, turns
        super().__init__(self, beam)

    def track(self) -> None:
        self._track(
            self.lattice,
            self._particles,
            nturns=self._turns,
            refpts=None,
            in_place=True,
            keep_lattice=True,
        )


# --- equal accuracy -------------------------------------------------------------------------------


def difference(run: common.Run, converged: np.ndarray) -> float:
    """Largest rms difference in x, px, y, py over the rms of the coordinate."""
    run.reset()
    run.track()
    apart = run.coordinates()[:4] - converged
    return float(np.max(np.sqrt(np.mean(apart**2, axis=1) / np.mean(converged**2, axis=1))))


def converged_coordinates(code: Any, beam: bt.Beam) -> np.ndarray:
    run = code.build(code.converged)(beam, 1)
    run.track()
    return run.coordinates()[:4].copy()


def cheapest(code: Any, beam: bt.Beam, converged: np.ndarray) -> tuple[Setting, float, Any]:
    """The first setting, by cost, that is accurate enough; its error and what makes runs with
    it."""
    tried = []
    for setting in sorted(code.settings, key=lambda s: s.cost):
        make = code.build(setting)
        error = difference(make(beam, 1), converged)
        if error <= TOLERANCE:
            return setting, error, make
        tried.append(f"{setting.label}: {error:.1e}")
    raise RuntimeError(f"{code.name}: no setting reaches {TOLERANCE:g} ({'; '.join(tried)})")


# --- parts ----------------------------------------------------------------------------------------


def make_beam(reference: bt.Reference, n: int) -> bt.Beam:
    """About matched, of 10 and 5 pm (natural emittance of the ring: 130 pm), energy spread 1e-3."""
    shape = bt.Gaussian.from_twiss(
        beta_x=6.9, alpha_x=0.0, emittance_x=1e-10, beta_y=2.6, alpha_y=0.0, emittance_y=1e-11,
        beta_t=3.0, alpha_t=0.0, emittance_t=3e-6,
    )  # fmt: skip
    return bt.Beam(reference, shape, n=n, seed=1)


def compare(report: Report, plan: Plan, codes: Sequence[Any], beam: bt.Beam, elements: int) -> None:
    converged = {code.name: converged_coordinates(code, beam) for code in codes}
    ours = converged["Betatron"]
    runs: dict[str, common.Run] = {}
    rows = {}
    for code in codes:
        theirs = converged[code.name]
        apart = float(
            np.max(np.sqrt(np.mean((theirs - ours) ** 2, axis=1) / np.mean(ours**2, axis=1)))
        )
        setting, error, make = cheapest(code, beam, theirs)
        runs[code.name] = make(beam, plan.turns)
        rows[code.name] = (setting.label, error, apart)
        report.agreement.append({
            "code": code.name, "setting": setting.label, "error": error,
            "converged_difference_from_betatron": apart,
        })  # fmt: skip
    timings = common.measure(runs, plan.effort)
    scale = 1e9 / (len(beam) * plan.turns * elements)
    table = Table(
        "code",
        "setting",
        "error",
        "converged, from Betatron",
        "ns/particle/element",
        "Betatron is faster by",
        title=f"{len(beam)} particles, {plan.turns} turns of {elements} elements",
    )
    for name, timing in timings.items():
        label, error, apart = rows[name]
        factor = timing.best / timings["Betatron"].best
        table.add_row(
            name,
            label,
            f"{error:.1e}",
            f"{apart:.1e}",
            f"{timing.best * scale:.2f}",
            f"{factor:.1f}",
        )
        report.measurements.append(
            {
                "code": name,
                "setting": label,
                "ns_per_particle_element": timing.best * scale,
                "median_ns": timing.median * scale,
                "repetitions": timing.repetitions,
                "busy": timing.busy,
            }
        )
    console.print(table)
    times = [t.best for name, t in timings.items() if name.startswith("xtrack")]
    fastest = min(times) / timings["Betatron"].best if times else None
    report.targets.append(Target("speed over the fastest xtrack", 10.0, True, "x", fastest))


def watch_actions(report: Report, plan: Plan, line: bt.Line, reference: bt.Reference) -> None:
    """Courant-Snyder actions of eight particles on the axis of energy, over many turns."""
    n = 8
    amplitude = np.linspace(1e-6, 20e-6, n)
    zero = np.zeros(n)
    beam = bt.Beam.from_arrays(
        reference, x=amplitude, px=zero, y=amplitude[::-1] / 4, py=zero, t=zero, pt=zero
    )
    matrix = line.matrix(reference)
    with tempfile.TemporaryDirectory() as folder:
        watch = bt.TurnByTurn(Path(folder) / "ring.h5", quantities="coordinates")
        line.track(beam, turns=plan.many_turns, monitor=watch, progress=False, threads=1)
        seen = watch.coordinates()
    worst = 0.0
    for plane in (0, 2):
        q, p = seen[plane], seen[plane + 1]
        action = _action(matrix[plane : plane + 2, plane : plane + 2], q, p)
        # means over the halves: oscillations average out, a drift does not
        half = len(action) // 2
        first, second = action[:half].mean(axis=0), action[half:].mean(axis=0)
        worst = max(worst, float(np.max(2 * np.abs(second - first) / (first + second))))
    report.measurements.append({"turns": plan.many_turns, "largest_change_of_an_action": worst})
    report.targets.append(
        Target(f"change of actions, {plan.many_turns} turns", ACTIONS_TOLERANCE, False, "", worst)
    )


def _action(turn: np.ndarray, q: np.ndarray, p: np.ndarray) -> np.ndarray:
    """(gamma q^2 + 2 alpha q p + beta p^2)/2 with the Twiss parameters of a one-turn matrix."""
    sine = np.sign(turn[0, 1]) * np.sqrt(1 - (np.trace(turn) / 2) ** 2)
    alpha = (turn[0, 0] - turn[1, 1]) / (2 * sine)
    return (-turn[1, 0] / sine * q**2 + 2 * alpha * q * p + turn[0, 1] / sine * p**2) / 2


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="few particles and turns, nothing is judged"
    )
    parser.add_argument(
        "--output", type=Path, default=common.RESULTS / "ring.json", help="where the JSON goes"
    )
    options = parser.parse_args(arguments)
    plan = QUICK if options.quick else FULL
    common.print_machine()
    try:
        cell = load_cell()
    except ImportError as missing:
        console.print(
            f"the lattice comes with accelerator-toolbox, which is not installed: {missing}"
        )
        return 1
    imported = bt.from_at(cell)
    reference = imported.reference
    versions = {
        name: peers.version(name) or peers.NOT_INSTALLED
        for name in ("xtrack", "accelerator-toolbox")
    }
    report = Report(
        "ring", {"particles": plan.particles, "turns": plan.turns, "tolerance": TOLERANCE}, versions
    )
    codes: list[Any] = [Betatron(imported.line, reference), PyAT(cell)]
    if peers.version("xtrack"):
        codes += [
            Xtrack(imported.line, reference),
            Xtrack(imported.line, reference, "-march=native"),
        ]
    else:
        report.note("xtrack is not installed")
    beam = make_beam(reference, plan.particles)
    elements = CELLS * len(imported.line)
    compare(report, plan, codes, beam, elements)
    watch_actions(report, plan, CELLS * imported.line, reference)
    console.print(common.targets_table(report.targets))
    report.write(options.output)
    return int(plan.judged and not all(t.ok for t in report.targets))


if __name__ == "__main__":
    sys.exit(main())
