"""The evaluation protocol's figures, worked out by hand: fates, relevance, head, alignment, slices, side by side."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.evaluate import protocol, protocol_slices
from distill.evaluate.metric_table import MetricTable
from distill.evaluate.protocol import ALREADY, BLOCKED, NEW, REPEAT, gather
from distill.evaluate.report import ReportData, render_report
from distill.evaluate.significance import bootstrap_mean
from distill.retrieval.dedupe import deduplicate

#          0           1            2          3          4        5        6
TEXTS = ["red boot", "boots red", "blue mug", "tea set", "mug", "Été", "gift card"]
UNKNOWN = math.nan


def pairs(*rows):
    listing, keyphrase = zip(*rows)
    return np.array(listing), np.array(keyphrase)


def small() -> protocol.Pool:
    """Two listings; the student and a rival against what `shop` recommends already; "gift card" is blocked."""
    return gather(
        {
            "student": [[0, 1, 2, 6], [4, 3, -1, -1]],
            "rival": [[1, 4, -1, -1], [-1, -1, -1, -1]],
            "shop": [[2, -1, -1, -1], [3, -1, -1, -1]],
        },
        TEXTS,
        recommended={"shop": pairs((0, 2), (1, 3), (1, 5))},
        blocked=pairs((-1, 6)),
    )


def rows_of(pool, source):
    own = pool.of(source)
    return list(zip(pool.listing[own].tolist(), pool.keyphrase[own].tolist(), pool.fate[own].tolist()))


def test_each_candidate_has_the_fate_that_it_deserves():
    pool = small()
    # "boots red" says what "red boot" said; shop recommends "blue mug" and "tea set" already.
    assert rows_of(pool, "student") == [
        (0, 0, NEW), (0, 1, REPEAT), (0, 2, ALREADY), (0, 6, BLOCKED), (1, 4, NEW), (1, 3, ALREADY),
    ]  # fmt: skip
    assert rows_of(pool, "rival") == [(0, 1, NEW), (0, 4, NEW)]
    # A source that recommends already is not held against itself.
    assert rows_of(pool, "shop") == [(0, 2, NEW), (1, 3, NEW)]
    # The student and its rival both find the red boot; what is new of shop the student offers too, though in vain.
    exclusive = {(pool.sources[s], i, k) for s, i, k in zip(*(one[pool.exclusive] for one in columns(pool)))}
    assert exclusive == {("student", 1, 4), ("rival", 0, 4)}


def columns(pool):
    return pool.source, pool.listing, pool.keyphrase


def test_what_only_another_source_recommends_further_down_is_already_there_too():
    pool = gather({"student": [[5]]}, TEXTS, recommended={"shop": pairs((0, 4), (0, 5))})
    assert pool.fate.tolist() == [ALREADY]
    other_listing = gather({"student": [[5], [5]]}, TEXTS, recommended={"shop": pairs((1, 5))})
    assert other_listing.fate.tolist() == [NEW, ALREADY]


def test_a_blocked_pair_blocks_that_pair_alone_and_makes_no_repeat():
    pool = gather({"student": [[0, 1], [0, -1]]}, TEXTS, blocked=pairs((0, 0)))
    assert pool.fate.tolist() == [BLOCKED, NEW, NEW]


def test_nothing_offered_and_uneven_lists():
    pool = gather({"student": np.zeros((3, 0), int)}, TEXTS)
    assert pool.listings == 3 and len(pool.fate) == 0
    values = protocol.judged_values(pool, "student", np.zeros(0), np.zeros(0), None)
    assert values["relevant_per_item"].tolist() == [0, 0, 0] and np.isnan(values["relevant_share"]).all()
    with pytest.raises(ValueError, match=r"lists for \[1, 2\] listings"):
        gather({"a": [[0]], "b": [[0], [1]]}, TEXTS)


@settings(max_examples=50)
@given(
    st.lists(st.lists(st.integers(-1, 6), min_size=4, max_size=4), min_size=1, max_size=5),
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6)), max_size=8),
)
def test_one_source_is_de_duplicated_as_recommend_does(lists, already):
    already = [(i, k) for i, k in already if i < len(lists)]
    recommended = {"shop": pairs(*already)} if already else {}
    pool = gather({"student": lists}, TEXTS, recommended)
    for listing, row in enumerate(lists):
        texts = [TEXTS[k] for k in row if k >= 0]
        kept, dropped = deduplicate(texts, [TEXTS[k] for i, k in already if i == listing])
        fates = pool.fate[pool.listing == listing]
        assert np.flatnonzero(fates == NEW).tolist() == kept
        words = {"already": ALREADY, "repeat": REPEAT}
        assert {at: words[why.reason] for at, why in dropped.items()} == {
            at: fate for at, fate in enumerate(fates.tolist()) if fate != NEW
        }


def one_source() -> tuple[protocol.Pool, np.ndarray, np.ndarray]:
    """Three listings; eight new keyphrases of which the search engine rejects two and the judge knows six."""
    pool = gather({"student": [[0, 2, 3, 4], [0, 2, 3, -1], [5, -1, -1, -1]]}, TEXTS)
    #                 listing 0                    listing 1              listing 2
    search = np.array([1, 0, UNKNOWN, 1, 0, 1, UNKNOWN, UNKNOWN], float)
    relevant = np.array([1, 1, 1, 0, 0, UNKNOWN, 1, UNKNOWN], float)
    return pool, search, relevant


def test_what_the_search_engine_rejects_goes_and_what_it_does_not_know_stays():
    pool, search, _ = one_source()
    values = protocol.searched_values(pool, "student", search)
    assert {name: value.tolist() for name, value in values.items()} == {
        "offered_per_item": [4, 3, 1],
        "new_per_item": [4, 3, 1],
        "search_passed_per_item": [2, 1, 0],
        "search_rejected_per_item": [1, 1, 0],
        "search_unknown_per_item": [1, 1, 1],
        "eligible_per_item": [3, 2, 1],
    }


def test_figures_by_a_judge_that_does_not_know_all():
    pool, search, relevant = one_source()
    head = np.array([True, False, False, False, True, True, False])
    known = np.array([True, True, True, False, True, True, True])  # the volume of "tea set" is not known
    values = protocol.judged_values(pool, "student", search, relevant, head, known)
    found = {name: value.tolist() for name, value in values.items()}
    # Listing 0 keeps 0, 3 and 4, of which 0 and 3 are relevant; listing 1 keeps 2 (unknown) and 3; listing 2 keeps 5.
    assert found["relevant_per_item"] == [2, 1, 0]
    assert found["relevant_share"][:2] == [2 / 3, 1.0] and math.isnan(found["relevant_share"][2])
    assert found["exclusive_relevant_per_item"] == [2, 1, 0]
    assert found["head_relevant_per_item"] == [1, 0, 0]
    assert found["head_share"][0] == 1.0 and all(math.isnan(one) for one in found["head_share"][1:])
    # Both speak of 0, 2 and 4 of listing 0 (pass-right, reject-right, pass-wrong) and of 0 of listing 1 (neither).
    assert found["align_both"][:2] == [1 / 3, 0] and found["align_only_judge"][:2] == [1 / 3, 0]
    assert found["align_only_search"][:2] == [1 / 3, 0] and found["align_neither"][:2] == [0, 1]
    assert all(math.isnan(found[f"align_{name}"][2]) for name in ("both", "neither", "only_search", "only_judge"))
    assert (
        not {"head_share", "head_relevant_per_item"}
        & protocol.judged_values(pool, "student", search, relevant, None).keys()
    )


def test_figures_are_named_after_source_and_judge_and_pair_listings_by_their_rows():
    pool, search, relevant = one_source()
    table, items = MetricTable(resamples=100), np.array([7, 3, 9])
    values = protocol.judged_values(pool, "student", search, relevant, None)
    protocol.add_protocol(table, "student", values, items, "replay")
    protocol.add_protocol(table, "bm25", {"relevant_share": np.array([UNKNOWN, 0.5, 0.25])}, items, "replay")
    table.difference("protocol/relevant_share_by_replay", "student", "bm25")
    counts = protocol.add_judged_scalars(table, pool, "student", search, relevant, "replay")
    numbers = table.as_dict()
    assert numbers["protocol/student/relevant_per_item_by_replay"] == 1.0
    assert {f"protocol/student/relevant_per_item_by_replay/ci_{end}" for end in ("low", "high")} <= numbers.keys()
    assert numbers["protocol/student/relevant_share_by_replay"] == pytest.approx((2 / 3 + 1) / 2)
    # Item 3 alone has a share by both: 1 - .5.
    assert numbers["diff/protocol/relevant_share_by_replay/student-bm25"] == 0.5
    assert counts == {"eligible": 6, "known": 4, "relevant": 3, "exclusive_keyphrases": 2}
    assert numbers["protocol/student/known_share_by_replay"] == pytest.approx(4 / 6)
    assert protocol.figures(numbers, "student", ("relevant_per_item", "absent"), "replay") == {
        "relevant_per_item": {
            "value": 1.0,
            "low": numbers["protocol/student/relevant_per_item_by_replay/ci_low"],
            "high": numbers["protocol/student/relevant_per_item_by_replay/ci_high"],
        }
    }


def test_a_keyphrase_counts_as_exclusive_where_no_other_source_has_a_relevant_one_of_its_meaning():
    pool = gather({"a": [[0, 2], [3, -1]], "b": [[1, 4], [-1, -1]]}, TEXTS)
    relevant, search = np.ones(len(pool.fate)), np.full(len(pool.fate), UNKNOWN)
    counts = [protocol.add_judged_scalars(MetricTable(), pool, s, search, relevant, "llm") for s in "ab"]
    assert [one["exclusive_keyphrases"] for one in counts] == [2, 1]  # both have the red boot


def test_listings_fall_into_slices_and_small_slices_together():
    slices = protocol_slices.listing_slices(
        ["a b", "a " * 9, "a " * 20], [["Home", "Mugs"], [], ["Home"]], [0, 2, 3], few_clicks=3
    )
    assert slices == {
        "top category": ["Home", "no category", "Home"],
        "leaf category": ["Mugs", "no category", "Home"],
        "title": ["up to 8 words", "9–16 words", "17 words or more"],
        "clicks": ["fewer than 3", "fewer than 3", "3 or more"],
    }
    assert "clicks" not in protocol_slices.listing_slices(["a"], [[]], None, 3)
    values = {"s": {"relevant_per_item": np.array([1.0, 2, 3, 4, 5, 10, 20])}}
    rows = protocol_slices.slice_figures(values, ["x"] * 5 + ["y", "z"], 200, 0)
    assert [(row["name"], row["listings"]) for row in rows] == [("x", 5), ("all others", 2)]
    assert [row["figures"]["s"]["relevant_per_item"]["value"] for row in rows] == [3, 15]


def test_intervals_of_slices_are_those_of_the_bootstrap_over_listings():
    rng = np.random.default_rng(3)
    values = rng.normal(2, 1, (80, 2))
    values[:30, 1] = UNKNOWN
    first, second = protocol_slices.mean_intervals(values, 4000, 0)
    for found, sample in ((first, values[:, 0]), (second, values[30:, 1])):
        expected = bootstrap_mean(sample, 4000, 1)
        assert found["value"] == pytest.approx(expected.estimate)
        assert found["low"] == pytest.approx(expected.ci_low, abs=0.03)
        assert found["high"] == pytest.approx(expected.ci_high, abs=0.03)
    alone = protocol_slices.mean_intervals(np.array([[1.0, UNKNOWN]]), 100, 0)
    assert alone == [{"value": 1.0, "low": None, "high": None}, {"value": None, "low": None, "high": None}]


def test_head_tail_and_unknown_volume_add_up():
    pool, search, relevant = one_source()
    good = pool.new & (search != 0) & (relevant == 1)  # 0 and 3 of listing 0, 3 of listing 1
    head = np.array([True] + [False] * 6)
    known = np.array([True, True, True, False, True, True, True])
    rows = protocol_slices.volume_slices(pool, good, head, known, 100, 0)
    means = {row["name"]: row["figures"]["student"]["relevant_per_item"]["value"] for row in rows}
    assert means == {"head": pytest.approx(1 / 3), "tail": 0, "unknown volume": pytest.approx(2 / 3)}


def test_two_sources_listing_by_listing():
    pool = gather({"a": [[0, 2], [3, 4], [5, -1]], "b": [[1, -1], [3, 4], [2, 5]]}, TEXTS)
    good = np.ones(len(pool.fate), bool)
    found = protocol_slices.side_by_side(pool, "a", "b", good)
    # "red boot" and "boots red" are one keyphrase.
    assert found == {"more": 1, "equal": 1, "fewer": 1, "both": 4, "only_first": 1, "only_second": 1}
    assert protocol_slices.telling_listings(pool, "a", "b", good, 3) == [0, 2]
    assert protocol_slices.telling_listings(pool, "a", "a", good, 3) == []


def protocol_json() -> dict:
    figure, none = {"value": 1.5, "low": 1.0, "high": 2.0}, {"value": None, "low": None, "high": None}
    change = {"value": 0.5, "low": 0.1, "high": 0.9, "p": 0.02}
    attack = "<script>alert(1)</script>"
    return {
        "listings": 12,
        "keyphrases_per_source": 20,
        "sources": {
            name: {
                "new": 1234, "already": 3, "repeat": 2, "blocked": 1,
                "search": {"passed": 5, "rejected": 6, "unknown": 7}, "figures": {},
            }
            for name in ("student", attack)
        },
        "head": None,
        "few_clicks": 3,
        "judges": {
            "replay": {
                "name": "the judgements table: someone under graded-v1",
                "statuses": {"failed": 30, "graded": 10},
                "counts": {},
                "figures": {
                    "student": {"relevant_per_item": figure, "known_share": none | {"value": 0.25}},
                    attack: {},
                },
                "slices": {
                    "title": [
                        {
                            "name": attack, "listings": 12,
                            "figures": {"student": {"relevant_per_item": figure}, attack: {"relevant_per_item": none}},
                        }
                    ]
                },
                "side_by_side": {
                    "first": "student", "second": attack,
                    "more": 6, "equal": 4, "fewer": 2, "both": 9, "only_first": 8, "only_second": 7,
                },
                "differences": [{"figure": "relevant_per_item", "first": "student", "second": attack, **change}],
            }
        },
        "examples": {
            "first": "student", "second": attack, "judge": "replay",
            "listings": [{"item_id": "i1", "title": attack, "category": "", "keyphrases": [
                {"keyphrase": attack, "sources": ["student", attack], "search": None, "relevant": {"replay": 1.0}}]}],
        },
    }  # fmt: skip


def test_the_report_names_the_judge_says_what_is_unknown_and_escapes():
    page = render_report(ReportData("run", {}, protocol=protocol_json()))
    assert "<script" not in page
    assert 'href="#protocol"' in page and '<section id="protocol">' in page
    assert "grades of the judgements table" in page and "It knows 10 of 40 different pairs; 30 failed" in page
    assert "Counts of relevant keyphrases are lower bounds" in page
    assert "1,240" in page and "relevant_per_item_by_replay" in page
    assert "to 6 listings, as many to 4 and fewer to 2" in page
    assert "<td>unknown</td><td>yes</td>" in page
    assert "No search volume is known" in page


def test_a_report_without_the_protocol_has_no_such_section():
    page = render_report(
        ReportData("run", {"protocol/recommend/kept_per_item": 4.5, "protocol/bm25/kept_per_item": 1.25})
    )
    assert "#protocol" not in page and "kept_per_item" in page and "kept_per_item from bm25" in page
