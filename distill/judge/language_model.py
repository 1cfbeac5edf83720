"""The `jax` backend: a decoder-only language model on our own devices, which scores its answers and writes none.

A chat is cut where prompts begin to differ: the template's start, the rubric and the start of the user's turn are one
prefix; then come the listing's line, and the keyphrase's with the header of the assistant's turn. Each part is turned
into tokens by itself, so which prompts share a part changes no score. The probabilities of the answers' tokens after
the header are the judgement.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jax

from distill.config import LanguageModelConfig
from distill.data.chat import ChatTokenizer
from distill.judge.backends import Judgement, Request
from distill.judge.branching import Prompt
from distill.judge.parsing import least_mass_mark, parse_choice_logprobs
from distill.judge.prompt import choice_prompt
from distill.judge.rubric import Rubric
from distill.judge.scoring import NextTokenScorer, Scored
from distill.models.decoder import DecoderSpec
from distill.models.decoder_weights import load_decoder, model_path

_FILES = ("*.json", "*.jinja", "model*.safetensors")  # of a directory, those that a judgement depends on
_SAMPLES, _SAMPLE_BYTES = 1024, 4096  # of each file


class LanguageModelJudge:
    """Grades by the probabilities of the rubric's answers, as `parse_choice_logprobs` reads them.

    An answer is known by its first token, which no two may share. The same pair always gets the same answer.
    """

    def __init__(
        self,
        spec: DecoderSpec,
        params: Any,
        tokenizer: ChatTokenizer,
        rubric: Rubric,
        *,
        name: str,
        mesh: jax.sharding.Mesh,
        row_tokens: int,
        batch_rows: int,
        least_mass: float = 0.5,
    ):
        """
        Args:
          spec, params, tokenizer: the model; `params` lie on the mesh.
          rubric: what it is asked.
          name: the judge's id.
          least_mass: of `parse_choice_logprobs`.
          row_tokens, batch_rows: shape of a batch on each of the devices that batches are split over.

        Raises ValueError: the model cannot tell the rubric's answers apart by one token, its chat template or
          vocabulary does not fit, or not even an empty listing fits a row.
        """
        self.name = name
        self._tokenizer, self._rubric, self._least_mass = tokenizer, rubric, least_mass
        if tokenizer.vocab_size > spec.vocab_size:
            raise ValueError(
                f"{name}: the tokenizer has {tokenizer.vocab_size:,} tokens, the model {spec.vocab_size:,}; "
                "take both from the same checkpoint"
            )
        self._frame = _frame(tokenizer, rubric, name)
        # A listing comes with many keyphrases.
        self._listing = functools.lru_cache(maxsize=64)(lambda text: tuple(tokenizer.encode(text, special=False)))
        self._row_tokens = row_tokens
        self._positions = spec.max_positions - len(self._frame.prefix)
        blank = self._prompt(Request(0, 0, "", (), {}, ""))
        if problem := self._problem(blank):
            raise ValueError(f"{name}, rubric {rubric.name}: even without any text, {problem}")
        self._scorer = NextTokenScorer(
            spec,
            params,
            self._frame.prefix,
            self._frame.answers,
            mesh=mesh,
            row_tokens=row_tokens,
            batch_rows=batch_rows,
            shortest=len(blank.keyphrase),
        )

    @classmethod
    def load(cls, config: LanguageModelConfig, rubric: Rubric, mesh: jax.sharding.Mesh) -> LanguageModelJudge:
        """The judge of a configuration, its parameters split over the mesh.

        Its name is `jax:`, the model's file or directory name, `:` and its `fingerprint`, and the least mass where it
        is not the usual one.

        Raises:
          FileNotFoundError: there is no such model.
          ValueError: as the constructor, `load_decoder` and `ChatTokenizer.load` do.
        """
        path = model_path(config.model)
        name = f"jax:{Path(config.model).name}:{fingerprint(path, config.compute_dtype)}"
        name += least_mass_mark(config.least_mass)
        tokenizer = ChatTokenizer.load(path)
        spec, params = load_decoder(path, config.compute_dtype, mesh)
        return cls(
            spec,
            params,
            tokenizer,
            rubric,
            name=name,
            mesh=mesh,
            row_tokens=config.row_tokens,
            batch_rows=config.batch_rows,
            least_mass=config.least_mass,
        )

    def judge(self, requests: Iterable[Request]) -> Iterator[Judgement]:
        """One judgement a request, in the order of batches; requests of a listing should follow each other.

        A pair that does not fit a row is `failed`, and its answer says which setting would take it: nothing is cut to
        fit. Where there are several processes, all make the same call.
        """
        refused: deque[Judgement] = deque()
        for scored in self._scorer.score(self._prompts(requests, refused)):
            yield self._judgement(scored)
            while refused:
                yield refused.popleft()
        yield from refused

    def tokens(self, request: Request) -> tuple[int, int]:
        """(Tokens of a prompt after the rubric's prefix, 0): what runs for a pair that shares its listing with none."""
        prompt = self._prompt(request)
        return len(prompt.listing) + len(prompt.keyphrase), 0

    def _prompts(self, requests: Iterable[Request], refused: deque[Judgement]) -> Iterator[Prompt]:
        for request in requests:
            prompt = self._prompt(request)
            if problem := self._problem(prompt):
                refused.append(self._answered(request, "failed", answer=problem))
            else:
                yield prompt

    def _prompt(self, request: Request) -> Prompt:
        parts = choice_prompt(self._rubric, request)
        keyphrase = tuple(self._tokenizer.encode(parts.keyphrase, special=False))
        return Prompt(self._listing(parts.listing), keyphrase + self._frame.suffix, request)

    def _problem(self, prompt: Prompt) -> str:
        """Why a prompt cannot be run, or nothing."""
        length = len(prompt.listing) + len(prompt.keyphrase)
        if length > self._positions:
            return (
                f"listing and keyphrase take {length} tokens, and the model has {self._positions} positions after the "
                "rubric; use a model of longer context"
            )
        if length > self._row_tokens:
            return f"listing and keyphrase take {length} tokens; raise judge.llm.row_tokens={self._row_tokens} to it"
        return ""

    def _judgement(self, scored: Scored) -> Judgement:
        texts = [answer.text for answer in self._rubric.answers]
        logprobs = dict(zip(texts, scored.log_probabilities.tolist()))
        parsed = parse_choice_logprobs(self._rubric, logprobs, self._least_mass)
        return self._answered(
            scored.prompt.key,
            parsed.status,
            grade=parsed.grade,
            raw_score=parsed.raw_score,
            answer=json.dumps({text: round(value, 5) for text, value in logprobs.items()}, ensure_ascii=False),
            prompt_tokens=scored.tokens,
            seconds=scored.seconds,
        )

    def _answered(self, request: Request, status: str, grade: int | None = None, **figures: Any) -> Judgement:
        return Judgement(
            request.item,
            request.keyphrase_index,
            grade,
            self.name,
            self._rubric.name,
            status,
            repeat=request.repeat,
            **figures,
        )


def fingerprint(path: Path, compute_dtype: str) -> str:
    """12 hexadecimal digits that tell a model from others, in seconds whatever its size.

    They depend on the files with weights, configuration, tokenizer and chat template: on each one's name, its size and
    1,024 places of 4 KiB, evenly spread from its start to its end; on all of a file up to 4 MiB. The compute dtype
    counts too, because it may change a grade. Weights that differ in a few places only, all between the samples, look
    alike.
    """
    digest = hashlib.sha256(compute_dtype.encode())
    files = sorted(file for pattern in _FILES for file in path.glob(pattern)) if path.is_dir() else [path]
    for file in files:
        size = file.stat().st_size
        digest.update(json.dumps([file.name if path.is_dir() else "", size]).encode())
        with file.open("rb") as stream:
            if size <= _SAMPLES * _SAMPLE_BYTES:
                digest.update(stream.read())
                continue
            for sample in range(_SAMPLES):
                stream.seek(sample * (size - _SAMPLE_BYTES) // (_SAMPLES - 1))
                digest.update(stream.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:12]


@dataclasses.dataclass(frozen=True)
class _Frame:
    """Tokens that all prompts of a rubric have."""

    prefix: tuple[int, ...]  # before the listing
    suffix: tuple[int, ...]  # after the keyphrase: the end of the user's turn, the header of the assistant's
    answers: tuple[int, ...]  # the first token of each answer


def _frame(tokenizer: ChatTokenizer, rubric: Rubric, name: str) -> _Frame:
    messages = choice_prompt(rubric, Request(0, 0, "", (), {}, "")).messages
    *before, _, header = tokenizer.pieces(messages)
    # What the template puts between header and answer, such as Llama 2's blank, is part of the answer's token.
    turn = tokenizer.pieces([*messages, {"role": "assistant", "content": ""}])[len(before) + 1].text
    blank = turn.removeprefix(header.text) if turn.startswith(header.text) else ""
    lead = blank if blank.isspace() else ""
    suffix = tokenizer.encode(header.text, special=True)
    firsts: dict[int, str] = {}
    for answer in rubric.answers:
        tokens = tokenizer.encode(header.text + lead + answer.text, special=True)
        if tokens[: len(suffix)] != suffix or len(tokens) == len(suffix):
            raise ValueError(
                f"{name}, rubric {rubric.name}: the answer {answer.text!r} merges with the chat template's header "
                f"{header.text!r}; choose another text for it"
            )
        first = tokens[len(suffix)]
        if first in firsts:
            raise ValueError(
                f"{name}, rubric {rubric.name}: the answers {firsts[first]!r} and {answer.text!r} begin with the same "
                "token of this model, which one look cannot tell apart; choose other texts for them"
            )
        firsts[first] = answer.text
    prefix = [token for piece in before for token in tokenizer.encode(*piece)]
    return _Frame(tuple(prefix), tuple(suffix), tuple(firsts))
