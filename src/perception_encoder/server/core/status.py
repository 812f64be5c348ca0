"""What is being done to a table now, as far as its folder tells. Cheap to ask again."""

from typing import Any, Final

from perception_encoder.errors import IndexBusyError, IndexError_
from perception_encoder.index import OutcomeLog, writing
from perception_encoder.index.storage import is_remote
from perception_encoder.server.core.indexes import ServedIndex

_SHOWN_FAILURES: Final = 50


def status_of(served: ServedIndex) -> dict[str, Any]:
    """Return how many rows there are, whether somebody writes, and what became of items.

    Raises:
        IndexStorageError: the table cannot be read.
    """
    log = OutcomeLog(served.path)
    counts = log.counts()
    failures = []
    if counts["failed"]:
        for outcome in log.latest(["failed"]):
            failures.append(
                {
                    "uri": outcome.uri,
                    "member": outcome.member,
                    "reason": outcome.reason,
                    "message": outcome.message,
                }
            )
            if len(failures) >= _SHOWN_FAILURES:
                break
    return {
        "index": served.name,
        "rows": served.fresh().count(),
        "is_being_written": _is_being_written(served.path),
        "outcomes": dict(counts),
        "failures": failures,
    }


def _is_being_written(path: str) -> bool | None:
    """Say whether a process holds the table's write lock; None where there is no lock."""
    if is_remote(path):
        return None
    try:
        with writing(path):
            return False
    except IndexBusyError:
        return True
    except IndexError_:  # a folder that cannot be written
        return None
