"""A SavedModel from listings to keyphrases: the student, the keyphrase index and the keyphrases in one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distill.export.batches import MOST_ROWS, in_chunks
from distill.export.graph_tokenizer import GraphTokenizer
from distill.export.lowering import lower_student
from distill.export.saved_model import item_text, save
from distill.export.tensorflow_door import load_tensorflow
from distill.export.warm_up import SIGNATURE, Requests
from distill.models.encoder import EncoderSpec, Params
from distill.retrieval import index_store, scann_graph, scann_native
from distill.retrieval.index_settings import IndexSettings

_SCORES_AT_ONCE = 1 << 26  # of listings with all keyphrases, in exact search: 256 MiB

Search = Callable[[Any], tuple[Any, Any]]  # float32 [r, D] → rows int32 [r, K] (−1: none) and cosines float32 [r, K]


def save_recommender(
    directory: Path,
    tokenizer: GraphTokenizer,
    spec: EncoderSpec,
    params: Params,
    max_tokens: int,
    index: Path,
    keyphrases: Sequence[str],
    k: int,
    exact: bool,
    warm_up: Requests,
) -> None:
    """Writes `recommender` (ScaNN's ops) or `recommender_exact` (a product with all keyphrases and the k best).

    Where the index finds fewer than k keyphrases, the rest are "" with score −inf.

    Args:
      directory: made, or replaced.
      tokenizer, spec, params, warm_up: as of `save_student`.
      max_tokens: of a listing's text, special tokens included.
      index: of `KeyphraseIndex.save`.
      keyphrases: texts of its rows.
      k: how many; all of them where there are fewer.
      exact: which of the two.

    Raises:
      ValueError: the index is damaged, or not of these keyphrases.
    """
    tf = load_tensorflow()
    settings = index_store.read_manifest(index)
    if settings.count != len(keyphrases):
        raise ValueError(f"{index}: holds {settings.count} keyphrases, not {len(keyphrases)}; build the index again")
    k = min(k, settings.count)
    width = settings.full_width if settings.full_width < spec.width else None
    variables, embed = lower_student(spec, params, width)
    find = _exact if exact else _approximate
    holds, search = find(index, settings, k)
    texts = tf.Variable(np.array([text.encode() for text in keyphrases], object), trainable=False, dtype=tf.string)
    rows = MOST_ROWS
    while exact and rows > 1 and rows * settings.count > _SCORES_AT_ONCE:
        rows //= 2
    output = (tf.TensorSpec([k], tf.int32), tf.TensorSpec([k], tf.float32))

    def serve(category: Any, title: Any) -> dict[str, Any]:
        padded = tokenizer.texts(item_text(category, title), max_tokens)
        found, scores = in_chunks(lambda *chunk: search(embed(*chunk)), padded, max_tokens, rows, output)
        return {"keyphrase": tf.where(found < 0, "", tf.gather(texts, tf.maximum(found, 0))), "score": scores}

    signatures = {SIGNATURE: (serve, ("category", "title"))}
    save(directory, signatures, {"parameters": variables, "keyphrases": texts, **holds}, warm_up)


def _exact(index: Path, settings: IndexSettings, k: int) -> tuple[dict[str, Any], Search]:
    tf = load_tensorflow()
    vectors = tf.Variable(np.asarray(index_store.map_vectors(index, settings)), trainable=False)

    def search(queries: Any) -> tuple[Any, Any]:
        scores, found = tf.math.top_k(tf.matmul(queries, vectors, transpose_b=True), k)
        return found, scores

    return {"vectors": vectors}, search


def _approximate(index: Path, settings: IndexSettings, k: int) -> tuple[dict[str, Any], Search]:
    """As `KeyphraseIndex.search` does it."""
    tf = load_tensorflow()
    if scann_graph.fits_graph(settings):
        state = scann_graph.load_state(index)
    else:
        vectors = np.asarray(index_store.map_vectors(index, settings))
        state, settings = scann_graph.build_state(vectors, settings)
        settings = _with_enough_leaves(state, settings, vectors, np.load(index / index_store.SAMPLE))
    holds: dict[str, Any] = {"index": state}
    if settings.rescore:
        holds["vectors"] = tf.Variable(np.asarray(index_store.map_vectors(index, settings)), trainable=False)
    return holds, lambda queries: _search(state, settings, queries, k, holds.get("vectors"))


def _search(
    state: Any, settings: IndexSettings, queries: Any, k: int, vectors: Any, leaves: int | None = None
) -> tuple[Any, Any]:
    tf = load_tensorflow()
    wanted = settings.candidates(settings.rescore, k) if settings.rescore else k
    options: dict[str, int] = {}
    if settings.leaves:
        options["leaves_to_search"] = settings.leaves_for(k) if leaves is None else leaves
        options["reorder"] = max(settings.candidates(settings.reorder, k), wanted)
    searched = queries
    if settings.width < settings.full_width:
        cut = queries[:, : settings.width]
        searched = cut / tf.maximum(tf.norm(cut, axis=1, keepdims=True), 1e-12)
    found, scores = scann_graph.search(state, searched, wanted, **options)
    missing = tf.math.is_nan(scores)
    found, scores = tf.where(missing, -1, found), tf.where(missing, -float("inf"), scores)
    if settings.rescore:
        scores = tf.einsum("qcd,qd->qc", tf.gather(vectors, tf.maximum(found, 0)), queries)
        scores, place = tf.math.top_k(tf.where(found < 0, -float("inf"), scores), k)
        found = tf.gather(found, place, batch_dims=1)
    return found, scores


def _with_enough_leaves(state: Any, settings: IndexSettings, vectors: np.ndarray, sample: np.ndarray) -> IndexSettings:
    """The settings with as many leaves to search as the target recall takes, by doubling."""
    tf = load_tensorflow()
    k = min(settings.recall_at, settings.count)
    kth = scann_native.exact_top(sample, vectors, k)[1][:, -1:]
    while settings.leaves_to_search < settings.leaves:
        leaves = settings.leaves_to_search
        scores = _search(state, settings, tf.constant(sample), k, vectors, leaves)[1].numpy()
        if np.mean(scores >= kth - 1e-5) >= settings.target_recall:
            break
        settings = dataclasses.replace(settings, leaves_to_search=min(2 * leaves, settings.leaves))
    return settings
