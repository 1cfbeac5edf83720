"""What a server of an export must know beside the SavedModels, in a file among them."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

from distill.artifacts import read_json, write_json

FILE = "serving.json"


@dataclasses.dataclass(frozen=True)
class ServingFacts:
    """Of a run.

    Attributes:
      threshold: the assistant's relevance, 0–1, below which the pipeline drops a keyphrase.
      precision: there, of held-back judged pairs; NaN where it is not known.
    """

    threshold: float
    precision: float = math.nan


def write_facts(directory: Path, facts: ServingFacts) -> None:
    values = dataclasses.asdict(facts)
    write_json(directory / FILE, {name: None if math.isnan(value) else value for name, value in values.items()})


def read_facts(directory: Path) -> ServingFacts | None:
    """None where there is no file: an export of an earlier version.

    Raises:
      ValueError: the file is damaged, or its threshold no number from 0 to 1.
    """
    path = directory / FILE
    if not path.exists():
        return None
    try:
        values = read_json(path)
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error}); run export again") from error
    threshold = values.get("threshold") if isinstance(values, dict) else None
    if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0 <= threshold <= 1:
        raise ValueError(f"{path}: threshold is {threshold!r}, not a number from 0 to 1; run export again")
    precision = values.get("precision")
    return ServingFacts(float(threshold), math.nan if precision is None else float(precision))
