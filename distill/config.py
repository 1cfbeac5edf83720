"""The typed experiment: every setting of a run, in one tree of dataclasses.

A config file's `get_config()` returns an `Experiment`; absl flags may then override any field
(`--config.student.optimizer.learning_rate=2e-5`). Sequences are tuples, because that is what the command line can set.
`validate()` is called once, before any work, and names the field, its value and what to do.
"""

import dataclasses
import math
from collections.abc import Iterator


class ConfigError(ValueError):
    """A setting that cannot work; the message names the field and its value."""


@dataclasses.dataclass
class MarketplaceConfig:
    """The embedded marketplace (`distill/data/marketplace`), used when `data.dir` is empty."""

    items: int = 1500  # listings, held-out ones included
    keyphrases: int = 3000  # distinct buyer searches
    holdout_share: float = 0.2  # of the items
    human_queries: int = 120  # keyphrases that carry simulated human labels (a fifth valid, the rest test)
    searches: int = 150_000  # simulated searches that draw the click log
    search_relevance_per_item: int = 40  # rows of the search engine's own scores, top and sampled


@dataclasses.dataclass
class DataConfig:
    dir: str = ""  # a data directory; empty: the embedded marketplace
    marketplace: MarketplaceConfig = dataclasses.field(default_factory=MarketplaceConfig)
    max_bad_share: float = 0.05  # of a table's rows; more stops the run
    holdout_share: float = 0.15  # of the items, when the items table has no split
    twin_title_jaccard: float = 0.7  # titles at least this alike share a cluster, and so a split
    near_duplicate_jaccard: float = 0.75  # keyphrases this close to a human query are kept out of training


@dataclasses.dataclass
class EncoderConfig:
    init: str = ""  # Hugging Face directory or hub name; empty: an encoder from scratch of the sizes below
    vocab_size: int = 6000
    layers: int = 2
    width: int = 128
    heads: int = 4
    mlp_width: int = 512
    item_tokens: int = 64  # longer item texts are cut, counted and reported
    keyphrase_tokens: int = 24
    row_tokens: int = 128  # several texts share one row of this many tokens
    compute_dtype: str = "float32"  # or bfloat16; parameters and reductions stay float32
    attention: str = "matmul"  # or `cudnn`: its fused kernel on CUDA devices, in bfloat16; elsewhere still matmul
    remat: str = "none"  # of a layer, training computes again: `layer` everything, `dots` all but products with weights


@dataclasses.dataclass
class ParallelConfig:
    """Mesh axis sizes; -1 takes the devices that the others leave."""

    data: int = -1
    fsdp: int = 1
    tensor: int = 1


@dataclasses.dataclass
class OptimizerConfig:
    learning_rate: float = 5e-5  # peak
    warmup_share: float = 0.1  # of all steps, linear; then cosine to zero
    weight_decay: float = 0.01  # not on biases, norms and learnt scales
    clip_norm: float = 1.0
    b1: float = 0.9
    b2: float = 0.999


@dataclasses.dataclass
class TrainingConfig:
    """What the training loops of the assistant and the student save on the way; no result depends on it."""

    checkpoint_steps: int = 500  # a save every so many steps, beside one at each validation
    keep_last: int = 2  # newest checkpoints kept: one may be cut off or turn out damaged
    keep_best: int = 1  # by the validation metric


@dataclasses.dataclass
class JudgeConfig:
    backend: str = "replay"  # `replay` (the judgements table) or `simulated` (the embedded marketplace)
    rubric: str = "graded-v1"
    pairs_per_item: int = 10  # asked of a backend that answers; `replay` takes the table as it is
    lexical_share: float = 0.5  # of those pairs, the rest dense candidates and random
    dense_share: float = 0.3


@dataclasses.dataclass
class AssistantConfig:
    depth: int = 0  # layers of the initial encoder that it keeps, the first ones; 0: all
    warm_start: str = ""  # working directory of an earlier run, whose assistant this one starts from
    loss: str = "soft_cross_entropy"  # or `ordinal`
    grade_targets: tuple[float, ...] = (0.0, 0.1, 0.5, 1.0)  # soft label of each grade
    epochs: float = 1.0
    batch_pairs: int = 64
    chunk_rows: int = 0  # of row_tokens, read at a time on each device: a batch of any size fits; 0: all at once
    valid_share: float = 0.05  # of the judged training items, held back for keep-best and calibration
    validations: int = 8  # over the run
    dropout: float = 0.1
    optimizer: OptimizerConfig = dataclasses.field(default_factory=lambda: OptimizerConfig(learning_rate=8e-5))


@dataclasses.dataclass
class ScoreConfig:
    """Candidates that the assistant scores, per training item, beside all judged and clicked pairs."""

    lexical: int = 8
    dense: int = 8
    random: int = 4
    shard_pairs: int = 16_384  # a shard is the unit of resuming


@dataclasses.dataclass
class TaskWeights:
    """Weights of the student's tasks; zero leaves a task out."""

    clicks: float = 0.3
    search_relevance: float = 0.1
    distill: float = 1.0


@dataclasses.dataclass
class DistillLoss:
    """Terms of the distillation task."""

    teacher: str = "assistant"  # or `judge`: the grades themselves, no assistant
    grade_share: float = 0.0  # of the target where the judge graded the pair itself; the rest is the assistant's
    pearson: float = 1.0  # correlation over all pairs of the batch
    pearson_items: float = 0.0  # mean correlation within each item's keyphrases
    mse: float = 0.0  # cosine against the teacher's probability
    margin_mse: float = 0.0  # signed margins of scale · cosine against those of the teacher's raw logits
    cosent: float = 0.0
    scale: float = 20.0  # cosine → logit, for the margin-MSE and CoSENT terms


@dataclasses.dataclass
class StudentConfig:
    warm_start: str = ""  # working directory of an earlier run, whose student this one starts from
    tasks: TaskWeights = dataclasses.field(default_factory=TaskWeights)
    # All tasks in every step (`joint`), or one task a step, drawn in the `proportional` way by the pairs of its table,
    # by those to the power 1 / mixing_temperature (`temperature`), or by mixing_shares (`fixed`).
    mixing: str = "joint"
    mixing_temperature: float = 2.0  # 1 is proportional, large is even
    mixing_shares: TaskWeights = dataclasses.field(default_factory=lambda: TaskWeights(1.0, 1.0, 1.0))  # ratios count
    distill: DistillLoss = dataclasses.field(default_factory=DistillLoss)
    temperature: float = 0.05  # of the clicks task's in-batch softmax
    exact_as_clicked: bool = False  # pairs that the judge graded 3 are positives of the clicks task too, beside distill
    widths: tuple[int, ...] = (64, 128)  # Matryoshka prefixes, the full width last
    width_weights: tuple[float, ...] = (1.0, 1.0)
    epochs: float = 4.0  # passes over the training items
    batch_items: int = 64  # with the three sizes per item below, each task's share of a batch
    chunk_rows: int = 0  # of row_tokens, encoded at a time on each device: a batch of any size fits; 0: all at once
    topic_items: int = 8  # of a batch share keyphrases, which are then encoded once; 1: none need to
    candidates_per_item: int = 12  # of one item in a batch, drawn from those that the teacher scored
    searched_per_item: int = 4  # drawn from those that the search engine judged
    clicked_per_item: int = 2  # drawn from those clicked
    validations: int = 8
    dropout: float = 0.0
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)


@dataclasses.dataclass
class IndexConfig:
    brute_force_below: int = 20_000  # keyphrases; exact search is faster and exact there
    target_recall: float = 0.95  # recall@100 against exact search
    width: int = 0  # Matryoshka prefix that is indexed; 0: the full width


@dataclasses.dataclass
class RecommendConfig:
    items: str = "all"  # or `holdout`
    candidates: int = 40  # retrieved per item and read by the assistant
    keep: int = 20  # at most, per item
    precision: float = 0.8  # wanted share of judge grade >= `relevant_grade` among what is kept
    relevant_grade: int = 2


@dataclasses.dataclass
class EvaluateConfig:
    arms: tuple[str, ...] = ()  # of `student_clicks`, `student_search_relevance`, `student_no_assistant`
    bootstrap: int = 1000
    align_items: int = 256  # held-out items whose recommendations the alignment metrics read
    prefix: int = 64  # the Matryoshka prefix reported as `student@64`


@dataclasses.dataclass
class Experiment:
    name: str = "experiment"
    seed: int = 0
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    encoder: EncoderConfig = dataclasses.field(default_factory=EncoderConfig)
    parallel: ParallelConfig = dataclasses.field(default_factory=ParallelConfig)
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)
    judge: JudgeConfig = dataclasses.field(default_factory=JudgeConfig)
    assistant: AssistantConfig = dataclasses.field(default_factory=AssistantConfig)
    score: ScoreConfig = dataclasses.field(default_factory=ScoreConfig)
    student: StudentConfig = dataclasses.field(default_factory=StudentConfig)
    index: IndexConfig = dataclasses.field(default_factory=IndexConfig)
    recommend: RecommendConfig = dataclasses.field(default_factory=RecommendConfig)
    evaluate: EvaluateConfig = dataclasses.field(default_factory=EvaluateConfig)

    def validate(self) -> "Experiment":
        """Returns itself; raises ConfigError, naming field and value, for the first setting that cannot work."""
        for path, value in _leaves(self):
            if isinstance(value, float) and not math.isfinite(value):
                raise ConfigError(f"config.{path}={value}: must be a finite number")
        _check_data(self.data)
        _check_encoder(self.encoder)
        _check_parallel(self.parallel)
        _at_least("training.checkpoint_steps", self.training.checkpoint_steps, 1)
        _at_least("training.keep_last", self.training.keep_last, 2)
        _at_least("training.keep_best", self.training.keep_best, 1)
        _choice("judge.backend", self.judge.backend, ("replay", "simulated"))
        _choice("judge.rubric", self.judge.rubric, ("graded-v1",))
        if self.judge.backend == "simulated" and self.data.dir:
            raise ConfigError(
                "config.judge.backend='simulated': only the embedded marketplace (empty data.dir) has one"
            )
        if self.judge.backend == "replay" and not self.data.dir:
            raise ConfigError(
                "config.judge.backend='replay': the embedded marketplace has no judgements; use 'simulated'"
            )
        _at_least("judge.pairs_per_item", self.judge.pairs_per_item, 1)
        _share("judge.lexical_share", self.judge.lexical_share)
        _share("judge.dense_share", self.judge.dense_share)
        if self.judge.lexical_share + self.judge.dense_share > 1:
            raise ConfigError(
                f"config.judge.dense_share={self.judge.dense_share}: "
                f"with lexical_share={self.judge.lexical_share} it exceeds 1"
            )
        _check_assistant(self.assistant)
        for name in ("lexical", "dense", "random"):
            _at_least(f"score.{name}", getattr(self.score, name), 0)
        _at_least("score.shard_pairs", self.score.shard_pairs, 1)
        _check_student(self.student, self.encoder)
        _share("index.target_recall", self.index.target_recall)
        _at_least("index.brute_force_below", self.index.brute_force_below, 0)
        if self.index.width and self.index.width not in self.student.widths:
            raise ConfigError(
                f"config.index.width={self.index.width}: must be 0 or one of student.widths={self.student.widths}"
            )
        _choice("recommend.items", self.recommend.items, ("all", "holdout"))
        _at_least("recommend.keep", self.recommend.keep, 1)
        _at_least("recommend.candidates", self.recommend.candidates, self.recommend.keep)
        _share("recommend.precision", self.recommend.precision)
        _choice("recommend.relevant_grade", self.recommend.relevant_grade, (1, 2, 3))
        for arm in self.evaluate.arms:
            _choice("evaluate.arms", arm, ARMS)
        _at_least("evaluate.bootstrap", self.evaluate.bootstrap, 100)
        _at_least("evaluate.align_items", self.evaluate.align_items, 1)
        if self.evaluate.prefix not in self.student.widths:
            raise ConfigError(
                f"config.evaluate.prefix={self.evaluate.prefix}: must be one of student.widths={self.student.widths}"
            )
        return self


ARMS = ("student_clicks", "student_search_relevance", "student_no_assistant")


def _leaves(config: object, prefix: str = "") -> Iterator[tuple[str, object]]:
    for field in dataclasses.fields(config):  # type: ignore[arg-type]
        value = getattr(config, field.name)
        path = f"{prefix}{field.name}"
        if dataclasses.is_dataclass(value):
            yield from _leaves(value, path + ".")
        elif isinstance(value, tuple):
            yield from ((f"{path}[{i}]", v) for i, v in enumerate(value))
        else:
            yield path, value


def _choice(path: str, value: object, allowed: tuple) -> None:
    if value not in allowed:
        raise ConfigError(f"config.{path}={value!r}: must be one of {', '.join(map(repr, allowed))}")


def _at_least(path: str, value: float, low: float) -> None:
    if value < low:
        raise ConfigError(f"config.{path}={value}: must be at least {low}")


def _positive(path: str, value: float) -> None:
    if value <= 0:
        raise ConfigError(f"config.{path}={value}: must be above 0")


def _share(path: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ConfigError(f"config.{path}={value}: must lie between 0 and 1")


def _check_data(data: DataConfig) -> None:
    market = data.marketplace
    _at_least("data.marketplace.items", market.items, 50)
    _at_least("data.marketplace.keyphrases", market.keyphrases, 100)
    _share("data.marketplace.holdout_share", market.holdout_share)
    _at_least("data.marketplace.human_queries", market.human_queries, 10)
    if market.human_queries > market.keyphrases // 4:
        raise ConfigError(
            f"config.data.marketplace.human_queries={market.human_queries}: "
            f"at most a quarter of keyphrases={market.keyphrases}, or too little is left to train on"
        )
    _at_least("data.marketplace.searches", market.searches, 1)
    _at_least("data.marketplace.search_relevance_per_item", market.search_relevance_per_item, 1)
    for name in ("max_bad_share", "holdout_share", "twin_title_jaccard", "near_duplicate_jaccard"):
        _share(f"data.{name}", getattr(data, name))


def _check_encoder(encoder: EncoderConfig) -> None:
    for name in ("vocab_size", "layers", "width", "heads", "mlp_width"):
        _at_least(f"encoder.{name}", getattr(encoder, name), 1)
    if not encoder.init and encoder.width % encoder.heads:
        raise ConfigError(f"config.encoder.heads={encoder.heads}: must divide encoder.width={encoder.width}")
    _at_least("encoder.item_tokens", encoder.item_tokens, 4)
    _at_least("encoder.keyphrase_tokens", encoder.keyphrase_tokens, 4)
    longest = encoder.item_tokens + encoder.keyphrase_tokens
    if encoder.row_tokens < longest:
        raise ConfigError(
            f"config.encoder.row_tokens={encoder.row_tokens}: a row must hold the longest pair, "
            f"item_tokens + keyphrase_tokens = {longest}"
        )
    _choice("encoder.compute_dtype", encoder.compute_dtype, ("float32", "bfloat16"))
    _choice("encoder.attention", encoder.attention, ("matmul", "cudnn"))
    if encoder.attention == "cudnn" and encoder.compute_dtype != "bfloat16":
        raise ConfigError("config.encoder.attention='cudnn': needs encoder.compute_dtype='bfloat16'")
    _choice("encoder.remat", encoder.remat, ("none", "layer", "dots"))


def _check_parallel(parallel: ParallelConfig) -> None:
    sizes = dataclasses.asdict(parallel)
    for name, size in sizes.items():
        if size != -1 and size < 1:
            raise ConfigError(f"config.parallel.{name}={size}: must be at least 1, or -1 for what is left")
    if sum(size == -1 for size in sizes.values()) > 1:
        raise ConfigError(f"config.parallel={sizes}: at most one axis may be -1")


def _check_optimizer(path: str, optimizer: OptimizerConfig) -> None:
    _positive(f"{path}.learning_rate", optimizer.learning_rate)
    _share(f"{path}.warmup_share", optimizer.warmup_share)
    _at_least(f"{path}.weight_decay", optimizer.weight_decay, 0)
    _positive(f"{path}.clip_norm", optimizer.clip_norm)
    for name in ("b1", "b2"):
        if not 0 <= getattr(optimizer, name) < 1:
            raise ConfigError(f"config.{path}.{name}={getattr(optimizer, name)}: must lie in [0, 1)")


def _check_assistant(assistant: AssistantConfig) -> None:
    _at_least("assistant.depth", assistant.depth, 0)
    _choice("assistant.loss", assistant.loss, ("soft_cross_entropy", "ordinal"))
    if len(assistant.grade_targets) != 4 or list(assistant.grade_targets) != sorted(assistant.grade_targets):
        raise ConfigError(
            f"config.assistant.grade_targets={assistant.grade_targets}: four rising numbers, grades 0 to 3"
        )
    for target in assistant.grade_targets:
        _share("assistant.grade_targets", target)
    _positive("assistant.epochs", assistant.epochs)
    _at_least("assistant.batch_pairs", assistant.batch_pairs, 1)
    _at_least("assistant.chunk_rows", assistant.chunk_rows, 0)
    _at_least("assistant.validations", assistant.validations, 1)
    if not 0 < assistant.valid_share < 1:
        raise ConfigError(f"config.assistant.valid_share={assistant.valid_share}: must lie strictly between 0 and 1")
    _share("assistant.dropout", assistant.dropout)
    _check_optimizer("assistant.optimizer", assistant.optimizer)


def _check_student(student: StudentConfig, encoder: EncoderConfig) -> None:
    for group in ("tasks", "distill"):
        for name, weight in _leaves(getattr(student, group)):
            if isinstance(weight, float):
                _at_least(f"student.{group}.{name}", weight, 0)
    _share("student.distill.grade_share", student.distill.grade_share)
    if not any(value > 0 for _, value in _leaves(student.tasks)):  # type: ignore[operator]
        raise ConfigError("config.student.tasks: every weight is 0; give at least one task a positive weight")
    _choice("student.mixing", student.mixing, ("joint", "proportional", "temperature", "fixed"))
    if student.mixing_temperature < 1:
        raise ConfigError(
            f"config.student.mixing_temperature={student.mixing_temperature}: must be at least 1; "
            "1 draws tasks in proportion to their pairs, more evens them out"
        )
    for name, share in _leaves(student.mixing_shares):
        _at_least(f"student.mixing_shares.{name}", share, 0)  # type: ignore[arg-type]
        if student.mixing == "fixed" and share == 0 and getattr(student.tasks, name) > 0:
            raise ConfigError(
                f"config.student.mixing_shares.{name}=0: the task would get no step; give it a share, "
                f"or leave it out with tasks.{name}=0"
            )
    _choice("student.distill.teacher", student.distill.teacher, ("assistant", "judge"))
    _positive("student.distill.scale", student.distill.scale)
    d = student.distill
    if student.tasks.distill > 0 and not any((d.pearson, d.pearson_items, d.mse, d.margin_mse, d.cosent)):
        raise ConfigError("config.student.distill: every term's weight is 0; give one a positive weight")
    _positive("student.temperature", student.temperature)
    if not student.widths or list(student.widths) != sorted(set(student.widths)) or student.widths[0] < 1:
        raise ConfigError(
            f"config.student.widths={student.widths}: rising positive Matryoshka widths, the full one last"
        )
    if len(student.width_weights) != len(student.widths):
        raise ConfigError(
            f"config.student.width_weights={student.width_weights}: one weight for each of widths={student.widths}"
        )
    for weight in student.width_weights:
        _at_least("student.width_weights", weight, 0)
    if not encoder.init:
        check_width(student, encoder.width)
    _positive("student.epochs", student.epochs)
    _at_least("student.batch_items", student.batch_items, 2)
    _at_least("student.chunk_rows", student.chunk_rows, 0)
    for name in ("topic_items", "candidates_per_item", "searched_per_item", "clicked_per_item"):
        _at_least(f"student.{name}", getattr(student, name), 1)
    _at_least("student.validations", student.validations, 1)
    _share("student.dropout", student.dropout)
    _check_optimizer("student.optimizer", student.optimizer)


def check_width(student: StudentConfig, width: int) -> None:
    """Raises ConfigError unless the largest Matryoshka prefix is the encoder's whole `width`."""
    if student.widths[-1] != width:
        raise ConfigError(
            f"config.student.widths={student.widths}: the last one must be the embedding's width, "
            f"{width} for this encoder"
        )
