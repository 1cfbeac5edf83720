import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.retrieval.dedupe import deduplicate, meanings
from distill.retrieval.mixing import HEAD, TAIL, head_or_tail
from distill.retrieval.selection import FATES, Exclusions, Pairs, Rules, decide

KEYPHRASES = ["red mug", "mugs red", "blue mug", "mug", "Mugs", "cup", "tea cup", "cups tea", "big cup", "jug"]
MEANING = meanings(KEYPHRASES)


def pairs(*rows: tuple[int, int]) -> Pairs:
    return Pairs(*np.array(rows, np.int64).reshape(-1, 2).T)


def run(keyphrases, logits, rules, item=7):
    """One item's candidates: keyphrase → (fate, rank, what it repeats)."""
    count = len(keyphrases)
    decided = decide(
        np.zeros(count, int), np.full(count, item), np.array(keyphrases, int), np.zeros(count), np.array(logits), rules
    )
    said = [KEYPHRASES[k] if k >= 0 else None for k in decided.same_as]
    fates = [FATES[f] for f in decided.fate]
    return dict(zip(np.array(keyphrases)[decided.order].tolist(), zip(fates, decided.rank.tolist(), said)))


def test_each_fate_by_hand():
    exclusions = Exclusions(MEANING, blocked=pairs((-1, 4), (7, 5), (8, 9)), already=pairs((7, 6), (8, 2)))
    rules = Rules(keep=2, threshold=0.0, exclusions=exclusions)
    fates = run([0, 1, 2, 3, 5, 7, 8, 9], [3.0, 4.0, 2.0, 9.0, 9.0, 8.0, -1.0, 1.0], rules)
    assert fates == {
        1: ("kept", 1, None),
        2: ("kept", 2, None),
        0: ("repeated", 0, "mugs red"),
        3: ("blocked", 0, None),  # "Mugs" is, for all items
        5: ("blocked", 0, None),  # for this item
        7: ("already_recommended", 0, "tea cup"),
        8: ("below_threshold", 0, None),
        9: ("over_limit", 0, None),  # blocked for another item alone
    }
    assert list(fates)[:2] == [1, 2] and list(fates)[2:] == [3, 5, 7, 0, 9, 8]  # the kept ones, then the best first


def test_what_repeats_a_keyphrase_below_the_threshold_is_no_repetition():
    rules = Rules(keep=5, threshold=1.0, exclusions=Exclusions(MEANING))
    assert run([0, 1], [0.5, 0.6], rules) == {
        1: ("below_threshold", 0, None),
        0: ("below_threshold", 0, None),
    }


def test_a_logit_that_is_no_number_is_not_relevant():
    rules = Rules(keep=5, threshold=-9.0, exclusions=Exclusions(MEANING))
    assert run([2, 5], [np.nan, -9.0], rules)[2][0] == "below_threshold"
    assert run([2, 5], [np.nan, -9.0], rules)[5] == ("kept", 1, None)


def test_equal_logits_go_by_score_and_then_by_index():
    rules = Rules(keep=3, threshold=0.0, exclusions=Exclusions(MEANING))
    row = np.zeros(3, int)
    decided = decide(row, row, np.array([2, 3, 5]), np.array([0.1, 0.2, 0.1]), np.ones(3), rules)
    assert decided.order.tolist() == [1, 0, 2]


def test_diversity_and_mix_say_which_of_them_took_a_place():
    vectors = np.eye(len(KEYPHRASES), dtype=np.float32)
    vectors[3] = vectors[2]  # the mugs are alike
    kind = np.full(len(KEYPHRASES), HEAD)
    kind[9] = TAIL
    exclusions = Exclusions(MEANING)
    candidates, logits = [2, 3, 5, 8, 9], [2.0, 1.9, 1.0, 0.9, 0.1]
    diverse = Rules(keep=2, threshold=0.0, exclusions=exclusions, mmr_lambda=0.5, vectors=vectors)
    fates = {k: (fate, rank) for k, (fate, rank, _) in run(candidates, logits, diverse).items()}
    assert fates == {2: ("kept", 1), 5: ("kept", 2), 3: ("less_diverse", 0), 8: ("over_limit", 0), 9: ("over_limit", 0)}
    mixed = Rules(keep=3, threshold=0.0, exclusions=exclusions, kind=kind, reserved={TAIL: 1})
    fates = {k: (fate, rank) for k, (fate, rank, _) in run(candidates, logits, mixed).items()}
    assert fates == {2: ("kept", 1), 3: ("kept", 2), 9: ("kept", 3), 5: ("mix", 0), 8: ("over_limit", 0)}
    both = Rules(3, 0.0, exclusions, mmr_lambda=0.5, vectors=vectors, kind=kind, reserved={TAIL: 1})
    fates = {k: (fate, rank) for k, (fate, rank, _) in run(candidates, logits, both).items()}
    assert fates == {2: ("kept", 1), 5: ("kept", 2), 9: ("kept", 3), 3: ("less_diverse", 0), 8: ("over_limit", 0)}


def test_nothing_is_decided_of_nothing():
    empty = np.zeros(0, int)
    decided = decide(empty, empty, empty, np.zeros(0), np.zeros(0), Rules(3, 0.0, Exclusions(MEANING)))
    assert all(len(part) == 0 for part in decided)


pair_lists = st.lists(st.tuples(st.integers(-1, 3), st.integers(0, len(KEYPHRASES) - 1)), max_size=6)


@settings(deadline=None)
@given(
    seed=st.integers(0, 10_000),
    keep=st.integers(1, 6),
    blocked=pair_lists,
    already=pair_lists,
    trade_off=st.sampled_from([0.4, 1.0]),
    head=st.integers(0, 3),
    tail=st.integers(0, 3),
)
def test_the_rules_hold_whatever_is_found(seed, keep, blocked, already, trade_off, head, tail):
    rng = np.random.default_rng(seed)
    found = np.sort(rng.permutation(4 * len(KEYPHRASES))[: rng.integers(4 * len(KEYPHRASES))])
    row, keyphrase = np.divmod(found, len(KEYPHRASES))
    item = rng.permutation(4)[row]
    logit, score = rng.integers(-4, 8, len(row)).astype(np.float32), rng.random(len(row)).astype(np.float32)
    already = [(i, k) for i, k in already if i >= 0]
    vectors = rng.normal(size=(len(KEYPHRASES), 4)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    kind = head_or_tail(rng.integers(20, size=len(KEYPHRASES)).astype(float), 0.5)
    head = min(head, keep)
    reserved = {HEAD: head, TAIL: min(tail, keep - head)}
    exclusions = Exclusions(MEANING, pairs(*blocked), pairs(*already))
    rules = Rules(keep, 0.0, exclusions, mmr_lambda=trade_off, vectors=vectors, kind=kind, reserved=reserved)
    decided = decide(row, item, keyphrase, score, logit, rules)
    assert sorted(decided.order.tolist()) == list(range(len(row)))
    assert ((decided.rank > 0) == (decided.fate == FATES.index("kept"))).all()
    assert (row[decided.order] == np.sort(row)).all()
    repeats = np.isin(decided.fate, [FATES.index("already_recommended"), FATES.index("repeated")])
    assert ((decided.same_as >= 0) == repeats).all()
    assert (MEANING[decided.same_as[repeats]] == MEANING[keyphrase[decided.order][repeats]]).all()
    for number in np.unique(row):
        mine = np.flatnonzero(row[decided.order] == number)
        at = decided.order[mine]
        here, fates, ranks = int(item[at[0]]), [FATES[f] for f in decided.fate[mine]], decided.rank[mine]
        kept = at[ranks > 0]
        assert ranks[ranks > 0].tolist() == list(range(1, len(kept) + 1)) and len(kept) <= keep
        assert (ranks[len(kept) :] == 0).all()
        kept_meanings = MEANING[keyphrase[kept]].tolist()
        assert len(set(kept_meanings)) == len(kept_meanings)
        forbidden = {MEANING[k] for i, k in [*blocked, *already] if i in (here, -1)}
        assert not forbidden & set(kept_meanings)
        assert (logit[kept] >= 0).all()
        expected = one_by_one(here, at, keyphrase, score, logit, blocked, already)
        got = {int(keyphrase[a]): fate for a, fate in zip(at, fates)}
        open_fates = ("kept", "over_limit", "less_diverse", "mix")
        assert {k: "open" if f in open_fates else f for k, f in got.items()} == expected
        opened = sum(fate == "open" for fate in expected.values())
        assert len(kept) == min(keep, opened)
        if trade_off == 1 and not any(reserved.values()):
            assert not {"less_diverse", "mix"} & set(fates)
            by_rank = sorted(kept, key=lambda a: (-logit[a], -score[a], keyphrase[a]))
            assert by_rank == kept.tolist()
            left = [a for a, fate in zip(at, fates) if fate == "over_limit"]
            assert not left or not len(kept) or logit[left].max() <= logit[kept].min()
        for which in (HEAD, TAIL):
            able = [k for k, fate in expected.items() if fate == "open" and kind[k] == which]
            assert (kind[keyphrase[kept]] == which).sum() >= min(reserved[which], len(able))


def one_by_one(item, at, keyphrase, score, logit, blocked, already):
    """What becomes of one item's candidates before places are given, by `deduplicate` and plain Python."""
    order = sorted(at, key=lambda a: (-logit[a], -score[a], keyphrase[a]))
    forbidden = {MEANING[k] for i, k in blocked if i in (item, -1)}
    fates = {}
    good = []
    for a in order:
        if MEANING[keyphrase[a]] in forbidden:
            fates[int(keyphrase[a])] = "blocked"
        elif logit[a] < 0:
            fates[int(keyphrase[a])] = "below_threshold"
        else:
            good.append(int(keyphrase[a]))
    others = {KEYPHRASES[k] for i, k in already if i == item}
    kept, dropped = deduplicate([KEYPHRASES[k] for k in good], others)
    names = {"already": "already_recommended", "repeat": "repeated"}
    fates |= {good[place]: names[why.reason] for place, why in dropped.items()}
    return fates | {good[place]: "open" for place in kept}
