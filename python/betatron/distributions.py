"""Shapes that the particles of an initial beam are drawn from.

>>> import betatron as bt
>>> shape = bt.Waterbag.from_twiss(beta_x=2, alpha_x=0.5, emittance_x=1e-8,
...                                beta_y=3, emittance_y=1e-8, beta_t=0.1, emittance_t=1e-6)
>>> float(round(shape.covariance[0, 1] / 1e-9, 9))
-5.0

Every shape but one can have every covariance matrix; its parameters always state rms values of the
whole beam. The exception is Thermal, whose size follows from temperature and charge.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike

from betatron import _core
from betatron._checks import number


class Distribution:
    """A shape with a covariance matrix and a mean. Made by ``from_twiss``, ``from_ellipse`` and
    ``from_covariance`` of the classes below; it does not change afterwards."""

    shape: ClassVar[str]
    """Name of the shape in the core."""

    __slots__ = ("_distribution",)

    def __init__(self, *_: Any, **__: Any) -> None:
        name = type(self).__name__
        raise TypeError(
            f"use {name}.from_twiss(...), {name}.from_ellipse(...) or {name}.from_covariance(...)"
        )

    @classmethod
    def from_twiss(
        cls,
        *,
        beta_x: float,
        alpha_x: float = 0.0,
        emittance_x: float,
        beta_y: float,
        alpha_y: float = 0.0,
        emittance_y: float,
        beta_t: float,
        alpha_t: float = 0.0,
        emittance_t: float,
        dispersion_x: float = 0.0,
        dispersion_px: float = 0.0,
        dispersion_y: float = 0.0,
        dispersion_py: float = 0.0,
        mean: Sequence[float] | None = None,
        **cuts: float | None,
    ) -> Self:
        """From Courant-Snyder parameters of each plane:
        <q²> = ε β, <p²> = ε (1 + α²)/β, <q p> = -ε α.

        Parameters
        ----------
        beta_x, beta_y, beta_t
            [m], > 0; of the t plane: <t²>/ε_t.
        alpha_x, alpha_y, alpha_t
            Finite.
        emittance_x, emittance_y, emittance_t
            Geometric rms emittance [m rad], >= 0; of x and y without what dispersion adds.
        dispersion_x, dispersion_px, dispersion_y, dispersion_py
            Every particle is moved by -D pt, so that D is the orbit per energy deviation (m, 1, m,
            1).
        mean
            Means of x, px, y, py, t, pt.
        cut_x, cut_y, cut_t
            Gaussian only: see there.

        Raises
        ------
        TypeError, ValueError
            Naming the parameter, its value and what is allowed.
        """
        where = f"{cls.__name__}.from_twiss"
        planes = (
            (beta_x, alpha_x, emittance_x),
            (beta_y, alpha_y, emittance_y),
            (beta_t, alpha_t, emittance_t),
        )
        names = tuple((f"beta_{q}", f"alpha_{q}", f"emittance_{q}") for q in "xyt")
        return cls._made(
            where,
            _core.Distribution.from_twiss,
            (
                _numbers(where, names, planes),
                _dispersion(where, dispersion_x, dispersion_px, dispersion_y, dispersion_py),
            ),
            mean,
            cuts,
        )

    @classmethod
    def from_ellipse(
        cls,
        *,
        lambda_x: float,
        lambda_y: float,
        lambda_t: float,
        lambda_px: float,
        lambda_py: float,
        lambda_pt: float,
        mu_xpx: float = 0.0,
        mu_ypy: float = 0.0,
        mu_tpt: float = 0.0,
        dispersion_x: float = 0.0,
        dispersion_px: float = 0.0,
        dispersion_y: float = 0.0,
        dispersion_py: float = 0.0,
        mean: Sequence[float] | None = None,
        **cuts: float | None,
    ) -> Self:
        """From where the rms ellipse of each plane meets the axes, and the correlation mu:
        <q²> = λ_q²/(1 - μ²), <p²> = λ_p²/(1 - μ²), <q p> = -μ λ_q λ_p/(1 - μ²).

        Parameters
        ----------
        lambda_x, lambda_y, lambda_t
            [m], >= 0.
        lambda_px, lambda_py, lambda_pt
            Relative to the reference momentum, >= 0.
        mu_xpx, mu_ypy, mu_tpt
            Between -1 and 1, exclusive.

        The others, and what is raised: as for ``from_twiss``.
        """
        where = f"{cls.__name__}.from_ellipse"
        planes = (
            (lambda_x, lambda_px, mu_xpx),
            (lambda_y, lambda_py, mu_ypy),
            (lambda_t, lambda_pt, mu_tpt),
        )
        names = tuple((f"lambda_{q}", f"lambda_p{q}", f"mu_{q}p{q}") for q in "xyt")
        return cls._made(
            where,
            _core.Distribution.from_ellipse,
            (
                _numbers(where, names, planes),
                _dispersion(where, dispersion_x, dispersion_px, dispersion_y, dispersion_py),
            ),
            mean,
            cuts,
        )

    @classmethod
    def from_covariance(
        cls, matrix: ArrayLike, *, mean: Sequence[float] | None = None, **cuts: float | None
    ) -> Self:
        """From a covariance matrix of x, px, y, py, t, pt, shape (6, 6), symmetric and positive
        semidefinite.

        Where planes are coupled, t keeps the profile of the shape and the other coordinates are the
        shape's plus terms linear in t and pt; so a matrix with dispersion gives the same beam as
        the parameters ``dispersion_x`` ... do. ``mean`` and what is raised: as for ``from_twiss``.
        """
        where = f"{cls.__name__}.from_covariance"
        values = _array(where, "matrix", matrix, (6, 6))
        return cls._made(
            where, _core.Distribution.from_covariance, (values.ravel().tolist(),), mean, cuts
        )

    @property
    def covariance(self) -> np.ndarray:
        """Covariance matrix of x, px, y, py, t, pt, shape (6, 6)."""
        return self._distribution.covariance

    @property
    def mean(self) -> np.ndarray:
        """Means of x, px, y, py, t, pt."""
        return self._distribution.mean

    def __repr__(self) -> str:
        sigma = np.sqrt(np.diag(self.covariance))
        values = ", ".join(
            f"sigma_{name}={value:.4g}"
            for name, value in zip(("x", "px", "y", "py", "t", "pt"), sigma, strict=True)
        )
        return f"{type(self).__name__}({values})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), self._distribution)

    def _for(self, reference: _core.Reference, charge: float) -> _core.Distribution:
        """What a beam of this species, energy and charge [C] is drawn from."""
        return self._distribution

    @classmethod
    def _made(
        cls,
        where: str,
        make: Any,
        parameters: tuple[Any, ...],
        mean: Sequence[float] | None,
        cuts: dict[str, float | None],
    ) -> Self:
        means = np.zeros(6) if mean is None else _array(where, "mean", mean, (6,))
        try:
            made = cls._cut(where, make(cls.shape, *parameters, means.tolist()), cuts)
        except ValueError as error:
            raise ValueError(f"{where}: {str(error).removeprefix('distribution: ')}") from None
        return _restore(cls, made)

    @classmethod
    def _cut(
        cls, where: str, made: _core.Distribution, cuts: dict[str, float | None]
    ) -> _core.Distribution:
        if cuts:
            raise TypeError(f"{where}() got an unexpected keyword argument {next(iter(cuts))!r}")
        return made


class Gaussian(Distribution):
    """Normal in all six coordinates.

    Each of the three ways to make one also takes ``cut_x``, ``cut_y``, ``cut_t``: no particle has,
    in that plane, an amplitude above so many sigmas of the uncut distribution (> 0; None or
    infinity: no cut). The amplitudes are then scaled up so that the covariance is the one asked for
    all the same.
    """

    shape = "gaussian"
    __slots__ = ()

    @classmethod
    def _cut(
        cls, where: str, made: _core.Distribution, cuts: dict[str, float | None]
    ) -> _core.Distribution:
        names = ("cut_x", "cut_y", "cut_t")
        for name in cuts:
            if name not in names:
                raise TypeError(f"{where}() got an unexpected keyword argument {name!r}")
        values = [
            np.inf if cuts.get(name) is None else number(cuts[name], f"{where}: {name}")
            for name in names
        ]
        return made.with_cuts(*values)


class Waterbag(Distribution):
    """Uniform in a ball of the normalised six-dimensional phase space."""

    shape = "waterbag"
    __slots__ = ()


class KV(Distribution):
    """Kapchinskij-Vladimirskij: uniform on a sphere of the normalised x, px, y, py; t uniform, pt
    normal."""

    shape = "kv"
    __slots__ = ()


class Kurth4D(Distribution):
    """Transverse Kurth distribution: (x, y) uniform in a disk; t uniform, pt normal."""

    shape = "kurth4d"
    __slots__ = ()


class Kurth6D(Distribution):
    """Kurth distribution: (x, y, t) uniform in a ball."""

    shape = "kurth6d"
    __slots__ = ()


class SemiGaussian(Distribution):
    """(x, y, t) uniform in a cylinder; px, py, pt normal."""

    shape = "semigaussian"
    __slots__ = ()


class Triangle(Distribution):
    """The current falls linearly from the head to the tail; pt normal; the transverse coordinates
    uniform in a ball of four dimensions."""

    shape = "triangle"
    __slots__ = ()


class Thermal(Distribution):
    """In thermal equilibrium with its own field: stationary in a channel of constant focusing.

    Parameters
    ----------
    k
        Wave number of the focusing [1/m], > 0, the same in all planes: that of
        ``bt.ConstantFocusing(length, kx=k, ky=k, kt=k)``.
    kT
        Temperature of the core, > 0: the mean square of px and py (relative to the reference
        momentum) and of pt/(beta gamma).
    kT_halo
        Temperature of the halo, > 0; needed with a halo only.
    halo
        Fraction of the particles in the halo, 0 <= halo < 1. Core and halo are each in equilibrium,
        with the field of both.
    mean
        Means of x, px, y, py, t, pt.

    Raises
    ------
    TypeError, ValueError
        Naming the parameter, its value and what is allowed.
    RuntimeError
        When a beam is made, if its charge is so large for its temperature (a core of hundreds of
        Debye lengths) that the equation cannot be solved in double precision.

    In the frame of the beam, where zeta = -beta gamma t and p_zeta = -pt/(beta gamma), the density
    in phase space is a sum of exp(-H/kT) of H = (px² + py² + p_zeta²)/2 + k² r²/2 + psi(r), psi
    being the potential of the beam itself: the Poisson-Boltzmann equation, which is solved for the
    charge and the energy of each beam. Sources: M. Reiser, Theory and Design of Charged Particle
    Beams, 2nd ed. (2008), sec. 5.4.4; R. D. Ryne et al., EPAC 2004, WEPLT047.

    >>> ref = bt.Reference("proton", kinetic_energy=1e5)
    >>> shape = bt.Thermal(k=6.28, kT=36e-6, kT_halo=900e-6, halo=0.05)
    >>> beam = bt.Beam(ref, shape, n=100, charge=0.14e-9)
    """

    shape = "thermal"
    __slots__ = ("_mean", "_parameters")

    def __init__(
        self,
        k: float,
        kT: float,
        kT_halo: float | None = None,
        halo: float = 0.0,
        *,
        mean: Sequence[float] | None = None,
    ) -> None:
        where = "Thermal"
        given = {"k": k, "kT": kT, "halo": halo}
        numbers = {name: number(value, f"{where}: {name}") for name, value in given.items()}
        for name in ("k", "kT"):
            if not (np.isfinite(numbers[name]) and numbers[name] > 0):
                raise ValueError(f"{where}: {name} = {numbers[name]} must be finite and > 0")
        if not 0 <= numbers["halo"] < 1:
            raise ValueError(f"{where}: halo = {numbers['halo']} must be >= 0 and < 1")
        if kT_halo is None:
            if numbers["halo"] > 0:
                raise TypeError(f"{where}: a halo of {numbers['halo']} needs kT_halo")
            kT_halo = numbers["kT"]
        hot = number(kT_halo, f"{where}: kT_halo")
        if not (np.isfinite(hot) and hot > 0):
            raise ValueError(f"{where}: kT_halo = {hot} must be finite and > 0")
        self._parameters = (numbers["k"], numbers["kT"], hot, numbers["halo"])
        self._mean = np.zeros(6) if mean is None else _array(where, "mean", mean, (6,))
        if not np.all(np.isfinite(self._mean)):
            raise ValueError(f"{where}: mean = {self._mean.tolist()} must be finite")

    @classmethod
    def from_twiss(cls, *_: Any, **__: Any) -> Self:
        """Not for a thermal beam: its second moments follow from its temperature and charge."""
        raise TypeError("Thermal: use Thermal(k, kT, kT_halo, halo)")

    from_ellipse = from_covariance = from_twiss

    def equilibrium(self, reference: _core.Reference, charge: float) -> _core.ThermalProfile:
        """The radial profile of a beam of this charge: rms size, density, potential.

        Parameters
        ----------
        reference
            Species and energy.
        charge
            Magnitude of the charge [C], >= 0.

        Raises
        ------
        ValueError, RuntimeError
            As for the class.
        """
        return self._for(reference, number(charge, "Thermal: charge")).profile

    @property
    def covariance(self) -> np.ndarray:
        """Not known without species, energy and charge: see ``equilibrium``."""
        raise AttributeError(
            "the covariance of a thermal beam depends on its charge and energy: "
            "use .equilibrium(reference, charge)"
        )

    @property
    def mean(self) -> np.ndarray:
        """Means of x, px, y, py, t, pt."""
        return self._mean.copy()

    def __repr__(self) -> str:
        k, core, hot, halo = self._parameters
        return f"Thermal(k={k:.4g}, kT={core:.4g}, kT_halo={hot:.4g}, halo={halo:.4g})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _thermal, (*self._parameters, self._mean)

    def _for(self, reference: _core.Reference, charge: float) -> _core.Distribution:
        return _core.Distribution.from_thermal(
            *self._parameters, reference, charge, self._mean.tolist()
        )


def _thermal(k: float, core: float, hot: float, halo: float, mean: np.ndarray) -> Thermal:
    return Thermal(k, core, hot, halo, mean=mean)


def _restore(cls: type[Distribution], made: _core.Distribution) -> Any:
    self = object.__new__(cls)
    object.__setattr__(self, "_distribution", made)
    return self


def _numbers(
    where: str, names: tuple[tuple[str, ...], ...], values: tuple[tuple[float, ...], ...]
) -> list[list[float]]:
    return [
        [number(value, f"{where}: {name}") for name, value in zip(row, given, strict=True)]
        for row, given in zip(names, values, strict=True)
    ]


def _dispersion(where: str, *values: float) -> list[float]:
    names = ("dispersion_x", "dispersion_px", "dispersion_y", "dispersion_py")
    return _numbers(where, (names,), (values,))[0]


def _array(where: str, name: str, values: ArrayLike, shape: tuple[int, ...]) -> np.ndarray:
    try:
        array = np.asarray(values)
        if array.dtype.kind not in "fiu":
            raise TypeError
        array = array.astype(float)
    except (TypeError, ValueError):
        raise TypeError(
            f"{where}: {name} must be numbers of shape {shape}, got {values!r}"
        ) from None
    if array.shape != shape:
        raise ValueError(f"{where}: {name} has shape {array.shape}, must be {shape}")
    return array
