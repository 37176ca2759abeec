"""Networks from PyTorch modules, state dictionaries and safetensors files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from betatron.surrogate.network import ACTIVATIONS, Layer, Network
from betatron.surrogate.tensors import read_tensors

_SUPPORTED = (
    "Linear, ReLU, LeakyReLU, PReLU, Tanh, Sigmoid, SiLU, GELU, Identity, Dropout, Flatten and "
    "Sequential of these"
)


def from_torch(
    model: Any,
    *,
    activations: str | Sequence[str] | None = None,
    skips: Mapping[int, int] | None = None,
    skip_inside: bool = False,
    slope: float = 0.01,
    **network: Any,
) -> Network:
    """A network from PyTorch.

    Parameters
    ----------
    model
        A `torch.nn.Sequential`, or a state dictionary (names to tensors or arrays) whose layers
        stand in their order: ``*.weight`` with two axes is a layer, ``*.bias`` of the same name its
        bias, a ``*.weight`` with one axis and no bias that follows it the slopes of a PReLU.
    activations
        Of a state dictionary, needed there: one name for each layer (see `Layer`), or one for all
        but the last.
    skips
        Layer number (from 1) -> number of the layer whose result it adds (0: the inputs).
    skip_inside
        They are added before the activation function, else behind it.
    slope
        Of "leaky_relu" in a state dictionary.
    **network
        Further arguments of `Network`: name, input_offset, input_scale, ...

    Raises
    ------
    ValueError
        For modules that are not supported, shapes that do not fit, weights that are not finite; the
        message names the module or layer.
    """
    if isinstance(model, Mapping):
        layers = _from_state(model, activations, slope)
    else:
        if activations is not None:
            raise ValueError("activations are taken from the module; give them with a state_dict")
        layers = _from_module(model)
    for number, source in (skips or {}).items():
        if not 1 <= number <= len(layers):
            raise ValueError(f"skips: there is no layer {number}; there are {len(layers)}")
        layers[number - 1] |= {"skip": source, "skip_inside": skip_inside}
    return Network([Layer(**layer) for layer in layers], **network)


def from_safetensors(path: str | Path, **how: Any) -> Network:
    """A network from a safetensors file: one of `Network.save`, or the weights of layers, with the
    keywords of `from_torch` for a state dictionary.

    The layers are taken in the order of their names, numbers in them by value.

    Raises
    ------
    ValueError
        As `read_tensors` and `from_torch`.
    """
    arrays, strings = read_tensors(path)
    if "betatron" in strings:
        if how:
            raise ValueError(
                f"{path}: says all about its network; {', '.join(how)} cannot be given"
            )
        return Network.load(path)
    ordered = dict(sorted(arrays.items(), key=lambda item: _by_number(item[0])))
    return from_torch(ordered, **how)


def _by_number(name: str) -> list[tuple[int, int, str]]:
    return [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in name.split(".")]


def _array(value: Any, what: str) -> np.ndarray:
    """A tensor of PyTorch, or an array, in double precision."""
    if hasattr(value, "detach"):
        value = value.detach().cpu().double().numpy()
    try:
        return np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{what}: expected numbers, got {type(value).__name__}") from error


def _from_state(
    state: Mapping[str, Any], activations: str | Sequence[str] | None, slope: float
) -> list[dict[str, Any]]:
    layers: list[dict[str, Any]] = []
    for name, value in state.items():
        prefix, _, kind = name.rpartition(".")
        array = _array(value, name)
        if kind == "weight" and array.ndim == 2:
            layers.append({"name": prefix, "weights": array})
        elif kind == "weight" and array.ndim == 1 and f"{prefix}.bias" not in state and layers:
            layers[-1]["slope"] = array
        elif kind == "bias" and np.ndim(state.get(f"{prefix}.weight")) == 2:
            continue  # below: it may stand in front of its weights
        else:
            raise ValueError(_unknown_tensor(name, array))
    for layer in layers:
        if f"{layer['name']}.bias" in state:
            layer["bias"] = _array(state[f"{layer['name']}.bias"], layer["name"])
    if not layers:
        raise ValueError("the state dictionary has no layer: no *.weight with two axes")
    if activations is None:
        raise ValueError(
            "a state dictionary does not say what its activation functions are: give activations, "
            f"one of {', '.join(ACTIVATIONS)}, or one for each of the {len(layers)} layers"
        )
    names = (
        [activations] * (len(layers) - 1) + ["identity"]
        if isinstance(activations, str)
        else list(activations)
    )
    if len(names) != len(layers):
        raise ValueError(f"{len(names)} activations for {len(layers)} layers")
    for layer, activation in zip(layers, names, strict=True):
        layer["activation"] = activation
        if activation == "leaky_relu":
            layer.setdefault("slope", [slope])
    return layers


def _unknown_tensor(name: str, array: np.ndarray) -> str:
    return (
        f"tensor {name!r} of shape {array.shape} belongs to no fully connected layer "
        "(*.weight with two axes, *.bias) and to no PReLU (*.weight with one axis)"
    )


def _from_module(model: Any) -> list[dict[str, Any]]:
    layers: list[dict[str, Any]] = []

    def activate(where: str, name: str, slope: Any = None) -> None:
        if not layers or "activation" in layers[-1]:
            raise ValueError(
                f"{where}: an activation function must stand behind a Linear, and be the only one "
                "there"
            )
        layers[-1]["activation"] = name
        if slope is not None:
            layers[-1]["slope"] = slope

    def visit(module: Any, path: str) -> None:
        kind = type(module).__name__
        where = f"module {path!r} ({kind})" if path else f"the module ({kind})"
        if kind == "Sequential":
            for name, child in module.named_children():
                visit(child, f"{path}.{name}" if path else name)
        elif kind == "Linear":
            layer = {"name": path, "weights": _array(module.weight, where)}
            if module.bias is not None:
                layer["bias"] = _array(module.bias, where)
            layers.append(layer)
        elif kind in ("ReLU", "Tanh", "Sigmoid", "SiLU"):
            activate(where, kind.lower())
        elif kind == "LeakyReLU":
            activate(where, "leaky_relu", [float(module.negative_slope)])
        elif kind == "PReLU":
            activate(where, "prelu", _array(module.weight, where))
        elif kind == "GELU":
            activate(where, "gelu_tanh" if module.approximate == "tanh" else "gelu")
        elif kind not in ("Identity", "Dropout", "Flatten"):  # without effect in evaluation
            raise ValueError(
                f"{where} is not supported; supported: {_SUPPORTED}. Other modules: export them to "
                "ONNX, or give their state_dict() with a description"
            )

    visit(model, "")
    if not layers:
        raise ValueError("the module has no Linear")
    return layers
