"""Writes docs/reference/cli.md and settings.md from the command line's own options.

`make docs` runs it for every build. The two pages are not kept in git.
"""

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer.main

from perception_encoder.cli.main import app

SHELF = Path(__file__).resolve().parent.parent / "docs" / "reference"

CLI_HEAD = """# The command line

All commands with their options, as `pe COMMAND --help` prints them. Results go to stdout; progress
and logs go to stderr. The exit code is 0 for success, 1 after an error or a failed item, 2 for
wrong usage, 130 after Ctrl-C.

Options before the command: `-v` logs more to stderr, `--version` prints the version,
`--install-completion` completes commands, options and model ids in your shell.
"""

SETTINGS_HEAD = """# Settings

There is no settings file. Options of the model, the index and the server are environment variables
too; an option on the command line wins. Several values in one variable are separated by spaces. A
switch is on with `1` and off with `0`.

"""

OTHER_SETTINGS = """
## Other variables

| variable | effect |
|---|---|
| `XDG_DATA_HOME` | folder of the default index (Linux) |
| `XDG_CACHE_HOME` | folder of thumbnails (Linux) |
| `HF_HOME`, `HF_HUB_CACHE` | folder of downloaded weights |
| `HF_ASSETS_CACHE` | folder of exported graphs |
| `HF_HUB_OFFLINE` | `1`: never download |
| `HF_ENDPOINT` | a mirror of the hub |
| `HTTP_PROXY`, `HTTPS_PROXY`, `NO_PROXY` | proxies for images on the web |
| `AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, … | the account for `s3://` |
"""


@dataclass(frozen=True, slots=True)
class Command:
    """One command: its words, such as ("pe", "indexes", "info"), and its parser."""

    words: tuple[str, ...]
    parser: Any
    context: Any

    @property
    def name(self) -> str:
        """The words, as typed."""
        return " ".join(self.words)

    def parameters(self) -> list[Any]:
        """Return the visible arguments and options, in the order of the help."""
        shown = self.parser.get_params(self.context)
        return [one for one in shown if one.name != "help" and not getattr(one, "hidden", False)]


def commands() -> Iterator[Command]:
    """Yield every command, also those of groups."""
    root = typer.main.get_command(app)
    yield from _below(root, ("pe",), root.make_context("pe", [], resilient_parsing=True))


def _below(group: Any, words: tuple[str, ...], context: Any) -> Iterator[Command]:
    for name, parser in group.commands.items():
        inner = parser.make_context(name, [], parent=context, resilient_parsing=True)
        if hasattr(parser, "commands"):
            yield from _below(parser, (*words, name), inner)
        else:
            yield Command((*words, name), parser, inner)


def cli_page() -> str:
    """Return the page of all commands, as Markdown."""
    return "\n".join([CLI_HEAD, *map(_command_section, commands())])


def _command_section(command: Command) -> str:
    text, _, examples = command.parser.help.partition("\n\n\b\n")
    usage = command.parser.get_usage(command.context).removeprefix("Usage: ")
    lines = [f"## {command.name}", "", text, "", f"Usage: `{usage}`", ""]
    if examples:
        lines += ["```", *(line.strip() for line in examples.splitlines()[1:]), "```", ""]
    lines += ["| | |", "|---|---|"]
    for one in command.parameters():
        spelling, meaning = one.get_help_record(command.context)
        lines.append(f"| {_code(spelling)} | {_cell(meaning)} |")
    return "\n".join([*lines, ""])


def settings_page() -> str:
    """Return the page of environment variables, as Markdown."""
    found: dict[str, list[tuple[Command, Any]]] = {}
    for command in commands():
        for one in command.parser.get_params(command.context):
            if one.envvar:
                found.setdefault(one.envvar, []).append((command, one))
    lines = ["| variable | meaning | default | option of |", "|---|---|---|---|"]
    for variable, uses in sorted(found.items()):
        links = [f"[{' '.join(c.words[1:])}](cli.md#{'-'.join(c.words)})" for c, _ in uses]
        option = uses[0][1]
        cells = [f"`{variable}`", _cell(option.help), _default(option.default), ", ".join(links)]
        lines.append(f"| {' | '.join(cells)} |")
    return SETTINGS_HEAD + "\n".join(lines) + "\n" + OTHER_SETTINGS


def _default(value: object) -> str:
    if value is None:
        return ""
    return _code(str(int(value) if isinstance(value, bool) else value))


def _code(text: str) -> str:
    return "`" + text.replace("|", "\\|") + "`"


def _cell(text: str) -> str:
    """Return text as one line for a table cell, without markup."""
    return re.sub(r"([|*_\[])", r"\\\1", html.escape(" ".join(text.split()), quote=False))


PAGES = {"cli.md": cli_page, "settings.md": settings_page}


def main() -> None:
    """Write both pages."""
    for name, page in PAGES.items():
        (SHELF / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
