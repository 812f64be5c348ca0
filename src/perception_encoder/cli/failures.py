"""What a person is told when a command fails: one line, never a traceback unless with -v."""

import logging
import re
import traceback
from typing import Final

from perception_encoder.cli.command import shortened
from perception_encoder.cli.output import printable, say
from perception_encoder.errors import PerceptionEncoderError

# Our own messages list things on indented lines; any other line break is part of a name.
_OWN_BREAK: Final = re.compile(r"\n(?=  )")


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
