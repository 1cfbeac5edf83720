import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.config import DataConfig
from distill.data.preparation.prepare import prepare
from distill.data.schema import DataError
from distill.data.tables import Prepared
from tests.data.preparation.test_readers import encode, write

LENIENT = DataConfig(max_bad_share=1.0)
PAIR_TABLES = ("clicks", "search_relevance", "judgements", "recommendations")


def marketplace() -> dict[str, list[dict]]:
    """Six items (i4, i5 held out), five keyphrases; `red boot` is a human query and `red boots` nearly one."""
    items = [
        {
            "item_id": f"i{row}",
            "title": f"thing{row} of colour{row}",
            "category": ["Shoes", "Boots"] if row % 2 else [],
            "attributes": {"brand": f"brand{row}", "size": "9"},
            "split": "holdout" if row >= 4 else "train",
        }
        for row in range(6)
    ]
    keyphrases = ["red boot", "red boots", "blue hat", "green socks", "old lamp"]
    pairs = [{"item_id": f"i{row}", "keyphrase": keyphrase} for row in (0, 1, 4) for keyphrase in keyphrases]
    return {
        "items": items,
        "keyphrases": [{"keyphrase": text, "search_volume": row or None} for row, text in enumerate(keyphrases)],
        "clicks": [{**pair, "impressions": 10, "clicks": row % 3, "position": 1.5} for row, pair in enumerate(pairs)],
        "search_relevance": [{**pair, "score": row / 8, "passed": row % 2} for row, pair in enumerate(pairs)],
        "judgements": [{**pair, "grade": n % 4, "judge": "llm", "rubric": "v1"} for n, pair in enumerate(pairs)],
        "human": [
            {"item_id": f"i{row}", "keyphrase": "red boot", "label": "E", "gain": 1.0, "split": "test"}
            for row in range(3)
        ],
        "judge_agreement": [
            {"item_id": "i0", "keyphrase": "red boot", "grade": 3, "human": "E", "split": "test"},
        ],
        "recommendations": [{**pair, "source": "rules"} for pair in pairs],
        "blocklist": [{"keyphrase": "old lamp", "item_id": None}, {"keyphrase": "blue hat", "item_id": "i1"}],
    }


def save(directory: Path, tables: dict[str, list[dict]], kind: str = "jsonl") -> Path:
    directory.mkdir(exist_ok=True)
    for name, rows in tables.items():
        write(directory, f"{name}.{kind}", encode(rows, kind.removesuffix(".gz")))
    return directory


def run(tmp_path: Path, tables: dict[str, list[dict]], config: DataConfig = LENIENT):
    summary = prepare(save(tmp_path / "in", tables), tmp_path / "out", config)
    check_invariant(summary)
    return summary, Prepared(tmp_path / "out")


def check_invariant(summary) -> None:
    for name, table in summary.tables.items():
        assert table.rows == table.kept + table.quarantined + table.merged + table.removed, name
        assert name not in PAIR_TABLES or table.kept == table.training + table.holdout


def quarantined(tmp_path: Path) -> list[dict]:
    return [json.loads(line) for line in (tmp_path / "out" / "quarantine.jsonl").open()]


def pairs_of(prepared: Prepared, columns: dict[str, np.ndarray]) -> list[tuple[str, str]]:
    items = [prepared.item_ids[row] if row >= 0 else "any" for row in columns["item"]]
    return list(zip(items, [prepared.keyphrases[row] for row in columns["keyphrase"]]))


def test_a_clean_marketplace(tmp_path):
    summary, prepared = run(tmp_path, marketplace(), DataConfig())
    assert quarantined(tmp_path) == []
    assert prepared.item_ids == [f"i{row}" for row in range(6)]
    assert prepared.item_texts[:2] == ["thing0 of colour0", "Boots thing1 of colour1"]
    assert prepared.titles[1] == "thing1 of colour1" and prepared.categories[:2] == [[], ["Shoes", "Boots"]]
    assert prepared.item_is_holdout.tolist() == [False] * 4 + [True] * 2
    assert prepared.keyphrases == ["red boot", "red boots", "blue hat", "green socks", "old lamp"]
    assert np.array_equal(prepared.search_volume, [np.nan, 1, 2, 3, 4], equal_nan=True)
    assert prepared.trainable.tolist() == [False, False, True, True, True]
    for name in PAIR_TABLES:
        training, holdout = prepared.training(name), prepared.holdout(name)
        assert training["item"].dtype == training["keyphrase"].dtype == np.int32
        assert pairs_of(prepared, training) == [
            (item, text) for item in ("i0", "i1") for text in ("blue hat", "green socks", "old lamp")
        ]
        assert pairs_of(prepared, holdout) == [("i4", text) for text in prepared.keyphrases]
        assert summary.tables[name].removed == 4
    clicks = prepared.training("clicks")
    assert clicks["clicks"].tolist() == [2, 0, 1, 1, 2, 0] and clicks["impressions"].dtype == np.int64
    assert prepared.training("search_relevance")["passed"].tolist() == [False, True, False, True, False, True]
    assert prepared.training("judgements")["judge"].tolist() == ["llm"] * 6
    assert prepared.human()["gain"].tolist() == [1.0] * 3 and set(prepared.human()["split"]) == {"test"}
    assert prepared.judge_agreement()["grade"].tolist() == [3]
    assert sorted(pairs_of(prepared, prepared.blocklist())) == [("any", "old lamp"), ("i1", "blue hat")]
    assert len(prepared.recommendations()["item"]) == 6 + 5
    assert prepared.truth() is None
    items = pq.read_table(tmp_path / "out" / "items.parquet").to_pylist()
    assert items[1]["attributes"] == [("brand", "brand1"), ("size", "9")] and items[4]["split"] == "holdout"


def test_all_formats_give_the_same_bytes(tmp_path):
    tables = marketplace()
    outputs = {}
    for kind in ("parquet", "jsonl", "tsv", "csv"):
        for zipped in ("", ".gz"):
            source, out = tmp_path / f"in-{kind}{zipped}", tmp_path / f"out-{kind}{zipped}"
            prepare(save(source, tables, kind + zipped), out, DataConfig())
            outputs[kind + zipped] = {
                str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*.parquet"))
            }
    assert len(outputs["tsv"]) == 13
    assert all(output == outputs["tsv"] for output in outputs.values())


TEXT = st.text(st.sampled_from("abé\"'\\,{}[]: 0"), min_size=1, max_size=8).map(lambda text: "x" + text)


@settings(max_examples=10, deadline=None)
@given(
    titles=st.lists(TEXT, min_size=1, max_size=5),
    categories=st.lists(st.lists(TEXT, max_size=3), min_size=5, max_size=5),
    keyphrases=st.lists(TEXT, min_size=1, max_size=4),
    scores=st.lists(st.floats(-1e9, 1e9) | st.integers(-5, 5), min_size=1, max_size=8),
)
def test_random_tables_survive_every_format(tmp_path_factory, titles, categories, keyphrases, scores):
    tables = {
        "items": [
            {"item_id": f"i{row}", "title": title, "category": category, "attributes": {"of": title}}
            for row, (title, category) in enumerate(zip(titles, categories))
        ],
        "keyphrases": [{"keyphrase": text} for text in keyphrases],
        "search_relevance": [
            {
                "item_id": f"i{row % len(titles)}",
                "keyphrase": keyphrases[row % len(keyphrases)],
                "score": score,
                "passed": 1,
            }
            for row, score in enumerate(map(float, scores))
        ],
    }
    outputs = []
    for kind in ("parquet", "jsonl.gz", "tsv", "csv.gz"):
        directory = tmp_path_factory.mktemp("formats")
        check_invariant(prepare(save(directory / "in", tables, kind), directory / "out", DataConfig()))
        outputs.append([path.read_bytes() for path in sorted((directory / "out").rglob("*.parquet"))])
    assert all(output == outputs[0] for output in outputs)


def test_duplicates(tmp_path):
    tables = marketplace()
    del tables["human"]
    tables["items"] += [tables["items"][0], tables["items"][1] | {"title": "another"}]
    tables["keyphrases"] += [{"keyphrase": " RED  boots", "search_volume": 9}, {"keyphrase": "Red Boot"}]
    pair = {"item_id": "i0", "keyphrase": "Red Boots"}
    tables["clicks"] = [
        pair | {"impressions": 30, "clicks": 1, "position": 2},
        pair | {"impressions": 10, "clicks": 4, "position": 6},
        pair | {"impressions": 5, "clicks": 0, "position": None},
        {"item_id": "i1", "keyphrase": "red boots", "impressions": 5, "clicks": 0, "position": None},
    ]
    tables["search_relevance"] = [pair | {"score": score, "passed": 1} for score in (0.1, 0.9, 0.4)]
    tables["judgements"] = [
        pair | {"grade": grade, "judge": judge, "rubric": "v1"} for grade, judge in [(0, "a"), (1, "b"), (2, "a")]
    ]
    summary, prepared = run(tmp_path, tables)
    merged = {name: table.merged for name, table in summary.tables.items() if table.merged}
    assert merged == {"items": 1, "keyphrases": 2, "clicks": 2, "search_relevance": 2, "judgements": 1}
    assert [(bad["line"], bad["reason"]) for bad in quarantined(tmp_path)] == [
        (8, "item_id: repeated with other content; the first row is kept")
    ]
    assert prepared.titles[1] == "thing1 of colour1"
    assert prepared.search_volume[:2].tolist() == pytest.approx([np.nan, 9], nan_ok=True)
    clicks = prepared.training("clicks")
    assert clicks["impressions"].tolist() == [45, 5] and clicks["clicks"].tolist() == [5, 0]
    assert clicks["position"].tolist() == pytest.approx([3.0, np.nan], nan_ok=True)  # (30·2 + 10·6) / 40
    assert prepared.training("search_relevance")["score"].tolist() == [0.4]
    judgements = prepared.training("judgements")
    assert sorted(zip(judgements["judge"], judgements["grade"])) == [("a", 2), ("b", 1)]


def test_leaks_are_removed_and_counted_even_if_the_human_row_itself_is_bad(tmp_path):
    tables = marketplace()
    for row in tables["human"]:
        row["gain"] = 7
    tables["human"].append(tables["human"][0] | {"keyphrase": "hats, BLUE"})  # not in the keyphrases table
    summary, prepared = run(tmp_path, tables)
    assert prepared.trainable.tolist() == [False, False, False, True, True]
    assert (summary.human_queries, summary.near_duplicates) == (1, 2)
    for name in PAIR_TABLES:
        assert prepared.trainable[prepared.training(name)["keyphrase"]].all()
        assert not prepared.item_is_holdout[prepared.training(name)["item"]].any()
        assert summary.tables[name].removed == 6


def test_missing_tables_are_said_and_absent(tmp_path):
    tables = {name: rows for name, rows in marketplace().items() if name in ("items", "keyphrases")}
    summary, prepared = run(tmp_path, tables)
    assert summary.left_out.keys() == marketplace().keys() - tables.keys()
    text = "\n".join(summary.lines())
    assert "no table clicks: left out is the student's clicks task" in text
    assert prepared.training("clicks") is prepared.human() is prepared.blocklist() is prepared.recommendations() is None


def test_an_earlier_run_leaves_nothing_behind(tmp_path):
    run(tmp_path, marketplace())
    (tmp_path / "in" / "clicks.jsonl").unlink()
    prepare(tmp_path / "in", tmp_path / "out", LENIENT)
    assert Prepared(tmp_path / "out").training("clicks") is Prepared(tmp_path / "out").holdout("clicks") is None


def test_notices(tmp_path):
    tables = marketplace()
    tables["clicks"][0]["session"] = "s"
    tables["judgements"][0] |= {f"k{n:03}": 1 for n in range(500)}
    tables["items"][0]["split"] = ""
    tables["human"][0]["split"] = "valid"
    tables["items"][5]["title"] = tables["items"][0]["title"] + "!"
    source = save(tmp_path / "in", tables)
    write(source, "click.tsv", b"")
    summary = prepare(source, tmp_path / "out", LENIENT)
    assert summary.twins_across_splits == 1 and summary.split_from == "items table"
    notices = "\n".join(summary.lines())
    assert "clicks.jsonl: columns not of the contract are ignored: session" in notices
    assert "ignored: k000, k001, k002, k003, k004, k005, k006, k007, k008, k009 and 490 more" in notices
    assert "items: 1 rows have an empty split: taken as train" in notices
    assert "human: 1 queries have both valid and test rows" in notices
    assert "click.tsv is no table of the contract" in notices


def test_a_blocklist_entry_blocks_every_keyphrase_of_its_meaning(tmp_path):
    tables = marketplace()
    tables["keyphrases"] += [{"keyphrase": text} for text in ("hats, blue", "!!!", "???")]
    tables["blocklist"] = [
        {"keyphrase": "Blue HATS", "item_id": None},
        {"keyphrase": "hat blue", "item_id": None},  # the same entry
        {"keyphrase": "lamps (old)", "item_id": "i1"},
        {"keyphrase": " ??? ", "item_id": None},
        {"keyphrase": "unheard of", "item_id": None},
        {"keyphrase": "red boot", "item_id": "nobody"},
    ]
    summary, prepared = run(tmp_path, tables)
    assert sorted(pairs_of(prepared, prepared.blocklist())) == [
        ("any", "???"),
        ("any", "blue hat"),
        ("any", "hats, blue"),
        ("i1", "old lamp"),
    ]
    counts = summary.tables["blocklist"]
    assert (counts.rows, counts.kept, counts.merged, counts.quarantined) == (6, 4, 1, 1)
    assert (summary.blocked_keyphrases, summary.unmatched_blocks) == (4, 1)
    assert "blocklist: 4 keyphrases are blocked; 1 entries match none" in summary.lines()
    written = pq.read_table(tmp_path / "out/blocklist.parquet").to_pylist()
    assert {"keyphrase": "unheard of", "item_id": None} in written and len(written) == 5


def test_truth_is_copied_untouched(tmp_path):
    source = save(tmp_path / "in", marketplace())
    columns = {
        "item_id": ["i4", "i0"],
        "keyphrase": ["blue hat", "red boot"],
        "grade": [3, 0],
        "exposed": [True, False],
    }
    pq.write_table(pa.table(columns), source / "truth.parquet")
    summary = prepare(source, tmp_path / "out", LENIENT)
    assert (tmp_path / "out/truth/truth.parquet").read_bytes() == (source / "truth.parquet").read_bytes()
    truth = Prepared(tmp_path / "out").truth()
    assert (
        truth["item"].tolist() == [4, 0] and truth["keyphrase"].tolist() == [2, 0] and truth["grade"].tolist() == [3, 0]
    )
    assert not summary.notices


def test_empty_pair_tables_are_present_and_empty(tmp_path):
    summary, prepared = run(tmp_path, marketplace() | {name: [] for name in (*PAIR_TABLES, "human", "blocklist")})
    assert all(len(prepared.training(name)["item"]) == len(prepared.holdout(name)["item"]) == 0 for name in PAIR_TABLES)
    assert len(prepared.human()["gain"]) == len(prepared.blocklist()["item"]) == 0
    assert "clicks: no training row is left" in summary.notices


def test_a_directory_is_not_prepared_into_itself(tmp_path):
    source = save(tmp_path / "in", marketplace())
    with pytest.raises(DataError, match="cannot be prepared into itself"):
        prepare(source, source, LENIENT)


def test_esci_ads(esci_ads, tmp_path):
    summaries = [prepare(esci_ads, tmp_path / name, DataConfig()) for name in ("one", "two")]
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file())
    assert len(files) == 7 + 3 + 3  # tables, held-out rows, quarantine, summary and validation
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in files)
    summary = summaries[0]
    check_invariant(summary)
    assert {name: table.rows for name, table in summary.tables.items()} == {
        "items": 6764,
        "keyphrases": 10_324,
        "human": 6678,
        "clicks": 23_406,
        "search_relevance": 312_300,
        "judgements": 43_054,
        "judge_agreement": 2039,
    }
    assert all(table.quarantined == 0 for table in summary.tables.values())
    assert (summary.train_items, summary.holdout_items, summary.human_queries) == (5740, 1024, 150)
    assert summary.tables["judgements"].training == 36_521
    prepared = Prepared(tmp_path / "one")
    assert len(prepared.human()["gain"]) == 6678 and len(prepared.item_texts) == 6764
