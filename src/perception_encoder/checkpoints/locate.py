"""Find the files of a model by name, path or hub repository.

Weights are opened only to recognize a checkpoint by its shapes, if its name does not tell.
"""

import logging
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

from perception_encoder.checkpoints.adapters import (
    ADAPTER_CONFIG_NAME,
    ADAPTER_WEIGHTS_NAMES,
    AdapterFiles,
    find_adapter,
    read_base,
)
from perception_encoder.checkpoints.folder import (
    CONFIG_NAME,
    OPEN_CLIP_WEIGHTS_NAMES,
    TOKENIZER_NAME,
    ExportedFiles,
    FolderContents,
    is_own_folder,
    read_beside,
    read_folder,
)
from perception_encoder.checkpoints.foreign_configs import OPEN_CLIP_CONFIG_NAME
from perception_encoder.checkpoints.hub import (
    WEIGHTS_NAME,
    NotOnHubError,
    bundled_folder,
    download,
    fetch,
    find_cached,
)
from perception_encoder.checkpoints.shards import (
    INDEX_SUFFIX,
    is_shard_index,
    list_weight_files,
    parse_shard_index,
)
from perception_encoder.errors import CheckpointError, DownloadError, UnknownModelError
from perception_encoder.registry import MODELS, ModelConfig, ModelEntry, find, refuse_other_family
from perception_encoder.types import PreprocessName

logger = logging.getLogger(__name__)

_CLIP_VOCAB_SIZE: Final = 49_408
_CLIP_REPO: Final = "openai/clip-vit-base-patch32"
_REPO: Final = re.compile(r"[\w.-]+/[\w.-]+")
_OWN_PREFIXES: Final = (
    "perception-encoder/",
    "perception_encoder/",
    "clip/",
)  # never hub repositories
# File and folder names that people and the hub's cache give to checkpoints lack the owner.
_OWNERS: Final = ("", "clip/", "facebook/", "timm/")


def find_tokenizer(
    config: ModelConfig,
    folder: Path,
    *,
    local_files_only: bool = False,
    cache_dir: Path | None = None,
) -> Path | None:
    """Find the vocabulary of a model.

    Looks in the model's own folder; then, for models with CLIP's 49,408 tokens, which PE shares, in
    the hub cache, in an installed open_clip_torch, and on the hub.

    Returns:
        A tokenizer.json or CLIP's merges file. None where the model reads no text, or where nothing
        was found: images can be embedded all the same, so that is a warning.
    """
    from perception_encoder.preprocess.vocabulary import MERGES_FILE_NAME, installed_vocabulary

    if config.text is None:
        return None
    for name in (TOKENIZER_NAME, MERGES_FILE_NAME):
        if (folder / name).is_file():
            return folder / name
    if config.text.vocab_size != _CLIP_VOCAB_SIZE:
        logger.warning(
            "%s: %s has no %s, so text cannot be embedded", config.id, folder, TOKENIZER_NAME
        )
        return None
    found = find_cached(_CLIP_REPO, TOKENIZER_NAME, cache_dir=cache_dir) or installed_vocabulary()
    if found is not None:
        return found
    try:
        return fetch(
            _CLIP_REPO, TOKENIZER_NAME, local_files_only=local_files_only, cache_dir=cache_dir
        )
    except (DownloadError, NotOnHubError) as err:
        logger.warning("%s: no vocabulary, so text cannot be embedded: %s", config.id, err)
        return None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The files of one model, found but not read.

    Attributes:
        config: the model's numbers.
        path: the file of weights; of an export, the graph that reads images.
        tokenizer: its vocabulary; None for models without text, or where none was found.
        entry: the registered model, where it is one.
        preprocess: what the model was saved with; None where its folder does not say.
        source: where it came from, for people.
        graphs: what an exported folder holds in place of weights; None for weights.
        ema: whether averaged weights are taken where a file has plain ones, too.
        adapter: a LoRA adapter that loading merges into the weights.
    """

    config: ModelConfig
    path: Path
    tokenizer: Path | None
    entry: ModelEntry | None
    preprocess: PreprocessName | None
    source: str
    graphs: ExportedFiles | None = None
    ema: bool = True
    adapter: AdapterFiles | None = None

    def list_files(self) -> list[Path]:
        """Return all files that the weights are read from.

        Raises:
            CheckpointError: the index of several files cannot be used.
        """
        adapter = [self.adapter.config, self.adapter.weights] if self.adapter is not None else []
        return list_weight_files(self.path) + adapter


@dataclass(frozen=True, slots=True)
class _Reach:
    """How far a search may go."""

    local_files_only: bool
    cache_dir: Path | None


def locate(
    name_or_path: str | os.PathLike[str],
    *,
    model: str | None = None,
    revision: str | None = None,
    adapter: str | os.PathLike[str] | None = None,
    ema: bool = True,
    local_files_only: bool = False,
    cache_dir: str | os.PathLike[str] | None = None,
) -> Checkpoint:
    """Find a model's files, downloading them if need be.

    Args:
        name_or_path: a file or folder (which wins over a name of the same spelling), a registered
            id or alias, or a hub repository; also an adapter's, whose config names its base.
        model: the registered model a path is of, where its name or folder does not say.
        revision: branch, tag or commit of the hub repository.
        adapter: a folder, file or hub repository of a LoRA adapter to merge into the model.
        ema: take averaged weights (EMA) where a training checkpoint has plain ones, too.
        local_files_only: never use the network.
        cache_dir: another folder than the hub's own cache.

    Raises:
        UnknownModelError: neither a path, nor a model or repository of that name.
        CheckpointError: a folder or file that is not a model's.
        DownloadError: see `sources.download`.
        ValueError: `model` was given with a name, or `revision` with a path.
    """
    reach = _Reach(local_files_only, Path(cache_dir).expanduser() if cache_dir else None)
    found = _locate(name_or_path, model, revision, reach)
    if adapter is not None:
        found = _with_adapter(found, _locate_adapter(adapter, reach))
    return replace(found, ema=ema)


def _with_adapter(base: Checkpoint, adapter: AdapterFiles) -> Checkpoint:
    name = adapter.config.parent
    if base.adapter is not None:
        raise CheckpointError(
            f"{base.adapter.config.parent} is an adapter itself: one is merged at a time. Save the "
            "merged model with save_pretrained, and use that as the base of the other"
        )
    if base.graphs is not None:
        raise CheckpointError(
            f"{base.path.parent} is an export, which has graphs in place of weights: no adapter "
            f"can be merged. Give the model that it was made from, and export it with {name}"
        )
    return replace(base, adapter=adapter, source=f"{base.source}, with the adapter {name}")


def _locate_adapter(name_or_path: str | os.PathLike[str], reach: _Reach) -> AdapterFiles:
    path = Path(name_or_path).expanduser()
    found = find_adapter(path) if path.exists() else None
    name = os.fspath(name_or_path).strip()
    if found is None and not path.exists() and _REPO.fullmatch(name):
        try:
            config = fetch(name, ADAPTER_CONFIG_NAME, **asdict(reach))
            found = _fetch_adapter(name, config, reach)
        except NotOnHubError as err:
            raise UnknownModelError(f"no adapter {name!r} here or on the hub: {err}") from err
    if found is None:
        raise CheckpointError(
            f"{path}: no adapter: it should be a folder with {ADAPTER_CONFIG_NAME} and "
            f"{ADAPTER_WEIGHTS_NAMES[0]}, as PEFT's save_pretrained writes them"
        )
    return found


def _fetch_adapter(repo: str, config: Path, reach: _Reach) -> AdapterFiles:
    """Fetch the weights of the same commit as the config."""
    for name in ADAPTER_WEIGHTS_NAMES:
        with suppress(NotOnHubError):
            path = fetch(repo, name, revision=config.parent.name, **asdict(reach))
            return AdapterFiles(config, path)
    raise CheckpointError(
        f"{repo}: an adapter without its weights: {' or '.join(ADAPTER_WEIGHTS_NAMES)} is missing"
    )


def _from_adapter(adapter: AdapterFiles, entry: ModelEntry | None, reach: _Reach) -> Checkpoint:
    """Find the base that an adapter names, and put the two together."""
    named, revision = read_base(adapter)
    if entry is not None:
        named, revision = entry.id, None
    if named is None:
        raise CheckpointError(
            f"{adapter.config}: base_model_name_or_path is empty, so the base model is not known. "
            "Write the model's id or path there, or give the model first and the adapter as "
            "adapter= (`pe export --adapter`)"
        )
    is_path = Path(named).expanduser().exists()
    if is_path and find_adapter(Path(named).expanduser()) is not None:
        raise CheckpointError(
            f"{adapter.config}: the base {named} is an adapter itself. Save the base merged with "
            "it, and name that"
        )
    try:
        base = _locate(named, None, None if is_path else revision, reach)
    except UnknownModelError as err:
        raise CheckpointError(
            f"{adapter.config}: the base that base_model_name_or_path names cannot be opened: {err}"
        ) from err
    return _with_adapter(base, adapter)


def _locate(
    name_or_path: str | os.PathLike[str], model: str | None, revision: str | None, reach: _Reach
) -> Checkpoint:
    path = Path(name_or_path).expanduser()
    if path.exists():
        if revision is not None:
            raise ValueError(f"revision={revision!r} means nothing for the local {path}")
        return _from_path(path, find(model) if model else None, reach, str(path))
    name = os.fspath(name_or_path).strip()
    if model is not None:
        raise ValueError(f"model={model!r} describes a file or folder, but {path} does not exist")
    entry = _find_or_none(name)
    if entry is not None:
        return _from_registry(entry, name, revision, reach)
    refuse_other_family(name)
    if not _REPO.fullmatch(name) or name.lower().startswith(_OWN_PREFIXES):
        find(name)  # raises, naming the nearest models
    return _from_repository(name, revision, reach)


def _from_path(path: Path, entry: ModelEntry | None, reach: _Reach, source: str) -> Checkpoint:
    adapter = find_adapter(path)
    if adapter is not None:
        return _from_adapter(adapter, entry, reach)
    contents = read_folder(path) if path.is_dir() else FolderContents(path, None)
    if not path.is_dir() and entry is None:
        contents = read_beside(path) or contents
    weights, config = contents.weights, contents.config
    if entry is not None and config is None:
        config = entry.config
    elif entry is not None and config != entry.config:
        raise CheckpointError(
            f"{path}: its configuration is not that of {entry.id}. Leave model= out to open it as "
            "what it says, or give the path of the weights alone"
        )
    if config is None:
        config = (_by_file_name(weights) or _by_shapes(weights)).config
    found = _checkpoint(config, weights, contents.preprocess, reach, source)
    return replace(found, graphs=contents.graphs)


def _checkpoint(
    config: ModelConfig,
    weights: Path,
    preprocess: PreprocessName | None,
    reach: _Reach,
    source: str,
) -> Checkpoint:
    return Checkpoint(
        config=config,
        path=weights,
        tokenizer=find_tokenizer(config, weights.parent, **asdict(reach)),
        entry=next((entry for entry in MODELS if entry.id == config.id), None),
        preprocess=preprocess,
        source=source,
    )


def _from_registry(entry: ModelEntry, name: str, revision: str | None, reach: _Reach) -> Checkpoint:
    if entry.bundled:
        if revision is not None:
            raise ValueError(f"{entry.id} lies in the package; it has no revision {revision!r}")
        return _from_path(bundled_folder(entry), None, reach, "bundled with the package")
    repos = {source.repo.lower() for source in entry.sources} - {a.lower() for a in entry.aliases}
    path = download(
        entry,
        repo=name if name.lower() in repos else None,
        revision=revision,
        **asdict(reach),
    )
    return _checkpoint(entry.config, path, None, reach, f"the hub, in the cache at {path}")


def _from_repository(repo: str, revision: str | None, reach: _Reach) -> Checkpoint:
    """A repository that is not registered: one of our folders, or an open_clip snapshot."""
    refusals: list[str] = []

    def first_of(names: Sequence[str], at: str | None) -> Path | None:
        for name in names:
            path = find_cached(repo, name, revision=at, cache_dir=reach.cache_dir)
            if path is not None:
                return path
        for name in names:
            try:
                return fetch(repo, name, revision=at, **asdict(reach))
            except NotOnHubError as err:
                refusals.append(str(err))
        return None

    try:
        config = first_of((OPEN_CLIP_CONFIG_NAME, ADAPTER_CONFIG_NAME, CONFIG_NAME), revision)
        if config is not None and config.name == ADAPTER_CONFIG_NAME:
            return _from_adapter(_fetch_adapter(repo, config, reach), None, reach)
        is_open_clip = config is not None and config.name == OPEN_CLIP_CONFIG_NAME
        if config is not None and (is_open_clip or is_own_folder(config.parent)):
            # The folder is named after the commit: all files must be of the same.
            commit = config.parent.name
            names = OPEN_CLIP_WEIGHTS_NAMES if is_open_clip else (WEIGHTS_NAME,)
            weights = first_of([*names, *(name + INDEX_SUFFIX for name in names)], commit)
            for shard in _list_shards(weights):
                first_of((shard,), commit)
            with suppress(DownloadError):  # most snapshots have one, and most can do without
                first_of((TOKENIZER_NAME,), commit)
            return _from_path(config.parent, None, reach, f"the hub's {repo} at {commit}")
        refusals.append(f"it should hold {OPEN_CLIP_CONFIG_NAME} or our own {CONFIG_NAME}")
    except DownloadError as err:
        raise type(err)(f"{repo!r} is no registered model. As a hub repository: {err}") from err
    raise UnknownModelError(
        f"{repo!r} is no registered model, and no hub repository that can be used: "
        f"{'; '.join(refusals)}. `pe models` lists the registered ones"
    )


def _list_shards(weights: Path | None) -> list[str]:
    is_index = weights is not None and is_shard_index(weights)
    return sorted(set(parse_shard_index(weights).values())) if weights and is_index else []


def _find_or_none(name: str) -> ModelEntry | None:
    try:
        return find(name)
    except UnknownModelError:
        return None


def _by_file_name(path: Path) -> ModelEntry | None:
    for name in (path.stem, path.parent.name):
        for owner in _OWNERS:
            entry = _find_or_none(owner + name)
            if entry is not None:
                return entry
    return None


def _by_shapes(path: Path) -> ModelEntry:
    from perception_encoder.checkpoints.remap import recognize_model

    return recognize_model(path)
