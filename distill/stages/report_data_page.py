"""The report's data page, read from what `prepare` left."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from distill.data.ragged import Ragged
from distill.data.validation.distributions import binned
from distill.data.validation.findings import shorten
from distill.data.validation.validate import read_validation
from distill.evaluate.report_validation import Cut, DataPage, flow_of
from distill.stages.base import Context

_EXAMPLES = 3


def data_page(context: Context, summary: dict[str, Any]) -> DataPage:
    """The page of this run; `summary` is the prepare stage's."""
    found = read_validation(context.folder("prepare"))
    encoder, prepared = context.experiment.encoder, context.prepared
    items, keyphrases = context.item_tokens, context.keyphrase_tokens
    return DataPage(
        found.about,
        flow_of(summary["tables"]),
        found.findings,
        found.distributions
        | {
            "item text tokens": _tokens(items, encoder.item_tokens),
            "keyphrase tokens": _tokens(keyphrases, encoder.keyphrase_tokens),
        },
        (
            _cut("item texts", items, encoder.item_tokens, prepared.item_texts),
            _cut("keyphrases", keyphrases, encoder.keyphrase_tokens, prepared.keyphrases),
        ),
    )


def _tokens(texts: Ragged, limit: int) -> dict[str, int]:
    """Lengths by classes of an eighth of the limit."""
    return binned(texts.lengths.astype(float), sorted({1, *range(1, limit, max(1, limit // 8)), limit}))


def _cut(what: str, tokens: Ragged, limit: int, texts: Sequence[str]) -> Cut:
    full = np.flatnonzero(tokens.lengths >= limit) if tokens.truncated else np.zeros(0, int)
    # Full are those that just fit, too; the longest texts are the likeliest to have been cut.
    longest = sorted(full.tolist(), key=lambda row: (-len(texts[row]), row))[: min(_EXAMPLES, tokens.truncated)]
    return Cut(what, tokens.truncated, len(texts), limit, [shorten(texts[row]) for row in longest])
