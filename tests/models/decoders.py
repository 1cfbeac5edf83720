"""Tiny decoders, and prompts laid out by hand: branched as the judge packs them, and each in a row of its own."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from distill.models.decoder import BranchedTokens

GOLDEN = Path(__file__).parents[1] / "golden" / "decoder"
NAMES = ("llama", "llama3", "qwen2", "qwen3")

Listing = tuple[list[int], list[list[int]]]  # its tokens, and those of each of its keyphrases


def branched(rows: Sequence[Sequence[Listing]], length: int, first_position: int = 0) -> tuple[BranchedTokens, list]:
    """Rows of listings, and where every keyphrase ends: (row, slot), in order."""
    fields = np.zeros((4, len(rows), length), np.int32)
    ends = []
    for r, row in enumerate(rows):
        at = 0
        for g, (shared, branches) in enumerate(row):
            for b, tokens in enumerate([shared, *branches]):
                stop = at + len(tokens)
                start = first_position + (0 if b == 0 else len(shared))
                fields[:, r, at:stop] = (
                    tokens,
                    np.arange(start, start + len(tokens)),
                    [g + 1] * len(tokens),
                    [b] * len(tokens),
                )
                at = stop
                if b:
                    ends.append((r, stop - 1))
    return BranchedTokens(*fields), ends


def plain(prompts: Sequence[Sequence[int]], length: int, rows: int) -> tuple[BranchedTokens, list]:
    """One prompt a row; unused rows are padding."""
    packed, _ = branched([[(list(prompt), [])] for prompt in prompts] + [[]] * (rows - len(prompts)), length)
    return packed, [(r, len(prompt) - 1) for r, prompt in enumerate(prompts)]
