"""Translates SQL conditions as users write them into conditions that Lance understands.

    "Label" = 'a' AND width > 4.5  ->  (`Label` = 'a' AND `width` > CAST(4.5 AS DOUBLE))

Double quotes and backticks name a column, single quotes are text. Names match in any case and
Unicode form, unless two columns fit. Text matches its composed and its decomposed form. Numbers are
compared by value, whatever the type of the column. What Lance would misread is an error.
"""

from __future__ import annotations

import difflib
import math
import re
import unicodedata
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from perception_encoder.errors import QueryError
from perception_encoder.index.condition_tokens import (
    MAX_CONDITION_BYTES,
    MAX_CONDITION_DEPTH,
    MAX_CONDITION_OPERATORS,
    MAX_CONDITION_TERMS,
    MAX_CONDITION_VALUES,
    Kind,
    Token,
    check_size,
    check_value_count,
    condition_error,
    read_tokens,
    shorten,
)
from perception_encoder.index.rows import TIME_YEARS

if TYPE_CHECKING:
    import pyarrow as pa


_HIDDEN: Final = frozenset(("_rowid", "_rowaddr", "_rowoffset"))  # Lance's own numbers of rows
__all__ = [
    "MAX_CONDITION_BYTES",
    "MAX_CONDITION_DEPTH",
    "MAX_CONDITION_OPERATORS",
    "MAX_CONDITION_TERMS",
    "MAX_CONDITION_VALUES",
    "check_size",
    "check_value_count",
    "forms_of",
    "read_condition",
]

_INT32: Final = range(-(2**31), 2**31)
_INT64: Final = range(-(2**63), 2**63)
_MAX_DIGITS: Final = 400  # of a number; a float64 has at most 309 before the point

_KEYWORDS: Final = frozenset(
    (
        "AND", "OR", "NOT", "IN", "IS", "NULL", "LIKE", "ILIKE", "BETWEEN", "TRUE", "FALSE",
        "ESCAPE", "DISTINCT", "FROM", "AS",
    )
)  # fmt: skip
_TIMES: Final = frozenset(("TIMESTAMP", "DATETIME", "DATE"))
_WITHOUT_PARENTHESES: Final = frozenset(("CURRENT_TIMESTAMP", "CURRENT_DATE", "CURRENT_TIME"))
_COMPARISONS: Final = frozenset(("=", "==", "<>", "!=", "<", "<=", ">", ">=", "LIKE", "ILIKE"))
_NEGATIVE: Final = frozenset(("<>", "!="))
_MATCHES: Final = frozenset(("contains", "starts_with", "ends_with"))
_BEFORE_OPERAND: Final = frozenset(("", "(", ",", "AND", "OR", "NOT"))
_BEFORE_SIGNED: Final = _COMPARISONS | frozenset(
    ("", "(", ",", "[", "AND", "OR", "NOT", "IN", "BETWEEN", "+", "*", "/", "%", "||", "<<", ">>")
)


class Columns:
    """Finds columns by the names that users write."""

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        self._names: frozenset[str] = frozenset(schema.names)

    def find(self, name: str) -> str | None:
        """Return the column that a name means, or None.

        Raises:
            QueryError: several columns fit.
        """
        if name in _HIDDEN:
            return name
        if name in self._names:
            return name if "`" not in name else None
        for alike in (_composed, _folded):
            found = sorted(column for column in self._names if alike(column) == alike(name))
            if len(found) > 1:
                raise QueryError(
                    f"{shorten(name)} could be the column {' or '.join(map(repr, found))}; write "
                    "it in the capitals and the Unicode form of one of them"
                )
            if found:
                return found[0]
        return None

    def hint(self, name: str) -> str:
        """Return a hint for an unknown name."""
        names = self._schema.names
        close = difflib.get_close_matches(_folded(name)[:100], map(_folded, names), n=3)
        if close:
            meant = [column for column in names if _folded(column) in close]
            return f"; did you mean {' or '.join(map(repr, meant[:3]))}?"
        return f"; there are: {', '.join(names[:30])}{', …' if len(names) > 30 else ''}"

    def field(self, name: str) -> pa.Field | None:
        """Return the column with exactly this name."""
        if name not in self._names:
            return None
        field: pa.Field = self._schema.field(name)
        return field

    def has_parts(self, name: str) -> bool:
        """Whether the column holds structs."""
        from pyarrow import types

        return name in self._names and types.is_struct(self._schema.field(name).type)


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _folded(name: str) -> str:
    return _composed(name).casefold()


def read_condition(condition: str, schema: pa.Schema) -> str:
    """Translate a condition for Lance.

    Args:
        condition: as the user wrote it.
        schema: of the index.

    Raises:
        QueryError: the condition exceeds the limits, names an unknown column, or would be misread
            by Lance. Types are checked only for plain comparisons.
    """
    return _Reader(condition, schema).read()


def forms_of(text: str) -> list[str]:
    """Return a text, its composed and its decomposed Unicode form, without duplicates."""
    if text.isascii():
        return [text]
    forms = (text, *(unicodedata.normalize(form, text) for form in ("NFC", "NFD")))
    return list(dict.fromkeys(forms))


class _Reader:
    """Translates the tokens of one condition in order."""

    def __init__(self, condition: str, schema: pa.Schema) -> None:
        self._condition = condition
        self._tokens = read_tokens(condition)
        self._columns = Columns(schema)
        self._written: list[str] = []
        self._opened: list[int] = []  # positions of functions and parentheses in the result
        self._operand = 0  # position where the last operand begins

    def read(self) -> str:
        """Return the translated condition."""
        writers: dict[Kind, Callable[[int, Token], None]] = {
            "text": self._write_text,
            "name": self._write_column,
            "number": self._write_number,
            "word": self._write_word,
            "sign": self._write_sign,
        }
        for number, token in enumerate(self._tokens):
            writers[token.kind](number, token)
        return f"({' '.join(self._written)})"  # nothing can follow it

    def _keyword(self, number: int) -> str:
        """Return `Token.keyword` of the token at an index; "" beyond either end."""
        return self._tokens[number].keyword if 0 <= number < len(self._tokens) else ""

    def _wrong(self, token: Token, reason: str) -> QueryError:
        return condition_error(self._condition, token.position, reason)

    def _write_operand(self, text: str) -> None:
        self._operand = len(self._written)
        self._written.append(text)

    def _write_column(self, _: int, token: Token) -> None:
        name = self._columns.find(token.value)
        if name is None:
            hint = self._columns.hint(token.value)
            if self._condition[token.position] == '"':
                text = token.value[:40].replace("'", "''")
                hint += f" (double quotes name a column; a text is written '{text}')"
            raise self._wrong(token, f"there is no column {shorten(token.value)}{hint}")
        self._write_operand(f"`{name}`")

    def _write_word(self, number: int, token: Token) -> None:
        word, following = token.keyword, self._keyword(number + 1)
        before = self._keyword(number - 1)
        is_type = before in ("AS", "::") or word == "UNSIGNED"
        if word == "NULL":
            self._check_null(number, token)
        is_time = word in _TIMES and self._kind(number + 1) == "text"
        if is_type or is_time or word in _KEYWORDS:
            self._written.append(word)
        elif following == "(":
            self._written.append(token.value)
        elif word in _WITHOUT_PARENTHESES:
            self._write_operand(word)
        else:
            self._write_column(number, token)

    def _kind(self, number: int) -> Kind | None:
        return self._tokens[number].kind if number < len(self._tokens) else None

    def _check_null(self, number: int, token: Token) -> None:
        """Refuse comparisons with NULL, which are true for no row in SQL."""
        is_compared = _COMPARISONS & {self._keyword(number - 1), self._keyword(number + 1)}
        if is_compared or self._is_in_list():
            raise self._wrong(token, "nothing is equal to NULL; write IS NULL or IS NOT NULL")

    def _is_in_list(self) -> bool:
        """Whether the innermost parenthesis belongs to an IN."""
        return bool(self._opened) and self._written[self._opened[-1]] == "IN"

    def _write_number(self, number: int, token: Token) -> None:
        digits = token.value
        if len(digits) > _MAX_DIGITS:
            raise self._wrong(token, f"a number of {len(digits)} characters; too long to compare")
        is_negative = (
            self._keyword(number - 1) == "-" and self._before(number - 1) in _BEFORE_SIGNED
        )
        if is_negative:
            self._written.pop()
            digits = f"-{digits}"
        column = self._compared_column()
        if column is not None and not _is_number(column.type):
            raise self._wrong(token, f"{shorten(digits)} is a number, {_described(column)}")
        if digits.lstrip("-").isdigit():
            self._write_operand(self._integer(token, int(digits)))
            return
        value = float(digits)
        if not math.isfinite(value):
            raise self._wrong(token, f"{shorten(digits)} is beyond what a float64 can hold")
        self._write_operand(f"CAST({value!r} AS DOUBLE)")

    def _before(self, number: int) -> str:
        """As `_keyword` of the token before; "operand" where that is none."""
        if number == 0:
            return ""
        return self._keyword(number - 1) or "operand"

    def _integer(self, token: Token, value: int) -> str:
        if value not in _INT64:
            raise self._wrong(
                token,
                f"{shorten(str(value))} does not fit 64 bits; write it with a decimal point to "
                "compare it as a float64",
            )
        return str(value) if value in _INT32 else f"CAST('{value}' AS BIGINT)"

    def _write_sign(self, number: int, token: Token) -> None:
        sign = token.value
        if sign in "([":
            before = self._tokens[number - 1] if number else token
            is_function = before.kind == "word" and before.keyword not in _KEYWORDS - {"IN"}
            self._opened.append(len(self._written) - is_function)
        if sign == ".":
            self._check_part(token)
        self._written.append(sign)
        if sign in ")]":
            start = self._opened.pop()
            self._operand = start
            if self._written[start] == "IN":
                self._operand = len(self._written)  # a list is no operand

    def _check_part(self, token: Token) -> None:
        """Allow parts of a column that has some, as `place.city`."""
        before = self._written[-1].strip("`") if self._written else ""
        if not self._columns.has_parts(before):
            raise self._wrong(
                token, "a dot belongs between digits; a name with a dot goes in double quotes"
            )

    def _write_text(self, number: int, token: Token) -> None:
        from pyarrow import types

        before = self._keyword(number - 1)
        if before == ")":
            raise self._wrong(token, "an operator is missing before this text")
        column = self._compared_column()
        is_time = column is not None and types.is_timestamp(column.type)
        if before in _TIMES or self._becomes_time(number):
            self._check_time(token)
        elif is_time:
            self._check_time(token)
            self._write_operand(f"TIMESTAMP {_quoted(token.value)}")
            return
        elif column is not None and not _is_text(column.type):
            raise self._wrong(token, f"{shorten(token.value)} is text, {_described(column)}")
        forms = [_quoted(form) for form in forms_of(token.value)]
        if len(forms) > 1 and self._is_in_list() and before in ("(", ","):
            self._written.append(", ".join(forms))
        elif len(forms) > 1 and self._is_compared(number):
            self._write_any(self._operand, forms, "")
        elif len(forms) > 1 and before == "," and self._ends_a_match(number):
            self._write_any(self._opened[-1], forms, ")")
        else:
            self._write_operand(forms[0])

    def _becomes_time(self, number: int) -> bool:
        """Whether the token at an index is converted, by CAST or `::`."""
        is_cast = self._keyword(number + 1) in ("AS", "::")
        return is_cast and self._keyword(number + 2) in _TIMES

    def _compared_column(self) -> pa.Field | None:
        """Return the column that the next value is compared with, if the comparison is plain."""
        place = self._opened[-1] if self._is_in_list() else len(self._written) - 1
        if place > 2 and self._written[place - 2 : place + 1 : 2] == ["BETWEEN", "AND"]:
            place -= 2  # the upper bound
        if place < 1 or self._written[place] not in _COMPARISONS | {"IN", "BETWEEN"}:
            return None
        place -= 2 if self._written[place - 1] == "NOT" else 1
        name = self._written[place] if place >= 0 else ""
        if place > 0 and self._written[place - 1] not in _BEFORE_OPERAND:
            return None  # part of an expression
        return self._columns.field(name.strip("`")) if name.startswith("`") else None

    def _is_compared(self, number: int) -> bool:
        """Whether the text is compared with a single operand."""
        operator = self._keyword(number - 1)
        if operator not in ("=", "==", "<>", "!=", "LIKE", "ILIKE"):
            return False
        left = self._written[self._operand - 1] if self._operand else ""
        return left in _BEFORE_OPERAND and self._keyword(number + 1) in ("", ")", ",", "AND", "OR")

    def _ends_a_match(self, number: int) -> bool:
        """Whether the text is the last argument of a matching function."""
        if not self._opened or self._keyword(number + 1) != ")":
            return False
        return self._written[self._opened[-1]].lower() in _MATCHES

    def _write_any(self, start: int, forms: list[str], end: str) -> None:
        """Repeat the result since `start` for each form of a text, joined so that one suffices."""
        beginning = self._written[start:]
        is_negative = not end and (beginning[-1] in _NEGATIVE or "NOT" in beginning[-2:-1])
        joined = (" AND " if is_negative else " OR ").join(
            " ".join([*beginning, form]) + end for form in forms
        )
        if end:  # the next token writes it again
            joined = joined.removesuffix(end)
            del self._written[start:]
            self._written += ["(", joined, ")"]
            self._opened[-1] = start
            return
        del self._written[start:]
        self._write_operand(f"({joined})")

    def _check_time(self, token: Token) -> None:
        year = re.match(r"\s*([+-]?\d+)-", token.value)
        if year is None or len(year[1]) > 6 or int(year[1]) not in TIME_YEARS:
            raise self._wrong(
                token,
                f"{shorten(token.value)} is not a time from {TIME_YEARS.start} to "
                f"{TIME_YEARS.stop - 1}; "
                "write one such as '2024-05-31' or '2024-05-31T12:00:00'",
            )


def _is_text(kind: pa.DataType) -> bool:
    from pyarrow import types

    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_nested(kind))


def _is_number(kind: pa.DataType) -> bool:
    from pyarrow import types

    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_nested(kind))


def _described(column: pa.Field) -> str:
    """Describe the type of a column and how to write its values."""
    from pyarrow import types

    kind = column.type
    if _is_text(kind):
        described = "text; write it in single quotes"
    elif types.is_boolean(kind):
        described = "TRUE and FALSE; write one of these"
    elif types.is_timestamp(kind):
        described = "times; write one such as '2024-05-31T12:00:00'"
    else:
        described = "numbers; write one without quotes" if _is_number(kind) else str(kind)
    return f"but {column.name!r} holds {described}"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
