import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from distill.retrieval import versions
from distill.retrieval.versions import VersionError, check, current, prune, publish, rollback


def part(folder, text):
    (folder / "deep").mkdir(parents=True, exist_ok=True)
    (folder / "deep" / "a.txt").write_bytes(text.encode())
    return folder


def content(root):
    return (current(root) / "index" / "deep" / "a.txt").read_text()


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "served"
    for number in (1, 2, 3):
        publish(root, {"index": part(tmp_path / "built", f"v{number}")})
    return root


def test_the_last_published_is_current_and_every_part_is_there(root, tmp_path):
    assert (
        content(root) == "v3" and current(root).name == "0003" and versions.versions(root) == ["0001", "0002", "0003"]
    )
    (tmp_path / "one.bin").write_bytes(b"\0")
    name = publish(root, {"index": part(tmp_path / "built", "v4"), "one.bin": tmp_path / "one.bin"})
    assert name == "0004" and (current(root) / "one.bin").read_bytes() == b"\0" and content(root) == "v4"


def test_rolling_back_goes_one_back_or_to_a_name_and_publishing_goes_on_upwards(root, tmp_path):
    assert rollback(root) == "0002" and content(root) == "v2"
    assert rollback(root) == "0001"
    with pytest.raises(VersionError, match="no version before '0001'"):
        rollback(root)
    assert rollback(root, "0003") == "0003" and content(root) == "v3"
    with pytest.raises(VersionError, match="no version '0009'"):
        rollback(root, "0009")
    rollback(root, "0001")
    assert publish(root, {"index": part(tmp_path / "built", "v4")}) == "0004" and rollback(root) == "0003"


def test_a_damaged_version_is_not_rolled_back_to(root):
    (root / "versions" / "0002" / "index" / "deep" / "a.txt").write_text("v2!")
    with pytest.raises(VersionError, match="0002/index: not what was published"):
        rollback(root)
    assert content(root) == "v3"


def test_pruning_keeps_the_newest_and_the_current_one(root):
    rollback(root, "0001")
    assert prune(root, keep=1) == ["0002"]
    assert versions.versions(root) == ["0001", "0003"] and content(root) == "v1"
    assert not (root / "versions" / "0002").exists()
    with pytest.raises(VersionError, match="keep: 0"):
        prune(root, keep=0)


def test_a_publisher_killed_half_way_changes_nothing_and_its_rubbish_goes(root, tmp_path):
    """Killed while it copies, after the copy, and after the receipt: CURRENT is written last."""
    code = """
import os, shutil, signal, sys
from distill.retrieval import versions
kill = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)
setattr(*{"copy": (shutil, "copytree"), "receipt": (versions, "write_json"), "swap": (versions, "write_atomic")}
        [sys.argv[3]], kill)
versions.publish(sys.argv[1], {"index": sys.argv[2]})
"""
    built = part(tmp_path / "built", "v4")
    for moment, there in (("copy", 3), ("receipt", 3), ("swap", 4)):
        done = subprocess.run([sys.executable, "-c", code, str(root), str(built), moment])
        assert done.returncode == -9
        assert content(root) == "v3" and len(versions.versions(root)) == there
    assert len(list((root / "versions").glob("*"))) > 2 * len(versions.versions(root))
    publish(root, {"index": part(tmp_path / "built", "v5")})
    assert content(root) == "v5"
    prune(root, keep=9)
    assert sorted(p.name for p in (root / "versions").iterdir() if p.is_dir()) == versions.versions(root)


def test_a_reader_never_sees_half_a_version(root, tmp_path):
    stop, seen, errors = threading.Event(), set(), []

    def read():
        while not stop.is_set():
            try:
                folder = current(root)
                check(root, folder.name)
                seen.add(folder.name)
            except Exception as error:  # any error here is the failure that the test is after
                errors.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(4, 24):
        publish(root, {"index": part(tmp_path / "built", f"v{number}")})
        if number % 5 == 0:
            rollback(root)
    stop.set()
    reader.join()
    assert not errors and len(seen) > 1


def test_what_cannot_be_published_or_found_is_said(tmp_path):
    with pytest.raises(VersionError, match="nothing was published"):
        current(tmp_path)
    with pytest.raises(VersionError, match="before 'the first'"):
        rollback(tmp_path)
    with pytest.raises(VersionError, match="parts: empty"):
        publish(tmp_path, {})
    with pytest.raises(VersionError, match="does not exist"):
        publish(tmp_path, {"index": tmp_path / "nowhere"})
    with pytest.raises(VersionError, match="no plain file name"):
        publish(tmp_path, {"../index": tmp_path})
    assert not (tmp_path / "versions").exists()
    publish(tmp_path / "served", {"index": part(tmp_path / "built", "v1")})
    (tmp_path / "served" / "CURRENT").write_text("0007\n")
    with pytest.raises(VersionError, match="names version '0007'"):
        current(tmp_path / "served")


class Versions(RuleBasedStateMachine):
    """Against a list of what should be there."""

    def __init__(self):
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.root, self.source = Path(self.folder.name) / "root", Path(self.folder.name) / "source"
        self.there: dict[str, str] = {}
        self.now = ""

    @rule(text=st.text(st.characters(codec="utf-8"), max_size=3))
    def publish(self, text):
        self.now = publish(self.root, {"index": part(self.source, text)})
        self.there[self.now] = text

    @precondition(lambda self: self.there)
    @rule(data=st.data())
    def roll_back(self, data):
        self.now = rollback(self.root, data.draw(st.sampled_from(sorted(self.there))))

    @precondition(lambda self: self.there)
    @rule(keep=st.integers(1, 3))
    def prune(self, keep):
        kept = {*sorted(self.there)[-keep:], self.now}
        assert set(prune(self.root, keep)) == set(self.there) - kept
        self.there = {name: text for name, text in self.there.items() if name in kept}

    @invariant()
    def the_current_one_is_whole(self):
        if self.now:
            assert versions.versions(self.root) == sorted(self.there)
            assert current(self.root).name == self.now
            assert (current(self.root) / "index/deep/a.txt").read_bytes().decode() == self.there[self.now]

    def teardown(self):
        self.folder.cleanup()


TestVersions = Versions.TestCase
TestVersions.settings = settings(max_examples=10, stateful_step_count=8, deadline=None)
