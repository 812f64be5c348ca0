"""The backends that run a model, behind one Protocol. Each is imported when it is chosen."""

from perception_encoder.backends.base import Backend, ComputeOptions
from perception_encoder.backends.select import open_backend, open_random_backend

__all__ = ["Backend", "ComputeOptions", "open_backend", "open_random_backend"]
