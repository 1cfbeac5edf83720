"""The report's data page: what came in, what became of it, what there is to say about it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from distill.data.validation.about import About
from distill.data.validation.distributions import Distribution
from distill.data.validation.findings import Finding


@dataclasses.dataclass(frozen=True)
class Flow:
    """The way of a table's rows; `rows` is the sum of `kept`, `quarantined`, `merged`, `leaks` and `impossible`."""

    table: str
    file: str
    rows: int
    quarantined: int = 0
    merged: int = 0
    leaks: int = 0  # rows of a human query or a near-duplicate of one
    impossible: int = 0  # pairs with more clicks than an audience gives
    kept: int = 0
    training: int = 0  # of the kept rows, where the table is split
    holdout: int = 0


@dataclasses.dataclass(frozen=True)
class Cut:
    """Texts that are longer than what the encoder reads."""

    what: str  # `item texts`, `keyphrases`
    count: int
    of: int
    limit: int  # tokens
    examples: Sequence[str] = ()  # the longest


@dataclasses.dataclass(frozen=True)
class DataPage:
    """All that the data page shows."""

    about: About = dataclasses.field(default_factory=About)
    flow: Sequence[Flow] = ()
    findings: Sequence[Finding] = ()  # worst first
    distributions: Mapping[str, Distribution] = dataclasses.field(default_factory=dict)
    cut: Sequence[Cut] = ()


def flow_of(tables: Mapping[str, Mapping[str, Any]]) -> list[Flow]:
    """The flows of `tables`, as `prepare` writes them to its summary."""
    return [
        Flow(
            name,
            table["file"],
            table["rows"],
            quarantined=table["quarantined"],
            merged=table["merged"],
            leaks=table["removed"] - table["impossible"],
            impossible=table["impossible"],
            kept=table["kept"],
            training=table["training"],
            holdout=table["holdout"],
        )
        for name, table in tables.items()
    ]
