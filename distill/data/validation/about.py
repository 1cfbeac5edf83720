"""What a data directory says of itself: `about.json`, an optional file beside the tables.

    {"source": "where the data comes from", "licence": "Apache-2.0",
     "simulated": ["clicks", "keyphrases.search_volume"],
     "note": "anything else that a reader of the report should know"}

`simulated` names tables or TABLE.COLUMN; what it names, the report calls simulated wherever it matters. All keys are
optional, and where the file is absent nothing is claimed.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from distill.data.schema import TABLES, DataError

FILE = "about.json"


@dataclasses.dataclass(frozen=True)
class About:
    """What is known of where the data comes from."""

    source: str = ""
    licence: str = ""
    note: str = ""
    simulated: tuple[str, ...] = ()  # tables or TABLE.COLUMN

    def is_simulated(self, table: str) -> bool:
        """Whether the whole table is."""
        return table in self.simulated


def read_about(directory: Path | None, simulated: Sequence[str] = ()) -> About:
    """What `about.json` in `directory`, if there is one, says, with what the settings call simulated beside it.

    Raises:
      DataError: the file is no JSON object of texts, or something unknown is called simulated.
    """
    path = directory / FILE if directory is not None else None
    if path is None or not path.exists():
        return _checked(About(simulated=tuple(sorted(set(simulated)))), "config.data.simulated")
    try:
        found = json.loads(path.read_text("utf-8-sig"))
    except ValueError as error:
        raise DataError(f"{path}: not a JSON file in UTF-8 ({error}). Repair it, or remove it.") from error
    if not isinstance(found, dict):
        raise DataError(f'{path}: must be one JSON object, such as {{"simulated": ["clicks"]}}.')
    known = [field.name for field in dataclasses.fields(About)]
    if unknown := [name for name in found if name not in known]:
        raise DataError(f"{path}: {unknown[0]!r} is no key of this file. It may hold {', '.join(known)}.")
    for name in known[:-1]:
        if not isinstance(found.get(name, ""), str):
            raise DataError(f"{path}: {name!r} must be a text, not {found[name]!r}.")
    named = found.pop("simulated", [])
    if not isinstance(named, list) or not all(isinstance(name, str) for name in named):
        raise DataError(f"{path}: 'simulated' must be a list of tables or TABLE.COLUMN, not {named!r}.")
    _checked(About(simulated=tuple(named)), str(path))
    return _checked(About(**found, simulated=tuple(sorted({*named, *simulated}))), "config.data.simulated")


def _checked(about: About, where: str) -> About:
    for name in about.simulated:
        table, dot, column = name.partition(".")
        if table not in TABLES or (dot and column not in {column.name for column in TABLES[table].columns}):
            raise DataError(
                f"{where}: {name!r} is called simulated, and is no table or TABLE.COLUMN of the contract "
                f"(tables: {', '.join(TABLES)})."
            )
    return about
