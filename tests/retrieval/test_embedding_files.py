import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from distill.config import ParallelConfig
from distill.data.ragged import Ragged
from distill.models.bi_encoder import init_bi_encoder
from distill.parallel.mesh import make_mesh
from distill.retrieval import embedding_files
from distill.retrieval.embedding_files import hash_texts
from distill.retrieval.encoding import embed_texts
from tests.parallel.pair import ROOT, finish, start_pair
from tests.retrieval.embedding_process import SPEC, embed, small_shards, texts

COUNT = 300


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder in which COUNT texts were embedded at one go."""
    folder = tmp_path_factory.mktemp("whole")
    assert embed(folder / "texts.npy", texts(COUNT)) == {"embedded": COUNT, "reused": 0}
    return folder


@pytest.fixture
def copied(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "copied"))


def load(folder, name="texts"):
    return np.load(folder / f"{name}.npy", mmap_mode="r")


def test_the_file_holds_what_embedding_in_memory_gives(whole):
    small_shards()
    mesh = make_mesh(ParallelConfig(), jax.devices())
    expected = embed_texts(SPEC, init_bi_encoder(SPEC, 0), texts(COUNT), row_tokens=16, mesh=mesh)
    np.testing.assert_array_equal(load(whole), expected)
    assert sorted(path.name for path in whole.iterdir()) == ["texts.json", "texts.npy", "texts.texts.npy"]


def record_writes(monkeypatch):
    written, write = [], embedding_files._write_array

    def writing(path, array):
        written.append((path, array))
        write(path, array)

    monkeypatch.setattr(embedding_files, "_write_array", writing)
    return written


def test_memory_is_that_of_a_shard(tmp_path, monkeypatch):
    written, seen = record_writes(monkeypatch), []
    embed(tmp_path / "texts.npy", texts(COUNT), advance=seen.append)
    shards = [len(array) for path, array in written if path.parent != tmp_path]
    assert len(shards) > 4 and sum(shards) == sum(seen) == COUNT and max(shards) < 100


def test_once_complete_nothing_is_done(copied):
    before = {path: path.stat().st_mtime_ns for path in copied.iterdir()}
    assert embed(copied / "texts.npy", texts(COUNT)) == {"embedded": 0, "reused": COUNT}
    assert {path: path.stat().st_mtime_ns for path in copied.iterdir()} == before


def test_a_killed_run_goes_on_behind_its_last_shard_and_ends_in_the_same_bytes(whole, tmp_path, monkeypatch):
    command = [sys.executable, "-m", "tests.retrieval.embedding_process", str(tmp_path), str(COUNT), "3"]
    assert subprocess.run(command, cwd=ROOT).returncode == -signal.SIGKILL
    left = {path.name for path in tmp_path.glob("texts.parts/*/*.npy")}
    assert len(left) == 3 and not (tmp_path / "texts.npy").exists()
    written = record_writes(monkeypatch)
    embed(tmp_path / "texts.npy", texts(COUNT))
    assert written and not left & {path.name for path, _ in written}
    assert (tmp_path / "texts.npy").read_bytes() == (whole / "texts.npy").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["texts.json", "texts.npy", "texts.texts.npy"]


def test_shards_of_other_rows_are_not_taken_for_ours(whole, tmp_path, monkeypatch):
    """A run that took rows over is killed; without those to take over, other texts stand at the same places."""
    written = record_writes(monkeypatch)
    embed(tmp_path / "first.npy", texts(60, first=COUNT - 30))  # 30 of them are also in `whole`
    first = [array for path, array in written if path.parent != tmp_path]
    real = embedding_files.write_json
    monkeypatch.setattr(embedding_files, "write_json", lambda *_: (_ for _ in ()).throw(Killed))
    with pytest.raises(Killed):
        embed(tmp_path / "texts.npy", texts(60, first=COUNT - 30), earlier=[whole / "texts.npy"])
    assert list(tmp_path.glob("texts.parts/*/*.npy"))
    monkeypatch.setattr(embedding_files, "write_json", real)
    assert embed(tmp_path / "texts.npy", texts(60, first=COUNT - 30)) == {"embedded": 60, "reused": 0}
    np.testing.assert_array_equal(load(tmp_path), np.concatenate(first))


class Killed(BaseException):
    pass


@pytest.mark.parametrize("moment", ["before the file", "before its description", "before the renames", "between them"])
def test_killed_while_the_file_takes_its_place_the_old_rows_are_still_reused(copied, whole, moment, monkeypatch):
    """An older file is there, whose rows the new one takes over: it must not be lost before the new one is whole."""

    def die(*arguments, **options):
        raise Killed

    with monkeypatch.context() as patch:
        if moment == "before the file":
            patch.setattr(np.lib.format, "open_memmap", die)
        elif moment == "before its description":
            patch.setattr(embedding_files, "write_json", die)
        else:
            replace = Path.replace

            def renaming(path, target):
                if (
                    path.suffix != ".tmp"
                    and ".npy." in path.name
                    and (moment == "before the renames" or "texts.texts" not in path.name)
                ):
                    raise Killed
                return replace(path, target)

            patch.setattr(Path, "replace", renaming)
        with pytest.raises(Killed):
            embed(copied / "texts.npy", texts(COUNT, first=50))
    done = embed(copied / "texts.npy", texts(COUNT, first=50))
    # Settled where the description was written, else made again; never embedded in full.
    assert done["embedded"] == (50 if "before the file" in moment or "description" in moment else 0)
    np.testing.assert_array_equal(load(copied)[:-50], load(whole)[50:])
    assert sorted(path.name for path in copied.iterdir()) == ["texts.json", "texts.npy", "texts.texts.npy"]
    again = embed(copied / "texts.npy", texts(COUNT, first=50))
    assert again["embedded"] == 0


def test_only_changed_texts_are_embedded_and_the_others_keep_their_bytes(copied, whole):
    changed = Ragged.concatenate(texts(COUNT - 20), texts(45, first=1000))
    assert embed(copied / "texts.npy", changed) == {"embedded": 45, "reused": COUNT - 20}
    np.testing.assert_array_equal(load(copied)[: COUNT - 20], load(whole)[: COUNT - 20])
    embed(copied / "fresh.npy", texts(45, first=1000))
    np.testing.assert_allclose(load(copied)[COUNT - 20 :], load(copied, "fresh"), atol=1e-6)


def test_rows_of_another_folder_are_taken_over_in_any_order(whole, tmp_path):
    backwards = texts(COUNT).take(np.arange(COUNT)[::-1])
    done = embed(tmp_path / "texts.npy", backwards, earlier=[tmp_path / "nowhere.npy", whole / "texts.npy"])
    assert done == {"embedded": 0, "reused": COUNT}
    np.testing.assert_array_equal(load(tmp_path), load(whole)[::-1])


def test_another_model_takes_nothing_over(copied, whole):
    assert embed(copied / "texts.npy", texts(COUNT), seed=1) == {"embedded": COUNT, "reused": 0}
    assert np.abs(load(copied) - load(whole)).max() > 0.1


def test_no_texts_and_one(tmp_path):
    assert embed(tmp_path / "none.npy", texts(0)) == {"embedded": 0, "reused": 0}
    assert load(tmp_path, "none").shape == (0, SPEC.width)
    assert embed(tmp_path / "none.npy", texts(1)) == {"embedded": 1, "reused": 0}
    assert embed(tmp_path / "one.npy", texts(2), earlier=[tmp_path / "none.npy"]) == {"embedded": 1, "reused": 1}
    np.testing.assert_allclose(np.linalg.norm(load(tmp_path, "one"), axis=1), 1, rtol=1e-6)


def test_two_processes_write_the_same_file(whole, tmp_path):
    module = "tests.retrieval.embedding_process"
    pair = start_pair(
        lambda index, port: [sys.executable, "-m", module, str(tmp_path), str(COUNT), str(index), str(port)]
    )
    for status, _, errors in finish(pair, timeout=300):
        assert status == 0, errors
    np.testing.assert_allclose(load(tmp_path), load(whole), atol=1e-6)


def test_hashes_tell_texts_apart_that_share_their_joined_tokens():
    values = np.array([1, 2, 3, 1, 2, 3, 7], np.int32)
    hashes = hash_texts(Ragged(values, np.array([0, 2, 3, 4, 6, 6, 7])))  # [1 2] [3] [1] [2 3] [] [7]
    assert hashes.shape == (6, 16) and len(np.unique(hashes, axis=0)) == 6
    same = hash_texts(Ragged(values, np.array([0, 3, 6, 7])))
    np.testing.assert_array_equal(same[0], same[1])


def test_hashes_of_other_texts_are_not_believed(copied, tmp_path):
    """The hashes say whose embedding a row is: those of another order would give each text another one's."""
    np.save(copied / "texts.texts.npy", np.load(copied / "texts.texts.npy")[::-1])
    with pytest.raises(ValueError, match=r"texts\.texts\.npy: is damaged"):
        embed(tmp_path / "texts.npy", texts(COUNT), earlier=[copied / "texts.npy"])


def test_nothing_is_taken_from_a_run_that_was_killed_between_its_renames(copied, tmp_path, monkeypatch):
    """Its description and hashes are of other texts than its vectors, which are still the old ones."""
    replace = Path.replace

    def renaming(path, target):
        if Path(target).name == "texts.npy":
            raise Killed
        return replace(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", renaming)
        with pytest.raises(Killed):
            embed(copied / "texts.npy", texts(COUNT, first=1000))
    done = embed(tmp_path / "texts.npy", texts(COUNT, first=1000), earlier=[copied / "texts.npy"])
    assert done == {"embedded": COUNT, "reused": 0}
