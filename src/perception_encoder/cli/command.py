"""What every command does with its arguments: numbers are numbers, and errors name variables.

Typer's own commands take NaN for a number between 0 and 1, and 5,000 digits for a count.
"""

import logging
import math
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, cast

import typer
from typer.core import TyperCommand, TyperGroup

from perception_encoder.cli.output import printable, say
from perception_encoder.errors import PerceptionEncoderError

_LARGEST: Final = 2**31 - 1
"""Of a count. What is below is an array's length, which numpy and Lance take."""
_LARGEST_REAL: Final = 1e9
"""Of seconds, days and the like: what is below does no harm where time is computed."""
_LONGEST_MESSAGE: Final = 2_000
# The base class, which typer does not export.
_UsageError: Final = cast("type[typer.BadParameter]", typer.BadParameter.__mro__[1])
# Our own messages list things on indented lines; any other line break is part of a name.
_OWN_BREAK: Final = re.compile(r"\n(?=  )")


class Command(TyperCommand):
    """A command whose numbers are finite and of a sane size."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments, and refuse numbers that no command can use."""
        rest: list[str] = super().parse_args(ctx, args)
        for param in self.params:
            given = ctx.params.get(param.name)
            for value in given if isinstance(given, list | tuple) else (given,):
                if problem := _problem(value):
                    raise typer.BadParameter(problem, ctx=ctx, param=param)
        return rest

    def invoke(self, ctx: Any) -> Any:
        """Run; an error that comes of a variable of the environment names it."""
        try:
            return super().invoke(ctx)
        except Exception as err:
            for note in _origins(ctx, str(err)):
                err.add_note(note)
            raise


class CommandGroup(TyperGroup):
    """Commands; what is wrong with their arguments is told without control characters."""

    def make_context(self, *args: Any, **extra: Any) -> Any:
        """As the base class."""
        with _printable_errors():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: Any) -> Any:
        """As the base class."""
        with _printable_errors():
            return super().invoke(ctx)


def shortened(message: str) -> str:
    """Cut what nobody would read, such as a number of 5,000 digits."""
    if len(message) <= _LONGEST_MESSAGE:
        return message
    half = _LONGEST_MESSAGE // 2
    return f"{message[:half]} … {message[-half:]}"


@contextmanager
def _printable_errors() -> Iterator[None]:
    try:
        yield
    except _UsageError as err:
        notes = [f" ({note})" for note in getattr(err, "__notes__", ())]
        err.message = shortened(printable(err.message)) + "".join(notes)
        err.__notes__ = []
        raise


def _problem(value: object) -> str:
    if isinstance(value, bool):
        return ""
    if isinstance(value, float):
        if math.isfinite(value) and abs(value) <= _LARGEST_REAL:
            return ""
        return f"{value} is not a number up to {_LARGEST_REAL:,.0f}"
    if isinstance(value, int) and abs(value) > _LARGEST:
        return f"the number is too large; at most {_LARGEST:,}"
    return ""


def _origins(ctx: Any, message: str) -> Iterator[str]:
    """Say of each value of the environment that the message mentions where it comes from."""
    for param in ctx.command.params:
        source = ctx.get_parameter_source(param.name)
        if source is None or source.name != "ENVIRONMENT":
            continue
        given = ctx.params.get(param.name)
        values = given if isinstance(given, list | tuple) else (given,)
        if any(str(value) in message for value in values):
            yield f"from the environment: {param.envvar}"


def report(error: BaseException) -> None:
    """Tell of an error that ends the command."""
    is_expected = isinstance(error, PerceptionEncoderError | ValueError | OSError)
    message = _described(error) if is_expected else f"{type(error).__name__}: {error}"
    notes = [f" ({note})" for note in getattr(error, "__notes__", ())]
    say(*_OWN_BREAK.split(f"pe: {shortened(message)}{''.join(notes)}"))
    if is_verbose():
        say(*"".join(traceback.format_exception(error)).splitlines())
    elif not is_expected and not isinstance(error, MemoryError):
        say("pe: this was not foreseen; please report it with what `pe -v` says of it")


def set_up_logging(*, verbose: bool) -> None:
    """Log to stderr, without anything that steers a terminal; tracebacks only if verbose."""
    level = logging.INFO if verbose else logging.WARNING
    logging.basicConfig(level=level)
    for handler in logging.getLogger().handlers:
        handler.setFormatter(_Formatter("%(levelname)s: %(message)s"))


def is_verbose() -> bool:
    """Whether -v was given."""
    return logging.getLogger().isEnabledFor(logging.INFO)


class _Formatter(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable(super().formatMessage(record))

    def formatException(self, ei: object) -> str:
        return super().formatException(ei) if is_verbose() else ""  # type: ignore[arg-type]


def _described(error: BaseException) -> str:
    """Return an error in words; an empty one, such as some of Python's, by its kind."""
    if isinstance(error, OSError) and not isinstance(error, PerceptionEncoderError):
        names = [str(name) for name in (error.filename, error.filename2) if name is not None]
        if error.strerror:
            return ": ".join([" -> ".join(names), error.strerror] if names else [error.strerror])
    return str(error) or type(error).__name__
