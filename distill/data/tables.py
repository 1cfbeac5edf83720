"""The prepared tables: where `prepare` writes them and how later stages read them.

items.parquet        item_id, title, category, attributes, split, text
keyphrases.parquet   keyphrase, search_volume, trainable
NAME.parquet         training rows of clicks, search_relevance, judgements, recommendations
holdout/NAME.parquet the same tables' rows of held-out items, for evaluation only
human.parquet, judge_agreement.parquet, blocklist.parquet
truth/truth.parquet  the simulated marketplace's truth, for evaluation only
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from distill.data.schema import TABLES, Table

SPLIT = ("clicks", "search_relevance", "judgements", "recommendations")  # split into training and held-out rows
TRUTH = "truth.parquet"

Columns = dict[str, Any]  # numbers and flags as numpy arrays, texts as Arrow arrays


def clear(destination: Path) -> None:
    """Makes the folder and removes the tables that an earlier run may have left in it."""
    (destination / "holdout").mkdir(parents=True, exist_ok=True)
    for name in TABLES:
        (destination / f"{name}.parquet").unlink(missing_ok=True)
        (destination / "holdout" / f"{name}.parquet").unlink(missing_ok=True)
    (destination / "truth" / TRUTH).unlink(missing_ok=True)


def merge_duplicates(table: Table, columns: Columns) -> tuple[Columns, int]:
    """Rows sorted by item, keyphrase and the table's further key, one each, and how many were merged away.

    Of repetitions the last counts, except in `clicks`: there impressions and clicks add up and position becomes its
    mean weighted by impressions.
    """
    rows = len(columns["item"])
    if not rows:
        return columns, 0
    keys = [columns["item"], columns["keyphrase"]]
    keys += [columns[name].dictionary_encode().indices.to_numpy() for name in table.key]
    order = np.lexsort(keys[::-1])  # stable: repetitions stay in the order of the file
    changes = np.zeros(rows - 1, bool)
    for key in keys:
        changes |= np.diff(key[order]) != 0
    starts = np.concatenate([[0], np.flatnonzero(changes) + 1])
    last = order[np.concatenate([starts[1:], [rows]]) - 1]
    out = {
        name: column.take(pa.array(last)) if isinstance(column, pa.Array) else column[last]
        for name, column in columns.items()
    }
    if table.name == "clicks":
        shown, position = columns["impressions"][order], columns["position"][order]
        out["impressions"] = np.add.reduceat(shown, starts)
        out["clicks"] = np.add.reduceat(columns["clicks"][order], starts)
        placed = ~np.isnan(position)
        # Rows never shown weigh next to nothing, but still give a position where there is no other.
        weight = np.where(placed, np.maximum(shown, 1e-9), 0.0)
        total = np.add.reduceat(weight, starts)
        mean = np.add.reduceat(weight * np.where(placed, position, 0.0), starts) / np.where(total > 0, total, 1.0)
        alone = np.diff(starts, append=rows) == 1
        out["position"] = np.where(alone, position[starts], np.where(total > 0, mean, np.nan))
    return out, rows - len(last)


class Writer:
    """Writes prepared tables."""

    def __init__(self, destination: Path, item_ids: pa.Array, keyphrases: pa.Array):
        self._destination, self._item_ids, self._keyphrases = destination, item_ids, keyphrases

    def path(self, name: str) -> Path:
        path = self._destination / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def items(self, items: pa.Table, texts: Sequence[str], holdout: np.ndarray) -> None:
        """`items` in the types of `schema`, with the texts that stand for them and their split, bool [N]."""
        split = pa.array(np.where(holdout, "holdout", "train").astype(object), pa.string())
        items = items.select(["item_id", "title", "category", "attributes"])
        pq.write_table(
            items.append_column("split", split).append_column("text", pa.array(texts, pa.string())), self.path("items")
        )

    def keyphrases(self, search_volume: np.ndarray, trainable: np.ndarray) -> None:
        """Search volume float [K], NaN where unknown, and bool [K]: may stand in a training table."""
        volume = pa.array(search_volume, mask=np.isnan(search_volume)).cast(pa.int64())
        columns = {"keyphrase": self._keyphrases, "search_volume": volume, "trainable": pa.array(trainable)}
        pq.write_table(pa.table(columns), self.path("keyphrases"))

    def pairs(self, table: Table, columns: Columns, rows: np.ndarray, name: str) -> None:
        """The rows chosen by the bool mask `rows`, item and keyphrase numbers as ids again."""
        chosen = pa.array(np.flatnonzero(rows))
        out = {}
        for column in table.columns:
            if column.kind in ("item", "keyphrase"):
                ids = self._item_ids if column.kind == "item" else self._keyphrases
                numbers = columns[column.kind][rows]
                out[column.name] = ids.take(pa.array(numbers, mask=numbers < 0))
            elif isinstance(values := columns[column.name], pa.Array):
                out[column.name] = values.take(chosen)
            elif column.kind == "flag":
                out[column.name] = pa.array(values[rows])
            else:
                numbers = pa.array(values[rows], mask=np.isnan(values[rows]))
                out[column.name] = numbers.cast(pa.int64()) if column.kind == "integer" else numbers
        pq.write_table(pa.table(out), self.path(name))


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
        return self.pairs(pq.read_table(path))

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
        """Pairs that must not be recommended; item −1 blocks a keyphrase everywhere."""
        return self._pairs("blocklist")

    def recommendations(self) -> dict[str, np.ndarray] | None:
        """What other sources already recommend, for training and held-out items alike."""
        training, holdout = self._pairs("recommendations"), self._pairs("holdout/recommendations")
        parts = [table for table in (training, holdout) if table is not None]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else None

    def truth(self) -> dict[str, np.ndarray] | None:
        """True grades (and exposure) of the simulated marketplace's pairs; for evaluation only."""
        return self._pairs("truth/truth")
