"""Calls of an OpenAI-compatible chat service: what is sent, and what its answers mean; over the network or by files.

A call asks for one keyphrase, whose first token's probabilities are read, or for several keyphrases of one listing,
answered as JSON. Of an answer only the fields that matter are read, because services differ in all the others.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from distill.config import EndpointConfig
from distill.judge.backends import Judgement, Request
from distill.judge.parsing import Parsed, least_mass_mark, parse_choice, parse_choice_logprobs, parse_list
from distill.judge.prompt import choice_prompt, list_prompt, listing_hash
from distill.judge.records import redacted
from distill.judge.rubric import Rubric

TOP_LOGPROBS = 20  # the most that services give
PASSING_STATUSES = (408, 409, 425, 429)  # of HTTP: the errors below 500 that another try may not meet
ANSWER_LIMIT = 2000  # characters of a raw answer that a judgement keeps
_CHARACTERS_PER_TOKEN = 4  # of English text; what is known without the service's tokenizer
_BLANKS_PER_ANSWER = 16  # tokens that a model may spend around an answer of a list


class MalformedAnswer(ValueError):
    """What came is no chat completion; the message says what is wrong with it."""


@dataclasses.dataclass(frozen=True)
class Call:
    requests: tuple[Request, ...]
    ids: tuple[str, ...]  # of a list's keyphrases, in order; empty for a single one
    body: dict[str, Any]  # of POST /chat/completions


class _TopLogprob(BaseModel):
    token: str
    logprob: float


class _Token(BaseModel):
    top_logprobs: list[_TopLogprob] | None = None


class _Logprobs(BaseModel):
    content: list[_Token] | None = None


class _Message(BaseModel):
    content: str | None = None
    refusal: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


class _Usage(BaseModel):
    prompt_tokens: int = Field(default=0, ge=0)
    completion_tokens: int = Field(default=0, ge=0)


class _Completion(BaseModel):
    choices: list[_Choice] = Field(min_length=1)
    usage: _Usage | None = None


class ChatFormat:
    """The calls of one rubric and one model, with the answers' way back to judgements."""

    def __init__(
        self,
        config: EndpointConfig,
        rubric: Rubric,
        *,
        secrets: Sequence[str] = (),
        notice: Callable[[str], None] = lambda text: None,
    ):
        """`secrets` are redacted wherever an answer holds one; `notice` is told what a user must know."""
        self._config, self._rubric, self._secrets, self._notice = config, rubric, tuple(secrets), notice
        self._lists = config.answer == "json"
        self._missing_logprobs = False
        form = ":json" if self._lists else least_mass_mark(config.least_mass)
        self.name = f"openai:{config.model}{form}"

    def calls(self, requests: Iterable[Request]) -> Iterator[Call]:
        """Draws requests only as calls are drawn; neighbours of one listing share a call where lists are asked."""
        if not self._lists:
            for request in requests:
                messages = choice_prompt(self._rubric, request).messages
                options = {"max_tokens": 1, "logprobs": True, "top_logprobs": TOP_LOGPROBS}
                yield Call((request,), (), self._body(messages, request.repeat, options))
            return
        for _, listing in itertools.groupby(requests, lambda request: (listing_hash(request), request.repeat)):
            while several := tuple(itertools.islice(listing, self._config.keyphrases_per_call)):
                prompt = list_prompt(self._rubric, several)
                schema = {"name": "answers", "strict": True, "schema": prompt.schema}
                options = {
                    "max_tokens": len(self._longest_list(prompt.ids).encode()) + _BLANKS_PER_ANSWER * len(several),
                    "response_format": {"type": "json_schema", "json_schema": schema},
                }
                yield Call(several, prompt.ids, self._body(prompt.messages, several[0].repeat, options))

    def judgements(
        self, requests: Sequence[Request], ids: Sequence[str], completion: bytes | str, seconds: float
    ) -> list[Judgement]:
        """One for each request, in order, from the JSON text of a chat completion.

        Raises:
          MalformedAnswer: it is no chat completion, or holds no answer of any kind.
        """
        try:
            answer = _Completion.model_validate_json(completion)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise MalformedAnswer(f"no chat completion: {f'{where}: ' if where else ''}{first['msg']}") from None
        choice = answer.choices[0]
        text = choice.message.content
        if choice.message.refusal or choice.finish_reason == "content_filter":
            text = choice.message.refusal or text or "content_filter"
            parsed = [Parsed("abstained")] * len(requests)
        elif ids:
            if text is None and choice.finish_reason != "length":
                raise MalformedAnswer("a chat completion without content")
            parsed = parse_list(self._rubric, ids, text or "")
        else:
            parsed = [self._parse_choice(choice)]
        return self._shared(requests, parsed, self.redact(text or ""), answer.usage or _Usage(), seconds)

    def failed(self, requests: Sequence[Request], words: str, seconds: float) -> list[Judgement]:
        """Of a call that got no answer."""
        return self._shared(requests, [Parsed("failed")] * len(requests), self.redact(words), _Usage(), seconds)

    def abstained(self, requests: Sequence[Request], words: str, seconds: float) -> list[Judgement]:
        """Of a call that the service refuses to pass on to its model."""
        return self._shared(requests, [Parsed("abstained")] * len(requests), self.redact(words), _Usage(), seconds)

    def redact(self, text: str) -> str:
        return redacted(text, self._secrets)

    def tokens(self, request: Request) -> tuple[int, int]:
        """About how many tokens of prompt and of completion a request costs, without asking anything.

        A quarter of the characters: what is known without the service's tokenizer. In a list, the request bears its
        share of a full call.
        """
        if not self._lists:
            prompt = choice_prompt(self._rubric, request)
            return _estimate(prompt.system + prompt.listing + prompt.keyphrase), 1
        prompt = list_prompt(self._rubric, [request])
        system, user = (message["content"] for message in prompt.messages)
        shared = len(choice_prompt(self._rubric, request).listing) + len(system)
        share = shared / self._config.keyphrases_per_call + len(system) + len(user) - shared
        return math.ceil(share / _CHARACTERS_PER_TOKEN), _estimate(self._longest_list(prompt.ids))

    def _body(self, messages: list[dict[str, str]], repeat: int, options: dict[str, Any]) -> dict[str, Any]:
        body = {"model": self._config.model, "messages": messages, "temperature": 0, **options}
        return body | {"seed": repeat} if repeat else body  # a repeat is another draw where a service caches answers

    def _longest_list(self, ids: Sequence[str]) -> str:
        longest = max((answer.text for answer in self._rubric.answers), key=lambda text: len(text.encode()))
        return json.dumps(dict.fromkeys(ids, longest))

    def _parse_choice(self, choice: _Choice) -> Parsed:
        tokens = choice.logprobs.content if choice.logprobs else None
        if tokens and tokens[0].top_logprobs:
            mass: dict[str, float] = {}
            for top in tokens[0].top_logprobs:  # two tokens may have one text
                earlier = mass.get(top.token)
                mass[top.token] = top.logprob if earlier is None else _add_logs(earlier, top.logprob)
            return parse_choice_logprobs(self._rubric, mass, self._config.least_mass)
        text = choice.message.content
        if text is None:
            raise MalformedAnswer("a chat completion with neither content nor log-probabilities")
        if not self._missing_logprobs:
            self._missing_logprobs = True
            self._notice(
                f"{self._config.model}: the service returns no log-probabilities; grades are read from the text, and "
                "there is no continuous score. With judge.endpoint.answer=json several keyphrases share a call"
            )
        return parse_choice(self._rubric, text)

    def _shared(
        self, requests: Sequence[Request], parsed: Sequence[Parsed], answer: str, usage: _Usage, seconds: float
    ) -> list[Judgement]:
        n = len(requests)
        price = self._config.prompt_price, self._config.completion_price
        cost = (usage.prompt_tokens * price[0] + usage.completion_tokens * price[1]) / 1e6
        return [
            Judgement(
                request.item,
                request.keyphrase_index,
                one.grade,
                self.name,
                self._rubric.name,
                one.status,
                one.raw_score,
                answer[:ANSWER_LIMIT],
                _share(usage.prompt_tokens, n, index),
                _share(usage.completion_tokens, n, index),
                cost / n,
                seconds / n,
                request.repeat,
            )
            for index, (request, one) in enumerate(zip(requests, parsed, strict=True))
        ]


def _share(total: int, parts: int, index: int) -> int:
    """Of whole tokens: the shares differ by at most one and add up to the total."""
    return total * (index + 1) // parts - total * index // parts


def _estimate(text: str) -> int:
    return math.ceil(len(text) / _CHARACTERS_PER_TOKEN)


def _add_logs(first: float, second: float) -> float:
    high, low = max(first, second), min(first, second)
    return high if high == -math.inf else high + math.log1p(math.exp(low - high))
