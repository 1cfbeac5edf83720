"""What a setting may be; each check names the field, its value and what to do."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from distill.config.rules import ConfigError, at_least, between_0_and_1, leaves, one_of, positive

if TYPE_CHECKING:
    from distill.config import settings

BACKENDS = ("replay", "simulated", "openai", "batch", "jax")
ARMS = ("student_clicks", "student_search_relevance", "student_no_assistant")
BASELINES = ("bm25", "graphex")
PROTOCOL_JUDGES = ("judge", "assistant")
SAVED_MODELS = ("student", "assistant", "recommender", "recommender_exact")
DISTILL_TERMS = ("pearson", "pearson_items", "mse", "margin_mse", "hybrid", "cosent", "ranknet", "kl")


def check_encoder(encoder: settings.EncoderConfig) -> None:
    for name in ("vocab_size", "layers", "width", "heads", "mlp_width"):
        at_least(f"encoder.{name}", getattr(encoder, name), 1)
    at_least("encoder.depth", encoder.depth, 0)
    if encoder.depth and not encoder.init:
        raise ConfigError(f"config.encoder.depth={encoder.depth}: is of a pretrained encoder; set encoder.layers")
    if not encoder.init and encoder.width % encoder.heads:
        raise ConfigError(f"config.encoder.heads={encoder.heads}: must divide encoder.width={encoder.width}")
    at_least("encoder.item_tokens", encoder.item_tokens, 4)
    at_least("encoder.keyphrase_tokens", encoder.keyphrase_tokens, 4)
    longest = encoder.item_tokens + encoder.keyphrase_tokens
    if encoder.row_tokens < longest:
        raise ConfigError(
            f"config.encoder.row_tokens={encoder.row_tokens}: a row must hold the longest pair, "
            f"item_tokens + keyphrase_tokens = {longest}"
        )
    one_of("encoder.compute_dtype", encoder.compute_dtype, ("float32", "bfloat16"))
    one_of("encoder.attention", encoder.attention, ("matmul", "cudnn"))
    if encoder.attention == "cudnn" and encoder.compute_dtype != "bfloat16":
        raise ConfigError("config.encoder.attention='cudnn': needs encoder.compute_dtype='bfloat16'")
    one_of("encoder.remat", encoder.remat, ("none", "layer", "dots"))


def check_parallel(path: str, parallel: settings.ParallelConfig) -> None:
    sizes = dataclasses.asdict(parallel)
    for name, size in sizes.items():
        if size != -1 and size < 1:
            raise ConfigError(f"config.{path}.{name}={size}: must be at least 1, or -1 for what is left")
    if sum(size == -1 for size in sizes.values()) > 1:
        raise ConfigError(f"config.{path}={sizes}: at most one axis may be -1")


def check_judge(judge: settings.JudgeConfig, embedded: bool) -> None:
    one_of("judge.backend", judge.backend, BACKENDS)
    if judge.backend == "simulated" and not embedded:
        raise ConfigError("config.judge.backend='simulated': only the embedded marketplace (empty data.dir) has one")
    if judge.backend == "replay" and embedded:
        raise ConfigError("config.judge.backend='replay': the embedded marketplace has no judgements; use 'simulated'")
    if not judge.rubric:
        raise ConfigError("config.judge.rubric='': name one of distill/judge/rubrics, or the path of your own file")
    for name in ("budget", "most_per_item", "repeats", "agreement_pairs"):
        at_least(f"judge.{name}", getattr(judge, name), 0)
    at_least("judge.pairs_per_item", judge.pairs_per_item, 1)
    at_least("judge.attempts", judge.attempts, 1)
    shares = {name: share for name, share in vars(judge.strata).items() if not name.endswith("_ranks")}
    for name, share in shares.items():
        at_least(f"judge.strata.{name}", share, 0)
    at_least("judge.strata.near_ranks", judge.strata.near_ranks, 1)
    at_least("judge.strata.far_ranks", judge.strata.far_ranks, judge.strata.near_ranks)
    if not any(shares.values()):
        raise ConfigError("config.judge.strata: every share is 0; give at least one stratum a share")
    between_0_and_1("judge.active.random_share", judge.active.random_share)
    if judge.active.against and not judge.active.run:
        raise ConfigError(
            f"config.judge.active.against={judge.active.against!r}: it is compared with the judgements of active.run; "
            "name that run's working directory too"
        )
    if judge.active.run and judge.backend in ("replay", "simulated"):
        raise ConfigError(
            f"config.judge.active.run={judge.active.run!r}: needs a judge that can be asked, "
            f"not backend={judge.backend!r}, whose answers never change"
        )
    endpoint, llm = judge.endpoint, judge.llm
    if judge.backend in ("openai", "batch") and not endpoint.model:
        raise ConfigError("config.judge.endpoint.model='': name the model as the service calls it")
    one_of("judge.endpoint.answer", endpoint.answer, ("logprobs", "json"))
    for name in ("keyphrases_per_call", "concurrency", "tries"):
        at_least(f"judge.endpoint.{name}", getattr(endpoint, name), 1)
    between_0_and_1("judge.endpoint.least_mass", endpoint.least_mass)
    between_0_and_1("judge.llm.least_mass", llm.least_mass)
    positive("judge.endpoint.timeout", endpoint.timeout)
    at_least("judge.endpoint.prompt_price", endpoint.prompt_price, 0)
    at_least("judge.endpoint.completion_price", endpoint.completion_price, 0)
    if judge.backend == "jax" and not llm.model:
        raise ConfigError("config.judge.llm.model='': name a Hugging Face directory or hub name, or a .gguf file")
    one_of("judge.llm.compute_dtype", llm.compute_dtype, ("float32", "bfloat16"))
    at_least("judge.llm.row_tokens", llm.row_tokens, 64)
    at_least("judge.llm.batch_rows", llm.batch_rows, 1)
    check_parallel("judge.llm.parallel", llm.parallel)


def check_optimizer(path: str, optimizer: settings.OptimizerConfig) -> None:
    positive(f"{path}.learning_rate", optimizer.learning_rate)
    between_0_and_1(f"{path}.warmup_share", optimizer.warmup_share)
    at_least(f"{path}.weight_decay", optimizer.weight_decay, 0)
    positive(f"{path}.clip_norm", optimizer.clip_norm)
    for name in ("b1", "b2"):
        if not 0 <= getattr(optimizer, name) < 1:
            raise ConfigError(f"config.{path}.{name}={getattr(optimizer, name)}: must lie in [0, 1)")


def check_assistant(assistant: settings.AssistantConfig) -> None:
    at_least("assistant.depth", assistant.depth, 0)
    one_of("assistant.loss", assistant.loss, ("soft_cross_entropy", "ordinal"))
    if len(assistant.grade_targets) != 4 or list(assistant.grade_targets) != sorted(assistant.grade_targets):
        raise ConfigError(
            f"config.assistant.grade_targets={assistant.grade_targets}: four rising numbers, grades 0 to 3"
        )
    for target in assistant.grade_targets:
        between_0_and_1("assistant.grade_targets", target)
    positive("assistant.epochs", assistant.epochs)
    at_least("assistant.batch_pairs", assistant.batch_pairs, 1)
    at_least("assistant.chunk_rows", assistant.chunk_rows, 0)
    at_least("assistant.validations", assistant.validations, 1)
    if not 0 < assistant.valid_share < 1:
        raise ConfigError(f"config.assistant.valid_share={assistant.valid_share}: must lie strictly between 0 and 1")
    between_0_and_1("assistant.dropout", assistant.dropout)
    check_optimizer("assistant.optimizer", assistant.optimizer)


def check_student(student: settings.StudentConfig, encoder: settings.EncoderConfig) -> None:
    for group in ("tasks", "distill"):
        for name, weight in leaves(getattr(student, group)):
            if isinstance(weight, float):
                at_least(f"student.{group}.{name}", weight, 0)
    between_0_and_1("student.distill.grade_share", student.distill.grade_share)
    if not any(value > 0 for _, value in leaves(student.tasks)):  # type: ignore[operator]
        raise ConfigError("config.student.tasks: every weight is 0; give at least one task a positive weight")
    one_of("student.mixing", student.mixing, ("joint", "proportional", "temperature", "fixed"))
    if student.mixing_temperature < 1:
        raise ConfigError(
            f"config.student.mixing_temperature={student.mixing_temperature}: must be at least 1; "
            "1 draws tasks in proportion to their pairs, more evens them out"
        )
    for name, share in leaves(student.mixing_shares):
        at_least(f"student.mixing_shares.{name}", share, 0)  # type: ignore[arg-type]
        if student.mixing == "fixed" and share == 0 and getattr(student.tasks, name) > 0:
            raise ConfigError(
                f"config.student.mixing_shares.{name}=0: the task would get no step; give it a share, "
                f"or leave it out with tasks.{name}=0"
            )
    one_of("student.distill.teacher", student.distill.teacher, ("assistant", "judge"))
    positive("student.distill.scale", student.distill.scale)
    positive("student.distill.kl_temperature", student.distill.kl_temperature)
    if student.tasks.distill > 0 and not any(getattr(student.distill, term) for term in DISTILL_TERMS):
        raise ConfigError("config.student.distill: every term's weight is 0; give one a positive weight")
    positive("student.temperature", student.temperature)
    if student.learn_temperature and not 0.01 <= student.temperature <= 1:
        raise ConfigError(
            f"config.student.temperature={student.temperature}: must lie between 0.01 and 1, "
            "where learn_temperature keeps it"
        )
    at_least("student.propensity_clip", student.propensity_clip, 1)
    for name in ("inverse_propensity", "log_q"):
        if getattr(student, name) and not student.tasks.clicks:
            raise ConfigError(f"config.student.{name}=True: is of the clicks task, whose weight tasks.clicks is 0")
    check_hard_negatives(student)
    if not student.widths or list(student.widths) != sorted(set(student.widths)) or student.widths[0] < 1:
        raise ConfigError(
            f"config.student.widths={student.widths}: rising positive Matryoshka widths, the full one last"
        )
    if len(student.width_weights) != len(student.widths):
        raise ConfigError(
            f"config.student.width_weights={student.width_weights}: one weight for each of widths={student.widths}"
        )
    for weight in student.width_weights:
        at_least("student.width_weights", weight, 0)
    if not encoder.init:
        check_width(student, encoder.width)
    positive("student.epochs", student.epochs)
    at_least("student.batch_items", student.batch_items, 2)
    at_least("student.chunk_rows", student.chunk_rows, 0)
    for name in ("topic_items", "candidates_per_item", "searched_per_item", "clicked_per_item"):
        at_least(f"student.{name}", getattr(student, name), 1)
    at_least("student.validations", student.validations, 1)
    between_0_and_1("student.dropout", student.dropout)
    check_optimizer("student.optimizer", student.optimizer)


def check_hard_negatives(student: settings.StudentConfig) -> None:
    path, hard = "student.hard_negatives", student.hard_negatives
    at_least(f"{path}.per_item", hard.per_item, 0)
    at_least(f"{path}.refreshes", hard.refreshes, 0)
    at_least(f"{path}.first_rank", hard.first_rank, 1)
    at_least(f"{path}.last_rank", hard.last_rank, hard.first_rank)
    if not -2 <= hard.margin <= 2:
        raise ConfigError(f"config.{path}.margin={hard.margin}: is a difference of cosines, between -2 and 2")
    one_of(f"{path}.veto", hard.veto, ("assistant", "judge", "none"))
    between_0_and_1(f"{path}.veto_from", hard.veto_from)
    if hard.per_item and not student.tasks.clicks:
        raise ConfigError(
            f"config.{path}.per_item={hard.per_item}: negatives are of the clicks task, whose weight tasks.clicks is 0"
        )


def check_width(student: settings.StudentConfig, width: int) -> None:
    """Raises ConfigError unless the largest Matryoshka prefix is the encoder's whole `width`."""
    if student.widths[-1] != width:
        raise ConfigError(
            f"config.student.widths={student.widths}: the last one must be the embedding's width, "
            f"{width} for this encoder"
        )


def check_evaluate(evaluate: settings.EvaluateConfig, widths: tuple[int, ...]) -> None:
    for arm in evaluate.arms:
        one_of("evaluate.arms", arm, ARMS)
    for baseline in evaluate.baselines:
        one_of("evaluate.baselines", baseline, BASELINES)
    at_least("evaluate.bootstrap", evaluate.bootstrap, 100)
    at_least("evaluate.align_items", evaluate.align_items, 1)
    if evaluate.prefix not in widths:
        raise ConfigError(f"config.evaluate.prefix={evaluate.prefix}: must be one of student.widths={widths}")
    path, protocol = "evaluate.protocol", evaluate.protocol
    for name in ("items", "keyphrases"):
        at_least(f"{path}.{name}", getattr(protocol, name), 1)
    at_least(f"{path}.few_clicks", protocol.few_clicks, 0)
    between_0_and_1(f"{path}.head_share", protocol.head_share)
    if not protocol.judges:
        raise ConfigError(f"config.{path}.judges=(): name at least one of {', '.join(map(repr, PROTOCOL_JUDGES))}")
    for judge in protocol.judges:
        one_of(f"{path}.judges", judge, PROTOCOL_JUDGES)
    for name in ("sources", "judges"):
        names = getattr(protocol, name)
        if len(set(names)) < len(names):
            raise ConfigError(f"config.{path}.{name}={names}: name each once")
    two = protocol.side_by_side
    if two and (len(two) != 2 or two[0] == two[1]):
        raise ConfigError(f"config.{path}.side_by_side={two}: name two different sources, or none")
    absent = [name for name in two if protocol.sources and name not in protocol.sources]
    if absent:
        raise ConfigError(
            f"config.{path}.side_by_side={two}: {absent[0]!r} is not one of sources={protocol.sources}; add it there"
        )


def check_index(index: settings.IndexConfig, widths: tuple[int, ...]) -> None:
    at_least("index.brute_force_below", index.brute_force_below, 0)
    positive("index.target_recall", index.target_recall)
    between_0_and_1("index.target_recall", index.target_recall)
    at_least("index.recall_at", index.recall_at, 1)
    if index.width and index.width not in widths:
        raise ConfigError(f"config.index.width={index.width}: must be 0 or one of student.widths={widths}")
    one_of("index.dtype", index.dtype, ("float32", "bfloat16", "int8"))
    at_least("index.tune_seconds", index.tune_seconds, 0)
    at_least("index.sample_queries", index.sample_queries, 1)
    at_least("index.keep_versions", index.keep_versions, 1)


def check_recommend(recommend: settings.RecommendConfig) -> None:
    one_of("recommend.items", recommend.items, ("all", "holdout"))
    one_of("recommend.others", recommend.others, ("exclude", "include"))
    at_least("recommend.keep", recommend.keep, 1)
    for name in ("candidates", "lexical", "graphex"):
        at_least(f"recommend.{name}", getattr(recommend, name), 0)
    if recommend.candidates + recommend.lexical + recommend.graphex < recommend.keep:
        raise ConfigError(
            f"config.recommend.candidates={recommend.candidates}: with lexical={recommend.lexical} and "
            f"graphex={recommend.graphex} there must be at least as many candidates as keep={recommend.keep}"
        )
    between_0_and_1("recommend.precision", recommend.precision)
    one_of("recommend.relevant_grade", recommend.relevant_grade, (1, 2, 3))
    between_0_and_1("recommend.mmr_lambda", recommend.mmr_lambda)
    for name, share in leaves(recommend.mix):
        between_0_and_1(f"recommend.mix.{name}", share)  # type: ignore[arg-type]
    if recommend.mix.head + recommend.mix.tail > 1 + 1e-9:
        raise ConfigError(
            f"config.recommend.mix.head={recommend.mix.head}: with tail={recommend.mix.tail} more than all places "
            "would be held; make their sum at most 1"
        )
    at_least("recommend.shard_items", recommend.shard_items, 1)


def check_export(export: settings.ExportConfig) -> None:
    for name in export.saved_models:
        one_of("export.saved_models", name, SAVED_MODELS)
    at_least("export.candidates", export.candidates, 0)
    for rows in export.warm_up_batches:
        at_least("export.warm_up_batches", rows, 1)
