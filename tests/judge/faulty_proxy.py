"""A bad network: stands before a real server and spoils a share of the calls, the same ones for the same seed.

Whether a call is spoilt, and how, depends on the seed, on its body and on how often that body has come, not on the
order in which several connections are served.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import hashlib
import http.client
import random
import threading
import urllib.parse
from collections.abc import Iterator

from tests.judge.http_servers import Asked, Reply, completion, refusal, serving

_HTML = Reply(200, b"<html><body>Please log in</body></html>", {"Content-Type": "text/html"})
_FAULTS = {
    "429": refusal(429, "too many requests"),
    "429 with Retry-After": refusal(429, "too many requests", headers={"Retry-After": "0.2"}),
    "500": refusal(500, "internal error"),
    "503": Reply(503, b"upstream connect error", {"Content-Type": "text/plain"}),
    "silence": Reply(200, hang=120),
    "cut connection": completion("3"),  # of which half is sent; see below
    "no body": Reply(200, b""),
    "malformed JSON": Reply(200, b'{"choices": [{"message": {"content": "3'),
    "HTML": _HTML,
    "wrong shape": Reply(200, b'{"object": "list", "data": [{"id": "3"}]}'),
}
_WEIGHTS = [0.25 if fault == "silence" else 1.0 for fault in _FAULTS]  # which costs a test the time of a time-out


@dataclasses.dataclass(frozen=True)
class Seen:
    digest: str  # of the body, see `digest_of`
    fault: str | None
    body: bytes
    answer: bytes


class FaultyProxy:
    """`url` is to be used instead of the server's. Counters may be read at any time."""

    def __init__(self, upstream: str, seed: int, share: float):
        self._upstream, self._seed, self._share = urllib.parse.urlsplit(upstream), seed, share
        self._lock, self._times = threading.Lock(), collections.Counter[str]()
        self._under_way = 0
        self.url = ""
        self.most_under_way = 0  # calls at a time
        self.seen: list[Seen] = []  # calls that were answered, well or not

    def respond(self, asked: Asked) -> Reply:
        digest = digest_of(asked.body)
        with self._lock:
            self._times[digest] += 1
            draw = random.Random(f"{self._seed} {digest} {self._times[digest]}")
            self._under_way += 1
            self.most_under_way = max(self.most_under_way, self._under_way)
        fault = draw.choices(list(_FAULTS), _WEIGHTS)[0] if draw.random() < self._share else None
        try:
            reply = self._forward(asked) if fault is None else _FAULTS[fault]
        finally:
            with self._lock:
                self._under_way -= 1
        if fault == "cut connection":
            reply = dataclasses.replace(reply, sent=len(reply.body) // 2)
        with self._lock:
            self.seen.append(Seen(digest, fault, asked.body, reply.body))
        return reply

    def _forward(self, asked: Asked) -> Reply:
        connection = http.client.HTTPConnection(self._upstream.netloc, timeout=120)
        with contextlib.closing(connection):
            headers = {name: asked.headers[name] for name in ("authorization", "content-type") if name in asked.headers}
            connection.request(asked.method, asked.path, asked.body, headers)
            answer = connection.getresponse()
            content_type = answer.headers.get("Content-Type", "")
            return Reply(answer.status, answer.read(), {"Content-Type": content_type})


def digest_of(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


@contextlib.contextmanager
def faulty(upstream: str, *, seed: int = 0, share: float = 0.3) -> Iterator[FaultyProxy]:
    proxy = FaultyProxy(upstream, seed, share)
    with serving(proxy.respond) as url:
        proxy.url = url
        yield proxy
