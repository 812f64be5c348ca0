"""Which names of a tree are wanted: suffixes, hidden ones, excludes and globs. Touches no files.

A path here is relative to the top of the search, with `/` between its parts.
"""

import itertools
import posixpath
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Final

from perception_encoder.errors import SourceError
from perception_encoder.preprocess.files import IMAGE_SUFFIXES

MAGIC: Final = re.compile(r"[*?\[]")
"""What makes a name a glob."""

SYSTEM_FOLDERS: Final = frozenset(
    (
        "@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", ".@__thumb",
        "~snapshot", ".snapshot", "$recycle.bin", "system volume information", "lost+found",
        "__macosx", ".appledouble", ".trashes", ".thumbnails",
    )
)  # fmt: skip
"""Where NAS and operating systems keep thumbnails, deleted files and snapshots beside images, in
small letters. They are left out unless hidden names are asked for."""

_NOTHING: Final = re.compile(r"(?!)")
# Of 18 digits at most: longer numbers count no files, and Python refuses to read the longest.
_RANGE: Final = re.compile(r"(-?\d{1,18})\.\.(-?\d{1,18})(?:\.\.(-?\d{1,18}))?")
_LIMIT: Final = 1_000_000
_NUM_SHOWN: Final = 100  # characters of a pattern that is refused
_MAX_BRACES: Final = 100  # of one pattern: each is a level of recursion


def is_image(name: str) -> bool:
    """Say whether a name ends like an image's."""
    return suffix_of(name) in IMAGE_SUFFIXES


def suffix_of(name: str) -> str:
    """Return how a name ends, in small letters: `.jpg` of `a.JPG`."""
    return posixpath.splitext(name)[1].lower()


class Excludes:
    """Patterns of what to leave out, as in .gitignore (see `SourceOptions.exclude`)."""

    def __init__(self, patterns: Iterable[str]) -> None:
        anywhere, folders_only = list[str](), list[str]()
        for pattern in patterns:
            body = pattern.rstrip("/")
            if not body:
                continue
            regex = translate_glob(body.removeprefix("/"))
            if "/" not in body:
                regex = f"(?:.*/)?{regex}"
            (folders_only if pattern.endswith("/") else anywhere).append(regex)
        self._files = _any_of(anywhere)
        self._folders = _any_of(anywhere + folders_only)

    def has_file(self, path: str) -> bool:
        """Say whether a file is left out, its folders not considered."""
        return self._files.fullmatch(path) is not None

    def has_folder(self, path: str) -> bool:
        """Say whether a folder is left out, those above it not considered."""
        return self._folders.fullmatch(path) is not None


@dataclass(frozen=True)
class Selection:
    """Which folders of a tree to enter and which files to list.

    Attributes:
        excludes: what to leave out.
        include_hidden: also enter and list names that begin with a dot, and `SYSTEM_FOLDERS`.
        glob: paths must match this pattern, in which `**` stands for any number of folders.
        enters_system: enter `SYSTEM_FOLDERS` in any case.
    """

    excludes: Excludes = field(default_factory=lambda: Excludes(()))
    include_hidden: bool = False
    glob: str | None = None
    enters_system: bool = False

    def enters(self, path: str) -> bool:
        """Say whether to look into a folder, those above it not considered."""
        if self._is_hidden(path) or self.is_system(path) or self.excludes.has_folder(path):
            return False
        return self.glob is None or self._may_hold_matches(path)

    def lists(self, path: str) -> bool:
        """Say whether to list a file, its folders not considered."""
        if self._is_hidden(path) or self.excludes.has_file(path):
            return False
        if self.glob is None:
            return is_image(path)
        # Somebody who writes *.dat wants just those; of photos/* only what ends like an image.
        is_wanted = is_image(path) or self._names_suffix
        return is_wanted and self._regex.fullmatch(path) is not None

    def covers(self, path: str) -> bool:
        """Say whether a search from the top would list this file."""
        parts = path.split("/")
        folders = ("/".join(parts[:count]) for count in range(1, len(parts)))
        return self.lists(path) and all(self.enters(folder) for folder in folders)

    def leaves_out(self, path: str) -> bool:
        """Say whether `excludes` or `SYSTEM_FOLDERS` are what keeps a search from this file.

        A hidden file is left out so only where a pattern says it: not for being hidden.
        """
        if self.covers(path):
            return False
        parts = path.split("/")
        folders = ("/".join(parts[:count]) for count in range(1, len(parts)))
        is_excluded = self.excludes.has_file(path) or any(map(self.excludes.has_folder, folders))
        without = replace(
            self,
            excludes=Excludes(()),
            enters_system=True,
            include_hidden=self.include_hidden or is_excluded,
        )
        return without.covers(path)

    def is_system(self, path: str) -> bool:
        """Say whether a folder is one of `SYSTEM_FOLDERS` that nobody has asked for or excluded."""
        name = posixpath.basename(path)
        if self.include_hidden or self.enters_system or name.lower() not in SYSTEM_FOLDERS:
            return False
        if self.excludes.has_folder(path):
            return False
        return self.glob is None or name not in self.glob.split("/")

    @cached_property
    def _regex(self) -> re.Pattern[str]:
        return re.compile(translate_glob(self.glob or ""), re.DOTALL)

    @cached_property
    def _names_suffix(self) -> bool:
        end = suffix_of(self.glob or "")
        return bool(end) and not MAGIC.search(end)

    @cached_property
    def _levels(self) -> Sequence[re.Pattern[str] | None]:
        """One regex for each part of the glob, up to the first `**`, which is None."""
        levels: list[re.Pattern[str] | None] = []
        for part in (self.glob or "").split("/"):
            levels.append(None if part == "**" else re.compile(translate_glob(part), re.DOTALL))
            if part == "**":
                break
        return levels

    def _may_hold_matches(self, path: str) -> bool:
        parts = path.split("/")
        for level, part in zip(self._levels, parts, strict=False):
            if level is None:
                return True
            if level.fullmatch(part) is None:
                return False
        return len(parts) < len(self._levels)

    def _is_hidden(self, path: str) -> bool:
        return not self.include_hidden and path[path.rfind("/") + 1 :].startswith(".")


def translate_glob(pattern: str) -> str:
    """Translate a glob into a regular expression for whole paths.

    `*` and `?` stop at slashes; `**` as a whole part stands for any number of parts.
    """
    parts = pattern.split("/")
    regex = ""
    for number, part in enumerate(parts):
        is_last = number == len(parts) - 1
        if part == "**":
            regex += r".+" if is_last else r"(?:[^/]+/)*"
        else:
            regex += _with_literal(part) + ("" if is_last else "/")
    return regex


def _with_literal(part: str) -> str:
    """Let a part with brackets also mean the name that has these brackets: `[2012-2015] trip`."""
    regex, literal = _part_regex(part), _part_regex(part, has_classes=False)
    return regex if regex == literal else f"(?:{regex}|{literal})"


def _part_regex(part: str, *, has_classes: bool = True) -> str:
    regex, position = "", 0
    while position < len(part):
        char = part[position]
        end = _class_end(part, position) if char == "[" and has_classes else -1
        chars = _class_regex(part[position + 1 : end]) if end > 0 else None
        if chars is not None:
            regex += chars
            position = end
        elif char == "*":
            regex += "[^/]*"
        elif char == "?":
            regex += "[^/]"
        else:
            regex += re.escape(char)
        position += 1
    return regex


def _class_end(part: str, start: int) -> int:
    """Return where brackets close: a `]` that comes first in them is a character of the class."""
    return part.find("]", start + 2 + (part[start + 1 : start + 2] in ("!", "^")))


def _class_regex(inside: str) -> str | None:
    """Translate what stands between brackets; None if that is no class, as in `[2019-12-25]`.

    Every character is escaped: what else means something inside a class of `re` is only itself.
    """
    is_negated = inside[0] in "!^"
    body = inside[1:] if is_negated else inside
    if not body:
        return None
    chars, position = "", 0
    while position < len(body):
        first, last = body[position], body[position + 2 : position + 3]
        if last and body[position + 1] == "-":
            if first > last:
                return None
            chars += f"{re.escape(first)}-{re.escape(last)}"
            position += 3
        else:
            chars += re.escape(first)
            position += 1
    return f"(?!/)[{'^' if is_negated else ''}{chars}]"


def describe_system_folders(name: str, left_out: Counter[str]) -> list[str]:
    """Say which of `SYSTEM_FOLDERS` a search has met, by their names; hidden ones go unsaid."""
    shown = {folder: n for folder, n in left_out.items() if not folder.startswith(".")}
    if not shown:
        return []
    folders = ", ".join(f"{folder} ({count:,})" for folder, count in sorted(shown.items()))
    return [
        f"{name}: left out folders that a NAS or system keeps: {folders}; name one to index it, or "
        "give --include-hidden for all"
    ]


def _any_of(regexes: Sequence[str]) -> re.Pattern[str]:
    return re.compile("|".join(regexes), re.DOTALL) if regexes else _NOTHING


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
