"""The student's hard negatives: mined by the parameters reached so far, read by a veto, kept in a table of their own.

`negatives/step-N.parquet` in the student's folder holds those of the steps from N on, with rank, cosines, the veto's
opinion and their fate. A restart reads what was mined, so it ends in the same student.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from distill.artifacts import read_json
from distill.config import HardNegatives
from distill.stages.assistant import CALIBRATION
from distill.stages.base import Context, write_table
from distill.stages.judge import judged
from distill.stages.score import scored

FOLDER = "negatives"
POOL = 4  # candidates an item has for each negative that a batch draws: several passes see different ones
Pairs = tuple[Any, Any]  # item and keyphrase indices, [N] each


def mining_steps(settings: HardNegatives, steps: int) -> list[int]:
    """The steps ahead of which negatives are mined, from 0 on; without negatives just [0]."""
    turns = 1 + (settings.refreshes if settings.per_item else 0)
    return sorted({round(steps * turn / turns) for turn in range(turns)})


def hard_negatives(
    context: Context, folder: Path, step: int, spec: Any, params: Any, positives: Pairs
) -> tuple[Pairs, Pairs]:
    """(negatives, pairs known to be right) of the steps from `step` on; mined with `params`, unless that was done."""
    import numpy as np
    import pyarrow.parquet as pq

    path = folder / FOLDER / f"step-{step:08d}.parquet"
    opinions = _Opinions(context)
    if not context.processes.on_first(path.exists):
        _mine(context, path, spec, params, positives, opinions)
    rows = context.prepared.pairs(pq.read_table(path, columns=["item_id", "keyphrase", "fate"]))
    kept, vetoed = (rows["fate"] == fate for fate in ("kept", "vetoed"))
    right = (np.concatenate([known, rows[name][vetoed]]) for known, name in zip(opinions.right, ("item", "keyphrase")))
    return (rows["item"][kept], rows["keyphrase"][kept]), tuple(right)  # type: ignore[return-value]


def _mine(context: Context, path: Path, spec: Any, params: Any, positives: Pairs, opinions: _Opinions) -> None:
    import numpy as np
    import pyarrow as pa

    from distill.retrieval.encoding import embed_texts

    prepared, settings = context.prepared, context.experiment.student.hard_negatives
    items, allowed = np.unique(positives[0]), np.flatnonzero(prepared.trainable)
    embed = functools.partial(
        embed_texts, spec, params, row_tokens=context.experiment.encoder.row_tokens, mesh=context.mesh
    )
    vectors = embed(context.item_tokens.take(items)), embed(context.keyphrase_tokens.take(allowed))
    found = path.with_suffix(".candidates.parquet")
    # A ScaNN tree is not the same to the bit on every host, so one searches for all.
    context.processes.on_first(lambda: _search(context, found, items, allowed, vectors, positives))
    columns = {name: column.to_numpy() for name, column in _read(found).items()}
    relevance = opinions.of(columns["item"], columns["keyphrase"])
    context.processes.gather(None)  # all have read `found`, which goes
    vetoed = np.nan_to_num(relevance, nan=-1.0) >= settings.veto_from

    def publish() -> None:
        pairs = prepared.pair_columns(columns.pop("item"), columns.pop("keyphrase"))
        unknown = np.isnan(relevance)
        table = {**pairs, **columns, "relevance": pa.array(relevance.astype(np.float32), mask=unknown)}
        write_table(path, pa.table({**table, "fate": np.where(vetoed, "vetoed", "kept")}))
        found.unlink()
        context.reporter.line(
            f"student: {int((~vetoed).sum()):,} hard negatives of {len(np.unique(positives[0])):,} items, "
            f"{int(vetoed.sum()):,} more vetoed by {settings.veto}"
        )

    context.processes.on_first(publish)


def _search(context: Context, path: Path, items: Any, allowed: Any, vectors: tuple[Any, Any], positives: Pairs) -> None:
    """Writes the candidates as index pairs."""
    import numpy as np
    import pyarrow as pa

    from distill.retrieval import exact
    from distill.retrieval.negatives import mine_negatives
    from distill.retrieval.scann_index import build_index

    experiment = context.experiment
    settings, index = experiment.student.hard_negatives, experiment.index
    if len(allowed) < index.brute_force_below:
        search = functools.partial(_exact, exact.top_k, vectors[1])
    else:
        sample = np.random.default_rng((experiment.seed, 3)).permutation(len(items))[:1000]
        search = build_index(
            vectors[1],
            brute_force_below=index.brute_force_below,
            target_recall=index.target_recall,
            sample_queries=vectors[0][sample],
            seed=experiment.seed,
        ).search
    trainable = np.isin(positives[1], allowed)
    mined = mine_negatives(
        *vectors,
        search,
        positives=(
            np.searchsorted(items, positives[0][trainable]),
            np.searchsorted(allowed, positives[1][trainable]),
        ),
        per_item=POOL * settings.per_item,
        first_rank=settings.first_rank,
        last_rank=settings.last_rank,
        margin=settings.margin,
        seed=experiment.seed,
    )
    columns = mined._asdict() | {"item": items[mined.item], "keyphrase": allowed[mined.keyphrase]}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_table(path, pa.table(columns))


def _exact(top_k: Any, corpus: Any, queries: Any, k: int) -> tuple[Any, Any]:
    return top_k(queries, corpus, k)


def _read(path: Path) -> Any:
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    return dict(zip(table.column_names, table.columns))


class _Opinions:
    """How likely pairs are relevant: by the calibrated assistant, by the judge's grades, or in nobody's opinion."""

    def __init__(self, context: Context):
        import numpy as np

        from distill.data.pair_pool import pair_keys
        from distill.judge.calibration import Calibration

        self._context, self._settings = context, context.experiment.student.hard_negatives
        known = {"item": np.zeros(0, np.int32), "keyphrase": np.zeros(0, np.int32)}
        value = np.zeros(0)
        if self._settings.veto == "assistant":
            saved = read_json(context.folder("assistant") / CALIBRATION)
            self._calibration = Calibration.from_dict(saved["calibration"])
            known = scored(context)
            value = self._calibration.probability(known["logit"])
        elif self._settings.veto == "judge":
            graded = judged(context)
            known = {name: column[~graded["holdout"]] for name, column in graded.items()}
            value = (known["grade"] >= context.experiment.recommend.relevant_grade).astype(np.float64)
        keys = pair_keys(known["item"], known["keyphrase"], len(context.prepared.keyphrases))
        order = np.argsort(keys)
        self._keys, self._values = keys[order], value[order]
        right = value >= self._settings.veto_from
        self.right: Pairs = known["item"][right], known["keyphrase"][right]

    def of(self, item: Any, keyphrase: Any) -> Any:
        """Probabilities float64 [N], NaN unknown; the assistant reads the pairs that it has not read yet."""
        import numpy as np

        from distill.data.pair_pool import pair_keys

        keys = pair_keys(item, keyphrase, len(self._context.prepared.keyphrases))
        values = np.full(len(keys), np.nan)
        if len(self._keys):
            at = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
            values = np.where(self._keys[at] == keys, self._values[at], np.nan)
        unread = np.flatnonzero(np.isnan(values))
        if self._settings.veto == "assistant" and len(unread):
            logits = self._context.pair_scorer()(keyphrase[unread], item[unread])
            values[unread] = self._calibration.probability(logits)
        return values
