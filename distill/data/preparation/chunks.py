"""What readers give: some rows of a file, by columns, and what the columns are called there."""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)

from __future__ import annotations

import collections
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from distill.data.schema import DataError, Table, choice_text
from distill.data.summary import LEFT_OUT

NOT_UTF8 = "not UTF-8"


@dataclasses.dataclass(frozen=True)
class Names:
    """What a table's columns, and the choices in them, are called in its files."""

    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)  # contract's name → theirs; "": left out
    # column → their value in small letters → the contract's; "": its rows are left out
    values: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Chunk:
    """Some consecutive rows of a file. Rows in `faults` (position → reason) are malformed; their values are empty."""

    lines: np.ndarray  # int64 [rows], counted from 1 in the file; for Parquet the row number
    columns: dict[str, pa.Array]  # wanted columns that the file has: text or numbers
    faults: dict[int, str]
    raw: Callable[[int], str]  # position → the row as it stands in the file
    found: tuple[str, ...]  # names of all columns in the file (of this chunk, in JSON Lines)

    def translate(self, values: Mapping[str, Mapping[str, str]]) -> None:
        """Puts the contract's values in the place of the file's (`Names.values`)."""
        for column, contract in values.items():
            if column not in self.columns:
                continue
            text = choice_text(self.columns[column])
            at = pc.index_in(text, pa.array([*contract]))
            theirs = pa.array([*contract.values()], pa.string()).take(at)
            self.columns[column] = pc.coalesce(theirs, text)
            for position in np.flatnonzero(pc.equal(theirs, "").fill_null(False)).tolist():
                self.faults.setdefault(position, LEFT_OUT)


@dataclasses.dataclass(frozen=True)
class Layout:
    """A file's place, its table, and what the table's columns are called in the file (`Names.columns`)."""

    place: str
    table: Table
    columns: Mapping[str, str]

    def named(self, found: Sequence[str], complete: bool = True) -> list[str]:
        """The file's column names with those of the contract put in their place.

        Args:
          found: names in the file.
          complete: all of them, so that what is not there is missing.

        Raises:
          DataError: a name comes twice, a mapped or required column is missing.
        """
        repeated = [name for name, count in collections.Counter(found).items() if count > 1]
        if repeated:
            raise DataError(f"{self.place}: the column {repeated[0]!r} comes twice. Rename one of them.")
        setting = f"config.data.sources.{self.table.name}.columns"
        contract = {yours: name for name, yours in self.columns.items() if yours}
        for yours, name in contract.items():
            if complete and yours not in found:
                raise DataError(
                    f"{self.place}: has no column {yours!r}, which {setting} takes for {name!r} (it has "
                    f"{', '.join(found)}). Correct the setting."
                )
        # A column that bears a contract's name which another stands for must not be taken for it.
        names = [contract.get(name, f"{name} (not mapped)" if name in self.columns else name) for name in found]
        missing = [name for name in self.table.required if name not in names]
        either = [" or ".join(self.table.either)] if self.table.either else []
        if either and not set(self.table.either) & set(names):
            missing += either
        if complete and missing:
            raise DataError(
                f"{self.place}: table {self.table.name!r} needs the column {missing[0]!r} and has only "
                f"{', '.join(found) or 'none'}. Add it, or name the one that holds it in {setting} (all that the table "
                f"needs: {', '.join([*self.table.required, *either])})."
            )
        return names

    @functools.cached_property
    def wanted(self) -> frozenset[str]:
        return frozenset(column.name for column in self.table.columns)


def is_utf8(raw: bytes) -> bool:
    try:
        raw.decode("utf-8")
        return True
    except UnicodeDecodeError:
        return False


def decoded(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace").rstrip("\r\n")
