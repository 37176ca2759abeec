"""Files of named arrays in the safetensors format: eight bytes with the length of a header, the
header in JSON, then the numbers. Source: https://github.com/huggingface/safetensors, "Format".

Written and read here because it is short and spares a dependency; files of the package of that
name are the same.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

_DTYPES: dict[str, np.dtype] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
_MAX_HEADER = 100 << 20


def read_tensors(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Arrays by name, in the order of their place in the file, and the strings of its metadata.

    Raises
    ------
    ValueError
        If the file is not of this format, is cut off, has bytes that belong to no tensor, or holds
        a type of numbers that is not known.
    """
    path = Path(path)
    data = path.read_bytes()
    if len(data) < 8:
        raise ValueError(f"{path}: {len(data)} bytes are too few for a safetensors file")
    size = int.from_bytes(data[:8], "little")
    if size > min(_MAX_HEADER, len(data) - 8):
        raise ValueError(f"{path}: not a safetensors file (its header would have {size} bytes)")
    try:
        header: dict[str, Any] = json.loads(data[8 : 8 + size])
        if not isinstance(header, dict):
            raise ValueError(f"it is a {type(header).__name__}, not an object")
        metadata = header.pop("__metadata__", {})
        if not isinstance(metadata, dict) or not all(
            isinstance(text, str) for text in metadata.values()
        ):
            raise ValueError("__metadata__ must hold texts by name")
        for name, entry in header.items():
            _check_entry(name, entry)
        entries = sorted(header.items(), key=lambda item: item[1]["data_offsets"][0])
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path}: not a safetensors file (its header cannot be read: {error})"
        ) from error
    body = memoryview(data)[8 + size :]
    arrays = {name: _array(path, name, entry, body) for name, entry in entries}
    place = 0
    for name, entry in entries:
        begin, end = entry["data_offsets"]
        if begin != place:
            raise ValueError(
                f"{path}: tensor {name!r} begins at byte {begin}, expected {place}: the format has "
                "no gaps"
            )
        place = end
    if place != len(body):
        raise ValueError(f"{path}: {len(body) - place} bytes behind the last tensor")
    return arrays, metadata


def _check_entry(name: str, entry: Any) -> None:
    """Raises ValueError unless the entry of a tensor has the form that the format asks for."""

    def whole(value: Any) -> bool:
        return isinstance(value, list) and all(type(n) is int and n >= 0 for n in value)

    if not isinstance(entry, dict):
        raise ValueError(f"tensor {name!r} has no description")
    for key in ("dtype", "shape", "data_offsets"):
        if key not in entry:
            raise ValueError(f"tensor {name!r} has no {key}")
    if not isinstance(entry["dtype"], str):
        raise ValueError(f"tensor {name!r}: dtype = {entry['dtype']!r} must be a text")
    if not whole(entry["shape"]):
        raise ValueError(f"tensor {name!r}: shape = {entry['shape']!r} must be whole numbers >= 0")
    offsets = entry["data_offsets"]
    if not whole(offsets) or len(offsets) != 2:
        raise ValueError(
            f"tensor {name!r}: data_offsets = {offsets!r} must be two whole numbers >= 0"
        )


def _array(path: Path, name: str, entry: dict[str, Any], body: memoryview) -> np.ndarray:
    begin, end = entry["data_offsets"]
    shape = tuple(entry["shape"])
    kind = entry["dtype"]
    dtype = np.dtype("<u2") if kind == "BF16" else _DTYPES.get(kind)
    if dtype is None:
        raise ValueError(
            f"{path}: tensor {name!r} has the type {kind}; known: BF16, {', '.join(_DTYPES)}"
        )
    count = math.prod(shape)
    if not 0 <= begin <= end <= len(body) or end - begin != count * dtype.itemsize:
        raise ValueError(
            f"{path}: tensor {name!r} of shape {shape} does not fit to bytes {begin} ... {end} "
            f"of {len(body)}"
        )
    array = np.frombuffer(body[begin:end], dtype=dtype)
    if kind == "BF16":
        array = (array.astype(np.uint32) << 16).view(np.float32)
    return array.reshape(shape)


def write_tensors(
    path: str | Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> None:
    """Write arrays and metadata. Raises FileExistsError if there is a file already."""
    names = {dtype: name for name, dtype in _DTYPES.items()}
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    offset, parts = 0, []
    for name, array in arrays.items():
        little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        if little.dtype not in names:
            raise ValueError(f"{path}: array {name!r} has the type {array.dtype}")
        part = little.tobytes()
        header[name] = {
            "dtype": names[little.dtype],
            "shape": list(array.shape),
            "data_offsets": [offset, offset + len(part)],
        }
        offset += len(part)
        parts.append(part)
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with Path(path).open("xb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        file.writelines(parts)


def alike(a: Any, b: Any) -> bool:
    """Whether they hold the same: numbers, texts, arrays, and dictionaries, sequences and
    dataclasses of them."""
    if a is b:
        return True
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return np.array_equal(a, b)
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(alike(v, b[k]) for k, v in a.items())
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(alike, a, b))
    if dataclasses.is_dataclass(a):
        return alike(vars(a), vars(b))
    return bool(a == b)
