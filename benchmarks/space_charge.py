"""A kick of space charge in three dimensions: Betatron, xfields, Cheetah, Ocelot and RF-Track.

    python benchmarks/space_charge.py            # half an hour
    python benchmarks/space_charge.py --quick    # small beams and grids: does it work?
    python benchmarks/space_charge.py --codes Betatron RF-Track --meshes 64
    python benchmarks/space_charge.py --codes Cheetah --meshes 256 --precisions single --merge
    python benchmarks/space_charge.py --codes --merge --markdown

The last but one measures this alone and keeps what the result file has of the rest, so that a long
comparison can be made in parts; the last one measures nothing, but judges and prints what is there.

Codes that are not installed are left out: pip install xfields cheetah-accelerator ocelot-collab RF-Track

A Gaussian bunch of 10^6 electrons of 10 MeV, round in the rest frame, on grids of 64^3, 128^3 and
256^3 points; one pinned core; time of one kick, after the first. Every code runs in a process of
its own, so that its peak memory can be told (particles and libraries included; what the process
holds before the first kick is given, too). Times are the least ones of several kicks. Ratios are
formed of processor times, which do not count what other processes take away.

    Betatron        with a fresh Green's function at every kick, and with one that is reused, and the
                    quadratic shape; also with the linear one, which all others use
    xfields         with a given grid: its Green's function is made once, and not in the time
    Cheetah, Ocelot, RF-Track    make it anew at every kick

Kicks of the same particles are compared: rms difference to Betatron in double precision over the
rms of the kick. Codes differ by their grids, shapes and by the noise of what they cut off.

Tables are printed, and everything is written as JSON to benchmarks/results/space_charge.json. Exit
status: 0 if all targets are reached, 1 if not. With --quick they are not judged.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import common  # before everything that computes: it pins the process to one core
from common import Report, Target, console
from rich.table import Table

# isort: split
import numpy as np

ENERGY = 10e6  # eV
CHARGE = 1e-9  # C
SIZE = 1e-3  # m, in x, y and, in the rest frame, z
LENGTH = 1e-6  # m of path; short, so that the beam stays as it is
MASS = 510998.95069  # eV
LIGHT = 299792458.0
WATCHED = 2000  # particles whose kicks are compared


def coordinates(n: int) -> np.ndarray:
    """x, y, z of the rest frame [m], shape (3, n): no particle beyond 4.5 sigma, so that a grid that
    is given can hold them."""
    random = np.random.default_rng(7)
    values = random.normal(size=(3, n))
    return SIZE * np.clip(values, -4.5, 4.5)


GAMMA = 1 + ENERGY / MASS
BETA_GAMMA = np.sqrt(GAMMA**2 - 1)
BETA = BETA_GAMMA / GAMMA


# --- the codes: kick() is timed, momenta() are px, py [p0] and energy deviations over p0 c -------


class Betatron:
    package = "betatron"

    def __init__(self, mesh: int, precision: str, n: int, setting: str) -> None:
        import betatron as bt

        x, y, z = coordinates(n)
        reference = bt.Reference("electron", kinetic_energy=ENERGY)
        dtype = np.float32 if precision == "single" else np.float64
        columns = {"x": x, "y": y, "t": -z / BETA_GAMMA}
        zero = np.zeros(n, dtype)
        self.beam = bt.Beam.from_arrays(
            reference,
            **{q: columns.get(q, zero).astype(dtype) for q in ("x", "px", "y", "py", "t", "pt")},
        )
        self.beam.set_charge(CHARGE)
        self.fresh = setting != "reused"
        self.effect = bt.SpaceCharge3D(
            mesh,
            shape="linear" if setting == "fresh, linear" else "quadratic",
            grid_step=0.0 if self.fresh else 0.05,
        )
        self.reset()

    def reset(self) -> None:
        if self.fresh:  # another shape of the bunch: the Green's function has to be made anew
            self.beam.x[0] = self.beam.x[0] * (1 + 1e-6)
            extreme = np.argmax(np.abs(self.beam.x))
            self.beam.x[extreme] = self.beam.x[extreme] * (1 + 1e-6)
        self.effect.reset_times()

    def kick(self) -> None:
        self.effect.kick(self.beam, LENGTH, threads=1)

    def clear(self) -> None:
        for q in ("px", "py", "pt"):
            self.beam[q][:] = 0

    def momenta(self) -> np.ndarray:
        return np.array([self.beam["px"], self.beam["py"], -np.asarray(self.beam["pt"])], float)

    def phases(self) -> dict[str, float]:
        return {k: v for k, v in self.effect.times.items() if k not in ("kicks", "green_functions")}


class Xfields:
    package = "xfields"

    def __init__(self, mesh: int, precision: str, n: int, setting: str) -> None:
        os.environ["XSUITE_ALLOW_KERNEL_COMPILATION"] = "1"
        os.chdir(tempfile.mkdtemp())  # it compiles here
        # its plans for pyfftw refuse the arrays that it gives them (0.27.5 with xobjects 0.7.2)
        sys.modules["pyfftw"] = None  # type: ignore[assignment]
        import xfields
        import xtrack

        x, y, z = coordinates(n)
        self.particles = xtrack.Particles(
            mass0=MASS,
            q0=-1,
            p0c=BETA_GAMMA * MASS,
            x=x,
            y=y,
            zeta=z / GAMMA,
            weight=CHARGE / 1.602176634e-19 / n,
        )
        edge = 5.2 * SIZE
        self.effect = xfields.SpaceCharge3D(
            length=LENGTH,
            update_on_track=True,
            apply_z_kick=True,
            x_range=(-edge, edge),
            y_range=(-edge, edge),
            z_range=(-edge / GAMMA, edge / GAMMA),
            nx=mesh,
            ny=mesh,
            nz=mesh,
            solver="FFTSolver3D",
            gamma0=float(GAMMA),
        )

    def reset(self) -> None:
        pass

    def kick(self) -> None:
        self.effect.track(self.particles)

    def clear(self) -> None:
        self.particles.px[:] = 0
        self.particles.py[:] = 0
        self.particles.delta[:] = 0
        self.particles.update_delta(np.zeros_like(self.particles.delta))

    def momenta(self) -> np.ndarray:
        p = self.particles
        order = np.argsort(p.particle_id)
        return np.array([p.px[order], p.py[order], p.ptau[order]])


class Cheetah:
    package = "cheetah-accelerator"

    def __init__(self, mesh: int, precision: str, n: int, setting: str) -> None:
        import cheetah
        import torch

        torch.set_num_threads(1)
        dtype = torch.float32 if precision == "single" else torch.float64
        x, y, z = coordinates(n)
        rows = np.zeros((n, 7))
        rows[:, 0], rows[:, 2], rows[:, 4], rows[:, 6] = x, y, z / GAMMA / BETA, 1.0
        self.torch = torch
        self.beam = cheetah.ParticleBeam(
            torch.tensor(rows, dtype=dtype),
            energy=torch.tensor(GAMMA * MASS, dtype=dtype),
            particle_charges=torch.full((n,), CHARGE / n, dtype=dtype),
            dtype=dtype,
        )
        self.effect = cheetah.SpaceChargeKick(
            effect_length=torch.tensor(LENGTH, dtype=dtype),
            grid_shape=(mesh, mesh, mesh),
            grid_extent_x=torch.tensor(5.2, dtype=dtype),
            grid_extent_y=torch.tensor(5.2, dtype=dtype),
            grid_extent_tau=torch.tensor(5.2, dtype=dtype),
            dtype=dtype,
        )
        self.out: Any = None

    def reset(self) -> None:
        self.out = None

    def kick(self) -> None:
        with self.torch.no_grad():
            self.out = self.effect.track(self.beam)

    def clear(self) -> None:
        pass

    def momenta(self) -> np.ndarray:
        p = self.out.particles.double().numpy()
        return np.array([p[:, 1], p[:, 3], p[:, 5]])


class Ocelot:
    package = "ocelot-collab"

    def __init__(self, mesh: int, precision: str, n: int, setting: str) -> None:
        os.environ["OCELOT_NUM_THREADS"] = "1"
        from ocelot.cpbd.beam import ParticleArray
        from ocelot.cpbd.sc import SpaceCharge

        x, y, z = coordinates(n)
        self.beam = ParticleArray(n)
        self.beam.E = GAMMA * MASS * 1e-9
        self.beam.q_array = np.full(n, CHARGE / n)
        self.beam.rparticles[0], self.beam.rparticles[2] = x, y
        self.beam.rparticles[4] = -z / GAMMA / BETA  # late is positive
        self.effect = SpaceCharge(nmesh_xyz=[mesh, mesh, mesh])

    def reset(self) -> None:
        pass

    def kick(self) -> None:
        self.effect.apply(self.beam, LENGTH)

    def clear(self) -> None:
        for row in (1, 3, 5):
            self.beam.rparticles[row] = 0

    def momenta(self) -> np.ndarray:
        return np.array(self.beam.rparticles[[1, 3, 5]])


class RFTrack:
    package = "RF-Track"

    def __init__(self, mesh: int, precision: str, n: int, setting: str) -> None:
        import RF_Track as rft

        rft.cvar.number_of_threads = 1
        x, y, z = coordinates(n)
        rows = np.zeros((n, 6))
        rows[:, 0], rows[:, 2] = 1e3 * x, 1e3 * y  # mm
        rows[:, 4] = -1e3 * z / GAMMA / BETA  # mm/c
        rows[:, 5] = BETA_GAMMA * MASS * 1e-6
        self.beam = rft.Bunch6d(rft.electronmass, CHARGE / 1.602176634e-19, -1, rows)
        self.effect = rft.SpaceCharge_PIC_FreeSpace(mesh, mesh, mesh)
        self.force: Any = None

    def reset(self) -> None:
        pass

    def kick(self) -> None:  # force [MeV/m]; adding it to the momenta is not in the time
        self.force = self.effect.compute_force(self.beam)

    def clear(self) -> None:
        pass

    def momenta(self) -> np.ndarray:
        force = np.asarray(self.force).T
        p = force * 1e6 * LENGTH / (BETA * BETA_GAMMA * MASS)
        return np.array([p[0], p[1], p[2] * BETA])


CODES: dict[str, Callable[..., Any]] = {
    "Betatron": Betatron,
    "xfields": Xfields,
    "Cheetah": Cheetah,
    "Ocelot": Ocelot,
    "RF-Track": RFTrack,
}
SETTINGS = {"Betatron": ("fresh", "reused", "fresh, linear"), "xfields": ("reused",)}
PRECISIONS = {"Betatron": ("double", "single"), "Cheetah": ("double", "single")}


# --- measuring ------------------------------------------------------------------------------------


def status(key: str) -> float:
    """A line of /proc/self/status in bytes: VmRSS, VmHWM."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return 1024.0 * float(line.split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


def work(code: str, mesh: int, precision: str, setting: str, n: int, budget: float) -> None:
    """In a process of its own: time kicks of one code, print what was found as JSON."""
    run = CODES[code](mesh, precision, n, setting)
    held = status("VmRSS")
    run.kick()  # the first one compiles, plans, allocates
    run.clear()
    run.reset()
    run.kick()
    kicks = run.momenta()[:, :WATCHED]
    seconds: list[float] = []
    processor: list[float] = []
    phases: dict[str, float] = {}
    started = time.perf_counter()
    while len(seconds) < 2 or (time.perf_counter() - started < budget and len(seconds) < 50):
        run.reset()
        begin, begin_cpu = time.perf_counter(), time.process_time()
        run.kick()
        processor.append(time.process_time() - begin_cpu)
        seconds.append(time.perf_counter() - begin)
        if hasattr(run, "phases") and seconds[-1] == min(seconds):
            phases = run.phases()
    result = {
        "seconds": min(seconds),
        "processor": min(processor),
        "seconds_median": float(np.median(seconds)),
        "repetitions": len(seconds),
        "phases": phases,
        "memory_before": held,
        "memory_peak": status("VmHWM"),
        "kicks": kicks.tolist(),
    }
    print("RESULT " + json.dumps(result))


def measured(code: str, mesh: int, precision: str, setting: str, n: int, budget: float) -> Any:
    """What `work` prints; or why it does not."""
    command = [
        sys.executable,
        str(Path(__file__).resolve()),
        "--work",
        json.dumps([code, mesh, precision, setting, n, budget]),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False)
    for line in done.stdout.splitlines():
        if line.startswith("RESULT "):
            return json.loads(line[7:])
    reason = (done.stderr.strip().splitlines() or [f"ended with status {done.returncode}"])[-1]
    return reason


def difference(kicks: Any, reference: Any) -> float:
    """rms over that of the reference, transverse."""
    a, b = np.array(kicks)[:2], np.array(reference)[:2]
    return float(np.sqrt(np.mean((a - b) ** 2) / np.mean(b**2)))


def show(report: Report) -> Table:
    table = Table(title=f"seconds per kick, {report.settings['particles']} particles, one core")
    for column in (
        "code",
        "Green's function",
        "precision",
        "mesh",
        "seconds",
        "on processor",
        "deposit",
        "Green",
        "transforms",
        "gather",
        "peak memory",
        "of that for kicks",
        "difference of kicks",
    ):
        table.add_column(column, justify="left" if column in ("code", "precision") else "right")
    for m in report.measurements:
        phases = m["phases"]
        table.add_row(
            m["code"],
            m["setting"],
            m["precision"],
            f"{m['mesh']}³",
            f"{m['seconds']:.4g}",
            f"{m['processor']:.4g}",
            *(
                f"{phases[p]:.4f}" if phases else ""
                for p in ("deposit", "green", "transforms", "gather")
            ),
            f"{m['memory_peak'] / 2**20:.0f} MiB",
            f"{(m['memory_peak'] - m['memory_before']) / 2**20:.0f} MiB",
            "" if m["difference"] is None else f"{m['difference']:.1e}",
        )
    return table


def markdown(report: Report) -> str:
    """The table for the documentation: seconds on the processor."""
    order = list(CODES)
    meshes = sorted({m["mesh"] for m in report.measurements})
    lines = [
        "| code | precision | " + " | ".join(f"{n}³" for n in meshes) + " | memory for kicks |",
        "|---" * (len(meshes) + 3) + "|",
    ]
    keys = dict.fromkeys((m["code"], m["setting"], m["precision"]) for m in report.measurements)
    for key in sorted(keys, key=lambda k: (order.index(k[0]), k[2], k[1])):
        found = {
            m["mesh"]: m
            for m in report.measurements
            if (m["code"], m["setting"], m["precision"]) == key
        }
        cells = [f"{found[n]['processor']:.3g} s" if n in found else "" for n in meshes]
        largest = found[max(found)]
        memory = (largest["memory_peak"] - largest["memory_before"]) / 2**20
        label = key[0] if key[0] != "Betatron" and key[1] == "fresh" else f"{key[0]}, {key[1]}"
        lines.append(
            f"| {label} | {key[2]} | {' | '.join(cells)} | {memory:.0f} MiB ({max(found)}³) |"
        )
    return "\n".join(lines)


def judge(report: Report) -> None:
    """Targets, from what was measured in this run."""

    def best(own: bool, mesh: int, precision: str | None = None, setting: str | None = None) -> Any:
        found = [
            m["processor"]
            for m in report.measurements
            if (m["code"] == "Betatron") == own
            and m["mesh"] == mesh
            and precision in (None, m["precision"])
            and setting in (None, m["setting"])
        ]
        return min(found, default=None)

    def ratio(a: Any, b: Any) -> float | None:
        return None if a is None or b is None else a / b

    peer64, peer256 = best(False, 64), best(False, 256)
    fresh, reused = best(True, 256, "double", "fresh"), best(True, 256, "double", "reused")
    single = best(True, 256, "single", "fresh")
    memory = [
        m["memory_peak"] - m["memory_before"]
        for m in report.measurements
        if m["code"] == "Betatron" and m["mesh"] == 256
    ]
    for name, limit, at_least, unit, value in (
        ("256³ double, fresh: fastest peer / Betatron", 8, True, "", ratio(peer256, fresh)),
        ("256³ double, reused: fastest peer / Betatron", 12, True, "", ratio(peer256, reused)),
        ("256³ fresh: double / single", 2, True, "", ratio(fresh, single)),
        (
            "64³ double, fresh, linear shape: fastest peer / Betatron",
            4,
            True,
            "",
            ratio(peer64, best(True, 64, "double", "fresh, linear")),
        ),
        (
            "64³ double, fresh, quadratic shape: fastest peer / Betatron",
            4,
            True,
            "",
            ratio(peer64, best(True, 64, "double", "fresh")),
        ),
        (
            "256³: memory for kicks",
            1,
            False,
            "GiB",
            max(memory) / 2**30 if memory else None,
        ),
    ):
        report.targets.append(Target(name, limit, at_least, unit, value))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small, nothing is judged")
    parser.add_argument("--codes", nargs="*", choices=list(CODES), help="only these")
    parser.add_argument("--meshes", nargs="*", type=int, help="points along each axis")
    parser.add_argument("--precisions", nargs="*", choices=("double", "single"))
    parser.add_argument(
        "--merge", action="store_true", help="keep what --output has and is not measured now"
    )
    parser.add_argument("--markdown", action="store_true", help="print the table in Markdown, too")
    parser.add_argument(
        "--output",
        type=Path,
        default=common.RESULTS / "space_charge.json",
        help="where the JSON goes",
    )
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.work:
        work(*json.loads(options.work))
        return 0

    import peers

    particles = 10_000 if options.quick else 1_000_000
    meshes = options.meshes or ([16] if options.quick else [64, 128, 256])
    budget = 0.0 if options.quick else 5.0
    wanted = list(CODES) if options.codes is None else options.codes
    versions = {
        name: peers.version(CODES[name].package) or peers.NOT_INSTALLED
        for name in CODES
        if name != "Betatron"
    }
    common.print_machine()
    settings = {"particles": particles, "meshes": meshes, "energy_eV": ENERGY, "charge_C": CHARGE}
    report = Report("space_charge", settings, versions)
    kept = []
    if options.merge and options.output.exists():
        earlier = json.loads(options.output.read_text(encoding="utf-8"))
        kept, report.notes = earlier["measurements"], earlier["notes"]
        if earlier["settings"]["particles"] != particles:
            parser.error(f"{options.output} is of {earlier['settings']['particles']} particles")
        report.machine["merged_with"] = earlier["machine"]
    for mesh in meshes if wanted else ():
        reference: Any = None
        if "Betatron" not in wanted:
            result = measured("Betatron", mesh, "double", "fresh", particles, 0.0)
            reference = None if isinstance(result, str) else result["kicks"]
        for code in wanted:
            if versions.get(code) == peers.NOT_INSTALLED:
                if mesh == meshes[0]:
                    report.note(f"{code} is not installed")
                continue
            for precision in PRECISIONS.get(code, ("double",)):
                if options.precisions and precision not in options.precisions:
                    continue
                for setting in SETTINGS.get(code, ("fresh",)):
                    result = measured(code, mesh, precision, setting, particles, budget)
                    if isinstance(result, str):
                        report.note(f"{code}, {mesh}³, {precision}, {setting}: {result}")
                        continue
                    kicks = result.pop("kicks")
                    reference = reference or (kicks if code == "Betatron" else None)
                    report.measurements.append(
                        {
                            "code": code,
                            "setting": setting,
                            "precision": precision,
                            "mesh": mesh,
                            "particles": particles,
                            **result,
                            "difference": difference(kicks, reference) if reference else None,
                        }
                    )
    keys = ("code", "setting", "precision", "mesh")
    new = [tuple(m[k] for k in keys) for m in report.measurements]
    report.measurements += [m for m in kept if tuple(m[k] for k in keys) not in new]
    report.measurements.sort(
        key=lambda m: (m["mesh"], list(CODES).index(m["code"]), m["precision"], m["setting"])
    )
    settings["meshes"] = sorted({m["mesh"] for m in report.measurements})
    console.print(show(report))
    judge(report)
    console.print(common.targets_table(report.targets))
    if options.markdown:
        print(markdown(report))
    report.write(options.output)
    console.print(f"written: {options.output}")
    return int(not options.quick and not all(t.ok for t in report.targets))


if __name__ == "__main__":
    sys.exit(main())
