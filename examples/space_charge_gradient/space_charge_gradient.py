"""The derivatives of the size of a beam at the end of a channel with 100 space-charge kicks.

A proton beam at 6.7 MeV in 25 FODO cells; every magnet and drift gets one kick of the field of the
whole bunch on a grid. One forward and one reverse pass give the derivative of the loss by the
strength of each of the 50 quadrupoles and by each of the 6 n initial coordinates. The script prints
what that takes, and compares with differences of whole simulations: along one direction in the
strengths, and along one in the initial coordinates.

    python examples/space_charge_gradient/space_charge_gradient.py --particles 1000000 --cells 64
"""

from __future__ import annotations

import argparse
import resource
import sys
import time

import betatron as bt
import numpy as np
from betatron import losses

CELLS = 25
COORDINATES = ("x", "px", "y", "py", "t", "pt")


def channel() -> bt.Line:
    """Every quadrupole has a strength of its own; four elements with length per cell."""
    items: list[bt.Element] = []
    for i in range(CELLS):
        items += [
            bt.Quadrupole(0.1, k1=10.0, name=f"f{i}"),
            bt.Drift(0.2, name="drift"),
            bt.Quadrupole(0.1, k1=-10.0, name=f"d{i}"),
            bt.Drift(0.2, name="drift"),
        ]
    return bt.Line(items)


def start(particles: int, precision: str) -> bt.Beam:
    """50 pC of protons."""
    plane = {"beta": 0.8, "alpha": 0.0, "emittance": 1e-6}
    twiss = {f"{name}_{p}": value for p in "xy" for name, value in plane.items()}
    shape = bt.Gaussian.from_twiss(**twiss, beta_t=5.0, alpha_t=0.0, emittance_t=1e-6)
    beam = bt.Beam(
        bt.Reference("proton", kinetic_energy=6.7e6),
        shape,
        n=particles,
        seed=1,
        precision=precision,
    )
    beam.set_charge(50e-12)
    return beam


def sizes(beam: bt.Beam) -> float:
    """What is differentiated, of a beam that has been tracked [m^2]."""
    moments = beam.moments()
    return float(moments["sigma_x"] ** 2 + moments["sigma_y"] ** 2)


def moved(beam: bt.Beam, direction: np.ndarray, step: float) -> bt.Beam:
    """The beam with `step` times the direction, shape (6, n), added to the coordinates."""
    other = beam.copy()
    for name, d in zip(COORDINATES, direction, strict=True):
        column = getattr(other, name)
        column += (step * d).astype(column.dtype)
    return other


def difference(at: object, step: float) -> float:
    """The derivative of a function at 0, to fourth order in the step."""
    return (8 * (at(step) - at(-step)) - (at(2 * step) - at(-2 * step))) / (12 * step)  # type: ignore[operator]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--particles", type=int, default=1_000_000)
    parser.add_argument("--cells", type=int, default=64, help="of the grid, along each axis")
    parser.add_argument("--precision", choices=("double", "single"), default="double")
    parser.add_argument("--threads", type=int, default=None)
    options = parser.parse_args(arguments)

    line, beam = channel(), start(options.particles, options.precision)
    # cells that do not follow the beam within 25 %: the differences below must not cross a step of
    # the grid
    field = bt.SpaceCharge3D(cells=(options.cells,) * 3, grid_step=0.25)
    passes = {"space_charge": field, "threads": options.threads}

    def track(b: bt.Beam) -> float:
        line.track(b, progress=False, **passes)
        return sizes(b)

    begin = time.perf_counter()
    track(beam.copy())
    forward = time.perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    begin = time.perf_counter()
    loss = losses.beam_size("x") + losses.beam_size("y")
    gradient = line.gradient(beam, loss, "k1", initial=True, **passes)
    reverse = time.perf_counter() - begin
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) * 1024

    print(
        f"particles              {options.particles} ({options.precision} precision), all there: "
        f"{not gradient.lost}"
    )
    print(f"kicks                  {4 * CELLS}, on a grid of {options.cells}^3 cells")
    print(
        f"derivatives            {len(gradient.derivatives)} strengths, {gradient.initial.size} "
        "coordinates"
    )
    print(f"tracking               {forward:.2f} s")
    print(f"gradient               {reverse:.2f} s, {reverse / forward:.2f} x tracking")
    print(f"kept between passes    {gradient.memory / options.particles:.0f} bytes per particle")
    print(
        f"peak memory            + {grown / options.particles:.0f} bytes per particle over that of "
        "tracking"
    )
    print(
        f"strategy               {gradient.strategy}, rewind error "
        f"{gradient.relative_rewind_error:.1e} of the beam"
    )

    # weights, so that both directions matter; single precision needs longer steps
    rng = np.random.default_rng(2)
    step = 1e-5 if options.precision == "double" else 1e-3
    along = np.sign(gradient.derivatives) * rng.uniform(0.5, 1, len(gradient.derivatives))

    def with_strengths(x: float) -> float:
        before = [k.value for k in gradient.knobs]
        for knob, value, slope in zip(gradient.knobs, before, along, strict=True):
            knob.value = value + x * slope
        result = track(beam.copy())
        for knob, value in zip(gradient.knobs, before, strict=True):
            knob.value = value
        return result

    size = np.array([getattr(beam, c).std() for c in COORDINATES])
    direction = (
        size[:, None] * np.sign(gradient.initial) * rng.uniform(0, 1, gradient.initial.shape)
    )
    checks = {
        "strengths": (difference(with_strengths, step), float(gradient.derivatives @ along)),
        "coordinates": (
            difference(lambda x: track(moved(beam, direction, x)), step),
            float(np.sum(gradient.initial * direction, dtype=float)),
        ),
    }
    worst = 0.0
    for name, (simulated, computed) in checks.items():
        off = abs(simulated - computed) / abs(computed)
        worst = max(worst, off)
        print(
            f"by {name:<19} {computed:.9e} m^2, by differences of simulations {simulated:.9e} (off "
            f"by {off:.1e})"
        )
    agreed = worst < (1e-5 if options.precision == "double" else 2e-2)
    print("differences agree" if agreed else "differences do not agree")
    return 0 if agreed else 1


if __name__ == "__main__":
    sys.exit(main())
