"""A template for one's own logs: a directory of tables as README's "Your own data" describes.

python -m launch.pipeline --config=configs/marketplace.py --config.data.dir=DATA --config.encoder.init=MODEL \
    --workdir=runs/mine

Without `encoder.init`, an encoder is learnt from scratch on the texts themselves; with logs of millions of clicks that
works, with less a pretrained one is much better (then set `student.widths` to end in its width).

Logs that lie elsewhere, in shards or under other names, are given by table (docs/data.md):

    config.data.sources.clicks.files = ("s3://logs/clicks/day=2026-*/*.parquet",)
    config.data.sources.clicks.columns = ("item_id=listing", "keyphrase=query", "impressions=views")

Raw impressions and clicks, a row each, are counted from `events`; `previous` keeps an earlier run's split, and `beam`
prepares on a cluster what is too much for one machine:

    config.data.sources.events.files = ("gs://logs/impressions/", "gs://logs/clicks/")
    config.data.previous = "runs/yesterday/data"
    config.data.beam = ("--runner=FlinkRunner", "--flink_master=HOST:8081")
"""

from distill.config import Experiment


def get_config() -> Experiment:
    config = Experiment(name="marketplace")
    config.data.dir = "data"
    config.encoder.vocab_size = 30_000
    config.encoder.layers = 4
    config.encoder.width = 256
    config.encoder.heads = 4
    config.encoder.mlp_width = 1024
    config.student.widths = (64, 256)
    config.student.optimizer.learning_rate = 3e-4
    config.assistant.optimizer.learning_rate = 3e-4
    config.evaluate.arms = ("student_clicks", "student_no_assistant")
    return config
