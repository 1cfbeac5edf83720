"""The dataclasses themselves, in the order of the pipeline."""

import dataclasses


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
class SourceConfig:
    """Where a table lies when it is not one file of `data.dir`."""

    files: tuple[
        str, ...
    ] = ()  # paths, folders, globs or URLs (s3://, gs://, hdfs://); read in the order of their names
    columns: tuple[str, ...] = ()  # "contract_name=your_name"; "contract_name=": leave that column out
    values: tuple[str, ...] = ()  # "event:your value=contract's value"; "event:your value=": leave those rows out
    format: str = ""  # parquet, jsonl, tsv or csv; empty: by suffix


@dataclasses.dataclass
class SourcesConfig:
    """A source for each table; `columns` also rename those of a table in `data.dir`."""

    items: SourceConfig = dataclasses.field(default_factory=SourceConfig)
    keyphrases: SourceConfig = dataclasses.field(default_factory=SourceConfig)
    human: SourceConfig = dataclasses.field(default_factory=SourceConfig)
    clicks: SourceConfig = dataclasses.field(default_factory=SourceConfig)
    events: SourceConfig = dataclasses.field(default_factory=SourceConfig)
    search_relevance: SourceConfig = dataclasses.field(default_factory=SourceConfig)
    judgements: SourceConfig = dataclasses.field(default_factory=SourceConfig)
    judge_agreement: SourceConfig = dataclasses.field(default_factory=SourceConfig)
    recommendations: SourceConfig = dataclasses.field(default_factory=SourceConfig)
    blocklist: SourceConfig = dataclasses.field(default_factory=SourceConfig)


@dataclasses.dataclass
class ScreeningConfig:
    """What becomes of rows that are well-formed and still should not be trained on."""

    personal_data: str = "drop"  # keyphrases with an e-mail address, phone or card number; or `mask`, `keep`
    phone_regions: tuple[str, ...] = ("US",)  # whose national phone numbers are known; all others by their +
    impossible_clicks: str = "drop"  # pairs clicked more often than people click; or `keep`
    possible_ctr: float = 0.7  # share of its impressions that even the best pair is not clicked on


@dataclasses.dataclass
class DataConfig:
    dir: str = ""  # a data directory; without it and without sources: the embedded marketplace
    sources: SourcesConfig = dataclasses.field(default_factory=SourcesConfig)  # tables that lie elsewhere
    previous: str = ""  # `data` folder of an earlier run: items known there, and new twins of them, keep their split
    beam: tuple[str, ...] = ()  # options of an Apache Beam pipeline (--runner=…); empty: prepared in this process
    marketplace: MarketplaceConfig = dataclasses.field(default_factory=MarketplaceConfig)
    max_bad_share: float = 0.05  # of a table's rows; more stops the run
    holdout_share: float = 0.15  # of the items, when the items table has no split
    twin_title_jaccard: float = 0.7  # titles at least this alike share a cluster, and so a split
    near_duplicate_jaccard: float = 0.75  # keyphrases this close to a human query are kept out of training
    screening: ScreeningConfig = dataclasses.field(default_factory=ScreeningConfig)
    simulated: tuple[str, ...] = ()  # tables, or TABLE.COLUMN, that are simulated, beside those that about.json names

    @property
    def embedded(self) -> bool:
        """Whether the data is the embedded marketplace."""
        return not self.dir and not any(source.files for source in vars(self.sources).values())


@dataclasses.dataclass
class EncoderConfig:
    init: str = ""  # Hugging Face directory or hub name; empty: an encoder from scratch of the sizes below
    depth: int = 0  # layers of `init` that are kept, the first ones; 0: all
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
class StrataConfig:
    """Shares, as ratios, of the pairs that a judge is asked about; one that runs dry leaves its share to the rest.

    A pair counts in the first stratum, in this order, that takes it.
    """

    clicked: float = 0.1
    shown: float = 0.1  # and not clicked
    lexical_near: float = 0.2  # best BM25 ranks of an item
    dense_near: float = 0.15  # best by embedding: the pretrained encoder's, or word statistics where there is none
    lexical_far: float = 0.1  # ranks below those
    dense_far: float = 0.1
    never_shown: float = 0.2  # lexical and dense candidates without an impression
    random: float = 0.05
    near_ranks: int = 10
    far_ranks: int = 50  # candidates end here


@dataclasses.dataclass
class ActiveConfig:
    """A round that asks again about pairs of an earlier run on which two opinions differ most."""

    run: str = ""  # working directory of that run; its other judgements are kept as they are
    against: str = ""  # working directory of a run with another judge of the same pairs; empty: `run`'s own assistant
    random_share: float = 0.1  # of the pairs asked again, drawn blindly: a fair sample of how often the grade changes


@dataclasses.dataclass
class EndpointConfig:
    """An OpenAI-compatible service, hosted or one's own; for the backends `openai` and `batch`."""

    url: str = ""  # such as http://localhost:8000/v1; empty: OPENAI_BASE_URL, or OpenAI's own
    model: str = ""  # as the service calls it
    key_variable: str = "OPENAI_API_KEY"  # the environment variable that holds the key, which never stands in a config
    answer: str = (
        "logprobs"  # one token, whose probabilities give a continuous score; or `json`, for several keyphrases
    )
    least_mass: float = 0.5  # probability that the rubric's answers must have together; with less, it is no answer
    keyphrases_per_call: int = 8  # of one listing, with `json`
    concurrency: int = 16  # calls at a time
    timeout: float = 60.0  # seconds, of one call
    tries: int = 6  # of one call, with growing pauses between
    prompt_price: float = 0.0  # of a million tokens, in any currency; for the cost that is recorded and foretold
    completion_price: float = 0.0


@dataclasses.dataclass
class LanguageModelConfig:
    """A decoder-only language model that runs here, for the backend `jax`."""

    model: str = ""  # a Hugging Face directory or hub name, or a .gguf file
    compute_dtype: str = "float32"  # bfloat16 on accelerators
    least_mass: float = 0.5  # as in EndpointConfig; a model that was not taught to answer so may need less
    row_tokens: int = 1024  # of listings with their keyphrases; longer ones are split
    batch_rows: int = 8  # of one device
    parallel: ParallelConfig = dataclasses.field(default_factory=ParallelConfig)  # over the devices of one host


@dataclasses.dataclass
class JudgeConfig:
    # `replay` (the judgements table), `simulated` (the embedded marketplace), or a language model: by an
    # OpenAI-compatible endpoint (`openai`), by files for its batch service (`batch`), or on our own devices (`jax`).
    backend: str = "replay"
    rubric: str = "graded-v1"  # or the path of a rubric file of one's own
    budget: int = 0  # pairs that are asked; 0: pairs_per_item for every item. `replay` takes the table as it is
    pairs_per_item: int = 10
    most_per_item: int = 0  # of a budget; 0: three times the average
    strata: StrataConfig = dataclasses.field(default_factory=StrataConfig)
    active: ActiveConfig = dataclasses.field(default_factory=ActiveConfig)
    store: str = ""  # folder of the judgement store, which several runs may share; empty: in the working directory
    attempts: int = 3  # at a pair that is abstained from, or whose answer cannot be read
    repeats: int = 100  # pairs asked twice of `openai` and `batch`, to see how far the judge agrees with itself
    agreement_pairs: int = 500  # with human labels, graded by a language model only to compare it with people
    endpoint: EndpointConfig = dataclasses.field(default_factory=EndpointConfig)
    llm: LanguageModelConfig = dataclasses.field(default_factory=LanguageModelConfig)


@dataclasses.dataclass
class AssistantConfig:
    depth: int = 0  # layers of the initial encoder that it keeps, the first ones; 0: all
    warm_start: str = ""  # working directory of an earlier run, whose assistant this one starts from
    loss: str = "soft_cross_entropy"  # or `ordinal`
    grade_targets: tuple[float, ...] = (0.0, 0.1, 0.5, 1.0)  # soft label of each grade
    epochs: float = 1.0
    batch_pairs: int = 64
    chunk_rows: int = 0  # of row_tokens, read at a time on each device: a batch of any size fits; 0: all at once
    valid_share: float = 0.05  # of the judged training items, held back for choosing the step and for calibration
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
    hybrid: float = 0.0  # DisRanker's: squared error of scale · cosine against the raw logits, and of their margins
    hybrid_margin_weight: float = 1.0  # of the margins in it
    cosent: float = 0.0
    ranknet: float = 0.0  # logistic loss of each item's pairs, the top ones first
    kl: float = 0.0  # between distributions over each item's keyphrases (ListNet)
    kl_temperature: float = 1.0  # of both logits; higher looks further down the list
    scale: float = 20.0  # cosine → logit, for the terms from margin_mse on


@dataclasses.dataclass
class HardNegatives:
    """Negatives of the clicks task beside the batch's other targets: keyphrases ranked high for an item, and wrong."""

    per_item: int = 0  # of one item in a batch; 0: none
    refreshes: int = 0  # times the student mines again, evenly over training; the first ones are the initial encoder's
    first_rank: int = 5  # of the band that they come from, among all trainable keyphrases; 1 is the nearest
    last_rank: int = 50
    margin: float = 0.0  # of cosine, by which one must stay below the item's nearest positive
    veto: str = "assistant"  # its opinion rules a keyphrase out as right after all; or `judge`, where it graded; `none`
    veto_from: float = 0.3  # probability of a grade >= recommend.relevant_grade from which it does


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
    learn_temperature: bool = False  # from there on, between 0.01 and 1 as in CLIP
    symmetric: bool = False  # in the clicks task, a keyphrase looks for its item among the batch's items too
    exact_as_clicked: bool = False  # pairs that the judge graded 3 are positives of the clicks task too, beside distill
    inverse_propensity: bool = False  # weigh a clicked pair by 1 / the estimated chance that its position is examined
    propensity_clip: float = 10.0  # largest of those weights, before they are divided by their mean
    log_q: bool = False  # correct in-batch negatives for how often their keyphrase is drawn
    hard_negatives: HardNegatives = dataclasses.field(default_factory=HardNegatives)
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
    """docs/index.md says how to choose."""

    brute_force_below: int = 20_000  # keyphrases; about where exact search and a tree are equally fast (docs/index.md)
    target_recall: float = 0.95  # recall@recall_at against exact search over the full width
    recall_at: int = 100
    width: int = 0  # Matryoshka prefix that is searched; 0: the full width
    rescore: bool = True  # what the prefix finds is ordered again by the full width; else the prefix is all there is
    dtype: str = "float32"  # or `bfloat16`, `int8`: what is held in memory of each vector to score candidates by
    tune_seconds: float = 0.0  # for trying other trees than the size suggests, by the clock; 0: none
    sample_queries: int = 1000  # training items to tune the search on; its recall is measured on as many others
    earlier: str = ""  # working directory of an earlier run; embeddings of equal texts by an equal student are copied
    versions: str = ""  # a directory of versions, where index and student are published together; empty: nowhere
    keep_versions: int = 3  # newest ones, beside the current one


@dataclasses.dataclass
class MixConfig:
    """Shares of an item's places that are held for keyphrases searched often (head) and rarely (tail)."""

    head: float = 0.0  # rounded down to places; what has too few candidates is left to all
    tail: float = 0.0
    head_volume: float = 0.5  # the head is the most searched keyphrases that make up this share of all searches


@dataclasses.dataclass
class RecommendConfig:
    items: str = "all"  # or `holdout`
    candidates: int = 40  # retrieved by the student per item; the assistant reads those of all sources
    lexical: int = 0  # further ones by BM25
    graphex: int = 0  # further ones by the word graph of GraphEx
    # The recommendations table: `exclude` what it holds, or `include` it as candidates under the name of its source.
    others: str = "exclude"
    keep: int = 20  # at most, per item
    precision: float = 0.8  # wanted share of judge grade >= `relevant_grade` among what is kept
    relevant_grade: int = 2
    mmr_lambda: float = 1.0  # 1: by relevance alone; below, what resembles the keyphrases kept before it counts less
    mix: MixConfig = dataclasses.field(default_factory=MixConfig)
    shard_items: int = 1024  # a shard is the unit of resuming


@dataclasses.dataclass
class ProtocolConfig:
    """What each source of keyphrases adds for held-out listings, and how much of it is relevant (docs/protocol.md)."""

    run: bool = False  # as part of evaluate; `python -m launch.evaluate --protocol` sets it
    items: int = 200  # held-out listings, drawn at random
    keyphrases: int = 20  # of one source, its best ones
    sources: tuple[str, ...] = ()  # compared: models of the report, `recommended:NAME`; empty: all that can retrieve
    judges: tuple[str, ...] = ("judge", "assistant")  # who calls a pair relevant: what judge.backend names, assistant
    head_share: float = 0.5  # of all search volume: the most searched keyphrases that make it up are the head
    few_clicks: int = 3  # listings with fewer in the log are reported apart
    side_by_side: tuple[str, ...] = ()  # two sources, listing by listing; empty: the student and the first other one


@dataclasses.dataclass
class EvaluateConfig:
    arms: tuple[str, ...] = ()  # of `student_clicks`, `student_search_relevance`, `student_no_assistant`
    baselines: tuple[str, ...] = ("bm25",)  # of `bm25`, `graphex`: word matching, neither is trained
    bootstrap: int = 1000
    align_items: int = 256  # held-out items whose recommendations the alignment metrics read
    prefix: int = 64  # the Matryoshka prefix reported as `student@64`
    protocol: ProtocolConfig = dataclasses.field(default_factory=ProtocolConfig)


@dataclasses.dataclass
class ExportConfig:
    """docs/serving.md says what each SavedModel is for."""

    # Those that are written where TensorFlow is installed; empty: none.
    saved_models: tuple[str, ...] = ("student", "assistant", "recommender", "recommender_exact")
    candidates: int = 0  # keyphrases that a recommender gives for a listing; 0: recommend.candidates
    warm_up_batches: tuple[int, ...] = (1, 8, 32)  # sizes of the requests that TensorFlow Serving compiles by
