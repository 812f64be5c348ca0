"""Runs `pe`, with a home of its own and without network: in this process, or in one of its own.

A process of its own costs two seconds. It is for signals, terminals, pipes, and for what an import
or an environment decides.
"""

import io
import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import chdir, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import httpx2
from child_processes import build_environment
from huggingface_hub import constants
from kept_prompts import keeping_prompts
from typer.main import get_command
from typer.testing import CliRunner, Result

from perception_encoder.auto import AutoModel
from perception_encoder.cli.main import app, main
from perception_encoder.embedder import EmbeddingModel

# In one process a model is opened once for all commands, and the options of all commands are
# described once.
_opened = lru_cache(4)(AutoModel.from_pretrained)
_described = lru_cache(None)(get_command)

PE = (sys.executable, "-m", "perception_encoder.cli")


def pe(
    *arguments: str, folder: Path, given: str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run `pe` in a folder, in this process."""
    with (
        chdir(folder),
        patch.dict(os.environ, build_environment(folder, **environment), clear=True),
        patch.object(constants, "HF_HUB_OFFLINE", True),
    ):
        ended = pe_inside(*arguments, given=given.encode())
    return subprocess.CompletedProcess(arguments, ended.code, ended.out.decode(), ended.err)


def pe_process(
    *arguments: str, folder: Path, given: str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run `pe` in a folder as a process, and wait for its end."""
    return subprocess.run(
        [*PE, *arguments],
        cwd=folder,
        input=given,
        text=True,
        capture_output=True,
        check=False,
        env=build_environment(folder, **environment),
    )


def pe_ending(
    *arguments: str, folder: Path, returns: int = 0, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run `pe` and make sure of its exit code."""
    done = pe(*arguments, folder=folder, **environment)
    assert done.returncode == returns, done.stderr
    return done


class Ended(NamedTuple):
    """How a command ended that ran in this process."""

    code: int
    out: bytes
    err: str

    def records(self) -> list[dict[str, object]]:
        """Return its JSON lines, read strictly: without NaN, in valid UTF-8."""
        return [_strictly(line) for line in self.out.decode().splitlines()]


def pe_inside(*arguments: str, given: bytes = b"", encoding: str = "utf-8") -> Ended:
    """Run `pe` in this process, which saves the time of a start.

    Args:
        arguments: as on the command line.
        given: on standard input.
        encoding: of standard output, as PYTHONIOENCODING sets it.
    """
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict")
    err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace")
    streams = {"stdin": io.TextIOWrapper(io.BytesIO(given)), "stdout": out, "stderr": err}
    handler, code = signal.getsignal(signal.SIGTERM), 0
    with (
        patch.multiple(sys, argv=["pe", *arguments], **streams),  # type: ignore[call-overload]
        patch.object(logging.getLogger(), "handlers", []),
        patch("gc.freeze", _do_nothing),
        _keeping(),
    ):
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        finally:
            signal.signal(signal.SIGTERM, handler)
            out.flush()
            err.flush()
    written = [stream.buffer.getvalue() for stream in (out, err)]  # type: ignore[attr-defined]
    return Ended(code, written[0], written[1].decode())


def invoke(*arguments: str, given: str | bytes | None = None) -> Result:
    """Run `pe` by typer's own runner, without what `main` adds to it."""
    with _keeping():
        return CliRunner().invoke(app, arguments, input=given)


@contextmanager
def _keeping() -> Iterator[None]:
    """Keep models, embeddings of prompts and descriptions of options from command to command."""
    with (
        patch("perception_encoder.auto.AutoModel.from_pretrained", _opened),
        keeping_prompts(),
        patch("typer.main.get_command", _described),
        patch("typer.testing._get_command", _described),
        patch.object(EmbeddingModel, "close", _do_nothing),
    ):
        yield


def _do_nothing(*_: object) -> None:
    """Stand in for a function; a mock takes milliseconds to make."""


def _strictly(line: str) -> dict[str, object]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    record: dict[str, object] = json.loads(line, parse_constant=refuse)
    json.dumps(record, ensure_ascii=False).encode()  # fails at lone surrogates
    return record


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
        env=build_environment(folder, **environment),
    )


@contextmanager
def serving(
    *arguments: str, folder: Path, **environment: str
) -> Iterator[tuple[httpx2.Client, subprocess.Popen[str]]]:
    """Start a server, wait until it is ready, and end it if it has not ended."""
    process = started("serve", "--port", "0", *arguments, folder=folder, **environment)
    assert process.stderr is not None
    try:
        found, read = None, ""
        while found is None and (line := process.stderr.readline()):  # notices may come first
            read += line
            found = re.search(r"listening on (http://\S+)", line)
        assert found is not None, read
        # Its log has to be read, or the server would wait for that.
        reading = threading.Thread(target=process.stderr.read)
        reading.start()
        with httpx2.Client(base_url=found[1], timeout=100) as client:
            while client.get("/readiness").status_code != 200:
                time.sleep(0.05)
            yield client, process
        process.terminate()
        reading.join(100)
    finally:
        process.kill()
        process.wait(200)
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def output(finished: subprocess.CompletedProcess[str]) -> str:
    """Return what a process wrote that ended well."""
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def lines(finished: subprocess.CompletedProcess[str]) -> list[dict[str, object]]:
    """Return the JSON lines of a process that ended well."""
    return [json.loads(line) for line in output(finished).splitlines()]
