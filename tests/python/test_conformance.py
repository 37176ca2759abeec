"""A small part of the conformance matrix (`make conformance`), with the codes installed."""

from __future__ import annotations

import sys
from pathlib import Path

import betatron as bt
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "conformance"))

import symmetry
from adapters import ADAPTERS, energy_deviation, momentum, rereferenced
from cases import CASES, Case
from explanations import EXPLANATIONS
from matrix import evaluate, page

# Each class of element that Xtrack compiles takes seconds: the whole matrix has them all.
QUICK = [
    case for case in CASES
    if case.code != "Xtrack" or (case.kind, case.label) == ("Quadrupole", "mat-kick-mat")
    if case.options == {} and not case.aligned
]  # fmt: skip


@pytest.mark.parametrize("case", QUICK, ids=lambda case: "-".join(case.key).replace(" ", "_"))
@pytest.mark.filterwarnings("ignore")
def test_cell(case: Case) -> None:
    adapter = ADAPTERS[case.code]()
    if why := adapter.missing():
        pytest.skip(why)
    cell = evaluate(case, adapter, draws=2, particles=4)
    assert cell["verdict"] in ("agrees", "explained"), cell


def test_every_explanation_is_used_and_every_reference_to_one_exists() -> None:
    assert {case.explanation for case in CASES} - {""} == set(EXPLANATIONS)


def test_cells_are_different() -> None:
    assert len({case.key for case in CASES}) == len(CASES)


def test_energy_deviation_is_the_inverse_of_the_momentum() -> None:
    for beta_gamma in (0.05, 1.0, 1e4):
        ref = bt.Reference("proton", beta_gamma=beta_gamma)
        pt = np.linspace(-5e-3, 5e-3, 11) * ref.beta
        delta, inverse_beta = momentum(ref, pt)
        assert np.allclose(energy_deviation(ref, delta), pt, rtol=1e-14, atol=0)
        energy = ref.total_energy - pt * ref.momentum
        assert np.allclose(inverse_beta, energy / ((1 + delta) * ref.momentum), rtol=1e-14)


def test_rereferenced_keeps_energy_and_arrival() -> None:
    before, after = bt.Reference("proton", gamma=1.2), bt.Reference("proton", gamma=1.5)
    z = np.array([[1e-3], [2e-3], [3e-3], [4e-3], [5e-3], [6e-3]])
    out = rereferenced(z, before, after)
    gamma = before.gamma - z[5] * before.beta_gamma
    assert after.gamma - out[5] * after.beta_gamma == pytest.approx(gamma, rel=1e-14)
    assert out[1] * after.beta_gamma == pytest.approx(z[1] * before.beta_gamma, rel=1e-14)
    assert out[4] == z[4]  # neither has moved


def test_laws_of_one_element() -> None:
    found = symmetry.measure("Quadrupole", "exact", draws=2)
    assert found["symplectic"] < 1e-14
    assert found["backward"] < 1e-14
    assert found["derivative"] < 1e-8
    assert found["conjugation"] == 0


def test_page_says_what_was_not_run() -> None:
    cell = {
        "kind": "Drift",
        "model": "exact",
        "code": "PTC",
        "label": "exact",
        "verdict": "not run: no PTC",
    }
    text = page(
        {"codes": {}, "draws": 1, "particles": 1, "cells": [cell], "alone": [], "symmetry": []}
    )
    assert "not run: no PTC" in text
    assert "1 are neither" in text
