"""What failed in earlier runs as a source of its own, so that just those are tried again."""

import os
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Final

from perception_encoder.index import Outcome
from perception_encoder.index.rows import clamp_time
from perception_encoder.pipeline.sources import Item, read_picture
from perception_encoder.pipeline.sources.item import broken
from perception_encoder.pipeline.sources.names import is_table, is_tar, scheme

_TRIED_ANEW: Final = "; to try an archive or table again, name it as a source"


class FailedItems:
    """The items of failed outcomes, found again by their names alone."""

    name = "what failed before"

    def __init__(self, failures: Iterable[Outcome]) -> None:
        self._failures = list(failures)

    def items(self) -> Iterator[Item]:
        """List them in the order in which they failed."""
        for failure in self._failures:
            if failure.member is None and (is_tar(failure.uri) or is_table(failure.uri)):
                yield broken(failure.uri, _named_anew(failure.message))
                continue
            is_remote = bool(scheme(failure.uri))
            yield Item(
                failure.uri,
                partial(read_picture, failure.uri, failure.member, failure.offset, failure.bytes),
                member=failure.member,
                offset=failure.offset,
                bytes=None if failure.member is None else failure.bytes,
                mtime=None if is_remote else _mtime_now(failure.uri),
                metadata=failure.metadata,
                is_remote=is_remote,
            )

    def covers(self, uri: str, member: str | None) -> bool:  # noqa: ARG002  as every source
        """Say no: that something failed does not tell what should exist."""
        return False


def _named_anew(message: str) -> str:
    """Say of an archive or table what failed, and how it is tried again: not as one image."""
    return f"{message.removesuffix(_TRIED_ANEW)}{_TRIED_ANEW}"


def _mtime_now(path: str) -> int | None:
    try:
        return clamp_time(os.stat(path).st_mtime_ns)
    except OSError:  # reading says why
        return None
