"""Candidate keyphrases of items before there is a trained student; shared by the judge and score stages."""

from __future__ import annotations

from typing import Any

import numpy as np

from distill.stages.base import Context


def lexical_candidates(context: Context, items: np.ndarray, k: int) -> np.ndarray:
    """BM25's top `k` trainable keyphrases of each item: rows of keyphrase indices [I, k], −1 for none."""
    from distill.retrieval.lexical import Lexical

    if not k:
        return np.zeros((len(items), 0), np.int64)
    prepared = context.prepared
    allowed = np.flatnonzero(prepared.trainable)
    found, _ = Lexical([prepared.keyphrases[i] for i in allowed]).top_k([prepared.item_texts[i] for i in items], k)
    return np.where(found >= 0, allowed[np.maximum(found, 0)], -1)


def dense_candidates(context: Context, items: np.ndarray, k: int) -> np.ndarray:
    """Nearest `k` trainable keyphrases: by the pretrained encoder, or by latent semantics where there is none."""
    from distill.retrieval.exact import top_k

    if not k:
        return np.zeros((len(items), 0), np.int64)
    prepared = context.prepared
    allowed = np.flatnonzero(prepared.trainable)
    item_vectors, keyphrase_vectors = dense_vectors(context)
    found, _ = top_k(item_vectors[items], keyphrase_vectors[allowed], k)
    return np.where(found >= 0, allowed[np.maximum(found, 0)], -1)


def dense_vectors(context: Context) -> tuple[Any, Any]:
    """(items, keyphrases) unit vectors that need no training of ours."""
    prepared = context.prepared
    if context.experiment.encoder.init:
        return context.embeddings(*context.initial_encoder())
    from distill.retrieval.latent import LatentSemantic

    clicks = prepared.training("clicks")
    clicked = clicks["clicks"] > 0 if clicks is not None else np.zeros(0, bool)
    empty = np.zeros(0, np.int32)
    latent = LatentSemantic.fit(
        prepared.item_texts,
        prepared.keyphrases,
        clicks["item"][clicked] if clicks is not None else empty,
        clicks["keyphrase"][clicked] if clicks is not None else empty,
        seed=context.experiment.seed,
    )
    return latent.items, latent.keyphrases
