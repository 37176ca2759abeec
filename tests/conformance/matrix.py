"""The conformance matrix: every kind of element and model against independent codes.

    python tests/conformance/matrix.py [--page docs/conformance.md] [--json FILE] [--only TEXT ...]

Random elements and particles (the same in every run) go through Betatron and through each code
that has the element; a cell of the matrix is the largest difference of a coordinate, particle by
particle, over the largest value it takes. Where it is above the limit, the explanation named in
cases.py must be measured to hold (explanations.py). Exit status 1 if one does not, if a cell has
none, or if a kind and model is in no cell and has no reason why (NO_COUNTERPART). Collective
effects have figures of their own (collective.py).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from pathlib import Path
from typing import Any

import betatron as bt
import numpy as np
import symmetry
from adapters import ADAPTERS, NAMES, Adapter
from cases import CASES, CLOSED, INTEGRATED, Case
from compare import deviation
from explanations import EXPLANATIONS

import collective

DRAWS, PARTICLES = 8, 16

# kinds that no adapter has, and why; a kind that is in neither list is reported as not yet compared
NO_COUNTERPART: dict[str, str] = {
    "SpinMap": "turns the spin alone; the orbit is that of a Marker",
    "Programmable": "is the user's own code",
}
NOT_COMPARED = "not yet compared: no adapter writes this kind and model"


def evaluate(
    case: Case, adapter: Adapter, draws: int = DRAWS, particles: int = PARTICLES
) -> dict[str, Any]:
    """One cell: deviations, verdict, and what was measured of its explanation."""
    worst = deviation(case, adapter, draws, particles)
    above = [n for n, d in zip(NAMES, worst, strict=True) if not d <= case.limit]
    cell: dict[str, Any] = {
        "kind": case.title,
        "model": case.model,
        "code": case.code,
        "label": case.label,
        "limit": case.limit,
        "deviation": float(np.max(worst)),
        "deviations": dict(zip(NAMES, map(float, worst), strict=True)),
        "verdict": "agrees",
        "laws": [],
    }
    if not above:
        return cell
    cell["verdict"] = "UNEXPLAINED"
    if case.explanation:
        explanation = EXPLANATIONS[case.explanation]
        for law in explanation.laws:
            low, high = law.measure(case, adapter)
            cell["laws"].append(
                {
                    "law": str(law),
                    "expected": law.power,
                    "measured": [low, high],
                    "holds": law.holds((low, high)),
                }
            )
        if set(above) <= set(explanation.touches) and all(law["holds"] for law in cell["laws"]):
            cell["verdict"] = "explained"
            cell["explanation"] = case.explanation
    return cell


def chosen(case: Case, only: list[str] | None) -> bool:
    return not only or any(word.lower() in " ".join(case.key).lower() for word in only)


def run_code(code: str, only: list[str] | None) -> tuple[str, dict[int, dict[str, Any]]]:
    """All cells of one code, by their place in CASES; with the version of the code, or empty."""
    adapter = ADAPTERS[code]()
    missing, cells = adapter.missing(), {}
    for place, case in enumerate(CASES):
        if case.code != code or not chosen(case, only):
            continue
        if missing:
            cells[place] = {
                "kind": case.title,
                "model": case.model,
                "code": case.code,
                "label": case.label,
                "verdict": f"not run: {missing}",
            }
            continue
        start = time.perf_counter()
        cells[place] = cell = evaluate(case, adapter)
        print(
            f"{case.title:22s} {case.model:9s} {case.code:13s} {case.label:36s} "
            f"{cell['deviation']:8.1e}  {cell['verdict']}  ({time.perf_counter() - start:.1f} s)",
            flush=True,
        )
    return "" if missing else adapter.version, cells


def uncompared() -> list[dict[str, str]]:
    """Kinds and models that are in no cell, and why."""
    compared = {(case.kind, case.model) for case in CASES}
    return [
        {"kind": kind, "model": model, "reason": NO_COUNTERPART.get(kind, NOT_COMPARED)}
        for kind in bt.kinds()
        for model in symmetry.MODELS
        if (kind, model) not in compared
    ]


def run(only: list[str] | None = None) -> dict[str, Any]:
    # the codes side by side: Xtrack mostly waits for the compiler
    with ProcessPoolExecutor(min(len(ADAPTERS), os.cpu_count() or 1)) as pool:
        effects = pool.submit(collective.run, only)
        found = dict(zip(ADAPTERS, pool.map(run_code, ADAPTERS, repeat(only)), strict=True))
        effect_codes, effect_cells = effects.result()
    numbered = {place: cell for _, cells in found.values() for place, cell in cells.items()}
    cells = [numbered[place] for place in sorted(numbered)]
    return {
        "betatron": bt.info()["version"],
        "codes": {code: version for code, (version, _) in found.items() if version},
        "effect_codes": effect_codes,
        "draws": DRAWS,
        "particles": PARTICLES,
        "cells": cells,
        "effects": effect_cells,
        "alone": uncompared(),
        "symmetry": [] if only else symmetry.table(),
    }


# --- The page --------------------------------------------------------------------------------

INTRODUCTION = """\
# Conformance

Every kind of element, in every model, against independent codes: {betatron}. Each cell is {draws}
random elements, each with a random species and reference energy (from $\\beta_0 = 0.05$ to
$1-10^{{-10}}$) and {particles} random particles (up to 2 mm, 2 mrad, 5 mm, 0.5 % of the
momentum). Coordinates are converted exactly, each particle is compared with itself, and the
**deviation** is the largest difference of a coordinate over the largest value that it takes in
that beam, in or out. The **Lorentz force** is the equation of motion itself, integrated in
Cartesian coordinates with SciPy's DOP853 in fields that solve Maxwell's equations
(`tests/conformance/lorentz.py`): the arbiter where codes differ, and the independent code where
there is no other. *Derivative* marks a linear model that is held to the derivative of the other
code's map on the reference orbit. This page is written by `make conformance`; the numbers in full
are in [conformance.json](conformance.json).

A cell **agrees** if the deviation is at most {closed:.0e} (both codes have a formula) or
{integrated:.0e} (one of them integrates in many steps). Otherwise the difference is
**explained**: it may touch only coordinates where the stated approximation acts, and must scale
as that approximation does, which the same run measures. In this run {agree} of {count} cells
agree and {explained} are explained{rest}.
"""


def number(value: float | None) -> str:
    if value is None:
        return "–"
    return "0" if value == 0 else f"{value:.0e}"


def rows(header: list[str], body: list[list[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *body]]
    return "\n".join(lines) + "\n"


def page(result: dict[str, Any]) -> str:
    cells = result["cells"]
    count = {v: sum(c["verdict"] == v for c in cells) for v in ("agrees", "explained")}
    rest = len(cells) - sum(count.values())
    parts = [
        INTRODUCTION.format(
            betatron=", ".join(f"{name} {version}" for name, version in result["codes"].items()),
            draws=result["draws"],
            particles=result["particles"],
            closed=CLOSED,
            integrated=INTEGRATED,
            agree=count["agrees"],
            explained=count["explained"],
            count=len(cells),
            rest=f"; **{rest} are neither**" if rest else "",
        )
    ]
    used = list(dict.fromkeys(c["explanation"] for c in cells if "explanation" in c))
    order = {kind: i for i, kind in enumerate(dict.fromkeys(c["kind"] for c in cells))}
    ranks = {m: i for i, m in enumerate(symmetry.MODELS)}
    body = []
    for c in sorted(cells, key=lambda c: (order[c["kind"]], ranks[c["model"]])):
        verdict = c["verdict"]
        if verdict == "explained":
            places = ", ".join(n for n, d in c["deviations"].items() if d > c["limit"])
            n = used.index(c["explanation"]) + 1
            verdict = f"{places}: [{EXPLANATIONS[c['explanation']].whose}, {n}](#explanations)"
        body.append(
            [c["kind"], c["model"], c["code"], c["label"], number(c.get("deviation")), verdict]
        )
    parts.append(
        "## The matrix\n\n"
        + rows(["kind", "model", "code", "its model", "deviation", "verdict"], body)
    )
    parts.append(explanations(used, cells))
    if result.get("effects"):
        parts.append(effects(result["effects"], result["effect_codes"]))
    if result["symmetry"]:
        parts.append(laws(result["symmetry"]))
    if result["alone"]:
        table = rows(
            ["kind", "model", "reason"],
            [[a["kind"], a["model"], a["reason"]] for a in result["alone"]],
        )
        parts.append("## Without an independent code\n\n" + table)
    return "\n".join(parts)


def effects(cells: list[dict[str, Any]], codes: dict[str, str]) -> str:
    agree = sum(c["verdict"] == "agrees" for c in cells)
    text = f"""## Collective effects

Kicks, rates and losses of the same beams in Betatron and in another code or a closed form
(`tests/conformance/collective.py`): {", ".join(f"{n} {v}" for n, v in codes.items())}. The
deviation is the largest difference over the largest value; the limit is set by what the last column
says. {agree} of {len(cells)} figures agree.

"""
    body = []
    for c in cells:
        if "deviation" not in c:
            body.append([c["effect"], c["code"], "", "", "", "", "", c["verdict"]])
            continue
        limited = "" if c["verdict"] != "agrees" else c["limited_by"]
        body.append(
            [
                c["effect"],
                c["code"],
                c["figure"],
                f"{c['ours']:.6g}",
                f"{c['theirs']:.6g}",
                number(c["deviation"]),
                number(c["limit"]),
                limited or c["verdict"],
            ]
        )
    header = ["effect", "beside", "figure", "ours", "theirs", "deviation", "limit", "limited by"]
    return text + rows(header, body)


def explanations(used: list[str], cells: list[dict[str, Any]]) -> str:
    body = []
    for n, key in enumerate(used, 1):
        measured: dict[str, list[float]] = {}
        for c in cells:
            for law in c["laws"] if c.get("explanation") == key else []:
                measured.setdefault(law["law"], []).extend(law["measured"])
        evidence = "; ".join(f"{law}, measured {span(values)}" for law, values in measured.items())
        body.append([str(n), EXPLANATIONS[key].whose, EXPLANATIONS[key].text, evidence])
    text = (
        "## Explanations\n\nWhose approximation it is, what it is, and how the difference scales. "
        "*Amplitude* is x, px, y, py together, *energy* is pt.\n\n"
    )
    return text + rows(["", "approximation of", "what differs", "evidence"], body)


def span(values: list[float]) -> str:
    low, high = f"{min(values):.2f}", f"{max(values):.2f}"
    return low if low == high else f"{low} to {high}"


def laws(table: list[dict[str, Any]]) -> str:
    text = """## Laws

What an element must obey whatever another code says, over random elements: the Jacobian of a
random particle is **symplectic** (conformally, where the reference is accelerated); tracking
**backward** undoes it; the forward-mode **derivative** is that of the tracked particles
(fourth-order differences with a step of 20 µm, whose own error is some $10^{-11}$ where the field
varies little over that: the singularity of a NonlinearLens and strong multipoles show more);
opposite **charge** in opposite fields moves the same. Relative to what is summed, so that rounding
is some $10^{-16}$.

"""
    header = ["kind", "model", "symplectic", "backward", "derivative", "charge"]
    return text + rows(
        header, [[r["kind"], r["model"], *(number(r[law]) for law in symmetry.LAWS)] for r in table]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--page", type=Path, help="write the page of the documentation")
    parser.add_argument("--json", type=Path, help="write all numbers")
    parser.add_argument(
        "--only", nargs="+", help="cells whose kind, model, code or label contains one of these"
    )
    arguments = parser.parse_args()
    result = run(arguments.only)
    if arguments.page:
        arguments.page.write_text(page(result), encoding="utf-8")
    if arguments.json:
        arguments.json.write_text(json.dumps(finite(result), indent=1) + "\n", encoding="utf-8")
    verdicts = [c["verdict"] for c in result["cells"] + result["effects"]]
    failed = verdicts.count("UNEXPLAINED")
    print(
        f"{verdicts.count('agrees')} cells agree, {verdicts.count('explained')} are explained, "
        f"{failed} are unexplained, {sum(v.startswith('not run') for v in verdicts)} were not run"
    )
    forgotten = [a for a in result["alone"] if a["reason"] == NOT_COMPARED]
    for cell in forgotten:
        print(f"{cell['kind']} {cell['model']}: {cell['reason']}")
    return 1 if failed or (forgotten and not arguments.only) else 0


def finite(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


if __name__ == "__main__":
    sys.exit(main())
