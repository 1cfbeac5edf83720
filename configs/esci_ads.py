"""Real listings, an LLM's grades and human labels (the ESCI-ads directory), from a pretrained all-MiniLM-L6-v2.

Under an hour on two cores; DATA is the data directory, MODEL a Hugging Face directory of all-MiniLM-L6-v2:

python -m launch.pipeline --config=configs/esci_ads.py --config.data.dir=DATA --config.encoder.init=MODEL \
    --workdir=runs/esci_ads
"""

from distill.config import Experiment, OptimizerConfig


def get_config() -> Experiment:
    config = Experiment(name="esci_ads")
    config.data.dir = "esci_ads"
    config.data.simulated = ("clicks", "keyphrases.search_volume")  # its README says so
    config.encoder.init = "sentence-transformers/all-MiniLM-L6-v2"
    config.encoder.item_tokens = 64  # one title in a hundred is longer
    config.assistant.epochs = 0.6
    config.assistant.dropout = 0.0
    config.assistant.validations = 4
    config.assistant.optimizer = OptimizerConfig(learning_rate=8e-5)
    config.score.lexical = 3
    config.score.dense = 5
    config.score.random = 2
    config.student.widths = (64, 384)
    config.student.epochs = 1.1
    config.student.batch_items = 16  # small batches: on a CPU the number of steps is what is short
    config.student.searched_per_item = 1
    config.student.clicked_per_item = 1
    config.student.validations = 4
    config.student.tasks.clicks = 0.1
    config.student.tasks.search_relevance = 0.05
    config.student.distill.grade_share = 0.9
    config.student.optimizer = OptimizerConfig(learning_rate=7e-5)
    config.recommend.items = "holdout"
    config.recommend.candidates = 25
    config.evaluate.align_items = 100
    return config
