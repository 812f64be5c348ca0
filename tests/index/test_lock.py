"""One writer at a time, told of by name, and nobody locked out by the dead."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from perception_encoder.errors import IndexBusyError
from perception_encoder.index.storage import write_lock

_HOLD = """
import sys
from perception_encoder.index.storage import write_lock
with write_lock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def held_elsewhere(index: Path) -> subprocess.Popen[bytes]:
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(index)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    return holder


def test_a_second_writer_is_refused_with_the_first_ones_number(tmp_path: Path) -> None:
    with held_elsewhere(tmp_path / "t") as holder:
        with (
            pytest.raises(IndexBusyError, match=f"process {holder.pid} .*--wait"),
            write_lock(str(tmp_path / "t")),
        ):
            pass
        holder.communicate()
    with write_lock(str(tmp_path / "t")):
        pass


def test_a_writer_that_was_killed_locks_nobody_out(tmp_path: Path) -> None:
    with held_elsewhere(tmp_path / "t") as holder:
        holder.kill()
    with write_lock(str(tmp_path / "t")):
        pass


def test_who_waits_gets_the_lock_when_it_is_free(tmp_path: Path) -> None:
    with held_elsewhere(tmp_path / "t") as holder:
        threading.Timer(0.5, holder.communicate).start()
        with write_lock(str(tmp_path / "t"), wait=True):
            assert holder.wait(200) == 0


def test_an_error_inside_frees_the_lock_and_stays_itself(tmp_path: Path) -> None:
    with pytest.raises(KeyError), write_lock(str(tmp_path / "t")):
        raise KeyError
    with write_lock(str(tmp_path / "t")):
        pass
