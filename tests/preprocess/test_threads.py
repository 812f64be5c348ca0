"""How many threads prepare images."""

import subprocess
import sys

import pytest


@pytest.mark.skipif(sys.platform != "linux", reason="processes are not bound to cores elsewhere")
def test_only_cores_that_may_be_used_count():
    code = (
        "import os\n"
        "from perception_encoder.preprocess import num_usable_cores\n"
        "before = num_usable_cores()\n"
        "assert before == len(os.sched_getaffinity(0))\n"
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "print(num_usable_cores())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1", done.stderr
