"""A judge behind an OpenAI-compatible service: vLLM, SGLang, llama.cpp's server, or a hosted one.

What may pass (limits, overload, a broken connection, an answer cut short) is tried again with growing, random pauses.
What cannot pass (the key, the address, a parameter that the service does not know) stops everything with an error that
says what to do. A single call that stays without an answer is recorded as failed, unless no call gets one any more.
"""

from __future__ import annotations

import contextlib
import datetime
import email.utils
import itertools
import math
import os
import queue
import time
import urllib.parse
from collections.abc import Callable, Generator, Iterable, Mapping

import anyio
import openai
import tenacity
from anyio.from_thread import start_blocking_portal
from anyio.streams.memory import MemoryObjectReceiveStream

from distill.config import ConfigError, EndpointConfig
from distill.judge.backends import Judgement, Request
from distill.judge.chat_calls import PASSING_STATUSES, Call, ChatFormat, MalformedAnswer
from distill.judge.rubric import Rubric

_LONGEST_PAUSE, _LONGEST_RETRY_AFTER = 60.0, 120.0  # seconds
_FAILURES_BEYOND_CONCURRENCY = 50  # failed calls in a row that end the run
_WORDS = 500  # characters of a service's error that are kept
_PARAMETERS = {  # by what a user can do where a service does not take one
    "top_logprobs": "set judge.endpoint.answer=json",
    "logprobs": "set judge.endpoint.answer=json",
    "response_format": "set judge.endpoint.answer=logprobs",
    "json_schema": "set judge.endpoint.answer=logprobs",
}
_NEEDED = ("max_tokens", "temperature", "seed")
_NO_KEY = "none"  # what servers without keys are sent, so that the client does not look for one itself


class EndpointError(RuntimeError):
    """The service cannot be used as configured; the message says what to do, and never holds the key."""


class _CallError(Exception):
    """One call's trouble, as words without the key."""


class _Passing(_CallError):
    def __init__(self, words: str, pause: float = 0.0):
        super().__init__(words)
        self.pause = pause  # seconds that the service asks for


class _Filtered(_CallError):
    """The service does not let its model read this prompt."""


def read_key(config: EndpointConfig, environment: Mapping[str, str]) -> str | None:
    """The API key, from the environment variable that the config names; None where a server of one's own needs none.

    Raises:
      ConfigError: a hosted service without a key, or a key that no HTTP header can hold. Never shows the key.
    """
    name = config.key_variable
    key = environment.get(name, "").strip()
    if not key and not (config.url or environment.get("OPENAI_BASE_URL")):
        raise ConfigError(
            f"config.judge.endpoint.key_variable={name!r}: this environment variable is not set; set it to the API "
            "key, or name a server of your own in judge.endpoint.url"
        )
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ConfigError(
            f"config.judge.endpoint.key_variable={name!r}: this environment variable holds characters that no API key "
            "has, such as blanks or line breaks inside; set it again"
        )
    return key or None


class EndpointJudge:
    """Asks a service, several calls at a time; see `EndpointConfig` for the settings.

    `name` holds the model and the way of asking, which change answers, and not the address, which does not.
    """

    def __init__(
        self,
        config: EndpointConfig,
        rubric: Rubric,
        key: str | None,
        *,
        notice: Callable[[str], None] = lambda text: None,
        pause: float = 1.0,
    ):
        """
        Args:
          key: the API key, as `read_key` returns it; it is sent to the service and goes nowhere else.
          notice: told, at most once, what a user must know of the answers.
          pause: seconds that a first retry waits at most; each further one up to twice as long.

        Raises:
          ConfigError: the address is no http(s) one, or holds a password.
        """
        # The client reads this variable where no address is given.
        field, address = "config.judge.endpoint.url", config.url
        if not address:
            field, address = "OPENAI_BASE_URL", os.environ.get("OPENAI_BASE_URL", "")
        if address:
            url = urllib.parse.urlsplit(address)
            if url.username or url.password or url.query:
                raise ConfigError(
                    f"{field}: holds a user name, a password or a query, which would be stored and shown; leave them "
                    "out and give the key by judge.endpoint.key_variable"
                )
            if url.scheme not in ("http", "https") or not url.hostname:
                raise ConfigError(f"{field}={address!r}: must be such as http://localhost:8000/v1")
        self._config = config
        self._key = key
        self._format = ChatFormat(config, rubric, secrets=(key,) if key else (), notice=notice)
        self._pause = tenacity.wait_random_exponential(multiplier=pause, max=_LONGEST_PAUSE)
        self._failures = 0  # calls in a row
        self.name = self._format.name

    def judge(self, requests: Iterable[Request]) -> Generator[Judgement, None, None]:
        """Yields judgements as their calls end; has drawn few more requests than it needs to keep all calls going.

        Closing the iterator, or an exception where it is used, cancels what is under way.

        Raises:
          EndpointError: no answer can be had; judgements that were yielded before stand.
        """
        calls = self._format.calls(requests)
        answers: queue.SimpleQueue[list[Judgement] | BaseException] = queue.SimpleQueue()
        most = 2 * self._config.concurrency  # under way or waiting for the next free place
        # The client's own retries know nothing of answers that cannot be read.
        client = openai.AsyncOpenAI(
            api_key=self._key or _NO_KEY,
            base_url=self._config.url or None,
            timeout=self._config.timeout,
            max_retries=0,
        )
        outgoing, incoming = anyio.create_memory_object_stream[Call](math.inf)
        with start_blocking_portal(name="judge endpoint") as portal:
            portal.start_task_soon(self._answer_all, client, incoming, answers)
            try:
                under_way = 0
                while True:
                    for call in itertools.islice(calls, most - under_way):
                        under_way += 1
                        with contextlib.suppress(anyio.BrokenResourceError):  # why is among the answers
                            portal.call(outgoing.send_nowait, call)
                    if not under_way:
                        return
                    answer = answers.get()
                    if isinstance(answer, BaseException):
                        raise answer
                    under_way -= 1
                    yield from answer
            finally:
                portal.call(outgoing.close)

    def tokens(self, request: Request) -> tuple[int, int]:
        """About how many tokens of prompt and of completion a request costs: a quarter of the characters, unasked."""
        return self._format.tokens(request)

    async def _answer_all(
        self,
        client: openai.AsyncOpenAI,
        calls: MemoryObjectReceiveStream[Call],
        answers: queue.SimpleQueue[list[Judgement] | BaseException],
    ) -> None:
        async def work() -> None:
            async for call in calls:
                try:
                    answers.put(await self._answer(client, call))
                except Exception as error:  # for the thread that waits, whatever it is
                    answers.put(error)
                    group.cancel_scope.cancel()

        async with calls, client, anyio.create_task_group() as group:
            for _ in range(self._config.concurrency):
                group.start_soon(work)

    async def _answer(self, client: openai.AsyncOpenAI, call: Call) -> list[Judgement]:
        retrying = tenacity.AsyncRetrying(
            stop=tenacity.stop_after_attempt(self._config.tries),
            wait=self._wait,
            retry=tenacity.retry_if_exception_type(_Passing),
            reraise=True,
        )
        started = time.monotonic()
        try:
            judgements = await retrying(self._try, client, call)
        except _CallError as error:
            seconds, words, filtered = time.monotonic() - started, str(error), isinstance(error, _Filtered)
        else:
            self._failures = 0
            return judgements
        if filtered:
            self._failures = 0
            return self._format.abstained(call.requests, words, seconds)
        self._failures += 1
        if self._failures >= _FAILURES_BEYOND_CONCURRENCY + self._config.concurrency:
            raise EndpointError(
                f"{self._failures} calls in a row to {client.base_url} got no answer, each after up to "
                f"{self._config.tries} tries; the last: {words}. See whether the service runs and what it logs, then "
                "start again: answers so far are kept"
            )
        return self._format.failed(call.requests, words, seconds)

    def _wait(self, state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        return max(self._pause(state), error.pause if isinstance(error, _Passing) else 0.0)

    async def _try(self, client: openai.AsyncOpenAI, call: Call) -> list[Judgement]:
        started = time.monotonic()
        try:
            with anyio.fail_after(self._config.timeout):  # the client's own limit is one of silence
                response = await client.chat.completions.with_raw_response.create(**call.body)
            return self._format.judgements(
                call.requests, call.ids, response.http_response.content, time.monotonic() - started
            )
        except MalformedAnswer as error:
            trouble: Exception = _Passing(self._words(error))
        except (TimeoutError, openai.APITimeoutError):
            trouble = _Passing(f"no answer within {self._config.timeout:g} seconds")
        except openai.APIStatusError as error:
            trouble = self._status_trouble(error, str(client.base_url))
        except openai.APIConnectionError as error:
            cause = f": {error.__cause__}" if error.__cause__ else ""
            trouble = _Passing(self._words(f"no connection to {client.base_url}{cause}"))
        # Outside of `except`, so that the client's error, which may quote the key, does not travel along.
        raise trouble

    def _status_trouble(self, error: openai.APIStatusError, url: str) -> Exception:
        status, variable = error.status_code, self._config.key_variable
        words = self._words(f"status {status}: {error.message}")
        if status == 401:  # such answers tend to quote the key, or a part of it
            return EndpointError(
                f"{url} refuses the API key (status 401); set the environment variable {variable} to a valid one"
                + ("" if self._key else ": it is not set")
            )
        if status == 403:
            return EndpointError(
                f"{url} does not let the API key in {variable} use model {self._config.model!r} ({words}); give "
                "another key by that environment variable, or another judge.endpoint.model"
            )
        if status in (404, 405):
            return EndpointError(
                f"{url} knows no model {self._config.model!r}, or no chat completions at this address ({words}); "
                "correct judge.endpoint.model, or judge.endpoint.url, which often ends in /v1"
            )
        if status == 429 and error.code == "insufficient_quota":
            return EndpointError(f"{url} says that the account of the key in {variable} has no credit left ({words})")
        if status in PASSING_STATUSES or status >= 500:
            return _Passing(words, _retry_after(error.response.headers.get("retry-after")))
        if error.code == "content_filter":
            return _Filtered(words)
        refused = status in (400, 422) and error.code != "context_length_exceeded"
        if refused and (advice := _advice(error.param, error.message)):
            return EndpointError(f"{url} does not take what it is asked ({words}); {advice}")
        return _CallError(words)

    def _words(self, error: Exception | str) -> str:
        return " ".join(self._format.redact(str(error)).split())[:_WORDS]


def _advice(parameter: str | None, message: str) -> str | None:
    """What to do about a parameter that a service refuses; None where it refuses the prompt."""
    for name, advice in _PARAMETERS.items():
        if name == parameter or name in message:
            return advice
    for name in _NEEDED:
        if name == parameter or (f"'{name}'" in message and "support" in message):
            return f"the judge needs {name}, so choose a judge.endpoint.model that takes it"
    return None


def _retry_after(header: str | None) -> float:
    """Seconds, from a header that gives those or a date; bounded, and 0 for what is neither."""
    try:
        seconds = float(header or 0)
    except ValueError:
        try:
            moment = email.utils.parsedate_to_datetime(header or "")
        except ValueError:
            return 0.0
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=datetime.UTC)
        seconds = (moment - datetime.datetime.now(datetime.UTC)).total_seconds()
    return min(max(seconds, 0.0), _LONGEST_RETRY_AFTER) if math.isfinite(seconds) else 0.0
