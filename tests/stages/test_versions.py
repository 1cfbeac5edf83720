"""A day of an operator: runs become versions, keyphrases come and go, what was current yesterday is a command away."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distill.artifacts import ArtifactError, StageFolder, config_dict, output_hash
from distill.config import ConfigError, Experiment
from distill.data.tokenizing import Tokenizer
from distill.models.bi_encoder import init_bi_encoder
from distill.models.encoder import EncoderSpec
from distill.reporting import Silent
from distill.retrieval import versions
from distill.retrieval.index_updates import RebuildPolicy
from distill.retrieval.published import load_current, load_published
from distill.retrieval.versions import VersionError
from distill.stages import run_stage
from distill.stages.base import Context, save_model
from distill.stages.versions import change_keyphrases, publish_run, read_keyphrases
from tests.stages.small import ROOT, environment

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="scann exists for Linux only")

WORDS = [
    *("red", "blue", "green", "wool", "silk", "linen", "shirt", "dress", "boots", "scarf", "hat", "coat"),
    *("men", "kids", "small", "large", "café", "靴", "übergröße", "12in"),
]
PHRASES = [f"{a} {b}" for a in WORDS[:6] for b in WORDS[6:12]]  # 36
NEVER = RebuildPolicy(changed_share=9.0, recall_slack=1.0)


def experiment(**index) -> Experiment:
    experiment = Experiment()
    experiment.index = dataclasses.replace(experiment.index, **index)
    experiment.encoder.row_tokens = 32
    return experiment


def make_run(workdir: Path, keyphrases=PHRASES, seed: int = 0, **index) -> Path:
    """A working directory that is finished up to the index, with a student that has learnt nothing."""
    tokenizer = Tokenizer.train(WORDS, 200)
    data = workdir / "data"
    tokenizer.save(data / "tokenizer")
    titles = [f"{word} {other}" for word in WORDS for other in WORDS[:4]]
    items = {"item_id": [f"i{n}" for n in range(len(titles))], "title": titles, "text": titles}
    items |= {"category": [["all"]] * len(titles), "split": ["train"] * len(titles)}
    pq.write_table(pa.table(items), data / "items.parquet")
    columns = {"keyphrase": list(keyphrases), "search_volume": pa.array([None] * len(keyphrases), pa.int64())}
    columns["trainable"] = [True] * len(keyphrases)
    pq.write_table(pa.table(columns), data / "keyphrases.parquet")
    publish_stage("prepare", data, {}, {})
    spec = EncoderSpec(vocab_size=tokenizer.vocab_size, layers=1, width=16, heads=2, mlp_width=16, max_positions=32)
    student = workdir / "student"
    save_model(student / "model", spec, init_bi_encoder(spec, seed))
    publish_stage("student", student, {"tokens": [40, 16]}, {})
    run_stage("index", Context(experiment(**index), workdir, Silent()))
    return workdir


def publish_stage(name, path, config, inputs):
    outputs = [file for file in path.rglob("*") if file.is_file() and file.name != "manifest.json"]
    StageFolder(name, path, config_dict(config), inputs).publish({}, outputs, 0.0)


def table(path: Path, keyphrases, volumes=None) -> Path:
    columns = {"keyphrase": list(keyphrases)} | ({} if volumes is None else {"search_volume": volumes})
    pq.write_table(pa.table(columns), path)
    return path


def found(root: Path, text: str, k: int = 5) -> list[str]:
    """What the current version finds for a keyphrase, embedded as its reader would."""
    published = load_current(root)
    return published.search(embed(published.folder, [text]), k)[0][0]


def embed(folder: Path, texts) -> np.ndarray:
    from distill.stages.versions import _embed

    return _embed(folder, texts, 16, 32)


def command(action: str, root: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "launch.versions", action, f"--versions={root}", *flags],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def yesterday(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "yesterday")


@pytest.fixture(scope="module")
def served(yesterday, tmp_path_factory):
    """Versions that nothing changes."""
    root = tmp_path_factory.mktemp("served")
    publish_run(root, yesterday)
    return root


@pytest.fixture
def root(yesterday, tmp_path):
    publish_run(tmp_path / "serving", yesterday)
    return tmp_path / "serving"


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


def test_pruning_leaves_alone_what_is_being_made(root):
    (root / f"{versions.WORK}now").mkdir()
    (root / f"{versions.WORK}abandoned").mkdir()
    os.utime(root / f"{versions.WORK}abandoned", (0, 0))
    versions.prune(root, keep=1)
    assert [path.name for path in root.glob(f"{versions.WORK}*")] == [f"{versions.WORK}now"]


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
    change_keyphrases(root, table(tmp_path / "a.parquet", ["new"]), None, NEVER)
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
