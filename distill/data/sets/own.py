"""A data directory of one's own, in any format of the contract, as tables of checked rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from distill.config import SourcesConfig
from distill.data.preparation.chunks import Chunk
from distill.data.preparation.readers import read_table
from distill.data.preparation.sources import TableSource, find_sources
from distill.data.schema import TABLES
from distill.data.sets.official import file_hash


class OwnSource:
    """The tables of the data directory; whether the ids of a pair exist is checked by `prepare`, not here.

    Raises:
      DataError: the directory lacks `items` or `keyphrases`, or has a table twice.
    """

    def __init__(self, directory: Path):
        self._sources = find_sources(directory, SourcesConfig())

    @property
    def tables(self) -> tuple[str, ...]:
        """Those that the directory has, in the contract's order."""
        return tuple(self._sources.tables)

    @property
    def left_out(self) -> list[str]:
        """Data files in the directory that do not become a table."""
        truth = self._sources.truth
        return self._sources.strangers + ([truth.name] if truth else [])

    def hashes(self, table: str) -> dict[str, str]:
        return {file.name: file_hash(Path(file.location)) for file in self._sources.tables[table].files}

    def files(self, table: str) -> TableSource:
        return self._sources.tables[table]

    def rows(self, table: str) -> Iterator[tuple[int, Chunk]]:
        for number, file in enumerate(self.files(table).files):
            for chunk in read_table(file, TABLES[table]):
                yield number, chunk
