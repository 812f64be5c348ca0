"""Downloads of a package's files, each checked by its hash before it gets its name."""

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any

from inference_models.errors import (
    FileHashSumMissmatch,
    InsecureModelIdentifierError,
    RetryError,
    UntrustedFileError,
)

_TIMEOUT_SECONDS = 60.0


def download_files_to_directory(
    target_dir: str | os.PathLike[str],
    files_specs: list[tuple[str, str, str | None]],
    verify_hash_while_download: bool = True,
    download_files_without_hash: bool = False,
    **_: Any,
) -> dict[str, str]:
    """Download files that are not in a folder yet.

    Args:
        target_dir: made where it does not exist.
        files_specs: (name in the folder, URL, MD5 in hex or None) of each.
        verify_hash_while_download: False keeps a file whatever its hash.
        download_files_without_hash: True also fetches what cannot be checked.
        **_: what else the original takes (parallelism, locks, progress); ignored.

    Returns:
        The path of each file, by its name.

    Raises:
        UntrustedFileError: a file has no hash, and that was not allowed.
        FileHashSumMissmatch: a file is not what its hash says.
        InsecureModelIdentifierError: a name leads out of the folder.
        RetryError: the network failed, or the server refused.
    """
    folder = Path(target_dir)
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for name, url, md5 in files_specs:
        if name in ("", ".", "..") or Path(name).name != name:
            raise InsecureModelIdentifierError(f"{name!r} is not the name of a file in {folder}")
        path = folder / name
        if not path.exists():
            if md5 is None and not download_files_without_hash:
                raise UntrustedFileError(
                    f"{name} comes without a hash; download_files_without_hash=True allows that"
                )
            _download(url, path, md5 if verify_hash_while_download else None)
        paths[name] = str(path)
    return paths


def _download(url: str, path: Path, md5: str | None) -> None:
    import httpx2

    digest = hashlib.md5(usedforsecurity=False)
    with tempfile.TemporaryDirectory(prefix=".download-", dir=path.parent) as scratch:
        part = Path(scratch) / path.name
        try:
            with (
                part.open("wb") as file,
                httpx2.stream("GET", url, timeout=_TIMEOUT_SECONDS, follow_redirects=True) as reply,
            ):
                reply.raise_for_status()
                for piece in reply.iter_bytes():
                    digest.update(piece)
                    file.write(piece)
        except httpx2.HTTPError as err:
            raise RetryError(f"{path.name} could not be fetched from {url}: {err}") from err
        if md5 is not None and digest.hexdigest() != md5:
            raise FileHashSumMissmatch(
                f"{path.name} from {url} has MD5 {digest.hexdigest()}, not {md5}; nothing was kept"
            )
        os.replace(part, path)
