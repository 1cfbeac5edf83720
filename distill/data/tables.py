"""The prepared tables: where `prepare` writes them and how later stages read them.

items.parquet        item_id, title, category, attributes, split, text
keyphrases.parquet   keyphrase, search_volume, trainable
NAME.parquet         training rows of clicks, search_relevance, judgements, recommendations
holdout/NAME.parquet the same tables' rows of held-out items, for evaluation only
human.parquet, judge_agreement.parquet
blocklist.parquet    what must not be recommended; keyphrases that the keyphrases table lacks stand in it too
propensity.json      chance of examination by rank, where pairs were shown at different ranks
truth/truth.parquet  the simulated marketplace's truth, for evaluation only

A table of pairs is one file or a folder of `part-*.parquet`, whichever wrote it.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from distill.data.propensity import PositionBias
from distill.data.schema import LARGEST_INTEGER, TABLES, TRUTH, DataError, Table
from distill.data.table_writer import TableWriter

SPLIT = ("clicks", "search_relevance", "judgements", "recommendations")  # split into training and held-out rows
PROPENSITY = "propensity.json"
_KINDS = {"integer": pa.int64(), "number": pa.float64(), "flag": pa.bool_()}


def clear(destination: Path) -> None:
    """Makes the folder and removes the tables that an earlier run may have left in it."""
    (destination / "holdout").mkdir(parents=True, exist_ok=True)
    names = [f"{folder}{name}.parquet" for name in TABLES for folder in ("", "holdout/")]
    for path in [destination / name for name in (*names, f"truth/{TRUTH}", PROPENSITY)]:
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
    for path in (*destination.glob(".*.tmp"), *(destination / "holdout").glob(".*.tmp")):
        path.unlink()


def read(path: Path) -> pa.Table:
    """A prepared table: a file, or a folder of parts in the order of their names."""
    if path.is_dir():
        return pa.concat_tables(pq.read_table(part) for part in sorted(path.glob("part-*.parquet")))
    return pq.read_table(path)


def final_schema(table: Table) -> pa.Schema:
    """Of a prepared table of pairs."""
    return pa.schema([(column.name, _KINDS.get(column.kind, pa.string())) for column in table.columns])


def final_table(table: Table, rows: pa.Table, item_ids: pa.Array, keyphrases: pa.Array) -> pa.Table:
    """`rows` as they are written, in `final_schema`: NaN becomes null, numbers of items and keyphrases become ids.

    Columns of `rows`: `item`, int32, −1 for any, and `keyphrase`, int32, beside the table's own ones.

    Raises:
      DataError: what a pair's counts add up to is no exact integer any more.
    """
    out = []
    for column in table.columns:
        if column.kind in ("item", "keyphrase"):
            numbers = rows[column.kind].combine_chunks().to_numpy()
            names = item_ids if column.kind == "item" else keyphrases
            out.append(names.take(pa.array(numbers, mask=numbers < 0)))
        elif column.kind in ("integer", "number"):
            values = rows[column.name].to_numpy()
            if column.kind == "integer" and (values >= LARGEST_INTEGER).any():
                row = int(np.argmax(values >= LARGEST_INTEGER))
                pair = f"{item_ids[rows['item'][row].as_py()]} | {keyphrases[rows['keyphrase'][row].as_py()]}"
                raise DataError(
                    f"table {table.name!r}: {column.name} of the pair {pair} add up to {values[row]:.3g}, 2^53 or "
                    "more. Correct its rows, or remove them."
                )
            out.append(pa.array(values, mask=np.isnan(values)).cast(_KINDS[column.kind]))
        else:
            out.append(rows[column.name])
    return pa.table(out, schema=final_schema(table))


class Writer:
    """Writes prepared tables."""

    def __init__(self, destination: Path, item_ids: pa.Array, keyphrases: pa.Array):
        self._destination, self._item_ids, self._keyphrases = destination, item_ids, keyphrases

    def path(self, name: str) -> Path:
        path = self._destination / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _write(self, name: str, table: pa.Table) -> None:
        with TableWriter(self.path(name), table.schema) as file:
            file.write(table)

    def items(self, items: pa.Table, texts: Sequence[str], holdout: np.ndarray) -> None:
        """`items` in the types of `schema`, with the texts that stand for them and their split, bool [N]."""
        split = pa.array(np.where(holdout, "holdout", "train").astype(object), pa.string())
        items = items.select(["item_id", "title", "category", "attributes"])
        self._write("items", items.append_column("split", split).append_column("text", pa.array(texts, pa.string())))

    def keyphrases(self, search_volume: np.ndarray, trainable: np.ndarray) -> None:
        """Search volume float [K], NaN where unknown, and bool [K]: may stand in a training table."""
        volume = pa.array(search_volume, mask=np.isnan(search_volume)).cast(pa.int64())
        columns = {"keyphrase": self._keyphrases, "search_volume": volume, "trainable": pa.array(trainable)}
        self._write("keyphrases", pa.table(columns))


class Prepared:
    """The tables that `prepare` wrote to `path`; each is read when first asked for.

    A table of pairs is a dict of arrays of one length: `item` and `keyphrase`, int32 rows of the items and keyphrases
    (item −1: any, in the blocklist), and its other columns: numbers as numbers (NaN: none), texts as object arrays.
    """

    def __init__(self, path: Path):
        self.path = path

    @functools.cached_property
    def _items(self) -> pa.Table:
        return pq.read_table(self.path / "items.parquet")

    @functools.cached_property
    def _keyphrases(self) -> pa.Table:
        return pq.read_table(self.path / "keyphrases.parquet")

    @functools.cached_property
    def item_ids(self) -> list[str]:
        return self._items["item_id"].to_pylist()

    @functools.cached_property
    def item_texts(self) -> list[str]:
        """Leaf category and title of each item: what the encoders read."""
        return self._items["text"].to_pylist()

    @functools.cached_property
    def titles(self) -> list[str]:
        return self._items["title"].to_pylist()

    @functools.cached_property
    def categories(self) -> list[list[str]]:
        """Category path of each item, general to leaf; [] for none."""
        return self._items["category"].to_pylist()

    @functools.cached_property
    def attributes(self) -> list[dict[str, str]]:
        return [dict(pairs) for pairs in self._items["attributes"].to_pylist()]

    @functools.cached_property
    def item_is_holdout(self) -> np.ndarray:
        """bool [N]."""
        return pc.equal(self._items["split"], "holdout").to_numpy()

    @functools.cached_property
    def keyphrases(self) -> list[str]:
        return self._keyphrases["keyphrase"].to_pylist()

    @functools.cached_property
    def keyphrase_column(self) -> pa.Array:
        """`keyphrases` in Arrow's form."""
        return self._keyphrases["keyphrase"].combine_chunks()

    @functools.cached_property
    def _item_id_column(self) -> pa.Array:
        return self._items["item_id"].combine_chunks()

    @functools.cached_property
    def search_volume(self) -> np.ndarray:
        """float64 [K], NaN where unknown."""
        return self._keyphrases["search_volume"].cast(pa.float64()).to_numpy()

    @functools.cached_property
    def trainable(self) -> np.ndarray:
        """bool [K]: False for human queries and near-duplicates of them."""
        return self._keyphrases["trainable"].to_numpy()

    def _pairs(self, name: str) -> dict[str, np.ndarray] | None:
        path = self.path / f"{name}.parquet"
        if not path.exists():
            return None
        return self.pairs(read(path))

    def pairs(self, table: pa.Table) -> dict[str, np.ndarray]:
        """A table with columns `item_id` and `keyphrase` in the form described above."""
        columns = {}
        for source, target, ids in (
            ("item_id", "item", self._items["item_id"]),
            ("keyphrase", "keyphrase", self._keyphrases["keyphrase"]),
        ):
            rows = pc.index_in(table[source], ids.combine_chunks(), skip_nulls=True)
            columns[target] = pc.fill_null(rows, -1).to_numpy().astype(np.int32)
        for column in table.column_names:
            if column not in ("item_id", "keyphrase"):
                values = table[column]
                columns[column] = values.to_numpy()
        return columns

    def pair_columns(self, item: np.ndarray, keyphrase: np.ndarray) -> dict[str, pa.Array]:
        """`item_id` and `keyphrase` of index pairs: what `pairs` reads back."""
        names = {"item_id": (self._item_id_column, item), "keyphrase": (self.keyphrase_column, keyphrase)}
        return {column: values.take(pa.array(at)) for column, (values, at) in names.items()}

    def training(self, name: str) -> dict[str, np.ndarray] | None:
        """Training rows of clicks, search_relevance, judgements or recommendations; None without such a table."""
        return self._pairs(name)

    def holdout(self, name: str) -> dict[str, np.ndarray] | None:
        """The same table's rows of held-out items; for evaluation only."""
        return self._pairs(f"holdout/{name}")

    def human(self) -> dict[str, np.ndarray] | None:
        """Human labels: label, gain (0–1), split. The referee; never for training."""
        return self._pairs("human")

    def judge_agreement(self) -> dict[str, np.ndarray] | None:
        """Pairs that judge and humans both graded: grade, human, split."""
        return self._pairs("judge_agreement")

    def blocklist(self) -> dict[str, np.ndarray] | None:
        """Pairs that must not be recommended; item −1 blocks a keyphrase everywhere.

        Entries that no keyphrase answers to are left out.
        """
        columns = self._pairs("blocklist")
        return columns and {name: column[columns["keyphrase"] >= 0] for name, column in columns.items()}

    def position_bias(self) -> PositionBias | None:
        """Chance of examination by rank as `prepare` estimated it from pairs shown at different ranks; None without."""
        path = self.path / PROPENSITY
        if not path.exists():
            return None
        values = json.loads(path.read_text())
        return PositionBias(**values | {"propensity": np.array(values["propensity"])})

    def recommendations(self) -> dict[str, np.ndarray] | None:
        """What other sources already recommend, for training and held-out items alike."""
        training, holdout = self._pairs("recommendations"), self._pairs("holdout/recommendations")
        parts = [table for table in (training, holdout) if table is not None]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else None

    def truth(self) -> dict[str, np.ndarray] | None:
        """True grades (and exposure) of the simulated marketplace's pairs; for evaluation only."""
        return self._pairs("truth/truth")
