"""`pe serve`: models and indexes over HTTP, with a web page."""

from __future__ import annotations

import webbrowser
from collections.abc import Iterable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import typer

from perception_encoder import settings
from perception_encoder.cli.options import (
    DEFAULT_MODEL,
    BackendOption,
    CompileOption,
    DeviceOption,
    PrecisionOption,
    complete_model,
    warn_of_photo_index,
)
from perception_encoder.cli.output import say, write_line
from perception_encoder.cli.teach import find_file

_MIB: Final = 2**20
_ACCESS: Final = "Access"


def _limit(envvar: str, text: str, *, minimum: float = 1) -> Any:
    """Return an option of the help's section on limits."""
    return typer.Option(envvar=envvar, min=minimum, rich_help_panel="Limits", help=text)


def serve(  # noqa: PLR0913  one parameter for each option
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            envvar="PE_MODEL",
            autocompletion=complete_model,
            help="Model id, Hugging Face repository or path; repeat it for several, the default "
            f"one first.  [default: {DEFAULT_MODEL}]",
            show_default=False,
        ),
    ] = None,
    alias: Annotated[
        list[str] | None,
        typer.Option(
            envvar="PE_ALIAS",
            metavar="NAME=MODEL",
            help="Another name for a model, for clients that send it; repeat it for several.",
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
    classifier: Annotated[
        list[str] | None,
        typer.Option(
            envvar="PE_CLASSIFIER",
            help="Classifier of `pe teach`, by name or path; repeat it for several.",
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(envvar="PE_HOST", help="Address to listen on.")
    ] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(
            envvar="PE_PORT", min=0, max=65535, help="Port to listen on; 0 takes a free one."
        ),
    ] = 9001,
    opens_page: Annotated[
        bool, typer.Option("--open", help="Open the page in the web browser.")
    ] = False,
    page: Annotated[bool, typer.Option(envvar="PE_PAGE", help="Serve the page at /.")] = True,
    mcp: Annotated[
        bool,
        typer.Option(
            "--mcp",
            envvar="PE_MCP",
            help="Answer the Model Context Protocol at /mcp; see `pe mcp`.",
        ),
    ] = False,
    thumbnails: Annotated[
        Path | None,
        typer.Option(
            envvar="PE_THUMBNAILS",
            help="Folder for thumbnails.  [default: in your cache folder]",
            show_default=False,
        ),
    ] = None,
    immich_ml: Annotated[
        str | None,
        typer.Option(
            envvar="PE_IMMICH_ML",
            metavar="URL",
            help="Immich's own machine-learning server, for faces and text in images.",
        ),
    ] = None,
    log_format: Annotated[
        Literal["text", "json"],
        typer.Option(envvar="PE_LOG_FORMAT", help="Format of the log on stderr."),
    ] = "text",
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
            envvar="PE_UNLOAD_AFTER", min=1, help="Close a model after this many idle seconds."
        ),
    ] = None,
    max_model_mib: Annotated[
        int | None, _limit("PE_MAX_MODEL_MIB", "MiB of weights in memory.")
    ] = None,
    max_batch: Annotated[int, _limit("PE_MAX_BATCH", "Items in one batch.")] = 64,
    max_wait_ms: Annotated[
        float,
        _limit("PE_MAX_WAIT_MS", "Milliseconds to wait for more items in a batch.", minimum=0),
    ] = 3.0,
    queue: Annotated[
        int, _limit("PE_QUEUE", "Items that wait; beyond it the answer is 429.")
    ] = 1024,
    timeout: Annotated[
        float, _limit("PE_TIMEOUT", "Seconds that an item may wait.", minimum=0.1)
    ] = 60.0,
    max_items: Annotated[int, _limit("PE_MAX_ITEMS", "Items in one request.")] = 2048,
    max_body_mib: Annotated[int, _limit("PE_MAX_BODY_MIB", "MiB of one request.")] = 64,
    max_image_mib: Annotated[int, _limit("PE_MAX_IMAGE_MIB", "MiB of one encoded image.")] = 32,
    max_pixels: Annotated[int, _limit("PE_MAX_PIXELS", "Pixels of one image.")] = 64_000_000,
    max_connections: Annotated[int, _limit("PE_MAX_CONNECTIONS", "Open connections.")] = 512,
    rate: Annotated[
        int | None, _limit("PE_RATE", "Requests a minute for each key or address.")
    ] = None,
    key_file: Annotated[
        Path | None,
        typer.Option(
            envvar="PE_KEY_FILE",
            rich_help_panel=_ACCESS,
            help="Accepted keys of 16 characters or more, one a line, or their hashes: sha256:HEX.",
        ),
    ] = None,
    keys: Annotated[
        str | None,
        typer.Option(envvar="PE_KEYS", help="As --key-file, separated by commas.", hidden=True),
    ] = None,
    new_key: Annotated[
        bool,
        typer.Option(
            "--new-key", rich_help_panel=_ACCESS, help="Print a new key and its hash, and exit."
        ),
    ] = False,
    insecure: Annotated[
        bool,
        typer.Option(
            "--insecure",
            envvar="PE_INSECURE",
            rich_help_panel=_ACCESS,
            help="Answer other machines without a key.",
        ),
    ] = False,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(
            envvar="PE_ALLOWED_HOST",
            metavar="NAME",
            rich_help_panel=_ACCESS,
            help="Another host name of this server; repeat it for several, * for all.",
        ),
    ] = None,
    cors: Annotated[
        list[str] | None,
        typer.Option(
            envvar="PE_CORS",
            rich_help_panel=_ACCESS,
            help="Origin whose pages may send requests; repeat it for several.",
        ),
    ] = None,
    allow_urls: Annotated[
        bool,
        typer.Option(
            "--allow-urls",
            envvar="PE_ALLOW_URLS",
            rich_help_panel=_ACCESS,
            help="Fetch images over https.",
        ),
    ] = False,
    allow_http: Annotated[
        bool,
        typer.Option(
            "--allow-http",
            envvar="PE_ALLOW_HTTP",
            rich_help_panel=_ACCESS,
            help="Fetch images over http, too.",
        ),
    ] = False,
    remote_items: Annotated[
        bool,
        typer.Option(
            "--remote-items",
            envvar="PE_REMOTE_ITEMS",
            rich_help_panel=_ACCESS,
            help="Show the images of an index that are on the web.",
        ),
    ] = False,
) -> None:
    """Serve models and indexes over HTTP, with a web page for searching.

    Examples:
        pe serve --open
        pe serve --index images.lance
        pe serve --classifier pets
        pe serve --model PE-Core-B16-224 --model pe-nano --unload-after 600
        pe serve --alias PE-Core-L14-336=pe-nano
        pe serve --new-key
        pe serve --host 0.0.0.0 --key-file keys.txt
    """
    from perception_encoder.server.http.access import generate_key
    from perception_encoder.server.run import run_server

    if new_key:
        _print_key(generate_key())
        return
    hashes = read_hashes(key_file, keys)
    check_exposure(host, hashes, insecure=insecure)
    if mcp:
        check_mcp()
    from perception_encoder.server import options

    run_server(
        options.ServerSettings(
            models=options.ModelSettings(
                names=tuple(model or [DEFAULT_MODEL]),
                aliases=_parse_aliases(alias or ()),
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
            indexes=choose_indexes(index),
            classifiers=tuple(str(find_file(name)) for name in classifier or ()),
            cache_folder=thumbnails or settings.cache_folder() / "thumbnails",
            serve_page=page,
            serve_mcp=mcp,
            immich_ml=immich_ml,
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


def choose_indexes(named: list[str] | None) -> tuple[str, ...]:
    """Return the named indexes, or this user's own one if there is one; warn of photos in them."""
    from perception_encoder.errors import ImageIndexError, IndexNotFoundError
    from perception_encoder.index import Index

    paths = []
    for path in named or [str(settings.default_index())]:
        try:
            warn_of_photo_index(Index.open(path))
        except ImageIndexError as err:
            if named:
                raise
            if not isinstance(err, IndexNotFoundError):
                say(f"pe: not served: {err}")
            continue
        paths.append(path)
    return tuple(paths)


def _print_key(key: str) -> None:
    from perception_encoder.server.http.access import hash_key

    write_line(key)
    say(f"give it to your clients, and put this line into the key file: sha256:{hash_key(key)}")


def check_mcp() -> None:
    """Refuse to start without the protocol's package.

    Raises:
        typer.BadParameter: it is not installed.
    """
    if find_spec("mcp") is None:
        raise typer.BadParameter(
            "the Model Context Protocol needs the extra `mcp`: "
            "pip install 'perception-encoder[mcp]'"
        )


def check_exposure(host: str, hashes: tuple[str, ...], *, insecure: bool) -> None:
    """Refuse to serve other machines without a key.

    Raises:
        typer.BadParameter: there is no key, and the user has not accepted that.
    """
    from perception_encoder.server.http.sites import is_loopback

    if not (hashes or insecure or is_loopback(host)):
        raise typer.BadParameter(
            f"{host} can be reached from other machines, and there is no key: create one with "
            "`pe serve --new-key` and pass it with --key-file, or add --insecure"
        )


def read_hashes(file: Path | None, keys: str | None) -> tuple[str, ...]:
    """Return the hashes of the accepted keys.

    Raises:
        OSError: the file cannot be read.
        typer.BadParameter: a line is neither a key nor a hash.
    """
    from perception_encoder.server.http.access import read_keys

    try:
        return read_keys(file, keys)
    except ValueError as err:
        raise typer.BadParameter(str(err)) from err


def _parse_aliases(aliases: Iterable[str]) -> tuple[tuple[str, str], ...]:
    pairs = []
    for alias in aliases:
        name, _, target = (part.strip() for part in alias.partition("="))
        if not name or not target:
            raise typer.BadParameter(f"--alias {alias}: write NAME=MODEL")
        pairs.append((name, target))
    return tuple(pairs)
