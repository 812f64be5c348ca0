"""Braces in names, as shells expand them: `{00000..00010}` and `{train,test}`, also nested."""

import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Final

from perception_encoder.errors import SourceError

# Of 18 digits at most: longer numbers count no files, and Python refuses to read the longest.
_RANGE: Final = re.compile(r"(-?\d{1,18})\.\.(-?\d{1,18})(?:\.\.(-?\d{1,18}))?")
_LIMIT: Final = 1_000_000
_NUM_SHOWN: Final = 100  # characters of a pattern that is refused
_MAX_BRACES: Final = 100  # of one pattern: each is a level of recursion


def expand_braces(pattern: str) -> list[str]:
    """Return the names that a pattern stands for, in its order.

    A range counts up or down, by its third number where it has one (`{0..10..5}`), and pads with
    zeros where one of its ends does. Braces that hold neither a range nor a comma stay as they
    are, and so do those without a partner.

    Raises:
        SourceError: the pattern stands for more than a million names, or has too many braces.
    """
    if pattern.count("{") > _MAX_BRACES:
        raise SourceError(
            f"{pattern[:_NUM_SHOWN]}…: more than {_MAX_BRACES} braces; name a part of them"
        )
    names = list(itertools.islice(_expanded(pattern), _LIMIT + 1))
    if len(names) > _LIMIT:
        raise SourceError(
            f"{pattern}: the braces stand for more than {_LIMIT:,} names; name a part of them"
        )
    return names


def _expanded(pattern: str) -> Iterator[str]:
    for found in re.finditer("{", pattern):
        start = found.start()
        end = _partner(pattern, start)
        if end is None:
            continue
        choices = _choices(pattern[start + 1 : end])
        if choices is None:
            continue
        head, rest = pattern[:start], pattern[end + 1 :]
        for choice in choices:
            for tail in _expanded(rest):
                yield f"{head}{choice}{tail}"
        return
    yield pattern


def _partner(pattern: str, start: int) -> int | None:
    """Return where the brace at start is closed."""
    depth = 0
    for position in range(start, len(pattern)):
        depth += {"{": 1, "}": -1}.get(pattern[position], 0)
        if depth == 0:
            return position
    return None


def _choices(inside: str) -> Iterator[str] | None:
    """Return what stands between two braces, or None if that is no list and no range."""
    found = _RANGE.fullmatch(inside)
    if found is not None:
        return _counted(found)
    parts = _split(inside)
    if len(parts) < 2:
        return None
    return itertools.chain.from_iterable(_expanded(part) for part in parts)


def _split(inside: str) -> Sequence[str]:
    """Split at the commas that are in no inner braces."""
    parts, depth = [""], 0
    for char in inside:
        depth += {"{": 1, "}": -1}.get(char, 0)
        if char == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += char
    return parts


def _counted(found: re.Match[str]) -> Iterator[str]:
    first, last = int(found[1]), int(found[2])
    is_padded = any(re.match(r"-?0\d", end) for end in found.group(1, 2))
    width = max(len(found[1]), len(found[2])) if is_padded else 0
    step = abs(int(found[3] or 1)) or 1
    numbers = range(first, last + 1, step) if first <= last else range(first, last - 1, -step)
    return (f"{number:0{width}d}" if width else str(number) for number in numbers)
