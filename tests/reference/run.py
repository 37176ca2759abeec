#!/usr/bin/env python3
"""Compare Betatron with the published results of benchmark cases.

    python tests/reference/run.py tests/reference/cases.json [--case ID ...] [--precision single]

Prints one line per case, ``id PASS|FAIL|UNSUPPORTED reason``, and a last line with the counts. The
exit status is 1 if a case fails, 2 if the file cannot be used, else 0. A case passes only if all
its expected numbers were compared, at least one, each within the tolerance of the case.
See README.md in this folder for the file format and for what is done about sampling noise.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from facts import Facts, Unsupported, prescribed_particles
from programs import program_of
from quantities import Quantity, Stages, Value, parse, rule_names, tolerance
from records import Record, Run, run_case

# What an entry of "expected" may hold besides its numbers; anything else is not understood.
_ENTRY_KEYS = {
    "stage",
    "quantities",
    "quantity",
    "value",
    "rtol",
    "atol",
    "atol_rule",
    "computed",
    "monitor",
    "label",
    "note",
}

# The tolerances of the facts are those of double precision. Single precision gets at least
# these: a moment is a sum of rounded products, a coordinate passes a few dozen rounded operations.
_SINGLE_RTOL = 1e-4
_SINGLE_ATOL_IN_EPS = 16.0

# A sampled emittance scatters by about 1/sqrt(N), a sigma by 0.6/sqrt(N). The published numbers are
# themselves samples, and often use up most of their tolerance: N is chosen so that our own scatter
# is a small part of it.
_SCATTER_SHARE = 1.0 / 20.0
_MAX_SAMPLE = 4_000_000
_MAX_KEPT_SAMPLE = 500_000
_MAX_POLARIZED_SAMPLE = 300_000  # spins take several times as long

# Quantities that depend on how many particles were drawn, not only on the distribution.
_SIZE_DEPENDENT = re.compile(r"(?:^|_)(?:min|max)|(?:min|max)(?:$|_)|^n$|num_particles|npart")


@dataclass(frozen=True)
class Options:
    """How to run the cases (see the command line)."""

    precision: str = "double"
    seed: int = 1
    particles: str = "auto"  # or "case", or a number
    threads: int | None = None


@dataclass(frozen=True)
class Expectation:
    """One expected number of a case, and how closely it is to be met."""

    name: str
    value: Any
    stage: str
    monitor: str | None
    rtol: float
    atol: float
    rule: str | None
    computed: str | None
    label: str | None


@dataclass
class Outcome:
    """The verdict on a case, with a line per number compared and per thing left unchecked."""

    case: str
    status: str
    reason: str
    details: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Comparison:
    passed: bool
    ratio: float  # deviation over tolerance
    text: str


def check_case(case: Facts, conventions: Facts, options: Options) -> Outcome:
    """Run one case and compare all its numbers."""
    name = str(case.get("id", "?"))
    details = [
        f"also stated, not checked as such: {text}" for text in case.get("other_assertions", [])
    ]
    try:
        expectations = list(_expectations(case))
        quantities, unknown = _parse_all(expectations, case)
        run = _run(case, options, expectations, quantities)
        comparisons = _compare_all(case, conventions, options, run, quantities, unknown)
    except Unsupported as missing:
        return Outcome(name, "UNSUPPORTED", str(missing), details)
    except Exception as error:  # whatever goes wrong in a case is a failure of that case only
        message = " ".join(f"{type(error).__name__}: {error}".split())
        return Outcome(name, "FAIL", message, [*traceback.format_exc().splitlines(), *details])

    details = [comparison.text for comparison in comparisons] + details
    failed = [comparison for comparison in comparisons if not comparison.passed]
    if failed:
        more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        return Outcome(name, "FAIL", failed[0].text + more, details)
    if unknown:
        more = f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
        return Outcome(name, "UNSUPPORTED", unknown[0] + more, details)
    if not comparisons:
        return Outcome(name, "UNSUPPORTED", "the case lists no expected number", details)
    worst = max(comparison.ratio for comparison in comparisons)
    reason = f"{len(comparisons)} numbers, largest deviation {worst:.2f} of the tolerance"
    return Outcome(name, "PASS", reason, details)


def _expectations(case: Facts) -> Iterable[Expectation]:
    for entry in case.get("expected", []):
        unknown = sorted(set(entry) - _ENTRY_KEYS)
        if unknown:
            raise Unsupported(f"expected numbers with {', '.join(unknown)}")
        computed: dict[str, str] = {}
        for text in entry.get("computed", []):
            match = re.fullmatch(r"(.+?) compared with computed value \"(.+)\"", text)
            if match:
                computed[match[1]] = match[2]
        numbers = dict(entry.get("quantities", {}))
        if "quantity" in entry:
            numbers[entry["quantity"]] = entry.get("value")
        for name, value in numbers.items():
            yield Expectation(
                name=name,
                value=value,
                stage=entry.get("stage", "other"),
                monitor=entry.get("monitor"),
                rtol=_number(entry.get("rtol"), 1e-5),
                atol=_number(entry.get("atol"), 1e-8),
                rule=entry.get("atol_rule"),
                computed=computed.get(name),
                label=entry.get("label"),
            )


def _number(value: Any, default: float) -> float:
    return default if value is None else float(value)


def _parse_all(
    expectations: Sequence[Expectation], case: Facts
) -> tuple[list[tuple[Expectation, Quantity]], list[str]]:
    """The quantities behind the expected numbers, and the reasons for those not understood."""
    known, unknown = [], []
    for expectation in expectations:
        try:
            known.append((expectation, parse(expectation.name, case, expectation.label)))
        except Unsupported as reason:
            unknown.append(str(reason))
    return known, unknown


def _run(
    case: Facts,
    options: Options,
    expectations: Sequence[Expectation],
    quantities: Sequence[tuple[Expectation, Quantity]],
) -> Run:
    needed = [quantity for _, quantity in quantities]
    for expectation in expectations:
        if expectation.rule is not None:
            needed += [parse(name, case) for name in rule_names(expectation.rule)]
    program = program_of(case)
    survivors = program is not None and program.survivors is not None
    keep = survivors or any(quantity.needs_particles for quantity in needed)
    size_dependent = any(_SIZE_DEPENDENT.search(quantity.key) for quantity in needed)
    return run_case(
        case,
        precision=options.precision,
        seed=options.seed,
        particles=None if size_dependent else _sample_size(case, options, expectations, keep=keep),
        threads=options.threads,
        keep_particles=keep,
        rows=[quantity.row for quantity in needed if quantity.stage == "row"],
    )


def _sample_size(
    case: Facts, options: Options, expectations: Sequence[Expectation], *, keep: bool
) -> int | None:
    """How many particles to draw; None for the number that the case prescribes."""
    if options.particles == "case":
        return None
    if options.particles != "auto":
        return int(options.particles)
    prescribed = prescribed_particles(case)
    tolerances = [e.rtol for e in expectations if e.atol == 0.0 and e.value and e.rtol > 1e-3]
    limit = _MAX_KEPT_SAMPLE if keep else _MAX_SAMPLE
    polarizations = [e.atol for e in expectations if e.name.startswith("polarization_")]
    if polarizations:  # which scatter by 1/sqrt(N) or less, whatever their value
        tolerances, limit = tolerances + polarizations, _MAX_POLARIZED_SAMPLE
    if prescribed is None or not tolerances:
        return prescribed
    enough = round((1.0 / (_SCATTER_SHARE * min(tolerances))) ** 2)
    return max(prescribed, min(enough, limit))


def _compare_all(
    case: Facts,
    conventions: Facts,
    options: Options,
    run: Run,
    quantities: Sequence[tuple[Expectation, Quantity]],
    unknown: list[str],
) -> list[_Comparison]:
    stages = Stages(case, conventions)
    run.ends = (stages.find(run, "initial"), stages.find(run, "final"))
    comparisons = []
    program = program_of(case)
    if program is not None and program.survivors is not None:
        comparisons.append(_compare_survivors(run, program.survivors))
    for expectation, quantity in quantities:
        try:
            record = _record(run, stages, expectation, quantity)
            comparisons.append(_compare(run, record, expectation, quantity, options))
        except Unsupported as reason:
            unknown.append(str(reason))
        except AssertionError as error:
            text = f"{expectation.stage} {expectation.name}: {error}"
            comparisons.append(_Comparison(False, float("inf"), text))
    return comparisons


def _compare_survivors(
    run: Run, survivors: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> _Comparison:
    """Exactly the particles of the initial beam that the case keeps must be there at the end."""
    assert run.end is not None and run.start.particles is not None and run.end.particles is not None
    start = run.start.particles
    kept = np.isin(start.id, run.end.particles.id)
    wanted = survivors(start["x"], start["y"])
    wrong = int(np.count_nonzero(kept != wanted))
    text = f"{wrong} of {len(kept)} particles on the wrong side, {np.count_nonzero(kept)} kept"
    passed = wrong == 0 and 0 < np.count_nonzero(kept) < len(kept)
    return _Comparison(passed, 0.0 if passed else float("inf"), text)


def _record(run: Run, stages: Stages, expectation: Expectation, quantity: Quantity) -> Record:
    """The record that an expected number belongs to."""
    assert run.ends is not None and run.end is not None
    match quantity.stage:
        case "run":
            return run.ends[1]
        case "start":
            return run.start
        case "end":
            return run.end
        case "row":
            return run.rows[quantity.row]
    stage = quantity.stage or expectation.stage
    if stage == "other":
        raise Unsupported(f"where {expectation.name!r} is taken is not stated")
    return stages.find(run, stage, expectation.monitor)


def _compare(
    run: Run, record: Record, expectation: Expectation, quantity: Quantity, options: Options
) -> _Comparison:
    actual = quantity.value(run, record)
    expected = _expected_value(run, expectation, quantity)
    rtol, atol = expectation.rtol, expectation.atol
    if expectation.rule is not None:
        atol = tolerance(expectation.rule, run, record)
    if options.precision == "single":
        rtol = max(rtol, _SINGLE_RTOL)
        if quantity.magnitude is not None:
            eps = float(np.finfo(np.float32).eps)
            atol = max(atol, _SINGLE_ATOL_IN_EPS * eps * quantity.magnitude)

    values, targets = np.broadcast_arrays(np.atleast_1d(actual), np.atleast_1d(expected))
    allowed = atol + rtol * np.abs(targets)
    deviation = np.abs(values - targets)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.where(deviation == 0.0, 0.0, deviation / allowed)
    ratios = np.where(np.isfinite(values), ratios, np.inf)
    worst = int(np.argmax(ratios))
    passed = bool(np.all(ratios <= 1.0))
    stage = expectation.stage if expectation.stage != "other" else quantity.stage
    text = (
        f"{stage} {expectation.name} = {values[worst]:.8g}, expected {targets[worst]:.8g}"
        f" +- {allowed[worst]:.2g}"
    )
    return _Comparison(passed, float(ratios[worst]), text if passed else text + " MISSED")


def _expected_value(run: Run, expectation: Expectation, quantity: Quantity) -> Value:
    """The expected number; where it was computed from the initial beam, that same moment there."""
    if expectation.value is not None:
        return np.asarray(expectation.value, dtype=float)
    assert run.ends is not None
    if expectation.computed is not None:
        try:
            source = parse(expectation.computed, run.case)
        except Unsupported:
            source = None
        if source is not None and source.key == "prediction":
            return source.value(run, run.ends[0])
        if source is not None and source.key == quantity.key != "":
            return quantity.value(run, run.ends[0])
        raise Unsupported(f"{expectation.name}: compared with {expectation.computed!r}, not given")
    raise Unsupported(f"no value for {expectation.name!r}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, help="cases in the format of cases.json")
    parser.add_argument("--case", nargs="+", metavar="ID", help="run only these cases")
    parser.add_argument("--precision", choices=("single", "double"), default="double")
    parser.add_argument("--seed", type=int, default=Options.seed, help="seed of the sampled beams")
    parser.add_argument(
        "--particles",
        default=Options.particles,
        metavar="N|case|auto",
        help="size of sampled beams: a number, the number that the case prescribes, or as many as"
        " make the sampling error small against its tolerance (default %(default)s)",
    )
    parser.add_argument("--threads", type=int, help="threads per run (default: all cores)")
    parser.add_argument("-v", "--verbose", action="store_true", help="print every comparison")
    args = parser.parse_args(arguments)
    if args.particles not in ("auto", "case") and not re.fullmatch("[1-9][0-9]*", args.particles):
        parser.error(f"--particles {args.particles}: must be a positive number, 'case' or 'auto'")

    try:
        content = json.loads(args.file.read_text(encoding="utf-8"))
        cases = content["cases"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        parser.error(f"{args.file}: {type(error).__name__}: {error}")
    if args.case:
        unknown = sorted(set(args.case) - {case["id"] for case in cases})
        if unknown:
            parser.error(f"{args.file} has no case {', '.join(unknown)}")
        cases = [case for case in cases if case["id"] in args.case]

    options = Options(args.precision, args.seed, args.particles, args.threads)
    counts: Counter[str] = Counter()
    for case in cases:
        outcome = check_case(case, content.get("conventions", {}), options)
        counts[outcome.status] += 1
        print(f"{outcome.case} {outcome.status} {outcome.reason}", flush=True)
        if args.verbose:
            for line in outcome.details:
                print(f"    {line}")
    print(
        f"{sum(counts.values())} cases: {counts['PASS']} PASS, {counts['FAIL']} FAIL,"
        f" {counts['UNSUPPORTED']} UNSUPPORTED"
    )
    return 1 if counts["FAIL"] else 0


if __name__ == "__main__":
    sys.exit(main())
