"""A stage is skipped while nothing it reads changes, resumed when it was cut off, and never half complete."""

import pytest

from distill.artifacts import ArtifactError, StageFolder, output_hash, read_manifest


def folder(path, **config):
    return StageFolder("demo", path / "demo", config, {"prepare": "abc"})


def run(stage_folder, work):
    stage_folder.open()
    return stage_folder.publish(work(stage_folder.path), [stage_folder.path / "out.txt"], seconds=0.1)


def write(text):
    def work(path):
        (path / "out.txt").write_text(text)
        return {"rows": 1}

    return work


def test_complete_until_the_config_or_an_input_changes(tmp_path):
    assert not folder(tmp_path, a=1).is_complete()
    run(folder(tmp_path, a=1), write("x"))
    assert folder(tmp_path, a=1).is_complete()
    assert not folder(tmp_path, a=2).is_complete()
    assert not StageFolder("demo", tmp_path / "demo", {"a": 1}, {"prepare": "other"}).is_complete()
    manifest = read_manifest(tmp_path / "demo")
    assert manifest is not None and manifest["counts"] == {"rows": 1} and manifest["outputs"].keys() == {"out.txt"}


def test_an_unfinished_folder_keeps_its_files_and_a_stale_one_is_emptied(tmp_path):
    def cut_off(path):
        (path / "partial").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(folder(tmp_path, a=1), cut_off)
    assert not folder(tmp_path, a=1).is_complete()
    seen = []

    def resume(path):
        seen.append((path / "partial").exists())
        return write("x")(path)

    run(folder(tmp_path, a=1), resume)
    run(folder(tmp_path, a=2), resume)
    assert seen == [True, False]


def test_what_a_stage_keeps_outlives_a_stale_folder_and_force(tmp_path):
    def keeping(**config):
        return StageFolder("demo", tmp_path / "demo", config, {}, keeps=("store",))

    def work(path):
        (path / "store").mkdir(exist_ok=True)
        (path / "shards").mkdir()
        (path / "store" / "answers").write_text("paid for")
        return write("x")(path)

    run(keeping(a=1), work)
    keeping(a=2).open()
    assert (tmp_path / "demo/store/answers").read_text() == "paid for"
    assert not (tmp_path / "demo/shards").exists() and not (tmp_path / "demo/out.txt").exists()
    keeping(a=2).clear()
    assert [entry.name for entry in (tmp_path / "demo").iterdir()] == ["store"]


def test_the_output_hash_follows_the_published_bytes_alone(tmp_path):
    run(folder(tmp_path, a=1), write("x"))
    before = output_hash(tmp_path / "demo", "make demo")
    (tmp_path / "demo" / "curves.json").write_text("{}")
    run(folder(tmp_path, a=2), write("x"))
    assert output_hash(tmp_path / "demo", "make demo") == before
    run(folder(tmp_path, a=3), write("y"))
    assert output_hash(tmp_path / "demo", "make demo") != before


def test_a_missing_stage_says_which_command_to_run(tmp_path):
    with pytest.raises(ArtifactError, match=r"python -m launch\.prepare"):
        output_hash(tmp_path / "nothing", "python -m launch.prepare")
