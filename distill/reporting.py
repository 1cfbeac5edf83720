"""How the library speaks: it never prints, it tells a `Reporter` that the caller passes in."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Protocol


class Reporter(Protocol):
    """Receives what a person watching a run should see."""

    def line(self, text: str) -> None:
        """One line of information."""
        ...

    def progress(self, name: str, total: int, done: int = 0) -> contextlib.AbstractContextManager[Callable[..., None]]:
        """A context whose value is called as `advance(count, **figures)` while `total` units of work pass."""
        ...


class Silent:
    """A reporter that says nothing; for tests and for processes other than the first."""

    def line(self, text: str) -> None:
        del text

    @contextlib.contextmanager
    def progress(self, name: str, total: int, done: int = 0) -> Iterator[Callable[..., None]]:
        del name, total, done
        yield lambda count=1, **figures: None
