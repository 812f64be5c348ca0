"""How a command's docstring becomes its help, and its line in the list of commands."""

import inspect
from collections.abc import Callable
from typing import TypeVar

_Command = TypeVar("_Command", bound=Callable[..., None])
_AS_IT_IS = "\b\n"  # click leaves a paragraph that begins so without filling its lines


def examples_kept(command: _Command) -> _Command:
    """Keep the lines of the docstring's examples apart in the help."""
    text = inspect.getdoc(command) or ""
    command.__doc__ = text.replace("\n\nExample", f"\n\n{_AS_IT_IS}Example")
    return command


def summary(command: Callable[..., None]) -> str:
    """The docstring's first paragraph, whole: click cuts it at the terminal's width."""
    return (inspect.getdoc(command) or "").partition("\n\n")[0].replace("\n", " ")
