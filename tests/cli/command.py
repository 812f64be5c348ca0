"""Runs `pe` as people do: a process of its own, with a home of its own and without network."""

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx2

PE = (sys.executable, "-m", "perception_encoder.cli")


def pe(
    *arguments: str, folder: Path, given: str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run `pe` in a folder and wait for its end."""
    return subprocess.run(
        [*PE, *arguments],
        cwd=folder,
        input=given,
        text=True,
        capture_output=True,
        check=False,
        env=surroundings(folder, **environment),
    )


def pe_ending(
    *arguments: str, folder: Path, returns: int = 0, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run `pe` and make sure of its exit code."""
    done = pe(*arguments, folder=folder, **environment)
    assert done.returncode == returns, done.stderr
    return done


def started(
    *arguments: str,
    folder: Path,
    stdin: int | None = None,
    command: Sequence[str] = PE,
    **environment: str,
) -> subprocess.Popen[str]:
    """Start `pe` in a folder, or another command; `stdin` as for `Popen`."""
    return subprocess.Popen(
        [*command, *arguments],
        cwd=folder,
        text=True,
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=surroundings(folder, **environment),
    )


@contextmanager
def serving(
    *arguments: str, folder: Path, **environment: str
) -> Iterator[tuple[httpx2.Client, subprocess.Popen[str]]]:
    """Start a server, wait until it is ready, and end it if it has not ended."""
    process = started("serve", "--port", "0", *arguments, folder=folder, **environment)
    assert process.stderr is not None
    try:
        line = process.stderr.readline()
        found = re.search(r"listening on (http://\S+)", line)
        assert found is not None, line + process.stderr.read()
        # Its log has to be read, or the server would wait for that.
        reading = threading.Thread(target=process.stderr.read)
        reading.start()
        with httpx2.Client(base_url=found[1], timeout=60) as client:
            while client.get("/readiness").status_code != 200:
                time.sleep(0.05)
            yield client, process
        process.terminate()
        reading.join(60)
    finally:
        process.kill()
        process.wait(60)
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def surroundings(home: Path, **environment: str) -> dict[str, str]:
    """Return the environment of a process."""
    return {
        "PATH": os.environ["PATH"],
        "OMP_WAIT_POLICY": os.environ["OMP_WAIT_POLICY"],  # see conftest.py
        "HOME": str(home),
        "HF_HUB_OFFLINE": "1",
        **environment,
    }


def output(finished: subprocess.CompletedProcess[str]) -> str:
    """Return what a process wrote that ended well."""
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def lines(finished: subprocess.CompletedProcess[str]) -> list[dict[str, object]]:
    """Return the JSON lines of a process that ended well."""
    return [json.loads(line) for line in output(finished).splitlines()]
