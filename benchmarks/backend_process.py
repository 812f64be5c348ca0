"""Backends in processes of their own, measured in turns; protocol of `peers/serving.py`."""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

RUNNERS = Path(__file__).parent / "peers"
NUM_THREADS = 2
_LONG_SECONDS = 4  # backends that need longer for a batch gain nothing from a larger one
_SAME = 1.02  # a smaller batch that is so near to the best one is taken: it costs less time


class BackendError(Exception):
    """A backend that is not here, could not be made, or failed."""


@dataclass(frozen=True)
class Spec:
    """A backend: the runner, the environment it runs in, and what its class is given.

    `sizes` are what the task may be asked with first: batch sizes, or numbers of workers.
    """

    label: str
    runner: str
    python: Path
    settings: Mapping[str, Any]
    sizes: Sequence[int] = (1,)
    kind: str = ""
    """What is compared: "ours", "default" and "best" of the peer that bars are set by, or ""."""


class Backend:
    """A process that waits for tasks; call `wait` before the first.

    Raises:
        BackendError: there is no such environment, or a call failed.
    """

    def __init__(self, spec: Spec) -> None:
        if not spec.python.exists():
            raise BackendError(f"no environment at {spec.python.parent.parent}")
        self._process = subprocess.Popen(
            [spec.python, RUNNERS / f"{spec.runner}.py", json.dumps(dict(spec.settings))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if not os.environ.get("PE_BENCH_VERBOSE") else None,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": str(NUM_THREADS), "HF_HUB_OFFLINE": "1"},
        )

    def wait(self) -> None:
        """Wait until the backend is made."""
        self._answer()

    def ask(self, task: str, *arguments: Any) -> Any:
        """Run a task and return its value."""
        return self._reply(task, *arguments)["value"]

    def seconds(self, task: str, *arguments: Any) -> float:
        """Run a task and return how long it took."""
        return float(self._reply(task, *arguments)["seconds"])

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> Self:
        self.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _reply(self, task: str, *arguments: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        request = {"task": task, "arguments": arguments}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            stderr = self._process.stderr.read() if self._process.stderr else ""
            last = (stderr.strip().splitlines() or ["it said nothing"])[-1]
            raise BackendError(f"ended with {self._process.returncode}: {last}")
        reply = json.loads(line)
        if "error" in reply:
            self.close()
            raise BackendError(reply["error"])
        return dict(reply)


@dataclass
class Measured:
    """What one backend reached: items a second in each round, and at which size."""

    spec: Spec
    versions: dict[str, str]
    size: int
    rates: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """The median of the rounds."""
        return statistics.median(self.rates)

    def over(self, other: "Measured") -> float:
        """How many times as fast as another, the median of the rounds' ratios."""
        return statistics.median(
            ours / theirs for ours, theirs in zip(self.rates, other.rates, strict=True)
        )


@dataclass(frozen=True)
class Task:
    """What is measured: a method of the runners, and how many items a call with a size computes.

    `arguments` follow the size; `num_items` is None where the size itself is the number of items.
    """

    name: str
    arguments: Sequence[Any] = ()
    num_items: int | None = None

    def rate(self, backend: Backend, size: int) -> float:
        """Items a second of one call."""
        seconds = backend.seconds(self.name, size, *self.arguments)
        return (self.num_items or size) / seconds


def open_backends(specs: Sequence[Spec]) -> tuple[dict[str, Backend], dict[str, str]]:
    """Start the backends side by side; those that cannot be had are returned with why."""
    backends: dict[str, Backend] = {}
    unavailable: dict[str, str] = {}
    for spec in specs:
        with _noted(spec, unavailable):
            backends[spec.label] = Backend(spec)
    for spec in specs:
        if spec.label in backends:
            with _noted(spec, unavailable):
                backends[spec.label].wait()
    return {label: e for label, e in backends.items() if label not in unavailable}, unavailable


@contextmanager
def _noted(spec: Spec, unavailable: dict[str, str]) -> Iterator[None]:
    """Turn a backend's failure into a note: the others are measured without it."""
    try:
        yield
    except BackendError as err:
        unavailable[spec.label] = str(err)
        print(f"  {spec.label}: left out: {err}", file=sys.stderr)


def measure(
    specs: Sequence[Spec],
    backends: Mapping[str, Backend],
    task: Task,
    rounds: int,
    unavailable: dict[str, str],
) -> dict[str, Measured]:
    """Find each backend's best size, then measure all of them in turns, forwards and backwards.

    Backends that fail at their first call are added to `unavailable`.
    """
    results: dict[str, Measured] = {}
    for spec in specs:
        if spec.label in backends:
            with _noted(spec, unavailable):
                size = best_size(spec, backends[spec.label], task)
                results[spec.label] = Measured(spec, backends[spec.label].ask("versions"), size)
    for number in range(rounds):
        in_turn = list(results.values())
        for measured in in_turn if number % 2 == 0 else reversed(in_turn):
            backend = backends[measured.spec.label]
            measured.rates.append(task.rate(backend, measured.size))
    return results


def best_size(spec: Spec, backend: Backend, task: Task) -> int:
    """Return the size with the most items a second, among those whose calls are not too long."""
    rates: dict[int, float] = {}
    for size in spec.sizes:
        num_items = task.num_items or size
        if rates and not task.num_items and num_items / max(rates.values()) > _LONG_SECONDS:
            break
        if size == spec.sizes[0] or task.num_items is None:
            task.rate(backend, size)  # the first call of a shape prepares more than it computes
        rates[size] = task.rate(backend, size)
    listed = ", ".join(f"{size}: {rate:.2f}" for size, rate in rates.items())
    print(f"  {spec.label}: {listed} a second", file=sys.stderr)
    best = max(rates.values())
    return min(size for size, rate in rates.items() if rate * _SAME >= best)
