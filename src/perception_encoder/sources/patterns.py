"""Which names of a folder tree are listed: suffixes, hidden names, excludes, globs and braces.

A path here is relative to the top of the tree, with `/` between its parts.
"""

import posixpath
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Final

from perception_encoder.errors import SourceError
from perception_encoder.preprocess.files import IMAGE_SUFFIXES
from perception_encoder.video.names import INSTALL, is_video

MAGIC: Final = re.compile(r"[*?\[]")
"""What makes a name a glob."""

SYSTEM_FOLDERS: Final = frozenset(
    (
        "@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", ".@__thumb",
        "~snapshot", ".snapshot", "$recycle.bin", "system volume information", "lost+found",
        "__macosx", ".appledouble", ".trashes", ".thumbnails",
    )
)  # fmt: skip
"""Lower-case names of folders where a NAS or an operating system keeps thumbnails, deleted files
and snapshots. They are skipped unless hidden names are included."""

_ANY_FOLDERS: Final = "**"
_MAX_NAMES: Final = 1_000_000
_MAX_BRACES: Final = 100  # of one pattern; each is a level of recursion
_NUM_SHOWN: Final = 100  # characters of a pattern in an error


def is_image(name: str) -> bool:
    """Whether a name has the suffix of an image file."""
    return suffix_of(name) in IMAGE_SUFFIXES


def suffix_of(name: str) -> str:
    """Return the suffix in lower case: `.jpg` of `a.JPG`."""
    return posixpath.splitext(name)[1].lower()


def matches_glob(path: Sequence[str], glob: Sequence[str]) -> bool:
    """Whether a path matches a glob; both are given as their parts.

    The part `**` matches any number of folders, or everything below a folder if it is the last. A
    part with brackets also matches the name that has these brackets: `[2012-2015] trip`.
    """
    if not glob:
        return not path
    first, rest = glob[0], glob[1:]
    if first != _ANY_FOLDERS:
        return bool(path) and _matches_name(path[0], first) and matches_glob(path[1:], rest)
    if not rest:
        return bool(path)
    if rest[0] == _ANY_FOLDERS:
        return matches_glob(path, rest)
    return any(matches_glob(path[start:], rest) for start in range(len(path)))


def _matches_name(name: str, glob: str) -> bool:
    if "[" not in glob:
        return fnmatchcase(name, glob)
    as_class = glob.replace("[^", "[!")
    return fnmatchcase(name, as_class) or fnmatchcase(name, glob.replace("[", "[[]"))


class Excludes:
    """Patterns of files and folders to skip, as in .gitignore (see `SourceOptions.exclude`)."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self._files: list[Sequence[str]] = []
        self._folders: list[Sequence[str]] = []
        for pattern in patterns:
            body = pattern.rstrip("/")
            if not body:
                continue
            glob = body.removeprefix("/").split("/")
            if "/" not in body:
                glob.insert(0, _ANY_FOLDERS)
            self._folders.append(glob)
            if not pattern.endswith("/"):
                self._files.append(glob)

    def has_file(self, path: str) -> bool:
        """Whether a file is excluded by itself; its folders are not considered."""
        return _matches_any(path, self._files)

    def has_folder(self, path: str) -> bool:
        """Whether a folder is excluded by itself; its parents are not considered."""
        return _matches_any(path, self._folders)


def _matches_any(path: str, globs: Iterable[Sequence[str]]) -> bool:
    parts = path.split("/")
    return any(matches_glob(parts, glob) for glob in globs)


@dataclass(frozen=True)
class Selection:
    """Which folders of a tree to enter and which files to list.

    Attributes:
        excludes: what to skip.
        include_hidden: include names that begin with a dot, and `SYSTEM_FOLDERS`.
        glob: the pattern that paths must match, see `matches_glob`.
        enters_system: enter `SYSTEM_FOLDERS` in any case.
        videos: also list video files.
    """

    excludes: Excludes = field(default_factory=lambda: Excludes(()))
    include_hidden: bool = False
    glob: str | None = None
    enters_system: bool = False
    videos: bool = False

    def enters(self, path: str) -> bool:
        """Whether to enter a folder; its parents are not considered."""
        if self._is_hidden(path) or self.is_system(path) or self.excludes.has_folder(path):
            return False
        return self.glob is None or self._may_hold_matches(path)

    def lists(self, path: str) -> bool:
        """Whether to list a file; its folders are not considered."""
        if self._is_hidden(path) or self.excludes.has_file(path):
            return False
        has_suffix = is_image(path) or (self.videos and is_video(path))
        if self.glob is None:
            return has_suffix
        # `*.dat` means these files; `photos/*` means only those with the suffix of an image.
        is_wanted = has_suffix or self._names_suffix
        return is_wanted and matches_glob(path.split("/"), self._parts)

    def covers(self, path: str) -> bool:
        """Whether a search from the top lists this file."""
        return self.lists(path) and all(map(self.enters, _parents(path)))

    def leaves_out(self, path: str) -> bool:
        """Whether this file is skipped only because of `excludes` or `SYSTEM_FOLDERS`.

        A hidden file counts where a pattern names it, not for being hidden.
        """
        if self.covers(path):
            return False
        is_excluded = self.excludes.has_file(path) or any(
            map(self.excludes.has_folder, _parents(path))
        )
        without = replace(
            self,
            excludes=Excludes(()),
            enters_system=True,
            include_hidden=self.include_hidden or is_excluded,
        )
        return without.covers(path)

    def is_system(self, path: str) -> bool:
        """Whether a folder is one of `SYSTEM_FOLDERS`, neither asked for nor excluded."""
        name = posixpath.basename(path)
        if self.include_hidden or self.enters_system or name.lower() not in SYSTEM_FOLDERS:
            return False
        return not self.excludes.has_folder(path) and name not in self._parts

    @cached_property
    def _parts(self) -> Sequence[str]:
        return [] if self.glob is None else self.glob.split("/")

    @cached_property
    def _names_suffix(self) -> bool:
        suffix = suffix_of(self.glob or "")
        return bool(suffix) and not MAGIC.search(suffix)

    def _may_hold_matches(self, path: str) -> bool:
        parts = path.split("/")
        for glob, part in zip(self._parts, parts, strict=False):
            if glob == _ANY_FOLDERS:
                return True
            if not _matches_name(part, glob):
                return False
        return len(parts) < len(self._parts)

    def _is_hidden(self, path: str) -> bool:
        return not self.include_hidden and path[path.rfind("/") + 1 :].startswith(".")


def _parents(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]


def describe_system_folders(name: str, left_out: Counter[str]) -> list[str]:
    """Return a note on the `SYSTEM_FOLDERS` that were skipped; hidden ones are not mentioned."""
    shown = {folder: n for folder, n in left_out.items() if not folder.startswith(".")}
    if not shown:
        return []
    folders = ", ".join(f"{folder} ({count:,})" for folder, count in sorted(shown.items()))
    return [
        f"{name}: left out folders that a NAS or system keeps: {folders}; name one to index it, or "
        "give --include-hidden for all"
    ]


class LeftOutVideos:
    """Counts the video files of a folder that are not listed though they are wanted.

    Args:
        selection: of the folder's files.
        is_wanted: whether videos are.
        is_remote: whether the folder is on a network.
    """

    def __init__(self, selection: Selection, *, is_wanted: bool, is_remote: bool = False) -> None:
        self._selection = replace(selection, videos=True)
        self._is_counting = is_wanted and not selection.videos
        self._is_remote = is_remote
        self.count = 0

    def see(self, path: str) -> None:
        """Count a file that was not listed."""
        self.count += self._is_counting and is_video(path) and self._selection.lists(path)

    def notes(self, name: str) -> list[str]:
        """Return a note on the videos of the folder with this name."""
        if not self.count:
            return []
        videos = "1 video" if self.count == 1 else f"{self.count:,} videos"
        if self._is_remote:
            return [f"{name}: left out {videos}: they are read from this machine only"]
        return [f"{name}: left out {videos}; to index them: {INSTALL}"]


def expand_braces(pattern: str) -> list[str]:
    """Return the names that a pattern with braces stands for, as bash does: `{a,b}`, `{00..12}`.

    Raises:
        SourceError: more than a million names, or too many braces.
    """
    if "{" not in pattern:
        return [pattern]
    if pattern.count("{") > _MAX_BRACES:
        raise SourceError(
            f"{pattern[:_NUM_SHOWN]}…: more than {_MAX_BRACES} braces; name a part of them"
        )
    import bracex

    try:
        return bracex.expand(pattern, keep_escapes=True, limit=_MAX_NAMES) or [pattern]
    except bracex.ExpansionLimitException as err:
        raise SourceError(
            f"{pattern}: the braces stand for more than {_MAX_NAMES:,} names; name a part of them"
        ) from err
