"""The embedded marketplace, an encoder from scratch, no downloads: a few minutes on two cores.

python -m launch.pipeline --config=configs/quickstart.py --workdir=runs/quickstart
"""

from distill.config import Experiment, OptimizerConfig


def get_config() -> Experiment:
    config = Experiment(name="quickstart")
    config.judge.backend = "simulated"
    config.judge.pairs_per_item = 16
    config.encoder.item_tokens = 40
    config.encoder.keyphrase_tokens = 16
    config.encoder.row_tokens = 64
    config.assistant.epochs = 3.0
    config.assistant.dropout = 0.0
    config.assistant.validations = 4
    config.assistant.optimizer = OptimizerConfig(learning_rate=1e-3)
    config.student.epochs = 12.0
    config.student.validations = 4
    config.student.optimizer = OptimizerConfig(learning_rate=1e-3)
    config.evaluate.arms = ("student_clicks",)
    return config
