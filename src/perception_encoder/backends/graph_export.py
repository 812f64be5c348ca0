"""Export a model as graphs of another backend, which need neither torch nor the weights.

Every folder is opened by its backend and compared with the torch towers before it is put in place.
A folder that differs too much is deleted.
"""

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from perception_encoder.backends.base import Backend
from perception_encoder.backends.graph_cache import GraphFolder, checksums
from perception_encoder.backends.samples import CalibrationSamples, iter_calibration_images
from perception_encoder.backends.torch_backend import TorchBackend
from perception_encoder.checkpoints import Checkpoint
from perception_encoder.checkpoints.folder import (
    CONFIG_NAME,
    TOKENIZER_NAME,
    ExportedFiles,
    format_config,
    is_export,
)
from perception_encoder.checkpoints.known_weights import KnownWeights
from perception_encoder.checkpoints.load import LoadedModel, load_model
from perception_encoder.checkpoints.save import stage_folder
from perception_encoder.checkpoints.tensors import require_unchanged
from perception_encoder.errors import BackendUnavailableError, CheckpointError
from perception_encoder.model import DualEncoder
from perception_encoder.preprocess.tokenizer import Tokenizer
from perception_encoder.registry import ModelConfig
from perception_encoder.types import BackendName, Pixels, Precision, PreprocessName


@dataclass(frozen=True, slots=True)
class ExportDrift:
    """How far a backend's vectors, made unit length, are from the float32 towers'.

    Attributes:
        difference: the largest difference of any number.
        cosine: the lowest cosine of a vector with its exact one.
    """

    difference: float
    cosine: float


# float32 differs by the order of sums only. With less than these cosines, results are in another
# order often enough to be seen.
_BOUNDS: Final[dict[Precision, ExportDrift]] = {
    "fp32": ExportDrift(difference=2e-5, cosine=0.99999),
    "fp16": ExportDrift(difference=1e-2, cosine=0.9999),
    "int8": ExportDrift(difference=1.0, cosine=0.995),
}


def export_graphs(
    checkpoint: Checkpoint,
    folder: Path,
    *,
    backend: BackendName,
    precision: Precision,
    preprocess: PreprocessName,
    tokenizer: Tokenizer | None,
    samples: CalibrationSamples,
    calibration: Callable[[], Iterable[Pixels]] | None = None,
) -> dict[str, ExportDrift]:
    """Write config.json, the graphs, their weights, and tokenizer.json.

    Args:
        checkpoint: of weights.
        folder: made where it does not exist; an earlier export is replaced once the new one is
            whole.
        backend: "onnx" for image.onnx and text.onnx, "openvino" for image.xml and text.xml.
        precision: "fp32", "fp16" (stored so, computed in float32) or "int8".
        preprocess: the preprocessing that opening it will choose.
        tokenizer: its vocabulary, if it has one.
        samples: what the written graphs are tried on.
        calibration: gives (B, S, S, 3) uint8 batches that OpenVINO's int8 measures its ranges on;
            None takes the bundled drawings.

    Returns:
        What was measured on the samples, by "images", "texts" and "features".

    Raises:
        BackendUnavailableError: a package is missing, or this backend has no such precision.
        CheckpointError: the folder holds something else; or the graphs differ too much.
        CheckpointWriteError: the folder cannot be written, because the disk is full for instance.
    """
    folder = folder.expanduser().absolute()
    if folder.exists() and not _may_replace(folder):
        raise CheckpointError(
            f"{folder} exists and holds something else than an export. Choose another folder"
        )
    loaded = load_model(checkpoint, dtype=torch.float32)
    graphs = ExportedFiles(backend, precision, loaded.fingerprint, loaded.logit_scale)
    with stage_folder(folder) as passing:
        new = passing / folder.name
        new.mkdir()
        drifts = write_graphs(
            loaded, checkpoint.config, new, graphs, samples, calibration=calibration
        )
        if tokenizer is not None:
            tokenizer.save(new / TOKENIZER_NAME)
        graphs = replace(graphs, checksums=checksums(new))
        config = format_config(checkpoint.config, preprocess, graphs)
        (new / CONFIG_NAME).write_text(config, encoding="utf-8")
        _put_in_place(new, folder)
    return drifts


def write_graphs(
    loaded: LoadedModel,
    config: ModelConfig,
    folder: Path,
    graphs: ExportedFiles,
    samples: CalibrationSamples,
    *,
    calibration: Callable[[], Iterable[Pixels]] | None = None,
) -> dict[str, ExportDrift]:
    """Write graphs into a folder that exists, and try them.

    Args:
        loaded: in float32.
        config: of the model.
        folder: where the files go.
        graphs: what to write.
        samples: as in `export_graphs`.
        calibration: as in `export_graphs`.

    Returns:
        As `export_graphs`.

    Raises:
        BackendUnavailableError: graphs cannot have that precision.
        CheckpointError: the graphs differ too much.
    """
    if graphs.precision not in _BOUNDS:
        raise BackendUnavailableError(
            f"graphs cannot be made in {graphs.precision!r}; use one of {', '.join(_BOUNDS)}"
        )
    with require_unchanged(loaded.watched):
        _write(loaded.model, folder, graphs, calibration)
    towers = TorchBackend(
        loaded.model,
        torch.device("cpu"),
        "fp32",
        fingerprint=loaded.fingerprint,
        logit_scale=loaded.logit_scale,
        watched=loaded.watched,
    )
    with contextlib.closing(_opened(folder, config, graphs)) as written:
        drifts = measure_drift(towers, written, config, samples)
    _check(drifts, graphs.precision, config)
    return drifts


def _write(
    model: DualEncoder,
    folder: Path,
    graphs: ExportedFiles,
    calibration: Callable[[], Iterable[Pixels]] | None,
) -> None:
    if graphs.backend == "onnx":
        from perception_encoder.backends.onnx_write import write_onnx

        write_onnx(model, folder, graphs.image_name, graphs.text_name, precision=graphs.precision)
        return
    from perception_encoder.backends.openvino_write import write_openvino

    images = calibration or partial(iter_calibration_images, model.config)
    parts = [graphs.image_name, *([graphs.text_name] if model.config.text is not None else [])]
    for name in parts:
        write_openvino(model, folder / name, Path(name).stem, graphs.precision, images)


def _opened(folder: Path, config: ModelConfig, graphs: ExportedFiles) -> Backend:
    if graphs.backend == "onnx":
        from perception_encoder.backends.onnx_backend import OnnxBackend

        return OnnxBackend(GraphFolder(folder, dict), config, graphs)
    from perception_encoder.backends.openvino_backend import OpenVinoBackend
    from perception_encoder.backends.openvino_graphs import ExportedGraphs

    known = KnownWeights(graphs.fingerprint, graphs.logit_scale)
    # What is stored in float16 is measured as computed in float32: that much is the graphs' doing.
    precision: Precision = "int8" if graphs.precision == "int8" else "fp32"
    return OpenVinoBackend(config, ExportedGraphs(folder, {}), known, precision)


def measure_drift(
    exact: Backend, other: Backend, config: ModelConfig, samples: CalibrationSamples
) -> dict[str, ExportDrift]:
    """Compare two backends of the same weights: "images", "texts", "features", as there are."""
    pixels = samples.pixels
    drifts = {"features": _drift(exact.features(pixels), other.features(pixels))}
    if config.embed_dim is not None:
        drifts["images"] = _drift(exact.encode_image(pixels), other.encode_image(pixels))
    if config.text is not None:
        token_ids = samples.token_ids
        drifts["texts"] = _drift(exact.encode_text(token_ids), other.encode_text(token_ids))
    return drifts


def _drift(exact: NDArray[np.float32], other: NDArray[np.float32]) -> ExportDrift:
    a, b = (rows.reshape(len(rows), -1).astype(np.float64) for rows in (exact, other))
    with np.errstate(invalid="ignore"):  # an infinite number makes no unit vector
        a, b = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (a, b))
    return ExportDrift(float(np.abs(a - b).max()), float((a * b).sum(axis=1).min()))


def _check(drifts: dict[str, ExportDrift], precision: Precision, config: ModelConfig) -> None:
    bound = _BOUNDS[precision]
    for kind, drift in drifts.items():
        # A number that is no number is within no bound.
        if not (drift.difference <= bound.difference and drift.cosine >= bound.cosine):
            raise CheckpointError(
                f"{config.id} in {precision}: the exported graph's {kind} are too far from the "
                f"model's (lowest cosine {drift.cosine:.5f}, at least {bound.cosine} is needed; "
                f"largest difference {drift.difference:.1e}, at most {bound.difference:.0e}). "
                "Nothing was kept; try another precision"
            )


def _may_replace(folder: Path) -> bool:
    return folder.is_dir() and (is_export(folder) or not any(folder.iterdir()))


def _put_in_place(new: Path, folder: Path) -> None:
    """Move a whole export to where it was asked for."""
    if not folder.exists():
        new.rename(folder)
        return
    # config.json goes first and comes last: without it, what is half replaced opens as nothing.
    (folder / CONFIG_NAME).unlink(missing_ok=True)
    for name in ("image.*", "text.*", TOKENIZER_NAME):
        for path in folder.glob(name):
            path.unlink()
    for path in sorted(new.iterdir(), key=lambda path: path.name == CONFIG_NAME):
        path.rename(folder / path.name)
