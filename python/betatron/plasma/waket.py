"""Pairs of particles from Wake-T: a laser drives a wake in a plasma, a diluted beam is tracked in
it.

Wake-T solves the quasi-static equations of a cold plasma in r and z, with an envelope for the
laser, which evolves. Its beams are so weak here (`charge`) that they do not change the wake: what
is learned from the pairs is the map of single particles. Sources: A. Ferran Pousa et al., J. Phys.
Conf. Ser. 1350 (2019) 012056 (Wake-T); P. Baxevanis and G. Stupakov, Phys. Rev. Accel. Beams 21
(2018) 071301 (the model "quasistatic_2d"). Needs the extra "waket".
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from betatron._constants import ELEMENTARY_CHARGE
from betatron.plasma.data import StageData
from betatron.plasma.formulas import plasma_wavenumber


def _check(where: str, values: dict[str, float], *, positive: bool = False) -> None:
    for name, value in values.items():
        if not math.isfinite(value) or (value <= 0 if positive else value < 0):
            wanted = "above 0" if positive else "at least 0"
            raise ValueError(f"{where}: {name} = {value!r} must be {wanted} and finite")


@dataclasses.dataclass(frozen=True)
class Laser:
    """A Gaussian pulse, centred at xi = 0 when it is at the entrance of the plasma.

    a0: peak of the normalised vector potential. w0: radius of the waist [m], exp(-2 r^2/w0^2) of
    the intensity. duration: FWHM of the intensity [s]; a pulse exp(-t^2/tau^2) of the field has
    sqrt(2 ln 2) tau. wavelength [m]. focus: z of the waist [m]. polarization: linear or circular.
    """

    a0: float
    w0: float
    duration: float
    wavelength: float = 0.8e-6
    focus: float = 0.0
    polarization: str = "linear"

    def __post_init__(self) -> None:
        _check("Laser", {"a0": self.a0})
        named = {k: getattr(self, k) for k in ("w0", "duration", "wavelength")}
        _check("Laser", named, positive=True)
        if self.polarization not in ("linear", "circular"):
            raise ValueError(
                f"Laser: polarization = {self.polarization!r} must be 'linear' or 'circular'"
            )


@dataclasses.dataclass(frozen=True)
class Plasma:
    """A plasma of `density` electrons per m^3 on the axis, over `length` [m].

    channel_radius: R [m] of a parabolic channel n (1 + 4 r^2/(kp^2 R^4)), which guides a pulse of
    w0 = R; 0 for none. ramp_up, ramp_down: parts of the length [m] in which the density rises and
    falls as (1 - cos)/2.
    """

    density: float
    length: float
    channel_radius: float = 0.0
    ramp_up: float = 0.0
    ramp_down: float = 0.0

    def __post_init__(self) -> None:
        _check("Plasma", {"density": self.density, "length": self.length}, positive=True)
        named = {k: getattr(self, k) for k in ("channel_radius", "ramp_up", "ramp_down")}
        _check("Plasma", named)
        if self.ramp_up + self.ramp_down > self.length:
            raise ValueError(
                f"Plasma: ramp_up + ramp_down = {self.ramp_up + self.ramp_down!r} m must be at "
                "most "
                f"the length, {self.length!r} m"
            )

    def profile(self, z: Any, r: Any) -> Any:
        """Density [1/m^3] at z, r [m], arrays that broadcast."""
        z, r = np.asarray(z, np.float64), np.asarray(r, np.float64)
        n = self.density * np.ones(np.broadcast(z, r).shape)
        if self.channel_radius:
            kp = plasma_wavenumber(self.density)
            n = n * (1 + 4 * r**2 / (kp**2 * self.channel_radius**4))
        for d, ramp in ((z, self.ramp_up), (self.length - z, self.ramp_down)):
            if ramp:
                n = n * (1 - np.cos(np.pi * np.clip(d / ramp, 0.0, 1.0))) / 2
        return n


@dataclasses.dataclass(frozen=True)
class Grid:
    """What Wake-T solves its equations on: xi_min to xi_max in n_xi, 0 to r_max in n_r cells [m].

    particles_per_cell: of the plasma, in r. step: distance [m] after which wake and laser are
    solved again; by default a 20th of the length of the box. time of a run goes as n_xi n_r
    length/step.
    """

    xi_min: float
    xi_max: float
    r_max: float
    n_xi: int = 400
    n_r: int = 128
    particles_per_cell: int = 2
    step: float | None = None

    def __post_init__(self) -> None:
        if not self.xi_min < self.xi_max:
            raise ValueError(
                f"Grid: xi_min = {self.xi_min!r} must be below {self.xi_max!r} (xi_max)"
            )
        _check("Grid", {"r_max": self.r_max, "step": self.spacing}, positive=True)
        for name in ("n_xi", "n_r", "particles_per_cell"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"Grid: {name} = {value!r} must be a positive integer")

    @property
    def spacing(self) -> float:
        return (self.xi_max - self.xi_min) / 20 if self.step is None else self.step


def sample(
    n: int,
    centre: Any,
    size: Any,
    *,
    shape: str = "gaussian",
    cut: float | None = None,
    seed: int = 1,
) -> np.ndarray:
    """n particles, rows x, y, xi [m], px, py, pz [m c], shape (n, 6).

    centre: (6,) means. size: (6,) standard deviations (gaussian), half widths (uniform), or half
    axes (ellipsoid: uniform in the six-dimensional one). cut: of a gaussian, in standard
    deviations. Wide beams train better surrogates than the narrow ones that they will be used for.
    """
    centre, size = np.asarray(centre, np.float64), np.asarray(size, np.float64)
    for name, value in (("centre", centre), ("size", size)):
        if value.shape != (6,) or not np.isfinite(value).all():
            raise ValueError(f"sample: {name} = {value.tolist()} must be six finite numbers")
    if (size < 0).any():
        raise ValueError(f"sample: size = {size.tolist()} must not be negative")
    if n < 1:
        raise ValueError(f"sample: n = {n!r} must be at least 1")
    if cut is not None and not (shape == "gaussian" and cut > 0):
        raise ValueError(f"sample: cut = {cut!r} must be above 0, and is for shape = 'gaussian'")
    random = np.random.default_rng(seed)
    if shape == "uniform":
        u = random.uniform(-1, 1, (n, 6))
    elif shape == "ellipsoid":
        u = random.normal(size=(n, 6))
        u *= (random.uniform(size=n) ** (1 / 6) / np.linalg.norm(u, axis=1))[:, None]
    elif shape == "gaussian":
        u = random.normal(size=(n, 6))
        while cut is not None and (out := np.abs(u) > cut).any():
            u[out] = random.normal(size=int(out.sum()))
    else:
        raise ValueError(f"sample: shape = {shape!r} must be 'gaussian', 'uniform' or 'ellipsoid'")
    return centre + size * u


def simulate(
    laser: Laser,
    plasma: Plasma,
    grid: Grid,
    source: np.ndarray,
    *,
    charge: float = 1e-15,
    laser_evolution: bool = True,
    progress: bool = False,
) -> StageData:
    """Track `source`, (n, 6) rows x, y, xi [m], px, py, pz [m c], through a stage by Wake-T.

    charge: of all particles together [C]; small, so that they do not change the wake. Particles
    that leave the grid, or whose numbers are not finite at the end, count as lost. The settings of
    the result hold all arguments, the version of Wake-T and the seconds that it took. ImportError
    without Wake-T; ValueError for particles that are not in the grid at the start.
    """
    import time
    from importlib.metadata import version

    import wake_t

    source = np.ascontiguousarray(source, np.float64)
    if source.ndim != 2 or source.shape[1] != 6 or len(source) == 0:
        raise ValueError(f"simulate: source has shape {source.shape}; wanted: (n, 6), n > 0")
    _check("simulate", {"charge": charge}, positive=True)
    bad = ~(_inside(source, grid) & np.isfinite(source).all(axis=1))
    if bad.any():
        raise ValueError(
            f"simulate: {bad.sum()} particles are not in the grid, the first is "
            f"{source[np.argmax(bad)].tolist()}"
        )
    n = len(source)
    weight = np.full(n, charge / ELEMENTARY_CHARGE / n)
    x, y, xi, px, py, pz = (np.array(q) for q in source.T)
    bunch = wake_t.ParticleBunch(
        weight, x, y, xi, px, py, pz, tags=np.arange(n), name="beam"
    )  # fmt: skip
    pulse = wake_t.GaussianPulse(
        0.0, laser.a0, laser.w0, laser.duration, laser.focus, laser.wavelength,
        polarization=laser.polarization,
    )  # fmt: skip
    stage = wake_t.PlasmaStage(
        plasma.length, plasma.profile, wakefield_model="quasistatic_2d", laser=pulse,
        laser_evolution=laser_evolution, r_max=grid.r_max, xi_min=grid.xi_min, xi_max=grid.xi_max,
        n_xi=grid.n_xi, n_r=grid.n_r, ppc=grid.particles_per_cell, dz_fields=grid.spacing,
    )  # fmt: skip
    start = time.perf_counter()
    (out,) = stage.track(bunch, opmd_diag=False, show_progress_bar=progress)[-1:]
    seconds = time.perf_counter() - start
    target = np.stack((out.x, out.y, out.xi, out.px, out.py, out.pz), axis=1)
    ids = np.arange(n, dtype=np.uint64)
    arrived = np.isfinite(target).all(axis=1)
    arrived &= _inside(np.where(arrived[:, None], target, 0.0), grid)
    settings: dict[str, Any] = {
        "code": "Wake-T", "code_version": version("Wake-T"), "seconds": seconds, "charge": charge,
        "laser_evolution": int(laser_evolution),
    }  # fmt: skip
    for prefix, group in (("laser", laser), ("plasma", plasma), ("grid", grid)):
        settings |= {f"{prefix}_{k}": v for k, v in dataclasses.asdict(group).items()}
    settings["grid_step"] = grid.spacing
    return StageData(
        source[arrived], target[arrived], ids[arrived], weight[arrived], plasma.length, settings,
        ids[~arrived],
    )  # fmt: skip


def _inside(rows: np.ndarray, grid: Grid) -> np.ndarray:
    xi = rows[:, 2]
    r = np.hypot(rows[:, 0], rows[:, 1])
    return (r < grid.r_max) & (xi > grid.xi_min) & (xi < grid.xi_max)
