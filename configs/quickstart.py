"""The embedded marketplace, an encoder from scratch, no downloads: about five minutes on two cores.

python -m launch.pipeline --config=configs/quickstart.py --workdir=runs/quickstart

Clicks are few, as most listings' are: about five clicked keyphrases a listing, of which three in five are truly right.
The judge is asked about 48 keyphrases a listing, most of them near in meaning, and is wrong on more than a third.

An encoder without pretraining makes a weak cross-encoder: comparing two texts takes it far longer to learn than placing
each of them. So the judge's own grades are nearly all of the target where it graded a pair (`grade_share`), what it
found exact joins the clicked pairs as positives, and the assistant speaks for the pairs beside: random ones, which it
tells apart well, and a few dense candidates.
"""

from distill.config import Experiment, OptimizerConfig, StrataConfig


def get_config() -> Experiment:
    config = Experiment(name="quickstart")
    config.judge.backend = "simulated"
    config.data.marketplace.searches = 60_000
    config.judge.pairs_per_item = 48
    # Few by words or clicks: the search engine shows those anyway; the judge is asked about what it hides.
    config.judge.strata = StrataConfig(
        clicked=0.0,
        shown=0.0,
        lexical_near=0.1,
        dense_near=0.35,
        lexical_far=0.1,
        dense_far=0.35,
        never_shown=0.0,
        random=0.1,
        near_ranks=20,
        far_ranks=70,
    )
    config.encoder.layers = 1
    config.encoder.item_tokens = 40
    config.encoder.keyphrase_tokens = 16
    config.encoder.row_tokens = 64
    config.assistant.epochs = 1.0
    config.assistant.dropout = 0.0
    config.assistant.validations = 4
    config.assistant.optimizer = OptimizerConfig(learning_rate=1e-3)
    config.score.lexical = 2
    config.score.dense = 2
    config.score.random = 6
    config.student.epochs = 12.0
    config.student.batch_items = 32
    config.student.candidates_per_item = 16
    config.student.exact_as_clicked = True
    config.student.tasks.clicks = 0.5
    config.student.distill.grade_share = 0.9
    config.student.validations = 4
    config.student.optimizer = OptimizerConfig(learning_rate=3e-3)
    config.recommend.candidates = 30
    config.recommend.precision = 0.6  # as measured by a judge that is itself wrong on a third of such pairs
    config.evaluate.arms = ("student_clicks",)
    config.evaluate.align_items = 100
    return config
