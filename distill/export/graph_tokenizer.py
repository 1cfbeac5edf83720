"""The training tokenizer as a TensorFlow graph: UTF-8 strings to padded token ids."""

from __future__ import annotations

from typing import Any, NamedTuple

from distill.data.tokenizing import Tokenizer
from distill.export.characters import (
    AFTER,
    BEFORE,
    CHARACTER,
    CODE_POINTS,
    DROPPED,
    NOTHING,
    PAGE,
    RANK_SHIFT,
    STARTS_RUN,
    CharacterTable,
    PagedTable,
)
from distill.export.tensorflow_door import load_tensorflow

REPLACEMENT = 0xFFFD  # what bytes that are no UTF-8 become, as in Python's errors="replace"

_MOST_BYTES = 256  # of a token, in tensorflow-text


class PaddedTokens(NamedTuple):
    """N texts or pairs; L is the longest one."""

    tokens: Any  # int32 [N, L]
    lengths: Any  # int32 [N]
    first: Any  # int32 [N]: tokens of the first part, `[CLS]` and its `[SEP]` included


class GraphTokenizer:
    """Gives the ids of `Tokenizer.encode_texts` and `pair_tokens`, by TensorFlow's and tensorflow-text's own ops."""

    def __init__(self, tokenizer: Tokenizer, table: CharacterTable):
        """`table` is the tokenizer's `character_table`.

        Raises:
          ImportError: TensorFlow or tensorflow-text is not installed.
          ValueError: a token is too long for tensorflow-text.
        """
        tf = load_tensorflow()
        import tensorflow_text as tf_text  # pyright: ignore[reportMissingImports]

        self._tf, self._table = tf, table
        self._cls, self._sep, self._pad = tokenizer.cls_id, tokenizer.sep_id, tokenizer.pad_id
        self._wordpiece = tf_text.FastWordpieceTokenizer(
            vocab=_vocabulary(tokenizer, table),
            suffix_indicator=table.continuation,
            unknown_token=table.unknown,
            max_bytes_per_word=1 << 20,  # longer words are looked for here, in characters
            token_out_type=tf.int32,
            no_pretokenization=True,
        )

    def texts(self, texts: Any, max_tokens: int) -> PaddedTokens:
        """`[CLS] text [SEP]` of strings [N], at most `max_tokens` each, both special tokens included."""
        tf, raw = self._tf, self.ids(texts)[:, : max_tokens - 2]
        rows = tf.concat([self._column(texts, self._cls), raw, self._column(texts, self._sep)], axis=1)
        lengths = tf.cast(rows.row_lengths(), tf.int32)
        return PaddedTokens(rows.to_tensor(self._pad), lengths, lengths)

    def pairs(self, keyphrases: Any, items: Any, keyphrase_tokens: int, item_tokens: int) -> PaddedTokens:
        """`[CLS] keyphrase [SEP] item text [SEP]` of strings [N]; the sizes count two special tokens for each part."""
        tf = self._tf
        both = self.ids(tf.concat([keyphrases, items], 0))  # at once: the tables stand in the graph once
        first, second = (
            both[: tf.size(keyphrases), : keyphrase_tokens - 2],
            both[tf.size(keyphrases) :, : item_tokens - 2],
        )
        sep = self._column(keyphrases, self._sep)
        rows = tf.concat([self._column(keyphrases, self._cls), first, sep, second, sep], axis=1)
        return PaddedTokens(
            rows.to_tensor(self._pad),
            tf.cast(rows.row_lengths(), tf.int32),
            tf.cast(first.row_lengths() + 2, tf.int32),
        )

    def ids(self, texts: Any) -> Any:
        """Ids without special tokens of strings [N], ragged int32 [N, *]."""
        tf = self._tf
        words, word_rows = self.words(texts)
        pieces = self._wordpiece.tokenize(words)
        rows = tf.repeat(word_rows, pieces.row_lengths())
        return tf.RaggedTensor.from_value_rowids(pieces.values, rows, tf.size(texts, tf.int64), validate=False)

    def words(self, texts: Any) -> tuple[Any, Any]:
        """All words of all texts, normalised, string [W], and whose they are, int64 [W]; too long ones as unknown."""
        tf = self._tf
        elements, rows = self._elements(texts)
        new_row = tf.concat([[True], rows[1:] != rows[:-1]], 0)[: tf.size(rows)]
        if (self._table.paged.elements >> RANK_SHIFT).any():
            elements = self._in_canonical_order(elements, new_row)
        ends = tf.concat([[False], (elements[:-1] & AFTER) > 0], 0)[: tf.size(rows)]
        word = tf.cumsum(tf.cast(new_row | ends | ((elements & BEFORE) > 0), tf.int64))
        kept = (elements & DROPPED) == 0
        characters, rows, word = (tf.boolean_mask(each, kept) for each in (elements & CHARACTER, rows, word))
        begins = tf.concat([[True], word[1:] != word[:-1]], 0)[: tf.size(word)]
        starts = tf.where(begins)[:, 0]
        spelt = tf.RaggedTensor.from_row_starts(characters, starts, validate=False)
        words = tf.strings.unicode_encode(spelt, "UTF-8", errors="replace")
        words = tf.where(spelt.row_lengths() > self._table.max_characters, self._table.unknown, words)
        return words, tf.gather(rows, starts)

    def _column(self, like: Any, value: int) -> Any:
        return self._tf.fill([self._tf.size(like), 1], value)

    def _elements(self, texts: Any) -> tuple[Any, Any]:
        """The elements of all characters of all texts, with whole characters in them, and whose they are, int64."""
        tf, table = self._tf, self._table
        decoded = tf.strings.unicode_decode(texts, "UTF-8", errors="replace", replacement_char=REPLACEMENT)
        codes, rows = decoded.values, decoded.value_rowids()
        if table.added:
            may = tf.reduce_any([tf.reduce_any(codes == ord(token[0])) for token in table.added])
            codes = tf.cond(may, lambda: self._with_added(codes, rows), lambda: codes)
        elements, owner = look_up(table.paged, codes)
        return elements, tf.gather(rows, owner)

    def _with_added(self, codes: Any, rows: Any) -> Any:
        """`codes` with each added token that stands in a text replaced by its code."""
        tf, added = self._tf, self._table.added
        size, longest = tf.size(codes), max(len(token) for token in added)
        ahead, rows_ahead = tf.pad(codes, [[0, longest]]), tf.pad(rows, [[0, longest]], constant_values=-1)
        for i, token in enumerate(added):
            n = len(token)
            found = rows == rows_ahead[n - 1 : n - 1 + size]
            for j, character in enumerate(token):
                found &= ahead[j : j + size] == ord(character)
            behind = tf.pad(found, [[n - 1, 0]])
            covered = tf.reduce_any([behind[j : j + size] for j in range(n - 1)], 0) if n > 1 else tf.zeros_like(found)
            codes = tf.where(found, CODE_POINTS + i, tf.where(covered, NOTHING, codes))
        return codes

    def _in_canonical_order(self, elements: Any, new_row: Any) -> Any:
        """Combining marks of each run in the order that NFD gives them."""
        tf = self._tf
        ranks = elements // (1 << RANK_SHIFT)

        def ordered() -> Any:
            run = tf.cumsum(tf.cast(new_row | ((elements & STARTS_RUN) > 0), tf.int64))
            order = tf.argsort(run * 64 + tf.cast(ranks, tf.int64), stable=True)
            return tf.gather(elements, order)

        # Rare: two marks that are kept, in one run.
        several = tf.reduce_any((ranks[1:] > 0) & (ranks[:-1] > ranks[1:]))
        return tf.cond(several, ordered, lambda: elements)


def look_up(table: PagedTable, codes: Any) -> tuple[Any, Any]:
    """The elements of code points int32 [C], one after the other, and the place in `codes` that each comes from."""
    tf = load_tensorflow()
    entry = tf.gather(tf.constant(table.pages), codes // PAGE) * PAGE + codes % PAGE
    start, length = tf.gather(tf.constant(table.start), entry), tf.gather(tf.constant(table.length), entry)
    at = tf.ragged.range(start, start + length)
    elements = tf.gather(tf.constant(table.elements), at.values)
    owner = at.value_rowids()
    own = (elements & CHARACTER) == CHARACTER
    return tf.where(own, elements & ~CHARACTER | tf.gather(codes, owner), elements), owner


def _vocabulary(tokenizer: Tokenizer, table: CharacterTable) -> list[str]:
    """Tokens by id; where an id has no token, or one that no word is long enough for, something that no word can be."""
    vocabulary = [f"[id {i}]" for i in range(tokenizer.vocab_size)]
    for token, i in tokenizer._backend.get_vocab().items():
        characters = token.removeprefix(table.continuation)
        if len(characters) > table.max_characters:
            continue
        if len(characters.encode()) > _MOST_BYTES:
            raise ValueError(
                f"the tokenizer's token {token!r} has {len(characters.encode())} bytes, tensorflow-text takes at most "
                f"{_MOST_BYTES}; train the tokenizer on texts that do not repeat it"
            )
        vocabulary[i] = token
    return vocabulary
