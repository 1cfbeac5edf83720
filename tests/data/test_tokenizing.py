import random
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.data.tokenizing import Ragged, Tokenizer, pair_tokens

PROGRAM = """
import random
from distill.data.tokenizing import Tokenizer
words = random.Random(0)
stems = ["".join(words.choice("abcdefghéñ™中") for _ in range(words.randint(2, 7))) for _ in range(300)]
texts = [" ".join(words.choice(stems) for _ in range(6)) for _ in range(400)]
print(Tokenizer.train(texts, 300).content_hash)
"""


def corpus() -> list[str]:
    words = random.Random(0)
    stems = ["".join(words.choice("abcdefgh") for _ in range(words.randint(2, 7))) for _ in range(200)]
    return [" ".join(words.choice(stems) for _ in range(6)) for _ in range(300)]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(corpus(), 200)


def rows(ragged: Ragged) -> list[list[int]]:
    return [list(map(int, row)) for row in np.split(ragged.values, ragged.offsets[1:-1])]


def test_training_is_equal_in_every_process():
    command = [sys.executable, "-c", PROGRAM]
    hashes = {subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(3)}
    assert len(hashes) == 1


def test_vocabulary_size_and_special_tokens(tokenizer):
    assert tokenizer.vocab_size == 200
    assert (tokenizer.pad_id, tokenizer.unk_id, tokenizer.cls_id, tokenizer.sep_id) == (0, 1, 2, 3)
    assert tokenizer.content_hash != Tokenizer.train(corpus()[1:], 200).content_hash


def test_encoding_equals_transformers_on_the_saved_directory(tokenizer, tmp_path):
    from transformers import AutoTokenizer

    tokenizer.save(tmp_path, 12)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert theirs.model_max_length == 12
    texts = [*corpus()[:50], "", "ABCD Àbc", "zzz™ 中文 a-b/c", "[SEP] abc"]
    ours = tokenizer.encode_texts(texts, 12)
    expected = theirs(texts, truncation=True)["input_ids"]
    assert rows(ours) == expected
    full = [len(row) for row in theirs(texts, truncation=False)["input_ids"]]
    assert ours.truncated == sum(length > 12 for length in full) > 0
    pair = theirs("abc fed", "gab hed")
    raw = tokenizer.encode_raw(["abc fed", "gab hed"], 50)
    tokens, types = pair_tokens(raw, raw, np.array([0]), np.array([1]), tokenizer.cls_id, tokenizer.sep_id)
    assert rows(tokens) == [pair["input_ids"]] and list(types) == pair["token_type_ids"]


def test_save_and_load_keep_the_content_hash(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert again.content_hash == tokenizer.content_hash
    (tmp_path / "tokenizer.json").unlink()  # what is left is the oldest format: vocab.txt
    oldest = Tokenizer.load(tmp_path)
    assert rows(oldest.encode_texts(corpus(), 30)) == rows(tokenizer.encode_texts(corpus(), 30))


def test_truncation_and_padding_of_the_file_are_not_inherited(tokenizer, tmp_path):
    import tokenizers

    tokenizer.save(tmp_path)
    backend = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    backend.enable_truncation(3)
    backend.enable_padding(length=20)
    backend.save(str(tmp_path / "tokenizer.json"))
    again = Tokenizer.load(tmp_path)
    assert rows(again.encode_texts(corpus(), 30)) == rows(tokenizer.encode_texts(corpus(), 30))


def test_empty_inputs(tokenizer):
    assert rows(tokenizer.encode_texts([""], 8)) == [[2, 3]]
    for encoded in (tokenizer.encode_raw([], 8), tokenizer.encode_texts([], 8)):
        assert encoded.values.dtype == np.int32 and encoded.offsets.dtype == np.int64
        assert list(encoded.offsets) == [0] and encoded.truncated == 0


def test_pairs_by_hand():
    keyphrases = Ragged(np.array([7, 8, 9], np.int32), np.array([0, 2, 3, 3]))
    items = Ragged(np.array([20, 21, 22], np.int32), np.array([0, 1, 3]))
    tokens, types = pair_tokens(keyphrases, items, np.array([1, 0, 2]), np.array([1, 0, 0]), 101, 102)
    assert rows(tokens) == [[101, 9, 102, 21, 22, 102], [101, 7, 8, 102, 20, 102], [101, 102, 20, 102]]
    assert list(types) == [0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 1, 1, 0, 0, 1, 1]
    with pytest.raises(ValueError, match="k_idx"):
        pair_tokens(keyphrases, items, np.array([1]), np.array([1, 0]), 101, 102)


ragged_lists = st.lists(st.lists(st.integers(5, 99), max_size=5), min_size=1, max_size=5)


@settings(deadline=None, max_examples=60)
@given(ragged_lists, ragged_lists, st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99)), max_size=6))
def test_pairs_equal_plain_concatenation(keyphrases, items, pairs):
    def ragged(lists):
        offsets = np.cumsum([0, *map(len, lists)])
        return Ragged(np.array([x for row in lists for x in row], np.int32), offsets)

    k_idx = np.array([k % len(keyphrases) for k, _ in pairs], np.int64)
    i_idx = np.array([i % len(items) for _, i in pairs], np.int64)
    tokens, types = pair_tokens(ragged(keyphrases), ragged(items), k_idx, i_idx, 1, 2)
    expected = [([1, *keyphrases[k], 2], [*items[i], 2]) for k, i in zip(k_idx, i_idx)]
    assert list(tokens.values) == [x for first, second in expected for x in (*first, *second)]
    assert list(tokens.lengths) == [len(first) + len(second) for first, second in expected]
    assert list(types) == [t for first, second in expected for t in [0] * len(first) + [1] * len(second)]


def test_what_cannot_work_is_named(tokenizer, tmp_path):
    import tokenizers

    with pytest.raises(ValueError, match="vocab_size is 50"):
        Tokenizer.train(corpus(), 50)
    with pytest.raises(ValueError, match="empty"):
        Tokenizer.train(["", " "], 200)
    with pytest.raises(ValueError, match="max_tokens is 2"):
        tokenizer.encode_texts(["abc"], 2)
    tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, unk_token="a")).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ValueError, match=r"tokenizer\.json.*\[CLS\]"):
        Tokenizer.load(tmp_path)
