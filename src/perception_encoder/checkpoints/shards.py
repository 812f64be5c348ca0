"""Read the index of weights that are divided among several files.

The hub's format: `model.safetensors.index.json` names, for each tensor, a file of the same folder.
"""

import json
from pathlib import Path
from typing import Final

from perception_encoder.errors import CheckpointError

INDEX_SUFFIX: Final = ".index.json"

_MAX_BYTES: Final = 16 << 20  # a model of a million tensors has 100 MB; ours have a thousand
_MAX_SHARDS: Final = 1000


def is_shard_index(path: Path) -> bool:
    """Whether a file names other files that hold the weights."""
    return path.name.endswith(INDEX_SUFFIX)


def list_weight_files(path: Path) -> list[Path]:
    """Return all files that weights are read from: the index, where there is one, and its shards.

    Raises:
        CheckpointError: the index cannot be used.
    """
    return [path, *read_shard_index(path)] if is_shard_index(path) else [path]


def read_shard_index(path: Path) -> dict[Path, set[str]]:
    """Return the files that an index names, each with the names of its tensors.

    Raises:
        CheckpointError: it is too large, damaged, or names too many files or one elsewhere.
    """
    names = parse_shard_index(path)
    shards: dict[Path, set[str]] = {}
    for tensor, name in names.items():
        shards.setdefault(path.parent / name, set()).add(tensor)
    for shard in shards:
        if not shard.is_file():
            raise CheckpointError(
                f"{path}: incomplete, {shard.name} is missing. Copy or download it, too"
            )
    return shards


def parse_shard_index(path: Path) -> dict[str, str]:
    """Return the file name of each tensor; whether the files are there is not checked.

    Raises:
        CheckpointError: as `read_shard_index`.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise CheckpointError(f"{path}: larger than {_MAX_BYTES >> 20} MB, so it is no index")
        names = json.loads(content)["weight_map"]
        is_usable = bool(names) and all(isinstance(name, str) for name in names.values())
    except OSError as err:
        raise CheckpointError(f"{path}: cannot be read ({err.strerror or err})") from err
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as err:
        raise CheckpointError(f"{path}: not the index of a model's files ({err!r})") from err
    if not is_usable:
        raise CheckpointError(f"{path}: its weight_map names no files")
    files = set(names.values())
    if len(files) > _MAX_SHARDS:
        raise CheckpointError(
            f"{path}: names {len(files):,} files; at most {_MAX_SHARDS:,} are read"
        )
    for name in sorted(files):
        if name in ("", ".", "..") or any(mark in name for mark in "/\\\0:"):
            raise CheckpointError(
                f"{path}: names {name!r}; only files of the same folder are read. Move it there"
            )
        if name.endswith(INDEX_SUFFIX):
            raise CheckpointError(f"{path}: names {name!r}, which is an index itself")
    return dict(names)
