"""Every Python and sh block of every page runs."""

import os
import re
import shlex
import shutil
import subprocess

import pytest
from cli.command import pe_ending
from documentation.blocks import PAGES, REPOSITORY, blocks_of

pytestmark = pytest.mark.usefixtures("exporting_once")

NOT_RUN = 0
"""The number of Python and sh blocks of all pages that are not run."""

RUN = ("python", "sh")
IN_SHELL = "README.md"
"""The page whose commands are run by a shell, as processes of their own; others may run here."""


def commands_in(text: str) -> list[list[str]] | None:
    """Return the arguments of each line, or None where one is not `pe` alone."""
    lines = text.splitlines()
    unquoted = re.sub(r"'[^']*'|\"[^\"]*\"|#.*", "", text)
    if re.search(r"[$`|&;<>(){}*?~\\]", unquoted) or not all(
        one.startswith("pe ") for one in lines
    ):
        return None
    return [shlex.split(line, comments=True)[1:] for line in lines]


@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(b.language in RUN for b in blocks_of(page))]
)
def test_the_blocks_of_a_page_run(page, reader, served):
    """In order. Python blocks of a page share a namespace. Lines of `pip` are skipped."""
    names = {"__name__": "__main__"}
    for block in blocks_of(page):
        if block.language not in RUN or block.not_run or block.run_by:
            continue
        if "curl " in block.text and shutil.which("curl") is None:
            continue
        text = served(block.text, reader.folder)
        if block.language == "python":
            # Empty lines before it, so that a traceback names the line of the page.
            exec(compile("\n" * (block.line - 1) + text, page, "exec"), names)
        else:
            kept = "".join(line for line in text.splitlines(True) if not line.startswith("pip "))
            if page != IN_SHELL and (commands := commands_in(kept)) is not None:
                for arguments in commands:
                    pe_ending(*arguments, folder=reader.folder)
                continue
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", kept], cwd=reader.folder, env=reader.environment,
                capture_output=True, text=True, timeout=200, check=False,
            )  # fmt: skip
            assert done.returncode == 0, f"{block}\n{kept}\n{done.stderr[-3000:]}"


def test_what_is_not_run_says_why_and_is_rare():
    reasons = [(str(b), b.not_run) for page in PAGES for b in blocks_of(page) if b.not_run]
    assert len(reasons) == NOT_RUN, reasons


def test_a_test_that_runs_a_block_itself_names_its_page():
    for page in PAGES:
        for block in blocks_of(page):
            if block.run_by:
                test = REPOSITORY / block.run_by
                assert os.path.basename(page) in test.read_text(encoding="utf-8"), block
