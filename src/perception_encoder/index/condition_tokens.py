"""Splits a condition into tokens, within limits.

Lance's parser recurses without a bound (a thousand `+` crash the process), ignores what follows a
complete condition (`n = 1_000` becomes `n = 1`), and aborts at placeholders. So every condition is
checked here first.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, Literal, NamedTuple, TypeAlias, cast

from perception_encoder.errors import QueryError

MAX_CONDITION_BYTES: Final = 1 << 20
"""Bytes of a condition in UTF-8. Ten thousand values of a hundred bytes fit."""

MAX_CONDITION_VALUES: Final = 10_000
"""Values in all lists of a condition. Planning takes 0.15 s; for a million, 15 s and 1.2 GB."""

MAX_CONDITION_TERMS: Final = 1_000
"""Terms joined by AND and OR. Planning takes 0.1 s."""

MAX_CONDITION_DEPTH: Final = 20
"""Depth of parentheses and NOTs. Lance's parser fails at 50, and may take minutes at 40."""

MAX_CONDITION_OPERATORS: Final = 50
"""Operators in one term. Each is a level of recursion; a thousand overflow the stack."""

_SHOWN: Final = 60  # characters of a condition in messages

_TOKEN: Final = re.compile(
    r"""
      (?P<space> \s+ | --[^\n]* | /\*.*?\*/ )
    | (?P<text> '[^']*(?:''[^']*)*' )
    | (?P<name> "[^"]*(?:""[^"]*)*" | `[^`]*(?:``[^`]*)*` )
    | (?P<number> (?:\d+\.?\d*|\.\d+) (?:[eE][+-]?\d+)? )
    | (?P<word> (?:[A-Za-z_]|[^\x00-\x7f]) (?:\w|[^\x00-\x7f])* )
    | (?P<sign> <=>|<>|!=|==|<=|>=|\|\||::|<<|>>|[-=<>+*/%(),.\[\]] )
    """,
    re.VERBOSE | re.DOTALL | re.ASCII,
)
_CLOSING: Final = {")": "(", "]": "["}
_OPERATOR_WORDS: Final = frozenset(("NOT", "IN", "IS", "LIKE", "ILIKE", "BETWEEN"))


Kind: TypeAlias = Literal["text", "name", "number", "word", "sign"]
"""The kind of a token; a name is quoted, a word is not."""


class Token(NamedTuple):
    """One token: texts and names without quotes, words and signs as written."""

    kind: Kind
    value: str
    position: int

    @property
    def keyword(self) -> str:
        """A word in upper case or a sign; "" for other kinds."""
        return self.value.upper() if self.kind in ("word", "sign") else ""


def read_tokens(condition: str) -> list[Token]:
    """Split a condition into its tokens.

    Raises:
        QueryError: it exceeds the limits, or is not made of tokens.
    """
    check_size(condition)
    limits, tokens = _Limits(condition), []
    for token in _tokens(condition):
        limits.add(token)
        tokens.append(token)
    if not tokens:
        raise QueryError("the condition is empty; write one such as width > 800, or leave it out")
    limits.end()
    return tokens


def check_size(condition: str) -> None:
    """Check that a condition is valid Unicode of at most `MAX_CONDITION_BYTES`.

    Raises:
        QueryError: it is not.
    """
    try:
        num_bytes = len(condition.encode())
    except UnicodeEncodeError as err:
        raise QueryError(
            f"the condition {shorten(condition)} is not valid Unicode at character "
            f"{err.start + 1}; write that character anew"
        ) from err
    if num_bytes > MAX_CONDITION_BYTES:
        raise QueryError(
            f"the condition has {num_bytes} bytes, more than the {MAX_CONDITION_BYTES} that are "
            "allowed; ask for fewer values at a time"
        )


def check_value_count(num_values: int) -> None:
    """Check the number of values in the lists of a condition.

    Raises:
        QueryError: there are more than `MAX_CONDITION_VALUES`.
    """
    if num_values > MAX_CONDITION_VALUES:
        raise QueryError(
            f"the condition has {num_values} values, more than the {MAX_CONDITION_VALUES} that are "
            "allowed; ask for fewer at a time"
        )


def shorten(text: str) -> str:
    """Return a text for messages: quoted, printable, and without its middle if it is long."""
    if len(text) > _SHOWN:
        text = f"{text[: _SHOWN // 2]}…{text[-_SHOWN // 2 :]}"
    return ascii(text) if any("\ud800" <= letter <= "\udfff" for letter in text) else repr(text)


def condition_error(condition: str, position: int, reason: str) -> QueryError:
    """Return the error for a position in a condition."""
    return QueryError(
        f"the condition {shorten(condition)} is wrong at character {position + 1}: {reason}"
    )


def _tokens(condition: str) -> Iterator[Token]:
    position = 0
    while position < len(condition):
        if condition[position].isspace():  # also those beyond ASCII
            position += 1
            continue
        found = _TOKEN.match(condition, position)
        if found is None:
            raise condition_error(condition, position, _explained(condition[position]))
        if found.lastgroup != "space":
            yield _token(found, condition)
        position = found.end()


def _token(found: re.Match[str], condition: str) -> Token:
    kind = cast("Kind", found.lastgroup)
    value = found.group()
    if kind in ("text", "name"):
        quote = value[0]
        value = value[1:-1].replace(quote * 2, quote)
    following = condition[found.end() : found.end() + 1]
    if kind == "number" and (following.isalnum() or following in ("_", ".")) and following:
        raise condition_error(
            condition,
            found.start(),
            f"{value[:20] + following!r} is no number; a column whose name begins with a digit is "
            "written in double quotes",
        )
    return Token(kind, value, found.start())


def _explained(character: str) -> str:
    if character == "'":
        return "the single quote has no partner; a quote in a text is written twice: 'it''s'"
    if character in '"`':
        return f"the quote {character} has no partner"
    if character in "?$:@":
        return f"{character!r} stands for a value to be filled in; write the value itself"
    if character == ";":
        return "there may be one condition only, without ';'"
    return f"{character!r} means nothing here; column names with signs go in double quotes"


class _Limits:
    """Counts what is limited, and matches parentheses."""

    def __init__(self, condition: str) -> None:
        self._condition = condition
        self._opened: list[Token] = []
        self._num_values = 0
        self._num_terms = 1
        self._num_operators = 0  # of this term
        self._num_before = 0  # that come before their operand, in a row
        self._open_betweens = 0

    def add(self, token: Token) -> None:
        """Count a token."""
        word = token.keyword
        self._num_before = self._num_before + 1 if word in ("NOT", "-", "+") else 0
        if word in ("(", "["):
            self._opened.append(token)
        elif word in _CLOSING:
            if not self._opened or self._opened.pop().value != _CLOSING[word]:
                raise condition_error(self._condition, token.position, f"{word!r} closes nothing")
        elif word == ",":
            self._num_values += 1
        elif word == "AND" and self._open_betweens:
            self._open_betweens -= 1
        elif word in ("AND", "OR"):
            self._num_terms += 1
            self._num_operators = 0
        elif word in _OPERATOR_WORDS or token.kind == "sign":
            self._num_operators += 1
            self._open_betweens += word == "BETWEEN"
        self._check()

    def end(self) -> None:
        """Check that every parenthesis is closed."""
        if self._opened:
            last = self._opened[-1]
            raise condition_error(self._condition, last.position, f"{last.value!r} is not closed")

    def _check(self) -> None:
        check_value_count(self._num_values)
        depth = max(len(self._opened), self._num_before)
        for number, limit, what in (
            (depth, MAX_CONDITION_DEPTH, "parentheses and NOTs inside each other"),
            (self._num_operators, MAX_CONDITION_OPERATORS, "operators in one term"),
            (self._num_terms, MAX_CONDITION_TERMS, "terms"),
        ):
            if number > limit:
                raise QueryError(
                    f"the condition has more than the {limit} {what} that are allowed; make it "
                    "simpler, with IN (…) for instance"
                )
