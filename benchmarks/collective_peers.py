"""Wakes, intra-beam scattering and beam-beam kicks beside xwakes, MAD-X and xfields.

    python benchmarks/collective_peers.py [--output results.json]

Each part needs its package (xwakes, cpymad, xfields with xtrack) and is left out, with a line that
says so, where that is missing. Xsuite compiles kernels; XSUITE_ALLOW_KERNEL_COMPILATION=1 is set
for it. Prints one line per figure: what, ours, theirs, difference relative to the largest.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path

import betatron as bt
import numpy as np

ELEMENTARY_CHARGE = 1.602176634e-19
rows: list[dict] = []


def row(
    part: str, figure: str, peer: str, ours: np.ndarray | float, theirs: np.ndarray | float
) -> None:
    ours, theirs = np.atleast_1d(ours), np.atleast_1d(theirs)
    difference = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
    largest = int(np.argmax(np.abs(theirs)))
    rows.append(
        {
            "part": part,
            "figure": figure,
            "peer": peer,
            "ours": float(ours[largest]),
            "theirs": float(theirs[largest]),
            "difference": difference,
        }
    )
    print(
        f"{part:10s} {figure:34s} {peer:8s} {ours[largest]:14.7g} {theirs[largest]:14.7g} "
        f"{difference:9.1e}",
        flush=True,
    )


def wakes() -> None:
    """Kicks of resonators on one bunch; xwakes at two numbers of slices, because it is of first
    order in them."""
    import xtrack as xt
    import xwakes as xw

    rng = np.random.default_rng(1)
    n = 20_000
    zeta, x, y = rng.normal(0, 1e-3, n), rng.normal(5e-4, 1e-4, n), rng.normal(2e-4, 1e-4, n)
    ref = bt.Reference("electron", momentum=1e9)
    zero = np.zeros(n)
    for kind, column, r, q, f in (
        ("longitudinal", "pt", 1e5, 1.0, 30e9),
        ("dipole_x", "px", 1e7, 3.0, 40e9),
        ("quadrupole_y", "py", 1e7, 3.0, 40e9),
    ):
        beam = bt.Beam.from_arrays(
            ref, x=x, px=zero, y=y, py=zero, t=-zeta / ref.beta, pt=zero, charge=1e-9
        )
        place = bt.Marker(name="wake")
        bt.Line([place]).track(
            beam, collective=bt.Wake(bt.Resonator(r, q, f, kind), at=place, bins=800)
        )
        for slices in (800, 6400):
            wake = xw.WakeResonator(kind=kind, r=r, q=q, f_r=f)
            wake.configure_for_tracking(zeta_range=(-8e-3, 8e-3), num_slices=slices)
            p = xt.Particles(
                p0c=1e9,
                mass0=xt.ELECTRON_MASS_EV,
                q0=-1,
                zeta=zeta,
                x=x,
                y=y,
                weight=1e-9 / ELEMENTARY_CHARGE / n,
            )
            wake.track(p)
            theirs = {"pt": -p.ptau, "px": p.px, "py": p.py}[column][np.argsort(p.particle_id)]
            row("wake", f"{kind}, {slices} slices", "xwakes", np.asarray(beam[column]), theirs)


def scattering() -> None:
    """A proton ring of 16 cells at 2 GeV; elements cut in 15 in the other codes, which take means
    over elements."""
    cells, pieces = 16, 15
    ref = bt.Reference("proton", total_energy=2e9)
    focus, defocus = bt.Quadrupole(0.3, k1=0.9), bt.Quadrupole(0.3, k1=-0.9)
    bend, drift = bt.Bend(1.5, angle=np.pi / cells), bt.Drift(0.35)
    ring = bt.Line(cells * [focus, drift, bend, drift, defocus, drift, bend, drift, bt.Drift(0.1)])

    def ours(logarithm: float) -> np.ndarray:
        r = bt.ibs_rates(
            ring,
            ref,
            charge=1e11 * ELEMENTARY_CHARGE,
            emittance_x=5e-6,
            emittance_y=3e-6,
            sigma_t=2.0 / ref.beta,
            sigma_pt=1e-3 / ref.beta,
            coulomb_log=logarithm,
            spacing=0.02,
        )
        return np.array([r.x, r.y, r.t])

    from cpymad.madx import Madx

    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log")
        with log.open("w") as stream:
            madx = Madx(stdout=stream)
            parts = {k: ",".join([k] * pieces) for k in ("qf", "qd", "b", "d", "e")}
            madx.input(f"""
                beam, particle=proton, energy=2.0, ex=5e-6, ey=3e-6, sigt=2.0, sige=1e-3,
                npart=1e11, bunched=true; qf: quadrupole, l=0.3/{pieces}, k1=0.9; qd: quadrupole,
                l=0.3/{pieces}, k1=-0.9; b: sbend, l=1.5/{pieces}, angle=pi/{cells}/{pieces}; d:
                drift, l=0.35/{pieces}; e: drift, l=0.1/{pieces}; cell:
                line=({parts["qf"]},{parts["d"]},{parts["b"]},{parts["d"]},{parts["qd"]},{parts["d"]},
                            {parts["b"]},{parts["d"]},{parts["e"]});
                ring: line=({cells}*cell);
                use, sequence=ring; select, flag=twiss, clear; twiss, chrom=false; ibs;""")
            madx.quit()
        text = log.read_text().split("average rates")[1].split("lifetimes")[0]
        logarithm = float(log.read_text().split("COULOMB LOG")[1].split()[1])
    rates = {
        k: float(text.split(k)[1].split()[1]) for k in ("Longitudinal", "Horizontal", "Vertical")
    }
    theirs = np.array([rates["Horizontal"], rates["Vertical"], rates["Longitudinal"]])
    for k, name in enumerate(("x", "y", "t")):
        row("IBS", f"rate of emittance {name} [1/s]", "MAD-X", ours(logarithm)[k], theirs[k])

    import xtrack as xt

    elements = []
    for _ in range(cells):
        for kind, length, value in (
            ("q", 0.3, 0.9), ("d", 0.35, 0), ("b", 1.5, 0), ("d", 0.35, 0),
            ("q", 0.3, -0.9), ("d", 0.35, 0), ("b", 1.5, 0), ("d", 0.35, 0), ("d", 0.1, 0),
        ):  # fmt: skip
            for _ in range(pieces):
                if kind == "q":
                    elements.append(xt.Quadrupole(length=length / pieces, k1=value))
                elif kind == "d":
                    elements.append(xt.Drift(length=length / pieces))
                else:
                    elements.append(
                        xt.Bend(
                            length=length / pieces,
                            angle=np.pi / cells / pieces,
                            k0_from_h=True,
                            edge_entry_active=False,
                            edge_exit_active=False,
                        )
                    )
    line = xt.Line(elements=elements)
    line.particle_ref = xt.Particles(mass0=xt.PROTON_MASS_EV, q0=1, energy0=2e9)
    twiss = line.twiss4d()
    r = twiss.get_ibs_growth_rates(
        formalism="nagaitsev",
        total_beam_intensity=1e11,
        gemitt_x=5e-6,
        gemitt_y=3e-6,
        sigma_delta=1e-3 / ref.beta**2,
        bunch_length=2.0,
        bunched=True,
    )
    # its Coulomb logarithm is not told; ratios of the rates do not depend on it
    mine = ours(20.0)
    for k, (name, rate) in enumerate((("x", r.Kx), ("y", r.Ky))):
        row("IBS", f"rate of {name} over that of t", "xfields", mine[k] / mine[2], rate / r.Kz)


def beam_beam() -> None:
    import xfields as xf
    import xtrack as xt

    rng = np.random.default_rng(4)
    n = 2000
    g = rng.normal(size=(6, n))
    ref = bt.Reference("proton", momentum=7e12)
    place = bt.Marker(name="ip")
    line = bt.Line([place])
    charge = 1.15e11 * ELEMENTARY_CHARGE

    def particles() -> xt.Particles:
        return xt.Particles(
            p0c=7e12,
            mass0=xt.PROTON_MASS_EV,
            q0=1,
            x=3e-5 * g[0],
            px=3e-5 * g[1],
            y=4e-5 * g[2],
            py=4e-5 * g[3],
            zeta=0.075 * g[4],
            delta=1e-4 * g[5],
        )

    def compare(name: str, element: object, effect: bt.BeamBeam) -> None:
        p = particles()
        start = np.array([p.px, p.py, p.ptau])
        beam = bt.Beam.from_arrays(
            ref,
            x=p.x.copy(),
            px=p.px.copy(),
            y=p.y.copy(),
            py=p.py.copy(),
            t=-p.zeta / ref.beta,
            pt=-p.ptau,
            charge=1e-12,
        )
        line.track(beam, collective=effect)
        element.track(p)
        order = np.argsort(p.particle_id)
        theirs = np.array([p.px, p.py, p.ptau])[:, order] - start
        ours = np.array([beam.px, beam.py, -np.asarray(beam.pt)]) - start
        row("beam-beam", f"{name}, px", "xfields", ours[0], theirs[0])
        row("beam-beam", f"{name}, py", "xfields", ours[1], theirs[1])
        if np.any(theirs[2]):
            row("beam-beam", f"{name}, pt", "xfields", ours[2], theirs[2])

    for name, sx, sy in (
        ("round", 1.7e-5, 1.7e-5),
        ("nearly round", 1.7e-5, 1.65e-5),
        ("flat", 1e-4, 1e-6),
    ):
        element = xf.BeamBeamBiGaussian2D(
            other_beam_q0=1,
            other_beam_beta0=1.0,
            other_beam_num_particles=1.15e11,
            other_beam_Sigma_11=sx**2,
            other_beam_Sigma_33=sy**2,
        )
        compare(name, element, bt.BeamBeam(place, charge, sx, sy))
    sx, sy, beta_x, beta_y, slices = 1.7e-5, 1.2e-5, 0.15, 0.1, 11
    slicer = xf.TempSlicer(n_slices=slices, sigma_z=0.075, mode="unicharge")
    for name, phi, plane in (
        ("hourglass", 0.0, 0.0),
        ("crossing 0.3 mrad", 1.5e-4, 0.0),
        ("10 mrad, skew", 5e-3, 0.3),
    ):
        element = xf.BeamBeamBiGaussian3D(
            phi=phi,
            alpha=plane,
            other_beam_q0=1,
            slices_other_beam_num_particles=slicer.bin_weights * 1.15e11,
            slices_other_beam_zeta_center=slicer.bin_centers,
            slices_other_beam_Sigma_11=slices * [sx**2],
            slices_other_beam_Sigma_12=slices * [0.0],
            slices_other_beam_Sigma_22=slices * [(sx / beta_x) ** 2],
            slices_other_beam_Sigma_33=slices * [sy**2],
            slices_other_beam_Sigma_34=slices * [0.0],
            slices_other_beam_Sigma_44=slices * [(sy / beta_y) ** 2],
        )
        compare(
            name,
            element,
            bt.BeamBeam(
                place,
                charge,
                sx,
                sy,
                0.075,
                slices,
                beta_x=beta_x,
                beta_y=beta_y,
                crossing_angle=2 * phi,
                crossing_plane=plane,
            ),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    os.environ.setdefault("XSUITE_ALLOW_KERNEL_COMPILATION", "1")
    print(f"{'part':10s} {'figure':34s} {'peer':8s} {'ours':>14s} {'theirs':>14s} {'diff.':>9s}")
    for part in (wakes, scattering, beam_beam):
        try:
            part()
        except ImportError as missing:
            print(f"{part.__name__}: left out, {missing}")
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
