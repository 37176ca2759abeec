"""Beams: particles, the reference particle that they are relative to, and those that were lost.

>>> import numpy as np
>>> import betatron as bt
>>> ref = bt.Reference("electron", kinetic_energy=100e6)
>>> zero = np.zeros(2)
>>> beam = bt.Beam.from_arrays(ref, x=[0.0, 1e-3], px=zero, y=zero, py=zero, t=zero, pt=zero)
>>> beam.x *= 2
>>> float(beam.moments()["mean_x"])
0.001
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd

from betatron import _core
from betatron._checks import number, whole
from betatron._constants import ELEMENTARY_CHARGE
from betatron._core import Reference, Species
from betatron.distributions import Distribution
from betatron.fixed_time import momentum_scale, to_fixed_place, to_fixed_time
from betatron.plot import BeamPlots

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = ["COORDINATES", "SPIN", "Beam", "Reference", "Species"]

COORDINATES = ("x", "px", "y", "py", "t", "pt")
"""Names of the coordinates, in the order of all arrays and matrices."""

SPIN = ("sx", "sy", "sz")
"""Names of the components of the spin, in the local frame (x, y, direction of flight)."""

_COLUMNS = (*COORDINATES, "weight")
_PRECISIONS = ("single", "double")
_LARGEST_SEED = 2**64 - 1
_LARGEST_NUMBER = 2**63 - 1


def _column(index: int, what: str) -> Any:
    def get(self: Beam) -> np.ndarray:
        return self.column(index)

    def set_(self: Beam, values: ArrayLike) -> None:
        self.column(index)[...] = values

    doc = f"{what}; a writable view of shape (n,). Assigning copies the values into the beam."
    return property(get, set_, doc=doc)


def _spin_column(index: int, what: str) -> Any:
    def get(self: Beam) -> np.ndarray:
        if not self.has_spin:
            raise AttributeError(
                f"a beam without spins has no {SPIN[index]}; beam.set_spin(...) or "
                "beam.polarize(...) gives it spins"
            )
        return self.column(7 + index)

    def set_(self: Beam, values: ArrayLike) -> None:
        get(self)[...] = values

    doc = (
        f"{what} component of the spin; a writable view of shape (n,). AttributeError where the "
        "beam has no spins."
    )
    return property(get, set_, doc=doc)


class Beam(_core.Bunch):
    """Particles drawn from a distribution.

    Parameters
    ----------
    reference
        The reference particle, to which all coordinates are relative.
    distribution
        A shape of `betatron.distributions`, for example ``bt.Gaussian.from_twiss(...)``; None puts
        all particles on the reference orbit.
    n
        Number of macroparticles, >= 0.
    charge
        Magnitude of the charge of the beam in C, >= 0 (the species gives the sign). Without it each
        macroparticle is one real particle (weight 1).
    seed
        Names the random numbers, 0 <= seed < 2^64. The beam depends on nothing else: not on the
        number of threads, and the first particles of a larger beam are those of a smaller one.
    precision
        "double" or "single", of coordinates, weights and spins.
    polarization
        Mean of the spins, a vector (x, y, direction of flight) of length <= 1, for a beam with
        spins: see ``polarize``. None: the beam has no spins.

    Raises
    ------
    TypeError, ValueError
        Naming the argument, its value and what is allowed.

    Columns are NumPy arrays without copy: ``beam.x *= 2`` changes the beam. They stay valid for as
    long as they are used; but when particles are lost, the remaining ones move up, so take the
    columns anew after tracking. ``from_arrays`` makes a beam of particles that exist already.
    """

    __slots__ = ("_lost_names",)

    def __init__(
        self,
        reference: Reference,
        distribution: Distribution | None = None,
        n: int = 0,
        charge: float | None = None,
        seed: int = 1,
        precision: str = "double",
        polarization: ArrayLike | None = None,
    ) -> None:
        check_reference(reference, "Beam")
        if distribution is not None and not isinstance(distribution, Distribution):
            raise TypeError(
                "Beam: distribution must be a distribution such as "
                "betatron.Gaussian.from_twiss(...), "
                f"got {type(distribution).__name__} {distribution!r}"
            )
        n = whole(n, "Beam: n", _LARGEST_NUMBER)
        seed = whole(seed, "Beam: seed", _LARGEST_SEED)
        _check_precision(precision)
        if charge is not None:
            charge = number(charge, "Beam: charge")
        if distribution is None:
            super().__init__(reference, n, precision)
        else:
            of_one = abs(reference.species.charge) * ELEMENTARY_CHARGE
            drawn_from = distribution._for(reference, n * of_one if charge is None else charge)
            super().__init__(reference, drawn_from, n, seed, precision)
        self._lost_names: list[str] = []
        if charge is not None:
            self.set_charge(charge)
        if polarization is not None:
            self.polarize(polarization, seed)

    @classmethod
    def from_arrays(
        cls,
        reference: Reference,
        *,
        x: ArrayLike,
        px: ArrayLike,
        y: ArrayLike,
        py: ArrayLike,
        t: ArrayLike,
        pt: ArrayLike,
        weight: ArrayLike | None = None,
        charge: float | None = None,
        id: ArrayLike | None = None,
        sx: ArrayLike | None = None,
        sy: ArrayLike | None = None,
        sz: ArrayLike | None = None,
        copy: bool = True,
    ) -> Self:
        """A beam of given particles.

        Parameters
        ----------
        reference
            The reference particle, to which all coordinates are relative.
        x, px, y, py, t, pt
            Coordinates, arrays of one shape (n,): NumPy arrays, lists, or arrays of any library
            with DLPack (PyTorch, CuPy, JAX, ...). Beams of float32 arrays are in single precision,
            others in double.
        weight
            Number of real particles that each macroparticle stands for, >= 0; 1 if not given.
        charge
            Magnitude of the charge in C, >= 0: the weights are scaled to it.
        id
            Numbers that stay with the particles, 0 <= id < 2^64; 0, 1, 2, ... if not given.
        sx, sy, sz
            Spins, unit vectors in the local frame (x, y, direction of flight): all three, or none
            for a beam without spins.
        copy
            False: the beam works in the memory of the arrays (weight, id and spins too, if given),
            which must be of one type, float32 or float64 (id: uint64), contiguous, writable, in
            host memory and separate from each other. When particles are lost, the first
            ``len(beam)`` entries are the beam. True: it has columns of its own; arrays on a GPU are
            copied to the host.

        Raises
        ------
        TypeError
            For what is not an array of real numbers.
        ValueError
            For arrays of different lengths or more than one dimension, for numbers that are not
            finite, negative weights and ids, spins that are not unit vectors, and where
            ``copy=False`` is not possible; the message says why.
        """
        check_reference(reference, "Beam.from_arrays")
        z: list[Any] = [x, px, y, py, t, pt]
        if charge is not None:
            charge = number(charge, "Beam.from_arrays: charge")
        spin = _spin_arguments(sx, sy, sz, "Beam.from_arrays")
        if copy:
            z = [_host_array(name, a) for name, a in zip(COORDINATES, z, strict=True)]
            single = all(a.dtype.newbyteorder("=") == np.float32 for a in z)
            dtype = np.float32 if single else np.float64
            z = [np.ascontiguousarray(a, dtype=dtype) for a in z]
            if weight is not None:
                weight = np.ascontiguousarray(_host_array("weight", weight), dtype=dtype)
            if id is not None:
                id = _host_ids(id)
            spin = [
                np.ascontiguousarray(_host_array(name, a), dtype=dtype)
                for name, a in zip(SPIN, spin, strict=False)
            ]
        else:
            if weight is not None and charge is not None:
                raise ValueError(
                    "Beam.from_arrays: with copy=False give weight or charge, not both: the "
                    "weights would be changed in the given array"
                )
            for name, array in zip(
                (*_COLUMNS, "id", *SPIN), (*z, weight, id, sx, sy, sz), strict=True
            ):
                _check_no_gradient(name, array)
        self = cls.__new__(cls)
        _core.Bunch.__init__(self, reference, z, weight, id, spin, bool(copy))
        self._lost_names = []
        if charge is not None:
            self.set_charge(charge)
        return self

    @classmethod
    def from_fixed_time(
        cls,
        reference: Reference,
        *,
        x: ArrayLike,
        y: ArrayLike,
        z: ArrayLike,
        px: ArrayLike,
        py: ArrayLike,
        pz: ArrayLike,
        momentum: str = "mc",
        weight: ArrayLike | None = None,
        charge: float | None = None,
        id: ArrayLike | None = None,
        sx: ArrayLike | None = None,
        sy: ArrayLike | None = None,
        sz: ArrayLike | None = None,
    ) -> Self:
        """A beam of particles that are given at one time, as codes that step in time have them.

        Each flies freely to the plane of the reference particle (back, if it is ahead); the exact
        inverse of ``at_fixed_time``. See `betatron.fixed_time` for formulas and source.

        Parameters
        ----------
        reference
            The reference particle, at the time of the given coordinates.
        x, y, z
            Position relative to the reference particle along its axes [m], arrays of one shape
            (n,); z > 0 is ahead.
        px, py, pz
            Momentum along these axes, pz > 0: the whole, not its deviation from the reference.
        momentum
            Unit of px, py, pz: "mc" (mass of the particle times c) or "p0" (reference momentum).
        weight, charge, id, sx, sy, sz
            As for ``from_arrays``. In free flight the spin stays as it is.

        Raises
        ------
        TypeError, ValueError
            As ``from_arrays``, and for a pz that is not positive.
        """
        where = "Beam.from_fixed_time"
        check_reference(reference, where)
        scale = momentum_scale(reference, momentum, where)
        given = {"x": x, "y": y, "z": z, "px": px, "py": py, "pz": pz}
        arrays = {name: _host_array(name, a, where) for name, a in given.items()}
        lengths = {name: len(a) for name, a in arrays.items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"{where}: arrays must have one length, got {lengths}")
        wrong = np.flatnonzero(~(arrays["pz"] > 0))
        if len(wrong):
            raise ValueError(
                f"{where}: pz[{wrong[0]}] = {arrays['pz'][wrong[0]]} must be > 0: the particle "
                "never crosses the plane of the reference particle"
            )
        single = all(a.dtype.newbyteorder("=") == np.float32 for a in arrays.values())
        for name in ("px", "py", "pz"):
            arrays[name] = arrays[name].astype(np.float64) / scale
        columns = to_fixed_place(reference, tuple(arrays.values()))
        dtype = np.float32 if single else np.float64
        return cls.from_arrays(
            reference,
            **{name: c.astype(dtype) for name, c in zip(COORDINATES, columns, strict=True)},
            weight=weight,
            charge=charge,
            id=id,
            sx=sx,
            sy=sy,
            sz=sz,
        )

    # --- columns -----------------------------------------------------------------------------

    x = _column(0, "Horizontal offset [m]")
    px = _column(1, "Horizontal momentum relative to the reference momentum")
    y = _column(2, "Vertical offset [m]")
    py = _column(3, "Vertical momentum relative to the reference momentum")
    t = _column(4, "c times the delay [m]; late is positive")
    pt = _column(5, "-(gamma - gamma0)/(beta0 gamma0); more energy is negative")
    weight = _column(6, "Number of real particles that each macroparticle stands for")

    sx = _spin_column(0, "Horizontal")
    sy = _spin_column(1, "Vertical")
    sz = _spin_column(2, "Longitudinal")

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns: x, px, y, py, t, pt, weight, id, and sx, sy, sz of a beam with
        spins."""
        return (*_COLUMNS, "id", *(SPIN if self.has_spin else ()))

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.columns:
            raise KeyError(f"a beam has no column {name!r}; it has {', '.join(self.columns)}")
        return getattr(self, name)

    def __setitem__(self, name: str, values: ArrayLike) -> None:
        self[name][...] = values

    def to_dataframe(self) -> pd.DataFrame:
        """A copy as a table, one row per particle: x, px, y, py, t, pt, weight, id, and of a beam
        with spins sx, sy, sz."""
        return pd.DataFrame({name: self[name].copy() for name in self.columns})

    # --- spins -------------------------------------------------------------------------------

    def polarize(self, polarization: ArrayLike, seed: int = 1) -> None:
        """Give the particles spins that are drawn with a mean; spins that they have are replaced.

        Parameters
        ----------
        polarization
            The mean, a vector in the local frame (x, y, direction of flight), of length <= 1: 1
            makes all spins parallel to it, 0 gives isotropic directions. Between them they follow
            the von Mises-Fisher distribution on the unit sphere, f(S) ~ exp(kappa n.S) with
            coth kappa - 1/kappa = |polarization|: of all distributions with this mean the one of
            largest entropy.
        seed
            Names the random numbers; the spins depend on nothing else (see the class).

        Raises
        ------
        TypeError, ValueError
            Unless there are three finite numbers and the length is <= 1.
        """
        where = "Beam: polarization"
        vector = _vector(polarization, where)
        self.sample_spin(vector, whole(seed, "Beam: seed", _LARGEST_SEED))

    def set_spin(self, sx: ArrayLike, sy: ArrayLike, sz: ArrayLike) -> None:
        """Give the particles these spins; spins that they have are replaced.

        Parameters
        ----------
        sx, sy, sz
            Unit vectors in the local frame (x, y, direction of flight): three numbers, the same for
            all particles, or three arrays of shape (n,).

        Raises
        ------
        TypeError, ValueError
            For what is not numbers, for other shapes, and for vectors that are not of length 1
            within 1e-6; the spins are then as they were.
        """
        given = (sx, sy, sz)
        if all(np.ndim(s) == 0 for s in given):
            super().set_spin(_vector(given, "Beam.set_spin: spin"))
            return
        arrays = [_host_array(n, s, "Beam.set_spin") for n, s in zip(SPIN, given, strict=True)]
        super().set_spin(*(np.ascontiguousarray(a, dtype=np.float64) for a in arrays))

    def polarization(self) -> np.ndarray:
        """Mean of the spins, weighted: the polarisation vector, shape (3,), in the local frame (x,
        y, direction of flight). NaN for a beam without particles; AttributeError where the beam has
        no spins."""
        if not self.has_spin:
            raise AttributeError(
                "a beam without spins has no polarization; beam.set_spin(...) or "
                "beam.polarize(...) gives it spins"
            )
        m = self.moments()
        return m[[f"mean_{s}" for s in SPIN]].to_numpy()

    def at_fixed_time(self, momentum: str = "mc") -> pd.DataFrame:
        """The particles at one time, that of the reference particle, instead of at one place.

        Each flies freely from the plane of the reference particle to where it is at that time. The
        beam itself stays as it is; ``Beam.from_fixed_time`` is the exact inverse. See
        `betatron.fixed_time` for formulas and source.

        Parameters
        ----------
        momentum
            Unit of the momenta: "mc" (mass of the particle times c, so that the reference particle
            has pz = beta gamma) or "p0" (reference momentum, so that it has pz = 1).

        Returns a table, one row per particle, in double precision: position ``x``, ``y``, ``z``
        relative to the reference particle along its axes [m] (z > 0 is ahead), momentum ``px``,
        ``py``, ``pz`` (the whole, not a deviation), ``weight``, ``id``, and of a beam with spins
        ``sx``, ``sy``, ``sz`` (which do not change in free flight).

        Raises
        ------
        ValueError
            For an unknown unit, and if a particle does not move forward (px^2 + py^2 >= p^2).
        """
        where = "Beam.at_fixed_time"
        scale = momentum_scale(self.reference, momentum, where)
        x, y, z, px, py, pz = to_fixed_time(self.reference, tuple(self[q] for q in COORDINATES))
        wrong = np.flatnonzero(~(pz > 0))
        if len(wrong):
            raise ValueError(
                f"{where}: particle {wrong[0]} does not move forward (px = {px[wrong[0]]}, "
                f"py = {py[wrong[0]]}, pt = {self.pt[wrong[0]]})"
            )
        columns = {"x": x, "y": y, "z": z, "px": scale * px, "py": scale * py, "pz": scale * pz}
        return pd.DataFrame({**columns, **{q: self[q].copy() for q in self.columns[6:]}})

    # --- diagnostics -------------------------------------------------------------------------

    def moments(self) -> pd.Series:
        """What describes the beam as a whole, by name.

        ``s`` [m], ``gamma`` of the reference particle; ``n`` macroparticles; ``charge`` [C]; of
        each coordinate ``mean_x``, ``sigma_x``, ``min_x``, ``max_x``, ...; of each plane
        ``emittance_x`` (geometric, rms, with what dispersion adds) [m], ``emittance_xn`` (times
        beta gamma), ``alpha_x``, ``beta_x`` (dispersion taken out), ...; ``dispersion_x``, ``_px``,
        ``_y``, ``_py``; the eigenemittances ``emittance_1`` >= ``_2`` >= ``_3`` [m]. Moments are
        weighted, about the mean, of the population. What an empty beam does not have is NaN.
        A beam with spins has in addition ``mean_sx``, ``sigma_sx``, ... of each component and
        ``polarization``, the length of the mean.
        """
        names = [*_core.summary_names, *(_core.spin_summary_names if self.has_spin else ())]
        return pd.Series(self.summary(), index=names, name="beam")

    @property
    def lost(self) -> pd.DataFrame:
        """Lost particles, in order of loss: id, x, px, y, py, t, pt, weight (when lost), s [m],
        turn, element (position in the line), element_name, and reason: "aperture", "non_finite" (a
        coordinate became infinite or NaN), "outside_domain" (of the map of an element) or
        "outside_bucket" (with an absorbing longitudinal boundary). Where the beam has spins there
        are sx, sy, sz too, NaN for particles that were lost before it had them."""
        columns = self.lost_columns()
        reasons = np.array(_core.loss_reasons, dtype=object)
        columns["reason"] = reasons[columns["reason"]]
        table = pd.DataFrame(columns)
        names = self._lost_names + [""] * (len(table) - len(self._lost_names))
        table.insert(table.columns.get_loc("reason"), "element_name", names)
        return table.astype({"element_name": object, "reason": object})

    def _name_losses(self, name_of: Callable[[int], str]) -> None:
        """Remember the names of the elements, by position in the line, where particles were lost
        since the last call. A later line may have other elements at these positions."""
        known = len(self._lost_names)
        if self.n_lost > known:
            self._lost_names += [
                name_of(i) for i in self.lost_columns()["element"][known:].tolist()
            ]

    @property
    def plot(self) -> BeamPlots:
        """Pictures of the beam; see `betatron.plot.BeamPlots`."""
        return BeamPlots(self)

    # --- copies and files --------------------------------------------------------------------

    def copy(self, precision: str | None = None) -> Self:
        """A beam of its own with the same particles and lost particles, in the same precision or
        another."""
        precision = self.precision if precision is None else precision
        _check_precision(precision)
        other = type(self).__new__(type(self))
        _core.Bunch.__init__(other, self, precision)
        other._lost_names = list(self._lost_names)
        return other

    def save(
        self, path: str | os.PathLike[str], overwrite: bool = False, name: str = "beam"
    ) -> None:
        """Write the beam, with its lost particles, to an openPMD file.

        Parameters
        ----------
        path
            Ends in .h5 (HDF5), .json, or .bp (ADIOS2, where openPMD-api has it).
        overwrite
            Whether an existing file may be replaced.
        name
            Name of the particle species in the file.

        Raises
        ------
        FileExistsError
            If the file exists and may not be replaced.
        ValueError
            For a file type that cannot be written.

        See `betatron.openpmd` for what is in the file.
        """
        from betatron import openpmd

        openpmd.save(self, path, overwrite=overwrite, name=name)

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], iteration: int | None = None, name: str | None = None
    ) -> Self:
        """Read a beam from an openPMD file with the coordinates of Betatron: one of `save`, or of
        an ImpactX beam monitor.

        Parameters
        ----------
        path
            A file, or a pattern with "%T" for one file per iteration.
        iteration
            Which; the last one if not given.
        name
            Which particle species; "beam", or the only one, if not given.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        KeyError
            If there is no such iteration or species in it.
        ValueError
            If the file does not hold a beam in these coordinates.
        """
        from betatron import openpmd

        return openpmd.load(cls, path, iteration=iteration, name=name)

    def __reduce__(self) -> tuple[Any, ...]:
        columns = {name: self[name].copy() for name in self.columns}
        return _restore, (
            type(self),
            self.reference,
            columns,
            self.lost_columns(),
            self._lost_names,
        )

    def __repr__(self) -> str:
        ref = self.reference
        return (
            f"Beam({len(self)} particles, {self.precision} precision, {self.charge:.6g} C, "
            f"{ref.species.name} of {ref.kinetic_energy:.6g} eV, s = {ref.s:.6g} m"
            + (f", {self.n_lost} lost)" if self.n_lost else ")")
        )


def _restore(
    cls: type[Beam],
    reference: Reference,
    columns: dict[str, np.ndarray],
    lost: dict[str, np.ndarray],
    lost_names: list[str],
) -> Beam:
    self = cls.from_arrays(reference, **columns)
    self.set_lost(**lost)
    self._lost_names = list(lost_names)
    return self


# --- checks of what users give --------------------------------------------------------------------


def check_reference(reference: Any, where: str) -> None:
    if not isinstance(reference, Reference):
        raise TypeError(
            f"{where}: reference must be a betatron.Reference, "
            f"got {type(reference).__name__} {reference!r}"
        )


def _vector(values: Any, what: str) -> list[float]:
    """Three numbers."""
    try:
        vector = [number(v, what) for v in values]
    except TypeError as error:
        raise TypeError(f"{what} must be three numbers, got {values!r}") from error
    if len(vector) != 3:
        raise ValueError(
            f"{what} has {len(vector)} numbers, must have 3: x, y, direction of flight"
        )
    return vector


def _spin_arguments(sx: Any, sy: Any, sz: Any, where: str) -> list[Any]:
    """All three or none."""
    missing = [name for name, s in zip(SPIN, (sx, sy, sz), strict=True) if s is None]
    if len(missing) == 3:
        return []
    if missing:
        raise TypeError(f"{where}: sx, sy, sz go together; {', '.join(missing)} is not given")
    return [sx, sy, sz]


def _check_precision(precision: Any) -> None:
    if not isinstance(precision, str):
        raise TypeError(f"Beam: precision must be 'single' or 'double', got {precision!r}")
    if precision not in _PRECISIONS:
        raise ValueError(f"Beam: precision = {precision!r} must be 'single' or 'double'")


def _check_no_gradient(name: str, array: Any) -> None:
    if getattr(array, "requires_grad", False):
        raise ValueError(
            f"Beam.from_arrays: {name} is a tensor that requires a gradient and cannot be changed "
            f"in place; pass {name}.detach() or copy=True"
        )


def _on_host(array: Any) -> Any:
    """The array in host memory, copied there from a GPU."""
    if getattr(array, "requires_grad", False):
        array = array.detach()
    device = getattr(array, "__dlpack_device__", lambda: (1, 0))()[0]
    # DLPack: 1 CPU, 3 CUDA pinned, 11 ROCm pinned, 13 CUDA managed
    if int(device) not in (1, 3, 11, 13):
        for method in ("get", "cpu"):  # CuPy, PyTorch
            if hasattr(array, method):
                return getattr(array, method)()
    return array


def _host_array(name: str, values: Any, where: str = "Beam.from_arrays") -> np.ndarray:
    """Any array of real numbers as a NumPy array of shape (n,), without copy where possible."""
    try:
        values = _on_host(values)
        imported = not isinstance(values, np.ndarray) and hasattr(values, "__dlpack__")
        array = np.from_dlpack(values) if imported else np.asarray(values)
    except (TypeError, ValueError, RuntimeError, BufferError) as error:
        raise TypeError(
            f"{where}: {name} cannot be used as an array of numbers: {error}"
        ) from error
    native = array.dtype.newbyteorder("=")
    if native.kind not in "iu" and native not in (np.float32, np.float64):
        raise TypeError(
            f"{where}: {name} has type {array.dtype}, must be float64, float32 or whole numbers"
        )
    if array.ndim != 1:
        raise ValueError(f"{where}: {name} has shape {array.shape}, must have one dimension")
    return array


def _host_ids(values: Any) -> np.ndarray:
    array = _host_array("id", values)
    if array.size and array.dtype.kind == "f":
        raise TypeError(f"Beam.from_arrays: id has type {array.dtype}, must be whole numbers")
    if array.dtype.kind == "i" and array.size and array.min() < 0:
        raise ValueError(f"Beam.from_arrays: id = {array.min()} must be >= 0")
    return np.ascontiguousarray(array, dtype=np.uint64)
