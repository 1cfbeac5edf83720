"""How probable given tokens are after each of many prompts: one forward pass, no decoding, over a mesh of devices."""

from __future__ import annotations

import functools
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from distill.judge.branching import Batch, Prompt, RowShape, pack
from distill.models.decoder import DecoderSpec, hidden_states, prefill, token_logits
from distill.parallel.chunks import map_rows, rows_at_once
from distill.parallel.mesh import batch_shards, place, replicated, to_global

_ROW_FIELDS = frozenset({"packed", "ends"})


class Scored(NamedTuple):
    prompt: Prompt
    log_probabilities: np.ndarray  # float32 [A], natural, of the whole vocabulary's softmax
    tokens: int  # run for this prompt: its own and its share of its listing's, the prefix not counted
    seconds: float  # its share of its batch's time


class NextTokenScorer:
    """Scores prompts with a common prefix, whose keys and values are computed once, here."""

    def __init__(
        self,
        spec: DecoderSpec,
        params: Any,
        prefix: Sequence[int],
        token_ids: Sequence[int],
        *,
        mesh: jax.sharding.Mesh,
        row_tokens: int,
        batch_rows: int,
        shortest: int = 1,
    ):
        """
        Args:
          spec, params: of the decoder; `params` lie on the mesh, split or whole.
          prefix: tokens before every prompt; may be empty.
          token_ids: the A tokens that are scored.
          row_tokens, batch_rows: shape of a batch on each of the devices that batches are split over.
          shortest: about the fewest tokens of a keyphrase part; what is reserved for results goes by it.
        """
        self._spec, self._params, self._mesh = spec, params, mesh
        self._prefix_tokens = len(prefix)
        self._prefix = None
        if prefix:
            self._prefix = prefill(spec, params, place(np.asarray(prefix, np.int32), replicated(mesh)))
        self._token_ids = place(np.asarray(token_ids, np.int32), replicated(mesh))
        self.shape = RowShape(batch_rows * batch_shards(mesh), row_tokens, max(1, row_tokens // shortest))

    def score(self, prompts: Iterable[Prompt]) -> Iterator[Scored]:
        """Each prompt once, in the order of batches; where there are several processes, all make the same call.

        The devices work on one batch while the next is read, packed and sent to them.
        """
        running: deque[tuple[Batch, float, jax.Array]] = deque()
        finished = 0.0
        for batch in pack(prompts, self.shape, prefix_tokens=self._prefix_tokens):
            running.append((batch, time.perf_counter(), self._run(batch)))
            if len(running) > 1:
                finished = yield from self._fetch(*running.popleft(), finished)
        while running:
            finished = yield from self._fetch(*running.popleft(), finished)

    def _run(self, batch: Batch) -> jax.Array:
        """Starts a batch; its result, [R, B, A], may be waited for."""
        arrays = to_global(self._mesh, {"packed": batch.packed, "ends": batch.ends}, _ROW_FIELDS)
        hidden = hidden_states(self._spec, self._params, arrays["packed"], self._prefix)
        tables = {name: self._params[name] for name in ("tokens", "head") if name in self._params}
        return _last_step(self._spec, self._mesh)(tables, hidden, arrays["ends"], self._token_ids)

    def _fetch(self, batch: Batch, started: float, result: jax.Array, finished: float) -> Iterator[Scored]:
        values = np.asarray(result)
        now = time.perf_counter()
        # A batch runs from when the one before it ended, or from its own start.
        seconds = (now - max(started, finished)) / len(batch.placed)
        for prompt, row, branch, tokens in batch.placed:
            yield Scored(prompt, values[row, branch], tokens, seconds)
        return now


@functools.lru_cache(maxsize=8)
def _last_step(spec: DecoderSpec, mesh: jax.sharding.Mesh) -> Any:
    """From hidden states [R, L, D] and ends [R, B] to log-probabilities [R, B, A]."""

    def run(tables: Any, hidden: jax.Array, ends: jax.Array, token_ids: jax.Array) -> jax.Array:
        last = jnp.take_along_axis(hidden, ends[..., None], axis=1)

        def score(rows: jax.Array, key: None) -> jax.Array:
            del key
            logits = token_logits(spec, tables, rows)
            return logits[:, token_ids] - jax.nn.logsumexp(logits, axis=-1, keepdims=True)

        # Logits of a whole batch over the whole vocabulary may not fit.
        chunk = batch_shards(mesh) * rows_at_once(spec.vocab_size)
        return map_rows(score, last.reshape(-1, spec.width), chunk).reshape(*ends.shape, -1)

    # Whole on every device, so that every process can fetch it.
    return jax.jit(run, out_shardings=replicated(mesh))
