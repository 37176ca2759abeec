"""Lattices of MAD-X: `from_madx`.

How MAD-X's elements are translated. Values are those that deferred expressions have now.

===========================  =====================================================================
MAD-X                        Betatron
===========================  =====================================================================
DRIFT, space between         Drift
MARKER, PLACEHOLDER          Marker
MONITOR, HMONITOR,           Instrument
VMONITOR, INSTRUMENT ...
QUADRUPOLE                   Quadrupole; K1S turns it
SEXTUPOLE, OCTUPOLE          Sextupole: K2, K2S; Octupole: K3, K3S
any of them with KNL, KSL    Multipole
MULTIPOLE                    Multipole without a length; its dipole component, or ANGLE, turns the
                             reference orbit: ThinDipole, of the curvature ANGLE/LRAD
SBEND, RBEND                 Bend: ANGLE, K1, E1, E2, FINT, FINTX, HGAP; kn and ks for K0 - ANGLE/L,
                             K0S, K1S, K2, K2S, K3, K3S, KNL, KSL. RBEND has the length of its arc
                             (option RBARC) and ANGLE/2 more in E1 and E2. Thin sextupoles at the
                             ends for H1, H2 and for K1 in a face that is turned
DIPEDGE                      DipoleEdge
SOLENOID                     Solenoid; without a length (KSI) a LinearMap
KICKER, TKICKER,             Kicker, with CHKICK and CVKICK of orbit corrections
HKICKER, VKICKER
RFCAVITY                     RFCavity: VOLT/charge, phase = 2 pi LAG - pi/2, FREQ or HARMON
CRABCAVITY                   CrabCavity: VOLT/charge, phase = 2 pi LAG
TRANSLATION, XROTATION,      Patch
YROTATION
SROTATION                    PlaneRotation
COLLIMATOR and the like      Drift with a pipe; without a length Aperture
MATRIX                       LinearMap; with KICK or TM a TaylorMap
NLLENS                       NonlinearLens
APERTYPE, APERTURE           aperture_x, aperture_y, aperture_shape; behind thin monitors and
                             multipoles an Aperture. RECTELLIPSE, RECTCIRCLE and LHCSCREEN if one of
                             their two shapes lies in the other
TILT                         roll; of what bends the orbit PlaneRotations in front and behind
EALIGN; DX, DY, DS,          dx, dy, dz = DS, pitch = -DPHI, yaw = DTHETA, roll + DPSI, about the
DTHETA, DPHI, DPSI           entrance
EFCOMP                       added to the strengths; those of kickers and cavities are reported
BEAM                         Reference, of the same beta gamma; BV = -1 changes the signs of
                             strengths, of pole faces and of what a cavity does
===========================  =====================================================================

All the rest is in the report, with KTAP, apertures of other shapes, errors of monitors, and
elements without a translation, which become drifts.

Where Betatron is not TWISS: TWISS leaves out K0S, K1S, K2S, K3 of bends, KNL and KSL of thick
magnets (which PTC has), the coupling of a MULTIPOLE that bends in both planes, and the path length
in kickers; it takes the field instead of the angle for pole faces of bends with K0, and its
displacements are of first order. A cavity off the zero crossing accelerates the reference particle
of Betatron, which is reported.
"""

from __future__ import annotations

import math
import re
import subprocess
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from betatron import _core
from betatron._constants import SPEED_OF_LIGHT
from betatron._imported import Imported, Reader, Report, framed
from betatron.beam import Reference, Species
from betatron.elements import Element
from betatron.line import Line

__all__ = ["from_madx"]

# Attributes that say nothing about the beam, or that _Reader has read wherever they occur.
_SILENT = {
    *("at", "from", "l", "lrad", "type", "comments", "slot_id", "assembly_id", "rbend_length"),
    *("kmax", "kmin", "calib", "polarity", "mech_sep", "v_pos"),  # of the power supply, of plans
    *("model", "method", "exact", "nst", "frngmax", "magnet", "no_cavity_totalpath"),  # of PTC
    *("slice", "thick", "slice_straight"),  # of MAKETHIN
    *("aper_tol", "chflag", "cvflag"),
}

_SPECIES = {"posmuon": "antimuon", "negmuon": "muon", "hminus": "H-"}
_MODELS = ("linear", "paraxial", "exact")
_ALIGNMENT = ("dx", "dy", "ds", "dphi", "dtheta", "dpsi")


def from_madx(source: Any, sequence: str | None = None, *, model: str = "exact") -> Imported:
    """A sequence of MAD-X as a line.

    Parameters
    ----------
    source
        The path of a MAD-X file, which MAD-X executes in the folder of the file, or a
        ``cpymad.madx.Madx`` with a sequence.
    sequence
        Its name. None: the one in use, or the only one there is. Of a file, a sequence that it
        does not put in use (USE) is put in use.
    model
        Of all elements: "exact" (has the chromaticities of MAD-X's TWISS), "paraxial", "linear".

    Elements that have no translation become drifts of their length (markers without); this and
    everything else that is not carried over is in the report of the result, and so are MAD-X's
    warnings about a file. See `betatron.io_madx` for what is translated and how. An element that
    stands at several places of the sequence is one element of the line, unless errors of MAD-X
    (EALIGN, EFCOMP) make it different.

    Raises
    ------
    ImportError
        Without the package cpymad, for a file.
    FileNotFoundError
        If there is no such file.
    TypeError
        For what is neither a path nor a Madx.
    ValueError
        If MAD-X stops, with its messages, for an unknown sequence, and for a ``Madx`` whose
        sequence is not in use.
    """
    if model not in _MODELS:
        raise ValueError(f"from_madx: model = {model!r}; allowed: {', '.join(_MODELS)}")
    report = Report()
    if isinstance(source, (str, Path)):
        return _from_file(Path(source), sequence, model, report)
    if not all(hasattr(source, name) for name in ("sequence", "input", "elements")):
        raise TypeError(
            f"from_madx needs the path of a file or a cpymad.madx.Madx, got {type(source).__name__}"
        )
    name = _choose(source, "from_madx", sequence)
    if not source.sequence[name].is_expanded:
        raise ValueError(f"from_madx: the sequence {name!r} is not in use: madx.use({name!r})")
    return _translate(source, name, model, report)


def _from_file(path: Path, sequence: str | None, model: str, report: Report) -> Imported:
    try:
        from cpymad.madx import Madx
    except ImportError as error:
        raise ImportError(
            "from_madx reads files by MAD-X itself, with the package cpymad: "
            "pip install 'betatron[madx]'"
        ) from error
    if not path.is_file():
        raise FileNotFoundError(f"from_madx: there is no file {str(path)!r}")
    what = f"from_madx: {path}"
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        madx = Madx(stdout=output, stderr=subprocess.STDOUT)
        try:
            madx.option(echo=False)
            name = ""
            with suppress(RuntimeError):  # cpymad's, if MAD-X has stopped
                madx.call(str(path.resolve()), chdir=True)
            if madx:
                name = _choose(madx, what, sequence)
                if not madx.sequence[name].is_expanded:
                    with suppress(RuntimeError):
                        madx.use(name)
            output.seek(0)
            said = dict.fromkeys(re.findall(r"^\+[+=]+ *(.*\S)", output.read(), re.MULTILINE))
            if not madx:
                raise ValueError(f"{what}: MAD-X has stopped: {'; '.join(said)}")
            for message in said:
                if message.startswith("info"):
                    continue
                report.lose(-1, "", "MAD-X", message, "a message of MAD-X")
            return _translate(madx, name, model, report)
        finally:
            madx.quit()


def _choose(madx: Any, what: str, name: str | None) -> str:
    """The name of the sequence to translate."""
    names = [str(n) for n in madx.sequence]
    there = f"the sequences there are: {', '.join(names) or 'none'}"
    if name is not None:
        if name.lower() not in names:
            raise ValueError(f"{what}: there is no sequence {name!r}; {there}")
        return name.lower()
    with suppress(RuntimeError):
        active = madx.sequence()
        if active.is_expanded:
            return str(active.name)
    if len(names) != 1:
        raise ValueError(f"{what}: no sequence is in use; {there}")
    return names[0]


def _translate(madx: Any, name: str, model: str, report: Report) -> Imported:
    sequence = madx.sequence[name]
    beam = dict(sequence.beam)
    reference = _reference(beam)
    if beam["radiate"]:
        report.lose(-1, "", "radiate", True, "tracking is asked for it: betatron.Radiation")
    if beam["bv"] != 1:
        reason = "pole faces turn with the field; in TWISS those of RBEND and with K0 do not"
        report.lose(-1, "", "bv", beam["bv"], reason)
    sources = list(sequence.expanded_elements)
    length = sum(float(source.length) for source in sources)
    common = _Common(
        model=model,
        bv=float(beam["bv"]),
        charge=abs(reference.species.charge),
        turn_frequency=reference.beta * SPEED_OF_LIGHT / length if length else 0.0,
    )
    defaults: dict[str, dict[str, Any]] = {}
    known: dict[str, Element] = {}
    items: list[Element] = []
    for position, source in enumerate(sources):
        kind = str(source._attr["base_type"])  # source.base_type asks MAD-X for a whole element
        if kind not in defaults:
            defaults[kind] = _values(madx.elements[kind])
        reader = _Reader(source, kind, position, defaults[kind], common, report)
        for element in reader.elements():
            items.append(known.setdefault(repr(element.to_dict()), element))
        reader.finish()
    return Imported(Line(items, name), reference, 1, report.table())


def _reference(beam: dict[str, Any]) -> Reference:
    name = _SPECIES.get(beam["particle"], beam["particle"])
    mass, charge = beam["mass"] * 1e9, beam["charge"]  # GeV
    species = Species(name=name, mass=mass, charge=charge)
    for known in map(Species, _core.Species.names()):  # MAD-X's masses have fewer digits
        if known.charge == charge and math.isclose(known.mass, mass, rel_tol=1e-6):
            species = known
    return Reference(species, beta_gamma=beam["pc"] / beam["mass"])


def _values(element: Any) -> dict[str, Any]:
    return {k: list(v) if hasattr(v, "__len__") and not isinstance(v, str) else v
            for k, v in element.items()}  # fmt: skip


def _trimmed(values: Any) -> list[float]:
    """Without zeros at the end."""
    result = [float(v) for v in values]
    while result and result[-1] == 0:
        result.pop()
    return result


def _sum(*terms: list[float]) -> list[float]:
    orders = max(map(len, terms))
    return _trimmed(sum(t[n] if n < len(t) else 0.0 for t in terms) for n in range(orders))


@dataclass(frozen=True)
class _Common:
    """What all elements of a sequence share."""

    model: str
    bv: float  # -1: strengths change their signs
    charge: float  # of the particle, without its sign
    turn_frequency: float  # Hz


class _Reader(Reader):
    """The translation of one element of MAD-X."""

    def __init__(
        self,
        source: Any,
        kind: str,
        position: int,
        defaults: dict[str, Any],
        common: _Common,
        report: Report,
    ) -> None:
        values = {k: v for k, v in _values(source).items() if v != defaults.get(k)}
        super().__init__(position, str(source.name), values, _SILENT, report)
        self._kind = kind
        self._common = common
        self._model = common.model
        self.length = float(source.length)
        self._errors: dict[str, float] = {}
        if source.align_errors:
            errors = {k: float(v) for k, v in source.align_errors._asdict().items()}
            self._errors = {k: v for k, v in errors.items() if k in _ALIGNMENT}
            for key, value in errors.items():
                if key not in _ALIGNMENT and value:
                    self._lose(key.upper(), value, "an error of readings or apertures")
        self._field: tuple[list[float], list[float]] = ([], [])
        if source.field_errors:
            self._field = (_trimmed(source.field_errors.dkn), _trimmed(source.field_errors.dks))

    def elements(self) -> list[Element]:
        translate = getattr(self, f"_{self._kind}", None)
        if translate is None:
            self._lose("class", self._kind, "no translation: a drift of its length")
            return [self._straight()]
        result = translate()
        if any(self._field):
            self._lose("EFCOMP", self._field, f"field errors of a {self._kind}")
        return result if isinstance(result, list) else [result]

    def _empty(self, key: str, value: Any) -> bool:
        return False  # defaults have been left out

    # --- what many elements have -------------------------------------------------------------

    def strength(self, key: str) -> float:
        return self._common.bv * self.number(key)

    def strengths(self, key: str) -> list[float]:
        return _trimmed(self._common.bv * v for v in self.get(key, []))

    def errors(self) -> tuple[list[float], list[float]]:
        """Integrated normal and skew errors of the field, which count as read."""
        (dkn, dks), self._field = self._field, ([], [])
        return [self._common.bv * v for v in dkn], [self._common.bv * v for v in dks]

    def _straight(self) -> Element:
        """A drift, or a marker, with its pipe."""
        if self.length:
            return self._make("Drift", length=self.length, model=self._model, **self._placed_pipe())
        opening = self._opening()
        return opening[0] if opening else self._make("Marker")

    def _placed_pipe(self) -> dict[str, Any]:
        """The pipe of what is misaligned by its pipe only."""
        pipe, place = self._pipe(), self._place()
        return place | pipe if pipe else {}

    def _opening(self) -> list[Element]:
        """The pipe of what has no length, or nothing."""
        place = self._placed_pipe()
        if not place:
            return []
        opening = {f"{axis}_max": place.pop(f"aperture_{axis}") for axis in "xy"}
        return [self._make("Aperture", shape=place.pop("aperture_shape"), **opening, **place)]

    def _thick(self) -> dict[str, Any]:
        """Keywords of a magnet: length, model, order, place, aperture."""
        return {
            "length": self.length, "model": self._model, "order": 4,
            **self._place(), **self._pipe(),
        }  # fmt: skip

    def _place(self, frame: float = 0.0, roll: float | None = None) -> dict[str, float]:
        """Misalignment of an element that is rolled by `roll` (None: TILT), in a frame that is
        turned by `frame` already."""
        if roll is None:
            roll = self.number("tilt")
        # attributes DX, DY ... of an element and errors by EALIGN add up
        dx, dy, dz, phi, theta, psi = (
            self._errors.get(key, 0.0) + self.number(key) for key in _ALIGNMENT
        )
        c, s = math.cos(frame), math.sin(frame)
        result = {"dx": c * dx + s * dy, "dy": c * dy - s * dx, "dz": dz, "roll": psi + roll}
        if phi or theta:
            turn = (
                _about_z(-frame) @ _about_y(theta) @ _about_x(-phi) @ _about_z(psi + frame + roll)
            )
            result |= {
                "yaw": math.atan2(turn[0, 2], turn[2, 2]),
                "pitch": -math.asin(turn[1, 2]),
                "roll": math.atan2(turn[1, 0], turn[1, 1]),
            }
        return {key: value for key, value in result.items() if value}

    def _pipe(self) -> dict[str, Any]:
        shape = str(self.get("apertype", "circle"))
        sizes = _trimmed(self.get("aperture", []))
        for axis, size in zip("xy", (self.number("xsize"), self.number("ysize")), strict=True):
            if size:
                self._lose(f"{axis}size", size, "superseded by APERTURE")
        if not sizes:
            return {}
        found: tuple[str, float, float] | None = None
        if shape == "circle":
            found = ("elliptical", sizes[0], sizes[0])
        elif shape in ("ellipse", "rectangle") and len(sizes) == 2:
            found = ("elliptical" if shape == "ellipse" else "rectangular", sizes[0], sizes[1])
        elif shape in ("rectellipse", "rectcircle", "lhcscreen") and len(sizes) > 2:
            w, h, a, b = (*sizes, sizes[2])[:4]
            if w >= a and h >= b:
                found = ("elliptical", a, b)
            elif (w / a) ** 2 + (h / b) ** 2 <= 1:
                found = ("rectangular", w, h)
        if found is None or min(found[1:]) <= 0:
            self._lose("aperture", (shape, sizes), "no pipe of this shape")
            return {}
        return {"aperture_shape": found[0], "aperture_x": found[1], "aperture_y": found[2]}

    def _orders(self, *main: tuple[int, str, str]) -> tuple[list[float], list[float]]:
        """Normal and skew strengths per length: `main` holds orders and names of attributes; KNL,
        KSL and field errors are added."""
        normal, skew = [0.0] * 4, [0.0] * 4
        for order, name, skew_name in main:
            normal[order], skew[order] = self.strength(name), self.strength(skew_name)
        knl, ksl = (
            [v / self.length for v in _sum(self.strengths(key), errors)]
            for key, errors in zip(("knl", "ksl"), self.errors(), strict=True)
        )
        return _sum(normal, knl), _sum(skew, ksl)

    def _pure(self, kind: str, order: int) -> Element:
        """A magnet of one order, or a Multipole if it has others."""
        names = (f"k{order}", f"k{order}s")
        if self.length == 0:
            for name in names:
                if self.number(name):
                    self._lose(name, self.number(name), "per length, of a magnet without one")
            return self._straight()
        kn, ks = self._orders((order, *names))
        keywords = self._thick()
        turned = order == 1 and any(ks)  # a skew quadrupole is a turned one, with its pipe
        if (turned and not _round(keywords)) or any(
            v for values in (kn, ks) for n, v in enumerate(values) if n != order
        ):
            knl, ksl = ([v * self.length for v in values] for values in (kn, ks))
            return self._make("Multipole", knl=knl, ksl=ksl, **keywords)
        normal, skew = (v[order] if len(v) > order else 0.0 for v in (kn, ks))
        if order > 1:
            return self._make(kind, **{names[0]: normal, names[1]: skew}, **keywords)
        if turned:
            roll = keywords.pop("roll", 0.0) - math.atan2(skew, normal) / 2
            keywords["roll"], normal = roll, math.hypot(normal, skew)
        return self._make(kind, k1=normal, **keywords)

    # --- by class ------------------------------------------------------------------------------

    def _drift(self) -> Element:
        return self._straight()

    _marker = _placeholder = _collimator = _ecollimator = _rcollimator = _sixmarker = _drift

    def _monitor(self) -> list[Element]:
        for key, value in self._errors.items():
            if value:
                self._lose(key.upper(), value, "an error of readings")
        if self.length == 0:
            return [self._make("Instrument", model=self._model), *self._opening()]
        pipe = self._placed_pipe()
        return [self._make("Instrument", length=self.length, model=self._model, **pipe)]

    _hmonitor = _vmonitor = _instrument = _monitor
    _slmonitor = _blmonitor = _imonitor = _monitor

    def _quadrupole(self) -> Element:
        return self._pure("Quadrupole", 1)

    def _sextupole(self) -> Element:
        return self._pure("Sextupole", 2)

    def _octupole(self) -> Element:
        return self._pure("Octupole", 3)

    def _multipole(self) -> Element | list[Element]:
        tilt = self.number("tilt")
        normal, skew = self.strengths("knl"), self.strengths("ksl")
        # the dipole component bends the reference orbit
        h, v = (values[0] if values else 0.0 for values in (normal, skew))
        if self.number("angle") and self.strength("angle") != h:
            self._lose(
                "angle", self.number("angle"), "KNL[0] beyond it kicks without weak focusing"
            )
            h, v = self.strength("angle"), 0.0
        dkn, dks = self.errors()
        knl, ksl = _sum(normal, [-h], dkn), _sum(skew, [-v], dks)
        parts: list[Element] = []
        if knl or ksl or not (h or v):
            keywords = {"model": self._model, **self._place()}
            parts.append(self._make("Multipole", knl=knl, ksl=ksl, **keywords))
        if h or v:
            turn = tilt + math.atan2(-v, h) if v else tilt
            angle = math.hypot(h, v) if v else h
            lrad = float(self._values.get("lrad", 0.0))
            bend = self._make(
                "ThinDipole", angle=angle, curvature=angle / lrad if lrad else 0.0,
                model=self._model, **self._place(frame=turn, roll=0.0),
            )  # fmt: skip
            parts += framed([bend], roll=turn)
        return parts + self._opening()

    def _sbend(self) -> list[Element]:
        return self._bend(0.0)

    def _rbend(self) -> list[Element]:
        return self._bend(self.strength("angle") / 2)

    def _bend(self, face: float) -> list[Element]:
        """A bend whose pole faces are turned by `face` where E1 and E2 are 0."""
        angle = self.strength("angle")
        h = angle / self.length
        kn, ks = self._orders(*((n, f"k{n}", f"k{n}s") for n in range(4)))
        if self.number("k0"):  # the field; where it is not given, that of the angle
            kn = _sum(kn, [-h])
            if kn and abs(kn[0]) < 1e-12 * abs(h):
                kn[0] = 0.0
            if kn and kn[0] and any(self._values.get(key) for key in ("e1", "e2", "hgap")):
                self._lose("k0", self.number("k0"), "the pole faces are those of the angle")
        k1 = kn[1] if len(kn) > 1 else 0.0
        kn = _trimmed(0.0 if n == 1 else k for n, k in enumerate(kn))
        for name, values in (("kn", kn), ("ks", ks)):
            if len(values) > 5:
                self._lose(name, values[5:], "orders above 4 in a bend")
        e1, e2 = face + self.strength("e1"), face + self.strength("e2")
        fint, hgap = self.number("fint"), self.number("hgap")
        fintx = float(self.get("fintx", -1.0))
        fints = [fint, fint if fintx < 0 else fintx]
        killed = [bool(self.get(f"kill_{end}_fringe", False)) for end in ("ent", "exi")]
        linear = self._model != "exact" or (hgap and any(fints)) or any(killed)
        ends = {
            "e1": 0.0 if killed[0] else e1, "fint1": 0.0 if killed[0] else fints[0],
            "e2": 0.0 if killed[1] else e2, "fint2": 0.0 if killed[1] else fints[1],
            "hgap": hgap, "fringe": "linear" if linear else "nonlinear",
        }  # fmt: skip
        tilt = self.number("tilt")
        # second order of a face: it turns the quadrupole field, and is curved by H1, H2
        faces = [
            0.0 if off else -2 * k1 * math.tan(e) - h * self.strength(key) / math.cos(e) ** 3
            for off, e, key in zip(killed, (e1, e2), ("h1", "h2"), strict=True)
        ]
        place = self._place(frame=tilt, roll=0.0)
        if place and any(faces):
            self._lose("EALIGN", place, "sextupoles of the pole faces, which stay in place")
        bend = self._make(
            "Bend", length=self.length, angle=angle, k1=k1, kn=kn[:5], ks=ks[:5], **ends,
            model=self._model, order=4, **place, **self._pipe(),
        )  # fmt: skip
        sextupoles = [
            [self._make("Multipole", knl=[0.0, 0.0, k2l], model=self._model)] if k2l else []
            for k2l in faces
        ]
        return framed([*sextupoles[0], bend, *sextupoles[1]], roll=tilt)

    def _dipedge(self) -> list[Element]:
        tilt = self.number("tilt")
        edge = self._make(
            "DipoleEdge", curvature=self.number("h"), angle=self.number("e1"),
            fint=self.number("fint"), hgap=self.number("hgap"), model=self._model,
            **self._place(frame=tilt, roll=0.0),
        )  # fmt: skip
        self.get("entrance", False)
        return framed([edge], roll=tilt)

    def _solenoid(self) -> Element:
        ks, ksi = self.strength("ks"), self.strength("ksi")
        if self.length:
            return self._make(
                "Solenoid", length=self.length, ks=ks, model=self._model,
                **self._place(roll=0.0), **self._pipe(),
            )  # fmt: skip
        c, s, lens = math.cos(ksi / 2), math.sin(ksi / 2), [[1.0, 0.0], [-ks * ksi / 4, 1.0]]
        matrix = np.eye(6)
        matrix[:4, :4] = np.kron([[c, s], [-s, c]], lens)
        return self._make("LinearMap", matrix=matrix.ravel().tolist(), **self._place(roll=0.0))

    def _kicker(self) -> Element:
        return self._kick(("hkick", "chkick"), ("vkick", "cvkick"))

    _tkicker = _kicker

    def _hkicker(self) -> Element:
        return self._kick(("kick" if "kick" in self._values else "hkick", "chkick"), ())

    def _vkicker(self) -> Element:
        return self._kick((), ("kick" if "kick" in self._values else "vkick", "cvkick"))

    def _kick(self, horizontal: tuple[str, ...], vertical: tuple[str, ...]) -> Element:
        x, y = (sum(self.strength(name) for name in names) for names in (horizontal, vertical))
        return self._make(
            "Kicker", length=self.length, hkick=x, vkick=y, model=self._model,
            **self._place(), **self._pipe(),
        )  # fmt: skip

    def _wave(self) -> dict[str, Any]:
        """Keywords of a cavity, but its phase."""
        harmon = self.number("harmon")
        frequency = self.number("freq") * 1e6
        if self._common.charge != 1 and self.number("volt"):
            reason = f"MAD-X takes it for that of the charge 1: divided by {self._common.charge:g}"
            self._lose("volt", self.number("volt"), reason)
        return {
            "length": self.length, "voltage": self.number("volt") * 1e6 / self._common.charge,
            "frequency": harmon * self._common.turn_frequency if harmon > 0 else frequency,
            "model": self._model, **self._place(), **self._pipe(),
        }  # fmt: skip

    def _rfcavity(self) -> Element:
        keywords = self._wave()
        keywords["voltage"] *= self._common.bv
        lag = self.strength("lag")
        gain = keywords["voltage"] * math.sin(2 * math.pi * lag)
        if abs(gain) > 1e-12 * abs(keywords["voltage"]):
            self._lose("lag", lag, f"the reference particle gains {gain * self._common.charge:g} eV; "
                       "that of MAD-X keeps its energy")  # fmt: skip
        return self._make("RFCavity", phase=2 * math.pi * lag - math.pi / 2, **keywords)

    def _crabcavity(self) -> Element:
        return self._make("CrabCavity", phase=2 * math.pi * self.strength("lag"), **self._wave())

    def _translation(self) -> Element:
        x, y, z = (self.number(key) for key in ("dx", "dy", "ds"))
        if z:
            self._lose("ds", z, "the reference particle takes this path, too")
        return self._make("Patch", offset_x=x, offset_y=y, offset_z=z)

    def _xrotation(self) -> Element:
        return self._make("Patch", rotation_x=self.strength("angle"))

    def _yrotation(self) -> Element:
        return self._make("Patch", rotation_y=self.strength("angle"))

    def _srotation(self) -> Element:
        return self._make("PlaneRotation", angle=self.number("angle"))

    def _nllens(self) -> Element:
        return self._make(
            "NonlinearLens", knl=self.number("knll"), cnl=self.number("cnll"), **self._place()
        )

    def _matrix(self) -> Element:
        # T, PT of MAD-X are -t, -pt
        sign = np.array([1, 1, 1, 1, -1, -1])
        r, t = np.eye(6), np.zeros((6, 6, 6))
        for i, j in np.ndindex(6, 6):
            r[i, j] = float(self.get(f"rm{i + 1}{j + 1}", r[i, j]))
            for k in range(6):
                t[i, j, k] = self.number(f"tm{i + 1}{j + 1}{k + 1}")
        kick = np.array([self.number(f"kick{i + 1}") for i in range(6)])
        r, kick = r * np.outer(sign, sign), kick * sign
        if not t.any() and not kick.any():
            keywords: dict[str, Any] = {"matrix": r.ravel().tolist()}
            return self._make("LinearMap", length=self.length, **keywords, **self._place())
        t = np.einsum("ijk,i,j,k->ijk", t, sign, sign, sign)
        rows = []
        for i in range(6):
            square = [t[i, j, k] + (t[i, k, j] if j != k else 0.0)
                      for j in range(6) for k in range(j, 6)]  # fmt: skip
            rows += [kick[i], *r[i], *square]
        return self._make(
            "TaylorMap", length=self.length, coefficients=[float(v) for v in rows], **self._place()
        )


def _round(pipe: dict[str, Any]) -> bool:
    shape, x, y = (pipe.get(f"aperture_{what}") for what in ("shape", "x", "y"))
    return shape != "rectangular" and x == y


def _about_x(angle: float) -> np.ndarray:
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])


def _about_y(angle: float) -> np.ndarray:
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


def _about_z(angle: float) -> np.ndarray:
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
