"""Rows that break a rule: each is found at its line for its reason, none vanishes."""

import json
import random
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.config import DataConfig
from distill.data.preparation.checking import OTHER_REASONS, TableCounts, check_share
from distill.data.preparation.prepare import prepare
from distill.data.preparation.sources import TableSource, data_file
from distill.data.schema import Column, DataError, Problems, read_column
from distill.data.summary import QUARANTINED
from distill.data.tables import Prepared
from distill.data.text import normalise_keyphrase
from distill.data.validation import personal_data
from tests.data.preparation.test_prepare import (
    LENIENT,
    PAIR_TABLES,
    check_invariant,
    marketplace,
    quarantined,
    run,
    save,
)


@pytest.mark.parametrize(
    ("table", "change", "reason"),
    [
        ("items", {"item_id": " "}, "item_id: empty text"),
        ("items", {"title": ""}, "title: empty text"),
        ("items", {"title": "\u200b\t"}, "title: empty text"),
        ("items", {"split": "test"}, "split: not one of train, holdout"),
        ("items", {"category": "Shoes > Boots"}, "category: not a JSON list of names"),
        ("items", {"attributes": [1]}, "attributes: not a JSON map"),
        ("items", {"attributes": '{"size": 1, "size": 2}'}, "attributes: key 'size' twice in a JSON object"),
        ("keyphrases", {"keyphrase": "\x00 "}, "keyphrase: empty text"),
        ("keyphrases", {"keyphrase": "\u2065"}, "keyphrase: empty text"),  # invisible, in no version of Unicode yet
        ("keyphrases", {"search_volume": -1}, "search_volume: negative"),
        ("keyphrases", {"search_volume": 1.5}, "search_volume: not a whole number"),
        ("clicks", {"item_id": "nobody"}, "item_id: not in the items table"),
        ("clicks", {"keyphrase": "unheard of"}, "keyphrase: not in the keyphrases table"),
        ("clicks", {"keyphrase": ""}, "keyphrase: empty text"),
        ("clicks", {"clicks": 11}, "clicks > impressions"),
        ("clicks", {"clicks": -1}, "clicks: negative"),
        ("clicks", {"impressions": None}, "impressions: empty"),
        ("clicks", {"impressions": 10**30}, "impressions: 2^53 or more"),
        ("clicks", {"impressions": 2**53 + 1}, "impressions: 2^53 or more"),  # would be read as 2^53
        ("clicks", {"position": 1e39}, "position: beyond 3.4e+38"),
        ("clicks", {"item_id": 1.5}, "item_id: not text"),
        ("clicks", {"position": float("nan")}, "position: NaN or infinite"),
        ("search_relevance", {"score": float("inf")}, "score: NaN or infinite"),
        ("search_relevance", {"score": "1e999"}, "score: NaN or infinite"),
        ("search_relevance", {"score": "-1e300"}, "score: beyond 3.4e+38"),
        ("search_relevance", {"score": "high"}, "score: not a number"),
        ("search_relevance", {"score": True}, "score: not a number"),
        ("search_relevance", {"passed": 2}, "passed: not 0, 1, true or false"),
        ("search_relevance", {"passed": None}, "passed: not 0, 1, true or false"),
        ("judgements", {"grade": 4}, "grade: outside 0–3"),
        ("judgements", {"grade": 1.5}, "grade: not a whole number"),
        ("judgements", {"judge": ""}, "judge: empty text"),
        ("human", {"gain": 1.01}, "gain: outside 0–1"),
        ("human", {"gain": -0.1}, "gain: outside 0–1"),
        ("human", {"split": "train"}, "split: not one of valid, test"),
        ("recommendations", {"source": None}, "source: empty text"),
        ("recommendations", {"source": ["a"]}, "source: not text"),
    ],
)
def test_each_kind_of_bad_row(tmp_path, table, change, reason):
    tables = marketplace()
    row = 3 if table == "items" else 0  # no pair refers to item i3
    tables[table][row] |= change
    summary, _ = run(tmp_path, tables)
    (bad, *consequences) = quarantined(tmp_path)
    assert (bad["file"], bad["line"], bad["reason"]) == (f"{table}.jsonl", row + 1, reason)
    assert bad["raw"] == json.dumps(tables[table][row], ensure_ascii=False)
    assert summary.tables[table].quarantined - summary.tables[table].consequences == 1
    if table != "keyphrases":
        assert not consequences


def test_a_keyphrase_of_which_nothing_is_left_is_empty():
    """Of all characters, except those planes that hold private, East Asian or no characters."""
    characters = [chr(code) for code in (*range(0xD800), *range(0xE000, 0x20000), *range(0xE0000, 0xE0200))]
    problems = Problems(len(characters))
    read_column(Column("keyphrase", "keyphrase"), pa.array(characters), problems)
    left = np.array([bool(normalise_keyphrase(character)) for character in characters])
    assert left.sum() > 100_000 and left[problems.good].all()


def test_flags_may_be_written_in_many_ways(tmp_path):
    tables = marketplace()
    tables["human"] = []  # so that no keyphrase is kept out
    written = [0, "1.0", "TRUE", "false", 1.0]
    tables["search_relevance"] = [row | {"passed": passed} for row, passed in zip(tables["search_relevance"], written)]
    _, prepared = run(tmp_path, tables)
    assert prepared.training("search_relevance")["passed"].tolist() == [False, True, True, False, True]


def test_counts_that_add_up_to_no_exact_integer_stop_the_run(tmp_path):
    tables = marketplace()
    pair = {"item_id": "i1", "keyphrase": "blue hat", "impressions": 2**52, "clicks": 1}
    tables["clicks"] = [pair] * 2  # 2^53, which 2^53 + 1 would be too
    with pytest.raises(DataError, match=r"'clicks': impressions of the pair i1 \| blue hat add up to 9\.01e\+15"):
        run(tmp_path, tables)
    assert not list((tmp_path / "out").rglob("*clicks.parquet*"))
    tables["clicks"][1] = pair | {"impressions": 2**52 - 1}
    _, prepared = run(tmp_path, tables)
    assert prepared.training("clicks")["impressions"].tolist() == [2**53 - 1]


def test_pairs_of_a_quarantined_item_are_a_consequence_and_do_not_stop_the_run(tmp_path):
    tables = marketplace()
    tables["items"][1]["title"] = " "
    tables["keyphrases"][3]["search_volume"] = -3
    summary, prepared = run(tmp_path, tables, DataConfig(max_bad_share=0.21))
    assert "i1" not in prepared.item_ids and "green socks" not in prepared.keyphrases
    clicks = summary.tables["clicks"]
    assert clicks.reasons == {"item_id: its item was quarantined": 5, "keyphrase: itself quarantined": 2}
    assert clicks.quarantined == clicks.consequences == 7


def test_a_bad_byte_in_a_title_still_tells_the_item(tmp_path):
    source = save(tmp_path / "in", marketplace())
    items = (source / "items.jsonl").read_bytes().replace(b"thing1", b"th\xffng1")
    (source / "items.jsonl").write_bytes(items)
    summary = prepare(source, tmp_path / "out", DataConfig(max_bad_share=0.2))
    check_invariant(summary)
    assert summary.tables["items"].reasons == {"not UTF-8": 1}
    assert "th\\xffng1" in quarantined(tmp_path)[0]["raw"]
    assert summary.tables["clicks"].reasons == {"item_id: its item was quarantined": 5}


def test_very_many_reasons_are_told_as_one(tmp_path):
    tables = marketplace()
    item = tables["items"][0]
    tables["items"] += [item | {"item_id": f"n{n}", "title": ""} for n in range(2)]
    tables["items"] += [item | {"item_id": f"k{n}", "attributes": f'{{"{n}": 1, "{n}": 2}}'} for n in range(60)]
    summary, _ = run(tmp_path, tables)
    reasons = summary.tables["items"].reasons
    assert len(reasons) == 51 and sum(reasons.values()) == 62
    assert list(reasons.values()) == [2] + [1] * 49 + [11]
    first, *_, last = reasons
    assert (first, last) == ("title: empty text", OTHER_REASONS)
    assert set(summary.tables["items"].examples) == set(reasons) - {OTHER_REASONS}
    assert len({record["reason"] for record in quarantined(tmp_path) if record["file"] == "items.jsonl"}) == 61


def test_too_many_bad_rows_stop_the_run(tmp_path):
    tables = marketplace()
    for row in (2, 5, 7):
        tables["clicks"][row]["clicks"] = 99
    tables["clicks"][9]["item_id"] = "nobody"
    with pytest.raises(DataError) as error:
        run(tmp_path, tables, DataConfig(max_bad_share=0.25))
    message = str(error.value)
    assert "clicks.jsonl: 4 of 15 rows are bad (26.7%), more than data.max_bad_share=0.25" in message
    assert "3 × clicks > impressions (lines 3, 6, 8); 1 × item_id: not in the items table (lines 10)" in message
    assert len(quarantined(tmp_path)) == 4
    run(tmp_path, tables, DataConfig(max_bad_share=0.27))


def test_the_error_names_what_counts_and_not_its_consequences():
    reasons = {
        QUARANTINED["item_id"]: 50,
        QUARANTINED["keyphrase"]: 40,
        personal_data.REASONS[0]: 30,
        "x: negative": 20,
    }
    counts = TableCounts(240, Counter(reasons), {reason: [(0, n)] for n, reason in enumerate(reasons)})
    source = TableSource((data_file("clicks.tsv"),))
    with pytest.raises(
        DataError, match=r"20 of 120 rows are bad \(16\.7%\).*Commonest: 20 × x: negative \(lines 3\)\. "
    ):
        check_share(source, counts, 0.1)
    check_share(source, counts, 0.2)


def test_a_long_raw_row_is_cut_and_a_long_title_kept(tmp_path):
    tables = marketplace()
    tables["items"][0]["title"] = "word " * 10_000
    tables["items"][3] |= {"title": "x" * 5000, "split": "?"}
    summary, prepared = run(tmp_path, tables)
    assert len(prepared.titles[0].split()) == 10_000
    assert any("1 titles have more than 200 words (longest: 10,000, item i0)" in notice for notice in summary.notices)
    assert len(quarantined(tmp_path)[0]["raw"]) == 2000


@pytest.mark.parametrize("rows", [[], [{"item_id": "", "title": "a"}]])
def test_no_usable_item_is_an_error(tmp_path, rows):
    with pytest.raises(DataError, match=r"items\.jsonl: the table has no usable row"):
        run(tmp_path, marketplace() | {"items": rows})


DAMAGE = [b"\xff", b"\n", b"\t", b"", b"-", b"nan", b"9" * 400, b'"', b"{", b"\x00", b"\\ud800", b"\r", b","]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), kind=st.sampled_from(["jsonl", "tsv", "csv"]), hits=st.integers(1, 30))
def test_no_row_vanishes_under_damage(tmp_path_factory, seed, kind, hits):
    """Bytes of the files (headers excepted) are replaced; every line that is left is counted once."""
    directory = tmp_path_factory.mktemp("damage")
    source = save(directory / "in", marketplace(), kind)
    rng = random.Random(seed)
    lines = {}
    for path in sorted(source.iterdir()):
        header, body = (b"", path.read_bytes()) if kind == "jsonl" else path.read_bytes().split(b"\n", 1)
        for _ in range(rng.randrange(hits)):
            at = rng.randrange(len(body))
            body = body[:at] + rng.choice(DAMAGE) + body[at + rng.randrange(3) :]
        path.write_bytes(header + b"\n" + body if header else body)
        lines[path.name] = sum(
            bool(line.strip() if kind == "jsonl" else line.rstrip(b"\r")) for line in body.split(b"\n")
        )
    try:
        summary = prepare(source, directory / "out", LENIENT)
    except DataError as error:  # an item column may be gone from all rows
        assert "no usable row" in str(error) or "needs the column" in str(error)
        return
    check_invariant(summary)
    if kind != "csv":
        assert {table.file: table.rows for table in summary.tables.values()} == lines
    bad = quarantined(directory)
    assert len(bad) == sum(table.quarantined for table in summary.tables.values())
    prepared = Prepared(directory / "out")
    assert all(prepared.trainable[prepared.training(name)["keyphrase"]].all() for name in PAIR_TABLES)
