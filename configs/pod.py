"""The template's settings on many accelerators: parameters sharded over eight devices, batches over the rest.

python -m launch.pipeline --config=configs/pod.py --config.data.dir=DATA --config.encoder.init=MODEL --workdir=runs/pod
"""

from configs import marketplace
from distill.config import Experiment


def get_config() -> Experiment:
    config = marketplace.get_config()
    config.name = "pod"
    config.encoder.compute_dtype = "bfloat16"
    config.parallel.data = -1
    config.parallel.fsdp = 8
    config.student.batch_items = 1024
    config.assistant.batch_pairs = 1024
    return config
