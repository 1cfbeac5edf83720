"""The tables of a data directory, as data, and the rules that a row must keep.

Every format arrives here as columns of text or numbers (`readers`), so a rule is written once, over whole columns.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from distill.data.json_objects import RepeatedKey, unique_keys

_BLANK = r"^[\s\pC\pZ\x{2065}]*$"  # the last one is in no class: invisible like its neighbours, but unassigned
_TRUE, _FALSE = ("1", "true", "1.0"), ("0", "false", "0.0")  # a column of flags with gaps is one of floats in pandas
FORMATS = ("parquet", "jsonl", "tsv", "csv")
TRUTH = "truth.parquet"  # of a simulated marketplace: copied, for evaluation only
LARGEST_INTEGER = 2**53  # from here on float64 skips integers, so this one may have been another
_LARGEST_NUMBER = float(np.finfo(np.float32).max)  # models compute in float32


TEXT_KINDS = ("text", "item", "keyphrase", "choice")  # kinds of column that hold a text


class DataError(ValueError):
    """A data directory that cannot be used as it is; the message names the file and what to do."""


@dataclasses.dataclass(frozen=True)
class Column:
    """One column: `kind` is text, item, keyphrase, choice, integer, number, flag, names or map."""

    name: str
    kind: str
    required: bool = True  # the table must have it
    empty: bool = False  # a row may leave it empty
    low: float = -np.inf
    high: float = np.inf
    choices: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Table:
    """One table. Rows that agree in item, keyphrase and `key` are duplicates."""

    name: str
    columns: tuple[Column, ...]
    left_out: str = ""  # what a run does without when the table is missing
    needed: bool = False  # no run does without it
    key: tuple[str, ...] = ()
    either: tuple[str, ...] = ()  # columns of which the table must have one

    @property
    def required(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns if column.required)


_ITEM = Column("item_id", "item")
_KEYPHRASE = Column("keyphrase", "keyphrase")
_REFEREE_SPLIT = Column("split", "choice", choices=("valid", "test"))

TABLES: dict[str, Table] = {
    table.name: table
    for table in (
        Table(
            "items",
            needed=True,
            columns=(
                Column("item_id", "text"),
                Column("title", "text"),
                Column("category", "names", required=False, empty=True),
                Column("attributes", "map", required=False, empty=True),
                Column("split", "choice", required=False, empty=True, choices=("train", "holdout")),
            ),
        ),
        Table(
            "keyphrases",
            needed=True,
            columns=(
                Column("keyphrase", "text"),
                Column("search_volume", "integer", required=False, empty=True, low=0),
            ),
        ),
        Table(
            "human",
            (
                _ITEM,
                _KEYPHRASE,
                Column("label", "text", required=False, empty=True),
                Column("gain", "number", low=0, high=1),
                _REFEREE_SPLIT,
            ),
            left_out="the metrics human/*; no keyphrase can be kept out of training as a human query",
        ),
        Table(
            "clicks",
            (
                _ITEM,
                _KEYPHRASE,
                Column("impressions", "integer", low=0),
                Column("clicks", "integer", low=0),
                Column("position", "number", required=False, empty=True, low=0),
            ),
            left_out="the student's clicks task",
        ),
        Table(
            "events",  # counted into `clicks`
            (
                _ITEM,
                _KEYPHRASE,
                Column("event", "choice", required=False, empty=True, choices=("impression", "click")),
                Column("clicked", "flag", required=False, empty=True),
                Column("position", "integer", required=False, empty=True, low=0),
            ),
            either=("event", "clicked"),
        ),
        Table(
            "search_relevance",
            (_ITEM, _KEYPHRASE, Column("score", "number"), Column("passed", "flag")),
            left_out="the student's search_relevance task and the metrics align/search_pass and align/both",
        ),
        Table(
            "judgements",
            (
                _ITEM,
                _KEYPHRASE,
                Column("grade", "integer", low=0, high=3),
                Column("judge", "text"),
                Column("rubric", "text"),
            ),
            left_out="the grades that the `replay` judge reads (assistant and distillation need some) and the metrics "
            "holdout/*",
            key=("judge", "rubric"),
        ),
        Table(
            "judge_agreement",
            (_ITEM, _KEYPHRASE, Column("grade", "integer", low=0, high=3), Column("human", "text"), _REFEREE_SPLIT),
            left_out="the metrics judge/*",
        ),
        Table(
            "recommendations",
            (_ITEM, _KEYPHRASE, Column("source", "text")),
            left_out="de-duplication against other sources' keyphrases, in recommending and in the protocol",
            key=("source",),
        ),
        Table(
            "blocklist",
            (_KEYPHRASE, Column("item_id", "item", required=False, empty=True)),
            left_out="blocking of keyphrases",
        ),
    )
}


class Problems:
    """The first thing wrong with each row of a chunk."""

    def __init__(self, rows: int):
        self.codes = np.zeros(rows, np.int32)  # 0: nothing wrong
        self.reasons = [""]

    def add(self, bad: np.ndarray, reason: str) -> None:
        """Notes `reason` for the rows of the bool mask `bad` that have no earlier reason."""
        fresh = bad & (self.codes == 0)
        if fresh.any():
            self.codes[fresh] = len(self.reasons)
            self.reasons.append(reason)

    def reason(self, row: int) -> str:
        return self.reasons[self.codes[row]]

    @property
    def good(self) -> np.ndarray:
        return self.codes == 0


def _mask(array: pa.Array | pa.ChunkedArray) -> np.ndarray:
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    return array.to_numpy(zero_copy_only=False).astype(bool)


def _is_numeric(array: pa.Array) -> bool:
    return pa.types.is_integer(array.type) or pa.types.is_floating(array.type)


def _trimmed(array: pa.Array) -> pa.Array:
    if not pa.types.is_string(array.type):
        array = array.cast(pa.string())
    return pc.utf8_trim_whitespace(array.fill_null(""))


def _text(column: Column, array: pa.Array, problems: Problems) -> pa.Array:
    text = _trimmed(array)
    if not column.empty:
        blank = _mask(pc.match_substring_regex(text, _BLANK))  # invisible characters alone are no text
        problems.add(blank, f"{column.name}: empty text")
    return text


def choice_text(array: pa.Array) -> pa.Array:
    """Values of a column of choices as they are compared: text in small letters, without blanks around it."""
    return pc.utf8_lower(_trimmed(array))


def _choice(column: Column, array: pa.Array, problems: Problems) -> pa.Array:
    text = choice_text(array)
    allowed = (*column.choices, "") if column.empty else column.choices
    wrong = ~_mask(pc.is_in(text, pa.array(allowed)))
    problems.add(wrong, f"{column.name}: not one of {', '.join(column.choices)}")
    return text


def _number(column: Column, array: pa.Array, problems: Problems) -> np.ndarray:
    """float64 [rows]; NaN where empty or wrong."""
    if _is_numeric(array):
        empty = _mask(array.is_null())
        values = array.cast(pa.float64(), safe=False).fill_null(0.0).to_numpy().copy()
    else:
        text = _trimmed(array)
        empty = _mask(pc.equal(text, ""))
        written = pc.match_substring_regex(text, r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$")
        named = _mask(pc.match_substring_regex(text, r"(?i)^[+-]?(nan|inf|infinity)$"))
        problems.add(named, f"{column.name}: NaN or infinite")
        problems.add(~_mask(written) & ~named & ~empty, f"{column.name}: not a number")
        values = pc.if_else(written, text, "0").cast(pa.float64()).to_numpy().copy()
    problems.add(~np.isfinite(values), f"{column.name}: NaN or infinite")
    if not column.empty:
        problems.add(empty, f"{column.name}: empty")
    values[~np.isfinite(values)] = 0.0
    if column.kind == "integer":
        problems.add(values != np.floor(values), f"{column.name}: not a whole number")
        problems.add(np.abs(values) >= LARGEST_INTEGER, f"{column.name}: 2^53 or more")
    problems.add(np.abs(values) > _LARGEST_NUMBER, f"{column.name}: beyond {_LARGEST_NUMBER:.1e}")
    if column.low == 0 and np.isinf(column.high):
        problems.add(values < 0, f"{column.name}: negative")
    outside = (values < column.low) | (values > column.high)
    problems.add(outside, f"{column.name}: outside {column.low:g}–{column.high:g}")
    values[empty] = np.nan
    return values


def _flag(column: Column, array: pa.Array, problems: Problems) -> np.ndarray:
    text = pc.utf8_lower(_trimmed(array))
    given = _mask(pc.not_equal(text, ""))
    known = _mask(pc.is_in(text, pa.array([*_TRUE, *_FALSE])))
    problems.add(~known & (given if column.empty else True), f"{column.name}: not 0, 1, true or false")
    value = _mask(pc.is_in(text, pa.array(_TRUE)))
    return np.where(given, value, -1).astype(np.int8) if column.empty else value


def _as_name(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise TypeError
    return str(value).strip()


def _names(text: str) -> list[str]:
    value = json.loads(text)
    if not isinstance(value, list):
        raise TypeError
    return [name for name in map(_as_name, value) if name]


def _map(text: str) -> list[tuple[str, str]]:
    value = json.loads(text, object_pairs_hook=unique_keys)
    if not isinstance(value, dict):
        raise TypeError
    return [
        (key, inner if isinstance(inner, str) else json.dumps(inner, ensure_ascii=False))
        for key, inner in sorted(value.items())
        if inner is not None
    ]


def _nested(
    column: Column, array: pa.Array, problems: Problems, read: Callable[[str], list], kind: pa.DataType, what: str
) -> pa.Array:
    """Reads JSON text once per distinct value: categories repeat."""
    encoded = _trimmed(array).dictionary_encode()
    values: list[list | None] = []
    repeated: dict[str, list[int]] = {}  # by reason
    for place, text in enumerate(encoded.dictionary.to_pylist()):
        try:
            value = read(text) if text and text != "null" else []
            pa.array([value], kind)  # lone surrogates from JSON escapes end here
            values.append(value)
        except (ValueError, TypeError, RecursionError, pa.ArrowInvalid) as error:
            values.append(None)
            if isinstance(error, RepeatedKey):
                repeated.setdefault(str(error), []).append(place)
    for reason, places in repeated.items():
        problems.add(_mask(pc.is_in(encoded.indices, pa.array(places, pa.int32()))), f"{column.name}: {reason}")
    typed = pa.array(values, kind).take(encoded.indices)
    problems.add(_mask(typed.is_null()), f"{column.name}: not {what}")
    return typed


def read_column(column: Column, array: pa.Array, problems: Problems) -> pa.Array | np.ndarray:
    """`array` (text or numbers, as a reader gives it) in the column's own type; what breaks a rule goes to `problems`.

    Returns:
      text, item, keyphrase, choice: string array, trimmed. integer, number: float64, NaN where empty.
      flag: bool; where it may be empty int8, −1 for that. names: list<string> array. map: map<string, string> array.
    """
    if column.kind in ("integer", "number"):
        return _number(column, array, problems)
    if column.kind == "flag":
        return _flag(column, array, problems)
    if column.kind == "choice":
        return _choice(column, array, problems)
    if column.kind == "names":
        return _nested(column, array, problems, _names, pa.list_(pa.string()), "a JSON list of names")
    if column.kind == "map":
        return _nested(column, array, problems, _map, pa.map_(pa.string(), pa.string()), "a JSON map")
    return _text(column, array, problems)


def read_columns(table: Table, columns: dict[str, pa.Array], problems: Problems) -> dict[str, Any]:
    """All columns of `table` in their own types; a column that the file lacks is empty in every row."""
    rows = len(problems.codes)
    values = {
        column.name: read_column(column, columns.get(column.name, pa.nulls(rows, pa.string())), problems)
        for column in table.columns
    }
    if table.name == "clicks":
        problems.add(values["clicks"] > values["impressions"], "clicks > impressions")
    if table.name == "events":
        _count_events(values, problems)
    return values


def _count_events(values: dict[str, Any], problems: Problems) -> None:
    """Replaces `event` and `clicked` by the impressions and clicks that the row stands for: 0 or 1 of each."""
    event, clicked = values.pop("event"), values.pop("clicked")
    impression, click = (_mask(pc.equal(event, name)) for name in ("impression", "click"))
    problems.add(~impression & ~click & (clicked < 0), "event: empty, and so is clicked")
    problems.add(click & (clicked == 0), "event: a click, but clicked is 0")
    values["impressions"] = (~click).astype(np.float64)
    values["clicks"] = (click | (clicked > 0)).astype(np.float64)
