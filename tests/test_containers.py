"""docker/ in step with the package, without a backend: names, paths, commands, health."""

import http.server
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from documentation.command_tree import ROOT as PE
from local_http import serve_requests

ROOT = Path(__file__).resolve().parent.parent
DOCKERFILES = sorted((ROOT / "docker").glob("Dockerfile*"))
COMPOSE = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text(encoding="utf-8"))


def instructions(path: Path) -> list[tuple[str, str]]:
    """Return the instructions of a Dockerfile, each with all its lines as one."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line[:1] != "#"]
    text = "\n".join(lines).replace("\\\n", " ")
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in text.splitlines())]


def values(path: Path, name: str) -> list[str]:
    return [rest for instruction, rest in instructions(path) if instruction == name]


def variables_of(group: Any) -> Iterator[str]:
    for parameter in group.params:
        yield parameter.envvar
    for command in getattr(group, "commands", {}).values():
        yield from variables_of(command)


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_an_image_is_made_of_what_there_is(path: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = re.findall(r'EXTRAS=([\w,]+)|"\.\[([\w,]+)\]"', path.read_text(encoding="utf-8"))
    assert named
    for extras in ((first or second).split(",") for first, second in named):
        assert "server" in extras
        assert set(extras) <= set(project["optional-dependencies"])
    written = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    sent = {line.removeprefix("!") for line in written if line.startswith("!")}
    for copied in values(path, "COPY"):
        *sources, _ = copied.split()
        for source in sources:
            assert (ROOT / source).exists(), source
            assert Path(source).parts[0] in sent, source


def test_every_variable_is_one_that_pe_reads() -> None:
    known = set(variables_of(PE))
    for path in (*DOCKERFILES, ROOT / "docker" / "compose.yaml"):
        for name in re.findall(r"\bPE_\w+", path.read_text(encoding="utf-8")):
            assert name in known, f"{path.name}: {name}"


def test_services_run_commands_that_there_are_on_volumes_of_the_image() -> None:
    image = dict(instructions(DOCKERFILES[0]))
    for name, service in COMPOSE["services"].items():
        word, *arguments = service["command"]
        PE.commands[word].make_context(word, arguments)  # fails at an unknown option
        named = [volume for volume in service["volumes"] if isinstance(volume, str)]
        kept = dict(volume.split(":") for volume in named)
        assert set(kept) == set(COMPOSE["volumes"])
        assert sorted(kept.values()) == sorted(json.loads(image["VOLUME"])), name
    [published] = COMPOSE["services"]["server"]["ports"]
    assert published.startswith("127.0.0.1:")
    assert published.rpartition(":")[2] == image["EXPOSE"]
    # The server searches the index that the other service fills, `pe index`'s own.
    folder = re.search(r"XDG_DATA_HOME=(\S+)", image["ENV"])
    assert folder is not None
    index = COMPOSE["services"]["server"]["command"][-1]
    assert index == f"{folder[1]}/perception-encoder/index.lance"


@pytest.mark.parametrize(("status", "is_well"), [(200, True), (503, False)])
def test_the_check_of_health_sees_what_the_server_says(status: int, is_well: bool) -> None:
    [written] = values(DOCKERFILES[0], "HEALTHCHECK")
    _, *arguments = json.loads(written.partition(" CMD ")[2])
    asked = []

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with serve_requests(Answer) as server:
        environment = {"PE_PORT": str(server.server_address[1])}
        done = subprocess.run(
            [sys.executable, *arguments], env=environment, capture_output=True, check=False
        )
    assert asked == ["/healthz"], done.stderr
    assert (done.returncode == 0) == is_well
