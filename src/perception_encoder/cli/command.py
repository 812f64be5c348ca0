"""How `pe` parses arguments, shows help and reports errors: what typer's own classes do not do."""

from __future__ import annotations

import inspect
import logging
import math
import re
import traceback
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import typer
from typer.core import TyperCommand, TyperGroup

from perception_encoder.cli.output import escape, say
from perception_encoder.errors import PerceptionEncoderError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_Function = TypeVar("_Function", bound="Callable[..., None]")

_MAX_COUNT: Final = 2**31 - 1  # numpy and Lance take lengths up to this
_MAX_REAL: Final = 1e9  # of seconds, days and the like: larger ones break arithmetic of time
_MAX_MESSAGE: Final = 2_000  # characters
_BARE_VALUES: Final = {
    "--unique": "--unique=0.95",
    "--fold-bursts": "--fold-bursts=2",
    "--preview": "--preview=auto",
}
_SEVERAL_VALUES: Final = ("--like", "--unlike")
# The base class of typer.BadParameter, which typer does not export.
_UsageError: Final = cast("type[typer.BadParameter]", typer.BadParameter.__mro__[1])
# Our messages list things on indented lines; any other line break is part of a name.
_LINE_BREAK: Final = re.compile(r"\n(?=  )")
_KEEP_LINES: Final = "\b\n"  # typer does not rewrap a paragraph of the help that begins so


class Command(TyperCommand):
    """A command whose numbers are finite, and whose help lists options under their headings."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments; refuse NaN, infinity and huge numbers, which typer accepts."""
        rest: list[str] = super().parse_args(ctx, args)
        for param in self.params:
            value = ctx.params.get(param.name)
            for one in value if isinstance(value, list | tuple) else (value,):
                if problem := _find_error(one):
                    raise typer.BadParameter(problem, ctx=ctx, param=param)
        return rest

    def invoke(self, ctx: Any) -> Any:
        """Run the command; an error caused by an environment variable names the variable."""
        try:
            return super().invoke(ctx)
        except Exception as err:
            for note in _iter_origins(ctx, str(err)):
                err.add_note(note)
            raise

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments and options, each under the heading that it names."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            if (record := param.get_help_record(ctx)) is not None:
                default = "Arguments" if param.param_type_name == "argument" else "Options"
                heading = getattr(param, "rich_help_panel", None) or default
                sections.setdefault(heading, []).append(record)
        for heading, records in sections.items():
            with formatter.section(heading):
                formatter.write_dl(records)


class BareOptions(Command):
    """A command with options that work without a value, or with one after `=`: `_BARE_VALUES`.

    The next argument is never taken as their value, since it may be a query. The options of
    `_SEVERAL_VALUES` take all arguments up to the next option.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Fill in the default values, then parse."""
        end = args.index("--") if "--" in args else len(args)
        words = [_BARE_VALUES.get(word, word) for word in args[:end]]
        args = [*_repeat_options(words), *args[end:]]
        rest: list[str] = super().parse_args(ctx, args)
        return rest


def _repeat_options(words: list[str]) -> Iterator[str]:
    """Yield words with an option before each of its values: `--like a b` is `--like a --like b`."""
    option, is_first = "", True
    for word in words:
        if word.startswith("-") and word != "-":
            option, is_first = word if word in _SEVERAL_VALUES else "", True
        elif option:
            if not is_first:
                yield option
            is_first = False
        yield word


class CommandGroup(TyperGroup):
    """A group of commands whose help lists them under headings.

    Messages about wrong usage have no control characters.
    """

    def make_context(self, *args: Any, **extra: Any) -> Any:
        """Parse the arguments."""
        with _escaped_usage_errors():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: Any) -> Any:
        """Run the command that the arguments name."""
        with _escaped_usage_errors():
            return super().invoke(ctx)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write each command with its summary, all of it, under its heading."""
        sections: dict[str, list[tuple[str, str]]] = {}
        width = max(map(len, self.commands))
        for name in self.list_commands(ctx):
            command = self.commands[name]
            summary = (command.help or "").partition("\n\n")[0].replace("\n", " ")
            heading = getattr(command, "rich_help_panel", None) or "Commands"
            sections.setdefault(heading, []).append((name.ljust(width), summary))
        for heading, records in sections.items():
            with formatter.section(heading):
                formatter.write_dl(records)


def keep_examples(command: _Function) -> _Function:
    """Keep the line breaks of the docstring's examples in the help."""
    text = inspect.getdoc(command) or ""
    command.__doc__ = text.replace("\n\nExample", f"\n\n{_KEEP_LINES}Example")
    return command


def report_error(error: BaseException) -> None:
    """Report an error that ends the command."""
    is_expected = isinstance(error, PerceptionEncoderError | ValueError | OSError)
    message = _describe(error) if is_expected else f"{type(error).__name__}: {error}"
    notes = [f" ({note})" for note in getattr(error, "__notes__", ())]
    say(*_LINE_BREAK.split(f"pe: {shorten(message)}{''.join(notes)}"))
    if is_verbose():
        say(*"".join(traceback.format_exception(error)).splitlines())
    elif not is_expected and not isinstance(error, MemoryError):
        say("pe: this is a bug; please report it with the output of `pe -v`")


def shorten(message: str) -> str:
    """Cut the middle out of a message that is too long to read."""
    if len(message) <= _MAX_MESSAGE:
        return message
    half = _MAX_MESSAGE // 2
    return f"{message[:half]} … {message[-half:]}"


def set_up_logging(*, verbose: bool) -> None:
    """Log to stderr without control characters; with tracebacks only if verbose."""
    level = logging.INFO if verbose else logging.WARNING
    logging.basicConfig(level=level)
    for handler in logging.getLogger().handlers:
        handler.setFormatter(_Formatter("%(levelname)s: %(message)s"))


def is_verbose() -> bool:
    """Return whether -v was given."""
    return logging.getLogger().isEnabledFor(logging.INFO)


class _Formatter(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:
        return escape(super().formatMessage(record))

    def formatException(self, ei: object) -> str:
        return super().formatException(ei) if is_verbose() else ""  # type: ignore[arg-type]


@contextmanager
def _escaped_usage_errors() -> Iterator[None]:
    try:
        yield
    except _UsageError as err:
        notes = [f" ({note})" for note in getattr(err, "__notes__", ())]
        err.message = shorten(escape(err.message)) + "".join(notes)
        err.__notes__ = []
        raise


def _find_error(value: object) -> str:
    if isinstance(value, bool):
        return ""
    if isinstance(value, float):
        if math.isfinite(value) and abs(value) <= _MAX_REAL:
            return ""
        return f"{value} is not a number up to {_MAX_REAL:,.0f}"
    if isinstance(value, int) and abs(value) > _MAX_COUNT:
        return f"the number is too large; at most {_MAX_COUNT:,}"
    return ""


def _iter_origins(ctx: Any, message: str) -> Iterator[str]:
    """Name the environment variable of each value that the message mentions."""
    for param in ctx.command.params:
        source = ctx.get_parameter_source(param.name)
        if source is None or source.name != "ENVIRONMENT":
            continue
        value = ctx.params.get(param.name)
        values = value if isinstance(value, list | tuple) else (value,)
        if any(str(one) in message for one in values):
            yield f"from the environment: {param.envvar}"


def _describe(error: BaseException) -> str:
    """Return an error's message; its type where it has none."""
    if isinstance(error, OSError) and not isinstance(error, PerceptionEncoderError):
        names = [str(name) for name in (error.filename, error.filename2) if name is not None]
        if error.strerror:
            return ": ".join([" -> ".join(names), error.strerror] if names else [error.strerror])
    return str(error) or type(error).__name__
