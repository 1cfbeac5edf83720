"""Prompts that share their beginnings, packed into rows of a fixed shape.

A prompt is a prefix that all have in common, a listing's tokens, and a keyphrase's tokens. A row holds a listing once
and after it the keyphrases that are asked about it, as branches (see `distill.models.decoder.BranchedTokens`), so most
tokens of a prompt are run once for all that share them.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from distill.models.decoder import BranchedTokens


@dataclasses.dataclass(frozen=True)
class Prompt:
    """Tokens after the prefix."""

    listing: tuple[int, ...]  # shared with the neighbours that have the same; may be empty
    keyphrase: tuple[int, ...]  # at least one token; the answer follows its last
    key: Any = None  # the caller's own


class RowShape(NamedTuple):
    """The fixed shape of a batch."""

    rows: int
    tokens: int  # of a row
    branches: int  # most in a row


class Placed(NamedTuple):
    """Where a prompt went."""

    prompt: Prompt
    row: int
    branch: int  # its number in the row, from 0
    tokens: int  # its own and its share of its listing's; over a batch they add up to the tokens that are not padding


class Batch(NamedTuple):
    packed: BranchedTokens  # int32 [R, L] each
    ends: np.ndarray  # int32 [R, B]: the place in its row of each branch's last token, 0 where there is no branch
    placed: list[Placed]


class _Part(NamedTuple):
    """Prompts of one listing that may share a row."""

    prompts: list[Prompt]
    tokens: int  # of the listing and all its keyphrases

    @property
    def listing(self) -> tuple[int, ...]:
        return self.prompts[0].listing


def pack(
    prompts: Iterable[Prompt], shape: RowShape, *, prefix_tokens: int, look_ahead: int | None = None
) -> Iterator[Batch]:
    """Packs a stream of prompts, consecutive ones with equal listings together; each goes into exactly one batch.

    A row is filled by the largest of the waiting listings that fit. One that does not fit is cut in two, its listing
    repeated, where its keyphrases in the first half are at least as long as what is repeated.

    Args:
      prompts: of any number.
      shape: of every batch; the last ones may hold empty rows.
      prefix_tokens: of the prefix, where positions start.
      look_ahead: tokens to read before a batch is packed, twice a batch's own by default: more leave less padding.

    Raises ValueError for a prompt that has no keyphrase token or is longer than a row.
    """
    look_ahead = 2 * shape.rows * shape.tokens if look_ahead is None else look_ahead
    parts, waiting, tokens, more = _parts(prompts, shape), deque[_Part](), 0, True
    while more or waiting:
        while more and (tokens < look_ahead or not waiting):
            part = next(parts, None)
            more = part is not None
            if part is not None:
                waiting.append(part)
                tokens += part.tokens
        if waiting:
            rows: list[list[_Part]] = []
            while waiting and len(rows) < shape.rows:
                rows.append(_fill_row(waiting, shape))
            tokens = sum(part.tokens for part in waiting)
            yield _batch(rows, shape, prefix_tokens)


def _parts(prompts: Iterable[Prompt], shape: RowShape) -> Iterator[_Part]:
    """Consecutive prompts with equal listings, as many at a time as a row takes."""
    gathered: list[Prompt] = []
    tokens = 0
    for prompt in prompts:
        alone = len(prompt.listing) + len(prompt.keyphrase)
        if not prompt.keyphrase or alone > shape.tokens:
            raise ValueError(
                f"a prompt of {len(prompt.listing)} + {len(prompt.keyphrase)} tokens: it needs a token of its own and "
                f"must fit a row of {shape.tokens}"
            )
        longer = tokens + len(prompt.keyphrase)
        if gathered and (
            prompt.listing != gathered[0].listing or longer > shape.tokens or len(gathered) == shape.branches
        ):
            yield _Part(gathered, tokens)
            gathered = []
        tokens = longer if gathered else alone
        gathered.append(prompt)
    if gathered:
        yield _Part(gathered, tokens)


def _fill_row(waiting: deque[_Part], shape: RowShape) -> list[_Part]:
    """Takes out of `waiting` what goes into one row; the oldest always does."""
    row = [waiting.popleft()]
    free, slots = shape.tokens - row[0].tokens, shape.branches - len(row[0].prompts)
    while waiting and slots:
        fitting = [i for i, part in enumerate(waiting) if part.tokens <= free and len(part.prompts) <= slots]
        if fitting:
            best = max(fitting, key=lambda i: waiting[i].tokens)
            row.append(waiting[best])
            del waiting[best]
        else:
            halves = _cut(waiting[0], free, slots)
            if halves is None:
                break
            row.append(halves[0])
            waiting[0] = halves[1]
        free -= row[-1].tokens
        slots -= len(row[-1].prompts)
    return row


def _cut(part: _Part, free: int, slots: int) -> tuple[_Part, _Part] | None:
    """The first prompts of a part, as many as fit, and the others; None where that repeats more than it fills."""
    shared, count, tokens = len(part.listing), 0, len(part.listing)
    for prompt in part.prompts[:slots]:
        if tokens + len(prompt.keyphrase) > free:
            break
        tokens += len(prompt.keyphrase)
        count += 1
    if not count or tokens < 2 * shared:
        return None
    return _Part(part.prompts[:count], tokens), _Part(part.prompts[count:], part.tokens - tokens + shared)


def _batch(rows: list[list[_Part]], shape: RowShape, prefix_tokens: int) -> Batch:
    packed = BranchedTokens(*np.zeros((4, shape.rows, shape.tokens), np.int32))
    ends = np.zeros((shape.rows, shape.branches), np.int32)
    placed = []
    for r, row in enumerate(rows):
        at = slot = 0
        for group, part in enumerate(row, 1):
            shared = len(part.listing)
            share = np.arange(len(part.prompts) + 1) * shared // len(part.prompts)
            pieces = [part.listing, *(prompt.keyphrase for prompt in part.prompts)]
            for branch, piece in enumerate(pieces):
                stop = at + len(piece)
                start_position = prefix_tokens + (shared if branch else 0)
                packed.tokens[r, at:stop] = piece
                packed.positions[r, at:stop] = np.arange(start_position, start_position + len(piece))
                packed.groups[r, at:stop] = group
                packed.branches[r, at:stop] = branch
                if branch:
                    ends[r, slot] = stop - 1
                    own = len(piece) + int(share[branch] - share[branch - 1])
                    placed.append(Placed(part.prompts[branch - 1], r, slot, own))
                    slot += 1
                at = stop
    return Batch(packed, ends, placed)
