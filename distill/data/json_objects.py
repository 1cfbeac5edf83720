"""JSON objects that lose nothing."""

from __future__ import annotations

from typing import Any


class RepeatedKey(ValueError):
    """A key stands twice in a JSON object, so that one of its values would be lost."""

    def __init__(self, key: str):
        super().__init__(f"key {key!r} twice in a JSON object")
        self.key = key


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An `object_pairs_hook` of `json.loads`; raises RepeatedKey."""
    value = dict(pairs)
    if len(value) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise RepeatedKey(key)
            seen.add(key)
    return value
