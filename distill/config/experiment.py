"""The experiment: all settings together, and which of them go together."""

import dataclasses
import math

from distill.config import checks, data_checks, rules, settings


@dataclasses.dataclass
class Experiment:
    """Everything that a run reads; its parts are described in `settings`."""

    name: str = "experiment"
    seed: int = 0
    data: settings.DataConfig = dataclasses.field(default_factory=settings.DataConfig)
    encoder: settings.EncoderConfig = dataclasses.field(default_factory=settings.EncoderConfig)
    parallel: settings.ParallelConfig = dataclasses.field(default_factory=settings.ParallelConfig)
    training: settings.TrainingConfig = dataclasses.field(default_factory=settings.TrainingConfig)
    judge: settings.JudgeConfig = dataclasses.field(default_factory=settings.JudgeConfig)
    assistant: settings.AssistantConfig = dataclasses.field(default_factory=settings.AssistantConfig)
    score: settings.ScoreConfig = dataclasses.field(default_factory=settings.ScoreConfig)
    student: settings.StudentConfig = dataclasses.field(default_factory=settings.StudentConfig)
    index: settings.IndexConfig = dataclasses.field(default_factory=settings.IndexConfig)
    recommend: settings.RecommendConfig = dataclasses.field(default_factory=settings.RecommendConfig)
    evaluate: settings.EvaluateConfig = dataclasses.field(default_factory=settings.EvaluateConfig)
    export: settings.ExportConfig = dataclasses.field(default_factory=settings.ExportConfig)

    def validate(self) -> "Experiment":
        """Returns itself; raises ConfigError, naming field and value, for the first setting that cannot work."""
        for path, value in rules.leaves(self):
            if isinstance(value, float) and not math.isfinite(value):
                raise rules.ConfigError(f"config.{path}={value}: must be a finite number")
        data_checks.check_data(self.data)
        checks.check_encoder(self.encoder)
        checks.check_parallel("parallel", self.parallel)
        rules.at_least("training.checkpoint_steps", self.training.checkpoint_steps, 1)
        rules.at_least("training.keep_last", self.training.keep_last, 2)
        rules.at_least("training.keep_best", self.training.keep_best, 1)
        checks.check_judge(self.judge, self.data.embedded)
        checks.check_assistant(self.assistant)
        for name in ("lexical", "dense", "random"):
            rules.at_least(f"score.{name}", getattr(self.score, name), 0)
        rules.at_least("score.shard_pairs", self.score.shard_pairs, 1)
        checks.check_student(self.student, self.encoder)
        checks.check_index(self.index, self.student.widths)
        checks.check_recommend(self.recommend)
        checks.check_evaluate(self.evaluate, self.student.widths)
        checks.check_export(self.export)
        return self
