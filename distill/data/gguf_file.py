"""GGUF files (the format of llama.cpp, versions 2 and 3): metadata, and tensors as float32 however they are quantised.

The structure is read here, because the reader of the `gguf` package makes three arrays for every token of a vocabulary
and takes seconds for what takes a tenth of one; types and dequantisation are the package's.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import numpy as np
from gguf import GGMLQuantizationType, GGUFValueType

_FORMATS = {
    GGUFValueType.UINT8: "<u1",
    GGUFValueType.INT8: "<i1",
    GGUFValueType.UINT16: "<u2",
    GGUFValueType.INT16: "<i2",
    GGUFValueType.UINT32: "<u4",
    GGUFValueType.INT32: "<i4",
    GGUFValueType.UINT64: "<u8",
    GGUFValueType.INT64: "<i8",
    GGUFValueType.FLOAT32: "<f4",
    GGUFValueType.FLOAT64: "<f8",
    GGUFValueType.BOOL: "?",
}


class _Tensor(NamedTuple):
    shape: tuple[int, ...]  # in numpy's order
    kind: GGMLQuantizationType
    start: int  # in the file, bytes
    row_bytes: int


class GgufFile:
    """A GGUF file, mapped into memory; tensors are not read before they are asked for.

    Raises:
      FileNotFoundError: no such file.
      ValueError: not a GGUF file, or one that ends too early.
    """

    def __init__(self, path: Path):
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing; give the path of a .gguf file")
        self.path = path
        try:
            self._data = np.memmap(path, np.uint8, "r").data
            self._read_structure()
        except (ValueError, IndexError, struct.error) as error:
            raise ValueError(f"{path} is not a readable GGUF file: {error}") from error

    def _read_structure(self) -> None:
        self._at = 0
        if bytes(self._data[:4]) != b"GGUF":
            raise ValueError("it does not begin with 'GGUF'")
        self._at = 4
        version = self._number("I")
        if version not in (2, 3):  # a file for big-endian machines shows here too
            raise ValueError(f"its version is {version}; only 2 and 3, little-endian, are supported")
        tensors, fields = self._number("Q"), self._number("Q")
        self._fields: dict[str, Any] = {}
        for _ in range(fields):
            name = self._text()
            self._fields[name] = self._value(GGUFValueType(self._number("I")))
        places = []
        for _ in range(tensors):
            name, axes = self._text(), self._number("I")
            shape = tuple(self._number("Q") for _ in range(axes))[::-1]
            places.append((name, shape, GGMLQuantizationType(self._number("I")), self._number("Q")))
        alignment = self._fields.get("general.alignment", gguf.GGUF_DEFAULT_ALIGNMENT)
        first = -(-self._at // alignment) * alignment
        self._tensors: dict[str, _Tensor] = {}
        for name, shape, kind, offset in places:
            row_bytes = gguf.quant_shape_to_byte_shape(shape[-1:], kind)[0]
            tensor = _Tensor(shape, kind, first + offset, row_bytes)
            if tensor.start + row_bytes * int(np.prod(shape[:-1], dtype=np.int64)) > len(self._data):
                raise ValueError(f"it ends within tensor {name}; it may be cut short")
            self._tensors[name] = tensor

    def _number(self, code: str) -> Any:
        (value,) = struct.unpack_from("<" + code, self._data, self._at)
        self._at += struct.calcsize("<" + code)
        return value

    def _take(self, size: int) -> memoryview:
        taken = self._data[self._at : self._at + size]
        if len(taken) < size:
            raise ValueError("it ends within its metadata")
        self._at += size
        return taken

    def _text(self) -> str:
        return bytes(self._take(self._number("Q"))).decode("utf-8")

    def _value(self, kind: GGUFValueType) -> Any:
        if kind == GGUFValueType.STRING:
            return self._text()
        if kind == GGUFValueType.ARRAY:
            inner, count = GGUFValueType(self._number("I")), self._number("Q")
            if inner in _FORMATS:
                dtype = np.dtype(_FORMATS[inner])
                return np.frombuffer(self._take(count * dtype.itemsize), dtype).tolist()
            return [self._value(inner) for _ in range(count)]
        dtype = np.dtype(_FORMATS[kind])
        return np.frombuffer(self._take(dtype.itemsize), dtype)[0].item()

    @property
    def keys(self) -> set[str]:
        """Names of the metadata's fields."""
        return set(self._fields)

    def get(self, key: str, default: Any = None) -> Any:
        """A field of the metadata as plain Python, or `default` where there is none."""
        return self._fields.get(key, default)

    def require(self, key: str) -> Any:
        """A field of the metadata; ValueError where there is none."""
        if key not in self._fields:
            raise ValueError(f"{self.path}: metadata field {key} is missing")
        return self._fields[key]

    @property
    def names(self) -> set[str]:
        """Names of the tensors."""
        return set(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """In numpy's order: the axis that is contiguous in memory is the last."""
        return self._tensors[name].shape

    def read(self, name: str) -> np.ndarray:
        """A tensor, dequantised to float32."""
        shape, kind, start, row_bytes = self._tensors[name]
        rows = int(np.prod(shape[:-1], dtype=np.int64))
        stored = np.frombuffer(self._data, np.uint8, rows * row_bytes, start).reshape(rows, row_bytes)
        try:
            return gguf.dequantize(stored, kind).reshape(shape)
        except NotImplementedError as error:
            raise ValueError(f"{self.path}: tensor {name} has type {kind.name}, which cannot be dequantised") from error
