"""What is being done to a table now, as far as its folder tells. Cheap to ask again."""

from typing import Any, Final

from perception_encoder.index import OutcomeLog
from perception_encoder.index.lock import is_being_written
from perception_encoder.server.core.indexes import ServedIndex

_SHOWN_FAILURES: Final = 50


def status_of(served: ServedIndex) -> dict[str, Any]:
    """Return how many rows there are, whether somebody writes, and what became of items.

    Nothing is written, and no lock is taken that a writer would have to wait for.

    Raises:
        IndexNotFoundError: there is no table any more.
        IndexStorageError: the table cannot be read.
    """
    num_rows = served.fresh().count()  # first: it tells where there is no index any more
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
        "rows": num_rows,
        "is_being_written": is_being_written(served.path),
        "outcomes": dict(counts),
        "failures": failures,
    }
