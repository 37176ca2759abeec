"""Coherent synchrotron radiation in the Berlin-Zeuthen chicane, beside Ocelot.

The chicane of the CSR workshop of 2002 (https://www.desy.de/csr): 5 GeV (or 500 MeV), 1 nC, a
Gaussian bunch of 200 um compressed to 20 um by a linear chirp of -36 1/m, normalised emittance 1
um, beta 40 m and 13 m, alpha 2.6 and 1.

    python benchmarks/csr.py [--ocelot] [--particles 100000] [--energy 5e9]

prints energy loss, the correlated energy spread that CSR adds and the horizontal emittance behind 2
m of drift, and writes csr.json where BETATRON_BENCHMARK_OUT names a folder. Ocelot (`pip install
ocelot-collab`) runs on the same particles.
"""

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np

ANGLE = np.radians(2.77)
BEND, LONG, MIDDLE, BEHIND = 0.5 * ANGLE / np.sin(ANGLE), 5.0 / np.cos(ANGLE), 1.0, 2.0


def particles(n, energy, seed=7):
    """x, x', y, y', z (ahead > 0), delta of the bunch of the workshop: a Gaussian, cut at 3 sigma
    in z."""
    from scipy.special import ndtri
    from scipy.stats import qmc

    u = qmc.Sobol(6, seed=seed).random(n)
    g = ndtri(u)
    cut = 3.0
    low = 0.0013498980316300933  # Phi(-3)
    z = 200e-6 * ndtri(low + u[:, 4] * (1 - 2 * low))
    z = np.clip(z, -cut * 200e-6, cut * 200e-6)
    emittance = 1e-6 / (energy / 0.51099895069e6)
    columns = {}
    for name, k, beta, alpha in (("x", 0, 40.0, 2.6), ("y", 2, 13.0, 1.0)):
        columns[name] = np.sqrt(emittance * beta) * g[:, k]
        columns["p" + name] = np.sqrt(emittance / beta) * (g[:, k + 1] - alpha * g[:, k])
    # ahead with less energy: R56 < 0 in the convention of the workshop compresses it
    columns["z"] = z
    columns["delta"] = -36.0 * z + 1e4 / energy * g[:, 5]
    return columns


def figures(x, px, delta, weight, energy):
    def cov(a, b):
        return np.average(
            (a - np.average(a, weights=weight)) * (b - np.average(b, weights=weight)),
            weights=weight,
        )

    return {
        "mean": float(np.average(delta, weights=weight)),
        "spread": float(np.sqrt(cov(delta, delta))),
        "emittance": float(
            np.sqrt(cov(x, x) * cov(px, px) - cov(x, px) ** 2) * energy / 0.51099895069e6
        ),
    }


def betatron(columns, energy, model, bins=200, smoothing=4):
    import betatron as bt

    ref = bt.Reference("electron", total_energy=energy)
    n = len(columns["z"])
    beam = bt.Beam.from_arrays(
        ref,
        x=columns["x"],
        px=columns["px"],
        y=columns["y"],
        py=columns["py"],
        t=-columns["z"] / ref.beta,
        pt=-columns["delta"] * ref.beta,
        charge=1e-9,
    )

    def bend(sign, e1, e2):
        return bt.Bend(
            BEND, angle=sign * ANGLE, e1=sign * e1, e2=sign * e2, slices=25, model="exact"
        )

    def drift(length, slices):
        return bt.Drift(length, slices=slices, model="exact")

    line = bt.Line(
        [
            bend(1, 0, ANGLE),
            drift(LONG, 50),
            bend(-1, ANGLE, 0),
            drift(MIDDLE, 20),
            bend(-1, 0, ANGLE),
            drift(LONG, 50),
            bend(1, ANGLE, 0),
            drift(BEHIND, 40),
        ]
    )
    effects = [] if model is None else [bt.CSR(bins, model, smoothing=smoothing)]
    start = time.perf_counter()
    line.track(beam, collective=effects)
    seconds = time.perf_counter() - start
    order = np.argsort(beam.id)
    delta = -np.asarray(beam.pt)[order]
    return {
        **figures(np.asarray(beam.x)[order], np.asarray(beam.px)[order], delta, np.ones(n), energy),
        "delta": delta,
        "t": np.asarray(beam.t)[order],
        "seconds": seconds,
    }


def ocelot(columns, energy, csr):
    from ocelot import (
        Drift,
        MagneticLattice,
        Marker,
        Navigator,
        ParticleArray,
        SBend,
        SecondTM,
        track,
    )
    from ocelot.cpbd.csr import CSR

    p = ParticleArray(n=len(columns["z"]))
    p.E = energy * 1e-9
    p.rparticles[0], p.rparticles[1] = columns["x"], columns["px"]
    p.rparticles[2], p.rparticles[3] = columns["y"], columns["py"]
    p.rparticles[4], p.rparticles[5] = -columns["z"], columns["delta"]  # tau = c t > 0: late
    p.q_array[:] = 1e-9 / len(columns["z"])
    a = ANGLE
    first, last = Marker(), Marker()
    cell = (
        Drift(l=0.1),
        first,
        SBend(l=BEND, angle=-a, e1=0.0, e2=-a),
        Drift(l=LONG),
        SBend(l=BEND, angle=a, e1=a, e2=0.0),
        Drift(l=MIDDLE),
        SBend(l=BEND, angle=a, e1=0.0, e2=a),
        Drift(l=LONG),
        SBend(l=BEND, angle=-a, e1=-a, e2=0.0),
        Drift(l=BEHIND),
        last,
    )
    p.rparticles[0] -= 0.1 * p.rparticles[1]
    p.rparticles[2] -= 0.1 * p.rparticles[3]
    lattice = MagneticLattice(cell, method={"global": SecondTM})
    navigator = Navigator(lattice)
    navigator.unit_step = 0.02
    if csr:
        effect = CSR()
        effect.energy = energy * 1e-9
        effect.n_bin, effect.m_bin, effect.sigma_min = 300, 5, 2e-6
        effect.traj_step, effect.apply_step, effect.step = 0.0005, 0.02, 1
        navigator.add_physics_proc(effect, first, last)
    start = time.perf_counter()
    track(lattice, p, navigator, print_progress=False)
    seconds = time.perf_counter() - start
    r = p.rparticles
    return {
        **figures(r[0], r[1], r[5], p.q_array, energy),
        "delta": r[5].copy(),
        "t": r[4].copy(),
        "seconds": seconds,
    }


def report(name, with_csr, without):
    kick = with_csr["delta"] - without["delta"]
    row = {
        "code": name,
        "mean loss [%]": 100 * float(np.mean(kick)),
        "rms of loss [%]": 100 * float(np.std(kick)),
        "emittance [um]": 1e6 * with_csr["emittance"],
        "emittance without [um]": 1e6 * without["emittance"],
        "seconds": with_csr["seconds"],
    }
    print(
        "  ".join(f"{k} {v:.5g}" if isinstance(v, float) else f"{v:26s}" for k, v in row.items()),
        flush=True,
    )
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--ocelot", action="store_true")
    parser.add_argument("--particles", type=int, default=1 << 16)
    parser.add_argument("--energy", type=float, default=5e9)
    options = parser.parse_args()
    columns = particles(options.particles, options.energy)
    rows = []
    if options.ocelot:
        rows.append(
            report(
                "ocelot",
                ocelot(columns, options.energy, True),
                ocelot(columns, options.energy, False),
            )
        )
    else:
        still = betatron(columns, options.energy, None)
        print(f"compressed to {1e6 * np.std(still['t']):.3f} um")
        for model in ("steady_state", "transient"):
            rows.append(
                report(f"betatron {model}", betatron(columns, options.energy, model), still)
            )
    folder = os.environ.get("BETATRON_BENCHMARK_OUT")
    if folder:
        Path(folder, "csr.json").write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
