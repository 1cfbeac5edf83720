"""Running a trained model over many texts or pairs: packed, sharded over the mesh, one compiled shape."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from distill.data.pair_batches import PairPlan, pack_pairs, plan_pairs
from distill.data.ragged import Ragged
from distill.data.stream import round_up, stream_steps
from distill.data.tokenizing import pair_tokens
from distill.models import bi_encoder, cross_encoder
from distill.models.encoder import EncoderSpec, PackedTokens
from distill.parallel.mesh import batch_shards, replicated, to_global

BATCH_TOKENS = 8192  # of one device's share of a batch; large enough to keep matrix products efficient
ROW_FIELDS = frozenset({"rows"})
_TEXTS_PER_ROW, _SLOTS = 4, 64  # what a plan's sizes are multiples of


@functools.lru_cache(maxsize=8)
def _compiled(kind: str, spec: EncoderSpec, texts_per_row: int, mesh: jax.sharding.Mesh) -> Any:
    apply = bi_encoder.embed if kind == "embed" else cross_encoder.score
    # Whole on every device, so that every process can fetch it.
    return jax.jit(
        lambda params, batch: apply(spec, params, batch["rows"], batch["slots"], texts_per_row),
        out_shardings=replicated(mesh),
    )


def plan_texts(lengths: np.ndarray, row_tokens: int, mesh: jax.sharding.Mesh) -> PairPlan:
    """Which of N texts (or pairs), in their order, go into which batch; all batches have one shape.

    Its sizes are rounded up, so that other texts of the same kind, another shard's, need no other compiled program.
    """
    shards = batch_shards(mesh)
    mean = float(lengths.mean()) if len(lengths) else 1.0
    batch = max(1, int(min(len(lengths), shards * BATCH_TOKENS / mean)))
    plan = plan_pairs(lengths, total=len(lengths), batch_pairs=batch, row_tokens=row_tokens, shards=shards, seed=None)
    budget = plan.budget._replace(texts_per_row=round_up(plan.budget.texts_per_row, _TEXTS_PER_ROW))
    return plan._replace(budget=budget, slots=round_up(plan.slots, _SLOTS))


def stream_embeddings(
    spec: EncoderSpec, params: Any, texts: Ragged, plan: PairPlan, steps: range, mesh: jax.sharding.Mesh
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields (text numbers [n], unit embeddings [n, D] float32) of the plan's steps, batch by batch."""
    run = _compiled("embed", spec, plan.budget.texts_per_row, mesh)

    def build(step: int) -> tuple[np.ndarray, dict[str, Any]]:
        ids = plan.pairs(step)
        chosen = texts.take(ids)
        packed = pack_pairs(chosen, np.zeros(len(chosen.values), np.int32), plan)
        return ids, {"rows": PackedTokens(*packed[:4]), "slots": packed.slots}

    for ids, batch in stream_steps(build, steps.start, steps.stop):
        yield ids, np.asarray(run(params, to_global(mesh, batch, ROW_FIELDS)))[: len(ids)]


def embed_texts(
    spec: EncoderSpec, params: Any, texts: Ragged, *, row_tokens: int, mesh: jax.sharding.Mesh
) -> np.ndarray:
    """Unit embeddings of N texts (`[CLS] text [SEP]`), float32 [N, D], in memory."""
    plan = plan_texts(texts.lengths, row_tokens, mesh)
    result = np.empty((len(texts.lengths), spec.width), np.float32)
    for ids, vectors in stream_embeddings(spec, params, texts, plan, range(plan.steps), mesh):
        result[ids] = vectors
    return result


class PairScorer:
    """The assistant over (keyphrase, item) index pairs: raw logits, in the order asked."""

    def __init__(
        self,
        spec: EncoderSpec,
        params: Any,
        keyphrases: Ragged,
        items: Ragged,
        *,
        specials: tuple[int, int],
        row_tokens: int,
        mesh: jax.sharding.Mesh,
    ):
        """`keyphrases` and `items` hold ids without special tokens; `specials` are those of `[CLS]` and `[SEP]`."""
        self._spec, self._params, self._keyphrases, self._items = spec, params, keyphrases, items
        self._specials, self._row_tokens, self._mesh = specials, row_tokens, mesh

    def __call__(self, keyphrase: np.ndarray, item: np.ndarray) -> np.ndarray:
        """Raw relevance logits, float32 [N], of the index pairs `keyphrase` [N], `item` [N]."""
        result = np.empty(len(keyphrase), np.float32)
        for ids, logits in self.stream(keyphrase, item):
            result[ids] = logits
        return result

    def stream(self, keyphrase: np.ndarray, item: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields (positions, logits) batch by batch."""
        lengths = self._keyphrases.lengths[keyphrase] + self._items.lengths[item] + 3
        plan = plan_texts(lengths, self._row_tokens, self._mesh)
        run = _compiled("score", self._spec, plan.budget.texts_per_row, self._mesh)

        def build(step: int) -> tuple[np.ndarray, dict[str, Any]]:
            ids = plan.pairs(step)
            tokens, types = pair_tokens(self._keyphrases, self._items, keyphrase[ids], item[ids], *self._specials)
            packed = pack_pairs(tokens, types, plan)
            return ids, {"rows": PackedTokens(*packed[:4]), "slots": packed.slots}

        for ids, batch in stream_steps(build, 0, plan.steps):
            yield ids, np.asarray(run(self._params, to_global(self._mesh, batch, ROW_FIELDS)))[: len(ids)]
