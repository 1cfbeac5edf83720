"""Impossible settings are errors that name the field, before any work."""

import functools

import pytest

from configs import esci_ads, marketplace, pod, quickstart
from distill.config import ARMS, ConfigError, Experiment
from distill.stages.base import arm_experiment


def base() -> Experiment:
    return quickstart.get_config()


@pytest.mark.parametrize("config", [quickstart, esci_ads, marketplace, pod])
def test_the_shipped_configs_are_valid(config):
    assert config.get_config().validate().name


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("student.widths", (64, 256)),
        ("student.widths", (128, 64)),
        ("student.tasks.clicks", -0.1),
        ("student.distill.teacher", "llm"),
        ("student.optimizer.learning_rate", 0.0),
        ("student.optimizer.learning_rate", float("nan")),
        ("student.distill.kl", -1.0),
        ("student.distill.kl_temperature", 0.0),
        ("student.width_weights", (1.0,)),
        ("student.chunk_rows", -1),
        ("assistant.chunk_rows", -1),
        ("student.mixing", "random"),
        ("student.mixing_temperature", 0.5),
        ("student.mixing_shares.clicks", -1.0),
        ("student.propensity_clip", 0.5),
        ("student.hard_negatives.per_item", -1),
        ("student.hard_negatives.refreshes", -1),
        ("student.hard_negatives.first_rank", 0),
        ("student.hard_negatives.last_rank", 4),
        ("student.hard_negatives.margin", 3.0),
        ("student.hard_negatives.veto", "clicks"),
        ("student.hard_negatives.veto_from", 1.5),
        ("encoder.remat", "all"),
        ("encoder.attention", "flash"),
        ("encoder.attention", "cudnn"),
        ("assistant.grade_targets", (0.0, 0.5, 0.2, 1.0)),
        ("assistant.valid_share", 0.0),
        ("assistant.loss", "hinge"),
        ("training.checkpoint_steps", 0),
        ("training.keep_last", 1),
        ("training.keep_best", 0),
        ("encoder.heads", 3),
        ("encoder.depth", 2),
        ("encoder.row_tokens", 32),
        ("encoder.compute_dtype", "float16"),
        ("judge.backend", "oracle"),
        ("judge.rubric", ""),
        ("judge.budget", -1),
        ("judge.attempts", 0),
        ("judge.strata.random", -0.1),
        ("judge.active.run", "runs/earlier"),
        ("judge.active.against", "runs/other"),
        ("judge.endpoint.answer", "free"),
        ("judge.endpoint.concurrency", 0),
        ("judge.endpoint.timeout", 0.0),
        ("judge.llm.compute_dtype", "int8"),
        ("parallel.fsdp", 0),
        ("index.width", 32),
        ("recommend.candidates", 5),
        ("recommend.precision", 1.5),
        ("evaluate.arms", ("student_magic",)),
        ("evaluate.baselines", ("bm25", "bm26")),
        ("evaluate.prefix", 48),
        ("data.max_bad_share", 2.0),
        ("data.marketplace.human_queries", 2000),
    ],
)
def test_an_impossible_value_names_its_field(path, value):
    config = base()
    *parents, leaf = path.split(".")
    node = config
    for parent in parents:
        node = getattr(node, parent)
    setattr(node, leaf, value)
    with pytest.raises(ConfigError, match=path.split(".")[0] + r"[\w.]*" + leaf):
        config.validate()


@pytest.mark.parametrize(
    ("path", "value"), [("hard_negatives.per_item", 2), ("inverse_propensity", True), ("log_q", True)]
)
def test_what_belongs_to_the_clicks_task_is_refused_without_it(path, value):
    config = quickstart.get_config()
    *groups, leaf = path.split(".")
    setattr(functools.reduce(getattr, groups, config.student), leaf, value)
    config.validate()
    config.student.tasks.clicks = 0.0
    with pytest.raises(ConfigError, match=rf"student\.{path}"):
        config.validate()


def test_an_arm_hears_no_veto_of_what_it_must_not_know():
    config = quickstart.get_config()
    config.student.hard_negatives.per_item = 2
    arms = {name: arm_experiment(config, name).validate().student.hard_negatives for name in ARMS}
    assert arms["student_clicks"].veto == "none" and arms["student_no_assistant"].veto == "judge"
    assert arms["student_search_relevance"].per_item == 0 and config.student.hard_negatives.veto == "assistant"


def test_a_student_without_tasks_or_terms_is_refused():
    config = base()
    tasks = config.student.tasks
    tasks.clicks = tasks.search_relevance = tasks.distill = 0.0
    with pytest.raises(ConfigError, match=r"student\.tasks"):
        config.validate()
    config = base()
    terms = config.student.distill
    terms.pearson = terms.pearson_items = terms.mse = terms.margin_mse = terms.cosent = 0.0
    terms.hybrid = terms.ranknet = terms.kl = 0.0
    with pytest.raises(ConfigError, match=r"student\.distill: every term"):
        config.validate()
    terms.kl = 0.5
    config.validate()


def test_a_learnt_temperature_starts_where_it_may_go():
    config = base()
    config.student.temperature = 0.005
    config.validate()
    config.student.learn_temperature = True
    with pytest.raises(ConfigError, match=r"student\.temperature=0\.005.*0\.01 and 1"):
        config.validate()


def test_a_task_cannot_have_a_weight_and_no_step():
    config = base()
    config.student.mixing_shares.distill = 0.0
    config.validate()
    config.student.mixing = "fixed"
    with pytest.raises(ConfigError, match=r"mixing_shares\.distill=0"):
        config.validate()
    config.student.tasks.distill = 0.0
    config.validate()


def test_the_judge_must_fit_the_data():
    config = base()
    config.data.dir = "somewhere"
    with pytest.raises(ConfigError, match="simulated"):
        config.validate()
