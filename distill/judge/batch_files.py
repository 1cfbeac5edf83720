"""A judge that answers by files: JSON Lines for a service's batch interface, for millions of pairs at half the price.

OpenAI's Batch API and vLLM's `run-batch` read and write the same lines. A folder holds

    requests-00000.jsonl   calls to be sent, as the service takes them
    pairs-00000.jsonl      which pairs each of them asks about; written last, so with it the file counts as made
    *.jsonl                what the service gave back, results and errors, under any name

In memory are about 500 bytes for each pair that was ever asked.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import re
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from distill.config import EndpointConfig
from distill.judge.backends import Judgement, Request
from distill.judge.chat_calls import Call, ChatFormat, MalformedAnswer
from distill.judge.records import key_of
from distill.judge.rubric import Rubric

LIMIT_LINES, LIMIT_BYTES = 50_000, 190_000_000  # of one file; OpenAI takes 50,000 lines and 200 MB

_URL = "/v1/chat/completions"
_OWN = re.compile(r"(requests|pairs)-(\d{5,})\.jsonl")
_TOLD_LINES = 5  # unreadable lines that are named, before the rest is only counted


class WaitingForBatch(RuntimeError):
    """Some pairs have no answer yet; the message says what to do with `files`."""

    def __init__(self, folder: Path, files: Sequence[Path], pairs: int):
        self.folder, self.files, self.pairs = folder, tuple(files), pairs
        names = ", ".join(file.name for file in self.files)
        super().__init__(
            f"{pairs:,} pairs wait for a batch service. Send it {names} from {folder} (OpenAI: upload each for purpose "
            f"`batch` and create a batch for {_URL}; vLLM: `vllm run-batch -i FILE -o RESULTS --model MODEL`), put the "
            "result and error files that it gives back into the same folder, under any name that ends in .jsonl, and "
            "run the same command again"
        )


class BatchFileError(ValueError):
    """A file of the folder that is not what was written; the message names it and says what to do."""


@dataclasses.dataclass
class _Sent:
    """A call that stands in a file of requests."""

    file: int
    ids: tuple[str, ...]  # of a list's keyphrases
    result: tuple[Path, int] | None = None  # where its result begins
    good: bool = False  # the result is a completion


@dataclasses.dataclass(frozen=True)
class _Asked:
    """The last call about a pair."""

    sent: _Sent
    position: int  # of the pair in the call
    attempts: int  # calls about it so far


class BatchJudge:
    """Yields what result files answer, and writes files of requests for the rest.

    A pair that is asked again after its answer was given, because it could not be read or was none, goes into a further
    file. Model and rubric being equal, its `name` is that of the `openai` backend: both ask in the same words.
    """

    def __init__(
        self,
        config: EndpointConfig,
        rubric: Rubric,
        folder: Path,
        *,
        notice: Callable[[str], None] = lambda text: None,
        limit_lines: int = LIMIT_LINES,
        limit_bytes: int = LIMIT_BYTES,
    ):
        """`notice` is told of lines that cannot be read, calls that nobody asked, and calls that failed."""
        self._format = ChatFormat(config, rubric, notice=notice)
        self._rubric, self._folder, self._notice = rubric, Path(folder), notice
        self._limit_lines, self._limit_bytes = limit_lines, limit_bytes
        self._calls: dict[str, _Sent] | None = None  # by custom_id; None before the folder is read
        self._asked: dict[bytes, _Asked] = {}  # by pair
        self._given: set[bytes] = set()  # pairs whose last call's answer was yielded
        self.name = self._format.name

    def judge(self, requests: Iterable[Request]) -> Generator[Judgement, None, None]:
        """Yields the judgements that there are; the folder's result files are read once, at the first call.

        Raises:
          WaitingForBatch: after all others were yielded and files were written, if pairs stay without an answer. What
            is waiting for an answer already is not written again.
          BatchFileError: a `pairs-*.jsonl` is damaged.
        """
        if self._calls is None:
            self._calls = self._read_calls()
            self._read_results(self._calls)
        unasked: dict[bytes, Request] = {}
        waiting, files = 0, set[int]()
        with contextlib.ExitStack() as stack:
            opened: dict[Path, BinaryIO] = {}
            for request in requests:
                pair = self._pair(request)
                asked = self._asked.get(pair)
                if asked is None or pair in self._given:
                    unasked[pair] = request
                elif asked.sent.result is None:
                    waiting += 1
                    files.add(asked.sent.file)
                else:
                    path, offset = asked.sent.result
                    if path not in opened:
                        opened[path] = stack.enter_context(path.open("rb"))
                    opened[path].seek(offset)
                    self._given.add(pair)
                    yield self._judgement(request, asked, json.loads(opened[path].readline()))
        files |= self._write(self._calls, unasked.values())
        if waiting or unasked:
            paths = [self._folder / f"requests-{number:05d}.jsonl" for number in sorted(files)]
            raise WaitingForBatch(self._folder, paths, waiting + len(unasked))

    def tokens(self, request: Request) -> tuple[int, int]:
        """About how many tokens of prompt and of completion a request costs: a quarter of the characters, unasked."""
        return self._format.tokens(request)

    def _pair(self, request: Request) -> bytes:
        key = key_of(request)
        content = [self._rubric.hash, self.name, key.listing, key.keyphrase, key.repeat]
        return hashlib.sha256(json.dumps(content).encode()).digest()[:16]

    def _judgement(self, request: Request, asked: _Asked, line: dict[str, Any]) -> Judgement:
        ids, of_call = asked.sent.ids, [request] * max(1, len(asked.sent.ids))
        completion, words = _completion(line)
        if completion is None:
            filtered = "content_filter" in words
            made = self._format.abstained if filtered else self._format.failed
            return made(of_call, words, 0.0)[asked.position]
        try:
            return self._format.judgements(of_call, ids, json.dumps(completion), 0.0)[asked.position]
        except MalformedAnswer as error:
            return self._format.failed(of_call, str(error), 0.0)[asked.position]

    def _own_files(self, kind: str) -> Iterator[tuple[int, Path]]:
        for path in sorted(self._folder.glob(f"{kind}-*.jsonl")):
            if named := _OWN.fullmatch(path.name):
                yield int(named[2]), path

    def _read_calls(self) -> dict[str, _Sent]:
        calls: dict[str, _Sent] = {}
        for number, path in self._own_files("pairs"):
            with path.open("rb") as lines:
                for count, line in enumerate(lines, start=1):
                    try:
                        values = json.loads(line)
                        pairs = [bytes.fromhex(pair) for pair in values["pairs"]]
                        self._add(calls, values["custom_id"], _Sent(number, tuple(values["ids"])), pairs)
                    except (ValueError, KeyError, TypeError) as error:
                        raise BatchFileError(
                            f"{path}:{count}: the line is damaged; restore the file, or delete it, and its calls are "
                            "made and paid for again"
                        ) from error
        return calls

    def _add(self, calls: dict[str, _Sent], custom_id: str, sent: _Sent, pairs: Sequence[bytes]) -> None:
        calls[custom_id] = sent
        for position, pair in enumerate(pairs):
            earlier = self._asked.get(pair)
            self._asked[pair] = _Asked(sent, position, 1 + (earlier.attempts if earlier else 0))
            self._given.discard(pair)

    def _read_results(self, calls: dict[str, _Sent]) -> None:
        unknown, unreadable = 0, 0
        failures: dict[str, str] = {}
        for path in sorted(self._folder.glob("*.jsonl")):
            if _OWN.fullmatch(path.name):
                continue
            offset = 0
            with path.open("rb") as lines:
                for count, line in enumerate(lines, start=1):
                    start, offset = offset, offset + len(line)
                    if not line.strip():
                        continue
                    values = _object(line)
                    if values is None:
                        unreadable += 1
                        if unreadable <= _TOLD_LINES:
                            self._notice(f"{path}:{count}: no JSON object with a custom_id; left out")
                        continue
                    sent = calls.get(values["custom_id"])
                    if sent is None:
                        unknown += 1
                        continue
                    completion, words = _completion(values)
                    if completion is not None or not sent.good:  # the last one, but a good one before any other
                        sent.result, sent.good = (path, start), completion is not None
                        failures[values["custom_id"]] = words
        failed = [words for name, words in failures.items() if not calls[name].good]
        if unreadable > _TOLD_LINES:
            self._notice(f"{self._folder}: {unreadable:,} lines of result files are not results; left out")
        if unknown:
            self._notice(f"{self._folder}: {unknown:,} results of calls that no pairs-*.jsonl tells of; left out")
        if failed:
            self._notice(f"{self._folder}: {len(failed):,} calls failed, one of them with: {failed[0][:300]}")

    def _write(self, calls: dict[str, _Sent], requests: Iterable[Request]) -> set[int]:
        """Writes files of requests; returns their numbers."""
        number = max((number for number, _ in self._own_files("pairs")), default=-1) + 1
        written = set[int]()
        file = _RequestFile(self._folder, number)
        for call in self._format.calls(requests):
            pairs = [self._pair(request) for request in call.requests]
            custom_id = self._custom_id(calls, pairs)
            line = _line({"custom_id": custom_id, "method": "POST", "url": _URL, "body": call.body})
            if file.lines and (file.lines == self._limit_lines or file.bytes + len(line) > self._limit_bytes):
                written.add(self._publish(calls, file))
                number += 1
                file = _RequestFile(self._folder, number)
            file.add(custom_id, call, pairs, line)
        if file.lines:
            written.add(self._publish(calls, file))
        return written

    def _publish(self, calls: dict[str, _Sent], file: _RequestFile) -> int:
        file.publish()
        for custom_id, ids, pairs in file.calls:
            self._add(calls, custom_id, _Sent(file.number, ids), pairs)
        return file.number

    def _custom_id(self, calls: dict[str, _Sent], pairs: Sequence[bytes]) -> str:
        attempt = max(self._asked[pair].attempts if pair in self._asked else 0 for pair in pairs)
        while True:
            name = hashlib.sha256(b"".join(pairs) + str(attempt).encode()).hexdigest()[:32]
            if name not in calls:
                return name
            attempt += 1


class _RequestFile:
    """One file of requests with its pairs, in memory until both are on the disk."""

    def __init__(self, folder: Path, number: int):
        self.folder, self.number = folder, number
        self.calls: list[tuple[str, tuple[str, ...], list[bytes]]] = []
        self._lines = io.BytesIO()

    @property
    def lines(self) -> int:
        return len(self.calls)

    @property
    def bytes(self) -> int:
        return self._lines.tell()

    def add(self, custom_id: str, call: Call, pairs: list[bytes], line: bytes) -> None:
        self._lines.write(line)
        self.calls.append((custom_id, call.ids, pairs))

    def publish(self) -> None:
        pairs = (
            _line({"custom_id": custom_id, "pairs": [pair.hex() for pair in pairs], "ids": ids})
            for custom_id, ids, pairs in self.calls
        )
        self.folder.mkdir(parents=True, exist_ok=True)
        _replace(self.folder / f"requests-{self.number:05d}.jsonl", self._lines.getbuffer())
        _replace(self.folder / f"pairs-{self.number:05d}.jsonl", b"".join(pairs))


def _replace(path: Path, content: bytes | memoryview) -> None:
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _line(values: dict[str, Any]) -> bytes:
    return json.dumps(values, separators=(",", ":")).encode() + b"\n"


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) and isinstance(values.get("custom_id"), str) else None


def _completion(line: dict[str, Any]) -> tuple[dict[str, Any] | None, str]:
    """The chat completion of a result line, or None and the words of what went wrong."""
    response = line.get("response")
    response = response if isinstance(response, dict) else {}
    body = response.get("body")
    if isinstance(body, dict) and body.get("choices") and response.get("status_code") == 200:
        return body, ""
    error = line.get("error") or (body.get("error") if isinstance(body, dict) else None) or body
    if isinstance(error, dict):
        error = " ".join(str(error[name]) for name in ("code", "message") if error.get(name)) or error
    return None, f"status {response.get('status_code', 'unknown')}: {error or 'no answer'}"
