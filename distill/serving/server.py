"""Runs the server: listens, warms the models up, and once told to stop lets what is in progress finish."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import uvicorn

from distill.export.loading import Signature, load_models
from distill.export.serving_facts import read_facts
from distill.serving.app import Log, Service
from distill.serving.connections import http_protocol
from distill.serving.limits import Limits

_LONGEST_WARM_UP = 1024  # words; longer texts are cut by any encoder of ours
_NOTICE_SECONDS = 0.5  # at least so long a stopping server still says that it is not ready
_GRACE_SECONDS = 2  # to write the last answers


@dataclasses.dataclass(frozen=True)
class Told:
    """What the caller is told: `listening` once there is a port, `ready` once the models are warm."""

    listening: Callable[[str], None]
    ready: Callable[[float], None]  # seconds that it took
    left_out: Callable[[str, str], None]  # a model's name, and why it is not served


def serve(export: Path, host: str, port: int, limits: Limits, threads: int, told: Told, log: Log) -> None:
    """Serves an export directory until SIGTERM or SIGINT; returns once it has drained.

    Args:
      export: of the export stage.
      host, port: where to listen; port 0 is any that is free.
      limits: for clients.
      threads: of TensorFlow; 0 lets it choose.
      told: what happens.
      log: one record a request.

    Raises:
      ImportError, ValueError: as `load_models` and `read_facts`.
      OSError: the port is taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family) as listener:
        # Connections inherit it. asyncio sets it on sockets that it made itself alone, and without it the body of an
        # answer waits 40 ms for the client to acknowledge the head.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        models, left_out = load_models(export, threads)
        for name, why in left_out.items():
            told.left_out(name, why)
        service = Service(models, read_facts(export), limits, log)
        shown = f"[{host}]" if ":" in host else host
        told.listening(f"http://{shown}:{listener.getsockname()[1]}")
        config = uvicorn.Config(
            service.app(),
            loop="asyncio",
            http=http_protocol(limits),
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=_GRACE_SECONDS,
        )
        server = _Server(config, service, told)
        server.run([listener])
        server.join()
    if server.failed:
        raise server.failed


class _Server(uvicorn.Server):
    """Drains before it stops listening, so that whoever asks learns that it is not ready, not that it is gone."""

    def __init__(self, config: uvicorn.Config, service: Service, told: Told):
        super().__init__(config)
        self._service, self._told = service, told
        self._stopping: asyncio.Task[None] | None = None
        self._warming: threading.Thread | None = None
        self.failed: Exception | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Ours in place of uvicorn's, which would end the process by the signal instead of with 0."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        # In a thread of its own: it compiles for a while, and whether the server lives can be asked meanwhile.
        self._warming = threading.Thread(target=self._warm_up, args=(loop,), name="warm-up", daemon=True)
        self._warming.start()
        yield

    def join(self) -> None:
        """Waits for the threads: ending the process in the midst of TensorFlow would abort it."""
        self._service.state = "draining"
        self._service.batcher.stop(self._service.limits.drain)
        if self._warming:
            self._warming.join(self._service.limits.drain)

    def _stop(self) -> None:
        if self._stopping:  # asked twice: at once
            self.force_exit = self.should_exit = True
            return
        self._service.state = "draining"
        self._stopping = asyncio.get_running_loop().create_task(self._drain())

    async def _drain(self) -> None:
        began = time.monotonic()
        limit = began + self._service.limits.drain
        await asyncio.sleep(_NOTICE_SECONDS)
        while self._service.in_progress and time.monotonic() < limit:
            await asyncio.sleep(0.02)
        self.should_exit = True

    def _warm_up(self, loop: asyncio.AbstractEventLoop) -> None:
        began = time.monotonic()
        try:
            warm_up(self._service.callables, self._service.limits, lambda: self._service.state == "warming")
        except Exception as error:
            self.failed, self.should_exit = error, True
        else:
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(self._warm, time.monotonic() - began)

    def _warm(self, seconds: float) -> None:
        if self._service.state == "warming":
            self._service.state = "ready"
            self._told.ready(seconds)


def warm_up(models: Mapping[str, Signature], limits: Limits, wanted: Callable[[], bool]) -> None:
    """Has every model compiled for each number of rows and each length of text that a request can lead to.

    Lengths are padded to powers of two, so texts of twice as many words each find them all.

    Args:
      models: by name.
      limits: with the numbers of rows.
      wanted: asked before each call; False ends it.
    """
    words = list(itertools.takewhile(lambda n: n <= _LONGEST_WARM_UP, (2**power for power in range(16))))
    for model, rows, count in itertools.product(models.values(), limits.batch_sizes(), words):
        if not wanted():
            return
        pair = len(model.inputs) > 1
        model({name: [_text(name, count, pair)] * rows for name in model.inputs})


def _text(name: str, words: int, pair: bool) -> bytes:
    """A pair's length is that of its listing."""
    if name == "category":
        return b""
    return b" ".join([b"a"] * (min(words, 4) if name == "keyphrase" and pair else words))
