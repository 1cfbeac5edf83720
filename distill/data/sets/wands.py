"""Wayfair WANDS (ECIR 2022) as tables of the contract.

There is no official split: a query's hash makes it train (half of them), `valid` or `test`. What people said of a
training query becomes `judgements` of the judge `humans:wayfair_wands`, the rest is `human`.

Partial means that the product is what the query is about but fails one of its modifiers. In the rubric `graded-v1` that
is grade 2, "the right kind of product that fails a stated requirement"; Exact is 3 and Irrelevant 0. The publication
orders the labels and names no gains; ours are their equally spaced ranks 2, 1, 0, over 2: 1, .5, 0.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from distill.data import schema
from distill.data.preparation.chunks import Chunk
from distill.data.preparation.sources import TableSource, data_file
from distill.data.sets.official import OfficialFile, PublicSet, file_hash
from distill.data.sets.queries import QueryShares, query_split
from distill.data.sets.quoted_tsv import quoted_tsv
from distill.data.sets.survey import checked

TABLES = ("items", "keyphrases", "human", "judgements")
GAINS = {"Exact": 1.0, "Partial": 0.5, "Irrelevant": 0.0}
GRADES = {"Exact": 3, "Partial": 2, "Irrelevant": 0}
SHARES = QueryShares(valid=0.1, test=0.4)

PRODUCTS, QUERIES, LABELS = "product.csv", "query.csv", "label.csv"
_REVISION = "3b74dcf4ba29ab8ff3e6a50b5b09fc627cb882b5"
_URL = f"https://raw.githubusercontent.com/wayfair/WANDS/{_REVISION}/dataset"

WANDS = PublicSet(
    name="wayfair_wands",
    title="Wayfair WANDS",
    description="Searches for furniture and home goods, Wayfair products, and what annotators said of every pair: "
    "exact, partial or irrelevant. English.",
    page="https://github.com/wayfair/WANDS",
    folder="dataset",
    revision=_REVISION,
    licence="MIT",
    citation="""@InProceedings{wands,
  title = {WANDS: Dataset for Product Search Relevance Assessment},
  author = {Chen, Yan and Liu, Shujian and Liu, Zheng and Sun, Weiyi and Baltrunas, Linas and Schroeder, Benjamin},
  booktitle = {Proceedings of the 44th European Conference on Information Retrieval},
  year = {2022},
  numpages = {12}
}""",
    # Git's own checksums of the files at that revision.
    files=(
        OfficialFile(PRODUCTS, f"{_URL}/{PRODUCTS}", git_blob="a415f7295dc0d90b3163ef606da611a4e9ddeca8"),
        OfficialFile(QUERIES, f"{_URL}/{QUERIES}", size=19_942, git_blob="acb3c1f4cf1b775f494225afec79ec2163fc3e03"),
        OfficialFile(LABELS, f"{_URL}/{LABELS}", git_blob="2c09a0d7b1f77f6040deb5873b5a90b8ef1e3ae9"),
    ),
)
JUDGE, RUBRIC = f"humans:{WANDS.name}", "wands-labels"


class WandsSource:
    """The official files below `directory`.

    Raises:
      DataError: a file is missing or lacks a column.
    """

    def __init__(self, directory: Path):
        self._paths = WANDS.find(directory)

    def hashes(self, table: str) -> dict[str, str]:
        names = {"items": (PRODUCTS,), "keyphrases": (QUERIES,)}.get(table, (LABELS, QUERIES, PRODUCTS))
        return {name: file_hash(self._paths[name]) for name in names}

    def files(self, table: str) -> TableSource:
        path = self._paths[{"items": PRODUCTS, "keyphrases": QUERIES}.get(table, LABELS)]
        return TableSource((data_file(path, name=path.name),))

    def rows(self, table: str) -> Iterator[tuple[int, Chunk]]:
        read = {"items": self._items, "keyphrases": self._keyphrases}.get(table, lambda: self._pairs(table))
        return ((0, chunk) for chunk in read())

    def _items(self) -> Iterator[Chunk]:
        # The README calls the column `category_hierarchy`, the file `category hierarchy`.
        columns = ("product_id", "product_name", "product_class", "category hierarchy", "product_features")
        for batch in quoted_tsv(self._paths[PRODUCTS], columns):
            ids, titles, classes, paths, features = (batch.columns[name] for name in columns)
            categories = [json.dumps(category(*row), ensure_ascii=False) for row in zip(paths, classes)]
            attributes = [json.dumps(product_features(text), ensure_ascii=False) for text in features]
            texts = {"item_id": ids, "title": titles, "category": categories, "attributes": attributes}
            yield batch.chunk({name: pa.array(values, pa.string()) for name, values in texts.items()})

    def _keyphrases(self) -> Iterator[Chunk]:
        for batch in quoted_tsv(self._paths[QUERIES], ("query_id", "query")):
            yield batch.chunk({"keyphrase": pa.array(batch.columns["query"], pa.string())})

    def _queries(self) -> dict[str, str]:
        """Query id → text, of the queries that the keyphrases table keeps."""
        texts: dict[str, str] = {}
        for batch in quoted_tsv(self._paths[QUERIES], ("query_id", "query")):
            chunk = batch.chunk({"keyphrase": pa.array(batch.columns["query"], pa.string())})
            numbers, queries = batch.columns["query_id"], batch.columns["query"]
            texts |= {numbers[row]: queries[row] for row in checked(schema.TABLES["keyphrases"], chunk)[1].tolist()}
        return texts

    def _pairs(self, table: str) -> Iterator[Chunk]:
        queries = self._queries()
        splits = {number: query_split(WANDS.name, text, SHARES) for number, text in queries.items()}
        items = {
            item for chunk in self._items() for item in checked(schema.TABLES["items"], chunk)[0]["item_id"].to_pylist()
        }
        for batch in quoted_tsv(self._paths[LABELS], ("query_id", "product_id", "label")):
            split = np.array([splits.get(number, "train") for number in batch.columns["query_id"]], object)
            batch = batch.filter((split != "train") if table == "human" else (split == "train"))
            numbers, ids, labels = (batch.columns[name] for name in ("query_id", "product_id", "label"))
            batch.add_fault("query_id: no usable query of this id", [number not in queries for number in numbers])
            batch.add_fault("product_id: no usable product of this id", [item.strip() not in items for item in ids])
            batch.add_fault("label: not one of Exact, Partial, Irrelevant", [label not in GAINS for label in labels])
            columns = {
                "item_id": pa.array(ids, pa.string()),
                "keyphrase": pa.array([queries.get(number) for number in numbers], pa.string()),
            }
            if table == "human":
                columns |= {
                    "label": pa.array(labels, pa.string()),
                    "gain": pa.array([GAINS.get(label) for label in labels], pa.float64()),
                    "split": pa.array([splits.get(number) for number in numbers], pa.string()),
                }
            else:
                columns |= {
                    "grade": pa.array([GRADES.get(label) for label in labels], pa.int64()),
                    "judge": pa.repeat(pa.scalar(JUDGE), len(ids)),
                    "rubric": pa.repeat(pa.scalar(RUBRIC), len(ids)),
                }
            yield batch.chunk(columns)


def category(path: str, product_class: str) -> list[str]:
    """The category path, general to leaf: the parents of `category hierarchy`, then the (first) product class.

    The class is the category that the product falls under; the path often ends in it already, and sometimes in a page
    of the shop instead (Browse By Brand / All-Clad).
    """
    names = [name.strip() for name in path.split(" / ") if name.strip()]
    leaf = product_class.split("|")[0].strip()
    return names if not leaf or leaf in names[-1:] else [*names, leaf]


def product_features(text: str) -> dict[str, str]:
    """`name : value|name:value|…` as a map; values of one name are joined, and `| : value` continues it."""
    features: dict[str, list[str]] = {}
    current = ""
    for entry in text.split("|"):
        name, colon, value = (part.strip() for part in entry.partition(":"))
        if not colon:
            name, value = "", name
        current = name or current
        if value and current:
            values = features.setdefault(current, [])
            if value not in values:
                values.append(value)
    return {name: ", ".join(values) for name, values in features.items()}
