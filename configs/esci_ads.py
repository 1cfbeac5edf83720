"""Real listings, an LLM's grades and human labels (the ESCI-ads directory), from a pretrained all-MiniLM-L6-v2.

Under an hour on two cores; DATA is the data directory, MODEL a Hugging Face directory of all-MiniLM-L6-v2:

python -m launch.pipeline --config=configs/esci_ads.py --config.data.dir=DATA --config.encoder.init=MODEL \
    --workdir=runs/esci_ads
"""

from distill.config import Experiment, OptimizerConfig


def get_config() -> Experiment:
    config = Experiment(name="esci_ads")
    config.data.dir = "esci_ads"
    config.encoder.init = "sentence-transformers/all-MiniLM-L6-v2"
    config.encoder.item_tokens = 72
    config.assistant.epochs = 1.0
    config.assistant.dropout = 0.0
    config.assistant.optimizer = OptimizerConfig(learning_rate=8e-5)
    config.student.widths = (64, 384)
    config.student.epochs = 3.0
    config.student.optimizer = OptimizerConfig(learning_rate=5e-5)
    config.recommend.items = "holdout"
    return config
