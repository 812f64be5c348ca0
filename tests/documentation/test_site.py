"""The site has every page, and its reference lists every option."""

import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from documentation.blocks import REPOSITORY
from documentation.command_tree import options_of

from scripts.reference import PAGES, SHELF, cli_page, settings_page


def pages_in(navigation: Any) -> Iterator[str]:
    """Yield the pages of a table of contents."""
    if isinstance(navigation, str):
        yield navigation
    else:
        inner = navigation.values() if isinstance(navigation, dict) else navigation
        for one in inner:
            yield from pages_in(one)


def test_every_page_has_its_place_in_the_contents():
    """Where one is missing or not there, the program that builds the site says nothing."""
    text = (REPOSITORY / "zensical.toml").read_text(encoding="utf-8")
    listed = sorted(pages_in(tomllib.loads(text)["project"]["nav"]))
    docs = REPOSITORY / "docs"
    written = {path.relative_to(docs).as_posix() for path in docs.rglob("*.md")}
    made = {(SHELF / name).relative_to(docs).as_posix() for name in PAGES}
    assert listed == sorted(written | made)


def test_the_page_of_commands_has_every_command_and_option():
    page = cli_page()
    for command, spellings in options_of():
        section = page.partition(f"## {command}\n")[2].partition("\n## ")[0]
        if command in ("pe", "pe indexes"):
            continue
        for spelling in spellings - {"--help"}:
            assert spelling in section, (command, spelling)


def test_the_page_of_settings_has_every_variable_with_its_meaning():
    page = settings_page()
    for variable in ("PE_MODEL", "PE_INDEX", "PE_DEVICE", "PE_PORT", "PE_KEYS"):
        row = next(line for line in page.splitlines() if line.startswith(f"| `{variable}` |"))
        assert len(row.split("|")[2].strip()) > 5
    (port,) = [line for line in page.splitlines() if line.startswith("| `PE_PORT` |")]
    assert port.endswith("| `9001` | [serve](cli.md#pe-serve), [mcp](cli.md#pe-mcp) |")


def test_the_site_is_whole_and_fetches_nothing_from_elsewhere(tmp_path):
    shutil.copytree(REPOSITORY / "docs", tmp_path / "docs")
    shutil.copy(REPOSITORY / "zensical.toml", tmp_path)
    (tmp_path / "src").symlink_to(REPOSITORY / "src")
    for name, page in PAGES.items():
        (tmp_path / "docs" / "reference" / name).write_text(page(), encoding="utf-8")
    program = Path(sys.executable).with_name("zensical")
    done = subprocess.run(
        [program, "build", "--strict"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    site = tmp_path / "build" / "site"
    models = (site / "reference" / "api" / "models.html").read_text(encoding="utf-8")
    assert 'id="perception_encoder.EmbeddingModel.embed_images"' in models
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert re.findall(r'(?:src|srcset)="(?:https?:)?//[^"]*"', text) == [], page
        assert re.findall(r'<link[^>]*href="(?:https?:)?//[^"]*"', text) == [], page
