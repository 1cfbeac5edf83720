"""Our own language model judges on two processes as on one: each its share, into a file of its own."""

from __future__ import annotations

import shutil
import sqlite3

import pyarrow.parquet as pq
import pytest

from tests.judge.small_models import save_chat_model
from tests.parallel.pair import finish, start_pair
from tests.stages.small import command, run


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    model = save_chat_model(tmp_path_factory.mktemp("model") / "model")
    return (
        "--config.judge.backend=jax",
        f"--config.judge.llm.model={model}",
        "--config.judge.llm.least_mass=0.0",
        "--config.judge.llm.batch_rows=1",
        "--config.judge.budget=40",
        "--config.judge.agreement_pairs=10",
    )


def rows(workdir):
    names = ("item_id", "keyphrase", "grade", "raw_score")
    return sorted(tuple(row[name] for name in names) for row in pq.read_table(workdir).to_pylist())


def test_two_processes_judge_as_one(tmp_path, flags):
    alone, both = tmp_path / "alone", tmp_path / "both"
    done = run("prepare", alone)
    assert done.returncode == 0, done.stderr
    shutil.copytree(alone, both)
    done = run("judge", alone, *flags)
    assert done.returncode == 0, done.stderr

    def judge(index: int, port: int) -> list[str]:
        return command("judge", both, *flags, f"--coordinator=localhost:{port}", "--processes=2", f"--process={index}")

    ended = finish(start_pair(judge))
    assert [status for status, _, _ in ended] == [0, 0], ended
    one, two = (rows(path / "judgements/judgements.parquet") for path in (alone, both))
    assert len(one) == 40 and [row[:2] for row in one] == [row[:2] for row in two]
    assert [row[2] for row in one] == [row[2] for row in two]
    assert [row[3] for row in one] == pytest.approx([row[3] for row in two], abs=1e-3)
    counts = []
    for number in range(2):
        path = both / "judgements/store" / f"judgements-{number:05d}.sqlite"
        assert not path.with_name(path.name + "-wal").exists()
        with sqlite3.connect(path) as store:
            counts.append(store.execute("SELECT count(*) FROM judgements").fetchone()[0])
    assert min(counts) > 0 and sum(counts) == 50
    # A finished store of two files is known to one process: nothing is asked again.
    done = run("judge", both, *flags, "--force")
    assert done.returncode == 0 and "judge: 0 pairs asked" in done.stderr, done.stderr
