"""A day of an operator: runs become versions, keyphrases come and go, what was current yesterday is a command away."""

import json
import os
import subprocess
import sys

import pytest

from distill.artifacts import ArtifactError, output_hash
from distill.config import ConfigError
from distill.reporting import Silent
from distill.retrieval import versions
from distill.retrieval.published import load_current, load_published
from distill.stages import run_stage
from distill.stages.base import Context
from distill.stages.versions import change_keyphrases, publish_run
from tests.stages.serving_versions import (
    NEVER,
    PHRASES,
    command,
    experiment,
    found,
    make_run,
    publish_stage,
    table,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="scann exists for Linux only")


@pytest.fixture(scope="module")
def served(yesterday, tmp_path_factory):
    """Versions that nothing changes."""
    root = tmp_path_factory.mktemp("served")
    publish_run(root, yesterday)
    return root


def test_a_day_by_commands(yesterday, tmp_path):
    root, today = tmp_path / "serving", tmp_path / "today"
    nothing = command("rollback", root)
    assert nothing.returncode == 1 and nothing.stderr.startswith("error: ") and "no such directory" in nothing.stderr
    first = command("promote", root, f"--workdir={yesterday}")
    assert first.returncode == 0 and first.stdout == "0001 is current\n", first.stderr
    nothing = command("rollback", root)
    assert nothing.returncode == 1 and "nothing was current before 0001" in nothing.stderr

    put, remove = (
        table(tmp_path / "put.parquet", ["Wool  HAT", "kids café"]),
        table(tmp_path / "gone.parquet", ["red hat"]),
    )
    changed = command("change", root, f"--put={put}", f"--remove={remove}")
    assert changed.returncode == 0, changed.stderr
    assert "added 1, removed 1" in changed.stdout and "0002 is current, 0001 was" in changed.stdout
    assert "36 now" in changed.stdout and found(root, "kids café", 1) == ["kids café"]

    make_run(today, [*PHRASES, "kids café", "small coat"], earlier=str(yesterday))
    counts = json.loads((today / "index" / "manifest.json").read_text())["counts"]
    assert (counts["keyphrases_embedded"], counts["keyphrases_reused"]) == (2, len(PHRASES))
    promoted = command("promote", root, f"--workdir={today}", "--expect=0002")
    assert promoted.returncode == 0 and promoted.stdout == "0003 is current, 0002 was\n", promoted.stderr
    stale = command("rollback", root, "--expect=0002")
    assert stale.returncode == 1 and "0003 is current, not 0002" in stale.stderr
    back = command("rollback", root)
    assert back.returncode == 0 and back.stdout == "0002 is current, 0003 was\n", back.stderr
    listed = command("list", root)
    assert listed.returncode == 0 and "+1 −1 keyphrases of 0001" in listed.stdout and str(today) in listed.stdout
    assert listed.stdout.count("current") == 1 and "rolled back" in listed.stdout
    checked = command("check", root)
    assert checked.returncode == 0 and "0002: as it was published" in checked.stdout


@pytest.mark.parametrize(
    ("action", "flags", "words"),
    [
        ("frobnicate", (), "pass one of list, promote"),
        ("promote", (), "one of them"),
        ("promote", ("--workdir=/nowhere", "--version=0001"), "one of them"),
        ("change", (), "--put=FILE"),
        ("prune", (), "--keep=NUMBER"),
        ("check", ("--version=0009",), "no version '0009'; there are 0001"),
        ("rollback", ("--nonsense",), "nonsense"),
    ],
)
def test_a_misuse_is_one_line(action, flags, words, served):
    failed = command(action, served, *flags)
    assert failed.returncode == 1 and not failed.stdout
    assert (
        len(failed.stderr.strip().splitlines()) == 1 and failed.stderr.startswith("error: ") and words in failed.stderr
    )


def test_pruning_leaves_alone_what_is_being_made(root):
    (root / f"{versions.WORK}now").mkdir()
    (root / f"{versions.WORK}abandoned").mkdir()
    os.utime(root / f"{versions.WORK}abandoned", (0, 0))
    versions.prune(root, keep=1)
    assert [path.name for path in root.glob(f"{versions.WORK}*")] == [f"{versions.WORK}now"]


def test_a_run_that_is_unfinished_stale_or_damaged_is_not_promoted(yesterday, tmp_path):
    copy, root = tmp_path / "copy", tmp_path / "serving"

    def fresh():
        subprocess.run(["rm", "-rf", str(copy)], check=True)
        subprocess.run(["cp", "-r", str(yesterday), str(copy)], check=True)

    fresh()
    (copy / "index" / "manifest.json").unlink()
    with pytest.raises(ArtifactError, match=r"python -m launch\.index"):
        publish_run(root, copy)
    fresh()
    file = copy / "index" / "index" / "sample.npy"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(ArtifactError, match=r"sample\.npy: missing or not what its stage wrote"):
        publish_run(root, copy)
    fresh()
    (copy / "student" / "model" / "extra.txt").write_text("trained further")
    publish_stage("student", copy / "student", {"tokens": [40, 16]}, {})
    with pytest.raises(ArtifactError, match="is of another output of `student`"):
        publish_run(root, copy)
    with pytest.raises(ArtifactError, match="no such working directory"):
        publish_run(root, tmp_path / "nowhere")
    assert not versions.versions(root)


def test_the_export_of_a_run_goes_with_it_and_not_with_changed_keyphrases(yesterday, tmp_path):
    workdir, root = tmp_path / "run", tmp_path / "serving"
    subprocess.run(["cp", "-r", str(yesterday), str(workdir)], check=True)
    (workdir / "export" / "student").mkdir(parents=True)
    (workdir / "export" / "student" / "saved_model.pb").write_bytes(b"graph")
    folders = {
        name: workdir / folder for name, folder in (("prepare", "data"), ("student", "student"), ("index", "index"))
    }
    inputs = {name: output_hash(folder, "") for name, folder in folders.items()}
    publish_stage("export", workdir / "export", {}, inputs)
    publish_run(root, workdir)
    assert (versions.current(root) / "export" / "student" / "saved_model.pb").read_bytes() == b"graph"
    changed = command("change", root, f"--put={table(tmp_path / 'a.parquet', ['new'])}")
    assert "0002 holds no SavedModels, which 0001 did" in changed.stderr and changed.returncode == 0
    assert not (versions.current(root) / "export").exists()
    publish_stage("export", workdir / "export", {}, inputs | {"index": "of yesterday"})
    with pytest.raises(ArtifactError, match=r"of another output of `index`.*launch\.export"):
        publish_run(root, workdir)


def test_damaged_embeddings_of_an_earlier_run_are_not_copied(yesterday, tmp_path):
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", str(yesterday), str(copy)], check=True)
    file = copy / "index" / "keyphrases.npy"
    data = bytearray(file.read_bytes())
    data[-3] ^= 1  # still a finite vector of about length 1
    file.write_bytes(data)
    with pytest.raises(ConfigError, match=r"index\.earlier=.*keyphrases\.npy is missing or damaged"):
        make_run(tmp_path / "today", earlier=str(copy))
    with pytest.raises(ConfigError, match="no working directory"):
        make_run(tmp_path / "later", earlier=str(tmp_path / "nowhere"))


def test_a_reader_whose_version_is_pruned_reads_the_one_that_is_current(root, yesterday, tmp_path, monkeypatch):
    import distill.retrieval.published as module

    inner = module.load_published

    def pruned_meanwhile(folder):
        monkeypatch.setattr(module, "load_published", inner)
        for words in ("first", "second", "third"):
            change_keyphrases(root, table(tmp_path / "a.parquet", [words]), None, NEVER)
        versions.prune(root, keep=1)
        return inner(folder)

    monkeypatch.setattr(module, "load_published", pruned_meanwhile)
    published = load_current(root)
    assert published.folder.name == "0004" and published.keyphrases[-1] == "third"
    subprocess.run(["rm", "-r", str(published.folder / "index")], check=True)
    with pytest.raises(FileNotFoundError, match=r"index\.json"):
        load_current(root)


def test_parts_of_different_versions_are_not_read_together(root, tmp_path):
    other = make_run(tmp_path / "other", [*PHRASES[:-1], "another"], seed=1)
    folder, theirs = versions.current(root), tmp_path / "theirs"
    publish_run(theirs, other)
    for part, words in (("keyphrases.parquet", "not the keyphrases of"), ("student", "model is")):
        mixed = tmp_path / part
        subprocess.run(["cp", "-r", str(folder), str(mixed)], check=True)
        subprocess.run(["rm", "-rf", str(mixed / part)], check=True)
        subprocess.run(["cp", "-r", str(versions.current(theirs) / part), str(mixed / part)], check=True)
        with pytest.raises(ValueError, match=words):
            load_published(mixed)


def test_the_stage_itself_publishes_once(tmp_path):
    """A run that was killed between publishing and its manifest does not publish the same again."""
    workdir, root = tmp_path / "run", tmp_path / "serving"
    make_run(workdir, versions=str(root))
    assert versions.versions(root) == ["0001"]
    (workdir / "index" / "manifest.json").unlink()
    run_stage("index", Context(experiment(versions=str(root)), workdir, Silent()))
    assert versions.versions(root) == ["0001"] and load_current(root).keyphrases == PHRASES
    assert publish_run(root, workdir) == "0001"
