"""The equation of motion itself, integrated: the arbiter where codes differ, and the independent
code where there is no other.

    du/d(ct) = Z/m (E + (u/gamma) x cB),   u = p/(m c),  Z: charge in e,  m: mass in eV

in Cartesian coordinates, with fields E [V/m] and B [T] that solve Maxwell's equations in closed
form (or, around a curved orbit, as a series in y/r far beyond rounding), by the Runge-Kutta method
of order 8 of Dormand and Prince (SciPy's DOP853). The independent variable is the path length of
the reference orbit, so that particles end on the exit plane. Nothing of it is a formula of
Betatron's: no Hamiltonian, no vector potential but at the ends of a field that ends abruptly
(where the momenta become canonical), no expansion in amplitude or energy.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import betatron as bt
import numpy as np
from adapters import ADAPTERS, Adapter

C = 299792458.0
THIN = 1e-12  # [m]: the length of a thin element; coordinates change by 1e-14 on the way

Array = np.ndarray
# (x, y, s, ct) -> E (3, n) [V/m], B (3, n) [T], along the local axes (x, y, s)
Fields = Callable[[Array, Array, Array, Array], tuple[Any, Any]]


@dataclass
class Setup:
    """What an element is made of.

    potential: (ax, ay)(x, y) over the reference momentum, of the field that begins and ends
    abruptly; canonical momenta are kinetic ones plus it. curvature: of the reference orbit, which
    turns towards -x. shift: what is added to the momenta and places where they are taken from the
    particles and taken off again.
    """

    fields: Fields
    curvature: float = 0.0
    potential: Callable[[Array, Array], tuple[Array, Array]] | None = None
    pieces: int = 40  # steps are not longer than the length over this
    shift: list[float] = field(default_factory=lambda: [0.0] * 6)


class Lorentz(Adapter):
    name = "Lorentz force"
    module = "scipy"

    @property
    def version(self) -> str:
        return f"(SciPy {super().version})"

    def track(
        self, ref: bt.Reference, element: Callable[[bt.Reference], Setup], length: float, z: Array
    ) -> Array:
        setup = element(ref)
        shift = np.array(setup.shift)[:, None]
        return self._integrate(ref, setup, length or THIN, z + shift) - shift

    @staticmethod
    def _integrate(ref: bt.Reference, setup: Setup, length: float, z: Array) -> Array:
        from scipy.integrate import solve_ivp

        h, bg, n = setup.curvature, ref.beta_gamma, z.shape[1]
        force = ref.species.charge / ref.species.mass
        x, px, y, py, t, pt = z
        if setup.potential:
            ax, ay = setup.potential(x, y)
            px, py = px - ax, py - ay
        p2 = 1 - 2 * pt / ref.beta + pt**2
        start = np.array([x, y, 0 * x, px, py, np.sqrt(p2 - px**2 - py**2), t])

        def local(state: Array) -> tuple[Array, Array, Array]:
            """r h, and x without cancellation; the unit vectors e_x = (r, 0, q)/size."""
            r, q = 1 + h * state[0], h * state[2]
            size = np.sqrt(r * r + q * q)
            return (
                r / size,
                q / size,
                (2 * state[0] + h * (state[0] ** 2 + state[2] ** 2)) / (1 + size),
            )

        def slope(s: float, flat: Array) -> Array:
            state = flat.reshape(7, n)
            u = state[3:6] * bg
            gamma = np.sqrt(1 + u[0] * u[0] + u[1] * u[1] + u[2] * u[2])
            v = u / gamma
            if h == 0:
                e, b = setup.fields(state[0], state[1], s + 0 * state[0], s / ref.beta + state[6])
                rate = v[2]
            else:
                c, w, across = local(state)
                e, b = setup.fields(across, state[1], s + 0 * across, s / ref.beta + state[6])
                e, b = ((c * f[0] - w * f[2], f[1], w * f[0] + c * f[2]) for f in (e, b))
                rate = (v[2] * c - v[0] * w) / (1 + h * across)  # ds/d(ct)
            fx = force * (e[0] + C * (v[1] * b[2] - v[2] * b[1]))
            fy = force * (e[1] + C * (v[2] * b[0] - v[0] * b[2]))
            fz = force * (e[2] + C * (v[0] * b[1] - v[1] * b[0]))
            rows = [v[0], v[1], v[2], fx / bg, fy / bg, fz / bg]
            return np.concatenate([*(row / rate for row in rows), 1 / rate - 1 / ref.beta])

        solution = solve_ivp(
            slope, (0.0, length), start.ravel(), method="DOP853", rtol=1e-13, atol=1e-17,
            max_step=length / setup.pieces, t_eval=[length],
        )  # fmt: skip
        if not solution.success:
            raise RuntimeError(solution.message)
        end = solution.y[:, -1].reshape(7, n)
        x, y, px, py = end[0], end[1], end[3], end[4]
        if h != 0:
            x = local(end)[2]
            px = px * math.cos(h * length) + end[5] * math.sin(h * length)
        # gamma - gamma0 = (u^2 - u0^2)/(gamma + gamma0), without cancellation
        excess = end[3] ** 2 + end[4] ** 2 + (end[5] - 1) * (end[5] + 1)
        pt = -excess / (np.sqrt(1 / ref.beta**2 + excess) + 1 / ref.beta)
        if setup.potential:
            ax, ay = setup.potential(x, y)
            px, py = px + ax, py + ay
        return np.array([x, px, y, py, end[6], pt])

    def linear(
        self, ref: bt.Reference, element: Callable[[bt.Reference], Setup], length: float, z: Array
    ) -> Array:
        """The derivative by steps into the complex plane, exact to rounding (W. Squire and G.
        Trapp, SIAM Rev. 40 (1998) 110)."""
        step = 1e-40
        out = self.track(ref, element, length, 1j * step * np.eye(6))
        return out.imag @ z / step + out.real[:, :1]


# --- Fields ----------------------------------------------------------------------------------


def _none(x: Array) -> list[Any]:
    return [0.0, 0.0, 0.0]


def magnet(field: Callable[[Array, Array, Array], list[Any]]) -> Fields:
    """A static magnetic field B(x, y, s) [T]."""
    return lambda x, y, s, ct: (_none(x), field(x, y, s))


def curved(normal: list[float], skew: list[float], h: float, rigidity: float) -> Fields:
    """Fields around an axis at x = -1/h that in the plane y = 0 are
    B_y = sum normal_n x^n/n! and B_x = sum skew_n x^n/n!, over the rigidity.

    The potential, B = grad psi, is even or odd in y: psi = sum_m (-1)^m y^k/k! L^m f(x),
    k = 2m or 2m + 1, with L = d^2/dr^2 + d/(r dr), r = x + 1/h. L is applied to sums of
    x^i r^-j, which hold no cancellation.
    """

    def derivative(f: dict) -> dict:
        out: dict = {}
        for (i, j), c in f.items():
            if i:
                out[i - 1, j] = out.get((i - 1, j), 0.0) + i * c
            if j:
                out[i, j + 1] = out.get((i, j + 1), 0.0) - j * c
        return out

    def over_r(f: dict) -> dict:
        return {(i, j + 1): c for (i, j), c in f.items()}

    def total(a: dict, b: dict) -> dict:
        return {k: a.get(k, 0.0) + b.get(k, 0.0) for k in a | b}

    def value(f: dict, x: Array, inverse_r: Array) -> Array:
        return sum((c * x**i * inverse_r**j for (i, j), c in f.items()), 0 * x)

    def polynomial(k: list[float]) -> dict:
        return {(n, 0): c * rigidity / math.factorial(n) for n, c in enumerate(k) if c}

    ladder = []  # L^m of B_y in the mid-plane, and of B_x
    for f in (polynomial(normal), polynomial(skew)):
        rungs = [f]
        for _ in range(5):
            first = derivative(rungs[-1])
            rungs.append(total(derivative(first), over_r(first)) if h else derivative(first))
        ladder.append(rungs)
    # the potential of B_x is F with F' = B_x: L F = B_x' + B_x/r, and L^m F from there
    f = ladder[1][0]
    rungs = [total(derivative(f), over_r(f)) if h else derivative(f)]
    for _ in range(5):
        first = derivative(rungs[-1])
        rungs.append(total(derivative(first), over_r(first)) if h else derivative(first))

    def field(x: Array, y: Array, s: Array) -> list[Any]:
        inverse_r = h / (1 + h * x)
        bx, by = value(f, x, inverse_r), 0 * x
        for m in range(5):
            sign, k = (-1) ** m, 2 * m
            by = by + sign * y**k / math.factorial(k) * value(ladder[0][m], x, inverse_r)
            slope = value(derivative(ladder[0][m]), x, inverse_r)
            bx = bx + sign * y ** (k + 1) / math.factorial(k + 1) * slope
            # psi = F - y^2/2 (L F) + ...
            by = by - sign * y ** (k + 1) / math.factorial(k + 1) * value(rungs[m], x, inverse_r)
            slope = value(derivative(rungs[m]), x, inverse_r)
            bx = bx - sign * y ** (k + 2) / math.factorial(k + 2) * slope
        return [bx, by, 0.0]

    return magnet(field)


def transverse(kick: Callable[[Array, Array], tuple[Array, Array]], rigidity: float) -> Fields:
    """B_y and -B_x that deflect by -kick per metre."""

    def field(x: Array, y: Array, s: Array) -> list[Any]:
        kx, ky = kick(x, y)
        return [-ky * rigidity, kx * rigidity, 0.0]

    return magnet(field)


def uniform(electric: float, magnetic: float) -> Fields:
    return lambda x, y, s, ct: ([0.0, 0.0, electric], [0.0, 0.0, magnetic])


def _profile(cosine: list[float], sine: list[float], length: float) -> tuple[Array, Array, Array]:
    """Wave numbers and coefficients of g(s) = c_0/2 + sum c_n cos(k_n u) + s_n sin(k_n u)."""
    n = max(len(cosine), len(sine))
    c, s = np.zeros(n), np.zeros(n)
    c[: len(cosine)], s[: len(sine)] = cosine, sine
    if n:
        c[0] /= 2
        s[0] = 0.0
    return 2 * np.pi * np.arange(n) / length, c, s


def _bessel(order: int, argument: Array) -> Array:
    """n! I_n(r)/(r/2)^n as a function of r^2: an entire function, also for waves that oscillate."""
    term = total = 1 + 0 * argument
    for m in range(1, 9):
        term = term * argument / (4 * m * (m + order))
        total = total + term
    return total


def soft_solenoid(strength: float, cosine: list[float], sine: list[float], length: float) -> Fields:
    """B_s = B sum_n c_n I_0(k_n r) cos(k_n u), B_r = B sum_n c_n I_1(k_n r) sin(k_n u)."""
    k, c, s = (a[:, None] for a in _profile(cosine, sine, length))

    def field(x: Array, y: Array, z: Array) -> list[Any]:
        phase = k * (z - length / 2)
        r2 = k * k * (x * x + y * y)
        along = np.sum((c * np.cos(phase) + s * np.sin(phase)) * _bessel(0, r2), axis=0)
        radial = np.sum((c * np.sin(phase) - s * np.cos(phase)) * k / 2 * _bessel(1, r2), axis=0)
        return [strength * radial * x, strength * radial * y, strength * along]

    return magnet(field)


def soft_quadrupole(
    gradient: float, cosine: list[float], sine: list[float], length: float
) -> Fields:
    """B = grad psi, psi = G x y sum_n c_n cos(k_n u) 8 I_2(k_n r)/(k_n r)^2."""
    k, c, s = (a[:, None] for a in _profile(cosine, sine, length))

    def field(x: Array, y: Array, z: Array) -> list[Any]:
        phase = k * (z - length / 2)
        r2 = k * k * (x * x + y * y)
        g = c * np.cos(phase) + s * np.sin(phase)
        slope = (s * np.cos(phase) - c * np.sin(phase)) * k
        f2, f3 = _bessel(2, r2), _bessel(3, r2)
        psi = np.sum(g * f2, axis=0)
        more = np.sum(g * f3 * k * k, axis=0) / 6  # 1/r d(f2)/dr
        along = np.sum(slope * f2, axis=0)
        return [
            gradient * (y * psi + x * x * y * more),
            gradient * (x * psi + x * y * y * more),
            gradient * x * y * along,
        ]

    return magnet(field)


def standing_wave(
    amplitude: float, frequency: float, phase: float, cosine: list[float], sine: list[float],
    length: float,
) -> Fields:  # fmt: skip
    """TM modes: E_s = E sum_n c_n I_0(q_n r) cos(k_n u) cos(w t + phase), q_n^2 = k_n^2 - (w/c)^2,
    with E_r from div E = 0 and B_phi from the displacement current."""
    k, c, s = (a[:, None] for a in _profile(cosine, sine, length))
    w = 2 * np.pi * frequency / C
    q2 = k * k - w * w

    def fields(x: Array, y: Array, z: Array, ct: Array) -> tuple[list, list]:
        u = k * (z - length / 2)
        r2 = q2 * (x * x + y * y)
        g = c * np.cos(u) + s * np.sin(u)
        slope = (s * np.cos(u) - c * np.sin(u)) * k
        cosine_t, sine_t = np.cos(w * ct + phase), np.sin(w * ct + phase)
        f1 = _bessel(1, r2) / 2
        along = amplitude * np.sum(g * _bessel(0, r2), axis=0) * cosine_t
        radial = -amplitude * np.sum(slope * f1, axis=0) * cosine_t  # over r
        around = -amplitude * np.sum(g * f1, axis=0) * w * sine_t / C  # over r
        return [radial * x, radial * y, along], [-around * y, around * x, 0.0]

    return fields


def undulator(peak: float, period: float, sharing: float) -> Fields:
    """B = grad psi, psi = B/ky cosh(kx x) sinh(ky y) cos(ku s), kx^2 + ky^2 = ku^2."""
    ku = 2 * np.pi / period
    kx, ky = ku * math.sqrt(sharing), ku * math.sqrt(1 - sharing)

    def field(x: Array, y: Array, s: Array) -> list[Any]:
        cx, sx, cy = np.cosh(kx * x), np.sinh(kx * x), np.cosh(ky * y)
        sy = np.sinh(ky * y) / ky if ky else y
        wave = peak * np.cos(ku * s)
        return [kx * sx * sy * wave, cx * cy * wave, -ku * peak * np.sin(ku * s) * cx * sy]

    return magnet(field)


ADAPTERS[Lorentz.name] = Lorentz
