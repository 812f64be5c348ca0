"""Export a model as ONNX or OpenVINO graphs, or as a folder for Roboflow's `inference_models`."""

import importlib.util
import json
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from perception_encoder.backends.samples import (
    CalibrationSamples,
    load_captions,
    load_drawings,
    random_token_rows,
)
from perception_encoder.checkpoints import Checkpoint, locate
from perception_encoder.errors import (
    BackendUnavailableError,
    CheckpointWriteError,
    ImageError,
    SourceError,
)
from perception_encoder.preprocess import ImageProcessor
from perception_encoder.preprocess.tokenizer import Tokenizer
from perception_encoder.sources import SourceOptions, open_sources
from perception_encoder.types import BackendName, Pixels, Precision, PreprocessName

if TYPE_CHECKING:
    from perception_encoder.backends.graph_export import ExportDrift


logger = logging.getLogger(__name__)

_FEWEST: Final = 16  # ranges of fewer say little of the next image
_NUM_SAMPLES: Final = 4  # an image of the largest model takes half a minute on two cores
_NUM_CALIBRATION: Final = 128
_NEEDS: Final[dict[BackendName, tuple[str, tuple[str, ...]]]] = {
    "onnx": ("export", ("torch", "onnxruntime", "onnxscript")),
    "openvino": ("cpu", ("torch", "openvino")),
}
_CLASS: Final = "PerceptionEncoderTorch"
_MODULE: Final = f'''"""Opens this folder with perception-encoder, inside inference_models."""

try:
    from perception_encoder.integrations.roboflow_model import {_CLASS}
except ModuleNotFoundError as err:
    raise ImportError(f"{{err}}; pip install 'perception-encoder[torch]'") from err

__all__ = ["{_CLASS}"]
'''
# Without a backend_type: with one, theirs would take the folder for a model of its own library.
_CONFIG: Final = {
    "model_architecture": "perception-encoder",
    "task_type": "embedding",
    "model_module": "model.py",
    "model_class": _CLASS,
}


def read_calibration_images(
    folder: str | os.PathLike[str], processor: ImageProcessor, count: int
) -> Pixels:
    """Read images from all over a folder, in an order that does not follow their names.

    Args:
        folder: or anything else that is a source of images.
        processor: of the model.
        count: how many to read at most.

    Returns:
        (N, S, S, 3) uint8, N <= count. What cannot be read is left out, with a warning.

    Raises:
        SourceError: no such folder, or too few of its images can be read.
    """
    sources = open_sources([os.fspath(folder)], SourceOptions())
    items = [item for source in sources for item in source.items()]
    found: list[Pixels] = []
    for place in np.random.default_rng(0).permutation(len(items)):
        if len(found) == count:
            break
        try:
            found.append(processor(items[place].read()))
        except (ImageError, OSError) as err:
            logger.warning("left out: %s: %s", items[place].uri, err)
    if len(found) < _FEWEST:
        raise SourceError(
            f"{folder}: {len(found)} images could be read; give a folder with at least {_FEWEST} "
            f"like those that the model will see, better {count}"
        )
    return np.stack(found)


def export_pretrained(  # noqa: PLR0913  one parameter for each option
    name_or_path: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    model: str | None = None,
    backend: BackendName = "onnx",
    precision: Precision = "fp32",
    preprocess: PreprocessName | None = None,
    calibration: str | os.PathLike[str] | None = None,
    adapter: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
) -> "dict[str, ExportDrift]":
    """Write a model as graphs of a backend, which `AutoModel.from_pretrained` opens without torch.

    Args:
        name_or_path: as in `AutoModel.from_pretrained`.
        folder: where the graphs, `config.json` and `tokenizer.json` go; an earlier export there is
            replaced.
        model: as in `AutoModel.from_pretrained`.
        backend: "onnx" or "openvino".
        precision: "fp32"; "fp16", half the size and computed in float32; "int8", a quarter.
        preprocess: what opening the folder will choose; None takes what the model was saved with.
        calibration: a folder of images like those that the model will see, for OpenVINO's int8 to
            measure its ranges on, and a few others of it to try the graphs on. None takes the
            bundled drawings.
        adapter: as in `AutoModel.from_pretrained`.
        local_files_only: never use the network.

    Returns:
        How far the written graphs are from the model, measured on a few drawings and captions, by
        "images", "texts" and "features".

    Raises:
        ValueError: other graphs than int8 for OpenVINO were given images to calibrate with.
        SourceError: that folder does not exist or has too few images.
        UnknownModelError, DownloadError: as `AutoModel.from_pretrained`.
        BackendUnavailableError: torch or what the backend needs is not installed, or graphs cannot
            have that precision.
        CheckpointError: the weights are damaged or an export themselves, the folder holds something
            else, or the graphs differ too much, and then nothing is kept.
    """
    if calibration is not None and (backend, precision) != ("openvino", "int8"):
        raise ValueError(
            "images to calibrate with are for int8 graphs of OpenVINO, as no others measure "
            "ranges when they are made; choose these, or leave the images out"
        )
    extra, packages = _NEEDS[backend]
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise BackendUnavailableError(
            f"exporting needs {' and '.join(missing)}: pip install 'perception-encoder[{extra}]'"
        )
    from perception_encoder.backends.graph_export import export_graphs

    checkpoint = locate(
        name_or_path, model=model, adapter=adapter, local_files_only=local_files_only
    )
    config = checkpoint.config
    preprocess = preprocess or checkpoint.preprocess or "standard"
    processor = ImageProcessor(config.image, config.vision.image_size, preprocess=preprocess)
    tokenizer = _tokenizer(checkpoint)
    if calibration is None:
        pixels, measured = np.stack([processor(data) for data in load_drawings(_NUM_SAMPLES)]), None
    else:
        found = read_calibration_images(calibration, processor, _NUM_SAMPLES + _NUM_CALIBRATION)
        pixels, measured = found[:_NUM_SAMPLES], found[_NUM_SAMPLES:]
    return export_graphs(
        checkpoint,
        Path(folder),
        backend=backend,
        precision=precision,
        preprocess=preprocess,
        tokenizer=tokenizer,
        samples=CalibrationSamples(
            pixels,
            tokenizer(load_captions()[:_NUM_SAMPLES])
            if tokenizer
            else random_token_rows(config, _NUM_SAMPLES),
        ),
        calibration=None if measured is None else lambda: (row[None] for row in measured),
    )


def _tokenizer(checkpoint: Checkpoint) -> Tokenizer | None:
    text = checkpoint.config.text
    if text is None or checkpoint.tokenizer is None:
        return None
    return Tokenizer.from_file(checkpoint.tokenizer, text.context_length)


def export_roboflow_package(
    name_or_path: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    model: str | None = None,
    preprocess: PreprocessName | None = None,
    adapter: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
) -> None:
    """Write a model as a saved folder with a module that Roboflow's loader runs.

    The folder holds the weights as they are, and needs nothing outside it but this package. It is
    also a model for `perception_encoder.AutoModel.from_pretrained`.

    Args:
        name_or_path: as in `AutoModel.from_pretrained`.
        folder: where it goes; an earlier package or saved model there is replaced.
        model: as in `AutoModel.from_pretrained`.
        preprocess: what opening the folder will choose; None takes what the model was saved with.
        adapter: as in `AutoModel.from_pretrained`.
        local_files_only: never use the network.

    Raises:
        UnknownModelError, DownloadError: as `AutoModel.from_pretrained`.
        CheckpointError: the weights are damaged or an export, or the folder holds something else.
    """
    from perception_encoder.checkpoints.load import load_model
    from perception_encoder.checkpoints.save import save_model

    checkpoint = locate(
        name_or_path, model=model, adapter=adapter, local_files_only=local_files_only
    )
    tokenizer = _tokenizer(checkpoint)
    preprocess = preprocess or checkpoint.preprocess or "standard"
    folder = Path(folder).expanduser()
    save_model(load_model(checkpoint).model, folder, tokenizer, preprocess=preprocess)
    try:
        (folder / _CONFIG["model_module"]).write_text(_MODULE, encoding="utf-8")
        (folder / "model_config.json").write_text(json.dumps(_CONFIG, indent=2) + "\n")
    except OSError as err:
        raise CheckpointWriteError(f"{folder}: cannot be written ({err.strerror or err})") from err


def export_open_clip(
    name_or_path: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    model: str | None = None,
    adapter: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
) -> None:
    """Write a model as a snapshot that open_clip opens as `local-dir:FOLDER`.

    Args:
        name_or_path: as in `AutoModel.from_pretrained`.
        folder: where it goes; an earlier snapshot there is replaced.
        model: as in `AutoModel.from_pretrained`.
        adapter: as in `AutoModel.from_pretrained`.
        local_files_only: never use the network.

    Raises:
        UnknownModelError, DownloadError: as `AutoModel.from_pretrained`.
        CheckpointError: the weights are damaged or an export, open_clip has no such model, or the
            folder holds something else.
    """
    from perception_encoder.checkpoints.load import load_model
    from perception_encoder.checkpoints.open_clip_snapshot import save_open_clip

    checkpoint = locate(
        name_or_path, model=model, adapter=adapter, local_files_only=local_files_only
    )
    save_open_clip(load_model(checkpoint).model, Path(folder), _tokenizer(checkpoint))
