"""Where a registered model's weights come from: the package, the hub cache, or the hub.

Knows the registry and the hub, but not what the files hold.
"""

import logging
from pathlib import Path

from perception_encoder.checkpoints import hub
from perception_encoder.errors import DownloadError
from perception_encoder.registry import MODELS, ModelEntry

logger = logging.getLogger(__name__)

WEIGHTS_NAME = "model.safetensors"
_DATA = Path(__file__).parent.parent / "data"


def bundled_folder(entry: ModelEntry) -> Path:
    """Return the folder inside the package that holds a bundled model."""
    return _DATA / entry.id


def is_cached(entry: ModelEntry, cache_dir: Path | None = None) -> Path | None:
    """Return the weights' path where they need no download (bundled ones never do), else None."""
    if entry.bundled:
        bundled = bundled_folder(entry) / WEIGHTS_NAME
        return bundled if bundled.is_file() else None
    for source in entry.sources:
        path = hub.cached(source.repo, source.filename, cache_dir=cache_dir)
        if path is not None:
            return path
    return None


def download(
    entry: ModelEntry,
    *,
    repo: str | None = None,
    revision: str | None = None,
    local_files_only: bool = False,
    cache_dir: Path | None = None,
) -> Path:
    """Return a registered model's weights from the hub cache, downloading them if need be.

    A cached source comes before any download; otherwise the sources are tried in order, and the
    next one only where the hub does not have the former. The licence's notice is logged, once,
    when something was downloaded.

    Args:
        entry: a model that is not bundled.
        repo: only this one of the model's repositories.
        revision: a branch, tag or commit of the repository; None is "main".
        local_files_only: never use the network.
        cache_dir: another folder than the hub's own cache.

    Raises:
        DownloadError: no source has it, the hub failed, or (`OfflineError`) the network is off.
    """
    sources = [s for s in entry.sources if repo is None or s.repo.lower() == repo.lower()]
    for source in sources:
        path = hub.cached(source.repo, source.filename, revision=revision, cache_dir=cache_dir)
        if path is not None:
            return path
    refusals: list[str] = []
    for source in sources:
        try:
            weights = hub.fetch(
                source.repo,
                source.filename,
                revision=revision,
                local_files_only=local_files_only,
                cache_dir=cache_dir,
            )
        except hub.NotOnHubError as err:
            refusals.append(str(err))
            continue
        except DownloadError as err:
            raise type(err)(f"{entry.id}: {err}") from err
        if entry.licence.notice:
            logger.warning("%s: %s", entry.id, entry.licence.notice)
        return weights
    wanted = f" at revision {revision!r}" if revision else ""
    raise DownloadError(
        f"{entry.id} was not found on the hub{wanted}: {'; '.join(refusals)}. Give the path of a "
        f"checkpoint file, or another model: {', '.join(e.id for e in MODELS if e is not entry)}"
    )
