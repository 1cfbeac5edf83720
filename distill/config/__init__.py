"""The typed experiment: every setting of a run, in one tree of dataclasses.

A config file's `get_config()` returns an `Experiment`; absl flags may then override any field
(`--config.student.optimizer.learning_rate=2e-5`). Sequences are tuples, because that is what the command line can set.
`validate()` is called once, before any work, and names the field, its value and what to do.
"""

from distill.config.checks import ARMS, check_width
from distill.config.experiment import Experiment
from distill.config.rules import ConfigError
from distill.config.settings import (
    ActiveConfig,
    AssistantConfig,
    DataConfig,
    DistillLoss,
    EncoderConfig,
    EndpointConfig,
    EvaluateConfig,
    ExportConfig,
    HardNegatives,
    IndexConfig,
    JudgeConfig,
    LanguageModelConfig,
    MarketplaceConfig,
    OptimizerConfig,
    ParallelConfig,
    ProtocolConfig,
    RecommendConfig,
    ScoreConfig,
    ScreeningConfig,
    SourceConfig,
    SourcesConfig,
    StrataConfig,
    StudentConfig,
    TaskWeights,
    TrainingConfig,
)

__all__ = [
    "ARMS",
    "ActiveConfig",
    "AssistantConfig",
    "ConfigError",
    "DataConfig",
    "DistillLoss",
    "EncoderConfig",
    "EndpointConfig",
    "EvaluateConfig",
    "Experiment",
    "ExportConfig",
    "HardNegatives",
    "IndexConfig",
    "JudgeConfig",
    "LanguageModelConfig",
    "MarketplaceConfig",
    "OptimizerConfig",
    "ParallelConfig",
    "ProtocolConfig",
    "RecommendConfig",
    "ScoreConfig",
    "ScreeningConfig",
    "SourceConfig",
    "SourcesConfig",
    "StrataConfig",
    "StudentConfig",
    "TaskWeights",
    "TrainingConfig",
    "check_width",
]
