"""The TFDS builders: `amazon_esci`, `wayfair_wands` and `marketplace`. Importing this module registers them.

One config a table. `DownloadConfig.manual_dir` is the directory of original files; the metadata of a built config hold
its counts and the hashes of those files, and `quarantine.jsonl` beside its records every bad row.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import tensorflow_datasets as tfds
from etils import epath

from distill.data.schema import TABLES, DataError
from distill.data.sets import esci, wands
from distill.data.sets.features import encode, features
from distill.data.sets.official import PublicSet
from distill.data.sets.own import OwnSource
from distill.data.sets.survey import QUARANTINE, Source, TooManyBadRows, checked, split_names, survey


@dataclasses.dataclass(eq=False)
class TableConfig(tfds.core.BuilderConfig):
    """One table of the contract."""

    table: str = ""


@dataclasses.dataclass(eq=False)
class EsciConfig(TableConfig):
    """One table of one locale (`us`, `es`, `jp`) and official size (`small`, `large`)."""

    locale: str = ""
    size: str = ""


class ContractBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A builder whose configs are tables of the contract. Rows keep their order, which tells repetitions apart."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First release."}

    def __init__(self, *, max_bad_share: float = 0.05, **kwargs: Any):
        """`max_bad_share`: past this share of bad rows nothing is built; other arguments as in TFDS."""
        self._max_bad_share = max_bad_share
        super().__init__(**kwargs)

    @property
    def table_name(self) -> str:
        assert isinstance(self.builder_config, TableConfig)
        return self.builder_config.table

    @property
    def refused_rows(self) -> epath.Path:
        """The quarantine of a build that was refused for its bad rows."""
        return self.data_path.parent / QUARANTINE

    def open_source(self, directory: Path) -> Source:
        """The original files below `directory`; raises DataError where they are not there."""
        raise NotImplementedError

    def _describe(self, **kwargs: Any) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            features=features(TABLES[self.table_name]),
            disable_shuffling=True,
            metadata=tfds.core.MetadataDict(),
            **kwargs,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        source = self.open_source(Path(os.fspath(dl_manager.manual_dir)))
        name = self.table_name
        refused = self.refused_rows
        refused.unlink(missing_ok=True)
        written = epath.Path(self.data_dir) / QUARANTINE
        with written.open("w") as quarantine:
            try:
                counts = survey(source, name, quarantine, self._max_bad_share)
            except TooManyBadRows as error:
                quarantine.flush()
                written.copy(refused)  # TFDS removes the folder of a build that fails
                raise DataError(f"{error} They are in {refused}.") from error
        assert isinstance(self.info.metadata, tfds.core.MetadataDict)
        self.info.metadata.update(table=name, files=source.hashes(name), **counts.metadata())
        return {split: self._generate_examples(source, split) for split in counts.splits}

    def _generate_examples(self, source: Source, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        table, number = TABLES[self.table_name], 0
        for _, chunk in source.rows(table.name):
            good = checked(table, chunk)[0]
            for row in good.filter(split_names(table, good) == split).to_pylist():
                yield number, encode(table, row)
                number += 1


class PublicBuilder(ContractBuilder, skip_registration=True):
    """A builder of a public set."""

    PUBLIC: ClassVar[PublicSet]

    def _info(self) -> tfds.core.DatasetInfo:
        public = self.PUBLIC
        return self._describe(
            description=f"{public.description} Table `{self.table_name}` of the data directory contract.",
            homepage=public.page,
            citation=public.citation,
            license=public.licence,
        )


class AmazonEsci(PublicBuilder):
    """Amazon ESCI (Shopping Queries)."""

    PUBLIC = esci.ESCI
    MANUAL_DOWNLOAD_INSTRUCTIONS = esci.ESCI.instructions()
    BUILDER_CONFIGS: ClassVar[list[EsciConfig]] = [
        EsciConfig(
            name=f"{locale}_{size}_{table}",
            description=f"Table {table}, locale {locale}, the official {size} version.",
            table=table,
            locale=locale,
            size=size,
        )
        for locale in esci.LOCALES
        for size in esci.SIZES
        for table in esci.TABLES
    ]

    def open_source(self, directory: Path) -> esci.EsciSource:
        config = self.builder_config
        assert isinstance(config, EsciConfig)
        return esci.EsciSource(directory, config.locale, config.size)


class WayfairWands(PublicBuilder):
    """Wayfair WANDS."""

    PUBLIC = wands.WANDS
    MANUAL_DOWNLOAD_INSTRUCTIONS = wands.WANDS.instructions()
    BUILDER_CONFIGS: ClassVar[list[TableConfig]] = [
        TableConfig(name=table, description=f"Table {table}.", table=table) for table in wands.TABLES
    ]

    def open_source(self, directory: Path) -> wands.WandsSource:
        return wands.WandsSource(directory)


class Marketplace(ContractBuilder):
    """One's own data directory."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "A data directory: one file a table, items and keyphrases at least, each as NAME.parquet, .jsonl, .tsv or "
        ".csv, optionally .gz."
    )
    BUILDER_CONFIGS: ClassVar[list[TableConfig]] = [
        TableConfig(name=table, description=f"Table {table}.", table=table) for table in TABLES
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        return self._describe(
            description=f"A marketplace's own data directory. Table `{self.table_name}` of the contract.",
            license="Whatever the owner of the data says.",
        )

    def open_source(self, directory: Path) -> OwnSource:
        return OwnSource(directory)
