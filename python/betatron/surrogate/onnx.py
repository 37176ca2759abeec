"""Networks from ONNX files.

The graph is read node by node. Every value is some layer's result (or the input) with element-wise
operations behind it; these are collected as a function of that result, and what the function is (an
activation function, a scale and an offset) is found when a matrix product, a sum of two results or
the end of the graph needs it. So it does not matter in which of the many ways an exporter has
written GELU or SiLU.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from betatron.surrogate.network import Layer, Network

Function = Callable[[np.ndarray], np.ndarray]

_ELEMENTWISE = (
    "Add, Sub, Mul, Div, Neg, Pow, Sqrt, Exp, Erf, Relu, LeakyRelu, PRelu, Tanh, Sigmoid, Gelu, "
    "Swish, Clip at 0"
)
_AFFINE = ("Add", "Sub", "Mul", "Div")
_FLOATS = {1: "FLOAT", 10: "FLOAT16", 11: "DOUBLE", 16: "BFLOAT16"}  # of onnx.TensorProto
SUPPORTED = f"MatMul, Gemm, Identity, Dropout, Cast, Flatten, {_ELEMENTWISE}"


@dataclass
class _Value:
    """A function, element by element, of the sums of layer `layer` (0: the input), or, if `done`,
    of its result, behind its activation function. Arguments and results have the shape (...,
    features); None stands for the sums or the result itself."""

    layer: int
    function: Function | None = None
    done: bool = False


def from_onnx(model: Any, **network: Any) -> Network:
    """A network from an ONNX file or model: one input of shape (particles, features), one output.

    Parameters
    ----------
    model
        Path, or an onnx.ModelProto.
    **network
        Further arguments of `Network`: name, format, metadata, ...

    Raises
    ------
    ImportError
        Without the package onnx.
    ValueError
        For operators that are not supported and graphs that are no chain of fully connected layers
        with skip connections; the message names the node and the operator.
    """
    import onnx
    from onnx import numpy_helper

    if isinstance(model, (str, Path)):
        path = str(model)
        try:
            model = onnx.load(path)
        except FileNotFoundError:
            raise
        except Exception as error:  # a DecodeError of protobuf, which is not always importable
            raise ValueError(
                f"{path}: not an ONNX file ({type(error).__name__}: {error})"
            ) from error
    reader = _Graph(model.graph, numpy_helper)
    return reader.network(**network)


class _Graph:
    def __init__(self, graph: Any, numpy_helper: Any) -> None:
        self._graph = graph
        self._to_array = numpy_helper.to_array
        self._constants: dict[str, np.ndarray] = {
            t.name: self._constant(t) for t in graph.initializer
        }
        inputs = [i.name for i in graph.input if i.name not in self._constants]
        if len(inputs) != 1 or len(graph.output) != 1:
            raise ValueError(
                f"the graph has {len(inputs)} inputs and {len(graph.output)} outputs, expected one "
                "each"
            )
        self._values: dict[str, _Value] = {inputs[0]: _Value(0)}
        self._layers: list[dict[str, Any]] = []
        self._reads = Counter(name for node in graph.node for name in node.input)
        self._reads[graph.output[0].name] += 1
        self._input_affine: tuple[np.ndarray, np.ndarray] | None = None

    def _constant(self, tensor: Any) -> np.ndarray:
        array = np.asarray(self._to_array(tensor))
        return array.astype(np.float64) if array.dtype.kind == "f" else array

    def network(self, **further: Any) -> Network:
        for node in self._graph.node:
            where = f"node {node.name or node.output[0]!r} ({node.op_type})"
            try:
                self._take(node)
            except _NotSupported as error:
                raise ValueError(f"{where}: {error}") from error
        name = self._graph.output[0].name
        if name not in self._values:
            raise ValueError(f"the output {name!r} does not depend on the input")
        value = self._values[name]
        try:
            output = self._finish(value)
        except _NotSupported as error:
            raise ValueError(f"output {name!r}: {error}") from error
        arguments: dict[str, Any] = {"name": self._graph.name, **output, **further}
        if self._input_affine is not None:
            scale, shift = self._input_affine
            arguments.setdefault("input_scale", scale)
            arguments.setdefault("input_offset", -shift / scale)
        layers = [
            Layer(**{key: value for key, value in layer.items() if key != "closed"})
            for layer in self._layers
        ]
        return Network(layers, **arguments)

    # --- nodes ------------------------------------------------------------------------------------

    def _take(self, node: Any) -> None:
        attributes = {a.name: a for a in node.attribute}
        op = node.op_type
        if op == "Constant":
            if "value" in attributes:
                array = self._constant(attributes["value"].t)
            elif "value_float" in attributes:
                array = np.float64(attributes["value_float"].f)
            elif "value_floats" in attributes:
                array = np.array(attributes["value_floats"].floats, dtype=np.float64)
            else:
                raise _NotSupported("a constant that is no tensor of numbers")
            self._constants[node.output[0]] = np.asarray(array)
            return
        if all(name in self._constants for name in node.input if name):
            folded = _fold(op, [self._constants[name] for name in node.input if name], attributes)
            if folded is None:
                raise _NotSupported("its operands are all constant, and it is not evaluated")
            self._constants[node.output[0]] = folded
            return
        if op in ("Identity", "Dropout", "Cast"):
            if op == "Cast" and attributes["to"].i not in _FLOATS:
                raise _NotSupported(
                    f"a cast to type {attributes['to'].i}, which rounds, is not supported; "
                    f"supported: {', '.join(_FLOATS.values())}, which are left out"
                )
            made = self._value(node.input[0])
        elif op == "Flatten":
            if "axis" in attributes and attributes["axis"].i != 1:
                raise _NotSupported("only axis 1, which changes nothing here, is supported")
            made = self._value(node.input[0])
        elif op in ("MatMul", "Gemm"):
            made = self._product(node, attributes)
        elif op in ("Add", "Sub", "Mul", "Div", "Pow", "PRelu", "Max"):
            made = self._binary(node)
        else:
            made = self._unary(node, attributes)
        self._values[node.output[0]] = made

    def _value(self, name: str) -> _Value:
        if name not in self._values:
            raise _NotSupported(f"its operand {name!r} is constant or not known")
        return self._values[name]

    def _product(self, node: Any, attributes: dict[str, Any]) -> _Value:
        value = self._value(node.input[0])
        if node.input[1] not in self._constants:
            raise _NotSupported("the second operand must be constant: the weights")
        w = self._constants[node.input[1]]
        if w.ndim != 2:
            raise _NotSupported(f"its weights have {w.ndim} axes, expected 2")
        layer: dict[str, Any] = {"name": node.name or node.input[1]}
        if node.op_type == "Gemm":
            if "transA" in attributes and attributes["transA"].i:
                raise _NotSupported("transA = 1 is not supported")
            if "transB" in attributes and attributes["transB"].i:
                w = w.T
            w = w * (attributes["alpha"].f if "alpha" in attributes else 1.0)
            if len(node.input) > 2 and node.input[2]:
                if node.input[2] not in self._constants:
                    raise _NotSupported("its third operand must be constant: the bias")
                beta = attributes["beta"].f if "beta" in attributes else 1.0
                bias = self._row(self._constants[node.input[2]])
                if bias.size not in (1, w.shape[1]):
                    raise _NotSupported(f"its bias has {bias.size} numbers, expected {w.shape[1]}")
                layer["bias"] = np.broadcast_to(beta * bias, w.shape[1:]).copy()
        layer["weights"] = w.T
        self._resolve(value, layer)
        self._layers.append(layer)
        return _Value(len(self._layers))

    def _unary(self, node: Any, attributes: dict[str, Any]) -> _Value:
        value = self._value(node.input[0])
        op = node.op_type
        simple: dict[str, Function] = {
            "Relu": lambda z: np.maximum(z, 0.0),
            "Tanh": np.tanh,
            "Sigmoid": _sigmoid,
            "Erf": _erf,
            "Exp": np.exp,
            "Neg": np.negative,
            "Sqrt": np.sqrt,
        }
        if op in simple:
            function = simple[op]
        elif op == "LeakyRelu":
            alpha = attributes["alpha"].f if "alpha" in attributes else 0.01
            function = _leaky(np.float64(alpha))
        elif op == "Gelu":
            tanh = "approximate" in attributes and attributes["approximate"].s == b"tanh"
            function = _gelu_tanh if tanh else _gelu
        elif op == "Swish":
            alpha = attributes["alpha"].f if "alpha" in attributes else 1.0
            function = lambda z: z * _sigmoid(alpha * z)  # noqa: E731
        elif op == "Clip":
            bounds = [self._constants.get(name) for name in node.input[1:]]
            if len(bounds) < 1 or bounds[0] is None or (len(bounds) > 1 and node.input[2]):
                raise _NotSupported("only a lower bound is supported")
            low = bounds[0]
            function = lambda z: np.maximum(z, low)  # noqa: E731
        else:
            raise _NotSupported(f"this operator is not supported; supported: {SUPPORTED}")
        return _then(value, function)

    def _binary(self, node: Any) -> _Value:
        op = node.op_type
        a, b = node.input[:2]
        constant = {
            name: self._row(self._constants[name]) for name in (a, b) if name in self._constants
        }
        combine: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
            "Add": np.add,
            "Sub": np.subtract,
            "Mul": np.multiply,
            "Div": np.divide,
            "Pow": np.power,
            "PRelu": lambda z, slope: np.where(z < 0, z * slope, z),
            "Max": np.maximum,
        }
        f = combine[op]
        if b in constant:
            c = constant[b]
            return self._with_constant(node, a, lambda z: f(z, c), op in _AFFINE)
        if a in constant:
            c = constant[a]
            return self._with_constant(node, b, lambda z: f(c, z), op in _AFFINE and op != "Div")
        u, v = self._value(a), self._value(b)
        if u.layer == v.layer and u.done == v.done:
            g, h = _function(u), _function(v)
            return _Value(u.layer, lambda z: f(g(z), h(z)), u.done)
        if op != "Add":
            raise _NotSupported("two layers can only be added")
        return self._sum(u, v, (a, b))

    def _with_constant(self, node: Any, name: str, function: Function, affine: bool) -> _Value:
        """A scale or an offset becomes part of the layer in front, but what leads to the output
        becomes the normalisation of outputs, which is computed in the precision of the columns."""
        value = self._value(name)
        layer = self._layers[value.layer - 1] if value.layer else {}
        if (
            not affine
            or value.function is not None
            or value.layer != len(self._layers)
            or value.layer == 0
            or value.done
            or "activation" in layer
            or "skip" in layer
            or self._reads[name] > 1
            or self._leads_to_output(node.output[0])
        ):
            return _then(value, function)
        width = self._width(value.layer)
        shift = np.broadcast_to(function(np.zeros(width)), width)
        scale = np.broadcast_to(function(np.ones(width)), width) - shift
        layer["bias"] = layer.get("bias", np.zeros(width)) * scale + shift
        layer["weights"] = layer["weights"] * scale[:, None]
        return value

    def _leads_to_output(self, name: str) -> bool:
        """Whether there are only scales and offsets between a value and the output."""
        while name != self._graph.output[0].name:
            readers = [n for n in self._graph.node if name in n.input]
            if len(readers) != 1 or readers[0].op_type not in (*_AFFINE, "Identity"):
                return False
            if any(other not in self._constants for other in readers[0].input if other != name):
                return False
            name = readers[0].output[0]
        return True

    @staticmethod
    def _row(array: np.ndarray) -> np.ndarray:
        if array.ndim > 1 and any(n != 1 for n in array.shape[:-1]):
            raise _NotSupported(f"a constant of shape {array.shape} is no row of features")
        return array.reshape(array.shape[-1:]) if array.ndim else array

    # --- what functions are -----------------------------------------------------------------------

    def _width(self, layer: int) -> int:
        if layer:
            return self._layers[layer - 1]["weights"].shape[0]
        if self._layers:
            return self._layers[0]["weights"].shape[1]
        shape = next(
            i.type.tensor_type.shape.dim for i in self._graph.input if i.name not in self._constants
        )
        if not shape or not shape[-1].dim_value:
            raise _NotSupported("the number of features of the input is not known")
        return shape[-1].dim_value

    def _resolve(self, value: _Value, layer: dict[str, Any]) -> None:
        """Makes `layer` the next one behind `value`."""
        scale, shift = self._settle(value)
        if scale is None:
            pass
        elif value.layer == 0 and self._take_as_input(scale, shift):
            pass
        else:
            weights = layer["weights"]
            layer["bias"] = layer.get("bias", 0.0) + weights @ shift
            layer["weights"] = weights * scale
        if value.layer != len(self._layers):  # not the result of the layer in front
            raise _NotSupported(
                "its operand is not the result of the layer in front of it: branches can only be "
                "skip "
                "connections"
            )

    def _take_as_input(self, scale: np.ndarray, shift: np.ndarray) -> bool:
        """As the normalisation of the network, if nothing else sees the input."""
        if self._layers or not scale.all():
            return False
        self._input_affine = scale, shift
        return True

    def _is_input(self, scale: np.ndarray, shift: np.ndarray) -> bool:
        known = self._input_affine
        return known is not None and all(
            np.allclose(a, b, rtol=1e-9, atol=0) for a, b in zip(known, (scale, shift), strict=True)
        )

    def _settle(self, value: _Value) -> tuple[np.ndarray | None, np.ndarray]:
        """Gives the layer of `value` its activation function; what is left is a scale and an
        offset of its result (None: none)."""
        width = self._width(value.layer)
        if value.layer == 0 and value.function is None and self._input_affine is not None:
            raise _NotSupported("the input is needed both with and without its normalisation")
        found = _identify(_function(value), width)
        if found is None:
            raise _NotSupported(
                "the element-wise operations in front of it are no activation function that is "
                "known, with "
                "a scale and an offset behind it"
            )
        name, slope, scale, shift = found
        if name != "identity" and (value.done or value.layer == 0):
            if value.layer != len(self._layers):
                raise _NotSupported("a function of a result that is not that of the layer in front")
            self._layers.append(
                {"name": f"identity {len(self._layers) + 1}", "weights": np.eye(width)}
            )
            value.layer, value.done = len(self._layers), False
        if not value.done and value.layer > 0:
            layer = self._layers[value.layer - 1]
            known = layer.get("activation")
            if known is None:
                layer["activation"] = name
                layer["skip_inside"] = layer.get("skip") is not None
                if slope is not None:
                    layer["slope"] = slope
            elif known != name or layer.get("closed"):
                raise _NotSupported("its operand is needed both with and without what follows it")
        if np.all(scale == 1) and np.all(shift == 0):
            return None, np.zeros(0)
        return scale, shift

    def _sum(self, u: _Value, v: _Value, names: tuple[str, str]) -> _Value:
        """u + v, of different layers: the later one adds the earlier one."""
        if u.layer < v.layer:
            u, v, names = v, u, names[::-1]
        if u.layer == v.layer or u.layer != len(self._layers):
            raise _NotSupported("both operands belong to branches; one must be the layer in front")
        open_sum = not u.done and u.function is None  # an activation function may follow
        if not open_sum:
            scale, shift = self._settle(u)
            if scale is not None:
                raise _NotSupported("a scale or an offset of the later operand is not supported")
        scale, shift = self._settle(v)
        if scale is not None and not (v.layer == 0 and self._is_input(scale, shift)):
            raise _NotSupported("a scale or an offset of the earlier operand is not supported")
        layer = self._layers[u.layer - 1]
        if self._reads[names[0]] > 1 or layer.get("skip") is not None:
            # what it was is needed elsewhere, or is a sum already: a layer of its own for the sum
            if open_sum:
                self._settle(u)
            width = self._width(u.layer)
            layer = {"name": f"sum of {names[0]} and {names[1]}", "weights": np.eye(width)}
            self._layers.append(layer)
            open_sum = True
        layer["skip"] = v.layer
        layer["closed"] = not open_sum
        return _Value(len(self._layers), done=not open_sum)

    def _finish(self, value: _Value) -> dict[str, np.ndarray]:
        scale, shift = self._settle(value)
        if value.layer != len(self._layers) or value.layer == 0:
            raise _NotSupported("it is not the result of the last layer")
        return {} if scale is None else {"output_scale": scale, "output_offset": shift}


class _NotSupported(Exception):
    pass


def _function(value: _Value) -> Function:
    return value.function or (lambda z: z)


def _then(value: _Value, function: Function) -> _Value:
    before = value.function
    if before is None:
        return _Value(value.layer, function, value.done)
    return _Value(value.layer, lambda z: function(before(z)), value.done)


def _fold(op: str, operands: list[np.ndarray], attributes: dict[str, Any]) -> np.ndarray | None:
    """An operator on constants."""
    if op == "Identity" or (op == "Cast" and attributes["to"].i in _FLOATS):
        return operands[0]
    if op == "Transpose":
        axes = list(attributes["perm"].ints) if "perm" in attributes else None
        return np.transpose(operands[0], axes)
    two = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide}
    return two[op](*operands) if op in two else (np.sqrt(operands[0]) if op == "Sqrt" else None)


def _sigmoid(z: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-z))


def _leaky(slope: np.ndarray) -> Function:
    return lambda z: np.where(z < 0, z * slope, z)


def _erf(z: np.ndarray) -> np.ndarray:
    from math import erf

    return np.vectorize(erf, otypes=[np.float64])(z)


def _gelu(z: np.ndarray) -> np.ndarray:
    return 0.5 * z * (1.0 + _erf(z / np.sqrt(2.0)))


def _gelu_tanh(z: np.ndarray) -> np.ndarray:
    return z * _sigmoid(1.5957691216057308 * (z + 0.044715 * z**3))


_NEAR = np.linspace(-6.0, 6.0, 1201)  # where a function is fitted ...
_FAR = np.geomspace(6.0, 1e6, 300)  # ... and, with both signs, where it must also hold
_TOLERANCE = 2e-6


def _identify(
    function: Function, width: int
) -> tuple[str, np.ndarray | None, np.ndarray, np.ndarray] | None:
    """(activation, slopes, scale, shift) with function = f scale + shift, column by column, on
    arguments up to 1e6; where the function itself overflows nothing is asked."""
    z = np.concatenate((-_FAR[::-1], _NEAR, _FAR))[:, None] * np.ones(width)
    near = slice(len(_FAR), len(_FAR) + len(_NEAR))
    with np.errstate(all="ignore"):
        y = np.broadcast_to(function(z), z.shape)
        candidates: dict[str, np.ndarray] = {
            "identity": z,
            "relu": np.maximum(z, 0.0),
            "tanh": np.tanh(z),
            "sigmoid": _sigmoid(z),
            "silu": z * _sigmoid(z),
            "gelu_tanh": _gelu_tanh(z),
            "gelu": np.broadcast_to(_gelu(z[:, :1]), z.shape),
        }
    if not np.isfinite(y[near]).all():
        return None
    size = np.abs(y[near]).max(axis=0) + 1e-300
    finite = np.isfinite(y)

    def same(f: np.ndarray) -> bool:
        allowed = _TOLERANCE * np.maximum(size, np.abs(y))
        return bool((np.abs(f - y)[finite] <= allowed[finite]).all())

    with np.errstate(invalid="ignore"):
        for name, f in candidates.items():
            mean_f, mean_y = f[near].mean(axis=0), y[near].mean(axis=0)
            df, dy = f[near] - mean_f, y[near] - mean_y
            scale = (df * dy).sum(axis=0) / (df * df).sum(axis=0)
            shift = mean_y - scale * mean_f
            scale = np.where(np.abs(scale - 1) < 1e-6, 1.0, scale)
            shift = np.where(np.abs(shift) < 1e-6 * size, 0.0, shift)
            if same(f * scale + shift):
                return name, None, scale, shift
        # two straight lines that meet at 0: a leaky ReLU
        low, high = near.start, near.stop - 1
        up, down = y[high] / z[high], y[low] / z[low]
        if same(np.where(z < 0, z * down, z * up)) and (np.abs(up - 1) < 1e-6).all():
            equal = np.ptp(down) < 1e-12
            slope = down[:1] if equal else down
            return ("leaky_relu" if equal else "prelu"), slope, np.ones_like(up), np.zeros_like(up)
    return None
