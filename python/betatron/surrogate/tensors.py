"""Reading and writing safetensors files with NumPy alone.

A file is eight bytes, the length of the header (little endian); the header, JSON: for each tensor its
dtype, shape and place, and "__metadata__", strings; then the numbers, row by row, little endian.
Source: https://huggingface.co/docs/safetensors, section "Format".
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I8": "|i1", "U8": "|u1"}
NAMES = {np.dtype(v): k for k, v in DTYPES.items()}
LONGEST_HEADER = 100_000_000


def read_tensors(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The tensors of a safetensors file by name, and its metadata. BF16 becomes float32. ValueError
    names the file and what is wrong in it."""
    data = Path(path).read_bytes()
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or size > min(len(data) - 8, LONGEST_HEADER):
        raise ValueError(f"{path}: not a safetensors file (it ends within its header)")
    try:
        header = json.loads(data[8 : 8 + size])
    except ValueError as e:
        raise ValueError(f"{path}: not a safetensors file (its header is not JSON)") from e
    body = memoryview(data)[8 + size :]
    meta = header.pop("__metadata__", {})
    tensors = {}
    for name, entry in header.items():
        try:
            kind, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        except (KeyError, TypeError, ValueError) as e:
            raise ValueError(f"{path}: the header's entry of tensor {name!r} is broken") from e
        if kind != "BF16" and kind not in DTYPES:
            raise ValueError(f"{path}: tensor {name!r} has dtype {kind!r}, known are BF16, {', '.join(DTYPES)}")
        dtype = np.dtype("<u2" if kind == "BF16" else DTYPES[kind])
        count = int(np.prod(shape, dtype=np.int64))
        if not 0 <= begin <= end <= len(body) or end - begin != count * dtype.itemsize:
            raise ValueError(
                f"{path}: tensor {name!r} of shape {shape} has bytes {begin} to {end} of {len(body)}"
            )
        value = np.frombuffer(body[begin:end], dtype).reshape(shape)
        if kind == "BF16":
            value = (value.astype(np.uint32) << 16).view(np.float32)
        tensors[name] = value
    return tensors, meta


def write_tensors(path: str | Path, tensors: dict[str, np.ndarray], meta: dict[str, str]) -> None:
    """Write arrays (float, int8, uint8, int32, int64) and strings as a safetensors file."""
    header: dict[str, object] = {"__metadata__": meta}
    parts, at = [], 0
    for name, value in tensors.items():
        array = np.asarray(value)
        dtype = array.dtype.newbyteorder("<")
        if dtype not in NAMES:
            raise ValueError(f"tensor {name!r} has dtype {array.dtype}, known are {', '.join(map(str, NAMES))}")
        raw = np.ascontiguousarray(array, dtype).tobytes()
        shape = list(array.shape)
        header[name] = {"dtype": NAMES[dtype], "shape": shape, "data_offsets": [at, at + len(raw)]}
        parts.append(raw)
        at += len(raw)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    Path(path).write_bytes(len(text).to_bytes(8, "little") + text + b"".join(parts))
