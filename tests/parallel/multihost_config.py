from distill.config import Experiment, ParallelConfig
from tests.stages import small_config


def get_config() -> Experiment:
    """The small marketplace; what comes before the student is kept short, its parameters are split over all devices."""
    config = small_config.get_config()
    config.assistant.epochs = 0.1
    config.assistant.validations = 1
    config.score.lexical = config.score.dense = config.score.random = 1
    config.score.shard_pairs = 100_000
    config.student.epochs = 0.75
    config.student.validations = 3
    # The correlation with a teacher that hardly varies, as such an assistant, magnifies the last bit of every sum.
    config.student.distill.teacher = "judge"
    config.student.widths, config.student.width_weights = (32,), (1.0,)
    config.evaluate.prefix = 32
    config.evaluate.arms = ()
    config.parallel = ParallelConfig(data=1, fsdp=8)
    return config
