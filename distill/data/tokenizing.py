"""Texts to token ids: a BERT-style WordPiece tokenizer, loaded or trained, and ragged arrays of its ids."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from distill.data.ragged import Ragged

# The library warns on every later fork unless the user or we have said that encoding may use threads.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_CHUNK = 16_384  # texts encoded at a time, which bounds the library's intermediate objects
_MAX_ALPHABET = 1000


class Tokenizer:
    """A fast BERT tokenizer: BertNormalizer, BertPreTokenizer, WordPiece, `[CLS] … [SEP]`."""

    def __init__(self, backend: tokenizers.Tokenizer, source: str = "tokenizer"):
        # Cutting is ours, so that it is counted; files often carry another user's truncation and padding.
        backend.no_truncation()
        backend.no_padding()
        vocab = backend.get_vocab()
        missing = [token for token in SPECIAL_TOKENS[:4] if token not in vocab]
        if missing:
            raise ValueError(
                f"{source}: tokens {missing} are not in the vocabulary; a BERT WordPiece tokenizer is needed"
            )
        self._backend = backend
        self.pad_id: int = vocab["[PAD]"]
        self.unk_id: int = vocab["[UNK]"]
        self.cls_id: int = vocab["[CLS]"]
        self.sep_id: int = vocab["[SEP]"]

    @classmethod
    def load(cls, dir_or_hub_name: str | Path) -> Tokenizer:
        """Reads `tokenizer.json` of a Hugging Face directory, or what `AutoTokenizer` finds there or on the hub.

        Raises:
          ValueError: not a BERT WordPiece tokenizer.
          OSError: no such directory or hub name.
        """
        path = Path(dir_or_hub_name) / "tokenizer.json"
        if path.is_file():
            return cls(tokenizers.Tokenizer.from_file(str(path)), str(path))
        from transformers import AutoTokenizer  # slow to import, and not needed for the common case

        loaded = AutoTokenizer.from_pretrained(str(dir_or_hub_name), use_fast=True, trust_remote_code=False)
        return cls(tokenizers.Tokenizer.from_str(loaded.backend_tokenizer.to_str()), str(dir_or_hub_name))

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> Tokenizer:
        """Learns an uncased WordPiece vocabulary; equal texts in equal order give equal vocabularies in any process.

        The texts are held in memory. At most 1,000 characters (and a quarter of the vocabulary) become tokens of
        their own, the most frequent first; rarer ones are `[UNK]`.

        Raises:
          ValueError: `vocab_size` is below 100, or there is no text.
        """
        if vocab_size < 100:
            raise ValueError(f"vocab_size is {vocab_size}; a WordPiece vocabulary needs at least 100")
        texts = list(texts)
        normalizer = normalizers.BertNormalizer(lowercase=True)
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(normalizer.normalize_str(text))
        ranked = sorted((c for c in counts if not c.isspace()), key=lambda c: (-counts[c], c))
        alphabet = ranked[: min(_MAX_ALPHABET, vocab_size // 4)]
        if not alphabet:
            raise ValueError("the texts to train a tokenizer on are all empty")

        def vocabulary(size: int, reserved: list[str]) -> dict[str, int]:
            backend = _bert_backend({})
            trainer = trainers.WordPieceTrainer(
                vocab_size=size,
                min_frequency=2,
                special_tokens=reserved,
                initial_alphabet=alphabet,
                limit_alphabet=len(alphabet),
                show_progress=False,
            )
            backend.train_from_iterator(texts, trainer)
            return backend.get_vocab()

        # The library numbers continuation characters (`##a`) in hash-map order, which differs from process to process
        # and decides ties between merges. A first pass finds them; the second has them reserved in sorted order.
        specials: list[str] = list(SPECIAL_TOKENS)
        continuations = sorted(token for token in vocabulary(0, specials) if token.startswith("##"))
        learnt = vocabulary(vocab_size, specials + continuations)
        backend = _bert_backend(learnt)
        backend.add_special_tokens(specials)
        backend.post_processor = processors.TemplateProcessing(
            single="[CLS]:0 $A:0 [SEP]:0",
            pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
            special_tokens=[("[CLS]", learnt["[CLS]"]), ("[SEP]", learnt["[SEP]"])],
        )
        return cls(backend)

    @property
    def vocab_size(self) -> int:
        """Number of ids, added tokens included."""
        return max(self._backend.get_vocab().values()) + 1

    @functools.cached_property
    def _json(self) -> str:
        return self._backend.to_str(pretty=True)

    @functools.cached_property
    def content_hash(self) -> str:
        """sha256 of `tokenizer.json` as `save` writes it."""
        return hashlib.sha256(self._json.encode()).hexdigest()

    def save(self, directory: str | Path, max_tokens: int = 512) -> None:
        """Writes the files that `AutoTokenizer.from_pretrained(directory)` reads; its texts are cut at `max_tokens`."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        normalizer = json.loads(self._json)["normalizer"] or {}
        named = {f"{token[1:-1].lower()}_token": token for token in SPECIAL_TOKENS}
        config = {
            "tokenizer_class": "BertTokenizerFast",
            "model_max_length": max_tokens,
            "do_lower_case": normalizer.get("lowercase", True),
            "strip_accents": normalizer.get("strip_accents"),
            "tokenize_chinese_chars": normalizer.get("handle_chinese_chars", True),
            **named,
        }
        vocab = self._backend.get_vocab()
        (directory / "tokenizer.json").write_text(self._json, encoding="utf-8")
        (directory / "vocab.txt").write_text(
            "".join(f"{token}\n" for token in sorted(vocab, key=vocab.__getitem__)), encoding="utf-8"
        )
        for name, content in (("tokenizer_config.json", config), ("special_tokens_map.json", named)):
            (directory / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    def encode_raw(self, texts: Sequence[str], max_tokens: int) -> Ragged:
        """Token ids without `[CLS]` and `[SEP]`, at most `max_tokens` a text; an empty text has none."""
        if max_tokens < 1:
            raise ValueError(f"max_tokens is {max_tokens}; it must be at least 1")
        values, lengths, truncated = [], [], 0
        for start in range(0, len(texts), _CHUNK):
            chunk = list(texts[start : start + _CHUNK])
            rows = [e.ids for e in self._backend.encode_batch_fast(chunk, add_special_tokens=False)]
            full = np.fromiter(map(len, rows), np.int64, len(rows))
            kept = np.minimum(full, max_tokens)
            truncated += int((full > max_tokens).sum())
            flat = itertools.chain.from_iterable(row[:max_tokens] for row in rows)
            values.append(np.fromiter(flat, np.int32, int(kept.sum())))
            lengths.append(kept)
        if not values:
            return Ragged(np.zeros(0, np.int32), np.zeros(1, np.int64))
        return Ragged(np.concatenate(values), _offsets(np.concatenate(lengths)), truncated)

    def encode_texts(self, texts: Sequence[str], max_tokens: int) -> Ragged:
        """`[CLS] text [SEP]`, at most `max_tokens` a text, both special tokens included."""
        if max_tokens < 3:
            raise ValueError(f"max_tokens is {max_tokens}; [CLS], [SEP] and one token need 3")
        raw = self.encode_raw(texts, max_tokens - 2)
        offsets = _offsets(raw.lengths + 2)
        values = np.empty(offsets[-1], np.int32)
        values[offsets[:-1]] = self.cls_id
        values[offsets[1:] - 1] = self.sep_id
        values[_within(offsets[:-1] + 1, raw.lengths)] = raw.values
        return Ragged(values, offsets, raw.truncated)


def pair_tokens(
    keyphrases: Ragged, items: Ragged, k_idx: np.ndarray, i_idx: np.ndarray, cls_id: int, sep_id: int
) -> tuple[Ragged, np.ndarray]:
    """Cross-encoder inputs `[CLS] keyphrase [SEP] item text [SEP]`.

    Args:
      keyphrases, items: ids without special tokens (`Tokenizer.encode_raw`).
      k_idx, i_idx: int [pairs], rows of the two.
      cls_id, sep_id: ids of the special tokens.

    Returns:
      Ragged of `pairs` rows, and the token types, int32 [values]: 0 up to the first `[SEP]`, 1 after it.
    """
    k_idx, i_idx = np.asarray(k_idx, np.int64), np.asarray(i_idx, np.int64)
    if k_idx.shape != i_idx.shape:
        raise ValueError(f"k_idx has shape {k_idx.shape} and i_idx {i_idx.shape}; a pair needs one of each")
    k_len, i_len = keyphrases.lengths[k_idx], items.lengths[i_idx]
    offsets = _offsets(k_len + i_len + 3)
    starts = offsets[:-1]
    values = np.empty(offsets[-1], np.int32)
    values[starts] = cls_id
    values[starts + k_len + 1] = sep_id
    values[offsets[1:] - 1] = sep_id
    values[_within(starts + 1, k_len)] = keyphrases.values[_within(keyphrases.offsets[k_idx], k_len)]
    values[_within(starts + k_len + 2, i_len)] = items.values[_within(items.offsets[i_idx], i_len)]
    types = np.zeros(offsets[-1], np.int32)
    types[_within(starts + k_len + 2, i_len + 1)] = 1
    return Ragged(values, offsets), types


def _bert_backend(vocab: dict[str, int]) -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    return backend


def _offsets(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])


def _within(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Flat positions starts[i] … starts[i] + lengths[i] - 1 of all rows, in order."""
    shifts = starts - _offsets(lengths)[:-1]
    return np.arange(int(lengths.sum()), dtype=np.int64) + np.repeat(shifts, lengths)
