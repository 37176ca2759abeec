"""Other codes behind one small interface: particles in Betatron's coordinates in, the same out.

An adapter tracks a (6, n) array of particles (rows x, px, y, py, t, pt; see docs/conventions.md)
through one element of its code. Coordinates are converted exactly (no expansion in the energy
deviation), so that what is left of a difference is the codes' own:

==========  =====================================================================================
code        its coordinates
==========  =====================================================================================
Xtrack      zeta = -beta0 t, ptau = -pt, and delta = P - 1 with P^2 = 1 - 2 pt/beta0 + pt^2
MAD-X, PTC  T = -t, PT = -pt
PyAT        delta = P - 1; ct is the path length beyond that of the reference orbit, so that behind
            an element of length L: t = t_in + (L + ct_out - ct_in)/beta - L/beta0
Cheetah     tau = t, p = -pt
==========  =====================================================================================

x, px, y, py are the same in all of them (px over the reference momentum). Where an element
accelerates, the other codes keep their reference particle; `rereferenced` expresses their
coordinates by Betatron's.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import betatron as bt
import numpy as np

NAMES = ("x", "px", "y", "py", "t", "pt")


def momentum(ref: bt.Reference, pt: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """P - 1 (without cancellation) and 1/beta of particles; P: momentum over the reference's."""
    excess = pt * (pt - 2 / ref.beta)
    p = np.sqrt(1 + excess)
    return excess / (p + 1), (1 / ref.beta - pt) / p


def energy_deviation(ref: bt.Reference, delta: np.ndarray) -> np.ndarray:
    """pt of particles with momentum 1 + delta in units of the reference's."""
    gamma_over_bg = np.sqrt((1 + delta) ** 2 + ref.beta_gamma**-2)
    return -delta * (2 + delta) / (gamma_over_bg + 1 / ref.beta)


def rereferenced(z: np.ndarray, before: bt.Reference, after: bt.Reference) -> np.ndarray:
    """Coordinates behind an element relative to the reference particle `after` that left it, from
    those relative to one that went through with the momentum it had `before`."""
    out = z.copy()
    ratio = before.beta_gamma / after.beta_gamma
    out[[1, 3]] *= ratio
    out[4] += (after.s - before.s) / before.beta - (after.t - before.t)
    out[5] = z[5] * ratio + (after.gamma - before.gamma) / after.beta_gamma
    return out


def betatron(
    ref: bt.Reference, elements: Any, z: np.ndarray, **how: Any
) -> tuple[np.ndarray, bt.Beam]:
    """Particles tracked by Betatron, shape (6, n); lost ones are NaN. Also the beam."""
    beam = bt.Beam.from_arrays(ref.copy(), **{n: z[i].copy() for i, n in enumerate(NAMES)})
    ids = np.array(beam.id)
    bt.Line([elements]).track(beam, progress=False, **how)
    out = np.full(z.shape, np.nan)
    out[:, np.isin(ids, np.array(beam.id))] = np.array(beam.array)
    return out, beam


class Adapter:
    """One independent code.

    `species`: the particles of the random references; `module`: what must be installed.
    """

    name: ClassVar[str]
    module: ClassVar[str]
    species: ClassVar[tuple[str, ...]] = (
        "electron",
        "positron",
        "proton",
        "antiproton",
        "H-",
        "muon",
    )

    @classmethod
    def missing(cls) -> str:
        """Why the code cannot be used here; empty if it can."""
        return "" if importlib.util.find_spec(cls.module) else f"{cls.module} is not installed"

    @property
    def version(self) -> str:
        from importlib.metadata import version

        return version(
            {"at": "accelerator-toolbox", "cheetah": "cheetah-accelerator"}.get(
                self.module, self.module
            )
        )

    def track(self, ref: bt.Reference, element: Any, length: float, z: np.ndarray) -> np.ndarray:
        """Particles behind `element`, relative to a reference particle that keeps its momentum."""
        raise NotImplementedError

    def linear(self, ref: bt.Reference, element: Any, length: float, z: np.ndarray) -> np.ndarray:
        """The affine map that `track` is near the reference orbit: its derivative by central
        differences of sixth order."""
        step = 1e-4 * np.array([1, 1, 1, 1, 1, ref.beta])
        factors = np.array([1, -1, 2, -2, 3, -3, 0])
        starts = np.concatenate([f * np.diag(step) for f in factors], axis=1)
        a, b, c, d, e, f, zero = np.split(self.track(ref, element, length, starts), 7, axis=1)
        matrix = (45 * (a - b) - 9 * (c - d) + (e - f)) / (60 * step)
        return matrix @ z + zero[:, :1]


# --- Xtrack ----------------------------------------------------------------------------------


@dataclass
class XtrackElement:
    """Class name in xtrack and its arguments; numbers of kicks are those of the whole element."""

    kind: str
    arguments: dict[str, Any]


class Xtrack(Adapter):
    name = "Xtrack"
    module = "xtrack"

    @cached_property
    def _xtrack(self) -> Any:
        # Xtrack compiles a kernel per class of element; the prebuilt ones are another package.
        os.environ.setdefault("XSUITE_ALLOW_KERNEL_COMPILATION", "1")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import xtrack
            from xobjects import context_default

        context_default.allow_kernel_compilation = True
        return xtrack

    def track(
        self,
        ref: bt.Reference,
        element: XtrackElement | list[XtrackElement],
        length: float,
        z: np.ndarray,
    ) -> np.ndarray:
        xt = self._xtrack
        particles = xt.Particles(
            mass0=ref.species.mass, q0=ref.species.charge, p0c=ref.momentum,
            x=z[0], px=z[1], y=z[2], py=z[3], zeta=-ref.beta * z[4], delta=momentum(ref, z[5])[0],
        )  # fmt: skip
        parts = element if isinstance(element, list) else [element]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
                # compiles where it runs
                for part in parts:
                    getattr(xt, part.kind)(**part.arguments).track(particles)
        order = np.argsort(particles.particle_id)
        columns = (
            particles.x, particles.px, particles.y, particles.py, -particles.zeta / ref.beta,
            energy_deviation(ref, particles.delta),
        )  # fmt: skip
        out = np.array(columns)[:, order]
        out[:, particles.state[order] <= 0] = np.nan
        return out


# --- PyAT ------------------------------------------------------------------------------------


class PyAT(Adapter):
    name = "PyAT"
    module = "at"
    species = ("electron", "positron", "proton")

    def track(
        self, ref: bt.Reference, element: Callable[[Any], Any], length: float, z: np.ndarray
    ) -> np.ndarray:
        import at

        delta, _ = momentum(ref, z[5])
        r = np.asfortranarray(np.stack([*z[:4], delta, z[4]]))
        element(at).track(
            r, in_place=True, energy=ref.total_energy, particle=at.Particle(ref.species.name)
        )
        pt = energy_deviation(ref, r[4])
        t = z[4] + (length + r[5] - z[4]) * momentum(ref, pt)[1] - length / ref.beta
        out = np.stack([*r[:4], t, pt])
        out[:, ~np.isfinite(r).all(axis=0)] = np.nan  # PyAT marks a lost particle in one coordinate
        return out


# --- Cheetah ---------------------------------------------------------------------------------


class Cheetah(Adapter):
    name = "Cheetah"
    module = "cheetah"

    def track(
        self, ref: bt.Reference, element: tuple[str, dict], length: float, z: np.ndarray
    ) -> np.ndarray:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import cheetah
            import torch

        def double(value: Any) -> Any:
            return (
                value
                if isinstance(value, (str, bool, int))
                else torch.tensor(value, dtype=torch.float64)
            )

        kind, arguments = element
        particles = np.stack([*z[:5], -z[5], np.ones_like(z[0])], axis=1)
        beam = cheetah.ParticleBeam(
            double(particles), energy=double(ref.total_energy), dtype=torch.float64,
            particle_charges=torch.ones(z.shape[1], dtype=torch.float64),
            species=cheetah.Species(
                "other", num_elementary_charges=double(float(ref.species.charge)),
                mass_eV=double(ref.species.mass),
            ),
        )  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            lens = getattr(cheetah, kind)(
                **{k: double(v) for k, v in arguments.items()},
                dtype=torch.float64,
                sanitize_name=True,
            )
            behind = lens.track(beam)
        out = behind.particles.numpy().T[:6].copy()
        out[5] *= -1
        out[:, behind.survival_probabilities.numpy() == 0] = np.nan
        return out


# --- MAD-X -----------------------------------------------------------------------------------


@dataclass
class MadxElement:
    """An element in MAD-X's language.

    exact, steps, model, fringe: PTC's; `align` the arguments of EALIGN.
    """

    definition: str
    exact: bool = True
    steps: int = 1
    model: int = 2
    fringe: bool = False
    align: dict[str, float] = field(default_factory=dict)


class Madx(Adapter):
    """What PTC and TWISS share: one MAD-X process, its beam and a sequence of one element."""

    module = "cpymad"
    # PTC takes the masses of electron and proton from a table of its own (CODATA 2018)
    species = ("muon", "antimuon")
    lead: ClassVar[float]  # a thin element stands at the end of a drift this long
    _process: ClassVar[Any] = None

    @property
    def version(self) -> str:
        return self._madx.version.release

    @property
    def _madx(self) -> Any:
        if Madx._process is None:
            from cpymad.madx import Madx as Process

            Madx._process = Process(stdout=False)
            Madx._process.option(echo=False, warn=False, info=False)
            Madx._process.chdir(tempfile.mkdtemp())  # MAD-X leaves files where it runs
        return Madx._process

    def _sequence(self, ref: bt.Reference, element: MadxElement, length: float) -> float:
        """Make the beam and the sequence; returns the length of the drift before the element."""
        lead = 0.0 if length else self.lead
        mass, pc = ref.species.mass / 1e9, ref.momentum / 1e9  # GeV
        self._madx.input(
            f"beam, particle=other, mass={mass!r}, charge=1, pc={pc!r}; e: {element.definition};"
            f"s: sequence, l={lead + length!r}, refer=entry; e, at={lead!r}; endsequence;"
            "use, sequence=s;"
        )
        if element.align:
            arguments = ", ".join(f"{k}={v!r}" for k, v in element.align.items())
            self._madx.input(
                f"select, flag=error, clear; select, flag=error, range=e; ealign, {arguments};"
            )
        return lead


class PTC(Madx):
    name = "MAD-X/PTC"
    lead = 1.0

    def track(
        self, ref: bt.Reference, element: MadxElement, length: float, z: np.ndarray
    ) -> np.ndarray:
        lead = self._sequence(ref, element, length)
        if lead:  # go back where the drift starts, in its own model
            back = bt.Drift(-lead, model="exact" if element.exact else "paraxial")
            z, _ = betatron(ref, back, z)
        m = self._madx
        m.input(
            "ptc_create_universe; ptc_create_layout, time=true, closed_layout=false, method=6, "
            f"model={element.model}, nst={element.steps}, exact={str(element.exact).lower()};"
            + ("ptc_setswitch, fringe=true;" if element.fringe else "")
            + ("ptc_align;" if element.align else "")
        )
        for x, px, y, py, t, pt in z.T.tolist():
            m.input(f"ptc_start, x={x!r}, px={px!r}, y={y!r}, py={py!r}, t={-t!r}, pt={-pt!r};")
        m.input(
            "ptc_track, icase=6, closed_orbit=false, turns=1, norm_no=1,"
            "maxaper={10, 10, 10, 10, 1e3, 10};"
        )
        rows = m.table.tracksumm
        last = np.asarray(rows["turn"]) == 1
        out = np.array([np.asarray(rows[k])[last] for k in NAMES])
        out = out[:, np.argsort(np.asarray(rows["number"])[last])]
        m.input("ptc_track_end; ptc_end;")
        out[4:] *= -1
        return out


class Twiss(Madx):
    """First-order matrices of MAD-X's TWISS (SECTORMAP), which act on x, px, y, py, T, PT."""

    name = "MAD-X"
    species = ("electron", "positron", "proton", "antiproton", "muon")
    lead = 0.0

    def track(
        self, ref: bt.Reference, element: MadxElement, length: float, z: np.ndarray
    ) -> np.ndarray:
        m = self._madx
        self._sequence(ref, element, length or 1.0)
        m.input(
            "select, flag=sectormap, clear; select, flag=sectormap, range=e;"
            "twiss, betx=1, bety=1, sectormap, sectorfile='sector', sectortable=sector;"
        )
        rows = m.table.sector
        matrix = np.array([[rows[f"r{i}{j}"][0] for j in range(1, 7)] for i in range(1, 7)])
        kick = np.array([rows[f"k{i}"][0] for i in range(1, 7)])
        sign = np.array([1, 1, 1, 1, -1, -1])
        return sign[:, None] * (matrix @ (sign[:, None] * z) + kick[:, None])


ADAPTERS: dict[str, type[Adapter]] = {a.name: a for a in (Xtrack, PTC, Twiss, PyAT, Cheetah)}
