import hashlib
import json
import math
import os
import subprocess
import sys

import bm25s
import numpy as np
import pytest

from distill.retrieval.lexical import Lexical, _tokenize

DOCUMENTS = ["red running shoes", "running socks, red red", "", "coffee mug 8 oz", "the of and", "Red Running Shoe"]


def bm25_by_hand(query, document, documents):
    """The formula, on tokens."""
    k1, b = 1.2, 0.75
    mean_length = sum(map(len, documents)) / len(documents)
    score = 0.0
    for token in query:
        frequency, holders = document.count(token), sum(token in d for d in documents)
        if frequency:
            idf = math.log(1 + (len(documents) - holders + 0.5) / (holders + 0.5))
            score += idf * frequency / (frequency + k1 * (1 - b + b * len(document) / mean_length))
    return score


def test_scores_are_the_formulas():
    lexical = Lexical(DOCUMENTS)
    queries = ["red shoe", "mug", "red red", "zebra"]
    pairs = [(q, d) for q in range(len(queries)) for d in range(len(DOCUMENTS))]
    scores = lexical.score_pairs(queries, *np.array(pairs).T)
    tokens = [["red", "run", "shoe"], ["run", "sock", "red", "red"], [], ["coffe", "mug", "8", "oz"], []]
    tokens.append(tokens[0])
    query_tokens = [["red", "shoe"], ["mug"], ["red", "red"], ["zebra"]]
    expected = [bm25_by_hand(query_tokens[q], tokens[d], tokens) for q, d in pairs]
    np.testing.assert_allclose(scores, expected, rtol=1e-5)


def test_scores_are_bm25s_own():
    rng = np.random.default_rng(0)
    words = [f"word{i}" for i in range(40)]
    documents = [" ".join(rng.choice(words, rng.integers(1, 9))) for _ in range(60)]
    queries = [" ".join(rng.choice(words, 4)) for _ in range(10)]
    peer = bm25s.BM25(method="lucene", k1=1.2, b=0.75)
    peer.index(_tokenize(documents), show_progress=False)
    lexical = Lexical(documents)
    query, document = (i.ravel() for i in np.indices((10, 60)))
    scores = lexical.score_pairs(queries, query, document).reshape(10, 60)
    np.testing.assert_allclose(scores, [peer.get_scores(tokens) for tokens in _tokenize(queries)], rtol=1e-5)
    indices, best = lexical.top_k(queries, 60)
    for row in range(10):
        order = np.argsort(-scores[row], kind="stable")
        found = np.count_nonzero(scores[row])
        np.testing.assert_allclose(best[row, :found], scores[row][order][:found], rtol=1e-6)
        assert set(indices[row, :found]) == set(np.flatnonzero(scores[row]))
        assert (indices[row, found:] == -1).all() and np.isneginf(best[row, found:]).all()


def test_top_k_ties_go_to_the_lower_index():
    indices, scores = Lexical(DOCUMENTS).top_k(["running shoes", "nothing shared", ""], 2)
    np.testing.assert_array_equal(indices, [[0, 5], [-1, -1], [-1, -1]])
    assert scores[0, 0] == scores[0, 1] > 0
    tied = Lexical(["mug"] * 9 + ["cup"])
    np.testing.assert_array_equal(tied.top_k(["mug"], 4)[0], [[0, 1, 2, 3]])


def test_many_queries_are_like_each_alone():
    lexical = Lexical(DOCUMENTS)
    queries = ["red", "mug", "sock shoe"] * 400  # more than one block
    together, alone = lexical.top_k(queries, 3), lexical.top_k(queries[:3], 3)
    np.testing.assert_array_equal(together[0], np.tile(alone[0], (400, 1)))
    np.testing.assert_array_equal(together[1], np.tile(alone[1], (400, 1)))


@pytest.mark.parametrize("documents", [[], [""], ["the of"]])
def test_documents_without_words(documents):
    lexical = Lexical(documents)
    assert (lexical.top_k(["red", ""], 2)[0] == -1).all()
    if documents:
        np.testing.assert_array_equal(lexical.score_pairs(["red"], np.array([0]), np.array([0])), [0.0])


def test_no_queries_and_no_pairs():
    lexical = Lexical(DOCUMENTS)
    assert lexical.top_k([], 3)[0].shape == (0, 3)
    assert lexical.score_pairs([], np.zeros(0, int), np.zeros(0, int)).shape == (0,)


def test_bad_arguments_are_refused():
    lexical = Lexical(DOCUMENTS)
    with pytest.raises(ValueError, match="k: 0"):
        lexical.top_k(["red"], 0)
    with pytest.raises(ValueError, match="document_index: holds 6 to 6"):
        lexical.score_pairs(["red"], np.array([0]), np.array([6]))
    with pytest.raises(ValueError, match="query_index: holds -1"):
        lexical.score_pairs(["red"], np.array([-1]), np.array([0]))
    with pytest.raises(ValueError, match=r"pass \[N\] both"):
        lexical.score_pairs(["red"], np.array([0, 0]), np.array([0]))


def test_quiet_and_the_same_to_the_bit_in_another_process():
    texts = [" ".join(f"w{(i * j) % 17}" for j in range(1, 9)) for i in range(50)]
    indices, scores = Lexical(texts).top_k(texts, 20)
    code = (
        "from distill.retrieval.lexical import Lexical; import hashlib, json, sys\n"
        "texts = json.load(sys.stdin)\n"
        "indices, scores = Lexical(texts).top_k(texts, 20)\n"
        "sys.stdout.write(hashlib.sha256(indices.tobytes() + scores.tobytes()).hexdigest())"
    )
    other = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    run = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(texts),
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONHASHSEED": other},
    )
    assert run.stderr == ""
    assert run.stdout == hashlib.sha256(indices.tobytes() + scores.tobytes()).hexdigest()
