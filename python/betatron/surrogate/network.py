"""Fully connected networks on columns of numbers.

With x the inputs and v_0 = (x - input_offset) * input_scale, layer k = 1, 2, ... computes

    v_k = f_k(W_k v_(k-1) + b_k),

where the result v_j of an earlier layer (or v_0) may be added behind or inside f_k; the outputs are
v_last * output_scale + output_offset.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from betatron import _core
from betatron._checks import thread_count, whole
from betatron.surrogate.tensors import read_tensors, write_tensors

if TYPE_CHECKING:
    Columns = np.ndarray | Sequence[np.ndarray]

ACTIVATIONS: tuple[str, ...] = tuple(_core.network_activations())
FORMATS = ("float32", "float64", "bfloat16")
_FILE = "betatron network"


@dataclass(frozen=True)
class Layer:
    """One fully connected layer.

    Parameters
    ----------
    weights
        Shape (outputs, inputs).
    bias
        Shape (outputs,); None for none.
    activation
        identity, relu, leaky_relu, prelu, tanh, sigmoid, silu, gelu (with the error function) or
        gelu_tanh.
    slope
        For negative arguments of leaky_relu (one number) and prelu (one, or one per output).
    skip
        Adds the result of this layer (the first is 1), or of the normalised inputs (0).
    skip_inside
        Adds it to the argument of the activation function, not behind it.
    name
        For messages.
    """

    weights: ArrayLike
    bias: ArrayLike | None = None
    activation: str = "identity"
    slope: ArrayLike | None = None
    skip: int | None = None
    skip_inside: bool = False
    name: str = ""

    def _to_core(self) -> dict[str, Any]:
        where = f"layer {self.name!r}" if self.name else "a layer"

        def numbers(what: str, value: ArrayLike | None) -> np.ndarray:
            return _numbers(f"{where}: {what}", value)

        if not isinstance(self.name, str):
            raise TypeError(f"layer: name = {self.name!r} must be a text")
        if self.activation not in ACTIVATIONS:
            raise ValueError(
                f"{where}: activation {self.activation!r} is not one of {', '.join(ACTIVATIONS)}"
            )
        weights = numbers("weights", self.weights)
        if weights.ndim != 2:
            raise ValueError(
                f"{where}: weights have the shape {weights.shape}; it must be (outputs, inputs)"
            )
        bias = numbers("bias", self.bias)
        if bias.ndim > 1:
            raise ValueError(f"{where}: bias has the shape {bias.shape}; it must be (outputs,)")
        skip = -1 if self.skip is None else whole(self.skip, f"{where}: skip", 2**31 - 1)
        return {
            "name": self.name,
            "weights": weights,
            "bias": bias.reshape(-1),
            "activation": self.activation,
            "slope": numbers("slope", self.slope).reshape(-1),
            "skip": skip,
            "skip_inside": bool(self.skip_inside),
        }


def _made_again(kind: type[Network], arguments: dict[str, Any]) -> Network:
    return kind(**arguments)


def _numbers(what: str, value: ArrayLike | None) -> np.ndarray:
    if value is None:
        return np.empty(0)
    if np.iscomplexobj(value):
        raise TypeError(f"{what} must be real numbers, got complex ones")
    try:
        return np.asarray(value, dtype=np.float64, order="C")
    except (TypeError, ValueError) as error:
        raise TypeError(f"{what} must be numbers, got {type(value).__name__} ({error})") from error


class Network:
    """A fully connected network, evaluated by Betatron's own kernels.

    >>> import numpy as np
    >>> from betatron.surrogate import Layer, Network
    >>> net = Network([Layer([[1.0, -1.0]], bias=[0.5], activation="relu")])
    >>> net(np.array([[1.0, 2.0], [0.0, 4.0]])).tolist()  # two inputs, two particles
    [[1.5, 0.0]]

    Parameters
    ----------
    layers
        One or more `Layer`; each has as many inputs as the one in front of it has outputs.
    name
        For messages and files.
    input_offset, input_scale
        Shape (inputs,) or one number: the first layer sees (x - offset) * scale. 0 and 1 if left
        out.
    output_offset, output_scale
        Shape (outputs,) or one number: the result is y * scale + offset.
    format
        What is computed in if a call does not say: "float32", "float64" or "bfloat16" (weights and
        results of layers rounded to 8 significant bits, sums in single precision).
    metadata
        What is known about the network, as far as JSON can hold it: provenance, error estimates,
        names of columns. Kept in files.
    extras
        Further arrays that belong to it, by name, kept in files; "domain.low" and "domain.high"
        (smallest and largest values seen in training, one per input), "domain.mean" and
        "domain.covariance" (of the inputs) are the names for the domain of validity.

    Raises
    ------
    ValueError
        Layers that do not fit to each other, arrays of a wrong shape, numbers that are not finite,
        unknown activation functions. The message names the layer.
    """

    def __init__(
        self,
        layers: Iterable[Layer],
        *,
        name: str = "",
        input_offset: ArrayLike | None = None,
        input_scale: ArrayLike | None = None,
        output_offset: ArrayLike | None = None,
        output_scale: ArrayLike | None = None,
        format: str = "float32",
        metadata: Mapping[str, Any] | None = None,
        extras: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        if isinstance(layers, Layer) or not isinstance(layers, Iterable):
            raise TypeError(f"layers must be a list of Layer, got {type(layers).__name__}")
        described = list(layers)
        if not isinstance(name, str):
            raise TypeError(f"name must be a text, got {type(name).__name__} {name!r}")
        for what, given in (("metadata", metadata), ("extras", extras)):
            if given is not None and not isinstance(given, Mapping):
                raise TypeError(f"{what} must be a dictionary, got {type(given).__name__}")
        for layer in described:
            if not isinstance(layer, Layer):
                raise TypeError(f"layers: expected Layer, got {type(layer).__name__}")
        core_layers = [layer._to_core() for layer in described]
        inputs = core_layers[0]["weights"].shape[-1] if core_layers else 0
        outputs = core_layers[-1]["weights"].shape[0] if core_layers else 0

        def wide(what: str, value: ArrayLike | None, columns: int) -> np.ndarray:
            numbers = _numbers(what, value)
            if numbers.ndim > 1:
                raise ValueError(
                    f"{what}: shape {numbers.shape} must be ({columns},), or one number"
                )
            return (
                np.full(columns, float(numbers))
                if value is not None and numbers.ndim == 0
                else numbers
            )

        self._core = _core.Network(
            name,
            core_layers,
            wide("input_offset", input_offset, inputs),
            wide("input_scale", input_scale, inputs),
            wide("output_offset", output_offset, outputs),
            wide("output_scale", output_scale, outputs),
        )
        self.format = format
        self.metadata: dict[str, Any] = dict(metadata or {})
        self.extras: dict[str, np.ndarray] = {k: np.asarray(v) for k, v in (extras or {}).items()}

    # --- what it is -------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """For messages and files."""
        return self._core.name

    @property
    def inputs(self) -> int:
        """Number of columns that it takes."""
        return self._core.inputs

    @property
    def outputs(self) -> int:
        """Number of columns that it returns."""
        return self._core.outputs

    @property
    def parameters(self) -> int:
        """Weights, biases and slopes."""
        return self._core.parameters

    @property
    def operations(self) -> float:
        """Floating-point operations per particle: two for each weight."""
        return self._core.operations

    @property
    def format(self) -> str:
        """What is computed in if a call does not say: "float32", "float64" or "bfloat16"."""
        return self._format

    @format.setter
    def format(self, value: str) -> None:
        if value not in FORMATS:
            raise ValueError(f"format = {value!r} must be one of {', '.join(FORMATS)}")
        self._format = value

    @property
    def layers(self) -> list[Layer]:
        """The layers; arrays are copies."""
        return [
            Layer(
                weights=d["weights"],
                bias=d["bias"] if d["bias"].size else None,
                activation=d["activation"],
                slope=d["slope"] if d["slope"].size else None,
                skip=None if d["skip"] < 0 else d["skip"],
                skip_inside=d["skip_inside"],
                name=d["name"],
            )
            for d in self._core.layers()
        ]

    @property
    def normalisation(self) -> dict[str, np.ndarray]:
        """input_offset, input_scale, output_offset, output_scale, in full."""
        input_offset, input_scale, output_offset, output_scale = self._core.normalisation()
        return {
            "input_offset": input_offset if input_offset.size else np.zeros(self.inputs),
            "input_scale": input_scale if input_scale.size else np.ones(self.inputs),
            "output_offset": output_offset if output_offset.size else np.zeros(self.outputs),
            "output_scale": output_scale if output_scale.size else np.ones(self.outputs),
        }

    def _arguments(self) -> dict[str, Any]:
        """What makes the same network again."""
        names = ("input_offset", "input_scale", "output_offset", "output_scale")
        given = zip(names, self._core.normalisation(), strict=True)
        return {
            "layers": self.layers,
            "name": self.name,
            **{name: value for name, value in given if value.size},
            "format": self.format,
            "metadata": self.metadata,
            "extras": self.extras,
        }

    def __reduce__(self) -> tuple[Any, ...]:
        return _made_again, (type(self), self._arguments())

    def instructions(self, format: str | None = None) -> str:
        """The instruction set in use here: "v2", "v3" (AVX2), "v4" (AVX-512), "avx512-bf16",
        "amx-bf16"."""
        return self._core.instructions(self._chosen(format))

    def __repr__(self) -> str:
        widths = [self.inputs, *(np.shape(layer.weights)[0] for layer in self.layers)]
        name = f" {self.name!r}" if self.name else ""
        return f"<Network{name} {' - '.join(map(str, widths))}, {self.parameters} parameters>"

    def _chosen(self, format: str | None) -> str:
        if format is None:
            return self._format
        if format not in FORMATS:
            raise ValueError(f"format {format!r} is not one of {', '.join(FORMATS)}")
        return format

    # --- evaluation -------------------------------------------------------------------------------

    def __call__(
        self,
        x: Columns,
        out: Columns | None = None,
        *,
        format: str | None = None,
        threads: int | None = None,
    ) -> np.ndarray | Columns:
        """The outputs for particles in columns.

        Parameters
        ----------
        x
            Array of shape (inputs, n), or a sequence of arrays of shape (n,); float32 or float64.
            Rows are read where they lie if their numbers are neighbours, else from a copy.
        out
            Where the result is written: shape (outputs, n), or arrays of shape (n,), of the same
            type as x. Columns of x may be given: they are overwritten.
        format
            Instead of the network's own.
        threads
            Threads to use; all available ones if None. The result does not depend on it.

        Returns
        -------
        Array of shape (outputs, n) of the type of x, or `out`.
        """
        columns = _columns("x", x, self.inputs)
        dtype, n = columns[0].dtype, columns[0].size
        if out is None:
            out = np.empty((self.outputs, n), dtype=dtype)
        self._core.run(
            self._chosen(format),
            columns,
            _writable_columns("out", out, self.outputs, dtype, n),
            thread_count(threads),
        )
        return out

    def vjp(
        self,
        x: Columns,
        cotangent: Columns,
        out: Columns | None = None,
        *,
        format: str | None = None,
        threads: int | None = None,
    ) -> np.ndarray | Columns:
        """Vector-Jacobian product: sum_i cotangent_i d output_i/d input_j, for each particle.

        Parameters
        ----------
        x
            As for a call.
        cotangent
            Shape (outputs, n), or arrays of shape (n,): derivatives of some quantity by the
            outputs.
        out
            Where the result is written, shape (inputs, n); columns of x or cotangent may be given.

        Returns
        -------
        Array of shape (inputs, n): derivatives of that quantity by the inputs.
        """
        columns = _columns("x", x, self.inputs)
        dtype, n = columns[0].dtype, columns[0].size
        given = _columns("cotangent", cotangent, self.outputs, dtype)
        if given[0].size != n:
            raise ValueError(f"cotangent: {given[0].size} particles, expected {n} as in x")
        if out is None:
            out = np.empty((self.inputs, n), dtype=dtype)
        self._core.pull(
            self._chosen(format),
            columns,
            given,
            _writable_columns("out", out, self.inputs, dtype, n),
            thread_count(threads),
        )
        return out

    # --- files ------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Write the network to a new file in the safetensors format, with everything that `load`
        needs.

        Numbers that single precision holds exactly are written in it, others in double precision.

        Raises
        ------
        FileExistsError
            If there is a file already.
        """
        arrays: dict[str, np.ndarray] = {}
        described = []
        for k, layer in enumerate(self.layers, 1):
            arrays[f"layers.{k}.weight"] = _compact(layer.weights)
            if layer.bias is not None:
                arrays[f"layers.{k}.bias"] = _compact(layer.bias)
            if layer.slope is not None:
                arrays[f"layers.{k}.slope"] = _compact(layer.slope)
            described.append(
                {
                    "name": layer.name,
                    "activation": layer.activation,
                    "skip": layer.skip,
                    "skip_inside": layer.skip_inside,
                }
            )
        for key, value in self.normalisation.items():
            arrays[key] = value
        for key, value in self.extras.items():
            arrays[f"extras.{key}"] = value
        text = {
            "file": _FILE,
            "version": 1,
            "name": self.name,
            "format": self.format,
            "layers": described,
            "metadata": self.metadata,
        }
        try:
            encoded = json.dumps(text, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{path}: metadata must be what JSON can hold: {error}") from error
        write_tensors(path, arrays, {"betatron": encoded})

    @classmethod
    def load(cls, path: str | Path) -> Network:
        """Read a network that `save` wrote.

        Raises
        ------
        ValueError
            If the file holds something else; the message names what is missing or wrong.
        """
        arrays, strings = read_tensors(path)
        if "betatron" not in strings:
            raise ValueError(
                f"{path}: holds arrays, but no network of Betatron; Network.from_safetensors reads "
                "weights with a description of the activation functions"
            )
        try:
            text = json.loads(strings["betatron"])
            if not isinstance(text, dict):
                raise ValueError(f"its description is a {type(text).__name__}, not an object")
            if text["file"] != _FILE or text["version"] != 1:
                raise ValueError(f"{text['file']!r}, version {text['version']}, is not known")
            listed = text["layers"]
            if not isinstance(listed, list) or not all(isinstance(d, dict) for d in listed):
                raise ValueError("its layers are no list of objects")
            layers = [
                Layer(
                    weights=arrays[f"layers.{k}.weight"],
                    bias=arrays.get(f"layers.{k}.bias"),
                    slope=arrays.get(f"layers.{k}.slope"),
                    **described,
                )
                for k, described in enumerate(listed, 1)
            ]
            return cls(
                layers,
                name=text["name"],
                format=text["format"],
                metadata=text["metadata"],
                extras={
                    key.removeprefix("extras."): value
                    for key, value in arrays.items()
                    if key.startswith("extras.")
                },
                **{key: arrays[key] for key in _NORMALISATION},
            )
        except KeyError as error:
            raise ValueError(f"{path}: {error.args[0]!r} is missing") from error
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}: {error}") from error

    def to_header(self, path: str | Path, name: str = "", weights: str = "included") -> list[Path]:
        """Write a C++ header that evaluates this network in single precision, without Betatron.

        It needs C++17 and GCC or Clang, plans all memory when it is compiled, allocates nothing and
        depends on nothing. `name`::run(in, out, count, memory) takes columns of float or double.

        Parameters
        ----------
        path
            The new header.
        name
            The namespace that everything is in; by default the name of the file.
        weights
            "included": the numbers are in the header. "separate": they are in a file beside it,
            with the ending .bin, which the generated function load() reads.

        Returns
        -------
        The files that were written.

        Raises
        ------
        FileExistsError
            If there is such a file already.
        ValueError
            For a name that is no identifier, or another word for weights.
        """
        if weights not in ("included", "separate"):
            raise ValueError(f"weights = {weights!r} must be 'included' or 'separate'")
        path = Path(path)
        files = [path] if weights == "included" else [path, path.with_suffix(".bin")]
        for file in files:
            if file.exists():
                raise FileExistsError(f"{file} exists")
        header, numbers = self._core.header(name or path.stem, weights == "included")
        for file, content in zip(files, (header.encode(), numbers), strict=False):
            with file.open("xb") as opened:
                opened.write(content)
        return files

    @classmethod
    def from_torch(cls, model: Any, **how: Any) -> Network:
        """From PyTorch: a `torch.nn.Sequential`, or a state dictionary with a description.

        See `betatron.surrogate.readers.from_torch`.
        """
        from betatron.surrogate.readers import from_torch

        return from_torch(model, **how)

    @classmethod
    def from_safetensors(cls, path: str | Path, **how: Any) -> Network:
        """From a safetensors file with the weights of layers.

        See `betatron.surrogate.readers.from_safetensors`.
        """
        from betatron.surrogate.readers import from_safetensors

        return from_safetensors(path, **how)

    @classmethod
    def from_onnx(cls, path: str | Path, **how: Any) -> Network:
        """From an ONNX file (needs the package onnx). See `betatron.surrogate.onnx.from_onnx`."""
        from betatron.surrogate.onnx import from_onnx

        return from_onnx(path, **how)


_REAL = (np.dtype(np.float32), np.dtype(np.float64))
_NORMALISATION = ("input_offset", "input_scale", "output_offset", "output_scale")


def _compact(value: ArrayLike) -> np.ndarray:
    array = np.asarray(value, dtype=np.float64)
    single = array.astype(np.float32)
    return single if np.array_equal(single, array) else array


def _is_table(value: Any, dtype: np.dtype | None) -> bool:
    """One array whose rows can be used as they are: what is mostly given, and told quickly."""
    return (
        type(value) is np.ndarray
        and value.ndim == 2
        and (value.dtype == dtype if dtype is not None else value.dtype in _REAL)
        and value.flags.c_contiguous
    )


def _columns(
    what: str, value: Columns, wanted: int, dtype: np.dtype | None = None
) -> list[np.ndarray]:
    """Rows as arrays of neighbouring numbers of one type, without a copy where that is possible."""
    if _is_table(value, dtype) and len(value) == wanted:
        return list(value)
    if value is None or isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise TypeError(f"{what} must be an array or columns, got {type(value).__name__}")
    columns = [np.asarray(c) for c in value]
    if len(columns) != wanted or any(c.ndim != 1 for c in columns):
        raise ValueError(
            f"{what}: shape {np.shape(value)} must be ({wanted}, n): one row for each column"
        )
    kind = dtype or np.result_type(*columns)
    if kind not in _REAL:
        if dtype is None and np.can_cast(kind, np.float64):
            kind = np.dtype(np.float64)
        else:
            raise TypeError(f"{what}: numbers of type {kind} must be float32 or float64")
    if len({c.size for c in columns}) != 1:
        raise ValueError(f"{what}: columns of different lengths {[c.size for c in columns]}")
    return [np.ascontiguousarray(c, dtype=kind) for c in columns]


def _writable_columns(
    what: str, value: Columns, wanted: int, dtype: np.dtype, n: int
) -> list[np.ndarray]:
    if not isinstance(value, Iterable):
        raise TypeError(f"{what} must be an array or columns, got {type(value).__name__}")
    columns = list(value)
    if len(columns) != wanted:
        raise ValueError(f"{what}: {len(columns)} rows, expected {wanted}")
    if _is_table(value, dtype) and value.shape[1] == n and value.flags.writeable:
        return columns
    for c in columns:
        if (
            not isinstance(c, np.ndarray)
            or c.shape != (n,)
            or c.dtype != dtype
            or not c.flags.c_contiguous
            or not c.flags.writeable
        ):
            raise ValueError(
                f"{what}: each row must be a writable array of {n} neighbouring numbers of type "
                f"{dtype}"
            )
    return columns
