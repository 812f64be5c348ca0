"""A file or folder that appears under its name when it is whole, or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from perception_encoder.errors import ExchangeError, PerceptionEncoderError


@contextmanager
def whole(path: str, *, is_folder: bool) -> Iterator[str]:
    """Give a name to write to, and rename it when the block is done.

    Until then, and for good if the process is killed, it is a hidden `.NAME.part-PID` beside it.

    Raises:
        ExchangeError: something is there already, or writing fails.
    """
    path = os.path.abspath(path)
    parent, name = os.path.split(path)
    if os.path.lexists(path):
        raise ExchangeError(f"{path} exists already; choose another name, or remove it")
    if not os.path.isdir(parent):
        raise ExchangeError(f"{parent}: no such folder; make it first")
    partial = os.path.join(parent, f".{name}.part-{os.getpid()}")
    try:
        _remove(partial)
        if is_folder:
            os.mkdir(partial)
        yield partial
        os.rename(partial, path)
    except PerceptionEncoderError:
        raise
    except OSError as err:
        raise ExchangeError(f"{path} cannot be written: {err}; check space and rights") from err
    finally:
        _remove(partial)


def _remove(path: str) -> None:
    if os.path.isdir(path):
        shutil.rmtree(path, ignore_errors=True)
    elif os.path.lexists(path):
        os.unlink(path)
