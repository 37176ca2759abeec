"""Wrong input to beams: every message names the value, what is allowed, and where."""

import betatron as bt
import numpy as np
import pytest

COORDINATES = ("x", "px", "y", "py", "t", "pt")
REFERENCE = bt.Reference("electron", kinetic_energy=100e6)
TWISS = {
    "beta_x": 2, "emittance_x": 1e-8, "beta_y": 3, "emittance_y": 1e-8, "beta_t": 1,
    "emittance_t": 1e-6,
}  # fmt: skip
ELLIPSE = {
    "lambda_x": 1, "lambda_y": 1, "lambda_t": 1, "lambda_px": 1, "lambda_py": 1, "lambda_pt": 1
}  # fmt: skip
SHAPE = bt.Gaussian.from_twiss(**TWISS)


def arrays(n=3, **changes):
    return {**{name: np.zeros(n) for name in COORDINATES}, **changes}


# --- reference particle and species ---------------------------------------------------------------


@pytest.mark.parametrize("name", ["kinetic_energy", "momentum", "beta_gamma"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_energy_out_of_range(name, value):
    words = {"beta_gamma": "beta"}.get(name, name.split("_")[0])
    with pytest.raises(
        ValueError, match=rf"reference: .*{words}.* = {value:g}.* must be finite and > 0"
    ):
        bt.Reference("electron", **{name: value})


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            {"total_energy": 0.5e6},
            r"total energy = 5e\+05 eV.*510998.95.* must be finite and > 510998.95",
        ),
        ({"gamma": 1.0}, "gamma = 1 .* must be finite and > 1"),
        ({"kinetic_energy": 1e6, "s": np.nan}, "Reference: s = nan must be finite"),
        (
            {"kinetic_energy": 1e6, "position": (0, 1)},
            r"position has 2 numbers, must be of shape \(3,\)",
        ),
        ({"kinetic_energy": 1e6, "frame": np.zeros((3, 3))}, "(?s)frame = .* must be a rotation"),
        (
            {"kinetic_energy": 1e6, "frame": np.diag([1, 1, -1])},
            "(?s)frame = .* must be a rotation",
        ),
    ],
)
def test_reference_values(arguments, message):
    with pytest.raises(ValueError, match=message):
        bt.Reference("electron", **arguments)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({}, "exactly one of kinetic_energy, total_energy, .* none was given"),
        ({"gamma": 2, "momentum": 1e6}, "exactly one of .* given: momentum, gamma"),
        ({"kinetic_energy": "100"}, "Reference: kinetic_energy must be a number, got str '100'"),
        ({"kinetic_energy": True}, "Reference: kinetic_energy must be a number, got bool True"),
        ({"kinetic_energy": [1e6]}, "Reference: kinetic_energy must be a number, got list"),
        ({"kinetic_enrgy": 1e6}, "kinetic_enrgy"),
        ({"gamma": 2, "position": "abc"}, "position must be numbers, got str 'abc'"),
    ],
)
def test_reference_types(arguments, message):
    with pytest.raises(TypeError, match=message):
        bt.Reference("electron", **arguments)


def test_species():
    with pytest.raises(ValueError, match=r"'elektron'.*electron.*proton"):
        bt.Reference("elektron", gamma=2)
    with pytest.raises(ValueError, match=r"'elektron'.*electron.*proton"):
        bt.Species("elektron")
    with pytest.raises(
        TypeError, match="Reference: species must be the name of a species or a Species, got int 3"
    ):
        bt.Reference(3, gamma=2)
    with pytest.raises(TypeError, match="Species 'ion': give both mass"):
        bt.Species("ion", mass=1e9)
    with pytest.raises(TypeError, match="Species: mass must be a number, got str"):
        bt.Species("ion", mass="1e9", charge=1)
    for arguments, message in (
        ({"mass": 0, "charge": 1}, "species 'ion': mass = 0 eV must be finite and > 0"),
        ({"mass": 1e9, "charge": 0}, "species 'ion': charge = 0 e must be finite and not 0"),
        (
            {"mass": 1e9, "charge": 1, "anomaly": np.inf},
            "species 'ion': anomaly = inf must be finite",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            bt.Species("ion", **arguments)
    with pytest.raises(ValueError, match="name is empty"):
        bt.Species("", mass=1e9, charge=1)


# --- distributions --------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [bt.Gaussian, bt.Waterbag])
@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"beta_x": 0}, "from_twiss: beta_x = 0 must be finite and > 0"),
        ({"beta_t": float("nan")}, "from_twiss: beta_t = nan must be finite and > 0"),
        ({"alpha_y": float("inf")}, "from_twiss: alpha_y = inf must be finite"),
        ({"emittance_y": -1e-9}, "from_twiss: emittance_y = -1e-09 must be finite and >= 0"),
        ({"dispersion_px": float("nan")}, "from_twiss: dispersion_px = nan must be finite"),
        ({"mean": [0, 0, 0, float("nan"), 0, 0]}, "from_twiss: mean of py = nan must be finite"),
        ({"mean": [0, 0, 0]}, r"from_twiss: mean has shape \(3,\), must be \(6,\)"),
    ],
)
def test_twiss_values(shape, arguments, message):
    with pytest.raises(ValueError, match=shape.__name__ + r"\." + message):
        shape.from_twiss(**{**TWISS, **arguments})


@pytest.mark.parametrize(
    "make, arguments, message",
    [
        (
            "from_twiss",
            {**TWISS, "beta_x": "2"},
            "KV.from_twiss: beta_x must be a number, got str '2'",
        ),
        ("from_twiss", {**TWISS, "mean": "abc"}, "KV.from_twiss: mean must be numbers of shape"),
        ("from_twiss", {**TWISS, "betax": 1}, "unexpected keyword argument 'betax'"),
        ("from_twiss", {**TWISS, "cut_x": 3}, "unexpected keyword argument 'cut_x'"),
        ("from_twiss", {"beta_x": 1}, "missing .* keyword-only argument"),
        (
            "from_ellipse",
            {**ELLIPSE, "lambda_pt": None},
            "KV.from_ellipse: lambda_pt must be a number",
        ),
        (
            "from_covariance",
            {"matrix": [["a"] * 6] * 6},
            "KV.from_covariance: matrix must be numbers",
        ),
    ],
)
def test_distribution_types(make, arguments, message):
    with pytest.raises(TypeError, match=message):
        getattr(bt.KV, make)(**arguments)
    with pytest.raises(TypeError, match=r"use KV.from_twiss\(...\)"):
        bt.KV(1, beta_x=2)


def test_ellipse_covariance_and_cut_values():
    with pytest.raises(ValueError, match=r"KV.from_ellipse: lambda_x = -1 must be finite and >= 0"):
        bt.KV.from_ellipse(**{**ELLIPSE, "lambda_x": -1})
    with pytest.raises(ValueError, match=r"KV.from_ellipse: mu_ypy = 1 must be .*between -1 and 1"):
        bt.KV.from_ellipse(**ELLIPSE, mu_ypy=1)
    with pytest.raises(
        ValueError, match=r"KV.from_covariance: matrix has shape \(4, 4\), must be \(6, 6\)"
    ):
        bt.KV.from_covariance(np.eye(4))
    matrix = np.eye(6)
    matrix[0, 1] = 0.5
    with pytest.raises(ValueError, match=r"covariance\(x, px\) = 0.5 must be equal to"):
        bt.KV.from_covariance(matrix)
    matrix[1, 0], matrix[0, 1] = 2, 2
    with pytest.raises(ValueError, match="not positive semidefinite"):
        bt.KV.from_covariance(matrix)
    for cut in (0, -1, float("nan")):
        with pytest.raises(ValueError, match=r"Gaussian.from_twiss: cut_y = .* must be > 0"):
            bt.Gaussian.from_twiss(**TWISS, cut_y=cut)
    with pytest.raises(TypeError, match=r"Gaussian.from_twiss: cut_x must be a number, got str"):
        bt.Gaussian.from_twiss(**TWISS, cut_x="3")


# --- beams ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            {"reference": "electron"},
            "Beam: reference must be a betatron.Reference, got str 'electron'",
        ),
        (
            {"distribution": "gaussian"},
            "Beam: distribution must be a distribution .* got str 'gaussian'",
        ),
        ({"distribution": bt.Gaussian}, "Beam: distribution must be a distribution"),
        ({"n": 1e5}, "Beam: n must be a whole number, got float 100000.0"),
        ({"n": "10"}, "Beam: n must be a whole number, got str '10'"),
        ({"n": True}, "Beam: n must be a whole number, got bool True"),
        ({"seed": 0.5}, "Beam: seed must be a whole number"),
        ({"charge": "1 nC"}, "Beam: charge must be a number, got str '1 nC'"),
        ({"precision": np.float32}, "Beam: precision must be 'single' or 'double'"),
        ({"particles": 10}, "particles"),
    ],
)
def test_beam_types(arguments, message):
    with pytest.raises(TypeError, match=message):
        bt.Beam(**{"reference": REFERENCE, "distribution": SHAPE, "n": 10, **arguments})


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"n": -1}, "Beam: n = -1 must be between 0 and"),
        ({"seed": -1}, "Beam: seed = -1 must be between 0 and"),
        ({"seed": 2**64}, "Beam: seed = 18446744073709551616 must be between 0 and"),
        ({"charge": -1e-12}, "charge = -1e-12 C must be finite and >= 0"),
        ({"charge": float("nan")}, "charge = nan C must be finite and >= 0"),
        ({"n": 0, "charge": 1e-12}, "charge = 1e-12 C cannot be carried by 0 particles"),
        ({"precision": "half"}, "Beam: precision = 'half' must be 'single' or 'double'"),
    ],
)
def test_beam_values(arguments, message):
    with pytest.raises(ValueError, match=message):
        bt.Beam(**{"reference": REFERENCE, "distribution": SHAPE, "n": 10, **arguments})


@pytest.mark.parametrize("copy", [True, False])
@pytest.mark.parametrize(
    "changes, message",
    [
        ({"px": np.zeros(2)}, "array px has 2 entries, x has 3"),
        ({"weight": np.ones(4)}, "array weight has 4 entries, x has 3"),
        ({"id": np.zeros(1, np.uint64)}, "array id has 1 entries, x has 3"),
        ({"y": np.zeros((3, 1))}, "y has .*dimension"),
        ({"x": np.array([0, np.nan, 0])}, r"x\[1\] = nan must be finite"),
        ({"pt": np.array([0, 0, -np.inf])}, r"pt\[2\] = -inf must be finite"),
        ({"weight": np.array([1.0, -2.0, 1.0])}, r"weight\[1\] = -2 must be finite and >= 0"),
    ],
)
def test_array_values(changes, message, copy):
    with pytest.raises(ValueError, match=message):
        bt.Beam.from_arrays(REFERENCE, **arrays(**changes), copy=copy)


@pytest.mark.parametrize("copy", [True, False])
@pytest.mark.parametrize(
    "x",
    ["abc", 3.0j, np.zeros(3, complex), np.zeros(3, bool), np.array(["a", "b", "c"]), [None] * 3,
     [[1], [1, 2]], np.zeros(3, np.float16), object()],
)  # fmt: skip
def test_array_types(x, copy):
    with pytest.raises(TypeError, match=r"Beam.from_arrays: x (is|has type|cannot be used)"):
        bt.Beam.from_arrays(REFERENCE, **arrays(x=x), copy=copy)


@pytest.mark.parametrize("copy", [True, False])
def test_array_keywords(copy):
    with pytest.raises(TypeError, match="'z'"):
        bt.Beam.from_arrays(REFERENCE, **arrays(), z=np.zeros(3), copy=copy)
    with pytest.raises(TypeError, match="'pt'"):
        bt.Beam.from_arrays(
            REFERENCE, **{k: v for k, v in arrays().items() if k != "pt"}, copy=copy
        )
    with pytest.raises(
        TypeError, match=r"Beam.from_arrays: reference must be a betatron.Reference"
    ):
        bt.Beam.from_arrays("electron", **arrays(), copy=copy)


def test_ids():
    with pytest.raises(ValueError, match="id = -1 must be >= 0"):
        bt.Beam.from_arrays(REFERENCE, **arrays(), id=[0, -1, 2])
    with pytest.raises(TypeError, match="id has type float64, must be whole numbers"):
        bt.Beam.from_arrays(REFERENCE, **arrays(), id=[0.5, 1, 2])


def read_only(array):
    array.setflags(write=False)
    return array


@pytest.mark.parametrize(
    "changes, error, message",
    [
        (
            {"x": [0.0, 0.0, 0.0]},
            TypeError,
            "x cannot be used as an array: list offers neither DLPack",
        ),
        ({"x": np.zeros(3, int)}, TypeError, "x is int64, must be float64 or float32"),
        ({"py": np.zeros(3, np.float32)}, TypeError, "py is float32, must be float64 like x"),
        (
            {"weight": np.ones(3, np.float32)},
            TypeError,
            "weight is float32, must be float64 like x",
        ),
        ({"id": np.zeros(3, np.int32)}, TypeError, "id is int32, must be uint64"),
        ({"y": np.zeros(6)[::2]}, ValueError, "y is not contiguous .*a step of 2 .*pass copy=True"),
        ({"y": np.zeros(3)[::-1]}, ValueError, "y is not contiguous"),
        ({"t": read_only(np.zeros(3))}, ValueError, "t is read-only.*pass copy=True"),
        ({"id": read_only(np.zeros(3, np.uint64))}, ValueError, "id is read-only"),
        ({"weight": np.ones(3), "charge": 1e-12}, ValueError, "weight or charge, not both"),
    ],
)
def test_why_not_without_copy(changes, error, message):
    with pytest.raises(error, match="Beam.from_arrays: .*" + message):
        bt.Beam.from_arrays(REFERENCE, **arrays(**changes), copy=False)


def test_shared_memory_without_copy():
    shared = np.zeros(5)
    with pytest.raises(ValueError, match="px and t share memory"):
        bt.Beam.from_arrays(REFERENCE, **arrays(px=shared[:3], t=shared[2:]), copy=False)
    with pytest.raises(ValueError, match="y and py share memory"):
        bt.Beam.from_arrays(REFERENCE, **arrays(y=shared[:3], py=shared[:3]), copy=False)
    assert len(bt.Beam.from_arrays(REFERENCE, **arrays(px=shared[:3], t=shared[2:]))) == 3


def test_names_and_shapes_of_columns():
    beam = bt.Beam(REFERENCE, SHAPE, n=4)
    with pytest.raises(KeyError, match="no column 'z'; it has x, px, y, py, t, pt, weight, id"):
        _ = beam["z"]
    with pytest.raises(ValueError, match="could not broadcast"):
        beam.x = np.zeros(3)
    with pytest.raises(AttributeError):
        beam.z = np.zeros(4)
    with pytest.raises(ValueError, match="precision = 'quad'"):
        beam.copy("quad")
    with pytest.raises(ValueError, match="charge = -1 C must be"):
        beam.set_charge(-1)
    with pytest.raises(TypeError):
        beam.reference = "electron"
    with pytest.raises(ValueError, match=r"x\[0\] = .*must be finite"):
        beam.x[0] = 1e300
        beam.copy("single")


def test_pictures():
    beam = bt.Beam(REFERENCE, SHAPE, n=4)
    with pytest.raises(ValueError, match="plane 'x-z' must be two of x, px, y, py, t, pt"):
        beam.plot.phase_space(["x-z"])
    with pytest.raises(TypeError, match='planes are given as "x-px", got 3'):
        beam.plot.phase_space([3])
    with pytest.raises(ValueError, match="no planes"):
        beam.plot.phase_space([])
    with pytest.raises(ValueError, match="bins = 0 must be >= 1"):
        beam.plot.phase_space(bins=0)
    with pytest.raises(ValueError, match="the beam has no particles to draw"):
        bt.Beam(REFERENCE).plot.phase_space()
