"""Brings files from the Hugging Face hub into its cache: resumable, verified, cached first.

Uses `huggingface_hub` and its cache layout, so files fetched here serve other programs and theirs
serve us, and its settings hold (HF_HOME, HF_HUB_OFFLINE, HF_ENDPOINT, tokens). Two things are done
here because that library does not do them: a partial file survives the process, so that an
interrupted download goes on where it stopped, and content is checked against the hub's hash before
it may enter the cache. Knows nothing about what the files hold.
"""

import hashlib
import logging
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, cast

from perception_encoder.checkpoints import hub
from perception_encoder.errors import DownloadError, OfflineError, PerceptionEncoderError
from perception_encoder.registry import MODELS, ModelEntry

if TYPE_CHECKING:
    from huggingface_hub import HfFileMetadata


logger = logging.getLogger(__name__)

WEIGHTS_NAME = "model.safetensors"
_DATA = Path(__file__).parent.parent / "data"


_SHA256 = re.compile(r"[0-9a-f]{64}")  # the ETag of a large file
_GIT_SHA1 = re.compile(r"[0-9a-f]{40}")  # the ETag of a small one: git's hash of the blob
_READ_BYTES = 2**20

WITHOUT_NETWORK = (
    "On a machine without network: run `pe download` on one that has it and copy its Hugging Face "
    "cache (the folder HF_HOME, by default ~/.cache/huggingface) here, or give the path of a "
    "checkpoint file or folder instead of a name"
)


class NotOnHubError(PerceptionEncoderError):
    """The hub answers, but has no such repository, revision or file, or not for this user.

    Raised and caught inside `checkpoints`: there it means that the next source is tried.
    """


def cached(
    repo: str, filename: str, *, revision: str | None = None, cache_dir: Path | None = None
) -> Path | None:
    """Return the file's path in the cache, or None. Never touches the network."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(repo, filename, cache_dir=cache_dir, revision=revision)
    except HFValidationError:
        return None
    return Path(found) if isinstance(found, str) else None


def fetch(
    repo: str,
    filename: str,
    *,
    revision: str | None = None,
    local_files_only: bool = False,
    cache_dir: Path | None = None,
) -> Path:
    """Return the file's path in the cache, downloading it with a progress bar if need be.

    What is cached is taken as it is: no request is made.

    Raises:
        NotOnHubError: no such repository, revision or file.
        OfflineError: it is not cached, and the network is switched off.
        DownloadError: the hub cannot be reached, fails, or sends something else than it announced.
    """
    from huggingface_hub import constants

    path = cached(repo, filename, revision=revision, cache_dir=cache_dir)
    if path is not None:
        return path
    if local_files_only or constants.HF_HUB_OFFLINE:
        switch = "local_files_only" if local_files_only else "HF_HUB_OFFLINE"
        raise OfflineError(
            f"{repo}/{filename} is not in the cache {cache_dir or constants.HF_HUB_CACHE}, and "
            f"{switch} forbids the download. {WITHOUT_NETWORK}"
        )
    return _download(repo, filename, revision, Path(cache_dir or constants.HF_HUB_CACHE))


def _download(repo: str, filename: str, revision: str | None, cache_dir: Path) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]

    # The HTTP library underneath has changed more than once; the bases name its error class.
    transport_errors = cast("tuple[type[Exception], ...]", (*HfHubHTTPError.__bases__, OSError))
    try:
        metadata = _metadata(repo, filename, revision)
        folder = cache_dir / f"models--{repo.replace('/', '--')}"
        blob = folder / "blobs" / str(metadata.etag)
        lock = cache_dir / ".locks" / folder.name / f"{metadata.etag}.lock"
        for parent in (blob.parent, lock.parent):
            parent.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(lock):
            if not blob.exists():
                _fill(blob, repo, filename, metadata)
        # Only links the finished blob into the revision's snapshot.
        path = Path(hf_hub_download(repo, filename, revision=revision, cache_dir=cache_dir))
    except HFValidationError as err:
        raise NotOnHubError(f"{repo}: cannot be a repository's name ({err})") from err
    except transport_errors as err:
        _raise_readable(err, f"{repo}/{filename}")
    if not path.is_symlink():  # a file system without links: hf_hub_download made a copy
        blob.unlink(missing_ok=True)
    return path


def _metadata(repo: str, filename: str, revision: str | None) -> "HfFileMetadata":
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    url = hf_hub_url(repo, filename, revision=revision)
    metadata = get_hf_file_metadata(url)
    if not metadata.etag or not metadata.commit_hash:
        raise DownloadError(
            f"{url} was answered, but not by a Hugging Face hub (no ETag or commit in the reply). "
            "Check HF_ENDPOINT and the proxy settings"
        )
    return metadata


def _fill(blob: Path, repo: str, filename: str, metadata: "HfFileMetadata") -> None:
    """Download into a partial file, verify it, and only then give it the blob's name."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    partial = blob.with_name(blob.name + ".incomplete")
    if metadata.size is not None and partial.exists() and partial.stat().st_size > metadata.size:
        partial.unlink()
    with partial.open("ab") as file:
        try:
            http_get(
                # Not metadata.location: its signature expires, this one is signed at each retry.
                hf_hub_url(repo, filename, revision=metadata.commit_hash),
                file,
                resume_size=file.tell(),
                headers=build_hf_headers(),
                expected_size=metadata.size,
                displayed_filename=filename,
            )
        except OSError as err:
            if _is_useless(err):
                file.truncate(0)
            raise
    _verify(partial, str(metadata.etag), f"{repo}/{filename}")
    os.replace(partial, blob)


def _is_useless(err: OSError) -> bool:
    """Whether the partial file cannot be continued: it ended at a wrong size, or was refused."""
    response = getattr(err, "response", None)
    return response.status_code == 416 if response is not None else err.errno is None


def _verify(path: Path, etag: str, item: str) -> None:
    if _SHA256.fullmatch(etag):
        digest = hashlib.sha256()
    elif _GIT_SHA1.fullmatch(etag):
        digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    else:
        return
    with path.open("rb") as file:
        while chunk := file.read(_READ_BYTES):
            digest.update(chunk)
    if digest.hexdigest() != etag:
        path.unlink()
        raise DownloadError(
            f"{item}: the downloaded file's hash is {digest.hexdigest()}, the hub announced "
            f"{etag}. It was deleted. Try again; if it happens again, something between here and "
            "the hub changes files"
        )


def _raise_readable(err: Exception, item: str) -> NoReturn:
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    for kind, what in (
        (GatedRepoError, "access must be requested on its page, then run `hf auth login`"),
        (RepositoryNotFoundError, "no such public repository"),
        (RevisionNotFoundError, "no such revision"),
        (EntryNotFoundError, "no such file"),
    ):
        if isinstance(err, kind):
            raise NotOnHubError(f"{item}: {what}") from err
    status = getattr(getattr(err, "response", None), "status_code", None)
    if status is not None:
        raise DownloadError(
            f"{item}: {constants.ENDPOINT} answered with status {status}. Try again later"
        ) from err
    if isinstance(err, OSError) and err.errno is not None:
        raise DownloadError(f"{item}: cannot be stored: {err}") from err
    raise DownloadError(
        f"{item}: the download from {constants.ENDPOINT} failed: {err or type(err).__name__}. "
        f"Running it again continues where it stopped. {WITHOUT_NETWORK}"
    ) from err


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
    next one only where the hub does not have the former. The license's notice is logged, once,
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
        if entry.license.notice:
            logger.warning("%s: %s", entry.id, entry.license.notice)
        return weights
    wanted = f" at revision {revision!r}" if revision else ""
    raise DownloadError(
        f"{entry.id} was not found on the hub{wanted}: {'; '.join(refusals)}. Give the path of a "
        f"checkpoint file, or another model: {', '.join(e.id for e in MODELS if e is not entry)}"
    )
