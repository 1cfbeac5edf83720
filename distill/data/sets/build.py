"""Builds all tables of a set with TFDS and writes them as a data directory."""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from distill.artifacts import config_dict, read_json, write_json
from distill.data.schema import TABLES, DataError
from distill.data.sets import esci, wands
from distill.data.sets.features import arrow_schema, decode, to_arrow
from distill.data.sets.official import PublicSet
from distill.data.sets.own import OwnSource
from distill.data.sets.reading import records
from distill.data.sets.survey import QUARANTINE, EmptyTable, Source
from distill.data.validation import about
from distill.data.validation.about import About, read_about

if TYPE_CHECKING:
    from distill.data.sets.builders import ContractBuilder

NAMES = (esci.ESCI.name, wands.WANDS.name, "marketplace")
RECORD = "dataset.json"  # what `write_directory` wrote from what; about.json is for `prepare` and the report
_ROWS = 65_536


@dataclasses.dataclass(frozen=True)
class Built:
    """The tables of a set, built or found built."""

    name: str
    source: Path
    builders: dict[str, ContractBuilder]  # table → its builder
    left_out: dict[str, str]  # table without a usable row → why
    notices: list[str]
    about: About

    def lines(self) -> list[str]:
        """What was built, for a reader."""
        out = []
        for table, builder in self.builders.items():
            counts = _metadata(builder)
            splits = ", ".join(f"{info.num_examples:,} {split}" for split, info in builder.info.splits.items())
            out.append(
                f"{table}: {counts['rows']:,} rows = {counts['kept']:,} kept ({splits}) + "
                f"{counts['quarantined']:,} quarantined; in {builder.data_path}"
            )
            out += [f"  quarantined {count:,}: {reason}" for reason, count in counts["reasons"].items()]
            if counts["quarantined"]:
                out.append(f"  each with its line: {builder.data_path / QUARANTINE}")
            if counts.get("ignored"):
                out.append(f"  columns not of the contract are left out: {', '.join(counts['ignored'])}")
        out += [f"{table}: left out, {why}" for table, why in self.left_out.items()]
        return out + [f"notice: {notice}" for notice in self.notices]


def public_set(name: str) -> PublicSet | None:
    """The public set of that name; None for one's own directory."""
    return {esci.ESCI.name: esci.ESCI, wands.WANDS.name: wands.WANDS}.get(name)


def build(
    name: str,
    source: Path,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    locale: str = "us",
    size: str = "small",
    max_bad_share: float = 0.05,
) -> Built:
    """Builds the set's tables as ArrayRecord below `data_dir` (None: where TFDS keeps data sets); needs no TensorFlow.

    A table that is built already from files of the same content is used as it is; one from other files is built again.

    Args:
      name: one of `NAMES`.
      source: directory of the original files.
      locale, size: of Amazon ESCI.
      max_bad_share: of a table's rows; more of them stop it.

    Raises:
      DataError: a file is missing (the message says which, and where to get it), damaged, or has too many bad rows.
    """
    import tensorflow_datasets as tfds

    from distill.data.sets.builders import AmazonEsci, Marketplace, WayfairWands

    if name not in NAMES:
        raise DataError(f"name={name!r}: there is no such data set. Choose one of {', '.join(NAMES)}.")
    public, notices = public_set(name), []
    if public:
        unofficial = public.unofficial(public.find(source))
        notices += [
            f"{file} is not the file of the official revision {public.revision[:7]}: published figures may not be "
            "comparable"
            for file in unofficial
        ]
    if name == esci.ESCI.name:
        if locale not in esci.LOCALES or size not in esci.SIZES:
            raise DataError(
                f"locale={locale!r}, size={size!r}: Amazon ESCI has the locales {', '.join(esci.LOCALES)} and the "
                f"sizes {', '.join(esci.SIZES)}."
            )
        configs = {table: f"{locale}_{size}_{table}" for table in esci.TABLES}
        builder_class: type[ContractBuilder] = AmazonEsci
    elif name == wands.WANDS.name:
        configs, builder_class = {table: table for table in wands.TABLES}, WayfairWands
    else:
        own = OwnSource(source)
        notices += [f"{file} is no table of the contract: left out" for file in own.left_out]
        configs, builder_class = {table: table for table in own.tables}, Marketplace
    builders: dict[str, ContractBuilder] = {}
    left_out: dict[str, str] = {}
    for table, config in configs.items():

        def make(config: str = config) -> ContractBuilder:
            return builder_class(
                config=config, data_dir=data_dir, file_format="array_record", max_bad_share=max_bad_share
            )

        builder = make()
        if builder.data_path.exists() and not _is_current(builder, builder.open_source(source), max_bad_share):
            builder.data_path.rmtree()
            builder = make()
        _remove_unfinished(builder)
        try:
            builder.download_and_prepare(
                download_config=tfds.download.DownloadConfig(manual_dir=source, try_download_gcs=False)
            )
            builders[table] = builder
        except EmptyTable as empty:
            if TABLES[table].needed:
                of = f"locale={locale!r}, size={size!r}: " if name == esci.ESCI.name else ""
                raise EmptyTable(f"{of}{empty}") from empty
            left_out[table] = str(empty)
    return Built(name, source, builders, left_out, notices, _about(public) if public else read_about(source))


def _is_current(builder: ContractBuilder, source: Source, max_bad_share: float) -> bool:
    """Whether what is built is what would be built now."""
    built = _metadata(builder)
    return (
        built.get("files") == source.hashes(builder.table_name)
        and built["quarantined"] <= max_bad_share * built["rows"]
    )


def _metadata(builder: ContractBuilder) -> dict[str, Any]:
    return dict(builder.info.metadata or {})


def _remove_unfinished(builder: ContractBuilder) -> None:
    """Removes what a killed build of the same table left behind."""
    if builder.data_path.parent.exists():
        for path in builder.data_path.parent.glob("incomplete.*"):
            path.rmtree()


def _about(public: PublicSet) -> About:
    return About(
        source=f"{public.title}, {public.page}, revision {public.revision[:7]}",
        licence=public.licence,
        note=f"The judgements are what people said of training queries (judge humans:{public.name}), no language "
        f"model's. Cite:\n{public.citation}",
    )


def _record(built: Built) -> dict[str, Any]:
    """All that decides the content of a data directory, and its counts."""
    tables = {}
    for table, builder in built.builders.items():
        splits = {split: info.num_examples for split, info in builder.info.splits.items()}
        tables[table] = {**_metadata(builder), "splits": splits, "version": str(builder.version)}
    return config_dict({"name": built.name, "about": built.about, "tables": tables})


def write_directory(built: Built, directory: Path) -> bool:
    """Writes the built tables as a data directory of Parquet files, all of it or nothing.

    A directory that holds the same already stays as it is; one that this function wrote from other data is replaced.

    Returns:
      Whether anything was written.

    Raises:
      DataError: the directory has files in it that this function did not write and that would be lost, or is the
        set's own source.
    """
    directory = directory.absolute()
    if directory.resolve() == built.source.resolve():
        raise DataError(f"{directory}: the original files are there. Choose another directory to write to.")
    record = _record(built)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        path = directory / RECORD
        if not path.is_file():
            raise DataError(
                f"{directory}: it holds files that were not written from a data set. Choose a directory that is empty "
                "or does not exist."
            )
        written = read_json(path)
        if written == record:
            return False
        expected = {RECORD, about.FILE, *(f"{table}.parquet" for table in written["tables"])}
        if added := sorted(file.name for file in directory.iterdir() if file.name not in expected):
            raise DataError(
                f"{directory}: {added[0]} is there, which was not written from a data set, and the rest is to be "
                "replaced by other data. Move it away, or choose another directory."
            )
    partial = directory.with_name(f".{directory.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for table, builder in built.builders.items():
        _write_table(partial / f"{table}.parquet", table, builder)
    write_json(partial / about.FILE, dataclasses.asdict(built.about))
    write_json(partial / RECORD, record)
    if directory.exists():
        shutil.rmtree(directory)
    partial.rename(directory)
    return True


def _write_table(path: Path, name: str, builder: ContractBuilder) -> None:
    table = TABLES[name]
    with pq.ParquetWriter(path, arrow_schema(table)) as writer:
        for split in builder.info.splits:
            examples = records(builder, split)
            for start in range(0, len(examples), _ROWS):
                numbers = list(range(start, min(start + _ROWS, len(examples))))
                rows = [decode(table, example) for example in examples.__getitems__(numbers)]
                writer.write_table(to_arrow(table, rows))
