"""The entry point of `pe`: joins the commands, and turns our errors into one clear line."""

import gc
import os
import signal
import sys
from types import FrameType
from typing import Final

import typer

from perception_encoder import __version__
from perception_encoder.cli import (
    bench,
    classify,
    cluster,
    compare,
    demo,
    doctor,
    duplicates,
    embed,
    export,
    map,
    models,
    serve,
)
from perception_encoder.cli import eval as evaluating
from perception_encoder.cli import index as indexing
from perception_encoder.cli import indexes as indexes
from perception_encoder.cli import optimize as maintenance
from perception_encoder.cli import search as searching
from perception_encoder.cli.command import Command, CommandGroup, report, set_up_logging
from perception_encoder.cli.options import BareOptions
from perception_encoder.cli.output import (
    examples_kept,
    say_what_was_replaced,
    set_up_streams,
    summary,
    write_line,
)

_TERMINATED: Final = 128 + 15  # what shells call an end by SIGTERM
_INTERRUPTED = 130  # what shells expect after Ctrl-C

app = typer.Typer(
    name="pe",
    cls=CommandGroup,
    help="Images and words to vectors: embed, compare, index and search.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for _command in (  # as `pe` lists them: first what most people come for
    demo.demo,
    indexing.index,
    searching.search,
    searching.similar,
    duplicates.duplicates,
    cluster.cluster,
    map.map,
    classify.classify,
    serve.serve,
    indexing.errors,
    maintenance.optimize,
    embed.embed,
    compare.compare,
    models.list_models,
    models.download,
    export.export,
    bench.bench,
    doctor.doctor,
):
    app.command(
        _command.__name__.removeprefix("list_"),
        cls=BareOptions if _command in (searching.search, searching.similar) else Command,
        short_help=summary(_command),
    )(examples_kept(_command))
app.add_typer(indexes.app, name="indexes", short_help=indexes.app.info.help)
app.add_typer(evaluating.app, name="eval", short_help=evaluating.app.info.help)


class Termination:
    """Hears of SIGTERM from its making on, and makes a KeyboardInterrupt of the first.

    The kernel keeps a signal from the first process of a container that has no handler for it, so
    `docker stop` would wait for ten seconds and kill. And who is told to end keeps what is done.
    """

    def __init__(self) -> None:
        self._came = False
        signal.signal(signal.SIGTERM, self._hear)

    def _hear(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self._came = True
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a second one ends it at once
        raise KeyboardInterrupt

    def pass_on(self) -> None:
        """End this process by SIGTERM if that is what interrupted it, so that its parent knows."""
        if self._came:
            signal.raise_signal(signal.SIGTERM)
            os._exit(_TERMINATED)  # the first process of a container is still here


def _version(value: bool) -> None:
    if value:
        write_line(__version__)
        raise typer.Exit


@app.callback()
def _root(
    verbose: bool = typer.Option(False, "--verbose", "-v", help="Say more on stderr."),
    version: bool = typer.Option(  # noqa: ARG001  its callback acts
        False,
        "--version",
        callback=_version,
        is_eager=True,
        help="Print the version.",
    ),
) -> None:
    set_up_logging(verbose=verbose)


def main() -> None:
    """Run `pe`: exit 0 done, 1 an error, 2 wrong usage, 130 interrupted, 143 told to end."""
    termination = Termination()
    # Threads of a matrix product that wait for each other would spin, and take the cores from those
    # that decode: `pe index` is twice as fast on two cores without. Read when a backend is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    set_up_streams()
    try:
        try:
            app()
        finally:
            sys.stdout.flush()  # here, where a full disk or a closed pipe can still be reported
            say_what_was_replaced()
            # The interpreter would look through all objects once more before it ends: a sixth of a
            # search's processor time (benchmarks/collector.py). They go with the process.
            gc.freeze()
    except SystemExit as err:
        if err.code == _INTERRUPTED:
            # At once: threads that wait for a slow server would be waited for.
            sys.stderr.flush()
            termination.pass_on()
            os._exit(_INTERRUPTED)
        raise
    except BrokenPipeError as err:
        # The reader has seen enough (`pe search … | head`); nothing more can be written.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from err
    except KeyboardInterrupt:
        raise
    except BaseException as err:  # what Rust panics with in Lance is no Exception
        report(err)
        _give_up_a_broken_stdout()
        raise SystemExit(1) from err


def _give_up_a_broken_stdout() -> None:
    """Keep the interpreter from trying again, at its end, to write where nothing can be written."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
