"""The embedded marketplace, an encoder from scratch, no downloads: about five minutes on two cores.

python -m launch.pipeline --config=configs/quickstart.py --workdir=runs/quickstart
"""

from distill.config import EvaluateConfig, Experiment, JudgeConfig, OptimizerConfig, StudentConfig


def get_config() -> Experiment:
    config = Experiment(name="quickstart", judge=JudgeConfig(backend="simulated"))
    config.evaluate = EvaluateConfig(arms=("student_clicks",))
    config.assistant.epochs = 6.0
    config.assistant.optimizer = OptimizerConfig(learning_rate=1e-3)
    config.student = StudentConfig(epochs=30.0, optimizer=OptimizerConfig(learning_rate=1e-3))
    return config
