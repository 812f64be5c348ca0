"""Towers through `torch.compile`: what stands between matrix products becomes few kernels.

One compilation serves batches of every size, and texts of every length.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from perception_encoder.errors import BackendUnavailableError


class Compiled:
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
