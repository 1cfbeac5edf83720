"""What the assistant and the student descend: losses of `distill.losses` put together for a batch.

The apply functions come from outside, so nothing here knows how a text is encoded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from distill.config import AssistantConfig, DistillLoss, StudentConfig
from distill.losses.contrastive import in_batch_info_nce, learnt_temperature
from distill.losses.correlation import cosent_loss, global_pearson_loss, pearson_loss
from distill.losses.listwise import kl_divergence
from distill.losses.matryoshka import matryoshka
from distill.losses.pairwise import margin_mse, mse_margin_hybrid, ranknet
from distill.losses.pointwise import mse, ordinal_cross_entropy, soft_cross_entropy
from distill.parallel.chunks import map_rows, rows_at_once
from distill.train.step import LossFn

# (parameters, packed rows, slots [N], dropout key or None) → [N] logits, or [N, D] unit embeddings
# for each of several slots
ApplyFn = Callable[[Any, Any, Any, jax.Array | None], Any]


def assistant_extras(config: AssistantConfig) -> dict[str, Any]:
    """Parameters that the assistant's loss learns beside the model: the ordinal loss's three thresholds."""
    return {"thresholds": jnp.array([-1.0, 0.0, 1.0])} if config.loss == "ordinal" else {}


def make_assistant_loss(score: ApplyFn, config: AssistantConfig) -> LossFn:
    """Loss of the batch `{rows, slots [N], grades int32 [N]}`; a pair with slot −1 is padding.

    `soft_cross_entropy` reads each grade as the soft label `grade_targets[grade]`; `ordinal` is a proportional-odds
    model over the raw logit with learnt thresholds.
    """
    targets = jnp.asarray(config.grade_targets, jnp.float32)

    def loss(params: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        logits = score(params, batch["rows"], batch["slots"], key if config.dropout else None)
        real = batch["slots"] >= 0
        if config.loss == "ordinal":
            value = ordinal_cross_entropy(logits, batch["grades"], params["loss"]["thresholds"], where=real)
        else:
            value = soft_cross_entropy(logits, targets[batch["grades"]], where=real)
        return value, {}

    return loss


def student_extras() -> dict[str, Any]:
    """Parameters of the search-relevance task: how a cosine becomes a logit (as in SigLIP, arXiv 2303.15343)."""
    return {"log_scale": jnp.log(jnp.asarray(10.0)), "bias": jnp.asarray(-4.0)}


def clicks_extras(config: StudentConfig) -> dict[str, Any]:
    """Parameters of the clicks task, where it learns any: the logarithm of the inverse temperature."""
    learns = config.learn_temperature and config.tasks.clicks > 0
    return {"log_scale": -jnp.log(jnp.asarray(config.temperature))} if learns else {}


def distill_terms(cosines: jax.Array, teacher: jax.Array, config: DistillLoss) -> dict[str, jax.Array]:
    """The distillation task's terms of weight above 0.

    `cosines` and `teacher` (raw logits; NaN is unknown) are [B, K]: items and their keyphrases.
    """
    where = jnp.isfinite(teacher)
    logits = jnp.where(where, teacher, 0.0)
    probability = jax.nn.sigmoid(logits)
    terms = {
        "pearson": lambda: global_pearson_loss(cosines, probability, where=where),
        "pearson_items": lambda: pearson_loss(cosines, probability, where=where),
        "mse": lambda: mse(cosines, probability, where=where),
        "margin_mse": lambda: margin_mse(config.scale * cosines, logits, where=where),
        "hybrid": lambda: mse_margin_hybrid(
            config.scale * cosines, logits, margin_weight=config.hybrid_margin_weight, where=where
        ),
        "cosent": lambda: cosent_loss(cosines, probability, scale=config.scale, where=where),
        "ranknet": lambda: ranknet(config.scale * cosines, logits, where=where),
        "kl": lambda: kl_divergence(config.scale * cosines, logits, temperature=config.kl_temperature, where=where),
    }
    return {name: term() for name, term in terms.items() if getattr(config, name) > 0}


def pair_cosines(items: jax.Array, keyphrases: jax.Array, candidates: jax.Array) -> jax.Array:
    """[B, D], [U, D] and indices [B, K] into U → cosines [B, K]; where an index is negative they mean nothing.

    For some items at a time, so that no [B, K, D] is held.
    """

    def cosines(rows: tuple[jax.Array, jax.Array], _: None) -> jax.Array:
        items, candidates = rows
        # As in the clicks task: a TF32 or bfloat16 product times `scale` would show in the loss.
        chosen = keyphrases[jnp.maximum(candidates, 0)]
        return jnp.einsum("bd,bkd->bk", items, chosen, precision=jax.lax.Precision.HIGHEST)

    return map_rows(cosines, (items, candidates), rows_at_once(candidates.shape[1] * items.shape[1]))


def make_student_loss(embed: ApplyFn, config: StudentConfig) -> LossFn:
    """Weighted sum of the enabled tasks, each at every Matryoshka prefix, over one encoding of the batch.

    The batch is `distill.data.item_batches.ItemBatch` as a dict, its texts as `rows`: B items, U distinct keyphrases, K
    pairs an item.
    Clicks: each clicked keyphrase against those drawn by other items' clicks, wherever in the batch (and so on whatever
    device) they are, and against hard negatives; an item's other clicked keyphrases are masked. `symmetric` adds the
    items of the batch as each keyphrase's negatives; `learn_temperature` reads `clicks_extras` at `params["clicks"]`. A
    batch may hold `ignored` [B, I], `target_log_q` [T] and `positive_weights` [B, P]: those of `in_batch_info_nce`.
    Search relevance: cross-entropy of the engine's verdict. Distillation: `distill_terms`.
    """
    tasks = config.tasks

    def loss(params: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        slots = batch["item_slots"], batch["keyphrase_slots"]
        items, keyphrases = embed(params, batch["rows"], slots, key if config.dropout else None)
        scalars: dict[str, jax.Array] = {}
        temperature = config.temperature
        if config.learn_temperature and tasks.clicks > 0:
            temperature = scalars["clicks/temperature"] = learnt_temperature(params["clicks"]["log_scale"])

        def at_width(items: jax.Array, keyphrases: jax.Array) -> jax.Array:
            parts: dict[str, jax.Array] = {}
            if tasks.distill > 0 or tasks.search_relevance > 0:
                cosines = pair_cosines(items, keyphrases, batch["candidates"])
            if tasks.clicks > 0:
                targets = batch["targets"]
                parts["clicks"] = in_batch_info_nce(
                    items,
                    keyphrases[jnp.maximum(targets, 0)],
                    positives=batch["positives"],
                    where=targets >= 0,
                    temperature=temperature,
                    anchor_where=batch["item_slots"] >= 0,
                    ignored=batch.get("ignored"),
                    weights=batch.get("positive_weights"),
                    log_q=batch.get("target_log_q"),
                    symmetric=config.symmetric,
                )
            if tasks.search_relevance > 0:
                head = params["search_relevance"]
                known = jnp.isfinite(batch["passed"])
                parts["search_relevance"] = soft_cross_entropy(
                    jnp.exp(head["log_scale"]) * cosines + head["bias"],
                    jnp.where(known, batch["passed"], 0.0),
                    where=known,
                )
            if tasks.distill > 0:
                terms = distill_terms(cosines, batch["teacher"], config.distill)
                parts["distill"] = sum(
                    (getattr(config.distill, name) * value for name, value in terms.items()), jnp.zeros(())
                )
                scalars.update({f"distill/{name}/{items.shape[-1]}": value for name, value in terms.items()})
            scalars.update({f"{name}/{items.shape[-1]}": value for name, value in parts.items()})
            return sum((getattr(tasks, name) * value for name, value in parts.items()), jnp.zeros(()))

        total, _ = matryoshka(at_width, (items, keyphrases), config.widths, config.width_weights)
        return total, scalars

    return loss
