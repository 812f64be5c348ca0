"""`DEFAULT_DEVICE`: the environment's variable of that name, else CUDA where it is, else CPU.

Found out when it is first asked for, because that needs torch.
"""

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    DEFAULT_DEVICE: torch.device


def __getattr__(name: str) -> Any:
    if name != "DEFAULT_DEVICE":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import torch

    cuda_or_cpu = "cuda" if torch.cuda.is_available() else "cpu"
    globals()[name] = torch.device(os.environ.get(name) or cuda_or_cpu)
    return globals()[name]
