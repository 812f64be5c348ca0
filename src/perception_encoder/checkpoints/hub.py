"""Download files from the Hugging Face hub into its cache: cached first, resumable, verified.

The cache's layout and `huggingface_hub`'s settings apply (HF_HOME, HF_HUB_OFFLINE, HF_ENDPOINT,
tokens), so other programs share the files. The transfer itself is done here, because
`hf_hub_download` starts over after an interruption and does not compare hashes.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn, cast

from perception_encoder.errors import DownloadError, OfflineError, PerceptionEncoderError
from perception_encoder.registry import MODELS, ModelEntry

if TYPE_CHECKING:
    from huggingface_hub import HfFileMetadata

logger = logging.getLogger(__name__)

WEIGHTS_NAME: Final = "model.safetensors"
WITHOUT_NETWORK: Final = (
    "On a machine without network: run `pe download` on one that has it and copy its Hugging Face "
    "cache (the folder HF_HOME, by default ~/.cache/huggingface) here, or give the path of a "
    "checkpoint file or folder instead of a name"
)

_DATA: Final = Path(__file__).parent.parent / "data"
# A name of its own: `<etag>.incomplete` is another program's, which would not verify what we wrote.
_PARTIAL_SUFFIX: Final = ".perception-encoder.incomplete"
_SHA256: Final = re.compile(r"[0-9a-f]{64}")  # the ETag of a large file
_GIT_SHA1: Final = re.compile(r"[0-9a-f]{40}")  # the ETag of a small one: git's hash of the blob
_READ_BYTES: Final = 2**20
_MAX_FAILURES: Final = 5  # connections in a row that bring no byte
_RETRY_SECONDS: Final = 1.0


class NotOnHubError(PerceptionEncoderError):
    """The hub has no such repository, revision or file, or none that this user may read.

    Raised and caught inside `checkpoints`, where it means that the next source is tried.
    """


def is_cached(entry: ModelEntry, cache_dir: Path | None = None) -> Path | None:
    """Return the path of a model's weights if they need no download, else None."""
    if entry.bundled:
        bundled = bundled_folder(entry) / WEIGHTS_NAME
        return bundled if bundled.is_file() else None
    paths = (find_cached(one.repo, one.filename, cache_dir=cache_dir) for one in entry.sources)
    return next(filter(None, paths), None)


def bundled_folder(entry: ModelEntry) -> Path:
    """Return the folder inside the package that holds a bundled model."""
    return _DATA / entry.id


def download(
    entry: ModelEntry,
    *,
    repo: str | None = None,
    revision: str | None = None,
    local_files_only: bool = False,
    cache_dir: Path | None = None,
) -> Path:
    """Return a registered model's weights from the hub cache, downloading them if need be.

    A cached source comes before any download. Otherwise the sources are tried in order, the next
    one only if the hub does not have the former. The license's notice is logged after a download.

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
        path = find_cached(source.repo, source.filename, revision=revision, cache_dir=cache_dir)
        if path is not None:
            return path
    refusals: list[str] = []
    for source in sources:
        try:
            weights = fetch(
                source.repo,
                source.filename,
                revision=revision,
                local_files_only=local_files_only,
                cache_dir=cache_dir,
            )
        except NotOnHubError as err:
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


def find_cached(
    repo: str, filename: str, *, revision: str | None = None, cache_dir: Path | None = None
) -> Path | None:
    """Return a file's path in the cache, or None. Never uses the network."""
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
    """Return a file's path in the cache, downloading it with a progress bar if need be.

    No request is made for a cached file.

    Raises:
        NotOnHubError: no such repository, revision or file.
        OfflineError: it is not cached, and the network is switched off.
        DownloadError: the hub cannot be reached, fails, or sends something else than it announced.
    """
    from huggingface_hub import constants

    path = find_cached(repo, filename, revision=revision, cache_dir=cache_dir)
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
    """Put a verified blob into the cache, and have `hf_hub_download` link it into a snapshot."""
    from filelock import FileLock
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HFValidationError

    item = f"{repo}/{filename}"
    try:
        metadata = fetch_metadata(repo, filename, revision)
        blob = cache_dir / f"models--{repo.replace('/', '--')}" / "blobs" / str(metadata.etag)
        partial = blob.with_name(blob.name + _PARTIAL_SUFFIX)
        partial.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(partial.with_suffix(".lock")):
            if not blob.exists():
                _transfer(repo, filename, metadata, partial)
                _verify(partial, str(metadata.etag), item)
                os.replace(partial, blob)
        path = Path(hf_hub_download(repo, filename, revision=revision, cache_dir=cache_dir))
    except HFValidationError as err:
        raise NotOnHubError(f"{repo}: cannot be a repository's name ({err})") from err
    except (transport_error(), OSError) as err:
        raise_readable(err, item)
    if not path.is_symlink():  # a file system without links: hf_hub_download made a copy
        blob.unlink(missing_ok=True)
    return path


def fetch_metadata(repo: str, filename: str, revision: str | None = None) -> HfFileMetadata:
    """Ask the hub for a file's size, hash and commit.

    Raises:
        DownloadError: another server answered.
        OSError, `transport_error()`: the hub cannot be reached, or refused; see `raise_readable`.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    url = hf_hub_url(repo, filename, revision=revision)
    metadata = get_hf_file_metadata(url)
    if not metadata.etag or not metadata.commit_hash:
        raise DownloadError(
            f"{url} was answered, but not by a Hugging Face hub (no ETag or commit in the reply). "
            "Check HF_ENDPOINT and the proxy settings"
        )
    return metadata


def _transfer(repo: str, filename: str, metadata: HfFileMetadata, partial: Path) -> None:
    """Append the rest of a file to its partial one; a broken connection is resumed.

    Raises:
        DownloadError: the file has another size than announced; the partial file was deleted.
        HfHubHTTPError: the hub refused.
        OSError: the file cannot be written.
    """
    from huggingface_hub import constants, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError
    from tqdm.auto import tqdm  # a widget in notebooks, else a line on stderr

    # Not metadata.location: its signature expires, and this URL is signed again by each request.
    url = hf_hub_url(repo, filename, revision=metadata.commit_hash)
    size = metadata.size
    if size is not None and partial.exists() and partial.stat().st_size > size:
        partial.unlink()
    num_failures = 0
    with (
        partial.open("ab") as file,
        tqdm(
            desc=filename,
            total=size,
            initial=file.tell(),
            unit="B",
            unit_scale=True,
            disable=constants.HF_HUB_DISABLE_PROGRESS_BARS or None,  # None: on a terminal only
        ) as bar,
    ):
        while size is None or file.tell() != size:
            before = file.tell()
            try:
                _append(url, file, bar.update)
                break
            except HfHubHTTPError as err:
                if err.response.status_code == 416:  # the file on the hub is shorter
                    file.truncate(0)
                raise
            except transport_error() as err:
                num_failures = 1 if file.tell() > before else num_failures + 1
                if num_failures > _MAX_FAILURES:
                    raise
                logger.warning("%s/%s: %s; resuming the download", repo, filename, err)
                time.sleep(_RETRY_SECONDS)
        received = file.tell()
    if size is not None and received != size:
        partial.unlink()
        raise DownloadError(
            f"{repo}/{filename}: {received:,} bytes were received, but the hub announced a size of "
            f"{size:,}. They were deleted. Try again"
        )


def _append(url: str, file: Any, advance: Callable[[int], object]) -> None:
    """Request a file from the position of `file` on, and write what arrives."""
    from huggingface_hub import constants, get_session, hf_raise_for_status

    headers = request_headers()
    if file.tell():
        headers["Range"] = f"bytes={file.tell()}-"
    with get_session().stream(
        "GET", url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT
    ) as response:
        hf_raise_for_status(response)
        if file.tell() and response.status_code == 200:  # the whole file, in spite of the range
            advance(-file.tell())
            file.truncate(0)
        for chunk in response.iter_bytes():
            file.write(chunk)
            advance(len(chunk))


def request_headers() -> dict[str, str]:
    """Return the headers of requests for a file's bytes."""
    from huggingface_hub import constants, get_token

    headers = {"Accept-Encoding": "identity"}  # ranges are of the file, not of a compressed form
    if (token := get_token()) and not constants.HF_HUB_DISABLE_IMPLICIT_TOKEN:
        headers["Authorization"] = f"Bearer {token}"
    return headers


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


def transport_error() -> type[Exception]:
    """Return the base class of the errors of huggingface_hub's HTTP library (httpx or httpx2)."""
    from huggingface_hub.errors import HfHubHTTPError

    return cast("type[Exception]", HfHubHTTPError.__bases__[0])


def raise_readable(err: Exception, item: str) -> NoReturn:
    """Raise our error for one of `transport_error()` or an `OSError`.

    Raises:
        NotOnHubError: no such repository, revision or file.
        DownloadError: anything else.
    """
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    for kind, reason in (
        (GatedRepoError, "access must be requested on its page, then run `hf auth login`"),
        (RepositoryNotFoundError, "no such public repository"),
        (RevisionNotFoundError, "no such revision"),
        (EntryNotFoundError, "no such file"),
    ):
        if isinstance(err, kind):
            raise NotOnHubError(f"{item}: {reason}") from err
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
