"""The judge stage with every kind of language model: what it asks, what it keeps, and what it never asks again."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest

from distill.artifacts import ArtifactError, read_json
from distill.config import ConfigError, Experiment
from distill.data.text import fold_tokens, jaccard
from distill.judge.batch_files import WaitingForBatch
from distill.stages import run_stage
from distill.stages.base import Context
from distill.stages.judge import STAGE, judged
from distill.stages.judge_asking import dry_run
from tests.judge.http_servers import Asked, Reply, completion, serving
from tests.judge.small_models import save_chat_model
from tests.stages.small_config import get_config

KEY = "sk-judge-0123456789abcdef"


class Heard:
    """A reporter that remembers what it was told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def line(self, text: str) -> None:
        self.lines.append(text)

    def progress(self, name: str, total: int, done: int = 0):
        import contextlib

        return contextlib.nullcontext(lambda count=1, **figures: None)


def experiment(backend: str = "openai", **settings) -> Experiment:
    config = get_config()
    judge = config.judge
    judge.backend, judge.budget, judge.agreement_pairs, judge.repeats = backend, 120, 30, 20
    judge.endpoint.model, judge.llm.model = "clever", "unnamed"
    for name, value in settings.items():
        setattr(judge, name, value)
    return config.validate()


@pytest.fixture(scope="module")
def marketplace(tmp_path_factory):
    """A working directory with the data prepared."""
    workdir = tmp_path_factory.mktemp("judge")
    run_stage("prepare", Context(experiment(), workdir, Heard()))
    return workdir


@pytest.fixture
def workdir(marketplace, tmp_path):
    shutil.copytree(marketplace, tmp_path / "run")
    return tmp_path / "run"


def rule(body: dict) -> dict[str, float]:
    """Log-probabilities of a judge that counts shared words."""
    listing, keyphrase = (json.loads(one) for one in re.findall(r"\{.*\}", body["messages"][1]["content"]))
    alike = jaccard(fold_tokens(listing["title"]), fold_tokens(keyphrase["keyphrase"]))
    grade = min(3, int(alike * 12))
    return {str(grade): math.log(0.7), str((grade + 1) % 4): math.log(0.2)}


class Service:
    """Answers by `rule` and counts what it is asked."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.keys: set[str] = set()

    def __call__(self, asked: Asked) -> Reply:
        body = asked.json
        self.asked[body["messages"][1]["content"]] += 1
        self.keys.add(asked.headers.get("authorization", ""))
        return completion("", logprobs=rule(body))


@pytest.fixture
def service(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    answers = Service()
    with serving(answers) as url:
        answers.url = url  # type: ignore[attr-defined]
        yield answers


def with_url(config: Experiment, service: Service) -> Experiment:
    config.judge.endpoint.url = service.url  # type: ignore[attr-defined]
    return config


def test_a_service_judges_the_budget_and_is_measured(workdir, service):
    heard = Heard()
    context = Context(with_url(experiment(), service), workdir, heard)
    run_stage("judge", context)
    table = pq.read_table(workdir / "judgements/judgements.parquet")
    assert len(table) == 120 and set(table["judge"].to_pylist()) == {"openai:clever"}
    pairs, prepared = judged(context), context.prepared
    assert prepared.trainable[pairs["keyphrase"]].all()
    for item, keyphrase, grade, score in zip(
        *(table[name].to_pylist() for name in ("item_id", "keyphrase", "grade", "raw_score"))
    ):
        title = prepared.titles[prepared.item_ids.index(item)]
        expected = min(3, int(jaccard(fold_tokens(title), fold_tokens(keyphrase)) * 12))
        assert grade == expected
        assert score == pytest.approx((0.7 * grade + 0.2 * ((grade + 1) % 4)) / 0.9, abs=1e-4)
    trust = read_json(workdir / "judgements/agreement.json")
    assert trust["agreement"]["pairs"] == 30 and trust["intervals"]["scored_pairs"] == 30
    assert trust["consistency"]["comparisons"] == 20 and trust["consistency"]["same_grade"]["value"] == 1
    # 20 pairs were asked twice, for nothing else was anybody asked more than once.
    assert sum(service.asked.values()) == 170 and Counter(service.asked.values()) == {1: 130, 2: 20}
    assert service.keys == {f"Bearer {KEY}"}
    for path in workdir.rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes(), path
    assert KEY not in "\n".join(heard.lines)


def test_nothing_is_asked_twice_whatever_is_run_again(workdir, service):
    run_stage("judge", Context(with_url(experiment(), service), workdir, Heard()))
    before = sum(service.asked.values())
    run_stage("judge", Context(with_url(experiment(), service), workdir, Heard()), force=True)
    assert sum(service.asked.values()) == before
    larger = Context(with_url(experiment(budget=150), service), workdir, Heard())
    expected = dry_run(larger, STAGE)
    run_stage("judge", larger)
    assert len(judged(larger)["item"]) == 150
    asked = sum(service.asked.values()) - before
    # 30 pairs more, and as many repeats of others as there is room for.
    assert 30 <= asked <= 40 and expected.to_ask == asked and expected.known == expected.pairs - asked


def test_a_dry_run_needs_no_key_and_leaves_nothing(workdir, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    config = experiment()
    config.judge.endpoint.prompt_price = 10.0
    expected = dry_run(Context(config, workdir, Heard()), STAGE)
    assert expected.pairs == expected.to_ask == 170 and expected.prompt_tokens > 170 * 100
    assert expected.cost == pytest.approx(expected.prompt_tokens * 1e-5, rel=0.01)
    assert not (workdir / "judgements").exists()


def test_an_active_round_asks_where_two_judges_differ(workdir, tmp_path, service):
    run_stage("judge", Context(with_url(experiment(), service), workdir, Heard()))
    other, third = tmp_path / "other", tmp_path / "third"
    shutil.copytree(workdir, other)
    shutil.copytree(workdir / "data", third / "data")
    table = pq.read_table(workdir / "judgements/judgements.parquet")
    # The other judge says the opposite of ten pairs.
    grades, scores = (table[name].to_numpy().copy() for name in ("grade", "raw_score"))
    clear = np.argsort(-np.abs(scores - np.median(scores)), kind="stable")[:10]
    scores[clear], grades[clear] = 3 - scores[clear], 3 - grades[clear]
    changed = table.set_column(2, "grade", [grades]).set_column(5, "raw_score", [scores])
    pq.write_table(changed, other / "judgements/judgements.parquet")
    active = experiment(budget=20, most_per_item=20)
    active.judge.active.run, active.judge.active.against = str(workdir), str(other)
    active.judge.active.random_share = 0.0
    active.judge.endpoint.model = "cleverer"
    context = Context(with_url(active, service), third, Heard())
    run_stage("judge", context)
    found = pq.read_table(third / "judgements/judgements.parquet")
    assert len(found) == 120  # the earlier run's pairs, 20 of them asked again
    again = {
        (item, keyphrase)
        for item, keyphrase, judge in zip(*(found[n].to_pylist() for n in ("item_id", "keyphrase", "judge")))
        if judge == "openai:cleverer"
    }
    planted = {(table["item_id"][i].as_py(), table["keyphrase"][i].as_py()) for i in clear.tolist()}
    assert len(again) == 20 and len(again & planted) >= 8


def test_an_active_round_keeps_what_is_no_longer_trainable_out(workdir, tmp_path, service):
    earlier = Context(with_url(experiment(), service), workdir, Heard())
    run_stage("judge", earlier)
    third = tmp_path / "third"
    shutil.copytree(workdir / "data", third / "data")
    # Since then people have labelled a keyphrase that was judged.
    lost = pq.read_table(workdir / "judgements/judgements.parquet")["keyphrase"][0].as_py()
    keyphrases = pq.read_table(third / "data/keyphrases.parquet")
    trainable = [
        was and text != lost
        for text, was in zip(keyphrases["keyphrase"].to_pylist(), keyphrases["trainable"].to_pylist())
    ]
    pq.write_table(keyphrases.set_column(2, "trainable", [trainable]), third / "data/keyphrases.parquet")
    active = experiment(budget=10)
    active.judge.active.run, active.judge.active.against = str(workdir), str(workdir)
    active.judge.endpoint.model = "cleverer"
    heard = Heard()
    context = Context(with_url(active, service), third, heard)
    run_stage("judge", context)
    pairs = judged(context)
    assert context.prepared.trainable[pairs["keyphrase"][~pairs["holdout"]]].all()
    assert any("on human queries" in line for line in heard.lines)
    # The same judge again, and a run that reads itself, are refused before anything is lost.
    active.judge.endpoint.model = "clever"
    with pytest.raises(ConfigError, match="would say the same again"):
        run_stage("judge", Context(active, third, Heard()))
    itself = experiment(budget=10)
    itself.judge.active.run = str(workdir)
    with pytest.raises(ConfigError, match="own working directory"):
        run_stage("judge", Context(with_url(itself, service), workdir, Heard()))
    assert len(judged(earlier)["item"]) == 120


def test_a_judge_that_does_not_keep_to_the_rubric_is_stopped_early(workdir, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    asked = []

    def thinks(request: Asked) -> Reply:
        asked.append(1)
        return completion("<think>", logprobs={"<think>": math.log(0.99)})

    with serving(thinks) as url:
        config = experiment(budget=1000)
        config.judge.endpoint.url = url
        with pytest.raises(ValueError, match=r"only 0 of its first 200 answers are grades"):
            run_stage("judge", Context(config, workdir, Heard()))
    assert len(asked) < 250


def test_how_a_judge_is_reached_makes_nothing_stale(workdir, service):
    run_stage("judge", Context(with_url(experiment(), service), workdir, Heard()))
    elsewhere = experiment()
    elsewhere.judge.endpoint.url, elsewhere.judge.endpoint.timeout = "http://localhost:1/v1", 5.0
    elsewhere.judge.endpoint.prompt_price = 2.0
    assert not run_stage("judge", Context(elsewhere, workdir, Heard()))


def test_a_dry_run_names_the_stage_that_comes_first(tmp_path):
    with pytest.raises(ArtifactError, match=r"launch\.prepare"):
        dry_run(Context(experiment(), tmp_path, Heard()), STAGE)


def test_of_several_judges_of_a_pair_one_speaks(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    (data / "items.jsonl").write_text(
        "".join(json.dumps({"item_id": f"i{n}", "title": f"red kettle {n} litres"}) + "\n" for n in range(4))
    )
    (data / "keyphrases.tsv").write_text("keyphrase\nkettle\nred kettle\n")
    rows = [("i0", "kettle", 3, "few", "r"), *((f"i{n}", "kettle", 1, "many", "r") for n in range(4))]
    rows.append(("i0", "red kettle", 2, "few", "r"))
    lines = ["item_id\tkeyphrase\tgrade\tjudge\trubric", *("\t".join(map(str, row)) for row in rows)]
    (data / "judgements.tsv").write_text("\n".join(lines) + "\n")
    config = get_config()
    config.data.dir, config.judge.backend = str(data), "replay"
    heard = Heard()
    context = Context(config.validate(), tmp_path / "run", heard)
    run_stage("prepare", context)
    run_stage("judge", context)
    found = pq.read_table(tmp_path / "run/judgements/judgements.parquet").to_pylist()
    voices = {(row["item_id"], row["keyphrase"]): (row["grade"], row["judge"]) for row in found}
    assert len(found) == len(voices) == 5
    assert voices["i0", "kettle"] == (1, "many") and voices["i0", "red kettle"] == (2, "few")
    assert any("1 further grades" in line and "many under r goes first" in line for line in heard.lines)


def test_a_batch_service_is_asked_by_files(workdir):
    config = experiment("batch", repeats=0)
    context = Context(config, workdir, Heard())
    with pytest.raises(WaitingForBatch, match=r"requests-00000\.jsonl"):
        run_stage("judge", context)
    assert not (workdir / "judgements/manifest.json").exists()
    folder = workdir / "judgements/batch"
    lines = [json.loads(line) for line in (folder / "requests-00000.jsonl").read_text().splitlines()]
    assert len(lines) == 150
    results = []
    for line in lines:
        body = json.loads(completion("", logprobs=rule(line["body"])).body)
        results.append({"custom_id": line["custom_id"], "response": {"status_code": 200, "body": body}, "error": None})
    (folder / "results.jsonl").write_text("".join(json.dumps(result) + "\n" for result in results))
    run_stage("judge", context)
    assert len(judged(context)["item"]) == 120


def test_a_language_model_of_our_own_judges(workdir, tmp_path):
    config = experiment("jax", budget=24, agreement_pairs=8)
    config.judge.llm.model = str(save_chat_model(tmp_path / "model"))
    config.judge.llm.least_mass = 0.0  # random weights favour no answer
    config.judge.llm.row_tokens, config.judge.llm.batch_rows = 1024, 1
    context = Context(config, workdir, Heard())
    run_stage("judge", context)
    table = pq.read_table(workdir / "judgements/judgements.parquet")
    assert len(table) == 24 and table["judge"][0].as_py().startswith("jax:model:")
    assert 0 <= min(table["raw_score"].to_pylist()) <= max(table["raw_score"].to_pylist()) <= 3
    assert read_json(workdir / "judgements/agreement.json")["agreement"]["pairs"] == 8
