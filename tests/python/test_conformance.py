"""A small part of the conformance matrix (`make conformance`), with the codes installed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import betatron as bt
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "conformance"))

import symmetry
from adapters import ADAPTERS, energy_deviation, momentum, rereferenced
from cases import CASES, Case, draw_parameters, draw_reference
from explanations import EXPLANATIONS
from matrix import NOT_COMPARED, evaluate, page, uncompared

import collective

# Each class of element that Xtrack compiles takes seconds, so do the periods of an undulator: the
# whole matrix has them all.
QUICK = [
    case for case in CASES
    if case.kind != "Undulator"
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


@pytest.mark.parametrize(
    "part",
    [part for part in collective.PARTS if part.seconds <= 5],
    ids=lambda part: f"{part.effect}-{part.code}-{part.run.__name__}".replace(" ", "_"),
)
@pytest.mark.filterwarnings("ignore")
def test_collective_figures(part: collective.Part) -> None:
    if why := part.missing():
        pytest.skip(why)
    for cell in collective.evaluate(part):
        assert cell["verdict"] == "agrees", cell


def test_a_collective_effect_whose_code_is_not_there_is_not_run() -> None:
    def no_figures() -> Iterator[collective.Figure]:
        raise AssertionError("was run")
        yield

    part = collective.Part("CSR", "Nobody", ("no_such_module",), "nobody", no_figures)
    (cell,) = collective.evaluate(part)
    assert cell["verdict"] == "not run: no_such_module is not installed"


def test_every_explanation_is_used_and_every_reference_to_one_exists() -> None:
    assert {case.explanation for case in CASES} - {""} == set(EXPLANATIONS)


def test_every_case_can_be_drawn() -> None:
    for case in CASES:
        rng = np.random.default_rng(1)
        ref = draw_reference(("electron",), (1.0, 10.0), rng)
        values = draw_parameters(case.kind, case.parameters, rng, ref)
        assert set(values) == set(case.parameters)


def test_every_kind_is_compared_or_has_a_reason() -> None:
    assert [cell for cell in uncompared() if cell["reason"] == NOT_COMPARED] == []


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


@pytest.mark.parametrize("kind", bt.kinds())
def test_laws_can_be_measured(kind: str) -> None:
    found = symmetry.measure(kind, "exact", draws=1)
    assert all(value < 1e-6 for value in found.values() if value is not None), found


def test_laws_of_one_element() -> None:
    found = symmetry.measure("Quadrupole", "exact", draws=2)
    assert found["symplectic"] < 1e-14
    assert found["backward"] < 1e-14
    assert found["derivative"] < 1e-8
    assert found["conjugation"] == 0


def test_a_buncher_is_a_short_gap_at_its_zero_crossing() -> None:
    """The radial field of a buncher has no counterpart in other codes: the derivative of the
    equation of motion through a real gap less its drifts, for a short gap and a weak field."""
    pytest.importorskip("scipy")
    from lorentz import C, Lorentz, Setup, standing_wave

    ref, length, frequency = bt.Reference("proton", beta_gamma=0.6), 1e-3, 2e8
    voltage = 1e-7 * ref.kinetic_energy
    profile = [0.75, 0.5, 0.125]  # ((1 + cos)/2)^2, of mean 3/8
    phase = -np.pi / 2 - 2 * np.pi * frequency / C * length / (2 * ref.beta)
    fields = standing_wave(voltage / (0.375 * length), frequency, phase, profile, [], length)
    gap = Lorentz().linear(ref, lambda ref: Setup(fields), length, np.eye(6))
    back = bt.Line([bt.Drift(-length / 2)]).matrix(ref)
    kick = back @ gap @ back - np.eye(6)
    buncher = bt.Line([bt.Buncher(voltage=voltage, frequency=frequency)]).matrix(ref) - np.eye(6)
    assert kick == pytest.approx(buncher, rel=2e-4, abs=2e-4 * np.max(np.abs(buncher)))
    assert kick[1, 0] == pytest.approx(buncher[1, 0], rel=1e-3)


def test_fields_of_the_arbiter_obey_maxwell() -> None:
    """div B = 0 and curl B = dE/dt/c^2, div E = 0 and curl E = -dB/dt, by differences."""
    pytest.importorskip("scipy")
    import lorentz

    def derivatives(fields, at: np.ndarray) -> np.ndarray:
        """d(E, cB)_i/d(x, y, s, ct)_k, shape (6, 4)."""
        h, rows = 1e-4, []
        for k in range(4):
            values = []
            for f in (h, -h, 2 * h, -2 * h):
                place = at.copy()
                place[k] += f
                e, b = fields(*(np.array([q]) for q in place))
                both = [*e, *(lorentz.C * component for component in b)]
                values.append(np.array([np.ravel(q + 0 * place[:1])[0] for q in both]))
            a, b, c, d = values
            rows.append((8 * (a - b) - (c - d)) / (12 * h))
        return np.array(rows).T

    series = ([0.75, 0.5, 0.125, 0.1], [0, 0.2, 0.1], 0.5)
    straight = {
        "harmonic": lorentz.curved([0.1, 2, 30, 400], [0.2, 1, -20], 0.0, 3.0),
        "solenoid": lorentz.soft_solenoid(2.0, *series),
        "quadrupole": lorentz.soft_quadrupole(10.0, *series),
        "wave": lorentz.standing_wave(1e6, 1.3e9, 0.4, *series),
        "undulator": lorentz.undulator(1.0, 0.05, 0.3),
        "column": lorentz.uniform(1e6, 0.5),
    }
    for name, fields in straight.items():
        d = derivatives(fields, np.array([3e-3, -2e-3, 0.12, 0.03]))
        size = np.max(np.abs(d)) + 1
        assert abs(d[0, 0] + d[1, 1] + d[2, 2]) < 1e-7 * size, name
        assert abs(d[3, 0] + d[4, 1] + d[5, 2]) < 1e-7 * size, name
        for i, j, k in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
            assert abs(d[k, j] - d[j, k] + d[3 + i, 3]) < 1e-7 * size, name
            assert abs(d[3 + k, j] - d[3 + j, k] - d[i, 3]) < 1e-7 * size, name
    # around a bent axis div and curl have the scale 1 + h x
    h, at = 0.7, np.array([3e-2, -2e-2, 0.0, 0.0])
    fields = lorentz.curved([0.1, 2, 30, 400, 50], [0.2, 1, -20, 60], h, 3.0)
    d, scale = derivatives(fields, at), 1 + h * at[0]
    bx = lorentz.C * fields(*(np.array([q]) for q in at))[1][0][0]
    size = np.max(np.abs(d))
    assert abs(d[3, 0] + h / scale * bx + d[4, 1]) < 1e-8 * size
    assert abs(d[4, 0] - d[3, 1]) < 1e-8 * size


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
