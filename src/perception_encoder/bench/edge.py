"""Measure exported models as on an edge device: one core, 1 GiB of memory.

Graphs are exported without these limits, as on another machine. A model that does not fit is
measured again without the memory limit, to report how much it would take.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, Literal

from perception_encoder.bench.child import (
    BenchSubject,
    find_subject,
    is_installed,
    run_task,
    write_camera_image,
)
from perception_encoder.bench.figures import EdgeRow, Memory, SkippedCase
from perception_encoder.bench.measure import EdgeFigures, EdgeJob
from perception_encoder.checkpoints import locate
from perception_encoder.errors import BackendUnavailableError
from perception_encoder.registry import find
from perception_encoder.types import BackendName, Precision


@dataclass(frozen=True)
class Limits:
    """What a small machine has.

    Attributes:
        num_cores: that all threads of the process share.
        memory_bytes: of private memory: the heap, thread stacks and whatever else is written to,
            counted when it is asked for (RLIMIT_DATA). Mapped files are not in it: the kernel may
            drop their pages, and the address space that they take costs nothing. None is no limit.
    """

    num_cores: int
    memory_bytes: int | None


def impose(limits: Limits) -> None:
    """Hold this process, and threads and processes that it starts, to the limits from now on.

    Raises:
        BackendUnavailableError: this system does not have such limits.
    """
    if sys.platform != "linux":
        raise BackendUnavailableError(
            "cores and memory are limited on Linux only; leave --profile out to measure without"
        )
    import resource

    cores = sorted(os.sched_getaffinity(0))[: limits.num_cores]
    for thread in os.listdir("/proc/self/task"):  # those that numpy has started already, too
        os.sched_setaffinity(int(thread), cores)
    if limits.memory_bytes is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (limits.memory_bytes, limits.memory_bytes))


EDGE_MODELS: Final = ("PE-Core-T16-384", "PE-Core-S16-384", "PE-Core-B16-224")
SMALL_MACHINE: Final = Limits(num_cores=1, memory_bytes=2**30)
_PACKAGES: Final[dict[BackendName, str]] = {"onnx": "onnxruntime", "openvino": "openvino"}
_PRECISIONS: Final[dict[BackendName, tuple[Precision, ...]]] = {
    "onnx": ("int8", "fp16", "fp32"),
    "openvino": ("int8", "bf16", "fp32"),
}


@dataclass(frozen=True, kw_only=True)
class EdgeOptions:
    """What to measure; None is everything that is installed.

    Attributes:
        models: registered names, weights, or folders that were exported.
        backends: "onnx", "openvino".
        precisions: number formats.
        limits: of the machine.
        is_quick: fewer rounds.
    """

    models: Sequence[str] = EDGE_MODELS
    backends: Sequence[BackendName] | None = None
    precisions: Sequence[Precision] | None = None
    limits: Limits = SMALL_MACHINE
    is_quick: bool = False


def bench_edge(options: EdgeOptions) -> Iterator[EdgeRow | SkippedCase]:
    """Measure one case after another; what cannot be measured is `SkippedCase` and says why.

    Raises:
        UnknownModelError: a model's name is neither registered nor a path.
        CheckpointError: a path is no model's.
    """
    entries = {name: None if Path(name).exists() else find(name) for name in options.models}
    with TemporaryDirectory(prefix="pe-bench-") as temporary:
        camera_image = Path(temporary) / "camera.jpg"
        write_camera_image(camera_image)
        for name, entry in entries.items():
            with TemporaryDirectory(dir=temporary) as place:
                try:
                    subject = find_subject(name, entry, Path(place))
                except BackendUnavailableError as err:
                    yield SkippedCase(name, "-", "-", str(err))
                    continue
                yield from _Edge(options, Path(place), camera_image, subject).rows()


@dataclass(frozen=True)
class _Run:
    """What a process did within the limits, or what it would have taken: then without figures."""

    figures: EdgeFigures
    memory: Memory


class _Edge:
    """The cases of one model."""

    def __init__(
        self, options: EdgeOptions, folder: Path, camera_image: Path, subject: BenchSubject
    ) -> None:
        self._options = options
        self._folder = folder
        self._camera_image = camera_image
        self._subject = subject

    def rows(self) -> Iterator[EdgeRow | SkippedCase]:
        """Measure each backend and precision."""
        if self._subject.is_export:
            for precision in self._options.precisions or ("auto",):
                yield self._outcome("auto", precision, Path(self._subject.source))
            return
        installed = [name for name, package in _PACKAGES.items() if is_installed(package)]
        for backend in self._options.backends or installed:
            for precision in self._options.precisions or _PRECISIONS[backend]:
                with TemporaryDirectory(dir=self._folder) as place:
                    yield self._outcome(backend, precision, Path(place) / "export")

    def _outcome(
        self,
        backend: BackendName | Literal["auto"],
        precision: Precision | Literal["auto"],
        exported: Path,
    ) -> EdgeRow | SkippedCase:
        try:
            if backend != "auto":
                self._export(backend, precision, exported)
            return self._row(exported, precision)
        except BackendUnavailableError as err:
            return SkippedCase(self._subject.name, backend, precision, str(err))

    def _export(self, backend: BackendName, precision: str, exported: Path) -> None:
        # OpenVINO multiplies in bf16 what is stored in fp16.
        stored = "fp16" if (backend, precision) == ("openvino", "bf16") else precision
        request = {"model": self._subject.source, "folder": str(exported)}
        run_task("export", request | {"backend": backend, "precision": stored}, self._folder)

    def _row(self, exported: Path, precision: Precision | Literal["auto"]) -> EdgeRow:
        graphs = locate(str(exported), local_files_only=True).graphs
        assert graphs is not None
        job = EdgeJob(
            model=str(exported),
            precision=precision,
            with_texts=False,
            camera_image=str(self._camera_image),
            rounds=3 if self._options.is_quick else 7,
            seconds=1.0 if self._options.is_quick else 5.0,
        )
        images = self._run(job)
        texts = self._run(replace(job, with_texts=True))
        assert images is not None
        return EdgeRow(
            model=self._subject.name,
            has_random_weights=self._subject.has_random_weights,
            backend=images.figures.backend,
            precision=images.figures.precision,
            image_file_bytes=_file_bytes(exported / graphs.image_name),
            text_file_bytes=_file_bytes(exported / graphs.text_name),
            image_ms=images.figures.image_ms,
            images_per_second=images.figures.images_per_second,
            image_batch=images.figures.image_batch,
            decode_ms=images.figures.decode_ms,
            text_ms=texts.figures.text_ms if texts else None,
            image_memory=images.memory,
            both_memory=texts.memory if texts else None,
        )

    def _run(self, job: EdgeJob) -> _Run | None:
        """Measure within the limits, or else what it takes without that of memory."""
        limits, limit = self._options.limits, self._options.limits.memory_bytes
        try:
            figures = self._figures(job, limits)
        except (
            BackendUnavailableError
        ):  # backends say in many ways that memory ran out, or just die
            unlimited = replace(limits, memory_bytes=None)
            found = self._figures(replace(job, rounds=1), unlimited)
            if found is None:
                return None
            named = EdgeFigures(
                backend=found.backend, precision=found.precision, peak_bytes=found.peak_bytes
            )
            return _Run(named, Memory(found.peak_bytes, fits=False))
        if figures is None:
            return None
        fits = limit is None or figures.peak_bytes <= limit
        return _Run(figures, Memory(figures.peak_bytes, fits))

    def _figures(self, job: EdgeJob, limits: Limits) -> EdgeFigures | None:
        request: dict[str, Any] = {"job": asdict(job), "limits": asdict(limits)}
        found = run_task("measure_edge", request, self._folder)
        return None if found is None else EdgeFigures(**found)


def _file_bytes(graph: Path) -> int:
    """The bytes of a graph and of its weights, which lie beside it; 0 where there is none."""
    return sum(path.stat().st_size for path in graph.parent.glob(f"{graph.stem}.*"))
