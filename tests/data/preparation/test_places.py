"""Which files a path, glob, folder or URL stands for: each once, none that is half written, none missed in silence."""

import uuid
from pathlib import Path

import fsspec
import pytest

from distill.data.preparation.places import each_once, match_files
from distill.data.schema import DataError


def make(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return folder


def found(folder: Path, pattern: str) -> list[str]:
    return sorted(str(Path(path).relative_to(folder)) for path in match_files(f"{folder}/{pattern}"))


def test_marks_and_what_lies_below_them_are_left_out_unless_named(tmp_path):
    """Spark writes _SUCCESS when it is done and keeps in _temporary what it is not done with."""
    logs = make(tmp_path, "a.tsv", "day/b.tsv", "_SUCCESS", "day/.c.tsv", "_temporary/0/d.tsv", ".old/e.tsv", "_f.tsv")
    for pattern in ("**/*.tsv", "**", "", "*"):
        assert found(logs, pattern) == ["a.tsv", "day/b.tsv"], pattern
    assert found(logs, "_temporary") == found(logs, "_temporary/*/*.tsv") == ["_temporary/0/d.tsv"]
    assert found(logs, "_*.tsv") == ["_f.tsv"] and found(logs, ".old/*") == [".old/e.tsv"]
    assert found(logs, "_SUCCESS") == ["_SUCCESS"] and found(logs, "nothing*") == []


def test_an_object_store_is_searched_by_the_same_rules():
    folder = uuid.uuid4().hex
    store = f"memory://{folder}"
    for name in ("a.tsv", "day/b.tsv", "_SUCCESS", "_temporary/0/d.tsv"):
        with fsspec.open(f"{store}/{name}", "wb") as file:
            file.write(b"x")
    for pattern in ("/**/*.tsv", "", "/**"):
        matched = sorted(path.partition(f"{folder}/")[2] for path in match_files(store + pattern))
        assert matched == ["a.tsv", "day/b.tsv"], pattern
    assert len(match_files(f"{store}/_temporary")) == 1
    fsspec.filesystem("memory").rm(store, recursive=True)


def test_a_path_with_the_characters_of_a_glob_is_a_path(tmp_path):
    logs = make(tmp_path, "day[1]/a.tsv", "day1/b.tsv", "c[2].tsv", "c2.tsv")
    assert found(logs, "day[1]") == ["day[1]/a.tsv"] and found(logs, "c[2].tsv") == ["c[2].tsv"]
    assert found(logs, "day[0-9]") == ["day1/b.tsv"]


def test_a_file_under_several_names_is_one(tmp_path, monkeypatch):
    monkeypatch.chdir(make(tmp_path, "logs/day1.tsv", "logs/day2.tsv"))
    (tmp_path / "logs" / "a-latest.tsv").symlink_to("day2.tsv")
    names = match_files("logs/*.tsv") | match_files(f"{tmp_path}/logs/day1.tsv") | match_files("./logs//day2.tsv")
    assert len(names) == 5
    once = each_once(names)
    assert sorted(Path(path).name for path in once) == ["day1.tsv", "day2.tsv"]
    assert each_once(["logs/a-latest.tsv", "s3://b/day2.tsv"]) == ["logs/a-latest.tsv", "s3://b/day2.tsv"]


def test_a_hidden_link_does_not_stand_for_the_folder_that_it_leads_to(tmp_path):
    make(tmp_path, "logs/a/1.tsv", "logs/b/2.tsv")
    (tmp_path / "logs" / "_last").symlink_to("a")
    (tmp_path / "logs" / ".last").symlink_to("b")
    for pattern in ("logs", "logs/*", "logs/**"):
        assert found(tmp_path, pattern) == ["logs/a/1.tsv", "logs/b/2.tsv"]


def test_links_are_followed_and_a_link_to_nothing_is_an_error(tmp_path):
    make(tmp_path, "elsewhere/b.tsv", "logs/a.tsv")
    (tmp_path / "logs" / "day2").symlink_to(tmp_path / "elsewhere")
    assert found(tmp_path, "logs") == ["logs/a.tsv", "logs/day2/b.tsv"]
    for circle in ("one", "other"):
        (tmp_path / "elsewhere" / circle).symlink_to(tmp_path / "logs")
    assert len({Path(path).resolve() for path in match_files(f"{tmp_path}/logs")}) == 2
    (tmp_path / "elsewhere" / "c.tsv").symlink_to(tmp_path / "gone.tsv")
    for pattern in ("logs", "logs/*/*.tsv", "logs/day2/c.tsv"):
        with pytest.raises(DataError, match=r"day2/c\.tsv: is a link to .*gone\.tsv, where there is nothing"):
            found(tmp_path, pattern)
