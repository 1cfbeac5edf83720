from distill.config import Experiment, OptimizerConfig


def get_config() -> Experiment:
    config = Experiment(name="small")
    config.data.marketplace.items = 500
    config.data.marketplace.keyphrases = 600
    config.data.marketplace.human_queries = 12
    config.data.marketplace.searches = 4000
    config.judge.backend = "simulated"
    config.judge.pairs_per_item = 6
    config.encoder.vocab_size = 600
    config.encoder.layers = 1
    config.encoder.width = 32
    config.encoder.heads = 2
    config.encoder.mlp_width = 64
    config.encoder.item_tokens = 40
    config.encoder.row_tokens = 64
    config.assistant.epochs = 1.0
    config.assistant.validations = 2
    config.assistant.valid_share = 0.2
    config.assistant.optimizer = OptimizerConfig(learning_rate=1e-3)
    config.score.shard_pairs = 512
    config.student.widths = (16, 32)
    config.student.epochs = 4.0
    config.student.batch_items = 16
    config.student.validations = 4
    config.student.optimizer = OptimizerConfig(learning_rate=3e-3)
    config.evaluate.arms = ("student_clicks",)
    config.evaluate.baselines = ("bm25", "graphex")
    config.evaluate.prefix = 16
    config.evaluate.bootstrap = 100
    config.evaluate.align_items = 10
    config.export.saved_models = ()  # tests of their own write them
    return config
