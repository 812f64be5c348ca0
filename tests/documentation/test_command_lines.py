"""Every `pe …` on a page is an existing command with existing options."""

import re
import shlex
from collections.abc import Iterator

import pytest
from documentation.blocks import PAGES, REPOSITORY, blocks_of
from documentation.command_tree import ROOT, options_of

OPERATORS = re.compile(r"[|&;]+|\d?[<>]+")


def pe_commands_in(text: str) -> Iterator[tuple[int, list[str]]]:
    """Yield each `pe …` of shell lines with its line number, without redirections."""
    for number, line in enumerate(re.sub(r"\\\n", "  ", text).splitlines()):
        split = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
        split.whitespace_split = True
        commands: list[list[str]] = [[]]
        is_file = False
        for word in split:
            if OPERATORS.fullmatch(word):
                is_file = word[-1] in "<>"
                if not is_file:
                    commands.append([])
            elif is_file:
                is_file = False
            else:
                commands[-1].append(word)
        yield from ((number, command) for command in commands if command[:1] == ["pe"])


LINES = {
    f"{block.page}:{block.line + number}": words
    for page in PAGES
    for block in blocks_of(page)
    if block.language != "python"
    for number, words in pe_commands_in(block.text)
}


@pytest.mark.parametrize("words", LINES.values(), ids=LINES)
def test_a_command_line_of_a_block_can_be_parsed(words):
    """Parsed with the types and limits of the options; nothing runs."""
    command = ROOT
    context = command.make_context("pe", [], resilient_parsing=True)
    rest = [word for word in words[1:] if word != "-v"]
    while rest and hasattr(command, "commands"):
        name, command, rest = command.resolve_command(context, rest)
        is_group = hasattr(command, "commands")
        context = command.make_context(name, list(rest), parent=context, resilient_parsing=is_group)


@pytest.mark.parametrize("page", PAGES)
def test_commands_in_sentences_are_real(page):
    """`pe export MODEL DIR --format …` in text: the command and each option."""
    known = dict(options_of())
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    text = re.sub(r"^ *```.*?^ *```$", "", text, flags=re.DOTALL | re.MULTILINE)
    for code in re.findall(r"`pe ([a-z][^`]*)`", text):
        words = code.split()
        name = f"pe {words[0]}"
        if len(words) > 1 and f"{name} {words[1]}" in known:
            name += f" {words[1]}"
        assert name in known, code
        for word in words:
            option = re.match(r"--[a-z][a-z-]*", word)
            assert option is None or option[0] in known[name], code
