"""A stage is skipped while nothing it reads changes, resumed when it was cut off, and never half complete."""

import pytest

from distill.artifacts import ArtifactError, StageFolder, output_hash, read_manifest


def folder(path, **config):
    return StageFolder("demo", path / "demo", config, {"prepare": "abc"})


def publish(path):
    return [path / "out.txt"]


def write(text):
    def work(path):
        (path / "out.txt").write_text(text)
        return {"rows": 1}

    return work


def test_complete_until_the_config_or_an_input_changes(tmp_path):
    assert not folder(tmp_path, a=1).is_complete()
    folder(tmp_path, a=1).run(write("x"), publish)
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
        folder(tmp_path, a=1).run(cut_off, publish)
    assert not folder(tmp_path, a=1).is_complete()
    seen = []

    def resume(path):
        seen.append((path / "partial").exists())
        return write("x")(path)

    folder(tmp_path, a=1).run(resume, publish)
    folder(tmp_path, a=2).run(resume, publish)
    assert seen == [True, False]


def test_the_output_hash_follows_the_published_bytes_alone(tmp_path):
    folder(tmp_path, a=1).run(write("x"), publish)
    before = output_hash(tmp_path / "demo", "make demo")
    (tmp_path / "demo" / "curves.json").write_text("{}")
    folder(tmp_path, a=2).run(write("x"), publish)
    assert output_hash(tmp_path / "demo", "make demo") == before
    folder(tmp_path, a=3).run(write("y"), publish)
    assert output_hash(tmp_path / "demo", "make demo") != before


def test_a_missing_stage_says_which_command_to_run(tmp_path):
    with pytest.raises(ArtifactError, match=r"python -m launch\.prepare"):
        output_hash(tmp_path / "nothing", "python -m launch.prepare")
