import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from distill.artifacts import write_json
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
    with pytest.raises(VersionError, match=r"nothing was current before 0001.*there are 0001, 0002, 0003"):
        rollback(root)
    assert rollback(root, "0003") == "0003" and content(root) == "v3"
    with pytest.raises(VersionError, match="no version '0009'"):
        rollback(root, "0009")


def test_a_version_that_was_rolled_back_from_is_not_gone_to_again(root, tmp_path):
    rollback(root, "0002")
    assert publish(root, {"index": part(tmp_path / "built", "v4")}) == "0004"
    assert versions.previous(root) == "0002" and rollback(root) == "0002" and rollback(root) == "0001"
    assert versions.promote(root, "0003") == "0003" and rollback(root) == "0001"
    told = [(event["version"], event["how"]) for event in versions.history(root)]
    assert told[:5] == [
        ("0001", "published"),
        ("0002", "published"),
        ("0003", "published"),
        ("0002", "rolled back"),
        ("0004", "published"),
    ]
    assert told[-2:] == [("0003", "promoted"), ("0001", "rolled back")]


def test_a_receipt_that_is_damaged_stops_neither_rolling_back_nor_publishing(root, tmp_path):
    (root / "versions" / "0003.json").write_text("{")
    assert versions.describe(root)[-1].fault and versions.describe(root)[-1].current
    assert publish(root, {"index": part(tmp_path / "built", "v3")}) == "0004" and rollback(root, "0002") == "0002"
    with pytest.raises(VersionError, match=r"0003\.json: cannot be read"):
        versions.promote(root, "0003")
    assert content(root) == "v2"


def test_the_same_bytes_are_not_published_twice(root, tmp_path):
    assert publish(root, {"index": part(tmp_path / "built", "v3")}) == "0003"
    assert versions.versions(root) == ["0001", "0002", "0003"] and len(versions.history(root)) == 3
    rollback(root)
    assert publish(root, {"index": part(tmp_path / "built", "v3")}) == "0004" and content(root) == "v3"


def test_parts_of_a_version_are_shared_by_the_next_and_outlive_it(root, tmp_path):
    (tmp_path / "notes.txt").write_text("new")
    index = current(root) / "index"
    publish(root, {"index": index, "notes.txt": tmp_path / "notes.txt"}, about={"of": "v3"})
    file = current(root) / "index" / "deep" / "a.txt"
    assert file.samefile(index / "deep" / "a.txt")
    publish(root, {"index": part(tmp_path / "built", "v5")})
    prune(root, keep=1)  # and the one before it
    assert versions.versions(root) == ["0004", "0005"] and not index.exists()
    assert rollback(root) == "0004" and file.read_text() == "v3"
    check(root, "0004")
    assert versions.describe(root)[0].about == {"of": "v3"} and versions.describe(root)[0].current


def test_two_operators_do_not_go_two_back(root):
    assert rollback(root, expected="0003") == "0002"
    with pytest.raises(VersionError, match="0002 is current, not 0003; nothing was changed"):
        rollback(root, expected="0003")
    with pytest.raises(VersionError, match="0002 is current, not 0003"):
        versions.promote(root, "0001", expected="0003")
    assert content(root) == "v2"


def test_a_writer_is_refused_while_another_one_writes_and_a_killed_one_stops_nobody(root, tmp_path):
    code = """
import sys, time
from pathlib import Path
from distill.retrieval import versions
with versions._writing(Path(sys.argv[1])):
    print("writing", flush=True)
    time.sleep(600)
"""
    other = subprocess.Popen([sys.executable, "-c", code, str(root)], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None and other.stdout.readline() == "writing\n"
    built = part(tmp_path / "built", "v4")
    for write in (lambda: publish(root, {"index": built}), lambda: rollback(root), lambda: prune(root, 1)):
        with pytest.raises(VersionError, match="another process is changing it"):
            write()
    assert content(root) == "v3" and len(versions.versions(root)) == 3  # readers do not mind
    other.kill()
    other.wait()
    assert rollback(root) == "0002" and publish(root, {"index": built}) == "0004"


def test_publishers_at_once_lose_nothing(root, tmp_path):
    sources = [part(tmp_path / f"built{i}", f"thread {i}") for i in range(4)]
    made = []

    def work(source):
        while True:
            try:
                made.append(publish(root, {"index": source}))
                return
            except VersionError as error:
                assert "another process" in str(error)

    threads = [threading.Thread(target=work, args=(source,)) for source in sources]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made) == ["0004", "0005", "0006", "0007"] and current(root).name == "0007"
    for name in made:
        check(root, name)
    assert {(root / "versions" / n / "index/deep/a.txt").read_text() for n in made} == {f"thread {i}" for i in range(4)}


def test_a_swap_that_was_killed_half_way_never_was(root):
    """The history is written before CURRENT."""
    events = versions.history(root)
    write_json(root / "history.json", [*events, {"version": "0001", "at": "x", "how": "rolled back"}])
    assert versions.history(root) == events and versions.previous(root) == "0002"
    (root / "history.json").unlink()
    assert versions.history(root) == [] and rollback(root) == "0002"


def test_a_part_that_changes_while_it_is_copied_is_not_published(root, tmp_path, monkeypatch):
    source = part(tmp_path / "built", "v4")
    copy = shutil.copyfile

    def meddle(source_file, target):
        copy(source_file, target)
        Path(target).write_text("other")
        return target

    monkeypatch.setattr(shutil, "copyfile", meddle)
    with pytest.raises(VersionError, match="changed while it was copied"):
        publish(root, {"index": source})
    assert content(root) == "v3" and len(versions.versions(root)) == 3


def test_a_damaged_version_is_not_rolled_back_to(root):
    (root / "versions" / "0002" / "index" / "deep" / "a.txt").write_text("v2!")
    with pytest.raises(VersionError, match="0002/index: not what was published"):
        rollback(root)
    assert content(root) == "v3"


def test_pruning_keeps_the_newest_and_the_current_one(root):
    rollback(root, "0001")
    assert versions.previous(root) == "" and prune(root, keep=1) == ["0002"]
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
    with pytest.raises(VersionError, match="holds no versions"):
        rollback(tmp_path)
    with pytest.raises(VersionError, match=r"holds .* itself"):
        publish(tmp_path / "served", {"index": tmp_path})
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
    (tmp_path / "served" / "versions" / "0001.json").write_text("{}")
    with pytest.raises(VersionError, match=r"0001\.json: cannot be read"):
        check(tmp_path / "served", "0001")


class Versions(RuleBasedStateMachine):
    """Against a dict of what should be there and a stack of what was current."""

    def __init__(self):
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.root, self.source = Path(self.folder.name) / "root", Path(self.folder.name) / "source"
        self.there: dict[str, str] = {}
        self.stack: list[str] = []

    @property
    def now(self):
        return self.stack[-1] if self.stack else ""

    @property
    def before(self):
        return next((name for name in reversed(self.stack[:-1]) if name in self.there and name != self.now), "")

    @rule(text=st.text(st.characters(codec="utf-8"), max_size=3))
    def publish(self, text):
        name = publish(self.root, {"index": part(self.source, text)})
        assert (name == self.now) == (bool(self.now) and self.there[self.now] == text)
        if name != self.now:
            assert name not in self.there
            self.there[name] = text
            self.stack.append(name)

    @precondition(lambda self: self.before)
    @rule()
    def roll_back(self):
        to = self.before
        assert rollback(self.root) == to
        last = len(self.stack) - 2 - self.stack[-2::-1].index(to)
        del self.stack[last + 1 :]

    @precondition(lambda self: self.there)
    @rule(data=st.data())
    def promote(self, data):
        name = data.draw(st.sampled_from(sorted(self.there)))
        assert versions.promote(self.root, name) == name
        if name != self.now:
            self.stack.append(name)

    @precondition(lambda self: self.there)
    @rule(keep=st.integers(1, 3))
    def prune(self, keep):
        kept = {*sorted(self.there)[-keep:], self.now, self.before} - {""}
        assert set(prune(self.root, keep)) == set(self.there) - kept
        self.there = {name: text for name, text in self.there.items() if name in kept}

    @invariant()
    def the_current_one_is_whole(self):
        if self.now:
            assert versions.versions(self.root) == sorted(self.there)
            assert current(self.root).name == self.now and versions.previous(self.root) == self.before
            assert (current(self.root) / "index/deep/a.txt").read_bytes().decode() == self.there[self.now]

    def teardown(self):
        self.folder.cleanup()


TestVersions = Versions.TestCase
TestVersions.settings = settings(max_examples=10, stateful_step_count=8, deadline=None)
