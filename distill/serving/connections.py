"""Bounds on a slow client's connection, which uvicorn does not have."""

from __future__ import annotations

import asyncio
import json

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from distill.serving.limits import Limits


def http_protocol(limits: Limits) -> type[H11Protocol]:
    """uvicorn's HTTP/1.1, where a connection ends whose client takes longer than `limits.deadline`

    - to send the head of a request, or the rest of one that is answered already: uvicorn would wait for ever;
    - to take what is to be sent, once that is more than the transport likes to hold (64 KiB).

    What is no HTTP is refused in JSON, like everything else that is refused.
    """

    class Protocol(H11Protocol):
        _head: asyncio.TimerHandle | None = None
        _unread: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._head = self.loop.call_later(limits.deadline, transport.close)

        def connection_lost(self, exc: Exception | None) -> None:
            self._head = _cancelled(self._head)
            self._unread = _cancelled(self._unread)
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle is not None and not self.cycle.response_complete:
                self._head = _cancelled(self._head)
            elif self._head is None:
                self._head = self.loop.call_later(limits.deadline, self.transport.close)

        def pause_writing(self) -> None:
            super().pause_writing()
            self._unread = self.loop.call_later(limits.deadline, self.transport.abort)

        def resume_writing(self) -> None:
            super().resume_writing()
            self._unread = _cancelled(self._unread)

        def send_400_response(self, msg: str) -> None:
            if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                body = json.dumps({"error": msg}).encode()
                headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), "Connection": "close"}
                head = h11.Response(status_code=400, headers=list(headers.items()), reason=b"Bad Request")
                for event in (head, h11.Data(data=body), h11.EndOfMessage()):
                    self.transport.write(self.conn.send(event) or b"")
            self.transport.close()  # else the answer is given already, and the rest of its request is broken

    return Protocol


def _cancelled(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
