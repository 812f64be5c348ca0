"""Fetch the text tower alone out of a model's safetensors file on the hub.

The header of such a file says where each tensor is, and the hub sends any range of bytes. What is
wanted of it becomes a safetensors file of its own, with the names of the original, in the folder of
known weights. Beside the text tower it has the first and the last tensors of the vision tower, a
few megabytes, which `has_vision_tower_of` compares with another file. The hub's hash is of the
whole file, so what arrives is checked by its lengths only.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from perception_encoder.checkpoints.hub import (
    NotOnHubError,
    fetch_metadata,
    raise_readable,
    request_headers,
    transport_error,
)
from perception_encoder.checkpoints.known_weights import default_cache_folder
from perception_encoder.checkpoints.names import NamingScheme, recognize_scheme
from perception_encoder.checkpoints.tensors import MappedTensors
from perception_encoder.errors import CheckpointError, DownloadError
from perception_encoder.registry import ModelEntry

if TYPE_CHECKING:
    from huggingface_hub import HfFileMetadata

logger = logging.getLogger(__name__)

_SUFFIX: Final = ".safetensors"
_LENGTH_BYTES: Final = 8  # of the header's length, at the start of a file
_MAX_HEADER: Final = 16 << 20  # bytes; of these models it is below 100 KB
_EVIDENCE: Final = (
    *("vision.patch_embed.weight", "vision.pre_norm.weight", "vision.pre_norm.bias"),
    *("vision.post_norm.weight", "vision.post_norm.bias", "vision.projection.weight"),
)
_MAX_FAILURES: Final = 5  # connections in a row that bring no byte
_RETRY_SECONDS: Final = 1.0

_Header = dict[str, dict[str, Any]]


class _NoRangesError(Exception):
    """The server does not send parts of a file."""


def fetch_text_tower(twin: ModelEntry, *, local_files_only: bool = False) -> Path | None:
    """Return a file with the text tower of a registered model, from the cache or the hub.

    Returns:
        None if it is not here and may not be fetched, or the hub has no file that can be read in
        parts: the whole file is the way then.

    Raises:
        DownloadError: the hub cannot be reached, or fails.
    """
    from huggingface_hub import constants

    source = next((s for s in twin.sources if s.filename.endswith(_SUFFIX)), None)
    if source is None:
        return None
    folder = default_cache_folder() / "text-towers" / source.repo.replace("/", "--")
    if found := sorted(folder.glob(f"*{_SUFFIX}"), key=lambda path: path.stat().st_mtime):
        return found[-1]
    if local_files_only or constants.HF_HUB_OFFLINE:
        return None
    try:
        metadata = fetch_metadata(source.repo, source.filename)
        return _fetch(source.repo, source.filename, metadata, folder)
    except (NotOnHubError, _NoRangesError, CheckpointError):
        return None
    except (transport_error(), OSError) as err:
        try:
            raise_readable(err, f"{source.repo}/{source.filename}")
        except NotOnHubError:
            return None


def has_vision_tower_of(text_tower: Path, weights: Path) -> bool | None:
    """Whether the vision tensors beside a text tower equal those of a file of weights.

    They are the first and last ones of the tower. None where the file is no safetensors file.
    """
    try:
        part, whole = MappedTensors(text_tower), MappedTensors(weights)
        schemes = recognize_scheme(part.keys()), recognize_scheme(whole.keys())
    except CheckpointError:
        return None
    for name in _EVIDENCE:
        ours, theirs = (
            np.asarray(transform.apply(file[key]), np.float32)
            for file, (key, transform) in zip(
                (part, whole), (scheme.source(name) for scheme in schemes), strict=True
            )
        )
        if not np.array_equal(ours, theirs):
            return False
    return True


def _fetch(repo: str, filename: str, metadata: HfFileMetadata, folder: Path) -> Path:
    """Read what is wanted of a file into one of its own; an interrupted fetch is resumed."""
    from filelock import FileLock
    from huggingface_hub import constants, hf_hub_url
    from tqdm.auto import tqdm  # a widget in notebooks, else a line on stderr

    url = hf_hub_url(repo, filename, revision=metadata.commit_hash)
    length = int.from_bytes(b"".join(_read_steadily(url, 0, _LENGTH_BYTES)), "little")
    if length > _MAX_HEADER:
        raise CheckpointError(f"{repo}/{filename}: not a safetensors file")
    start = _LENGTH_BYTES + length
    described = b"".join(_read_steadily(url, _LENGTH_BYTES, start))
    header = _parse_header(described, f"{repo}/{filename}")
    wanted = _choose(header)
    origin = {"format": "pt", "part_of": f"{repo}/{filename}@{metadata.commit_hash}"}
    prefix, ranges = _plan(header, wanted, origin)
    size = len(prefix) + sum(end - begin for begin, end in ranges)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{metadata.etag}{_SUFFIX}"
    partial = path.with_suffix(".incomplete")
    logger.warning(
        "%s: downloading the text tower alone, %.0f of %.0f MB",
        *(f"{repo}/{filename}", size / 1e6, (metadata.size or 0) / 1e6),
    )
    with FileLock(partial.with_suffix(".lock")):
        if path.exists():
            return path
        if not _begins_with(partial, prefix):
            partial.write_bytes(prefix)
        with (
            partial.open("ab") as file,
            tqdm(
                desc=f"{filename} (text)",
                total=size,
                initial=file.tell(),
                unit="B",
                unit_scale=True,
                disable=constants.HF_HUB_DISABLE_PROGRESS_BARS or None,
            ) as bar,
        ):
            done = len(prefix)
            for begin, end in ranges:
                have = min(max(file.tell() - done, 0), end - begin)
                for chunk in _read_steadily(url, start + begin + have, start + end):
                    file.write(chunk)
                    bar.update(len(chunk))
                done += end - begin
        if partial.stat().st_size != size:
            partial.unlink()
            raise DownloadError(
                f"{repo}/{filename}: the parts of the text tower have another size than the file "
                "says. They were deleted. Try again"
            )
        os.replace(partial, path)
    return path


def _begins_with(path: Path, prefix: bytes) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(prefix)) == prefix
    except FileNotFoundError:
        return False


def _choose(header: _Header) -> list[str]:
    scheme: NamingScheme = recognize_scheme(header)
    evidence = {scheme.source(name)[0] for name in _EVIDENCE}
    wanted = [key for key in header if scheme.is_text(key) or key in evidence]
    return sorted(wanted, key=lambda key: header[key]["data_offsets"][0])


def _plan(
    header: _Header, wanted: list[str], origin: Mapping[str, str]
) -> tuple[bytes, list[tuple[int, int]]]:
    """Return the start of the new file, and which ranges of the old one's data follow it."""
    new: dict[str, Any] = {"__metadata__": dict(origin)}
    ranges: list[tuple[int, int]] = []
    place = 0
    for key in wanted:
        begin, end = header[key]["data_offsets"]
        new[key] = {**header[key], "data_offsets": [place, place + end - begin]}
        place += end - begin
        if ranges and ranges[-1][1] == begin:
            ranges[-1] = (ranges[-1][0], end)
        else:
            ranges.append((begin, end))
    text = json.dumps(new).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text, ranges


def _parse_header(content: bytes, item: str) -> _Header:
    try:
        header: _Header = json.loads(content)
        header.pop("__metadata__", None)
        for entry in header.values():
            begin, end = entry["data_offsets"]
            if not 0 <= begin <= end:
                raise ValueError(f"offsets {begin}, {end}")
    except (ValueError, TypeError, KeyError, AttributeError) as err:
        raise CheckpointError(f"{item}: not a safetensors file ({err})") from err
    return header


def _read_steadily(url: str, start: int, end: int) -> Iterator[bytes]:
    """Yield a range of a file; a broken connection is resumed."""
    num_failures = 0
    while start < end:
        try:
            for chunk in _read_range(url, start, end):
                yield chunk
                start += len(chunk)
                num_failures = 0
        except transport_error() as err:
            num_failures += 1
            if num_failures > _MAX_FAILURES or getattr(err, "response", None) is not None:
                raise
            logger.warning("%s: %s; resuming the download", url, err)
            time.sleep(_RETRY_SECONDS)


def _read_range(url: str, start: int, end: int) -> Iterator[bytes]:
    """Yield the bytes from `start` up to `end`, at most once."""
    from huggingface_hub import constants, get_session, hf_raise_for_status

    headers = {**request_headers(), "Range": f"bytes={start}-{end - 1}"}
    with get_session().stream(
        "GET", url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT
    ) as response:
        hf_raise_for_status(response)
        if response.status_code != 206:
            raise _NoRangesError
        received = 0
        for chunk in response.iter_bytes():
            received += len(chunk)
            if received > end - start:
                raise DownloadError(f"{url}: more bytes came than were asked for. Try again")
            yield chunk
    if received < end - start and not received:
        raise DownloadError(f"{url}: the hub sent nothing. Try again")
