"""Which task a step trains, where steps train one task each: a pure function of (seed, step)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from distill.config import StudentConfig


class TaskPlan(NamedTuple):
    """Step t trains `names[task[t]]`, for the `turn[t]`-th time."""

    names: tuple[str, ...]
    task: np.ndarray  # int64 [steps]
    turn: np.ndarray  # int64 [steps], from 0
    turns: dict[str, int]  # of each task in all


def task_shares(config: StudentConfig, pairs: Mapping[str, int]) -> dict[str, float]:
    """Each task's share of the steps, adding up to 1; `pairs` holds the size of every task that has data.

    A task alone has every step. `temperature` is the sampling of multilingual models, p ∝ size^(1/T) (Arivazhagan et
    al., arXiv 1907.05019).
    """
    if len(pairs) == 1:
        return dict.fromkeys(pairs, 1.0)
    if config.mixing == "fixed":
        raw = {name: getattr(config.mixing_shares, name) for name in pairs}
    else:
        power = 1 / config.mixing_temperature if config.mixing == "temperature" else 1.0
        raw = {name: size**power for name, size in pairs.items()}
    return {name: value / sum(raw.values()) for name, value in raw.items()}


def plan_tasks(shares: Mapping[str, float], steps: int, seed: int) -> TaskPlan:
    """Draws the task of each step.

    Raises ValueError when a task gets no step at all.
    """
    names = tuple(shares)
    bounds = np.cumsum(list(shares.values()))
    # One number a step, so that a longer run begins as a shorter one does.
    task = np.searchsorted(bounds[:-1], np.random.default_rng((seed, 6)).random(steps), side="right")
    turn = np.zeros(steps, np.int64)
    turns = {}
    for number, name in enumerate(names):
        mine = task == number
        turns[name] = int(mine.sum())
        turn[mine] = np.arange(turns[name])
        if not turns[name]:
            raise ValueError(
                f"student.mixing: none of {steps} steps trains {name}, whose share is {shares[name]:.4f}; raise its "
                "share (mixing_shares, mixing_temperature) or the epochs, or leave the task out"
            )
    return TaskPlan(names, task, turn, turns)
