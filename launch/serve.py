"""Serves an export over HTTP, with a page to try it: python -m launch.serve --export=runs/quickstart/export.

TensorFlow Serving's REST predict (`POST /v1/models/NAME:predict`), health, metrics; docs/serving.md says more. SIGTERM
lets requests in progress finish and ends it with 0. One line of JSON a request goes to standard error, without texts.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from absl import app, flags

EXPORT = flags.DEFINE_string("export", None, "An export directory, with SavedModels.", required=True)
HOST = flags.DEFINE_string("host", "127.0.0.1", "Where to listen; 0.0.0.0 is everywhere.")
PORT = flags.DEFINE_integer("port", 8501, "0 is any that is free.", lower_bound=0, upper_bound=65535)
MAX_BODY = flags.DEFINE_integer("max_body", 1 << 20, "Bytes of a request.", lower_bound=1)
MAX_BATCH = flags.DEFINE_integer("max_batch", 64, "Rows of a request, and of a call of a model.", lower_bound=1)
MAX_QUEUE = flags.DEFINE_integer("max_queue", 64, "Requests in progress; further ones are told 429.", lower_bound=1)
DEADLINE = flags.DEFINE_float("deadline", 10.0, "Seconds from a request to its answer.", lower_bound=0.01)
THREADS = flags.DEFINE_integer("threads", 0, "Of TensorFlow; 0 lets it choose.", lower_bound=0)

INSTALL = "pip install -e '.[serve]'"


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        sys.exit(f"error: unexpected argument {argv[1]!r}")
    try:
        from distill.serving.limits import Limits
        from distill.serving.server import Told, serve

        limits = Limits(MAX_BODY.value, MAX_BATCH.value, MAX_QUEUE.value, DEADLINE.value)
        told = Told(
            listening=lambda url: print(url, flush=True),
            ready=lambda seconds: print(f"ready after {seconds:.1f} s", flush=True),
            left_out=lambda name, why: print(f"{name} is not served: {why}", file=sys.stderr, flush=True),
        )
        serve(Path(str(EXPORT.value)), HOST.value, PORT.value, limits, THREADS.value, told, _log)
    except ImportError as error:
        sys.exit(f"error: the server needs more packages: `{INSTALL}` ({error})")
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


def _log(record: object) -> None:
    assert isinstance(record, dict)
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    print(json.dumps({"time": when, **record}), file=sys.stderr, flush=True)


if __name__ == "__main__":
    app.run(main)
