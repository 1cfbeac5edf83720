"""When prepared tables are made again: what they hold counts, not where it lies or what runs over it."""

import shutil
from pathlib import Path

import pytest

from distill.config import ConfigError, DataConfig, Experiment, SourceConfig, SourcesConfig
from distill.data.preparation.prepare import prepare
from distill.data.schema import DataError
from distill.reporting import Silent
from distill.stages.base import Context
from distill.stages.prepare import STAGE
from tests.data.preparation.test_prepare import marketplace, save


def fingerprint(data: DataConfig) -> str:
    return Context(Experiment(data=data), Path("unused"), Silent()).stage_folder(STAGE).fingerprint


def config(directory: Path, logs: Path, **settings) -> DataConfig:
    clicks = SourceConfig(files=(f"{logs}/*.jsonl",), columns=settings.pop("columns", ()))
    return DataConfig(dir=str(directory), sources=SourcesConfig(clicks=clicks), **settings)


def test_contents_count_and_places_do_not(tmp_path):
    tables = marketplace()
    logs = save(tmp_path / "logs", {"clicks": tables.pop("clicks")})
    directory = save(tmp_path / "in", tables)
    first = fingerprint(config(directory, logs))
    shutil.copytree(logs, tmp_path / "moved")
    shutil.copytree(directory, tmp_path / "moved-in")
    assert fingerprint(config(tmp_path / "moved-in", tmp_path / "moved")) == first
    assert fingerprint(config(directory, logs, beam=("--runner=DirectRunner",))) == first
    assert fingerprint(config(directory, logs, columns=("position=",))) != first
    (directory / "run").mkdir()
    (directory / "run" / "items.parquet").write_bytes(b"made from it")
    assert fingerprint(config(directory, logs)) == first
    with (tmp_path / "moved" / "clicks.jsonl").open("a") as file:
        file.write("\n")
    assert fingerprint(config(directory, tmp_path / "moved")) != first
    prepare(directory, tmp_path / "run", DataConfig())
    shutil.copytree(tmp_path / "run", tmp_path / "run-moved")
    second = fingerprint(config(directory, logs, previous=str(tmp_path / "run")))
    assert second != first and fingerprint(config(directory, logs, previous=str(tmp_path / "run-moved"))) == second
    shutil.copy(tmp_path / "run" / "human.parquet", tmp_path / "run-moved" / "clicks.parquet")
    assert fingerprint(config(directory, logs, previous=str(tmp_path / "run-moved"))) != second


def test_a_missing_place_is_an_error_that_names_the_setting(tmp_path):
    directory = save(tmp_path / "in", marketplace())
    for data, field in (
        (DataConfig(dir="/nowhere"), "dir"),
        (DataConfig(dir=str(directory), previous="/x"), "previous"),
    ):
        with pytest.raises((ConfigError, DataError), match=rf"config\.data\.{field}='/"):
            fingerprint(data)
