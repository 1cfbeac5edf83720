"""Asking a language model about the chosen pairs, through the judgement store.

On several hosts each has the model on its own devices, asks about its share of the listings and writes its own file of
the store; the first says before what is known, and reads all files when all are done.
"""

from __future__ import annotations

import itertools
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.config import ConfigError
from distill.stages.base import Context, Stage, write_table
from distill.stages.judge_backends import LANGUAGE_MODELS, language_model, rubric_of, secrets, store_folder
from distill.stages.judge_pairs import choose_pairs, chosen, earlier_judgements

if TYPE_CHECKING:
    import numpy as np

    from distill.judge.asking import Estimate, TokenCounter
    from distill.judge.backends import Judge, Judgement, Request
    from distill.judge.records import Record
    from distill.judge.rubric import Rubric

UNKNOWN = "unknown.parquet"  # of the chosen pairs, whether they had no answer when several processes began
ANSWERS = "answers.parquet"  # all that the judge said under this rubric: raw answers, tokens, cost
_CHUNK = 100_000  # pairs in memory as Python objects
_BATCH_CHUNK = 5_000_000  # a batch service is asked for so many at once: what comes after waits for their answers
_ENOUGH, _LEAST_SHARE = 200, 0.05  # of the answers that tell whether a judge keeps to the rubric, and of grades in them
Columns = dict[str, Any]


def ask_pairs(context: Context, folder: Path) -> list[Record]:
    """Asks what is not known and returns what is then known of each chosen pair; nothing on other processes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from distill.judge.asking import ask
    from distill.judge.store import JudgementStore

    settings, processes, store_at = context.experiment.judge, context.processes, store_folder(context, folder)
    rubric = rubric_of(context)
    judge = language_model(context, folder, rubric)
    _check_other_judge(context, judge.name, rubric)

    shared_out = not processes.alone

    def choose() -> None:
        choose_pairs(context, folder, _known(context, store_at, judge, rubric.hash))
        if shared_out:  # once all write, none can read another's file
            records = _records(context, folder, judge.name, rubric)
            unknown = [record is None or record.status == "failed" for record in records]
            write_table(folder / UNKNOWN, pa.table({"unknown": unknown}))

    processes.on_first(choose)
    mine = chosen(context, folder)
    _tell_cuts(context, rubric, mine)
    if shared_out:
        unknown = pq.read_table(folder / UNKNOWN)["unknown"].to_numpy()
        share = unknown & (mine["item"] % processes.count == processes.index)
        mine = {name: column[share] for name, column in mine.items()}
    total = len(mine["item"])
    with (
        JudgementStore(store_at, processes.index, secrets(context), alone=shared_out) as store,
        context.reporter.progress("judge", total) as advance,
    ):
        summary = ask(
            store,
            _Watched(judge),
            rubric,
            requests(context, mine),
            # Our own model gives the same answer every time.
            attempts=1 if settings.backend == "jax" else settings.attempts,
            total=total,
            advance=advance,
            chunk=_BATCH_CHUNK if settings.backend == "batch" else _CHUNK,
        )
    figures = (summary.done - summary.known, summary.prompt_tokens + summary.completion_tokens, summary.cost)
    pairs, tokens, cost = (sum(column) for column in zip(*processes.gather(list(figures))))
    if not processes.first:
        return []
    found = [record for record in _records(context, folder, judge.name, rubric) if record is not None]
    statuses = ", ".join(f"{number:,} {status}" for status, number in Counter(r.status for r in found).most_common())
    context.reporter.line(
        f"judge: {pairs:,} pairs asked of {judge.name}, {len(found) - pairs:,} known already; {tokens:,} tokens, "
        f"cost {cost:,.2f}; all in all {statuses}"
    )
    with JudgementStore(store_at, None) as store:
        store.export(folder / ANSWERS, judge.name, rubric.hash)
    return found


def dry_run(context: Context, stage: Stage) -> Estimate:
    """What the stage would ask for: pairs, tokens and cost. Asks nothing and leaves nothing behind."""
    folder = context.folder("judge")
    require_language_model(context)
    context.stage_folder(stage)  # says what to run first, where that is not done
    rubric = rubric_of(context)
    judge = language_model(context, folder, rubric, asking=False)
    _check_other_judge(context, judge.name, rubric)
    there = store_folder(context, folder)
    with tempfile.TemporaryDirectory() as directory:
        choose_pairs(context, Path(directory), _known(context, there, judge, rubric.hash))
        pairs = chosen(context, Path(directory))
        _tell_cuts(context, rubric, pairs)
    return expected(context, judge, rubric, pairs)


def require_language_model(context: Context) -> None:
    """Raises ValueError where the configured judge answers for nothing."""
    backend = context.experiment.judge.backend
    if backend not in LANGUAGE_MODELS:
        raise ValueError(f"--dry_run: judge.backend={backend!r} asks nobody and costs nothing")


def expected(context: Context, judge: TokenCounter, rubric: Rubric, pairs: dict[str, np.ndarray]) -> Estimate:
    """What asking about `pairs` (item, keyphrase, repeat [N]) would take beyond what the store knows."""
    from distill.judge.asking import estimate
    from distill.judge.store import JudgementStore

    settings, there = context.experiment.judge, store_folder(context, context.folder("judge"))
    with (
        tempfile.TemporaryDirectory() as nothing,
        JudgementStore(there if there.exists() else Path(nothing), process=None) as store,
    ):
        return estimate(
            store,
            judge,
            rubric,
            requests(context, pairs),
            attempts=settings.attempts,
            prompt_price=settings.endpoint.prompt_price,
            completion_price=settings.endpoint.completion_price,
        )


def requests(context: Context, pairs: dict[str, np.ndarray]) -> Iterator[Request]:
    for start in range(0, len(pairs["item"]), _CHUNK):
        rows = slice(start, start + _CHUNK)
        parts = (pairs[name][rows].tolist() for name in ("item", "keyphrase", "repeat"))
        for item, keyphrase, repeat in zip(*parts):
            yield _request(context, item, keyphrase, repeat)


class _Watched:
    """A judge that is stopped early where hardly any of its answers is a grade: it would cost as much to the end."""

    def __init__(self, judge: Judge):
        self._judge, self.name = judge, judge.name
        self._answers = self._grades = 0

    def judge(self, requests: Iterable[Request]) -> Iterator[Judgement]:
        for judgement in self._judge.judge(requests):
            yield judgement
            self._answers += judgement.status != "failed"
            self._grades += judgement.status == "graded"
            if self._answers == _ENOUGH and self._grades < _LEAST_SHARE * _ENOUGH:
                raise ValueError(
                    f"{self.name}: only {self._grades} of its first {_ENOUGH} answers are grades; the last one is "
                    f"{judgement.answer[:200]!r}. A model that starts its answers otherwise than the rubric asks needs "
                    "another rubric, judge.endpoint.answer=json, or a smaller least_mass; answers so far are kept"
                )


def _records(context: Context, folder: Path, judge: str, rubric: Rubric) -> list[Record | None]:
    """What the store knows of each chosen pair."""
    from distill.judge.records import key_of
    from distill.judge.store import JudgementStore

    there = store_folder(context, folder)
    found: list[Record | None] = []
    with JudgementStore(there, None) as store:
        remaining = requests(context, chosen(context, folder))
        while chunk := list(itertools.islice(remaining, _CHUNK)):
            keys = [key_of(request) for request in chunk]
            records = store.lookup(rubric.hash, judge, keys)
            found += [records.get(key) for key in keys]
    return found


def _known(context: Context, store_at: Path, judge: Any, rubric_hash: str) -> tuple[Any, Any] | None:
    """(item, keyphrase) of this run's pairs that this judge has graded before, or is being asked about."""
    import numpy as np

    from distill.data.text import normalise_keyphrase
    from distill.judge.prompt import listing_hash
    from distill.judge.store import JudgementStore

    prepared = context.prepared
    paid: list[tuple[str, str]] = judge.under_way() if hasattr(judge, "under_way") else []
    if store_at.exists():
        with JudgementStore(store_at, None) as store:
            paid += [
                (record.listing, record.keyphrase)
                for record in store.records(judge.name, rubric_hash)
                if record.status == "graded" and record.repeat == 0
            ]
    if not paid:
        return None
    listings: dict[str, list[int]] = {}
    for item in range(len(prepared.item_ids)):
        listings.setdefault(listing_hash(_request(context, item, 0, 0)), []).append(item)
    keyphrases = {normalise_keyphrase(text): row for row, text in enumerate(prepared.keyphrases)}
    pairs = [
        (item, keyphrases[keyphrase])
        for listing, keyphrase in dict.fromkeys(paid)
        if keyphrase in keyphrases
        for item in listings.get(listing, ())
    ]
    item, keyphrase = np.array(pairs, np.int64).reshape(-1, 2).T
    return item, keyphrase


def _check_other_judge(context: Context, judge: str, rubric: Rubric) -> None:
    """An active round by the same judge would buy the same answers again."""
    import numpy as np

    directory = context.experiment.judge.active.run
    if not directory:
        return
    earlier = earlier_judgements(context, directory)
    if np.any((earlier["judge"] == judge) & (earlier["rubric"] == rubric.name)):
        raise ConfigError(
            f"config.judge.active.run={directory!r}: its pairs were graded by {judge} under {rubric.name} already, "
            "which would say the same again; ask another model, or by another rubric"
        )


def _tell_cuts(context: Context, rubric: Rubric, pairs: dict[str, np.ndarray]) -> None:
    """Says how many texts are too long for the prompt, by field."""
    import numpy as np

    from distill.judge.prompt import choice_prompt

    items, first = np.unique(pairs["item"], return_index=True)
    phrases, at = np.unique(pairs["keyphrase"], return_index=True)
    cut = Counter[str]()
    for rows, is_phrase in ((first, False), (at, True)):
        for row in rows.tolist():
            request = _request(context, int(pairs["item"][row]), int(pairs["keyphrase"][row]), 0)
            fields = choice_prompt(rubric, request).cut
            cut.update(field for field in fields if (field == "keyphrase") == is_phrase)
    if cut and context.processes.first:
        parts = ", ".join(f"{number:,} of {field}" for field, number in cut.items())
        context.reporter.line(
            f"judge: texts cut or left out of the prompt because they are too long or too many: {parts} "
            f"(of {len(items):,} listings and {len(phrases):,} keyphrases)"
        )


def _request(context: Context, item: int, keyphrase: int, repeat: int) -> Request:
    from distill.judge.backends import Request

    prepared = context.prepared
    return Request(
        item,
        keyphrase,
        prepared.titles[item],
        tuple(prepared.categories[item]),
        prepared.attributes[item],
        prepared.keyphrases[keyphrase],
        repeat,
    )
