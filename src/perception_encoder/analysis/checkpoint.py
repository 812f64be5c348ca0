"""How long work is ended from outside: it calls a function now and then, which may raise."""

from collections.abc import Callable
from typing import TypeAlias

Checkpoint: TypeAlias = Callable[[], None]
"""Is called between blocks of work; what it raises ends the work."""


def go_on() -> None:
    """Let the work go on: the checkpoint of whoever has none."""
