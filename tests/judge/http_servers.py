"""Real HTTP servers on loopback for the tests of judges behind a network."""

from __future__ import annotations

import contextlib
import dataclasses
import http.server
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any


@dataclasses.dataclass
class Reply:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = dataclasses.field(default_factory=lambda: {"Content-Type": "application/json"})
    sent: int | None = None  # bytes of the body that are sent before the connection is cut; None: all
    hang: float = 0.0  # seconds of silence before the answer, ended early when the server stops


@dataclasses.dataclass
class Asked:
    method: str
    path: str
    headers: dict[str, str]  # names in lower case
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


Respond = Callable[[Asked], Reply]


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, respond: Respond):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.respond, self.stopping = respond, threading.Event()

    def handle_error(self, request, client_address) -> None:
        """A client that hangs up, as one does that is killed, is no matter of the server's."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        reply = self.server.respond(Asked(self.command, self.path, headers, body))
        if reply.hang:
            self.server.stopping.wait(reply.hang)
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(reply.body)))
        self.end_headers()
        self.wfile.write(reply.body[: reply.sent])
        if reply.sent is not None:
            self.close_connection = True

    do_GET = do_POST = _answer

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextlib.contextmanager
def serving(respond: Respond) -> Iterator[str]:
    """The address of a server that answers every request by `respond`, which runs in several threads."""
    server = _Server(respond)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.stopping.set()
        server.shutdown()
        thread.join()
        server.server_close()


def completion(
    text: str | None = None,
    *,
    logprobs: dict[str, float] | None = None,
    finish: str = "stop",
    refusal: str | None = None,
    usage: tuple[int, int] = (100, 1),
) -> Reply:
    """A chat completion as services send it; `logprobs` are those of the first token."""
    choice: dict[str, Any] = {
        "index": 0,
        "message": {"role": "assistant", "content": text, "refusal": refusal},
        "finish_reason": finish,
        "logprobs": None,
    }
    if logprobs is not None:
        tops = [{"token": token, "logprob": value, "bytes": None} for token, value in logprobs.items()]
        choice["logprobs"] = {"content": [{**tops[0], "top_logprobs": tops}], "refusal": None}
    body = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [choice],
        "usage": {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)},
    }
    return Reply(200, json.dumps(body).encode())


def refusal(status: int, message: str, *, headers: dict[str, str] | None = None, **fields: str) -> Reply:
    """An error in the standard schema."""
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": None, **fields}
    return Reply(status, json.dumps({"error": error}).encode(), {"Content-Type": "application/json", **(headers or {})})
