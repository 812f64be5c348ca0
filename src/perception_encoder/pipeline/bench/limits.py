"""Holds this process to what a small machine has. Linux only; knows nothing of models."""

import os
import sys
from dataclasses import dataclass

from perception_encoder.errors import BackendUnavailableError


@dataclass(frozen=True)
class Limits:
    """What a small machine has.

    Attributes:
        num_cores: that all threads of the process share.
        memory_bytes: of private memory: the heap, thread stacks and whatever else is written to,
            counted when it is asked for (RLIMIT_DATA). Mapped files are not in it: the kernel may
            drop their pages, and the address space that they take costs nothing. None is no limit.
    """

    num_cores: int
    memory_bytes: int | None


def impose(limits: Limits) -> None:
    """Hold this process, and threads and processes that it starts, to the limits from now on.

    Raises:
        BackendUnavailableError: this system does not have such limits.
    """
    if sys.platform != "linux":
        raise BackendUnavailableError(
            "cores and memory are limited on Linux only; leave --profile out to measure without"
        )
    import resource

    cores = sorted(os.sched_getaffinity(0))[: limits.num_cores]
    for thread in os.listdir("/proc/self/task"):  # those that numpy has started already, too
        os.sched_setaffinity(int(thread), cores)
    if limits.memory_bytes is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (limits.memory_bytes, limits.memory_bytes))
