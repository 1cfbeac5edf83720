"""The protocol over a marketplace: the same counts as by hand, every kind of judge, and what is not known."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distill.artifacts import read_json, write_json
from distill.config import ConfigError, Experiment
from distill.data.hashing import draw_by_name
from distill.data.marketplace import World
from distill.evaluate.metric_table import MetricTable
from distill.retrieval.dedupe import deduplicate
from distill.retrieval.mixing import HEAD, head_or_tail
from distill.stages import run_stage
from distill.stages.assistant import CALIBRATION
from distill.stages.base import Context
from distill.stages.compare import compare_runs
from distill.stages.models import Assistant, Bi, Bm25, Graph
from distill.stages.protocol import protocol_dry_run, run_protocol
from tests.judge.http_servers import Asked, Reply, completion, serving
from tests.stages.small import run
from tests.stages.small_config import get_config
from tests.stages.test_judge import Heard

ITEMS, K, RELEVANT = 25, 8, 2


def experiment(backend: str = "simulated", **settings) -> Experiment:
    config = get_config()
    config.judge.backend, config.judge.endpoint.model = backend, "clever"
    config.evaluate.protocol.run, config.evaluate.protocol.items, config.evaluate.protocol.keyphrases = True, ITEMS, K
    for name, value in settings.items():
        setattr(config.evaluate.protocol, name, value)
    return config


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("protocol")
    run_stage("prepare", Context(experiment(), workdir, Heard()))
    calibration = {"slope": 1.0, "intercept": -4.0, "relevant_grade": RELEVANT}
    write_json(workdir / "assistant" / CALIBRATION, {"calibration": calibration, "relevant_grade": RELEVANT})
    return workdir


@pytest.fixture
def workdir(prepared, tmp_path):
    shutil.copytree(prepared, tmp_path / "run")
    return tmp_path / "run"


def models(context):
    """Real ones that need no training; the assistant reads a pair by BM25, and is relevant from a score of 4."""
    rng = np.random.default_rng(0)
    sizes = len(context.prepared.item_ids), len(context.prepared.keyphrases)
    student = Bi(*(rng.normal(size=(size, 8)).astype(np.float32) for size in sizes))
    words = Bm25(context)
    return {
        "bm25": words,
        "graphex": Graph(context),
        "assistant": Assistant(words.score, student),
        "student": student,
        "student@4": student.prefix(4),
    }


def protocol(workdir, config, heard=None):
    """(what it returns, numbers, context, folder); the folder is a report's."""
    context = Context(config, workdir, heard or Heard())
    folder = workdir / "report"
    folder.mkdir(exist_ok=True)
    table = MetricTable(100, 0)
    result = run_protocol(context, folder, table, models(context))
    assert read_json(folder / "protocol.json") == result
    return result, table.as_dict(), context


def lists(context, items):
    """source → one list of keyphrases a listing, of the ranked sources."""
    return {
        name: [[k for k in row if k >= 0] for row in model.top(items, K).tolist()]
        for name, model in models(context).items()
        if name in ("bm25", "graphex", "student")
    }


def by_hand(context, items, grade, source):
    """Relevant, new and head counts of one source and listing, one listing after the other, in plain Python."""
    data, texts = context.prepared, context.prepared.keyphrases
    table, blocklist = data.recommendations(), data.blocklist()
    searched = data.holdout("search_relevance")
    verdicts = (searched[name].tolist() for name in ("item", "keyphrase", "passed"))
    passed = {(i, k): bool(verdict) for i, k, verdict in zip(*verdicts)}
    blocked = set(zip(blocklist["item"].tolist(), blocklist["keyphrase"].tolist()))
    head = head_or_tail(data.search_volume, 0.5) == HEAD
    new, relevant, leading = [], [], []
    for item, offered in zip(items.tolist(), lists(context, items)[source]):
        offered = [k for k in offered if (item, k) not in blocked and (-1, k) not in blocked]
        already = [texts[k] for i, k in zip(table["item"].tolist(), table["keyphrase"].tolist()) if i == item]
        left = [offered[at] for at in deduplicate([texts[k] for k in offered], already)[0]]
        good = [k for k in left if passed.get((item, k), True) and grade(item, k) >= RELEVANT]
        new.append(len(left))
        relevant.append(len(good))
        leading.append(sum(head[k] for k in good))
    return new, relevant, leading


def test_the_counts_are_those_of_one_listing_after_the_other(workdir):
    heard = Heard()
    result, numbers, context = protocol(workdir, experiment(), heard)
    data, config = context.prepared, context.experiment
    held_out = np.flatnonzero(data.item_is_holdout)
    items = held_out[draw_by_name([data.item_ids[item] for item in held_out], ITEMS, config.seed, 5)]
    world = World(config.data.marketplace, config.seed)
    rows = {name: row for row, name in enumerate(world.item_ids.tolist())}
    phrases = {name: row for row, name in enumerate(world.keyphrases)}

    def grade(item, keyphrase):
        at = np.array([rows[data.item_ids[item]]]), np.array([phrases[data.keyphrases[keyphrase]]])
        return int(world.judge(*at)[0])

    for source in ("student", "bm25", "graphex"):
        new, relevant, leading = by_hand(context, items, grade, source)
        assert result["sources"][source]["new"] == sum(new)
        assert numbers[f"protocol/{source}/new_per_item"] == pytest.approx(np.mean(new))
        assert numbers[f"protocol/{source}/relevant_per_item_by_simulated"] == pytest.approx(np.mean(relevant))
        assert numbers[f"protocol/{source}/head_relevant_per_item_by_simulated"] == pytest.approx(np.mean(leading))
    assert numbers["protocol/bm25/relevant_per_item_by_simulated"] > 0.5
    # The assistant and the prefix are no sources of their own; those that recommend already are.
    assert set(result["sources"]) == {"bm25", "graphex", "student", "recommended:rules", "recommended:seller"}
    assert numbers["diff/protocol/relevant_per_item_by_simulated/student-bm25/ci_high"] < 0  # the student is random
    assert list(result["judges"]) == ["simulated", "assistant"]
    said = " ".join(heard.lines)
    assert "by simulated, which knows" in said and "by assistant, which knows" in said
    for source, one in result["sources"].items():
        search = one["search"]
        assert one["new"] == sum(search.values()), source
    assert result["sources"]["student"]["search"]["unknown"] > 0
    assert {"top category", "leaf category", "title", "clicks", "search volume"} <= set(
        result["judges"]["assistant"]["slices"]
    )
    assert all(math.isfinite(value) for value in numbers.values())


def test_running_again_gives_the_same_bytes(workdir):
    protocol(workdir, experiment())
    first = (workdir / "report" / "protocol.json").read_bytes()
    protocol(workdir, experiment())
    assert (workdir / "report" / "protocol.json").read_bytes() == first


class Service:
    """A language model that grades 3 where listing and keyphrase share a word; counts what it is asked."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()

    def __call__(self, asked: Asked) -> Reply:
        text = asked.json["messages"][1]["content"]
        self.asked[text] += 1
        listing, keyphrase = (json.loads(one) for one in re.findall(r"\{.*\}", text))
        grade = 3 if set(listing["title"].lower().split()) & set(keyphrase["keyphrase"].lower().split()) else 0
        return completion("", logprobs={str(grade): math.log(0.9), str((grade + 1) % 4): math.log(0.05)})


def test_a_language_model_is_asked_about_each_pair_once_and_never_again(workdir, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-protocol-0123456789")
    service, heard = Service(), Heard()
    config = experiment("openai", judges=("judge",), sources=("student", "bm25"))
    config.judge.endpoint.prompt_price = 10.0
    context = Context(config, workdir, heard)
    expected = protocol_dry_run(context, models(context))
    assert not (workdir / "judgements").exists() and not (workdir / "report").exists()
    assert expected.cost == pytest.approx(expected.prompt_tokens * 1e-5, rel=0.01) and expected.prompt_tokens > 1000
    with serving(service) as url:
        config.judge.endpoint.url = url
        result, numbers, _ = protocol(workdir, config, heard)
        judge = result["judges"]["llm"]
        asked = sum(judge["statuses"].values())
        assert judge["statuses"] == {"graded": asked} and judge["name"] == "openai:clever under graded-v1"
        assert asked == expected.pairs == expected.to_ask
        assert len(service.asked) == asked and set(service.asked.values()) == {1}
        # BM25 finds keyphrases by their words, so this judge likes them better than the random student's.
        shares = [numbers[f"protocol/{source}/relevant_share_by_llm"] for source in ("bm25", "student")]
        assert shares[0] > shares[1] + 0.3
        again, _, _ = protocol(workdir, config, heard)
        assert sum(service.asked.values()) == asked and again == result
        config.evaluate.protocol.keyphrases = K + 1  # further pairs are asked, known ones are not
        more = protocol_dry_run(context, models(context))
        protocol(workdir, config, heard)
        assert (more.known, more.to_ask) == (asked, len(service.asked) - asked)
        assert set(service.asked.values()) == {1} and len(service.asked) > asked
    assert f"{asked:,} pairs asked of openai:clever, 0 known already" in " ".join(heard.lines)
    assert f"0 pairs asked of openai:clever, {asked:,} known already" in " ".join(heard.lines)


@pytest.mark.parametrize(
    ("backend", "judges", "named"),
    [("simulated", ("judge",), "judge.backend='simulated'"), ("openai", ("assistant",), "protocol.judges")],
)
def test_a_dry_run_where_nobody_is_asked_says_so(workdir, backend, judges, named):
    context = Context(experiment(backend, judges=judges), workdir, Heard())
    with pytest.raises(ValueError, match="--dry_run") as failure:
        protocol_dry_run(context, models(context))
    assert named in str(failure.value)


def test_replayed_judgements_leave_the_rest_unknown(workdir):
    """Two pairs of the student's own are graded; all else stays unknown, and no number is made of it."""
    context = Context(experiment(), workdir, Heard())
    held_out = np.flatnonzero(context.prepared.item_is_holdout)
    names = [context.prepared.item_ids[item] for item in held_out]
    items = held_out[draw_by_name(names, ITEMS, context.experiment.seed, 5)]
    with_new = [(item, row[0]) for item, row in zip(items.tolist(), lists(context, items)["bm25"]) if row][:2]
    ids, texts = context.prepared.item_ids, context.prepared.keyphrases
    graded = {
        "item_id": [ids[item] for item, _ in with_new],
        "keyphrase": [texts[k] for _, k in with_new],
        "grade": [3, 0],
        "judge": ["someone"] * 2,
        "rubric": ["graded-v1"] * 2,
    }
    pq.write_table(pa.table(graded), workdir / "data" / "holdout" / "judgements.parquet")
    for name in ("holdout/recommendations", "holdout/search_relevance", "recommendations", "blocklist"):
        (workdir / "data" / f"{name}.parquet").unlink()
    heard = Heard()
    result, numbers, _ = protocol(workdir, experiment("replay", sources=("bm25", "student")), heard)
    judge = result["judges"]["replay"]
    assert judge["name"] == "the judgements table: someone under graded-v1"
    assert judge["statuses"]["graded"] == 2 and judge["statuses"]["failed"] > 100
    assert judge["counts"]["bm25"]["known"] == 2 and judge["counts"]["bm25"]["relevant"] == 1
    assert numbers["protocol/bm25/relevant_share_by_replay"] == 0.5  # of two listings, the only ones with a grade
    assert numbers["protocol/bm25/relevant_per_item_by_replay"] == pytest.approx(1 / ITEMS)
    assert numbers["protocol/bm25/known_share_by_replay"] == pytest.approx(2 / judge["counts"]["bm25"]["eligible"])
    assert "protocol/student/relevant_share_by_replay" not in numbers  # nothing of it is known, and so no share
    found = result["sources"]["bm25"]
    assert found["search"] == {"passed": 0, "rejected": 0, "unknown": found["new"]}
    assert not any("align_" in name for name in numbers)
    said = " ".join(heard.lines)
    assert "nothing to de-duplicate against" in said and "the protocol calls all unknown" in said


def test_without_search_volume_there_is_no_head(workdir):
    table = pq.read_table(workdir / "data" / "keyphrases.parquet")
    none = pa.nulls(len(table), pa.int64())
    pq.write_table(table.set_column(1, "search_volume", none), workdir / "data" / "keyphrases.parquet")
    result, numbers, _ = protocol(workdir, experiment(judges=("assistant",)))
    assert result["head"] is None and not any("head" in name for name in numbers)
    assert "search volume" not in result["judges"]["assistant"]["slices"]


def test_sources_and_sides_are_chosen_by_name(workdir):
    config = experiment(judges=("assistant",), sources=("student@4", "recommended:rules"))
    result, numbers, _ = protocol(workdir, config)
    assert set(result["sources"]) == {"student@4", "recommended:rules"}
    assert "diff/protocol/relevant_per_item_by_assistant/student@4-recommended:rules" in numbers
    assert (result["examples"]["first"], result["examples"]["second"]) == ("student@4", "recommended:rules")
    alone, _, _ = protocol(workdir, experiment(judges=("assistant",), sources=("bm25",)))
    assert alone["examples"] == {} and alone["judges"]["assistant"]["side_by_side"] is None
    with pytest.raises(ConfigError, match=r"sources=\('bm26',\): this run has no 'bm26'; it has bm25, graphex"):
        protocol(workdir, experiment(sources=("bm26",)))
    with pytest.raises(ConfigError, match=r"side_by_side=.*'zero_shot' is not among the sources"):
        protocol(workdir, experiment(side_by_side=("student", "zero_shot")))


def test_no_held_out_listing_is_said(workdir):
    path = workdir / "data" / "items.parquet"
    table = pq.read_table(path)
    column = table.column_names.index("split")
    pq.write_table(table.set_column(column, "split", pa.array(["train"] * len(table))), path)
    heard, context = Heard(), None
    context = Context(experiment(), workdir, heard)
    assert run_protocol(context, workdir, MetricTable(), models(context)) == {}
    assert "no held-out listing" in heard.lines[-1]


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("items", 0, "protocol.items=0: must be at least 1"),
        ("head_share", 1.5, "protocol.head_share=1.5: must lie between 0 and 1"),
        ("judges", (), r"protocol.judges=\(\): name at least one"),
        ("judges", ("llm",), "protocol.judges='llm': must be one of 'judge', 'assistant'"),
        ("judges", ("judge", "judge"), "name each once"),
        ("side_by_side", ("student",), "name two different sources"),
    ],
)
def test_settings_that_cannot_work_are_named(name, value, words):
    with pytest.raises(ConfigError, match=words):
        experiment(**{name: value}).validate()


@pytest.mark.slow
def test_the_flag_runs_it_after_a_pipeline_and_two_runs_compare(tmp_path):
    workdir, other = tmp_path / "a", tmp_path / "b"
    assert run("pipeline", workdir).returncode == 0
    shutil.copytree(workdir, other)
    smaller = ("--protocol", "--config.evaluate.protocol.items=30")
    done = run("evaluate", workdir, *smaller)
    assert done.returncode == 0 and "relevant keyphrases per listing by simulated" in done.stderr, done.stderr
    outputs = read_json(workdir / "report" / "manifest.json")["outputs"]
    assert {"metrics.json", "index.html", "samples.parquet", "protocol.json"} == outputs.keys()
    metrics = read_json(workdir / "report" / "metrics.json")
    assert "diff/protocol/relevant_per_item_by_simulated/student-student_clicks/p" in metrics
    assert '<section id="protocol">' in (workdir / "report" / "index.html").read_text()
    assert "evaluate: complete, nothing to do" in run("evaluate", workdir, *smaller).stderr
    worse = run("pipeline", other, *smaller[1:], "--config.evaluate.protocol.run=True", "--config.student.epochs=0.3")
    assert worse.returncode == 0, worse.stderr
    found = compare_runs(workdir, other)
    assert "protocol/student/relevant_per_item_by_simulated" in [change.name for change in found.changes]
    assert "truth/recall@20/student" in found.regressed
    assert "truth/recall@20/student" not in compare_runs(other, workdir).regressed
    again = run("evaluate", workdir)
    assert again.returncode == 0 and not (workdir / "report" / "protocol.json").exists()
