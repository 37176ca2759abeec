#!/usr/bin/env python3
"""Track an electron bunch through the HTU beamline and compare its moments with the reference.

    python examples/htu/htu.py                       # a million particles in double precision
    python examples/htu/htu.py --precision single --particles 100000 --output here

Writes to the output folder: `moments.csv` (beam moments after every element), `final_beam.h5` (the
beam at the end, openPMD), `envelope.png`, `phase_space.png` and `survey.png`. The lattice, the beam
and the published moments are data, in `htu.yaml`.

Exit status: 0 if all moments agree with the reference, 1 if not, 2 for unusable arguments.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import betatron as bt
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from ruamel.yaml import YAML

DATA = Path(__file__).with_name("htu.yaml")
RESULTS = ("moments.csv", "final_beam.h5", "envelope.png", "phase_space.png", "survey.png")

# Two samples of one distribution agree if they differ by no more than this many combined standard
# errors: with 12 moments compared, about one of 1,300 correct runs exceeds it.
MAX_STANDARD_ERRORS = 4.0

# Published values of the reference particle are rounded to seven digits.
REFERENCE_RTOL = 1e-6


@dataclass(frozen=True)
class Comparison:
    """One moment beside its published value; standard errors of both, 0 if not sampled."""

    place: str
    quantity: str
    value: float
    error: float
    published: float
    published_error: float

    @property
    def deviation(self) -> float:
        """Difference over the combined standard error (over the rounding if nothing is sampled)."""
        scale = math.hypot(self.error, self.published_error)
        if scale == 0.0:
            scale = REFERENCE_RTOL * abs(self.published) / MAX_STANDARD_ERRORS
        return (self.value - self.published) / scale

    @property
    def agrees(self) -> bool:
        return abs(self.deviation) <= MAX_STANDARD_ERRORS


def make_beam(data: Mapping[str, Any], *, particles: int, precision: str, seed: int) -> bt.Beam:
    """The beam at the plasma exit."""
    reference = bt.Reference(
        data["reference"]["species"], kinetic_energy=data["reference"]["kinetic_energy"]
    )
    facts = data["beam"]
    distribution = getattr(bt, facts["distribution"]).from_twiss(**facts["twiss"])
    return bt.Beam(
        reference,
        distribution,
        n=particles,
        charge=facts["charge"],
        seed=seed,
        precision=precision,
    )


def make_line(data: Mapping[str, Any]) -> bt.Line:
    """The line: elements by name, and a nested list of names with repetitions."""
    return bt.Line.from_dict(
        {"elements": data["elements"], "sequence": data["line"], "name": "HTU"}
    )


def standard_errors(beam: bt.Beam) -> dict[str, float]:
    """Standard errors of the sigmas and projected emittances of a beam, from its own particles.

    A moment m that depends smoothly on averages has the standard error std(g)/sqrt(N), g being the
    influence of one particle on it (delta method). With centred u, v, a = <u^2>, b = <v^2> and
    c = <uv>: g = u^2/(2 sigma) for sigma = sqrt(a), which is sigma sqrt((kurtosis - 1)/(4 N)), and
    g = (b u^2 + a v^2 - 2 c u v)/(2 eps) for eps = sqrt(a b - c^2).
    """
    errors = {}
    root_n = math.sqrt(len(beam))
    for axis, momentum in (("x", "px"), ("y", "py"), ("t", "pt")):
        u, v = (np.asarray(beam[name], dtype=float) for name in (axis, momentum))
        u, v = u - u.mean(), v - v.mean()
        a, b, c = np.mean(u * u), np.mean(v * v), np.mean(u * v)
        emittance = math.sqrt(a * b - c * c)
        influence = b * u * u + a * v * v - 2.0 * c * u * v
        errors[f"sigma_{axis}"] = float(np.std(u * u) / (2.0 * math.sqrt(a) * root_n))
        errors[f"emittance_{axis}"] = float(np.std(influence) / (2.0 * emittance * root_n))
    return errors


def errors_at(beam: bt.Beam, line: bt.Line, places: Sequence[str]) -> dict[str, dict[str, float]]:
    """Standard errors of the moments of `beam` at named elements of the line; consumes `beam`."""
    errors: dict[str, dict[str, float]] = {}
    section: list[Any] = []
    for element in line:
        section.append(element)
        if element.name in places:
            bt.Line(section).track(beam, progress=False)
            section.clear()
            errors[element.name] = standard_errors(beam)
    return errors


def compare(
    moments: pd.DataFrame, errors: Mapping[str, Mapping[str, float]], expected: Mapping[str, Any]
) -> list[Comparison]:
    """All published numbers beside the moments recorded at the same places."""
    comparisons = []
    for place, published in expected["places"].items():
        row = moments[moments["name"] == place].iloc[-1]
        shrink = math.sqrt(row["n"] / expected["particles"])
        for quantity, value in published.items():
            error = errors[place].get(quantity, 0.0)
            comparisons.append(
                Comparison(place, quantity, float(row[quantity]), error, value, error * shrink)
            )
    return comparisons


def report(comparisons: Sequence[Comparison], expected: Mapping[str, Any]) -> None:
    """Print the comparison as a table."""
    print(
        f"\nMoments in m and m rad. The reference values are a sample of {expected['particles']:,}"
        " particles;\nthe last column is the difference over the combined standard error"
        f" (limit {MAX_STANDARD_ERRORS:g}).\n"
    )
    print(f"{'':14}{'betatron':>14} +- {'error':<10}{'reference':>14} +- {'error':<10}{'dev.':>6}")
    place = ""
    for item in comparisons:
        if item.place != place:
            place = item.place
            print(place)
        flag = "" if item.agrees else "   DISAGREES"
        print(
            f"  {item.quantity:12}{item.value:14.7g} +- {item.error:<10.2g}{item.published:14.7g}"
            f" +- {item.published_error:<10.2g}{item.deviation:6.2f}{flag}"
        )


def save_picture(plot: Any, file: Path) -> None:
    """Save what a plot method returned: a figure, or one or several axes of it."""
    figure = plot if hasattr(plot, "savefig") else np.ravel(plot)[0].figure
    figure.savefig(file, dpi=150, bbox_inches="tight")
    plt.close(figure)


def prepare(folder: Path, *, overwrite: bool) -> None:
    """Make the output folder; refuse to write over results unless asked to."""
    existing = [name for name in RESULTS if (folder / name).exists()]
    if existing and not overwrite:
        raise FileExistsError(
            f"{folder} already holds {', '.join(existing)}: choose another --output or --overwrite"
        )
    folder.mkdir(parents=True, exist_ok=True)
    for name in existing:
        (folder / name).unlink()


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--particles", type=int, default=1_000_000, metavar="N")
    parser.add_argument("--precision", choices=("single", "double"), default="double")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, metavar="N", help="default: all cores")
    parser.add_argument("--output", type=Path, default=Path("htu-results"), metavar="DIR")
    parser.add_argument("--overwrite", action="store_true", help="replace existing results")
    args = parser.parse_args(arguments)
    if args.particles < 2:
        parser.error(f"--particles {args.particles}: at least 2 are needed to estimate errors")
    try:
        prepare(args.output, overwrite=args.overwrite)
    except OSError as error:
        parser.error(str(error))
    return args


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the example; returns the exit status."""
    args = parse_arguments(arguments)
    matplotlib.use("Agg")
    data = YAML(typ="safe").load(DATA)
    expected = data["expected"]

    line = make_line(data)
    beam = make_beam(data, particles=args.particles, precision=args.precision, seed=args.seed)
    print(
        f"HTU beamline: {len(line)} elements, {line.length:.3f} m; {len(beam):,} electrons at"
        f" {beam.reference.kinetic_energy / 1e6:.2f} MeV in {args.precision} precision"
    )
    # A first pass without any record, from place to place, yields the sampling errors there.
    errors = errors_at(beam.copy(), line, list(expected["places"]))

    start = time.perf_counter()
    track = line.track(beam, record="all", threads=args.threads)
    seconds = time.perf_counter() - start
    per_push = 1e9 * seconds / (args.particles * len(line))
    print(
        f"tracked in {seconds:.3f} s, with the moments after every element"
        f" ({per_push:.2f} ns per particle and element); {beam.n_lost} particles lost"
    )

    comparisons = compare(track.moments, errors, expected)
    report(comparisons, expected)

    track.moments.to_csv(args.output / "moments.csv", index=False)
    beam.save(args.output / "final_beam.h5")
    save_picture(track.plot.envelope(), args.output / "envelope.png")
    save_picture(beam.plot.phase_space(), args.output / "phase_space.png")
    save_picture(line.plot.survey(), args.output / "survey.png")
    print(f"\nresults in {args.output}: {', '.join(RESULTS)}")

    wrong = [item for item in comparisons if not item.agrees]
    if wrong:
        print(f"{len(wrong)} of {len(comparisons)} values disagree with the reference")
        return 1
    print(f"all {len(comparisons)} values agree with the reference within the sampling error")
    return 0


if __name__ == "__main__":
    sys.exit(main())
