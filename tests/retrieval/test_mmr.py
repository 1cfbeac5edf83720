import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.retrieval import mmr
from distill.retrieval.mixing import HEAD, TAIL, UNKNOWN
from distill.retrieval.mmr import choose

ANGLES = np.radians([0, 10, 90, 80])
CIRCLE = np.stack([np.cos(ANGLES), np.sin(ANGLES)], 1).astype(np.float32)


def test_by_hand():
    # After keyphrase 0: 0.5 * 0.8 - 0.5 * cos 10° = -0.09; 0.5 * 0.6 - 0.5 * cos 90° = 0.3; 0.5 * 0.5 - 0.5 * cos 80°
    # = 0.16. After 2: keyphrase 1 still -0.09, keyphrase 3 0.25 - 0.5 * max(cos 80°, cos 10°) = -0.24.
    relevance = np.array([[0.9, 0.8, 0.6, 0.5]])
    candidate = np.array([[0, 1, 2, 3]])
    chosen = choose(relevance, candidate, 4, mmr_lambda=0.5, vectors=CIRCLE)
    assert chosen.tolist() == [[0, 2, 1, 3]]
    assert choose(relevance, candidate, 2, mmr_lambda=0.5, vectors=CIRCLE).tolist() == [[0, 2]]


def test_without_relevance_it_looks_at_distance_alone():
    # The first is a tie, so the first place wins; then the farthest from it.
    assert choose(np.array([[0.1, 0.9, 0.5]]), np.array([[1, 0, 2]]), 2, mmr_lambda=0.0, vectors=CIRCLE).tolist() == [
        [0, 2]
    ]


def test_rows_that_run_out_are_filled_up():
    relevance, candidate = np.array([[0.9, 0.8], [0.7, np.nan]]), np.array([[3, 1], [2, -1]])
    assert choose(relevance, candidate, 5).tolist() == [[0, 1], [0, -1]]
    assert choose(np.zeros((0, 3)), np.zeros((0, 3), int), 2).shape == (0, 2)
    assert choose(np.zeros((2, 0)), np.zeros((2, 0), int), 2).shape == (2, 0)


def test_reserved_places_displace_the_least_relevant():
    kind = np.array([HEAD, HEAD, UNKNOWN, TAIL, TAIL])
    relevance, candidate = np.array([[0.9, 0.8, 0.7, 0.6, 0.5]]), np.arange(5)[None]

    def places(keep: int, **reserved: int) -> list[int]:
        return choose(
            relevance,
            candidate,
            keep,
            kind=kind,
            reserved={HEAD: reserved.get("head", 0), TAIL: reserved.get("tail", 0)},
        )[0].tolist()

    assert places(3) == [0, 1, 2]
    assert places(3, tail=1) == [0, 1, 3]
    assert places(3, tail=2) == [0, 3, 4]
    assert places(3, tail=3) == [0, 3, 4]  # there are two, so the third place is free for all
    assert places(3, head=1, tail=1) == [0, 1, 3]
    assert places(2, head=2) == [0, 1]


def reference(relevance, keyphrases, keep, trade_off, vectors, kind, reserved):
    """One item, in plain Python, with the restriction stated by what would still fit."""
    chosen: list[int] = []
    of_kind = {k: [i for i, keyphrase in enumerate(keyphrases) if kind[keyphrase] == k] for k in reserved}
    wanted = {k: min(places, len(of_kind[k])) for k, places in reserved.items()}
    keep = min(keep, len(keyphrases))
    while len(chosen) < keep:
        best, place = -np.inf, -1
        for i, keyphrase in enumerate(keyphrases):
            if i in chosen:
                continue
            after = [*chosen, i]
            lacking = sum(max(0, wanted[k] - sum(a in of_kind[k] for a in after)) for k in wanted)
            if lacking > keep - len(after):
                continue
            near = max((float(vectors[keyphrase] @ vectors[keyphrases[c]]) for c in chosen), default=0.0)
            value = trade_off * relevance[i] - (1 - trade_off) * near
            if value > best + 1e-9:
                best, place = value, i
        chosen.append(place)
    return chosen


@settings(deadline=None)
@given(
    seed=st.integers(0, 10_000),
    keep=st.integers(1, 8),
    trade_off=st.sampled_from([0.0, 0.3, 0.7, 1.0]),
    head=st.integers(0, 4),
    tail=st.integers(0, 4),
    block=st.sampled_from([1, 200, 1 << 24]),
)
def test_all_items_at_once_are_as_one_by_one(seed, keep, trade_off, head, tail, block):
    rng = np.random.default_rng(seed)
    head, tail = min(head, keep), min(tail, keep - min(head, keep))
    vectors = rng.normal(size=(12, 4)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    kind = rng.integers(3, size=12)
    rows = [rng.permutation(12)[: rng.integers(9)] for _ in range(5)]
    candidate, relevance = np.full((5, 8), -1), np.zeros((5, 8))
    for row, keyphrases in enumerate(rows):
        candidate[row, : len(keyphrases)] = keyphrases
        relevance[row, : len(keyphrases)] = np.sort(rng.random(len(keyphrases)))[::-1]
    before = mmr._ENTRIES_AT_ONCE
    try:
        mmr._ENTRIES_AT_ONCE = block
        reserved = {HEAD: head, TAIL: tail}
        chosen = choose(relevance, candidate, keep, mmr_lambda=trade_off, vectors=vectors, kind=kind, reserved=reserved)
    finally:
        mmr._ENTRIES_AT_ONCE = before
    for row, keyphrases in enumerate(rows):
        expected = reference(relevance[row], keyphrases, keep, trade_off, vectors, kind, reserved)
        assert chosen[row, : len(expected)].tolist() == expected and (chosen[row, len(expected) :] == -1).all()
        if trade_off == 1:
            assert expected == sorted(expected)  # reserved or not, the order is that of relevance
            if not head and not tail:
                assert expected == list(range(min(keep, len(keyphrases))))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"keep": 0}, "keep: 0"),
        ({"mmr_lambda": 1.5}, "mmr_lambda: 1.5"),
        ({"mmr_lambda": 0.5}, "vectors"),
        ({"reserved": {HEAD: 1}}, "kind"),
        ({"reserved": {HEAD: 2, TAIL: 2}, "kind": np.zeros(3, int)}, "keep=3"),
        ({"candidate": np.zeros((1, 2), int)}, r"\(1, 2\)"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, words):
    good = {"relevance": np.zeros((1, 3)), "candidate": np.zeros((1, 3), int), "keep": 3}
    with pytest.raises(ValueError, match=words):
        choose(**(good | arguments))
