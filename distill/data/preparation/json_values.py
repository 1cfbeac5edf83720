"""Rows and columns of JSON: numbers stay numbers, lists and maps become JSON text."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

from distill.data.json_objects import unique_keys
from distill.data.preparation.chunks import NOT_UTF8, is_utf8
from distill.data.schema import LARGEST_INTEGER, TEXT_KINDS


def json_text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def json_column(name: str, kind: str, values: list, faults: dict[int, str]) -> pa.Array:
    """Values of one column; numbers stay numbers, lists and maps become JSON text."""
    types = set(map(type, values)) - {type(None)}
    if types <= {str}:
        return pa.array(values, pa.string())
    if types <= {int, float} and kind in ("integer", "number"):
        return pa.array([None if value is None else _float(value) for value in values], pa.float64())
    if kind in TEXT_KINDS:
        for position, value in enumerate(values):
            if type(value) is float and value.is_integer() and abs(value) < LARGEST_INTEGER:
                values[position] = int(value)  # ids of a column with gaps, as pandas writes them
            elif type(value) not in (str, int, type(None)):
                faults.setdefault(position, f"{name}: not text")
                values[position] = None
    return pa.array(list(map(json_text, values)), pa.string())


def _float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return float("inf")


def json_row(raw: bytes) -> tuple[dict, str]:
    """The row as far as it can be told, and the reason why it is bad, or ""."""
    reason = "" if is_utf8(raw) else NOT_UTF8
    try:
        row = json.loads(raw.decode("utf-8", "replace"), object_pairs_hook=unique_keys)
        if b"\\u" in raw:
            text = json.dumps(row, ensure_ascii=False)
            if not text.isascii() and (repaired := text.encode("utf-8", "replace")) != text.encode(
                "utf-8", "surrogatepass"
            ):
                row, reason = json.loads(repaired), NOT_UTF8  # half a surrogate pair
    except (ValueError, RecursionError) as error:
        return {}, reason or f"malformed JSON: {getattr(error, 'msg', error)}"
    return (row, reason) if isinstance(row, dict) else ({}, "malformed JSON: not an object")
