"""The normal form of keyphrases in the graph against the one in Python."""

import unicodedata

import pytest
from hypothesis import given, settings

from distill.data.text import normalise_keyphrase
from tests.data.test_units import SPELLINGS, TEXTS, UNTOUCHED
from tests.export.unicode_texts import unicode_texts

tf = pytest.importorskip("tensorflow", reason="pip install -e '.[export]'")
pytest.importorskip("tensorflow_text", reason="pip install -e '.[export]'")


@pytest.fixture(scope="module")
def in_graph():
    """Texts or bytes to their normal forms."""
    from distill.export.graph_text import normalise_keyphrases

    signature = [tf.TensorSpec([None], tf.string)]
    compiled = tf.function(normalise_keyphrases, input_signature=signature, autograph=False)

    def normalise(texts):
        given = [text if isinstance(text, bytes) else text.encode() for text in texts]
        return [found.decode() for found in compiled(tf.constant(given, tf.string, shape=[len(given)])).numpy()]

    return normalise


def different(in_graph, texts):
    return [text for text, found in zip(texts, in_graph(texts)) if found != normalise_keyphrase(text)]


def has_unassigned(text):
    """Whether it holds a code point that Python's Unicode does not know: tensorflow-text's is another version."""
    return any(unicodedata.category(character) == "Cn" for character in text)


def test_ten_thousand_unicode_texts(in_graph):
    texts = unicode_texts(10_000, 3)
    found = different(in_graph, texts)
    assert [ascii(text) for text in found if not has_unassigned(text)] == []
    assert len(found) < 0.02 * len(texts)


@pytest.mark.slow
def test_every_code_point(in_graph):
    characters = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    for at in range(0, len(characters), 1 << 16):
        texts = [f"a{character}b" for character in characters[at : at + (1 << 16)]]
        assert [ascii(text) for text in different(in_graph, texts) if not has_unassigned(text)] == []


def test_units(in_graph):
    texts = [*(text for spellings in SPELLINGS.values() for text in spellings), *SPELLINGS, *UNTOUCHED]
    assert different(in_graph, texts) == []
    assert in_graph(['12" skillet']) == ["12 inch skillet"]


@given(text=TEXTS)
@settings(max_examples=300, deadline=None)
def test_what_the_rules_look_at(in_graph, text):
    assert has_unassigned(text) or different(in_graph, [text]) == []


def test_none_blanks_and_bytes_that_are_no_text(in_graph):
    assert in_graph([]) == []
    assert in_graph(["", " \u200b\u2060", b"a\xff B"]) == ["", "", "a\ufffd b"]


def test_a_text_is_read_up_to_a_length(in_graph):
    """Composing takes time that is quadratic in a run of marks: such a megabyte would hold a server for minutes."""
    from distill.export.graph_text import LONGEST

    cut = "Ü" * (LONGEST + 1), "a" + "\u0327\u0301" * 250_000, "é" * LONGEST
    found = in_graph(cut)
    assert found[0] == "ü" * LONGEST and found[2] == "é" * LONGEST
    assert found[1] == normalise_keyphrase(cut[1][:LONGEST])
