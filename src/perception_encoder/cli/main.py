"""The entry point of `pe`: registers the commands, and reports errors in one line."""

from __future__ import annotations

import gc
import os
import signal
import sys
from functools import cache
from typing import TYPE_CHECKING, Final

import typer

from perception_encoder import __version__
from perception_encoder.cli import (
    bench,
    classify,
    clean,
    cluster,
    compare,
    demo,
    doctor,
    duplicates,
    embed,
    eval,
    explain,
    export,
    features,
    index,
    indexes,
    map,
    mcp,
    models,
    optimize,
    search,
    searches,
    select,
    serve,
    teach,
)
from perception_encoder.cli.command import (
    BareOptions,
    Command,
    CommandGroup,
    keep_examples,
    report_error,
    set_up_logging,
)
from perception_encoder.cli.output import set_up_streams, warn_of_escapes, write_line

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import FrameType

_TERMINATED: Final = 128 + 15  # what shells call an end by SIGTERM
_INTERRUPTED: Final = 130  # what shells expect after Ctrl-C

# As `pe --help` lists them: a heading and its commands, the most used first.
_COMMANDS: Final[dict[str, tuple[Callable[..., None] | typer.Typer, ...]]] = {
    "Search your images": (
        index.index,
        search.search,
        search.similar,
        searches.app,
        serve.serve,
        mcp.mcp,
    ),
    "Organize your images": (
        duplicates.duplicates,
        clean.clean,
        cluster.cluster,
        select.select,
        map.map,
        classify.classify,
        teach.teach,
    ),
    "Manage indexes": (indexes.app, index.errors, optimize.optimize),
    "Embeddings and models": (
        embed.embed,
        compare.compare,
        features.features,
        features.match,
        explain.explain,
        models.list_models,
        models.download,
        export.export,
        eval.app,
    ),
    "This machine": (demo.demo, bench.bench, doctor.doctor),
}
_BARE_OPTIONS: Final = (search.search, search.similar)


def _print_version(value: bool) -> None:
    if value:
        write_line(__version__)
        raise typer.Exit


def _set_up(
    verbose: bool = typer.Option(False, "--verbose", "-v", help="Log more, to stderr."),
    version: bool = typer.Option(  # noqa: ARG001  its callback acts
        False,
        "--version",
        callback=_print_version,
        is_eager=True,
        help="Print the version and exit.",
    ),
) -> None:
    set_up_logging(verbose=verbose)


@cache
def build_app(name: str | None = None) -> typer.Typer:
    """Build the app of all commands, or of one of them alone, which starts faster by 40 ms."""
    app = typer.Typer(
        name="pe",
        cls=CommandGroup,
        help="Image and text embeddings in one shared space: index, search and organize images.",
        context_settings={"help_option_names": ["-h", "--help"]},
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        callback=_set_up,
    )
    for heading, commands in _COMMANDS.items():
        for command in commands:
            if name not in (None, _name_of(command)):
                continue
            if isinstance(command, typer.Typer):
                app.add_typer(command, rich_help_panel=heading)
                continue
            app.command(
                _name_of(command),
                cls=BareOptions if command in _BARE_OPTIONS else Command,
                rich_help_panel=heading,
            )(keep_examples(command))
    return app


def _name_of(command: Callable[..., None] | typer.Typer) -> str:
    if isinstance(command, typer.Typer):
        return str(command.info.name)
    return command.__name__.removeprefix("list_")


def find_command(arguments: Sequence[str]) -> str | None:
    """Return the command that the arguments name; None for wrong ones, whose error lists all."""
    name = next((word for word in arguments if not word.startswith("-")), None)
    names = {_name_of(command) for commands in _COMMANDS.values() for command in commands}
    return name if name in names and "_PE_COMPLETE" not in os.environ else None


app: Final = build_app()


def main() -> None:
    """Run `pe`. Exit codes: 0 done, 1 error, 2 wrong usage, 130 interrupted, 143 terminated."""
    termination = Termination()
    # Threads of a matrix product spin while they wait for each other, and so take the cores from
    # the decoding threads. Without spinning `pe index` is twice as fast on two cores. Backends read
    # the variable when they are loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    set_up_streams()
    try:
        try:
            build_app(find_command(sys.argv[1:]))(prog_name="pe")
        finally:
            sys.stdout.flush()  # here, where a full disk or a closed pipe can still be reported
            warn_of_escapes()
            # Skips the last garbage collection of the interpreter, which takes a sixth of the
            # processor time of a search (benchmarks/collector.py).
            gc.freeze()
    except SystemExit as err:
        if err.code == _INTERRUPTED:
            # At once: the interpreter would wait for threads that wait for a slow server.
            sys.stderr.flush()
            termination.pass_on()
            os._exit(_INTERRUPTED)
        raise
    except BrokenPipeError as err:
        # The reader has closed its end (`pe search … | head`).
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from err
    except KeyboardInterrupt:
        raise
    except BaseException as err:  # a panic of Lance's Rust code is not an Exception
        report_error(err)
        _drop_broken_stdout()
        raise SystemExit(1) from err


class Termination:
    """Turns the first SIGTERM into a KeyboardInterrupt, so that commands save what is done.

    Without a handler the kernel does not deliver the signal to the first process of a container:
    `docker stop` would wait for ten seconds and then kill it.
    """

    def __init__(self) -> None:
        self._came = False
        signal.signal(signal.SIGTERM, self._interrupt)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self._came = True
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a second one ends the process at once
        raise KeyboardInterrupt

    def pass_on(self) -> None:
        """End this process by SIGTERM if that is what interrupted it, so that its parent knows."""
        if self._came:
            signal.raise_signal(signal.SIGTERM)
            os._exit(_TERMINATED)  # reached by the first process of a container


def _drop_broken_stdout() -> None:
    """Keep the interpreter from writing to a broken stdout again when it exits."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
