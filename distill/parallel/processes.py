"""What the processes of one run agree on: the first decides and writes, the others follow it or stop with its error.

Agreement goes through the store of JAX's coordination service: it needs no device and may wait for hours.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")

_POLL_MS = 60_000  # a wait is cut into such pieces so that a signal gets through


class OtherProcessError(RuntimeError):
    """Another process failed, and this one stops with it; the message is that process's own."""


class Processes:
    """This process among those of the run; every process must make the same calls in the same order."""

    def __init__(self, index: int = 0, count: int = 1):
        self.index, self.count = index, count
        self._calls = 0
        self._working = False

    @property
    def first(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.index == 0

    @property
    def alone(self) -> bool:
        """Whether no other process takes part in what runs now."""
        return self.count == 1 or self._working

    def on_first(self, work: Callable[[], T]) -> T:
        """Runs `work` on the first process while the others wait; returns its result, a JSON value, on all.

        When `work` raises, the first process raises that error and the others OtherProcessError with its message.
        """
        if self.alone:
            return work()
        if not self.first:
            answer = self._read(self._key())
            self._calls += 1
            return answer
        self._working = True
        try:
            value = work()
        except BaseException as error:
            self.fail(error)
            raise
        finally:
            self._working = False
        self._tell({"value": value})
        self._calls += 1
        return value

    def gather(self, value: T) -> list[T]:
        """The JSON values of all processes, in their order, on each of them: nobody goes on before all are here.

        Raises OtherProcessError when another process failed instead.
        """
        if self.alone:
            return [value]
        _client().key_value_set(self._gather_key(self.index), json.dumps({"value": value}), allow_overwrite=True)
        values = [self._read(self._gather_key(index)) for index in range(self.count)]
        self._calls += 1
        return values

    def check_same(self, what: str, *arrays: np.ndarray) -> None:
        """Raises RuntimeError, naming `what`, on a process whose arrays are not those of the first.

        For what every process computes for itself and all must agree on, before it shapes what they do together.
        """
        if self.alone:
            return
        digest = hashlib.sha256()
        for array in arrays:
            digest.update(f"{array.shape} {array.dtype}".encode() + np.ascontiguousarray(array).tobytes())
        if digest.hexdigest() != self.on_first(digest.hexdigest):
            raise RuntimeError(
                f"{what}: process {self.index} computed something else than process 0; "
                "give all hosts the same packages, processors and view of the working directory"
            )

    def fail(self, error: BaseException) -> None:
        """Tells processes that wait for this one that it failed."""
        if self.count > 1:
            answer = {"error": str(error) or type(error).__name__}
            if self.first:
                self._tell(answer)
            _client().key_value_set(self._gather_key(self.index), json.dumps(answer), allow_overwrite=True)

    def _tell(self, answer: dict[str, Any]) -> None:
        _client().key_value_set(self._key(), json.dumps(answer), allow_overwrite=True)

    def _read(self, key: str) -> Any:
        import jax

        while True:
            try:
                answer = json.loads(_client().blocking_key_value_get(key, _POLL_MS))
            except jax.errors.JaxRuntimeError as error:
                if "DEADLINE_EXCEEDED" not in str(error):
                    raise
                continue
            if "error" in answer:
                raise OtherProcessError(answer["error"])
            return answer["value"]

    def _key(self) -> str:
        return f"distill/on_first/{self._calls}"

    def _gather_key(self, index: int) -> str:
        return f"distill/gather/{self._calls}/{index}"


def _client() -> Any:
    # JAX has no public name for it; Orbax and Flax reach it in the same way.
    from jax._src import distributed

    return distributed.global_state.client
