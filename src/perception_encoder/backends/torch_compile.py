"""`torch.compile` for towers, and the locks that it and cuDNN attention need.

One compilation serves batches of every size and texts of every length.
"""

import copy
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from perception_encoder.errors import BackendUnavailableError
from perception_encoder.forking import renew_in_children
from perception_encoder.model import DualEncoder


class CompiledTowers:
    """A graph that is compiled when it first runs.

    Args:
        graph: takes one tensor, whose leading dimensions vary from call to call, but are
            never 0.
        num_varying: how many of them do.
    """

    def __init__(self, graph: nn.Module, num_varying: int) -> None:
        self._num_varying = num_varying
        self._program: Callable[[Tensor], Tensor] = torch.compile(graph)

    def __call__(self, batch: Tensor) -> Tensor:
        """Run a batch.

        Raises:
            BackendUnavailableError: it could not be compiled here.
        """
        if len(batch) == 1:
            # Compilers take 1 for a constant. Two rows should cost a GPU hardly more than one,
            # and another compilation takes as long as the first.
            return self(torch.cat([batch, batch]))[:1]
        for dimension in range(self._num_varying):
            torch._dynamo.maybe_mark_dynamic(batch, dimension)
        try:
            return self._program(batch)
        except torch._dynamo.exc.TorchDynamoException as err:
            reason = str(err).strip().partition("\n")[0]
            raise BackendUnavailableError(
                f"torch.compile failed: {reason}. It needs a C++ compiler, on a GPU also Triton; "
                "open the model without compile=True where they are missing"
            ) from err


class CompileLock:
    """A reader-writer lock: many shared holders, or one exclusive holder, who comes first."""

    def __init__(self) -> None:
        self.renew_after_fork()
        renew_in_children(self)

    def renew_after_fork(self) -> None:
        """Forget the holders of the parent process."""
        self._changed = threading.Condition()
        self._num_inside = 0
        self._is_claimed = False

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Acquire in shared mode."""
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
    def exclusive(self) -> Iterator[None]:
        """Acquire in exclusive mode, after all shared holders have released it."""
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


computing = CompileLock()


class _Switch:
    """Turns cuDNN attention off while calls run; torch's switch is process-wide."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._num_calls = 0
        self._before = True

    @contextmanager
    def off(self) -> Iterator[None]:
        with self._lock:
            if self._num_calls == 0:
                self._before = torch.backends.cuda.cudnn_sdp_enabled()  # type: ignore[no-untyped-call]
                torch.backends.cuda.enable_cudnn_sdp(False)
            self._num_calls += 1
        try:
            yield
        finally:
            with self._lock:
                self._num_calls -= 1
                if self._num_calls == 0:
                    torch.backends.cuda.enable_cudnn_sdp(self._before)


disable_cudnn_attention = _Switch().off


def copy_sharing_weights(model: DualEncoder) -> DualEncoder:
    """Return a model with modules of its own and the very parameters of the given one."""
    shared = {id(parameter): parameter for parameter in model.parameters()}
    changed: DualEncoder = copy.deepcopy(model, shared)
    return changed
