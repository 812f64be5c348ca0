"""Keeps models of this process from computing while one is compiled.

torch's compiler replaces `nn.Module.__call__` for the whole process while it traces a model, and
whoever calls another model at that moment is traced along, and fails.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from perception_encoder.forking import renew_in_children


class Gate:
    """Many may pass at once, or one alone; who wants to be alone is let in before newcomers."""

    def __init__(self) -> None:
        self.renew_after_fork()
        renew_in_children(self)

    def renew_after_fork(self) -> None:
        """Nobody is inside, and nobody waits."""
        self._changed = threading.Condition()
        self._num_inside = 0
        self._is_claimed = False

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Pass beside others."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_claimed)
            self._num_inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._num_inside -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Pass once everybody else has left."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_claimed)
            self._is_claimed = True
            self._changed.wait_for(lambda: not self._num_inside)
        try:
            yield
        finally:
            with self._changed:
                self._is_claimed = False
                self._changed.notify_all()


computing = Gate()
