"""Which of a run's validated steps is kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Validated(NamedTuple):
    value: float  # of the validation metric, higher is better
    error: float = 0.0  # its standard error


def preference(validations: Mapping[int, Validated]) -> list[int]:
    """Steps, the one to keep first: the last, unless another beats it by more than that one's standard error.

    The one-standard-error rule (Breiman et al., Classification and Regression Trees, 1984, section 3.4.3) with "trained
    to the end of its schedule" in the place of "simplest". The best of several noisy figures is often the luckiest:
    held-back items are few and their judge errs, whereas a learning rate that falls to its end has a last step that is
    seldom worse. The others follow by value, of equal ones the later first.

    Args:
      validations: step → its figures.
    """
    ordered = sorted(validations, key=lambda step: (validations[step].value, step), reverse=True)
    if not ordered:
        return []
    last, best = max(ordered), validations[ordered[0]]
    if validations[last].value >= best.value - best.error:
        ordered.remove(last)
        ordered.insert(0, last)
    return ordered
