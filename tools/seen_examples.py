"""Which examples a student's training showed it, and how a library that takes one loss a data set would batch them.

An example is a pair and what one signal says of it: a click, the search engine's verdict, the teacher's probability.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import defaultdict
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import scipy.special

from distill.artifacts import ArtifactError, read_manifest
from distill.config import StudentConfig, TaskWeights
from distill.data.item_batches import ItemBatch, ItemBatches
from distill.data.mixing import TaskPlan, plan_tasks, task_shares
from distill.parallel.mesh import batch_shards
from distill.stages.assistant import held_back_items
from distill.stages.base import Context
from distill.stages.student import make_batches, task_parts
from distill.stages.student_signals import task_signals

KINDS = ("clicks", "search_relevance", "distill")  # the fields of TaskWeights
UNSUPPORTED = ("inverse_propensity", "log_q")  # of a student that learns from more than the three signals


class Examples(NamedTuple):
    """Examples of one kind, in the order in which the student saw them; arrays [N]."""

    step: np.ndarray  # int64, of the student
    item: np.ndarray  # int32
    keyphrase: np.ndarray  # int32
    label: np.ndarray  # float32: 1 of a click, 0 or 1 of a verdict, the teacher's probability


class Batches(NamedTuple):
    """What each of T steps trains on: of kind k in step t the examples offsets[3 t + k] : offsets[3 t + k + 1]."""

    item: np.ndarray  # int32 [N]
    keyphrase: np.ndarray  # int32 [N]
    label: np.ndarray  # float32 [N]
    offsets: np.ndarray  # int64 [3 T + 1]

    def steps_of(self, kind: str) -> int:
        """How many steps hold an example of the kind."""
        return int((np.diff(self.offsets)[KINDS.index(kind) :: len(KINDS)] > 0).sum())


@dataclasses.dataclass(frozen=True)
class StudentPlan:
    """The batches of a student's training, as its stage draws them."""

    settings: StudentConfig  # less the tasks whose table is missing
    held_back: np.ndarray  # items kept for validation
    plan: TaskPlan
    parts: Mapping[str, tuple[TaskWeights, ItemBatches]]

    @property
    def steps(self) -> int:
        return len(self.plan.task)


def student_plan(context: Context) -> StudentPlan:
    """Draws again what the finished stage `student` of the context trained on.

    Raises:
      ArtifactError: this code, or this number of devices, draws other batches than that run did.
      ValueError: the student learnt from what no loss of the comparison can take.
    """
    experiment, prepared = context.experiment, context.prepared
    settings = experiment.student
    used = [name for name in UNSUPPORTED if getattr(settings, name)]
    used += ["hard_negatives.per_item"] if settings.hard_negatives.per_item else []
    if used:
        raise ValueError(
            f"config.student.{used[0]}: sentence-transformers' side cannot learn from it; name another arm"
        )
    held_back = held_back_items(context)
    settings, signals = task_signals(context, settings, "student")
    training_items = int((~prepared.item_is_holdout).sum()) - len(held_back)
    steps = max(1, round(settings.epochs * training_items / settings.batch_items))
    parts = task_parts(settings, signals)
    sizes = {part: sum(len(table[0]) for table in own.values() if table) for part, (_, own) in parts.items()}
    plan = plan_tasks(task_shares(settings, sizes), steps, experiment.seed)
    shards = batch_shards(context.mesh)
    data = {
        part: (tasks, make_batches(context, settings, tasks, own, held_back, shards, 0, plan.turns[part]))
        for part, (tasks, own) in parts.items()
    }
    found = StudentPlan(settings, held_back, plan, data)
    _require_same(context, found)
    return found


def _require_same(context: Context, plan: StudentPlan) -> None:
    """The stage's own record of its batches, to the last digit of how full some of them were."""
    folder = context.folder("student")
    manifest = read_manifest(folder)
    if manifest is None:
        raise ArtifactError(f"{folder}: that student is not finished; run `python -m launch.ablate` first")
    own = [data for _, data in plan.parts.values()]
    for name, drawn in {
        "steps": plan.steps,
        "pairs": sum(data.pairs for data in own),
        "items": max(data.items for data in own),
        "real_token_share": min(data.real_token_share for data in own),
    }.items():
        if manifest["counts"][name] != drawn:
            raise ArtifactError(
                f"{folder}: its student had {name} {manifest['counts'][name]}, but its batches as drawn here have "
                f"{drawn}; compare with the code and the number of devices that made it, or make it again with --force"
            )


def seen(plan: StudentPlan) -> dict[str, Examples]:
    """Kind → every example that the student saw, as often as it saw it."""
    columns: dict[str, list[tuple[np.ndarray, ...]]] = defaultdict(list)
    for step in range(plan.steps):
        tasks, data = plan.parts[plan.plan.names[plan.plan.task[step]]]
        turn = int(plan.plan.turn[step])
        for kind, columns_of_step in _of_batch(data.build(turn), *data.ids(turn), tasks).items():
            count = len(columns_of_step[0])
            columns[kind].append((np.full(count, step), *columns_of_step))
    return {kind: Examples(*map(np.concatenate, zip(*columns[kind]))) for kind in KINDS if kind in columns}


def _of_batch(
    batch: ItemBatch, items: np.ndarray, phrases: np.ndarray, tasks: TaskWeights
) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Kind → (item, keyphrase, label) of what the batch teaches."""
    found = {}
    if tasks.clicks:
        row, place = np.nonzero(batch.positives >= 0)
        keyphrase = phrases[batch.targets[batch.positives[row, place]]]
        found["clicks"] = items[row], keyphrase, np.ones(len(row), np.float32)
    for kind, values in (("search_relevance", batch.passed), ("distill", scipy.special.expit(batch.teacher))):
        if getattr(tasks, kind):
            row, place = np.nonzero(np.isfinite(values) & (batch.candidates >= 0))
            found[kind] = items[row], phrases[batch.candidates[row, place]], values[row, place].astype(np.float32)
    return found


def require_trainable(context: Context, plan: StudentPlan, examples: Mapping[str, Examples]) -> None:
    """Raises RuntimeError when an example is of a held-out listing, a validation listing or a human query."""
    for kind, some in examples.items():
        forbidden = {
            "a held-out listing": context.prepared.item_is_holdout[some.item],
            "a listing kept for validation": np.isin(some.item, plan.held_back),
            "a human query or a near-duplicate of one": ~context.prepared.trainable[some.keyphrase],
        }
        for what, which in forbidden.items():
            if which.any():
                raise RuntimeError(f"{kind}: {int(which.sum())} examples are of {what}; this is a defect, report it")


def proportional(examples: Mapping[str, Examples], steps: int, seed: int) -> Batches:
    """One batch of one kind a step, each kind's share of the steps that of its examples, in random order.

    Every example is in exactly one batch. Kinds are cut into batches of equal size in the student's order; no
    batch of clicks holds an item or a keyphrase twice (what would stand there twice waits for a later batch), and
    where that takes more batches, the other kinds' are fewer and larger.

    Raises ValueError when clicks repeat so often that they need all the steps, or there are fewer steps than kinds.
    """
    sizes = {kind: len(some.item) for kind, some in examples.items()}
    total = sum(sizes.values())
    if steps < len(sizes):
        raise ValueError(f"{steps} steps cannot train {len(sizes)} data sets one at a time; raise student.epochs")
    assigned: dict[str, np.ndarray] = {}  # kind → which of its batches each example is in
    counts: dict[str, int] = {}
    others = [kind for kind in KINDS if kind in examples and kind != "clicks"]
    if "clicks" in examples:
        wanted = min(max(1, round(steps * sizes["clicks"] / total)), steps - len(others))
        assigned["clicks"], counts["clicks"] = _click_batches(examples["clicks"], wanted, steps - len(others))
    left = steps - counts.get("clicks", 0)
    for kind, count in zip(others, _apportion([sizes[kind] for kind in others], left)):
        counts[kind] = count
        assigned[kind] = np.arange(sizes[kind]) * count // sizes[kind]
    turns = np.repeat(np.arange(len(counts)), list(counts.values()))
    order = np.random.default_rng((seed, 7)).permutation(turns)
    steps_of = {kind: np.flatnonzero(order == number) for number, kind in enumerate(counts)}
    return _gathered(examples, {kind: steps_of[kind][batch] for kind, batch in assigned.items()}, steps)


def joint(examples: Mapping[str, Examples], steps: int) -> tuple[Batches, int]:
    """Every step holds what the student's step held, and how many clicks could not be placed.

    A click whose item or keyphrase the step's clicks already hold waits for the first later step without it; what is
    left at the end goes to the last earlier one.
    """
    placed = {kind: some.step for kind, some in examples.items()}
    if "clicks" in examples:
        placed["clicks"] = _first_fit(examples["clicks"], examples["clicks"].step, steps)
    left_out = sum(int((step < 0).sum()) for step in placed.values())
    return _gathered(examples, placed, steps), left_out


def _click_batches(clicks: Examples, wanted: int, most: int) -> tuple[np.ndarray, int]:
    """(the batch of each example, their number): `wanted` batches, or up to `most` where repetitions need more."""
    count, size = most + 1, -(-len(clicks.item) // wanted)
    while count > most:
        batch = _first_fit(clicks, np.zeros(len(clicks.item), np.int64), len(clicks.item), size)
        count = int(batch.max()) + 1
        if count > most and size >= len(clicks.item):
            raise ValueError(
                f"clicks: {len(clicks.item):,} examples need {count:,} batches to repeat no listing and no keyphrase "
                f"in one, and {most:,} steps are theirs at most; raise student.epochs, or use --mix=joint"
            )
        size += max(1, size // 8)
    while count < wanted:  # halves of the largest
        largest = np.flatnonzero(batch == np.bincount(batch).argmax())
        batch[largest[len(largest) // 2 :]] = count
        count += 1
    return batch, count


def _first_fit(clicks: Examples, earliest: np.ndarray, batches: int, size: int | None = None) -> np.ndarray:
    """Each example's batch, int64 [N]: the first from `earliest` on with room and neither its item nor its keyphrase.

    Where there is none, the last one before `earliest`; −1 where there is none either. This is how the library's
    sampler without duplicates fills batches, one after another.
    """
    filled, first_open = np.zeros(batches, np.int64), 0
    holds: dict[tuple[str, int], set[int]] = defaultdict(set)
    placed = np.full(len(clicks.item), -1, np.int64)
    for example, (item, keyphrase, begin) in enumerate(zip(clicks.item.tolist(), clicks.keyphrase.tolist(), earliest)):
        taken = holds["item", item], holds["keyphrase", keyphrase]
        begin = max(int(begin), first_open)
        for batch in itertools.chain(range(begin, batches), range(min(begin, batches) - 1, -1, -1)):
            if batch in taken[0] or batch in taken[1] or (size and filled[batch] >= size):
                continue
            placed[example] = batch
            filled[batch] += 1
            for one in taken:
                one.add(batch)
            break
        while size and first_open < batches and filled[first_open] >= size:
            first_open += 1
    return placed


def _apportion(sizes: list[int], total: int) -> list[int]:
    """Whole numbers from 1 on that add up to `total`, as near to proportional as largest remainders make them."""
    if not sizes:
        return []
    spare = total - len(sizes)
    exact = np.array(sizes) / sum(sizes) * total - 1
    exact = np.maximum(exact, 0) * (spare / max(np.maximum(exact, 0).sum(), 1e-12))
    whole = np.floor(exact + 1e-9).astype(int)
    for kind in np.argsort(whole - exact, kind="stable")[: spare - whole.sum()]:
        whole[kind] += 1
    return (whole + 1).tolist()


def _gathered(examples: Mapping[str, Examples], step: Mapping[str, np.ndarray], steps: int) -> Batches:
    """The examples sorted by step, then kind; those of step −1 are left out."""
    kinds = [kind for kind in KINDS if kind in examples]
    place = np.concatenate([step[kind] * len(KINDS) + KINDS.index(kind) for kind in kinds])
    kept = np.concatenate([step[kind] >= 0 for kind in kinds])
    order = np.argsort(place, kind="stable")
    order = order[kept[order]]
    item, keyphrase, label = (
        np.concatenate([getattr(examples[kind], name) for kind in kinds])[order] for name in Examples._fields[1:]
    )
    offsets = np.concatenate([[0], np.cumsum(np.bincount(place[order], minlength=len(KINDS) * steps))])
    return Batches(item, keyphrase, label, offsets.astype(np.int64))
