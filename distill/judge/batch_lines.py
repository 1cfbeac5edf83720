"""The lines of a batch folder: calls as a service takes them, the pairs that they ask about, and what results say."""

from __future__ import annotations

import dataclasses
import io
import json
import os
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from distill.judge.chat_calls import PASSING_STATUSES

URL = "/v1/chat/completions"


class WrittenCall(BaseModel):
    """A call as a line of `pairs-*.jsonl`; its pairs are of one listing and repeat."""

    custom_id: str
    rubric: str  # its hash
    judge: str
    listing: str = Field(pattern="^[0-9a-f]{64}$")
    repeat: int
    keyphrases: tuple[str, ...] = Field(min_length=1)
    ids: tuple[str, ...]  # of a list's keyphrases


class RequestFile:
    """One file of requests with its pairs, in memory until both are on the disk."""

    def __init__(self, folder: Path, number: int):
        self.folder, self.number = folder, number
        self.calls: list[WrittenCall] = []
        self._lines = io.BytesIO()

    @property
    def lines(self) -> int:
        return len(self.calls)

    @property
    def bytes(self) -> int:
        return self._lines.tell()

    def add(self, call: WrittenCall, line: bytes) -> None:
        self._lines.write(line)
        self.calls.append(call)

    def publish(self) -> None:
        """Writes both files whole, that of the pairs last."""
        pairs = (call.model_dump_json().encode() + b"\n" for call in self.calls)
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


def request_line(custom_id: str, body: dict[str, Any]) -> bytes:
    values = {"custom_id": custom_id, "method": "POST", "url": URL, "body": body}
    return json.dumps(values, separators=(",", ":")).encode() + b"\n"


@dataclasses.dataclass(frozen=True)
class Result:
    custom_id: str
    completion: dict[str, Any] | None
    words: str = ""  # of what went wrong where there is no completion
    refused: bool = False  # by a status that another try would meet too


def result_of(line: bytes) -> Result | None:
    """What a line of a result or error file says; None where it is none."""
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(values, dict) or not isinstance(values.get("custom_id"), str):
        return None
    response = values.get("response")
    response = response if isinstance(response, dict) else {}
    body, status = response.get("body"), response.get("status_code")
    if isinstance(body, dict) and body.get("choices") and status == 200:
        return Result(values["custom_id"], body)
    error = values.get("error") or (body.get("error") if isinstance(body, dict) else None) or body
    if isinstance(error, dict):
        error = " ".join(str(error[name]) for name in ("code", "message") if error.get(name)) or error
    words = f"status {'unknown' if status is None else status}: {error or 'no answer'}"
    refused = isinstance(status, int) and 400 <= status < 500 and status not in PASSING_STATUSES
    return Result(values["custom_id"], None, words, refused)
