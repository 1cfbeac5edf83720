"""What Prometheus reads of a server; a registry of its own, so that several servers fit into a process."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    """Labels hold names of this server alone, never a client's text, so that their number is bounded."""

    def __init__(self, queued: Callable[[], int], in_progress: Callable[[], int], largest_batch: int):
        """`queued()` jobs wait for a model; `in_progress()` requests have been let in."""
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self._requests = Counter("distill_requests", "Requests answered", ("model", "code"), registry=registry)
        self._seconds = Histogram(
            "distill_request_seconds", "From the request to its answer", ("model",), buckets=_SECONDS, registry=registry
        )
        sizes = [float(2**power) for power in range(12) if 2**power < largest_batch]
        self._batch = Histogram(
            "distill_batch_rows",
            "Rows of a call, without padding",
            ("model",),
            buckets=[*sizes, float(largest_batch)],
            registry=registry,
        )
        Gauge("distill_queue_depth", "Jobs that wait for a model", registry=registry).set_function(queued)
        Gauge("distill_requests_in_progress", "Requests let in", registry=registry).set_function(in_progress)

    def answered(self, model: str, code: int, seconds: float) -> None:
        self._requests.labels(model, str(code)).inc()
        self._seconds.labels(model).observe(seconds)

    def called(self, model: str, rows: int) -> None:
        self._batch.labels(model).observe(rows)

    def text(self) -> bytes:
        return generate_latest(self.registry)
