"""Rules that many settings share; each names the field and its value."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator


class ConfigError(ValueError):
    """A setting that cannot work; the message names the field and its value."""


def leaves(config: object, prefix: str = "") -> Iterator[tuple[str, object]]:
    for field in dataclasses.fields(config):  # type: ignore[arg-type]
        value = getattr(config, field.name)
        path = f"{prefix}{field.name}"
        if dataclasses.is_dataclass(value):
            yield from leaves(value, path + ".")
        elif isinstance(value, tuple):
            yield from ((f"{path}[{i}]", v) for i, v in enumerate(value))
        else:
            yield path, value


def one_of(path: str, value: object, allowed: tuple) -> None:
    if value not in allowed:
        raise ConfigError(f"config.{path}={value!r}: must be one of {', '.join(map(repr, allowed))}")


def at_least(path: str, value: float, low: float) -> None:
    if value < low:
        raise ConfigError(f"config.{path}={value}: must be at least {low}")


def positive(path: str, value: float) -> None:
    if value <= 0:
        raise ConfigError(f"config.{path}={value}: must be above 0")


def between_0_and_1(path: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ConfigError(f"config.{path}={value}: must lie between 0 and 1")
