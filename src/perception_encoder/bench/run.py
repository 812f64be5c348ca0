"""Measure models with backends, one process after another, and compare the results.

Each model is measured in fp32 first, because the drift of the others is relative to it.
"""

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
from perception_encoder.bench.figures import BenchRow, Figures, SkippedCase
from perception_encoder.bench.measure import BenchJob, drifts
from perception_encoder.errors import BackendUnavailableError
from perception_encoder.registry import MODELS, find
from perception_encoder.registry.config import image_operations
from perception_encoder.types import BackendName, Precision

DEFAULT_MODELS: Final = tuple(
    entry.id for entry in MODELS if entry.family == "PE-Core" and entry.text_twin is None
)
_PACKAGES: Final[dict[BackendName, str]] = {
    "torch": "torch",
    "openvino": "openvino",
    "onnx": "onnxruntime",
}
# What is measured where nothing is named; fp16 has no use on CPUs, and bf16 is as fast on GPUs.
_PRECISIONS: Final[dict[BackendName, tuple[Precision, ...]]] = {
    "torch": ("fp32", "bf16"),
    "openvino": ("fp32", "bf16", "int8"),
    "onnx": ("fp32", "int8"),
}
_CEILINGS: Final[tuple[Precision, ...]] = ("fp32", "bf16", "int8")
_CAMERA: Final = "camera.jpg"


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """What to measure; None is everything that is installed.

    Attributes:
        models: registered names, or files and folders.
        backends: backends.
        precisions: number formats.
        device: as in `AutoModel.from_pretrained`.
        is_quick: fewer rounds; where no backend or precision is named, the one that `auto` chooses.
    """

    models: Sequence[str] = DEFAULT_MODELS
    backends: Sequence[BackendName] | None = None
    precisions: Sequence[Precision] | None = None
    device: str = "auto"
    is_quick: bool = False


@dataclass(frozen=True)
class _Case:
    """A backend and a precision."""

    backend: BackendName | Literal["auto"]
    precision: Precision | Literal["auto"]


def bench(options: BenchOptions) -> Iterator[BenchRow | SkippedCase]:
    """Measure one case after another; what cannot be measured is `SkippedCase` and says why.

    A registered model whose weights are not on this machine is given random ones: nothing is
    downloaded.

    Raises:
        UnknownModelError: a model's name is neither registered nor a path.
        CheckpointError: a path is no model's.
    """
    entries = {name: None if Path(name).exists() else find(name) for name in options.models}
    with TemporaryDirectory(prefix="pe-bench-") as temporary:
        folder = Path(temporary)
        write_camera_image(folder / _CAMERA)
        for name, entry in entries.items():
            with TemporaryDirectory(dir=folder) as place:
                try:
                    subject = find_subject(name, entry, Path(place))
                except BackendUnavailableError as err:
                    yield SkippedCase(name, "-", "-", str(err))
                    continue
                yield from _Bench(options, Path(place), folder / _CAMERA, subject).rows()


class _Bench:
    """The cases of one model."""

    def __init__(
        self, options: BenchOptions, folder: Path, camera_image: Path, subject: BenchSubject
    ) -> None:
        self._options = options
        self._folder = folder
        self._camera_image = camera_image
        self._subject = subject
        self._reference = folder / "fp32.npz"

    def rows(self) -> Iterator[BenchRow | SkippedCase]:
        """Measure each case."""
        cases = _cases(self._options, self._subject)
        fp32 = _Case("torch" if is_installed("torch") else "auto", "fp32")
        if fp32 in cases:
            cases.remove(fp32)
            cases.insert(0, fp32)
        else:
            self._write_reference(fp32)
        ceilings = self._ceilings(cases)
        for case in cases:
            vectors = self._reference if case == fp32 else self._folder / "vectors.npz"
            try:
                figures = self._measured(case, vectors)
            except BackendUnavailableError as err:
                yield SkippedCase(self._subject.name, case.backend, case.precision, str(err))
                continue
            yield self._row(figures, vectors, ceilings)

    def _measured(self, case: _Case, vectors: Path) -> Figures:
        job = self._job(case, vectors)
        if case.backend != "onnx":
            return Figures(**self._run(job))
        # This backend reads no weights, but what was exported of them.
        with TemporaryDirectory(dir=self._folder) as place:
            exported = Path(place) / "export"
            request = {"model": job.model, "folder": str(exported), "backend": "onnx"}
            run_task("export", request | {"precision": case.precision}, self._folder)
            return Figures(**self._run(replace(job, model=str(exported))))

    def _run(self, job: BenchJob) -> Any:
        graphs = self._folder / "graphs" if self._subject.has_random_weights else None
        return run_task("measure", asdict(job), self._folder, graphs=graphs)

    def _write_reference(self, case: _Case) -> None:
        """Write the vectors of fp32 where fp32 itself is not measured."""
        job = replace(self._job(case, self._reference), is_timed=False)
        try:
            self._run(job)
        except BackendUnavailableError:
            return  # nothing to compare with: drift is not told

    def _job(self, case: _Case, vectors: Path) -> BenchJob:
        is_quick = self._options.is_quick
        return BenchJob(
            model=self._subject.source,
            backend=case.backend,
            precision=case.precision,
            device=self._options.device,
            camera_image=str(self._camera_image),
            vectors=str(vectors),
            rounds=3 if is_quick else 7,
            seconds=1.0 if is_quick else 5.0,
        )

    def _ceilings(self, cases: Sequence[_Case]) -> dict[str, float | None]:
        """Measure the device anew for each model, because a machine's speed changes with time."""
        if not is_installed("torch"):
            return {}
        named = {case.precision for case in cases}
        precisions = list(_CEILINGS) if "auto" in named else sorted(named)
        request: dict[str, Any] = {"device": self._options.device, "precisions": precisions}
        measured: dict[str, float | None] = run_task("ceilings", request, self._folder)
        return measured

    def _row(self, figures: Figures, vectors: Path, ceilings: dict[str, float | None]) -> BenchRow:
        subject = self._subject
        operations = image_operations(subject.config.vision, subject.config.embed_dim)
        ceiling = ceilings.get(figures.precision)
        images = texts = None
        if self._reference.exists():
            images, texts = drifts(vectors, self._reference)
        return BenchRow(
            model=subject.name,
            has_random_weights=subject.has_random_weights,
            imagenet_accuracy=subject.entry.imagenet_accuracy if subject.entry else None,
            figures=figures,
            operations=operations,
            ceiling=ceiling,
            fraction=figures.images_per_second * operations / ceiling if ceiling else None,
            image_drift=images,
            text_drift=texts,
        )


def _cases(options: BenchOptions, subject: BenchSubject) -> list[_Case]:
    """List what to measure, from what was asked for and what is installed."""
    if subject.is_export:
        return [_Case("auto", "auto")]
    if options.is_quick and options.backends is None and options.precisions is None:
        return [_Case("auto", "auto")]
    backends = options.backends or [name for name in _PACKAGES if is_installed(_PACKAGES[name])]
    return [
        _Case(backend, precision)
        for backend in backends
        for precision in options.precisions or _PRECISIONS[backend]
    ]
