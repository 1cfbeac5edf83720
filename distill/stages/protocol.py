"""The evaluation protocol over this run's models and the sources that recommend already (`evaluate --protocol`)."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from distill.artifacts import write_json
from distill.config import ConfigError
from distill.stages.base import Context, draw_held_out
from distill.stages.judge_asking import require_language_model
from distill.stages.protocol_sources import pool_of, searched

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from distill.evaluate.metric_table import MetricTable
    from distill.evaluate.protocol import Pool
    from distill.judge.asking import Estimate
    from distill.stages.protocol_judges import Verdicts

PROTOCOL = "protocol.json"
EXAMPLES = 3  # listings on which one of two sources gains most, and as many on which it loses most
_SAMPLE = 5  # stream of random numbers: which listings
_ENDS = {"low": "ci_low", "high": "ci_high", "p": "p"}


@dataclasses.dataclass(frozen=True)
class _Sifted:
    """The candidates of all sources, and what does not depend on a judge."""

    items: np.ndarray  # int [I], the listings' rows of the items table
    pool: Pool  # of N candidates
    search: np.ndarray  # float [N]: 1, 0, NaN unknown
    head: np.ndarray | None  # bool [K]; None where no search volume is known
    volume_known: np.ndarray  # bool [K]
    slices: dict[str, list[str]]  # dimension → slice of each listing
    pairs: list[tuple[str, str]]  # sources that are compared, those side by side last

    def good(self, relevant: np.ndarray) -> np.ndarray:
        """bool [N]: new, not known to be rejected by the search engine, and relevant."""
        return self.pool.new & (self.search != 0) & (relevant == 1)


def run_protocol(context: Context, folder: Path, table: MetricTable, models: dict[str, Any]) -> dict[str, Any]:
    """Writes `protocol.json`, adds `protocol/…` and `diff/protocol/…` to `table`, and returns what it wrote.

    Raises ConfigError for a source that this run does not have.
    """
    from distill.evaluate import protocol as figures
    from distill.judge.agreement import json_figures

    settings, items = context.experiment.evaluate.protocol, _listings(context)
    if not len(items):
        context.reporter.line("evaluate: no held-out listing, so the protocol is left out")
        return {}
    sifted = _sift(context, models, items)
    pool = sifted.pool
    for source in pool.sources:
        figures.add_protocol(table, source, figures.searched_values(pool, source, sifted.search), items)
    judges, judged = {}, {}
    for judge in settings.judges:
        said = _verdicts(context, judge, sifted, models["assistant"])
        judged[said.label] = said.relevant
        judges[said.label] = _by_judge(context, table, sifted, said)
    result = {
        "listings": len(items),
        "keyphrases_per_source": settings.keyphrases,
        "sources": {source: _source_counts(sifted, source) for source in pool.sources},
        "head": None if sifted.head is None else _head(context, sifted.head),
        "few_clicks": settings.few_clicks,
        "judges": judges,
        "examples": _examples(context, sifted, judged),
    }
    _add_figures(result, table.as_dict())
    for label, part in judges.items():
        _tell(context, label, part)
    result = json_figures(result)
    write_json(folder / PROTOCOL, result)
    return result


def protocol_dry_run(context: Context, models: dict[str, Any]) -> Estimate:
    """What the protocol would ask its judge, a language model: pairs, tokens and cost. Asks and writes nothing.

    Raises ValueError where no language model is asked.
    """
    from distill.stages.protocol_judges import cost_of_verdicts

    require_language_model(context)
    if "judge" not in (judges := context.experiment.evaluate.protocol.judges):
        raise ValueError(f"--dry_run: evaluate.protocol.judges={judges} asks nobody and costs nothing")
    item, keyphrase, _ = _distinct(context, _sift(context, models, _listings(context)))
    return cost_of_verdicts(context, item, keyphrase)


def _listings(context: Context) -> np.ndarray:
    """The held-out listings that the protocol draws: rows of the items table, int [I]."""
    return draw_held_out(context, context.experiment.evaluate.protocol.items, _SAMPLE)


def _sift(context: Context, models: dict[str, Any], items: np.ndarray) -> _Sifted:
    import numpy as np

    from distill.retrieval.mixing import HEAD, head_or_tail

    pool = pool_of(context, models, items)
    volume, share = context.prepared.search_volume, context.experiment.evaluate.protocol.head_share
    known = np.isfinite(volume)
    return _Sifted(
        items=items,
        pool=pool,
        search=searched(context, items[pool.listing], pool.keyphrase),
        head=head_or_tail(volume, share) == HEAD if known.any() else None,
        volume_known=known,
        slices=_slices(context, items),
        pairs=_pairs(context, pool.sources),
    )


def _verdicts(context: Context, judge: str, sifted: _Sifted, assistant: Any) -> Verdicts:
    """The judge's word on each row of the pool that is new, asked once a pair; the rest stays NaN."""
    import numpy as np

    from distill.stages.protocol_judges import verdicts

    item, keyphrase, row = _distinct(context, sifted)
    said = verdicts(context, judge, item, keyphrase, assistant)
    relevant = np.full(len(sifted.pool.new), np.nan)
    relevant[sifted.pool.new] = said.relevant[row]
    return dataclasses.replace(said, relevant=relevant)


def _distinct(context: Context, sifted: _Sifted) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(item [P], keyphrase [P], row [M]): the pairs of the pool's M new rows, each once, and which is each row's."""
    import numpy as np

    from distill.data.pair_pool import pair_keys

    pool, keyphrases = sifted.pool, len(context.prepared.keyphrases)
    keys = pair_keys(sifted.items[pool.listing], pool.keyphrase, keyphrases)
    distinct, row = np.unique(keys[pool.new], return_inverse=True)
    return *np.divmod(distinct, keyphrases), row


def _by_judge(context: Context, table: MetricTable, sifted: _Sifted, said: Verdicts) -> dict[str, Any]:
    """Adds the figures and differences by one judge; returns who it is and all that is not in the metric table."""
    from distill.evaluate import protocol as figures
    from distill.evaluate.metric_table import add_differences
    from distill.evaluate.protocol_slices import SLICED, side_by_side, slice_figures, volume_slices

    pool, search, relevant = sifted.pool, sifted.search, said.relevant
    counts, sliced = {}, {}
    for source in pool.sources:
        values = figures.judged_values(pool, source, search, relevant, sifted.head, sifted.volume_known)
        figures.add_protocol(table, source, values, sifted.items, said.label)
        counts[source] = figures.add_judged_scalars(table, pool, source, search, relevant, said.label)
        sliced[source] = {name: values[name] for name in SLICED}
    names = [figures.metric_name(name, said.label) for name in figures.COMPARED]
    add_differences(table, sifted.pairs, [name for name in names if table.has(name)])
    drawn, good = (context.experiment.evaluate.bootstrap, context.experiment.seed), sifted.good(relevant)
    slices = {dimension: slice_figures(sliced, names, *drawn) for dimension, names in sifted.slices.items()}
    if sifted.head is not None:
        slices["search volume"] = volume_slices(pool, good, sifted.head, sifted.volume_known, *drawn)
    part = {"name": said.name, "statuses": said.statuses, "counts": counts, "slices": slices, "side_by_side": None}
    if sifted.pairs:
        first, second = sifted.pairs[-1]
        part["side_by_side"] = {"first": first, "second": second, **side_by_side(pool, first, second, good)}
    return part | {"differences": sifted.pairs}


def _slices(context: Context, items: np.ndarray) -> dict[str, list[str]]:
    import numpy as np

    from distill.evaluate.protocol_slices import listing_slices

    prepared = context.prepared
    table, clicks = prepared.holdout("clicks"), None
    if table is not None:
        clicks = np.bincount(table["item"], weights=table["clicks"], minlength=len(prepared.item_ids))[items]
    titles, categories = ([column[item] for item in items] for column in (prepared.titles, prepared.categories))
    return listing_slices(titles, categories, clicks, context.experiment.evaluate.protocol.few_clicks)


def _pairs(context: Context, sources: tuple[str, ...]) -> list[tuple[str, str]]:
    """Which sources are compared: the student with each other one; last the two that are shown side by side."""
    wanted = context.experiment.evaluate.protocol.side_by_side
    for name in wanted:
        if name not in sources:
            raise ConfigError(
                f"config.evaluate.protocol.side_by_side={wanted}: {name!r} is not among the sources "
                f"{', '.join(sources)}"
            )
    base = "student" if "student" in sources else sources[0]
    pairs = [(base, other) for other in sources if other != base]
    two = [(wanted[0], wanted[1])] if wanted else pairs[:1]
    return [pair for pair in pairs if pair not in two] + two


def _source_counts(sifted: _Sifted, source: str) -> dict[str, Any]:
    import numpy as np

    from distill.evaluate.protocol import FATES

    own, search = sifted.pool.of(source), sifted.search
    counts = {name: int((own & (sifted.pool.fate == row)).sum()) for row, name in enumerate(FATES)}
    known = {"passed": search == 1, "rejected": search == 0, "unknown": np.isnan(search)}
    new = own & sifted.pool.new
    return counts | {"search": {name: int((new & mask).sum()) for name, mask in known.items()}}


def _head(context: Context, head: np.ndarray) -> dict[str, Any]:
    import numpy as np

    volume = context.prepared.search_volume
    return {
        "share": context.experiment.evaluate.protocol.head_share,
        "keyphrases": int(head.sum()),
        "with_known_volume": int(np.isfinite(volume).sum()),
        "least_volume": float(volume[head].min()) if head.any() else None,
    }


def _add_figures(result: dict[str, Any], numbers: dict[str, float]) -> None:
    """Puts the figures that the metric table computed beside the counts."""
    from distill.evaluate import protocol as figures

    for source, part in result["sources"].items():
        part["figures"] = figures.figures(numbers, source, figures.SEARCHED)
    for label, part in result["judges"].items():
        names = (*figures.JUDGED, "known_share", "exclusive_keyphrases")
        part["figures"] = {source: figures.figures(numbers, source, names, label) for source in result["sources"]}
        rows = []
        for name in figures.COMPARED:
            for first, second in part["differences"]:
                full = f"diff/{figures.metric_name(name, label)}/{first}-{second}"
                if full in numbers:
                    ends = {end: numbers.get(f"{full}/{field}") for end, field in _ENDS.items()}
                    rows.append({"figure": name, "first": first, "second": second, "value": numbers[full], **ends})
        part["differences"] = rows


def _examples(context: Context, sifted: _Sifted, judged: dict[str, np.ndarray]) -> dict[str, Any]:
    """Listings on which two sources differ most, by the judge that knows most pairs, with every judge's verdicts."""
    import numpy as np

    from distill.evaluate.protocol_slices import telling_listings

    if not sifted.pairs:
        return {}
    prepared, pool, (first, second) = context.prepared, sifted.pool, sifted.pairs[-1]
    judge = max(judged, key=lambda name: int(np.isfinite(judged[name]).sum()))
    shown = pool.new & (pool.of(first) | pool.of(second))
    listings = []
    for at in telling_listings(pool, first, second, sifted.good(judged[judge]), EXAMPLES):
        meanings: dict[int, dict[str, Any]] = {}
        for row in np.flatnonzero((pool.listing == at) & shown).tolist():
            one = meanings.setdefault(
                int(pool.meaning[row]),
                {
                    "keyphrase": prepared.keyphrases[pool.keyphrase[row]],
                    "sources": [],
                    "search": sifted.search[row],
                    "relevant": {name: said[row] for name, said in judged.items()},
                },
            )
            one["sources"].append(pool.sources[pool.source[row]])
        item = sifted.items[at]
        listings.append(
            {
                "item_id": prepared.item_ids[item],
                "title": prepared.titles[item],
                "category": " > ".join(prepared.categories[item]),
                "keyphrases": list(meanings.values()),
            }
        )
    return {"first": first, "second": second, "judge": judge, "listings": listings}


def _tell(context: Context, label: str, part: dict[str, Any]) -> None:
    means = {source: found.get("relevant_per_item") for source, found in part["figures"].items()}
    parts = ", ".join(f"{source} {one['value']:.2f}" for source, one in means.items() if one)
    context.reporter.line(
        f"protocol: relevant keyphrases per listing by {label}, which knows {part['statuses'].get('graded', 0):,} of "
        f"{sum(part['statuses'].values()):,} pairs: {parts}"
    )
