"""`distill.data.text.normalise_keyphrase` as a TensorFlow graph: a SavedModel reads keyphrases as `prepare` does.

Case folding, what is deleted and what is a space come from Python's own tables, and the rules of units are the same;
NFKC is tensorflow-text's. So texts can differ only where a character's decomposition, composition or combining class
came with a later version of Unicode than the other side's.
"""

from __future__ import annotations

import functools
from typing import Any

from distill.data.text import FRACTION, SEPARATED, fold_and_clean
from distill.data.units import UNIT_RULES
from distill.export.characters import CHARACTER, CODE_POINTS, PagedTable, paged
from distill.export.graph_tokenizer import REPLACEMENT, look_up
from distill.export.tensorflow_door import load_tensorflow

LONGEST = 4096  # characters that are read: composing a run of combining marks takes time quadratic in its length


def normalise_keyphrases(texts: Any) -> Any:
    """Keyphrases [N] in their normal form, UTF-8 strings both; bytes that are no UTF-8 become U+FFFD.

    Only the first LONGEST characters of each are read.

    Raises:
      ImportError: TensorFlow or tensorflow-text is not installed.
    """
    tf = load_tensorflow()
    texts = tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8", errors="replace", replacement_char=REPLACEMENT)
    texts = tf.strings.substr(texts, 0, LONGEST, unit="UTF8_CHAR")
    texts = tf.strings.regex_replace(texts, FRACTION, SEPARATED)
    _, texts = tf.while_loop(
        lambda before, now: tf.reduce_any(before != now),
        lambda before, now: (now, _compose_and_fold(now)),
        (texts, _compose_and_fold(texts)),
    )
    texts = tf.strings.strip(tf.strings.regex_replace(texts, " +", " "))
    for rule in UNIT_RULES:
        texts = tf.strings.regex_replace(texts, rule.pattern, rule.rewrite)
    return texts


def _compose_and_fold(texts: Any) -> Any:
    tf = load_tensorflow()
    import tensorflow_text as tf_text  # pyright: ignore[reportMissingImports]

    decoded = tf.strings.unicode_decode(tf_text.normalize_utf8(texts, "NFKC"), "UTF-8")
    codes, owner = look_up(_folding(), decoded.values)
    rows = tf.gather(decoded.value_rowids(), owner)
    folded = tf.RaggedTensor.from_value_rowids(codes, rows, tf.size(texts, tf.int64), validate=False)
    return tf.strings.unicode_encode(folded, "UTF-8")


@functools.lru_cache(maxsize=1)
def _folding() -> PagedTable:
    """Of each code point, what case folding and cleaning make of it."""
    rows: list[tuple[int, ...]] = []
    for code in range(CODE_POINTS):
        own = chr(code)
        made = own if 0xD800 <= code < 0xE000 else fold_and_clean(own)
        rows.append((CHARACTER,) if made == own else tuple(map(ord, made)))
    return paged(rows)
