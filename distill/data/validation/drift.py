"""What changed since an earlier snapshot: distributions, items and keyphrases, labels of the same pairs.

Distributions are compared by the population stability index, PSI = Σ (p − q) ln(p/q) over classes (Kullback's
symmetric divergence; in credit scoring 0.1 is read as a moderate and 0.25 as a large shift: Siddiqi, "Credit Risk
Scorecards", 2006). Of samples of n and m from one distribution over B classes, PSI · nm/(n + m) is about χ² with B − 1
degrees of freedom (Yurdakul & Naranjo, "Statistical properties of the population stability index", 2020), so a shift
must also exceed that law's 99.9th percentile: small tables differ by chance.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.stats import chi2

from distill.data.validation import languages
from distill.data.validation.distributions import NONE, OTHERS, Distribution, batches, column
from distill.data.validation.findings import Finding, finding

MODERATE, LARGE = 0.1, 0.25  # PSI
_CHANCE = 0.999
_TURNOVER = 0.5  # share of items or keyphrases that is new or gone, from which it is a warning
_RELABELLED = 0.1  # share of common pairs with another label, from which it is a warning
_JOINED = 2_000_000  # rows of a table that are joined; beyond it a part of the items stands for all

# distribution → the table that it is of
COMPARED = {
    "title words": "items",
    "title language": "items",
    "top category": "items",
    "keyphrase words": "keyphrases",
    "keyphrase language": "keyphrases",
    "search volume": "keyphrases",
    "impressions of a pair": "clicks",
    "CTR of a pair": "clicks",
    "search engine": "search_relevance",
    "grades of training items": "judgements",
    "grades of held-out items": "judgements",
}


def stability_index(now: Distribution, before: Distribution) -> tuple[float, float]:
    """PSI of two distributions, and the value that samples of these sizes exceed by chance once in a thousand times.

    Each class has half a row added, so that one that is empty on one side counts as rare, not as infinitely far.
    """
    labels = [label for label in {**before, **now} if now.get(label, 0) + before.get(label, 0)]
    sizes = sum(now.values()), sum(before.values())
    if len(labels) < 2 or not all(sizes):
        return 0.0, np.inf
    p, q = (np.array([one.get(label, 0) + 0.5 for label in labels]) for one in (now, before))
    p, q = p / p.sum(), q / q.sum()
    noise = float(chi2.ppf(_CHANCE, len(labels) - 1)) * (1 / sizes[0] + 1 / sizes[1])
    return float(((p - q) * np.log(p / q)).sum()), noise


def drift(
    folder: Path, previous: Path, now: Mapping[str, Distribution], before: Mapping[str, Distribution]
) -> list[Finding]:
    """Findings about prepared tables in `folder` against those of an earlier run in `previous`."""
    return [
        *_gone(now, before),
        *_shifts(now, before),
        *_turnover(folder, previous),
        *_relabelled(folder, previous),
    ]


def _gone(now: Mapping[str, Distribution], before: Mapping[str, Distribution]) -> Iterator[Finding]:
    """Tables that had rows and have none now."""
    for table in dict.fromkeys(COMPARED.values()):
        names = [name for name, of in COMPARED.items() if of == table]
        had = max(sum(before.get(name, {}).values()) for name in names)
        if had and not any(name in now for name in names):
            yield finding(
                "drift: a table is gone",
                "warning",
                table,
                had,
                had,
                f"The previous snapshot had {had:,} rows of {table}, this one has none.",
                "Check the export: what learns from this table is left out.",
            )


def _shifts(now: Mapping[str, Distribution], before: Mapping[str, Distribution]) -> Iterator[Finding]:
    for name, table in COMPARED.items():
        if name not in now or name not in before:
            continue
        first, second = _comparable(before[name], now[name]), _comparable(now[name], before[name])
        index, noise = stability_index(second, first)
        if index < max(MODERATE, noise):
            continue
        large = index >= LARGE
        moved = _moved(second, first)
        yield finding(
            f"drift: {name}",
            "warning" if large else "note",
            table,
            sum(now[name].values()),
            sum(now[name].values()),
            f"{name} shifted since the previous snapshot (PSI {index:.2f}; {MODERATE:g} is moderate, {LARGE:g} large).",
            "Find out whether the market or the logging changed; thresholds and calibrations may need renewal.",
            moved,
        )


def _comparable(one: Distribution, other: Distribution) -> Distribution:
    """`one` without what is unknown, and with a count for each class that `other` names.

    Where only the commonest classes have names, it is chance which of many rare ones do: a class that is named on the
    other side alone is taken to be as common as the rarest that has a name here, as far as `OTHERS` has so many.
    """
    out = {label: count for label, count in one.items() if label != languages.UNKNOWN}
    named = [count for label, count in out.items() if label not in (OTHERS, NONE)]
    missing = [label for label in other if label not in out and label not in (OTHERS, NONE, languages.UNKNOWN)]
    if OTHERS in out and named and missing:
        each = min([*named, out[OTHERS] // len(missing)])
        out |= dict.fromkeys(missing, each) | {OTHERS: out[OTHERS] - each * len(missing)}
    return out


def _moved(now: Distribution, before: Distribution) -> list[str]:
    """The classes whose shares changed most, in words."""
    total, earlier = max(1, sum(now.values())), max(1, sum(before.values()))
    shares = {label: (before.get(label, 0) / earlier, now.get(label, 0) / total) for label in {**before, **now}}
    most = sorted(shares, key=lambda label: -abs(shares[label][1] - shares[label][0]))
    return [f"{label}: {shares[label][0]:.1%} → {shares[label][1]:.1%}" for label in most]


def _turnover(folder: Path, previous: Path) -> Iterator[Finding]:
    for table, wanted in (("items", "item_id"), ("keyphrases", "keyphrase")):
        now, before = column(folder, table, wanted), column(previous, table, wanted)
        if now is None or before is None:
            continue
        fresh = now.filter(pc.invert(pc.is_in(now, before)))
        gone = before.filter(pc.invert(pc.is_in(before, now)))
        for what, rows, of in (("new", fresh, len(now)), ("gone", gone, len(before))):
            if len(rows):
                yield finding(
                    f"drift: {what} {table}",
                    "warning" if len(rows) > _TURNOVER * of else "note",
                    table,
                    len(rows),
                    of,
                    f"{what} {table} since the previous snapshot: {len(rows):,} of {of:,}.",
                    "A day's turnover needs nothing; a large one may be a part of the catalogue that was not exported."
                    if what == "gone"
                    else "Embed and index them before recommending; their figures rest on little data yet.",
                    rows.slice(0, 3).to_pylist(),
                )


def _relabelled(folder: Path, previous: Path) -> Iterator[Finding]:
    """Pairs of both snapshots under the same judge and rubric, or search engine, that have another label now."""
    for table, key, label in (
        ("judgements", ["item_id", "keyphrase", "judge", "rubric"], "grade"),
        ("search_relevance", ["item_id", "keyphrase"], "passed"),
    ):
        keep = _part(folder, previous, table)
        now, before = (_labels(place, table, [*key, label], keep) for place in (folder, previous))
        if not len(now) or not len(before):
            continue
        both = now.join(before.rename_columns([*key, "earlier"]), key, join_type="inner")
        changed = both.filter(pc.not_equal(both[label], both["earlier"])).sort_by([(name, "ascending") for name in key])
        if len(changed):
            share = len(changed) / len(both)
            yield finding(
                f"drift: {label} of the same pair",
                "warning" if share > _RELABELLED else "note",
                table,
                len(changed),
                len(both),
                f"{len(changed):,} of {len(both):,} pairs of both snapshots with another {label} than before"
                f"{', looked up for a part of the items' if keep is not None else ''}.",
                "Where judge or engine did not change by intent, look at some: labels that flip are noise to a model.",
                [
                    f"{row['item_id']} | {row['keyphrase']}: {row['earlier']} → {row[label]}"
                    for row in changed.slice(0, 3).to_pylist()
                ],
            )


def _part(folder: Path, previous: Path, table: str) -> pa.Array | None:
    """Item ids that stand for all where the tables are too large to be joined whole; None: they are not."""
    rows = max(sum(len(b["item_id"]) for b in batches(place, table, ["item_id"])) for place in (folder, previous))
    ids = column(folder, "items", "item_id")
    if rows <= _JOINED or ids is None:
        return None
    return ids.combine_chunks().take(pa.array(np.arange(0, len(ids), -(-rows // _JOINED))))


def _labels(folder: Path, table: str, columns: list[str], keep: pa.Array | None) -> pa.Table:
    parts = [pa.table(batch) for batch in batches(folder, table, columns)]
    if keep is not None:
        parts = [part.filter(pc.is_in(part["item_id"], keep)) for part in parts]
    return pa.concat_tables(parts) if parts else pa.table({})
