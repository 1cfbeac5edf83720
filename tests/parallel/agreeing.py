"""One of two processes that agree, share arrays and fail; `test_processes.py` starts both and reads what they print."""

import json
import sys
from pathlib import Path

import jax
import numpy as np

from distill.config import Experiment
from distill.parallel.mesh import place, row_sharding, to_host
from distill.parallel.processes import Processes
from distill.parallel.startup import decide, join
from distill.reporting import Silent
from distill.stages import Context


def outcome(call) -> list[str]:
    try:
        return ["returned", str(call())]
    except RuntimeError as error:
        return [type(error).__name__, str(error)]
    except ValueError as error:
        return ["ValueError", str(error)]


def main(index: int, port: int) -> None:
    processes: Processes = join(decide({}, coordinator=f"localhost:{port}", processes=2, process=index))
    context = Context(Experiment(), Path(), Silent(), processes=processes)
    ran = []
    found: dict = {"index": processes.index, "count": processes.count, "first": processes.first}
    found["value"] = processes.on_first(lambda: ran.append(processes.alone) or {"answer": 42})
    found["ran_alone"] = ran
    found["nested"] = processes.on_first(lambda: processes.on_first(lambda: 1) + 1)
    found["devices"] = [context.mesh.size, processes.on_first(lambda: context.mesh.size)]

    rows = np.arange(24, dtype=np.float32).reshape(8, 3)
    split = place(rows, row_sharding(context.mesh))
    found["rows_here"] = sorted(float(shard.data[0, 0]) for shard in split.addressable_shards)
    found["whole"] = to_host({"split": split})["split"].tolist()
    found["sum"] = float(jax.jit(lambda x: x.sum())(split))

    processes.check_same("rows", rows)
    found["same"] = outcome(lambda: processes.check_same("candidates", rows + index))

    found["gathered"] = processes.gather({"of": index})

    def broken() -> None:
        raise ValueError("no space left on the disc")

    found["failed"] = outcome(lambda: processes.on_first(broken))
    if index == 1:
        processes.fail(ValueError("process 1 has no model"))
    else:
        found["gathering"] = outcome(lambda: processes.gather(0))
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
