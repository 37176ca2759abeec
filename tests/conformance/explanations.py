"""Why two codes differ: whose approximation it is, which coordinates it may touch, and laws that
only that approximation obeys. A difference counts as explained if the coordinates not named
agree and every law is measured to hold.
"""

from __future__ import annotations

from dataclasses import dataclass

from compare import Law


@dataclass(frozen=True)
class Explanation:
    whose: str
    text: str
    touches: tuple[str, ...]
    laws: tuple[Law, ...]


TRANSVERSE = ("x", "px", "y", "py")

EXPLANATIONS: dict[str, Explanation] = {
    "pyat-defocusing": Explanation(
        "PyAT",
        "For k1 < 0 the path length of QuadLinearPass has wrong terms in the squares of x, px, y, "
        "py: some particles come out on a path shorter than the straight line. For k1 > 0 it "
        "agrees, and for both signs so do PyAT's StrMPoleSymplectic4Pass, Xtrack and PTC.",
        ("t",),
        (Law("amplitude dx dy", 2, "t", "energy"),),
    ),
    "pyat-bend-linear": Explanation(
        "PyAT",
        "BendLinearPass has the product x px where the path length of the vertical plane has y py: "
        "its ct does not change with the sign of y py. PyAT's BndMPoleSymplectic4Pass, Xtrack "
        "(without k1) and PTC agree with Betatron.",
        ("t",),
        (Law("x px", 2, "t", "energy y py"), Law("y py", 2, "t", "energy x px")),
    ),
    "pyat-edge": Explanation(
        "PyAT",
        "The gap correction of a pole face is divided by 1 + delta, in Betatron (as in "
        "MAD-X and Xtrack) it is that of the reference momentum; both are beyond Brown's "
        "first order.",
        ("y", "py", "t"),
        (Law("energy", 1, "py"), Law("hgap", 1, "py"), Law("amplitude", 1, "py")),
    ),
    "pyat-straight-quadrupole": Explanation(
        "PyAT",
        "The quadrupole component of a bend is that of a straight magnet: the term k1 h (2 "
        "x^3 - 3 x y^2)/6 of the curved frame is left out. Xtrack and PTC have it.",
        (*TRANSVERSE, "t"),
        (Law("amplitude", 2, "px", "energy"), Law("angle", 1, "px", "energy")),
    ),
    "pyat-cavity": Explanation(
        "PyAT",
        "RFCavityPass adds the energy gain over the energy to delta, which is right for beta = 1.",
        ("pt",),
        (Law("beta_gamma voltage", -2, "pt"),),
    ),
    "curved-quadrupole": Explanation(
        "Betatron",
        "The paraxial model of a bend is quadratic in x, px, y, py; Xtrack adds the kick of "
        "k1 h (2 x^3 - 3 x y^2)/6 to it (Betatron: in the exact model).",
        (*TRANSVERSE, "t"),
        (Law("amplitude", 2, "px", "energy"), Law("angle", 1, "px", "energy")),
    ),
    "xtrack-curvature": Explanation(
        "Xtrack",
        "The field of a quadrupole component around a bent axis is taken to first order in the "
        "curvature; Betatron has it to fifth order. What is left out begins with k1 h^2 times the "
        "third power of x, y. The Lorentz force in the closed cylindrical field, integrated, "
        "agrees with Betatron.",
        (*TRANSVERSE, "t"),
        (Law("amplitude", 3, "py", "energy"), Law("angle", 2, "py", "energy")),
    ),
    "ptc-curvature": Explanation(
        "MAD-X/PTC",
        "The field of a quadrupole component around a bent axis is cut behind second order in the "
        "curvature, Betatron's behind the fifth. What is left out begins with k1 h^3 times the "
        "fourth power of x, y. The Lorentz force in the closed cylindrical field, integrated, "
        "agrees with Betatron.",
        (*TRANSVERSE, "t"),
        (
            Law("amplitude", 4, "py", "energy", amplified=20),
            Law("angle", 3, "py", "energy", amplified=20),
        ),
    ),
    "ptc-edge": Explanation(
        "Betatron",
        "PTC adds the cubic kick of a soft fringe, proportional to y^3/(gap FINT); "
        "Betatron's pole face is linear. Without a gap they agree.",
        (*TRANSVERSE, "t"),
        (Law("amplitude", 3, "py", "energy"), Law("hgap", -1, "py", "energy")),
    ),
    "one-kick": Explanation(
        "Betatron",
        "A kicker kicks once, in the middle of each slice; here the kick is spread over the "
        "length.",
        ("x", "y", "t"),
        (Law("slices", -2, "t"), Law("hkick vkick", 2, "t", "amplitude energy")),
    ),
    "straight-orbit": Explanation(
        "MAD-X",
        "TWISS has no path length of the kicked orbit in a kicker's map; Betatron's linear "
        "model expands around the orbit that is kicked.",
        ("t",),
        (Law("hkick vkick", 2, "t", "amplitude energy"),),
    ),
    "cheetah-corrector": Explanation(
        "Cheetah",
        "Kicks at the end of the corrector, Betatron in its middle.",
        ("x", "y", "t"),
        (
            Law("hkick vkick", 1, "x"),
            Law("length", 1, "x"),
            Law("hkick vkick", 2, "t", "amplitude energy"),
        ),
    ),
    "axis-expansion": Explanation(
        "Cheetah",
        "The linear map is that around the axis of the displaced magnet, Betatron's is that "
        "around the reference orbit: it holds the dispersion and the path length that the "
        "displacement causes.",
        (*TRANSVERSE, "t"),
        (
            Law("dx dy", 1, "x", "amplitude"),
            Law("energy", 1, "x", "amplitude"),
            Law("dx dy amplitude", 2, "t", "energy"),
        ),
    ),
    "second-order": Explanation(
        "Cheetah",
        "Cheetah's map is of second order; besides, its second-order terms with py^2 in x "
        "and px py in y are wrong. Xtrack, PTC and PyAT agree with Betatron.",
        (*TRANSVERSE, "t"),
        (Law("amplitude energy", 3, "px"), Law("py", 2, "x", "energy x px y")),
    ),
    "bmad-low-energy": Explanation(
        "Cheetah",
        "For small energy deviations the time of flight is a series up to delta^3, as in Bmad.",
        ("t",),
        (Law("energy", 4, "t", "amplitude dx dy", start=0.17),),
    ),
    "paraxial": Explanation(
        "Betatron",
        "The paraxial model is quadratic in x, px, y, py.",
        (*TRANSVERSE, "t"),
        (Law("amplitude", 3, "x", "energy"),),
    ),
    "rf-field-map": Explanation(
        "Betatron",
        "The field around the axis is cut behind the second power of the radius.",
        (*TRANSVERSE, "t", "pt"),
        (
            Law("amplitude", 3, "px", "energy t", start=0.25),
            Law("amplitude", 4, "pt", "energy t"),
        ),
    ),
    "soft-edge": Explanation(
        "Betatron",
        "The field is of first order in the distance from the axis; Maxwell's equations add "
        "the third order where it varies along the axis.",
        (*TRANSVERSE, "t"),
        (Law("amplitude", 3, "px", "energy"),),
    ),
    "period-average": Explanation(
        "Betatron",
        "The motion is averaged over a period of the field: at a given focusing the better, the "
        "shorter the period.",
        (*TRANSVERSE, "t"),
        (
            Law("period strength", 2, "px"),
            Law("period strength", 2, "py"),
            Law("period strength", 4, "t", "amplitude energy"),
        ),
    ),
    "period-average-and-poles": Explanation(
        "Betatron",
        "The motion is averaged over a period of the field: at a given focusing the better, the "
        "shorter the period. The field is cut behind the second power of kx x, ky y.",
        (*TRANSVERSE, "t"),
        (
            Law("period strength", 4, "t", "amplitude"),
            Law("amplitude", 3, "py", "energy", start=2),
        ),
    ),
    "buncher": Explanation(
        "Xtrack",
        "A cavity is sin(w t) where the buncher is its slope, w t, and it has no radial field, "
        "which the wave equation ties to the slope (tests/python/test_conformance.py compares the "
        "buncher with the Lorentz force in a short gap).",
        ("px", "py", "pt"),
        (
            Law("t", 3, "pt", start=0.2),
            Law("amplitude", 1, "px"),
            Law("beta_gamma", -3, "px"),
        ),
    ),
    "buncher-radial": Explanation(
        "Xtrack",
        "A cavity has no radial field, which the wave equation ties to the slope of the voltage.",
        ("px", "py"),
        (Law("amplitude", 1, "px"), Law("beta_gamma", -3, "px")),
    ),
    "fringe-map": Explanation(
        "both",
        "The map of a hard edge is known to third order, and continued to a symplectic one: in "
        "Betatron by the midpoint rule, in the other code by a generating function of mixed "
        "variables. They differ from fifth order on.",
        (*TRANSVERSE, "t"),
        (Law("amplitude", 5, "px", "energy", amplified=2.5),),
    ),
    "dipole-fringe": Explanation(
        "both",
        "Betatron's pole face is the flow of a Hamiltonian of third order (Hwang and Lee), "
        "Xtrack's a rotation, a hard edge and a wedge (Forest): the maps agree to second order.",
        (*TRANSVERSE, "t"),
        (Law("amplitude", 3, "px", "energy"), Law("amplitude", 3, "py", "energy")),
    ),
    "dipole-fringe-gap": Explanation(
        "Betatron",
        "The gap correction of the focusing is of first order in the gap; Xtrack has it in the "
        "argument of the tangent, as Brown, and a term of the extent of the fringe.",
        (*TRANSVERSE, "t"),
        (
            Law("hgap", 2, "py", "energy", start=0.2, amplified=1e-3),
            Law("amplitude", 1, "py", "energy", amplified=1e-3),
        ),
    ),
}
