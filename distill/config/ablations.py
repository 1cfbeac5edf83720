"""An ablation grid: an experiment, its arms and seeds, and the statements that they are to test."""

import dataclasses

from distill.config.checks import BASELINES
from distill.config.experiment import Experiment
from distill.config.rules import ConfigError

MODELS = (*BASELINES, "zero_shot", "assistant")  # measured beside the arms, once a seed
METRICS = (
    "human/ndcg@10",
    "human/auc_exact",
    "human/auc_relevant",
    "holdout/ndcg@10",
    "holdout/auc",
    "truth/ndcg@10",
    "truth/recall@20",
    "never_exposed/recall@20",
)
AXES = {
    "labels": "judged training pairs",
    "width": "embedding width",
    "assistant_depth": "layers of the assistant",
}


@dataclasses.dataclass
class Arm:
    """One student of the grid: the experiment with some settings changed."""

    overrides: tuple[str, ...] = ()  # `student.tasks.clicks=0`, typed and checked as the command line is
    labels: int = 0  # judged training pairs that it may see, spread over the listings; 0: all
    about: str = ""  # what it is, in words


@dataclasses.dataclass
class Comparison:
    """A statement about two models: `first` is better than `factor` · `second`.

    With `than` about four: the gain of `first` over `second` is larger than that of `than[0]` over `than[1]`.

    A model is an arm, one of its Matryoshka prefixes (`ARM@64`), its assistant where that is not the reference arm's
    (`ARM.assistant`), or one of MODELS.
    """

    first: str
    second: str
    metrics: tuple[str, ...]
    family: str = "claims"  # p-values and intervals are corrected over all statements and metrics of one family
    expected: bool = True  # a claim that may fail; otherwise reported as it is
    factor: float = 1.0  # below 1: `first` keeps at least this share of `second`
    than: tuple[str, ...] = ()  # two more models

    @property
    def models(self) -> tuple[str, ...]:
        return (self.first, self.second, *self.than)

    def name(self, metric: str) -> str:
        """Of the difference in `evidence.json`."""
        pair = f"{self.first}-{'' if self.factor == 1 else f'{self.factor:g}*'}{self.second}"
        return f"diff/{metric}/" + (f"({pair})-({'-'.join(self.than)})" if self.than else pair)


@dataclasses.dataclass
class Curve:
    """A figure: quality against one of AXES, a line a series of arms."""

    title: str
    axis: str
    metrics: tuple[str, ...]
    series: dict[str, tuple[str, ...]]  # line → its arms
    assistants: bool = False  # the arms' assistants instead of their students


@dataclasses.dataclass
class Ablations(Experiment):
    """An experiment with arms: its own settings are the base that each arm changes."""

    arms: dict[str, Arm] = dataclasses.field(default_factory=dict)
    only: tuple[str, ...] = ()  # run these arms alone; empty: all
    seeds: tuple[int, ...] = (0, 1, 2)
    reference: str = "student"  # the arm whose judgements referee all arms, and whose assistant is `assistant`
    comparisons: tuple[Comparison, ...] = ()
    curves: tuple[Curve, ...] = ()
    resamples: int = 2000  # of the bootstrap
    docs: str = ""  # a Markdown file that gets a copy of the evidence, its figures in a folder beside it
    simulated: tuple[str, ...] = ()  # sentences: what of the data is simulated, what is not

    def validate(self) -> "Ablations":
        """Returns itself; raises ConfigError for the first setting of the grid that cannot work."""
        super().validate()
        if self.reference not in self.arms:
            raise ConfigError(f"config.reference={self.reference!r}: must be one of the arms {', '.join(self.arms)}")
        for name in self.only:
            self._known("only", name)
        if self.only and self.reference not in self.only:
            raise ConfigError(f"config.only={self.only}: must hold the reference arm {self.reference!r} too")
        for name, arm in self.arms.items():
            if not name or set(name) & set("/@.-") or name in MODELS:
                raise ConfigError(
                    f"config.arms: {name!r} cannot name an arm; leave out / @ . - and the names {', '.join(MODELS)}"
                )
            if arm.labels < 0:
                raise ConfigError(f"config.arms.{name}.labels={arm.labels}: must be at least 0 (all)")
        if not self.seeds or len(set(self.seeds)) != len(self.seeds) or min(self.seeds) < 0:
            raise ConfigError(f"config.seeds={self.seeds}: one or more different seeds, none negative")
        if self.resamples < 200:
            raise ConfigError(f"config.resamples={self.resamples}: must be at least 200")
        if self.docs and not self.docs.endswith(".md"):
            raise ConfigError(f"config.docs={self.docs!r}: must be the path of a Markdown file, ending in .md")
        stated: set[str] = set()
        for number, comparison in enumerate(self.comparisons):
            field = f"comparisons[{number}]"
            sides = {"first": (comparison.first,), "second": (comparison.second,), "than": comparison.than}
            for side, models in sides.items():
                for name in models:
                    self._known(f"{field}.{side}", name, models=True)
            _metrics(field, comparison.metrics)
            if not 0 < comparison.factor <= 1:
                raise ConfigError(f"config.{field}.factor={comparison.factor}: must be above 0 and at most 1")
            if len(comparison.than) not in (0, 2):
                raise ConfigError(f"config.{field}.than={comparison.than}: must be two models, or none")
            for metric in comparison.metrics:
                if (name := comparison.name(metric)) in stated:
                    raise ConfigError(
                        f"config.{field}: {name!r} was stated before; leave one out, or one number in evidence.json "
                        "would hide the other"
                    )
                stated.add(name)
        for number, curve in enumerate(self.curves):
            field = f"curves[{number}]"
            if curve.axis not in AXES:
                raise ConfigError(f"config.{field}.axis={curve.axis!r}: must be one of {', '.join(map(repr, AXES))}")
            for arms in curve.series.values():
                for name in arms:
                    self._known(f"{field}.series", name)
            _metrics(field, curve.metrics)
        return self

    def selected(self) -> dict[str, Arm]:
        """The arms to run."""
        return {name: arm for name, arm in self.arms.items() if not self.only or name in self.only}

    def base(self) -> Experiment:
        """The experiment itself, without the grid."""
        return Experiment(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Experiment)})

    def _known(self, field: str, name: str, models: bool = False) -> None:
        arm = name.partition("@")[0].removesuffix(".assistant")
        if (arm if models else name) not in self.arms and not (models and name in MODELS):
            allowed = [*self.arms, *(MODELS if models else ())]
            raise ConfigError(f"config.{field}={name!r}: must be one of {', '.join(allowed)}")


def _metrics(field: str, metrics: tuple[str, ...]) -> None:
    for metric in metrics:
        if metric not in METRICS:
            raise ConfigError(f"config.{field}.metrics: {metric!r} is none of {', '.join(METRICS)}")
