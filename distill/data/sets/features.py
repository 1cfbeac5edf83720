"""A table of the contract as TFDS features, as an Arrow schema, and rows between the two.

A number that may be missing is float64 and NaN where it is, as in `tables.Prepared`: TFDS has no optional number, and
no number of the contract's own may stand for "none".
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from distill.data.schema import Column, Table

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

Row = dict[str, Any]

_ARROW = {
    "integer": pa.int64(),
    "number": pa.float64(),
    "flag": pa.bool_(),
    "names": pa.list_(pa.string()),
    "map": pa.map_(pa.string(), pa.string()),
}


def arrow_schema(table: Table) -> pa.Schema:
    """The types of the table's columns in Parquet; numbers that may be missing are null there."""
    return pa.schema([pa.field(column.name, _ARROW.get(column.kind, pa.string())) for column in table.columns])


def _exact_float() -> Any:
    """A float64 as its bytes: TFDS writes any other float as float32."""
    import tensorflow_datasets as tfds

    return tfds.features.Tensor(shape=(), dtype=np.float64, encoding=tfds.features.Encoding.BYTES)


def _feature(column: Column) -> Any:
    import tensorflow_datasets as tfds

    match column.kind:
        case "integer":
            return _exact_float() if column.empty else tfds.features.Scalar(np.int64)
        case "number":
            return _exact_float()
        case "flag":
            return tfds.features.Scalar(np.bool_)
        case "names":
            return tfds.features.Sequence(tfds.features.Text())
        case "map":
            return tfds.features.Sequence({"name": tfds.features.Text(), "value": tfds.features.Text()})
        case _:
            return tfds.features.Text()


def features(table: Table) -> tfds.features.FeaturesDict:
    """The TFDS features of the table's rows."""
    import tensorflow_datasets as tfds

    return tfds.features.FeaturesDict({column.name: _feature(column) for column in table.columns})


def encode(table: Table, row: Row) -> Row:
    """A row as Arrow gives it → an example for TFDS."""
    example = dict(row)
    for column in table.columns:
        value = row[column.name]
        if column.kind == "number" or (column.kind == "integer" and column.empty):
            example[column.name] = np.float64(math.nan if value is None else value)
        elif column.kind == "map":
            example[column.name] = {"name": [key for key, _ in value], "value": [inner for _, inner in value]}
    return example


def _text(value: Any) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)


def decode(table: Table, example: Row) -> Row:
    """An example as TFDS reads it → the row: texts as str, lists, maps as dicts, numbers (NaN: none) and flags."""
    row: Row = {}
    for column in table.columns:
        value = example[column.name]
        match column.kind:
            case "integer" if not column.empty:
                row[column.name] = int(value)
            case "integer" | "number":
                row[column.name] = float(value)
            case "flag":
                row[column.name] = bool(value)
            case "names":
                row[column.name] = [_text(name) for name in value]
            case "map":
                row[column.name] = dict(zip(map(_text, value["name"]), map(_text, value["value"])))
            case _:
                row[column.name] = _text(value)
    return row


def to_arrow(table: Table, rows: list[Row]) -> pa.Table:
    """Decoded rows → an Arrow table of `arrow_schema`."""
    plain = []
    for row in rows:
        plain.append(
            {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in row.items()}
        )
    for column in table.columns:
        for row in plain:
            if column.kind == "map":
                row[column.name] = list(row[column.name].items())
            elif column.kind == "integer" and row[column.name] is not None:
                row[column.name] = int(row[column.name])
    return pa.Table.from_pylist(plain, arrow_schema(table))
