"""Runs the app on uvicorn: the listening socket, logs, garbage collection and an orderly end."""

import gc
import logging
import signal
import socket
import sys
from collections.abc import Callable
from typing import Final, Literal

import uvicorn

from perception_encoder.server.app import create_app
from perception_encoder.server.http.connection import KEEP_ALIVE_SECONDS, TimedProtocol
from perception_encoder.server.http.telemetry import build_log_config
from perception_encoder.server.options import ServerSettings

logger = logging.getLogger(__name__)

_BACKLOG: Final = 2048  # as uvicorn's own
_ACCEPTED_AT_ONCE: Final = 32
_FINISH_SECONDS: Final = 30  # for requests that were accepted when the server is told to end


def run_server(
    settings: ServerSettings,
    *,
    host: str,
    port: int,
    log_format: Literal["text", "json"] = "text",
    announce: Callable[[str], None] = logger.info,
) -> None:
    """Answer requests until SIGINT or SIGTERM, then finish what was accepted.

    Args:
        settings: see `ServerSettings`.
        host: address to listen on.
        port: 0 takes a free one.
        log_format: of the log on stderr.
        announce: called with the line that says where the server listens.

    Raises:
        ClassifierError: a classifier cannot be read.
        IndexNotFoundError, IndexStorageError: an index cannot be opened.
        OSError: the address cannot be listened on.
    """
    config = uvicorn_config(
        settings,
        host=host,
        port=port,
        log_format=log_format,
        on_ready=freeze_objects,
        on_model_closed=gc.unfreeze,
    )
    server = uvicorn.Server(config)
    with _listening(host, port) as listener:
        address = listener.getsockname()
        shown = f"[{address[0]}]" if ":" in address[0] else address[0]
        announce(f"listening on http://{shown}:{address[1]}")
        # uvicorn sends itself the signal again at the end. That ends this process, except for the
        # first process of a container, which ends with 0.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        server.run(sockets=copy_listener(listener))


def uvicorn_config(
    settings: ServerSettings,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    log_format: Literal["text", "json"] | None = None,
    on_ready: Callable[[], None] = lambda: None,
    on_model_closed: Callable[[], None] = lambda: None,
) -> uvicorn.Config:
    """Return uvicorn's config for the app; without a log format, logging is not configured."""
    return uvicorn.Config(
        create_app(settings, on_ready=on_ready, on_model_closed=on_model_closed),
        host=host,
        port=port,
        http=TimedProtocol,
        ws="none",
        log_config=None if log_format is None else build_log_config(log_format),
        access_log=False,  # `edge` writes a line of its own, without query strings
        server_header=False,
        limit_concurrency=settings.access.max_connections,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_FINISH_SECONDS,
    )


def freeze_objects() -> None:
    """Collect garbage once, and leave the remaining objects out of later collections.

    For `pe serve`'s own process, once its models are open. With 64 clients the longest full
    collection then takes 3 ms instead of 79 (benchmarks/results/collector.json). Closing a model
    unfreezes everything, so that its memory is found.
    """
    gc.collect()
    gc.freeze()


def copy_listener(listener: socket.socket) -> list[socket.socket]:
    """Return a listening socket with copies of it, so that uvloop accepts clients faster.

    uvloop accepts one connection of each socket in a turn of its loop, and answers the requests of
    the accepted ones in between. With one socket the last of 256 clients that connected at once
    waited 19 s for its first reply; with 32 copies 0.16 s.
    """
    if sys.platform == "win32":  # there is no uvloop, and asyncio's loop accepts all that wait
        return [listener]
    return [listener, *(listener.dup() for _ in range(_ACCEPTED_AT_ONCE - 1))]


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host.strip("[]"), port))
        listener.listen(_BACKLOG)  # before `announce`
    except OSError as err:
        listener.close()
        raise OSError(
            f"cannot listen on {host} port {port}: {err.strerror}; choose another address or port "
            "(0 takes a free one)"
        ) from err
    return listener
