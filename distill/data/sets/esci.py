"""Amazon ESCI (the Shopping Queries data set, arXiv 2206.06588) as tables of the contract.

The official split stays: queries of its test part are `test`; of the queries of its training part a hashed share is
`valid` and the others train. What people said of a training query becomes `judgements` of the judge
`humans:amazon_esci`, so that nobody takes them for a language model's; what they said of the others is `human`.

Gains are those of KDD Cup '22's ranking task, as the official code has them (`ranking/train.py`, and `-m ndcg` in
`ranking/prepare_trec_eval_files.py`): E 1, S .1, C .01, I 0. Grades are those of the rubric `graded-v1`, which has the
same four classes: exact 3, substitute 2, complement 1, irrelevant 0.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from distill.data import schema
from distill.data.preparation.chunks import Chunk
from distill.data.preparation.sources import TableSource, data_file
from distill.data.sets.official import OfficialFile, PublicSet, file_hash
from distill.data.sets.parquet_rows import Batch, batches
from distill.data.sets.queries import QueryShares, query_split
from distill.data.sets.survey import checked
from distill.data.text import normalise_keyphrase

LOCALES = ("us", "es", "jp")
SIZES = ("small", "large")
TABLES = ("items", "keyphrases", "human", "judgements")
GAINS = {"E": 1.0, "S": 0.1, "C": 0.01, "I": 0.0}
GRADES = {"E": 3, "S": 2, "C": 1, "I": 0}
SHARES = QueryShares(valid=0.05, test=0.0)  # of the official training queries

EXAMPLES = "shopping_queries_dataset_examples.parquet"
PRODUCTS = "shopping_queries_dataset_products.parquet"
_REVISION = "7916cdf6ab75a462e77f20ab40428a10923998d5"
_FOLDER = "shopping_queries_dataset"
_URL = f"https://media.githubusercontent.com/media/amazon-science/esci-data/{_REVISION}/{_FOLDER}"

ESCI = PublicSet(
    name="amazon_esci",
    title="Amazon ESCI (Shopping Queries)",
    description="Difficult Amazon search queries, up to 40 products each, and what people said of every pair: exact, "
    "substitute, complement or irrelevant. English (us), Spanish (es) and Japanese (jp).",
    page="https://github.com/amazon-science/esci-data",
    folder=_FOLDER,
    revision=_REVISION,
    licence="Apache-2.0",
    citation="""@article{reddy2022shopping,
  title={Shopping Queries Dataset: A Large-Scale {ESCI} Benchmark for Improving Product Search},
  author={Chandan K. Reddy and Llu\\'is M\\`arquez and Fran Valero and Nikhil Rao and Hugo Zaragoza and
    Sambaran Bandyopadhyay and Arnab Biswas and Anlu Xing and Karthik Subbian},
  year={2022},
  eprint={2206.06588},
  archivePrefix={arXiv}
}""",
    # The checksums and sizes are those of the repository's Git LFS pointers.
    files=(
        OfficialFile(
            EXAMPLES,
            f"{_URL}/{EXAMPLES}",
            size=51_286_808,
            sha256="4a735b693b4a424a6fc67f5be6e4c811495c488bbf66d02a602d308b2744263a",
        ),
        OfficialFile(
            PRODUCTS,
            f"{_URL}/{PRODUCTS}",
            size=1_108_857_465,
            sha256="25124442d064d64b26f74082d6fa09438d679efc0c183cf28d19064a2b65a265",
        ),
    ),
)
JUDGE, RUBRIC = f"humans:{ESCI.name}", "esci-labels"

_SPLITS = pa.array(["train", "test"])


class EsciSource:
    """The official files below `directory`, one locale and one of the two official sizes (`small` is task 1's).

    Raises:
      DataError: a file is missing, damaged or lacks a column.
    """

    def __init__(self, directory: Path, locale: str, size: str):
        self._paths = ESCI.find(directory)
        self._locale, self._size = locale, f"{size}_version"

    def hashes(self, table: str) -> dict[str, str]:
        names = (EXAMPLES,) if table == "keyphrases" else (EXAMPLES, PRODUCTS)
        return {name: file_hash(self._paths[name]) for name in names}

    def files(self, table: str) -> TableSource:
        path = self._paths[PRODUCTS if table == "items" else EXAMPLES]
        return TableSource((data_file(path, name=path.name),))

    def rows(self, table: str) -> Iterator[tuple[int, Chunk]]:
        read = {"items": self._items, "keyphrases": self._keyphrases}.get(table, lambda: self._pairs(table))
        return ((0, chunk) for chunk in read())

    def _examples(self, *names: str) -> Iterator[Batch]:
        """The pairs of the locale and size."""
        for batch in batches(self._paths[EXAMPLES], (*names, "product_locale"), self._size):
            chosen = pc.and_(
                pc.equal(batch.columns["product_locale"], self._locale), pc.equal(batch.columns[self._size], 1)
            )
            yield batch.filter(chosen.fill_null(False))

    def _products(self, *names: str) -> Iterator[Batch]:
        for batch in batches(self._paths[PRODUCTS], (*names, "product_locale")):
            yield batch.filter(pc.equal(batch.columns["product_locale"], self._locale).fill_null(False))

    @functools.cached_property
    def _paired_products(self) -> pa.Array:
        return _distinct(batch.columns["product_id"] for batch in self._examples("product_id"))

    @functools.cached_property
    def _usable_products(self) -> pa.Array:
        """Ids of the locale's products that may stand in the items table."""
        titles = (
            batch.chunk({"item_id": batch.columns["product_id"], "title": batch.columns["product_title"]})
            for batch in self._products("product_id", "product_title")
        )
        return _distinct(checked(schema.TABLES["items"], chunk)[0]["item_id"] for chunk in titles)

    @functools.cached_property
    def _test_queries(self) -> set[str]:
        """Normal forms of the official test queries."""
        tests = (
            batch.columns["query"].filter(pc.equal(batch.columns["split"], "test").fill_null(False))
            for batch in self._examples("query", "split")
        )
        return set(map(normalise_keyphrase, _distinct(tests).to_pylist()))

    def _items(self) -> Iterator[Chunk]:
        for batch in self._products("product_id", "product_title", "product_brand", "product_color"):
            batch = batch.filter(pc.is_in(batch.columns["product_id"], self._paired_products))
            brands, colours = (batch.columns[name].to_pylist() for name in ("product_brand", "product_color"))
            attributes = [
                json.dumps({name: text for name, text in (("brand", brand), ("color", colour)) if text})
                for brand, colour in zip(brands, colours)
            ]
            yield batch.chunk(
                {
                    "item_id": batch.columns["product_id"],
                    "title": batch.columns["product_title"],
                    "attributes": pa.array(attributes, pa.string()),
                }
            )

    def _keyphrases(self) -> Iterator[Chunk]:
        seen: set[str | None] = set()
        for batch in self._examples("query"):
            queries = batch.columns["query"].to_pylist()
            first = np.zeros(len(queries), bool)
            for row, query in enumerate(queries):
                if query not in seen:
                    seen.add(query)
                    first[row] = True
            batch = batch.filter(pa.array(first))
            yield batch.chunk({"keyphrase": batch.columns["query"]})

    def _pairs(self, table: str) -> Iterator[Chunk]:
        for batch in self._examples("query", "product_id", "esci_label", "split"):
            official = batch.columns["split"].fill_null("")
            by_hash, in_test = self._query_sides(batch.columns["query"].fill_null(""))
            test = pc.equal(official, "test").to_numpy(zero_copy_only=False)
            split = np.where(test, "test", by_hash).astype(object)
            faults = {
                "split: neither train nor test": pc.invert(pc.is_in(official, _SPLITS)),
                "keyphrase: a training query that is in the test part too": pa.array(in_test & ~test),
                "esci_label: not one of E, S, C, I": pc.invert(
                    pc.is_in(batch.columns["esci_label"], pa.array(list(GAINS)))
                ),
                "item_id: no usable product of this id and locale": pc.invert(
                    pc.is_in(batch.columns["product_id"], self._usable_products)
                ),
            }
            split[in_test & ~test] = "train"
            human = split != "train"
            mine = pa.array(human if table == "human" else ~human)
            batch = batch.filter(mine, faults)
            label = batch.columns["esci_label"]
            columns = {"item_id": batch.columns["product_id"], "keyphrase": batch.columns["query"]}
            if table == "human":
                columns |= {"label": label, "gain": _looked_up(label, GAINS), "split": pa.array(split).filter(mine)}
            else:
                columns |= {"grade": _looked_up(label, GRADES)}
                columns |= {"judge": _repeated(JUDGE, len(label)), "rubric": _repeated(RUBRIC, len(label))}
            yield batch.chunk(columns)

    def _query_sides(self, queries: pa.Array) -> tuple[np.ndarray, np.ndarray]:
        """`valid` or `train` by hash, object [rows], and whether it is a test query too, bool [rows]."""
        encoded = queries.dictionary_encode()
        texts = encoded.dictionary.to_pylist()
        sides = np.array([query_split(ESCI.name, text, SHARES) for text in texts], object)
        tests = np.array([normalise_keyphrase(text) in self._test_queries for text in texts], bool)
        at = encoded.indices.to_numpy()
        return sides[at], tests[at]


def _distinct(arrays: Iterator[Any]) -> pa.Array:
    chunks: list[pa.Array] = []
    for array in arrays:
        chunks += array.chunks if isinstance(array, pa.ChunkedArray) else [array]
    return pa.chunked_array(chunks, pa.string()).unique().drop_null()


def _looked_up(labels: pa.Array, values: Mapping[str, float]) -> pa.Array:
    places = pc.index_in(labels, pa.array(list(values)))
    return pa.array(list(values.values())).take(places)


def _repeated(text: str, rows: int) -> pa.Array:
    return pa.repeat(pa.scalar(text), rows)
