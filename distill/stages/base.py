"""What a stage is, and the context it runs in."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.artifacts import StageFolder, config_dict, output_hash, read_json
from distill.config import ConfigError, Experiment, ParallelConfig
from distill.parallel.processes import Processes
from distill.reporting import Reporter

if TYPE_CHECKING:
    import jax
    import numpy as np
    import pyarrow as pa

    from distill.data.tables import Prepared
    from distill.data.tokenizing import Ragged, Tokenizer
    from distill.models.encoder import EncoderSpec

FOLDERS = {
    "prepare": "data",
    "judge": "judgements",
    "assistant": "assistant",
    "score": "scores",
    "student": "student",
    "index": "index",
    "recommend": "recommendations",
    "evaluate": "report",
    "export": "export",
}


@dataclasses.dataclass(frozen=True)
class Stage:
    """One step of the pipeline. `reads` names what it depends on, `run` does it inside its folder."""

    name: str
    config: Callable[[Experiment], dict[str, Any]]  # the part of the experiment that it reads
    inputs: tuple[str, ...]  # stages whose published files it reads
    run: Callable[[Context, Path], dict[str, Any]]  # returns counts and figures for the manifest
    published: Callable[[Path], list[Path]]  # the files that define its output
    everywhere: Callable[[Experiment], bool] = lambda experiment: False  # on every process, or on the first alone
    external: Callable[[Context], dict[str, str]] = lambda context: {}  # hashes of inputs from outside
    keeps: tuple[str, ...] = ()  # entries of its folder that no rerun deletes


@dataclasses.dataclass
class Context:
    """The experiment, where it lives, and what several stages load from there."""

    experiment: Experiment
    workdir: Path
    reporter: Reporter
    arm: str = ""  # an ablation arm: its own student under arms/NAME, everything else shared
    processes: Processes = dataclasses.field(default_factory=Processes)
    profile: bool = False  # training writes a profiler trace of a few steps into its folder

    def folder(self, stage: str) -> Path:
        """A stage's folder; an arm has its own from the student on."""
        own = self.arm and stage == "student"
        return (self.workdir / "arms" / self.arm if own else self.workdir) / FOLDERS[stage]

    def for_arm(self, arm: str) -> Context:
        return dataclasses.replace(self, experiment=arm_experiment(self.experiment, arm), arm=arm)

    def stage_folder(self, stage: Stage) -> StageFolder:
        """Raises ArtifactError when a stage that it reads from is not finished."""
        inputs = {name: output_hash(self.folder(name), f"python -m launch.{name}") for name in stage.inputs}
        config = config_dict(stage.config(self.experiment))
        return StageFolder(stage.name, self.folder(stage.name), config, inputs | stage.external(self), stage.keeps)

    @property
    def mesh(self) -> jax.sharding.Mesh:
        """All devices by `config.parallel`, or this process's own while it works alone among several."""
        import jax

        from distill.parallel.mesh import make_mesh

        if jax.process_count() != self.processes.count:
            raise ConfigError(
                f"--cluster: the devices belong to {jax.process_count()} processes, which were not started as one run; "
                "start every host with --cluster=tpu, or with --coordinator, --processes and --process"
            )
        if self.processes.alone and self.processes.count > 1:
            return make_mesh(ParallelConfig(), jax.local_devices())
        return make_mesh(self.experiment.parallel)

    def own_mesh(self, parallel: ParallelConfig) -> jax.sharding.Mesh:
        """This process's own devices by `parallel`: for work that is shared out among the processes."""
        import jax

        from distill.parallel.mesh import make_mesh

        return make_mesh(parallel, jax.local_devices())

    @functools.cached_property
    def prepared(self) -> Prepared:
        from distill.data.tables import Prepared

        return Prepared(self.folder("prepare"))

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        from distill.data.tokenizing import Tokenizer

        return Tokenizer.load(self.folder("prepare") / "tokenizer")

    @functools.cached_property
    def item_tokens(self) -> Ragged:
        """Item texts as `[CLS] … [SEP]`."""
        return self.tokenizer.encode_texts(self.prepared.item_texts, self.experiment.encoder.item_tokens)

    @functools.cached_property
    def keyphrase_tokens(self) -> Ragged:
        """Keyphrases as `[CLS] … [SEP]`."""
        return self.tokenizer.encode_texts(self.prepared.keyphrases, self.experiment.encoder.keyphrase_tokens)

    @functools.cached_property
    def pair_parts(self) -> tuple[Ragged, Ragged]:
        """(keyphrases, item texts) without special tokens: the halves of the assistant's input."""
        encoder = self.experiment.encoder
        return (
            self.tokenizer.encode_raw(self.prepared.keyphrases, encoder.keyphrase_tokens - 2),
            self.tokenizer.encode_raw(self.prepared.item_texts, encoder.item_tokens - 2),
        )

    def initial_encoder(self) -> tuple[EncoderSpec, Any]:
        """Specification and parameters that the assistant and the student both start from."""
        return load_model(self.folder("prepare") / "encoder")

    def pair_scorer(self) -> Any:
        """The trained assistant, over (keyphrase, item) index pairs."""
        from distill.retrieval.encoding import PairScorer

        spec, params = load_model(self.folder("assistant") / "model")
        keyphrases, items = self.pair_parts
        return PairScorer(
            spec,
            params,
            keyphrases,
            items,
            specials=(self.tokenizer.cls_id, self.tokenizer.sep_id),
            row_tokens=self.experiment.encoder.row_tokens,
            mesh=self.mesh,
        )

    def embeddings(self, spec: EncoderSpec, params: Any) -> tuple[Any, Any]:
        """Unit embeddings (items [I, D], keyphrases [P, D]) of all texts under a student's parameters."""
        from distill.retrieval.encoding import embed_texts

        row_tokens = self.experiment.encoder.row_tokens
        return tuple(
            embed_texts(spec, params, tokens, row_tokens=row_tokens, mesh=self.mesh)
            for tokens in (self.item_tokens, self.keyphrase_tokens)
        )  # type: ignore[return-value]


def arm_experiment(experiment: Experiment, arm: str) -> Experiment:
    """The experiment of an ablation arm: other signals, everything else and the number of steps equal."""
    # An earlier run's student has learnt from every signal; an arm must not.
    student, negatives = dataclasses.replace(experiment.student, warm_start=""), {}
    if arm == "student_clicks":
        student.tasks = dataclasses.replace(student.tasks, clicks=1.0, search_relevance=0.0, distill=0.0)
        negatives = {"veto": "none"}
    elif arm == "student_search_relevance":
        student.tasks = dataclasses.replace(student.tasks, clicks=0.0, search_relevance=1.0, distill=0.0)
        negatives = {"per_item": 0}
    elif arm == "student_no_assistant":
        student.distill = dataclasses.replace(student.distill, teacher="judge")
        if student.hard_negatives.veto == "assistant":
            negatives = {"veto": "judge"}
    else:
        raise ValueError(f"unknown arm {arm!r}")
    student.hard_negatives = dataclasses.replace(student.hard_negatives, **negatives)
    return dataclasses.replace(experiment, student=student)


def draw_held_out(context: Context, count: int, stream: int) -> np.ndarray:
    """Rows of `count` held-out listings, or of all where there are no more, int64, rising: drawn by their ids."""
    import numpy as np

    from distill.data.hashing import draw_by_name

    items = np.flatnonzero(context.prepared.item_is_holdout)
    names = [context.prepared.item_ids[item] for item in items]
    return items[draw_by_name(names, count, context.experiment.seed, stream)]


def write_table(path: Path, table: pa.Table) -> None:
    """Writes a whole Parquet file or nothing."""
    import pyarrow.parquet as pq

    temporary = path.with_suffix(".tmp")
    pq.write_table(table, temporary)
    temporary.replace(path)


def read_tables(folder: Path, pattern: str, columns: list[str] | None = None) -> pa.Table:
    """The rows of all Parquet files of that pattern, in the order of their names."""
    import pyarrow.dataset as ds

    return ds.dataset(sorted(str(path) for path in folder.glob(pattern))).to_table(columns=columns)


def save_model(directory: Path, spec: EncoderSpec, params: Any) -> None:
    """Writes `spec.json` and `params.safetensors`; `params` are whole arrays of this host."""
    from distill.artifacts import write_json
    from distill.models.storage import save_params

    directory.mkdir(parents=True, exist_ok=True)
    save_params(directory / "params.safetensors", params)
    write_json(directory / "spec.json", dataclasses.asdict(spec))


def load_model(directory: Path) -> tuple[EncoderSpec, Any]:
    """(specification, parameters) that `save_model` wrote."""
    from distill.models.encoder import EncoderSpec
    from distill.models.storage import load_params

    return EncoderSpec(**read_json(directory / "spec.json")), load_params(directory / "params.safetensors")


def files_below(*names: str) -> Callable[[Path], list[Path]]:
    """All files below the named entries of a stage's folder, as its published output."""

    def published(folder: Path) -> list[Path]:
        found: list[Path] = []
        for name in names:
            path = folder / name
            found += [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
        return found

    return published
