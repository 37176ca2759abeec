"""Networks: evaluation and derivatives against their definition and against PyTorch, files,
readers, generated code, and the element."""

from __future__ import annotations

import copy
import ctypes
import itertools
import json
import pickle
import shutil
import subprocess
from pathlib import Path
from typing import Any

import betatron as bt
import numpy as np
import pytest
from betatron.fixed_time import to_fixed_place, to_fixed_time
from betatron.surrogate import Layer, Network, Surrogate
from betatron.surrogate.network import ACTIVATIONS
from betatron.surrogate.tensors import read_tensors, write_tensors

SMOOTH = ("tanh", "silu", "gelu", "gelu_tanh", "sigmoid")


def random_network(
    units=(24, 24), activation="tanh", seed=1, inputs=6, outputs=6, **how
) -> Network:
    r = np.random.default_rng(seed)
    widths = [inputs, *units, outputs]
    layers = []
    for k, (a, b) in enumerate(itertools.pairwise(widths)):
        last = k == len(units)
        slope = {"leaky_relu": [0.1], "prelu": r.normal(size=b)}.get(activation)
        layers.append(
            Layer(
                r.normal(size=(b, a)) / np.sqrt(a),
                0.1 * r.normal(size=b),
                activation="identity" if last else activation,
                slope=None if last else slope,
                name=f"layer {k}",
            )
        )
    return Network(layers, **how)


def differences(net: Network, x: np.ndarray, bar: np.ndarray, h: float = 1e-6) -> np.ndarray:
    """The vector-Jacobian product by central differences."""
    rows = []
    for j in range(net.inputs):
        up, down = x.copy(), x.copy()
        up[j] += h
        down[j] -= h
        slope = (net(up, format="float64") - net(down, format="float64")) / (2 * h)
        rows.append((slope * bar).sum(axis=0))
    return np.array(rows)


# --- evaluation -----------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", SMOOTH)
def test_vjp_is_the_derivative(activation: str) -> None:
    net = random_network(activation=activation, input_scale=0.5, output_scale=3.0)
    r = np.random.default_rng(2)
    x, bar = r.normal(size=(2, 6, 50))
    exact = net.vjp(x, bar, format="float64")
    assert exact == pytest.approx(differences(net, x, bar), rel=1e-6, abs=1e-7)
    assert net.vjp(x, bar) == pytest.approx(exact, rel=1e-4, abs=1e-5)


def test_formats_differ_by_their_rounding() -> None:
    net = random_network((64, 64))
    x = np.random.default_rng(3).normal(size=(6, 1000))
    exact = net(x, format="float64")
    single = np.abs(net(x, format="float32") - exact).max() / np.abs(exact).max()
    rounded = np.abs(net(x, format="bfloat16") - exact).max() / np.abs(exact).max()
    assert 1e-9 < single < 1e-6
    assert 1e-5 < rounded < 0.03
    assert net.format == "float32"
    net.format = "float64"
    assert (net(x) == exact).all()


def test_columns_are_used_where_they_lie() -> None:
    net = random_network()
    x = np.random.default_rng(4).normal(size=(6, 100))
    expected = net(x)
    out = np.empty((6, 100))
    assert net(x, out=out) is out and (out == expected).all()
    assert (net(list(x)) == expected).all()
    assert (net(np.asfortranarray(x)) == expected).all()
    y = x.copy()
    net(y, out=y)
    assert (y == expected).all()
    single = net(x.astype(np.float32))
    assert single.dtype == np.float32
    assert single == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert net(np.empty((6, 0))).shape == (6, 0)


def test_wrong_arrays_are_refused() -> None:
    net = random_network()
    with pytest.raises(ValueError, match=r"x: shape \(5, 10\) must be \(6, n\)"):
        net(np.zeros((5, 10)))
    with pytest.raises(TypeError, match="complex128 must be float32 or float64"):
        net(np.zeros((6, 10), complex))
    with pytest.raises(ValueError, match="out: each row must be a writable array of 10"):
        net(np.zeros((6, 10)), out=np.zeros((6, 9)))
    with pytest.raises(ValueError, match="out: 5 rows, expected 6"):
        net(np.zeros((6, 10)), out=np.zeros((5, 10)))
    with pytest.raises(ValueError, match="threads = 0 is not allowed; allowed: >= 1"):
        net(np.zeros((6, 10)), threads=0)
    for format in ("float16", 7):
        with pytest.raises(ValueError, match=f"format {format!r} is not one of float32"):
            net(np.zeros((6, 10)), format=format)
    with pytest.raises(TypeError, match="out must be an array or columns, got int"):
        net(np.zeros((6, 10)), out=5)
    with pytest.raises(ValueError, match="cotangent: 9 particles, expected 10 as in x"):
        net.vjp(np.zeros((6, 10)), np.zeros((6, 9)))
    assert net(np.zeros((6, 2)), threads=10**12).shape == (6, 2)


def test_broken_networks_are_refused_by_layer() -> None:
    with pytest.raises(ValueError, match="has no layers"):
        Network([])
    with pytest.raises(ValueError, match=r"layer 1 'first': weights\[1\] = nan must be finite"):
        Network([Layer([[1.0, np.nan]], name="first")])
    with pytest.raises(ValueError, match="layer 2 'b' has 3 inputs, but layer 1 'a'"):
        Network([Layer(np.ones((2, 6)), name="a"), Layer(np.ones((2, 3)), name="b")])
    with pytest.raises(ValueError, match="layer 'a': activation 'softplus' is not one of identity"):
        Network([Layer(np.ones((2, 6)), activation="softplus", name="a")])
    with pytest.raises(ValueError, match="layer 'a': weights have the shape"):
        Network([Layer(np.ones(6), name="a")])
    with pytest.raises(TypeError, match="weights must be numbers, got str"):
        Network([Layer("weights", name="a")])
    with pytest.raises(TypeError, match="expected Layer, got dict"):
        Network([{"weights": 1}])
    with pytest.raises(TypeError, match="weights must be real numbers, got complex ones"):
        Network([Layer(np.ones((2, 6)) + 1j)])
    with pytest.raises(ValueError, match=r"skip = .* must be between 0 and 2147483647"):
        Network([Layer(np.ones((6, 6)), skip=2**40)])
    with pytest.raises(ValueError, match=r"input_scale: shape \(6, 1\) must be \(6,\)"):
        Network([Layer(np.ones((2, 6)))], input_scale=np.ones((6, 1)))
    with pytest.raises(TypeError, match="name must be a text, got int 5"):
        Network([Layer(np.ones((2, 6)))], name=5)


def test_weights_beyond_single_precision_need_double() -> None:
    net = Network([Layer([[1.0, 2e300]], name="a")], output_scale=1e-300)
    assert net(np.ones((2, 1)), format="float64") == pytest.approx(2.0)
    for format in ("float32", "bfloat16"):
        with pytest.raises(ValueError, match=r"layer 1 'a': weights\[1\] = 2e\+300 is beyond"):
            net(np.ones((2, 1)), format=format)
    with pytest.raises(ValueError, match=r"weights\[1\] = 2e\+300 is beyond"):
        net.to_header("never.h")
    assert not Path("never.h").exists()


# --- files ----------------------------------------------------------------------------------------


def test_save_and_load(tmp_path: Path) -> None:
    layers = random_network(activation="prelu", seed=5).layers
    layers[1] = Layer(**{**layers[1].__dict__, "skip": 1, "skip_inside": True})
    net = Network(
        layers,
        name="stage",
        input_offset=np.arange(6.0),
        output_scale=2.0,
        format="bfloat16",
        metadata={"provenance": {"seed": 5}, "error": [0.1]},
        extras={"domain.low": np.arange(6.0), "domain.covariance": np.eye(6)},
    )
    file = tmp_path / "stage.safetensors"
    net.save(file)
    read = Network.load(file)
    assert (read.name, read.format, read.metadata) == ("stage", "bfloat16", net.metadata)
    assert (read.extras["domain.covariance"] == np.eye(6)).all()
    x = np.random.default_rng(6).normal(size=(6, 20))
    assert (read(x, format="float64") == net(x, format="float64")).all()
    with pytest.raises(FileExistsError):
        net.save(file)
    net.metadata["error"] = np.nan
    with pytest.raises(ValueError, match="metadata must be what JSON can hold"):
        net.save(tmp_path / "other.safetensors")
    assert not (tmp_path / "other.safetensors").exists()


def test_broken_files_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "net.safetensors"
    random_network().save(file)
    whole = file.read_bytes()
    for broken, words in (
        (b"abc", "3 bytes are too few"),
        (b"\xff" * 100, "not a safetensors file"),
        (whole[:-4], "does not fit to bytes"),
        (whole + b"1234", "4 bytes behind the last tensor"),
        (whole.replace(b"layers.2.weight", b"layers.9.weight"), "'layers.2.weight' is missing"),
        (whole.replace(b'\\"tanh\\"', b'\\"tinh\\"'), "activation 'tinh' is not one of"),
    ):
        other = tmp_path / "broken.safetensors"
        other.write_bytes(broken)
        with pytest.raises(ValueError, match="broken.safetensors: .*" + words):
            Network.load(other)
    good = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    kind = {"file": "betatron network", "version": 1}
    for header, words in (
        ([1], "it is a list"),
        ({"a": {}}, "tensor 'a' has no dtype"),
        ({"a": {**good, "shape": [-1, -1]}}, "tensor 'a': shape = "),
        ({"a": {**good, "data_offsets": ["0", 4]}}, "tensor 'a': data_offsets = "),
        ({"a": {**good, "dtype": ["F32"]}}, "tensor 'a': dtype = "),
        ({"a": good, "__metadata__": {"betatron": 5}}, "must hold texts"),
        ({"a": good, "__metadata__": {"betatron": "[1]"}}, "its description is a list"),
        ({"a": {**good, "shape": [0], "data_offsets": [4, 4]}}, "begins at byte 4, expected 0"),
        (
            {"a": good, "__metadata__": {"betatron": json.dumps({**kind, "layers": 3})}},
            "its layers are no list",
        ),
    ):
        text = json.dumps(header).encode()
        other.write_bytes(len(text).to_bytes(8, "little") + text + b"1234")
        with pytest.raises(ValueError, match="broken.safetensors: .*" + words):
            Network.load(other)
    write_tensors(tmp_path / "arrays.safetensors", {"a": np.ones(3)}, {})
    with pytest.raises(ValueError, match="holds arrays, but no network"):
        Network.load(tmp_path / "arrays.safetensors")


def test_files_are_those_of_the_safetensors_package(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.numpy")
    arrays = {"a": np.arange(6.0).reshape(2, 3), "b": np.float32([1, 2])}
    write_tensors(tmp_path / "ours", arrays, {"note": "text"})
    theirs = safetensors.load_file(tmp_path / "ours")
    assert all((theirs[k] == v).all() and theirs[k].dtype == v.dtype for k, v in arrays.items())
    safetensors.save_file(arrays, tmp_path / "theirs", metadata={"note": "text"})
    ours, metadata = read_tensors(tmp_path / "theirs")
    assert metadata == {"note": "text"}
    assert all((ours[k] == v).all() for k, v in arrays.items())


# --- PyTorch --------------------------------------------------------------------------------------


def torch_modules(torch) -> dict:
    nn = torch.nn
    torch.manual_seed(1)

    def net(*middle):
        layers = [nn.Linear(6, 20)]
        for activation in middle:
            layers += [activation, nn.Linear(20, 20)]
        return nn.Sequential(*layers[:-1], nn.Linear(20, 6)).double()

    return {
        "relu": net(nn.ReLU(), nn.ReLU()),
        "tanh": nn.Sequential(
            nn.Linear(6, 20), nn.Tanh(), nn.Dropout(0.3), nn.Linear(20, 6)
        ).double(),
        "prelu": net(nn.PReLU(), nn.PReLU(20)),
        "leaky": net(nn.LeakyReLU(0.2)),
        "sigmoid": net(nn.Sigmoid(), nn.SiLU()),
        "gelu": net(nn.GELU(), nn.GELU(approximate="tanh")),
        "nested": nn.Sequential(
            net(nn.ReLU()), nn.Identity(), nn.ReLU(), nn.Linear(6, 6, bias=False)
        ).double(),
    }


@pytest.mark.parametrize("which", ["relu", "tanh", "prelu", "leaky", "sigmoid", "gelu", "nested"])
def test_from_torch(which: str) -> None:
    torch = pytest.importorskip("torch")
    module = torch_modules(torch)[which].eval()
    net = Network.from_torch(module, format="float64")
    r = np.random.default_rng(7)
    x, bar = r.normal(size=(2, 6, 64))
    t = torch.tensor(x.T, requires_grad=True)
    y = module(t)
    (gradient,) = torch.autograd.grad(y, t, torch.tensor(bar.T.copy()))
    assert net(x) == pytest.approx(y.detach().numpy().T, rel=1e-12, abs=1e-13)
    assert net.vjp(x, bar) == pytest.approx(gradient.numpy().T, rel=1e-10, abs=1e-12)
    for format, tolerance in (("float32", 2e-6), ("bfloat16", 0.05)):
        size = np.abs(y.detach().numpy()).max()
        assert np.abs(net(x, format=format) - y.detach().numpy().T).max() < tolerance * size


def test_from_state_dict(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    module = torch_modules(torch)["prelu"]
    x = np.random.default_rng(8).normal(size=(6, 10))
    expected = Network.from_torch(module)(x)
    state = module.state_dict()
    how = {"activations": ["prelu", "prelu", "identity"]}
    assert (Network.from_torch(state, **how)(x) == expected).all()
    file = tmp_path / "weights.safetensors"
    write_tensors(file, {k: v.numpy() for k, v in state.items()}, {})
    assert (Network.from_safetensors(file, **how)(x) == expected).all()
    skipping = Network.from_torch(state, skips={2: 1, 3: 0}, **how)
    assert [layer.skip for layer in skipping.layers] == [None, 1, 0]
    with pytest.raises(ValueError, match="does not say what its activation functions are"):
        Network.from_torch(state)
    with pytest.raises(ValueError, match="2 activations for 3 layers"):
        Network.from_torch(state, activations=["relu", "relu"])


def test_unsupported_modules_are_named() -> None:
    torch = pytest.importorskip("torch")
    nn = torch.nn
    with pytest.raises(
        ValueError, match=r"module '1' \(Conv1d\) is not supported; supported: Linear"
    ):
        Network.from_torch(nn.Sequential(nn.Linear(6, 6), nn.Conv1d(1, 1, 1)))
    with pytest.raises(ValueError, match=r"module '0' \(ReLU\): an activation function must stand"):
        Network.from_torch(nn.Sequential(nn.ReLU(), nn.Linear(6, 6)))
    with pytest.raises(ValueError, match=r"tensor 'norm\.running_mean' of shape"):
        Network.from_torch(
            {"a.weight": np.ones((2, 2)), "norm.running_mean": np.ones(2)}, activations="relu"
        )
    broken = nn.Sequential(nn.Linear(6, 6))
    broken[0].weight.data[2, 3] = float("nan")
    with pytest.raises(ValueError, match=r"layer 1 '0': weights\[15\] = nan must be finite"):
        Network.from_torch(broken)


# --- ONNX -----------------------------------------------------------------------------------------


def onnx_model(nodes, constants, width=6):
    onnx = pytest.importorskip("onnx")
    h = onnx.helper
    return h.make_model(
        h.make_graph(
            [
                h.make_node(op, inputs, [output], name=f"{op}_{i}", **attributes)
                for i, (op, inputs, output, attributes) in enumerate(nodes)
            ],
            "graph",
            [h.make_tensor_value_info("x", onnx.TensorProto.DOUBLE, ["n", width])],
            [h.make_tensor_value_info("y", onnx.TensorProto.DOUBLE, ["n", None])],
            [onnx.numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
        )
    )


def reference_of(model, x: np.ndarray) -> np.ndarray:
    onnx = pytest.importorskip("onnx")
    from onnx.reference import ReferenceEvaluator

    assert onnx
    return ReferenceEvaluator(model).run(None, {"x": x.T.copy()})[0].T


R = np.random.default_rng(9)
CONSTANTS = {
    "mean": R.normal(size=6),
    "std": R.uniform(1, 2, size=6),
    "w1": R.normal(size=(6, 8)),
    "b1": R.normal(size=8),
    "w2": R.normal(size=(8, 8)),
    "b2": R.normal(size=8),
    "w3": R.normal(size=(6, 8)),
    "b3": R.normal(size=6),
    "slope": R.normal(size=(1, 8)),
    "half": np.float64(0.5),
    "one": np.float64(1.0),
    "root": np.float64(np.sqrt(2)),
    "cubic": np.float64(0.044715),
    "three": np.float64(3.0),
    "scale": np.float64(np.sqrt(2 / np.pi)),
}
FIRST = [
    ("Sub", ["x", "mean"], "c", {}),
    ("Div", ["c", "std"], "n", {}),
    ("MatMul", ["n", "w1"], "m1", {}),
    ("Add", ["b1", "m1"], "z1", {}),
]
LAST = [
    ("Gemm", ["a2", "w3", "b3"], "g", {"transB": 1}),
    ("Mul", ["g", "std"], "s", {}),
    ("Add", ["s", "mean"], "y", {}),
]
MIDDLE = {
    "relu": [("Relu", ["z1"], "a1", {})],
    "prelu": [("PRelu", ["z1", "slope"], "a1", {})],
    "leaky": [("LeakyRelu", ["z1"], "a1", {"alpha": 0.25})],
    "silu": [("Sigmoid", ["z1"], "q", {}), ("Mul", ["z1", "q"], "a1", {})],
    "gelu": [
        ("Div", ["z1", "root"], "q", {}),
        ("Erf", ["q"], "e", {}),
        ("Add", ["e", "one"], "f", {}),
        ("Mul", ["z1", "f"], "h", {}),
        ("Mul", ["h", "half"], "a1", {}),
    ],
    "gelu_tanh": [
        ("Pow", ["z1", "three"], "p", {}),
        ("Mul", ["p", "cubic"], "q", {}),
        ("Add", ["z1", "q"], "r", {}),
        ("Mul", ["r", "scale"], "t", {}),
        ("Tanh", ["t"], "e", {}),
        ("Add", ["e", "one"], "f", {}),
        ("Mul", ["z1", "half"], "h", {}),
        ("Mul", ["h", "f"], "a1", {}),
    ],
    "scaled": [("Tanh", ["z1"], "q", {}), ("Mul", ["q", "b2"], "a1", {})],
}


@pytest.mark.parametrize("which", MIDDLE)
def test_from_onnx(which: str) -> None:
    second = [("Gemm", ["a1", "w2", "b2"], "z2", {}), ("Tanh", ["z2"], "a2", {})]
    model = onnx_model([*FIRST, *MIDDLE[which], *second, *LAST], CONSTANTS)
    x = np.random.default_rng(10).normal(size=(6, 30))
    net = Network.from_onnx(model, format="float64")
    assert len(net.layers) == 3
    # onnx computes Erf in single precision
    assert net(x) == pytest.approx(reference_of(model, x), rel=1e-5, abs=1e-6)
    assert net.normalisation["input_scale"] == pytest.approx(1 / CONSTANTS["std"])
    assert net.normalisation["output_offset"] == pytest.approx(CONSTANTS["mean"])


@pytest.mark.parametrize("where", ["inside", "behind", "input", "twice"])
def test_skips_of_onnx(where: str) -> None:
    first = [*FIRST, ("Relu", ["z1"], "a1", {}), ("Gemm", ["a1", "w2", "b2"], "z2", {})]
    nodes = {
        "inside": [("Add", ["z2", "a1"], "q", {}), ("Tanh", ["q"], "a2", {}), *LAST],
        "behind": [("Tanh", ["z2"], "q", {}), ("Add", ["a1", "q"], "a2", {}), *LAST],
        "input": [("Tanh", ["z2"], "a2", {}), *LAST[:1], ("Add", ["g", "n"], "y", {})],
        "twice": [
            ("Tanh", ["z2"], "q", {}),
            ("Add", ["q", "a1"], "r", {}),
            ("Add", ["r", "a1"], "a2", {}),
            *LAST,
        ],
    }[where]
    model = onnx_model([*first, *nodes], CONSTANTS)
    x = np.random.default_rng(11).normal(size=(6, 30))
    net = Network.from_onnx(model, format="float64")
    assert net(x) == pytest.approx(reference_of(model, x), rel=1e-9, abs=1e-9)


def test_unsupported_graphs_are_named() -> None:
    cases = {
        r"node 'Softmax_4' \(Softmax\): this operator is not supported; supported: MatMul": [
            *FIRST,
            ("Softmax", ["z1"], "y", {}),
        ],
        r"node 'MatMul_4' \(MatMul\): the second operand must be constant": [
            *FIRST,
            ("MatMul", ["z1", "z1"], "y", {}),
        ],
        r"node 'Gemm_5' \(Gemm\): the element-wise operations in front of it are no activation": [
            *FIRST,
            ("Exp", ["z1"], "e", {}),
            ("Gemm", ["e", "w2", "b2"], "y", {}),
        ],
        # a ReLU up to 8 only, far outside of where activation functions bend
        r"node 'Gemm_8' \(Gemm\): the element-wise operations in front of it are no activation": [
            *FIRST,
            ("Relu", ["z1"], "r", {}),
            ("Sub", ["z1", "eight"], "s", {}),
            ("Relu", ["s"], "t", {}),
            ("Sub", ["r", "t"], "e", {}),
            ("Gemm", ["e", "w2", "b2"], "y", {}),
        ],
        r"node 'Cast_0' \(Cast\): a cast to type 7, which rounds, is not supported": [
            ("Cast", ["x"], "i", {"to": 7}),
            ("Cast", ["i"], "j", {"to": 11}),
            ("Gemm", ["j", "w1"], "y", {}),
        ],
        r"node 'Cast_4' \(Cast\): a cast to type 9": [
            *FIRST,
            ("Cast", ["z1"], "i", {"to": 9}),
            ("Cast", ["i"], "j", {"to": 11}),
            ("Gemm", ["j", "w2", "b2"], "y", {}),
        ],
        r"node 'Gemm_4' \(Gemm\): a constant of shape \(50, 6\) is no row of features": [
            *FIRST,
            ("Gemm", ["z1", "w2", "matrix"], "y", {}),
        ],
        r"node 'Gemm_4' \(Gemm\): its bias has 3 numbers, expected": [
            *FIRST,
            ("Gemm", ["z1", "w2", "three"], "y", {}),
        ],
    }
    constants = {
        **CONSTANTS,
        "eight": np.array(8.0),
        "matrix": np.zeros((50, 6)),
        "three": np.zeros(3),
    }
    for words, nodes in cases.items():
        with pytest.raises(ValueError, match=words):
            Network.from_onnx(onnx_model(nodes, constants))


def test_a_broken_onnx_file(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    file = tmp_path / "broken.onnx"
    file.write_bytes(b"\xff\xff\xff nothing")
    with pytest.raises(ValueError, match=r"broken\.onnx: not an ONNX file"):
        Network.from_onnx(file)


# --- generated code -------------------------------------------------------------------------------

PROGRAM = """
#include "{name}.h"
extern "C" int run(const double* const* in, double* const* out, long n) {{
  static {name}::workspace memory;
  {load}
  {name}::run(in, out, static_cast<std::size_t>(n), memory{argument});
  return 0;
}}
"""


def compiled(folder: Path, net: Network, name: str, weights: str, compiler: str) -> ctypes.CDLL:
    files = net.to_header(folder / f"{name}.h", weights=weights)
    load = argument = ""
    if weights == "separate":
        load = f'static {name}::parameters p; if (!{name}::load(p, "{files[1]}")) return 1;'
        argument = ", p"
    source = folder / f"{name}.cpp"
    source.write_text(PROGRAM.format(name=name, load=load, argument=argument))
    library = folder / f"{name}.so"
    flags = ["-std=c++17", "-O2", "-Wall", "-Wextra", "-Werror", "-Wno-psabi", "-shared", "-fPIC"]
    subprocess.run([compiler, *flags, str(source), "-o", str(library)], check=True, timeout=120)
    return ctypes.CDLL(str(library))


def run_compiled(library: ctypes.CDLL, x: np.ndarray) -> np.ndarray:
    out = np.zeros_like(x)
    pointers = ctypes.POINTER(ctypes.c_double) * 6
    columns = [
        pointers(*(c.ctypes.data_as(ctypes.POINTER(ctypes.c_double)) for c in a)) for a in (x, out)
    ]
    assert library.run(*columns, ctypes.c_long(x.shape[1])) == 0
    return out


@pytest.mark.parametrize("weights", ["included", "separate"])
def test_generated_code(weights: str, tmp_path: Path) -> None:
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    if weights == "included":  # every activation function, and skips of all kinds
        r = np.random.default_rng(12)
        layers = [Layer(r.normal(size=(19, 6)), r.normal(size=19))]
        for k, activation in enumerate(ACTIVATIONS):
            slope = {"leaky_relu": [0.1], "prelu": r.normal(size=19)}.get(activation)
            w = 0.2 * r.normal(size=(19, 19))
            skip = None if activation == "sigmoid" else k
            layers.append(Layer(w, r.normal(size=19), activation, slope, skip or None, k % 2 == 1))
        layers.append(Layer(r.normal(size=(6, 19)), skip=0, name="last"))
    else:  # more than one range of inputs, and more than one block
        layers = random_network((150, 70), "relu", seed=13).layers
    net = Network(layers, input_offset=0.1, output_scale=2.0)
    library = compiled(tmp_path, net, f"net_{weights}", weights, compiler)
    x = np.random.default_rng(13).normal(size=(6, 333))
    exact = net(x, format="float64")
    found = run_compiled(library, x)
    assert np.abs(found - exact).max() < 5e-6 * np.abs(exact).max()
    x[4, 100] = np.nan
    dirty = run_compiled(library, x)
    assert not np.isfinite(dirty[:, 100]).any()
    assert (np.delete(dirty, 100, 1) == np.delete(found, 100, 1)).all()


def test_generated_files(tmp_path: Path) -> None:
    net = random_network()
    files = net.to_header(tmp_path / "net.h", name="my_net", weights="separate")
    assert [f.name for f in files] == ["net.h", "net.bin"]
    assert "namespace my_net" in files[0].read_text()
    with pytest.raises(FileExistsError):
        net.to_header(tmp_path / "net.h")
    files[0].unlink()
    with pytest.raises(FileExistsError, match=r"net.bin exists"):
        net.to_header(tmp_path / "net.h", weights="separate")
    assert not files[0].exists()
    with pytest.raises(ValueError, match="name = '2nd' must be an identifier"):
        net.to_header(tmp_path / "other.h", name="2nd")
    with pytest.raises(ValueError, match="weights = 'none' must be 'included' or 'separate'"):
        net.to_header(tmp_path / "other.h", weights="none")


# --- the element ----------------------------------------------------------------------------------


def beam_of(n: int = 200, precision: str = "double", energy: float = 1e8) -> bt.Beam:
    r = np.random.default_rng(14)
    names = ("x", "px", "y", "py", "t", "pt")
    sizes = (1e-3, 1e-3, 1e-3, 1e-3, 1e-3, 1e-3)
    columns = {
        k: (s * r.normal(size=n)).astype("f8" if precision == "double" else "f4")
        for k, s in zip(names, sizes, strict=True)
    }
    return bt.Beam.from_arrays(bt.Reference("electron", kinetic_energy=energy), **columns)


def small_map(seed: int = 15) -> Network:
    """A mild nonlinear map near a rotation, in millimetres and milliradians."""
    net = random_network((16,), "tanh", seed=seed)
    layers = net.layers
    layers[1] = Layer(**{**layers[1].__dict__, "skip": 0, "weights": 0.3 * layers[1].weights})
    return Network(layers, input_scale=1e3, output_scale=1e-3, format="float64")


@pytest.mark.parametrize("precision", ["double", "single"])
def test_canonical_surrogate(precision: str) -> None:
    net = small_map()
    beam = beam_of(1000, precision)
    expected = net(beam.array)
    element = Surrogate(net, 0.5, energy_gain=1e6, name="learned")
    bt.Line([element]).track(beam)
    assert (beam.array == expected).all()
    assert beam.reference.kinetic_energy == pytest.approx(1.01e8, rel=1e-12)
    assert beam.reference.s == pytest.approx(0.5)


def test_fixed_time_surrogate() -> None:
    beam = beam_of()
    start = beam.copy()
    ref = beam.reference.copy()
    u = ref.beta_gamma
    net = Network(
        [Layer(np.diag([1.0, 0.9, 1.0, 1.1, 1.0, 1.02]))],
        format="float64",
        output_offset=[1e-4, 0, -0.2, 0, 0, 0.01 * u],
    )
    element = Surrogate(net, 0.3, energy_gain=2e6, coordinates="fixed_time", xi=(-1e-5, -0.2))
    bt.Line([element]).track(beam)
    x, y, z, px, py, pz = to_fixed_time(ref, start.array)
    x2, y2, z2, px2, py2, pz2 = net(np.array([x, y, z - 1e-5, px * u, py * u, pz * u]))
    behind = beam.reference
    v = behind.beta_gamma
    expected = to_fixed_place(behind, (x2, y2, z2 + 0.2, px2 / v, py2 / v, pz2 / v))
    assert beam.array == pytest.approx(np.array(expected), rel=1e-9, abs=1e-14)


@pytest.mark.parametrize("coordinates", ["canonical", "fixed_time"])
def test_gradients_pass_through(coordinates: str) -> None:
    if coordinates == "canonical":
        element = Surrogate(small_map(), 0.2, energy_gain=1e6)
    else:
        u = bt.Reference("electron", kinetic_energy=1e8).beta_gamma
        r = np.random.default_rng(16)
        size = np.array([1e-3, 1e-3, 1e-3, 1e-3 * u, 1e-3 * u, u])
        w = np.eye(6) + 0.1 * r.normal(size=(6, 6))
        net = Network(
            [Layer(0.5 * w, activation="tanh"), Layer(2 * np.eye(6))],
            input_scale=1 / size,
            output_scale=size,
            format="float64",
        )
        element = Surrogate(net, 0.2, coordinates="fixed_time")
    lens = bt.Quadrupole(0.1, k1=5.0, name="lens")
    line = bt.Line([lens, element, bt.Drift(0.3)])
    beam = beam_of(50)
    gradient = line.gradient(beam, bt.losses.beam_size("x"), [("lens", "k1")])
    h = 1e-4
    values = []
    for k in (5.0 + h, 5.0 - h):
        lens.k1 = k
        b = beam_of(50)
        line.track(b)
        values.append(np.var(b.x))
    assert gradient["lens", "k1"] == pytest.approx((values[0] - values[1]) / (2 * h), rel=1e-5)


def test_particles_that_turn_back_are_lost() -> None:
    beam = beam_of(100)
    beam.px[7] = 2.0  # more than the whole momentum
    element = Surrogate(Network([Layer(np.eye(6))]), 0.0, coordinates="fixed_time")
    track = bt.Line([element]).track(beam)
    assert track.n_lost == 1
    assert list(beam.lost.id) == [7] or len(beam) == 99


@pytest.mark.parametrize(
    "again", [copy.copy, copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))]
)
def test_copies_and_pickles(again: Any) -> None:
    net = Network(
        [*small_map().layers[:1], Layer(np.eye(16)[:6], bias=np.arange(6.0), activation="silu")],
        input_scale=1e3,
        name="n",
        format="float64",
        metadata={"of": "nothing"},
        extras={"domain.low": np.zeros(6)},
    )
    made = again(net)
    x = np.random.default_rng(3).normal(size=(6, 20))
    np.testing.assert_array_equal(made(x), net(x))
    assert (made.name, made.format, made.metadata) == (net.name, net.format, net.metadata)
    np.testing.assert_array_equal(made.extras["domain.low"], np.zeros(6))
    element = Surrogate(net, 0.3, energy_gain=1e6, coordinates="fixed_time", xi=(0.1, 0.2), dx=1e-3)
    assert again(element) == element
    assert again(element) != Surrogate(small_map(), 0.3)


def test_dictionary_form_and_errors(tmp_path: Path) -> None:
    file = tmp_path / "net.safetensors"
    small_map().save(file)
    element = Surrogate(file, 0.5, energy_gain=1e6, name="learned", dx=1e-3)
    data = json.loads(json.dumps(element.to_dict()))
    again = bt.element_from_dict(data)
    assert again.to_dict() == element.to_dict()
    beams = [beam_of(), beam_of()]
    for e, b in zip((element, again), beams, strict=True):
        bt.Line([e]).track(b)
    assert (beams[0].array == beams[1].array).all()
    with pytest.raises(ValueError, match="its network is in no file"):
        Surrogate(small_map(), 0.5).to_dict()
    with pytest.raises(ValueError, match="has 6 inputs and 5 outputs, expected 6 and 6"):
        Surrogate(random_network(outputs=5), 0.5)
    with pytest.raises(ValueError, match="'canonical' or 'fixed_time'"):
        Surrogate(small_map(), 0.5, coordinates="polar")
    with pytest.raises(ValueError, match="length = -1 m must be >= 0"):
        Surrogate(small_map(), -1.0)
