"""What a client may ask for, and what a refused one is told."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

RETRY_AFTER = {"Retry-After": "1"}


@dataclasses.dataclass(frozen=True)
class Limits:
    """Of a server.

    Attributes:
      body: bytes of a request.
      batch: rows of a request, and of one call of a model.
      queue: requests in progress; with `body` it bounds the memory that clients can take.
      deadline: seconds from a request's head to its answer; as many for the head itself, and to take the answer.
      title: characters of the title that the page's endpoint explains; it is read once for each keyphrase.
      linger: seconds that a request waits for others to join its call.
      drain: seconds that requests in progress have to finish once the server is told to stop.
    """

    body: int = 1 << 20
    batch: int = 64
    queue: int = 64
    deadline: float = 10.0
    title: int = 2000
    linger: float = 0.002
    drain: float = 15.0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            least = 0 if field.name == "linger" else 1 if field.type == "int" else 0.001
            if not value >= least:
                raise ValueError(f"{field.name} is {value}; it must be at least {least}")

    def batch_sizes(self) -> tuple[int, ...]:
        """Rows that a call is padded to: few sizes, because a model is compiled for each."""
        return (*(8**power for power in range(16) if 8**power < self.batch), self.batch)


class RequestError(Exception):
    """A request that is refused.

    Attributes:
      status: of HTTP.
      reason: for the client; names the field.
    """

    def __init__(self, status: int, reason: str, headers: Mapping[str, str] | None = None):
        super().__init__(reason)
        self.status, self.reason, self.headers = status, reason, dict(headers or {})


def quoted(value: object) -> str:
    """A client's value for an error message, not longer than one reads."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
