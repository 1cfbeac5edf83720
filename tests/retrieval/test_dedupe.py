from hypothesis import given
from hypothesis import strategies as st

from distill.data.text import fold_tokens
from distill.retrieval.dedupe import Dropped, deduplicate, meanings


def test_case_order_and_plurals_do_not_make_a_new_keyphrase():
    kept, dropped = deduplicate(["Running Shoes", "shoe running", "running socks", "RUNNING  shoe", "trail shoes"])
    assert kept == [0, 2, 4]
    assert dropped == {1: Dropped("repeat", "Running Shoes"), 3: Dropped("repeat", "Running Shoes")}


def test_what_others_recommend_is_dropped():
    kept, dropped = deduplicate(["red mugs", "blue mug", "mug red"], {"Red Mug", "green mug"})
    assert kept == [1]
    assert dropped == {0: Dropped("already", "Red Mug"), 2: Dropped("already", "Red Mug")}


def test_keyphrases_without_words_are_compared_as_written():
    kept, dropped = deduplicate(["!!!", "???", " !!! "])
    assert kept == [0, 1] and dropped == {2: Dropped("repeat", "!!!")}


def test_nothing_is_kept_of_nothing():
    assert deduplicate([], {"mug"}) == ([], {})


phrases = st.lists(
    st.lists(st.sampled_from(["mug", "mugs", "red", "Red", "shoe", "shoes"]), min_size=1, max_size=3).map(" ".join)
)


@given(ranked=phrases, already=phrases)
def test_each_meaning_is_kept_once_and_by_its_best_rank(ranked, already):
    kept, dropped = deduplicate(ranked, set(already))
    assert sorted([*kept, *dropped]) == list(range(len(ranked))) and kept == sorted(kept)
    meanings = [fold_tokens(ranked[i]) for i in kept]
    assert len(set(meanings)) == len(meanings)
    assert not set(meanings) & {fold_tokens(text) for text in already}
    for index, why in dropped.items():
        assert fold_tokens(why.of) == fold_tokens(ranked[index])
        assert why.of in (already if why.reason == "already" else ranked[:index])


def test_a_meaning_is_the_first_keyphrase_that_has_it():
    texts = ["Running Shoes", "mug", "!!!", "shoe running", "MUGS", "???", "！！！", "mug mug", ""]
    assert meanings(texts).tolist() == [0, 1, 2, 0, 1, 5, 2, 1, 8]
    assert meanings([]).tolist() == []


@given(
    texts=st.lists(
        st.one_of(st.text(max_size=12), st.sampled_from(["mugs red", "Red mug", "ﬁsh", "fish"])), max_size=12
    )
)
def test_two_meanings_are_equal_when_one_repeats_the_other(texts):
    found = meanings(texts)
    for i, left in enumerate(texts):
        for j, right in enumerate(texts):
            assert (found[i] == found[j]) == (deduplicate([left, right])[0] == [0])
