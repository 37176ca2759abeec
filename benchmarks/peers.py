"""Other tracking codes behind one interface, for benchmarks and cross-checks.

    tracker = XTRACK.build(line, reference)     # translates and compiles
    run = tracker.load(beam)                    # a copy of its particles
    run.track()                                 # one passage
    run.coordinates()                           # in Betatron's coordinates, shape (6, n)

A line of Betatron is translated element by element; what does nothing (markers, monitors, kickers
that are off) is left out, in favour of the other codes. Each code is used in the way that is
fastest for it on one core without a change of the physics. On its own,

    python benchmarks/peers.py

prints which of the codes are installed.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from typing import Any, ClassVar, Protocol

import betatron as bt
import numpy as np

NOT_INSTALLED = "not installed"


class Run(Protocol):
    """Particles in front of a line."""

    def reset(self) -> None:
        """Back to the start."""

    def track(self) -> None:
        """Through the line once."""

    def coordinates(self) -> np.ndarray:
        """x, px, y, py, t, pt of Betatron, shape (6, n), where the particles are now."""


class Tracker(Protocol):
    """A line in the form of another code."""

    def load(self, beam: bt.Beam) -> Run: ...


@dataclass(frozen=True)
class Peer:
    """A code in one of its settings."""

    name: str
    setting: str
    precision: str
    package: str
    build: Callable[[bt.Line, bt.Reference], Tracker]

    @property
    def version(self) -> str | None:
        """None if it is not installed."""
        return version(self.package)

    @property
    def label(self) -> str:
        return f"{self.name}, {self.setting}"


def version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


# --- what is in a line ----------------------------------------------------------------------------


def active_elements(
    line: bt.Line, reference: bt.Reference
) -> Iterator[tuple[str, str, dict[str, float]]]:
    """(kind, model, parameters) of what acts on particles: Drift with length, Quadrupole with
    length and k1, Bend (a sector without pole faces) with length and angle.

    Raises
    ------
    ValueError
        For an element that the translations below do not know.
    """
    for element in line:
        p = element.parameters()
        if element.dx or element.dy or element.roll:
            raise ValueError(f"{element!r} is misaligned: not translated")
        if element.kind == "Drift" or (element.kind == "Bend" and p["angle"] == p["k1"] == 0):
            yield "Drift", element.model, {"length": p["length"]}
        elif element.kind == "Quadrupole":
            k1 = p["k1"] + p["gradient"] / reference.rigidity
            yield "Quadrupole", element.model, {"length": p["length"], "k1": k1}
        elif element.kind == "Bend" and p["k1"] == p["e1"] == p["e2"] == 0:
            yield "Bend", element.model, {"length": p["length"], "angle": p["angle"]}
        elif element.kind not in ("Marker", "Instrument", "Kicker") or any(p.values()):
            raise ValueError(f"{element!r}: not translated")


# --- xtrack ---------------------------------------------------------------------------------------


class XtrackTracker:
    """x, px, y, py as here; zeta = -beta0 t; ptau = -pt.

    Kernels come compiled with the package xsuite. Where that is missing, or with compiler flags,
    xtrack compiles them, with -O3.
    """

    drift_models: ClassVar = {"paraxial": "expanded", "exact": "exact"}

    def __init__(self, line: bt.Line, reference: bt.Reference, flags: str) -> None:
        import xobjects
        import xtrack

        self.context = xobjects.ContextCpu()
        self.context.allow_kernel_compilation = True
        self.reference = {
            "mass0": reference.species.mass,
            "q0": reference.species.charge,
            "p0c": reference.momentum,
        }
        elements = []
        for kind, model, p in active_elements(line, reference):
            if kind == "Drift":
                elements.append(xtrack.Drift(model=self.drift_models[model], **p))
            elif kind == "Quadrupole":
                elements.append(xtrack.Quadrupole(model="mat-kick-mat", **p))
            else:
                elements.append(
                    xtrack.Bend(
                        **p,
                        k0=p["angle"] / p["length"],
                        model="bend-kick-bend",
                        edge_entry_active=False,
                        edge_exit_active=False,
                    )
                )
        self.line = xtrack.Line(elements=elements)
        self.line.particle_ref = xtrack.Particles(**self.reference)
        with compiler_flags(flags), redirect_stdout(io.StringIO()):
            self.line.build_tracker(
                _context=self.context,
                use_prebuilt_kernels=not flags and version("xsuite") is not None,
            )
            self.line.track(xtrack.Particles(_context=self.context, **self.reference))  # compiles

    def load(self, beam: bt.Beam) -> Run:
        return XtrackRun(self, beam)


class XtrackRun:
    def __init__(self, tracker: XtrackTracker, beam: bt.Beam) -> None:
        import xtrack

        self._line = tracker.line
        self._beta0 = beam.reference.beta
        columns = {name: beam[name] for name in ("x", "px", "y", "py")}
        columns |= {"zeta": -self._beta0 * beam.t, "ptau": -beam.pt}
        self._start = xtrack.Particles(_context=tracker.context, **tracker.reference, **columns)
        self._particles = self._start.copy()

    def reset(self) -> None:
        self._particles = self._start.copy()

    def track(self) -> None:
        self._line.track(self._particles)

    def coordinates(self) -> np.ndarray:
        p = self._particles
        if not (p.state > 0).all():
            raise RuntimeError(f"xtrack lost {int((p.state <= 0).sum())} particles")
        order = np.argsort(p.particle_id)
        return np.array([p.x, p.px, p.y, p.py, -p.zeta / self._beta0, -p.ptau])[:, order]


@contextmanager
def compiler_flags(flags: str) -> Iterator[None]:
    """With these in CFLAGS, which Python's build tools add to the flags of an extension."""
    before = os.environ.get("CFLAGS")
    os.environ["CFLAGS"] = f"{before or ''} {flags}".strip()
    try:
        yield
    finally:
        if before is None:
            del os.environ["CFLAGS"]
        else:
            os.environ["CFLAGS"] = before


XTRACK = Peer("xtrack", "for any CPU", "double", "xtrack", partial(XtrackTracker, flags=""))
XTRACK_NATIVE = Peer(
    "xtrack", "for this CPU", "double", "xtrack", partial(XtrackTracker, flags="-march=native")
)


# --- PyAT -----------------------------------------------------------------------------------------


class PyATTracker:
    """x, px, y, py as here; delta = p/p0 - 1; ct, the path length beyond that of the reference.

    PyAT takes every velocity for c. Its path length is turned into the time of arrival afterwards.
    (In version 0.9 the path length of QuadLinearPass differs from that of its other passes.)
    """

    def __init__(self, line: bt.Line, reference: bt.Reference, quadrupole_pass: str) -> None:
        import at

        self.length = line.length
        self.lattice = []
        for number, (kind, model, p) in enumerate(active_elements(line, reference)):
            name = f"e{number}"
            if kind == "Drift":
                drift_pass = "ExactDriftPass" if model == "exact" else "DriftPass"
                element = at.Drift(name, p["length"], PassMethod=drift_pass)
            elif kind == "Quadrupole":
                element = at.Quadrupole(name, p["length"], p["k1"], PassMethod=quadrupole_pass)
            else:
                # a pure bend is exact in one step; fringe fields are on unless told otherwise
                element = at.Dipole(
                    name,
                    p["length"],
                    p["angle"],
                    PassMethod="ExactSectorBendPass",
                    NumIntSteps=1,
                    FringeBendEntrance=0,
                    FringeBendExit=0,
                )
            self.lattice.append(element)

    def load(self, beam: bt.Beam) -> Run:
        return PyATRun(self, beam)


class PyATRun:
    def __init__(self, tracker: PyATTracker, beam: bt.Beam) -> None:
        import at

        self._track = at.lattice_track
        self._tracker = tracker
        self._reference = beam.reference.copy()
        self._t, self._pt = beam.t.copy(), beam.pt.copy()
        delta = np.sqrt(1 - 2 * beam.pt / self._reference.beta + beam.pt**2) - 1
        start = np.stack([beam.x, beam.px, beam.y, beam.py, delta, np.zeros(len(beam))])
        self._start = np.asfortranarray(start)
        self._particles = self._start.copy(order="F")

    def reset(self) -> None:
        np.copyto(self._particles, self._start)

    def track(self) -> None:
        # keep_lattice: only the first call reads the elements
        self._track(
            self._tracker.lattice, self._particles, refpts=None, in_place=True, keep_lattice=True
        )

    def coordinates(self) -> np.ndarray:
        x, px, y, py, delta, ct = self._particles
        p = (1 + delta) * self._reference.beta_gamma
        inv_beta = np.sqrt(1 + 1 / p**2)
        slip = inv_beta - self._reference.gamma / self._reference.beta_gamma
        return np.array(
            [x, px, y, py, self._t + ct * inv_beta + self._tracker.length * slip, self._pt]
        )


PYAT_LINEAR = Peer(
    "PyAT",
    "linear quads",
    "double",
    "accelerator-toolbox",
    partial(PyATTracker, quadrupole_pass="QuadLinearPass"),
)
PYAT_SYMPLECTIC = Peer(
    "PyAT",
    "symplectic order 4, 10 steps",
    "double",
    "accelerator-toolbox",
    partial(PyATTracker, quadrupole_pass="StrMPoleSymplectic4Pass"),
)


# --- Cheetah --------------------------------------------------------------------------------------


class CheetahTracker:
    """x, px, y, py as here; tau = t; p = -pt."""

    def __init__(self, line: bt.Line, reference: bt.Reference, precision: str) -> None:
        import cheetah
        import torch

        torch.set_num_threads(1)
        if reference.species.name != "electron":
            raise ValueError(
                f"only electrons are translated for Cheetah, not {reference.species.name}"
            )
        self.dtype = {"dtype": torch.float32 if precision == "single" else torch.float64}
        kinds: dict[str, Any] = {
            "Drift": cheetah.Drift,
            "Quadrupole": cheetah.Quadrupole,
            "Bend": partial(cheetah.Dipole, fringe_at="neither"),
        }
        elements = []
        for kind, _, p in active_elements(line, reference):
            numbers = {name: torch.tensor(value, **self.dtype) for name, value in p.items()}
            elements.append(
                kinds[kind](**numbers, tracking_method="drift_kick_drift", **self.dtype)
            )
        self.segment = cheetah.Segment(elements)

    def load(self, beam: bt.Beam) -> Run:
        return CheetahRun(self, beam)


class CheetahRun:
    def __init__(self, tracker: CheetahTracker, beam: bt.Beam) -> None:
        import cheetah
        import torch

        self._segment = tracker.segment
        self._no_grad = torch.no_grad
        columns = [beam.x, beam.px, beam.y, beam.py, beam.t, -beam.pt, np.ones(len(beam))]
        self._incoming = cheetah.ParticleBeam(
            torch.tensor(np.stack(columns, axis=-1), **tracker.dtype),
            energy=torch.tensor(beam.reference.total_energy, **tracker.dtype),
            **tracker.dtype,
        )
        self._outgoing = self._incoming

    def reset(self) -> None:
        self._outgoing = self._incoming  # which tracking leaves as it is

    def track(self) -> None:
        with self._no_grad():
            self._outgoing = self._segment.track(self._incoming)

    def coordinates(self) -> np.ndarray:
        z = self._outgoing.particles.numpy().astype(np.float64).T
        return np.array([*z[:5], -z[5]])


CHEETAH = Peer(
    "Cheetah",
    "drift-kick-drift",
    "double",
    "cheetah-accelerator",
    partial(CheetahTracker, precision="double"),
)
CHEETAH_SINGLE = Peer(
    "Cheetah",
    "drift-kick-drift",
    "single",
    "cheetah-accelerator",
    partial(CheetahTracker, precision="single"),
)


ALL = (XTRACK, XTRACK_NATIVE, PYAT_LINEAR, PYAT_SYMPLECTIC, CHEETAH, CHEETAH_SINGLE)


def installed() -> dict[str, str]:
    """Version of each code, or NOT_INSTALLED."""
    return {peer.name: peer.version or NOT_INSTALLED for peer in ALL}


if __name__ == "__main__":
    print(", ".join(f"{name} {found}" for name, found in installed().items()))
