"""Which pairs the judge is asked about: a stratified choice, or what an earlier run leaves in doubt.

Beside those that teach and evaluate, some pairs are asked only to measure the judge: human-labelled ones, and repeats.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.artifacts import output_hash
from distill.config import ConfigError
from distill.stages.base import FOLDERS, Context, read_tables, write_table
from distill.stages.candidates import dense_candidates, lexical_candidates

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

GRADED = "judgements.parquet"
PAIRS = "pairs.parquet"
_REPEATED = 10  # stream of hashed numbers, apart from those of `distill.judge.selection` and `disagreement`
GRADE, HUMAN, REPEAT = "grade", "human", "repeat"  # what a pair is asked for


def choose_pairs(context: Context, folder: Path, known: tuple[Any, Any] | None = None) -> None:
    """Writes `pairs.parquet` unless an interrupted run did: item_id, keyphrase, purpose, repeat, stratum.

    `known` are the (item, keyphrase) pairs that this judge has graded before; a stratified choice takes them first.
    """
    if (folder / PAIRS).exists():
        return
    import numpy as np

    from distill.data.hashing import uniform
    from distill.judge.selection import STRATA

    settings = context.experiment.judge
    if settings.active.run:
        item, keyphrase, stratum = _doubtful(context)
    else:
        found = _stratified(context, known)
        item, keyphrase, stratum = found.item, found.keyphrase, np.array(STRATA, object)[found.stratum]
        if found.dry:
            parts = ", ".join(f"{name} {found.taken[name]:,} of {found.wanted[name]:,}" for name in found.dry)
            context.reporter.line(f"judge: fewer pairs than their share in the strata {parts}; the others got the rest")
    columns = [(GRADE, item, keyphrase, stratum)]
    if settings.backend in ("openai", "batch", "jax"):
        columns.append((HUMAN, *_human(context), None))
    if settings.backend in ("openai", "batch"):
        drawn = uniform(context.experiment.seed, _REPEATED, item, keyphrase)  # by the pair, not by how many there are
        again = np.argsort(drawn, kind="stable")[: settings.repeats]
        columns.append((REPEAT, item[again], keyphrase[again], stratum[again]))
    write_table(folder / PAIRS, _table(context, columns))


def chosen(context: Context, folder: Path) -> dict[str, np.ndarray]:
    """Columns item, keyphrase (indices), purpose, repeat, stratum of what `choose_pairs` wrote."""
    import pyarrow.parquet as pq

    return context.prepared.pairs(pq.read_table(folder / PAIRS))


def earlier_hashes(context: Context) -> dict[str, str]:
    """Hashes of the earlier runs that an active round reads."""
    active = context.experiment.judge.active
    hashes = {}
    for field, directory, stages in (
        ("run", active.run, ("judge",) if active.against else ("judge", "score")),
        ("against", active.against, ("judge",)),
    ):
        if directory and Path(directory).resolve() == context.workdir.resolve():
            raise ConfigError(f"config.judge.active.{field}={directory!r}: is this run's own working directory")
        for stage in stages if directory else ():
            try:
                hashes[f"active_{field}_{stage}"] = output_hash(
                    Path(directory) / FOLDERS[stage], f"python -m launch.{stage} --workdir={directory}"
                )
            except RuntimeError as error:
                raise ConfigError(f"config.judge.active.{field}={directory!r}: {error}") from None
    return hashes


def earlier_judgements(context: Context, directory: str, tell: bool = False) -> dict[str, np.ndarray]:
    """Judgements of an earlier run that this one may use: item, keyphrase, grade, judge, rubric, raw_score.

    What it may not use is left out; `tell` says how many.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(Path(directory) / FOLDERS["judge"] / GRADED)
    if "raw_score" not in table.column_names:
        table = table.append_column("raw_score", pa.nulls(len(table), pa.float32()))
    pairs = context.prepared.pairs(table.drop_columns(["holdout"]))
    known = (pairs["item"] >= 0) & (pairs["keyphrase"] >= 0)
    # What this run keeps out of training stays out, whatever that run knew of human queries.
    held_out = context.prepared.item_is_holdout[pairs["item"]]
    allowed = known & (held_out | context.prepared.trainable[pairs["keyphrase"]])
    for left_out, why in (
        (~known, "of listings or keyphrases that this run does not have"),
        (known & ~allowed, "on human queries, or near-duplicates of one"),
    ):
        if tell and left_out.any():
            number = f"{int(left_out.sum()):,} of {len(known):,}"
            context.reporter.line(f"judge: {number} judgements in {directory} are {why}; they are left out")
    return {name: column[allowed] for name, column in pairs.items()}


def _stratified(context: Context, known: tuple[Any, Any] | None) -> Any:
    import numpy as np

    from distill.judge.selection import candidate_rows, select_pairs

    prepared, settings, seed = context.prepared, context.experiment.judge, context.experiment.seed
    items = np.arange(len(prepared.item_ids))
    strata = settings.strata
    budget = settings.budget or settings.pairs_per_item * len(items)
    average = budget / len(items)
    shares = sum(value for name, value in vars(strata).items() if not name.endswith("_ranks"))
    needs_dense = strata.dense_near or strata.dense_far or strata.never_shown
    needs_lexical = strata.lexical_near or strata.lexical_far or strata.never_shown
    candidates = candidate_rows(
        items,
        lexical=lexical_candidates(context, items, strata.far_ranks if needs_lexical else 0),
        dense=dense_candidates(context, items, strata.far_ranks if needs_dense else 0),
        shown=_shown(context),
        allowed=prepared.trainable,
        # Some are drawn twice or are near as well, so more than are wanted.
        random_per_item=int(np.ceil(2 * average * strata.random / shares)) if strata.random else 0,
        seed=seed,
    )
    return select_pairs(
        candidates,
        allowed=prepared.trainable,
        holdout=prepared.item_is_holdout,
        strata=strata,
        budget=budget,
        most_per_item=settings.most_per_item or int(np.ceil(3 * average)),
        seed=seed,
        known=known,
    )


def _shown(context: Context) -> tuple[Any, Any, Any] | None:
    """(item, keyphrase, clicked) of the pairs with an impression, held-out items' too; None without a log."""
    import numpy as np

    tables = [t for t in (context.prepared.training("clicks"), context.prepared.holdout("clicks")) if t is not None]
    if not tables:
        return None
    item, keyphrase, shown, clicks = (
        np.concatenate([table[name] for table in tables]) for name in ("item", "keyphrase", "impressions", "clicks")
    )
    seen = (shown > 0) | (clicks > 0)
    return item[seen], keyphrase[seen], clicks[seen] > 0


def _doubtful(context: Context) -> tuple[Any, Any, Any]:
    """(item, keyphrase, stratum) of an active round: where two opinions on the earlier run's pairs differ most."""
    import numpy as np

    from distill.judge.disagreement import select_disagreements

    prepared, settings = context.prepared, context.experiment.judge
    active, row = settings.active, len(prepared.keyphrases)
    first = earlier_judgements(context, active.run, tell=True)
    if active.against:
        second = earlier_judgements(context, active.against)
        opinions = _opinion(second)
    else:
        table = read_tables(Path(active.run) / FOLDERS["score"], "part-*.parquet", ["item_id", "keyphrase", "logit"])
        second = prepared.pairs(table)
        opinions = second["logit"].astype(np.float64)
    first_keys = first["item"].astype(np.int64) * row + first["keyphrase"]
    second_keys = second["item"].astype(np.int64) * row + second["keyphrase"]
    _, at_first, at_second = np.intersect1d(first_keys, second_keys, return_indices=True)
    if not len(at_first):
        raise ConfigError(
            f"config.judge.active.run={active.run!r}: no pair of it has two opinions, so there is none to disagree on"
        )
    budget = settings.budget or settings.pairs_per_item * len(prepared.item_ids)
    average = budget / len(np.unique(first["item"][at_first]))
    found = select_disagreements(
        first["item"][at_first],
        first["keyphrase"][at_first],
        _opinion(first)[at_first],
        opinions[at_second],
        allowed=prepared.trainable,
        budget=budget,
        most_per_item=settings.most_per_item or max(1, int(np.ceil(3 * average))),
        random_share=active.random_share,
        seed=context.experiment.seed,
    )
    return found.item, found.keyphrase, np.where(found.check, "check", "disagreement").astype(object)


def _opinion(judgements: dict[str, Any]) -> Any:
    """The judge's continuous score, or its grade where it has none: float [N]."""
    import numpy as np

    score = judgements["raw_score"].astype(np.float64)
    return np.where(np.isfinite(score), score, judgements["grade"])


def _human(context: Context) -> tuple[Any, Any]:
    """(item, keyphrase) of human-labelled pairs, drawn evenly over valid and test as they are."""
    import numpy as np

    human = context.prepared.human()
    empty = np.zeros(0, np.int32)
    if human is None:
        return empty, empty
    most = context.experiment.judge.agreement_pairs
    drawn = np.sort(np.random.default_rng(context.experiment.seed).permutation(len(human["item"]))[:most])
    return human["item"][drawn], human["keyphrase"][drawn]


def _table(context: Context, columns: list[tuple[str, Any, Any, Any]]) -> pa.Table:
    import numpy as np
    import pyarrow as pa

    item = np.concatenate([c[1] for c in columns])
    keyphrase = np.concatenate([c[2] for c in columns])
    purpose = np.repeat([c[0] for c in columns], [len(c[1]) for c in columns])
    stratum = np.concatenate([np.full(len(c[1]), "", object) if c[3] is None else c[3] for c in columns])
    # An item's pairs together: a judge that shares what it reads of a listing then does so.
    order = np.lexsort((keyphrase, purpose, item))
    return pa.table(
        {
            **context.prepared.pair_columns(item[order], keyphrase[order]),
            "purpose": pa.array(purpose[order].astype(object), pa.string()),
            "repeat": pa.array((purpose[order] == REPEAT).astype(np.int16)),
            "stratum": pa.array(stratum[order], pa.string()),
        }
    )
