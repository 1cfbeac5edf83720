"""A request's body, read in chunks within its bounds: what a client says of its length is not believed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

from starlette.requests import ClientDisconnect, Request

from distill.serving.limits import Limits, RequestError

# `curl -d` says it sends a form; TensorFlow Serving takes that for JSON, and its users rely on it.
_FORM = "application/x-www-form-urlencoded"
_DISCARD = 16  # times the bound: so much more is read and dropped, since closing at once would lose the answer


async def read_body(request: Request, limits: Limits, deadline: float) -> bytes:
    """The body.

    Raises:
      RequestError: 415 for another type than JSON, 413 beyond `limits.body`, 408 when it does not come in time, 400
        when the client goes away.
    """
    _check_type(request)
    try:
        async with asyncio.timeout_at(asyncio.get_running_loop().time() + deadline - time.monotonic()):
            return await _read(request, limits.body)
    except TimeoutError as error:
        raise RequestError(408, "the body did not come in time", {"Connection": "close"}) from error
    except ClientDisconnect as error:
        raise RequestError(400, "the client went away") from error


async def _read(request: Request, most: int) -> bytes:
    said = request.headers.get("content-length", "")
    too_long = RequestError(413, f"the body is longer than {most:,} bytes", {"Connection": "close"})
    if said.isdecimal() and int(said[:20]) > most and "expect" in request.headers:
        raise too_long  # the client waits for leave to send
    body, stream = bytearray(), request.stream()
    async for chunk in stream:
        if len(body) + len(chunk) > most:
            await _discard(stream, most * _DISCARD)
            raise too_long
        body += chunk
    return bytes(body)


async def _discard(stream: AsyncIterator[bytes], most: int) -> None:
    dropped = 0
    async for chunk in stream:
        dropped += len(chunk)
        if dropped > most:
            return


def _check_type(request: Request) -> None:
    encoding = request.headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        raise RequestError(415, "Content-Encoding: only identity is taken; send the body uncompressed")
    kind, _, parameters = request.headers.get("content-type", "application/json").lower().partition(";")
    kind, parameters = kind.strip(), parameters.replace('"', "").strip()
    if kind not in ("application/json", _FORM) and not (kind.startswith("application/") and kind.endswith("+json")):
        raise RequestError(415, "Content-Type: only application/json is taken")
    if parameters.startswith("charset=") and parameters not in ("charset=utf-8", "charset=utf8"):
        raise RequestError(415, "Content-Type: only the charset utf-8 is taken")
