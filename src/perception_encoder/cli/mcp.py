"""`pe mcp`: tools for language models over the Model Context Protocol."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from perception_encoder import settings
from perception_encoder.cli.options import (
    BackendOption,
    DeviceOption,
    PrecisionOption,
    complete_model,
)
from perception_encoder.cli.output import say
from perception_encoder.cli.serve import (
    check_exposure,
    check_mcp,
    choose_indexes,
    read_hashes,
)
from perception_encoder.cli.teach import find_file

_HTTP: Final = "HTTP"


def mcp(  # noqa: PLR0913  one parameter for each option
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
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            envvar="PE_MODEL",
            autocompletion=complete_model,
            help="Model beside those of the indexes, such as one that reads texts for an index of "
            "a vision-only model; repeat it for several.",
        ),
    ] = None,
    device: DeviceOption = "auto",
    backend: BackendOption = "auto",
    precision: PrecisionOption = "auto",
    remote_items: Annotated[
        bool,
        typer.Option(
            "--remote-items",
            envvar="PE_REMOTE_ITEMS",
            help="Show the images of an index that are on the web.",
        ),
    ] = False,
    http: Annotated[
        bool,
        typer.Option(
            "--http",
            rich_help_panel=_HTTP,
            help="Answer at http://HOST:PORT/mcp instead of on stdin and stdout.",
        ),
    ] = False,
    host: Annotated[
        str, typer.Option(envvar="PE_HOST", rich_help_panel=_HTTP, help="Address to listen on.")
    ] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(
            envvar="PE_PORT",
            min=0,
            max=65535,
            rich_help_panel=_HTTP,
            help="Port to listen on; 0 takes a free one.",
        ),
    ] = 9001,
    key_file: Annotated[
        Path | None,
        typer.Option(
            envvar="PE_KEY_FILE",
            rich_help_panel=_HTTP,
            help="Accepted keys, as `pe serve --key-file`; clients send one as bearer token.",
        ),
    ] = None,
    keys: Annotated[
        str | None,
        typer.Option(envvar="PE_KEYS", help="As --key-file, separated by commas.", hidden=True),
    ] = None,
    insecure: Annotated[
        bool,
        typer.Option(
            "--insecure",
            envvar="PE_INSECURE",
            rich_help_panel=_HTTP,
            help="Answer other machines without a key.",
        ),
    ] = False,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(
            envvar="PE_ALLOWED_HOST",
            metavar="NAME",
            rich_help_panel=_HTTP,
            help="Another host name of this server; repeat it for several, * for all.",
        ),
    ] = None,
) -> None:
    """Let language models search your images, over the Model Context Protocol.

    A program such as Claude Desktop starts it and talks to it on stdin and stdout.

    Examples:
        pe mcp
        pe mcp --index images.lance
        pe mcp --http --port 9002
    """
    check_mcp()
    hashes = read_hashes(key_file, keys) if http else ()
    if http:
        check_exposure(host, hashes, insecure=insecure)
    indexes = choose_indexes(index)
    if not indexes:
        raise typer.BadParameter(
            "there is no index to search: make one with `pe index FOLDER`, or name one with --index"
        )
    from perception_encoder.server import options

    chosen = options.ServerSettings(
        models=options.ModelSettings(
            names=tuple(model or ()), device=device, backend=backend, precision=precision
        ),
        images=options.ImageSettings(allow_remote_items=remote_items),
        access=options.AccessSettings(
            key_hashes=hashes, host=host, allowed_hosts=tuple(allowed_host or ())
        ),
        indexes=indexes,
        classifiers=tuple(str(find_file(name)) for name in classifier or ()),
        cache_folder=settings.cache_folder() / "thumbnails",
        serve_page=False,
        serve_mcp=http,
    )
    if http:
        from perception_encoder.server.run import run_server

        run_server(chosen, host=host, port=port, announce=lambda line: say(f"{line}/mcp"))
        return
    from perception_encoder.server.app import create_app
    from perception_encoder.server.mcp.transports import run_stdio

    run_stdio(create_app(chosen))
