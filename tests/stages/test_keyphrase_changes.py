"""Keyphrases come and go as versions of their own: all of a change or nothing, also when it is killed."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import pytest

from distill.retrieval import versions
from distill.retrieval.published import load_current, load_published
from distill.retrieval.versions import VersionError
from distill.stages.versions import change_keyphrases, publish_run, read_keyphrases
from tests.stages.serving_versions import NEVER, PHRASES, embed, found, table
from tests.stages.small import ROOT, environment

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="scann exists for Linux only")


def test_what_was_added_is_found_like_what_was_built_and_what_was_removed_is_not(root, tmp_path):
    new, gone = ["men shirt", "靴 small", "übergröße coat"], PHRASES[:7]
    done = change_keyphrases(root, table(tmp_path / "a.parquet", new), table(tmp_path / "b.parquet", gone), NEVER)
    assert (done.added, done.removed, done.keyphrases, done.rebuilt) == (3, 7, 32, "")
    published = load_current(root)
    there = [text for text in [*PHRASES, "men shirt", "靴 small", "übergrösse coat"] if text not in gone]
    queries, vectors = embed(published.folder, ["red shirt", "靴"]), embed(published.folder, there)
    texts, scores = published.search(queries, 40)
    exact = queries @ vectors.T
    for row, (names, values) in enumerate(zip(texts, scores)):
        assert sorted(names) == sorted(there)
        np.testing.assert_allclose(values[:32], -np.sort(-exact[row]), atol=1e-5)
        assert np.isneginf(values[32:]).all()
    assert versions.rollback(root) == "0001" and "red shirt" in found(root, "red shirt", 1)


def test_a_removed_keyphrase_comes_back_under_its_own_id_and_volumes_follow(root, tmp_path):
    text = PHRASES[3]
    change_keyphrases(root, None, table(tmp_path / "a.parquet", [text]), NEVER)
    assert text not in found(root, text, 36)
    done = change_keyphrases(root, table(tmp_path / "b.parquet", [text, PHRASES[4]], [7, 9]), None, NEVER)
    assert (done.added, done.volumes) == (1, 1) and found(root, text, 1) == [text]
    stored = pq.read_table(versions.current(root) / "keyphrases.parquet")
    assert stored["keyphrase"].to_pylist() == PHRASES
    assert stored["search_volume"].to_pylist()[3:6] == [7, 9, None]
    folders = [root / "versions" / name for name in versions.versions(root)]
    assert (folders[0] / "index/index.json").samefile(folders[-1] / "index/index.json")  # linked, not copied


def test_the_same_change_again_changes_nothing(root, tmp_path):
    files = table(tmp_path / "a.parquet", ["new words"]), table(tmp_path / "b.parquet", [PHRASES[0]])
    first = change_keyphrases(root, *files, NEVER)
    again = change_keyphrases(root, *files, NEVER)
    assert (again.version, again.added, again.removed, again.absent) == (first.version, 0, 0, 1)
    assert versions.versions(root) == ["0001", "0002"]


def test_many_changes_build_the_index_again(root, tmp_path):
    new = [f"hat {word}" for word in ("men", "kids", "small", "large", "café")]
    done = change_keyphrases(root, table(tmp_path / "a.parquet", new), None)
    assert "have changed" in done.rebuilt and done.keyphrases == 41
    folder = versions.current(root)
    assert not (folder / "changes.npz").exists()
    published = load_published(folder)
    assert published.keyphrases == [*PHRASES, *new]
    assert published.index.base.settings.count == 41 and found(root, "hat large", 1) == ["hat large"]
    assert change_keyphrases(root, None, table(tmp_path / "b.parquet", ["hat large"]), NEVER).keyphrases == 40


def test_bad_files_change_nothing(root, tmp_path):
    good = table(tmp_path / "good.parquet", ["hat"])
    (tmp_path / "bad.tsv").write_text("keyphrase\tsearch_volume\nfine\t3\nwrong\tmany\n")
    (tmp_path / "empty.jsonl").write_text('{"keyphrase": "fine"}\n{"keyphrase": " \\u200b "}\n')
    (tmp_path / "header.csv").write_text("keyphrase\n")
    (tmp_path / "other.csv").write_text("query\nhat\n")
    for put, remove, words in (
        (tmp_path / "bad.tsv", None, r"bad\.tsv, line 3: .*search_volume"),
        (tmp_path / "empty.jsonl", None, r"empty\.jsonl, line 2: .*empty"),
        (tmp_path / "header.csv", None, r"header\.csv: holds no keyphrases"),
        (tmp_path / "other.csv", None, "keyphrase"),
        (tmp_path / "none.csv", None, "none.csv"),
        (good, good, "'hat' stands in"),
        (None, table(tmp_path / "all.parquet", PHRASES), "no keyphrase would be left"),
    ):
        with pytest.raises((ValueError, OSError), match=words):
            change_keyphrases(root, put, remove)
    assert versions.versions(root) == ["0001"] and not list(root.glob(f"{versions.WORK}*"))


def test_keyphrases_are_read_in_their_normal_form_once(tmp_path):
    file = table(tmp_path / "k.parquet", ["Red  Hat", "red hat", "ＢＬＵＥ"], [3, 5, None])
    texts, volumes = read_keyphrases(file)
    assert texts == ["red hat", "blue"]
    np.testing.assert_array_equal(volumes, [5, np.nan])


def test_a_damaged_version_is_not_changed(root, tmp_path):
    file = versions.current(root) / "tokenizer" / "vocab.txt"
    file.write_text(file.read_text() + "more\n")
    with pytest.raises(VersionError, match="0001/tokenizer: not what was published"):
        change_keyphrases(root, table(tmp_path / "a.parquet", ["new"]), None, NEVER)


def test_two_changes_at_once_do_not_lose_one(root, tmp_path, monkeypatch):
    """The second one finds another version current than it started from, and says so."""
    import distill.stages.versions as module

    inner, file = module._embed, table(tmp_path / "b.parquet", ["second"])

    def meanwhile(*arguments):
        monkeypatch.setattr(module, "_embed", inner)
        change_keyphrases(root, table(tmp_path / "a.parquet", ["first"]), None, NEVER)
        return inner(*arguments)

    monkeypatch.setattr(module, "_embed", meanwhile)
    with pytest.raises(VersionError, match="0002 is current, not 0001; nothing was changed"):
        change_keyphrases(root, file, None, NEVER)
    assert found(root, "first", 1) == ["first"]
    assert change_keyphrases(root, file, None, NEVER).version == "0003"
    assert load_current(root).keyphrases[-2:] == ["first", "second"]


@pytest.mark.slow
def test_a_change_that_is_killed_at_any_moment_leaves_the_old_version_or_the_new_one(yesterday, tmp_path):
    root = tmp_path / "serving"
    publish_run(root, yesterday)
    put = table(tmp_path / "put.parquet", ["kids café"])
    flags = [sys.executable, "-m", "launch.versions", "change", f"--versions={root}", f"--put={put}"]
    rng = np.random.default_rng(0)
    longest = 0.0
    while True:
        begun = time.monotonic()
        process = subprocess.Popen(flags, cwd=ROOT, env=os.environ | environment(), stdout=subprocess.DEVNULL)
        try:
            process.wait(longest * rng.uniform(0.5, 1.2) if longest else None)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
        longest = longest or time.monotonic() - begun
        for name in versions.versions(root):
            versions.check(root, name)
        assert ("kids café" in load_current(root).keyphrases) == (versions.current(root).name != "0001")
        if len(versions.versions(root)) >= 6:
            break
        if versions.current(root).name != "0001":
            versions.rollback(root, "0001")
    for left in root.glob(f"{versions.WORK}*"):
        os.utime(left, (0, 0))
    versions.prune(root, keep=9)
    assert not list(root.glob(f"{versions.WORK}*"))
