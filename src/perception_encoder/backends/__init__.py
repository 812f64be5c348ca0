"""The backends that run a model, behind one Protocol. Each is imported when it is chosen."""

import sys

from perception_encoder.backends.base import Backend, ComputeOptions
from perception_encoder.backends.select import open_backend, open_random_backend

# OpenVINO and NNCF tell Google Analytics of their use, unasked, from a process that they fork, if
# they find this package. Nothing that runs here is told to anybody, so they do not find it.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

__all__ = ["Backend", "ComputeOptions", "open_backend", "open_random_backend"]
