"""Chats to token ids: chat template and tokenizer of an instruction model, of a Hugging Face directory or GGUF file.

Text that others wrote (titles, keyphrases) must never act as a role tag. So the pieces of a rendered chat are known
apart, `pieces`, and whatever stands in a message is encoded by a tokenizer that has no special tokens at all.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

from distill.data.gguf_file import GgufFile

# What templates of these families ask for beyond the messages: an answer at once rather than after a thought, and a
# date that is not today's (the one that Llama 3's template falls back to), so that a prompt is the same every day.
_TEMPLATE_SETTINGS: dict[str, Any] = {"enable_thinking": False, "date_string": "26 Jul 2024"}

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# How GGUF's names of pre-tokenizers cut a text before merges: a pattern, or None for GPT-2's.
_PRE_TOKENIZERS: dict[str, str | None] = {
    "gpt-2": None,
    "gpt2": None,
    "smollm": None,  # after single digits
    "qwen2": rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}|{_REST}",
    "llama-bpe": rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}{{1,3}}|{_REST}",
}
_CONTROL, _USER_DEFINED = 3, 4  # of tokenizer.ggml.token_type


class Piece(NamedTuple):
    """A part of a rendered chat: the template's own text, or what stands in a message."""

    text: str
    special: bool


class ChatTokenizer:
    """Renders chats and turns them into ids.

    Args:
      backend: the tokenizer's definition as `tokenizer.json` has it.
      template: the chat template (Jinja).
      named: special tokens that templates refer to, such as `bos_token`.
      eos_ids: the tokens that end an answer.
    """

    def __init__(self, backend: dict[str, Any], template: str, named: dict[str, str], eos_ids: tuple[int, ...]):
        self._full = _tokenizer(backend)
        self._plain = _tokenizer(_without_added_tokens(backend))
        self._template, self._named = template, named
        self.eos_ids = eos_ids
        self.vocab_size = max(self._full.get_vocab().values()) + 1

    @classmethod
    def load(cls, path: Path) -> ChatTokenizer:
        """Reads a Hugging Face directory (`tokenizer.json`) or a `.gguf` file.

        Raises:
          FileNotFoundError: the path or a file that it needs is missing.
          ValueError: no chat template, no end-of-answer token, or a kind of tokenizer that is not supported.
        """
        path = Path(path)
        return cls._load_directory(path) if path.is_dir() else cls._load_gguf(GgufFile(path))

    @classmethod
    def _load_directory(cls, path: Path) -> ChatTokenizer:
        file = path / "tokenizer.json"
        if not file.is_file():
            raise FileNotFoundError(f"{file} is missing; save the model's tokenizer as a fast one to get it")
        backend, config = _json(file), _json(path / "tokenizer_config.json")
        template = config.get("chat_template")
        if isinstance(template, list):  # several, by name
            template = {entry["name"]: entry["template"] for entry in template}.get("default")
        if (path / "chat_template.jinja").is_file():
            template = (path / "chat_template.jinja").read_text(encoding="utf-8")
        if not template:
            raise ValueError(f"{path}: no chat_template; a judge must be an instruction model, which has one")
        values = {name: config.get(name) for name in ("bos_token", "eos_token", "unk_token", "pad_token")}
        named = {name: v["content"] if isinstance(v, dict) else v for name, v in values.items() if v}
        ends = _json(path / "generation_config.json").get("eos_token_id")
        if ends is None:
            ends = tokenizers.Tokenizer.from_file(str(file)).token_to_id(named.get("eos_token", ""))
        if ends is None:
            raise ValueError(f"{path}: neither generation_config.json nor tokenizer_config.json names an eos token")
        return cls(backend, template, named, tuple(ends) if isinstance(ends, list) else (ends,))

    @classmethod
    def _load_gguf(cls, file: GgufFile) -> ChatTokenizer:
        template = file.get("tokenizer.chat_template")
        if not template:
            raise ValueError(f"{file.path}: no tokenizer.chat_template; a judge must be an instruction model")
        tokens = file.require("tokenizer.ggml.tokens")
        ids = {
            name: file.get(f"tokenizer.ggml.{name}_token_id") for name in ("bos", "eos", "eot", "unknown", "padding")
        }
        ends = tuple(dict.fromkeys(i for i in (ids["eos"], ids["eot"]) if i is not None))
        if not ends:
            raise ValueError(f"{file.path}: metadata field tokenizer.ggml.eos_token_id is missing")
        names = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token"}
        named = {theirs: tokens[ids[ours]] for ours, theirs in names.items() if ids[ours] is not None}
        return cls(_gguf_backend(file, tokens), template, named, ends)

    def render(self, messages: Sequence[dict[str, str]]) -> str:
        """The chat as the model's template writes it, with the header of the assistant's turn at the end.

        Whatever in a message looks like a role tag looks like one here too: encode `pieces` instead where others
        wrote a part of it.

        Raises ValueError: the template refuses the messages (an unknown role, say).
        """
        from transformers.utils.chat_template_utils import render_jinja_template  # slow to import

        try:
            rendered, _ = render_jinja_template(
                [list(messages)],
                chat_template=self._template,
                add_generation_prompt=True,
                **self._named,
                **_TEMPLATE_SETTINGS,
            )
        except Exception as error:  # whatever code a template holds
            raise ValueError(f"the chat template refuses these messages: {error}") from error
        return rendered[0]

    def pieces(self, messages: Sequence[dict[str, str]]) -> list[Piece]:
        """The rendered chat in parts: in turn the template's text and the content of one message, as given.

        The template never sees the contents, so nothing in them can change what it writes; a template that strips or
        looks into contents does so to a stand-in.

        Raises ValueError: the template refuses the messages, leaves one out or changes their order.
        """
        marks = [secrets.token_hex(16) for _ in messages]
        rest = self.render([message | {"content": mark} for message, mark in zip(messages, marks)])
        found = []
        for message, mark in zip(messages, marks):
            before, seen, rest = rest.partition(mark)
            if not seen or mark in rest:
                raise ValueError(
                    f"the chat template does not write the {message['role']} message once and in its place"
                )
            found += [Piece(before, True), Piece(message["content"], False)]
        return [*found, Piece(rest, True)]

    def encode(self, text: str, special: bool) -> list[int]:
        """Ids of a text; nothing is put before or after it.

        Args:
          text: any text.
          special: whether role tags and other added tokens in the text are recognised. If not, they are spelled out
            in ordinary tokens.
        """
        return (self._full if special else self._plain).encode(text, add_special_tokens=False).ids

    def encode_chat(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """Ids of the rendered chat, in which special tokens come from the template alone."""
        return [token for piece in self.pieces(messages) for token in self.encode(*piece)]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids, without special tokens."""
        return self._full.decode(list(ids), skip_special_tokens=True)


def _json(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def _tokenizer(backend: dict[str, Any]) -> tokenizers.Tokenizer:
    built = tokenizers.Tokenizer.from_str(json.dumps(backend))
    # Files often carry another user's truncation and padding.
    built.no_truncation()
    built.no_padding()
    return built


def _without_added_tokens(backend: dict[str, Any]) -> dict[str, Any]:
    """The same tokenizer without added tokens, which are not in its vocabulary either: no text can become one."""
    model = backend["model"]
    if model["type"] != "BPE":
        raise ValueError(f"tokenizer model {model['type']!r} is not supported; only 'BPE' is")
    added = {token["content"] for token in backend.get("added_tokens", ())} - {model.get("unk_token")}
    pairs = [merge.split(" ", 1) if isinstance(merge, str) else merge for merge in model["merges"]]
    plain = {
        "vocab": {token: i for token, i in model["vocab"].items() if token not in added},
        "merges": [pair for pair in pairs if added.isdisjoint((*pair, "".join(pair)))],
    }
    return backend | {"added_tokens": [], "post_processor": None, "model": model | plain}


def _gguf_backend(file: GgufFile, tokens: list[str]) -> dict[str, Any]:
    """A byte-level BPE of a GGUF file's tokens and merges, as `tokenizer.json` would have it."""
    kind, cut = file.require("tokenizer.ggml.model"), file.get("tokenizer.ggml.pre", "default")
    if kind != "gpt2":
        raise ValueError(f"{file.path}: tokenizer.ggml.model is {kind!r}; only 'gpt2' (byte-level BPE) is supported")
    if cut not in _PRE_TOKENIZERS:
        raise ValueError(
            f"{file.path}: tokenizer.ggml.pre is {cut!r}; only {', '.join(sorted(_PRE_TOKENIZERS))} are supported"
        )
    merges = [tuple(merge.split(" ", 1)) for merge in file.require("tokenizer.ggml.merges")]
    vocab = {token: i for i, token in enumerate(tokens)}
    # Llama 3 takes a word that is a token whole, whatever the merges say.
    built = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=cut == "llama-bpe"))
    pattern = _PRE_TOKENIZERS[cut]
    steps: list[Any] = [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None)]
    if pattern is not None:
        steps.insert(0, pre_tokenizers.Split(Regex(pattern), behavior="isolated"))
    if cut == "smollm":
        steps.insert(0, pre_tokenizers.Digits(individual_digits=True))
    if cut == "qwen2":
        built.normalizer = normalizers.NFC()
    built.pre_tokenizer = pre_tokenizers.Sequence(steps)
    built.decoder = decoders.ByteLevel()
    kinds = file.require("tokenizer.ggml.token_type")
    for special, number in ((True, _CONTROL), (False, _USER_DEFINED)):
        chosen = [token for token, kind in zip(tokens, kinds, strict=True) if kind == number]
        added = [AddedToken(token, normalized=False, special=special) for token in chosen]
        built.add_special_tokens(added) if special else built.add_tokens(added)
    return json.loads(built.to_str())
