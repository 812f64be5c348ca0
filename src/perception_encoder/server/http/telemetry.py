"""The server's log, a line of text or JSON for each event, and its metrics for Prometheus."""

import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Literal

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from perception_encoder.server.core.served_models import ServedModels


_FIELDS: Final = (
    "request_id", "client", "api", "route", "status", "milliseconds", "bytes_in", "error"
)  # fmt: skip
_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_SIZES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        event: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        for name in _FIELDS:
            if getattr(record, name, None) is not None:
                event[name] = getattr(record, name)
        if record.exc_info:
            event["exception"] = self.formatException(record.exc_info)
        return escape_controls(json.dumps(event, ensure_ascii=False))


class TextFormatter(logging.Formatter):
    """A line for people; of a request also its id and time."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # logging's name for it
        """Return the line, without a traceback."""
        line = escape_controls(super().formatMessage(record))
        request_id = getattr(record, "request_id", None)
        if request_id is None:
            return line
        return f"{line} {getattr(record, 'milliseconds', 0)} ms {request_id}"

    def formatException(self, ei: Any) -> str:  # logging's name for it
        """Return a traceback, indented so that no error's text looks like another event."""
        lines = super().formatException(ei).split("\n")
        return "\n".join(f"  {escape_controls(line)}" for line in lines)


def escape_controls(text: str) -> str:
    """Return a text with characters that are not printable escaped as in JSON."""
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else _escaped(sign) for sign in text)


def _escaped(sign: str) -> str:
    return json.dumps(sign)[1:-1] if sign != "\x7f" else "\\u007f"


def build_log_config(form: Literal["text", "json"]) -> dict[str, Any]:
    """Return a configuration for `logging.config.dictConfig`."""
    here = __name__
    formatter = (
        {"()": f"{here}.JsonFormatter"}
        if form == "json"
        else {"()": f"{here}.TextFormatter", "format": "%(asctime)s %(levelname)s %(message)s"}
    )
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": formatter},
        "handlers": {
            "stderr": {
                "class": "logging.StreamHandler",
                "formatter": "line",
                "stream": "ext://sys.stderr",
            }
        },
        "loggers": {
            "perception_encoder": {"handlers": ["stderr"], "level": "INFO", "propagate": False},
            "uvicorn": {"handlers": ["stderr"], "level": "WARNING", "propagate": False},
        },
    }


class Metrics:
    """Counters with a registry of their own, so that several servers may share a process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.requests = Counter(
            "pe_requests",
            "Requests answered.",
            ("api", "route", "status"),
            registry=self.registry,
        )
        self.errors = Counter(
            "pe_errors", "Requests answered with an error.", ("code",), registry=self.registry
        )
        self.seconds = Histogram(
            "pe_request_seconds",
            "From a request's head to the end of its reply.",
            ("api", "route"),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.stages = Histogram(
            "pe_stage_seconds",
            "Of a batch: how long its first item waited, and how long it was computed.",
            ("model", "modality", "stage"),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.batches = Histogram(
            "pe_batch_items",
            "Images or texts computed at once.",
            ("model", "modality"),
            buckets=_SIZES,
            registry=self.registry,
        )
        self.crashes = Counter(
            "pe_worker_crashes",
            "Workers that had to be replaced.",
            ("model", "modality"),
            registry=self.registry,
        )

    def observer(self, model: str, modality: str) -> "BatchMetrics":
        """Return the observer of one queue's batches."""
        return BatchMetrics(self, model, modality)

    def watch(self, served_models: "ServedModels") -> None:
        """Report queues and models as they are when asked."""
        self.registry.register(_WorkerCollector(served_models))

    def text(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self.registry)


class BatchMetrics:
    """A `BatchObserver`."""

    def __init__(self, metrics: Metrics, model: str, modality: str) -> None:
        self._sizes = metrics.batches.labels(model, modality)
        self._waits = metrics.stages.labels(model, modality, "wait")
        self._computes = metrics.stages.labels(model, modality, "compute")
        self._crashes = metrics.crashes.labels(model, modality)

    def batch(self, size: int, waited_seconds: float, computed_seconds: float) -> None:
        """See `BatchObserver.batch`."""
        self._sizes.observe(size)
        self._waits.observe(waited_seconds)
        self._computes.observe(computed_seconds)

    def crash(self) -> None:
        """See `BatchObserver.crash`."""
        self._crashes.inc()


class _WorkerCollector(Collector):
    def __init__(self, served_models: "ServedModels") -> None:
        self._served_models = served_models

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the gauges."""
        loaded = GaugeMetricFamily(
            "pe_model_loaded", "Whether a model is in memory.", labels=("model",)
        )
        num_bytes = GaugeMetricFamily(
            "pe_model_bytes", "Of a loaded model's weights, estimated.", labels=("model",)
        )
        waiting = GaugeMetricFamily(
            "pe_queue_items", "Items decoded or waiting.", labels=("model", "modality")
        )
        for state in self._served_models.states():
            loaded.add_metric((state.name,), float(state.is_loaded))
            if state.worker is not None:
                num_bytes.add_metric((state.name,), float(state.num_bytes or 0))
                for modality, count in state.worker.num_waiting.items():
                    waiting.add_metric((state.name, modality), float(count))
        yield from (loaded, num_bytes, waiting)
