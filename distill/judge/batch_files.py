"""A judge that answers by files: JSON Lines for a service's batch interface, for millions of pairs at half the price.

OpenAI's Batch API and vLLM's `run-batch` read and write the same lines. A folder holds

    requests-00000.jsonl   calls to be sent, as the service takes them
    pairs-00000.jsonl      which pairs each of them asks about; written last, so with it the file counts as made
    *.jsonl                what the service gave back, results and errors, under any name

A call that got no answer is made again in a further file, unless the service refused it. A pair whose calls are used
up stays `failed`; to have it asked after all, delete the failed results and send the same requests again.

In memory are about 700 bytes for each pair that was ever asked.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from pydantic import ValidationError

from distill.config import EndpointConfig
from distill.judge.backends import Judgement, Request
from distill.judge.batch_lines import URL, RequestFile, Result, WrittenCall, request_line, result_of
from distill.judge.chat_calls import ChatFormat, MalformedAnswer
from distill.judge.records import Key, key_of
from distill.judge.rubric import Rubric

LIMIT_LINES, LIMIT_BYTES = 50_000, 190_000_000  # of one file; OpenAI takes 50,000 lines and 200 MB

_OWN = re.compile(r"(requests|pairs)-(\d{5,})\.jsonl")
_TOLD_LINES = 5  # unreadable lines that are named, before the rest is only counted


class WaitingForBatch(RuntimeError):
    """Some pairs have no answer yet; the message says what to do with `files`."""

    def __init__(self, folder: Path, files: Sequence[Path], pairs: int):
        self.folder, self.files, self.pairs = folder, tuple(files), pairs
        names = ", ".join(file.name for file in self.files)
        super().__init__(
            f"{pairs:,} pairs wait for a batch service. Send it {names} from {folder} (OpenAI: upload each for purpose "
            f"`batch` and create a batch for {URL}; vLLM: `vllm run-batch -i FILE -o RESULTS --model MODEL`), put the "
            "result and error files that it gives back into the same folder, under any name that ends in .jsonl, and "
            "run the same command again"
        )


class BatchFileError(ValueError):
    """A file of the folder that is not what was written; the message names it and says what to do."""


@dataclasses.dataclass(slots=True)
class _Sent:
    """A call that stands in a file of requests."""

    file: int
    ids: tuple[str, ...]  # of a list's keyphrases
    result: tuple[Path, int] | None = None  # where its result begins
    good: bool = False  # the result is a completion
    refused: bool = False  # the result is a refusal that another try would meet too


@dataclasses.dataclass(frozen=True, slots=True)
class _Asked:
    """The last call about a pair."""

    sent: _Sent
    position: int  # of the pair in the call
    attempts: int  # calls about it so far


class BatchJudge:
    """Yields what result files answer, and writes files of requests for the rest.

    A pair whose call got no answer goes into a further file, and so does one that is asked again after its answer was
    yielded; but none that was refused or had all its calls: of those the last result is yielded, as often as they are
    asked. Model and rubric being equal, its `name` is that of the `openai` backend: both ask in the same words.
    """

    def __init__(
        self,
        config: EndpointConfig,
        rubric: Rubric,
        folder: Path,
        *,
        attempts: int = 3,
        notice: Callable[[str], None] = lambda text: None,
        limit_lines: int = LIMIT_LINES,
        limit_bytes: int = LIMIT_BYTES,
    ):
        """
        Args:
          attempts: calls about a pair, answered or not, in all.
          notice: is told of lines that cannot be read, calls that nobody asked, and calls that failed.

        Raises:
          ValueError: `attempts` below 1.
        """
        if attempts < 1:
            raise ValueError(f"attempts {attempts}: a pair is asked at least once")
        self._format = ChatFormat(config, rubric, notice=notice)
        self._rubric, self._folder, self._notice = rubric, Path(folder), notice
        self._attempts, self._limit_lines, self._limit_bytes = attempts, limit_lines, limit_bytes
        self._calls: dict[str, _Sent] | None = None  # by custom_id; None before the folder is read
        self._asked: dict[Key, _Asked] = {}  # pairs of this rubric and name
        self._given: set[Key] = set()  # pairs whose last call's answer was yielded
        self.name = self._format.name

    def judge(self, requests: Iterable[Request]) -> Generator[Judgement, None, None]:
        """Yields the judgements that there are; the folder's files are read once, at the first call.

        Raises:
          WaitingForBatch: after all others were yielded and files were written, if pairs stay without an answer. What
            is waiting for an answer already is not written again.
          BatchFileError: a `pairs-*.jsonl` is damaged, or a result file changes meanwhile.
        """
        calls = self._read()
        unasked: dict[Key, Request] = {}
        waiting, files = 0, set[int]()
        with contextlib.ExitStack() as stack:
            opened: dict[Path, BinaryIO] = {}
            for request in requests:
                pair = key_of(request)
                asked = self._asked.get(pair)
                if asked is None:
                    unasked[pair] = request
                elif asked.sent.result is None:
                    waiting += 1
                    files.add(asked.sent.file)
                else:
                    path, offset = asked.sent.result
                    if path not in opened:
                        opened[path] = stack.enter_context(path.open("rb"))
                    opened[path].seek(offset)
                    line = opened[path].readline()
                    result = result_of(line)
                    if result is None:
                        raise BatchFileError(f"{path}: was changed while it was read; run the same command again")
                    # Another result of the same call is another answer; the same line, in whatever file, is not.
                    call = f"{result.custom_id}.{hashlib.sha256(line.strip()).hexdigest()[:8]}"
                    judgement = dataclasses.replace(self._judgement(request, asked, result), call=call)
                    unsettled = judgement.status == "failed" or pair in self._given
                    if unsettled and not asked.sent.refused and asked.attempts < self._attempts:
                        unasked[pair] = request
                    else:
                        self._given.add(pair)
                        yield judgement
        files |= self._write(calls, unasked.values())
        if waiting or unasked:
            paths = [self._folder / f"requests-{number:05d}.jsonl" for number in sorted(files)]
            raise WaitingForBatch(self._folder, paths, waiting + len(unasked))

    def tokens(self, request: Request) -> tuple[int, int]:
        """About how many tokens of prompt and of completion a request costs: a quarter of the characters, unasked."""
        return self._format.tokens(request)

    def under_way(self) -> list[tuple[str, str]]:
        """(listing hash, normalised keyphrase) of each pair that was written with repeat 0 for this rubric and model.

        In the order in which they were first asked: those that wait, those that were answered, and those that a further
        file will ask again, but none that was refused or that all calls failed for.

        Raises:
          BatchFileError: a `pairs-*.jsonl` is damaged.
        """
        self._read()
        return [
            (pair.listing, pair.keyphrase)
            for pair, asked in self._asked.items()
            if pair.repeat == 0 and not self._failed(asked)
        ]

    def _failed(self, asked: _Asked) -> bool:
        unanswered = asked.sent.result is not None and not asked.sent.good
        return unanswered and (asked.sent.refused or asked.attempts >= self._attempts)

    def _judgement(self, request: Request, asked: _Asked, result: Result) -> Judgement:
        ids, of_call = asked.sent.ids, [request] * max(1, len(asked.sent.ids))
        if result.completion is None:
            filtered = "content_filter" in result.words
            made = self._format.abstained if filtered else self._format.failed
            return made(of_call, result.words, 0.0)[asked.position]
        try:
            return self._format.judgements(of_call, ids, json.dumps(result.completion), 0.0)[asked.position]
        except MalformedAnswer as error:
            return self._format.failed(of_call, str(error), 0.0)[asked.position]

    def _own_files(self, kind: str) -> Iterator[tuple[int, Path]]:
        for path in sorted(self._folder.glob(f"{kind}-*.jsonl")):
            if named := _OWN.fullmatch(path.name):
                yield int(named[2]), path

    def _read(self) -> dict[str, _Sent]:
        if self._calls is None:
            calls = self._read_calls()
            self._read_results(calls)
            self._calls = calls
        return self._calls

    def _read_calls(self) -> dict[str, _Sent]:
        calls: dict[str, _Sent] = {}
        self._asked.clear()
        for number, path in self._own_files("pairs"):
            with path.open("rb") as lines:
                for count, line in enumerate(lines, start=1):
                    try:
                        self._add(calls, number, WrittenCall.model_validate_json(line))
                    except ValidationError as error:
                        raise BatchFileError(
                            f"{path}:{count}: the line is damaged; restore the file, or delete it, and its calls are "
                            "made and paid for again"
                        ) from error
        return calls

    def _add(self, calls: dict[str, _Sent], file: int, call: WrittenCall) -> None:
        sent = calls[call.custom_id] = _Sent(file, call.ids)
        if (call.rubric, call.judge) != (self._rubric.hash, self.name):
            return
        for position, keyphrase in enumerate(call.keyphrases):
            pair = Key(call.listing, keyphrase, call.repeat)
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
                    result = result_of(line)
                    if result is None:
                        unreadable += 1
                        if unreadable <= _TOLD_LINES:
                            self._notice(f"{path}:{count}: no JSON object with a custom_id; left out")
                        continue
                    sent = calls.get(result.custom_id)
                    if sent is None:
                        unknown += 1
                        continue
                    good = result.completion is not None
                    if good or not sent.good:  # the last one, but a good one before any other
                        sent.result, sent.good, sent.refused = (path, start), good, result.refused
                        failures[result.custom_id] = result.words
        failed = [words for name, words in failures.items() if not calls[name].good]
        for_good = sum(calls[name].refused for name in failures)
        if unreadable > _TOLD_LINES:
            self._notice(f"{self._folder}: {unreadable:,} lines of result files are not results; left out")
        if unknown:
            self._notice(f"{self._folder}: {unknown:,} results of calls that no pairs-*.jsonl tells of; left out")
        if failed:
            self._notice(
                f"{self._folder}: {len(failed):,} calls failed, of which {for_good:,} were refused and are not asked "
                f"again; one of them with: {failed[0][:300]}"
            )

    def _write(self, calls: dict[str, _Sent], requests: Iterable[Request]) -> set[int]:
        """Writes files of requests; returns their numbers."""
        number = max((number for number, _ in self._own_files("pairs")), default=-1) + 1
        written = set[int]()
        file = RequestFile(self._folder, number)
        for call in self._format.calls(requests):
            keys = [key_of(request) for request in call.requests]
            custom_id = self._custom_id(calls, keys)
            line = request_line(custom_id, call.body)
            if file.lines and (file.lines == self._limit_lines or file.bytes + len(line) > self._limit_bytes):
                written.add(self._publish(calls, file))
                number += 1
                file = RequestFile(self._folder, number)
            note = WrittenCall(
                custom_id=custom_id,
                rubric=self._rubric.hash,
                judge=self.name,
                listing=keys[0].listing,
                repeat=keys[0].repeat,
                keyphrases=tuple(key.keyphrase for key in keys),
                ids=call.ids,
            )
            file.add(note, line)
        if file.lines:
            written.add(self._publish(calls, file))
        return written

    def _publish(self, calls: dict[str, _Sent], file: RequestFile) -> int:
        file.publish()
        for call in file.calls:
            self._add(calls, file.number, call)
        return file.number

    def _custom_id(self, calls: dict[str, _Sent], pairs: Sequence[Key]) -> str:
        attempt = max(self._asked[pair].attempts if pair in self._asked else 0 for pair in pairs)
        while True:
            content = [self._rubric.hash, self.name, attempt, *pairs]
            name = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]
            if name not in calls:
                return name
            attempt += 1
