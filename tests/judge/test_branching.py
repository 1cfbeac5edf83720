"""Packing branched prompts: what the last token of a branch can see in its row is its prompt, whatever was packed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.judge.branching import Prompt, RowShape, pack

PREFIX = 7
lengths = st.tuples(st.integers(0, 9), st.lists(st.integers(1, 6), min_size=1, max_size=12))


def prompts_of(groups):
    """Prompts of listings whose tokens are all different, so that a mix-up shows."""
    tokens, result = iter(range(1, 10_000_000)), []
    for shared, branches in groups:
        listing = tuple(next(tokens) for _ in range(shared))
        result += [
            Prompt(listing, tuple(next(tokens) for _ in range(n)), len(result) + i) for i, n in enumerate(branches)
        ]
    return result


def seen_by(batch, placed):
    """Tokens and positions that a branch's last token sees, by the rule of `BranchedTokens`."""
    end = batch.ends[placed.row, placed.branch]
    tokens, positions, groups, branches = (field[placed.row] for field in batch.packed)
    at = np.arange(end + 1)
    at = at[(groups[at] == groups[end]) & np.isin(branches[at], (0, branches[end]))]
    return tokens[at].tolist(), positions[at].tolist()


@given(st.lists(lengths, max_size=12), st.integers(1, 3), st.integers(15, 40), st.integers(1, 8), st.integers(0, 200))
def test_every_prompt_is_seen_whole_and_alone_exactly_once(groups, rows, tokens, branches, look_ahead):
    prompts, keys = prompts_of(groups), []
    for batch in pack(prompts, RowShape(rows, tokens, branches), prefix_tokens=PREFIX, look_ahead=look_ahead):
        assert batch.packed.tokens.shape == (rows, tokens) and batch.ends.shape == (rows, branches)
        assert batch.placed
        for placed in batch.placed:
            whole = [*placed.prompt.listing, *placed.prompt.keyphrase]
            assert seen_by(batch, placed) == (whole, list(range(PREFIX, PREFIX + len(whole))))
            keys.append(placed.prompt.key)
        assert sum(placed.tokens for placed in batch.placed) == (batch.packed.groups > 0).sum()
    assert sorted(keys) == [prompt.key for prompt in prompts]


def test_a_row_by_hand():
    prompts = [Prompt((11, 12), (21,)), Prompt((11, 12), (31, 32)), Prompt((), (41,))]
    (batch,) = pack(prompts, RowShape(1, 8, 4), prefix_tokens=PREFIX)
    assert batch.packed.tokens.tolist() == [[11, 12, 21, 31, 32, 41, 0, 0]]
    assert batch.packed.positions.tolist() == [[7, 8, 9, 9, 10, 7, 0, 0]]
    assert batch.packed.groups.tolist() == [[1, 1, 1, 1, 1, 2, 0, 0]]
    assert batch.packed.branches.tolist() == [[0, 0, 1, 2, 2, 1, 0, 0]]
    assert batch.ends.tolist() == [[2, 4, 5, 0]]
    assert [placed.tokens for placed in batch.placed] == [2, 3, 1]


def test_rows_are_well_filled_and_little_is_repeated():
    """Listings of about half a row and more, which whole ones would fill badly."""
    random = np.random.default_rng(0)
    groups = [(int(random.integers(60, 120)), random.integers(35, 55, 10).tolist()) for _ in range(200)]
    batches = list(pack(prompts_of(groups), RowShape(8, 1024, 40), prefix_tokens=0))
    used = sum(int((batch.packed.groups > 0).sum()) for batch in batches[:-1])
    assert used > 0.9 * (len(batches) - 1) * 8 * 1024
    once = sum(shared + sum(branches) for shared, branches in groups)
    assert once <= sum(int((batch.packed.groups > 0).sum()) for batch in batches) < 1.1 * once


def test_a_stream_is_read_no_further_than_the_window():
    taken = 0

    def stream():
        nonlocal taken
        for prompt in prompts_of([(4, [3, 3])] * 1000):
            taken += 1
            yield prompt

    next(pack(stream(), RowShape(2, 20, 4), prefix_tokens=0))
    assert taken <= 2 * 2 * 20 // 5 + 4


@pytest.mark.parametrize("prompt", [Prompt((1,) * 5, (2,) * 6), Prompt((1,), ())], ids=["too long", "no own token"])
def test_a_prompt_that_cannot_be_packed_is_an_error(prompt):
    with pytest.raises(ValueError, match=r"must fit a row of 10"):
        list(pack([prompt], RowShape(1, 10, 4), prefix_tokens=0))
