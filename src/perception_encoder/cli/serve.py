"""`pe serve`: models and indexes over HTTP."""

from __future__ import annotations

import webbrowser
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Annotated, Final, Literal

import typer

from perception_encoder import settings
from perception_encoder.cli.model_choice import warn_of_photo_index
from perception_encoder.cli.options import (
    DEFAULT_MODEL,
    BackendOption,
    CompileOption,
    DeviceOption,
    PrecisionOption,
)
from perception_encoder.cli.output import say, write_line

_MIB: Final = 2**20


def serve(  # noqa: PLR0913  one parameter for each option
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            envvar="PE_MODEL",
            help=f"Model id or path; repeat it for several, the default first. [{DEFAULT_MODEL}]",
        ),
    ] = None,
    alias: Annotated[
        list[str] | None,
        typer.Option(
            envvar="PE_ALIAS",
            metavar="NAME=MODEL",
            help="Another name for a model, for clients that ask for that; repeat it for several.",
        ),
    ] = None,
    index: Annotated[
        list[str] | None,
        typer.Option(
            envvar="PE_INDEX",
            help="Index to search; repeat it for several.  [default: the one in your data folder]",
            show_default=False,
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(envvar="PE_HOST", help="Address to listen on.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(envvar="PE_PORT", min=0, max=65535, help="0 takes a free one.")
    ] = 9001,
    device: DeviceOption = "auto",
    backend: BackendOption = "auto",
    precision: PrecisionOption = "auto",
    compiled: CompileOption = False,
    preload: Annotated[
        bool, typer.Option(envvar="PE_PRELOAD", help="Open the models at the start.")
    ] = True,
    unload_after: Annotated[
        float | None,
        typer.Option(
            envvar="PE_UNLOAD_AFTER", min=1, help="Close models idle for that many seconds."
        ),
    ] = None,
    max_model_mib: Annotated[
        int | None,
        typer.Option(envvar="PE_MAX_MODEL_MIB", min=1, help="Of weights in memory at once."),
    ] = None,
    max_batch: Annotated[
        int, typer.Option(envvar="PE_MAX_BATCH", min=1, help="Items computed at once.")
    ] = 64,
    max_wait_ms: Annotated[
        float, typer.Option(envvar="PE_MAX_WAIT_MS", min=0, help="For others to fill a batch.")
    ] = 3.0,
    queue: Annotated[
        int, typer.Option(envvar="PE_QUEUE", min=1, help="Items waiting; more are answered 429.")
    ] = 1024,
    timeout: Annotated[
        float, typer.Option(envvar="PE_TIMEOUT", min=0.1, help="Seconds until an item is given up.")
    ] = 60.0,
    max_items: Annotated[
        int, typer.Option(envvar="PE_MAX_ITEMS", min=1, help="Items of one request.")
    ] = 2048,
    max_body_mib: Annotated[
        int, typer.Option(envvar="PE_MAX_BODY_MIB", min=1, help="Of one request.")
    ] = 64,
    max_image_mib: Annotated[
        int, typer.Option(envvar="PE_MAX_IMAGE_MIB", min=1, help="Of one encoded image.")
    ] = 32,
    max_pixels: Annotated[
        int, typer.Option(envvar="PE_MAX_PIXELS", min=1, help="Of one image.")
    ] = 64_000_000,
    max_connections: Annotated[
        int, typer.Option(envvar="PE_MAX_CONNECTIONS", min=1, help="Open at once.")
    ] = 512,
    rate: Annotated[
        int | None,
        typer.Option(envvar="PE_RATE", min=1, help="Requests a minute of one key or address."),
    ] = None,
    key_file: Annotated[
        Path | None,
        typer.Option(
            envvar="PE_KEY_FILE",
            help="Accepted keys of 16 characters or more, one a line, or their hashes: sha256:HEX.",
        ),
    ] = None,
    keys: Annotated[
        str | None,
        typer.Option(envvar="PE_KEYS", help="As in --key-file, with commas.", hidden=True),
    ] = None,
    new_key: Annotated[
        bool, typer.Option("--new-key", help="Print a fresh key and its hash, and end.")
    ] = False,
    insecure: Annotated[
        bool,
        typer.Option("--insecure", envvar="PE_INSECURE", help="Let anybody ask from anywhere."),
    ] = False,
    allow_urls: Annotated[
        bool, typer.Option("--allow-urls", envvar="PE_ALLOW_URLS", help="Fetch images by https.")
    ] = False,
    allow_http: Annotated[
        bool, typer.Option("--allow-http", envvar="PE_ALLOW_HTTP", help="Also by http.")
    ] = False,
    remote_items: Annotated[
        bool,
        typer.Option(
            "--remote-items", envvar="PE_REMOTE_ITEMS", help="Show an index's web images."
        ),
    ] = False,
    cors: Annotated[
        list[str] | None,
        typer.Option(envvar="PE_CORS", help="Origin whose pages may ask; repeat it for several."),
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(
            envvar="PE_ALLOWED_HOST",
            metavar="NAME",
            help="Another name that this server is asked by; repeat it for several, * for all.",
        ),
    ] = None,
    page: Annotated[bool, typer.Option(envvar="PE_PAGE", help="Offer the page at /.")] = True,
    thumbnails: Annotated[
        Path | None,
        typer.Option(envvar="PE_THUMBNAILS", help="Folder for small copies of images."),
    ] = None,
    opens_page: Annotated[
        bool, typer.Option("--open", help="Open the page in the web browser.")
    ] = False,
    log_format: Annotated[
        Literal["text", "json"], typer.Option(envvar="PE_LOG_FORMAT", help="Of the log on stderr.")
    ] = "text",
) -> None:
    """Serve models and indexes over HTTP, with a web page for searching.

    Examples:
        pe serve
        pe serve --index images.lance
        pe serve --model PE-Core-B16-224 --model pe-nano --unload-after 600
        pe serve --alias PE-Core-L14-336=pe-nano
        pe serve --new-key
        pe serve --host 0.0.0.0 --key-file keys.txt
    """
    from perception_encoder.server.http.access import new_key as fresh_key
    from perception_encoder.server.http.sites import is_loopback
    from perception_encoder.server.run import run_server

    if new_key:
        _show(fresh_key())
        return
    hashes = _hashes(key_file, keys)
    if not (hashes or insecure or is_loopback(host)):
        raise typer.BadParameter(
            f"{host} can be reached from other machines, and there is no key: make one with "
            "`pe serve --new-key` and give it with --key-file, or say --insecure"
        )
    from perception_encoder.server import options

    run_server(
        options.ServerSettings(
            models=options.ModelSettings(
                names=tuple(model or [DEFAULT_MODEL]),
                aliases=_aliases(alias or ()),
                preload=preload,
                unload_after_seconds=unload_after,
                max_bytes=None if max_model_mib is None else max_model_mib * _MIB,
                device=device,
                backend=backend,
                precision=precision,
                compile=compiled,
            ),
            queue=options.QueueSettings(
                max_batch=max_batch,
                max_wait_ms=max_wait_ms,
                capacity=queue,
                timeout_seconds=timeout,
            ),
            images=options.ImageSettings(
                max_bytes=max_image_mib * _MIB,
                max_pixels=max_pixels,
                allow_urls=allow_urls or allow_http,
                allow_http=allow_http,
                allow_remote_items=remote_items,
            ),
            access=options.AccessSettings(
                key_hashes=hashes,
                requests_per_minute=rate,
                cors_origins=tuple(cors or ()),
                host=host,
                allowed_hosts=tuple(allowed_host or ()),
                max_body_bytes=max_body_mib * _MIB,
                max_items=max_items,
                max_connections=max_connections,
            ),
            indexes=tuple(index) if index else _find_default_index(),
            cache_folder=thumbnails or settings.cache_folder() / "thumbnails",
            serve_page=page,
        ),
        host=host,
        port=port,
        log_format=log_format,
        announce=partial(_announce, opens_page=opens_page),
    )


def _announce(message: str, *, opens_page: bool) -> None:
    """Report the address. The socket listens already, so a browser only waits for the answer."""
    say(message)
    if opens_page:
        webbrowser.open(message.rpartition(" ")[2])


def _find_default_index() -> tuple[str, ...]:
    """Return this user's own index, if there is one."""
    from perception_encoder.errors import ImageIndexError, IndexNotFoundError
    from perception_encoder.index import Index

    path = str(settings.default_index())
    try:
        warn_of_photo_index(Index.open(path))
    except IndexNotFoundError:
        return ()
    except ImageIndexError as err:
        say(f"pe: not served: {err}")
        return ()
    return (path,)


def _show(key: str) -> None:
    from perception_encoder.server.http.access import hashed

    write_line(key)
    say(f"give it to who may ask, and put this line into the key file: sha256:{hashed(key)}")


def _hashes(file: Path | None, keys: str | None) -> tuple[str, ...]:
    """Return the hashes of the accepted keys.

    Raises:
        OSError: the file cannot be read.
        BadParameter: a line of it is no key and no hash.
    """
    from perception_encoder.server.http.access import read_keys

    try:
        return read_keys(file, keys)
    except ValueError as err:
        raise typer.BadParameter(str(err)) from err


def _aliases(written: Iterable[str]) -> tuple[tuple[str, str], ...]:
    pairs = []
    for one in written:
        name, _, target = (part.strip() for part in one.partition("="))
        if not name or not target:
            raise typer.BadParameter(f"--alias {one}: write NAME=MODEL")
        pairs.append((name, target))
    return tuple(pairs)
