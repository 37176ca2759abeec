"""A matched electron beam in five cells of a FODO channel: what fodo.yaml does, in Python."""

from pathlib import Path

import betatron as bt
import numpy as np

pictures = Path(__file__).with_name("output") / "python"
pictures.mkdir(parents=True)  # an error if it is there: nothing is written over

reference = bt.Reference("electron", kinetic_energy=2e9)  # eV
d1, d2 = bt.Drift(0.25), bt.Drift(0.5)  # m
qf, qd = bt.Quadrupole(1.0, k1=1.0, name="qf"), bt.Quadrupole(1.0, k1=-1.0, name="qd")  # 1/m^2
cell = bt.Line([d1, qf, d2, qd, d1])
line = bt.Line([5 * cell, bt.Instrument(name="end")], name="FODO")

# The periodic solution of a cell: M = cos(mu) + J sin(mu) with J = [[alpha, beta], [-gamma,
# -alpha]].
twiss = {}
for plane, first in (("x", 0), ("y", 2)):
    m = cell.matrix(reference)[first : first + 2, first : first + 2]
    sin_mu = np.sign(m[0, 1]) * np.sqrt(1 - (np.trace(m) / 2) ** 2)
    twiss |= {f"beta_{plane}": m[0, 1] / sin_mu, f"alpha_{plane}": (m[0, 0] - m[1, 1]) / 2 / sin_mu}

shape = bt.Waterbag.from_twiss(
    **twiss,
    emittance_x=2e-9,
    emittance_y=2e-9,
    beta_t=2,
    emittance_t=2e-6,  # m
)
beam = bt.Beam(reference, shape, n=100_000, charge=1e-9, seed=1)  # C
track = line.track(beam, record="all")
print(track.moments[["s", "name", "sigma_x", "sigma_y", "emittance_x", "emittance_y"]])

track.plot.envelope().savefig(pictures / "envelope.png")
line.plot.survey().savefig(pictures / "survey.png")
beam.plot.phase_space().savefig(pictures / "phase_space.png")
