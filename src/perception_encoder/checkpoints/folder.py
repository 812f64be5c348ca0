"""Recognize model folders, and read their configs. Weights are not read.

Kinds: ours (`config.json`, `model.safetensors`, `tokenizer.json`), an export (`config.json`, graphs
of another backend, `tokenizer.json`), Roboflow's package (`config.json` naming a Meta model,
`model.pt`), an open_clip or timm hub snapshot, or a folder that holds one checkpoint. Fields of a
config are used or refused; a warning names those that are not read.
"""

import hashlib
import json
import logging
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, cast, get_args

from perception_encoder.checkpoints.foreign_configs import (
    OPEN_CLIP_CONFIG_NAME,
    parse_open_clip,
    parse_timm,
)
from perception_encoder.checkpoints.hub import WEIGHTS_NAME
from perception_encoder.checkpoints.shards import INDEX_SUFFIX, is_shard_index, read_shard_index
from perception_encoder.errors import CheckpointError
from perception_encoder.registry import ModelConfig, find
from perception_encoder.types import BackendName, Precision, PreprocessName

logger = logging.getLogger(__name__)

CONFIG_NAME: Final = "config.json"
TOKENIZER_NAME: Final = "tokenizer.json"
OPEN_CLIP_WEIGHTS_NAMES: Final = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")

_FORMAT: Final = "perception-encoder"
_FORMAT_VERSION: Final = 1
_GRAPHS_KEY: Final = "graphs"
_CHECKSUM_KEY: Final = "checksum"  # absent in folders of earlier versions
_GRAPH_SUFFIXES: Final[dict[BackendName, str]] = {"onnx": ".onnx", "openvino": ".xml"}
_ROBOFLOW_KEY: Final = "vision_encoder_config"
_ROBOFLOW_WEIGHTS_NAME: Final = "model.pt"
_SUFFIXES: Final = {".pt", ".pth", ".bin", ".safetensors"}
_DESCRIBED_WEIGHTS: Final = {
    *(WEIGHTS_NAME, _ROBOFLOW_WEIGHTS_NAME, *OPEN_CLIP_WEIGHTS_NAMES),
    *(name + INDEX_SUFFIX for name in (WEIGHTS_NAME, *OPEN_CLIP_WEIGHTS_NAMES)),
}
_MAX_JSON_BYTES: Final = 16 << 20
_NUM_LISTED: Final = 5  # fields that a warning names


@dataclass(frozen=True, slots=True)
class ExportedFiles:
    """What an exported folder's graphs are, beside what they compute.

    Attributes:
        backend: the only backend that runs them.
        precision: of their weights; int8 also of what is multiplied with them.
        fingerprint: of the weights they were made from, before any rounding.
        logit_scale: likewise.
        checksums: of the files, by name; none for exports of earlier versions.
    """

    backend: BackendName
    precision: Precision
    fingerprint: str
    logit_scale: float
    checksums: dict[str, str] = field(default_factory=dict)

    @property
    def image_name(self) -> str:
        """The file that reads images; patch features too."""
        return "image" + _GRAPH_SUFFIXES[self.backend]

    @property
    def text_name(self) -> str:
        """The file that reads token ids, where the model reads text."""
        return "text" + _GRAPH_SUFFIXES[self.backend]


@dataclass(frozen=True, slots=True)
class FolderContents:
    """A folder's weights; `config` is None where only the weights themselves can tell.

    `preprocess` is what the model was saved with, None where the folder does not say. Where
    `graphs` is given, `weights` is the graph that reads images.
    """

    weights: Path
    config: ModelConfig | None
    preprocess: PreprocessName | None = None
    graphs: ExportedFiles | None = None


def read_folder(folder: Path) -> FolderContents:
    """Tell what lies in a model folder.

    Raises:
        CheckpointError: the folder is of no known kind, damaged or incomplete.
    """
    data = _read_json(folder / CONFIG_NAME)
    if data is not None and data.get("format") == _FORMAT:
        config, preprocess = _parse_own(data, folder / CONFIG_NAME)
        if _GRAPHS_KEY in data:
            graphs = _parse_graphs(data[_GRAPHS_KEY], folder / CONFIG_NAME)
            if config.text is not None:
                _existing(folder, graphs.text_name)
            return FolderContents(_existing(folder, graphs.image_name), config, preprocess, graphs)
        return FolderContents(_existing(folder, WEIGHTS_NAME), config, preprocess)
    if data is not None and _ROBOFLOW_KEY in data:
        _warn_of_unread(data, {_ROBOFLOW_KEY}, folder)
        config = find(str(data[_ROBOFLOW_KEY])).config
        return FolderContents(_existing(folder, _ROBOFLOW_WEIGHTS_NAME), config)
    open_clip = _read_json(folder / OPEN_CLIP_CONFIG_NAME)
    if open_clip is not None:
        has_vocabulary = (folder / TOKENIZER_NAME).is_file()
        config = parse_open_clip(open_clip, _model_name(folder), has_vocabulary=has_vocabulary)
        return FolderContents(_existing(folder, *OPEN_CLIP_WEIGHTS_NAMES), config)
    timm = parse_timm(data) if data is not None else None
    weights = _single_checkpoint(folder)
    if data is not None and timm is None:
        _warn_of_unread(data, set(), folder)
    return FolderContents(weights, timm.config if timm is not None else None)


def read_beside(weights: Path) -> FolderContents | None:
    """Tell what a file's folder says of it; None where that describes no such file."""
    names = (CONFIG_NAME, OPEN_CLIP_CONFIG_NAME)
    if not any((weights.parent / name).is_file() for name in names):
        return None
    try:
        contents = read_folder(weights.parent)
    except CheckpointError:
        if weights.name in _DESCRIBED_WEIGHTS:
            raise
        return None
    return contents if contents.weights == weights else None


def _warn_of_unread(data: dict[str, Any], read: set[str], folder: Path) -> None:
    unread = sorted(data.keys() - read)
    if unread:
        logger.warning(
            "%s: %s is not read: %s", folder, CONFIG_NAME, ", ".join(unread[:_NUM_LISTED])
        )


def is_own_folder(folder: Path) -> bool:
    """Whether `save_model` wrote this folder's config.json."""
    data = _read_json(folder / CONFIG_NAME)
    return data is not None and data.get("format") == _FORMAT and _GRAPHS_KEY not in data


def is_export(folder: Path) -> bool:
    """Whether this folder holds graphs that were exported."""
    data = _read_json(folder / CONFIG_NAME)
    return data is not None and data.get("format") == _FORMAT and _GRAPHS_KEY in data


def format_config(
    config: ModelConfig, preprocess: PreprocessName, graphs: ExportedFiles | None = None
) -> str:
    """Return the text of our config.json."""
    data = {
        "format": _FORMAT,
        "format_version": _FORMAT_VERSION,
        "preprocess": preprocess,
        "model": config.to_dict(),
    }
    if graphs is not None:
        data[_GRAPHS_KEY] = asdict(graphs)
    return json.dumps({**data, _CHECKSUM_KEY: _checksum(data)}, indent=2) + "\n"


def _checksum(data: dict[str, Any]) -> str:
    """Name what our config.json says: another digit makes other embeddings of the same weights."""
    said = {key: value for key, value in data.items() if key != _CHECKSUM_KEY}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]


def _parse_own(data: dict[str, Any], path: Path) -> tuple[ModelConfig, PreprocessName]:
    version, preprocess = data.get("format_version"), data.get("preprocess")
    if data.get(_CHECKSUM_KEY, _checksum(data)) != _checksum(data):
        raise CheckpointError(
            f"{path}: was changed or damaged after it was written: its {_CHECKSUM_KEY!r} does not "
            "fit. Save or export the model again; or, if you meant to change it, remove that line"
        )
    if version != _FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: format version {version}; this package reads {_FORMAT_VERSION}. Update "
            "perception-encoder"
        )
    if preprocess not in get_args(PreprocessName):
        raise CheckpointError(f"{path}: unknown preprocessing {preprocess!r}")
    try:
        config = ModelConfig.from_dict(data["model"])
    except (KeyError, TypeError, ValueError) as err:
        raise CheckpointError(f"{path}: {err}. Save the model again") from err
    return config, cast("PreprocessName", preprocess)


def _parse_graphs(data: dict[str, Any], path: Path) -> ExportedFiles:
    try:
        graphs = ExportedFiles(**data)
        is_known = graphs.backend in _GRAPH_SUFFIXES and graphs.precision in get_args(Precision)
        dict.items(graphs.checksums)
    except TypeError as err:
        raise CheckpointError(f"{path}: {err}. Export the model again") from err
    if not is_known:
        raise CheckpointError(
            f"{path}: unknown backend {graphs.backend!r} or precision {graphs.precision!r}. "
            "Update perception-encoder"
        )
    return graphs


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_JSON_BYTES + 1)
        if len(content) > _MAX_JSON_BYTES:
            raise CheckpointError(f"{path}: larger than {_MAX_JSON_BYTES >> 20} MB, so no config")
        data = json.loads(content)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as err:
        raise CheckpointError(f"{path}: not readable as JSON ({err})") from err
    return data if isinstance(data, dict) else None


def _model_name(folder: Path) -> str:
    """The folder's name; a repository's where the folder is its snapshot in the hub cache."""
    if folder.parent.name == "snapshots":
        return folder.parent.parent.name.removeprefix("models--").replace("--", "/")
    return folder.name


def _existing(folder: Path, *names: str) -> Path:
    """Return the first of these files, or the index of the files that it was divided among."""
    for name in (*names, *(name + INDEX_SUFFIX for name in names)):
        if (folder / name).is_file():
            return folder / name
    raise CheckpointError(f"{folder}: incomplete, {' or '.join(names)} is missing")


def _single_checkpoint(folder: Path) -> Path:
    files = sorted(folder.iterdir())
    indexes = [path for path in files if is_shard_index(path)]
    shards = {shard for path in indexes for shard in read_shard_index(path)}
    found = indexes + [path for path in files if path.suffix in _SUFFIXES and path not in shards]
    if len(found) == 1:
        return found[0]
    reason = (
        f"holds several checkpoints ({', '.join(path.name for path in found)}): give one's path"
        if found
        else f"is not a model folder: it should hold {CONFIG_NAME} and {WEIGHTS_NAME}, Roboflow's "
        f"{CONFIG_NAME} and {_ROBOFLOW_WEIGHTS_NAME}, {OPEN_CLIP_CONFIG_NAME} and "
        f"{OPEN_CLIP_WEIGHTS_NAMES[0]}, or one checkpoint file"
    )
    raise CheckpointError(f"{folder}: {reason}")
