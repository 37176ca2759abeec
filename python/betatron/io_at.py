"""Lattices of PyAT (accelerator-toolbox): `from_at`.

How PyAT's elements are translated. PolynomB, PolynomA hold field over rigidity without factorials,
so that k_n = n! PolynomB[n] up to MaxOrder; orders above MaxOrder are not used by PyAT either.

=============  ===================================================================================
PyAT           Betatron
=============  ===================================================================================
Drift          Drift
Dipole         Bend: BendingAngle, PolynomB[1] as k1, other orders as kn and ks, EntranceAngle,
               ExitAngle, FringeInt1, FringeInt2, half of FullGap; QuadrupoleEdge for
               FringeQuadEntrance, FringeQuadExit; nonlinear pole faces for PassMethods with
               "Exact" (which use no gap) and "E2" in their name
Quadrupole     Quadrupole, fringe "hard" if both FringeQuad are 1; with other orders a Multipole
Sextupole      Sextupole; Octupole: Octupole; with other orders a Multipole
Multipole      Multipole; ThinMultipole, and all with ThinMPolePass: thin
Corrector      Kicker
RFCavity       RFCavity: dE = -V sin(2 pi f (ct - TimeLag)/c), ct > 0 late; a Marker if it is off
Monitor        Instrument
Marker         Marker
=============  ===================================================================================

PassMethod decides the model: exact for those with "Exact" and "E2" in their name, else paraxial, as
PyAT's. Other PassMethods than those that have been compared are in the report.
NumIntSteps becomes steps (order 4), T1 and T2 = -T1 with offsets only become dx and dy, a rotation
R1 with R2 its inverse becomes roll, EApertures and symmetric RApertures become pipe apertures. At
both ends of a Dipole PyAT shifts and turns the local frame of the orbit, where a misaligned Bend
moves as a rigid body: there T1 and R1 become a Patch (or a PlaneRotation) in front of the Bend, and
its inverse behind. All the rest is in the report.

With a gap, PyAT's correction of a pole face by its fringe-field integral is divided by 1 + delta and that of
Betatron's linear pole faces is not: optics at the reference energy agree, chromaticities of small rings do not.
"""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np

from betatron import _core
from betatron._constants import SPEED_OF_LIGHT
from betatron._imported import Imported, Reader, Report, framed
from betatron.beam import Reference
from betatron.elements import Element
from betatron.line import Line

__all__ = ["from_at"]


# Attributes that say nothing about the beam, or that _Reader has read wherever they occur.
_SILENT = {
    "FamName",
    "Length",
    "PassMethod",
    "MaxOrder",
    "Class",
    "Device",
    "Energy",
    "HarmNumber",
    "NumIntSteps",
    "BetaCode",  # of BETA, and EdgeEffect of AT 1: not used by PyAT
    "EdgeEffect1",
    "EdgeEffect2",
    "Name",
    "_enable_passmethod",
    "_disable_passmethod",
}


_STRAIGHT = {"StrMPoleSymplectic4Pass", "ExactMultipolePass"}
# By class, the pass methods that have a translation (those that radiate count as those that do not).
_METHODS = {
    "Drift": {"DriftPass", "ExactDriftPass"},
    "Dipole": {
        "BndMPoleSymplectic4Pass",
        "BendLinearPass",
        "BndMPoleSymplectic4E2Pass",
        "ExactSectorBendPass",
        "ExactRectBendPass",
        "ExactRectangularBendPass",
    },
    "Quadrupole": {*_STRAIGHT, "QuadLinearPass"},
    "Sextupole": _STRAIGHT,
    "Octupole": _STRAIGHT,
    "Multipole": _STRAIGHT,
    "Corrector": {*_STRAIGHT, "CorrectorPass"},
    "RFCavity": {"RFCavityPass", "CavityPass"},
}


def from_at(lattice: Any) -> Imported:
    """A lattice of PyAT as a line.

    Parameters
    ----------
    lattice
        An ``at.Lattice``, for example of ``at.load_lattice("hmba.mat")``.

    Elements that have no translation become drifts of their length (markers without); this and
    everything else that is not carried over is in the report of the result. See `betatron.io_at`
    for what is translated and how.

    Raises
    ------
    TypeError
        For what is not a lattice of PyAT.
    ValueError
        For a lattice without an energy or with an unknown particle.
    """
    if not all(hasattr(lattice, name) for name in ("energy", "particle", "periodicity")):
        raise TypeError(f"from_at needs an at.Lattice, got {type(lattice).__name__}")
    report = Report()
    items: list[Element] = []
    for position, source in enumerate(lattice):
        reader = _Reader(source, position, report)
        items += reader.elements()
        reader.finish()
    reference = _reference(lattice, report)
    line = Line(items, str(getattr(lattice, "name", "") or ""))
    return Imported(line, reference, int(lattice.periodicity), report.table())


def _reference(lattice: Any, report: Report) -> Reference:
    energy = float(lattice.energy)
    name = str(lattice.particle.name)
    if name == "relativistic":
        reason = "an electron, with its velocity below that of light"
        report.lose(-1, "", "particle", name, reason)
        name = "electron"
    if name not in _core.Species.names():
        raise ValueError(
            f"from_at: the particle {name!r} is none of {', '.join(_core.Species.names())}"
        )
    if not energy > 0:
        raise ValueError(f"from_at: the lattice has the energy {energy} eV; allowed: > 0")
    return Reference(name, total_energy=energy)


class _Reader(Reader):
    """The translation of one element of PyAT."""

    def __init__(self, source: Any, position: int, report: Report) -> None:
        values = {k: v for k, v in vars(source).items() if v is not None}
        super().__init__(position, str(source.FamName), values, _SILENT, report)
        self._kind = type(source).__name__
        self.length = float(getattr(source, "Length", 0.0))
        self.pass_method = str(source.PassMethod)
        self._method = re.sub("(Rad|Quant)Pass$", "Pass", self.pass_method)

    def elements(self) -> list[Element]:
        off = self.pass_method == "IdentityPass"
        if off and self._kind not in ("Marker", "Monitor", "RFCavity"):
            return [self._straight()]
        thick = self._kind in ("Dipole", "Quadrupole", "Sextupole", "Octupole", "Multipole")
        if thick and self.pass_method == "ThinMPolePass":
            return [self._thinmultipole()]
        if thick and self.length == 0:  # its strengths are per length
            return [self._straight()]
        translate = getattr(self, f"_{self._kind.lower()}", None)
        if translate is None:
            self._lose("class", self._kind, "no translation: a drift of its length")
            return [self._straight()]
        if self._method != self.pass_method:
            self._lose("PassMethod", self.pass_method, "synchrotron radiation")
        if not off and self._method not in _METHODS.get(self._kind, {self._method}):
            self._lose("PassMethod", self.pass_method, "no translation: the usual one of its class")
        result = translate()
        return result if isinstance(result, list) else [result]

    def _empty(self, key: str, value: Any) -> bool:
        default = {"Scale": 1, "FringeBendEntrance": 1, "FringeBendExit": 1}.get(key, 0)
        return not isinstance(value, str) and not np.any(np.asarray(value) != default)

    def _straight(self) -> Element:
        if self.length == 0:
            return self._make("Marker")
        return self._make("Drift", length=self.length, model=self._model())

    # --- what many elements have -------------------------------------------------------------

    def _model(self) -> str:
        return "exact" if "Exact" in self._method or "E2" in self._method else "paraxial"

    def _strengths(self) -> tuple[list[float], list[float]]:
        """k_n and ks_n, n = 0, 1, ..., in 1/m^(n+1), without zeros at the end."""
        orders = int(self._values.get("MaxOrder", 0)) + 1
        result = []
        for key in ("PolynomB", "PolynomA"):
            values = np.atleast_1d(self.get(key, []))[:orders]
            strengths = [math.factorial(n) * float(b) for n, b in enumerate(values)]
            while strengths and strengths[-1] == 0:
                strengths.pop()
            result.append(strengths)
        kick = np.atleast_1d(self.get("KickAngle", [0.0, 0.0]))
        if np.any(kick != 0):  # rad, over the length; a positive one adds to px, py
            over = self.length or 1.0
            for strengths, angle in zip(result, (-kick[0], kick[1]), strict=True):
                strengths += [0.0] * (1 - len(strengths))
                strengths[0] += float(angle) / over
        return result[0], result[1]

    def _thick(self) -> dict[str, Any]:
        """Keywords of a magnet: length, model, steps, place, aperture."""
        return {
            "length": self.length,
            "model": self._model(),
            "order": 4,
            "steps": max(1, int(self._values.get("NumIntSteps", 10))),
            **self._place(),
            **self._pipe(),
        }

    def _place(self) -> dict[str, float]:
        result: dict[str, float] = {}
        t1, t2 = (np.asarray(self.get(k, np.zeros(6)), dtype=float) for k in ("T1", "T2"))
        if np.any(t1) or np.any(t2):
            if np.array_equal(t1, -t2) and not np.any(t1[[1, 3, 4, 5]]):
                result |= {"dx": float(-t1[0]), "dy": float(-t1[2])}
            else:
                self._lose("T1, T2", (t1.tolist(), t2.tolist()), "more than an offset in x and y")
        r1, r2 = (np.asarray(self.get(k, np.eye(6)), dtype=float) for k in ("R1", "R2"))
        if not np.array_equal(r1, np.eye(6)) or not np.array_equal(r2, np.eye(6)):
            roll = math.atan2(r1[0, 2], r1[0, 0])
            c, s = math.cos(roll), math.sin(roll)
            turn = np.kron([[c, s], [-s, c]], np.eye(2))
            rigid = np.eye(6)
            rigid[:4, :4] = turn
            if np.allclose(r1, rigid, rtol=0, atol=1e-14) and np.allclose(
                r2, rigid.T, rtol=0, atol=1e-14
            ):
                result["roll"] = roll
            else:
                self._lose("R1, R2", "matrices", "more than a roll about the axis")
        if len(result) == 3:
            self._lose("T1, R1", "both", "the order of offset and roll may differ")
        return result

    def _pipe(self) -> dict[str, Any]:
        ellipse, box = self.get("EApertures", None), self.get("RApertures", None)
        if ellipse is not None and box is None:
            x, y = (float(v) for v in ellipse)
            return {"aperture_x": x, "aperture_y": y, "aperture_shape": "elliptical"}
        if box is not None and ellipse is None and box[0] == -box[1] and box[2] == -box[3]:
            return {
                "aperture_x": float(box[1]),
                "aperture_y": float(box[3]),
                "aperture_shape": "rectangular",
            }
        if box is not None or ellipse is not None:
            self._lose("RApertures", box, "not symmetric, or beside an elliptic one")
        return {}

    def _fringes(self) -> tuple[bool, bool]:
        """Whether there are hard-edge quadrupole fringes at the entrance and at the exit."""
        found = []
        for key in ("FringeQuadEntrance", "FringeQuadExit"):
            value = int(self.get(key, 0))
            if value not in (0, 1):
                self._lose(key, value, "a fringe with integrals; a hard edge instead")
            found.append(value != 0)
        return found[0], found[1]

    # --- by class ------------------------------------------------------------------------------

    def _drift(self) -> Element:
        if self.length == 0:
            return self._make("Marker")
        return self._make("Drift", length=self.length, model=self._model(), **self._pipe())

    def _marker(self) -> Element:
        return self._make("Marker")

    def _monitor(self) -> Element:
        return self._make("Instrument", length=self.length)

    def _dipole(self) -> list[Element]:
        normal, skew = self._strengths()
        angle, keywords = self.number("BendingAngle"), self._thick()
        place = {key: keywords.pop(key) for key in ("dx", "dy", "roll") if key in keywords}
        k1 = normal[1] if len(normal) > 1 else 0.0
        kn = [0.0 if n == 1 else k for n, k in enumerate(normal)]
        ends = {
            "e1": self.number("EntranceAngle"), "e2": self.number("ExitAngle"),
            "fint1": self.number("FringeInt1"), "fint2": self.number("FringeInt2"),
            "hgap": self.number("FullGap") / 2,
        }  # fmt: skip
        gap = ends["hgap"] and (ends["fint1"] or ends["fint2"])
        if "Exact" in self._method:
            ends |= {"fint1": 0.0, "fint2": 0.0, "hgap": 0.0}
        if "Exact" in self._method or ("E2" in self._method and not gap):
            ends["fringe"] = "nonlinear"
        elif "E2" in self._method:  # nonlinear ends with a gap displace the orbit
            self._lose("PassMethod", self.pass_method, "pole faces with a gap are linear")
        if "Rect" in self._method and k1:
            self._lose("PassMethod", self.pass_method, "the quadrupole field follows the orbit")
        entrance, exit_ = self._fringes()
        multipoles = {"kn": kn if any(kn) else [], "ks": skew}
        for name in ("kn", "ks"):
            if len(multipoles[name]) > 5:
                self._lose(name, multipoles[name][5:], "orders above 4 in a bend")
                multipoles[name] = multipoles[name][:5]
        if not (k1 and (entrance or exit_)):
            bend = self._make("Bend", angle=angle, k1=k1, **ends, **multipoles, **keywords)
            return framed([bend], **place)
        # PyAT's quadrupole fringes are between the pole face and the body
        h = angle / self.length
        body = self._make("Bend", angle=angle, k1=k1, **multipoles, **keywords)
        before, after = [], []
        for side, number, fringe in ((before, 1, entrance), (after, 2, exit_)):
            location = "entry" if number == 1 else "exit"
            face = {
                "angle": ends[f"e{number}"],
                "fint": ends[f"fint{number}"],
                "hgap": ends["hgap"],
                "fringe": ends.get("fringe", "linear"),
            }
            if face["angle"] or face["fint"] or face["fringe"] == "nonlinear":
                side.append(self._make("DipoleEdge", curvature=h, location=location, **face))
            if fringe:
                side.append(self._make("QuadrupoleEdge", k1=k1, location=location))
        return framed([*before, body, *reversed(after)], **place)

    def _quadrupole(self) -> Element:
        normal, skew = self._strengths()
        entrance, exit_ = self._fringes()
        if any(k for n, k in enumerate(normal) if n != 1) or any(skew):
            if entrance or exit_:
                self._lose("FringeQuad", 1, "a quadrupole with other orders has no fringes")
            return self._thick_multipole(normal, skew)
        if entrance != exit_:
            self._lose("FringeQuad", (entrance, exit_), "only at both ends or none; none")
        k1 = normal[1] if len(normal) > 1 else 0.0
        hard = "hard" if entrance and exit_ else "none"
        return self._make("Quadrupole", k1=k1, fringe=hard, **self._thick())

    def _sextupole(self) -> Element:
        return self._pure("Sextupole", 2)

    def _octupole(self) -> Element:
        return self._pure("Octupole", 3)

    def _multipole(self) -> Element:
        normal, skew = self._strengths()
        if not any(normal) and not any(skew):
            return self._make("Drift", **self._thick())
        return self._thick_multipole(normal, skew)

    def _thinmultipole(self) -> Element:
        normal, skew = self._strengths()
        return self._make("Multipole", knl=normal, ksl=skew, model=self._model(), **self._place())

    def _corrector(self) -> Element:
        x, y = (float(v) for v in np.atleast_1d(self.get("KickAngle", [0.0, 0.0])))
        return self._make("Kicker", length=self.length, hkick=x, vkick=y, **self._place())

    def _rfcavity(self) -> Element:
        voltage, frequency, lag = (self.number(k) for k in ("Voltage", "Frequency", "TimeLag"))
        if self.pass_method == "IdentityPass":
            self._lose("Voltage", voltage, "the cavity is switched off")
            return self._straight()
        phase = (
            math.pi / 2 - 2 * math.pi * frequency * lag / SPEED_OF_LIGHT - self.number("PhaseLag")
        )
        return self._make(
            "RFCavity",
            length=self.length,
            voltage=voltage,
            frequency=frequency,
            phase=phase,
            model=self._model(),
        )

    def _pure(self, kind: str, order: int) -> Element:
        """A magnet of one order, or a Multipole if it has others."""
        normal, skew = self._strengths()
        self._fringes_lost(normal)
        if any(k for values in (normal, skew) for n, k in enumerate(values) if n != order):
            return self._thick_multipole(normal, skew)
        k, ks = (values[order] if len(values) > order else 0.0 for values in (normal, skew))
        return self._make(kind, **{f"k{order}": k, f"k{order}s": ks}, **self._thick())

    def _thick_multipole(self, normal: list[float], skew: list[float]) -> Element:
        knl, ksl = ([k * self.length for k in values] for values in (normal, skew))
        return self._make("Multipole", knl=knl, ksl=ksl, **self._thick())

    def _fringes_lost(self, normal: list[float]) -> None:
        if any(self._fringes()) and len(normal) > 1 and normal[1]:
            self._lose("FringeQuad", 1, "only quadrupoles and bends have fringes")
