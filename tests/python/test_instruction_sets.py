"""One build serves processors with different vector units: all of them compute the same beam."""

from __future__ import annotations

import os
import subprocess
import sys

import betatron as bt
import numpy as np
import pytest

SCRIPT = """
import sys
import numpy as np
import betatron as bt

ref = bt.Reference("electron", kinetic_energy=50e6)
spread = bt.Gaussian.from_twiss(beta_x=1, alpha_x=0, emittance_x=1e-8, beta_y=1, alpha_y=0, emittance_y=1e-8,
                                beta_t=0.1, alpha_t=0, emittance_t=1e-6)
beam = bt.Beam(ref, spread, n=1003, seed=7, precision=sys.argv[1])
line = bt.Line([bt.Drift(0.3), bt.Quadrupole(0.2, k1=5), bt.Bend(0.4, angle=0.1, model="exact"),
                bt.Sextupole(0.1, k2=20), bt.Solenoid(0.2, ks=1), bt.RFCavity(voltage=1e5, frequency=3e9),
                bt.Drift(0.5, model="exact"), bt.Quadrupole(0.2, k1=-5, model="linear")])
track = line.track(beam, record="all")
np.savez(sys.argv[2], z=np.array(beam.array), sigma=track.moments.sigma_x.to_numpy(), isa=bt.info()["instruction_set"])
"""


def run(isa: str, precision: str, folder: str) -> dict[str, np.ndarray]:
    path = os.path.join(folder, f"{isa}_{precision}.npz")
    subprocess.run(
        [sys.executable, "-c", SCRIPT, precision, path],
        check=True,
        env={**os.environ, "BETATRON_ISA": isa},
    )
    return dict(np.load(path))


@pytest.mark.parametrize(("precision", "eps"), [("double", 2.2e-16), ("single", 1.2e-7)])
@pytest.mark.parametrize("isa", ["v2", "v3"])
def test_older_processors_compute_the_same(
    isa: str, precision: str, eps: float, tmp_path: str
) -> None:
    best = bt.info()["instruction_set"]
    if best not in ("v3", "v4"):
        pytest.skip(f"only one instruction set here: {best}")
    if best == isa:
        pytest.skip(f"{isa} is what this processor uses anyway")
    new, old = (run(name, precision, str(tmp_path)) for name in (best, isa))
    assert str(old["isa"]) == isa
    # fused multiply-add and Newton steps round differently, nothing else
    scale = np.abs(new["z"]).max(axis=1, keepdims=True)
    scale[4] += 2.3  # t is the difference of path lengths that are rounded
    assert np.all(np.abs(new["z"] - old["z"]) <= 300 * eps * scale)
    assert np.allclose(new["sigma"], old["sigma"], rtol=300 * eps)
