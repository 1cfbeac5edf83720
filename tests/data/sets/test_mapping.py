"""What the official files become: tables, grades, gains, splits; and what happens to rows that do not fit."""

import json

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import tensorflow_datasets as tfds
from hypothesis import given
from hypothesis import strategies as st

from distill.data.schema import DataError
from distill.data.sets import esci, wands
from distill.data.sets.build import build
from distill.data.sets.parquet_rows import batches
from distill.data.sets.queries import QueryShares, query_split
from distill.data.sets.quoted_tsv import quoted_tsv
from distill.data.sets.reading import rows
from distill.data.text import normalise_keyphrase
from tests.data.sets.conftest import FAKE


def table(built, name: str) -> list[dict]:
    builder = built.builders[name]
    return [row for split in builder.info.splits for row in rows(builder, split)]


@pytest.mark.parametrize(
    ("name", "grades", "gains"), [("esci", esci.GRADES, esci.GAINS), ("wands", wands.GRADES, wands.GAINS)]
)
def test_a_query_trains_or_referees_never_both(request, name, grades, gains):
    built = request.getfixturevalue(name)
    human, judgements = table(built, "human"), table(built, "judgements")
    by_split = {
        split: {normalise_keyphrase(row["keyphrase"]) for row in human if row["split"] == split}
        for split in ("valid", "test")
    }
    training = {normalise_keyphrase(row["keyphrase"]) for row in judgements}
    assert all(len(queries) >= 1 for queries in (*by_split.values(), training))
    assert not by_split["valid"] & by_split["test"] and not training & (by_split["valid"] | by_split["test"])
    assert {row["label"]: row["gain"] for row in human} == gains
    assert {row["grade"] for row in judgements} == set(grades.values())
    keyphrases = {row["keyphrase"] for row in table(built, "keyphrases")}
    items = {row["item_id"] for row in table(built, "items")}
    for row in human + judgements:
        assert row["keyphrase"] in keyphrases and row["item_id"] in items
    assert {row["judge"] for row in judgements} == {f"humans:{built.name}"}


def test_esci_keeps_the_official_test_part(esci):
    examples = pq.read_table(FAKE / "amazon_esci" / "shopping_queries_dataset_examples.parquet").to_pylist()
    official = {
        (row["query"], row["product_id"]): row["esci_label"]
        for row in examples
        if row["product_locale"] == "us"
        and row["small_version"]
        and row["split"] == "test"
        and row["product_id"] != "US15"
    }
    found = {(row["keyphrase"], row["item_id"]): row["label"] for row in table(esci, "human") if row["split"] == "test"}
    assert found == official
    training = {
        normalise_keyphrase(row["query"])
        for row in examples
        if row["split"] == "train" and row["product_locale"] == "us"
    }
    assert {row["keyphrase"] for row in table(esci, "human") if row["split"] == "valid"} <= training


def test_esci_locales_do_not_mix(tmp_path):
    built = build("amazon_esci", FAKE / "amazon_esci", tmp_path, locale="jp", size="large", max_bad_share=0.6)
    items = table(built, "items")
    assert all(row["item_id"].startswith("JP") for row in items) and len(items) == 8
    assert items[1]["title"] == "電気ケトル 【公式】&amp; 送料無料" and items[1]["attributes"] == {"brand": "アクメ"}
    assert table(built, "keyphrases")[2]["keyphrase"] == "登山靴 メンズ"


def test_a_locale_that_the_files_lack_is_named(tmp_path):
    for name in ("examples", "products"):
        file = f"shopping_queries_dataset_{name}.parquet"
        rows_ = pq.read_table(FAKE / "amazon_esci" / file, filters=[("product_locale", "==", "us")])
        pq.write_table(rows_, tmp_path / file)
    with pytest.raises(DataError, match=r"locale='jp', size='small': .*products\.parquet: none of 0 rows"):
        build("amazon_esci", tmp_path, tmp_path / "tfds", locale="jp")


def test_bad_rows_are_counted_and_told_with_file_and_line(esci):
    builder = esci.builders["judgements"]
    metadata = builder.info.metadata
    assert metadata["rows"] == metadata["kept"] + metadata["quarantined"] == 82
    records = [json.loads(line) for line in (builder.data_path / "quarantine.jsonl").read_text().splitlines()]
    examples = pq.read_table(FAKE / "amazon_esci" / "shopping_queries_dataset_examples.parquet").to_pylist()
    assert len(records) == 3
    for record in records:
        assert record["file"] == "shopping_queries_dataset_examples.parquet"
        official, raw = examples[record["line"] - 1], json.loads(record["raw"])
        assert (raw["query"], raw["product_id"]) == (official["query"], official["product_id"])
    assert records[-1]["reason"].startswith("keyphrase: a training query that is in the test part too")
    assert json.loads(records[-1]["raw"])["query"] == "Black  LAMP"
    assert any("1 quarantined" in line and line.startswith("items: 40 rows = 39 kept") for line in esci.lines())


@pytest.mark.parametrize(("name", "licence"), [("esci", "Apache-2.0"), ("wands", "MIT")])
def test_a_set_says_whose_it_is(request, name, licence):
    for builder in request.getfixturevalue(name).builders.values():
        info = tfds.builder_from_directory(builder.data_path).info
        assert info.redistribution_info.license == licence and info.homepage.startswith("https://github.com/")
        assert "title" in info.citation and info.description.endswith("of the data directory contract.")


def test_wands_category_and_features():
    assert wands.category("Furniture / Bedroom / Beds", "Beds") == ["Furniture", "Bedroom", "Beds"]
    assert wands.category("Browse By Brand / All-Clad", "Slicers|Cutters") == ["Browse By Brand", "All-Clad", "Slicers"]
    assert wands.category("", "Doors") == ["Doors"] and wands.category("", "") == []
    text = "width:64.7|color : grey|color : white|color : grey| : cream|note : 10:30 |bare"
    assert wands.product_features(text) == {"width": "64.7", "color": "grey, white, cream", "note": "10:30, bare"}
    assert wands.product_features("") == {} == wands.product_features("| : |x")


def test_wands_queries_with_quotes(wands):
    assert '"classic" desk' in {row["keyphrase"] for row in table(wands, "keyphrases")}


def test_quoted_tsv_names_file_and_line_of_what_does_not_fit(tmp_path):
    path = tmp_path / "label.csv"
    path.write_bytes(b'id\tlabel\n1\tone\n2\n3\t"a\nb"\n4\tb\xffd\n\n5\t"say ""hi"""\n')
    (batch,) = quoted_tsv(path, ("label", "id"))
    assert batch.lines.tolist() == [2, 3, 4, 6, 8]
    assert (
        batch.columns["id"][0] == "1"
        and batch.columns["label"][2] == "a\nb"
        and batch.columns["label"][4] == 'say "hi"'
    )
    assert {reason: bad.tolist() for reason, bad in batch.faults.items()} == {
        "expected 2 fields, found 1": [False, True, False, False, False],
        "not UTF-8": [False, False, False, True, False],
    }
    path.write_bytes(b'id\tlabel\n1\tone\n2\t"two\n3\tthree\n')
    with pytest.raises(DataError, match=r"label\.csv, line 3: malformed .*quoted field"):
        list(quoted_tsv(path, ("id",)))
    with pytest.raises(DataError, match=r"label\.csv: it has no column 'query_id', only id, label"):
        list(quoted_tsv(path, ("query_id",)))


def test_unknown_labels_and_ids_of_wands(tmp_path):
    for name in ("product.csv", "query.csv", "label.csv"):
        (tmp_path / name).write_bytes((FAKE / "wayfair_wands" / name).read_bytes())
    with (tmp_path / "label.csv").open("a") as stream:
        stream.write("96\t0\t0\tMaybe\n97\t0\t999\tExact\n98\t999\t0\tExact\n")
    built = build("wayfair_wands", tmp_path, tmp_path / "tfds", max_bad_share=0.2)
    reasons = {}
    for name in ("human", "judgements"):
        reasons |= built.builders[name].info.metadata["reasons"]
    assert reasons == {
        "label: not one of Exact, Partial, Irrelevant": 1,
        "product_id: no usable product of this id": 1,
        "query_id: no usable query of this id": 1,
    }
    with pytest.raises(
        DataError, match=r"label\.csv: 3 of .*rows are bad .*more than .*max_bad_share=0\.001\. Commonest: .*lines"
    ):
        build("wayfair_wands", tmp_path, tmp_path / "again", max_bad_share=0.001)


def test_a_damaged_or_foreign_esci_file(tmp_path):
    for name in ("examples", "products"):
        file = f"shopping_queries_dataset_{name}.parquet"
        (tmp_path / file).write_bytes((FAKE / "amazon_esci" / file).read_bytes())
    path = tmp_path / "shopping_queries_dataset_products.parquet"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DataError, match=r"products\.parquet: damaged or not a Parquet file"):
        build("amazon_esci", tmp_path, tmp_path / "tfds")
    pq.write_table(pa.table({"id": [1]}), path)
    with pytest.raises(DataError, match=r"products\.parquet: it has no column 'product_id', only id"):
        build("amazon_esci", tmp_path, tmp_path / "tfds")
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 1\n")
    with pytest.raises(DataError, match=r"products\.parquet is a Git LFS pointer"):
        build("amazon_esci", tmp_path, tmp_path / "tfds")


@pytest.mark.parametrize(
    ("column", "change", "message"),
    [
        ("small_version", lambda c: c.cast(pa.string()), r"column 'small_version' holds string, not numbers"),
        ("esci_label", lambda c: pc.equal(c, "E"), r"column 'esci_label' holds bool, not texts"),
        ("query", lambda c: pa.array([[text] for text in c.to_pylist()]), r"'query' holds list<.*>, not texts"),
    ],
)
def test_an_esci_file_with_columns_of_another_kind(tmp_path, column, change, message):
    _copy_esci(tmp_path, column, change)
    with pytest.raises(DataError, match=rf"examples\.parquet: .*{message}\. Take the official file"):
        build("amazon_esci", tmp_path, tmp_path / "tfds")


def test_an_esci_file_whose_flags_are_boolean_and_ids_whole_numbers(tmp_path, esci):
    _copy_esci(tmp_path, "small_version", lambda c: c.cast(pa.bool_()))
    built = build("amazon_esci", tmp_path, tmp_path / "tfds")
    assert table(built, "human") == table(esci, "human")
    path = tmp_path / "ids.parquet"
    pq.write_table(
        pa.table({"id": [1, None], "large": pa.array([0, 1]), "tag": pa.array(["a", "b"]).dictionary_encode()}), path
    )
    (batch,) = batches(path, ("id", "tag"), "large")
    assert {name: values.to_pylist() for name, values in batch.columns.items()} == {
        "id": ["1", None],
        "tag": ["a", "b"],
        "large": [0.0, 1.0],
    }


def _copy_esci(directory, column, change):
    """The made-up official files with a column of the pairs changed."""
    for name in ("examples", "products"):
        file = f"shopping_queries_dataset_{name}.parquet"
        rows_ = pq.read_table(FAKE / "amazon_esci" / file)
        if name == "examples":
            rows_ = rows_.set_column(rows_.column_names.index(column), column, change(rows_[column]))
        pq.write_table(rows_, directory / file)


def test_text_that_is_not_utf8_costs_its_row(tmp_path):
    for name in ("examples", "products"):
        file = f"shopping_queries_dataset_{name}.parquet"
        table = pq.read_table(FAKE / "amazon_esci" / file)
        if name == "products":
            titles = [(title or "").encode() for title in table["product_title"].to_pylist()]
            titles[2] = b"caf\xe9"
            at = table.column_names.index("product_title")
            table = table.set_column(at, "product_title", pa.array(titles, pa.binary()).view(pa.string()))
        pq.write_table(table, tmp_path / file)
    built = build("amazon_esci", tmp_path, tmp_path / "tfds", max_bad_share=0.2)
    assert built.builders["items"].info.metadata["reasons"] == {"product_title: not UTF-8": 1, "title: empty text": 1}


@given(st.text(max_size=12), st.sampled_from(["a", "b"]))
def test_a_query_and_its_spellings_share_a_split(query, salt):
    shares = QueryShares(valid=0.3, test=0.3)
    split = query_split(salt, query, shares)
    assert split in ("train", "valid", "test")
    assert query_split(salt, f"  {query.upper().lower()} ", shares) in ("train", "valid", "test")
    assert query_split(salt, normalise_keyphrase(query), shares) == split


def test_shares_of_the_hashed_split():
    splits = [query_split("set", f"query {number}", QueryShares(valid=0.1, test=0.4)) for number in range(5000)]
    assert abs(splits.count("valid") / 5000 - 0.1) < 0.02 and abs(splits.count("test") / 5000 - 0.4) < 0.03
